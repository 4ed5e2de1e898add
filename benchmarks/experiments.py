"""Do the statistics of experiments on a modelled brain hold? On simulated subjects, truth known.

Standard errors of the mean and of contrasts against the true mean response; contrasts of a
condition with itself; trials for 80 % power against resampled test trials and the true difference.

    python benchmarks/experiments.py WORKSPACE [--model sub-01]

WORKSPACE is that of `synbrain demo`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from common import as_typed, of_model, save
from numpy.typing import NDArray
from scipy import stats
from simulated_truth import SimulatedTruth

from synbrain_cli.brain import Brain
from synbrain_cli.datasets.nsd_design import image_id
from synbrain_cli.evaluation.test_set import scored_regions
from synbrain_cli.experiments.contrast import Contrast, ContrastSettings, Shown
from synbrain_cli.experiments.power import Experiment, glm_contrast, power, trials_needed
from synbrain_cli.experiments.predicted import Predicted, predict
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.model.linear import fit_linear
from synbrain_cli.progress import Bar, Progress
from synbrain_cli.run import RunContext
from synbrain_cli.training.distribution import HeldOut, fit_distribution
from synbrain_cli.training.examples import Examples, SubjectExamples, load_examples

Z90 = stats.norm.ppf(0.95)
N_DIVISIONS = 5  # of the photographs
LEAST = 0.02  # variance of unexplained signal of the voxels that count, in SDs of a trial
RUN = RunContext(progress=Progress(quiet=True))
POWER_REGIONS = ("V1", "V3", "hV4", "FFA-1", "PPA", "EBA")
# Conditions: images between these quantiles of the predicted mean of the region
SIZES = {"quarters": ((0.75, 1), (0, 0.25)), "halves": ((0.5, 1), (0, 0.5))}


@dataclass(frozen=True)
class Truth:
    """Test images of a simulated subject: predictions, true means, trials.

    Attributes
    ----------
    brain : Brain
    subject : PreparedSubject
    predicted : Predicted
        Of the test images.
    root : Path
    """

    brain: Brain
    subject: PreparedSubject
    predicted: Predicted
    root: Path

    @cached_property
    def _truth(self) -> SimulatedTruth:
        return SimulatedTruth(self.root, self.subject)

    def means(self, images: Iterable[str]) -> NDArray[np.float64]:
        """True mean responses, standardised."""
        return self._truth.standardised("mean", images)

    @cached_property
    def test(self) -> Any:
        """Trials of the test split."""
        return self.subject.select("test")

    @cached_property
    def photographs(self) -> NDArray[np.integer]:
        """Photograph that each test image is a view of."""
        return photographs_of(self.root, self.test.images)

    @cached_property
    def reliable(self) -> NDArray[np.bool_]:
        """Voxels with unexplained signal enough to be told from none."""
        return self.brain.distribution.readout.signal.variance > LEAST

    def contrast(self, first: Iterable[int], second: Iterable[int], n: int = 50) -> Contrast:
        """Contrast two sets of test images."""
        rows = np.concatenate([np.asarray(first), np.asarray(second)])
        settings = ContrastSettings(n_permutations=n, controls=False)
        shown = Shown(self.predicted.part(rows))
        return Contrast(self.brain, ("a", "b"), settings, shown, len(list(first)))


def photographs_of(root: Path, images: Iterable[str]) -> NDArray[np.integer]:
    with np.load(root / "simulated/truth/views.npz") as file:
        return file["photograph"][[image_id(name) for name in images]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--model", default="sub-01")
    parser.add_argument("--maps", type=int, default=200, help="maps of a condition with itself")
    parser.add_argument("--simulated", type=int, default=300, help="experiments for each power")
    arguments = parser.parse_args()
    workspace = Workspace(arguments.workspace)
    brain, subject, store = of_model(workspace, arguments.model)
    test = subject.select("test")
    bar = Bar("test images", len(test.images), 0, True)
    predicted = predict(brain, store.take(test.images), bar)
    truth = Truth(brain, subject, predicted, workspace.root)
    result: dict[str, Any] = {"model": arguments.model, "n_test_images": len(test.images)}
    result["mean"] = mean_errors(truth)
    examples = load_examples(subject, store)
    result["mean, photographs left out"] = left_out_errors(examples, truth)
    result["mean, groups left out"] = left_out_errors(examples, truth, known=True)
    result["contrasts"] = contrast_errors(truth)
    result["a condition with itself"] = null_maps(truth, arguments.maps)
    result["power"] = powers(truth, arguments.simulated)
    for name, value in result.items():
        print(name, value)
    print(save(f"experiments_{arguments.model}", as_typed(), result))


def covered(error: NDArray, variance: NDArray) -> float:
    """Share of errors within 90 % intervals."""
    return round(float((np.square(error) <= Z90**2 * variance).mean()), 3)


def by_distance(error: NDArray, relative: NDArray) -> dict[str, list[float]]:
    """Of quarters of images by how unsure the model says it is: width, and error, both relative."""
    width = np.sqrt(relative).mean(1)
    size = np.sqrt(np.square(error).mean(1))
    parts = np.array_split(np.argsort(width), 4)
    return {
        "width": [round(float(width[part].mean() / width.mean()), 3) for part in parts],
        "error": [round(float(size[part].mean() / size.mean()), 3) for part in parts],
    }


def mean_errors(truth: Truth) -> dict[str, Any]:
    """Coverage of the true mean of single images."""
    good, predicted = truth.reliable, truth.predicted
    error = (predicted.means - truth.means(truth.test.images))[:, good]
    variance = truth.brain.distribution.readout.signal.variance[good]
    relative = predicted.relative[:, good]
    return {
        "covered_90": covered(error, variance * relative),
        "covered_90, equal for all images": covered(error, variance),
        "squared errors, of those expected": round(
            float(np.square(error).sum() / (variance * relative).sum()), 3
        ),
        "quarters": by_distance(error, relative),
    }


def left_out_errors(
    examples: SubjectExamples, truth: Truth, *, known: bool = False
) -> dict[str, Any]:
    """The same of views of photographs that a linear encoder was not fitted to.

    Either the fit knows that views of a photograph belong together (the column ``group``), or it
    does not.
    """
    photograph = photographs_of(truth.root, examples.images)
    names = np.random.default_rng(0).permutation(np.unique(photograph))
    found, sizes = [], []
    # Each photograph is left out once
    for seed, some in enumerate(np.array_split(names, N_DIVISIONS)):
        out = np.isin(photograph, some)
        both, kept = examples.both, np.flatnonzero(~out)
        position = np.full(len(out), -1)
        position[kept] = np.arange(len(kept))
        trials = np.flatnonzero(position[both.image_index] >= 0)
        index = position[both.image_index[trials]]
        order = np.argsort(index, kind="stable")
        part = Examples(
            both.betas[trials][order], index[order], both.tokens.part(kept), both.averages[kept]
        )
        n_train = int(0.9 * len(order))
        n_train = int(np.searchsorted(index[order], index[order][n_train]))
        own = SubjectExamples.of(
            examples.scaler, examples.scale, part, n_train, examples.images[kept]
        )
        groups = np.unique(photograph[kept], return_inverse=True)[1].ravel() if known else None
        own = replace(own, groups=groups)
        generator = np.random.default_rng([seed, 1])
        linear, left = fit_linear(part.tokens, part.averages, generator, groups=groups)
        fitted = fit_distribution(own, HeldOut({"linear": left}, linear), seed)
        tokens = both.tokens.part(np.flatnonzero(out))[:]
        error = linear.predict(tokens) - truth.means(examples.images[out])
        relative = fitted.uncertainty(linear.leverage(tokens)[0]).relative
        good = fitted.readout.signal.variance > LEAST
        variance = fitted.readout.signal.variance[good]
        found.append(covered(error[:, good], variance * relative[:, good]))
        sizes.append(error[:, good].size)
    return {
        "covered_90": round(float(np.average(found, weights=sizes)), 3),
        "divisions": found,
    }


def contrast_errors(truth: Truth) -> dict[str, Any]:
    """Coverage of true differences of voxels and of region means."""
    generator, photograph = np.random.default_rng(0), truth.photographs
    every = np.arange(len(truth.predicted))
    shown = [p for p in np.unique(photograph) if (photograph == p).sum() > 4]
    pairs = {
        "20 and 20 images at random": [
            np.split(generator.permutation(every)[:40], 2) for _ in range(20)
        ],
        "views of two photographs": [
            (np.flatnonzero(photograph == a), np.flatnonzero(photograph == b))
            for a in shown
            for b in shown
            if a < b
        ][::4],
    }
    halves = []
    for _ in range(20):
        order = generator.permutation(shown)
        inside = np.isin(photograph, order[: len(order) // 2])
        halves.append((np.flatnonzero(inside), np.flatnonzero(~inside)))
    pairs["half of the photographs and the others"] = halves
    true, found = truth.means(truth.test.images), {}
    for name, some in pairs.items():
        cells = np.array([_contrast_error(truth, true, *pair) for pair in some])
        voxels, regions, alone = cells.mean(0).round(3).tolist()
        found[name] = {"voxels": voxels, "regions": regions, "errors independent": alone}
    return found


def _contrast_error(truth: Truth, true: NDArray, first: NDArray, second: NDArray) -> list[float]:
    found = truth.contrast(first, second)
    off = found.difference / truth.brain.response_sd - (true[first].mean(0) - true[second].mean(0))
    variance = np.square(found.errors.model / truth.brain.response_sd)
    good, parts = truth.reliable, found.predicted
    means, variances = [], []
    for mask in scored_regions(truth.brain).values():
        means.append(off[mask].mean())
        variances.append(parts.error_variance_of_sum(found.weights, mask / mask.sum()))
    signal = truth.brain.distribution.readout.signal.variance
    alone = np.square(found.weights) @ parts.relative * signal
    return [
        covered(off[good], variance[good]),
        covered(np.array(means), np.array(variances)),
        covered(off[good], alone[good]),
    ]


def null_maps(truth: Truth, n_maps: int) -> dict[str, Any]:
    """Maps with a significant voxel where both conditions are of the same images at random."""
    generator, wrong = np.random.default_rng(1), 0
    for _ in range(n_maps):
        first, second = np.split(generator.permutation(len(truth.predicted))[:40], 2)
        wrong += int(truth.contrast(first, second, 200).significant.any())
    interval = stats.binomtest(wrong, n_maps).proportion_ci(method="exact")
    return {"maps": n_maps, "wrong": wrong, "interval": [round(float(x), 3) for x in interval]}


def powers(truth: Truth, n_simulated: int) -> dict[str, Any]:
    """Trials of each condition for 80 % power, predicted, resampled and true, by region."""
    generator = np.random.default_rng(2)
    trials = truth.brain.standardize(truth.test.betas)
    of_image = [np.flatnonzero(truth.test.image_index == k) for k in range(len(truth.predicted))]
    regions = scored_regions(truth.brain)
    true, rows = truth.means(truth.test.images), []
    for size, (upper, lower) in SIZES.items():
        for name in POWER_REGIONS:
            if name not in regions:
                continue
            average = regions[name] / regions[name].sum() * truth.brain.response_sd
            order = np.argsort(truth.predicted.means @ average, kind="stable")
            n = len(order)
            first, second = (order[int(a * n) : int(b * n)] for a, b in (upper, lower))
            experiment = Experiment(trials=20, n_simulated=n_simulated)
            found = power(truth.contrast(first, second), experiment, RUN)
            k = list(found.contrast.regions).index(name)
            recorded = trials @ average
            resampled = np.zeros(len(found.trials))
            for _ in range(n_simulated):
                dealt = (_dealt(some, found, generator) for some in (first, second))
                drawn = [
                    [recorded[generator.choice(of_image[row])] for row in own] for own in dealt
                ]
                for j, count in enumerate(found.trials):
                    a, b = (np.array(one[:count])[:, None] for one in drawn)
                    t, free = glm_contrast(a, b, 1)
                    resampled[j] += t[0] > stats.t.ppf(0.975, free)
            spread = np.mean(
                [np.concatenate([recorded[of_image[row]] for row in some]).var(ddof=1)
                 for some in (first, second)]
            )  # fmt: skip
            difference = (true[first].mean(0) - true[second].mean(0)) @ average
            low, high = found.needed_interval[k]
            rows.append(
                {
                    "conditions": size,
                    "region": name,
                    "predicted": _round(found.needed[k]),
                    "interval": [_round(low), _round(high)],
                    "resampled": _round(trials_needed(found.trials, resampled / n_simulated)),
                    "true": _round(_closed_form(difference / spread**0.5)),
                }
            )
    return {"rows": rows, **_summary(rows)}


def _dealt(rows: NDArray, found: Any, generator: np.random.Generator) -> NDArray:
    """Images of as many trials as are tried at most, spread evenly."""
    return np.resize(generator.permutation(rows), found.trials[-1])


def _closed_form(effect: float) -> float:
    """Trials of each condition for 80 % power of a two-sample t test (noncentral t)."""
    for n in range(2, 5000):
        free, shift = 2 * n - 2, effect * (n / 2) ** 0.5
        if stats.nct.sf(stats.t.ppf(0.975, free), free, shift) >= 0.8:
            return float(n)
    return np.nan


def _summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    found = {}
    for reference in ("resampled", "true"):
        pairs = [(r["predicted"], r[reference]) for r in rows if r["predicted"] and r[reference]]
        ratio = np.array([a / b for a, b in pairs])
        found[f"median ratio to {reference}"] = round(float(np.median(ratio)), 2)
        found[f"within 20 % of {reference}"] = round(float((np.abs(ratio - 1) <= 0.2).mean()), 2)
    # What a predictor that knows the true distribution would reach: the test images are few
    pairs = [(r["true"], r["resampled"]) for r in rows if r["true"] and r["resampled"]]
    ratio = np.array([a / b for a, b in pairs])
    found["true number within 20 % of resampled"] = round(
        float((np.abs(ratio - 1) <= 0.2).mean()), 2
    )
    inside = [
        (r["interval"][0] or 0) <= r["true"] <= (r["interval"][1] or np.inf)
        for r in rows
        if r["predicted"] and r["true"]
    ]
    found["true number within the interval"] = round(float(np.mean(inside)), 2)
    return found


def _round(value: float) -> float | None:
    return round(float(value), 1) if np.isfinite(value) else None


if __name__ == "__main__":
    main()
