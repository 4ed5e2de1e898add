"""Reading files of ``torch.save``, of this and of other programs: as data, and whole.

The program's own are sealed: a record has a checksum, but nothing else says which record is which.

PyTorch itself neither compares the records of such a file with their checksums when it maps them
into memory, nor a tensor's storage with the size of its record: a damaged file is read as another
one, and a storage that was cut short continues in its neighbour.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from synbrain_cli.errors import DAMAGED, InputError
from synbrain_cli.paths import require_regular_file

# Bytes of a number in storages of these types.
_BYTES = {
    **dict.fromkeys(("Double", "Long", "ComplexFloat"), 8),
    **dict.fromkeys(("Float", "Int", "QInt32"), 4),
    **dict.fromkeys(("Half", "BFloat16", "Short"), 2),
    **dict.fromkeys(("Char", "Byte", "Bool", "QInt8", "QUInt8", "Untyped"), 1),
    "ComplexDouble": 16,
}
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def load_checkpoint(
    path: Path | str,
    allowed: Iterable[Any] = (),
    expected: str = "a PyTorch checkpoint",
    mapped: bool = True,
) -> Any:
    """Read a file of ``torch.save`` without running any code in it.

    PyTorch's restricted unpickler refuses any object but tensors, numbers, text and plain
    containers before it is created.

    Parameters
    ----------
    path : path
    allowed : iterable
        Other types that may occur.
    expected : str
        What the file should be, for messages.
    mapped : bool
        Leave tensors of the current file format on the disk until they are used.

    Raises
    ------
    MissingError
        When there is no such file.
    InputError
        When the file is truncated or damaged, is not of ``torch.save``, or holds other objects.
    """
    path = require_regular_file(path, expected, "check the path, or copy it again")
    try:
        is_archive = zipfile.is_zipfile(path)
        if is_archive:
            _check_archive(path)
        with torch.serialization.safe_globals(list(allowed)), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # concerns files that are refused
            mmap = is_archive and mapped
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except InputError:
        raise
    except DAMAGED as error:
        if isinstance(error, pickle.UnpicklingError):
            # PyTorch's own message suggests to run the file nevertheless.
            named = re.search(r"(?:GLOBAL|class|function) ([\w.]+\.\w+)", str(error))
            raise InputError(
                f"{path}: expected {expected} of tensors, numbers and text alone, found "
                f"{named[1] if named else 'something else'}: nothing of the file was run or used; "
                "compare its checksum with that of the authors' file"
            ) from error
        reason = f"{type(error).__name__}: {error}".strip(": ").splitlines()[0].split(". ")[0]
        raise InputError(
            f"{path}: expected {expected}, found a file that cannot be read as one "
            f"({reason}): truncated, or of another kind; copy or download it again"
        ) from error


def seal_archive(path: Path) -> None:
    """Add a checksum of the names and checksums of all records to a file of ``torch.save``.

    It is the archive's comment, which other programs pass over.
    """
    seal = _seal(path)
    with path.open("r+b") as file:
        file.seek(-2, os.SEEK_END)  # where the archive says how long its comment is: 0
        file.write(len(seal).to_bytes(2, "little") + seal)


def require_seal(path: Path) -> None:
    """Check that the records of an archive are those that `seal_archive` found.

    Whether the content of each is as it was, `load_checkpoint` checks.

    Raises
    ------
    InputError
    """
    try:
        with zipfile.ZipFile(path) as archive:
            is_sealed = archive.comment == _seal(path)
    except DAMAGED as error:
        raise InputError(f"{path}: truncated or damaged ({error})") from error
    if not is_sealed:
        raise InputError(f"{path}: its records are not those that were written")


def _seal(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        records = sorted((r.filename, r.CRC, r.file_size) for r in archive.infolist())
    return hashlib.sha256(repr(records).encode("utf-8", "surrogatepass")).hexdigest().encode()


def _check_archive(path: Path) -> None:
    """Compare every record with its checksum, and every tensor's storage with its record.

    Raises
    ------
    InputError, or one of DAMAGED
    """
    with zipfile.ZipFile(path) as archive:
        records = {record.filename: record for record in archive.infolist()}
        if len(records) != len(archive.infolist()):
            raise InputError(f"{path}: expected records of different names: copy it again")
        damaged = archive.testzip()
        if damaged is not None:
            raise InputError(
                f"{path}: its record {damaged} does not have the checksum that was written with "
                "it: damaged; copy or download it again"
            )
        for record in records.values():
            if record.compress_type != zipfile.ZIP_STORED:
                raise InputError(
                    f"{path}: expected records as torch.save writes them, found the compressed "
                    f"{record.filename}: save it again with torch.save"
                )
        for name in records:
            if name.endswith("/data.pkl"):
                folder = name.removesuffix("data.pkl")
                for key, n_bytes in _storages(archive.read(name)):
                    record = records.get(f"{folder}data/{key}")
                    found = None if record is None else record.file_size
                    if found != n_bytes:
                        raise InputError(
                            f"{path}: expected {n_bytes} bytes of numbers in its record "
                            f"data/{key}, found {'none' if found is None else found}: truncated or "
                            "damaged; copy or download it again"
                        )


class _Nothing(dict):
    """Stands for every object of a pickle: it takes whatever is done to it, and does nothing."""

    def __new__(cls, *arguments: Any, **named: Any) -> _Nothing:
        return super().__new__(cls)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        pass

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)

    def append(self, item: Any) -> None:
        """As of a list."""

    def extend(self, items: Any) -> None:
        """As of a list."""

    add = append


class _StorageReader(pickle.Unpickler):
    """Notes the storages that a pickle refers to; of everything else it makes nothing."""

    def __init__(self, content: bytes) -> None:
        import io

        super().__init__(io.BytesIO(content), encoding="utf-8")
        self.found: dict[str, int] = {}

    def find_class(self, module: str, name: str) -> Any:
        return type(name, (_Nothing,), {})

    def persistent_load(self, pid: Any) -> Any:
        _, kind, key, _, n = pid
        size = _BYTES.get(kind.__name__.removesuffix("Storage"))
        if size is None or not isinstance(n, int) or not isinstance(key, str):
            raise ValueError(f"numbers of an unknown type, {kind.__name__}")
        self.found[key] = max(n * size, self.found.get(key, 0))
        return _Nothing()


def _storages(content: bytes) -> Iterator[tuple[str, int]]:
    """Yield the key and the bytes of every storage that the pickle of a checkpoint names."""
    reader = _StorageReader(content)
    reader.load()
    yield from reader.found.items()


def plain_weights(path: Path, what: str, state: Any) -> dict[str, Tensor]:
    """Return named weights as plain tensors of finite floating-point numbers, float32.

    Parameters
    ----------
    path : path
        Of the file, for messages.
    what : str
        Of the weights, for messages: their entry in the file.
    state : dict
        Tensors or parameters by name.

    Raises
    ------
    InputError
        When there is another name or value: sparse, quantised, overlapping, without numbers.
    """
    weights = {}
    for name, value in state.items():
        if not isinstance(name, str):
            raise InputError(
                f"{path}: expected names of weights in {what}, found the "
                f"{type(name).__name__} {name!r:.40}: is it the authors' file?"
            )
        fault = _fault(value)
        if fault is not None:
            raise InputError(
                f"{path}: expected {what}[{name!r}] to be a tensor of floating-point numbers, "
                f"found {fault}: is it the authors' file?"
            )
        tensor = value.detach().float()
        if not tensor.isfinite().all():
            raise InputError(
                f"{path}: {what}[{name!r}] has values that are not finite: damaged, or the "
                "training failed; copy or download it again"
            )
        weights[name] = tensor.contiguous()
    return weights


def _fault(value: Any) -> str | None:
    """Why a value is no plain tensor of numbers; None where it is one."""
    if type(value) not in (Tensor, nn.Parameter):
        return type(value).__name__
    if value.is_meta:
        return "one without numbers (on the meta device)"
    if value.layout is not torch.strided:
        return f"one of the layout {value.layout}"
    if value.is_quantized or value.dtype not in _FLOATS:
        return str(value.dtype)
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return "one whose numbers overlap"
    return None
