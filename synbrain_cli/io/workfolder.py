"""A folder that a command writes: under a hidden name until it is whole, resumable until then.

``NAME``            the finished folder, put in place at once
``.NAME.partial``   its files while they are written
``.NAME.recovery``  what an interrupted run continues from (checkpoints, counts of finished items);
                    removed only after the finished folder is in place
``.NAME.lock``      held while a command writes

``settings.json`` in the partial and in the finished folder records what the content depends on. The
same command continues where it stopped if its settings are the same; if they are not, it says what
differs.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from synbrain_cli.distributed import SINGLE_PROCESS, Processes
from synbrain_cli.errors import InputError
from synbrain_cli.io.files import locked, read_json, write_json
from synbrain_cli.io.records import read_record, write_record

SETTINGS = "settings.json"
R = TypeVar("R")


@dataclass(frozen=True)
class FolderKind:
    """What a command does with the folders it writes.

    Attributes
    ----------
    what : str
        What such a folder holds, for messages: "a model".
    instead : str
        Option that names another folder, for messages: "--name".
    remakes : bool
        A finished folder, and an interrupted one of other settings, are made again without being
        asked: cheap results such as scores. Otherwise a finished folder of the same settings is
        kept, and ``--overwrite`` is needed to replace anything.
    """

    what: str
    instead: str
    remakes: bool = False


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
    other_settings : str
        Settings in which an interrupted run differed that was dropped, in words (`differences`).
    """

    target: Path
    partial: Path
    recovery: Path
    is_finished: bool
    is_resumed: bool
    other_settings: str = ""

    def once(self, name: str, kind: type[R], compute: Callable[[], R]) -> R:
        """A record computed once, and read again by the run that continues.

        Parameters
        ----------
        name : str
            Of the file in ``recovery``, without suffix.
        kind : type
            A msgspec Struct.
        compute : callable
        """
        path = self.recovery / f"{name}.json"
        if path.exists():
            return read_record(path, kind)
        record = compute()
        write_record(path, record)
        return record

    def put_in_place(self, *, keep_others: bool = False) -> None:
        """Give the finished folder its name, then remove what was there for recovery.

        Parameters
        ----------
        keep_others : bool
            Of a folder that is replaced, keep the entries that the new one does not have (figures
            plotted into it, files of the user's).
        """
        if not (self.partial / SETTINGS).exists():
            raise InputError(
                f"{self.partial} was removed or changed while it was written: nothing was put in "
                "place; run the command again"
            )
        if keep_others and self.target.is_dir():
            for entry in self.target.iterdir():
                if not (self.partial / entry.name).exists():
                    entry.replace(self.partial / entry.name)
        replace_folder(self.partial, self.target)
        shutil.rmtree(self.recovery, ignore_errors=True)


@contextmanager
def work_folder(
    target: Path,
    kind: FolderKind,
    settings: Mapping[str, Any],
    *,
    overwrite: bool = False,
    processes: Processes = SINGLE_PROCESS,
) -> Iterator[WorkFolder]:
    """Lock a folder and open it for writing, or find that it is finished.

    What is written into ``partial`` and ``recovery`` stays there when the block ends by an error or
    an interruption; a block that succeeds ends with `WorkFolder.put_in_place`.

    Parameters
    ----------
    target : path
        Final name.
    kind : FolderKind
    settings : mapping
        What the content depends on, convertible to JSON; recorded in ``settings.json``.
    overwrite : bool
        Start again, whatever is there.
    processes : Processes
        The main one opens and locks for all.

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
    target = Path(target)
    recorded = msgspec.to_builtins(dict(settings))
    with processes.held(lambda: locked(target, kind.what)):
        yield processes.on_main(lambda: _open(target, kind, recorded, overwrite))


def _open(target: Path, kind: FolderKind, settings: dict[str, Any], overwrite: bool) -> WorkFolder:
    partial = target.with_name(f".{target.name}.partial")
    recovery = target.with_name(f".{target.name}.recovery")
    if _finished(target, kind, settings, overwrite):
        for leftover in (partial, recovery):  # of a run that ended as its folder was put in place
            shutil.rmtree(leftover, ignore_errors=True)
        return WorkFolder(target, partial, recovery, is_finished=True, is_resumed=False)
    other = None if overwrite else _interrupted(partial, kind, settings)
    if other == "":
        for half_written in (*partial.glob(".*"), *recovery.glob(".*")):
            half_written.unlink()
        recovery.mkdir(exist_ok=True)
        return WorkFolder(target, partial, recovery, is_finished=False, is_resumed=True)
    for leftover in (partial, recovery):
        shutil.rmtree(leftover, ignore_errors=True)
    write_json(partial / SETTINGS, settings)
    recovery.mkdir()
    return WorkFolder(target, partial, recovery, False, False, other or "")


def _finished(target: Path, kind: FolderKind, settings: dict[str, Any], overwrite: bool) -> bool:
    """Whether the finished folder is what is asked for.

    Raises
    ------
    InputError
        Where it must not be replaced.
    """
    record = target / SETTINGS
    if not record.exists():
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise InputError(
                f"{target} exists and was not written by this command: choose another "
                f"{kind.instead}, or move it away"
            )
        return False
    if overwrite or kind.remakes:
        return False
    other = differences(read_json(record), settings)
    if other:
        raise InputError(
            f"{target} holds {kind.what} made with other settings ({other}): pass --overwrite to "
            f"replace it, or choose another {kind.instead}"
        )
    return True


def _interrupted(partial: Path, kind: FolderKind, settings: dict[str, Any]) -> str | None:
    """Settings in which an interrupted run differs from this one, in words; None without one.

    Where they are empty, this run continues it.

    Raises
    ------
    InputError
        Where it was of other settings and must not be dropped.
    """
    record = partial / SETTINGS
    if not record.exists():
        return None
    other = differences(read_json(record), settings)
    if other and not kind.remakes:
        raise InputError(
            f"{partial} holds {kind.what} of an interrupted run with other settings ({other}): "
            "repeat its options to continue it, or pass --overwrite to start again"
        )
    return other


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
            told = f"{_short(old)}, now {_short(new)}"
            yield f"{prefix}{key} {told}" if len(told) < 100 else f"{prefix}{key} changed"


def _short(value: Any) -> str:
    return "none" if value is None else str(value)


def replace_folder(source: Path, target: Path) -> None:
    """Give the finished folder ``source`` the name ``target``, in place of what was there."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.replace(old)
    source.replace(target)
    shutil.rmtree(old, ignore_errors=True)
