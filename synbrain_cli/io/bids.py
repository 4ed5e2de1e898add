"""Names and descriptions that follow the Brain Imaging Data Structure (BIDS)."""

from __future__ import annotations

import hashlib
from typing import Any

from synbrain_cli.io.files import versions


def bids_label(name: str) -> str:
    """Return an alphanumeric BIDS label for any name.

    Other characters are removed. In that case four hexadecimal digits of the SHA-256 of the name
    are appended (ours), so that names which differ in removed characters alone have different
    labels.

    Examples
    --------
    >>> bids_label("coffee")
    'coffee'
    >>> bids_label("a b") == bids_label("ab")
    False
    """
    label = "".join(c for c in name if c.isascii() and c.isalnum())
    if label == name:
        return label
    return f"{label}{hashlib.sha256(name.encode()).hexdigest()[:4]}"


def derivative_description(name: str, simulated: bool) -> dict[str, Any]:
    """Return the content of a derivative's ``dataset_description.json``."""
    return {
        "Name": name,
        "BIDSVersion": "1.9.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "synbrain", "Version": versions()["synbrain"]}],
        "Simulated": simulated,
    }
