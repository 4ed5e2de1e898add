"""Names of regions on maps: none covers another, and every line leads to its region."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nilearn.datasets import load_fsaverage
from scipy.spatial import cKDTree

from synbrain_cli.io.surface import HEMISPHERES
from synbrain_cli.plotting.flatmap import plot_flatmap
from synbrain_cli.plotting.flatmap_pair import plot_pair
from synbrain_cli.plotting.image_sheet import plot_sheet
from synbrain_cli.plotting.label_placement import Box, Canvas, Region, place_labels
from synbrain_cli.plotting.labels import Labels, mapped_rois, plotted_rois
from synbrain_cli.plotting.roi_outlines import ISLET, legend_lines, trace
from synbrain_cli.plotting.surface import plot_surface
from synbrain_cli.plotting.trial_flatmaps import plot_draws

N_VERTICES = 10242  # of fsaverage5
# The labels of NSD's visual collections
NSD = (
    *("V1v", "V1d", "V2v", "V2d", "V3v", "V3d", "hV4", "OFA", "FFA-1", "FFA-2", "OPA", "PPA"),
    *("EBA", "FBA-1", "FBA-2", "OWFA", "VWFA-1", "VWFA-2"),
    *("IPS0", "IPS1", "IPS2", "IPS3", "IPS4", "IPS5"),
)


# Geometry -----------------------------------------------------------------------------------------


def patchwork(seed, n_regions, reach):
    """Irregular regions of a picture of 240 × 180 mm, as pieces of a Voronoi diagram."""
    rng = np.random.default_rng(seed)
    x, y = np.arange(0, 240, 1.0), np.arange(0, 180, 1.0)
    pixels = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    seeds = rng.normal((120, 90), (reach, 0.6 * reach), (n_regions, 2))
    distance, nearest = cKDTree(seeds).query(pixels)
    regions = []
    for k in range(n_regions):
        inside = ((nearest == k) & (distance < 0.4 * reach)).reshape(180, 240)
        traced = trace(inside.astype(float), x, y)
        if traced is not None:
            name, group = NSD[k % len(NSD)], HEMISPHERES[k // len(NSD) % 2]
            regions.append(Region(name, group, traced.x, traced.y, traced.depth))
    return regions


def overlap(one, other):
    return (
        one.left < other.right
        and other.left < one.right
        and one.bottom < other.top
        and other.bottom < one.top
    )


def within(line, box):
    """Whether points of a line lie in a box."""
    points = np.linspace(*line, 200)
    return (
        (points > [box.left, box.bottom]) & (points < [box.right, box.top])
    ).all(1).any()  # fmt: skip


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    n_regions=st.integers(1, 2 * len(NSD)),
    reach=st.floats(15, 70),
    size=st.floats(6, 14),
    leaders=st.booleans(),
)
def test_no_name_covers_another_and_lines_end_in_their_region(
    seed, n_regions, reach, size, leaders
):
    regions = patchwork(seed, n_regions, reach)
    canvas = Canvas((0, 240, 0, 180), 0.35, (Box(0, 12, 168, 180),), leaders)
    placed = place_labels(regions, canvas, size, first=("V1v",))
    boxes = [label.box for label in placed.labels]
    assert not any(itertools.starmap(overlap, itertools.combinations([*boxes, *canvas.taken], 2)))
    for box in boxes:
        assert (np.array(box) >= 0).all()
        assert (np.array(box) <= [240, 240, 180, 180]).all()
    by_number = {str(number): name for name, number in placed.numbers.items()}
    of = {(one.name, one.group): one for one in regions}
    told = [(by_number.get(label.text, label.text), label.group) for label in placed.labels]
    assert sorted([*told, *placed.left_out]) == sorted(of)  # each once
    lines = []
    for label, name in zip(placed.labels, told, strict=True):
        if label.tip is None:
            assert of[name].holds(*label.box.centre)
            continue
        assert leaders
        assert of[name].holds(*label.tip)
        line = np.array([label.start, label.tip])
        assert not any(within(line, box) for box in boxes if box is not label.box)
        lines.append(line)
    assert not any(itertools.starmap(crossing, itertools.combinations(lines, 2)))


def crossing(one, other):
    """Whether two lines cross, by solving for where they do."""
    ways = np.stack([one[1] - one[0], other[0] - other[1]], axis=1)
    if abs(np.linalg.det(ways)) < 1e-9:
        return False
    at = np.linalg.solve(ways, other[0] - one[0])
    return ((at > 1e-6) & (at < 1 - 1e-6)).all()


def test_large_and_well_known_regions_choose_first():
    """Two squares at one place, the smaller of them well known."""
    x = np.arange(100.0)
    depth = {size: np.zeros((100, 100)) for size in (8, 20)}
    for size, picture in depth.items():
        picture[50 - size : 50 + size, 50 - size : 50 + size] = 1
    regions = [Region(f"R{size}", "left", x, x, one) for size, one in depth.items()]
    canvas = Canvas((0, 100, 0, 100), 0.5)
    inside = {
        first: [one.text for one in place_labels(regions, canvas, 10, first).labels]
        for first in ((), ("R8",))
    }
    assert inside[()][0] == "R20"
    assert inside["R8",][0] == "R8"


def test_a_number_stands_for_one_name_in_a_whole_figure():
    regions = patchwork(3, 48, 60)
    canvas = Canvas((0, 240, 0, 180), 0.7, leaders=False)
    first = place_labels(regions, canvas, 10)
    again = place_labels(patchwork(4, 48, 60), canvas, 10, known=first.numbers)
    assert first.numbers
    assert again.numbers
    both = {**first.numbers, **again.numbers}
    assert len(set(both.values())) == len(both)
    assert all(again.numbers[name] == first.numbers.get(name, again.numbers[name]) for name in both
               if name in again.numbers)  # fmt: skip
    text = " ".join(legend_lines([first, again], 8)).replace("\u00a0", " ")
    assert all(f"{number} {name}" in text for name, number in both.items())


def test_islets_have_no_outline():
    x = np.arange(0, 100, 0.5)
    picture = np.zeros((200, 200))
    picture[20:120, 20:120] = 1  # 50 × 50 mm
    picture[60:66, 60:66] = 0  # a hole of 9 mm²
    picture[150:158, 150:158] = 1  # 16 mm²
    traced = trace(picture, x, x)
    assert len(traced.lines) == 1
    assert not traced.depth[traced.y > 70].any()
    picture[:130] = 0
    assert trace(picture, x, x) is None
    assert ISLET > 16


# On the cortex ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cortex():
    """Vertex positions between white and pial surface, mm, RAS."""
    meshes = load_fsaverage("fsaverage5")
    return {
        h: (
            np.asarray(meshes["pial"].parts[h].coordinates)
            + np.asarray(meshes["white_matter"].parts[h].coordinates)
        )
        / 2
        for h in HEMISPHERES
    }


def parcels(cortex, names, around=None, reach=np.inf):
    """Regions that tile the cortex, or the part of it around a point."""
    rng = np.random.default_rng(0)
    rois, maps = {}, {}
    for hemisphere, xyz in cortex.items():
        near = np.ones(len(xyz), bool)
        if around is not None:
            sign = -1 if hemisphere == "left" else 1
            near = np.linalg.norm(xyz - [sign * around[0], *around[1:]], axis=1) < reach
        seeds = xyz[rng.choice(np.flatnonzero(near), len(names), replace=False)]
        nearest = cKDTree(seeds).query(xyz)[1]
        rois[hemisphere] = {name: near & (nearest == k) for k, name in enumerate(names)}
        maps[hemisphere] = np.where(near, np.sin(xyz[:, 1] / 9), np.nan)
    return maps, rois


def written(figure):
    """Boxes of all names and numbers by axes, in pixels; and their axes' boxes."""
    renderer = figure.canvas.get_renderer()
    found = []
    for axes in figure.axes:
        texts = [t for t in axes.texts if str(t.get_gid()).startswith(("roi-", "hemisphere"))]
        # Matplotlib's box is as high as letters with ascender and descender, which names lack
        boxes = [(t.get_text(), shrunk(t.get_window_extent(renderer))) for t in texts]
        if boxes:
            found.append((axes.get_window_extent(renderer), boxes))
    return found


def shrunk(box):
    return box.padded(-0.5)


def check_names(figure, rois):
    """Every region is named, by its name or its number in the legend, and no two texts overlap."""
    names = {name for named in rois.values() for name, member in named.items() if member.any()}
    legend = " ".join(t.get_text() for t in figure.texts if t.get_gid() == "legend")
    legend = legend.replace("\u00a0", " ").replace("\n", " ")
    seen = []
    for area, boxes in written(figure):
        for (_, one), (_, other) in itertools.combinations(boxes, 2):
            assert not one.overlaps(other)
        for text, box in boxes:
            assert (box.min >= area.min - 1).all(), text
            assert (box.max <= area.max + 1).all(), text
            seen.append(text)
    untold = [name for name in names if name not in seen and f" {name}" not in legend]
    return seen, untold


def test_nothing_overlaps_at_the_density_of_nsd(cortex):
    """As many labels as NSD has, on visual cortex: each is named on the map or in the legend."""
    maps, rois = parcels(cortex, NSD, (28, -78, 0), 45)
    figure = plot_flatmap(maps, Labels("t", "z", rois))
    seen, untold = check_names(figure, rois)
    assert untold == []
    assert len([text for text in seen if text in NSD]) > 1.2 * len(NSD)  # most are spelt out
    axes = figure.axes[0]
    for line in [one for one in axes.lines if str(one.get_gid()).startswith("leader-")]:
        side = line.get_gid().removeprefix("leader-")
        assert (line.get_xdata()[1] < 0) == (side == "left")


@pytest.mark.parametrize("n_parcels", [60, 180])
def test_nothing_overlaps_where_every_vertex_has_a_label(cortex, n_parcels):
    names = [f"Par{k:03d}" for k in range(n_parcels)]
    maps, rois = parcels(cortex, names)
    for plot in (plot_flatmap, plot_surface) if n_parcels == 60 else (plot_flatmap,):
        seen, untold = check_names(plot(maps, Labels("t", "z", rois)), rois)
        assert len(seen) > n_parcels
        if n_parcels == 60:
            assert untold == []


def test_small_maps_have_sides_and_names(cortex):
    maps, rois = parcels(cortex, NSD, (28, -78, 0), 45)
    labels = Labels("t", "z", rois)
    trials = {h: v + np.arange(3)[:, None] for h, v in maps.items()}
    for figure, n_maps in (
        (plot_draws(trials, maps, labels, trials), 10),
        (plot_sheet([maps] * 3, ["a", "b", "c"], labels), 3),
        (plot_pair([maps] * 2, ["a", "b"], labels), 2),
    ):
        seen, _ = check_names(figure, rois)
        assert [seen.count("L"), seen.count("R")] == [n_maps, n_maps]
        assert len(seen) >= n_maps * 20


def test_nothing_overlaps_on_nsd_itself(shared, cortex):
    """ROI flags of two of NSD's subjects, carried to fsaverage5 by an affine fit (roughly)."""
    folder = shared / "data/nsd_metadata"
    for number in (1, 2):
        voxels = pd.read_csv(folder / f"subj{number:02d}_func1pt8mm_voxels.tsv.gz", sep="\t")
        mask = nib.load(folder / f"subj{number:02d}_brain_mask.nii.gz")
        nearest, near = carried(voxels[["i", "j", "k"]].to_numpy(float), mask, cortex)
        halves = np.split(np.arange(2 * N_VERTICES), 2)
        rois = {
            h: {
                name: near[half] & (voxels[name].to_numpy()[nearest[half]] == 1)
                for name in NSD
                if name in voxels
            }
            for h, half in zip(HEMISPHERES, halves, strict=True)
        }
        maps = {
            h: np.where(near[half], voxels["ncsnr"].to_numpy()[nearest[half]], np.nan)
            for h, half in zip(HEMISPHERES, halves, strict=True)
        }
        for plot in (plot_flatmap, plot_surface):
            seen, untold = check_names(plot(maps, Labels("t", "ncsnr", rois)), rois)
            assert untold == []
            assert {"V1v", "V1d", "V2v", "V2d", "EBA", "PPA"} <= set(seen)


def carried(ijk, mask, cortex):
    """Voxel nearest to each vertex, and whether it is near: voxels fitted to the cortex."""
    vertices = np.concatenate([cortex[h] for h in HEMISPHERES])
    inside = np.argwhere(np.asarray(mask.dataobj) > 0)
    (low, high), (first, last) = ((p.min(0), p.max(0)) for p in (inside, vertices))
    scale = (last - first) / (high - low)
    scale[2] = scale[:2].mean()  # the mask holds the cerebellum
    fit = np.vstack([np.diag(scale), [*(first - scale * low)[:2], (last - scale * high)[2]]])
    tree, given = cKDTree(vertices), np.column_stack([ijk, np.ones(len(ijk))])
    for _ in range(20):
        distance, nearest = tree.query(given @ fit)
        kept = distance < np.quantile(distance, 0.8)
        fit = np.linalg.lstsq(given[kept], vertices[nearest[kept]], rcond=None)[0]
    distance, nearest = cKDTree(given @ fit).query(vertices)
    return nearest, distance < 4.5


# Which regions ------------------------------------------------------------------------------------


class Subject:
    """What the functions ask of a model."""

    def __init__(self, **columns):
        self.voxels = pd.DataFrame({"ncsnr": [0.5] * 4, **columns})


def test_parts_of_areas_and_parietal_areas_are_on_maps():
    brain = Subject(
        **{
            "Kastner2015": ["IPS0", "V1v", "SPL1", "IPS5"],
            "floc-faces": ["", "", "FFA-1", ""],
            "prf-visualrois": ["V1v", "V1d", "hV4", "V2d"],
            "streams": ["early", "early", "ventral", "early"],
        }
    )
    assert list(plotted_rois(brain)) == ["V1", "V2", "hV4", "FFA-1"]
    shown = mapped_rois(brain)
    assert list(shown) == ["V1v", "V1d", "V2d", "hV4", "FFA-1", "IPS0", "IPS5"]
    assert shown["V1d"].tolist() == [False, True, False, False]
    assert shown["IPS5"].tolist() == [False, False, False, True]
    other = Subject(mine=["a", "b", "", "a"])
    assert list(mapped_rois(other)) == list(plotted_rois(other)) == ["a", "b"]
