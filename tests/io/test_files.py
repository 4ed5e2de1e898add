"""Files are written whole or not at all."""

from __future__ import annotations

import email
import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from synbrain_cli.errors import DAMAGED, InputError, SynbrainError
from synbrain_cli.io.arrays import map_array, save_arrays
from synbrain_cli.io.files import (
    array_header,
    atomic,
    copy_at_once,
    create_array,
    half_written,
    holds_array,
    read_json,
    write_json,
)


def test_atomic_keeps_the_old_file_on_failure(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail():
        with atomic(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_says_why_it_cannot_write(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SynbrainError, match="cannot write"), atomic(tmp_path / "file/below"):
        pass


def test_what_a_killed_process_left_is_removed_when_the_file_is_written_again(tmp_path):
    path = tmp_path / "report.html"
    process = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                             capture_output=True, text=True, check=True)  # fmt: skip
    mine = half_written(path).name
    ended = mine.replace(f"-{os.getpid()}.", f"-{process.stdout.strip()}.")
    running = mine.replace(f"-{os.getpid()}.", f"-{os.getppid()}.")
    elsewhere = f".half-000000-1.{path.name}"
    others = mine.replace("report", "other").replace(f"-{os.getpid()}.", "-999999999.")
    for name in (ended, running, elsewhere, others):
        (tmp_path / name).touch()
    write_json(path, 1)
    assert {p.name for p in tmp_path.iterdir()} == {path.name, running, elsewhere, others}


def test_a_link_is_followed(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for content in (1, 2):
        write_json(tmp_path / "link", content)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "real").read_text() == f"{content}\n"


@pytest.mark.parametrize("what", ["pipe", "folder", "link to a pipe", "link to a folder"])
def test_what_is_no_file_is_not_replaced(tmp_path, what):
    """A device that is replaced by a file is lost to every program of the machine."""
    path = tmp_path / "there"
    real = tmp_path / "elsewhere" if what.startswith("link") else path
    os.mkfifo(real) if what.endswith("pipe") else real.mkdir()
    if real != path:
        path.symlink_to(real)
    kind = "a pipe" if what.endswith("pipe") else "a folder"
    with pytest.raises(InputError, match=f"found {kind}"):
        write_json(path, 1)
    assert stat.S_ISFIFO(real.stat().st_mode) or real.is_dir()
    assert path.is_symlink() == (real != path)


def test_links_are_replaced_in_a_work_folder(tmp_path):
    mine, work = tmp_path / "mine.json", tmp_path / ".a.partial"
    mine.write_text("kept")
    work.mkdir()
    (work / "a.json").symlink_to(mine)
    write_json(work / "a.json", 1)
    assert mine.read_text() == "kept"
    assert read_json(work / "a.json") == 1


def test_a_link_is_not_an_array_that_can_be_written_into(tmp_path):
    create_array(tmp_path / "mine.npy", np.float32, (2,))
    (tmp_path / "link.npy").symlink_to(tmp_path / "mine.npy")
    assert holds_array(tmp_path / "mine.npy", np.float32, (2,))
    assert not holds_array(tmp_path / "link.npy", np.float32, (2,))


@pytest.mark.parametrize("length", [60, 200, 249])
def test_long_names(tmp_path, length):
    path = tmp_path / ("n" * length + ".json")
    write_json(path, 1)
    assert half_written(path).suffix == ".json"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.fixture
def _small_files():
    """No file may grow beyond 20 kB: what a full disk does, for a process alone."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def save_checkpoint(path):
    with atomic(path) as temporary:
        torch.save({"weight": torch.zeros(100_000)}, temporary)


def save_copy(path):
    path.unlink()
    path.mkdir()
    copy_at_once(Path(email.__file__).parent, path / "copy")  # of a folder with a larger file


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_json(path, ["x" * 100] * 1000),
        lambda path: save_arrays(path, {"weight": np.zeros(100_000)}),
        save_checkpoint,
        save_copy,
    ],
)
@pytest.mark.usefixtures("_small_files")
def test_a_full_disk_is_said_to_be_one(tmp_path, write):
    """Whatever the library that writes makes of it."""
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(SynbrainError, match=r"cannot write .*free some space"):
        write(path)
    assert path.is_dir() or path.read_text() == "old"
    assert [p.name for p in tmp_path.rglob("*")] == ["file"]


def test_other_faults_keep_their_traceback(tmp_path):
    with pytest.raises(RuntimeError, match="shapes") as error, atomic(tmp_path / "file"):
        raise RuntimeError("shapes differ")
    assert not isinstance(error.value, SynbrainError)


@pytest.mark.filterwarnings("error")
def test_an_array_larger_than_any_file_is_an_error_not_a_warning(tmp_path):
    (tmp_path / "a.npy").write_bytes(array_header(np.float32, (1 << 62, 1 << 62)) + b"1234")
    with pytest.raises(DAMAGED):
        map_array(tmp_path / "a.npy")
