"""`synbrain weights fetch`: files of a repository on the Hugging Face hub, pinned and checked.

``checkpoints/<owner>/<repository>/`` holds the files under their names in the repository, and
``fetched.json``: their commit, and the SHA-256 of each. A recorded file is not downloaded again; a
recorded file that was changed is an error.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.fetched import RECORD, FetchedFile, FetchRecord, is_here, open_record
from synbrain_cli.io.files import sha256
from synbrain_cli.io.locks import locked
from synbrain_cli.io.records import write_record
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.paths import require_output
from synbrain_cli.progress import Progress
from synbrain_cli.run import RunContext


@dataclass(frozen=True)
class FetchResult:
    """Paths of the files, their commit, and the names of those that had to be downloaded."""

    files: list[Path]
    commit: str
    downloaded: list[str]


def fetch(
    workspace: Workspace,
    repository: str,
    files: Sequence[str],
    *,
    revision: str | None = None,
    output: Path | None = None,
    endpoint: str | None = None,
    run: RunContext | None = None,
) -> FetchResult:
    """Download files of a repository, or check those that were downloaded before.

    Parameters
    ----------
    workspace : Workspace
    repository : str
        ``OWNER/REPO``.
    files : sequence of str
        Names in the repository.
    revision : str, optional
        Branch, tag or commit. Default the commit that the folder holds already, else ``main``.
    output : path, optional
        Folder; default ``checkpoints/OWNER/REPO``.
    endpoint : str, optional
        Address of the hub; default huggingface_hub's own.
    run : RunContext, optional

    Raises
    ------
    InputError
        An invalid name; a file that was changed since; a folder of another revision; a download
        with another checksum than the hub states.
    MissingError
        No such repository, revision or file, or no connection.
    """
    run = run or RunContext()
    _check_names(repository, files)
    folder = require_output(output or workspace.root / "checkpoints" / repository)
    with locked(folder, "fetched files"):
        record = open_record(folder, repository, revision)
        here = [name for name in files if is_here(folder, name, record)]
        wanted = [name for name in dict.fromkeys(files) if name not in here]
        if wanted:
            record = _download(folder, record, wanted, Hub(endpoint, revision), run.progress)
        run.progress.info(
            f"{folder}: {len(files)} files of commit {record.commit}, checksums agree"
        )
    assert record.commit is not None
    return FetchResult([folder / name for name in files], record.commit, wanted)


def _check_names(repository: str, files: Sequence[str]) -> None:
    """Refuse an invalid name of a repository or of a file in one.

    Raises
    ------
    InputError
    """
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repository):
        raise InputError(f"{repository}: expected a repository as OWNER/REPO")
    if not files:
        raise InputError(f"{repository}: name the files to fetch")
    for name in files:
        if PurePosixPath(name).is_absolute() or {"", ".", ".."} & set(name.split("/")):
            raise InputError(f"{name!r}: expected the name of a file in {repository}")
        if name == RECORD:
            raise InputError(f"{name}: the record of what is fetched has this name: rename one")


@dataclass(frozen=True)
class Hub:
    """Where files are fetched from.

    Attributes
    ----------
    endpoint : str, optional
        Address of the hub; default huggingface_hub's own.
    revision : str, optional
        Branch, tag or commit.
    """

    endpoint: str | None
    revision: str | None


def _download(
    folder: Path, record: FetchRecord, wanted: list[str], hub: Hub, progress: Progress
) -> FetchRecord:
    """Download files that are not here, and record each as soon as it is verified.

    Raises
    ------
    InputError, MissingError
        As `fetch`.
    """
    from huggingface_hub import HfApi

    asked = record.commit or hub.revision or "main"
    api = HfApi(endpoint=hub.endpoint)
    partial = folder / ".fetching"
    try:
        with _hub_errors(f"{record.repository}@{asked}"):
            info = api.model_info(record.repository, revision=asked, files_metadata=True)
        listed = _listed_files(info, record, asked, wanted)
        record = msgspec.structs.replace(record, revision=record.revision or asked, commit=info.sha)
        for name in wanted:
            progress.info(f"fetching {record.repository}@{info.sha[:12]} {name}")
            with _hub_errors(f"{record.repository}@{asked} {name}"):
                # By the commit: a branch may move on meanwhile.
                came = api.hf_hub_download(
                    record.repository, name, revision=info.sha, local_dir=partial
                )
            found = _verified(Path(came), name, record, listed[name])
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Path(came).replace(folder / name)
            record = msgspec.structs.replace(record, files={**record.files, name: found})
            write_record(folder / RECORD, record)
    finally:
        if partial.exists() and not any(partial.rglob("*.incomplete")):
            shutil.rmtree(partial, ignore_errors=True)
        if folder.exists() and not any(folder.iterdir()):
            folder.rmdir()
    return record


def _listed_files(info: Any, record: FetchRecord, asked: str, wanted: list[str]) -> dict[str, Any]:
    """Files that the hub lists at the commit, by name; all that are wanted are among them.

    Raises
    ------
    InputError, MissingError
        Another commit than the one recorded; a file that is not there.
    """
    if record.commit not in (None, info.sha) or not info.sha:
        raise InputError(f"{record.repository}: expected commit {asked}, the hub gives {info.sha}")
    listed = {sibling.rfilename: sibling for sibling in info.siblings or []}
    for name in wanted:
        if name not in listed:
            raise MissingError(
                f"{record.repository}@{asked}: no file {name}; there are "
                f"{', '.join(sorted(listed))}"
            )
    return listed


def _verified(path: Path, name: str, record: FetchRecord, listed: Any) -> FetchedFile:
    """Return the record of a downloaded file, compared with that of the folder or the hub.

    Raises
    ------
    InputError
    """
    found = FetchedFile(sha256(path), path.stat().st_size)
    expected = FetchedFile(listed.lfs.sha256, listed.lfs.size) if listed.lfs else None
    known = record.files.get(name, expected)
    if known is not None and known != found:
        raise InputError(
            f"{record.repository}@{record.commit} {name}: expected SHA-256 {known.sha256} and "
            f"{known.bytes:,} bytes, found {found.sha256} and {found.bytes:,}: damaged on the way "
            "or not the same file; run the same command again"
        )
    return found


@contextmanager
def _hub_errors(what: str) -> Iterator[None]:
    """Turn the errors of the hub's library into ours, which name ``what`` was asked for.

    Raises
    ------
    InputError, MissingError
    """
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # Its HTTP library differs from version to version.
    unreachable = (OSError, HfHubHTTPError.__bases__[0])
    try:
        yield
    except HFValidationError as error:
        raise InputError(f"{what}: {error}") from error
    except LocalEntryNotFoundError as error:  # raised where there is no connection
        raise _unreached(what, error) from error
    except (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError) as error:
        raise MissingError(
            f"{what}: not found on the hub, or not open to you: check the names; of a gated "
            "repository accept its terms and log in with `hf auth login`"
        ) from error
    except unreachable as error:
        raise _unreached(what, error) from error


def _unreached(what: str, error: Exception) -> MissingError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return MissingError(
        f"{what}: could not be fetched ({reason}): run the same command again where there is a "
        "network; what was fetched is kept"
    )
