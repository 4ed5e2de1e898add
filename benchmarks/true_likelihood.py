"""How far is a model's likelihood from that of the true distribution? On a simulated subject.

Bits per voxel and test trial above the mean pattern with independent normal noise: of the model; of
the true image-driven mean with distributions fitted to it; of the model's mean with the true
covariances; and of the truth: what the image drives as the mean, the rest of the signal unknown,
and the true noise (without the drift within sessions, 1 % of its variance).

    python benchmarks/true_likelihood.py WORKSPACE [--model sub-01]

WORKSPACE is that of `synbrain demo`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from common import as_typed, of_model, save
from numpy.typing import NDArray
from simulated_truth import SimulatedTruth

from synbrain_cli.brain import Brain
from synbrain_cli.evaluation.predictions import Predictions
from synbrain_cli.evaluation.test_set import TestSet
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.metrics.bootstrap import Bootstrap
from synbrain_cli.model.covariance import LowRank
from synbrain_cli.model.density import TrialDensity
from synbrain_cli.model.readout import Readout, Together, fit_separated
from synbrain_cli.progress import Progress
from synbrain_cli.run import RunContext
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

    def readout(self, row: int) -> Readout:
        """Around what one image drives."""
        scale = self.file["scale"][row] * self.unit[0]
        loadings = (self.file["loadings"] * scale[:, None]).astype(np.float32)
        noise = LowRank(loadings, np.abs(self.file["private"] * scale).astype(np.float32))
        normal = Readout.gaussian(np.ones(len(scale)))
        return Readout(
            self.unexplained,
            noise,
            normal.signal_dependence,
            normal.centre,
            normal.spread,
            normal.curve,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--model", default="sub-01")
    arguments = parser.parse_args()
    workspace = Workspace(arguments.workspace)
    brain, subject, store = of_model(workspace, arguments.model)
    test = TestSet.load(subject, store, [brain])
    predictions = Predictions.of(brain, test, RunContext(progress=Progress(quiet=True)))
    truth = Truth(workspace.root, subject)
    fitted = fit_around_truth(truth, subject, load_examples(subject, store))
    found = {
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
        "model's mean, true covariances": lambda k: (truth.readout(rows[k]), predicted[k]),
        "true mean, fitted covariances": lambda k: (fitted, driven[k]),
        "truth": lambda k: (truth.readout(rows[k]), driven[k]),
    }


def bits(test: TestSet, around: Around) -> NDArray[np.float64]:
    """Of each image's trials."""
    each = []
    for image in range(test.n_images):
        trials = test.trials[test.image_index == image]
        each.append(TrialDensity(*around(image)).log_density(trials).mean())
    return np.array(each) / test.n_voxels / np.log(2)


def summary(found: dict[str, NDArray[np.float64]]) -> dict[str, dict[str, object]]:
    baseline = found["mean pattern, independent normal"]
    bootstrap = Bootstrap(1000, 0)
    whole = (found["truth"] - baseline).mean()
    rows = {}
    for name, values in found.items():
        low, high = bootstrap.limits_of_mean(values - baseline)
        gain = float((values - baseline).mean())
        rows[name] = {
            "bits": round(gain, 4),
            "ci": [round(low, 4), round(high, 4)],
            "share_of_truth": round(float(gain / whole), 3),
        }
    return rows


if __name__ == "__main__":
    main()
