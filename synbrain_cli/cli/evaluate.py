"""`synbrain evaluate`, `compare`, `learning-curve` and `augment`: scores on test images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from synbrain_cli.cli.completion import (
    complete_dataset,
    complete_model,
    complete_models,
    complete_subjects,
)
from synbrain_cli.cli.evaluation_screen import print_evaluation, print_paper
from synbrain_cli.cli.options import (
    DatasetOption,
    DeviceOption,
    ModelOption,
    OutputOption,
    QuietOption,
    ReportOption,
    SeedOption,
    SubjectOption,
    WorkspaceOption,
)
from synbrain_cli.cli.parsers import parse_numbers
from synbrain_cli.cli.running import interruptible, open_run
from synbrain_cli.cli.tables import (
    amount,
    cell,
    interval,
    print_columns,
    print_files,
    print_notes,
)

if TYPE_CHECKING:
    from synbrain_cli.brain import Brain
    from synbrain_cli.io.prepared import PreparedSubject
    from synbrain_cli.io.token_store import TokenStore
    from synbrain_cli.io.workspace import Workspace
    from synbrain_cli.pipeline.augment import AugmentResult
    from synbrain_cli.pipeline.compare import CompareResult
    from synbrain_cli.pipeline.learning_curve import LearningCurveResult
    from synbrain_cli.progress import Progress

DrawsOption = Annotated[
    int, typer.Option(min=20, help="Draws per image from which distributions are scored.")
]

OnOption = Annotated[
    str | None,
    typer.Option(
        "--on",
        help="Another prepared dataset of the same subject and voxels, such as nsd-synthetic: "
        "scores on its test images, far from those of training.",
        autocompletion=complete_dataset,
    ),
]

# -------------------------------------------------------------------------------- evaluate


def evaluate(
    subject: SubjectOption = None,
    dataset: DatasetOption = None,
    model: ModelOption = None,
    rois: Annotated[
        bool,
        typer.Option("--rois", help="Also print scores by region, and of averages over images."),
    ] = False,
    paper: Annotated[
        bool, typer.Option("--paper", help="Print the published table's columns, on its scale.")
    ] = False,
    draws: DrawsOption = 200,
    folds: Annotated[
        int | None,
        typer.Option(
            min=2,
            metavar="K",
            help="Score every image when it was held out, by refits of a linear model to the other "
            "images, dealt to K folds; for subjects with few images.",
        ),
    ] = None,
    on: OnOption = None,
    latent: Annotated[
        bool,
        typer.Option(help="Also score the published sampling: many passes of the decoder."),
    ] = True,
    two_sample: Annotated[
        bool,
        typer.Option(
            "--two-sample",
            help="Also train classifiers to tell recorded trials from drawn ones, and map what "
            "they find.",
        ),
    ] = False,
    report: ReportOption = True,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    output: OutputOption = None,
    folder: WorkspaceOption = Path(),
    quiet: QuietOption = False,
) -> None:
    """Score a model and its draws on test images, beside baselines, controls and the ceiling.

    Printed are r (correlation over images, median voxel), r² / NC (share of the noise ceiling,
    median reliable voxel), skill (share of the mean pattern's squared error removed), pattern r
    (over voxels, trial by trial), two-way and top-1 identification, RSA and CKA; then what the
    draws' intervals hold, and how reliable draws are. All scores: metrics.tsv, metrics.json.

    Example: synbrain evaluate --subject 1
    """
    from synbrain_cli.brain import load_model
    from synbrain_cli.evaluation.settings import EvaluateSettings
    from synbrain_cli.pipeline.evaluate import evaluate as score_model
    from synbrain_cli.pipeline.evaluate import own_scores
    from synbrain_cli.pipeline.report import report as write_report

    workspace, run = open_run(folder, quiet, seed, device)
    bundle = workspace.find_model(model, subject, run.progress.info, dataset)
    brain = load_model(bundle, device)
    data, store = _test_data(workspace, brain, run.progress)
    settings = EvaluateSettings(
        n_draws=draws, latent=latent, n_folds=folds, on=on, two_sample=two_sample
    )
    with interruptible():
        result = score_model(workspace, brain, data, store, settings, output, run)
    if paper:
        print_paper(result)
    else:
        print_evaluation(result.metrics, rois, own_scores(workspace, brain) if on else None)
    print(f"\nEvery score of every region: {result.folder / 'metrics.tsv'}")
    print_files(result.folder / name for name in ("calibration.png", "metrics.json"))
    if report:
        elsewhere = result.folder if output or folds else None
        page = elsewhere / "report.html" if elsewhere else None
        print(write_report(workspace, brain, evaluation=elsewhere, output=page, run=run))


def _test_data(
    workspace: Workspace, brain: Brain, progress: Progress
) -> tuple[PreparedSubject, TokenStore]:
    """Prepared subject of a model, and the tokens of its images."""
    subject = workspace.find_subject(brain.subject, brain.config.dataset, progress.info)
    spec = [band.spec for band in brain.config.bands]
    return subject, workspace.find_tokens(subject.dataset, spec, progress.info)


# --------------------------------------------------------------------------------- compare


def compare(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="Models of one subject: names in weights/, or paths; default: all of --subject.",
            autocompletion=complete_model,
        ),
    ] = None,
    subject: SubjectOption = None,
    dataset: DatasetOption = None,
    draws: DrawsOption = 200,
    on: OnOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    output: OutputOption = None,
    folder: WorkspaceOption = Path(),
    quiet: QuietOption = False,
) -> None:
    """Score several models of one subject side by side, on the same test images.

    Example: synbrain compare --subject 3
    """
    from synbrain_cli.brain import load_model
    from synbrain_cli.pipeline.compare import CompareSettings
    from synbrain_cli.pipeline.compare import compare as compare_models

    workspace, run = open_run(folder, quiet, seed, device)
    bundles = workspace.find_models(
        ",".join(models) if models else None, subject, run.progress.info, dataset
    )
    run.progress.info(f"models: {', '.join(path.name for path in bundles)}")
    brains = [load_model(path, device) for path in bundles]
    data, store = _test_data(workspace, brains[0], run.progress)
    with interruptible():
        settings = CompareSettings(draws, on=on)
        result = compare_models(workspace, brains, data, store, settings, output, run)
    _print_comparison(result)


def _print_comparison(result: CompareResult) -> None:
    rows = [("model", "hours", "r", "r / ceiling", "95 % CI", "× linear", "× reference", "90 %")]
    for row in result.table().to_dict("records"):
        score = "noise_normalised_correlation"
        rows.append(
            (
                row["row"],
                f"{row['hours']:g}" if row["hours"] == row["hours"] and row["hours"] else "-",
                cell(row["voxelwise_correlation"]),
                cell(row[score]),
                interval(row[f"{score}_low"], row[f"{score}_high"]),
                cell(row["ratio_to_linear"]),
                cell(row["ratio_to_reference"]),
                cell(row["coverage_90"]),
            )
        )
    print_columns(rows, n_left=1)
    print(f"reference: {result.metrics.reference}; 90 %: share of trials within the 90 % intervals")
    print_notes(result.metrics.notes)
    print_files(
        result.folder / name for name in ("comparison.md", "comparison.png", "comparison.tsv")
    )


# -------------------------------------------------------------------------- learning curve


def learning_curve(
    subject: Annotated[
        str | None,
        typer.Option(
            "--subject",
            "-s",
            help="Subjects, separated by commas: 1,2,3; default: the first prepared.",
            autocompletion=complete_subjects,
        ),
    ] = None,
    dataset: DatasetOption = None,
    hours: Annotated[
        str | None,
        typer.Option(help="Amounts of data, such as 0.25,0.5,1,2; default: all available."),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Models of other subjects: names in weights/, separated by commas; default: all.",
            autocompletion=complete_models,
        ),
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(help="Score for which hours are estimated; default: that of all data."),
    ] = None,
    seed: SeedOption = 0,
    output: OutputOption = None,
    folder: WorkspaceOption = Path(),
    quiet: QuietOption = False,
) -> None:
    """Measure how scores grow with hours of scanning and with the number of source subjects.

    Example: synbrain learning-curve --subject 3 --hours 0.25,0.5,1,2
    """
    from synbrain_cli.evaluation.learning_curve import HOURS, load_curve_subjects
    from synbrain_cli.pipeline.learning_curve import LearningCurveSettings
    from synbrain_cli.pipeline.learning_curve import learning_curve as measure_curves

    workspace, run = open_run(folder, quiet, seed)
    settings = LearningCurveSettings(
        hours=tuple(parse_numbers("--hours", hours) or HOURS), target=target
    )
    bundles = workspace.full_models(source, run.progress.info, dataset=dataset)
    dataset = dataset or bundles[0][1].dataset
    labels = subject.split(",") if subject else [None]
    subjects = [workspace.find_subject(label, dataset, run.progress.info) for label in labels]
    with interruptible():
        paths = [path for path, _ in bundles]
        data = load_curve_subjects(workspace, subjects, paths, run.progress.info)
        result = measure_curves(workspace, data, settings, output, run)
    _print_learning_curve(result)


def _print_learning_curve(result: LearningCurveResult) -> None:
    print("Median correlation / ceiling of reliable voxels")
    table = result.table().pivot_table(
        index=["over", "amount"], columns="strategy", values="score", sort=False
    )
    points = [("over", "amount", *table.columns)]
    points += [
        (over, f"{size:g}", *map(cell, values))
        for (over, size), values in zip(table.index, table.to_numpy(), strict=True)
    ]
    print_columns(points)
    print()
    fits = [("over", "strategy", "slope per tenfold", "95 % CI", "target", "reached at", "95 % CI")]
    for row in result.fits().to_dict("records"):
        fits.append(
            (
                row["over"],
                row["strategy"],
                cell(row["slope"]),
                interval(row["slope_low"], row["slope_high"]),
                cell(row["target"]),
                amount(row["to_reach"]),
                interval(row["to_reach_low"], row["to_reach_high"], amount),
            )
        )
    print_columns(fits)
    print(f"\nEvery point: {result.folder / 'learning_curve.tsv'}")
    print_files(sorted(result.folder.glob("*.png")))
    print_notes(result.metrics.notes)


# --------------------------------------------------------------------------------- augment


def augment(
    subject: SubjectOption = None,
    dataset: DatasetOption = None,
    model: ModelOption = None,
    amounts: Annotated[
        str | None,
        typer.Option(
            help="Amounts of synthesized trials, in multiples of the real ones, such as 0.5,1,2."
        ),
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    output: OutputOption = None,
    folder: WorkspaceOption = Path(),
    quiet: QuietOption = False,
) -> None:
    """Measure what synthesized trials add to a decoder trained on real ones.

    Example: synbrain augment --model sub-03_hours-1
    """
    from synbrain_cli.brain import load_model
    from synbrain_cli.evaluation.augmentation import AMOUNTS
    from synbrain_cli.pipeline.augment import AugmentSettings
    from synbrain_cli.pipeline.augment import augment as measure_augmentation

    workspace, run = open_run(folder, quiet, seed, device)
    settings = AugmentSettings(tuple(parse_numbers("--amounts", amounts) or AMOUNTS))
    bundle = workspace.find_model(model, subject, run.progress.info, dataset)
    brain = load_model(bundle, device)
    data, store = _test_data(workspace, brain, run.progress)
    with interruptible():
        result = measure_augmentation(workspace, brain, data, store, settings, output, run)
    _print_augmentation(result)


def _print_augmentation(result: AugmentResult) -> None:
    scores = {"two_way_trials": "two-way", "retrieval_trials": "retrieval"}
    head = ("responses", "amount", "weight")
    rows = [(*head, *(c for name in scores.values() for c in (name, "gain", "95 % CI")))]
    for condition, decoders in result.metrics.conditions.items():
        chosen = result.metrics.chosen[condition].amount
        for decoder in decoders:
            mark = "*" if decoder.amount == chosen else ""
            cells: list[str] = []
            for name in scores:
                score = decoder.scores[name]
                low, high = score.gain_ci
                cells += [cell(score.value), cell(score.gain, 4)]
                cells.append(f"{cell(low, 4)} to {cell(high, 4)}")
            rows.append((condition, f"{decoder.amount:g}{mark}", cell(decoder.weight, 1), *cells))
    print_columns(rows, n_left=1)
    print(
        "\nSingle test trials; amounts in multiples of the real trials; *: chosen on validation "
        "images of the real trials; gain over real trials alone"
    )
    print_notes(result.metrics.notes)
    print_files(result.folder / name for name in ("augmentation.png", "augmentation.tsv"))
