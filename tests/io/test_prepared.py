"""The first hours of scanning: which trials they are, and that nothing later counts."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest

from synbrain_cli.config import Band
from synbrain_cli.errors import InputError
from synbrain_cli.io.prepared import Origin, PreparedSubject
from synbrain_cli.io.prepared_writer import PreparedWriter
from synbrain_cli.io.records import write_sealed
from synbrain_cli.io.token_store import BandStore, TokenStore, row_checksum
from synbrain_cli.training.examples import load_examples

# Their seals have tests of their own: tests/io/test_seals.py.
pytestmark = pytest.mark.usefixtures("unsealed")

N_VOXELS = 12
PARTS = ("betas", "image_index", "averages")
STANDARDIZATIONS = ("session", "train", "none")
# Sessions as recorded, some of another length, with days that were left out.
SESSIONS = np.repeat([2, 3, 7], [40, 30, 41])


@pytest.fixture(scope="module")
def recorded():
    """Betas as recorded, whose mean and deviation drift from session to session."""
    rng = np.random.default_rng(0)
    drift = {s: (rng.normal(0, 2, N_VOXELS), rng.uniform(0.5, 4, N_VOXELS)) for s in (2, 3, 7)}
    betas = [rng.normal(*drift[s]) for s in SESSIONS]
    return np.array(betas, np.float32)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features") / "gabor"
    folder.mkdir()
    images = [f"image-{k:02d}" for k in range(60)]
    tokens = np.random.default_rng(1).normal(2, 3, (60, 4, 5)).astype(np.float32)
    checksums = [row_checksum(*row) for row in zip(images, [""] * 60, tokens, strict=True)]
    pd.DataFrame({"image": images, "pixels": "", "checksum": checksums}).to_csv(
        folder / "images.tsv", sep="\t", index=False
    )
    np.save(folder / "tokens.npy", tokens)
    shape = {"n_tokens": 4, "n_dims": 5, "image_size": 8}
    write_sealed(folder / "encoder.json", Band("gabor", shape))
    return TokenStore((BandStore(folder),))


@pytest.fixture(scope="module", params=STANDARDIZATIONS)
def subject(request, recorded, tmp_path_factory):
    """One person, three sessions: one image in six is of the test, one in six of validation."""
    rng = np.random.default_rng(2)
    shown = rng.permutation(np.r_[np.tile(np.arange(50), 2), np.arange(11)])
    trials = pd.DataFrame(
        {
            "trial": np.arange(len(shown)) + 1000,
            "session": SESSIONS,
            "image": [f"image-{k:02d}" for k in shown],
            "repeat": 1,
            "split": np.array(["train", "train", "test", "train", "val", "train"])[shown % 6],
        }
    )
    folder = tmp_path_factory.mktemp(request.param) / "prepared/own/sub-01"
    origin = Origin(
        name="one",
        simulated=True,
        space="x",
        unit_before_standardization="au",
        options={},
        sources={},
        noise_ceiling_snr={},
    )
    with PreparedWriter(folder, {}, trials, N_VOXELS, request.param) as writer:
        for session in (2, 3, 7):
            writer.write_session(session, recorded[session == SESSIONS])
        writer.finish(pd.DataFrame({"ncsnr": np.ones(N_VOXELS)}), None, {}, origin)
    return PreparedSubject(folder)


# ------------------------------------------------------------------------ which trials


@pytest.mark.parametrize(
    ("hours", "n_trials"),
    [(1, 40), (0.5, 20), (0.25, 10), (1.0, 40), (1.5, 55), (2, 70), (2.1, 74), (3, 111)],
)
def test_an_hour_is_a_session_and_half_an_hour_its_first_half(subject, hours, n_trials):
    within = subject.first_hours(hours)
    assert within.dtype == bool
    np.testing.assert_array_equal(np.flatnonzero(within), np.arange(n_trials))


def test_more_hours_hold_those_of_fewer(subject):
    before = np.zeros(len(SESSIONS), bool)
    for hours in np.linspace(0.01, 3, 60):
        within = subject.first_hours(hours)
        assert (within >= before).all()
        before = within
    assert before.all()


@pytest.mark.parametrize("hours", [0, -1, 3.001, 4, 99, float("nan"), float("inf")])
def test_hours_that_were_not_recorded(subject, hours):
    with pytest.raises(
        InputError, match=r"--hours .*: expected more than 0 and at most 3, .* of sub-01"
    ):
        subject.first_hours(hours)


def test_sessions_go_by_their_number_not_by_their_place_in_the_table(subject, tmp_path):
    """Half a session is the half recorded first, wherever in the file the session stands."""
    folder = shutil.copytree(subject.folder, tmp_path / "sub-01")
    table = pd.read_csv(folder / "trials.tsv", sep="\t")
    order = np.r_[70:111, 0:40, 40:70]  # session 7, then 2, then 3
    table.iloc[order].to_csv(folder / "trials.tsv", sep="\t", index=False)
    moved = PreparedSubject(folder)
    assert moved.sessions == [2, 3, 7]
    for hours in (0.5, 1, 1.5, 2.5):
        np.testing.assert_array_equal(
            np.flatnonzero(moved.first_hours(hours)),
            np.flatnonzero(subject.first_hours(hours)[order]),
        )


def test_the_simulated_subjects_first_hour(prepared):
    subject = prepared.find_subject("2", None, print)
    within = subject.first_hours(1)
    np.testing.assert_array_equal(within, subject.trials["session"] == 1)
    half = subject.trials[subject.first_hours(0.5)]
    np.testing.assert_array_equal(half["trial"], subject.trials["trial"][: round(within.sum() / 2)])


# ------------------------------------------------------------------------ their betas


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("hours", [None, 1, 1.5])
def test_trials_of_a_split_within_the_hours(subject, split, hours):
    within = None if hours is None else subject.first_hours(hours)
    found = subject.select(split, within)
    table = subject.trials
    rows = np.flatnonzero((table["split"] == split) & (within if hours else True))
    np.testing.assert_array_equal(found.betas, subject.betas[rows])
    np.testing.assert_array_equal(found.images[found.image_index], table["image"][rows])
    np.testing.assert_array_equal(found.session, table["session"][rows])
    assert found.images.tolist() == sorted(set(table["image"][rows]))


def test_hours_without_a_trial_of_a_split(subject):
    within = np.zeros(len(SESSIONS), bool)
    within[:3] = (subject.trials["split"] == "train")[:3]
    with pytest.raises(InputError, match=r"no trial of the val split among the \d+ trials.*more h"):
        subject.select("val", within)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_recorded_betas_come_back(subject, split, recorded):
    """Each by the mean and deviation of its own session."""
    found = subject.recorded(subject.select(split))
    rows = (subject.trials["split"] == split).to_numpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, recorded[rows], rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------------- as examples


@pytest.mark.parametrize("hours", [0.5, 1, 1.5, 3])
def test_examples_have_the_scale_of_the_hours_training_trials(subject, store, recorded, hours):
    within = subject.first_hours(hours)
    examples = load_examples(subject, store, within)
    scale, train, val = examples.scale, examples.train, examples.val
    np.testing.assert_allclose(train.betas.mean(0, dtype=float), 0, atol=1e-5)
    np.testing.assert_allclose(train.betas.std(0, dtype=float), 1, atol=1e-5)
    splits = subject.trials["split"].to_numpy()
    kept = recorded[within & (splits == "train")].astype(float)
    np.testing.assert_allclose(scale.mean, kept.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(scale.sd, kept.std(0), rtol=1e-4)
    # Validation trials are measured by the same scale.
    expected = (recorded[within & (splits == "val")] - kept.mean(0)) / kept.std(0)
    np.testing.assert_allclose(val.betas, expected, atol=1e-4)


def test_examples_of_the_hours_do_not_depend_on_how_betas_were_prepared(subject, store, recorded):
    """All three preparations come to the same, but for rounding."""
    within = subject.first_hours(1.5)
    examples = load_examples(subject, store, within)
    train, val = examples.train, examples.val
    splits = subject.trials["split"].to_numpy()
    kept = recorded[within & (splits == "train")].astype(float)
    for found, split in ((train, "train"), (val, "val")):
        rows = within & (splits == split)
        expected = (recorded[rows] - kept.mean(0)) / kept.std(0)
        np.testing.assert_allclose(found.betas, expected, atol=1e-4)
        images = subject.trials["image"].to_numpy()[rows]
        averages = [expected[images == name].mean(0) for name in sorted(set(images))]
        np.testing.assert_allclose(found.averages, averages, atol=1e-4)


def test_tokens_are_scaled_by_the_hours_training_images_or_as_told(subject, store):
    within = subject.first_hours(0.5)
    examples = load_examples(subject, store, within)
    scaler, train = examples.scaler, examples.train
    np.testing.assert_allclose(train.tokens[:].bands[0].mean(0), 0, atol=1e-5)
    third = load_examples(subject, store, subject.first_hours(3), scaler)
    assert third.scaler is scaler
    assert np.abs(third.train.tokens[:].bands[0].mean(0)).max() > 0.05


def test_a_voxel_constant_in_the_hours_is_left_at_zero(subject, store, tmp_path):
    """Half an hour may leave constant what all sessions do not."""
    folder = shutil.copytree(subject.folder, tmp_path / "sub-01")
    betas = np.load(folder / "betas.npy")
    within = subject.first_hours(0.5)
    betas[within, 4] = 3
    np.save(folder / "betas.npy", betas)
    examples = load_examples(PreparedSubject(folder), store, within)
    scale, train, val = examples.scale, examples.train, examples.val
    assert scale.sd[4] == 1
    assert (train.betas[:, 4] == 0).all()
    assert (val.betas[:, 4] == 0).all()


@pytest.mark.parametrize("hours", [0.5, 1, 1.5])
def test_nothing_outside_the_hours_nor_of_the_test_counts(subject, store, tmp_path, hours):
    within = subject.first_hours(hours)
    folder = shutil.copytree(subject.folder, tmp_path / "sub-01")
    used = within & (subject.trials["split"] != "test").to_numpy()
    betas = np.load(folder / "betas.npy")
    betas[~used] = np.nan
    np.save(folder / "betas.npy", betas)
    if subject.description.standardization == "session":
        file = dict(np.load(folder / "standardization.npz"))
        later = ~np.isin(file["sessions"], SESSIONS[within])
        assert later.any()
        file["mean"][later] = np.nan
        file["sd"][later] = np.nan
        np.savez(folder / "standardization.npz", **file)
    table = pd.read_csv(folder / "trials.tsv", sep="\t")
    table.loc[~within, "image"] = "image-59"
    table.to_csv(folder / "trials.tsv", sep="\t", index=False)
    expected = load_examples(subject, store, within)
    found = load_examples(PreparedSubject(folder), store, within)
    for name, array in arrays_of(expected).items():
        np.testing.assert_array_equal(arrays_of(found)[name], array, err_msg=name)


def arrays_of(examples):
    """All that examples are made of, by name."""
    arrays = {**vars(examples.scale), **examples.scaler.arrays()}
    for split in ("train", "val", "both"):
        part = getattr(examples, split)
        arrays |= {f"{split}.{name}": getattr(part, name) for name in PARTS}
        arrays[f"{split}.tokens"] = part.tokens[:].bands[0]
    return arrays


# ------------------------------------------------------------------------------ records


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Simulated": None}, "expected the field `Simulated`, found none"),
        ({"Simulated": "yes"}, r"expected `bool`, found `str` at `\$.Simulated`"),
        ({"VoxelsLeftOut": 1.5}, r"expected `int`, found `float` at `\$.VoxelsLeftOut`"),
        ({"Standardisation": "train"}, "found `Standardisation`"),
    ],
)
def test_a_description_of_another_form_is_refused(subject, tmp_path, change, message):
    """A field set to None is left out."""
    content = json.loads((subject.folder / "dataset_description.json").read_text()) | change
    content = {key: value for key, value in content.items() if value is not None}
    (tmp_path / "dataset_description.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"dataset_description\.json: .*{message}"):
        _ = PreparedSubject(tmp_path).description


def test_tokens_of_an_unknown_encoder_are_refused(tmp_path):
    (tmp_path / "encoder.json").write_text('{"spec": "gabor"}')
    with pytest.raises(InputError, match=r"encoder\.json: expected the field `identity`"):
        _ = BandStore(tmp_path).band


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e30])
def test_responses_that_cannot_be_are_refused(subject, tmp_path, value):
    """Sealed again by whoever changed them: a model of them would be one of nothing."""
    copy = PreparedSubject(shutil.copytree(subject.folder, tmp_path / "sub-01"))
    betas = np.load(copy.folder / "betas.npy", mmap_mode="r+")
    row = np.flatnonzero(copy.trials["split"] == "train")[1]
    betas[row, 2] = value
    betas.flush()
    is_kept = copy.description.standardization == "none" and np.isfinite(value)
    with nullcontext() if is_kept else pytest.raises(InputError, match=r"betas\.npy: expected"):
        copy.select("train")
