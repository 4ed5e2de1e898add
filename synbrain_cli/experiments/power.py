"""Power: how often an experiment would find a contrast, by simulating it as it would be run.

In every simulated experiment each image has an unexplained signal, which its repeats share and
which is like that of similar images, so that experiments also differ by what the model does not
know; every trial has its own noise. Conditions are compared by an ordinary general linear model of
trials, with a regressor of each condition and a constant for each session.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from synbrain_cli.errors import InputError
from synbrain_cli.experiments.contrast import Contrast
from synbrain_cli.experiments.keeping import Keeping, Values
from synbrain_cli.model.similar_images import draw_errors, root_of
from synbrain_cli.progress import Share
from synbrain_cli.run import RunContext

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRIALS = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)  # of a condition, all sessions together
TOGETHER = 10  # simulated experiments between two files of an interrupted run
IMAGES = (2, 4, 8, 16, 32, 64)
ENOUGH = 0.8  # power that experiments are planned for (Cohen 1988)

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Experiment:
    """How an experiment would be run.

    Attributes
    ----------
    trials : int
        Of each condition in each session.
    sessions : int
    n_simulated : int
        Experiments that are simulated.
    alpha : float
        Two-sided level of the test of a region or voxel, uncorrected.

    Raises
    ------
    InputError
        When one is impossible.
    """

    trials: int = 20
    sessions: int = 1
    n_simulated: int = 500
    alpha: float = 0.05

    def __post_init__(self) -> None:
        for name, least in (("trials", 2), ("sessions", 1), ("n_simulated", 20)):
            if getattr(self, name) < least:
                raise InputError(
                    f"--experiment: expected {name} of {least} or more, found {getattr(self, name)}"
                )
        if not 0 < self.alpha < 1:
            raise InputError(f"alpha: expected more than 0, and less than 1, found {self.alpha:g}")

    @classmethod
    def parse(cls, text: str) -> Experiment:
        """Read ``trials=20,sessions=1``.

        Raises
        ------
        InputError
            When something else is found.
        """
        known = {"trials": "trials", "sessions": "sessions", "simulations": "n_simulated"}
        values = {}
        for part in text.split(","):
            name, equals, value = part.strip().partition("=")
            if name not in known or not equals or not value.strip().isdigit():
                raise InputError(
                    f"--experiment {text}: expected trials=20,sessions=1 (of each condition in "
                    f"each session; and simulations=500), found {part.strip()!r}"
                )
            values[known[name]] = int(value)
        return cls(**values)

    @property
    def n_trials(self) -> int:
        """Trials of each condition, all sessions together."""
        return self.trials * self.sessions


@dataclass(frozen=True, eq=False)
class Power:
    """Power of an experiment: what `power` returns.

    ``needed`` has the trials of each condition that a power of 80 % takes, by region, and
    ``needed_interval`` its interval by what the model does not know of the difference; ``table``
    and ``image_table`` have one row per region and number of trials, or of images.

    Attributes
    ----------
    contrast : Contrast
    experiment : Experiment
    trials : tuple of int
        Of each condition, all sessions together.
    of_regions : float array of shape (n_trials, n_regions)
        Probability to find the difference in the mean of a region, with the sign predicted.
    of_voxels : float array of shape (n_trials, n_voxels)
    images : tuple of int
        Of each condition.
    by_images : float array of shape (n_images, n_regions)
        Probability with as many trials as the experiment has, of so many images. The model of
        trials takes images as they are: few of them, repeated often, "find" what is theirs alone.
    """

    contrast: Contrast
    experiment: Experiment
    trials: tuple[int, ...]
    of_regions: Array
    of_voxels: Array
    images: tuple[int, ...]
    by_images: Array

    @cached_property
    def needed(self) -> Array:
        """Trials of each condition for a power of `ENOUGH`, by region; NaN beyond those tried."""
        return np.array([trials_needed(self.trials, own) for own in self.of_regions.T])

    @cached_property
    def needed_interval(self) -> Array:
        """Interval of ``needed`` by what the model does not know: (n_regions, 2); infinite ends.

        Trials needed are as the inverse square of the difference, of which the ends of the 95 %
        interval are taken, with the model's own standard error.
        """
        table = self.contrast.region_table
        size, error = np.abs(table["difference"]), stats.norm.ppf(0.975) * table["se_model"]
        with np.errstate(divide="ignore"):
            low = self.needed * (size / (size + error)) ** 2
            high = self.needed * (size / np.maximum(size - error, 0)) ** 2
        return np.stack([low, high], 1)

    @property
    def planned(self) -> int:
        """Row of the experiment's own number of trials."""
        return self.trials.index(self.experiment.n_trials)

    @property
    def table(self) -> pd.DataFrame:
        """One row per region and number of trials: ``power``, with a 95 % interval."""
        return _long(self.contrast, "trials", self.trials, self.of_regions, self.experiment)

    def to_nifti(self) -> nib.Nifti1Image:
        """Return the experiment's power at every voxel, on the subject's own grid."""
        return self.contrast.brain.to_nifti(self.of_voxels[self.planned])

    def plot(self) -> Figure:
        """Plot the power over the number of trials, for the regions that need fewest."""
        from synbrain_cli.plotting.contrast import plot_power

        return plot_power(self)

    @property
    def image_table(self) -> pd.DataFrame:
        """One row per region and number of images."""
        return _long(self.contrast, "images", self.images, self.by_images, self.experiment)


def power(
    found: Contrast,
    experiment: Experiment | None = None,
    run: RunContext | None = None,
    *,
    keeping: Keeping | None = None,
) -> Power:
    """Simulate an experiment many times, with more and fewer trials and images.

    Trials of a condition are spread evenly over its images; where there are fewer trials than
    images, images are chosen anew for every simulated experiment.

    Parameters
    ----------
    found : Contrast
    experiment : Experiment, optional
    run : RunContext, optional
        Its seed is that of the simulations.
    keeping : Keeping, optional
        Keeps what was simulated for the run that continues an interrupted one.

    Examples
    --------
    >>> found = contrast(load_model("weights/sub-01"), "faces", "houses")  # doctest: +SKIP
    >>> power(found, Experiment(trials=20)).needed                       # doctest: +SKIP
    """
    experiment, run = experiment or Experiment(), run or RunContext()
    sessions, n = experiment.sessions, experiment.n_trials
    trials = tuple(sorted({k for k in TRIALS if k % sessions == 0 and k // sessions > 1} | {n}))
    fewest = min(found.n_first, len(found.predicted) - found.n_first)
    images = (*(k for k in IMAGES if k < min(fewest, n)), min(fewest, n))
    generator = np.random.default_rng([run.seed, 31])
    simulated = _Simulated(found, experiment, generator, keeping or Keeping())
    with run.progress.stage("simulated experiments") as share:
        over_trials, over_images = share.split(trials[-1], n * len(images))
        by_trials, voxels = simulated.by_trials(trials, over_trials)
        by_images = simulated.by_images(images, over_images)
    return Power(found, experiment, trials, by_trials, voxels, images, by_images)


class _Simulated:
    """Draws trials of both conditions, and tests them."""

    def __init__(
        self,
        found: Contrast,
        experiment: Experiment,
        generator: np.random.Generator,
        keeping: Keeping,
    ) -> None:
        self._predicted, self._experiment = found.predicted, experiment
        self._generator, self._keeping = generator, keeping
        n_first, n_images = found.n_first, len(found.predicted)
        self._conditions = np.arange(n_first), np.arange(n_first, n_images)
        self._root = root_of(self._predicted.shared)
        sd = found.brain.response_sd.astype(np.float64)
        masks = found.regions.values()
        self._regions = np.stack([np.where(m, sd, 0) / m.sum() for m in masks], 1)
        self._sign = np.sign(found.region_table["difference"].to_numpy())
        self._voxel_sign = np.sign(found.difference)

    def by_trials(self, trials: Sequence[int], share: Share) -> tuple[Array, Array]:
        """Power by number of trials, of regions and voxels."""
        n_voxels, n_regions = self._regions.shape
        shapes = {"regions": (len(trials), n_regions), "voxels": (len(trials), n_voxels)}

        def once(found: Values) -> None:
            signals = self._signals()
            drawn = [self._draw(rows, trials[-1], signals) for rows in self._conditions]
            means = [one @ self._regions for one in drawn]
            for k, count in enumerate(trials):
                found["regions"][k] += self._found([one[:count] for one in means], self._sign)
                found["voxels"][k] += self._found([one[:count] for one in drawn], self._voxel_sign)

        n = self._experiment.n_simulated
        found = self._count("trials", shapes, [once] * n, share)
        return found["regions"] / n, found["voxels"] / n

    def by_images(self, images: Sequence[int], share: Share) -> Array:
        """Power of the experiment's number of trials, by number of images."""

        def once(found: Values, k: int) -> None:
            means, signals = [], self._signals()
            for rows in self._conditions:
                own = self._generator.choice(rows, images[k], replace=False)
                drawn = self._draw(own, self._experiment.n_trials, signals)
                means.append(drawn @ self._regions)
            found["regions"][k] += self._found(means, self._sign)

        n, shape = self._experiment.n_simulated, (len(images), self._regions.shape[1])
        each = [partial(once, k=k) for k in range(len(images)) for _ in range(n)]
        return self._count("images", {"regions": shape}, each, share)["regions"] / n

    def _count(
        self,
        name: str,
        shapes: Mapping[str, tuple[int, ...]],
        experiments: Sequence[Callable[[Values], None]],
        share: Share,
    ) -> Values:
        """Simulate experiments in turn, and count how often the difference was found.

        What an interrupted run had counted after the last `TOGETHER` experiments is taken over,
        with the state of the generator.
        """
        total: Values = {key: np.zeros(shape) for key, shape in shapes.items()}
        n = len(experiments)
        for start in range(0, n, TOGETHER):
            own = self._keeping.find(f"{name}-{start}")
            if own is None:
                own = {key: np.zeros(shape, np.uint16) for key, shape in shapes.items()}
                for k, simulate in enumerate(experiments[start : start + TOGETHER], start=start):
                    simulate(own)
                    share.to((k + 1) / n)
                own["generator"] = _state_of(self._generator)
                self._keeping.note(f"{name}-{start}", own)
            else:
                _restore(self._generator, own["generator"])
            for key in total:
                total[key] += own[key]
        return total

    def _signals(self) -> NDArray[np.float32]:
        """Draw unexplained signals of all images: (n_images, n_voxels)."""
        signal = self._predicted.brain.distribution.readout.signal
        return draw_errors(signal, self._root, self._predicted.relative, self._generator)

    def _draw(
        self, rows: NDArray[np.integer], n_trials: int, signals: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Draw trials of a condition in random order: (n_trials, n_voxels), standardised."""
        order = self._generator.permutation(rows)
        shown = np.resize(order, n_trials)
        trials = np.empty((n_trials, self._predicted.brain.n_voxels), np.float32)
        for row in order[:n_trials]:
            own = np.flatnonzero(shown == row)
            readout, mean = self._predicted.readouts[row], self._predicted.means[row]
            trials[own] = readout.draw_given(mean, [signals[row]], [self._generator] * len(own))
        return trials

    def _found(self, trials: Sequence[NDArray[np.floating]], sign: Array) -> NDArray[np.bool_]:
        """Whether the conditions' difference is significant and of the sign predicted: (n,)."""
        first, second = trials
        t, free = glm_contrast(first, second, self._experiment.sessions)
        found: NDArray[np.bool_] = t * sign > stats.t.ppf(1 - self._experiment.alpha / 2, free)
        return found


_WORD = 1 << 64


def _state_of(generator: np.random.Generator) -> NDArray[np.uint64]:
    """State of a PCG64 generator: its two numbers of 128 bits, and what is left of a draw."""
    state: Any = generator.bit_generator.state
    numbers = [state["state"]["state"], state["state"]["inc"]]
    words = [part for number in numbers for part in divmod(number, _WORD)]
    return np.array([*words, state["has_uint32"], state["uinteger"]], np.uint64)


def _restore(generator: np.random.Generator, words: NDArray[np.uint64]) -> None:
    """Bring a PCG64 generator into a state that `_state_of` returned."""
    high, low, inc_high, inc_low, has_uint32, uinteger = map(int, words)
    numbers = {"state": high * _WORD + low, "inc": inc_high * _WORD + inc_low}
    known: Any = {"bit_generator": "PCG64", "state": numbers}
    generator.bit_generator.state = known | {"has_uint32": has_uint32, "uinteger": uinteger}


def glm_contrast(
    first: NDArray[np.floating], second: NDArray[np.floating], sessions: int
) -> tuple[Array, int]:
    """Test two conditions by a general linear model with a constant for each session.

    Parameters
    ----------
    first, second : float arrays of shape (n_trials, n)
        Trials of each condition, the same number in each of the sessions, in order.
    sessions : int

    Returns
    -------
    float64 array of shape (n,)
        t of the first condition − the second.
    int
        Degrees of freedom of the residuals.
    """
    n_trials, n = first.shape
    both = np.stack([first, second], 1, dtype=np.float64)
    of_session = both.reshape(sessions, -1, n)
    centred = of_session - of_session.mean(1, keepdims=True)
    difference = both[:, 0].mean(0) - both[:, 1].mean(0)
    # Conditions are balanced in every session: sums of squares of the two add up
    left = np.square(centred).sum((0, 1)) - n_trials * difference**2 / 2
    free = 2 * n_trials - sessions - 1
    error = np.sqrt(np.maximum(left, 1e-12) / free * 2 / n_trials)
    return difference / error, free


def trials_needed(trials: Sequence[int], powers: Array) -> float:
    """Trials at which the power reaches `ENOUGH`: interpolated on a scale of their logarithm.

    The smallest number tried where that is enough; NaN where the largest is not.
    """
    rising = np.maximum.accumulate(np.asarray(powers, float))
    if rising[-1] < ENOUGH:
        return np.nan
    k = int(np.argmax(rising >= ENOUGH))
    if k == 0:
        return float(trials[0])
    share = (ENOUGH - rising[k - 1]) / (rising[k] - rising[k - 1])
    below, above = np.log(trials[k - 1]), np.log(trials[k])
    return float(np.exp(below + share * (above - below)))


def _long(
    found: Contrast, what: str, numbers: Sequence[int], powers: Array, experiment: Experiment
) -> pd.DataFrame:
    n, rows = experiment.n_simulated, []
    for number, own in zip(numbers, powers, strict=True):
        for region, value in zip(found.regions, own, strict=True):
            interval = stats.binomtest(round(value * n), n).proportion_ci(method="wilson")
            rows.append((region, number, value, interval.low, interval.high))
    return pd.DataFrame(rows, columns=["region", what, "power", "low", "high"])
