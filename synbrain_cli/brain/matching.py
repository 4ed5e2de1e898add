"""Whether a model, a prepared subject and image tokens belong together."""

from __future__ import annotations

from synbrain_cli.brain.brain import Brain
from synbrain_cli.errors import InputError
from synbrain_cli.features.encoder import same_encoder
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
    if not same_encoder(config.encoder.identity, store.identity.identity):
        raise InputError(
            f"{store.folder}: tokens of {store.identity.identity}, but {brain.name} was "
            f"trained on {config.encoder.identity}: pass its --encoder, or run "
            "`synbrain prepare` with it"
        )
