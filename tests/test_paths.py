"""What stands where a file or folder is expected: one line, and no waiting."""

from __future__ import annotations

import os
import socket
import stat

import pytest

from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.files import sha256
from synbrain_cli.io.workfolder import FolderKind, work_folder
from synbrain_cli.paths import (
    is_there,
    require_folder,
    require_output,
    require_output_file,
    require_regular_file,
)

KIND = FolderKind("a test", "--output")


def pipe(path):
    os.mkfifo(path)


def listening(path):
    socket.socket(socket.AF_UNIX).bind(str(path))


def nowhere(path):
    path.symlink_to(path.parent / "absent")


def round_and_round(path):
    path.symlink_to(path)


NO_FILES = [
    (pipe, "found a pipe"),
    (listening, "found a socket"),
    (lambda path: path.mkdir(), "found a folder"),
    (lambda path: path.symlink_to("/dev/zero"), "found a device"),
    (nowhere, "found a link to nothing"),
    (round_and_round, "cannot be opened"),
    (lambda path: None, "found nothing"),
]


@pytest.mark.parametrize(("make", "found"), NO_FILES)
def test_what_is_no_regular_file(tmp_path, make, found):
    path = tmp_path / "x"
    make(path)
    with pytest.raises((InputError, MissingError), match=found) as caught:
        require_regular_file(path, "an image")
    assert str(path) in str(caught.value)
    with pytest.raises((InputError, MissingError), match=found):
        sha256(path)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "file/in/a/file", "\udcff"])
def test_names_that_no_file_can_have(tmp_path, name):
    (tmp_path / "file").touch()
    for check in (require_regular_file, require_folder):
        with pytest.raises((InputError, MissingError), match=r"expected|not text"):
            check(tmp_path / name)


def test_files_and_links_to_them_pass(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("file")
    assert require_regular_file(tmp_path / "link") == tmp_path / "link"
    assert require_folder(tmp_path) == tmp_path
    with pytest.raises(InputError, match="found a file"):
        require_folder(tmp_path / "link")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read(tmp_path):
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.touch(mode=0)
    folder.mkdir(mode=0)
    with pytest.raises(InputError, match="may not read"):
        require_regular_file(file)
    with pytest.raises(InputError, match="may not read"):
        require_folder(folder)
    folder.chmod(stat.S_IRWXU)


def test_what_may_not_be_read_is_asked_of_the_system(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match="may not read"):
        require_regular_file(tmp_path / "file")
    with pytest.raises(InputError, match="may not read"):
        require_folder(tmp_path)


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda path: path.touch(), "found a file"),
        (pipe, "found a pipe"),
        (nowhere, "found a link to nothing"),
        (round_and_round, "not possible"),
    ],
)
def test_what_is_in_the_way_of_an_output(tmp_path, make, found):
    path = tmp_path / "out"
    make(path)
    with pytest.raises(InputError, match=found), work_folder(path, KIND, {}, overwrite=True):
        pass
    assert os.path.lexists(path)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    "path", ["", ".", "/", "..", "a/..", "x" * 250, "a\nb", "a\x1b[31mb", "\udcff", "a\0b"]
)
def test_what_names_no_output(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"expected|not text"):
        require_output(path)
    with pytest.raises(InputError), work_folder(path, KIND, {}):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["", ".", "/", "..", "folder", "x" * 250, "a\nb", "link", "pipe"])
def test_what_names_no_file_to_be_written(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="expected a file to be written"):
        require_output_file(path)
    assert require_output_file("report.html").name == "report.html"


def test_asking_whether_something_is_there(tmp_path):
    assert is_there(tmp_path)
    for name in ("absent", "x" * 300, "a\0b"):
        assert not is_there(tmp_path / name)


def test_outputs_may_be_new_or_folders_or_links_to_them(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("new/folder", "link", "Ünï v1.0", "x" * 240):
        assert require_output(tmp_path / name) == tmp_path / name
