"""What a run of a command is computed with."""

from __future__ import annotations

import torch

from synbrain_cli.errors import InputError


def resolve_device(device: str) -> torch.device:
    """Turn "auto" into a device; check any other.

    Raises
    ------
    InputError
        When it does not exist here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(1, device=resolved)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {device}: not available here; use cpu or auto") from error
    return resolved
