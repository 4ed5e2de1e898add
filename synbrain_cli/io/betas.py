"""Reading single-trial betas of selected voxels from NIfTI, HDF5, MGH, GIFTI and NumPy files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np

from synbrain_cli.errors import InputError
from synbrain_cli.io.arrays import map_array
from synbrain_cli.io.reading import AGAIN, reading
from synbrain_cli.io.surface import read_mgh_vertices
from synbrain_cli.io.volume import load_image, open_stream, read_to_end

_CHUNKS = 512  # HDF5 chunks that are read before they are transposed into the output
_HDF5 = (".hdf5", ".h5")


def read_masked(path: Path | str, mask: np.ndarray) -> np.ndarray:
    """Read the masked voxels of a 4-D volume, with one trial in memory at a time.

    Parameters
    ----------
    path : path
        NIfTI, compressed or not (a 3-D image is one trial); or HDF5 with the dataset ``betas``
        (NSD provides one for each NIfTI file) or ``betasmd`` (GLMsingle). Only the masked voxels
        of an HDF5 file are read where its chunks allow it.
    mask : bool array of shape (x, y, z)
        The voxels to read.

    Returns
    -------
    array of shape (n_trials, n_voxels)
        Voxels in C order of the mask, in the dtype of the file; float32 where the header holds a
        scaling, which is applied.

    Raises
    ------
    MissingError, InputError
        When the file is absent, truncated, or not on the grid of the mask.
    """
    path = Path(path)
    with reading(path, "a file of responses or of a map"):
        if path.suffix in _HDF5:
            return _read_masked_hdf5(path, mask)
        image = load_image(path)
        if not isinstance(image, nib.Nifti1Image):
            raise InputError(f"{path}: expected NIfTI, found {type(image).__name__}")
        if len(image.shape) not in (3, 4) or image.shape[:3] != mask.shape:
            raise InputError(
                f"{path}: expected a 4-D volume on the mask's grid {mask.shape}, found "
                f"{image.shape}"
            )
        # In a NIfTI file the first axis varies fastest.
        index = np.ravel_multi_index(np.nonzero(mask), mask.shape, order="F")
        return _read_trials(path, image, index)


def _read_trials(
    path: Path, image: nib.Nifti1Image | nib.MGHImage, index: np.ndarray
) -> np.ndarray:
    """Read the values at ``index`` of every trial: (n_trials, n_indices). Trials are contiguous."""
    dtype = image.get_data_dtype()
    n_trials = (*image.shape, 1)[3]
    piece = np.empty(int(np.prod(image.shape[:3])), dtype)
    out = np.empty((n_trials, index.size), dtype.newbyteorder("="))
    with open_stream(path) as file:
        file.read(image.dataobj.offset)
        for trial in range(n_trials):
            if file.readinto(piece.data) != piece.nbytes:
                raise EOFError(f"only {trial} of {n_trials} volumes are complete")
            out[trial] = piece[index]
        read_to_end(path, file, image)
    slope, intercept = image.dataobj.slope, image.dataobj.inter
    if slope != 1 or intercept != 0:
        with np.errstate(all="ignore"):  # numbers that overflow become infinite: see as_float32
            return out.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    return out


def _read_masked_hdf5(path: Path, mask: np.ndarray) -> np.ndarray:
    """Read the masked voxels of the betas of an HDF5 file.

    The axes are (x, y, z, trial), or the reverse in files that MATLAB wrote. Each chunk of NSD's
    files holds all trials of one voxel without compression, so that the chunks of the mask can be
    read directly. Other files are read slice by slice.
    """
    with h5py.File(path, "r") as file:
        betas = _betas(path, file)
        n_trials, forward = _axes(path, betas.shape, mask)
        out = np.empty((n_trials, int(mask.sum())), betas.dtype.newbyteorder("="))
        whole = (1, 1, 1, n_trials) if forward else (n_trials, 1, 1, 1)
        if _as_stored(betas, whole):
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


def _axes(path: Path, shape: tuple[int, ...], mask: np.ndarray) -> tuple[int, bool]:
    """Return the number of trials, and whether axes are (x, y, z, trial) or the reverse."""
    forward = len(shape) == 4 and shape[:3] == mask.shape
    backward = len(shape) == 4 and shape[:0:-1] == mask.shape
    if not (forward or backward):
        raise InputError(
            f"{path}: expected a 4-D dataset on the mask's grid {mask.shape}, found {shape}: "
            "pass the mask of these betas"
        )
    if forward and backward:
        raise InputError(
            f"{path}: the order of the axes is ambiguous, because {shape} fits the mask's grid "
            f"{mask.shape} both forwards and, as MATLAB writes it, backwards: save the betas as "
            ".npy (x, y, z, n_trials)"
        )
    return shape[3 if forward else 0], forward


def read_at_vertices(path: Path | str, vertices: np.ndarray, n_vertices: int) -> np.ndarray:
    """Read the betas of selected vertices of one hemisphere.

    Parameters
    ----------
    path : path
        ``.mgh`` or ``.mgz`` of shape (n_vertices, 1, 1, n_trials); ``.hdf5`` with the dataset
        ``betas`` (n_trials, n_vertices), as for NSD's native surfaces; GIFTI with one array per
        trial; or ``.npy`` (n_trials, n_vertices).
    vertices : int array of shape (n_chosen,)
        0-based vertices to read, ascending.
    n_vertices : int
        Number of vertices of the whole hemisphere.

    Returns
    -------
    array of shape (n_trials, n_chosen)
        In the dtype of the file and the byte order of the machine.

    Raises
    ------
    MissingError, InputError
        When the file is absent, truncated, or of another surface.
    """
    path = Path(path)
    with reading(path, "a file of responses or of a map"):
        if path.suffix in _HDF5:
            with h5py.File(path, "r") as file:
                return _at_vertices_hdf5(path, _betas(path, file), vertices, n_vertices)
        if path.suffix == ".npy" or _is_gifti(path):
            stored = _gifti(path) if _is_gifti(path) else read_array(path)
            if stored.ndim != 2 or stored.shape[1] != n_vertices:
                raise _other_surface(path, stored.shape, n_vertices)
            out = np.empty((len(stored), len(vertices)), stored.dtype.newbyteorder("="))
            for trial, row in enumerate(stored):
                out[trial] = row[vertices]
            return out
        image = load_image(path)
        if not isinstance(image, nib.MGHImage | nib.Nifti1Image):
            raise InputError(f"{path}: expected MGH, found {type(image).__name__}")
        if np.prod(image.shape[:3]) != n_vertices or len(image.shape) > 4:
            raise _other_surface(path, image.shape, n_vertices)
        return _read_trials(path, image, vertices)


def read_array(path: Path | str) -> np.ndarray:
    """Open a ``.npy`` file of numbers as a memory map.

    Raises
    ------
    MissingError, InputError
        When the file is absent, truncated, or holds a pickled object (GLMsingle's TYPED… file).
    """
    path = Path(path)
    with reading(path, "a file of responses or of a map"):
        with path.open("rb") as file:
            start = file.read(6)
        if start != b"\x93NUMPY":
            content = "an archive of arrays (.npz)" if start[:2] == b"PK" else "something else"
            raise InputError(
                f"{path}: expected an array of numbers (.npy), found {content}: save the array "
                "alone, with np.save"
            )
        try:
            values = map_array(path)
        except ValueError as error:
            if "object" not in str(error).lower():
                raise
            raise InputError(
                f"{path}: expected an array of numbers (.npy), found a Python object, which is "
                "not opened because it could run any code: `synbrain prepare glmsingle` reads the "
                "files of GLMsingle as data; of another program, save the betas alone (np.save)"
            ) from error
    if values.dtype.kind not in "biuf" or values.ndim == 0 or not values.size:
        raise InputError(
            f"{path}: expected an array of numbers (.npy), found {values.dtype} of shape "
            f"{values.shape}"
        )
    expected, found = values.offset + values.nbytes, path.stat().st_size
    if expected != found:
        raise InputError(
            f"{path}: expected {expected:,} bytes for {values.dtype} of shape {values.shape}, as "
            f"its header says, found {found:,}: truncated or damaged: {AGAIN}"
        )
    return values


def read_map(path: Path | str) -> np.ndarray:
    """Read all values of a surface file.

    Parameters
    ----------
    path : path
        ``.npy``, GIFTI, ``.mgh`` or ``.mgz``.

    Returns
    -------
    array of shape (n_vertices,) or (n_vertices, n_maps)

    Raises
    ------
    MissingError, InputError
        When the file is absent, truncated, or of another shape.
    """
    path = Path(path)
    with reading(path, "a file of responses or of a map"):
        if path.suffix == ".npy":
            values = read_array(path)
            return values.T if values.ndim == 2 else values
        if _is_gifti(path):
            return _gifti(path).T
        return read_mgh_vertices(path)


def _is_gifti(path: Path) -> bool:
    return path.name.endswith((".gii", ".gii.gz"))


def _gifti(path: Path) -> np.ndarray:
    """Return the arrays of a GIFTI file, one per map: (n_maps, n_vertices)."""
    image = nib.load(path)
    if not isinstance(image, nib.GiftiImage):
        raise InputError(f"{path}: expected GIFTI, found {type(image).__name__}")
    shapes = {array.data.shape for array in image.darrays}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1:
        found = ", ".join(map(str, sorted(shapes))) or "none"
        raise InputError(
            f"{path}: expected arrays with one value per vertex, found shapes {found}: check that "
            "the file holds responses, and not a mesh"
        )
    if {array.data.dtype.kind for array in image.darrays} - set("iuf"):
        raise InputError(f"{path}: expected real numbers, found {image.darrays[0].data.dtype}")
    return np.stack([array.data for array in image.darrays])


def n_vertices_of(path: Path | str) -> int:
    """Return the number of vertices of a file of betas, from its header alone.

    Parameters
    ----------
    path : path
        As in `read_at_vertices`.

    Raises
    ------
    MissingError, InputError
        When the file is absent or damaged.
    """
    path = Path(path)
    with reading(path, "a file of responses or of a map"):
        if path.suffix == ".npy":
            return read_array(path).shape[-1]
        if _is_gifti(path):
            return _gifti(path).shape[1]
        if path.suffix in _HDF5:
            with h5py.File(path, "r") as file:
                return _betas(path, file).shape[-1]
        return int(np.prod(load_image(path).shape[:3]))


def n_trials_of(path: Path | str, inside: np.ndarray | None) -> int:
    """Return the number of trials of a file of responses, from its header alone.

    Parameters
    ----------
    path : path
        As in `read_masked` or `read_at_vertices`.
    inside : bool array of shape (x, y, z), optional
        Mask of a volume, which identifies the axis of the trials; None for surfaces and arrays.

    Raises
    ------
    MissingError, InputError
        When the file is absent, damaged, or of another shape.
    """
    path = Path(path)
    with reading(path, "a file of responses or of a map"):
        if path.suffix == ".npy":
            shape = read_array(path).shape
            if len(shape) == 4 and inside is not None and shape[:3] == inside.shape:
                return shape[3]
            if len(shape) != 2:
                grid = "" if inside is None else f" or {(*inside.shape, 'n_trials')}"
                raise InputError(
                    f"{path}: expected shape (n_trials, n_voxels){grid}, found shape {shape}: save "
                    "the array in this shape"
                )
            return shape[0]
        if path.suffix in _HDF5:
            with h5py.File(path, "r") as file:
                shape = _betas(path, file).shape
            return shape[0] if inside is None else _axes(path, shape, inside)[0]
        if _is_gifti(path):
            return len(_gifti(path))
        shape = load_image(path).shape
        if len(shape) not in (3, 4):
            raise InputError(
                f"{path}: expected a 4-D image with one volume per trial, found shape {shape}"
            )
        return (*shape, 1)[3]


def _betas(path: Path, file: h5py.File) -> h5py.Dataset:
    """Return the dataset of betas, under NSD's name or GLMsingle's."""
    for name in ("betas", "betasmd"):
        if not isinstance(file.get(name), h5py.Dataset) or not file[name].shape:
            continue
        betas = file[name]
        if betas.dtype.kind not in "biuf" or not betas.size:
            what = {"O": "text or references", "S": "text", "V": "records of several values"}
            raise InputError(
                f"{path}: expected numbers in the dataset {name}, found "
                f"{what.get(betas.dtype.kind, betas.dtype)} of shape {betas.shape}: save the betas "
                "as float32"
            )
        return betas
    raise InputError(
        f"{path}: expected the dataset betas or betasmd, found {', '.join(file) or 'none'}"
    )


def _other_surface(path: Path, found: tuple[int, ...], n_vertices: int) -> InputError:
    return InputError(
        f"{path}: expected the {n_vertices:,} vertices of this hemisphere in each trial, found "
        f"{found}: check that the file is of the same subject, hemisphere and surface"
    )


def _at_vertices_hdf5(
    path: Path, betas: h5py.Dataset, vertices: np.ndarray, n_vertices: int
) -> np.ndarray:
    if betas.ndim != 2 or betas.shape[1] != n_vertices:
        raise _other_surface(path, betas.shape, n_vertices)
    n_trials = betas.shape[0]
    out = np.empty((n_trials, len(vertices)), betas.dtype.newbyteorder("="))
    if _as_stored(betas, (n_trials, 1)):
        for some in _blocks(len(vertices)):
            out[:, some] = _direct_chunks(betas, [(0, v) for v in vertices[some].tolist()])
        return out
    for trial in range(0, n_trials, 64):
        out[trial : trial + 64] = betas[trial : trial + 64][:, vertices]
    return out


def _as_stored(betas: h5py.Dataset, chunks: tuple[int, ...]) -> bool:
    """Whether chunks have this shape and no filter, so that their bytes are the values."""
    return betas.chunks == chunks and betas.id.get_create_plist().get_nfilters() == 0


def _blocks(n: int) -> Iterator[slice]:
    for start in range(0, n, _CHUNKS):
        yield slice(start, min(start + _CHUNKS, n))


def _direct_chunks(betas: h5py.Dataset, chunks: list[tuple[int, ...]]) -> np.ndarray:
    """Read uncompressed chunks that each hold all trials of one voxel: (n_trials, n_chunks).

    Selecting scattered voxels through HDF5 itself is slower than reading the whole file.
    """
    columns = []
    for at in chunks:
        try:
            column = np.frombuffer(betas.id.read_direct_chunk(at)[1], betas.dtype)
        except RuntimeError:  # a chunk that was never written holds the fill value
            span = tuple(slice(i, i + n) for i, n in zip(at, betas.chunks, strict=True))
            column = betas[span].ravel()
        columns.append(column)
    return np.stack(columns, axis=1)
