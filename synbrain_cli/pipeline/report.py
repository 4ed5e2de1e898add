"""`synbrain plot report`: all there is to say of a model, in one HTML file to send."""

from __future__ import annotations

import itertools
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from synbrain_cli.brain import Brain
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.files import atomic, read_json, versions
from synbrain_cli.io.results.evaluation import ResponseScore
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.pipeline.maps import (
    BrainMap,
    Evaluation,
    Recordings,
    Responses,
    latest_responses,
    response_maps,
)
from synbrain_cli.pipeline.plot import (
    N_DRAWS,
    N_IMAGES,
    Look,
    MapPainter,
    accuracy_figure,
    rois_figure,
    synthesized,
)
from synbrain_cli.plotting.calibration import plot_calibration
from synbrain_cli.plotting.labels import drawn_rois, looks, note
from synbrain_cli.plotting.report import (
    Block,
    Command,
    Facts,
    Gallery,
    Live,
    Page,
    Picture,
    Section,
    Table,
    Text,
    figure_png,
    render,
    thumbnail,
)
from synbrain_cli.progress import Progress

MOST_LARGE = 4  # images whose flatmaps are drawn large; more share a sheet
MOST_IMAGES = 50  # of a sheet
_SCORES = {
    "voxelwise_correlation": "correlation over images, median voxel",
    "noise_normalised_r2": "r² / noise ceiling, median reliable voxel",
    "skill": "skill: 1 − squared error / that of the mean pattern",
    "pattern_correlation": "correlation over voxels, single trials",
    "two_way_identification": "two-way identification of the image",
    "rsa": "RSA (Spearman)",
    "cka": "CKA (linear)",
}
_DRAWS = {
    "coverage_50": "50 % intervals cover",
    "coverage_80": "80 % intervals cover",
    "coverage_90": "90 % intervals cover",
    "coverage_95": "95 % intervals cover",
    "coverage_90_region_means": "90 % intervals of region means cover",
    "crps": "CRPS (less is better)",
    "energy_score": "energy score (less is better)",
    "variance_ratio": "variance, of the recorded",
    "ncsnr_correlation": "reliability by voxel (ncsnr): r",
    "ncsnr_slope": "reliability by voxel (ncsnr): slope",
    "noise_correlation": "noise correlations: r",
}
_STRATEGIES = {
    "shared-core": "shared core of the source people",
    "source-map": "linear map from their models",
    "fine-tuning": "published recipe (fine-tuning)",
    "linear encoder": "linear encoder of the hours alone",
}


def report(
    workspace: Workspace,
    brain: Brain,
    *,
    responses: Responses | None = None,
    evaluation: Path | None = None,
    output: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write the report of a model: what was asked, what came, how far to trust it.

    Parameters
    ----------
    workspace : Workspace
    brain : Brain
    responses : Responses, optional
        Default the model's last ones, where there are any.
    evaluation : path, optional
        Folder written by evaluate; default ``outputs/<model>_evaluation``, where there is one.
    output : path, optional
        File; default ``outputs/<model>_report.html``.
    progress : Progress, optional

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        When the responses or the evaluation are another model's.
    """
    progress = progress or Progress()
    responses = responses or _latest(workspace, brain)
    if responses and responses.settings["model_fingerprint"] != brain.config.fingerprint:
        raise InputError(f"{responses.folder}: was not drawn by {brain.folder}")
    found = _evaluation(workspace, brain, evaluation)
    painter = Painter(brain, progress)
    sections = [Section("What was asked", "", _asked(brain, responses))]
    with progress.bar("report", 5) as bar:
        if responses:
            sections.append(_responses(brain, responses, painter))
        bar()
        sections.append(_recorded(workspace, brain, painter, progress))
        bar()
        if brain.config.training.adaptation:
            sections.append(_adaptation(brain, workspace))
        bar()
        if isinstance(found, Evaluation):
            sections += [_accuracy(brain, found, painter), _calibration(found)]
        else:
            sections.append(Section("How well does it predict?", found, _not_evaluated(brain)))
        bar()
        sections.append(_provenance(brain, responses, found))
        bar()
    config = brain.config
    page = Page(
        title=f"{brain.name}: responses of sub-{brain.subject}'s visual cortex",
        lead="What this person's visual cortex would do if shown these images, as a model expects "
        "it, with single trials drawn from the distribution that recorded trials follow.",
        warning="Simulated subject: nobody was scanned. The responses this model was trained and "
        "tested on are made up; no number here is a finding about a brain."
        if brain.simulated
        else None,
        sections=[section for section in sections if section.blocks],
        footer=f"synbrain {versions()['synbrain']} · model {config.fingerprint}",
    )
    file = Path(output) if output else workspace.outputs / f"{brain.name}_report.html"
    with atomic(file) as temporary:
        temporary.write_text(render(page), encoding="utf-8")
    return file


def _latest(workspace: Workspace, brain: Brain) -> Responses | None:
    """The model's last responses; none where it was trained again since."""
    try:
        made = Responses(latest_responses(workspace, brain.name, None))
    except MissingError:
        return None
    same = made.settings["model_fingerprint"] == brain.config.fingerprint
    return made if same else None


def _evaluation(workspace: Workspace, brain: Brain, folder: Path | None) -> Evaluation | str:
    """The evaluation, or why there is none."""
    if folder is not None:
        return Evaluation.read(folder, brain)
    try:
        return Evaluation.read(workspace.outputs / f"{brain.name}_evaluation", brain)
    except MissingError:
        return "This model has not been evaluated on test images."
    except InputError:
        return "The last evaluation is of another training of this model, and is not shown."


class Painter:
    """Pictures of maps with alternative texts that say where responses are largest.

    Parameters
    ----------
    brain : Brain
    progress : Progress

    Attributes
    ----------
    why_not : str, optional
        Why no map can be drawn.
    """

    def __init__(self, brain: Brain, progress: Progress) -> None:
        self.brain = brain
        self._masks = drawn_rois(brain)
        self._draw: MapPainter | None = None
        self.why_not: str | None = None
        try:
            self._draw = MapPainter(brain, "flatmap", Look(), progress)
        except InputError as error:
            self.why_not = str(error).removeprefix(f"{brain.folder}: ")

    @property
    def surface(self) -> bool:
        """Whether maps are flatmaps; else slices, or none."""
        return self._draw is not None and self._draw.kind == "flatmap"

    def picture(self, shown: BrainMap, caption: str, vmax: float | None = None) -> Picture:
        """A flatmap, or slices."""
        assert self._draw is not None, self.why_not
        kind = "Flatmap" if self.surface else "Slices"
        figure = self._draw(shown, vmax)
        return Picture(figure_png(figure), f"{kind}: {shown.title}. {self.words(shown)}", caption)

    def words(self, shown: BrainMap) -> str:
        """ROI means, largest first, for those who do not see the map."""
        means = {
            name: float(np.nanmean(shown.values[mask]))
            for name, mask in self._masks.items()
            if np.isfinite(shown.values[mask]).any()
        }
        ranked = sorted(means.items(), key=lambda item: -item[1])
        listed = ", ".join(f"{name} {value:.2f}".replace("-", "−") for name, value in ranked)
        return f"Means by region, in {shown.unit}: {listed}." if listed else ""


# ------------------------------------------------------------------------------- sections


def _asked(brain: Brain, responses: Responses | None) -> list[Block]:
    config, training = brain.config, brain.config.training
    facts = [("person", f"sub-{brain.subject} of {config.dataset}"), ("model", brain.name)]
    if training.origin:
        files = ", ".join(one.name for one in training.origin.files.values())
        facts.append(("imported from", f"{files}, as published"))
    else:
        n_trials, n_images = training.n_trials.total, training.n_images.total
        hours = training.hours
        n_sessions = len(training.sessions)
        scanned = f"{n_sessions} session{'s' if n_sessions > 1 else ''}"
        if hours:
            scanned = f"the first {hours:g} h"
        facts.append(("learned from", f"{scanned}: {n_trials:,} trials of {n_images:,} images"))
    if training.adaptation:
        sources = ", ".join(training.adaptation.sources)
        facts.append(("started from", f"{sources} ({training.adaptation.strategy})"))
    facts += [
        ("voxels", f"{brain.n_voxels:,} ({config.space})"),
        ("image encoder", config.encoder.spec),
    ]
    if responses:
        settings = responses.settings
        n_images = len(responses.names)
        facts += [
            ("images", f"{n_images}: {_listed(responses.names)}"),
            ("draws of each", f"{responses.n_draws} ({settings['sampling']})"),
            ("seed", str(settings["seed"])),
            ("unit", brain.unit_name(settings["unit"])),
        ]
    return [Facts(facts)]


def _listed(names: list[str], n: int = 12) -> str:
    more = f" and {len(names) - n} more" if len(names) > n else ""
    return ", ".join(names[:n]) + more


def _responses(brain: Brain, responses: Responses, painter: Painter) -> Section:
    n_images, n_draws = len(responses.names), responses.n_draws
    blocks: list[Block] = []
    pictures = [
        (name, responses.picture(k)) for k, name in enumerate(responses.names[:MOST_IMAGES])
    ]
    shown = [
        Picture(thumbnail(picture), f"Stimulus {name}", name)
        for name, picture in pictures
        if picture is not None
    ]
    if shown:
        blocks.append(Gallery(shown))
    if painter.why_not:
        blocks.append(Text(f"No maps: {painter.why_not}"))
    else:
        blocks += _maps(brain, responses, painter)
    if drawn_rois(brain) and responses.settings["unit"] == "recorded":
        blocks.append(
            Picture(
                figure_png(rois_figure(brain, synthesized(responses))),
                f"ROI means over {n_draws} draws of {n_images} images.",
                "Means of single-trial draws by region: where bars of two images overlap widely, "
                "one trial does not tell them apart.",
            )
        )
    intro = (
        f"{n_images} {'images' if n_images > 1 else 'image'}, {n_draws} single-trial "
        f"{'draws' if n_draws > 1 else 'draw'} of each."
    )
    return Section("Responses to the images", intro, blocks)


def _maps(brain: Brain, responses: Responses, painter: Painter) -> list[Block]:
    """Means of the first images, all on one sheet where there are more, and one deviation."""
    blocks: list[Block] = []
    limit = max(
        float(np.quantile(np.abs(one.values), 0.99))
        for one in response_maps(responses, brain, "mean")
    )
    n_large = MOST_LARGE
    if not painter.surface:
        blocks.append(
            Text(
                "Slices of this person's own volume are shown: the data came without transforms to "
                "the cortical surface of fsaverage."
            )
        )
    elif len(responses.names) > MOST_LARGE:
        blocks.append(_sheet(brain, responses, limit))
        n_large = 1
    first = None
    for one in itertools.islice(response_maps(responses, brain, "mean"), n_large):
        first = first or one
        blocks.append(
            painter.picture(
                one,
                "Expected response: mean over draws. Red is a response above the baseline of the "
                "recording, blue one below; cortex without data shows its folds. All means of this "
                "section share one colour scale.",
                limit,
            )
        )
    if responses.n_draws > 1:
        blocks.append(
            painter.picture(
                next(response_maps(responses, brain, "std")),
                "Spread of single trials: deviation over draws. It holds the noise of one "
                "trial, so that it is large where recordings are noisy, too.",
            )
        )
    if painter.surface and first is not None:
        blocks.append(_live(brain, first))
    return blocks


def _sheet(brain: Brain, responses: Responses, limit: float) -> Picture:
    from synbrain_cli.plotting.sheet import plot_sheet

    maps, names, images = [], [], []
    for k, one in enumerate(response_maps(responses, brain, "mean")):
        if k == MOST_IMAGES:
            break
        maps.append(brain.to_surface(one.values))
        names.append(responses.names[k])
        images.append(None if one.image is None else _small(one.image))
    rest = len(responses.names) - len(maps)
    shared = looks(brain) | {"unit": brain.unit_name(responses.settings["unit"])}
    figure = plot_sheet(
        maps, names, images=images, title=f"Mean of draws, {brain.name}", vmax=limit, **shared
    )
    return Picture(
        figure_png(figure, 100),
        f"Flatmaps of the mean response to {len(maps)} images: {_listed(names)}.",
        "Expected response to each image, on one colour scale."
        + (f" {rest} further images are not shown." if rest else ""),
    )


def _small(image: np.ndarray) -> np.ndarray:
    """Every n-th pixel: fifty photographs of many megapixels would not fit in memory."""
    step = max(1, min(image.shape[:2]) // 120)
    return np.ascontiguousarray(image[::step, ::step])


def _live(brain: Brain, shown: BrainMap) -> Live:
    from synbrain_cli.plotting.surface import view_surface

    html = view_surface(
        brain.to_surface(shown.values),
        title=shown.title,
        unit=shown.unit,
        symmetric=shown.symmetric,
        note=note(brain),
    )
    return Live(
        html,
        f"Rotatable surface: {shown.title}",
        "Drag to turn, scroll to zoom; the menu turns it without a mouse. The same response on the "
        "inflated surface of fsaverage.",
    )


def _recorded(workspace: Workspace, brain: Brain, painter: Painter, progress: Progress) -> Section:
    title = "Do draws look like recorded trials?"
    try:
        recordings = Recordings.of(workspace, brain, lambda text: None)
    except (MissingError, InputError) as error:
        return Section(title, "", [Text(f"Not shown: recorded trials are not at hand. {error}")])
    blocks: list[Block] = []
    if painter.surface:
        from synbrain_cli.plotting.draws import plot_draws

        one = next(recordings.trials(None, 1, N_DRAWS, 0, "shared"))
        figure = plot_draws(
            brain.to_surface(one.draws),
            brain.to_surface(one.recorded),
            title=f"{one.name}, {brain.name}",
            image=one.image,
            **looks(brain),
        )
        blocks.append(
            Picture(
                figure_png(figure, 100),
                f"Small flatmaps of {len(one.recorded)} recorded trials of {one.name} above, of "
                "draws below, with their means and deviations.",
                "Above, trials as recorded; below, as drawn. The model never saw this image. "
                "Single trials should differ among themselves in both rows alike; the two means "
                f"should agree as far as the recorded trials, {len(one.recorded)}, tell.",
            )
        )
    if drawn_rois(brain):
        figure = rois_figure(brain, recordings.trials(None, N_IMAGES, N_DRAWS, 0, "fresh"))
        blocks.append(
            Picture(
                figure_png(figure),
                f"ROI means of recorded trials over intervals of draws, {N_IMAGES} test images.",
                "Points are recorded trials, bars where draws fall. Nine points in ten should lie "
                "within the thin bars.",
            )
        )
    shown = "" if brain.simulated else " Pictures of recorded datasets may not be passed on."
    return Section(
        title,
        "Test images of this person, those shown most often: no other choice was made." + shown,
        blocks,
    )


def _adaptation(brain: Brain, workspace: Workspace) -> Section:
    adaptation = brain.config.training.adaptation
    rows = [
        [
            _STRATEGIES.get(name, name) + (" (chosen)" if name == adaptation.strategy else ""),
            f"{v:.3f}",
        ]
        for name, v in sorted(adaptation.strategies.items(), key=lambda item: -item[1])
    ]
    rows.append(["mean pattern of the hours", "0"])
    blocks: list[Block] = [
        Table(
            "Share of variance predicted in validation images of the hours",
            ["strategy", "share"],
            rows,
            "They chose the strategy, and are no test scores. The model stacks the strategy with "
            "the linear encoder.",
        )
    ]
    folder = workspace.outputs / f"sub-{brain.subject}_comparison"
    if (folder / "comparison.json").exists() and (folder / "comparison.png").exists():
        compared = read_json(folder / "comparison.json")
        fingerprints = compared["provenance"]["fingerprints"]
        if fingerprints.get(brain.name) == brain.config.fingerprint:
            blocks.append(
                Picture(
                    (folder / "comparison.png").read_bytes(),
                    "Scores of all models of this person on test images.",
                    "All models of this person on the same test images (synbrain compare), "
                    "with 95 % intervals over images.",
                )
            )
    sources = ", ".join(adaptation.sources)
    return Section("Adapted from other people", f"Sources: {sources}.", blocks)


def _not_evaluated(brain: Brain) -> list[Block]:
    if not brain.config.has_readout:
        return [
            Text(
                "These are the published networks alone. Nothing was fitted that tells signal from "
                "noise, so that draws cannot be judged; nobody has measured how well this copy "
                "predicts."
            )
        ]
    validation = brain.config.training.validation
    names = {"model": "model", "linear": "linear encoder", "deep": "deep", "transfer": "transfer"}
    return [
        Table(
            "Share of variance predicted in validation images",
            ["predictor", "share"],
            [[names[k], f"{validation[k]:.3f}"] for k in names if k in validation]
            + [["mean pattern", "0"]],
            "Validation images chose the weights: this is no test score.",
        ),
        Text("Scores of test images, and whether draws are calibrated, come from:"),
        Command(f"synbrain evaluate --model {shlex.quote(brain.name)}"),
    ]


def _accuracy(brain: Brain, evaluation: Evaluation, painter: Painter) -> Section:
    metrics = evaluation.metrics
    blocks: list[Block] = [
        _scores(
            f"Scores on {metrics.n_test_images:,} test images",
            {label: metrics.overall.get(score) for score, label in _SCORES.items()},
            "score",
        ),
        Picture(
            figure_png(accuracy_figure(brain, evaluation)),
            "Accuracy of each voxel against its noise ceiling, and by region.",
            "Each voxel's correlation with recorded responses to images the model never saw, "
            "against the most that noise allows. The mean pattern is the same for every image and "
            "explains none of the differences between them.",
        ),
    ]
    if not painter.why_not:
        for what in ("accuracy", "ceiling"):
            if evaluation.voxels["model" if what == "accuracy" else "ceiling"].notna().any():
                caption = {
                    "accuracy": "Correlation over test images, by voxel.",
                    "ceiling": "The most a perfect model could reach, given the noise of "
                    "recordings. The colour scale ends where that of the map above does.",
                }[what]
                shown = evaluation.map(what, brain)
                blocks.append(painter.picture(shown, caption, evaluation.limit))
    if metrics.roi:
        regions = {
            f"{name} ({scores.n_voxels:,} voxels)": scores.voxelwise_correlation
            for name, scores in metrics.roi.items()
        }
        caption = "Correlation over images, median voxel, by region"
        blocks.append(_scores(caption, regions, "region"))
    blocks += [Text(f"Note: {text}.") for text in metrics.notes]
    return Section(
        "How well does it predict?",
        "Beside every score stand what a constant reaches (the mean training pattern), the linear "
        "encoder of the same images, the model with images shuffled, and the noise ceiling.",
        blocks,
    )


def _scores(caption: str, scores: Mapping[str, ResponseScore | None], what: str) -> Table:
    columns = ("linear", "mean_pattern", "shuffled", "ceiling")
    rows = []
    for label, values in scores.items():
        if values is not None:
            low, high = values.ci
            interval = "" if low is None else f" ({_number(low)} to {_number(high)})"
            rows.append(
                [
                    label,
                    _number(values.model) + interval,
                    *(_number(values.get(c)) for c in columns),
                ]
            )
    return Table(
        caption,
        [what, "model (95 % CI)", "linear encoder", "mean pattern", "shuffled images", "ceiling"],
        rows,
    )


def _calibration(evaluation: Evaluation) -> Section:
    metrics = evaluation.metrics
    rows = []
    for score, label in _DRAWS.items():
        if (found := metrics.draws.get(score)) is not None:
            values = dict(found.items())
            best = values.get("nominal", values.get("ceiling", values.get("test_trials")))
            if best is None and score.startswith("coverage"):
                best = int(score.removeprefix("coverage_")) / 100
            rows.append(
                [
                    label,
                    *(
                        _number(values.get(k))
                        for k in ("model", "linear", "mean_pattern", "latent_nf1")
                    ),
                    _number(best),
                ]
            )
    figure = plot_calibration(metrics, evaluation.voxels)
    return Section(
        "Are the draws calibrated?",
        f"{metrics.n_draws} draws of each test image against its held-out single trials.",
        [
            Picture(
                figure_png(figure),
                "Ranks of recorded trials among draws, coverage of intervals, reliability and "
                "variance by voxel.",
                "Upper left: a recorded trial's rank among draws is uniform where draws are "
                "calibrated: a hump tells that they vary too much, raised ends too little. Upper "
                "right: intervals should hold the share of trials they claim (diagonal). Below: "
                "each voxel's reliability and variance, of draws against recordings.",
            ),
            Table(
                "Draws against held-out single trials",
                [
                    "score",
                    "draws",
                    "linear + normal",
                    "mean pattern + normal",
                    "latent",
                    "reference",
                ],
                rows,
                "Linear + normal, mean + normal: independent normal noise around the linear "
                "encoder and the mean pattern; latent: the published sampling.",
            ),
        ],
    )


def _number(value: float | None) -> str:
    if value is None or not np.isfinite(value):
        return "–"
    digits = 1 if abs(value) >= 100 else 2 if abs(value) >= 10 else 3
    return f"{round(value, digits) + 0:.{digits}f}".replace("-", "−")


def _provenance(brain: Brain, responses: Responses | None, evaluation: Evaluation | str) -> Section:
    config, training = brain.config, brain.config.training
    identity = config.encoder.identity
    facts = [
        ("model", f"{brain.name}, fingerprint {config.fingerprint}"),
        ("image encoder", ", ".join(f"{k} {v}" for k, v in identity.items() if v is not None)),
        ("recorded unit", brain.unit),
        ("standardisation", config.standardization),
        ("trained by", _versions(training.versions)),
        ("reported by", _versions(versions())),
    ]
    if training.seed is not None:
        facts.insert(1, ("trained with seed", str(training.seed)))
    commands: list[Block] = []
    if responses:
        settings = responses.settings
        for image in settings["images"]:
            facts.append((f"image {image['name']}", f"SHA-256 {image['sha256']}"))
        options = ["--model", brain.name, "--samples", str(settings["n_draws"])]
        options += ["--seed", str(settings["seed"])]
        for option, default in (
            ("sampling", "calibrated"),
            ("signal", "shared"),
            ("unit", "recorded"),
        ):
            if settings[option] != default:
                options += [f"--{option}", settings[option]]
        if settings["noise_factor"] is not None:
            options += ["--noise-factor", str(settings["noise_factor"])]
        commands.append(
            Command(shlex.join(["synbrain", "synthesize", _folder(settings), *options]))
        )
    if isinstance(evaluation, Evaluation):
        made = evaluation.metrics
        options = ["--draws", str(made.n_draws), "--seed", str(made.provenance.seed)]
        facts.append(("evaluated with seed", str(made.provenance.seed)))
        commands.append(
            Command(shlex.join(["synbrain", "evaluate", "--model", brain.name, *options]))
        )
    commands.append(Command(shlex.join(["synbrain", "plot", "report", "--model", brain.name])))
    return Section(
        "Where this comes from",
        "The same commands with the same versions give the same numbers, to the last digit on the "
        "same machine.",
        [Facts(facts), Text("To repeat:"), *commands],
    )


def _versions(found: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in found.items())


def _folder(settings: dict[str, Any]) -> str:
    """What was synthesized, by the name of its folder: whole paths are nobody else's business."""
    sources = [Path(image["source"]) for image in settings["images"] if image["source"]]
    if len(sources) == 1:
        return sources[0].name
    try:
        return Path(os.path.commonpath(sources)).name or "images"
    except ValueError:
        return "images"
