"""What a command means when it is told little."""

from __future__ import annotations

import os
import shutil

import pytest
from sealing import reseal_bundle

from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.files import read_json, write_json
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.labels import subject_label


@pytest.mark.parametrize(
    ("given", "label"),
    [("2", "02"), ("02", "02"), ("sub-02", "02"), ("subj02", "02"), (2, "02"), ("SUB-2", "02"),
     ("sub-CSI1", "CSI1"), ("12", "12")],
)  # fmt: skip
def test_labels(given, label):
    assert subject_label(given) == label


@pytest.mark.parametrize("given", ["", "sub-", "two!", "1 2", "../1"])
def test_what_is_no_label(given):
    with pytest.raises(InputError, match="expected a label"):
        subject_label(given)


def test_choices_are_said(prepared):
    said = []
    subject = prepared.find_subject(None, None, said.append)
    assert subject.subject == "01"
    assert "simulated/sub-01, simulated/sub-02" in said[0]
    said.clear()
    prepared.find_subject("2", None, said.append)
    assert not said


def test_dataset_that_is_not_there(prepared):
    with pytest.raises(MissingError, match="prepared: simulated/sub-01"):
        prepared.find_subject("1", "nsd", print)


def test_json_that_is_none(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(InputError, match="expected JSON"):
        read_json(tmp_path / "a.json")
    with pytest.raises(MissingError):
        read_json(tmp_path / "b.json")
    write_json(tmp_path / "c.json", {"é": [1]})
    assert read_json(tmp_path / "c.json") == {"é": [1]}


def test_empty_workspace(tmp_path):
    with pytest.raises(MissingError, match="synbrain demo"):
        Workspace(tmp_path).find_model(None, None, print)


@pytest.fixture
def models(linear_bundles, prepared, tmp_path):
    """Two models of subject 1 and one of subject 2, written in that order."""
    (tmp_path / "prepared").symlink_to(prepared.prepared)
    workspace = Workspace(tmp_path)
    for written, (name, label) in enumerate((("a", "1"), ("b", "1"), ("0", "2"))):
        shutil.copytree(linear_bundles[label], workspace.weights / name)
        os.utime(workspace.weights / name / "config.json", (written, written))
    return workspace


def test_the_newest_model_is_chosen_and_the_others_are_said(models):
    said = []
    assert models.find_model(None, None, said.append).name == "0"
    assert models.find_model(None, "1", said.append).name == "b"
    assert said == [
        "model: 0 (the newest of 0, a, b; --model)",
        "model: b (the newest of a, b; --model)",
    ]
    os.utime(models.weights / "a/config.json", (9, 9))
    assert models.find_model(None, None, said.append).name == "a"
    assert models.find_model("b", "1", said.append).name == "b"
    assert [path.name for path in models.find_models(None, None, print)] == ["a", "b"]


def test_models_are_chosen_by_dataset(models):
    reseal_bundle(models.weights / "a", dataset="other")
    assert models.find_model(None, "1", print, "other").name == "a"
    assert models.find_model(None, None, print, "simulated").name == "0"
    assert [path.name for path in models.find_models(None, None, print, "other")] == ["a"]
    with pytest.raises(MissingError, match=r"no model of sub-02 of other; models: 0 \(simulated"):
        models.find_model(None, "2", print, "other")
    with pytest.raises(MissingError, match="no model of dataset gone"):
        models.find_model(None, None, print, "gone")


def test_models_to_start_from_are_of_the_dataset(models):
    def names(**options):
        return [path.name for path, _ in models.full_models(None, print, **options)]

    assert names() == ["0", "a"]
    reseal_bundle(models.weights / "a", dataset="other")
    os.utime(models.weights / "a/config.json", (1, 1))
    assert names() == ["0", "b"]  # the newest, 0, is of the simulated dataset
    assert names(dataset="other") == ["a"]
    os.utime(models.weights / "a/config.json", (9, 9))
    assert names() == ["a"]
    assert names(dataset="simulated", but=("simulated", "02")) == ["b"]
    assert names(dataset="new") == ["0", "a", "b"]  # of which there is no model yet


def test_a_model_named_beside_another_subject_is_refused(models):
    with pytest.raises(InputError, match="--model a is of simulated/sub-01, not of sub-02: leave"):
        models.find_model("a", "2", print)
    with pytest.raises(InputError, match="not of dataset nsd"):
        models.find_model("a", None, print, "nsd")


def test_advice_fits_what_is_prepared(models):
    shutil.rmtree(models.weights / "0")
    with pytest.raises(MissingError, match=r"`synbrain train --subject 02`, or from an hour"):
        models.find_model(None, "2", print)
    with pytest.raises(MissingError, match="train --subject 02 --dataset simulated`"):
        models.find_model(None, "2", print, "simulated")
    listed = "prepared: simulated/sub-01, simulated/sub-02. Name one of these"
    with pytest.raises(MissingError, match=f"no model of sub-09; .* Nor is it prepared; {listed}"):
        models.find_model(None, "9", print)
    with pytest.raises(MissingError, match=f"no prepared sub-09; {listed}"):
        models.find_subject("9", None, print)
