"""MATLAB's files are read as SciPy reads them; damaged ones are refused, not fatal."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import scipy.io

from synbrain_cli.io.mat import read_mat

DTYPES = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")
REFUSED = (ValueError, struct.error, zlib.error)


@pytest.fixture(params=[True, False])
def path(request, tmp_path, rng):
    content = {f"of_{k}": rng.integers(0, 100, (3, 5)).astype(k) for k in DTYPES}
    content |= {"one": 7, "row": np.arange(40), "text": "words", "cell": {"a": 1}, "z": 1j}
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, content, do_compression=request.param)
    return path


def test_arrays_are_those_of_scipy(path):
    found, expected = read_mat(path), scipy.io.loadmat(path)
    assert found.keys() == {k for k in expected if not k.startswith("__")} - {"text", "cell", "z"}
    for name, values in found.items():
        assert values.dtype == expected[name].dtype
        np.testing.assert_array_equal(values, expected[name])


def test_the_other_order_of_bytes(tmp_path):
    """Written by hand, as no program of ours writes it."""

    def element(kind, content):
        return struct.pack(">II", kind, len(content)) + content + bytes(-len(content) % 8)

    parts = element(6, struct.pack(">II", 6, 0)) + element(5, struct.pack(">ii", 1, 2))
    parts += element(1, b"ab") + element(9, struct.pack(">dd", 1.5, -2))
    header = b"x".ljust(124) + struct.pack(">H", 0x0100) + b"MI"
    (tmp_path / "a.mat").write_bytes(header + element(14, parts))
    assert read_mat(tmp_path / "a.mat")["ab"].tolist() == [[1.5, -2.0]]


def test_damaged_files_end_in_an_error_or_in_arrays(path, rng):
    """SciPy's reader ends the process on one in two hundred of these."""
    content, refused = path.read_bytes(), 0
    for _ in range(600):
        damaged = bytearray(content)
        start = int(rng.integers(128, len(content) - 8))
        damaged[start : start + 8] = rng.bytes(8)
        path.write_bytes(damaged if rng.random() < 0.7 else content[:start])
        try:
            found = read_mat(path)
        except REFUSED:
            refused += 1
        else:
            assert all(isinstance(values, np.ndarray) for values in found.values())
    assert refused > 200


@pytest.mark.parametrize("content", [b"", b"MATLAB", b"\x89HDF" + bytes(200)])
def test_another_format_is_refused(tmp_path, content):
    (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(REFUSED, match="MATLAB 5 to 7"):
        read_mat(tmp_path / "a.mat")
