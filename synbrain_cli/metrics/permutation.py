"""Permutation test of classifiers: recorded and drawn rows of an image take each other's place.

Scores are compared once, row by row; every exchange of labels then only adds the comparisons up in
another way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from synbrain_cli.groups import Groups, count_groups
from synbrain_cli.metrics.bootstrap import TOGETHER
from synbrain_cli.metrics.two_sample import N_OUTER, Sample, Scores

N_EXCHANGES = 1000
WIDENING = float(np.sqrt(2))  # see `p_values`


@dataclass(frozen=True, eq=False)
class Block:
    """Comparisons of the rows of one fold, added up by image. 0 is drawn, 1 recorded.

    Attributes
    ----------
    images : int array of shape (n_here,)
        Images of the fold.
    wins : float32 array of shape (2, 2, n_here, n_here)
        ``wins[a, b, i, j]``: pairs of a row of image i and a row of image j in which the former has
        the higher score; ties are one half.
    counts : float64 array of shape (2, n_here)
        Rows of each image.
    """

    images: NDArray[np.integer]
    wins: NDArray[np.float32]
    counts: NDArray[np.float64]

    @classmethod
    def of(cls, sample: Sample, scores: Scores, images: NDArray[np.integer]) -> Block:
        """Compare every row of some images with every other."""
        place = np.full(sample.n_images, -1)
        place[images] = np.arange(len(images))
        rows = np.flatnonzero(place[sample.image] >= 0)
        rows = rows[np.lexsort((place[sample.image[rows]], sample.is_recorded[rows]))]
        group = sample.is_recorded[rows] * len(images) + place[sample.image[rows]]
        starts = np.flatnonzero(np.diff(group, prepend=-1))
        counts = np.bincount(group, minlength=2 * len(images))
        wins = np.zeros((2 * len(images), 2 * len(images)), np.float32)
        s = scores[rows]
        for start, number in zip(starts, group[starts], strict=True):
            own = s[start : start + counts[number], None]
            higher = (own > s).sum(0) + 0.5 * (own == s).sum(0)
            wins[number, group[starts]] = np.add.reduceat(higher, starts)
        by_kind = wins.reshape(2, len(images), 2, len(images)).transpose(0, 2, 1, 3)
        return cls(images, by_kind, counts.reshape(2, -1).astype(np.float64))


@dataclass(frozen=True, eq=False)
class Exchange:
    """Comparisons of recorded with drawn rows: within folds, which one classifier judged.

    Attributes
    ----------
    blocks : tuple of Block
        One for each fold, of every set of draws.
    n_images : int
    groups : int array of shape (n_images,), optional
        Group of each image.
    """

    blocks: tuple[Block, ...]
    n_images: int
    groups: Groups | None = None

    @classmethod
    def of(cls, sample: Sample, scores: Scores, fold: NDArray[np.int64]) -> Exchange:
        """Compare every row with every other in its fold.

        Parameters
        ----------
        sample : Sample
        scores : float64 array of shape (n_rows,)
        fold : int array of shape (n_images,)
        """
        images = (np.flatnonzero(fold == k) for k in range(N_OUTER))
        blocks = tuple(Block.of(sample, scores, some) for some in images)
        return cls(blocks, sample.n_images, sample.groups)

    @classmethod
    def of_sets(cls, sets: Sequence[Exchange]) -> Exchange:
        """Put comparisons of several sets of draws with one recording together.

        Which draws were made is chance, over which this averages. Images are resampled and
        exchanged in all sets together, so that the correlation of the sets, which share the
        recorded rows, remains.
        """
        blocks = tuple(block for one in sets for block in one.blocks)
        return cls(blocks, sets[0].n_images, sets[0].groups)

    @cached_property
    def auc(self) -> float:
        """Share of (recorded, drawn) pairs of one fold in which the recorded row is higher."""
        return float(self.resampled(np.ones((1, self.n_images)))[0])

    def resampled(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """AUC of bootstrap samples of the images: counts (n_boot, n_images) → (n_boot,)."""
        above, pairs = np.zeros((2, len(counts)))
        for block in self.blocks:
            c = counts[:, block.images]
            above += ((c @ block.wins[1, 0].astype(np.float64)) * c).sum(1)
            pairs += (c @ block.counts[1]) * (c @ block.counts[0])
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(above / pairs)

    def exchanged(self, swapped: NDArray[np.float64]) -> NDArray[np.float64]:
        """AUC where recorded and drawn rows of some images take each other's place.

        Parameters
        ----------
        swapped : float64 array of shape (n_exchanges, n_images)
            1 where all rows of an image are exchanged, else 0.

        Returns
        -------
        float64 array of shape (n_exchanges,)
        """
        above, pairs = np.zeros((2, len(swapped)))
        for block in self.blocks:
            moved = swapped[:, block.images]
            stays = 1 - moved
            # Rows of kind 1 stand for recorded ones where their image stays, of kind 0 where not
            as_recorded, as_drawn = (moved, stays), (stays, moved)
            for a, b in np.ndindex(2, 2):
                wins = block.wins[a, b].astype(np.float64)
                above += ((as_recorded[a] @ wins) * as_drawn[b]).sum(1)
            drawn, recorded = block.counts
            pairs += (stays @ recorded + moved @ drawn) * (stays @ drawn + moved @ recorded)
        return np.asarray(above / pairs)


def exchanges(
    n_images: int, generator: np.random.Generator, groups: Groups | None = None
) -> Iterator[NDArray[np.float64]]:
    """Yield which images are exchanged, `N_EXCHANGES` times: arrays (at most 128, n_images).

    Images of a group are exchanged together.
    """
    n_units = count_groups(n_images, groups)
    own = slice(None) if groups is None else np.unique(groups, return_inverse=True)[1]
    for start in range(0, N_EXCHANGES, TOGETHER):
        n_here = min(TOGETHER, N_EXCHANGES - start)
        yield generator.integers(0, 2, (n_here, n_units)).astype(float)[:, own]


@dataclass(frozen=True)
class PValues:
    """Chances of AUC as high as those found, where draws and recorded trials are of one kind.

    Attributes
    ----------
    each : tuple of float
        Of every classifier alone.
    best : float
        Of the best of all, whichever it is.
    """

    each: tuple[float, ...]
    best: float


def p_values(found: Sequence[Exchange], generator: np.random.Generator) -> PValues:
    r"""Permutation test of several classifiers, each alone and the best of them.

    Under the hypothesis that draws are as recorded trials are, all rows of an image (or of a group
    of images) can exchange their labels. Every classifier gets the same exchanges, so that the
    highest of their standardised AUC has a distribution too (max statistic; Westfall & Young 1993).

    The classifiers are not fitted again. Two folds f and g judge each other's images, and what
    separates the labels in both by chance is counted twice: the classifier that saw g finds it in
    f, and the one that saw f finds it in g. For a classifier that is linear in the differences of
    its training rows, the AUC then has exactly twice the variance that exchanges with fixed
    classifiers have, for others at most that. Deviations from .5 in the exchanges are therefore
    multiplied by √2 (ours; false alarms are counted in ``benchmarks/two_sample.py``).

    Parameters
    ----------
    found : sequence of Exchange
        All of the same images, in one order.
    generator : numpy.random.Generator

    Returns
    -------
    PValues
        One-sided: an AUC below .5 is chance.
    """
    batches = [
        np.stack([one.exchanged(swapped) for one in found], 1)
        for swapped in exchanges(found[0].n_images, generator, found[0].groups)
    ]
    null = WIDENING * (np.concatenate(batches) - 0.5)
    observed = np.array([one.auc for one in found]) - 0.5
    sd = np.sqrt((null**2).mean(0))
    sd = np.where(sd > 0, sd, np.inf)  # all scores are equal: a classifier that sees nothing
    each = (1 + (null >= observed).sum(0)) / (len(null) + 1)
    best = (1 + ((null / sd).max(1) >= (observed / sd).max()).sum()) / (len(null) + 1)
    return PValues(tuple(each.tolist()), float(best))
