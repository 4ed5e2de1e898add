"""Scores of predicted responses, beside those of baselines, controls and the noise ceiling."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from msgspec import UNSET
from msgspec.structs import replace
from numpy.typing import ArrayLike, NDArray

from synbrain_cli.brain import Brain
from synbrain_cli.config import repeats_advice
from synbrain_cli.evaluation.predictions import Predictions
from synbrain_cli.evaluation.retrieval import N_CANDIDATES
from synbrain_cli.evaluation.test_set import TestSet, scored_regions
from synbrain_cli.io.results.evaluation import RegionScores, ResponseScore, ResponseScores
from synbrain_cli.io.results.record import Absent, Interval, Number, Result, finite
from synbrain_cli.metrics.accuracy import (
    average_repeats,
    cosine_similarity,
    mean_squared_error,
    pattern_correlation,
    pooled_skill,
    squared_errors_of_images,
    voxelwise_correlation,
)
from synbrain_cli.metrics.bootstrap import Bootstrap, weighted_correlation, weighted_mean
from synbrain_cli.metrics.identification import n_way, pattern_similarity, two_way
from synbrain_cli.metrics.missing import known_mean, known_median
from synbrain_cli.metrics.similarity import WeightedCKA, WeightedRSA, linear_cka, rdm, rsa
from synbrain_cli.progress import UNSEEN, Progress, Share

Array = NDArray[np.floating]
Mask = NDArray[np.bool_]
LEAST_COMPARED = 4  # images, for RSA and debiased CKA
# Shares of correlations, skill, patterns, identification and similarities, with 500 test images
SCORE_TIMES = 8, 1, 14, 3, 8


class ResponseResults(Result, frozen=True, kw_only=True):
    """Scores of responses over all voxels and by region."""

    overall: ResponseScores
    roi: dict[str, RegionScores]


@dataclass(frozen=True, eq=False)
class _Part:
    """Responses within some voxels.

    Attributes
    ----------
    voxels : boolean array of shape (n_all_voxels,)
    truth : array of shape (n_images, n_voxels)
        Averages over repeats.
    predictions : dict of arrays of shape (n_images, n_voxels)
    baseline : array of shape (n_voxels,) or (n_images, n_voxels)
        Mean pattern: `Predictions.baseline`.
    deviation : array of shape (n_images, n_voxels)
        Of the model: `Predictions.deviations`.
    """

    voxels: Mask
    truth: Array
    predictions: dict[str, Array]
    baseline: Array
    deviation: Array


class ResponseScorer:
    """Scores predicted responses within any voxels.

    Parameters
    ----------
    brain : Brain
    test : TestSet
    predictions : Predictions
    bootstrap : Bootstrap

    Attributes
    ----------
    correlation : dict of arrays of shape (n_voxels,)
        Correlation over images of each prediction.
    """

    def __init__(
        self,
        brain: Brain,
        test: TestSet,
        predictions: Predictions,
        bootstrap: Bootstrap,
    ) -> None:
        self.brain, self.test, self.bootstrap = brain, test, bootstrap
        self.predictions = predictions
        self._baseline = predictions.baseline(brain)
        self.correlation: dict[str, Array] = {
            name: voxelwise_correlation(test.averages, np.ascontiguousarray(values))
            for name, values in predictions.deviations.items()
        }
        # What returns single trials to the recorded unit, where patterns have a mean.
        self._shift, self._scale = _recorded_scale(brain, test)
        self._halves = _halves(test.trials, test.image_index)

    def notes(self) -> list[str]:
        """Return why a ceiling is missing, where one is."""
        if not self.test.has_ceiling:
            return [
                "no noise ceiling: the data come without ncsnr, and without repeats of images from "
                f"which it could be estimated; {repeats_advice(self.test.averaged_over)}"
            ]
        if 1 < self.test.least_block < LEAST_COMPARED:
            return [
                "no RSA and no CKA: they compare the images of one fold, "
                f"{LEAST_COMPARED} or more: choose fewer folds"
            ]
        if self._halves is None:
            return [
                "no ceiling of RSA and CKA: expected four test images or more with two rows or more"
                if self.test.averaged_over > 1
                else "no ceiling of RSA and CKA: expected four test images or more that were shown "
                "twice"
            ]
        return []

    def score_all(self, progress: Progress) -> ResponseResults:
        """Score over all voxels, and within each region of 10 voxels or more."""
        regions = scored_regions(self.brain)
        every = np.ones(self.test.n_voxels, bool)
        n_voxels = [int(mask.sum()) for mask in (every, *regions.values())]
        with progress.stage("scores of predicted responses") as share:
            of_all, *of_regions = share.split(*n_voxels)
            overall = self.score(every, of_all)
            roi = {}
            for (name, mask), n, own in zip(regions.items(), n_voxels[1:], of_regions, strict=True):
                scores = self.score(mask, own)
                roi[name] = RegionScores(n_voxels=n, **dict(scores.items()))
        return ResponseResults(overall=overall, roi=roi)

    def score(self, voxels: Mask, share: Share = UNSEEN) -> ResponseScores:
        """Compute every score within some voxels.

        Parameters
        ----------
        voxels : boolean array of shape (n_voxels,)
        share : Share
            Of a task whose progress is shown.
        """
        correlating, skill, patterns, identifying, comparing = share.split(*SCORE_TIMES)
        part = _Part(
            voxels,
            np.ascontiguousarray(self.test.averages[:, voxels]),
            {k: np.ascontiguousarray(p[:, voxels]) for k, p in self.predictions.by_name.items()},
            self._baseline[..., voxels],
            np.ascontiguousarray(self.predictions.deviations["model"][:, voxels]),
        )
        scores = self._of_correlation(part)
        correlating.to(1)
        scores["skill"] = self._skill(part)
        skill.to(1)
        if voxels.sum() > 2:
            scores |= self._of_patterns(part)
            patterns.to(1)
            centred = {k: p - part.baseline for k, p in part.predictions.items()}
            recorded = part.truth - part.baseline
            if self.test.least_block > 1:
                scores |= self._identification(recorded, centred)
            identifying.to(1)
            if self.test.least_block >= LEAST_COMPARED:
                scores |= self._similarity(recorded, centred, voxels)
        comparing.to(1)
        return finite(ResponseScores(**scores))

    def _of_correlation(self, part: _Part) -> dict[str, ResponseScore]:
        """Median over voxels of r, and over reliable voxels of r² / ceiling."""
        voxels, test = part.voxels, self.test
        r = {k: self.correlation[k][voxels] for k in part.predictions}
        usable = test.reliable[voxels]
        explained = test.explained_ceiling[voxels][usable]
        normalised = test.has_ceiling and usable.any()

        def medians(counts: NDArray[np.float64]) -> Array:
            """Both scores that are made of r, so that it is computed once: (n_draws, 1 or 2)."""
            drawn = weighted_correlation(part.truth, part.deviation, counts)
            both = [known_median(drawn, axis=1)]
            if normalised:
                both.append(known_median(_signed_square(drawn[:, usable]) / explained, axis=1))
            return np.stack(both, axis=1)

        limits = self.bootstrap.interval(medians, test.n_images)
        ceiling = _median(test.ceiling[voxels]) if test.has_ceiling else None
        scores = {
            "voxelwise_correlation": _score(
                {k: _median(v) for k, v in r.items()}, ceiling, _pair(limits[0])
            )
        }
        if normalised:
            shares = {k: _median(_signed_square(v[usable]) / explained) for k, v in r.items()}
            scores["noise_normalised_r2"] = _score(shares, 1.0, _pair(limits[1]))
        return scores

    def _skill(self, part: _Part) -> ResponseScore:
        """Share of the mean pattern's squared error that is removed."""
        errors = squared_errors_of_images(part.truth, part.predictions["model"], part.baseline)
        interval = self.bootstrap.limits(
            lambda counts: 1 - np.divide(*(weighted_mean(errors, counts)).T), self.test.n_images
        )
        values = {
            k: pooled_skill(part.truth, p, part.baseline) for k, p in part.predictions.items()
        }
        return _score(values, None, interval)

    def _of_patterns(self, part: _Part) -> dict[str, ResponseScore]:
        """Scores across voxels of single trials in the recorded unit, as Mai et al. (2025)."""
        rows = self.test.image_index
        scale, shift = self._scale[:, part.voxels], self._shift[:, part.voxels]
        true = np.ascontiguousarray(self.test.trials[:, part.voxels] * scale + shift)
        found = {k: p[rows] * scale + shift for k, p in part.predictions.items()}
        counts = np.bincount(rows)
        scores = {}
        for score, function in (
            ("pattern_correlation", pattern_correlation),
            ("mse", mean_squared_error),
            ("cosine", cosine_similarity),
        ):
            values = {k: np.bincount(rows, function(true, p)) / counts for k, p in found.items()}
            means = {k: float(known_mean(v)) for k, v in values.items()}
            interval = self.bootstrap.limits_of_mean(values["model"])
            recording = _other_recording(function, true, rows)
            scores[score] = replace(_score(means, None, interval), recording=recording)
        return scores

    def _identification(
        self, recorded: Array, centred: Mapping[str, Array]
    ) -> dict[str, ResponseScore]:
        """Which image was seen, by patterns without the mean pattern that all images share.

        Among the images that one fit was tested on: what other fits predict, they learned from
        responses to this image.
        """
        blocks, n_candidates = self.test.blocks, min(N_CANDIDATES, self.test.least_block)
        two, several = {}, {}
        for name, predicted in centred.items():
            similarity = [pattern_similarity(recorded[b], predicted[b]) for b in blocks]
            two[name] = np.concatenate([two_way(s) for s in similarity])
            several[name] = np.concatenate([n_way(s, n_candidates) for s in similarity])
        return {
            "two_way_identification": self._mean_score(two),
            "n_way_identification": self._mean_score(several, n_candidates),
        }

    def _mean_score(
        self, values: Mapping[str, Array], n_candidates: int | Absent = UNSET
    ) -> ResponseScore:
        means = {k: float(v.mean()) for k, v in values.items()}
        return _score(means, None, self.bootstrap.limits_of_mean(values["model"]), n_candidates)

    def _similarity(
        self, recorded: Array, centred: Mapping[str, Array], voxels: Mask
    ) -> dict[str, ResponseScore]:
        """How images are similar to one another, without the mean pattern that they share.

        Of several fits: within the images that each was tested on, averaged.
        """
        n_images, blocks = self.test.n_images, self.test.blocks
        true = [rdm(recorded[b]) for b in blocks]
        distances = {k: [rdm(p[b]) for b in blocks] for k, p in centred.items()}
        rsas = {
            k: [rsa(t, d) for t, d in zip(true, of_blocks, strict=True)]
            for k, of_blocks in distances.items()
        }
        ckas = {k: [linear_cka(recorded[b], p[b]) for b in blocks] for k, p in centred.items()}

        rsa_of = [WeightedRSA(t, d) for t, d in zip(true, distances["model"], strict=True)]
        cka_of = [WeightedCKA(recorded[b], centred["model"][b]) for b in blocks]

        def resampled(statistics: Sequence[Callable[[Array], Array]], counts: Array) -> Array:
            pairs = zip(statistics, blocks, strict=True)
            return mean_of_blocks([_resampled(s, counts[:, b]) for s, b in pairs], blocks)

        return {
            "rsa": _score(
                {k: float(mean_of_blocks(v, blocks)) for k, v in rsas.items()},
                self._split_half(voxels, lambda a, b: rsa(rdm(a), rdm(b))),
                self.bootstrap.limits(partial(resampled, rsa_of), n_images),
            ),
            "cka": _score(
                {k: float(mean_of_blocks(v, blocks)) for k, v in ckas.items()},
                self._split_half(voxels, linear_cka),
                self.bootstrap.limits(partial(resampled, cka_of), n_images),
            ),
        }

    def _split_half(self, voxels: Mask, agreement: Callable[[Array, Array], float]) -> float | None:
        """Largest expected agreement with the averages over repeats: √ of their reliability.

        Reliability is the agreement of averages over odd and over even repeats, brought to the
        length of both together (Spearman 1910; Brown 1910).
        """
        if self._halves is None:
            return None
        first, second, images = self._halves
        baseline = np.broadcast_to(self._baseline[..., voxels], (self.test.n_images, voxels.sum()))
        first, second = (half[:, voxels] - baseline[images] for half in (first, second))
        chosen = [(images >= g.start) & (images < g.stop) for g in self.test.blocks]
        values = [
            agreement(first[some], second[some]) if some.sum() >= LEAST_COMPARED else np.nan
            for some in chosen
        ]
        halves = float(mean_of_blocks(values, self.test.blocks))
        return float(np.sqrt(2 * halves / (1 + halves))) if halves > 0 else None


def _score(
    values: Mapping[str, Number],
    ceiling: Number,
    ci: Interval,
    n_candidates: int | Absent = UNSET,
) -> ResponseScore:
    return ResponseScore(
        model=values["model"],
        network=values.get("network", UNSET),
        transfer=values.get("transfer", UNSET),
        deep=values.get("deep", UNSET),
        linear=values["linear"],
        mean_pattern=values["mean_pattern"],
        shuffled=values["shuffled"],
        ceiling=ceiling,
        ci=ci,
        n_candidates=n_candidates,
    )


def _pair(limits: NDArray[np.float64]) -> Interval:
    return float(limits[0]), float(limits[1])


def _recorded_scale(brain: Brain, test: TestSet) -> tuple[Array, Array]:
    """Mean and SD (n_trials, n_voxels) that return each trial to the recorded unit."""
    if brain.config.standardization == "none":
        shape = test.trials.shape
        return np.broadcast_to(brain.response_mean, shape), np.broadcast_to(
            brain.response_sd, shape
        )
    return test.subject.session_scale(test.session)


def _other_recording(
    function: Callable[[Array, Array], Array], trials: Array, rows: NDArray[np.integer]
) -> float | None:
    """Score of the average of an image's other trials as a prediction of a trial.

    None without repeats.
    """
    values = []
    for image in np.unique(rows):
        repeats = trials[rows == image]
        if len(repeats) > 1:
            others = (repeats.sum(0) - repeats) / (len(repeats) - 1)
            values.append(function(repeats, others))
    return float(known_mean(np.concatenate(values))) if values else None


def mean_of_blocks(values: Sequence[ArrayLike], blocks: Sequence[slice]) -> Array:
    """Mean of a score over blocks of images, each weighed by its number of pairs of images.

    Parameters
    ----------
    values : sequence of arrays of shape (...,)
        The score of each block; NaN is left out.
    blocks : sequence of slices

    Returns
    -------
    float64 array of shape (...,)
        NaN where all are.
    """
    every = np.array([np.asarray(v, np.float64) for v in values])
    if len(every) == 1:
        only: Array = every[0]
        return only
    sizes = np.array([g.stop - g.start for g in blocks], np.float64)
    pairs = np.expand_dims(sizes * (sizes - 1), tuple(range(1, every.ndim)))
    weights = np.where(np.isnan(every), 0, pairs)
    with np.errstate(invalid="ignore"):
        mean: Array = (np.nan_to_num(every) * weights).sum(0) / weights.sum(0)
    return mean


def _resampled(statistic: Callable[[Array], Array], counts: Array) -> Array:
    """A statistic of each sample (n_samples, n_images); NaN where a sample holds no image."""
    empty = counts.sum(1) == 0
    return np.where(empty, np.nan, statistic(np.where(empty[:, None], 1, counts)))


def _halves(
    trials: Array, rows: NDArray[np.integer]
) -> tuple[Array, Array, NDArray[np.integer]] | None:
    """Averages over odd and over even repeats of the images shown twice or more; these images."""
    repeat = np.empty(len(rows), int)
    for image in np.unique(rows):
        repeat[rows == image] = np.arange((rows == image).sum())
    images = np.unique(rows[repeat == 1])
    if len(images) < LEAST_COMPARED:
        return None
    halves = []
    for parity in (0, 1):
        some = (repeat % 2 == parity) & np.isin(rows, images)
        halves.append(average_repeats(trials[some], rows[some])[0])
    return halves[0], halves[1], images


def _signed_square(r: Array) -> Array:
    return np.sign(r) * r**2


def _median(values: Array) -> float | None:
    return float(known_median(values)) if np.isfinite(values).any() else None
