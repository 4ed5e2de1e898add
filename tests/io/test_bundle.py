"""Named arrays in files."""

from __future__ import annotations

import os

import numpy as np
import pytest

from synbrain_cli.io.arrays import load_arrays, save_arrays


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_others_may_read_what_the_user_lets_them(tmp_path, umask, mode):
    path, before = tmp_path / "arrays.safetensors", os.umask(umask)
    try:
        save_arrays(path, {"x": np.arange(3)})
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == mode
    np.testing.assert_array_equal(load_arrays(path)["x"], [0, 1, 2])
