"""Results of `synbrain evaluate --two-sample`: a part of ``metrics.json``."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET

from synbrain_cli.io.results.record import Absent, Interval, Number, Result

Rows = Literal["trials", "pairs"]


class ClassifierScore(Result, frozen=True, kw_only=True):
    """How well one classifier tells recorded trials, or pairs of repeats, from drawn ones.

    Attributes
    ----------
    model : float or None
        Area under the ROC curve, for draws of the model, averaged over three sets of draws; .5 is
        chance.
    ci : pair of float or None
        Its 95 % interval over images.
    p : float or None
        Chance of such a value where draws are as recorded trials are.
    floor, floor_sd : float or None
        Mean and SD, over random halvings of the rows of each image, of the same for recorded rows
        against recorded rows: half as many as in ``model``.
    right, right_sd : float or None
        Mean and SD, over imitated recordings, of the same for recordings of which the model is
        right: draws, in which similar images share errors of the mean, as they do in a brain and
        not in draws of single images. Absent where it is not known how alike images are.
    linear, mean_pattern : float or None
        For independent normal noise of constant variance around the linear encoder's predictions
        and around the mean pattern.
    latent_nf1 : float or None
        For the published sampling with a noise factor of 1; absent where that is not scored.
    baselines_ci : dict
        Each of these → its 95 % interval over images.
    """

    model: Number
    ci: Interval
    p: Number
    floor: Number
    floor_sd: Number
    right: Number | Absent = UNSET
    right_sd: Number | Absent = UNSET
    linear: Number
    mean_pattern: Number
    latent_nf1: Number | Absent = UNSET
    baselines_ci: dict[str, Interval]


class BestClassifier(Result, frozen=True, kw_only=True):
    """The classifier that tells the draws of the model best.

    Attributes
    ----------
    rows : {"trials", "pairs"}
    classifier : str
    auc : float or None
    p : float or None
        Corrected for the choice among classifiers and rows.
    """

    rows: Rows
    classifier: str
    auc: Number
    p: Number


class KindScore(Result, frozen=True, kw_only=True):
    """What the logistic classifier tells from one kind of feature alone.

    Attributes
    ----------
    auc, p : float or None
        ``p`` is not corrected for the number of kinds.
    ci : pair of float or None
    """

    auc: Number
    ci: Interval
    p: Number


class RegionDifference(Result, frozen=True, kw_only=True):
    """How recorded trials differ from draws of the model in one region.

    Residuals z are of the mean, in the standard deviations that the model expects.

    Attributes
    ----------
    n_voxels : int
    auc, p : float or None
        Of the logistic classifier, from this region's features alone; not corrected for the number
        of regions.
    auc_ci : pair of float or None
    variance_ratio, variance_ratio_ci : float or None, and a pair of them
        Mean of z² over voxels, recorded / drawn.
    mean_variance_ratio, mean_variance_ratio_ci :
        The same for the square of the mean of z over the region.
    repeated_difference, repeated_difference_ci :
        Mean over voxels of the product of z of two repeats, recorded − drawn: variance that repeats
        share. Absent where there are no repeats.
    """

    n_voxels: int
    auc: Number
    auc_ci: Interval
    p: Number
    variance_ratio: Number
    variance_ratio_ci: Interval
    mean_variance_ratio: Number
    mean_variance_ratio_ci: Interval
    repeated_difference: Number | Absent = UNSET
    repeated_difference_ci: Interval | Absent = UNSET


class FeatureDifference(Result, frozen=True, kw_only=True):
    """How well one feature alone tells recorded from drawn.

    Attributes
    ----------
    rows : {"trials", "pairs"}
    feature : str
    auc : float or None
        Above .5 where recorded rows have more of it.
    z : float or None
        Distance of ``auc`` from .5, in standard errors over images; not corrected for the number of
        features.
    """

    rows: Rows
    feature: str
    auc: Number
    z: Number


class TwoSampleScores(Result, frozen=True, kw_only=True):
    """Whether classifiers tell recorded trials from drawn ones, given the image.

    Attributes
    ----------
    n_images : int
    n_trials, n_pairs : int
        Recorded rows; as many are drawn, three times over.
    trials, pairs : dict
        Classifier → `ClassifierScore`. ``pairs`` is absent where fewer than ten images, or
        groups of images, were repeated.
    best : BestClassifier
    kinds : dict
        Kind of feature of pairs ("means", "signal", "noise", "shape"), or of trials where there are
        no pairs ("means", "variance", "shape") → `KindScore`.
    roi : dict
        Region of 10 voxels or more → `RegionDifference`.
    features : list of FeatureDifference
        The features that differ most, in the order of |z|.
    """

    n_images: int
    n_trials: int
    n_pairs: int
    trials: dict[str, ClassifierScore]
    pairs: dict[str, ClassifierScore] | Absent = UNSET
    best: BestClassifier
    kinds: dict[str, KindScore]
    roi: dict[str, RegionDifference]
    features: list[FeatureDifference]
