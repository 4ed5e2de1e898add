"""Experiments of tens of images, as typed: no crash, and no number that means nothing unmarked."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest
from conftest import QUIET
from grouped_images import SmallExperiment, random_groups
from msgspec import UNSET

from synbrain_cli.evaluation import judge
from synbrain_cli.evaluation.folds import Folds, shuffle_within
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.results.evaluation import EvaluationRecord, read_evaluation
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.metrics.accuracy import voxelwise_correlation
from synbrain_cli.metrics.two_sample import CLASSIFIERS
from synbrain_cli.model.linear import apply_ridge, regress
from synbrain_cli.model.stack import fit_stack
from synbrain_cli.run import RunContext
from synbrain_cli.training.examples import load_examples
from synbrain_cli.training.linear_encoder import fit_linear_encoder

LEAVE_OUT = ("--split", "leave-out")
SHAPES = {  # experiments whose shapes were met, of fewer voxels
    "20 images x 6": (SmallExperiment(np.arange(20), repeats=6), False, ()),
    "81 images x 1": (SmallExperiment(np.arange(81)), False, LEAVE_OUT),
    "90 images x 1": (SmallExperiment(np.arange(90)), False, ()),
    "12 groups x 5": (SmallExperiment(np.repeat(np.arange(12), 5)), True, ()),
}


def prepare(synbrain, root: Path, shape: SmallExperiment, grouped=True, options=(), seed=0) -> str:
    """Write and prepare an experiment; return what the command wrote."""
    command = shape.write(root, seed, with_groups=grouped)
    code, out, err = synbrain(*command, *options, "-w", root / "workspace")
    assert code == 0, err
    return out + err


def numbers(value) -> list[float]:
    """All numbers of a result, however deep."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [n for part in value for n in numbers(part)]
    return [value] if isinstance(value, float) else []


@pytest.mark.parametrize("name", SHAPES)
def test_each_shape_goes_through_as_typed(name, synbrain, tmp_path, coarse_report):
    shape, grouped, options = SHAPES[name]
    said = prepare(synbrain, tmp_path, shape, grouped, options)
    workspace = tmp_path / "workspace"
    fixed = name.startswith("90")
    assert ("no fixed test images" in said) != fixed
    code, out, err = synbrain("train", "-w", workspace, "--model", "linear" if fixed else "auto")
    assert code == 0, err
    assert "too few data: shape of a voxel's residuals" in err
    assert ("too few data: unexplained signal: no image has two rows" in err) == (
        shape.repeats == 1
    )
    model = "sub-01_linear" if fixed else "sub-01"
    card = (workspace / "weights" / model / "card.md").read_text("utf-8")
    assert "Data were too few for:" in card
    code, out, err = synbrain("evaluate", "-w", workspace, "--draws", 20, "--no-report")
    assert code == 0, err
    assert "nan" not in out.lower()
    code, _, err = synbrain("plot", "report", "-w", workspace)
    assert code == 0, err
    found = read_evaluation(workspace / f"outputs/{model}_evaluation")
    check(found, shape, grouped)
    html = (workspace / f"outputs/{model}_report.html").read_text("utf-8")
    assert found.tested in html
    assert "nan" not in html.replace("nanometre", "").split("<body")[0].lower()
    if not fixed:
        n_units = shape.groups.max() + 1
        assert found.folds.n_folds == (n_units if n_units <= 30 else 10)
        assert found.n_test_images == len(shape.groups)


def check(found: EvaluationRecord, shape: SmallExperiment, grouped: bool) -> None:
    """No number is infinite, no ceiling is where none can be known, few images are said to be."""
    plain = msgspec.to_builtins(found)
    assert all(map(math.isfinite, numbers(plain)))
    scores = {k: v for k, v in found.overall.items() if v is not UNSET}
    if shape.repeats == 1:
        assert all(score.ceiling is None for score in scores.values())
        assert "noise_normalised_r2" not in scores
        assert any("no noise ceiling" in note for note in found.notes)
    else:
        assert 0.5 < scores["voxelwise_correlation"].ceiling <= 1
    assert (found.n_groups is UNSET) != grouped
    n_independent = found.n_groups if grouped else found.n_test_images
    assert bool(found.doubtful) >= (n_independent < 20)
    assert scores["voxelwise_correlation"].model > 0.3  # what was planted is found


def test_few_images_or_groups_for_a_test_set_are_left_out_by_turns(synbrain, tmp_path):
    groups = np.repeat(np.arange(10), 4)
    said = prepare(synbrain, tmp_path / "few", SmallExperiment(groups))
    assert "15% of the 10 groups are 2, and no score over fewer than 4" in said
    subject = PreparedSubject(tmp_path / "few/workspace/prepared/few/sub-01")
    assert set(subject.trials["split"]) == {"train", "val"}
    assert not subject.has_test
    said = prepare(synbrain, tmp_path / "more", SmallExperiment(groups), options=("--test", 0.4))
    assert "test images: 4 of 10 groups of 16 of 40" in said


def test_other_commands_say_that_there_are_no_test_images(synbrain, tmp_path):
    prepare(synbrain, tmp_path, SmallExperiment(np.arange(20), repeats=2), grouped=False)
    workspace = tmp_path / "workspace"
    assert synbrain("train", "-w", workspace)[0] == 0
    for command in ("compare", "augment"):
        code, _, err = synbrain(command, "-w", workspace)
        assert code == 1
        assert "no fixed test images" in err.strip().splitlines()[-1]
    code, _, err = synbrain("train", "-w", workspace, "--model", "network", "--name", "n")
    assert code == 0, err
    code, _, err = synbrain("evaluate", "-w", workspace, "-m", "n")
    assert code == 1
    assert "synbrain train --subject 01 --model linear" in err


def test_too_few_images_or_groups_are_refused_with_the_number_needed(synbrain, tmp_path):
    command = SmallExperiment(np.arange(5).repeat(4)).write(tmp_path)
    code, _, err = synbrain(*command, *LEAVE_OUT, "-w", tmp_path / "workspace")
    assert code == 1
    assert "5 groups shown: expected 6 or more" in err
    table = pd.read_csv(tmp_path / "trials.tsv", sep="\t")
    first = table["group"].eq("object 0")
    table.assign(split=np.where(first, "test", "train")).to_csv(
        tmp_path / "trials.tsv", sep="\t", index=False
    )
    code, _, err = synbrain(*command, "-w", tmp_path / "workspace")
    assert code == 1
    assert "1 test group among the 5 groups shown: expected 2 or more groups" in err


# -------------------------------------------------------------------------------------- null


@pytest.mark.parametrize("grouped", [True, False])
def test_scores_of_pure_noise_are_about_0_when_pooled(grouped, synbrain, tmp_path):
    """The pooled correlation of responses that have nothing to do with the images: no bias.

    Images of a group are alike, and share a response, which no other group has.
    """
    groups = np.repeat(np.arange(8), 3) if grouped else np.arange(16)
    found = []
    for seed in range(2):
        shape = SmallExperiment(groups, 2, 100, signal=0, of_group=1.0 if grouped else 0.0)
        root = tmp_path / str(seed)
        prepare(synbrain, root, shape, grouped, LEAVE_OUT, seed)
        assert synbrain("train", "-w", root / "workspace")[0] == 0
        code, _, err = synbrain("evaluate", "-w", root / "workspace", "--draws", 20, "--no-report")
        assert code == 0, err
        scores = read_evaluation(root / "workspace/outputs/sub-01_evaluation").overall
        found.append(scores.voxelwise_correlation.model)
        assert scores.voxelwise_correlation.shuffled == pytest.approx(0, abs=0.2)
        assert scores.skill.model < 0.1
    # Voxels share the images, and their correlations vary together
    assert np.mean(found) == pytest.approx(0, abs=0.15)


def test_pooled_correlations_of_noise_have_an_expectation_of_0(rng):
    """Of many voxels whose images are others each: as large as fits make them, they lie below 0."""
    scaled, as_fitted = [], []
    for seed in range(30):
        own = np.random.default_rng(seed)
        features = own.normal(size=(16, 3))
        y = own.normal(size=(16, 20)).astype(np.float32)
        deviation, sd = np.empty((2, 16, 20))
        for image in range(16):
            others = np.arange(16) != image
            found = regress(features[others], y[others], np.random.default_rng(0))
            stack, _ = fit_stack([found.left_out], y[others], np.random.default_rng(0))
            fitted = stack[0] * apply_ridge(found.fit, features)
            deviation[image] = fitted[image] - fitted[others].mean(0)
            sd[image] = fitted[others].std(0)
        away = np.where(sd > 1e-6, deviation / np.maximum(sd, 1e-6), 0)
        scaled.append(np.nanmean(voxelwise_correlation(y, away)))
        as_fitted.append(np.nanmean(voxelwise_correlation(y, deviation)))
    error = np.std(scaled, ddof=1) / 30**0.5
    assert abs(np.mean(scaled)) < max(3 * error, 0.03)
    assert np.mean(as_fitted) < -0.08


def test_without_groups_the_same_noise_looks_like_signal(synbrain, tmp_path):
    """What groups are for: images of one object on both sides are predicted from each other."""
    found = {}
    for grouped in (True, False):
        root = tmp_path / str(grouped)
        shape = SmallExperiment(np.repeat(np.arange(8), 3), 3, 100, signal=0, of_group=2.0)
        prepare(synbrain, root, shape, grouped, LEAVE_OUT)
        assert synbrain("train", "-w", root / "workspace")[0] == 0
        command = ("evaluate", "-w", root / "workspace", "--draws", 20, "--no-report")
        code, _, err = synbrain(*command, "--folds", 4)
        assert code == 0, err
        evaluation = read_evaluation(root / "workspace/outputs/sub-01_folds-4_evaluation")
        found[grouped] = evaluation.overall.voxelwise_correlation.model
    assert found[False] > 0.4
    assert abs(found[True]) < 0.25


# ----------------------------------------------------------------------------------- consumers


@pytest.mark.parametrize("seed", range(3))
def test_no_group_is_on_both_sides_of_any_split_or_fold(seed, synbrain, tmp_path):
    rng = np.random.default_rng(seed)
    groups = random_groups(rng, 60, int(rng.integers(14, 25)))
    options = ("--test", 0.3) if seed else LEAVE_OUT
    prepare(synbrain, tmp_path, SmallExperiment(groups, repeats=2), options=options)
    workspace = Workspace(tmp_path / "workspace")
    subject = workspace.find_subject(None, None, QUIET.info)
    names = {f"i{i:03d}": f"object {g}" for i, g in enumerate(groups)}
    assert subject.groups == names

    def sides(table: pd.DataFrame) -> None:
        of_group = table.assign(g=table["image"].map(names)).groupby("g")["split"].nunique()
        assert (of_group == 1).all()

    sides(subject.trials)
    assert synbrain("train", "-w", workspace.root, "--model", "linear")[0] == 0
    from synbrain_cli.brain import load_model

    store = workspace.find_tokens("few", None, QUIET.info)
    brain = load_model(workspace.weights / "sub-01_linear", "cpu")
    folds = Folds.load(brain, subject, store, 5, seed)
    for part in folds.test.parts:
        sides(part.subject.trials)
        examples = load_examples(part.subject, part.store)
        assert not {names[i] for i in part.images} & {names[i] for i in examples.images}
        assert examples.groups is not None
    shuffle = shuffle_within(folds.test, rng)
    own = np.array([names[i] for i in folds.test.images])
    assert (own != own[shuffle]).all()


def test_every_command_deals_by_groups(synbrain, tmp_path, monkeypatch):
    """Train, evaluate and augment with nothing that deals images but by their groups."""
    import sklearn.model_selection

    from synbrain_cli.metrics.bootstrap import Bootstrap

    def refuse(*arguments, **options):
        raise AssertionError("images were dealt without their groups")

    groups = np.repeat(np.arange(24), 3)
    prepare(synbrain, tmp_path, SmallExperiment(groups, 2), options=("--test", 0.3))
    workspace = tmp_path / "workspace"
    monkeypatch.setattr(sklearn.model_selection, "KFold", refuse)
    real = Bootstrap.interval

    def interval(self, *arguments):
        assert self.groups is not None
        return real(self, *arguments)

    monkeypatch.setattr(Bootstrap, "interval", interval)
    monkeypatch.setattr(judge, "CLASSIFIERS", {"logistic": CLASSIFIERS["logistic"]})
    code, _, err = synbrain("train", "-w", workspace, "--model", "network")
    assert code == 0, err
    core = next((workspace / "weights/cores").iterdir())
    assert core.is_dir()
    assert synbrain("train", "-w", workspace, "--model", "linear")[0] == 0
    for command in (
        ("evaluate", "-m", "sub-01", "--draws", 20, "--no-report"),
        (
            "evaluate",
            "-m",
            "sub-01_linear",
            "--draws",
            20,
            "--folds",
            4,
            "--two-sample",
            "--no-report",
        ),
        ("compare", "--draws", 20),
    ):
        code, _, err = synbrain(*command, "-w", workspace)
        assert code == 0, err


def test_a_committee_leaves_out_groups(tmp_path):
    from synbrain_cli.training import shared_core

    groups = random_groups(np.random.default_rng(0), 50, 12)
    images = np.array([f"i{i:03d}" for i in range(50)])
    group_of = {name: str(g) for name, g in zip(images, groups, strict=True)}
    (dealt,) = shared_core._deal([images], set(images[groups == 3]), 0, group_of)
    assert (dealt[groups == 3] == -1).all()
    for group in range(12):
        assert len(set(dealt[groups == group])) == 1
    assert set(dealt) == {-1, 0, 1, 2, 3}


def test_a_linear_encoder_of_a_prepared_subject_leaves_out_groups(synbrain, tmp_path):
    """The predictions that readout and stack are fitted to do not follow a group's own noise."""
    shape = SmallExperiment(np.repeat(np.arange(20), 3), 1, 100, signal=0, of_group=2.0)
    prepare(synbrain, tmp_path, shape, options=LEAVE_OUT)
    workspace = Workspace(tmp_path / "workspace")
    subject = workspace.find_subject(None, None, QUIET.info)
    examples = load_examples(subject, workspace.find_tokens("few", None, QUIET.info))
    _, left_out = fit_linear_encoder(examples, RunContext(progress=QUIET), tmp_path)
    r = voxelwise_correlation(examples.both.averages, left_out)
    assert np.nanmedian(r) < 0.15
