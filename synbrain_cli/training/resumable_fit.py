"""A training stage that an interrupted run continues: `synbrain_cli.model.fit` with checkpoints."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import msgspec
import torch

from synbrain_cli.checkpoints import load_checkpoint, require_seal, seal_archive
from synbrain_cli.errors import DAMAGED, SynbrainError
from synbrain_cli.io.bundle import Epoch, StageHistory
from synbrain_cli.io.files import atomic
from synbrain_cli.io.records import convert_record
from synbrain_cli.model.fit import Stage, State, fit
from synbrain_cli.run import RunContext

# Checkpoints that take longer than QUICK seconds take at most one part in CHECKPOINT_SHARE of the
# training time.
QUICK, CHECKPOINT_SHARE = 0.5, 20


class _Progress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far a training is, in a checkpoint."""

    epoch: int
    best_epoch: int
    best_score: float
    history: list[Epoch]


def fit_resumably(stage: Stage, run: RunContext, checkpoint: Path) -> StageHistory:
    """Train a stage, with a checkpoint from which an interrupted run continues.

    A checkpoint is written after an epoch if writing takes little of the time since the last one:
    writing the gigabytes of a large network may take as long as the epoch itself. The last epoch's
    is always written, and left in place.

    Parameters
    ----------
    stage : Stage
        Its network is left with the best weights.
    run : RunContext
        Its main process alone writes.
    checkpoint : path
        Of `torch.save`. One that is damaged is not used: the stage begins again.

    Returns
    -------
    StageHistory
    """
    processes, progress = run.processes, run.progress
    state: State | None = None
    if processes.on_main(lambda: _is_usable(checkpoint, stage, run)):
        state = load_checkpoint(checkpoint, mapped=False)
        progress.info(f"{stage.title}: continuing after epoch {state['epoch']}")
    writer = _CheckpointWriter(checkpoint, run, state["epoch"] if state else 0)

    def on_epoch(state: State) -> None:
        last = state["history"][-1]
        progress.info(
            f"{stage.title}: epoch {last['epoch']}: loss {last['loss']:.3f}, "
            f"validation score {last['validation_score']:.3f}"
        )
        if writer.is_due:
            writer.write(state)

    with progress.bar(stage.title, shorter=stage.shorter) as bar:
        state = fit(stage, run, state=state, on_epoch=on_epoch, on_step=bar.to)
    if state["epoch"] > writer.epoch:
        writer.write(state)
    processes.wait()
    return StageHistory(
        best_epoch=state["best_epoch"],
        best_score=state["best_score"],
        history=[Epoch(**epoch) for epoch in state["history"]],
    )


def _is_usable(checkpoint: Path, stage: Stage, run: RunContext) -> bool:
    """Whether there is a checkpoint of this stage; a damaged one is said, and does not count."""
    if not checkpoint.exists():
        return False
    try:
        state = load_checkpoint(checkpoint)
        require_seal(checkpoint)
        fault = _fault(state, stage)
    except SynbrainError as error:
        fault = str(error)
    if fault is not None:
        run.progress.info(f"{stage.title}: training from the beginning ({checkpoint}: {fault})")
    return fault is None


def _fault(state: Any, stage: Stage) -> str | None:
    """Why training cannot go on from a state; None where it can."""
    try:
        record = {name: state[name] for name in ("epoch", "best_epoch", "best_score", "history")}
        convert_record(record, _Progress, "its record", "train again")
        expected = stage.network.state_dict()
        weights = [state["network"], state["best"]]
        weights += [state["average"]] if stage.schedule.ema_decay else []
        for own in weights:
            if {k: (v.shape, v.dtype) for k, v in own.items()} != {
                k: (v.shape, v.dtype) for k, v in expected.items()
            }:
                return "its weights are those of another network"
        if not {"state", "param_groups"} <= set(state["optimizer"]):
            return "it holds no state of the optimiser"
    except (*DAMAGED, SynbrainError) as error:
        return f"it is no checkpoint of this program ({error})"
    return None


class _CheckpointWriter:
    """Writes checkpoints, and knows when the next one is worth its time."""

    def __init__(self, path: Path, run: RunContext, epoch: int) -> None:
        self.path, self.run = path, run
        self.epoch = epoch  # of the checkpoint on the disk
        self.cost, self.written = 0.0, -math.inf  # seconds that the last took, and when that was

    @property
    def is_due(self) -> bool:
        """Whether enough time has passed since the last one."""
        elapsed = time.monotonic() - self.written
        return self.cost < QUICK or elapsed > CHECKPOINT_SHARE * self.cost

    def write(self, state: State) -> None:
        """Write, on the main process."""
        start = time.monotonic()
        if self.run.processes.is_main:
            with atomic(self.path) as temporary:
                torch.save(state, temporary)
                seal_archive(temporary)
        self.epoch, self.written = state["epoch"], time.monotonic()
        self.cost = self.written - start
