"""The figure of several models side by side, read back from its parts."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from synbrain_cli.plotting.comparison import plot_comparison
from synbrain_cli.plotting.figure import save_figure

NORMALISED, PLAIN = "noise_normalised_correlation", "voxelwise_correlation"


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text)]


def comparison(*, simulated=True, normalised=True, whole=True):
    """What a comparison writes, as far as it is drawn."""

    def row(name, kind, value, **training):
        ci = None if kind == "ceiling" else [value - 0.04, value + 0.05]
        score = {"value": value, "ci": ci}
        known = {"hours": 1, "n_trials": 616, "sources": [], "strategy": None} | training
        return {
            "row": name,
            "kind": kind,
            "training": known if kind in ("mean_pattern", "linear", "model") else None,
            PLAIN: score if kind != "ceiling" else {"value": 0.6, "ci": None},
            NORMALISED: score if normalised else None,
        }

    rows = [
        row("mean pattern", "mean_pattern", 0.0),
        row("linear encoder of sub-03_hours-1", "linear", 0.62),
        row("sub-03_hours-1", "model", 0.64, sources=["sub-01"], strategy="fine-tuning: all of it"),
        row("sub-03", "model", 0.82, hours=30, n_trials=22500),
        row("sub-03_hours-1, images shuffled", "shuffled", -0.0002),
        *([row("ceiling", "ceiling", 1.0)] if normalised else []),
    ]
    return {
        "subject": "somewhere/sub-03",
        "simulated": simulated,
        "reference": "sub-03" if whole else "sub-03_hours-1",
        "reference_has_all_data": whole,
        "compared_by": NORMALISED if normalised else PLAIN,
        "n_test_images": 1000,
        "n_voxels": 15724,
        "n_reliable_voxels": 9876,
        "rows": rows,
    }


def points(axes):
    """Geometry → value, of the markers."""
    lines = [line for line in axes.lines if line.get_marker() not in ("None", None, "")]
    return {int(line.get_ydata()[0]): float(line.get_xdata()[0]) for line in lines}


def test_a_row_for_each_predictor():
    metrics = comparison()
    figure = plot_comparison(metrics)
    assert isinstance(figure, Figure)
    (axes,) = figure.axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert [label.splitlines()[0] for label in labels] == [r["row"] for r in metrics["rows"][:-1]]
    assert labels[2].splitlines()[1] == "1 hour, 616 trials, from sub-01, fine-tuning"
    assert labels[3].splitlines()[1] == "30 hours, 22,500 trials"
    assert labels[4] == "sub-03_hours-1, images shuffled"
    assert points(axes) == {i: r[NORMALISED]["value"] for i, r in enumerate(metrics["rows"][:-1])}
    # The first row is on top.
    low, high = axes.get_ylim()
    assert low > high
    drawn = [tuple(np.round(line.get_xdata(), 6)) for line in axes.lines]
    for row in metrics["rows"][:-1]:
        assert tuple(np.round(row[NORMALISED]["ci"], 6)) in drawn
    found = texts(figure)
    assert "0.640 [0.600, 0.690]" in found
    assert not [text for text in found if "-0.000" in text]


@pytest.mark.parametrize("whole", [True, False])
def test_the_ceiling_and_the_reference_are_lines(whole):
    figure = plot_comparison(comparison(whole=whole))
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines["noise ceiling"].get_xdata()) == [1, 1]
    label = "sub-03, all their data" if whole else "sub-03_hours-1, the reference"
    reference = lines[label]
    assert list(reference.get_xdata()) == [0.82, 0.82] if whole else [0.64, 0.64]
    assert reference.get_linestyle() == "--"
    assert axes.get_xlim()[1] > 1
    (legend,) = figure.legends
    assert {text.get_text() for text in legend.get_texts()} == {"noise ceiling", label}
    assert "9,876 reliable voxels" in axes.get_xlabel()


def test_kinds_differ_in_colour_and_in_marker():
    (axes,) = plot_comparison(comparison()).axes
    marks = {
        (line.get_color(), line.get_marker())
        for line in axes.lines
        if line.get_marker() not in ("None", None, "")
    }
    assert len(marks) == len({colour for colour, _ in marks}) == len({m for _, m in marks}) == 4


@pytest.mark.parametrize("simulated", [True, False])
def test_a_simulated_subject_is_called_so(simulated):
    title = plot_comparison(comparison(simulated=simulated)).get_suptitle()
    assert ("simulated" in title) == simulated
    assert "somewhere/sub-03" in title
    assert "1,000 test images" in title


def test_without_a_ceiling_there_is_no_line_of_it(tmp_path):
    figure = plot_comparison(comparison(normalised=False))
    (axes,) = figure.axes
    assert "noise ceiling" not in [line.get_label() for line in axes.lines]
    assert len(points(axes)) == 5
    assert "15,724 voxels" in axes.get_xlabel()
    save_figure(figure, tmp_path / "comparison.png", dpi=80)
    assert (tmp_path / "comparison.png").stat().st_size > 5_000


def test_names_are_not_taken_for_formulas(tmp_path):
    metrics = comparison()
    metrics["rows"][2]["row"] = "cheap$model_at$home"
    metrics["rows"][3][NORMALISED]["ci"] = None
    figure = plot_comparison(metrics)
    save_figure(figure, tmp_path / "comparison.png", dpi=50)
    (axes,) = figure.axes
    assert axes.get_yticklabels()[2].get_text().startswith("cheap$model_at$home\n")
    assert "0.820" in texts(figure)
