"""Files of GLMsingle (Prince et al. 2022, eLife 11:e77599): single-trial betas, maps, and design.

Both implementations write them, and their layouts differ:

=================  =====================================  ======================================
                   Python                                 MATLAB
=================  =====================================  ======================================
files              ``TYPED_….npy``, a pickled dictionary,  ``TYPED_….mat``, version 7.3 (HDF5);
                   or ``.hdf5`` (``wanthdf5``)             saved again, also version 7
betas              ``betasmd``                            ``modelmd``
axes               (x, y, z, trials); of data without a   the same, in reverse where the file is
                   grid (voxels, 1, 1, trials)            HDF5
design             ``DESIGNINFO.npy``                     ``DESIGNINFO.mat``
conditions         counted from 0                         counted from 1
=================  =====================================  ======================================

(cvnlab/GLMsingle, ``glmsingle/glmsingle.py`` and ``matlab/GLMestimatesingletrial.m``.) Arrays of
(voxels, trials) are read, too. Betas stay on the disk, and are read trial by trial or voxel by
voxel, as they lie there; nothing in a file is run (`synbrain_cli.io.pickled`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from synbrain_cli.errors import InputError
from synbrain_cli.io.mat import read_mat
from synbrain_cli.io.pickled import PickledDict
from synbrain_cli.io.reading import reading
from synbrain_cli.io.values import as_float32
from synbrain_cli.memory import release

WHAT = "output of GLMsingle"
DESIGN = "DESIGNINFO"
SUFFIXES = (".npy", ".hdf5", ".h5", ".mat")
_BETAS = ("betasmd", "modelmd")
_BLOCK = 1 << 26  # bytes that are read at a time
_HDF5 = b"\x89HDF\r\n\x1a\n"


class _Entries(Protocol):
    """Named arrays of a file, of any format."""

    def __contains__(self, name: str) -> bool: ...
    def keys(self) -> list[str]: ...
    def array(self, name: str) -> Any: ...
    def arrays(self, name: str) -> list[np.ndarray]: ...
    def inner(self, name: str) -> _Entries | None: ...


class _HDF5Entries:
    """Arrays of an HDF5 file, also of MATLAB, whose cells are references to arrays."""

    def __init__(self, path: Path, group: h5py.Group) -> None:
        self.path, self._group = path, group

    def __contains__(self, name: str) -> bool:
        found = self._group.get(name)
        return isinstance(found, h5py.Dataset) and bool(found.shape) and bool(found.size)

    def keys(self) -> list[str]:
        return list(self._group)

    def array(self, name: str) -> h5py.Dataset:
        found: h5py.Dataset = self._group[name]
        return found

    def arrays(self, name: str) -> list[np.ndarray]:
        with reading(self.path, WHAT):
            found = self._group[name]
            if isinstance(found, h5py.Group):  # lists of arrays of different shapes, of Python
                return [np.asarray(found[key]) for key in sorted(found, key=int)]
            if found.dtype == h5py.ref_dtype:
                return [np.asarray(self._group.file[one]).T for one in found[:].ravel()]
            return list(np.asarray(found))

    def inner(self, name: str) -> _HDF5Entries | None:
        found = self._group.get(name)
        return _HDF5Entries(self.path, found) if isinstance(found, h5py.Group) else None


class _MatEntries:
    """Arrays of a MATLAB file of version 5 to 7; cells and structures are not read."""

    def __init__(self, path: Path) -> None:
        with reading(path, WHAT):
            self._arrays = read_mat(path)

    def __contains__(self, name: str) -> bool:
        return name in self._arrays and bool(self._arrays[name].size)

    def keys(self) -> list[str]:
        return list(self._arrays)

    def array(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def arrays(self, name: str) -> list[np.ndarray]:
        return [self._arrays[name]]

    def inner(self, name: str) -> None:
        return None


def _open(path: Path) -> tuple[_Entries, bool, bool]:
    """Return a file's arrays, whether MATLAB wrote it, and whether its axes are reversed."""
    with reading(path, WHAT):
        with path.open("rb") as file:
            start = file.read(8)
            if path.suffix == ".mat" and start != _HDF5:
                file.seek(512)  # MATLAB puts its own header before that of HDF5
                start = file.read(8)
        if start == _HDF5:
            opened = h5py.File(path, "r")
            matlab = path.suffix == ".mat" or any(
                "MATLAB_class" in one.attrs for one in opened.values()
            )
            return _HDF5Entries(path, opened), matlab, matlab
    if path.suffix == ".mat":
        return _MatEntries(path), True, False
    return PickledDict(path, WHAT), False, False


@dataclass(frozen=True)
class GLMsingleFit:
    """One output file: betas of all trials, and maps.

    Attributes
    ----------
    path : Path
    """

    path: Path

    @cached_property
    def _opened(self) -> tuple[_Entries, bool, bool]:
        return _open(self.path)

    @property
    def from_matlab(self) -> bool:
        """Whether MATLAB wrote the file: voxels without a grid are in its order (x fastest)."""
        return self._opened[1]

    @property
    def _trials_first(self) -> bool:
        return self._opened[2]

    @cached_property
    def _betas(self) -> Any:
        entries = self._opened[0]
        name = next((name for name in _BETAS if name in entries), None)
        if name is None:
            raise InputError(
                f"{self.path}: expected single-trial betas, betasmd (Python) or modelmd (MATLAB), "
                f"found {', '.join(map(str, entries.keys()[:8])) or 'nothing'}: is it a file of "
                "types B, C or D?"
            )
        betas = entries.array(name)
        if betas.dtype.kind not in "iuf" or betas.ndim not in (2, 4):
            raise InputError(
                f"{self.path}: expected {name} as numbers of shape (x, y, z, trials) or (voxels, "
                f"trials), found {betas.dtype} of shape {betas.shape}"
            )
        return betas

    @cached_property
    def _shape(self) -> tuple[tuple[int, ...], bool]:
        """Shape of the betas, and whether their axes are reversed: kept when the file is closed."""
        return tuple(self._betas.shape), self._trials_first

    def close(self) -> None:
        """Give back the memory that the content takes; it is read again when it is needed."""
        for name in ("_betas", "_opened"):
            self.__dict__.pop(name, None)

    @property
    def n_trials(self) -> int:
        """Number of trials."""
        shape, trials_first = self._shape
        return shape[0 if trials_first else -1]

    @property
    def grid(self) -> tuple[int, ...]:
        """Shape (x, y, z), or (n_voxels,) of data without a grid."""
        shape, trials_first = self._shape
        spatial = shape[:0:-1] if trials_first else shape[:-1]
        return spatial[:1] if spatial[1:] in ((), (1, 1)) else spatial

    def index_of(self, inside: NDArray[np.bool_] | None, mask: str) -> NDArray[np.intp]:
        """Return where the voxels of a mask lie among the file's.

        Parameters
        ----------
        inside : bool array of shape (x, y, z), optional
            None: all voxels, of data without a grid.
        mask : str
            Name of its file, for messages.

        Returns
        -------
        int array of shape (n_voxels,)
            Voxels in C order of the mask. Of data without a grid, which are all voxels of the grid
            or those of the mask, rows are in C order where Python wrote the file, and x varies
            fastest where MATLAB did.

        Raises
        ------
        InputError
            When mask and betas do not belong together.
        """
        grid, n_voxels = self.grid, math.prod(self.grid)
        if inside is None:
            if len(grid) > 1:
                raise InputError(
                    f"{self.path}: betas on a grid {grid} need a mask: pass --mask with a volume "
                    "on the same grid that is above 0 in the voxels to model"
                )
            return np.arange(n_voxels)
        order: Any = "F" if self.from_matlab else "C"
        if len(grid) > 1 and grid == inside.shape:
            order = "F" if self._trials_first else "C"
        elif len(grid) > 1 or n_voxels not in (inside.size, int(inside.sum())):
            found = f"{grid}" if len(grid) > 1 else f"{n_voxels:,} voxels"
            raise InputError(
                f"{self.path}: expected betas on the grid {inside.shape} of {mask}, or of its "
                f"{inside.sum():,} voxels, found {found}: pass the mask of these betas"
            )
        if len(grid) == 1 and n_voxels != inside.size:  # rows are the voxels of the mask
            rank = np.cumsum(inside.ravel(order)) - 1
            return rank.reshape(inside.shape, order=order)[inside]
        return np.ravel_multi_index(np.nonzero(inside), inside.shape, order=order)

    def read(self, rows: slice, index: NDArray[np.intp]) -> NDArray[np.float32]:
        """Read the betas of consecutive trials at some voxels.

        Parameters
        ----------
        rows : slice
        index : int array of shape (n_voxels,)
            From `index_of`.

        Returns
        -------
        float32 array of shape (n_trials, n_voxels)
            In the unit of the file.
        """
        betas, n = self._betas, rows.stop - rows.start
        out = np.empty((n, len(index)), np.float32)
        with reading(self.path, WHAT):
            if self._trials_first:
                step = self._step(math.prod(betas.shape[1:]))
                for first in range(rows.start, rows.stop, step):
                    last = min(first + step, rows.stop)
                    values = np.asarray(betas[first:last]).reshape(last - first, -1)[:, index]
                    out[first - rows.start : last - rows.start] = as_float32(values, self.path)
                return out
            for start, stop, some in self._spans(index, math.prod(betas.shape[1:-1]) * n):
                values = np.asarray(betas[start:stop, ..., rows]).reshape(-1, n)
                offset = start * math.prod(betas.shape[1:-1])
                out[:, some] = as_float32(values[index[some] - offset].T, self.path)
                release(betas)
        return out

    def _step(self, n_each: int) -> int:
        return max(1, _BLOCK // (n_each * self._betas.dtype.itemsize))

    def _spans(
        self, index: NDArray[np.intp], n_each: int
    ) -> Iterator[tuple[int, int, NDArray[np.intp]]]:
        """Parts of the first axis that hold some of the voxels, and which these are."""
        step, rest = self._step(n_each), math.prod(self._betas.shape[1:-1])
        part = index // (rest * step)
        for k in np.unique(part).tolist():
            last = min((k + 1) * step, self._betas.shape[0])
            yield k * step, last, np.flatnonzero(part == k)

    def map(self, name: str, index: NDArray[np.intp]) -> NDArray[np.float64] | None:
        """Return a map at some voxels: (n_voxels,), or (n_voxels, n) of several; None without.

        Raises
        ------
        InputError
            When it has another number of voxels than the betas.
        """
        entries, n_voxels = self._opened[0], math.prod(self.grid)
        if name not in entries:
            if entries.inner(name) is not None:
                raise InputError(
                    f"{self.path}: expected numbers in {name}, found a group of others"
                )
            return None
        with reading(self.path, WHAT):
            values = np.asarray(entries.array(name))
            if values.dtype.kind not in "biuf" or values.size % n_voxels:
                raise InputError(
                    f"{self.path}: expected {name} at the {n_voxels:,} voxels of the betas, found "
                    f"{values.dtype} of shape {values.shape}"
                )
            if self._trials_first:
                several = values.reshape(-1, n_voxels)[:, index].T
            else:
                several = values.reshape(n_voxels, -1)[index]
        found: NDArray[np.float64] = several.astype(np.float64)
        return found[:, 0] if found.shape[1] == 1 else found


@dataclass(frozen=True)
class GLMsingleDesign:
    """What was shown when: ``DESIGNINFO``.

    Attributes
    ----------
    path : Path
    conditions : int array of shape (n_trials,)
        Condition of each trial in the order of time, counted from 0: column of the design.
    sessions : int array of shape (n_trials,)
        Session of each trial, 1, 2, …, as ``sessionindicator`` says; all 1 without.
    n_conditions : int
    is_percent : bool
        Whether betas are in percent signal change.
    """

    path: Path
    conditions: NDArray[np.intp]
    sessions: NDArray[np.intp]
    n_conditions: int
    is_percent: bool = True

    @classmethod
    def read(cls, path: Path) -> GLMsingleDesign:
        """Read the design that GLMsingle saved beside its results.

        Raises
        ------
        InputError
            When its parts contradict one another, or something is missing.
        """
        entries, matlab, _ = _open(path)
        with reading(path, "the design of GLMsingle"):
            order = _numbers(entries, "stimorder")
            if order is None:
                raise InputError(f"{path}: expected stimorder, the condition of each trial")
            counts, per_run = _numbers(entries, "condcounts"), _numbers(entries, "numtrialrun")
            order = order - int(matlab)
            shown = _from_matrices(entries)
        n_conditions = int(order.max(initial=0)) + 1 if counts is None else len(counts)
        fault = None
        if not len(order) or order.min() < 0 or order.max() >= n_conditions:
            lowest, highest = order.min(initial=n_conditions), order.max(initial=-1)
            fault = f"conditions of stimorder from {lowest} to {highest}"
        elif counts is not None and (np.bincount(order, minlength=n_conditions) != counts).any():
            fault = "condcounts that are not those of stimorder"
        elif per_run is not None and per_run.sum() != len(order):
            fault = f"{per_run.sum()} trials in numtrialrun and {len(order)} in stimorder"
        elif shown is not None and not np.array_equal(shown, order):
            fault = "a stimorder that is not that of the design matrices"
        if fault:
            raise InputError(f"{path}: expected one design, found {fault}: copy the file again")
        options = entries.inner("params") or entries.inner("opt")
        sessions = _sessions(path, options, per_run, len(order))
        percent = None if options is None else _numbers(options, "wantpercentbold")
        return cls(path, order, sessions, n_conditions, percent is None or bool(percent.all()))


def _numbers(entries: _Entries, name: str) -> NDArray[np.intp] | None:
    """Whole numbers of a vector; None where it is absent."""
    if name not in entries:
        return None
    values = np.asarray(entries.array(name), np.float64).ravel()
    if not (np.isfinite(values).all() and (values == np.round(values)).all()):
        raise ValueError(f"{name} holds numbers that are not whole")
    if np.abs(values).max(initial=0) > 1e9:
        raise ValueError(f"{name} holds numbers beyond any experiment")
    return values.astype(np.intp)


def _from_matrices(entries: _Entries) -> NDArray[np.intp] | None:
    """Condition of each trial by the design matrices (time × conditions); None without them."""
    if "design" not in entries:
        return None
    matrices = entries.arrays("design")
    if any(one.ndim != 2 for one in matrices):
        return None
    return np.concatenate([np.nonzero(one)[1] for one in matrices])


def _sessions(
    path: Path, options: _Entries | None, per_run: NDArray[np.intp] | None, n_trials: int
) -> NDArray[np.intp]:
    """Session of each trial by the sessions of the runs."""
    indicator = None
    if options is not None:
        with reading(path, "the design of GLMsingle"):
            indicator = _numbers(options, "sessionindicator")
    if indicator is None or per_run is None or len(np.unique(indicator)) == 1:
        return np.ones(n_trials, np.intp)
    if len(indicator) != len(per_run):
        raise InputError(
            f"{path}: expected a session for each of the {len(per_run)} runs in sessionindicator, "
            f"found {len(indicator)}"
        )
    return np.repeat(np.unique(indicator, return_inverse=True)[1] + 1, per_run)
