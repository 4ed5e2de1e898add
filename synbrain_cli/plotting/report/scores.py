"""Sections of the report on test scores: accuracy, and calibration of draws."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from msgspec import UNSET, UnsetType

from synbrain_cli.brain import Brain
from synbrain_cli.config import trials_name
from synbrain_cli.io.results.evaluation import EvaluationRecord, ResponseScore, ResponseScores
from synbrain_cli.io.results.record import Result
from synbrain_cli.io.results.two_sample import TwoSampleScores
from synbrain_cli.plotting.accuracy import accuracy_figure
from synbrain_cli.plotting.calibration import plot_calibration
from synbrain_cli.plotting.maps import evaluation_map, images_and_trials
from synbrain_cli.plotting.report.map_pictures import MapPictures
from synbrain_cli.plotting.report.page import (
    Block,
    Command,
    Picture,
    Section,
    Table,
    Text,
    number_text,
    plotted,
)
from synbrain_cli.plotting.sources.evaluation import Evaluation

_ACCURACY = "Prediction accuracy"
SCORE_LABELS = {
    "voxelwise_correlation": "correlation over images, median voxel",
    "noise_normalised_r2": "r² / noise ceiling, median reliable voxel",
    "skill": "skill: 1 − squared error / that of the mean pattern",
    "pattern_correlation": "correlation over voxels, trial by trial",
    "two_way_identification": "two-way identification of the image",
    "rsa": "RSA (Spearman)",
    "cka": "CKA (linear)",
}
_BASELINES = ("linear", "mean_pattern", "shuffled", "ceiling")
DRAW_LABELS = {
    "coverage_50": "coverage of 50 % intervals",
    "coverage_80": "coverage of 80 % intervals",
    "coverage_90": "coverage of 90 % intervals",
    "coverage_95": "coverage of 95 % intervals",
    "coverage_90_region_means": "coverage of 90 % intervals of region means",
    "coverage_90_region_differences": "– of differences of region means",
    "coverage_90_noise_components": "– of projections on the directions of most noise",
    "coverage_90_signal_components": "– of projections on the directions of most signal",
    "coverage_90_distances": "– of distances between trials of two images",
    "coverage_90_averages": "– of averages over ten similar images, by voxel",
    "coverage_90_region_averages": "– of averages over ten similar images, of region means",
    "crps": "CRPS (lower is better)",
    "energy_score": "energy score (lower is better)",
    "variogram_score": "variogram score (lower is better)",
    "variance_ratio": "variance / variance of recorded trials",
    "ncsnr_correlation": "reliability by voxel (ncsnr): r",
    "ncsnr_slope": "reliability by voxel (ncsnr): slope",
    "ncsnr_median_ratio": "reliability by voxel (ncsnr): median ratio",
    "noise_correlation": "noise correlations: r",
}
_DISTRIBUTIONS = ("model", "linear", "mean_pattern", "latent_nf1", "apart")


def not_evaluated_section(brain: Brain, why: str) -> Section:
    """Return scores of validation images, and how to evaluate a model that has no test scores.

    Parameters
    ----------
    brain : Brain
    why : str
        Why there are no test scores.
    """
    if not brain.config.has_readout:
        text = (
            "These are the published networks alone. Nothing was fitted that separates signal from "
            "noise, so the calibration of draws cannot be tested; how well this copy predicts has "
            "not been measured."
        )
        return Section(_ACCURACY, why, [Text(text)])
    validation = brain.config.training.validation
    names = {
        "model": "model",
        "linear": "linear encoder",
        "network": "response network",
        "deep": "published networks",
        "transfer": "transfer",
    }
    blocks: list[Block] = [
        Table(
            "Share of variance predicted in validation images",
            ["predictor", "share"],
            [[names[k], f"{validation[k]:.3f}"] for k in names if k in validation]
            + [["mean pattern", "0"]],
            "Validation images chose the weights: this is no test score.",
        ),
        Text("This command gives the scores of test images and the calibration of draws:"),
        Command(f"synbrain evaluate --model {shlex.quote(brain.name)}"),
    ]
    return Section(_ACCURACY, why, blocks)


def accuracy_section(brain: Brain, evaluation: Evaluation, pictures: MapPictures) -> Section:
    """Return scores beside baselines and noise ceiling: overall, by voxel and by region."""
    metrics = evaluation.metrics
    blocks: list[Block] = [
        _scores(
            f"Scores on {metrics.tested}",
            {
                label + (" (means nothing)" if score in metrics.doubtful else ""): (
                    metrics.overall.get(score)
                )
                for score, label in SCORE_LABELS.items()
            },
            "score",
            _note_on_patterns(metrics.overall),
        ),
        plotted(
            lambda: accuracy_figure(brain, evaluation),
            "Accuracy of each voxel against its noise ceiling, and by region.",
            ("a: correlation" if metrics.roi else "Correlation") + " of each voxel with recorded "
            "responses to images on which the model was not trained, against the highest that "
            "noise allows"
            + ("; b: medians of regions, with 95 % intervals. " if metrics.roi else ". ")
            + "The mean pattern is the same for every image and explains none of the differences "
            "between images.",
        ),
    ]
    if not pictures.why_none:
        blocks += _maps(brain, evaluation, pictures)
    if metrics.roi:
        regions = {
            f"{name} ({scores.n_voxels:,} voxels)": scores.voxelwise_correlation
            for name, scores in metrics.roi.items()
        }
        caption = "Correlation over images, median voxel, by region"
        blocks.append(_scores(caption, regions, "region"))
    blocks += [Text(f"Note: {text}.") for text in metrics.notes]
    return Section(
        _ACCURACY,
        "Beside every score are those of the baselines (the mean training pattern, which is the "
        "same for every image, and the linear encoder of the same images), of the model with "
        "images shuffled, and the noise ceiling.",
        blocks,
    )


def _maps(brain: Brain, evaluation: Evaluation, pictures: MapPictures) -> list[Picture]:
    """Accuracy by voxel, beside the noise ceiling where one is known."""
    metrics = evaluation.metrics
    caption = (
        f"Correlation with the recorded responses to {images_and_trials(metrics)}, by voxel. "
        "Correlations below 0 have the colour of 0."
    )
    accuracy = evaluation_map(evaluation, "accuracy", brain)
    if not evaluation.knows("ceiling"):
        return [pictures.picture(accuracy, caption)]
    ceiling = evaluation_map(evaluation, "ceiling", brain)
    first, second = ("a: ", "b") if pictures.are_flatmaps else ("", "Beside it")
    return pictures.pair(
        accuracy,
        ceiling,
        f"{first}{caption} {second}: the noise ceiling, the highest score that a perfect model "
        "could reach, given the noise of recordings; both have one colour scale.",
    )


def _note_on_patterns(overall: ResponseScores) -> str | None:
    """Say what another recording scores where scores of single trials have no ceiling."""
    values = overall.get("pattern_correlation")
    if values is None or values.get("recording") is None:
        return None
    return (
        "Correlation over voxels has no ceiling. Another recording (the average of the other "
        "repeats of the image, which is as noisy as these) correlates with a trial by "
        f"{number_text(values.recording)}; a prediction without noise may exceed that."
    )


def _scores(
    caption: str, scores: Mapping[str, ResponseScore | None], what: str, note: str | None = None
) -> Table:
    rows = []
    for label, values in scores.items():
        if values is not None:
            low, high = values.ci
            interval = "" if low is None else f" ({number_text(low)} to {number_text(high)})"
            baselines = (number_text(values.get(name)) for name in _BASELINES)
            rows.append([label, number_text(values.model) + interval, *baselines])
    return Table(
        caption,
        [what, "model (95 % CI)", "linear encoder", "mean pattern", "shuffled images", "ceiling"],
        rows,
        note,
    )


def calibration_section(evaluation: Evaluation) -> Section:
    """Return how draws compare with held-out single trials."""
    metrics = evaluation.metrics
    rows_are = trials_name(metrics.averaged_over)
    rows = [
        [
            label,
            *(number_text(values.get(name)) for name in _DISTRIBUTIONS),
            number_text(_reference(score, values)),
        ]
        for score, label in DRAW_LABELS.items()
        if (values := metrics.draws.get(score)) is not None
    ]
    return Section(
        "Calibration of draws",
        f"{metrics.n_draws} draws of each test image against its held-out {rows_are}.",
        [
            plotted(
                lambda: plot_calibration(metrics, evaluation.voxels),
                "Ranks of recorded trials among draws, coverage of intervals, reliability and "
                "variance by voxel.",
                "a: the rank of a recorded trial among draws is uniform where draws are "
                "calibrated; a hump shows that they vary too much, raised ends that they vary too "
                "little; bars higher than the panel are cut, and say how high they are. b: "
                "intervals should hold their nominal share of trials (diagonal; thin lines are "
                "regions). c, d: reliability and variance of each voxel, of draws against "
                "recordings; vertical lines are medians of latent sampling; voxels beyond the axis "
                "are counted in its last bar, which is then hatched.",
            ),
            Table(
                f"Draws against held-out {rows_are}",
                [
                    "score", "draws", "linear + normal", "mean pattern + normal", "latent",
                    "images apart", "reference",
                ],
                rows,
                "Linear + normal, mean pattern + normal: independent normal noise around the "
                "linear encoder and the mean pattern; latent: the published sampling. Images "
                "apart: draws in which similar images share no errors.",
            ),
            _likelihood(metrics),
            *_two_sample(metrics.two_sample),
        ],
    )  # fmt: skip


def _likelihood(metrics: EvaluationRecord) -> Table:
    """How likely the recorded trials are, beside what could be known of them."""
    found = metrics.likelihood
    rows = []
    for label, values in (
        ("told the image, in bits", found.given_image),
        ("told its other repeats as well, in bits", found.given_repeats),
        ("normalised information gain", found.information_gain),
    ):
        if values is not UNSET:
            low, high = values.ci
            others = (number_text(values.get(k)) for k in ("linear", "image_blind", "shuffled"))
            own = f"{number_text(values.model)} ({number_text(low)} to {number_text(high)})"
            rows.append([label, own, *others])
    return Table(
        "Log-likelihood of recorded trials, jointly over voxels",
        ["the model is", "model (95 % CI)", "linear + normal", "image unknown", "shuffled images"],
        rows,
        "In bits per voxel and trial above that of the mean pattern with independent normal noise. "
        "Image unknown: the same noise around the mean pattern. Information gain: 0 where the "
        "image tells the model nothing, 1 where it tells as much as the image and its other "
        "repeats together.",
    )


def _two_sample(scores: TwoSampleScores | UnsetType) -> list[Table]:
    """Return how well classifiers tell recorded from drawn trials, and where."""
    if scores is UNSET:
        return []
    rows = []
    for unit in ("trials", "pairs"):
        for classifier, score in (scores.get(unit) or {}).items():
            low, high = score.ci
            rows.append(
                [
                    f"{unit}, {classifier}",
                    f"{number_text(score.model)} ({number_text(low)} to {number_text(high)})",
                    number_text(score.p),
                    f"{number_text(score.floor)} ± {number_text(score.floor_sd)}",
                    f"{number_text(score.get('right'))} ± {number_text(score.get('right_sd'))}",
                    *(number_text(score.get(name)) for name in _DISTRIBUTIONS[1:]),
                ]
            )
    tables = [
        Table(
            "Classifiers that tell recorded from drawn trials: area under the ROC curve",
            ["rows, classifier", "model (95 % CI)", "p", "floor", "if right", "linear + normal",
             "mean pattern + normal", "latent"],
            rows,
            "Trained on some test images and tested on others. .5: the two cannot be told apart. "
            "Pairs: two repeats of one image. Floor: recorded against recorded, mean ± SD of "
            f"random halvings. The best of all: AUC {number_text(scores.best.auc)}, p "
            f"{number_text(scores.best.p)}, corrected for the choice.",
        )
    ]  # fmt: skip
    differences = [
        [
            name,
            number_text(region.auc),
            number_text(region.p),
            *(
                _with_interval(region.get(score), region.get(f"{score}_ci"))
                for score in ("variance_ratio", "mean_variance_ratio", "repeated_difference")
            ),
        ]
        for name, region in scores.roi.items()
    ]
    if differences:
        tables.append(
            Table(
                "Recorded beside drawn trials, by region",
                ["region", "AUC", "p", "variance, recorded / drawn", "of the region's mean",
                 "shared by repeats, recorded − drawn"],
                differences,
                "Residuals around the expected response, in standard deviations of a trial: "
                "variance of voxels and of the region's mean; mean product of two repeats. p is "
                "not corrected for the number of regions.",
            )
        )  # fmt: skip
    return tables


def _with_interval(value: float | None, limits: tuple[float | None, float | None] | None) -> str:
    """A number, and its interval where there is one."""
    if value is None or limits is None:
        return number_text(value)
    return f"{number_text(value)} ({number_text(limits[0])} to {number_text(limits[1])})"


def _reference(score: str, values: Result) -> float | None:
    """What a score of draws should be: nominal coverage, noise ceiling, or recorded trials."""
    if score.startswith("coverage"):
        return int(score.split("_")[1]) / 100
    names = ("nominal", "ceiling", "test_trials")
    return next((best for name in names if (best := values.get(name)) is not None), None)
