"""Work that threads do before its results are asked for: reading, sampling, writing."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

THREADS = min(16, os.cpu_count() or 1)  # decoding and compressing leave Python's lock to others
MEMORY = 1 << 30  # bytes that they may hold together


def prefetch(work: Callable[[T], R], items: Iterable[T], n_bytes: int = 1 << 20) -> Iterator[R]:
    """Yield results of work on items, in order, computed by threads before they are asked for.

    With images read this way an encoder does not wait for the disk, and with responses written
    this way the disk does not hold up sampling.

    Parameters
    ----------
    work : callable
        Of one item, in a thread.
    items : iterable
        Taken in the caller's own thread, no more than twice as many as there are threads ahead
        of the results.
    n_bytes : int
        Memory that one item takes: there are as many threads as `MEMORY` allows.

    Raises
    ------
    Exception
        That of the first item whose work fails, after the results of those before it.
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
    finally:  # also where the rest is not asked for
        pool.shutdown(cancel_futures=True)
