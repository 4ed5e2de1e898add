"""Versions of one subject's betas side by side: what each says of noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from synbrain_cli.io.prepared import PreparedSubject, find_prepared
from synbrain_cli.io.prepared_tables import roi_masks
from synbrain_cli.io.voxel_space import POSITION_COLUMNS
from synbrain_cli.io.workspace import Workspace

ALL = "all voxels"
LEAST = 20  # voxels of a region: quartiles of fewer mean little (ours)
PREPARATION = "preparation"
_OF_FILES = (PREPARATION, "responses", "sources")  # options that differ with the version alone
_NCSNR = "ncsnr_recomputed"  # from the repeats, in the same way of every version


def preparation_of(subject: PreparedSubject) -> str | None:
    """Return the version of a subject's betas; None where its source has only one."""
    found = subject.description.options.get(PREPARATION)
    return None if found is None else str(found)


def other_preparations(workspace: Workspace, subject: PreparedSubject) -> list[PreparedSubject]:
    """Return prepared subjects that are the same but for the version of the betas.

    Parameters
    ----------
    workspace : Workspace
    subject : PreparedSubject
    """
    own = preparation_of(subject)
    found: dict[str, PreparedSubject] = {}
    for other in find_prepared(workspace.prepared) if own else ():
        kind = preparation_of(other)
        if kind is None or kind == own or other.subject != subject.subject:
            continue
        if _rest(other.description.options) == _rest(subject.description.options):
            found.setdefault(kind, other)
    return list(found.values())


def _rest(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in _OF_FILES}


def noise_table(subjects: Sequence[PreparedSubject]) -> pd.DataFrame:
    """Return the distribution of ncsnr of several versions over the voxels that all of them have.

    Parameters
    ----------
    subjects : sequence of PreparedSubject
        One subject, prepared from several versions of the betas.

    Returns
    -------
    DataFrame
        A row per region, all voxels first: ``region``, ``n_voxels``, and of each version V
        ``V median``, ``V low`` and ``V high``, the quartiles of ncsnr as computed from its repeats
        (ncsnr is that of the files where there are no repeats). Empty where voxels have no
        positions in common.
    """
    names = [preparation_of(subject) or subject.dataset for subject in subjects]
    tables = [_positioned(subject.voxels) for subject in subjects]
    common = tables[0].index
    for table in tables[1:]:
        common = common.intersection(table.index)
    tables = [table.loc[common] for table in tables]
    regions = {ALL: np.ones(len(common), bool), **roi_masks(tables[0].reset_index(drop=True))}
    rows = []
    for region, mask in regions.items():
        known = mask & np.all([np.isfinite(_ncsnr(table)) for table in tables], axis=0)
        if known.sum() < LEAST:
            continue
        row: dict[str, Any] = {"region": region, "n_voxels": int(known.sum())}
        for name, table in zip(names, tables, strict=True):
            low, median, high = np.quantile(_ncsnr(table)[known], (0.25, 0.5, 0.75))
            row |= {f"{name} median": median, f"{name} low": low, f"{name} high": high}
        rows.append(row)
    return pd.DataFrame(rows)


def noise_rows(table: pd.DataFrame, names: Sequence[str]) -> list[list[str]]:
    """Return the cells of a table of `noise_table`: region, voxels, and each version's numbers."""
    return [
        [
            f"{row['region']} ({row['n_voxels']:,})",
            *(
                f"{row[f'{name} median']:.2f} ({row[f'{name} low']:.2f}–{row[f'{name} high']:.2f})"
                for name in names
            ),
        ]
        for row in table.to_dict("records")
    ]


def _positioned(voxels: pd.DataFrame) -> pd.DataFrame:
    """Voxels by their position; of data without positions by their rows."""
    known = [column for column in POSITION_COLUMNS if column in voxels]
    return voxels.set_index(known, drop=False) if known else voxels


def _ncsnr(table: pd.DataFrame) -> np.ndarray:
    recomputed = table[_NCSNR].to_numpy(float)
    return recomputed if np.isfinite(recomputed).any() else table["ncsnr"].to_numpy(float)
