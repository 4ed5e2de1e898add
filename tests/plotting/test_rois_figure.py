"""The figure of regions' mean responses, read back from its parts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.text import Text

from synbrain_cli.errors import InputError, InputTypeError
from synbrain_cli.plotting import roi_intervals as module
from synbrain_cli.plotting.figure import save_figure
from synbrain_cli.plotting.labels import Labels
from synbrain_cli.plotting.roi_intervals import plot_rois, roi_means

ROIS = ["V1", "V2", "V3", "hV4", "EBA", "FFA-1", "OFA", "OPA", "PPA", "midparietal"]
ROIS += [f"region-{k}" for k in range(10)]


def responses(n_images, n_draws, n_rois, n_repeats=3):
    """Draws, and trials of all images but the second, all about a mean far from the others'."""
    rng = np.random.default_rng(0)
    mean = 10 * np.arange(n_images)[:, None, None] + np.arange(n_rois)
    draws = mean + 0.3 * rng.normal(size=(n_images, n_draws, n_rois))
    trials = mean + 0.3 * rng.normal(size=(n_images, n_repeats, n_rois))
    return draws, [None if k == 1 else one for k, one in enumerate(trials)]


def plot(n_images, n_draws, n_rois, *, n_repeats=3, **options):
    draws, recorded = responses(n_images, n_draws, n_rois, n_repeats)
    names = {"rois": ROIS[:n_rois], "images": [f"image-{k + 1:02d}" for k in range(n_images)]}
    names |= {"unit": "percent signal change", "title": "sub-01", "recorded": recorded}
    names |= options
    labels = Labels(names.pop("title"), names.pop("unit"), note=names.pop("note", None))
    return draws, recorded, plot_rois(draws, expected(draws), labels, **names)


def expected(draws):
    """What no average of these draws is."""
    return draws[:, 0] + 7


def part(axes, gid):
    """What is called so: a line's (x, y), or the ends of bars, (n_places, 2), or None."""
    for found in axes.get_children():
        if found.get_gid() != gid:
            continue
        if isinstance(found, LineCollection):
            segments = np.array(found.get_segments())  # (n_places, 2, 2)
            np.testing.assert_array_equal(segments[:, 0, 0], segments[:, 1, 0])
            np.testing.assert_array_equal(segments[:, 0, 0], np.arange(len(segments)))
            return segments[:, :, 1]
        return np.array(found.get_data())
    return None


def labels(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def expected_interval(draws, level):
    tails = [(1 - level) / 2, (1 + level) / 2]
    return np.quantile(draws, tails, axis=0, method="weibull").T


@pytest.mark.parametrize("n_images", [1, 2, 6])
def test_an_image_has_a_panel_with_a_region_a_place(n_images):
    draws, recorded, figure = plot(n_images, 40, 4)
    assert isinstance(figure, Figure)
    assert [axes.get_title() for axes in figure.axes] == [
        f"image-{k + 1:02d}" for k in range(n_images)
    ]
    for axes, drawn, trials in zip(figure.axes, draws, recorded, strict=True):
        np.testing.assert_allclose(part(axes, "outer"), expected_interval(drawn, 0.9))
        np.testing.assert_allclose(part(axes, "inner"), expected_interval(drawn, 0.5))
        np.testing.assert_allclose(part(axes, "expected"), [np.arange(4), drawn[0] + 7])
        x, y = part(axes, "recorded")
        if trials is None:
            assert len(x) == 0
            continue
        # A point lies nearest to its region, right of the bar; repeats lie in order
        for region in range(4):
            here = np.round(x) == region
            np.testing.assert_allclose(y[here], trials[:, region])
            assert (np.diff(x[here]) > 0).all()
            assert (x[here] > region).all()
    assert [label.get_text() for label in figure.axes[-1].get_xticklabels()] == ROIS[:4]


def test_of_many_images_a_region_has_a_panel_with_an_image_a_place():
    draws, recorded, figure = plot(9, 40, 3)
    assert [axes.get_title() for axes in figure.axes] == ROIS[:3]
    for region, axes in enumerate(figure.axes):
        drawn = draws[:, :, region].T
        np.testing.assert_allclose(part(axes, "outer"), expected_interval(drawn, 0.9))
        np.testing.assert_allclose(part(axes, "inner"), expected_interval(drawn, 0.5))
        np.testing.assert_allclose(part(axes, "expected"), [np.arange(9), drawn[0] + 7])
        x, y = part(axes, "recorded")
        for image, trials in enumerate(recorded):
            found = y[np.round(x) == image]
            np.testing.assert_allclose(found, [] if trials is None else trials[:, region])
    names = [label.get_text() for label in figure.axes[-1].get_xticklabels()]
    assert names == [f"image-{k + 1:02d}" for k in range(9)]


@pytest.mark.parametrize("n_images", [3, 9])
def test_panels_share_their_axes(n_images):
    _, _, figure = plot(n_images, 20, 4)
    assert len({axes.get_ylim() for axes in figure.axes}) == 1
    assert len({axes.get_xlim() for axes in figure.axes}) == 1
    units = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    assert units == ["mean response (percent signal change)"]


@pytest.mark.parametrize(
    ("n_draws", "outer", "inner"),
    [
        (200, "central 90 % of draws", True),
        (19, "central 90 % of draws", True),
        (18, "range of the draws (89 % interval)", True),
        (8, "range of the draws (78 % interval)", True),
        (3, "range of the draws (50 % interval)", True),
        (2, "range of the draws (33 % interval)", False),
        (1, "one draw", False),
    ],
)
def test_few_draws_have_a_range_in_place_of_an_interval(n_draws, outer, inner):
    draws, _, figure = plot(1, n_draws, 4)
    (axes,) = figure.axes
    bars = [outer] + ["central 50 % of draws"] * inner
    assert labels(figure) == [*bars, "expected response", "recorded trials (3 repeats)"]
    if n_draws == 1:
        np.testing.assert_array_equal(part(axes, "outer"), [np.arange(4), draws[0, 0]])
    elif n_draws <= 19:  # of 19 draws the interval is the range
        ends = np.stack([draws[0].min(0), draws[0].max(0)], axis=1)
        np.testing.assert_allclose(part(axes, "outer"), ends)
    if inner:
        np.testing.assert_allclose(part(axes, "inner"), expected_interval(draws[0], 0.5))
    else:
        assert part(axes, "inner") is None


@pytest.mark.parametrize("n_draws", [19, 27, 60])
def test_the_interval_holds_its_share_of_further_trials(n_draws):
    rng = np.random.default_rng(1)
    values = rng.exponential(size=(n_draws + 1, 40_000))
    for level in (0.5, 0.9):
        low, high = module._interval(values[1:], level)
        inside = ((values[0] >= low) & (values[0] <= high)).mean()
        assert inside == pytest.approx(level, abs=0.012)


def test_the_legend_counts_repeats():
    _, recorded, figure = plot(3, 20, 2)
    assert labels(figure)[-1] == "recorded trials (3 repeats; 2 of 3 images)"
    recorded = [recorded[0][:1], recorded[0], recorded[2]]
    assert labels(plot(3, 20, 2, recorded=recorded)[2])[-1] == "recorded trials (1 to 3 repeats)"
    _, _, one = plot(1, 20, 2, n_repeats=1)
    assert labels(one)[-1] == "recorded trials (1 repeat)"
    for none in (None, [None] * 3, [np.empty((0, 2))] * 3):
        _, _, figure = plot(3, 20, 2, recorded=none)
        assert len(labels(figure)) == 3
        assert part(figure.axes[0], "recorded") is None


def test_zero_is_a_line_where_it_is_in_range():
    _, _, figure = plot(7, 20, 2)  # image 1 has its mean there
    assert all(part(axes, "zero") is not None for axes in figure.axes)
    draws = np.random.default_rng(0).normal(50, 1, (2, 30, 3))
    names = {"rois": ROIS[:3], "images": ["a", "b"]}
    figure = plot_rois(draws, draws.mean(1), Labels("t", "z"), **names)
    assert not any(part(axes, "zero") is not None for axes in figure.axes)
    assert figure.axes[0].get_ylim()[0] > 40


def test_an_empty_region_stays_empty():
    draws, _ = responses(2, 30, 3)
    draws[:, :, 1] = np.nan
    names = {"rois": ROIS[:3], "images": ["a", "b"]}
    figure = plot_rois(draws, draws[:, 0], Labels("t", "z"), **names)
    _, mean = part(figure.axes[0], "expected")
    assert np.isfinite(mean).tolist() == [True, False, True]
    for bars in figure.axes[0].collections:
        assert [len(segment) for segment in bars.get_segments()] == [2, 0, 2]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ROIS[:3]


def test_images_without_room_for_names_are_numbered():
    _, _, figure = plot(50, 20, 20)
    assert len(figure.axes) == 20
    texts = [label.get_text() for label in figure.axes[-1].get_xticklabels()]
    assert texts == ["1", "10", "20", "30", "40", "50"]
    np.testing.assert_array_equal(figure.axes[-1].get_xticks(), [0, 9, 19, 29, 39, 49])
    assert figure.legends[0].get_title().get_text() == (
        "in the order given: 1 is image-01, 50 image-50"
    )
    assert figure.legends[0].get_texts()[0].get_text() == "central 90 % of draws"
    _, _, named = plot(50, 20, 2)
    assert [label.get_text() for label in named.axes[-1].get_xticklabels()][49] == "image-50"
    assert named.legends[0].get_title().get_text() == ""


@pytest.mark.parametrize("shape", [(1, 1), (1, 20), (2, 4), (5, 9), (6, 20), (8, 3), (50, 20)])
def test_no_text_is_cut_off_or_covered(shape):
    n_images, n_rois = shape
    title = "Mean responses of regions of interest to photographs, model of one hour of subject 1"
    _, _, figure = plot(n_images, 20, n_rois, title=title, note="simulated subject")
    figure.draw_without_rendering()
    whole = figure.bbox
    boxes = {}
    for text in figure.findobj(Text):
        if text.get_text() and text.get_visible():
            box = text.get_window_extent()
            assert box.x0 >= whole.x0 - 1, text
            assert box.x1 <= whole.x1 + 1, text
            assert box.y0 >= whole.y0 - 1, text
            assert box.y1 <= whole.y1 + 1, text
            boxes[text] = box
    for axes in figure.axes:
        shown = [label for label in axes.get_xticklabels() if label in boxes and label.get_text()]
        for one, other in itertools.pairwise(shown):
            assert boxes[one].x1 < boxes[other].x0 + 1, (one, other)
        legend = figure.legends[0].get_window_extent()
        assert legend.y1 < axes.get_tightbbox().y0 + 2
    width, height = figure.get_size_inches()
    assert 8 < width < 14
    assert 4 < height < 11
    assert any(text.get_gid() == "note" for text in boxes)


def test_names_are_not_taken_for_formulas_and_long_ones_are_cut(tmp_path):
    images = ["cost_$5", r"a$\frac$b", "x" * 60, "d", "e", "f", "g"]
    _, _, figure = plot(7, 5, 1, images=images, unit="$", title="$a_$b", note="$")
    texts = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert texts[:2] == images[:2]
    assert texts[2] == "x" * 23 + "…"
    save_figure(figure, tmp_path / "rois.png", dpi=40)
    _, _, figure = plot(2, 5, 2, images=images[:2], rois=["$V_1$", r"\V$2"])
    save_figure(figure, tmp_path / "rois.png", dpi=40)
    assert figure.axes[0].get_xticklabels()[0].get_parse_math() is False


def test_the_same_figure_has_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        save_figure(plot(2, 20, 3)[2], tmp_path / f"{name}.png", dpi=50)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rois": ["V1"]}, InputError, r"3 images and 1 ROIs.*found \(3, 20, 2\)"),
        ({"images": ["a"]}, InputError, r"1 images and 2 ROIs.*found \(3, 20, 2\)"),
        ({"recorded": [None]}, InputError, "expected 3 entries, one per image.*found 1"),
        (
            {"recorded": [None, np.ones((3, 5)), None]},
            InputError,
            r"image-02: expected shape \(n_repeats, 2\).*found \(3, 5\)",
        ),
        ({"recorded": [np.ones(2), None, None]}, InputError, r"expected.*found \(2,\)"),
        ({"recorded": [[[np.inf, 1]], None, None]}, InputError, "finite.*found infinite"),
        ({"recorded": [[["a", "b"]], None, None]}, InputTypeError, "image-01: expected real.*<U1"),
    ],
)
def test_bad_input_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        plot(3, 20, 2, **options)


@pytest.mark.parametrize(
    ("draws", "error"),
    [
        (np.ones((2, 3)), InputError),
        (np.ones((2, 0, 3)), InputError),
        (np.full((2, 4, 3), np.nan), InputError),
        (np.full((2, 4, 3), np.inf), InputError),
        (np.ones((2, 4, 3), complex), InputTypeError),
        (np.full((2, 4, 3), "a"), InputTypeError),
    ],
)
def test_bad_draws_are_refused(draws, error):
    with pytest.raises(error, match=r"draws: expected.*found"):
        plot_rois(draws, np.ones((2, 3)), Labels("t", "z"), rois=["a", "b", "c"], images=["x", "y"])


def test_expected_responses_of_other_images_are_refused():
    draws, _ = responses(3, 20, 2)
    with pytest.raises(InputError, match=r"expected: expected shape \(3, 2\).*found \(2, 2\)"):
        plot_rois(draws, np.ones((2, 2)), Labels("t", "z"), rois=ROIS[:2], images=["a", "b", "c"])


# Means of regions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (4,), (3, 5)])
def test_means_of_regions(shape):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(*shape, 30)).astype(np.float32)
    values[..., 4] = np.nan
    masks = {"V1": np.arange(30) < 10, "all": np.ones(30, bool), "none": np.zeros(30, bool)}
    masks["missing"] = np.arange(30) == 4
    means = roi_means(values, masks)
    assert means.shape == (*shape, 4)
    assert means.dtype == np.float64
    np.testing.assert_allclose(means[..., 0], np.nanmean(values[..., :10].astype(float), axis=-1))
    np.testing.assert_allclose(means[..., 1], np.nanmean(values.astype(float), axis=-1))
    assert np.isnan(means[..., 2:]).all()


@pytest.mark.parametrize(
    ("values", "mask", "error"),
    [
        (np.ones((2, 5)), np.ones(4, bool), InputError),
        (np.ones((2, 5)), np.ones(5), InputError),
        (np.ones((2, 5)), np.ones((2, 5), bool), InputError),
        (np.float64(1), np.ones(1, bool), InputTypeError),
        (np.array(["a"]), np.ones(1, bool), InputTypeError),
    ],
)
def test_masks_that_do_not_fit_are_refused(values, mask, error):
    with pytest.raises(error, match=r"expected.*found"):
        roi_means(values, {"V1": mask})
