"""The checkpoints of other programs: dictionaries of tensors, numbers, text and containers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from synbrain_cli.checkpoints import load_checkpoint
from synbrain_cli.errors import InputError

# Allowed beside tensors and plain containers: parsed command lines, and NumPy scalars in lists of
# losses.
_SCALAR = np.float64(0).__reduce__()[0]
_ALLOWED: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),  # numpy 1, 2
    *(type(np.dtype(name)) for name in ("float64", "float32", "int64")),
]


def read_checkpoint(path: Path | str) -> dict[str, Any]:
    """Read a file of ``torch.save``: a dictionary of tensors, numbers, text and containers.

    Parameters
    ----------
    path : path

    Returns
    -------
    dict
        Entries of the checkpoint by name.

    Raises
    ------
    MissingError
        When there is no such file.
    InputError
        As in `synbrain_cli.checkpoints.load_checkpoint`; when the file holds something else.
    """
    content = load_checkpoint(path, _ALLOWED)
    if not isinstance(content, dict):
        raise InputError(
            f"{path}: expected a checkpoint with named entries, found a {type(content).__name__}: "
            "name a checkpoint of the authors' release"
        )
    return content
