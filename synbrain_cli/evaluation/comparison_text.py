"""Tables and text of a comparison: ``comparison.tsv`` and ``comparison.md``."""

from __future__ import annotations

from typing import Final

import pandas as pd

from synbrain_cli.config import trials_name
from synbrain_cli.evaluation.test_set import RELIABLE
from synbrain_cli.io.results.comparison import ComparedRow, Comparison, Estimate

PLAIN: Final = "voxelwise_correlation"
NORMALISED: Final = "noise_normalised_correlation"
SCORES = (
    PLAIN,
    NORMALISED,
    "skill",
    "coverage_90",
    "difference_to_reference",
    "ratio_to_reference",
    "ratio_to_linear",
)


def comparison_table(comparison: Comparison) -> pd.DataFrame:
    """Return one row per predictor, over all voxels.

    A score ``s`` has the columns ``s``, ``s_low`` and ``s_high``.
    """
    rows = []
    for entry in comparison.rows:
        training = entry.training
        row = {
            "row": entry.row,
            "hours": training.hours if training else None,
            "trials": training.n_trials if training else None,
            "sources": (", ".join(training.sources) if training else "") or None,
            "strategy": training.strategy if training else None,
        }
        for score in SCORES:
            row |= _columns(score, entry.get(score))
        row["share_of_full"] = entry.share_of_full.value if entry.share_of_full else None
        rows.append(row)
    table = pd.DataFrame(rows)
    numbers = table.columns[list(table.columns).index(SCORES[0]) :]
    return table.astype({"trials": "Int64"}).astype(dict.fromkeys(("hours", *numbers), float))


def region_table(comparison: Comparison) -> pd.DataFrame:
    """Return the score that models are compared by: one row per region and predictor."""
    return pd.DataFrame(
        [
            {
                "region": region,
                "row": entry.row,
                **_columns(comparison.compared_by, entry.roi[region]),
            }
            for region in comparison.roi
            for entry in comparison.rows
        ]
    )


def full_table(comparison: Comparison) -> pd.DataFrame:
    """Return ``comparison.tsv``: all voxels (region "all"), then each region."""
    overall, regions = comparison_table(comparison), region_table(comparison)
    overall.insert(0, "region", "all")
    return pd.concat([overall, regions]) if len(regions) else overall


def _columns(name: str, score: Estimate | None) -> dict[str, float | None]:
    low, high = (score.ci if score else None) or (None, None)
    return {name: score.value if score else None, f"{name}_low": low, f"{name}_high": high}


def comparison_text(comparison: Comparison) -> str:
    """Return ``comparison.md``: a table in Markdown, and how to read it."""
    headings = _headings(comparison)
    lines = [
        [*_training_cells(entry), *(_cell(entry.get(score)) for score in headings)]
        for entry in comparison.rows
    ]
    kind = " (simulated data)" if comparison.simulated else ""
    parts = [
        f"# Models of {comparison.subject} compared{kind}",
        _markdown(["", "hours", "trials", "sources", "strategy", *headings.values()], lines),
        _how_to_read(comparison),
    ]
    if comparison.roi:
        # Regions add nothing to the mean pattern and the ceiling.
        shown = [row for row in comparison.rows if row.kind not in ("mean_pattern", "ceiling")]
        parts += [
            f"## By region: {'r / ceiling' if comparison.is_normalised else 'r'}",
            _markdown(
                ["", "voxels", *(row.row for row in shown)],
                [
                    [name, f"{size.n_voxels:,}", *(_cell(row.roi[name]) for row in shown)]
                    for name, size in comparison.roi.items()
                ],
            ),
        ]
    if comparison.notes:
        parts += ["## Notes", "\n".join(f"- {note}" for note in comparison.notes)]
    return "\n\n".join(parts) + "\n"


def _headings(comparison: Comparison) -> dict[str, str]:
    """Score → heading of its column."""
    headings = {PLAIN: "r"}
    if comparison.is_normalised:
        headings[NORMALISED] = "r / ceiling"
    headings["skill"] = "skill"
    if comparison.n_draws:
        headings["coverage_90"] = "90 % coverage"
    return headings | {
        "difference_to_reference": f"− {comparison.reference}",
        "ratio_to_reference": f"÷ {comparison.reference}",
        "ratio_to_linear": "÷ linear encoder",
    }


def _training_cells(entry: ComparedRow) -> list[str]:
    """Name, hours, trials, sources and strategy of a row."""
    training = entry.training
    if training is None:
        return [entry.row, "", "", "", ""]
    hours = "" if training.hours is None else f"{training.hours:g}"
    sources, strategy = ", ".join(training.sources), training.strategy or ""
    return [entry.row, hours, f"{training.n_trials:,}", sources, strategy]


def _how_to_read(comparison: Comparison) -> str:
    reference, n_images = comparison.reference, comparison.n_test_images
    least, most = comparison.repeats_per_image.min, comparison.repeats_per_image.max
    repeats = f"{least}" if least == most else f"{least} to {most}"
    on = f"{n_images:,} test images{comparison.of_dataset}"
    sentences = [
        f"All rows are scored on the same {on} ({repeats} repeats each), which no row "
        "was trained on.",
        "*r* is the correlation over images of prediction and repeat average, the median over "
        f"{comparison.n_voxels:,} voxels.",
    ]
    if comparison.is_normalised:
        sentences.append(
            "*r / ceiling* divides it, voxel by voxel, by the largest correlation that the noise "
            "in these repeats allows: the median over the "
            f"{comparison.n_reliable_voxels:,} voxels with an ncsnr above {RELIABLE}; 1 is as good "
            "as any model can be expected to be."
        )
    sentences.append(
        "*Skill* is the part of the squared error of the mean pattern (the first row) that is "
        "removed; it may be negative."
    )
    if comparison.n_draws:
        sentences.append(
            "*90 % coverage* is the share of recorded "
            f"{trials_name(comparison.averaged_over)} inside the central 90 % of "
            f"{comparison.n_draws} draws: best near 0.9, above it draws vary too much, below it "
            "too little; the mean pattern and linear encoders are drawn around with independent "
            "normal noise."
        )
    what = "the model of all the subject's data" if comparison.reference_has_all_data else "first"
    score = "*r / ceiling*" if comparison.is_normalised else "*r*"
    sentences += [
        f"*−* and *÷ {reference}* compare {score} with that of the reference ({what}), *÷ "
        "linear encoder* with that of the linear encoder of the same data.",
        "Brackets are 95 % bootstrap intervals over images. A bootstrap draw takes the same images "
        "for all rows, so judge two models by the interval of their difference or ratio (does it "
        "hold 0, or 1?), not by whether their own intervals overlap.",
        "The intervals say how far other images might change the scores; not what another "
        "training, or another subject, would.",
    ]
    return " ".join(sentences)


def _markdown(heads: list[str], lines: list[list[str]]) -> str:
    cells = [[cell.replace("|", "\\|") for cell in line] for line in (heads, *lines)]
    rows = [f"| {' | '.join(line)} |" for line in cells]
    return "\n".join([rows[0], "|" + " --- |" * len(heads), *rows[1:]])


def _cell(score: Estimate | None) -> str:
    """0.512 [0.480, 0.544]; no minus before 0.000."""
    if score is None:
        return ""
    value, *limits = (f"{round(x, 3) + 0.0:.3f}" for x in (score.value, *(score.ci or ())))
    return f"{value} [{', '.join(limits)}]" if limits else value
