"""Whether synthesized responses help a decoder that is fitted to recorded ones.

Where there is an hour of a subject's recordings, from which the image seen is to be decoded,
responses that the model synthesizes to new images can be added. Here a linear decoder is fitted to
the real trials and an increasing number of synthesized ones, and scored on real test trials alone.

Two things would make the result too good. If amount, penalty and weight of synthesized trials were
chosen on test images, the best of many would be reported: they are chosen on validation images. But
the model has learned from the trials of these, too, and so has a decoder of what it synthesizes.
What is synthesized while choosing therefore comes from the model without its validation images
(`synbrain_cli.evaluation.augmented_trials.ModelWithoutValidation`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from synbrain_cli.errors import InputError
from synbrain_cli.evaluation.augmented_decoder import (
    SCORES,
    Rows,
    choose,
    fit_decoder,
    identify,
)
from synbrain_cli.evaluation.augmented_trials import RealTrials, Synthesized
from synbrain_cli.evaluation.test_set import TestSet
from synbrain_cli.groups import Groups, derangement
from synbrain_cli.io.results.augmentation import AugmentedDecoder, BestOnTest, GainedScore
from synbrain_cli.io.results.record import Result
from synbrain_cli.metrics.bootstrap import Bootstrap

AMOUNTS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)  # synthesized trials, in multiples of the real ones
CONDITIONS = ("draws", "mean", "shuffled")


class FittedDecoder(Result, frozen=True):
    """A decoder, and which test images it identifies.

    Attributes
    ----------
    weight, penalty, validation_r2 : float
        `synbrain_cli.evaluation.augmented_decoder.Choice`.
    identified : list of shape (n_images, n_scores)
        `synbrain_cli.evaluation.augmented_decoder.identify`.
    """

    weight: float
    penalty: float
    validation_r2: float
    identified: list[list[float]]


@dataclass(frozen=True, eq=False)
class DecodingTask:
    """What every decoder is fitted to, chosen by and scored on.

    Attributes
    ----------
    train, validation, real : pairs of arrays (n_trials, n_voxels) and (n_trials, n_components)
        Real trials of training images, of validation images and of both, and the components of
        the images shown.
    test : TestSet
    candidates : float32 array of shape (n_test_images, n_components)
    """

    train: Rows
    validation: Rows
    real: Rows
    test: TestSet
    candidates: np.ndarray

    @classmethod
    def create(
        cls, real: RealTrials, targets: np.ndarray, test: TestSet, candidates: np.ndarray
    ) -> DecodingTask:
        """Divide real trials into those of training and of validation images.

        Parameters
        ----------
        real : RealTrials
        targets : float32 array of shape (n_images, n_components)
            Of ``real.images``.
        test : TestSet
        candidates : float32 array of shape (n_test_images, n_components)
        """
        shown = targets[real.image_index]
        train = (real.betas[~real.validation], shown[~real.validation])
        validation = (real.betas[real.validation], shown[real.validation])
        return cls(train, validation, (real.betas, shown), test, candidates)

    def decode(self, choosing: Rows, final: Rows) -> FittedDecoder:
        """Choose a decoder on validation images, fit it to all trials, and identify test images.

        Parameters
        ----------
        choosing, final : pairs of arrays (n_trials, n_voxels) and (n_trials, n_components)
            The same synthesized trials, by the model without its validation images and by the
            whole model.
        """
        choice = choose(self.train, self.validation, choosing)
        decoder = fit_decoder(self.real, final, choice)
        found = identify(decoder(self.test.trials), self.test.image_index, self.candidates)
        return FittedDecoder(
            weight=choice.weight,
            penalty=choice.penalty,
            validation_r2=choice.validation,
            identified=found.tolist(),
        )


def count_synthesized(amounts: Sequence[float], n_real: int) -> dict[float, int]:
    """Return the number of synthesized trials of each amount; 0 is the first.

    Parameters
    ----------
    amounts : sequence of float
        In multiples of the real trials.
    n_real : int
        Real trials.

    Raises
    ------
    InputError
        An amount is negative, or makes fewer than two trials.
    """
    found = sorted({0.0, *map(float, amounts)})
    wrong = [a for a in found if not (np.isfinite(a) and a >= 0)]
    if wrong:
        raise InputError(
            f"amounts: expected numbers of 0 or more (multiples of the {n_real} real trials), "
            f"found {wrong[0]:g}"
        )
    counts = {a: round(a * n_real) for a in found}
    few = [a for a, n in counts.items() if a > 0 and n < 2]
    if few or len(found) < 2:
        raise InputError(
            f"amounts: expected one above 0 that makes two trials or more of {n_real}, found "
            + ", ".join(f"{a:g}" for a in few or found)
        )
    return counts


@dataclass(frozen=True)
class PlannedDecoder:
    """A decoder to be fitted.

    Attributes
    ----------
    condition : {"draws", "mean", "shuffled"}
    number : int
        Of the amount, 0 for no synthesized trials.
    amount : float
        Synthesized trials, in multiples of the real ones.
    n_synthesized, n_images : int
        Synthesized trials, and the new images that they are of.
    """

    condition: str
    number: int
    amount: float
    n_synthesized: int
    n_images: int

    @property
    def name(self) -> str:
        """Of its file while the command runs."""
        return f"decoder-{self.number}-{self.condition}"


def plan_decoders(n_added: Mapping[float, int], n_new: int) -> list[PlannedDecoder]:
    """List the decoders of all amounts and conditions.

    Parameters
    ----------
    n_added : dict
        Amount → synthesized trials; without any, all conditions are one.
    n_new : int
        New images.
    """
    return [
        PlannedDecoder(condition, number, amount, n, min(n, n_new))
        for number, (amount, n) in enumerate(n_added.items())
        for condition in (CONDITIONS if n else CONDITIONS[:1])
    ]


def fit_planned(
    plan: PlannedDecoder,
    task: DecodingTask,
    responses: Callable[[], tuple[Synthesized, Synthesized]],
    seed: int,
    groups: Groups | None = None,
) -> FittedDecoder:
    """Fit one decoder.

    Parameters
    ----------
    plan : PlannedDecoder
    task : DecodingTask
    responses : callable
        Returns the synthesized trials, by the model and by the model without its validation images.
    seed : int
    groups : int array of shape (n_new_images,), optional
        Groups of the new images, within which none stands for another where they are shuffled.
    """
    final, choosing = responses()
    own = None if groups is None else groups[: plan.n_images]
    order = derangement(plan.n_images, np.random.default_rng([seed, 1, plan.number]), own)
    choosing_rows, final_rows = (
        synthesized.rows(plan.condition, plan.n_synthesized, order)
        for synthesized in (choosing, final)
    )
    return task.decode(choosing_rows, final_rows)


def score_conditions(
    plans: Sequence[PlannedDecoder], fitted: Sequence[FittedDecoder], bootstrap: Bootstrap
) -> dict[str, list[AugmentedDecoder]]:
    """Score the decoders of each condition, with their gains over real trials alone.

    All intervals rest on the same bootstrap draws of test images.

    Parameters
    ----------
    plans, fitted : sequences of equal length
        The first decoder has real trials alone, and is the first of every condition.
    bootstrap : Bootstrap
    """
    entries = [
        (condition, plan, decoder)
        for plan, decoder in zip(plans, fitted, strict=True)
        for condition in ((plan.condition,) if plan.n_synthesized else CONDITIONS)
    ]
    values = np.stack([decoder.identified for _, _, decoder in entries], axis=1)
    both = np.stack([values, values - values[:, :1]], axis=1)  # values and gains
    mean, interval = both.mean(0).tolist(), bootstrap.interval_of_mean(both).tolist()
    conditions: dict[str, list[AugmentedDecoder]] = {name: [] for name in CONDITIONS}
    for i, (condition, plan, decoder) in enumerate(entries):
        scores = {
            score: GainedScore(
                value=mean[0][i][j],
                ci=tuple(interval[0][i][j]),
                gain=mean[1][i][j],
                gain_ci=tuple(interval[1][i][j]),
            )
            for j, score in enumerate(SCORES)
        }
        conditions[condition].append(
            AugmentedDecoder(
                amount=plan.amount,
                n_synthesized=plan.n_synthesized,
                n_images=plan.n_images,
                weight=decoder.weight if plan.n_synthesized else None,
                penalty=decoder.penalty,
                validation_r2=decoder.validation_r2,
                scores=scores,
            )
        )
    return conditions


def best_on_test(decoders: Sequence[AugmentedDecoder]) -> dict[str, BestOnTest]:
    """Per score, the amount with the highest value: chosen by what it is then praised for."""
    best = {}
    for name in SCORES:
        values = [decoder.scores[name].value for decoder in decoders]
        decoder = decoders[values.index(max(values))]
        score = decoder.scores[name]
        best[name] = BestOnTest(
            amount=decoder.amount,
            value=score.value,
            ci=score.ci,
            gain=score.gain,
            gain_ci=score.gain_ci,
        )
    return best
