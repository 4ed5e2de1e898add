"""Real photographs that installed packages ship: stimuli that need no download."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

# Eleven photographs for the simulated subjects to look at, and how often: scenes twice as often as
# textures. Four more (coffee, flower, rocket, chelsea) are in examples/images and shown to no
# simulated subject.
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
    ("sklearn", "china.jpg", 2),
    ("matplotlib", "grace_hopper.jpg", 2),
)


def load_photographs() -> tuple[list[np.ndarray], np.ndarray]:
    """Return the photographs, each uint8 (height, width, 3), and how often each is shown."""
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


def crop_photographs(
    photographs: list[np.ndarray],
    weight: np.ndarray,
    n_images: int,
    size: int,
    part: str,
    generator: np.random.Generator,
) -> np.ndarray:
    """Cut square views: position, scale, a slight rotation, mirror image and exposure at random.

    Parameters
    ----------
    part : {"unique", "shared"}
        The left seven tenths of each photograph, or the right three tenths. Images that a model
        is tested on so have no pixel in common with those it was trained on. Views of both are
        of one range of sizes, that of the smaller part: zoomed in further, test images would have
        less contrast than training images, which those of a random sample have not.

    Returns
    -------
    uint8 array of shape (n_images, size, size, 3)
    """
    views = np.empty((n_images, size, size, 3), np.uint8)
    for i in range(n_images):
        photograph = photographs[generator.choice(len(photographs), p=weight)]
        height, width = photograph.shape[:2]
        cut = round(0.7 * width)
        left, right = (0, cut) if part == "unique" else (cut, width)
        largest = min(height, width - cut)
        side = largest * np.exp(generator.uniform(np.log(0.35), 0.0))
        angle = generator.uniform(-0.25, 0.25)  # radians
        reach = side / 2 * (abs(np.cos(angle)) + abs(np.sin(angle)))
        if reach > largest / 2:
            side *= largest / 2 / reach
            reach = largest / 2
        x = generator.uniform(left + reach, right - reach)
        y = generator.uniform(reach, height - reach)
        c, s = np.cos(angle) * side / size, np.sin(angle) * side / size
        mirror = generator.choice((-1, 1))
        half = size / 2
        # PIL's affine maps output pixels to input pixels.
        matrix = (c * mirror, -s, x - half * (c * mirror - s), s * mirror, c, 0.0)
        matrix = (*matrix[:5], y - half * (s * mirror + c))
        box = Image.fromarray(photograph)
        if side > 2 * size:  # shrink first: affine sampling alone would alias
            factor = int(side // size)
            box = box.reduce(factor)
            matrix = tuple(m / factor for m in matrix)
        view = box.transform(
            (size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
        )
        exposure = np.exp(generator.normal(0, 0.1, 3) + generator.normal(0, 0.15))
        views[i] = np.clip(np.asarray(view) * exposure, 0, 255)
    return views
