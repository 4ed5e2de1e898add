"""Prefetching: reading, sampling and writing in threads, before the results are needed."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

THREADS = min(16, os.cpu_count() or 1)  # decoding and compressing release the interpreter lock
MEMORY = 1 << 30  # bytes that all threads may hold together (ours)


def prefetch(work: Callable[[T], R], items: Iterable[T], n_bytes: int = 1 << 20) -> Iterator[R]:
    """Yield the results of work on items, in order, computed in threads before they are needed.

    An encoder whose images are prefetched does not wait for the disk; responses that are written
    in this way do not delay sampling.

    Parameters
    ----------
    work : callable
        Function of one item, which runs in a thread.
    items : iterable
        Read in the calling thread, in advance of the results by at most two items per thread.
    n_bytes : int
        Memory that one item takes; the number of threads is limited so that `MEMORY` suffices.

    Yields
    ------
    object
        What ``work`` returns for each item.

    Raises
    ------
    Exception
        Of the first item on which ``work`` fails, after the results of the items before it.
    """
    threads = max(1, min(THREADS, MEMORY // (2 * n_bytes)))
    pool = ThreadPoolExecutor(threads)
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) >= 2 * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:  # also where the caller does not use the remaining results
        pool.shutdown(cancel_futures=True)
