"""Work done ahead: in order, bounded, and over when nobody asks for more."""

from __future__ import annotations

import threading
import time

import pytest

from synbrain_cli.errors import InputError
from synbrain_cli.prefetch import MEMORY, THREADS, prefetch


def test_ahead_keeps_the_order_and_looks_only_so_far():
    taken = []

    def items():
        for i in range(100):
            taken.append(i)
            yield i

    def slow_first(i):
        time.sleep(0.02 if i % 7 == 0 else 0)
        return i

    results = prefetch(slow_first, items())
    assert next(results) == 0
    assert len(taken) == 2 * THREADS
    assert list(results) == list(range(1, 100))


def test_ahead_works_in_parallel_within_its_memory():
    together = threading.Barrier(2, timeout=20)
    if THREADS > 1:
        assert list(prefetch(lambda i: together.wait() >= 0, range(2))) == [True, True]
    taken = []
    next(prefetch(lambda i: i, (taken.append(i) for i in range(9)), n_bytes=MEMORY))
    assert len(taken) == 2  # one thread is left, one item in work and one waiting


def test_ahead_raises_in_order_and_ends_its_threads():
    before = threading.active_count()

    def work(i):
        if i >= 3:
            raise InputError(f"image {i}")
        return i

    results, seen = prefetch(work, range(50)), []
    with pytest.raises(InputError, match="image 3"):
        seen.extend(results)
    assert seen == [0, 1, 2]
    unfinished = prefetch(lambda i: i, range(50))
    next(unfinished)
    unfinished.close()
    assert threading.active_count() == before
