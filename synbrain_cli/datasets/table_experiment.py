"""Files and options of one subject of any experiment, for `synbrain prepare table`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from synbrain_cli.errors import InputError
from synbrain_cli.io.files import sha256
from synbrain_cli.io.fslr import FSLR
from synbrain_cli.io.surface import N_FSAVERAGE
from synbrain_cli.io.voxel_space import POSITION_COLUMNS
from synbrain_cli.labels import roi_label
from synbrain_cli.paths import require_regular_file

SURFACES = (*N_FSAVERAGE, "fsnative", FSLR)
VOLUMES = (".npy", ".nii", ".nii.gz", ".hdf5", ".h5")
MAPS = (".npy", ".mgh", ".mgz", ".gii", ".gii.gz")
OWN_COLUMNS = [*POSITION_COLUMNS, "ncsnr_recomputed"]  # written to voxels.tsv by synbrain itself
PIECES, PIECE = 64, 4096  # number and size (bytes) of the pieces that identify a file


@dataclass(frozen=True)
class Experiment:
    """Files and options of one subject.

    Attributes
    ----------
    trials : path, or tuple of paths
        Table (.tsv, .csv), or several tables that are concatenated, with one row per trial in the
        order of the responses. Columns are ``image``, and optionally ``session`` (whole numbers
        from 1), ``repeat``, ``split`` (train, val, test) and ``group`` (what the image belongs to:
        an object, scene, film or photograph); others are ignored.
    images : path, optional
        Folder of the images, which the table names with or without their suffix; None where only
        their tokens are known.
    responses : tuple of paths
        ``.npy`` (n_trials, n_voxels) or (x, y, z, n_trials), 4-D NIfTI, or HDF5 with ``betas`` or
        ``betasmd``. Empty for surfaces.
    left, right : tuples of paths
        Surface maps of the hemispheres: ``.npy`` (n_trials, n_vertices), MGH or GIFTI.
    mask : tuple of paths
        One volume with values above 0 inside, or one map per hemisphere.
    voxels : path, optional
        Table with one row per voxel, in the order of the responses: ``ncsnr`` and columns of
        labels.
    rois : tuple of (name, path)
        Volumes on the grid of the mask, with values above 0 inside the ROI.
    image_column : str, optional
        Column with the images, where it is not ``image`` or ``stim_file``.
    space : str
        One of `SURFACES` for surfaces. For volumes a name for the record ("T1w"); if it begins with
        MNI, maps can be plotted on fsaverage.
    unit : str
        Unit of the responses after the division, for records and colour bars.
    divide_by : float
        Number by which responses are divided: 300 for the integers of NSD.
    averaged_over : int
        Trials that each row is the average of, where rows are averages and not single trials.
    standardize : {"session", "train", "none"}
        Standardisation, as in `synbrain_cli.io.prepared_writer.PreparedWriter`.
    split : path, optional
        List of splits (`synbrain_cli.datasets.splits.read_split_list`).
    leave_out : bool
        No fixed test images: an evaluation leaves out images or groups by turns.
    test_share, validation_share : float
        Shares of test and validation images, where neither table nor list defines them (ours).
    seed : int
        Seed of the random choice of these images.

    Raises
    ------
    MissingError, InputError
        When options do not go together, or a file is absent or of another kind.
    """

    trials: Path | tuple[Path, ...]
    images: Path | None
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
    averaged_over: int = 1
    standardize: str = "session"
    split: Path | None = None
    test_share: float = 0.15
    validation_share: float = 0.1
    seed: int = 0
    leave_out: bool = False

    def __post_init__(self) -> None:
        self._check_options()
        self._check_files()
        names = [name for name, _ in self.rois]
        for name in map(roi_label, names):
            if names.count(name) > 1 or name in (*OWN_COLUMNS, "ncsnr"):
                raise InputError(
                    f"--roi {name}: the name is taken: give each region a name of its own"
                )

    def _check_options(self) -> None:
        """Raise an `InputError` when options do not go together."""
        if self.leave_out and self.split is not None:
            raise InputError("--split: expected leave-out or a table of splits, found both")
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
        with np.errstate(all="ignore"):
            divisor = np.float32(self.divide_by)
        if not np.isfinite(divisor) or divisor == 0:
            raise InputError(
                f"--divide-by {self.divide_by}: expected a number other than 0, within the range "
                "of float32"
            )
        if self.averaged_over < 1:
            raise InputError(
                f"--averaged-over {self.averaged_over}: expected 1 or more: 1 where rows are "
                "single trials"
            )

    def _check_files(self) -> None:
        """Raise a `MissingError` or `InputError` for files that are absent or of another kind."""
        lists = [path for path in (self.voxels, self.split) if path is not None]
        regions = [path for _, path in self.rois]
        for path in (*self.tables, *lists, *self.files, *self.mask, *regions):
            require_regular_file(path)
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
            raise InputError(f"{twice[0]} is given twice: name each file of responses once")

    @property
    def tables(self) -> tuple[Path, ...]:
        """Tables of trials, in the order given."""
        return self.trials if isinstance(self.trials, tuple) else (self.trials,)

    @property
    def on_surface(self) -> bool:
        """Whether responses are surface maps."""
        return bool(self.left)

    @property
    def files(self) -> tuple[Path, ...]:
        """Files of responses: on a surface the left hemisphere's, then the right's."""
        return self.responses or (*self.left, *self.right)

    @property
    def table_names(self) -> str:
        """Names of the tables of trials, for messages."""
        return ", ".join(map(str, self.tables))

    def options(self) -> dict[str, Any]:
        """Return the options on which the content depends, with checksums of files."""
        options = {k: v for k, v in asdict(self).items() if k not in ("responses", "left", "right")}
        if not self.leave_out:  # subjects that were prepared before there was the choice
            del options["leave_out"]
        for name in ("voxels", "split"):
            if options[name] is not None:
                options[name] = f"{options[name].name} (sha256 {sha256(options[name])})"
        options["trials"] = [f"{path.name} (sha256 {sha256(path)})" for path in self.tables]
        options["mask"] = [sha256(path) for path in self.mask]
        options["rois"] = {name: sha256(path) for name, path in self.rois}
        if self.images is not None:
            options["images"] = str(self.images)
        options["responses"] = [fingerprint(path) for path in self.files]
        options["sources"] = {str(path): path.stat().st_size for path in self.files}
        return json.loads(json.dumps(options))


def fingerprint(path: Path) -> str:
    """Return a text that identifies a file of responses, without reading all of the file.

    It holds the name, the size, and a checksum of pieces from the beginning to the end of the
    file, because the betas of another fit have the same size.
    """
    size = path.stat().st_size
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for offset in np.linspace(0, max(size - PIECE, 0), PIECES).astype(int).tolist():
            file.seek(offset)
            digest.update(file.read(PIECE))
    return f"{path.name} ({size} bytes, sha256 of pieces {digest.hexdigest()})"
