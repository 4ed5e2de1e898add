"""Processes that do one command's work together, as ``accelerate launch`` starts them.

    accelerate launch --num_processes 8 -m synbrain_cli train --subject 1

Every process runs the whole command. What is long is shared out between them (a batch, images);
what must happen once (files, what is said) happens on the main one. A `Team` of one, the default
everywhere, does the same without any communication.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, nn

from synbrain_cli.errors import InputError

T = TypeVar("T")
PATIENCE = timedelta(hours=6)  # the others wait while the main process fits or writes


@dataclass(frozen=True)
class Team:
    """The processes at work, seen from one of them.

    Attributes
    ----------
    rank : int
        Of this process; 0 is the main one.
    size : int
    own_device : torch.device, optional
        Given to this process; None: any.
    """

    rank: int = 0
    size: int = 1
    own_device: torch.device | None = None

    @classmethod
    def assemble(cls) -> Team:
        """Join the processes that were launched together; alone where none were."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        from accelerate import PartialState

        state = PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
        return cls(state.process_index, state.num_processes, state.device)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def device(self, asked: str) -> str:
        """The device of this process where ``asked`` is "auto", and ``asked`` else."""
        return str(self.own_device) if asked == "auto" and self.own_device else asked

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            torch.distributed.barrier()

    def on_main(self, work: Callable[[], T]) -> T:
        """What ``work`` returns on the main process, to all of them; or the error it raises."""
        if self.size == 1:
            return work()
        answer: list = [None, None]
        if self.is_main:
            try:
                answer[0] = work()
            except Exception as error:
                answer[1] = error
        torch.distributed.broadcast_object_list(answer, src=0, device=self.own_device)
        if answer[1] is not None:
            raise answer[1]
        return answer[0]

    @contextmanager
    def held(self, context: Callable[[], AbstractContextManager]) -> Iterator[None]:
        """A context (a lock) that the main process holds for all."""
        held: list[AbstractContextManager] = []

        def enter() -> None:
            held.append(context())
            held[0].__enter__()

        self.on_main(enter)
        try:
            yield
        finally:
            if held:
                held[0].__exit__(None, None, None)

    def part(self, n: int, what: str = "batch") -> slice:
        """This process's part of n items, in equal, consecutive parts.

        Raises
        ------
        InputError
            When they do not divide.
        """
        if n % self.size:
            raise InputError(
                f"expected a {what} that {self.size} processes can share in equal parts, found "
                f"{n}: launch a number of processes that divides it"
            )
        own = n // self.size
        return slice(self.rank * own, (self.rank + 1) * own)

    def gather(self, x: Tensor) -> Tensor:
        """The parts of all processes along the first axis; gradients reach the own part alone."""
        if self.size == 1:
            return x
        parts = [torch.empty_like(x) for _ in range(self.size)]
        torch.distributed.all_gather(parts, x.detach().contiguous())
        parts[self.rank] = x
        return torch.cat(parts)

    def total(self, x: Tensor) -> Tensor:
        """Sum over processes."""
        if self.size > 1:
            x = x.clone()
            torch.distributed.all_reduce(x)
        return x

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module, with its gradients averaged over processes as they are computed."""
        if self.size == 1:
            return module
        on_gpu = self.own_device is not None and self.own_device.type == "cuda"
        return nn.parallel.DistributedDataParallel(
            module,
            device_ids=[self.own_device.index] if on_gpu else None,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
        )
