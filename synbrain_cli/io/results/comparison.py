"""Results of `synbrain compare`: several models of one subject on the same test images."""

from __future__ import annotations

from typing import Literal

from synbrain_cli.io.results.record import ModelsProvenance, Repeats, Result

ScoreName = Literal["noise_normalised_correlation", "voxelwise_correlation"]
RowKind = Literal["mean_pattern", "linear", "model", "shuffled", "ceiling"]


class Estimate(Result, frozen=True):
    """A score and its 95 % interval, None where it has no limits."""

    value: float
    ci: tuple[float, float] | None


class RowTraining(Result, frozen=True):
    """Training and validation data of a row, of its own subject.

    Attributes
    ----------
    hours : float, optional
        None where unknown.
    n_trials : int
    sources : list of str
        Models of other subjects that it started from.
    strategy : str, optional
        Of adaptation.
    """

    hours: float | None
    n_trials: int
    sources: list[str]
    strategy: str | None


class ComparedRow(Result, frozen=True):
    """A model, baseline or control, and its scores; None where a score has no value.

    Attributes
    ----------
    row : str
        Its name.
    kind : {"mean_pattern", "linear", "model", "shuffled", "ceiling"}
    models : list of str
        Models that hold it.
    training : RowTraining, optional
        None of controls.
    voxelwise_correlation : Estimate
        Median over all voxels.
    noise_normalised_correlation : Estimate
        Divided by the noise ceiling, the median over reliable voxels.
    skill : Estimate
        Share of the squared error of the mean pattern that is removed.
    coverage_90 : Estimate
        Share of recorded trials within the central 90 % of draws.
    difference_to_reference, ratio_to_reference, ratio_to_linear : Estimate
        Of the score that rows are compared by.
    share_of_full : Estimate
        The ratio to the reference, where that was trained on all data.
    roi : dict of Estimate
        The score that rows are compared by, in each region.
    """

    row: str
    kind: RowKind
    models: list[str]
    training: RowTraining | None
    voxelwise_correlation: Estimate | None
    noise_normalised_correlation: Estimate | None
    skill: Estimate | None
    coverage_90: Estimate | None
    difference_to_reference: Estimate | None
    ratio_to_reference: Estimate | None
    share_of_full: Estimate | None
    ratio_to_linear: Estimate | None
    roi: dict[str, Estimate | None]

    def score(self, name: ScoreName) -> Estimate | None:
        """Return the score that rows are compared by."""
        if name == "noise_normalised_correlation":
            return self.noise_normalised_correlation
        return self.voxelwise_correlation


class RegionSize(Result, frozen=True):
    """Voxels of a region."""

    n_voxels: int
    n_reliable_voxels: int


class Comparison(Result, frozen=True):
    """``comparison.json``.

    Attributes
    ----------
    subject : str
        "nsd/sub-01".
    simulated : bool
    models : list of str
    reference : str
        Model that others are compared with.
    reference_has_all_data : bool
        Whether it was trained on all of the subject's data.
    compared_by : {"noise_normalised_correlation", "voxelwise_correlation"}
    n_test_images, n_test_trials : int
    repeats_per_image : Repeats
    n_voxels, n_reliable_voxels : int
    n_draws : int
        Per image, of the coverage; 0 without.
    units : dict
        Scores → unit of the responses.
    rows : list of ComparedRow
    roi : dict of RegionSize
    notes : list of str
    provenance : ModelsProvenance
    """

    subject: str
    simulated: bool
    models: list[str]
    reference: str
    reference_has_all_data: bool
    compared_by: ScoreName
    n_test_images: int
    n_test_trials: int
    repeats_per_image: Repeats
    n_voxels: int
    n_reliable_voxels: int
    n_draws: int
    units: dict[str, str]
    rows: list[ComparedRow]
    roi: dict[str, RegionSize]
    notes: list[str]
    provenance: ModelsProvenance

    @property
    def is_normalised(self) -> bool:
        """Whether scores that rows are compared by are divided by the noise ceiling."""
        return self.compared_by == "noise_normalised_correlation"
