"""Record of files that were fetched from the Hugging Face hub: ``fetched.json`` beside them."""

from __future__ import annotations

from pathlib import Path

import msgspec

from synbrain_cli.errors import InputError
from synbrain_cli.io.files import sha256
from synbrain_cli.io.records import read_record

RECORD = "fetched.json"


class FetchedFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Checksum and size of a file when it was fetched.

    Attributes
    ----------
    sha256 : str
    bytes : int
    """

    sha256: str
    bytes: int


class FetchRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Record of the files that were fetched from one repository at one commit.

    Attributes
    ----------
    repository : str
        ``OWNER/REPO``.
    revision : str, optional
        Branch, tag or commit that the user requested.
    commit : str, optional
        Commit of the files; None before the first file was fetched.
    files : dict
        Name in the repository → `FetchedFile`.
    """

    repository: str
    revision: str | None = None
    commit: str | None = None
    files: dict[str, FetchedFile] = {}

    def __post_init__(self) -> None:
        if self.files and not self.commit:
            raise InputError("expected the commit of the files, found none")


def open_record(folder: Path, repository: str, revision: str | None) -> FetchRecord:
    """Read the record of a folder, or begin a new one.

    Parameters
    ----------
    folder : Path
    repository : str
        ``OWNER/REPO``.
    revision : str, optional
        Branch, tag or commit.

    Returns
    -------
    FetchRecord

    Raises
    ------
    InputError
        When the folder holds other files, or files of another repository or revision.
    """
    path = folder / RECORD
    if not path.exists():
        if folder.exists() and any(not p.name.startswith(".") for p in folder.iterdir()):
            raise InputError(
                f"{folder}: expected an empty folder, found files that were not fetched: name "
                "another --output"
            )
        return FetchRecord(repository)
    record = read_record(path, FetchRecord, "remove it, and fetch the files again")
    if record.repository != repository:
        raise InputError(
            f"{folder}: expected files of {repository}, found files of {record.repository}: name "
            "another --output"
        )
    if revision not in (None, record.revision, record.commit):
        raise InputError(
            f"{folder}: expected revision {revision}, found {record.revision} (commit "
            f"{record.commit}): name another --output, or leave --revision out"
        )
    return record


def is_here(folder: Path, name: str, record: FetchRecord) -> bool:
    """Return whether a file was fetched and is unchanged.

    Raises
    ------
    InputError
        When the file was changed, or was not fetched.
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
            f"{path}: expected SHA-256 {known.sha256} ({RECORD}), found {found}, so the file was "
            "changed: remove it and run the same command again"
        )
    return True


def origin_of(path: Path, checksum: str) -> str | None:
    """Return ``OWNER/REPO@commit`` for a file that was fetched and is unchanged; else None.

    Parameters
    ----------
    path : Path
    checksum : str
        SHA-256 of the file.
    """
    path = path.resolve()
    for folder in path.parents[:4]:
        if (folder / RECORD).is_file():
            record = read_record(folder / RECORD, FetchRecord)
            known = record.files.get(path.relative_to(folder).as_posix())
            if known and known.sha256 == checksum:
                return f"{record.repository}@{record.commit}"
    return None
