"""What the records of all evaluation commands share: base class, provenance, reading.

A field that belongs to some results alone (the score of the networks, where a model has none) is
absent from the file, and `msgspec.UNSET` in the record. A field that is always there, and has no
value (NaN or infinite), is null in the file and None in the record.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from synbrain_cli.io.files import versions
from synbrain_cli.io.records import read_record

Number = float | None  # None: no finite value
Interval = tuple[Number, Number]
Absent = msgspec.UnsetType
R = TypeVar("R", bound="Result")


class Result(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the records of results: a missing or unknown field is an error."""

    def items(self) -> Iterator[tuple[str, Any]]:
        """Name and value of every field that is not absent."""
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is not msgspec.UNSET:
                yield name, value

    def get(self, name: str) -> Any:
        """Value of a field; None where it is absent, or there is no such field."""
        return dict(self.items()).get(name)


class Repeats(Result, frozen=True, kw_only=True):
    """Least and greatest number of repeats of a test image."""

    min: int
    max: int


class Provenance(Result, frozen=True, kw_only=True):
    """What the numbers depend on.

    Attributes
    ----------
    seed : int
    n_boot : int
        Bootstrap draws of the test images.
    versions : dict
        Of synbrain and the libraries.
    """

    seed: int
    n_boot: int
    versions: dict[str, str] = msgspec.field(default_factory=versions)


class ModelProvenance(Provenance, frozen=True, kw_only=True):
    """Provenance of results of one model.

    Attributes
    ----------
    fingerprint : str
        Of the model.
    data : str
        `PreparedSubject.checksum` of the subject.
    """

    fingerprint: str
    data: str


class ModelsProvenance(Provenance, frozen=True, kw_only=True):
    """Provenance of results of several models of one subject.

    Attributes
    ----------
    fingerprints : dict
        Of the models, by name.
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
    """Return the record with None in place of NaN and infinity, which JSON does not have.

    Parameters
    ----------
    record : Result
        Its fields may hold NumPy's numbers and lists in place of tuples.

    Returns
    -------
    Result
        As `read_result` would read it from its file.
    """
    content = _finite(msgspec.to_builtins(record, str_keys=True, enc_hook=_number))
    return msgspec.convert(content, type(record), strict=True, str_keys=True)


def _number(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise NotImplementedError(f"{type(value).__name__} has no place in a result")


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
        A `Result`.
    command : str
        That writes such a file, for messages: "synbrain evaluate".

    Raises
    ------
    MissingError, InputError
        No such file; a field is missing, unknown or of another type.
    """
    return read_record(path, kind, f"run `{command}` again")
