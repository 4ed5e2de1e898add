"""`synbrain select`: images chosen from thousands by what a model expects of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from synbrain_cli.cli.options import (
    DatasetOption,
    DeviceOption,
    DpiOption,
    FormatOption,
    ModelOption,
    OutputOption,
    QuietOption,
    SeedOption,
    ShownTokensOption,
    StyleOption,
    SubjectOption,
    WorkspaceOption,
)
from synbrain_cli.cli.parsers import parse_tokens, require_images
from synbrain_cli.cli.running import interruptible, open_run
from synbrain_cli.cli.tables import cell, interval, print_columns, print_notes

if TYPE_CHECKING:
    from synbrain_cli.pipeline.select import SelectResult

MOST_ROWS = 10  # of the ranking, on the screen


def select(
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            help="A folder of candidate images, or image files; of a model that sees no pictures "
            "a file of tokens, or nothing beside --tokens."
        ),
    ] = None,
    tokens: ShownTokensOption = None,
    drive: Annotated[
        str | None,
        typer.Option(
            metavar="ROI",
            help="Choose images of a large response: of an ROI, a union (V1+V2), or a single voxel "
            "or unit (voxel:12, counted from 0).",
        ),
    ] = None,
    suppress: Annotated[
        str | None, typer.Option(metavar="ROI", help="Choose images of a small response.")
    ] = None,
    contrast: Annotated[
        str | None,
        typer.Option(
            metavar="A:B",
            help="Choose images for two ROIs, each standardised over the images: +V1:-hV4 (short: "
            "V1:hV4) drives V1 and suppresses hV4; also +V1:+hV4, -V1:-hV4 and -V1:+hV4.",
        ),
    ] = None,
    tell_apart: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL,MODEL",
            help="Choose images on which two models differ most, relative to how unsure they are.",
        ),
    ] = None,
    roi: Annotated[
        str | None,
        typer.Option(
            metavar="ROI",
            help="With --tell-apart: where the models are compared; default, of one subject: all "
            "voxels.",
        ),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            min=1, help="Images to choose; default: 20, or half of the images where they are few."
        ),
    ] = None,
    independent: Annotated[
        bool,
        typer.Option(
            help="Also estimate what the chosen set is worth by linear encoders of two halves of "
            "the training images; without them intervals may be too narrow."
        ),
    ] = True,
    subject: SubjectOption = None,
    dataset: DatasetOption = None,
    model: ModelOption = None,
    format: FormatOption = "png",
    dpi: DpiOption = None,
    style: StyleOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    output: OutputOption = None,
    folder: WorkspaceOption = Path(),
    quiet: QuietOption = False,
) -> None:
    """Choose images, of thousands, that a model expects to drive, suppress or contrast regions.

    All images are ranked, with an interval each. Where the training data are in the workspace, what
    the chosen set is worth is also estimated by fits that had no part in choosing it.

    Example: synbrain select images --drive FFA-1 --subject 2
    """
    from synbrain_cli.brain import load_model
    from synbrain_cli.brain.images import shown_images
    from synbrain_cli.errors import InputError
    from synbrain_cli.experiments.selection_aims import SelectionSettings
    from synbrain_cli.pipeline.select import select_images
    from synbrain_cli.plotting.map_plotter import Look

    require_images(images, tokens, "images")
    workspace, run = open_run(folder, quiet, seed, device)
    settings = SelectionSettings(drive, suppress, contrast, roi, top, independent)
    log = run.progress.info
    given = images[0] if images and len(images) == 1 else images
    with interruptible():
        pictures, named_by, files = shown_images(given or None, parse_tokens(tokens))
        if tell_apart is None:
            found = workspace.find_model(model, subject, log, dataset)
            brains = load_model(found, str(run.device), files)
        else:
            if settings.criterion != "tell-apart":
                raise InputError(
                    f"--tell-apart {tell_apart}: expected alone, found --{settings.criterion} "
                    f"{settings.of} beside it"
                )
            if model is not None:
                raise InputError(
                    f"--model {model}: --tell-apart names its models: leave out --model"
                )
            found = workspace.find_models(tell_apart, subject, log, dataset)
            if len(found) != 2:
                raise InputError(
                    f"--tell-apart {tell_apart}: expected two models, separated by a comma"
                )
            brains = tuple(load_model(path, str(run.device), files) for path in found)
        result = select_images(
            workspace,
            brains,
            named_by if pictures.are_seen else pictures,
            settings,
            look=Look(format=format, dpi=dpi, style=style),
            output=output,
            run=run,
        )
    _print_selection(result)
    print(result.folder)


def _print_selection(result: SelectResult) -> None:
    """Print the first of the ranking, and what the set is worth."""
    record, table = result.record, result.selection.table
    simulated = "; simulated" if record.simulated else ""
    print(f"{result.selection.title}{simulated}\n")
    means = [column for column in table if column.startswith("mean_")]
    if len(means) == 1:  # but for its sign the score
        means = []
    rows = [("", "name", "score", "95 % interval", "distance", *means)]
    for rank, row in enumerate(table.head(min(MOST_ROWS, record.n_chosen)).to_dict("records"), 1):
        rows.append(
            (
                str(rank),
                row["name"],
                cell(row["score"], 3),
                interval(row["low"], row["high"], lambda value: cell(value, 2)).replace(
                    "–", " to "
                ),
                cell(row["distance"], 0),
                *(cell(row[column], 3) for column in means),
            )
        )
    print_columns(rows)
    print_notes(_notes(result))


def _notes(result: SelectResult) -> list[str]:
    """Say what the scores are, what the chosen set is worth, and how far it is from training."""
    record = result.record
    chosen, opposite = record.chosen, record.opposite
    notes = [
        f"score: {record.score_unit}; distance: percent of training images as near or nearer",
        f"mean score less that of all images, own estimate: {cell(chosen.own, 2)} of the "
        f"{record.n_chosen} chosen, {cell(opposite.own, 2)} of the {record.n_chosen} at the other "
        "end",
    ]
    guard = record.get("guard")
    if guard is not None:
        notes.append(
            f"independent estimate: {cell(chosen.independent, 2)} and "
            f"{cell(opposite.independent, 2)}, {guard.share:.0%} of the own one, by linear "
            "encoders of two halves of the training images: recorded responses on those predicted "
            f"from the other half have a slope of {cell(guard.slope, 2)}, predictions of one half "
            f"on those of the other {cell(guard.agreement, 2)} for these images and "
            f"{cell(guard.agreement_training, 2)} for training images"
        )
    else:
        narrow = (
            "" if record.criterion == "tell-apart" else "; without it intervals may be too narrow"
        )
        notes.append(f"no independent estimate: {record.get('no_guard')}{narrow}")
    if "n_apart" in dict(record.items()):
        notes.append(
            f"{record.n_apart:,} of all {record.n_images:,} images tell the two subjects apart by "
            f"more than 1.96 standard errors; by chance {0.05 * record.n_images:.0f} would"
        )
    if record.get("n_trained"):
        notes.append(
            f"{record.n_trained_chosen} of the {record.n_chosen} chosen, and {record.n_trained:,} "
            f"of all {record.n_images:,}, are images that the model was trained on: what it "
            "expects of these holds noise of their recorded responses"
        )
    if record.get("n_far") is None:
        notes.append(
            "how far the images are from the training images is not known: the model is of an "
            "earlier version; train it again"
        )
        return notes
    notes.append(
        f"{record.n_far_chosen} of the {record.n_chosen} chosen, and {record.n_far:,} of all "
        f"{record.n_images:,}, are farther from the training images than any of these is from the "
        "others: what the model says of them is extrapolated"
    )
    return notes
