"""A table is read as it was meant, or the row at fault is named; no cell is shifted."""

from __future__ import annotations

import contextlib
import os
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.tables import numbers, numbers_or_text, read_table, row_in, whole_numbers

ROWS = [["a", "1"], ["b", "2"]]


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def cells(table):
    return table.to_numpy(object).tolist()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.tsv", "image\tn\na\t1\nb\t2\n"),
        ("t.tsv", "image\tn\na\t1\nb\t2"),
        ("t.tsv", "image\tn\na\t1\nb\t2\n\n  \n"),
        ("t.tsv", "image\tn\r\na\t1\r\nb\t2\r\n"),
        ("t.tsv", "image\tn\ra\t1\rb\t2\r"),
        ("t.tsv", "\ufeffimage\tn\na\t1\nb\t2\n"),
        ("t.tsv", "image \t n\na \t1\nb\t 2\n"),
        ("t.tsv", '"image"\t"n"\n"a"\t1\n"b"\t2\n'),
        ("t.csv", "image,n\na,1\nb,2\n"),
        ("t.csv", "image,n\na,1,\nb,2,\n"),
        ("t.csv", "image,n,\na,1,\nb,2,\n"),
        ("t.csv", ",image,n\n1,a,1\n2,b,2\n"),
        ("t.tsv", '""\t"image"\t"n"\n"1"\t"a"\t1\n"2"\t"b"\t2\n'),
        ("t.csv", "image;n\na;1\nb;2\n"),
        ("t.csv", "image\tn\na\t1\nb\t2\n"),
        ("t.tsv", "image,n\na,1\nb,2\n"),
    ],
)
def test_tables_of_every_program_are_read_alike(tmp_path, name, text):
    table = read_table(write(tmp_path / name, text), ("image", "n"))
    assert list(table.columns) == ["image", "n"]
    assert cells(table) == ROWS


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf16_is_read_where_it_says_so(tmp_path, encoding):
    text = "image\tn\nä\t1\nb\t2\n"
    path = write(tmp_path / "t.tsv", text, encoding)
    if encoding == "utf-16":
        assert read_table(path)["image"].tolist() == ["ä", "b"]
    else:
        with pytest.raises(InputError, match=r"t\.tsv: row 1 holds a zero byte: .* UTF-8"):
            read_table(path)


def test_what_quotes_are_for(tmp_path):
    path = write(tmp_path / "t.csv", 'a,b\n"x, y","5"" wide"\nfive",z\n')
    assert cells(read_table(path)) == [["x, y", '5" wide'], ['five"', "z"]]


FAULTS = {
    "more cells": ("a,b\n1,2\n3,4,5\n", "row 3: expected 2 cells separated by commas, .* found 3"),
    "fewer cells": ("a,b\n1,2\n3\n", "row 3: expected 2 cells .* found 1"),
    "R": (
        '"a","b"\n"1",x,2\n"2",y,3\n',
        r"row 2: expected 2 cells.* found 3 in every row: .*FALSE",
    ),
    "two names": ("a,b,a\n1,2,3\n", "the header names the column a more than once"),
    "two names but for spaces": ("a,a \n1,2\n", "the header names the column a more than once"),
    "open quote": ('a,b\n"x,1\ny,2\nz,3\n', "row 2: a cell begins with a quotation mark"),
    "quote that takes rows": (
        'a,b\nv,1\n"x,1\ny,2\nz",3\n',
        "row 3: a cell begins with a quotation",
    ),
    "a line break in a cell": ('a,b\n"x\ny",1\n', "row 2: a cell begins with a quotation mark"),
    "quote within": ('a,b\n"x"y,1\n', "row 2: a cell begins with a quotation mark"),
    "empty row": ("a,b\n1,2\n\n3,4\n", "row 3 is empty: remove the line"),
    "empty row of one column": ("a\nx\n \ny\n", "row 3 is empty"),
    "nothing": ("", "expected a table with a header row, found no header"),
    "blank header": ("\na,b\n", "expected a table with a header row, found no header"),
    "no names": (",\n1,2\n", "expected a table with a header row, found no name in row 1"),
    "zero byte": ("a,b\n1,2\n3,\x004\n", "row 3 holds a zero byte"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_row_that_does_not_fit_is_named(tmp_path, fault):
    text, message = FAULTS[fault]
    path = write(tmp_path / "t.csv", text)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match=rf"t\.csv: {message}"):
            read_table(path)


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
def test_another_encoding_is_not_guessed(tmp_path, encoding):
    path = write(tmp_path / "t.csv", "image,answer\na,gut\nb,für\n", encoding)
    with pytest.raises(InputError, match=r"row 3 holds a byte that is not UTF-8 \(0xfc\): save"):
        read_table(path)


def test_stray_bytes_are_named_by_their_row(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_bytes(b"a\tb\n1\t2\n\xff\xfe")
    with pytest.raises(InputError, match=r"row 3 holds a byte that is not UTF-8 \(0xff\)"):
        read_table(path)


def test_a_workbook_is_told_as_such(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b"PK\x03\x04\x14\x00\x06")
    with pytest.raises(InputError, match="found a workbook: save it as CSV UTF-8"):
        read_table(path)


def test_what_is_no_file(tmp_path):
    with pytest.raises(MissingError, match=r"no\.tsv does not exist"):
        read_table(tmp_path / "no.tsv")
    with pytest.raises(InputError, match="expected a table, found a folder"):
        read_table(tmp_path)
    os.mkfifo(tmp_path / "pipe.tsv")
    with pytest.raises(InputError, match=r"pipe\.tsv: expected a table, found a pipe"):
        read_table(tmp_path / "pipe.tsv")
    with pytest.raises(InputError, match="found a device"):
        read_table("/dev/zero")


def test_a_required_column_says_what_is_there_and_how_it_was_separated(tmp_path):
    path = write(tmp_path / "t.csv", "Image;n\na;1\n")
    with pytest.raises(InputError, match=r"column image, found Image, n \(separated by semicolons"):
        read_table(path, ("image",))


def test_a_table_without_rows_has_its_columns(tmp_path):
    table = read_table(write(tmp_path / "t.tsv", "a\tb\n"))
    assert list(table.columns) == ["a", "b"]
    assert len(table) == 0
    assert (table["a"] == "x").sum() == 0


text = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=6)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(text, text), min_size=1, max_size=5))
def test_what_is_written_here_comes_back(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("t") / "t.tsv"
    written = pd.DataFrame(rows, columns=["image", "n"], dtype=str)
    written.to_csv(path, sep="\t", index=False)
    pd.testing.assert_frame_equal(read_table(path, again="again"), written)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=80))
def test_any_bytes_are_a_table_or_one_error(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("t") / "t.csv"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with contextlib.suppress(InputError):
            assert read_table(path).columns.is_unique


# ------------------------------------------------------------------------------------ columns


def column(*values):
    return pd.Series(values, name="session", dtype=str)


@pytest.mark.parametrize(
    ("values", "expected"),
    [(("1", "2"), [1, 2]), (("1.0", "3e2"), [1, 300]), (("ses-01", "ses-2"), [1, 2])],
)
def test_whole_numbers(values, expected):
    found = whole_numbers(column(*values), row_in("t.tsv"), prefix="ses-")
    assert found.dtype == np.int64
    assert found.tolist() == expected


@pytest.mark.parametrize(
    "value",
    ["1e30", "inf", "-inf", "nan", "n/a", "", "0", "-1", "1.5", "9007199254740993", "x", "9" * 30],
)
def test_what_is_no_whole_number(value):
    with pytest.raises(InputError, match=r"t\.tsv: row 3: expected a whole number from 1 in the"):
        whole_numbers(column("1", value), row_in("t.tsv"))


def test_numbers_may_be_unknown():
    found = numbers(column("0.5", "n/a", "", "NaN", "2e-3"), row_in("t.tsv"), lowest=0)
    np.testing.assert_array_equal(found, [0.5, np.nan, np.nan, np.nan, 0.002])
    assert numbers(column("inf"), row_in("t.tsv"), infinite=True).tolist() == [np.inf]


@pytest.mark.parametrize("value", ["inf", "-inf", "-0.1", "0,5", "x", "1e999"])
def test_what_is_no_number(value):
    with pytest.raises(InputError, match=r"t\.tsv: row 3: expected a number from 0 in the column"):
        numbers(column("1", value), row_in("t.tsv"), lowest=0)


@pytest.mark.parametrize("digits", ["%.5g", "%.17g", None])
def test_numbers_have_the_bits_that_pandas_reads(tmp_path, rng, digits):
    values = rng.standard_normal(2000) * 10.0 ** rng.integers(-30, 30, 2000)
    path = tmp_path / "t.tsv"
    pd.DataFrame({"a": values, "b": 0}).to_csv(path, sep="\t", index=False, float_format=digits)
    expected = pd.read_csv(path, sep="\t")
    found = read_table(path, again="again")
    np.testing.assert_array_equal(numbers(found["a"], row_in(path)), expected["a"])
    for name in expected:
        assert numbers_or_text(found[name]).dtype == expected[name].dtype


def test_labels_that_look_like_numbers_stay_beside_text():
    assert numbers_or_text(column("4", "V4")).tolist() == ["4", "V4"]
    assert numbers_or_text(column("4", "")).tolist() == ["4", ""]
    assert numbers_or_text(column("True", "False")).dtype == bool


def test_a_table_of_synbrains_says_how_it_is_written_again(tmp_path):
    path = write(tmp_path / "t.tsv", "image\n\xff", "latin-1")
    with pytest.raises(InputError, match=r"row 2 holds a byte .*: run `synbrain prepare`$"):
        read_table(path, again="run `synbrain prepare`")
    with pytest.raises(MissingError, match=r"does not exist.*: run `synbrain prepare`$"):
        read_table(tmp_path / "no.tsv", again="run `synbrain prepare`")


@pytest.mark.parametrize("where", ["header", "rows", "both"])
def test_a_table_of_synbrains_ends_its_rows_as_they_were_written(tmp_path, where):
    header, row = ("image\ttrial" + "\t" * (where in (part, "both")) for part in ("header", "rows"))
    path = write(
        tmp_path / "t.tsv", f"{header}\n{row.replace('image', 'a').replace('trial', '1')}\n"
    )
    if where != "header":
        assert read_table(path).columns.tolist() == ["image", "trial"]  # of a user's
    with pytest.raises(InputError, match=r"otherwise than they were written.*: make it again"):
        read_table(path, again="make it again")
