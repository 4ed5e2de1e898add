"""`synbrain select`: images chosen from thousands by what a model expects of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import UNSET

from synbrain_cli.brain import Brain
from synbrain_cli.brain.images import named_images
from synbrain_cli.errors import SynbrainError
from synbrain_cli.evaluation.results_writer import Table, write_results
from synbrain_cli.experiments.selection import (
    CHOSEN,
    OPPOSITE,
    Selection,
    compared,
    select,
)
from synbrain_cli.experiments.selection_aims import SelectionSettings
from synbrain_cli.experiments.selection_guard import TrainingData
from synbrain_cli.features.images import ImageSet, passed_over
from synbrain_cli.io.bids import Derivative, write_derivative
from synbrain_cli.io.files import sha256, versions
from synbrain_cli.io.results.record import finite
from synbrain_cli.io.results.selection import (
    GuardRecord,
    SelectedRegion,
    SelectionRecord,
    SetEstimate,
)
from synbrain_cli.io.workfolder import FolderKind, work_folder
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.labels import derived_name
from synbrain_cli.model.uncertainty import FARTHEST
from synbrain_cli.plotting.figure import figure_style, save_figure
from synbrain_cli.plotting.map_plotter import Look
from synbrain_cli.run import RunContext

FOLDER = FolderKind("a selection of images", "--output", remakes=True)


@dataclass(frozen=True)
class SelectResult:
    """What was chosen, and where it is written.

    Attributes
    ----------
    folder : Path
        Holds ``selection.json``, ``selection.tsv``, ``conditions.tsv`` and, of pictures,
        ``contact_sheet.png``.
    record : SelectionRecord
        As in ``selection.json``.
    selection : Selection
    """

    folder: Path
    record: SelectionRecord
    selection: Selection


def select_images(
    workspace: Workspace,
    model: Brain | tuple[Brain, Brain],
    images: Any,
    settings: SelectionSettings,
    *,
    look: Look | None = None,
    output: Path | None = None,
    run: RunContext | None = None,
) -> SelectResult:
    """Rank images by what a model expects of them, and write the ranking.

    An interrupted screening continues where it stopped.

    Parameters
    ----------
    workspace : Workspace
        Where it holds the data that the model was trained on, the chosen set is also judged by
        fits that had no part in choosing it.
    model : Brain, or two of them
        Two are told apart, by the images on which they differ most.
    images : path, or list of paths
        A folder of images, image files, or an `ImageSet`; of models that see no pictures also a
        file of tokens.
    settings : SelectionSettings
    look : Look, optional
        Of the contact sheet.
    output : path, optional
        Default ``outputs/<model>_select-<criterion>_<folder of images>``.
    run : RunContext, optional

    Raises
    ------
    InputError, MissingError
        As `select`; an image that cannot be read.
    BusyError
        Another process is writing the output.
    """
    # Set up
    look, run = look or Look(), run or RunContext()
    brains = (model,) if isinstance(model, Brain) else model
    pictures = named_images(images) or ImageSet.of(images)
    if isinstance(images, str | Path) and Path(images).is_dir():
        left_out = passed_over(Path(images))
        if left_out:
            run.progress.info(left_out)
    settings.n_chosen(len(pictures))
    _ = settings.aims(model) if isinstance(model, Brain) else compared(model, settings)
    data, no_guard = _find_data(workspace, model, settings)
    if no_guard:
        run.progress.info(f"no independent estimate: {no_guard}")
    name = f"select-{_called(brains, settings)}_{derived_name(_folder_of(images))}"
    folder = Path(output) if output else workspace.output_of(brains[0].name, name)
    recorded = {
        "models": [brain.name for brain in brains],
        "fingerprints": [brain.config.fingerprint for brain in brains],
        "data": data.subject.checksum if data else None,
        "seed": run.seed,
        "images": _checksum(pictures, run),
        **({"tokens": tokens} if (tokens := _token_checksums(brains, pictures)) else {}),
        **asdict(settings),
        **{name: value for name, value in asdict(look).items() if value is not None},
    }
    with work_folder(folder, FOLDER, recorded, progress=run.progress) as work:
        # Screen the candidates
        found = select(model, pictures, settings, data=data, run=run, recovery=work.recovery)

        # Write the results
        record = _describe(found, no_guard, run)
        if pictures.are_seen:
            with figure_style(look.style):
                sheet = found.plot()
            save_figure(sheet, work.partial / f"contact_sheet.{look.format}", dpi=look.dpi)
        else:
            run.progress.info("no contact sheet: the candidates are known by their tokens alone")
        write_derivative(work.partial, _derivative(found, brains))
        tables = {"selection.tsv": found.table, "conditions.tsv": found.conditions}
        write_results(
            work,
            {"selection.json": record} | {n: Table(one, "%.6g") for n, one in tables.items()},
        )
    return SelectResult(folder, record, found)


def _find_data(
    workspace: Workspace, model: Brain | tuple[Brain, Brain], settings: SelectionSettings
) -> tuple[TrainingData | None, str | None]:
    """Training data of a model, or why no independent estimate is made."""
    if not isinstance(model, Brain):
        return None, "none is made of how far two models are apart"
    if not settings.independent:
        return None, "none was asked for (--no-independent)"
    try:
        return TrainingData.find(workspace, model), None
    except SynbrainError as error:
        return None, str(error)


def _derivative(found: Selection, brains: Sequence[Brain]) -> Derivative:
    """What was selected and by which models, for those who read the folder."""
    names = " and ".join(brain.name for brain in brains)
    return Derivative(
        f"Images selected by {names}",
        any(brain.simulated for brain in brains),
        f"{found.n_chosen:,} of {len(found.pictures):,} images, chosen for the responses that "
        f"{names} expect{'s' if len(brains) == 1 else ''} ({found.settings.criterion}): "
        "`selection.tsv` ranks all images, `conditions.tsv` lists the chosen and the opposite "
        "ones, `selection.json` holds settings and scores. There are no maps.",
        {brain.folder.absolute(): brain.config.fingerprint for brain in brains},
        [brain.config.dataset for brain in brains],
    )


def _called(brains: Sequence[Brain], settings: SelectionSettings) -> str:
    """What images are selected for, as a part of a folder's name."""
    if settings.criterion == "tell-apart":
        words = f"apart-from-{brains[1].name}" + (f"-{settings.of}" if settings.of else "")
    else:
        words = f"{settings.criterion}-{settings.of}"
    return derived_name(words.replace(":", "_"))


def _folder_of(images: Any) -> str:
    """Name of a folder of images, or of one image file without its suffix."""
    if isinstance(images, ImageSet) and not images.are_seen:
        return Path(images.sources[0]).stem
    if not isinstance(images, str | Path):
        return "images"
    path = Path(images).resolve()
    return path.name if path.is_dir() else path.stem


def _checksum(pictures: ImageSet, run: RunContext) -> str:
    """SHA-256 of the names and the files of all candidates, in their order."""
    digest = hashlib.sha256()
    with run.progress.bar("checksums of the images", len(pictures)) as bar:
        for name, source in zip(pictures.names, pictures.sources, strict=True):
            content = sha256(source) if pictures.are_seen else ""
            digest.update(f"{name}\t{source}\t{content}\n".encode())
            bar()
    return digest.hexdigest()


def _token_checksums(brains: Sequence[Brain], pictures: ImageSet) -> dict[str, str]:
    """Checksum of the tokens in each band of the user's own."""
    return {
        spec: str(rows.identity["weights"])
        for brain in brains
        for spec, rows in brain.source.known(pictures).items()
    }


def _describe(found: Selection, no_guard: str | None, run: RunContext) -> SelectionRecord:
    chosen, opposite = found.rows(CHOSEN), found.rows(OPPOSITE)
    far, is_known = found.distance >= FARTHEST, bool(np.isfinite(found.distance).all())
    apart = found.table if "difference" in found.table else None
    regions = []
    for m, reader in enumerate(found.readers):
        for r, region in enumerate(reader.regions):
            mean = found.values["mean"][:, m, r]
            regions.append(
                SelectedRegion(
                    name=region.name,
                    model=reader.brain.name,
                    n_voxels=int(region.mask.sum()),
                    all=float(mean.mean()),
                    chosen=float(mean[chosen].mean()),
                    opposite=float(mean[opposite].mean()),
                )
            )
    return finite(
        SelectionRecord(
            models=[brain.name for brain in found.brains],
            subjects=[brain.config.label for brain in found.brains],
            simulated=any(brain.simulated for brain in found.brains),
            criterion=found.settings.criterion,
            of=found.settings.of,
            score_unit=found.score.unit,
            unit=found.brains[0].unit,
            n_images=len(found.pictures),
            n_chosen=found.n_chosen,
            mean_score=float(found.score.value.mean()),
            chosen=_estimate(found, CHOSEN),
            opposite=_estimate(found, OPPOSITE),
            regions=regions,
            seed=run.seed,
            fingerprints=[brain.config.fingerprint for brain in found.brains],
            versions=versions(),
            guard=GuardRecord(**found.guard._asdict()) if found.guard else UNSET,
            n_far=int(far.sum()) if is_known else UNSET,
            n_far_chosen=int(far[chosen].sum()) if is_known else UNSET,
            n_trained=UNSET if found.trained is None else int(found.trained.sum()),
            n_trained_chosen=UNSET if found.trained is None else int(found.trained[chosen].sum()),
            no_guard=no_guard or UNSET,
            n_apart=UNSET if apart is None else int((apart["low"] > 0).sum()),
            command=run.command or UNSET,
        )
    )


def _estimate(found: Selection, condition: str) -> SetEstimate:
    independent = found.independent_estimate(condition)
    return SetEstimate(
        own=found.own_estimate(condition),
        independent=UNSET if independent is None else independent,
    )
