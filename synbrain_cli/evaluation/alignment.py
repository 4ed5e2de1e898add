r"""Do recorded responses know which images were shown? Agreement of trials with a design.

A design says which image each trial showed. For every trial t and every image j there is a
*template*, what the response to j is expected to be, made of trials of other parts of the recording
than that of t (a part is a session, or a contiguous piece of one). On principal components of the
responses, each of unit variance (ours),

.. math:: m_j = p_j + w_j (\bar y_j - p_j), \qquad w_j = \frac{n_j u}{n_j u + v}

p_j is predicted from the image by ridge regression that saw neither the part of t nor any trial
of image j, and shrunk, component by component, as far as it fits no better than noise.
:math:`\bar y_j` is the mean of the :math:`n_j` trials of the image in other parts; u is the
variance that the residuals of repeats share and v the rest of their variance, estimated in the
other parts: the template is the posterior mean of a Gaussian response. Without repeats it is the
prediction, and where images predict nothing it is the mean of repeats.

The *agreement* of a trial with an image is the cosine of response and template over components.
Under a wrong design it is 0 on average, whatever the noise. Its distribution when images are
permuted among trials is known without permuting any: `alignment_statistics.permutation_z`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import inv
from scipy.sparse import csr_array

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Integers = NDArray[np.int64]

# Ridge penalty per unit of the features' variance: the prior of a signal that has a twentieth of
# the variance of single trials (ours). A cosine does not depend on the scale of the template.
PENALTY = 20.0
N_FOLDS = 4  # of images
LEAST_PARTS, MOST_PARTS = 6, 10  # of a recording
LEAST_TRIALS = 8  # of a part
# Every product of two trials in different parts counts twice in a sum over all trials, once in the
# template of each: variances are twice those of independent products.
TWICE = 2**0.5
LEAST_PAIRS = 20  # of repeats, from which on their shared variance is estimated


@dataclass(frozen=True, eq=False)
class Recording:
    """Responses and images of a subject, reduced to what a check of the design needs.

    Attributes
    ----------
    responses : float32 array of shape (n_trials, n_components)
        Components of the responses; of mean 0 and SD 1 in every part.
    features : float32 array of shape (n_images, n_features)
        Of all images that any design names; centred, with a total variance of 1.
    session : int64 array of shape (n_trials,)
        Session of each trial; trials of a session are consecutive and in recorded order.
    part : int64 array of shape (n_trials,)
        From 0: see `parts_of`.
    fold : int64 array of shape (n_images,)
        From 0: images that are predicted by one ridge.
    """

    responses: Singles
    features: Singles
    session: Integers
    part: Integers
    fold: Integers

    @cached_property
    def sessions(self) -> list[int]:
        """Sessions, ascending."""
        return [int(one) for one in np.unique(self.session)]

    def trials_of(self, session: int) -> Integers:
        """Return the trials of a session, in order."""
        return np.flatnonzero(self.session == session)

    def within(self, trials: Integers) -> Recording:
        """Return the recording of some trials alone, in parts of its own."""
        session = self.session[trials]
        return Recording(
            self.responses[trials], self.features, session, parts_of(session), self.fold
        )


def parts_of(session: Integers) -> Integers:
    """Divide a recording into parts: sessions, pieces of sessions, or groups of many sessions.

    Parameters
    ----------
    session : int array of shape (n_trials,)

    Returns
    -------
    int64 array of shape (n_trials,)
        `LEAST_PARTS` to `MOST_PARTS` numbers from 0, fewer where trials are few.
    """
    numbers, own = np.unique(session, return_inverse=True)
    n_sessions = len(numbers)
    if n_sessions >= LEAST_PARTS:
        return np.asarray(own * min(MOST_PARTS, n_sessions) // n_sessions, np.int64)
    part, n_parts = np.zeros(len(session), np.int64), 0
    for k in range(n_sessions):
        trials = np.flatnonzero(own == k)
        pieces = min(-(-LEAST_PARTS // n_sessions), max(1, len(trials) // LEAST_TRIALS))
        for piece in np.array_split(trials, pieces):
            part[piece] = n_parts
            n_parts += 1
    return part


def standardized_by_part(components: NDArray[np.floating], part: Integers) -> Singles:
    """Return components with mean 0 and SD 1 in every part: float32, of the same shape."""
    out = np.empty(components.shape, np.float32)
    for one in np.unique(part):
        rows = part == one
        values = components[rows].astype(np.float64)
        values -= values.mean(0)
        sd = values.std(0)
        out[rows] = values / np.where(sd > 0, sd, 1)
    return out


@dataclass(frozen=True, eq=False)
class Agreement:
    """Agreement of every trial with the image that a design names.

    Attributes
    ----------
    shown : int64 array of shape (n_trials,)
        The design: row of the features of each trial's image; −1 where it names none.
    features, repeats, both : float64 arrays of shape (n_trials,)
        Cosine between the response and the prediction from the image, the (shrunken) mean of the
        other repeats, and the template; NaN where there is none.
    """

    shown: Integers
    features: Floats
    repeats: Floats
    both: Floats


def image_agreement(recording: Recording, shown: Integers) -> Floats:
    """Agreement of every trial with the prediction from its image, by a fit to this design.

    The same as ``Templates.fit(…).agreement(…).features``, in less time.

    Returns
    -------
    float64 array of shape (n_trials,)
        NaN where the design names no image.
    """
    known = shown >= 0
    part, its = recording.part[known], shown[known]
    responses = recording.responses[known]
    predicted = predict_images(recording, responses, part, its)[part, its]
    out = np.full(len(shown), np.nan)
    out[known] = np.einsum("tc,tc->t", _unit(responses), _unit(predicted), dtype=np.float64)
    return out


@dataclass(frozen=True, eq=False)
class Templates:
    """Templates of all images for the trials of every part.

    Attributes
    ----------
    part : int64 array of shape (n_trials,)
    features, both : float32 arrays of shape (n_parts, n_images, n_components)
        Predictions and templates, of length 1 (0 where nothing is predicted).
    repeats : float32 array of shape (n_parts, n_images, n_components)
        Shrunken means of repeats, likewise.
    """

    part: Integers
    features: Singles
    repeats: Singles
    both: Singles

    @classmethod
    def fit(cls, recording: Recording, shown: Integers) -> Templates:
        """Make the templates that follow from a design.

        Parameters
        ----------
        recording : Recording
        shown : int64 array of shape (n_trials,)
            As in `Agreement`.
        """
        known = shown >= 0
        part, shown = recording.part[known], shown[known]
        responses = recording.responses[known]
        n_parts = int(recording.part.max()) + 1
        predicted = predict_images(recording, responses, part, shown)
        sums, counts = _sums(responses, part, shown, n_parts, len(recording.features))
        total, n_total = sums.sum(0), counts.sum(0)
        repeats = np.zeros_like(predicted)
        both = np.zeros_like(predicted)
        for g in range(n_parts):
            # Of the other parts alone: what is known of this one would favour the given design
            left = part != g
            n = (n_total - counts[g])[:, None]
            mean = (total - sums[g]) / np.maximum(n, 1)
            own = responses[left], part[left], shown[left]
            residuals = own[0] - predicted[g][own[2]]
            repeats[g] = _unit(_weights(n, *_shared_variance(*own)) * mean)
            weights = _weights(n, *_shared_variance(residuals, *own[1:]))
            both[g] = _unit(predicted[g] + weights * (mean - predicted[g]))
            predicted[g] = _unit(predicted[g])
        return cls(recording.part, predicted, repeats, both)

    def agreement(self, recording: Recording, shown: Integers) -> Agreement:
        """Compare every trial with the template of the image that a design names."""
        unit = _unit(recording.responses)
        known = shown >= 0
        found = []
        for kind in (self.features, self.repeats, self.both):
            values = np.full(len(shown), np.nan)
            own = kind[self.part[known], shown[known]]
            values[known] = np.einsum("tc,tc->t", unit[known], own, dtype=np.float64)
            if kind is self.repeats:
                values[known] = np.where(own.any(1), values[known], np.nan)
            found.append(values)
        return Agreement(shown, *found)

    def by_image(
        self, recording: Recording, shown: Integers, images: Integers, kind: str
    ) -> Floats:
        """Agreement of the trials of images with each of them, summed over these trials.

        Parameters
        ----------
        recording : Recording
        shown : int64 array of shape (n_trials,)
            Trials of other images, and with −1, do not count.
        images : int64 array of shape (n_chosen,)
            Ascending.
        kind : {"features", "repeats", "both"}

        Returns
        -------
        float64 array of shape (n_chosen, n_chosen)
        """
        templates = getattr(self, kind)
        out = np.zeros((len(images), len(images)))
        for g in np.unique(self.part):
            rows = np.flatnonzero((self.part == g) & np.isin(shown, images))
            unit = _unit(recording.responses[rows])
            own = np.searchsorted(images, shown[rows])
            present, again = np.unique(own, return_inverse=True)
            sums = np.zeros((len(present), unit.shape[1]), np.float32)
            np.add.at(sums, again.ravel(), unit)
            out[present] += sums @ templates[g, images].T
        return out

    def matrix(self, recording: Recording, trials: Integers, kind: str = "both") -> Singles:
        """Compare trials with all images.

        Parameters
        ----------
        recording : Recording
        trials : int array of shape (n_chosen,)
        kind : {"features", "repeats", "both"}

        Returns
        -------
        float32 array of shape (n_chosen, n_images)
        """
        unit = _unit(recording.responses[trials])
        templates = getattr(self, kind)
        out = np.empty((len(trials), templates.shape[1]), np.float32)
        for g in np.unique(self.part[trials]):
            rows = self.part[trials] == g
            out[rows] = unit[rows] @ templates[g].T
        return out


def predict_images(
    recording: Recording, responses: Singles, part: Integers, shown: Integers
) -> Singles:
    """Predict the responses to all images, for the trials of every part: see the module.

    Each component is shrunk by the positive part of 1 − E₀ / E, where E is the sum of products of
    responses and fitted values, and E₀ its expectation if responses were noise: the rule of James &
    Stein (1961), by which components without signal drop out.

    Parameters
    ----------
    recording : Recording
        Of which the features and folds count, and the number of parts.
    responses : float32 array of shape (n_known, n_components)
    part, shown : int64 arrays of shape (n_known,)
        Of the trials whose image is known.

    Returns
    -------
    float32 array of shape (n_parts, n_images, n_components)
    """
    n_parts = int(recording.part.max()) + 1
    features, fold = recording.features, recording.fold
    n_folds, n_features = int(fold.max()) + 1, features.shape[1]
    n_components = responses.shape[1]
    squares = np.zeros((n_parts, n_folds, n_features, n_features), np.float32)
    products = np.zeros((n_parts, n_folds, n_features, n_components), np.float32)
    powers = np.zeros((n_parts, n_folds, n_components))
    counts = np.zeros((n_parts, n_folds))
    for g in range(n_parts):
        for f in range(n_folds):
            rows = (part == g) & (fold[shown] == f)
            seen, own = features[shown[rows]], responses[rows]
            squares[g, f] = seen.T @ seen
            products[g, f] = seen.T @ own
            powers[g, f] = np.square(own, dtype=np.float64).sum(0)
            counts[g, f] = rows.sum()
    out = np.empty((n_parts, len(features), n_components), np.float32)
    for g in range(n_parts):
        left = [x.sum(0) - x[g] for x in (squares, products, powers, counts)]
        for f in range(n_folds):
            moments, right, power, n = (x.sum(0) - x[f] for x in left)
            inverse = inv(
                moments + PENALTY * np.eye(n_features), overwrite_a=True, check_finite=False
            )
            weights = inverse @ right
            fitted = (right * weights).sum(0)
            noise = power / max(n, 1) * (n_features - PENALTY * np.trace(inverse))
            shrunk = np.maximum(1 - noise / np.maximum(fitted, 1e-12), 0)
            own = fold == f
            out[g, own] = features[own] @ (weights * shrunk).astype(np.float32)
    return out


def _sums(
    values: Singles, part: Integers, shown: Integers, n_parts: int, n_images: int
) -> tuple[Singles, NDArray[np.float32]]:
    """Sums over the trials of an image in a part, and their number."""
    cell = part * n_images + shown
    shape = (n_parts * n_images, len(values))
    chosen = csr_array((np.ones(len(cell), np.float32), (cell, np.arange(len(cell)))), shape=shape)
    counts = np.bincount(cell, minlength=shape[0]).astype(np.float32)
    sums = (chosen @ values).reshape(n_parts, n_images, -1)
    return np.asarray(sums, np.float32), counts.reshape(n_parts, n_images)


def _shared_variance(values: Singles, part: Integers, shown: Integers) -> tuple[Floats, Floats]:
    """Variance that repeats in different parts share, and the rest: (n_components,)."""
    variance = np.square(values, dtype=np.float64).mean(0) if len(values) else 0.0
    shared = np.zeros(values.shape[1])
    n_images = int(shown.max(initial=0)) + 1
    sums, counts = _sums(values, part, shown, int(part.max(initial=0)) + 1, n_images)
    # Every pair of trials, less the pairs within parts: each counted twice
    n_pairs = float(
        np.square(counts.sum(0), dtype=np.float64).sum() - np.square(counts, dtype=np.float64).sum()
    )
    if n_pairs >= 2 * LEAST_PAIRS:
        pairs = np.square(sums.sum(0), dtype=np.float64).sum(0)
        pairs -= np.square(sums, dtype=np.float64).sum((0, 1))
        error = variance / np.sqrt(n_pairs / 2)  # where there is none, most estimates are below it
        shared = np.clip(pairs / n_pairs - error, 0, 0.95 * variance)
    return shared, np.maximum(variance - shared, 1e-6)


def _weights(n: NDArray[np.float32], shared: Floats, rest: Floats) -> Singles:
    """Weight of the mean of n repeats against what was expected: (n_images, n_components)."""
    return np.asarray(n * shared / (n * shared + rest), np.float32)


def _unit(values: Singles) -> Singles:
    """Rows of length 1; rows of zeros stay."""
    length = np.sqrt(np.einsum("tc,tc->t", values, values, dtype=np.float64))
    return np.asarray(values / np.where(length > 0, length, 1)[:, None], np.float32)
