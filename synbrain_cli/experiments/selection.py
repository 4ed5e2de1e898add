r"""Images chosen from thousands by what a model of a subject expects of them: `select`.

The score, by which images are ranked, is

- ``drive``, ``suppress``: the expected response of a region, averaged over its voxels, in the
  recorded unit; times −1 to suppress;
- ``contrast``: the sum of both regions' responses, each standardised over the candidates, with its
  sign (relational neural control; Gifford et al. 2025, *Nature Human Behaviour*);
- ``tell-apart``: how far two models are apart, relative to how unsure they are. Of one subject,

  .. math:: \sqrt{\sum_v (m_{av} - m_{bv})^2 \Big/ \sum_v
      (\mathrm{sem}_{av}^2 + \mathrm{sem}_{bv}^2)};

  of two subjects, whose voxels are others, the difference of a region's responses, each
  standardised over the candidates, over its standard error.

Intervals of 95 % are ± 1.96 standard errors of the score (`synbrain_cli.experiments.screening`),
which are widened where the training data show larger errors
(`synbrain_cli.experiments.selection_guard`); the mean and the standard deviation over candidates
count as known. How errors of two models of one subject go together is not known, so that their
distance has no interval.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from synbrain_cli.brain import Brain
from synbrain_cli.brain.images import named_images
from synbrain_cli.errors import InputError
from synbrain_cli.experiments.keeping import Values
from synbrain_cli.experiments.screening import RegionReader, Screen
from synbrain_cli.experiments.selection_aims import (
    Aim,
    Region,
    SelectionSettings,
    find_region,
)
from synbrain_cli.experiments.selection_guard import Guard, TrainingData, fit_halves
from synbrain_cli.features.images import ImageSet
from synbrain_cli.io.voxel_space import POSITION_COLUMNS
from synbrain_cli.model.uncertainty import FARTHEST
from synbrain_cli.plotting.contact_sheet import Picture, plot_contact_sheet
from synbrain_cli.plotting.labels import Labels, simulated_note
from synbrain_cli.run import RunContext

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NORMAL = 1.959964  # standard errors on either side of an interval of 95 %
MOST_SHOWN = 20  # pictures at each end of a contact sheet
CHOSEN, OPPOSITE, OTHER = CONDITIONS = ("chosen", "opposite", "other")

Array = NDArray[np.float64]


class Score(NamedTuple):
    """What images are ranked by.

    Attributes
    ----------
    value, error : float64 arrays of shape (n_images,)
        Score and its standard error; NaN where it is not known.
    unit : str
    weights : float64 array of shape (n_regions,), optional
        The score is the weighted sum of the regions' responses, but for a constant; None where it
        is none.
    """

    value: Array
    error: Array
    unit: str
    weights: Array | None = None


@dataclass(frozen=True, eq=False)
class Selection:
    """Images ranked by what a model expects of them: what `select` returns.

    Attributes
    ----------
    brains : tuple of Brain
        One, or the two that images tell apart.
    settings : SelectionSettings
    readers : tuple of RegionReader
    pictures : ImageSet
        The candidates.
    values : dict of float64 arrays
        `Screen.through`.
    score : Score
    guard : Guard, optional
        How much of the model's own estimates is believed; None without the training data.
    trained : bool array of shape (n_images,), optional
        Images that the model was trained on, by their pixels; None without the training data.
    table : DataFrame
        One row per image, best first: its condition ("chosen", "opposite" or "other"), score and
        interval, distance from the training images, and the response of each region.
    """

    brains: tuple[Brain, ...]
    settings: SelectionSettings
    readers: tuple[RegionReader, ...]
    pictures: ImageSet
    values: Values
    score: Score
    guard: Guard | None
    trained: NDArray[np.bool_] | None = None

    @property
    def n_chosen(self) -> int:
        """How many images are chosen."""
        return self.settings.n_chosen(len(self.pictures))

    @cached_property
    def order(self) -> NDArray[np.intp]:
        """Rows of the images, highest score first; equal scores by name."""
        order: NDArray[np.intp] = np.lexsort((np.array(self.pictures.names), -self.score.value))
        return order

    @cached_property
    def distance(self) -> Array:
        """Distance of each image from the training images, percent; of two models the larger."""
        known: Array = self.values["distance"].max(1)
        return known

    @property
    def table(self) -> pd.DataFrame:
        """One row per image, best first.

        Columns: ``name``, ``image`` (its file; of an array its name), ``condition`` ("chosen",
        "opposite" or "other"), ``score``, ``low`` and ``high`` (ends of its interval),
        ``distance``, ``trained`` (1: the model was trained on it; absent without its data),
        ``mean_<region>`` and ``sem_<region>`` (response and its standard error, in the recorded
        unit). Of two models the last have the model's name behind them, and of two subjects
        ``difference`` has a sign.
        """
        value, error = self.score.value, self.score.error
        low, high = value - NORMAL * error, value + NORMAL * error
        if self.settings.criterion == "tell-apart":  # a distance
            low = np.maximum(low, 0)
        columns: dict[str, Any] = {
            "name": self.pictures.names,
            "image": list(map(_file, self.pictures.names, self.pictures.sources)),
            "condition": OTHER,
            "score": value,
            "low": low,
            "high": high,
            "distance": self.distance,
        }
        if self.trained is not None:
            columns["trained"] = self.trained.astype(int)
        mean, covariance = self.values["mean"], self.values["covariance"]
        for m, reader in enumerate(self.readers):
            of_model = f"_{reader.brain.name}" if len(self.readers) > 1 else ""
            for r, region in enumerate(reader.regions):
                columns[f"mean_{region.name}{of_model}"] = mean[:, m, r]
                columns[f"sem_{region.name}{of_model}"] = np.sqrt(covariance[:, m, r, r])
        if len(self.readers) > 1 and "apart" not in self.values:
            columns["difference"] = _differences(self.values)[0]
        table = pd.DataFrame(columns).iloc[self.order].reset_index(drop=True)
        table.loc[: self.n_chosen - 1, "condition"] = CHOSEN
        table.loc[len(table) - self.n_chosen :, "condition"] = OPPOSITE
        return table

    @property
    def conditions(self) -> pd.DataFrame:
        """Files of the chosen and of the opposite images, as `synbrain contrast` takes them."""
        table = self.table
        return table.loc[table["condition"] != OTHER, ["image", "condition"]]

    def rows(self, condition: str) -> NDArray[np.intp]:
        """Rows of the images that are "chosen" or "opposite", best first."""
        n = self.n_chosen
        return self.order[:n] if condition == CHOSEN else self.order[-n:]

    def own_estimate(self, condition: str) -> float:
        """Mean score of a set, less that of all candidates, by the model that chose it."""
        return float(self.score.value[self.rows(condition)].mean() - self.score.value.mean())

    def independent_estimate(self, condition: str) -> float | None:
        """The same, as far as it is believed (`synbrain_cli.experiments.selection_guard`)."""
        return None if self.guard is None else self.guard.share * self.own_estimate(condition)

    def plot(self) -> Figure:
        """Plot the best and the worst images, at most 20 each, with names and scores."""
        groups = []
        value, error = self.score.value, self.score.error
        first = f", the first {MOST_SHOWN} of {self.n_chosen}" if self.n_chosen > MOST_SHOWN else ""
        for title, rows in (
            (f"Chosen: the highest scores{first}", self.rows(CHOSEN)[:MOST_SHOWN]),
            (f"Opposite: the lowest scores{first}", self.rows(OPPOSITE)[::-1][:MOST_SHOWN]),
        ):
            shown = [
                Picture(
                    self.pictures[row],
                    self.pictures.names[row],
                    _written(value[row], error[row]),
                    bool(self.distance[row] >= FARTHEST),
                )
                for row in rows.tolist()
            ]
            groups.append((title, shown))
        return plot_contact_sheet(groups, Labels(self.title, self.score.unit, note=self._note))

    @property
    def title(self) -> str:
        """What the images were selected for, in one sentence."""
        names = " and ".join(brain.name for brain in self.brains)
        of = self.settings.of
        what = {
            "drive": f"large expected response of {of}",
            "suppress": f"small expected response of {of}",
            "contrast": f"contrast {of}",
            "tell-apart": f"responses{f' of {of}' if of else ''} on which the two models differ",
        }[self.settings.criterion]
        return f"{names}: {what}, {len(self.pictures):,} images"

    @property
    def _note(self) -> str | None:
        return next(filter(None, map(simulated_note, self.brains)), None)


def _file(name: str, source: str) -> str:
    """Path of an image's file; its name where it has none."""
    return name if source == "array" else str(Path(source).resolve())


def _written(value: float, error: float) -> str:
    """A score and its interval."""
    if not np.isfinite(error):
        return f"{value:.2f}"
    return f"{value:.2f} ({value - NORMAL * error:.2f} to {value + NORMAL * error:.2f})"


def select(
    model: Brain | tuple[Brain, Brain],
    images: Any,
    settings: SelectionSettings,
    *,
    data: TrainingData | None = None,
    run: RunContext | None = None,
    recovery: Path | None = None,
) -> Selection:
    """Rank images by what a model expects of them, and choose the first.

    Parameters
    ----------
    model : Brain, or two of them
        Two are told apart, by the images on which they differ most.
    images
        The candidates: as `Brain.mean` takes them, but for tokens.
    settings : SelectionSettings
    data : TrainingData, optional
        The data that the model was trained on: what the chosen set is worth is then also estimated
        by fits that had no part in choosing it.
    run : RunContext, optional
        Its seed deals training images to two halves.
    recovery : path, optional
        Folder in which numbers are kept meanwhile, for the run that continues an interrupted one.

    Raises
    ------
    InputError, MissingError
        When a region is not there; there are fewer than two images, or fewer than twice as many as
        are to be chosen; the model has no image encoder here; two models cannot be compared.

    Examples
    --------
    >>> from synbrain_cli import load_model                          # doctest: +SKIP
    >>> model = load_model("weights/sub-01")                         # doctest: +SKIP
    >>> select(model, "images", SelectionSettings(drive="FFA-1")).table  # doctest: +SKIP
    """
    run = run or RunContext()
    pictures = named_images(images) or ImageSet.of(images)
    settings.n_chosen(len(pictures))
    if isinstance(model, Brain):
        aims = settings.aims(model)
        regions = tuple(aim.region for aim in aims)
        halves = None
        if data is not None and settings.independent:
            halves = fit_halves(model, data, regions, run, recovery)
        reader = RegionReader(model, regions)
        values = Screen((reader,), halves).through(pictures, run, recovery)
        trained = None if data is None else data.holds(model, pictures)
        if halves is not None:
            values["covariance"] = widened(reader, values["covariance"], halves.unexplained)
        score = _score(aims, values, model.unit)
        guard = None
        if halves is not None and score.weights is not None:
            guard = halves.guard(score.weights, values["halves"])
        return Selection((model,), settings, (reader,), pictures, values, score, guard, trained)
    readers, voxelwise = compared(model, settings)
    values = Screen(readers, voxelwise=voxelwise).through(pictures, run, recovery)
    score = _distance(values, voxelwise)
    return Selection(model, settings, readers, pictures, values, score, None)


def widened(reader: RegionReader, covariance: Array, unexplained: Array) -> Array:
    """Make standard errors of regions as large, on average, as recordings say, if they are smaller.

    Correlations between two regions' errors are those of the recordings.

    Parameters
    ----------
    reader : RegionReader
    covariance : float64 array of shape (n_images, 1, n_regions, n_regions)
        By the model.
    unexplained : float64 array of shape (n_regions, n_regions)
        `Halves.unexplained`.
    """
    model, recorded = np.diag(reader.average_covariance()), np.diag(unexplained)
    if not (model > 0).all() or not (recorded > 0).all():
        return covariance
    factor = np.sqrt(np.maximum(1, recorded / model))
    sem = np.sqrt(np.diagonal(covariance, axis1=-2, axis2=-1)) * factor
    r = np.clip(unexplained / np.sqrt(np.outer(recorded, recorded)), -1, 1)
    return np.asarray(sem[..., :, None] * sem[..., None, :] * r)


def _score(aims: tuple[Aim, ...], values: Values, unit: str) -> Score:
    """Weigh the responses of the regions."""
    mean, covariance = values["mean"][:, 0], values["covariance"][:, 0]
    weights = np.array([aim.sign for aim in aims], float)
    centre = np.zeros(len(aims))
    if len(aims) > 1:
        centre, sd = mean.mean(0), mean.std(0)
        for aim, one in zip(aims, sd, strict=True):
            _require_spread(aim.region.name, float(one))
        weights /= sd
        unit = "standard deviations of expected responses over the images"
    variance = np.einsum("r,irs,s->i", weights, covariance, weights)
    return Score((mean - centre) @ weights, np.sqrt(variance), unit, weights)


def _require_spread(region: str, sd: float) -> None:
    if not sd > 0:
        raise InputError(
            f"{region}: expected responses that differ between images, found the same one to all: "
            "name other images, or another region"
        )


def _distance(values: Values, voxelwise: bool) -> Score:
    """How far two models are apart, relative to how unsure they are."""
    unit = "standard errors"
    if voxelwise:
        value = np.sqrt(values["apart"] / values["error"])
        return Score(value, np.full(len(value), np.nan), "root summed squares of standard errors")
    sd = values["mean"][:, :, 0].std(0)
    _require_spread("--roi", float(sd.min()))
    difference, error = _differences(values)
    return Score(np.abs(difference) / error, np.ones(len(error)), unit)


def _differences(values: Values) -> tuple[Array, Array]:
    """Difference of two models' standardised responses, and its standard error: (n_images,)."""
    mean, variance = values["mean"][:, :, 0], values["covariance"][:, :, 0, 0]
    sd = mean.std(0)
    standard = (mean - mean.mean(0)) / sd
    return standard[:, 0] - standard[:, 1], np.sqrt((variance / sd**2).sum(1))


def compared(
    brains: tuple[Brain, Brain], settings: SelectionSettings
) -> tuple[tuple[RegionReader, ...], bool]:
    """Find how two models can be compared.

    Returns
    -------
    readers : tuple of RegionReader
    voxelwise : bool
        Whether they are of one subject.

    Raises
    ------
    InputError
        When they cannot, something else was asked for, or the region is not in both.
    """
    first, second = brains
    if settings.criterion != "tell-apart":
        raise InputError(
            f"--{settings.criterion} {settings.of}: expected one model, found {first.name} and "
            f"{second.name}: two are told apart"
        )
    if first.config.fingerprint == second.config.fingerprint:
        raise InputError(f"--tell-apart: expected two models, found {first.name} twice")
    for brain in brains:
        if "sem" not in brain.statistics("mean"):
            raise InputError(
                f"--tell-apart: {brain.name} does not know the standard error of its expected "
                "responses (published weights, or no image was shown twice in training): name "
                "another model"
            )
    voxelwise = first.config.label == second.config.label
    if voxelwise:
        _require_same_voxels(first, second)
    if settings.roi is None:
        if not voxelwise:
            shared = ", ".join(name for name in first.rois() if name in second.rois()) or "none"
            raise InputError(
                f"--tell-apart {first.name},{second.name}: expected --roi, as voxels of two "
                f"subjects cannot be compared; ROIs of both: {shared}"
            )
        everywhere = Region("all", np.ones(first.n_voxels, bool))
        return tuple(RegionReader(brain, (everywhere,)) for brain in brains), True
    regions = [find_region(brain, settings.roi, "--roi") for brain in brains]
    if not voxelwise and settings.roi not in first.rois() and "voxel:" in settings.roi:
        raise InputError(
            f"--roi {settings.roi}: expected ROIs, as voxels of two subjects cannot be compared"
        )
    readers = tuple(RegionReader(b, (r,)) for b, r in zip(brains, regions, strict=True))
    return readers, voxelwise


def _require_same_voxels(first: Brain, second: Brain) -> None:
    """Refuse models of one subject that was prepared with another mask in between."""
    columns = [column for column in POSITION_COLUMNS if column in first.voxels]
    if first.n_voxels != second.n_voxels or not (
        set(columns) <= set(second.voxels) and first.voxels[columns].equals(second.voxels[columns])
    ):
        raise InputError(
            f"--tell-apart: {first.name} and {second.name} are of {first.config.label}, with other "
            "voxels: train both on the same prepared data"
        )
