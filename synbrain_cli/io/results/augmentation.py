"""Results of `synbrain augment`: decoders fitted to real and synthesized trials."""

from __future__ import annotations

from synbrain_cli.io.results.record import Interval, ModelProvenance, Result


class GainedScore(Result, frozen=True):
    """A score of test images, and its gain over real trials alone.

    Attributes
    ----------
    value : float
        Mean over test images.
    ci : tuple of float
    gain : float
        Difference to the same score without synthesized trials.
    gain_ci : tuple of float
    """

    value: float
    ci: Interval
    gain: float
    gain_ci: Interval


class AugmentedDecoder(Result, frozen=True):
    """A decoder with some amount of synthesized trials.

    Attributes
    ----------
    amount : float
        Synthesized trials, in multiples of the real ones.
    n_synthesized, n_images : int
        Synthesized trials, and the new images that they are of.
    weight : float, optional
        Of a synthesized trial, where a real one has 1; None without synthesized trials.
    penalty : float
        Of ridge, relative to the mean squared norm of a response.
    validation_r2 : float
        Share of the variance of validation images' components.
    scores : dict of GainedScore
        Of test images.
    """

    amount: float
    n_synthesized: int
    n_images: int
    weight: float | None
    penalty: float
    validation_r2: float
    scores: dict[str, GainedScore]


class BestOnTest(Result, frozen=True):
    """The amount with the highest value of a score on test images: optimistic."""

    amount: float
    value: float
    ci: Interval
    gain: float
    gain_ci: Interval


class Augmentation(Result, frozen=True):
    """``augmentation.json``.

    Attributes
    ----------
    model, subject : str
    simulated : bool
    n_real_trials, n_real_images : int
        Of training and validation images.
    n_validation_trials, n_validation_images : int
    n_new_images : int
        Images to which responses can be synthesized.
    n_test_trials, n_test_images : int
    n_components : int
        Of image tokens, which decoders predict.
    n_candidates : int
        Of retrieval.
    chance : dict
        Level of each score.
    amounts : list of float
    conditions : dict
        One decoder per amount: "draws", one synthesized trial per image; "mean", the responses
        expected to the same images, without noise; "shuffled", the draws, each with another of
        these images.
    chosen : dict
        Decoder of the amount that validation images choose, per condition.
    best_on_test : dict
        Per condition and score, the amount that test images would choose.
    notes : list of str
    provenance : ModelProvenance
    """

    model: str
    subject: str
    simulated: bool
    n_real_trials: int
    n_real_images: int
    n_validation_trials: int
    n_validation_images: int
    n_new_images: int
    n_test_trials: int
    n_test_images: int
    n_components: int
    n_candidates: int
    chance: dict[str, float]
    amounts: list[float]
    conditions: dict[str, list[AugmentedDecoder]]
    chosen: dict[str, AugmentedDecoder]
    best_on_test: dict[str, dict[str, BestOnTest]]
    notes: list[str]
    provenance: ModelProvenance
