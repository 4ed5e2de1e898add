"""Maps with one value per voxel, with title and unit: responses, recordings and accuracy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from synbrain_cli.brain import Brain
from synbrain_cli.config import a_trial, trials_name
from synbrain_cli.errors import InputError
from synbrain_cli.io.bids import bids_label
from synbrain_cli.io.responses import ResponseSettings
from synbrain_cli.io.results.evaluation import EvaluationRecord
from synbrain_cli.paths import is_there
from synbrain_cli.plotting.accuracy import repeats_text
from synbrain_cli.plotting.categories import Categories
from synbrain_cli.plotting.sources.evaluation import Evaluation
from synbrain_cli.plotting.sources.recordings import Recordings
from synbrain_cli.plotting.sources.responses import Responses
from synbrain_cli.plotting.wheels import Wheel

ACCURACY_UNIT = "correlation over images (r)"


@dataclass(frozen=True)
class BrainMap:
    """A map with one value per voxel, with title and unit.

    Attributes
    ----------
    name : str
        For the file: BIDS-like entities, such as ``sub-01_stim-coffee_stat-mean``.
    title, unit : str
    values : float array of shape (n_voxels,)
    symmetric : bool
        Whether colours are centred on 0.
    vmin : float, optional
        Lower end of colours that are not; default 0, or less where values are.
    stimulus : uint8 array of shape (height, width, 3), optional
    categories : Categories, optional
        Of maps whose values are numbers of these; `unit` is then the caption of their key.
    wheel : Wheel, optional
        Of maps of polar angle or eccentricity.
    """

    name: str
    title: str
    unit: str
    values: np.ndarray
    symmetric: bool = True
    vmin: float | None = None
    stimulus: np.ndarray | None = None
    categories: Categories | None = None
    wheel: Wheel | None = None


def response_maps(
    responses: Responses, brain: Brain, what: str, image: str | None = None, draw: int = 0
) -> Iterator[BrainMap]:
    """Yield the map of each image: of what is expected, or of draws, where these are asked for.

    Parameters
    ----------
    responses : Responses
    brain : Brain
        Model that drew the responses.
    what : {"mean", "std", "sem", "draw", "draws-mean"}
        The expected response m, the standard deviation of a single trial around it, or the standard
        error of m, all exact;
        one draw, or the average of all draws, which holds their unexplained signal and noise.
    image : str, optional
        One image; default all.
    draw : int
        Which draw, for "draw".

    Raises
    ------
    InputError, MissingError
        When there is no such image or draw, or the standard deviation or error is not known.
    """
    rows = responses.rows(image)
    n_draws = responses.n_draws
    if what == "draw" and not 0 <= draw < n_draws:
        raise InputError(f"{responses.folder} holds {n_draws} draws: --draw {draw} does not exist")
    title = {
        "mean": "expected response",
        "std": f"standard deviation of {a_trial(brain.config.averaged_over)}",
        "sem": "standard error of the expected response",
        "draw": f"one draw (number {draw})",
        "draws-mean": describe_draws(responses.settings),
    }[what]
    suffix = {"draw": f"draw-{draw}", "draws-mean": what}.get(what, f"stat-{what}")
    for row in rows:
        name = responses.names[row]
        values = {
            "mean": lambda row=row: np.asarray(responses.expected[row]),
            "std": lambda row=row: responses.sd(row),
            "sem": lambda row=row: responses.sem(row),
            "draw": lambda row=row: responses.of(row)[draw],
            "draws-mean": lambda row=row: responses.of(row).mean(0, dtype=np.float64),
        }[what]()
        yield BrainMap(
            f"sub-{brain.subject}_stim-{bids_label(name)}_{suffix}",
            f"{name}: {title}, {brain.name}",
            brain.unit_name(responses.settings.unit),
            values,
            what not in ("std", "sem"),
            stimulus=responses.stimulus(row),
        )


def describe_draws(settings: ResponseSettings) -> str:
    """Name the average of the draws of an image by what it shows beside the expected response.

    Draws that share the signal which no prediction explains are of one brain in one state: their
    average tends to the response of that state, and not to the expected one.
    """
    if settings.n_draws == 1:
        return "one draw"
    mean = f"mean of {settings.n_draws} draws"
    if settings.sampling == "latent":
        return f"{mean} by noise in the latent"
    states = "one simulated brain state" if settings.signal == "shared" else "as many brain states"
    return f"{mean} of {states}"


def difference_map(responses: Responses, brain: Brain, image: str | None, minus: str) -> BrainMap:
    """Return the difference of expected responses between two images, or two sets of images.

    Parameters
    ----------
    responses : Responses
    brain : Brain
        Model that drew the responses.
    image : str, optional
        One of their images; default the mean of the expected responses to all.
    minus : str
        Subtracted responses: another image of the same folder, or another folder of responses of
        the same model, of which the mean over all images is used.

    Raises
    ------
    InputError, MissingError
        When the two were drawn by different models, or in different units.
    """
    rows = responses.rows(image)
    if minus in responses.names or not is_there(minus):
        other, other_rows = responses, responses.rows(minus)
        if other_rows == rows:
            raise InputError(f"--minus {minus}: expected another image than --image {image}")
    else:
        other = Responses(Path(minus))
        other_rows = other.rows(None)
        _check_comparable(responses, other, minus)

    def describe(some: Responses, rows: list[int]) -> str:
        if len(rows) == 1:
            return some.names[rows[0]]
        return f"{some.folder.name} ({len(rows)} images)"

    names = describe(responses, rows), describe(other, other_rows)
    return BrainMap(
        f"sub-{brain.subject}_stim-{bids_label(names[0])}_minus-{bids_label(names[1])}"
        "_stat-difference",
        f"{names[0]} − {names[1]}: difference of expected responses, {brain.name}",
        brain.unit_name(responses.settings.unit),
        responses.mean(rows) - other.mean(other_rows),
        stimulus=responses.stimulus(rows[0]) if len(rows) == 1 else None,
    )


def _check_comparable(responses: Responses, other: Responses, minus: str) -> None:
    ours, theirs = responses.settings, other.settings
    for same, name, found, expected in (
        (theirs.model_fingerprint == ours.model_fingerprint, "model", theirs.model, ours.model),
        (theirs.unit == ours.unit, "unit", theirs.unit, ours.unit),
    ):
        if not same:
            raise InputError(
                f"--minus {minus}: drawn with the {name} {found}, expected that of "
                f"{responses.folder}, {expected}: a difference needs the same subject, training "
                "and unit"
            )


def recorded_maps(recordings: Recordings, what: str, image: str | None) -> Iterator[BrainMap]:
    """Yield a map of each test image named, or of the one with the most repeats.

    Parameters
    ----------
    recordings : Recordings
    what : {"recorded", "error"}
        The mean over recorded trials, or that mean minus the response that the model expects.
    image : str, optional
        Names separated by commas.

    Raises
    ------
    MissingError
        When there is no such test image.
    """
    brain = recordings.brain
    for name in recordings.choose(image, 1):
        trials = recordings.recorded(name)
        mean = trials.mean(0, dtype=np.float64)
        repeats = f"mean of {len(trials)} trials" if len(trials) > 1 else "one trial"
        if what == "error":
            mean = mean - recordings.expected(name)
        title = {
            "recorded": f"{name}: recorded, {repeats}, sub-{brain.subject}",
            "error": f"{name}: recorded ({repeats}) − expected by {brain.name}",
        }[what]
        yield BrainMap(
            f"sub-{brain.subject}_stim-{bids_label(name)}_stat-{what}",
            title,
            brain.unit,
            mean,
            stimulus=recordings.stimulus(name),
        )


def evaluation_map(evaluation: Evaluation, what: str, brain: Brain) -> BrainMap:
    """Return the accuracy of each voxel on test images, or its noise ceiling.

    The title of the one tells how many images and trials the correlations are over, that of the
    other how many repeats the ceiling is of. The colours of both begin at 0.

    Parameters
    ----------
    evaluation : Evaluation
    what : {"accuracy", "ceiling"}
    brain : Brain

    Raises
    ------
    InputError
        When it is not known for any voxel.
    """
    column, title = {
        "accuracy": ("model", f"prediction of {images_and_trials(evaluation.metrics)}"),
        "ceiling": ("ceiling", f"noise ceiling{repeats_text(evaluation.metrics)}"),
    }[what]
    if not evaluation.knows(what):
        raise InputError(
            f"{evaluation.folder / 'voxels.tsv'}: the {what} is not known, because no image was "
            "repeated and the data were supplied without ncsnr"
        )
    return BrainMap(
        f"{brain.name}_{what}",
        f"{title}, {brain.name}",
        ACCURACY_UNIT,
        evaluation.voxels[column].to_numpy(np.float32),
        symmetric=False,
        vmin=0,
    )


def images_and_trials(metrics: EvaluationRecord) -> str:
    """Return on how many images and trials a model was tested: "200 test images (600 trials)"."""
    rows = f"{metrics.n_test_trials:,} trial{'s' if metrics.n_test_trials > 1 else ''}"
    if metrics.averaged_over > 1:
        rows = f"{metrics.n_test_trials:,} {trials_name(metrics.averaged_over)}"
    return f"{metrics.tested} ({rows})"
