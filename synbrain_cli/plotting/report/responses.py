"""Section of the report on synthesized responses: stimuli, maps and ROI means."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np

from synbrain_cli.brain import Brain
from synbrain_cli.config import a_trial, trial_name
from synbrain_cli.plotting.figure import lettered
from synbrain_cli.plotting.labels import plotted_rois, subject_labels
from synbrain_cli.plotting.maps import BrainMap, response_maps
from synbrain_cli.plotting.reliability import Reliability, known_on_surface
from synbrain_cli.plotting.report.map_pictures import MapPictures
from synbrain_cli.plotting.report.page import (
    Block,
    Gallery,
    Live,
    Picture,
    Section,
    Text,
    listed,
    plotted,
    thumbnail,
)
from synbrain_cli.plotting.sources.responses import Responses
from synbrain_cli.plotting.trials import response_trials, roi_panels, rois_figure

MOST_LARGE = 4  # images whose flatmaps are large; more share a sheet
MOST_IMAGES = 50  # of a sheet


def responses_section(brain: Brain, responses: Responses, pictures: MapPictures) -> Section:
    """Return stimuli, maps and ROI means of a folder of responses."""
    n_images = len(responses.names)
    blocks: list[Block] = []
    stimuli = [
        (name, responses.stimulus(row)) for row, name in enumerate(responses.names[:MOST_IMAGES])
    ]
    shown = [
        Picture(thumbnail(stimulus), f"Stimulus {name}", name)
        for name, stimulus in stimuli
        if stimulus is not None
    ]
    if shown:
        blocks.append(Gallery(shown))
    if pictures.why_none:
        blocks.append(Text(f"No maps: {pictures.why_none}"))
    else:
        blocks += _maps(brain, responses, pictures)
    if plotted_rois(brain) and responses.settings.unit == "recorded" and responses.has_draws:
        blocks.append(_region_means(brain, responses))
    intro = f"{n_images} {'images' if n_images > 1 else 'image'}, "
    if responses.has_draws:
        n_draws = responses.n_draws
        draws = "draws" if n_draws > 1 else "draw"
        intro += f"{n_draws} {draws} per image ({brain.config.rows})."
    else:
        intro += "expected responses alone."
    return Section("Responses to the images", intro, blocks)


def _region_means(brain: Brain, responses: Responses) -> Picture:
    """ROI means of the expected responses, and intervals of the draws."""
    n_draws, trial = responses.n_draws, trial_name(brain.config.averaged_over)
    trials = list(response_trials(responses))
    caption = f"{roi_panels(brain, len(trials))}Circles are expected responses, "
    if n_draws > 1:
        caption += f"bars are intervals of draws, which are {brain.config.rows}."
    else:
        caption += f"dashes are the one draw of each image, {a_trial(brain.config.averaged_over)}."
    if n_draws == 1:
        caption += " --samples draws more, and shows how far they scatter."
    elif responses.settings.sampling == "calibrated" and responses.settings.signal == "shared":
        caption += (
            " The draws of an image are of one simulated brain state and so lie about the response "
            "in that state, which the images' features do not determine."
        )
    else:
        caption += (
            f" Where the bars of two images overlap widely, one {trial} does not tell the images "
            "apart."
        )
    return plotted(
        lambda: rois_figure(brain, trials),
        f"Expected ROI means and intervals of {n_draws} {'draws' if n_draws > 1 else 'draw'} of "
        f"{len(responses.names)} images.",
        caption,
    )


def _maps(brain: Brain, responses: Responses, pictures: MapPictures) -> list[Block]:
    """Expected responses to the first images, a sheet of all where there are more, and one SD."""
    blocks: list[Block] = []
    vmax = pictures.common_vmax(response_maps(responses, brain, "mean"), len(responses.names))
    scale = f"from −{vmax:.3g} to {vmax:.3g} ({brain.unit_name(responses.settings.unit)})"
    n_large = MOST_LARGE
    if not pictures.are_flatmaps:
        blocks.append(
            Text(
                "Slices of this subject's own volume are shown: the data came without transforms "
                "to a cortical surface."
            )
        )
    elif len(responses.names) > MOST_LARGE:
        blocks.append(_sheet(brain, responses, pictures.reliability, vmax))
        n_large = 1
    first = None
    for one in itertools.islice(response_maps(responses, brain, "mean"), n_large):
        first = first or one
        blocks.append(
            pictures.picture(
                one,
                "Expected response: what the model predicts of the image, without unexplained "
                "signal and noise. Red is a response above the baseline of the recording, blue one "
                "below it; cortex without data shows its folds. All maps of expected responses in "
                f"this section share one colour scale, {scale}.",
                vmax,
            )
        )
    if responses.has_sd:
        blocks.append(
            pictures.picture(
                next(response_maps(responses, brain, "std")),
                f"How far {a_trial(brain.config.averaged_over)} lies from the "
                "expected response: its predictive standard deviation, of unexplained signal and "
                "trial noise together. It is also large where recordings are noisy.",
            )
        )
    if pictures.are_flatmaps and first is not None:
        blocks.append(_rotatable_surface(brain, first, pictures.reliability, vmax))
    return blocks


def _sheet(brain: Brain, responses: Responses, reliability: Reliability, vmax: float) -> Picture:
    """Small flatmaps of the expected responses to all images."""
    from synbrain_cli.plotting.image_sheet import plot_sheet

    maps, names, images = [], [], []
    for name, one in itertools.islice(
        zip(responses.names, response_maps(responses, brain, "mean"), strict=True), MOST_IMAGES
    ):
        maps.append(known_on_surface(brain, reliability.map(one).values))
        names.append(name)
        images.append(None if one.stimulus is None else _small(one.stimulus))
    rest = len(responses.names) - len(maps)
    unit = brain.unit_name(responses.settings.unit)
    labels = replace(subject_labels(brain, f"Expected responses, {brain.name}"), unit=unit)
    return plotted(
        lambda: plot_sheet(maps, names, labels, images, vmax=vmax),
        f"Flatmaps of the expected response to {len(maps)} images: {listed(names)}.",
        f"{lettered(len(maps), 'one image each')}Expected responses, as the model predicts them, "
        "on one colour scale, which is that of the other maps of expected responses in this "
        "section."
        + (f" {rest} further images are not shown." if rest else "")
        + reliability.caption,
        100,
    )


def _small(image: np.ndarray) -> np.ndarray:
    """Every n-th pixel: fifty photographs of many megapixels would not fit in memory."""
    step = max(1, min(image.shape[:2]) // 120)
    return np.ascontiguousarray(image[::step, ::step])


def _rotatable_surface(
    brain: Brain, shown: BrainMap, reliability: Reliability, vmax: float
) -> Live:
    """The same map on the inflated surface, with the colours and the outlines of the flatmap."""
    from synbrain_cli.plotting.colours import ColourScale
    from synbrain_cli.plotting.rotatable_surface import view_surface
    from synbrain_cli.plotting.surface import plot_surface

    shown = reliability.map(shown)
    maps = known_on_surface(brain, shown.values)
    labels = replace(subject_labels(brain, shown.title), unit=shown.unit)
    scale = ColourScale(vmax=vmax, symmetric=shown.symmetric)
    what = (
        "The expected response to the first image on the inflated surface of "
        f"{brain.voxel_space.surface}, on the colour scale of the flatmaps.{reliability.caption}"
    )
    still = plotted(
        lambda: plot_surface(maps, replace(labels, stimulus=shown.stimulus), scale),
        f"Four views of the inflated surface: {shown.title}.",
        f"{what} a: lateral, b: posterior, c: medial, d: ventral. In a browser that has WebGL and "
        "runs scripts, this figure can be turned.",
    )
    return Live(
        view_surface(maps, labels, scale),
        f"Rotatable surface: {shown.title}",
        f"Drag to turn, scroll to zoom; the menu turns it without a mouse. {what}",
        still,
    )
