"""Scores of `synbrain evaluate` as tables."""

from __future__ import annotations

import pandas as pd

from synbrain_cli.io.results.evaluation import (
    AverageScore,
    DrawScore,
    EvaluationRecord,
    NoiseCorrelationScore,
    ReliabilityScore,
    ResponseScore,
)
from synbrain_cli.io.results.likelihood import LikelihoodScore
from synbrain_cli.io.results.two_sample import TwoSampleScores

SCORES = (AverageScore, DrawScore, ReliabilityScore, NoiseCorrelationScore)  # of draws
BASELINES = ("network", "transfer", "deep", "linear", "mean_pattern", "shuffled")
DISTRIBUTIONS = ("linear", "mean_pattern", "latent_nf1", "latent_best", "shuffled", "apart")


def scores_table(metrics: EvaluationRecord) -> pd.DataFrame:
    """Scores of responses: one row per region and score, one column per predictor."""
    rows = []
    for region, scores in {"all": metrics.overall, **metrics.roi}.items():
        for score, values in scores.items():
            if isinstance(values, ResponseScore):
                low, high = values.ci
                rows.append(
                    {
                        "region": region,
                        "score": score,
                        "model": values.model,
                        "ci_low": low,
                        "ci_high": high,
                        **{name: values.get(name) for name in BASELINES},
                        "ceiling": values.ceiling,
                        "recording": values.get("recording"),
                    }
                )
    return pd.DataFrame(rows)


def draws_table(metrics: EvaluationRecord) -> pd.DataFrame:
    """Scores of draws: one row per score and region, one column per distribution.

    ``reference`` is the value of a calibrated distribution, the ceiling, or the score of the
    recorded test trials; ``apart`` that of draws whose images share no errors.
    """
    rows = []
    for score, values in metrics.draws.items():
        if not isinstance(values, SCORES):
            continue
        known = dict(values.items())
        low, high = known.get("ci", (None, None))
        rows.append(
            {
                "region": "all",
                "score": score,
                "model": values.model,
                "ci_low": low,
                "ci_high": high,
                **{name: known.get(name) for name in DISTRIBUTIONS},
                "reference": known.get("nominal", known.get("ceiling", known.get("test_trials"))),
            }
        )
        rows += [
            {"region": region, "score": score, "model": value}
            for region, value in known.get("roi", {}).items()
        ]
    return pd.DataFrame(rows)


def likelihood_table(metrics: EvaluationRecord) -> pd.DataFrame:
    """Likelihoods of the recorded trials: one row each, one column per distribution."""
    rows = []
    for score, values in metrics.likelihood.items():
        low, high = values.ci
        others = {n: values.get(n) for n in ("linear", "image_blind", "shuffled")}
        rows.append(
            {
                "region": "all",
                "score": f"{score}_bits" if isinstance(values, LikelihoodScore) else score,
                "model": values.model,
                "ci_low": low,
                "ci_high": high,
                **others,
            }
        )
    return pd.DataFrame(rows)


def two_sample_table(scores: TwoSampleScores) -> pd.DataFrame:
    """AUC of classifiers: one row per classifier and kind of row, one column per distribution."""
    rows = []
    for unit in ("trials", "pairs"):
        for classifier, score in (scores.get(unit) or {}).items():
            low, high = score.ci
            own = {
                "rows": unit,
                "classifier": classifier,
                "model": score.model,
                "ci_low": low,
                "ci_high": high,
                "p": score.p,
                "floor": score.floor,
                "floor_sd": score.floor_sd,
                "right": score.get("right"),
                "right_sd": score.get("right_sd"),
            }
            for name in ("linear", "mean_pattern", "latent_nf1"):
                limits = score.baselines_ci.get(name, (None, None))
                own[name] = score.get(name)
                own[f"{name}_ci_low"], own[f"{name}_ci_high"] = limits
            rows.append(own)
    return pd.DataFrame(rows)


def two_sample_regions_table(scores: TwoSampleScores) -> pd.DataFrame:
    """How recorded trials differ from drawn ones: one row per kind of feature, then per region."""
    rows: list[dict[str, object]] = [
        {
            "what": f"features: {kind}",
            "auc": one.auc,
            "auc_low": one.ci[0],
            "auc_high": one.ci[1],
            "p": one.p,
        }
        for kind, one in scores.kinds.items()
    ]
    for region, score in scores.roi.items():
        own: dict[str, object] = {"what": region, "n_voxels": score.n_voxels, "auc": score.auc}
        own |= {"auc_low": score.auc_ci[0], "auc_high": score.auc_ci[1], "p": score.p}
        for name in ("variance_ratio", "mean_variance_ratio", "repeated_difference"):
            low, high = score.get(f"{name}_ci") or (None, None)
            own |= {name: score.get(name), f"{name}_low": low, f"{name}_high": high}
        rows.append(own)
    table = pd.DataFrame(rows)
    if "n_voxels" in table:
        table["n_voxels"] = table["n_voxels"].astype("Int64")  # empty of kinds of features
    return table
