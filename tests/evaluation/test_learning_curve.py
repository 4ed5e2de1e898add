"""`synbrain learning-curve`, and the other commands of evaluation as typed."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import QUIET

from synbrain_cli.config import StageConfig
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.evaluation import learning_curve as module
from synbrain_cli.evaluation.learning_curve import people_of, scaling
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.metrics.accuracy import voxelwise_correlation
from synbrain_cli.pipeline.adapt import adapt
from synbrain_cli.pipeline.train import train

HOURS = (0.5, 1, 2)


@pytest.fixture(scope="module")
def place(prepared, tmp_path_factory) -> Workspace:
    """Linear models of both subjects, and one hour of subject 2."""
    with pytest.MonkeyPatch.context() as patch:
        stage = StageConfig(2, 32, 4e-3, 0.0, clip_norm=0.0)
        patch.setattr("synbrain_cli.training.shared_core.CORE_STAGE", stage)
        root = tmp_path_factory.mktemp("scaling")
        (root / "prepared").symlink_to(prepared.prepared)
        workspace = Workspace(root)
        store = workspace.find_tokens("simulated", None, QUIET.info)
        for label in "12":
            person = workspace.find_subject(label, None, QUIET.info)
            options = {"model": "linear", "name": f"sub-0{label}", "progress": QUIET}
            train(workspace, person, store, device="cpu", **options)
        source = workspace.weights / "sub-01"
        options = {"strategy": "source-map", "device": "cpu", "progress": QUIET}
        adapt(workspace, source, person, store, hours=2, **options)
        yield workspace


def somebody(place, labels="2"):
    subjects = [place.find_subject(label, None, QUIET.info) for label in labels]
    bundles = [place.weights / "sub-01", place.weights / "sub-02"]
    return people_of(place, subjects, bundles, QUIET.info)


@pytest.fixture(scope="module")
def result(place):
    people = somebody(place, "21")
    return scaling(place, people, hours=(*HOURS, 40), n_boot=40, progress=QUIET)


def test_every_person_strategy_and_amount_has_a_point(result):
    table = result.table()
    hours = table[table["over"] == "hours"]
    assert sorted(hours["amount"].unique()) == [0.5, 1, 2]  # 40 hours nobody has
    assert len(hours) == 2 * 3 * 3
    assert set(hours["strategy"]) == {"linear encoder", "shared-core", "source-map"}
    assert set(hours["person"]) == {"simulated/sub-01", "simulated/sub-02"}
    assert (table["ci_low"] <= table["score"]).all()
    assert (table["score"] <= table["ci_high"]).all()
    sources = table[table["over"] == "sources"]
    assert set(sources["amount"]) == {1}
    # One source, one hour: the same models as over hours.
    key = ["person", "strategy"]
    both = sources.set_index(key)["score"], hours[hours["amount"] == 1].set_index(key)["score"]
    pd.testing.assert_series_equal(both[0].sort_index(), both[1][both[0].index].sort_index())


def test_scores_are_those_of_the_models(place, result):
    """A point of the source map is the transfer of the bundle that `adapt` makes."""
    person = somebody(place)[0]
    judge = module._Judge(person, 10, 0)
    from synbrain_cli.brain import load_model

    brain = load_model(place.weights / "sub-02_hours-2_source-map", "cpu")
    predicted = brain.predict("transfer", judge.tokens, unit="z")
    r = voxelwise_correlation(judge.averages, predicted)[judge.reliable] / judge.ceiling
    table = result.table().set_index(["over", "person", "strategy", "amount"])["score"]
    point = table["hours", "simulated/sub-02", "source-map", 2.0]
    assert point == pytest.approx(np.nanmedian(r), abs=0.03)
    assert judge(predicted)[0] == pytest.approx(np.nanmedian(r), abs=1e-6)
    full = person.full.mean(judge.tokens, unit="z")
    assert result.metrics["full_data"]["simulated/sub-02"] == pytest.approx(judge(full)[0])


def test_shuffled_images_score_nothing(place):
    person = somebody(place)[0]
    judge = module._Judge(person, 10, 0)
    predicted = person.full.mean(judge.tokens, unit="z")
    assert abs(judge(np.roll(predicted, 1, axis=0))[0]) < 0.5 * judge(predicted)[0]


def test_files(result):
    metrics = json.loads((result.folder / "scaling.json").read_text())
    assert metrics == json.loads(json.dumps(result.metrics))
    assert metrics["simulated"] is True
    written = pd.read_csv(result.folder / "scaling.tsv", sep="\t")
    assert len(written) == len(result.table())
    assert (result.folder / "hours.png").stat().st_size > 10_000
    assert not (result.folder / "sources.png").exists()  # one source is no curve
    fits = result.fits()
    assert set(fits["over"]) == {"hours"}
    assert (fits["slope_low"] <= fits["slope"]).all()


def test_what_cannot_be(place):
    people = somebody(place)
    with pytest.raises(InputError, match="expected two or more different amounts"):
        scaling(place, people, hours=(1, 40), progress=QUIET)
    bare = people[0].subject.voxels.assign(ncsnr=np.nan)
    subject = replace(people[0].subject)
    subject.__dict__["voxels"] = bare
    with pytest.raises(InputError, match="no voxel with an ncsnr above"):
        scaling(place, [replace(people[0], subject=subject)], hours=HOURS, progress=QUIET)
    alone = place.find_subject("2", None, QUIET.info)
    with pytest.raises(InputError, match="no model of anybody else"):
        people_of(place, [alone], [place.weights / "sub-02"], QUIET.info)
    with pytest.raises(MissingError, match="no trained model of anybody but sub-02"):
        Workspace(place.root / "elsewhere").full_models(None, but=("simulated", "02"))


def test_as_typed(place, synbrain):
    where = ("-w", place.root, "-q")
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
def test_one_line_says_what_was_expected(place, synbrain, command, message):
    code, output, error = synbrain(*command, "-w", place.root)
    assert code == 1
    assert not output
    assert message in error.splitlines()[-1]
