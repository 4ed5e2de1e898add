"""A local copy of the Natural Scenes Dataset: paths of its files, images and captions.

File names, index bases and scales are those of the NSD data manual (Allen et al. 2022, Nat.
Neurosci. 25:116).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from synbrain_cli.datasets.nsd_choice import Choice
from synbrain_cli.datasets.nsd_design import SESSIONS, Design, image_id, image_name
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.files import is_simulated, read_json
from synbrain_cli.io.reading import reading
from synbrain_cli.io.surface import HEMISPHERES
from synbrain_cli.io.tables import read_table, row_in, whole_numbers
from synbrain_cli.paths import is_given

DESIGN = "nsddata/experiments/nsd/nsd_expdesign.mat"
STIMULI = "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"
STIMULUS_TABLE = "nsddata/experiments/nsd/nsd_stim_info_merged.csv"
SHORT = dict(zip(HEMISPHERES, ("lh", "rh"), strict=True))
TRANSFORM_NAMES = {"func1pt8mm": "func1pt8", "func1mm": "func1pt0"}


@dataclass(frozen=True)
class NSD:
    """A complete or partial local copy of NSD.

    Attributes
    ----------
    root : Path
        Folder that holds ``nsddata/``, ``nsddata_betas/`` and ``nsddata_stimuli/``.

    Raises
    ------
    MissingError
        When the folder holds no ``nsddata/``.
    """

    root: Path

    def __post_init__(self) -> None:
        if not (self.root / "nsddata").is_dir():
            raise MissingError(
                f"{self.root}: expected a folder that holds nsddata/, nsddata_betas/ and "
                "nsddata_stimuli/: pass it with --root"
            )

    @cached_property
    def design(self) -> Design:
        """The experimental design: see `Design.read`."""
        return Design.read(self.root / DESIGN)

    @property
    def simulated(self) -> bool:
        """Whether the folder was made by `synbrain prepare simulated`."""
        return is_simulated(self.root)

    @property
    def subjects(self) -> list[int]:
        """Subjects with betas in this copy."""
        folders = sorted((self.root / "nsddata_betas/ppdata").glob("subj[0-9][0-9]"))
        return [int(folder.name[4:]) for folder in folders]

    # -------------------------------------------------------------------------- folders

    def betas_folder(self, subject: int, choice: Choice) -> Path:
        """Folder of a subject's betas."""
        return self.root / betas_prefix(subject, choice)

    def transforms_folder(self, subject: int) -> Path:
        """Folder of a subject's transforms to surfaces and MNI."""
        return self.root / f"nsddata/ppdata/subj{subject:02d}/transforms"

    def label_folder(self, subject: int) -> Path:
        """Folder of the ROIs on the native surface, and of the label tables."""
        return self.root / f"nsddata/freesurfer/subj{subject:02d}/label"

    def roi_folder(self, subject: int, choice: Choice) -> Path:
        """Folder of the ROI volumes, or of the ROIs on the native surface."""
        if choice.volume:
            return self.root / f"nsddata/ppdata/subj{subject:02d}/{choice.space}/roi"
        return self.label_folder(subject)

    def session_files(self, subject: int, choice: Choice) -> dict[int, tuple[Path, ...]]:
        """Return the files of betas of each session in this copy.

        A volume has one file per session, a surface one per hemisphere. Where a volume is there as
        HDF5 and as NIfTI, the HDF5 file is used, because it allows to read only the mask.
        """
        folder = self.betas_folder(subject, choice)
        files: dict[int, tuple[Path, ...]] = {}
        for number in range(1, max(self.design.n_sessions, *SESSIONS) + 1):
            name = f"betas_session{number:02d}"
            stems = [name] if choice.volume else [f"{short}.{name}" for short in SHORT.values()]
            suffixes = (".hdf5", ".nii.gz", ".nii") if choice.volume else (".hdf5", ".mgh", ".mgz")
            for suffix in suffixes:
                paths = tuple(folder / f"{stem}{suffix}" for stem in stems)
                if all(map(is_given, paths)):
                    files[number] = paths
                    break
        return files

    # --------------------------------------------------------------------------- images

    def read_images(self, images: list[str]) -> Iterator[np.ndarray]:
        """Yield the pixels of images: uint8 (425, 425, 3).

        Parameters
        ----------
        images : list of str
            Names as in ``trials.tsv``.

        Raises
        ------
        MissingError, InputError
            When the file is absent or damaged, or does not hold an image.
        """
        path = self.root / STIMULI
        if not path.exists():
            raise MissingError(
                f"{path} does not exist, but the images are needed for their tokens: copy the file"
            )
        yield from read_bricks(path, [image_id(image) for image in images])

    def stimuli(self, images: list[str]) -> pd.DataFrame | None:
        """Read NSD's table of stimuli, and captions of the images.

        Captions come from ``captions_train2017.json`` and ``captions_val2017.json`` of COCO, which
        are not part of NSD, where these files are in ``nsddata_stimuli``.

        Parameters
        ----------
        images : list of str
            Names as in ``trials.tsv``.

        Returns
        -------
        DataFrame or None
            ``image``, the columns of NSD, and ``captions`` (a JSON list); None where this copy has
            no table.

        Raises
        ------
        InputError
            When the table lacks a column or an image.
        """
        path = self.root / STIMULUS_TABLE
        if not is_given(path):
            return None
        table = read_table(path, ("nsdId", "cocoId"))
        ids = whole_numbers(table["nsdId"], row_in(path), lowest=0)
        table.index = pd.Index([image_name(i) for i in ids.tolist()], dtype=str)
        if table.index.has_duplicates:
            twice = int(np.flatnonzero(table.index.duplicated())[0])
            raise InputError(
                f"{row_in(path)(twice)}: {table.index[twice]} has a row above: copy the table again"
            )
        table["nsdId"] = ids
        table["cocoId"] = whole_numbers(table["cocoId"], row_in(path), lowest=0)
        absent = sorted(set(images) - set(table.index))
        if absent:
            raise InputError(
                f"{path}: expected a row of {absent[0]}, which is in the design, found none: copy "
                "the table again"
            )
        table = table.loc[images].rename_axis("image").reset_index()
        captions = self._captions()
        if captions:
            table["captions"] = [
                json.dumps(captions.get(coco, []), ensure_ascii=False)
                for coco in table["cocoId"].tolist()
            ]
        return table

    def _captions(self) -> dict[int, list[str]]:
        """COCO image id → its captions."""
        captions: dict[int, list[str]] = {}
        for path in sorted((self.root / "nsddata_stimuli").rglob("captions_*2017.json")):
            with reading(path, "the captions of COCO"):
                for annotation in read_json(path)["annotations"]:
                    captions.setdefault(int(annotation["image_id"]), []).append(
                        annotation["caption"].strip()
                    )
        return captions


def betas_prefix(subject: int, choice: Choice) -> str:
    """Return the folder of a subject's betas, relative to the root or the bucket."""
    return f"nsddata_betas/ppdata/subj{subject:02d}/{choice.space}/{choice.preparation}"


def read_bricks(path: Path, ids: list[int]) -> Iterator[np.ndarray]:
    """Yield images of ``nsd_stimuli.hdf5``: uint8 (425, 425, 3).

    Parameters
    ----------
    path : path
    ids : list of int
        0-based, as ``nsdId`` in NSD's table of stimuli.

    Raises
    ------
    MissingError, InputError
        When the file is absent or damaged, or does not hold an image.
    """
    with reading(path, "NSD's images"), h5py.File(path, "r") as file:
        bricks = file["imgBrick"]
        if bricks.dtype != np.uint8 or bricks.ndim != 4 or bricks.shape[3] != 3:
            raise InputError(
                f"{path}: expected images as uint8 (n_images, height, width, 3) in imgBrick, "
                f"found {bricks.dtype} of shape {bricks.shape}: copy the file again"
            )
        for number in ids:
            if number >= len(bricks):
                raise InputError(
                    f"{path}: expected {image_name(number)} among its images, found {len(bricks)}: "
                    "is it of the same experiment as the design?"
                )
            yield bricks[number]
