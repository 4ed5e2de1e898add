r"""Learning curves: how a score increases with the amount of training data, by a log-linear law.

.. math:: s_{ij} = a_i + b \log_{10} x_{ij}

is the score of subject i after an amount x of data (hours, sessions, images). The scores of
encoding models of fMRI were found to grow so with the size of the training set (Antonello, Vaidya &
Huth 2023, *NeurIPS*, "Scaling laws for language encoding models in fMRI"). Fitting such laws comes
from language models, whose loss falls as a power of the amount (Kaplan et al. 2020,
arXiv:2001.08361); a correlation has a ceiling, so that this law can only hold well below it.

Subjects differ in how well they can be predicted at all (their noise ceiling) and often in how much
data they have. Hence an intercept for each and one slope for all: a subject who lacks the large
amounts does not bend the line.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from synbrain_cli.errors import InputError, InputTypeError

_MIN_RESAMPLED = 3  # number of subjects from which they are resampled (ours)


class Refits(NamedTuple):
    """The line refitted to every bootstrap sample of images.

    Attributes
    ----------
    slopes : float64 array of shape (n_boot,)
        NaN where a sample holds no subject with scores at two different amounts.
    intercepts : float64 array of shape (n_boot, n_subjects)
        Where subjects were resampled, those of the subjects drawn, in the order drawn.
    """

    slopes: NDArray[np.float64]
    intercepts: NDArray[np.float64]


class NormalError(NamedTuple):
    """Errors of the mean line, if residuals are independent and normal with one variance.

    Attributes
    ----------
    centre : float
        log10 amount at which height and slope of the mean line are uncorrelated.
    height, slope : float
        Standard error of the height there, and of the slope.
    n_degrees : int
        Degrees of freedom: n_points − n_subjects − 1.
    """

    centre: float
    height: float
    slope: float
    n_degrees: int


@dataclass(frozen=True, eq=False)
class LearningCurveFit:
    """A fitted line: score = intercept + slope · log10(amount). Made by `fit_learning_curve`.

    Attributes
    ----------
    amounts : float64 array of shape (n_amounts,)
        As given.
    slope : float
        Score gained per tenfold amount.
    slope_ci : tuple of float
        Its interval; (NaN, NaN) where nothing is left over to estimate an error from.
    intercepts : float64 array of shape (n_subjects,)
        Score of each subject at amount 1, which may lie outside the amounts measured.
    r2 : float
        Part of the variance over amounts, within subjects, that the line explains; NaN where no
        score varies.
    level : float
        Probability inside every interval.
    refits : Refits, optional
        The refits, if intervals come from a bootstrap.
    error : NormalError, optional
        Standard errors, if intervals come from the residuals.
    """

    amounts: NDArray[np.float64]
    slope: float
    slope_ci: tuple[float, float]
    intercepts: NDArray[np.float64]
    r2: float
    level: float
    refits: Refits | None = None
    error: NormalError | None = None

    @property
    def interval(self) -> str:
        """Source of the intervals: "residuals", "images", or "images and subjects"."""
        if self.refits is None:
            return "residuals"
        return "images and subjects" if len(self.intercepts) >= _MIN_RESAMPLED else "images"

    def predict(self, amounts: ArrayLike, subject: int | None = None) -> NDArray[np.float64]:
        """Score the line gives.

        Parameters
        ----------
        amounts : array of any shape
            Above 0. Outside the amounts measured this is extrapolation.
        subject : int, optional
            Row of the scores fitted; by default the mean line, of the mean intercept.

        Returns
        -------
        float64 array of the shape of ``amounts``
        """
        n_subjects = len(self.intercepts)
        if subject is not None and not 0 <= subject < n_subjects:
            raise InputError(f"subject: expected 0 to {n_subjects - 1}, found {subject}")
        intercept = self.intercepts.mean() if subject is None else self.intercepts[subject]
        return intercept + self.slope * np.log10(_positive(amounts))

    def band(self, amounts: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        r"""Interval of the mean line at each amount by itself.

        Percentiles of the refitted lines; without a bootstrap :math:`\hat s \pm t\,
        \sqrt{e_c^2 + e_b^2 (\log_{10} x - c)^2}`, with the errors e of height and slope, the centre
        c (`NormalError`) and Student's t.

        Parameters
        ----------
        amounts : array of any shape
            As in `predict`.

        Returns
        -------
        low, high : float64 arrays of the shape of ``amounts``
        """
        x = np.log10(_positive(amounts))
        if self.refits is not None:
            lines = self.refits.intercepts.mean(1).reshape(-1, *[1] * x.ndim)
            return _interval(lines + np.multiply.outer(self.refits.slopes, x), self.level)
        error = self._residual_error
        t = _student(error.n_degrees, self.level)
        half = t * np.hypot(error.height, error.slope * (x - error.centre))
        line = self.intercepts.mean() + self.slope * x
        return line - half, line + half

    def amount_to_reach(self, target: float) -> tuple[float, tuple[float, float]]:
        r"""Amount at which the mean line reaches a score.

        .. math:: x = 10^{(s - \bar a) / b}

        The result is an extrapolation where it lies outside ``amounts``, without evidence that the
        law holds there. For a target below the line at the smallest amount it is smaller than this.

        Parameters
        ----------
        target : float
            A score.

        Returns
        -------
        estimate : float
            In the unit of ``amounts``; infinite where the slope is not above 0.
        low, high : tuple of float
            Percentiles over the refitted lines, infinite where a line does not rise; no two refits
            are averaged, so limits may be infinite too. Without a bootstrap, the amounts at which
            the target is inside `band` (Fieller 1954, *J. R. Stat. Soc. B* 16). If the interval of
            the slope contains 0, so that the line may never reach it, ``high`` is infinite, and
            ``low`` is 0 where the target is inside the band amid the data, or below it.
        """
        target = float(target)
        if not math.isfinite(target):
            raise InputError(f"target: expected a finite score, found {target}")
        estimate = float(_crossing(self.intercepts.mean(), self.slope, target))
        if self.refits is not None:
            amounts = _crossing(self.refits.intercepts.mean(1), self.refits.slopes, target)
            low, high = _outer_interval(amounts, self.level)
            return estimate, (float(low), float(high))
        return estimate, self._fieller(target)

    def to_dict(self) -> dict[str, Any]:
        """Return the fit without its refits, ready for JSON: what is not finite is None."""
        return {
            "amounts": self.amounts.tolist(),
            "slope": _finite(self.slope),
            "slope_ci": [_finite(x) for x in self.slope_ci],
            "intercepts": [_finite(x) for x in self.intercepts],
            "r2": _finite(self.r2),
            "level": self.level,
            "interval": self.interval,
            "n_boot": None if self.refits is None else len(self.refits.slopes),
        }

    @property
    def _residual_error(self) -> NormalError:
        """The error of a fit without a bootstrap."""
        assert self.error is not None  # one of `refits` and `error` is there
        return self.error

    def _fieller(self, target: float) -> tuple[float, float]:
        """Where ``target`` is inside the band, from (b u − d)² ≤ t² (e_c² + e_b² u²).

        u is the log10 amount from the centre and d the target from the line there.
        """
        error, b = self._residual_error, self.slope
        t, centre = _student(error.n_degrees, self.level), error.centre
        if math.isnan(t):
            return math.nan, math.nan
        d = target - (self.intercepts.mean() + b * centre)
        height, slope = t * error.height, t * error.slope
        if b < -slope:
            return math.inf, math.inf  # surely falls
        root = math.sqrt(max((slope * d) ** 2 + height**2 * (b**2 - slope**2), 0))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            if b > slope:
                u = np.divide([b * d - root, b * d + root], b**2 - slope**2)
            elif d > height:  # the lower end of the ray that holds all rising lines
                u = np.array([np.divide(d**2 - height**2, b * d + root), math.inf])
            else:
                u = np.array([-math.inf, math.inf])
            low, high = 10 ** (centre + u)
        return float(low), float(high)


def fit_learning_curve(
    amounts: ArrayLike,
    scores: ArrayLike,
    boot: ArrayLike | None = None,
    level: float = 0.95,
    generator: np.random.Generator | None = None,
) -> LearningCurveFit:
    r"""Least squares with one slope for all subjects and an intercept for each.

    .. math:: \hat b = \frac{\sum_{ij} (x_{ij} - \bar x_i)\, s_{ij}}
        {\sum_{ij} (x_{ij} - \bar x_i)^2}, \qquad \hat a_i = \bar s_i - \hat b\, \bar x_i

    with x the log10 amount, and means over the amounts at which subject i has a score.

    Parameters
    ----------
    amounts : array of shape (n_amounts,)
        Training data in any unit, above 0; two different ones at least. In any order; may repeat.
    scores : array of shape (n_amounts,) or (n_subjects, n_amounts)
        In any unit; NaN where a subject has no such amount. Every subject needs one score, and one
        subject at least needs scores at two different amounts: otherwise slope and intercepts
        cannot be told apart.
    boot : array of shape (n_boot, n_subjects, n_amounts), optional
        The scores on resampled test images, one resample for all amounts (``bootstrap_ci`` says
        how), or (n_boot, n_amounts) beside one row of scores. The line is refitted to each draw
        and intervals are percentiles of the refits (Efron 1979). With three subjects or more, each
        draw also takes as many subjects with replacement, so that the interval is of subjects
        like these; with fewer it is of these subjects. Entries that are NaN in ``scores`` are
        left out, as are those that are NaN here.
    level : float
        Probability inside the intervals, between 0 and 1.
    generator : numpy.random.Generator, optional
        Draws subjects: needed with ``boot`` of three subjects or more, and unused otherwise.

    Returns
    -------
    LearningCurveFit
        Without ``boot`` its intervals are Student's t with n_points − n_subjects − 1 degrees of
        freedom, NaN if that is 0. These take residuals for independent. Scores of nested training
        sets on the same test images are not, nor do they know that slopes differ between subjects:
        prefer ``boot``.

    Raises
    ------
    InputError, InputTypeError
        When shapes do not match, an amount is not above 0, a score is infinite, or too few scores
        are there.

    Notes
    -----
    A bootstrap over few subjects is too narrow where they truly differ: a spread estimated from n
    subjects comes out :math:`\sqrt{(n - 1) / n}` too small, and percentiles lack the tails of
    Student's t. In simulations where slopes differ far more between subjects than resampled images
    move them, 95 % intervals held the truth for 72 % of sets of 3 subjects, 81 % of 4 and 88 % of
    8; where slopes do not differ, for 99 % and more, since the noise of images then counts twice.
    Without resampled subjects intervals are of these subjects; and resampled images alone know
    neither of chance in training nor of scores that do not follow the line.

    Examples
    --------
    >>> fit = fit_learning_curve([1, 10, 100], [[0.1, 0.2, 0.3], [0.2, 0.3, np.nan]])
    >>> round(fit.slope, 3), fit.intercepts.round(3).tolist()
    (0.1, [0.1, 0.2])
    >>> round(fit.amount_to_reach(0.35)[0], 1)
    100.0
    """
    amounts, scores, boot = _check(amounts, scores, boot)
    if not 0 < level < 1:
        raise InputError(f"level: expected a probability between 0 and 1, found {level}")
    x = np.log10(amounts)
    line = _fit(x, scores)
    common = partial(
        LearningCurveFit,
        amounts=amounts,
        slope=float(line.slope),
        intercepts=line.intercepts,
        r2=float(1 - line.residual / line.total) if line.total > 0 else math.nan,
        level=float(level),
    )
    if boot is None:
        error = _normal_error(x, scores, line)
        # NaN without degrees of freedom, whatever the error is then
        half = _student(error.n_degrees, level) * error.slope
        ci = (float(line.slope - half), float(line.slope + half))
        return common(slope_ci=ci, error=error)

    boot = np.where(np.isnan(scores), np.nan, boot)
    n_boot, n_subjects, _ = boot.shape
    if n_subjects >= _MIN_RESAMPLED:
        if not isinstance(generator, np.random.Generator):
            raise InputTypeError(
                f"generator: expected a numpy.random.Generator to resample {n_subjects} subjects "
                f"with, found {type(generator).__name__}: pass numpy.random.default_rng(seed)"
            )
        drawn = generator.integers(n_subjects, size=(n_boot, n_subjects))
        boot = np.take_along_axis(boot, drawn[:, :, None], axis=1)
    refit = _fit(x, boot)
    low, high = _interval(refit.slope, level)
    refits = Refits(refit.slope, refit.intercepts)
    return common(slope_ci=(float(low), float(high)), refits=refits)


# Helpers ------------------------------------------------------------------------------------------


class _Line(NamedTuple):
    """Least squares over the last two axes, (n_subjects, n_amounts); leading ones are samples."""

    slope: NDArray[np.float64]  # (...)
    intercepts: NDArray[np.float64]  # (..., n_subjects)
    spread: NDArray[np.float64]  # (...), sum of squares of x within subjects
    residual: NDArray[np.float64]  # (...), sum of squares that the line leaves
    total: NDArray[np.float64]  # (...), sum of squares of scores within subjects


def _fit(x: np.ndarray, scores: np.ndarray) -> _Line:
    known = ~np.isnan(scores)
    n_known = known.sum(-1)
    # Scores from the lowest of each subject: those of a constant subject become exactly 0
    lowest = np.where(known, scores, np.inf).min(-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):  # no score: intercept NaN is meant
        mean_x = np.where(known, x, 0).sum(-1) / n_known
        above = np.where(known, scores - lowest, 0)
        mean_above = above.sum(-1) / n_known
        dx = np.where(known, x - mean_x[..., None], 0)
        ds = np.where(known, above - mean_above[..., None], 0)
        spread = (dx**2).sum((-2, -1))
        # Less than rounding leaves of repeated amounts: no two differ
        slope = (dx * ds).sum((-2, -1)) / np.where(spread > 1e-20 * np.ptp(x) ** 2, spread, np.nan)
        intercepts = lowest[..., 0] + mean_above - slope[..., None] * mean_x
    residual = ((ds - slope[..., None, None] * dx) ** 2).sum((-2, -1))
    return _Line(slope, intercepts, spread, residual, (ds**2).sum((-2, -1)))


def _normal_error(x: np.ndarray, scores: np.ndarray, line: _Line) -> NormalError:
    """The mean over subjects of their mean scores has variance σ² Σ 1/n_i / n_subjects²."""
    known = ~np.isnan(scores)
    n_known, n_subjects = known.sum(-1), len(scores)
    n_degrees = int(n_known.sum()) - n_subjects - 1
    variance = line.residual / n_degrees if n_degrees else math.nan
    return NormalError(
        centre=float((np.where(known, x, 0).sum(-1) / n_known).mean()),
        height=float(np.sqrt(variance * (1 / n_known).sum()) / n_subjects),
        slope=float(np.sqrt(variance / line.spread)),
        n_degrees=n_degrees,
    )


def _student(n_degrees: int, level: float) -> float:
    return float(stats.t.ppf((1 + level) / 2, n_degrees)) if n_degrees else math.nan


def _crossing(intercept: ArrayLike, slope: ArrayLike, target: float) -> NDArray[np.float64]:
    """Amount at which each line reaches the target; infinite unless it rises, NaN for no line."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        amount = 10 ** np.divide(target - np.asarray(intercept), slope)
    return np.where(np.less_equal(slope, 0), np.inf, amount)


def _interval(values: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Percentiles over samples (axis 0), leaving out those without a line."""
    values = values[~np.isnan(values).reshape(len(values), -1).any(1)]
    if len(values) == 0:
        return np.full(values.shape[1:], np.nan), np.full(values.shape[1:], np.nan)
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def _outer_interval(values: np.ndarray, level: float) -> tuple[float, float]:
    """As `_interval`, of values that may be infinite: the samples just outside, not between two."""
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return math.nan, math.nan
    return (
        np.quantile(values, (1 - level) / 2, method="lower"),
        np.quantile(values, (1 + level) / 2, method="higher"),
    )


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _positive(amounts: ArrayLike) -> NDArray[np.float64]:
    amounts = _real(amounts, "amounts")
    wrong = amounts[~(np.isfinite(amounts) & (amounts > 0))]
    if wrong.size:
        raise InputError(
            f"amounts: expected finite numbers above 0, found {wrong[0]:g}: the law has no value "
            "there, leave it out"
        )
    return amounts


def _real(values: ArrayLike, name: str) -> NDArray[np.float64]:
    values = np.asarray(values)
    if values.dtype.kind not in "biuf":
        raise InputTypeError(f"{name}: expected real numbers, found dtype {values.dtype}")
    return values.astype(np.float64)


def _check(
    amounts: ArrayLike, scores: ArrayLike, boot: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """As float64, scores of shape (n_subjects, n_amounts) and boot with samples before that."""
    amounts, scores = _real(amounts, "amounts"), _real(scores, "scores")
    if amounts.ndim != 1 or len(np.unique(_positive(amounts))) < 2:
        raise InputError(
            f"amounts: expected a list with two different amounts or more, found {amounts}: "
            "train on more than one amount of data"
        )
    if scores.ndim not in (1, 2) or scores.shape[-1] != len(amounts) or scores.size == 0:
        raise InputError(
            f"scores: expected shape ({len(amounts)},) or (n_subjects, {len(amounts)}), one per "
            f"amount, found {scores.shape}"
        )
    if boot is not None:
        boot = _real(boot, "boot")
        boot = boot[:, None] if scores.ndim == 1 and boot.ndim == 2 else boot
    scores = np.atleast_2d(scores)
    if boot is not None and (boot.shape[1:] != scores.shape or len(boot) == 0):
        raise InputError(
            f"boot: expected shape (n_boot, {scores.shape[0]}, {scores.shape[1]}), the scores of "
            f"each draw, found {boot.shape}"
        )
    for name, values in (("scores", scores), ("boot", boot)):
        if values is not None and np.isinf(values).any():
            raise InputError(f"{name}: expected finite numbers or NaN, found an infinite one")
    known = ~np.isnan(scores)
    if not known.any(1).all():
        raise InputError(
            f"scores: expected one score or more of every subject, found none in row "
            f"{int(np.flatnonzero(~known.any(1))[0])}: leave that subject out"
        )
    if not any(len(np.unique(amounts[row])) > 1 for row in known):
        raise InputError(
            "scores: expected one subject or more with scores at two different amounts, found "
            "none: a slope cannot be told from differences between subjects"
        )
    return amounts, scores, boot
