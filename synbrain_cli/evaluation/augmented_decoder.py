"""A linear decoder fitted to real and synthesized trials, and the images that it identifies.

Ridge regression from single trials to the principal components of image tokens. Synthesized rows
have a weight; weight and penalty are chosen on real trials of validation images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from synbrain_cli.evaluation.retrieval import N_CANDIDATES, rounds
from synbrain_cli.metrics.accuracy import average_repeats
from synbrain_cli.metrics.identification import n_way, pattern_similarity, two_way

SCORES = ("two_way_trials", "two_way_averages", "retrieval_trials", "retrieval_averages")
WEIGHTS = (0.1, 0.3, 1.0)  # of a synthesized trial; a real one has 1
# Relative to the mean squared norm of a response. Fine steps: coarse ones would make the curve
# over amounts jump by more than the amounts do.
PENALTIES = np.logspace(-3, 4, 57)

# Responses (n_rows, n_voxels) and components (n_rows, n_components) of the images shown.
Rows = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Choice:
    """What a decoder is fitted with.

    Attributes
    ----------
    weight : float
        Of a synthesized trial, where a real one has 1.
    penalty : float
        Relative to the mean squared norm of a response; one for all components.
    validation : float
        Share of the variance of real validation images' components that was predicted from their
        single trials.
    """

    weight: float
    penalty: float
    validation: float


class AugmentedRidge:
    r"""Ridge regression of real and added rows, for any penalty at the cost of one.

    .. math:: \min_B \sum_{r\ \mathrm{real}} \lVert y_r - \bar y - (x_r - \bar x) B \rVert^2
        + w \sum_{s\ \mathrm{added}} \lVert y_s - \bar y' - (x_s - \bar x') B \rVert^2
        + \alpha u \lVert B \rVert^2

    with u the weighted mean of the rows' squared norms. Added rows have means of their own, so that
    they say how components go with responses and nothing else: the mean of more images, known
    without any response, would lower squared errors too, and so would any responses that bring
    images along.

    Parameters
    ----------
    real, added : pairs of float32 arrays (n_rows, n_voxels) and (n_rows, n_targets)
        x and y; the added ones may be no rows.
    weight : float
        w, 0 or more.
    """

    def __init__(
        self,
        real: Rows,
        added: Rows,
        weight: float,
    ) -> None:
        self.centre, self.intercept = (values.mean(0, dtype=np.float64) for values in real)
        self.centre = self.centre.astype(np.float32)
        x, y = real[0] - self.centre, real[1] - self.intercept
        n_rows = float(len(x))
        if len(added[0]):
            root = np.float32(np.sqrt(weight))
            rows = [root * (v - v.mean(0, dtype=np.float64).astype(v.dtype)) for v in added]
            x, y = np.concatenate([x, rows[0]]), np.concatenate([y, rows[1]])
            n_rows += weight * len(rows[0])
        if len(x) < x.shape[1]:  # by the rows' Gram matrix, or the voxels': the smaller one
            values, vectors = np.linalg.eigh((x @ x.T).astype(np.float64))
            keep = values > 1e-7 * values[-1]
            values, vectors = values[keep], vectors[:, keep]
            self._rows, self._axes = x, vectors / np.sqrt(values)
            self._weights = np.sqrt(values)[:, None] * (vectors.T @ y)
        else:
            values, vectors = np.linalg.eigh((x.T @ x).astype(np.float64))
            values = np.maximum(values, 0)
            self._rows, self._axes = None, vectors
            self._weights = vectors.T @ (x.T @ y)
        self._values, self._unit = values, values.sum() / n_rows

    def path(self, x: np.ndarray, penalties: Iterable[float]) -> Iterator[np.ndarray]:
        """Predictions (n_rows, n_targets) of rows (n_rows, n_voxels), one penalty α at a time."""
        scores = x - self.centre
        if self._rows is not None:
            scores = scores @ self._rows.T
        scores = scores @ self._axes
        for penalty in penalties:
            shrunk = scores / (self._values + penalty * self._unit)
            yield shrunk @ self._weights + self.intercept


def choose(fitting: Rows, validation: Rows, added: Rows) -> Choice:
    """Choose weight and penalty by real trials of images that no row fitted knows.

    Parameters
    ----------
    fitting, validation, added : pairs of arrays (n_trials, n_voxels) and (n_trials, n_components)
        Responses and components of their images: real trials of training images; real trials of
        validation images; synthesized trials, by a model without validation images.
    """
    x, y = validation
    total = float(((y - fitting[1].mean(0)) ** 2).sum())
    best = Choice(WEIGHTS[-1], float(PENALTIES[-1]), -np.inf)
    for weight in WEIGHTS if len(added[0]) else WEIGHTS[-1:]:
        ridge = AugmentedRidge(fitting, added, weight)
        for penalty, predicted in zip(PENALTIES, ridge.path(x, PENALTIES), strict=True):
            r2 = 1 - float(((predicted - y) ** 2).sum()) / total
            if r2 > best.validation:
                best = Choice(weight, float(penalty), r2)
    return best


def fit_decoder(real: Rows, added: Rows, choice: Choice) -> Callable[[np.ndarray], np.ndarray]:
    """Fit to all real trials and the synthesized ones; returns responses → components."""
    ridge = AugmentedRidge(real, added, choice.weight)
    return lambda responses: next(ridge.path(responses, [choice.penalty]))


def identify(predicted: np.ndarray, image_index: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Identify test images by the similarity of decoded components with the candidates'.

    Parameters
    ----------
    predicted : array of shape (n_trials, n_components)
        Decoded from single trials. The decoder is linear: what it makes of an average of repeats
        is the average of what it makes of them.
    image_index : int array of shape (n_trials,)
    candidates : array of shape (n_images, n_components)

    Returns
    -------
    float64 array of shape (n_images, n_scores)
        `SCORES` of each image; of single trials, the mean over its repeats.
    """
    averages, _, _ = average_repeats(predicted, image_index)
    n_candidates = min(N_CANDIDATES, len(candidates))
    similarity = pattern_similarity(predicted, candidates)
    queries = [similarity[chosen] for chosen in rounds(image_index, len(candidates))]
    whole = pattern_similarity(averages, candidates)
    return np.stack(
        [
            np.mean([two_way(s) for s in queries], 0),
            two_way(whole),
            np.mean([n_way(s, n_candidates) for s in queries], 0),
            n_way(whole, n_candidates),
        ],
        axis=1,
    )
