"""Reading PyTorch checkpoints of other programs as data, without running any code in them."""

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

    PyTorch's restricted unpickler refuses any other object before it is created. Tensors of the
    current file format stay on disk until they are used.

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
        When the file is truncated, is not a checkpoint, or holds objects of other types, which the
        message names.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingError(f"{path}: no such file: name a checkpoint of the authors' release")
    try:
        with torch.serialization.safe_globals(_ALLOWED), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # concerns files that are refused
            content = torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except DAMAGED as error:
        if isinstance(error, pickle.UnpicklingError):
            # PyTorch's own message suggests to run the file nevertheless.
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
