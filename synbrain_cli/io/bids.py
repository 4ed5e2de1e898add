"""Names and descriptions that follow the Brain Imaging Data Structure (BIDS)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from synbrain_cli.errors import InputError
from synbrain_cli.io.files import versions

MAX_LABEL = 80  # a file's name may hold two, and some 90 characters beside; 255 are possible


def bids_label(name: str) -> str:
    """Return an alphanumeric BIDS label for any name.

    Other characters are removed, and what is beyond `MAX_LABEL` characters. In these cases eight
    hexadecimal digits of the SHA-256 of the name are appended (ours), so that names which differ in
    what was removed have different labels.

    Examples
    --------
    >>> bids_label("coffee")
    'coffee'
    >>> bids_label("a b") == bids_label("ab")
    False
    """
    label = "".join(c for c in name if c.isascii() and c.isalnum())
    if label == name and len(label) <= MAX_LABEL:
        return label
    return f"{label[: MAX_LABEL - 8]}{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def bids_labels(names: Sequence[str]) -> list[str]:
    """Return the `bids_label` of each name.

    Raises
    ------
    InputError
        When two names have the same label, where letters of both cases count as the same (some file
        systems do not tell them apart).
    """
    labels = [bids_label(name) for name in names]
    first: dict[str, int] = {}
    for i, label in enumerate(labels):
        other = first.setdefault(label.casefold(), i)
        if other != i:
            raise InputError(
                f"images {names[other]} and {names[i]} would both be written as stim-{label}: "
                "rename one of them"
            )
    return labels


def derivative_description(name: str, simulated: bool) -> dict[str, Any]:
    """Return the content of a derivative's ``dataset_description.json``."""
    return {
        "Name": name,
        "BIDSVersion": "1.9.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "synbrain", "Version": versions()["synbrain"]}],
        "Simulated": simulated,
    }
