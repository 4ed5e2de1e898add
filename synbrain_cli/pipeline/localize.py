"""`synbrain localize`: where maps and regions of a subject are, according to its model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import pandas as pd
from msgspec import UNSET

from synbrain_cli.brain import Brain
from synbrain_cli.evaluation.results_writer import Table, write_results
from synbrain_cli.experiments.categories import CategoryMaps, fit_categories
from synbrain_cli.experiments.conditions import Condition
from synbrain_cli.experiments.contrast import ContrastSettings
from synbrain_cli.experiments.keeping import Keeping
from synbrain_cli.experiments.mapping_stimuli import mapping_apertures
from synbrain_cli.experiments.retinotopy import (
    MappingSettings,
    MeasuredMaps,
    Retinotopy,
    describe_regions,
    fit_prf,
)
from synbrain_cli.experiments.verdict import say_verdict
from synbrain_cli.io.files import versions
from synbrain_cli.io.results.contrast import CategoriesRecord, CategoryRecord
from synbrain_cli.io.results.record import finite
from synbrain_cli.io.results.retinotopy import RetinotopyRecord
from synbrain_cli.io.workfolder import FolderKind, WorkFolder, work_folder
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.model.uncertainty import FARTHEST
from synbrain_cli.pipeline.map_writer import MapWriter, StatMap, Surfaces
from synbrain_cli.plotting.figure import figure_style, save_figure
from synbrain_cli.plotting.map_plotter import Look
from synbrain_cli.plotting.retinotopy import ShownFields, plot_sizes
from synbrain_cli.run import RunContext

UNITS = {
    "angle": "degrees, counterclockwise from the right",
    "eccentricity": "degrees of visual angle",
    "size": "degrees of visual angle",
    "r2": "share of variance",
}
SHOWN = {
    "angle": "Polar angle of the centre of the population receptive field",
    "eccentricity": "Eccentricity of the centre of the population receptive field",
    "size": "Size of the population receptive field: its SD over the root of the exponent",
    "r2": "Share of the variance of responses to the mapping stimuli that the field explains",
}
MAPPING = FolderKind("a mapping of receptive fields", "--output", remakes=True)
LOCALIZER = FolderKind("a localizer of categories", "--output", remakes=True)


@dataclass(frozen=True)
class MappingResult:
    """Receptive fields of one model.

    Attributes
    ----------
    folder : Path
        Holds ``prf.json``, ``prf.tsv``, maps and figures.
    record : RetinotopyRecord
        As in ``prf.json``.
    table : DataFrame
        One row per voxel: position, ``angle``, ``eccentricity``, ``size`` (degrees) and ``r2``.
    """

    folder: Path
    record: RetinotopyRecord
    table: pd.DataFrame


def localize_prf(
    workspace: Workspace,
    brain: Brain,
    settings: MappingSettings | None = None,
    *,
    measured: Path | None = None,
    look: Look | None = None,
    output: Path | None = None,
    run: RunContext | None = None,
) -> MappingResult:
    """Map the population receptive fields of a modelled subject.

    Bars, wedges and rings over textures are shown to the model, and the fields that explain its
    expected responses best are fitted (`synbrain_cli.experiments.population_fields`). Beside them
    stands what the same fit finds where apertures are in another order. An interrupted mapping
    continues after the last texture.

    Parameters
    ----------
    workspace : Workspace
    brain : Brain
    settings : MappingSettings, optional
    measured : path, optional
        Folder of the subject's own maps (`MeasuredMaps.load`), to compare with.
    look : Look, optional
    output : path, optional
        Default ``outputs/<model>_prf``.
    run : RunContext, optional
        Its seed is that of the textures.

    Raises
    ------
    InputError, MissingError
        When the model has no image encoder here, or the measured maps are not those of the subject.
    """
    # Set up
    settings, look, run = settings or MappingSettings(), look or Look(), run or RunContext()
    own = MeasuredMaps.load(measured, brain) if measured else None
    folder = Path(output) if output else workspace.output_of(brain.name, "prf")
    recorded = {
        "model": brain.name,
        "fingerprint": brain.config.fingerprint,
        "seed": run.seed,
        "measured": str(measured) if measured else None,
        **asdict(settings),
        **{name: value for name, value in asdict(look).items() if value is not None},
    }
    with work_folder(folder, MAPPING, recorded, progress=run.progress) as work:
        # Show the apertures, and fit the receptive fields
        found = fit_prf(brain, settings, run, work.recovery)

        # Write the results
        record = RetinotopyRecord(
            model=brain.name,
            subject=brain.subject,
            dataset=brain.config.dataset,
            simulated=brain.simulated,
            degrees=settings.degrees,
            n_apertures=len(mapping_apertures().names),
            n_textures=settings.n_textures,
            min_r2=round(found.min_r2, 4),
            chance_r2=round(found.chance_r2, 4),
            regions=describe_regions(found),
            seed=run.seed,
            fingerprint=brain.config.fingerprint,
            versions=versions(),
            measured=own.agreement(found) if own else UNSET,
            command=run.command or UNSET,
        )
        _write_maps(work, found)
        _write_figures(work, found, look, run)
        write_results(work, {"prf.json": record, "prf.tsv": Table(found.table, "%.4f")})
    return MappingResult(folder, record, found.table)


def _write_maps(work: WorkFolder, found: Retinotopy) -> None:
    """Write every map in the subject's own space, and on fsaverage5 where that can be reached."""

    def there(name: str, space: str) -> Surfaces:
        return found.to_surface(space)[name]

    writer, brain = MapWriter(work.partial, found.brain), found.brain
    writer.write(
        StatMap(name, values, UNITS[name], SHOWN[name], resample=partial(there, name))
        for name, values in found.visual._asdict().items()
    )
    writer.describe(
        f"Receptive fields of {brain.name}",
        f"Population receptive fields of {brain.config.label}, fitted to the responses that the "
        f"model {brain.name} expects to mapping stimuli. `prf.tsv` holds the numbers, `prf.json` "
        "settings and medians by region.",
    )


def _write_figures(work: WorkFolder, found: Retinotopy, look: Look, run: RunContext) -> None:
    """Write a map of each quantity, and sizes over eccentricities by region."""
    too_few = f"too few voxels reach an R² of {found.min_r2:.2f} (--min-r2)"
    with figure_style(look.style):
        writer = MapWriter(work.partial, found.brain)
        writer.plot(found.maps(), look, run.progress, lambda shown: too_few)
        shown_fields = ShownFields(found.visual, found.min_r2, found.settings.degrees)
        figure = plot_sizes(found.brain, shown_fields)
        if figure is not None:
            save_figure(figure, work.partial / f"sizes.{look.format}", dpi=look.dpi)


# ------------------------------------------------------------------------------- categories


@dataclass(frozen=True)
class CategoriesResult:
    """Category regions of one model.

    Attributes
    ----------
    folder : Path
        Holds ``categories.json``, ``regions.tsv``, ``voxels.tsv``, maps and figures.
    record : CategoriesRecord
        As in ``categories.json``.
    table : DataFrame
        One row per voxel.
    """

    folder: Path
    record: CategoriesRecord
    table: pd.DataFrame


def localize_categories(
    workspace: Workspace,
    brain: Brain,
    categories: Sequence[Condition],
    settings: ContrastSettings | None = None,
    *,
    look: Look | None = None,
    output: Path | None = None,
    run: RunContext | None = None,
) -> CategoriesResult:
    """Contrast each category of images with all others in a modelled subject.

    An interrupted localizer continues after the last images that were finished.

    Parameters
    ----------
    workspace : Workspace
    brain : Brain
    categories : sequence of Condition
    settings : ContrastSettings, optional
    look : Look, optional
    output : path, optional
        Default ``outputs/<model>_categories``.
    run : RunContext, optional

    Raises
    ------
    InputError, MissingError
        When the model has no image encoder here, or an image cannot be read.
    """
    # Set up
    settings, look, run = settings or ContrastSettings(), look or Look(), run or RunContext()
    folder = Path(output) if output else workspace.output_of(brain.name, "categories")
    recorded = {
        "model": brain.name,
        "fingerprint": brain.config.fingerprint,
        "categories": {
            one.name: [one.images.digest(k) for k in range(len(one))] for one in categories
        },
        "seed": run.seed,
        **asdict(settings),
        **{name: value for name, value in asdict(look).items() if value is not None},
    }
    with work_folder(folder, LOCALIZER, recorded, progress=run.progress) as work:
        # Show the images, and contrast each category with all others
        keeping = Keeping(work.recovery, run.progress.info)
        found = fit_categories(brain, categories, settings, run, keeping=keeping)

        # Write the results
        record = _categories_record(found, settings, run)
        _write_category_maps(work, found)
        _write_category_figures(work, found, look, run)
        files = {
            "categories.json": record,
            "regions.tsv": Table(found.auc, "%.4f"),
            "voxels.tsv": Table(found.table, "%.5f"),
        }
        write_results(work, files)
    return CategoriesResult(folder, record, found.table)


def _categories_record(
    found: CategoryMaps, settings: ContrastSettings, run: RunContext
) -> CategoriesRecord:
    brain, categories = found.brain, {}
    for k, (name, one) in enumerate(found.contrasts.items()):
        auc = found.auc[found.auc["category"] == name]
        categories[name] = CategoryRecord(
            n_images=one.n_first,
            n_significant=int((one.significant & (one.test.t > 0)).sum()),
            n_preferring=int((found.preferred == k).sum()),
            auc=dict(zip(auc["region"], auc["auc"], strict=True)),
            verdict=say_verdict(one, one.region_table),
        )
    predicted = next(iter(found.contrasts.values())).predicted
    return finite(
        CategoriesRecord(
            model=brain.name,
            subject=brain.subject,
            dataset=brain.config.dataset,
            simulated=brain.simulated,
            n_voxels=brain.n_voxels,
            far=int((predicted.distances >= FARTHEST).sum()),
            correction=settings.correction,
            alpha=settings.alpha,
            n_permutations=settings.n_permutations,
            categories=categories,
            seed=run.seed,
            fingerprint=brain.config.fingerprint,
            versions=versions(),
            command=run.command or UNSET,
        )
    )


def _write_category_maps(work: WorkFolder, found: CategoryMaps) -> None:
    """Write the maps of each category against all others, and the category each voxel prefers."""
    writer, brain = MapWriter(work.partial, found.brain), found.brain
    for one in found.contrasts.values():
        over = f"over {len(one.predicted)} images, of {one.title}"
        writer.write(
            (
                StatMap("t", one.test.t, "1", f"Student's t {over}", one.label),
                StatMap("z", one.test.z, "1", f"z {over}: not corrected for voxels", one.label),
            )
        )
    settings, names = one.settings, list(found.contrasts)
    shown = (
        "Category of the largest z above 0 among those that are significant against all others "
        f"({settings.correction.upper()} p < {settings.alpha:g} over voxels)"
    )
    writer.write_regions("preferred", found.preferred, names, shown)
    writer.describe(
        f"Category regions of {brain.name}",
        f"Where responses of {brain.config.label} to a category of images ({', '.join(names)}) "
        f"differ from those to all others, as the model {brain.name} expects them. `voxels.tsv` "
        "and `regions.tsv` hold the numbers, `categories.json` settings and verdicts.",
    )


def _write_category_figures(
    work: WorkFolder, found: CategoryMaps, look: Look, run: RunContext
) -> None:
    """Write a map of the preferred category, and of each category's significant voxels."""
    maps = [found.map, *(one.maps()["significant"] for one in found.contrasts.values())]
    with figure_style(look.style):
        writer = MapWriter(work.partial, found.brain)
        writer.plot(maps, look, run.progress, lambda shown: f"no voxel reaches {shown.unit}")
