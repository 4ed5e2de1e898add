"""What is printed: nothing a terminal acts on, in any encoding, and a line where it cannot be."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from functools import partial

import pytest

from synbrain_cli.cli import streams
from synbrain_cli.cli.parsers import parse_numbers, parse_sessions
from synbrain_cli.cli.running import run
from synbrain_cli.cli.tables import print_columns, print_files
from synbrain_cli.errors import InputError
from synbrain_cli.pipeline.learning_curve import LearningCurveSettings
from synbrain_cli.plotting.map_plotter import Look
from synbrain_cli.progress import Progress
from synbrain_cli.text import is_text, one_line, printable, shortened

HOSTILE = "\x1b]0;owned\x07\x1b[31mred\x9b2J\r\u202egnp"
ESCAPED = r"\x1b]0;owned\x07\x1b[31mred\x9b2J\r\u202egnp"


def test_what_a_terminal_acts_on_is_shown():
    assert printable(HOSTILE) == ESCAPED
    assert printable("a\nb\tc Größe 日本 👩‍🚀 × –") == "a\nb\tc Größe 日本 👩‍🚀 × –"
    assert one_line("a\nb\t\udcff") == r"a\nb\t\udcff"


def test_text_that_can_be_written():
    assert is_text("Größe 日本")
    assert not is_text("a\udcff")


@pytest.fixture
def program(monkeypatch):
    """Run a function as the program; (exit code, output, error) as bytes of an encoding."""

    def start(work, encoding="utf-8", arguments=()):
        out, err = io.BytesIO(), io.BytesIO()
        monkeypatch.setattr(sys, "argv", ["synbrain", *arguments])
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding))
        monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(err, encoding))
        code = 0
        try:
            run(work)
        except SystemExit as stopped:
            code = stopped.code
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        return code, out.getvalue(), err.getvalue()

    return start


def say_everything():
    print(HOSTILE)
    print_columns([("name", "x"), (f"{HOSTILE}\n", "1")], n_left=2)
    print_files([f"a\n{HOSTILE}"])
    Progress().info(f"{HOSTILE}\nsecond")
    raise InputError(f"{HOSTILE}: expected less")


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
def test_escapes_reach_no_terminal(program, encoding):
    code, out, err = program(say_everything, encoding)
    assert code == 1
    for text in (out, err):
        # The carriage returns of progress bars pass; messages and tables have none.
        text = text.replace(b"red\\x9b2J\r", b"red\\x9b2J\\r")
        assert all(byte >= 32 or byte == 10 for byte in text)
        assert ESCAPED.encode() in text
    assert len(out.splitlines()) == 5, "a table's rows and a file's name are lines"
    assert len(err.splitlines()) == 2


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_what_a_stream_cannot_encode_is_escaped(program, encoding):
    def work():
        print("r .396 (.306–1.000) × ▁▂ \udcff")
        Progress().info("…→")

    assert program(work, encoding) == (
        0,
        "r .396 (.306–1.000) × ▁▂ \udcff\n".encode(encoding, "backslashreplace"),
        b"\\u2026\\u2192\n",
    )


def test_an_argument_that_is_no_text_is_a_mistake_in_the_command_line(program):
    code, out, err = program(lambda: print("worked"), arguments=["synthesize", "a\udcff.png"])
    assert (code, out) == (2, b"")
    assert err.startswith(b"synbrain: a\\udcff.png: not text in")


@pytest.fixture
def demo(tmp_path):
    """A workspace with one model that cannot be read, which `weights list` lists."""
    folder = tmp_path / "weights" / "sub-01"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return f"{sys.executable} -m synbrain_cli weights list -w {tmp_path}"


def shell(command, **environment):
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env=os.environ | environment
    )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux")  # noqa: PTH110
def test_a_full_output_is_one_line(demo):
    done = shell(f"{demo} -q > /dev/full")
    assert done.returncode == 1
    assert done.stderr == "synbrain: standard output cannot be written: No space left on device\n"
    done = shell(f"{demo} 2> /dev/full")
    assert done.returncode == 0, "progress that cannot be printed ends no work"
    assert "sub-01" in done.stdout


def test_a_closed_output_is_one_line(demo):
    done = shell(f"{demo} -q >&-")
    assert done.returncode == 1
    assert done.stderr.startswith("synbrain: standard output is closed")
    assert len(done.stderr.splitlines()) == 1
    done = shell(f"{demo} 2>&- <&-")
    assert done.returncode == 0
    assert "verify" not in done.stdout, "progress does not go to the results"


def test_a_pipe_whose_reader_has_gone_is_no_fault_to_speak_of(demo):
    done = shell(f"{demo} -q | true; exit ${{PIPESTATUS[0]}}")
    assert done.returncode in (0, 1)
    assert done.stderr == ""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_help_in_other_encodings(encoding):
    command = f"{sys.executable} -m synbrain_cli synthesize --help"
    done = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": encoding},
    )
    assert done.returncode == 0
    assert done.stderr == b""
    assert b"--samples" in done.stdout


def test_streams_are_put_back(program):
    before = sys.stdout, sys.stderr
    with streams.safe_streams():
        assert isinstance(sys.stdout, streams.Results)
    assert (sys.stdout, sys.stderr) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["synthesize", "x", "--samples", "0"], "--samples"),
        (["synthesize", "x", "--seed", "-1"], "--seed"),
        (["synthesize", "x", "--seed", "99999999999999999999"], "--seed"),
        (["synthesize"], "Missing argument"),
        (["train", "--bogus"], "--bogus"),
        (["nothing\x1b[31m"], r"nothing\x1b[31m"),
        (["plot", "flatmap", "--dpi", "nan"], "--dpi"),
    ],
)
def test_a_mistake_in_the_command_line_is_one_line(synbrain, arguments, message):
    code, out, err = synbrain(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("synbrain: ")
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        *((partial(parse_numbers, "--hours"), text) for text in ("nan", "1,inf", "-1", "", "1,,2")),
        *((parse_sessions, text) for text in ("0", "-3", "2-1", "99999999999", "1-99999999", "x")),
    ],
)
def test_numbers_that_make_no_sense(parse, text):
    with pytest.raises(InputError, match="expected"):
        parse(text)


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        *((Look, "vmax", value) for value in (0.0, -1.0, float("nan"), float("inf"))),
        *((Look, "threshold", value) for value in (-1.0, float("nan"), float("inf"))),
        *((LearningCurveSettings, "target", value) for value in (float("nan"), float("inf"))),
    ],
)
def test_settings_that_make_no_sense(kind, field, value):
    with pytest.raises(InputError, match=f"--{field} "):
        kind(**{field: value})


def test_numbers_that_do():
    assert parse_sessions("3") == [1, 2, 3]
    assert parse_sessions("3-5,8") == [3, 4, 5, 8]
    assert parse_numbers("--hours", "0.5,1") == [0.5, 1.0]


def test_help_of_a_group_is_whole(synbrain):
    code, out, err = synbrain("weights")
    assert code == 2
    assert "verify" in out + err
    assert len((out + err).splitlines()) > 5


@pytest.mark.parametrize("error", [errno.ENAMETOOLONG, errno.ELOOP])
def test_a_name_that_the_system_refuses_is_one_line(program, error):
    def work():
        raise OSError(error, os.strerror(error), "long")

    code, _, err = program(work)
    assert code == 1
    assert err.decode().splitlines() == [
        f"synbrain: long: {os.strerror(error)}: choose another name"
    ]


@pytest.mark.parametrize("length", [10, 41, 1000])
def test_long_text_keeps_its_beginning_and_end(length):
    text = f"file.npz: expected this{'x' * length}do that"
    short = shortened(text, 40)
    assert len(short) <= 40
    assert short == text or (short.startswith("file.npz:") and short.endswith("do that"))
    assert (short == text) == (len(text) <= 40)
