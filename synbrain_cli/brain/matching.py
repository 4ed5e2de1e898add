"""Whether a model, a prepared subject and image tokens belong together."""

from __future__ import annotations

from synbrain_cli.brain.brain import Brain
from synbrain_cli.errors import InputError
from synbrain_cli.features.encoder import same_bands
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.token_store import TokenStore


def check_match(brain: Brain, subject: PreparedSubject, store: TokenStore) -> None:
    """Refuse a model, a prepared subject and tokens that do not belong together.

    Raises
    ------
    InputError
        When the subject, its voxels or the image encoder is another.
    """
    config = brain.config
    if (config.subject, config.dataset) != (subject.subject, subject.dataset):
        raise InputError(f"{brain.name} is a model of {config.label}, not of {subject.label}")
    if brain.n_voxels != subject.n_voxels:
        raise InputError(
            f"{subject.folder}: {subject.n_voxels} voxels, but {brain.name} has "
            f"{brain.n_voxels}: it was prepared again with another mask; train the model again"
        )
    check_bands(brain, store)


def check_bands(brain: Brain, store: TokenStore) -> None:
    """Refuse tokens of another image encoder than a model's.

    Raises
    ------
    InputError
    """
    if not same_bands(brain.config.bands, store.bands):
        raise InputError(
            f"{store.folders}: tokens of {[band.identity for band in store.bands]}, but "
            f"{brain.name} was trained on {[band.identity for band in brain.config.bands]}: pass "
            "its --encoder, or run `synbrain prepare` with it"
        )
