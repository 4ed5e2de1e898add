"""What a local copy of a dataset needs from a public bucket, and which downloads were begun."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from synbrain_cli.datasets.download import missing
from synbrain_cli.datasets.s3 import RemoteFile
from synbrain_cli.io.files import read_json, write_json

UNFINISHED = ".synbrain_unfinished.json"


@dataclass(frozen=True)
class Need:
    """A file that is needed, and its group in the table that is shown before a download.

    Attributes
    ----------
    group : str
        Purpose of the file, such as "subj01: betas".
    file : RemoteFile
    """

    group: str
    file: RemoteFile


def fetch_table(needs: list[Need], root: Path) -> pd.DataFrame:
    """Summarise the files that are needed, by group.

    Returns
    -------
    DataFrame
        Columns ``what``, ``files``, ``GB``, and ``GB to fetch`` for files that are not in ``root``;
        the last row is the sum.
    """
    to_fetch = {file.key for file in missing([need.file for need in needs], root)}
    rows: dict[str, list[float]] = {}
    for need in needs:
        row = rows.setdefault(need.group, [0, 0.0, 0.0])
        row[0] += 1
        row[1] += need.file.size / 1e9
        row[2] += need.file.size / 1e9 * (need.file.key in to_fetch)
    table = pd.DataFrame(
        [(group, int(n), size, left) for group, (n, size, left) in rows.items()],
        columns=["what", "files", "GB", "GB to fetch"],
    )
    total = ("all", int(table["files"].sum()), table["GB"].sum(), table["GB to fetch"].sum())
    return pd.concat([table, pd.DataFrame([total], columns=table.columns)], ignore_index=True)


@contextlib.contextmanager
def unfinished(root: Path, folders: Iterable[str]) -> Iterator[None]:
    """Record, during a download, which folders of betas are incomplete.

    By this record an interrupted download is distinguished from an older copy with fewer sessions.
    """
    path = root / UNFINISHED
    folders = set(folders)
    before = set(read_json(path)) if path.exists() else set()
    write_json(path, sorted(before | folders))
    yield
    if before - folders:
        write_json(path, sorted(before - folders))
    else:
        path.unlink()


def interrupted(root: Path, folders: Iterable[str]) -> str | None:
    """Say that a download into one of these folders was interrupted; None where none was."""
    path = root / UNFINISHED
    if path.exists() and set(read_json(path)) & set(folders):
        return f"{root}: a download was interrupted"
    return None
