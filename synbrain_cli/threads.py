"""Threads of a computation: one for small products, which several would slow down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute within the block in one thread: NumPy's products, and what this thread asks of torch.

    Threads of OpenBLAS and OpenMP wait for one another in a loop: where each has little to do, and
    another program uses the cores too, a command took four times the processor time, and the tokens
    of an image ten times.
    """
    with _libraries().limit(limits=1):
        yield


@cache
def _libraries() -> ThreadpoolController:
    """Libraries with threads in this process: looking for them takes milliseconds."""
    return ThreadpoolController()
