"""How likely a model takes recorded test trials to be: a part of ``metrics.json``."""

from __future__ import annotations

from msgspec import UNSET

from synbrain_cli.io.results.record import Absent, Interval, Number, Result


class LikelihoodScore(Result, frozen=True, kw_only=True):
    """Log-likelihood of recorded test trials, jointly over voxels.

    In bits per voxel and trial, above that of the mean pattern with independent normal noise.

    Attributes
    ----------
    model : float or None
    linear : float or None
        Linear encoder with independent normal noise. Absent given other repeats, which tell it
        nothing.
    image_blind : float or None
        Of images that nothing is known of, with the same trial noise. Absent of models of earlier
        versions.
    shuffled : float or None
        Model, for another image.
    ci : pair of float or None
        95 % interval of ``model`` over images.
    gain_ci : dict
        95 % interval of the difference between ``model`` and each of the others.
    """

    model: Number
    linear: Number | Absent = UNSET
    image_blind: Number | Absent = UNSET
    shuffled: Number
    ci: Interval
    gain_ci: dict[str, Interval]


class InformationGain(Result, frozen=True, kw_only=True):
    """Share of what can be known of a trial that the image tells the model.

    Attributes
    ----------
    model, shuffled : float or None
        0 as for the image-blind model, 1 as for the model that is told the other repeats of the
        image as well.
    ci : pair of float or None
        95 % interval of ``model`` over images.
    """

    model: Number
    shuffled: Number
    ci: Interval


class LikelihoodScores(Result, frozen=True, kw_only=True):
    """Likelihood of the recorded trials (`synbrain_cli.model.density`).

    Attributes
    ----------
    given_image : LikelihoodScore
        Of single trials.
    given_repeats : LikelihoodScore
        Of every trial of repeated images, given the other repeats of its image as well. Absent
        where no test image was shown twice.
    information_gain : InformationGain
        Normalised, over repeated images. Absent without these and without an image-blind model.
    """

    given_image: LikelihoodScore
    given_repeats: LikelihoodScore | Absent = UNSET
    information_gain: InformationGain | Absent = UNSET
