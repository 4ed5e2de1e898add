"""Scores of `synbrain evaluate` as tables."""

from __future__ import annotations

import pandas as pd

from synbrain_cli.io.results.evaluation import (
    DrawScore,
    EvaluationRecord,
    LikelihoodScore,
    NoiseCorrelationScore,
    ReliabilityScore,
    ResponseScore,
)

BASELINES = ("network", "transfer", "deep", "linear", "mean_pattern", "shuffled")
DISTRIBUTIONS = ("linear", "mean_pattern", "latent_nf1", "latent_best", "shuffled")


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
    recorded test trials.
    """
    rows = []
    for score, values in metrics.draws.items():
        if not isinstance(values, (DrawScore, ReliabilityScore, NoiseCorrelationScore)):
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
