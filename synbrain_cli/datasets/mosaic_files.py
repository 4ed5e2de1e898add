"""A local copy of MOSAIC: its eight data sets, their files, stimuli's tables, and its bucket.

MOSAIC (Lahner et al. 2025, doi:10.64898/2025.11.28.690060) holds the single-trial betas of eight
published experiments, preprocessed alike, in one HDF5 file a subject. Names of folders, files and
subjects are those of its package (github.com/murtylab/mosaic-dataset, ``mosaic/constants.py``), and
the columns of its tables of stimuli those of its preprocessing code
(github.com/blahner/mosaic-preprocessing, ``extract_dataset_stiminfo``). It holds no stimuli.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from synbrain_cli.datasets.needs import Need, interrupted
from synbrain_cli.datasets.s3 import Bucket
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.reading import AGAIN
from synbrain_cli.io.tables import read_table, row_in, whole_numbers
from synbrain_cli.paths import is_given

BUCKET, REGION = "mosaicfmri", "us-east-1"  # boto3 follows the bucket where it lies elsewhere
BETAS = "fMRIPrepv23_2_0/task_fMRI/betas/GLMsinglev1_2"
TABLES = "stimulus_info"
ARTIFICIAL = ("NSDsynthetic", "Artificial")  # in the column source, of NSD and deeprecon
_NAME = re.compile(r"sub-(\d\d)_.*\.hdf5")


@dataclass(frozen=True)
class MosaicSet:
    """One of MOSAIC's data sets.

    Attributes
    ----------
    short : str
        Its name in the names of files.
    name : str
        Its folder in the bucket.
    n_subjects : int
    n_trials : int
        Of a subject, at most, about.
    stimuli : str
        Where its stimuli come from.
    videos : bool
        Whether these are videos, of which the middle frame is taken.
    """

    short: str
    name: str
    n_subjects: int
    n_trials: int
    stimuli: str
    videos: bool = False

    @property
    def table(self) -> str:
        """File of the table of stimuli, relative to the root or the bucket."""
        short = {"BOLD5000": "b5000"}.get(self.short, self.short.lower())
        return f"{TABLES}/{short}_stiminfo.tsv"

    def require_subjects(self, subjects: Iterable[int]) -> None:
        """Refuse subjects that the data set has not.

        Raises
        ------
        InputError
        """
        for subject in subjects:
            if not 1 <= subject <= self.n_subjects:
                raise InputError(
                    f"--subject {subject}: {self.name} has the subjects 1 to {self.n_subjects}"
                )

    def betas(self, subject: int) -> str:
        """Return the file of a subject's betas, relative to the root or the bucket."""
        return f"{BETAS}/{self.name}/sub-{subject:02d}_{self.short}.hdf5"


_OPENNEURO = "https://openneuro.org/datasets"
SETS = {
    one.short: one
    for one in (
        MosaicSet(
            *("BMD", "BOLDMomentsDataset", 10, 4_020),
            "https://github.com/blahner/BOLDMomentsDataset",
            videos=True,
        ),
        MosaicSet(
            *("BOLD5000", "BOLD5000", 4, 5_254),
            "https://bold5000-dataset.github.io/website/download.html",
        ),
        MosaicSet(
            *("deeprecon", "deeprecon", 3, 8_120),
            "https://github.com/KamitaniLab/DeepImageReconstruction",
        ),
        MosaicSet(
            *("GOD", "GenericObjectDecoding", 5, 2_950),
            "https://github.com/KamitaniLab/GenericObjectDecoding",
        ),
        MosaicSet(*("HAD", "HumanActionsDataset", 30, 720), f"{_OPENNEURO}/ds004488", videos=True),
        MosaicSet("NOD", "NaturalObjectDataset", 30, 5_200, f"{_OPENNEURO}/ds004496"),
        MosaicSet(
            *("NSD", "NaturalScenesDataset", 8, 30_744),
            "nsd_stimuli.hdf5 of NSD's own bucket, or its images saved under COCO's names",
        ),
        MosaicSet("THINGS", "THINGS", 3, 9_840, "https://osf.io/jum2f"),
    )
}


def find_set(name: str) -> MosaicSet:
    """Return a data set by its short or whole name, in any case.

    Raises
    ------
    InputError
        When MOSAIC has none of that name.
    """
    for one in SETS.values():
        if name.lower() in (one.short.lower(), one.name.lower()):
            return one
    names = ", ".join(sorted({*SETS, *(one.name for one in SETS.values())}, key=str.lower))
    raise InputError(f"--set {name}: MOSAIC has the data sets {names}")


@dataclass(frozen=True)
class MosaicCopy:
    """A complete or partial local copy of one of MOSAIC's data sets.

    Files are found where the bucket has them, or, as MOSAIC's package saves them, in the root
    itself.

    Attributes
    ----------
    root : Path
    of : MosaicSet
    """

    root: Path
    of: MosaicSet

    @property
    def subjects(self) -> list[int]:
        """Subjects with betas in this copy."""
        numbers = range(1, self.of.n_subjects + 1)
        return [number for number in numbers if is_given(self.betas(number))]

    def betas(self, subject: int) -> Path:
        """Path of a subject's betas."""
        return self._find(self.of.betas(subject))

    def require_betas(self, subject: int) -> Path:
        """Path of a subject's betas, which are there.

        Raises
        ------
        InputError, MissingError
            When the data set has no such subject, or this copy has not.
        """
        self.of.require_subjects([subject])
        path = self.betas(subject)
        if not is_given(path):
            here = ", ".join(map(str, self.subjects)) or "none"
            raise MissingError(
                f"{path}: no such betas of {self.of.name} there (here are the subjects {here}): "
                "copy them, or fetch them with --download"
            )
        return path

    def _find(self, key: str) -> Path:
        flat = self.root / Path(key).name
        whole = self.root / key
        return flat if is_given(flat) and not is_given(whole) else whole

    @property
    def table_file(self) -> Path:
        """Path of the table of stimuli."""
        return self._find(self.of.table)

    @cached_property
    def stimuli(self) -> pd.DataFrame:
        """The table of stimuli, one row per stimulus.

        Its index is the name of the image: that of the file without its last suffix, as in the
        names of the betas. Columns ``filename``, ``alias``, ``split`` (train or test), and
        ``artificial``.

        Raises
        ------
        MissingError, InputError
            When the table is absent or damaged, or two stimuli have one name.
        """
        path = self.table_file
        table = read_table(path, ("filename", "alias", "source", "test_train"))
        row = row_in(path)
        names = table["filename"].to_numpy(str)
        # Stimuli are looked for in the folder of --images alone.
        other = [i for i, name in enumerate(names) if not name or Path(name).name != name]
        if other:
            raise InputError(
                f"{row(other[0])}: expected the name of a file in the column filename, found "
                f"{names[other[0]]!r}: {AGAIN}"
            )
        unknown = np.flatnonzero(~table["test_train"].isin(("train", "test")))
        if len(unknown):
            raise InputError(
                f"{row(unknown[0])}: expected train or test in the column test_train, found "
                f"{table['test_train'].iloc[unknown[0]]!r}: {AGAIN}"
            )
        images = pd.Series([image_name(name) for name in names])
        twice = np.flatnonzero(images.duplicated())
        if len(twice):
            both = names[(images == images[twice[0]]).to_numpy()]
            raise InputError(
                f"{row(twice[0])}: {both[0]} and {both[1]} would have one name, "
                f"{images[twice[0]]}: {AGAIN}"
            )
        found = table[["filename", "alias"]].assign(
            split=table["test_train"], artificial=table["source"].isin(ARTIFICIAL)
        )
        return found.set_index(pd.Index(images, name="image"))

    def repeats(self, subject: int) -> pd.Series:
        """How often a subject saw each stimulus, by its name, after the table.

        Raises
        ------
        MissingError, InputError
            As `stimuli`; when the table does not know the subject.
        """
        column = f"sub-{subject:02d}_reps"
        table = read_table(self.table_file, (column,))
        counts = whole_numbers(table[column], row_in(self.table_file), lowest=0)
        return pd.Series(counts, self.stimuli.index)


def image_name(file: str) -> str:
    """Return the name of an image: that of its file without the last suffix, as in MOSAIC's keys.

    >>> image_name("000000262145.jpg"), image_name("yt-3.5_0.mp4")
    ('000000262145', 'yt-3.5_0')
    """
    return Path(file).stem


# ----------------------------------------------------------------------------------- bucket


def files_needed(bucket: Bucket, of: MosaicSet, subjects: Iterable[int]) -> list[Need]:
    """List the files of the bucket that are needed: the table of stimuli, and betas.

    Parameters
    ----------
    bucket : Bucket
    of : MosaicSet
    subjects : iterable of int

    Raises
    ------
    MissingError
        When a file is not in the bucket. The message names what is.
    """
    table = bucket.list(of.table)
    if of.table not in table:
        raise MissingError(
            f"s3://{bucket.name}/{of.table}: not in the bucket, so that it may have moved: use a "
            "local copy with --root, and open an issue of synbrain"
        )
    needs = [Need("table of stimuli", table[of.table])]
    there = bucket.list(f"{BETAS}/{of.name}/")
    for subject in subjects:
        key = of.betas(subject)
        if key not in there:
            found = sorted({int(m[1]) for k in there if (m := _NAME.fullmatch(Path(k).name))})
            raise MissingError(
                f"s3://{bucket.name}/{key}: not there; of {of.name} the bucket has the subjects "
                f"{', '.join(map(str, found)) or 'none'}"
            )
        needs.append(Need(f"sub-{subject:02d}: betas", there[key]))
    return needs


def lacks(root: Path, of: MosaicSet, subjects: list[int] | None) -> str | None:
    """Describe what a local copy lacks; None where nothing must be fetched.

    Without a choice of subjects, those that are there are taken, unless a download of them was
    interrupted.
    """
    numbers = subjects or range(1, of.n_subjects + 1)
    said = interrupted(root, map(of.betas, numbers))
    if said is not None:
        return said
    copy = MosaicCopy(root, of)
    if not is_given(copy.table_file):
        return f"{copy.table_file} is not there"
    absent = [number for number in subjects or () if not is_given(copy.betas(number))]
    if absent:
        return f"{copy.betas(absent[0])} is not there"
    if not copy.subjects:
        return f"{root}: no betas of {of.name} there"
    return None
