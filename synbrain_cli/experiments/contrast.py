r"""Contrast of the responses to two conditions, with the sources of its uncertainty kept apart.

For images i of condition A and j of condition B, and m the expected responses,

.. math:: D = \frac{1}{n_A} \sum_i m_i - \frac{1}{n_B} \sum_j m_j

- **images**: another sample of images of the two conditions would give another D. Its standard
  error is Welch's, from the variance of m over the images of each condition.
- **model**: the true mean responses to *these* images differ from m. Errors of similar images are
  alike (`synbrain_cli.model.similar_images`).
- **trials**: noise of an experiment that shows every image once.

The t statistic is that of a two-sample t test over images; maps are corrected for the number of
voxels by the maximum over voxels under permutations of the images' conditions (Nichols & Holmes
2002, *Human Brain Mapping* 15:1; `nilearn.mass_univariate.permuted_ols`), regions likewise for the
number of regions.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from synbrain_cli.brain import Brain
from synbrain_cli.errors import InputError
from synbrain_cli.evaluation.test_set import scored_regions
from synbrain_cli.experiments.conditions import Condition, check_conditions, images_of
from synbrain_cli.experiments.controls import (
    low_level_statistics,
    phase_scrambled,
)
from synbrain_cli.experiments.keeping import Keeping, Values
from synbrain_cli.experiments.predicted import Predicted, predict
from synbrain_cli.features.images import ImageSet
from synbrain_cli.io.bids import bids_label
from synbrain_cli.io.voxel_space import POSITION_COLUMNS
from synbrain_cli.plotting.map_plotter import Look, MapPlotter
from synbrain_cli.plotting.maps import BrainMap
from synbrain_cli.progress import Progress
from synbrain_cli.run import RunContext

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CORRECTIONS = ("fwe", "fdr")

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ContrastSettings:
    """How a contrast is tested.

    Attributes
    ----------
    correction : {"fwe", "fdr"}
        Of maps: family-wise error by permutation, or false discovery rate (Benjamini & Hochberg
        1995) of the t test.
    alpha : float
        Level of the correction.
    n_permutations : int
    controls : bool
        Whether phase-scrambled images are shown, too, and low-level statistics adjusted for.

    Raises
    ------
    InputError
        When one is impossible.
    """

    correction: str = "fwe"
    alpha: float = 0.05
    n_permutations: int = 2000
    controls: bool = True

    def __post_init__(self) -> None:
        if self.correction not in CORRECTIONS:
            raise InputError(
                f"--correction {self.correction}: expected one of {', '.join(CORRECTIONS)}"
            )
        if not 0 < self.alpha < 1:
            raise InputError(f"--alpha {self.alpha:g}: expected more than 0, and less than 1")
        if self.n_permutations < 1 / self.alpha:
            raise InputError(
                f"--permutations {self.n_permutations}: expected {int(np.ceil(1 / self.alpha)):,} "
                f"or more, to reach a level of {self.alpha:g}"
            )


@dataclass(frozen=True)
class StandardErrors:
    """Standard errors of a difference, by source: float arrays (n_voxels,) or (n_regions,)."""

    images: Array
    model: Array
    trials: Array

    @property
    def total(self) -> Array:
        """Of images and model together."""
        return np.sqrt(self.images**2 + self.model**2)


@dataclass(frozen=True, eq=False)
class ContrastTest:
    """A two-sample t test over images, of voxels or regions.

    Attributes
    ----------
    t, z : float arrays of shape (n,)
        z has the same p value.
    p, p_corrected : float arrays of shape (n,)
        Two-sided; corrected as the settings say.
    """

    t: Array
    z: Array
    p: Array
    p_corrected: Array


@dataclass(frozen=True, eq=False)
class Shown:
    """Images of an experiment that were shown to a model.

    Attributes
    ----------
    predicted : Predicted
        Expected responses to them.
    low_level : float array of shape (n_images, 4), optional
        `synbrain_cli.experiments.controls.LOW_LEVEL` statistics; None without controls.
    scrambled : float32 array of shape (n_images, n_voxels), optional
        Expected responses to the phase-scrambled images, standardised; None without controls.
    """

    predicted: Predicted
    low_level: Array | None = None
    scrambled: NDArray[np.float32] | None = None

    def part(self, rows: NDArray[np.integer]) -> Shown:
        """Return some of the images."""
        return Shown(
            self.predicted.part(rows),
            None if self.low_level is None else self.low_level[rows],
            None if self.scrambled is None else self.scrambled[rows],
        )


@dataclass(frozen=True, eq=False)
class Contrast:
    """The difference of the responses to two conditions: what `contrast` returns.

    ``region_table`` has one row per region: the difference of its mean with a 95 % interval, d,
    standard errors by source, p corrected over the regions, and the controls. ``table`` has one row
    per voxel. ``difference``, ``errors``, ``test``, ``adjusted`` and ``scrambled`` are the same as
    arrays; ``significant`` voxels are those after correction.

    Attributes
    ----------
    brain : Brain
    names : (str, str)
        Of the conditions: the first minus the second.
    settings : ContrastSettings
    shown : Shown
        All images, those of the first condition first.
    n_first : int
        Images of the first condition.
    seed : int
        Of the permutations.
    """

    brain: Brain
    names: tuple[str, str]
    settings: ContrastSettings
    shown: Shown
    n_first: int
    seed: int = 0

    @property
    def predicted(self) -> Predicted:
        """Expected responses to all images."""
        return self.shown.predicted

    @cached_property
    def weights(self) -> Array:
        """What each image counts in the difference: (n_images,)."""
        weights = np.full(len(self.predicted), -1 / (len(self.predicted) - self.n_first))
        weights[: self.n_first] = 1 / self.n_first
        return weights

    @cached_property
    def regions(self) -> dict[str, NDArray[np.bool_]]:
        """All voxels, and every region that is large enough."""
        return {"all": np.ones(self.brain.n_voxels, bool), **scored_regions(self.brain)}

    @cached_property
    def difference(self) -> Array:
        """D of every voxel, in the recorded unit."""
        return _difference(self.predicted.means, self.weights) * self.brain.response_sd

    @cached_property
    def scrambled(self) -> Array | None:
        """D of phase-scrambled images, in the recorded unit; None without controls."""
        if self.shown.scrambled is None:
            return None
        return _difference(self.shown.scrambled, self.weights) * self.brain.response_sd

    @cached_property
    def errors(self) -> StandardErrors:
        """Standard errors of every voxel, in the recorded unit."""
        sd, weights = self.brain.response_sd, self.weights
        return StandardErrors(
            _welch(self.predicted.means, self.n_first) * sd,
            np.sqrt(self.predicted.error_variance(weights)) * sd,
            np.sqrt(self.predicted.noise_variance(weights)) * sd,
        )

    @cached_property
    def test(self) -> ContrastTest:
        """Test of every voxel."""
        return self._test(self.predicted.means)

    @cached_property
    def adjusted(self) -> ContrastTest | None:
        """Test of every voxel beside low-level statistics of the images; None without controls."""
        if self.shown.low_level is None:
            return None
        return self._test(self.predicted.means, self._confounds())

    @cached_property
    def confounded(self) -> float | None:
        """Share of the variance of the condition that low-level statistics explain; None without.

        Where it is large, conditions and statistics cannot be told apart.
        """
        if self.shown.low_level is None:
            return None
        condition = (np.arange(len(self.predicted)) < self.n_first).astype(float)
        condition -= condition.mean()
        confounds = self._confounds()
        if not confounds.shape[1]:
            return 0.0
        fitted = confounds @ np.linalg.lstsq(confounds, condition, rcond=None)[0]
        return float(np.square(fitted).sum() / np.square(condition).sum())

    @cached_property
    def significant(self) -> NDArray[np.bool_]:
        """Voxels whose difference is significant after correction."""
        return self.test.p_corrected < self.settings.alpha

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per voxel: position, difference, standard errors by source, tests, controls."""
        voxels = self.brain.voxels
        known = [column for column in (*POSITION_COLUMNS, "ncsnr") if column in voxels]
        columns = {
            "difference": self.difference,
            "se_images": self.errors.images,
            "se_model": self.errors.model,
            "se_trials": self.errors.trials,
            "t": self.test.t,
            "z": self.test.z,
            "p": self.test.p,
            "p_corrected": self.test.p_corrected,
        }
        if self.adjusted is not None and self.scrambled is not None:
            columns |= {"t_adjusted": self.adjusted.t, "scrambled": self.scrambled}
        return voxels[known].assign(**columns)

    @cached_property
    def region_table(self) -> pd.DataFrame:
        """One row per region: effect with interval, its sources, tests, controls.

        Of the mean over a region's voxels: ``difference`` in the recorded unit with a 95 % interval
        (``low``, ``high``: images and model), ``d`` (Cohen 1988: in SDs over the images of a
        condition), standard errors by source, ``p_corrected`` over the regions, the difference
        ``adjusted`` for low-level statistics and ``p_adjusted``, and that of ``scrambled`` images.
        """
        names, masks = list(self.regions), list(self.regions.values())
        sd = self.brain.response_sd.astype(np.float64)
        means = np.stack([(self.predicted.means * sd)[:, mask].mean(1) for mask in masks], 1)
        found, parts = _difference(means, self.weights), self.predicted
        averages = [np.where(mask, sd, 0) / mask.sum() for mask in masks]
        errors = StandardErrors(
            _welch(means, self.n_first),
            np.sqrt([parts.error_variance_of_sum(self.weights, one) for one in averages]),
            np.sqrt([parts.noise_variance_of_sum(self.weights, one) for one in averages]),
        )
        test = self._test(means)
        reach = stats.t.ppf(0.975, len(self.weights) - 2) * errors.total
        table = pd.DataFrame(
            {
                "region": names,
                "n_voxels": [int(mask.sum()) for mask in masks],
                "n_significant": [int(self.significant[mask].sum()) for mask in masks],
                "difference": found,
                "low": found - reach,
                "high": found + reach,
                "d": found / _pooled_sd(means, self.n_first),
                "se_images": errors.images,
                "se_model": errors.model,
                "se_trials": errors.trials,
                "t": test.t,
                "p": test.p,
                "p_corrected": test.p_corrected,
            }
        )
        if self.scrambled is not None:
            confounds = self._confounds()
            beside = self._test(means, confounds)
            table["adjusted"] = _adjusted(means, self.n_first, confounds)
            table["p_adjusted"] = beside.p_corrected
            table["scrambled"] = [self.scrambled[mask].mean() for mask in masks]
        return table

    def to_nifti(self) -> dict[str, nib.Nifti1Image]:
        """Return volumes of "difference", "t", "z" and of z where it is "significant"."""
        return {name: self.brain.to_nifti(values) for name, values in self.values().items()}

    def values(self) -> dict[str, Array]:
        """Values of the maps, (n_voxels,) each; NaN where nothing is significant."""
        return {
            "difference": self.difference,
            "t": self.test.t,
            "z": self.test.z,
            "significant": np.where(self.significant, self.test.z, np.nan),
        }

    def plot(self, what: str = "significant", look: Look | None = None) -> Figure:
        """Plot a flatmap of "difference", "t", "z" or "significant".

        Parameters
        ----------
        what : str
        look : Look, optional

        Raises
        ------
        InputError
            When there is no such map, or no voxel is significant.
        """
        maps = self.maps()
        if what not in maps:
            raise InputError(f"what: expected one of {', '.join(maps)}, found {what!r}")
        plot_map = MapPlotter(self.brain, "flatmap", look or Look(), Progress(quiet=True))
        if not plot_map.shows(maps[what]):
            raise InputError(f"{self.title}: no voxel is significant, so there is no such map")
        return plot_map(maps[what])

    @property
    def label(self) -> str:
        """BIDS label of the contrast: ``faceMinushouse``."""
        return "Minus".join(map(bids_label, self.names))

    @property
    def title(self) -> str:
        """The first condition − the second."""
        return f"{self.names[0]} − {self.names[1]}"

    def maps(self) -> dict[str, BrainMap]:
        """Return maps with title and unit."""
        brain = self.brain
        level = f"{self.settings.correction.upper()} p < {self.settings.alpha:g}"
        units = {
            "difference": brain.unit,
            "t": f"t over {len(self.predicted)} images",
            "z": f"z over {len(self.predicted)} images",
            "significant": f"z ({level})",
        }
        return {
            name: BrainMap(
                f"sub-{brain.subject}_contrast-{self.label}_stat-{name}",
                f"{self.title}, {brain.name}",
                units[name],
                values,
            )
            for name, values in self.values().items()
        }

    def _confounds(self) -> Array:
        assert self.shown.low_level is not None
        varies = self.shown.low_level.std(0) > 1e-9
        kept = self.shown.low_level[:, varies]
        confounds: Array = (kept - kept.mean(0)) / kept.std(0)
        return confounds[:, : max(len(self.weights) - 4, 0)]

    def _test(self, values: NDArray[np.floating], confounds: Array | None = None) -> ContrastTest:
        """Test columns (n_images, n) for a difference of conditions."""
        from nilearn.mass_univariate import permuted_ols  # a second to import

        if confounds is not None and not confounds.shape[1]:
            confounds = None
        condition = np.zeros((len(values), 1))
        condition[: self.n_first] = 1
        free = len(values) - 2 - (0 if confounds is None else confounds.shape[1])
        with np.errstate(invalid="ignore", divide="ignore"):  # of voxels that do not vary: t is 0
            found = permuted_ols(
                condition,
                values.astype(np.float64),
                confounding_vars=confounds,
                n_perm=self.settings.n_permutations if self.settings.correction == "fwe" else 0,
                random_state=self.seed,
                output_type="dict",
            )
        t = np.nan_to_num(found["t"][0])
        p = 2 * stats.t.sf(np.abs(t), free)
        z = np.sign(t) * -stats.norm.ppf(np.maximum(p, 1e-300) / 2)
        if self.settings.correction == "fdr":
            corrected = stats.false_discovery_control(p)
        else:
            corrected = np.minimum(10.0 ** -found["logp_max_t"][0], 1)
        return ContrastTest(t, z, p, corrected)


def contrast(
    brain: Brain,
    first: Any,
    second: Any,
    settings: ContrastSettings | None = None,
    run: RunContext | None = None,
    *,
    keeping: Keeping | None = None,
) -> Contrast:
    """Contrast the expected responses to two conditions.

    Parameters
    ----------
    brain : Brain
    first, second : Condition, or images as `Brain.mean` takes them
    settings : ContrastSettings, optional
    run : RunContext, optional
        Its seed is that of permutations and of scrambled phases.
    keeping : Keeping, optional
        Keeps the responses for the run that continues an interrupted one.

    Raises
    ------
    InputError
        When a condition has fewer than two images, or both have one image.

    Examples
    --------
    >>> found = contrast(load_model("weights/sub-01"), "faces", "houses")  # doctest: +SKIP
    >>> found.region_table                                               # doctest: +SKIP
    """
    settings, run = settings or ContrastSettings(), run or RunContext()
    conditions = [_condition(first, "first"), _condition(second, "second")]
    check_conditions(conditions)
    shown = show(brain, conditions, settings.controls, run, keeping)
    names = conditions[0].name, conditions[1].name
    return Contrast(brain, names, settings, shown, len(conditions[0]), run.seed)


def show(
    brain: Brain,
    conditions: Sequence[Condition],
    controls: bool,
    run: RunContext,
    keeping: Keeping | None = None,
) -> Shown:
    """Show the images of all conditions to a model, one condition after the other.

    Parameters
    ----------
    brain : Brain
    conditions : sequence of Condition
    controls : bool
        Whether phase-scrambled images are shown, too.
    run : RunContext
        Its seed is that of the phases.
    keeping : Keeping, optional
        Keeps the responses for the run that continues an interrupted one.
    """
    keeping = keeping or Keeping()
    images = joined(conditions)
    total = len(images) * (2 if controls else 1)
    with run.progress.bar("images", total, shorter="fewer images, or --no-controls") as bar:
        predicted = predict(brain, images, bar, keeping)
        if not controls:
            return Shown(predicted)
        generator = np.random.default_rng([run.seed, 21])
        stream = partial(_scrambled, brain, images, generator)
        scrambled = keeping.in_pieces("scrambled", len(images), stream, bar)["mean"]
        return Shown(predicted, low_level_statistics(images), scrambled)


def _scrambled(
    brain: Brain, images: ImageSet, generator: np.random.Generator, rows: Sequence[int]
) -> Generator[Values, None, None]:
    """Yield the responses to phase-scrambled images; phases are drawn for the others, too."""
    left = set(rows)
    for k in range(max(rows, default=-1) + 1):
        turned = phase_scrambled(images[k], generator)
        if k in left:
            yield {"mean": brain.mean(turned[None], unit="z")[0]}


def _condition(images: Any, name: str) -> Condition:
    if isinstance(images, Condition):
        return images
    found = images_of(images)
    folder = str(images).rstrip("/").rpartition("/")[2] if isinstance(images, str) else ""
    return Condition(folder or getattr(images, "name", "") or name, found)


def joined(conditions: Sequence[Condition]) -> ImageSet:
    """Return all images, one condition after the other, read when they are used."""
    names = [f"{one.name}_{name}" for one in conditions for name in one.images.names]
    items = [item for one in conditions for item in one.images.items]
    return ImageSet(items, names)


def _difference(values: NDArray[np.floating], weights: Array) -> Array:
    difference: Array = weights @ values.astype(np.float64)
    return difference


def _welch(values: NDArray[np.floating], n_first: int) -> Array:
    """Standard error of a difference of means over images."""
    parts = values[:n_first].astype(np.float64), values[n_first:].astype(np.float64)
    error: Array = np.sqrt(sum(part.var(0, ddof=1) / len(part) for part in parts))
    return error


def _pooled_sd(values: NDArray[np.floating], n_first: int) -> Array:
    """SD over the images of a condition; NaN where they do not vary."""
    parts = values[:n_first].astype(np.float64), values[n_first:].astype(np.float64)
    squares = sum(part.var(0, ddof=1) * (len(part) - 1) for part in parts)
    pooled: Array = np.sqrt(squares / (len(values) - 2))
    return np.where(pooled > 0, pooled, np.nan)


def _adjusted(values: Array, n_first: int, confounds: Array) -> Array:
    """Difference of conditions beside confounds, by least squares: (n,)."""
    condition = np.zeros(len(values))
    condition[:n_first] = 1
    design = np.column_stack([condition, np.ones(len(values)), confounds])
    coefficients: Array = np.linalg.lstsq(design, values, rcond=None)[0][0]
    return coefficients
