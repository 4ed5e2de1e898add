"""What is said of long work: the time left, how long it takes, and what would take less."""

from __future__ import annotations

import re
import threading
from types import SimpleNamespace

import pytest

from synbrain_cli import progress as module
from synbrain_cli.config import PRESETS
from synbrain_cli.pipeline.train import _shorter
from synbrain_cli.progress import Progress, Share
from synbrain_cli.text import duration


@pytest.fixture
def clock(monkeypatch):
    """Time that passes when the test says so."""
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(module.time, "monotonic", lambda: now.seconds)
    return now


def work(clock, each, n=200, title="drawing", **options):
    """Progress of items that take equally long, but for a slow first one."""
    with Progress().bar(title, n, **options) as bar:
        clock.seconds += 500  # reading, compilation
        for _ in range(n):
            clock.seconds += each
            bar()


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (260, "4 min 20 s"), (599, "9 min 59 s"),
     (600, "10 min"), (3569, "59 min"), (3571, "1 h 0 min"), (17_000, "4 h 43 min")],
)  # fmt: skip
def test_durations(seconds, said):
    assert duration(seconds) == said


def test_lines_say_the_time_left(clock, capsys):
    work(clock, 1.0)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "drawing: 1 of 200"  # the pace is not known yet
    for line in lines[1:]:
        done, left = re.fullmatch(r"drawing: (\d+) of 200, (.*) left", line).groups()
        assert left == duration(200 - int(done))
    assert len(lines) == 19  # one in more than ten seconds


def test_long_work_is_announced_once_with_the_shorter_alternative(clock, capsys):
    work(clock, 5.0, shorter="--draws 50")
    lines = capsys.readouterr().err.splitlines()
    said = [line for line in lines if "takes about" in line]
    assert said == ["drawing: takes about 17 min; shorter: --draws 50"]
    assert lines.index(said[0]) <= 2
    assert len(lines) < 60


def test_work_of_days_fills_no_log(clock, capsys):
    work(clock, 60.0, n=4000)
    lines = capsys.readouterr().err.splitlines()
    assert "drawing: takes about 66 h 39 min" in lines
    assert len(lines) < 1000
    assert all("left" in line or "takes" in line for line in lines[1:])


def test_short_work_is_not_announced(clock, capsys):
    work(clock, 2.0, shorter="--draws 50")
    assert "shorter" not in capsys.readouterr().err


def test_a_resumed_count_is_not_taken_for_speed(clock, capsys):
    with Progress().bar("drawing", 1000, done=900) as bar:
        for _ in range(30):
            clock.seconds += 4
            bar()
    assert "drawing: 930 of 1,000, 4 min 40 s left" in capsys.readouterr().err


def test_bytes_and_unknown_totals(clock, capsys):
    with Progress().bar("download", 4 * 10**9, unit="B") as bar:
        for n in range(1, 4):
            clock.seconds += 20
            bar.to(n * 10**9)
    assert "download: 3.00 GB of 4.00 GB, 20 s left" in capsys.readouterr().err
    with Progress().bar("files") as bar:
        for _ in range(3):
            clock.seconds += 20
            bar()
    assert capsys.readouterr().err.splitlines() == ["files: 1", "files: 2", "files: 3"]


def test_quiet_says_nothing(clock, capsys):
    with Progress(quiet=True).bar("drawing", 3) as bar, Progress(quiet=True).stage("readout"):
        for _ in range(3):
            clock.seconds += 1000
            bar()
    assert capsys.readouterr().err == ""


@pytest.fixture
def said(monkeypatch):
    """Lines that are printed, as soon as time allows, and a way to wait for one."""
    monkeypatch.setattr(module, "EVERY", 0.02)
    lines, heard = [], threading.Condition()

    def listen(line):
        with heard:
            lines.append(line)
            heard.notify_all()

    monkeypatch.setattr(module, "_print", listen)

    def wait_for(pattern):
        with heard:
            assert heard.wait_for(lambda: any(re.search(pattern, line) for line in lines), 20)
        return lines

    return wait_for


def test_stages_say_how_long_they_have_taken_and_what_is_left_once_that_is_known(said):
    before = threading.active_count()
    with Progress().stage("readout") as share:
        lines = said("so far$")
        share.to(0.5)
        said("left$")
    assert threading.active_count() == before
    assert lines[0] == "readout"
    assert re.fullmatch(r"readout: \d+ s so far", lines[1])
    assert re.fullmatch(r"readout: \d+ s so far, \d+ s left", lines[-1])


def test_time_left_is_at_the_pace_so_far(clock):
    of_stage = module._Clock("readout")
    assert of_stage.left(clock.seconds) is None
    clock.seconds += 60
    assert of_stage.left(clock.seconds) is None
    of_stage.set_done(0.25)
    assert of_stage.left(clock.seconds) == pytest.approx(180)
    clock.seconds += 20  # in the midst of the next part
    assert of_stage.left(clock.seconds) == pytest.approx(160)
    clock.seconds += 500  # a part that takes longer than it should
    assert of_stage.left(clock.seconds) == 0
    of_stage.set_done(0.5)
    assert of_stage.left(clock.seconds) == pytest.approx(580)


def test_shares_of_parts_make_up_the_whole():
    told = []
    share = Share(told.append)
    reading, fitting = share.split(1, 3)
    reading.to(0.5)
    for _ in fitting.over("abc"):
        pass
    assert told == pytest.approx([0.125, 0.5, 0.75, 1.0])
    told.clear()
    for _, own in share.each([10, 20], weights=[10, 20]):
        own.to(0.5)
    assert told == pytest.approx([1 / 6, 1 / 3, 2 / 3, 1.0])
    assert [(one.start, one.end) for one in share.split(0, 0)] == [(0, 0), (0, 0)]


def test_a_part_counts_when_the_next_is_asked_for():
    told = []
    parts = Share(told.append).over([1, 2])
    assert next(parts) == 1
    assert told == []
    assert next(parts) == 2
    assert told == [0.5]
    with pytest.raises(StopIteration):
        next(parts)
    assert told == [0.5, 1.0]


def test_a_stage_that_fails_ends_its_clock(capsys):
    before = threading.active_count()
    with pytest.raises(ValueError, match="broken"), Progress().stage("readout"):
        raise ValueError("broken")
    assert threading.active_count() == before


def test_smaller_presets_are_the_alternative():
    assert _shorter(PRESETS["tiny"]) == "--model linear (no networks)"
    assert _shorter(PRESETS["paper"]) == (
        "--preset tiny, --preset small, --model linear (no networks)"
    )
