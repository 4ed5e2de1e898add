"""Identification against simulation, enumeration and exact integer arithmetic."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from synbrain_cli.errors import InputError, InputTypeError
from synbrain_cli.metrics import bootstrap, identification
from synbrain_cli.metrics.identification import n_way, pattern_similarity, two_way

seeds = st.integers(0, 2**32 - 1)


def with_ties(seed, n_images, n_values=4, lift=0):
    """Similarities that tie often; `lift` raises the matches."""
    rng = np.random.default_rng(seed)
    similarity = rng.integers(0, n_values, size=(n_images, n_images)).astype(float)
    return similarity + lift * np.eye(n_images)


def enumerate_sets(similarity, n_candidates):
    """n_way by going through all sets of other candidates."""
    scores = []
    for i, row in enumerate(similarity):
        sets = itertools.combinations(np.delete(row, i), n_candidates - 1)
        scores.append([max(s) <= row[i] and 1 / (1 + s.count(row[i])) for s in sets])
    return np.mean(scores, axis=1)


def by_integers(similarity, n_candidates):
    """n_way by the formula of its docstring, without rounding."""
    scores = []
    for i, row in enumerate(similarity):
        worse, tied = int((row < row[i]).sum()), int((row == row[i]).sum()) - 1
        n = n_candidates
        favourable = math.comb(worse + tied + 1, n) - math.comb(worse, n)
        scores.append(Fraction(favourable, (tied + 1) * math.comb(len(row) - 1, n - 1)))
    return np.array(scores, dtype=float)


# Similarity ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32])
def test_similarity_is_pearson(dtype):
    rng = np.random.default_rng(0)
    queries = (10 * rng.normal(size=(5, 30)) + 40).astype(dtype)
    candidates = (10 * rng.normal(size=(8, 30))).astype(dtype)
    expected = [
        [stats.pearsonr(q, c)[0] for c in candidates.astype(float)] for q in queries.astype(float)
    ]
    found = pattern_similarity(queries, candidates)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, atol=1e-11)


def test_a_constant_pattern_is_similar_to_none_and_a_missing_value_stays_missing():
    queries = np.random.default_rng(0).normal(size=(4, 10))
    queries[0] = 0.1  # not exact in binary: the mean is not 0.1
    queries[1, 3] = np.nan
    similarity = pattern_similarity(queries, queries)
    assert (similarity[0, [0, 2, 3]] == 0).all()
    assert np.isnan(similarity[1]).all()
    assert np.isnan(similarity[:, 1]).all()
    np.testing.assert_array_equal(similarity[[2, 3], [2, 3]], 1)


def test_equal_patterns_tie_whatever_the_order_of_summation():
    rng = np.random.default_rng(0)
    queries, pattern = rng.normal(size=(61, 999)), rng.normal(size=999)
    candidates = pattern * rng.uniform(0.1, 10, size=(61, 1)) + rng.normal(size=(61, 1))
    for same in (np.tile(pattern, (61, 1)), candidates):  # equal, and equal up to scale and offset
        np.testing.assert_array_equal(two_way(pattern_similarity(queries, same)), 0.5)


def test_what_all_images_share_makes_all_similarities_alike():
    rng = np.random.default_rng(0)
    signal, noise = rng.normal(size=(2, 100, 50))
    shared = 100 * rng.normal(size=50)
    raw = pattern_similarity(signal + noise + shared, signal + shared)
    assert raw.min() > 0.99
    assert np.ptp(pattern_similarity(signal + noise, signal)) > 1


# Scores -------------------------------------------------------------------------------------------


def test_two_way_is_the_area_under_the_roc_curve():
    similarity = with_ties(0, 12, lift=1)
    expected = [roc_auc_score(np.arange(12) == i, row) for i, row in enumerate(similarity)]
    np.testing.assert_allclose(two_way(similarity), expected)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("lift", [0, 1])
def test_n_way_is_the_mean_over_all_sets(seed, lift):
    similarity = with_ties(seed, 7, n_values=3, lift=lift)
    for n in range(2, 8):
        expected = enumerate_sets(similarity, n)
        np.testing.assert_allclose(n_way(similarity, n), expected, rtol=1e-13, err_msg=str(n))
    np.testing.assert_allclose(n_way(similarity, 2), two_way(similarity))


def test_n_way_is_what_random_sets_average_to():
    rng = np.random.default_rng(0)
    similarity = (rng.normal(size=(60, 60)) + 1.5 * np.eye(60)).round(1)  # with ties
    n, n_draws = 20, 4000
    totals = np.zeros(60)
    for i, row in enumerate(similarity):
        others = rng.permuted(np.tile(np.delete(row, i), (n_draws, 1)), axis=1)[:, : n - 1]
        first = others.max(1) <= row[i]
        totals[i] = (first / (1 + (others == row[i]).sum(1))).sum()
    expected = n_way(similarity, n)
    assert 0.2 < expected.mean() < 0.8
    np.testing.assert_allclose(totals / n_draws, expected, atol=0.03)
    assert (totals / n_draws).mean() == pytest.approx(expected.mean(), abs=0.003)


def test_n_way_is_the_published_average_over_sets_shared_by_all_queries():
    rng = np.random.default_rng(0)
    similarity = rng.normal(size=(100, 100)) + 1.5 * np.eye(100)
    scores = []
    for _ in range(3000):
        chosen = rng.choice(100, 30, replace=False)
        scores.append((similarity[np.ix_(chosen, chosen)].argmax(1) == np.arange(30)).mean())
    assert np.mean(scores) == pytest.approx(n_way(similarity, 30).mean(), abs=0.006)


@pytest.mark.parametrize("n", [2, 300, 3000, 9999, 10000])
def test_n_way_is_exact_for_ten_thousand_images(monkeypatch, n):
    cases = np.array([(0, 0), (0, 1), (1, 0), (3, 5), (30, 1), (5000, 1), (0, 9999), (1, 9998)])
    rows = np.full((8, 10_000), -1)  # the match, 0, comes first
    for row, (better, tied) in zip(rows, cases, strict=True):
        row[1 : better + 1], row[better + 1 : better + tied + 1], row[0] = 1, 0, 0
    # Eight rows and not the square array, which would take 800 MB
    worse, tied = (rows < 0).sum(1), (rows == 0).sum(1) - 1
    standing = (np.resize(worse, 10_000), np.resize(tied, 10_000), np.zeros(10_000, dtype=bool))
    monkeypatch.setattr(identification, "_standing", lambda _: standing)
    exact = [by_integers(row[None], n)[0] for row in rows]
    np.testing.assert_allclose(n_way(None, n)[:8], exact, rtol=1e-11)


def test_all_of_the_images_is_top_one():
    rng = np.random.default_rng(0)
    similarity = rng.normal(size=(200, 200)) + 2 * np.eye(200)
    hits = similarity.argmax(1) == np.arange(200)
    np.testing.assert_array_equal(n_way(similarity, 200), hits)


def test_perfect_constant_and_worst():
    eye = np.eye(50)
    for n in (2, 7, 50):
        assert (n_way(eye, n) == 1).all()
        assert (n_way(-eye, n) == 0).all()
        assert (n_way(np.full((50, 50), 0.3), n) == 1 / n).all()
    assert (two_way(eye) == 1).all()
    assert (two_way(-eye) == 0).all()
    assert (two_way(np.full((50, 50), 0.3)) == 0.5).all()


def test_a_constant_prediction_is_at_chance():
    data = np.random.default_rng(0).normal(size=(20, 30))
    for prediction in (np.ones((20, 30)), np.tile(data[0] - data[1], (20, 1))):
        for similarity in (
            pattern_similarity(data, prediction),
            pattern_similarity(prediction, data),
        ):
            assert two_way(similarity).mean() == pytest.approx(0.5)
            assert n_way(similarity, 5).mean() == pytest.approx(0.2)


def test_shuffled_matches_are_at_chance():
    rng = np.random.default_rng(0)
    signal, noise = rng.normal(size=(2, 100, 40))
    similarity = pattern_similarity(signal + noise, signal)
    assert two_way(similarity).mean() > 0.99
    assert n_way(similarity, 50).mean() > 0.9
    shuffled = [similarity[:, rng.permutation(100)] for _ in range(200)]
    assert np.mean([two_way(s) for s in shuffled]) == pytest.approx(0.5, abs=0.01)
    assert np.mean([n_way(s, 50) for s in shuffled]) == pytest.approx(0.02, abs=0.005)


def test_a_missing_value_reaches_its_row_and_no_other():
    similarity = with_ties(0, 9)
    whole = two_way(similarity), n_way(similarity, 4)
    similarity[2, 5] = similarity[7, 7] = np.nan
    missing = np.isin(np.arange(9), [2, 7])
    for found, expected in zip((two_way(similarity), n_way(similarity, 4)), whole, strict=True):
        np.testing.assert_array_equal(found, np.where(missing, np.nan, expected))
    assert np.isnan(two_way(np.full((3, 3), np.nan))).all()


def test_scores_enter_the_bootstrap():
    rng = np.random.default_rng(0)
    scores = n_way(rng.normal(size=(80, 80)) + np.eye(80), 10)
    low, high = bootstrap.bootstrap_ci(lambda c: bootstrap.weighted_mean(scores, c), 80, rng)
    assert 0 < low < scores.mean() < high < 1


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: pattern_similarity(np.ones((4, 3)), np.ones((4, 2))), InputError),
        (lambda: pattern_similarity(np.ones((4, 1)), np.ones((4, 1))), InputError),
        (lambda: pattern_similarity(np.ones(3), np.ones((4, 3))), InputError),
        (lambda: pattern_similarity([["a"]], [["b"]]), InputTypeError),
        (lambda: two_way(np.ones((4, 3))), InputError),
        (lambda: two_way(np.ones((1, 1))), InputError),
        (lambda: n_way(np.ones((4, 4)), 5), InputError),
        (lambda: n_way(np.ones((4, 4)), 1), InputError),
        (lambda: n_way(np.ones((4, 3)), 2), InputError),
        (lambda: n_way(np.ones((4, 4)), 2.0), InputTypeError),
    ],
)
def test_bad_input_is_refused(call, error):
    with pytest.raises(error, match=r"expected.*found"):
        call()


# Properties ---------------------------------------------------------------------------------------


@given(seeds, st.integers(2, 30), st.integers(1, 40), st.data())
@settings(max_examples=60, deadline=None)
def test_scores_are_probabilities_and_ignore_the_order_of_images(seed, n_images, n_values, data):
    similarity = with_ties(seed, n_images, n_values)
    n = data.draw(st.integers(2, n_images))
    order = np.random.default_rng(seed).permutation(n_images)
    for score in (two_way, lambda s: n_way(s, n)):
        values = score(similarity)
        assert values.shape == (n_images,)
        assert values.dtype == np.float64
        assert (values >= 0).all()
        assert (values <= 1).all()
        np.testing.assert_array_equal(score(similarity[np.ix_(order, order)]), values[order])
        np.testing.assert_array_equal(score(np.exp(similarity)), values)  # only the order matters
    np.testing.assert_allclose(n_way(similarity, n), by_integers(similarity, n), rtol=1e-11)


@given(seeds, st.integers(2, 25), st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_more_candidates_are_harder(seed, n_images, n_values):
    similarity = with_ties(seed, n_images, n_values, lift=0.5)
    values = [n_way(similarity, n) for n in range(2, n_images + 1)]
    assert (np.diff(values, axis=0) <= 1e-12).all()


@given(seeds, st.floats(1e-3, 1e3), st.floats(-1e3, 1e3))
@settings(max_examples=25, deadline=None)
def test_similarity_ignores_scale_and_offset(seed, scale, offset):
    queries, candidates = np.random.default_rng(seed).normal(size=(2, 6, 12))
    expected = pattern_similarity(queries, candidates)
    np.testing.assert_allclose(
        pattern_similarity(scale * queries + offset, candidates), expected, atol=1e-7
    )
    np.testing.assert_allclose(pattern_similarity(candidates, queries), expected.T, atol=2e-12)
