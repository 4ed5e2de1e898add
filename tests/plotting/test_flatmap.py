"""What is plotted, read back from the figure objects."""

import itertools
import sys
import time

import nibabel as nib
import numpy as np
import pytest
from by_name import coloured
from matplotlib.figure import Figure
from matplotlib.text import Text
from nilearn.datasets import load_fsaverage

from synbrain_cli.errors import InputError, InputTypeError, MissingError, SynbrainError
from synbrain_cli.io.surface import fsaverage, fsaverage_map
from synbrain_cli.plotting import flatmap
from synbrain_cli.plotting.figure import save_figure

plot_flatmap = coloured(flatmap.plot_flatmap)
N_VERTICES = 10242  # of fsaverage5
NOTHING = np.full(N_VERTICES, np.nan)


@pytest.fixture(scope="module")
def pial():
    """Vertex positions on the folded cortex, mm, RAS."""
    meshes = load_fsaverage("fsaverage5")["pial"]
    return {h: np.asarray(meshes.parts[h].coordinates) for h in ("left", "right")}


@pytest.fixture
def field(pial):
    return {h: xyz[:, 2] / 30 for h, xyz in pial.items()}


def panel(figure, label):
    return next((axes for axes in figure.axes if axes.get_label() == label), None)


def plotted(figure, name="data"):
    """The picture plotted, rows from the bottom up, NaN where transparent, and its x and y."""
    picture = next(i for i in panel(figure, "flatmap").images if i.get_gid() == name)
    values = np.ma.filled(picture.get_array(), np.nan) if name == "data" else picture.get_array()
    left, right, bottom, top = picture.get_extent()
    return (
        values,
        np.linspace(left, right, values.shape[1]),
        np.linspace(bottom, top, values.shape[0]),
    )


def texts(figure):
    return [t.get_text() for t in figure.findobj(Text)]


def test_left_is_plotted_on_the_left(field):
    for hemisphere, side in (("left", -1), ("right", 1)):
        maps = {"left": NOTHING, "right": NOTHING, hemisphere: field[hemisphere]}
        values, x, _ = plotted(plot_flatmap(maps, title="t", unit="z"))
        columns = np.isfinite(values).any(0)
        assert (np.sign(x[columns]) == side).all()
        assert columns.mean() > 0.4
    values, _, _ = plotted(plot_flatmap(field, title="t", unit="z"))
    cortex, _, _ = plotted(plot_flatmap(field, title="t", unit="z"), "cortex")
    np.testing.assert_array_equal(np.isfinite(values), cortex[..., 3] > 0)


def test_anatomy_lies_where_the_labels_say(pial):
    """Posterior in the middle, anterior outside, dorsal up."""
    for k, axis in ((1, 1), (2, 0)):
        maps = {h: xyz[:, k] for h, xyz in pial.items()}
        values, x, y = plotted(plot_flatmap(maps, title="t", unit="mm", view="cortex"))
        place = np.abs(x) if axis == 1 else y
        grid = np.broadcast_to(place if axis == 1 else place[:, None], values.shape)
        known = np.isfinite(values)
        assert np.corrcoef(values[known], grid[known])[0, 1] > 0.8


def test_values_are_those_of_the_vertices(pial):
    """A plane over the patch is plotted as that plane: interpolation is exact and in place."""
    flat = flatmap._flat_cortex(N_VERTICES)
    plane = 0.02 * flat.xy[:, 0] - 0.03 * flat.xy[:, 1]
    maps = {"left": plane[:N_VERTICES], "right": plane[N_VERTICES:]}
    values, x, y = plotted(plot_flatmap(maps, title="t", unit="z"))
    known = np.isfinite(values)
    expected = 0.02 * x - 0.03 * y[:, None]
    assert np.abs(values - expected)[known].max() < 0.01  # linspace takes pixel edges for centres
    side = flat.faces >= N_VERTICES
    assert (side.all(1) | ~side.any(1)).all()  # no triangle joins the hemispheres


@pytest.fixture
def finer(tmp_path, monkeypatch):
    """A stand-in for fsaverage6, which is not shipped: every triangle of fsaverage5 cut in four.

    Returns a function from values on fsaverage5 to values on it, by hemisphere.
    """
    halves = {}
    folder = tmp_path / "fsaverage6"
    folder.mkdir()
    for hemisphere in ("left", "right"):
        faces = fsaverage("sphere")[hemisphere].faces
        edges = np.unique(np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]],
                                                  faces[:, [2, 0]]]), axis=1), axis=0)  # fmt: skip
        middle = {tuple(edge): N_VERTICES + k for k, edge in enumerate(edges.tolist())}
        halves[hemisphere] = edges

        def cut(face, middle=middle):
            a, b, c = face
            ab, bc, ca = (middle.get(tuple(sorted(e))) for e in ((a, b), (b, c), (c, a)))
            return [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]

        flat = fsaverage("flat")[hemisphere]
        # Resampled patches bridge cuts with triangles that the sphere does not have.
        known = [
            face
            for face in flat.faces.tolist()
            if all(tuple(sorted(e)) in middle for e in itertools.combinations(face, 2))
        ]
        small = np.array([one for face in known for one in cut(face)], np.int32)
        xyz = flat.coordinates
        points = np.concatenate([xyz, xyz[edges].mean(1)]).astype(np.float32)
        curvature = fsaverage_map("curvature")[hemisphere]
        folds = np.concatenate([curvature, curvature[edges].mean(1)])
        nib.save(
            nib.gifti.GiftiImage(
                darrays=[
                    nib.gifti.GiftiDataArray(points, intent="NIFTI_INTENT_POINTSET"),
                    nib.gifti.GiftiDataArray(small, intent="NIFTI_INTENT_TRIANGLE"),
                ]
            ),
            folder / f"flat_{hemisphere}.gii.gz",
        )
        nib.save(
            nib.gifti.GiftiImage(darrays=[nib.gifti.GiftiDataArray(folds.astype(np.float32))]),
            folder / f"curv_{hemisphere}.gii.gz",
        )
    monkeypatch.setenv("NILEARN_DATA", str(tmp_path))
    yield lambda maps: {h: np.concatenate([v, v[halves[h]].mean(1)]) for h, v in maps.items()}
    for cached in (flatmap._flat_cortex, flatmap._raster, flatmap._underlay):
        cached.cache_clear()


def test_a_finer_surface_shows_the_same(field, finer):
    coarse, x, _ = plotted(plot_flatmap(field, title="t", unit="z", view="cortex"))
    fine, x_fine, _ = plotted(plot_flatmap(finer(field), title="t", unit="z", view="cortex"))
    assert fine.shape == coarse.shape
    np.testing.assert_allclose(x, x_fine, atol=0.01)
    both = np.isfinite(fine) & np.isfinite(coarse)
    assert both.sum() > 0.98 * np.isfinite(coarse).sum()
    # Along edges, a pixel may belong to either triangle.
    gap = np.abs(fine[both] - coarse[both])
    assert np.quantile(gap, 0.999) < 0.02
    assert gap.max() < 0.2


def test_a_surface_that_is_not_at_hand(field):
    maps = {h: np.zeros(163842) for h in field}
    with pytest.raises(MissingError, match="fetch it once with"):
        plot_flatmap(maps, title="t", unit="z")


def test_the_fovea_is_at_the_occipital_pole_in_the_middle(pial):
    """The most posterior vertices lie between the hemispheres, half-way up."""
    for hemisphere, sign in (("left", -1), ("right", 1)):
        pole = np.linalg.norm(pial[hemisphere] - pial[hemisphere][pial[hemisphere][:, 1].argmin()],
                              axis=1) < 12  # fmt: skip
        maps = {"left": NOTHING, "right": NOTHING, hemisphere: np.where(pole, 1.0, 0.0)}
        values, x, y = plotted(plot_flatmap(maps, title="t", unit="z", view="cortex"))
        rows, columns = np.nonzero(values > 0.5)
        assert len(rows) > 50
        shown = np.isfinite(values)
        inner = np.abs(x[shown.any(0)]).max() * 0.35
        assert (np.abs(x[columns]) < inner).all(), hemisphere
        assert (np.sign(x[columns]) == sign).all()
        middle = y[shown.any(1)].mean()
        assert abs(y[rows].mean() - middle) < 0.2 * np.ptp(y[shown.any(1)])


def test_missing_values_are_transparent_and_do_not_spread(field):
    left = field["left"].copy()
    left[::2] = np.nan
    values, _, _ = plotted(plot_flatmap(field | {"left": left}, title="t", unit="z", view="cortex"))
    whole, _, _ = plotted(plot_flatmap(field, title="t", unit="z", view="cortex"))
    half = whole.shape[1] // 2
    assert 0.2 < np.isfinite(values[:, :half]).sum() / np.isfinite(whole[:, :half]).sum() < 0.8
    np.testing.assert_allclose(values[:, half:], whole[:, half:], rtol=1e-5)
    assert np.nanmin(values[:, :half]) >= np.nanmin(left) - 1e-6


def test_colour_bar_tells_range_unit_and_threshold(field):
    figure = plot_flatmap(field, title="t", unit="% signal change", vmax=1.5, threshold=0.4)
    bar = panel(figure, "colorbar")
    assert bar.get_xlabel() == "% signal change  (shown: |value| ≥ 0.4)"
    assert [t.get_text() for t in bar.get_xticklabels()] == ["−1.5", "−0.4", "0.4", "1.5"]
    picture = panel(figure, "flatmap").images[1]
    assert picture.get_clim() == (-1.5, 1.5)
    values, _, _ = plotted(figure)
    assert np.nanmin(np.abs(values)) >= 0.4
    red, _, blue = picture.cmap(picture.norm(1.4))[:3]
    assert red > blue
    assert np.ptp(picture.cmap(picture.norm([0.39, -0.39, 0.0]))[:, :3]) == 0  # grey

    figure = plot_flatmap(
        {h: np.abs(v) for h, v in field.items()}, title="t", unit="r", symmetric=False
    )
    assert panel(figure, "flatmap").images[1].get_clim()[0] == 0
    assert panel(figure, "colorbar").get_xlabel() == "r"


@pytest.mark.parametrize(
    ("values", "options", "limits"),
    [
        (np.linspace(-2, 1, N_VERTICES), {}, (-2.0, 2.0)),
        (np.linspace(-2, 1, N_VERTICES), {"symmetric": False, "vmin": -1, "vmax": 3}, (-1, 3)),
        (np.linspace(-2, 1, N_VERTICES), {"symmetric": False}, (-2.0, 0.98)),
        (np.linspace(-2, -1, N_VERTICES), {"symmetric": False}, (-2.0, 0)),
        (np.zeros(N_VERTICES), {}, (-1, 1)),
        (np.zeros(N_VERTICES), {"symmetric": False}, (0, 1)),
        (np.full(N_VERTICES, 3), {}, (-3, 3)),
        (np.where(np.arange(N_VERTICES) < 50, 9.0, 0.1), {}, (-0.1, 0.1)),  # robust to a few
        (np.where(np.arange(N_VERTICES) < 50, 9.0, 0.1), {"threshold": 1}, (-9, 9)),
    ],
)
def test_limits(values, options, limits):
    figure = plot_flatmap({"left": values, "right": NOTHING}, title="t", unit="z", **options)
    low, high = panel(figure, "flatmap").images[1].get_clim()
    assert (low, high) == pytest.approx(limits, rel=0.02)


def test_view_follows_the_data(pial, field):
    near = {h: np.linalg.norm(xyz - [0, -95, 0], axis=1) < 35 for h, xyz in pial.items()}
    patch = {"left": np.where(near["left"], 1.0, np.nan), "right": NOTHING}

    def width(maps, **options):
        axes = panel(plot_flatmap(maps, title="t", unit="z", **options), "flatmap")
        low, high = axes.get_xlim()
        assert low == -high
        bottom, top = axes.get_ylim()
        size = axes.get_window_extent()
        assert size.width / size.height == pytest.approx((high - low) / (top - bottom))
        return high - low

    assert width(field) == width(patch, view="cortex") > 600
    assert width(patch) == width(patch, view="data") < 330
    values, _, _ = plotted(plot_flatmap(patch, title="t", unit="z"))
    edge = np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])
    assert np.isnan(edge).all()  # nothing is cropped


def test_rois_are_outlined_and_named(pial, field):
    near = {h: np.linalg.norm(xyz - [0, -95, 0], axis=1) < 35 for h, xyz in pial.items()}
    by_name = {h: {"V1": near[h], "nowhere": np.zeros(N_VERTICES, bool)} for h in near}
    by_text = {h: np.where(near[h], "V1", "") for h in near}
    by_number = {h: np.where(near[h], 1, -1) for h in near}
    for rois, name in ((by_name, "V1"), (by_text, "V1"), (by_number, "1")):
        figure = plot_flatmap(field, title="t", unit="z", rois=rois)
        axes = panel(figure, "flatmap")
        labels = [t for t in axes.texts if str(t.get_gid()).startswith("roi-")]
        assert [(t.get_text(), t.get_gid()) for t in labels] == [
            (name, "roi-left"),
            (name, "roi-right"),
        ]
        assert labels[0].get_position()[0] < 0 < labels[1].get_position()[0]
        assert sorted(a.get_gid() for a in axes.collections) == ["outline-left", "outline-right"]
    figure = plot_flatmap(field, title="t", unit="z", rois={"left": by_text["left"]})
    assert texts(figure).count("V1") == 1


def test_texts_image_and_note(field):
    title = "A very long title with a $ and another $ " * 8
    image = np.zeros((40, 60, 3), np.uint8)
    figure = plot_flatmap(field, title=title, unit="z", stimulus=image, note="simulated")
    found = texts(figure)
    assert {"L", "R", "anterior", "dorsal", "simulated"} <= set(found)
    assert title.split() in [text.split() for text in found]
    assert panel(figure, "stimulus").images[0].get_array().shape == (40, 60, 3)
    assert panel(plot_flatmap(field, title="", unit="z"), "stimulus") is None


@pytest.mark.parametrize("with_image", [False, True])
@pytest.mark.parametrize(
    "note", [None, "simulated", "simulated, 8 draws, not calibrated at all " * 3]
)
@pytest.mark.parametrize("title", ["short", "words of a long title " * 15, "W" * 300])
def test_nothing_overlaps(field, title, note, with_image):
    image = np.zeros((50, 200, 3), np.uint8) if with_image else None
    figure = plot_flatmap(field, title=title, unit="z", stimulus=image, note=note)
    renderer = figure.canvas.get_renderer()
    boxes = [t.get_window_extent(renderer) for t in figure.texts]
    boxes += [axes.get_tightbbox(renderer) for axes in figure.axes if axes.get_label() != "flatmap"]
    boxes.append(panel(figure, "flatmap").get_window_extent(renderer))
    for k, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y0 >= 0
        assert box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in boxes[:k])


def test_bad_input_is_refused(field):
    def refused(match, maps=field, error=InputError, **options):
        with pytest.raises(error, match=match):
            plot_flatmap(maps, **({"title": "t", "unit": "z"} | options))

    refused("NaN everywhere", {"left": NOTHING, "right": NOTHING})
    refused("left map: expected one value per vertex", field | {"left": NOTHING[:-1]})
    two = field | {"right": np.zeros((2, N_VERTICES))}
    refused("right map: expected one value per vertex", two)
    refused("as many vertices on the right", field | {"right": np.zeros(40962)})
    refused("infinite", field | {"right": np.full(N_VERTICES, np.inf)})
    refused("real numbers", field | {"right": np.array(["a"] * N_VERTICES)}, InputTypeError)
    refused("left and right", {"left": field["left"]})
    refused("left and right", {"lh": field["left"], "rh": field["right"]})
    refused("left and right", field["left"])
    refused("cmap", cmap="no such map")
    refused("view", view="everything")
    refused("vmin", vmin=0.0)
    refused("finite limits", vmax=0.0)
    refused("finite limits", vmax=np.nan)
    refused("threshold", threshold=5, vmax=2)
    refused("threshold", threshold=-1)
    refused("largest value is", threshold=1e6)
    refused("uint8", stimulus=np.zeros((4, 4, 3)))
    refused("uint8", stimulus=np.zeros((4, 4), np.uint8))
    refused("rois", rois={"lh": NOTHING})
    refused("left rois", rois={"left": NOTHING})
    refused("left rois", rois={"left": np.zeros(5, int)})
    refused("ROI V1", rois={"left": {"V1": np.zeros(5, bool)}})
    refused("ROI V1", rois={"left": {"V1": np.zeros(N_VERTICES)}})
    medial = np.setdiff1d(np.arange(N_VERTICES), flatmap._flat_cortex(N_VERTICES).faces)
    only = NOTHING.copy()
    only[medial[medial < N_VERTICES]] = 1
    refused("medial wall", {"left": only, "right": NOTHING})


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_saved_bytes_depend_on_the_figure_alone(field, tmp_path, suffix, monkeypatch):
    contents = []
    for k, epoch in enumerate(("0", "1000000000")):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
        rois = {"left": {"V1": field["left"] < -0.5}}
        figure = plot_flatmap(field, title="t", unit="z", rois=rois, note="simulated")
        save_figure(figure, tmp_path / f"{k}{suffix}", dpi=80)
        contents.append((tmp_path / f"{k}{suffix}").read_bytes())
    assert contents[0] == contents[1]
    assert b"matplotlib" not in contents[0].lower()[:400]
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"0{suffix}", f"1{suffix}"]


def test_a_failed_save_leaves_nothing(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"\.png, \.svg or \.pdf"):
        save_figure(Figure(), tmp_path / "map.bmp")
    (tmp_path / "map.png").write_bytes(b"before")

    def full(self, path, **_):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(SynbrainError, match="No space left"):
        save_figure(Figure(), tmp_path / "map.png")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("map.png", b"before")]


def test_it_is_quick_and_leaves_pyplot_alone(field, tmp_path):
    start = time.perf_counter()
    save_figure(plot_flatmap(field, title="t", unit="z"), tmp_path / "map.png")
    assert time.perf_counter() - start < 6  # about 1 s once loaded
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []
