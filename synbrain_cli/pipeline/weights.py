"""`synbrain weights list`, `verify` and `card`: the models of a workspace, and whether whole."""

from __future__ import annotations

import pandas as pd

from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.bundle import TrainingRecord, find_bundles, find_faults, read_config
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.paths import require_regular_file


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
        faults = find_faults(folder, checksums=False)
        try:
            config = read_config(folder)
        except InputError:
            unknown = dict.fromkeys(("subject", "encoder", "source"), "")
            rows.append({"name": folder.name, **unknown, "files": "config.json cannot be read"})
            continue
        voxels = folder / "voxels.tsv"
        rows.append(
            {
                "name": folder.name,
                "subject": config.label,
                "encoder": config.encoder.spec,
                "voxels": len(voxels.read_bytes().splitlines()) - 1 if voxels.exists() else None,
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
    """Compare every file of some or all models with its checksum.

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
    return {folder.name: find_faults(folder) for folder in folders}


def read_card(workspace: Workspace, name: str) -> str:
    """Text of a model's ``card.md``.

    Raises
    ------
    MissingError
    """
    path = workspace.find_model(name, None, str) / "card.md"
    require_regular_file(path, "the model's card", "copy the model's folder again")
    return path.read_text("utf-8", errors="backslashreplace")
