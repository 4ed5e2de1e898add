"""Checkpoints of a training: often, but never most of the time."""

from __future__ import annotations

import time
from functools import partial

import pytest
import torch

from synbrain_cli.config import StageConfig
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
