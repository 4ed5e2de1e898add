"""Which scores mean nothing: by the number of test images, their intervals, and their ceiling.

Three criteria (ours):

- fewer than `FEW` test images, or groups of them: over n images, responses that have nothing to do
  with each other correlate with a standard deviation of 1/√(n − 1), so that 95 % of chance lies
  within ±1.96/√(n − 1), which is ±0.45 at 20;
- a 95 % interval wider than `WIDE`, of scores whose range from chance to perfect is 1 or less;
- a share of the explainable variance above 1, more than any prediction can be expected to reach:
  the ceiling, or the score, is off by chance.
"""

from __future__ import annotations

from synbrain_cli.datasets.splits import LEAST_TESTED
from synbrain_cli.io.results.evaluation import ResponseScore, ResponseScores

MIN_IMAGES = LEAST_TESTED  # test images; with fewer, no score over images can be computed
FEW = 20  # test images
WIDE = 0.5  # of a 95 % interval
FOLDS_ADVICE = (
    "score every image when it was held out (`synbrain evaluate --folds 5`, of a linear model; or "
    "prepare with --split leave-out)"
)
# Scores from 0, or from chance, to 1.
BOUNDED = (
    "voxelwise_correlation",
    "noise_normalised_r2",
    "skill",
    "pattern_correlation",
    "cosine",
    "two_way_identification",
    "n_way_identification",
    "rsa",
    "cka",
)


def chance_correlation(n_images: int) -> float:
    """Return the correlation over images that 5 % of unrelated responses exceed by chance."""
    return 1.96 / max(n_images - 1, 1) ** 0.5


def notes_on_number(
    n_images: int, grouped: bool = False, held_out_by_turns: bool = False
) -> list[str]:
    """Return the note on too few test images; none where there are enough.

    Parameters
    ----------
    n_images : int
        Images, or groups of images: what is independent.
    grouped : bool
        Whether it is groups.
    held_out_by_turns : bool
        All images of the subject were scored already.
    """
    if n_images >= FEW:
        return []
    what, advice = (
        ("images", f"they need more {'groups of ' * grouped}images")
        if held_out_by_turns
        else ("test images", f"{FOLDS_ADVICE}, or prepare with more test images (--test, --split)")
    )
    if grouped:
        what = f"groups of {what}"
    return [
        f"only {n_images} {what}: over so few, unrelated responses correlate by up to "
        f"±{min(chance_correlation(n_images), 1):.2f} by chance, and these scores mean nothing by "
        f"themselves: {advice}"
    ]


def doubtful_scores(scores: ResponseScores, n_images: int, grouped: bool = False) -> dict[str, str]:
    """Return the scores that mean nothing, each with the reason.

    Parameters
    ----------
    scores : ResponseScores
        Over all voxels.
    n_images : int
        Number of test images, or of groups of them.
    grouped : bool
        Whether it is groups.
    """
    found = {}
    for name, values in scores.items():
        if not isinstance(values, ResponseScore):
            continue
        low, high = values.ci
        if n_images < FEW:
            unit = "groups of test images" if grouped else "test images"
            found[name] = f"{n_images} {unit}, fewer than {FEW}"
        elif name in BOUNDED and low is not None and high is not None and high - low > WIDE:
            found[name] = f"95 % interval wider than {WIDE}"
        elif name == "noise_normalised_r2" and (values.model or 0) > 1:
            found[name] = "above 1: the noise ceiling is uncertain"
    return found


def notes_on_doubt(doubtful: dict[str, str]) -> list[str]:
    """Return one note on the scores that mean nothing for other reasons than the images' number."""
    reasons: dict[str, list[str]] = {}
    for name, reason in doubtful.items():
        if "test images" not in reason:
            reasons.setdefault(reason, []).append(name)
    return [f"{', '.join(names)}: {reason}" for reason, names in reasons.items()]
