"""Results of `synbrain select`: images ranked by what a model expects of them."""

from __future__ import annotations

from msgspec import UNSET

from synbrain_cli.io.results.record import Absent, Number, Result


class SelectedRegion(Result, frozen=True):
    """Expected responses of a region, in the recorded unit.

    Attributes
    ----------
    name : str
        As it was asked for; "all" where two models are compared over all voxels.
    model : str
    n_voxels : int
    all, chosen, opposite : float
        Mean over all candidates, over the images that were chosen, and over those at the other end.
    """

    name: str
    model: str
    n_voxels: int
    all: Number
    chosen: Number
    opposite: Number


class SetEstimate(Result, frozen=True):
    """Mean score of a set of images, less that of all candidates.

    Attributes
    ----------
    own : float
        By the model that chose them.
    independent : float
        As far as fits that had no part in choosing bear it out; absent where there is none.
    """

    own: Number
    independent: Number | Absent = UNSET


class GuardRecord(Result, frozen=True):
    """How much of the own estimates is believed (`synbrain_cli.experiments.selection_guard`).

    Attributes
    ----------
    slope, slope_error : float
        Of recorded on predicted responses, over images that a half of the training images tells
        nothing of, and its standard error.
    agreement, agreement_training : float
        Slope of one half's predictions on the other's, over the candidates and over training
        images.
    share : float
        Factor of the own estimates.
    """

    slope: Number
    slope_error: Number
    agreement: Number
    agreement_training: Number
    share: Number


class SelectionRecord(Result, frozen=True):
    """``selection.json``.

    Attributes
    ----------
    models : list of str
        One, or the two that were told apart.
    subjects : list of str
        ``dataset/sub-01`` of each.
    simulated : bool
    criterion : {"drive", "suppress", "contrast", "tell-apart"}
    of : str
        The regions, as they were typed.
    score_unit, unit : str
        Of scores, and of responses.
    n_images, n_chosen : int
    mean_score : float
        Over all candidates.
    chosen, opposite : SetEstimate
    regions : list of SelectedRegion
    seed : int
        By which training images were dealt to two halves.
    fingerprints : list of str
        Of the models.
    versions : dict
    guard : GuardRecord
        Absent where no independent estimate could be made.
    n_far, n_far_chosen : int
        Of all images and of those chosen: farther from the training images than any of these is
        from the others; absent where that is not known, of models of earlier versions.
    n_trained, n_trained_chosen : int
        Of all images and of those chosen: images that the model was trained on, by their pixels;
        absent without the training data.
    no_guard : str
        Why none could be made; absent otherwise.
    n_apart : int
        Of two subjects: images on which they differ by more than 1.96 standard errors; absent
        otherwise.
    command : str
        That was typed; absent from Python.
    """

    models: list[str]
    subjects: list[str]
    simulated: bool
    criterion: str
    of: str
    score_unit: str
    unit: str
    n_images: int
    n_chosen: int
    mean_score: Number
    chosen: SetEstimate
    opposite: SetEstimate
    regions: list[SelectedRegion]
    seed: int
    fingerprints: list[str]
    versions: dict[str, str]
    guard: GuardRecord | Absent = UNSET
    n_far: int | Absent = UNSET
    n_far_chosen: int | Absent = UNSET
    n_trained: int | Absent = UNSET
    n_trained_chosen: int | Absent = UNSET
    no_guard: str | Absent = UNSET
    n_apart: int | Absent = UNSET
    command: str | Absent = UNSET
