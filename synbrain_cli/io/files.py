"""Writing that never leaves half a file under a final name, locks, and checksums."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from synbrain_cli.errors import BusyError, InputError, MissingError, SynbrainError

_CHUNK = 1 << 20


@contextlib.contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its name when the block succeeds.

    The temporary name keeps every suffix of ``path`` (writers choose their format by it). On any
    failure, the temporary file is removed and ``path`` is as it was.

    Raises
    ------
    SynbrainError
        When the folder cannot be written (no permission, disk full).
    """
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        if isinstance(error, SynbrainError):
            raise
        raise SynbrainError(
            f"cannot write {path}: {error.strerror or error}; what was there before is unchanged: "
            "free some space or choose a folder you may write to, then run the command again"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(path: Path | str, content: Any) -> None:
    """Write ``content`` as indented UTF-8 JSON, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")


def read_json(path: Path | str) -> Any:
    """Read JSON.

    Raises
    ------
    MissingError, InputError
        When the file is absent, or is not JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise MissingError(f"{path} does not exist") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: expected JSON, found something else ({error}): make it again"
        ) from error


def sha256(path: Path | str) -> str:
    """Checksum of a file's content, read in pieces."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


@contextlib.contextmanager
def locked(folder: Path | str, what: str) -> Iterator[None]:
    """Hold ``folder`` for one writing process; the lock goes with the process, however it ends.

    Raises
    ------
    BusyError
        When another process holds it.
    """
    folder = Path(folder)
    path = folder.with_name(f".{folder.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise SynbrainError(f"cannot write in {path.parent}: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BusyError(
                f"{folder}: another synbrain process is writing {what} there: "
                "wait for it to end, or choose another folder"
            ) from error
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def replace_folder(source: Path, target: Path) -> None:
    """Give the finished folder ``source`` the name ``target``, in place of what was there."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.replace(old)
    source.replace(target)
    shutil.rmtree(old, ignore_errors=True)


def versions() -> dict[str, str]:
    """Versions of synbrain and of what its numbers depend on, for records and sidecars."""
    names = ("synbrain", "torch", "numpy", "nibabel", "nilearn", "open_clip_torch", "himalaya")
    return {name: metadata.version(name) for name in names}
