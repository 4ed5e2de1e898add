"""Typed records in JSON files, which are checked field by field when they are read."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from synbrain_cli.errors import InputError
from synbrain_cli.io.files import read_json, write_json

T = TypeVar("T")
SEAL = "sha256"  # field of a sealed record: the checksum of all the others


def read_record(
    path: Path | str, kind: type[T], advice: str = "make it again with this version of synbrain"
) -> T:
    """Read a JSON file as a record of one type.

    Values are not converted: a number in quotes is not a number. An integer is accepted for a
    float.

    Parameters
    ----------
    path : path
    kind : type
        Type of the record: a `msgspec.Struct`, a dataclass, or a container of them.
    advice : str
        What the user can do when the file holds something else, for the message.

    Returns
    -------
    kind

    Raises
    ------
    MissingError
        When the file is absent.
    InputError
        When the file is not JSON, or a field is missing, of another type, or unknown (for types
        that forbid unknown fields). The message names the file and the field.

    Examples
    --------
    >>> import tempfile
    >>> class Scan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    ...     n_trials: int
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_record(f"{folder}/scan.json", Scan(750))
    ...     read_record(f"{folder}/scan.json", Scan)
    Scan(n_trials=750)
    """
    return convert_record(read_json(path, advice), kind, str(path), advice)


def convert_record(content: Any, kind: type[T], name: str, advice: str) -> T:
    """Convert what `json.loads` returned to a record of one type: see `read_record`.

    Parameters
    ----------
    content : object
        Dictionaries, lists, text, numbers, booleans and None.
    kind : type
        Type of the record.
    name, advice : str
        Origin of the content, and what the user can do, for the message.

    Returns
    -------
    kind

    Raises
    ------
    InputError
        As in `read_record`.
    """
    try:
        return msgspec.convert(content, kind, strict=True, str_keys=True)
    except msgspec.ValidationError as error:
        raise InputError(f"{name}: {_explain(str(error))}: {advice}") from error


def write_record(path: Path | str, record: Any) -> None:
    """Write a record as indented UTF-8 JSON, atomically; `read_record` reads it back."""
    write_json(path, msgspec.to_builtins(record, str_keys=True))


def write_sealed(path: Path | str, record: Any) -> None:
    """Write a record with a checksum of its own content; `read_sealed` compares the two."""
    content = msgspec.to_builtins(record, str_keys=True)
    write_json(path, {**content, SEAL: content_digest(content)})


def read_sealed(path: Path | str, kind: type[T], advice: str) -> T:
    """Read a record that `write_sealed` wrote, as `read_record` does.

    Raises
    ------
    MissingError, InputError
        As in `read_record`; when the content is not what was written.
    """
    return convert_sealed(read_json(path, advice), kind, str(path), advice)


def convert_sealed(content: Any, kind: type[T], name: str, advice: str) -> T:
    """Convert the content of a sealed file as `convert_record` does, and check its seal.

    Raises
    ------
    InputError
        As in `convert_record`; when the content is not what was written.
    """
    own = content if isinstance(content, dict) else {}
    fields = {key: value for key, value in own.items() if key != SEAL}
    record = convert_record(fields if own else content, kind, name, advice)
    if own.get(SEAL) != content_digest(fields):
        raise InputError(
            f"{name}: expected the content that was written, found another: its checksum (the "
            f"field {SEAL}) does not fit, so that it was changed or damaged: {advice}"
        )
    return record


def content_digest(content: dict[str, Any]) -> str:
    """SHA-256 of JSON content, whatever the order of its fields and the spaces between them."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _explain(message: str) -> str:
    """State what was expected and found, given the message of msgspec."""
    fault, _, where = message.partition(" - at ")
    position = f" at {where}" if where else ""
    if match := re.fullmatch(r"Object missing required field (.+)", fault):
        return f"expected the field {match[1]}{position}, found none"
    if match := re.fullmatch(r"Object contains unknown field (.+)", fault):
        return f"expected fields that are known, found {match[1]}{position}"
    if match := re.fullmatch(r"(?:Expected|expected) (.+), got (.+)", fault):
        return f"expected {match[1]}, found {match[2]}{position}"
    if match := re.fullmatch(r"Expected `str` matching regex '(.+)'", fault):
        return f"expected text of the form {match[1]}, found another{position}"
    if ": expected " in fault:  # by a check of ours, such as that of a name
        return f"{fault}{position}"
    return f"expected valid values, found others ({fault}){position}"
