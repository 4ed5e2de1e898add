"""`synbrain demo`: the whole program on simulated subjects."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from synbrain_cli.cli.evaluation_screen import print_evaluation
from synbrain_cli.cli.options import QuietOption, SeedOption, WorkspaceOption
from synbrain_cli.cli.running import interruptible, open_run


def demo(
    images: Annotated[
        Path | None, typer.Argument(help="Images to synthesize; default: examples/images.")
    ] = None,
    seed: SeedOption = 0,
    folder: WorkspaceOption = Path(),
    quiet: QuietOption = False,
) -> None:
    """Run everything on simulated subjects: prepare, train, synthesize, evaluate, plot.

    Example: synbrain demo
    """
    from synbrain_cli.pipeline.demo import demo as run_demo

    workspace, run = open_run(folder, quiet, seed)
    with interruptible():
        result = run_demo(workspace, images, run)
    print()
    print_evaluation(result.scores.metrics, rois=False)
    print()
    for what, path in result.paths.items():
        print(f"{what:12} {path}")
    print(f"\nThe subjects are simulated. {result.seconds / 60:.1f} minutes.")
