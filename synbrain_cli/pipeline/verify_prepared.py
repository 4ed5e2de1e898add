"""`synbrain prepare --verify`: whether prepared subjects and image tokens are what was written."""

from __future__ import annotations

from pathlib import Path

from synbrain_cli.errors import MissingError
from synbrain_cli.io.prepared import find_prepared
from synbrain_cli.io.token_store import find_stores
from synbrain_cli.io.workspace import Workspace, subject_label
from synbrain_cli.progress import Progress


def verify_prepared(
    workspace: Workspace, subject: str | None, dataset: str | None, progress: Progress
) -> dict[str, list[str]]:
    """Compare every file of prepared subjects, and every row of tokens, with its checksum.

    Parameters
    ----------
    workspace : Workspace
    subject, dataset : str, optional
        Which; default all. The tokens of their datasets are compared, too.
    progress : Progress

    Returns
    -------
    dict
        Faults by folder below ``prepared/``; empty lists where there are none.

    Raises
    ------
    MissingError
        There is no such subject.
    """
    label = subject_label(subject) if subject is not None else None
    every = find_prepared(workspace.prepared)
    chosen = [one for one in every if dataset in (None, one.dataset)]
    chosen = [one for one in chosen if label in (None, one.subject)]
    if not chosen:
        listing = ", ".join(one.label for one in every) or "nothing"
        raise MissingError(
            f"{workspace.prepared}: no such prepared subject to verify; prepared: {listing}"
        )
    datasets = sorted({one.folder.parent for one in chosen})
    stores = [store for folder in datasets for store in find_stores(folder)]
    found: dict[str, list[str]] = {}
    every = [*chosen, *stores]
    n_bytes = [_bytes(one.folder) for one in every]
    with progress.stage("comparing checksums") as share:
        for one, _ in share.each(every, n_bytes):
            name = str(one.folder.relative_to(workspace.prepared))
            found[name] = one.find_faults()
            progress.info(f"{name}: {f'{len(found[name])} at fault' if found[name] else 'whole'}")
    return found


def _bytes(folder: Path) -> int:
    """Size of a folder's files, which is what it takes to read them."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
