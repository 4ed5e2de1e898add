r"""Two-sample tests by classifiers: recorded trials against drawn ones, given the image.

A classifier learns to tell the two from some images and is tested on others (C2ST; Lopez-Paz &
Oquab 2017, ICLR). Its area under the ROC curve is the probability that a recorded trial gets a
higher score than a drawn one; .5 where the two have one distribution, or where their difference is
of a kind that this classifier does not see: several are asked (`CLASSIFIERS`). What they see of a
trial and of its image is in `synbrain_cli.metrics.trial_features`.

The images, not the trials, are the unit everywhere: they are dealt to the folds as a whole,
resampled as a whole by the bootstrap, and exchanged as a whole by the permutation test, because the
trials of one image share its signal, and its draws share theirs. Images of a group, whose signals
are alike, are one unit (`synbrain_cli.groups`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from synbrain_cli.errors import InputError
from synbrain_cli.groups import Groups, deal
from synbrain_cli.threads import one_thread

N_OUTER, N_INNER = 5, 3  # folds of images: of the scores; of the choice of a setting within them
LEAST_IMAGES = 2 * N_OUTER
CLIP = 5.0  # standardised features beyond it tell no more (ours)

Scores = NDArray[np.float64]


class Classifier(Protocol):
    """What is used of a classifier of scikit-learn."""

    def fit(self, x: NDArray[np.float64], y: NDArray[np.bool_]) -> Any:
        """Learn to tell rows."""

    def predict_proba(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probability of each class."""


# A setting, and the seed of what is random → a classifier
Maker = Callable[[Any, int], Classifier]


def _logistic(penalty: float, seed: int) -> Classifier:
    """Logistic regression; the features hold squares, so that it sees variances."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=penalty, max_iter=500)


def _trees(n_leaves: int, seed: int) -> Classifier:
    """Gradient-boosted trees."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(
        max_iter=60,
        learning_rate=0.1,
        max_leaf_nodes=n_leaves,
        l2_regularization=10.0,
        max_bins=63,
        early_stopping=False,
        random_state=seed,
    )


def _perceptron(penalty: float, seed: int) -> Classifier:
    """One hidden layer of 16 units."""
    from sklearn.neural_network import MLPClassifier

    return MLPClassifier((16,), alpha=penalty, solver="lbfgs", max_iter=60, random_state=seed)


@dataclass(frozen=True)
class Kind:
    """A kind of classifier, and the settings among which the inner folds choose.

    Attributes
    ----------
    make : callable
    settings : tuple
        From the simplest on, which is taken where several are equally good.
    """

    make: Maker
    settings: tuple[Any, ...]


# Numbers are ours: from rigid to flexible at hundreds to thousands of trials.
CLASSIFIERS: Mapping[str, Kind] = {
    "logistic": Kind(_logistic, (1e-4, 1e-3, 1e-2, 1e-1)),
    "trees": Kind(_trees, (2, 6)),
    "perceptron": Kind(_perceptron, (100.0, 10.0, 1.0)),
}


@dataclass(frozen=True, eq=False)
class Sample:
    """Recorded and drawn rows (trials, or pairs of them), as classifiers see them.

    Attributes
    ----------
    features : float64 array of shape (n_rows, n_features)
        Finite.
    image : int array of shape (n_rows,)
        Number of the image of each row, from 0 on; each has rows of both kinds, or the AUC is not
        of trials given their image.
    is_recorded : bool array of shape (n_rows,)
    n_images : int
        Some of them may have no rows.
    groups : int array of shape (n_images,), optional
        Group of each image.
    """

    features: NDArray[np.float64]
    image: NDArray[np.integer]
    is_recorded: NDArray[np.bool_]
    n_images: int
    groups: Groups | None = None

    def labelled(self, is_recorded: NDArray[np.bool_]) -> Sample:
        """Return the same rows under other labels."""
        return replace(self, is_recorded=is_recorded)

    def select(self, chosen: NDArray[np.bool_]) -> Sample:
        """Return some of the rows, a boolean array (n_rows,)."""
        rows = self.features[chosen], self.image[chosen], self.is_recorded[chosen]
        return Sample(*rows, self.n_images, self.groups)

    @property
    def unit(self) -> NDArray[np.integer]:
        """What each row is independent of the others by: its group, or its image: (n_rows,)."""
        return self.image if self.groups is None else self.groups[self.image]

    def deal(self, generator: np.random.Generator) -> NDArray[np.int64]:
        """Deal the images to outer folds at random, as equal in size as can be.

        Returns
        -------
        int array of shape (n_images,)
            Fold of each image; −1 of images without rows.

        Raises
        ------
        InputError
            Fewer than two images, or groups of images, for each fold.
        """
        n_units = len(np.unique(self.unit))
        if n_units < LEAST_IMAGES:
            what = "images" if self.groups is None else "groups of images"
            raise InputError(
                f"a classifier: expected {LEAST_IMAGES} {what} or more, found {n_units}"
            )
        return self.deal_some(np.unique(self.image), N_OUTER, generator)

    def deal_some(
        self, images: NDArray[np.integer], n_folds: int, generator: np.random.Generator
    ) -> NDArray[np.int64]:
        """Deal some of the images to folds: int array (n_images,); −1 of the others."""
        own = None if self.groups is None else self.groups[images]
        fold = np.full(self.n_images, -1)
        for k, held_out in enumerate(deal(len(images), n_folds, generator, own)):
            fold[images[held_out]] = k
        return fold


def held_out_scores(
    sample: Sample, kind: Kind, fold: NDArray[np.int64], generator: np.random.Generator
) -> Scores:
    """Score every row by a classifier that saw no row of its image, nor of any in its fold.

    Nested cross-validation by image: within the images of the other folds, inner folds choose the
    setting with the best AUC; with it the classifier is fitted to all of them.

    Parameters
    ----------
    sample : Sample
    kind : Kind
    fold : int array of shape (n_images,)
        Outer fold of each image (`Sample.deal`).
    generator : numpy.random.Generator
        Of the inner folds, and of what is random in a classifier.

    Returns
    -------
    float64 array of shape (n_rows,)
        Larger where a row looks recorded. Scores of different folds come from different classifiers
        and are not compared with each other (`synbrain_cli.metrics.permutation.Exchange`).
    """
    scores = np.empty(len(sample.image))
    with warnings.catch_warnings(), one_thread():
        # A network that has not converged is one more regularisation
        warnings.simplefilter("ignore")
        for k in range(N_OUTER):
            inside = fold[sample.image] == k
            setting = _chosen(sample, kind, np.flatnonzero((fold >= 0) & (fold != k)), generator)
            scores[inside] = _fit_and_score(sample, kind, setting, ~inside, inside, generator)
    return scores


def _chosen(
    sample: Sample, kind: Kind, images: NDArray[np.int64], generator: np.random.Generator
) -> Any:
    """Setting with the best AUC on images that the classifier was not fitted to."""
    of_row = sample.deal_some(images, N_INNER, generator)[sample.image]
    found = np.zeros(len(kind.settings))
    for k in range(N_INNER):
        train, test = (of_row >= 0) & (of_row != k), of_row == k
        for j, setting in enumerate(kind.settings):
            scores = _fit_and_score(sample, kind, setting, train, test, generator)
            found[j] += auc(scores, sample.is_recorded[test])
    return kind.settings[int(found.argmax())]


def _fit_and_score(
    sample: Sample,
    kind: Kind,
    setting: Any,
    train: NDArray[np.bool_],
    test: NDArray[np.bool_],
    generator: np.random.Generator,
) -> Scores:
    """Fit a classifier to some rows, and score others, features standardised by the former."""
    mean, sd = sample.features[train].mean(0), sample.features[train].std(0)
    sd = np.where(sd > 1e-9 * np.maximum(np.abs(mean), 1), sd, np.inf)  # a constant tells nothing
    x = np.clip((sample.features - mean) / sd, -CLIP, CLIP)
    classifier = kind.make(setting, int(generator.integers(2**31)))
    classifier.fit(x[train], sample.is_recorded[train])
    probability = np.clip(classifier.predict_proba(x[test])[:, 1], 1e-12, 1 - 1e-12)
    return np.asarray(np.log(probability / (1 - probability)), np.float64)


def auc(scores: Scores, is_recorded: NDArray[np.bool_]) -> float:
    """Area under the ROC curve: the share of (recorded, drawn) pairs with the recorded higher.

    Parameters
    ----------
    scores : float64 array of shape (n_rows,)
    is_recorded : bool array of shape (n_rows,)

    Returns
    -------
    float
        Ties count one half. NaN without rows of both kinds.
    """
    n_recorded = int(is_recorded.sum())
    n_drawn = len(scores) - n_recorded
    if not n_recorded or not n_drawn:
        return float("nan")
    ranks = rankdata(scores)[is_recorded].sum()
    return float((ranks - n_recorded * (n_recorded + 1) / 2) / (n_recorded * n_drawn))


def random_labels(image: NDArray[np.integer], generator: np.random.Generator) -> NDArray[np.bool_]:
    """Halve the rows of every image at random; where their number is odd, chance has the last one.

    Parameters
    ----------
    image : int array of shape (n_rows,)
    generator : numpy.random.Generator

    Returns
    -------
    bool array of shape (n_rows,)
    """
    order = np.lexsort((generator.random(len(image)), image))
    first = np.flatnonzero(np.diff(image[order], prepend=-1))
    rank = np.arange(len(image)) - np.repeat(first, np.diff([*first, len(image)]))
    flip = np.repeat(generator.integers(0, 2, len(first)), np.diff([*first, len(image)]))
    labels = np.empty(len(image), bool)
    labels[order] = (rank + flip) % 2 == 1
    return labels


class Pattern:
    r"""What a classifier relies on: the correlation of values, voxel by voxel, with its scores.

    The weights w of a linear classifier say how it filters, not what differs; Σ w does, the
    covariance of the data with the score (Haufe et al. 2014, *NeuroImage* 87, eq. 6, for one
    score). It is defined for every classifier. Here it is divided by both standard deviations.

    Parameters
    ----------
    n_voxels : int
    """

    def __init__(self, n_voxels: int) -> None:
        self._sums = np.zeros((3, n_voxels))  # of values, their squares, their products with scores
        self._scores: list[Scores] = []

    def add(self, values: NDArray[np.floating], scores: Scores) -> None:
        """Add rows.

        Parameters
        ----------
        values : array of shape (n_rows, n_voxels)
            For instance squared residuals, of which energy is made.
        scores : float64 array of shape (n_rows,)
        """
        x = np.asarray(values, np.float64)
        self._sums += x.sum(0), (x**2).sum(0), scores @ x
        self._scores.append(scores)

    def correlation(self) -> NDArray[np.float64]:
        """Positive where recorded trials have more; 0 where nothing varies: (n_voxels,)."""
        scores = np.concatenate(self._scores)
        total, squares, products = self._sums / len(scores)
        variance = np.maximum(squares - total**2, 0) * scores.var()
        known = variance > 1e-18 * np.maximum(squares, 1e-300)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(known, (products - total * scores.mean()) / np.sqrt(variance), 0.0)
