"""What the controls of a contrast say, in one sentence."""

from __future__ import annotations

import numpy as np
import pandas as pd

from synbrain_cli.experiments.contrast import Contrast

CONFOUNDED = 0.8  # share of a condition's variance, above which nothing is said (ours)
HALF = 0.5  # of an effect, above which a control is said to keep it (ours)


def say_verdict(found: Contrast, table: pd.DataFrame) -> str:
    """Say whether the largest effect survives its controls.

    Parameters
    ----------
    found : Contrast
    table : DataFrame
        Its regions, where there is one with the column ``random_weights``.
    """
    alpha = found.settings.alpha
    regions = table[table["region"] != "all"] if len(table) > 1 else table
    sure = regions[regions["p_corrected"] < alpha]
    if not len(sure):
        return (
            f"No region differs between {found.names[0]} and {found.names[1]} "
            f"(p < {alpha:g}, corrected for the number of regions)."
        )
    row = sure.loc[sure["t"].abs().idxmax()]
    effect = float(row["difference"])
    text = (
        f"The effect is largest in {row['region']} ({effect:+.3g} {found.brain.unit}, "
        f"95 % interval {row['low']:+.3g} to {row['high']:+.3g})"
    )
    if "p_adjusted" not in row:
        return f"{text}; no controls were run."
    text += _beside_low_level(found, row, effect)
    share = float(row["scrambled"]) / effect
    text += f"; phase-scrambled images {'keep' if share >= HALF else 'lose'} it ({share:.0%})"
    if "random_weights" in row:
        share = float(row["random_weights"]) / effect
        verb = "keeps" if share >= HALF else "loses"
        text += f"; an encoder of random weights {verb} it ({share:.0%})"
    return f"{text}."


def _beside_low_level(found: Contrast, row: pd.Series, effect: float) -> str:
    """Say what remains of an effect beside luminance, contrast, spatial frequency, saturation."""
    what = "luminance, contrast, spatial frequency and saturation"
    explained = found.confounded or 0.0
    if explained > CONFOUNDED:
        return (
            f": the conditions differ so much in {what} (these explain {explained:.0%} of the "
            "condition) that the two cannot be told apart"
        )
    survives = row["p_adjusted"] < found.settings.alpha
    survives &= np.sign(row["adjusted"]) == np.sign(effect)
    return (
        f": beside {what} it {'survives' if survives else 'does not survive'} "
        f"({row['adjusted']:+.3g}, p {row['p_adjusted']:.2g})"
    )
