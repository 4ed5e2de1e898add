"""`synbrain weights list`, `verify` and `card`: the models of a workspace, and whether whole."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from synbrain_cli.errors import MissingError, SynbrainError
from synbrain_cli.io.bundle import CARD, TrainingRecord, find_bundles, read_config
from synbrain_cli.io.bundle_checks import find_faults
from synbrain_cli.io.seal import member
from synbrain_cli.io.workspace import Workspace


def list_bundles(workspace: Workspace) -> pd.DataFrame:
    """Models of a workspace: name, subject, encoder, voxels, size, where from, whether complete.

    Returns
    -------
    DataFrame
        Columns ``name``, ``subject``, ``encoder``, ``voxels``, ``megabytes``, ``source``,
        ``files``. Checksums are for `verify`.
    """
    rows = []
    for folder in find_bundles(workspace.weights):
        try:
            config = read_config(folder)
            faults = find_faults(folder, checksums=False)
        except SynbrainError:
            unknown = dict.fromkeys(("subject", "encoder", "source"), "")
            rows.append({"name": folder.name, **unknown, "files": "config.json cannot be read"})
            continue
        voxels = folder / "voxels.tsv"
        rows.append(
            {
                "name": folder.name,
                "subject": config.label,
                "encoder": config.encoder,
                "voxels": len(voxels.read_bytes().splitlines()) - 1 if voxels.is_file() else None,
                "megabytes": sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e6,
                "source": _source(config.training),
                "files": "complete" if not faults else f"{len(faults)} at fault",
            }
        )
    columns = ["name", "subject", "encoder", "voxels", "megabytes", "source", "files"]
    return pd.DataFrame(rows, columns=columns)


def _source(training: TrainingRecord) -> str:
    if training.origin:
        return "published, " + " and ".join(file.name for file in training.origin.files.values())
    if training.adaptation:
        adaptation = training.adaptation
        return f"{adaptation.hours:g} h and {', '.join(adaptation.sources)}"
    n_sessions = len(training.sessions)
    return f"{n_sessions} session{'s' if n_sessions > 1 else ''}"


def verify(workspace: Workspace, names: list[str] | None = None) -> dict[str, list[str]]:
    """Compare every file of some or all models with its checksum, and the files with each other.

    Compared are config.json with the checksum of its own content, every file that it lists with its
    checksum, the fingerprint with the weights, the arrays with the shapes that config.json says,
    and likewise the models that an adapted model holds. The card has no checksum.

    Returns
    -------
    dict
        Faults by model; empty lists where there are none.

    Raises
    ------
    MissingError
        No such model, or none at all.
    """
    if names:
        folders = [workspace.find_model(name, None, str) for name in names]
    else:
        folders = find_bundles(workspace.weights)
    if not folders:
        raise MissingError(
            f"{workspace.weights}: no model to verify: `synbrain train` or `synbrain weights "
            "import` makes one"
        )
    return {folder.name: _faults(folder) for folder in folders}


def _faults(folder: Path) -> list[str]:
    """Faults of a model; where its files are those that were written, what loading it finds."""
    from synbrain_cli.brain import load_model  # torch, which `list` does not need

    faults = find_faults(folder)
    if not faults:
        try:
            brain = load_model(folder, "cpu")
            _ = brain.voxel_space.geometry, brain.voxel_space.other_spaces
            _ = brain.predictors.linear if brain.config.has_readout else None
        except SynbrainError as error:
            faults.append(str(error))
    return faults


def read_card(workspace: Workspace, name: str) -> str:
    """Text of a model's ``card.md``.

    Raises
    ------
    MissingError, InputError
        There is none.
    """
    path = member(workspace.find_model(name, None, str), CARD, "copy the model's folder again")
    return path.read_text("utf-8", errors="backslashreplace")
