"""Results of `synbrain augment`: decoders that were fitted to real and synthesized trials."""

from __future__ import annotations

from synbrain_cli.io.results.record import Interval, ModelProvenance, Result


class GainedScore(Result, frozen=True):
    """A score on test images, and its gain over training on real trials alone.

    Attributes
    ----------
    value : float
        Mean over test images.
    ci : tuple of float
        95 % interval of ``value`` over images.
    gain : float
        Difference from the same score without synthesized trials.
    gain_ci : tuple of float
        95 % interval of ``gain`` over images.
    """

    value: float
    ci: Interval
    gain: float
    gain_ci: Interval


class AugmentedDecoder(Result, frozen=True):
    """A decoder that was trained with some amount of synthesized trials.

    Attributes
    ----------
    amount : float
        Number of synthesized trials, in multiples of the number of real ones.
    n_synthesized, n_images : int
        Number of synthesized trials, and of the new images that they respond to.
    weight : float, optional
        Weight of a synthesized trial relative to a real one; None without synthesized trials.
    penalty : float
        Penalty of the ridge regression, relative to the mean squared norm of a response.
    validation_r2 : float
        Share of the variance of the components of validation images that is predicted.
    scores : dict of GainedScore
        Scores on test images by name.
    """

    amount: float
    n_synthesized: int
    n_images: int
    weight: float | None
    penalty: float
    validation_r2: float
    scores: dict[str, GainedScore]


class BestOnTest(Result, frozen=True):
    """The amount with the highest score on test images, which is therefore optimistic.

    Attributes
    ----------
    amount : float
    value, gain : float
    ci, gain_ci : tuple of float
        As in `GainedScore`.
    """

    amount: float
    value: float
    ci: Interval
    gain: float
    gain_ci: Interval


class Augmentation(Result, frozen=True):
    """Content of ``augmentation.json``.

    Attributes
    ----------
    model, subject : str
    simulated : bool
    n_real_trials, n_real_images : int
        Real trials and images of the training and validation splits together.
    n_validation_trials, n_validation_images : int
    n_new_images : int
        Number of images for which responses can be synthesized.
    n_test_trials, n_test_images : int
    averaged_over : int
        Recorded trials that each row of the data, and each draw, is the average of.
    n_components : int
        Number of principal components of image tokens, which decoders predict.
    n_candidates : int
        Number of candidates of the retrieval.
    chance : dict
        Chance level of each score.
    amounts : list of float
        Amounts of synthesized trials, in multiples of the real ones.
    conditions : dict
        Condition → one decoder per amount. "draws": one synthesized trial per image. "mean":
        expected responses to the same images, without noise. "shuffled": the draws, each paired
        with another of these images.
    chosen : dict
        Condition → decoder of the amount with the best score on validation images.
    best_on_test : dict
        Condition and score → the amount with the best score on test images.
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
    averaged_over: int
    n_components: int
    n_candidates: int
    chance: dict[str, float]
    amounts: list[float]
    conditions: dict[str, list[AugmentedDecoder]]
    chosen: dict[str, AugmentedDecoder]
    best_on_test: dict[str, dict[str, BestOnTest]]
    notes: list[str]
    provenance: ModelProvenance
