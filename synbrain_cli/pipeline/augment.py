"""`synbrain augment`: what synthesized trials add to a decoder of real ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from synbrain_cli.brain import Brain
from synbrain_cli.evaluation.augmentation import (
    AMOUNTS,
    CONDITIONS,
    DecodingTask,
    FittedDecoder,
    ModelWithoutValidation,
    RealTrials,
    best_on_test,
    count_synthesized,
    new_images,
    pooled_features,
    score_gains,
    synthesize,
    training_trials,
)
from synbrain_cli.evaluation.augmented_decoder import SCORES
from synbrain_cli.evaluation.bootstrap import Bootstrap
from synbrain_cli.evaluation.results import Table, result_folder, write_results
from synbrain_cli.evaluation.retrieval import N_CANDIDATES, FeatureSpace
from synbrain_cli.evaluation.test_set import TestSet, derangement
from synbrain_cli.io.prepared import PreparedSubject, TokenStore
from synbrain_cli.io.results.augmentation import Augmentation, AugmentedDecoder
from synbrain_cli.io.results.record import ModelProvenance, data_checksum
from synbrain_cli.io.workfolder import WorkFolder
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.plotting.augmentation import plot_augmentation
from synbrain_cli.run import RunContext


@dataclass(frozen=True)
class AugmentationSettings:
    """Settings of an augmentation.

    Attributes
    ----------
    amounts : sequence of float
        Synthesized trials, in multiples of the real ones; 0 is always among them.
    n_boot : int
        Bootstrap draws of the test images for the 95 % confidence intervals. What other new
        images and other draws would change is not in them: see it with another seed.
    """

    amounts: tuple[float, ...] = AMOUNTS
    n_boot: int = 1000


@dataclass(frozen=True)
class AugmentationResult:
    """What synthesized trials add.

    Attributes
    ----------
    folder : Path
        Holds ``augmentation.json``, ``augmentation.tsv`` and ``augmentation.png``.
    augmentation : Augmentation
        As in ``augmentation.json``.
    """

    folder: Path
    augmentation: Augmentation

    def table(self) -> pd.DataFrame:
        """One row per condition, amount and score.

        ``gain`` is the difference to no synthesized trial, with the interval of this difference;
        ``chosen`` marks the amount that validation images choose.
        """
        return pd.DataFrame(list(_table_rows(self.augmentation)))


def augment(
    workspace: Workspace,
    brain: Brain,
    subject: PreparedSubject,
    store: TokenStore,
    settings: AugmentationSettings | None = None,
    run: RunContext | None = None,
    output: Path | None = None,
) -> AugmentationResult:
    """Measure what synthesized trials add to a subject's real ones for a linear decoder.

    The decoder is ridge from single trials to the leading principal components of image tokens,
    as in `synbrain evaluate`, but for its rows: an hour has few repeats to average, and how trials
    of one image differ tells ridge what is noise, as the noise of draws does. The components are
    those of the real images alone, for all amounts: if they were of the images added, scores would
    be taken in another space for every amount, and new images would help without their responses.
    For the same reason, synthesized rows have means of their own (`AugmentedRidge`).

    Every condition and amount goes through the same steps: weight of synthesized trials and penalty
    are those with the least squared error on real trials of validation images, then the decoder is
    fitted to all. The criterion is squared error, not identification: few validation images
    estimate it more precisely, and no score is chosen by its own luck.

    Conditions: ``draws``, one synthesized trial per image; ``mean``, the responses expected to the
    same images, without noise; ``shuffled``, the draws, each with another of these images.

    An interrupted run of the same settings continues after the last decoder that was fitted.

    Parameters
    ----------
    workspace : Workspace
    brain : Brain
    subject : PreparedSubject
        The subject of the model. The real trials are those the model was made of; the command is
        meant for an hour or a few, since all responses, real and synthesized, are held in memory.
    store : TokenStore
        Tokens of the model's encoder. Its images that the subject did not see in these trials, and
        not in the test, are the new ones, in random order. Where an amount asks for more trials
        than there are images, they come again, as further draws that share the signal: repeats.
        Smaller amounts are the first trials of larger ones.
    settings : AugmentationSettings, optional
    run : RunContext, optional
        Its seed is that of the order of new images, the draws, the shuffled control and the
        bootstrap.
    output : path, optional
        Default ``outputs/<model>_augmentation``.

    Raises
    ------
    InputError
        When the model, the subject and the tokens do not belong together; no image is new; an
        amount is negative.
    """
    settings, run = settings or AugmentationSettings(), run or RunContext()
    brain.require_readout("augmentation")
    test = TestSet.load(subject, store, [brain])
    real = training_trials(brain, subject)
    n_added = count_synthesized(settings.amounts, len(real.betas))
    new = new_images(store, real, test.images, np.random.default_rng([run.seed, 0]))
    n_most = max(n_added.values())
    run.progress.info(
        f"augmenting {len(real.betas):,} real trials of {brain.name} with up to {n_most:,} "
        f"synthesized ones of {min(n_most, len(new)):,} new images"
    )

    # Components that decoders predict: those of the images of the real trials.
    features = pooled_features(brain, store, real.images)
    space = FeatureSpace(features)
    candidates = space(pooled_features(brain, store, test.images))
    task = DecodingTask.create(real, space(features), test, candidates)

    @cache
    def responses():  # only where a decoder is still to be fitted
        model = ModelWithoutValidation.fit(brain, real, store, features, run.seed)
        return synthesize(model, store, new[:n_most], n_most, space, run)

    provenance = ModelProvenance(
        fingerprint=brain.config.fingerprint,
        data=data_checksum(subject),
        seed=run.seed,
        n_boot=settings.n_boot,
    )
    folder = output or workspace.outputs / f"{brain.name}_augmentation"
    with result_folder(folder, asdict(settings) | provenance_settings(provenance)) as work:
        fitted = _fit_decoders(work, task, n_added, responses, run, len(new))
        ...
