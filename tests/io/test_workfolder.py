"""The one folder that commands write: hidden until whole, resumable, put in place at once."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from unittest.mock import Mock

import msgspec
import pytest
from listening import Listening

from synbrain_cli.distributed import Processes
from synbrain_cli.errors import BusyError, InputError, SynbrainError
from synbrain_cli.io import replacing
from synbrain_cli.io.files import read_json
from synbrain_cli.io.workfolder import (
    FolderKind,
    differences,
    note_derived,
    restore_interrupted,
    tidy_finished,
    work_folder,
)

MODEL = FolderKind("a model", "--name")
SCORES = FolderKind("scores", "--output", remakes=True)
SETTINGS = {"seed": 0, "stage": {"epochs": 2, "betas": (0.9, 0.99)}}


KILLED = 9


class Interrupted(Exception):
    """As by Ctrl-C."""


def names(folder):
    """What is in a folder, but for the list of what its command wrote."""
    return {path.name for path in folder.iterdir()} - {".files.json"}


def interrupt(target, kind=MODEL, settings=SETTINGS, **options):
    """Write half of a folder."""
    with suppress(Interrupted), work_folder(target, kind, settings, **options) as work:
        (work.partial / "half").write_text("written")
        (work.recovery / "checkpoint").write_text("1")
        raise Interrupted


def finish(target, kind=MODEL, settings=SETTINGS, content="whole", **options):
    """Write a folder, unless it is there."""
    with work_folder(target, kind, settings, **options) as work:
        if not work.is_finished:
            (work.partial / "file").write_text(content)
            work.put_in_place()
    return work


# ----------------------------------------------------------------------------- one folder


@pytest.mark.parametrize("hidden", ["partial", "recovery"])
def test_a_link_in_place_of_a_hidden_folder_is_not_followed(tmp_path, hidden):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "settings.json").write_text("{}")
    (tmp_path / f".a.{hidden}").symlink_to(mine)
    finish(tmp_path / "a")
    assert names(mine) == {"settings.json"}
    assert names(tmp_path / "a") == {"settings.json", "file"}


def test_it_has_its_name_once_it_is_whole(tmp_path):
    target = tmp_path / "made" / "sub-01"
    with work_folder(target, MODEL, SETTINGS) as work:
        assert not work.is_finished
        assert not work.is_resumed
        (work.partial / "file").write_text("whole")
        (work.recovery / "checkpoint").write_text("1")
        assert not target.exists()
        work.put_in_place()
        assert names(target) == {"file", "settings.json"}
    assert names(target.parent) == {"sub-01"}  # no lock, nothing hidden
    assert read_json(target / "settings.json") == msgspec.json.decode(msgspec.json.encode(SETTINGS))


def test_an_interrupted_run_is_continued_with_the_same_settings(tmp_path):
    target = tmp_path / "sub-01"
    interrupt(target)
    assert names(tmp_path) == {".sub-01.partial", ".sub-01.recovery"}
    (tmp_path / ".sub-01.partial/maps").mkdir()
    (tmp_path / ".sub-01.partial/maps/.half-0a-12.map.nii").write_text("half-written")
    (tmp_path / ".sub-01.recovery/.half-0a-12.folder").mkdir()
    with work_folder(target, MODEL, SETTINGS) as work:
        assert work.is_resumed
        assert names(work.partial) == {"half", "maps", "settings.json"}
        assert names(work.partial / "maps") == set()
        assert names(work.recovery) == {"checkpoint"}
        work.put_in_place()
    assert names(tmp_path) == {"sub-01"}


def test_a_finished_folder_of_the_same_settings_is_kept(tmp_path):
    target = tmp_path / "sub-01"
    finish(target, content="first")
    assert finish(target, content="second").is_finished
    assert (target / "file").read_text() == "first"
    assert names(tmp_path) == {"sub-01"}


def test_what_a_run_left_that_ended_as_its_folder_was_put_in_place_is_removed(tmp_path):
    target = tmp_path / "sub-01"
    finish(target)
    (tmp_path / ".sub-01.recovery").mkdir()
    finish(target)
    assert names(tmp_path) == {"sub-01"}


# ------------------------------------------------------------------------- other settings

OTHER = {"seed": 1, "stage": {"epochs": 3, "betas": (0.9, 0.99)}}


def test_an_interrupted_run_of_other_settings_is_named_and_kept(tmp_path):
    target = tmp_path / "sub-01"
    interrupt(target)
    with pytest.raises(InputError) as error, work_folder(target, MODEL, OTHER):
        pass
    assert "seed 0, now 1, stage.epochs 2, now 3" in str(error.value)
    assert "repeat its options to continue it, or pass --overwrite" in str(error.value)
    assert (tmp_path / ".sub-01.recovery/checkpoint").read_text() == "1"


def test_a_finished_folder_of_other_settings_is_named_and_kept(tmp_path):
    target = tmp_path / "sub-01"
    finish(target)
    with pytest.raises(InputError) as error, work_folder(target, MODEL, OTHER):
        pass
    assert "holds a model made with other settings (seed 0, now 1, stage.epochs" in str(error.value)
    assert "pass --overwrite to replace it, or choose another --name" in str(error.value)
    assert (target / "file").read_text() == "whole"
    assert names(tmp_path) == {"sub-01"}


@pytest.mark.parametrize("settings", [SETTINGS, OTHER])
def test_overwrite_starts_again(tmp_path, settings):
    target = tmp_path / "sub-01"
    finish(target, settings={"seed": 8}, content="first")
    interrupt(target, settings={"seed": 9}, overwrite=True)
    with work_folder(target, MODEL, settings, overwrite=True) as work:
        assert not work.is_resumed
        assert names(work.partial) == {"settings.json"}
        assert names(work.recovery) == {"overwrite"}
        assert (target / "file").read_text() == "first"  # until there is another
        (work.partial / "other").write_text("second")
        work.put_in_place()
    assert names(target) == {"other", "settings.json"}
    assert names(tmp_path) == {"sub-01"}


def test_overwrite_starts_again_what_was_begun_without_it(tmp_path):
    """Where what an interrupted run left is damaged, say."""
    target = tmp_path / "sub-01"
    interrupt(target)
    with work_folder(target, MODEL, SETTINGS, overwrite=True) as work:
        assert not work.is_resumed


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_interrupted_replacement_is_continued(tmp_path, overwrite):
    """With --overwrite as without it: the same command goes on where it stopped."""
    target = tmp_path / "sub-01"
    finish(target)
    interrupt(target, settings=OTHER, overwrite=True)
    with work_folder(target, MODEL, OTHER, overwrite=overwrite) as work:
        assert work.is_resumed
        work.put_in_place()
    assert names(target) == {"half", "settings.json"}


def test_cheap_results_are_made_again(tmp_path):
    target = tmp_path / "scores"
    finish(target, SCORES, content="first")
    finish(target, SCORES, content="second")
    assert (target / "file").read_text() == "second"
    interrupt(target, SCORES)
    with work_folder(target, SCORES, OTHER) as work:
        assert not work.is_resumed
        assert names(work.partial) == {"settings.json"}


@pytest.mark.parametrize("kind", [MODEL, SCORES])
@pytest.mark.parametrize("can_link", [True, False])
def test_files_that_the_command_did_not_write_are_kept(tmp_path, monkeypatch, kind, can_link):
    """And those that it wrote before and does not write now are not."""
    if not can_link:
        monkeypatch.setattr(os, "link", Mock(side_effect=OSError(errno.EPERM, "not here")))
    target, old = tmp_path / "sub-01", tmp_path / ".sub-01.old"
    with work_folder(target, kind, SETTINGS) as work:
        (work.partial / "file").write_text("first")
        (work.partial / "only-before").write_text("first")
        work.put_in_place()
    old.mkdir()
    (old / "thesis.txt").write_text("years")
    (target / "figure.png").write_text("plotted")
    (target / "notes/deep").mkdir(parents=True)
    (target / "notes/deep/mine").write_text("written")
    (target / "data").symlink_to("/elsewhere")
    for _ in range(2):
        with work_folder(target, kind, OTHER, overwrite=True) as work:
            (work.partial / "file").write_text("second")
            work.put_in_place()
    assert names(target) == {"file", "settings.json", "figure.png", "notes", "data"}
    assert (target / "file").read_text() == "second"
    assert read_json(target / "settings.json")["seed"] == 1
    assert (target / "notes/deep/mine").read_text() == "written"
    assert (target / "data").readlink() == Path("/elsewhere")
    assert (old / "thesis.txt").read_text() == "years"
    assert names(tmp_path) == {"sub-01", ".sub-01.old"}


@pytest.mark.parametrize(
    ("kind", "settings", "overwrite", "stay"),
    [
        (MODEL, OTHER, True, False),
        (MODEL, SETTINGS, True, False),  # what is made anew may have been damaged
        (SCORES, OTHER, False, False),
        (SCORES, SETTINGS, False, True),  # the same scores again
    ],
)
def test_pictures_go_with_the_content_they_were_made_of(tmp_path, kind, settings, overwrite, stay):
    target = tmp_path / "sub-01"
    finish(target, kind)
    (target / "figures").mkdir()
    for name in ("picture", "retouched", "gone", "mine"):
        (target / "figures" / name).write_text(name)
        if name != "mine":
            note_derived(target, target / "figures" / name)
    (target / "figures/retouched").write_text("by hand")
    (target / "figures/gone").unlink()
    note_derived(target, tmp_path / ".." / tmp_path.name / "sub-01/figures/picture")  # again
    finish(target, kind, settings, "new", overwrite=overwrite)
    assert names(target / "figures") == {"mine", "retouched"} | ({"picture"} if stay else set())
    assert (target / ".derived.sha256").exists() == stay
    finish(target, kind, settings, "newer", overwrite=True)
    assert names(target / "figures") == {"mine", "retouched"}


def test_pictures_elsewhere_are_not_noted(tmp_path):
    finish(tmp_path / "sub-01")
    (tmp_path / "picture").write_text("elsewhere")
    note_derived(tmp_path / "sub-01", tmp_path / "picture")
    note_derived(tmp_path, tmp_path / "picture")  # no folder that a command finished
    assert not list(tmp_path.rglob(".derived*"))


@pytest.mark.parametrize("content", [b"", b"\xff\n", b"abc  ../outside\n", b"abc  file\n"])
def test_a_damaged_note_removes_nothing(tmp_path, content):
    finish(tmp_path / "sub-01")
    (tmp_path / "outside").write_text("mine")
    (tmp_path / "sub-01/file.txt").write_text("mine")
    (tmp_path / "sub-01/.derived.sha256").write_bytes(content)
    finish(tmp_path / "sub-01", settings=OTHER, overwrite=True)
    assert (tmp_path / "sub-01/file.txt").read_text() == "mine"
    assert (tmp_path / "outside").read_text() == "mine"


def test_a_file_of_the_users_where_the_new_folder_has_a_folder(tmp_path):
    """Neither is lost: the run goes on once it is out of the way."""
    target = tmp_path / "sub-01"
    finish(target)
    (target / "maps").mkdir()
    (target / "maps/mine").write_text("written")
    for _ in range(2):
        with work_folder(target, MODEL, OTHER, overwrite=True) as work:
            (work.partial / "maps").write_text("a file of this name")
            with pytest.raises(SynbrainError, match="maps/mine was not written by synbrain"):
                work.put_in_place()
    (target / "maps").rename(tmp_path / "away")
    with work_folder(target, MODEL, OTHER, overwrite=True) as work:
        assert work.is_resumed
        work.put_in_place()
    assert names(target) == {"maps", "settings.json"}
    assert (tmp_path / "away/mine").read_text() == "written"


def test_a_link_is_followed(tmp_path):
    """Twice in a row: the folder to which it leads is replaced, and the link stays."""
    real, link = tmp_path / "disk/real", tmp_path / "link"
    finish(real, content="first")
    link.symlink_to(real)
    assert finish(link).is_finished
    for seed in (1, 2):
        finish(link, settings={"seed": seed}, content=str(seed), overwrite=True)
        assert link.is_symlink()
        assert (real / "file").read_text() == str(seed)
    assert names(tmp_path) == {"disk", "link"}
    assert names(tmp_path / "disk") == {"real"}


def test_links_that_lead_nowhere(tmp_path):
    for name, leads_to in (("link", "disk/real"), ("loop", "loop")):
        (tmp_path / name).symlink_to(tmp_path / leads_to)
        with pytest.raises(InputError, match=f"{name}: expected a folder to be written"):
            finish(tmp_path / name)
    assert names(tmp_path) == {"link", "loop"}


@pytest.mark.parametrize("kind", [MODEL, SCORES, FolderKind("a shared core")])
def test_a_folder_that_the_command_did_not_write_is_never_touched(tmp_path, kind):
    target = tmp_path / "mine"
    target.mkdir()
    (target / "thesis.txt").write_text("years")
    for overwrite in (False, True):
        with (
            pytest.raises(InputError, match=r"was not written by this command: .*move it away"),
            work_folder(target, kind, SETTINGS, overwrite=overwrite),
        ):
            pass
    assert names(tmp_path) == {"mine"}
    assert (target / "thesis.txt").read_text() == "years"


@pytest.mark.parametrize("name", [".", "..", "/", "folder/.."])
def test_a_path_without_a_name_of_its_own_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with (
        pytest.raises(InputError, match=r"name a new folder in it, such as .*NEW"),
        work_folder(Path(name), MODEL, SETTINGS),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "empty").mkdir()
    finish(tmp_path / "empty")
    assert names(tmp_path / "empty") == {"file", "settings.json"}


def test_nothing_is_put_in_place_of_a_folder_that_was_removed(tmp_path):
    with work_folder(tmp_path / "sub-01", MODEL, SETTINGS) as work:
        (work.partial / "settings.json").unlink()
        with pytest.raises(InputError, match="was removed or changed while it was written"):
            work.put_in_place()
    assert not (tmp_path / "sub-01").exists()


def test_a_record_is_computed_once(tmp_path):
    class Found(msgspec.Struct):
        value: int

    calls = []

    def compute():
        calls.append(1)
        return Found(7)

    for _ in range(2):
        with suppress(Interrupted), work_folder(tmp_path / "sub-01", MODEL, SETTINGS) as work:
            assert work.once("found", Found, compute) == Found(7)
            raise Interrupted
    assert len(calls) == 1


@pytest.mark.parametrize("content", ["", "{}", '{"record": {"value": 8}}', None])
def test_a_record_that_was_damaged_since_is_computed_again(tmp_path, content):
    progress = Listening()
    for values in (7, 9):
        with (
            suppress(Interrupted),
            work_folder(tmp_path / "a", MODEL, SETTINGS, progress=progress) as work,
        ):
            found = work.once("found", list[int], lambda values=values: [values])
            path = work.recovery / "found.json"
            changed = path.read_text().replace("7", "6") if content is None else content
            path.write_text(changed)
            raise Interrupted
    assert found == [9]
    assert any("it is computed again" in message for message in progress.messages)


# --------------------------------------------------------------------- several processes


def test_two_runs_do_not_write_one_folder(tmp_path):
    target = tmp_path / "sub-01"
    with (
        work_folder(target, MODEL, SETTINGS),
        pytest.raises(BusyError, match="another synbrain process is writing a model"),
        work_folder(target, MODEL, SETTINGS),
    ):
        pass


class Second(Processes):
    """A process beside the main one, which tells it what it found."""

    answer = None

    def on_main(self, work):
        return self.answer


def test_the_main_process_opens_for_all(tmp_path):
    """Another one gets the same folder, and neither locks nor changes anything."""
    with work_folder(tmp_path / "sub-01", MODEL, SETTINGS) as work:
        other = Second(1, 2)
        object.__setattr__(other, "answer", work)
        with work_folder(tmp_path / "sub-01", MODEL, OTHER, processes=other) as found:
            assert found == work
    assert read_json(work.partial / "settings.json")["seed"] == 0


# ---------------------------------------------------------------------------- differences


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ({"seed": 0}, {"seed": 0}, ""),
        ({"seed": 0}, {"seed": 1}, "seed 0, now 1"),
        ({"hours": 1}, {"hours": 1.0}, ""),
        ({}, {"preset": "tiny"}, "preset none, now tiny"),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, "a.c 2, now 3"),
        ({"a": {"b": 1}}, {"a": None}, "a {'b': 1}, now none"),
        ({"names": "x" * 80}, {"names": "y" * 80}, "names changed"),
    ],
)
def test_what_differs_is_said_in_words(before, now, told):
    assert differences(before, now) == told


# ------------------------------------------------------------------- killed between steps

FORKING = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def write(target: Path, seed: int, overwrite: bool = False) -> None:
    """Write a folder of two files, each of which is finished once."""
    with work_folder(target, MODEL, {"seed": seed}, overwrite=overwrite) as work:
        if not work.is_finished:
            for name in "ab":
                if not (work.recovery / name).exists():
                    (work.partial / name).write_text(str(seed))
                    (work.recovery / name).write_text(str(seed))
            work.put_in_place()


def write_killed(target: Path, seed: int, overwrite: bool, kill_at: int) -> bool:
    """Write it in a process of its own that ends before its Nth change to the disk.

    Nothing is tidied up, as when the power goes. Whether it came to its end.
    """
    child = os.fork()
    if child == 0:
        try:
            _die_before_change(kill_at)
            write(target, seed, overwrite)
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, KILLED)
    return status == 0


def _die_before_change(n: int) -> None:
    left = n

    def dying(function):
        def call(*arguments, **options):
            nonlocal left
            left -= 1
            if left == 0:
                os._exit(KILLED)
            return function(*arguments, **options)

        return call

    for name in ("replace", "mkdir", "unlink", "rmdir", "link"):
        setattr(os, name, dying(getattr(os, name)))
    replacing.exchange = dying(replacing.exchange)


def content(target: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in target.iterdir() if path.is_file()}


@FORKING
def test_killed_at_any_step_the_same_command_finishes_it(tmp_path):
    """A run killed before it renames, makes or removes anything; then the same, to its end."""
    expected = None
    for kill_at in range(1, 100):
        target = tmp_path / str(kill_at) / "sub-01"
        if write_killed(target, 0, False, kill_at):
            break
        if target.exists():  # all of it
            assert names(target) == {"a", "b", "settings.json"}
        write(target, 0)
        expected = expected or content(target)
        assert content(target) == expected
        assert names(target.parent) == {"sub-01"}
    assert kill_at > 4


@FORKING
@pytest.mark.parametrize("can_exchange", [True, False])
def test_killed_at_any_step_a_replacement_mixes_and_loses_nothing(
    tmp_path, monkeypatch, can_exchange
):
    """The one or the other folder is there at every moment, with the user's own files."""
    if not can_exchange:
        monkeypatch.setattr(replacing, "exchange", lambda one, other: False)
    for kill_at in range(1, 100):
        target = tmp_path / str(kill_at) / "sub-01"
        write(target, 0)
        (target / "mine").write_text("written")
        interrupt(target, settings={"seed": 0}, overwrite=True)
        is_done = write_killed(target, 1, True, kill_at)
        if not can_exchange:
            restore_interrupted(target.parent)  # as every command does that looks for a model
        found = content(target)
        assert found["a"] == found["b"] in ("0", "1")
        assert f'"seed": {found["a"]}' in found["settings.json"]
        assert found["mine"] == "written"
        if is_done:
            break
        write(target, 1, overwrite=True)
        assert (content(target)["a"], content(target)["b"]) == ("1", "1")
        assert content(target)["mine"] == "written"
        assert names(target) == {"a", "b", "settings.json", "mine"}
        assert names(target.parent) == {"sub-01"}
        (target / "mine").unlink()
        write(target, 2, overwrite=True)
        assert names(target) == {"a", "b", "settings.json"}
    assert kill_at > 8


@pytest.mark.parametrize("can_exchange", [True, False])
def test_folders_are_exchanged(tmp_path, monkeypatch, can_exchange):
    """In one step, on this system; or in two."""
    steps = []
    if can_exchange:
        monkeypatch.setattr(Path, "replace", lambda one, other: steps.append((one, other)))
    else:
        monkeypatch.setattr(replacing, "exchange", lambda one, other: False)
    for name in ("new", "target"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    if can_exchange and not replacing.exchange(tmp_path / "new", tmp_path / "target"):
        pytest.skip("this file system cannot exchange names in one step")
    if can_exchange:
        replacing.exchange(tmp_path / "new", tmp_path / "target")
    replacing.put_in_place(tmp_path / "new", tmp_path / "target", tmp_path / "aside")
    assert (tmp_path / "target/file").read_text() == "new"
    assert names(tmp_path) == {"target"}
    assert not steps


def test_a_running_replacement_is_left_alone(tmp_path):
    target, aside = tmp_path / "sub-01", tmp_path / ".sub-01.recovery/former"
    with work_folder(target, MODEL, SETTINGS):
        aside.mkdir()
        restore_interrupted(tmp_path)
        assert aside.exists()
    restore_interrupted(tmp_path)
    assert not aside.exists()
    assert target.is_dir()


def test_what_was_read_of_two_folders_is_refused(tmp_path):
    finish(tmp_path / "sub-01")
    with replacing.unreplaced(tmp_path / "sub-01"):
        pass
    with (
        pytest.raises(InputError, match="was replaced by another process while it was read"),
        replacing.unreplaced(tmp_path / "sub-01"),
    ):
        finish(tmp_path / "sub-01", settings=OTHER, overwrite=True)


@pytest.mark.parametrize("content", ["3", "[1]", '"text"', "null"])
def test_settings_that_are_none_are_refused(tmp_path, content):
    interrupt(tmp_path / "a")
    (tmp_path / ".a.partial/settings.json").write_text(content)
    with pytest.raises(InputError, match=r"settings\.json: expected .* move .* away"):
        finish(tmp_path / "a")


@pytest.mark.parametrize("hidden", ["partial", "recovery"])
def test_links_in_a_folder_that_is_continued_are_not_followed(tmp_path, hidden):
    interrupt(tmp_path / "a")
    mine = tmp_path / "mine"
    mine.write_text("kept")
    (tmp_path / f".a.{hidden}/file").symlink_to(mine)
    (tmp_path / f".a.{hidden}/folder").symlink_to(tmp_path)
    finish(tmp_path / "a")
    assert mine.read_text() == "kept"
    assert names(tmp_path / "a") == {"settings.json", "file", "half"}


def test_what_a_killed_process_left_beside_a_finished_folder_is_removed(tmp_path):
    target = tmp_path / "a"
    finish(target)
    (tmp_path / ".a.lock").touch()
    (tmp_path / ".a.recovery").mkdir()
    (tmp_path / ".a.recovery/session").write_text("1")
    tidy_finished(target, MODEL)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert names(target) == {"settings.json", "file"}
    interrupt(target, overwrite=True)  # a run that can be continued is not litter
    tidy_finished(target, MODEL)
    assert (tmp_path / ".a.partial/half").exists()
    assert (tmp_path / ".a.recovery/checkpoint").exists()


def test_what_another_process_writes_is_left_to_it(tmp_path):
    finish(tmp_path / "a")
    with work_folder(tmp_path / "a", MODEL, SETTINGS, overwrite=True) as work:
        tidy_finished(tmp_path / "a", MODEL)
        assert work.recovery.exists()
