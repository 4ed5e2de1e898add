"""Classifiers of recorded and drawn trials: trained in the same way for every distribution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from synbrain_cli.evaluation.residuals import Residuals, Seen, fit_probes, see
from synbrain_cli.io.results.two_sample import Rows
from synbrain_cli.metrics.permutation import Exchange
from synbrain_cli.metrics.trial_features import ImageFeatures
from synbrain_cli.metrics.two_sample import (
    CLASSIFIERS,
    Kind,
    Scores,
    held_out_scores,
    random_labels,
)
from synbrain_cli.progress import UNSEEN, Share

N_FLOOR = 5  # times that recorded trials are told from recorded ones


@dataclass(frozen=True, eq=False)
class Judged:
    """What classifiers make of one distribution's draws, as trials or as pairs of repeats.

    Attributes
    ----------
    seen : Seen
    scores : dict of float64 arrays of shape (n_rows,)
        Classifier → held-out scores.
    exchanges : dict of Exchange
        Classifier → comparisons of these scores.
    """

    seen: Seen
    scores: dict[str, Scores]
    exchanges: dict[str, Exchange]

    @property
    def n_recorded(self) -> int:
        """Recorded rows."""
        return int(self.seen.sample.is_recorded.sum())


def together(sets: Sequence[Mapping[str, Exchange]]) -> dict[str, Exchange]:
    """Put comparisons of the same kind together over sets of draws."""
    return {name: Exchange.of_sets([one[name] for one in sets]) for name in sets[0]}


def judged_together(sets: Sequence[Mapping[Rows, Judged]]) -> dict[Rows, Judged]:
    """Put sets of draws together; features and scores are those of the first set."""
    return {
        rows: replace(first, exchanges=together([one[rows].exchanges for one in sets]))
        for rows, first in sets[0].items()
    }


@dataclass(frozen=True, eq=False)
class Judge:
    """Trains the classifiers, in the same way for every distribution.

    Attributes
    ----------
    images : ImageFeatures
    regions : tuple of n_regions str
    averaging : float32 array of shape (n_voxels, n_regions)
        Voxels → region means.
    generator : numpy.random.Generator
    kinds : mapping of Kind
        Classifiers, by name.
    """

    images: ImageFeatures
    regions: tuple[str, ...]
    averaging: NDArray[np.float32]
    generator: np.random.Generator
    kinds: Mapping[str, Kind] = field(default_factory=lambda: CLASSIFIERS)

    def judge(self, residuals: Residuals, share: Share = UNSEEN) -> dict[Rows, Judged]:
        """Tell recorded residuals from drawn ones.

        Parameters
        ----------
        residuals : Residuals
        share : Share
            Of the progress.

        Returns
        -------
        dict of Judged
            "trials", and "pairs" where there are enough of them (`see`).
        """
        of_features, of_classifiers = share.split(1, 4)
        probes = fit_probes(
            residuals, self.images.components, self.averaging, self.regions, self.generator
        )
        seen = see(residuals, probes, self.images)
        of_features.to(1)
        return {
            rows: self._judge(own, part) for (rows, own), part in of_classifiers.each(seen.items())
        }

    def judge_sets(
        self, residuals: Residuals, n_sets: int, share: Share = UNSEEN
    ) -> list[dict[Rows, Judged]]:
        """Tell recorded residuals from each of several sets of draws."""
        return [self.judge(residuals.with_draws(k), own) for k, own in share.each(range(n_sets))]

    def _judge(self, seen: Seen, share: Share) -> Judged:
        fold = seen.sample.deal(self.generator)
        scores = {
            name: held_out_scores(seen.sample, kind, fold, self.generator)
            for name, kind in share.over(self.kinds.items())
        }
        return Judged(
            seen,
            scores,
            {name: Exchange.of(seen.sample, own, fold) for name, own in scores.items()},
        )

    def floor(self, seen: Seen, share: Share = UNSEEN) -> dict[str, NDArray[np.float64]]:
        """Tell recorded rows from recorded rows, labelled at random within images.

        Parameters
        ----------
        seen : Seen
        share : Share

        Returns
        -------
        dict of float64 arrays of shape (N_FLOOR,)
            Classifier → AUC.
        """
        recorded = seen.sample.select(seen.sample.is_recorded)
        found: dict[str, list[float]] = {name: [] for name in self.kinds}
        for _ in share.over(range(N_FLOOR)):
            own = recorded.labelled(random_labels(recorded.image, self.generator))
            fold = own.deal(self.generator)
            for name, kind in self.kinds.items():
                scores = held_out_scores(own, kind, fold, self.generator)
                found[name].append(Exchange.of(own, scores, fold).auc)
        return {name: np.array(values) for name, values in found.items()}

    def see_alone(
        self, seen: Seen, parts: Mapping[str, set[str]], share: Share = UNSEEN
    ) -> dict[str, Exchange]:
        """Let the logistic classifier see some of the features.

        Parameters
        ----------
        seen : Seen
        parts : mapping of sets of str
            Name of each part → names of its features.
        share : Share
        """
        found = {}
        for part, names in share.over(parts.items()):
            own = seen.only(names)
            fold = own.deal(self.generator)
            scores = held_out_scores(own, CLASSIFIERS["logistic"], fold, self.generator)
            found[part] = Exchange.of(own, scores, fold)
        return found
