"""Processes that do one command's work together, as ``accelerate launch`` starts them.

    accelerate launch --multi_gpu --num_processes 8 -m synbrain_cli train --subject 1

Every process runs the whole command. What is long is shared out between them (a batch, images);
what must happen once (files, messages) happens on the main one. `SINGLE_PROCESS`, the default
everywhere, does the same without any communication.
"""

from __future__ import annotations

import atexit
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
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
class Processes:
    """The processes at work, as one of them sees them.

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
    def assemble(cls, device: str = "auto") -> Processes:
        """Join the processes that were launched together; a single process if none were."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        from accelerate import PartialState

        on_gpu = device != "cpu" and torch.cuda.is_available()
        state = PartialState(cpu=not on_gpu, timeout=PATIENCE)
        # Threads of the communication that are alive when the interpreter ends abort the process.
        atexit.register(state.destroy_process_group)
        own = state.device if on_gpu else torch.device("cpu")
        return cls(state.process_index, state.num_processes, own)

    @property
    def is_main(self) -> bool:
        """Whether this is the main process."""
        return self.rank == 0

    def device(self, asked: str) -> str:
        """Return this process's own device if it has one, else the device asked for.

        Raises
        ------
        InputError
            When one GPU is named for several processes.
        """
        if self.own_device is None:
            return asked
        if asked not in ("auto", self.own_device.type):
            raise InputError(
                f"--device {asked}: each of {self.size} processes is given one of its own: leave "
                "it out"
            )
        return str(self.own_device)

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            torch.distributed.barrier()

    def on_main(self, work: Callable[[], T]) -> T:
        """Do work on the main process; return its result, or raise its error, on all of them."""
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
        """Hold a context (a lock) on the main process, for all of them."""
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
        """Return this process's part of n items, in equal, consecutive parts.

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

    def deal(self, items: Sequence[T], n: int) -> Iterator[tuple[list[T], list[T]]]:
        """Yield rounds of up to ``n`` items per process: all items of the round, and the own ones.

        A process that has done its own waits for the others (`wait`, `collect`); the round is then
        whole, whatever number of processes goes on from there.
        """
        for start in range(0, len(items), n * self.size):
            round_ = list(items[start : start + n * self.size])
            yield round_, round_[self.rank :: self.size]

    def collect(self, x: T) -> list[T]:
        """Return what every process brings, by rank, to all of them, once all are here."""
        if self.size == 1:
            return [x]
        found: list = [None] * self.size
        torch.distributed.all_gather_object(found, x)
        return found

    def gather(self, x: Tensor) -> Tensor:
        """Join the parts of all processes along the first axis; only the own part has gradients."""
        if self.size == 1:
            return x
        parts = [torch.empty_like(x) for _ in range(self.size)]
        torch.distributed.all_gather(parts, x.detach().contiguous())
        parts[self.rank] = x
        return torch.cat(parts)

    def total(self, x: Tensor) -> Tensor:
        """Return the sum over processes."""
        if self.size > 1:
            x = x.clone()
            torch.distributed.all_reduce(x)
        return x

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return the module with its gradients averaged over processes as they are computed."""
        if self.size == 1:
            return module
        on_gpu = self.own_device is not None and self.own_device.type == "cuda"
        with warnings.catch_warnings():  # newer versions have another name for broadcast_buffers
            warnings.simplefilter("ignore", FutureWarning)
            return nn.parallel.DistributedDataParallel(
                module,
                device_ids=[self.own_device.index] if on_gpu else None,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
            )


SINGLE_PROCESS = Processes()
