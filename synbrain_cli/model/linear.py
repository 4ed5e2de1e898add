"""Linear encoder: regressions from image tokens to voxels, tuned and stacked voxel by voxel.

The linear encoder is the baseline of every result, and part of every bundle.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np

from synbrain_cli.errors import InputError
from synbrain_cli.groups import Groups, count_groups, deal, members, require_two_groups
from synbrain_cli.model.fields import FieldRidge, fit_fields, is_grid
from synbrain_cli.model.penalties import TOGETHER, choose_penalties
from synbrain_cli.model.principal import principal_components
from synbrain_cli.model.stack import fit_stack
from synbrain_cli.model.tokens import FEW, StandardBand, StandardTokens
from synbrain_cli.model.uncertainty import Leverage
from synbrain_cli.progress import UNSEEN, Share
from synbrain_cli.tokens import Tokens

MAX_FEATURES = 24_576  # of a band; 9,000 NSD images × these are 885 MB in float32
MAX_COMPONENTS = 2_048
LEAST_IMAGES = 20  # that receptive fields are compared on
N_FOLDS = 5  # by which penalties are chosen
ALPHAS = np.logspace(-4, 3, 15)  # relative to the mean squared norm of an image's features

# Shares of the time, measured with half a subject of NSD
LINEAR_TIMES = 10, 10, 1  # ridges, receptive fields, stack
RIDGE_TIMES = 1, 10  # pooling of a band's tokens, ridge


@dataclass(frozen=True)
class Ridge:
    """Ridge regression in the principal components of a band's pooled tokens.

    ``prediction = (pool(tokens) − feature_mean) @ components @ coefficients + intercept``

    Attributes
    ----------
    feature_mean : float32 array of shape (n_features,)
    components : float32 array of shape (n_features, n_components)
    coefficients : float32 array of shape (n_components, n_voxels)
    intercept : float32 array of shape (n_voxels,)
    alphas : float32 array of shape (n_voxels,)
        Penalty chosen for each voxel by cross-validation.
    known : Leverage, optional
        How unsure predictions are; None of features that do not vary, and of models of earlier
        versions.
    """

    feature_mean: np.ndarray
    components: np.ndarray
    coefficients: np.ndarray
    intercept: np.ndarray
    alphas: np.ndarray
    known: Leverage | None = None

    def predict(self, tokens: np.ndarray) -> np.ndarray:
        """Predict from standardised tokens (n_images, n_tokens, n_dims): (n_images, n_voxels)."""
        return apply_ridge(vars(self), pool_tokens(tokens))

    def scores(self, tokens: np.ndarray | StandardBand) -> tuple[np.ndarray, np.ndarray]:
        """Scores of images on the components, from standardised tokens, and what these leave.

        Returns
        -------
        float32 array of shape (n_images, n_components)
        float32 array of shape (n_images, n_features)
            Features less their mean.
        """
        centred = pool_tokens(tokens) - self.feature_mean
        return centred @ self.components, centred

    def leverage(self, scores: np.ndarray, centred: np.ndarray) -> np.ndarray:
        """Leverage of images, by voxel, from what `scores` returns: float64 (n_images, n_voxels).

        `synbrain_cli.model.uncertainty` defines it; ``known`` is needed.
        """
        assert self.known is not None
        unit = np.sqrt(np.square(self.components[:, 0], dtype=np.float64).sum())
        whole = np.square(centred, dtype=np.float64).sum(1) * unit**2
        beyond = np.maximum(whole - np.square(scores, dtype=np.float64).sum(1), 0)
        return self.known.of_scores(scores, beyond)[:, self.known.column(self.alphas)]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return named arrays, for a file."""
        named = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "known"}
        if self.known is not None:
            named |= {f"known.{name}": value for name, value in vars(self.known).items()}
        return named

    @classmethod
    def from_arrays(cls, named: dict[str, np.ndarray]) -> Ridge:
        """Rebuild from the named arrays of a file."""
        own = {name: value for name, value in named.items() if not name.startswith("known.")}
        of_known = {n.removeprefix("known."): v for n, v in named.items() if n not in own}
        return cls(**own, known=Leverage(**of_known) if of_known else None)


@dataclass(frozen=True)
class LinearEncoder:
    """Several regressions per band, stacked voxel by voxel.

    Attributes
    ----------
    ridges : tuple of Ridge
        One per band: every place of the image, with a penalty per voxel.
    fields : tuple of FieldRidge or None
        One per band on a square grid: the place that a voxel sees; None for other bands.
    weights : float32 array of shape (n_members, n_voxels)
        Of the ridges, then of the fields that there are: of their deviations from the mean.
    mean : float32 array of shape (n_voxels,)
        Mean response to the training images.
    """

    ridges: tuple[Ridge, ...]
    fields: tuple[FieldRidge | None, ...]
    weights: np.ndarray
    mean: np.ndarray

    def predict(self, tokens: Tokens | StandardTokens) -> np.ndarray:
        """Predict responses from standardised tokens, some images at a time.

        Returns
        -------
        float32 array of shape (n_images, n_voxels)

        Raises
        ------
        InputError
            When the tokens are of other bands.
        """
        if isinstance(tokens, StandardTokens):
            return np.concatenate([self.predict(part) for part in tokens.batches(TOGETHER)])
        self._check_bands(tokens)
        predicted = np.tile(self.mean, (len(tokens), 1))
        for member, band, weight in zip(*self._members, self.weights, strict=True):
            if weight.any():
                predicted += weight * (member.predict(tokens.bands[band]) - self.mean)
        return predicted

    def by_band(self) -> np.ndarray:
        """Weight of each band in the stack, summed over its members: (n_bands, n_voxels)."""
        total = np.zeros((len(self.ridges), self.weights.shape[1]), np.float32)
        for band, weight in zip(self._members[1], self.weights, strict=True):
            total[band] += weight
        return total

    def contributions(self, parts: Iterable[Tokens]) -> np.ndarray:
        r"""Return how much each band contributes to the prediction of each voxel.

        Weights alone do not say it: they depend on the scale of the predictions that they weigh.
        With the members m of band b (its ridge and, on a square grid, its receptive fields), their
        weights w and predictions, the contribution is a standard deviation over images i (ours):

        .. math:: c_{bv} = \mathrm{SD}_i \sum_{m \in b} w_{mv}\, \hat y_{miv}

        Contributions of bands that predict alike do not add up to the SD of their sum.

        Parameters
        ----------
        parts : iterable of Tokens
            Standardised tokens of the images, some at a time.

        Returns
        -------
        float32 array of shape (n_bands, n_voxels)
            In SDs of the responses; exactly 0 where all weights of a band are.

        Raises
        ------
        InputError
            When the tokens are of other bands.
        """
        shape = len(self.ridges), self.weights.shape[1]
        first, total, squares = np.zeros(shape, np.float32), np.zeros(shape), np.zeros(shape)
        n_images = 0
        for tokens in parts:
            self._check_bands(tokens)
            for band in range(len(self.ridges)):
                own = self._predict_band(tokens, band)
                if n_images == 0:  # moments about it: equal predictions have an SD of exactly 0
                    first[band] = own[0]
                own -= first[band]
                total[band] += own.sum(0, dtype=np.float64)
                squares[band] += np.einsum("iv,iv->v", own, own, dtype=np.float64)
            n_images += len(tokens)
        if n_images == 0:
            return first
        variance = squares / n_images - (total / n_images) ** 2
        return np.sqrt(np.maximum(variance, 0)).astype(np.float32)

    def _predict_band(self, tokens: Tokens, band: int) -> np.ndarray:
        """Weighted predictions of a band's members, summed: float32 (n_images, n_voxels)."""
        predicted = np.zeros((len(tokens), self.weights.shape[1]), np.float32)
        for member, own, weight in zip(*self._members, self.weights, strict=True):
            if own == band and weight.any():
                predicted += weight * member.predict(tokens.bands[band])
        return predicted

    def _check_bands(self, tokens: Tokens) -> None:
        found, expected = tokens.shapes, self._n_features
        if [n_pooled(*shape) for shape in found] != expected:
            raise InputError(
                f"linear encoder: expected bands of {expected} pooled features, found tokens "
                f"{found}: these tokens are of another encoder"
            )

    @property
    def knows_leverage(self) -> bool:
        """Whether every band's ridge knows how unsure its predictions are."""
        return all(ridge.known is not None for ridge in self.ridges)

    def leverage(self, tokens: Tokens) -> tuple[np.ndarray, list[np.ndarray]]:
        """Leverage of images, from standardised tokens: bands averaged, each by its weight.

        Returns
        -------
        float32 array of shape (n_images, n_voxels)
        list of float32 arrays of shape (n_images, n_components)
            Scores on each band's components, which it is computed from.
        """
        self._check_bands(tokens)
        found: list[np.ndarray] = []

        def each() -> Iterator[np.ndarray]:
            for ridge, band in zip(self.ridges, tokens.bands, strict=True):
                scores, centred = ridge.scores(band)
                found.append(scores)
                yield ridge.leverage(scores, centred)

        return np.asarray(self._averaged(each()), np.float32), found

    def leverages_left_out(self, images: Iterable[int]) -> Iterator[np.ndarray]:
        """Yield the leverage of training images, each in the fit without it.

        Yields
        ------
        float32 array of shape (n_voxels,)
        """
        known = [(r.known, r.known.column(r.alphas)) for r in self.ridges if r.known is not None]
        for image in images:
            each = (one.left_out[image, column] for one, column in known)
            yield np.asarray(self._averaged(each), np.float32)

    def _averaged(self, each: Iterable[np.ndarray]) -> np.ndarray:
        """Average over bands by their weights."""
        total: np.ndarray = sum(w * one for w, one in zip(self.band_weights(), each, strict=True))
        return total

    def band_weights(self) -> np.ndarray:
        """Weight of each band, of sum 1; equal weights where a voxel has none.

        Returns
        -------
        float32 array of shape (n_bands, n_voxels)
        """
        weights = self.by_band()
        weights = np.where(weights.any(0), weights, np.float32(1))
        shares: np.ndarray = weights / weights.sum(0)
        return shares

    @property
    def _members(self) -> tuple[list[Ridge | FieldRidge], list[int]]:
        """Members in the order of the weights, and the band of each."""
        with_field = [(k, field) for k, field in enumerate(self.fields) if field is not None]
        members: list[Ridge | FieldRidge] = [*self.ridges, *(field for _, field in with_field)]
        return members, [*range(len(self.ridges)), *(k for k, _ in with_field)]

    @property
    def _n_features(self) -> list[int]:
        return [len(ridge.feature_mean) for ridge in self.ridges]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return named arrays, for a file."""
        named = {"weights": self.weights, "mean": self.mean}
        for k, (ridge, field) in enumerate(zip(self.ridges, self.fields, strict=True)):
            named |= {f"ridge.{k}.{name}": value for name, value in ridge.arrays().items()}
            if field is not None:
                named |= {f"field.{k}.{name}": value for name, value in field.arrays().items()}
        return named

    @classmethod
    def from_arrays(cls, named: dict[str, np.ndarray], n_bands: int) -> LinearEncoder:
        """Rebuild from the named arrays of a file."""

        def part(kind: str, k: int) -> dict[str, np.ndarray]:
            prefix = f"{kind}.{k}."
            return {n.removeprefix(prefix): v for n, v in named.items() if n.startswith(prefix)}

        of_fields = [part("field", k) for k in range(n_bands)]
        return cls(
            tuple(Ridge.from_arrays(part("ridge", k)) for k in range(n_bands)),
            tuple(FieldRidge(**field) if field else None for field in of_fields),
            named["weights"],
            named["mean"],
        )


def pool_tokens(tokens: np.ndarray | StandardBand, share: Share = UNSEEN) -> np.ndarray:
    """Average neighbouring tokens of a band until at most `MAX_FEATURES` features are left.

    Tokens on a square grid are averaged in 2 × 2 squares, others in consecutive pairs.

    Parameters
    ----------
    tokens : array of shape (n_images, n_tokens, n_dims), or StandardBand
        The latter are read a few at a time.
    share : Share
        Of a task whose progress is shown.

    Returns
    -------
    float32 array of shape (n_images, n_features)
    """
    if isinstance(tokens, StandardBand):
        n_batches = -(-tokens.shape[0] // FEW)
        parts = zip(tokens.batches(FEW), share.over(range(n_batches)), strict=True)
        return np.concatenate([pool_tokens(part) for part, _ in parts])
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


def pool_bands(tokens: Tokens | StandardTokens, share: Share = UNSEEN) -> np.ndarray:
    """Put the pooled tokens of all bands side by side, each band with the same total variance.

    Of a single band, they are as `pool_tokens` returns them.

    Returns
    -------
    float32 array of shape (n_images, n_features)
    """
    bands: Sequence[np.ndarray | StandardBand] = tokens.bands
    pooled = [pool_tokens(band, own) for band, own in share.each(bands)]
    if len(pooled) == 1:
        return pooled[0]
    widest = max(one.shape[1] for one in pooled)
    return np.concatenate([one * (widest / one.shape[1]) ** 0.5 for one in pooled], 1)


def n_pooled(n_tokens: int, n_dims: int) -> int:
    """Features that `pool_tokens` makes of the tokens of an image."""
    return pool_tokens(np.zeros((1, n_tokens, n_dims), np.float32)).shape[1]


def fit_linear(
    tokens: StandardTokens,
    responses: np.ndarray,
    generator: np.random.Generator,
    share: Share = UNSEEN,
    groups: Groups | None = None,
) -> tuple[LinearEncoder, np.ndarray]:
    """Fit the linear encoder, and predict each image by a fit without this image.

    Every band has a ridge on its pooled tokens and, on a square grid, one within the receptive
    field of each voxel; penalties, fields and the weights of all in the stack are chosen voxel by
    voxel. Bands with penalties of their own matter where they differ in kind; stacking ridges of
    single bands reaches what a joint ridge with a penalty per band does (himalaya's
    ``GroupRidgeCV``) at a fraction of its cost (docs/evaluation.md).

    Parameters
    ----------
    tokens : StandardTokens
        Of the images.
    responses : float array of shape (n_images, n_voxels)
        Averages over the repeats of each image: one row an image, so no image is on both sides
        of a fold.
    generator : numpy Generator
        Deals images to folds.
    share : Share
        Of a task whose progress is shown.
    groups : int array of shape (n_images,), optional
        Groups of images that are never both fitted and held out (`synbrain_cli.groups`).

    Returns
    -------
    LinearEncoder
    float32 array of shape (n_images, n_voxels)
        Predictions of every image without it, and without the others of its group: leave-one-out by
        ridges (`fit_ridge`), by folds of receptive fields (`synbrain_cli.model.fields.fit_fields`);
        the stack weighs them by weights of other images.
    """
    ridges, of_bands, left_out = [], [], []
    of_ridges, of_fields, of_stack = share.split(*LINEAR_TIMES)
    for band, own in of_ridges.each(tokens.bands):
        reading, fitting = own.split(*RIDGE_TIMES)
        found = regress(pool_tokens(band, reading), responses, generator, fitting, groups)
        ridges.append(Ridge(**found.fit, known=found.known))
        left_out.append(found.left_out)
    for band, own in of_fields.each(tokens.bands):
        field = None
        if is_grid(band.shape[1]) and len(responses) >= LEAST_IMAGES:
            field, without = fit_fields(band, responses, generator, own, groups)
            left_out.append(without)
        of_bands.append(field)
    mean = responses.mean(0, dtype=np.float64).astype(np.float32)
    if len(responses) < 2:  # nothing to weigh them by
        weights = np.zeros((len(left_out), responses.shape[1]), np.float32)
        weights[0] = 1
        return LinearEncoder(tuple(ridges), tuple(of_bands), weights, mean), left_out[0]
    # What little is known shrinks predictions towards the mean response, not towards 0; that of an
    # image left out, towards the mean of the others.
    others = _mean_of_others(responses, mean, groups)
    for one in left_out:
        one -= others
    weights, stacked = fit_stack(
        left_out, responses - others, generator, share=of_stack, groups=groups
    )
    return LinearEncoder(tuple(ridges), tuple(of_bands), weights, mean), stacked + others


def _mean_of_others(targets: np.ndarray, mean: np.ndarray, groups: Groups | None) -> np.ndarray:
    """Mean of all rows but each row itself, or its group: float32, of the shape of the targets.

    Two rows or more, of two groups or more.
    """
    n_rows = len(targets)
    if groups is None:
        return np.asarray((n_rows * mean - targets) / (n_rows - 1), np.float32)
    require_two_groups(groups)
    others = np.empty(targets.shape, np.float32)
    for rows in members(groups):
        own = targets[rows].sum(0, dtype=np.float64)
        others[rows] = (n_rows * mean - own) / (n_rows - len(rows))
    return others


@dataclass(frozen=True)
class Regression:
    """A ridge regression, and what it knows of itself.

    Attributes
    ----------
    fit : dict of arrays
        ``feature_mean``, ``components``, ``coefficients``, ``intercept`` and ``alphas``, as in
        `Ridge`.
    left_out : float32 array of shape (n_rows, n_targets)
        Predictions of each row without it, and without its group.
    known : Leverage, optional
        How unsure predictions are; None of features that do not vary.
    """

    fit: dict[str, np.ndarray]
    left_out: np.ndarray
    known: Leverage | None = None


def fit_ridge(
    features: np.ndarray,
    targets: np.ndarray,
    generator: np.random.Generator,
    share: Share = UNSEEN,
    groups: Groups | None = None,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Ridge regression: the attributes ``fit`` and ``left_out`` of `regress`."""
    found = regress(features, targets, generator, share, groups)
    return found.fit, found.left_out


def regress(
    features: np.ndarray,
    targets: np.ndarray,
    generator: np.random.Generator,
    share: Share = UNSEEN,
    groups: Groups | None = None,
) -> Regression:
    r"""Ridge regression, with the penalty of each target chosen by cross-validation over rows.

    The fit is ridge on the principal components of the features, which with all components kept is
    ridge on the features themselves; `synbrain_cli.model.penalties` chooses. With the penalty
    chosen, the prediction of a row by all the others needs no further fit (Allen 1974,
    *Technometrics* 16:125; Golub, Heath & Wahba 1979, *Technometrics* 21:215):

    .. math:: \hat y_i^{(-i)} = y_i - \frac{y_i - \hat y_i}{1 - h_i}, \qquad
        h_i = \frac1n + \sum_j \frac{s_{ij}^2}{\sum_k s_{kj}^2 + \alpha}

    for scores s on the components (exact where all components are kept). Rows of a group G are left
    out together: with the block H of the hat matrix that is theirs, their residuals are
    :math:`(I - H)^{-1} (y_G - \hat y_G)` (Cook & Weisberg 1982, *Residuals and Influence in
    Regression*, section 3.6).

    Features that do not vary (all images alike, or a single row) leave no component: the prediction
    is then the mean of the targets. There are as many folds as rows or groups, where these are
    fewer.

    Parameters
    ----------
    features : float array of shape (n_rows, n_features)
    targets : float array of shape (n_rows, n_targets)
    generator : numpy Generator
        Deals rows to folds.
    share : Share
        Of a task whose progress is shown.
    groups : int array of shape (n_rows,), optional
        Groups of rows that are never both fitted and held out.

    Raises
    ------
    InputError
        All rows are of one group.
    """
    if not np.ptp(features, axis=0).any():
        return Regression(*_fit_mean(features, targets, groups))
    n_folds = min(N_FOLDS, count_groups(len(features), groups))
    mean = features.mean(0, dtype=np.float64).astype(np.float32)
    features = features - mean  # not in place: pooling may hand back the caller's own array
    n_targets = targets.shape[1]
    decomposing, choosing, fitting = share.split(3, 1 + n_targets / 3000, n_targets / 15_000)
    found = principal_components(features, MAX_COMPONENTS)
    length = np.einsum("ij,ij->i", features, features, dtype=np.float64)
    del features
    decomposing.to(1)
    unit = np.sqrt(found.powers.sum() / len(found.vectors))  # root mean squared norm of a row
    powers, vectors = found.powers / unit**2, found.vectors
    scores = (vectors * np.sqrt(powers)).astype(np.float32)
    components = (found.axes / unit).astype(np.float32)
    folds = deal(len(scores), n_folds, generator, groups)
    intercept = targets.mean(0, dtype=np.float64).astype(np.float32)
    held_out = np.asarray(targets - intercept, np.float32)  # centred, then residuals, in place
    best = choose_penalties(scores, held_out, folds, ALPHAS, choosing)
    alphas = ALPHAS[best]

    leverage = 1 / len(scores) + vectors**2 @ (powers[:, None] / (powers[:, None] + ALPHAS))
    kept = np.maximum(1 - leverage, 1e-6)  # (n_rows, n_penalties)
    beyond = np.maximum(length / unit**2 - vectors**2 @ powers, 0)
    parts = None if groups is None else _GroupsLeftOut(vectors, powers, groups)
    within = leverage / kept if parts is None else parts.leverage()
    left_out = within + beyond[:, None] / ALPHAS
    kept = kept.astype(np.float32)
    coefficients = np.empty((len(powers), targets.shape[1]), np.float32)
    for start in fitting.over(range(0, targets.shape[1], TOGETHER)):
        some = slice(start, start + TOGETHER)
        centred = np.ascontiguousarray(held_out[:, some])
        own = scores.T @ centred / (powers[:, None] + alphas[some]).astype(np.float32)
        coefficients[:, some] = own
        residual = centred - scores @ own
        if parts is None:
            residual /= kept[:, best[some]]
        else:
            parts.leave_out(residual, best[some])
        held_out[:, some] = targets[:, some] - residual
    fit = {
        "feature_mean": mean,
        "components": components,
        "coefficients": coefficients,
        "intercept": intercept,
        "alphas": alphas.astype(np.float32),
    }
    known = Leverage(
        powers.astype(np.float32),
        ALPHAS.astype(np.float32),
        left_out.astype(np.float32),
    )
    return Regression(fit, held_out, known)


class _GroupsLeftOut:
    """Fits without one group of rows after the other, by the hat matrix of the fit to all.

    Parameters
    ----------
    vectors : float array of shape (n_rows, n_components)
        Scores of length 1.
    powers : float array of shape (n_components,)
    groups : int array of shape (n_rows,)
    """

    def __init__(self, vectors: np.ndarray, powers: np.ndarray, groups: Groups) -> None:
        self._shrinkage = powers[:, None] / (powers[:, None] + ALPHAS)
        self._n_rows = len(vectors)
        self._parts = [(rows, vectors[rows].astype(np.float64)) for rows in members(groups)]

    def _hat(self, own: np.ndarray, penalty: int) -> np.ndarray:
        """Block of the hat matrix (n_own, n_own); its eigenvalues are below 1."""
        hat: np.ndarray = 1 / self._n_rows + (own * self._shrinkage[:, penalty]) @ own.T
        return hat * (1 - 1e-6)

    def leverage(self) -> np.ndarray:
        """Leverage of every row in the fit without its group: float64 (n_rows, n_penalties)."""
        found = np.empty((self._n_rows, len(ALPHAS)))
        for rows, own in self._parts:
            for penalty in range(len(ALPHAS)):
                hat = self._hat(own, penalty)
                left = np.linalg.solve(np.eye(len(hat)) - hat, hat)
                found[rows, penalty] = np.diagonal(left)
        return found

    def leave_out(self, residual: np.ndarray, penalties: np.ndarray) -> None:
        """Change residuals (n_rows, n_targets) to those of fits without each row's group.

        ``penalties`` (n_targets,) is the number of each target's penalty.
        """
        for penalty in np.unique(penalties):
            targets = np.flatnonzero(penalties == penalty)
            for rows, own in self._parts:
                apart = np.eye(len(rows)) - self._hat(own, penalty)
                block = np.ix_(rows, targets)
                residual[block] = np.linalg.solve(apart, residual[block])


def _fit_mean(
    features: np.ndarray, targets: np.ndarray, groups: Groups | None = None
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
    if n_rows < 2:
        return fit, np.zeros(targets.shape, np.float32)
    return fit, _mean_of_others(targets, mean, groups)


def apply_ridge(fit: dict[str, np.ndarray], features: np.ndarray) -> np.ndarray:
    """Predict from features (n_rows, n_features): (n_rows, n_targets)."""
    scores = (features - fit["feature_mean"]) @ fit["components"]
    return scores @ fit["coefficients"] + fit["intercept"]
