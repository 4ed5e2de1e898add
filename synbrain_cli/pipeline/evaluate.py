"""`synbrain evaluate`: how good a model is, beside what any score must be compared with.

The only command that opens the test split. Every score stands beside the mean pattern (a constant:
the average response to training images), the linear encoder on the same tokens, the noise
ceiling, and the model with its images shuffled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from synbrain_cli.brain import Brain
from synbrain_cli.errors import InputError
from synbrain_cli.io.files import atomic, sha256, versions, write_json
from synbrain_cli.io.place import PLACE_COLUMNS
from synbrain_cli.io.prepared import PreparedSubject, TokenStore
from synbrain_cli.metrics.accuracy import (
    average_repeats,
    bootstrap_ci,
    correlation_ceiling,
    cosine_similarity,
    mean_squared_error,
    noise_ceiling,
    pattern_correlation,
    pooled_skill,
    voxelwise_correlation,
    weighted_correlation,
    weighted_mean,
)
from synbrain_cli.pipeline.progress import Report
from synbrain_cli.pipeline.workspace import Workspace

RELIABLE = 0.2  # ncsnr above which a voxel counts as reliable
STANDARDIZED = {
    "session": "z-score within session",
    "train": "z-score by the training trials",
    "none": "z-score by the training trials",
}
PREDICTORS = ("model", "linear", "mean_pattern", "shuffled")


@dataclass(frozen=True)
class EvaluateResult:
    """Scores of one model.

    Attributes
    ----------
    folder : Path
        Holds ``metrics.json``, ``metrics.tsv`` and ``voxels.tsv``.
    metrics : dict
        As in ``metrics.json``: {"overall": {score: {...}}, "roi": {name: {score: {...}}}, …}.
    voxels : DataFrame
        One row a voxel: voxelwise correlation of each predictor, and its ceiling.
    """

    folder: Path
    metrics: dict[str, Any]
    voxels: pd.DataFrame

    def table(self) -> pd.DataFrame:
        """One row a score and region."""
        return scores_table(self.metrics)


def evaluate(
    workspace: Workspace,
    brain: Brain,
    subject: PreparedSubject,
    store: TokenStore,
    *,
    output: Path | None = None,
    n_boot: int = 1000,
    seed: int = 0,
    report: Report | None = None,
) -> EvaluateResult:
    """Score a model on its person's test images.

    Parameters
    ----------
    workspace : Workspace
    brain : Brain
    subject : PreparedSubject
        The person the model is of.
    store : TokenStore
        Tokens of the test images, of the model's encoder.
    output : path, optional
        Default ``outputs/<model>_evaluation``.
    n_boot : int
        Bootstrap draws of the test images for the 95 % confidence intervals.
    seed : int
        Of the bootstrap and of the shuffled control.
    report : Report, optional

    Raises
    ------
    InputError
        When the model, the subject and the tokens do not belong together.
    """
    report = report or Report()
    _check_match(brain, subject, store)
    test = subject.select("test")
    report.say(
        f"evaluating {brain.name}: {len(test.betas):,} test trials of {len(test.images):,} images"
    )
    betas = brain.standardize(test.betas)
    averages, index, n_repeats = average_repeats(betas, test.image_index)
    tokens = store.take(test.images[index])
    generator = np.random.default_rng(seed)
    predictions = {"model": brain.mean(tokens, unit="z")}
    predictions["linear"] = brain.predict_linear(tokens, unit="z")
    predictions["mean_pattern"] = np.broadcast_to(brain.mean_pattern, averages.shape)
    predictions["shuffled"] = predictions["model"][_derangement(len(averages), generator)]

    reliability = brain.voxels["ncsnr"].to_numpy(float)
    reliable = reliability > RELIABLE
    has_ceiling = bool(np.isfinite(reliability).any())
    correlation = {
        name: voxelwise_correlation(averages, np.ascontiguousarray(p))
        for name, p in predictions.items()
    }
    ceiling = correlation_ceiling(reliability, n_repeats)
    explained_ceiling = noise_ceiling(reliability, n_repeats)

    # Single trials back in the recorded unit, where patterns have a mean to be predicted.
    rows = test.image_index
    recorded = _recorded_scale(brain, subject, test.session)
    trials = betas * recorded[1] + recorded[0]

    def regional(voxels: np.ndarray) -> dict[str, dict[str, Any]]:
        """Every score within some voxels."""
        scores: dict[str, dict[str, Any]] = {}
        some = {k: np.ascontiguousarray(p[:, voxels]) for k, p in predictions.items()}
        truth = np.ascontiguousarray(averages[:, voxels])
        baseline = brain.mean_pattern[voxels]

        scores["voxelwise_correlation"] = {
            **{k: _median(correlation[k][voxels]) for k in PREDICTORS},
            "ceiling": _median(ceiling[voxels]) if has_ceiling else None,
            "ci": _interval(
                lambda counts: np.nanmedian(
                    weighted_correlation(truth, some["model"], counts), axis=1
                ),
                len(truth),
                n_boot,
                seed,
            ),
        }
        normalised = {}
        usable = voxels & reliable
        if has_ceiling and usable.any():
            for k in PREDICTORS:
                r = correlation[k][usable]
                normalised[k] = _median(np.sign(r) * r**2 / explained_ceiling[usable])
            scores["noise_normalised_r2"] = {**normalised, "ceiling": 1.0}
        gain = {k: pooled_skill(truth, p, baseline) for k, p in some.items()}
        scores["skill"] = {**gain, "ceiling": None}

        patterns: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
            "pattern_correlation": pattern_correlation,
            "mse": mean_squared_error,
            "cosine": cosine_similarity,
        }
        if voxels.sum() > 2:
            true = np.ascontiguousarray(trials[:, voxels])
            scale, shift = recorded[1][:, voxels], recorded[0][:, voxels]
            for score, function in patterns.items():
                values = {k: function(true, p[rows] * scale + shift) for k, p in some.items()}
                per_image = np.stack([values["model"][rows == i].mean() for i in range(len(truth))])
                scores[score] = {
                    **{k: float(np.nanmean(v)) for k, v in values.items()},
                    "ceiling": _repeat_ceiling(function, true, rows),
                    "ci": _interval(
                        lambda counts, v=per_image: weighted_mean(v, counts),
                        len(truth),
                        n_boot,
                        seed,
                    ),
                }
        return scores

    everything = np.ones(brain.n_voxels, bool)
    rois = {name: mask for name, mask in brain.rois().items() if mask.sum() >= 10}
    overall = regional(everything)
    by_roi = {}
    with report.bar("regions", len(rois)) as bar:
        for name, mask in rois.items():
            by_roi[name] = {"n_voxels": int(mask.sum()), **regional(mask)}
            bar()
    kind = brain.config["standardization"]
    metrics = {
        "model": brain.name,
        "subject": f"{subject.dataset}/sub-{subject.subject}",
        "simulated": brain.simulated,
        "n_test_images": len(averages),
        "n_test_trials": len(test.betas),
        "repeats_per_image": {"min": int(n_repeats.min()), "max": int(n_repeats.max())},
        "n_voxels": brain.n_voxels,
        "n_reliable_voxels": int(reliable.sum()),
        "units": {
            "voxelwise_correlation, skill": f"{STANDARDIZED[kind]}, repeat averages",
            "pattern_correlation, mse, cosine": f"{brain.unit}, single trials",
        },
        "overall": overall,
        "roi": by_roi,
        "draws": {},
        "provenance": {
            "fingerprint": brain.config["fingerprint"],
            "data": sha256(subject.folder / "dataset_description.json"),
            "seed": seed,
            "n_boot": n_boot,
            "versions": versions(),
        },
    }
    voxels = brain.voxels[[c for c in (*PLACE_COLUMNS, "ncsnr") if c in brain.voxels]].copy()
    for name in ("model", "linear"):
        voxels[name] = correlation[name]
    voxels["ceiling"] = ceiling
    folder = Path(output) if output else workspace.outputs / f"{brain.name}_evaluation"
    result = EvaluateResult(folder, metrics, voxels)
    write_json(folder / "metrics.json", metrics)
    with atomic(folder / "metrics.tsv") as path:
        result.table().to_csv(path, sep="\t", index=False, float_format="%.5f")
    with atomic(folder / "voxels.tsv") as path:
        voxels.to_csv(path, sep="\t", index=False, float_format="%.5g")
    return result


def scores_table(metrics: dict[str, Any]) -> pd.DataFrame:
    """Flatten ``metrics.json``: one row a region and score, one column a predictor."""
    rows = []
    for region, scores in {"all": metrics["overall"], **metrics["roi"]}.items():
        for score, values in scores.items():
            if isinstance(values, dict):
                low, high = values.get("ci") or (None, None)
                rows.append(
                    {
                        "region": region,
                        "score": score,
                        "model": values["model"],
                        "ci_low": low,
                        "ci_high": high,
                        "linear": values["linear"],
                        "mean_pattern": values["mean_pattern"],
                        "shuffled": values["shuffled"],
                        "ceiling": values["ceiling"],
                    }
                )
    return pd.DataFrame(rows)


def _check_match(brain: Brain, subject: PreparedSubject, store: TokenStore) -> None:
    if (brain.subject, brain.config["dataset"]) != (subject.subject, subject.dataset):
        raise InputError(
            f"{brain.name} is a model of {brain.config['dataset']}/sub-{brain.subject}, not of "
            f"{subject.dataset}/sub-{subject.subject}"
        )
    if brain.n_voxels != subject.n_voxels:
        raise InputError(
            f"{subject.folder}: {subject.n_voxels} voxels, but {brain.name} has "
            f"{brain.n_voxels}: it was prepared again with another mask; train the model again"
        )
    if store.identity["identity"] != brain.config["encoder"]["identity"]:
        raise InputError(
            f"{store.folder}: tokens of {store.identity['identity']}, but {brain.name} was "
            f"trained on {brain.config['encoder']['identity']}: pass its --encoder, or run "
            "`synbrain prepare` with it"
        )


def _recorded_scale(
    brain: Brain, subject: PreparedSubject, session: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation (n_trials, n_voxels) that return each trial to the recorded unit."""
    if brain.config["standardization"] == "none":
        shape = (len(session), brain.n_voxels)
        return np.broadcast_to(brain.response_mean, shape), np.broadcast_to(
            brain.response_sd, shape
        )
    with np.load(subject.folder / "standardization.npz", allow_pickle=False) as file:
        row = np.searchsorted(file["sessions"], session)
        return file["mean"][row], file["sd"][row]


def _derangement(n: int, generator: np.random.Generator) -> np.ndarray:
    """A random order in which no image stays in its place."""
    order = generator.permutation(n)
    shuffled = np.empty(n, int)
    shuffled[order] = np.roll(order, 1)
    return shuffled


def _repeat_ceiling(
    function: Callable[[np.ndarray, np.ndarray], np.ndarray], trials: np.ndarray, rows: np.ndarray
) -> float | None:
    """Score of the average of an image's other trials at predicting a trial.

    What another brain recording of the same image, averaged over the repeats left, achieves: a
    reference, not an upper bound. None without repeats.
    """
    values = []
    for image in np.unique(rows):
        repeats = trials[rows == image]
        if len(repeats) > 1:
            others = (repeats.sum(0) - repeats) / (len(repeats) - 1)
            values.append(function(repeats, others))
    return float(np.nanmean(np.concatenate(values))) if values else None


def _median(values: np.ndarray) -> float | None:
    return float(np.nanmedian(values)) if np.isfinite(values).any() else None


def _interval(
    statistic: Callable[[np.ndarray], np.ndarray], n_images: int, n_boot: int, seed: int
) -> list[float]:
    low, high = bootstrap_ci(statistic, n_images, np.random.default_rng(seed), n_boot)
    return [float(low), float(high)]
