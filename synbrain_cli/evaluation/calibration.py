"""Draws against held-out trials: coverage, scores, variances, reliability, noise correlations.

Everything is judged image by image, so that memory does not grow with the number of draws.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.stats import binom

from synbrain_cli.brain import Brain
from synbrain_cli.brain.drawing import Drawing
from synbrain_cli.brain.images import token_digest
from synbrain_cli.metrics.accuracy import bootstrap_ci, ncsnr, ncsnr_of_sums, weighted_mean
from synbrain_cli.metrics.draws import (
    LEVELS,
    crps,
    energy_score,
    line_agreement,
    noise_correlation_agreement,
    pit,
)
from synbrain_cli.model.readout import Readout
from synbrain_cli.progress import Progress

N_DRAWS, MIN_DRAWS = 200, 20  # per image: by default, and at least
N_BINS = 20
N_RECORDINGS = 60  # imitations of the whole test recording: fewer would add noise of their own
N_PAIRED = 500  # voxels whose noise correlations are compared: 125,000 pairs
NOISE_FACTORS = (0.25, 0.5, 0.75, 1.0)  # of the paper's latent noise, nf in [0, 1]
N_LATENT = 20  # draws of it: each is a pass of the decoder; both scores are fair in their number
MIN_VOXELS = 10  # of a region that is scored
TOO_FAR = (0.84, 0.96)  # 90 % coverage of a voxel or region beyond which the fit is called bad

REGION_LEVEL = 0.9  # of the intervals in which trials' region means are counted

Draw = Callable[[int, int], np.ndarray]  # image, number of draws → (n_draws, n_voxels)


@dataclass
class Tally:
    """What is kept of one distribution's draws while images go by; all float64.

    Attributes
    ----------
    histogram : array of shape (N_BINS,)
        Trials and voxels by their rank among the draws.
    inside, inside_image : arrays of shape (n_levels, n_voxels) and (n_images, n_levels)
        Trials inside each central interval; and their share, over an image's trials and voxels.
    crps, crps_image : arrays of shape (n_voxels,) and (n_images,)
        Sum over trials; and mean over an image's trials and voxels.
    energy_image : array of shape (n_images,)
        Mean over an image's trials.
    moments : array of shape (2, n_voxels)
        Sums of draws and of their squares.
    inside_regions : array of shape (n_images, n_regions)
        Share of an image's trials whose region mean is inside the central 90 % of the draws'.
    """

    n_images: int
    averaging: np.ndarray  # (n_voxels, n_regions): voxels → region means
    n_trials: int = 0
    histogram: np.ndarray = field(init=False)
    inside: np.ndarray = field(init=False)
    inside_image: np.ndarray = field(init=False)
    crps: np.ndarray = field(init=False)
    crps_image: np.ndarray = field(init=False)
    energy_image: np.ndarray = field(init=False)
    moments: np.ndarray = field(init=False)
    inside_regions: np.ndarray = field(init=False)
    n_draws: int = 0

    def __post_init__(self) -> None:
        self.histogram = np.zeros(N_BINS)
        n_voxels, n_regions = self.averaging.shape
        self.inside = np.zeros((len(LEVELS), n_voxels))
        self.inside_image = np.zeros((self.n_images, len(LEVELS)))
        self.crps = np.zeros(n_voxels)
        self.crps_image = np.zeros(self.n_images)
        self.energy_image = np.zeros(self.n_images)
        self.moments = np.zeros((2, n_voxels))
        self.inside_regions = np.zeros((self.n_images, n_regions))

    def add(
        self, image: int, trials: np.ndarray, draws: np.ndarray, generator: np.random.Generator
    ) -> None:
        """Judge the draws of one image by its trials."""
        place = pit(trials, draws, generator)
        self.histogram += np.histogram(place, N_BINS, (0, 1))[0]
        for j, level in enumerate(LEVELS):
            hit = np.abs(place - 0.5) <= level / 2
            self.inside[j] += hit.sum(0)
            self.inside_image[image, j] = hit.mean()
        score = crps(trials, draws)
        self.crps += score.sum(0, dtype=np.float64)
        self.crps_image[image] = score.mean(dtype=np.float64)
        self.energy_image[image] = energy_score(trials, draws).mean(dtype=np.float64)
        self.moments += (
            draws.sum(0, dtype=np.float64),
            np.einsum("ij,ij->j", draws, draws, dtype=np.float64),
        )
        if self.averaging.size:
            means = (trials @ self.averaging, draws @ self.averaging)
            # Random numbers of their own: those of voxels stay as they are without regions.
            place = pit(*means, generator.spawn(1)[0])
            self.inside_regions[image] = (np.abs(place - 0.5) <= REGION_LEVEL / 2).mean(0)
        self.n_trials += len(trials)
        self.n_draws += len(draws)

    def variance(self) -> np.ndarray:
        """Total variance of the draws, over images and draws: (n_voxels,)."""
        total, squares = self.moments / self.n_draws
        return (squares - total**2) * self.n_draws / (self.n_draws - 1)


@dataclass(frozen=True)
class Judgement:
    """Scores of the draws, the same per voxel, and notes on where they do not fit."""

    scores: dict[str, Any]
    voxels: dict[str, np.ndarray]
    notes: list[str]


def judge_draws(
    brain: Brain,
    tokens: np.ndarray,
    trials: np.ndarray,
    rows: np.ndarray,
    means: np.ndarray,
    linear: np.ndarray,
    shuffle: np.ndarray,
    *,
    n_draws: int,
    n_boot: int,
    seed: int,
    latent: bool,
    progress: Progress,
) -> Judgement:
    """Judge calibrated draws beside those of simpler distributions.

    The others: ``linear``, the linear encoder with independent normal noise of constant variance;
    ``mean_pattern``, the training mean with the same; ``latent_nf1``, the paper's sampling with a
    noise factor of 1, and ``latent_best``, with the noise factor best *on these trials*;
    ``shuffled``, the model's draws for another image.

    Intervals, CRPS and energy score are judged with unexplained signal drawn afresh; reliability
    (ncsnr) and noise correlations on imitations of the recording: as many repeats of each image
    as were recorded, with the signal shared among them.

    Parameters
    ----------
    brain : Brain
    tokens : float array of shape (n_images, n_tokens, n_dims)
    trials : float32 array of shape (n_trials, n_voxels), standardised
    rows : int array of shape (n_trials,)
        Image of each trial.
    means, linear : float32 arrays of shape (n_images, n_voxels)
        The model's and the linear encoder's predictions, standardised.
    shuffle : int array of shape (n_images,)
        Another image for each.
    latent : bool
        Whether to judge the paper's sampling: a pass of the decoder for every draw.
    """
    n_images = len(tokens)
    averaging = _averaging(scored_regions(brain), brain.n_voxels)
    digests = [token_digest(token) for token in tokens]
    distributions = _distributions(brain, digests, means, linear, seed)
    generator = np.random.default_rng([seed, 2])
    tallies = {name: Tally(n_images, averaging) for name in (*distributions, "shuffled")}
    factors = NOISE_FACTORS if latent and brain.config.has_networks else ()
    latents = {factor: Tally(n_images, averaging) for factor in factors}
    imitation = _Imitation(brain.n_voxels, np.bincount(rows), generator)
    with progress.bar("judging draws", n_images) as bar:
        for image in range(n_images):
            own, other = trials[rows == image], trials[rows == shuffle[image]]
            for name, draw in distributions.items():
                draws = draw(image, n_draws)
                tallies[name].add(image, own, draws, generator)
                if name == "model":
                    tallies["shuffled"].add(image, other, draws, generator)
            for factor in factors:
                draws = _latent_draws(brain, tokens[image], factor, (seed, image))
                latents[factor].add(image, own, draws, generator)
            for k in range(N_RECORDINGS):
                drawing = Drawing(len(own), seed + 1 + k)
                imitation.add(image, k, brain.draw_around(means[image], digests[image], drawing))
            bar.to(image + 1, n_images)
    if factors:
        best = min(factors, key=lambda f: latents[f].energy_image.mean())
        tallies |= {"latent_nf1": latents[1.0], "latent_best": latents[best]}
    scores = _scores(tallies, brain, trials, n_boot, seed)
    if factors:
        scores["latent_noise_factor"] = {
            "best": best,
            "energy_score": {str(f): float(t.energy_image.mean()) for f, t in latents.items()},
            "crps": {str(f): float(t.crps_image.mean()) for f, t in latents.items()},
        }
    voxels = {
        "coverage_90": tallies["model"].inside[LEVELS.index(0.9)] / tallies["model"].n_trials,
        "variance_ratio": _ratio(tallies["model"].variance(), trials.var(0, ddof=1)),
    }
    notes = _where_it_does_not_fit(scores, voxels["coverage_90"], len(trials))
    if np.bincount(rows).max() > 1:
        scores |= imitation.compare(brain, trials, rows)
        voxels["ncsnr_of_draws"] = imitation.ncsnr()
    else:
        notes.append(
            "no test image was shown twice: reliability and noise correlations of draws cannot be "
            "compared with recorded ones"
        )
    return Judgement(scores, voxels, notes)


def scored_regions(brain: Brain) -> dict[str, np.ndarray]:
    """Regions large enough for scores of their own: boolean array (n_voxels,) each."""
    return {name: mask for name, mask in brain.rois().items() if mask.sum() >= MIN_VOXELS}


def _averaging(regions: dict[str, np.ndarray], n_voxels: int) -> np.ndarray:
    """Voxels → region means: float32 (n_voxels, n_regions)."""
    masks = np.array(list(regions.values()), np.float32).reshape(len(regions), n_voxels).T
    return masks / np.maximum(masks.sum(0), 1)


def _distributions(
    brain: Brain, digests: list[str], means: np.ndarray, linear: np.ndarray, seed: int
) -> dict[str, Draw]:
    """Distributions around a mean, all drawn with the same random numbers."""
    constant = np.broadcast_to(brain.distribution.mean_pattern, means.shape)
    around = {
        "model": (means, brain.distribution.readout),
        "linear": (linear, Readout.gaussian(brain.distribution.linear_variance)),
        "mean_pattern": (constant, Readout.gaussian(brain.distribution.trial_variance)),
    }

    def drawer(mean: np.ndarray, readout: Readout) -> Draw:
        return lambda image, n: brain.draw_around(
            mean[image], digests[image], Drawing(n, seed, signal="fresh"), readout
        )

    return {name: drawer(*one) for name, one in around.items()}


@torch.inference_mode()
def _latent_draws(
    brain: Brain, token: np.ndarray, factor: float, key: tuple[int, int]
) -> np.ndarray:
    """The paper's sampling, all draws in one pass: (N_LATENT, n_voxels), standardised."""
    shape = (N_LATENT, *brain.networks.latent_readout.sd.shape)
    noise = np.random.default_rng([*key, 3]).standard_normal(shape, np.float32)
    latent = brain.latent(token) + torch.from_numpy(np.float32(factor) * noise).to(brain.device)
    return brain.networks.vae.decode(latent, brain.n_voxels).cpu().numpy()


class _Imitation:
    """Draws in the design of the test recording, several times over."""

    def __init__(
        self, n_voxels: int, n_repeats: np.ndarray, generator: np.random.Generator
    ) -> None:
        self.n_repeats = n_repeats
        self.generator = generator
        self.chosen = np.sort(generator.choice(n_voxels, min(N_PAIRED, n_voxels), replace=False))
        self.total, self.squares, self.within = np.zeros((3, N_RECORDINGS, n_voxels))
        self.some: list[np.ndarray] = []
        self.index: list[np.ndarray] = []

    def add(self, image: int, k: int, repeats: np.ndarray) -> None:
        repeats = repeats.astype(np.float64)
        self.total[k] += repeats.sum(0)
        self.squares[k] += (repeats**2).sum(0)
        self.within[k] += ((repeats - repeats.mean(0)) ** 2).sum(0)
        self.some.append(repeats[:, self.chosen].astype(np.float32))
        self.index.append(np.full(len(repeats), image * N_RECORDINGS + k))

    def ncsnr(self) -> np.ndarray:
        """Root mean square over recordings: (n_voxels,)."""
        around = self.squares - self.total**2 / self.n_repeats.sum()
        each = [
            ncsnr_of_sums(a, w, self.n_repeats) for a, w in zip(around, self.within, strict=True)
        ]
        return np.sqrt(np.mean(np.square(each), 0))

    def compare(self, brain: Brain, trials: np.ndarray, rows: np.ndarray) -> dict[str, Any]:
        """Reliability and noise correlations of draws against the recorded ones."""
        stored = brain.voxels["ncsnr"].to_numpy(float)
        scores: dict[str, Any] = {}
        if np.isfinite(stored).any():
            ours = line_agreement(self.ncsnr(), stored)
            again = line_agreement(ncsnr(trials, rows), stored)
            scores |= {
                f"ncsnr_{name}": {"model": ours[name], "test_trials": again[name]} for name in ours
            }
        if len(self.chosen) >= 3 and (self.n_repeats > 1).sum() >= 4:
            found = noise_correlation_agreement(
                np.concatenate(self.some),
                np.concatenate(self.index),
                trials[:, self.chosen],
                rows,
                self.generator,
            )
            scores["noise_correlation"] = {
                "model": found["correlation"],
                "ceiling": found["ceiling"],
                "share_of_ceiling": found["share"],
            }
        return scores


def _scores(
    tallies: dict[str, Tally], brain: Brain, trials: np.ndarray, n_boot: int, seed: int
) -> dict[str, Any]:
    model = tallies["model"]
    rois = scored_regions(brain)

    def interval(per_image: np.ndarray) -> list[float]:
        low, high = bootstrap_ci(
            lambda counts: weighted_mean(per_image, counts),
            len(per_image),
            np.random.default_rng(seed),
            n_boot,
        )
        return [float(low), float(high)]

    def covered(tally: Tally, j: int) -> float | None:
        return float(tally.inside_image[:, j].mean()) if _reaches(tally, LEVELS[j]) else None

    scores: dict[str, Any] = {}
    for j, level in enumerate(LEVELS):
        scores[f"coverage_{round(100 * level)}"] = {
            **{k: covered(t, j) for k, t in tallies.items()},
            "nominal": level,
            "ci": interval(model.inside_image[:, j]),
            "roi": {
                name: float(model.inside[j][mask].mean() / model.n_trials)
                for name, mask in rois.items()
            },
        }
    if rois:
        # A voxel's draws can be right while voxels vary together too little, or too much.
        inside = {k: t.inside_regions for k, t in tallies.items() if _reaches(t, REGION_LEVEL)}
        scores["coverage_90_region_means"] = {
            **{k: float(inside[k].mean()) if k in inside else None for k in tallies},
            "nominal": REGION_LEVEL,
            "ci": interval(model.inside_regions.mean(1)),
            "roi": dict(zip(rois, model.inside_regions.mean(0).tolist(), strict=True)),
        }
    scores["crps"] = {
        **{k: float(t.crps_image.mean()) for k, t in tallies.items()},
        "ci": interval(model.crps_image),
        "roi": {k: float(model.crps[mask].mean() / model.n_trials) for k, mask in rois.items()},
    }
    scores["energy_score"] = {
        **{k: float(t.energy_image.mean()) for k, t in tallies.items()},
        "ci": interval(model.energy_image),
    }
    # Differences on the same images are far surer than the scores themselves.
    for score, per_image in (("crps", "crps_image"), ("energy_score", "energy_image")):
        scores[score]["gain_ci"] = {
            k: interval(getattr(t, per_image) - getattr(model, per_image))
            for k, t in tallies.items()
            if k != "model"
        }
    recorded = trials.var(0, ddof=1)
    scores["variance_ratio"] = {
        **{k: float(t.variance().sum() / recorded.sum()) for k, t in tallies.items()},
        "nominal": 1.0,
        "roi": {
            k: float(model.variance()[mask].sum() / recorded[mask].sum())
            for k, mask in rois.items()
        },
    }
    scores["variance_ratio_median_voxel"] = {
        **{k: float(np.nanmedian(_ratio(t.variance(), recorded))) for k, t in tallies.items()},
        "nominal": 1.0,
    }
    scores["pit_histogram"] = {
        k: (t.histogram / t.histogram.mean()).round(4).tolist() for k, t in tallies.items()
    }
    return scores


def _reaches(tally: Tally, level: float) -> bool:
    """False where the interval would reach beyond the outermost of so few draws."""
    return level <= 1 - 2 / (tally.n_draws / tally.n_images + 1)


def _ratio(drawn: np.ndarray, recorded: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(recorded > 0, drawn / recorded, np.nan)


def _where_it_does_not_fit(
    scores: dict[str, Any], coverage: np.ndarray, n_trials: int
) -> list[str]:
    low, high = TOO_FAR
    notes = []
    for name, value in scores["coverage_90"]["roi"].items():
        if not low <= value <= high:
            notes.append(f"{name}: 90 % intervals cover {value:.1%} of held-out trials")
    means = scores.get("coverage_90_region_means")
    if means is not None and means["model"] is not None and not low <= means["model"] <= high:
        less = means["model"] < low
        notes.append(
            f"means of regions: 90 % intervals hold {means['model']:.1%} of held-out trials, those "
            f"of single voxels {scores['coverage_90']['model']:.1%}: voxels vary together "
            f"{'more' if less else 'less'} in recordings than in draws"
        )
    # A single voxel's coverage rests on few trials: what chance does to one at a limit is left out.
    low = binom.ppf(0.01, n_trials, low) / n_trials
    high = binom.ppf(0.99, n_trials, high) / n_trials
    outside = (coverage < low) | (coverage > high)
    if outside.any():
        notes.append(
            f"{outside.sum()} of {len(outside)} voxels have 90 % intervals that cover less than "
            f"{low:.1%} or more than {high:.1%} of held-out trials (voxels.tsv: coverage_90)"
        )
    return notes
