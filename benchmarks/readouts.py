"""Which form of the response distribution fits best? Designs compared on held-out trials.

Fits each design to a trained model's subject as `synbrain train` does, and scores its draws on the
test images: energy score and CRPS (less is better), 90 % coverage, ratio of variances. All designs
share the mean, and random numbers where they can.

    python benchmarks/readouts.py WORKSPACE MODEL
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from common import of_model, save

from synbrain_cli.brain import Brain
from synbrain_cli.brain.drawing import Drawing
from synbrain_cli.brain.images import token_digest
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.metrics.calibration import coverage, crps, energy_score, pit
from synbrain_cli.model.covariance import LowRank
from synbrain_cli.model.linear import fit_linear
from synbrain_cli.model.readout import Readout, fit_readout
from synbrain_cli.tokens import Tokens
from synbrain_cli.training.examples import load_examples

DESIGNS = {
    name: dict(zip(("low_rank", "signal_dependence", "curve"), parts, strict=True))
    for name, parts in (
        ("independent normal", (False, False, False)),
        ("low-rank normal", (True, False, False)),
        ("low-rank, signal-dependent", (True, True, False)),
        ("low-rank, signal-dependent, curve (synbrain)", (True, True, True)),
        ("independent, signal-dependent, curve", (False, True, True)),
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workspace", type=Path)
    parser.add_argument("model")
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    workspace = Workspace(arguments.workspace)
    brain, subject, store = of_model(workspace, arguments.model)
    test = subject.select("test")
    tokens = store.take(test.images)
    means = brain.mean(tokens, unit="z")
    trials = brain.standardize(test.betas)
    readouts = fit_designs(brain, subject, store, arguments.seed)

    def around(readout: Readout):
        return lambda i, n: brain.draw_around(
            means[i],
            token_digest(tokens[i : i + 1]),
            Drawing(n, arguments.seed, signal="fresh"),
            readout,
        )

    drawers = {name: around(readout) for name, readout in readouts.items()}
    if brain.config.has_networks:
        plain = readouts["low-rank normal"]
        drawers["latent spread through the decoder"] = latent_spread(brain, plain, tokens, means)
    scores = {name: judge(draw, trials, test.image_index, arguments.draws)
              for name, draw in drawers.items()}  # fmt: skip
    print(f"{'design':42} energy  CRPS    90 %   variance")
    for name, s in scores.items():
        print(
            f"{name:42} {s['energy_score']:.4f} {s['crps']:.4f}  {s['coverage_90']:.3f}  "
            f"{s['variance_ratio']:.3f}"
        )
    command = f"python benchmarks/readouts.py WORKSPACE {arguments.model}"
    settings = {"draws": arguments.draws, "simulated": brain.simulated}
    name = f"readouts_{subject.dataset}_{arguments.model}"
    print(save(name, command, {"settings": settings, "scores": scores}))


def fit_designs(brain: Brain, subject, store, seed: int) -> dict[str, Readout]:
    """Every design, on leave-one-out predictions of training and validation images."""
    examples = load_examples(subject, store)
    both = examples.both
    trials, index = both.betas, both.image_index
    _, left_out = fit_linear(both.tokens, both.averages, np.random.default_rng(seed))
    ours = brain.distribution.readout.signal.variance
    found = {}
    for name, design in DESIGNS.items():
        readout = fit_readout(trials, index, left_out, np.random.default_rng(seed), **design)
        # The stack's share of the signal, as the model has it: the same for all designs.
        found[name] = replace(readout, signal=readout.signal.with_variance(ours))
    return found


def latent_spread(brain: Brain, plain: Readout, tokens: Tokens, means: np.ndarray):
    """Trial noise from the posterior's spread through the decoder, the rest independent normal."""

    @torch.inference_mode()
    def spread(i: int, n: int) -> np.ndarray:
        generator = np.random.default_rng([i, n])
        latent = brain.latent(tokens[i : i + 1])
        noise = np.stack([brain.networks.latent_readout.noise(generator, None) for _ in range(n)])
        both = torch.cat([latent, latent + torch.from_numpy(noise)])
        decoded = brain.networks.vae.decode(both, brain.n_voxels).numpy()
        return decoded[1:] - decoded[1:].mean(0)

    sample = np.concatenate([spread(i, 16) for i in range(0, len(tokens), 8)])
    rest = np.maximum(plain.noise.variance - sample.var(0), 0)
    readout = replace(plain, noise=LowRank.independent(rest))

    def draw(i: int, n: int) -> np.ndarray:
        drawing = Drawing(n, 0, signal="fresh")
        return brain.draw_around(
            means[i], token_digest(tokens[i : i + 1]), drawing, readout
        ) + spread(i, n)

    return draw


def judge(draw, trials: np.ndarray, rows: np.ndarray, n_draws: int) -> dict[str, float]:
    generator = np.random.default_rng(0)
    energy, probability, place, drawn = [], [], [], []
    for image in range(rows.max() + 1):
        own, draws = trials[rows == image], draw(image, n_draws)
        energy.append(energy_score(own, draws))
        probability.append(crps(own, draws).mean(1))
        place.append(pit(own, draws, generator))
        drawn.append(draws[:20])
    return {
        "energy_score": float(np.concatenate(energy).mean(dtype=np.float64)),
        "crps": float(np.concatenate(probability).mean(dtype=np.float64)),
        "coverage_90": float(coverage(np.concatenate(place), 0.9).mean()),
        "variance_ratio": float(np.concatenate(drawn).var(0).sum() / trials.var(0).sum()),
    }


if __name__ == "__main__":
    main()
