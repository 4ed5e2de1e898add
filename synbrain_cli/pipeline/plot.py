"""`synbrain plot`: responses, recordings and accuracy as figures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from synbrain_cli.brain import Brain, load_model
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.bids import bids_label
from synbrain_cli.io.voxel_space import Volume
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.pipeline.maps import (
    BrainMap,
    Evaluation,
    ImageTrials,
    Recordings,
    Responses,
    difference_map,
    latest_responses,
    response_maps,
)
from synbrain_cli.plotting.figure import FORMATS, save_figure
from synbrain_cli.plotting.labels import drawn_rois, looks, note
from synbrain_cli.progress import Progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESPONSE_MAPS = ("mean", "std", "draw", "difference")
RECORDED_MAPS = ("recorded", "error")
ACCURACY_MAPS = ("accuracy", "ceiling")
SPACES = ("fsaverage5", "fsaverage6", "fsaverage")
N_DRAWS = 20  # of a test image: the fewest whose range is a 90 % interval
N_IMAGES = 6  # of which ROI means are drawn where none is named


@dataclass(frozen=True)
class PlotResult:
    """Files written."""

    files: list[Path]


@dataclass(frozen=True)
class Look:
    """How figures are drawn and written.

    Attributes
    ----------
    space : str
        Surface on which maps are drawn.
    threshold, vmax : float, optional
        Limits of the colours, in the map's unit.
    format : {"png", "svg", "pdf"}
    dpi : int
    pycortex : bool
        Draw flatmaps with pycortex.

    Raises
    ------
    InputError
    """

    space: str = "fsaverage5"
    threshold: float | None = None
    vmax: float | None = None
    format: str = "png"
    dpi: int = 200
    pycortex: bool = False

    def __post_init__(self) -> None:
        for option, value, choices in (
            ("--format", self.format, FORMATS),
            ("--space", self.space, SPACES),
        ):
            if value not in choices:
                raise InputError(f"{option} {value}: expected one of {', '.join(choices)}")
        if self.vmax is not None and not self.vmax > 0:
            raise InputError(f"--vmax {self.vmax:g}: expected more than 0")


# -------------------------------------------------------------------------------- brain maps


def brain_maps(
    workspace: Workspace,
    kind: str,
    *,
    what: str = "mean",
    model: str | None = None,
    subject: str | None = None,
    responses: Path | None = None,
    image: str | None = None,
    minus: str | None = None,
    draw: int = 0,
    look: Look | None = None,
    output: Path | None = None,
    progress: Progress | None = None,
) -> PlotResult:
    """Draw maps of the last responses, of recorded trials, or of a model's accuracy.

    Parameters
    ----------
    workspace : Workspace
    kind : {"flatmap", "surface"}
    what : str
        Of synthesized responses: "mean" or deviation ("std") over draws, one "draw", the
        "difference" from ``minus``. Of a test image: the mean over "recorded" trials, or the
        "error", what the expected response leaves of it. Of a model: its "accuracy" by voxel, or
        its "ceiling".
    model, subject : str, optional
        Whose.
    responses : path, optional
        Folder written by synthesize; default the last.
    image : str, optional
        One image; default all of the responses, or the test image with the most repeats.
    minus : str, optional
        Image or folder of responses that is subtracted.
    draw : int
        Which, for "draw".
    look : Look, optional
    output : path, optional
        Folder; default ``figures/`` where the data are.
    progress : Progress, optional

    Raises
    ------
    InputError, MissingError
    """
    progress, look = progress or Progress(), look or Look()
    if minus is not None and what == "mean":
        what = "difference"
    known = RESPONSE_MAPS + RECORDED_MAPS + ACCURACY_MAPS
    if what not in known:
        raise InputError(f"--what {what}: expected one of {', '.join(known)}")
    if (what == "difference") != (minus is not None):
        raise InputError(
            "--what difference and --minus go together: name an image, or a folder of responses, "
            "that is subtracted"
        )
    if what not in RESPONSE_MAPS and responses is not None:
        raise InputError(f"--what {what} is not of synthesized responses: leave out --responses")
    if what in ACCURACY_MAPS and image is not None:
        raise InputError(f"--what {what} is a map of the model: leave out --image")
    if what in RESPONSE_MAPS:
        made = _responses(workspace, responses, model, subject, progress)
        brain = made.brain(workspace, progress.info)
        if what == "difference":
            assert minus is not None
            maps = iter([difference_map(made, brain, image, minus)])
            n_maps = 1
        else:
            maps = response_maps(made, brain, what, image, draw)
            n_maps = len(made.rows(image))
            if look.vmax is None and n_maps > 1:
                look = _one_scale(look, response_maps(made, brain, what, image, draw))
        folder = made.folder / "figures"
    else:
        brain = load_model(workspace.find_model(model, subject, progress.info), "cpu")
        n_maps = 1
        if what in ACCURACY_MAPS:
            evaluation = Evaluation.read(workspace.outputs / f"{brain.name}_evaluation", brain)
            maps = iter([evaluation.map(what, brain)])
            folder = evaluation.folder / "figures"
            if look.vmax is None:
                look = replace(look, vmax=evaluation.limit)
        else:
            recordings = Recordings.of(workspace, brain, progress.info)
            maps = recordings.maps(what, image)
            n_maps = len(recordings.choose(image, 1))
            folder = workspace.outputs / f"{brain.name}_figures"
    folder = Path(output) if output else folder
    draw_map = MapPainter(brain, kind, look, progress)
    files = []
    with progress.bar(f"{kind}s", n_maps) as bar:
        for one in maps:
            files.append(folder / f"{one.name}_{draw_map.kind}.{look.format}")
            save_figure(draw_map(one), files[-1], dpi=look.dpi)
            bar()
    return PlotResult(files)


class MapPainter:
    """Draws a person's maps, one after another; what they share is made once.

    Parameters
    ----------
    brain : Brain
    kind : {"flatmap", "surface"}
    look : Look
    progress : Progress

    Attributes
    ----------
    kind : str
        "slices" where the person has no transform to a surface.

    Raises
    ------
    InputError
        When there is neither a surface nor a volume to draw on, or not the space asked for.
    """

    def __init__(self, brain: Brain, kind: str, look: Look, progress: Progress) -> None:
        self.brain, self.kind, self._look = brain, kind, look
        if look.space in brain.voxel_space.other_spaces:
            self._looks = looks(brain, look.space)
            return
        if brain.voxel_space.surface_resampling is not None:
            others = (
                ", ".join(s for s in brain.voxel_space.other_spaces if s in SPACES)
                or "none to fsaverage"
            )
            raise InputError(
                f"{brain.folder}: no transform to {look.space} (--space); there are: {others}"
            )
        if not isinstance(brain.voxel_space.geometry, Volume):
            raise InputError(
                f"{brain.folder}: nothing says where its voxels are, so there is no map to draw: "
                "look at `synbrain plot rois` or at the arrays"
            )
        progress.info(
            f"{brain.name} was prepared without transforms to fsaverage: slices of its own volume "
            "are drawn instead"
        )
        self.kind = "slices"

    def __call__(self, shown: BrainMap, vmax: float | None = None) -> Figure:
        """Draw one map; ``vmax`` instead of the look's."""
        colours: dict[str, Any] = {
            "title": shown.title,
            "unit": shown.unit,
            "threshold": self._look.threshold,
            "vmax": self._look.vmax if vmax is None else vmax,
            "symmetric": shown.symmetric,
        }
        if self.kind == "slices":
            from synbrain_cli.plotting.slices import plot_slices

            return plot_slices(
                self.brain.to_nifti(shown.values),
                mask=self.brain.to_nifti(np.ones(self.brain.n_voxels)),
                stimulus=shown.image,
                note=note(self.brain),
                **colours,
            )
        maps = self.brain.to_surface(shown.values, self._look.space)
        options = {**self._looks, **colours, "image": shown.image}
        if self.kind == "surface":
            from synbrain_cli.plotting.surface import plot_surface

            return plot_surface(maps, **options)
        if self._look.pycortex:
            from synbrain_cli.plotting.pycortex import plot_with_pycortex

            return plot_with_pycortex(maps, **options)
        from synbrain_cli.plotting.flatmap import plot_flatmap

        return plot_flatmap(maps, **options)


def named_responses(
    responses: Path | None, model: str | None, subject: str | None
) -> Responses | None:
    """The responses of a folder, where one is named.

    Raises
    ------
    InputError, MissingError
        When a model or a person is named as well, or the folder is none of synthesize.
    """
    if responses is None:
        return None
    if model is not None or subject is not None:
        raise InputError("--responses says whose they are: leave out --model and --subject")
    return Responses(responses)


def _responses(
    workspace: Workspace,
    responses: Path | None,
    model: str | None,
    subject: str | None,
    progress: Progress,
) -> Responses:
    """Those of the folder named, or the last ones."""
    made = named_responses(responses, model, subject)
    if made is None:
        made = Responses(latest_responses(workspace, model, subject))
        progress.info(f"responses: {made.folder}")
    return made


def _one_scale(look: Look, maps: Iterator[BrainMap]) -> Look:
    """The same colours for all."""
    return replace(look, vmax=max(float(np.quantile(np.abs(m.values), 0.99)) for m in maps))


# ---------------------------------------------------------------------------- single trials


def draws(
    workspace: Workspace,
    *,
    model: str | None = None,
    subject: str | None = None,
    responses: Path | None = None,
    image: str | None = None,
    n_draws: int = N_DRAWS,
    seed: int = 0,
    look: Look | None = None,
    output: Path | None = None,
    progress: Progress | None = None,
) -> PlotResult:
    """Draw recorded trials of a test image beside draws of it; or draws of synthesized responses.

    Parameters
    ----------
    workspace : Workspace
    model, subject : str, optional
        Whose.
    responses : path, optional
        Folder written by synthesize: its images, which nobody was recorded with.
    image : str, optional
        Test images, separated by commas, or one of the responses; default the test image with the
        most repeats, or all of the responses.
    n_draws, seed : int
        Of test images.
    look, output, progress
        As in `brain_maps`.
    """
    from synbrain_cli.plotting.draws import plot_draws

    progress, look = progress or Progress(), look or Look()
    brain, trials, folder = _trials(
        workspace, model, subject, responses, image, 1, n_draws, seed, "shared", progress
    )
    if look.space not in brain.voxel_space.other_spaces:
        raise InputError(
            f"{brain.folder}: no transform to {look.space}, and draws are shown on that surface "
            "alone: `synbrain plot rois` shows means of regions"
        )
    shared = looks(brain, look.space)
    files = []
    for one in trials:
        figure = plot_draws(
            brain.to_surface(one.draws, look.space),
            None if one.recorded is None else brain.to_surface(one.recorded, look.space),
            title=f"{one.name}: {_sources(one)}, {brain.name}",
            vmax=look.vmax,
            image=one.image,
            **shared,
        )
        name = f"sub-{brain.subject}_stim-{bids_label(one.name)}_draws.{look.format}"
        files.append((Path(output) if output else folder) / name)
        save_figure(figure, files[-1], dpi=look.dpi)
    return PlotResult(files)


def rois(
    workspace: Workspace,
    *,
    model: str | None = None,
    subject: str | None = None,
    responses: Path | None = None,
    image: str | None = None,
    n_draws: int = N_DRAWS,
    seed: int = 0,
    look: Look | None = None,
    output: Path | None = None,
    progress: Progress | None = None,
) -> PlotResult:
    """Draw ROI means: intervals over draws, and recorded trials over them.

    Parameters are those of `draws`; without ``image`` six test images are shown, or all of the
    responses. Draws of test images redraw the signal that no feature explains (``signal="fresh"``):
    recorded trials should lie anywhere among them.
    """
    progress, look = progress or Progress(), look or Look()
    brain, trials, folder = _trials(
        workspace, model, subject, responses, image, N_IMAGES, n_draws, seed, "fresh", progress
    )
    figure = rois_figure(brain, trials)
    file = (Path(output) if output else folder) / f"{brain.name}_rois.{look.format}"
    save_figure(figure, file, dpi=look.dpi)
    return PlotResult([file])


def rois_figure(brain: Brain, trials: Iterable[ImageTrials]) -> Figure:
    """Return the figure of `rois`, of responses in the unit of the data.

    Raises
    ------
    InputError
        When the model has no ROIs.
    """
    from synbrain_cli.plotting.rois import plot_rois, roi_means

    masks = drawn_rois(brain)
    if not masks:
        raise InputError(f"{brain.folder / 'voxels.tsv'}: no ROI is known")
    images, drawn, recorded = [], [], []
    for one in trials:
        images.append(one.name)
        drawn.append(roi_means(one.draws, masks))
        recorded.append(None if one.recorded is None else roi_means(one.recorded, masks))
    return plot_rois(
        np.stack(drawn),
        rois=list(masks),
        images=images,
        unit=brain.unit,
        title=f"ROI means of single trials, {brain.name}",
        recorded=recorded if any(r is not None for r in recorded) else None,
        note=note(brain),
    )


def _trials(
    workspace: Workspace,
    model: str | None,
    subject: str | None,
    responses: Path | None,
    image: str | None,
    n_images: int,
    n_draws: int,
    seed: int,
    signal: str,
    progress: Progress,
) -> tuple[Brain, Iterator[ImageTrials], Path]:
    """Whose trials are drawn, the trials image by image, and the folder for figures."""
    if responses is None:
        brain = load_model(workspace.find_model(model, subject, progress.info), "cpu")
        try:
            recordings = Recordings.of(workspace, brain, progress.info)
        except MissingError as error:
            raise MissingError(
                f"{error}\nRecorded trials are of prepared subjects; for synthesized responses "
                "name their folder with --responses"
            ) from error
        trials = recordings.trials(image, n_images, n_draws, seed, signal)
        return brain, trials, workspace.outputs / f"{brain.name}_figures"
    made = _responses(workspace, responses, model, subject, progress)
    brain = made.brain(workspace, progress.info)
    if made.settings["unit"] != "recorded":
        raise InputError(
            f"{made.folder}: in {brain.unit_name(made.settings['unit'])}: expected responses in "
            "the unit of the data: synthesize without --unit z"
        )
    return brain, synthesized(made, image), made.folder / "figures"


def synthesized(made: Responses, image: str | None = None) -> Iterator[ImageTrials]:
    """Yield the draws of each image of a folder of responses."""
    for row in made.rows(image):
        yield ImageTrials(made.names[row], made.of(row), image=made.picture(row))


def _sources(one: ImageTrials) -> str:
    drawn = f"{len(one.draws)} draws"
    return drawn if one.recorded is None else f"{len(one.recorded)} recorded trials, {drawn}"


# ------------------------------------------------------------------------------- accuracy


def accuracy(
    workspace: Workspace,
    *,
    model: str | None = None,
    subject: str | None = None,
    look: Look | None = None,
    output: Path | None = None,
    progress: Progress | None = None,
) -> PlotResult:
    """Draw voxelwise accuracy against its ceiling, beside the baselines.

    Parameters are those of `brain_maps`.
    """
    progress, look = progress or Progress(), look or Look()
    brain = load_model(workspace.find_model(model, subject, progress.info), "cpu")
    evaluation = Evaluation.read(workspace.outputs / f"{brain.name}_evaluation", brain)
    folder = Path(output) if output else evaluation.folder / "figures"
    file = folder / f"{brain.name}_accuracy.{look.format}"
    save_figure(accuracy_figure(brain, evaluation), file, dpi=look.dpi)
    return PlotResult([file])


def accuracy_figure(brain: Brain, evaluation: Evaluation) -> Figure:
    """Return the figure of `accuracy`."""
    from synbrain_cli.plotting.accuracy import plot_accuracy

    return plot_accuracy(
        evaluation.voxels,
        metrics=evaluation.metrics,
        title=f"Prediction of {evaluation.metrics.n_test_images:,} test images, {brain.name}",
        note=note(brain),
    )
