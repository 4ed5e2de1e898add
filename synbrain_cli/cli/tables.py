"""Aligned columns on the terminal, and what stands in their cells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TextIO

from synbrain_cli.text import one_line


def print_columns(
    rows: Sequence[tuple[str, ...]], n_left: int = 2, file: TextIO | None = None
) -> None:
    """Print a table, the first ``n_left`` columns flush left, the others flush right."""
    rows = [tuple(map(one_line, row)) for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        first = [
            value.ljust(width) for value, width in zip(row[:n_left], widths[:n_left], strict=True)
        ]
        rest = [
            value.rjust(width) for value, width in zip(row[n_left:], widths[n_left:], strict=True)
        ]
        print("  ".join(first + rest).rstrip(), file=file)


def print_records(records: Sequence[dict[str, object]]) -> None:
    """Print records of the same fields as a table, the names of the fields as its heading."""
    print_columns([tuple(records[0]), *(tuple(map(str, row.values())) for row in records)])


def print_notes(notes: Iterable[str]) -> None:
    """Print what a reader of the scores above should know."""
    for note in notes:
        print(f"note: {one_line(note)}")


def print_files(files: Iterable[Path]) -> None:
    """Print the files that were written, one a line."""
    for file in files:
        print(one_line(str(file)))


def cell(value: float | None, digits: int = 3) -> str:
    """A number; "-" where it is missing."""
    # Rounded before it is written, and + 0: no "-0.000".
    return f"{round(value, digits) + 0:.{digits}f}" if value is not None and value == value else "-"


def amount(value: float | None) -> str:
    """Hours or subjects; beyond a thousand, an extrapolation is not informative."""
    return ">1,000" if value is not None and value > 1000 else cell(value, 2)


def interval(
    low: float | None, high: float | None, write: Callable[[float | None], str] = cell
) -> str:
    """The two ends of an interval, each as ``write`` writes it; "-" where it is missing."""
    return "-" if write(low) == "-" else f"{write(low)}–{write(high)}"


def bars(heights: Iterable[float]) -> str:
    """A histogram in one line; the middle of the scale is 1."""
    blocks = "▁▂▃▄▅▆▇█"
    return "".join(blocks[min(7, max(0, round(height * 3.5)))] for height in heights)
