"""`synbrain localize`: maps and regions of a subject, according to its model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from synbrain_cli.cli.options import (
    AlphaOption,
    ControlsOption,
    CorrectionOption,
    DatasetOption,
    DeviceOption,
    DpiOption,
    FormatOption,
    ModelOption,
    OutputOption,
    PermutationsOption,
    QuietOption,
    SeedOption,
    StyleOption,
    SubjectOption,
    SurfaceOption,
    WorkspaceOption,
)
from synbrain_cli.cli.running import interruptible, open_run
from synbrain_cli.cli.sections import PlainGroup
from synbrain_cli.cli.tables import cell, print_columns, print_notes

if TYPE_CHECKING:
    from synbrain_cli.io.results.contrast import CategoriesRecord
    from synbrain_cli.io.results.retinotopy import RetinotopyRecord

app = typer.Typer(
    cls=PlainGroup,
    no_args_is_help=True,
    help="Map a modelled subject: receptive fields, category regions.",
)


@app.command("prf")
def localize_prf(
    subject: SubjectOption = None,
    dataset: DatasetOption = None,
    model: ModelOption = None,
    degrees: Annotated[
        float,
        typer.Option(help="Width of the pictures in the experiment, degrees of visual angle."),
    ] = 8.4,
    textures: Annotated[
        int, typer.Option(min=1, help="Textures over which every aperture is shown.")
    ] = 4,
    min_r2: Annotated[
        float | None,
        typer.Option(
            help="Share of variance from which on a receptive field counts; default: what fits to "
            "apertures in another order reach in 5 % of the voxels."
        ),
    ] = None,
    measured: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the subject's own maps (prf_angle.nii.gz, prf_eccentricity, prf_size, "
            "prf_R2), to compare with; NSD's is nsddata/ppdata/subj01/func1pt8mm."
        ),
    ] = None,
    space: SurfaceOption = None,
    format: FormatOption = "png",
    dpi: DpiOption = None,
    style: StyleOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    output: OutputOption = None,
    folder: WorkspaceOption = Path(),
    quiet: QuietOption = False,
) -> None:
    """Map population receptive fields: polar angle, eccentricity, size and R² of every voxel.

    Bars, wedges and rings over textures are shown to the model. Maps are written as NIfTI and
    GIFTI, with a table of voxels and flatmaps.

    Example: synbrain localize prf --subject 2
    """
    from synbrain_cli.brain import load_model
    from synbrain_cli.experiments.retinotopy import MappingSettings
    from synbrain_cli.pipeline.localize import localize_prf as map_fields
    from synbrain_cli.plotting.map_plotter import Look

    workspace, run = open_run(folder, quiet, seed, device)
    found = workspace.find_model(model, subject, run.progress.info, dataset)
    with interruptible():
        result = map_fields(
            workspace,
            load_model(found, str(run.device)),
            MappingSettings(degrees, textures, min_r2),
            measured=measured,
            look=Look(space, format=format, dpi=dpi, style=style),
            output=output,
            run=run,
        )
    _print_mapping(result.record)
    print(result.folder)


def _print_mapping(record: RetinotopyRecord) -> None:
    """Print what the fields of each region are."""
    n = record.regions["all"].n_voxels
    simulated = "; simulated" if record.simulated else ""
    print(f"{record.model}: receptive fields of {n:,} voxels{simulated}\n")
    rows = [("region", "voxels", "fitted", "R²", "eccentricity", "size", "size per degree")]
    rows += [
        (
            name,
            f"{region.n_voxels:,}",
            f"{region.n_fitted:,}",
            cell(region.r2, 2),
            cell(region.eccentricity, 2),
            cell(region.size, 2),
            cell(region.slope, 2),
        )
        for name, region in record.regions.items()
    ]
    print_columns(rows, 1)
    notes = [
        f"fitted: R² of {record.min_r2:.2f} or more; fits to apertures in another order reach "
        f"{record.chance_r2:.2f} in 5 % of the voxels; medians over the fitted voxels, degrees",
        "the model was trained on photographs, which apertures on grey are unlike",
    ]
    if measured := record.get("measured"):
        notes.append(
            f"beside the subject's own maps, {measured.n_voxels:,} voxels: angles differ by "
            f"{cell(measured.angle_error, 1)}° (median), eccentricities correlate with r "
            f"{cell(measured.eccentricity_r, 2)}, sizes with {cell(measured.size_r, 2)}"
        )
    print_notes(notes)


@app.command("categories")
def localize_categories(
    categories: Annotated[
        list[Path],
        typer.Argument(
            metavar="FOLDER | TABLE",
            help="A folder with a folder of images for each category; or a table with the columns "
            "image and condition.",
        ),
    ],
    subject: SubjectOption = None,
    dataset: DatasetOption = None,
    model: ModelOption = None,
    correction: CorrectionOption = "fwe",
    alpha: AlphaOption = 0.05,
    permutations: PermutationsOption = 2000,
    controls: ControlsOption = True,
    space: SurfaceOption = None,
    format: FormatOption = "png",
    dpi: DpiOption = None,
    style: StyleOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    output: OutputOption = None,
    folder: WorkspaceOption = Path(),
    quiet: QuietOption = False,
) -> None:
    """Localize category regions: each category of images against all others.

    Maps are written as NIfTI and GIFTI, with a table of voxels, flatmaps, and how well each map
    tells the subject's own regions from all other voxels (AUC).

    Example: synbrain localize categories fLoc/ --subject 1
    """
    from synbrain_cli.brain import load_model
    from synbrain_cli.experiments.conditions import read_categories
    from synbrain_cli.experiments.contrast import ContrastSettings
    from synbrain_cli.pipeline.localize import localize_categories as localize
    from synbrain_cli.plotting.map_plotter import Look

    workspace, run = open_run(folder, quiet, seed, device)
    found = workspace.find_model(model, subject, run.progress.info, dataset)
    read = read_categories(categories)
    with interruptible():
        result = localize(
            workspace,
            load_model(found, str(run.device)),
            read,
            ContrastSettings(correction, alpha, permutations, controls),
            look=Look(space, format=format, dpi=dpi, style=style),
            output=output,
            run=run,
        )
    _print_categories(result.record)
    print(result.folder)


def _print_categories(record: CategoriesRecord) -> None:
    """Print where each category drives responses most."""
    simulated = "; simulated" if record.simulated else ""
    print(
        f"{record.model}: {len(record.categories)} categories, each against all others, "
        f"{record.n_voxels:,} voxels{simulated}\n"
    )
    rows = [("category", "regions of largest AUC", "images", "voxels", "preferring")]
    for name, one in record.categories.items():
        best = sorted(one.auc.items(), key=lambda item: -item[1])[:3]
        rows.append(
            (
                name,
                ", ".join(f"{region} {cell(value, 2)}" for region, value in best) or "-",
                f"{one.n_images:,}",
                f"{one.n_significant:,}",
                f"{one.n_preferring:,}",
            )
        )
    print_columns(rows, 2)
    notes = [f"{name}: {one.verdict}" for name, one in record.categories.items()]
    if record.far:
        notes.append(
            f"{record.far} images are farther from the training images than any of these from the "
            "others: what the model says of them is extrapolated"
        )
    notes.append(
        f"voxels: that respond more to the category ({record.correction.upper()} p < "
        f"{record.alpha:g}); AUC: how well the t map tells a region of the subject from all other "
        "voxels, 0.5 by chance"
    )
    print_notes(notes)
