"""Section of the report on contrasts of conditions: what differs, and how surely."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from synbrain_cli.brain import Brain
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.bids import bids_label
from synbrain_cli.io.results.contrast import ContrastRecord, RegionContrast
from synbrain_cli.io.results.record import read_result
from synbrain_cli.io.tables import read_table
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.plotting.labels import plotted_rois
from synbrain_cli.plotting.maps import BrainMap
from synbrain_cli.plotting.report.map_pictures import MapPictures
from synbrain_cli.plotting.report.page import Block, Section, Table, Text

_TITLE = "Contrasts of conditions"
_CONTROLS = {
    "adjusted": "beside low-level statistics",
    "scrambled": "phase-scrambled",
    "random_weights": "random weights",
}
AGAIN = "run `synbrain contrast` again"


def contrasts_section(workspace: Workspace, brain: Brain, pictures: MapPictures) -> Section:
    """Return every contrast of this model that the workspace holds, as map and by region.

    Parameters
    ----------
    workspace : Workspace
    brain : Brain
    pictures : MapPictures
        Which voxels maps show, and whether there are any.

    Returns
    -------
    Section
        Without blocks where there is no contrast of this training of the model.
    """
    blocks: list[Block] = []
    for folder, record in _contrasts(workspace, brain):
        first, second = record.conditions
        blocks.append(Text(f"{first} − {second}. {record.verdict}"))
        shown = _map(folder, record, brain)
        if not pictures.why_none and np.isfinite(shown.values).any():
            caption = (
                f"Voxels that respond differently to {first} ({record.n_images[0]} images) and "
                f"{second} ({record.n_images[1]}), corrected for the number of voxels "
                f"({record.correction.upper()} p < {record.alpha:g}); the others are left out. "
                "Images are what varies; the model's means are taken as they are."
            )
            blocks.append(pictures.picture(shown, caption))
        blocks.append(_table(record, brain))
    intro = (
        "Differences of expected responses to two sets of images, as `synbrain contrast` found "
        "them: predictions of the model, and no measurement of this subject."
    )
    return Section(_TITLE, intro, blocks)


def _contrasts(workspace: Workspace, brain: Brain) -> Iterator[tuple[Path, ContrastRecord]]:
    """Folders and records of contrasts of this training of the model, by name."""
    start = workspace.output_of(brain.name, "contrast-")
    for path in sorted(start.parent.glob(f"{start.name}*/contrast.json")):
        try:
            record = read_result(path, ContrastRecord, "synbrain contrast")
        except (InputError, MissingError):
            continue  # of another version of the program
        if record.fingerprint == brain.config.fingerprint:
            yield path.parent, record


def _map(folder: Path, record: ContrastRecord, brain: Brain) -> BrainMap:
    """Map of z where it is significant."""
    table = read_table(folder / "voxels.tsv", ("z", "p_corrected"), again=AGAIN)
    z, p = (table[column].astype(float).to_numpy() for column in ("z", "p_corrected"))
    first, second = record.conditions
    return BrainMap(
        f"sub-{brain.subject}_contrast-{'Minus'.join(map(bids_label, record.conditions))}",
        f"{first} − {second}, {brain.name}",
        f"z ({record.correction.upper()} p < {record.alpha:g})",
        np.where(p < record.alpha, z, np.nan),
    )


def _table(record: ContrastRecord, brain: Brain) -> Table:
    """Regions with the effect, its sources of uncertainty, its controls and its power."""
    power = record.get("power")
    controls = [n for n in _CONTROLS if record.regions["all"].get(n) is not None]
    header = ["region (voxels)", "difference", "95 % interval"]
    header += [f"SE {source}" for source in ("images", "model", "trials")]
    header += [_CONTROLS[name] for name in controls]
    if power:
        header += [f"power with {power.trials * power.sessions} trials", "trials for 80 %"]
    rows = []
    for name in ("all", *plotted_rois(brain)):
        if name not in record.regions:
            continue
        one = record.regions[name]
        row = [f"{name} ({one.n_voxels:,})", *_cells(one)]
        row += [_signed(one.get(control)) for control in controls]
        if power:
            needed = power.trials_needed[name]
            row.append(f"{power.of_regions[name]:.2f}")
            row.append("more than tried" if needed is None else f"{needed:.0f}")
        rows.append(row)
    first, second = record.conditions
    return Table(
        f"{first} − {second} by region, {record.unit}",
        header,
        rows,
        "Standard errors: of another sample of images; of the model's own mean; of noise, with one "
        "trial of each image. The interval is of images and model.",
    )


def _cells(one: RegionContrast) -> list[str]:
    low, high = one.interval
    errors = (one.se_images, one.se_model, one.se_trials)
    interval = f"{_signed(low)} to {_signed(high)}"
    return [_signed(one.difference), interval, *(f"{error:.3f}" for error in errors)]


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}".replace("-", "−")
