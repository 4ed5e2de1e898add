"""`synbrain learning-curve`: how scores grow with hours of scanning, and with source people.

Every point is a model fitted to the first hours of a person, in memory, and scored on that person's
test images. Strategies are those that are closed-form given what other people's data taught, so
that a curve takes minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from synbrain_cli.brain import Brain, load_model
from synbrain_cli.brain.prediction import SourcePredictions
from synbrain_cli.errors import InputError
from synbrain_cli.evaluation.test_set import RELIABLE
from synbrain_cli.io.files import atomic, sha256, versions, write_json
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.token_store import TokenStore
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.metrics.accuracy import average_repeats, voxelwise_correlation
from synbrain_cli.metrics.bootstrap import weighted_correlation
from synbrain_cli.metrics.learning_curve import LearningCurveFit, fit_learning_curve
from synbrain_cli.metrics.noise_ceiling import correlation_ceiling
from synbrain_cli.model.linear import fit_linear
from synbrain_cli.model.transfer import Evidence, fit_adapter
from synbrain_cli.progress import Progress
from synbrain_cli.run import RunContext
from synbrain_cli.training.examples import load_examples
from synbrain_cli.training.shared_core import train_core

HOURS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # those that a person has are taken
LINEAR = "linear encoder"
STRATEGIES = ("shared-core", "source-map")
N_BOOT = 500
SCORE = "noise-normalised correlation"


@dataclass(frozen=True)
class Person:
    """Somebody to be adapted to, and what models of others there are.

    Attributes
    ----------
    subject : PreparedSubject
    store : TokenStore
    sources : list of (Brain, PreparedSubject, TokenStore)
        Models of other people, and their prepared data.
    full : Brain, optional
        A model of this person's full data, to compare with.
    """

    subject: PreparedSubject
    store: TokenStore
    sources: list[tuple[Brain, PreparedSubject, TokenStore]]
    full: Brain | None = None


@dataclass(frozen=True)
class LearningCurveResult:
    """Curves of one or several people.

    Attributes
    ----------
    folder : Path
        Holds ``scaling.json``, ``scaling.tsv``, ``hours.png`` and, with several sources,
        ``sources.png``.
    metrics : dict
    """

    folder: Path
    metrics: dict[str, Any]

    def table(self) -> pd.DataFrame:
        """One row a point: what grows, amount, person, strategy, score and interval."""
        return pd.DataFrame(self.metrics["points"])

    def fits(self) -> pd.DataFrame:
        """One row a curve: slope per tenfold amount, and what it takes to reach the target."""
        rows = []
        for curve in self.metrics["fits"]:
            low, high = curve["slope_ci"]
            reach, (soonest, latest) = curve["to_reach"], curve["to_reach_ci"]
            rows.append(
                {
                    "over": curve["over"],
                    "strategy": curve["strategy"],
                    "slope": curve["slope"],
                    "slope_low": low,
                    "slope_high": high,
                    "r2": curve["r2"],
                    "target": self.metrics["target"],
                    "to_reach": reach,
                    "to_reach_low": soonest,
                    "to_reach_high": latest,
                }
            )
        return pd.DataFrame(rows)


def scaling(
    workspace: Workspace,
    people: Sequence[Person],
    *,
    hours: Sequence[float] = HOURS,
    strategies: Sequence[str] = STRATEGIES,
    target: float | None = None,
    output: Path | None = None,
    n_boot: int = N_BOOT,
    seed: int = 0,
    progress: Progress | None = None,
) -> LearningCurveResult:
    """Score against hours of data and against the number of source people.

    The score is the median over reliable voxels (ncsnr above 0.2) of the correlation with the
    repeat average over test images, divided by its ceiling. Its law is
    `synbrain_cli.metrics.learning_curve`.

    Parameters
    ----------
    workspace : Workspace
        Keeps the shared cores.
    people : sequence of Person
    hours : sequence of float
        Those that a person has are taken. Over the number of sources, hours are 1, or the first
        of these.
    strategies : sequence of str
        Beside the linear encoder of the hours alone: "shared-core", "source-map".
    target : float, optional
        Score whose hours are told; default the mean over people of their full-data models, where
        there are any.
    output : path, optional
        Default ``outputs/sub-03_scaling``.
    n_boot : int
        Bootstrap draws of the test images, the same at every point of a person.
    seed : int
    progress : Progress, optional

    Raises
    ------
    InputError
        No ceiling; no amount that all of them have; fewer than two amounts.
    """
    progress = progress or Progress()
    longest = max(len(person.subject.sessions) for person in people)
    amounts = sorted({float(h) for h in hours if 0 < h <= longest})
    if len(amounts) < 2:
        raise InputError(
            f"--hours {', '.join(f'{h:g}' for h in hours)}: expected two or more different amounts "
            f"of at most {longest} hours (sessions): a slope needs two points"
        )
    at = 1.0 if 1.0 in amounts else amounts[0]
    most = max(len(person.sources) for person in people)
    counts = list(range(1, most + 1))
    names = (LINEAR, *strategies)
    by_hours = {name: _Curve.empty(people, amounts, n_boot) for name in names}
    by_sources = {name: _Curve.empty(people, counts, n_boot) for name in strategies}
    full = np.full(len(people), np.nan)
    evidence = _Evidence(workspace, seed, progress)
    with progress.bar("models", len(people) * (len(amounts) + len(counts))) as bar:
        for p, person in enumerate(people):
            judge = _Judge(person, n_boot, seed)
            if person.full is not None:
                full[p] = judge(person.full.mean(judge.tokens, unit="z"))[0]
            known = {s: _Known(evidence(s, person, len(person.sources)), judge) for s in strategies}
            for a, amount in enumerate(amounts):
                if amount <= len(person.subject.sessions):
                    predicted = _predictions(person, amount, known, judge, seed)
                    for name, values in predicted.items():
                        by_hours[name].put(p, a, judge(values))
                bar(f"sub-{person.subject.subject}, {amount:g} hours")
            for k, count in enumerate(counts):
                if count <= len(person.sources):
                    fewer = {s: _Known(evidence(s, person, count), judge) for s in strategies}
                    predicted = _predictions(person, at, fewer, judge, seed, linear=False)
                    for name, values in predicted.items():
                        by_sources[name].put(p, k, judge(values))
                bar(f"sub-{person.subject.subject}, {count} sources")

    if target is None and np.isfinite(full).any():
        target = float(np.nanmean(full))
    fits = _fit("hours", by_hours, amounts, target, seed)
    if len(counts) > 1:
        fits += _fit("sources", by_sources, counts, target, seed)
    labels = [f"{p.subject.dataset}/sub-{p.subject.subject}" for p in people]
    metrics = {
        "score": SCORE,
        "people": labels,
        "simulated": any(person.subject.simulated for person in people),
        "sources": {
            label: [brain.name for brain, _, _ in person.sources]
            for label, person in zip(labels, people, strict=True)
        },
        "hours_of_sources_curve": at,
        "target": target,
        "full_data": {
            label: None if np.isnan(value) else float(value)
            for label, value in zip(labels, full, strict=True)
        },
        "points": [
            *_points("hours", by_hours, amounts, labels),
            *_points("sources", by_sources, counts, labels),
        ],
        "fits": [entry for entry, _ in fits],
        "provenance": {
            "seed": seed,
            "n_boot": n_boot,
            "data": [
                sha256(person.subject.folder / "dataset_description.json") for person in people
            ],
            "versions": versions(),
        },
    }
    who = "+".join(f"sub-{person.subject.subject}" for person in people)
    folder = Path(output) if output else workspace.outputs / f"{who}_scaling"
    result = LearningCurveResult(folder, metrics)
    write_json(folder / "scaling.json", metrics)
    with atomic(folder / "scaling.tsv") as path:
        result.table().to_csv(path, sep="\t", index=False, float_format="%.5f")
    _draw(folder, metrics, fits, by_hours, by_sources, amounts, counts, labels, full, target)
    return result


# ------------------------------------------------------------------------ models of some hours


class _Evidence:
    """What models of other subjects predict, kept from one use to the next."""

    def __init__(self, workspace: Workspace, seed: int, progress: Progress) -> None:
        self.workspace, self.seed, self.progress = workspace, seed, progress

    def __call__(self, strategy: str, person: Person, n_sources: int) -> Evidence:
        chosen = person.sources[:n_sources]
        if strategy == "source-map":
            return SourcePredictions([brain for brain, _, _ in chosen])
        if strategy != "shared-core":
            raise InputError(f"--strategy {strategy}: expected one of {', '.join(STRATEGIES)}")
        known = [(subject, store) for _, subject, store in chosen]
        run = RunContext(self.seed, progress=self.progress)
        core = train_core(self.workspace, known, run)
        return core.evidence(person.subject)


class _Known:
    """Evidence, and what it says of a person's test images, which serves models of any hours."""

    def __init__(self, evidence: Evidence, judge: _Judge) -> None:
        self.evidence = evidence
        self.test = evidence(judge.tokens)


def _predictions(
    person: Person,
    hours: float,
    known: dict[str, _Known],
    judge: _Judge,
    seed: int,
    linear: bool = True,
) -> dict[str, np.ndarray]:
    """Test images' responses by models of the first hours, by name: (n_images, n_voxels)."""
    within = person.subject.first_hours(hours)
    examples = load_examples(person.subject, person.store, within)
    tokens, averages = examples.tokens, examples.averages
    predicted = {}
    if linear:
        encoder, _ = fit_linear(tokens, averages, np.random.default_rng(seed))
        predicted[LINEAR] = encoder.predict(examples.scaler(judge.tokens))
    raw_tokens = tokens.raw()
    for name, one in known.items():
        generator = np.random.default_rng([seed, 5])
        adapter, _ = fit_adapter(*one.evidence(raw_tokens), averages, generator)
        predicted[name] = adapter(*one.test)
    return predicted


class _Judge:
    """Scores predictions for one person's test images; every one by the same resampled images."""

    def __init__(self, person: Person, n_boot: int, seed: int) -> None:
        subject = person.subject
        test = subject.select("test")
        # In whatever unit: correlations know none.
        self.averages, index, n_repeats = average_repeats(test.betas, test.image_index)
        self.tokens = person.store.take(test.images[index])
        ncsnr = subject.voxels["ncsnr"].to_numpy(float)
        self.reliable = ncsnr > RELIABLE
        if not self.reliable.any():
            raise InputError(
                f"{subject.folder}: no voxel with an ncsnr above {RELIABLE}: a score as a share of "
                "its ceiling needs some; show images twice or more, or give ncsnr"
            )
        self.ceiling = correlation_ceiling(ncsnr, n_repeats)[self.reliable]
        n = len(self.averages)
        self.counts = np.random.default_rng([seed, 6]).multinomial(n, np.full(n, 1 / n), n_boot)

    def __call__(self, predicted: np.ndarray) -> tuple[float, np.ndarray]:
        """Score, and the scores of resampled images (n_boot,)."""
        truth = np.ascontiguousarray(self.averages[:, self.reliable])
        predicted = np.ascontiguousarray(predicted[:, self.reliable])
        boot = [
            np.nanmedian(weighted_correlation(truth, predicted, part) / self.ceiling, axis=1)
            for part in np.array_split(self.counts.astype(float), -(-len(self.counts) // 128))
        ]
        score = np.nanmedian(voxelwise_correlation(truth, predicted) / self.ceiling)
        return float(score), np.concatenate(boot)


@dataclass(frozen=True)
class _Curve:
    """Scores (n_people, n_amounts), and of resampled images (n_boot, n_people, n_amounts)."""

    scores: np.ndarray
    boot: np.ndarray

    @classmethod
    def empty(cls, people: Sequence[Person], amounts: Sequence[float], n_boot: int) -> _Curve:
        shape = (len(people), len(amounts))
        return cls(np.full(shape, np.nan), np.full((n_boot, *shape), np.nan))

    def put(self, person: int, amount: int, found: tuple[float, np.ndarray]) -> None:
        self.scores[person, amount], self.boot[:, person, amount] = found

    def interval(self) -> np.ndarray:
        """Of the mean over people: (n_amounts, 2)."""
        return np.stack(np.nanquantile(np.nanmean(self.boot, axis=1), [0.025, 0.975], axis=0), -1)


# ------------------------------------------------------------------------ results


def _fit(
    over: str,
    curves: dict[str, _Curve],
    amounts: Sequence[float],
    target: float | None,
    seed: int,
) -> list[tuple[dict[str, Any], LearningCurveFit]]:
    fits = []
    for name, curve in curves.items():
        fit = fit_learning_curve(
            amounts, curve.scores, curve.boot, generator=np.random.default_rng([seed, 7])
        )
        reach, ends = np.nan, (np.nan, np.nan)
        if target is not None:
            reach, ends = fit.amount_to_reach(target)
        entry = {
            "over": over,
            "strategy": name,
            **fit.to_dict(),
            "to_reach": _known(reach),
            "to_reach_ci": [_known(end) for end in ends],
        }
        fits.append((entry, fit))
    return fits


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _points(
    over: str, curves: dict[str, _Curve], amounts: Sequence[float], labels: list[str]
) -> list[dict[str, Any]]:
    points = []
    for name, curve in curves.items():
        for p, label in enumerate(labels):
            for a, amount in enumerate(amounts):
                if np.isfinite(curve.scores[p, a]):
                    low, high = np.nanquantile(curve.boot[:, p, a], [0.025, 0.975])
                    points.append(
                        {
                            "over": over,
                            "amount": float(amount),
                            "person": label,
                            "strategy": name,
                            "score": float(curve.scores[p, a]),
                            "ci_low": float(low),
                            "ci_high": float(high),
                        }
                    )
    return points


def _draw(
    folder: Path,
    metrics: dict[str, Any],
    fits: list[tuple[dict[str, Any], LearningCurveFit]],
    by_hours: dict[str, _Curve],
    by_sources: dict[str, _Curve],
    amounts: Sequence[float],
    counts: Sequence[int],
    labels: list[str],
    full: np.ndarray,
    target: float | None,
) -> None:
    from synbrain_cli.plotting.figure import save_figure
    from synbrain_cli.plotting.learning_curve import Curve, Levels, plot_learning_curve

    references = {"full data": float(np.nanmean(full))} if np.isfinite(full).any() else {}
    panels = {"hours": (by_hours, amounts)}
    if len(counts) > 1:
        panels["sources"] = (by_sources, counts)
    for over, (curves, amount) in panels.items():
        law = {entry["strategy"]: fit for entry, fit in fits if entry["over"] == over}
        figure = plot_learning_curve(
            {
                name: Curve(amount, curve.scores, curve.interval(), law[name], labels)
                for name, curve in curves.items()
            },
            unit="hours" if over == "hours" else "source people",
            ylabel="voxelwise correlation / its ceiling",
            levels=Levels(None, references, target if over == "hours" else None),
            simulated=metrics["simulated"],
        )
        save_figure(figure, folder / f"{over}.png")


def people_of(
    workspace: Workspace,
    subjects: Sequence[PreparedSubject],
    bundles: Sequence[Path],
    log: Callable[[str], None],
) -> list[Person]:
    """Who is adapted to, and from whose models.

    Parameters
    ----------
    subjects : sequence of PreparedSubject
    bundles : sequence of paths
        Models with all of somebody's data; of everybody but the person, they are the sources, and
        of the person, what to compare with.

    Raises
    ------
    InputError
        No model of anybody else.
    """
    brains = [load_model(path, "cpu") for path in bundles]
    people = []
    for subject in subjects:
        sources, full = [], None
        for brain in brains:
            if (brain.config.dataset, brain.subject) == (subject.dataset, subject.subject):
                full = full or (brain if brain.config.has_readout else None)
                continue
            other = workspace.find_subject(brain.subject, brain.config.dataset, log)
            spec = brain.config.encoder.spec
            sources.append((brain, other, workspace.find_tokens(other.dataset, spec, log)))
        if not sources:
            raise InputError(
                f"sub-{subject.subject}: no model of anybody else to adapt from: name some with "
                "--from, or train them"
            )
        spec = sources[0][0].config["encoder"]["spec"]
        people.append(
            Person(subject, workspace.find_tokens(subject.dataset, spec, log), sources, full)
        )
    return people
