"""`synbrain plot`: figures of responses, draws and accuracy, and the report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from synbrain_cli.cli.options import (
    DatasetOption,
    DpiOption,
    FormatOption,
    ModelOption,
    OutputOption,
    QuietOption,
    ResponsesOption,
    SeedOption,
    StyleOption,
    SubjectOption,
    SurfaceOption,
    WorkspaceOption,
)
from synbrain_cli.cli.running import open_run
from synbrain_cli.cli.sections import PlainGroup
from synbrain_cli.cli.tables import cell, print_columns, print_files, print_notes

if TYPE_CHECKING:
    import pandas as pd

app = typer.Typer(cls=PlainGroup, no_args_is_help=True, help="Plot figures and write reports.")

MapKind = Literal[
    "mean",
    "std",
    "sem",
    "difference",
    "draw",
    "draws-mean",
    "recorded",
    "error",
    "accuracy",
    "ceiling",
]

WhatOption = Annotated[
    MapKind,
    typer.Option(
        help="Of synthesized responses: mean (the expected response), std (of a single trial), "
        "sem (of the mean), difference (of expected responses), draw (one), draws-mean (average of "
        "the draws); of a test image: recorded or error (recorded − expected); of the model: "
        "accuracy (flatmaps: beside the noise ceiling) or ceiling."
    ),
]
ImageOption = Annotated[
    str | None,
    typer.Option(help="An image of the responses (default: all), or test images, as A,B."),
]
MinusOption = Annotated[
    str | None,
    typer.Option(help="Image, or folder of responses, whose expected response is subtracted."),
]
DrawOption = Annotated[int, typer.Option(min=0, help="Number of the draw, with --what draw.")]
ThresholdOption = Annotated[float | None, typer.Option(help="Hide smaller absolute values.")]
VmaxOption = Annotated[float | None, typer.Option(help="Limit of the colour scale.")]
MinNcsnrOption = Annotated[
    float | None,
    typer.Option(
        help="Leave voxels grey whose noise ceiling signal-to-noise ratio (ncsnr) is lower, such "
        "as 0.2; default: show all."
    ),
]
TrialsOption = Annotated[
    Path | None,
    typer.Option(
        "--responses", help="Folder written by synthesize, instead of recorded test images."
    ),
]
TestImagesOption = Annotated[
    str | None,
    typer.Option("--image", help="Test images, as A,B; default: those with most repeats."),
]
SamplesOption = Annotated[int, typer.Option("--samples", "-n", min=2, help="Draws per image.")]


@app.command("flatmap")
def plot_flatmap(
    subject: SubjectOption = None,
    dataset: DatasetOption = None,
    model: ModelOption = None,
    what: WhatOption = "mean",
    responses: ResponsesOption = None,
    image: ImageOption = None,
    minus: MinusOption = None,
    draw: DrawOption = 0,
    threshold: ThresholdOption = None,
    vmax: VmaxOption = None,
    min_ncsnr: MinNcsnrOption = None,
    space: SurfaceOption = None,
    pycortex: Annotated[
        bool,
        typer.Option("--pycortex", help="Plot with pycortex (pip install synbrain[pycortex])."),
    ] = False,
    format: FormatOption = "png",
    dpi: DpiOption = None,
    style: StyleOption = None,
    output: OutputOption = None,
    folder: WorkspaceOption = Path(),
    quiet: QuietOption = False,
) -> None:
    """Plot responses, recordings or accuracy on fsaverage's flattened cortex.

    Example: synbrain plot flatmap --subject 2 --image coffee --minus flower
    """
    from synbrain_cli.pipeline import plot
    from synbrain_cli.plotting.map_plotter import Look

    workspace, run = open_run(folder, quiet)
    result = plot.brain_maps(
        workspace,
        "flatmap",
        plot.Selection(model, subject, responses, image, dataset),
        plot.MapChoice(what, minus, draw),
        look=Look(space, threshold, vmax, format, dpi, pycortex, min_ncsnr, style),
        output=output,
        run=run,
    )
    print_files(result.files)


@app.command("surface")
def plot_surface(
    subject: SubjectOption = None,
    dataset: DatasetOption = None,
    model: ModelOption = None,
    what: WhatOption = "mean",
    responses: ResponsesOption = None,
    image: ImageOption = None,
    minus: MinusOption = None,
    draw: DrawOption = 0,
    threshold: ThresholdOption = None,
    vmax: VmaxOption = None,
    min_ncsnr: MinNcsnrOption = None,
    space: SurfaceOption = None,
    format: FormatOption = "png",
    dpi: DpiOption = None,
    style: StyleOption = None,
    output: OutputOption = None,
    folder: WorkspaceOption = Path(),
    quiet: QuietOption = False,
) -> None:
    """Plot responses, recordings or accuracy on fsaverage's inflated surface, in four views.

    Example: synbrain plot surface --subject 2 --what accuracy
    """
    from synbrain_cli.pipeline import plot
    from synbrain_cli.plotting.map_plotter import Look

    workspace, run = open_run(folder, quiet)
    result = plot.brain_maps(
        workspace,
        "surface",
        plot.Selection(model, subject, responses, image, dataset),
        plot.MapChoice(what, minus, draw),
        look=Look(space, threshold, vmax, format, dpi, min_ncsnr=min_ncsnr, style=style),
        output=output,
        run=run,
    )
    print_files(result.files)


@app.command("draws")
def plot_draws(
    subject: SubjectOption = None,
    dataset: DatasetOption = None,
    model: ModelOption = None,
    responses: TrialsOption = None,
    image: TestImagesOption = None,
    samples: SamplesOption = 20,
    seed: SeedOption = 0,
    vmax: VmaxOption = None,
    min_ncsnr: MinNcsnrOption = None,
    space: SurfaceOption = None,
    format: FormatOption = "png",
    dpi: DpiOption = None,
    style: StyleOption = None,
    output: OutputOption = None,
    folder: WorkspaceOption = Path(),
    quiet: QuietOption = False,
) -> None:
    """Plot recorded trials of a test image beside draws for it, on one colour scale.

    Example: synbrain plot draws --subject 2 --image nsd00037
    """
    from synbrain_cli.pipeline import plot
    from synbrain_cli.plotting.map_plotter import Look

    workspace, run = open_run(folder, quiet, seed)
    result = plot.draws(
        workspace,
        plot.Selection(model, subject, responses, image, dataset),
        n_draws=samples,
        look=Look(space, None, vmax, format, dpi, min_ncsnr=min_ncsnr, style=style),
        output=output,
        run=run,
    )
    print_files(result.files)


@app.command("rois")
def plot_rois(
    subject: SubjectOption = None,
    dataset: DatasetOption = None,
    model: ModelOption = None,
    responses: TrialsOption = None,
    image: TestImagesOption = None,
    samples: SamplesOption = 20,
    seed: SeedOption = 0,
    format: FormatOption = "png",
    dpi: DpiOption = None,
    style: StyleOption = None,
    output: OutputOption = None,
    folder: WorkspaceOption = Path(),
    quiet: QuietOption = False,
) -> None:
    """Plot ROI means: intervals over draws, with the recorded trials over them.

    Example: synbrain plot rois --subject 2
    """
    from synbrain_cli.pipeline import plot
    from synbrain_cli.plotting.map_plotter import Look

    workspace, run = open_run(folder, quiet, seed)
    result = plot.rois(
        workspace,
        plot.Selection(model, subject, responses, image, dataset),
        n_draws=samples,
        look=Look(format=format, dpi=dpi, style=style),
        output=output,
        run=run,
    )
    print_files(result.files)


@app.command("accuracy")
def plot_accuracy(
    subject: SubjectOption = None,
    dataset: DatasetOption = None,
    model: ModelOption = None,
    format: FormatOption = "png",
    dpi: DpiOption = None,
    style: StyleOption = None,
    output: OutputOption = None,
    folder: WorkspaceOption = Path(),
    quiet: QuietOption = False,
) -> None:
    """Plot each voxel's accuracy against its noise ceiling, beside the baselines.

    Example: synbrain plot accuracy --subject 2
    """
    from synbrain_cli.pipeline import plot
    from synbrain_cli.plotting.map_plotter import Look

    workspace, run = open_run(folder, quiet)
    look = Look(format=format, dpi=dpi, style=style)
    selection = plot.Selection(model, subject, dataset=dataset)
    result = plot.accuracy(workspace, selection, look=look, output=output, run=run)
    print_files(result.files)


@app.command("layers")
def plot_layers(
    subject: SubjectOption = None,
    dataset: DatasetOption = None,
    model: ModelOption = None,
    min_ncsnr: MinNcsnrOption = None,
    space: SurfaceOption = None,
    format: FormatOption = "png",
    dpi: DpiOption = None,
    style: StyleOption = None,
    output: OutputOption = None,
    folder: WorkspaceOption = Path(),
    quiet: QuietOption = False,
) -> None:
    """Plot which band of the linear encoder predicts each voxel best: on cortex and by region.

    A band is a layer of an image encoder. Its contribution to a voxel is the standard deviation,
    over test images, of the sum of weight × prediction over the band's members (ridge and
    receptive fields) in the stack of the linear encoder; the best band has the largest one. Test
    images are needed as tokens alone, without responses. Voxels are grey where the linear encoder
    predicts nothing. A table of regions lies beside the figures, as TSV.

    Example: synbrain plot layers --subject 2 --min-ncsnr 0.2
    """
    from synbrain_cli.pipeline.layers import layers
    from synbrain_cli.pipeline.plot import Selection
    from synbrain_cli.plotting.map_plotter import Look

    workspace, run = open_run(folder, quiet)
    result = layers(
        workspace,
        Selection(model, subject, dataset=dataset),
        look=Look(space, format=format, dpi=dpi, min_ncsnr=min_ncsnr, style=style),
        output=output,
        run=run,
    )
    print_layers(result.table)
    print_notes([result.definition])
    print_files(result.files)


@app.command("report")
def plot_report(
    subject: SubjectOption = None,
    dataset: DatasetOption = None,
    model: ModelOption = None,
    responses: ResponsesOption = None,
    min_ncsnr: MinNcsnrOption = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Output file; default: outputs/MODEL_report.html."),
    ] = None,
    style: StyleOption = None,
    folder: WorkspaceOption = Path(),
    quiet: QuietOption = False,
) -> None:
    """Write one HTML file to share: stimuli, maps, draws, accuracy, calibration, provenance.

    Example: synbrain plot report --subject 2
    """
    from synbrain_cli.pipeline.plot import Selection
    from synbrain_cli.pipeline.report import report as write_report
    from synbrain_cli.plotting.figure import figure_style

    workspace, run = open_run(folder, quiet)
    selection = Selection(model, subject, responses, dataset=dataset)
    made = selection.named_responses()
    if made is not None:
        brain = made.brain(workspace, run.progress.info)
    else:
        brain = selection.find_model(workspace, run.progress)
    with figure_style(style):
        file = write_report(
            workspace, brain, responses=made, output=output, min_ncsnr=min_ncsnr, run=run
        )
    print(file)


def print_layers(table: pd.DataFrame) -> None:
    """Print what each band wins in each region, and its mean share of contributions."""
    bands = list(dict.fromkeys(table["band"]))
    rows: list[tuple[str, ...]] = [("region", "voxels", *bands)]
    for (region, n_voxels), own in table.groupby(["region", "n_voxels"], sort=False):
        cells = zip(own["fraction_won"], own["mean_share"], strict=True)
        shown = (f"{cell(won, 2)} ({cell(share, 2)})" if n_voxels else "-" for won, share in cells)
        rows.append((region, f"{n_voxels:,}", *shown))
    print("fraction of voxels in which each band contributes most (mean share of contributions)")
    print_columns(rows, n_left=1)
