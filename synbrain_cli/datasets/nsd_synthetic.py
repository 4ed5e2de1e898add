"""NSD-synthetic: artificial images shown to NSD's subjects in one session of its own.

Gifford et al. (2025, arXiv:2503.06286): 284 images (noise, gratings, words,
altered and coloured scenes), 744 trials, the same order for all eight subjects. The session lies in
NSD's folder and on NSD's grids, under names of its own. Every image is a test image: what it is for
is a test of models of natural scenes outside their range.

File names, index bases and the root that displays pixels are those of the NSD data manual
("Functional data (nsdsynthetic)") and of its authors' published code.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from synbrain_cli.datasets.needs import Need, interrupted
from synbrain_cli.datasets.nsd import read_session
from synbrain_cli.datasets.nsd_bucket import NeededFiles, grid_files, require
from synbrain_cli.datasets.nsd_choice import Choice
from synbrain_cli.datasets.nsd_design import SESSIONS
from synbrain_cli.datasets.nsd_files import NSD, SHORT
from synbrain_cli.datasets.nsd_voxels import SubjectVoxels
from synbrain_cli.datasets.s3 import Bucket
from synbrain_cli.datasets.sessions import add_ncsnr, describe_ncsnr
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.mat import read_mat
from synbrain_cli.io.prepared import Origin, PreparedSubject
from synbrain_cli.io.prepared_writer import PreparedWriter
from synbrain_cli.io.reading import reading
from synbrain_cli.paths import is_given, require_regular_file
from synbrain_cli.progress import Progress

DESIGN = "nsddata/experiments/nsdsynthetic/nsdsynthetic_expdesign.mat"
_FOLDER = "nsddata_stimuli/stimuli/nsdsynthetic"
STIMULI = f"{_FOLDER}/nsdsynthetic_stimuli.hdf5"
N_COMMON, N_IMAGES = 220, 284  # images 221 to 284 were coloured for each subject
PREPARATIONS = ("betas_fithrf_GLMdenoise_RR", "betas_fithrf")
SESSION = 1


def colour_stimuli(subject: int) -> str:
    """Return the file of a subject's own coloured images, relative to the root."""
    return f"{_FOLDER}/nsdsynthetic_colorstimuli_subj{subject:02d}.hdf5"


def betas_prefix(subject: int, choice: Choice) -> str:
    """Return the folder of a subject's betas, relative to the root or the bucket."""
    return f"nsddata_betas/ppdata/subj{subject:02d}/{choice.space}/nsdsynthetic{choice.preparation}"


def image_name(index: int, subject: int) -> str:
    """Return the name of an image from its 0-based id; coloured ones carry the subject's name.

    >>> image_name(0, 3), image_name(283, 3)
    ('synthetic001', 'synthetic284_subj03')
    """
    own = "" if index < N_COMMON else f"_subj{subject:02d}"
    return f"synthetic{index + 1:03d}{own}"


def all_images() -> list[str]:
    """Return the names of the images of all of NSD's subjects, sorted."""
    subjects = range(1, len(SESSIONS) + 1)
    return sorted({image_name(index, number) for number in subjects for index in range(N_IMAGES)})


def check_choice(choice: Choice) -> None:
    """Refuse what there is no such session of.

    Raises
    ------
    InputError
    """
    if choice.preparation not in PREPARATIONS:
        raise InputError(
            f"--preparation {choice.preparation}: NSD-synthetic has {', '.join(PREPARATIONS)}"
        )
    if choice.standardize == "train":
        raise InputError(
            "--standardize train: NSD-synthetic has no training trials: use session or none, as "
            "the model was trained"
        )


def recorded_options(choice: Choice) -> dict[str, Any]:
    """Return the options for the record: those of `Choice` that concern this session."""
    options = choice.to_dict()
    kept = ("space", "preparation", "rois", "standardize")
    return {"set": "synthetic", **{name: options[name] for name in kept}}


# ------------------------------------------------------------------------------------- files


class SyntheticFiles(NeededFiles):
    """The files that are needed of NSD-synthetic."""

    def prefix(self, subject: int) -> str:
        """Return the folder of a subject's betas."""
        return betas_prefix(subject, self.choice)

    def lacks(self, root: Path) -> str | None:
        """Describe what a local copy lacks; None where nothing must be fetched."""
        if not (root / "nsddata").is_dir():
            return f"{root} holds no nsddata/"
        if self.subjects is None and (said := interrupted(root, self.folders)):
            return said
        nsd = NSD(root)
        subjects = self.subjects or subjects_of(nsd, self.choice) or self.numbers[:1]
        for key in (DESIGN, STIMULI, *map(colour_stimuli, subjects)):
            if not (root / key).exists():
                return f"{root / key} is not there"
        for subject in subjects:
            if session_paths(nsd, subject, self.choice) is None:
                return f"{root}: NSD-synthetic's betas of subject {subject} are not there"
            if not SubjectVoxels(nsd, subject, self.choice).collections():
                return f"{root}: the ROIs of subject {subject} are not there"
        return None

    def needed(self, bucket: Bucket) -> list[Need]:
        """List the files of the bucket that are needed, small ones first."""
        needs = [Need("images", require(bucket, key)) for key in (DESIGN, STIMULI)]
        known: set[str] = set()
        betas = []
        for subject in self.numbers:
            name = f"subj{subject:02d}"
            small = grid_files(bucket, subject, self.choice)
            needs += [
                Need(f"{name}: ROIs, transforms", file)
                for key, file in small.items()
                if key not in known
            ]
            known |= set(small)
            needs.append(Need("images", require(bucket, colour_stimuli(subject))))
            betas += [
                Need(f"{name}: betas", require(bucket, key))
                for key in self._betas_keys(bucket, subject)
            ]
        return needs + betas

    def _betas_keys(self, bucket: Bucket, subject: int) -> list[str]:
        prefix = self.prefix(subject)
        names = {Path(key).name for key in bucket.list(prefix + "/")}
        suffixes = (".nii.gz",) if self.choice.volume else (".hdf5", ".mgh")
        for suffix in suffixes:
            wanted = [f"{stem}{suffix}" for stem in _stems(self.choice)]
            if names.issuperset(wanted):
                return [f"{prefix}/{name}" for name in wanted]
        raise MissingError(
            f"s3://{bucket.name}/{prefix}: no {_stems(self.choice)[0]}{suffixes[0]} of subject "
            f"{subject} there; NSD has the subjects 1 to {len(SESSIONS)}"
        )


def _stems(choice: Choice) -> list[str]:
    name = "betas_nsdsynthetic"
    return [name] if choice.volume else [f"{short}.{name}" for short in SHORT.values()]


def session_paths(nsd: NSD, subject: int, choice: Choice) -> tuple[Path, ...] | None:
    """Return the file of the session's betas, or those of both hemispheres; None where absent.

    HDF5 is preferred to NIfTI, as in `NSD.session_files`.
    """
    folder = nsd.root / betas_prefix(subject, choice)
    suffixes = (".hdf5", ".nii.gz", ".nii") if choice.volume else (".hdf5", ".mgh", ".mgz")
    for suffix in suffixes:
        paths = tuple(folder / f"{stem}{suffix}" for stem in _stems(choice))
        if all(map(is_given, paths)):
            return paths
    return None


def subjects_of(nsd: NSD, choice: Choice) -> list[int]:
    """Return the subjects with betas of NSD-synthetic in this copy."""
    folders = sorted((nsd.root / "nsddata_betas/ppdata").glob("subj[0-9][0-9]"))
    numbers = [int(folder.name[4:]) for folder in folders]
    return [number for number in numbers if session_paths(nsd, number, choice) is not None]


# ------------------------------------------------------------------------------------ design


def read_design(path: Path) -> np.ndarray:
    """Read which image each trial shows.

    Parameters
    ----------
    path : path
        ``nsdsynthetic_expdesign.mat``: ``masterordering``, 1-based ids of all trials.

    Returns
    -------
    int64 array of shape (n_trials,)
        0-based ids, from 0 to 283.

    Raises
    ------
    MissingError, InputError
        When the file is absent, damaged, or not this design.
    """
    require_regular_file(
        path, "NSD-synthetic's design", "copy it, or let the command fetch it (--download)"
    )
    with reading(path, "a .mat file of numbers", "copy it again"):
        mat = read_mat(path)
        if "masterordering" not in mat or not np.size(mat["masterordering"]):
            raise InputError(
                f"{path}: expected numbers in the variable masterordering of NSD-synthetic's "
                "design, found none: copy it again"
            )
        ids = np.asarray(mat["masterordering"]).ravel()
        is_id = (ids == np.floor(ids)) & (ids >= 1) & (ids <= N_IMAGES)
    if not is_id.all():
        raise InputError(
            f"{path}: expected ids of images from 1 to {N_IMAGES} in masterordering, found "
            f"{ids[~is_id][0]:g}: is it nsdsynthetic_expdesign.mat? Copy it again"
        )
    return ids.astype(np.int64) - 1


def trials_of(design: np.ndarray, subject: int) -> pd.DataFrame:
    """Return ``trials.tsv`` of a subject: one session, all of whose images are test images."""
    table = pd.DataFrame(
        {
            "trial": np.arange(len(design)),
            "session": SESSION,
            "image": [image_name(i, subject) for i in design.tolist()],
            "split": "test",
        }
    )
    table.insert(3, "repeat", table.groupby("image").cumcount() + 1)
    return table


# ------------------------------------------------------------------------------------ images


def as_seen(stored: np.ndarray) -> np.ndarray:
    """Convert stored pixels to those of an ordinary display, within the square of NSD's images.

    Pixels were stored for a display with a linear response: their root shows them on an ordinary
    one. Images are wider than high (1,360 × 714 pixels of the display); NSD's images were shown in
    the central square of that height, and models see visual space through it.

    Parameters
    ----------
    stored : uint8 array of shape (height, width, 3)

    Returns
    -------
    uint8 array of shape (side, side, 3)
    """
    height, width = stored.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = stored[top : top + side, left : left + side]
    return np.rint(np.sqrt(square / 255) * 255).astype(np.uint8)


def read_images(nsd: NSD, images: list[str]) -> Iterator[np.ndarray]:
    """Yield the pixels of images as they were seen: uint8 (side, side, 3).

    Parameters
    ----------
    nsd : NSD
    images : list of str
        Names as in ``trials.tsv``.

    Raises
    ------
    MissingError, InputError
        When a file is absent or damaged, or does not hold an image.
    """
    for image in images:
        number, _, subject = image.removeprefix("synthetic").partition("_subj")
        index = int(number) - 1
        if subject:
            path, row, expected = nsd.root / colour_stimuli(int(subject)), index - N_COMMON, 64
        else:
            path, row, expected = nsd.root / STIMULI, index, N_COMMON
        yield as_seen(_read_brick(path, row, expected))


def _read_brick(path: Path, row: int, expected: int) -> np.ndarray:
    """Read one image of a file: uint8 (height, width, 3)."""
    require_regular_file(path, "NSD-synthetic's images", "copy the file, or fetch it (--download)")
    with reading(path, "NSD-synthetic's images"), h5py.File(path, "r") as file:
        bricks = file["imgBrick"]
        shape = bricks.shape
        if bricks.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or shape[0] != expected:
            raise InputError(
                f"{path}: expected {expected} images as uint8 ({expected}, height, width, 3) in "
                f"imgBrick, found {bricks.dtype} of shape {shape}: copy the file again"
            )
        pixels: np.ndarray = bricks[row]
        return pixels


# ----------------------------------------------------------------------------------- subject


def prepare_subject(
    nsd: NSD, subject: int, folder: Path, choice: Choice, progress: Progress | None = None
) -> PreparedSubject:
    """Read NSD-synthetic's session of one subject into a prepared subject.

    ncsnr is that of these images, from their 2 to 10 repeats: responses to artificial images have
    other variances than those to natural scenes.

    Parameters
    ----------
    nsd : NSD
    subject : int
        1-based, as in NSD.
    folder : path
        ``prepared/<dataset>/sub-01``. An interrupted run is resumed.
    choice : Choice
        Space, betas, ROIs and standardisation; its splits do not concern these images.
    progress : Progress, optional
        Shows the reliability.

    Returns
    -------
    PreparedSubject
        All of its trials are test trials.

    Raises
    ------
    MissingError, InputError
        When a file is absent or damaged, or has another number of trials or another grid.
    """
    check_choice(choice)
    progress = progress or Progress(quiet=True)
    paths = session_paths(nsd, subject, choice)
    if paths is None:
        here = subjects_of(nsd, choice)
        raise MissingError(
            f"{nsd.root / betas_prefix(subject, choice)}: no {_stems(choice)[0]} of subject "
            f"{subject} there (here are the subjects {here or 'none'}): copy it, fetch it with "
            "--download, or choose another --space or --preparation"
        )
    trials = trials_of(read_design(nsd.root / DESIGN), subject)
    known = SubjectVoxels(nsd, subject, choice)
    inside, voxel_space = known.mask()
    voxels = known.label_table(inside)
    resamplings = known.resamplings(inside, voxel_space)
    options = {"subject": subject, **recorded_options(choice)}
    sources = {
        str(path.relative_to(nsd.root)): require_regular_file(path, "betas").stat().st_size
        for path in paths
    }
    times = [path.stat().st_mtime_ns for path in paths]
    with PreparedWriter(
        folder,
        {**options, "sources": sources, "times": times},
        trials,
        voxel_space.n_voxels,
        choice.standardize,
        progress,
    ) as writer:
        if SESSION not in writer.done:
            betas = read_session(paths, inside, voxel_space)
            writer.write_session(SESSION, betas, str(paths[0]))
        voxels, reliability = add_ncsnr(voxels, writer)
        progress.info(f"subject {subject}: {describe_ncsnr(reliability)}")
        writer.finish(
            voxels,
            voxel_space,
            resamplings,
            Origin(
                name=f"{'Simulated' if nsd.simulated else 'NSD'} subject {subject}, artificial "
                "images, prepared",
                simulated=nsd.simulated,
                space=choice.space,
                unit_before_standardization="percent signal change",
                options=options,
                sources={name: {"bytes": size} for name, size in sources.items()},
                noise_ceiling_snr=reliability,
            ),
        )
    return PreparedSubject(folder)
