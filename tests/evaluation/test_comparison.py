"""Several models of one subject side by side: the same images, the same draws of them."""

from __future__ import annotations

import copy
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import QUIET
from msgspec.structs import replace
from PIL import Image

from synbrain_cli import load_model
from synbrain_cli.config import Band
from synbrain_cli.datasets.table_experiment import Experiment
from synbrain_cli.errors import InputError
from synbrain_cli.evaluation import comparison as module
from synbrain_cli.evaluation.comparison import Row, RowScorer
from synbrain_cli.evaluation.comparison_text import comparison_table, comparison_text
from synbrain_cli.evaluation.settings import EvaluateSettings
from synbrain_cli.io.records import read_record
from synbrain_cli.io.results.comparison import Comparison
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.metrics.accuracy import average_repeats, pooled_skill, voxelwise_correlation
from synbrain_cli.metrics.bootstrap import Bootstrap
from synbrain_cli.metrics.calibration import coverage, pit
from synbrain_cli.metrics.noise_ceiling import correlation_ceiling
from synbrain_cli.pipeline import compare as recipe
from synbrain_cli.pipeline.adapt import AdaptSettings, adapt
from synbrain_cli.pipeline.compare import CompareResult, CompareSettings, compare
from synbrain_cli.pipeline.evaluate import evaluate
from synbrain_cli.pipeline.prepare import prepare_table
from synbrain_cli.pipeline.preparing import Target
from synbrain_cli.pipeline.train import TrainSettings, train
from synbrain_cli.run import RunContext

FEW, NO_DRAWS = CompareSettings(n_draws=20, n_boot=50), CompareSettings(n_draws=0, n_boot=50)
RUN = RunContext(progress=QUIET)
NORMALISED, PLAIN = "noise_normalised_correlation", "voxelwise_correlation"
FILES = {"comparison.json", "comparison.tsv", "comparison.md", "comparison.png"}
ALL_FILES = FILES | {"settings.json", ".files.json"}


def strict(path):
    """JSON as everybody reads it: NaN and Infinity are not of it."""

    def refuse(word):
        raise AssertionError(f"{path} holds {word}")

    return json.loads(path.read_text("utf-8"), parse_constant=refuse)


def written(result):
    return strict(result.folder / "comparison.json")


def by_name(result):
    return {row["row"]: row for row in written(result)["rows"]}


@pytest.fixture(scope="module")
def more(trained, linear_bundles, subject, store, tmp_path_factory):
    """A workspace with two more models of subject 1: of two hours, and without networks."""
    workspace = Workspace(tmp_path_factory.mktemp("compared"))
    workspace.prepared.symlink_to(trained.prepared)
    shutil.copytree(linear_bundles["1"], workspace.weights / "sub-01_linear")
    shutil.copytree(linear_bundles["2"], workspace.weights / "sub-02")
    settings = AdaptSettings([workspace.weights / "sub-02"], hours=2, strategy="source-map")
    adapt(workspace, subject, store, settings, RUN, name="sub-01_hours-2")
    return workspace


@pytest.fixture(scope="module")
def brains(trained, more):
    """Of two hours, of everything, and of everything without networks."""
    return [
        load_model(more.weights / "sub-01_hours-2", "cpu"),
        load_model(trained.weights / "sub-01", "cpu"),
        load_model(more.weights / "sub-01_linear", "cpu"),
    ]


@pytest.fixture(scope="module")
def compared(more, brains, subject, store) -> CompareResult:
    # The linear model is not last, so that the reference is the full one.
    hours, full, linear = brains
    return compare(more, [hours, linear, full], subject, store, FEW, run=RUN)


# --------------------------------------------------------------------------- rows and columns


def test_rows_in_order_and_each_linear_encoder_once(compared):
    rows = by_name(compared)
    assert list(rows) == [
        "mean pattern",
        "linear encoder of sub-01_hours-2",
        "sub-01_hours-2",
        "linear encoder of sub-01_linear",
        "sub-01_linear",
        "sub-01",
        "sub-01_hours-2, images shuffled",
        "ceiling",
    ]
    # The full model and the linear one hold the same.
    assert rows["linear encoder of sub-01_linear"]["models"] == ["sub-01_linear", "sub-01"]
    assert rows["linear encoder of sub-01_hours-2"]["models"] == ["sub-01_hours-2"]
    linear = rows["linear encoder of sub-01_linear"][NORMALISED]["value"]
    for name in ("sub-01", "sub-01_linear"):
        ratio = rows[name]["ratio_to_linear"]["value"]
        assert ratio == pytest.approx(rows[name][NORMALISED]["value"] / linear)
    for name in set(rows) - {"sub-01", "sub-01_linear", "sub-01_hours-2"}:
        assert rows[name]["ratio_to_linear"] is None


def test_what_each_was_trained_on(compared, brains, subject):
    rows = by_name(compared)
    table = subject.trials
    counts = {
        n: int((table["session"].isin(subject.sessions[:n]) & (table["split"] != "test")).sum())
        for n in (2, 3)
    }
    hours = rows["sub-01_hours-2"]["training"]
    assert (hours["hours"], hours["n_trials"], hours["sources"]) == (2, counts[2], ["sub-02"])
    assert hours["strategy"] == "source-map"
    full = {"hours": 3, "n_trials": counts[3], "sources": [], "strategy": None}
    assert rows["sub-01"]["training"] == full
    assert rows["sub-01_linear"]["training"]["strategy"] == "linear encoder alone"
    linear = rows["linear encoder of sub-01_hours-2"]["training"]
    assert linear == {"hours": 2, "n_trials": counts[2], "sources": [], "strategy": None}
    assert rows["ceiling"]["training"] is None


def test_scores_are_those_of_an_evaluation(compared, brains, subject, store, more, unpainted):
    hours, full, _ = brains
    for brain in (hours, full):
        settings = EvaluateSettings(n_draws=20, latent=False, n_boot=50)
        evaluated = evaluate(more, brain, subject, store, settings, run=RUN)
        other = strict(evaluated.folder / "metrics.json")
        row = by_name(compared)[brain.name]
        known = other["overall"][PLAIN]
        assert row[PLAIN]["value"] == pytest.approx(known["model"], abs=1e-6)
        assert row[PLAIN]["ci"] == pytest.approx(known["ci"], abs=1e-6)
        assert row["coverage_90"]["value"] == pytest.approx(
            other["draws"]["coverage_90"]["model"], abs=0.01
        )
        linear = next(
            r
            for r in written(compared)["rows"]
            if r["kind"] == "linear" and brain.name in r["models"]
        )
        assert linear[PLAIN]["value"] == pytest.approx(known["linear"], abs=1e-6)
        if brain is hours:  # the first: skill and the control are of its mean pattern and images
            skill = other["overall"]["skill"]
            assert row["skill"]["value"] == pytest.approx(skill["model"], abs=1e-6)
            assert row["skill"]["ci"] == pytest.approx(skill["ci"], abs=1e-6)
            shuffled = by_name(compared)[f"{brain.name}, images shuffled"]
            assert shuffled[PLAIN]["value"] == pytest.approx(known["shuffled"], abs=1e-6)
            ceiling = by_name(compared)["ceiling"]
            assert ceiling[PLAIN]["value"] == pytest.approx(known["ceiling"], abs=1e-6)


def test_normalised_for_noise_voxel_by_voxel(compared, brains, subject, store):
    test = subject.select("test")
    truth, index, n_repeats = average_repeats(test.betas, test.image_index)
    full = brains[1]
    r = voxelwise_correlation(truth, full.mean(store.take(test.images[index]), "z"))
    ncsnr = subject.voxels["ncsnr"].to_numpy()
    with np.errstate(divide="ignore"):  # voxels without any signal
        share = r / correlation_ceiling(ncsnr, n_repeats)
    row = by_name(compared)["sub-01"]
    assert row[NORMALISED]["value"] == pytest.approx(np.median(share[ncsnr > 0.2]), abs=1e-6)
    assert compared.metrics.n_reliable_voxels == (ncsnr > 0.2).sum()
    regions = {name: mask for name, mask in subject.rois().items() if mask.sum() >= 10}
    assert set(compared.metrics.roi) == set(row["roi"]) == set(regions)
    for name, mask in regions.items():
        expected = np.median(share[mask & (ncsnr > 0.2)])
        assert row["roi"][name]["value"] == pytest.approx(expected, abs=1e-6)
        low, high = row["roi"][name]["ci"]
        assert low < high


# ------------------------------------------------------------------- what scores must do


def test_shuffled_images_and_the_mean_pattern(compared):
    rows = by_name(compared)
    for score in (PLAIN, NORMALISED, "skill", "ratio_to_reference"):
        shuffled = rows["sub-01_hours-2, images shuffled"][score]["value"]
        for name in ("linear encoder of sub-01_hours-2", "sub-01_linear", "sub-01"):
            assert shuffled < rows[name][score]["value"], (score, name)
    mean = rows["mean pattern"]
    for score in (PLAIN, NORMALISED, "skill", "ratio_to_reference", "share_of_full"):
        assert mean[score] == {"value": 0, "ci": [0, 0]}, score
    assert all(score == {"value": 0, "ci": [0, 0]} for score in mean["roi"].values())
    assert 0.8 < mean["coverage_90"]["value"] < 1
    assert rows["ceiling"][NORMALISED]["value"] == 1
    assert rows["sub-01_hours-2, images shuffled"]["coverage_90"] is None


def test_a_model_compared_with_itself(compared, more, brains, subject, store, tmp_path, unpainted):
    """Exactly 1, also where a copy of it is a row of its own."""
    assert compared.metrics.reference == "sub-01"
    row = by_name(compared)["sub-01"]
    assert row["difference_to_reference"] == {"value": 0, "ci": [0, 0]}
    assert row["ratio_to_reference"] == row["share_of_full"] == {"value": 1, "ci": [1, 1]}
    shutil.copytree(brains[2].folder, tmp_path / "sub-01_copy")
    twin = load_model(tmp_path / "sub-01_copy", "cpu")
    twins = [twin, brains[2]]
    rows = by_name(compare(more, twins, subject, store, FEW, tmp_path / "twins", RUN))
    assert rows["sub-01_copy"]["ratio_to_reference"] == {"value": 1, "ci": [1, 1]}
    for score in (PLAIN, NORMALISED, "skill", "roi", "ratio_to_linear"):
        assert rows["sub-01_copy"][score] == rows["sub-01_linear"][score], score
    assert sum(row["kind"] == "linear" for row in rows.values()) == 1


def test_differences_are_surer_than_scores(compared):
    """The same images for both: what they share drops out."""
    rows = by_name(compared)
    linear, full = rows["linear encoder of sub-01_linear"], rows["sub-01"]
    difference = linear["difference_to_reference"]
    assert difference["value"] == pytest.approx(
        linear[NORMALISED]["value"] - full[NORMALISED]["value"]
    )
    low, high = linear[NORMALISED]["ci"]
    assert np.diff(difference["ci"])[0] < 0.5 * (high - low)
    ratio = linear["ratio_to_reference"]
    assert ratio["value"] == pytest.approx(linear[NORMALISED]["value"] / full[NORMALISED]["value"])
    assert ratio["ci"][0] <= ratio["ci"][1]


def test_a_ratio_to_what_may_be_nothing_has_no_interval(rng):
    """A reference that knows nothing of the images: its score is about 0."""
    truth = rng.standard_normal((40, 30))
    predictions = [truth + rng.standard_normal(truth.shape), rng.standard_normal(truth.shape)]
    rows = [Row(str(i), "model", None, p) for i, p in enumerate(predictions)]
    every = np.ones(30, bool)
    scorer = RowScorer(truth, rows, np.ones(30), every, {}, 1, True)
    informed, empty = scorer.correlations(Bootstrap(200, 0), QUIET)
    assert informed.compared.value > 0.5
    assert informed.difference_to_reference.ci[0] > 0
    for one in (informed, empty):
        assert one.ratio_to_reference is None or one.ratio_to_reference.ci is None
        assert one.ratio_to_linear is None


# --------------------------------------------------------------------- reference, notes, seeds


def test_the_reference_without_a_full_model(
    more, brains, subject, store, tmp_path, unpainted, trained
):
    hours = brains[0]
    result = compare(more, [hours], subject, store, NO_DRAWS, tmp_path / "one", RUN)
    metrics = written(result)
    assert (metrics["reference"], metrics["reference_has_all_data"]) == ("sub-01_hours-2", False)
    assert "no model of all the subject's data" in " ".join(metrics["notes"])
    for row in metrics["rows"]:
        assert row["share_of_full"] is None
        assert row["coverage_90"] is None
    assert "coverage" not in (result.folder / "comparison.md").read_text("utf-8")
    # The last of those with all data.
    pair = compare(more, brains, subject, store, NO_DRAWS, tmp_path / "three", RUN)
    assert pair.metrics.reference == "sub-01_linear"


def test_the_same_seed_gives_the_same_scores(
    compared, more, brains, subject, store, tmp_path, unpainted
):
    hours, full, linear = brains
    models = [hours, linear, full]
    again = compare(more, models, subject, store, FEW, tmp_path / "again", RUN)
    for name in FILES - {"comparison.png"}:
        assert (again.folder / name).read_bytes() == (compared.folder / name).read_bytes(), name
    # A row does not depend on what it stands beside; but for the unit of its skill.
    alone = compare(more, [full], subject, store, FEW, tmp_path / "alone", RUN)
    for score in (PLAIN, NORMALISED, "coverage_90", "roi", "ratio_to_reference"):
        assert by_name(alone)["sub-01"][score] == by_name(compared)["sub-01"][score], score
    seed_1 = RunContext(1, progress=QUIET)
    other = compare(more, [full], subject, store, FEW, tmp_path / "other", seed_1)
    for score in (PLAIN, "coverage_90"):
        assert by_name(other)["sub-01"][score]["ci"] != by_name(alone)["sub-01"][score]["ci"]


def test_an_interrupted_comparison_continues(
    compared, more, brains, subject, store, tmp_path, monkeypatch, unpainted
):
    """Rows whose draws were scored before are not scored again; with other settings all are."""
    hours, full, linear = brains
    real, scored, folder = recipe.coverage_of_row, [], tmp_path / "out"

    def interrupt_third(row, *rest):
        if len(scored) == 2:
            raise KeyboardInterrupt
        scored.append(row.name)
        return real(row, *rest)

    def score(row, *rest):
        scored.append(row.name)
        return real(row, *rest)

    def run(function, settings=FEW):
        monkeypatch.setattr(recipe, "coverage_of_row", function)
        return compare(more, [hours, linear, full], subject, store, settings, folder, RUN)

    with pytest.raises(KeyboardInterrupt):
        run(interrupt_third)
    assert not folder.exists()
    with monkeypatch.context() as patch:
        again = pytest.fail  # correlations are not computed again, either
        patch.setattr(module.RowScorer, "correlations", lambda *_: again("computed again"))
        run(score)
    assert len(scored) == len(set(scored)) == 6
    for name in FILES - {"comparison.png"}:
        assert (folder / name).read_bytes() == (compared.folder / name).read_bytes(), name
    assert {path.name for path in tmp_path.iterdir()} == {"out"}  # nothing hidden is left
    scored.clear()
    with pytest.raises(KeyboardInterrupt):
        run(interrupt_third)
    run(score, CompareSettings(n_draws=21, n_boot=50))
    assert len(scored) == 2 + 6


def test_another_preparation_is_noted(more, brains, subject, store, tmp_path, unpainted):
    other = copy.copy(brains[2])
    training = replace(other.config.training, data="another")
    other.config = replace(other.config, training=training)
    models = [brains[1], other]
    result = compare(more, models, subject, store, NO_DRAWS, tmp_path / "out", RUN)
    (note,) = result.metrics.notes
    assert note.startswith("sub-01_linear was trained on another preparation")


# ------------------------------------------------------------------------------ files


def test_files(compared, more):
    assert compared.folder == more.outputs / "sub-01_comparison"
    assert {path.name for path in compared.folder.iterdir()} == ALL_FILES
    metrics = written(compared)
    assert read_record(compared.folder / "comparison.json", Comparison) == compared.metrics
    assert metrics["simulated"] is True
    assert metrics["models"] == ["sub-01_hours-2", "sub-01_linear", "sub-01"]
    assert metrics["repeats_per_image"] == {"min": 3, "max": 3}
    assert set(metrics["provenance"]["fingerprints"]) == set(metrics["models"])

    table = compared.table().set_index("row")
    assert list(table.index) == [row["row"] for row in metrics["rows"]]
    for name, row in by_name(compared).items():
        for score in (PLAIN, NORMALISED, "skill", "coverage_90", "ratio_to_reference"):
            known = row[score] or {"value": math.nan, "ci": None}
            low, high = known["ci"] or (math.nan, math.nan)
            columns = [score, f"{score}_low", f"{score}_high"]
            expected = [known["value"], low, high]
            np.testing.assert_array_equal(table.loc[name, columns].to_numpy(float), expected)
    assert table.loc["sub-01_hours-2", "hours"] == 2
    assert table.loc["sub-01_hours-2", "sources"] == "sub-02"
    assert table.loc["sub-01", "share_of_full"] == 1

    tsv = pd.read_csv(compared.folder / "comparison.tsv", sep="\t")
    assert set(tsv["region"]) == {"all", *metrics["roi"]}
    overall = tsv[tsv["region"] == "all"].set_index("row")
    np.testing.assert_allclose(overall[NORMALISED], table[NORMALISED], atol=1e-5)
    regions = tsv[tsv["region"] == "V1"].set_index("row")
    for name, row in by_name(compared).items():
        assert regions.loc[name, NORMALISED] == pytest.approx(row["roi"]["V1"]["value"], abs=1e-5)
    with Image.open(compared.folder / "comparison.png") as picture:
        assert min(picture.size) > 500
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 20


def test_the_table_in_markdown(compared):
    text = (compared.folder / "comparison.md").read_text("utf-8")
    assert text == comparison_text(compared.metrics)
    title, _, *lines = text.splitlines()
    assert title == "# Models of simulated/sub-01 compared (simulated data)"
    table = lines[: lines.index("")]
    assert len(table) == 2 + len(compared.metrics.rows)
    assert len({line.count("|") for line in table}) == 1
    (full,) = (line for line in table if line.startswith("| sub-01 |"))
    score = by_name(compared)["sub-01"][NORMALISED]
    limits = ", ".join(f"{x:.3f}" for x in score["ci"])
    assert f"| {score['value']:.3f} [{limits}] |" in full
    assert "1.000 [1.000, 1.000]" in full
    assert "40 test images (3 repeats each)" in text
    assert "same images for all rows" in text
    assert "-0.000" not in text
    assert "| V1 |" in text


def test_names_with_bars_leave_the_table_whole(compared):
    rows = list(compared.metrics.rows)
    rows[2] = replace(rows[2], row="a|b", skill=None)
    metrics = replace(compared.metrics, rows=rows)
    assert "| a\\|b |" in comparison_text(metrics)
    assert math.isnan(comparison_table(metrics)["skill"][2])


# ----------------------------------------------------------------------------- wrong input


def changed(brain, **config):
    other = copy.copy(brain)
    other.config = replace(brain.config, **config)
    other.folder = Path("weights/changed")
    return other


def test_what_does_not_belong_together_is_refused(more, trained, brains, subject, store, tmp_path):
    _, full, linear = brains

    def refused(models, message, of=subject, settings=FEW):
        with pytest.raises(InputError, match=message):
            compare(more, models, of, store, settings, tmp_path / "out", RUN)
        assert not (tmp_path / "out").exists()

    refused([], "one model or more to compare, found none")
    refused([full, linear, full], "different names, found sub-01 twice")
    refused([full], r"--draws 5: expected 20 or more, or 0", settings=CompareSettings(n_draws=5))
    other = trained.find_subject("2", None, QUIET.info)
    refused([full], r"sub-01 is a model of simulated/sub-01, not of simulated/sub-02", other)
    refused([full, changed(linear, subject="02")], "changed is a model of simulated/sub-02")
    bands = (Band("other", full.config.bands[0].identity | {"name": "another"}),)
    refused([full, changed(linear, bands=bands)], r"but changed was trained on .*another")
    refused([full, changed(linear, standardization="none")], "changed was trained on betas with")
    moved = changed(linear)
    moved.voxels = linear.voxels.assign(i=linear.voxels["i"] + 1)
    refused([full, moved], r"changed: its \d+ voxels have other positions.*train the model again")
    short = changed(linear)
    short.response_mean = linear.response_mean[:7]
    refused([full, short], "but changed has 7")


# ------------------------------------------------------- data without ceilings or a common unit


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """A linear model of 24 voxels, betas left as recorded, each image shown once: no ncsnr."""
    root, rng = tmp_path_factory.mktemp("raw"), np.random.default_rng(0)
    (root / "images").mkdir()
    contrast = rng.uniform(5, 60, (40, 2))
    for i, halves in enumerate(contrast):
        noise = rng.standard_normal((64, 64)) * halves.repeat(32)
        pixels = np.clip(127 + noise, 0, 255).astype(np.uint8)[..., None].repeat(3, axis=2)
        Image.fromarray(pixels).save(root / f"images/p{i:02d}.png")
    signal = (contrast - contrast.mean(0)) / contrast.std(0) @ rng.standard_normal((2, 24))
    values = 50 + 7 * (signal + 0.5 * rng.standard_normal(signal.shape))
    np.save(root / "responses.npy", values.astype(np.float32))
    images = pd.DataFrame({"image": [f"p{i:02d}" for i in range(40)]})
    images.to_csv(root / "trials.tsv", sep="\t", index=False)
    areas = pd.DataFrame({"area": ["MT"] * 12 + [""] * 12})
    areas.to_csv(root / "voxels.tsv", sep="\t", index=False)
    experiment = Experiment(
        root / "trials.tsv",
        root / "images",
        (root / "responses.npy",),
        voxels=root / "voxels.tsv",
        standardize="none",
        test_share=0.3,
        validation_share=0.2,
    )
    workspace = Workspace(root)
    made = prepare_table(
        Target(workspace, "mine", ("gabor",)), experiment, "01", RunContext(progress=QUIET)
    )
    store = workspace.find_tokens("mine", None, QUIET.info)
    train(workspace, made.subjects[0], store, TrainSettings(model="linear"), RUN)
    brain = load_model(workspace.weights / "sub-01_linear", "cpu")
    return workspace, brain, made.subjects[0], store


def test_models_of_different_units_are_compared_in_one(raw, unpainted):
    """As recorded, each model standardises by its own trials."""
    workspace, brain, subject, store = raw
    other = changed(brain)
    other.response_mean = brain.response_mean + 2
    other.response_sd = brain.response_sd * 1.5
    result = compare(workspace, [brain, other], subject, store, FEW, run=RUN)
    rows = by_name(result)
    assert sum(row["kind"] == "linear" for row in rows.values()) == 2

    test = subject.select("test")
    truth, index, _ = average_repeats(test.betas, test.image_index)
    tokens = store.take(test.images[index])
    in_first = (other.mean(tokens) - brain.response_mean) / brain.response_sd
    first = (truth - brain.response_mean) / brain.response_sd
    expected = pooled_skill(first, in_first, brain.distribution.mean_pattern)
    assert rows["changed"]["skill"]["value"] == pytest.approx(expected, abs=1e-5)
    expected = np.median(voxelwise_correlation(truth, other.mean(tokens)))
    assert rows["changed"][PLAIN]["value"] == pytest.approx(expected, abs=1e-5)
    draws = other.draw(tokens, 20, seed=0, signal="fresh")
    generator = np.random.default_rng([0, 2])
    ranks = [pit(test.betas[test.image_index == i], one, generator) for i, one in enumerate(draws)]
    expected = coverage(np.concatenate(ranks), 0.9).mean()
    assert rows["changed"]["coverage_90"]["value"] == pytest.approx(expected, abs=0.005)
    assert rows["changed"]["coverage_90"] != rows["sub-01_linear"]["coverage_90"]


def test_without_a_ceiling_correlations_are_compared(raw, tmp_path):
    workspace, brain, subject, store = raw
    result = compare(workspace, [brain], subject, store, FEW, tmp_path / "out", RUN)
    metrics = strict(tmp_path / "out/comparison.json")
    assert metrics["compared_by"] == PLAIN
    assert metrics["n_reliable_voxels"] == 0
    assert "no voxel is known to have an ncsnr above 0.2" in " ".join(metrics["notes"])
    rows = by_name(result)
    assert "ceiling" not in rows
    assert all(row[NORMALISED] is None for row in rows.values())
    assert rows["sub-01_linear"][PLAIN]["value"] > 0.3
    assert rows["sub-01_linear"]["ratio_to_reference"] == {"value": 1, "ci": [1, 1]}
    assert set(metrics["roi"]) == {"MT"}
    assert rows["sub-01_linear"]["roi"]["MT"]["value"] > 0.3
    assert "r / ceiling" not in (tmp_path / "out/comparison.md").read_text("utf-8")
    assert (tmp_path / "out/comparison.png").stat().st_size > 10_000
    assert PLAIN in result.roi_table()
