"""Pictures of the main figures, compared with those in ``baseline/``.

The other tests read numbers back from the figure objects; this one sees what only a picture shows:
a panel out of place, text over data, a hemisphere flipped, other colours. To add a figure, add a
line to ``FIGURES``. After a change that is wanted, look at the new pictures and write them anew:

    python tests/plotting/test_baselines.py             # all of them
    python tests/plotting/test_baselines.py rois        # some
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from by_name import coloured, labelled
from evaluation_record import evaluation_record
from matplotlib.testing.compare import compare_images
from nilearn.datasets import load_fsaverage
from PIL import Image, ImageFilter

from synbrain_cli.io.results.comparison import ComparedRow, Comparison, Estimate
from synbrain_cli.io.results.record import ModelsProvenance, Repeats
from synbrain_cli.metrics.learning_curve import fit_learning_curve
from synbrain_cli.plotting.accuracy import plot_accuracy
from synbrain_cli.plotting.calibration import plot_calibration
from synbrain_cli.plotting.comparison import plot_comparison
from synbrain_cli.plotting.figure import save_figure
from synbrain_cli.plotting.flatmap import plot_flatmap
from synbrain_cli.plotting.image_sheet import plot_sheet
from synbrain_cli.plotting.labels import Labels
from synbrain_cli.plotting.learning_curve import Curve, Levels, plot_learning_curve
from synbrain_cli.plotting.roi_intervals import plot_rois
from synbrain_cli.plotting.surface import plot_surface
from synbrain_cli.plotting.trial_flatmaps import plot_draws

FOLDER = Path(__file__).with_name("baseline")
DPI, OVERSAMPLING = 45, 4  # at 45 dpi alone, the widths of letters differ between releases
BLUR = 3  # SD of the blur in pixels, so that a line half a pixel further counts for little
# Root mean square over pixels, of 255. Matplotlib 3.9 and 3.10 differ from 3.11 by up to 2.6, two
# patch releases of 3.11 by 0; a panel moved by 3 % of the width by 4.6 or more, another colour map
# by 18, hemispheres swapped by 62.
TOLERANCE = 3.5
N_COLOURS = 128
MOST_BYTES = 60_000


# Figures of made-up numbers: no random ones, which a later numpy might draw otherwise -------------


def wave(*shape, period=7.3):
    """Numbers between −1 and 1 that look irregular."""
    steps = np.arange(np.prod(shape)).reshape(shape)
    return np.sin(steps * period) * np.cos(steps / period)


def maps(swapped=False):
    """A smooth map of the cortex that is not the same on both sides."""
    meshes = load_fsaverage("fsaverage5")["pial"].parts
    found = {}
    for hemisphere in ("left", "right"):
        x, y, z = np.asarray(meshes[hemisphere].coordinates).T  # mm
        found[hemisphere] = np.sin(x / 40 + y / 30) + np.cos(z / 25)
    return dict(zip(found, reversed(found.values()), strict=True)) if swapped else found


def flatmap(**options):
    given = {"title": "made-up responses", "unit": "percent signal change", "vmax": 2}
    return coloured(plot_flatmap)(**({"maps": maps()} | given | options))


def outlines():
    """Two made-up regions a side, by their distance from a point on the folded cortex."""
    meshes = load_fsaverage("fsaverage5")["pial"].parts
    found = {}
    for hemisphere, sign in (("left", -1), ("right", 1)):
        xyz = np.asarray(meshes[hemisphere].coordinates)
        found[hemisphere] = {
            name: np.linalg.norm(xyz - [sign * at[0], *at[1:]], axis=1) < 18
            for name, at in (("V1", (10, -95, 0)), ("PPA", (28, -50, -10)))
        }
    return found


def flatmap_with_everything():
    return flatmap(
        rois=outlines(),
        threshold=0.4,
        stimulus=np.uint8(np.indices((60, 90, 3)).sum(0) * 1.6),
        note="simulated subject",
    )


def trials(n, amplitude):
    return {h: v + amplitude * wave(n, 1, period=2.9) for h, v in maps().items()}


def draws():
    return labelled(plot_draws)(
        trials(8, 0.7),
        maps(),
        recorded=trials(3, 0.5),
        title="made-up trials",
        unit="percent signal change",
        rois=outlines(),
        note="simulated subject",
    )


def sheet():
    images = [maps(), maps(swapped=True)] * 3 + [maps()]
    names = [f"image {k + 1}" for k in range(len(images))]
    return labelled(plot_sheet)(
        images, names, title="made-up responses", unit="percent signal change"
    )


def surface():
    return labelled(plot_surface)(maps(), title="made-up responses", unit="percent signal change")


def rois(n_images, n_draws):
    names = ["V1", "V2", "V3", "hV4", "FFA-1", "PPA"]
    mean = 2 * np.sin(np.arange(n_images)[:, None, None] + np.arange(6) / 2)
    recorded = mean + 0.5 * wave(n_images, 3, 6, period=2.1)
    title, note = "made-up responses of six regions", "simulated subject"
    return plot_rois(
        mean + wave(n_images, n_draws, 6),
        mean[:, 0],
        Labels(title, "percent signal change", note=note),
        rois=names,
        images=[f"image {k + 1}" for k in range(n_images)],
        recorded=[None, *recorded[1:]],
    )


def scores(value):
    return {
        "model": value,
        "ci": [value - 0.05, value + 0.04],
        "linear": value - 0.06,
        "mean_pattern": 0.0,
        "shuffled": -0.01,
        "ceiling": value + 0.2,
    }


def accuracy(n_voxels):
    ceiling = np.sqrt((np.arange(n_voxels) + 0.5) / n_voxels)
    model = 0.7 * ceiling + 0.15 * wave(n_voxels)
    linear = 0.6 * ceiling + 0.15 * wave(n_voxels, period=3.1)
    names = ("EBA", "V3", "V1", "hV4", "V2")
    roi = {
        name: {"n_voxels": 100 + k, "voxelwise_correlation": scores(0.3 + 0.04 * k)}
        for k, name in enumerate(names)
    }
    metrics = {
        "simulated": True,
        "n_test_images": 200,
        "n_voxels": n_voxels,
        "repeats_per_image": {"min": 3, "max": 3},
        "overall": {"voxelwise_correlation": scores(0.45)},
        "roi": roi,
    }
    voxels = pd.DataFrame({"model": model, "linear": linear, "ceiling": ceiling})
    return plot_accuracy(voxels, metrics=evaluation_record(metrics), title="made-up accuracy")


def calibration():
    names = ("model", "linear", "mean_pattern", "latent_nf1", "latent_best")
    draws = {
        f"coverage_{level}": {
            **{name: level / 100 - 0.04 * k for k, name in enumerate(names)},
            "roi": {"V1": level / 100 - 0.03, "V2": level / 100 - 0.1},
        }
        for level in (50, 80, 90, 95)
    }
    rank = np.linspace(-1, 1, 20)
    draws["pit_histogram"] = {
        name: list(np.maximum(1 + k * (rank**2 - 0.37), 0))
        for k, name in enumerate((*names, "shuffled"))
    }
    for score in ("variance_ratio", "variance_ratio_median_voxel"):
        draws[score] = {name: 0.95 - 0.15 * k for k, name in enumerate(names)}
    for score, value in (("correlation", 0.9), ("slope", 0.8), ("median_ratio", 0.85)):
        draws[f"ncsnr_{score}"] = {"model": value}
    ncsnr = np.linspace(0.05, 1, 300)
    voxels = pd.DataFrame(
        {
            "ncsnr": ncsnr,
            "ncsnr_of_draws": 0.8 * ncsnr + 0.05 * wave(300),
            "variance_ratio": 0.95 + 0.3 * wave(300),
        }
    )
    metrics = {"model": "made-up", "simulated": True, "n_test_trials": 600, "n_test_images": 200}
    return plot_calibration(evaluation_record(metrics, draws=draws), voxels)


def learning_curve():
    amounts = np.array([1.0, 2, 5, 10, 40])
    curves = {}
    for number, name in enumerate(("SynBrain", "linear encoder")):
        values = 0.2 + 0.15 * np.log10(amounts) + 0.03 * np.arange(3)[:, None] - 0.05 * number
        values = values + 0.01 * wave(3, 5)
        mean = values.mean(0)
        curves[name] = Curve(
            amounts,
            values,
            ci=np.stack([mean - 0.03, mean + 0.03], axis=1),
            fit=fit_learning_curve(amounts, values),
            subjects=["sub-01", "sub-02", "sub-03"],
        )
    return plot_learning_curve(
        curves,
        ylabel="correlation over test images",
        levels=Levels(ceiling=0.6, references={"mean pattern": 0.0}, target=0.5),
        title="made-up growth of a score",
        simulated=True,
    )


def comparison():
    kinds = ("mean_pattern", "linear", "model", "model", "shuffled")
    names = ("mean pattern", "linear encoder", "sub-03_hours-1", "sub-03", "images shuffled")
    unscored = ("voxelwise_correlation", "skill", "coverage_90", "difference_to_reference")
    unscored += ("ratio_to_reference", "share_of_full", "ratio_to_linear")
    rows = []
    for k, (name, kind) in enumerate(zip(names, kinds, strict=True)):
        value = [0.0, 0.6, 0.65, 0.8, 0.01][k]
        rows.append(
            ComparedRow(
                row=name,
                kind=kind,
                models=[],
                training=None,
                noise_normalised_correlation=Estimate(value=value, ci=(value - 0.05, value + 0.04)),
                **dict.fromkeys(unscored),
                roi={},
            )
        )
    return plot_comparison(
        Comparison(
            subject="made-up/sub-03",
            simulated=True,
            models=["sub-03_hours-1", "sub-03"],
            reference="sub-03",
            reference_has_all_data=True,
            compared_by="noise_normalised_correlation",
            n_test_images=200,
            n_test_trials=600,
            repeats_per_image=Repeats(min=3, max=3),
            averaged_over=1,
            n_voxels=700,
            n_reliable_voxels=600,
            n_draws=0,
            units={},
            rows=rows,
            roi={},
            notes=[],
            provenance=ModelsProvenance(fingerprints={}, data="", seed=0, n_boot=0, versions={}),
        )
    )


FIGURES = {
    "flatmap": flatmap_with_everything,
    "draws": draws,
    "sheet": sheet,
    "surface": surface,
    "rois": lambda: rois(n_images=4, n_draws=40),
    "rois_many_images": lambda: rois(n_images=20, n_draws=8),
    "accuracy": lambda: accuracy(n_voxels=700),
    "accuracy_many_voxels": lambda: accuracy(n_voxels=3000),
    "calibration": calibration,
    "learning_curve": learning_curve,
    "comparison": comparison,
}


# Tests --------------------------------------------------------------------------------------------


def draw(figure, path):
    """Write a small picture, whose size does not depend on how matplotlib rounds."""
    save_figure(figure, path, dpi=DPI * OVERSAMPLING)
    width, height = np.round(DPI * figure.get_size_inches()).astype(int)
    with Image.open(path) as large:
        small = large.convert("RGB").resize((width, height), Image.Resampling.BOX)
    small.quantize(N_COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


def difference(expected, figure, folder):
    """What differs from a picture by more than the tolerance, or None."""
    draw(figure, folder / "found.png")
    for path, name in ((expected, "expected"), (folder / "found.png", "found")):
        with Image.open(path) as sharp:
            sharp.convert("RGB").filter(ImageFilter.GaussianBlur(BLUR)).save(
                folder / f"{name}-blurred.png"
            )
    return compare_images(folder / "expected-blurred.png", folder / "found-blurred.png", TOLERANCE)


@pytest.mark.parametrize("name", FIGURES)
def test_figures_look_as_they_did(name, tmp_path):
    baseline = FOLDER / f"{name}.png"
    assert baseline.exists(), f"write it: python {Path(__file__).name} {name}"
    different = difference(baseline, FIGURES[name](), tmp_path)
    assert different is None, f"{different}\nif it should: python {Path(__file__).name} {name}"


def test_baselines_are_small_and_all_in_use():
    found = {path.stem: path.stat().st_size for path in FOLDER.glob("*.png")}
    assert set(found) == set(FIGURES)
    assert max(found.values()) < MOST_BYTES


def moved(figure):
    """Its last panel further to the left, by 3 % of the width."""
    figure.set_dpi(DPI * OVERSAMPLING)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    left, bottom, width, height = figure.axes[-1].get_position().bounds
    figure.axes[-1].set_position((left - 0.03, bottom, width, height))
    return figure


@pytest.mark.parametrize("name", ["rois", "accuracy", "calibration", "learning_curve"])
def test_a_panel_that_moved_is_found(name, tmp_path):
    assert difference(FOLDER / f"{name}.png", moved(FIGURES[name]()), tmp_path) is not None


def test_hemispheres_that_are_swapped_and_other_colours_are_found(tmp_path):
    draw(flatmap(), tmp_path / "original.png")
    assert difference(tmp_path / "original.png", flatmap(), tmp_path) is None
    for change in ({"maps": maps(swapped=True)}, {"cmap": "PuOr_r"}, {"cmap": "coolwarm"}):
        assert difference(tmp_path / "original.png", flatmap(**change), tmp_path) is not None


if __name__ == "__main__":
    for name in sys.argv[1:] or FIGURES:
        draw(FIGURES[name](), FOLDER / f"{name}.png")
