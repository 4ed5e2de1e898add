"""Flatmaps by pycortex itself, on a small subject of its filestore, read back."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from by_name import coloured

from synbrain_cli.errors import InputError, InputTypeError, MissingError
from synbrain_cli.io.surface import HEMISPHERES, fsaverage, fsaverage_map
from synbrain_cli.plotting import pycortex as module
from synbrain_cli.plotting.figure import save_figure
from synbrain_cli.plotting.flatmap import plot_flatmap
from synbrain_cli.plotting.pycortex import plot_with_pycortex

plot_flatmap, plot_with_pycortex = coloured(plot_flatmap), coloured(plot_with_pycortex)

N = 10242
NOTHING = np.full(N, np.nan)


@pytest.fixture(scope="module")
def cortex():
    """pycortex, with a filestore that holds fsaverage5 under the name of small."""
    return pytest.importorskip("cortex", reason="pycortex is not installed")


@pytest.fixture(scope="module")
def small(cortex, tmp_path_factory):
    store = tmp_path_factory.mktemp("filestore")
    before = cortex.db.filestore
    for folder in ("surfaces", "surface-info", "anatomicals", "transforms", "cache", "views"):
        (store / "small" / folder).mkdir(parents=True)
    meshes = {name: fsaverage(name) for name in ("flat", "inflated", "pial", "white")}
    for hemisphere, letters in zip(HEMISPHERES, ("lh", "rh"), strict=True):
        middle = (
            meshes["white"][hemisphere].coordinates + meshes["pial"][hemisphere].coordinates
        ) / 2
        faces = meshes["white"][hemisphere].faces
        for name, points, triangles in (
            ("flat", *meshes["flat"][hemisphere]),
            ("inflated", *meshes["inflated"][hemisphere]),
            ("fiducial", middle, faces),
        ):
            path = store / "small" / "surfaces" / f"{name}_{letters}.gii"
            cortex.formats.write_gii(str(path), points, triangles)
    cortex.db.filestore = str(store)
    cortex.db.reload_subjects()
    yield "small"
    cortex.db.filestore = before
    cortex.db.reload_subjects()


@pytest.fixture(scope="module")
def pole():
    """Vertices within 25 mm of each occipital pole, on the folded cortex."""
    patches = {}
    for hemisphere, mesh in fsaverage("pial").items():
        xyz = mesh.coordinates
        patches[hemisphere] = np.linalg.norm(xyz - xyz[xyz[:, 1].argmin()], axis=1) < 25
    return patches


@pytest.fixture
def field():
    return {h: mesh.coordinates[:, 2] / 30 for h, mesh in fsaverage("pial").items()}


def panel(figure, label):
    return next(axes for axes in figure.axes if axes.get_label() == label)


def plotted(figure, name="data"):
    """pycortex's picture and where its pixels are, as shares from the left and from below."""
    axes = panel(figure, "pycortex")
    picture = next(image for image in axes.images if image.get_label() == name)
    values = np.ma.filled(picture.get_array().astype(float), np.nan)
    left, right, bottom, top = picture.get_extent()
    x = left + (right - left) * (np.arange(values.shape[1]) + 0.5) / values.shape[1]
    y = top + (bottom - top) * (np.arange(values.shape[0]) + 0.5) / values.shape[0]
    assert picture.origin == "upper"
    return values, *axes.transAxes.inverted().transform(
        axes.transData.transform(np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2))
    ).T.reshape(2, *values.shape)


@pytest.mark.parametrize("hemisphere", HEMISPHERES)
def test_an_occipital_patch_lights_its_place_and_nothing_else(small, pole, hemisphere):
    maps = {h: np.where(pole[h] & (h == hemisphere), 1.0, np.nan) for h in HEMISPHERES}
    figure = plot_with_pycortex(maps, title="t", unit="z", symmetric=False, subject=small)
    values, x, y = plotted(figure)
    lit = np.isfinite(values)
    assert 0.005 < lit.mean() < 0.1
    assert set(values[lit]) == {1.0}
    middle = 0.49  # where the patches meet, for they are not equally wide
    near = (middle - x if hemisphere == "left" else x - middle)[lit]
    assert near.min() > -0.02
    assert near.max() < 0.25
    assert 0.1 < y[lit].min() < y[lit].max() < 0.9


def test_anatomy_lies_where_the_labels_say(small):
    """Posterior in the middle, dorsal up, as in our own flatmap."""
    for k, where in ((1, lambda x, y: np.abs(x - 0.49)), (2, lambda x, y: y)):
        maps = {h: mesh.coordinates[:, k] for h, mesh in fsaverage("pial").items()}
        values, x, y = plotted(plot_with_pycortex(maps, title="t", unit="mm", subject=small))
        known = np.isfinite(values)
        assert np.corrcoef(values[known], where(x, y)[known])[0, 1] > 0.8


def test_sulci_are_darker(small):
    figure = plot_with_pycortex(fsaverage_map("curvature"), title="t", unit="1/mm", subject=small)
    curvature, _, _ = plotted(figure)
    grey, _, _ = plotted(figure, "curvature")
    sulci, gyri = (np.nanmean(grey[mask]) for mask in (curvature > 0.1, curvature < -0.1))
    assert 0.5 < sulci < gyri - 0.02 < 1


def test_colours_are_those_of_the_flatmap(small, field):
    for options in ({}, {"threshold": 0.4, "vmax": 1.5}, {"symmetric": False, "threshold": 0.2}):
        figure = plot_with_pycortex(field, title="t", unit="% signal", subject=small, **options)
        flat = plot_flatmap(field, title="t", unit="% signal", **options)
        bars = [panel(f, "colorbar") for f in (figure, flat)]
        assert bars[0].get_xlabel() == bars[1].get_xlabel()
        labels = [[t.get_text() for t in bar.get_xticklabels()] for bar in bars]
        assert labels[0] == labels[1]
        ours = panel(flat, "flatmap").images[1]
        theirs = next(i for i in panel(figure, "pycortex").images if i.get_label() == "data")
        assert theirs.get_clim() == ours.get_clim()
        points = np.linspace(-3, 3, 50)
        np.testing.assert_array_equal(theirs.to_rgba(points), ours.to_rgba(points))
        values, _, _ = plotted(figure)
        size = np.abs(values) if options.get("symmetric", True) else values
        assert np.nanmin(size) >= options.get("threshold", 0)


def test_rois_are_outlined_and_named_in_their_hemisphere(small, field, pole):
    rois = {"right": {"V1": pole["right"], "nowhere": np.zeros(N, bool)}}
    figure = plot_with_pycortex(field, title="t", unit="z", rois=rois, subject=small)
    axes = panel(figure, "pycortex")
    names = [t for t in axes.texts if str(t.get_gid()).startswith("roi-")]
    assert [(t.get_text(), t.get_gid()) for t in names] == [("V1", "roi-right")]
    (outline,) = [c for c in axes.collections if c.get_gid() == "outline-right"]
    path = np.concatenate([p.vertices for p in outline.get_paths()])
    assert path[:, 0].min() > -3  # mm; pycortex's patches meet at 0
    maps = {h: np.where(pole[h], 1.0, np.nan) for h in HEMISPHERES} | {"left": NOTHING}
    values, x, _ = plotted(plot_with_pycortex(maps, title="t", unit="z", subject=small))
    low, high = axes.get_xlim()
    across = (low + x * (high - low))[np.isfinite(values)]
    assert path[:, 0].min() == pytest.approx(across.min(), abs=4)
    assert path[:, 0].max() == pytest.approx(across.max(), abs=4)
    assert across.min() < names[0].get_position()[0] < across.max()


def test_texts_and_proportions(small, field, tmp_path, capsys):
    image = np.zeros((50, 200, 3), np.uint8)
    title = "words of a long title with a $ " * 6
    figure = plot_with_pycortex(
        field, title=title, unit="z", note="simulated", stimulus=image, subject=small
    )
    axes = panel(figure, "pycortex")
    left, right = (next(t for t in axes.texts if t.get_text() == letter) for letter in "LR")
    assert left.xy[0] < right.xy[0]
    assert "simulated" in {t.get_text() for t in figure.texts}
    box = axes.get_window_extent()
    mm = np.ptp(axes.get_xlim()), np.ptp(axes.get_ylim())
    assert box.width / mm[0] == pytest.approx(box.height / mm[1], rel=1e-3)
    renderer = figure.canvas.get_renderer()
    boxes = [t.get_window_extent(renderer) for t in figure.texts]
    boxes += [axes.get_tightbbox(renderer) for axes in figure.axes]
    assert not any(box.overlaps(other) for k, box in enumerate(boxes) for other in boxes[:k])
    save_figure(figure, tmp_path / "map.png", dpi=50)
    assert capsys.readouterr().out == ""  # results go there, not pycortex's progress
    assert sys.modules["matplotlib.pyplot"].get_fignums() == []


def test_another_density_of_fsaverage_is_carried(small, field, monkeypatch):
    """As if the subject were fsaverage and the map fsaverage5's, two sizes down."""
    monkeypatch.setattr(module, "N_FSAVERAGE", {"coarse": 2562, "fine": N, "finer": N + 10})
    fine, _, _ = plotted(plot_with_pycortex(field, title="t", unit="z", subject=small))
    coarse_maps = {h: values[:2562] for h, values in field.items()}
    coarse, _, _ = plotted(plot_with_pycortex(coarse_maps, title="t", unit="z", subject=small))
    np.testing.assert_array_equal(np.isfinite(coarse), np.isfinite(fine))
    assert len(np.unique(coarse[np.isfinite(coarse)])) <= 2 * 2562
    assert np.nanmean(np.abs(coarse - fine)) < 0.1
    assert np.corrcoef(coarse[np.isfinite(fine)], fine[np.isfinite(fine)])[0, 1] > 0.98
    finer = {h: np.append(values, np.full(10, 99)) for h, values in field.items()}
    same, _, _ = plotted(plot_with_pycortex(finer, title="t", unit="z", subject=small))
    np.testing.assert_array_equal(same, fine)


def test_the_nearest_vertex_is_that_along_the_surface():
    mesh = fsaverage("sphere")["left"]
    nearest = module._nearest(mesh.coordinates, mesh.faces, 2562)
    np.testing.assert_array_equal(nearest[:2562], np.arange(2562))
    # Vertices of the next subdivision lie in the middle of an edge: one of its ends is nearest
    a, b = mesh.coordinates, mesh.coordinates[nearest]
    distance = np.linalg.norm(a - b, axis=1)
    straight = np.array([np.linalg.norm(mesh.coordinates[:2562] - x, axis=1).min() for x in a])
    assert np.abs(distance - straight)[2562:].max() < 0.5  # mm, on a sphere of 100


def test_what_is_missing_is_told(small, field, monkeypatch, tmp_path, cortex):
    with pytest.raises(MissingError, match=r"cortex\.download_subject\('fsaverage'\)"):
        plot_with_pycortex(field, title="t", unit="z")
    with pytest.raises(MissingError, match="no subject 'nobody'"):
        plot_with_pycortex(field, title="t", unit="z", subject="nobody")
    for folder in ("surfaces", "transforms"):
        (tmp_path / "bare" / folder).mkdir(parents=True)
    monkeypatch.setattr(cortex.db, "filestore", str(tmp_path))
    with pytest.raises(MissingError, match="'flat' not found"):
        plot_with_pycortex(field, title="t", unit="z", subject="bare")


def test_without_pycortex_it_is_told_how_to_install(field, monkeypatch):
    monkeypatch.setitem(sys.modules, "cortex", None)
    with pytest.raises(InputError, match=r"pip install 'synbrain\[pycortex\]'"):
        plot_with_pycortex(field, title="t", unit="z")


def test_bad_input_is_refused(small, field):
    def refused(match, maps=field, error=InputError, **options):
        with pytest.raises(error, match=match):
            plot_with_pycortex(maps, **({"title": "t", "unit": "z", "subject": small} | options))

    refused("NaN everywhere", {"left": NOTHING, "right": NOTHING})
    refused("left map: expected one value", field | {"left": NOTHING[:-1]})
    refused("right map: expected one value", field | {"right": np.zeros((2, N))})
    refused("left and right", {"lh": field["left"], "rh": field["right"]})
    refused("infinite", field | {"right": np.full(N, np.inf)})
    refused("real numbers", field | {"right": np.array(["a"] * N)}, InputTypeError)
    refused("rois", rois={"lh": {"V1": np.zeros(N, bool)}})
    refused("ROI V1", rois={"left": {"V1": np.zeros(5, bool)}})
    refused("cmap", cmap="no such map")
    refused("threshold", threshold=5, vmax=2)
    refused("uint8", stimulus=np.zeros((4, 4, 3)))
