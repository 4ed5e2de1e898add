"""Tables of events: the trials of an experiment in order, as BIDS has them (``events.tsv``)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from synbrain_cli.errors import InputError
from synbrain_cli.io.tables import has_no_value, numbers, read_table, row_in

ADDED = ("presentation", "presentation_in_session")  # columns that outputs have beside the table's


@dataclass(frozen=True)
class Events:
    """Trials in the order in which they are shown.

    Attributes
    ----------
    name : str
        Of the table, for messages.
    table : DataFrame
        As it was read: text. One row per trial.
    session, run : int arrays of shape (n_trials,)
        Number of the session and of the run, from 0, in the order of the rows.
    sessions : list of str
        Name of each session.
    """

    name: str
    table: pd.DataFrame
    session: NDArray[np.int64]
    run: NDArray[np.int64]
    sessions: list[str]

    @property
    def images(self) -> list[str]:
        """What each trial shows."""
        return list(self.table["image"])

    @classmethod
    def read(cls, path: Path | str) -> Events:
        """Read a table of trials.

        Parameters
        ----------
        path : path
            Tab-separated, or comma-separated in a .csv file: ``image`` (or BIDS's ``stim_file``),
            and, if there are several, ``session`` and ``run``; ``onset`` (s, within the run) is
            checked to ascend. Any other column is kept.

        Raises
        ------
        MissingError, InputError
            As `read_table`; as `of`.
        """
        return cls.of(read_table(path), str(path))

    @classmethod
    def of(cls, table: pd.DataFrame, name: str = "events") -> Events:
        """Check a table of trials.

        Raises
        ------
        InputError
            When there are no trials, or one has no image; when the trials of a session or run do
            not stand together; when onsets do not ascend within a run.
        """
        row = row_in(name)
        if "image" not in table and "stim_file" in table:  # as BIDS has it
            table = table.assign(image=table["stim_file"])
        if "image" not in table:
            raise InputError(f"{name}: expected the column image, found {', '.join(table)}")
        table = table.astype(str).reset_index(drop=True)
        if not len(table):
            raise InputError(f"{name}: expected a row for each trial, found none")
        for column in ("image", "session", "run"):
            if column in table and (empty := np.flatnonzero(has_no_value(table[column]))).size:
                raise InputError(f"{row(empty[0])}: expected a value in the column {column}")
        for column in ADDED:
            if column in table:
                raise InputError(
                    f"{name}: expected no column {column}, which is counted from the rows: rename "
                    "it, or leave it out"
                )
        none = pd.Series(["1"] * len(table), dtype=str)
        labels = table["session"].str.removeprefix("ses-") if "session" in table else none
        session, sessions = _numbered(labels, row, "session")
        runs = table.get("run", none)
        run, _ = _numbered(session.astype(str) + pd.Series("/" + runs), row, "run")
        if "onset" in table:
            onset = numbers(table["onset"], row)
            late = (np.diff(onset) <= 0) & (run[1:] == run[:-1])
            if late.any():
                at = int(np.flatnonzero(late)[0])
                raise InputError(
                    f"{row(at + 1)}: expected an onset after {onset[at]:g}, that of the row before "
                    f"in the same run, found {onset[at + 1]:g}: sort the rows by time, or name "
                    "runs in a column run"
                )
        return cls(name, table, session, run, sessions)

    def rows_of(self, names: list[str], sources: list[str]) -> NDArray[np.int64]:
        """Find the image of every trial: int64 array (n_trials,), places in ``names``.

        An image is called as its file, with or without suffix, or by its path.

        Raises
        ------
        InputError
            When one is not among them.
        """
        known = {name: k for k, name in enumerate(names)}
        for k, source in enumerate(sources):
            known |= {source: k, PurePath(source).name: k}
        found = np.array([known.get(image, -1) for image in self.images])
        if (found < 0).any():
            at = int(np.flatnonzero(found < 0)[0])
            listed = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
            raise InputError(
                f"{row_in(self.name)(at)}: expected one of the {len(names)} images ({listed}) in "
                f"the column image, found {self.images[at]!r}"
            )
        return found


def _numbered(
    labels: pd.Series, row: Callable[[int], str], what: str
) -> tuple[NDArray[np.int64], list[str]]:
    """Numbers of labels, in the order in which they come; each must come in successive rows."""
    codes, found = pd.factorize(labels)
    back = np.flatnonzero(np.diff(codes) < 0)
    if len(back):
        at = int(back[0]) + 1
        label = str(labels.iloc[at]).rpartition("/")[2]
        raise InputError(
            f"{row(at)}: expected the trials of {what} {label} in successive rows, in the order in "
            "which they are shown, found others between them"
        )
    return codes.astype(np.int64), [str(label) for label in found]
