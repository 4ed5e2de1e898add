"""Sections of the report on images of other datasets, beside the model's own test images."""

from __future__ import annotations

from msgspec import UNSET

from synbrain_cli.brain import Brain
from synbrain_cli.errors import SynbrainError
from synbrain_cli.io.results.evaluation import EvaluationRecord, ImageDistances
from synbrain_cli.io.results.record import Result
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.plotting.image_distances import plot_image_distances
from synbrain_cli.plotting.report.page import Block, Section, Table, Text, number_text, plotted
from synbrain_cli.plotting.report.scores import DRAW_LABELS, SCORE_LABELS
from synbrain_cli.plotting.sources.evaluation import Evaluation, find_on_others

_BESIDE = ("linear", "mean_pattern", "shuffled", "ceiling")
_DRAWS = ("coverage_50", "coverage_90", "coverage_90_region_means", "crps", "variance_ratio")


def other_sections(workspace: Workspace, brain: Brain, own: Evaluation | None) -> list[Section]:
    """Return a section for each other dataset that the model was scored on.

    Parameters
    ----------
    workspace : Workspace
    brain : Brain
    own : Evaluation, optional
        On the model's own test images.
    """
    sections = []
    for dataset, folder in find_on_others(workspace, brain):
        title = f"Images of {dataset}"
        try:
            other = Evaluation.read(folder, brain)
            sections.append(Section(title, _introduction(other.metrics), _blocks(other, own)))
        except SynbrainError as error:
            sections.append(Section(title, "", [Text(f"Not shown: {error}")]))
    return sections


def _introduction(metrics: EvaluationRecord) -> str:
    return (
        f"{metrics.n_test_images:,} images{metrics.of_dataset} that this subject was shown in "
        f"another experiment ({metrics.n_test_trials:,} trials): the model was trained on other "
        "images, and these show how far it holds beyond them."
    )


def _blocks(other: Evaluation, own: Evaluation | None) -> list[Block]:
    metrics, beside = other.metrics, own.metrics if own else None
    blocks: list[Block] = [_scores(metrics, beside), _draws(metrics, beside)]
    if metrics.other is not UNSET and metrics.other.distances is not UNSET:
        blocks.insert(0, Text(_distance(metrics)))
        sets = {"its own test images": own.images()} if own and own.has_images else {}
        sets[metrics.other.dataset] = other.images()
        blocks.append(
            plotted(
                lambda: plot_image_distances(sets, f"Images near and far, {metrics.model}"),
                "Correlation of predicted and recorded pattern of each image over its leverage.",
                "Each dot is an image: correlation over voxels of predicted and recorded average "
                "response, both less the mean training pattern, over how far the image is from the "
                "training images (leverage in the linear encoder). Lines are medians of bins. "
                "Noise limits the correlation, more so where an image was shown fewer times.",
            )
        )
    return blocks + [Text(f"Note: {text}.") for text in metrics.notes]


def _distance(metrics: EvaluationRecord) -> str:
    """Say how far the images are, and the model's own test images."""
    other = metrics.other
    assert other is not UNSET

    def share(far: ImageDistances) -> str:
        beyond = "–" if far.beyond is None else f"{far.beyond:.0%}"
        return f"{beyond} (leverage {number_text(far.leverage)} × the median training image's)"

    text = "Farther than every training image are "
    text += "" if other.distances is UNSET else f"{share(other.distances)} of these images"
    if other.own_distances is not UNSET:
        text += f", and {share(other.own_distances)} of the model's own test images"
    falls = other.leverage_pattern_correlation
    if falls is not None:
        text += (
            f". Over these images, the rank correlation of leverage with the figure's pattern "
            f"correlation is {number_text(falls)}"
        )
    return text + "."


def _value(scores: Result | None, name: str) -> str:
    score = None if scores is None else scores.get(name)
    return number_text(None if score is None else score.get("model"))


def _scores(metrics: EvaluationRecord, own: EvaluationRecord | None) -> Table:
    rows = []
    for name, label in SCORE_LABELS.items():
        score = metrics.overall.get(name)
        if score is None:
            continue
        low, high = score.ci
        interval = "" if low is None else f" ({number_text(low)} to {number_text(high)})"
        baselines = (number_text(score.get(key)) for key in _BESIDE)
        beside = _value(own.overall if own else None, name)
        rows.append([label, number_text(score.model) + interval, *baselines, beside])
    return Table(
        f"Scores on {metrics.n_test_images:,} images{metrics.of_dataset}",
        [
            *("score", "model (95 % CI)", "linear encoder", "mean pattern", "shuffled images"),
            *("ceiling", "model, own test images"),
        ],
        rows,
    )


def _draws(metrics: EvaluationRecord, own: EvaluationRecord | None) -> Table:
    rows = []
    for name in _DRAWS:
        score = metrics.draws.get(name)
        if score is not None:
            values = [score.get(key) for key in ("model", "linear", "mean_pattern", "nominal")]
            beside = _value(own.draws if own else None, name)
            rows.append([DRAW_LABELS[name], *map(number_text, values), beside])
    return Table(
        "Draws against recorded trials",
        [
            *("score", "draws", "linear + normal", "mean pattern + normal", "nominal"),
            "draws, own test images",
        ],
        rows,
    )
