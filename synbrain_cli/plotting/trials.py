"""Single trials of images, recorded and drawn, and the figures that show them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from synbrain_cli.brain import Brain
from synbrain_cli.errors import InputError
from synbrain_cli.plotting.figure import lettered
from synbrain_cli.plotting.labels import Labels, plotted_rois, simulated_note
from synbrain_cli.plotting.sources.recordings import Recordings
from synbrain_cli.plotting.sources.responses import Responses

if TYPE_CHECKING:
    from matplotlib.figure import Figure

N_DRAWS = 20  # of a test image: the fewest whose range is a 90 % interval
N_IMAGES = 6  # of which ROI means are plotted where none is named


@dataclass(frozen=True)
class ImageTrials:
    """Single trials of one image.

    Attributes
    ----------
    name : str
        Of the image.
    draws : float array of shape (n_draws, n_voxels)
    expected : float array of shape (n_voxels,)
        The response that the model expects, without unexplained signal and noise.
    recorded : float array of shape (n_trials, n_voxels), optional
    stimulus : uint8 array of shape (height, width, 3), optional
    """

    name: str
    draws: np.ndarray
    expected: np.ndarray
    recorded: np.ndarray | None = None
    stimulus: np.ndarray | None = None


@dataclass(frozen=True)
class TrialDraws:
    """How many draws of each test image are made, and how.

    Attributes
    ----------
    n_draws, seed : int
    signal : {"shared", "fresh"}
        "shared" for draws that vary as repeats of one image do. "fresh" also draws the signal that
        no feature explains, so that the rank of a recorded trial among the draws is uniform.
    """

    n_draws: int = N_DRAWS
    seed: int = 0
    signal: str = "shared"


def recorded_trials(
    recordings: Recordings, image: str | None, n_images: int, drawn: TrialDraws
) -> Iterator[ImageTrials]:
    """Yield recorded trials and draws of the test images named, or of the first ``n_images``.

    Parameters
    ----------
    recordings : Recordings
    image : str, optional
        Names separated by commas.
    n_images : int
        Where none is named.
    drawn : TrialDraws

    Raises
    ------
    MissingError
        When there is no such test image.
    """
    for name in recordings.choose(image, n_images):
        draws = recordings.draws(name, drawn.n_draws, drawn.seed, drawn.signal)
        expected, recorded = recordings.expected(name), recordings.recorded(name)
        yield ImageTrials(name, draws, expected, recorded, recordings.stimulus(name))


def response_trials(responses: Responses, image: str | None = None) -> Iterator[ImageTrials]:
    """Yield the draws of each image of a folder of responses, or of one image.

    Raises
    ------
    MissingError
        When there is no such image.
    """
    for row in responses.rows(image):
        draws, expected = responses.of(row), np.asarray(responses.expected[row])
        yield ImageTrials(responses.names[row], draws, expected, stimulus=responses.stimulus(row))


def trials_figure(
    brain: Brain,
    trials: ImageTrials,
    labels: Labels,
    space: str | None = None,
    vmax: float | None = None,
) -> Figure:
    """Return flatmaps of single trials of one image: see `plot_draws`.

    Parameters
    ----------
    brain : Brain
    trials : ImageTrials
    labels : Labels
        Of the subject, on this surface.
    space : str, optional
        Surface; default the subject's (`VoxelSpace.surface`).
    vmax : float, optional
        Upper end of the colours.
    """
    from synbrain_cli.plotting.reliability import known_on_surface
    from synbrain_cli.plotting.trial_flatmaps import plot_draws

    recorded = None
    if trials.recorded is not None:
        recorded = known_on_surface(brain, trials.recorded, space)
    draws, expected = (known_on_surface(brain, v, space) for v in (trials.draws, trials.expected))
    return plot_draws(draws, expected, labels, recorded, vmax=vmax)


def roi_panels(brain: Brain, n_images: int) -> str:
    """Return the beginning of the caption of `rois_figure`: what its panels are."""
    from synbrain_cli.plotting.roi_intervals import MOST_PANELS

    if n_images <= MOST_PANELS:
        return lettered(n_images, "one image each")
    return lettered(len(plotted_rois(brain)), "one region each")


def rois_figure(brain: Brain, trials: Iterable[ImageTrials]) -> Figure:
    """Return the ROI means of single trials, in the unit of the data: see `plot_rois`.

    Raises
    ------
    InputError
        When the model has no ROIs.
    """
    from synbrain_cli.plotting.roi_intervals import plot_rois, roi_means

    masks = plotted_rois(brain)
    if not masks:
        raise InputError(f"{brain.folder / 'voxels.tsv'}: no ROI is known")
    images, draws, expected, recorded = [], [], [], []
    for one in trials:
        images.append(one.name)
        draws.append(roi_means(one.draws, masks))
        expected.append(roi_means(one.expected, masks))
        recorded.append(None if one.recorded is None else roi_means(one.recorded, masks))
    title = f"ROI means of {brain.config.rows}, {brain.name}"
    return plot_rois(
        np.stack(draws),
        np.stack(expected),
        Labels(title, brain.unit, note=simulated_note(brain)),
        rois=list(masks),
        images=images,
        recorded=recorded if any(r is not None for r in recorded) else None,
    )
