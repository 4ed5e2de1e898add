"""Writing of the results of all evaluation commands: one folder, put in place at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from synbrain_cli.io.files import atomic
from synbrain_cli.io.records import write_record
from synbrain_cli.io.results.record import Result
from synbrain_cli.io.workfolder import FolderKind, WorkFolder
from synbrain_cli.plotting.figure import save_figure

# Cheap to compute: a finished folder is replaced without being asked.
EVALUATION = FolderKind("an evaluation", "--output", remakes=True)


@dataclass(frozen=True)
class Table:
    """A table to be written as TSV.

    Attributes
    ----------
    frame : DataFrame
    digits : str
        Format of its floats.
    """

    frame: pd.DataFrame
    digits: str = "%.5f"


def write_results(work: WorkFolder, files: Mapping[str, Result | Table | Figure | str]) -> None:
    """Write the files of a result and put its folder in place.

    Parameters
    ----------
    work : WorkFolder
    files : mapping
        Name → a record (JSON), a table (TSV), a figure (by its suffix), or text.
    """
    for name, content in files.items():
        path = work.partial / name
        if isinstance(content, Result):
            write_record(path, content)
        elif isinstance(content, Table):
            with atomic(path) as temporary:
                content.frame.to_csv(temporary, sep="\t", index=False, float_format=content.digits)
        elif isinstance(content, str):
            with atomic(path) as temporary:
                temporary.write_text(content, "utf-8")
        else:
            save_figure(content, path)
    work.put_in_place()
