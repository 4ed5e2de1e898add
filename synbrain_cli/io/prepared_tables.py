"""The tables of a prepared subject, ``trials.tsv`` and ``voxels.tsv``, typed as they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from synbrain_cli.errors import InputError
from synbrain_cli.io.tables import (
    has_no_value,
    numbers,
    numbers_or_text,
    read_table,
    row_in,
    whole_numbers,
)
from synbrain_cli.io.voxel_space import POSITION_COLUMNS

SPLITS = ("train", "val", "test")
TRIAL_COLUMNS = ("trial", "session", "image", "repeat", "split")
GROUP = "group"  # a further column of trials, where images belong together
PREPARE_AGAIN = "run `synbrain prepare --overwrite`"


def read_trials(path: Path, n_trials: int) -> pd.DataFrame:
    """Read ``trials.tsv``, with the columns `TRIAL_COLUMNS` and, where it has one, `GROUP`.

    Parameters
    ----------
    path : path
    n_trials : int
        Rows that are expected.

    Raises
    ------
    MissingError, InputError
        When it is no such table, or a cell holds no such value.
    """
    table = read_table(path, again=PREPARE_AGAIN)
    columns = tuple(table.columns)
    if columns not in (TRIAL_COLUMNS, (*TRIAL_COLUMNS, GROUP)) or len(table) != n_trials:
        raise InputError(
            f"{path}: expected {n_trials} rows and the columns {TRIAL_COLUMNS}, found {len(table)} "
            f"rows and {columns}: {PREPARE_AGAIN}"
        )
    for column in ("trial", "session", "repeat"):
        table[column] = whole_numbers(table[column], row_in(path), lowest=0)
    unknown = sorted(set(table["split"]) - set(SPLITS))
    if unknown:
        raise InputError(
            f"{path}: expected a split of {', '.join(SPLITS)} in every row, found {unknown[0]!r}: "
            f"{PREPARE_AGAIN}"
        )
    _ = groups_of(table, str(path), row_in(path), PREPARE_AGAIN)
    return table


def groups_of(
    table: pd.DataFrame, where: str, row: Callable[[int], str], advice: str
) -> dict[str, str]:
    """Return the group of each image of a table of trials; empty without the column `GROUP`.

    Parameters
    ----------
    table : DataFrame
        With the columns ``image``, ``split`` and, where images belong together, `GROUP`.
    where : str
        Its file, for messages.
    row : callable
        Number of a row → its file and line, for messages.
    advice : str
        What to do about a column that is not valid.

    Raises
    ------
    InputError
        A cell is empty, an image is in two groups, or a group in two splits.
    """
    if GROUP not in table:
        return {}
    empty = np.flatnonzero(has_no_value(table[GROUP]))
    if len(empty):
        raise InputError(
            f"{row(int(empty[0]))}: expected a group in the column {GROUP}, found an empty cell: "
            "give every image a group, one of its own where it belongs with no other; or "
            f"{advice}"
        )
    pairs = table[["image", GROUP]].drop_duplicates()
    twice = np.flatnonzero(pairs["image"].duplicated().to_numpy())
    if len(twice):
        image = pairs["image"].iloc[twice[0]]
        both = pairs[GROUP][pairs["image"] == image].tolist()
        raise InputError(
            f"{where}: the column {GROUP} puts {image} in the groups {both[0]} and {both[1]}: "
            f"give all trials of an image one group; or {advice}"
        )
    splits = table[[GROUP, "split"]].drop_duplicates()
    torn = np.flatnonzero(splits[GROUP].duplicated().to_numpy())
    if len(torn):
        group = splits[GROUP].iloc[torn[0]]
        both = splits["split"][splits[GROUP] == group].tolist()
        raise InputError(
            f"{where}: images of the group {group} are in the splits {both[0]} and {both[1]}: a "
            "model would be tested on images like those that it was trained on; give all images "
            f"of a group one split; or {advice}"
        )
    return dict(zip(pairs["image"].astype(str), pairs[GROUP].astype(str), strict=True))


def read_voxels(
    path: Path, n_voxels: int | None = None, columns: Iterable[str] = ()
) -> pd.DataFrame:
    """Read ``voxels.tsv``: labels are text, empty for voxels without a label; ncsnr may be NaN.

    Parameters
    ----------
    path : path
    n_voxels : int, optional
        Rows that are expected; any number by default.
    columns : iterable of str
        Columns that are expected.

    Raises
    ------
    MissingError, InputError
        When it is no such table, or a cell holds no such value.
    """
    table = read_table(path, columns, again=PREPARE_AGAIN)
    if len(table) != (n_voxels or len(table)) or not len(table):
        raise InputError(
            f"{path}: expected one row for each of {n_voxels or 'the'} voxels, found {len(table)} "
            f"rows: {PREPARE_AGAIN}"
        )
    for column in table:
        if column in ("ncsnr", "ncsnr_recomputed"):
            table[column] = numbers(table[column], row_in(path), infinite=True)
        elif column in ("i", "j", "k", "vertex"):
            table[column] = whole_numbers(table[column], row_in(path), lowest=0)
        elif column != "hemisphere":
            table[column] = numbers_or_text(table[column])
    return table


def roi_collections(voxels: pd.DataFrame) -> list[str]:
    """Return the columns of a ``voxels.tsv`` table that hold ROI labels (text, not numbers)."""
    return [
        column
        for column in voxels.columns
        if column not in (*POSITION_COLUMNS, "ncsnr", "ncsnr_recomputed")
        and not pd.api.types.is_numeric_dtype(voxels[column])
    ]


def roi_masks(
    voxels: pd.DataFrame, collections: Iterable[str] | None = None, *, parts: bool = False
) -> dict[str, np.ndarray]:
    """Return the ROIs of a ``voxels.tsv`` table as masks: see `PreparedSubject.rois`.

    Parameters
    ----------
    voxels : DataFrame
    collections : iterable of str, optional
        Collections to use; all by default.
    parts : bool
        Keep the ventral and the dorsal part of V1, V2 and V3 apart, in place of the whole areas.

    Returns
    -------
    dict of bool arrays of shape (n_voxels,)
    """
    masks: dict[str, np.ndarray] = {}
    for collection in roi_collections(voxels) if collections is None else collections:
        labels = voxels[collection].astype(str).to_numpy()
        for label in sorted(set(labels) - {""}):
            name = label if parts else roi_name(label)
            masks[name] = masks.get(name, False) | (labels == label)
    return masks


def roi_name(label: str) -> str:
    """Return the ROI to which a label belongs: V1 for V1v and V1d, likewise V2 and V3."""
    return label[:-1] if label in ("V1v", "V1d", "V2v", "V2d", "V3v", "V3d") else label
