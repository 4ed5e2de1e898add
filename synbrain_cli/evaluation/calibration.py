"""Draws against held-out trials: coverage, scores, variances, reliability, noise correlations.

Draws are scored image by image, so that memory does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from msgspec import UNSET, UnsetType
from msgspec.structs import replace
from numpy.typing import NDArray
from scipy.stats import binom

from synbrain_cli.brain import Brain
from synbrain_cli.brain.drawing import Drawing
from synbrain_cli.evaluation.draw_tally import SUMMARY_LEVEL, Judged, Tally
from synbrain_cli.evaluation.image_averages import alike_groups
from synbrain_cli.evaluation.imitation import Imitation
from synbrain_cli.evaluation.predictions import DISTRIBUTIONS, Predictions
from synbrain_cli.evaluation.settings import EvaluateSettings
from synbrain_cli.evaluation.summaries import Kind, Summaries
from synbrain_cli.evaluation.test_set import TestSet, region_averaging, scored_regions
from synbrain_cli.io.results.evaluation import (
    DrawScore,
    DrawScores,
    LatentNoiseFactor,
    PITHistograms,
)
from synbrain_cli.io.results.record import Interval, Number, Result, finite
from synbrain_cli.metrics.bootstrap import Bootstrap
from synbrain_cli.metrics.calibration import LEVELS, Ensemble
from synbrain_cli.metrics.missing import known_median
from synbrain_cli.run import RunContext
from synbrain_cli.threads import one_thread
from synbrain_cli.tokens import Tokens

NOISE_FACTORS = (0.25, 0.5, 0.75, 1.0)  # of the published latent noise, nf in [0, 1]
N_LATENT = 20  # draws of it: each is a pass of the decoder; both scores are fair in their number
N_PAIRS = 2_000  # of voxels, of the variogram score (ours)
ACCEPTABLE = (0.84, 0.96)  # 90 % coverage of a voxel or region; outside it a note is made

Masks = Mapping[str, NDArray[np.bool_]]


class Calibration(Result, frozen=True, kw_only=True):
    """Scores of the draws, some of them by voxel, and notes on where the draws do not fit.

    Attributes
    ----------
    scores : DrawScores
    voxels : dict of lists of n_voxels numbers
        ``coverage_90``, ``variance_ratio`` and, where there are repeats, ``ncsnr_of_draws``.
    notes : list of str
    """

    scores: DrawScores
    voxels: dict[str, list[Number]]
    notes: list[str]

    def columns(self) -> Iterator[tuple[str, NDArray[np.float64]]]:
        """Name and values (n_voxels,) of each score by voxel."""
        for name, values in self.voxels.items():
            yield name, np.array(values, float)


def calibrate(
    brain: Brain,
    test: TestSet,
    predictions: Predictions,
    settings: EvaluateSettings,
    run: RunContext,
) -> Calibration:
    """Score calibrated draws beside those of simpler distributions.

    The others: ``linear``, the linear encoder with independent normal noise of constant variance;
    ``mean_pattern``, the training mean with the same; ``latent_nf1``, the published sampling with a
    noise factor of 1, and ``latent_best``, with the noise factor best *on these trials*;
    ``shuffled``, the model's draws for another image.

    Intervals, CRPS and energy score are computed with unexplained signal drawn afresh; reliability
    (ncsnr) and noise correlations on imitations of the recording: as many repeats of each image
    as were recorded, with the signal shared among them.

    Parameters
    ----------
    brain : Brain
    test : TestSet
    predictions : Predictions
    settings : EvaluateSettings
    run : RunContext
        Its seed and progress are used.
    """
    scoring = _Scoring(brain, test, predictions, settings, run.seed)
    shorter = "--draws 50" + (" --no-latent" if settings.latent else "")
    bar = run.progress.bar("scoring draws", test.n_images, shorter=shorter)
    with bar as shown, one_thread():
        for image in range(test.n_images):
            scoring.add(image)
            shown.to(image + 1, test.n_images)
    bootstrap = test.bootstrap(settings.n_boot, run.seed)
    scores = _scores(scoring.all_tallies(), test, scored_regions(brain), bootstrap)
    scores = replace(scores, latent_noise_factor=scoring.latent_noise_factor())
    model = scoring.tallies["model"]
    coverage = model.inside[LEVELS.index(0.9)] / model.n_trials
    voxels = {
        "coverage_90": coverage,
        "variance_ratio": _ratio(model.variance(), test.trials.var(0, ddof=1)),
    }
    notes = _notes_on_coverage(scores, coverage, len(test.trials))
    away = predictions["model"] - predictions["mean_pattern"]
    groups = alike_groups(away, test.blocks, test.groups)
    scores = scoring.imitation.compare_averages(scores, test, groups, bootstrap)
    if test.n_repeats.max() > 1:
        scores = scoring.imitation.compare(scores, test)
        # Of single trials, as the ncsnr that stands beside it
        voxels["ncsnr_of_draws"] = scoring.imitation.ncsnr() / np.sqrt(test.averaged_over)
    else:
        what = "was shown twice" if test.averaged_over == 1 else "has two averages of its trials"
        notes.append(
            f"no test image {what}: reliability and noise correlations of draws cannot be "
            "compared with recorded ones"
        )
    lists = {name: values.tolist() for name, values in voxels.items()}
    return finite(Calibration(scores=scores, voxels=lists, notes=notes))


# ----------------------------------------------------------------------------- image by image


class _Scoring:
    """Draws responses to one image after another, and scores them."""

    def __init__(
        self,
        brain: Brain,
        test: TestSet,
        predictions: Predictions,
        settings: EvaluateSettings,
        seed: int,
    ) -> None:
        self._brain, self._test, self._predictions = brain, test, predictions
        self._n_draws, self._seed = settings.n_draws, seed
        self._generator = np.random.default_rng([seed, 2])
        judged = Judged(
            Summaries.of(
                scored_regions(brain),
                brain.distribution.readout.noise.loadings,
                predictions["model"],
            ),
            _pairs(brain.n_voxels, np.random.default_rng([seed, 4])),
        )
        names = (*DISTRIBUTIONS, "shuffled")
        factors = NOISE_FACTORS if settings.latent and brain.config.has_networks else ()
        self.tallies = {name: Tally(test.n_images, judged) for name in names}
        self._latents = {factor: Tally(test.n_images, judged) for factor in factors}
        averaging = region_averaging(scored_regions(brain), brain.n_voxels)
        self.imitation = Imitation(averaging, test.n_repeats, self._generator)

    def add(self, image: int) -> None:
        """Draw responses to one image, by every distribution, and score them."""
        test, rows = self._test, self._test.image_index
        own = test.trials[rows == image]
        other = test.trials[rows == self._predictions.shuffle[image]]
        drawing = Drawing(self._n_draws, self._seed, signal="fresh")
        distributions = self._predictions.draw_all(self._brain, test, image, drawing)
        for name, drawn in zip(DISTRIBUTIONS, distributions, strict=True):
            draws = Ensemble(drawn)
            self.tallies[name].add(image, own, draws, self._generator)
            if name == "model":
                self.tallies["shuffled"].add(image, other, draws, self._generator)
        for factor, tally in self._latents.items():
            drawn = latent_draws(self._brain, test.token(image), factor, (self._seed, image))
            tally.add(image, own, Ensemble(drawn), self._generator)
        for k in range(self.imitation.n_recordings):
            drawing = Drawing(len(own), self._seed + 1 + k)
            repeats = self._predictions.draw(self._brain, test, image, drawing)
            self.imitation.add(image, k, repeats)

    def all_tallies(self) -> dict[str, Tally]:
        """Return the scores of all distributions, by name."""
        if not self._latents:
            return self.tallies
        latents = {"latent_nf1": self._latents[1.0], "latent_best": self._latents[self._best()]}
        return self.tallies | latents

    def latent_noise_factor(self) -> LatentNoiseFactor | UnsetType:
        """Return the scores of the published sampling by noise factor, where it was scored."""
        if not self._latents:
            return UNSET
        return LatentNoiseFactor(
            best=self._best(),
            energy_score={str(f): float(t.energy_image.mean()) for f, t in self._latents.items()},
            crps={str(f): float(t.crps_image.mean()) for f, t in self._latents.items()},
        )

    def _best(self) -> float:
        return min(self._latents, key=lambda f: self._latents[f].energy_image.mean())


def _pairs(n_voxels: int, generator: np.random.Generator) -> NDArray[np.intp]:
    """Pairs of voxels at random: int (N_PAIRS, 2), or all where these are fewer."""
    if n_voxels * (n_voxels - 1) // 2 <= N_PAIRS:
        return np.stack(np.triu_indices(n_voxels, 1), 1)
    first = generator.integers(n_voxels, size=N_PAIRS)
    second = (first + generator.integers(1, n_voxels, size=N_PAIRS)) % n_voxels
    return np.stack([first, second], 1)


@torch.inference_mode()
def latent_draws(
    brain: Brain, token: Tokens, factor: float, key: tuple[int, int], n_draws: int = N_LATENT
) -> NDArray[np.float32]:
    """Draw by the published sampling, all draws in one pass: (n_draws, n_voxels), standardised.

    Parameters
    ----------
    brain : Brain
        With the published networks.
    token : Tokens
        Of one image.
    factor : float
        The noise factor.
    key : pair of int
        Of the random numbers.
    n_draws : int
    """
    shape = (n_draws, *brain.networks.latent_readout.sd.shape)
    noise = np.random.default_rng([*key, 3]).standard_normal(shape, np.float32)
    latent = brain.latent(token) + torch.from_numpy(np.float32(factor) * noise).to(brain.device)
    draws: NDArray[np.float32] = brain.networks.vae.decode(latent, brain.n_voxels).cpu().numpy()
    return draws


# ------------------------------------------------------------------------------------- scores


def _scores(
    tallies: dict[str, Tally], test: TestSet, regions: Masks, bootstrap: Bootstrap
) -> DrawScores:
    recorded = test.trials.var(0, ddof=1)
    coverage = [_coverage(tallies, level, regions, bootstrap) for level in LEVELS]
    return DrawScores(
        coverage_50=coverage[0],
        coverage_80=coverage[1],
        coverage_90=coverage[2],
        coverage_95=coverage[3],
        coverage_90_region_means=_summaries(tallies, "region_means", bootstrap, list(regions)),
        coverage_90_region_differences=_summaries(tallies, "region_differences", bootstrap),
        coverage_90_noise_components=_summaries(tallies, "noise_components", bootstrap),
        coverage_90_signal_components=_summaries(tallies, "signal_components", bootstrap),
        coverage_90_distances=_summaries(tallies, "distances", bootstrap),
        crps=_crps(tallies, regions, bootstrap),
        energy_score=_of_patterns(tallies, lambda tally: tally.energy_image, bootstrap),
        variogram_score=_variogram_score(tallies, bootstrap),
        variance_ratio=_variance_ratio(tallies, recorded, regions),
        variance_ratio_median_voxel=replace(
            _beside(tallies, lambda t: float(known_median(_ratio(t.variance(), recorded)))),
            nominal=1.0,
        ),
        pit_histogram=PITHistograms(
            **{k: (t.histogram / t.histogram.mean()).round(4).tolist() for k, t in tallies.items()}
        ),
    )


def _beside(tallies: Mapping[str, Tally], value: Callable[[Tally], Number]) -> DrawScore:
    """One score of every distribution."""
    values = {name: value(tally) for name, tally in tallies.items()}
    return DrawScore(
        model=values["model"],
        linear=values["linear"],
        mean_pattern=values["mean_pattern"],
        shuffled=values["shuffled"],
        latent_nf1=values.get("latent_nf1", UNSET),
        latent_best=values.get("latent_best", UNSET),
    )


def _coverage(
    tallies: Mapping[str, Tally], level: float, regions: Masks, bootstrap: Bootstrap
) -> DrawScore:
    """Share of trials within the central interval of the draws."""
    j, model = LEVELS.index(level), tallies["model"]

    def covered(tally: Tally) -> float | None:
        return float(tally.inside_image[:, j].mean()) if tally.reaches(level) else None

    by_region = {
        name: float(model.inside[j][mask].mean() / model.n_trials) for name, mask in regions.items()
    }
    interval = bootstrap.limits_of_mean(model.inside_image[:, j])
    return replace(_beside(tallies, covered), nominal=level, ci=interval, roi=by_region)


def _summaries(
    tallies: Mapping[str, Tally], kind: Kind, bootstrap: Bootstrap, names: Sequence[str] = ()
) -> DrawScore | UnsetType:
    """Share of trials whose summaries are within the central 90 % of the draws'.

    Absent where there is no summary of the kind. ``names`` are those of single summaries.
    """
    model = tallies["model"]
    columns = model.judged.summaries.kinds.get(kind)
    if columns is None:
        return UNSET
    # Distances are of every image but the first
    known = np.isfinite(model.inside_summaries[:, columns]).all(1)

    def inside(tally: Tally) -> NDArray[np.float64]:
        return tally.inside_summaries[known, columns]

    def covered(tally: Tally) -> float | None:
        return float(inside(tally).mean()) if tally.reaches(SUMMARY_LEVEL) else None

    by_name = dict(zip(names, inside(model).mean(0).tolist(), strict=False))
    histogram = model.summary_histogram[columns].sum(0)
    return replace(
        _beside(tallies, covered),
        nominal=SUMMARY_LEVEL,
        ci=bootstrap.of(np.flatnonzero(known)).limits_of_mean(inside(model).mean(1)),
        roi=by_name or UNSET,
        pit_histogram=(histogram / histogram.mean()).round(4).tolist(),
    )


def _crps(tallies: Mapping[str, Tally], regions: Masks, bootstrap: Bootstrap) -> DrawScore:
    """Continuous ranked probability score."""
    model = tallies["model"]
    by_region = {k: float(model.crps[m].mean() / model.n_trials) for k, m in regions.items()}
    per_image = {name: tally.crps_image for name, tally in tallies.items()}
    return replace(
        _beside(tallies, lambda t: float(t.crps_image.mean())),
        ci=bootstrap.limits_of_mean(model.crps_image),
        roi=by_region,
        gain_ci=_gains(per_image, bootstrap),
    )


def _variogram_score(tallies: Mapping[str, Tally], bootstrap: Bootstrap) -> DrawScore | UnsetType:
    """Variogram score of patterns; absent for a single voxel."""
    if not len(tallies["model"].judged.pairs):
        return UNSET
    return _of_patterns(tallies, lambda tally: tally.variogram_image, bootstrap)


def _of_patterns(
    tallies: Mapping[str, Tally],
    of_images: Callable[[Tally], NDArray[np.float64]],
    bootstrap: Bootstrap,
) -> DrawScore:
    """A score of whole patterns that is a mean over images."""
    per_image = {name: of_images(tally) for name, tally in tallies.items()}
    return replace(
        _beside(tallies, lambda tally: float(of_images(tally).mean())),
        ci=bootstrap.limits_of_mean(per_image["model"]),
        gain_ci=_gains(per_image, bootstrap),
    )


def _gains(
    per_image: Mapping[str, NDArray[np.float64]], bootstrap: Bootstrap
) -> dict[str, tuple[Number, Number]]:
    """Intervals of differences to the model: on the same images, far surer than the scores."""
    return {
        name: bootstrap.limits_of_mean(values - per_image["model"])
        for name, values in per_image.items()
        if name != "model"
    }


def _variance_ratio(
    tallies: Mapping[str, Tally], recorded: NDArray[np.float32], regions: Masks
) -> DrawScore:
    """Total variance of draws over that of recorded trials."""
    variance = tallies["model"].variance()
    return replace(
        _beside(tallies, lambda t: float(t.variance().sum() / recorded.sum())),
        nominal=1.0,
        roi={k: float(variance[m].sum() / recorded[m].sum()) for k, m in regions.items()},
    )


def _ratio(drawn: NDArray[np.float64], recorded: NDArray[np.float32]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(recorded > 0, drawn / recorded, np.nan)


def _notes_on_coverage(
    scores: DrawScores, coverage: NDArray[np.float64], n_trials: int
) -> list[str]:
    """Notes on regions and voxels whose intervals cover too few or too many trials."""
    low, high = ACCEPTABLE
    notes = [
        f"{name}: 90 % intervals cover {value:.1%} of held-out trials"
        for name, value in (scores.coverage_90.roi or {}).items()
        if value is not None and not low <= value <= high
    ]
    means = scores.coverage_90_region_means
    inside = None if means is UNSET else means.model
    by_chance = means is not UNSET and _holds(means.ci, 0.9)
    if inside is not None and not low <= inside <= high and not by_chance:
        notes.append(
            f"means of regions: 90 % intervals hold {inside:.1%} of held-out trials, those "
            f"of single voxels {scores.coverage_90.model:.1%}: voxels vary together "
            f"{'more' if inside < low else 'less'} in recordings than in draws"
        )
    # The coverage of a single voxel rests on few trials: the limits allow for chance.
    low = binom.ppf(0.01, n_trials, low) / n_trials
    high = binom.ppf(0.99, n_trials, high) / n_trials
    outside = (coverage < low) | (coverage > high)
    if outside.any():
        notes.append(
            f"{outside.sum()} of {len(outside)} voxels have 90 % intervals that cover less than "
            f"{low:.1%}{f' or more than {high:.1%}' if high < 1 else ''} of held-out trials "
            "(voxels.tsv: coverage_90)"
        )
    return notes


def _holds(interval: Interval | UnsetType, value: float) -> bool:
    """Whether the 95 % interval of a score over images holds a value: few images tell little."""
    if interval is UNSET:
        return False
    low, high = interval
    return low is not None and high is not None and low <= value <= high
