"""Anybody's experiment → a prepared subject: a table of trials, responses, and a folder of images.

Responses are an array (neurons, voxels of a mask), volumes (GLMsingle's or anybody's single-trial
betas) or surface maps; one file, or several whose trials follow one another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd

from synbrain_cli.datasets.sessions import add_ncsnr, describe_ncsnr
from synbrain_cli.datasets.splits import check_splits, draw_images, read_split_list, split_trials
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.features.images import SUFFIXES, read_image
from synbrain_cli.io.betas import (
    n_trials_of,
    n_vertices_of,
    read_array,
    read_at_vertices,
    read_map,
    read_masked,
)
from synbrain_cli.io.files import is_simulated, read_table, sha256
from synbrain_cli.io.prepared import SPLITS, Origin, PreparedSubject
from synbrain_cli.io.prepared_writer import PreparedWriter
from synbrain_cli.io.surface import HEMISPHERES, N_FSAVERAGE, fsaverage
from synbrain_cli.io.surface_resampling import SurfaceResampling
from synbrain_cli.io.volume import check_same_grid, load_image, read_volume
from synbrain_cli.io.volume_resampling import VolumeResampling
from synbrain_cli.io.voxel_space import (
    POSITION_COLUMNS,
    SURFACE_RESAMPLING,
    Geometry,
    Vertices,
    Volume,
)

SURFACES = (*N_FSAVERAGE, "fsnative")
IMAGE_COLUMNS = ("image", "stim_file")  # the second is BIDS's
OFTEN = 3  # images shown this many times as often as the median image are the test images …
N_OFTEN = 20  # … where there are so many of them
VOLUMES = (".npy", ".nii", ".nii.gz", ".hdf5", ".h5")
MAPS = (".npy", ".mgh", ".mgz", ".gii", ".gii.gz")
OWN_COLUMNS = [*POSITION_COLUMNS, "ncsnr_recomputed"]  # that a prepared voxels.tsv has of its own
NO_VALUE = ("", "n/a", "na", "nan")  # in a table's cell; the second is BIDS's
PIECES, PIECE = 64, 4096  # of a file, in bytes, by which it is known again


@dataclass(frozen=True)
class Experiment:
    """Files of one subject.

    Attributes
    ----------
    trials : path, or tuple of paths
        Table (.tsv, .csv), or several to be joined, one row a trial in the order of the
        responses: ``image``, and optionally ``session`` (whole numbers from 1), ``repeat`` and
        ``split`` (train, val, test). Other columns are ignored.
    images : path
        Folder of the images; the table names them with or without their suffix.
    responses : tuple of paths
        ``.npy`` (n_trials, n_voxels) or (x, y, z, n_trials), 4-D NIfTI, or HDF5 with ``betas`` or
        ``betasmd``. Empty for surfaces.
    left, right : tuples of paths
        Surface maps of the hemispheres: ``.npy`` (n_trials, n_vertices), MGH, GIFTI.
    mask : tuple of paths
        One volume, above 0 inside; or one map a hemisphere.
    voxels : path, optional
        Table, one row a voxel in the responses' order: ``ncsnr`` and columns of labels.
    rois : tuple of (name, path)
        Volumes on the mask's grid, above 0 inside the ROI.
    image_column : str, optional
        Where it is not ``image`` or ``stim_file``.
    space : str
        Of `SURFACES` for surfaces; of volumes a name for the record ("T1w"; one that begins with
        MNI lets maps be drawn on fsaverage).
    unit : str
        Of the responses (after the division), for records and colour bars.
    divide_by : float
        Of the responses: 300 for NSD's integers.
    standardize : {"session", "train", "none"}
    split : path, optional
        See `synbrain_cli.datasets.splits.read_split_list`.
    test_share, validation_share : float
        Of the images, where nothing else says which are for what.
    seed : int
        Draws them.
    """

    trials: Path | tuple[Path, ...]
    images: Path
    responses: tuple[Path, ...] = ()
    left: tuple[Path, ...] = ()
    right: tuple[Path, ...] = ()
    mask: tuple[Path, ...] = ()
    voxels: Path | None = None
    rois: tuple[tuple[str, Path], ...] = ()
    image_column: str | None = None
    space: str = "individual"
    unit: str = "as recorded"
    divide_by: float = 1.0
    standardize: str = "session"
    split: Path | None = None
    test_share: float = 0.15
    validation_share: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if bool(self.responses) == bool(self.left or self.right):
            raise InputError("expected either --responses, or --left and --right for surfaces")
        if len(self.left) != len(self.right):
            raise InputError(
                f"expected as many --left as --right, found {len(self.left)} and {len(self.right)}"
            )
        if self.on_surface and self.space not in SURFACES:
            raise InputError(
                f"--space {self.space}: responses on a surface need one of {', '.join(SURFACES)}"
            )
        if len(self.mask) not in ((0, 2) if self.on_surface else (0, 1)):
            raise InputError(
                f"--mask: expected {'one a hemisphere, left first' if self.on_surface else 'one'}, "
                f"found {len(self.mask)}"
            )
        if not np.isfinite(self.divide_by) or self.divide_by == 0:
            raise InputError(f"--divide-by {self.divide_by}: expected a number other than 0")
        lists = [path for path in (self.voxels, self.split) if path is not None]
        for path in (
            *self.tables,
            *lists,
            *self.files,
            *self.mask,
            *(path for _, path in self.rois),
        ):
            if not path.exists():
                raise MissingError(f"{path} does not exist")
            if not path.is_file():
                raise InputError(f"{path}: expected a file, found a folder")
        known = MAPS if self.on_surface else VOLUMES
        for path in self.files:
            if not path.name.endswith(known):
                raise InputError(
                    f"{path}: expected responses in one of {' '.join(known)}: save them as .npy "
                    f"(n_trials, {'n_vertices' if self.on_surface else 'n_voxels'})"
                )
        files = [path.resolve() for path in self.files]
        twice = [path for path in files if files.count(path) > 1]
        if twice:
            raise InputError(f"{twice[0]} is given twice: each file holds other responses")
        names = [name for name, _ in self.rois]
        for name in names:
            if names.count(name) > 1 or name in (*OWN_COLUMNS, "ncsnr"):
                raise InputError(f"--roi {name}: the name is taken: give each region its own")

    @property
    def tables(self) -> tuple[Path, ...]:
        return self.trials if isinstance(self.trials, tuple) else (self.trials,)

    @property
    def on_surface(self) -> bool:
        return bool(self.left)

    @property
    def files(self) -> tuple[Path, ...]:
        return self.responses or (*self.left, *self.right)

    def options(self) -> dict[str, Any]:
        """For the record: what the content depends on; files by their content."""
        options = {k: v for k, v in asdict(self).items() if k not in ("responses", "left", "right")}
        for name in ("voxels", "split"):
            if options[name] is not None:
                options[name] = f"{options[name].name} (sha256 {sha256(options[name])})"
        options["trials"] = [f"{path.name} (sha256 {sha256(path)})" for path in self.tables]
        options["mask"] = [sha256(path) for path in self.mask]
        options["rois"] = {name: sha256(path) for name, path in self.rois}
        options["images"] = str(options["images"])
        options["responses"] = [fingerprint(path) for path in self.files]
        options["sources"] = {str(path): path.stat().st_size for path in self.files}
        return json.loads(json.dumps(options))

    # ---------------------------------------------------------------------------- trials

    @cached_property
    def _parts(self) -> list[pd.DataFrame]:
        return [read_table(path) for path in self.tables]

    @cached_property
    def _joined(self) -> pd.DataFrame:
        """The tables one after the other, as they are."""
        return pd.concat(self._parts, ignore_index=True).fillna("")

    @property
    def _names(self) -> str:
        return ", ".join(map(str, self.tables))

    def row(self, index: int) -> str:
        """File and line of a row of the joined table, for messages."""
        for path, part in zip(self.tables, self._parts, strict=True):
            if index < len(part):
                return f"{path}: row {index + 2}"
            index -= len(part)
        raise IndexError(index)

    @cached_property
    def table(self) -> pd.DataFrame:
        """The table as it is, checked: ``image`` (a name), ``session``, ``file`` of the image."""
        table = self._joined
        column = self.image_column or next((c for c in IMAGE_COLUMNS if c in table), None)
        if column is None or column not in table:
            raise InputError(
                f"{self._names}: expected the column {self.image_column or 'image'}, found "
                f"{', '.join(map(str, table.columns[:10]))}: rename the one that names each "
                "trial's image, or pass --image-column (columns are separated by commas in a "
                ".csv, by tabs in any other file)"
            )
        if not len(table):
            raise InputError(f"{self._names}: expected one row a trial, found no row")
        empty = np.flatnonzero(table[column].str.strip().isin(["", "n/a"]).to_numpy())
        if len(empty):
            raise InputError(
                f"{self.row(empty[0])} names no image: leave trials without an image "
                "out of the table and of the responses"
            )
        # Several tables are those of several days, unless they say which.
        lengths = [len(part) for part in self._parts]
        session = np.repeat(np.arange(1, len(lengths) + 1), lengths)
        if "session" in table:
            session = self._whole_numbers(table, "session")
            numbers, counts = np.unique(session, return_counts=True)
            if counts.min() == 1:
                raise InputError(
                    f"{self._names}: session {numbers[counts.argmin()]} has one trial: expected "
                    "sessions (days of recording) in the column session, numbered from 1"
                )
        files = self._find_images(table[column])
        return pd.DataFrame(
            {
                "image": [files[value].stem for value in table[column]],
                "session": session,
                "repeat": self._whole_numbers(table, "repeat") if "repeat" in table else 0,
                "split": table.get("split", ""),
            }
        )

    def _whole_numbers(self, table: pd.DataFrame, column: str) -> np.ndarray:
        values = pd.to_numeric(table[column].str.replace(r"^ses-", "", regex=True), errors="coerce")
        bad = np.flatnonzero(~(values >= 1) | (values % 1 != 0))
        if len(bad):
            raise InputError(
                f"{self.row(bad[0])}: expected a whole number from 1 in the column "
                f"{column}, found {table[column][bad[0]]!r}"
            )
        return values.to_numpy().astype(int)

    def _find_images(self, values: pd.Series) -> dict[str, Path]:
        """Value in the table → image file."""
        if not self.images.is_dir():
            raise MissingError(f"--images {self.images}: no such folder")
        by_stem: dict[str, list[Path]] = {}
        for path in sorted(self.images.iterdir()):
            if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
                by_stem.setdefault(path.stem, []).append(path)
        found: dict[str, Path] = {}
        missing = []
        for value in values.unique():
            name = Path(value)
            beside = [self.images / value, self.images / name.name]
            paths = [path for path in beside if path.is_file()][:1]
            paths = paths or by_stem.get(name.name) or by_stem.get(name.stem) or []
            if len(paths) > 1:
                raise InputError(
                    f"{self._names}: {value} is {paths[0].name} or {paths[1].name} in "
                    f"{self.images}: write the suffix into the table, or take one of them out"
                )
            if paths:
                found[value] = paths[0]
            else:
                missing.append(value)
        if missing:
            raise MissingError(
                f"{self.images}: {len(missing)} of {values.nunique()} images of {self._names} are "
                f"not in this folder (first: {missing[0]}): expected files of those names, with "
                f"or without one of {' '.join(SUFFIXES)}"
            )
        names: dict[str, Path] = {}
        value_of: dict[Path, str] = {}
        for value, path in found.items():
            if value_of.setdefault(path, value) != value:
                raise InputError(
                    f"{self._names}: {value_of[path]} and {value} are the same file, {path}: name "
                    "each image in one way; for images in sub-folders pass the folder above them"
                )
            if names.setdefault(path.stem, path) != path:
                raise InputError(
                    f"{path}: the same name as {names[path.stem]}: images are known by their name "
                    "without folder and suffix; rename one of them"
                )
        return found

    @cached_property
    def image_files(self) -> dict[str, Path]:
        """Name of each image → its file."""
        column = self.image_column or next(c for c in IMAGE_COLUMNS if c in self._joined)
        return {path.stem: path for path in self._find_images(self._joined[column]).values()}

    def read_images(self, names: list[str]) -> Iterator[np.ndarray]:
        """Yield pixels, uint8 (h, w, 3), of named images."""
        for name in names:
            yield read_image(self.image_files[name])

    def repeats(self) -> np.ndarray:
        """Repeat of each trial, as the table has it or counted in its order.

        Raises
        ------
        InputError
            When the table says of two trials that they are the same repeat of an image.
        """
        table = self.table
        counted = table.groupby("image").cumcount().to_numpy() + 1
        if not (table["repeat"] > 0).any():
            return counted
        twice = np.flatnonzero(table.duplicated(["image", "repeat"]).to_numpy())
        if len(twice):
            row = table.iloc[twice[0]]
            raise InputError(
                f"{self.row(twice[0])}: repeat {row['repeat']} of {row['image']} is "
                "there already: number the repeats of an image 1, 2, …, or leave the column out"
            )
        return table["repeat"].to_numpy()

    def splits(self, log: Callable[[str], None]) -> np.ndarray:
        """Split of each trial: from the table, a list, or drawn.

        Test images drawn are those shown far more often than the others, where there are such
        (they were meant for it), else a share of all.
        """
        table = self.table
        shown = table["image"].to_numpy(str)
        if (table["split"] != "").any() and self.split is None:
            return self._given_splits()
        if self.split is not None:
            test, validation = read_split_list(self.split, shown)
        else:
            validation = set()
            counts = table.groupby("image").size()
            often = counts[counts >= OFTEN * counts.median()]
            if len(often) >= N_OFTEN and len(often) < len(counts) / 2:
                test = set(often.index)
                log(f"test images: the {len(test)} shown {often.min()} times or more (--split)")
            else:
                test = draw_images(set(shown), self.test_share, self.seed, "test")
                log(f"test images: {len(test)} of {len(counts)}, drawn (--test, --split)")
        return split_trials(shown, test, validation, share=self.validation_share, seed=self.seed)

    def _given_splits(self) -> np.ndarray:
        split = self.table["split"].replace({"validation": "val"}).to_numpy(str)
        unknown = np.flatnonzero(~np.isin(split, SPLITS))
        if len(unknown):
            raise InputError(
                f"{self.row(unknown[0])}: expected {', '.join(SPLITS)} in the column "
                f"split, found {str(split[unknown[0]])!r}"
            )
        pairs = pd.DataFrame({"image": self.table["image"], "split": split}).drop_duplicates()
        twice = pairs["image"][pairs["image"].duplicated()]
        if len(twice):
            raise InputError(
                f"{self._names}: {twice.iloc[0]} is in two splits: a model would be tested on an "
                "image it was trained on; give all trials of an image one split"
            )
        if not (split == "val").any():
            chosen = draw_images(
                set(self.table["image"][split == "train"]), self.validation_share, self.seed
            )
            split[np.isin(self.table["image"].to_numpy(str), list(chosen)) & (split == "train")] = (
                "val"
            )
        return split

    # ------------------------------------------------------------------------- responses

    def rows_of_files(self) -> list[int]:
        """Trials in each file of responses (or of the left hemisphere), checked to be the table's.

        Raises
        ------
        InputError
            Another number than the table has rows; hemispheres that differ.
        """
        files = self.responses or self.left
        inside = self.place.inside if isinstance(self.place, Volume) else None
        counts = [n_trials_of(path, inside) for path in files]
        for left, right, n in zip(self.left, self.right, counts, strict=False):
            if n_trials_of(right, None) != n:
                raise InputError(
                    f"{right}: {n_trials_of(right, None)} trials, but {left} has {n}: expected the "
                    "two hemispheres of the same trials"
                )
        n = len(self.table)
        if sum(counts) != n:
            pairs = list(zip(files, counts, strict=True))
            each = ", ".join(f"{path.name} {k}" for path, k in pairs[:20])
            swapped = files[0].suffix == ".npy" and read_array(files[0]).shape[1:] == (n,)
            raise InputError(
                f"{self._names} has {n} rows, but the responses have {sum(counts)} trials "
                f"({each}{', …' if len(pairs) > 20 else ''}): expected one row a trial, in the "
                "same order"
                + (": trials are the first axis: save the transpose" if swapped else "")
            )
        return counts

    @cached_property
    def place(self) -> Geometry | None:
        """Where the voxels are: the mask's volume, the surface's vertices, or nowhere."""
        if self.on_surface:
            return self._vertices()
        for path in self.responses:
            shape = read_array(path).shape if path.suffix == ".npy" else ()
            if len(shape) == 4 and shape[1:3] == (1, 1):  # GLMsingle's of voxels without a grid
                raise InputError(
                    f"{path}: expected (n_trials, n_voxels), found {shape}: save betas[:, 0, 0].T"
                )
        if not self.mask:
            for path in self.responses:
                if path.suffix != ".npy" or read_array(path).ndim > 2:
                    raise InputError(
                        f"{path}: a volume needs a mask: pass --mask with a volume on the same "
                        "grid that is above 0 in the voxels to model (an ROI, or fMRIPrep's "
                        "*_desc-brain_mask.nii.gz)"
                    )
            return None
        values, image = read_3d(self.mask[0])
        if not (values > 0).any():
            raise InputError(f"{self.mask[0]}: expected voxels above 0, found none")
        for path in self.responses:
            if path.name.endswith((".nii", ".nii.gz")):
                check_same_grid(path, load_image(path), self.mask[0], image)
        return Volume.of(values > 0, image)

    def _vertices(self) -> Vertices:
        sizes = {}
        for h, (path, *_) in zip(HEMISPHERES, (self.left, self.right), strict=True):
            sizes[h] = n_vertices_of(path)
            expected = N_FSAVERAGE.get(self.space, sizes[h])
            if sizes[h] != expected:
                raise InputError(
                    f"{path}: expected the {expected:,} vertices of {self.space} in each trial, "
                    f"found {sizes[h]:,}: pass the --space it is in; of .npy, trials are the "
                    "first axis"
                )
        chosen = {h: np.arange(sizes[h]) for h in HEMISPHERES}
        for h, path in zip(HEMISPHERES, self.mask, strict=False):
            values = read_map(path)
            values = values[:, 0] if values.ndim == 2 else values
            if values.shape != (sizes[h],):
                raise InputError(
                    f"{path}: expected a mask of {sizes[h]:,} vertices, found {values.shape}"
                )
            chosen[h] = np.flatnonzero(values > 0)
        if not (len(chosen["left"]) or len(chosen["right"])):
            raise InputError(f"{self.mask[0]}: expected vertices above 0, found none")
        return Vertices(chosen["left"], chosen["right"], sizes, self.space)

    def read(self, index: int) -> np.ndarray:
        """Responses of one file (of both hemispheres): float32 (n_trials, n_voxels)."""
        values = self._stored(index)
        return values if self.divide_by == 1 else values / np.float32(self.divide_by)

    def _stored(self, index: int) -> np.ndarray:
        place = self.place
        if isinstance(place, Vertices):
            parts = [
                read_at_vertices(files[index], getattr(place, h), place.n_vertices[h])
                for h, files in zip(HEMISPHERES, (self.left, self.right), strict=True)
            ]
            return np.concatenate(parts, axis=1).astype(np.float32)
        path = self.responses[index]
        if path.suffix == ".npy":
            values = read_array(path)
            if values.ndim == 4 and isinstance(place, Volume):
                return np.ascontiguousarray(values[place.inside].T, np.float32)
            if place is not None and values.shape[1] != place.n_voxels:
                raise InputError(
                    f"{path}: expected the {place.n_voxels:,} voxels of {self.mask[0]} on the "
                    f"second axis, found {values.shape}: is it the mask of another subject?"
                )
            return np.array(values, np.float32)
        return read_masked(path, place.inside).astype(np.float32, copy=False)

    @property
    def n_voxels(self) -> int:
        place = self.place
        return read_array(self.responses[0]).shape[1] if place is None else place.n_voxels

    def voxel_table(self) -> pd.DataFrame:
        """What is known of each voxel: the user's table, and ROI volumes."""
        table = pd.DataFrame(index=range(self.n_voxels))
        if self.voxels is not None:
            given = read_table(self.voxels)
            if len(given) != self.n_voxels:
                raise InputError(
                    f"{self.voxels}: expected one row for each of the {self.n_voxels:,} voxels, "
                    f"found {len(given):,}"
                )
            for column in given.columns.drop(OWN_COLUMNS, errors="ignore"):
                table[column] = self._numbers_or_labels(given[column])
        for name, path in self.rois:
            if not isinstance(self.place, Volume):
                raise InputError(
                    f"--roi {name}: only with a volume --mask; otherwise put labels into --voxels"
                )
            if name in table:
                raise InputError(f"--roi {name}: the name is taken: {self.voxels} has that column")
            values, image = read_3d(path)
            check_same_grid(path, image, self.mask[0], self.place.mask)
            table[name] = np.where(values[self.place.inside] > 0, name, "")
        return table

    def _numbers_or_labels(self, given: pd.Series) -> pd.Series:
        """Numbers where every cell that holds something is one, else text; ncsnr must be numbers.

        One label that looks like a number ("4" beside "V4") leaves the others as they are.
        """
        text = given.str.strip()
        text = text.where(~text.str.lower().isin(NO_VALUE), "")
        numbers = pd.to_numeric(text, errors="coerce")
        other = np.flatnonzero((numbers.isna() & (text != "")).to_numpy())
        if given.name == "ncsnr" and len(other):
            raise InputError(
                f"{self.voxels}: row {other[0] + 2}: expected a number in the column ncsnr (n/a "
                f"where it is not known), found {given[other[0]]!r}"
            )
        return numbers if given.name == "ncsnr" or (not len(other) and (text != "").any()) else text

    def resamplings(self) -> dict[str, SurfaceResampling | VolumeResampling]:
        """How voxels reach fsaverage: of surfaces in fsaverage, and of volumes in MNI."""
        place = self.place
        if isinstance(place, Vertices) and place.space != "fsnative":
            vertices = {h: getattr(place, h) for h in HEMISPHERES}
            return {SURFACE_RESAMPLING: SurfaceResampling.from_vertices(vertices, place.n_vertices)}
        if isinstance(place, Volume) and self.space.upper().startswith("MNI"):
            return {SURFACE_RESAMPLING: mni_to_fsaverage(place)}
        return {}


def fingerprint(path: Path) -> str:
    """By what a file of responses is known again, without reading all of it.

    Name, size, and a checksum of pieces from its beginning to its end: betas of another fit have
    the same size.
    """
    size = path.stat().st_size
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for place in np.linspace(0, max(size - PIECE, 0), PIECES).astype(int).tolist():
            file.seek(place)
            digest.update(file.read(PIECE))
    return f"{path.name} ({size} bytes, sha256 of pieces {digest.hexdigest()})"


def read_3d(path: Path) -> tuple[np.ndarray, nib.spatialimages.SpatialImage]:
    """Values and image of a mask or region: one volume, with the affine that says where it is."""
    if path.suffix in (".npy", ".npz", ".mat"):
        raise InputError(
            f"{path}: expected a volume whose header says where its voxels are (NIfTI): save it "
            "with nibabel, with the affine of an image on the same grid"
        )
    values, image = read_volume(path)
    if values.ndim != 3:
        raise InputError(f"{path}: expected one 3-D volume, found {values.shape}")
    return values, image


def mni_to_fsaverage(place: Volume) -> SurfaceResampling:
    """Sample a volume in MNI at fsaverage5's vertices, between white and pial surface.

    As nilearn's ``vol_to_surf`` does with fsaverage: an average brain's surface in an average
    brain's volume, good for pictures and not for measurements.
    """
    inverse = np.linalg.inv(place.mask.affine)
    white, pial = fsaverage("white"), fsaverage("pial")
    layers = {}
    for h in HEMISPHERES:
        depths = [
            white[h].coordinates + share * (pial[h].coordinates - white[h].coordinates)
            for share in (0.25, 0.5, 0.75)
        ]
        layers[h] = np.stack([nib.affines.apply_affine(inverse, d) + 1 for d in depths])
    return SurfaceResampling.from_layers(place.inside, layers, None)


def prepare_experiment(
    experiment: Experiment,
    subject: str,
    folder: Path,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    log: Callable[[str], None] = lambda message: None,
) -> PreparedSubject:
    """Write a prepared subject from anybody's files.

    Parameters
    ----------
    experiment : Experiment
    subject : str
        Label.
    folder : path
        ``prepared/<dataset>/sub-01``. An interrupted run goes on where it stopped.
    progress : callable
        Told files done and their number.
    log : callable
        Told what was chosen and found.

    Raises
    ------
    MissingError, InputError
        What is wrong with the table, the images, the responses or the mask.
    """
    counts = experiment.rows_of_files()
    split = experiment.splits(log)
    shown = experiment.table["image"].to_numpy(str)
    check_splits(split, shown, "draw more with --test and --validation, or name them with --split")
    voxels, resamplings = experiment.voxel_table(), experiment.resamplings()
    order = np.argsort(experiment.table["session"].to_numpy(), kind="stable")
    session = experiment.table["session"].to_numpy()[order]
    trials = pd.DataFrame(
        {
            "trial": order,
            "session": session,
            "image": shown[order],
            "repeat": experiment.repeats()[order],
            "split": split[order],
        }
    )
    options = {"subject": subject, **experiment.options()}
    writer = PreparedWriter(folder, options, trials, experiment.n_voxels, experiment.standardize)
    _write_sessions(experiment, writer, order, counts, progress)
    voxels, reliability = add_ncsnr(voxels, writer)
    log(f"sub-{subject}: {describe_ncsnr(reliability)}")
    writer.finish(
        voxels,
        experiment.place,
        resamplings,
        Origin(
            name=f"Subject {subject}, prepared from {experiment.tables[0].name}",
            simulated=is_simulated(experiment.tables[0].parent),
            space=experiment.space,
            unit_before_standardization=experiment.unit,
            options={k: v for k, v in options.items() if k != "sources"},
            sources={name: {"bytes": size} for name, size in options["sources"].items()},
            noise_ceiling_snr=reliability,
        ),
    )
    return PreparedSubject(folder)


def _write_sessions(
    experiment: Experiment,
    writer: PreparedWriter,
    order: np.ndarray,
    counts: list[int],
    progress: Callable[[int, int], None],
) -> None:
    """Read file after file; write each session once its last trial has been read."""
    place_of = np.empty(len(order), int)  # row of the table → row among the sorted trials
    place_of[order] = np.arange(len(order))
    session_of = writer.trials["session"].to_numpy()
    unwritten: dict[int, np.ndarray] = {}
    left = {session: rows.stop - rows.start for session, rows in writer.rows.items()}
    first = 0
    for index, n in enumerate(counts):
        progress(index, len(counts))
        rows = place_of[first : first + n]
        above, first = first, first + n
        sessions = [s for s in dict.fromkeys(session_of[rows].tolist()) if s not in writer.done]
        if not sessions:
            continue
        values = experiment.read(index)
        source = (experiment.responses or experiment.left)[index]
        _check_finite(values, source, experiment, above)
        if values.shape[1] != writer.n_voxels:
            raise InputError(
                f"{source}: expected {writer.n_voxels} voxels as in the first file, found "
                f"{values.shape[1]}"
            )
        for session in sessions:
            span = writer.rows[session]
            chosen = session_of[rows] == session
            whole = unwritten.setdefault(
                session, np.empty((span.stop - span.start, writer.n_voxels), np.float32)
            )
            whole[rows[chosen] - span.start] = values[chosen]
            left[session] -= int(chosen.sum())
            if not left[session]:
                writer.write_session(session, unwritten.pop(session), str(source))
    progress(len(counts), len(counts))


def _check_finite(values: np.ndarray, source: Path, experiment: Experiment, above: int) -> None:
    """Raise `InputError` where a trial has no value; ``above`` rows of the table come before."""
    empty = np.flatnonzero(~np.isfinite(values).any(1))
    if len(empty) == len(values):
        raise InputError(
            f"{source}: no voxel has a finite value in any of the {len(values)} trials: is the "
            "mask that of these betas?"
        )
    if len(empty):
        raise InputError(
            f"{source}: {len(empty)} trials have no finite value (first: "
            f"{experiment.row(above + empty[0])}): leave them out of the table and of the responses"
        )
