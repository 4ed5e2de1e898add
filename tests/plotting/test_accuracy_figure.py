"""The figure of accuracy by voxel and region, read back from its parts."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from evaluation_record import evaluation_record
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.text import Text

from synbrain_cli.errors import InputError, InputTypeError
from synbrain_cli.plotting.accuracy import plot_accuracy
from synbrain_cli.plotting.figure import save_figure

REGIONS = ["EBA", "hV4", "V2", "OPA", "V1", "V3", "early"]


def evaluation(n_voxels=400, regions=REGIONS, *, ceiling=True, simulated=False):
    """A table of voxels and metrics as an evaluation writes them, as far as they are drawn."""
    rng = np.random.default_rng(0)
    best = np.sqrt(rng.uniform(0, 1, n_voxels))
    model = 0.7 * best + 0.05 * rng.normal(size=n_voxels)
    voxels = pd.DataFrame(
        {
            "ncsnr": rng.uniform(0, 1, n_voxels),
            "model": model,
            "linear": model - 0.03 + 0.01 * rng.normal(size=n_voxels),
            "ceiling": best if ceiling else np.nan,
        }
    )

    def scores(value):
        return {
            "voxelwise_correlation": {
                "model": value,
                "ci": [value - 0.04, value + 0.05],
                "linear": value - 0.1,
                "mean_pattern": 0.0,
                "shuffled": -0.01,
                "ceiling": value + 0.2 if ceiling else None,
            }
        }

    roi = {name: {"n_voxels": 10 + k, **scores(0.2 + 0.02 * k)} for k, name in enumerate(regions)}
    metrics = {
        "simulated": simulated,
        "n_test_images": 1000,
        "n_voxels": n_voxels,
        "repeats_per_image": {"min": 3, "max": 3},
        "overall": scores(0.5),
        "roi": roi,
    }
    return voxels, metrics


def parts(axes, gid):
    (found,) = [child for child in axes.get_children() if child.get_gid() == gid]
    return found


def data(axes, gid):
    return np.array(parts(axes, gid).get_data(), dtype=float)


def labels(figure, number=0):
    return [text.get_text() for text in figure.legends[number].get_texts()]


def notes(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_gid() == "note"]


def test_voxels_and_the_diagonal():
    voxels, _ = evaluation()
    figure = plot_accuracy(voxels, title="sub-01")
    assert isinstance(figure, Figure)
    (axes,) = figure.axes
    np.testing.assert_array_equal(data(axes, "voxels"), voxels[["ceiling", "model"]].T)
    x, y = data(axes, "ceiling")
    np.testing.assert_array_equal(x, y)
    np.testing.assert_allclose([x.min(), x.max()], [0, voxels["ceiling"].max()])
    assert set(data(axes, "mean")[1]) == {0}
    assert axes.get_ylabel() == "correlation over test images (r)"
    assert axes.get_xlabel() == "noise ceiling (r)"
    median = voxels.median()
    assert labels(figure) == [
        "model, one voxel",
        f"noise ceiling (median {median['ceiling']:.3f})",
        f"model, running median (median of all {median['model']:.3f})",
        f"linear encoder, running median (median of all {median['linear']:.3f})",
        "mean pattern (0)",
    ]
    low, high = axes.get_ylim()
    assert low < min(0, voxels["model"].min())
    assert high > voxels[["model", "ceiling"]].to_numpy().max()


def test_running_medians_are_of_equal_numbers_of_voxels():
    voxels, _ = evaluation(400)
    (axes,) = plot_accuracy(voxels, title="sub-01").axes
    in_order = voxels.sort_values("ceiling")
    expected = np.array(
        [
            in_order.iloc[k : k + 50][["ceiling", "model", "linear"]].median()
            for k in range(0, 400, 50)
        ]
    ).T
    np.testing.assert_allclose(data(axes, "model"), expected[[0, 1]])
    np.testing.assert_allclose(data(axes, "linear"), expected[[0, 2]])
    assert parts(axes, "model").get_linestyle() == "-"
    assert parts(axes, "linear").get_linestyle() == "--"
    colours = {parts(axes, gid).get_color() for gid in ("model", "linear", "ceiling", "mean")}
    assert len(colours) == 4


@pytest.mark.parametrize(("n_voxels", "n_bins"), [(3, 1), (99, 1), (120, 2), (3000, 20)])
def test_few_voxels_have_few_bins(n_voxels, n_bins):
    (axes, *_) = plot_accuracy(evaluation(n_voxels)[0], title="sub-01").axes
    assert data(axes, "model").shape == data(axes, "linear").shape == (2, n_bins)


def test_many_voxels_are_counted_in_hexagons():
    voxels, _ = evaluation(3000)
    voxels.loc[:9, "ceiling"] = np.nan
    figure = plot_accuracy(voxels, title="sub-01")
    axes, bar = figure.axes
    (density,) = [child for child in axes.collections if isinstance(child, PolyCollection)]
    assert density.get_array().sum() == 2990
    assert density.get_array().min() == 1
    assert bar.get_ylabel() == "voxels (model)"
    # As dense as the points themselves
    x, y = density.get_offsets().T
    np.testing.assert_allclose(
        np.average(np.stack([x, y]), axis=1, weights=density.get_array()),
        voxels.dropna()[["ceiling", "model"]].mean(),
        atol=0.01,
    )


def test_voxels_without_a_correlation_are_left_out_and_counted():
    voxels, _ = evaluation(400)
    voxels.loc[:3, "model"] = np.nan
    voxels.loc[4, "linear"] = np.nan
    voxels.loc[3:5, "ceiling"] = np.nan
    figure = plot_accuracy(voxels, title="sub-01")
    kept = voxels.iloc[6:]
    np.testing.assert_array_equal(data(figure.axes[0], "voxels")[1], kept["model"])
    assert figure.legends[0].get_title().get_text() == (
        "394 voxels; 6 left out, which have no correlation or ceiling"
    )
    assert f"(median of all {kept['model'].median():.3f})" in labels(figure)[2]
    whole = plot_accuracy(evaluation(400)[0], title="sub-01")
    assert whole.legends[0].get_title().get_text() == "400 voxels"


def test_without_a_ceiling_the_model_is_drawn_against_the_linear_encoder():
    voxels, metrics = evaluation(ceiling=False)
    voxels.loc[0, "model"] = np.nan
    figure = plot_accuracy(voxels, metrics=evaluation_record(metrics), title="sub-01")
    axes, regions = figure.axes
    shown = voxels.iloc[1:]
    np.testing.assert_array_equal(data(axes, "voxels"), shown[["linear", "model"]].T)
    x, y = data(axes, "equal")
    np.testing.assert_array_equal(x, y)
    median = shown.median()
    assert parts(axes, "model").get_ydata()[0] == pytest.approx(median["model"])
    assert parts(axes, "linear").get_xdata()[0] == pytest.approx(median["linear"])
    assert labels(figure)[2:4] == [
        f"model (median {median['model']:.3f})",
        f"linear encoder (median {median['linear']:.3f})",
    ]
    assert "noise ceiling unknown" in axes.get_title(loc="left")
    assert "repeated" in axes.get_title(loc="left")
    assert axes.get_xlabel() == "linear encoder (r)"
    assert axes.get_ylabel() == "model, correlation over 1,000 test images (r)"
    assert "1 left out" in figure.legends[0].get_title().get_text()
    assert "ceiling" not in [child.get_gid() for child in regions.get_children()]
    assert "noise ceiling" not in labels(figure, 1)


def test_regions_follow_the_visual_hierarchy():
    voxels, metrics = evaluation()
    figure = plot_accuracy(voxels, metrics=evaluation_record(metrics), title="sub-01")
    left, axes = figure.axes
    names = ["V1", "V2", "V3", "hV4", "EBA", "OPA", "early"]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "all voxels  (400)",
        *(f"{name}  ({metrics['roi'][name]['n_voxels']})" for name in names),
    ]
    low, high = axes.get_ylim()
    assert low > high  # the first row is on top
    rows = [metrics["overall"], *(metrics["roi"][name] for name in names)]
    rows = [row["voxelwise_correlation"] for row in rows]
    for name in ("model", "linear", "shuffled", "ceiling"):
        x, y = data(axes, name)
        np.testing.assert_allclose(x, [row[name] for row in rows])
        np.testing.assert_array_equal(np.round(y), np.arange(8))
    (bars,) = [child for child in axes.collections if isinstance(child, LineCollection)]
    segments = np.array(bars.get_segments())
    np.testing.assert_allclose(segments[:, :, 0], [row["ci"] for row in rows])
    np.testing.assert_allclose(segments[:, 0, 1], data(axes, "model")[1])
    assert set(parts(axes, "mean").get_xdata()) == {0}
    assert axes.get_xlabel() == "correlation over 1,000 test images (r), median voxel"
    assert left.get_xlabel() == "noise ceiling of averages of 3 repeats (r)"
    assert set(labels(figure, 1)) == {
        "noise ceiling",
        "model, images shuffled (control)",
        "linear encoder",
        "model, 95 % interval over images",
        "mean pattern (0)",
    }


@pytest.mark.parametrize(
    ("low", "high", "label"),
    [
        (1, 1, "of single trials"),
        (2, 2, "of averages of 2 repeats"),
        (1, 3, "of averages of 1 to 3 repeats"),
    ],
)
def test_the_ceiling_has_its_number_of_repeats(low, high, label):
    voxels, metrics = evaluation()
    metrics["repeats_per_image"] = {"min": low, "max": high}
    axes = plot_accuracy(voxels, metrics=evaluation_record(metrics), title="sub-01").axes[0]
    assert axes.get_xlabel() == f"noise ceiling {label} (r)"


def test_a_region_without_a_score_stays_empty():
    voxels, metrics = evaluation()
    metrics["roi"]["V2"]["voxelwise_correlation"] |= {
        "model": None,
        "ci": (None, None),
        "linear": None,
    }
    axes = plot_accuracy(voxels, metrics=evaluation_record(metrics), title="sub-01").axes[1]
    assert np.isnan(data(axes, "model")[0]).tolist() == [False] * 2 + [True] + [False] * 5


@pytest.mark.parametrize("n_regions", [0, 1, 20])
def test_any_number_of_regions(n_regions, tmp_path):
    voxels, metrics = evaluation(regions=[f"area-{k + 1}" for k in range(n_regions)])
    title = "Accuracy of a model of subject 1 on test images, from one hour of recordings " * 2
    figure = plot_accuracy(
        voxels, metrics=evaluation_record(metrics), title=title, note="simulated subject"
    )
    assert len(figure.axes) == (2 if n_regions else 1)
    figure.draw_without_rendering()
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert drawn.x0 >= 0
    assert drawn.y0 >= 0
    assert drawn.x1 <= width
    assert drawn.y1 <= height
    boxes = [legend.get_window_extent() for legend in figure.legends]
    assert all(b.y1 < axes.get_tightbbox().y0 + 2 for b in boxes for axes in figure.axes)
    if n_regions:
        assert boxes[0].x1 < boxes[1].x0
        rows = [label.get_window_extent() for label in figure.axes[1].get_yticklabels()]
        assert all(a.y0 > b.y1 for a, b in itertools.pairwise(rows))
    save_figure(figure, tmp_path / "accuracy.png", dpi=40)
    assert (tmp_path / "accuracy.png").stat().st_size > 5_000


@pytest.mark.parametrize(
    ("simulated", "note", "shown"),
    [
        (True, None, ["simulated subject"]),
        (True, "phantom", ["phantom"]),
        (False, None, []),
        (False, "pilot", ["pilot"]),
    ],
)
def test_a_simulated_subject_is_called_so(simulated, note, shown):
    voxels, metrics = evaluation(simulated=simulated)
    assert (
        notes(plot_accuracy(voxels, metrics=evaluation_record(metrics), title="sub-01", note=note))
        == shown
    )


def test_names_are_not_taken_for_formulas(tmp_path):
    voxels, metrics = evaluation(regions=["V1", r"$\frac$"])
    figure = plot_accuracy(voxels, metrics=evaluation_record(metrics), title="$a_$", note="$b_$")
    save_figure(figure, tmp_path / "accuracy.png", dpi=40)
    assert figure.axes[1].get_yticklabels()[2].get_text() == r"$\frac$  (11)"


def broken(**changes):
    voxels, metrics = evaluation(20)
    return voxels.assign(**changes), evaluation_record(metrics)


@pytest.mark.parametrize(
    ("voxels", "metrics", "error", "message"),
    [
        ({"model": [1]}, None, InputTypeError, "DataFrame.*found dict"),
        (
            pd.DataFrame({"model": [0.1], "ceiling": [0.2]}),
            None,
            InputError,
            "columns model, linear, ceiling, found model, ceiling",
        ),
        (broken(model=np.nan)[0], None, InputError, "expected correlations.*found none in 20"),
        (broken(linear="x")[0], None, InputTypeError, "expected numbers.*found text"),
        (broken()[0], {"overall": {}}, InputTypeError, "expected the EvaluationRecord.*found dict"),
        (evaluation(21)[0], broken()[1], InputError, "table of 21 voxels, found 20"),
    ],
)
def test_bad_input_is_refused(voxels, metrics, error, message):
    with pytest.raises(error, match=message):
        plot_accuracy(voxels, metrics=metrics, title="t")
