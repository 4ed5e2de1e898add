"""Tables of trials: what is read, and what is refused with a line that helps."""

import pandas as pd
import pytest

from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.events import Events


def write(folder, text, name="events.tsv"):
    path = folder / name
    path.write_text(text)
    return path


def test_sessions_and_runs_in_the_order_of_rows(tmp_path):
    path = write(
        tmp_path,
        "onset\tsession\trun\timage\tcondition\n"
        "0\tses-b\t1\tx.png\tface\n4\tses-b\t1\ty\tface\n0.5\tses-b\t2\tx\tn/a\n1\ta\t1\tx\tbody\n",
    )
    events = Events.read(path)
    assert events.sessions == ["b", "a"]
    assert events.session.tolist() == [0, 0, 0, 1]
    assert events.run.tolist() == [0, 0, 1, 2]
    assert events.images == ["x.png", "y", "x", "x"]
    assert list(events.table["condition"]) == ["face", "face", "n/a", "body"]
    rows = events.rows_of(["x", "y"], ["/p/x.png", "/p/y.jpg"])
    assert rows.tolist() == [0, 1, 0, 0]


def test_stim_file_of_bids_is_the_image(tmp_path):
    events = Events.read(write(tmp_path, "onset\tduration\tstim_file\n0\t3\tx.png\n4\t3\ty.png\n"))
    assert events.images == ["x.png", "y.png"]


def test_without_sessions_all_rows_are_one():
    events = Events.of(pd.DataFrame({"image": ["a", "b"]}))
    assert events.sessions == ["1"]
    assert events.session.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image\n", "expected a row for each trial"),
        ("picture\nx\n", "expected the column image"),
        ("image\tsession\nx\t1\n\t1\n", r"row 3: expected a value in the column image"),
        ("image\tsession\nx\t1\ny\tn/a\n", r"row 3: expected a value in the column session"),
        ("image\tsession\nx\t1\ny\t2\nx\t1\n", r"row 4: .*session 1 in successive rows"),
        ("image\trun\nx\t1\ny\t2\nx\t1\n", r"row 4: .*run 1 in successive rows"),
        ("image\tonset\nx\t4\ny\t4\n", r"row 3: expected an onset after 4"),
        ("image\tonset\nx\tsoon\ny\t4\n", r"row 2: expected a number"),
        ("image\tpresentation\nx\t1\n", "expected no column presentation"),
    ],
)
def test_what_is_no_table_of_trials(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(InputError, match=message) as error:
        Events.read(path)
    assert "events.tsv" in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_image():
    events = Events.of(pd.DataFrame({"image": ["a", "c"]}))
    with pytest.raises(InputError, match=r"row 3: expected one of the 2 images \(a, b\).*'c'"):
        events.rows_of(["a", "b"], ["a.png", "b.png"])


def test_absent(tmp_path):
    with pytest.raises(MissingError):
        Events.read(tmp_path / "events.tsv")
