"""Photographs from installed packages, which serve as stimuli without a download.

The photographs, their authors, and their licences as their packages state them ("of scikit-image":
the package states none of the photograph's own):

==================================  =======================================  =======================
photograph                          author                                   licence
==================================  =======================================  =======================
skimage ``astronaut.png``           NASA                                     public domain
skimage ``camera.png``              Lav Varshney                             CC0
skimage ``motorcycle_left.png``     Scharstein et al. [1]_                   of scikit-image (BSD-3)
skimage ``hubble_deep_field.jpg``   NASA                                     public domain
skimage ``coins.png``               Brooklyn Museum                          no known restrictions
skimage ``moon.png``                none stated                              of scikit-image (BSD-3)
skimage ``grass.png``               linolafett                               CC0
skimage ``gravel.png``              CC0Textures                              CC0
skimage ``brick.png``               CC0Textures                              CC0
skimage ``ihc.png``                 CMMI, Brussels                           no known restrictions
skimage ``retina.jpg``              Mikael Häggström                         CC0
skimage ``text.png``                none stated (Wikipedia)                  public domain
skimage ``page.png``                none stated                              of scikit-image (BSD-3)
sklearn ``china.jpg``               danielbuechele                           CC BY 2.0
matplotlib ``grace_hopper.jpg``     US Navy                                  public domain
==================================  =======================================  =======================

References
----------
.. [1] D. Scharstein, H. Hirschmüller, Y. Kitajima, G. Krathwohl, N. Nesic, X. Wang, P. Westling
   (2014), High-resolution stereo datasets with subpixel-accurate ground truth, German Conference on
   Pattern Recognition.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

# Photographs that are shown to simulated subjects, with their relative frequency: scenes twice as
# often as textures. Four others (coffee, flower, rocket, chelsea) are in examples/images and are
# not shown to any simulated subject.
_SHOWN = (
    ("skimage", "astronaut.png", 2),
    ("skimage", "camera.png", 2),
    ("skimage", "motorcycle_left.png", 2),
    ("skimage", "hubble_deep_field.jpg", 1),
    ("skimage", "coins.png", 1),
    ("skimage", "moon.png", 1),
    ("skimage", "grass.png", 1),
    ("skimage", "gravel.png", 1),
    ("skimage", "brick.png", 1),
    ("skimage", "ihc.png", 1),
    ("skimage", "retina.jpg", 1),
    ("skimage", "text.png", 1),
    ("skimage", "page.png", 1),
    ("sklearn", "china.jpg", 2),
    ("matplotlib", "grace_hopper.jpg", 2),
)
TILES = 9  # per photograph, about; one in three is for tests
SMALLEST = 0.35  # side of a view, as a share of the largest that fits in its tile
# Views of empty sky or background are drawn again: SD of grey levels (0 to 255), number of tries.
LEAST_CONTRAST, TRIES = 8.0, 20


@dataclass(frozen=True)
class Tile:
    """A rectangle of a photograph, in pixels: rows top … bottom − 1, columns left … right − 1."""

    top: int
    bottom: int
    left: int
    right: int


@dataclass(frozen=True)
class View:
    """Where a square view lies, and how it is turned.

    Attributes
    ----------
    photograph : int
    tile : Tile
        The view has no pixel of the photograph outside this tile.
    x, y, side : float
        Centre and side in pixels of the photograph (x to the right, y down).
    angle : float
        Rotation in radians.
    mirror : int
        −1 for a mirror image, else 1.
    """

    photograph: int
    tile: Tile
    x: float
    y: float
    side: float
    angle: float
    mirror: int

    @property
    def box(self) -> tuple[slice, slice]:
        """Rows and columns of the photograph that the view may show: its bounding box."""
        reach = self.side / 2 * (abs(np.cos(self.angle)) + abs(np.sin(self.angle)))
        tile = self.tile
        return (
            slice(max(tile.top, int(self.y - reach)), min(tile.bottom, int(self.y + reach) + 1)),
            slice(max(tile.left, int(self.x - reach)), min(tile.right, int(self.x + reach) + 1)),
        )


def load_photographs() -> tuple[list[np.ndarray], np.ndarray]:
    """Load the photographs.

    Returns
    -------
    list of uint8 arrays of shape (height, width, 3)
    float array of shape (n_photographs,)
        Probability with which each is shown.
    """
    import matplotlib
    import skimage
    import sklearn

    folders = {
        "skimage": Path(skimage.__file__).parent / "data",
        "sklearn": Path(sklearn.__file__).parent / "datasets" / "images",
        "matplotlib": Path(matplotlib.get_data_path()) / "sample_data",
    }
    photographs = [
        np.asarray(Image.open(folders[package] / name).convert("RGB"))
        for package, name, _ in _SHOWN
    ]
    weight = np.array([times for _, _, times in _SHOWN])
    return photographs, weight / weight.sum()


def deal_tiles(photograph: int, height: int, width: int) -> dict[str, list[Tile]]:
    """Divide a photograph into tiles, and deal them to training and tests (ours).

    There are about `TILES` tiles of about equal sides. Those for tests are every third one of each
    row and of each column, so that they lie in the same parts of photographs as the others. Which
    third it is depends on the photograph.

    Parameters
    ----------
    photograph : int
        Position in the list of photographs.
    height, width : int
        In pixels.

    Returns
    -------
    dict
        Tiles by part, "unique" (training) and "shared" (tests). No two tiles overlap.
    """
    side = np.sqrt(height * width / TILES)
    rows, columns = max(2, round(height / side)), max(2, round(width / side))
    y, x = (
        np.rint(np.linspace(0, length, n + 1)).astype(int).tolist()
        for length, n in ((height, rows), (width, columns))
    )
    step, first = (1, 2)[photograph % 2], photograph // 2 % 3
    tiles: dict[str, list[Tile]] = {"unique": [], "shared": []}
    for row in range(rows):
        for column in range(columns):
            part = "shared" if (step * row + column) % 3 == first else "unique"
            tiles[part].append(Tile(y[row], y[row + 1], x[column], x[column + 1]))
    return tiles


def place_views(
    photographs: list[np.ndarray],
    weight: np.ndarray,
    n_images: int,
    part: str,
    generator: np.random.Generator,
) -> list[View]:
    """Draw positions, scales, slight rotations and reflections of views (ours).

    Photographs and scales have the same distribution in both parts: if test images were smaller
    cuts than training images, they would have less contrast. Where a photograph has nearly no
    contrast, another place in it is drawn.

    Parameters
    ----------
    photographs, weight, n_images, part, generator
        As in `crop_photographs`.
    """
    tiles = [deal_tiles(i, *one.shape[:2])[part] for i, one in enumerate(photographs)]
    grey = [one.mean(2, dtype=np.float32) for one in photographs]
    views = []
    for _ in range(n_images):
        photograph = int(generator.choice(len(photographs), p=weight))
        for _ in range(TRIES):
            tile = tiles[photograph][generator.integers(len(tiles[photograph]))]
            view = _draw_view(photograph, tile, generator)
            if grey[photograph][view.box].std() >= LEAST_CONTRAST:
                break
        views.append(view)
    return views


def _draw_view(photograph: int, tile: Tile, generator: np.random.Generator) -> View:
    largest = min(tile.bottom - tile.top, tile.right - tile.left)
    side = largest * np.exp(generator.uniform(np.log(SMALLEST), 0.0))
    angle = generator.uniform(-0.25, 0.25)
    turned = abs(np.cos(angle)) + abs(np.sin(angle))  # bounding box of a unit square
    side = min(side, largest / turned)
    reach = min(side * turned, largest) / 2
    x = generator.uniform(tile.left + reach, tile.right - reach)
    y = generator.uniform(tile.top + reach, tile.bottom - reach)
    mirror = int(generator.choice((-1, 1)))
    return View(photograph, tile, float(x), float(y), float(side), float(angle), mirror)


def cut_views(
    photographs: list[np.ndarray], views: list[View], size: int, generator: np.random.Generator
) -> np.ndarray:
    """Cut views from photographs, each from the pixels of its tile alone; exposure is random.

    Parameters
    ----------
    photographs : list of uint8 arrays of shape (height, width, 3)
    views : list of View
    size : int
        Side of a view in pixels.
    generator : numpy Generator

    Returns
    -------
    uint8 array of shape (n_views, size, size, 3)
    """
    pixels = np.empty((len(views), size, size, 3), np.uint8)
    half = size / 2
    for i, view in enumerate(views):
        tile = view.tile
        x, y = view.x - tile.left, view.y - tile.top
        c, s = (f(view.angle) * view.side / size for f in (np.cos, np.sin))
        cm, sm = c * view.mirror, s * view.mirror
        # PIL's affine maps output pixels to input pixels.
        matrix = (cm, -s, x - half * (cm - s), sm, c, y - half * (sm + c))
        box = Image.fromarray(
            photographs[view.photograph][tile.top : tile.bottom, tile.left : tile.right]
        )
        if view.side > 2 * size:  # reduced first, as the affine transform alone would alias
            factor = int(view.side // size)
            box = box.reduce(factor)
            matrix = tuple(m / factor for m in matrix)
        cut = box.transform((size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
        exposure = np.exp(generator.normal(0, 0.1, 3) + generator.normal(0, 0.15))
        pixels[i] = np.clip(np.asarray(cut) * exposure, 0, 255)
    return pixels


def crop_photographs(
    photographs: list[np.ndarray],
    weight: np.ndarray,
    n_images: int,
    size: int,
    part: str,
    generator: np.random.Generator,
) -> np.ndarray:
    """Cut random square views from photographs.

    Position, scale, rotation (slight), reflection and exposure are random (ours).

    Parameters
    ----------
    photographs : list of uint8 arrays of shape (height, width, 3)
    weight : float array of shape (n_photographs,)
        Probability of each photograph.
    n_images : int
        Number of views.
    size : int
        Side of a view in pixels.
    part : {"unique", "shared"}
        The tiles for training or those for tests (`deal_tiles`). Test images therefore have no
        pixel in common with training images.
    generator : numpy Generator

    Returns
    -------
    uint8 array of shape (n_images, size, size, 3)
    """
    views = place_views(photographs, weight, n_images, part, generator)
    return cut_views(photographs, views, size, generator)
