"""Single-trial betas of NIfTI, HDF5, MGH and GIFTI files: of the voxels asked for alone."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
from isal import igzip

from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.surface import read_mgh_vertices
from synbrain_cli.io.volume import DAMAGED, damaged, load_image

_CHUNKS = 512  # HDF5 chunks gathered before they are transposed into place


def read_masked(path: Path | str, mask: np.ndarray) -> np.ndarray:
    """Read the masked voxels of a 4-D volume, one time point in memory at once.

    Parameters
    ----------
    path : path
        NIfTI, compressed or not; or HDF5 with the dataset ``betas`` (NSD's twin of each NIfTI
        file; GLMsingle's ``betasmd``), of which the masked voxels alone are read where its chunks
        allow.
    mask : bool array of shape (x, y, z)

    Returns
    -------
    array of shape (n_trials, n_voxels)
        Voxels in C order of the mask, in the file's own dtype; float32 where its header has a
        scaling, which is applied.

    Raises
    ------
    MissingError, InputError
        Absent, truncated, or of another grid.
    """
    path = Path(path)
    if path.suffix in (".hdf5", ".h5"):
        return _read_masked_hdf5(path, mask)
    image = load_image(path)
    if len(image.shape) != 4 or image.shape[:3] != mask.shape:
        raise InputError(
            f"{path}: expected a 4-D volume on the mask's grid {mask.shape}, found {image.shape}"
        )
    if not isinstance(image, nib.Nifti1Image):
        raise InputError(f"{path}: expected NIfTI, found {type(image).__name__}")
    dtype = image.header.get_data_dtype()
    n_trials = image.shape[3]
    # NIfTI is stored first axis fastest: index a flat volume in that order.
    index = np.ravel_multi_index(np.nonzero(mask), mask.shape, order="F")
    piece = np.empty(mask.size, dtype)
    out = np.empty((n_trials, index.size), dtype.newbyteorder("="))
    try:
        with _open_stream(path) as file:
            file.read(image.dataobj.offset)
            for trial in range(n_trials):
                if file.readinto(piece) != piece.nbytes:
                    raise EOFError(f"{trial} of {n_trials} volumes are whole")
                out[trial] = piece[index]
            file.read(1)  # at its end a gzip stream compares its checksum
    except DAMAGED as error:
        raise damaged(path, error) from error
    slope, intercept = image.header.get_slope_inter()
    if (slope or 1.0) != 1.0 or (intercept or 0.0) != 0.0:
        return out * np.float32(slope or 1.0) + np.float32(intercept or 0.0)
    return out


def _open_stream(path: Path) -> io.BufferedIOBase:
    return igzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def _read_masked_hdf5(path: Path, mask: np.ndarray) -> np.ndarray:
    """Masked voxels of the dataset ``betas``: (x, y, z, trial), or as MATLAB leaves it, reversed.

    NSD's chunks hold all trials of one voxel, uncompressed: those of the mask are read as they
    lie in the file, in its order. Other chunks are read slice by slice.
    """
    if not path.exists():
        raise MissingError(f"{path} does not exist")
    try:
        with h5py.File(path, "r") as file:
            betas = _betas(path, file)
            forward = betas.shape[:3] == mask.shape
            if betas.ndim != 4 or not (forward or betas.shape[:0:-1] == mask.shape):
                raise InputError(
                    f"{path}: expected a 4-D dataset on the mask's grid {mask.shape}, found "
                    f"{betas.shape}"
                )
            n_trials = betas.shape[3 if forward else 0]
            out = np.empty((n_trials, int(mask.sum())), betas.dtype.newbyteorder("="))
            whole = (1, 1, 1, n_trials) if forward else (n_trials, 1, 1, 1)
            if betas.chunks == whole and betas.compression is None and not betas.shuffle:
                voxels = np.argwhere(mask)
                if not forward:
                    voxels = voxels[:, ::-1]
                corners = np.insert(voxels, 3 if forward else 0, 0, axis=1).tolist()
                for some in _blocks(len(corners)):
                    out[:, some] = _direct_chunks(betas, [tuple(at) for at in corners[some]])
                return out
            done = 0
            for x in range(mask.shape[0]):
                inside = mask[x]
                if inside.any():
                    slab = betas[x] if forward else betas[:, :, :, x].T
                    out[:, done : done + inside.sum()] = slab[inside].T
                    done += int(inside.sum())
            return out
    except InputError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        raise damaged(path, error) from error


def read_at_vertices(path: Path | str, vertices: np.ndarray, n_vertices: int) -> np.ndarray:
    """Read some vertices of one hemisphere's betas.

    Parameters
    ----------
    path : path
        ``.mgh`` or ``.mgz`` of shape (n_vertices, 1, 1, n_trials); ``.hdf5`` with the dataset
        ``betas`` (n_trials, n_vertices), as NSD's native surfaces; GIFTI, one array a trial; or
        ``.npy`` (n_trials, n_vertices).
    vertices : int array
        0-based, ascending.
    n_vertices : int
        Of the whole hemisphere.

    Returns
    -------
    array of shape (n_trials, len(vertices))
        In the file's own dtype and the machine's byte order.

    Raises
    ------
    MissingError, InputError
        Absent, truncated, or of another surface.
    """
    path = Path(path)
    if not path.exists():
        raise MissingError(f"{path} does not exist")
    try:
        if path.suffix in (".hdf5", ".h5"):
            with h5py.File(path, "r") as file:
                return _at_vertices_hdf5(path, _betas(path, file), vertices, n_vertices)
        if path.suffix == ".npy":
            stored = read_array(path)
        elif path.suffix == ".gii":
            stored = np.stack([array.data for array in load_image(path).darrays])
        else:
            stored = np.asanyarray(load_image(path).dataobj.get_unscaled())
            if stored.ndim == 4:  # one trial after the other in the file, vertices fastest
                stored = stored.reshape(-1, stored.shape[3], order="F").T
        if stored.ndim != 2 or stored.shape[1] != n_vertices:
            raise _other_surface(path, stored.shape, n_vertices)
        out = np.empty((len(stored), len(vertices)), stored.dtype.newbyteorder("="))
        for trial, row in enumerate(stored):
            out[trial] = row[vertices]
        return out
    except InputError:
        raise
    except (*DAMAGED, ValueError, TypeError) as error:
        raise damaged(path, error) from error


def read_array(path: Path | str) -> np.ndarray:
    """Open a ``.npy`` of numbers, memory-mapped.

    Raises
    ------
    MissingError, InputError
        Absent, truncated, or a pickled object (GLMsingle's TYPED… file).
    """
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise MissingError(f"{path} does not exist") from error
    except (ValueError, EOFError, OSError) as error:
        advice = (
            "it holds a Python object, which is not opened because it could run any code; of "
            "GLMsingle's file save the betas alone: np.save('betas.npy', np.load(FILE, "
            "allow_pickle=True).item()['betasmd'])"
            if "pickle" in str(error).lower() or "object" in str(error).lower()
            else f"truncated or damaged ({error}): copy it again"
        )
        raise InputError(f"{path}: expected an array of numbers (.npy): {advice}") from error
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "iuf":
        raise InputError(f"{path}: expected an array of numbers (.npy), found something else")
    return values


def read_map(path: Path | str) -> np.ndarray:
    """Read a whole surface file: (n_vertices,) or (n_vertices, n_maps)."""
    path = Path(path)
    if path.suffix == ".npy":
        values = read_array(path)
        return values.T if values.ndim == 2 else values
    if path.suffix == ".gii":
        return np.stack([array.data for array in load_image(path).darrays], axis=1)
    return read_mgh_vertices(path)


def n_trials_of(path: Path | str, inside: np.ndarray | None) -> int:
    """Trials that a file of responses holds, from its header alone.

    Parameters
    ----------
    path : path
        As for `read_masked` or `read_at_vertices`.
    inside : bool array, optional
        Mask of a volume, to tell the trials' axis from the others; None for surfaces and arrays.
    """
    path = Path(path)
    if path.suffix == ".npy":
        shape = read_array(path).shape
        if len(shape) == 4 and inside is not None and shape[:3] == inside.shape:
            return shape[3]
        if len(shape) != 2:
            grid = "" if inside is None else f", or {(*inside.shape, 'n_trials')} as the mask"
            raise InputError(f"{path}: expected (n_trials, n_voxels){grid}; found {shape}")
        return shape[0]
    if path.suffix in (".hdf5", ".h5"):
        try:
            with h5py.File(path, "r") as file:
                betas = _betas(path, file)
                forward = inside is not None and betas.shape[:3] == inside.shape
                return betas.shape[3 if forward else 0]
        except OSError as error:
            raise damaged(path, error) from error
    image = load_image(path)
    if path.suffix == ".gii":
        return len(image.darrays)
    return image.shape[3] if len(image.shape) > 3 else 1


def _betas(path: Path, file: h5py.File) -> h5py.Dataset:
    """The dataset of betas: NSD's name, or GLMsingle's."""
    for name in ("betas", "betasmd"):
        if name in file:
            return file[name]
    raise InputError(f"{path}: expected the dataset betas, found {', '.join(file) or 'none'}")


def _other_surface(path: Path, found: tuple[int, ...], n_vertices: int) -> InputError:
    return InputError(
        f"{path}: expected the {n_vertices:,} vertices of this hemisphere in each trial, found "
        f"{found}: is it of the same subject, hemisphere and surface?"
    )


def _at_vertices_hdf5(
    path: Path, betas: h5py.Dataset, vertices: np.ndarray, n_vertices: int
) -> np.ndarray:
    if betas.ndim != 2 or betas.shape[1] != n_vertices:
        raise _other_surface(path, betas.shape, n_vertices)
    n_trials = betas.shape[0]
    out = np.empty((n_trials, len(vertices)), betas.dtype.newbyteorder("="))
    if betas.chunks == (n_trials, 1) and betas.compression is None and not betas.shuffle:
        for some in _blocks(len(vertices)):
            out[:, some] = _direct_chunks(betas, [(0, v) for v in vertices[some].tolist()])
        return out
    for trial in range(0, n_trials, 64):
        out[trial : trial + 64] = betas[trial : trial + 64][:, vertices]
    return out


def _blocks(n: int) -> Iterator[slice]:
    for start in range(0, n, _CHUNKS):
        yield slice(start, min(start + _CHUNKS, n))


def _direct_chunks(betas: h5py.Dataset, chunks: list[tuple[int, ...]]) -> np.ndarray:
    """Uncompressed chunks that each hold all trials of one voxel: (n_trials, n_chunks).

    HDF5's own selection of scattered voxels is slower than reading the whole file.
    """
    columns = [np.frombuffer(betas.id.read_direct_chunk(at)[1], betas.dtype) for at in chunks]
    return np.stack(columns, axis=1)
