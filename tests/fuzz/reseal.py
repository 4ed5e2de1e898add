"""Checksums taken again after the damage, so that deeper checks are reached."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np


def reseal(workspace: Path, victim: Path) -> bool:
    """Recompute, by the program itself, the checksums of what a damaged file belongs to.

    Returns
    -------
    bool
        Whether the file is sealed by something, and that could be sealed again.
    """
    for folder in victim.parents:
        place = folder.relative_to(workspace).parts
        if not place or place[0] not in ("weights", "prepared") or "cores" in place:
            return False
        for record, seal in SEALS.items():
            if (folder / record).is_file():
                try:
                    seal(folder)
                except Exception:  # what cannot be read cannot be sealed
                    return False
                return True
    return False


def _seal_tokens(folder: Path) -> None:
    """Take the rows of tokens and the encoder's record as they are now."""
    import sealing

    from synbrain_cli.io.tables import read_table
    from synbrain_cli.io.token_store import COLUMNS, ENCODER, row_checksum

    sealing.change_sealed(folder / ENCODER)
    table = read_table(folder / "images.tsv", COLUMNS)
    tokens = np.load(folder / "tokens.npy", allow_pickle=False)
    named = zip(table["image"], table["pixels"], tokens, strict=False)
    table["checksum"] = [row_checksum(*row) for row in named]
    table.to_csv(folder / "images.tsv", sep="\t", index=False)


def _seal_bundle(folder: Path) -> None:
    import sealing

    sealing.reseal_bundle(folder)


def _seal_prepared(folder: Path) -> None:
    import sealing

    sealing.reseal_prepared(folder)


# Record of a folder → function that seals the folder anew.
SEALS: dict[str, Callable[[Path], None]] = {
    "config.json": _seal_bundle,
    "encoder.json": _seal_tokens,
    "dataset_description.json": _seal_prepared,
}
