"""Where recorded and drawn residuals differ: by voxel and by region, with intervals over images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from synbrain_cli.evaluation.residuals import Residuals
from synbrain_cli.groups import independent_parts
from synbrain_cli.metrics.bootstrap import Bootstrap, weighted_mean
from synbrain_cli.metrics.trial_features import pairs_of

Floats = NDArray[np.float64]
N_IMITATIONS = 10  # of the recording: what is uncertain in a difference is then what was recorded
STATISTICS = ("bias", "variance", "repeated")


@dataclass(frozen=True, eq=False)
class Differences:
    """Mean, variance and repeated variance of recorded beside drawn residuals.

    Attributes
    ----------
    of_voxels : dict of float64 arrays of shape (3, n_voxels)
        Statistic ("bias": z, "variance": z², "repeated": product of two repeats) → its mean over
        recorded trials, over drawn ones (`N_IMITATIONS` times as many), and the difference in
        standard errors over images, or over groups of images.
    of_regions : dict of float64 arrays of shape (2, n_images, n_regions)
        "variance": z², mean over voxels; "mean_variance": square of the region's mean; "repeated".
        First recorded, then drawn; NaN for images without a pair.
    """

    of_voxels: dict[str, Floats]
    of_regions: dict[str, Floats]

    @classmethod
    def of(cls, residuals: Residuals, averaging: NDArray[np.float32]) -> Differences:
        """Add up all images: every image counts as much as any other.

        Parameters
        ----------
        residuals : Residuals
        averaging : float32 array of shape (n_voxels, n_regions)
            Voxels → region means.
        """
        n_voxels, n_regions = averaging.shape
        n_images = len(residuals.n_repeats)
        sums = {name: _Sums(n_voxels) for name in STATISTICS}
        of_regions = {
            name: np.full((2, n_images, n_regions), np.nan)
            for name in ("variance", "mean_variance", "repeated")
        }
        for part in independent_parts(n_images, residuals.groups):
            for image in part.tolist():
                recorded = _Moments.of(residuals.recorded(image), averaging)
                drawn = _Moments.mean(
                    [_Moments.of(residuals.drawn(image, k), averaging) for k in range(N_IMITATIONS)]
                )
                for name, total in sums.items():
                    if name in recorded.of_voxels:
                        total.add(recorded.of_voxels[name], drawn.of_voxels[name])
                for where, found in enumerate((recorded, drawn)):
                    for name, values in found.of_regions.items():
                        of_regions[name][where, image] = values
            for total in sums.values():
                total.end_part()
        of_voxels = {name: total.means_and_z() for name, total in sums.items() if total.n_parts > 1}
        return cls(of_voxels, of_regions)

    @property
    def has_repeats(self) -> bool:
        """Whether products of repeats are known."""
        return "repeated" in self.of_voxels

    def ratio(self, name: str, bootstrap: Bootstrap) -> tuple[Floats, Floats]:
        """Recorded / drawn of each region, and its 95 % interval: (n_regions,), (n_regions, 2)."""
        recorded, drawn = self.of_regions[name]

        def of_samples(counts: Floats) -> Floats:
            return weighted_mean(recorded, counts) / weighted_mean(drawn, counts)

        return recorded.mean(0) / drawn.mean(0), bootstrap.interval(of_samples, len(recorded))

    def difference(self, name: str, bootstrap: Bootstrap) -> tuple[Floats, Floats]:
        """Recorded − drawn of each region, and its 95 % interval: (n_regions,), (n_regions, 2)."""
        recorded, drawn = self.of_regions[name]
        known = np.isfinite(recorded).all(1)
        values = (recorded - drawn)[known]
        return values.mean(0), bootstrap.of(np.flatnonzero(known)).interval_of_mean(values)

    def columns(self) -> dict[str, Floats]:
        """One column per number that is known of a voxel: (n_voxels,) each."""
        found: dict[str, Floats] = {}
        for name, (recorded, drawn, z) in self.of_voxels.items():
            if name == "variance":
                found["variance_ratio"] = recorded / np.where(drawn > 0, drawn, np.nan)
            else:
                found[f"{name}_difference"] = recorded - drawn
            found[f"{name}_z"] = z
        return found


@dataclass(frozen=True)
class _Moments:
    """Moments of the residuals of one image: see `Differences`."""

    of_voxels: dict[str, Floats]
    of_regions: dict[str, Floats]

    @classmethod
    def of(cls, z: NDArray[np.float32], averaging: NDArray[np.float32]) -> _Moments:
        squares = z * z
        of_voxels = {
            "bias": z.mean(0, dtype=np.float64),
            "variance": squares.mean(0, dtype=np.float64),
        }
        of_regions = {
            "variance": of_voxels["variance"] @ averaging,
            "mean_variance": ((z @ averaging).astype(np.float64) ** 2).mean(0),
        }
        first, second = pairs_of(len(z))
        if len(first):
            of_voxels["repeated"] = (z[first] * z[second]).mean(0, dtype=np.float64)
            of_regions["repeated"] = of_voxels["repeated"] @ averaging
        return cls(of_voxels, of_regions)

    @classmethod
    def mean(cls, every: Sequence[_Moments]) -> _Moments:
        return cls(
            _averages([one.of_voxels for one in every]),
            _averages([one.of_regions for one in every]),
        )


def _averages(every: Sequence[dict[str, Floats]]) -> dict[str, Floats]:
    """Averages of each name over several."""
    return {name: np.mean([one[name] for one in every], 0) for name in every[0]}


class _Sums:
    """Sums over images of a statistic, recorded and drawn, and how the difference scatters.

    Differences of the images of one part, which are not independent, are added up before they are
    squared: the standard error is that of a mean over clusters of images (Liang & Zeger 1986,
    *Biometrika* 73), with n / (n − 1) of n parts.
    """

    def __init__(self, n_voxels: int) -> None:
        self.n_parts = 0
        self._n = self._n_here = 0
        self._total = np.zeros((2, n_voxels))
        self._here = np.zeros(n_voxels)  # difference, summed over the images of this part
        # Over parts: squares of these sums, their products with numbers of images, squares of those
        self._squares, self._crossed = np.zeros((2, n_voxels))
        self._sizes = 0

    def add(self, recorded: Floats, drawn: Floats) -> None:
        self._n_here += 1
        self._total += recorded, drawn
        self._here += recorded - drawn

    def end_part(self) -> None:
        """Images that are added from now on are independent of those before."""
        if self._n_here:
            self.n_parts += 1
            self._n += self._n_here
            self._squares += self._here**2
            self._crossed += self._n_here * self._here
            self._sizes += self._n_here**2
        self._n_here, self._here = 0, np.zeros_like(self._here)

    def means_and_z(self) -> Floats:
        recorded, drawn = self._total / self._n
        difference = recorded - drawn
        squares = self._squares - 2 * difference * self._crossed + difference**2 * self._sizes
        correction = self.n_parts / (self.n_parts - 1)
        variance = np.maximum(squares, 0) / self._n**2 * correction
        z = np.divide(
            difference, np.sqrt(variance), out=np.zeros_like(difference), where=variance > 1e-24
        )
        return np.stack([recorded, drawn, z])


def region_features(region: str) -> set[str]:
    """Names of the features of one region (`synbrain_cli.metrics.trial_features`)."""
    own = {f"mean {region}", f"mean {region}²", f"energy {region}"}
    of_pairs = {f"{part}: {name}" for part in ("sum", "difference") for name in own}
    return own | of_pairs | {f"product {region}"}
