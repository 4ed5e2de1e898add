"""Threads of linear algebra: one for small products, which several would slow down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute products within the block in one thread each.

    Threads of OpenBLAS wait for one another in a loop: where each has little to do, and another
    program uses the cores too, a command took four times the processor time.
    """
    with _libraries().limit(limits=1, user_api="blas"):
        yield


@cache
def _libraries() -> ThreadpoolController:
    """Libraries of linear algebra in this process: looking for them takes milliseconds."""
    return ThreadpoolController()
