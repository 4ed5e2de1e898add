"""Scores of models: beside what they stand, what they come to where the answer is known."""

from __future__ import annotations

import copy
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pandas as pd
import pytest
from conftest import QUIET
from one_band import plain_scaler, renamed
from PIL import Image
from typer.testing import CliRunner

from synbrain_cli import cli, load_model
from synbrain_cli.brain.drawing import Drawing
from synbrain_cli.brain.images import token_digest
from synbrain_cli.datasets.table_experiment import Experiment
from synbrain_cli.errors import InputError
from synbrain_cli.evaluation import retrieval
from synbrain_cli.evaluation.calibration import NOISE_FACTORS, calibrate
from synbrain_cli.evaluation.paper import paper_table
from synbrain_cli.evaluation.predictions import Predictions
from synbrain_cli.evaluation.response_scores import ResponseScorer
from synbrain_cli.evaluation.retrieval import retrieve
from synbrain_cli.evaluation.settings import EvaluateSettings
from synbrain_cli.evaluation.test_set import TestSet
from synbrain_cli.groups import derangement
from synbrain_cli.io.arrays import load_arrays
from synbrain_cli.io.files import read_json
from synbrain_cli.io.prepared import Trials
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.metrics.bootstrap import Bootstrap
from synbrain_cli.metrics.noise_ceiling import ncsnr
from synbrain_cli.model.error_fields import ErrorFields
from synbrain_cli.model.readout import Readout
from synbrain_cli.pipeline.adapt import AdaptSettings, adapt
from synbrain_cli.pipeline.evaluate import evaluate
from synbrain_cli.pipeline.prepare import prepare_table
from synbrain_cli.pipeline.preparing import Target
from synbrain_cli.pipeline.train import TrainSettings, train
from synbrain_cli.run import RunContext
from synbrain_cli.tokens import Tokens

COFFEE = Path(__file__).parents[2] / "examples" / "images" / "coffee.png"
FEW = {
    "settings": EvaluateSettings(n_draws=20, n_boot=50),
    "run": RunContext(progress=QUIET),
}
SCORES = {
    "voxelwise_correlation",
    "noise_normalised_r2",
    "skill",
    "pattern_correlation",
    "mse",
    "cosine",
    "two_way_identification",
    "n_way_identification",
    "rsa",
    "cka",
}
LEVELS = {"coverage_50": 0.5, "coverage_80": 0.8, "coverage_90": 0.9, "coverage_95": 0.95}


def strict(path):
    """JSON as everybody reads it: NaN and Infinity are not of it."""

    def refuse(word):
        raise AssertionError(f"{path} holds {word}")

    return json.loads(path.read_text("utf-8"), parse_constant=refuse)


def content(result):
    """What an evaluation wrote, as nested dicts and lists."""
    return strict(result.folder / "metrics.json")


def numbers(content):
    """Every number of nested dicts and lists."""
    if isinstance(content, dict):
        content = list(content.values())
    if isinstance(content, list):
        return [number for one in content for number in numbers(one)]
    return [content] if isinstance(content, (int, float)) else []


@pytest.fixture(scope="module")
def brain(trained):
    return load_model(trained.weights / "sub-01", "cpu")


@pytest.fixture(scope="module")
def scored(trained, brain, subject, store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scored") / "evaluation"
    return evaluate(trained, brain, subject, store, output=folder, **FEW)


@pytest.fixture(scope="module")
def linear_only(prepared, tmp_path_factory):
    """A workspace in which subject 1 has a model without networks, and what was printed of it."""
    workspace = Workspace(tmp_path_factory.mktemp("linear"))
    workspace.prepared.symlink_to(prepared.prepared)
    result = CliRunner().invoke(
        cli.app,
        ["train", "--subject", "1", "--model", "linear", "-q", "-w", str(workspace.root)],
    )
    assert result.exit_code == 0, result.output
    return workspace, result.output


@pytest.fixture(scope="module")
def linear_brain(linear_only):
    return load_model(linear_only[0].weights / "sub-01_linear", "cpu")


@pytest.fixture(scope="module")
def linear_scored(linear_only, linear_brain, subject, store):
    return evaluate(linear_only[0], linear_brain, subject, store, **FEW)


# --------------------------------------------------------------------- what is written


def test_every_score_stands_beside_its_baselines(scored):
    overall = content(scored)["overall"]
    assert set(overall) == SCORES
    beside = {"model", "deep", "linear", "mean_pattern", "shuffled", "ceiling", "ci"}
    for score, values in overall.items():
        assert beside <= set(values), score
        assert all(math.isfinite(number) for number in numbers(values)), score
        low, high = values["ci"]
        assert low < high, score
    # The interval is of the score that it stands beside.
    for score in ("voxelwise_correlation", "skill", "mse", "two_way_identification"):
        low, high = overall[score]["ci"]
        assert low < overall[score]["model"] < high, score


def test_scores_of_draws(scored):
    draws = content(scored)["draws"]
    others = {"model", "linear", "mean_pattern", "shuffled", "latent_nf1", "latent_best"}
    for score, level in LEVELS.items():
        assert draws[score]["nominal"] == level
    for score in (*LEVELS, "crps", "energy_score", "variance_ratio", "pit_histogram"):
        assert others <= set(draws[score]), score
    for score in ("crps", "energy_score"):
        assert set(draws[score]["gain_ci"]) == others - {"model"}
    for score in (*LEVELS, "crps", "variance_ratio"):
        assert set(draws[score]["roi"]) == set(content(scored)["roi"])
    for name, heights in draws["pit_histogram"].items():
        assert len(heights) == 20, name
        assert np.mean(heights) == pytest.approx(1, abs=1e-4), name
    for score in ("ncsnr_correlation", "ncsnr_slope", "ncsnr_median_ratio"):
        assert set(draws[score]) == {"model", "test_trials"}
    assert {"model", "ceiling"} <= set(draws["noise_correlation"])
    latent = draws["latent_noise_factor"]
    assert set(latent["energy_score"]) == {str(factor) for factor in NOISE_FACTORS}
    least = min(latent["energy_score"].values())
    assert latent["energy_score"][str(latent["best"])] == least
    assert draws["energy_score"]["latent_best"] == least
    assert draws["crps"]["latent_nf1"] == pytest.approx(latent["crps"]["1.0"], rel=1e-5)


def test_scores_of_regions(scored, brain):
    regions = content(scored)["roi"]
    assert set(regions) == {name for name, mask in brain.rois().items() if mask.sum() >= 10}
    for name, scores in regions.items():
        mask = brain.rois()[name]
        assert set(scores) == {"n_voxels", *SCORES}
        assert scores["n_voxels"] == mask.sum()
        median = scored.voxels["linear"][mask].median()
        assert scores["voxelwise_correlation"]["linear"] == pytest.approx(median, abs=1e-6)
        coverage = content(scored)["draws"]["coverage_90"]["roi"][name]
        assert coverage == pytest.approx(scored.voxels["coverage_90"][mask].mean())


def test_retrieval_of_every_kind_of_response(scored):
    found = content(scored)["retrieval"]
    assert found["n_candidates"] == 40
    assert found["chance"] == 1 / 40
    for decoder in ("linear_decoder", "brainvae"):
        for what in ("raw", "syn", "draw", "mean_pattern", "shuffled"):
            low, high = found[decoder][f"{what}_ci"]
            assert 0 <= low <= high <= 1
            assert 0 <= found[decoder][what] <= 1
        assert found[decoder]["mean_pattern"] == pytest.approx(1 / 40, abs=1e-12)
    decoder = found["linear_decoder"]
    assert decoder["shuffled"] < 0.1 < decoder["draw"] < decoder["syn"]
    assert decoder["raw"] > 2 / 40


def test_files(scored, brain):
    metrics = content(scored)
    assert metrics == json.loads(msgspec.json.encode(scored.metrics))
    assert metrics["simulated"] is True
    assert metrics["n_test_trials"] == 120
    assert metrics["repeats_per_image"] == {"min": 3, "max": 3}
    assert "percent signal change" in metrics["units"]["pattern_correlation, mse, cosine"]

    table = pd.read_csv(scored.folder / "metrics.tsv", sep="\t")
    assert set(table["region"]) == {"all", *metrics["roi"]}
    table = table[table["region"] == "all"].set_index("score")
    of_draws = set(metrics["draws"]) - {"pit_histogram", "latent_noise_factor"}
    likelihoods = {"given_image_bits", "given_repeats_bits", "information_gain"}
    assert set(table.index) == SCORES | of_draws | likelihoods
    bits = metrics["likelihood"]["given_image"]
    assert table["image_blind"]["given_image_bits"] == pytest.approx(bits["image_blind"], abs=1e-5)
    for score in ("rsa", "crps"):
        source = metrics["overall"].get(score, metrics["draws"].get(score))
        assert table["linear"][score] == pytest.approx(source["linear"], abs=1e-5)
        assert table["ci_low"][score] == pytest.approx(source["ci"][0], abs=1e-5)

    voxels = pd.read_csv(scored.folder / "voxels.tsv", sep="\t")
    assert len(voxels) == brain.n_voxels
    for name in ("model", "deep", "linear", "ceiling"):
        score = metrics["overall"]["voxelwise_correlation"][name]
        assert voxels[name].median() == pytest.approx(score, abs=1e-4)
    for column in ("coverage_90", "variance_ratio", "ncsnr", "ncsnr_of_draws", "i", "j", "k"):
        assert voxels[column].notna().all(), column
    coverage = metrics["draws"]["coverage_90"]["model"]
    assert voxels["coverage_90"].mean() == pytest.approx(coverage, abs=1e-4)

    with Image.open(scored.folder / "calibration.png") as picture:
        assert min(picture.size) > 500
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 20


# ------------------------------------------------------------------- what scores must do


@pytest.mark.parametrize("kind", ["scored", "linear_scored"])
def test_images_shuffled_are_worse_by_every_score(request, kind):
    """The linear encoder has learned; the tiny networks, which know nothing, are not asked."""
    result = request.getfixturevalue(kind)
    for score, values in content(result)["overall"].items():
        better = values["linear"] - values["shuffled"]
        assert (-better if score == "mse" else better) > 0, score
    draws = content(result)["draws"]
    for score in ("crps", "energy_score"):
        assert draws[score]["model"] < draws[score]["shuffled"]
        assert draws[score]["model"] < draws[score]["mean_pattern"]
        # What is gained is the difference of what stands there.
        low, high = draws[score]["gain_ci"]["shuffled"]
        assert low < draws[score]["shuffled"] - draws[score]["model"] < high


def test_the_mean_pattern_says_nothing_of_images(scored):
    overall = content(scored)["overall"]
    for score in ("voxelwise_correlation", "noise_normalised_r2", "skill", "rsa", "cka"):
        assert overall[score]["mean_pattern"] == 0, score
    assert overall["two_way_identification"]["mean_pattern"] == pytest.approx(0.5)
    assert overall["n_way_identification"]["mean_pattern"] == pytest.approx(1 / 40)
    assert overall["n_way_identification"]["n_candidates"] == 40
    # And much of raw patterns, which is why it stands there.
    assert overall["pattern_correlation"]["mean_pattern"] > 0.2


def simulation(n_images=100, n_voxels=300, n_repeats=3, seed=0):
    """True responses, trials around them, and the model of them that nobody has."""
    rng = np.random.default_rng(seed)
    snr = rng.uniform(0.3, 1.2, n_voxels)
    shared = rng.standard_normal((n_images, 12)) @ rng.standard_normal((12, n_voxels))
    signal = shared + rng.standard_normal((n_images, n_voxels))
    pattern = rng.normal(0, 0.5, n_voxels)
    truth = pattern + snr * (signal - signal.mean(0)) / signal.std(0)
    rows = np.repeat(np.arange(n_images), n_repeats)
    trials = truth[rows] + rng.standard_normal((len(rows), n_voxels))
    brain = SimpleNamespace(
        n_voxels=n_voxels,
        distribution=SimpleNamespace(mean_pattern=pattern),
        voxels=pd.DataFrame({"ncsnr": snr}),
        config=SimpleNamespace(standardization="none"),
        response_mean=np.full(n_voxels, 2.0),
        response_sd=np.full(n_voxels, 3.0),
    )
    return brain, truth, trials, rows


def responses(brain, truth, trials, rows, **predictions):
    """The scorer, of the truth and others as predictions."""
    images = np.arange(len(truth)).astype(str)
    ncsnr = brain.voxels["ncsnr"].to_numpy()
    subject = SimpleNamespace(groups={})
    test = TestSet(subject, None, images, rows, np.ones(len(rows), int), trials, trials, ncsnr)
    others = dict.fromkeys(("model", "linear", "mean_pattern", "shuffled"), truth)
    pooled = Predictions(others | predictions, np.arange(len(truth)))
    return ResponseScorer(brain, test, pooled, Bootstrap(50, 0))


def score(scorer, voxels):
    """Scores within some voxels, as nested dicts."""
    return msgspec.to_builtins(scorer.score(voxels))


@pytest.fixture(scope="module")
def perfect():
    brain, truth, trials, rows = simulation()
    others = {
        "mean_pattern": np.broadcast_to(brain.distribution.mean_pattern, truth.shape),
        "shuffled": truth[derangement(len(truth), np.random.default_rng(0))],
        "linear": 2 * brain.distribution.mean_pattern - truth,
    }
    scorer = responses(brain, truth, trials, rows, **others)
    return scorer, score(scorer, np.ones(truth.shape[1], bool))


def test_a_perfect_model_reaches_the_ceiling(perfect):
    scorer, scores = perfect
    assert scorer.notes() == []
    for score, margin in (("voxelwise_correlation", 0.03), ("rsa", 0.03), ("cka", 0.03)):
        assert scores[score]["model"] == pytest.approx(scores[score]["ceiling"], abs=margin)
        assert scores[score]["model"] < 0.99  # the truth is known, the responses are noisy
    assert scores["noise_normalised_r2"]["model"] == pytest.approx(1, abs=0.05)
    assert scores["noise_normalised_r2"]["ceiling"] == 1
    assert scores["two_way_identification"]["model"] > 0.99
    assert scores["n_way_identification"]["model"] > 0.95
    # The truth predicts a trial better than two other trials do, by every score of patterns.
    for score in ("pattern_correlation", "cosine"):
        another = scores[score]["recording"]
        assert scores[score]["model"] > another > scores[score]["mean_pattern"]
        assert scores[score]["ceiling"] is None
    # Noise of deviation 1, in a unit of which it is 3.
    assert scores["mse"]["model"] == pytest.approx(9, rel=0.02)
    assert scores["mse"]["recording"] == pytest.approx(9 * 1.5, rel=0.02)
    assert scores["mse"]["ceiling"] is None


def test_what_exceeds_the_ceiling_is_not_clipped(perfect):
    scorer, _ = perfect
    above = scorer.correlation["model"] - scorer.test.ceiling
    assert 0.3 < (above > 0).mean() < 0.7  # it is an expectation, not a bound
    voxel = np.zeros(len(above), bool)
    voxel[above.argmax()] = True
    scores = score(scorer, voxel)
    assert scores["voxelwise_correlation"]["model"] > scores["voxelwise_correlation"]["ceiling"]
    assert scores["noise_normalised_r2"]["model"] > 1.1
    assert set(scores) == {"voxelwise_correlation", "noise_normalised_r2", "skill"}


def test_a_prediction_of_the_opposite_is_told_from_a_good_one(perfect):
    """Squaring a correlation must not make it one; the opposite stands for the linear encoder."""
    _, scores = perfect
    assert scores["noise_normalised_r2"]["linear"] == pytest.approx(-1, abs=0.05)
    assert scores["two_way_identification"]["linear"] < 0.05
    assert scores["skill"]["linear"] < scores["skill"]["shuffled"] < 0


def test_a_constant_has_no_skill(perfect):
    _, scores = perfect
    for score in ("voxelwise_correlation", "noise_normalised_r2", "rsa", "cka"):
        assert scores[score]["mean_pattern"] == 0, score
    assert scores["skill"]["mean_pattern"] == pytest.approx(0, abs=1e-12)
    assert scores["two_way_identification"]["mean_pattern"] == pytest.approx(0.5)
    assert scores["n_way_identification"]["mean_pattern"] == pytest.approx(1 / 100)


def test_a_perfect_model_in_a_region_and_with_unequal_repeats():
    brain, truth, trials, rows = simulation(seed=1)
    kept = np.random.default_rng(2).random(len(rows)) < 0.7
    kept[np.unique(rows, return_index=True)[1]] = True
    scorer = responses(brain, truth, trials[kept], rows[kept])
    assert set(scorer.test.n_repeats) == {1, 2, 3}
    region = np.arange(truth.shape[1]) < 120
    scores = score(scorer, region)
    r = scores["voxelwise_correlation"]
    assert r["model"] == pytest.approx(r["ceiling"], abs=0.03)
    assert r["ceiling"] == pytest.approx(np.median(scorer.test.ceiling[:120]))
    assert scores["noise_normalised_r2"]["model"] == pytest.approx(1, abs=0.1)


def test_in_a_derangement_no_image_stays(rng):
    for n in (2, 3, 4, 41):
        order = derangement(n, rng)
        assert sorted(order) == list(range(n))
        assert (order != np.arange(n)).all()


# -------------------------------------------------------- draws, where the answer is known


@pytest.fixture(scope="module")
def predicted(brain, subject, store):
    """Test images: tokens, the model's means, the linear encoder's, and recorded trials."""
    test = TestSet.load(subject, store, [brain])
    means, linear = brain.mean(test.tokens, "z"), brain.predict("linear", test.tokens, "z")
    return SimpleNamespace(tokens=test.tokens, means=means, linear=linear, test=test)


def calibration(brain, predicted, trials, rows, *, n_draws=20, seed=0, latent=False):
    """Scores of draws against any trials: as nested dicts, by voxel, and notes."""
    n_images = rows.max() + 1
    test = replace(
        predicted.test,
        images=predicted.test.images[:n_images],
        image_index=rows,
        trials=trials,
        ncsnr=brain.voxels["ncsnr"].to_numpy(float),
    )
    by_name = {"model": predicted.means[:n_images], "linear": predicted.linear[:n_images]}
    constant = brain.distribution.mean_pattern
    by_name["mean_pattern"] = np.broadcast_to(constant, by_name["model"].shape)
    predictions = Predictions(by_name, derangement(n_images, np.random.default_rng(1)))
    settings = EvaluateSettings(n_draws, latent, n_boot=50)
    run = RunContext(seed=seed, progress=QUIET)
    found = calibrate(brain, test, predictions, settings, run)
    return SimpleNamespace(
        scores=msgspec.to_builtins(found.scores), voxels=dict(found.columns()), notes=found.notes
    )


def drawn(brain, predicted, n_draws, seed, signal):
    """Draws of every test image in place of recorded trials."""
    drawing = Drawing(n_draws, seed, signal=signal)
    return np.concatenate(
        [
            brain.draw_around(mean, token_digest(token), drawing)
            for mean, token in zip(predicted.means, predicted.tokens.one_by_one(), strict=True)
        ]
    )


def test_draws_scored_against_trials_of_their_own_distribution(brain, predicted):
    """Fresh signal: trials of one image then say as much as trials of different ones."""
    rows = np.repeat(np.arange(len(predicted.tokens)), 8)
    found = calibration(brain, predicted, drawn(brain, predicted, 8, 99, "fresh"), rows, n_draws=40)
    scores = found.scores
    for score, level in LEVELS.items():
        assert scores[score]["model"] == pytest.approx(level, abs=0.015), score
        assert all(abs(value - level) < 0.04 for value in scores[score]["roi"].values()), score
    # Means over regions tell whether voxels vary together as they should: independent noise fails.
    means = scores["coverage_90_region_means"]
    assert means["model"] == pytest.approx(0.9, abs=0.03)
    assert all(abs(value - 0.9) < 0.08 for value in means["roi"].values())
    assert means["linear"] < 0.8 > means["mean_pattern"]
    for kind in ("region_differences", "noise_components", "signal_components", "distances"):
        summary = scores[f"coverage_90_{kind}"]
        assert summary["model"] == pytest.approx(0.9, abs=0.05), kind
        assert np.mean(summary["pit_histogram"]) == pytest.approx(1, abs=1e-3), kind
        assert summary["linear"] < summary["model"] - 0.05, kind
    assert all(0.9 < height < 1.1 for height in scores["pit_histogram"]["model"])
    assert scores["variance_ratio"]["model"] == pytest.approx(1, abs=0.05)
    assert scores["variance_ratio_median_voxel"]["model"] == pytest.approx(1, abs=0.05)
    for score in ("crps", "energy_score", "variogram_score"):
        for name in ("mean_pattern", "linear", "shuffled"):
            assert scores[score]["model"] < scores[score][name], (score, name)
            # The linear encoder's mean is nearly the model's: intervals of its gain may hold 0.
            # The variogram score sees the spread of differences, and hardly the mean.
            surely = score == "crps" or (score, name) == ("variogram_score", "linear")
            surely |= score == "energy_score" and name != "linear"
            assert scores[score]["gain_ci"][name][0 if surely else 1] > 0, (score, name)
    assert not [note for note in found.notes if "intervals cover" in note]


def test_reliability_and_noise_correlations_of_trials_that_were_drawn_are_found_again(
    brain, predicted
):
    images = np.arange(len(predicted.tokens))
    known = copy.copy(brain)
    many = drawn(brain, predicted, 50, 98, "shared")
    known.voxels = brain.voxels.assign(ncsnr=ncsnr(many, np.repeat(images, 50)))
    trials = drawn(brain, predicted, 8, 99, "shared")
    found = calibration(known, predicted, trials, np.repeat(images, 8), n_draws=2)
    assert found.scores["ncsnr_correlation"]["model"] > 0.9
    assert found.scores["ncsnr_slope"]["model"] == pytest.approx(1, abs=0.15)
    assert found.scores["ncsnr_median_ratio"]["model"] == pytest.approx(1, abs=0.1)
    assert found.scores["noise_correlation"]["share_of_ceiling"] == pytest.approx(1, abs=0.1)


@pytest.fixture(scope="module")
def fitting(brain, predicted):
    """The model's own draws, scored against recorded trials."""
    return calibration(brain, predicted, predicted.test.betas, predicted.test.image_index)


def with_variance(brain, factor):
    """The same model, whose draws vary more or less."""
    other, readout = copy.copy(brain), brain.distribution.readout
    parts = {
        name: part.with_variance(factor * part.variance)
        for name, part in (("signal", readout.signal), ("noise", readout.noise))
    }
    readout = replace(readout, **parts)
    other._distribution = replace(brain.distribution, readout=readout)
    return other


@pytest.mark.parametrize(("factor", "sides"), [(0.25, (0.5, 0.75)), (4.0, (0.965, 1.0))])
def test_draws_too_narrow_or_too_wide_are_told(brain, predicted, fitting, factor, sides):
    test = predicted.test
    found = calibration(with_variance(brain, factor), predicted, test.betas, test.image_index)
    scores = found.scores
    assert sides[0] < scores["coverage_90"]["model"] < sides[1]
    # Total variance: that around the predictions, and that of the predictions.
    assert (scores["variance_ratio"]["model"] < 0.5) == (factor < 1)
    heights = scores["pit_histogram"]["model"]
    assert (heights[0] + heights[-1] > 2 * (heights[9] + heights[10])) == (factor < 1)
    assert (2 * (heights[0] + heights[-1]) < heights[9] + heights[10]) == (factor > 1)
    for score in ("crps", "energy_score"):
        assert scores[score]["model"] > fitting.scores[score]["model"]
    told = "\n".join(found.notes)
    for region in scores["coverage_90"]["roi"]:
        assert f"{region}: 90 % intervals cover" in told
    n_bad = int(told.split(f" of {brain.n_voxels} voxels have 90 % intervals")[0].split()[-1])
    # Few trials: of coverage too high, 1 is told and what chance may bring is not.
    assert n_bad > 0.3 * brain.n_voxels
    beyond = (found.voxels["coverage_90"] < 0.84) | (found.voxels["coverage_90"] > 0.96)
    assert n_bad <= beyond.sum()
    assert "cover" not in "".join(n for n in fitting.notes if " voxels have " not in n)


def test_scores_of_draws_are_alike_with_the_same_seed_alone(brain, predicted):
    few = predicted.test.image_index < 5
    trials, rows = predicted.test.betas[few], predicted.test.image_index[few]
    once, again, other = (
        calibration(brain, predicted, trials, rows, n_draws=4, seed=seed, latent=True)
        for seed in (0, 0, 1)
    )
    assert once.scores == again.scores
    np.testing.assert_array_equal(once.voxels["ncsnr_of_draws"], again.voxels["ncsnr_of_draws"])
    for score in ("crps", "ncsnr_slope", "noise_correlation"):
        assert once.scores[score]["model"] != other.scores[score]["model"]
    for name in ("linear", "latent_nf1"):
        assert once.scores["crps"][name] != other.scores["crps"][name]


# ----------------------------------------------------------------------------- retrieval


@pytest.mark.parametrize("most", [retrieval.MOST_VOXELS, 100])
def test_a_linear_decoder_finds_images_in_responses_that_are_linear_in_their_tokens(
    monkeypatch, most
):
    monkeypatch.setattr(retrieval, "MOST_VOXELS", most)  # of 300 voxels
    rng = np.random.default_rng(0)
    n_train, n_test, n_voxels, noise = 200, 40, 300, 0.1
    n_images = n_train + n_test
    # Few directions that all images share, as in real tokens: 200 images can tell them.
    tokens = rng.standard_normal((n_images, 15)) @ rng.standard_normal((15, 320))
    tokens = (tokens + 0.3 * rng.standard_normal(tokens.shape)).astype(np.float32)
    signal = (tokens @ rng.standard_normal((320, n_voxels)) / 320**0.5).astype(np.float32)
    tokens = tokens.reshape(n_images, 16, 20)
    rows = np.repeat(np.arange(n_test), [1, 2, 3, 4] * 10)  # repeats need not be equal

    def noisy(values):
        return (values + noise * rng.standard_normal(values.shape)).astype(np.float32)

    train_trials = Trials(
        noisy(signal[:n_train]), np.arange(n_train), np.arange(n_train), np.ones(n_train, int)
    )
    brain = SimpleNamespace(
        predictors=SimpleNamespace(scaler=plain_scaler(*tokens.shape[1:])),
        standardize=lambda betas: betas,
        distribution=SimpleNamespace(
            mean_pattern=signal.mean(0), readout=Readout.gaussian(np.full(n_voxels, noise**2))
        ),
        config=SimpleNamespace(has_networks=False),
        fields=ErrorFields("a simulation"),
    )
    trials = noisy(signal[n_train:][rows])
    test = TestSet(
        SimpleNamespace(select=lambda split: {"train": train_trials}[split], groups={}),
        SimpleNamespace(
            take=lambda names: Tokens.of(tokens[names]),
            stores=[SimpleNamespace(tokens=tokens, rows_of=np.asarray)],
        ),
        np.arange(n_train, n_images),
        rows,
        np.ones(len(rows), int),
        trials,
        trials,
        np.full(n_voxels, np.nan),
    )
    predictions = Predictions({"model": signal[n_train:]}, derangement(n_test, rng))
    found = msgspec.to_builtins(retrieve(brain, test, predictions, Bootstrap(50), 0))
    assert "brainvae" not in found
    decoder = found["linear_decoder"]
    for what in ("raw", "syn", "draw"):
        assert decoder[what] > 0.95, what
        assert decoder[f"{what}_ci"][0] > 0.9, what
    assert decoder["mean_pattern"] == pytest.approx(1 / n_test)
    assert decoder["shuffled"] < 0.05


def test_the_linear_decoder_reads_the_voxels_that_repeat_best(monkeypatch):
    monkeypatch.setattr(retrieval, "MOST_VOXELS", 3)
    rng = np.random.default_rng(1)
    repeated = np.array([0.1, 0.9, 0.4, 0.8, 0.0, 0.7])
    averages = rng.standard_normal((4000, 6)) * np.sqrt(repeated + (1 - repeated) / 3)
    assert retrieval._repeatable(averages.astype(np.float32)).tolist() == [1, 3, 5]
    monkeypatch.setattr(retrieval, "MOST_VOXELS", 6)
    assert retrieval._repeatable(averages.astype(np.float32)).tolist() == list(range(6))


# ----------------------------------------------------------------- little that is known


N_SHOWN, N_VOXELS = 60, 24


@pytest.fixture(scope="module")
def stimuli(tmp_path_factory):
    """Images whose halves differ in contrast, and the contrasts (n_images, 2)."""
    folder, rng = tmp_path_factory.mktemp("stimuli"), np.random.default_rng(0)
    contrast = rng.uniform(5, 60, (N_SHOWN, 2))
    for i, halves in enumerate(contrast):
        noise = rng.standard_normal((64, 64)) * halves.repeat(32)
        pixels = np.clip(127 + noise, 0, 255).astype(np.uint8)[..., None].repeat(3, axis=2)
        Image.fromarray(pixels).save(folder / f"p{i:02d}.png")
    return folder, (contrast - contrast.mean(0)) / contrast.std(0)


def table_experiment(root, stimuli, *, n_repeats=1, given=None, seed=1):
    """A workspace with a prepared subject of independent noise, and a linear model of it."""
    folder, contrast = stimuli
    rng = np.random.default_rng(seed)
    shown = np.tile(np.arange(N_SHOWN), n_repeats)
    signal = contrast @ rng.standard_normal((2, N_VOXELS))
    values = signal[shown] + rng.standard_normal((len(shown), N_VOXELS))
    np.save(root / "responses.npy", values.astype(np.float32))
    pd.DataFrame({"image": [f"p{i:02d}" for i in shown]}).to_csv(
        root / "trials.tsv", sep="\t", index=False
    )
    voxels = pd.DataFrame({"area": ["MT"] * 12 + [""] * 12})
    if given is not None:
        voxels["ncsnr"] = given
    voxels.to_csv(root / "voxels.tsv", sep="\t", index=False)
    experiment = Experiment(
        root / "trials.tsv",
        folder,
        (root / "responses.npy",),
        voxels=root / "voxels.tsv",
        test_share=0.3,
        validation_share=0.2,
    )
    workspace = Workspace(root)
    person = prepare_table(
        Target(workspace, "mine", ("gabor",)), experiment, "01", RunContext(progress=QUIET)
    )
    store = workspace.find_tokens("mine", None, QUIET.info)
    settings, run = TrainSettings(model="linear"), RunContext(progress=QUIET)
    train(workspace, person.subjects[0], store, settings, run)
    brain = load_model(workspace.weights / "sub-01_linear", "cpu")
    return workspace, brain, person.subjects[0], store


@pytest.fixture(scope="module")
def shown_once(stimuli, tmp_path_factory):
    return table_experiment(tmp_path_factory.mktemp("once"), stimuli)


@pytest.fixture(scope="module")
def scored_once(shown_once):
    return evaluate(*shown_once, **FEW)


def test_without_repeats_there_is_no_ceiling_and_the_notes_say_so(scored_once):
    metrics = strict(scored_once.folder / "metrics.json")
    overall = metrics["overall"]
    assert "noise_normalised_r2" not in overall
    assert overall["voxelwise_correlation"]["linear"] > 0.3
    for score, values in overall.items():
        assert values["ceiling"] is None, score
        assert values.get("recording") is None, score
        assert all(math.isfinite(number) for number in numbers(values)), score
    assert set(metrics["roi"]) == {"MT"}
    assert metrics["n_reliable_voxels"] == 0
    notes = " ".join(metrics["notes"])
    assert "no noise ceiling" in notes
    assert "no test image was shown twice" in notes
    assert "the draws take all as noise" in notes
    assert not [s for s in metrics["draws"] if "ncsnr" in s or s == "noise_correlation"]
    assert set(metrics["likelihood"]) == {"given_image"}
    assert set(LEVELS) < set(metrics["draws"])
    assert scored_once.voxels["ceiling"].isna().all()
    assert "ncsnr_of_draws" not in scored_once.voxels
    assert (scored_once.folder / "calibration.png").stat().st_size > 10_000


def test_without_repeats_all_is_taken_as_trial_noise(shown_once):
    _, brain, _, _ = shown_once
    card = " ".join((brain.folder / "card.md").read_text().split())
    assert "all is taken as trial noise" in card
    assert not brain.config.training.readout.signal_told_from_noise
    assert (brain.distribution.readout.signal.variance == 0).all()
    assert brain.distribution.readout.noise.variance.min() > 0
    with_repeats = "Draws share unexplained signal over repeats"
    assert with_repeats not in card


def test_with_repeats_the_card_says_that_signal_is_apart(linear_brain, linear_scored):
    card = " ".join((linear_brain.folder / "card.md").read_text().split())
    assert "Draws share unexplained signal over repeats" in card
    assert "take all as noise" not in " ".join(content(linear_scored)["notes"])


def test_ncsnr_given_without_repeats_is_a_ceiling_of_voxels_alone(stimuli, tmp_path, unpainted):
    experiment = table_experiment(tmp_path, stimuli, given=np.linspace(0.1, 1, N_VOXELS))
    result = evaluate(*experiment, **FEW)
    overall = strict(result.folder / "metrics.json")["overall"]
    ratio = np.linspace(0.1, 1, N_VOXELS) ** 2
    expected = np.median(np.sqrt(ratio / (1 + ratio)))
    assert overall["voxelwise_correlation"]["ceiling"] == pytest.approx(expected, abs=1e-4)
    assert "noise_normalised_r2" in overall
    assert overall["rsa"]["ceiling"] is None
    notes = " ".join(content(result)["notes"])
    assert "no ceiling of RSA and CKA" in notes
    assert "no noise ceiling" not in notes


def test_the_same_seed_gives_the_same_metrics(shown_once, scored_once, tmp_path, unpainted):
    again = evaluate(*shown_once, output=tmp_path / "again", **FEW)
    written = (scored_once.folder / "metrics.json").read_bytes()
    assert (tmp_path / "again/metrics.json").read_bytes() == written
    pd.testing.assert_frame_equal(again.voxels, scored_once.voxels)
    run = RunContext(seed=1, progress=QUIET)
    other = content(evaluate(*shown_once, FEW["settings"], output=tmp_path / "other", run=run))
    metrics = content(again)
    for score, name in (("skill", "shuffled"), ("rsa", "ci")):
        assert other["overall"][score][name] != metrics["overall"][score][name]
    assert other["overall"]["skill"]["model"] == metrics["overall"]["skill"]["model"]
    assert other["draws"]["crps"]["model"] != metrics["draws"]["crps"]["model"]


def test_noise_that_voxels_do_not_share_has_no_ceiling(stimuli, tmp_path, unpainted):
    """Noise correlations of independent noise: their reliability is 0, and as often below."""
    experiment = table_experiment(tmp_path, stimuli, n_repeats=3, seed=2)
    result = evaluate(*experiment, **FEW)
    found = strict(result.folder / "metrics.json")["draws"]["noise_correlation"]
    assert abs(found["model"]) < 0.3
    assert found["ceiling"] is None
    assert found["share_of_ceiling"] is None


# --------------------------------------------------------------------- models without networks


def test_a_linear_model_has_no_networks(linear_only, linear_brain, brain, store, subject):
    workspace, output = linear_only
    (folder,) = workspace.weights.glob("[!.]*")
    assert folder.name == "sub-01_linear"  # beside a full model, not in its place
    assert not (folder / "networks.safetensors").exists()
    assert "latent_sd" not in load_arrays(folder / "arrays.safetensors")
    config = read_json(folder / "config.json")
    assert config["vae"] is config["mapper"] is config["voxel_order"] is None
    assert config["training"]["stages"] == {}
    assert set(config["training"]["validation"]) == {"model", "linear", "mean_pattern"}
    assert "linear encoder alone" in output
    assert "deep" not in output
    assert linear_brain.predictors.stack.shape == (1, linear_brain.n_voxels)
    tokens = store.take(subject.select("test").images[:6])
    single = linear_brain.predict("linear", tokens, "z")
    np.testing.assert_allclose(
        linear_brain.mean(tokens, "z"), linear_brain.predictors.stack[0] * single
    )
    # Of the same images and seed: the linear encoder is that of the full model.
    np.testing.assert_array_equal(single, brain.predict("linear", tokens, "z"))
    draws = linear_brain.draw([COFFEE], 3)
    assert draws.shape == (1, 3, linear_brain.n_voxels)
    assert np.isfinite(draws).all()


def test_a_linear_model_is_evaluated_without_what_networks_do(linear_scored):
    metrics = strict(linear_scored.folder / "metrics.json")
    assert linear_scored.folder.name == "sub-01_linear_evaluation"
    for score, values in metrics["overall"].items():
        assert "deep" not in values, score
    assert "brainvae" not in metrics["retrieval"]
    assert metrics["retrieval"]["linear_decoder"]["syn"] > 0.2
    assert not [name for name in metrics["draws"]["crps"] if "latent" in name]
    assert "latent_noise_factor" not in metrics["draws"]
    assert "deep" not in linear_scored.voxels
    table = linear_scored.paper_table().set_index("row")
    assert list(table.index) == ["model", "linear", "mean_pattern", "shuffled"]
    assert table[["Raw", "Syn"]].isna().all(axis=None)


def test_what_needs_networks_is_refused_of_a_linear_model(linear_brain, store, subject):
    tokens = store.take(subject.select("test").images[:2])
    for call in (
        lambda: linear_brain.draw(tokens, sampling="latent"),
        lambda: linear_brain.predict("deep", tokens),
    ):
        with pytest.raises(InputError, match=r"linear encoder and no networks.*calibrated"):
            call()


def test_a_linear_model_has_nothing_to_fine_tune(linear_only, store):
    workspace, _ = linear_only
    source = workspace.weights / "sub-01_linear"
    person = workspace.find_subject("2", None, QUIET.info)
    settings = AdaptSettings([source], strategy="fine-tuning")
    with pytest.raises(InputError, match="without networks to fine-tune"):
        adapt(workspace, person, store, settings, RunContext(progress=QUIET))
    assert [p.name for p in workspace.weights.glob("[!.]*")] == ["sub-01_linear"]


# ------------------------------------------------------------------------ the published table


def test_the_published_table_is_on_its_own_scale(scored):
    overall, found = content(scored)["overall"], content(scored)["retrieval"]["brainvae"]
    table = scored.paper_table()
    columns = ["row", "MSE", "r", "cos", "Incep", "CLIP", "Eff", "SwAV", "Raw", "Syn"]
    assert list(table.columns) == columns
    table = table.set_index("row")
    assert list(table.index) == [
        *("model", "network", "deep", "linear", "mean_pattern", "shuffled"),
    ]
    for name in table.index:
        assert table["MSE"][name] == pytest.approx(overall["mse"][name] * 0.15**2)
        assert table["r"][name] == overall["pattern_correlation"][name]
        assert table["cos"][name] == overall["cosine"][name]
    assert table["Raw"]["model"] == 100 * found["raw"]
    assert table["Syn"]["model"] == 100 * found["syn"]
    assert table["Syn"]["mean_pattern"] == pytest.approx(2.5)
    assert table["Syn"]["shuffled"] == 100 * found["shuffled"]
    assert table[["Incep", "CLIP", "Eff", "SwAV"]].isna().all(axis=None)


def test_mse_of_another_unit_has_no_place_in_the_published_table(scored, scored_once):
    for metrics in (
        msgspec.structs.replace(scored.metrics, recorded_unit="spikes"),
        scored_once.metrics,
    ):
        table = paper_table(metrics).set_index("row")
        assert table["MSE"].isna().all()
        assert table["r"].notna().all()
        assert "mean_pattern" in table.index


@pytest.mark.parametrize(
    ("label", "row"),
    [
        ("nsd/sub-01", (0.079, 0.715, 0.769, 96.7, 95.9, 0.619, 0.350, 94.7, 99.3)),
        ("nsd/sub-02", (0.134, 0.667, 0.715, 96.2, 94.5, 0.637, 0.364, 92.4, 97.1)),
        ("nsd/sub-05", (0.190, 0.739, 0.793, 96.2, 93.9, 0.627, 0.356, 78.0, 86.4)),
        ("nsd/sub-07", (0.151, 0.626, 0.680, 93.6, 93.0, 0.671, 0.380, 73.9, 87.3)),
        ("nsd/sub-03", None),
        ("simulated/sub-01", None),
    ],
)
def test_published_scores_stand_beside_those_of_the_same_subject(scored, label, row):
    table = paper_table(msgspec.structs.replace(scored.metrics, subject=label)).set_index("row")
    if row is None:
        assert "published" not in table.index
    else:
        assert tuple(table.loc["published"]) == row


# ----------------------------------------------------------------------------- the commands


def test_paper_and_no_latent(trained, synbrain, tmp_path, unpainted, coarse_report):
    code, output, error = synbrain(
        *("evaluate", "--subject", "1", "--paper", "--draws", "20", "--no-latent"),
        *("-w", trained.root, "-o", tmp_path / "paper", "--device", "cpu"),
    )
    assert code == 0, error
    lines = [line.split() for line in output.splitlines()]
    assert lines[0] == ["row", "MSE", "r", "cos", "Incep", "CLIP", "Eff", "SwAV", "Raw", "Syn"]
    (mean_pattern,) = (line for line in lines if line[:1] == ["mean_pattern"])
    assert mean_pattern[-1] == "2.5"
    metrics = strict(tmp_path / "paper/metrics.json")
    assert mean_pattern[2] == f"{metrics['overall']['pattern_correlation']['mean_pattern']:.3f}"
    assert "judge by `synbrain evaluate` without --paper" in output
    assert metrics["n_draws"] == 20
    assert not [name for name in metrics["draws"]["crps"] if "latent" in name]
    assert metrics["provenance"]["n_boot"] == 1000
    assert output.split()[-2:] == [
        str(tmp_path / f"paper/{name}") for name in ("metrics.json", "report.html")
    ]


def test_a_single_draw_is_no_distribution(trained, synbrain, brain, subject, store, tmp_path):
    place = ["-w", trained.root, "-o", tmp_path / "out"]
    code, _, error = synbrain("evaluate", "--subject", "1", "--draws", "1", *place)
    assert code == 2
    assert "--draws" in error
    with pytest.raises(InputError, match="--draws 1: expected 20 or more"):
        evaluate(trained, brain, subject, store, EvaluateSettings(n_draws=1), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_does_not_belong_together_is_refused(trained, brain, subject, store):
    other = trained.find_subject("2", None, QUIET.info)
    with pytest.raises(InputError, match=r"model of simulated/sub-01, not of simulated/sub-02"):
        evaluate(trained, brain, other, store, **FEW)
    test = subject.select("test")
    few = test.image_index < 3
    few_images = SimpleNamespace(
        checksum=subject.checksum,
        folder=subject.folder,
        subject="01",
        dataset="simulated",
        n_voxels=subject.n_voxels,
        voxels=subject.voxels,
        description=subject.description,
        has_test=True,
        groups={},
        select=lambda split: replace(
            test,
            betas=test.betas[few],
            image_index=test.image_index[few],
            images=test.images[:3],
            session=test.session[few],
        ),
    )
    with pytest.raises(InputError, match=r"4 test images or more, found 3.*--folds 5"):
        evaluate(trained, brain, few_images, store, **FEW)
    few_images.n_voxels = 7
    with pytest.raises(InputError, match=r"7 voxels, but sub-01 has \d+.*train the model again"):
        evaluate(trained, brain, few_images, store, **FEW)
    with pytest.raises(InputError, match=r"tokens of .*another.*pass its --encoder"):
        evaluate(trained, brain, subject, renamed(store), **FEW)


def synthesized(synbrain, trained, output, *options):
    """Responses to one photograph, and the record beside them."""
    shutil.rmtree(output, ignore_errors=True)
    code, _, error = synbrain(
        *("synthesize", COFFEE, "--subject", "1", "--space", "none", *options),
        *("-w", trained.root, "-o", output, "--device", "cpu", "-q"),
    )
    assert code == 0, error
    record = read_json(output / "sub-01/func/sub-01_desc-draws_betas.json")
    return np.load(output / "sub-01/func/sub-01_desc-draws_betas.npy")[0], record


def test_sampling_and_signal_are_what_was_asked(synbrain, trained, brain, tmp_path):
    out = tmp_path / "out"
    mean, record = synthesized(synbrain, trained, out, "--samples", 2, "--sampling", "mean")
    np.testing.assert_array_equal(mean, brain.mean([COFFEE]).repeat(2, axis=0))
    assert (record["Sampling"], record["Signal"], record["NoiseFactor"]) == ("mean", None, None)

    options = ["--samples", 2, "--unit", "z", "--seed", 4]
    shared, record = synthesized(synbrain, trained, out, *options)
    assert (record["Sampling"], record["Signal"]) == ("calibrated", "shared")
    assert record["NoiseFactor"] is None
    np.testing.assert_array_equal(shared, brain.draw([COFFEE], 2, seed=4, unit="z")[0])
    fresh, record = synthesized(synbrain, trained, out, *options, "--signal", "fresh")
    assert record["Signal"] == "fresh"
    np.testing.assert_array_equal(
        fresh, brain.draw([COFFEE], 2, seed=4, unit="z", signal="fresh")[0]
    )
    assert not np.array_equal(fresh, shared)

    latent, record = synthesized(
        synbrain, trained, out, *options, "--sampling", "latent", "--noise-factor", "0"
    )
    assert (record["Sampling"], record["Signal"], record["NoiseFactor"]) == ("latent", None, 0)
    np.testing.assert_array_equal(latent[1], brain.predict("deep", [COFFEE], "z")[0])
    _, record = synthesized(synbrain, trained, out, *options, "--sampling", "latent")
    assert "posterior" in record["NoiseFactor"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["synthesize", COFFEE, "--noise-factor", "0.5"],
            "expected the sampling latent with a noise factor, found calibrated",
        ),
        (
            ["synthesize", COFFEE, "--noise-factor", "0.5", "--sampling", "mean"],
            "expected the sampling latent with a noise factor, found mean",
        ),
        (
            ["synthesize", COFFEE, "--noise-factor", "-1", "--sampling", "latent"],
            "expected a noise factor of 0 or more",
        ),
        (
            ["train", "--model", "linear", "--voxel-order", "curve"],
            "leave them out, or train these",
        ),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else None,
)
def test_one_line_says_what_was_expected(own, trained, synbrain, tmp_path, arguments, message):
    if arguments[0] == "train":
        arguments = [*arguments, "--subject", "1", "--preset", "test", "-w", own.root]
    else:
        arguments = [*arguments, "--subject", "1", "-w", trained.root, "-o", tmp_path / "out"]
    code, output, error = synbrain(*arguments)
    assert code == 1
    assert not output
    assert error.splitlines()[-1].startswith("synbrain: ")
    assert message in error.splitlines()[-1]
    assert not (tmp_path / "out").exists()
    assert not list(own.weights.glob("[!.]*"))


def test_an_interrupted_evaluation_continues(trained, synbrain, tmp_path, monkeypatch, unpainted):
    def stopped(*arguments, **options):
        raise KeyboardInterrupt

    place = ["-w", trained.root, "-o", tmp_path / "out", "-q"]
    options = ["evaluate", "--subject", "1", "--draws", "20", "--no-latent", "--no-report", *place]
    with monkeypatch.context() as patched:
        patched.setattr("synbrain_cli.pipeline.evaluate.calibrate", stopped)
        code, _, error = synbrain(*options)
    assert code == 130
    assert "goes on where it stopped" in error
    assert not (tmp_path / "out").exists()
    # What was finished is not computed again.
    monkeypatch.setattr("synbrain_cli.evaluation.response_scores.ResponseScorer.score_all", stopped)
    code, _, error = synbrain(*options)
    assert code == 0, error
    assert (tmp_path / "out/metrics.json").exists()


@pytest.mark.parametrize("step", ["calibrate", "retrieve", "write_results"])
def test_an_evaluation_interrupted_between_steps_ends_as_one_that_was_not(
    shown_once, scored_once, tmp_path, monkeypatch, unpainted, step
):
    class Stopped(BaseException):
        pass

    def stop(*arguments):
        raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(f"synbrain_cli.pipeline.evaluate.{step}", stop)
        with pytest.raises(Stopped):
            evaluate(*shown_once, output=tmp_path / "out", **FEW)
    result = evaluate(*shown_once, output=tmp_path / "out", **FEW)
    for name in ("metrics.json", "metrics.tsv", "voxels.tsv"):
        written = (tmp_path / "out" / name).read_bytes()
        assert written == (scored_once.folder / name).read_bytes(), name
    pd.testing.assert_frame_equal(result.voxels, scored_once.voxels)
    assert not list(tmp_path.glob(".out.*"))


def test_figures_plotted_into_an_evaluation_stay(shown_once, tmp_path, unpainted):
    evaluate(*shown_once, output=tmp_path / "out", **FEW)
    (tmp_path / "out/figures").mkdir()
    (tmp_path / "out/figures/mine.png").write_text("mine")
    run = RunContext(seed=1, progress=QUIET)
    evaluate(*shown_once, FEW["settings"], tmp_path / "out", run)
    assert (tmp_path / "out/figures/mine.png").exists()
    assert strict(tmp_path / "out/metrics.json")["provenance"]["seed"] == 1
