"""Results of `synbrain evaluate`: ``metrics.json``.

Each score of predicted responses is given with those of other predictors, baselines and controls:
``network`` (the response network alone), ``deep`` (the published networks alone), ``transfer`` (in
an adapted model, the part learned from other subjects), ``linear`` (linear encoder),
``mean_pattern`` (average response to training images) and ``shuffled`` (predictions of the model
for other images). Each score of draws is given with those of
simpler distributions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from msgspec import UNSET, Meta

from synbrain_cli.io.results.likelihood import LikelihoodScores
from synbrain_cli.io.results.record import (
    Absent,
    Interval,
    ModelProvenance,
    Number,
    Repeats,
    Result,
    read_result,
)
from synbrain_cli.io.results.two_sample import TwoSampleScores

METRICS, VOXELS, IMAGES = "metrics.json", "voxels.tsv", "images.tsv"
N_BINS = 20  # of PIT histograms
# A density of equal bins from 0 to 1, whose mean is 1.
Histogram = Annotated[
    list[Annotated[float, Meta(ge=0, le=N_BINS)]], Meta(min_length=N_BINS, max_length=N_BINS)
]


class ResponseScore(Result, frozen=True, kw_only=True):
    """One score of predicted responses.

    Attributes
    ----------
    model, linear, mean_pattern, shuffled : float or None
    network, deep, transfer : float or None
        ``network`` is absent without a response network, ``deep`` without the published
        networks, ``transfer`` where the model was not adapted.
    ceiling : float or None
        Best expected value; None where no ceiling is defined or known.
    recording : float or None
        Score of another recording: of the average of an image's other repeats, as a prediction of
        each trial. A reference, not an upper bound: it is as noisy as those repeats, and models may
        exceed it. Only for scores of single trials, which have no ceiling.
    ci : pair of float or None
        95 % interval of ``model`` over images.
    n_candidates : int
        Number of candidates; only for n-way identification.
    """

    model: Number
    network: Number | Absent = UNSET
    deep: Number | Absent = UNSET
    transfer: Number | Absent = UNSET
    linear: Number
    mean_pattern: Number
    shuffled: Number
    ceiling: Number
    recording: Number | Absent = UNSET
    ci: Interval
    n_candidates: int | Absent = UNSET


class ResponseScores(Result, frozen=True, kw_only=True):
    """All scores of predicted responses in a set of voxels.

    Attributes
    ----------
    voxelwise_correlation, skill : ResponseScore
    noise_normalised_r2 : ResponseScore
        Absent where no ncsnr is known.
    pattern_correlation, mse, cosine, two_way_identification, n_way_identification, rsa, cka :
        ResponseScore
        Absent for sets of one or two voxels.
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
    """All scores of predicted responses in a region.

    Attributes
    ----------
    n_voxels : int
    """

    n_voxels: int


class DrawScore(Result, frozen=True, kw_only=True):
    """One score of draws, and the same score of simpler distributions.

    Attributes
    ----------
    model : float or None
    linear, mean_pattern : float or None
        Independent normal noise of constant variance around the linear encoder's predictions and
        around the mean pattern.
    latent_nf1, latent_best : float or None
        Published sampling with a noise factor of 1, and with the best one. Absent where it was
        not scored.
    shuffled : float or None
        Draws of the model for another image.
    nominal : float
        Value that a calibrated distribution has.
    ci : pair of float or None
        95 % interval of ``model`` over images.
    roi : dict
        Region → value of ``model`` in it.
    gain_ci : dict
        95 % interval of the difference between each other distribution and ``model``.
    pit_histogram : list of float
        Density of the rank of recorded trials among the model's draws, in 20 bins; of summaries.
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
    pit_histogram: Histogram | Absent = UNSET


class ReliabilityScore(Result, frozen=True, kw_only=True):
    """Agreement over voxels with the ncsnr of the data.

    Attributes
    ----------
    model : float or None
        For the ncsnr of draws.
    test_trials : float or None
        For the ncsnr of the recorded test trials.
    """

    model: Number
    test_trials: Number


class NoiseCorrelationScore(Result, frozen=True, kw_only=True):
    """Agreement of the noise correlations of draws with those of recorded trials.

    Attributes
    ----------
    model : float or None
        Correlation over pairs of voxels.
    ceiling : float or None
        Square root of the split-half reliability of the recorded noise correlations.
    share_of_ceiling : float or None
        ``model`` / ``ceiling``.
    """

    model: Number
    ceiling: Number
    share_of_ceiling: Number


class AverageScore(Result, frozen=True, kw_only=True):
    """Coverage of averages over ten images that drive alike responses, repeats averaged, too.

    Attributes
    ----------
    nominal : float
    n_groups : int
        Of images: an image is in one, or in none.
    model : float or None
        Share of recorded averages, over groups and voxels or regions, within the central 90 % of
        draws' averages.
    ci : pair of float or None
        Its 95 % interval over groups.
    apart : float or None
        The same if images shared no errors: draws of one image beside those of another recording.
    gain_ci : pair of float or None
        95 % interval of ``model`` − ``apart``.
    """

    nominal: float
    n_groups: int
    model: Number
    ci: Interval
    apart: Number
    gain_ci: Interval


class LatentNoiseFactor(Result, frozen=True, kw_only=True):
    """Scores of the published sampling as a function of the noise factor.

    Attributes
    ----------
    best : float
        Noise factor with the lowest energy score on test trials.
    energy_score, crps : dict
        Noise factor → score.
    """

    best: float
    energy_score: dict[str, Number]
    crps: dict[str, Number]


class PITHistograms(Result, frozen=True, kw_only=True):
    """Density of the rank of recorded trials among the draws of each distribution, in 20 bins.

    Attributes
    ----------
    model, linear, mean_pattern, shuffled : list of float
    latent_nf1, latent_best : list of float
        As in `DrawScore`.
    """

    model: Histogram
    linear: Histogram
    mean_pattern: Histogram
    shuffled: Histogram
    latent_nf1: Histogram | Absent = UNSET
    latent_best: Histogram | Absent = UNSET


class DrawScores(Result, frozen=True, kw_only=True):
    """All scores of draws.

    Attributes
    ----------
    coverage_50, coverage_80, coverage_90, coverage_95 : DrawScore
        Share of recorded trials within the central interval of draws.
    coverage_90_region_means : DrawScore
        The same for means over regions; absent where there are no regions.
    coverage_90_region_differences, coverage_90_noise_components, coverage_90_signal_components,
    coverage_90_distances : DrawScore
        The same for differences of two region means, for projections on the directions of most
        noise and of most signal, and for the distance of a trial from a trial of another image
        (Euclidean, and one minus correlation). Absent where there are none.
    coverage_90_averages, coverage_90_region_averages : AverageScore
        Of averages over images, of voxels and of region means. Absent where test images are fewer
        than 30, or there are no regions.
    crps, energy_score : DrawScore
        Lower is better.
    variogram_score : DrawScore
        How voxels vary together; lower is better. Absent for a single voxel.
    variance_ratio, variance_ratio_median_voxel : DrawScore
        Total variance of draws divided by that of recorded trials.
    pit_histogram : PITHistograms
        1 in every bin where draws are calibrated.
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
    coverage_90_region_differences: DrawScore | Absent = UNSET
    coverage_90_noise_components: DrawScore | Absent = UNSET
    coverage_90_signal_components: DrawScore | Absent = UNSET
    coverage_90_distances: DrawScore | Absent = UNSET
    coverage_90_averages: AverageScore | Absent = UNSET
    coverage_90_region_averages: AverageScore | Absent = UNSET
    crps: DrawScore
    energy_score: DrawScore
    variogram_score: DrawScore | Absent = UNSET
    variance_ratio: DrawScore
    variance_ratio_median_voxel: DrawScore
    pit_histogram: PITHistograms
    latent_noise_factor: LatentNoiseFactor | Absent = UNSET
    ncsnr_correlation: ReliabilityScore | Absent = UNSET
    ncsnr_slope: ReliabilityScore | Absent = UNSET
    ncsnr_median_ratio: ReliabilityScore | Absent = UNSET
    noise_correlation: NoiseCorrelationScore | Absent = UNSET


class RetrievalScore(Result, frozen=True, kw_only=True):
    """Share of test images that one decoder retrieves from responses, with 95 % intervals.

    Attributes
    ----------
    raw, syn, draw : float or None
        From recorded single trials, from predicted means, and from single draws.
    mean_pattern, shuffled : float or None
        From the mean pattern, and from the means predicted for other images.
    raw_ci, syn_ci, draw_ci, mean_pattern_ci, shuffled_ci : pairs of float or None
        Intervals over images.
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
        Number of images among which one is retrieved.
    chance : float
        Chance level.
    linear_decoder : RetrievalScore
    brainvae : RetrievalScore
        Absent where the model has no networks.
    """

    n_candidates: int
    chance: float
    linear_decoder: RetrievalScore
    brainvae: RetrievalScore | Absent = UNSET


class FoldSizes(Result, frozen=True, kw_only=True):
    """Folds of images that were held out by turns.

    Attributes
    ----------
    n_folds : int
    min, max : int
        Images in the smallest and in the largest fold.
    """

    n_folds: int
    min: int
    max: int


class ImageDistances(Result, frozen=True, kw_only=True):
    """How far images are from the training images.

    Attributes
    ----------
    median : float
        Percentage of training images that are as near to the others as the median image.
    beyond : float
        Share of the images that are farther than every training image.
    leverage : float
        Leverage of the median image, divided by that of the median training image.
    """

    median: Number
    beyond: Number
    leverage: Number


class OtherDataset(Result, frozen=True, kw_only=True):
    """Another dataset than that of the training images, which the scores are of.

    Attributes
    ----------
    dataset : str
    trained_on : str
        `PreparedSubject.checksum` of the model's own data.
    distances, own_distances : ImageDistances
        Of its images, and of the model's own test images. Absent where the model does not know
        them.
    leverage_pattern_correlation : float or None
        Spearman's correlation over its images between leverage and the correlation of predicted
        and recorded pattern: below 0 where images are predicted worse the farther they are.
    """

    dataset: str
    trained_on: str
    distances: ImageDistances | Absent = UNSET
    own_distances: ImageDistances | Absent = UNSET
    leverage_pattern_correlation: Number


class EvaluationRecord(Result, frozen=True, kw_only=True):
    """Content of ``metrics.json``.

    Attributes
    ----------
    model : str
        Name of the bundle.
    subject : str
        ``dataset/sub-01``.
    simulated : bool
    n_test_images, n_test_trials : int
    n_groups : int
        Groups that the images are of, which count as one each where images count as independent;
        absent where every image stands alone.
    repeats_per_image : Repeats
    averaged_over : int
        Recorded trials that each row of the data, and each draw, is the average of.
    n_voxels, n_reliable_voxels, n_draws : int
        Number of voxels, of voxels with an ncsnr above 0.2, and of draws per image.
    units : dict
        Group of scores → unit of the responses.
    recorded_unit : str
        Unit in which the responses were recorded.
    overall : ResponseScores
        Scores over all voxels.
    roi : dict
        Region of 10 voxels or more → its scores.
    retrieval : RetrievalScores
        Absent where folds hold one image each.
    folds : FoldSizes
        Scores are of every image when it was held out, pooled over refits of the model's recipe on
        the other folds; they are not of the bundle itself. Absent where they are.
    other : OtherDataset
        Absent where the test images are those of the model's own dataset.
    draws : DrawScores
    likelihood : LikelihoodScores
    two_sample : TwoSampleScores
        Whether classifiers tell recorded from drawn trials; absent unless asked for.
    doubtful : dict
        Score over all voxels that means nothing → why (`synbrain_cli.evaluation.doubt`).
    notes : list of str
    provenance : ModelProvenance
    """

    model: str
    subject: str
    simulated: bool
    n_test_images: int
    n_test_trials: int
    n_groups: int | Absent = UNSET
    repeats_per_image: Repeats
    averaged_over: int
    n_voxels: int
    n_reliable_voxels: int
    n_draws: int
    units: dict[str, str]
    recorded_unit: str
    overall: ResponseScores
    roi: dict[str, RegionScores]
    retrieval: RetrievalScores | Absent = UNSET
    folds: FoldSizes | Absent = UNSET
    other: OtherDataset | Absent = UNSET
    draws: DrawScores
    likelihood: LikelihoodScores
    two_sample: TwoSampleScores | Absent = UNSET
    doubtful: dict[str, str]
    notes: list[str]
    provenance: ModelProvenance

    @property
    def of_dataset(self) -> str:
        """What follows "test images" in a sentence: whose they are, where another dataset's."""
        return "" if self.other is UNSET else f" of {self.other.dataset}"

    @property
    def tested(self) -> str:
        """The images, in words: "60 test images of 12 groups, held out in 12 folds"."""
        images = f"{self.n_test_images:,} test image" + "s" * (self.n_test_images != 1)
        groups = "" if self.n_groups is UNSET else f" of {self.n_groups:,} groups"
        folds = "" if self.folds is UNSET else f", held out in {self.folds.n_folds} folds"
        return images + self.of_dataset + groups + folds


def evaluation_name(dataset: str | None) -> str:
    """Return what an evaluation is called behind the model's name: of another dataset, or none."""
    return "evaluation" if dataset is None else f"on-{dataset}_evaluation"


def read_evaluation(folder: Path) -> EvaluationRecord:
    """Read ``metrics.json`` from a folder that `synbrain evaluate` wrote.

    Raises
    ------
    MissingError, InputError
        When the file is absent, or a field is missing, unknown or of another type.
    """
    return read_result(folder / METRICS, EvaluationRecord, "synbrain evaluate")
