"""A folder that a command writes: under a hidden name until it is whole, resumable until then.

``NAME``            the finished folder, put in place at once
``.NAME.partial``   its files while they are written
``.NAME.recovery``  what an interrupted run continues from (checkpoints, counts of finished items);
                    removed only after the finished folder is in place
``.NAME.lock``      held while a command writes

``settings.json`` in the partial and in the finished folder records what the content depends on. The
same command continues where it stopped if its settings are the same; if they are not, it says what
differs. While the partial folder has no ``settings.json``, nothing in it or in the recovery folder
counts: it is the first thing written and the first thing removed.

A finished folder that is replaced has its name until the new one takes it, in one step
(`synbrain_cli.io.replacing`). ``.files.json`` lists the files that the command wrote; all others in
the folder are the user's, or another command's, and are kept in the new one. Pictures that another
command made of the folder's content are listed in ``.derived.sha256`` (`note_derived`): of another
content, they are not kept.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import GenericAlias
from typing import Any, TypeVar

import msgspec

from synbrain_cli.distributed import SINGLE_PROCESS, Processes
from synbrain_cli.errors import BusyError, InputError, SynbrainError
from synbrain_cli.io import replacing
from synbrain_cli.io.files import HALF_WRITTEN, copy_at_once, read_json, sha256, write_json
from synbrain_cli.io.locks import is_locked, lock_of, locked
from synbrain_cli.io.records import read_record, read_sealed, write_sealed
from synbrain_cli.paths import is_given, require_output
from synbrain_cli.progress import Progress

SETTINGS, FILES, DERIVED = "settings.json", ".files.json", ".derived.sha256"
# In recovery:
REPLACING = "overwrite"  # marks a run that was begun with --overwrite
WHOLE = "whole.json"  # identifies the partial folder once it is whole
FORMER = "former"  # the folder that is replaced, where names cannot be exchanged in one step
RECORD = "record"  # field of what `WorkFolder.once` keeps
R = TypeVar("R")


@dataclass(frozen=True)
class FolderKind:
    """A kind of folder, and how a command treats those that are there already.

    Attributes
    ----------
    what : str
        What such a folder holds, for messages: "a model".
    instead : str, optional
        Option that names another folder, for messages: "--name"; None where the name follows from
        the settings.
    remakes : bool
        A finished folder, and an interrupted one of other settings, are made again without being
        asked: cheap results such as scores. Otherwise a finished folder of the same settings is
        kept, and ``--overwrite`` is needed to replace anything.
    """

    what: str
    instead: str | None = None
    remakes: bool = False

    @property
    def advice(self) -> str:
        """What to do about a folder that is in the way."""
        return f"choose another {self.instead}, or move it away" if self.instead else "move it away"


@dataclass(frozen=True)
class WorkFolder:
    """A folder being written, or found finished.

    Attributes
    ----------
    target : Path
        Final name.
    partial, recovery : Path
        See the module's description; both exist until `put_in_place`.
    is_finished : bool
        The folder was finished before, with the same settings: there is nothing to do.
    is_resumed : bool
        An interrupted run of the same settings left what is in ``partial`` and ``recovery``.
    progress : Progress, optional
        Shows what was damaged since, and is done again.
    """

    target: Path
    partial: Path
    recovery: Path
    is_finished: bool
    is_resumed: bool
    progress: Progress | None = None

    def once(self, name: str, kind: type[R], compute: Callable[[], R]) -> R:
        """Compute a record, or read that of the interrupted run, if it is as it was written.

        Parameters
        ----------
        name : str
            Of the file in ``recovery``, without suffix.
        kind : type
            A msgspec Struct, or a list or dict of these.
        compute : callable
            Called without arguments.
        """
        path = self.recovery / f"{name}.json"
        if path.exists():
            wrapped: Any = GenericAlias(dict, (str, kind))
            try:
                return read_sealed(path, wrapped, "it is computed again")[RECORD]
            except SynbrainError as error:
                self.say(str(error))
        record = compute()
        write_sealed(path, {RECORD: record})
        return record

    def say(self, message: str) -> None:
        """Show a message about what the interrupted run left."""
        if self.progress is not None:
            self.progress.info(message)

    def put_in_place(self) -> None:
        """Give the finished folder its name, then remove what was there for recovery.

        Of a folder that is replaced, files that its command did not write are kept, but for those
        that were made of its content (`note_derived`), where that is another now: its settings
        differ, or it was to be made anew (``--overwrite``).

        Raises
        ------
        InputError
            When the partial folder was removed while it was written.
        """
        if not (self.partial / SETTINGS).exists():
            raise InputError(
                f"{self.partial} was removed or changed while it was written: nothing was put in "
                "place; run the command again"
            )
        write_json(self.partial / FILES, _list_files(self.partial))
        if self.target.is_dir():
            changed = (self.recovery / REPLACING).exists() or (
                _read_settings(self.target) != _read_settings(self.partial)
            )
            _keep_others(self.target, self.partial, _derived(self.target) if changed else ())
        write_json(self.recovery / WHOLE, self.partial.stat().st_ino)
        replacing.put_in_place(self.partial, self.target, self.recovery / FORMER)
        shutil.rmtree(self.recovery, ignore_errors=True)


@contextmanager
def work_folder(
    target: Path,
    kind: FolderKind,
    settings: Mapping[str, Any],
    *,
    overwrite: bool = False,
    processes: Processes = SINGLE_PROCESS,
    progress: Progress | None = None,
) -> Iterator[WorkFolder]:
    """Lock a folder and open it for writing, or find that it is finished.

    What is written into ``partial`` and ``recovery`` stays there when the block ends by an error or
    an interruption; a block that succeeds ends with `WorkFolder.put_in_place`.

    Parameters
    ----------
    target : path
        Final name. Where it is a symbolic link, the folder to which it leads is written.
    kind : FolderKind
    settings : mapping
        What the content depends on, convertible to JSON; recorded in ``settings.json``.
    overwrite : bool
        Replace a finished folder, and drop an interrupted run that was not itself begun with this.
    processes : Processes
        The main one opens and locks for all.
    progress : Progress, optional
        Shows that an interrupted run is continued, or what differs where it is dropped.

    Yields
    ------
    WorkFolder

    Raises
    ------
    InputError
        A finished or interrupted folder of other settings (the message names what differs); a
        folder that this command did not write.
    BusyError
        Another process is writing it.
    """
    target = require_output(target)
    if target.is_symlink():
        target = target.resolve()
    with processes.held(lambda: locked(target, kind.what)):
        opened = processes.on_main(
            functools.partial(_open, target, kind, _as_read(settings), overwrite, progress)
        )
        del settings  # those of thousands of images are not needed while the folder is written
        yield opened


def _as_read(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they are when they are read back."""
    read: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(dict(settings)))
    return read


def restore_interrupted(parent: Path) -> None:
    """Take back finished folders whose replacement was killed between its two steps.

    Only file systems that cannot exchange names in one step need this. What a running command
    replaces is left to it.

    Parameters
    ----------
    parent : path
        Folder that holds finished folders.
    """
    for aside in parent.glob(f".*.recovery/{FORMER}"):
        name = aside.parent.name.removeprefix(".").removesuffix(".recovery")
        if not is_locked(parent / name):
            replacing.restore(parent / name, aside)


def tidy_finished(target: Path, kind: FolderKind) -> None:
    """Remove what a run left that was killed as it put its folder in place.

    `work_folder` does so itself; this is for commands that keep a finished folder without it. What
    another process is writing is left to it.

    Parameters
    ----------
    target : path
    kind : FolderKind
    """
    target = target.resolve() if target.is_symlink() else target
    partial, recovery = partial_folder(target), recovery_folder(target)
    if not any(map(is_given, (partial, recovery, lock_of(target)))):
        return
    with suppress(BusyError), locked(target, kind.what):
        _settle(target, partial, recovery)
        if not (partial / SETTINGS).exists():  # nothing in them counts
            _remove(partial, recovery)


def recovery_folder(target: Path) -> Path:
    """Return the name of the folder from which an interrupted run continues."""
    return target.with_name(f".{target.name}.recovery")


def partial_folder(target: Path) -> Path:
    """Return the name under which a folder is written."""
    return target.with_name(f".{target.name}.partial")


def _open(
    target: Path,
    kind: FolderKind,
    settings: dict[str, Any],
    overwrite: bool,
    progress: Progress | None,
) -> WorkFolder:
    partial, recovery = partial_folder(target), recovery_folder(target)
    for hidden in (partial, recovery):
        if hidden.is_symlink():  # what is behind it is not ours to write or remove
            hidden.unlink()
    _settle(target, partial, recovery)
    if target.exists() and not _is_written_by_us(target):
        raise InputError(f"{target} exists and was not written by this command: {kind.advice}")
    finished, interrupted = _read_settings(target), _read_settings(partial)
    if not (overwrite or kind.remakes) and finished == settings:
        _remove(partial, recovery)  # left by a run that ended as its folder was put in place
        return WorkFolder(target, partial, recovery, True, False, progress)
    # Begun with --overwrite, it is continued with it: the same command goes on where it stopped.
    if interrupted == settings and (not overwrite or (recovery / REPLACING).exists()):
        _tidy(partial, recovery)
        recovery.mkdir(exist_ok=True)
        if progress is not None:
            progress.info(f"continuing the interrupted run in {partial}")
        return WorkFolder(target, partial, recovery, False, True, progress)
    if not (overwrite or kind.remakes):
        _refuse_to_replace(target, finished, settings, kind)
        _refuse_to_drop(partial, interrupted, settings, kind)
    if interrupted is not None and interrupted != settings and progress is not None:
        progress.info(
            f"starting again: the interrupted run in {partial} had other settings "
            f"({differences(interrupted, settings)})"
        )
    _remove(partial, recovery)
    write_json(partial / SETTINGS, settings)
    recovery.mkdir()
    if overwrite:
        (recovery / REPLACING).touch()
    return WorkFolder(target, partial, recovery, False, False, progress)


def _is_written_by_us(target: Path) -> bool:
    """Whether a folder has settings, or is empty."""
    return target.is_dir() and ((target / SETTINGS).exists() or not any(target.iterdir()))


def _read_settings(folder: Path) -> dict[str, Any] | None:
    path = folder / SETTINGS
    if not path.exists():
        return None
    return read_record(path, dict[str, Any], f"move {folder} away, and run the command again")


def _refuse_to_replace(
    target: Path, finished: dict[str, Any] | None, settings: dict[str, Any], kind: FolderKind
) -> None:
    if finished is not None:
        instead = f", or choose another {kind.instead}" if kind.instead else ""
        raise InputError(
            f"{target} holds {kind.what} made with other settings "
            f"({differences(finished, settings)}): pass --overwrite to replace it{instead}"
        )


def _refuse_to_drop(
    partial: Path, interrupted: dict[str, Any] | None, settings: dict[str, Any], kind: FolderKind
) -> None:
    if interrupted is not None:
        raise InputError(
            f"{partial} holds {kind.what} of an interrupted run with other settings "
            f"({differences(interrupted, settings)}): repeat its options to continue it, or pass "
            "--overwrite to start again"
        )


def _remove(partial: Path, recovery: Path) -> None:
    """Remove what an earlier run left, its settings first: none of it counts without them."""
    (partial / SETTINGS).unlink(missing_ok=True)
    for leftover in (partial, recovery):
        shutil.rmtree(leftover, ignore_errors=True)


def _tidy(partial: Path, recovery: Path) -> None:
    """Remove what a run that was killed had not finished writing, or had taken over from others."""
    if (partial / FILES).exists():
        written = {*read_record(partial / FILES, list[str]), FILES}
        for name in set(_list_files(partial)) - written:
            (partial / name).unlink()
        (partial / FILES).unlink()
    for folder in (partial, recovery):
        for path in list(folder.rglob("*")):
            if path.is_symlink():  # not ours, and what is behind it is not ours to write
                path.unlink()
            elif path.name.startswith(HALF_WRITTEN):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _settle(target: Path, partial: Path, recovery: Path) -> None:
    """Finish what a run that was killed while it put its folder in place had begun."""
    replacing.restore(target, recovery / FORMER)
    whole = recovery / WHOLE
    if whole.exists() and target.exists() and read_json(whole) == target.stat().st_ino:
        _remove(partial, recovery)  # the former folder now has the name of the partial one


def _list_files(folder: Path) -> list[str]:
    """Return the files below a folder, sorted, relative to it."""
    found = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    return sorted(path.relative_to(folder).as_posix() for path in found)


def note_derived(folder: Path, file: Path) -> None:
    """Note that a file was made of the content of a folder, and is worth nothing without it.

    Parameters
    ----------
    folder : path
        That `WorkFolder` finished; nothing is noted in others.
    file : path
        Such as a picture; nothing is noted of files elsewhere.
    """
    folder, file = folder.resolve(), file.resolve()
    if (folder / FILES).exists() and file.is_relative_to(folder):
        line = f"{sha256(file)}  {file.relative_to(folder).as_posix()}\n"
        with (folder / DERIVED).open("a", encoding="utf-8") as note:  # at once: others may append
            note.write(line)


def _derived(folder: Path) -> set[str]:
    """Files that were made of a folder's content, as they were made: not those changed since."""
    note = folder / DERIVED
    if note.is_symlink() or not note.is_file():
        return set()
    lines = note.read_text("utf-8", errors="replace").splitlines()
    noted = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    return {DERIVED} | {
        name
        for name, digest in noted.items()
        if (folder / name).is_file() and sha256(folder / name) == digest
    }


def _keep_others(former: Path, new: Path, but: Container[str]) -> None:
    """Take over the files of a folder that its command did not write and the new one does not have.

    They are linked where the file system can do so, and copied elsewhere.

    Parameters
    ----------
    former, new : path
    but : container of str
        Names of files to leave out.
    """
    written = set(read_record(former / FILES, list[str])) if (former / FILES).exists() else set()
    for name in _list_files(former):
        source, target = former / name, new / name
        if name in written or name in but or name == FILES or os.path.lexists(target):
            continue
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(source, target, follow_symlinks=False)
        except (FileExistsError, NotADirectoryError) as error:
            raise SynbrainError(
                f"{source} was not written by synbrain, and its replacement has a file in place of "
                "that folder: move it away and run the command again, which goes on where it "
                "stopped"
            ) from error
        except OSError:
            copy_at_once(source, target)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Settings that are not the same, in words: "seed 0, now 1"; empty where all are.

    Parameters
    ----------
    before, now : mapping
        Of JSON values; inner mappings are compared entry by entry.
    """
    return ", ".join(_different("", before, now))


def _different(prefix: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for key in dict.fromkeys((*before, *now)):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _different(f"{prefix}{key}.", old, new)
        elif old != new:
            change = f"{_short(old)}, now {_short(new)}"
            yield f"{prefix}{key} {change}" if len(change) < 100 else f"{prefix}{key} changed"


def _short(value: Any) -> str:
    return "none" if value is None else str(value)
