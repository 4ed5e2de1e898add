"""What the plot commands show: which values, of which subject, and where on cortex."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import QUIET
from evaluation_record import evaluation_record
from listening import Listening
from matplotlib.text import Text
from msgspec.structs import replace
from PIL import Image
from sealing import reseal_bundle

from synbrain_cli.brain import load_model
from synbrain_cli.brain.drawing import Drawing
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.evaluation.settings import EvaluateSettings
from synbrain_cli.io.results.evaluation import FoldSizes
from synbrain_cli.io.surface import HEMISPHERES, fsaverage
from synbrain_cli.pipeline import plot
from synbrain_cli.pipeline.evaluate import evaluate
from synbrain_cli.pipeline.plot import MapChoice, Selection, brain_maps
from synbrain_cli.pipeline.synthesize import Output, synthesize
from synbrain_cli.plotting.labels import plotted_rois, subject_labels
from synbrain_cli.plotting.map_plotter import Look, MapPlotter
from synbrain_cli.plotting.maps import (
    BrainMap,
    difference_map,
    evaluation_map,
    images_and_trials,
    recorded_maps,
    response_maps,
)
from synbrain_cli.plotting.reliability import Reliability, known_on_surface
from synbrain_cli.plotting.sources.evaluation import Evaluation
from synbrain_cli.plotting.sources.recordings import Recordings
from synbrain_cli.plotting.sources.responses import Responses
from synbrain_cli.plotting.trials import TrialDraws, recorded_trials
from synbrain_cli.run import RunContext

QUIET_RUN = RunContext(progress=QUIET)


@pytest.fixture(scope="module")
def brain(trained):
    return load_model(trained.weights / "sub-01", "cpu")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        pixels = rng.integers(0, 256, (8, 8, 3), np.uint8).repeat(16, 0).repeat(16, 1)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def made(trained, brain, photographs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "out"
    result = synthesize(trained, brain.folder, photographs, Drawing(5), Output(folder), QUIET_RUN)
    return Responses(result.folder)


@pytest.fixture(scope="module")
def recordings(trained, brain):
    return Recordings.of(trained, brain, QUIET.info)


@pytest.fixture(scope="module")
def evaluated(trained, brain, subject, store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    few = EvaluateSettings(n_draws=20, latent=False, n_boot=50)
    result = evaluate(trained, brain, subject, store, few, output=folder, run=QUIET_RUN)
    return Evaluation.read(result.folder, brain)


# ---------------------------------------------------------------------------- which values


def test_maps_of_responses(made, brain):
    maps = list(response_maps(made, brain, "mean"))
    assert [one.name for one in maps] == [f"sub-01_stim-{name}_stat-mean" for name in "abc"]
    for one in maps:
        assert one.unit == brain.unit
        assert one.stimulus.shape == (128, 128, 3)
    with pytest.raises(InputError, match="holds 5 draws: --draw 5 does not exist"):
        next(response_maps(made, brain, "draw", None, 5))
    with pytest.raises(MissingError, match="no image d; there are a, b, c"):
        next(response_maps(made, brain, "mean", "d"))


def test_differences_of_what_is_no_other_are_refused(trained, made, brain, photographs, tmp_path):
    only_c = photographs / "c.png"
    output = Output(tmp_path / "other")
    other = synthesize(trained, brain.folder, only_c, Drawing(2), output, QUIET_RUN)
    one = difference_map(made, brain, None, str(other.folder))
    assert "(3 images) − c" in one.title
    with pytest.raises(InputError, match="expected another image"):
        difference_map(made, brain, "a", "a")
    with pytest.raises(MissingError, match="no image gone"):
        difference_map(made, brain, "a", "gone")
    drawing = Drawing(2, unit="z")
    z = synthesize(trained, brain.folder, only_c, drawing, Output(tmp_path / "z"), QUIET_RUN)
    with pytest.raises(InputError, match="the unit z, expected"):
        difference_map(made, brain, None, str(z.folder))


def test_recorded_trials_are_those_of_the_image(recordings, brain, subject):
    test = subject.select("test")
    counts = {name: (test.images[test.image_index] == name).sum() for name in recordings.names}
    assert list(counts.values()) == sorted(counts.values(), reverse=True)
    name = recordings.names[2]
    trials = recordings.recorded(name)
    rows = subject.trials
    rows = np.flatnonzero((rows["image"] == name) & (rows["split"] == "test"))
    with np.load(subject.folder / "standardization.npz") as file:
        row = np.searchsorted(file["sessions"], subject.trials["session"].to_numpy()[rows])
        expected = subject.betas[rows] * file["sd"][row] + file["mean"][row]
    np.testing.assert_allclose(trials, expected, rtol=1e-4, atol=1e-5)
    (recorded,) = recorded_maps(recordings, "recorded", name)
    (error,) = recorded_maps(recordings, "error", name)
    np.testing.assert_allclose(recorded.values, trials.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(recorded.values - error.values, recordings.expected(name), atol=1e-4)
    assert recorded.stimulus.dtype == np.uint8  # a simulated stimulus may be shown


def test_pictures_of_recorded_datasets_are_not_passed_on(recordings, subject, monkeypatch):
    monkeypatch.setattr(type(subject), "simulated", property(lambda self: False))
    assert recordings.stimulus(recordings.names[0]) is None


def test_draws_of_test_images_share_their_signal_or_not(recordings):
    """Repeats share what no feature explains; a recorded trial lies anywhere among fresh ones."""
    name = recordings.names[0]
    expected = recordings.expected(name)
    spread = {}
    for signal in ("shared", "fresh"):
        (one,) = recorded_trials(recordings, name, 1, TrialDraws(60, 0, signal))
        assert one.draws.shape == (60, len(expected))
        spread[signal] = (one.draws.mean(0) - expected).std()
    assert spread["fresh"] < spread["shared"]


def test_an_evaluation_of_another_training_is_refused(evaluated, brain):
    values = evaluation_map(evaluated, "accuracy", brain).values
    np.testing.assert_allclose(values, evaluated.voxels["model"], rtol=1e-6)
    other = replace(brain.config, fingerprint="0" * 16)

    class Other:
        config, name = other, "sub-01"

    with pytest.raises(InputError, match="of another training of sub-01"):
        Evaluation.read(evaluated.folder, Other)
    with pytest.raises(MissingError, match="synbrain evaluate --model sub-01"):
        Evaluation.read(evaluated.folder / "gone", brain)


# ------------------------------------------------------------------------- where on cortex


def plotted(figure):
    """Values plotted on the flatmap, NaN where transparent, and x and y of its pixels in mm."""
    axes = next(a for a in figure.axes if a.get_label() == "flatmap")
    picture = next(i for i in axes.images if i.get_gid() == "data")
    left, right, bottom, top = picture.get_extent()
    values = np.ma.filled(picture.get_array(), np.nan)
    x, y = np.meshgrid(
        np.linspace(left, right, values.shape[1]), np.linspace(bottom, top, values.shape[0])
    )
    return values, x, y


@pytest.mark.parametrize("roi", ["V1", "FFA-1"])
def test_a_response_in_one_roi_lights_that_roi_alone(brain, roi):
    """From the volume, through the surface, to the pixels of the flatmap."""
    inside = brain.rois()[roi]
    volume = brain.to_nifti(inside.astype(np.float32))
    values = volume.get_fdata()[tuple(brain.voxels[["i", "j", "k"]].to_numpy().T)]
    np.testing.assert_array_equal(values > 0.5, inside)

    others = np.zeros(brain.n_voxels, bool)
    for name, mask in plotted_rois(brain).items():
        if name != roi:
            others |= mask & ~inside
    share = {h: v > 0.5 for h, v in brain.to_surface(inside.astype(np.float32)).items()}
    elsewhere = {h: v > 0.99 for h, v in brain.to_surface(others.astype(np.float32)).items()}
    assert all((share[h] & elsewhere[h]).sum() == 0 for h in HEMISPHERES)
    assert sum(share[h].sum() for h in HEMISPHERES) > 20

    figure = MapPlotter(brain, "flatmap", Look(vmax=1), QUIET)(
        BrainMap("v", "indicator", "share", values)
    )
    picture, x, y = plotted(figure)
    lit = picture > 0.5
    assert lit.any()
    # Every lit pixel is within a triangle's edge of a vertex of the ROI, on its own side.
    flat = fsaverage("flat")
    for hemisphere, sign in (("left", -1), ("right", 1)):
        side = lit & (np.sign(x) == sign)
        xy = np.array(flat[hemisphere].coordinates[:, :2], float)
        used = np.unique(flat[hemisphere].faces)
        # The figure shifts each patch along x; its place follows from where data begin.
        known = np.isfinite(brain.to_surface(values)[hemisphere])[used]
        shown = np.isfinite(picture) & (np.sign(x) == sign)
        shift = (
            (x[shown].min() - xy[used[known], 0].min())
            if sign == 1
            else (x[shown].max() - xy[used[known], 0].max())
        )
        places = xy[share[hemisphere]] + [shift, 0]
        pixels = np.stack([x[side], y[side]], 1)[::37]
        gap = np.sqrt(((pixels[:, None] - places[None]) ** 2).sum(-1)).min(1)
        assert np.quantile(gap, 0.99) < 4, hemisphere
        # And every vertex well inside the ROI is lit.
        gap = np.sqrt(((places[:, None] - pixels[None]) ** 2).sum(-1)).min(1)
        assert np.median(gap) < 2, hemisphere


def test_left_is_left(brain):
    """A response of the left hemisphere's voxels is plotted left of the middle."""
    left = brain.to_surface(np.ones(brain.n_voxels))
    x = brain.to_nifti(np.arange(brain.n_voxels, dtype=np.float32)).affine @ np.vstack(
        [brain.voxels[["i", "j", "k"]].to_numpy().T, np.ones(brain.n_voxels)]
    )
    indicator = (x[0] < 0).astype(np.float32)
    assert set(left) == set(HEMISPHERES)
    plot_map = MapPlotter(brain, "flatmap", Look(vmax=1), QUIET)
    picture, x, _ = plotted(plot_map(BrainMap("l", "left", "share", indicator)))
    lit = picture > 0.6
    assert (x[lit] < 0).mean() > 0.99
    assert ((picture < 0.4) & (x > 0)).sum() > 0.9 * (np.isfinite(picture) & (x > 0)).sum()


def test_outlines_are_where_the_indicator_is(brain):
    """The dorsal and the ventral part of V1 have each their own."""
    outlines = subject_labels(brain, "").rois
    for part in ("V1v", "V1d"):
        indicator = (brain.voxels["prf-visualrois"] == part).to_numpy(np.float32)
        for hemisphere in HEMISPHERES:
            share = brain.to_surface(indicator)[hemisphere]
            np.testing.assert_array_equal(outlines[hemisphere][part], np.nan_to_num(share) >= 0.5)


def test_a_subject_without_transforms_gets_slices(trained, made, tmp_path):
    folder = shutil.copytree(trained.weights / "sub-01", tmp_path / "weights/sub-01")
    for name in ("surface_resampling.npz", "mni_resampling.npz"):
        (folder / name).unlink()
    reseal_bundle(folder)
    brain = load_model(folder, "cpu")
    progress = Listening()
    plot_map = MapPlotter(brain, "flatmap", Look(), progress)
    assert plot_map.kind == "slices"
    assert "without transforms to fsaverage: slices" in progress.messages[0]
    figure = plot_map(next(response_maps(made, brain, "mean", "a")))
    assert len(figure.axes) > 2


def test_a_space_that_is_not_there(brain):
    with pytest.raises(InputError, match=r"no transform to fsaverage6 .*: fsaverage5"):
        MapPlotter(brain, "flatmap", Look(space="fsaverage6"), QUIET)


# ----------------------------------------------------------------------------------- files


def test_files_of_every_kind(trained, made, evaluated, brain, tmp_path, monkeypatch):
    look = Look(dpi=40)
    options = {"look": look, "output": tmp_path, "run": QUIET_RUN}
    one = Selection(responses=made.folder, image="a")
    result = brain_maps(trained, "flatmap", one, MapChoice(minus="b"), **options)
    assert [f.name for f in result.files] == ["sub-01_stim-a_minus-b_stat-difference_flatmap.png"]
    result = brain_maps(trained, "surface", one, **options)
    assert [f.name for f in result.files] == ["sub-01_stim-a_stat-mean_surface.png"]
    result = plot.draws(trained, one, **options)
    assert [f.name for f in result.files] == ["sub-01_stim-a_draws.png"]
    result = plot.rois(trained, Selection(responses=made.folder), **options)
    assert [f.name for f in result.files] == ["sub-01_rois.png"]
    names = Recordings.of(trained, brain, QUIET.info).names
    result = plot.draws(trained, Selection(image=",".join(names[3:5])), n_draws=4, **options)
    assert len(result.files) == 2
    assert all(file.stat().st_size > 5000 for file in result.files)
    monkeypatch.setattr(type(trained), "outputs", property(lambda self: tmp_path))
    shutil.copytree(evaluated.folder, tmp_path / "sub-01_evaluation")
    result = plot.accuracy(trained, Selection("sub-01"), **options)
    assert [f.name for f in result.files] == ["sub-01_accuracy.png"]
    with Image.open(result.files[0]) as picture:
        assert picture.size[0] > picture.size[1]


@pytest.mark.parametrize(("style", "widths"), [("paper", (89, 183)), ("talk", (338.7,))])
def test_every_figure_can_have_a_style(trained, made, evaluated, tmp_path, style, widths):
    options = {"look": Look(style=style), "output": tmp_path, "run": QUIET_RUN}
    one = Selection(responses=made.folder, image="a")
    files = [
        *brain_maps(trained, "flatmap", one, **options).files,
        *brain_maps(trained, "surface", one, **options).files,
        *plot.draws(trained, one, **options).files,
        *plot.rois(trained, Selection(responses=made.folder), **options).files,
    ]
    assert len(files) == 4
    for file in files:
        with Image.open(file) as picture:
            width = 25.4 * picture.width / picture.info["dpi"][0]  # mm
        assert min(abs(width - one) for one in widths) < 0.3
    with pytest.raises(InputError, match=r"--style poster: expected one of screen, paper, talk"):
        Look(style="poster")


# ------------------------------------------------------------------- colours, and who is shown


@pytest.fixture
def figures(monkeypatch):
    """The figures that commands make, by name of their file, in place of the files."""
    found = {}
    monkeypatch.setattr(plot, "_save", lambda figure, path, *_: found.update({path.name: figure}))
    return found


@pytest.fixture
def reported(trained, evaluated, monkeypatch, tmp_path):
    """Workspace in which the model has been evaluated."""
    monkeypatch.setattr(type(trained), "outputs", property(lambda self: tmp_path))
    shutil.copytree(evaluated.folder, tmp_path / "sub-01_evaluation")
    return trained


def pictures(figure):
    """Maps of a figure, by label of their axes."""
    return {
        axes.get_label(): next(i for i in axes.images if i.get_gid() == "data")
        for axes in figure.axes
        if any(i.get_gid() == "data" for i in axes.images)
    }


def texts(figure):
    return [t.get_text().replace("\n", " ") for t in figure.findobj(Text)]


def test_several_images_share_one_scale_from_what_they_show(trained, made, figures, brain):
    brain_maps(trained, "flatmap", Selection(responses=made.folder), run=QUIET_RUN)
    limits = {pictures(figure)["flatmap"].get_clim() for figure in figures.values()}
    assert len(figures) == 3
    ((low, high),) = limits
    assert low == -high
    values = np.concatenate(
        [np.concatenate(list(brain.to_surface(one).values())) for one in made.expected]
    )
    size = np.abs(values[np.isfinite(values)])
    assert high == pytest.approx(np.quantile(size, 0.99), rel=0.06)  # two digits
    assert high < size.max()


def test_one_image_that_is_far_off_does_not_make_the_others_pale(brain):
    """The scale of many maps is that of all their values, and not of the largest map."""
    rng = np.random.default_rng(0)
    values = [rng.normal(size=brain.n_voxels) * (20 if k == 0 else 1) for k in range(150)]
    maps = [BrainMap("v", "t", "z", one) for one in values]
    plot_map = MapPlotter(brain, "flatmap", Look(), QUIET)
    vmax = plot_map.common_vmax(iter(maps), len(maps))
    (first, second) = (plot_map.common_vmax([maps[k]], 1) for k in (0, 1))
    assert vmax < 1.5 * second < first / 5
    assert plot_map.common_vmax(iter(maps), 10**6) == pytest.approx(vmax, rel=0.15)  # of every n-th
    assert MapPlotter(brain, "flatmap", Look(vmax=3), QUIET).common_vmax(maps, 150) == 3


def test_the_bar_says_that_values_lie_beyond(brain):
    values = np.linspace(-1, 1, brain.n_voxels)
    values[:2] = 50
    figure = MapPlotter(brain, "flatmap", Look(vmax=1), QUIET)(BrainMap("v", "t", "z", values))
    assert next(a for a in figure.axes if a.get_label() == "colorbar")._colorbar.extend == "max"


def test_accuracy_stands_beside_the_ceiling_on_one_scale(reported, evaluated, figures):
    brain_maps(reported, "flatmap", Selection("sub-01"), MapChoice("accuracy"), run=QUIET_RUN)
    brain_maps(reported, "flatmap", Selection("sub-01"), MapChoice("ceiling"), run=QUIET_RUN)
    brain_maps(reported, "surface", Selection("sub-01"), MapChoice("accuracy"), run=QUIET_RUN)
    both = pictures(figures["sub-01_accuracy_flatmap.png"])
    assert list(both) == ["flatmap 1", "flatmap 2"]
    alone = pictures(figures["sub-01_ceiling_flatmap.png"])
    folded = pictures(figures["sub-01_accuracy_surface.png"])
    limits = {one.get_clim() for group in (both, alone, folded) for one in group.values()}
    ((low, high),) = limits
    assert low == 0
    assert high <= np.nanmax(evaluated.voxels[["model", "ceiling"]])
    assert {one.cmap(0.9) for one in both.values()} == {one.cmap(0.9) for one in alone.values()}
    darkness = np.array([one[:3] for one in both["flatmap 1"].cmap(np.linspace(0, 1, 9))]).sum(1)
    assert (np.diff(darkness) > 0).all()  # sequential
    # How many images and trials, and repeats
    record = evaluated.metrics
    n_images, n_trials = record.n_test_images, record.n_test_trials
    assert n_trials > n_images > 1
    counted = f"prediction of {n_images} test images ({n_trials} trials), sub-01"
    for name in ("sub-01_accuracy_flatmap.png", "sub-01_accuracy_surface.png"):
        assert counted in texts(figures[name])
    repeats = record.repeats_per_image.max
    assert f"noise ceiling of averages of {repeats} repeats, sub-01" in texts(
        figures["sub-01_accuracy_flatmap.png"]
    )


def test_how_many_images_a_model_was_tested_on():
    record = evaluation_record({"n_test_images": 1200, "n_test_trials": 3600})
    assert images_and_trials(record) == "1,200 test images (3,600 trials)"
    one = replace(record, n_test_images=1, n_test_trials=1)
    assert images_and_trials(one) == "1 test image (1 trial)"
    averaged = replace(record, averaged_over=3, n_test_trials=1200)
    assert images_and_trials(averaged) == "1,200 test images (1,200 averages of 3 trials)"
    folds = replace(record, folds=FoldSizes(n_folds=5, min=240, max=240))
    assert images_and_trials(folds) == "1,200 test images, held out in 5 folds (3,600 trials)"


@pytest.mark.parametrize("kind", ["flatmap", "surface"])
def test_unreliable_voxels_are_grey_and_counted(trained, made, brain, figures, kind):
    ncsnr = brain.voxels["ncsnr"].to_numpy()
    least = float(np.median(ncsnr))
    one = Selection(responses=made.folder, image="a")
    brain_maps(trained, kind, one, look=Look(), run=QUIET_RUN)
    brain_maps(trained, kind, one, look=Look(min_ncsnr=least), run=QUIET_RUN)
    whole, masked = figures.values()
    assert list(figures)[1] == f"sub-01_stim-a_stat-mean_ncsnr-{least:g}_{kind}.png"
    n_left = (ncsnr >= least).sum()
    said = f"ncsnr ≥ {least:g} in {n_left} of {brain.n_voxels} voxels"
    assert any(said in text for text in texts(masked))
    assert not any("ncsnr" in text for text in texts(whole))
    n_shown = [
        sum(one.get_array().count() for one in pictures(figure).values())
        for figure in (whole, masked)
    ]
    assert 0.3 * n_shown[0] < n_shown[1] < 0.7 * n_shown[0]
    for before, after in zip(pictures(whole).values(), pictures(masked).values(), strict=True):
        assert before.get_extent() == after.get_extent()  # the same part of the cortex
        gained = before.get_array().mask & ~after.get_array().mask
        assert gained.mean() < 1e-5  # rounding at edges


def test_reliable_vertices_keep_their_values(brain):
    """Vertices are grey that are unreliable voxels by more than half; no other loses its value."""
    rng = np.random.default_rng(0)
    kept = rng.random(brain.n_voxels) < 0.5
    values = np.where(kept, 2.0, np.nan)
    shown = known_on_surface(brain, values)
    share = brain.to_surface(kept.astype(np.float32))
    for hemisphere in HEMISPHERES:
        known = np.isfinite(shown[hemisphere])
        np.testing.assert_allclose(shown[hemisphere][known], 2, rtol=1e-5)
        weight = np.nan_to_num(share[hemisphere])
        assert known[weight > 0.51].all()
        assert not known[weight < 0.49].any()
    many = np.stack([values, values + 1])
    np.testing.assert_array_equal(known_on_surface(brain, many)["left"][0], shown["left"])


def test_draws_of_reliable_voxels(trained, made, brain, figures):
    least = float(np.median(brain.voxels["ncsnr"]))
    one = Selection(responses=made.folder, image="a")
    plot.draws(trained, one, look=Look(), run=QUIET_RUN)
    plot.draws(trained, one, look=Look(min_ncsnr=least), run=QUIET_RUN)
    whole, masked = figures.values()
    assert list(figures)[1] == f"sub-01_stim-a_ncsnr-{least:g}_draws.png"
    assert any(f"ncsnr ≥ {least:g} in " in text for text in texts(masked))
    for before, after in zip(pictures(whole).values(), pictures(masked).values(), strict=True):
        assert after.get_array().count() < 0.7 * before.get_array().count()


@pytest.mark.parametrize(
    ("least", "message"),
    [
        (0.0, "expected more than 0"),
        (float("inf"), "expected more than 0, and a finite number"),
        (99.0, r"no voxel of .*voxels.tsv reaches it, the highest ncsnr is \d"),
    ],
)
def test_thresholds_that_leave_nothing_are_refused(brain, least, message):
    with pytest.raises(InputError, match=rf"--min-ncsnr {least:g}: {message}"):
        Reliability.of(brain, least)


@pytest.mark.parametrize("table", [{"i": [1, 2]}, {"ncsnr": [np.nan, np.nan]}])
def test_data_without_ncsnr_cannot_be_masked(table, tmp_path):
    class Unknown:
        folder, n_voxels, voxels = tmp_path, 2, pd.DataFrame(table)

    with pytest.raises(InputError, match=r"--min-ncsnr 0.2: expected an ncsnr of the voxels in "):
        Reliability.of(Unknown, 0.2)
    assert Reliability.of(Unknown, None).voxels.all()


def test_a_voxel_without_ncsnr_is_not_reliable(tmp_path):
    class Partly:
        folder, n_voxels = tmp_path, 3
        voxels = pd.DataFrame({"ncsnr": [np.nan, 0.2, 0.1]})

    reliability = Reliability.of(Partly, 0.2)
    assert reliability.voxels.tolist() == [False, True, False]
    assert reliability.described == "ncsnr ≥ 0.2 in 1 of 3 voxels"


def test_slices_leave_unreliable_voxels_grey(brain):
    values = np.where(np.arange(brain.n_voxels) % 2, 1.0, np.nan)
    plot_map = MapPlotter(brain, "flatmap", Look(), QUIET)
    plot_map.kind = "slices"
    few = plot_map(BrainMap("v", "t", "z", values))
    all_of_them = plot_map(BrainMap("v", "t", "z", np.ones(brain.n_voxels)))
    # The same slices, which those voxels that are left out belong to
    positions = [[t.get_text() for a in f.axes for t in a.texts] for f in (few, all_of_them)]
    assert positions[0] == positions[1]


@pytest.mark.parametrize("what", ["desc-draws_betas", "stat-mean_statmap"])
def test_responses_cut_short_are_named(made, tmp_path, what):
    folder = shutil.copytree(made.folder, tmp_path / "copy")
    (array,) = folder.glob(f"sub-01/func/sub-01_{what}.npy")
    array.write_bytes(array.read_bytes()[:-100])
    with pytest.raises(InputError, match=rf"{array.name}.*truncated"):
        Responses(folder)
    array.unlink()
    with pytest.raises(MissingError, match=r"array.*does not exist"):
        Responses(folder)


def test_pictures_of_replaced_responses_are_removed(trained, brain, photographs, tmp_path):
    folder, only_a = tmp_path / "out", photographs / "a.png"

    def again(n_draws):
        output = Output(folder, overwrite=True)
        synthesize(trained, brain.folder, only_a, Drawing(n_draws), output, QUIET_RUN)

    again(1)
    files = brain_maps(trained, "flatmap", Selection(responses=folder), run=QUIET_RUN).files
    files += plot.rois(trained, Selection(responses=folder), run=QUIET_RUN).files
    files += plot.draws(trained, Selection(responses=folder), run=QUIET_RUN).files
    elsewhere = brain_maps(
        trained, "flatmap", Selection(responses=folder), output=tmp_path, run=QUIET_RUN
    )
    (folder / "figures/mine.png").write_bytes(files[0].read_bytes())
    assert len(files) == 3
    assert all(file.parent == folder / "figures" for file in files)
    again(2)
    assert [path.name for path in (folder / "figures").iterdir()] == ["mine.png"]
    assert elsewhere.files[0].exists()  # a folder that the user named is the user's
    assert Responses(folder).n_draws == 2
