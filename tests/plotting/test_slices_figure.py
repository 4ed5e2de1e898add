"""Slices of a volume, read back from the figure objects."""

from __future__ import annotations

import sys

import nibabel as nib
import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from scipy.spatial.transform import Rotation

from synbrain_cli.errors import InputError, InputTypeError
from synbrain_cli.plotting.figure import save_figure
from synbrain_cli.plotting.flatmap import plot_flatmap
from synbrain_cli.plotting.slices import plot_slices

SHAPE = (20, 24, 18)
AFFINE = np.diag([4.0, 4.0, 4.0, 1.0])
AFFINE[:3, 3] = -38, -60, -30
# Axis of RAS across the slice, to the right, and up
DIRECTIONS = {"axial": (2, 0, 1), "coronal": (1, 0, 2), "sagittal": (0, 1, 2)}
GRAPHS = {"axial": "LR", "coronal": "LR", "sagittal": "PA"}


def positions(affine=AFFINE, shape=SHAPE):
    """Middle of each voxel, mm: (3, x, y, z)."""
    return np.moveaxis(
        nib.affines.apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1)), -1, 0
    )


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
    return [axes for axes in figure.axes if axes.get_label().startswith(f"{direction} ")]


def drawn(axes, name="data"):
    """The picture, rows from the bottom up, NaN where transparent; x and y of its pixels, mm."""
    picture = next(found for found in axes.images if found.get_gid() == name)
    assert picture.origin == "lower"
    values = np.ma.filled(picture.get_array().astype(float), np.nan)
    left, right, bottom, top = picture.get_extent()
    x = left + (right - left) * (np.arange(values.shape[1]) + 0.5) / values.shape[1]
    y = bottom + (top - bottom) * (np.arange(values.shape[0]) + 0.5) / values.shape[0]
    return values, *np.meshgrid(x, y)


def label(axes):
    return next(t.get_text() for t in axes.texts if "=" in t.get_text())


def panel(figure, name):
    return next(axes for axes in figure.axes if axes.get_label() == name)


@pytest.mark.parametrize(
    "affine",
    [
        AFFINE,
        AFFINE @ np.array([[-1, 0, 0, 19], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),  # LAS
        AFFINE @ np.array([[0, 0, 1, 1], [1, 0, 0, 2], [0, -1, 0, 17], [0, 0, 0, 1]]),  # turned
    ],
)
def test_each_slice_shows_the_place_its_label_says(affine):
    """A coordinate, drawn as a map, is the position on the picture or the slice's label."""
    xyz = positions(affine)
    mask = (np.abs(xyz) < 30).all(0)
    for k in range(3):
        figure = plot_slices(image(xyz[k], affine), mask=mask, title="t", unit="mm")
        for direction, (axis, right, up) in DIRECTIONS.items():
            assert len(slices(figure, direction)) == 6
            for axes in slices(figure, direction):
                values, x, y = drawn(axes)
                seen = np.isfinite(values)
                assert seen.any()
                if k in (right, up):
                    np.testing.assert_allclose(
                        values[seen], (x if k == right else y)[seen], atol=1e-3
                    )
                if k == axis:
                    name, number = label(axes).replace("−", "-").split(" = ")
                    assert name == "xyz"[axis]
                    np.testing.assert_allclose(values[seen], float(number), atol=0.5)


def test_an_oblique_grid_is_drawn_upright_by_the_nearest_voxel():
    affine = AFFINE.copy()
    affine[:3, :3] = Rotation.from_euler("z", 20, degrees=True).as_matrix() @ AFFINE[:3, :3]
    xyz = positions(affine)
    mask = np.zeros(SHAPE, bool)
    mask[4:16, 4:16, 4:14] = True
    figure = plot_slices(image(xyz[0], affine), mask=mask, title="t", unit="mm")
    for axes in slices(figure, "axial"):
        values, x, _ = drawn(axes)
        seen = np.isfinite(values)
        assert seen.sum() == pytest.approx(144, rel=0.1)
        assert np.abs(values - x)[seen].max() < 4
        assert np.isin(values[seen].astype(np.float32), xyz[0][mask].astype(np.float32)).all()


def test_left_is_left(inside):
    x, _, _ = positions()
    figure = plot_slices(image(np.sign(x)), mask=inside & (x < 0), title="t", unit="z")
    for direction, ends in GRAPHS.items():
        for axes in slices(figure, direction):
            first, last = (next(t for t in axes.texts if t.get_text() == end) for end in ends)
            assert first.get_position()[0] < last.get_position()[0]
            assert axes.get_xlim()[0] < axes.get_xlim()[1]
            if ends == "LR":
                values, across, _ = drawn(axes)
                assert (across[np.isfinite(values)] < 0).all()


def test_zero_is_data_in_the_mask_and_nothing_outside(inside):
    values = np.zeros(SHAPE)
    first = tuple(np.argwhere(inside)[0])
    values[first] = np.nan
    for mask, data in ((inside, values), (None, np.where(inside, 1 + values, 0))):
        figure = plot_slices(image(data), mask=mask, title="t", unit="z")
        known = inside.copy()
        known[first] = False
        for direction, (axis, *_) in DIRECTIONS.items():
            planes = np.moveaxis(positions()[axis], axis, 0)[:, 0, 0]
            for axes in slices(figure, direction):
                seen = np.isfinite(drawn(axes)[0])
                beneath = drawn(axes, "mask")[0] == 1
                np.testing.assert_array_equal(seen, beneath)
                assert (drawn(axes, "shadow")[0][beneath] == 1).all()
                k = np.abs(planes - float(axes.get_label().split()[1])).argmin()
                assert seen.sum() == np.take(known, k, axis).sum() > 0


def test_an_roi_lights_its_place_and_is_outlined(inside):
    x, y, z = positions()
    v1 = inside & (x > 0) & (y < -50)
    figure = plot_slices(
        image(v1), mask=inside, title="t", unit="indicator", symmetric=False, threshold=0.5,
        rois={"V1": v1, "nowhere": image(np.zeros(SHAPE))},
    )  # fmt: skip
    for direction, (axis, right, up) in DIRECTIONS.items():
        bounds = [(p[v1].min(), p[v1].max()) for p in (x, y, z)]
        for axes in slices(figure, direction):
            values, across, upwards = drawn(axes)
            lit = np.isfinite(values)
            where = float(label(axes).replace("−", "-").split(" = ")[1])
            low, high = bounds[axis]
            outlines = [c for c in axes.findobj(LineCollection) if c.get_gid() == "outline"]
            assert lit.any() == bool(outlines) == (low - 1 <= where <= high + 1)
            if not lit.any():
                continue
            for place, k in ((across, right), (upwards, up)):
                assert place[lit].min() == pytest.approx(bounds[k][0])
                assert place[lit].max() == pytest.approx(bounds[k][1])
            corners = np.concatenate([path.vertices for path in outlines[0].get_paths()])
            for column, k in ((0, right), (1, up)):  # half a voxel around
                assert corners[:, column].min() == pytest.approx(bounds[k][0] - 2)
                assert corners[:, column].max() == pytest.approx(bounds[k][1] + 2)
            perimeter = 2 * sum((np.diff(bounds[k])[0] + 4) / 4 for k in (right, up))
            assert len(outlines[0].get_paths()) == round(perimeter)
    legend = figure.legends[0]
    assert [t.get_text() for t in legend.get_texts()] == ["V1", "nowhere"]
    colour = to_hex(legend.get_lines()[0].get_color())
    outline = next(c for c in figure.findobj(LineCollection) if c.get_gid() == "outline")
    assert to_hex(outline.get_color()[0]) == colour


def test_colours_are_those_of_the_flatmap(inside):
    rng = np.random.default_rng(0)
    values = np.where(inside, rng.normal(size=SHAPE), np.nan)
    vertices = np.full(10242, np.nan)
    vertices[: inside.sum()] = values[inside]
    for options in ({}, {"threshold": 0.4, "vmax": 1.5}, {"symmetric": False, "threshold": 0.1}):
        figure = plot_slices(image(values), mask=inside, title="t", unit="% signal", **options)
        flat = plot_flatmap(
            {"left": vertices.astype(np.float32), "right": np.full(10242, np.nan)},
            title="t", unit="% signal", **options,
        )  # fmt: skip
        bars = [panel(f, "colorbar") for f in (figure, flat)]
        assert bars[0].get_xlabel() == bars[1].get_xlabel()
        assert bars[0].get_xlabel().startswith("% signal")
        labels = [[t.get_text() for t in bar.get_xticklabels()] for bar in bars]
        assert labels[0] == labels[1]
        picture = panel(flat, "flatmap").images[1]
        for axes in slices(figure, "axial"):
            data = next(i for i in axes.images if i.get_gid() == "data")
            assert data.get_clim() == picture.get_clim()
            points = np.linspace(-3, 3, 50)
            np.testing.assert_array_equal(data.to_rgba(points), picture.to_rgba(points))
            shown, _, _ = drawn(axes)
            if "threshold" in options:
                size = np.abs(shown) if options.get("symmetric", True) else shown
                assert np.nanmin(size) >= options["threshold"]


def test_all_slices_have_one_scale_and_hold_the_data(inside):
    figure = plot_slices(image(inside), mask=inside, title="t", unit="z", symmetric=False)
    scales = []
    for direction, (axis, *_) in DIRECTIONS.items():
        found = slices(figure, direction)
        wheres = [float(label(axes).replace("−", "-").split(" = ")[1]) for axes in found]
        assert wheres == sorted(wheres)
        held = positions()[axis][inside]
        assert held.min() - 1 <= wheres[0] < wheres[-1] <= held.max() + 1
        for axes in found:
            box = axes.get_window_extent()
            scales += [box.width / np.ptp(axes.get_xlim()), box.height / np.ptp(axes.get_ylim())]
            assert np.isfinite(drawn(axes)[0]).any()
    np.testing.assert_allclose(scales, scales[0], rtol=1e-6)
    few = np.zeros(SHAPE, bool)
    few[5, 5, 5] = True
    figure = plot_slices(image(few), title="t", unit="z", symmetric=False)
    assert [len(slices(figure, direction)) for direction in DIRECTIONS] == [1, 1, 1]


def test_anatomy_underneath_lies_in_the_same_place(inside):
    """Another grid: finer, shifted, stored from right to left."""
    affine = np.diag([-2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = 41, -61, -33
    shape = (41, 50, 40)
    x, _, _ = positions(affine, shape)
    figure = plot_slices(
        image(positions()[0]), mask=inside, background=image(x + 100, affine), title="t", unit="mm"
    )
    for direction in ("axial", "coronal"):
        for axes in slices(figure, direction):
            below, place, _ = drawn(axes, "background")
            np.testing.assert_allclose(below - 100, place, atol=1e-3)
            values, place, _ = drawn(axes)
            seen = np.isfinite(values)
            np.testing.assert_allclose(values[seen], place[seen], atol=1e-3)
            assert axes.get_xlim() == pytest.approx((-40, 42))


@pytest.mark.parametrize("title", ["short", "words of a long title with a $ " * 10])
def test_nothing_overlaps(inside, title):
    figure = plot_slices(
        image(inside), mask=inside, title=title, unit="z", note="simulated, 8 draws",
        stimulus=np.zeros((50, 200, 3), np.uint8), rois={f"ROI {k}": inside for k in range(8)},
    )  # fmt: skip
    renderer = figure.canvas.get_renderer()
    assert {"simulated, 8 draws"} <= {t.get_text() for t in figure.texts}
    boxes = [t.get_window_extent(renderer) for t in figure.texts]
    boxes += [axes.get_tightbbox(renderer) for axes in figure.axes]
    boxes.append(figure.legends[0].get_window_extent(renderer))
    for k, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y0 >= 0
        assert box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in boxes[:k])


def test_bad_input_is_refused(inside):
    good = image(np.where(inside, 1.0, 0))

    def refused(match, given=good, error=InputError, **options):
        with pytest.raises(error, match=match):
            plot_slices(given, **({"title": "t", "unit": "z"} | options))

    refused("one map at a time", image(np.zeros((*SHAPE, 2))))
    refused("Nifti1Image", np.zeros(SHAPE), InputTypeError)
    refused("real numbers", nib.Nifti1Image(np.zeros(SHAPE, np.complex64), AFFINE), InputTypeError)
    refused("found none", image(np.zeros(SHAPE)))
    refused("found none", image(np.full(SHAPE, np.nan)))
    refused("found none", mask=np.zeros(SHAPE, bool))
    refused("infinite", image(np.where(inside, np.inf, 0)))
    refused("mask: expected the image's shape", mask=np.ones((3, 3, 3), bool))
    refused("mask: expected a bool array", mask=np.ones(SHAPE), error=InputTypeError)
    refused("mask: expected the image's grid", mask=image(inside, 2 * AFFINE))
    refused("ROI V1: expected the image's shape", rois={"V1": np.ones((3, 3, 3), bool)})
    refused("at most 8", rois={str(k): inside for k in range(9)})
    refused("background: expected a volume", background=image(np.zeros((*SHAPE, 2))))
    refused("cmap", cmap="no such map")
    refused("threshold", threshold=5, vmax=2)
    refused("uint8", stimulus=np.zeros((4, 4, 3)))


def test_it_is_deterministic_and_leaves_pyplot_alone(inside, tmp_path):
    for k in range(2):
        figure = plot_slices(image(inside), mask=inside, title="t", unit="z", rois={"V1": inside})
        save_figure(figure, tmp_path / f"{k}.svg", dpi=60)
    assert (tmp_path / "0.svg").read_bytes() == (tmp_path / "1.svg").read_bytes()
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []
