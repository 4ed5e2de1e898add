"""The test set: what is refused, and what is noted."""

from __future__ import annotations

import copy
import shutil
from types import SimpleNamespace

import msgspec
import numpy as np
import pandas as pd
import pytest

from synbrain_cli import load_model
from synbrain_cli.errors import InputError
from synbrain_cli.evaluation.leakage import check_untrained
from synbrain_cli.evaluation.test_set import TestSet
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.metrics.accuracy import average_repeats

# Their seals have tests of their own: tests/io/test_seals.py.
pytestmark = pytest.mark.usefixtures("unsealed")


@pytest.fixture(scope="module")
def brain(trained):
    return load_model(trained.weights / "sub-01", "cpu")


def with_config(brain, **changes):
    """The same model with another record of its training."""
    other = copy.copy(brain)
    training = msgspec.structs.replace(brain.config.training, **changes)
    other.config = msgspec.structs.replace(brain.config, training=training)
    return other


def test_what_a_test_set_holds(subject, store, brain):
    test = TestSet.load(subject, store, [brain])
    chosen = subject.select("test")
    np.testing.assert_array_equal(test.trials, brain.standardize(chosen.betas))
    averages, _, n_repeats = average_repeats(test.trials, chosen.image_index)
    np.testing.assert_array_equal(test.averages, averages)
    np.testing.assert_array_equal(test.n_repeats, n_repeats)
    (tokens,), (expected,) = test.tokens.bands, store.take(chosen.images).bands
    np.testing.assert_array_equal(tokens, expected)
    assert (test.n_images, test.n_voxels) == test.averages.shape
    assert (test.repeats.min, test.repeats.max) == (3, 3)
    assert not test.notes
    np.testing.assert_array_equal(TestSet.load(subject, store).trials, chosen.betas)


def shown(splits, pixels):
    """A subject with one trial per image, and the store of its images' tokens."""
    names = list(splits)
    trials = pd.DataFrame({"image": names, "split": list(splits.values())})
    store = SimpleNamespace(images=names, digests=[pixels.get(name, "") for name in names])
    return SimpleNamespace(folder="sub-01", trials=trials), store


def test_a_test_image_among_training_images_is_refused():
    splits = {"a": "train", "b": "val", "c": "test", "d": "test"}
    check_untrained(*shown(splits, {}))
    check_untrained(*shown(splits, {"a": "1", "b": "2", "c": "3"}))
    # Two test images may be the same picture; and pixels that are not known are no pixels.
    check_untrained(*shown(splits, {"c": "3", "d": "3"}))
    for pixels, twin in (({"c": "3", "a": "3"}, "a"), ({"c": "3", "b": "3"}, "b")):
        with pytest.raises(InputError, match=rf"test image c \(the same picture as {twin}\)"):
            check_untrained(*shown(splits, pixels))
    subject, store = shown(splits, {})
    subject.trials.loc[len(subject.trials)] = ["d", "train"]
    with pytest.raises(InputError, match="test image d is among the images"):
        check_untrained(subject, store)


def test_a_test_image_seen_in_training_is_refused_when_it_is_loaded(
    subject, store, brain, tmp_path
):
    folder = tmp_path / "simulated" / "sub-01"
    shutil.copytree(subject.folder, folder)
    table = pd.read_csv(folder / "trials.tsv", sep="\t")
    test = table.index[table["split"] == "test"]
    name = table.loc[test[0], "image"]
    table.loc[test[0], "split"] = "train"
    table.to_csv(folder / "trials.tsv", sep="\t", index=False)
    with pytest.raises(InputError, match=f"the test image {name} is among the images"):
        TestSet.load(PreparedSubject(folder), store, [brain])


def test_other_voxels_or_standardization_are_refused(subject, store, brain):
    moved = copy.copy(brain)
    moved.voxels = brain.voxels.assign(i=brain.voxels["i"] + 1)
    with pytest.raises(InputError, match="voxels have other positions"):
        TestSet.load(subject, store, [brain, moved])
    other = copy.copy(brain)
    other.config = msgspec.structs.replace(brain.config, standardization="none")
    with pytest.raises(InputError, match=r"standardization none, but .* has session"):
        TestSet.load(subject, store, [other])


def test_another_preparation_is_noted(subject, store, brain):
    (note,) = TestSet.load(subject, store, [brain, with_config(brain, data="0" * 64)]).notes
    assert "trained on another preparation" in note
    assert not TestSet.load(subject, store, [with_config(brain, data=None)]).notes


def test_test_images_of_which_a_source_saw_responses_are_noted(subject, store, brain, tmp_path):
    from synbrain_cli.io.bundle import Adaptation

    for label in ("sub-01", "sub-02"):
        folder = tmp_path / "simulated" / label
        shutil.copytree(subject.folder.parent / label, folder)
    adaptation = Adaptation(1.0, [], [], ["simulated/sub-02", "nsd/sub-02"], "source-map", {})
    adapted = with_config(brain, adaptation=adaptation)
    here = PreparedSubject(tmp_path / "simulated" / "sub-01")
    assert not TestSet.load(here, store, [adapted]).notes
    table = pd.read_csv(folder / "trials.tsv", sep="\t")
    names = table.loc[table["split"] == "test", "image"].unique()[:3]
    table.loc[table["image"].isin(names), "split"] = "train"
    table.to_csv(folder / "trials.tsv", sep="\t", index=False)
    (note,) = TestSet.load(here, store, [adapted]).notes
    assert "simulated/sub-02, which were trained on responses of that subject to 3" in note
