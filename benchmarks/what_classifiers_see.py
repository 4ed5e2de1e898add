"""By what are draws told from recorded trials? Draws with a part of the truth in them.

On a simulated subject: classifiers tell recorded test trials from draws whose unexplained signal,
or trial noise, or both are the true ones, in which noise depends on the predicted response alone,
or in which similar images share errors, other ones than in the recording. What is told when a part
is true is not in that part.

    python benchmarks/what_classifiers_see.py WORKSPACE [--model sub-01]

AUC of logistic regression, mean of three sets of draws.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import as_typed, save, tested
from numpy.typing import NDArray
from simpler_noise import DependsOnMean
from simulated_truth import SimulatedTruth

from synbrain_cli.brain.drawing import Drawing
from synbrain_cli.evaluation.judge import Judge, together
from synbrain_cli.evaluation.residuals import Residuals, ResidualSource
from synbrain_cli.evaluation.test_set import region_averaging, scored_regions
from synbrain_cli.metrics.two_sample import CLASSIFIERS
from synbrain_cli.model.readout import Readout
from synbrain_cli.threads import one_thread

N_SETS = 3
Responses = NDArray[np.float32]


@dataclass(frozen=True)
class Counterfactual:
    """Draws of a model, parts of which may be the truth's.

    Attributes
    ----------
    source : ResidualSource
    truth : SimulatedTruth
    readout : Readout
        The model's, or what stands in its place.
    signal, noise : bool
        Whether the unexplained signal, and the trial noise, are the true ones.
    shared : bool
        Whether similar images share unexplained signal.
    """

    source: ResidualSource
    truth: SimulatedTruth
    readout: Readout
    signal: bool
    noise: bool
    shared: bool = False

    def drawn(self, image: int, imitation: int) -> Responses:
        """Standardised residuals of draws of one image."""
        source, generator = self.source, np.random.default_rng([31, image, imitation])
        row = int(source.images[image])
        name, n = [source.test.images[row]], int(source.test.n_repeats[row])
        doubt = source.predictions.doubt.of(row)
        own, mean = self.readout.of_image(doubt.relative), source.predictions["model"][row]
        u = own.signal.draw(generator)
        if self.shared:
            drawing = Drawing(n, 1_000 + imitation)
            (of_image,) = source.brain.generators("", drawing, doubt).signals
            u = own.signal.draw(of_image)
        if self.signal:
            u = (self.truth.standardised("mean", name)[0] - mean).astype(np.float32)
        if not self.noise:
            draws = own.draw_given(mean, [u], [generator] * n)
        else:
            draws = mean + u + self.true_noise(self.truth.rows(name)[0], n, generator)
        return np.asarray((draws - mean) / source.spread(row), np.float32)

    def true_noise(self, row: int, n: int, generator: np.random.Generator) -> Responses:
        """Noise as the simulation draws it, and drift within sessions."""
        truth = self.truth
        loadings, private = truth.file["loadings"], truth.file["private"]
        e = generator.standard_normal((n, loadings.shape[1])) @ loadings.T
        e += private * generator.standard_normal((n, len(private)))
        drift = truth.drift_within
        e = e * truth.file["scale"][row] * truth.unit[0]
        noise: Responses = e + generator.standard_normal((n, drift.shape[1])) @ drift.T
        return noise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--model", default="sub-01")
    arguments = parser.parse_args()
    brain, subject, _, test, predictions = tested(arguments.workspace, arguments.model)
    source = ResidualSource(brain, test, predictions, np.arange(test.n_images), 0)
    truth, fitted = SimulatedTruth(arguments.workspace, subject), brain.distribution.readout
    of_mean = DependsOnMean.like(fitted)
    designs = {
        "the model": (fitted, False, False),
        "similar images share errors": (fitted, False, False, True),
        "noise depends on the predicted response alone": (of_mean, False, False),
        "true u": (fitted, True, False),
        "true u, noise depends on the predicted response alone": (of_mean, True, False),
        "true e": (fitted, False, True),
        "the truth": (fitted, True, True),
    }
    found = {}
    for name, design in designs.items():
        found[name] = told(source, Counterfactual(source, truth, *design).drawn)
        print(f"{name:55}", found[name], flush=True)
    print(save(f"what_classifiers_see_{arguments.model}", as_typed(), found))


def told(source: ResidualSource, drawn: Callable[[int, int], Responses]) -> dict[str, float]:
    """AUC, by rows."""
    regions, recorded = scored_regions(source.brain), source.of("model")
    judge = Judge(
        source.image_features(),
        tuple(regions),
        region_averaging(regions, source.brain.n_voxels),
        np.random.default_rng(3),
        {"logistic": CLASSIFIERS["logistic"]},
    )
    residuals = Residuals(recorded.n_repeats, recorded.recorded, drawn, recorded.groups)
    with one_thread():
        sets = judge.judge_sets(residuals, N_SETS)
    return {
        rows: round(together([one[rows].exchanges for one in sets])["logistic"].auc, 3)
        for rows in sets[0]
    }


if __name__ == "__main__":
    main()
