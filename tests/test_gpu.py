"""Every path on a GPU gives what it gives on the CPU, to a stated tolerance.

Skipped where there is no GPU. ``pytest -m gpu --gpu-stand-in cpu`` rehearses them without one.
"""

from __future__ import annotations

import shutil
from functools import partial

import numpy as np
import pytest
import torch
from conftest import QUIET
from listening import Listening
from training_steps import BATCH, STEPS, gradient, normal, relative, seeded, vae_step

from synbrain_cli import load_model
from synbrain_cli.config import Speed, StageConfig
from synbrain_cli.features.loading import load_encoder
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.model.fit import Stage, Stepper, fit
from synbrain_cli.model.step import TrainingStep
from synbrain_cli.pipeline.adapt import AdaptSettings, adapt
from synbrain_cli.run import RunContext
from synbrain_cli.training import shared_core

pytestmark = pytest.mark.gpu

STAGE = StageConfig(4, BATCH, 1e-3, 0.01)
GIGABYTE = 1 << 30
# Float32 sums of other orders; bf16 has 8 significant bits, 0.4 % an operation.
TOLERANCE = {"float32": 2e-3, "bf16": 0.1}


@pytest.fixture(scope="module")
def device(request) -> torch.device:
    stand_in = request.config.getoption("--gpu-stand-in")
    if stand_in is None and not torch.cuda.is_available():
        pytest.skip("no GPU here that torch can use (torch.cuda.is_available())")
    return torch.device(stand_in or "cuda")


def to(device, batch):
    return tuple(x.to(device) for x in batch)


# ------------------------------------------------------------------------------ training


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("name", STEPS)
def test_two_training_steps(name, precision, compiled, device, monkeypatch):
    if device.type == "cpu":  # of a rehearsal: half a minute of g++ otherwise
        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    tolerance = TOLERANCE[precision]
    step, network, batch = STEPS[name]()
    expected, exact = gradient(step, network, batch)
    own, theirs, _ = STEPS[name]()
    own.to(device)
    own.precision, own.compiled = precision, compiled
    loss, found = gradient(own, theirs, to(device, batch))
    assert float((loss.cpu() - expected).abs() / expected.abs()) < tolerance / 2
    assert relative(found.cpu(), exact) < tolerance

    losses = {}
    for where, (one, trained) in {"cpu": (step, network), "there": (own, theirs)}.items():
        speed = Speed(precision, compiled) if where == "there" else Speed()
        here = device if where == "there" else torch.device("cpu")
        run = RunContext(device=here, speed=speed, progress=QUIET)
        stepper = Stepper(one, trained, list(trained.parameters()), STAGE, run)
        losses[where] = [float(stepper(to(here, batch), 1e-3)) for _ in range(2)]
    assert losses["cpu"][1] < losses["cpu"][0]
    np.testing.assert_allclose(losses["there"], losses["cpu"], rtol=tolerance / 2)


def test_a_training_goes_on_from_its_checkpoint(device, tmp_path):
    data = to(device, vae_step()[2])

    def train(epochs, state=None):
        step, network, _ = vae_step()
        step.to(device)

        def feed(order, generator):
            for items in order:
                yield tuple(x[items.to(device)] for x in data)

        schedule = StageConfig(epochs, 4, 1e-3, 0.01, ema_decay=0.9)
        stage = Stage(
            "networks",
            network,
            list(network.parameters()),
            step,
            lambda average: -float(step(*data).detach()),
            BATCH,
            schedule,
            feed=feed,
        )
        kept = []

        def keep(state):
            torch.save(state, tmp_path / f"{state['epoch']}.pt")
            kept.append(state["epoch"])

        fit(stage, RunContext(device=device, progress=QUIET), state=state, on_epoch=keep)
        return torch.cat([p.detach().flatten().cpu() for p in network.parameters()]), kept

    whole, epochs = train(4)
    assert epochs == [1, 2, 3, 4]
    state = torch.load(tmp_path / "2.pt", map_location="cpu", weights_only=True)
    resumed, epochs = train(4, state)
    assert epochs == [3, 4]
    # Some sums on a GPU have no fixed order.
    assert relative(resumed, whole) < 1e-4
    start = torch.cat([p.detach().flatten() for p in vae_step()[1].parameters()])
    assert relative(start, whole) > 1e-3


class Hungry(TrainingStep):
    """A step that takes memory for every item."""

    def __init__(self, bytes_each):
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)
        self.bytes_each = bytes_each

    def _function(self, x):
        taken = torch.empty(len(x) * self.bytes_each, dtype=torch.uint8, device=x.device)
        return (self.layer(x) + 0 * taken[0],)

    def forward(self, x):
        return self.in_parts(self._function, x)[0].square().mean()


def test_a_batch_that_does_not_fit_is_computed_in_parts(device):
    if device.type != "cuda":
        pytest.skip("only a GPU's memory ends so")
    free, whole = torch.cuda.mem_get_info(device)
    room = min(free, 4 * GIGABYTE)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(room / whole, device)
    try:
        x, progress = normal(8, 3, seed=0), Listening()
        step, roomy = Hungry(room // 5), Hungry(1)
        roomy.load_state_dict(step.state_dict())
        for one in (step, roomy):
            one.to(device)
            run = RunContext(device=device, progress=progress)
            stepper = Stepper(one, one, list(one.parameters()), STAGE, run)
            stepper((x.to(device),), 0.1)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
        torch.cuda.empty_cache()
    torch.testing.assert_close(step.layer.weight, roomy.layer.weight)
    assert step.micro_batch in (2, 4)
    assert roomy.micro_batch is None
    assert progress.messages[0] == "out of memory: a batch of 8 is computed 4 at a time"


# ------------------------------------------------------------------------ tokens and draws


def pictures(n):
    small = torch.rand(n, 3, 8, 8, generator=seeded(0))
    large = torch.nn.functional.interpolate(small, size=(96, 80), mode="bicubic").clamp(0, 1)
    return (large * 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()


def test_gabor_tokens(device):
    images = list(pictures(5))
    (_, expected), (_, found) = (
        next(load_encoder("gabor", where).stream([(None, images)])) for where in ("cpu", device)
    )
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert np.std(expected) > 0.3


@pytest.mark.parametrize("sampling", ["calibrated", "latent", "mean"])
def test_draws(sampling, device, trained):
    """The same draws, to a hundredth of a trial's standard deviation."""
    images = list(pictures(4))
    drawn = {}
    for where in ("cpu", str(device)):
        brain = load_model(trained.weights / "sub-01", where)
        drawn[where] = brain.draw(images, 3, seed=1, sampling=sampling, unit="z")
    np.testing.assert_allclose(drawn[str(device)], drawn["cpu"], atol=1e-2)
    assert drawn["cpu"].std() > 0.02


@pytest.mark.usefixtures("unsealed")
@pytest.mark.parametrize("strategy", ["shared-core", "source-map"])
def test_adapt(strategy, device, prepared, linear_bundles, tmp_path, monkeypatch):
    """Two models that predict the same, whatever device trained them."""
    short = StageConfig(2, 32, 4e-3, 0.0, warmup_steps=5, clip_norm=0.0)
    monkeypatch.setattr(shared_core, "CORE_STAGE", short)
    store = prepared.find_tokens("simulated", None, QUIET.info)
    person = prepared.find_subject("2", None, QUIET.info)
    predicted = []
    for i, where in enumerate((torch.device("cpu"), device)):
        workspace = Workspace(tmp_path / str(i))
        workspace.root.mkdir()
        workspace.prepared.symlink_to(prepared.prepared)
        workspace.weights.mkdir()
        shutil.copytree(linear_bundles["1"], workspace.weights / "sub-01_linear")
        settings = AdaptSettings([workspace.weights / "sub-01_linear"], 1, strategy=strategy)
        run = RunContext(device=where, progress=QUIET)
        folder = adapt(workspace, person, store, settings, run).folder
        tokens = store.take(store.images[:20])
        predicted.append(load_model(folder, "cpu").mean(tokens, unit="z"))
    np.testing.assert_allclose(*predicted, atol=1e-2)
    assert predicted[0].std(0).mean() > 0.02
