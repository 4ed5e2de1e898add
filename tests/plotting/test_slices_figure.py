"""Slices of a volume, read back from the figure objects."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from by_name import coloured
from matplotlib.colors import to_rgba
from nibabel.affines import apply_affine
from scipy.spatial.transform import Rotation

from synbrain_cli.errors import InputError, InputTypeError
from synbrain_cli.plotting.figure import save_figure
from synbrain_cli.plotting.flatmap import plot_flatmap
from synbrain_cli.plotting.slices import plot_slices

plot_flatmap, plot_slices = coloured(plot_flatmap), coloured(plot_slices)

pytestmark = pytest.mark.filterwarnings("error")

SHAPE = (20, 24, 18)
AFFINE = np.diag([4.0, 4.0, 4.0, 1.0])
AFFINE[:3, 3] = -38, -60, -30
LAS = AFFINE @ np.array([[-1, 0, 0, 19], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
TURNED = AFFINE @ np.array([[0, 0, 1, 1], [1, 0, 0, 2], [0, -1, 0, 17], [0, 0, 0, 1]])
# Axis of RAS across the slice, to the right, and up
DIRECTIONS = {"z": (2, 0, 1), "y": (1, 0, 2), "x": (0, 1, 2)}


def positions(affine=AFFINE, shape=SHAPE):
    """Middle of each voxel, mm: (3, x, y, z)."""
    return np.moveaxis(apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1)), -1, 0)


@pytest.fixture
def inside():
    """Both hemispheres' occipital lobes, the left one larger."""
    x, y, z = positions()
    left = (x < -4) & (x > -34) & (y < -20) & (np.abs(z) < 20)
    right = (x > 4) & (x < 24) & (y < -30) & (np.abs(z) < 12)
    return left | right


def image(values, affine=AFFINE):
    return nib.Nifti1Image(np.asarray(values, np.float32), affine)


def slices(figure, direction):
    """Axes, each with where its label says that it cuts, mm."""
    found = []
    for axes in figure.axes:
        for text in axes.texts:
            name, _, where = text.get_text().partition("=")
            if name == direction:
                found.append((axes, float(where)))
    return found


def plotted(axes):
    """The map's picture, NaN where transparent, and x and y of its pixels as they are seen, mm."""
    picture = next(found for found in axes.images if np.ndim(found.get_alpha()) == 2)
    values = np.where(picture.get_alpha() == 1, np.ma.filled(picture.get_array(), np.nan), np.nan)
    left, right, bottom, top = picture.get_extent()
    rows, columns = values.shape
    x = left + (right - left) * (np.arange(columns) + 0.5) / columns
    y = top - (top - bottom) * (np.arange(rows) + 0.5) / rows
    return values, *np.meshgrid(x, y)


def panel(figure, name):
    return next(axes for axes in figure.axes if axes.get_label() == name)


@pytest.mark.parametrize("affine", [AFFINE, LAS, TURNED])
def test_left_is_left(affine):
    xyz = positions(affine)
    mask = (np.abs(xyz) < 30).all(0)
    indicator = mask & (xyz[0] < 0)
    figure = plot_slices(image(indicator, affine), mask=image(mask, affine), title="t", unit="1")
    for direction in "zy":
        for axes, _ in slices(figure, direction):
            values, x, _ = plotted(axes)
            middle = np.mean(axes.get_xlim())
            assert axes.get_xlim()[0] < middle
            assert (values == 1).sum() == (values == 0).sum() > 0
            assert (x[values == 1] < middle).all()
            assert (x[values == 0] > middle).all()
            seen = {text.get_text(): text.get_window_extent().x0 for text in axes.texts}
            assert seen["L"] < axes.transData.transform((middle, 0))[0] < seen["R"]


@pytest.mark.parametrize("affine", [AFFINE, LAS, TURNED])
def test_each_slice_shows_the_position_its_label_says(affine):
    """A coordinate, plotted as a map, is the position on the picture or the slice's label."""
    xyz = positions(affine)
    mask = image((np.abs(xyz) < 30).all(0), affine)
    for k in range(3):
        figure = plot_slices(image(xyz[k], affine), mask=mask, title="t", unit="mm")
        for direction, (axis, right, up) in DIRECTIONS.items():
            for axes, where in slices(figure, direction):
                values, x, y = plotted(axes)
                seen = np.isfinite(values)
                place = {axis: np.full_like(x, where), right: x, up: y}[k]
                tolerance = 0.05 if k == axis else 2  # mm: half a voxel is nilearn's
                np.testing.assert_allclose(values[seen], place[seen], rtol=0, atol=tolerance)


def test_an_oblique_grid_is_plotted_upright_by_the_nearest_voxel():
    affine = AFFINE.copy()
    affine[:3, :3] = Rotation.from_euler("z", 20, degrees=True).as_matrix() @ AFFINE[:3, :3]
    xyz = positions(affine)
    mask = np.zeros(SHAPE, bool)
    mask[4:16, 4:16, 4:14] = True
    figure = plot_slices(image(xyz[0], affine), mask=image(mask, affine), title="t", unit="mm")
    for axes, _ in slices(figure, "z"):
        values, x, _ = plotted(axes)
        seen = np.isfinite(values)
        pixel = np.diff(x[0])[0] ** 2
        assert seen.sum() * pixel == pytest.approx(144 * 16, rel=0.1)  # mm²
        assert np.abs(values - x)[seen].max() < 5
        assert np.isin(values[seen].astype(np.float32), xyz[0][mask].astype(np.float32)).all()


def test_zero_is_data_in_the_mask_and_nothing_outside(inside):
    values = np.where(inside, 0, 5.0)
    first = tuple(np.argwhere(inside)[0])
    values[first] = np.nan
    known = inside.copy()
    known[first] = False
    for mask, data in ((image(inside), values), (None, np.where(inside, 1 + values, 0))):
        figure = plot_slices(image(data), mask=mask, title="t", unit="z")
        for direction, (axis, *_) in DIRECTIONS.items():
            planes = np.moveaxis(positions()[axis], axis, 0)[:, 0, 0]
            for axes, where in slices(figure, direction):
                shown = plotted(axes)[0]
                k = np.abs(planes - where).argmin()
                assert np.isfinite(shown).sum() == np.take(known, k, axis).sum() > 0
                assert np.nanmax(shown) == (0 if mask else 1)


def test_slices_cover_the_voxels_and_have_one_scale(inside):
    figure = plot_slices(image(inside), title="t", unit="1", symmetric=False)
    scales = []
    figure.draw_without_rendering()
    for direction, (axis, *_) in DIRECTIONS.items():
        places = [where for _, where in slices(figure, direction)]
        held = np.unique(positions()[axis][inside])
        assert len(places) == 6
        ranks = np.abs(held[:, None] - places).argmin(axis=0)  # among the planes with voxels
        np.testing.assert_allclose(held[ranks], places, atol=0.05)
        left_out = [ranks[0], *(np.diff(ranks) - 1), len(held) - 1 - ranks[-1]]
        assert min(left_out) >= 0
        assert np.ptp(left_out[1:-1]) <= 1
        assert abs(left_out[0] - left_out[-1]) <= 1
        for axes, _ in slices(figure, direction):
            box = axes.get_window_extent()
            scales += [box.width / np.ptp(axes.get_xlim()), box.height / np.ptp(axes.get_ylim())]
    np.testing.assert_allclose(scales, scales[0], rtol=1e-6)
    column = image(np.ones((1, 1, 60)))
    figure = plot_slices(column, title="t", unit="1", symmetric=False)
    assert [where for _, where in slices(figure, "z")] == [-10, 30, 70, 110, 150, 190]
    assert [len(slices(figure, direction)) for direction in "xy"] == [1, 1]


def test_labels_hide_no_voxel():
    """Of a mask that fills its grid."""
    figure = plot_slices(image(np.ones(SHAPE)), title="t", unit="1", symmetric=False)
    figure.draw_without_rendering()
    for direction in DIRECTIONS:
        for axes, _ in slices(figure, direction):
            values, x, y = plotted(axes)
            places = axes.transData.transform(np.stack([x, y], -1)[np.isfinite(values)])
            for text in axes.texts:
                box = text.get_bbox_patch().get_window_extent()
                assert box.count_contains(places) == 0


def test_colours_are_those_of_the_flatmap(inside):
    values = np.where(inside, np.random.default_rng(0).normal(size=SHAPE), np.nan)
    vertices = np.full(10242, np.nan)
    vertices[: inside.sum()] = values[inside]
    options = {"title": "t", "unit": "% signal"}
    for limits in ({}, {"threshold": 0.4, "vmax": 1.5}, {"symmetric": False, "threshold": 0.1}):
        figure = plot_slices(image(values), mask=image(inside), **options, **limits)
        flat = plot_flatmap({"left": vertices, "right": vertices}, **options, **limits)
        bars = [panel(f, "colorbar") for f in (figure, flat)]
        assert bars[0].get_xlabel() == bars[1].get_xlabel()
        assert bars[0].get_xlabel().startswith("% signal")
        labels = [[t.get_text() for t in bar.get_xticklabels()] for bar in bars]
        assert labels[0] == labels[1]
        picture, other = slices(figure, "z")[0][0].images[0], panel(flat, "flatmap").images[1]
        assert picture.get_clim() == other.get_clim()
        points = np.linspace(-3, 3, 50)
        np.testing.assert_array_equal(
            picture.cmap(picture.norm(points)), other.cmap(other.norm(points))
        )


@pytest.mark.parametrize("vmax", [None, 50])
def test_below_the_threshold_voxels_are_grey_and_over_anatomy_transparent(inside, vmax):
    y = positions()[1]  # mm, −60 and more
    options = {"mask": image(inside), "title": "t", "unit": "mm", "vmax": vmax}
    options["threshold"] = 49 if vmax else 40
    for values in (image(y), image(-y)):
        for axes, _ in slices(plot_slices(values, **options), "x"):
            shown, _, _ = plotted(axes)
            picture = axes.images[0]
            grey = (picture.cmap(picture.norm(shown)) == to_rgba("0.8")).all(-1)
            np.testing.assert_array_equal(grey, np.abs(shown) < options["threshold"])
            assert grey.any()
    for axes, _ in slices(plot_slices(image(y), background=image(y + 100), **options), "x"):
        assert np.nanmax(plotted(axes)[0]) <= -options["threshold"]
    nothing = plot_slices(image(y / 10), background=image(y + 100), **(options | {"vmax": 60}))
    assert not any(np.any(axes.images[1].get_alpha()) for axes, _ in slices(nothing, "x"))


def test_anatomy_underneath_lies_in_the_same_place(inside):
    """Another grid: finer, shifted, stored from right to left."""
    affine = np.diag([-2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = 81, -101, -73
    anatomy = image(positions(affine, (81, 90, 80))[0] + 100, affine)
    x = image(positions()[0])
    figure = plot_slices(x, mask=image(inside), background=anatomy, title="t", unit="mm")
    for axes, _ in slices(figure, "z"):
        values, place, _ = plotted(axes)
        below = axes.images[0].get_array()
        assert below.shape == values.shape
        seen = np.isfinite(values)
        np.testing.assert_allclose(below[seen] - 100, values[seen], atol=1)
        np.testing.assert_allclose(below - 100, place, atol=3)


@pytest.mark.parametrize("title", ["short", "words of a long title with a $ " * 10])
def test_title_note_and_stimulus_have_room(inside, title):
    figure = plot_slices(
        image(inside), title=title, unit="z", note="simulated, 8 draws",
        stimulus=np.zeros((50, 200, 3), np.uint8),
    )  # fmt: skip
    figure.draw_without_rendering()
    written = [" ".join(t.get_text().split()) for t in figure.texts]
    assert written == [title.strip(), "simulated, 8 draws"]
    rows = [axes for direction in DIRECTIONS for axes, _ in slices(figure, direction)]
    renderer = figure.canvas.get_renderer()
    boxes = [t.get_window_extent(renderer) for t in figure.texts]
    shown = [panel(figure, name) for name in ("stimulus", "colorbar")] + rows
    boxes += [axes.get_tightbbox(renderer) for axes in shown]
    for k, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y0 >= 0
        assert box.y1 <= figure.bbox.y1
        for other in boxes[:k]:  # neighbours share an edge
            wide = min(box.x1, other.x1) - max(box.x0, other.x0)
            high = min(box.y1, other.y1) - max(box.y0, other.y0)
            assert min(wide, high) < 1e-6


def test_bad_input_is_refused(inside):
    good = image(np.where(inside, 1.0, 0))

    def refused(match, given=good, error=InputError, **options):
        with pytest.raises(error, match=match):
            plot_slices(given, **({"title": "t", "unit": "z"} | options))

    refused("image: .*one map at a time", image(np.zeros((*SHAPE, 2))))
    refused("image: expected a Nifti1Image", np.zeros(SHAPE), InputTypeError)
    refused("found none", image(np.zeros(SHAPE)))
    refused("found none", image(np.full(SHAPE, np.nan)), mask=image(inside))
    refused("found none", mask=image(np.zeros(SHAPE)))
    refused("infinite", image(np.where(inside, np.inf, 0)))
    refused("mask: expected a Nifti1Image", mask=inside, error=InputTypeError)
    refused("mask: expected the grid", mask=image(np.ones((3, 3, 3))))
    refused("mask: its affine is not that of the image", mask=image(inside, 2 * AFFINE))
    refused("background: expected three", background=image(np.zeros((*SHAPE, 2))))
    elsewhere = AFFINE + 1000 * np.eye(4, k=3)
    refused("background: .*same space", background=image(np.ones(SHAPE), elsewhere))
    refused("cmap", cmap="no such map")
    refused("threshold", threshold=5, vmax=2)
    refused("uint8", stimulus=np.zeros((4, 4, 3)))


def test_it_is_deterministic_and_leaves_pyplot_alone(inside, tmp_path):
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    for k in range(2):
        figure = plot_slices(image(inside), title="t", unit="z")
        save_figure(figure, tmp_path / f"{k}.svg", dpi=60)
    assert (tmp_path / "0.svg").read_bytes() == (tmp_path / "1.svg").read_bytes()
    assert pyplot.get_fignums() == before
