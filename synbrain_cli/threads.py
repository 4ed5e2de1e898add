"""Threads of a computation: one for small products, which several would slow down.

Where there are many small products, parts of the work share the cores instead (`side_by_side`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

from threadpoolctl import ThreadpoolController

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute within the block in one thread: NumPy's products, and what this thread asks of torch.

    Threads of OpenBLAS and OpenMP wait for one another in a loop: where each has little to do, and
    another program uses the cores too, a command took four times the processor time, and the tokens
    of an image ten times.
    """
    with _libraries().limit(limits=1):
        yield


def side_by_side(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield the results of work on items, in order, computed in as many threads as NumPy would use.

    Each of them computes its products alone (`one_thread`), so that none waits for another.

    Parameters
    ----------
    work : callable
        Function of one item, of which most is NumPy: the interpreter is one for all.
    items : iterable
    """
    n_threads = max((library["num_threads"] for library in _libraries().info()), default=1)
    with one_thread(), ThreadPoolExecutor(n_threads) as pool:
        yield from pool.map(work, items)


@cache
def _libraries() -> ThreadpoolController:
    """Libraries with threads in this process: looking for them takes milliseconds."""
    return ThreadpoolController()
