"""Tables of text: the one reader of .tsv and .csv files, and the conversion of their columns.

The reader is strict, because what a lenient one repairs is often wrong: a row with more cells than
the header has its values under the wrong columns, and a quotation mark that is not closed takes
the rows after it into its cell.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from synbrain_cli.errors import InputError, SynbrainError
from synbrain_cli.io.reading import reading

NO_VALUE = ("", "n/a", "na", "nan")  # cells without a value, in small letters; BIDS uses "n/a"
LARGEST = 2**53  # whole numbers below it are exact in the float64 of R, MATLAB and spreadsheets
_SEPARATORS = {"\t": "tabs", ",": "commas", ";": "semicolons"}
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_table(path: Path | str, columns: Iterable[str] = (), *, again: str = "") -> pd.DataFrame:
    """Read a table with a header row: comma-separated in a .csv file, else tab-separated.

    Another separator (comma, semicolon, tab) is taken where the header holds it alone. Spaces
    around cells are removed; columns without a name, such as the row numbers of R and pandas, are
    left out; a separator at the end of every row is not a column.

    Parameters
    ----------
    path : path
    columns : iterable of str
        Columns that are required.
    again : str
        How synbrain writes the table again, for messages, if it wrote it: "run `synbrain prepare
        --overwrite`". The cells of such a table are taken as they are.

    Returns
    -------
    DataFrame
        All values are text; empty cells are empty text. The row at index i is line i + 2 of the
        file.

    Raises
    ------
    MissingError, InputError
        When the file is absent or not UTF-8 (or UTF-16 with a byte order mark); when a row has
        another number of cells than the header, is empty, or holds a quotation mark that is not
        closed; when two columns have one name, or a required one is missing.
    """
    path = Path(path)
    try:
        header, rows = _read(path, columns, as_written=bool(again))
    except SynbrainError as error:
        if not again:
            raise
        raise type(error)(f"{error}; synbrain wrote this table: {again}") from error
    values = list(zip(*rows, strict=False)) or [()] * len(header)
    table = {n: v for n, v in zip(header, values, strict=False) if n}
    return pd.DataFrame({name: pd.Series(cells, dtype=str) for name, cells in table.items()})


def _read(
    path: Path, columns: Iterable[str], *, as_written: bool
) -> tuple[list[str], list[list[str]]]:
    """Read header and rows, checked to fit together."""
    with reading(path, "a table"):
        content = path.read_bytes()
    lines = re.split(r"\r\n|\r|\n", _decoded(path, content))
    while lines and not lines[-1].strip(" "):  # the last line may end, or not
        lines.pop()
    if not lines or not lines[0].strip():
        raise InputError(f"{path}: expected a table with a header row, found no header")
    separator = _separator(path, lines[0], certain=as_written)
    header, *rows = _cells(path, lines, separator)
    if not as_written:
        header = [cell.strip() for cell in header]
        rows = [[cell.strip() for cell in row] for row in rows]
    if as_written and any(len(row) != len(header) or not all(header) for row in (header, *rows)):
        raise InputError(f"{path}: its rows or its header end otherwise than they were written")
    _check_lengths(path, header, rows, separator)
    _check_names(path, header, columns, separator)
    return header, rows


def row_in(path: Path | str) -> Callable[[int], str]:
    """Return a function that names a row of a table for messages, by its index from 0."""
    return lambda index: f"{path}: row {index + 2}"


def whole_numbers(
    values: pd.Series, row: Callable[[int], str], lowest: int = 1, *, prefix: str = ""
) -> np.ndarray:
    """Convert a column of text to whole numbers.

    Parameters
    ----------
    values : Series of str
        A column of `read_table`; its name is that of the column.
    row : callable
        Names a row for messages: see `row_in`.
    lowest : int
        The smallest number allowed.
    prefix : str
        Text that may precede each number: "ses-".

    Returns
    -------
    int64 array

    Raises
    ------
    InputError
        When a value is not a whole number from ``lowest`` to 2⁵³ (1.0 is one, 1.5 is not).
    """
    found = _as_float(values.str.removeprefix(prefix))
    bad = np.flatnonzero(~((found >= lowest) & (found < LARGEST) & (np.floor(found) == found)))
    if len(bad):
        raise InputError(
            f"{row(bad[0])}: expected a whole number from {lowest} in the column {values.name}, "
            f"found {values.iloc[bad[0]]!r}"
        )
    return found.astype(np.int64)


def numbers(
    values: pd.Series,
    row: Callable[[int], str],
    lowest: float = -np.inf,
    *,
    highest: float = np.inf,
    infinite: bool = False,
) -> np.ndarray:
    """Convert a column of text to numbers; cells without a value (`NO_VALUE`) are NaN.

    Parameters
    ----------
    values, row
        As in `whole_numbers`.
    lowest, highest : float
        The smallest and the largest number allowed.
    infinite : bool
        Whether a number may be infinite.

    Returns
    -------
    float64 array

    Raises
    ------
    InputError
        When a value is neither such a number nor missing.
    """
    found = _as_float(values)
    empty = has_no_value(values)
    allowed = (found >= lowest) & (found <= highest) & (infinite | np.isfinite(found))
    bad = np.flatnonzero(~(empty | allowed))
    if len(bad):
        least = "" if lowest == -np.inf else f" from {lowest:g}"
        least += "" if highest == np.inf else f" to {highest:g}"
        raise InputError(
            f"{row(bad[0])}: expected a number{least} in the column {values.name} (n/a where it "
            f"is not known), found {values.iloc[bad[0]]!r}"
        )
    return np.where(empty, np.nan, found)


def has_no_value(values: pd.Series) -> np.ndarray:
    """Return which cells are empty or say that there is no value: bool array."""
    return values.str.strip().str.lower().isin(NO_VALUE).to_numpy(bool)


def numbers_or_text(values: pd.Series) -> pd.Series:
    """Convert a column of text to numbers if all its cells are numbers, else keep it.

    Columns of True and False become boolean, as they were when the table was written.

    Parameters
    ----------
    values : Series of str
        A column of `read_table`.

    Returns
    -------
    Series of int64, float64, bool or str
    """
    if values.isin(("True", "False")).all():
        return values == "True"
    found = pd.to_numeric(values, errors="coerce")
    return values if found.isna().any() else found


def _as_float(values: pd.Series) -> np.ndarray:
    """Return float64 numbers, NaN for what is none."""
    return pd.to_numeric(values, errors="coerce").to_numpy(np.float64, na_value=np.nan)


def _decoded(path: Path, content: bytes) -> str:
    """Decode UTF-8, with or without a byte order mark, or UTF-16 with one."""
    if content.startswith(b"PK\x03\x04"):
        raise InputError(
            f"{path}: expected a table as text, found a workbook: save it as CSV UTF-8, or as text "
            "separated by tabs"
        )
    if content[:2] in _UTF16:
        name, text = "utf-16", content
    else:
        name, text = "utf-8", content.removeprefix(codecs.BOM_UTF8)
        at = text.find(b"\0")
        if at >= 0:
            raise InputError(
                f"{path}: row {_row_of(text[:at])} holds a zero byte: expected a table as text in "
                "UTF-8: save it again as UTF-8, or check that the file is a table"
            )
    try:
        return text.decode(name)
    except UnicodeDecodeError as error:
        where = f"row {_row_of(text[: error.start])} holds" if name == "utf-8" else "found"
        raise InputError(
            f"{path}: {where} a byte that is not {name.upper()} "
            f"(0x{text[error.start]:02x}): save the table as UTF-8 (in Excel: CSV UTF-8; in R: "
            "fileEncoding='UTF-8'), or copy it again if it was UTF-8"
        ) from error


def _row_of(before: bytes) -> int:
    """Return the number of the row that follows these bytes."""
    return len(re.findall(rb"\r\n|\r|\n", before)) + 1


def _separator(path: Path, header: str, *, certain: bool) -> str:
    """Return the separator of the suffix, or the only one that the header holds."""
    usual = "," if path.suffix.lower() == ".csv" else "\t"
    found = [separator for separator in _SEPARATORS if separator in header]
    return usual if certain or usual in found or len(found) != 1 else found[0]


def _cells(path: Path, lines: list[str], separator: str) -> list[list[str]]:
    """Split lines into cells; each row is one line."""
    reader = csv.reader(lines, delimiter=separator, strict=True)
    rows = []
    for number in range(1, len(lines) + 1):
        try:
            row = next(reader)
        except csv.Error as error:
            if "field limit" in str(error):
                raise InputError(f"{path}: row {number}: {error}: is it a table?") from error
            row = None
        if row is None or reader.line_num != number:
            raise InputError(
                f"{path}: row {number}: a cell begins with a quotation mark that is not closed at "
                "the end of the cell: remove the mark, or quote the whole cell and double the "
                "marks within it; a cell must not hold a line break"
            )
        if not row or (len(row) == 1 and not row[0].strip() and '"' not in lines[number - 1]):
            raise InputError(f"{path}: row {number} is empty: remove the line, or fill it")
        rows.append(row)
    return rows


def _check_lengths(path: Path, header: list[str], rows: list[list[str]], separator: str) -> None:
    """Check that every row has the cells of the header; a last empty cell in all rows is cut."""
    n = len(header)
    counts = {len(row) for row in rows}
    if counts <= {n}:
        return
    if counts == {n + 1}:
        if all(not row[-1] for row in rows):
            for row in rows:
                row.pop()
            return
        raise InputError(
            f"{path}: row 2: expected {n} cells, as in the header, found {n + 1} in every row: "
            "name the first column too if these are row names (in R: write.table with "
            "row.names=FALSE, or with col.names=NA), or the last one"
        )
    index = next(i for i, row in enumerate(rows) if len(row) != n)
    raise InputError(
        f"{path}: row {index + 2}: expected {n} cells separated by {_SEPARATORS[separator]}, as "
        f"in the header, found {len(rows[index])}: quote cells that hold the separator, and fill "
        "cells without a value with n/a"
    )


def _check_names(path: Path, header: list[str], columns: Iterable[str], separator: str) -> None:
    """Check that no two columns have one name, and that the required ones are there."""
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise InputError(
            f"{path}: the header names the column {twice[0]} more than once: give each column a "
            "name of its own"
        )
    if not any(header):
        raise InputError(f"{path}: expected a table with a header row, found no name in row 1")
    for column in columns:
        if column not in header:
            raise missing_column(path, column, [name for name in header if name], separator)


def missing_column(
    path: Path | str, column: str, found: list[str], separator: str | None = None
) -> InputError:
    """Return the error for a column that a table does not have.

    Parameters
    ----------
    path : path
    column : str
        The column that is expected.
    found : list of str
        The columns that are there.
    separator : str, optional
        Separator of the table, where it is one table.
    """
    by = "" if separator is None else f" (separated by {_SEPARATORS[separator]})"
    return InputError(
        f"{path}: expected the column {column}, found {', '.join(found[:10])}{by}: rename the "
        "column with these values; columns are separated by commas in a .csv, by tabs in other "
        "files"
    )
