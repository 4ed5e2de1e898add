"""`synbrain compare`: several models of one subject on the same test images.

The comparison shows what an hour of a subject's data is worth, by each way of using it: the linear
encoder fitted to the hour alone, adapted models, the model of all data, and the noise ceiling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
from msgspec import UNSET

from synbrain_cli.brain import Brain
from synbrain_cli.evaluation.comparison import (
    Coverage,
    Row,
    RowCorrelations,
    RowScorer,
    check_names,
    compared_rows,
    coverage_of_row,
    notes,
    predict_rows,
    reference_model,
)
from synbrain_cli.evaluation.comparison_text import (
    NORMALISED,
    PLAIN,
    comparison_table,
    comparison_text,
    full_table,
    region_table,
)
from synbrain_cli.evaluation.other_dataset import find_other
from synbrain_cli.evaluation.results_writer import EVALUATION, Table, write_results
from synbrain_cli.evaluation.settings import N_DRAWS, check_draws
from synbrain_cli.evaluation.test_set import UNITS, TestSet
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.results.comparison import Comparison, Estimate, RegionSize
from synbrain_cli.io.results.record import ModelsProvenance
from synbrain_cli.io.token_store import TokenStore
from synbrain_cli.io.workfolder import WorkFolder, work_folder
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.plotting.comparison import plot_comparison
from synbrain_cli.run import RunContext


@dataclass(frozen=True)
class CompareSettings:
    """Settings of a comparison.

    Attributes
    ----------
    n_draws : int
        Draws per image for the coverage of 90 % intervals; 20 or more, or 0 to leave it out.
    n_boot : int
        Bootstrap draws of the test images for the 95 % confidence intervals.
    on : str, optional
        Another dataset, on whose test images models are compared
        (`synbrain_cli.evaluation.other_dataset`); default: their own.
    """

    n_draws: int = N_DRAWS
    n_boot: int = 1000
    on: str | None = None


@dataclass(frozen=True)
class CompareResult:
    """Scores of several models of one subject.

    Attributes
    ----------
    folder : Path
        Holds ``comparison.json``, ``comparison.tsv``, ``comparison.png`` and ``comparison.md``.
    metrics : Comparison
        As in ``comparison.json``.
    """

    folder: Path
    metrics: Comparison

    def table(self) -> pd.DataFrame:
        """One row per predictor, over all voxels."""
        return comparison_table(self.metrics)

    def roi_table(self) -> pd.DataFrame:
        """One row per predictor and region."""
        return region_table(self.metrics)


def compare(
    workspace: Workspace,
    brains: Sequence[Brain],
    subject: PreparedSubject,
    store: TokenStore,
    settings: CompareSettings | None = None,
    output: Path | None = None,
    run: RunContext | None = None,
) -> CompareResult:
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
        The subject of the models.
    store : TokenStore
        Tokens of the test images, of their encoder.
    settings : CompareSettings, optional
    output : path, optional
        Default ``outputs/sub-03_comparison``, on another dataset
        ``outputs/sub-03_on-<dataset>_comparison``.
    run : RunContext, optional
        Its seed is that of the draws, the bootstrap and the shuffled control.

    Raises
    ------
    InputError
        When there is no model, or one of them does not belong to the subject and the tokens.
    """
    # Set up
    settings, run = settings or CompareSettings(), run or RunContext()
    check_names(brains)
    if settings.n_draws:
        check_draws(settings.n_draws, ", or 0 to leave coverage out")
    name = f"sub-{subject.subject}"
    what = "comparison" if settings.on is None else f"on-{settings.on}_comparison"
    folder = Path(output) if output else workspace.output_of(name, what)
    other = (
        None
        if settings.on is None
        else find_other(workspace, brains[0], settings.on, run.progress.info)
    )
    provenance = ModelsProvenance(
        fingerprints={brain.name: brain.config.fingerprint for brain in brains},
        data=(other.subject if other else subject).checksum,
        seed=run.seed,
        n_boot=settings.n_boot,
    )
    recorded = {
        "n_draws": settings.n_draws,
        "device": str(brains[0].device),
        "provenance": provenance,
    }

    # Load the test images
    test = TestSet.load(subject, store, brains, other=other)
    run.progress.info(
        f"comparing {', '.join(brain.name for brain in brains)}: {len(test.trials):,} test trials "
        f"of {test.n_images:,} images"
    )

    # Compute
    with work_folder(folder, EVALUATION, recorded, progress=run.progress) as work:
        rows = predict_rows(brains, test, run)
        reference = reference_model(brains)
        scorer = RowScorer.create(test, rows, reference)
        bootstrap = test.bootstrap(settings.n_boot, run.seed)
        correlations = work.once(
            "correlations",
            list[RowCorrelations],
            partial(scorer.correlations, bootstrap, run.progress),
        )
        skill = scorer.skill(brains[0].distribution.mean_pattern, bootstrap)
        coverage = _coverage(work, rows, test, settings, run)
        entries = compared_rows(scorer, correlations, skill, coverage)

        # Write the results
        kind = brains[0].config.standardization
        metrics = Comparison(
            subject=brains[0].config.label,
            on=UNSET if settings.on is None else settings.on,
            simulated=any(brain.simulated for brain in brains),
            models=[brain.name for brain in brains],
            reference=reference.name,
            reference_has_all_data=scorer.has_all_data,
            compared_by=NORMALISED if scorer.is_normalised else PLAIN,
            n_test_images=test.n_images,
            n_test_trials=len(test.trials),
            repeats_per_image=test.repeats,
            averaged_over=test.averaged_over,
            n_voxels=test.n_voxels,
            n_reliable_voxels=int(test.reliable.sum()),
            n_draws=settings.n_draws,
            units={
                "correlations, skill": f"{UNITS[kind]}, repeat averages",
                "coverage_90": f"{UNITS[kind]}, {brains[0].config.rows}",
            },
            rows=entries,
            roi={
                name: RegionSize(
                    n_voxels=int(mask.sum()), n_reliable_voxels=int(mask[test.reliable].sum())
                )
                for name, mask in scorer.rois.items()
            },
            notes=[*notes(scorer, entries[scorer.reference]), *test.notes],
            provenance=provenance,
        )
        result = CompareResult(folder, metrics)
        write_results(
            work,
            {
                "comparison.json": metrics,
                "comparison.tsv": Table(full_table(metrics)),
                "comparison.md": comparison_text(metrics),
                "comparison.png": plot_comparison(metrics),
            },
        )
    return result


def _coverage(
    work: WorkFolder, rows: Sequence[Row], test: TestSet, settings: CompareSettings, run: RunContext
) -> list[Estimate | None]:
    """Score the draws of every row; None of rows without draws."""
    coverage: list[Estimate | None] = [None] * len(rows)
    first = rows[0].brain
    for i, row in enumerate(rows):
        if row.readout is not None and settings.n_draws:
            compute = partial(
                coverage_of_row, row, first, test, settings.n_draws, settings.n_boot, run
            )
            coverage[i] = work.once(f"coverage-{i}", Coverage, compute).score
    return coverage
