"""Similarity of geometries against references, and the properties it must have."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import pdist

from synbrain_cli.errors import InputError, InputTypeError
from synbrain_cli.metrics import arrays, bootstrap
from synbrain_cli.metrics.similarity import linear_cka, rdm, rsa, weighted_cka, weighted_rsa

seeds = st.integers(0, 2**32 - 1)


def pair(seed=0, n_images=30, n_voxels=50, noise=1.0, rank=5):
    """Two noisy sets of patterns with the same low-dimensional structure."""
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=(n_images, rank)) @ rng.normal(size=(rank, n_voxels))
    return signal + noise * rng.normal(size=(2, n_images, n_voxels))


def draws(n_images, n_draws=50, seed=1):
    rng = np.random.default_rng(seed)
    return rng.multinomial(n_images, np.full(n_images, 1 / n_images), size=n_draws)


def rsa_of(y_true, y_pred):
    return rsa(rdm(y_true), rdm(y_pred))


def weighted_rsa_of(y_true, y_pred, counts):
    return weighted_rsa(rdm(y_true), rdm(y_pred), counts)


def biased_cka(x, y):
    k, l = ((z - z.mean(0)) @ (z - z.mean(0)).T for z in (x, y))  # noqa: E741
    return (k * l).sum() / np.linalg.norm(k) / np.linalg.norm(l)


def unbiased_hsic(x, y):
    """Song et al. (2012), equation 5: traces and sums of kernels without diagonal."""
    n = len(x)
    k, l = x @ x.T, y @ y.T  # noqa: E741
    np.fill_diagonal(k, 0)
    np.fill_diagonal(l, 0)
    one = np.ones(n)
    last = one @ k @ one * (one @ l @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ k @ l @ one)
    return (np.trace(k @ l) + last) / (n * (n - 3))


def u_centred_by_loops(x):
    n = len(x)
    k = np.array([[0 if i == j else x[i] @ x[j] for j in range(n)] for i in range(n)])
    centred = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            if i != j:
                centred[i, j] = (
                    k[i, j]
                    - k[i].sum() / (n - 2)
                    - k[:, j].sum() / (n - 2)
                    + k.sum() / ((n - 1) * (n - 2))
                )
    return centred


# References ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32])
def test_rdm_is_scipys(dtype):
    patterns = (10 * pair()[0] + 50).astype(dtype)
    found = rdm(patterns)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, pdist(patterns.astype(float), "correlation"), atol=1e-11)


def test_rdm_of_a_constant_pattern_is_missing():
    patterns = pair(n_images=5)[0]
    patterns[1] = 0.1  # not exact in binary: the mean is not 0.1
    patterns[3, 2] = np.nan
    distances = rdm(patterns)
    expected = np.array([1 in ij or 3 in ij for ij in zip(*np.triu_indices(5, 1), strict=True)])
    np.testing.assert_array_equal(np.isnan(distances), expected)
    constant = np.where(np.arange(5)[:, None] == 1, 0.5, pair(n_images=5)[0])
    np.testing.assert_array_equal(np.isnan(rdm(constant)), np.isnan(pdist(constant, "correlation")))


def test_rdm_of_equal_patterns_is_zero():
    pattern = np.random.default_rng(0).normal(size=999)
    assert (rdm(np.tile(pattern, (37, 1))) == 0).all()
    assert (rdm(pattern * np.arange(1, 38)[:, None] / 7) == 0).all()


@pytest.mark.parametrize("digits", [1, 12])
def test_rsa_is_spearman(digits):
    t, p = (rdm(y).round(digits) for y in pair())  # one digit: many ties
    assert rsa(t, p) == pytest.approx(stats.spearmanr(t, p).statistic, abs=1e-12)
    assert isinstance(rsa(t, p), float)


@pytest.mark.parametrize("n_images", [4, 5, 30])
def test_cka_is_the_ratio_of_unbiased_hsic(n_images):
    t, p = pair(n_images=n_images)
    t, p = t + 3, (p - 1)[:, :17]  # offsets must not matter; the numbers of voxels may differ
    expected = unbiased_hsic(t, p) / np.sqrt(unbiased_hsic(t, t) * unbiased_hsic(p, p))
    assert linear_cka(t, p) == pytest.approx(expected, abs=1e-12)
    assert isinstance(linear_cka(t, p), float)
    by_loops = [u_centred_by_loops(y) for y in (t, p)]
    scale = n_images * (n_images - 3)
    assert (by_loops[0] * by_loops[1]).sum() / scale == pytest.approx(unbiased_hsic(t, p))


def test_float32_and_blocks_do_not_change_cka(monkeypatch):
    t, p = pair()
    expected = linear_cka(t, p)
    assert linear_cka(t.astype(np.float32), p.astype(np.float32)) == pytest.approx(
        expected, abs=1e-6
    )
    assert rsa_of(t.astype(np.float32), p.astype(np.float32)) == pytest.approx(
        rsa_of(t, p), abs=1e-4
    )
    assert linear_cka((1e4 + t).astype(np.float32), p) == pytest.approx(expected, abs=1e-3)
    monkeypatch.setattr(arrays, "BLOCK", 1)
    assert linear_cka(t, p) == pytest.approx(expected, rel=1e-12)


# Conventions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("constant", ["one number", "one pattern", "all but one image"])
def test_a_constant_prediction_scores_zero_and_constant_data_nan(constant):
    y_true = pair()[0]
    same = np.full_like(y_true, 0.1)
    if constant != "one number":
        same[:] = y_true[3] / 7
    ones, some = np.ones((2, 30)), draws(30, 3)
    if constant == "all but one image":
        same[4] = y_true[4]  # after U-centring nothing remains; for distances something does
    else:
        assert rsa_of(y_true, same) == 0
        assert (weighted_rsa_of(y_true, same, some) == 0).all()
        assert np.isnan(rsa_of(same, y_true))
        assert np.isnan(rsa_of(same, same))
        assert np.isnan(weighted_rsa_of(same, y_true, some)).all()
    assert linear_cka(y_true, same) == 0
    assert (weighted_cka(y_true, same, ones) == 0).all()
    assert np.isnan(linear_cka(same, y_true))
    assert np.isnan(linear_cka(same, same))
    assert np.isnan(weighted_cka(same, y_true, some)).all()


@pytest.mark.parametrize("which", [0, 1])
def test_a_missing_value_makes_the_score_missing(which):
    arrays = pair()
    arrays[which, 3, 2] = np.nan
    assert np.isnan([rsa_of(*arrays), linear_cka(*arrays)]).all()
    assert np.isnan(weighted_rsa_of(*arrays, draws(30, 3))).all()
    assert np.isnan(weighted_cka(*arrays, draws(30, 3))).all()
    arrays[1 - which] = 0.1
    assert np.isnan(linear_cka(*arrays))


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: rdm(np.ones((1, 5))), InputError),
        (lambda: rdm(np.ones((5, 1))), InputError),
        (lambda: rdm(np.ones(5)), InputError),
        (lambda: rdm([["a"]]), InputTypeError),
        (lambda: rsa(np.ones(6), np.ones(10)), InputError),
        (lambda: rsa(np.ones(7), np.ones(7)), InputError),
        (lambda: rsa(np.ones(1), np.ones(1)), InputError),
        (lambda: rsa(np.ones(0), np.ones(0)), InputError),
        (lambda: rsa(np.ones((4, 4)), np.ones((4, 4))), InputError),
        (lambda: rsa(np.ones(3) * 1j, np.ones(3)), InputTypeError),
        (lambda: weighted_rsa(np.arange(6), np.arange(6), np.ones((2, 6))), InputError),
        (lambda: weighted_rsa(np.ones(6), np.ones(6), np.ones(4)), InputError),
        (lambda: linear_cka(np.ones((3, 5)), np.ones((3, 5))), InputError),
        (lambda: linear_cka(np.ones((4, 5)), np.ones((5, 5))), InputError),
        (lambda: linear_cka(np.ones(4), np.ones(4)), InputError),
        (lambda: weighted_cka(*pair(), np.ones((2, 29))), InputError),
    ],
)
def test_bad_input_is_refused(call, error):
    with pytest.raises(error, match=r"expected.*found"):
        call()


# Properties ---------------------------------------------------------------------------------------


@given(seeds, st.integers(4, 20), st.integers(2, 30))
@settings(max_examples=30, deadline=None)
def test_the_same_patterns_score_one_and_order_does_not_matter(seed, n_images, n_voxels):
    t, p = pair(seed, n_images, n_voxels)
    order = np.random.default_rng(seed).permutation(n_images)
    for score in (rsa_of, linear_cka):
        if score is rsa_of and n_voxels == 2:
            continue  # a correlation of two numbers is ±1: distances may all tie
        assert score(t, t) == pytest.approx(1, abs=1e-12)
        assert -1 - 1e-12 <= score(t, p) <= 1 + 1e-12
        assert score(t, p) == pytest.approx(score(p, t), abs=1e-9)
        assert score(t[order], p[order]) == pytest.approx(score(t, p), abs=1e-9)


@given(seeds, st.floats(1e-3, 1e3), st.floats(-10, 10))
@settings(max_examples=25, deadline=None)
def test_cka_ignores_rotation_scale_and_offset(seed, scale, offset):
    t, p = pair(seed)
    rotation = stats.ortho_group.rvs(50, random_state=np.random.default_rng(seed))
    assert linear_cka(t, scale * p @ rotation + offset) == pytest.approx(linear_cka(t, p), abs=1e-8)
    assert linear_cka(t, scale * t @ rotation + offset) == pytest.approx(1)


def test_unrelated_patterns_score_zero_on_average():
    rng = np.random.default_rng(0)
    sets = rng.normal(size=(300, 2, 20, 500))
    cka = np.array([linear_cka(*two) for two in sets])
    assert abs(cka.mean()) < 4 * cka.std() / np.sqrt(300)
    assert cka.std() < 0.15
    assert np.mean([biased_cka(*two) for two in sets[:20]]) > 0.5
    rsas = np.array([rsa_of(*two) for two in sets[:100]])
    assert abs(rsas.mean()) < 4 * rsas.std() / np.sqrt(100)


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_shuffling_images_lowers_the_score(seed):
    t, p = pair(seed, n_images=60, n_voxels=200)
    for score in (rsa_of, linear_cka):
        whole, shuffled = score(t, p), score(t, np.roll(p, 1, axis=0))
        assert whole > 0.6
        assert abs(shuffled) < 0.35
    assert biased_cka(t, np.roll(p, 1, axis=0)) > linear_cka(t, np.roll(p, 1, axis=0))


# Bootstrap ----------------------------------------------------------------------------------------


@given(seeds, st.integers(4, 40), st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_counts_of_one_give_the_score_itself(seed, n_images, times):
    t, p = pair(seed, n_images)
    counts = np.full((2, n_images), times)
    np.testing.assert_allclose(weighted_rsa_of(t, p, counts), rsa_of(t, p), atol=1e-12)
    np.testing.assert_allclose(weighted_cka(t, p, counts), linear_cka(t, p), atol=1e-12)


def test_weighted_rsa_repeats_pairs_without_those_of_copies():
    t, p = (rdm(y) for y in pair())
    ranks_t, ranks_p = stats.rankdata(t), stats.rankdata(p)
    i, j = np.triu_indices(30, 1)
    counts = draws(30, 5)
    for row, found in zip(counts, weighted_rsa(t, p, counts), strict=True):
        drawn = np.repeat(np.arange(len(t)), row[i] * row[j])
        expected = np.corrcoef(ranks_t[drawn], ranks_p[drawn])[0, 1]
        assert found == pytest.approx(expected, abs=1e-12)


def test_weighted_cka_repeats_pairs_without_those_of_copies():
    t, p = pair()
    k, l = u_centred_by_loops(t), u_centred_by_loops(p)  # noqa: E741
    counts = draws(30, 5)
    for row, found in zip(counts, weighted_cka(t, p, counts), strict=True):
        weight = np.outer(row, row)
        cross, norm_k, norm_l = ((weight * m).sum() for m in (k * l, k * k, l * l))
        assert found == pytest.approx(cross / np.sqrt(norm_k * norm_l), abs=1e-12)


def test_draws_without_variation():
    t, p = np.arange(6.0), np.array([1.0, 1, 2, 1, 2, 2])  # images 0, 1, 2: true differ, pred tie
    counts = [[4, 0, 0, 0], [2, 2, 0, 0], [1, 1, 1, 0], [2, 1, 0, 1], [1, 1, 1, 1]]
    found = weighted_rsa(t, p, counts)
    assert np.isnan(found[:2]).all()  # no pair, one pair
    assert found[2] == 0
    assert found[4] == pytest.approx(rsa(t, p))
    assert np.isfinite(found[3])
    y_true, y_pred = pair(n_images=4)
    found = weighted_cka(y_true, y_pred, counts)
    assert np.isnan(found[0])
    assert np.isfinite(found[1:]).all()


@pytest.mark.parametrize("score", ["rsa", "cka"])
def test_interval_covers_the_score_of_many_images_about_as_often_as_it_says(score):
    whole, weighted = {"rsa": (rsa_of, weighted_rsa_of), "cka": (linear_cka, weighted_cka)}[score]
    # Images are drawn anew in each repetition, the directions of the signal are not
    mixing = np.random.default_rng(0).normal(size=(5, 100))

    def data(seed, n_images):
        rng = np.random.default_rng(seed)
        signal = rng.normal(size=(n_images, 5)) @ mixing
        return signal + 3 * rng.normal(size=(2, n_images, 100))

    truth = whole(*data(1, 1500))
    covered, widths = [], []
    for seed in range(2, 102):
        t, p = data(seed, 60)
        low, high = bootstrap.bootstrap_ci(
            lambda c, t=t, p=p: weighted(t, p, c), 60, np.random.default_rng(seed), 200
        )
        assert low < whole(t, p) < high
        covered.append(low < truth < high)
        widths.append(high - low)
    assert 0.85 < np.mean(covered) <= 1
    assert np.mean(widths) < 0.3


def test_interval_of_unrelated_patterns_is_wide_enough_to_hold_zero():
    rng = np.random.default_rng(0)
    held = []
    for t, p in rng.normal(size=(60, 2, 40, 100)):
        low, high = bootstrap.bootstrap_ci(lambda c, t=t, p=p: weighted_cka(t, p, c), 40, rng, 200)
        held.append(low < 0 < high)
    assert np.mean(held) > 0.93


def test_bootstrap_is_quick():
    t, p = pair(n_images=1000, n_voxels=300)
    counts = draws(1000, 1000)
    distances = rdm(t), rdm(p)
    start = time.perf_counter()
    assert weighted_rsa(*distances, counts).shape == (1000,)
    assert weighted_cka(t, p, counts).shape == (1000,)
    assert time.perf_counter() - start < 15
