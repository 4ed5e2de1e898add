"""Does the linear encoder gain by bands: token grids of several resolutions, each with its penalty?

Median over voxels of the correlation with repeat averages, over five folds of the images of a
prepared subject; the test split is used like the rest.

    python benchmarks/bands.py WORKSPACE DATASET SUBJECT
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from common import Timer, save
from sklearn.model_selection import KFold

from synbrain_cli.io.workspace import Workspace
from synbrain_cli.metrics.accuracy import average_repeats, voxelwise_correlation
from synbrain_cli.model.linear import ALPHAS, apply_ridge, fit_ridge
from synbrain_cli.model.tokens import TokenScaler

GRIDS = (16, 8, 4, 2, 1)
BANDS = (16, 4, 1)
N_CANDIDATES = 8  # random proportions of the bands that himalaya tries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workspace", type=Path)
    parser.add_argument("dataset")
    parser.add_argument("subject")
    arguments = parser.parse_args()
    workspace = Workspace(arguments.workspace)
    subject = workspace.find_subject(arguments.subject, arguments.dataset, print)
    store = workspace.find_tokens(arguments.dataset, "gabor", print)
    averages, names, _ = average_repeats(subject.betas, subject.trials["image"].to_numpy(str))
    raw = store.take(names)
    tokens = TokenScaler.fit(raw)(raw)
    grids = {side: pooled(tokens, side) for side in GRIDS}
    scores = {}
    for side, features in grids.items():
        scores[f"{side} × {side}"] = crossed(averages, lambda a, b, f=features: ridge(f, *a, b))
    bands = [grids[side] for side in BANDS]
    name = "bands " + ", ".join(map(str, BANDS))
    scores[name] = crossed(averages, lambda a, b: banded(bands, *a, b))
    for name, values in scores.items():
        print(f"{name:16} r {values['r']:.3f}  {values['seconds']:.0f} s")
    command = f"python benchmarks/bands.py WORKSPACE {arguments.dataset} {arguments.subject}"
    print(save(f"bands_{arguments.dataset}", command, {"scores": scores}))


def pooled(tokens: np.ndarray, side: int) -> np.ndarray:
    """Tokens averaged on a coarser grid: (n_images, side² · n_dims)."""
    n_images, n_tokens, n_dims = tokens.shape
    full = round(n_tokens**0.5)
    factor = full // side
    grid = tokens.reshape(n_images, side, factor, side, factor, n_dims)
    return grid.mean((2, 4)).reshape(n_images, -1)


def crossed(averages: np.ndarray, predict) -> dict[str, float]:
    """Median r of predictions of every fold by the others."""
    predicted = np.empty_like(averages)
    with Timer() as timer:
        for train, test in KFold(5, shuffle=True, random_state=0).split(averages):
            predicted[test] = predict((train, averages[train]), test)
    r = voxelwise_correlation(averages, predicted)
    return {"r": float(np.median(r)), "seconds": timer.seconds}


def ridge(features: np.ndarray, train: np.ndarray, y: np.ndarray, test: np.ndarray) -> np.ndarray:
    fit, _ = fit_ridge(features[train], y, np.random.default_rng(0))
    return apply_ridge(fit, features[test])


def banded(
    bands: list[np.ndarray], train: np.ndarray, y: np.ndarray, test: np.ndarray
) -> np.ndarray:
    """Each band by its principal components over training images, scaled to one size."""
    from himalaya.ridge import GroupRidgeCV

    scores = [components(features, train) for features in bands]
    groups = np.repeat(np.arange(len(bands)), [s.shape[1] for s in scores])
    x = np.concatenate(scores, axis=1)
    parameters = {
        "n_iter": N_CANDIDATES,
        "alphas": ALPHAS,
        "progress_bar": False,
        "warn": False,
    }
    model = GroupRidgeCV(
        groups=groups, cv=5, random_state=0, fit_intercept=True, solver_params=parameters
    )
    return model.fit(x[train], y).predict(x[test])


def components(features: np.ndarray, train: np.ndarray) -> np.ndarray:
    centred = features - features[train].mean(0)
    values, vectors = np.linalg.eigh((centred[train] @ centred[train].T).astype(np.float64))
    keep = values > 1e-7 * values[-1]
    axes = centred[train].T @ (vectors[:, keep] / np.sqrt(values[keep]))
    return (centred @ axes / np.sqrt(values.sum() / len(train))).astype(np.float32)


if __name__ == "__main__":
    main()
