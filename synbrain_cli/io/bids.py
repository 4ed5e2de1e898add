"""Names of files after BIDS, the Brain Imaging Data Structure."""

from __future__ import annotations

import hashlib


def bids_label(name: str) -> str:
    """Return a BIDS label, which is alphanumeric, of any name.

    Other characters are dropped; four hexadecimal digits of the name's SHA-256 are appended where
    that happens, so that names which differ only in dropped characters get different labels.

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
