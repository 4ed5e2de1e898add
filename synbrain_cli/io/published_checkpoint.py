"""PyTorch checkpoints of other programs, read as data: nothing in them is run."""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from synbrain_cli.errors import DAMAGED, InputError, MissingError

# Beside tensors and plain containers: command lines, and the numbers of lists of losses.
_SCALAR = np.float64(0).__reduce__()[0]
_ALLOWED: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),  # numpy 1, 2
    *(type(np.dtype(name)) for name in ("float64", "float32", "int64")),
]


def read_checkpoint(path: Path | str) -> dict[str, Any]:
    """Read what ``torch.save`` wrote: a dictionary of tensors, numbers, text and containers.

    Anything else is refused before it is made, by PyTorch's restricted unpickler. Tensors of the
    current file format stay on disk until they are used.

    Parameters
    ----------
    path : path

    Raises
    ------
    MissingError
        No such file.
    InputError
        Truncated, no checkpoint, or with objects of other kinds, which are named.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingError(f"{path}: no such file: name a checkpoint of the authors' release")
    try:
        with torch.serialization.safe_globals(_ALLOWED), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # on files that are refused anyway
            content = torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except DAMAGED as error:
        if isinstance(error, pickle.UnpicklingError):
            # PyTorch's own message offers to run the file all the same.
            named = re.search(r"(?:GLOBAL|class|function) ([\w.]+\.\w+)", str(error))
            raise InputError(
                f"{path}: expected a PyTorch checkpoint of tensors, numbers and text alone, found "
                f"{named[1] if named else 'something else'}: nothing of the file was run or used; "
                "compare its checksum with that of the authors' file"
            ) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0]
        raise InputError(
            f"{path}: expected a PyTorch checkpoint, found a file that cannot be read as one "
            f"({reason}): truncated, or of another kind; copy or download it again"
        ) from error
    if not isinstance(content, dict):
        raise InputError(
            f"{path}: expected a checkpoint with named entries, found a {type(content).__name__}: "
            "name a checkpoint of the authors' release"
        )
    return content
