"""Artificial images for the simulated subjects: noise, gratings, words, altered scenes (ours).

The kinds and numbers are those of NSD-synthetic as its manual describes them; the images are drawn
anew. As there, 220 images are shown to all subjects and 64 are coloured for each; images are wider
than high, and stored for a display with a linear response.

=========================  ======  =================================================================
kind                       images
=========================  ======  =================================================================
noise                      12      white, white in large blocks, pink
scenes                     16      as they are, upside down, in black and white, as line drawings
contrast of scenes         20      4 scenes × 100, 50, 10, 6 and 4 %
phase coherence of scenes  16      4 scenes × 75, 50, 25 and 0 % of the phases
words                      40      8 words at 5 places
gratings                   112     pinwheels, annuli, spirals; 6 spatial frequencies, 4 phases
grey blobs                 4       the coloured noise, without its colour
coloured blobs             64      4 patterns × 16 hues, of each subject
=========================  ======  =================================================================
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter, zoom

from synbrain_cli.datasets.nsd_synthetic import N_COMMON, N_IMAGES
from synbrain_cli.datasets.photographs import cut_views, load_photographs, place_views

ASPECT = 1360 / 714  # width to height of NSD-synthetic's images
REPEATS = {2: 236, 4: 32, 8: 8, 10: 8}  # repeats → images of NSD-synthetic: 744 trials
WORDS = ("vote", "tent", "lamp", "fish", "planets", "kitchen", "harvest", "blanket")
N_HUES, N_SCENES = 16, 4
BACKGROUND = 0.5  # of luminance on the display


@dataclass(frozen=True)
class ArtificialImages:
    """Pixels as they are stored, for a display with a linear response.

    Attributes
    ----------
    common : uint8 array of shape (220, height, width, 3)
    coloured : list of uint8 arrays of shape (64, height, width, 3)
        Of each subject.
    """

    common: np.ndarray
    coloured: list[np.ndarray]


def order_trials(generator: np.random.Generator) -> np.ndarray:
    """Return the image of each trial, int (744,), with NSD-synthetic's numbers of repeats."""
    times = np.repeat(list(REPEATS), list(REPEATS.values()))
    shown = np.repeat(generator.permutation(N_IMAGES), times)
    return generator.permutation(shown)


def draw_artificial(size: int, n_subjects: int, generator: np.random.Generator) -> ArtificialImages:
    """Draw all images.

    Parameters
    ----------
    size : int
        Height in pixels, the side of the photographs.
    n_subjects : int
    generator : numpy Generator
    """
    width = 2 * round(size * ASPECT / 2)
    common = [_stored(image) for image in _common(size, width, generator)]
    blobs = [_blobs(size, width, generator) for _ in range(N_SCENES)]
    common += [_stored(_grey(pattern)) for pattern in blobs]
    coloured = []
    for _ in range(n_subjects):
        turn = generator.uniform()  # hues were matched to each subject's perception
        hues = [colorsys.hsv_to_rgb((turn + k / N_HUES) % 1, 0.8, 1.0) for k in range(N_HUES)]
        own = [_stored(_tinted(pattern, hue)) for pattern in blobs for hue in hues]
        coloured.append(np.stack(own))
    images = ArtificialImages(np.stack(common), coloured)
    assert len(images.common) == N_COMMON
    return images


def _stored(display: np.ndarray) -> np.ndarray:
    """Pixels on an ordinary display, in [0, 1], → uint8 for one with a linear response."""
    return np.rint(np.clip(display, 0, 1) ** 2 * 255).astype(np.uint8)


def _grey(luminance: np.ndarray) -> np.ndarray:
    """(height, width) → (height, width, 3)."""
    return np.repeat(luminance[..., None], 3, axis=2)


def _common(size: int, width: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield the images of all subjects but the blobs: float (height, width, 3) in [0, 1]."""
    yield from _noise(size, width, generator)
    yield from _altered_scenes(size, width, generator)
    for word in WORDS:
        for place in (-0.3, -0.15, 0.0, 0.15, 0.3):
            yield _grey(_written(word, place, size, width))
    yield from _gratings(size, width)


def _noise(size: int, width: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield white noise, white noise in large blocks, and pink noise."""
    for _ in range(N_SCENES):
        yield _grey(generator.uniform(0, 1, (size, width)))
    for _ in range(N_SCENES):
        cells = generator.uniform(0, 1, (8, -(-width * 8 // size)))
        blocks = np.kron(cells, np.ones((size // 8, size // 8)))
        yield _grey(blocks[:, :width])
    for _ in range(N_SCENES):
        yield _grey(_with_spectrum(generator.normal(0, 1, (size, width)), -1.0))


def _altered_scenes(size: int, width: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield scenes, and what becomes of them."""
    scenes = _scenes(size, generator)
    for alter in (_same, _upside_down, _mooney, _line_drawing):
        for scene in scenes:
            yield _centred(alter(scene), width)
    for scene in scenes:
        for contrast in (1.0, 0.5, 0.1, 0.06, 0.04):
            yield _centred(BACKGROUND + contrast * (scene - scene.mean()), width)
    for scene in scenes:
        for coherence in (0.75, 0.5, 0.25, 0.0):
            yield _centred(_scrambled(scene, coherence, generator), width)


def _scenes(size: int, generator: np.random.Generator) -> list[np.ndarray]:
    """Views of photographs, of the parts that are kept for tests: float (size, size, 3)."""
    photographs, weight = load_photographs()
    views = place_views(photographs, weight, N_SCENES, "shared", generator)
    return [scene / 255 for scene in cut_views(photographs, views, size, generator)]


def _centred(square: np.ndarray, width: int) -> np.ndarray:
    """Put a square image in the middle of the grey background."""
    image = np.full((len(square), width, 3), BACKGROUND)
    left = (width - len(square)) // 2
    image[:, left : left + len(square)] = square
    return image


def _same(scene: np.ndarray) -> np.ndarray:
    return scene


def _upside_down(scene: np.ndarray) -> np.ndarray:
    return scene[::-1]


def _mooney(scene: np.ndarray) -> np.ndarray:
    """Black and white at the median of the blurred luminance."""
    blurred = gaussian_filter(scene.mean(2), len(scene) / 64)
    return _grey((blurred > np.median(blurred)).astype(float))


def _line_drawing(scene: np.ndarray) -> np.ndarray:
    """Dark lines where the luminance changes most, on white."""
    blurred = gaussian_filter(scene.mean(2), len(scene) / 100)
    slope = np.hypot(*np.gradient(blurred))
    return _grey((slope < np.quantile(slope, 0.9)).astype(float))


def _scrambled(scene: np.ndarray, coherence: float, generator: np.random.Generator) -> np.ndarray:
    """Mix the phases of a grey scene with those of noise, keeping its spectrum."""
    luminance = scene.mean(2)
    spectrum = np.fft.fft2(luminance)
    noise = np.angle(np.fft.fft2(generator.normal(0, 1, luminance.shape)))
    # On the circle: a weighted mean of directions (Ales et al. 2012 discuss the alternatives).
    mixed = coherence * np.exp(1j * np.angle(spectrum)) + (1 - coherence) * np.exp(1j * noise)
    phase = np.exp(1j * np.angle(mixed))
    phase[0, 0] = 1
    return _grey(np.real(np.fft.ifft2(np.abs(spectrum) * phase)))


def _with_spectrum(noise: np.ndarray, exponent: float) -> np.ndarray:
    """Noise with amplitudes that fall with frequency, of contrast 0.2 around the background."""
    rows, columns = (np.fft.fftfreq(n) for n in noise.shape)
    frequency = np.hypot(rows[:, None], columns[None])
    frequency[0, 0] = 1
    shaped = np.real(np.fft.ifft2(np.fft.fft2(noise) * frequency**exponent))
    return BACKGROUND + 0.2 * (shaped - shaped.mean()) / shaped.std()


def _written(word: str, place: float, size: int, width: int) -> np.ndarray:
    """Black letters on the background; ``place`` is in half-widths of the central square."""
    image = Image.new("L", (width, size), round(255 * BACKGROUND))
    font = ImageFont.load_default(size=size / 6)
    at = (width / 2 + place * size / 2, size / 2)
    ImageDraw.Draw(image).text(at, word, fill=0, font=font, anchor="mm")
    return np.asarray(image) / 255


def _gratings(size: int, width: int) -> Iterator[np.ndarray]:
    """Yield gratings regular in log r and angle, whose frequency falls with eccentricity."""
    y, x = np.mgrid[:size, :width]
    x, y = (x - (width - 1) / 2) / (size / 2), (y - (size - 1) / 2) / (size / 2)
    radius, angle = np.log(np.hypot(x, y) + 1e-3), np.arctan2(y, x)
    window = np.hypot(x, y) > 0.05  # without the centre, where they cannot be drawn
    cycles = np.rint(np.geomspace(4, 32, 6)).astype(int)
    quarter = np.pi / 2 * np.arange(4)
    regular = [(0, 1), (1, 1), (1, 0), (-1, 1)]  # pinwheel, spiral, annulus, spiral
    between = [(0.5, 1), (1, 0.5), (-1, 0.5), (-0.5, 1)]
    which = [(pair, n) for pair in regular for n in cycles.tolist()]
    which += [(pair, int(cycles[2])) for pair in between]
    for (of_radius, of_angle), n in which:
        for phase in quarter:
            wave = np.cos(n * of_radius * radius + round(n * of_angle) * angle + phase)
            yield _grey(BACKGROUND + 0.4 * wave * window)


def _blobs(size: int, width: int, generator: np.random.Generator) -> np.ndarray:
    """Smooth noise in [0, 1]."""
    cells = generator.normal(0, 1, (10, -(-width * 10 // size) + 1))
    smooth = zoom(cells, (size / 10, size / 10 + 0.1), order=3)[:size, :width]
    return np.clip(BACKGROUND + 0.25 * smooth, 0, 1)


def _tinted(pattern: np.ndarray, hue: tuple[float, float, float]) -> np.ndarray:
    """A pattern in one hue."""
    return pattern[..., None] * np.array(hue)
