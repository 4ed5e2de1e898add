"""Responses on disk: the folders that `synbrain synthesize` writes."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from synbrain_cli.brain import Brain, load_model
from synbrain_cli.errors import InputError, MissingError, SynbrainError
from synbrain_cli.features.images import image_name, read_image
from synbrain_cli.io.betas import read_array
from synbrain_cli.io.files import read_json
from synbrain_cli.io.records import read_record
from synbrain_cli.io.responses import (
    AGAIN,
    SETTINGS,
    ResponseSidecar,
    array_of,
    convert_settings,
    read_settings,
)
from synbrain_cli.io.tables import read_table
from synbrain_cli.io.token_files import is_token_file
from synbrain_cli.io.workspace import Log, Workspace
from synbrain_cli.labels import subject_label
from synbrain_cli.paths import require_regular_file


class Responses:
    """A folder that `synbrain synthesize` wrote, read image by image.

    Parameters
    ----------
    folder : path

    Attributes
    ----------
    settings : ResponseSettings
        How the responses were drawn.
    names : list of str
        Of the images.
    draws : float32 array of shape (n_images, n_draws, n_voxels)
        On disk.
    expected : float32 array of shape (n_images, n_voxels)
        On disk: the expected response m of each image, which is no average of the draws.

    Raises
    ------
    MissingError
        When it is not such a folder, or one of its arrays does not exist.
    InputError
        When an array was cut short, or the settings cannot be read or are of another format.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / SETTINGS).exists():
            raise MissingError(
                f"{folder}: expected a folder that `synbrain synthesize` wrote: run "
                f"`synbrain synthesize {folder}` first, if these are images"
            )
        self.settings = read_settings(self.folder / SETTINGS)
        self._table = read_table(self.folder / "images.tsv", ("image", "source"), again=AGAIN)
        self.names: list[str] = self._table["image"].tolist()
        if self.names != [image.name for image in self.settings.images]:
            raise InputError(
                f"{self.folder / 'images.tsv'}: expected the {len(self.settings.images)} images of "
                f"{SETTINGS}, found {len(self.names)} names: {AGAIN}"
            )
        self.draws = self._array("desc-draws_betas", (self.settings.n_draws,))
        self.expected = self._array("stat-mean_statmap", (), self.draws.shape[-1])

    def _array(self, what: str, inner: tuple[int, ...], n_voxels: int | None = None) -> np.ndarray:
        """Open an array of all images: float32 (n_images, *inner, n_voxels)."""
        found = array_of(self.folder, what)
        if found is None:
            raise MissingError(
                f"{self.folder}: its array *_{what}.npy does not exist: copy the folder again, or "
                f"{AGAIN}"
            )
        array = read_array(require_regular_file(found, "an array of responses", AGAIN))
        shape = (len(self.names), *inner)
        wide = array.shape[-1:] if n_voxels is None else (n_voxels,)
        if array.dtype != np.float32 or array.ndim == 0 or array.shape != (*shape, *wide):
            sizes = " × ".join(map(str, (*shape, "voxels" if n_voxels is None else n_voxels)))
            raise InputError(
                f"{found}: expected float32 values of the images in {SETTINGS} and images.tsv, "
                f"{sizes}, found {array.dtype} of shape {array.shape}: {AGAIN}"
            )
        return array

    @property
    def command(self) -> str | None:
        """Command line by which they were made; None from Python.

        Raises
        ------
        MissingError, InputError
            When the sidecar of the draws cannot be read.
        """
        path = array_of(self.folder, "desc-draws_betas")
        assert path is not None  # it was opened
        return read_record(path.with_suffix(".json"), ResponseSidecar, AGAIN).command

    @property
    def n_draws(self) -> int:
        """Number of draws per image."""
        return self.draws.shape[1]

    @property
    def has_draws(self) -> bool:
        """Whether there are draws, and not the expected response in their place."""
        return self.settings.sampling != "mean"

    def is_by(self, brain: Brain) -> bool:
        """Whether this model drew them, in its present training.

        Raises
        ------
        InputError
            When it is said to have, and the draws have other voxels.
        """
        if self.settings.model_fingerprint != brain.config.fingerprint:
            return False
        if self.draws.shape[2] != brain.n_voxels:
            raise InputError(
                f"{self.folder}: expected draws of {brain.n_voxels:,} voxels, as {brain.name} has, "
                f"found {self.draws.shape[2]:,}: {AGAIN}"
            )
        return True

    def brain(self, workspace: Workspace, log: Log) -> Brain:
        """Load the model that drew them.

        Raises
        ------
        InputError
            When it has been trained again since.
        MissingError
            When it is not in the workspace.
        """
        bundle = Path(self.settings.model_folder)
        if not bundle.exists():  # the workspace was moved since
            bundle = workspace.find_model(self.settings.model, None, log)
        brain = load_model(bundle, "cpu")
        if not self.is_by(brain):
            raise InputError(
                f"{self.folder} was made by another training of {brain.name}: run synthesize again"
            )
        return brain

    def rows(self, image: str | None) -> list[int]:
        """Return the row of the image of that name, or the rows of all images.

        Raises
        ------
        MissingError
            When there is no such image.
        """
        if image is None:
            return list(range(len(self.names)))
        for name in map(image_name, (image, Path(image).stem)):
            if name in self.names:
                return [self.names.index(name)]
        raise MissingError(f"{self.folder}: no image {image}; there are {', '.join(self.names)}")

    def of(self, row: int) -> np.ndarray:
        """Return the draws of one image: float32 (n_draws, n_voxels).

        Raises
        ------
        InputError
            When the responses are the expected ones, and no draws.
        """
        if not self.has_draws:
            raise InputError(
                f"{self.folder}: expected draws, found expected responses alone (--sampling mean): "
                "synthesize with --sampling calibrated"
            )
        return np.asarray(self.draws[row])

    def mean(self, rows: Sequence[int]) -> np.ndarray:
        """Return the mean over images of the expected responses m: float64 (n_voxels,)."""
        return np.mean([self.expected[row] for row in rows], axis=0, dtype=np.float64)

    def sd(self, row: int) -> np.ndarray:
        """Return the predictive standard deviation of a single trial: float32 (n_voxels,).

        Raises
        ------
        InputError
            When it has no exact form, so that synthesize did not write it.
        """
        if not self.has_sd:
            raise InputError(
                f"{self.folder}: the standard deviation of a single trial is known exactly from a "
                "model with a readout alone, and not where noise is added to the latent: "
                "synthesize with --sampling calibrated, or plot a draw (--what draw)"
            )
        return np.asarray(self._sd[row])

    @property
    def has_sd(self) -> bool:
        """Whether the standard deviation of a single trial is known."""
        return "std" in self.settings.statistics

    def sem(self, row: int) -> np.ndarray:
        """Standard error of the expected response to an image: float32 (n_voxels,).

        Raises
        ------
        InputError
            When it is not known.
        """
        if "sem" not in self.settings.statistics:
            raise InputError(
                f"{self.folder}: the standard error of the expected response is known of models "
                "trained with repeats of images, by this version or a later one, and not where "
                "noise is added to the latent: synthesize anew, or plot another map (--what std)"
            )
        return np.asarray(self._sem[row])

    @cached_property
    def _sem(self) -> np.ndarray:
        return self._array("stat-sem_statmap", (), self.draws.shape[-1])

    @cached_property
    def _sd(self) -> np.ndarray:
        return self._array("stat-std_statmap", (), self.draws.shape[-1])

    def stimulus(self, row: int) -> np.ndarray | None:
        """Return the stimulus, uint8 (height, width, 3); None where its file no longer exists.

        Nor is there one of an image of which only tokens are known.
        """
        source = Path(self._table["source"][row])
        if is_token_file(source) or not source.is_file():
            return None
        return read_image(source)


def latest_responses(
    workspace: Workspace,
    model: str | None,
    subject: str | None,
    log: Log,
    dataset: str | None = None,
) -> Path:
    """Return the folder of responses written last, of a model, subject or dataset if one is named.

    Parameters
    ----------
    workspace : Workspace
    model, subject : str, optional
    log : callable
        Takes messages: of folders whose settings cannot be read, which are passed over.
    dataset : str, optional
        Of the subject.

    Raises
    ------
    MissingError
        When there are none.
    InputError
        When the model named is of another subject or dataset.
    """
    found = sorted(workspace.outputs.glob(f"[!.]*/{SETTINGS}"), key=lambda p: p.stat().st_mtime)
    folders = [path.parent for path in found if _is_of(path, model, log)]
    if subject is not None:
        label = subject_label(subject)
        folders = [f for f in folders if array_of(f, "desc-draws_betas", label)]
    if dataset is not None:
        folders = [folder for folder in folders if _dataset_of(folder, log) == dataset]
    if not folders:
        # Says which there are.
        chosen = workspace.find_model(model, subject, lambda text: None, dataset)
        raise MissingError(
            f"{workspace.outputs}: no synthesized responses of {chosen.name}: run `synbrain "
            f"synthesize IMAGES --model {shlex.quote(chosen.name)}` first, IMAGES being a folder "
            "of images or image files"
        )
    return folders[-1]


def _dataset_of(folder: Path, log: Log) -> str | None:
    """Dataset of the subject of responses; None where their sidecar cannot be read."""
    try:
        draws = array_of(folder, "desc-draws_betas")
        if draws is not None:
            return read_record(draws.with_suffix(".json"), ResponseSidecar, AGAIN).dataset
    except SynbrainError as error:
        log(f"passed over: {error}")
    return None


def _is_of(path: Path, model: str | None, log: Log) -> bool:
    """Whether settings are those of responses, by that model where one is named."""
    try:
        content = read_json(path)
        if isinstance(content, dict) and content.get("images") is None:
            return False  # settings of another command
        if isinstance(content, dict) and content.get("kind") == "sequence":
            return False  # whole sessions, not responses to images
        settings = convert_settings(content, path)
    except SynbrainError as error:
        log(f"passed over: {error}")
        return False
    return model is None or settings.model == model
