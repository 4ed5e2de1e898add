r"""Receptive-field readout: every voxel reads the channels of a band within a Gaussian field.

.. math:: \hat y_v = \sum_c w_{vc} \sum_t g_v(t)\, x_{tc} + b_v

The feature-weighted receptive field of St-Yves & Naselaris (2018, *NeuroImage* 180:188): far fewer
weights than a weight for every token and channel, for voxels that see a part of the image. Fields
are taken from a grid of positions and sizes. For each, ridge on the channels averaged within the
field is fitted in closed form; each voxel keeps the field and the penalty of least error by
generalised cross-validation (Golub, Heath & Wahba 1979, *Technometrics* 21:215).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from dataclasses import fields as fields_of
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray

from synbrain_cli.groups import Groups, count_groups, deal
from synbrain_cli.model.tokens import StandardBand
from synbrain_cli.progress import UNSEEN, Share
from synbrain_cli.threads import side_by_side

SIZES = (0.1, 0.16, 0.25, 0.4)  # SDs of the fields that are tried, in image sides (ours)
MAX_CHANNELS = 128  # leading principal components of a band's channels
SEARCH_CHANNELS = 64  # of these, with which fields are compared
PENALTIES = np.logspace(-3, 2, 11)  # relative to the mean squared norm of an image's features
SEARCHED = 2_000  # images on which fields are compared
N_FOLDS, FEW_FOLDS = 5, 3  # by which every image is predicted without it; of more than `SEARCHED`
AXES_TOKENS = 65_536  # of which principal components are computed
_TOGETHER = 16  # fields within which channels are averaged in one product
_NOTHING = 1e-9  # of the largest power: smaller ones are rounding
LEAST_SIDE = 4  # tokens a side that a grid of fields needs


def candidate_fields() -> NDArray[np.float32]:
    """Fields that are tried: x, y (right and down, from the upper left corner) and log SD.

    Neighbours are about an SD apart, an eighth of the image at least.

    Returns
    -------
    float32 array of shape (n_fields, 3), in image sides
    """
    return np.array(
        [
            (x, y, np.log(size))
            for size in SIZES
            for x, y in product(np.linspace(0, 1, 1 + round(1 / max(size, 0.125))), repeat=2)
        ],
        np.float32,
    )


def field_masks(fields: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Gaussian weights over a grid of tokens, each summing to 1: (n_fields, side²)."""
    centre = (np.arange(side) + 0.5) / side
    x, y = (fields[:, k, None, None].astype(np.float64) for k in (0, 1))
    size = np.exp(fields[:, 2].astype(np.float64))[:, None, None]
    distance = (centre[None, None, :] - x) ** 2 + (centre[None, :, None] - y) ** 2
    mask = np.exp(-np.minimum(distance / (2 * size**2), 30)).reshape(len(fields), -1) + 1e-6
    return (mask / mask.sum(1, keepdims=True)).astype(np.float32)


def is_grid(n_tokens: int) -> bool:
    """Whether tokens lie on a square grid that is fine enough for receptive fields."""
    side = round(n_tokens**0.5)
    return side * side == n_tokens and side >= LEAST_SIDE


@dataclass(frozen=True)
class FieldRidge:
    """Ridge of every voxel on a band's channels within its receptive field.

    Attributes
    ----------
    axes : float32 array of shape (n_dims, n_channels)
        Principal components of the channels.
    fields : float32 array of shape (n_voxels, 3)
        As `candidate_fields`.
    coefficients : float32 array of shape (n_channels, n_voxels)
    intercept : float32 array of shape (n_voxels,)
    """

    axes: NDArray[np.float32]
    fields: NDArray[np.float32]
    coefficients: NDArray[np.float32]
    intercept: NDArray[np.float32]

    def predict(self, tokens: NDArray[np.float32]) -> NDArray[np.float32]:
        """Predict from standardised tokens (n_images, n_tokens, n_dims): (n_images, n_voxels)."""
        return self.of_channels(tokens @ self.axes)

    def of_channels(self, channels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Predict from tokens on the axes (n_images, n_tokens, n_channels)."""
        masks = self._masks(round(channels.shape[1] ** 0.5))
        predicted = np.empty((len(channels), len(self.fields)), np.float32)
        by_place = np.ascontiguousarray(channels.transpose(1, 0, 2))
        averaged = _within(masks, by_place)
        for features, (voxels, coefficients) in zip(averaged, self._groups[1], strict=True):
            predicted[:, voxels] = features @ coefficients
        return predicted + self.intercept

    @cached_property
    def _groups(
        self,
    ) -> tuple[NDArray[np.float32], list[tuple[NDArray[np.intp], NDArray[np.float32]]]]:
        """Fields that differ, and of each the voxels that have it, with their coefficients."""
        distinct, own = np.unique(self.fields, axis=0, return_inverse=True)
        order = np.argsort(own.ravel(), kind="stable")
        groups = np.split(order, np.cumsum(np.bincount(own.ravel()))[:-1])
        return distinct, [(voxels, self.coefficients[:, voxels]) for voxels in groups]

    def _masks(self, side: int) -> NDArray[np.float32]:
        """Weights of the fields that differ over a grid, computed once: images come one by one."""
        if side not in self._masks_by_side:
            self._masks_by_side[side] = field_masks(self._groups[0], side)
        return self._masks_by_side[side]

    @cached_property
    def _masks_by_side(self) -> dict[int, NDArray[np.float32]]:
        return {}

    def arrays(self) -> dict[str, np.ndarray]:
        """Return named arrays, for a file."""
        return {one.name: getattr(self, one.name) for one in fields_of(self)}


def fit_fields(
    tokens: StandardBand | NDArray[np.float32],
    targets: NDArray[np.float32],
    generator: np.random.Generator,
    share: Share = UNSEEN,
    groups: Groups | None = None,
) -> tuple[FieldRidge, NDArray[np.float32]]:
    """Choose each voxel's receptive field and penalty, and fit its weights.

    Fields are compared on up to `SEARCHED` images, penalties in the chosen field on all.

    Parameters
    ----------
    tokens : StandardBand, or float32 array of shape (n_images, n_tokens, n_dims), standardised
        On a square grid (`is_grid`); the former is read some images at a time.
    targets : float array of shape (n_images, n_voxels)
    generator : numpy Generator
        Chooses the images on which fields are compared, and deals images to folds.
    share : Share
        Of a task whose progress is shown.
    groups : int array of shape (n_images,), optional
        Groups of images that are never both fitted and held out (`synbrain_cli.groups`).

    Returns
    -------
    FieldRidge
    float32 array of shape (n_images, n_voxels)
        Predictions of every image by a fit to the other folds, whose fields and penalties were
        chosen without it: the best of many fields fits even noise, so that leave-one-out
        predictions in a field that was chosen with the image would promise too much.
    """
    n_images, n_folds = len(tokens), N_FOLDS if len(tokens) <= SEARCHED else FEW_FOLDS
    n_folds = min(n_folds, count_groups(n_images, groups))
    reading, *of_fits = share.split(2, *[1] * (n_folds + 1))
    axes = channel_axes(tokens)
    by_place = _channels_by_place(tokens, axes)
    reading.to(1)
    every = np.arange(n_images)
    folds = [*deal(n_images, n_folds, generator, groups), np.zeros(0, np.intp)]
    fits = [
        (images, _choose(images, generator), held_out)
        for held_out in folds
        for images in [np.setdiff1d(every, held_out)]
    ]
    without = np.empty(targets.shape, np.float32)
    found = []
    work = side_by_side(lambda fit: _fit(by_place, targets, axes, *fit, without), fits)
    for own, field in zip(of_fits, work, strict=True):
        found.append(field)
        own.to(1)
    return found[-1], without


def _choose(images: NDArray[np.integer], generator: np.random.Generator) -> NDArray[np.integer]:
    """Choose the images on which fields are compared."""
    if len(images) <= SEARCHED:
        return images
    return np.sort(generator.choice(images, SEARCHED, replace=False))


def _channels_by_place(
    tokens: StandardBand | NDArray[np.float32], axes: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Tokens on the axes, place by place: (n_tokens, n_images, n_channels)."""
    n_images, n_tokens, _ = tokens.shape
    by_place = np.empty((n_tokens, n_images, axes.shape[1]), np.float32)
    first = 0
    for part in tokens.batches() if isinstance(tokens, StandardBand) else [tokens]:
        by_place[:, first : first + len(part)] = (part @ axes).transpose(1, 0, 2)
        first += len(part)
    return by_place


def _fit(
    by_place: NDArray[np.float32],
    targets: NDArray[np.float32],
    axes: NDArray[np.float32],
    images: NDArray[np.integer],
    compared: NDArray[np.integer],
    held_out: NDArray[np.integer],
    predicted: NDArray[np.float32],
) -> FieldRidge:
    """Fit every voxel to some images' channels, and predict those that are held out.

    Fields are compared on the images ``compared``; the predictions are put into the rows
    ``held_out`` of ``predicted`` (n_all_images, n_voxels).
    """
    fields = candidate_fields()
    masks = field_masks(fields, round(len(by_place) ** 0.5))
    seen = targets[compared]
    seen = np.asarray(seen - seen.mean(0), np.float32)
    chosen, _ = _search(by_place[:, compared, :SEARCH_CHANNELS], seen, masks)
    del seen

    coefficients = np.zeros((by_place.shape[2], targets.shape[1]), np.float32)
    intercept = np.zeros(targets.shape[1], np.float32)
    used = np.unique(chosen)
    averaged = _within(masks[used], by_place)
    for field, features in zip(used, averaged, strict=True):
        voxels = np.flatnonzero(chosen == field)
        own, responses = features[images], targets[images[:, None], voxels]
        level, mean = own.mean(0), responses.mean(0, dtype=np.float64).astype(np.float32)
        weights = _fit_one(own - level, np.asarray(responses - mean, np.float32))
        coefficients[:, voxels], intercept[voxels] = weights, mean - level @ weights
        predicted[held_out[:, None], voxels] = features[held_out] @ weights + intercept[voxels]
    return FieldRidge(axes, fields[chosen], coefficients, intercept)


def best_fields(
    tokens: Sequence[StandardBand | NDArray[np.float32]], targets: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Choose the best receptive field of every voxel, whichever band explains it best.

    Fields are compared on `SEARCHED` images at most, at equal distances.

    Parameters
    ----------
    tokens : sequence of StandardBand, or float32 arrays of shape (n_images, n_tokens, n_dims)
        Of every band, standardised, on a square grid.
    targets : float array of shape (n_images, n_voxels)

    Returns
    -------
    float32 array of shape (n_voxels, 3)
        As `candidate_fields`.
    """
    fields = candidate_fields()
    some = np.arange(len(targets))
    if len(targets) > SEARCHED:
        some = np.linspace(0, len(targets) - 1, SEARCHED).astype(int)
    seen = targets[some]
    centred = np.asarray(seen - seen.mean(0), np.float32)
    found = []
    for every in tokens:
        band = every.part(some) if isinstance(every, StandardBand) else every[some]
        masks = field_masks(fields, round(band.shape[1] ** 0.5))
        axes = channel_axes(band)[:, :SEARCH_CHANNELS]
        found.append(_search(_channels_by_place(band, axes), centred, masks))
    best = np.argmin([error for _, error in found], axis=0)
    return fields[np.choose(best, [chosen for chosen, _ in found])]


def channel_axes(tokens: StandardBand | NDArray[np.float32]) -> NDArray[np.float32]:
    """Leading principal components of channels over images and tokens: (n_dims, n_channels).

    Parameters
    ----------
    tokens : StandardBand, or float32 array of shape (n_images, n_tokens, n_dims)
        Of which `AXES_TOKENS` tokens at most are taken: those of images at equal distances.
    """
    n_images, n_tokens, n_dims = tokens.shape
    n_taken = min(n_images, -(-AXES_TOKENS // n_tokens))
    taken = tokens[np.linspace(0, n_images - 1, n_taken).astype(int)].reshape(-1, n_dims)
    centred = taken - taken.mean(0)
    moments = (centred.T @ centred).astype(np.float64)
    return np.linalg.eigh(moments)[1][:, ::-1][:, :MAX_CHANNELS].astype(np.float32)


@dataclass(frozen=True)
class _Spectrum:
    """Principal components of an image's features within one field.

    Attributes
    ----------
    axes : float32 array of shape (n_channels, n_components)
    scores : float32 array of shape (n_images, n_components)
        Of length 1.
    powers : float64 array of shape (n_components,)
    penalties : float64 array of shape (n_penalties,)
    """

    axes: NDArray[np.float32]
    scores: NDArray[np.float32]
    powers: NDArray[np.float64]
    penalties: NDArray[np.float64]

    @classmethod
    def of(cls, features: NDArray[np.float32]) -> _Spectrum:
        """Decompose centred features (n_images, n_channels)."""
        exact = features.astype(np.float64)
        powers, axes = np.linalg.eigh(exact.T @ exact)
        kept = powers > _NOTHING * max(powers[-1], 1e-30)
        powers, axes = powers[kept], axes[:, kept].astype(np.float32)
        scores = (features @ axes) / np.sqrt(powers).astype(np.float32)
        return cls(axes, scores, powers, PENALTIES * powers.sum() / len(features))

    @property
    def shrinkage(self) -> NDArray[np.float32]:
        """Share of a target's projection that each penalty leaves: (n_penalties, n_components)."""
        kept = self.powers / (self.powers + self.penalties[:, None])
        return kept.astype(np.float32)

    def errors(
        self, against: NDArray[np.float32], power: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """Errors of every penalty by generalised cross-validation: (n_penalties, n_voxels).

        Parameters
        ----------
        against : float32 array of shape (n_components, n_voxels)
            Products of the scores and the targets.
        power : float32 array of shape (n_voxels,)
            Sums of squares of the targets.
        """
        squares = np.square(against)
        removed = self.penalties[:, None] / (self.powers + self.penalties[:, None])
        # What is left, and the degrees of freedom, in two parts that are not negative: where
        # components are as many as images, differences of large sums would be rounding.
        beyond = np.maximum(power - squares.sum(0, dtype=np.float64), 0)
        left = beyond + np.square(removed).astype(np.float32) @ squares
        free = max(len(self.scores) - 1 - len(self.powers), 0) + removed.sum(1)
        errors: NDArray[np.float64] = left / np.square(free / len(self.scores))[:, None]
        return errors


def _within(
    masks: NDArray[np.float32], by_place: NDArray[np.float32]
) -> Iterator[NDArray[np.float32]]:
    """Average channels (n_tokens, n_images, n_channels) within each field, one after the other."""
    n_tokens, n_images, n_channels = by_place.shape
    rows = by_place.reshape(n_tokens, -1)
    for start in range(0, len(masks), _TOGETHER):
        yield from (masks[start : start + _TOGETHER] @ rows).reshape(-1, n_images, n_channels)


def _search(
    by_place: NDArray[np.float32],
    centred: NDArray[np.float32],
    masks: NDArray[np.float32],
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Number and error of the field of least error of every voxel: (n_voxels,) each."""
    power = np.einsum("ij,ij->j", centred, centred)
    best, chosen = np.full(len(power), np.inf), np.zeros(len(power), np.intp)
    for k, features in enumerate(_within(masks, by_place)):
        found = _Spectrum.of(features - features.mean(0))
        error = found.errors(found.scores.T @ centred, power).min(0)
        better = error < best
        best[better], chosen[better] = error[better], k
    return chosen, best


def _fit_one(features: NDArray[np.float32], centred: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weights of some voxels on centred features of one field: (n_channels, n_voxels)."""
    found = _Spectrum.of(features)
    against = found.scores.T @ centred
    errors = found.errors(against, np.einsum("ij,ij->j", centred, centred))
    share = found.shrinkage[errors.argmin(0)].T  # (n_components, n_voxels)
    per_power = share / np.sqrt(found.powers).astype(np.float32)[:, None]
    weights: NDArray[np.float32] = found.axes @ (per_power * against)
    return weights
