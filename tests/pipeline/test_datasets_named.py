"""Where models are of several datasets, plots and curves take the one that is asked for."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from PIL import Image
from sealing import reseal_bundle

from synbrain_cli.io.files import read_json, write_json
from synbrain_cli.io.workspace import Workspace


@pytest.fixture(scope="module")
def both(linear_bundles, prepared, tmp_path_factory):
    """A workspace with the same model as of two datasets, the newer one of dataset ``other``."""
    root = tmp_path_factory.mktemp("both")
    (root / "prepared").symlink_to(prepared.prepared)
    workspace = Workspace(root)
    for written, name in enumerate(("one", "other")):
        shutil.copytree(linear_bundles["1"], workspace.weights / name)
        if name == "other":
            reseal_bundle(workspace.weights / name, dataset=name)
        os.utime(workspace.weights / name / "config.json", (written, written))
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(root / "a.png")
    return workspace


@pytest.fixture
def typed(both, synbrain):
    def run(*words):
        code, output, error = synbrain(*words, "-w", both.root)
        assert code == 0, error
        return output, error

    return run


def test_responses_and_reports_are_of_the_dataset(both, typed, synbrain):
    for dataset in ("simulated", "other"):  # those of the latter are the latest
        output, _ = typed("synthesize", both.root / "a.png", "--dataset", dataset, "--no-maps")
        name = "one" if dataset == "simulated" else "other"
        assert f"{name}_a/sub-01/func/sub-01_desc-draws_betas.npy" in output
    for dataset, name in (("simulated", "one"), ("other", "other")):
        output, _ = typed("plot", "flatmap", "--dataset", dataset)
        assert f"outputs/{name}_a/figures/" in output
    assert "outputs/other_a/figures/" in typed("plot", "flatmap")[0]
    output, _ = typed("plot", "report", "--dataset", "simulated", "-q")
    assert output.strip().endswith("one_report.html")
    code, _, error = synbrain("plot", "surface", "--dataset", "gone", "-w", both.root)
    assert code == 1
    assert "no model of dataset gone" in error
    folder = both.outputs / "one_a"
    code, _, error = synbrain(
        "plot", "rois", "--responses", folder, "--dataset", "other", "-w", both.root
    )
    assert code == 1
    assert "leave out --model, --subject and --dataset" in error
    # Of responses whose sidecar is damaged the dataset is not known.
    sidecar = folder / "sub-01/func/sub-01_desc-draws_betas.json"
    write_json(sidecar, {**read_json(sidecar), "Dataset": 1})
    code, _, error = synbrain("plot", "flatmap", "--dataset", "simulated", "-w", both.root)
    assert code == 1
    assert "no synthesized responses of one" in error
    assert "passed over" in error


def test_recordings_are_of_the_dataset(typed, both, synbrain):
    for command in ("draws", "rois"):
        output, _ = typed("plot", command, "--dataset", "simulated", "--samples", "2")
        assert "outputs/one_figures/" in output
    code, _, error = synbrain("plot", "accuracy", "--dataset", "simulated", "-w", both.root)
    assert code == 1
    assert "one" in error
    assert "evaluate" in error


def test_curves_are_of_the_dataset(both, synbrain):
    """A dataset whose subjects are prepared is taken although the newest model is another's."""
    arguments = ["learning-curve", "--subject", "2", "--hours", "1,2", "-w", both.root]
    code, output, error = synbrain(*arguments, "--dataset", "simulated")
    assert code == 0, error
    assert "slope per tenfold" in output
    code, _, error = synbrain(*arguments)
    assert code == 1
    assert "no prepared sub-02 of other" in error
