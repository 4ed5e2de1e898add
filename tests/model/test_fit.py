"""Training: what is kept, when it stops, and that a pause changes nothing."""

from __future__ import annotations

import copy
import itertools
from functools import partial

import pytest
import torch
from msgspec.structs import replace
from torch import nn

from synbrain_cli.config import StageConfig
from synbrain_cli.model.fit import Stage, epoch_generator, fit, learning_rate, update_ema
from synbrain_cli.run import RunContext

CONFIG = StageConfig(6, 8, 0.05, 0.0, warmup_steps=3, patience=6, ema_decay=0.8)


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 4, generator=generator)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5], [0.0]])

    def loss(network, items, noise):
        jitter = 0.1 * torch.randn(x[items].shape, generator=noise)
        return (network(x[items] + jitter) - y[items]).square().mean()

    def score(network):
        with torch.no_grad():
            return -float((network(x) - y).square().mean())

    return loss, score


def network():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Linear(4, 1)


def train(model, parameters, problem, config, seed, **options):
    loss, score = problem
    stage = Stage("linear", model, parameters, partial(loss, model), score, 50, config)
    return fit(stage, RunContext(seed), **options)


def run(problem, config=CONFIG, **options):
    model = network()
    state = train(model, list(model.parameters()), problem, config, 3, **options)
    return model, state


def test_it_learns_and_keeps_the_best(problem):
    model, state = run(problem)
    scores = [epoch["validation_score"] for epoch in state["history"]]
    assert state["best_score"] == max(scores) == scores[state["best_epoch"] - 1]
    assert problem[1](model) == pytest.approx(max(scores))
    assert max(scores) > scores[0]


@pytest.mark.parametrize("pause", [1, 3, 5])
@pytest.mark.parametrize("decay", [0.0, 0.8])
def test_resumed_is_bit_identical(problem, pause, decay, tmp_path):
    config = replace(CONFIG, ema_decay=decay)
    expected, _ = run(problem, config)

    class Killed(Exception):
        pass

    def save(state):
        torch.save(state, tmp_path / "state.pt")
        if state["epoch"] == pause:
            raise Killed

    with pytest.raises(Killed):
        run(problem, config, on_epoch=save)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    found, _ = run(problem, config, state=state)
    for name, value in expected.state_dict().items():
        assert torch.equal(value, found.state_dict()[name])


def test_it_stops_when_nothing_gets_better(problem):
    loss, _ = problem
    scores = iter([0.5, 0.9, 0.8, 0.7, 0.6, 0.5])
    config = replace(CONFIG, patience=2)
    _, state = run((loss, lambda network: next(scores)), config)
    assert (state["epoch"], state["best_epoch"]) == (4, 2)


def test_only_the_parameters_named_change(problem):
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1))
    before = copy.deepcopy(model.state_dict())
    train(model, list(model[1].parameters()), problem, CONFIG, 0)
    after = model.state_dict()
    assert torch.equal(before["0.weight"], after["0.weight"])
    assert not torch.equal(before["1.weight"], after["1.weight"])


def test_no_global_randomness(problem):
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    run(problem)
    assert torch.equal(before, torch.random.get_rng_state())


def test_learning_rate_warms_up_and_falls_to_a_tenth():
    rates = [learning_rate(CONFIG, step, 100) for step in range(100)]
    assert rates[:3] == pytest.approx([0.05 / 3, 0.1 / 3, 0.05])
    assert all(a >= b for a, b in itertools.pairwise(rates[3:]))
    assert rates[-1] == pytest.approx(0.005, rel=0.02)


def test_ema():
    average, model = network(), network()
    with torch.no_grad():
        model.weight += 1
    start = average.weight.clone()
    update_ema(average, model, 0.9)
    torch.testing.assert_close(average.weight, start + 0.1)


def test_generators_of_epochs_differ():
    draws = {float(torch.rand(1, generator=epoch_generator(s, e))) for s in (0, 1) for e in (0, 1)}
    assert len(draws) == 4


def test_convolutions_are_chosen_by_measurement_while_it_trains(problem):
    loss, score = problem
    seen = set()

    def watching(*arguments):
        seen.add((torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark))
        return loss(*arguments)

    before = torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark
    run((watching, score))
    assert seen == {(True, True)}
    assert (torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark) == before
