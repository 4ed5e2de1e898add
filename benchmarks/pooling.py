"""What do correlations score that are pooled over folds, of noise alone and of a known signal?

For each fold a ridge and its weight in the stack are fitted to the images of the other folds, as
`synbrain evaluate --folds` does. Correlations over all images are taken of predictions as fits made
them, and of predictions in standard deviations over the images that were fitted
(`synbrain_cli.evaluation.folds`).

    python benchmarks/pooling.py
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass

import numpy as np
from common import as_typed, save

from synbrain_cli.evaluation.folds import LEAST_SD
from synbrain_cli.groups import Groups, deal
from synbrain_cli.metrics.accuracy import voxelwise_correlation
from synbrain_cli.model.linear import apply_ridge, regress
from synbrain_cli.model.stack import fit_stack

N_IMAGES, N_FEATURES, N_VOXELS = 24, 96, 60
GROUPS = np.repeat(np.arange(8), 3)


@dataclass(frozen=True)
class Design:
    """How images are held out, and what the responses hold beside noise with an SD of 1.

    Attributes
    ----------
    n_folds : int
    signal : float
        SD of what the features determine, linearly.
    of_group : float, optional
        SD of the response, and of each feature, that three images of a group share; None where
        every image stands alone.
    """

    n_folds: int = N_IMAGES
    signal: float = 0.0
    of_group: float | None = None

    @property
    def groups(self) -> Groups | None:
        """Group of each image."""
        return None if self.of_group is None else GROUPS


DESIGNS = {
    "noise, one image at a time": Design(),
    "noise, five folds": Design(n_folds=5),
    "noise, eight groups of three": Design(n_folds=8, of_group=1.0),
    "signal, one image at a time": Design(signal=1.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subjects", type=int, default=6)
    n_subjects = parser.parse_args().subjects
    found = {}
    for name, design in DESIGNS.items():
        r = np.array([pooled(design, seed) for seed in range(n_subjects)])
        means, errors = r.mean(0), r.std(0, ddof=1) / np.sqrt(n_subjects)
        found[name] = asdict(design) | {
            way: {"mean": float(mean), "standard_error": float(error)}
            for way, mean, error in zip(("as_fitted", "scaled"), means, errors, strict=True)
        }
        print(
            f"{name}: as fits made them {means[0]:.2f} ± {errors[0]:.2f}, "
            f"in their own SDs {means[1]:.2f} ± {errors[1]:.2f}",
            flush=True,
        )
    sizes = {"subjects": n_subjects, "images": N_IMAGES, "features": N_FEATURES, "voxels": N_VOXELS}
    print(save("pooling", as_typed(), {"sizes": sizes, "designs": found}))


def pooled(design: Design, seed: int) -> tuple[float, float]:
    """Pooled correlation of one made-up subject, median over voxels: as fitted, and scaled."""
    generator = np.random.default_rng(seed)
    features, y = made(design, generator)
    as_fitted, scaled = np.zeros((2, N_IMAGES, N_VOXELS))
    for held_out in deal(N_IMAGES, design.n_folds, generator, design.groups):
        fitted = np.setdiff1d(np.arange(N_IMAGES), held_out)
        own = None if design.groups is None else design.groups[fitted]
        found = regress(features[fitted], y[fitted], np.random.default_rng(seed), groups=own)
        mean = y[fitted].mean(0)
        weights, _ = fit_stack(
            [found.left_out - mean], y[fitted] - mean, np.random.default_rng(seed), groups=own
        )
        away = weights[0] * (apply_ridge(found.fit, features) - mean)
        sd = away[fitted].std(0)
        as_fitted[held_out] = away[held_out]
        scaled[held_out] = np.where(sd > LEAST_SD, away[held_out] / np.maximum(sd, LEAST_SD), 0)
    return tuple(float(np.nanmedian(voxelwise_correlation(y, p))) for p in (as_fitted, scaled))


def made(design: Design, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Features and responses, float32 (n_images, n_features) and (n_images, n_voxels)."""
    features = generator.standard_normal((N_IMAGES, N_FEATURES))
    y = generator.standard_normal((N_IMAGES, N_VOXELS))
    if design.of_group is not None:
        features += design.of_group * generator.standard_normal((8, N_FEATURES))[GROUPS]
        y += design.of_group * generator.standard_normal((8, N_VOXELS))[GROUPS]
    if design.signal:
        weights = generator.standard_normal((N_FEATURES, N_VOXELS)) / np.sqrt(N_FEATURES)
        y += design.signal * features @ weights
    return features.astype(np.float32), y.astype(np.float32)


if __name__ == "__main__":
    main()
