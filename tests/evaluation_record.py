"""A whole record of an evaluation, of which a test says only what it is about."""

from __future__ import annotations

import msgspec

from synbrain_cli.io.results.evaluation import EvaluationRecord

DISTRIBUTIONS = {"model": 1.0, "linear": 1.0, "mean_pattern": 1.0, "shuffled": 1.0}
SCORE = {**DISTRIBUTIONS, "ceiling": None, "ci": [0.9, 1.1]}
SCORES = {"voxelwise_correlation": SCORE, "skill": SCORE}
DECODER = {
    name: value
    for k in ("raw", "syn", "draw", "mean_pattern", "shuffled")
    for name, value in ((k, 0.1), (f"{k}_ci", [0.0, 0.2]))
}
DRAWS = {
    **{f"coverage_{level}": {**DISTRIBUTIONS, "roi": {}} for level in (50, 80, 90, 95)},
    **{
        name: DISTRIBUTIONS
        for name in ("crps", "energy_score", "variance_ratio", "variance_ratio_median_voxel")
    },
    "pit_histogram": {name: [1.0] * 20 for name in DISTRIBUTIONS},
}
BITS = {"model": 0.3, "linear": 0.1, "shuffled": 0.2, "ci": [0.2, 0.4], "gain_ci": {}}
CONTENT = {
    "model": "sub-01",
    "subject": "simulated/sub-01",
    "simulated": True,
    "n_test_images": 1000,
    "n_test_trials": 3000,
    "repeats_per_image": {"min": 3, "max": 3},
    "averaged_over": 1,
    "n_voxels": 100,
    "n_reliable_voxels": 80,
    "n_draws": 200,
    "units": {},
    "recorded_unit": "percent signal change",
    "overall": SCORES,
    "roi": {},
    "retrieval": {"n_candidates": 300, "chance": 1 / 300, "linear_decoder": DECODER},
    "draws": DRAWS,
    "likelihood": {"given_image": BITS},
    "doubtful": {},
    "notes": [],
    "provenance": {"fingerprint": "0", "data": "0", "seed": 0, "n_boot": 1000, "versions": {}},
}


def evaluation_record(content: dict, **parts) -> EvaluationRecord:
    """The record of ``CONTENT`` with entries replaced.

    Of ``overall``, ``roi`` and ``draws``, scores are replaced one by one, and values of a score,
    too.
    """
    whole = {**CONTENT, **content, **parts}
    whole["overall"] = SCORES | _complete(whole["overall"])
    whole["roi"] = {name: SCORES | _complete(scores) for name, scores in whole["roi"].items()}
    whole["draws"] = DRAWS | {k: {**_missing(k), **v} for k, v in whole["draws"].items()}
    plain = msgspec.to_builtins(whole, enc_hook=float)  # NumPy's numbers
    return msgspec.convert(plain, EvaluationRecord)


def _complete(scores: dict) -> dict:
    return {k: {**SCORE, **v} if isinstance(v, dict) else v for k, v in scores.items()}


def _missing(score: str) -> dict:
    if score == "pit_histogram":
        return {}
    return {"test_trials": None} if score.startswith("ncsnr") else DISTRIBUTIONS
