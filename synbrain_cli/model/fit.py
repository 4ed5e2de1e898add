"""Training one network: epochs, averaged weights, early stopping, resumable state.

No files and no printing: the caller saves the state it is handed after every epoch.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from synbrain_cli.config import Speed, StageConfig
from synbrain_cli.distributed import SINGLE_PROCESS, Processes
from synbrain_cli.errors import InputError

State = dict[str, Any]
Log = Callable[[str], None]
Parameters = list[nn.Parameter] | list[dict[str, Any]]


def learning_rate(config: StageConfig, step: int, n_steps: int) -> float:
    """Linear warm-up, then a cosine from the full rate to a tenth of it."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, n_steps - config.warmup_steps)
    return config.learning_rate * (0.55 + 0.45 * math.cos(math.pi * min(1.0, progress)))


def epoch_generator(seed: int, epoch: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Generator of one epoch: nothing random is carried from epoch to epoch, so a resumed run
    draws what an uninterrupted one would."""
    state = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state >> np.uint64(1)))


def default_speed(device: torch.device) -> Speed:
    """bf16, compiled, on a GPU that knows bf16; float32, as it is, elsewhere.

    Most CPUs emulate bf16, and a laptop's training is shorter than its compilation.
    """
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return Speed("bf16", compiled=True)
    return Speed()


class Stepper:
    """Optimiser steps of one network: gradient, clipping, AdamW, averaged weights.

    Parameters
    ----------
    step : callable
        ``step(*batch) -> loss``, a scalar Tensor. A `synbrain_cli.model.step.TrainingStep`, whose
        precision, compilation and parts are then set by ``speed``, or any function.
    network : Module
        Whose weights are averaged. Changed in place.
    parameters : list of Parameter, or of dict
        Those to train; dicts are AdamW's groups, with a weight decay of their own.
    config : StageConfig
    speed : Speed
    processes : Processes
        Processes with parts of the batch: each then has the gradient of the whole.
    log : callable
        Told what had to be changed to go on.

    Attributes
    ----------
    average : Module
        With the averaged weights; the network itself where there are none.
    """

    def __init__(
        self,
        step: Callable[..., Tensor],
        network: nn.Module,
        parameters: Parameters,
        config: StageConfig,
        speed: Speed | None = None,
        processes: Processes = SINGLE_PROCESS,
        log: Log = lambda message: None,
    ) -> None:
        grouped = isinstance(parameters[0], dict)
        self.trained = [p for g in parameters for p in g["params"]] if grouped else parameters
        chosen = {id(p) for p in self.trained}
        for parameter in network.parameters():
            parameter.requires_grad_(id(parameter) in chosen)
        self.network, self.config, self.processes, self.log = network, config, processes, log
        self.optimizer = torch.optim.AdamW(
            parameters,
            config.learning_rate,
            config.betas,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.average = copy.deepcopy(network) if config.ema_decay else network
        self.n_done = 0
        self.step = step
        if isinstance(step, nn.Module):
            speed = speed or Speed()
            step.precision, step.compiled = speed.precision, speed.compiled
            step.micro_batch = speed.micro_batch
        self.run = processes.wrap(step) if isinstance(step, nn.Module) else step

    def __call__(self, batch: Iterable[Any], rate: float) -> Tensor:
        """Take one step at a learning rate; returns the loss, detached: nothing waits for it."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self._differentiate(tuple(batch))
        if self.config.clip_norm:
            nn.utils.clip_grad_norm_(self.trained, self.config.clip_norm)
        self.optimizer.step()
        if self.config.ema_decay:
            # Warm-up of the decay, so that short runs do not average in their first weights.
            decay = min(self.config.ema_decay, (1 + self.n_done) / (10 + self.n_done))
            update_ema(self.average, self.network, decay)
        self.n_done += 1
        return loss

    def _differentiate(self, batch: tuple[Any, ...]) -> Tensor:
        """Loss and gradient; in smaller parts, or uncompiled, where it does not work otherwise."""
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            try:
                loss = self.run(*batch)
                loss.backward()
                return loss.detach()
            except torch.OutOfMemoryError as error:
                failure = error
            except _uncompilable() as error:
                if not getattr(self.step, "compiled", False):
                    raise
                self.step.compiled = False
                self.log(f"torch.compile: {_first_line(error)}: going on without")
                continue
            # Outside the handler: the traceback holds on to what filled the memory.
            self._halve(len(batch[0]), failure)
            del failure
            torch.cuda.empty_cache()

    def _halve(self, n: int, failure: Exception) -> None:
        now = min(getattr(self.step, "micro_batch", None) or n, n)
        if self.processes.size > 1 or now == 1 or not isinstance(self.step, nn.Module):
            raise InputError(
                f"a batch of {n} does not fit into the device's memory, {now} at a time "
                f"({_first_line(failure)}): pass --micro-batch with a smaller number, free the "
                "device, or choose a smaller --preset"
            ) from failure
        self.step.micro_batch = (now + 1) // 2
        self.log(f"out of memory: a batch of {n} is computed {self.step.micro_batch} at a time")

    def state(self) -> State:
        """What `resume` needs."""
        state = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}
        if self.config.ema_decay:
            state["average"] = self.average.state_dict()
        return state

    def resume(self, state: State, n_done: int) -> None:
        """Go on from a state after so many steps."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.config.ema_decay:
            self.average.load_state_dict(state["average"])
        self.n_done = n_done


def update_ema(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move averaged weights a step towards the network's: a ← decay · a + (1 − decay) · w."""
    with torch.no_grad():
        torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)


def fit(
    network: nn.Module,
    parameters: Parameters,
    step: Callable[..., Tensor],
    score: Callable[[nn.Module], float],
    n_items: int,
    config: StageConfig,
    seed: int,
    *,
    feed: Callable[[Tensor, torch.Generator], Iterable[tuple]] | None = None,
    speed: Speed | None = None,
    processes: Processes = SINGLE_PROCESS,
    state: State | None = None,
    on_epoch: Callable[[State], None] = lambda state: None,
    on_step: Callable[[int, int], None] = lambda step, n_steps: None,
    log: Log = lambda message: None,
) -> State:
    """Train with AdamW and keep the weights with the best validation score.

    Parameters
    ----------
    network : Module
        Changed in place; left with the best weights (the averaged ones where there are any).
    parameters : list of Parameter, or of dict
        Those to train; dicts are AdamW's groups, with a weight decay of their own.
    step : callable
        ``step(*batch) -> scalar``: loss of a batch as ``feed`` makes them.
    score : callable
        ``network -> float``: dimensionless validation score, larger is better; the same on every
        process of a processes.
    n_items : int
        Training items (trials or images). Each epoch visits them in a new order, in equal
        batches; what is left over waits for another epoch.
    config : StageConfig
    seed : int
    feed : callable, optional
        ``(order, generator) -> batches`` (`synbrain_cli.model.feed.Feed`): for an epoch's items,
        int64 (n_steps, batch_size), and a generator on the network's device, one tuple a step.
        Default: ``(items, generator)``.
    speed : Speed, optional
        How steps are computed. Default: float32, as they are written.
    processes : Processes
    state : dict, optional
        As handed to ``on_epoch``: training goes on from there, bit for bit on CPU.
    on_epoch, on_step, log : callable
        Told the state after each epoch, the step and total after each step, and what had to be
        changed to go on.

    Returns
    -------
    dict
        ``epoch``, ``best_epoch``, ``best_score``, ``history`` (one dict an epoch), and the
        tensors needed to resume.

    Raises
    ------
    InputError
        When the device's memory is too small for a single item, or the batch cannot be shared.
    """
    stepper = Stepper(step, network, parameters, config, speed, processes, log)
    feed = feed or (lambda order, generator: ((items, generator) for items in order))
    device = stepper.trained[0].device
    batch = min(config.batch_size, n_items)
    per_epoch = n_items // batch
    n_steps = per_epoch * config.epochs
    if state is None:
        state = {"epoch": 0, "best_epoch": 0, "best_score": -math.inf, "history": []}
    else:
        stepper.resume(state, state["epoch"] * per_epoch)

    with _fastest_convolutions():
        while state["epoch"] < config.epochs and (
            state["epoch"] - state["best_epoch"] < config.patience
        ):
            epoch = state["epoch"]
            generator = epoch_generator(seed, epoch)
            noise = epoch_generator(seed + 1, epoch, device)
            order = torch.randperm(n_items, generator=generator)[: per_epoch * batch]
            network.train()
            total = torch.zeros((), device=device)
            for k, items in enumerate(feed(order.view(per_epoch, batch), noise)):
                done = epoch * per_epoch + k
                total += stepper(items, learning_rate(config, done, n_steps))
                on_step(done + 1, n_steps)
            average = stepper.average.eval()
            value = float(score(average))
            loss = float(processes.total(total)) / processes.size / per_epoch
            state["epoch"] = epoch + 1
            state["history"].append({"epoch": epoch + 1, "loss": loss, "validation_score": value})
            if value > state["best_score"]:
                state["best_score"], state["best_epoch"] = value, epoch + 1
                state["best"] = copy.deepcopy(average.state_dict())
            state |= stepper.state()
            on_epoch(state)
    network.load_state_dict(state["best"])
    network.eval()
    return state


@contextmanager
def _fastest_convolutions() -> Iterator[None]:
    """Let cudnn measure which of its convolutions is fastest at each shape it meets."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _uncompilable() -> type[Exception]:
    """What torch.compile raises where it cannot: no compiler, or an operation it does not know."""
    from torch._dynamo.exc import TorchDynamoException  # takes a second to import

    return TorchDynamoException


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
