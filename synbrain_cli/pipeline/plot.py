"""`synbrain plot`: responses, recordings and accuracy as figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from synbrain_cli.brain import Brain, load_model
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.bids import bids_label
from synbrain_cli.io.workfolder import note_derived
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.plotting.accuracy import accuracy_figure
from synbrain_cli.plotting.figure import figure_style, save_figure
from synbrain_cli.plotting.labels import subject_labels
from synbrain_cli.plotting.map_plotter import Look, MapPlotter
from synbrain_cli.plotting.maps import (
    BrainMap,
    difference_map,
    evaluation_map,
    recorded_maps,
    response_maps,
)
from synbrain_cli.plotting.reliability import Reliability
from synbrain_cli.plotting.sources.evaluation import Evaluation
from synbrain_cli.plotting.sources.recordings import Recordings
from synbrain_cli.plotting.sources.responses import Responses, latest_responses
from synbrain_cli.plotting.trials import (
    N_DRAWS,
    N_IMAGES,
    ImageTrials,
    TrialDraws,
    recorded_trials,
    response_trials,
    rois_figure,
    trials_figure,
)
from synbrain_cli.progress import Progress
from synbrain_cli.run import RunContext

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESPONSE_MAPS = ("mean", "std", "sem", "difference", "draw", "draws-mean")
RECORDED_MAPS = ("recorded", "error")
ACCURACY_MAPS = ("accuracy", "ceiling")


@dataclass(frozen=True)
class PlotResult:
    """Files written."""

    files: list[Path]


@dataclass(frozen=True)
class Selection:
    """Which data are plotted.

    Attributes
    ----------
    model, subject : str, optional
        Name of a model, or label of the subject whose model it is; default the newest model.
    responses : path, optional
        Folder written by synthesize.
    image : str, optional
        An image of the responses, or test images, separated by commas.
    dataset : str, optional
        Of the subject whose model it is.
    """

    model: str | None = None
    subject: str | None = None
    responses: Path | None = None
    image: str | None = None
    dataset: str | None = None

    def find_model(self, workspace: Workspace, progress: Progress) -> Brain:
        """Load the model chosen.

        Raises
        ------
        MissingError
            When there is none.
        """
        bundle = workspace.find_model(self.model, self.subject, progress.info, self.dataset)
        return load_model(bundle, "cpu")

    def named_responses(self) -> Responses | None:
        """Open the responses of a folder, where one is named.

        Raises
        ------
        InputError, MissingError
            When a model, a subject or a dataset is named as well, or synthesize did not write the
            folder.
        """
        if self.responses is None:
            return None
        if (self.model, self.subject, self.dataset) != (None, None, None):
            raise InputError(
                "--responses chooses the model: leave out --model, --subject and --dataset"
            )
        return Responses(self.responses)

    def find_responses(self, workspace: Workspace, progress: Progress) -> Responses:
        """Open the responses of the folder named, or the last ones.

        Raises
        ------
        InputError, MissingError
            As `named_responses`, or when there are none.
        """
        found = self.named_responses()
        if found is None:
            latest = latest_responses(
                workspace, self.model, self.subject, progress.info, self.dataset
            )
            found = Responses(latest)
            progress.info(f"responses: {found.folder}")
        return found


@dataclass(frozen=True)
class MapChoice:
    """What a map shows.

    Attributes
    ----------
    what : str
        Of synthesized responses: the expected response ("mean"), the standard deviation of a
        single trial around it ("std"), its own standard error ("sem"), the "difference" of
        expected responses from those of ``minus``; of their draws, only where asked for: one
        "draw", or the average of an image's draws ("draws-mean"). Of a test image: the mean over
        "recorded" trials, or the "error",
        which is that mean minus the expected response. Of a model: its "accuracy" by voxel, on
        flatmaps beside the noise ceiling, or the noise "ceiling" alone.
    minus : str, optional
        Image or folder of responses that is subtracted; makes "difference" of "mean".
    draw : int
        Which, for "draw".

    Raises
    ------
    InputError
        When there is no such map, or "difference" and ``minus`` do not come together.
    """

    what: str = "mean"
    minus: str | None = None
    draw: int = 0

    def __post_init__(self) -> None:
        if self.minus is not None and self.what == "mean":
            object.__setattr__(self, "what", "difference")
        known = RESPONSE_MAPS + RECORDED_MAPS + ACCURACY_MAPS
        if self.what not in known:
            raise InputError(f"--what {self.what}: expected one of {', '.join(known)}")
        if (self.what == "difference") != (self.minus is not None):
            raise InputError(
                "--what difference and --minus go together: name an image, or a folder of "
                "responses, that is subtracted"
            )

    def check(self, selection: Selection) -> None:
        """Refuse responses or images for maps that are not made of them.

        Raises
        ------
        InputError
        """
        if self.what not in RESPONSE_MAPS and selection.responses is not None:
            raise InputError(
                f"--what {self.what} is not made from synthesized responses: leave out --responses"
            )
        if self.what in ACCURACY_MAPS and selection.image is not None:
            raise InputError(f"--what {self.what} is a map of the model: leave out --image")


# -------------------------------------------------------------------------------- brain maps


def brain_maps(
    workspace: Workspace,
    kind: str,
    selection: Selection,
    choice: MapChoice | None = None,
    *,
    look: Look | None = None,
    output: Path | None = None,
    run: RunContext | None = None,
) -> PlotResult:
    """Plot maps of synthesized responses, of recorded trials, or of a model's accuracy.

    All maps of a call have one colour scale, from the values that they show; accuracy and noise
    ceiling have one, too.

    Parameters
    ----------
    workspace : Workspace
    kind : {"flatmap", "surface"}
    selection : Selection
        Of responses, without a folder the last ones, and without an image all; of recordings,
        without an image the test image with the most repeats.
    choice : MapChoice, optional
        Default the expected response.
    look : Look, optional
    output : path, optional
        Folder; default ``figures/`` where the data are.
    run : RunContext, optional

    Raises
    ------
    InputError, MissingError
        When data are missing, or options do not go together.
    """
    look, choice, run = look or Look(), choice or MapChoice(), run or RunContext()
    choice.check(selection)
    collect = _evaluated_maps
    if choice.what in RESPONSE_MAPS:
        collect = _response_maps
    elif choice.what in RECORDED_MAPS:
        collect = _recorded_maps
    found = collect(workspace, selection, choice, run.progress)
    reliability = Reliability.of(found.brain, look.min_ncsnr)
    folder = Path(output) if output else found.folder
    plot_map = MapPlotter(found.brain, kind, look, run.progress)
    vmax = plot_map.common_vmax(map(reliability.map, found.range_of()), found.n_in_range)
    beside = reliability.map(found.beside) if found.beside and plot_map.plots_pairs else None
    files = []
    with figure_style(look.style), run.progress.bar(f"{kind}s", found.n_maps) as bar:
        for one in map(reliability.map, found.maps()):
            files.append(folder / f"{one.name}_{plot_map.kind}.{look.format}")
            figure = plot_map.pair((one, beside), vmax) if beside else plot_map(one, vmax)
            _save(figure, files[-1], found.folder, look)
            bar()
    return PlotResult(files)


@dataclass(frozen=True)
class _Maps:
    """Maps of one model, made one after another, and where their figures go."""

    brain: Brain
    maps: Callable[[], Iterator[BrainMap]]
    n_maps: int
    folder: Path
    also: tuple[BrainMap, ...] = ()  # whose values count for the colours, too
    beside: BrainMap | None = None  # what stands beside each flatmap

    def range_of(self) -> Iterator[BrainMap]:
        """Maps with one colour scale, those that are plotted and what compares with them."""
        return chain(self.maps(), self.also)

    @property
    def n_in_range(self) -> int:
        """Number of maps with one colour scale."""
        return self.n_maps + len(self.also)


def _response_maps(
    workspace: Workspace, selection: Selection, choice: MapChoice, progress: Progress
) -> _Maps:
    made = selection.find_responses(workspace, progress)
    brain, folder = made.brain(workspace, progress.info), made.folder / "figures"
    if choice.minus is not None:
        one = difference_map(made, brain, selection.image, choice.minus)
        return _Maps(brain, lambda: iter([one]), 1, folder)

    def maps() -> Iterator[BrainMap]:
        return response_maps(made, brain, choice.what, selection.image, choice.draw)

    return _Maps(brain, maps, len(made.rows(selection.image)), folder)


def _recorded_maps(
    workspace: Workspace, selection: Selection, choice: MapChoice, progress: Progress
) -> _Maps:
    brain = selection.find_model(workspace, progress)
    recordings = Recordings.of(workspace, brain, progress.info)

    def maps() -> Iterator[BrainMap]:
        return recorded_maps(recordings, choice.what, selection.image)

    n_maps = len(recordings.choose(selection.image, 1))
    return _Maps(brain, maps, n_maps, workspace.output_of(brain.name, "figures"))


def _evaluated_maps(
    workspace: Workspace, selection: Selection, choice: MapChoice, progress: Progress
) -> _Maps:
    """Accuracy beside the noise ceiling, or the ceiling alone, on one scale."""
    brain = selection.find_model(workspace, progress)
    evaluation = Evaluation.of(workspace, brain)
    one = evaluation_map(evaluation, choice.what, brain)
    folder, other = evaluation.folder / "figures", "ceiling"
    if choice.what == "ceiling":
        other = "accuracy"
    if not evaluation.knows(other):
        return _Maps(brain, lambda: iter([one]), 1, folder)
    compared = evaluation_map(evaluation, other, brain)
    beside = compared if choice.what == "accuracy" else None
    return _Maps(brain, lambda: iter([one]), 1, folder, (compared,), beside)


# ---------------------------------------------------------------------------- single trials


def draws(
    workspace: Workspace,
    selection: Selection,
    *,
    n_draws: int = N_DRAWS,
    look: Look | None = None,
    output: Path | None = None,
    run: RunContext | None = None,
) -> PlotResult:
    """Plot recorded trials of test images beside draws of the same images; or synthesized draws.

    Parameters
    ----------
    workspace : Workspace
    selection : Selection
        With a folder of responses their images, for which there are no recordings; else test
        images, by default the one with the most repeats.
    n_draws : int
        Draws per test image.
    look : Look, optional
    output : path, optional
        Folder; default ``figures/`` where the data are.
    run : RunContext, optional
        Its seed is that of the draws.

    Raises
    ------
    InputError, MissingError
        When data are missing, or the subject has no transform to the surface.
    """
    look, run = look or Look(), run or RunContext()
    drawn = TrialDraws(n_draws, run.seed, "shared")
    found = _trials(workspace, selection, 1, drawn, run.progress)
    brain = found.brain
    space = look.space or brain.voxel_space.surface
    if space not in brain.voxel_space.other_spaces:
        raise InputError(
            f"{brain.folder}: no transform to {space}, and draws are shown on that surface "
            "alone: `synbrain plot rois` shows means of regions"
        )
    shared = subject_labels(brain, "", space)
    reliability = Reliability.of(brain, look.min_ncsnr)
    files = []
    for one in map(reliability.trials, found.trials):
        title = f"{one.name}: {_counted(one)}, {brain.name}"
        if reliability.described:
            title += f"; {reliability.described}"
        labels = replace(shared, title=title, stimulus=one.stimulus)
        with figure_style(look.style):
            figure = trials_figure(brain, one, labels, space, look.vmax)
        name = f"sub-{brain.subject}_stim-{bids_label(one.name)}_{reliability.entity}draws"
        files.append((Path(output) if output else found.folder) / f"{name}.{look.format}")
        _save(figure, files[-1], found.folder, look)
    return PlotResult(files)


def rois(
    workspace: Workspace,
    selection: Selection,
    *,
    n_draws: int = N_DRAWS,
    look: Look | None = None,
    output: Path | None = None,
    run: RunContext | None = None,
) -> PlotResult:
    """Plot ROI means: intervals over draws, and recorded trials over them.

    Parameters are those of `draws`; without an image six test images are shown, or all of the
    responses. Draws of test images have ``signal="fresh"``, the signal that no feature explains
    drawn anew: recorded trials should lie anywhere among them.

    Raises
    ------
    InputError, MissingError
        When data are missing, or the model has no ROIs.
    """
    look, run = look or Look(), run or RunContext()
    drawn = TrialDraws(n_draws, run.seed, "fresh")
    found = _trials(workspace, selection, N_IMAGES, drawn, run.progress)
    with figure_style(look.style):
        figure = rois_figure(found.brain, found.trials)
    folder = Path(output) if output else found.folder
    file = folder / f"{found.brain.name}_rois.{look.format}"
    _save(figure, file, found.folder, look)
    return PlotResult([file])


@dataclass(frozen=True)
class _Trials:
    """Trials of one model and subject, image by image, and where their figures go."""

    brain: Brain
    trials: Iterator[ImageTrials]
    folder: Path


def _trials(
    workspace: Workspace, selection: Selection, n_images: int, drawn: TrialDraws, progress: Progress
) -> _Trials:
    """Trials of test images, or those of the responses named."""
    if selection.responses is None:
        brain = selection.find_model(workspace, progress)
        try:
            recordings = Recordings.of(workspace, brain, progress.info)
        except MissingError as error:
            raise MissingError(
                f"{error}\nRecorded trials are of prepared subjects; for synthesized responses "
                "name their folder with --responses"
            ) from error
        trials = recorded_trials(recordings, selection.image, n_images, drawn)
        return _Trials(brain, trials, workspace.output_of(brain.name, "figures"))
    made = selection.find_responses(workspace, progress)
    brain = made.brain(workspace, progress.info)
    if made.settings.unit != "recorded":
        raise InputError(
            f"{made.folder}: in {brain.unit_name(made.settings.unit)}: expected responses in "
            "the unit of the data: synthesize without --unit z"
        )
    return _Trials(brain, response_trials(made, selection.image), made.folder / "figures")


def _counted(one: ImageTrials) -> str:
    """How many trials of each kind there are."""
    n_draws = f"{len(one.draws)} draws"
    return n_draws if one.recorded is None else f"{len(one.recorded)} recorded trials, {n_draws}"


# ------------------------------------------------------------------------------- accuracy


def accuracy(
    workspace: Workspace,
    selection: Selection,
    *,
    look: Look | None = None,
    output: Path | None = None,
    run: RunContext | None = None,
) -> PlotResult:
    """Plot the accuracy of each voxel against its noise ceiling, beside the baselines.

    Parameters are those of `draws`.

    Raises
    ------
    InputError, MissingError
        When the model has not been evaluated, or was trained again since.
    """
    look, run = look or Look(), run or RunContext()
    brain = selection.find_model(workspace, run.progress)
    evaluation = Evaluation.of(workspace, brain)
    default = evaluation.folder / "figures"
    file = (Path(output) if output else default) / f"{brain.name}_accuracy.{look.format}"
    with figure_style(look.style):
        figure = accuracy_figure(brain, evaluation)
    _save(figure, file, default, look)
    return PlotResult([file])


def _save(figure: Figure, file: Path, folder: Path, look: Look) -> None:
    """Write a figure; where it lies in the folder that its data are in, it goes when these do.

    Parameters
    ----------
    figure : Figure
    file : path
    folder : path
        ``figures/`` where the data are.
    look : Look
    """
    save_figure(figure, file, dpi=look.dpi)
    note_derived(folder.parent, file)
