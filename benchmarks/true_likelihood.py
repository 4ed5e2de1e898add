"""How far is a model's likelihood from that of the true distribution? On a simulated subject.

Bits per voxel and test trial above the mean pattern with independent normal noise: of the model; of
the true image-driven mean with distributions fitted to it; of the model's mean with the true
covariances; and of the truth: what the image drives as the mean, the rest of the signal unknown,
and the true noise, which depends on both, drift within sessions included.

    python benchmarks/true_likelihood.py WORKSPACE [--model sub-01]

WORKSPACE is that of `synbrain demo`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from common import as_typed, save, tested
from numpy.typing import NDArray
from simulated_truth import SimulatedTruth

from synbrain_cli.brain import Brain
from synbrain_cli.evaluation.predictions import Predictions
from synbrain_cli.evaluation.test_set import TestSet
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.metrics.bootstrap import Bootstrap
from synbrain_cli.model.covariance import LowRank
from synbrain_cli.model.density import TrialDensity
from synbrain_cli.model.readout import Readout, Together, fit_separated
from synbrain_cli.training.examples import load_examples

RANK = 8  # of the signal that no image feature explains, in the simulation
Around = Callable[[int], tuple[Readout, NDArray[np.float32]]]  # image → readout, mean


@dataclass(frozen=True)
class Truth(SimulatedTruth):
    """The true distribution of a simulated subject, in standardised units."""

    @cached_property
    def unexplained(self) -> LowRank:
        """The signal that no image feature explains."""
        rest = (self.file["mean"] - self.file["driven"]) * self.unit[0]
        rest -= rest.mean(0)
        _, sizes, directions = np.linalg.svd(rest / np.sqrt(len(rest)), full_matrices=False)
        loadings = (directions[:RANK].T * sizes[:RANK]).astype(np.float32)
        return LowRank(loadings, np.full(len(loadings), 1e-3, np.float32))

    @cached_property
    def _gain(self) -> NDArray[np.float64]:
        """Standard deviation of the noise-free responses, in the simulation's unit."""
        return self.file["driven"].std(0, dtype=np.float64) / np.sqrt(self.file["explained"])

    def readout(self, row: int) -> Readout:
        """Around what one image drives.

        The scale of the noise, c (1 + tanh(s)/4), depends on the whole response s, of which nothing
        but what the image drives is known: its logarithm is taken as linear in the rest.
        """
        whole, driven = (
            np.tanh((self.file[name][row] - self.file["mean"].mean(0)) / self._gain)
            for name in ("mean", "driven")
        )
        scale = self.file["scale"][row] / (1 + whole / 4) * (1 + driven / 4) * self.unit[0]
        slope = (1 - driven**2) / (2 + driven / 2) / (self._gain * self.unit[0])  # of log scale²
        # What `Readout` takes as the noise of the average response
        scale *= np.exp(np.square(slope) / 4 * (1 + self.unexplained.variance))
        loadings = np.concatenate([self.file["loadings"] * scale[:, None], self.drift_within], 1)
        private = np.abs(self.file["private"] * scale)
        noise = LowRank(loadings.astype(np.float32), private.astype(np.float32))
        normal = Readout.gaussian(np.ones(len(scale)))
        mean = self.file["driven"][row] * self.unit[0] + self.unit[1]
        return Readout(
            self.unexplained,
            noise,
            slope.astype(np.float32),
            mean.astype(np.float32),
            normal.spread,
            normal.curve,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--model", default="sub-01")
    arguments = parser.parse_args()
    brain, subject, store, test, predictions = tested(arguments.workspace, arguments.model)
    truth = Truth(arguments.workspace, subject)
    fitted = fit_around_truth(truth, subject, load_examples(subject, store))
    found: dict[str, Bits] = {
        name: bits(test, around)
        for name, around in distributions(brain, test, predictions, truth, fitted).items()
    }
    result = summary(found)
    for name, row in result.items():
        print(f"{name:44}", row)
    print(save(f"true_likelihood_{arguments.model}", as_typed(), result))


def fit_around_truth(truth: Truth, subject: PreparedSubject, examples) -> Readout:
    """Fit the distribution of training trials around what their images drive."""
    images = np.concatenate([subject.select(split).images for split in ("train", "val")])
    means = truth.standardised("driven", images).astype(np.float32)
    both, regions = examples.both, examples.regions.values()
    generator = np.random.default_rng(0)
    return fit_separated(
        both.betas, both.image_index, means, generator, together=Together(tuple(regions))
    )[0]


def distributions(
    brain: Brain, test: TestSet, predictions: Predictions, truth: Truth, fitted: Readout
) -> dict[str, Around]:
    rows = truth.rows(test.images)
    driven = truth.standardised("driven", test.images).astype(np.float32)
    predicted = predictions["model"]

    def own(name: str) -> Around:
        def around(image: int) -> tuple[Readout, NDArray[np.float32]]:
            found = predictions.around(brain, test, image, name)
            return found.readout, found.mean

        return around

    return {
        "mean pattern, independent normal": own("mean_pattern"),
        "image unknown": own("image_blind"),
        "model": own("model"),
        "model's mean, true covariances": lambda k: (
            replace(truth.readout(rows[k]), centre=predicted[k]),
            predicted[k],
        ),
        "true mean, fitted covariances": lambda k: (fitted, driven[k]),
        "truth": lambda k: (truth.readout(rows[k]), driven[k]),
    }


Bits = tuple[NDArray[np.float64], NDArray[np.float64]]  # of each image: told it, and its repeats


def bits(test: TestSet, around: Around) -> Bits:
    """Of each image's trials, alone and given its other repeats."""
    alone, given = np.empty((2, test.n_images))
    for image in range(test.n_images):
        trials = test.trials[test.image_index == image]
        density = TrialDensity(*around(image))
        alone[image] = density.log_density(trials).mean()
        given[image] = density.log_density_given_others(trials).mean()
    return alone / test.n_voxels / np.log(2), given / test.n_voxels / np.log(2)


def summary(found: dict[str, Bits]) -> dict[str, dict[str, object]]:
    """Bits above the mean pattern, and the information gain, by distribution."""
    baseline = found["mean pattern, independent normal"][0]
    blind = found["image unknown"][0]
    bootstrap = Bootstrap(1000, 0)
    whole = (found["truth"][0] - baseline).mean()
    rows = {}
    for name, (alone, given) in found.items():
        low, high = bootstrap.limits_of_mean(alone - baseline)
        gain = float((alone - baseline).mean())
        rows[name] = {
            "bits": round(gain, 4),
            "ci": [round(low, 4), round(high, 4)],
            "share_of_truth": round(float(gain / whole), 3),
            "given_repeats": round(float((given - baseline).mean()), 4),
            "information_gain": round(float((alone - blind).mean() / (given - blind).mean()), 3),
        }
    return rows


if __name__ == "__main__":
    main()
