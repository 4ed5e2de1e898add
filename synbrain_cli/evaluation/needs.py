"""Memory that an evaluation takes, estimated before responses are read."""

from __future__ import annotations

from synbrain_cli.brain import Brain
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.token_store import TokenStore
from synbrain_cli.model.linear import n_pooled
from synbrain_cli.training.needs import ridge_bytes, training_bytes


def evaluation_bytes(
    brain: Brain,
    subject: PreparedSubject,
    store: TokenStore,
    n_folds: int | None,
    other: PreparedSubject | None = None,
) -> float:
    """Most bytes that an evaluation takes at a time: while a decoder is fitted for retrieval.

    Parameters
    ----------
    brain : Brain
    subject : PreparedSubject
    store : TokenStore
    n_folds : int, optional
        With folds all images are tested, and models are fitted.
    other : PreparedSubject, optional
        Another dataset of the subject, whose images are tested.
    """
    table, n_voxels = subject.trials, subject.n_voxels
    shapes = [band.token_shape for band in store.bands]
    tested = subject.trials if other is None else other.trials
    is_test = (tested["split"] == "test").to_numpy() | bool(n_folds)
    n_test = tested["image"][is_test].nunique()
    tokens = 4.0 * n_test * sum(n_tokens * n_dims for n_tokens, n_dims in shapes)
    kept = tokens * brain.config.has_networks  # while images are found among them
    # Trials as prepared and in the model's unit, their averages, and predictions with controls
    responses = 4.0 * n_voxels * (2 * is_test.sum() + 8 * n_test)
    if n_folds:
        return kept + tokens + responses + training_bytes(subject, store)
    is_train = (table["split"] == "train").to_numpy()
    n_train = table["image"][is_train].nunique()
    trials, averages = (4.0 * n_voxels * n for n in (is_train.sum(), n_train))
    features = 4.0 * n_train * sum(n_pooled(*shape) for shape in shapes)
    decoder = max(trials, averages + 2 * features + ridge_bytes(n_train, n_voxels))
    return responses + max(tokens, kept + averages + decoder)
