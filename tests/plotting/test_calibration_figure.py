"""The figure of draws against recorded trials, read back from its parts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from evaluation_record import evaluation_record
from matplotlib.figure import Figure
from matplotlib.text import Text

from synbrain_cli.plotting.calibration import plot_calibration
from synbrain_cli.plotting.figure import save_figure

LEVELS = (50, 80, 90, 95)
N_VOXELS = 200


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text)]


def plot(metrics, voxels):
    return plot_calibration(evaluation_record(metrics), voxels)


def evaluation(*, simulated=True, latent=True, repeats=True):
    """Metrics as an evaluation writes them, and its table of voxels."""
    rng = np.random.default_rng(0)
    names = ["model", "linear", "mean_pattern", "shuffled"]
    names += ["latent_nf1", "latent_best"] if latent else []
    draws = {
        f"coverage_{level}": {
            **{name: level / 100 - 0.02 * k for k, name in enumerate(names)},
            "roi": {"V1": level / 100 - 0.1, "V2": level / 100 - 0.2},
        }
        for level in LEVELS
    }
    heights = rng.uniform(0.8, 1.2, 20)
    draws["pit_histogram"] = {name: list(heights + 0.1 * k) for k, name in enumerate(names)}
    for k, score in enumerate(("variance_ratio", "variance_ratio_median_voxel")):
        draws[score] = {name: 0.9 + 0.01 * k + 0.1 * i for i, name in enumerate(names)}
    voxels = pd.DataFrame(
        {"ncsnr": rng.uniform(0, 1, N_VOXELS), "variance_ratio": rng.uniform(0.5, 3, N_VOXELS)}
    )
    if repeats:
        voxels["ncsnr_of_draws"] = 0.8 * voxels["ncsnr"]
        draws["ncsnr_correlation"] = {"model": 0.987, "test_trials": 1.0}
        draws["ncsnr_slope"] = {"model": 0.81, "test_trials": 1.0}
        draws["ncsnr_median_ratio"] = {"model": 0.8, "test_trials": 1.0}
    metrics = {
        "model": "sub-09",
        "simulated": simulated,
        "n_test_trials": 3000,
        "n_test_images": 1000,
        "draws": draws,
    }
    return metrics, voxels


@pytest.mark.parametrize("latent", [True, False])
@pytest.mark.parametrize("repeats", [True, False])
def test_four_panels_whatever_is_known(latent, repeats, tmp_path):
    figure = plot(*evaluation(latent=latent, repeats=repeats))
    assert isinstance(figure, Figure)
    assert len(figure.axes) == 4
    assert all(axes.get_title(loc="left") for axes in figure.axes)
    assert [text for text in texts(figure) if text in ("a", "b", "c", "d")] == ["a", "b", "c", "d"]
    assert ("latent, nf 1" in texts(figure)) == latent
    assert ("no repeats: no ncsnr" in texts(figure)) == (not repeats)
    if latent and not repeats:  # one of them: drawing takes longest
        save_figure(figure, tmp_path / "draws.png")
        assert (tmp_path / "draws.png").stat().st_size > 10_000


@pytest.mark.parametrize("simulated", [True, False])
def test_a_simulated_subject_is_called_so(simulated):
    figure = plot(*evaluation(simulated=simulated))
    said = {text.get_gid(): text.get_text() for text in figure.texts}
    assert said.get("note") == ("simulated subject" if simulated else None)
    assert "3,000 held-out trials of 1,000 images, sub-09" in said["title"]


def test_ranks():
    metrics, voxels = evaluation()
    axes = plot(metrics, voxels).axes[0]
    drawn = {stairs.get_label(): stairs.get_data() for stairs in axes.patches}
    assert list(drawn) == [
        "calibrated draws",
        "linear + normal",
        "mean pattern + normal",
        "latent, nf 1",
    ]
    for name, label in zip(("model", "linear", "mean_pattern", "latent_nf1"), drawn, strict=True):
        np.testing.assert_allclose(drawn[label].values, metrics["draws"]["pit_histogram"][name])
        np.testing.assert_allclose(drawn[label].edges, np.linspace(0, 1, 21))


def test_bars_far_beyond_the_others_do_not_hide_them():
    metrics, voxels = evaluation()
    metrics["draws"]["pit_histogram"]["latent_nf1"] = [10.0] + [0.0] * 18 + [10.0]
    axes = plot(metrics, voxels).axes[0]
    top = axes.get_ylim()[1]
    assert max(metrics["draws"]["pit_histogram"]["mean_pattern"]) < top < 2
    # They are marked as cut, with their height
    assert [text.get_text() for text in axes.texts if text.get_gid() == "cut"] == [
        *("", "cut: 10.0"),
        *("", "cut: 10.0"),
    ]


def test_coverage_of_every_distribution_and_region():
    metrics, voxels = evaluation()
    draws = metrics["draws"]
    axes = plot(metrics, voxels).axes[1]
    lines = {line.get_label(): line for line in axes.lines}
    for name, label in (("model", "calibrated draws"), ("latent_nf1", "latent, nf 1")):
        np.testing.assert_allclose(lines[label].get_xdata(), np.array(LEVELS) / 100)
        expected = [draws[f"coverage_{level}"][name] for level in LEVELS]
        np.testing.assert_allclose(lines[label].get_ydata(), expected)
    drawn = [tuple(np.round(line.get_ydata(), 6)) for line in axes.lines]
    for region in ("V1", "V2"):
        expected = tuple(round(draws[f"coverage_{level}"]["roi"][region], 6) for level in LEVELS)
        assert expected in drawn
    assert (0, 1) in drawn  # what is nominal


def test_reliability_by_voxel():
    metrics, voxels = evaluation()
    voxels.loc[3, "ncsnr"] = np.nan  # a voxel of which nothing is known
    axes = plot(metrics, voxels).axes[2]
    points = next(line for line in axes.lines if len(line.get_xdata()) == N_VOXELS)
    np.testing.assert_array_equal(points.get_xdata(), voxels["ncsnr"])
    np.testing.assert_array_equal(points.get_ydata(), voxels["ncsnr_of_draws"])
    title = axes.get_title(loc="left")
    assert "0.987" in title
    assert "slope 0.81, median ratio 0.80" in title
    assert axes.get_xlim() == axes.get_ylim()
    assert axes.get_xlim()[1] >= voxels["ncsnr"].max()


def test_variance_counts_every_voxel_that_has_any():
    metrics, voxels = evaluation()
    voxels.loc[:4, "variance_ratio"] = np.nan
    axes = plot(metrics, voxels).axes[3]
    bars = [patch for patch in axes.patches if patch.get_height()]
    assert sum(bar.get_height() for bar in bars) == N_VOXELS - 5
    # Those beyond the axis are in its last bar.
    last = max(bars, key=lambda bar: bar.get_x())
    assert last.get_height() >= (voxels["variance_ratio"] >= 2).sum() > 0
    places = {line.get_gid(): line.get_xdata()[0] for line in axes.lines}
    medians = metrics["draws"]["variance_ratio_median_voxel"]
    assert places["latent_nf1"] == medians["latent_nf1"]
    assert places["latent_best"] == medians["latent_best"]
    assert "0.900" in axes.get_title(loc="left")
    assert "0.910" in axes.get_title(loc="left")


@pytest.mark.parametrize("n_beyond", [0, 1, 7])
def test_voxels_beyond_the_axis_are_marked_and_counted(n_beyond):
    metrics, voxels = evaluation()
    ratio = np.linspace(0.5, 1.9, N_VOXELS)
    ratio[:n_beyond] = 3.5
    axes = plot(metrics, voxels.assign(variance_ratio=ratio)).axes[3]
    last = max((bar for bar in axes.patches if bar.get_height()), key=lambda bar: bar.get_x())
    said = [text.get_text() for text in axes.texts if text.get_gid() == "cut"]
    assert bool(last.get_hatch()) == bool(n_beyond)
    assert axes.get_xticklabels()[-1].get_text() == ("≥ 2" if n_beyond else "2")
    if n_beyond:
        assert last.get_height() == n_beyond
        assert said[0].startswith(f"{n_beyond} voxel{'s' if n_beyond > 1 else ''} of 2 or more")
    else:
        assert said == []


def test_the_legend_lies_beside_the_panels():
    figure = plot(*evaluation())
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert not any(box.overlaps(axes.get_window_extent()) for axes in figure.axes)
    badge = next(text for text in figure.texts if text.get_gid() == "note")
    assert not box.overlaps(badge.get_window_extent())
    assert not any(axes.get_legend() for axes in figure.axes)
    assert "latent, best nf" in [text.get_text() for text in legend.get_texts()]


def test_titles_of_neighbours_are_apart():
    figure = plot(*evaluation())
    figure.draw_without_rendering()
    for left, right in ((0, 1), (2, 3)):
        ends = figure.axes[left]._left_title.get_window_extent().x1
        letter = next(t for t in figure.axes[right].texts if t.get_gid() == "letter")
        assert letter.get_window_extent().x0 - ends > 10  # pixels
