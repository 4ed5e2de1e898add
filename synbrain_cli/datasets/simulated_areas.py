"""What the areas of the simulated subjects respond to, by kind of area (ours).

============  ======================================================================================
kind          response of a voxel to an image, before it is scaled to unit variance
============  ======================================================================================
``energy``    root of the contrast energy in the receptive field, tuned to scale, orientation and
              colour (V1, V2, V3, hV4)
``pooled``    rectified projections of log energies in 4 × 4 regions of the image
``tolerant``  conjunctions of two orientations in one place, wherever in the image they are: a soft
              maximum over positions
``routed``    tuning to scale, orientation and colour at the most salient place of the image, which
              differs between images: a soft maximum of contrast chooses it
``category``  rectified projections of features of a pretrained encoder, EfficientNet-Lite2
``linear``    a linear function of the `gabor` tokens in the receptive field
============  ======================================================================================

The kinds ``energy``, ``pooled``, ``tolerant`` and ``routed`` are functions of energies that are
computed for the simulation alone (`synbrain_cli.datasets.simulated_features`); ``category`` and
``linear`` are functions of what two image encoders of this package compute. Kinds without receptive
fields have units that are the same for all subjects; a voxel adds them up with weights of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from synbrain_cli.datasets.simulated_cortex import smooth_fields
from synbrain_cli.datasets.simulated_features import ORIENTED, StimulusFeatures

FLOOR = 0.05  # added to energies, in units of their mean, before the logarithm
SOFTNESS = 0.25  # of the maximum over positions, in SDs of a conjunction
FOCUS = 6.0  # of the choice of a place, per SD of log contrast within the image
THRESHOLD = 0.5  # of projections of the encoder's features, in SDs


@dataclass(frozen=True)
class CorticalFields:
    """Smooth random fields over the voxels of a subject, with a common and an individual part.

    Attributes
    ----------
    positions : array of shape (n_voxels, 3)
        Positions on the sphere of fsaverage5, with the hemispheres 400 units apart.
    common, own : Generator
        Generators of the common part, which is the same for all subjects, and of the individual
        part.
    """

    positions: np.ndarray
    common: np.random.Generator
    own: np.random.Generator

    def draw(self, n_fields: int, length: float, individual: float) -> np.ndarray:
        """Sample fields (n_voxels, n_fields), in which ``individual`` is a share of variance."""
        shared = smooth_fields(self.positions, n_fields, length, self.common)
        private = smooth_fields(self.positions, n_fields, length, self.own)
        return np.sqrt(1 - individual) * shared + np.sqrt(individual) * private


def zscore(values: np.ndarray, n_known: int | None = None) -> np.ndarray:
    """Scale each column to mean 0 and standard deviation 1; constant columns become 0.

    Both are of the first ``n_known`` rows: the others are seen later.
    """
    known = values[:n_known]
    return (values - known.mean(0)) / (known.std(0) + 1e-9)


def receptive_fields(x: np.ndarray, y: np.ndarray, size: np.ndarray, grid: int) -> np.ndarray:
    """Return Gaussian windows over a grid of positions: (n_voxels, grid²), each of sum 1.

    Parameters
    ----------
    x, y, size : arrays of shape (n_voxels,)
        Centre and SD in half-widths of the image, which spans −1 to 1 with y upwards.
    grid : int
        Positions a side, row by row from the top left.
    """
    centre = (np.arange(grid) + 0.5) / grid * 2 - 1
    across = (centre[None, None, :] - x[:, None, None]) ** 2
    down = (-centre[None, :, None] - y[:, None, None]) ** 2
    field = np.exp(-(across + down) / (2 * size[:, None, None] ** 2)).reshape(len(x), -1)
    return field / (field.sum(1, keepdims=True) + 1e-12)


def energy_responses(
    energy: np.ndarray, function: Mapping[str, np.ndarray], fields: CorticalFields
) -> tuple[np.ndarray, np.ndarray]:
    """Root of the tuned contrast energy in receptive fields.

    ``energy`` is (n_images, 16, 16, n_channels), ``function`` a `Layout`'s properties by voxel.

    Returns
    -------
    float32 array of shape (n_images, n_voxels)
    float array of shape (n_voxels, 3)
        The fields: x, y and SD, as `receptive_fields` takes them.
    """
    grid, n_channels = energy.shape[1], energy.shape[-1]
    n_voxels = len(function["x"])
    tuning = np.exp(0.8 * fields.draw(n_channels, 12.0, 0.25))
    x0 = function["x"] + fields.own.normal(0, 0.03, n_voxels)
    y0 = function["y"] + fields.own.normal(0, 0.03, n_voxels)
    field = receptive_fields(x0, y0, function["size"], grid)
    f = np.empty((len(energy), n_voxels), np.float32)
    flat = energy.reshape(len(energy), -1).astype(np.float32)
    for start in range(0, n_voxels, 256):
        part = slice(start, start + 256)
        filters = field[part, :, None] * tuning[part, None, :]
        f[:, part] = np.sqrt(flat @ filters.reshape(len(filters), -1).T.astype(np.float32))
    return f, np.stack([x0, y0, function["size"]], 1)


def pooled_units(
    energy: np.ndarray, generator: np.random.Generator, n_known: int | None = None
) -> np.ndarray:
    """Rectified projections of log energies in 4 × 4 regions: (n_images, 24).

    Parameters
    ----------
    energy : array of shape (n_images, 16, 16, n_channels)
        Of all stimuli, in units of its mean, as in the other functions.
    generator : numpy Generator
        Of the units.
    n_known : int, optional
        Stimuli, in front, over which scales are computed: `StimulusFeatures`.
    """
    n_units, (grid, n_channels) = 24, energy.shape[2:]
    pooled = energy.reshape(-1, 4, grid // 4, 4, grid // 4, n_channels).mean((2, 4))
    scores = _principal_scores(np.log(pooled + FLOOR).reshape(len(pooled), -1), 12, n_known)
    weights = generator.normal(0, 0.4, (12, n_units))
    return zscore(np.maximum(scores @ weights + 0.3, 0), n_known)


def _principal_scores(features: np.ndarray, n_components: int, n_known: int | None) -> np.ndarray:
    """Scores of unit variance (n_images, n_components) of standardised features (n_images, n)."""
    features = zscore(features, n_known)
    components = np.linalg.svd(features[:n_known], full_matrices=False)[2][:n_components]
    # The sign of a component is arbitrary: its largest weight is positive.
    largest = np.take_along_axis(components, np.abs(components).argmax(1)[:, None], 1)
    return zscore(features @ (components * np.sign(largest)).T, n_known)


def relative_energy(energy: np.ndarray) -> np.ndarray:
    """Log energy of each channel less the mean over oriented channels, at each position.

    It says which orientation, scale or colour is there, whatever the contrast is; where there is
    none, it is 0.

    Parameters
    ----------
    energy : array of shape (n_images, 16, 16, n_channels)

    Returns
    -------
    array of the same shape
    """
    log = np.log(energy + np.float32(FLOOR))
    return log - log[..., :ORIENTED].mean(-1, keepdims=True)


def tolerant_units(
    energy: np.ndarray, generator: np.random.Generator, n_known: int | None = None
) -> np.ndarray:
    """Conjunctions of two channels, wherever they are: (n_images, 24).

    A conjunction at position p is the smaller of two relative energies, each in units of its SD,
    of different orientations and any scales, at p and at p or a neighbour of it (beyond an edge of
    the grid lies the opposite one). The unit's activation is the soft maximum
    τ log mean_p exp(conjunction(p) / τ), with τ = `SOFTNESS`.

    Parameters
    ----------
    energy, generator, n_known
        As in `pooled_units`.
    """
    n_units, n_orientations = 24, 4
    relative = relative_energy(energy)[..., :ORIENTED]
    relative = relative / (relative[:n_known].std((0, 1, 2)) + 1e-9)
    units = np.empty((len(energy), n_units))
    for unit in range(n_units):
        first, turn = generator.integers(ORIENTED), generator.integers(1, n_orientations)
        scale = generator.integers(ORIENTED // n_orientations)
        second = scale * n_orientations + (first + turn) % n_orientations
        row, column = generator.integers(-1, 2, 2)
        neighbour = np.roll(relative[..., second], (row, column), (1, 2))
        both = np.minimum(relative[..., first], neighbour).reshape(len(energy), -1)
        most = both.max(1, keepdims=True)
        soft = np.log(np.exp((both - most) / SOFTNESS).mean(1))
        units[:, unit] = most[:, 0] + SOFTNESS * soft
    return zscore(units, n_known)


def attention(energy: np.ndarray) -> np.ndarray:
    """Weights of the positions of each image, of which one is chosen by its contrast.

    The weights are the softmax over positions of the log of the oriented energy, summed over
    channels and over a Gaussian neighbourhood (SD one cell), standardised within the image and
    times `FOCUS`.

    Parameters
    ----------
    energy : array of shape (n_images, 16, 16, n_channels)

    Returns
    -------
    array of shape (n_images, 16, 16), of sum 1 for each image
    """
    total = energy[..., :ORIENTED].sum(-1)
    contrast = np.log(gaussian_filter(total, (0, 1, 1), mode="nearest") + FLOOR)
    contrast = contrast - contrast.mean((1, 2), keepdims=True)
    salience = FOCUS * contrast / (contrast.std((1, 2), keepdims=True) + 1e-3)
    weights = np.exp(salience - salience.max((1, 2), keepdims=True))
    return weights / weights.sum((1, 2), keepdims=True)


def routed_units(energy: np.ndarray, n_known: int | None = None) -> np.ndarray:
    """Relative energies at the most salient place: (n_images, n_channels).

    Parameters
    ----------
    energy, n_known
        As in `pooled_units`.
    """
    places = np.einsum("nij,nijc->nc", attention(energy), relative_energy(energy))
    return zscore(places, n_known)


def category_units(
    encoder: np.ndarray, generator: np.random.Generator, n_known: int | None = None
) -> np.ndarray:
    """Rectified projections of the encoder's features: (n_images, 4).

    The features are reduced to the scores, of unit variance, of their first 8 principal components
    over all stimuli. What of the projection on a random direction, in SDs, exceeds `THRESHOLD` is
    the activation: about a third of the images activate a unit.

    Parameters
    ----------
    encoder : array of shape (n_images, n_dims)
        `StimulusFeatures.encoder` of all stimuli.
    generator : numpy Generator
        Of the directions.
    n_known : int, optional
        As in `pooled_units`.
    """
    n_components, n_units = 8, 4
    scores = _principal_scores(encoder.astype(float), n_components, n_known)
    directions = generator.normal(0, 1, (n_components, n_units))
    return zscore(np.maximum(zscore(scores @ directions, n_known) - THRESHOLD, 0), n_known)


def linear_responses(
    gabor: np.ndarray, side: np.ndarray, fields: CorticalFields, voxels: np.ndarray
) -> np.ndarray:
    """Linear function of `gabor` tokens in receptive fields: (n_images, n_chosen).

    Receptive fields lie in the opposite half of the visual field. Weights of channels are smooth
    over cortex, of either sign.

    Parameters
    ----------
    gabor : array of shape (n_images, 8, 8, 48)
    side : array of shape (n_voxels,)
        1 for voxels of the left hemisphere, whose fields are on the right; −1 of the right.
    fields : CorticalFields
    voxels : bool array of shape (n_voxels,)
        Voxels of these areas.
    """
    grid, n_channels = gabor.shape[1], gabor.shape[-1]
    weights = fields.draw(n_channels, 12.0, 0.25)[voxels]
    place = fields.draw(2, 12.0, 0.25)[voxels]
    x0, y0 = side[voxels] * (0.4 + 0.2 * place[:, 0]), 0.4 * place[:, 1]
    field = receptive_fields(x0, y0, np.full(len(x0), 0.25), grid)
    filters = (field[:, :, None] * weights[:, None, :]).reshape(len(field), -1)
    return gabor.reshape(len(gabor), -1) @ filters.T.astype(gabor.dtype)


def group_of(area: str, kind: str) -> str:
    """Return the name of the areas that have units in common: each category area has its own."""
    return f"{kind}:{area}" if kind == "category" else kind


def higher_responses(
    features: StimulusFeatures,
    groups: Mapping[str, np.ndarray],
    side: np.ndarray,
    fields: CorticalFields,
) -> dict[str, np.ndarray]:
    """Responses of higher areas to all stimuli: float (n_images, n_chosen) by group of areas.

    Parameters
    ----------
    features : StimulusFeatures
    groups : dict of bool arrays of shape (n_voxels,)
        Voxels by `group_of` their area, of the same groups in the same order for every subject.
    side : array of shape (n_voxels,)
        As in `linear_responses`.
    fields : CorticalFields
    """
    energy, common, n_known = features.energy, fields.common, features.n_known
    responses = {}
    for name, voxels in groups.items():
        kind = name.partition(":")[0]
        if kind == "linear":
            responses[name] = linear_responses(features.gabor, side, fields, voxels)
            continue
        if kind == "pooled":
            units = pooled_units(energy, common, n_known)
        elif kind == "tolerant":
            units = tolerant_units(energy, common, n_known)
        elif kind == "routed":
            units = routed_units(energy, n_known)
        else:
            units = category_units(features.encoder, common, n_known)
        preference = fields.draw(units.shape[1], 20.0, 0.25)[voxels]
        if kind in ("tolerant", "category"):  # each voxel prefers a few units
            preference = np.exp(2 * preference)
        responses[name] = units @ preference.T
    return responses
