"""The published table (Mai et al. 2025), for scores beside its own."""

from __future__ import annotations

import pandas as pd
from msgspec import UNSET

from synbrain_cli.evaluation.tables import BASELINES
from synbrain_cli.io.results.evaluation import EvaluationRecord
from synbrain_cli.io.results.record import Number, Result

# Mai et al. 2025, tables 1 and 2, by subject of NSD.
COLUMNS = ("MSE", "r", "cos", "Incep", "CLIP", "Eff", "SwAV", "Raw", "Syn")
PUBLISHED = {
    "nsd/sub-01": (0.079, 0.715, 0.769, 96.7, 95.9, 0.619, 0.350, 94.7, 99.3),
    "nsd/sub-02": (0.134, 0.667, 0.715, 96.2, 94.5, 0.637, 0.364, 92.4, 97.1),
    "nsd/sub-05": (0.190, 0.739, 0.793, 96.2, 93.9, 0.627, 0.356, 78.0, 86.4),
    "nsd/sub-07": (0.151, 0.626, 0.680, 93.6, 93.0, 0.671, 0.380, 73.9, 87.3),
}
UNIT = "percent signal change"
SCALE = 0.15  # the published unit, raw betas / 2000, is 0.15 × percent signal change


def paper_table(metrics: EvaluationRecord) -> pd.DataFrame:
    """Return the columns of the published table (Mai et al. 2025, table 1), on its scale.

    MSE is in the square of its unit where the recorded unit is percent signal change, else
    missing. Incep, CLIP, Eff and SwAV compare images decoded by MindEye2, and are not computed.
    """
    rows = [
        {"row": name, **_columns(metrics, name)}
        for name in ("model", *BASELINES)
        if name in dict(metrics.overall.voxelwise_correlation.items())
    ]
    if metrics.subject in PUBLISHED:
        values = dict(zip(COLUMNS, PUBLISHED[metrics.subject], strict=True))
        rows.append({"row": "published", **values})
    return pd.DataFrame(rows)


def _columns(metrics: EvaluationRecord, name: str) -> dict[str, Number]:
    """One row of the table."""
    mse = _value(metrics.overall.get("mse"), name)
    decoder = metrics.retrieval.get("brainvae") if metrics.retrieval is not UNSET else None
    raw = _value(decoder, "raw") if name == "model" else None
    syn = _value(decoder, "syn" if name == "model" else name)
    return {
        "MSE": None if mse is None or metrics.recorded_unit != UNIT else mse * SCALE**2,
        "r": _value(metrics.overall.get("pattern_correlation"), name),
        "cos": _value(metrics.overall.get("cosine"), name),
        **dict.fromkeys(("Incep", "CLIP", "Eff", "SwAV")),
        "Raw": None if raw is None else 100 * raw,
        "Syn": None if syn is None else 100 * syn,
    }


def _value(score: Result | None, name: str) -> Number:
    return None if score is None else score.get(name)
