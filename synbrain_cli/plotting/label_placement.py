"""Where the names of regions go on a map, so that none covers another: geometry alone.

A name lies inside its region where it fits there. Else it stands in free space, with a leader line
that ends inside the region; and where no free space is near, a number stands for it, which a legend
explains. Large and well-known regions choose first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_INSIDE = 0.72  # share of a name's box that its region must hold, if no line is to lead to it
_INSIDE_NUMBER = 0.6  # the same of a number, which is narrow
_LONGEST_LEADER = 80.0  # points; with longer ones, regions and names are hard to match
_ACROSS = 1.5  # what a point of a leader over other regions costs, beyond its length
_STEP = 4.0  # points between positions that are tried in free space
_MOST_TRIED = 400  # positions in free space, the cheapest first
_MOST_INSIDE = 600  # positions inside a region
NUMBER = 0.85  # size of a number, as a share of that of a name
_GAP = 1.0  # points between boxes, and between a box and a leader


class Box(NamedTuple):
    """A rectangle on the map: left, right, bottom, top in mm."""

    left: float
    right: float
    bottom: float
    top: float

    @classmethod
    def around(cls, x: float, y: float, width: float, height: float) -> Box:
        """Make the box of this size around a point."""
        return cls(x - width / 2, x + width / 2, y - height / 2, y + height / 2)

    @property
    def centre(self) -> tuple[float, float]:
        """The middle."""
        return (self.left + self.right) / 2, (self.bottom + self.top) / 2


@dataclass(frozen=True, eq=False)
class Region:
    """A region that is to be named.

    Attributes
    ----------
    name, group : str
        Its name, and what tells it from another of the same name: the hemisphere.
    x, y : float arrays of shape (n_columns,) and (n_rows,)
        Positions of the pixels of ``depth``, mm, ascending and evenly spaced.
    depth : float array of shape (n_rows, n_columns)
        Distance from the edge of the region, mm; 0 outside.
    """

    name: str
    group: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    depth: NDArray[np.float64]

    @property
    def area(self) -> float:
        """In mm²."""
        pixel = (self.x[1] - self.x[0]) * (self.y[1] - self.y[0])
        return float((self.depth > 0).sum() * pixel)

    def holds(self, x: float, y: float) -> bool:
        """Return whether a point lies in the region."""
        column, row = (
            round((at - axis[0]) / (axis[1] - axis[0])) for at, axis in ((x, self.x), (y, self.y))
        )
        n_rows, n_columns = self.depth.shape
        return bool(0 <= row < n_rows and 0 <= column < n_columns and self.depth[row, column] > 0)


@dataclass(frozen=True)
class Canvas:
    """What names are placed on.

    Attributes
    ----------
    window : (float, float, float, float)
        Left, right, bottom and top of the map, mm: no name leaves it.
    point : float
        Length of a point (1/72 inch) of the page on the map, mm.
    taken : tuple of Box
        Where no name may lie: other texts.
    leaders : bool
        Whether lines may lead to names beside their regions; on a small map they would hide it.
    """

    window: tuple[float, float, float, float]
    point: float
    taken: tuple[Box, ...] = ()
    leaders: bool = True


@dataclass(frozen=True)
class Label:
    """A text on the map.

    Attributes
    ----------
    text, group : str
        The name of a region, or the number that stands for it; and the region's group.
    box : Box
        What the text covers.
    tip : (float, float) or None
        Where its leader line ends, inside the region; None for a text inside its region.
    """

    text: str
    group: str
    box: Box
    tip: tuple[float, float] | None = None

    @property
    def start(self) -> tuple[float, float]:
        """Where the leader line begins: the point of the box that is nearest to its tip."""
        return _nearest(self.box, self.tip or self.box.centre)


@dataclass(frozen=True)
class Placement:
    """The texts of a map, and what its legend has to say.

    Attributes
    ----------
    labels : tuple of Label
    numbers : dict
        Name → number, of names that a number stands for.
    left_out : tuple of (str, str)
        Name and group of regions without any text: not even a number found room.
    """

    labels: tuple[Label, ...] = ()
    numbers: Mapping[str, int] = field(default_factory=dict)
    left_out: tuple[tuple[str, str], ...] = ()


def place_labels(
    regions: Sequence[Region],
    canvas: Canvas,
    size: float,
    first: Sequence[str] = (),
    known: Mapping[str, int] | None = None,
) -> Placement:
    """Place the name of each region on a map; no two texts overlap, and none leaves the map.

    Parameters
    ----------
    regions : sequence of Region
    canvas : Canvas
    size : float
        Of the letters, points; numbers are smaller by the factor `NUMBER`.
    first : sequence of str
        Names that choose their places first, in this order; the others follow by size.
    known : dict, optional
        Name → number, of another map of the same figure, with which this one shares its legend.

    Returns
    -------
    Placement

    Examples
    --------
    >>> axis = np.arange(100.0)
    >>> depth = np.zeros((100, 100))
    >>> depth[20:80, 20:80] = 1
    >>> canvas = Canvas((0, 100, 0, 100), point=0.5)
    >>> placed = place_labels([Region("V1", "left", axis, axis, depth)], canvas, size=10)
    >>> [(label.text, label.tip) for label in placed.labels]
    [('V1', None)]
    """
    rank = {name: k for k, name in enumerate(first)}
    order = sorted(regions, key=lambda one: (rank.get(one.name, len(rank)), -one.area))
    page = _Page(regions, canvas)
    without = [one for one in order if not page.inside(one, one.name, size, _INSIDE)]
    without = [one for one in without if not page.beside(one, one.name, size)]
    taken = dict(known or {})
    numbers: dict[str, int] = {}
    left_out = []
    for one in without:
        number = taken.get(one.name, len(taken) + 1)
        text, small = str(number), NUMBER * size
        if page.inside(one, text, small, _INSIDE_NUMBER) or page.beside(one, text, small):
            numbers[one.name] = taken[one.name] = number
        else:
            left_out.append((one.name, one.group))
    return Placement(tuple(page.labels), numbers, tuple(left_out))


class _Page:
    """The map while texts are placed on it."""

    def __init__(self, regions: Sequence[Region], canvas: Canvas) -> None:
        self._canvas, self.labels = canvas, list[Label]()
        self._boxes = [*canvas.taken]
        self._busy = _Busy(regions, canvas)

    def inside(self, region: Region, text: str, size: float, least: float) -> bool:
        """Place a text where its region holds most of it, deep inside; False where it cannot."""
        width, height = self._extent(text, size)
        rows, columns = np.nonzero(region.depth > 0)
        step = max(1, len(rows) // _MOST_INSIDE)
        # In the order of depth, so that every step keeps the deepest
        order = np.argsort(-region.depth[rows, columns], kind="stable")[::step]
        x, y = region.x[columns[order]], region.y[rows[order]]
        boxes = np.stack([x - width / 2, x + width / 2, y - height / 2, y + height / 2], axis=1)
        share = _shares(region, boxes)
        free = (share >= least) & self._free(boxes)
        if not free.any():
            return False
        # Fully inside is better than deep
        best = np.flatnonzero(free)[np.argmax(np.minimum(share[free], 0.97))]
        self._add(Label(text, region.group, Box(*map(float, boxes[best]))))
        return True

    def beside(self, region: Region, text: str, size: float) -> bool:
        """Place a text in free space, with a leader line; False where there is none near."""
        tip = self._tip(region) if self._canvas.leaders else None
        if tip is None:
            return False
        point, (width, height) = self._canvas.point, self._extent(text, size)
        left, right, bottom, top = self._canvas.window
        reach = _LONGEST_LEADER * point
        x, y = (
            np.arange(max(low, at - reach) + extent / 2, min(high, at + reach) - extent / 2, step)
            for low, high, at, extent, step in (
                (left, right, tip[0], width, _STEP * point),
                (bottom, top, tip[1], height, _STEP * point),
            )
        )
        x, y = (axis.ravel() for axis in np.meshgrid(x, y))
        boxes = np.stack([x - width / 2, x + width / 2, y - height / 2, y + height / 2], axis=1)
        start = np.stack(
            [np.clip(tip[0], boxes[:, 0], boxes[:, 1]), np.clip(tip[1], boxes[:, 2], boxes[:, 3])],
            axis=1,
        )
        length = np.hypot(*(start - tip).T)
        keep = (length <= reach) & self._free(boxes) & (self._busy.share(boxes) == 0)
        boxes, start, length = boxes[keep], start[keep], length[keep]
        cost = length + _ACROSS * length * self._busy.along(start, tip)
        for k in np.argsort(cost, kind="stable")[:_MOST_TRIED]:
            label = Label(text, region.group, Box(*map(float, boxes[k])), tip)
            if self._clear(label):
                self._add(label)
                return True
        return False

    def _add(self, label: Label) -> None:
        self.labels.append(label)
        self._boxes.append(label.box)

    def _extent(self, text: str, size: float) -> tuple[float, float]:
        """Width and height that a text takes, mm."""
        from synbrain_cli.plotting.figure import text_width

        margin = 0.3 * size  # of its halo
        return (
            (72 * text_width(text, size, bold=True) + margin) * self._canvas.point,
            1.25 * size * self._canvas.point,
        )

    def _free(self, boxes: NDArray) -> NDArray[np.bool_]:
        """Which boxes are on the map, and touch no text and no leader line."""
        left, right, bottom, top = self._canvas.window
        gap = _GAP * self._canvas.point
        free = (boxes[:, [0, 2]] >= [left, bottom]).all(1)
        free &= (boxes[:, [1, 3]] <= [right, top]).all(1)
        if self._boxes:
            others = np.array(self._boxes)[:, None].transpose(2, 0, 1)  # (4, n_others, 1)
            free &= (
                (boxes[:, 1] + gap <= others[0])
                | (boxes[:, 0] - gap >= others[1])
                | (boxes[:, 3] + gap <= others[2])
                | (boxes[:, 2] - gap >= others[3])
            ).all(0)
        for label in self.labels:
            if label.tip is not None:
                line = np.array([*label.start, *label.tip])
                free[free] = ~_crossed(line, boxes[free], gap)
        return free

    def _clear(self, label: Label) -> bool:
        """Whether a leader line crosses no text and no other leader line."""
        assert label.tip is not None
        line = np.array([*label.start, *label.tip])
        gap = _GAP * self._canvas.point
        if len(self._boxes) and _crossed(line, np.array(self._boxes), gap).any():
            return False
        return not any(
            _cross(line, np.array([*one.start, *one.tip]))
            for one in self.labels
            if one.tip is not None
        )

    def _tip(self, region: Region) -> tuple[float, float] | None:
        """The innermost point of a region that no text covers."""
        depth = region.depth.copy()
        gap = 2 * _GAP * self._canvas.point
        for box in self._boxes:
            across = (region.x >= box.left - gap) & (region.x <= box.right + gap)
            up = (region.y >= box.bottom - gap) & (region.y <= box.top + gap)
            depth[np.ix_(up, across)] = 0
        if not depth.any():
            return None
        row, column = np.unravel_index(depth.argmax(), depth.shape)
        return float(region.x[column]), float(region.y[row])


class _Busy:
    """Where regions are: no name stands there but their own."""

    def __init__(self, regions: Sequence[Region], canvas: Canvas) -> None:
        left, right, bottom, top = canvas.window
        self._origin, self._step = np.array([left, bottom]), 2 * canvas.point
        n_columns, n_rows = np.ceil(np.array([right - left, top - bottom]) / self._step).astype(int)
        self._inside = np.zeros((n_rows + 1, n_columns + 1), bool)
        for one in regions:
            rows, columns = np.nonzero(one.depth > 0)
            self._inside[self._cell(one.y[rows], 1), self._cell(one.x[columns], 0)] = True
        self._sum = _integral(self._inside)

    def share(self, boxes: NDArray) -> NDArray[np.float64]:
        """Number of cells in each box that regions hold."""
        columns, rows = self._cell(boxes[:, :2], 0), self._cell(boxes[:, 2:], 1)
        return _sums(self._sum, rows[:, 0], rows[:, 1] + 1, columns[:, 0], columns[:, 1] + 1)

    def along(self, starts: NDArray, tip: tuple[float, float]) -> NDArray[np.float64]:
        """Share of the way from each start to the tip that leads over regions."""
        way = np.linspace(0, 1, 24)[:, None, None]
        points = starts + way * (np.array(tip) - starts)  # (24, n, 2)
        return self._inside[self._cell(points[..., 1], 1), self._cell(points[..., 0], 0)].mean(0)

    def _cell(self, position: NDArray, axis: int) -> NDArray[np.int64]:
        cell = ((position - self._origin[axis]) / self._step).astype(int)
        return np.clip(cell, 0, self._inside.shape[1 - axis] - 1)


def _nearest(box: Box, to: tuple[float, float]) -> tuple[float, float]:
    return (
        min(max(to[0], box.left), box.right),
        min(max(to[1], box.bottom), box.top),
    )


def _shares(region: Region, boxes: NDArray) -> NDArray[np.float64]:
    """Share of each box that the region holds."""
    total = _integral(region.depth > 0)
    n_rows, n_columns = region.depth.shape

    def edge(position: NDArray, axis: NDArray, n: int) -> NDArray[np.int64]:
        return np.clip(np.rint((position - axis[0]) / (axis[1] - axis[0])).astype(int), 0, n)

    columns = edge(boxes[:, :2], region.x, n_columns)
    rows = edge(boxes[:, 2:], region.y, n_rows)
    held = _sums(total, rows[:, 0], rows[:, 1], columns[:, 0], columns[:, 1])
    pixel = (region.x[1] - region.x[0]) * (region.y[1] - region.y[0])
    return held * pixel / ((boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2]))


def _integral(inside: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.pad(inside.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))


def _sums(
    total: NDArray, low: NDArray, high: NDArray, left: NDArray, right: NDArray
) -> NDArray[np.float64]:
    """Sum over the rows low to high and the columns left to right, exclusive, of each box."""
    found = total[high, right] - total[low, right] - total[high, left] + total[low, left]
    return found.astype(np.float64)


def _crossed(line: NDArray, boxes: NDArray, gap: float) -> NDArray[np.bool_]:
    """Which boxes a line (x, y, x, y) crosses or nearly touches (Liang and Barsky 1984)."""
    (x0, y0, x1, y1) = line
    low, high = np.zeros(len(boxes)), np.ones(len(boxes))
    for start, way, lower, upper in (
        (x0, x1 - x0, boxes[:, 0] - gap, boxes[:, 1] + gap),
        (y0, y1 - y0, boxes[:, 2] - gap, boxes[:, 3] + gap),
    ):
        if abs(way) < 1e-9:
            outside = (start < lower) | (start > upper)
            low = np.where(outside, 2.0, low)
            continue
        one, other = (lower - start) / way, (upper - start) / way
        low = np.maximum(low, np.minimum(one, other))
        high = np.minimum(high, np.maximum(one, other))
    return low <= high


def _cross(one: NDArray, other: NDArray) -> bool:
    """Whether two lines, each (x, y, x, y), cross."""

    def side(line: NDArray, x: float, y: float) -> float:
        return (line[2] - line[0]) * (y - line[1]) - (line[3] - line[1]) * (x - line[0])

    return bool(
        side(one, *other[:2]) * side(one, *other[2:]) < 0
        and side(other, *one[:2]) * side(other, *one[2:]) < 0
    )
