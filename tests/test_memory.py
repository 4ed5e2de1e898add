"""Memory that is given back, and tasks that do not fit."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from synbrain_cli import memory
from synbrain_cli.errors import InputError


def resident() -> int:
    return psutil.Process().memory_info().rss


@pytest.mark.skipif(not psutil.LINUX, reason="pages of files are given back on Linux")
def test_pages_of_a_file_that_were_read_are_given_back(tmp_path):
    np.save(tmp_path / "rows.npy", np.ones((64, 2**18), np.float32))  # 67 MB
    rows = np.load(tmp_path / "rows.npy", mmap_mode="r")
    before = resident()
    assert rows.sum() == rows.size
    read = resident()
    memory.release(rows)
    assert read - before > 50e6
    assert resident() - before < 20e6
    assert (rows[::7] == 1).all()  # and can be read again


def test_other_arrays_are_left_alone(tmp_path):
    array = np.arange(5)
    memory.release(array)
    memory.release(array[1:])
    np.testing.assert_array_equal(array, range(5))


def test_a_task_that_does_not_fit_is_refused(monkeypatch):
    free = SimpleNamespace(available=8e9)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: free)
    found = memory.require_memory(6.44e9, "training sub-01", "prepare fewer voxels")
    assert found == "needs about 6.4 GB of memory, 8.0 GB are free"
    with pytest.raises(
        InputError, match=r"training sub-01 needs about 8\.1 GB .* 8\.0 GB are free"
    ):
        memory.require_memory(8.1e9, "training sub-01", "prepare fewer voxels")
