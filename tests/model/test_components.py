"""Variance components of small designs: right within sampling error, and honest about that."""

from __future__ import annotations

import numpy as np
import pytest
from one_band import one_scaler, standard

from synbrain_cli.metrics.calibration import line_agreement
from synbrain_cli.metrics.noise_ceiling import ncsnr
from synbrain_cli.model.components import ENOUGH, VarianceComponents, pool, shrink_noise_share
from synbrain_cli.model.linear import fit_linear
from synbrain_cli.model.readout import fit_readout
from synbrain_cli.training.distribution import HeldOut, fit_distribution
from synbrain_cli.training.examples import Examples, ResponseScale, SubjectExamples

N_VOXELS, N_FEATURES, N_NEW, N_AGAIN = 50, 60, 300, 4
N_EXPERIMENTS = 8
DESIGNS = {
    "13 x 6": [6] * 13,
    "20 x 4": [4] * 20,
    "8 x 3": [3] * 8,
    "5 x 20": [20] * 5,
    "13 x 4 to 8": [4, 8, 6, 5, 7, 4, 8, 6, 5, 7, 6, 4, 8],
    "60 x 1, 5 x 2": [1] * 60 + [2] * 5,
}


class Experiment:
    """A subject whose signal variance differs between voxels, and its noise: 1 together."""

    def __init__(self, counts: list[int], seed: int) -> None:
        self.rng = rng = np.random.default_rng(seed)
        self.counts = np.array(counts)
        n_all = len(counts) + N_NEW
        sd = np.linspace(1.5, 0.3, N_FEATURES)
        self.tokens = (rng.normal(size=(n_all, 1, N_FEATURES)) * sd).astype(np.float32)
        weights = rng.normal(size=(N_FEATURES, N_VOXELS)) * sd[:, None]
        weights /= np.sqrt((weights**2 * sd[:, None] ** 2).sum(0))
        shared = rng.normal(size=(n_all, 5)) @ rng.normal(size=(5, N_VOXELS)) / np.sqrt(5)
        private = rng.normal(size=(n_all, N_VOXELS))
        rest = np.sqrt(0.5) * shared + np.sqrt(0.5) * private
        self.variance = rng.uniform(0.2, 0.8, N_VOXELS)
        explained = np.sqrt(0.3) * self.tokens[:, 0] @ weights
        self.signal = np.sqrt(self.variance) * (explained + np.sqrt(0.7) * rest)

    def trials(self, images: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = np.repeat(np.arange(len(images)), counts)
        loadings = self.rng.normal(size=(3, N_VOXELS)) / np.sqrt(3)
        noise = np.sqrt(0.4) * self.rng.normal(size=(len(rows), 3)) @ loadings
        noise += np.sqrt(0.6) * self.rng.normal(size=(len(rows), N_VOXELS))
        trials = self.signal[images[rows]] + np.sqrt(1 - self.variance) * noise
        return trials.astype(np.float32), rows

    def examples(self) -> SubjectExamples:
        images = np.arange(len(self.counts))
        n_val = max(2, round(0.1 * len(images)))
        parts = images[:-n_val], images[-n_val:]
        scaler = one_scaler(self.tokens, parts[0])

        recorded = [self.trials(rows, self.counts[rows]) for rows in parts]
        betas = np.concatenate([own for own, _ in recorded])
        index = np.concatenate([recorded[0][1], recorded[1][1] + len(parts[0])])
        averages = np.stack([betas[index == i].mean(0) for i in images])
        both = Examples(betas, index, standard(self.tokens, images, scaler), averages)
        scale = ResponseScale(np.zeros(N_VOXELS), np.ones(N_VOXELS))
        return SubjectExamples.of(scaler, scale, both, len(recorded[0][0]), images)

    def compare(self) -> dict[str, float]:
        """Draws of new images beside trials of them that were never seen."""
        examples = self.examples()
        both = examples.both
        linear, left_out = fit_linear(both.tokens, both.averages, np.random.default_rng(1))
        fitted = fit_distribution(examples, HeldOut({"linear": left_out}), 0)
        new = np.arange(len(self.counts), len(self.signal))
        mean = fitted.stack[0] * linear.predict(standard(self.tokens, new, examples.scaler))
        drawn = np.concatenate(
            [
                fitted.readout.draw(
                    row.astype(np.float32),
                    [np.random.default_rng([i, 1]) for _ in range(N_AGAIN)],
                    [np.random.default_rng([i, 2, k]) for k in range(N_AGAIN)],
                )
                for i, row in enumerate(mean)
            ]
        )
        trials, index = self.trials(new, np.full(N_NEW, N_AGAIN))
        ours, theirs = ncsnr(drawn, index), ncsnr(trials, index)
        return {
            "variance": float(drawn.var(0).sum() / trials.var(0).sum()),
            "noise share": float((1 / (1 + ours**2)).mean() - (1 / (1 + theirs**2)).mean()),
            "slope through 0": float((ours * theirs).sum() / (theirs**2).sum()),
            "slope": line_agreement(ours, theirs)["slope"],
        }


@pytest.mark.parametrize("design", DESIGNS)
def test_draws_of_a_small_design_vary_and_repeat_as_new_trials_do(design):
    found = [Experiment(DESIGNS[design], seed).compare() for seed in range(N_EXPERIMENTS)]
    mean = {key: np.mean([one[key] for one in found]) for key in found[0]}
    # A mean over n images is uncertain by 1/n, as which draws vary more.
    assert 0.88 < mean["variance"] < 1.05 + 1 / len(DESIGNS[design])
    # Taking all as noise has a share of .5 too much, and a slope below .1.
    assert mean["noise share"] == pytest.approx(0, abs=0.1)
    assert mean["slope through 0"] == pytest.approx(1, abs=0.25)
    if min(DESIGNS[design]) > 1:
        assert mean["slope"] > 0.3


def components(rng, counts, n_voxels=40, signal=0.5, noise=0.5):
    """Residuals of known components: the estimates, and their separation."""
    counts = np.array(counts)
    index = np.repeat(np.arange(len(counts)), counts)
    u = np.sqrt(signal) * rng.normal(size=(len(counts), n_voxels))
    e = np.sqrt(noise) * rng.normal(size=(len(index), n_voxels))
    nothing = np.zeros((len(counts), n_voxels), np.float32)
    return VarianceComponents((u[index] + e).astype(np.float32), index, nothing)


@pytest.mark.parametrize("counts", [[6] * 13, [3] * 8, [20] * 5, [2] * 3, [1] * 30 + [2] * 5])
def test_pooled_estimates_are_unbiased(counts):
    found = [components(np.random.default_rng(k), counts) for k in range(60)]
    assert np.mean([one.noise for one in found]) == pytest.approx(0.5, abs=0.02)
    assert np.mean([one.signal for one in found]) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("counts", [[6] * 13, [20] * 5, [1] * 30 + [2] * 8])
@pytest.mark.parametrize("signal", [0.2, 0.8])
def test_the_interval_holds_the_share_about_as_often_as_it_says(counts, signal):
    held = []
    for k in range(200):
        rng = np.random.default_rng(k)
        low, high = components(rng, counts, 10, signal, 1 - signal).separation().interval
        held.append(low <= 1 - signal <= high)
    assert np.mean(held) > 0.87


def test_the_interval_narrows_with_images(rng):
    widths = [
        np.subtract(*components(rng, [4] * n).separation().interval[::-1]) for n in (5, 20, 200)
    ]
    assert widths[0] > widths[1] > widths[2] > 0
    assert widths[2] < 0.05


def test_repeats_count_and_not_images_alone(rng):
    few = components(rng, [6] * (ENOUGH - 1)).separation()
    assert few.possible
    assert not few.by_voxel
    assert (few.repeats, few.repeated, few.images) == (45, ENOUGH - 1, ENOUGH - 1)
    assert components(rng, [2] * ENOUGH).separation().by_voxel


@pytest.mark.parametrize("counts", [[1] * 90, [8]])
def test_without_repeats_or_with_one_image_nothing_is_told_apart(counts, rng):
    found = components(rng, counts)
    assert not found.separation().possible
    assert found.separation().interval == (0.0, 1.0)
    assert found.separation().noise_share == 1
    assert not found.signal.any()
    (term,) = found.noise_terms()
    rows = term.of(np.ones(len(counts), bool))
    np.testing.assert_allclose(found.noise, (rows**2).mean(0), rtol=1e-5)


def test_one_repeated_image_among_many_is_used_and_said_to_be_unsure(rng):
    found = components(rng, [1] * 60 + [3])
    assert found.separation().possible
    low, high = found.separation().interval
    assert high - low > 0.6
    assert found.noise.mean() == pytest.approx(0.5, rel=0.4)


def test_one_voxel_and_identical_repeats_are_estimated(rng):
    one = components(rng, [4] * 6, n_voxels=1)
    assert np.isfinite([one.noise, one.signal]).all()
    same = components(rng, [4] * 6, noise=0.0)
    assert same.separation().noise_share == pytest.approx(0, abs=1e-6)
    nothing = np.zeros((8, 3), np.float32)
    still = VarianceComponents(nothing, np.repeat(np.arange(4), 2), nothing[:4])
    assert np.isfinite(still.separation().noise_share)


def test_many_repeated_images_have_the_classical_estimates(rng):
    """Too few voxels for a regression over them: nothing is shrunk."""
    index = np.repeat(np.arange(30), [3] * 25 + [1] * 5)
    trials, means = rng.normal(size=(len(index), 15)), rng.normal(size=(30, 15))
    found = VarianceComponents(trials.astype(np.float32), index, means.astype(np.float32))
    residuals = trials - means[index]
    counts = np.bincount(index)[:, None]
    average = np.stack([residuals[index == i].mean(0) for i in range(30)])
    noise = ((residuals - average[index]) ** 2).sum(0) / 50
    np.testing.assert_allclose(found.noise, noise, rtol=1e-5)
    np.testing.assert_allclose(
        found.signal, np.maximum((average**2 - noise / counts).mean(0), 0), rtol=1e-4
    )


@pytest.mark.parametrize("known", [True, False], ids=["predictions", "none"])
def test_noise_of_few_repeats_is_told_by_what_is_explained(rng, known):
    """An hour: 350 images once, 130 twice; voxels of shares of noise between .5 and .95."""
    n_voxels, counts = 400, np.repeat([1, 2], [350, 130])
    index = np.repeat(np.arange(480), counts)
    share = rng.uniform(0.5, 0.95, n_voxels)
    parts = np.sqrt(1 - share) * rng.normal(size=(2, 480, n_voxels))
    means, u = np.sqrt(0.6) * parts[0], np.sqrt(0.4) * parts[1]
    trials = (means + u)[index] + np.sqrt(share) * rng.normal(size=(len(index), n_voxels))
    if not known:
        means = np.zeros_like(means)
    found = VarianceComponents(trials.astype(np.float32), index, means.astype(np.float32))
    agreement = np.corrcoef(found.noise, share)[0, 1]
    assert agreement > (0.85 if known else 0.6)
    assert found.noise.mean() == pytest.approx(share.mean(), abs=0.02)
    total = found.noise + found.signal + means.var(0)
    assert total.mean() == pytest.approx(1, abs=0.03)


def test_many_repeats_outweigh_what_voxels_have_in_common(rng):
    share, explained = rng.uniform(0.5, 0.9, (2, 300))
    own = share + 0.5 * share * np.sqrt(2 / 1e5) * rng.normal(size=300)
    shrunk = shrink_noise_share(own, 1e5, explained, [])
    np.testing.assert_allclose(shrunk, own, atol=2e-3)
    region = np.arange(300) < 150
    own = np.where(region, 0.6, 0.8) + 0.05 * rng.normal(size=300)
    shrunk = shrink_noise_share(own, 20, np.zeros(300), [region, ~region])
    np.testing.assert_allclose(shrunk, np.where(region, 0.6, 0.8), atol=0.02)


def test_pooling_keeps_the_spread_that_is_not_error(rng):
    truth = rng.normal(2, 0.5, 4000)
    estimates = truth + rng.normal(0, 0.5, 4000)
    pooled = pool(estimates, 0.25)
    assert pooled.mean() == pytest.approx(estimates.mean())
    assert pooled.std() == pytest.approx(0.5, rel=0.05)
    assert np.square(pooled - truth).mean() < np.square(estimates - truth).mean()
    assert np.ptp(pool(estimates, 9.0)) == 0


def test_a_readout_of_a_small_design_has_signal(rng):
    counts = [6] * 13
    index = np.repeat(np.arange(13), counts)
    means = np.zeros((13, 40), np.float32)
    u = rng.normal(size=(13, 40))
    trials = (u[index] + rng.normal(size=(len(index), 40))).astype(np.float32)
    readout = fit_readout(trials, index, means, rng)
    assert readout.signal.variance.mean() == pytest.approx(1, abs=0.35)
    assert readout.noise.variance.mean() == pytest.approx(1, abs=0.1)
    assert VarianceComponents(trials, index, means).separation().noise_share == pytest.approx(
        0.5, abs=0.12
    )


@pytest.mark.parametrize("counts", [[3] * 6, [1, 4, 2, 1, 6, 3], [0, 2, 0, 5, 2]])
def test_terms_are_the_moments_of_their_definition(counts, rng):
    """Deviations from the image's average; and products of different repeats' residuals."""
    index = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    trials = rng.normal(size=(len(index), 7)).astype(np.float32)
    means = rng.normal(size=(len(counts), 7)).astype(np.float32)
    found = VarianceComponents(trials, index, means)
    inside = np.array([image != 1 for image in range(len(counts))])
    deviations, pairs = np.zeros((2, 7, 7))
    for image in np.flatnonzero(inside):
        own = trials[index == image].astype(float)
        if len(own):
            away, residuals = own - own.mean(0), own - means[image]
            deviations += away.T @ away
            pairs += np.outer(residuals.sum(0), residuals.sum(0)) - residuals.T @ residuals
    for terms, expected in ((found.noise_terms(), deviations), (found.signal_terms(), pairs)):
        moment = sum(t.sign * t.of(inside).T.astype(float) @ t.of(inside) for t in terms)
        np.testing.assert_allclose(moment, expected, atol=1e-4)


def test_voxels_are_summed_one_by_one(rng, monkeypatch):
    index = rng.integers(0, 12, 40)
    trials, means = rng.normal(size=(40, 9)), rng.normal(size=(12, 9))
    whole = VarianceComponents(trials.astype(np.float32), index, means.astype(np.float32))
    monkeypatch.setattr("synbrain_cli.model.components.VOXELS", 4)
    parts = VarianceComponents(trials.astype(np.float32), index, means.astype(np.float32))
    for name in ("noise", "signal", "average", "within"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-12)
    assert parts.separation().interval == pytest.approx(whole.separation().interval)
