"""Several versions of a subject's betas, prepared side by side."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from synbrain_cli.errors import InputError
from synbrain_cli.io.token_store import ENCODER, find_stores
from synbrain_cli.pipeline.preparing import PrepareResult, Target
from synbrain_cli.plotting.sources.preparations import noise_table, preparation_of
from synbrain_cli.run import RunContext


@dataclass(frozen=True)
class VersionsResult:
    """Subjects prepared from one or several versions of their betas.

    Attributes
    ----------
    results : list of PrepareResult
        One per version.
    """

    results: list[PrepareResult]

    def noise_tables(self) -> dict[str, tuple[list[str], pd.DataFrame]]:
        """Compare what several versions say of noise, subject by subject.

        Returns
        -------
        dict
            Label of the subject → names of the versions, and their table
            (`synbrain_cli.plotting.sources.preparations.noise_table`). Empty of one version.
        """
        if len(self.results) < 2:
            return {}
        found = {}
        for versions in zip(*(result.subjects for result in self.results), strict=True):
            names = [preparation_of(one) or one.dataset for one in versions]
            found[f"sub-{versions[0].subject}"] = names, noise_table(versions)
        return found


def prepare_versions(
    target: Target,
    versions: Sequence[str],
    prepare: Callable[[Target, str], PrepareResult],
    run: RunContext,
) -> VersionsResult:
    """Prepare one dataset, or one for each of several versions of the betas.

    Of several, datasets are called after the version: ``nsd_b2``, ``nsd_b3``. Their images are the
    same: tokens are extracted once, and the files shared.

    Parameters
    ----------
    target : Target
    versions : sequence of str
        Short names.
    prepare : callable
        Target and version → result.
    run : RunContext

    Raises
    ------
    InputError
        When a version is named twice.
    """
    if len(set(versions)) < len(versions):
        raise InputError(
            f"--preparation {','.join(versions)}: a version is named twice: name each once"
        )
    if len(versions) == 1:
        return VersionsResult([prepare(target, versions[0])])
    results: list[PrepareResult] = []
    for version in versions:
        own = replace(target, dataset=f"{target.dataset}_{version}")
        if results:
            first = results[0].subjects[0].folder.parent
            run.processes.on_main(lambda own=own, first=first: _share_tokens(first, own.folder))
        results.append(prepare(own, version))
    return VersionsResult(results)


def _share_tokens(source: Path, target: Path) -> None:
    """Give a dataset the finished tokens of another one, as links to the same files.

    Files of tokens are replaced and never changed, so that neither dataset changes the other's.
    """
    for store in find_stores(source):
        place = target / "features" / store.folder.name
        if (place / ENCODER).exists():
            continue
        partial = place.parent / f".{place.name}.shared"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(store.folder, partial, copy_function=_link)
        partial.rename(place)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # on another disk, or one without links
        shutil.copy2(source, target)
