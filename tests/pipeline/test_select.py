"""`synbrain select`: planted regions, intervals, files, interruption, two models, faults."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import QUIET
from PIL import Image

from synbrain_cli import load_model, select
from synbrain_cli.datasets.table import Experiment
from synbrain_cli.errors import InputError
from synbrain_cli.experiments import keeping, screening
from synbrain_cli.experiments.conditions import read_conditions
from synbrain_cli.experiments.screening import RegionReader
from synbrain_cli.experiments.selection import CONDITIONS, widened
from synbrain_cli.experiments.selection_aims import SelectionSettings, find_region
from synbrain_cli.experiments.selection_guard import TrainingData
from synbrain_cli.features.images import ImageSet
from synbrain_cli.io.results.record import read_result
from synbrain_cli.io.results.selection import SelectionRecord
from synbrain_cli.io.tables import read_table
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.pipeline.prepare import prepare_table
from synbrain_cli.pipeline.preparing import Target
from synbrain_cli.pipeline.select import select_images
from synbrain_cli.pipeline.train import TrainSettings, train
from synbrain_cli.run import RunContext

RUN = RunContext(progress=QUIET)
N_IMAGES, N_REPEATS = 60, 2
SUBJECTS = {"01": 1, "02": 1, "03": 0}  # the last responds to nothing that is shown
LABELS = ["red"] * 4 + ["blue"] * 4
DRIVE = SelectionSettings(drive="red", top=5)


def draw_images(folder, n_images, rng):
    """Plain pictures of two colours with some grating; how red and how blue each is."""
    folder.mkdir(parents=True)
    wave = np.sin(np.arange(64) / 64 * 2 * np.pi * 8)
    known = rng.uniform(0, 1, (n_images, 3))
    for i, (across, red, blue) in enumerate(known):
        grey = 128 + 20 * across * wave[None] * np.ones((64, 1))
        colour = np.stack([grey + 100 * red - 50, grey, grey + 100 * blue - 50], 2)
        Image.fromarray(colour.clip(0, 255).astype(np.uint8)).save(folder / f"i{i:02d}.png")
    return known[:, 1:]


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Responses of four voxels to red and of four to blue."""
    folder, rng = tmp_path_factory.mktemp("raw"), np.random.default_rng(0)
    known = draw_images(folder / "images", N_IMAGES, rng)
    image = np.tile(np.arange(N_IMAGES), N_REPEATS)
    z = (known - known.mean(0)) / known.std(0)
    for subject, planted in SUBJECTS.items():
        betas = planted * np.repeat(z, 4, axis=1)[image] + rng.normal(size=(len(image), 8))
        np.save(folder / f"responses-{subject}.npy", betas.astype(np.float32))
    table = pd.DataFrame({"image": [f"i{i:02d}.png" for i in image]})
    table.to_csv(folder / "trials.tsv", sep="\t", index=False)
    pd.DataFrame({"colour": LABELS}).to_csv(folder / "voxels.tsv", sep="\t", index=False)
    return folder


@pytest.fixture(scope="module")
def made(raw, tmp_path_factory):
    """A workspace with linear models of all subjects, and candidates of known colours."""
    workspace = Workspace(tmp_path_factory.mktemp("select"))
    for subject in SUBJECTS:
        experiment = Experiment(
            trials=(raw / "trials.tsv",),
            images=raw / "images",
            responses=(raw / f"responses-{subject}.npy",),
            voxels=raw / "voxels.tsv",
        )
        target = Target(workspace, "own", ("gabor", "pixels"))
        prepared = prepare_table(target, experiment, subject, RUN).subjects[0]
        for name, specs in (("both", None), ("gabor", ["gabor"])):
            if subject != "01" and name == "gabor":
                continue
            store = workspace.find_tokens("own", specs, QUIET.info)
            settings = TrainSettings("linear")
            train(workspace, prepared, store, settings, RUN, name=f"{name}-{subject}")
    known = draw_images(workspace.root / "candidates", 30, np.random.default_rng(1))
    return SimpleNamespace(
        workspace=workspace,
        images=workspace.root / "candidates",
        red=known[:, 0],
        blue=known[:, 1],
        brain=load_model(workspace.weights / "both-01", "cpu"),
        other=load_model(workspace.weights / "both-02", "cpu"),
        gabor=load_model(workspace.weights / "gabor-01", "cpu"),
        noise=load_model(workspace.weights / "both-03", "cpu"),
    )


@pytest.fixture(scope="module")
def found(made):
    data = TrainingData.find(made.workspace, made.brain)
    return select(made.brain, made.images, DRIVE, data=data, run=RUN)


def by_name(selection, column="score"):
    """A column of the table in the order of the images' names."""
    return selection.table.sort_values("name")[column].to_numpy()


# ------------------------------------------------------------------------------- what is chosen


def test_what_is_planted_is_found(made, found):
    assert np.corrcoef(by_name(found), made.red)[0, 1] > 0.8
    chosen = by_name(found, "condition") == "chosen"
    opposite = by_name(found, "condition") == "opposite"
    assert made.red[chosen].mean() > 0.75
    assert made.red[opposite].mean() < 0.25
    assert found.table["condition"].value_counts().to_dict() == {
        "chosen": 5, "opposite": 5, "other": 20
    }  # fmt: skip
    assert set(found.table["condition"]) == set(CONDITIONS)


def test_scores_are_the_average_expected_response(made, found):
    mean = made.brain.mean(made.images)[:, made.brain.rois()["red"]].mean(1)
    np.testing.assert_allclose(by_name(found), mean, rtol=1e-4, atol=1e-5)
    assert (np.diff(found.table["score"]) <= 0).all()
    np.testing.assert_array_equal(found.table["mean_red"], found.table["score"])


def test_suppressing_reverses_driving(made, found):
    reverse = select(made.brain, made.images, SelectionSettings(suppress="red", top=5), run=RUN)
    assert reverse.table["name"].tolist() == found.table["name"].tolist()[::-1]
    np.testing.assert_allclose(by_name(reverse), -by_name(found))
    np.testing.assert_allclose(by_name(reverse, "mean_red"), by_name(found, "mean_red"))


def test_the_order_of_the_images_changes_nothing(made, found):
    files = sorted(made.images.iterdir())
    turned = [files[i] for i in np.random.default_rng(3).permutation(len(files))]
    other = select(made.brain, turned, DRIVE, run=RUN)
    columns = ["name", "image", "condition", "score", "distance"]
    pd.testing.assert_frame_equal(other.table[columns], found.table[columns])


@pytest.mark.parametrize(
    ("text", "red", "blue"),
    [("red:blue", 1, -1), ("+red:+blue", 1, 1), ("-red:-blue", -1, -1), ("-red:+blue", -1, 1)],
)
def test_contrasts_take_both_regions_where_their_signs_say(made, text, red, blue):
    contrast = select(made.brain, made.images, SelectionSettings(contrast=text, top=5), run=RUN)
    means = np.stack([by_name(contrast, f"mean_{name}") for name in ("red", "blue")])
    z = (means - means.mean(1, keepdims=True)) / means.std(1, keepdims=True)
    np.testing.assert_allclose(by_name(contrast), red * z[0] + blue * z[1], atol=1e-9)
    chosen = by_name(contrast, "condition") == "chosen"
    assert red * (made.red[chosen].mean() - made.red.mean()) > 0.1
    assert blue * (made.blue[chosen].mean() - made.blue.mean()) > 0.1


def test_single_units_are_selected_for_by_their_number(made):
    unit = select(made.brain, made.images, SelectionSettings(drive="voxel:6"), run=RUN)
    expected = made.brain.mean(made.images)[:, 6]
    np.testing.assert_allclose(by_name(unit), expected, rtol=1e-4, atol=1e-5)
    assert "mean_voxel:6" in unit.table


def test_training_images_are_marked(made, raw):
    data = TrainingData.find(made.workspace, made.brain)
    table = data.subject.trials
    trained = set(table["image"][table["split"] != "test"])
    shown = select(made.brain, raw / "images", DRIVE, data=data, run=RUN)
    marked = shown.table.set_index("name")["trained"]
    assert 0 < len(trained) < len(marked)
    assert {name for name, mark in marked.items() if mark} == {n.split(".")[0] for n in trained}


# ---------------------------------------------------------------------------------- intervals


def test_intervals_are_those_of_the_average_of_what_is_unexplained(made):
    """Of draws of the unexplained signal of an image, 95 % leave the region's mean within."""
    brain = made.brain
    reader = RegionReader(brain, (find_region(brain, "red", "--drive"),))
    plain = select(brain, made.images, DRIVE, run=RUN)
    token = brain.encoder([ImageSet.of(made.images)[0]])
    signal = brain.distribution.readout.signal.scaled(brain.doubt(token).relative[0])
    rng, region = np.random.default_rng(0), reader.regions[0].mask
    errors = [(signal.draw(rng) * brain.response_sd)[region].mean() for _ in range(4000)]
    sem = by_name(plain, "sem_red")[0]
    assert sem == pytest.approx(np.std(errors), rel=0.05)
    width = by_name(plain, "high")[0] - by_name(plain, "low")[0]
    assert width == pytest.approx(2 * 1.959964 * sem, rel=1e-6)
    assert np.mean(np.abs(errors) < width / 2) == pytest.approx(0.95, abs=0.02)


def test_intervals_are_widened_to_what_is_recorded_and_never_narrowed(made):
    brain = made.brain
    reader = RegionReader(
        brain, tuple(find_region(brain, name, "--drive") for name in ("red", "blue"))
    )
    own = reader.average_covariance()[None, None]
    recorded = np.diag([4.0, 0.25]) @ np.diag(np.diag(own[0, 0]))
    wide = widened(reader, own, recorded)
    np.testing.assert_allclose(np.diag(wide[0, 0]) / np.diag(own[0, 0]), [4, 1])
    assert wide[0, 0, 0, 1] == 0  # as recorded
    unknown = np.full((2, 2), np.nan)
    np.testing.assert_array_equal(widened(reader, own, unknown), own)


def test_an_estimate_by_others_stands_beside_the_own(found):
    own, independent = found.own_estimate("chosen"), found.independent_estimate("chosen")
    assert own > 0
    assert independent == pytest.approx(own * found.guard.share)
    assert 0.5 < found.guard.share < 1.6
    assert found.own_estimate("opposite") < 0


def test_a_set_that_noise_chose_is_worth_nothing(made):
    data = TrainingData.find(made.workspace, made.noise)
    for region in ("red", "blue"):
        settings = SelectionSettings(drive=region, top=5)
        noise = select(made.noise, made.images, settings, data=data, run=RUN)
        assert noise.own_estimate("chosen") > 0
        assert abs(noise.independent_estimate("chosen")) < 0.1 * noise.own_estimate("chosen")


# -------------------------------------------------------------------------------- two models


def test_two_encoders_of_one_subject_are_told_apart(made):
    """One sees no colours: they differ most on the most colourful pictures."""
    apart = select((made.brain, made.gabor), made.images, SelectionSettings(top=5), run=RUN)
    mean = [brain.mean(made.images) for brain in apart.brains]
    squares = ((mean[0] - mean[1]) ** 2).sum(1)
    errors = 0.0
    for brain in apart.brains:
        tokens = brain.encoder(ImageSet.of(made.images))
        relative = np.concatenate([brain.doubt(one).relative for one in tokens.one_by_one()])
        variance = brain.distribution.readout.signal.variance
        errors = errors + (variance * relative * brain.response_sd**2).sum(1)
    np.testing.assert_allclose(by_name(apart), np.sqrt(squares / errors), rtol=1e-3)
    assert apart.table["low"].isna().all()
    assert apart.guard is None
    within = select((made.brain, made.gabor), made.images, SelectionSettings(roi="red"), run=RUN)
    assert not np.allclose(by_name(within), by_name(apart))


def test_two_subjects_are_told_apart_in_a_region_of_both(made):
    settings = SelectionSettings(roi="red", top=5)
    apart = select((made.brain, made.other), made.images, settings, run=RUN)
    means = np.stack([by_name(apart, f"mean_red_{one.name}") for one in apart.brains])
    sems = np.stack([by_name(apart, f"sem_red_{one.name}") for one in apart.brains])
    sd = means.std(1, keepdims=True)
    z = (means - means.mean(1, keepdims=True)) / sd
    error = np.sqrt(((sems / sd) ** 2).sum(0))
    np.testing.assert_allclose(by_name(apart, "difference"), z[0] - z[1], atol=1e-9)
    np.testing.assert_allclose(by_name(apart), np.abs(z[0] - z[1]) / error)
    assert (apart.table["low"] >= 0).all()
    with pytest.raises(InputError, match=r"expected --roi, .*; ROIs of both: blue, red"):
        select((made.brain, made.other), made.images, SelectionSettings(), run=RUN)
    with pytest.raises(InputError, match="--roi voxel:1: expected ROIs"):
        select((made.brain, made.other), made.images, SelectionSettings(roi="voxel:1"), run=RUN)


def test_what_cannot_be_compared_is_refused(made, monkeypatch):
    with pytest.raises(InputError, match="expected two models, found both-01 twice"):
        select((made.brain, made.brain), made.images, SelectionSettings(), run=RUN)
    with pytest.raises(InputError, match="--drive red: expected one model, found both-01 and"):
        select((made.brain, made.gabor), made.images, DRIVE, run=RUN)
    monkeypatch.setattr(type(made.brain), "statistics", lambda self, sampling: ["mean"])
    with pytest.raises(InputError, match="both-01 does not know the standard error"):
        select((made.brain, made.gabor), made.images, SelectionSettings(), run=RUN)


def test_without_standard_errors_images_are_ranked_without_intervals(made, found, monkeypatch):
    monkeypatch.setattr(type(made.brain), "statistics", lambda self, sampling: ["mean"])
    plain = select(made.brain, made.images, DRIVE, run=RUN)
    assert plain.table["low"].isna().all()
    assert plain.table["image"].tolist() == found.table["image"].tolist()
    assert plain.plot() is not None


# ------------------------------------------------------------------------------------- command


@pytest.fixture
def typed(synbrain, made, tmp_path):
    """Function that types the command: exit code, output, error, and the folder named."""

    def run(*words, images=made.images, model="both-01"):
        named = ("--model", model) if model else ()
        place = ("-w", made.workspace.root, "--output", tmp_path / "out", "-q")
        return *synbrain("select", images, *words, *named, *place), tmp_path / "out"

    return run


def test_files_hold_what_the_function_returns(typed, found):
    code, screen, _, folder = typed("--drive", "red", "--top", "5")
    assert code == 0
    table = read_table(folder / "selection.tsv", ("image", "condition"))
    assert table["image"].tolist() == found.table["image"].tolist()
    assert table["condition"].tolist() == found.table["condition"].tolist()
    for column in ("score", "low", "high", "distance", "mean_red", "sem_red"):
        np.testing.assert_allclose(table[column].astype(float), found.table[column], rtol=1e-4)
    chosen, opposite = read_conditions([folder / "conditions.tsv"])
    assert (chosen.name, opposite.name) == ("chosen", "opposite")
    assert [f.rsplit("/", 1)[1] for f in chosen.images.sources] == [
        f"{name}.png" for name in found.table["name"][:5]
    ]
    record = read_result(folder / "selection.json", SelectionRecord, "synbrain select")
    assert record.chosen.own == pytest.approx(found.own_estimate("chosen"))
    assert record.chosen.independent == pytest.approx(found.independent_estimate("chosen"))
    assert record.guard.share == pytest.approx(found.guard.share)
    assert (record.n_images, record.n_chosen) == (30, 5)
    assert (record.regions[0].name, record.regions[0].n_voxels) == ("red", 4)
    assert record.regions[0].chosen > record.regions[0].all > record.regions[0].opposite
    assert np.asarray(Image.open(folder / "contact_sheet.png").convert("L")).std() > 5
    assert found.table["name"][0] in screen
    assert "note: independent estimate: " in screen
    assert str(folder) in screen


def test_without_the_training_data_a_note_says_so(made, tmp_path, synbrain):
    shutil.copytree(made.workspace.weights, tmp_path / "weights")
    words = ("select", made.images, "--drive", "red", "-m", "both-01", "-w", tmp_path, "-q")
    code, screen, _ = synbrain(*words)
    assert code == 0
    assert "note: no independent estimate: " in screen
    assert "no prepared sub-01" in screen
    record = json.loads(next(tmp_path.glob("outputs/*/selection.json")).read_text())
    assert "no prepared sub-01" in record["no_guard"]
    assert "independent" not in record["chosen"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "expected what images are selected for: --drive ROI"),
        (("--drive", "FFA"), "--drive FFA: both-01 has no ROI 'FFA'; its ROIs: blue, red"),
        (("--drive", "voxel:8"), "--drive voxel:8: expected a voxel from voxel:0 to voxel:7"),
        (("--contrast", "red:red"), "--contrast red:red: expected two regions, found the same"),
        (("--drive", "red", "--suppress", "blue"), "expected one of --drive red, --suppress blue"),
        (("--drive", "red", "--top", "16"), "--top 16: expected at most 15, half of the 30 images"),
        (("--drive", "red", "--tell-apart", "a,b"), "--tell-apart a,b: expected alone"),
        (("--tell-apart", "both-01,gabor-01"), "--model both-01: --tell-apart names its models"),
    ],
)
def test_mistakes_are_said_in_one_line(typed, words, message):
    code, _, error, folder = typed(*words)
    assert code == 1
    assert message in error
    assert len(error.splitlines()) == 1
    assert not folder.exists()


def test_models_to_tell_apart_are_named(typed):
    for words, message in (
        ("both-01", "expected two models, separated by a comma"),
        ("both-01,nobody", "no model nobody"),
    ):
        code, _, error, _ = typed("--tell-apart", words, model=None)
        assert code == 1
        assert message in error
    code, screen, _, folder = typed("--tell-apart", "both-01,gabor-01", model=None)
    assert code == 0
    assert "no independent estimate: none is made of how far two models are apart" in screen
    assert json.loads((folder / "selection.json").read_text())["models"] == ["both-01", "gabor-01"]


def test_one_image_is_nothing_to_choose_among(typed, made, tmp_path):
    code, _, error, _ = typed("--drive", "red", images=made.images / "i00.png")
    assert code == 1
    assert "expected two images or more to choose among, found 1" in error


# -------------------------------------------------------------------------------- interruption


def test_an_interrupted_run_goes_on_where_it_stopped(made, tmp_path, monkeypatch):
    monkeypatch.setattr(keeping, "TOGETHER", 8)
    monkeypatch.setattr(screening, "BATCH", 8)
    whole = select_images(
        made.workspace, made.brain, made.images, DRIVE, output=tmp_path / "whole", run=RUN
    ).folder
    seen = []
    kind, look = type(made.brain), type(made.brain).mean_of_tokens

    def stop(brain, tokens):
        if len(seen) + len(tokens) > 20:
            raise KeyboardInterrupt
        seen.extend(tokens.one_by_one())
        return look(brain, tokens)

    monkeypatch.setattr(kind, "mean_of_tokens", stop)
    again = tmp_path / "again"
    with pytest.raises(KeyboardInterrupt):
        select_images(made.workspace, made.brain, made.images, DRIVE, output=again, run=RUN)
    assert not again.exists()
    seen.clear()
    monkeypatch.setattr(
        kind, "mean_of_tokens", lambda b, t: (seen.extend(t.one_by_one()), look(b, t))[1]
    )
    select_images(made.workspace, made.brain, made.images, DRIVE, output=again, run=RUN)
    assert len(seen) == 30 - 16
    for name in ("selection.tsv", "conditions.tsv", "selection.json", "contact_sheet.png"):
        assert (again / name).read_bytes() == (whole / name).read_bytes(), name
