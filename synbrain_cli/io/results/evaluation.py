"""Results of `synbrain evaluate`: ``metrics.json``.

Scores of responses stand beside those of the baselines and controls: ``deep`` (the networks
alone), ``transfer`` (what an adapted model takes from other subjects), ``linear`` (linear encoder),
``mean_pattern`` (average response to training images) and ``shuffled`` (the model's predictions for
other images). Scores of draws stand beside those of simpler distributions.
"""

from __future__ import annotations

from pathlib import Path

from msgspec import UNSET

from synbrain_cli.io.results.record import (
    Absent,
    Interval,
    ModelProvenance,
    Number,
    Repeats,
    Result,
    read_result,
)

METRICS, VOXELS = "metrics.json", "voxels.tsv"


class ResponseScore(Result, frozen=True, kw_only=True):
    """One score of predicted responses.

    Attributes
    ----------
    model, linear, mean_pattern, shuffled : float or None
    deep, transfer : float or None
        Absent where the model has no networks; where it was not adapted.
    ceiling : float or None
        Best expected value; None where there is none, or it is unknown.
    ci : pair of float or None
        95 % interval of ``model`` over images.
    n_candidates : int
        Of n-way identification alone.
    """

    model: Number
    deep: Number | Absent = UNSET
    transfer: Number | Absent = UNSET
    linear: Number
    mean_pattern: Number
    shuffled: Number
    ceiling: Number
    ci: Interval
    n_candidates: int | Absent = UNSET


class ResponseScores(Result, frozen=True, kw_only=True):
    """All scores of predicted responses within some voxels.

    Attributes
    ----------
    voxelwise_correlation, skill : ResponseScore
    noise_normalised_r2 : ResponseScore
        Absent where no ncsnr is known.
    pattern_correlation, mse, cosine, two_way_identification, n_way_identification, rsa, cka :
        ResponseScore
        Absent of one or two voxels.
    """

    voxelwise_correlation: ResponseScore
    noise_normalised_r2: ResponseScore | Absent = UNSET
    skill: ResponseScore
    pattern_correlation: ResponseScore | Absent = UNSET
    mse: ResponseScore | Absent = UNSET
    cosine: ResponseScore | Absent = UNSET
    two_way_identification: ResponseScore | Absent = UNSET
    n_way_identification: ResponseScore | Absent = UNSET
    rsa: ResponseScore | Absent = UNSET
    cka: ResponseScore | Absent = UNSET


class RegionScores(ResponseScores, frozen=True, kw_only=True):
    """All scores of predicted responses within a region.

    Attributes
    ----------
    n_voxels : int
    """

    n_voxels: int


class DrawScore(Result, frozen=True, kw_only=True):
    """One score of draws, beside the same score of simpler distributions.

    Attributes
    ----------
    model : float or None
    linear, mean_pattern : float or None
        Independent normal noise of constant variance around the linear encoder's predictions and
        around the mean pattern.
    latent_nf1, latent_best : float or None
        The published sampling with a noise factor of 1, and with the best one. Absent where it was
        not scored.
    shuffled : float or None
        The model's draws for another image.
    nominal : float
        Value of a calibrated distribution.
    ci : pair of float or None
        95 % interval of ``model`` over images.
    roi : dict
        ``model`` within regions.
    gain_ci : dict
        95 % interval of the difference between each other distribution and ``model``.
    """

    model: Number
    linear: Number
    mean_pattern: Number
    shuffled: Number
    latent_nf1: Number | Absent = UNSET
    latent_best: Number | Absent = UNSET
    nominal: float | Absent = UNSET
    ci: Interval | Absent = UNSET
    roi: dict[str, Number] | Absent = UNSET
    gain_ci: dict[str, Interval] | Absent = UNSET


class ReliabilityScore(Result, frozen=True, kw_only=True):
    """Agreement of the ncsnr of draws, and of the recorded test trials, with that of the data."""

    model: Number
    test_trials: Number


class NoiseCorrelationScore(Result, frozen=True, kw_only=True):
    """Agreement of the noise correlations of draws with recorded ones.

    Attributes
    ----------
    model : float or None
    ceiling : float or None
        √ of the split-half reliability of the recorded ones.
    share_of_ceiling : float or None
    """

    model: Number
    ceiling: Number
    share_of_ceiling: Number


class LatentNoiseFactor(Result, frozen=True, kw_only=True):
    """Scores of the published sampling by noise factor.

    Attributes
    ----------
    best : float
        Noise factor of the least energy score on the test trials.
    energy_score, crps : dict
        By noise factor.
    """

    best: float
    energy_score: dict[str, Number]
    crps: dict[str, Number]


class DrawScores(Result, frozen=True, kw_only=True):
    """All scores of draws.

    Attributes
    ----------
    coverage_50, coverage_80, coverage_90, coverage_95 : DrawScore
        Share of trials within the central interval.
    coverage_90_region_means : DrawScore
        The same of means over regions; absent where there are none.
    crps, energy_score : DrawScore
        Less is better.
    variance_ratio, variance_ratio_median_voxel : DrawScore
        Total variance of draws over that of trials.
    pit_histogram : dict
        Per distribution: 20 bins, 1 where calibrated.
    latent_noise_factor : LatentNoiseFactor
        Absent where the published sampling was not scored.
    ncsnr_correlation, ncsnr_slope, ncsnr_median_ratio : ReliabilityScore
        Absent where no ncsnr is known or no test image was shown twice.
    noise_correlation : NoiseCorrelationScore
        Absent where fewer than four images were shown twice.
    """

    coverage_50: DrawScore
    coverage_80: DrawScore
    coverage_90: DrawScore
    coverage_95: DrawScore
    coverage_90_region_means: DrawScore | Absent = UNSET
    crps: DrawScore
    energy_score: DrawScore
    variance_ratio: DrawScore
    variance_ratio_median_voxel: DrawScore
    pit_histogram: dict[str, list[Number]]
    latent_noise_factor: LatentNoiseFactor | Absent = UNSET
    ncsnr_correlation: ReliabilityScore | Absent = UNSET
    ncsnr_slope: ReliabilityScore | Absent = UNSET
    ncsnr_median_ratio: ReliabilityScore | Absent = UNSET
    noise_correlation: NoiseCorrelationScore | Absent = UNSET


class RetrievalScore(Result, frozen=True, kw_only=True):
    """Share of test images found by one decoder, with 95 % intervals.

    Attributes
    ----------
    raw, syn, draw : float or None
        In recorded single trials, predicted means, single draws.
    mean_pattern, shuffled : float or None
        In the mean pattern, and in the means predicted for other images.
    raw_ci, syn_ci, draw_ci, mean_pattern_ci, shuffled_ci : pairs of float or None
    """

    raw: Number
    raw_ci: Interval
    syn: Number
    syn_ci: Interval
    draw: Number
    draw_ci: Interval
    mean_pattern: Number
    mean_pattern_ci: Interval
    shuffled: Number
    shuffled_ci: Interval


class RetrievalScores(Result, frozen=True, kw_only=True):
    """Top-1 retrieval of test images by all decoders.

    Attributes
    ----------
    n_candidates : int
    chance : float
    linear_decoder : RetrievalScore
    brainvae : RetrievalScore
        Absent where the model has no networks.
    """

    n_candidates: int
    chance: float
    linear_decoder: RetrievalScore
    brainvae: RetrievalScore | Absent = UNSET


class EvaluationRecord(Result, frozen=True, kw_only=True):
    """``metrics.json``.

    Attributes
    ----------
    model : str
        Name of the bundle.
    subject : str
        ``dataset/sub-01``.
    simulated : bool
    n_test_images, n_test_trials : int
    repeats_per_image : Repeats
    n_voxels, n_reliable_voxels, n_draws : int
        Reliable: with an ncsnr above 0.2. Draws: per image.
    units : dict
        Unit of each group of scores.
    recorded_unit : str
    overall : ResponseScores
        Over all voxels.
    roi : dict
        By region of 10 voxels or more.
    retrieval : RetrievalScores
    draws : DrawScores
    notes : list of str
    provenance : ModelProvenance
    """

    model: str
    subject: str
    simulated: bool
    n_test_images: int
    n_test_trials: int
    repeats_per_image: Repeats
    n_voxels: int
    n_reliable_voxels: int
    n_draws: int
    units: dict[str, str]
    recorded_unit: str
    overall: ResponseScores
    roi: dict[str, RegionScores]
    retrieval: RetrievalScores
    draws: DrawScores
    notes: list[str]
    provenance: ModelProvenance


def read_evaluation(folder: Path) -> EvaluationRecord:
    """Read ``metrics.json`` of a folder that `synbrain evaluate` wrote.

    Raises
    ------
    MissingError, InputError
        No such file; a field is missing, unknown or of another type.
    """
    return read_result(folder / METRICS, EvaluationRecord, "synbrain evaluate")
