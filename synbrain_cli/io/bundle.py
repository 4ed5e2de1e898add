"""Model bundles: ``weights/<name>/``, everything a model needs, and nothing that is unpickled.

``config.json``           `BundleConfig`: subject, dataset, encoder, networks, unit, voxel order,
                          training record, and a checksum of every other file but the card
``networks.safetensors``  BrainVAE (with its voxel order) and mapper; absent from linear models
``linear.safetensors``    linear encoder; absent from published weights
``readout.safetensors``   stack, signal, noise: what turns predictions into draws; likewise
``transfer.safetensors``  what an adapted model takes from other subjects; ``sources/``, their
                          bundles, where its strategy predicts with them
``arrays.safetensors``    token scaler, SD of the posterior, standardisation, mean pattern
``mask.nii.gz`` or ``vertices.npz``, ``voxels.tsv``, ``surface_resampling.npz``,
``mni_resampling.npz``    as in the prepared subject
``settings.json``         the settings of the command that made it (`synbrain_cli.io.workfolder`)
``card.md``               what it was trained on, and its scores
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from synbrain_cli.config import CoreConfig, EncoderIdentity, MapperConfig, VAEConfig
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.files import atomic, read_json, sha256
from synbrain_cli.io.records import convert_record, write_record
from synbrain_cli.io.workfolder import restore_interrupted
from synbrain_cli.labels import (
    dataset_name,
    model_name,
    require_subject_label,
    require_subject_of_dataset,
)

FORMAT = 4
CONFIG, CARD = "config.json", "card.md"
# What draws depend on: the weights, in this order.
WEIGHTS = ("arrays", "linear", "networks", "readout", "transfer")
COPY_AGAIN = "copy the model's folder again, or train it again"
Predictor = Literal["linear", "deep", "transfer"]


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the records in ``config.json``: a missing or unknown field is an error."""


class SplitSizes(Record, frozen=True):
    """Trials or images of the training and the validation split."""

    train: int = 0
    val: int = 0

    @property
    def total(self) -> int:
        """Both together."""
        return self.train + self.val


class Epoch(Record, frozen=True):
    """One epoch of a network's training."""

    epoch: int
    loss: float
    validation_score: float


class StageHistory(Record, frozen=True):
    """The training of one network."""

    best_epoch: int
    best_score: float
    history: list[Epoch]


class Rank(Record, frozen=True):
    """Number of factors of the two covariances."""

    signal: int
    noise: int


class Variances(Record, frozen=True):
    """Medians over voxels, in the variance of a standardised trial."""

    unexplained_signal: float
    noise: float


class ReadoutSummary(Record, frozen=True):
    """Summary of the fitted readout; medians over voxels.

    Attributes
    ----------
    signal_told_from_noise : bool
        Whether images were repeated, so that unexplained signal and trial noise are apart.
    rank : Rank
    variance : Variances
    signal_dependence : float
        Increase of the noise variance with the response.
    stack : dict
        Weight of each predictor.
    """

    signal_told_from_noise: bool
    rank: Rank
    variance: Variances
    signal_dependence: float
    stack: dict[Predictor, float]


class Adaptation(Record, frozen=True):
    """How a model was adapted to a new subject.

    Attributes
    ----------
    hours : float
        Of the new subject, in sessions.
    trials : list of int
        Rows of ``trials.tsv`` that the model has seen.
    sources : list of str
        Names of the models it started from.
    subjects : list of str
        ``dataset/sub-01`` of every other subject whose data these models have seen.
    strategy : str
        The one chosen.
    strategies : dict
        Validation score of each strategy tried, and of the linear encoder.
    """

    hours: float
    trials: list[int]
    sources: list[str]
    subjects: list[str]
    strategy: str
    strategies: dict[str, float]

    def __post_init__(self) -> None:
        for name in self.sources:
            model_name(name)
        for label in self.subjects:
            require_subject_of_dataset(label)


class OriginFile(Record, frozen=True):
    """A checkpoint that was imported."""

    name: str
    bytes: int
    sha256: str
    source: str | None = msgspec.field(name="from")


class CheckpointEntry(Record, frozen=True):
    """Which weights of a checkpoint were taken, and how far its training was."""

    taken: str
    left_out: list[str]
    epoch: int | None = None
    steps: int | None = None


class Origin(Record, frozen=True):
    """Where imported weights come from; keys are "brainvae" and "s2n"."""

    files: dict[str, OriginFile]
    checkpoints: dict[str, CheckpointEntry]
    licence: str


class TrainingRecord(Record, frozen=True):
    """How a model was made.

    Attributes
    ----------
    preset : str, optional
        Of the networks; None without.
    seed : int, optional
        None of imported weights.
    data : str, optional
        SHA-256 of the prepared subject's ``dataset_description.json``; None of imported weights.
    sessions : list of int
    n_trials, n_images : SplitSizes
    validation : dict
        Share of the variance of validation images' averages that each predictor explains.
    stages : dict
        Training of each network.
    versions : dict
    readout : ReadoutSummary, optional
        None of imported weights, which have no readout.
    adaptation : Adaptation, optional
        Of adapted models.
    origin : Origin, optional
        Of imported weights.
    """

    versions: dict[str, str]
    preset: str | None = None
    seed: int | None = None
    data: str | None = None
    sessions: list[int] = []
    n_trials: SplitSizes = SplitSizes()
    n_images: SplitSizes = SplitSizes()
    validation: dict[str, float] = {}
    stages: dict[str, StageHistory] = {}
    readout: ReadoutSummary | None = None
    adaptation: Adaptation | None = None
    origin: Origin | None = None

    @property
    def hours(self) -> float | None:
        """Hours of an adapted model; None where all data of the subject were used."""
        return self.adaptation.hours if self.adaptation else None


class TransferConfig(Record, frozen=True):
    """What an adapted model predicts with.

    Attributes
    ----------
    kind : {"shared-core", "source-map"}
    core : CoreConfig, optional
        Of a shared core.
    subjects : list of str
        Subjects that the shared core was trained on.
    sources, fingerprints : list of str
        Bundles in ``sources/`` whose predictions are mapped.
    """

    kind: Literal["shared-core", "source-map"]
    core: CoreConfig | None = None
    subjects: list[str] = []
    sources: list[str] = []
    fingerprints: list[str] = []

    def __post_init__(self) -> None:
        for name in self.sources:
            model_name(name)


class BundleConfig(Record, frozen=True):
    """``config.json`` of a bundle.

    Attributes
    ----------
    subject : str
        Label without ``sub-``.
    dataset : str
    simulated : bool
    space : str
        Of the voxels.
    unit, recorded_unit : str
        In which the networks work, and that of the data.
    standardization : {"session", "train", "none"}
        How the betas were prepared.
    voxel_order : str, optional
        Along BrainVAE's convolution axis; None without networks.
    encoder : EncoderIdentity
    vae, mapper : VAEConfig, MapperConfig, optional
        None without networks.
    transfer : TransferConfig, optional
        Of adapted models.
    predictors : tuple of str
        From which the mean is stacked, in the order of the stack's rows.
    has_readout : bool
        False of imported weights: nothing was fitted to single trials.
    fingerprint : str
        Of everything draws depend on, 16 hexadecimal digits.
    training : TrainingRecord
    checksums : dict
        SHA-256 of every other file but the card.
    format : int
    """

    subject: str
    dataset: str
    simulated: bool
    space: str
    unit: str
    recorded_unit: str
    standardization: Literal["session", "train", "none"]
    encoder: EncoderIdentity
    predictors: tuple[Predictor, ...]
    fingerprint: str
    training: TrainingRecord
    voxel_order: str | None = None
    vae: VAEConfig | None = None
    mapper: MapperConfig | None = None
    transfer: TransferConfig | None = None
    has_readout: bool = True
    checksums: dict[str, str] = {}
    format: int = FORMAT

    def __post_init__(self) -> None:
        require_subject_label(self.subject)
        dataset_name(self.dataset)

    @property
    def label(self) -> str:
        """Dataset and subject: "nsd/sub-01"."""
        return f"{self.dataset}/sub-{self.subject}"

    @property
    def has_networks(self) -> bool:
        """False of linear and most adapted models."""
        return self.vae is not None


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Save named arrays as safetensors, atomically."""
    with atomic(path) as temporary:
        temporary.touch()  # as the umask says: safetensors lets its owner alone read the file
        mode = temporary.stat().st_mode
        save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, temporary)
        temporary.chmod(mode)


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Load named arrays.

    Raises
    ------
    MissingError, InputError
        Absent; truncated or not safetensors.
    """
    if not path.exists():
        raise MissingError(f"{path} does not exist: the model is incomplete; train it again")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(
            f"{path}: truncated or not a safetensors file ({error}): {COPY_AGAIN}"
        ) from error


def fingerprint(folder: Path) -> str:
    """Fingerprint of everything that draws depend on: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name in WEIGHTS:
        path = folder / f"{name}.safetensors"
        if path.exists():
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def seal(folder: Path, config: BundleConfig) -> None:
    """Write ``config.json`` with the checksums of the files beside it."""
    names = sorted(
        path.name
        for path in folder.iterdir()
        if path.is_file() and path.name not in (CONFIG, CARD) and not path.name.startswith(".")
    )
    checksums = {name: sha256(folder / name) for name in names}
    write_record(folder / CONFIG, msgspec.structs.replace(config, checksums=checksums))


def read_config(folder: Path) -> BundleConfig:
    """Read ``config.json``, without looking at the files that it lists.

    Raises
    ------
    MissingError
        When the folder is no bundle.
    InputError
        When it is of another format; when a field is missing, unknown or of another type.
    """
    path = folder / CONFIG
    if not path.exists():
        raise MissingError(
            f"{folder}: expected a model bundle (a folder with config.json), found none: "
            "`synbrain train` makes one in weights/"
        )
    content = read_json(path)
    if isinstance(content, dict) and content.get("format") != FORMAT:
        raise InputError(
            f"{path}: expected bundle format {FORMAT}, found {content.get('format')}: "
            "use the version of synbrain that wrote it, or train the model again"
        )
    return convert_record(content, BundleConfig, str(path), COPY_AGAIN)


def read_verified_config(folder: Path) -> BundleConfig:
    """Read ``config.json`` and compare every file that it lists with its checksum.

    Raises
    ------
    MissingError
        When the folder or a file of it is absent.
    InputError
        As `read_config`; when a file is not what was written (truncated, changed).
    """
    config = read_config(folder)
    for name, checksum in config.checksums.items():
        if not (folder / name).exists():
            raise MissingError(f"{folder / name} does not exist: copy the model's folder again")
        if sha256(folder / name) != checksum:
            raise InputError(
                f"{folder / name}: its checksum is not the one in config.json: truncated or "
                f"changed since it was written; {COPY_AGAIN}"
            )
    return config


def find_faults(folder: Path, checksums: bool = True) -> list[str]:
    """Find the faults of a bundle's files, and of those of the models it holds; a line each.

    Parameters
    ----------
    folder : path
    checksums : bool
        Read every file; else say only which are missing.
    """
    try:
        config = read_config(folder)
    except (InputError, MissingError) as error:
        return [str(error)]
    faults = []
    for name, checksum in config.checksums.items():
        path = folder / name
        if not path.is_file():
            faults.append(f"{path}: missing")
        elif checksums and sha256(path) != checksum:
            faults.append(f"{path}: its checksum is not the one in config.json")
    if not (folder / CARD).is_file():
        faults.append(f"{folder / CARD}: missing")
    known = {*config.checksums, CONFIG, CARD}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name not in known and not path.name.startswith("."):
            faults.append(f"{path}: not part of the model (config.json does not list it)")
    for name in config.transfer.sources if config.transfer else ():
        faults += find_faults(folder / "sources" / name, checksums)
    return faults


def find_bundles(root: Path) -> list[Path]:
    """Bundles below ``root`` (a workspace's ``weights/``), sorted by name."""
    restore_interrupted(Path(root))
    return [path.parent for path in sorted(Path(root).glob(f"[!.]*/{CONFIG}"))]
