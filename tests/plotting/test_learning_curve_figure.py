"""The figure of scores against the amount of data, read back from its parts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import NullLocator

from synbrain_cli.errors import InputError, InputTypeError
from synbrain_cli.metrics.learning_curve import fit_learning_curve
from synbrain_cli.plotting.figure import save_figure
from synbrain_cli.plotting.learning_curve import Curve, Levels, plot_learning_curve

AMOUNTS = np.array([1.0, 2, 5, 10, 37.5])
SUBJECTS = ["sub-01", "sub-02", "sub-05"]


def curve(seed=0, *, slope=0.1, fitted=True, missing=False):
    rng = np.random.default_rng(seed)
    scores = np.array([[0.1], [0.15], [0.2]]) + slope * np.log10(AMOUNTS)
    scores = scores + 0.005 * rng.normal(size=scores.shape)
    if missing:
        scores[2, 3:] = np.nan
    boot = scores + 0.01 * rng.normal(size=(200, *scores.shape))
    mean = np.nanmean(scores, axis=0)
    return Curve(
        AMOUNTS,
        scores,
        ci=np.stack([mean - 0.02, mean + 0.02], axis=1),
        fit=fit_learning_curve(AMOUNTS, scores, boot, generator=rng) if fitted else None,
        subjects=SUBJECTS,
    )


def lines(figure, gid):
    return [line for line in figure.axes[0].lines if line.get_gid() == gid]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_parts_of_every_curve(tmp_path):
    curves = {"SynBrain": curve(), "linear": curve(1, fitted=False)}
    figure = plot_learning_curve(curves, ylabel="correlation over images", title="How far hours go")
    assert isinstance(figure, Figure)
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    assert axes.get_xlabel() == "training data (hours)"
    assert axes.get_ylabel() == "correlation over images"
    assert axes.get_title(loc="left") == "How far hours go"
    assert len(lines(figure, "subject")) == 6
    assert len(lines(figure, "fit")) == 1
    for line, given in zip(lines(figure, "mean"), curves.values(), strict=True):
        np.testing.assert_allclose(line.get_xdata(), AMOUNTS)
        np.testing.assert_allclose(line.get_ydata(), given.scores.mean(0))
    for line, row in zip(lines(figure, "subject"), curves["SynBrain"].scores, strict=False):
        np.testing.assert_allclose(line.get_ydata(), row)
        assert line.get_linewidth() < 1
    bars = [c for c in axes.collections if isinstance(c, LineCollection)]
    assert len(bars) == 2
    ends = np.array([segment[:, 1] for segment in bars[0].get_segments()])
    np.testing.assert_allclose(ends, curves["SynBrain"].ci)
    assert sum(isinstance(c, PolyCollection) for c in axes.collections) == 1
    colours = {line.get_color() for line in lines(figure, "mean")}
    assert len(colours) == len({line.get_marker() for line in lines(figure, "mean")}) == 2
    save_figure(figure, tmp_path / "learning_curve.png")
    assert (tmp_path / "learning_curve.png").stat().st_size > 10_000


def test_amounts_are_plain_tick_labels():
    axes = plot_learning_curve({"linear": curve()}, ylabel="r", unit="sessions").axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "5", "10", "37.5"]
    assert axes.get_xlabel() == "training data (sessions)"
    assert isinstance(axes.xaxis.get_minor_locator(), NullLocator)
    low, high = axes.get_xlim()
    assert 0 < low < 1
    assert high > 37.5


def test_tick_labels_that_would_overlap_are_thinned():
    amounts = np.arange(1.0, 41)
    axes = plot_learning_curve({"a": Curve(amounts, amounts)}, ylabel="r").axes[0]
    ticks = axes.get_xticks()
    assert 10 < len(ticks) < 25
    assert {1, 40} <= set(ticks)
    assert np.diff(np.log10(ticks)).min() > 0.04 * np.log10(40)


def test_amounts_need_no_order_and_may_be_one():
    order = np.array([3, 0, 4, 2, 1])
    given = curve()
    shuffled = replace(
        given,
        amounts=given.amounts[order],
        ci=given.ci[order],
        scores=given.scores[:, order],
    )
    for one in (given, shuffled):
        (line,) = lines(plot_learning_curve({"linear": one}, ylabel="r"), "mean")
        np.testing.assert_allclose(line.get_xdata(), AMOUNTS)
        np.testing.assert_allclose(line.get_ydata(), given.scores.mean(0))
    low, high = plot_learning_curve({"a": Curve([3], [1])}, ylabel="r").axes[0].get_xlim()
    assert 0 < low < 3 < high


def test_the_fit_and_its_band():
    given = curve()
    figure = plot_learning_curve({"linear": given}, ylabel="r")
    (line,) = lines(figure, "fit")
    assert line.get_linestyle() == "--"
    x = line.get_xdata()
    np.testing.assert_allclose([x[0], x[-1]], [1, 37.5])
    np.testing.assert_allclose(line.get_ydata(), given.fit.predict(x))
    band = next(c for c in figure.axes[0].collections if isinstance(c, PolyCollection))
    y = band.get_paths()[0].vertices[:, 1]
    low, high = given.fit.band(x)
    np.testing.assert_allclose([y.min(), y.max()], [low.min(), high.max()])


def test_the_legend_tells_slopes():
    given = curve()
    low, high = given.fit.slope_ci
    texts = legend(plot_learning_curve({"linear": given, "mean": curve(fitted=False)}, ylabel="r"))
    assert texts[0] == (
        f"linear: slope {given.fit.slope:.3g} per tenfold data (95 % CI {low:.3g} to {high:.3g})"
    )
    assert texts[1] == "mean"
    assert texts[2] == "log-linear fit; interval from images and subjects"
    assert texts[3] == "one subject each (sub-01, sub-02, sub-05)"
    falling = legend(plot_learning_curve({"linear": curve(slope=-0.1)}, ylabel="r"))[0]
    assert "slope −0.1" in falling  # a minus, not a hyphen


def test_a_fit_without_an_interval_says_so():
    amounts, scores = [1, 10], [0.1, 0.2]
    one = Curve(amounts, scores, fit=fit_learning_curve(amounts, scores))
    figure = plot_learning_curve({"linear": one}, ylabel="r", levels=Levels(target=0.3))
    assert legend(figure)[0] == (
        "linear: slope 0.1 per tenfold data (no interval)\nreaches 0.3 at 100 hours, extrapolated"
    )
    assert not figure.axes[0].collections
    assert not lines(figure, "subject")  # the mean is the subject


def test_points_of_fewer_subjects_are_open():
    given = curve(missing=True)
    figure = plot_learning_curve({"linear": given}, ylabel="r")
    (fewer,) = lines(figure, "fewer")
    np.testing.assert_allclose(fewer.get_xdata(), AMOUNTS[3:])
    np.testing.assert_allclose(fewer.get_ydata(), given.scores[:2, 3:].mean(0))
    assert fewer.get_markerfacecolor() == "white"
    assert len(lines(figure, "subject")[2].get_xdata()) == 3
    assert legend(figure)[-1].endswith("open points: not all subjects")
    (none,) = lines(plot_learning_curve({"linear": curve()}, ylabel="r"), "fewer")
    assert len(none.get_xdata()) == 0


def test_levels_are_horizontal_lines_named_in_the_legend():
    figure = plot_learning_curve(
        {"linear": curve()},
        ylabel="r",
        levels=Levels(ceiling=0.6, references={"full data": 0.412, "mean pattern": -0.01}),
    )
    texts = legend(figure)
    assert texts[1:4] == ["noise ceiling (0.6)", "full data (0.412)", "mean pattern (−0.01)"]
    drawn = {line.get_label(): line for line in figure.axes[0].lines}
    for label, score in zip(texts[1:4], (0.6, 0.412, -0.01), strict=True):
        np.testing.assert_array_equal(drawn[label].get_ydata(), score)
    assert len({drawn[label].get_linestyle() for label in texts[1:4]}) == 3


def test_a_target_is_marked_where_the_line_reaches_it():
    given = curve()
    for target, extrapolated in ((0.2, False), (0.35, True)):
        figure = plot_learning_curve({"linear": given}, ylabel="r", levels=Levels(target=target))
        amount, (low, high) = given.fit.amount_to_reach(target)
        (star,) = lines(figure, "reached")
        np.testing.assert_allclose([star.get_xdata()[0], star.get_ydata()[0]], [amount, target])
        second = legend(figure)[0].split("\n")[1]
        assert second.startswith(f"reaches {target} at ")
        assert second.endswith(", extrapolated") == extrapolated
        (line,) = lines(figure, "fit")
        assert line.get_xdata()[-1] == pytest.approx(max(amount, 37.5))
        assert figure.axes[0].get_xlim()[1] > max(amount, 37.5)
        assert low < amount < high
        assert f"target ({target})" in legend(figure)


def test_a_target_far_away_is_told_and_not_drawn():
    figure = plot_learning_curve({"linear": curve()}, ylabel="r", levels=Levels(target=0.9))
    assert not lines(figure, "reached")
    assert "hours" in legend(figure)[0]
    assert "extrapolated" in legend(figure)[0]
    assert figure.axes[0].get_xlim()[1] < 100
    falling = legend(
        plot_learning_curve({"linear": curve(slope=-0.1)}, ylabel="r", levels=Levels(target=0.9))
    )
    assert falling[0].endswith("does not reach 0.9")
    flat = 0.3 + 0.01 * np.array([1, -1, 0, 1, 0.5])
    one = Curve(AMOUNTS, flat, fit=fit_learning_curve(AMOUNTS, flat))
    assert (
        " to ∞)"
        in legend(plot_learning_curve({"linear": one}, ylabel="r", levels=Levels(target=0.4)))[0]
    )


@pytest.mark.parametrize("simulated", [True, False])
def test_simulated_data_are_called_so(simulated):
    figure = plot_learning_curve({"linear": curve()}, ylabel="r", simulated=simulated)
    notes = [text for text in figure.findobj(Text) if text.get_gid() == "note"]
    assert [note.get_text() for note in notes] == ["simulated"] * simulated


@pytest.mark.parametrize(
    ("curves", "error"),
    [({}, InputError), ({"a": {"amounts": [1]}}, InputTypeError), ({"a": [1, 2]}, InputTypeError)],
)
def test_what_are_no_curves_is_refused(curves, error):
    with pytest.raises(error, match=r"expected.*found"):
        plot_learning_curve(curves, ylabel="r")


@pytest.mark.parametrize(
    "given",
    [
        {"amounts": [0, 1], "scores": [1, 2]},
        {"amounts": [], "scores": []},
        {"amounts": [1, 2], "scores": [1, 2, 3]},
        {"amounts": [1, 2], "scores": np.full((2, 2), np.nan)},
        {"amounts": [1, 2], "scores": [1, 2], "ci": np.ones((2, 3))},
        {"amounts": [1, 2], "scores": [1, 2], "subjects": ["x", "y"]},
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(given):
    with pytest.raises(InputError, match=r"expected.*found"):
        Curve(**given)
