"""Memory that fitting a subject takes, estimated before its responses are read."""

from __future__ import annotations

from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.token_store import TokenStore
from synbrain_cli.model.covariance import MAX_RANK, N_FOLDS
from synbrain_cli.model.fields import MAX_CHANNELS, is_grid
from synbrain_cli.model.linear import MAX_COMPONENTS, n_pooled

LESS = "prepare fewer voxels or sessions (--rois, --sessions)"


def training_bytes(subject: PreparedSubject, store: TokenStore) -> float:
    """Most bytes that the linear encoder and the readout take at a time.

    Either responses are read (and in memory twice), or one band's ridge is fitted (responses,
    averages twice, features twice and their moments) beside the encoder's members before it and
    their predictions of all images, or the readout (responses, four arrays of averages, and the
    contrasts between repeats). Beside these stand vectors from which the factors of the readout
    are made.

    Parameters
    ----------
    subject : PreparedSubject
    store : TokenStore
    """
    table = subject.trials[subject.trials["split"] != "test"]
    n_images, n_voxels = table["image"].nunique(), subject.n_voxels
    trials, averages = (4.0 * n * n_voxels for n in (len(table), n_images))
    shapes = [band.token_shape for band in store.bands]
    widths = [n_pooled(*shape) for shape in shapes]
    ridge = max(8.0 * n_images * width + ridge_bytes(n_images, width) for width in widths)
    encoder = sum(
        4.0 * min(MAX_COMPONENTS, n_images, width) * (width + n_voxels) for width in widths
    )
    n_members = len(shapes) + sum(is_grid(n_tokens) for n_tokens, _ in shapes)
    # Tokens of a band on the channels that receptive fields read: of all images, and of a fold
    fields = max(
        8.0 * n_images * n_tokens * min(n_dims, MAX_CHANNELS) for n_tokens, n_dims in shapes
    )
    members = (n_members + 2) * averages + encoder + max(ridge, fields)
    readout = 5 * averages + (trials - averages) + encoder
    factors = 24.0 * n_voxels * MAX_RANK * (N_FOLDS + 1)
    return trials + max(trials, members, readout) + factors


def ridge_bytes(n_rows: int, n_features: int) -> float:
    """Bytes of the moments of a ridge, in float32 and twice in float64, and of its scores."""
    size = min(n_rows, n_features)
    return 20.0 * size**2 + 24.0 * n_rows * min(MAX_COMPONENTS, size)
