"""What the closed-form adaptation of a new person costs.

One hour (750 trials, here of 600 images) of a person with as many voxels as NSD's subject 1, from
two people of the same size, on synthetic arrays; beside it, the linear encoder fitted to the same
hour. And the same at the size of a simulated subject. Both as `synbrain adapt` does them: once
without validation images, once with all.

    python benchmarks/adaptation.py
"""

from __future__ import annotations

import sys

import numpy as np
from common import Timer, measured, report, save

from synbrain_cli.model.linear import fit_linear
from synbrain_cli.model.tokens import BandScaler, StandardBand, StandardTokens
from synbrain_cli.model.transfer import fit_adapter

SIZES = {  # images, of validation, voxels, voxels of each source person, tokens
    "simulated": (476, 46, 742, 750, (256, 48)),
    "NSD": (600, 60, 15_724, 15_724, (64, 256)),  # what pooled CLIP tokens come to
}
N_SOURCES, N_FACTORS = 2, 40


def main() -> None:
    result = {}
    for size in SIZES:
        steps = {step: measured(__file__, step, size) for step in ("adapter", "linear")}
        ratio = steps["adapter"]["seconds"] / steps["linear"]["seconds"]
        result[size] = {**steps, "ratio": ratio}
        for step, found in steps.items():
            megabytes = found["peak_megabytes"]
            print(f"{size:10} {step:8} {found['seconds']:6.1f} s  {megabytes:6.0f} MB")
        print(f"{size:10} ratio    {ratio:6.2f}")
    print(save("adaptation", "python benchmarks/adaptation.py", result))


def step(name: str, size: str) -> None:
    n_images, n_val, n_voxels, n_source, shape = SIZES[size]
    generator = np.random.default_rng(0)
    n_train = n_images - n_val
    factors = generator.standard_normal((n_images, N_FACTORS), np.float32)

    def responses(n: int, noise: float) -> np.ndarray:
        mixed = factors @ generator.standard_normal((N_FACTORS, n), np.float32)
        return mixed + noise * generator.standard_normal((n_images, n), np.float32)

    averages = responses(n_voxels, 8.0)
    if name == "adapter":
        evidence = responses(N_SOURCES * n_source, 1.0)
        prior = responses(n_voxels, 1.0)
        with Timer() as timer:
            first, _ = fit_adapter(
                evidence[:n_train], prior[:n_train], averages[:n_train], generator
            )
            first(evidence[n_train:], prior[n_train:])
            fit_adapter(evidence, prior, averages, generator)
    else:
        values = generator.standard_normal((n_images, *shape), np.float32)
        band = StandardBand(values, np.arange(n_images), BandScaler.none(*shape))
        tokens = StandardTokens((band,))
        with Timer() as timer:
            first, _ = fit_linear(tokens.part(slice(n_train)), averages[:n_train], generator)
            first.predict(tokens.part(slice(n_train, None)))
            fit_linear(tokens, averages, generator)
    report(timer.seconds)


if __name__ == "__main__":
    step(*sys.argv[1:]) if len(sys.argv) > 1 else main()
