"""A new subject's voxels from other subjects': the gain of the prior, and ridge on the residual."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from synbrain_cli.io.arrays import load_arrays, save_arrays
from synbrain_cli.metrics.accuracy import voxelwise_correlation
from synbrain_cli.model.linear import ALPHAS
from synbrain_cli.model.transfer import MAX_GAIN, Adapter, Transfer, fit_adapter


def simulated(rng, n_images=60, n_evidence=25, n_voxels=8, rank=12, noise=0.5):
    """Evidence of few dimensions, a prior that is partly right, and what voxels answered."""
    latent = rng.normal(0, 1, (n_images, rank)) * np.geomspace(1, 0.1, rank)
    evidence = latent @ rng.normal(0, 1, (rank, n_evidence)) + 3
    own = latent @ rng.normal(0, 1, (rank, n_voxels))
    prior = rng.normal(0, 1, (n_images, n_voxels)) + rng.normal(0, 1, n_voxels)
    responses = own + 0.8 * prior + noise * rng.normal(0, 1, own.shape) + 2
    return tuple(np.float32(x) for x in (evidence, prior, responses))


def one_penalty(monkeypatch, alpha):
    monkeypatch.setattr("synbrain_cli.model.linear.ALPHAS", np.array([alpha]))


# ------------------------------------------------------------------------- the computation


@pytest.mark.parametrize("n_evidence", [25, 60, 300])
def test_it_is_ridge_with_penalties_voxel_by_voxel(n_evidence, rng):
    evidence, _, responses = simulated(rng, n_evidence=n_evidence, rank=20)
    adapter, _ = fit_adapter(evidence, None, responses, np.random.default_rng(0))
    scale = ((evidence - evidence.mean(0)) ** 2).sum(1).mean()
    alphas = adapter.ridge["alphas"].astype(float)
    assert np.isclose(alphas[:, None], ALPHAS, rtol=1e-4).any(1).all()
    reference = Ridge(alpha=alphas * scale).fit(evidence.astype(float), responses)
    expected = reference.predict(evidence)
    np.testing.assert_allclose(adapter(evidence, None), expected, rtol=5e-3, atol=5e-3)


def test_evidence_given_twice(rng):
    """Evidence given twice is the same evidence, but now there is more of it than of images."""
    evidence, prior, responses = simulated(rng)
    new, new_prior, _ = simulated(rng, n_images=30)
    few, left_out = fit_adapter(evidence, prior, responses, np.random.default_rng(0))
    many, also = fit_adapter(np.tile(evidence, 4), prior, responses, np.random.default_rng(0))
    np.testing.assert_allclose(left_out, also, atol=5e-3)
    np.testing.assert_allclose(few(new, new_prior), many(np.tile(new, 4), new_prior), atol=5e-3)


def test_evidence_that_never_varies_says_the_mean(rng):
    """A source model that learned nothing says the same of every image."""
    evidence, responses = np.ones((40, 5), np.float32), rng.normal(2, 1, (40, 3))
    adapter, left_out = fit_adapter(evidence, None, responses, rng)
    np.testing.assert_allclose(adapter(evidence, None)[0], responses.mean(0), rtol=1e-5)
    others = (responses.sum(0) - responses) / 39
    np.testing.assert_allclose(left_out, others, rtol=1e-4)


def test_what_it_is_given_is_left_alone(rng):
    given = simulated(rng)
    before = [x.copy() for x in given]
    adapter, _ = fit_adapter(*given, rng)
    adapter(*given[:2])
    for one, other in zip(given, before, strict=True):
        np.testing.assert_array_equal(one, other)


# ------------------------------------------------------------------------- leaving one out


@pytest.mark.parametrize("n_evidence", [25, 200])
@pytest.mark.parametrize("alpha", [1e-2, 1.0, 30.0])
def test_left_out_predictions_are_those_of_fits_without_the_image(
    n_evidence, alpha, rng, monkeypatch
):
    """With penalty and gain fixed nothing but the ridge is fitted: exact."""
    one_penalty(monkeypatch, alpha)
    evidence, prior, responses = simulated(rng, n_evidence=n_evidence)
    adapter, left_out = fit_adapter(evidence, prior, responses, rng)
    assert left_out.dtype == np.float32
    rest = responses - adapter.gain * prior
    scale = ((evidence - evidence.mean(0)) ** 2).sum(1).mean()
    seen = adapter(evidence, prior)
    for row in range(0, 60, 9):
        others = np.arange(60) != row
        ridge = Ridge(alpha=alpha * scale).fit(evidence[others].astype(float), rest[others])
        expected = ridge.predict(evidence[[row]])[0] + adapter.gain * prior[row]
        np.testing.assert_allclose(left_out[row], expected, atol=5e-3)
    if alpha < 1:
        assert np.abs(left_out - seen).max() > 0.1  # it matters


@pytest.mark.parametrize("n_evidence", [25, 200])
def test_the_gain_of_all_images_tells_little_of_one(n_evidence, rng, monkeypatch):
    """The image left out counts for the gain, one number: next to nothing."""
    one_penalty(monkeypatch, 1.0)
    evidence, prior, responses = simulated(rng, n_evidence=n_evidence)
    adapter, left_out = fit_adapter(evidence, prior, responses, rng)
    again = []
    for row in range(60):
        others = np.arange(60) != row
        without, _ = fit_adapter(evidence[others], prior[others], responses[others], rng)
        again.append(without(evidence[[row]], prior[[row]])[0])
    seen = adapter(evidence, prior)
    error = [((responses - p) ** 2).mean() for p in (seen, left_out, np.array(again))]
    assert np.abs(left_out - again).mean() < 0.25 * np.abs(left_out - seen).mean()
    assert error[1] == pytest.approx(error[2], rel=0.02)
    assert error[0] < 0.98 * error[1]


# Axes are scaled by their length over all images, the one left out among them. Where evidence has
# as many dimensions as there are images, this lengthens axes that one image alone has.
@pytest.mark.parametrize("own_noise", [0.0, 1.0])
def test_left_out_errors_are_those_of_new_images(own_noise, rng):
    """Whether evidence has few dimensions, or as many as there are images."""
    promised, kept, seen = np.zeros((3, 4))
    for k in range(4):
        evidence, prior, responses = simulated(rng, 700, 300, 60, rank=30, noise=1.5)
        evidence += own_noise * rng.normal(0, 1, evidence.shape).astype(np.float32)
        parts = [x[:100] for x in (evidence, prior, responses)]
        adapter, left_out = fit_adapter(*parts, rng)
        promised[k] = ((parts[2] - left_out) ** 2).mean()
        seen[k] = ((parts[2] - adapter(*parts[:2])) ** 2).mean()
        kept[k] = ((responses[100:] - adapter(evidence[100:], prior[100:])) ** 2).mean()
    assert promised.mean() == pytest.approx(kept.mean(), rel=0.05)
    assert seen.mean() < 0.8 * kept.mean()


# ----------------------------------------------------------------------------- the prior


@pytest.mark.parametrize("gain", [0.3, 1.0, 1.4])
def test_the_gain_is_found(gain, rng):
    evidence, prior, _ = simulated(rng, n_images=400)
    responses = gain * prior + rng.normal(0, 0.5, prior.shape) + 7
    adapter, left_out = fit_adapter(evidence, prior, responses, rng)
    assert adapter.gain == pytest.approx(gain, abs=0.03)
    # The prior's own mean is not the voxels': the ridge's intercept takes it away.
    assert (responses - left_out).mean() == pytest.approx(0, abs=0.02)
    away = prior - prior.mean(0)
    exact = (away * responses).sum(dtype=float) / (away**2).sum(dtype=float)
    assert adapter.gain == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize(("factor", "gain"), [(3.0, MAX_GAIN), (-1.0, 0.0)])
def test_the_gain_has_bounds(factor, gain, rng):
    evidence, prior, _ = simulated(rng)
    adapter, _ = fit_adapter(evidence, prior, factor * prior, rng)
    assert adapter.gain == gain


@pytest.mark.parametrize("value", [0.0, 1.7])
def test_a_prior_that_says_nothing_of_images_counts_for_nothing(value, rng):
    evidence, prior, responses = simulated(rng)
    flat = np.full_like(prior, value)
    adapter, left_out = fit_adapter(evidence, flat, responses, np.random.default_rng(0))
    none, also = fit_adapter(evidence, None, responses, np.random.default_rng(0))
    assert adapter.gain == none.gain == 0
    np.testing.assert_array_equal(left_out, also)
    np.testing.assert_array_equal(adapter(evidence, flat), none(evidence, None))


def test_voxels_whose_prior_is_silent_are_those_without_a_prior(rng):
    """Off the sheet the prior is 0; the gain is that of the others."""
    evidence, prior, responses = simulated(rng)
    prior[:, 3:] = 0
    adapter, left_out = fit_adapter(evidence, prior, responses, np.random.default_rng(0))
    _, alone = fit_adapter(evidence, None, responses, np.random.default_rng(0))
    np.testing.assert_allclose(left_out[:, 3:], alone[:, 3:], atol=1e-5)
    assert adapter.gain > 0.5
    assert np.abs(left_out[:, :3] - alone[:, :3]).max() > 0.1


def test_a_good_prior_helps_where_images_are_few(rng):
    evidence, prior, responses = simulated(rng, n_images=420, rank=25, n_evidence=100)
    few = slice(0, 20)
    with_prior, _ = fit_adapter(evidence[few], prior[few], responses[few], rng)
    without, _ = fit_adapter(evidence[few], None, responses[few], rng)
    new = slice(20, None)
    errors = [
        ((responses[new] - p) ** 2).mean()
        for p in (with_prior(evidence[new], prior[new]), without(evidence[new], None))
    ]
    assert errors[0] < 0.9 * errors[1]


# -------------------------------------------------------------------- what it is good for


@pytest.mark.parametrize("n_evidence", [30, 400])
def test_mixtures_of_other_subjects_voxels_are_recovered(n_evidence, rng):
    evidence, _, _ = simulated(rng, n_images=300, n_evidence=n_evidence, noise=0)
    weights = rng.normal(0, 1, (n_evidence, 6)) / n_evidence**0.5
    responses = np.float32(evidence @ weights)
    adapter, left_out = fit_adapter(evidence[:150], None, responses[:150], rng)
    predicted = adapter(evidence[150:], None)
    assert voxelwise_correlation(responses[150:], predicted).min() > 0.99
    assert voxelwise_correlation(responses[:150], left_out).min() > 0.99
    np.testing.assert_allclose(predicted.mean(0), responses[150:].mean(0), atol=0.1)


def test_shuffled_images_predict_nothing(rng):
    evidence, prior, responses = simulated(rng, n_images=160)
    shuffled = np.roll(responses, 41, axis=0)
    scores = []
    for target in (responses, shuffled):
        adapter, left_out = fit_adapter(evidence[:120], prior[:120], target[:120], rng)
        new = voxelwise_correlation(target[120:], adapter(evidence[120:], prior[120:]))
        scores.append((new.mean(), voxelwise_correlation(target[:120], left_out).mean()))
    assert min(scores[0]) > 0.8
    assert max(scores[1]) < 0.15


# ------------------------------------------------------------------------------- files


@pytest.mark.parametrize("known", ["prior", "no prior"])
def test_an_adapter_through_a_file_is_bit_equal(known, rng, tmp_path):
    evidence, prior, responses = simulated(rng)
    prior = prior if known == "prior" else None
    adapter, _ = fit_adapter(evidence, prior, responses, rng)
    save_arrays(tmp_path / "transfer.safetensors", adapter.arrays())
    back = Adapter.from_arrays(load_arrays(tmp_path / "transfer.safetensors"))
    np.testing.assert_array_equal(adapter(evidence, prior), back(evidence, prior))
    assert back(evidence, prior).dtype == np.float32
    for name, array in adapter.arrays().items():
        np.testing.assert_array_equal(back.arrays()[name], array, err_msg=name)


def test_a_transfer_adapts_what_the_evidence_says(rng):
    evidence, prior, responses = simulated(rng)
    adapter, _ = fit_adapter(evidence, prior, responses, rng)
    tokens = rng.normal(0, 1, (60, 4, 3))

    def of_tokens(given):
        rows = [int(np.flatnonzero((tokens == one).all((1, 2)))[0]) for one in given]
        return evidence[rows], prior[rows]

    found = Transfer(of_tokens, adapter).predict(tokens[5:9])
    np.testing.assert_array_equal(found, adapter(evidence[5:9], prior[5:9]))


def test_the_same_generator_gives_the_same_adapter(rng):
    given = simulated(rng)
    one, _ = fit_adapter(*given, np.random.default_rng(3))
    same, _ = fit_adapter(*given, np.random.default_rng(3))
    for name, array in one.arrays().items():
        np.testing.assert_array_equal(same.arrays()[name], array, err_msg=name)
