"""`synbrain plot flatmap`: responses and accuracy on the cortical surface."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from synbrain_cli.brain import Brain, load_model
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.features.images import read_image
from synbrain_cli.io.files import read_json
from synbrain_cli.io.prepared import roi_collections, roi_masks
from synbrain_cli.pipeline.progress import Report
from synbrain_cli.pipeline.synthesize import unit_name
from synbrain_cli.pipeline.workspace import Workspace, subject_label
from synbrain_cli.plotting.figure import save_figure
from synbrain_cli.plotting.flatmap import plot_flatmap

RESPONSE_MAPS = ("mean", "std", "draw")
ACCURACY_MAPS = ("accuracy", "ceiling")
FORMATS = ("png", "svg", "pdf")


@dataclass(frozen=True)
class PlotResult:
    """Files written."""

    files: list[Path]


def flatmap(
    workspace: Workspace,
    *,
    what: str = "mean",
    model: str | None = None,
    subject: str | None = None,
    responses: Path | None = None,
    image: str | None = None,
    draw: int = 0,
    threshold: float | None = None,
    vmax: float | None = None,
    output: Path | None = None,
    format: str = "png",
    dpi: int = 200,
    report: Report | None = None,
) -> PlotResult:
    """Draw flatmaps of the last responses, or of a model's accuracy: see the two below."""
    report = report or Report()
    if format not in FORMATS:
        raise InputError(f"--format {format}: expected one of {', '.join(FORMATS)}")
    looks = {
        "threshold": threshold,
        "vmax": vmax,
        "output": output,
        "format": format,
        "dpi": dpi,
    }
    if what in ACCURACY_MAPS:
        if image is not None or responses is not None:
            raise InputError(f"--what {what} is a map of the model: it takes no image or responses")
        brain = load_model(workspace.find_model(model, subject, report.say), "cpu")
        return plot_accuracy(workspace, brain, what=what, **looks)
    if what not in RESPONSE_MAPS:
        raise InputError(
            f"--what {what}: expected one of {', '.join(RESPONSE_MAPS + ACCURACY_MAPS)}"
        )
    if responses is not None and (model is not None or subject is not None):
        raise InputError("--responses says whose they are: leave out --model and --subject")
    if responses is None:
        responses = latest_responses(workspace, model, subject)
        report.say(f"responses: {responses}")
    elif not (responses / "settings.json").exists():
        raise MissingError(f"{responses}: expected a folder that `synbrain synthesize` wrote")
    return plot_responses(
        workspace, responses, what=what, image=image, draw=draw, report=report, **looks
    )


def plot_responses(
    workspace: Workspace,
    responses: Path,
    *,
    what: str = "mean",
    image: str | None = None,
    draw: int = 0,
    threshold: float | None = None,
    vmax: float | None = None,
    output: Path | None = None,
    format: str = "png",
    dpi: int = 200,
    report: Report | None = None,
) -> PlotResult:
    """Draw flatmaps of synthesized responses.

    Parameters
    ----------
    workspace : Workspace
    responses : path
        Folder written by `synbrain_cli.pipeline.synthesize.synthesize`.
    what : {"mean", "std", "draw"}
        Mean over draws, deviation over draws, or one draw.
    image : str, optional
        Name of one image; default: all, on one colour scale.
    draw : int
        Which, for "draw".
    threshold, vmax : float, optional
        Limits of the colours, in the responses' unit.
    output : path, optional
        Folder; default ``figures/`` in ``responses``.
    format, dpi
        png, svg or pdf.
    """
    report = report or Report()
    settings = read_json(responses / "settings.json")
    bundle = Path(settings["model_folder"])
    if not bundle.exists():  # the workspace was moved since
        bundle = workspace.find_model(settings["model"], None, report.say)
    brain = load_model(bundle, "cpu")
    if brain.config["fingerprint"] != settings["model_fingerprint"]:
        raise InputError(
            f"{responses} was made by another training of {brain.name}: run synthesize again"
        )
    table = pd.read_csv(responses / "images.tsv", sep="\t")
    names = table["image"].astype(str).tolist()
    if image is not None:
        stem = Path(image).stem if image not in names else image
        if stem not in names:
            raise MissingError(f"{responses}: no image {image}; there are {', '.join(names)}")
        names = [stem]
    rows = [table["image"].astype(str).tolist().index(name) for name in names]
    draws = np.load(next(responses.glob("*_desc-draws_betas.npy")), mmap_mode="r")
    if what == "std" and draws.shape[1] < 2:
        raise InputError(f"{responses} holds one draw an image: a deviation needs --samples 2")
    if what == "draw" and not 0 <= draw < draws.shape[1]:
        raise InputError(f"{responses} holds {draws.shape[1]} draws: --draw {draw} is not there")

    def values(row: int) -> np.ndarray:
        one = np.asarray(draws[row])
        if what == "draw":
            return one[draw]
        return one.mean(0) if what == "mean" else one.std(0, ddof=1)

    if vmax is None:  # one scale for all of them
        vmax = max(float(np.quantile(np.abs(values(row)), 0.99)) for row in rows)
    titles = {
        "mean": f"mean of {draws.shape[1]} draws" if draws.shape[1] > 1 else "response",
        "std": f"deviation over {draws.shape[1]} draws",
        "draw": f"draw {draw}",
    }
    folder = Path(output) if output else responses / "figures"
    files = []
    with report.bar("flatmaps", len(rows)) as bar:
        for row, name in zip(rows, names, strict=True):
            source = Path(table["source"][row])
            figure = plot_flatmap(
                brain.to_surface(values(row)),
                title=f"{name}: {titles[what]}, {brain.name}",
                unit=unit_name(brain, settings["unit"]),
                rois=surface_rois(brain),
                threshold=threshold,
                vmax=vmax,
                symmetric=what != "std",
                image=read_image(source) if source.exists() else None,
                note=_note(brain),
            )
            suffix = f"draw-{draw}" if what == "draw" else f"stat-{what}"
            files.append(folder / f"sub-{brain.subject}_stim-{name}_{suffix}_flatmap.{format}")
            save_figure(figure, files[-1], dpi=dpi)
            bar()
    return PlotResult(files)


def plot_accuracy(
    workspace: Workspace,
    brain: Brain,
    *,
    what: str = "accuracy",
    threshold: float | None = None,
    vmax: float | None = None,
    output: Path | None = None,
    format: str = "png",
    dpi: int = 200,
) -> PlotResult:
    """Draw a flatmap of voxelwise test accuracy, or of its ceiling, from the last evaluation."""
    folder = workspace.outputs / f"{brain.name}_evaluation"
    if not (folder / "voxels.tsv").exists():
        raise MissingError(f"{folder} does not exist: run `synbrain evaluate --model {brain.name}`")
    table = pd.read_csv(folder / "voxels.tsv", sep="\t")
    column = {"accuracy": "model", "ceiling": "ceiling"}[what]
    title = {"accuracy": "prediction of test images", "ceiling": "noise ceiling"}[what]
    if not table[column].notna().any():
        raise InputError(
            f"{folder / 'voxels.tsv'}: the {what} is not known: no image was shown twice, and the "
            "data came without ncsnr"
        )
    if vmax is None:  # by the ceiling where there is one, so that maps can be compared with it
        limit = table["ceiling"] if table["ceiling"].notna().any() else table[column].abs()
        vmax = float(np.nanquantile(limit, 0.99))
    figure = plot_flatmap(
        brain.to_surface(table[column].to_numpy(np.float32)),
        title=f"{title}, {brain.name}",
        unit="correlation over images (r)",
        rois=surface_rois(brain),
        threshold=threshold,
        vmax=vmax,
        symmetric=what == "accuracy",
        note=_note(brain),
    )
    file = (
        Path(output) if output else folder / "figures"
    ) / f"{brain.name}_{what}_flatmap.{format}"
    save_figure(figure, file, dpi=dpi)
    return PlotResult([file])


def latest_responses(workspace: Workspace, model: str | None, subject: str | None) -> Path:
    """The folder of responses written last, of a model or subject where one is named.

    Raises
    ------
    MissingError
    """
    found = sorted(workspace.outputs.glob("[!.]*/settings.json"), key=lambda p: p.stat().st_mtime)
    folders = [p.parent for p in found if read_json(p).get("images") is not None]
    if model is not None:
        folders = [f for f in folders if read_json(f / "settings.json")["model"] == model]
    if subject is not None:
        prefix = f"sub-{subject_label(subject)}_"
        folders = [f for f in folders if list(f.glob(f"{prefix}desc-draws_betas.npy"))]
    if not folders:
        raise MissingError(
            f"{workspace.outputs}: no synthesized responses"
            f"{f' of {model}' if model else ''}{f' of subject {subject}' if subject else ''}: "
            "run `synbrain synthesize examples/images` first"
        )
    return folders[-1]


def surface_rois(brain: Brain) -> dict[str, dict[str, np.ndarray]]:
    """ROIs on fsaverage5 for outlines: {"left": {name: bool (10242,)}, "right": …}.

    The visual areas and category-selective areas where the subject has them, else every ROI of
    the first collection: collections overlap, and outlines of all would hide the map.
    """
    collections = roi_collections(brain.voxels)
    drawn = [c for c in collections if c == "prf-visualrois" or c.startswith("floc-")]
    chosen = roi_masks(brain.voxels, drawn or collections[:1])
    outlines: dict[str, dict[str, np.ndarray]] = {"left": {}, "right": {}}
    for name, mask in chosen.items():
        for hemisphere, share in brain.to_surface(mask.astype(np.float32)).items():
            inside = np.nan_to_num(share) >= 0.5
            if inside.any():
                outlines[hemisphere][name] = inside
    return outlines


def _note(brain: Brain) -> str | None:
    return "simulated subject" if brain.simulated else None
