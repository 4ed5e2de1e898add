"""Section of the report that compares draws with recorded trials of test images."""

from __future__ import annotations

from synbrain_cli.brain import Brain
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.plotting.labels import plotted_rois, subject_labels
from synbrain_cli.plotting.reliability import Reliability
from synbrain_cli.plotting.report.map_pictures import MapPictures
from synbrain_cli.plotting.report.page import Block, Picture, Section, Text, plotted
from synbrain_cli.plotting.sources.recordings import Recordings
from synbrain_cli.plotting.trials import (
    N_IMAGES,
    TrialDraws,
    recorded_trials,
    roi_panels,
    rois_figure,
    trials_figure,
)

_TITLE = "Draws compared with recorded trials"


def recordings_section(workspace: Workspace, brain: Brain, pictures: MapPictures) -> Section:
    """Return flatmaps and ROI means of recorded trials beside draws.

    Parameters
    ----------
    workspace : Workspace
    brain : Brain
    pictures : MapPictures
        Which voxels flatmaps show, and whether there are any.
    """
    try:
        recordings = Recordings.of(workspace, brain, lambda text: None)
    except (MissingError, InputError) as error:
        text = f"Not shown, because recorded trials are not available here. {error}"
        return Section(_TITLE, "", [Text(text)])
    blocks: list[Block] = []
    if pictures.are_flatmaps:
        blocks.append(_flatmaps(brain, recordings, pictures.reliability))
    if plotted_rois(brain):
        trials = list(recorded_trials(recordings, None, N_IMAGES, TrialDraws(signal="fresh")))
        blocks.append(
            plotted(
                lambda: rois_figure(brain, trials),
                f"ROI means of recorded trials over intervals of draws, {N_IMAGES} test images.",
                f"{roi_panels(brain, len(trials))}Points are recorded trials, circles are expected "
                "responses, bars are intervals of draws. Nine points in ten should lie within the "
                "thin bars.",
            )
        )
    shown = "" if brain.simulated else " Images of recorded datasets may not be redistributed."
    return Section(
        _TITLE,
        "The images are the test images of this subject with the most repeats; they were not "
        "selected in any other way." + shown,
        blocks,
    )


def _flatmaps(brain: Brain, recordings: Recordings, reliability: Reliability) -> Picture:
    one = reliability.trials(next(recorded_trials(recordings, None, 1, TrialDraws())))
    labels = subject_labels(brain, f"{one.name}, {brain.name}", stimulus=one.stimulus)
    n_trials = len(one.recorded)
    return plotted(
        lambda: trials_figure(brain, one, labels),
        f"Small flatmaps of {n_trials} recorded trials of {one.name} above, with their mean, of "
        "draws below, with the expected response, and the standard deviations of both.",
        "a: recorded trials, their mean and SD; b: draws of one simulated brain state, the "
        "expected response and the SD of draws. The model was not trained on this image. Single "
        "trials should differ from each other as much in b as in a. The expected response should "
        "agree with the mean of the recorded trials as far as the image's features explain it and "
        f"{n_trials} recorded trials can tell." + reliability.caption,
        100,
    )
