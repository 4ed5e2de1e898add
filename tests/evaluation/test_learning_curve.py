"""`synbrain learning-curve`, and the other commands of evaluation as typed."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import QUIET

from synbrain_cli.brain import load_model
from synbrain_cli.config import StageConfig
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.evaluation.learning_curve import CurveScorer, HourModels, load_curve_subjects
from synbrain_cli.io.records import read_record
from synbrain_cli.io.results.learning_curve import LearningCurve
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.metrics.accuracy import voxelwise_correlation
from synbrain_cli.pipeline.adapt import AdaptSettings, adapt
from synbrain_cli.pipeline.learning_curve import LearningCurveSettings, learning_curve
from synbrain_cli.progress import Progress
from synbrain_cli.run import RunContext

HOURS = (0.5, 1, 2)
FEW = LearningCurveSettings((*HOURS, 40), n_boot=40)
RUN = RunContext(progress=QUIET)


@pytest.fixture(scope="module")
def linear_models(prepared, linear_bundles, tmp_path_factory) -> Workspace:
    """Linear models of both subjects, and one hour of subject 2."""
    with pytest.MonkeyPatch.context() as patch:
        stage = StageConfig(2, 32, 4e-3, 0.0, clip_norm=0.0)
        patch.setattr("synbrain_cli.training.shared_core.CORE_STAGE", stage)
        root = tmp_path_factory.mktemp("learning_curve")
        (root / "prepared").symlink_to(prepared.prepared)
        workspace = Workspace(root)
        store = workspace.find_tokens("simulated", None, QUIET.info)
        for label in "12":
            shutil.copytree(linear_bundles[label], workspace.weights / f"sub-0{label}")
        subject = workspace.find_subject("2", None, QUIET.info)
        settings = AdaptSettings([workspace.weights / "sub-01"], hours=2, strategy="source-map")
        adapt(workspace, subject, store, settings, RUN)
        yield workspace


def curve_subjects(workspace, labels="2"):
    subjects = [workspace.find_subject(label, None, QUIET.info) for label in labels]
    bundles = [workspace.weights / "sub-01", workspace.weights / "sub-02"]
    return load_curve_subjects(workspace, subjects, bundles, QUIET.info)


@pytest.fixture(scope="module")
def scorer(linear_models):
    one = curve_subjects(linear_models)[0]
    return CurveScorer.load(one.subject, one.store, 10, 0)


@pytest.fixture(scope="module")
def result(linear_models):
    return learning_curve(linear_models, curve_subjects(linear_models, "21"), FEW, run=RUN)


def test_every_subject_strategy_and_amount_has_a_point(result):
    table = result.table()
    hours = table[table["over"] == "hours"]
    assert sorted(hours["amount"].unique()) == [0.5, 1, 2]  # no subject has 40 hours
    assert len(hours) == 2 * 3 * 3
    assert set(hours["strategy"]) == {"linear encoder", "shared-core", "source-map"}
    assert set(hours["subject"]) == {"simulated/sub-01", "simulated/sub-02"}
    assert (table["ci_low"] <= table["score"]).all()
    assert (table["score"] <= table["ci_high"]).all()
    sources = table[table["over"] == "sources"]
    assert set(sources["amount"]) == {1}
    # One source, one hour: the same models as over hours.
    key = ["subject", "strategy"]
    both = sources.set_index(key)["score"], hours[hours["amount"] == 1].set_index(key)["score"]
    pd.testing.assert_series_equal(both[0].sort_index(), both[1][both[0].index].sort_index())


def test_scores_are_those_of_the_models(linear_models, result, scorer):
    """A point of the source map is the transfer of the bundle that `adapt` makes."""
    one, test = curve_subjects(linear_models)[0], scorer.test
    brain = load_model(linear_models.weights / "sub-02_hours-2_source-map", "cpu")
    predicted = brain.predict("transfer", test.tokens, unit="z")
    r = voxelwise_correlation(test.averages, predicted)[test.reliable] / test.ceiling[test.reliable]
    table = result.table().set_index(["over", "subject", "strategy", "amount"])["score"]
    point = table["hours", "simulated/sub-02", "source-map", 2.0]
    assert point == pytest.approx(np.nanmedian(r), abs=0.03)
    assert scorer.score(predicted).score == pytest.approx(np.nanmedian(r), abs=1e-6)
    full = scorer.score(one.full.mean(test.tokens, unit="z")).score
    assert result.metrics.full_data["simulated/sub-02"] == pytest.approx(full)


def test_shuffled_images_score_nothing(linear_models, scorer):
    predicted = curve_subjects(linear_models)[0].full.mean(scorer.test.tokens, unit="z")
    shuffled = scorer.score(np.roll(predicted, 1, axis=0)).score
    assert abs(shuffled) < 0.5 * scorer.score(predicted).score


def test_files(linear_models, result):
    assert result.folder == linear_models.outputs / "sub-02+sub-01_learning-curve"
    record = read_record(result.folder / "learning_curve.json", LearningCurve)
    assert record == result.metrics
    assert record.simulated is True
    written = pd.read_csv(result.folder / "learning_curve.tsv", sep="\t")
    assert len(written) == len(result.table())
    assert (result.folder / "hours.png").stat().st_size > 10_000
    assert not (result.folder / "sources.png").exists()  # one source is no curve
    fits = result.fits()
    assert set(fits["over"]) == {"hours"}
    assert (fits["slope_low"] <= fits["slope"]).all()


def test_an_interrupted_run_continues_point_by_point(
    linear_models, result, tmp_path, monkeypatch, capsys
):
    """Points scored before are not computed again; with other settings all are."""
    subjects, folder = curve_subjects(linear_models, "21"), tmp_path / "curve"
    real, scored, run = HourModels.score_hours, [], RunContext(progress=Progress())

    def interrupt_sixth(models, hours, known, with_linear):
        if len(scored) == 5:
            raise KeyboardInterrupt
        scored.append((models.curve_subject.label, hours, with_linear))
        return real(models, hours, known, with_linear)

    def score(models, hours, known, with_linear):
        scored.append((models.curve_subject.label, hours, with_linear))
        return real(models, hours, known, with_linear)

    monkeypatch.setattr(HourModels, "score_hours", interrupt_sixth)
    with pytest.raises(KeyboardInterrupt):
        learning_curve(linear_models, subjects, FEW, folder, run)
    assert not folder.exists()
    monkeypatch.setattr(HourModels, "score_hours", score)
    learning_curve(linear_models, subjects, FEW, folder, run)
    assert len(scored) == len(set(scored)) == 2 * (3 + 1)  # hours, and one source
    assert "continuing the interrupted run" in capsys.readouterr().err
    for name in ("learning_curve.json", "learning_curve.tsv", "hours.png"):
        assert (folder / name).read_bytes() == (result.folder / name).read_bytes(), name
    assert {path.name for path in tmp_path.iterdir()} == {"curve"}  # nothing hidden is left

    scored.clear()
    monkeypatch.setattr(HourModels, "score_hours", interrupt_sixth)
    with pytest.raises(KeyboardInterrupt):
        learning_curve(linear_models, subjects, FEW, folder, run)
    monkeypatch.setattr(HourModels, "score_hours", score)
    learning_curve(linear_models, subjects, replace(FEW, n_boot=41), folder, run)
    assert len(scored) == 5 + 8
    assert "had other settings (provenance.n_boot 40, now 41)" in capsys.readouterr().err


def test_bad_input(linear_models):
    subjects = curve_subjects(linear_models)
    with pytest.raises(InputError, match="expected two or more different amounts"):
        learning_curve(linear_models, subjects, LearningCurveSettings((1, 40)), run=RUN)
    bare = subjects[0].subject.voxels.assign(ncsnr=np.nan)
    subject = replace(subjects[0].subject)
    subject.__dict__["voxels"] = bare
    unknown = [replace(subjects[0], subject=subject)]
    with pytest.raises(InputError, match="no voxel with an ncsnr above"):
        learning_curve(linear_models, unknown, FEW, run=RUN)
    alone = linear_models.find_subject("2", None, QUIET.info)
    bundles = [linear_models.weights / "sub-02"]
    with pytest.raises(InputError, match="no model of another subject"):
        load_curve_subjects(linear_models, [alone], bundles, QUIET.info)
    with pytest.raises(MissingError, match="no trained model of another subject than sub-02"):
        Workspace(linear_models.root / "elsewhere").full_models(
            None, QUIET.info, but=("simulated", "02")
        )


def test_as_typed(linear_models, synbrain):
    where = ("-w", linear_models.root, "-q")
    code, output, error = synbrain("compare", "--subject", "2", "--draws", 20, *where)
    assert code == 0, error
    assert "sub-02_hours-2_source-map" in output
    assert output.splitlines()[0].split()[:2] == ["model", "hours"]
    code, output, error = synbrain(
        "learning-curve", "--subject", "2", "--hours", "1,2", "--from", "sub-01", *where
    )
    assert code == 0, error
    assert "slope per tenfold" in output
    model = ("--model", "sub-02_hours-2_source-map")
    code, output, error = synbrain("augment", *model, "--amounts", "1", *where)
    assert code == 0, error
    assert "shuffled" in output


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["learning-curve", "--hours", "one"], "--hours one: expected numbers"),
        (["learning-curve", "--from", "sub-09"], "no model sub-09"),
        (["augment", "--amounts", "two"], "--amounts two: expected numbers"),
        (["compare", "sub-01", "sub-09"], "no model sub-09"),
        (["compare", "--subject", "9"], "no model of sub-09"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_one_line_says_what_was_expected(linear_models, synbrain, command, message):
    code, output, error = synbrain(*command, "-w", linear_models.root)
    assert code == 1
    assert not output
    assert message in error.splitlines()[-1]
