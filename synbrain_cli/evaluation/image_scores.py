"""Scores of single images, and how far images are from those of training."""

from __future__ import annotations

import numpy as np
import pandas as pd
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray
from scipy.stats import spearmanr

from synbrain_cli.brain import Brain
from synbrain_cli.brain.prediction import BATCH
from synbrain_cli.evaluation.other_dataset import PreparedData
from synbrain_cli.evaluation.predictions import Predictions
from synbrain_cli.evaluation.test_set import TestSet
from synbrain_cli.io.results.evaluation import ImageDistances, OtherDataset
from synbrain_cli.io.results.record import finite
from synbrain_cli.metrics.accuracy import pattern_correlation, squared_errors_of_images
from synbrain_cli.model.uncertainty import FARTHEST
from synbrain_cli.tokens import Tokens

MEDIAN = 50  # percentile of training images with which leverages are compared

Array = NDArray[np.float64]


def distances(brain: Brain, tokens: Tokens) -> tuple[Array, Array]:
    """Return how far images are from the training images.

    Parameters
    ----------
    brain : Brain
    tokens : Tokens
        Of the images.

    Returns
    -------
    distance : float64 array of shape (n_images,)
        Percentage of training images that are as near to the other training images or nearer.
    leverage : float64 array of shape (n_images,)
        Mean leverage over voxels (`synbrain_cli.model.uncertainty`), divided by that of the median
        training image. Unlike the percentage, it tells images apart that are farther than every
        training image. NaN, as the other, of models that do not know it.
    """
    known = brain.distribution.uncertainty
    if known is None:
        unknown = np.full(len(tokens), np.nan)
        return unknown, unknown
    median = float(known.distances[MEDIAN])
    percent, relative = [], []
    for start in range(0, len(tokens), BATCH):
        leverage, _ = brain.predictors.leverage(tokens[start : start + BATCH])
        percent.append(known(leverage).distance)
        relative.append(leverage.mean(1, dtype=np.float64) / max(median, np.finfo(float).tiny))
    return np.concatenate(percent), np.concatenate(relative)


def image_table(brain: Brain, test: TestSet, predictions: Predictions) -> pd.DataFrame:
    """Return one row per test image: its repeats, distance, and how well it is predicted.

    Parameters
    ----------
    brain : Brain
    test : TestSet
    predictions : Predictions

    Returns
    -------
    DataFrame
        ``image``, ``n_repeats``, ``distance``, ``leverage`` (`distances`); ``pattern_r`` and
        ``pattern_r_linear``, correlation over voxels of predicted and recorded average, both less
        the mean training pattern; ``skill`` and ``skill_linear``, share of the mean pattern's
        squared error removed.
    """
    baseline = predictions.baseline(brain)
    recorded = test.averages - baseline
    distance, leverage = distances(brain, test.tokens)
    columns: dict[str, object] = {
        "image": test.images,
        "n_repeats": test.n_repeats,
        "distance": distance,
        "leverage": leverage,
    }
    for name, suffix in (("model", ""), ("linear", "_linear")):
        errors = squared_errors_of_images(test.averages, predictions[name], baseline)
        columns[f"pattern_r{suffix}"] = pattern_correlation(recorded, predictions[name] - baseline)
        with np.errstate(divide="ignore", invalid="ignore"):
            columns[f"skill{suffix}"] = 1 - errors[:, 0] / errors[:, 1]
    return pd.DataFrame(columns)


def describe_other(
    brain: Brain, test: TestSet, trained: PreparedData, images: pd.DataFrame
) -> OtherDataset:
    """Summarise how far the images of another dataset are, beside the model's own test images.

    Parameters
    ----------
    brain : Brain
    test : TestSet
        Of the other dataset.
    trained : PreparedData
        What the model was trained on.
    images : DataFrame
        From `image_table`.
    """
    own = np.unique(trained.subject.trials.query("split == 'test'")["image"].to_numpy(str))
    own_distances: ImageDistances | UnsetType = UNSET
    if len(own) and brain.distribution.uncertainty is not None:
        own_distances = _summary(*distances(brain, trained.store.take(own)))
    known = images[["leverage", "pattern_r"]].dropna()
    falls = None
    if len(known) > 2 and known.nunique().min() > 1:
        falls = float(spearmanr(known["leverage"], known["pattern_r"]).statistic)
    has_distances = images["distance"].notna().any()
    return finite(
        OtherDataset(
            dataset=test.subject.dataset,
            trained_on=trained.subject.checksum,
            distances=_summary(images["distance"].to_numpy(), images["leverage"].to_numpy())
            if has_distances
            else UNSET,
            own_distances=own_distances,
            leverage_pattern_correlation=falls,
        )
    )


def _summary(distance: Array, leverage: Array) -> ImageDistances:
    return ImageDistances(
        median=float(np.median(distance)),
        beyond=float((distance >= FARTHEST).mean()),
        leverage=float(np.median(leverage)),
    )
