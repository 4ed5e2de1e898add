"""Model bundles: ``weights/<name>/``, everything a model needs, and nothing that is unpickled.

``config.json``           `BundleConfig`: subject, dataset, encoder, networks, unit, voxel order,
                          training record, and a checksum of every other file but the card; sealed
                          by one of its own content
``networks.safetensors``  BrainVAE (with its voxel order) and mapper; absent from linear models
``network.safetensors``   response network; absent from linear and imported models
``linear.safetensors``    linear encoder; absent from published weights
``readout.safetensors``   stack, signal, noise: what turns predictions into draws; likewise
``sequence.safetensors``  what the order of trials does; absent where it was not fitted
``transfer.safetensors``  what an adapted model takes from other subjects; ``sources/``, their
                          bundles, where its strategy predicts with them
``arrays.safetensors``    token scaler, SD of the posterior, standardisation, mean pattern
``mask.nii.gz`` or ``vertices.npz``, ``voxels.tsv``, ``surface_resampling.npz``,
``mni_resampling.npz``    as in the prepared subject
``dataset_description.json``  the bundle as a BIDS derivative (`synbrain_cli.io.bids`)
``settings.json``         the settings of the command that made it (`synbrain_cli.io.workfolder`)
``card.md``               what it was trained on, and its scores
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from synbrain_cli.bands import join_bands
from synbrain_cli.config import (
    Band,
    CoreConfig,
    MapperConfig,
    VAEConfig,
    trials_name,
)
from synbrain_cli.errors import InputError, MissingError, SynbrainError
from synbrain_cli.io.arrays import COPY_AGAIN
from synbrain_cli.io.bids import Derivative, write_derivative
from synbrain_cli.io.files import read_json
from synbrain_cli.io.records import convert_sealed, write_sealed
from synbrain_cli.io.seal import (
    Checksums,
    checksums_of,
)
from synbrain_cli.io.workfolder import restore_interrupted
from synbrain_cli.labels import (
    dataset_name,
    model_name,
    require_subject_label,
    require_subject_of_dataset,
)

FORMAT = 6
SURE = 0.3  # width of the interval of the noise's share, above which a note is made (ours)
CONFIG, CARD = "config.json", "card.md"
# What draws depend on: the weights, in this order.
WEIGHTS = ("arrays", "linear", "network", "networks", "readout", "transfer")
_PIECE = 1 << 20
# A plain name of a folder: no path, nothing hidden, no control character.
Name = Annotated[
    str, msgspec.Meta(pattern=r"^[^./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]*$", max_length=200)
]
Count = Annotated[int, msgspec.Meta(ge=0, le=10**12)]
Predictor = Literal["linear", "network", "deep", "transfer"]


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the records in ``config.json``: a missing or unknown field is an error."""


class SplitSizes(Record, frozen=True):
    """Trials or images of the training and the validation split."""

    train: Count = 0
    val: Count = 0

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


class NoiseShare(Record, frozen=True):
    """Share of trial noise in what the mean leaves of single trials, pooled over voxels.

    The rest is signal of the image that the mean does not explain and that repeats share.

    Attributes
    ----------
    value : float
        1 where the two could not be told apart.
    interval : pair of float
        95 % interval: 0 to 1 where they could not be told apart.
    images, repeated_images : int
        Images of training and validation, and those of them shown twice or more.
    repeats : int
        Trials beyond the first of each image: degrees of freedom of the noise.
    pooled : bool
        Whether repeated images were so few that the estimates of voxels were pooled.
    """

    value: float
    interval: tuple[float, float]
    images: int
    repeated_images: int
    repeats: int
    pooled: bool

    @property
    def is_sure(self) -> bool:
        """Whether the interval is narrow enough to rely on (`SURE`), and no voxel was pooled."""
        low, high = self.interval
        return not self.pooled and high - low <= SURE

    def describe(self) -> str:
        """Return share and interval as a clause."""
        low, high = self.interval
        return (
            f"trial noise is {self.value:.0%} of what the mean leaves (95 % interval {low:.0%} to "
            f"{high:.0%}, from {self.repeats:,} repeats of {self.repeated_images:,} images"
            + (", pooled over voxels)" if self.pooled else ")")
        )


class ReadoutSummary(Record, frozen=True):
    """Summary of the fitted readout; medians over voxels.

    Attributes
    ----------
    signal_told_from_noise : bool
        Whether any image was repeated, so that unexplained signal and trial noise are apart.
    noise_share : NoiseShare
        How surely they were told apart.
    rank : Rank
    variance : Variances
    signal_dependence : float
        Increase of the noise variance with the response.
    stack : dict
        Weight of each predictor.
    """

    signal_told_from_noise: bool
    noise_share: NoiseShare
    rank: Rank
    variance: Variances
    signal_dependence: float
    stack: dict[Predictor, float]


class EffectGain(Record, frozen=True):
    """How much a part of what the order does tells of held-out trials.

    Attributes
    ----------
    bits : float
        Gain of log likelihood, in bits per voxel and trial.
    interval : pair of float
        95 % interval.
    blocks : int
        Blocks of trials that were held out by turns.
    """

    bits: float
    interval: tuple[float, float]
    blocks: int


Effect = Literal["drift", "repetition", "serial"]


class SequenceSummary(Record, frozen=True):
    """What the order of trials does to responses (`synbrain_cli.model.sequence`).

    Attributes
    ----------
    reason : str
        Why nothing could be fitted; empty where something was.
    kept : list of str
        Parts that held-out trials bear out.
    gains : dict
        Of every part that was fitted.
    drift_share : float
        Share of the drift in the variance of trial noise, mean over voxels.
    time_constant : float
        Of the drift, in trials.
    count : {"experiment", "session"}
        Since when presentations are counted.
    """

    reason: str = ""
    kept: list[Effect] = []
    gains: dict[Effect, EffectGain] = {}
    drift_share: float = 0.0
    time_constant: float = 1.0
    count: Literal["experiment", "session"] = "experiment"

    @property
    def is_fitted(self) -> bool:
        """Whether there is a ``sequence.safetensors``."""
        return not self.reason

    def describe(self) -> list[str]:
        """Say in a line each what was fitted, and what was kept."""
        if self.reason:
            return [f"order of trials not modelled: {self.reason}"]
        names: dict[Effect, str] = {
            "drift": f"drift within sessions ({self.drift_share:.1%} of the variance of trial "
            f"noise, time constant {self.time_constant:g} trials)"
            if "drift" in self.kept
            else "drift within sessions",
            "repetition": f"repetition (presentations counted within the {self.count})",
            "serial": "serial effect of the image before",
        }
        lines = []
        for name, gain in self.gains.items():
            low, high = gain.interval
            verdict = "kept" if name in self.kept else "not kept"
            lines.append(
                f"{names[name]}: {verdict}; held-out gain {1000 * gain.bits:.2f} bits per voxel "
                f"and 1,000 trials (95 % interval {1000 * low:.2f} to {1000 * high:.2f}, "
                f"{gain.blocks} blocks)"
            )
        return lines


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

    hours: Annotated[float, msgspec.Meta(gt=0, le=1e6)]
    trials: list[Count]
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
    sequence : SequenceSummary, optional
        None of imported weights and of models of earlier versions.
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
    sequence: SequenceSummary | None = None

    @property
    def has_sequence(self) -> bool:
        """Whether what the order of trials does was fitted."""
        return self.sequence is not None and self.sequence.is_fitted

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
    sources: list[Name] = []
    fingerprints: list[str] = []

    def __post_init__(self) -> None:
        for name in self.sources:
            model_name(name)
        if (self.core is None) is (self.kind == "shared-core"):
            raise InputError(f"expected a core in a shared-core transfer alone, found {self.kind}")
        if self.kind == "source-map" and (
            not self.sources or len(set(self.sources)) != len(self.fingerprints)
        ):
            raise InputError(
                f"expected models to predict with, and a fingerprint of each, found "
                f"{len(self.sources)} and {len(self.fingerprints)}"
            )


class NetworkConfig(Record, frozen=True):
    """Response network of a bundle.

    Attributes
    ----------
    core : CoreConfig
    subjects : list of str
        ``dataset/sub-01`` of every subject that the network was trained on.
    """

    core: CoreConfig
    subjects: list[str]

    def __post_init__(self) -> None:
        for label in self.subjects:
            require_subject_of_dataset(label)


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
    bands : tuple of Band
        What a model sees of an image, in the order of its tokens.
    vae, mapper : VAEConfig, MapperConfig, optional
        None without networks.
    transfer : TransferConfig, optional
        Of adapted models.
    network : NetworkConfig, optional
        None without a response network.
    predictors : tuple of str
        From which the mean is stacked, in the order of the stack's rows.
    has_readout : bool
        False of imported weights: nothing was fitted to single trials.
    fingerprint : str
        Of everything draws depend on, 16 hexadecimal digits.
    training : TrainingRecord
    averaged_over : int
        Recorded trials that each row of the training data is the average of, and so is each draw.
    checksums : dict
        SHA-256 of every other file but the card.
    format : int
    """

    subject: Name
    dataset: Name
    simulated: bool
    space: str
    unit: str
    recorded_unit: str
    standardization: Literal["session", "train", "none"]
    bands: Annotated[tuple[Band, ...], msgspec.Meta(min_length=1, max_length=100)]
    predictors: tuple[Predictor, ...]
    fingerprint: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{16}$")]
    training: TrainingRecord
    voxel_order: str | None = None
    vae: VAEConfig | None = None
    mapper: MapperConfig | None = None
    transfer: TransferConfig | None = None
    network: NetworkConfig | None = None
    has_readout: bool = True
    averaged_over: int = 1
    checksums: Checksums = {}
    format: int = FORMAT

    def __post_init__(self) -> None:
        require_subject_label(self.subject)
        dataset_name(self.dataset)
        has = {
            "linear": self.has_readout,
            "deep": self.vae is not None and self.mapper is not None,
            "transfer": self.transfer is not None,
            "network": self.network is not None,
        }
        expected = [name for name, present in has.items() if present]
        if sorted(self.predictors) != sorted(expected):
            raise InputError(
                f"expected the predictors {', '.join(expected) or 'of some kind'}, of which it has "
                f"the parts, found {', '.join(self.predictors) or 'none'}"
            )
        shapes = {
            name: (part.n_tokens, part.n_dims)
            for name, part in (("vae", self.vae), ("mapper", self.mapper))
            if part is not None
        }
        if len(self.bands) == 1:
            shapes["the encoder"] = self.bands[0].token_shape
        if (self.vae is None) is not (self.mapper is None) or len(set(shapes.values())) > 1:
            raise InputError(
                "expected networks for tokens of one shape (n_tokens, n_dims), found "
                + ", ".join(f"{shape} of {name}" for name, shape in shapes.items())
            )
        core = self.transfer.core if self.transfer else None
        for one in (core, self.network.core if self.network else None):
            seen = [self.token_shapes[k] for k in one.bands if k < len(self.bands)] if one else []
            if one is not None and tuple(seen) != one.shapes:
                raise InputError(
                    f"expected a core for tokens of the shapes {self.token_shapes}, found one for "
                    f"{one.shapes}, of bands {one.bands}"
                )

    @property
    def encoder(self) -> str:
        """Names of the bands."""
        return join_bands([band.spec for band in self.bands])

    @property
    def token_shapes(self) -> tuple[tuple[int, int], ...]:
        """Shape (n_tokens, n_dims) of the tokens of each band."""
        return tuple(band.token_shape for band in self.bands)

    @property
    def label(self) -> str:
        """Dataset and subject: "nsd/sub-01"."""
        return f"{self.dataset}/sub-{self.subject}"

    @property
    def rows(self) -> str:
        """What the data and the draws are: "single trials" or "averages of 3 trials"."""
        return trials_name(self.averaged_over)

    @property
    def is_linear(self) -> bool:
        """Whether the linear encoder is all that the mean is made of."""
        return self.predictors == ("linear",)

    @property
    def has_networks(self) -> bool:
        """False of linear and most adapted models."""
        return self.vae is not None


def fingerprint(folder: Path) -> str:
    """Fingerprint of everything that draws depend on: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name in WEIGHTS:
        path = folder / f"{name}.safetensors"
        if path.exists():
            with path.open("rb") as file:
                while piece := file.read(_PIECE):
                    digest.update(piece)
    return digest.hexdigest()[:16]


def seal(folder: Path, config: BundleConfig) -> None:
    """Describe a bundle, write ``config.json`` with the checksums of its files, and read it back.

    Raises
    ------
    InputError
        When what was written could not be read again.
    """
    kind = "Imported model" if config.training.origin else "Model"
    described = Derivative(f"{kind} of {config.label}", config.simulated, data=[config.dataset])
    write_derivative(folder, described)
    sealed = msgspec.structs.replace(config, checksums=checksums_of(folder, but=(CONFIG, CARD)))
    write_sealed(folder / CONFIG, sealed)
    read_config(folder)


def read_config(folder: Path) -> BundleConfig:
    """Read ``config.json``, without looking at the files that it lists.

    Raises
    ------
    MissingError
        When the folder is no bundle.
    InputError
        When it is of another format; when a field is missing, unknown, of another type or out of
        range; when the content is not what was written.
    """
    path = folder / CONFIG
    if not os.path.lexists(path):
        raise MissingError(
            f"{folder}: expected a model bundle (a folder with config.json), found none: "
            "`synbrain train` makes one in weights/"
        )
    content = read_json(path)
    if isinstance(content, dict) and content.get("format") != FORMAT:
        found = str(content.get("format"))[:20]
        raise InputError(
            f"{path}: expected bundle format {FORMAT}, found {found}: "
            "use the version of synbrain that wrote it, or train the model again"
        )
    return convert_sealed(content, BundleConfig, str(path), COPY_AGAIN)


def find_bundles(root: Path) -> list[Path]:
    """Bundles below ``root`` (a workspace's ``weights/``), sorted by name."""
    restore_interrupted(Path(root))
    return [path.parent for path in sorted(Path(root).glob(f"[!.]*/{CONFIG}"))]


def readable_bundles(root: Path, log: Callable[[str], None]) -> Iterator[tuple[Path, BundleConfig]]:
    """Yield the bundles below ``root`` and their configurations, sorted by name.

    One that cannot be read is passed over, which is logged: it is no fault of the others.

    Parameters
    ----------
    root : path
    log : callable
        Takes messages.
    """
    for folder in find_bundles(root):
        try:
            yield folder, read_config(folder)
        except SynbrainError as error:
            log(f"passed over: {error}")
