"""What one run of a command carries along: seed, device, speed, processes and progress.

Recipes (`train`, `adapt`, the shared core, …) pass one `RunContext` from step to step. The command
line makes it once, with `RunContext.create`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import torch

from synbrain_cli.config import PRECISIONS, Speed
from synbrain_cli.distributed import SINGLE_PROCESS, Processes
from synbrain_cli.errors import InputError
from synbrain_cli.progress import Progress


@dataclass(frozen=True)
class RunContext:
    """Seed, device, speed, processes and progress of one run.

    The defaults are those of a quick computation on the CPU; `create` chooses device and speed as
    the command line does.

    Attributes
    ----------
    seed : int
        One seed for everything random. Stages of a training derive theirs from it
        (`synbrain_cli.model.fit.Stage.seed_offset`).
    device : torch.device
        Where networks are trained.
    speed : Speed
        How training steps are computed.
    processes : Processes
        Processes that share the work.
    progress : Progress
        The logger and its progress bars.
    command : str, optional
        Command line that was typed; None from Python.
    """

    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    speed: Speed = field(default_factory=Speed)
    processes: Processes = SINGLE_PROCESS
    progress: Progress = field(default_factory=Progress)
    command: str | None = None

    @classmethod
    def create(
        cls,
        seed: int = 0,
        device: str = "auto",
        speed: Speed | None = None,
        processes: Processes = SINGLE_PROCESS,
        progress: Progress | None = None,
        command: str | None = None,
    ) -> Self:
        """Return the context of a run as the command line describes it.

        Parameters
        ----------
        seed : int
        device : str
            "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1", …. With several processes,
            each has a device of its own (`Processes.device`).
        speed : Speed, optional
            Default: `default_speed` of the device.
        processes : Processes
        progress : Progress, optional
        command : str, optional

        Raises
        ------
        InputError
            When the device does not exist here, or one GPU is named for several processes.
        """
        resolved = resolve_device(processes.device(device))
        return cls(
            seed,
            resolved,
            speed or default_speed(resolved),
            processes,
            progress or Progress(),
            command,
        )


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


def default_speed(device: torch.device) -> Speed:
    """Return bf16, compiled, for a GPU that computes in bf16; plain float32 for other devices.

    Most CPUs emulate bf16, and training on a laptop is shorter than its compilation.
    """
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return Speed("bf16", compiled=True)
    return Speed()


def choose_speed(
    device: str, precision: str, compiled: bool | None, micro_batch: int | None
) -> Speed | None:
    """Return the speed that the command line's options ask for; None where it has none of them.

    Parameters
    ----------
    device : str
        As for `resolve_device`: its `default_speed` fills in what is not given.
    precision : {"auto", "float32", "bf16"}
    compiled : bool, optional
    micro_batch : int, optional

    Raises
    ------
    InputError
        For another precision, a micro-batch below 1 or a device that does not exist here.
    """
    if (precision, compiled, micro_batch) == ("auto", None, None):
        return None
    if precision not in PRECISIONS:
        raise InputError(f"--precision {precision}: expected one of {', '.join(PRECISIONS)}")
    if micro_batch is not None and micro_batch < 1:
        raise InputError(f"--micro-batch {micro_batch}: expected 1 or more")
    speed = default_speed(resolve_device(device))
    return Speed(
        speed.precision if precision == "auto" else precision,
        speed.compiled if compiled is None else compiled,
        micro_batch,
    )
