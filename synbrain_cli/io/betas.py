"""Single-trial betas of NIfTI, HDF5, MGH and GIFTI files: of the voxels asked for alone."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
from isal import igzip

from synbrain_cli.errors import InputError, MissingError, SynbrainError
from synbrain_cli.io.surface import read_mgh_vertices
from synbrain_cli.io.volume import DAMAGED_IMAGE, damaged, load_image

_CHUNKS = 512  # HDF5 chunks gathered before they are transposed into place
_REST = 1 << 20  # bytes read at once of what follows the betas
_HDF5 = (".hdf5", ".h5")


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Tell every fault of a file as such."""
    if not path.exists():
        raise MissingError(f"{path} does not exist")
    try:
        yield
    except SynbrainError:
        raise
    except DAMAGED_IMAGE as error:
        raise damaged(path, error) from error


def read_masked(path: Path | str, mask: np.ndarray) -> np.ndarray:
    """Read the masked voxels of a 4-D volume, one time point in memory at once.

    Parameters
    ----------
    path : path
        NIfTI, compressed or not, where 3-D is one trial; or HDF5 with the dataset ``betas``
        (NSD's twin of each NIfTI file; GLMsingle's ``betasmd``), of which the masked voxels alone
        are read where its chunks allow.
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
    with _whole(path):
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
        # NIfTI is stored first axis fastest: index a flat volume in that order.
        index = np.ravel_multi_index(np.nonzero(mask), mask.shape, order="F")
        return _read_trials(path, image, index)


def _read_trials(
    path: Path, image: nib.Nifti1Image | nib.MGHImage, index: np.ndarray
) -> np.ndarray:
    """Some places of every trial, which follow one another in the file: (n_trials, n_places)."""
    dtype = image.get_data_dtype()
    n_trials = (*image.shape, 1)[3]
    piece = np.empty(int(np.prod(image.shape[:3])), dtype)
    out = np.empty((n_trials, index.size), dtype.newbyteorder("="))
    with _open_stream(path) as file:
        file.read(image.dataobj.offset)
        for trial in range(n_trials):
            if file.readinto(piece.data) != piece.nbytes:
                raise EOFError(f"{trial} of {n_trials} volumes are whole")
            out[trial] = piece[index]
        while file.read(_REST):  # at its end a gzip stream compares its checksum
            pass
    slope, intercept = image.dataobj.slope, image.dataobj.inter
    if slope != 1 or intercept != 0:
        return out.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    return out


def _open_stream(path: Path) -> io.BufferedIOBase:
    return igzip.open(path, "rb") if path.suffix in (".gz", ".mgz") else path.open("rb")


def _read_masked_hdf5(path: Path, mask: np.ndarray) -> np.ndarray:
    """Masked voxels of the dataset ``betas``: (x, y, z, trial), or as MATLAB leaves it, reversed.

    NSD's chunks hold all trials of one voxel, uncompressed: those of the mask are read as they
    lie in the file, in its order. Other chunks are read slice by slice.
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
    """Trials of an HDF5 dataset, and whether its axes are (x, y, z, trial) or the reverse."""
    forward = len(shape) == 4 and shape[:3] == mask.shape
    backward = len(shape) == 4 and shape[:0:-1] == mask.shape
    if not (forward or backward):
        raise InputError(
            f"{path}: expected a 4-D dataset on the mask's grid {mask.shape}, found {shape}"
        )
    if forward and backward:
        raise InputError(
            f"{path}: {shape} is the mask's grid {mask.shape} read forwards and, as MATLAB "
            "writes it, backwards: save the betas as .npy (x, y, z, n_trials)"
        )
    return shape[3 if forward else 0], forward


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
    with _whole(path):
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
    """Open a ``.npy`` of numbers, memory-mapped.

    Raises
    ------
    MissingError, InputError
        Absent, truncated, or a pickled object (GLMsingle's TYPED… file).
    """
    path = Path(path)
    with _whole(path):
        with path.open("rb") as file:
            start = file.read(6)
        if start != b"\x93NUMPY":
            found = "an archive of arrays (.npz)" if start[:2] == b"PK" else "something else"
            raise InputError(
                f"{path}: expected an array of numbers (.npy), found {found}: save the array "
                "alone, with np.save"
            )
        try:
            values = np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            if "object" not in str(error).lower():
                raise
            raise InputError(
                f"{path}: expected an array of numbers (.npy): it holds a Python object, which is "
                "not opened because it could run any code; of GLMsingle's file save the betas "
                "alone: np.save('betas.npy', np.load(FILE, allow_pickle=True).item()['betasmd'])"
            ) from error
    if values.dtype.kind not in "biuf" or values.ndim == 0:
        raise InputError(
            f"{path}: expected an array of numbers (.npy), found {values.dtype} of shape "
            f"{values.shape}"
        )
    return values


def read_map(path: Path | str) -> np.ndarray:
    """Read a whole surface file: (n_vertices,) or (n_vertices, n_maps)."""
    path = Path(path)
    with _whole(path):
        if path.suffix == ".npy":
            values = read_array(path)
            return values.T if values.ndim == 2 else values
        if _is_gifti(path):
            return _gifti(path).T
        return read_mgh_vertices(path)


def _is_gifti(path: Path) -> bool:
    return path.name.endswith((".gii", ".gii.gz"))


def _gifti(path: Path) -> np.ndarray:
    """Arrays of a GIFTI file, one a map: (n_maps, n_vertices)."""
    image = load_image(path)
    shapes = {array.data.shape for array in image.darrays}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1:
        found = ", ".join(map(str, sorted(shapes))) or "none"
        raise InputError(
            f"{path}: expected arrays of one value a vertex, found {found}: is it a mesh?"
        )
    return np.stack([array.data for array in image.darrays])


def n_vertices_of(path: Path | str) -> int:
    """Vertices of a hemisphere's betas (as for `read_at_vertices`), from the header alone."""
    path = Path(path)
    with _whole(path):
        if path.suffix == ".npy":
            return read_array(path).shape[-1]
        if _is_gifti(path):
            return _gifti(path).shape[1]
        if path.suffix in _HDF5:
            with h5py.File(path, "r") as file:
                return _betas(path, file).shape[-1]
        return int(np.prod(load_image(path).shape[:3]))


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
    with _whole(path):
        if path.suffix == ".npy":
            shape = read_array(path).shape
            if len(shape) == 4 and inside is not None and shape[:3] == inside.shape:
                return shape[3]
            if len(shape) != 2:
                grid = "" if inside is None else f", or {(*inside.shape, 'n_trials')} as the mask"
                raise InputError(f"{path}: expected (n_trials, n_voxels){grid}; found {shape}")
            return shape[0]
        if path.suffix in _HDF5:
            with h5py.File(path, "r") as file:
                shape = _betas(path, file).shape
            return shape[0] if inside is None else _axes(path, shape, inside)[0]
        if _is_gifti(path):
            return len(_gifti(path))
        shape = load_image(path).shape
        if len(shape) not in (3, 4):
            raise InputError(f"{path}: expected a 4-D image, one volume a trial; found {shape}")
        return (*shape, 1)[3]


def _betas(path: Path, file: h5py.File) -> h5py.Dataset:
    """The dataset of betas: NSD's name, or GLMsingle's."""
    for name in ("betas", "betasmd"):
        if isinstance(file.get(name), h5py.Dataset) and file[name].ndim:
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
    if _as_stored(betas, (n_trials, 1)):
        for some in _blocks(len(vertices)):
            out[:, some] = _direct_chunks(betas, [(0, v) for v in vertices[some].tolist()])
        return out
    for trial in range(0, n_trials, 64):
        out[trial : trial + 64] = betas[trial : trial + 64][:, vertices]
    return out


def _as_stored(betas: h5py.Dataset, chunks: tuple[int, ...]) -> bool:
    """Whether these are the chunks, and their bytes the values: no compression, no checksum."""
    return betas.chunks == chunks and betas.id.get_create_plist().get_nfilters() == 0


def _blocks(n: int) -> Iterator[slice]:
    for start in range(0, n, _CHUNKS):
        yield slice(start, min(start + _CHUNKS, n))


def _direct_chunks(betas: h5py.Dataset, chunks: list[tuple[int, ...]]) -> np.ndarray:
    """Uncompressed chunks that each hold all trials of one voxel: (n_trials, n_chunks).

    HDF5's own selection of scattered voxels is slower than reading the whole file.
    """
    columns = []
    for at in chunks:
        try:
            column = np.frombuffer(betas.id.read_direct_chunk(at)[1], betas.dtype)
        except RuntimeError:  # a chunk never written is not in the file: its values are known
            span = tuple(slice(i, i + n) for i, n in zip(at, betas.chunks, strict=True))
            column = betas[span].ravel()
        columns.append(column)
    return np.stack(columns, axis=1)
