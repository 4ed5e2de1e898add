"""Is what `synbrain synthesize --sequence` draws what the order of trials does?

    python benchmarks/sequence.py drift WORKSPACE MODEL [--sequences 20]
    python benchmarks/sequence.py effects FOLDER

``drift``: of a simulated subject, whose drift is known. The model estimates the drift of every
recorded session from trials of training and validation; its course is compared with the true one
in the test trials, whose responses no fit has seen. Sequences of the recorded sessions are drawn,
and their variance and autocorrelation compared with those of the recording, both around the
model's mean.

``effects``: a subject is simulated anew in FOLDER, with effects of repetition (.1 SD of the noise)
and of the image before (.05); a linear model of `gabor` tokens is fitted, and what it found is
compared with them. The same is fitted to the trials of every session in a shuffled order.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from common import as_typed, of_model, save

from synbrain_cli.datasets.simulated import SimulationConfig
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.pipeline.prepare import prepare_simulated
from synbrain_cli.pipeline.preparing import Target
from synbrain_cli.progress import Progress
from synbrain_cli.run import RunContext
from synbrain_cli.training.distribution import FittedDistribution, HeldOut, fit_distribution
from synbrain_cli.training.examples import load_examples
from synbrain_cli.training.linear_encoder import fit_linear_encoder
from synbrain_cli.training.sequence import OrderResult, find_order, fit_order

QUIET = Progress(quiet=True)
LAGS = (1, 4, 16, 64)  # trials
REPETITION, SERIAL = 0.1, 0.05
SHUFFLES = 5


def true_drift(workspace: Workspace, subject: PreparedSubject) -> np.ndarray:
    """Drift of every trial in the unit of the prepared betas: (n_trials, n_voxels)."""
    name = f"subj{subject.subject}_drift.npz"
    with np.load(workspace.root / "simulated/truth" / name) as file:
        drift = file["courses"] @ file["fields"].T
    session = subject.trials["session"].to_numpy()
    drift = drift / subject.session_scale(session)[1]
    for one in np.unique(session):
        drift[session == one] -= drift[session == one].mean(0)
    return drift


def autocovariance(values: np.ndarray, session: np.ndarray) -> list[float]:
    """Mean over voxels and sessions of products of trials some lags apart."""
    found = []
    for lag in LAGS:
        within = session[lag:] == session[:-lag]
        found.append(float((values[lag:] * values[:-lag])[within].mean()))
    return found


def drift(workspace: Workspace, name: str, n_sequences: int) -> dict[str, Any]:
    """Compare estimated and drawn drift with the simulation's."""
    model, subject, store = of_model(workspace, name)
    table = subject.trials[["session", "image"]].copy()
    names = sorted(set(table["image"]))
    tokens = store.take(names)
    row = {image: f"image-{k:04d}" for k, image in enumerate(names, start=1)}
    table["image"] = table["image"].map(row)
    session = subject.trials["session"].to_numpy()
    held_out = (subject.trials["split"] == "test").to_numpy()
    betas = np.array(subject.betas)
    estimated = model.estimate_drift(betas, table, tokens, ~held_out)
    true = true_drift(workspace, subject)
    by_voxel = np.array(
        [
            np.corrcoef(estimated[held_out, v], true[held_out, v])[0, 1]
            for v in np.flatnonzero(estimated.any(0))
        ]
    )
    mean = model.mean_of_tokens(tokens)[[names.index(i) for i in subject.trials["image"]]]
    left = betas[held_out] - mean[held_out]
    drawn = model.draw_sequence(table, tokens, n_sequences, signal="fresh", unit="z")
    residual = drawn - mean[:, None]
    alone = model.draw(
        store.take(sorted(set(subject.trials["image"][held_out]))), 60, unit="z", signal="fresh"
    )
    in_order = [autocovariance(residual[:, k], session) for k in range(n_sequences)]
    in_true = autocovariance(true, session)
    return {
        "gains": model.config.training.sequence.describe(),
        "trials": {"known": int((~held_out).sum()), "held_out": int(held_out.sum())},
        "r_all_voxels": float(
            np.corrcoef(estimated[held_out].ravel(), true[held_out].ravel())[0, 1]
        ),
        "r_median_voxel": float(np.median(by_voxel)),
        "variance": {
            "true": float(true.var(0).mean()),
            "estimated": float(estimated.var(0).mean()),
        },
        "variance_of_a_trial": {
            "recorded": float(left.var(0).mean()),
            "in_order": float(residual[held_out].var((0, 1)).mean()),
            "alone": float((alone - alone.mean(1, keepdims=True)).var((0, 1)).mean()),
        },
        "lags": list(LAGS),
        "autocovariance": {
            "recorded": autocovariance(betas - mean, session),
            "true_drift": in_true,
            "drawn": np.mean(in_order, 0).tolist(),
            "drawn_sd_over_sequences": np.std(in_order, 0).tolist(),
        },
    }


def effects(folder: Path) -> dict[str, Any]:
    """Recover effects that a simulation was given."""
    workspace, run = Workspace(folder), RunContext(progress=Progress())
    config = SimulationConfig(n_subjects=1, repetition=REPETITION, serial=SERIAL)
    prepare_simulated(Target(workspace, "simulated", ("gabor",)), config, run)
    subject = workspace.find_subject("1", "simulated", print)
    store = workspace.find_tokens("simulated", None, print)
    examples = load_examples(subject, store)
    recovery = folder / "recovery"
    recovery.mkdir(exist_ok=True)
    linear, left_out = fit_linear_encoder(examples, run, recovery)
    fitted = fit_distribution(examples, HeldOut({"linear": left_out}, linear), 0)
    order = find_order(subject, examples.images)
    found = fit_order(order, examples, fitted)
    sequence = found.found.sequence
    with np.load(folder / "simulated/truth/subj01.npz") as file:
        gain = file["scale"].mean(0)  # SD of the noise
    sd = subject.session_scale(subject.trials["session"].to_numpy())[1].mean(0)
    level = REPETITION * (1 - 0.5 ** np.arange(3))
    truth = -(level - level.mean())[:, None] * gain / sd
    return {
        "gains": found.summary().describe(),
        "offset": {
            "true": truth.mean(1).tolist(),
            "found": sequence.offset.mean(1).tolist(),
        },
        "serial": {
            "true": float((SERIAL * gain / sd).mean()),
            "found": float(sequence.serial.mean()),
        },
        "shuffled": [
            shuffled(subject, examples, fitted, seed).summary().describe()
            for seed in range(SHUFFLES)
        ],
    }


def shuffled(
    subject: PreparedSubject, examples: Any, fitted: FittedDistribution, seed: int
) -> OrderResult:
    """Fit the order in which the trials of a session would have been shown by lot."""
    rng = np.random.default_rng(seed)
    table = subject.trials
    place = np.concatenate(
        [rng.permutation(np.flatnonzero(table["session"] == one)) for one in subject.sessions]
    )

    class Shuffled:
        """The subject, its trials in another order."""

        averaged_over = 1
        trials = table.iloc[place]

    order = find_order(Shuffled(), examples.images)
    split = table["split"].to_numpy()
    # Rows of the examples, as they stand in the new order, back in their own
    moved = np.concatenate([place[split[place] == one] for one in ("train", "val")])
    own = np.concatenate([np.flatnonzero(split == one) for one in ("train", "val")])
    back = np.argsort(moved)[np.argsort(np.argsort(own))]
    names = ("session", "position", "presentation", "presentation_in_session", "previous")
    parts = {name: getattr(order, name)[back] for name in names}
    return fit_order(type(order)(length=order.length, **parts), examples, fitted)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    one = kinds.add_parser("drift")
    one.add_argument("workspace", type=Path)
    one.add_argument("model")
    one.add_argument("--sequences", type=int, default=20)
    two = kinds.add_parser("effects")
    two.add_argument("folder", type=Path)
    args = parser.parse_args()
    if args.kind == "drift":
        found = drift(Workspace(args.workspace), args.model, args.sequences)
        name = f"sequence_drift_{args.model}"
    else:
        found, name = effects(args.folder), "sequence_effects"
    print(save(name, as_typed(), found))


if __name__ == "__main__":
    main()
