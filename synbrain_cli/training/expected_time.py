"""How long training will take on this machine, found before it begins by a few trial steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from synbrain_cli.config import StageConfig
from synbrain_cli.model.step import TrainingStep

TRIED = 3.0  # seconds after which no larger batch is tried
SCORING = 1 / 3  # a validation item's share of a training item's time: the forward pass alone


@dataclass(frozen=True)
class PlannedStage:
    """The training of one network, as far as its time depends on it.

    Attributes
    ----------
    step : TrainingStep
        In the run's precision, and not compiled.
    parameters : sequence of Parameter
        That are trained.
    batch : callable
        Number of items → a batch of so many for ``step``, on its device.
    schedule : StageConfig
    n_items, n_val : int
        Training items, and items scored after each epoch.
    """

    step: TrainingStep
    parameters: Sequence[nn.Parameter]
    batch: Callable[[int], tuple[Tensor, ...]]
    schedule: StageConfig
    n_items: int
    n_val: int

    @property
    def n_visits(self) -> float:
        """Training items of all epochs, and what scoring adds to them."""
        return self.schedule.epochs * (self.n_items + SCORING * self.n_val)

    def seconds(self, short: float) -> float:
        """Estimate the time of all epochs, without early stopping and compilation.

        Batches of 1, 2, 4, … items are tried, up to the schedule's size, until an estimate is below
        ``short``, which more items would only lower, or `TRIED` seconds have passed. Weights and
        random numbers stay as they are.

        Parameters
        ----------
        short : float
            Seconds.
        """
        size, spent, n = min(self.schedule.batch_size, self.n_items), 0.0, 1
        estimate = 0.0
        while True:
            try:
                seconds = self._try(self.batch(n))
            except torch.OutOfMemoryError:  # training will compute smaller parts
                return estimate
            estimate, spent = seconds / n * self.n_visits, spent + seconds
            if n == size or estimate < short or spent > TRIED:
                return estimate
            n = min(2 * n, size)

    def _try(self, batch: tuple[Tensor, ...]) -> float:
        """Seconds of the loss of a batch and of its gradient."""
        _wait(batch[0].device)
        start = time.perf_counter()
        loss = self.step(*batch)
        torch.autograd.grad(loss, list(self.parameters), allow_unused=True)
        _wait(batch[0].device)
        return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
