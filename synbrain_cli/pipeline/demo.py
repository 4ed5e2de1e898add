"""`synbrain demo`: everything, from nothing, on simulated subjects."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from synbrain_cli.bands import SIMULATED
from synbrain_cli.brain import load_model
from synbrain_cli.brain.drawing import Drawing
from synbrain_cli.datasets.simulated import SimulationConfig
from synbrain_cli.errors import MissingError, SynbrainError
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.pipeline import plot
from synbrain_cli.pipeline.evaluate import EvaluateResult, evaluate
from synbrain_cli.pipeline.prepare import prepare_simulated
from synbrain_cli.pipeline.preparing import Target
from synbrain_cli.pipeline.report import report as write_report
from synbrain_cli.pipeline.synthesize import synthesize
from synbrain_cli.plotting.sources.responses import Responses
from synbrain_cli.run import RunContext

# Subjects, and what is trained: once with the published networks, so that they are seen at work.
# The third subject is left for `synbrain adapt`.
TRAINED = {"01": "full", "02": "network"}
N_DRAWS = 8


@dataclass(frozen=True)
class DemoResult:
    """Scores of subject 1's model, what was made where, and how long it took."""

    scores: EvaluateResult
    paths: dict[str, Path]
    seconds: float


def demo(
    workspace: Workspace,
    images: Path | None = None,
    run: RunContext | None = None,
) -> DemoResult:
    """Simulate, prepare, train two subjects side by side, synthesize, evaluate, plot.

    Steps already done in this workspace are not done again; an interrupted demo goes on.

    Parameters
    ----------
    workspace : Workspace
    images : path, optional
        Photographs to synthesize responses to; default ``examples/images`` in the workspace.
    run : RunContext, optional
        Its seed is that of the simulation, the training and the draws.

    Raises
    ------
    MissingError
        There is no folder of images.
    SynbrainError
        A training failed.
    """
    run = run or RunContext()
    progress, start = run.progress, time.monotonic()
    images = images or workspace.root / "examples" / "images"
    if not images.exists():
        raise MissingError(
            f"{images} does not exist: name a folder of images, as in "
            "`synbrain demo path/to/images`"
        )

    progress.info("1/5 prepare: three simulated subjects")
    prepared = prepare_simulated(
        Target(workspace, "simulated", SIMULATED), SimulationConfig(seed=run.seed), run
    )

    progress.info(f"2/5 train: subjects {' and '.join(TRAINED)}, side by side")
    train_side_by_side(workspace, TRAINED, run)
    model = workspace.weights / "sub-01"

    progress.info("3/5 synthesize")
    made = synthesize(workspace, model, images, Drawing(N_DRAWS, run.seed), run=run)

    progress.info("4/5 evaluate")
    brain = load_model(model, "cpu")
    bands = [band.spec for band in brain.config.bands]
    store = workspace.find_tokens("simulated", bands, progress.info)
    scores = evaluate(workspace, brain, prepared.subjects[0], store, run=run)

    progress.info("5/5 plot")
    flatmaps = plot.brain_maps(workspace, "flatmap", plot.Selection(responses=made.folder), run=run)
    page = write_report(workspace, brain, responses=Responses(made.folder), run=run)
    paths = {
        "model": model,
        "responses": made.folder,
        "flatmaps": flatmaps.files[0].parent,
        "scores": scores.folder / "metrics.json",
        "report": page,
    }
    return DemoResult(
        scores,
        {k: Path(os.path.relpath(v, workspace.root)) for k, v in paths.items()},
        time.monotonic() - start,
    )


def train_side_by_side(workspace: Workspace, models: dict[str, str], run: RunContext) -> None:
    """Train each subject in a process of its own, sharing the cores between them.

    Networks this small do not gain from several cores.

    Parameters
    ----------
    workspace : Workspace
    models : dict of str
        Label of each subject, and what is trained (``--model``); subjects with a model in
        ``weights/`` are left out.
    run : RunContext
        Its seed is that of every training.

    Raises
    ------
    SynbrainError
        A training failed.
    """
    cores = len(os.sched_getaffinity(0))
    threads = str(max(1, cores // len(models)))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    running = {}
    for subject, model in models.items():
        if (workspace.weights / f"sub-{subject}").exists():
            run.progress.info(f"sub-{subject}: already trained")
            continue
        command = [sys.executable, "-m", "synbrain_cli", "train", "--subject", subject]
        command += ["--dataset", "simulated", "--model", model, "--seed", str(run.seed)]
        command += ["--device", "cpu", "--workspace", str(workspace.root)]
        command += ["--quiet"] if run.progress.quiet else []
        running[subject] = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        failed = [subject for subject, process in running.items() if process.wait() != 0]
    finally:
        for process in running.values():
            process.kill()
    if failed:
        raise SynbrainError(
            f"training of sub-{failed[0]} failed (see above): mend the fault, then run the demo "
            "again"
        )
