"""Results of `synbrain localize prf`: population receptive fields of a modelled subject."""

from __future__ import annotations

from msgspec import UNSET

from synbrain_cli.io.results.record import Absent, Number, Result


class RegionFields(Result, frozen=True):
    """Population receptive fields of a region, medians over the voxels that were fitted well.

    Attributes
    ----------
    n_voxels, n_fitted : int
        All voxels, and those whose R² reaches the threshold.
    r2 : float, optional
    eccentricity, size : float, optional
        Degrees of visual angle; None where no voxel was fitted well.
    slope : float, optional
        Of size on eccentricity, degrees per degree, by least squares over the fitted voxels; None
        with fewer than ten.
    """

    n_voxels: int
    n_fitted: int
    r2: Number
    eccentricity: Number
    size: Number
    slope: Number


class MeasuredAgreement(Result, frozen=True):
    """Agreement with the subject's own maps, over voxels that both fit well.

    Attributes
    ----------
    n_voxels : int
    angle_error : float, optional
        Median distance on the circle, degrees.
    eccentricity_r, size_r : float, optional
        Correlation over voxels; of sizes, of their logarithms.
    """

    n_voxels: int
    angle_error: Number
    eccentricity_r: Number
    size_r: Number


class RetinotopyRecord(Result, frozen=True):
    """``prf.json``.

    Attributes
    ----------
    model, subject, dataset : str
    simulated : bool
    degrees : float
        Width of the pictures, degrees of visual angle.
    n_apertures, n_textures : int
        Pictures that were shown: each aperture over each texture.
    min_r2 : float
        Threshold of R² in figures and in what is said of regions.
    chance_r2 : float
        95th percentile, over voxels, of R² of fits to apertures in another order: what fields
        explain of responses that have nothing to do with them.
    regions : dict of RegionFields
        "all", and every region of ten voxels or more.
    seed : int
        Of the textures.
    fingerprint : str
        Of the model.
    versions : dict
    measured : MeasuredAgreement
        Absent without the subject's own maps.
    command : str
        That was typed; absent from Python.
    """

    model: str
    subject: str
    dataset: str
    simulated: bool
    degrees: float
    n_apertures: int
    n_textures: int
    min_r2: float
    chance_r2: float
    regions: dict[str, RegionFields]
    seed: int
    fingerprint: str
    versions: dict[str, str]
    measured: MeasuredAgreement | Absent = UNSET
    command: str | Absent = UNSET
