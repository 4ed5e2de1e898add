"""One process writes a folder at a time."""

from __future__ import annotations

import multiprocessing
import os

import pytest

from synbrain_cli.errors import BusyError, InputError, SynbrainError
from synbrain_cli.io.locks import is_locked, locked


def test_one_writer_at_a_time(tmp_path):
    with (
        locked(tmp_path / "a", "a model"),
        pytest.raises(BusyError, match="another synbrain process"),
        locked(tmp_path / "a", "a model"),
    ):
        pass
    with locked(tmp_path / "a", "a model"):
        pass


def test_whether_it_is_locked(tmp_path):
    folder = tmp_path / "a"
    assert not is_locked(folder)
    with locked(folder, "a model"):
        assert is_locked(folder)
    assert not is_locked(folder)


def test_steps_have_locks_of_their_own(tmp_path):
    with locked(tmp_path / "a", "a model"), locked(tmp_path / "a", "a model", "prepare"):
        with pytest.raises(BusyError), locked(tmp_path / "a", "a model", "prepare"):
            pass
        assert {p.name for p in tmp_path.iterdir()} == {".a.lock", ".a.prepare.lock"}
    assert not list(tmp_path.iterdir())


def test_a_link_in_its_place_is_not_followed(tmp_path):
    mine = tmp_path / "thesis.txt"
    mine.write_text("years")
    (tmp_path / ".a.lock").symlink_to(mine)
    with (
        pytest.raises(SynbrainError, match=r"cannot write .*\.a\.lock"),
        locked(tmp_path / "a", "a model"),
    ):
        pass
    assert mine.read_text() == "years"


def test_a_lock_that_was_removed_and_taken_by_another_is_left_to_it(tmp_path):
    path = tmp_path / ".a.lock"
    with locked(tmp_path / "a", "a model"):
        path.unlink()
        path.write_text("another's")
    assert path.read_text() == "another's"


def test_a_folder_that_was_removed_under_a_lock(tmp_path):
    with locked(tmp_path / "made/a", "a model"):
        (tmp_path / "made/.a.lock").unlink()
        (tmp_path / "made").rmdir()
    assert not list(tmp_path.iterdir())


def test_an_orphan_is_noticed(tmp_path, monkeypatch):
    """The file was opened before its holder removed it: its lock would guard nothing."""
    path, opened = tmp_path / ".a.lock", []
    real = os.open

    def open_orphan(name, *arguments, **options):
        file = real(name, *arguments, **options)
        opened.append(file)
        if len(opened) == 1:
            path.unlink()
        return file

    monkeypatch.setattr(os, "open", open_orphan)
    with locked(tmp_path / "a", "a model"):
        assert len(opened) == 2
        assert path.exists()


def _enter(folder, n_entries, found):
    entered = together = 0
    inside = folder / "inside"
    while entered < n_entries:
        try:
            with locked(folder / "a", "a model"):
                try:
                    os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    together += 1
                entered += 1
                inside.unlink(missing_ok=True)
        except BusyError:
            continue
    found.put((entered, together))


def test_nobody_is_inside_with_another(tmp_path):
    """In a tight loop, where nearly every entry meets a lock file that is being removed."""
    context = multiprocessing.get_context("spawn")
    found = context.Queue()
    workers = [context.Process(target=_enter, args=(tmp_path, 1500, found)) for _ in range(3)]
    for worker in workers:
        worker.start()
    counts = [found.get(timeout=240) for _ in workers]
    for worker in workers:
        worker.join()
    assert sum(entered for entered, _ in counts) == 4500
    assert sum(together for _, together in counts) == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("folder", [".", "..", "/"])
def test_a_path_without_a_name(folder):
    with pytest.raises(InputError, match="ends in the name"), locked(folder, "a model"):
        pass
