"""`synbrain evaluate --folds`: every image scored when it was held out."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import QUIET
from PIL import Image

from synbrain_cli.brain import load_model
from synbrain_cli.brain.drawing import Drawing
from synbrain_cli.datasets.table_experiment import Experiment
from synbrain_cli.errors import InputError
from synbrain_cli.evaluation import folds as module
from synbrain_cli.evaluation import resplit as dealing
from synbrain_cli.evaluation.folds import Folds, shuffle_within
from synbrain_cli.evaluation.resplit import deal_images, resplit
from synbrain_cli.evaluation.response_scores import mean_of_blocks
from synbrain_cli.evaluation.settings import EvaluateSettings
from synbrain_cli.io.results.evaluation import read_evaluation
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.metrics.accuracy import pooled_skill, voxelwise_correlation
from synbrain_cli.metrics.similarity import rdm, rsa
from synbrain_cli.model.linear import fit_linear
from synbrain_cli.model.uncertainty import ImageDoubt
from synbrain_cli.pipeline.evaluate import evaluate
from synbrain_cli.pipeline.prepare import prepare_table
from synbrain_cli.pipeline.preparing import Target
from synbrain_cli.pipeline.train import TrainSettings, train
from synbrain_cli.run import RunContext
from synbrain_cli.training.examples import load_examples

N_IMAGES, N_REPEATS, N_VOXELS = 20, 3, 40
FEW = {"n_draws": 20, "n_boot": 50}
RUN = RunContext(progress=QUIET)


def write_images(folder: Path) -> np.ndarray:
    """Write gratings of two orientations, whose contrasts vary; return these (n_images, 2)."""
    contrasts = np.random.default_rng(0).uniform(0.05, 0.95, (N_IMAGES, 2))
    folder.mkdir(parents=True)
    wave = np.sin(np.arange(64) / 64 * 2 * np.pi * 8)
    for i, (across, down) in enumerate(contrasts):
        grey = 127 + 60 * (across * wave[None] + down * wave[:, None])
        pixels = np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"i{i:03d}.png")
    return contrasts


def make(root: Path, signal: float, seed: int = 0, standardize: str = "session") -> SimpleNamespace:
    """A subject of 20 images × 3 repeats, and its linear model."""
    rng = np.random.default_rng(seed)
    known = write_images(root / "images")
    known = (known - known.mean(0)) / known.std(0)
    image = np.tile(np.arange(N_IMAGES), N_REPEATS)
    planted = known @ rng.standard_normal((known.shape[1], N_VOXELS)) / known.shape[1] ** 0.5
    noise = rng.standard_normal((len(image), N_VOXELS))
    np.save(root / "r.npy", (5 + 2 * (signal * planted[image] + noise)).astype(np.float32))
    table = {"trial": range(len(image)), "image": [f"i{i:03d}.png" for i in image]}
    pd.DataFrame(table).to_csv(root / "t.tsv", sep="\t", index=False)
    tested = {"image": [f"i{i:03d}" for i in (2, 9, 16)], "split": "test"}  # too few to score
    pd.DataFrame(tested).to_csv(root / "splits.tsv", sep="\t", index=False)
    experiment = Experiment(
        trials=(root / "t.tsv",),
        images=root / "images",
        responses=(root / "r.npy",),
        standardize=standardize,
        split=root / "splits.tsv",
    )
    workspace = Workspace(root / "workspace")
    subject = prepare_table(Target(workspace, "few", ("gabor",)), experiment, "1", RUN).subjects[0]
    store = workspace.find_tokens("few", None, QUIET.info)
    made = train(workspace, subject, store, TrainSettings(model="linear"), RUN)
    return SimpleNamespace(
        workspace=workspace, subject=subject, store=store, brain=load_model(made.folder, "cpu")
    )


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return make(tmp_path_factory.mktemp("planted"), signal=2.0)


def score(one, n_folds, output=None, seed=0, **settings):
    settings = EvaluateSettings(**FEW | settings, n_folds=n_folds)
    run = replace(RUN, seed=seed)
    return evaluate(one.workspace, one.brain, one.subject, one.store, settings, output, run)


# ------------------------------------------------------------------------------------- folds


@pytest.mark.parametrize("n_folds", [2, 5, 7, N_IMAGES])
def test_every_image_is_held_out_once_and_never_on_both_sides(planted, n_folds):
    dealt = deal_images(planted.subject, planted.store, n_folds, 0)
    assert sorted(i for fold in dealt for i in fold) == sorted(set(planted.subject.trials["image"]))
    assert {len(fold) for fold in dealt} <= {N_IMAGES // n_folds, -(-N_IMAGES // n_folds)}
    assert dealt != deal_images(planted.subject, planted.store, n_folds, 1)
    for fold, subject in zip(dealt, resplit(planted.subject, dealt, 0), strict=True):
        images = {s: set(subject.select(s).images) for s in ("train", "val", "test")}
        assert images["test"] == fold
        assert not fold & (images["train"] | images["val"])
        assert len(images["val"]) >= 2
        assert not images["train"] & images["val"]
    assert set(planted.subject.trials["split"]) == {"train", "val", "test"}  # as prepared


def test_names_of_one_picture_are_held_out_together(planted):
    digests = list(planted.store.digests)
    digests[3] = digests[11]
    store = SimpleNamespace(images=planted.store.images, digests=digests)
    twins = {planted.store.images[3], planted.store.images[11]}
    for seed in range(5):
        assert any(twins <= fold for fold in deal_images(planted.subject, store, 5, seed))


def test_a_leak_between_folds_is_refused(planted, monkeypatch):
    real = dealing.split_trials

    def leaking(shown, test, **options):
        split = real(shown, test, **options)
        split[np.flatnonzero(split == "test")[0]] = "train"
        return split

    monkeypatch.setattr(dealing, "split_trials", leaking)
    with pytest.raises(InputError, match="among the images that models are trained on"):
        Folds.load(planted.brain, planted.subject, planted.store, 5, 0)


def test_impossible_numbers_of_folds_are_refused(planted):
    with pytest.raises(InputError, match=r"--folds 21: expected 2 to 20"):
        deal_images(planted.subject, planted.store, 21, 0)
    trials = planted.subject.trials
    few = SimpleNamespace(
        trials=trials[trials["image"].isin(planted.store.images[:6])], label="few/sub-01", groups={}
    )
    with pytest.raises(InputError, match=r"found 3 of the 6 images .* choose more folds"):
        deal_images(few, planted.store, 2, 0)
    assert len(deal_images(few, planted.store, 3, 0)) == 3


# ------------------------------------------------------------------------------------ scores


def test_pooled_scores_are_those_computed_by_hand(planted, tmp_path):
    """With the linear encoder alone fitted here, fold by fold, and scored over all images."""
    result = score(planted, 5, tmp_path / "scores")
    subject, store = planted.subject, planted.store
    predicted, truth, baseline, spread, folds = [], [], [], [], []
    for fold in resplit(subject, deal_images(subject, store, 5, 0), 0):
        examples = load_examples(fold, store)
        averages = np.concatenate([examples.train.averages, examples.val.averages])
        linear, _ = fit_linear(examples.both.tokens, averages, np.random.default_rng([0, 1]))
        test = fold.select("test")
        predicted.append(linear.predict(examples.scaler(store.take(test.images))))
        truth.append([test.betas[test.image_index == i].mean(0) for i in range(len(test.images))])
        baseline.append(averages.mean(0))
        spread.append(linear.predict(examples.both.tokens).std(0))
        folds.append(len(test.images))
    mean = np.repeat(np.stack(baseline), folds, axis=0)
    truth, predicted = np.concatenate(truth), np.concatenate(predicted)
    by_hand = voxelwise_correlation(
        truth, (predicted - mean) / np.repeat(np.stack(spread), folds, axis=0)
    )
    np.testing.assert_allclose(result.voxels["linear"], by_hand, atol=1e-4)
    scores = result.metrics.overall
    assert scores.voxelwise_correlation.linear == pytest.approx(np.median(by_hand), abs=1e-4)
    assert scores.skill.linear == pytest.approx(pooled_skill(truth, predicted, mean), abs=1e-4)
    blocks = np.split(np.arange(N_IMAGES), np.cumsum(folds)[:-1])
    by_fold = [rsa(rdm((truth - mean)[b]), rdm((predicted - mean)[b])) for b in blocks]
    assert scores.rsa.linear == pytest.approx(np.mean(by_fold), abs=0.02)  # ranks of few pairs
    record = result.metrics
    assert (record.folds.n_folds, record.folds.min, record.folds.max) == (5, 4, 4)
    assert (record.n_test_images, record.n_test_trials) == (20, 60)


@pytest.mark.parametrize("n_folds", [5, N_IMAGES])
@pytest.mark.parametrize("standardize", ["session", "none"])
def test_planted_signal_is_found_and_shuffled_images_are_at_chance(tmp_path, n_folds, standardize):
    one = make(tmp_path, signal=2.0, standardize=standardize)
    result = score(one, n_folds)
    scores = result.metrics.overall
    assert scores.voxelwise_correlation.model > 0.5
    assert scores.voxelwise_correlation.ci[0] > 0.3
    assert abs(scores.voxelwise_correlation.shuffled) < 0.3
    assert scores.voxelwise_correlation.mean_pattern == 0
    assert scores.skill.model > 0.2 > 0 > scores.skill.shuffled
    assert 0.8 < result.metrics.draws.coverage_90.model < 0.97
    assert 0.7 < result.metrics.draws.variance_ratio.model < 1.3
    if n_folds == 5:
        assert scores.two_way_identification.model > 0.8
        assert scores.n_way_identification.n_candidates == 4
        assert result.metrics.retrieval.n_candidates == 4
        assert result.metrics.retrieval.linear_decoder.raw > 0.35
    else:
        known = dict(scores.items())
        assert not {"rsa", "cka", "two_way_identification"} & set(known)
        assert "retrieval" not in dict(result.metrics.items())
        assert any("choose fewer folds" in note for note in result.metrics.notes)


@pytest.mark.parametrize("n_folds", [5, N_IMAGES])
def test_noise_alone_scores_nothing(tmp_path, n_folds):
    """Where a fit knew anything of the responses that it was tested on, these scores would show it.

    The mean of the other images correlates with held-out noise by −1, which is checked here.
    """
    one = make(tmp_path, signal=0.0)
    result = score(one, n_folds)
    scores = result.metrics.overall
    # Voxels share the images, and their correlations vary together
    assert abs(scores.voxelwise_correlation.model) < 0.2
    assert abs(scores.voxelwise_correlation.shuffled) < 0.12
    assert abs(scores.skill.model) < 0.04
    truth = one_average_per_image(one)
    others = (truth.sum(0) - truth) / (len(truth) - 1)
    assert np.median(voxelwise_correlation(truth, others)) < -0.99
    known = {k for k, v in scores.items() if k in ("two_way_identification", "rsa")}
    for name, chance in (("two_way_identification", 0.5), ("rsa", 0.0)):
        if name in known:
            low, high = getattr(scores, name).ci
            assert low < chance < high, name


def one_average_per_image(one):
    betas, image = np.asarray(one.subject.betas), one.subject.trials["image"].to_numpy(str)
    return np.stack([betas[image == i].mean(0) for i in np.unique(image)])


def test_a_leak_would_raise_the_scores_of_noise(tmp_path, monkeypatch):
    """The test above is able to fail: fits that are given the held-out images as well."""
    one = make(tmp_path, signal=0.0)
    real = module.load_examples

    def leaking(subject, store):
        return real(replace_splits(subject), store)

    def replace_splits(subject):
        splits = tuple("train" if split == "test" else split for split in subject.splits)
        return replace(subject, splits=splits)

    monkeypatch.setattr(module, "load_examples", leaking)
    monkeypatch.setattr("synbrain_cli.model.linear.ALPHAS", np.array([1e-3]))
    monkeypatch.setattr("synbrain_cli.model.linear.LEAST_IMAGES", np.inf)  # ridges alone
    monkeypatch.setattr(
        "synbrain_cli.model.linear.fit_stack",
        lambda p, a, g, **_: (np.ones((len(p), a.shape[1]), np.float32), p[0]),
    )
    assert score(one, 5).metrics.overall.voxelwise_correlation.model > 0.5


def test_draws_are_of_the_fit_that_did_not_see_the_image(planted, tmp_path):
    folds = Folds.load(planted.brain, planted.subject, planted.store, 5, 0)
    work = SimpleNamespace(recovery=tmp_path)
    predictions = folds.predict(work, RUN)
    drawing = Drawing(400, 0, signal="fresh")
    for image in (0, 7, 19):
        fit = predictions.load_fit(image // 4)
        draws = predictions.draw(planted.brain, folds.test, image, drawing)
        np.testing.assert_array_equal(predictions["model"][image], fit.model[image % 4])
        readout, digest = fit.distribution.readout, folds.test.digests[image]
        unsure = ImageDoubt(fit.relative[image % 4], 0.0, fit.features[image % 4])
        own = planted.brain.draw_around(fit.model[image % 4], digest, drawing, readout, unsure)
        np.testing.assert_array_equal(draws, own)
        (around,) = predictions.draw_all(planted.brain, folds.test, image, drawing, ["linear"])
        expected = fit.distribution.linear_variance
        np.testing.assert_allclose(around.var(0) / expected, 1, atol=0.4)


def test_shuffled_images_are_of_the_same_fold(planted):
    folds = Folds.load(planted.brain, planted.subject, planted.store, 5, 0)
    shuffle = shuffle_within(folds.test, np.random.default_rng(0))
    assert (shuffle != np.arange(N_IMAGES)).all()
    assert (shuffle // 4 == np.arange(N_IMAGES) // 4).all()
    one_each = Folds.load(planted.brain, planted.subject, planted.store, N_IMAGES, 0)
    shuffle = shuffle_within(one_each.test, np.random.default_rng(0))
    assert sorted(shuffle) == list(range(N_IMAGES))


def test_scores_of_folds_are_weighed_by_pairs_of_images():
    blocks = [slice(0, 4), slice(4, 7), slice(7, 11)]
    assert mean_of_blocks([1.0, 0.0, np.nan], blocks) == pytest.approx(6 / 9)
    assert np.isnan(mean_of_blocks([np.nan] * 3, blocks))
    assert mean_of_blocks([np.array([0.3, np.nan])], blocks[:1]).tolist()[0] == 0.3
    samples = mean_of_blocks([np.array([1.0, np.nan]), np.array([0.0, 0.5])], blocks[:2])
    np.testing.assert_allclose(samples, [6 / 9, 0.5])


# ----------------------------------------------------------------------------------- command


def test_command_as_typed(planted, tmp_path, synbrain):
    root = tmp_path / "workspace"
    shutil.copytree(planted.workspace.root, root)
    command = ("evaluate", "--workspace", root, "--quiet", "--draws", 20)
    code, _, err = synbrain(*command, "--no-report")
    assert code == 1  # three test images
    assert "synbrain evaluate --folds 5" in err
    code, out, err = synbrain(*command, "--folds", 5)
    assert code == 0, err
    out = " ".join(out.split())
    assert "pooled over 5 folds of 4 images" in out
    assert "not of sub-01_linear itself" in out
    folder = root / "outputs/sub-01_linear_folds-5_evaluation"
    assert read_evaluation(folder).folds.n_folds == 5
    assert json.loads((folder / "settings.json").read_text())["n_folds"] == 5
    report = (folder / "report.html").read_text("utf-8")
    assert "held out in 5 folds" in report
    assert "<span>--folds</span> <span>5</span>" in report
    assert not (root / "outputs/sub-01_linear_evaluation").exists()
    assert not list((root / "outputs").glob(".*recovery"))
    assert synbrain(*command, "--folds", 1)[0] == 2
    code, out, _ = synbrain(*command, "--folds", N_IMAGES, "--paper", "--no-report")
    assert code == 0
    assert "top-1 % by" in " ".join(out.split())


def test_models_with_networks_are_refused_in_one_line(trained, synbrain):
    code, out, err = synbrain("evaluate", "--workspace", trained.root, "-m", "sub-01", "--folds", 3)
    assert (code, out) == (1, "")
    assert "--folds: sub-01 has networks" in err
    assert "synbrain train --subject 01 --model linear" in err
    assert err.count("\n") == 1


def test_interrupted_and_continued_gives_the_same_bytes(planted, tmp_path, monkeypatch):
    whole = score(planted, 5, tmp_path / "whole").folder
    real, fitted = module.fit_fold, []

    def stopped(brain, part, recovery):
        if len(fitted) == 2:
            raise KeyboardInterrupt
        fitted.append(part.images)
        return real(brain, part, recovery)

    monkeypatch.setattr(module, "fit_fold", stopped)
    with pytest.raises(KeyboardInterrupt):
        score(planted, 5, tmp_path / "broken")
    assert not (tmp_path / "broken").exists()
    damaged = next((tmp_path / ".broken.recovery").glob("fold-2.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\0")
    again = []
    monkeypatch.setattr(module, "fit_fold", lambda *a: again.append(a) or real(*a))
    broken = score(planted, 5, tmp_path / "broken").folder
    assert len(again) == 4  # all but the first, which was whole
    for name in ("metrics.json", "metrics.tsv", "voxels.tsv"):
        assert (whole / name).read_bytes() == (broken / name).read_bytes(), name
