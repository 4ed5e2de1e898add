"""`synbrain evaluate`: how good a model is, beside what any score must be compared with.

The only command that opens the test split. Every score stands beside the mean pattern (a constant:
the average response to training images), the linear encoder on the same tokens, the noise
ceiling, and the model with its images shuffled; draws stand beside simpler distributions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from synbrain_cli.brain import Brain
from synbrain_cli.brain.matching import check_match
from synbrain_cli.errors import InputError
from synbrain_cli.evaluation.calibration import judge_draws, scored_regions
from synbrain_cli.evaluation.retrieval import N_CANDIDATES, retrieval
from synbrain_cli.io.files import atomic, sha256, versions, write_json
from synbrain_cli.io.prepared import PreparedSubject, Trials
from synbrain_cli.io.token_store import TokenStore
from synbrain_cli.io.voxel_space import POSITION_COLUMNS
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.metrics.accuracy import (
    average_repeats,
    cosine_similarity,
    mean_squared_error,
    pattern_correlation,
    pooled_skill,
    squared_errors_of_images,
    voxelwise_correlation,
)
from synbrain_cli.metrics.bootstrap import bootstrap_ci, weighted_correlation, weighted_mean
from synbrain_cli.metrics.identification import n_way, pattern_similarity, two_way
from synbrain_cli.metrics.noise_ceiling import correlation_ceiling, noise_ceiling
from synbrain_cli.metrics.similarity import linear_cka, rdm, rsa, weighted_cka, weighted_rsa
from synbrain_cli.progress import Progress

RELIABLE = 0.2  # ncsnr above which a voxel counts as reliable
STANDARDIZED = {
    "session": "z-score within session",
    "train": "z-score by the training trials",
    "none": "z-score by the training trials",
}
PREDICTORS = ("model", "deep", "transfer", "linear", "mean_pattern", "shuffled")
N_DRAWS, MIN_DRAWS = 200, 20
# Mai et al. 2025, tables 1 and 2, by subject of NSD.
PUBLISHED_COLUMNS = ("MSE", "r", "cos", "Incep", "CLIP", "Eff", "SwAV", "Raw", "Syn")
PUBLISHED = {
    "01": (0.079, 0.715, 0.769, 96.7, 95.9, 0.619, 0.350, 94.7, 99.3),
    "02": (0.134, 0.667, 0.715, 96.2, 94.5, 0.637, 0.364, 92.4, 97.1),
    "05": (0.190, 0.739, 0.793, 96.2, 93.9, 0.627, 0.356, 78.0, 86.4),
    "07": (0.151, 0.626, 0.680, 93.6, 93.0, 0.671, 0.380, 73.9, 87.3),
}
PUBLISHED_SCALE = 0.15  # its unit, raw betas / 2000, is 0.15 × percent signal change


@dataclass(frozen=True)
class EvaluateResult:
    """Scores of one model.

    Attributes
    ----------
    folder : Path
        Holds ``metrics.json``, ``metrics.tsv``, ``voxels.tsv`` and ``calibration.png``.
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

    def draws_table(self) -> pd.DataFrame:
        """One row a score of the draws."""
        return draws_table(self.metrics)

    def paper_table(self) -> pd.DataFrame:
        """The published table's columns, on its scale."""
        return paper_table(self.metrics)


def evaluate(
    workspace: Workspace,
    brain: Brain,
    subject: PreparedSubject,
    store: TokenStore,
    *,
    output: Path | None = None,
    n_draws: int = N_DRAWS,
    latent: bool = True,
    n_boot: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
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
    n_draws : int
        Draws an image by which distributions are judged; 20 or more.
    latent : bool
        Judge the paper's sampling, too: 80 passes of the decoder an image.
    n_boot : int
        Bootstrap draws of the test images for the 95 % confidence intervals.
    seed : int
        Of the draws, the bootstrap and the shuffled control.
    progress : Progress, optional

    Raises
    ------
    InputError
        When the model, the subject and the tokens do not belong together.
    """
    progress = progress or Progress()
    brain.require_readout("an evaluation")
    check_match(brain, subject, store)
    if n_draws < MIN_DRAWS:
        raise InputError(
            f"--draws {n_draws}: expected {MIN_DRAWS} or more: 90 % intervals of fewer draws would "
            "reach beyond them"
        )
    test = subject.select("test")
    progress.info(
        f"evaluating {brain.name}: {len(test.betas):,} test trials of {len(test.images):,} images"
    )
    if len(test.images) < 4:
        raise InputError(
            f"{subject.folder}: expected four test images or more, found {len(test.images)}: no "
            "score over images can be computed; prepare with a larger test split"
        )
    trials = brain.standardize(test.betas)
    rows = test.image_index
    averages, index, n_repeats = average_repeats(trials, rows)
    tokens = store.take(test.images[index])
    generator = np.random.default_rng(seed)
    shuffle = derangement(len(averages), generator)
    predictions = {"model": brain.mean(tokens, unit="z")}
    if brain.config.has_networks:
        predictions["deep"] = brain.predict("deep", tokens, unit="z")
    if brain.predictors.transfer is not None:
        predictions["transfer"] = brain.predict("transfer", tokens, unit="z")
    predictions["linear"] = brain.predict("linear", tokens, unit="z")
    predictions["mean_pattern"] = np.broadcast_to(brain.distribution.mean_pattern, averages.shape)
    predictions["shuffled"] = predictions["model"][shuffle]

    scorer = _Responses(brain, subject, test, trials, averages, n_repeats, predictions)
    overall = scorer.scores(np.ones(brain.n_voxels, bool), n_boot, seed)
    by_roi = {}
    rois = scored_regions(brain)
    with progress.bar("regions", len(rois)) as bar:
        for name, mask in rois.items():
            by_roi[name] = {"n_voxels": int(mask.sum()), **scorer.scores(mask, n_boot, seed)}
            bar()
    judged = judge_draws(
        brain,
        tokens,
        trials,
        rows,
        predictions["model"],
        predictions["linear"],
        shuffle,
        n_draws=n_draws,
        n_boot=n_boot,
        seed=seed,
        latent=latent,
        progress=progress,
    )
    progress.info("retrieval")
    found = retrieval(
        brain,
        subject,
        store,
        tokens,
        trials,
        rows,
        predictions["model"],
        shuffle,
        n_boot=n_boot,
        seed=seed,
    )
    notes = scorer.notes() + judged.notes
    if not brain.config.training.readout.signal_told_from_noise:
        notes.append(
            "too few images were repeated in training to tell unexplained signal from trial "
            "noise: the draws take all as noise, so that their reliability is too low"
        )
    kind = brain.config.standardization
    metrics = {
        "model": brain.name,
        "subject": f"{subject.dataset}/sub-{subject.subject}",
        "simulated": brain.simulated,
        "n_test_images": len(averages),
        "n_test_trials": len(test.betas),
        "repeats_per_image": {"min": int(n_repeats.min()), "max": int(n_repeats.max())},
        "n_voxels": brain.n_voxels,
        "n_reliable_voxels": int(scorer.reliable.sum()),
        "n_draws": n_draws,
        "units": {
            "voxelwise_correlation, skill": f"{STANDARDIZED[kind]}, repeat averages",
            "pattern_correlation, mse, cosine": f"{brain.unit}, single trials",
            "draws": f"{STANDARDIZED[kind]}, single trials",
        },
        "recorded_unit": brain.unit,
        "overall": overall,
        "roi": by_roi,
        "retrieval": found,
        "draws": judged.scores,
        "notes": notes,
        "provenance": {
            "fingerprint": brain.config.fingerprint,
            "data": sha256(subject.folder / "dataset_description.json"),
            "seed": seed,
            "n_boot": n_boot,
            "versions": versions(),
        },
    }
    metrics = finite(metrics)
    voxels = brain.voxels[[c for c in (*POSITION_COLUMNS, "ncsnr") if c in brain.voxels]].copy()
    for name in ("model", "deep", "transfer", "linear"):
        if name in predictions:
            voxels[name] = scorer.correlation[name]
    voxels["ceiling"] = scorer.ceiling
    for name, values in judged.voxels.items():
        voxels[name] = values
    folder = Path(output) if output else workspace.outputs / f"{brain.name}_evaluation"
    result = EvaluateResult(folder, metrics, voxels)
    write_json(folder / "metrics.json", metrics)
    with atomic(folder / "metrics.tsv") as path:
        pd.concat([result.table(), result.draws_table()]).to_csv(
            path, sep="\t", index=False, float_format="%.5f"
        )
    with atomic(folder / "voxels.tsv") as path:
        voxels.to_csv(path, sep="\t", index=False, float_format="%.5g")
    from synbrain_cli.plotting.calibration import plot_calibration
    from synbrain_cli.plotting.figure import save_figure

    save_figure(plot_calibration(metrics, voxels), folder / "calibration.png")
    return result


class _Responses:
    """Scores of predicted responses within any voxels."""

    def __init__(
        self,
        brain: Brain,
        subject: PreparedSubject,
        test: Trials,
        trials: np.ndarray,
        averages: np.ndarray,
        n_repeats: np.ndarray,
        predictions: dict[str, np.ndarray],
    ) -> None:
        self.brain = brain
        self.rows = test.image_index
        self.trials, self.averages = trials, averages
        self.predictions = predictions
        self.n_repeats = n_repeats
        ncsnr = brain.voxels["ncsnr"].to_numpy(float)
        self.reliable = ncsnr > RELIABLE
        self.has_ceiling = bool(np.isfinite(ncsnr).any())
        self.ceiling = correlation_ceiling(ncsnr, n_repeats)
        self.explained_ceiling = noise_ceiling(ncsnr, n_repeats)
        self.correlation = {
            name: voxelwise_correlation(averages, np.ascontiguousarray(p))
            for name, p in predictions.items()
        }
        # What returns single trials to the recorded unit, where patterns have a mean.
        self.shift, self.scale = _recorded_scale(brain, subject, test.session)
        self.half = _halves(trials, self.rows)

    def notes(self) -> list[str]:
        """Why a ceiling is missing, or what it rests on."""
        if not self.has_ceiling:
            return [
                "no noise ceiling: neither the data nor repeats of images say how reliable voxels "
                "are; show images twice or more, or give ncsnr"
            ]
        if self.half is None:
            return [
                "no ceiling of RSA and CKA: expected four test images or more that were shown twice"
            ]
        return []

    def scores(self, voxels: np.ndarray, n_boot: int, seed: int) -> dict[str, dict[str, Any]]:
        """Every score within some voxels: boolean array (n_voxels,)."""
        some = {k: np.ascontiguousarray(p[:, voxels]) for k, p in self.predictions.items()}
        truth = np.ascontiguousarray(self.averages[:, voxels])
        baseline = self.brain.distribution.mean_pattern[voxels]
        n_images = len(truth)

        def interval(statistic: Callable[[np.ndarray], np.ndarray]) -> list[Any]:
            generator = np.random.default_rng(seed)
            low, high = bootstrap_ci(statistic, n_images, generator, n_boot)
            return np.stack([low, high], axis=-1).tolist()

        def over_images(values: np.ndarray) -> list[float]:
            return interval(lambda counts: weighted_mean(values, counts))

        scores: dict[str, dict[str, Any]] = {}
        r = {k: self.correlation[k][voxels] for k in some}
        usable = self.reliable[voxels]
        explained = self.explained_ceiling[voxels][usable]
        normalised = self.has_ceiling and usable.any()

        def of_correlation(counts: np.ndarray) -> np.ndarray:
            """Both scores that are made of r, so that it is computed once: (n_draws, 1 or 2)."""
            drawn = weighted_correlation(truth, some["model"], counts)
            medians = [np.nanmedian(drawn, axis=1)]
            if normalised:
                medians.append(np.nanmedian(_signed_square(drawn[:, usable]) / explained, axis=1))
            return np.stack(medians, axis=1)

        limits = interval(of_correlation)
        scores["voxelwise_correlation"] = {
            **{k: _median(value) for k, value in r.items()},
            "ceiling": _median(self.ceiling[voxels]) if self.has_ceiling else None,
            "ci": limits[0],
        }
        if normalised:
            scores["noise_normalised_r2"] = {
                **{k: _median(_signed_square(v[usable]) / explained) for k, v in r.items()},
                "ceiling": 1.0,
                "ci": limits[1],
            }
        errors = squared_errors_of_images(truth, some["model"], baseline)
        scores["skill"] = {
            **{k: pooled_skill(truth, p, baseline) for k, p in some.items()},
            "ceiling": None,
            "ci": interval(lambda counts: 1 - np.divide(*(weighted_mean(errors, counts)).T)),
        }
        if voxels.sum() <= 2:
            return scores
        scores |= self._of_patterns(voxels, some, over_images)

        # Which image it was, and how images lie to one another: without what all have in common.
        centred = {k: p - baseline for k, p in some.items()}
        recorded = truth - baseline
        similarity = {k: pattern_similarity(recorded, p) for k, p in centred.items()}
        n_candidates = min(N_CANDIDATES, n_images)
        for score, function in (
            ("two_way_identification", two_way),
            ("n_way_identification", lambda s: n_way(s, n_candidates)),
        ):
            values = {k: function(s) for k, s in similarity.items()}
            scores[score] = {
                **{k: float(v.mean()) for k, v in values.items()},
                "ceiling": None,
                "ci": over_images(values["model"]),
            }
        scores["n_way_identification"]["n_candidates"] = n_candidates
        distances = {k: rdm(p) for k, p in centred.items()}
        true = rdm(recorded)
        scores["rsa"] = {
            **{k: rsa(true, d) for k, d in distances.items()},
            "ceiling": self._split_half(voxels, lambda a, b: rsa(rdm(a), rdm(b))),
            "ci": interval(lambda counts: weighted_rsa(true, distances["model"], counts)),
        }
        scores["cka"] = {
            **{k: linear_cka(recorded, p) for k, p in centred.items()},
            "ceiling": self._split_half(voxels, linear_cka),
            "ci": interval(lambda counts: weighted_cka(recorded, centred["model"], counts)),
        }
        return scores

    def _of_patterns(
        self,
        voxels: np.ndarray,
        some: dict[str, np.ndarray],
        over_images: Callable[[np.ndarray], list[float]],
    ) -> dict[str, dict[str, Any]]:
        """Scores across voxels of single trials, in the recorded unit, as the paper has them."""
        scale, shift = self.scale[:, voxels], self.shift[:, voxels]
        true = np.ascontiguousarray(self.trials[:, voxels] * scale + shift)
        found = {k: p[self.rows] * scale + shift for k, p in some.items()}
        counts = np.bincount(self.rows)

        def by_image(values: np.ndarray) -> np.ndarray:
            return np.bincount(self.rows, values) / counts

        scores = {}
        for score, function in (
            ("pattern_correlation", pattern_correlation),
            ("mse", mean_squared_error),
            ("cosine", cosine_similarity),
        ):
            values = {k: by_image(function(true, p)) for k, p in found.items()}
            scores[score] = {
                **{k: float(np.nanmean(v)) for k, v in values.items()},
                "ceiling": _repeat_ceiling(function, true, self.rows),
                "ci": over_images(values["model"]),
            }
        return scores

    def _split_half(
        self, voxels: np.ndarray, agreement: Callable[[np.ndarray, np.ndarray], float]
    ) -> float | None:
        """Largest expected agreement with the repeat averages: √ of their reliability.

        Reliability is the agreement of averages over odd and over even repeats, brought to the
        length of both together (Spearman 1910; Brown 1910).
        """
        if self.half is None:
            return None
        first, second = (
            part[:, voxels] - self.brain.distribution.mean_pattern[voxels] for part in self.half
        )
        halves = agreement(first, second)
        return float(np.sqrt(2 * halves / (1 + halves))) if halves > 0 else None


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
                        **{k: values.get(k) for k in PREDICTORS[1:]},
                        "ceiling": values["ceiling"],
                    }
                )
    return pd.DataFrame(rows)


def draws_table(metrics: dict[str, Any]) -> pd.DataFrame:
    """Scores of the draws: one row a score, one column a distribution."""
    rows = []
    for score, values in metrics["draws"].items():
        if score in ("pit_histogram", "latent_noise_factor"):
            continue
        low, high = values.get("ci") or (None, None)
        best = values.get("nominal", values.get("ceiling", values.get("test_trials")))
        rows.append(
            {
                "region": "all",
                "score": score,
                "model": values["model"],
                "ci_low": low,
                "ci_high": high,
                **{
                    k: values.get(k)
                    for k in ("linear", "mean_pattern", "latent_nf1", "latent_best", "shuffled")
                },
                "reference": best,
            }
        )
        rows += [
            {"region": region, "score": score, "model": value}
            for region, value in values.get("roi", {}).items()
        ]
    return pd.DataFrame(rows)


def paper_table(metrics: dict[str, Any]) -> pd.DataFrame:
    """The columns of the published table (Mai et al. 2025, table 1), on its scale.

    MSE is in the square of its unit where the recorded unit is percent signal change, else
    missing. Incep, CLIP, Eff and SwAV compare images decoded by MindEye2, and are not computed.
    """
    overall, found = metrics["overall"], metrics["retrieval"]
    psc = metrics["recorded_unit"] == "percent signal change"
    decoder = found.get("brainvae", {})
    rows = []
    for name in PREDICTORS:
        if name not in overall["mse"]:
            continue
        raw = decoder.get("raw") if name == "model" else None
        syn = decoder.get({"model": "syn", "mean_pattern": "mean_pattern"}.get(name, name))
        rows.append(
            {
                "row": name,
                "MSE": overall["mse"][name] * PUBLISHED_SCALE**2 if psc else None,
                "r": overall["pattern_correlation"][name],
                "cos": overall["cosine"][name],
                **dict.fromkeys(("Incep", "CLIP", "Eff", "SwAV")),
                "Raw": None if raw is None else 100 * raw,
                "Syn": None if syn is None else 100 * syn,
            }
        )
    dataset, _, label = metrics["subject"].partition("/sub-")
    if dataset == "nsd" and label in PUBLISHED:
        values = dict(zip(PUBLISHED_COLUMNS, PUBLISHED[label], strict=True))
        rows.append({"row": "published", **values})
    return pd.DataFrame(rows)


def finite(values: Any) -> Any:
    """What has no value, as JSON has it: None, however deep."""
    if isinstance(values, dict):
        return {key: finite(value) for key, value in values.items()}
    if isinstance(values, list):
        return [finite(value) for value in values]
    return None if isinstance(values, float) and not np.isfinite(values) else values


def _recorded_scale(
    brain: Brain, subject: PreparedSubject, session: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation (n_trials, n_voxels) that return each trial to the recorded unit."""
    if brain.config.standardization == "none":
        shape = (len(session), brain.n_voxels)
        return np.broadcast_to(brain.response_mean, shape), np.broadcast_to(
            brain.response_sd, shape
        )
    with np.load(subject.folder / "standardization.npz", allow_pickle=False) as file:
        row = np.searchsorted(file["sessions"], session)
        return file["mean"][row], file["sd"][row]


def derangement(n: int, generator: np.random.Generator) -> np.ndarray:
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


def _halves(trials: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Averages over odd and over even repeats of the images shown twice or more."""
    repeat = np.empty(len(rows), int)
    for image in np.unique(rows):
        repeat[rows == image] = np.arange((rows == image).sum())
    images = np.unique(rows[repeat == 1])
    if len(images) < 4:
        return None
    halves = []
    for parity in (0, 1):
        some = (repeat % 2 == parity) & np.isin(rows, images)
        halves.append(average_repeats(trials[some], rows[some])[0])
    return halves[0], halves[1]


def _signed_square(r: np.ndarray) -> np.ndarray:
    return np.sign(r) * r**2


def _median(values: np.ndarray) -> float | None:
    return float(np.nanmedian(values)) if np.isfinite(values).any() else None
