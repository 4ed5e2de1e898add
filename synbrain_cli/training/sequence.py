"""What the order of trials does to a subject's responses, fitted beside the distribution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from synbrain_cli.io.bundle import EffectGain, SequenceSummary
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.model.sequence import TrialOrder
from synbrain_cli.model.sequence_fit import FittedSequence, fit_sequence, is_sorted_by_name
from synbrain_cli.model.trial_blocks import FEWEST_BLOCKS, LEAST_BLOCK, Residuals
from synbrain_cli.progress import UNSEEN, Share
from synbrain_cli.training.distribution import FittedDistribution
from synbrain_cli.training.examples import SubjectExamples

SEQUENCE = "drift, repetition, the image before"  # what `fit_order` fits
IN_A_ROW = 0.2  # share of trials above which repeats in a row pass for drift (ours)


@dataclass(frozen=True)
class OrderResult:
    """What was found, or why nothing could be.

    Attributes
    ----------
    found : FittedSequence, optional
    reason : str
        Why there is none; empty where there is.
    """

    found: FittedSequence | None
    reason: str = ""

    def summary(self) -> SequenceSummary:
        """Summarise it for ``config.json``."""
        if self.found is None:
            return SequenceSummary(reason=self.reason)
        sequence = self.found.sequence
        return SequenceSummary(
            kept=list(self.found.kept),
            gains={
                name: EffectGain(bits=gain.bits, interval=gain.interval, blocks=gain.blocks)
                for name, gain in self.found.gains.items()
            },
            drift_share=self.found.drift_share,
            time_constant=float(sequence.time_constant),
            count=sequence.count,
        )


def find_order(
    subject: PreparedSubject, images: np.ndarray, within: np.ndarray | None = None
) -> TrialOrder | str:
    """Find where the trials of training and validation stand in time, or say why that is unknown.

    Trials of the test split have their place, too; their responses are not opened.

    Parameters
    ----------
    subject : PreparedSubject
    images : array of str of shape (n_images,)
        Names of the images of training and validation, in the order of the examples.
    within : bool array of shape (n_trials,), optional
        Trials of the first hours, as in `load_examples`.
    """
    if subject.averaged_over > 1:
        return "rows are averages of trials, which have no place in time"
    table = subject.trials
    session = table["session"].to_numpy()
    names, image = np.unique(table["image"].to_numpy(str), return_inverse=True)
    if is_sorted_by_name(session, image):
        return (
            "the rows of the data follow the names of the images, which is no order in time: "
            "prepare the trials in the order in which they were recorded"
        )
    sorting = np.argsort(session, kind="stable")  # sessions may be recorded in turns
    everything = TrialOrder.of(session[sorting], image[sorting])
    in_a_row = (everything.previous == image[sorting]).mean()
    if in_a_row > IN_A_ROW:
        return (
            f"{in_a_row:.0%} of the trials show the image of the trial before, so that what "
            "repeats with the image cannot be told from what drifts"
        )
    chosen = np.ones(len(table), bool) if within is None else within
    split = table["split"].to_numpy()
    place = np.argsort(sorting)
    rows = np.concatenate([np.flatnonzero(chosen & (split == one)) for one in ("train", "val")])
    row_of_image = np.full(len(names), -1)
    row_of_image[np.searchsorted(names, images)] = np.arange(len(images))
    return everything.part(place[rows], row_of_image)


def fit_order(
    order: TrialOrder | str,
    examples: SubjectExamples,
    fitted: FittedDistribution,
    share: Share = UNSEEN,
) -> OrderResult:
    """Fit what the order of trials does, to what the mean leaves of trials it was not fitted to.

    Parameters
    ----------
    order : TrialOrder or str
        Of the examples' trials (`find_order`).
    examples : SubjectExamples
    fitted : FittedDistribution
        To the same.
    share : Share
        Of a task whose progress is shown.
    """
    if isinstance(order, str):
        return OrderResult(None, order)
    both = examples.both
    residuals = Residuals(both.betas, both.image_index, fitted.left_out, fitted.readout)
    found = fit_sequence(residuals, order, share)
    if found is None:
        return OrderResult(
            None,
            f"there are too few trials to hold out {FEWEST_BLOCKS // 2} blocks of {LEAST_BLOCK}",
        )
    return OrderResult(found)
