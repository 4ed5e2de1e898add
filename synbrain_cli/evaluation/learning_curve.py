"""Score against hours of data, and against the number of source subjects: points and curves.

Every point is a model fitted to the first hours of a subject, in memory, and scored on that
subject's test images. Strategies are those that are closed-form given what was learned from other
subjects' data, so that a curve takes minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from synbrain_cli.brain import Brain, load_model
from synbrain_cli.brain.prediction import SourcePredictions
from synbrain_cli.config import repeats_advice
from synbrain_cli.errors import InputError
from synbrain_cli.evaluation.test_set import RELIABLE, TestSet
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.results.learning_curve import CurveFit, CurvePoint, Over
from synbrain_cli.io.results.record import Result
from synbrain_cli.io.token_store import TokenStore
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.metrics.accuracy import voxelwise_correlation
from synbrain_cli.metrics.bootstrap import Bootstrap, weighted_correlation
from synbrain_cli.metrics.learning_curve import LearningCurveFit, fit_learning_curve
from synbrain_cli.metrics.missing import known_mean, known_median, known_quantile
from synbrain_cli.model.linear import fit_linear
from synbrain_cli.model.transfer import Evidence, fit_adapter, gather_evidence
from synbrain_cli.run import RunContext
from synbrain_cli.training.examples import load_examples
from synbrain_cli.training.shared_core import train_core

HOURS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # those that a subject has are taken
LINEAR = "linear encoder"
CURVE_STRATEGIES = ("shared-core", "source-map")  # closed-form for each amount of data
SCORE = "noise-normalised correlation"


# ----------------------------------------------------------------------------------- subjects


class Source(NamedTuple):
    """A model of another subject, and that subject's prepared data."""

    brain: Brain
    subject: PreparedSubject
    store: TokenStore


@dataclass(frozen=True)
class CurveSubject:
    """A subject to measure the learning curve of, and the models of other subjects.

    Attributes
    ----------
    subject : PreparedSubject
    store : TokenStore
    sources : list of Source
        Models of other subjects.
    full : Brain, optional
        A model of this subject's full data, to compare with.
    """

    subject: PreparedSubject
    store: TokenStore
    sources: list[Source]
    full: Brain | None = None

    @property
    def label(self) -> str:
        """Dataset and subject: "nsd/sub-01"."""
        return self.subject.label

    @property
    def n_hours(self) -> int:
        """Hours (sessions) that were recorded."""
        return len(self.subject.sessions)


def load_curve_subjects(
    workspace: Workspace,
    subjects: Sequence[PreparedSubject],
    bundles: Sequence[Path],
    log: Callable[[str], None],
) -> list[CurveSubject]:
    """Load the models of other subjects, and of the subjects themselves.

    Parameters
    ----------
    workspace : Workspace
    subjects : sequence of PreparedSubject
        Subjects to measure learning curves of.
    bundles : sequence of paths
        Models of all data of a subject. For each subject, those of all others are the sources, and
        the first of its own is compared with.
    log : callable
        Takes messages.

    Raises
    ------
    InputError
        There is no model of another subject.
    """
    brains = [load_model(path, "cpu") for path in bundles]
    loaded = []
    for subject in subjects:
        sources, full = [], None
        for brain in brains:
            if (brain.config.dataset, brain.subject) == (subject.dataset, subject.subject):
                full = full or (brain if brain.config.has_readout else None)
                continue
            other = workspace.find_subject(brain.subject, brain.config.dataset, log)
            spec = [band.spec for band in brain.config.bands]
            sources.append(Source(brain, other, workspace.find_tokens(other.dataset, spec, log)))
        if not sources:
            raise InputError(
                f"sub-{subject.subject}: no model of another subject to adapt from: name some with "
                "--from, or train them"
            )
        spec = [band.spec for band in sources[0].brain.config.bands]
        store = workspace.find_tokens(subject.dataset, spec, log)
        loaded.append(CurveSubject(subject, store, sources, full))
    return loaded


# ------------------------------------------------------------------------------------- points


class PointScore(Result, frozen=True):
    """Score of one model, and its scores on resampled test images.

    Attributes
    ----------
    score : float
    boot : list of float
        One score per bootstrap draw.
    """

    score: float
    boot: list[float]


@dataclass(frozen=True, eq=False)
class CurveScorer:
    """Scores predictions for one subject's test images; all by the same resampled images.

    Attributes
    ----------
    test : TestSet
        As prepared: correlations do not depend on the unit.
    bootstrap : Bootstrap
    """

    test: TestSet
    bootstrap: Bootstrap

    @classmethod
    def load(
        cls, subject: PreparedSubject, store: TokenStore, n_boot: int, seed: int
    ) -> CurveScorer:
        """Load the test images of a subject.

        Raises
        ------
        InputError
            No voxel is reliable; see also `TestSet.load`.
        """
        test = TestSet.load(subject, store)
        if not test.reliable.any():
            raise InputError(
                f"{subject.folder}: no voxel with an ncsnr above {RELIABLE}: a score as a share of "
                f"its ceiling needs some; {repeats_advice(test.averaged_over)}"
            )
        return cls(test, test.bootstrap(n_boot, seed, stream=6))

    def score(self, predicted: NDArray[np.float32]) -> PointScore:
        """Score predictions: the median over reliable voxels of correlation / ceiling.

        Parameters
        ----------
        predicted : float32 array of shape (n_images, n_voxels)
        """
        reliable = self.test.reliable
        ceiling = self.test.ceiling[reliable]
        truth = np.ascontiguousarray(self.test.averages[:, reliable])
        predicted = np.ascontiguousarray(predicted[:, reliable])
        boot = self.bootstrap.values(
            lambda counts: known_median(
                weighted_correlation(truth, predicted, counts) / ceiling, axis=1
            ),
            self.test.n_images,
        )
        score = known_median(voxelwise_correlation(truth, predicted) / ceiling)
        return PointScore(score=float(score), boot=boot.tolist())


class PlannedPoint(NamedTuple):
    """Models of one subject that are fitted with the same hours and sources.

    Attributes
    ----------
    over : {"hours", "sources"}
    column : int
        Number of the amount along the curve.
    amount : float
        Hours, or number of sources.
    hours : float
    n_sources : int
    """

    over: Over
    column: int
    amount: float
    hours: float
    n_sources: int


def plan_points(curve_subject: CurveSubject, hours: Sequence[float]) -> list[PlannedPoint]:
    """List the points of a subject: with all sources over its hours, then over the sources.

    Parameters
    ----------
    curve_subject : CurveSubject
    hours : sequence of float
    """
    n_sources, at = len(curve_subject.sources), hours_of_sources_curve(hours)
    over_hours = [
        PlannedPoint("hours", column, amount, amount, n_sources)
        for column, amount in enumerate(hours)
        if amount <= curve_subject.n_hours
    ]
    over_sources = [
        PlannedPoint("sources", column, column + 1, at, column + 1) for column in range(n_sources)
    ]
    return over_hours + over_sources


def hours_of_sources_curve(hours: Sequence[float]) -> float:
    """Hours at which the number of sources grows: 1, or the first of these."""
    return 1.0 if 1.0 in hours else hours[0]


class KnownEvidence(NamedTuple):
    """Evidence, and what it predicts for a subject's test images, for models of any hours."""

    evidence: Evidence
    test: tuple[NDArray[np.float32], NDArray[np.float32] | None]


@dataclass(frozen=True, eq=False)
class HourModels:
    """Models that are fitted to the first hours of one subject, and scored.

    Attributes
    ----------
    workspace : Workspace
        Keeps the shared cores.
    curve_subject : CurveSubject
    strategies : sequence of str
        Beside the linear encoder: "shared-core", "source-map".
    scorer : CurveScorer
    run : RunContext
        Trains shared cores on its device.
    """

    workspace: Workspace
    curve_subject: CurveSubject
    strategies: Sequence[str]
    scorer: CurveScorer
    run: RunContext

    def score_full(self) -> PointScore:
        """Score the model of the subject's full data, which must be there."""
        full = self.curve_subject.full
        assert full is not None
        return self.scorer.score(full.mean(self.scorer.test.tokens, unit="z"))

    def known_evidence(self, n_sources: int) -> dict[str, KnownEvidence]:
        """Evidence of the first source models, by strategy.

        Parameters
        ----------
        n_sources : int
        """
        known = {}
        for strategy in self.strategies:
            evidence = self._evidence(strategy, self.curve_subject.sources[:n_sources])
            known[strategy] = KnownEvidence(evidence, evidence(self.scorer.test.tokens))
        return known

    def _evidence(self, strategy: str, sources: Sequence[Source]) -> Evidence:
        if strategy == "source-map":
            return SourcePredictions([source.brain for source in sources])
        if strategy != "shared-core":
            raise InputError(
                f"strategies: expected some of {', '.join(CURVE_STRATEGIES)}, found {strategy}"
            )
        known = [(source.subject, source.store) for source in sources]
        core = train_core(self.workspace, known, self.run)
        return core.evidence(self.curve_subject.subject)

    def score_hours(
        self, hours: float, known: dict[str, KnownEvidence], with_linear: bool
    ) -> dict[str, PointScore]:
        """Fit models to the first hours of the subject, and score them.

        Parameters
        ----------
        hours : float
        known : dict
            As `known_evidence` returns.
        with_linear : bool
            Also the linear encoder of the hours alone.

        Returns
        -------
        dict of PointScore
            By strategy.
        """
        subject, store = self.curve_subject.subject, self.curve_subject.store
        examples = load_examples(subject, store, subject.first_hours(hours))
        tokens, averages = examples.both.tokens, examples.both.averages
        scores = {}
        if with_linear:
            generator = np.random.default_rng([self.run.seed, 1])
            encoder, _ = fit_linear(tokens, averages, generator, groups=examples.groups)
            predicted = encoder.predict(examples.scaler(self.scorer.test.tokens))
            scores[LINEAR] = self.scorer.score(predicted)
        for name, one in known.items():
            generator = np.random.default_rng([self.run.seed, 5])
            seen = gather_evidence(one.evidence, tokens)
            adapter, _ = fit_adapter(*seen, averages, generator, groups=examples.groups)
            scores[name] = self.scorer.score(adapter(*one.test))
        return scores


# ------------------------------------------------------------------------------------- curves


@dataclass(frozen=True, eq=False)
class Curve:
    """Scores of one strategy.

    Attributes
    ----------
    over : {"hours", "sources"}
        What grows along the curve.
    strategy : str
    amounts : list of float
    scores : float64 array of shape (n_subjects, n_amounts)
        NaN where a subject has no such amount.
    boot : float64 array of shape (n_boot, n_subjects, n_amounts)
        Scores of resampled images.
    """

    over: Over
    strategy: str
    amounts: list[float]
    scores: NDArray[np.float64]
    boot: NDArray[np.float64]

    @classmethod
    def empty(
        cls, over: Over, strategy: str, amounts: Sequence[float], n_subjects: int, n_boot: int
    ) -> Curve:
        """Return a curve without any score."""
        shape = (n_subjects, len(amounts))
        boot = np.full((n_boot, *shape), np.nan)
        return cls(over, strategy, list(map(float, amounts)), np.full(shape, np.nan), boot)

    def put(self, subject: int, amount: int, point: PointScore) -> None:
        """Fill in the score of one subject and amount, by their numbers."""
        self.scores[subject, amount], self.boot[:, subject, amount] = point.score, point.boot

    def interval(self) -> NDArray[np.float64]:
        """95 % interval of the mean over subjects: (n_amounts, 2)."""
        means = known_mean(self.boot, axis=1)
        limits = [known_quantile(means, q, axis=0) for q in (0.025, 0.975)]
        return np.stack(limits, axis=-1)

    def fit(self, seed: int) -> LearningCurveFit:
        """Fit the log-linear law (`synbrain_cli.metrics.learning_curve`)."""
        generator = np.random.default_rng([seed, 7])
        return fit_learning_curve(self.amounts, self.scores, self.boot, generator=generator)

    def points(self, labels: Sequence[str]) -> list[CurvePoint]:
        """Return the scores that there are, with their 95 % intervals.

        Parameters
        ----------
        labels : sequence of str
            Of the subjects.
        """
        points = []
        for p, label in enumerate(labels):
            for a, amount in enumerate(self.amounts):
                if np.isfinite(self.scores[p, a]):
                    low, high = (known_quantile(self.boot[:, p, a], q) for q in (0.025, 0.975))
                    points.append(
                        CurvePoint(
                            over=self.over,
                            amount=amount,
                            subject=label,
                            strategy=self.strategy,
                            score=float(self.scores[p, a]),
                            ci_low=float(low),
                            ci_high=float(high),
                        )
                    )
        return points


def empty_curves(
    subjects: Sequence[CurveSubject],
    hours: Sequence[float],
    strategies: Sequence[str],
    n_boot: int,
) -> list[Curve]:
    """Return the curves over hours, then those over the number of sources, without any score.

    Parameters
    ----------
    subjects : sequence of CurveSubject
    hours : sequence of float
    strategies : sequence of str
        Beside the linear encoder, which has no sources.
    n_boot : int
    """
    counts = range(1, max(len(one.sources) for one in subjects) + 1)
    n = len(subjects)
    over_hours = [Curve.empty("hours", s, hours, n, n_boot) for s in (LINEAR, *strategies)]
    return over_hours + [Curve.empty("sources", s, counts, n, n_boot) for s in strategies]


def fit_record(curve: Curve, fit: LearningCurveFit, target: float | None) -> CurveFit:
    """Return a fitted line as a record, with the amount at which it reaches a target.

    Parameters
    ----------
    curve : Curve
    fit : LearningCurveFit
    target : float, optional
        A score.
    """
    reach, ends = np.nan, (np.nan, np.nan)
    if target is not None:
        reach, ends = fit.amount_to_reach(target)
    return CurveFit(
        over=curve.over,
        strategy=curve.strategy,
        **fit.to_dict(),
        to_reach=reach,
        to_reach_ci=ends,
    )
