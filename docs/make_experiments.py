"""Make the pictures and the table of retinotopy of docs/experiments.md from the demo's models.

Run as ``.venv/bin/python docs/make_experiments.py [WORKSPACE]`` after ``make demo``, ``synbrain
adapt --hours 1`` and ``synbrain localize prf --subject 1``; WORKSPACE is where these were run, by
default the current folder. The subjects are simulated: fields are compared with the true ones.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from synbrain_cli import fit_prf, load_model, select
from synbrain_cli.datasets.nsd_design import image_id
from synbrain_cli.datasets.nsd_files import STIMULI
from synbrain_cli.experiments.selection_aims import SelectionSettings
from synbrain_cli.experiments.selection_guard import TrainingData
from synbrain_cli.features.images import ImageSet
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.plotting.figure import save_figure
from synbrain_cli.plotting.report.page import small_png

PAGE = Path(__file__).with_name("experiments.md")
FOLDER = PAGE.with_suffix("")
WIDTH = 1000  # pixels
PICTURES = ("angle", "eccentricity")
SCREENED = "FFA-1"
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
        keep_small(workspace / f"outputs/sub-01_prf/sub-01_stat-{name}_flatmap.png", name)
    screening(workspace)
    rows = "".join(row(workspace, name, title) for name, title in MODELS.items())
    text, n = re.subn(
        r"(?s)(<!-- retinotopy -->\n).*?(<!-- end of retinotopy -->)",
        lambda found: found[1] + HEAD + rows + found[2],
        PAGE.read_text("utf-8"),
    )
    if n != 1:
        raise SystemExit(f"{PAGE}: expected one table of retinotopy, found {n}")
    PAGE.write_text(text, "utf-8")


def keep_small(file: Path, name: str) -> None:
    """Write a picture of the page, of fewer pixels and colours than the file has."""
    with Image.open(file) as picture:
        shown = picture.convert("RGB")
    shown.thumbnail((WIDTH, 10 * WIDTH))
    (FOLDER / f"{name}.png").write_bytes(small_png(shown))


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
        keep_small(sheet, "screening")


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
