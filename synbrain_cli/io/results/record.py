"""Base class, provenance and reading of the records of all evaluation commands.

A field that does not apply to some results (such as the score of the networks for a model without
networks) is absent from the file, and `msgspec.UNSET` in the record. A field that applies but has
no finite value is null in the file, and None in the record.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
from msgspec import UNSET

from synbrain_cli.io.files import versions
from synbrain_cli.io.records import read_record

# None: no finite value. Axes of figures overflow beside larger ones.
Number = Annotated[float, msgspec.Meta(ge=-1e300, le=1e300)] | None
Interval = tuple[Number, Number]
Absent = msgspec.UnsetType
R = TypeVar("R", bound="Result")


class Result(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all records of results. A missing or unknown field is an error."""

    def items(self) -> Iterator[tuple[str, Any]]:
        """Yield the name and the value of every field that is not absent."""
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is not UNSET:
                yield name, value

    def get(self, name: str) -> Any:
        """Return the value of a field; None where it is absent, or there is no such field."""
        return dict(self.items()).get(name)


class Repeats(Result, frozen=True, kw_only=True):
    """Smallest and largest number of repeats of a test image.

    Attributes
    ----------
    min, max : int
    """

    min: int
    max: int


class Provenance(Result, frozen=True, kw_only=True):
    """Settings and versions on which results depend.

    Attributes
    ----------
    seed : int
    n_boot : int
        Number of bootstrap samples of the test images.
    versions : dict
        Package → version, for synbrain and the libraries.
    """

    seed: int
    n_boot: int
    versions: dict[str, str] = msgspec.field(default_factory=versions)


class ModelProvenance(Provenance, frozen=True, kw_only=True):
    """Provenance of results of one model.

    Attributes
    ----------
    fingerprint : str
        Fingerprint of the bundle.
    data : str
        `PreparedSubject.checksum` of the subject.
    command : str
        Command line that was typed, without the folders of absolute paths; absent from Python.
    """

    fingerprint: str
    data: str
    command: str | Absent = UNSET


class ModelsProvenance(Provenance, frozen=True, kw_only=True):
    """Provenance of results of several models of one subject.

    Attributes
    ----------
    fingerprints : dict
        Name of each model → fingerprint of its bundle.
    data : str
        `PreparedSubject.checksum` of the subject.
    """

    fingerprints: dict[str, str]
    data: str


class SubjectsProvenance(Provenance, frozen=True, kw_only=True):
    """Provenance of results of several subjects.

    Attributes
    ----------
    data : list of str
        `PreparedSubject.checksum` of each subject.
    """

    data: list[str]


def finite(record: R) -> R:
    """Return a record with None instead of NaN and infinite values, which JSON does not have.

    Parameters
    ----------
    record : Result
        Its fields may hold NumPy numbers, and lists instead of tuples.

    Returns
    -------
    Result
        Equal to the record that `read_result` reads from its file.
    """
    content = _finite(msgspec.to_builtins(record, str_keys=True, enc_hook=_number))
    return msgspec.convert(content, type(record), strict=True, str_keys=True)


def _number(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise NotImplementedError(f"{type(value).__name__} cannot be stored in a result")


def _finite(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _finite(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [_finite(value) for value in values]
    return None if isinstance(values, float) and not np.isfinite(values) else values


def read_result(path: Path, kind: type[R], command: str) -> R:
    """Read the JSON file of a result.

    Parameters
    ----------
    path : path
    kind : type
        Subclass of `Result`.
    command : str
        Command that writes such a file, for messages: "synbrain evaluate".

    Returns
    -------
    Result

    Raises
    ------
    MissingError, InputError
        When the file is absent, or a field is missing, unknown or of another type.
    """
    return read_record(path, kind, f"run `{command}` again")
