"""A local copy of LAION-fMRI: its files, trials, splits, and what its public bucket has of them.

The layout, in BIDS, is that of LAION-fMRI's documentation and of its package ``laion_fmri``: betas
of single trials (GLMsingle's last version) and a table of trials in each session, a mask and ROIs
of each subject. The images are under a licence of their own, and are no part of the public copy:
they are read from a folder of the user.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from synbrain_cli.datasets.needs import Need, interrupted
from synbrain_cli.datasets.s3 import Bucket, RemoteFile
from synbrain_cli.datasets.splits import read_split_list
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.features.images import SUFFIXES, read_image
from synbrain_cli.io.files import read_json
from synbrain_cli.io.reading import AGAIN, reading
from synbrain_cli.io.tables import read_table, row_in, whole_numbers
from synbrain_cli.paths import is_given

BUCKET, REGION = "laion-fmri", "us-west-2"
SUBJECTS = (1, 3, 5, 6, 7)
HELD_OUT = (31, 32, 33, 34)  # sessions that are listed in the bucket and cannot be read
AGREEMENT = "https://laion-fmri.hebartlab.com/terms"
SPLIT_RULES = ("shared", "ood")
_GLM = "derivatives/glmsingle-tedana"
_SHARED, _OOD = re.compile(r"shared_"), re.compile(r"shared_4rep_OOD_([A-Za-z0-9-]+)_")
_SESSION = re.compile(r"ses-(\d+)")


def subject_prefix(subject: int) -> str:
    """Return the folder of a subject's betas, relative to the root or the bucket."""
    return f"{_GLM}/sub-{subject:02d}"


def rois_prefix(subject: int) -> str:
    """Return the folder of a subject's ROIs, relative to the root or the bucket."""
    return f"derivatives/atlases/sub-{subject:02d}/rois"


def mask_key(subject: int) -> str:
    """Return the subject's mask: voxels of which the model explains more than 15 % on average."""
    name = f"sub-{subject:02d}_task-images_space-T1w_desc-meanR2gt15mask_mask.nii.gz"
    return f"{subject_prefix(subject)}/{name}"


def session_key(subject: int, session: int, end: str) -> str:
    """Return a file of a session, relative to the root or the bucket."""
    sub, ses = f"sub-{subject:02d}", f"ses-{session:02d}"
    return f"{subject_prefix(subject)}/{ses}/func/{sub}_{ses}_task-images_{end}"


def betas_key(subject: int, session: int) -> str:
    """Return the betas of a session: 4-D, a volume per trial."""
    end = "space-T1w_stat-effect_desc-SingletrialBetas_statmap.nii.gz"
    return session_key(subject, session, end)


def trials_key(subject: int, session: int) -> str:
    """Return the table that says which image each trial of a session showed."""
    return session_key(subject, session, "desc-SingletrialBetas_trials.tsv")


@dataclass(frozen=True)
class LaionCopy:
    """A complete or partial local copy of LAION-fMRI.

    Attributes
    ----------
    root : Path
        Folder that holds ``derivatives/``.
    images : Path
        Folder of the image files, named as in the tables of trials.
    """

    root: Path
    images: Path

    @property
    def subjects(self) -> list[int]:
        """Subjects with betas in this copy."""
        folders = (self.root / _GLM).glob("sub-[0-9][0-9]")
        return sorted(
            int(folder.name[4:]) for folder in folders if self.sessions(int(folder.name[4:]))
        )

    def sessions(self, subject: int) -> list[int]:
        """Sessions with betas of a subject in this copy."""
        found = []
        for folder in (self.root / subject_prefix(subject)).glob("ses-*"):
            match = _SESSION.fullmatch(folder.name)
            if match and is_given(self.root / betas_key(subject, int(match[1]))):
                found.append(int(match[1]))
        return sorted(found)

    def roi_files(self, subject: int) -> dict[str, Path]:
        """Name → mask of each ROI of a subject."""
        paths = sorted((self.root / rois_prefix(subject)).glob("*.nii.gz"))
        return {path.name.removesuffix(".nii.gz"): path for path in paths}

    def labels(self, subject: int, session: int) -> np.ndarray:
        """Read the image of each trial of a session, in the order of the betas.

        Returns
        -------
        array of str of shape (n_trials,)
            Names of image files.

        Raises
        ------
        MissingError, InputError
            When the table is absent or damaged, or its ``beta_index`` does not number the betas.
        """
        path = self.root / trials_key(subject, session)
        table = read_table(path, ("beta_index", "label"), again=AGAIN)
        index = whole_numbers(table["beta_index"], row_in(path), lowest=0)
        if not np.array_equal(np.sort(index), np.arange(len(table))):
            raise InputError(
                f"{path}: expected each of 0 to {len(table) - 1} once in the column beta_index, "
                f"found others: {AGAIN}"
            )
        labels = table["label"].to_numpy(str)
        # Images are looked for in the folder of --images alone.
        other = [i for i, label in enumerate(labels) if not label or Path(label).name != label]
        if other:
            raise InputError(
                f"{row_in(path)(other[0])}: expected the name of an image in the column label, "
                f"found {labels[other[0]]!r}: {AGAIN}"
            )
        ordered = np.empty_like(labels)
        ordered[index] = labels
        return ordered

    def image_file(self, label: str) -> Path:
        """Path of an image."""
        return self.images / label

    def image_names(self) -> list[str]:
        """Return the names of all images in the folder, sorted."""
        files = (path for path in self.images.glob("[!.]*") if path.suffix.lower() in SUFFIXES)
        return sorted({image_name(path.name) for path in files})

    def require_images(self, labels: Iterable[str]) -> dict[str, str]:
        """Find the files of images: image name → file name.

        Raises
        ------
        MissingError, InputError
            When the folder or an image is not there; when two images have one name.
        """
        names: dict[str, str] = {}
        for label in sorted(set(labels)):
            name = image_name(label)
            if name in names:
                raise InputError(
                    f"{self.images}: {names[name]} and {label} would have one name, {name}: are "
                    "these LAION-fMRI's images?"
                )
            names[name] = label
        absent = [label for label in names.values() if not is_given(self.image_file(label))]
        if absent:
            raise MissingError(
                f"{self.images}: no {absent[0]} there"
                + (f", nor {len(absent) - 1:,} others of {len(names):,}" if absent[1:] else "")
                + f": --images must be the folder of LAION-fMRI's stimuli ({AGREEMENT}), under "
                "the names that its tables of trials have"
            )
        return names

    def read_images(self, files: dict[str, str], names: list[str]) -> Iterator[np.ndarray]:
        """Yield the pixels of images: uint8 (height, width, 3)."""
        for name in names:
            yield read_image(self.image_file(files[name]))


def image_name(label: str) -> str:
    """Return the name of an image in the table of trials: that of its file, without the suffix."""
    return Path(label).stem


# ----------------------------------------------------------------------------------- splits


def assign_splits(labels: np.ndarray, split: str) -> tuple[np.ndarray, set[str]]:
    """Assign images to training and test.

    Parameters
    ----------
    labels : array of str of shape (n_trials,)
        Image file of each trial.
    split : str
        "shared": images that all subjects saw are for tests, those of one subject for training, and
        those out of distribution are left out. "ood": those out of distribution are for tests, all
        others for training. Otherwise a file: a split of LAION-fMRI's package (JSON, such as
        ``sub-01/tau.json``), of which images in neither list are left out, or a table of image and
        split.

    Returns
    -------
    split : array of str of shape (n_trials,)
        "train", "val", "test", or "" of trials that are left out.
    validation : set of str
        Names of validation images that a table gives.

    Raises
    ------
    MissingError, InputError
        When a file is absent or damaged, or of other images.
    """
    is_ood = np.array([bool(_OOD.match(label)) for label in labels])
    is_shared = np.array([bool(_SHARED.match(label)) for label in labels])
    assigned = np.full(len(labels), "train", "U5")
    if split == "ood":
        assigned[is_ood] = "test"
    elif split == "shared":
        assigned[is_shared] = "test"
        assigned[is_ood] = ""
    elif split.endswith(".json"):
        train, test = read_split_file(Path(split))
        assigned[:] = ""
        if not np.isin(labels, list(train)).any():
            raise InputError(
                f"{split}: none of its training images was shown to this subject: expected names "
                f"such as {labels[0]}: is it a split of this subject, or of the shared images?"
            )
        assigned[np.isin(labels, list(train))] = "train"
        assigned[np.isin(labels, list(test))] = "test"
    else:
        names = np.array([image_name(label) for label in labels])
        of_test, validation = read_split_list(Path(split), names)
        assigned[np.isin(names, list(of_test))] = "test"
        assigned[np.isin(names, list(validation))] = "val"
        return assigned, validation
    return assigned, set()


def read_split_file(path: Path) -> tuple[set[str], set[str]]:
    """Read a split of LAION-fMRI's package: image files for training and for tests.

    Raises
    ------
    MissingError, InputError
        When the file is absent, damaged, or no such split; when an image is in both lists.
    """
    with reading(path, "a split of LAION-fMRI", "copy it again"):
        variants = read_json(path)["variants"]
        train, test = (variants[0][name] for name in ("train_ids", "test_ids"))
        lists = [train, test]
        if not all(isinstance(one, list) and one for one in lists) or not all(
            isinstance(label, str) for one in lists for label in one
        ):
            raise InputError(
                f"{path}: expected names of images in train_ids and test_ids, found others: copy "
                "it again"
            )
    both = sorted(set(train) & set(test))
    if both:
        raise InputError(f"{path}: {both[0]} is in train_ids and in test_ids: copy it again")
    return set(train), set(test)


# ----------------------------------------------------------------------------------- bucket


def files_needed(bucket: Bucket, subjects: Iterable[int], sessions: list[int] | None) -> list[Need]:
    """List the files of the bucket that are needed: masks, ROIs, tables and betas.

    Parameters
    ----------
    bucket : Bucket
    subjects : iterable of int
    sessions : list of int, optional
        Default: all that can be read.

    Raises
    ------
    MissingError
        When a subject, session or file is not in the bucket. The message names what is.
    """
    needs: list[Need] = []
    for subject in subjects:
        prefix = subject_prefix(subject)
        there = bucket.list(prefix + "/")
        found = sorted(
            number
            for number in range(1, 100)
            if betas_key(subject, number) in there and number not in HELD_OUT
        )
        if not found:
            raise MissingError(
                f"s3://{bucket.name}/{prefix}: no betas of subject {subject} there; LAION-fMRI "
                f"has the subjects {', '.join(map(str, SUBJECTS))}"
            )
        absent = sorted(set(sessions or []) - set(found))
        if absent:
            raise MissingError(
                f"s3://{bucket.name}/{prefix}: no betas of session {absent[0]} that can be read: "
                f"subject {subject} has {found[0]} to {found[-1]} there (sessions "
                f"{HELD_OUT[0]} to {HELD_OUT[-1]} are held out); choose among them with --sessions"
            )
        name = f"sub-{subject:02d}"
        rois = bucket.list(rois_prefix(subject) + "/")
        small = [_require(there, bucket, mask_key(subject))]
        small += [file for key, file in rois.items() if key.endswith(".nii.gz")]
        small += [_require(there, bucket, trials_key(subject, s)) for s in sessions or found]
        needs += [Need(f"{name}: mask, ROIs, trials", file) for file in small]
        needs += [Need(f"{name}: betas", there[betas_key(subject, s)]) for s in sessions or found]
    return needs


def _require(there: dict[str, RemoteFile], bucket: Bucket, key: str) -> RemoteFile:
    if key not in there:
        raise MissingError(
            f"s3://{bucket.name}/{key}: not in the bucket, so that it may have moved: use a local "
            "copy with --root, and open an issue of synbrain"
        )
    return there[key]


def lacks(root: Path, subjects: list[int] | None, sessions: list[int] | None) -> str | None:
    """Describe what a local copy lacks; None where nothing must be fetched.

    Without a choice of subjects or sessions, those that are there are taken, unless a download of
    them was interrupted.
    """
    if subjects is None or sessions is None:
        said = interrupted(root, map(subject_prefix, subjects or SUBJECTS))
        if said is not None:
            return said
    copy = LaionCopy(root, root)
    here = copy.subjects
    if not here:
        return f"{root}: no betas of LAION-fMRI there"
    for subject in subjects or here:
        own = copy.sessions(subject)
        absent = sorted(set(sessions or own or [1]) - set(own))
        if absent:
            return f"{root}: session {absent[0]} of subject {subject} is not there"
        if not (root / mask_key(subject)).exists():
            return f"{root / mask_key(subject)} is not there"
        for session in sessions or own:
            if not (root / trials_key(subject, session)).exists():
                return f"{root / trials_key(subject, session)} is not there"
    return None


def trials_table(shown: list[tuple[int, np.ndarray]], assigned: np.ndarray) -> pd.DataFrame:
    """Return ``trials.tsv`` of the trials that are kept.

    Parameters
    ----------
    shown : list of (session, array of str)
        Image file of each trial of each session.
    assigned : array of str of shape (n_trials,)
        From `assign_splits`, over all sessions.
    """
    session = np.concatenate([np.full(len(labels), number) for number, labels in shown])
    names = np.array([image_name(label) for _, labels in shown for label in labels])
    kept = assigned != ""
    table = pd.DataFrame(
        {
            "trial": np.arange(int(kept.sum())),
            "session": session[kept],
            "image": names[kept],
            "split": assigned[kept],
        }
    )
    table.insert(3, "repeat", table.groupby("image").cumcount() + 1)
    return table
