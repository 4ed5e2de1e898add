"""Names of models, datasets, subjects and ROIs: what is taken, and what is refused in one line."""

from __future__ import annotations

import dataclasses
import unicodedata

import msgspec
import pytest

from synbrain_cli.errors import InputError
from synbrain_cli.io.bids import bids_label, bids_labels
from synbrain_cli.io.bundle import Adaptation, BundleConfig, TransferConfig, read_config
from synbrain_cli.io.prepared import find_prepared
from synbrain_cli.io.records import convert_record
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.labels import (
    column_name,
    dataset_name,
    derived_name,
    model_name,
    require_subject_of_dataset,
    roi_label,
    subject_label,
)
from synbrain_cli.pipeline.adapt import AdaptSettings, adapt
from synbrain_cli.pipeline.preparing import Target
from synbrain_cli.pipeline.train import TrainSettings, train
from synbrain_cli.run import RunContext
from synbrain_cli.text import one_line

NOT_NAMES = [
    *(".", "..", "", " ", "../prepared", "a/b", "/tmp/absolute", "a\\b", ".hidden", "-flag", "a."),
    *("a\nb", "a\x1b[31mred", "a\x00b", "a\tb", "a\u202eb", "a\u200bb", "a\udcffb", "a,b", "a:b"),
    *(" a", "a ", "a\u3000b", "x" * 81, "\U0001f9e0" * 60),
]


@pytest.mark.parametrize("check", [model_name, dataset_name])
@pytest.mark.parametrize("name", NOT_NAMES, ids=ascii)
def test_what_is_no_name(check, name):
    with pytest.raises(InputError, match="expected the name of a") as caught:
        check(name)
    assert one_line(str(caught.value)) == str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "name",
    ["sub-01", "sub-03_hours-1", "Ünï", "日本語", "v1.0", "a b", "x" * 80, "a+b", "_x"],
)
def test_names_stay_as_they_are(name):
    assert model_name(name) == dataset_name(name) == unicodedata.normalize("NFC", name)


def test_one_name_is_one_folder_however_its_letters_are_stored():
    assert model_name(unicodedata.normalize("NFD", "Ünï")) == unicodedata.normalize("NFC", "Ünï")


@pytest.mark.parametrize("name", ["cores", "Cores", "README.md"])
def test_names_with_a_meaning_in_weights(name):
    with pytest.raises(InputError, match="a meaning of its own"):
        model_name(name)


@pytest.mark.parametrize("name", ["", "a\tb", "a\nb", "a\x1b[2J", "x" * 81])
def test_what_is_no_column(name):
    for check in (column_name, roi_label):
        with pytest.raises(InputError, match="expected the name of a"):
            check(name)


def test_rois_may_be_called_what_atlases_call_them():
    for name in ("FFA-1", "V1v/V1d", "early (V1, V2)", 'say "V4"'):
        assert roi_label(name) == column_name(name) == name
    with pytest.raises(InputError):
        roi_label("all")  # the row of all voxels, in tables of scores


@pytest.mark.parametrize(
    ("given", "label"),
    [
        *((text, "01") for text in ("1", "01", " 1", "sub-01", "subj01", "subj-01", "subject01")),
        *((text, "01") for text in ("Subject_1", "participant1", "SUB-1", "sub1")),
        *((text, "001") for text in ("001", "sub-001", "subj001")),
        *(("S1", "S1"), ("CSI1", "CSI1"), ("sub-CSI1", "CSI1"), ("subA", "subA"), ("0", "00")),
        *(("participantX", "participantX"), ("100", "100"), (7, "07")),
    ],
)
def test_labels_of_subjects(given, label):
    assert subject_label(given) == label
    assert subject_label(label) == label, "a label is written as itself"


@pytest.mark.parametrize(
    "given", ["1.0", "", "sub-", "../1", "a_b", "1 2", "sub-sub-01", "é", "a\nb", "x" * 41, "-1"]
)
def test_what_is_no_label_of_a_subject(given):
    with pytest.raises(InputError, match="expected a label"):
        subject_label(given)


@pytest.mark.parametrize("label", ["nsd", "nsd/01", "../sub-01", "nsd/sub-1", "a/b/sub-01"])
def test_what_is_no_subject_of_a_dataset(label):
    with pytest.raises(InputError):
        require_subject_of_dataset(label)


def test_derived_names_differ_where_what_they_are_made_of_does():
    assert derived_name("stim_v1.0") == "stim_v1.0"
    texts = ["a\nb", "a\tb", "x" * 300, "x" * 301, "é" * 200, "\udcff", "a/b"]
    names = [derived_name(text) for text in texts]
    assert len(set(names)) == len(texts)
    assert all(len(name.encode()) <= 100 and name.isprintable() for name in names)


def test_labels_of_images_fit_into_file_names_and_differ():
    assert bids_label("coffee") == "coffee"
    names = [f"{'x' * 250}{i}" for i in range(3)] + ["日本", "日本語", "a b", "ab"]
    labels = bids_labels(names)
    assert len(set(labels)) == len(names)
    assert max(map(len, labels)) <= 80
    same = bids_label("日本")
    with pytest.raises(InputError, match="rename one"):
        bids_labels(["日本", same])


# -------------------------------------------------------------- where names enter the program


def test_train_and_adapt_refuse_a_name_before_they_work(trained, subject, store):
    before = sorted(path.name for path in trained.root.rglob("*"))
    for name in ("..", "../prepared", "/tmp/x"):
        with pytest.raises(InputError, match="expected the name of a model"):
            train(trained, subject, store, TrainSettings("linear"), RunContext(), name=name,
                  overwrite=True)  # fmt: skip
    bundle = trained.find_model("sub-01", None, str)
    other = trained.find_subject("2", None, str)
    with pytest.raises(InputError, match="expected the name of a model"):
        adapt(trained, other, store, AdaptSettings([bundle]), RunContext(), name="..",
              overwrite=True)  # fmt: skip
    assert sorted(path.name for path in trained.root.rglob("*")) == before


def test_a_dataset_is_named_inside_prepared(tmp_path):
    with pytest.raises(InputError, match="expected the name of a dataset"):
        Target(Workspace(tmp_path), "../weights", ("gabor",))
    with pytest.raises(InputError, match="expected the name of a dataset"):
        Workspace(tmp_path).find_tokens("../weights", None, str)


@pytest.mark.parametrize(("field", "value"), [("subject", "../01"), ("dataset", "\x1b[31mred")])
def test_names_in_a_models_config_are_checked(trained, field, value):
    config = read_config(trained.find_model("sub-01", None, str))
    content = msgspec.to_builtins(config) | {field: value}
    with pytest.raises(InputError, match=r"config\.json: .*expected .* train it again"):
        convert_record(content, BundleConfig, "config.json", "train it again")


def test_sources_of_an_adapted_model_lie_in_it():
    for name in ("../../sub-02", "/etc", "."):
        with pytest.raises(InputError):
            convert_record(
                {"kind": "source-map", "sources": [name]}, TransferConfig, "config.json", "x"
            )
    with pytest.raises(InputError):
        Adaptation(1.0, [], ["sub-01"], ["nsd/../sub-01"], "source-map", {})


def test_models_are_found_by_name_or_by_path(trained, monkeypatch):
    assert trained.find_model("sub-01", None, str) == trained.weights / "sub-01"
    monkeypatch.chdir(trained.weights / "sub-01")
    assert trained.find_model(".", None, str).name == "sub-01"
    assert trained.find_model("../sub-01", None, str).name in ("sub-01",)


def test_copies_of_prepared_subjects_are_passed_over(tmp_path):
    for name in ("sub-01", "sub-01 (copy)", "sub-1"):
        folder = tmp_path / "d" / name
        folder.mkdir(parents=True)
        (folder / "dataset_description.json").write_text("{}")
    assert [subject.subject for subject in find_prepared(tmp_path)] == ["01"]


def test_a_subject_without_a_model_is_told_which_have_one(trained):
    with pytest.raises(FileNotFoundError, match=r"sub-01 \(simulated/sub-01\)"):
        trained.find_model(None, "9", str)
    with pytest.raises(FileNotFoundError, match="simulated/sub-01"):
        trained.find_subject("9", None, str)


def test_targets_are_frozen(tmp_path):
    target = Target(Workspace(tmp_path), unicodedata.normalize("NFD", "Ünï"), ("gabor",))
    assert target.folder == tmp_path / "prepared" / "Ünï"
    with pytest.raises(dataclasses.FrozenInstanceError):
        target.dataset = "other"
