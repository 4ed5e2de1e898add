"""What do more draws cost, and what does the readout cost at NSD's size?

1. Time of 8 and of 64 draws an image over that of one, from pixels, with a trained model.
2. Fitting the readout to as many voxels as NSD's subject 1 has (random responses with a known
   covariance; a tenth of its images), and drawing from it: seconds and peak memory.

    python benchmarks/draws.py MODEL_FOLDER IMAGES
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from common import Timer, measured, report, save
from PIL import Image

N_VOXELS, N_IMAGES, N_REPEATS = 15_724, 900, 3


def draws(model: str, images: str) -> None:
    """Step 1: interleaved rounds, the median of each."""
    from synbrain_cli import load_model

    brain = load_model(model, "cpu")
    files = sorted(p for p in Path(images).iterdir() if p.suffix in (".png", ".jpg"))
    views = [np.asarray(Image.open(p).convert("RGB").resize((256, 256))) for p in files]
    pictures = np.stack([np.roll(view, 10 * k, axis=1) for k in range(5) for view in views])
    brain.draw(pictures[:2], 2)
    times: dict[int, list[float]] = {1: [], 8: [], 64: []}
    for seed in range(5):
        for n, found in times.items():
            with Timer() as timer:
                brain.draw(pictures, n, seed=seed)
            found.append(timer.seconds / len(pictures))
    median = {n: float(np.median(found)) for n, found in times.items()}
    report(
        sum(map(sum, times.values())),
        n_voxels=brain.n_voxels,
        seconds_an_image=median,
        ratio_8=median[8] / median[1],
        ratio_64=median[64] / median[1],
    )


def readout() -> None:
    """Step 2."""
    from synbrain_cli.model.readout import fit_readout

    rng = np.random.default_rng(0)
    index = np.repeat(np.arange(N_IMAGES), N_REPEATS)
    means = rng.standard_normal((N_IMAGES, N_VOXELS), np.float32) * np.float32(0.3)
    factors = rng.standard_normal((10, N_VOXELS), np.float32) * np.float32(0.15)
    trials = means[index] + rng.standard_normal((len(index), N_VOXELS), np.float32)
    trials += rng.standard_normal((len(index), 10), np.float32) @ factors
    trials += (rng.standard_normal((N_IMAGES, 10), np.float32) @ factors[::-1])[index]
    with Timer() as timer:
        fitted = fit_readout(trials, index, means, rng)
    with Timer() as drawing:
        fitted.draw(means[0], [np.random.default_rng(k) for k in range(100)],
                    [np.random.default_rng(k) for k in range(100)])  # fmt: skip
    report(
        timer.seconds,
        n_voxels=N_VOXELS,
        n_trials=len(index),
        rank_signal=fitted.signal.loadings.shape[1],
        rank_noise=fitted.noise.loadings.shape[1],
        seconds_a_draw=drawing.seconds / 100,
    )


def main() -> None:
    model, images = sys.argv[1:3]
    result = {
        "draws": measured(__file__, "--step", "draws", model, images),
        "readout": measured(__file__, "--step", "readout"),
    }
    for step, values in result.items():
        print(step, values)
    print(save("draws", "python benchmarks/draws.py MODEL_FOLDER IMAGES", result))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--step"]:
        {"draws": draws, "readout": readout}[sys.argv[2]](*sys.argv[3:])
    else:
        main()
