"""One way to bootstrap over images."""

from __future__ import annotations

import numpy as np
import pytest

from synbrain_cli.metrics.bootstrap import Bootstrap, bootstrap_ci, weighted_mean


def test_an_interval_is_that_of_the_metrics_with_a_fresh_generator(rng):
    values = rng.standard_normal((30, 2, 3))
    bootstrap = Bootstrap(300, seed=4)
    low, high = bootstrap_ci(
        lambda counts: weighted_mean(values, counts), 30, np.random.default_rng(4), 300
    )
    for _ in range(2):  # every call begins anew
        found = bootstrap.interval(lambda counts: weighted_mean(values, counts), 30)
        np.testing.assert_array_equal(found, np.stack([low, high], axis=-1))
        np.testing.assert_array_equal(bootstrap.interval_of_mean(values), found)
    one = bootstrap.limits_of_mean(values[:, 1, 2])
    assert one == pytest.approx((low[1, 2], high[1, 2]), rel=1e-9)
    assert all(type(limit) is float for limit in one)


def test_differences_of_scores_rest_on_the_same_draws_of_images(rng):
    values = rng.standard_normal(50)
    low, high = Bootstrap(200).limits_of_mean(values - (values + 1))
    np.testing.assert_allclose([low, high], -1)


def test_the_interval_covers_the_mean_and_narrows_with_images(rng):
    few, many = rng.standard_normal(20), rng.standard_normal(2000)
    widths = [np.diff(Bootstrap(500).limits_of_mean(values))[0] for values in (few, many)]
    assert widths[0] > 5 * widths[1] > 0
    low, high = Bootstrap(500).limits_of_mean(many)
    assert low < many.mean() < high
    assert Bootstrap(500, 1).limits_of_mean(few) != Bootstrap(500).limits_of_mean(few)
