"""Synthesized trials beside real ones: what is fitted to what, and what it then brings."""

from __future__ import annotations

import json
from types import SimpleNamespace

import msgspec
import numpy as np
import pandas as pd
import pytest
from conftest import QUIET
from one_band import plain_scaler, renamed
from PIL import Image
from sklearn.linear_model import Ridge as SklearnRidge

from synbrain_cli import load_model
from synbrain_cli.brain.drawing import Drawing
from synbrain_cli.brain.images import token_digest
from synbrain_cli.config import Band
from synbrain_cli.errors import InputError
from synbrain_cli.evaluation import augmentation as module
from synbrain_cli.evaluation.augmentation import CONDITIONS
from synbrain_cli.evaluation.augmented_decoder import (
    SCORES,
    AugmentedRidge,
    Choice,
    choose,
    fit_decoder,
    identify,
)
from synbrain_cli.evaluation.augmented_trials import (
    ModelWithoutValidation,
    new_images,
    pooled_features,
    synthesize,
    training_trials,
)
from synbrain_cli.evaluation.retrieval import FeatureSpace
from synbrain_cli.evaluation.test_set import TestSet
from synbrain_cli.io.bundle import Adaptation, BundleConfig, TrainingRecord
from synbrain_cli.io.prepared import PreparedSubject, Trials
from synbrain_cli.io.records import read_record
from synbrain_cli.io.results.augmentation import Augmentation
from synbrain_cli.model.linear import LinearEncoder, Ridge
from synbrain_cli.pipeline.augment import AugmentSettings, augment
from synbrain_cli.progress import Progress
from synbrain_cli.run import RunContext
from synbrain_cli.tokens import Tokens

FEW = AugmentSettings((0.5, 1), n_boot=50)
MORE = AugmentSettings((1, 4), n_boot=300)
RUN = RunContext(progress=QUIET)
# Of an encoder.
IDENTITY = {"name": "known", "weights": None, "image_size": 8, "n_tokens": 4, "n_dims": 3}


@pytest.fixture(scope="module")
def brain(trained, subject):
    """A model whose record says that it was adapted to the first hour."""
    brain = load_model(trained.weights / "sub-01", "cpu")
    table = subject.trials
    # Trials of the test among them, which no adapted model lists: they must not be taken.
    of_hour(brain, table["trial"][table["session"] == 1].tolist())
    return brain


def of_hour(brain, trials):
    """Record that a model was adapted to some trials."""
    adaptation = Adaptation(
        hours=1, trials=trials, sources=[], subjects=[], strategy="linear", strategies={}
    )
    training = msgspec.structs.replace(brain.config.training, adaptation=adaptation)
    brain.config = msgspec.structs.replace(brain.config, training=training)


@pytest.fixture(scope="module")
def result(trained, brain, subject, store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("augmented") / "augmentation"
    return augment(trained, brain, subject, store, FEW, folder, RUN)


def written(result):
    """The JSON file of a result, as everybody reads it: NaN and Infinity are not JSON."""

    def refuse(word):
        raise AssertionError(word)

    text = (result.folder / "augmentation.json").read_text("utf-8")
    return json.loads(text, parse_constant=refuse)


class Altered(PreparedSubject):
    """A prepared subject some of whose betas were replaced by noise."""

    def __init__(self, subject, rows):
        super().__init__(subject.folder)
        betas = np.array(subject.betas)
        betas[rows] = np.random.default_rng(9).normal(size=betas[rows].shape)
        self.__dict__["betas"] = betas


def without_scores(entries):
    return [{k: v for k, v in entry.items() if k != "scores"} for entry in entries]


# ----------------------------------------------------------------------------- what is written


def test_every_amount_and_control(result, subject):
    metrics = written(result)
    table = subject.trials
    hour = table[(table["session"] == 1) & (table["split"] != "test")]
    assert metrics["n_real_trials"] == len(hour)
    assert metrics["n_real_images"] == hour["image"].nunique()
    assert metrics["n_validation_trials"] == (hour["split"] == "val").sum()
    assert metrics["n_test_trials"] == 120
    assert metrics["n_candidates"] == metrics["n_test_images"] == 40
    assert metrics["amounts"] == [0, 0.5, 1]
    assert set(metrics["conditions"]) == set(metrics["chosen"]) == set(CONDITIONS)
    for name, entries in metrics["conditions"].items():
        assert [entry["amount"] for entry in entries] == [0, 0.5, 1]
        assert [entry["n_synthesized"] for entry in entries] == [
            0,
            round(0.5 * len(hour)),
            len(hour),
        ]
        assert [entry["weight"] in (0.1, 0.3, 1) for entry in entries] == [False, True, True]
        for entry in entries:
            assert set(entry["scores"]) == set(SCORES)
            for score, found in entry["scores"].items():
                level = entries[0]["scores"][score]["value"]
                assert found["gain"] == pytest.approx(found["value"] - level, abs=1e-9)
                assert found["ci"][0] <= found["value"] <= found["ci"][1]
                assert found["gain_ci"][0] <= found["gain_ci"][1]
        best = max(entry["validation_r2"] for entry in entries)
        assert metrics["chosen"][name]["validation_r2"] == best
        for score, found in metrics["best_on_test"][name].items():
            assert found["value"] == max(e["scores"][score]["value"] for e in entries)


def test_nothing_synthesized_is_the_same_in_every_condition(result):
    first, *others = (entries[0] for entries in written(result)["conditions"].values())
    assert all(other == first for other in others)
    for found in first["scores"].values():
        assert found["gain"] == 0
        assert found["gain_ci"] == [0, 0]
    assert first["weight"] is None


def test_files(result):
    files = {"augmentation.json", "augmentation.tsv", "augmentation.png", "settings.json"}
    assert {path.name for path in result.folder.iterdir()} == files | {".files.json"}
    record = read_record(result.folder / "augmentation.json", Augmentation)
    assert record == result.metrics
    table = pd.read_csv(result.folder / "augmentation.tsv", sep="\t")
    assert len(table) == len(CONDITIONS) * 3 * len(SCORES)
    assert list(table.columns) == list(result.table().columns)
    assert not table.duplicated(["condition", "amount", "score"]).any()
    assert table.groupby("condition")["amount"].nunique().eq(3).all()
    row = table[
        (table["condition"] == "mean") & (table["amount"] == 1) & (table["score"] == SCORES[0])
    ].iloc[0]
    found = result.metrics.conditions["mean"][2].scores[SCORES[0]]
    assert row["value"] == pytest.approx(found.value, abs=1e-4)
    assert row["gain_high"] == pytest.approx(found.gain_ci[1], abs=1e-4)
    assert table.groupby("condition")["chosen"].sum().eq(len(SCORES)).all()
    with Image.open(result.folder / "augmentation.png") as picture:
        assert min(picture.size) > 500


def test_where_new_images_run_out_they_come_again(trained, brain, subject, store, tmp_path):
    few = AugmentSettings((2,), n_boot=50)
    metrics = written(augment(trained, brain, subject, store, few, tmp_path, RUN))
    entry = metrics["conditions"]["draws"][1]
    assert entry["n_synthesized"] == 2 * metrics["n_real_trials"]
    assert entry["n_images"] == metrics["n_new_images"] < entry["n_synthesized"]
    assert any("come again" in note for note in metrics["notes"])


def test_the_seed_decides(trained, brain, subject, store, result, tmp_path):
    augment(trained, brain, subject, store, FEW, tmp_path / "again", RUN)
    for name in ("augmentation.json", "augmentation.tsv", "augmentation.png"):
        assert (tmp_path / "again" / name).read_bytes() == (result.folder / name).read_bytes()
    seed_1 = RunContext(1, progress=QUIET)
    other = augment(trained, brain, subject, store, FEW, tmp_path / "other", seed_1)
    one, two = (written(r)["conditions"]["draws"] for r in (result, other))
    assert one[2]["scores"] != two[2]["scores"]
    for score in SCORES:  # the level without synthesized trials is of no chance
        assert one[0]["scores"][score]["value"] == two[0]["scores"][score]["value"]


def test_an_interrupted_run_continues(
    trained, brain, subject, store, result, tmp_path, monkeypatch, capsys
):
    """Decoders fitted before are not fitted again; with other settings all are."""
    folder, real, fitted = tmp_path / "out", module.DecodingTask.decode, []

    def decode(task, choosing, final):
        if len(fitted) == 4:
            raise KeyboardInterrupt
        fitted.append(len(final[0]))
        return real(task, choosing, final)

    monkeypatch.setattr(module.DecodingTask, "decode", decode)
    run = RunContext(progress=Progress())
    with pytest.raises(KeyboardInterrupt):
        augment(trained, brain, subject, store, FEW, folder, run)
    assert not folder.exists()
    monkeypatch.setattr(
        module.DecodingTask, "decode", lambda *args: fitted.append(0) or real(*args)
    )
    augment(trained, brain, subject, store, FEW, folder, run)
    assert len(fitted) == 1 + 2 * len(CONDITIONS)
    assert "continuing the interrupted run" in capsys.readouterr().err
    for name in ("augmentation.json", "augmentation.tsv", "augmentation.png"):
        assert (folder / name).read_bytes() == (result.folder / name).read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"out"}  # nothing hidden is left

    fitted.clear()
    monkeypatch.setattr(module.DecodingTask, "decode", decode)
    with pytest.raises(KeyboardInterrupt):
        augment(trained, brain, subject, store, FEW, folder, run)
    monkeypatch.setattr(module.DecodingTask, "decode", real)
    augment(trained, brain, subject, store, AugmentSettings((0.5,), 50), folder, run)
    assert "had other settings (amounts" in capsys.readouterr().err
    assert read_record(folder / "augmentation.json", Augmentation).amounts == [0, 0.5]


# ---------------------------------------------------------------------- what is fitted to what


def test_the_real_trials_are_those_the_model_was_made_of(brain, subject, store):
    real, test = training_trials(brain, subject), TestSet.load(subject, store, [brain])
    assert not set(real.images) & set(test.images)
    table = subject.trials
    hour = ((table["session"] == 1) & (table["split"] != "test")).to_numpy()
    # In the unit of the hour: an adapted model knows no other session's.
    trials = Trials(subject.betas[hour], None, None, table["session"][hour].to_numpy())
    expected = (subject.recorded(trials) - brain.response_mean) / brain.response_sd
    np.testing.assert_array_equal(real.betas, expected)
    np.testing.assert_array_equal(real.images[real.image_index], table["image"][hour])
    np.testing.assert_array_equal(real.validation, table["split"][hour] == "val")
    every = SimpleNamespace(
        name="sub-01",
        config=SimpleNamespace(training=TrainingRecord(versions={})),
        standardize=lambda betas: 2 * betas,
    )
    whole = training_trials(every, subject)
    np.testing.assert_array_equal(whole.betas, 2 * subject.betas[table["split"] != "test"])


def test_new_images_are_new(brain, subject, store, rng):
    real, test = training_trials(brain, subject), TestSet.load(subject, store, [brain])
    new = new_images(store, real, test.images, {}, rng)
    assert len(new) == len(set(new)) == len(store.images) - len(real.images) - len(test.images)
    assert not set(new) & ({*real.images} | {*test.images})
    assert new != sorted(new)
    # The pixels of a test image under another name are no new image.
    names = store.images
    digests = [f"pixels of {name}" for name in names]
    digests[names.index(new[0])] = digests[names.index(test.images[0])]
    digests[names.index(new[1])] = digests[names.index(real.images[0])]
    known = SimpleNamespace(images=names, digests=digests)
    assert set(new_images(known, real, test.images, {}, rng)) == set(new[2:])


def test_test_trials_have_no_part_in_the_decoder(trained, brain, subject, store, result, tmp_path):
    table = subject.trials
    test = (table["split"] == "test").to_numpy()
    changed = written(
        augment(trained, brain, Altered(subject, test), store, FEW, tmp_path / "test", RUN)
    )
    metrics = written(result)
    for name in CONDITIONS:
        found, before = changed["conditions"][name], metrics["conditions"][name]
        assert without_scores(found) == without_scores(before)
        assert found[0]["scores"] != before[0]["scores"]
    two_way = changed["conditions"]["draws"][0]["scores"]["two_way_trials"]["value"]
    assert two_way == pytest.approx(0.5, abs=0.1)  # of noise
    # Nor have trials of other hours; those of the hour have.
    for rows, same in ((table["session"] != 1, True), (table["session"] == 1, False)):
        other = Altered(subject, (rows & (table["split"] != "test")).to_numpy())
        found = written(augment(trained, brain, other, store, FEW, tmp_path / "o", RUN))
        assert (found["conditions"] == metrics["conditions"]) is same
        assert (found["best_on_test"] == metrics["best_on_test"]) is same


def synthesized(brain, subject, store, n_images=7, n_trials=16):
    """A few synthesized trials by the model, and by it without its validation images."""
    real, test = training_trials(brain, subject), TestSet.load(subject, store, [brain])
    images = new_images(store, real, test.images, {}, np.random.default_rng(0))[:n_images]
    space = FeatureSpace(pooled_features(brain, store, real.images))
    model = ModelWithoutValidation.fit(brain, real, store, 0)
    run = RunContext(5, progress=QUIET)
    return images, space, model, synthesize(model, store, images, n_trials, space, run)


def test_synthesized_trials_are_the_draws_of_the_model(brain, subject, store):
    images, space, _, (final, _) = synthesized(brain, subject, store)
    tokens = store.take(images)
    draws = [
        brain.draw_around(
            brain.mean(token, unit="z")[0],
            token_digest(token),
            Drawing(3, 5),
            doubt=brain.doubt_of(token).apart(),
        )
        for token in tokens.one_by_one()
    ]
    for trial, image in enumerate(final.image):
        np.testing.assert_array_equal(final.draws[trial], draws[image][trial // len(images)])
    np.testing.assert_array_equal(final.means, brain.mean(tokens, unit="z"))
    np.testing.assert_array_equal(final.targets, space(pooled_features(brain, store, images)))
    # Conditions: the same responses, of the same images but where they are shuffled.
    order = np.roll(np.arange(7), 1)
    for n in (4, 16):
        rows = {name: final.rows(name, n, order) for name in CONDITIONS}
        np.testing.assert_array_equal(rows["draws"][0], final.draws[:n])
        np.testing.assert_array_equal(rows["shuffled"][0], rows["draws"][0])
        np.testing.assert_array_equal(rows["mean"][0], final.means[final.image[:n]])
        np.testing.assert_array_equal(rows["mean"][1], rows["draws"][1])
        np.testing.assert_array_equal(rows["shuffled"][1], final.targets[order[final.image[:n]]])


def test_what_validates_taught_nothing(brain, subject, store):
    """While choosing, validation images have no part in the model's mean."""
    images, _, model, (final, choosing) = synthesized(brain, subject, store)
    tokens = store.take(images)
    weight = dict(zip(brain.predictors.names, brain.predictors.stack, strict=True))
    parts = {name: brain.predict(name, tokens, "z") for name in weight}
    expected = sum(weight[name] * part for name, part in parts.items())
    np.testing.assert_allclose(final.means, expected, atol=1e-5)
    linear = model.linear.predict(brain.predictors.scaler(tokens))
    # In place of the response network, too, most of whose cores have seen each of these images.
    replaced = {name: linear if name in ("linear", "network") else parts[name] for name in weight}
    expected = sum(weight[name] * part for name, part in replaced.items())
    np.testing.assert_allclose(choosing.means, expected, atol=1e-5)
    assert not np.allclose(final.means, choosing.means)
    table = subject.trials
    hour = table["session"] == 1
    for split, same in (("val", True), ("train", False)):
        other = Altered(subject, (hour & (table["split"] == split)).to_numpy())
        changed = synthesized(brain, other, store)[3][1]
        assert np.array_equal(changed.draws, choosing.draws) is same


@pytest.mark.parametrize("n_voxels", [12, 50])
@pytest.mark.parametrize("n_added", [0, 25])
def test_ridge_is_that_of_scikit_learn(rng, n_voxels, n_added):
    x, y = rng.normal(1, 2, (30, n_voxels)), rng.normal(3, 1, (30, 4))
    more, theirs = rng.normal(-5, 2, (n_added, n_voxels)), rng.normal(9, 1, (n_added, 4))
    new = rng.normal(size=(5, n_voxels))
    penalties, weight = [1e-2, 1.0, 30.0], 0.3
    ridge = AugmentedRidge(
        (x.astype(np.float32), y.astype(np.float32)),
        (more.astype(np.float32), theirs.astype(np.float32)),
        weight,
    )
    rows, targets = x - x.mean(0), y - y.mean(0)
    if n_added:  # each kind around its own mean
        rows = np.concatenate([rows, more - more.mean(0)])
        targets = np.concatenate([targets, theirs - theirs.mean(0)])
    weights = np.repeat([1, weight], [30, n_added])
    unit = (weights @ rows**2).sum() / weights.sum()
    for penalty, predicted in zip(penalties, ridge.path(new, penalties), strict=True):
        reference = SklearnRidge(alpha=penalty * unit, fit_intercept=False)
        expected = reference.fit(rows, targets, sample_weight=weights).predict(new - x.mean(0))
        np.testing.assert_allclose(predicted, expected + y.mean(0), rtol=2e-4, atol=2e-4)


def test_means_of_what_is_added_say_nothing(rng):
    """Neither the images added nor a model that is off by a constant move the predictions."""
    x, y = rng.normal(size=(30, 8)).astype(np.float32), rng.normal(size=(30, 4))
    more, theirs = rng.normal(size=(40, 8)).astype(np.float32), rng.normal(size=(40, 4))
    choice = Choice(0.3, 1.0, 0)
    one = fit_decoder((x, y), (more, theirs), choice)(x)
    two = fit_decoder((x, y), (more + 3, theirs - 7), choice)(x)
    np.testing.assert_allclose(one, two, atol=1e-4)
    np.testing.assert_allclose(one.mean(0), y.mean(0), atol=1e-5)


def test_weight_and_penalty_are_the_best_on_validation_trials(rng):
    truth = rng.normal(size=(10, 3))

    def trials(n, noise):
        y = rng.normal(size=(n, 3))
        return (y @ truth.T + noise * rng.normal(size=(n, 10))).astype(np.float32), y

    fitting, validation = trials(15, 2), trials(200, 0.5)
    nothing = (np.empty((0, 10), np.float32), np.empty((0, 3)))
    alone = choose(fitting, validation, nothing)
    good, bad = trials(200, 0.5), trials(200, 0.5)
    bad = (bad[0], bad[1][::-1])
    helped, misled = (choose(fitting, validation, added) for added in (good, bad))
    assert helped.weight == 1
    assert misled.weight == 0.1
    assert misled.validation < alone.validation < helped.validation
    x, y = validation
    found = (
        1
        - ((fit_decoder(fitting, good, helped)(x) - y) ** 2).sum()
        / ((y - fitting[1].mean(0)) ** 2).sum()
    )
    assert found == pytest.approx(helped.validation)


def test_identification_of_images(rng):
    candidates = rng.normal(size=(12, 6))
    index = np.repeat(np.arange(12), rng.integers(1, 4, 12))
    np.testing.assert_array_equal(identify(candidates[index], index, candidates), 1)
    noisy = candidates[index] + rng.normal(0, 1, (len(index), 6))
    values = identify(noisy, index, candidates)
    assert values.shape == (12, len(SCORES))
    single, average = values[:, 0].mean(), values[:, 1].mean()
    assert 0.5 < single < average < 1  # repeats help
    # Trials in another order are the same trials.
    order = rng.permutation(len(index))
    np.testing.assert_allclose(identify(noisy[order], index[order], candidates)[:, 1], values[:, 1])


# ------------------------------------------------------------- where the answer is known


class KnownBrain:
    """A model that knows true responses, or nothing: only what `augment` asks of a brain."""

    name, simulated, subject = "known", False, "01"

    def __init__(self, responses, n_tokens_features, *, knows):
        self.responses, self.knows = responses, knows  # (n_features, n_voxels)
        self.n_voxels = responses.shape[1]
        self.config = BundleConfig(
            dataset="table",
            subject="01",
            simulated=False,
            space="volume",
            unit="z",
            recorded_unit="z",
            standardization="session",
            bands=(Band(spec="known", identity=IDENTITY, precision="float32"),),
            predictors=("linear",),
            fingerprint="0",
            training=TrainingRecord(versions={}),
        )
        self.device = "cpu"
        self.voxels = pd.DataFrame({"ncsnr": np.full(self.n_voxels, np.nan)})
        self.response_mean, self.response_sd = np.zeros(self.n_voxels), np.ones(self.n_voxels)
        ridge = Ridge(
            feature_mean=np.zeros(n_tokens_features, np.float32),
            components=np.zeros((n_tokens_features, 1), np.float32),
            coefficients=np.zeros((1, self.n_voxels), np.float32),
            intercept=np.zeros(self.n_voxels, np.float32),
            alphas=np.zeros(self.n_voxels, np.float32),
        )
        weights, mean = np.ones((1, self.n_voxels), np.float32), ridge.intercept
        linear = LinearEncoder((ridge,), (None,), weights, mean)
        self.predictors = SimpleNamespace(
            names=("linear",),
            stack=np.zeros((1, self.n_voxels), np.float32),
            linear=linear,
            transfer=None,
            network=None,
            scaler=plain_scaler(4, 5),
        )

    def require_readout(self, what):
        """It has all there is."""

    def standardize(self, betas):
        return betas

    def mean(self, tokens, unit):
        mean = tokens.bands[0].reshape(len(tokens), -1) @ self.responses
        return mean if self.knows else 0 * mean

    def doubt_of(self, token):
        return None

    def draw_around(self, mean, digest, drawing, doubt=None):
        rng = np.random.default_rng([int(digest[:12], 16), drawing.seed])
        noise = rng.normal(size=(drawing.n_draws, self.n_voxels))
        return mean + (0.3 if self.knows else 1.0) * noise


class KnownSubject:
    """Trials in memory: only what `augment` asks of a prepared subject."""

    dataset, subject = "table", "01"
    groups, has_test = {}, True
    description = SimpleNamespace(standardization="session")

    averaged_over = 1

    def __init__(self, folder, table, betas):
        self.folder, self.trials, self.betas = folder, table, betas
        self.n_voxels = betas.shape[1]
        self.voxels = pd.DataFrame({"ncsnr": np.full(self.n_voxels, np.nan)})

    label, checksum = PreparedSubject.label, PreparedSubject.checksum
    select, read_betas = PreparedSubject.select, PreparedSubject.read_betas

    def recorded(self, trials):
        return trials.betas


def known_world(folder, *, knows, seed=0):
    """Few and very noisy real trials, and a model to synthesize others."""
    rng = np.random.default_rng(seed)
    n_images, n_voxels, shape = {"train": 40, "val": 20, "test": 60, "new": 400}, 60, (4, 5)
    names = [f"{split}{i:03d}" for split, n in n_images.items() for i in range(n)]
    tokens = rng.normal(size=(len(names), *shape)).astype(np.float32)
    responses = (rng.normal(size=(20, n_voxels)) / np.sqrt(20)).astype(np.float32)
    truth = tokens.reshape(len(names), -1) @ responses
    rows = []
    for i, name in enumerate(names):
        split = name[:-3]
        if split != "new":
            rows += [(i, name, split)] * (2 if split == "test" else 1)
    table = pd.DataFrame(rows, columns=["row", "image", "split"])
    table["trial"], table["session"] = np.arange(len(table)), 1
    noise = np.where(table["split"] == "test", 1.0, 3.0)[:, None]
    betas = truth[table["row"]] + noise * rng.normal(size=(len(table), n_voxels))
    folder.mkdir(exist_ok=True)
    (folder / "dataset_description.json").write_text("{}")
    subject = KnownSubject(folder, table, betas.astype(np.float32))
    row = {name: i for i, name in enumerate(names)}
    one = SimpleNamespace(
        tokens=tokens, rows_of=lambda images: np.array([row[image] for image in images])
    )
    store = SimpleNamespace(
        stores=[one],
        folders=str(folder),
        bands=[SimpleNamespace(identity=IDENTITY)],
        images=names,
        digests=[""] * len(names),
        take=lambda images: Tokens.of(tokens[one.rows_of(images)]),
        require=one.rows_of,
    )
    return KnownBrain(responses, 20, knows=knows), subject, store


@pytest.mark.parametrize("seed", [0, 1])
def test_true_responses_help_and_those_of_other_images_do_not(tmp_path, seed):
    world = known_world(tmp_path / "prepared", knows=True, seed=seed)
    run = RunContext(seed, progress=QUIET)
    metrics = written(augment(None, *world, MORE, tmp_path / "out", run))
    for name in ("draws", "mean"):
        chosen = metrics["chosen"][name]
        assert chosen["amount"] == 4
        for score in SCORES:
            assert chosen["scores"][score]["gain_ci"][0] > 0, (name, score)
        assert chosen["scores"]["two_way_trials"]["gain"] > 0.04
    assert metrics["chosen"]["draws"]["weight"] == 1
    shuffled = metrics["conditions"]["shuffled"]
    for entry in [metrics["chosen"]["shuffled"], *shuffled]:
        for score in SCORES:
            assert entry["scores"][score]["gain_ci"][0] <= 0, (entry["amount"], score)
        assert entry["scores"]["two_way_trials"]["gain"] < 0.01, entry["amount"]
    assert metrics["conditions"]["draws"][2]["validation_r2"] > shuffled[0]["validation_r2"] + 0.05


@pytest.mark.parametrize("seed", [0, 1])
def test_draws_that_know_nothing_do_not_help(tmp_path, seed):
    world = known_world(tmp_path / "prepared", knows=False, seed=seed)
    run = RunContext(seed, progress=QUIET)
    metrics = written(augment(None, *world, MORE, tmp_path / "out", run))
    for name in CONDITIONS:
        for score, found in metrics["chosen"][name]["scores"].items():
            assert found["gain_ci"][0] <= 0, (name, score)
        for entry in metrics["conditions"][name]:
            assert abs(entry["scores"]["two_way_trials"]["gain"]) < 0.01, (name, entry["amount"])


# ------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("amounts", "message"),
    [
        ((1, -0.5), r"amounts: expected numbers of 0 or more .*found -0.5"),
        ((float("nan"),), "found nan"),
        ((0,), "expected one above 0 that makes two trials or more of 60, found 0"),
        ((1, 0.01), r"two trials or more of 60, found 0\.01"),
    ],
)
def test_impossible_amounts(tmp_path, amounts, message):
    world = known_world(tmp_path / "prepared", knows=True)
    with pytest.raises(InputError, match=message):
        augment(None, *world, AugmentSettings(amounts), tmp_path / "out", RUN)
    assert not (tmp_path / "out").exists()


def test_what_does_not_belong_together_is_refused(tmp_path, trained, brain, subject, store):
    other = trained.find_subject("2", None, QUIET.info)
    with pytest.raises(InputError, match=r"model of simulated/sub-01, not of simulated/sub-02"):
        augment(trained, brain, other, store, FEW, run=RUN)
    with pytest.raises(InputError, match=r"tokens of .*another.*pass its --encoder"):
        augment(trained, brain, subject, renamed(store), FEW, run=RUN)

    model, known, images = known_world(tmp_path / "prepared", knows=True)
    shown = [name for name in images.images if not name.startswith("new")]
    images.images, images.digests = shown, [""] * len(shown)
    with pytest.raises(InputError, match=r"neither of the test nor shown in the 60 real trials"):
        augment(trained, model, known, images, None, tmp_path / "out", RUN)
    for rows, message in (
        (slice(41), "trained on 40 training and 1 validation images"),
        (slice(35, 45), "trained on 5 training and 5 validation images"),
    ):
        of_hour(model, known.trials["trial"][rows].tolist())
        with pytest.raises(InputError, match=message):
            augment(trained, model, known, images, None, tmp_path / "out", RUN)
    few = known.trials["image"].isin(["test000", "test001"]) | (known.trials["split"] != "test")
    known.betas, known.trials = known.betas[few], known.trials[few].reset_index(drop=True)
    model, _, _ = known_world(tmp_path / "prepared", knows=True)
    with pytest.raises(InputError, match="4 test images or more, found 2"):
        augment(trained, model, known, images, None, tmp_path / "out", RUN)
    assert not (tmp_path / "out").exists()
