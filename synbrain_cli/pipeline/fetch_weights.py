"""`synbrain weights fetch`: files of a repository on the Hugging Face hub, pinned and checked.

``checkpoints/<owner>/<repository>/`` holds the files under their names in the repository, and
``fetched.json``: the commit they are of, and the SHA-256 of each. What is recorded there is never
asked for again, and must stay as it is.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from synbrain_cli.errors import InputError, MissingError, SynbrainError
from synbrain_cli.io.files import locked, read_json, sha256, write_json
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.progress import Progress

RECORD = "fetched.json"


@dataclass(frozen=True)
class FetchResult:
    """Where the files are, the commit they are of, and which had to be downloaded."""

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
    progress: Progress | None = None,
) -> FetchResult:
    """Bring files of a repository here, or check those that are here.

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
    progress : Progress, optional

    Raises
    ------
    InputError
        A name is none; a file was changed since; the folder holds another revision; what came is
        not what the hub says it is.
    MissingError
        No such repository, revision or file, or no connection.
    """
    progress = progress or Progress()
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository) or ".." in repository:
        raise InputError(f"{repository}: expected a repository as OWNER/REPO")
    if not files:
        raise InputError(f"{repository}: name the files to fetch")
    for name in files:
        if PurePosixPath(name).is_absolute() or {"", ".", ".."} & set(name.split("/")):
            raise InputError(f"{name!r}: expected the name of a file in {repository}")
        if name == RECORD:
            raise InputError(f"{name}: the record of what is fetched has this name: rename one")
    folder = Path(output) if output else workspace.root / "checkpoints" / repository
    with locked(folder, "fetched files"):
        record = _open_record(folder, repository, revision)
        here = [name for name in files if _is_here(folder, name, record)]
        wanted = [name for name in dict.fromkeys(files) if name not in here]
        if wanted:
            _download(folder, record, wanted, revision, endpoint, progress)
        progress.info(f"{folder}: {len(files)} files of commit {record['commit']}, checksums agree")
    return FetchResult([folder / name for name in files], record["commit"], wanted)


def origin_of(path: Path, checksum: str) -> str | None:
    """``OWNER/REPO@commit`` of a file that was fetched and is unchanged; else None."""
    path = path.resolve()
    for folder in path.parents[:4]:
        if (folder / RECORD).is_file():
            record = read_json(folder / RECORD)
            known = record.get("files", {}).get(path.relative_to(folder).as_posix())
            if known and known["sha256"] == checksum:
                return f"{record['repository']}@{record['commit']}"
    return None


def _open_record(folder: Path, repository: str, revision: str | None) -> dict[str, Any]:
    """What was fetched to the folder, or an empty record."""
    path = folder / RECORD
    if not path.exists():
        if folder.exists() and any(not p.name.startswith(".") for p in folder.iterdir()):
            raise InputError(f"{folder}: holds files that were not fetched: name another --output")
        return {"repository": repository, "revision": None, "commit": None, "files": {}}
    record = read_json(path)
    if not {"repository", "revision", "commit", "files"} <= set(record):
        raise InputError(f"{path}: expected the record of a fetch, found something else: remove it")
    if record["repository"] != repository:
        raise InputError(f"{folder}: holds files of {record['repository']}: name another --output")
    if revision not in (None, record["revision"], record["commit"]):
        raise InputError(
            f"{folder}: holds revision {record['revision']} (commit {record['commit']}), not "
            f"{revision}: name another --output, or leave --revision out"
        )
    return record


def _is_here(folder: Path, name: str, record: dict[str, Any]) -> bool:
    """Whether the file was fetched and is what it was; changed, it is refused."""
    known, path = record["files"].get(name), folder / name
    if not path.exists():
        return False
    if known is None or (found := sha256(path)) != known["sha256"]:
        expected = f"SHA-256 {known['sha256']}" if known else "no such file yet"
        raise InputError(
            f"{path}: expected {expected} ({RECORD}), found "
            f"{found if known else 'one that was not fetched'}: changed since; remove it and run "
            "the same command again"
        )
    return True


def _download(
    folder: Path,
    record: dict[str, Any],
    wanted: list[str],
    revision: str | None,
    endpoint: str | None,
    progress: Progress,
) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # Its HTTP library is another from version to version.
    unreachable = (OSError, HfHubHTTPError.__bases__[0])
    repository = record["repository"]
    asked = record["commit"] or revision or "main"
    api = HfApi(endpoint=endpoint)
    partial = folder / ".fetching"
    name = ""
    try:
        info = api.model_info(repository, revision=asked, files_metadata=True)
        if record["commit"] not in (None, info.sha) or not info.sha:
            raise InputError(f"{repository}: expected commit {asked}, the hub gives {info.sha}")
        hub = {sibling.rfilename: sibling for sibling in info.siblings or []}
        record |= {"revision": record["revision"] or asked, "commit": info.sha}
        for name in wanted:
            if name not in hub:
                raise MissingError(
                    f"{repository}@{asked}: no file {name}; there are {', '.join(sorted(hub))}"
                )
        for name in wanted:
            progress.info(f"fetching {repository}@{info.sha[:12]} {name}")
            # By the commit, not the branch: one that moves on meanwhile changes nothing.
            came = Path(api.hf_hub_download(repository, name, revision=info.sha, local_dir=partial))
            checksum, size = sha256(came), came.stat().st_size
            lfs = hub[name].lfs
            expected = {"sha256": lfs.sha256, "bytes": lfs.size} if lfs else None
            known = record["files"].get(name, expected)
            if known and known != {"sha256": checksum, "bytes": size}:
                raise InputError(
                    f"{repository}@{info.sha} {name}: expected SHA-256 {known['sha256']} and "
                    f"{known['bytes']:,} bytes, found {checksum} and {size:,}: damaged on the way "
                    "or not the same file; run the same command again"
                )
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            came.replace(folder / name)
            record["files"][name] = {"sha256": checksum, "bytes": size}
            write_json(folder / RECORD, record)
    except SynbrainError:
        raise
    except HFValidationError as error:
        raise InputError(f"{repository}: {error}") from error
    except LocalEntryNotFoundError as error:  # how it says that there is no connection
        raise _unreached(f"{repository}@{asked} {name}", error) from error
    except (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError) as error:
        raise MissingError(
            f"{repository}@{asked} {name}: not found on the hub, or not open to you: check the "
            "names; of a gated repository accept its terms and log in with `hf auth login`"
        ) from error
    except unreachable as error:
        raise _unreached(f"{repository}@{asked} {name}", error) from error
    finally:
        if partial.exists() and not any(partial.rglob("*.incomplete")):
            shutil.rmtree(partial, ignore_errors=True)
        if folder.exists() and not any(folder.iterdir()):
            folder.rmdir()


def _unreached(what: str, error: Exception) -> MissingError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return MissingError(
        f"{what}: could not be fetched ({reason}): run the same command again where there is a "
        "network; what was fetched is kept"
    )
