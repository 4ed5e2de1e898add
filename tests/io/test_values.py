"""Values that float32 holds come through unchanged; those that it does not are named."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from synbrain_cli.errors import InputError
from synbrain_cli.io.values import as_float32, signal_to_noise, whole_codes

PATH = Path("r.npy")


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("dtype", ["?", "i1", "u2", "i4", "i8", "f2", "f4", ">f4", "f8", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_ordinary_values_are_those_of_numpys_cast(rng, dtype, order):
    values = np.asarray(rng.integers(0, 100, (20, 30)) / 3, order=order).astype(dtype)
    found = as_float32(values, PATH)
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, values.astype(np.float32))


def test_missing_and_infinite_values_stay(rng):
    values = rng.standard_normal((20, 4))
    values[3, 1], values[4, 2] = np.nan, -np.inf
    np.testing.assert_array_equal(as_float32(values, PATH), values.astype(np.float32))


def test_a_voxel_of_rounding_noise_does_not_matter(rng):
    """Outside the brain, fits leave constants with errors in the last digit."""
    values = rng.standard_normal((50, 9))
    values[:, 2] = 5 + rng.standard_normal(50) * 1e-12
    np.testing.assert_array_equal(as_float32(values, PATH), values.astype(np.float32))


@pytest.mark.parametrize("value", [1e39, -1e300])
def test_a_value_beyond_float32_is_named(rng, value):
    values = rng.standard_normal((20, 4))
    values[7, 3] = value
    with pytest.raises(InputError, match=r"r\.npy: the value .* of trial 7 and voxel 3"):
        as_float32(values, PATH)


@pytest.mark.parametrize("change", [lambda x: x + 1e9, lambda x: x * 1e-60])
def test_variation_that_float32_does_not_hold(rng, change):
    with pytest.raises(InputError, match="which float32 does not hold"):
        as_float32(change(rng.standard_normal((20, 4))), PATH)


def test_codes_are_whole_numbers():
    found = whole_codes(np.array([0, 3.0, np.nan], np.float32), PATH)
    assert found.dtype == np.int64
    assert found.tolist() == [0, 3, -1]
    for bad in (0.5, np.inf, -np.inf, 1e30):
        with pytest.raises(InputError, match=r"r\.npy: expected whole numbers, found"):
            whole_codes(np.array([0, bad]), PATH)


def test_ncsnr_is_not_negative():
    values = np.array([0, 0.5, np.nan])
    assert signal_to_noise(values, PATH) is values
    for bad in (-0.1, np.inf):
        with pytest.raises(InputError, match=r"r\.npy: expected ncsnr from 0, found"):
            signal_to_noise(np.array([0, bad]), PATH)
