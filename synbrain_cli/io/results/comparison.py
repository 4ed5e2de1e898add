"""Results of `synbrain compare`: several models of one subject on the same test images."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET

from synbrain_cli.io.results.record import Absent, ModelsProvenance, Repeats, Result

ScoreName = Literal["noise_normalised_correlation", "voxelwise_correlation"]
RowKind = Literal["mean_pattern", "linear", "model", "shuffled", "ceiling"]


class Estimate(Result, frozen=True):
    """A score and its 95 % interval.

    Attributes
    ----------
    value : float
    ci : tuple of float, optional
        None where an interval cannot be computed.
    """

    value: float
    ci: tuple[float, float] | None


class RowTraining(Result, frozen=True):
    """Data of the subject on which a model was trained and validated.

    Attributes
    ----------
    hours : float, optional
        None where unknown.
    n_trials : int
    sources : list of str
        Models of other subjects from which it was adapted.
    strategy : str, optional
        Strategy of the adaptation.
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
        Name of the row.
    kind : {"mean_pattern", "linear", "model", "shuffled", "ceiling"}
    models : list of str
        Models that this row belongs to; a baseline may belong to several.
    training : RowTraining, optional
        None for controls.
    voxelwise_correlation : Estimate
        Median over all voxels.
    noise_normalised_correlation : Estimate
        Correlation divided by the noise ceiling, median over reliable voxels.
    skill : Estimate
        Share of the squared error of the mean pattern that is removed.
    coverage_90 : Estimate
        Share of recorded trials within the central 90 % of draws.
    difference_to_reference, ratio_to_reference, ratio_to_linear : Estimate
        Difference and ratios of the score by which rows are compared.
    share_of_full : Estimate
        Ratio to the reference, where the reference was trained on all data of the subject.
    roi : dict of Estimate
        Score by which rows are compared, in each region.
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
        """Return the score of this name, by which rows are compared; None where it has no value."""
        if name == "noise_normalised_correlation":
            return self.noise_normalised_correlation
        return self.voxelwise_correlation


class RegionSize(Result, frozen=True):
    """Number of voxels of a region.

    Attributes
    ----------
    n_voxels, n_reliable_voxels : int
    """

    n_voxels: int
    n_reliable_voxels: int


class Comparison(Result, frozen=True, kw_only=True):
    """Content of ``comparison.json``.

    Attributes
    ----------
    subject : str
        Dataset and label, such as "nsd/sub-01".
    on : str
        Another dataset, of which the test images are. Absent where they are the models' own.
    simulated : bool
    models : list of str
    reference : str
        Model with which the others are compared.
    reference_has_all_data : bool
        Whether the reference was trained on all data of the subject.
    compared_by : {"noise_normalised_correlation", "voxelwise_correlation"}
        Score by which rows are compared.
    n_test_images, n_test_trials : int
    repeats_per_image : Repeats
    averaged_over : int
        Recorded trials that each row of the data is the average of.
    n_voxels, n_reliable_voxels : int
    n_draws : int
        Number of draws per image for the coverage; 0 where it was not computed.
    units : dict
        Scores → unit of the responses.
    rows : list of ComparedRow
    roi : dict of RegionSize
        Region → number of its voxels.
    notes : list of str
    provenance : ModelsProvenance
    """

    subject: str
    on: str | Absent = UNSET
    simulated: bool
    models: list[str]
    reference: str
    reference_has_all_data: bool
    compared_by: ScoreName
    n_test_images: int
    n_test_trials: int
    repeats_per_image: Repeats
    averaged_over: int
    n_voxels: int
    n_reliable_voxels: int
    n_draws: int
    units: dict[str, str]
    rows: list[ComparedRow]
    roi: dict[str, RegionSize]
    notes: list[str]
    provenance: ModelsProvenance

    @property
    def of_dataset(self) -> str:
        """What follows "test images" in a sentence: whose they are, where another dataset's."""
        return "" if self.on is UNSET else f" of {self.on}"

    @property
    def is_normalised(self) -> bool:
        """Whether the score by which rows are compared is divided by the noise ceiling."""
        return self.compared_by == "noise_normalised_correlation"
