"""Record of files fetched from the Hugging Face hub, ``fetched.json`` beside them."""

from __future__ import annotations

from pathlib import Path

import msgspec

from synbrain_cli.errors import InputError
from synbrain_cli.io.files import sha256
from synbrain_cli.io.records import read_record

RECORD = "fetched.json"


class FetchedFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a file was when it came."""

    sha256: str
    bytes: int


class FetchRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Files of one repository at one commit.

    Attributes
    ----------
    repository : str
        ``OWNER/REPO``.
    revision : str, optional
        Branch, tag or commit that was asked for.
    commit : str, optional
        None before anything came.
    files : dict
        Name in the repository → what the file was.
    """

    repository: str
    revision: str | None = None
    commit: str | None = None
    files: dict[str, FetchedFile] = {}


def open_record(folder: Path, repository: str, revision: str | None) -> FetchRecord:
    """Read the record of a folder, or begin one.

    Raises
    ------
    InputError
        When the folder holds other files, another repository or another revision.
    """
    path = folder / RECORD
    if not path.exists():
        if folder.exists() and any(not p.name.startswith(".") for p in folder.iterdir()):
            raise InputError(f"{folder}: holds files that were not fetched: name another --output")
        return FetchRecord(repository)
    record = read_record(path, FetchRecord, "remove it, and fetch the files again")
    if record.repository != repository:
        raise InputError(f"{folder}: holds files of {record.repository}: name another --output")
    if revision not in (None, record.revision, record.commit):
        raise InputError(
            f"{folder}: holds revision {record.revision} (commit {record.commit}), not "
            f"{revision}: name another --output, or leave --revision out"
        )
    return record


def is_here(folder: Path, name: str, record: FetchRecord) -> bool:
    """Whether a file was fetched and is what it was.

    Raises
    ------
    InputError
        When it has changed since.
    """
    known, path = record.files.get(name), folder / name
    if not path.exists():
        return False
    if known is None:
        raise InputError(
            f"{path}: expected no such file yet ({RECORD}), found one that was not fetched: "
            "remove it and run the same command again"
        )
    found = sha256(path)
    if found != known.sha256:
        raise InputError(
            f"{path}: expected SHA-256 {known.sha256} ({RECORD}), found {found}: changed since; "
            "remove it and run the same command again"
        )
    return True


def origin_of(path: Path, checksum: str) -> str | None:
    """``OWNER/REPO@commit`` of a file that was fetched and is unchanged; else None."""
    path = path.resolve()
    for folder in path.parents[:4]:
        if (folder / RECORD).is_file():
            record = read_record(folder / RECORD, FetchRecord)
            known = record.files.get(path.relative_to(folder).as_posix())
            if known and known.sha256 == checksum:
                return f"{record.repository}@{record.commit}"
    return None
