"""What a command means when it is told little."""

from __future__ import annotations

import pytest

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
