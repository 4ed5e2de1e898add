"""A training step: the same loss and gradient however it is computed."""

from __future__ import annotations

import copy
import shutil
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from listening import Listening
from training_steps import (
    BATCH,
    DIMS,
    STEPS,
    TOKENS,
    VOXELS,
    gradient,
    mapper_step,
    normal,
    relative,
    seeded,
    vae_step,
)

from synbrain_cli.config import Speed, StageConfig
from synbrain_cli.errors import InputError
from synbrain_cli.model.fit import Stepper
from synbrain_cli.model.step import TrainingStep
from synbrain_cli.run import RunContext

STAGE = StageConfig(1, BATCH, 1e-3, 0.01)


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("size", [1, 3, 4])
def test_parts_of_a_batch_have_its_gradient(name, size):
    step, network, batch = STEPS[name]()
    loss, whole = gradient(step, network, batch)
    step.micro_batch = size
    in_parts, parts = gradient(step, network, batch)
    torch.testing.assert_close(in_parts, loss)
    assert relative(parts, whole) < 1e-4
    # It is no average of losses of parts: the contrastive loss compares trials.
    if name == "BrainVAE":
        with torch.no_grad():
            each = [step(*(x[i : i + 1] for x in batch)) for i in range(BATCH)]
        averages = float(torch.stack(each).mean())
        assert abs(averages - float(loss)) > 0.1


def test_parts_keep_the_activations_of_one_alone():
    step, _, batch = vae_step()
    saved = {}
    for size in (None, 2):
        step.micro_batch = size
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, kept=kept: kept.append(x.numel()) or x, lambda x: x
        ):
            step(*batch)
        saved[size] = sum(kept)
    assert saved[2] < saved[None] / 3


@pytest.mark.parametrize("name", STEPS)
def test_half_precision_is_near(name):
    step, network, batch = STEPS[name]()
    loss, exact = gradient(step, network, batch)
    step.precision = "bf16"
    rough, half = gradient(step, network, batch)
    assert rough.dtype == half.dtype == torch.float32
    # bf16 has 8 significant bits: 0.4 % an operation.
    assert abs(float(rough / loss) - 1) < 0.01
    assert 1e-4 < relative(half, exact) < 0.1


def test_decoding_some_images_costs_less_and_means_the_same():
    step, _, batch = mapper_step()
    whole = step(*batch)
    some, _, _ = mapper_step(every=4)
    losses = [some(*(x.roll(k, 0) for x in batch)) for k in range(4)]
    torch.testing.assert_close(torch.stack(losses).mean(), whole)
    assert torch.stack(losses).std() > 1e-4


def test_processes_decode_the_images_that_one_would():
    """Whichever part of the batch they have."""
    from synbrain_cli.distributed import Processes

    step, _, batch = mapper_step(every=3)
    whole, parts = [], []
    step._decode = lambda latent: whole.append(latent) or (torch.zeros(len(latent), VOXELS),)
    step(*batch)
    for rank in (0, 1):
        own, _, _ = mapper_step(every=3)
        own.processes = Processes(rank, 2)
        own._decode = lambda latent: parts.append(latent) or (torch.zeros(len(latent), VOXELS),)
        own(*(x[rank * 4 : rank * 4 + 4] for x in batch))
    torch.testing.assert_close(torch.cat(parts), whole[0])


def test_published_objective_decodes_nothing():
    step, _, (tokens, targets, averages, noise) = mapper_step(response=0.0)
    step.vae = None
    loss = step(tokens, targets, averages, noise)
    expected = (step.mapper(tokens) - targets).square().mean() / 0.8
    torch.testing.assert_close(loss, expected)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_is_the_same(backend, request, monkeypatch):
    """By graphs alone; to the end, through the C++ compiler, with ``--full-demo``."""
    if backend == "inductor" and not request.config.getoption("--full-demo"):
        pytest.skip("half a minute of g++: with --full-demo alone")
    if backend == "inductor" and shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler here")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    step, network, batch = mapper_step(response=0.0, depth=1)
    loss, plain = gradient(step, network, batch)
    step.compiled = True
    compiled, fast = gradient(step, network, batch)
    torch.testing.assert_close(compiled, loss, rtol=1e-4, atol=1e-5)
    assert relative(fast, plain) < 1e-3


def test_without_a_compiler_training_goes_on(monkeypatch):
    from torch._dynamo.exc import TorchDynamoException

    def fails(function, **options):
        def call(*arguments):
            raise TorchDynamoException("no C++ compiler\nand a long story")

        return call

    monkeypatch.setattr(torch, "compile", fails)
    step, network, batch = vae_step()
    expected = step(*batch)
    progress = Listening()
    run = RunContext(speed=Speed(compiled=True), progress=progress)
    stepper = Stepper(step, network, list(network.parameters()), STAGE, run)
    torch.testing.assert_close(stepper(batch, 1e-3), expected.detach())
    assert progress.messages == [
        "torch.compile failed (no C++ compiler): training continues without it"
    ]


class Narrow(TrainingStep):
    """Room for so many items, as on a small GPU."""

    def __init__(self, room):
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)
        self.room, self.sizes = room, []

    def _function(self, x):
        self.sizes.append(len(x))
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return (self.layer(x),)

    def forward(self, x):
        return self.in_parts(self._function, x)[0].square().mean()


def test_what_does_not_fit_is_computed_in_parts():
    step, roomy = Narrow(3), Narrow(100)
    roomy.load_state_dict(step.state_dict())
    x, progress = normal(10, 3, seed=0), Listening()
    for one in (step, roomy):
        run = RunContext(progress=progress)
        stepper = Stepper(one, one, list(one.parameters()), STAGE, run)
        stepper((x,), 0.1)
        stepper((x,), 0.1)
    torch.testing.assert_close(step.layer.weight, roomy.layer.weight)
    assert step.micro_batch == 3
    assert step.sizes.count(10) == step.sizes.count(5) == 1  # found out once
    assert progress.messages == [
        "out of memory: a batch of 10 is computed 5 at a time",
        "out of memory: a batch of 10 is computed 3 at a time",
    ]


def test_one_that_does_not_fit_is_an_error():
    step = Narrow(0)
    stepper = Stepper(step, step, list(step.parameters()), STAGE, RunContext())
    with pytest.raises(InputError, match=r"1 at a time.*2 GiB.*smaller --preset"):
        stepper((normal(4, 3, seed=0),), 0.1)


@pytest.mark.slow
def test_half_precision_learns_the_same():
    """Over 120 steps, bf16 is to float32 as one seed's noise to another's."""

    def losses(precision, seed):
        step, network, _ = vae_step()
        run = RunContext(speed=Speed(precision))
        stepper = Stepper(step, network, list(network.parameters()), STAGE, run)
        causes = normal(64, 4, seed=10)
        y = causes @ normal(4, VOXELS, seed=11) / 2
        tokens = (causes @ normal(4, TOKENS * DIMS, seed=12)).view(64, TOKENS, DIMS)
        generator, found = seeded(seed), []
        for _ in range(120):
            items = torch.randperm(64, generator=generator)[:BATCH]
            noise = torch.randn(BATCH, TOKENS, DIMS, generator=generator)
            found.append(float(stepper((y[items], tokens[items], noise), 3e-3)))
        return torch.tensor(found)

    exact, half, other = losses("float32", 0), losses("bf16", 0), losses("float32", 1)
    assert exact[-50:].mean() < 0.6 * exact[:5].mean()
    smooth = torch.ones(1, 1, 25) / 25

    def distance(a, b):
        """Of the losses, averaged over 25 steps."""
        difference = torch.nn.functional.conv1d((a - b)[None, None], smooth)
        return float(difference.square().mean().sqrt())

    assert distance(half, exact) < distance(other, exact)


def test_averaged_weights_follow_the_step():
    step, network, batch = vae_step()
    before = copy.deepcopy(network.state_dict())
    stage = StageConfig(1, BATCH, 1e-3, 0.0, ema_decay=0.9)
    stepper = Stepper(step, network, list(network.parameters()), stage, RunContext())
    stepper(batch, 1e-2)
    name = "decoder.last.weight"
    moved = network.state_dict()[name] - before[name]
    averaged = stepper.average.state_dict()[name] - before[name]
    torch.testing.assert_close(averaged, 0.9 * moved, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("size", [None, 3])
def test_no_step_waits_for_its_device(name, size, monkeypatch):
    """On a device without values, asking for one would fail; so would mixing in another device."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # "meta" has none
    monkeypatch.setattr(torch.optim, "AdamW", lambda p, rate, *_, **__: torch.optim.SGD(p, rate))
    step, network, batch = STEPS[name]()
    step.to("meta")
    for constant in ("target_variance", "latent_sd"):
        if hasattr(step, constant):
            setattr(step, constant, getattr(step, constant).to("meta"))
    stage = StageConfig(1, BATCH, 1e-3, 0.0, clip_norm=1.0, ema_decay=0.9)
    run = RunContext(speed=Speed(micro_batch=size))
    stepper = Stepper(step, network, list(network.parameters()), stage, run)
    loss = stepper([x.to("meta") for x in batch], 1e-3)
    assert loss.is_meta
    assert all(p.grad.is_meta for p in network.parameters())
    with pytest.raises(RuntimeError, match="meta"):  # the check would notice
        loss.item()


@pytest.mark.parametrize("make", [vae_step, mapper_step])
def test_nothing_breaks_the_graph(make):
    """What torch.compile is given is one graph: no step goes back to Python, or to the host."""
    step, _, batch = make()
    if make is vae_step:
        functions = [(step._reconstruct, (batch[0], batch[2]))]
    else:
        functions = [(step._map, batch[:1]), (step._decode, batch[:1])]
    for function, inputs in functions:
        captured = torch.compile(function, fullgraph=True, backend="eager")
        torch.testing.assert_close(captured(*inputs), function(*inputs))
