"""What there is to see: maps and single trials, from responses, recordings and evaluations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from synbrain_cli.brain import Brain, load_model
from synbrain_cli.brain.matching import check_match
from synbrain_cli.datasets.nsd import NSD
from synbrain_cli.errors import InputError, MissingError, SynbrainError
from synbrain_cli.features.images import read_image
from synbrain_cli.io.betas import read_array
from synbrain_cli.io.bids import bids_label
from synbrain_cli.io.files import read_json
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.results.evaluation import EvaluationRecord, read_evaluation
from synbrain_cli.io.token_store import TokenStore
from synbrain_cli.io.workspace import Log, Workspace, subject_label

ACCURACY_UNIT = "correlation over images (r)"


@dataclass(frozen=True)
class BrainMap:
    """One value a voxel, and what to say of it.

    Attributes
    ----------
    name : str
        For the file: BIDS-like entities, such as ``stim-coffee_stat-mean``.
    title, unit : str
    values : float array of shape (n_voxels,)
    symmetric : bool
        Whether colours are centred on 0.
    image : uint8 array of shape (height, width, 3), optional
        The stimulus.
    """

    name: str
    title: str
    unit: str
    values: np.ndarray
    symmetric: bool = True
    image: np.ndarray | None = None


@dataclass(frozen=True)
class ImageTrials:
    """Single trials of one image.

    Attributes
    ----------
    name : str
    draws : float array of shape (n_draws, n_voxels)
    recorded : float array of shape (n_trials, n_voxels), optional
    image : uint8 array of shape (height, width, 3), optional
    """

    name: str
    draws: np.ndarray
    recorded: np.ndarray | None = None
    image: np.ndarray | None = None


# --------------------------------------------------------------------- synthesized responses


class Responses:
    """A folder that `synbrain synthesize` wrote, read image by image.

    Parameters
    ----------
    folder : path

    Raises
    ------
    MissingError
        When it is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / "settings.json").exists():
            raise MissingError(
                f"{folder}: expected a folder that `synbrain synthesize` wrote: run "
                f"`synbrain synthesize {folder}` first, if these are images"
            )
        self.settings: dict[str, Any] = read_json(self.folder / "settings.json")
        self._table = pd.read_csv(
            self.folder / "images.tsv", sep="\t", dtype={"image": str}, keep_default_na=False
        )
        self.names: list[str] = self._table["image"].tolist()
        found = list(self.folder.glob("*_desc-draws_betas.npy"))
        if not found:
            raise MissingError(
                f"{folder}: its array *_desc-draws_betas.npy does not exist: copy the folder "
                "again, or synthesize again with --overwrite"
            )
        self.draws = read_array(found[0])

    @property
    def n_draws(self) -> int:
        return self.draws.shape[1]

    def brain(self, workspace: Workspace, log: Log) -> Brain:
        """The model that drew them.

        Raises
        ------
        InputError
            When it was trained again since.
        """
        bundle = Path(self.settings["model_folder"])
        if not bundle.exists():  # the workspace was moved since
            bundle = workspace.find_model(self.settings["model"], None, log)
        brain = load_model(bundle, "cpu")
        if brain.config.fingerprint != self.settings["model_fingerprint"]:
            raise InputError(
                f"{self.folder} was made by another training of {brain.name}: run synthesize again"
            )
        return brain

    def rows(self, image: str | None) -> list[int]:
        """Row of the image of that name, or rows of all.

        Raises
        ------
        MissingError
        """
        if image is None:
            return list(range(len(self.names)))
        for name in (image, Path(image).stem):
            if name in self.names:
                return [self.names.index(name)]
        raise MissingError(f"{self.folder}: no image {image}; there are {', '.join(self.names)}")

    def of(self, row: int) -> np.ndarray:
        """Draws of one image: float32 (n_draws, n_voxels)."""
        return np.asarray(self.draws[row])

    def mean(self, rows: Sequence[int]) -> np.ndarray:
        """Mean over draws and images: float64 (n_voxels,)."""
        return np.mean([self.of(row).mean(0, dtype=np.float64) for row in rows], axis=0)

    def picture(self, row: int) -> np.ndarray | None:
        """The stimulus; None where its file is gone."""
        source = Path(self._table["source"][row])
        return read_image(source) if source.is_file() else None


def latest_responses(workspace: Workspace, model: str | None, subject: str | None) -> Path:
    """The folder of responses written last, of a model or subject where one is named.

    Raises
    ------
    MissingError
    """
    found = sorted(workspace.outputs.glob("[!.]*/settings.json"), key=lambda p: p.stat().st_mtime)
    folders = [p.parent for p in found if read_json(p).get("images") is not None]
    if model is not None:
        folders = [f for f in folders if read_json(f / "settings.json")["model"] == model]
    if subject is not None:
        prefix = f"sub-{subject_label(subject)}_"
        folders = [f for f in folders if list(f.glob(f"{prefix}desc-draws_betas.npy"))]
    if not folders:
        raise MissingError(
            f"{workspace.outputs}: no synthesized responses"
            f"{f' of {model}' if model else ''}{f' of subject {subject}' if subject else ''}: "
            "run `synbrain synthesize examples/images` first"
        )
    return folders[-1]


def response_maps(
    responses: Responses, brain: Brain, what: str, image: str | None = None, draw: int = 0
) -> Iterator[BrainMap]:
    """Yield the map of each image: its mean over draws, deviation over draws, or one draw.

    Raises
    ------
    InputError, MissingError
        When there is no such image or draw.
    """
    rows = responses.rows(image)
    n_draws = responses.n_draws
    if what == "std" and n_draws < 2:
        raise InputError(
            f"{responses.folder} holds one draw an image: a deviation needs --samples 2"
        )
    if what == "draw" and not 0 <= draw < n_draws:
        raise InputError(f"{responses.folder} holds {n_draws} draws: --draw {draw} is not there")
    titles = {
        "mean": f"mean of {n_draws} draws" if n_draws > 1 else "response",
        "std": f"deviation over {n_draws} draws",
        "draw": f"draw {draw}",
    }
    suffix = f"draw-{draw}" if what == "draw" else f"stat-{what}"
    for row in rows:
        draws, name = responses.of(row), responses.names[row]
        values = {
            "mean": lambda draws=draws: draws.mean(0),
            "std": lambda draws=draws: draws.std(0, ddof=1),
            "draw": lambda draws=draws: draws[draw],
        }[what]()
        yield BrainMap(
            f"sub-{brain.subject}_stim-{bids_label(name)}_{suffix}",
            f"{name}: {titles[what]}, {brain.name}",
            brain.unit_name(responses.settings["unit"]),
            values,
            what != "std",
            responses.picture(row),
        )


def difference_map(responses: Responses, brain: Brain, image: str | None, minus: str) -> BrainMap:
    """Difference of mean responses between two images, or two sets of them.

    Parameters
    ----------
    responses : Responses
    brain : Brain
    image : str, optional
        One image of them; default the mean over all.
    minus : str
        What is subtracted: another image of the same responses, or the folder of other responses
        by the same model, over all of whose images the mean is taken.

    Raises
    ------
    InputError, MissingError
        When the two were drawn by other models, or in other units.
    """
    rows = responses.rows(image)
    if minus in responses.names or not Path(minus).exists():
        other, other_rows = responses, responses.rows(minus)
        if other_rows == rows:
            raise InputError(f"--minus {minus}: expected another image than --image {image}")
    else:
        other = Responses(Path(minus))
        other_rows = other.rows(None)
        for key, name in (("model_fingerprint", "model"), ("unit", "unit")):
            if other.settings[key] != responses.settings[key]:
                raise InputError(
                    f"--minus {minus}: drawn with the {name} {other.settings[name]}, expected that "
                    f"of {responses.folder}, {responses.settings[name]}: a difference needs the "
                    "same person, training and unit"
                )

    def describe(some: Responses, rows: list[int]) -> str:
        if len(rows) == 1:
            return some.names[rows[0]]
        return f"{some.folder.name} ({len(rows)} images)"

    names = describe(responses, rows), describe(other, other_rows)
    return BrainMap(
        f"sub-{brain.subject}_stim-{bids_label(names[0])}_minus-{bids_label(names[1])}"
        "_stat-difference",
        f"{names[0]} − {names[1]}: difference of means, {brain.name}",
        brain.unit_name(responses.settings["unit"]),
        responses.mean(rows) - other.mean(other_rows),
        image=responses.picture(rows[0]) if len(rows) == 1 else None,
    )


# ------------------------------------------------------------------------ recorded trials


class Recordings:
    """Recorded trials of a person's test images, and what a model of the person draws of them.

    Parameters
    ----------
    workspace : Workspace
    brain : Brain
    subject : PreparedSubject
    store : TokenStore
        Tokens of the model's encoder.

    Raises
    ------
    InputError
        When model, subject and tokens do not belong together.
    """

    def __init__(
        self, workspace: Workspace, brain: Brain, subject: PreparedSubject, store: TokenStore
    ) -> None:
        check_match(brain, subject, store)
        self._workspace, self.brain = workspace, brain
        self._subject, self._store = subject, store
        self._test = subject.select("test")
        self._betas = subject.recorded(self._test)
        counts = np.bincount(self._test.image_index)
        # Those of most repeats first; no other choice, which could flatter the model.
        self.names: list[str] = self._test.images[np.argsort(-counts, kind="stable")].tolist()

    @classmethod
    def of(cls, workspace: Workspace, brain: Brain, log: Log) -> Recordings:
        """Those of the model's person, where prepared in the workspace.

        Raises
        ------
        MissingError
        """
        config = brain.config
        subject = workspace.find_subject(brain.subject, config.dataset, log)
        store = workspace.find_tokens(config.dataset, config.encoder.spec, log)
        return cls(workspace, brain, subject, store)

    def choose(self, image: str | None, n: int) -> list[str]:
        """Images named, separated by commas, or the first ``n``.

        Raises
        ------
        MissingError
        """
        if image is None:
            return self.names[:n]
        chosen = [name.strip() for name in image.split(",") if name.strip()]
        known = set(self.names)
        missing = [name for name in chosen if name not in known]
        if missing or not chosen:
            raise MissingError(
                f"{self._subject.folder}: no test image {', '.join(missing) or 'is named'}; there "
                f"are {len(self.names):,}, such as {', '.join(self.names[:3])}"
            )
        return chosen

    def recorded(self, name: str) -> np.ndarray:
        """Recorded trials in the recorded unit: float32 (n_trials, n_voxels)."""
        return self._betas[self._test.images[self._test.image_index] == name]

    def drawn(self, name: str, n_draws: int, seed: int, signal: str = "shared") -> np.ndarray:
        """Calibrated draws: float32 (n_draws, n_voxels)."""
        tokens = self._store.take([name])
        return self.brain.draw(tokens, n_draws=n_draws, seed=seed, signal=signal)[0]

    def expected(self, name: str) -> np.ndarray:
        """Mean response by the model: float32 (n_voxels,)."""
        return self.brain.mean(self._store.take([name]))[0]

    def picture(self, name: str) -> np.ndarray | None:
        """The stimulus, of simulated people alone: datasets' images may not be passed on."""
        root = self._workspace.root / "simulated"
        if not (self._subject.simulated and root.is_dir()):
            return None
        try:
            return next(iter(NSD(root).read_images([name])))
        except SynbrainError:  # simulated elsewhere
            return None

    def trials(
        self, image: str | None, n: int, n_draws: int, seed: int, signal: str
    ) -> Iterator[ImageTrials]:
        """Yield recorded trials and draws of the images named, or of the first ``n``.

        ``signal`` is "shared" for draws that vary as repeats of one image do, "fresh" for those
        among which a recorded trial should lie anywhere.
        """
        for name in self.choose(image, n):
            drawn = self.drawn(name, n_draws, seed, signal)
            yield ImageTrials(name, drawn, self.recorded(name), self.picture(name))

    def maps(self, what: str, image: str | None) -> Iterator[BrainMap]:
        """Yield the mean over recorded trials of the images named, or of the first.

        Or, for "error", what the expected response leaves of it.
        """
        for name in self.choose(image, 1):
            trials = self.recorded(name)
            mean = trials.mean(0, dtype=np.float64)
            repeats = f"mean of {len(trials)} trials" if len(trials) > 1 else "one trial"
            if what == "error":
                mean = mean - self.expected(name)
            title = {
                "recorded": f"{name}: recorded, {repeats}, sub-{self.brain.subject}",
                "error": f"{name}: recorded ({repeats}) − expected by {self.brain.name}",
            }[what]
            yield BrainMap(
                f"sub-{self.brain.subject}_stim-{bids_label(name)}_stat-{what}",
                title,
                self.brain.unit,
                mean,
                image=self.picture(name),
            )


# ---------------------------------------------------------------------------- evaluations


@dataclass(frozen=True)
class Evaluation:
    """What `synbrain evaluate` wrote.

    Attributes
    ----------
    folder : Path
    metrics : EvaluationRecord
    voxels : DataFrame
    """

    folder: Path
    metrics: EvaluationRecord
    voxels: pd.DataFrame

    @classmethod
    def read(cls, folder: Path, brain: Brain) -> Evaluation:
        """Read it, checked to be this model's.

        Raises
        ------
        MissingError, InputError
        """
        if not (folder / "voxels.tsv").exists():
            raise MissingError(
                f"{folder} does not exist: run `synbrain evaluate --model {brain.name}`"
            )
        metrics = read_evaluation(folder)
        if metrics.provenance.fingerprint != brain.config.fingerprint:
            raise InputError(
                f"{folder} is of another training of {brain.name}: run "
                f"`synbrain evaluate --model {brain.name}` again"
            )
        return cls(folder, metrics, pd.read_csv(folder / "voxels.tsv", sep="\t"))

    def map(self, what: str, brain: Brain) -> BrainMap:
        """Voxelwise test accuracy ("accuracy"), or its noise ceiling ("ceiling").

        Raises
        ------
        InputError
            When it is not known.
        """
        column, title = {
            "accuracy": ("model", "prediction of test images"),
            "ceiling": ("ceiling", "noise ceiling"),
        }[what]
        if not self.voxels[column].notna().any():
            raise InputError(
                f"{self.folder / 'voxels.tsv'}: the {what} is not known: no image was shown twice, "
                "and the data came without ncsnr"
            )
        return BrainMap(
            f"{brain.name}_{what}",
            f"{title}, {brain.name}",
            ACCURACY_UNIT,
            self.voxels[column].to_numpy(np.float32),
            what == "accuracy",
        )

    @property
    def limit(self) -> float:
        """Upper end of colours, by the ceiling where there is one: maps can be compared with it."""
        known = self.voxels["ceiling"].notna().any()
        values = self.voxels["ceiling"] if known else self.voxels["model"].abs()
        return float(np.nanquantile(values, 0.99))
