"""What all recipes of `synbrain prepare` share: the target, one subject at a time, and tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from synbrain_cli.bands import DEFAULT
from synbrain_cli.datasets.table_trials import TrialTable
from synbrain_cli.errors import InputError
from synbrain_cli.evaluation.doubt import FEW, FOLDS_ADVICE, MIN_IMAGES
from synbrain_cli.io.locks import locked
from synbrain_cli.io.prepared import DESCRIPTION, PreparedSubject
from synbrain_cli.io.prepared_writer import PREPARED
from synbrain_cli.io.token_files import TokenFile, TokenRows
from synbrain_cli.io.token_store import BandStore, TokenStore
from synbrain_cli.io.workfolder import tidy_finished
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.labels import dataset_name, subject_label
from synbrain_cli.pipeline.check_alignment import check_all
from synbrain_cli.pipeline.extract_tokens import ReadImages, TokenRequest, extract_tokens
from synbrain_cli.pipeline.own_tokens import keep_own_tokens, require_own_tokens
from synbrain_cli.progress import Progress
from synbrain_cli.run import RunContext

Subject = TypeVar("Subject", int, str)


@dataclass(frozen=True)
class Target:
    """Where prepared subjects go, and how their images are encoded.

    Attributes
    ----------
    workspace : Workspace
    dataset : str
        Name below ``prepared/``: the subjects of one dataset share their images.
    encoders : tuple of str
        Image encoders whose tokens are extracted, with their layers (`synbrain_cli.bands`).
    precision : str
        Of the encoders (`synbrain_cli.features.loading.load_encoder`).
    tokens : tuple of TokenFile
        Tokens that the user computed, each a band beside those of the encoders.
    overwrite : bool
        Prepare again what is there already.
    check : bool
        Stop where the responses do not fit their images (`pipeline.check_alignment`).

    Raises
    ------
    InputError
        When the dataset has a name that no folder in ``prepared/`` can have.
    """

    workspace: Workspace
    dataset: str
    encoders: tuple[str, ...] = DEFAULT
    precision: str = "auto"
    tokens: tuple[TokenFile, ...] = ()
    overwrite: bool = False
    check: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "dataset", dataset_name(self.dataset))

    @property
    def folder(self) -> Path:
        """``prepared/<dataset>``."""
        return self.workspace.prepared / self.dataset


@dataclass(frozen=True)
class PrepareResult:
    """Prepared subjects, and the tokens of their images."""

    subjects: list[PreparedSubject]
    tokens: TokenStore


def prepare_each(
    target: Target,
    subjects: Sequence[Subject],
    wanted: Callable[[Subject], dict[str, Any]],
    prepare: Callable[[Subject, Path], PreparedSubject],
    run: RunContext,
) -> list[PreparedSubject]:
    """Prepare subjects, each unless it is there already with the options wanted.

    Parameters
    ----------
    target : Target
    subjects : sequence of int or str
        Numbers or labels.
    wanted : callable
        Subject → options that one which is there must have been prepared with.
    prepare : callable
        Subject and folder → prepared subject.
    run : RunContext
        Its main process prepares them; all open them.

    Raises
    ------
    InputError
        When one is there with other options.
    """

    def work() -> list[Path]:
        folders = []
        for subject in subjects:
            folder = target.folder / f"sub-{subject_label(subject)}"
            # From the question whether it is there: another process may be about to finish it.
            with locked(folder, PREPARED.what, "prepare"):
                own = partial(prepare, subject)
                _prepare_or_keep(target, folder, wanted(subject), own, run.progress)
            folders.append(folder)
        return folders

    return [PreparedSubject(folder) for folder in run.processes.on_main(work)]


def _prepare_or_keep(
    target: Target,
    folder: Path,
    wanted: dict[str, Any],
    prepare: Callable[[Path], PreparedSubject],
    progress: Progress,
) -> None:
    if (folder / DESCRIPTION).exists() and not target.overwrite:
        options = PreparedSubject(folder).description.options
        other = [f"{k} {options.get(k)!r}" for k, v in wanted.items() if options.get(k) != v]
        if other:
            raise InputError(
                f"{folder} was prepared with other options ({', '.join(other)}): pass "
                "--overwrite to prepare it again, or --dataset for another name"
            )
        tidy_finished(folder, PREPARED)
        progress.info(f"{folder}: already prepared")
        return
    subject = prepare(folder)
    left_out = subject.description.voxels_left_out
    progress.info(
        f"{folder}: {len(subject.trials):,} trials, {subject.n_voxels:,} voxels"
        + (f"; {left_out:,} constant or not finite ones left out" if left_out else "")
    )
    tested = subject.trials.loc[subject.trials["split"] == "test", "image"]
    n_test = tested.map(subject.groups).nunique() if subject.groups else tested.nunique()
    if 0 < n_test < FEW:
        what = "groups of test images" if subject.groups else "test images"
        progress.info(
            f"{n_test} {what}: scores of fewer than {FEW} mean nothing by themselves, and of "
            f"fewer than {MIN_IMAGES} there are none: {FOLDS_ADVICE}, or prepare with more test "
            "images (--test, --split)"
        )


@dataclass(frozen=True)
class Shown:
    """Where pictures and tokens of a dataset's images come from.

    Attributes
    ----------
    read : ReadImages
        Reads pictures by the names of images.
    check_pixels : bool
        As in `TokenRequest`.
    own : tuple of TokenRows
        Tokens that the user computed.
    called : dict
        Image → path or name by which files of tokens know it; others by their own names.
    """

    read: ReadImages
    check_pixels: bool = False
    own: tuple[TokenRows, ...] = ()
    called: dict[str, str] = field(default_factory=dict)


def own_rows(
    target: Target, order: Sequence[str], where: str, run: RunContext
) -> tuple[TokenRows, ...]:
    """Open the files of tokens that the user computed, and read them once, before the responses."""
    rows = tuple(file.of_images(order, where) for file in target.tokens)
    run.processes.on_main(lambda: require_own_tokens(target.tokens, rows))
    return rows


def with_tokens(
    target: Target, subjects: list[PreparedSubject], shown: Shown, run: RunContext
) -> PrepareResult:
    """Add the tokens of all images of prepared subjects, and check that these fit the responses."""
    images = sorted({image for subject in subjects for image in subject.trials["image"]})
    request = TokenRequest(target.encoders, target.precision, shown.check_pixels)
    stores: tuple[BandStore, ...] = ()
    if target.encoders:
        stores = extract_tokens(target.folder, images, shown.read, request, run).stores
    queries = [shown.called.get(image, image) for image in images]
    for one in shown.own:
        stores += (keep_own_tokens(target.folder, images, queries, one, run),)
    store = TokenStore(stores)
    if target.check:
        check_all(subjects, store, run)
    return PrepareResult(subjects, store)


def coupled(preparation: str, other: str, option: str) -> str:
    """Say what ridge regression across trials does to estimates of noise."""
    return (
        f"{preparation}: regularised across trials by ridge regression, so repeats of an image are "
        f"not quite independent, and ncsnr, ceilings and noise differ from those of {other} "
        f"({option}; both side by side: a list)"
    )


def own_images(target: Target, table: TrialTable, run: RunContext) -> Shown:
    """Say where pictures and tokens of the images of an experiment of the user's come from.

    Raises
    ------
    MissingError, InputError
        An encoder without pictures; tokens that do not belong to the images.
    """
    if table.experiment.images is None and target.encoders:
        raise InputError(
            f"{' + '.join(target.encoders)}: expected the images, which encoders see: pass "
            "--images, or tokens of your own (--tokens) and no --encoder"
        )
    if not target.tokens:
        # Subjects of one dataset may come with image folders of their own.
        return Shown(table.read_images, check_pixels=True)
    order, where = table.sorted_images()
    own = own_rows(target, order, where, run)
    called = table.image_paths()
    for one in own:
        one.rows_of(list(called.values()))  # said before the responses are read
    return Shown(table.read_images, True, own, called)


def describe(result: PrepareResult) -> list[dict[str, Any]]:
    """One row per subject: name, trials, sessions, images by split, voxels, median ncsnr."""
    rows = []
    for subject in result.subjects:
        images = subject.trials.drop_duplicates("image")["split"].value_counts()
        rows.append(
            {
                "subject": subject.label,
                "sessions": len(subject.sessions),
                "trials": len(subject.trials),
                **{
                    f"{split} images": int(images.get(split, 0))
                    for split in ("train", "val", "test")
                },
                **({"groups": len(set(subject.groups.values()))} if subject.groups else {}),
                "voxels": subject.n_voxels,
                "median ncsnr": _rounded(subject.voxels["ncsnr"].median()),
            }
        )
    return rows


def _rounded(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else "unknown"
