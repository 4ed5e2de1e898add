"""What `synbrain evaluate` prints: one screen of 80 columns; regions and the published table."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from synbrain_cli.cli.tables import bars, cell, interval, print_columns, print_notes

if TYPE_CHECKING:
    from synbrain_cli.io.results.evaluation import EvaluationRecord, ResponseScore
    from synbrain_cli.io.results.record import Number
    from synbrain_cli.io.results.two_sample import TwoSampleScores
    from synbrain_cli.pipeline.evaluate import EvaluateResult

# Scores of ``metrics.json`` → what they are called on the screen and in the documentation.
RESPONSES = {
    "voxelwise_correlation": "r",
    "noise_normalised_r2": "r² / NC",
    "skill": "skill",
    "pattern_correlation": "pattern r",
    "two_way_identification": "two-way",
    "n_way_identification": "top-1",
    "rsa": "RSA",
    "cka": "CKA",
}
DRAWS = {
    "coverage_50": "50 % intervals",
    "coverage_90": "90 % intervals",
    "coverage_90_region_means": "90 %, ROI means",
    "crps": "CRPS",
    "energy_score": "energy score",
    "variance_ratio": "variance ratio",
}
SUMMARIES = {
    "coverage_90_region_differences": "differences",
    "coverage_90_noise_components": "noise",
    "coverage_90_signal_components": "signal",
    "coverage_90_distances": "distances",
}
AVERAGES = {"coverage_90_averages": "voxels", "coverage_90_region_averages": "ROI means"}
RELIABILITY = {
    "ncsnr_correlation": "r",
    "ncsnr_slope": "slope",
    "ncsnr_median_ratio": "median ratio",
}
_PREDICTORS = {
    "network": "net",
    "transfer": "transfer",
    "deep": "deep",
    "linear": "linear",
    "mean_pattern": "mean pat",
    "shuffled": "shuffled",
    "ceiling": "ceiling",
}
_DISTRIBUTIONS = {
    "linear": "linear+N",
    "mean_pattern": "mean+N",
    "latent_nf1": "latent",
    "shuffled": "shuffled",
    "nominal": "nominal",
}
N_REGIONS = 3  # of which the screen says how well they are told apart
_BY_REGION = {key: _PREDICTORS[key] for key in ("linear", "shuffled", "ceiling")}


def print_evaluation(
    metrics: EvaluationRecord, rois: bool, own: EvaluationRecord | None = None
) -> None:
    """Print the main scores of responses and draws, each beside its baselines.

    Parameters
    ----------
    metrics : EvaluationRecord
    rois : bool
        Whether to print scores by region as well, and those of averages over images.
    own : EvaluationRecord, optional
        Scores on the model's own test images, beside which those on another dataset are printed.
    """
    print(_heading(metrics))
    for line in distance_lines(metrics):
        print(line)
    _print_responses(metrics, own)
    if rois:
        _print_regions(metrics)
    _print_draws(metrics, rois)
    _print_two_sample(metrics)
    _print_retrieval(metrics)
    print_notes(metrics.notes)


def _heading(metrics: EvaluationRecord) -> str:
    """What was scored, on what."""
    from synbrain_cli.config import trials_name

    return (
        f"{metrics.model}: {metrics.tested}, "
        f"{metrics.n_test_trials:,} {trials_name(metrics.averaged_over)}, "
        f"{metrics.n_voxels:,} voxels{'; simulated' if metrics.simulated else ''}"
    )


def distance_lines(metrics: EvaluationRecord) -> list[str]:
    """How far the images of another dataset are from the training images, beside the model's own.

    Parameters
    ----------
    metrics : EvaluationRecord
    """
    from msgspec import UNSET

    other = metrics.other
    if other is UNSET or other.distances is UNSET:
        return []
    found = [("these images", other.distances)]
    if other.own_distances is not UNSET:
        found.append(("own test images", other.own_distances))
    lines = [
        f"{name}: {cell((far.beyond or 0) * 100, 0)} % farther than every training image; leverage "
        f"{cell(far.leverage, 1)} × the median training image's"
        for name, far in found
    ]
    falls = other.leverage_pattern_correlation
    if falls is not None:
        lines.append(
            "rank correlation over images of leverage and pattern r, less the mean pattern: "
            f"{cell(falls, 2)}"
        )
    return lines


def _print_responses(metrics: EvaluationRecord, own: EvaluationRecord | None) -> None:
    """Print the scores of predicted responses; a question mark follows those that mean nothing."""
    from msgspec import UNSET

    scores = {
        label + (" ?" if key in metrics.doubtful else ""): score
        for key, label in RESPONSES.items()
        if (score := metrics.overall.get(key)) is not None
    }
    shown = _with_values(_PREDICTORS, scores)
    rows = [("score", "model", "95 % CI", *shown.values())]
    rows += [
        (label, cell(score.model), interval(*score.ci), *(cell(score.get(k)) for k in shown))
        for label, score in scores.items()
    ]
    if own is not None:
        known = [own.overall.get(key) for key in RESPONSES if metrics.overall.get(key) is not None]
        beside = ["own test", *(cell(score.model) if score else "" for score in known)]
        rows = [(*row, value) for row, value in zip(rows, beside, strict=True)]
    print_columns(rows, n_left=1)
    if own is not None:
        print(f"own test: the model's score on {own.n_test_images:,} images of its own dataset")
    pattern = metrics.overall.pattern_correlation
    if pattern is not UNSET and pattern.get("recording") is not None:
        print(f"pattern r of another recording of the image: {cell(pattern.get('recording'))}")
    if metrics.doubtful:
        print("? means nothing: see the notes")


def _with_values(columns: Mapping[str, str], scores: Mapping[str, ResponseScore]) -> dict[str, str]:
    """Columns in which some score has a value."""
    return {
        key: label
        for key, label in columns.items()
        if any(score.get(key) is not None for score in scores.values())
    }


def _print_regions(metrics: EvaluationRecord) -> None:
    """Print the correlation over images in each region, and what the draws' intervals cover."""
    if not metrics.roi:
        print("\nno region has 10 voxels or more")
        return
    covered = metrics.draws.coverage_90.get("roi") or {}
    scores = {name: region.voxelwise_correlation for name, region in metrics.roi.items()}
    shown = _with_values(_BY_REGION, scores)
    rows = [("r by region", "voxels", "model", "95 % CI", *shown.values(), "90 %")]
    for name, score in scores.items():
        cells = (cell(score.get(key)) for key in shown)
        rows.append(
            (
                name,
                f"{metrics.roi[name].n_voxels:,}",
                cell(score.model),
                interval(*score.ci),
                *cells,
                cell(covered.get(name)),
            )
        )
    print()
    print_columns(rows, n_left=1)
    print("90 %: share of recorded trials within the 90 % intervals of draws")


def _print_draws(metrics: EvaluationRecord, rois: bool) -> None:
    """Print the scores of draws, their reliability and noise correlations, and their ranks."""
    from msgspec import UNSET

    draws = metrics.draws
    print("\nDraws against held-out trials (N: normal noise of constant variance)")
    scores = {label: s for key, label in DRAWS.items() if (s := draws.get(key)) is not None}
    shown = _with_values(_DISTRIBUTIONS, scores)
    rows = [("score", "draws", "95 % CI", *shown.values())]
    for label, score in scores.items():
        write = partial(cell, digits=2) if label == DRAWS["energy_score"] else cell
        low, high = score.get("ci") or (None, None)
        cells = (write(score.get(key)) for key in shown)
        rows.append((label, write(score.model), interval(low, high, write), *cells))
    print_columns(rows, n_left=1)
    print(
        f"ranks of held-out trials among draws  {bars(draws.pit_histogram.model)}  (flat is best)"
    )
    for line in reliability_lines(metrics):
        print(line)
    noise = draws.noise_correlation
    if noise is not UNSET:
        print(f"noise correlations: r {cell(noise.model)} (ceiling {cell(noise.ceiling)})")
    averages = average_lines(metrics) if rois else []  # one screen holds no more
    lines = summary_line(metrics), *averages, *likelihood_lines(metrics)
    for line in filter(None, lines):
        print(line)


def reliability_lines(metrics: EvaluationRecord) -> list[str]:
    """How reliable draws are beside recordings: correlation, slope and ratio, always together."""
    from msgspec import UNSET

    found = {
        label: score
        for key, label in RELIABILITY.items()
        if (score := metrics.draws.get(key)) is not None
    }
    if not found:
        return []

    def listed(values: Mapping[str, Number]) -> str:
        return ", ".join(f"{label} {cell(value)}" for label, value in values.items())

    lines = [f"reliability (ncsnr): {listed({k: s.model for k, s in found.items()})}"]
    # Test trials of folds, and of another dataset, are those that the ncsnr of the data is of.
    if metrics.folds is UNSET and metrics.other is UNSET:
        lines.append(f"   of test trials:   {listed({k: s.test_trials for k, s in found.items()})}")
    return lines


def summary_line(metrics: EvaluationRecord) -> str:
    """What 90 % intervals cover of region differences, projections and distances."""
    found = {label: metrics.draws.get(key) for key, label in SUMMARIES.items()}
    known = [f"{label} {cell(score.model)}" for label, score in found.items() if score is not None]
    return f"90 % of summaries: {', '.join(known)}" if known else ""


def average_lines(metrics: EvaluationRecord) -> list[str]:
    """What 90 % intervals cover of averages over similar images, and would if these were apart."""
    found = {label: metrics.draws.get(key) for key, label in AVERAGES.items()}
    known = {label: score for label, score in found.items() if score is not None}
    if not known:
        return []

    def listed(name: str) -> str:
        return ", ".join(f"{label} {cell(score.get(name))}" for label, score in known.items())

    return [
        f"90 % of averages over similar images: {listed('model')}",
        f"         if these shared no errors:   {listed('apart')}",
    ]


def likelihood_lines(metrics: EvaluationRecord) -> list[str]:
    """How likely recorded trials are, beside baselines and what could be known of them."""
    from msgspec import UNSET

    given, gain = metrics.likelihood.given_image, metrics.likelihood.information_gain
    names = {"linear": "linear+N", "image_blind": "no image", "shuffled": "shuffled"}
    others = [
        f"{label} {cell(given.get(key))}"
        for key, label in names.items()
        if given.get(key) is not None
    ]
    lines = [f"bits per voxel: {cell(given.model)} ({', '.join(others)})"]
    if gain is not UNSET:
        told = f"information gain: {cell(gain.model)} ({interval(*gain.ci)})"
        lines.append(f"{told}; 1 knows the image's other repeats")
    return lines


def _print_two_sample(metrics: EvaluationRecord) -> None:
    """Print whether classifiers tell recorded from drawn trials, where that was asked."""
    from msgspec import UNSET

    found = metrics.two_sample
    if found is UNSET:
        return
    print("\nAUC of classifiers that tell recorded from drawn (.5: they cannot)")
    latent = any(s.get("latent_nf1") is not None for s in found.trials.values())
    of_model, beside = ("model", "95 % CI", "p"), ("floor", "if right", "linear+N", "mean+N")
    rows: list[tuple[str, ...]] = [
        ("rows", "classifier", *of_model, *beside, *(("latent",) if latent else ()))
    ]
    for unit in ("trials", "pairs"):
        for name, score in (found.get(unit) or {}).items():
            rows.append(
                (
                    unit,
                    name,
                    cell(score.model),
                    interval(*score.ci),
                    cell(score.p),
                    cell(score.floor),
                    cell(score.get("right")),
                    cell(score.linear),
                    cell(score.mean_pattern),
                    *((cell(score.get("latent_nf1")),) if latent else ()),
                )
            )
    print_columns(rows, n_left=2)
    best = found.best
    print(f"the best, {best.classifier} of {best.rows}: p {cell(best.p)}, corrected for the choice")
    alone: list[tuple[str, ...]] = [("logistic, seeing alone", "AUC", "95 % CI", "p")]
    alone += [
        (f"{kind} of {_of_kinds(found)}", cell(one.auc), interval(*one.ci), cell(one.p))
        for kind, one in found.kinds.items()
    ]
    regions = sorted(found.roi.items(), key=lambda item: -(item[1].auc or 0))[:N_REGIONS]
    alone += [(name, cell(one.auc), interval(*one.auc_ci), cell(one.p)) for name, one in regions]
    print_columns(alone, n_left=1)


def _of_kinds(found: TwoSampleScores) -> str:
    """Rows from which each kind of feature was taken."""
    from msgspec import UNSET

    return "trials" if found.pairs is UNSET else "pairs"


def _print_retrieval(metrics: EvaluationRecord) -> None:
    """Print what each decoder retrieves, where folds hold images to choose from."""
    from msgspec import UNSET

    found = metrics.retrieval
    if found is UNSET:
        return
    decoders = {name: found.get(name) for name in ("brainvae", "linear_decoder")}
    columns = ("raw", "syn", "draw", "mean_pattern", "shuffled")
    print(f"\nTop-1 retrieval among {found.n_candidates} images (chance {found.chance:.3f})")
    rows: list[tuple[str, ...]] = [
        ("decoder", "recorded", "predicted", "drawn", "mean pat.", "shuffled")
    ]
    rows += [
        (name.replace("_", " "), *(cell(scores.get(k)) for k in columns))
        for name, scores in decoders.items()
        if scores is not None
    ]
    print_columns(rows, n_left=1)


def print_paper(result: EvaluateResult) -> None:
    """Print the published table's columns, the mean pattern's row beside the model's."""
    from msgspec import UNSET

    from synbrain_cli.config import trials_name

    table = result.paper_table()
    digits = {"Incep": 1, "CLIP": 1, "Raw": 1, "Syn": 1}
    rows = [tuple(table.columns)]
    for row in table.to_dict("records"):
        cells = (cell(row[k], digits.get(k, 3)) for k in table.columns[1:])
        rows.append((row["row"], *cells))
    print_columns(rows, n_left=1)
    trials = trials_name(result.metrics.averaged_over)
    scale = (
        "MSE in (betas / 2000)²"
        if table["MSE"].notna().any()
        else (f"MSE has no published scale in {result.metrics.recorded_unit}")
    )
    retrieval = result.metrics.retrieval
    among = "" if retrieval is UNSET else f"among {retrieval.n_candidates} images "
    print(
        f"\n{scale}; r and cos across voxels of {trials}; Raw and Syn: top-1 % "
        f"{among}by BrainVAE's latent. Incep, CLIP, "
        "Eff and SwAV need images decoded by MindEye2 and are not computed. A constant "
        "scores the mean pattern's row: judge by `synbrain evaluate` without --paper."
    )
