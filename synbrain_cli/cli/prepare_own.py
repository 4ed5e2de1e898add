"""`synbrain prepare table` and `synbrain prepare glmsingle`: experiments of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from synbrain_cli.cli.options import (
    CheckOption,
    DeviceOption,
    EncoderOption,
    EncoderPrecisionOption,
    OverwriteOption,
    QuietOption,
    SeedOption,
    StandardizeOption,
    TestOption,
    TokensOption,
    ValidationOption,
    WorkspaceOption,
)
from synbrain_cli.cli.parsers import (
    parse_named_file,
    parse_target,
    parse_versions,
    require_images,
)
from synbrain_cli.cli.running import interruptible, open_run
from synbrain_cli.cli.tables import print_columns, print_records

if TYPE_CHECKING:
    from synbrain_cli.pipeline.preparations import VersionsResult

app = typer.Typer()

TrialsArgument = Annotated[
    list[Path],
    typer.Argument(
        help="Table with one row per trial: image; optionally session, repeat, split. Several "
        "tables are joined."
    ),
]
ImagesOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the images that the table names; only with --tokens may it be left out."
    ),
]
TableDatasetOption = Annotated[
    str, typer.Option("--dataset", help="Name of the experiment in prepared/.")
]
TableSubjectOption = Annotated[
    str, typer.Option("--subject", "-s", help="Subject: 1, sub-01, CSI1, …")
]
BetasOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--responses",
        help=".npy (trials, voxels), 4-D NIfTI or HDF5, trials in the table's order; repeat for "
        "several files.",
    ),
]
LeftOption = Annotated[
    list[Path] | None,
    typer.Option(help="Responses of the left hemisphere: .npy (trials, vertices), .mgh or .gii."),
]
RightOption = Annotated[
    list[Path] | None, typer.Option(help="Responses of the right hemisphere, likewise.")
]
MaskOption = Annotated[
    list[Path] | None,
    typer.Option(
        help="Voxels to model: a volume that is above 0 there; for surfaces one file per "
        "hemisphere, left and right."
    ),
]
VoxelsOption = Annotated[
    Path | None, typer.Option(help="Table with one row per voxel: ncsnr, and columns of labels.")
]
RoiFileOption = Annotated[
    list[str] | None, typer.Option(help="NAME=FILE: volume of an ROI. Repeat for several.")
]
ImageColumnOption = Annotated[
    str | None,
    typer.Option(help="Column of image names; default: image or stim_file."),
]
TableSpaceOption = Annotated[
    str,
    typer.Option(
        help="Surfaces: fsaverage, fsaverage5, fsaverage6, fsnative or fsLR. Volumes: any name, "
        "such as T1w or MNI152NLin2009cAsym."
    ),
]
UnitNameOption = Annotated[str, typer.Option("--unit", help="Unit of the responses.")]
DivideByOption = Annotated[
    float, typer.Option(help="Divisor of the responses, such as 300 for NSD's integers.")
]
AveragedOverOption = Annotated[
    int,
    typer.Option(
        min=1,
        help="Trials that each row is the average of, where rows are repeat averages: draws are "
        "then averages, too.",
    ),
]
TableSplitOption = Annotated[
    Path | None,
    typer.Option(
        metavar="TABLE|leave-out",
        help="Table of image and split (train, val or test); or leave-out: no fixed test images, "
        "as for tens of images: evaluate leaves out each image or group in turn.",
    ),
]
LEAVE_OUT = Path("leave-out")  # in place of a table of splits


@app.command("table")
def table(
    trials: TrialsArgument,
    dataset: TableDatasetOption,
    subject: TableSubjectOption,
    images: ImagesOption = None,
    responses: BetasOption = None,
    left: LeftOption = None,
    right: RightOption = None,
    mask: MaskOption = None,
    voxels: VoxelsOption = None,
    roi: RoiFileOption = None,
    image_column: ImageColumnOption = None,
    space: TableSpaceOption = "individual",
    unit: UnitNameOption = "as recorded",
    divide_by: DivideByOption = 1.0,
    averaged_over: AveragedOverOption = 1,
    standardize: StandardizeOption = "session",
    split: TableSplitOption = None,
    test: TestOption = 0.15,
    validation: ValidationOption = 0.1,
    encoder: EncoderOption = None,
    tokens: TokensOption = None,
    precision: EncoderPrecisionOption = "auto",
    check: CheckOption = True,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    folder: WorkspaceOption = Path(),
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
) -> None:
    """Prepare a subject of your own experiment from trials, responses and images.

    Example: synbrain prepare table trials.tsv --responses responses.npy --images images
    --dataset v4 --subject 1
    """
    from synbrain_cli.datasets.table_experiment import Experiment
    from synbrain_cli.pipeline.prepare import prepare_table
    from synbrain_cli.pipeline.preparing import describe

    require_images(images, tokens, "--images")
    workspace, run = open_run(folder, quiet, seed, device, distributed=True)
    target = parse_target(workspace, dataset, encoder, tokens, precision, overwrite, check)
    with interruptible():
        experiment = Experiment(
            trials=tuple(trials),
            images=images,
            responses=tuple(responses or ()),
            left=tuple(left or ()),
            right=tuple(right or ()),
            mask=tuple(mask or ()),
            voxels=voxels,
            rois=tuple(parse_named_file(text) for text in roi or ()),
            image_column=image_column,
            space=space,
            unit=unit,
            divide_by=divide_by,
            averaged_over=averaged_over,
            standardize=standardize,
            split=None if split == LEAVE_OUT else split,
            test_share=test,
            validation_share=validation,
            seed=seed,
            leave_out=split == LEAVE_OUT,
        )
        result = prepare_table(target, experiment, subject, run)
    if run.processes.is_main:
        print_records(describe(result))


# -------------------------------------------------------------------------------- GLMsingle


@app.command("glmsingle")
def glmsingle(
    sources: Annotated[
        list[Path],
        typer.Argument(
            help="Folders that GLMsingle wrote, or output files in them: one per session, or one "
            "with all sessions."
        ),
    ],
    dataset: TableDatasetOption,
    subject: TableSubjectOption,
    images: ImagesOption = None,
    conditions: Annotated[
        list[Path] | None,
        typer.Option(
            help="Table with the image of each condition, in the order of the design's columns; "
            "one, or one per source."
        ),
    ] = None,
    trials: Annotated[
        list[Path] | None,
        typer.Option(
            help="In its place: tables with the image of each trial, in the order of time, such "
            "as events of BIDS; repeat for several."
        ),
    ] = None,
    preparation: Annotated[
        str | None,
        typer.Option(
            metavar="<typeb|typec|typed>",
            help="Version of the betas: typeb (FITHRF), typec (GLMDENOISE) or typed (RR), default "
            "the last that is there; typeb,typed: both, as the datasets NAME_typeb and NAME_typed, "
            "with their noise compared.",
        ),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(
            help="Voxels to model, and their positions: a volume that is above 0 there; not "
            "needed for betas without a grid."
        ),
    ] = None,
    roi: RoiFileOption = None,
    image_column: ImageColumnOption = None,
    space: Annotated[
        str, typer.Option(help="Name of the volume's space, such as T1w or MNI152NLin2009cAsym.")
    ] = "individual",
    standardize: StandardizeOption = "session",
    split: TableSplitOption = None,
    test: TestOption = 0.15,
    validation: ValidationOption = 0.1,
    encoder: EncoderOption = None,
    tokens: TokensOption = None,
    precision: EncoderPrecisionOption = "auto",
    check: CheckOption = True,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    folder: WorkspaceOption = Path(),
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
) -> None:
    """Prepare a subject of your own experiment from the output of GLMsingle.

    Example: synbrain prepare glmsingle glm/ses-01 glm/ses-02 --conditions conditions.tsv
    --images images --mask mask.nii.gz --dataset mine --subject 1
    """
    from synbrain_cli.datasets.glmsingle import TYPES, Fits
    from synbrain_cli.pipeline.preparations import prepare_versions
    from synbrain_cli.pipeline.prepare import prepare_glmsingle
    from synbrain_cli.pipeline.preparing import PrepareResult, Target

    versions = parse_versions(preparation, TYPES) if preparation else [""]
    require_images(images, tokens, "--images")
    workspace, run = open_run(folder, quiet, seed, device, distributed=True)
    target = parse_target(workspace, dataset, encoder, tokens, precision, overwrite, check)

    def prepare_one(own: Target, version: str) -> PrepareResult:
        fits = Fits(
            sources=tuple(sources),
            images=images,
            conditions=tuple(conditions or ()),
            trials=tuple(trials or ()),
            kind=version or None,
            mask=mask,
            rois=tuple(parse_named_file(text) for text in roi or ()),
            image_column=image_column,
            space=space,
            standardize=standardize,
            split=None if split == LEAVE_OUT else split,
            test_share=test,
            validation_share=validation,
            seed=seed,
            leave_out=split == LEAVE_OUT,
        )
        return prepare_glmsingle(own, fits, subject, run)

    with interruptible():
        result = prepare_versions(target, versions, prepare_one, run)
    if run.processes.is_main:
        print_versions(result)


def print_versions(result: VersionsResult) -> None:
    """Print the subjects, and what several versions of their betas say of noise."""
    from synbrain_cli.pipeline.preparing import describe
    from synbrain_cli.plotting.sources.preparations import noise_rows

    print_records([row for one in result.results for row in describe(one)])
    for label, (names, table) in result.noise_tables().items():
        if table.empty:
            print(f"\n{label}: no voxels in common, so that ncsnr cannot be compared")
            continue
        print(f"\n{label}: ncsnr from repeats, median over voxels (quartiles)")
        print_columns([("", *names), *map(tuple, noise_rows(table, names))], n_left=1)
