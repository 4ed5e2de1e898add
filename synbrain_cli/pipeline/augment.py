"""`synbrain augment`: what synthesized trials add to a decoder of real ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from msgspec import UNSET

from synbrain_cli.brain import Brain
from synbrain_cli.evaluation.augmentation import (
    AMOUNTS,
    DecodingTask,
    FittedDecoder,
    PlannedDecoder,
    best_on_test,
    count_synthesized,
    fit_planned,
    plan_decoders,
    score_conditions,
)
from synbrain_cli.evaluation.augmented_decoder import SCORES
from synbrain_cli.evaluation.augmented_trials import (
    ModelWithoutValidation,
    Synthesized,
    new_images,
    pooled_features,
    synthesize,
    training_trials,
)
from synbrain_cli.evaluation.results_writer import EVALUATION, Table, write_results
from synbrain_cli.evaluation.retrieval import N_CANDIDATES, FeatureSpace
from synbrain_cli.evaluation.test_set import TestSet
from synbrain_cli.groups import Groups, number_groups
from synbrain_cli.io.prepared import PreparedSubject, groups_of_dataset
from synbrain_cli.io.results.augmentation import Augmentation
from synbrain_cli.io.results.record import ModelProvenance
from synbrain_cli.io.token_store import TokenStore
from synbrain_cli.io.workfolder import WorkFolder, work_folder
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.plotting.augmentation import plot_augmentation
from synbrain_cli.run import RunContext


@dataclass(frozen=True)
class AugmentSettings:
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
class AugmentResult:
    """What synthesized trials add.

    Attributes
    ----------
    folder : Path
        Holds ``augmentation.json``, ``augmentation.tsv`` and ``augmentation.png``.
    metrics : Augmentation
        As in ``augmentation.json``.
    """

    folder: Path
    metrics: Augmentation

    def table(self) -> pd.DataFrame:
        """One row per condition, amount and score.

        ``gain`` is the difference to no synthesized trial, with the interval of this difference;
        ``chosen`` marks the amount that validation images choose.
        """
        return pd.DataFrame(list(_table_rows(self.metrics)))


def augment(
    workspace: Workspace,
    brain: Brain,
    subject: PreparedSubject,
    store: TokenStore,
    settings: AugmentSettings | None = None,
    output: Path | None = None,
    run: RunContext | None = None,
) -> AugmentResult:
    """Measure what synthesized trials add to a subject's real ones for a linear decoder.

    The decoder is ridge from single trials to the leading principal components of image tokens,
    as in `synbrain evaluate`, but fitted to single trials instead of repeat averages: an hour has
    few repeats to average, and the differences between trials of one image inform ridge about the
    noise, as the noise of draws does. The components are
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
        The subject of the model. The real trials are those that the model was trained on: an hour
        or a few, since all responses, real and synthesized, are held in memory.
    store : TokenStore
        Tokens of the model's encoder. Its images that the subject did not see in these trials, and
        not in the test, are the new ones, in random order. Where an amount asks for more trials
        than there are images, they come again, as further draws that share the signal: repeats.
        Smaller amounts are the first trials of larger ones.
    settings : AugmentSettings, optional
    output : path, optional
        Default ``outputs/<model>_augmentation``.
    run : RunContext, optional
        Its seed is that of the order of new images, the draws, the shuffled control and the
        bootstrap.

    Raises
    ------
    InputError
        When the model, the subject and the tokens do not belong together; no image is new; an
        amount is negative.
    """
    # Set up
    settings, run = settings or AugmentSettings(), run or RunContext()
    brain.require_readout("augmentation")
    folder = Path(output) if output else workspace.output_of(brain.name, "augmentation")
    provenance = ModelProvenance(
        fingerprint=brain.config.fingerprint,
        data=subject.checksum,
        seed=run.seed,
        n_boot=settings.n_boot,
        command=run.command or UNSET,
    )

    # Load the test images, the real trials and the new images
    test = TestSet.load(subject, store, [brain])
    real = training_trials(brain, subject)
    n_added = count_synthesized(settings.amounts, len(real.betas))
    groups = groups_of_dataset(subject)
    new = new_images(store, real, test.images, groups, np.random.default_rng([run.seed, 0]))
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
    def responses() -> tuple[Synthesized, Synthesized]:  # where a decoder is still to be fitted
        model = ModelWithoutValidation.fit(brain, real, store, run.seed)
        return synthesize(model, store, new[:n_most], n_most, space, run)

    # Compute
    recorded = {
        "amounts": list(n_added),
        "device": str(brain.device),
        "provenance": provenance,
    }
    with work_folder(folder, EVALUATION, recorded, progress=run.progress) as work:
        plans = plan_decoders(n_added, len(new))
        fitted = _fit_decoders(work, plans, task, responses, number_groups(new, groups), run)
        conditions = score_conditions(plans, fitted, test.bootstrap(settings.n_boot, run.seed))

        # Write the results
        n_candidates = min(N_CANDIDATES, test.n_images)
        metrics = Augmentation(
            model=brain.name,
            subject=brain.config.label,
            simulated=brain.simulated,
            n_real_trials=len(real.betas),
            n_real_images=len(real.images),
            n_validation_trials=int(real.validation.sum()),
            n_validation_images=real.n_validation_images,
            n_new_images=len(new),
            n_test_trials=len(test.trials),
            n_test_images=test.n_images,
            averaged_over=test.averaged_over,
            n_components=space.axes.shape[1],
            n_candidates=n_candidates,
            chance={s: 0.5 if s.startswith("two_way") else 1 / n_candidates for s in SCORES},
            amounts=list(n_added),
            conditions=conditions,
            chosen={
                name: max(found, key=lambda d: d.validation_r2)
                for name, found in conditions.items()
            },
            best_on_test={name: best_on_test(found) for name, found in conditions.items()},
            notes=[*_notes(n_most, len(new), len(real.betas)), *test.notes],
            provenance=provenance,
        )
        result = AugmentResult(folder, metrics)
        write_results(
            work,
            {
                "augmentation.json": metrics,
                "augmentation.tsv": Table(result.table(), "%.5g"),
                "augmentation.png": plot_augmentation(metrics),
            },
        )
    return result


def _fit_decoders(
    work: WorkFolder,
    plans: Sequence[PlannedDecoder],
    task: DecodingTask,
    responses: Callable[[], tuple[Synthesized, Synthesized]],
    groups: Groups | None,
    run: RunContext,
) -> list[FittedDecoder]:
    """Fit all decoders, or take them from the interrupted run."""
    fitted = []
    with run.progress.bar("decoders", len(plans), shorter="fewer --amounts") as bar:
        for plan in plans:
            compute = partial(fit_planned, plan, task, responses, run.seed, groups)
            fitted.append(work.once(plan.name, FittedDecoder, compute))
            bar()
    return fitted


def _notes(n_most: int, n_new: int, n_real: int) -> list[str]:
    if n_most <= n_new:
        return []
    return [
        f"{n_new:,} new images: beyond {n_new / n_real:.2g} × the real trials they come again, as "
        "further draws"
    ]


def _table_rows(augmentation: Augmentation) -> Iterator[dict[str, Any]]:
    for condition, decoders in augmentation.conditions.items():
        chosen = augmentation.chosen[condition].amount
        for decoder in decoders:
            for name in SCORES:
                score = decoder.scores[name]
                yield {
                    "condition": condition,
                    **{k: v for k, v in decoder.items() if k != "scores"},
                    "chosen": decoder.amount == chosen,
                    "score": name,
                    "value": score.value,
                    "ci_low": score.ci[0],
                    "ci_high": score.ci[1],
                    "gain": score.gain,
                    "gain_low": score.gain_ci[0],
                    "gain_high": score.gain_ci[1],
                }
