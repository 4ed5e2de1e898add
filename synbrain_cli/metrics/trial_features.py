r"""What classifiers see of a trial, or of a pair of repeats, and of the image that it shows.

A trial y of image i enters as its standardised residual, :math:`z = (y - m_i) / s_i`, with the mean
m and the standard deviation s of a single trial that the model expects. If the model is right, z
has the same distribution for recorded and drawn trials. Thousands of voxels are reduced to

- *projections*: on the leading principal components of what repeats of an image share (signal), of
  how they differ (noise) and of the expected responses of all images (expected), on random
  directions, and along the expected response to the image itself (a mean that is too large or too
  small leaves residuals along it);
- *means of regions*;
- *energies*: logarithms of the mean of z² over all voxels and over each region; the mean of z³; the
  share of voxels beyond 2 SD;
- squares of projections and of means, in which a linear classifier sees variances and correlations;
- of the image: what is expected of it, reduced to principal components and its size, and how unsure
  the mean is; and the products of energy, mean and projection along the response with size and
  uncertainty, in which a linear classifier sees a variance that depends on the image as it should
  not.

Of a pair of repeats a and b the same is taken of the sum :math:`(z_a + z_b)/\sqrt 2` and, as it has
no sign, of squares of the difference :math:`(z_a - z_b)/\sqrt 2`; and the mean products of
z_a and z_b over voxels and regions: the signal that repeats share.

All of it is ours. Components are fitted to recorded and drawn trials together, without labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

N_COMPONENTS = 8  # of signal, of noise, and of expected responses
N_RANDOM = 4
N_IMAGE = 4  # components of the expected responses that describe an image
BEYOND = 2.0  # SD
Floats = NDArray[np.float64]
Responses = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Probes:
    """Directions in voxel space on which residuals are projected, and regions.

    Attributes
    ----------
    directions : float32 array of shape (n_voxels, n_directions)
        Of length 1.
    names : tuple of n_directions str
    averaging : float32 array of shape (n_voxels, n_regions)
        Voxels → region means.
    regions : tuple of n_regions str
    """

    directions: Responses
    names: tuple[str, ...]
    averaging: Responses
    regions: tuple[str, ...]

    @classmethod
    def fit(
        cls,
        residuals: Responses,
        group: NDArray[np.integer],
        expected: Responses,
        averaging: Responses,
        regions: Sequence[str],
        generator: np.random.Generator,
    ) -> Probes:
        """Find the components of residuals, and choose random directions.

        Parameters
        ----------
        residuals : float32 array of shape (n_trials, n_voxels)
            Standardised, of recorded and drawn trials.
        group : int array of shape (n_trials,)
            Equal for repeats of an image that are recorded, and for those that are drawn.
        expected : float32 array of shape (n_voxels, n_components)
            Components of the expected responses (`ImageFeatures`).
        averaging : float32 array of shape (n_voxels, n_regions)
            Voxels → region means.
        regions : sequence of n_regions str
        generator : numpy.random.Generator
        """
        n_voxels = residuals.shape[1]
        _, inverse, counts = np.unique(group, return_inverse=True, return_counts=True)
        totals = np.zeros((len(counts), n_voxels))
        np.add.at(totals, inverse, residuals)
        means = totals / counts[:, None]
        signal = leading(means * np.sqrt(counts)[:, None], N_COMPONENTS)
        noise = leading((residuals - means[inverse])[counts[inverse] > 1], N_COMPONENTS)
        random = generator.standard_normal((n_voxels, N_RANDOM))
        random /= np.linalg.norm(random, axis=0)
        kinds: dict[str, NDArray[np.floating]] = {
            "signal": signal,
            "noise": noise,
            "expected": expected,
            "random": random,
        }
        names = [f"{kind} {k + 1}" for kind, found in kinds.items() for k in range(found.shape[1])]
        directions = np.concatenate(list(kinds.values()), 1).astype(np.float32)
        return cls(directions, tuple(names), averaging, tuple(regions))


def leading(rows: NDArray[np.floating], n_components: int) -> Floats:
    """Principal directions of rows, from their inner products: (n_voxels, at most n_components).

    Parameters
    ----------
    rows : array of shape (n_rows, n_voxels)
        Not centred: their mean is expected to be 0.
    n_components : int
    """
    n_components = min(n_components, *rows.shape)
    if not n_components:
        return np.zeros((rows.shape[1], 0))
    x = rows.astype(np.float64)
    values, vectors = np.linalg.eigh(x @ x.T if len(x) <= x.shape[1] else x.T @ x)
    kept = values > 1e-9 * max(values[-1], 1e-300)
    kept[:-n_components] = False
    found = vectors[:, kept][:, ::-1]
    found = x.T @ found if len(x) <= x.shape[1] else found
    return np.asarray(found / np.linalg.norm(found, axis=0))


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """What is expected of images, and how surely.

    Attributes
    ----------
    directions : float32 array of shape (n_images, n_voxels)
        Expected response minus the mean over images, in SDs of a trial, of length 1.
    components : float32 array of shape (n_voxels, n_components)
        Principal directions of these over images, before they had length 1.
    values : float64 array of shape (n_images, n_values)
    names : tuple of n_values str
        The last two are "size" and "uncertainty".
    """

    directions: Responses
    components: Responses
    values: Floats
    names: tuple[str, ...]

    @classmethod
    def of(cls, expected: Responses, uncertainty: Floats | None) -> ImageFeatures:
        """Reduce expected responses.

        Parameters
        ----------
        expected : float32 array of shape (n_images, n_voxels)
            In SDs of a trial.
        uncertainty : float64 array of shape (n_images,), optional
            How unsure the mean response to each image is, relative to others; None where it is
            not known.
        """
        x = expected - expected.mean(0)
        components = leading(x, N_COMPONENTS)
        length = np.linalg.norm(x, axis=1)
        unsure = np.zeros(len(x)) if uncertainty is None else np.log(np.maximum(uncertainty, 1e-6))
        size = np.log(np.maximum(length, 1e-6))
        own = x @ components[:, :N_IMAGE]
        values = np.column_stack([own, _standard(size), _standard(unsure)])
        names = [f"image {k + 1}" for k in range(own.shape[1])]
        directions = x / np.maximum(length, 1e-12)[:, None]
        return cls(
            directions.astype(np.float32),
            components.astype(np.float32),
            values.astype(np.float64),
            (*names, "size", "uncertainty"),
        )


def _standard(values: Floats) -> Floats:
    """Values minus their mean, over their SD: products with them are no copies of features."""
    sd = values.std()
    return (values - values.mean()) / (sd if sd > 1e-9 else 1.0)


Columns = dict[str, Floats]  # name → (n_rows,)


def trial_features(z: Responses, image: int, probes: Probes, images: ImageFeatures) -> Columns:
    """Features of single trials of one image.

    Parameters
    ----------
    z : float32 array of shape (n_trials, n_voxels)
        Standardised residuals.
    image : int
        Number of the image.
    probes : Probes
    images : ImageFeatures

    Returns
    -------
    dict of float64 arrays of shape (n_trials,)
        By name; the same names in the same order for every image.
    """
    found = _summaries(z, image, probes, images)
    for name in tuple(found):
        if not name.startswith(("energy", "cube", "beyond")):
            found[f"{name}²"] = found[name] ** 2
    return found | _products(found, ("energy", "mean", "along"), len(z), image, images)


def pair_features(
    a: Responses, b: Responses, image: int, probes: Probes, images: ImageFeatures
) -> Columns:
    """Features of pairs of repeats of one image; the order within a pair does not matter.

    Parameters
    ----------
    a, b : float32 arrays of shape (n_pairs, n_voxels)
        Standardised residuals of the one and of the other trial.
    image : int
    probes : Probes
    images : ImageFeatures

    Returns
    -------
    dict of float64 arrays of shape (n_pairs,)
    """
    root = np.float32(np.sqrt(0.5))
    added = _summaries(root * (a + b), image, probes, images)
    taken = _summaries(root * (a - b), image, probes, images)
    found: Columns = {}
    for name, value in added.items():
        found[f"sum: {name}"] = value
        has_no_sign = name.startswith(("energy", "beyond"))
        if not has_no_sign and name != "cube":
            found[f"sum: {name}²"] = value**2
            found[f"difference: {name}²"] = taken[name] ** 2
        elif has_no_sign:
            found[f"difference: {name}"] = taken[name]
    product = a * b
    found["product"] = product.mean(1, dtype=np.float64)
    by_region = (product @ probes.averaging).astype(np.float64)
    found |= {f"product {r}": by_region[:, k] for k, r in enumerate(probes.regions)}
    crossed = ("product", "sum: energy", "difference: energy")
    return found | _products(found, crossed, len(a), image, images)


def _summaries(z: Responses, image: int, probes: Probes, images: ImageFeatures) -> Columns:
    """Projections, means and energies of rows (n_rows, n_voxels) of one image."""
    directions = (z @ probes.directions).astype(np.float64)
    means = (z @ probes.averaging).astype(np.float64)
    squares = z * z
    energies = np.log(np.maximum(squares @ probes.averaging, 1e-6)).astype(np.float64)
    found = {name: directions[:, k] for k, name in enumerate(probes.names)}
    found["along"] = (z @ images.directions[image]).astype(np.float64)
    found["mean"] = z.mean(1, dtype=np.float64)
    found |= {f"mean {name}": means[:, k] for k, name in enumerate(probes.regions)}
    found["energy"] = np.log(np.maximum(squares.mean(1, dtype=np.float64), 1e-6))
    found |= {f"energy {name}": energies[:, k] for k, name in enumerate(probes.regions)}
    found["cube"] = (squares * z).mean(1, dtype=np.float64)
    found["beyond"] = (np.abs(z) > BEYOND).mean(1, dtype=np.float64)
    return found


def _products(
    found: Columns, names: tuple[str, ...], n_rows: int, image: int, images: ImageFeatures
) -> Columns:
    """Features of the image, and products of some of the trial's with its size and uncertainty."""
    own = dict(zip(images.names, images.values[image], strict=True))
    about = {name: np.full(n_rows, value) for name, value in own.items()}
    crossed = {
        f"{name} × {of}": found[name] * own[of] for name in names for of in ("size", "uncertainty")
    }
    return about | crossed


def pairs_of(n_repeats: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of repeats, each repeat in two of them: (0, 1), (1, 2), …, (n − 1, 0).

    Parameters
    ----------
    n_repeats : int

    Returns
    -------
    first, second : int arrays of shape (n_pairs,)
        One pair of two repeats, none of one.
    """
    if n_repeats < 3:
        return np.arange(n_repeats // 2), np.arange(n_repeats // 2) + 1
    first = np.arange(n_repeats)
    return first, (first + 1) % n_repeats


def feature_auc(
    values: Floats, image: NDArray[np.integer], is_recorded: NDArray[np.bool_]
) -> tuple[float, float]:
    r"""AUC of one feature, and its distance from .5 in standard errors, over images.

    The standard error is that of a U statistic whose units are images (Obuchowski 1997,
    *Biometrics* 53): of the sum of an image's placements, each the share of rows of the other kind
    that a row is above.

    Parameters
    ----------
    values : float64 array of shape (n_rows,)
    image : int array of shape (n_rows,)
    is_recorded : bool array of shape (n_rows,)

    Returns
    -------
    auc, z : float
        z is 0 where nothing varies.
    """
    recorded, drawn = np.sort(values[is_recorded]), np.sort(values[~is_recorded])
    other = np.where(is_recorded, len(drawn), len(recorded))
    below, up_to = np.empty((2, len(values)))
    sides: tuple[tuple[Literal["left", "right"], Floats], ...] = ("left", below), ("right", up_to)
    for side, found in sides:
        found[is_recorded] = np.searchsorted(drawn, values[is_recorded], side)
        found[~is_recorded] = np.searchsorted(recorded, values[~is_recorded], side)
    place = (below + up_to) / 2 / other
    area = float(place[is_recorded].mean())
    # A drawn row is below a recorded one where that is above it
    own = np.where(is_recorded, place - area, (1 - place) - area) / np.where(
        is_recorded, len(recorded), len(drawn)
    )
    error = np.sqrt((np.bincount(image, own) ** 2).sum())
    return area, (area - 0.5) / error if error > 1e-12 else 0.0


def kind_of(feature: str) -> str | None:
    """What a feature sees: "means", "variance", "noise", "signal" or "shape".

    Parameters
    ----------
    feature : str
        Name by `trial_features` ("means", "variance", "shape"), or by `pair_features`: the
        variance of differences is of "noise" alone; that of sums, and products, hold "signal".

    Returns
    -------
    str, optional
        None of features of the image, which are the same for recorded and drawn rows.
    """
    of_pair, of_trial = feature.split(": ") if ": " in feature else ("", feature)
    name = of_trial.split(" × ")[0]
    if name.startswith("image") or name in ("size", "uncertainty"):
        return None
    if name.startswith(("cube", "beyond")):
        return "shape"
    if name.startswith("product"):
        return "signal"
    if name.endswith("²") or name.startswith("energy"):
        return {"sum": "signal", "difference": "noise", "": "variance"}[of_pair]
    return "means"
