r"""Fit of what the order of trials does to responses: `synbrain_cli.model.sequence`.

**What is fitted to.** Residuals of trials, each predicted without its image, brought to the
scale of trial noise: Q of the readout is undone, and they are divided by √h, so that e has one
variance per voxel.

**Repetition and the image before** are regressions, voxel by voxel, on residuals from which slow
courses within blocks were taken (a cosine basis of periods above ``HIGH_PASS`` trials,
`synbrain_cli.model.trial_blocks`), so that drift does not pass for them. Coefficients are shrunk
over voxels by empirical Bayes.

**Drift.** Within a block of n trials, residuals are taken to cosines of the orders 1 … n − 1 (DCT).
Their expected power is

.. math:: \mathrm{E} P_{kv} = N_v\, \nu_k + \sigma_{dv}^2\, \lambda_k(\tau),

ν and λ those of white noise and of the drift's process in the trials that are known, exactly. τ is
the one under which the powers, averaged over voxels, are most likely (Whittle 1953, *Arkiv för
Matematik* 2:423). Variances are weighted least squares of the powers, shrunk over voxels. The
courses that voxels share are probabilistic principal components of cosines of low orders, whitened
by the covariance of signal and noise; sessions that did not enter choose their number.

**What is kept.** Each of the three is fitted without one block of trials and judged by the log
likelihood of that block, as if voxels were independent, in turn for all blocks: whole sessions, or
parts of sessions where these are few. It is kept if the mean gain per block is above 0 by a 95 %
interval (t over blocks).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from synbrain_cli.model.drift import fit_drift
from synbrain_cli.model.order_effects import effects_of, fit_effects
from synbrain_cli.model.sequence import EFFECT_TRIALS, Effect, Sequence, TrialOrder, with_rest
from synbrain_cli.model.trial_blocks import FEWEST_BLOCKS, Gain, Residuals, held_out_blocks
from synbrain_cli.progress import UNSEEN, Share

SORTED = 0.9  # share of neighbours in the order of their names that is no order in time


@dataclass(frozen=True)
class FittedSequence:
    """What the order of trials does, and how held-out trials bear it out.

    Attributes
    ----------
    sequence : Sequence
        With those parts alone that were kept.
    gains : dict of Gain
        Of every part that could be fitted.
    drift_share : float
        Share of the drift in the variance of trial noise, mean over voxels.
    """

    sequence: Sequence
    gains: Mapping[Effect, Gain]
    drift_share: float

    @property
    def kept(self) -> tuple[Effect, ...]:
        """The parts that were kept."""
        return tuple(name for name, gain in self.gains.items() if gain.is_sure)


def is_sorted_by_name(session: NDArray[np.int64], image: NDArray[np.int64]) -> bool:
    """Whether the images of trials follow one another by name: then rows are no order in time.

    Parameters
    ----------
    session : int array of shape (n_trials,)
    image : int array of shape (n_trials,)
        Rank of the image's name.
    """
    within = session[1:] == session[:-1]
    rising = (image[1:] >= image[:-1])[within]
    return bool(len(rising) and rising.mean() > SORTED)


def fit_sequence(
    residuals: Residuals,
    order: TrialOrder,
    share: Share = UNSEEN,
) -> FittedSequence | None:
    """Fit drift, repetition and the effect of the image before, and keep what is borne out.

    Parameters
    ----------
    residuals : Residuals
    order : TrialOrder
        Of the same trials; ``previous`` are rows of the means.
    share : Share
        Of a task whose progress is shown.

    Returns
    -------
    FittedSequence, or None
        None where trials are too few to hold some out.
    """
    blocks = held_out_blocks(order)
    if len(blocks) < FEWEST_BLOCKS // 2:
        return None
    of_regressions, of_drift = share.split(2, 1)
    noise = residuals.readout.noise
    sequence, gains = fit_effects(residuals, order, blocks, of_regressions)
    drift, time_constant, gain = fit_drift(residuals, order, blocks, sequence, of_drift)
    gains = {"drift": gain, **gains}
    if gain.is_sure:
        sequence = replace(sequence, drift=drift, time_constant=time_constant)
    n_trials = len(residuals.trials)
    rows = np.unique(np.linspace(0, n_trials - 1, EFFECT_TRIALS).astype(int))
    sequence = with_rest(sequence, noise, effects_of(residuals, order, sequence, rows=rows))
    part = sequence.drift.variance / np.maximum(noise.variance, 1e-12)
    return FittedSequence(sequence, gains, float(part.mean()))
