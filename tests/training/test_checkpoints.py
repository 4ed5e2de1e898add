"""Checkpoints of a training: often, but never most of the time."""

from __future__ import annotations

import time
from functools import partial

import pytest
import torch
from listening import Listening

from synbrain_cli.checkpoints import seal_archive
from synbrain_cli.config import StageConfig
from synbrain_cli.io.seal import is_kept, keep
from synbrain_cli.model.fit import Stage
from synbrain_cli.progress import Progress
from synbrain_cli.run import RunContext
from synbrain_cli.training import resumable_fit as module

STAGE = StageConfig(12, 4, 0.01, 0.0, patience=12)


def loss(network, items, generator):
    return network(items[:, None].float()).square().mean()


@pytest.mark.parametrize(("seconds", "fewest", "most"), [(0.0, 12, 12), (0.2, 2, 4)])
def test_slow_ones_are_rare(tmp_path, monkeypatch, seconds, fewest, most):
    saved = []
    save = torch.save

    def slow(state, path):
        time.sleep(seconds)
        saved.append(state["epoch"])
        save(state, path)

    monkeypatch.setattr(torch, "save", slow)
    monkeypatch.setattr(module, "QUICK", 0.15)
    network = torch.nn.Linear(1, 1)
    path = tmp_path / "network.pt"

    def score(network):
        time.sleep(0.02)
        return 0.0

    parameters = list(network.parameters())
    stage = Stage("it", network, parameters, partial(loss, network), score, 8, STAGE)
    run = RunContext(progress=Progress(quiet=True))
    module.fit_resumably(stage, run, path)
    assert fewest <= len(saved) <= most
    assert saved[-1] == 12  # the last is always there
    before = path.read_bytes()
    module.fit_resumably(stage, run, path)
    assert path.read_bytes() == before  # nothing was left to do


def small_stage():
    torch.manual_seed(0)
    network = torch.nn.Linear(1, 1)
    parameters = list(network.parameters())
    short = StageConfig(3, 4, 0.01, 0.0, patience=3)
    return Stage("it", network, parameters, partial(loss, network), lambda n: 0.0, 8, short)


def cut(path):
    path.write_bytes(path.read_bytes()[:100])


def flip(path):
    content = bytearray(path.read_bytes())
    place = content.index(b"network.0" if b"network.0" in content else b"data.pkl") + 200
    content[place] ^= 64
    path.write_bytes(content)


def another(path):
    state = torch.load(path, weights_only=True)
    state["network"] = {"weight": torch.zeros(2, 2)}
    torch.save(state, path)
    seal_archive(path)


def strange(path):
    torch.save({**torch.load(path, weights_only=True), "history": 3}, path)
    seal_archive(path)


def exchanged(path):
    """Two records of one size have each other's names: every checksum is right."""
    content = path.read_bytes()
    for old, new in ((b"/data/0", b"/data/?"), (b"/data/1", b"/data/0"), (b"/data/?", b"/data/1")):
        content = content.replace(old, new)
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip, another, strange, exchanged])
def test_a_damaged_one_makes_the_stage_begin_again(tmp_path, damage):
    """The weights are then those of a training that was never interrupted, and it is said."""
    path, progress = tmp_path / "network.pt", Listening()
    run = RunContext(progress=progress)
    whole = small_stage()
    record = module.fit_resumably(whole, run, path)
    damage(path)
    again = small_stage()
    assert module.fit_resumably(again, run, path) == record
    for name, value in whole.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], value)
    assert any("training from the beginning" in line for line in progress.messages)


def test_arrays_of_an_interrupted_run_are_those_that_were_kept(tmp_path):
    path, said = tmp_path / "targets.npy", []
    path.write_bytes(b"0" * 1000)
    assert not is_kept(path, said.append)  # a run that was killed as it was written
    keep(path)
    assert is_kept(path, said.append)
    assert not said
    path.write_bytes(b"0" * 999 + b"1")
    assert not is_kept(path, said.append)
    assert "computed again" in said[0]
