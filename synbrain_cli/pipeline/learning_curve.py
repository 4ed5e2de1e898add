"""`synbrain learning-curve`: how scores grow with hours of data, and with source subjects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from synbrain_cli.errors import InputError
from synbrain_cli.evaluation.learning_curve import (
    CURVE_STRATEGIES,
    HOURS,
    SCORE,
    Curve,
    CurveScorer,
    CurveSubject,
    HourModels,
    PlannedPoint,
    PointScore,
    empty_curves,
    fit_record,
    hours_of_sources_curve,
    plan_points,
)
from synbrain_cli.evaluation.results_writer import EVALUATION, Table, write_results
from synbrain_cli.io.results.learning_curve import LearningCurve, Over
from synbrain_cli.io.results.record import SubjectsProvenance, finite
from synbrain_cli.io.workfolder import WorkFolder, work_folder
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.metrics.learning_curve import LearningCurveFit
from synbrain_cli.plotting.learning_curve import Curve as PlottedCurve
from synbrain_cli.plotting.learning_curve import Levels, plot_learning_curve
from synbrain_cli.run import RunContext


@dataclass(frozen=True)
class LearningCurveSettings:
    """Settings of a learning curve.

    Attributes
    ----------
    hours : tuple of float
        Amounts of data; those that a subject has are taken. The curve over the number of sources is
        at 1 hour, or at the first of these.
    strategies : tuple of str
        "shared-core", "source-map": scored beside the linear encoder of the hours alone.
    target : float, optional
        Score for which the amounts of data are estimated; default the mean over subjects of the
        scores of their full-data models, where there are any.
    n_boot : int
        Bootstrap draws of the test images, the same at every point of a subject.

    Raises
    ------
    InputError
        When the target is not finite.
    """

    hours: tuple[float, ...] = HOURS
    strategies: tuple[str, ...] = CURVE_STRATEGIES
    target: float | None = None
    n_boot: int = 500

    def __post_init__(self) -> None:
        if self.target is not None and not math.isfinite(self.target):
            raise InputError(f"--target {self.target}: expected a finite number")


@dataclass(frozen=True)
class LearningCurveResult:
    """Curves of one or several subjects.

    Attributes
    ----------
    folder : Path
        Holds ``learning_curve.json``, ``learning_curve.tsv``, ``hours.png`` and, with several
        sources, ``sources.png``.
    metrics : LearningCurve
        As in ``learning_curve.json``.
    """

    folder: Path
    metrics: LearningCurve

    def table(self) -> pd.DataFrame:
        """One row per point: what grows, amount, subject, strategy, score and interval."""
        return pd.DataFrame([dict(point.items()) for point in self.metrics.points])

    def fits(self) -> pd.DataFrame:
        """One row per curve: slope per tenfold amount, and the amount that reaches the target."""
        return pd.DataFrame(
            [
                {
                    "over": fit.over,
                    "strategy": fit.strategy,
                    "slope": fit.slope,
                    "slope_low": fit.slope_ci[0],
                    "slope_high": fit.slope_ci[1],
                    "r2": fit.r2,
                    "target": self.metrics.target,
                    "to_reach": fit.to_reach,
                    "to_reach_low": fit.to_reach_ci[0],
                    "to_reach_high": fit.to_reach_ci[1],
                }
                for fit in self.metrics.fits
            ]
        )


def learning_curve(
    workspace: Workspace,
    subjects: Sequence[CurveSubject],
    settings: LearningCurveSettings | None = None,
    output: Path | None = None,
    run: RunContext | None = None,
) -> LearningCurveResult:
    """Measure scores against hours of data and against the number of source subjects.

    The score is the median over reliable voxels (ncsnr above 0.2) of the correlation with the
    repeat average over test images, divided by its ceiling. Its law is
    `synbrain_cli.metrics.learning_curve`.

    An interrupted run of the same settings continues after the last point that was scored.

    Parameters
    ----------
    workspace : Workspace
        Keeps the shared cores.
    subjects : sequence of CurveSubject
        `synbrain_cli.evaluation.learning_curve.load_curve_subjects`.
    settings : LearningCurveSettings, optional
    output : path, optional
        Default ``outputs/sub-03_learning-curve``.
    run : RunContext, optional
        Everything is computed on the CPU, whatever its device.

    Raises
    ------
    InputError
        No ceiling; fewer than two amounts that a subject has.
    """
    # Set up
    settings, run = settings or LearningCurveSettings(), run or RunContext()
    run = RunContext(run.seed, torch.device("cpu"), progress=run.progress)
    settings = replace(settings, hours=_amounts(settings.hours, subjects))
    names = "+".join(f"sub-{one.subject.subject}" for one in subjects)
    folder = Path(output) if output else workspace.output_of(names, "learning-curve")
    provenance = SubjectsProvenance(
        data=[one.subject.checksum for one in subjects],
        seed=run.seed,
        n_boot=settings.n_boot,
    )
    recorded = _recorded(subjects, settings, provenance)
    with work_folder(folder, EVALUATION, recorded, progress=run.progress) as work:
        curves = empty_curves(subjects, settings.hours, settings.strategies, settings.n_boot)
        full, notes = np.full(len(subjects), np.nan), []
        for number, one in enumerate(subjects):
            # Load the test images
            scorer = CurveScorer.load(one.subject, one.store, settings.n_boot, run.seed)
            notes += [f"{one.label}: {note}" for note in scorer.test.notes]

            # Compute: fit and score the models of every amount
            models = HourModels(workspace, one, settings.strategies, scorer, run)
            if one.full is not None:
                scored = work.once(f"subject-{number}_full", PointScore, models.score_full)
                full[number] = scored.score
            _score_points(curves, number, models, settings.hours, work)

        # Compute: fit the law to each curve
        target = settings.target
        if target is None and np.isfinite(full).any():
            target = float(np.nanmean(full))
        fits = [(curve, curve.fit(run.seed)) for curve in curves if len(curve.amounts) > 1]

        # Write the results
        labels = [one.label for one in subjects]
        metrics = finite(
            LearningCurve(
                score=SCORE,
                subjects=labels,
                simulated=any(one.subject.simulated for one in subjects),
                sources={one.label: [s.brain.name for s in one.sources] for one in subjects},
                hours_of_sources_curve=hours_of_sources_curve(settings.hours),
                target=target,
                full_data=dict(zip(labels, full.tolist(), strict=True)),
                points=[point for curve in curves for point in curve.points(labels)],
                fits=[fit_record(curve, fit, target) for curve, fit in fits],
                notes=notes,
                provenance=provenance,
            )
        )
        result = LearningCurveResult(folder, metrics)
        write_results(
            work,
            {
                "learning_curve.json": metrics,
                "learning_curve.tsv": Table(result.table()),
                **_figures(metrics, fits),
            },
        )
    return result


def _score_points(
    curves: Sequence[Curve],
    number: int,
    models: HourModels,
    hours: Sequence[float],
    work: WorkFolder,
) -> None:
    """Fill in the scores of one subject, point by point."""
    evidence = lru_cache(maxsize=1)(models.known_evidence)
    by_name = {(curve.over, curve.strategy): curve for curve in curves}

    def score(point: PlannedPoint) -> dict[str, PointScore]:
        known = evidence(point.n_sources)
        return models.score_hours(point.hours, known, with_linear=point.over == "hours")

    points = plan_points(models.curve_subject, hours)
    title = f"models of {models.curve_subject.label}"
    with models.run.progress.bar(title, len(points), shorter="fewer --hours or --from") as bar:
        for point in points:
            name = f"subject-{number}_{point.over}-{point.amount:g}"
            scores = work.once(name, dict[str, PointScore], partial(score, point))
            for strategy, scored in scores.items():
                by_name[point.over, strategy].put(number, point.column, scored)
            bar(f"{point.amount:g} {point.over}")


def _figures(
    metrics: LearningCurve, fits: Sequence[tuple[Curve, LearningCurveFit]]
) -> dict[str, Figure]:
    """One figure over hours and, with several sources, one over their number."""
    full = [score for score in metrics.full_data.values() if score is not None]
    references = {"full data": float(np.mean(full))} if full else {}
    units: dict[Over, str] = {"hours": "hours", "sources": "source subjects"}
    figures = {}
    for over, unit in units.items():
        curves = {
            curve.strategy: PlottedCurve(
                curve.amounts, curve.scores, curve.interval(), fit, metrics.subjects
            )
            for curve, fit in fits
            if curve.over == over
        }
        if curves:
            figures[f"{over}.png"] = plot_learning_curve(
                curves,
                unit=unit,
                ylabel="voxelwise correlation / its ceiling",
                levels=Levels(None, references, metrics.target if over == "hours" else None),
                simulated=metrics.simulated,
            )
    return figures


def _amounts(hours: Sequence[float], subjects: Sequence[CurveSubject]) -> tuple[float, ...]:
    """The hours that at least one subject has, in ascending order."""
    longest = max(one.n_hours for one in subjects)
    amounts = sorted({float(h) for h in hours if 0 < h <= longest})
    if len(amounts) < 2:
        raise InputError(
            f"--hours {', '.join(f'{h:g}' for h in hours)}: expected two or more different amounts "
            f"of at most {longest} hours (sessions): a slope needs two points"
        )
    return tuple(amounts)


def _recorded(
    subjects: Sequence[CurveSubject],
    settings: LearningCurveSettings,
    provenance: SubjectsProvenance,
) -> dict[str, Any]:
    """Return what the results depend on, for ``settings.json``."""
    return {
        "subjects": [one.label for one in subjects],
        "sources": [
            {source.brain.name: source.brain.config.fingerprint for source in one.sources}
            for one in subjects
        ],
        "full_data": [one.full and one.full.config.fingerprint for one in subjects],
        "hours": settings.hours,
        "strategies": settings.strategies,
        "target": settings.target,
        "provenance": provenance,
    }
