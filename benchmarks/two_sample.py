"""What do classifiers of recorded and drawn trials detect? Planted defects, and false alarms.

The undamaged draws of a trained model stand for the recording, so that the truth is known; they are
told from draws of other seeds in which one thing is wrong. Counted is how often the test of
`synbrain evaluate --two-sample` says so at p ≤ .05, corrected for the choice among classifiers and
rows. Without a defect, these are false alarms.

    python benchmarks/two_sample.py WORKSPACE MODEL
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from common import Timer, as_typed, save, tested
from simpler_noise import DependsOnMean

from synbrain_cli.brain import Brain
from synbrain_cli.brain.drawing import Drawing
from synbrain_cli.evaluation.judge import Judge
from synbrain_cli.evaluation.residuals import Residuals, ResidualSource
from synbrain_cli.evaluation.test_set import region_averaging, scored_regions
from synbrain_cli.evaluation.two_sample import ALPHA, best_of
from synbrain_cli.metrics.two_sample import CLASSIFIERS
from synbrain_cli.model.covariance import LowRank
from synbrain_cli.model.readout import Readout
from synbrain_cli.threads import one_thread

Draw = Callable[[int, int], np.ndarray]  # image, seed → standardised residuals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workspace", type=Path)
    parser.add_argument("model")
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--images", type=int, help="test images, chosen at random; default: all")
    parser.add_argument("--classifiers", default=",".join(CLASSIFIERS))
    parser.add_argument("--defects", default=",".join(DEFECTS))
    arguments = parser.parse_args()
    brain, subject, _, test, predictions = tested(arguments.workspace, arguments.model)
    n_images = arguments.images or test.n_images
    images = np.sort(np.random.default_rng(0).permutation(test.n_images)[:n_images])
    kinds = {name: CLASSIFIERS[name] for name in arguments.classifiers.split(",")}
    found = {}
    for defect in arguments.defects.split(","):
        with Timer() as timer, one_thread():
            found[defect] = count(
                ResidualSource(brain, test, predictions, images, 0),
                defect,
                kinds,
                arguments.repetitions,
            )
        found[defect]["seconds_each"] = timer.seconds / arguments.repetitions
        print(defect, found[defect], flush=True)
    settings = {
        "repetitions": arguments.repetitions,
        "classifiers": list(kinds),
        "alpha": ALPHA,
        "images": len(images),
        "trials": int(test.n_repeats[images].sum()),
        "voxels": brain.n_voxels,
        "simulated": brain.simulated,
    }
    name = f"two_sample_{subject.dataset}_{arguments.model}"
    print(save(name, as_typed(), {"settings": settings, "defects": found}))


def count(source: ResidualSource, defect: str, kinds: dict, n_repetitions: int) -> dict:
    """How often the test detects a defect, and the AUC of the best classifier."""
    regions = scored_regions(source.brain)
    averaging = region_averaging(regions, source.brain.n_voxels)
    features = source.image_features()
    right = drawer(source, "none", shared=defect == SHARED)
    wrong = drawer(source, defect)
    p, best, by_classifier = [], [], {}
    for repetition in range(n_repetitions):
        generator = np.random.default_rng([17, repetition])
        judge = Judge(features, tuple(regions), averaging, generator, kinds)
        found = judge.judge(pretend(source, right, wrong, repetition))
        told = best_of(found, generator)
        p.append(told.p)
        best.append(told.auc)
        for rows, judged in found.items():
            for name, exchange in judged.exchanges.items():
                by_classifier.setdefault(f"{rows}: {name}", []).append(exchange.auc)
    return {
        "detected": sum(value <= ALPHA for value in p),
        "of": n_repetitions,
        "p": sorted(p),
        "best_auc": float(np.mean(best)),
        "auc": {name: float(np.mean(values)) for name, values in by_classifier.items()},
    }


def pretend(source: ResidualSource, right: Draw, wrong: Draw, repetition: int) -> Residuals:
    """Draws in the place of recorded trials."""
    seed = 10_000 + 2 * repetition
    return Residuals(
        source.test.n_repeats[source.images],
        lambda image: right(image, seed),
        lambda image, imitation: wrong(image, seed + 1),
    )


# --------------------------------------------------------------------------- what is made wrong


def without_correlation(readout: Readout, region: np.ndarray) -> Readout:
    """Voxels of a region as variable as before, and independent of all others."""

    def alone(part: LowRank) -> LowRank:
        loadings, private = part.loadings.copy(), part.private.copy()
        loadings[region] = 0
        private[region] = np.sqrt(part.variance[region])
        return LowRank(loadings, private)

    return replace(readout, signal=alone(readout.signal), noise=alone(readout.noise))


def middle_region(brain: Brain) -> np.ndarray:
    """The region of median size."""
    masks = sorted(scored_regions(brain).values(), key=lambda mask: mask.sum())
    return masks[len(masks) // 2]


SHARED = "similar images share errors in the recording"
DEFECTS = (
    "none",
    "variance × 1.1",
    "correlation of one region",
    "signal not shared",
    "noise depends on the mean alone",
    SHARED,
)


def drawer(source: ResidualSource, defect: str, shared: bool = False) -> Draw:
    """Function that draws residuals with a defect; similar images may share errors."""
    brain, known = source.brain, source.brain.distribution.readout
    signal = "fresh" if defect == "signal not shared" else "shared"
    factor = np.float32(np.sqrt(1.1 if defect == "variance × 1.1" else 1.0))
    if defect == "correlation of one region":
        known = without_correlation(known, middle_region(brain))
    if defect == "noise depends on the mean alone":
        known = DependsOnMean.like(known)

    def draw(image: int, seed: int) -> np.ndarray:
        row = int(source.images[image])
        mean, digest = source.predictions["model"][row], source.test.digests[row]
        doubt = source.predictions.doubt.of(row)
        doubt = doubt if shared else doubt.apart()
        drawing = Drawing(int(source.test.n_repeats[row]), seed, signal=signal)
        drawn = brain.draw_around(mean, digest, drawing, known, doubt)
        return factor * (drawn - mean) / source.spread(row)

    return draw


if __name__ == "__main__":
    main()
