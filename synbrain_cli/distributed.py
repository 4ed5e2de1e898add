"""Distributed execution: several processes that run one command together.

    accelerate launch --multi_gpu --num_processes 8 -m synbrain_cli train --subject 1

Every process runs the whole command. Long computations (a batch, a list of images) are divided
between the processes; files and messages are written by the main process alone. `SINGLE_PROCESS`,
the default everywhere, needs no communication.
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
TIMEOUT = timedelta(hours=6)  # how long processes wait while the main one fits or writes (ours)


@dataclass(frozen=True)
class Processes:
    """The processes that run one command, and the rank of the present one.

    Attributes
    ----------
    rank : int
        Rank of the present process; 0 is the main process.
    size : int
        Number of processes.
    own_device : torch.device, optional
        Device assigned to the present process; None where it may use any.
    """

    rank: int = 0
    size: int = 1
    own_device: torch.device | None = None

    @classmethod
    def assemble(cls, device: str = "auto") -> Processes:
        """Connect the processes that were launched together.

        Parameters
        ----------
        device : str
            Device asked for: "cpu" keeps all processes on the CPU.

        Returns
        -------
        Processes
            A single process where none were launched together.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        from accelerate import PartialState

        on_gpu = device != "cpu" and torch.cuda.is_available()
        state = PartialState(cpu=not on_gpu, timeout=TIMEOUT)
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
            When one device is named for several processes.
        """
        if self.own_device is None:
            return asked
        if asked not in ("auto", self.own_device.type):
            raise InputError(
                f"--device {asked}: expected no device, because each of the {self.size} processes "
                "is assigned one of its own: leave --device out"
            )
        return str(self.own_device)

    def wait(self) -> None:
        """Wait until all processes have reached this point."""
        if self.size > 1:
            torch.distributed.barrier()

    def on_main(self, work: Callable[[], T]) -> T:
        """Run a function on the main process; return its result, or raise its error, on all."""
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
        """Enter a context, such as a lock, on the main process on behalf of all processes."""
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
        """Return the part of n items that belongs to this process.

        Parameters
        ----------
        n : int
            Number of items, which is divided into equal, consecutive parts.
        what : str
            Name of the items, for the message.

        Raises
        ------
        InputError
            When n is not a multiple of the number of processes.
        """
        if n % self.size:
            raise InputError(
                f"expected a {what} that {self.size} processes can share in equal parts, found "
                f"{n}: launch a number of processes that divides {n}"
            )
        own = n // self.size
        return slice(self.rank * own, (self.rank + 1) * own)

    def deal(self, items: Sequence[T], n: int) -> Iterator[tuple[list[T], list[T]]]:
        """Distribute items over the processes in rounds of up to ``n`` items per process.

        A process that has finished its items waits for the others (`wait`, `collect`) before the
        next round. Completed rounds do not depend on the number of processes, so that an
        interrupted command can be resumed with another number.

        Yields
        ------
        list, list
            All items of the round, and those of the present process.
        """
        for start in range(0, len(items), n * self.size):
            round_ = list(items[start : start + n * self.size])
            yield round_, round_[self.rank :: self.size]

    def collect(self, x: T) -> list[T]:
        """Return the objects of all processes, ordered by rank, on every process."""
        if self.size == 1:
            return [x]
        found: list = [None] * self.size
        torch.distributed.all_gather_object(found, x)
        return found

    def gather(self, x: Tensor) -> Tensor:
        """Concatenate the tensors of all processes along the first axis.

        Only the part of the present process carries gradients.
        """
        if self.size == 1:
            return x
        parts = [torch.empty_like(x) for _ in range(self.size)]
        torch.distributed.all_gather(parts, x.detach().contiguous())
        parts[self.rank] = x
        return torch.cat(parts)

    def total(self, x: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes."""
        if self.size > 1:
            x = x.clone()
            torch.distributed.all_reduce(x)
        return x

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return the module, with gradients that are averaged over processes during training."""
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
