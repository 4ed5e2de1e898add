r"""One pass through thousands of images: of each, a few numbers by region.

Memory does not depend on the number of images. Of every image and model there remain the average
expected response of each region, in the recorded unit, the covariance of their errors, and how far
the image is from those of training; of two models of one subject also how far their responses are
apart, voxel by voxel.

The error of a region's average is the unexplained signal u of that image
(`synbrain_cli.model.uncertainty`), which voxels share. With the region's weights w (one over its
number of voxels, times the voxel's standard deviation), the loadings L of u and its private part p,

.. math:: \mathrm{cov}_{rs} = (w_r \sqrt g)^\top (L L^\top + \mathrm{diag}(p^2))\, (w_s \sqrt g)

where g says how much less sure the image is than others.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import tee
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from synbrain_cli.brain import Brain
from synbrain_cli.brain.images import in_batches
from synbrain_cli.brain.prediction import BATCH
from synbrain_cli.experiments.keeping import Keeping, Values
from synbrain_cli.experiments.selection_aims import Region
from synbrain_cli.experiments.selection_guard import Halves
from synbrain_cli.features.images import ImageSet
from synbrain_cli.model.readout import Readout
from synbrain_cli.run import RunContext
from synbrain_cli.tokens import Tokens

Array = NDArray[np.float64]


class Seen(NamedTuple):
    """Response of one model to one image, voxel by voxel, in the recorded unit.

    Attributes
    ----------
    mean : float64 array of shape (n_voxels,)
    scale : float64 array of shape (n_voxels,), optional
        What the unexplained signal is multiplied by; None where it is not known.
    distance : float
        Percent of training images that are as near or nearer; NaN where it is not known.
    """

    mean: Array
    scale: Array | None
    distance: float


@dataclass(frozen=True)
class RegionReader:
    """A model, and the regions whose responses are kept.

    Attributes
    ----------
    brain : Brain
    regions : tuple of Region
    """

    brain: Brain
    regions: tuple[Region, ...]

    @property
    def has_sem(self) -> bool:
        """Whether the errors of expected responses are known."""
        return "sem" in self.brain.statistics("mean")

    def see(self, tokens: Tokens) -> Iterator[Seen]:
        """Predict the responses to some images, and how sure they are."""
        brain = self.brain
        means = brain.mean_of_tokens(tokens)
        doubt = brain.doubt(tokens)
        for i, z in enumerate(means):
            mean = z.astype(float) * brain.response_sd + brain.response_mean
            scale = None
            if self.has_sem:
                scale = np.asarray(brain.response_sd, float)
                if doubt is not None:
                    scale = scale * np.sqrt(doubt.relative[i])
            yield Seen(mean, scale, float("nan") if doubt is None else float(doubt.distance[i]))

    def average_covariance(self) -> Array:
        """Covariance of the errors of the regions' averages, of an image like those of training."""
        scale = np.asarray(self.brain.response_sd, float) if self.has_sem else None
        return self.read(Seen(np.zeros(self.brain.n_voxels), scale, 0.0))[1]

    def read(self, seen: Seen) -> tuple[Array, Array]:
        """Average over each region: means (n_regions,) and covariance of their errors (…, …)."""
        n_regions = len(self.regions)
        if seen.scale is None:
            return self._weights @ seen.mean, np.full((n_regions, n_regions), np.nan)
        signal = self._readout.signal
        scaled = self._weights * seen.scale
        shared, private = scaled @ signal.loadings, scaled * signal.private
        return self._weights @ seen.mean, shared @ shared.T + private @ private.T

    def squared_sem(self, seen: Seen) -> Array:
        """Squared standard error of every voxel: (n_voxels,); NaN where it is not known."""
        if seen.scale is None:
            return np.full(len(seen.mean), np.nan)
        return np.asarray(self._readout.signal.variance * seen.scale**2)

    @cached_property
    def _weights(self) -> Array:
        masks = np.stack([region.mask for region in self.regions]).astype(float)
        return np.asarray(masks / masks.sum(1, keepdims=True))

    @property
    def _readout(self) -> Readout:
        return self.brain.distribution.readout


@dataclass(frozen=True)
class Screen:
    """What is kept of an image: the work of one pass.

    Attributes
    ----------
    readers : tuple of RegionReader
        One, or two whose responses are compared.
    halves : Halves, optional
        Also predict with these, of the first model.
    voxelwise : bool
        Two models of one subject: how far their responses are apart in the first region.
    """

    readers: tuple[RegionReader, ...]
    halves: Halves | None = None
    voxelwise: bool = False

    def through(self, pictures: ImageSet, run: RunContext, recovery: Path | None = None) -> Values:
        """Show all images, or those that an interrupted run had not finished.

        Parameters
        ----------
        pictures : ImageSet
        run : RunContext
        recovery : path, optional
            Folder in which the numbers are kept meanwhile.

        Returns
        -------
        dict of float64 arrays
            ``mean`` (n_images, n_models, n_regions), ``covariance`` (n_images, n_models, n_regions,
            n_regions), ``distance`` (n_images, n_models); with halves ``halves`` (n_images, 2,
            n_regions); of voxelwise comparisons ``apart`` and ``error`` (n_images,): summed squared
            differences and standard errors.
        """
        keeping, stream = Keeping(recovery, run.progress.info), partial(self._stream, pictures)
        with run.progress.bar("screening", len(pictures), shorter="fewer images") as bar:
            return keeping.in_pieces("images", len(pictures), stream, bar)

    def _stream(self, pictures: ImageSet, rows: Sequence[int]) -> Generator[Values, None, None]:
        """Yield the numbers of one image after the other."""
        if not rows:
            return
        for batches in zip(*self._tokens(pictures, rows), strict=True):
            tokens, digests = batches[0]
            seen = [reader.see(own) for reader, (own, _) in zip(self.readers, batches, strict=True)]
            halves = None if self.halves is None else self.halves.predict(tokens)
            for i, each in zip(range(len(digests)), zip(*seen, strict=True), strict=False):
                own = self._of_image(each)
                yield own if halves is None else own | {"halves": halves[i]}

    def _tokens(
        self, pictures: ImageSet, rows: Sequence[int]
    ) -> list[Iterator[tuple[Tokens, list[str]]]]:
        """Tokens for each model, of its own encoder; an encoder of both is asked once."""
        first, *others = (reader.brain for reader in self.readers)

        def stream(brain: Brain) -> Iterator[tuple[Tokens, list[str]]]:
            return in_batches(brain.tokens(pictures, rows), BATCH)

        own = stream(first)
        if not others:
            return [own]
        if first.config.bands == others[0].config.bands:
            one, two = tee(own)  # asked in turns: one batch is in memory
            return [one, two]
        return [own, stream(others[0])]

    def _of_image(self, seen: Sequence[Seen]) -> Values:
        read = [reader.read(one) for reader, one in zip(self.readers, seen, strict=True)]
        values = {
            "mean": np.stack([mean for mean, _ in read]),
            "covariance": np.stack([covariance for _, covariance in read]),
            "distance": np.array([one.distance for one in seen]),
        }
        if self.voxelwise:
            inside = self.readers[0].regions[0].mask
            errors = [r.squared_sem(one)[inside] for r, one in zip(self.readers, seen, strict=True)]
            values["apart"] = np.array(((seen[0].mean - seen[1].mean)[inside] ** 2).sum())
            values["error"] = np.array(sum(error.sum() for error in errors))
        return values
