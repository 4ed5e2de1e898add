"""`synbrain compare`: several models of one subject on the same test images.

The comparison shows what an hour of a subject's data is worth, by each way of using it: the linear
encoder fitted to the hour alone, adapted models, the model of all data, and the noise ceiling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from synbrain_cli.brain import Brain
from synbrain_cli.errors import InputError
from synbrain_cli.evaluation.bootstrap import Bootstrap
from synbrain_cli.evaluation.calibration import MIN_DRAWS, N_DRAWS
from synbrain_cli.evaluation.comparison import (
    Coverage,
    Row,
    RowCorrelations,
    RowScorer,
    check_names,
    coverage_of_row,
    predict_rows,
    reference_model,
    training_of,
)
from synbrain_cli.evaluation.comparison_text import (
    NORMALISED,
    PLAIN,
    comparison_table,
    comparison_text,
    full_table,
    region_table,
)
from synbrain_cli.evaluation.results import Table, result_folder, write_results
from synbrain_cli.evaluation.test_set import RELIABLE, UNITS, TestSet
from synbrain_cli.io.prepared import PreparedSubject, TokenStore
from synbrain_cli.io.results.comparison import ComparedRow, Comparison, Estimate, RegionSize
from synbrain_cli.io.results.record import ModelsProvenance, data_checksum
from synbrain_cli.io.workfolder import WorkFolder
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.plotting.comparison import plot_comparison
from synbrain_cli.run import RunContext


@dataclass(frozen=True)
class ComparisonSettings:
    """Settings of a comparison.

    Attributes
    ----------
    n_draws : int
        Draws per image for the coverage of 90 % intervals; 20 or more, or 0 to leave it out.
    n_boot : int
        Bootstrap draws of the test images for the 95 % confidence intervals.

    Raises
    ------
    InputError
        For a number of draws between 0 and 20.
    """

    n_draws: int = N_DRAWS
    n_boot: int = 1000

    def __post_init__(self) -> None:
        if self.n_draws and self.n_draws < MIN_DRAWS:
            raise InputError(
                f"--draws {self.n_draws}: expected {MIN_DRAWS} or more, or 0 to leave coverage "
                "out: 90 % intervals of fewer draws would reach beyond them"
            )


@dataclass(frozen=True)
class ComparisonResult:
    """Scores of several models of one subject.

    Attributes
    ----------
    folder : Path
        Holds ``comparison.json``, ``comparison.tsv``, ``comparison.png`` and ``comparison.md``.
    comparison : Comparison
        As in ``comparison.json``.
    """

    folder: Path
    comparison: Comparison

    def table(self) -> pd.DataFrame:
        """One row per predictor, over all voxels."""
        return comparison_table(self.comparison)

    def roi_table(self) -> pd.DataFrame:
        """One row per predictor and region."""
        return region_table(self.comparison)


def compare(
    workspace: Workspace,
    brains: Sequence[Brain],
    subject: PreparedSubject,
    store: TokenStore,
    settings: ComparisonSettings | None = None,
    run: RunContext | None = None,
    output: Path | None = None,
) -> ComparisonResult:
    """Score models of one subject side by side, on the same test images.

    Rows: the mean pattern (of the first model), each model with the linear encoder of its data
    before it (listed once where models hold the same), the first model with its images shuffled,
    and the ceiling. Differences and ratios are taken to a reference: the last model given that was
    trained on all of the subject's data (no hours in its training record), else the first.

    An interrupted run of the same settings continues after the last row that was scored.

    Parameters
    ----------
    workspace : Workspace
    brains : sequence of Brain
        One or more, of different names.
    subject : PreparedSubject
        Whose models they are.
    store : TokenStore
        Tokens of the test images, of their encoder.
    settings : ComparisonSettings, optional
    run : RunContext, optional
        Its seed is that of the draws, the bootstrap and the shuffled control.
    output : path, optional
        Default ``outputs/sub-03_comparison``.

    Raises
    ------
    InputError
        When there is no model, or one of them does not belong to the subject and the tokens.
    """
    settings, run = settings or ComparisonSettings(), run or RunContext()
    check_names(brains)
    test = TestSet.load(subject, store, brains)
    run.progress.info(
        f"comparing {', '.join(brain.name for brain in brains)}: {len(test.trials):,} test trials "
        f"of {test.n_images:,} images"
    )
    provenance = ModelsProvenance(
        fingerprints={brain.name: brain.config.fingerprint for brain in brains},
        data=data_checksum(subject),
        seed=run.seed,
        n_boot=settings.n_boot,
    )
    folder = output or workspace.outputs / f"sub-{subject.subject}_comparison"
    depends_on = {"command": "compare", "n_draws": settings.n_draws, "provenance": provenance}
    with result_folder(folder, depends_on, run.progress) as work:
        rows = predict_rows(brains, test, run)
        scorer = RowScorer.create(test, rows, reference_model(brains))
        bootstrap = Bootstrap(settings.n_boot, run.seed)
        correlations = work.once(
            "correlations",
            list[RowCorrelations],
            partial(scorer.correlations, bootstrap, run.progress),
        )
        skill = scorer.skill(brains[0].distribution.mean_pattern, bootstrap)
        coverage = _coverage(work, rows, test, settings, run)
        comparison = _comparison(scorer, test, settings, (correlations, skill, coverage), provenance)
        write_results(
            work,
            {
                "comparison.json": comparison,
                "comparison.tsv": Table(full_table(comparison)),
                "comparison.md": comparison_text(comparison),
                "comparison.png": plot_comparison(comparison),
            },
        )
    return ComparisonResult(folder, comparison)
