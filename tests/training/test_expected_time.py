"""How long training takes is said before it begins, and nothing else changes by that."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from synbrain_cli.config import StageConfig
from synbrain_cli.io.bundle import read_config
from synbrain_cli.model.step import TrainingStep
from synbrain_cli.pipeline.train import TrainSettings, train
from synbrain_cli.progress import Progress
from synbrain_cli.run import RunContext
from synbrain_cli.training import expected_time
from synbrain_cli.training import networks as module
from synbrain_cli.training.expected_time import PlannedStage


class Timed(TrainingStep):
    """A step that takes so many seconds, and so many an item."""

    def __init__(self, clock, fixed, each):
        super().__init__()
        self.clock, self.fixed, self.each, self.tried = clock, fixed, each, []
        self.weight = nn.Parameter(torch.ones(3))
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, x):
        self.tried.append(len(x))
        self.clock.now += self.fixed + self.each * len(x)
        return (self.weight * x).square().mean()


@pytest.fixture
def clock(monkeypatch):
    found = SimpleNamespace(now=0.0)
    monkeypatch.setattr(expected_time.time, "perf_counter", lambda: found.now)
    return found


def planned(step, batch=8, n_items=800, n_val=30):
    schedule = StageConfig(epochs=10, batch_size=batch, learning_rate=1e-3, weight_decay=0.0)
    parameters = list(step.parameters())
    return PlannedStage(step, parameters, lambda n: (torch.ones(n, 3),), schedule, n_items, n_val)


def test_batches_are_tried_up_to_the_schedules(clock):
    step = Timed(clock, 0.1, 0.01)
    # 10 epochs of 100 batches of 0.18 s, and 30 validation items at a third of an item's time.
    expected = (800 + 10) * 10 * 0.18 / 8
    assert planned(step).seconds(short=0) == pytest.approx(expected)
    assert step.tried == [1, 2, 4, 8]
    assert step.weight.grad is None


def test_trials_end_when_they_take_long_or_the_training_does_not(clock):
    slow, short = Timed(clock, 0.0, 2.0), Timed(clock, 0.0, 1e-4)
    assert planned(slow).seconds(short=0) == pytest.approx(8100 * 2)
    assert slow.tried == [1, 2]  # six seconds
    assert planned(short).seconds(short=10) == pytest.approx(0.81)
    assert short.tried == [1]
    few = Timed(clock, 0.0, 1.0)
    planned(few, n_items=1).seconds(short=0)
    assert few.tried == [1]


def test_what_does_not_fit_into_memory_is_estimated_by_less(clock, monkeypatch):
    step = Timed(clock, 0.1, 0.1)
    fits = step.forward

    def forward(x):
        if len(x) > 2:
            raise torch.OutOfMemoryError
        return fits(x)

    monkeypatch.setattr(step, "forward", forward)
    assert planned(step).seconds(short=0) == pytest.approx(8100 * 0.15)


def test_long_training_is_announced_and_its_weights_are_the_same(
    trained, own, subject, store, monkeypatch, capsys
):
    """Those of a quiet training, which tries nothing."""
    found, estimated = module.expected_seconds, []

    def estimate(*arguments):
        estimated.append(found(*arguments))
        return 7300.0

    monkeypatch.setattr(module, "expected_seconds", estimate)
    settings = TrainSettings(preset="test")
    result = train(own, subject, store, settings, RunContext(progress=Progress()))
    said = [line for line in capsys.readouterr().err.splitlines() if "takes about" in line]
    assert said[0].startswith("sub-01: training the networks: takes about 2 h 2 min; shorter: ")
    assert "--model linear" in said[0]
    assert 0 < estimated[0] < 600
    expected = read_config(trained.weights / "sub-01").fingerprint
    assert read_config(result.folder).fingerprint == expected
