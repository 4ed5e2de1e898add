"""Population receptive fields of a modelled subject: responses, fit, summary by region."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from synbrain_cli.brain import Brain
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.evaluation.test_set import scored_regions
from synbrain_cli.experiments.mapping_stimuli import (
    Apertures,
    mapping_apertures,
    render,
    textures,
)
from synbrain_cli.experiments.population_fields import PopulationFields, fit_population_fields
from synbrain_cli.io.results.record import finite
from synbrain_cli.io.results.retinotopy import MeasuredAgreement, RegionFields
from synbrain_cli.io.seal import is_kept, keep
from synbrain_cli.io.volume import check_same_grid, read_3d
from synbrain_cli.io.voxel_space import POSITION_COLUMNS, Volume
from synbrain_cli.plotting.map_plotter import Look, MapPlotter
from synbrain_cli.plotting.maps import BrainMap
from synbrain_cli.plotting.retinotopy import ShownFields, retinotopic_maps
from synbrain_cli.plotting.wheels import angles_of, directions
from synbrain_cli.progress import Bar, Progress, Share
from synbrain_cli.run import RunContext

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOGETHER = 16  # pictures that are in memory at a time
FEWEST = 10  # voxels for a slope
WELL = 10.0  # percent of variance explained from which on a measured field counts (as in NSD)


@dataclass(frozen=True)
class MappingSettings:
    """What is shown, and what counts as a receptive field.

    Attributes
    ----------
    degrees : float
        Width of the pictures in the subject's experiment, degrees of visual angle; NSD's is 8.4.
    n_textures : int
        Over which every aperture is shown.
    min_r2 : float, optional
        R² from which on a field counts; default what chance reaches in 5 % of the voxels.

    Raises
    ------
    InputError
        When one is impossible.
    """

    degrees: float = 8.4
    n_textures: int = 4
    min_r2: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.degrees <= 180:
            raise InputError(f"--degrees {self.degrees:g}: expected more than 0, and at most 180")
        if self.n_textures < 1:
            raise InputError(f"--textures {self.n_textures}: expected one or more")
        if self.min_r2 is not None and not 0 <= self.min_r2 < 1:
            raise InputError(f"--min-r2 {self.min_r2:g}: expected 0 or more, and less than 1")


class VisualField(NamedTuple):
    """Population receptive fields in degrees of visual angle.

    Attributes
    ----------
    angle : float array of shape (n_voxels,)
        Degrees from 0 to 360, counterclockwise from the right.
    eccentricity, size : float arrays of shape (n_voxels,)
        Degrees of visual angle.
    r2 : float array of shape (n_voxels,)
        Share of the variance over apertures that the fit explains.
    """

    angle: NDArray[np.float64]
    eccentricity: NDArray[np.float64]
    size: NDArray[np.float64]
    r2: NDArray[np.float64]


@dataclass(frozen=True)
class Retinotopy:
    """Population receptive fields of a modelled subject: what `fit_prf` returns.

    Attributes
    ----------
    brain : Brain
    settings : MappingSettings
    fields : PopulationFields
        In half-widths of the pictures.
    chance_r2 : float
        95th percentile over voxels of R² of fits to apertures in another order.
    """

    brain: Brain
    settings: MappingSettings
    fields: PopulationFields
    chance_r2: float

    @property
    def min_r2(self) -> float:
        """R² from which on a field counts."""
        return self.chance_r2 if self.settings.min_r2 is None else self.settings.min_r2

    @property
    def visual(self) -> VisualField:
        """The fields in degrees of visual angle."""
        half = self.settings.degrees / 2
        found = self.fields
        return VisualField(found.angle, half * found.eccentricity, half * found.size, found.r2)

    @property
    def table(self) -> pd.DataFrame:
        """One row per voxel: position, ncsnr, the attributes of `VisualField`, exponent, gain."""
        voxels = self.brain.voxels
        known = [column for column in (*POSITION_COLUMNS, "ncsnr") if column in voxels]
        fields = self.fields
        return voxels[known].assign(
            **self.visual._asdict(), exponent=fields.exponent, gain=fields.gain
        )

    def to_nifti(self) -> dict[str, nib.Nifti1Image]:
        """Return a volume of each attribute of `VisualField`, on the subject's own grid."""
        found = self.visual._asdict()
        return {name: self.brain.to_nifti(values) for name, values in found.items()}

    def to_surface(self, space: str | None = None) -> dict[str, dict[str, NDArray[np.floating]]]:
        """Resample to a cortical surface, angles as directions.

        Returns
        -------
        dict of dict of float arrays of shape (n_vertices,)
            By name, then ``left`` and ``right``; NaN where there are no data.
        """
        angle, *others = self.visual
        resampled = self.brain.to_surface(np.stack([*directions(angle), *others]), space)
        maps: dict[str, dict[str, NDArray[np.floating]]] = {n: {} for n in VisualField._fields}
        for hemisphere, (right, up, *rest) in resampled.items():
            whole = angles_of(np.stack([right, up])), *rest
            for name, values in zip(VisualField._fields, whole, strict=True):
                maps[name][hemisphere] = values
        return maps

    def plot(self, what: str = "angle", look: Look | None = None) -> Figure:
        """Plot a flatmap of "angle", "eccentricity", "size" or "r2".

        Parameters
        ----------
        what : str
        look : Look, optional

        Raises
        ------
        InputError
            When there is no such map.
        """
        maps = dict(zip(VisualField._fields, self.maps(), strict=True))
        if what not in maps:
            raise InputError(f"what: expected one of {', '.join(maps)}, found {what!r}")
        plot_map = MapPlotter(self.brain, "flatmap", look or Look(), Progress(quiet=True))
        return plot_map(maps[what])

    def maps(self) -> Iterator[BrainMap]:
        """Yield the map of each attribute of `VisualField`."""
        shown = ShownFields(self.visual, self.min_r2, self.settings.degrees)
        return retinotopic_maps(self.brain, shown)


def fit_prf(
    brain: Brain,
    settings: MappingSettings | None = None,
    run: RunContext | None = None,
    recovery: Path | None = None,
) -> Retinotopy:
    """Map the population receptive fields of a modelled subject.

    Bars, wedges and rings over textures are shown to the model, and the fields that explain its
    expected responses best are fitted (`synbrain_cli.experiments.population_fields`). Beside them
    stands what the same fit finds where apertures are in another order.

    Parameters
    ----------
    brain : Brain
    settings : MappingSettings, optional
    run : RunContext, optional
        Its seed is that of the textures.
    recovery : path, optional
        Folder in which responses are kept meanwhile, for the run that continues an interrupted one.

    Examples
    --------
    >>> found = fit_prf(load_model("weights/sub-01"))        # doctest: +SKIP
    >>> found.to_nifti()["angle"].to_filename("angle.nii.gz")  # doctest: +SKIP
    """
    settings, run = settings or MappingSettings(), run or RunContext()
    apertures = mapping_apertures()
    responses = respond(brain, apertures, settings.n_textures, run, recovery)
    with run.progress.stage("receptive fields") as share:
        fitting, by_chance = share.split(1, 1)
        fields = fit_population_fields(apertures.masks, responses, fitting)
        chance = chance_r2(apertures, responses, run.seed, by_chance)
    return Retinotopy(brain, settings, fields, chance)


def respond(
    brain: Brain,
    apertures: Apertures,
    n_textures: int,
    run: RunContext,
    recovery: Path | None = None,
) -> NDArray[np.float32]:
    """Show every aperture over every texture, and average the responses over textures.

    Parameters
    ----------
    brain : Brain
    apertures : Apertures
    n_textures : int
    run : RunContext
        Its seed is that of the textures.
    recovery : path, optional
        As in `fit_prf`.

    Returns
    -------
    float32 array of shape (n_apertures, n_voxels)
        Expected responses, in the recorded unit.
    """
    n = len(apertures.names)
    total = np.zeros((n, brain.n_voxels), np.float32)
    shown = textures(n_textures, np.random.default_rng([run.seed, 11]))
    with run.progress.bar("mapping stimuli", n * n_textures, shorter="fewer --textures") as bar:
        for k, texture in enumerate(shown):
            path = recovery / f"texture-{k + 1}.npy" if recovery else None
            if path and is_kept(path, run.progress.info):
                own = np.load(path)
                bar.to(bar.done + n)
            else:
                own = _respond_to(brain, apertures, texture, bar)
                if path:
                    np.save(path, own)
                    keep(path)
            total += own
    return total / np.float32(n_textures)


def _respond_to(
    brain: Brain, apertures: Apertures, texture: NDArray[np.float32], bar: Bar
) -> NDArray[np.float32]:
    """Show every aperture over one texture: float32 (n_apertures, n_voxels)."""
    parts = []
    for first in range(0, len(apertures.names), TOGETHER):
        shown = render(apertures.masks[first : first + TOGETHER], texture)
        parts.append(brain.mean(shown))
        bar.to(bar.done + len(shown))
    return np.concatenate(parts)


def chance_r2(
    apertures: Apertures, responses: NDArray[np.float32], seed: int, share: Share
) -> float:
    """Return the 95th percentile over voxels of R² of fits to apertures in another order."""
    order = np.random.default_rng([seed, 12]).permutation(len(apertures.names))
    found = fit_population_fields(apertures.masks[order], responses, share)
    return float(np.percentile(found.r2, 95))


def describe_regions(found: Retinotopy) -> dict[str, RegionFields]:
    """Summarise all voxels, and every region that is large enough."""
    masks = {"all": np.ones(found.brain.n_voxels, bool), **scored_regions(found.brain)}
    return {name: _describe(found.visual, mask, found.min_r2) for name, mask in masks.items()}


def _describe(fields: VisualField, mask: NDArray[np.bool_], min_r2: float) -> RegionFields:
    good = mask & (fields.r2 >= min_r2)
    slope = None
    if good.sum() >= FEWEST and np.ptp(fields.eccentricity[good]) > 0:
        slope = float(np.polyfit(fields.eccentricity[good], fields.size[good], 1)[0])
    medians = {
        name: float(np.median(values[good])) if good.any() else None
        for name, values in fields._asdict().items()
        if name != "angle"
    }
    return finite(
        RegionFields(n_voxels=int(mask.sum()), n_fitted=int(good.sum()), slope=slope, **medians)
    )


@dataclass(frozen=True)
class MeasuredMaps:
    """A subject's own population receptive fields, as NSD has them: volumes on the betas' grid.

    Attributes
    ----------
    fields : VisualField
        R² as a share.
    """

    fields: VisualField

    @classmethod
    def load(cls, folder: Path, brain: Brain) -> MeasuredMaps:
        """Read ``prf_angle``, ``prf_eccentricity``, ``prf_size`` and ``prf_R2`` of a folder.

        Raises
        ------
        MissingError
            When one of the files is not there.
        InputError
            When the model is of no volume, or the files are on another grid.
        """
        geometry = brain.voxel_space.geometry
        if not isinstance(geometry, Volume):
            raise InputError(
                f"--measured {folder}: expected a model of a volume, found {brain.name}, which is "
                f"of {brain.config.space}"
            )
        values = {}
        for name in ("angle", "eccentricity", "size", "R2"):
            path = folder / f"prf_{name}.nii.gz"
            if not path.is_file():
                raise MissingError(
                    f"{path}: expected the subject's own map (NSD: "
                    "nsddata/ppdata/subj01/func1pt8mm), found no such file"
                )
            whole, image = read_3d(path)
            check_same_grid(path, image, brain.folder / "mask.nii.gz", geometry.mask)
            values[name] = whole[geometry.inside].astype(np.float64)
        return cls(
            VisualField(
                values["angle"] % 360, values["eccentricity"], values["size"], values["R2"] / 100
            )
        )

    def agreement(self, found: Retinotopy) -> MeasuredAgreement:
        """Compare with the model's fields, where both are fitted well."""
        own, fields = self.fields, found.visual
        both = (fields.r2 >= found.min_r2) & (own.r2 >= WELL / 100)
        for one in own:
            both &= np.isfinite(one)
        both &= own.size > 0
        n = int(both.sum())
        if n < FEWEST:
            return MeasuredAgreement(n_voxels=n, angle_error=None, eccentricity_r=None, size_r=None)
        away = np.abs((fields.angle[both] - own.angle[both] + 180) % 360 - 180)
        sizes = np.log(fields.size[both]), np.log(own.size[both])
        eccentricities = fields.eccentricity[both], own.eccentricity[both]
        return finite(
            MeasuredAgreement(
                n_voxels=n,
                angle_error=float(np.median(away)),
                eccentricity_r=float(np.corrcoef(*eccentricities)[0, 1]),
                size_r=float(np.corrcoef(*sizes)[0, 1]),
            )
        )
