"""Statistics of known values: those of NumPy, and NaN without a warning where none is known."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from synbrain_cli.metrics.missing import known_mean, known_median, known_quantile


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_they_are_those_of_numpy_where_something_is_known(rng, axis):
    values = rng.normal(size=(7, 5))
    values[2, 3] = np.nan
    np.testing.assert_array_equal(known_median(values, axis), np.nanmedian(values, axis))
    np.testing.assert_array_equal(known_mean(values, axis), np.nanmean(values, axis))
    np.testing.assert_array_equal(
        known_quantile(values, 0.1, axis), np.nanquantile(values, 0.1, axis)
    )


def test_nothing_known_is_nan_without_a_warning(rng):
    values = rng.normal(size=(4, 3))
    values[1] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = known_median(values, axis=1)
        assert np.isnan(known_mean(np.full(3, np.nan)))
        assert np.isnan(known_median(np.empty(0)))
        assert np.isnan(known_quantile(np.full((2, 3), np.nan), 0.5, axis=1)).all()
    np.testing.assert_array_equal(np.isnan(found), [False, True, False, False])
    assert found[0] == np.median(values[0])
