"""Reading the folders of the Algonauts 2023 challenge into prepared subjects.

The challenge (Gifford et al. 2023, arXiv 2301.03198) provides responses of NSD on fsaverage, which
are z-scored within session and averaged over the repeats of each image. Responses to its test
images were never published. The test images here are therefore a share of its training images.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from synbrain_cli.datasets.sessions import add_ncsnr
from synbrain_cli.datasets.splits import check_splits, draw_images, split_trials
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.features.images import SUFFIXES, read_image
from synbrain_cli.io.betas import read_array
from synbrain_cli.io.files import is_simulated
from synbrain_cli.io.pickled import read_codes
from synbrain_cli.io.prepared import Origin, PreparedSubject
from synbrain_cli.io.prepared_writer import PreparedWriter
from synbrain_cli.io.reading import reading
from synbrain_cli.io.surface import HEMISPHERES, N_FSAVERAGE
from synbrain_cli.io.surface_resampling import SurfaceResampling
from synbrain_cli.io.values import as_float32, whole_codes
from synbrain_cli.io.voxel_space import SURFACE_RESAMPLING, Vertices
from synbrain_cli.paths import require_regular_file

REPEATS = 3  # of each image, which the challenge averaged; some images of some subjects had fewer
SHORT = dict(zip(HEMISPHERES, ("lh", "rh"), strict=True))
_IMAGE = re.compile(r"train-(\d{4,})_(nsd-\d{5})$")
_TEST_IMAGE = re.compile(r"test-(\d{4,})_(nsd-\d{5})$")


@dataclass(frozen=True)
class Challenge:
    """The folder of the challenge.

    Attributes
    ----------
    root : Path
        Folder that holds ``subj01/``, …, or one of these folders.
    """

    root: Path

    @cached_property
    def folders(self) -> dict[int, Path]:
        """Folder of each subject.

        Raises
        ------
        MissingError
            When there is no folder of a subject.
        """
        candidates = [self.root, *sorted(self.root.glob("subj[0-9][0-9]"))]
        found = {
            int(folder.resolve().name[4:]): folder
            for folder in candidates
            if re.fullmatch(r"subj\d\d", folder.resolve().name)
            and (folder / "training_split").is_dir()
        }
        if not found:
            raise MissingError(
                f"{self.root}: expected the challenge's folders (subj01/training_split/…), found "
                "none: pass the folder that holds subj01, or that folder, with --root"
            )
        return found

    def image_files(self, subject: int) -> dict[str, Path]:
        """Return the file of each image, in the order of the rows of the responses.

        Images are named as in the challenge: ``nsd-00013`` is image 13 of NSD, counted from 0.

        Raises
        ------
        MissingError, InputError
            When there is no image, a name has another form, or an image is missing in between.
        """
        folder = self.folders[subject] / "training_split/training_images"
        return _numbered(folder, "train", _IMAGE)

    def test_image_files(self, subject: int) -> dict[str, Path]:
        """Return the file of each test image, in the order in which responses are submitted.

        Raises
        ------
        MissingError, InputError
            As `image_files`.
        """
        folder = self.folders[subject] / "test_split/test_images"
        return _numbered(folder, "test", _TEST_IMAGE)

    @cached_property
    def _files(self) -> dict[str, Path]:
        """Image files of all subjects by name."""
        files: dict[str, Path] = {}
        for folder in self.folders.values():  # folders of other subjects may be incomplete
            for path in folder.glob("training_split/training_images/train-*"):
                if match := _IMAGE.fullmatch(path.stem):
                    files[match[2]] = path
        return files

    def read_images(self, names: list[str]) -> Iterator[np.ndarray]:
        """Yield the pixels of images of any subject, by name: uint8 (height, width, 3)."""
        for name in names:
            yield read_image(self._files[name])

    def responses(self, subject: int) -> dict[str, np.ndarray]:
        """Return a memory map (n_images, n_vertices) for each hemisphere.

        Raises
        ------
        MissingError, InputError
            When a file is absent, damaged, or does not have one row per image.
        """
        folder = self.folders[subject] / "training_split/training_fmri"
        paths = {h: folder / f"{short}_training_fmri.npy" for h, short in SHORT.items()}
        values = {h: read_array(path) for h, path in paths.items()}
        n_images = len(self.image_files(subject))
        for h, path in paths.items():
            if values[h].ndim != 2 or len(values[h]) != n_images:
                raise InputError(
                    f"{path}: expected one row for each of the {n_images} training images, found "
                    f"{values[h].shape}"
                )
        return values

    def voxel_space(self, subject: int) -> Vertices:
        """Return the vertices of fsaverage to which the columns of the responses belong.

        Raises
        ------
        MissingError, InputError
            When a file is absent, or the number of vertices is not that of the responses.
        """
        spaces = {n: space for space, n in N_FSAVERAGE.items()}
        chosen, sizes = {}, {}
        for h, short in SHORT.items():
            path = self._roi(subject, f"{short}.all-vertices_fsaverage_space.npy")
            inside = read_array(path)
            if inside.ndim != 1 or len(inside) not in spaces:
                raise InputError(
                    f"{path}: expected one value for each of fsaverage's 163,842 vertices, found "
                    f"{inside.shape}"
                )
            chosen[h], sizes[h] = np.flatnonzero(inside), len(inside)
            n_columns = self.responses(subject)[h].shape[1]
            if len(chosen[h]) != n_columns:
                raise InputError(
                    f"{path}: {len(chosen[h]):,} vertices, but the responses have {n_columns:,} "
                    f"columns: check that all files are of subject {subject}"
                )
        if sizes["left"] != sizes["right"]:
            raise InputError(
                f"{path}: {sizes['right']:,} vertices, but the left hemisphere has "
                f"{sizes['left']:,}: copy the challenge's roi_masks folder"
            )
        return Vertices(chosen["left"], chosen["right"], sizes, spaces[sizes["left"]])

    def voxel_table(self, subject: int) -> pd.DataFrame:
        """Return the label of each vertex in each ROI collection.

        Raises
        ------
        MissingError, InputError
            When a file is absent, damaged, or of another number of vertices.
        """
        folder = self.folders[subject] / "roi_masks"
        n = {h: values.shape[1] for h, values in self.responses(subject).items()}
        table = pd.DataFrame(index=range(sum(n.values())))
        for path in sorted(folder.glob("mapping_*.npy")):
            collection = path.stem.removeprefix("mapping_")
            names = read_mapping(path)
            codes = []
            for h, short in SHORT.items():
                file = self._roi(subject, f"{short}.{collection}_challenge_space.npy")
                values = read_array(file)
                if values.shape != (n[h],):
                    raise InputError(
                        f"{file}: expected one code for each of {n[h]:,} vertices, found "
                        f"{values.shape}"
                    )
                codes.append(whole_codes(values, file))
            table[collection] = [
                names.get(code, f"{collection}-{code}") if code > 0 else ""
                for code in np.concatenate(codes).tolist()
            ]
        return table

    def _roi(self, subject: int, name: str) -> Path:
        path = self.folders[subject] / "roi_masks" / name
        if not path.exists():
            raise MissingError(f"{path} does not exist: copy the challenge's roi_masks folder")
        return path


def _numbered(folder: Path, kind: str, name: re.Pattern[str]) -> dict[str, Path]:
    """Image files of a folder by name, whose numbers must be 1, 2, … without a gap."""
    files = sorted(p for p in folder.glob("[!.]*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise MissingError(f"{folder}: expected {kind}-0001_nsd-00013.png, …; found no image")
    images: dict[str, Path] = {}
    for number, path in enumerate(files, start=1):
        match = name.fullmatch(path.stem)
        if match is None or int(match[1]) != number or match[2] in images:
            raise InputError(
                f"{path}: expected the name {kind}-{number:04d}_nsd-….png: an image is missing "
                "from the folder, or one too many is in it"
            )
        images[match[2]] = path
    return images


def read_mapping(path: Path) -> dict[int, str]:
    """Read the labels of an ROI collection by code from the challenge's ``mapping_*.npy``.

    The file is a pickled dictionary. Its unpickler accepts only numbers and text, so that a file of
    unknown origin cannot run code.

    Raises
    ------
    InputError
        When the file holds anything else, or is damaged.
    """
    with reading(path, "the challenge's dictionary of codes and labels", "copy the file again"):
        return {code: _text(name) for code, name in read_codes(path).items()}


def _text(name: Any) -> str:
    if not isinstance(name, str):
        raise ValueError(f"a label is no text but {type(name).__name__}")
    return name


@dataclass(frozen=True)
class Choice:
    """How the challenge's data are prepared.

    Attributes
    ----------
    standardize : {"session", "train", "none"}
        All rows count as one session, because the files do not hold the sessions.
    test_share, validation_share : float
        Shares of test and validation images (ours).
    seed : int
        Seed of the random choice of test and validation images.
    """

    standardize: str = "train"
    test_share: float = 0.1
    validation_share: float = 0.1
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the options for the record."""
        return asdict(self)


def prepare_subject(
    challenge: Challenge, subject: int, folder: Path, choice: Choice | None = None
) -> PreparedSubject:
    """Read one subject into a prepared subject, with one trial per image (a repeat average).

    Parameters
    ----------
    challenge : Challenge
    subject : int
        1 to 8.
    folder : path
        ``prepared/<dataset>/sub-01``.
    choice : Choice, optional

    Returns
    -------
    PreparedSubject

    Raises
    ------
    MissingError, InputError
        When the subject or a file is absent, or files are damaged or of different lengths.
    """
    choice = choice or Choice()
    if subject not in challenge.folders:
        raise MissingError(
            f"{challenge.root}: no subject {subject}; here are {sorted(challenge.folders)}"
        )
    files = challenge.image_files(subject)
    responses = challenge.responses(subject)
    voxel_space = challenge.voxel_space(subject)
    shown = np.array(list(files))
    split = split_trials(
        shown,
        draw_images(shown, choice.test_share, choice.seed, "test"),
        share=choice.validation_share,
        seed=choice.seed,
    )
    check_splits(split, shown, "choose larger shares with --test or --validation")
    trials = pd.DataFrame(
        {
            "trial": np.arange(len(shown)),
            "session": 1,
            "image": shown,
            "repeat": 1,
            "split": split,
        }
    )
    options = {"subject": subject, **choice.to_dict()}
    source = challenge.folders[subject] / "training_split/training_fmri"
    sizes = {p.name: require_regular_file(p).stat().st_size for p in sorted(source.glob("*.npy"))}
    voxels = challenge.voxel_table(subject)
    with PreparedWriter(
        folder, {**options, "sources": sizes}, trials, voxel_space.n_voxels, choice.standardize
    ) as writer:
        if 1 not in writer.done:
            betas = np.empty((len(shown), voxel_space.n_voxels), np.float32)
            betas[:, : len(voxel_space.left)] = as_float32(responses["left"], source)
            betas[:, len(voxel_space.left) :] = as_float32(responses["right"], source)
            writer.write_session(1, betas, str(source))
        voxels, reliability = add_ncsnr(voxels, writer, REPEATS)
        vertices = {h: getattr(voxel_space, h) for h in HEMISPHERES}
        writer.finish(
            voxels,
            voxel_space,
            {SURFACE_RESAMPLING: SurfaceResampling.from_vertices(vertices, voxel_space.n_vertices)},
            Origin(
                name=f"Algonauts 2023 subject {subject}, prepared",
                simulated=is_simulated(challenge.root),
                space=voxel_space.space,
                unit_before_standardization="z-score within session, averaged over repeats",
                options=options,
                sources={name: {"bytes": size} for name, size in sizes.items()},
                noise_ceiling_snr=reliability,
                averaged_over=REPEATS,
            ),
        )
    return PreparedSubject(folder)
