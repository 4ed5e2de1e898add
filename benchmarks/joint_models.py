"""Which joint distribution of single trials is likeliest? By held-out images of training.

The mean is the same for all: the linear encoder's predictions of training images, each without the
image. Every distribution is fitted to four fifths of the images and judged on the others, five
times over; the test images are not opened. Bits per voxel and trial above the mean pattern with
independent normal noise.

    python benchmarks/joint_models.py WORKSPACE [--model sub-01]

Spatially smooth noise has two numbers (share and length) and is chosen on a part of the four
fifths. GSN is the estimator of Kay, Prince, Gebhart, Tuckute, Zhou, Naselaris & Schütt (2025, *PLoS
Computational Biology* 21: e1012092), written from its description: the covariance of noise from
repeats and that of averages, both shrunk towards their diagonals by as much as left-out images ask
for, and their decomposition into signal and noise made positive semidefinite by turns.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from common import as_typed, of_model, save
from numpy.typing import NDArray
from simpler_noise import DependsOnMean
from sklearn.model_selection import KFold

from synbrain_cli.io.workspace import Workspace
from synbrain_cli.metrics.bootstrap import Bootstrap
from synbrain_cli.model.covariance import LowRank
from synbrain_cli.model.curve import straight
from synbrain_cli.model.density import TrialDensity
from synbrain_cli.model.linear import LinearEncoder
from synbrain_cli.model.readout import Part, Readout, Together, fit_separated
from synbrain_cli.progress import Progress
from synbrain_cli.run import RunContext
from synbrain_cli.training.examples import SubjectExamples, load_examples
from synbrain_cli.training.linear_encoder import fit_linear_encoder

Array = NDArray[np.float64]
CHOSEN = "factors, regions, patterns, dependence, curve, u by image"
GROWTHS = (0.0, 0.25, 0.45, 0.7, 1.0)
SHARES, LENGTHS = (0.05, 0.1, 0.2, 0.4), (4.0, 8.0, 16.0)  # of smooth noise; mm
LEVELS = np.linspace(0, 1, 11)  # of shrinkage towards the diagonal
ROUNDS = 20  # of GSN
WINDOW = 80  # smooth factors kept


@dataclass(frozen=True)
class Data:
    """Trials of some images, predictions of these, and the leverage of each."""

    trials: NDArray[np.float32]
    index: NDArray[np.integer]
    means: NDArray[np.float32]
    leverage: NDArray[np.float32]
    regions: list[NDArray[np.bool_]]
    positions: Array | None

    def of(self, images: NDArray[np.integer]) -> Data:
        """Some images' part."""
        new = np.full(len(self.means), -1)
        new[images] = np.arange(len(images))
        kept = new[self.index] >= 0
        return replace(
            self,
            trials=self.trials[kept],
            index=new[self.index[kept]],
            means=self.means[images],
            leverage=self.leverage[images],
        )


Candidate = Callable[[int], tuple[Readout, NDArray[np.float32]]]  # image → readout, mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--model", default="sub-01")
    arguments = parser.parse_args()
    workspace = Workspace(arguments.workspace)
    brain, subject, store = of_model(workspace, arguments.model)
    examples = load_examples(subject, store)
    with tempfile.TemporaryDirectory() as folder:
        run = RunContext(progress=Progress(quiet=True))
        linear, left_out = fit_linear_encoder(examples, run, Path(folder))
    data = load_data(examples, linear, left_out, positions_of(subject))
    scores = judge(data)
    result = table(scores, data.trials.shape[1])
    for name, row in result.items():
        print(f"{name:52}", row)
    about = {"model": arguments.model, "dataset": brain.config.dataset, "images": len(data.means)}
    print(
        save(f"joint_models_{brain.config.dataset}_{arguments.model}", as_typed(), about | result)
    )


def positions_of(subject) -> Array | None:
    """Voxel positions in mm, where the grid is known."""
    if not {"i", "j", "k"} <= set(subject.voxels):
        return None
    size = np.array(subject.voxel_space.geometry.mask.header.get_zooms()[:3])
    return subject.voxels[["i", "j", "k"]].to_numpy(float) * size


def load_data(
    examples: SubjectExamples,
    linear: LinearEncoder,
    left_out: NDArray[np.float32],
    positions: Array | None,
) -> Data:
    leverage = np.stack(list(linear.leverages_left_out(range(len(left_out)))))
    regions = [region for region in examples.regions.values() if region.sum() >= 10]
    both = examples.both
    return Data(both.betas, both.image_index, left_out, leverage, regions, positions)


def judge(data: Data) -> dict[str, tuple[Array, Array]]:
    """Log densities of every image, given it and given its other repeats, by name."""
    n_images = len(data.means)
    found: dict[str, tuple[Array, Array]] = {}
    for inside, outside in KFold(5, shuffle=True, random_state=0).split(np.arange(n_images)):
        seen, unseen = data.of(inside), data.of(outside)
        for name, candidate in candidates(seen, unseen).items():
            given, told = found.setdefault(name, tuple(np.full((2, n_images), np.nan)))
            for k, image in enumerate(outside):
                trials = unseen.trials[unseen.index == k]
                density = TrialDensity(*candidate(k))
                given[image] = density.log_density(trials).mean()
                if len(trials) > 1:
                    told[image] = density.log_density_given_others(trials).mean()
    return found


def candidates(seen: Data, unseen: Data) -> dict[str, Candidate]:
    """All distributions, fitted to what was seen."""
    pattern = seen.trials.mean(0)
    noise = Readout.gaussian(np.square(seen.trials - pattern).mean(0))
    full, of_regions, plain = (
        fitted(seen, *parts)
        for parts in ((seen.regions, ()), (seen.regions, ("patterns",)), ([], ("patterns",)))
    )
    nothing, line = np.zeros_like(full.signal_dependence), straight(len(pattern))
    normal = replace(full, signal_dependence=nothing, curve=line)
    of_mean = DependsOnMean.like(full)
    growth, level = best_growth(seen, full)

    def of(readout: Readout) -> Candidate:
        return lambda k: (readout, unseen.means[k])

    def by_image(readout: Readout) -> Candidate:
        relative = unseen.leverage**growth / level
        return lambda k: (readout.of_image(relative[k]), unseen.means[k])

    found: dict[str, Candidate] = {
        "mean pattern, independent normal": lambda k: (noise, pattern),
        "independent normal": of(
            replace(
                normal,
                signal=LowRank.independent(full.signal.variance),
                noise=LowRank.independent(full.noise.variance),
            )
        ),
        "factors": of(replace(plain, signal_dependence=nothing, curve=line)),
        "factors, regions": of(replace(of_regions, signal_dependence=nothing, curve=line)),
        "factors, regions, patterns": of(normal),
        "factors, regions, patterns, one dependence": of(
            replace(of_mean, signal_dependence=nothing + full.signal_dependence.mean(), curve=line)
        ),
        "factors, regions, patterns, dependence": of(replace(of_mean, curve=line)),
        "factors, regions, patterns, dependence, curve": of(of_mean),
        "factors, regions, patterns, dependence on u too": of(replace(full, curve=line)),
        "factors, regions, patterns, dependence on u too, curve": of(full),
        CHOSEN: by_image(full),
        "the chosen, without patterns": by_image(of_regions),
        "factors of noise alone, dependence, curve": of(
            replace(full, signal=LowRank.independent(full.signal.variance))
        ),
    }
    if seen.positions is not None:
        found["the chosen, and spatially smooth noise"] = by_image(smooth(seen, full))
    if (np.bincount(seen.index) > 1).sum() > 20:
        found["GSN's covariances, normal"] = of(replace(normal, **gsn(seen)))
    return found


def fitted(seen: Data, regions: list[NDArray[np.bool_]], without: tuple[Part, ...]) -> Readout:
    """Fit the distribution, with or without regions and some of its parts."""
    together, generator = Together(tuple(regions)), np.random.default_rng(0)
    trials, index, means = seen.trials, seen.index, seen.means
    return fit_separated(trials, index, means, generator, without, together)[0]


def best_growth(seen: Data, readout: Readout) -> tuple[float, Array]:
    """γ of the size of u, by the marginal likelihood of averages; and the mean of leverage^γ."""
    repeats = np.bincount(seen.index, minlength=len(seen.means))[:, None]
    averages = np.zeros(seen.means.shape)
    np.add.at(averages, seen.index, seen.trials)
    squares = np.square(averages / repeats - seen.means)
    noise = readout.relative_noise_variance(seen.means) * readout.noise.variance / repeats

    def likelihood(growth: float) -> float:
        relative = seen.leverage**growth
        variance = readout.signal.variance * relative / relative.mean(0) + noise
        return float(-(np.log(variance) + squares / variance).mean())

    growth = max(GROWTHS, key=likelihood)
    return growth, (seen.leverage.astype(float) ** growth).mean(0)


# ------------------------------------------------------------------------- spatially smooth noise


def smooth(seen: Data, full: Readout) -> Readout:
    """Give a share of the private noise to a smooth field; share and length by left-out images."""
    inner = np.arange(len(seen.means)) % 5 > 0
    part, rest = seen.of(np.flatnonzero(inner)), seen.of(np.flatnonzero(~inner))
    fitted, _ = fit_separated(
        part.trials,
        part.index,
        part.means,
        np.random.default_rng(0),
        together=Together(tuple(part.regions)),
    )
    best, chosen = -np.inf, None
    for length in LENGTHS:
        factors = smooth_factors(seen.positions, length)
        for share in SHARES:
            own = replace(fitted, noise=add_smooth(fitted.noise, factors, share))
            each = range(0, len(rest.means), 2)
            value = sum(
                TrialDensity(own, rest.means[k]).log_density(rest.trials[rest.index == k]).sum()
                for k in each
            )
            if value > best:
                best, chosen = value, (factors, share)
    factors, share = chosen
    return replace(full, noise=add_smooth(full.noise, factors, share))


def smooth_factors(positions: Array, length: float) -> Array:
    """Leading factors of a squared-exponential kernel: (n_voxels, WINDOW)."""
    squares = np.square(positions[:, None] - positions).sum(-1)
    values, vectors = np.linalg.eigh(np.exp(-squares / (2 * length**2)))
    return vectors[:, -WINDOW:] * np.sqrt(np.maximum(values[-WINDOW:], 0))


def add_smooth(noise: LowRank, factors: Array, share: float) -> LowRank:
    own = noise.private.astype(float)
    extra = np.sqrt(share) * own[:, None] * factors
    left = own**2 - np.square(extra).sum(1)
    loadings = np.hstack([noise.loadings, extra]).astype(np.float32)
    return LowRank(loadings, np.sqrt(np.maximum(left, 0)).astype(np.float32))


# ------------------------------------------------------------------------------------------- GSN


def gsn(seen: Data) -> Mapping[str, LowRank]:
    """Signal and noise covariances of residuals, by generative modelling of signal and noise."""
    residuals = (seen.trials - seen.means[seen.index]).astype(float)
    repeats = np.bincount(seen.index)
    averages = np.zeros(seen.means.shape)
    np.add.at(averages, seen.index, residuals)
    averages /= repeats[:, None]
    within = residuals - averages[seen.index]
    scale = np.sqrt(repeats / np.maximum(repeats - 1, 1))[seen.index]
    contrasts = (within * scale[:, None])[repeats[seen.index] > 1]  # of the noise's variance
    n_mean = 1 / np.mean(1 / repeats)
    noise, data = shrunk(contrasts), shrunk(averages)
    weight = len(contrasts) / (len(contrasts) + len(averages))
    found = noise
    for _ in range(ROUNDS):
        signal = positive(data - found / n_mean)
        found = positive(weight * noise + (1 - weight) * n_mean * (data - signal))
    return {"signal": as_low_rank(signal), "noise": as_low_rank(found)}


def shrunk(rows: Array) -> Array:
    """Covariance of rows, shrunk towards its diagonal; the level by left-out rows."""
    fifth = np.arange(len(rows)) % 5
    parts = [(rows[fifth != k], rows[fifth == k]) for k in (0, 1)]
    values = np.zeros(len(LEVELS))
    for fitted, left_out in parts:
        sample = fitted.T @ fitted / len(fitted)
        for j, level in enumerate(LEVELS):
            covariance = towards_diagonal(sample, level)
            sign, log_determinant = np.linalg.slogdet(covariance)
            if sign <= 0:
                values[j] = -np.inf
                continue
            distance = np.einsum("ij,ij->", left_out @ np.linalg.inv(covariance), left_out)
            values[j] -= len(left_out) * log_determinant + distance
    return towards_diagonal(rows.T @ rows / len(rows), LEVELS[int(values.argmax())])


def towards_diagonal(covariance: Array, level: float) -> Array:
    return (1 - level) * covariance + level * np.diag(np.diag(covariance))


def positive(matrix: Array) -> Array:
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * np.maximum(values, 0)) @ vectors.T


def as_low_rank(covariance: Array) -> LowRank:
    """The whole covariance: factors, and what the smallest eigenvalue leaves to each voxel."""
    values, vectors = np.linalg.eigh(covariance)
    least = max(float(values[0]), 0.0)
    loadings = vectors * np.sqrt(np.maximum(values - least, 0))
    return LowRank(loadings.astype(np.float32), np.full(len(values), np.sqrt(least), np.float32))


# ----------------------------------------------------------------------------------------- table


def table(scores: Mapping[str, tuple[Array, Array]], n_voxels: int) -> dict[str, dict[str, object]]:
    """Bits per voxel and trial, and the interval of the difference to what `train` fits."""
    baseline = scores["mean pattern, independent normal"][0]
    bootstrap = Bootstrap(1000, 0)
    chosen = scores[CHOSEN][0]
    rows = {}
    for name, (given, told) in scores.items():
        known = np.isfinite(told)
        per = np.log(2) * n_voxels
        low, high = bootstrap.limits_of_mean((given - chosen) / per)
        rows[name] = {
            "given_image": round(float((given - baseline).mean() / per), 4),
            "given_repeats": round(float((told - baseline)[known].mean() / per), 4)
            if known.any()
            else None,
            "difference_to_chosen": [round(low, 4), round(high, 4)],
        }
    return rows


if __name__ == "__main__":
    main()
