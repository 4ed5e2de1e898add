"""Writing of results: one folder, put in place at once, for all evaluation commands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from synbrain_cli.io.files import atomic
from synbrain_cli.io.records import write_record
from synbrain_cli.io.results.record import Result
from synbrain_cli.io.workfolder import FolderKind, WorkFolder, work_folder
from synbrain_cli.progress import Progress

# Cheap to compute again: a finished folder is replaced without being asked.
FOLDER = FolderKind("an evaluation", "--output", remakes=True)


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


@contextmanager
def result_folder(
    target: Path, settings: Mapping[str, Any], progress: Progress | None = None
) -> Iterator[WorkFolder]:
    """Open the folder of a command's results: see `synbrain_cli.io.workfolder.work_folder`.

    Parameters
    ----------
    target : path
    settings : mapping
        All that the results depend on: the same command then continues where it stopped.
    progress : Progress, optional
        Is told that an interrupted run is continued, or which of its settings differ.

    Yields
    ------
    WorkFolder
    """
    with work_folder(target, FOLDER, settings) as work:
        if progress is not None and work.is_resumed:
            progress.info(f"continuing the interrupted run in {work.partial}")
        elif progress is not None and work.other_settings:
            progress.info(
                f"starting again: the interrupted run in {work.partial} had other settings "
                f"({work.other_settings})"
            )
        yield work


def write_results(work: WorkFolder, files: Mapping[str, Result | Table | Figure | str]) -> None:
    """Write the files of a result and put its folder in place.

    Files that others put into a folder of that name (figures, a report) stay.

    Parameters
    ----------
    work : WorkFolder
    files : mapping
        Name → a record (JSON), a table (TSV), a figure (by its suffix), or text.
    """
    from synbrain_cli.plotting.figure import save_figure

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
    work.put_in_place(keep_others=True)
