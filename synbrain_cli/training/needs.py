"""Memory that fitting a subject takes, estimated before its responses are read."""

from __future__ import annotations

from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.token_store import TokenStore
from synbrain_cli.model.covariance import MAX_RANK, N_FOLDS
from synbrain_cli.model.linear import MAX_COMPONENTS, n_pooled

LESS = "prepare fewer voxels or sessions (--rois, --sessions)"


def training_bytes(subject: PreparedSubject, store: TokenStore) -> float:
    """Most bytes that the linear encoder and the readout take at a time.

    Either responses are read (and in memory twice), or the ridge is fitted (responses, averages
    twice, features twice and their moments), or the readout (responses, four arrays of averages,
    and the contrasts between repeats). Beside these stand the encoder before and after validation
    images are added, and vectors from which the factors of the readout are made.

    Parameters
    ----------
    subject : PreparedSubject
    store : TokenStore
    """
    table = subject.trials[subject.trials["split"] != "test"]
    n_images, n_voxels = table["image"].nunique(), subject.n_voxels
    trials, averages = (4.0 * n * n_voxels for n in (len(table), n_images))
    n_features = n_pooled(*store.identity.token_shape)
    features = 4.0 * n_images * n_features
    ridge = 2 * averages + 2 * features + ridge_bytes(n_images, n_features)
    readout = 5 * averages + (trials - averages) + features
    encoders = 8.0 * min(MAX_COMPONENTS, n_images, n_features) * (n_features + n_voxels)
    factors = 24.0 * n_voxels * MAX_RANK * (N_FOLDS + 1)
    return trials + max(trials, ridge, readout) + encoders + factors


def ridge_bytes(n_rows: int, n_features: int) -> float:
    """Bytes of the moments of a ridge, in float32 and twice in float64, and of its scores."""
    size = min(n_rows, n_features)
    return 20.0 * size**2 + 24.0 * n_rows * min(MAX_COMPONENTS, size)
