"""`synbrain contrast`: two conditions in modelled subjects."""

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
    OutputOption,
    PermutationsOption,
    QuietOption,
    SeedOption,
    ShownTokensOption,
    StyleOption,
    SurfaceOption,
    WorkspaceOption,
)
from synbrain_cli.cli.parsers import parse_tokens
from synbrain_cli.cli.running import interruptible, open_run
from synbrain_cli.cli.tables import cell, interval, print_columns, print_notes

if TYPE_CHECKING:
    from synbrain_cli.io.results.contrast import ContrastRecord


MANY = 1000  # trials: beyond, an interval is open


def contrast(
    conditions: Annotated[
        list[Path],
        typer.Argument(
            metavar="A B | TABLE",
            help="Two folders of images; or a table with the columns image and condition.",
        ),
    ],
    subject: Annotated[
        str | None, typer.Option("--subject", "-s", help="Subjects: 1, or 1,2 for several.")
    ] = None,
    dataset: DatasetOption = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Models, names in weights/: sub-01, or sub-01,sub-02."),
    ] = None,
    tokens: ShownTokensOption = None,
    experiment: Annotated[
        str | None,
        typer.Option(
            metavar="trials=N,sessions=N",
            help="Simulate an experiment of so many trials of each condition in each session, for "
            "its power; simulations=500 says how often.",
        ),
    ] = None,
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
    """Contrast two conditions: where a subject's responses to them differ, by its model.

    The uncertainty of every difference is told apart by its source: images, model, trial noise.
    Maps are corrected for the number of voxels; controls say whether the effect survives.

    Example: synbrain contrast faces/ houses/ --subject 1 --experiment trials=20,sessions=1
    """
    from synbrain_cli.brain import load_model
    from synbrain_cli.errors import InputError
    from synbrain_cli.experiments.conditions import read_conditions
    from synbrain_cli.experiments.contrast import ContrastSettings
    from synbrain_cli.experiments.power import Experiment
    from synbrain_cli.pipeline.contrast import (
        Plan,
        contrast_conditions,
        how_to_control,
        require_pair,
    )
    from synbrain_cli.plotting.map_plotter import Look

    workspace, run = open_run(folder, quiet, seed, device)
    if len(conditions) > 2:
        raise InputError(
            f"expected two folders of images, or one table, found {len(conditions)} paths"
        )
    log = run.progress.info
    if model is not None:
        found = workspace.find_models(model, subject, log, dataset)
    else:
        labels = subject.split(",") if subject else [None]
        found = [workspace.find_model(None, label, log, dataset) for label in labels]
    if output and len(found) > 1:
        raise InputError("--output: expected one model, found several: leave it out")
    pair = require_pair(read_conditions(conditions))
    plan = Plan(
        pair,
        ContrastSettings(correction, alpha, permutations, controls),
        Experiment.parse(experiment) if experiment else None,
    )
    with interruptible():
        for path in found:
            brain = load_model(path, str(run.device), parse_tokens(tokens))
            result = contrast_conditions(
                workspace,
                brain,
                plan,
                look=Look(space, format=format, dpi=dpi, style=style),
                output=output,
                run=run,
            )
            missing = result.has_controls and not result.record.get("control_model")
            print_contrast(result.record, how_to_control(brain) if missing else "")
            print(result.folder)


def print_contrast(record: ContrastRecord, control: str) -> None:
    """Print what differs in each region; ``control`` says which control is missing, and why."""
    first, second = record.conditions
    simulated = "; simulated" if record.simulated else ""
    print(
        f"{record.model}: {first} ({record.n_images[0]} images) − {second} ({record.n_images[1]}), "
        f"{record.unit}; {record.n_significant:,} voxels differ "
        f"({record.correction.upper()} p < {record.alpha:g}){simulated}\n"
    )
    rows = [_row(record, name) for name in record.regions]
    print_columns([tuple(rows[0]), *(tuple(row.values()) for row in rows)], 1)
    print_notes(_notes(record, control))


def _row(record: ContrastRecord, name: str) -> dict[str, str]:
    """Return a region's cells, by the heads of their columns."""
    one, power = record.regions[name], record.get("power")
    row = {
        "region": name,
        "voxels": f"{one.n_significant:,}/{one.n_voxels:,}",
        "differ": cell(one.difference),
        "95 % CI": interval(*one.interval, lambda value: cell(value, 2)),
        "images": cell(one.se_images),
        "model": cell(one.se_model),
        "trials": cell(one.se_trials),
        "p": cell(one.p_corrected),
    }
    known = dict(one.items())
    controls = {"adjusted": "adjusted", "scrambled": "scrambled", "random_weights": "random"}
    row |= {head: cell(known[key]) for key, head in controls.items() if key in known}
    if power:
        needed = power.trials_needed[name]
        row["power"] = cell(power.of_regions[name], 2)
        row["80 %"] = _needed(needed, *power.trials_interval[name])
    return row


def _needed(number: float | None, low: float | None, high: float | None) -> str:
    """Trials for a power of 80 %, with their interval."""
    if number is None:
        return "more"
    ends = (
        "?" if low is None else f"{low:.0f}–{'' if high is None or high > MANY else f'{high:.0f}'}"
    )
    return f"{number:.0f} ({ends})"


def _notes(record: ContrastRecord, control: str) -> list[str]:
    power, notes = record.get("power"), [record.verdict]
    if record.far:
        notes.append(
            f"{record.far} of {sum(record.n_images)} images are farther from the training images "
            "than any of these from the others: what the model says of them is extrapolated"
        )
    if control:
        notes.append(control)
    notes.append(
        "voxels: significant ones of all; images, model, trials: standard errors by source "
        "(another sample of images, the model's own mean, noise of one trial of each image); the "
        "interval is of images and model, p of images alone, corrected over the regions"
    )
    if power:
        notes.append(
            f"power: share of {power.n_simulated:,} simulated experiments of {power.trials} trials "
            f"of each condition in {power.sessions} session{'s' * (power.sessions > 1)} with p < "
            f"{power.alpha:g} (uncorrected) and the sign predicted; 80 %: trials that this takes, "
            "with a 95 % interval by what the model does not know of the difference"
        )
    return notes
