"""`synbrain contrast`: where a subject's responses to two conditions differ, by its model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from msgspec import UNSET

from synbrain_cli.bands import is_own
from synbrain_cli.brain import Brain, load_model
from synbrain_cli.errors import InputError
from synbrain_cli.evaluation.results_writer import Table, write_results
from synbrain_cli.experiments.conditions import Condition
from synbrain_cli.experiments.contrast import Contrast, ContrastSettings, contrast, joined
from synbrain_cli.experiments.keeping import Keeping
from synbrain_cli.experiments.power import Experiment, Power, power
from synbrain_cli.experiments.verdict import say_verdict
from synbrain_cli.io.bids import bids_label
from synbrain_cli.io.bundle import readable_bundles
from synbrain_cli.io.files import versions
from synbrain_cli.io.results.contrast import ContrastRecord, PowerRecord, RegionContrast
from synbrain_cli.io.results.record import finite
from synbrain_cli.io.workfolder import FolderKind, WorkFolder, work_folder
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.model.uncertainty import FARTHEST
from synbrain_cli.pipeline.map_writer import MapWriter, StatMap
from synbrain_cli.plotting.contrast import plot_effects, plot_power
from synbrain_cli.plotting.figure import figure_style, save_figure
from synbrain_cli.plotting.map_plotter import Look
from synbrain_cli.plotting.maps import BrainMap
from synbrain_cli.run import RunContext

RANDOM_LITE2 = "timm:tf_efficientnet_lite2/random"  # efficientnet, untrained; a width may follow
CONTRAST = FolderKind("a contrast", "--output", remakes=True)


@dataclass(frozen=True)
class Plan:
    """What is contrasted, and how.

    Attributes
    ----------
    conditions : pair of Condition
        The first minus the second.
    settings : ContrastSettings
    experiment : Experiment, optional
        To be simulated, for its power.
    """

    conditions: tuple[Condition, Condition]
    settings: ContrastSettings = field(default_factory=ContrastSettings)
    experiment: Experiment | None = None


@dataclass(frozen=True)
class ContrastResult:
    """Contrast of two conditions in one model.

    Attributes
    ----------
    folder : Path
        Holds ``contrast.json``, ``regions.tsv``, ``voxels.tsv``, maps and figures.
    record : ContrastRecord
        As in ``contrast.json``.
    regions, voxels : DataFrame
        As in the tables.
    has_controls : bool
        Whether controls were shown.
    """

    folder: Path
    record: ContrastRecord
    regions: pd.DataFrame
    voxels: pd.DataFrame
    has_controls: bool


def contrast_conditions(
    workspace: Workspace,
    brain: Brain,
    plan: Plan,
    *,
    look: Look | None = None,
    output: Path | None = None,
    run: RunContext | None = None,
) -> ContrastResult:
    """Contrast two conditions in a modelled subject, and write maps, tables and figures.

    Beside the model stands, where the workspace has one, a model of the same subject whose encoder
    has random weights. An interrupted contrast continues after the last images and simulated
    experiments that were finished.

    Parameters
    ----------
    workspace : Workspace
    brain : Brain
    plan : Plan
    look : Look, optional
    output : path, optional
        Default ``outputs/<model>_contrast-<first>-<second>``.
    run : RunContext, optional

    Raises
    ------
    InputError, MissingError
        When the model has no image encoder here, or an image cannot be read.
    """
    # Set up
    look, run = look or Look(), run or RunContext()
    plan = _with_possible_controls(brain, plan, run)
    conditions, settings, experiment = plan.conditions, plan.settings, plan.experiment
    names = [bids_label(one.name) for one in conditions]
    folder = (
        Path(output) if output else workspace.output_of(brain.name, f"contrast-{'-'.join(names)}")
    )
    control = find_control(workspace, brain, run) if settings.controls else None
    recorded = _recorded(brain, plan, look, control, run)
    with work_folder(folder, CONTRAST, recorded, progress=run.progress) as work:
        # Predict the responses, and test their difference
        keeping = Keeping(work.recovery, run.progress.info)
        found = contrast(brain, *conditions, settings, run, keeping=keeping.part("model"))
        beside = None
        if control is not None:
            plain = replace(settings, controls=False)
            own = keeping.part("control")
            shown = contrast(control, *conditions, plain, run, keeping=own)
            beside = shown.region_table["difference"]

        # Simulate the experiment
        simulated = None
        if experiment is not None:
            simulated = power(found, experiment, run, keeping=keeping.part("power"))

        # Write the results
        table = found.region_table
        if beside is not None:
            table = table.assign(random_weights=beside)
        record = _record(found, table, control, simulated, run)
        _write_maps(work, found, simulated)
        _write_figures(work, found, table, simulated, look, run)
        files: dict[str, Any] = {
            "contrast.json": record,
            "regions.tsv": Table(table),
            "voxels.tsv": Table(found.table),
        }
        if simulated is not None:
            files["power.tsv"] = Table(simulated.table)
            files["power_images.tsv"] = Table(simulated.image_table)
        write_results(work, files)
    return ContrastResult(folder, record, table, found.table, settings.controls)


def _with_possible_controls(brain: Brain, plan: Plan, run: RunContext) -> Plan:
    """Leave controls out, and say so, where a model cannot be shown pictures made here."""
    own = [band.spec for band in brain.config.bands if is_own(band.spec)]
    if not own or not plan.settings.controls:
        return plan
    run.progress.info(
        f"no controls: {brain.name} predicts from {', '.join(own)}, and nothing computes these "
        "tokens of phase-scrambled images"
    )
    return replace(plan, settings=replace(plan.settings, controls=False))


def find_control(workspace: Workspace, brain: Brain, run: RunContext) -> Brain | None:
    """Find a model of the same subject whose encoder has random weights; None without one."""
    for folder, config in readable_bundles(workspace.weights, run.progress.info):
        if (
            config.label == brain.config.label
            and _is_random(config.encoder)
            and (folder.resolve() != brain.folder.resolve())
        ):
            return load_model(folder, str(run.device))
    return None


def _is_random(encoder: str) -> bool:
    return "/random" in encoder


def how_to_control(brain: Brain) -> str:
    """Say how a model whose encoder has random weights is made."""
    encoders = brain.config.encoder.split(" + ")
    random = [one.replace("efficientnet", RANDOM_LITE2, 1) for one in encoders]
    if random == encoders:
        return "its encoder has no weights that could be random, or none that this program knows"
    options = " ".join(f"--encoder {one}" for one in random)
    return (
        "no model with an encoder of random weights stands beside it: prepare the data again with "
        f"`{options}`, which adds tokens, and `synbrain train --subject {brain.subject} --model "
        f"linear --name {brain.name}_random-weights {options}`"
    )


def _recorded(
    brain: Brain, plan: Plan, look: Look, control: Brain | None, run: RunContext
) -> Mapping[str, Any]:
    """Return what the results depend on, for ``settings.json``."""
    experiment = plan.experiment
    known = brain.source.known(joined(plan.conditions))
    tokens = {spec: rows.identity["weights"] for spec, rows in known.items()}
    return {
        "model": brain.name,
        "fingerprint": brain.config.fingerprint,
        **({"tokens": tokens} if tokens else {}),
        "conditions": {
            one.name: [one.images.digest(k) for k in range(len(one))] for one in plan.conditions
        },
        "experiment": asdict(experiment) if experiment else None,
        "control": control.config.fingerprint if control else None,
        "seed": run.seed,
        **asdict(plan.settings),
        **{name: value for name, value in asdict(look).items() if value is not None},
    }


def _record(
    found: Contrast,
    table: pd.DataFrame,
    control: Brain | None,
    simulated: Power | None,
    run: RunContext,
) -> ContrastRecord:
    brain, settings = found.brain, found.settings
    regions = {}
    for row in table.to_dict("records"):
        values = {str(key): value for key, value in row.items()}
        kept = RegionContrast.__struct_fields__
        own = {key: value for key, value in values.items() if key in kept}
        regions[values["region"]] = RegionContrast(interval=(values["low"], values["high"]), **own)
    return finite(
        ContrastRecord(
            model=brain.name,
            subject=brain.subject,
            dataset=brain.config.dataset,
            unit=brain.unit,
            simulated=brain.simulated,
            conditions=found.names,
            n_images=(found.n_first, len(found.predicted) - found.n_first),
            far=int((found.predicted.distances >= FARTHEST).sum()),
            correction=settings.correction,
            alpha=settings.alpha,
            n_permutations=settings.n_permutations,
            n_significant=int(found.significant.sum()),
            regions=regions,
            verdict=say_verdict(found, table),
            seed=run.seed,
            fingerprint=brain.config.fingerprint,
            versions=versions(),
            control_model=control.name if control else UNSET,
            power=_power_record(simulated) if simulated else UNSET,
            command=run.command or UNSET,
        )
    )


def _power_record(simulated: Power) -> PowerRecord:
    experiment, names = simulated.experiment, list(simulated.contrast.regions)
    planned = simulated.of_regions[simulated.planned]
    return PowerRecord(
        trials=experiment.trials,
        sessions=experiment.sessions,
        n_simulated=experiment.n_simulated,
        alpha=experiment.alpha,
        of_regions=dict(zip(names, map(float, planned), strict=True)),
        trials_needed=dict(zip(names, map(float, simulated.needed), strict=True)),
        trials_interval={
            name: (float(low), float(high))
            for name, (low, high) in zip(names, simulated.needed_interval, strict=True)
        },
    )


def _write_maps(work: WorkFolder, found: Contrast, simulated: Power | None) -> None:
    """Write every map in the subject's own space, and on fsaverage5 where that can be reached."""
    settings, unit, n = found.settings, found.brain.unit, len(found.predicted)
    level = f"{settings.correction.upper()} p < {settings.alpha:g}"
    over = f"over {n} images, of {found.title}"
    reached = np.where(found.significant, found.test.z, 0)
    described = {
        "difference": (found.difference, unit, f"Difference of expected responses, {found.title}"),
        "t": (found.test.t, "1", f"Student's t {over}"),
        "z": (found.test.z, "1", f"z {over}: not corrected for the number of voxels"),
        "significant": (reached, "1", f"z {over}, where {level} over voxels; 0 elsewhere"),
    }
    if simulated is not None:
        trials, alpha = simulated.experiment.n_trials, simulated.experiment.alpha
        shown = (
            f"Share of simulated experiments with {trials} trials of each condition in which p < "
            f"{alpha:g}, uncorrected"
        )
        described["power"] = simulated.of_voxels[simulated.planned], "probability", shown
    writer = MapWriter(work.partial, found.brain)
    writer.write(StatMap(stat, *of, contrast=found.label) for stat, of in described.items())
    shown = f"Voxels whose responses differ significantly, {found.title} ({level} over voxels)"
    source = writer.uri(f"contrast-{found.label}_stat-significant_statmap.nii.gz")
    writer.write_mask("significant", found.significant, shown, source)
    writer.describe(
        f"Contrast {found.title} in {found.brain.name}",
        f"Where responses of {found.brain.config.label} to two sets of images differ "
        f"({found.title}), as the model {found.brain.name} expects them (unit: {unit}). "
        "`voxels.tsv` and `regions.tsv` hold the numbers, `contrast.json` settings and verdict.",
    )


def _write_figures(
    work: WorkFolder,
    found: Contrast,
    table: pd.DataFrame,
    simulated: Power | None,
    look: Look,
    run: RunContext,
) -> None:
    """Write flatmaps of difference and significance, effects by region, and power."""
    maps = found.maps()
    shown = [maps["difference"], maps["significant"]]
    if simulated is not None:
        shown.append(_power_map(simulated, maps["difference"]))
    with figure_style(look.style):
        writer = MapWriter(work.partial, found.brain)
        writer.plot(shown, look, run.progress, lambda one: f"no voxel reaches {one.unit}")
        figures = {"effects": plot_effects(found, table)}
        if simulated is not None:
            figures["power"] = plot_power(simulated)
        for name, figure in figures.items():
            save_figure(figure, work.partial / f"{name}.{look.format}", dpi=look.dpi)


def _power_map(simulated: Power, like: BrainMap) -> BrainMap:
    n = simulated.experiment.n_trials
    return replace(
        like,
        name=like.name.replace("difference", "power"),
        title=f"{simulated.contrast.title}: power with {n} trials of each, "
        f"{simulated.contrast.brain.name}",
        unit=f"probability of p < {simulated.experiment.alpha:g}, uncorrected",
        values=simulated.of_voxels[simulated.planned],
        symmetric=False,
        vmin=0.0,
    )


def require_pair(conditions: list[Condition]) -> tuple[Condition, Condition]:
    """Return two conditions.

    Raises
    ------
    InputError
        When there are more.
    """
    if len(conditions) != 2:
        names = ", ".join(one.name for one in conditions)
        raise InputError(
            f"expected two conditions, found {len(conditions)} ({names}): name two folders, or "
            "keep two in the table; to compare each with all others: synbrain localize categories"
        )
    return conditions[0], conditions[1]
