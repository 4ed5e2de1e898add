"""What the shell offers after Tab: names found in the workspace, by listing folders alone."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import typer

from synbrain_cli.text import one_line


def complete_preset() -> list[str]:
    """Names of training presets."""
    from synbrain_cli.config import PRESETS

    return list(PRESETS)


def complete_model(ctx: typer.Context) -> list[str]:
    """Names of models in ``weights/``."""
    return _names(ctx, "weights/*/config.json", level=0)


def complete_models(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of models that complete a list separated by commas."""
    return _after_commas(complete_model(ctx), incomplete)


def complete_dataset(ctx: typer.Context) -> list[str]:
    """Names of datasets in ``prepared/``."""
    return _names(ctx, "prepared/*/sub-*/dataset_description.json", level=1)


def complete_subject(ctx: typer.Context) -> list[str]:
    """Labels of prepared subjects."""
    return _names(ctx, "prepared/*/sub-*/dataset_description.json", level=0)


def complete_subjects(ctx: typer.Context, incomplete: str) -> list[str]:
    """Labels of prepared subjects that complete a list separated by commas."""
    return _after_commas(complete_subject(ctx), incomplete)


def _names(ctx: typer.Context, pattern: str, level: int) -> list[str]:
    """Names of the folders that hold the files of a pattern, ``level`` folders further up."""
    workspace = ctx.params.get("folder") or os.environ.get("SYNBRAIN_WORKSPACE") or "."
    names = {path.parents[level].name for path in Path(workspace).glob(pattern)}
    # Names with codes that a terminal acts on are not offered.
    return sorted(name for name in names if name == one_line(name) and not name.startswith("."))


def _after_commas(names: Iterable[str], incomplete: str) -> list[str]:
    """Names that complete the last one of a list; those in the list are left out."""
    chosen, comma, _ = incomplete.rpartition(",")
    return [chosen + comma + name for name in names if name not in chosen.split(",")]
