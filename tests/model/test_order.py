"""Orders of voxels: what makes a Hilbert curve one, and what each kind promises."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from synbrain_cli.errors import InputError
from synbrain_cli.model.order import ORDERS, hilbert_order, neighbour_distance, voxel_order

few = settings(max_examples=50)
millimetres = st.floats(-200, 200, width=32)


def is_permutation(order, n):
    return order.dtype == np.int64 and sorted(order.tolist()) == list(range(n))


@pytest.fixture(scope="module")
def shell():
    """A folded sheet of voxels of 1.8 mm: positions in C order, and direction from the centre."""
    grid = np.moveaxis(np.indices((36, 36, 36)), 0, -1) - 17.5
    radius = np.linalg.norm(grid, axis=-1)
    direction = grid / radius[..., None]
    folds = 13 + 2.5 * np.sin(6 * direction).prod(-1)
    mask = np.abs(radius - folds) < 0.8
    return grid[mask] * 1.8, direction[mask] * 100


@st.composite
def voxels(draw):
    """Arguments that do for every kind."""
    n = draw(st.integers(1, 25))
    sheet = draw(arrays.arrays(float, (n, draw(st.integers(2, 3))), elements=millimetres))
    hemisphere = np.array(
        draw(st.lists(st.sampled_from(["left", "right"]), min_size=n, max_size=n))
    )
    stray = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    stray[0] = False
    sheet[stray] = np.nan
    unknown = stray & np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    hemisphere[unknown] = ""
    return n, {
        "points": draw(arrays.arrays(float, (n, 3), elements=millimetres)),
        "regions": draw(arrays.arrays(int, n, elements=st.integers(0, 4))),
        "sheet": sheet,
        "hemisphere": hemisphere,
    }


# The curve


@given(st.integers(0, 20), st.integers(2, 3), st.integers(1, 20), st.data())
@few
def test_any_finite_points_are_each_visited_once(n, n_dims, n_bits, data):
    finite = st.floats(allow_nan=False, allow_infinity=False)
    points = data.draw(arrays.arrays(float, (n, n_dims), elements=finite))
    assert is_permutation(hilbert_order(points, n_bits), n)


def test_the_largest_numbers_are_visited_like_others():
    corners = np.array([[0, 0], [1, 1], [1, 0], [0, 1]])
    largest = np.finfo(float).max * (2.0 * corners - 1)
    np.testing.assert_array_equal(hilbert_order(largest), hilbert_order(corners))


@pytest.mark.parametrize("n_bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize(("n_dims", "side"), [(2, 2), (2, 4), (2, 16), (3, 2), (3, 4), (3, 8)])
def test_on_a_full_grid_every_step_is_to_a_neighbour(n_dims, side, n_bits, rng):
    if 2**n_bits < side:
        n_bits = 5
    grid = rng.permutation(np.array(list(itertools.product(range(side), repeat=n_dims))))
    steps = np.diff(grid[hilbert_order(grid, n_bits)], axis=0)
    np.testing.assert_array_equal(np.abs(steps).sum(1), 1)


def test_each_quarter_of_a_grid_is_finished_before_the_next():
    grid = np.array(list(itertools.product(range(16), repeat=2)))
    quarter = (grid // 8) @ [2, 1]
    assert (np.diff(quarter[hilbert_order(grid)]) != 0).sum() == 3


def test_one_scale_serves_all_axes():
    # A line of squares, 4 × 32: stretched to a square, the curve would go up and down its length.
    grid = np.array(list(itertools.product(range(32), range(4))))
    block = grid[hilbert_order(grid)][:, 0] // 4
    assert (np.diff(block) >= 0).all()


@pytest.mark.parametrize("n", [0, 1, 5])
def test_points_in_one_place_keep_their_order(n):
    np.testing.assert_array_equal(hilbert_order(np.full((n, 3), 7.25)), np.arange(n))


def test_ties_keep_their_order(rng):
    places = rng.integers(0, 3, (300, 3)).astype(float)
    order = hilbert_order(places)
    same = (np.diff(places[order], axis=0) == 0).all(1)
    assert same.sum() == 300 - 27
    assert (np.diff(order)[same] > 0).all()


@given(
    arrays.arrays(
        int, st.tuples(st.integers(2, 30), st.integers(2, 3)), elements=st.integers(0, 64)
    ),
    st.sampled_from([0.1, 1.0, 1.8, 3.0, 1e3]),
    st.floats(-300, 300, width=32),
)
@few
def test_neither_the_unit_nor_the_origin_matters(points, scale, shift):
    np.testing.assert_array_equal(hilbert_order(points * scale + shift), hilbert_order(points))


def test_rounding_moves_no_voxel_on_the_border_of_a_cell(rng):
    grid = rng.integers(0, 33, (2000, 3))
    grid[:2] = [[0, 0, 0], [32, 32, 32]]  # every 2⁸ / 32 cells: all planes are borders
    for scale in (0.7, 1.1, 1.8):
        np.testing.assert_array_equal(hilbert_order(grid * scale - 57.3), hilbert_order(grid))


@pytest.mark.parametrize(
    "points",
    [[[0, np.nan]], [[0, np.inf]], [0, 1], [[0], [1]], np.zeros((2, 4)), [["a", "b"]], [[1j, 0]]],
)
def test_what_is_no_point_is_refused(points):
    with pytest.raises(InputError, match="points: expected"):
        hilbert_order(points)


@pytest.mark.parametrize("n_bits", [0, 21])
def test_bits_out_of_range_are_refused(n_bits):
    with pytest.raises(InputError, match="expected 1 to 20"):
        hilbert_order([[0, 0], [1, 1]], n_bits)


# Orders of voxels


@pytest.mark.parametrize("kind", ORDERS)
@given(given_voxels=voxels())
@few
def test_every_kind_is_a_permutation_and_leaves_its_input_alone(kind, given_voxels):
    n, arguments = given_voxels
    before = {name: array.copy() for name, array in arguments.items()}
    assert is_permutation(voxel_order(kind, n, **arguments), n)
    for name, array in arguments.items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("kind", ORDERS)
def test_a_model_without_voxels(kind):
    order = voxel_order(
        kind,
        0,
        points=np.empty((0, 3)),
        regions=np.empty(0, int),
        sheet=np.empty((0, 2)),
        hemisphere=np.empty(0, str),
    )
    assert is_permutation(order, 0)


def test_file_order_looks_at_nothing():
    np.testing.assert_array_equal(voxel_order("file", 3, points=[[np.nan]]), [0, 1, 2])


def test_neighbours_along_the_curve_are_nearer_than_in_the_file(shell):
    points, sheet = shell
    n = len(points)
    hemisphere = np.where(points[:, 0] < 0, "left", "right")
    distance = {
        kind: neighbour_distance(
            voxel_order(kind, n, points=points, sheet=sheet, hemisphere=hemisphere), points
        )
        for kind in ("file", "curve", "surface")
    }
    assert distance["curve"] < 0.8 * distance["file"]
    assert distance["curve"] < 2 * 1.8
    on_sheet = {
        kind: neighbour_distance(
            voxel_order(kind, n, points=points, sheet=sheet, hemisphere=hemisphere), sheet
        )
        for kind in ("file", "curve", "surface")
    }
    assert on_sheet["surface"] < on_sheet["curve"] < on_sheet["file"]


@pytest.mark.parametrize("kind", ["curve", "surface"])
@given(given_voxels=voxels())
@few
def test_left_precedes_right(kind, given_voxels):
    n, arguments = given_voxels
    side = arguments["hemisphere"][voxel_order(kind, n, **arguments)]
    side = side[side != ""]
    assert (np.diff((side == "right").astype(int)) >= 0).all()


def test_a_voxel_of_unknown_hemisphere_goes_with_the_nearest_known():
    points = np.array([[10, 0, 0], [-9, 0, 0], [-10, 0, 0], [11, 0, 0]], float)
    order = voxel_order("curve", 4, points=points, hemisphere=["right", "", "left", "right"])
    assert set(order[:2]) == {1, 2}
    unknown = voxel_order("curve", 4, points=points, hemisphere=[""] * 4)
    np.testing.assert_array_equal(unknown, voxel_order("curve", 4, points=points))


@given(voxels())
@few
def test_regions_are_runs_in_their_order_with_none_last(given_voxels):
    n, arguments = given_voxels
    regions = arguments["regions"]
    order = voxel_order("region", n, **arguments)
    rank = np.where(regions == 0, 99, regions)[order]
    assert (np.diff(rank) >= 0).all()
    # Along the curve within each.
    curve = voxel_order("curve", n, **arguments)
    for region in set(regions.tolist()):
        members = order[regions[order] == region]
        np.testing.assert_array_equal(members, curve[regions[curve] == region])


def test_regions_without_points_keep_the_file_order():
    order = voxel_order("region", 6, regions=np.array([2, 0, 1, 2, 0, 1], np.uint8))
    np.testing.assert_array_equal(order, [2, 5, 0, 3, 1, 4])


def test_the_surface_order_is_the_curve_on_the_sheet(rng):
    sheet = rng.normal(0, 50, (40, 2))
    hemisphere = np.repeat(["right", "left"], 20)
    order = voxel_order("surface", 40, sheet=sheet, hemisphere=hemisphere)
    np.testing.assert_array_equal(order[:20], 20 + hilbert_order(sheet[20:]))
    np.testing.assert_array_equal(order[20:], hilbert_order(sheet[:20]))


def test_a_voxel_off_the_sheet_stands_beside_the_nearest_on_it_in_its_hemisphere(rng):
    # Left and right voxels in the same places: only the hemisphere tells them apart.
    places = rng.permutation(np.array(list(itertools.product(range(4), repeat=3)), float))
    points = np.concatenate([places, places, places[:5] + 0.1, places[:5] + 0.1])
    sheet = np.full((138, 2), np.nan)
    square = np.array(list(itertools.product(range(8), repeat=2)), float)
    sheet[:128] = np.concatenate([square, square])
    hemisphere = np.repeat(["left", "right", "right", ""], [64, 64, 5, 5])
    order = voxel_order("surface", 138, points=points, sheet=sheet, hemisphere=hemisphere)
    rank = np.argsort(order)
    for i in range(5):
        stray, unknown = rank[128 + i], rank[133 + i]
        gaps = np.abs(unknown - np.array([rank[i], rank[64 + i]]))
        assert 0 < stray - rank[64 + i] <= 2
        assert gaps.min() <= 2


def test_a_hemisphere_off_the_sheet_follows_the_curve(rng):
    points = rng.normal(0, 30, (30, 3))
    sheet = np.full((30, 2), np.nan)
    sheet[:10] = points[:10, :2]
    hemisphere = np.repeat(["left", "right"], [10, 20])
    order = voxel_order("surface", 30, points=points, sheet=sheet, hemisphere=hemisphere)
    np.testing.assert_array_equal(order[10:], 10 + hilbert_order(points[10:]))


POINTS = np.zeros((3, 3))
SHEET = np.zeros((3, 2))
LOST = np.array([[0, 0], [1, 1], [np.nan, 0]])
LEFT = ["left"] * 3


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("hilbert", {}, "file, curve, region, surface, found 'hilbert'"),
        ("curve", {}, r"'curve': expected points .* choose 'file'"),
        ("region", {}, r"'region': expected regions .* choose 'curve' or 'file'"),
        ("surface", {"hemisphere": LEFT}, r"'surface': expected sheet .* choose 'curve'"),
        ("surface", {"sheet": SHEET}, r"'surface': expected hemisphere .* choose 'curve'"),
        ("surface", {"sheet": LOST, "hemisphere": LEFT}, "1 voxels that reach no vertex"),
        ("surface", {"sheet": SHEET * np.nan, "hemisphere": LEFT}, "found none of 3"),
        ("surface", {"sheet": SHEET, "hemisphere": ["left", "", ""]}, "found 2 of 3 without"),
        ("surface", {"sheet": SHEET + np.inf, "hemisphere": LEFT}, "finite numbers or NaN"),
        ("surface", {"sheet": SHEET[:2], "hemisphere": LEFT}, r"\(3, 2 or 3\).*\(2, 2\)"),
        ("curve", {"points": POINTS[:2]}, r"\(3, 3\), found float64 of shape \(2, 3\)"),
        ("curve", {"points": SHEET}, r"\(3, 3\), found float64 of shape \(3, 2\)"),
        ("curve", {"points": POINTS * np.nan}, "nan in 3 of 3 rows.*choose 'file'"),
        ("curve", {"points": POINTS, "hemisphere": LEFT[:2]}, r"shape \(3,\), found \(2,\)"),
        ("curve", {"points": POINTS, "hemisphere": ["L", "R", "L"]}, "found 'L', 'R'"),
        ("region", {"regions": [1, 2]}, r"shape \(3,\), found int64 of shape \(2,\)"),
        ("region", {"regions": [1, -1, 2]}, "from -1"),
        ("region", {"regions": [1.0, 0.0, 2.0]}, "found float64"),
        ("region", {"regions": ["V1", "V2", "V3"]}, "as integers"),
        ("region", {"regions": [1, 2, 3], "points": SHEET}, "'region': points: expected"),
    ],
)
def test_what_is_missing_or_wrong_is_told(kind, arguments, message):
    with pytest.raises(InputError, match=message):
        voxel_order(kind, 3, **arguments)


def test_neighbour_distance(rng):
    points = rng.normal(0, 1, (9, 3))
    order = rng.permutation(9)
    steps = [np.linalg.norm(points[a] - points[b]) for a, b in itertools.pairwise(order)]
    assert neighbour_distance(order, points) == pytest.approx(np.mean(steps))
    assert np.isnan(neighbour_distance([0], points[:1]))
    with pytest.raises(InputError, match=r"expected shape \(9,\)"):
        neighbour_distance(order[:5], points)
