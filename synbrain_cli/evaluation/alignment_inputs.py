"""What a check of the design reads: responses and tokens, reduced in bounded memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from synbrain_cli.evaluation.alignment import (
    N_FOLDS,
    Integers,
    Recording,
    Singles,
    parts_of,
    standardized_by_part,
)
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.token_store import BandStore, TokenStore
from synbrain_cli.memory import release
from synbrain_cli.model.fields import is_grid
from synbrain_cli.model.principal import principal_components

# All ours; chosen so that a session of NSD takes seconds.
MOST_COMPONENTS = 100  # of the responses
TRIALS_A_COMPONENT = 5  # at least
SAMPLED_TRIALS = 1_000  # from which components are computed
MOST_FEATURES = 80  # of all bands together
SIDE = 4  # tokens a side, to which grids are pooled
MOST_CHANNELS = 32  # of a band, before the places are joined
SAMPLED_IMAGES = 200  # from which channels are computed
TOGETHER = 64  # images whose tokens are in memory at a time


@dataclass(frozen=True, eq=False)
class CheckInputs:
    """A recording, its design, and names to speak of them.

    Attributes
    ----------
    recording : Recording
    shown : int64 array of shape (n_trials,)
        Row of ``images`` of each trial.
    images : list of str
        Images with tokens, in the order of the recording's features.
    copies : int64 array of shape (n_trials,)
        Equal for trials of one session whose responses are equal in every voxel.
    designs : dict
        Other subject's label → its design, where its sessions have as many trials: int64
        (n_trials,), rows of ``images``, −1 for images without tokens.
    """

    recording: Recording
    shown: Integers
    images: list[str]
    copies: Integers
    designs: dict[str, Integers]


def load_inputs(
    subject: PreparedSubject, store: TokenStore, others: Sequence[PreparedSubject] = ()
) -> CheckInputs:
    """Read and reduce what is needed: every trial of the subject, of all splits.

    The check decides whether a design may be used, and nothing of it enters a model; a fault may
    lie in trials of test images as well.

    Parameters
    ----------
    subject : PreparedSubject
    store : TokenStore
        Tokens of its images.
    others : sequence of PreparedSubject
        Other subjects of the dataset, whose designs may have been mistaken for this one's.

    Raises
    ------
    MissingError, InputError
        As `PreparedSubject.read_betas` and `TokenStore.take`.
    """
    session = subject.trials["session"].to_numpy(np.int64)
    own = subject.trials["image"].to_numpy(str)
    there = set(store.images)
    designs = {one.subject: _matching(one, session) for one in others}
    shown = set(own.tolist())
    for names in designs.values():
        shown |= set() if names is None else set(names.tolist()) & there
    images = sorted(shown)
    row = {name: i for i, name in enumerate(images)}
    components, copies = _components(subject, session)
    part = parts_of(session)
    recording = Recording(
        standardized_by_part(components, part),
        image_features(store, images),
        session,
        part,
        _folds(len(images)),
    )
    return CheckInputs(
        recording,
        np.array([row[name] for name in own], np.int64),
        images,
        copies,
        {
            label: np.array([row.get(name, -1) for name in names], np.int64)
            for label, names in designs.items()
            if names is not None
        },
    )


def _matching(other: PreparedSubject, session: Integers) -> NDArray[np.str_] | None:
    """Images of another subject's sessions, where these have as many trials as this one's."""
    table = other.trials
    theirs = table["session"].to_numpy(np.int64)
    rows = []
    for number in dict.fromkeys(session.tolist()):
        found = np.flatnonzero(theirs == number)
        if len(found) != (session == number).sum():
            return None
        rows.append(found)
    return table["image"].to_numpy(str)[np.concatenate(rows)]


def _folds(n_images: int) -> Integers:
    """Fold of each image: the same in every run."""
    return np.random.default_rng(0).permutation(n_images).astype(np.int64) % N_FOLDS


# ------------------------------------------------------------------------------------ responses


def _blocks(subject: PreparedSubject, session: Integers) -> Iterator[tuple[Integers, Singles]]:
    """Trials of one session after the other, and their betas, z-scored within the session."""
    for number in dict.fromkeys(session.tolist()):
        chosen = session == number
        betas = subject.read_betas(chosen)
        betas -= betas.mean(0, dtype=np.float64).astype(np.float32)
        sd = np.sqrt(np.einsum("tv,tv->v", betas, betas, dtype=np.float64) / len(betas))
        betas /= np.where(sd > 0, sd, 1).astype(np.float32)
        yield np.flatnonzero(chosen), betas


def _components(subject: PreparedSubject, session: Integers) -> tuple[Singles, Integers]:
    """Leading principal components of the responses, and `CheckInputs.copies`."""
    n_trials = len(session)
    some = np.unique(np.linspace(0, n_trials - 1, min(n_trials, SAMPLED_TRIALS)).astype(np.int64))
    sample = np.empty((len(some), subject.n_voxels), np.float32)
    is_small = n_trials == len(some)
    digests: list[str] = []
    for trials, betas in _blocks(subject, session):
        within = np.isin(trials, some)
        sample[np.searchsorted(some, trials[within])] = betas[within]
        digests += [
            f"{session[trials[0]]} {hashlib.md5(one.tobytes()).hexdigest()}" for one in betas
        ]
    most = max(1, min(MOST_COMPONENTS, len(some) // TRIALS_A_COMPONENT, subject.n_voxels))
    found = principal_components(sample, most)
    axes = (found.axes / np.sqrt(found.powers)).astype(np.float32)
    blocks = [sample] if is_small else (betas for _, betas in _blocks(subject, session))
    kept = [betas @ axes for betas in blocks]
    copies = np.unique(digests, return_inverse=True)[1].astype(np.int64)
    return np.concatenate(kept), copies


# --------------------------------------------------------------------------------------- images


def image_features(store: TokenStore, images: Sequence[str]) -> Singles:
    """Return principal components of the images' tokens, pooled to a coarse grid.

    Of an encoder at several scales, the finest counts: others would take features from the rest.

    Parameters
    ----------
    store : TokenStore
    images : sequence of str

    Returns
    -------
    float32 array of shape (n_images, n_features)
        Centred; every band has the same share of a total variance of 1.
    """
    stores = store.at_finest_scale().stores
    n_bands = len(stores)
    parts = []
    for band in stores:
        pooled = _pooled(band, images)
        pooled -= pooled.mean(0)
        most = max(1, min(MOST_FEATURES // n_bands, len(images) // 2, pooled.shape[1]))
        if not pooled.any():  # images that a band does not tell apart
            continue
        scores = pooled @ principal_components(pooled, most).axes.astype(np.float32)
        variance = float(np.square(scores, dtype=np.float64).sum() / len(scores))
        parts.append(scores / np.float32(np.sqrt(variance * n_bands)))
    return np.concatenate(parts, 1) if parts else np.zeros((len(images), 1), np.float32)


def _pooled(store: BandStore, images: Sequence[str]) -> Singles:
    """Tokens on a coarse grid and on the leading channels: float32 (n_images, n_features)."""
    n_tokens, n_dims = store.band.token_shape
    weights = _pooling(n_tokens)
    some = [
        images[i] for i in np.unique(np.linspace(0, len(images) - 1, SAMPLED_IMAGES, dtype=int))
    ]
    sample = (weights @ store.take(some)).reshape(-1, n_dims)
    centre = sample.mean(0)
    most = min(MOST_CHANNELS, n_dims, len(sample))
    sample -= centre
    if not sample.any():
        return np.zeros((len(images), 1), np.float32)
    axes = principal_components(sample, most).axes.astype(np.float32)
    out = np.empty((len(images), len(weights) * axes.shape[1]), np.float32)
    for first in range(0, len(images), TOGETHER):
        tokens = store.take(images[first : first + TOGETHER])
        out[first : first + len(tokens)] = ((weights @ tokens - centre) @ axes).reshape(
            len(tokens), -1
        )
    release(store.tokens)
    return out


def _pooling(n_tokens: int) -> Singles:
    """Weights that average tokens within the cells of a coarse grid: (n_places, n_tokens)."""
    if not is_grid(n_tokens):
        return np.full((1, n_tokens), 1 / n_tokens, np.float32)
    side = round(n_tokens**0.5)
    cell = np.arange(side) * SIDE // side
    place = (cell[:, None] * SIDE + cell[None, :]).ravel()
    weights = (np.arange(SIDE * SIDE)[:, None] == place[None, :]).astype(np.float32)
    return np.asarray(weights / weights.sum(1, keepdims=True), np.float32)
