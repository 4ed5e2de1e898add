"""`synbrain evaluate --two-sample`: planted defects are found, and what is found is written."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from conftest import QUIET
from scipy.stats import binom

from synbrain_cli import load_model
from synbrain_cli.errors import InputError
from synbrain_cli.evaluation import judge, two_sample
from synbrain_cli.evaluation.differences import Differences
from synbrain_cli.evaluation.judge import Judge, judged_together
from synbrain_cli.evaluation.predictions import Predictions
from synbrain_cli.evaluation.residuals import Residuals, ResidualSource
from synbrain_cli.evaluation.settings import EvaluateSettings
from synbrain_cli.evaluation.test_set import TestSet, region_averaging, scored_regions
from synbrain_cli.evaluation.two_sample import best_of, check_images, tell_apart
from synbrain_cli.metrics.bootstrap import Bootstrap
from synbrain_cli.metrics.two_sample import CLASSIFIERS
from synbrain_cli.pipeline.evaluate import evaluate
from synbrain_cli.run import RunContext

RUN = RunContext(progress=QUIET)
QUICK = {"logistic": CLASSIFIERS["logistic"]}


@pytest.fixture(scope="module")
def brain(trained):
    return load_model(next(trained.weights.glob("sub-01*")), "cpu")


@pytest.fixture(scope="module")
def test_set(subject, store, brain):
    return TestSet.load(subject, store, [brain])


@pytest.fixture(scope="module")
def predictions(brain, test_set):
    return Predictions.of(brain, test_set, RUN)


@pytest.fixture(scope="module")
def source(brain, test_set, predictions):
    return ResidualSource(brain, test_set, predictions, np.arange(test_set.n_images), 0)


def pretend(source, factor=1.0, shared=True, seeds=(50, 99)) -> Residuals:
    """Draws of another seed in the place of the recording, and draws with a defect."""
    own, other = (replace(source, seed=seed).of("model") for seed in seeds)

    def drawn(image, imitation):
        if shared:
            return factor * own.drawn(image, imitation)
        n = len(own.drawn(image, 0))
        return np.stack([own.drawn(image, 100 + k)[k] for k in range(n)])

    return Residuals(own.n_repeats, lambda image: other.drawn(image, 0), drawn)


def told(source, residuals, seed=0):
    regions = scored_regions(source.brain)
    generator = np.random.default_rng(seed)
    averaging = region_averaging(regions, source.brain.n_voxels)
    judge = Judge(source.image_features(), tuple(regions), averaging, generator, QUICK)
    found = judge.judge(residuals)
    return found, best_of(found, generator)


def test_draws_are_not_told_from_draws(source):
    alarms = [told(source, pretend(source), seed)[1].p <= 0.01 for seed in range(3)]
    assert not any(alarms)


def test_averages_over_sets_of_draws_give_no_more_false_alarms(source):
    """And vary less than one set of draws does."""
    regions = scored_regions(source.brain)
    averaging = region_averaging(regions, source.brain.n_voxels)
    p, one, average = [], [], []
    for k in range(20):
        generator = np.random.default_rng(k)
        judge = Judge(source.image_features(), tuple(regions), averaging, generator, QUICK)
        residuals = pretend(source, seeds=(9000 + 20 * k, 300_000 + 20 * k))
        sets = judge.judge_sets(residuals, 3)
        found = judged_together(sets)
        p.append(best_of(found, generator).p)
        aucs = [each["trials"].exchanges["logistic"].auc for each in sets]
        assert len(set(aucs)) == 3
        assert found["trials"].exchanges["logistic"].auc == pytest.approx(np.mean(aucs))
        one.append(aucs[0])
        average.append(np.mean(aucs))
    assert np.sum(np.array(p) <= 0.05) <= binom.ppf(0.999, len(p), 0.05)
    assert np.std(average) < np.std(one)


def test_wrong_variances_are_found(source):
    found, best = told(source, pretend(source, factor=0.8))
    assert best.p <= 0.01
    assert found["trials"].exchanges["logistic"].auc > 0.65


def test_a_signal_that_repeats_do_not_share_is_found_in_pairs(source):
    _, best = told(source, pretend(source, shared=False))
    assert best.rows == "pairs"
    assert best.p <= 0.01


def test_residuals_have_the_spread_that_the_model_expects(source):
    drawn = np.concatenate(
        [source.of("model").drawn(i, k) for i in range(len(source.images)) for k in range(10)]
    )
    assert np.mean(drawn**2) == pytest.approx(1, abs=0.1)
    assert np.abs(drawn.mean()) < 0.1
    latent = source.of("latent_nf1").drawn(0, 0)
    assert latent.shape == source.of("model").recorded(0).shape


def test_differences_of_draws_with_a_defect(source):
    """Recorded draws have 1 / 4 of the variance of the others, in every voxel and region."""
    residuals = pretend(source, factor=2.0)
    regions = scored_regions(source.brain)
    averaging = region_averaging(regions, source.brain.n_voxels)
    found = Differences.of(residuals, averaging)
    columns = found.columns()
    assert np.median(columns["variance_ratio"]) == pytest.approx(0.25, abs=0.04)
    assert np.median(columns["variance_z"]) < -3
    known = found.of_regions["variance"].mean(1)
    ratio, _ = found.ratio("variance", Bootstrap(50, 0))
    np.testing.assert_allclose(ratio, known[0] / known[1])
    _, limits = found.difference("repeated", Bootstrap(50, 0))
    assert (limits[:, 0] < limits[:, 1]).all()


def test_images_of_a_group_count_as_one(source):
    """Every image twice, in a group: differences are as far from 0 as of every image once."""
    once = pretend(source, factor=1.2)
    n = len(once.n_repeats)
    twice = Residuals(
        np.tile(once.n_repeats, 2),
        lambda image: once.recorded(image % n),
        lambda image, imitation: once.drawn(image % n, imitation),
        np.tile(np.arange(n)[::-1], 2),
    )
    averaging = region_averaging(scored_regions(source.brain), source.brain.n_voxels)
    found, known = (Differences.of(each, averaging) for each in (twice, once))
    for name, values in found.of_voxels.items():
        np.testing.assert_allclose(values, known.of_voxels[name], rtol=1e-6, atol=1e-9)
    bootstraps = (Bootstrap(1000, 0, groups=twice.groups), Bootstrap(1000, 0))
    widths = [
        np.diff(each.difference("repeated", bootstrap)[1])
        for each, bootstrap in zip((found, known), bootstraps, strict=True)
    ]
    np.testing.assert_allclose(*widths, rtol=0.2)
    judged, _ = told(replace(source, images=np.tile(source.images, 2)), twice)
    for rows in judged.values():
        fold = rows.seen.sample.deal(np.random.default_rng(0))
        assert (fold[:n] == fold[n:]).all()
        assert (rows.exchanges["logistic"].groups == twice.groups).all()


def test_images_of_an_imitated_recording_share_errors_and_draws_do_not(
    brain, test_set, predictions
):
    """Two images that the model cannot tell apart have one error in a recording."""
    doubt, n = predictions.doubt, test_set.n_images - test_set.n_images % 2
    twins = np.repeat(doubt.features[:n:2], 2, 0)
    two = replace(predictions, doubt=replace(doubt, features=twins))
    source = ResidualSource(brain, test_set, two, np.arange(n), 0)
    imitations = [source.imitated(number) for number in range(30)]

    def covariances(name):
        """Sum over voxels of mean products of images' averages: of twins, and of others."""
        means = [[getattr(one, name)(i) for i in range(n)] for one in imitations]
        average = np.array([[z.mean(0) for z in own] for own in means]) * spread
        even, odd, other = average[:, ::2], average[:, 1::2], np.roll(average[:, 1::2], 3, axis=1)
        return [(even * one).mean((0, 1)).sum() for one in (odd, other)], average

    spread = np.stack([source.spread(row) for row in range(n)])
    signal = brain.distribution.readout.signal.variance.sum()
    (of_twins, of_others), recorded = covariances("recorded")
    assert of_twins == pytest.approx(signal, rel=0.25)
    assert abs(of_others) < 0.3 * signal
    for one in imitations:
        object.__setattr__(one, "drawn", partial(one.drawn, imitation=0))
    (of_twins, of_others), drawn = covariances("drawn")
    assert abs(of_twins) < 0.15 * signal > abs(of_others)
    assert drawn.var() == pytest.approx(recorded.var(), rel=0.1)
    again = source.imitated(0).recorded(0)
    np.testing.assert_array_equal(imitations[0].recorded(0), again)
    assert not np.array_equal(again, imitations[1].recorded(0))


def test_too_few_images(test_set):
    few = replace(test_set, images=test_set.images[:9])
    with pytest.raises(InputError, match="expected 10 test images or more, found 9"):
        check_images(few)


def test_images_without_repeats_have_no_pairs(brain, test_set, predictions, monkeypatch):
    """One trial of each image: no pairs, and no more notes than that."""
    monkeypatch.setattr(judge, "CLASSIFIERS", QUICK)
    _, first = np.unique(test_set.image_index, return_index=True)
    single = replace(
        test_set,
        trials=test_set.trials[first],
        betas=test_set.betas[first],
        image_index=test_set.image_index[first],
        session=test_set.session[first],
    )
    found = tell_apart(brain, single, predictions, EvaluateSettings(n_boot=50, latent=False), RUN)
    assert set(found.scores.kinds) == {"means", "variance", "shape"}
    assert found.scores.n_pairs == 0
    assert "repeated_difference" not in found.voxels
    assert any("pairs of repeats were not tested" in note for note in found.notes)


def test_images_are_chosen_where_there_are_many(brain, test_set, predictions, monkeypatch):
    monkeypatch.setattr(two_sample, "MOST_TRIALS", 60)
    monkeypatch.setattr(judge, "CLASSIFIERS", QUICK)
    found = tell_apart(brain, test_set, predictions, EvaluateSettings(n_boot=50, latent=False), RUN)
    assert found.scores.n_trials <= 60
    assert found.scores.n_images < test_set.n_images
    assert any("chosen at random" in note for note in found.notes)


def test_command_writes_what_it_finds(trained, synbrain, unpainted, tmp_path, monkeypatch):
    monkeypatch.setattr(judge, "CLASSIFIERS", QUICK)
    command = ("evaluate", "--model", "sub-01", "--two-sample", "--draws", "20", "--no-report")
    where = ("--output", tmp_path / "scores", "--workspace", trained.root, "--quiet")
    code, out, err = synbrain(*command, *where)
    assert code == 0, err
    assert "AUC of classifiers that tell recorded from drawn" in out
    folder = tmp_path / "scores"
    metrics = json.loads((folder / "metrics.json").read_text())
    scores = metrics["two_sample"]
    for rows in ("trials", "pairs"):
        score = scores[rows]["logistic"]
        low, high = score["ci"]
        assert low <= score["model"] <= high
        assert score["linear"] > 0.9  # independent noise is told
        assert score["mean_pattern"] > 0.9
        assert 0.3 < score["floor"] < 0.7
        assert 0.3 < score["right"] < 0.8
        assert score["right_sd"] > 0
    table = pd.read_csv(folder / "two_sample.tsv", sep="\t")
    assert table["model"][0] == pytest.approx(scores["trials"]["logistic"]["model"], abs=1e-4)
    assert table["right"][0] == pytest.approx(scores["trials"]["logistic"]["right"], abs=1e-4)
    assert "if right" in out
    regions = pd.read_csv(folder / "two_sample_regions.tsv", sep="\t")
    assert set(scores["roi"]) < set(regions["what"])
    assert set(regions["n_voxels"].dropna()) == {one["n_voxels"] for one in scores["roi"].values()}
    features = pd.read_csv(folder / "two_sample_features.tsv", sep="\t")
    assert features["z"].abs().is_monotonic_decreasing
    voxels = pd.read_csv(folder / "voxels.tsv", sep="\t")
    maps = folder / "sub-01" / "func"
    assert len(list(maps.glob("sub-01_stat-twosample*_statmap.json"))) == 4
    image = nib.load(maps / "sub-01_stat-twosamplevariance_statmap.nii.gz").get_fdata()
    found = image[tuple(voxels[["i", "j", "k"]].to_numpy().T)]
    np.testing.assert_allclose(found, voxels["two_sample_variance_ratio"], rtol=1e-3)
    # Without the option nothing of it is left
    assert synbrain(*(word for word in command if word != "--two-sample"), *where)[0] == 0
    assert not list(folder.rglob("*two_sample*")) + list(folder.rglob("*twosample*"))


def test_images_that_were_held_out_by_folds(
    prepared, linear_bundles, store, unpainted, monkeypatch
):
    """Draws and their spread are those of the fit that did not see the image."""
    monkeypatch.setattr(judge, "CLASSIFIERS", QUICK)
    monkeypatch.setattr(two_sample, "MOST_TRIALS", 150)
    brain = load_model(linear_bundles["1"], "cpu")
    subject = prepared.find_subject("1", None, QUIET.info)
    settings = EvaluateSettings(n_draws=20, n_boot=50, n_folds=2, two_sample=True)
    output = linear_bundles["1"].parents[1] / "outputs" / "folds"
    scores = evaluate(prepared, brain, subject, store, settings, output, RUN).metrics.two_sample
    assert 0.3 < scores.trials["logistic"].model < 0.9
    assert scores.trials["logistic"].mean_pattern > scores.trials["logistic"].model
    ratios = [region.variance_ratio for region in scores.roi.values()]
    assert 0.7 < np.median(ratios) < 1.4
