"""Scores of a model on another dataset of its subject: what they are, and what is refused."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import QUIET
from msgspec import UNSET

from synbrain_cli import load_model
from synbrain_cli.datasets.nsd_choice import Choice
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.evaluation import retrieval
from synbrain_cli.evaluation.image_scores import distances
from synbrain_cli.evaluation.other_dataset import PreparedData
from synbrain_cli.evaluation.predictions import Predictions
from synbrain_cli.evaluation.settings import EvaluateSettings
from synbrain_cli.evaluation.test_set import TestSet
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.model.linear import fit_ridge
from synbrain_cli.model.uncertainty import FARTHEST
from synbrain_cli.pipeline.compare import CompareSettings, compare
from synbrain_cli.pipeline.evaluate import evaluate
from synbrain_cli.pipeline.nsd_copy import NSDSource
from synbrain_cli.pipeline.prepare import prepare_nsd
from synbrain_cli.pipeline.preparing import Target
from synbrain_cli.pipeline.train import TrainSettings, train
from synbrain_cli.plotting.image_distances import plot_image_distances
from synbrain_cli.run import RunContext

ON = "simulated-synthetic"
RUN = RunContext(progress=QUIET)


def few(on=None) -> EvaluateSettings:
    return EvaluateSettings(n_draws=20, n_boot=50, latent=False, on=on)


@pytest.fixture(scope="module")
def workspace(artificial, tmp_path_factory) -> Workspace:
    """Both experiments and a linear model; other preparations of the first come to lie here."""
    own = Workspace(tmp_path_factory.mktemp("other"))
    own.prepared.mkdir()
    for dataset in ("simulated", ON):
        (own.prepared / dataset).symlink_to(artificial.prepared / dataset)
    subject = own.find_subject("1", "simulated", QUIET.info)
    store = own.find_tokens("simulated", None, QUIET.info)
    train(own, subject, store, TrainSettings(model="linear"), RUN)
    return own


@pytest.fixture(scope="module")
def data(workspace):
    subject = workspace.find_subject("1", "simulated", QUIET.info)
    return subject, workspace.find_tokens("simulated", None, QUIET.info)


@pytest.fixture(scope="module")
def brain(workspace):
    return load_model(workspace.weights / "sub-01_linear", "cpu")


@pytest.fixture(scope="module")
def own_scores(workspace, brain, data):
    return evaluate(workspace, brain, *data, few(), run=RUN)


@pytest.fixture(scope="module")
def scored(workspace, brain, data, own_scores):
    return evaluate(workspace, brain, *data, few(ON), run=RUN)


def prepared_again(workspace, artificial, name, encoder="gabor", subjects=(1,), **choice):
    """Another preparation of the first experiment, as another dataset."""
    source = NSDSource(
        artificial.root / "simulated", list(subjects), choice=Choice(**choice), download=False
    )
    prepare_nsd(Target(workspace, name, (encoder,)), source, RUN)


# ---------------------------------------------------------------------------------- scores


def test_results_have_a_folder_of_their_own(scored, own_scores, workspace):
    assert scored.folder == workspace.outputs / f"sub-01_linear_on-{ON}_evaluation"
    assert own_scores.folder != scored.folder
    for name in ("metrics.json", "metrics.tsv", "voxels.tsv", "images.tsv", "calibration.png"):
        assert (scored.folder / name).exists()
    assert own_scores.metrics.other is UNSET
    assert scored.metrics.other.dataset == ON
    assert scored.metrics.n_test_images == 284
    assert scored.metrics.subject == "simulated/sub-01"


def test_scores_are_of_the_other_images_beside_baselines_and_ceiling(scored, workspace, brain):
    r = scored.metrics.overall.voxelwise_correlation
    assert r.shuffled < 0.1 < r.model < r.ceiling
    assert r.mean_pattern == 0
    low, high = r.ci
    assert low < r.model < high
    # r by hand, of the median voxel
    other = workspace.find_subject("1", ON, QUIET.info)
    test = other.select("test")
    tokens = workspace.find_tokens(ON, None, QUIET.info).take(test.images)
    predicted = brain.mean_of_tokens(tokens)
    recorded = np.stack(
        [test.betas[test.image_index == i].mean(0) for i in range(len(test.images))]
    )
    by_voxel = [np.corrcoef(p, t)[0, 1] for p, t in zip(predicted.T, recorded.T, strict=True)]
    assert r.model == pytest.approx(np.median(by_voxel), abs=1e-4)
    # ncsnr, and with it the ceiling, is that of these images.
    np.testing.assert_allclose(scored.voxels["ncsnr"], other.voxels["ncsnr"], rtol=1e-4)


def test_a_twin_of_the_own_test_images_scores_the_same(
    workspace, artificial, brain, data, own_scores
):
    prepared_again(workspace, artificial, "twin")
    twin = evaluate(workspace, brain, *data, few("twin"), run=RUN).metrics
    own = own_scores.metrics
    assert twin.overall == own.overall
    assert twin.draws == own.draws
    assert twin.retrieval == own.retrieval
    assert twin.other.distances == twin.other.own_distances


def test_artificial_images_are_farther_and_predicted_worse(scored, own_scores):
    other = scored.metrics.other
    assert other.distances.beyond > other.own_distances.beyond
    assert other.distances.leverage > other.own_distances.leverage
    names = ("skill", "two_way_identification")
    for name in names:
        assert scored.metrics.overall.get(name).model < own_scores.metrics.overall.get(name).model


def test_table_of_images(scored, own_scores, workspace, brain):
    table = pd.read_csv(scored.folder / "images.tsv", sep="\t")
    assert len(table) == 284
    assert sorted(table["n_repeats"].unique()) == [2, 4, 8, 10]
    skill = scored.metrics.overall.skill.model
    # Pooled skill is that of all images' errors; that of single images scatters around it.
    assert table["skill"].min() < skill < table["skill"].max()
    far = table["distance"] >= FARTHEST
    assert far.mean() == pytest.approx(scored.metrics.other.distances.beyond)
    # A leverage above that of every training image, and no other, is beyond all.
    assert table["leverage"][far].min() >= table["leverage"][~far].max()
    own = pd.read_csv(own_scores.folder / "images.tsv", sep="\t")
    tokens = workspace.find_tokens("simulated", None, QUIET.info).take(own["image"].to_numpy(str))
    distance, leverage = distances(brain, tokens)
    np.testing.assert_allclose(own["distance"], distance, rtol=1e-4)
    np.testing.assert_allclose(own["leverage"], leverage, rtol=1e-4)


def test_decoders_are_fitted_by_the_groups_of_the_training_images(
    workspace, brain, data, monkeypatch
):
    def groups(subject):
        names = np.unique(subject.trials["image"].to_numpy(str))
        own = subject.dataset == "simulated"
        return {name: f"pair {k // 2}" for k, name in enumerate(names)} if own else {}

    monkeypatch.setattr(PreparedSubject, "groups", property(groups))
    given = []

    def fit(averages, features, generator, share, groups):
        given.append(groups)
        return fit_ridge(averages, features, generator, share, groups)

    monkeypatch.setattr(retrieval, "fit_ridge", fit)
    other = PreparedData(
        workspace.find_subject("1", ON, QUIET.info), workspace.find_tokens(ON, None, QUIET.info)
    )
    test = TestSet.load(*data, [brain], other=other)
    retrieval.retrieve(brain, test, Predictions.of(brain, test, RUN), test.bootstrap(50, 0), 0)
    (found,) = given
    assert set(np.unique(found, return_counts=True)[1]) <= {1, 2}
    assert found.max() + 1 < len(found)


def test_compare_on_other_images(workspace, brain, data, artificial):
    deep = load_model(artificial.weights / "sub-01", "cpu")
    settings = CompareSettings(20, n_boot=50, on=ON)
    result = compare(workspace, [brain, deep], *data, settings, run=RUN)
    assert result.folder.name == f"sub-01_on-{ON}_comparison"
    assert result.metrics.on == ON
    assert result.metrics.n_test_images == 284
    rows = result.table().set_index("row")["voxelwise_correlation"]
    assert rows["sub-01_linear"] > 0.1
    text = (result.folder / "comparison.md").read_text()
    assert f"284 test images of {ON}" in text


# --------------------------------------------------------------------------------- refusals


def refused(workspace, brain, data, on):
    with pytest.raises((InputError, MissingError)) as caught:
        evaluate(workspace, brain, *data, few(on), run=RUN)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_does_not_match_is_refused(workspace, artificial, brain, data):
    prepared_again(workspace, artificial, "unlike", standardize="none")
    assert "the standardization session" in refused(workspace, brain, data, "unlike")
    prepared_again(workspace, artificial, "early", rois=("V1",))
    message = refused(workspace, brain, data, "early")
    assert f"expected the {brain.n_voxels:,} voxels" in message
    assert "--roi" in message
    prepared_again(workspace, artificial, "pixelled", encoder="pixels")
    assert "no image tokens of" in refused(workspace, brain, data, "pixelled")
    prepared_again(workspace, artificial, "second", subjects=(2,))
    assert "no prepared sub-01 of second" in refused(workspace, brain, data, "second")
    assert "no prepared sub-01 of nothing" in refused(workspace, brain, data, "nothing")
    assert "was trained on this dataset" in refused(workspace, brain, data, "simulated")


def test_a_picture_that_was_trained_on_is_refused(workspace, artificial, brain, data, tmp_path):
    table = data[0].trials.drop_duplicates("image")
    trained = table.loc[table["split"] == "train", "image"].iloc[0]
    split = tmp_path / "split.tsv"
    rows = table.assign(split=np.where(table["image"] == trained, "test", table["split"]))
    rows[["image", "split"]].to_csv(split, sep="\t", index=False)
    prepared_again(workspace, artificial, "leaky", split=str(split))
    message = refused(workspace, brain, data, "leaky")
    assert f"the test image {trained} is the picture {trained} of simulated/sub-01" in message


def test_train_standardization_has_no_unit_in_common(artificial, tmp_path):
    own = Workspace(tmp_path)
    for name in ("a", "b"):
        prepared_again(own, artificial, name, standardize="train")
    subject = own.find_subject("1", "a", QUIET.info)
    store = own.find_tokens("a", None, QUIET.info)
    train(own, subject, store, TrainSettings(model="linear"), RUN)
    brain = load_model(own.weights / "sub-01_linear", "cpu")
    assert "standardised by its own training trials" in refused(own, brain, (subject, store), "b")


def test_folds_are_of_own_images():
    with pytest.raises(InputError, match="--folds and --on"):
        EvaluateSettings(n_folds=5, on=ON)


# -------------------------------------------------------------------------------- as typed


def test_as_typed_with_a_report(workspace, own_scores, scored, synbrain, tmp_path, coarse_report):
    own = Workspace(tmp_path)
    shutil.copytree(workspace.outputs, own.outputs)
    for folder in ("prepared", "weights"):
        (own.root / folder).symlink_to(workspace.root / folder)
    code, output, error = synbrain(
        *("evaluate", "--model", "sub-01_linear", "--on", ON, "--draws", "20", "--rois"),
        *("--device", "cpu", "-q", "-w", own.root),
    )
    assert code == 0, error
    assert f"284 test images of {ON}" in output
    assert "own test" in output
    assert "farther than every training image" in output
    assert max(map(len, output.split("note:")[0].splitlines())) <= 100
    page = (own.outputs / "sub-01_linear_report.html").read_text()
    assert f"Images of {ON}" in page
    assert "model, own test images" in page
    # A damaged result is said in its section, and the report is written all the same.
    metrics = own.outputs / f"sub-01_linear_on-{ON}_evaluation/metrics.json"
    metrics.write_text("{")
    code, _, error = synbrain("plot", "report", "-m", "sub-01_linear", "-q", "-w", own.root)
    assert code == 0, error
    assert "Not shown: " in (own.outputs / "sub-01_linear_report.html").read_text()


def test_figure_of_images_near_and_far():
    generator = np.random.default_rng(0)
    near, far = (
        pd.DataFrame({"leverage": scale * generator.gamma(4, 1, 60), "pattern_r": level})
        for scale, level in ((1, 0.5), (3, 0.2))
    )
    far.loc[0, "pattern_r"] = np.nan
    figure = plot_image_distances({"near": near, "far": far}, "title")
    (axes,) = figure.axes
    dots = [line for line in axes.lines if line.get_marker() == "."]
    assert [len(line.get_xdata()) for line in dots] == [60, 59]
    medians = [line for line in axes.lines if line.get_marker() == "o"]
    assert [set(line.get_ydata()) for line in medians] == [{0.5}, {0.2}]
    assert np.mean(medians[1].get_xdata()) > np.mean(medians[0].get_xdata())
