"""Training one network: epochs, averaged weights, early stopping, resumable state.

No files and no printing: the caller saves the state it is handed after every epoch.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from synbrain_cli.config import StageConfig

Step = Callable[[nn.Module, Tensor, torch.Generator], Tensor]
State = dict[str, Any]


def update_ema(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move averaged weights a step towards the network's: a ← decay · a + (1 − decay) · w."""
    with torch.no_grad():
        for a, w in zip(average.parameters(), network.parameters(), strict=True):
            a.lerp_(w, 1 - decay)


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


def fit(
    network: nn.Module,
    parameters: list[nn.Parameter] | list[dict[str, Any]],
    step_loss: Step,
    score: Callable[[nn.Module], float],
    n_items: int,
    config: StageConfig,
    seed: int,
    *,
    state: State | None = None,
    on_epoch: Callable[[State], None] = lambda state: None,
    on_step: Callable[[int, int], None] = lambda step, n_steps: None,
) -> State:
    """Train with AdamW and keep the weights with the best validation score.

    Parameters
    ----------
    network : Module
        Changed in place; left with the best weights (the averaged ones where there are any).
    parameters : list of Parameter, or of dict
        Those to train; dicts are AdamW's groups, with a weight decay of their own.
    step_loss : callable
        ``(network, items, generator) -> scalar``: loss of a batch of item indices.
    score : callable
        ``network -> float``: dimensionless validation score, larger is better.
    n_items : int
        Training items (trials or images). Each epoch visits them in a new order, in equal
        batches; what is left over waits for another epoch.
    config : StageConfig
    seed : int
    state : dict, optional
        As handed to ``on_epoch``: training goes on from there, bit for bit on CPU.
    on_epoch, on_step : callable
        Told the state after each epoch, and the step and total after each step.

    Returns
    -------
    dict
        ``epoch``, ``best_epoch``, ``best_score``, ``history`` (one dict an epoch), and the
        tensors needed to resume.
    """
    grouped = isinstance(parameters[0], dict)
    every = [p for group in parameters for p in group["params"]] if grouped else parameters
    device = every[0].device
    trained = {id(p) for p in every}
    for parameter in network.parameters():
        parameter.requires_grad_(id(parameter) in trained)
    optimizer = torch.optim.AdamW(
        parameters, config.learning_rate, config.betas, weight_decay=config.weight_decay
    )
    average = copy.deepcopy(network) if config.ema_decay else network
    batch = min(config.batch_size, n_items)
    per_epoch = n_items // batch
    n_steps = per_epoch * config.epochs
    if state is None:
        state = {"epoch": 0, "best_epoch": 0, "best_score": -math.inf, "history": []}
    else:
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        if config.ema_decay:
            average.load_state_dict(state["average"])

    while state["epoch"] < config.epochs and (
        state["epoch"] - state["best_epoch"] < config.patience
    ):
        epoch = state["epoch"]
        generator = epoch_generator(seed, epoch)
        noise = epoch_generator(seed + 1, epoch, device)
        order = torch.randperm(n_items, generator=generator)[: per_epoch * batch]
        network.train()
        total = torch.zeros((), device=device)
        for k, items in enumerate(order.view(per_epoch, batch)):
            step = epoch * per_epoch + k
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, step, n_steps)
            loss = step_loss(network, items, noise)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if config.clip_norm:
                nn.utils.clip_grad_norm_(every, config.clip_norm)
            optimizer.step()
            if config.ema_decay:
                # Warm-up of the decay, so that short runs do not average in their first weights.
                update_ema(average, network, min(config.ema_decay, (1 + step) / (10 + step)))
            total += loss.detach()
            on_step(step + 1, n_steps)
        average.eval()
        value = float(score(average))
        state["epoch"] = epoch + 1
        state["history"].append(
            {"epoch": epoch + 1, "loss": float(total) / per_epoch, "validation_score": value}
        )
        if value > state["best_score"]:
            state["best_score"], state["best_epoch"] = value, epoch + 1
            state["best"] = copy.deepcopy(average.state_dict())
        state["network"] = network.state_dict()
        state["optimizer"] = optimizer.state_dict()
        if config.ema_decay:
            state["average"] = average.state_dict()
        on_epoch(state)
    network.load_state_dict(state["best"])
    network.eval()
    return state
