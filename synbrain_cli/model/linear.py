"""Linear encoder: ridge from image tokens to voxels, one penalty per voxel.

The linear encoder is the baseline of every result, and part of every bundle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from synbrain_cli.errors import InputError
from synbrain_cli.model.penalties import TOGETHER, choose_penalties
from synbrain_cli.model.principal import principal_components
from synbrain_cli.model.tokens import FEW, StandardTokens

MAX_FEATURES = 16_384  # pooled token features; 9,000 NSD images × these are 590 MB in float32
MAX_COMPONENTS = 2_048
ALPHAS = np.logspace(-4, 3, 15)  # relative to the mean squared norm of an image's features


@dataclass(frozen=True)
class LinearEncoder:
    """Ridge regression in the principal components of pooled tokens.

    ``prediction = (pool(tokens) − feature_mean) @ components @ coefficients + intercept``

    Attributes
    ----------
    feature_mean : float32 array of shape (n_features,)
    components : float32 array of shape (n_features, n_components)
    coefficients : float32 array of shape (n_components, n_voxels)
    intercept : float32 array of shape (n_voxels,)
    alphas : float32 array of shape (n_voxels,)
        Penalty chosen for each voxel by cross-validation.
    """

    feature_mean: np.ndarray
    components: np.ndarray
    coefficients: np.ndarray
    intercept: np.ndarray
    alphas: np.ndarray

    def predict(self, tokens: np.ndarray | StandardTokens) -> np.ndarray:
        """Predict responses.

        Parameters
        ----------
        tokens : float array of shape (n_images, n_tokens, n_dims), or StandardTokens

        Returns
        -------
        float32 array of shape (n_images, n_voxels)
        """
        return self.of_features(pool_tokens(tokens))

    def of_features(self, features: np.ndarray) -> np.ndarray:
        """Predict from pooled tokens (n_images, n_features): float32 (n_images, n_voxels)."""
        if features.shape[1] != len(self.feature_mean):
            raise InputError(
                f"linear encoder: expected {len(self.feature_mean)} token features, found "
                f"{features.shape[1]}: these tokens are of another encoder"
            )
        return apply_ridge(vars(self), features)


def pool_tokens(tokens: np.ndarray | StandardTokens) -> np.ndarray:
    """Average neighbouring tokens until at most `MAX_FEATURES` features are left.

    Tokens on a square grid are averaged in 2 × 2 squares, others in consecutive pairs.

    Parameters
    ----------
    tokens : array of shape (n_images, n_tokens, n_dims), or StandardTokens
        The latter are read a few at a time.

    Returns
    -------
    float32 array of shape (n_images, n_features)
    """
    if isinstance(tokens, StandardTokens):
        return np.concatenate([pool_tokens(part) for part in tokens.batches(FEW)])
    pooled = np.asarray(tokens, np.float32)
    n_images, n_tokens, n_dims = pooled.shape
    while n_tokens * n_dims > MAX_FEATURES and n_tokens > 1:
        side = round(n_tokens**0.5)
        if side * side == n_tokens and side % 2 == 0:
            pooled = pooled.reshape(n_images, side // 2, 2, side // 2, 2, n_dims).mean((2, 4))
            n_tokens //= 4
        else:
            pairs = n_tokens // 2
            pooled = pooled.reshape(n_images, n_tokens, n_dims)[:, : 2 * pairs]
            pooled = pooled.reshape(n_images, pairs, 2, n_dims).mean(2)
            n_tokens = pairs
    return pooled.reshape(n_images, -1)


def n_pooled(n_tokens: int, n_dims: int) -> int:
    """Features that `pool_tokens` makes of the tokens of an image."""
    return pool_tokens(np.zeros((1, n_tokens, n_dims), np.float32)).shape[1]


def fit_linear(
    tokens: np.ndarray | StandardTokens,
    responses: np.ndarray,
    generator: np.random.Generator,
    n_folds: int = 5,
) -> tuple[LinearEncoder, np.ndarray]:
    """Fit the linear encoder, and predict each image by a fit without this image.

    Memory is that of the pooled features (`MAX_FEATURES` an image, at most) and of their moments,
    by images or by features, whichever are fewer: 9,000 images of 256 × 1664 tokens take 0.24 GB
    and, in float64, 0.35 GB. One band holds all features: penalties of
    their own for tokens at several resolutions (himalaya's ``GroupRidgeCV``) predicted no better
    and took nine times as long (docs/evaluation.md).

    Parameters
    ----------
    tokens : float array of shape (n_images, n_tokens, n_dims), or StandardTokens
        Standardised (`synbrain_cli.model.tokens`).
    responses : float array of shape (n_images, n_voxels)
        Averages over the repeats of each image: one row an image, so no image is on both sides
        of a fold.
    generator : numpy Generator
        Deals images to folds.

    Returns
    -------
    LinearEncoder
    float32 array of shape (n_images, n_voxels)
        Leave-one-out predictions: see `fit_ridge`.
    """
    fit, held_out = fit_ridge(pool_tokens(tokens), responses, generator, n_folds)
    return LinearEncoder(**fit), held_out


def fit_ridge(
    features: np.ndarray, targets: np.ndarray, generator: np.random.Generator, n_folds: int = 5
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    r"""Ridge regression, with the penalty of each target chosen by cross-validation over rows.

    The fit is ridge on the principal components of the features, which with all components kept is
    ridge on the features themselves; `synbrain_cli.model.penalties` chooses. With the penalty
    chosen, the prediction of a row by all the others needs no further fit (Allen 1974,
    *Technometrics* 16:125; Golub, Heath & Wahba 1979, *Technometrics* 21:215):

    .. math:: \hat y_i^{(-i)} = y_i - \frac{y_i - \hat y_i}{1 - h_i}, \qquad
        h_i = \frac1n + \sum_j \frac{s_{ij}^2}{\sum_k s_{kj}^2 + \alpha}

    for scores s on the components (exact where all components are kept).

    Features that do not vary (all images alike, or a single row) leave no component: the prediction
    is then the mean of the targets. There are as many folds as rows, where these are fewer.

    Parameters
    ----------
    features : float array of shape (n_rows, n_features)
    targets : float array of shape (n_rows, n_targets)
    generator : numpy Generator
        Deals rows to folds.

    Returns
    -------
    dict
        ``feature_mean``, ``components``, ``coefficients``, ``intercept`` and ``alphas``, as in
        `LinearEncoder`.
    float32 array of shape (n_rows, n_targets)
        Leave-one-out predictions.
    """
    if not np.ptp(features, axis=0).any():
        return _fit_mean(features, targets)
    from sklearn.model_selection import KFold  # a second to import, which predictions do without

    n_folds = min(n_folds, len(features))
    mean = features.mean(0, dtype=np.float64).astype(np.float32)
    features = features - mean  # not in place: pooling may hand back the caller's own array
    found = principal_components(features, MAX_COMPONENTS)
    del features
    unit = np.sqrt(found.powers.sum() / len(found.vectors))  # root mean squared norm of a row
    powers, vectors = found.powers / unit**2, found.vectors
    scores = (vectors * np.sqrt(powers)).astype(np.float32)
    components = (found.axes / unit).astype(np.float32)
    deal = KFold(n_folds, shuffle=True, random_state=int(generator.integers(2**31)))
    folds = [held_out for _, held_out in deal.split(scores)]
    intercept = targets.mean(0, dtype=np.float64).astype(np.float32)
    held_out = np.asarray(targets - intercept, np.float32)  # centred, then residuals, in place
    best = choose_penalties(scores, held_out, folds, ALPHAS)
    alphas = ALPHAS[best]

    leverage = 1 / len(scores) + vectors**2 @ (powers[:, None] / (powers[:, None] + ALPHAS))
    kept = np.maximum(1 - leverage, 1e-6).astype(np.float32)  # (n_rows, n_penalties)
    coefficients = np.empty((len(powers), targets.shape[1]), np.float32)
    for start in range(0, targets.shape[1], TOGETHER):
        some = slice(start, start + TOGETHER)
        centred = np.ascontiguousarray(held_out[:, some])
        own = scores.T @ centred / (powers[:, None] + alphas[some]).astype(np.float32)
        coefficients[:, some] = own
        residual = (centred - scores @ own) / kept[:, best[some]]
        held_out[:, some] = targets[:, some] - residual
    fit = {
        "feature_mean": mean,
        "components": components,
        "coefficients": coefficients,
        "intercept": intercept,
        "alphas": alphas.astype(np.float32),
    }
    return fit, held_out


def _fit_mean(
    features: np.ndarray, targets: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Ridge on features that do not vary: the mean, and the mean of all other rows."""
    n_rows, n_targets = targets.shape
    mean = targets.mean(0, dtype=np.float64)
    fit = {
        "feature_mean": features.mean(0, dtype=np.float64).astype(np.float32),
        "components": np.zeros((features.shape[1], 1), np.float32),
        "coefficients": np.zeros((1, n_targets), np.float32),
        "intercept": mean.astype(np.float32),
        "alphas": np.zeros(n_targets, np.float32),
    }
    left_out = (mean * n_rows - targets) / (n_rows - 1) if n_rows > 1 else np.zeros(targets.shape)
    return fit, left_out.astype(np.float32)


def apply_ridge(fit: dict[str, np.ndarray], features: np.ndarray) -> np.ndarray:
    """Predict from features (n_rows, n_features): (n_rows, n_targets)."""
    scores = (features - fit["feature_mean"]) @ fit["components"]
    return scores @ fit["coefficients"] + fit["intercept"]
