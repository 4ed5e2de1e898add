"""The figure of several models side by side, read back from its parts."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from msgspec.structs import replace

from synbrain_cli.io.results.comparison import ComparedRow, Comparison, Estimate, RowTraining
from synbrain_cli.io.results.record import ModelsProvenance, Repeats
from synbrain_cli.plotting.comparison import plot_comparison
from synbrain_cli.plotting.figure import save_figure

NORMALISED, PLAIN = "noise_normalised_correlation", "voxelwise_correlation"


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text)]


def comparison(*, simulated=True, normalised=True, whole=True):
    """Results of a comparison."""

    def row(name, kind, value, **training):
        ci = None if kind == "ceiling" else (value - 0.04, value + 0.05)
        score = Estimate(value=value, ci=ci)
        known = {"hours": 1, "n_trials": 616, "sources": [], "strategy": None} | training
        has_training = kind in ("mean_pattern", "linear", "model")
        return ComparedRow(
            row=name,
            kind=kind,
            models=[],
            training=RowTraining(**known) if has_training else None,
            voxelwise_correlation=score if kind != "ceiling" else Estimate(value=0.6, ci=None),
            noise_normalised_correlation=score if normalised else None,
            skill=None,
            coverage_90=None,
            difference_to_reference=None,
            ratio_to_reference=None,
            share_of_full=None,
            ratio_to_linear=None,
            roi={},
        )

    rows = [
        row("mean pattern", "mean_pattern", 0.0),
        row("linear encoder of sub-03_hours-1", "linear", 0.62),
        row("sub-03_hours-1", "model", 0.64, sources=["sub-01"], strategy="fine-tuning: all of it"),
        row("sub-03", "model", 0.82, hours=30, n_trials=22500),
        row("sub-03_hours-1, images shuffled", "shuffled", -0.0002),
        *([row("ceiling", "ceiling", 1.0)] if normalised else []),
    ]
    return Comparison(
        subject="somewhere/sub-03",
        simulated=simulated,
        models=["sub-03_hours-1", "sub-03"],
        reference="sub-03" if whole else "sub-03_hours-1",
        reference_has_all_data=whole,
        compared_by=NORMALISED if normalised else PLAIN,
        n_test_images=1000,
        n_test_trials=3000,
        repeats_per_image=Repeats(min=3, max=3),
        averaged_over=1,
        n_voxels=15724,
        n_reliable_voxels=9876,
        n_draws=0,
        units={},
        rows=rows,
        roi={},
        notes=[],
        provenance=ModelsProvenance(fingerprints={}, data="0", seed=0, n_boot=1000, versions={}),
    )


def points(axes):
    """Geometry → value, of the markers."""
    lines = [line for line in axes.lines if line.get_marker() not in ("None", None, "")]
    return {int(line.get_ydata()[0]): float(line.get_xdata()[0]) for line in lines}


def test_a_row_for_each_predictor():
    record = comparison()
    figure = plot_comparison(record)
    assert isinstance(figure, Figure)
    (axes,) = figure.axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert [label.splitlines()[0] for label in labels] == [r.row for r in record.rows[:-1]]
    assert labels[2].splitlines()[1] == "1 hour, 616 trials, from sub-01, fine-tuning"
    assert labels[3].splitlines()[1] == "30 hours, 22,500 trials"
    assert labels[4] == "sub-03_hours-1, images shuffled"
    assert points(axes) == {i: r.score(NORMALISED).value for i, r in enumerate(record.rows[:-1])}
    # The first row is on top.
    low, high = axes.get_ylim()
    assert low > high
    drawn = [tuple(np.round(line.get_xdata(), 6)) for line in axes.lines]
    for row in record.rows[:-1]:
        assert tuple(np.round(row.score(NORMALISED).ci, 6)) in drawn
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
    record = comparison()
    rows = list(record.rows)
    rows[2] = replace(rows[2], row="cheap$model_at$home")
    no_limits = replace(rows[3].noise_normalised_correlation, ci=None)
    rows[3] = replace(rows[3], noise_normalised_correlation=no_limits)
    figure = plot_comparison(replace(record, rows=rows))
    save_figure(figure, tmp_path / "comparison.png", dpi=50)
    (axes,) = figure.axes
    assert axes.get_yticklabels()[2].get_text().startswith("cheap$model_at$home\n")
    assert "0.820" in texts(figure)
