"""Memory that is given back, and tasks that do not fit."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import psutil
import pytest

from synbrain_cli import load_model, memory
from synbrain_cli.errors import InputError
from synbrain_cli.evaluation.needs import evaluation_bytes
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.pipeline.evaluate import evaluate
from synbrain_cli.pipeline.train import TrainSettings, train
from synbrain_cli.run import RunContext
from synbrain_cli.training.needs import training_bytes


def resident() -> int:
    return psutil.Process().memory_info().rss


@pytest.mark.skipif(not psutil.LINUX, reason="pages of files are given back on Linux")
def test_pages_of_a_file_that_were_read_are_given_back(tmp_path):
    np.save(tmp_path / "rows.npy", np.ones((64, 2**18), np.float32))  # 67 MB
    rows = np.load(tmp_path / "rows.npy", mmap_mode="r")
    before = resident()
    assert rows.sum() == rows.size
    read = resident()
    memory.release(rows)
    assert read - before > 50e6
    assert resident() - before < 20e6
    assert (rows[::7] == 1).all()  # and can be read again


def test_other_arrays_are_left_alone(tmp_path):
    array = np.arange(5)
    memory.release(array)
    memory.release(array[1:])
    np.testing.assert_array_equal(array, range(5))


def test_a_task_that_does_not_fit_is_refused(monkeypatch):
    free = SimpleNamespace(available=8e9)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: free)
    found = memory.require_memory(6.44e9, "training sub-01", "prepare fewer voxels")
    assert found == "needs about 6.4 GB of memory, 8.0 GB are free"
    with pytest.raises(
        InputError, match=r"training sub-01 needs about 8\.1 GB .* 8\.0 GB are free"
    ):
        memory.require_memory(8.1e9, "training sub-01", "prepare fewer voxels")


def test_the_memory_of_nsd_is_estimated():
    """Of 27,000 trials × 15,724 voxels alone 1.7 GB; with the published encoder 7 GB at most."""
    images = np.repeat([f"{i}" for i in range(10_000)], 3)
    split = np.where(np.arange(30_000) < 3_000, "test", "train")
    subject = SimpleNamespace(
        trials=pd.DataFrame({"image": images, "split": split}), n_voxels=15_724
    )
    brain = SimpleNamespace(config=SimpleNamespace(has_networks=False))
    default = ((256, 48), (196, 48), (196, 120), (49, 352), (256, 3))
    for shapes, most, tested in ((((256, 1664),), 7e9, 7e9), (default, 15e9, 10e9)):
        bands = [SimpleNamespace(token_shape=shape) for shape in shapes]
        store = SimpleNamespace(bands=bands)
        assert 4e9 < training_bytes(subject, store) < most
        assert 3e9 < evaluation_bytes(brain, subject, store, None) < tested
        assert evaluation_bytes(brain, subject, store, 5) > training_bytes(subject, store)


def test_train_and_evaluate_say_what_they_need_and_refuse_what_does_not_fit(
    subject, store, tmp_path, monkeypatch, capsys
):
    settings, run = TrainSettings(model="linear"), RunContext()
    train(Workspace(tmp_path), subject, store, settings, run)
    assert re.search(r"needs about 0\.\d GB of memory, [\d.]+ GB are free", capsys.readouterr().err)
    brain = load_model(tmp_path / "weights" / f"sub-{subject.subject}_linear", "cpu")
    free = SimpleNamespace(available=1e3)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: free)
    with pytest.raises(InputError, match=r"training again needs about .*, or prepare fewer voxels"):
        train(Workspace(tmp_path), subject, store, settings, run, name="again")
    with pytest.raises(InputError, match=r"evaluating .*_linear needs about"):
        evaluate(Workspace(tmp_path), brain, subject, store)
