"""Training one network: epochs, averaged weights, early stopping, resumable state.

Nothing is written here: the caller saves the state that it receives after every epoch.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor, nn

from synbrain_cli.config import StageConfig
from synbrain_cli.errors import InputError
from synbrain_cli.model.step import TrainingStep
from synbrain_cli.run import RunContext

Batch = tuple[Any, ...]


class ParameterGroup(TypedDict):
    """Parameters that AdamW trains with a weight decay of their own."""

    params: list[nn.Parameter]
    weight_decay: float


class EpochRecord(TypedDict):
    """One epoch's entry in the history: its number from 1, mean loss and validation score."""

    epoch: int
    loss: float
    validation_score: float


class State(TypedDict):
    """What is needed to resume a training; plain dictionaries and tensors, for `torch.save`.

    ``best`` holds the weights with the best validation score, ``average`` the averaged ones where
    there are any.
    """

    epoch: int
    best_epoch: int
    best_score: float
    history: list[EpochRecord]
    network: NotRequired[dict[str, Any]]
    optimizer: NotRequired[dict[str, Any]]
    average: NotRequired[dict[str, Any]]
    best: NotRequired[dict[str, Any]]


def items_and_generator(order: Tensor, generator: torch.Generator) -> Iterator[Batch]:
    """Yield the indices of each step's items (batch_size,) and the epoch's generator."""
    return ((items, generator) for items in order)


@dataclass(frozen=True)
class Stage:
    """The training of one network: what is trained, on what, and how it is scored.

    Attributes
    ----------
    title : str
        Name of the stage, for progress and records.
    network : Module
        Network whose weights are averaged, scored and kept. `fit` changes it in place.
    parameters : list of Parameter, or of ParameterGroup
        Parameters to train; groups have a weight decay of their own.
    step : callable
        ``step(*batch) -> loss``, a scalar Tensor, for batches as ``feed`` makes them. A
        `synbrain_cli.model.step.TrainingStep`, whose precision, compilation and parts are then set
        by the run's speed, or any function.
    score : callable
        ``network -> float``: dimensionless validation score, larger is better; the same on every
        process.
    n_items : int
        Training items (trials or images). Each epoch visits them in a new order, in equal batches;
        the remainder of an incomplete batch is left out of that epoch.
    schedule : StageConfig
        Epochs, batch size, learning rate and the other settings of the optimiser.
    seed_offset : int
        Added to the run's seed, so that the stages of one run differ in their random numbers.
    feed : callable
        ``(order, generator) -> batches`` (`synbrain_cli.model.feed.Feed`): for an epoch's items,
        int64 (n_steps, batch_size), and a generator on the run's device, one tuple per step.
        Default: indices of the items and the generator.
    shorter : str
        What takes less time, where the stage may take long: options, for progress.
    """

    title: str
    network: nn.Module
    parameters: list[nn.Parameter] | list[ParameterGroup]
    step: Callable[..., Tensor]
    score: Callable[[Any], float]
    n_items: int
    schedule: StageConfig
    seed_offset: int = 0
    feed: Callable[[Tensor, torch.Generator], Iterable[Batch]] = items_and_generator
    shorter: str = ""


def learning_rate(schedule: StageConfig, step: int, n_steps: int) -> float:
    """Return a step's learning rate: linear warm-up, then a cosine to a tenth of the full rate.

    Parameters
    ----------
    schedule : StageConfig
    step : int
        From 0.
    n_steps : int
        Of all epochs together.
    """
    if step < schedule.warmup_steps:
        return schedule.learning_rate * (step + 1) / schedule.warmup_steps
    progress = (step - schedule.warmup_steps) / max(1, n_steps - schedule.warmup_steps)
    return schedule.learning_rate * (0.55 + 0.45 * math.cos(math.pi * min(1.0, progress)))


def epoch_generator(seed: int, epoch: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return the random generator of one epoch.

    No random state is carried from epoch to epoch, so that a resumed run draws what an
    uninterrupted one would.
    """
    state = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state >> np.uint64(1)))


def parameter_groups(
    parameters: list[nn.Parameter] | list[ParameterGroup], weight_decay: float
) -> list[ParameterGroup]:
    """Return AdamW's groups: those given, or one of all parameters with the weight decay."""
    groups = [group for group in parameters if isinstance(group, dict)]
    alone = [parameter for parameter in parameters if isinstance(parameter, nn.Parameter)]
    return groups or [{"params": alone, "weight_decay": weight_decay}]


class Stepper:
    """Optimiser steps of one network: gradient, clipping, AdamW, averaged weights.

    Parameters
    ----------
    step, network, parameters, schedule
        As in `Stage`. The network is changed in place.
    run : RunContext
        Its speed sets how a `TrainingStep` is computed. Its processes hold parts of the batch: each
        then has the gradient of the whole. Its progress shows changes that were necessary to
        continue, such as smaller parts of a batch.

    Attributes
    ----------
    average : Module
        Network with the averaged weights; ``network`` itself where the schedule averages none.
    """

    def __init__(
        self,
        step: Callable[..., Tensor],
        network: nn.Module,
        parameters: list[nn.Parameter] | list[ParameterGroup],
        schedule: StageConfig,
        run: RunContext,
    ) -> None:
        groups = parameter_groups(parameters, schedule.weight_decay)
        self.trained = [parameter for group in groups for parameter in group["params"]]
        chosen = {id(p) for p in self.trained}
        for parameter in network.parameters():
            parameter.requires_grad_(id(parameter) in chosen)
        self.network, self.schedule, self.run = network, schedule, run
        self.optimizer = torch.optim.AdamW(
            [{**group} for group in groups],
            schedule.learning_rate,
            schedule.betas,
            weight_decay=schedule.weight_decay,
            fused=True,
        )
        self.average = copy.deepcopy(network) if schedule.ema_decay else network
        self.n_done = 0
        self.step = step
        self.compute: Callable[..., Tensor] = step
        if isinstance(step, TrainingStep):
            step.precision, step.compiled = run.speed.precision, run.speed.compiled
            step.micro_batch = run.speed.micro_batch
        if isinstance(step, nn.Module):
            self.compute = run.processes.wrap(step)

    def __call__(self, batch: Iterable[Any], rate: float) -> Tensor:
        """Take one step at a learning rate; return the loss, detached: nothing waits for it."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self._differentiate(tuple(batch))
        if self.schedule.clip_norm:
            nn.utils.clip_grad_norm_(self.trained, self.schedule.clip_norm)
        self.optimizer.step()
        if self.schedule.ema_decay:
            # Warm-up of the decay, so that short runs do not average in their first weights.
            decay = min(self.schedule.ema_decay, (1 + self.n_done) / (10 + self.n_done))
            update_ema(self.average, self.network, decay)
        self.n_done += 1
        return loss

    def _differentiate(self, batch: Batch) -> Tensor:
        """Compute loss and gradient, in smaller parts or without compilation where necessary."""
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            try:
                loss = self.compute(*batch)
                loss.backward()
                return loss.detach()
            except torch.OutOfMemoryError as error:
                failure = error
            except _uncompilable() as error:
                if not (isinstance(self.step, TrainingStep) and self.step.compiled):
                    raise
                self.step.compiled = False
                self.run.progress.info(
                    f"torch.compile failed ({_first_line(error)}): training continues without it"
                )
                continue
            # Outside the handler: the traceback holds on to what filled the memory.
            self._halve(len(batch[0]), failure)
            del failure
            torch.cuda.empty_cache()

    def _halve(self, n: int, failure: Exception) -> None:
        step = self.step
        now = min(getattr(step, "micro_batch", None) or n, n)
        if self.run.processes.size > 1 or now == 1 or not isinstance(step, TrainingStep):
            raise InputError(
                f"a batch of {n} does not fit into the device's memory, {now} at a time "
                f"({_first_line(failure)}): pass --micro-batch with a smaller number, free the "
                "device, or choose a smaller --preset"
            ) from failure
        step.micro_batch = (now + 1) // 2
        self.run.progress.info(
            f"out of memory: a batch of {n} is computed {step.micro_batch} at a time"
        )

    def save(self, state: State) -> None:
        """Add to a state what `resume` needs."""
        state["network"] = self.network.state_dict()
        state["optimizer"] = self.optimizer.state_dict()
        if self.schedule.ema_decay:
            state["average"] = self.average.state_dict()

    def resume(self, state: State, n_done: int) -> None:
        """Restore a state that was saved after ``n_done`` steps."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.schedule.ema_decay:
            self.average.load_state_dict(state["average"])
        self.n_done = n_done


def update_ema(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move averaged weights a step towards the network's: a ← decay · a + (1 − decay) · w."""
    with torch.no_grad():
        torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)


def fit(
    stage: Stage,
    run: RunContext,
    state: State | None = None,
    on_epoch: Callable[[State], None] = lambda state: None,
    on_step: Callable[[int, int], None] = lambda step, n_steps: None,
) -> State:
    """Train with AdamW and keep the weights with the best validation score.

    Parameters
    ----------
    stage : Stage
        Its network is changed in place, and left with the best weights (the averaged ones where
        there are any).
    run : RunContext
    state : State, optional
        As handed to ``on_epoch``: training goes on from there, bit for bit on the CPU.
    on_epoch : callable
        Called with the state after each epoch.
    on_step : callable
        Called with the number of steps done and their total after each step.

    Returns
    -------
    State
        With the history, the best score, and the tensors needed to resume.

    Raises
    ------
    InputError
        When the device's memory is too small for a single item, or the batch cannot be shared.
    """
    network, schedule = stage.network, stage.schedule
    stepper = Stepper(stage.step, network, stage.parameters, schedule, run)
    seed = run.seed + stage.seed_offset
    batch = min(schedule.batch_size, stage.n_items)
    per_epoch = stage.n_items // batch
    n_steps = per_epoch * schedule.epochs
    if state is None:
        state = {"epoch": 0, "best_epoch": 0, "best_score": -math.inf, "history": []}
    else:
        stepper.resume(state, state["epoch"] * per_epoch)

    with _fastest_convolutions():
        while state["epoch"] < schedule.epochs and (
            state["epoch"] - state["best_epoch"] < schedule.patience
        ):
            epoch = state["epoch"]
            generator = epoch_generator(seed, epoch)
            noise = epoch_generator(seed + 1, epoch, run.device)
            order = torch.randperm(stage.n_items, generator=generator)[: per_epoch * batch]
            network.train()
            total = torch.zeros((), device=run.device)
            for k, items in enumerate(stage.feed(order.view(per_epoch, batch), noise)):
                done = epoch * per_epoch + k
                total += stepper(items, learning_rate(schedule, done, n_steps))
                on_step(done + 1, n_steps)
            average = stepper.average.eval()
            value = float(stage.score(average))
            loss = float(run.processes.total(total)) / run.processes.size / per_epoch
            state["epoch"] = epoch + 1
            state["history"].append({"epoch": epoch + 1, "loss": loss, "validation_score": value})
            if value > state["best_score"]:
                state["best_score"], state["best_epoch"] = value, epoch + 1
                state["best"] = copy.deepcopy(average.state_dict())
            stepper.save(state)
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
