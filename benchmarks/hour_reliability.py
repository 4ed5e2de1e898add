"""How well can one hour tell which voxels respond reliably? Against the ncsnr of all sessions.

An hour shows most images once: what its repeats alone say of a voxel's noise is uncertain. Here
the share of noise in each voxel's variance is estimated from the hour in several ways, each adding
one source of knowledge to the one before; the last two are not what `train` and `adapt` do, and
show what more there would be.

    python benchmarks/hour_reliability.py WORKSPACE [--subjects 1,2,3]

WORKSPACE is that of `synbrain demo`. The mean is the linear encoder of the hour, each image
predicted without it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from common import as_typed, save
from numpy.typing import NDArray

from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.model.components import pool, shrink_noise_share
from synbrain_cli.progress import Progress
from synbrain_cli.run import RunContext
from synbrain_cli.training.examples import load_examples
from synbrain_cli.training.linear_encoder import fit_linear_encoder
from synbrain_cli.training.voxel_order import sphere_positions

Array = NDArray[np.float64]
NEAR, FAR = 5.0, 5.0  # mm: SD of the kernels within a subject, and between subjects on the sphere
RUN = RunContext(progress=Progress(quiet=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--subjects", default="1,2,3")
    parser.add_argument("--hours", type=float, default=1)
    arguments = parser.parse_args()
    workspace = Workspace(arguments.workspace)
    names = arguments.subjects.split(",")
    subjects = {n: workspace.find_subject(n, "simulated", print) for n in names}
    result = {}
    for name, subject in subjects.items():
        others = [other for n, other in subjects.items() if n != name]
        result[f"sub-{name}"] = ways(workspace, subject, others, arguments.hours)
        print(name, result[f"sub-{name}"])
    print(save(f"reliability_hours-{arguments.hours:g}", as_typed(), result))


def ways(
    workspace: Workspace, subject: PreparedSubject, others: list[PreparedSubject], hours: float
) -> dict[str, float]:
    """Correlation over voxels of each way's ncsnr with that of all sessions."""
    store = workspace.find_tokens(subject.dataset, None, lambda text: None)
    examples = load_examples(subject, store, subject.first_hours(hours))
    with tempfile.TemporaryDirectory() as folder:
        _, left_out = fit_linear_encoder(examples, RUN, Path(folder))
    trials, index = examples.both.betas, examples.both.image_index
    total = trials.var(0, dtype=np.float64)
    repeats = np.bincount(index)
    degrees = float((repeats - 1).sum())
    own = _own_noise(trials, index, degrees) / total
    explained = 1 - np.square(trials - left_out[index]).mean(0, dtype=np.float64) / total
    regions = [region for region in examples.regions.values() if region.sum() >= 10]
    nothing = np.zeros_like(own)
    estimates = {
        "repeats of the voxel alone": own,
        "pooled over voxels": pool(own, 2 / degrees * float(np.square(own).mean())),
        "regions": shrink_noise_share(own, degrees, nothing, regions),
        "explained share": shrink_noise_share(own, degrees, explained, []),
        "explained share, regions (as fitted)": shrink_noise_share(
            own, degrees, explained, regions
        ),
    }
    fitted = estimates["explained share, regions (as fitted)"]
    near = fitted + smoothed(own - fitted, subject, degrees, fitted)
    estimates["the same, and neighbours"] = near
    elsewhere = shares_elsewhere(subject, others)
    line = np.stack([np.ones_like(own), explained, elsewhere], 1)
    expected = line @ np.linalg.lstsq(line, own, rcond=None)[0]
    both = expected + shrink_noise_share(own - expected + own.mean(), degrees, nothing, regions)
    both -= own.mean()
    estimates["the same, neighbours and other subjects"] = both + smoothed(
        own - both, subject, degrees, both
    )
    known = subject.voxels["ncsnr"].to_numpy(float)
    return {
        "repeated images": int((repeats > 1).sum()),
        **{n: round(float(np.corrcoef(ncsnr(s), known)[0, 1]), 3) for n, s in estimates.items()},
    }


def _own_noise(trials: NDArray[np.float32], index: NDArray[np.integer], degrees: float) -> Array:
    sums = np.zeros((index.max() + 1, trials.shape[1]))
    np.add.at(sums, index, trials)
    average = sums / np.bincount(index)[:, None]
    return np.square(trials - average[index]).sum(0, dtype=np.float64) / degrees


def ncsnr(share: Array) -> Array:
    return np.sqrt(np.maximum(1 / np.clip(share, 0.05, 1) - 1, 0))


def smoothed(left: Array, subject: PreparedSubject, degrees: float, share: Array) -> Array:
    """What neighbouring voxels have in common of what is left, shrunk by its error."""
    size = np.array(subject.voxel_space.geometry.mask.header.get_zooms()[:3])
    positions = subject.voxels[["i", "j", "k"]].to_numpy(float) * size
    weights = kernel(positions, positions, NEAR)
    weights /= weights.sum(1, keepdims=True)
    common, error = weights @ left, np.square(weights) @ (2 / degrees * share**2)
    variance = max(float(np.var(common) - error.mean()), 0.0)
    return variance / (variance + error) * common


def shares_elsewhere(subject: PreparedSubject, others: list[PreparedSubject]) -> Array:
    """Share of noise at the same place of other subjects' cortex, of all their sessions."""
    positions, side = sphere_positions(subject)
    above = below = np.zeros(len(positions))
    for other in others:
        theirs, their_side = sphere_positions(other)
        share = 1 / (1 + np.square(other.voxels["ncsnr"].to_numpy(float)))
        weights = np.where(side[:, None] == their_side, kernel(positions, theirs, FAR), 0)
        weights = np.nan_to_num(weights)
        above, below = above + weights @ share, below + weights.sum(1)
    mean = above.sum() / below.sum()
    return np.where(below > 1e-6, above / np.maximum(below, 1e-12), mean)


def kernel(first: Array, second: Array, length: float) -> Array:
    squares = np.square(first[:, None] - second).sum(-1)
    return np.exp(-squares / (2 * length**2))


if __name__ == "__main__":
    main()
