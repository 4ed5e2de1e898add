"""The four views of fsaverage and the page to turn it, read back from what was made."""

import base64
import importlib.util
import json
import re
import sys
import time
from html.parser import HTMLParser

import numpy as np
import pytest
from by_name import coloured
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from synbrain_cli.errors import InputError, InputTypeError, MissingError
from synbrain_cli.io.surface import HEMISPHERES, fsaverage, fsaverage_map
from synbrain_cli.plotting.figure import save_figure
from synbrain_cli.plotting.flatmap import plot_flatmap
from synbrain_cli.plotting.rotatable_surface import view_surface
from synbrain_cli.plotting.surface import plot_surface

plot_flatmap, plot_surface = coloured(plot_flatmap), coloured(plot_surface)
view_surface = coloured(view_surface)

VIEWS = ("lateral", "medial", "posterior", "ventral")
N = 10242
NOTHING = np.full(N, np.nan)
# What grows to the right and upwards on the picture: axis of RAS, and which way
ORIENTATION = {
    ("lateral", "left"): ((1, -1), (2, 1)),
    ("lateral", "right"): ((1, 1), (2, 1)),
    ("medial", "left"): ((1, 1), (2, 1)),
    ("medial", "right"): ((1, -1), (2, 1)),
    ("posterior", "left"): ((0, 1), (2, 1)),
    ("posterior", "right"): ((0, 1), (2, 1)),
    ("ventral", "left"): ((0, 1), (1, -1)),
    ("ventral", "right"): ((0, 1), (1, -1)),
}
# Which way the viewer looks from
TOWARDS = {
    ("lateral", "left"): (0, -1),
    ("lateral", "right"): (0, 1),
    ("medial", "left"): (0, 1),
    ("medial", "right"): (0, -1),
    ("posterior", "left"): (1, -1),
    ("posterior", "right"): (1, -1),
    ("ventral", "left"): (2, -1),
    ("ventral", "right"): (2, -1),
}


@pytest.fixture(scope="module")
def pole():
    """Vertices within 25 mm of each occipital pole, on the folded cortex."""
    patches = {}
    for hemisphere, mesh in fsaverage("pial").items():
        xyz = mesh.coordinates
        patches[hemisphere] = np.linalg.norm(xyz - xyz[xyz[:, 1].argmin()], axis=1) < 25
    return patches


@pytest.fixture(scope="module")
def field():
    return {h: mesh.coordinates[:, 2] / 30 for h, mesh in fsaverage("pial").items()}


def panel(figure, label):
    return next((axes for axes in figure.axes if axes.get_label() == label), None)


def plotted(figure, view, hemisphere, name="data"):
    """The picture, rows from the bottom up, NaN where transparent; x and y of its pixels, mm."""
    axes = panel(figure, f"{view}-{hemisphere}")
    picture = next(image for image in axes.images if image.get_gid() == name)
    values = picture.get_array()
    if name == "data":
        values = np.ma.filled(values, np.nan)
    left, right, bottom, top = picture.get_extent()
    n_rows, n_columns = values.shape[:2]
    x = left + (right - left) * (np.arange(n_columns) + 0.5) / n_columns
    y = bottom + (top - bottom) * (np.arange(n_rows) + 0.5) / n_rows
    return values, x, y


def lit(figure):
    """Views with any data plotted."""
    return {
        (view, hemisphere)
        for view in VIEWS
        for hemisphere in HEMISPHERES
        if np.isfinite(plotted(figure, view, hemisphere)[0]).any()
    }


@pytest.mark.parametrize("surface", ["inflated", "pial"])
def test_each_view_shows_anatomy_where_its_name_says(surface):
    """A coordinate of the surface, plotted as a map, is the position on the picture."""
    meshes = fsaverage(surface)
    for k in range(3):
        figure = plot_surface(
            {h: mesh.coordinates[:, k] for h, mesh in meshes.items()},
            title="t", unit="mm", surface=surface,
        )  # fmt: skip
        for place, ((across, way), (upwards, up)) in ORIENTATION.items():
            values, x, y = plotted(figure, *place)
            seen = np.isfinite(values)
            assert 0.4 < seen.mean() < 0.95
            if k == across:
                np.testing.assert_allclose(values[seen], (way * x + 0 * y[:, None])[seen], atol=0.1)
            if k == upwards:
                np.testing.assert_allclose(values[seen], (up * y[:, None] + 0 * x)[seen], atol=0.1)


def test_what_is_in_front_hides_what_is_behind():
    """Depth at pixels of the pial surface against that of every triangle there."""
    meshes = fsaverage("pial")
    rng = np.random.default_rng(0)
    for place in (("lateral", "left"), ("medial", "right"), ("ventral", "left")):
        (k, way), ((across, sign), (upwards, up)) = TOWARDS[place], ORIENTATION[place]
        xyz, faces = meshes[place[1]]
        depth = {h: way * mesh.coordinates[:, k] for h, mesh in meshes.items()}
        figure = plot_surface(depth, title="t", unit="mm", surface="pial")
        values, x, y = plotted(figure, *place)
        a, b, c = xyz[faces].astype(float)[:, :, [across, upwards]].transpose(1, 0, 2)
        inverse = np.linalg.pinv(np.stack([b - a, c - a], axis=-1))
        rows, columns = np.nonzero(np.isfinite(values))
        for i in rng.choice(len(rows), 40):
            point = np.array([sign * x[columns[i]], up * y[rows[i]]])
            second, third = np.einsum("fij,fj->if", inverse, point - a)
            weights = np.stack([1 - second - third, second, third], axis=1)
            here = (weights > -1e-3).all(1)
            depths = (weights * depth[place[1]][faces])[here].sum(1)
            assert values[rows[i], columns[i]] == pytest.approx(depths.max(), abs=0.2)


@pytest.mark.parametrize("hemisphere", HEMISPHERES)
def test_an_occipital_patch_lights_its_place_and_nothing_else(pole, hemisphere):
    maps = {h: np.where(pole[h] & (h == hemisphere), 1.0, np.nan) for h in HEMISPHERES}
    figure = plot_surface(maps, title="t", unit="indicator", symmetric=False)
    assert lit(figure) == {(view, hemisphere) for view in VIEWS}
    for view in VIEWS:
        values, x, y = plotted(figure, view, hemisphere)
        rows, columns = np.nonzero(np.isfinite(values))
        if view in ("lateral", "medial"):
            to_the_right = (view == "lateral") == (hemisphere == "left")
            assert (x[columns] > 50).all() if to_the_right else (x[columns] < -50).all()
        elif view == "ventral":
            assert (y[rows] > y.mean() + 50).all()
    area = {view: np.isfinite(plotted(figure, view, hemisphere)[0]).sum() for view in VIEWS}
    assert area["posterior"] > 1000
    assert area["posterior"] > area["ventral"]


def test_missing_values_show_cortex_and_do_not_spread(field):
    halves = {h: np.where(np.arange(N) % 2 == 0, np.nan, v) for h, v in field.items()}
    whole, part = (plot_surface(maps, title="t", unit="z") for maps in (field, halves))
    for place in (("lateral", "left"), ("posterior", "right")):
        all_of_it, _, _ = plotted(whole, *place)
        some, _, _ = plotted(part, *place)
        cortex, _, _ = plotted(part, *place, name="cortex")
        np.testing.assert_array_equal(np.isfinite(all_of_it), cortex[..., 3] > 0)
        assert 0.2 < np.isfinite(some).sum() / np.isfinite(all_of_it).sum() < 0.8
        assert np.nanmin(some) >= np.nanmin(halves[place[1]]) - 1e-6


def test_sulci_are_darker_and_what_is_turned_away_is_shaded(field):
    figure = plot_surface(field, title="t", unit="z")
    folds = plot_surface(fsaverage_map("curvature"), title="t", unit="1/mm")
    for place in (("lateral", "left"), ("medial", "right")):
        curvature, _, _ = plotted(folds, *place)
        grey, _, _ = plotted(figure, *place, name="cortex")
        assert grey[curvature > 0.1][:, 0].max() < grey[curvature < -0.1][:, 0].min()
        shade, _, _ = plotted(figure, *place, name="shade")
        assert not shade[np.isnan(curvature)].any()
        alpha = shade[..., 3][np.isfinite(curvature)]
        assert alpha.min() < 5  # faces the viewer: the colours are those of the bar
        assert 60 < alpha.max() < 128


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"threshold": 0.4, "vmax": 1.5},
        {"symmetric": False, "threshold": 0.2},
        {"symmetric": False, "vmin": -1, "vmax": 3, "cmap": "viridis"},
    ],
)
def test_colours_are_those_of_the_flatmap(field, options):
    surface, flat = (
        plot(field, title="t", unit="% signal change", **options)
        for plot in (plot_surface, plot_flatmap)
    )
    bars = [panel(figure, "colorbar") for figure in (surface, flat)]
    assert bars[0].get_xlabel() == bars[1].get_xlabel()
    assert bars[0].get_xlabel().startswith("% signal change")
    labels = [[t.get_text() for t in bar.get_xticklabels()] for bar in bars]
    assert labels[0] == labels[1]
    picture = panel(flat, "flatmap").images[1]
    values = np.linspace(-3, 3, 50)
    for place in ORIENTATION:
        image = next(i for i in panel(surface, "-".join(place)).images if i.get_gid() == "data")
        assert image.get_clim() == picture.get_clim()
        np.testing.assert_array_equal(image.to_rgba(values), picture.to_rgba(values))


def test_threshold_hides_and_the_bar_says_so(field):
    figure = plot_surface(field, title="t", unit="z", threshold=0.4, vmax=1.5)
    bar = panel(figure, "colorbar")
    assert bar.get_xlabel() == "z  (shown: |value| ≥ 0.4)"
    values, _, _ = plotted(figure, "lateral", "left")
    assert np.nanmin(np.abs(values)) >= 0.4
    assert (values < 0).any()
    figure = plot_surface(field, title="t", unit="z", threshold=0.4, symmetric=False)
    assert np.nanmin(plotted(figure, "lateral", "left")[0]) >= 0.4


def test_rois_are_outlined_where_seen_and_named_once(field, pole):
    rois = {"right": {"V1": pole["right"], "nowhere": np.zeros(N, bool)}}
    figure = plot_surface(field, title="t", unit="z", rois=rois)
    names = [t for t in figure.findobj(Text) if str(t.get_gid()).startswith("roi-")]
    assert [(t.get_text(), t.get_gid()) for t in names] == [("V1", "roi-right")]
    assert names[0].axes.get_label() == "posterior-right"
    outlined = {
        axes.get_label(): outline
        for axes in figure.axes
        for outline in axes.findobj(LineCollection)
        if str(outline.get_gid()).startswith("outline-")
    }
    assert set(outlined) <= {f"{view}-right" for view in VIEWS}
    indicator = plot_surface(
        {h: np.where(pole[h], 1.0, np.nan) for h in pole}, title="t", unit="z", symmetric=False
    )
    values, x, y = plotted(indicator, "posterior", "right")
    rows, columns = np.nonzero(np.isfinite(values))
    path = np.concatenate([p.vertices for p in outlined["posterior-right"].get_paths()])
    for axis, place in ((0, x[columns]), (1, y[rows])):
        assert path[:, axis].min() == pytest.approx(place.min(), abs=3)
        assert path[:, axis].max() == pytest.approx(place.max(), abs=3)


def test_left_is_left_of_right_in_each_view(field):
    figure = plot_surface(field, title="sub-01", unit="z", note="simulated")
    assert {"sub-01", "simulated"} <= {t.get_text() for t in figure.texts}
    for view in VIEWS:
        said = {t.get_gid(): t for h in HEMISPHERES for t in panel(figure, f"{view}-{h}").texts}
        assert (said["side-left"].get_text(), said["side-right"].get_text()) == ("L", "R")
        assert view in said[f"view-{view}"].get_text()
        assert said["letter"].get_text() == "acbd"[VIEWS.index(view)]
        assert said["letter"].xyann[0] < said[f"view-{view}"].xyann[0]
        boxes = [panel(figure, f"{view}-{h}").get_position() for h in HEMISPHERES]
        assert boxes[0].x1 < boxes[1].x0
        for h, box in zip(HEMISPHERES, boxes, strict=True):  # one scale everywhere
            axes = panel(figure, f"{view}-{h}")
            mm = np.ptp(axes.get_xlim()), np.ptp(axes.get_ylim())
            inches = box.width * figure.get_figwidth(), box.height * figure.get_figheight()
            assert inches[0] / mm[0] == pytest.approx(inches[1] / mm[1])
            assert inches[0] / mm[0] == pytest.approx(0.0165, rel=0.1)


@pytest.mark.parametrize(
    ("title", "with_image", "surface"),
    [
        ("short", False, "inflated"),
        ("short", True, "inflated"),
        ("words of a long title with a $ " * 10, True, "white"),
        ("words of a long title with a $ " * 10, False, "pial"),
    ],
)
def test_nothing_overlaps(field, title, with_image, surface):
    image = np.zeros((50, 200, 3), np.uint8) if with_image else None
    figure = plot_surface(
        field, title=title, unit="z", stimulus=image, note="simulated, 8 draws", surface=surface
    )
    renderer = figure.canvas.get_renderer()
    boxes = [t.get_window_extent(renderer) for t in figure.texts]
    boxes += [
        axes.get_window_extent(renderer)
        if "-" in axes.get_label()
        else axes.get_tightbbox(renderer)
        for axes in figure.axes
    ]
    for k, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y0 >= 0
        assert box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in boxes[:k])


def test_bad_input_is_refused(field):
    def refused(match, maps=field, error=InputError, **options):
        for make in (plot_surface, view_surface):
            with pytest.raises(error, match=match):
                make(maps, **({"title": "t", "unit": "z"} | options))

    refused("plot_flatmap", surface="flat")
    refused("inflated, pial, white", surface="folded")
    refused("NaN everywhere", {"left": NOTHING, "right": NOTHING})
    refused("left map: expected one value", field | {"left": NOTHING[:-1]})
    refused("left and right", {"lh": field["left"], "rh": field["right"]})
    refused("infinite", field | {"right": np.full(N, np.inf)})
    refused("real numbers", field | {"right": np.array(["a"] * N)}, InputTypeError)
    refused("cmap", cmap="no such map")
    refused("threshold", threshold=5, vmax=2)
    with pytest.raises(InputError, match="ROI V1"):
        plot_surface(field, title="t", unit="z", rois={"left": {"V1": np.zeros(5, bool)}})
    with pytest.raises(InputError, match="uint8"):
        plot_surface(field, title="t", unit="z", stimulus=np.zeros((4, 4, 3)))
    with pytest.raises(InputError, match="vmin"):
        plot_surface(field, title="t", unit="z", vmin=0)


def test_a_density_that_is_not_here_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("NILEARN_DATA", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    maps = {h: np.zeros(40962) for h in HEMISPHERES}
    for make in (plot_surface, view_surface):
        with pytest.raises(MissingError, match="fsaverage6"):
            make(maps, title="t", unit="z")


def test_it_is_quick_deterministic_and_leaves_pyplot_alone(field, pole, tmp_path):
    start = time.perf_counter()
    for k in range(2):
        figure = plot_surface(field, title="t", unit="z", rois={"left": {"V1": pole["left"]}})
        save_figure(figure, tmp_path / f"{k}.png", dpi=80)
    assert time.perf_counter() - start < 10
    assert (tmp_path / "0.png").read_bytes() == (tmp_path / "1.png").read_bytes()
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []


# The page -----------------------------------------------------------------------------------------

turned = pytest.mark.skipif(
    importlib.util.find_spec("plotly") is None,
    reason="nilearn's view_surf needs plotly, which is not installed",
)


class _Resources(HTMLParser):
    """What a browser fetches for the elements of a page, and the text of its styles."""

    def __init__(self):
        super().__init__()
        self.asked, self.tags, self._tag, self.styles = [], [], None, ""

    def handle_starttag(self, tag, attrs):
        self._tag = tag
        self.tags.append(tag)
        self.asked += [
            value for name, value in attrs if name in ("src", "href", "srcset", "data", "poster")
        ]

    def handle_data(self, data):
        if self._tag == "style":
            self.styles += data


def info(page):
    """What the page draws, as nilearn hands it to its script."""
    start = page.index("var surfaceMapInfo = ") + len("var surfaceMapInfo = ")
    return json.JSONDecoder().raw_decode(page, start)[0]


@turned
def test_the_page_asks_for_nothing_and_is_small(field):
    page = view_surface(field, title="<b>t</b> & </script>", unit="z <i>", note="simulated")
    resources = _Resources()
    resources.feed(page)
    assert resources.asked == []
    assert "link" not in resources.tags
    assert "url(" not in resources.styles + "".join(re.findall(r"@import.*", page))
    ours = page[page.index("<body>") :]
    assert not re.search(r"https?:|fetch\(|XMLHttpRequest", ours)
    assert len(page.encode()) < 3e6
    assert "&lt;b&gt;t&lt;/b&gt; &amp; &lt;/script&gt;</title>" in page
    assert "<b>t</b>" not in page
    assert "simulated" in page
    assert view_surface(field, title="t", unit="z") == view_surface(field, title="t", unit="z")


def test_what_the_page_needs_is_told(field, monkeypatch):
    def view_surf(**_):
        raise ImportError("plotly is missing.")

    monkeypatch.setattr("nilearn.plotting.view_surf", view_surf)
    with pytest.raises(InputError, match=r"plotly is missing\. pip install plotly"):
        view_surface(field, title="t", unit="z")


@turned
@pytest.mark.parametrize("hemisphere", HEMISPHERES)
def test_the_page_colours_the_patch_and_nothing_else(pole, hemisphere):
    maps = {h: np.where(pole[h] & (h == hemisphere), 1.0, np.nan) for h in HEMISPHERES}
    found = info(view_surface(maps, title="t", unit="indicator", vmax=2))
    rgb = np.array([to_rgb(colour) for colour in found["vertexcolor_both"]])
    coloured = np.ptp(rgb, axis=1) > 0.02
    expected = np.concatenate([np.isfinite(maps[h]) for h in HEMISPHERES])
    np.testing.assert_array_equal(coloured, expected)
    assert (rgb[expected][:, 0] > rgb[expected][:, 2]).all()  # positive is red
    curvature = np.concatenate([fsaverage_map("curvature")[h] for h in HEMISPHERES])
    grey = rgb[:, 0]
    folds = ~expected & (curvature > 0.1), ~expected & (curvature < -0.1)
    assert grey[folds[0]].max() < grey[folds[1]].min()
    x = np.frombuffer(base64.b64decode(found["inflated_both"]["_x"]), "<f4")
    assert x[:N].max() < x[N:].min()  # the hemispheres lie side by side, left on the left


@turned
def test_the_page_tells_range_unit_and_threshold(field):
    page = view_surface(field, title="t", unit="% signal change", threshold=0.4, vmax=1.5)
    found = info(page)
    assert (found["cmin"], found["cmax"]) == (-1.5, 1.5)
    style = json.loads(re.search(r'Plotly.restyle\("surface-plot", (.*), \[1\]\)', page)[1])
    assert style["colorbar.title.text"] == "% signal change  (shown: |value| ≥ 0.4)"
    assert style["colorbar.tickvals"] == [[-1.5, 1.5, 0.0]]
    assert style["colorbar.ticktext"] == [["≤ −1.5", "≥ 1.5", "0"]]
    rgb = np.array([to_rgb(colour) for colour in found["vertexcolor_both"]])
    values = np.concatenate([field[h] for h in HEMISPHERES])
    assert (np.ptp(rgb[np.abs(values) < 0.39], axis=1) < 0.02).all()
    assert (np.ptp(rgb[np.abs(values) > 0.45], axis=1) > 0.02).all()
    magnitude = {h: np.abs(v) for h, v in field.items()}
    found = info(view_surface(magnitude, title="t", unit="r", symmetric=False, threshold=0.5))
    assert found["cmin"] == 0
    rgb = np.array([to_rgb(colour) for colour in found["vertexcolor_both"]])
    assert (np.ptp(rgb[np.abs(values) < 0.49], axis=1) < 0.02).all()


@turned
def test_the_page_outlines_and_names_the_regions_where_they_are(field, pole):
    rois = {h: {"pole <i>": pole[h]} for h in HEMISPHERES}
    page = view_surface(field, title="t", unit="z", rois=rois)
    start = page.index('Plotly.addTraces("surface-plot", ') + len(
        'Plotly.addTraces("surface-plot", '
    )
    lines, names = json.JSONDecoder().raw_decode(page, start)[0]
    assert (lines["type"], lines["mode"], names["mode"]) == ("scatter3d", "lines", "text")
    assert sorted(names["text"]) == ["<b>L</b>", "<b>R</b>", *["<b>pole &lt;i&gt;</b>"] * 2]
    found = info(page)["inflated_both"]
    mesh = np.stack([np.frombuffer(base64.b64decode(found[f"_{k}"]), "<f4") for k in "xyz"], axis=1)
    path = np.array([lines[k] for k in "xyz"], float).T
    path = path[np.isfinite(path).all(1)]
    assert len(path) > 40
    inside = np.concatenate([pole[h] for h in HEMISPHERES])

    def nearest(vertices):
        return np.linalg.norm(path[:, None] - mesh[vertices], axis=2).min(1)

    # Along the border: an edge's length, some 3 mm, from members and from others, on both sides
    assert nearest(inside).max() < 5
    assert nearest(~inside).max() < 5
    assert {side for side in path[:, 0] > mesh[:N, 0].max()} == {False, True}
    places = dict(zip(names["text"], np.array([names[k] for k in "xyz"]).T, strict=True))
    assert places["<b>L</b>"][0] < places["<b>R</b>"][0]


@turned
def test_the_page_of_no_regions_has_sides_alone(field):
    page = view_surface(field, title="t", unit="z")
    start = page.index('Plotly.addTraces("surface-plot", ') + len(
        'Plotly.addTraces("surface-plot", '
    )
    lines, names = json.JSONDecoder().raw_decode(page, start)[0]
    assert names["text"] == ["<b>L</b>", "<b>R</b>"]
    assert lines["x"] == [None]


def test_names_of_regions_do_not_cover_each_other(pole):
    """Where two have one middle, the larger view goes to the first and the second is elsewhere."""
    same = {h: {f"region {k}": pole[h] for k in range(6)} for h in HEMISPHERES}
    figure = plot_surface({h: np.ones(N) for h in HEMISPHERES}, title="t", unit="z", rois=same)
    figure.draw_without_rendering()
    n_named = 0
    for axes in figure.axes:
        boxes = [
            t.get_window_extent() for t in axes.texts if (t.get_gid() or "").startswith("roi-")
        ]
        n_named += len(boxes)
        assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])
    assert n_named >= 4
