"""The box at the head of a report: the five numbers that matter, each beside what it is held to."""

from __future__ import annotations

from msgspec import UNSET

from synbrain_cli.config import trials_name
from synbrain_cli.io.results.evaluation import EvaluationRecord, ResponseScore
from synbrain_cli.plotting.report.page import KeyNumber, KeyNumbers, number_text

_MEANS_NOTHING = "means nothing here: see the notes"


def key_numbers(metrics: EvaluationRecord) -> KeyNumbers:
    """Return how well the model predicts, and how like recorded trials its draws are.

    Where a score is not defined for the data (no repeats, single voxels), the next best stands in
    its place, or nothing.

    Parameters
    ----------
    metrics : EvaluationRecord
    """
    found = (
        _correlation(metrics),
        _explained(metrics),
        _identification(metrics),
        _coverage(metrics),
        _reliability(metrics),
    )
    return KeyNumbers(
        f"In brief, on {metrics.tested}",
        [number for number in found if number is not None],
    )


def _response(
    metrics: EvaluationRecord, name: str, label: str, beside: list[tuple[str, str]]
) -> KeyNumber | None:
    """A score of predicted responses, beside its interval and others of its values."""
    score: ResponseScore | None = metrics.overall.get(name)
    if score is None or score.model is None:
        return None
    low, high = score.ci
    parts = [] if low is None else [f"95 % interval {number_text(low)} to {number_text(high)}"]
    parts += [
        f"{what} {number_text(score.get(key))}"
        for key, what in beside
        if score.get(key) is not None
    ]
    if name in metrics.doubtful:
        parts.insert(0, _MEANS_NOTHING)
    return KeyNumber(label, number_text(score.model), "; ".join(parts))


def _correlation(metrics: EvaluationRecord) -> KeyNumber | None:
    return _response(
        metrics,
        "voxelwise_correlation",
        "correlation over images, median voxel",
        [("ceiling", "ceiling"), ("linear", "linear encoder"), ("shuffled", "images shuffled")],
    )


def _explained(metrics: EvaluationRecord) -> KeyNumber | None:
    """Share of what noise leaves to be explained; without a ceiling, skill."""
    beside = [("linear", "linear encoder"), ("mean_pattern", "mean pattern")]
    explained = _response(
        metrics,
        "noise_normalised_r2",
        "share of explainable variance, median reliable voxel",
        beside,
    )
    skill = "skill: share of the mean pattern’s squared error removed"
    return explained or _response(metrics, "skill", skill, beside)


def _identification(metrics: EvaluationRecord) -> KeyNumber | None:
    return _response(
        metrics,
        "two_way_identification",
        "images identified, of two",
        [("mean_pattern", "mean pattern"), ("shuffled", "images shuffled")],
    )


def _coverage(metrics: EvaluationRecord) -> KeyNumber | None:
    """Calibration of draws."""
    draws = metrics.draws
    if draws.coverage_90.model is None:
        return None
    parts = ["0.900 where draws are calibrated"]
    if draws.coverage_90_region_means is not UNSET:
        parts.append(f"region means {number_text(draws.coverage_90_region_means.model)}")
    rows = trials_name(metrics.averaged_over)
    label = f"of recorded {rows} within the 90 % intervals of draws"
    return KeyNumber(label, number_text(draws.coverage_90.model), "; ".join(parts))


def _reliability(metrics: EvaluationRecord) -> KeyNumber | None:
    """How reliable draws are, by all three numbers; without repeats, how they vary."""
    draws = metrics.draws
    r, slope, ratio = (
        score if score is not UNSET and score.model is not None else None
        for score in (draws.ncsnr_correlation, draws.ncsnr_slope, draws.ncsnr_median_ratio)
    )
    if r is None or slope is None or ratio is None:
        return KeyNumber(
            "variance of draws / variance of recorded trials",
            number_text(draws.variance_ratio.model),
            "1 where draws vary as much; no reliability without repeats",
        )
    beside = f"over voxels r {number_text(r.model)}, slope {number_text(slope.model)}"
    if metrics.folds is UNSET:  # test trials of folds are those that the ncsnr of the data is of
        beside += (
            f"; recorded test trials: ratio {number_text(ratio.test_trials)}, r "
            f"{number_text(r.test_trials)}, slope {number_text(slope.test_trials)}"
        )
    label = "reliability (ncsnr) of draws / of recordings, median voxel"
    return KeyNumber(label, number_text(ratio.model), beside)
