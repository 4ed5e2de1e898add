"""`synbrain prepare mosaic`: the data sets of MOSAIC."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from synbrain_cli.cli.consent import TerminalConsent
from synbrain_cli.cli.options import (
    CheckOption,
    DeviceOption,
    DownloadOption,
    EncoderOption,
    EncoderPrecisionOption,
    OverwriteOption,
    QuietOption,
    SeedOption,
    StandardizeOption,
    SubjectsOption,
    TokensOption,
    ValidationOption,
    WorkspaceOption,
)
from synbrain_cli.cli.parsers import parse_subject_numbers, parse_target
from synbrain_cli.cli.running import interruptible, open_run
from synbrain_cli.cli.tables import print_records

app = typer.Typer()


@app.command("mosaic")
def mosaic(
    data_set: Annotated[
        str,
        typer.Option(
            "--set",
            metavar="<NSD|BOLD5000|THINGS|GOD|deeprecon|BMD|NOD|HAD>",
            help="Data set of MOSAIC, by its short or its whole name (NaturalScenesDataset).",
        ),
    ],
    images: Annotated[
        Path,
        typer.Option(
            help="Folder of the data set's stimuli, from its own authors; of videos their middle "
            "frames; of NSD also the file nsd_stimuli.hdf5."
        ),
    ],
    root: Annotated[
        Path | None, typer.Option(help="Copy of MOSAIC; default: mosaic in the workspace.")
    ] = None,
    subject: SubjectsOption = None,
    roi: Annotated[
        list[str] | None,
        typer.Option(
            help="Cortex to model: visual, cortex (all of it), a section (primary, early, dorsal, "
            "ventral, MT+) or a parcel of HCP-MMP1.0 (V1, FFC, L_V1). Repeat for the union; "
            "default: visual."
        ),
    ] = None,
    standardize: StandardizeOption = "none",
    split: Annotated[
        str,
        typer.Option(
            help="Test images: original (of the data set), a folder with MOSAIC's own lists "
            "(train_naturalistic.json, test_naturalistic.json), or a table of image and split."
        ),
    ] = "original",
    validation: ValidationOption = 0.1,
    artificial: Annotated[
        bool,
        typer.Option(
            "--artificial",
            help="The artificial images of NSD or deeprecon in place of the natural ones, for "
            "`synbrain evaluate --on`.",
        ),
    ] = False,
    download: DownloadOption = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Name of the dataset in prepared/; default: mosaic-nsd, …, or "
            "mosaic-nsd-artificial."
        ),
    ] = None,
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
    """Prepare subjects of MOSAIC, downloading the brain data that are missing.

    Example: synbrain prepare mosaic --set NSD --subject 1 --images nsd_stimuli.hdf5
    """
    from synbrain_cli.datasets.mosaic import Choice
    from synbrain_cli.datasets.mosaic_files import find_set
    from synbrain_cli.pipeline.prepare_mosaic import MosaicSource, prepare_mosaic
    from synbrain_cli.pipeline.preparing import describe

    if artificial and (split, validation) != ("original", 0.1):
        raise typer.BadParameter(
            "--artificial: all of these images are test images: leave out --split and --validation"
        )
    workspace, run = open_run(folder, quiet, seed, device, distributed=True)
    of = find_set(data_set)
    name = dataset or f"mosaic-{of.short.lower()}" + ("-artificial" if artificial else "")
    target = parse_target(workspace, name, encoder, tokens, precision, overwrite, check)
    with interruptible():
        source = MosaicSource(
            of,
            images,
            root,
            subjects=parse_subject_numbers(subject),
            choice=Choice(
                tuple(roi or ("visual",)), standardize, split, validation, seed, artificial
            ),
            download=download,
            ask=TerminalConsent(accepted=False, fewer="--subject chooses less"),
        )
        result = prepare_mosaic(target, source, run)
    if run.processes.is_main:
        print_records(describe(result))
