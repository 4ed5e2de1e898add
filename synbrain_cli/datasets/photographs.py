"""Photographs from installed packages, which serve as stimuli without a download."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

# Eleven photographs that are shown to simulated subjects, with their relative frequency: scenes
# twice as often as textures. Four others (coffee, flower, rocket, chelsea) are in examples/images
# and are not shown to any simulated subject.
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
        The left seven tenths of each photograph, or the right three tenths. Test images therefore
        have no pixel in common with training images. The views of both parts have the same range
        of sizes, limited by the smaller part: if test images were smaller cuts than training
        images, they would have less contrast.
    generator : numpy Generator

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
        if side > 2 * size:  # reduced first, as the affine transform alone would alias
            factor = int(side // size)
            box = box.reduce(factor)
            matrix = tuple(m / factor for m in matrix)
        view = box.transform(
            (size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
        )
        exposure = np.exp(generator.normal(0, 0.1, 3) + generator.normal(0, 0.15))
        views[i] = np.clip(np.asarray(view) * exposure, 0, 255)
    return views
