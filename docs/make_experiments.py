"""Make the pictures and the tables of docs/experiments.md from the demo's models.

Run as ``.venv/bin/python docs/make_experiments.py [WORKSPACE]`` after ``make demo``, ``synbrain
adapt --hours 1``, ``synbrain localize prf --subject 1``, the training of a model with random
weights (see the page) and ``python benchmarks/experiments.py WORKSPACE``; WORKSPACE is where these
were run, by default the current folder. The subjects are simulated: fields are compared with the
true ones.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

from synbrain_cli import fit_prf, load_model, select
from synbrain_cli.datasets.nsd_design import image_id
from synbrain_cli.datasets.nsd_files import STIMULI
from synbrain_cli.experiments.conditions import read_conditions
from synbrain_cli.experiments.power import Experiment
from synbrain_cli.experiments.selection_aims import SelectionSettings
from synbrain_cli.experiments.selection_guard import TrainingData
from synbrain_cli.features.images import ImageSet
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.pipeline.contrast import Plan, contrast_conditions
from synbrain_cli.plotting.figure import save_figure
from synbrain_cli.plotting.report.page import small_png

PAGE = Path(__file__).with_name("experiments.md")
FOLDER = PAGE.with_suffix("")
WIDTH = 1000  # pixels
PICTURES = ("angle", "eccentricity")
SCREENED = "FFA-1"
RESULTS = Path(__file__).parents[1] / "benchmarks/results"
# Photographs of the simulation, by their number, of which test images are views
CONDITIONS = {"face": (0,), "texture": (6, 7, 8)}
MODELS = {
    "sub-01": "subject 1",
    "sub-02": "subject 2",
    "sub-03_hours-1": "subject 3, from one hour",
}
AREAS = ("V1", "V2", "V3", "hV4")
HEAD = """| | voxels | angle error, median | eccentricity, r | size (true SD): V1, V2, V3, hV4 |
|---|---|---|---|---|
"""


def main(workspace: Path) -> None:
    """Write pictures and table."""
    FOLDER.mkdir(exist_ok=True)
    for name in PICTURES:
        keep(workspace / f"outputs/sub-01_prf/sub-01_stat-{name}_flatmap.png", name)
    folder = contrast(workspace)
    keep(folder / "sub-01_contrast-faceMinustexture_stat-significant_flatmap.png", "contrast")
    for name in ("effects", "power"):
        keep(folder / f"{name}.png", name)
    screening(workspace)
    rows = "".join(row(workspace, name, title) for name, title in MODELS.items())
    fill("retinotopy", HEAD + rows)
    newest = sorted(RESULTS.glob("*_experiments_sub-01.json"))[-1]
    fill("experiments", held(json.loads(newest.read_text())))


def keep(file: Path, name: str) -> None:
    """Keep a picture for the page."""
    with Image.open(file) as picture:
        shown = picture.convert("RGB")
    shown.thumbnail((WIDTH, 10 * WIDTH))
    (FOLDER / f"{name}.png").write_bytes(small_png(shown))


def fill(name: str, table: str) -> None:
    """Write a table between its two marks in the page."""
    text, n = re.subn(
        rf"(?s)(<!-- {name} -->\n).*?(<!-- end of {name} -->)",
        lambda found: found[1] + table + found[2],
        PAGE.read_text("utf-8"),
    )
    if n != 1:
        raise SystemExit(f"{PAGE}: expected one table of {name}, found {n}")
    PAGE.write_text(text, "utf-8")


def screening(workspace: Path) -> None:
    """Select among the test images of subject 1, and keep the contact sheet."""
    brain = load_model(workspace / "weights/sub-01", "cpu")
    names = PreparedSubject(workspace / "prepared/simulated/sub-01").select("test").images.tolist()
    with h5py.File(workspace / "simulated" / STIMULI) as file:
        pixels = file["imgBrick"][sorted(map(image_id, names))]
    data = TrainingData.find(Workspace(workspace), brain)
    settings = SelectionSettings(drive=SCREENED, top=5)
    found = select(brain, ImageSet.of(pixels, names), settings, data=data)
    with tempfile.TemporaryDirectory() as folder:
        sheet = Path(folder) / "sheet.png"
        save_figure(found.plot(), sheet, dpi=100)
        keep(sheet, "screening")


def contrast(root: Path) -> Path:
    """Contrast views of photographs among the test images of subject 1; return the folder."""
    workspace = Workspace(root)
    subject = workspace.find_subject("01", "simulated", print)
    images = np.array([image_id(name) for name in subject.select("test").images])
    with np.load(root / "simulated/truth/views.npz") as file:
        photograph = file["photograph"][images]
    (stimuli,) = (root / "simulated/nsddata_stimuli").rglob("*.hdf5")
    with h5py.File(stimuli) as file:
        for name, numbers in CONDITIONS.items():
            folder = root / "conditions" / name
            folder.mkdir(parents=True, exist_ok=True)
            for image in images[np.isin(photograph, numbers)]:
                picture = Image.fromarray(file["imgBrick"][int(image)])
                picture.save(folder / f"view-{image:04d}.png")
    first, second = read_conditions([root / "conditions" / name for name in CONDITIONS])
    brain = load_model(root / "weights/sub-01", "cpu")
    plan = Plan((first, second), experiment=Experiment(trials=20))
    return contrast_conditions(workspace, brain, plan).folder


def held(found: dict[str, Any]) -> str:
    """Say how far standard errors, maps and power hold."""
    mean = found["mean"]
    out, grouped = found["mean, photographs left out"], found["mean, groups left out"]
    null, power = found["a condition with itself"], found["power"]
    low, high = null["interval"]
    widths = ", ".join(f"{one:.2f}" for one in mean["quarters"]["width"])
    errors = ", ".join(f"{one:.2f}" for one in mean["quarters"]["error"])
    lines = [
        "| what | held to | found |",
        "|---|---|---|",
        f"| 90 % intervals of the true mean of single images (`stat-sem`) | .90 | "
        f"{_short(mean['covered_90'])} |",
        f"| – width of quarters of images, from the surest, relative to the mean: {widths} | as "
        f"wide as the errors | errors {errors} |",
        "| – of views of photographs that a linear encoder was not fitted to, each left out once, "
        f"in divisions | .90 | {_short(out['covered_90'])} ("
        f"{', '.join(map(_short, out['divisions']))}) |",
        "| – the same, where the fit knew which views were of one photograph (column `group`) | "
        f".90 | {_short(grouped['covered_90'])} ({', '.join(map(_short, grouped['divisions']))}) |",
    ]
    for name, one in found["contrasts"].items():
        lines.append(
            f"| 90 % intervals of true differences by `se_model`, {name} | .90 | voxels "
            f"{_short(one['voxels'])}, regions {_short(one['regions'])}; voxels, if errors of "
            f"images were independent, {_short(one['errors independent'])} |"
        )
    lines += [
        f"| maps with a significant voxel where both conditions are images at random, of "
        f"{null['maps']} | .05 at most | {_short(null['wrong'] / null['maps'])} "
        f"({_short(low)}–{_short(high)}) |",
        "| trials for 80 % power, predicted, as a multiple of the true number, median of "
        f"{len(power['rows'])} contrasts and regions | 1 | {power['median ratio to true']:.2f}; "
        f"within 20 %: {power['within 20 % of true']:.0%}; true number within the interval: "
        f"{power['true number within the interval']:.0%} |",
        "| – of the number by resampling the recorded test trials | 1 | "
        f"{power['median ratio to resampled']:.2f}; within 20 %: "
        f"{power['within 20 % of resampled']:.0%} (the true number: "
        f"{power['true number within 20 % of resampled']:.0%}) |",
    ]
    return "\n".join(lines) + "\n"


def _short(value: float) -> str:
    return f"{value:.2f}".lstrip("0") if value < 1 else "1.00"


def row(workspace: Path, name: str, title: str) -> str:
    """Compare the receptive fields of a model with those of the simulation."""
    found = fit_prf(load_model(workspace / "weights" / name, "cpu"))
    with np.load(workspace / f"simulated/truth/subj{found.brain.subject}.npz") as file:
        field = file["field"] * found.settings.degrees / 2
        area = np.array([label.rstrip("vd") for label in file["area"]])
    own, true = found.visual, np.hypot(field[:, 0], field[:, 1])
    reliable = found.brain.voxels["ncsnr"].to_numpy(float) > 0.2
    near = (true < found.settings.degrees / 2) & reliable
    early = near & np.isin(area, AREAS[:3])
    angle = np.rad2deg(np.arctan2(field[:, 1], field[:, 0]))
    away = np.abs((own.angle - angle + 180) % 360 - 180)[early]
    r = np.corrcoef(own.eccentricity[early], true[early])[0, 1]
    sizes = ", ".join(
        f"{np.median(own.size[near & (area == one)]):.2f}° "
        f"({np.median(field[near & (area == one), 2]):.2f}°)"
        for one in AREAS
    )
    r_text = f"{r:.2f}".lstrip("0")
    return f"| {title} | {early.sum()} | {np.median(away):.1f}° | {r_text} | {sizes} |\n"


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path())
