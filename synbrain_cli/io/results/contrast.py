"""Results of `synbrain contrast` and `synbrain localize categories`."""

from __future__ import annotations

from msgspec import UNSET

from synbrain_cli.io.results.record import Absent, Interval, Number, Result


class RegionContrast(Result, frozen=True):
    """Difference of the mean over a region's voxels.

    Attributes
    ----------
    n_voxels, n_significant : int
        All voxels, and those with a significant difference.
    difference : float
        In the unit of the data.
    interval : pair of float
        95 % interval: images and model.
    d : float, optional
        In SDs over the images of a condition (Cohen 1988); None where they do not vary.
    se_images, se_model, se_trials : float
        Standard errors by source.
    p_corrected : float
        Over the regions.
    adjusted, p_adjusted : float
        Beside low-level statistics of the images; absent without controls.
    scrambled : float
        Difference between phase-scrambled images; absent without controls.
    random_weights : float
        Difference according to a model whose encoder has random weights; absent without one.
    """

    n_voxels: int
    n_significant: int
    difference: float
    interval: Interval
    d: Number
    se_images: float
    se_model: float
    se_trials: float
    p_corrected: float
    adjusted: Number | Absent = UNSET
    p_adjusted: Number | Absent = UNSET
    scrambled: Number | Absent = UNSET
    random_weights: Number | Absent = UNSET


class PowerRecord(Result, frozen=True):
    """Power of a simulated experiment.

    Attributes
    ----------
    trials, sessions : int
        Of each condition in each session.
    n_simulated : int
        Experiments.
    alpha : float
        Two-sided level, uncorrected.
    of_regions : dict of float
        Probability to find the difference in the mean of each region, with the sign predicted.
    trials_needed : dict of float
        Of each condition, for a power of 80 %; None beyond those tried.
    trials_interval : dict of pairs
        95 % interval of these by what the model does not know of the difference; an end is None
        where there is none.
    """

    trials: int
    sessions: int
    n_simulated: int
    alpha: float
    of_regions: dict[str, float]
    trials_needed: dict[str, Number]
    trials_interval: dict[str, Interval]


class ContrastRecord(Result, frozen=True):
    """``contrast.json``.

    Attributes
    ----------
    model, subject, dataset, unit : str
    simulated : bool
    conditions : pair of str
        The first minus the second.
    n_images : pair of int
    far : int
        Images that are farther from the training images than any of these from the others.
    correction : str
    alpha : float
    n_permutations : int
    n_significant : int
        Voxels.
    regions : dict of RegionContrast
        "all", and every region of ten voxels or more.
    verdict : str
        Whether the effect survives the controls, in one sentence.
    control_model : str
        Whose encoder has random weights; absent without one.
    power : PowerRecord
        Absent without an experiment.
    seed : int
    fingerprint : str
        Of the model.
    versions : dict
    command : str
        That was typed; absent from Python.
    """

    model: str
    subject: str
    dataset: str
    unit: str
    simulated: bool
    conditions: tuple[str, str]
    n_images: tuple[int, int]
    far: int
    correction: str
    alpha: float
    n_permutations: int
    n_significant: int
    regions: dict[str, RegionContrast]
    verdict: str
    seed: int
    fingerprint: str
    versions: dict[str, str]
    control_model: str | Absent = UNSET
    power: PowerRecord | Absent = UNSET
    command: str | Absent = UNSET


class CategoryRecord(Result, frozen=True):
    """A category of images against all others.

    Attributes
    ----------
    n_images, n_significant, n_preferring : int
        Voxels that respond more to it, and those that it drives most.
    auc : dict of float
        By region of the subject: how well the t map tells its voxels from all others.
    verdict : str
        Whether the largest effect survives the controls, in one sentence.
    """

    n_images: int
    n_significant: int
    n_preferring: int
    auc: dict[str, float]
    verdict: str


class CategoriesRecord(Result, frozen=True):
    """``categories.json``.

    Attributes
    ----------
    model, subject, dataset : str
    simulated : bool
    n_voxels : int
    far : int
        Images that are farther from the training images than any of these from the others.
    correction : str
    alpha : float
    n_permutations : int
    categories : dict of CategoryRecord
    seed : int
    fingerprint : str
        Of the model.
    versions : dict
    command : str
        That was typed; absent from Python.
    """

    model: str
    subject: str
    dataset: str
    simulated: bool
    n_voxels: int
    far: int
    correction: str
    alpha: float
    n_permutations: int
    categories: dict[str, CategoryRecord]
    seed: int
    fingerprint: str
    versions: dict[str, str]
    command: str | Absent = UNSET
