"""Everything that says "expected", "mean", "difference" or "standard deviation" shows just that.

On a model whose unexplained signal is far larger than what its predictions differ by, so that an
average of draws, which share that signal, is almost unrelated to the expected response m.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from html import unescape

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from conftest import QUIET
from listening import Listening
from matplotlib.figure import Figure
from PIL import Image
from sealing import reseal_bundle
from tiny import content

from synbrain_cli.brain import load_model
from synbrain_cli.brain.drawing import Drawing
from synbrain_cli.brain.images import stream_tokens
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.arrays import load_arrays, save_arrays
from synbrain_cli.io.bundle import fingerprint
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.model.uncertainty import MeanUncertainty
from synbrain_cli.pipeline import plot
from synbrain_cli.pipeline.plot import MapChoice, Selection, brain_maps
from synbrain_cli.pipeline.report import report
from synbrain_cli.pipeline.synthesize import Output, synthesize
from synbrain_cli.plotting.labels import plotted_rois, subject_labels
from synbrain_cli.plotting.map_plotter import MapPlotter
from synbrain_cli.plotting.maps import difference_map, response_maps
from synbrain_cli.plotting.report.map_pictures import MapPictures
from synbrain_cli.plotting.sources.recordings import Recordings
from synbrain_cli.plotting.sources.responses import Responses, latest_responses
from synbrain_cli.plotting.trials import (
    TrialDraws,
    recorded_trials,
    response_trials,
    rois_figure,
    trials_figure,
)
from synbrain_cli.run import RunContext

RUN = RunContext(progress=QUIET)
NAMES = ("a", "b", "c", "d", "e")
N_DRAWS = 8
SIGNAL, NOISE = 9.0, 1.0  # variances in z: of u, and of e on average


@pytest.fixture(scope="module")
def workspace(trained, tmp_path_factory):
    """Subject 1 of the simulation, its model with a large unexplained signal, five photographs."""
    root = tmp_path_factory.mktemp("expected")
    for name in ("prepared", "simulated"):
        (root / name).symlink_to(trained.root / name)
    folder = root / "weights/sub-01"
    shutil.copytree(trained.weights / "sub-01", folder)
    arrays = load_arrays(folder / "readout.safetensors")
    n_voxels = len(arrays["growth"])
    nodes = np.linspace(-2.6, 2.6, 27)[:, None]
    skew = np.linspace(-0.2, 0.3, n_voxels)
    arrays |= {
        "signal_loadings": np.zeros((n_voxels, 1)),
        "signal_private": np.full(n_voxels, SIGNAL),
        "noise_private": np.linspace(0.5, 1.5, n_voxels) * NOISE,
        "noise_loadings": np.zeros((n_voxels, 1)),
        "growth": np.linspace(-0.6, 0.6, n_voxels),
        "curve": nodes + skew * (nodes**2 - 1),
    }
    save_arrays(
        folder / "readout.safetensors", {k: v.astype(np.float32) for k, v in arrays.items()}
    )
    reseal_bundle(folder, fingerprint=fingerprint(folder))
    rng = np.random.default_rng(0)
    (root / "photographs").mkdir()
    for name in NAMES:
        pixels = rng.integers(0, 256, (8, 8, 3), np.uint8).repeat(16, 0).repeat(16, 1)
        Image.fromarray(pixels).save(root / f"photographs/{name}.png")
    return Workspace(root)


@pytest.fixture(scope="module")
def brain(workspace):
    return load_model(workspace.weights / "sub-01", "cpu")


@pytest.fixture(scope="module")
def photographs(workspace):
    return workspace.root / "photographs"


@pytest.fixture(scope="module")
def mean(brain, photographs):
    """The model's mean response m to each photograph: what all must show."""
    return brain.mean(photographs)


@pytest.fixture(scope="module")
def made(workspace, brain, photographs):
    output = Output(spaces=["fsaverage5", "fsnative", "MNI"])
    result = synthesize(workspace, brain.folder, photographs, Drawing(N_DRAWS), output, RUN)
    return Responses(result.folder)


def correlations(some, others):
    return [np.corrcoef(one, other)[0, 1] for one, other in zip(some, others, strict=True)]


def test_averages_of_draws_are_far_from_what_is_expected(made, mean):
    """What makes all other tests here mean something."""
    averages = made.draws[:].mean(1)
    assert max(np.abs(correlations(averages, mean))) < 0.35
    assert abs(np.corrcoef(averages[0] - averages[1], mean[0] - mean[1])[0, 1]) < 0.35


# ------------------------------------------------------------------------------------ the files


def in_volume(brain, path):
    image = nib.load(path)
    assert image.get_data_dtype() == np.float32
    return np.asarray(image.dataobj)[tuple(brain.voxels[["i", "j", "k"]].to_numpy().T)]


def on_surface(folder, label, space, stat):
    return {
        hemisphere: nib.load(
            folder / f"sub-01/func/sub-01_stim-{label}_hemi-{hemisphere[0].upper()}_space-{space}"
            f"_stat-{stat}_statmap.func.gii"
        )
        .darrays[0]
        .data
        for hemisphere in ("left", "right")
    }


def test_every_map_of_the_mean_is_the_models_mean(made, brain, mean):
    np.testing.assert_array_equal(made.expected, mean)
    for row, label in enumerate(NAMES):
        name = f"sub-01/func/sub-01_stim-{label}_stat-mean_statmap.nii.gz"
        values = in_volume(brain, made.folder / name)
        np.testing.assert_array_equal(values, mean[row])
        for space in ("fsaverage5", "fsnative"):
            expected = brain.to_surface(mean[row], space)
            for hemisphere, found in on_surface(made.folder, label, space, "mean").items():
                np.testing.assert_array_equal(found, np.float32(expected[hemisphere]))
        name = f"sub-01/func/sub-01_stim-{label}_space-MNI152NLin6Asym_stat-mean_statmap.nii.gz"
        there = np.asarray(nib.load(made.folder / name).dataobj)
        np.testing.assert_array_equal(there, np.asarray(brain.to_mni(mean[row]).dataobj))


def test_every_map_of_the_sd_is_that_of_a_single_trial(made, brain, photographs):
    """The SD over many draws with a signal of their own, within its Monte Carlo error."""
    n_draws = 20_000
    draws = brain.draw(photographs / "b.png", n_draws, seed=3, signal="fresh")[0]
    values = in_volume(brain, made.folder / "sub-01/func/sub-01_stim-b_stat-std_statmap.nii.gz")
    # The error of an SD, with the kurtosis of the voxel's own draws
    centred = draws - draws.mean(0, dtype=np.float64)
    kurtosis = (centred**4).mean(0) / (centred**2).mean(0) ** 2
    error = np.sqrt((kurtosis - 1) / (4 * n_draws))
    z = (draws.std(0, ddof=1, dtype=np.float64) / values - 1) / error
    assert np.abs(z).max() < 5
    assert z.std() < 1.25
    assert abs(z.mean()) < 4 / np.sqrt(len(z))
    within = made.draws[1].std(0, ddof=1)  # of one brain state: the noise alone
    assert np.median(within / values) < 0.5
    for hemisphere, found in on_surface(made.folder, "b", "fsaverage5", "std").items():
        np.testing.assert_array_equal(found, np.float32(brain.to_surface(values)[hemisphere]))


@pytest.mark.parametrize(
    "drawing", [Drawing(1), Drawing(3, 9, signal="fresh"), Drawing(2, 0, "mean")]
)
def test_maps_do_not_depend_on_how_draws_are_made(
    workspace, brain, photographs, made, drawing, tmp_path
):
    output = Output(tmp_path / "out", spaces=["fsaverage5"])
    other = synthesize(workspace, brain.folder, photographs, drawing, output, RUN)
    names = [path.relative_to(other.folder) for path in other.folder.rglob("*statmap*")]
    assert len(names) == 6 + len(NAMES) * 9
    for name in names:
        assert content(other.folder / name) == content(made.folder / name), name


def readout_of(brain, path):
    """Distribution around the mean response to an image, as uncertain as it is."""
    tokens, _ = next(stream_tokens(path, brain.source, None, 1))
    return brain.distribution.readout.of_image(brain.doubt(tokens).relative[0])


def test_the_standard_error_is_that_of_the_unexplained_signal(made, brain, photographs, mean):
    readout = readout_of(brain, photographs / "b.png")
    values = in_volume(brain, made.folder / "sub-01/func/sub-01_stim-b_stat-sem_statmap.nii.gz")
    expected = np.float32(readout.signal.variance**0.5) * brain.response_sd
    np.testing.assert_array_equal(values, expected)
    (shown,) = response_maps(made, brain, "sem", "b")
    np.testing.assert_array_equal(shown.values, values)
    assert not shown.symmetric
    # Draws of as many brain states spread by it and by trial noise
    assert (values < made.sd(1)).all()


def test_images_far_from_those_of_training_are_named(
    made, workspace, brain, photographs, tmp_path, monkeypatch
):
    table = pd.read_csv(made.folder / "images.tsv", sep="\t")
    found = [next(brain.stream(photographs / f"{name}.png", Drawing())) for name in NAMES]
    np.testing.assert_allclose(table["distance"], [one.distance for one in found], atol=0.06)
    assert ((table["distance"] >= 0) & (table["distance"] <= 100)).all()

    distances = brain.distribution.uncertainty.distances
    nearer = MeanUncertainty(0.5, np.ones(brain.n_voxels, np.float32), distances / 100)
    monkeypatch.setattr(MeanUncertainty, "from_arrays", lambda named: nearer)
    progress = Listening()
    run = replace(RUN, progress=progress)
    synthesize(workspace, brain.folder, photographs, Drawing(), Output(tmp_path / "far"), run)
    (told,) = (line for line in progress.messages if "extrapolated" in line)
    assert told.startswith(f"{len(NAMES)} of {len(NAMES)} images are farther from the training")


def test_maps_in_z_scores(workspace, brain, photographs, tmp_path):
    output = Output(tmp_path / "z", spaces=[])
    result = synthesize(workspace, brain.folder, photographs, Drawing(unit="z"), output, RUN)
    made = Responses(result.folder)
    mean = brain.mean(photographs, "z")
    np.testing.assert_array_equal(made.expected, mean)
    readout = readout_of(brain, photographs / "c.png")
    np.testing.assert_array_equal(made.sd(2), readout.sd(mean[2]))
    np.testing.assert_array_equal(made.sem(2), np.float32(readout.signal.variance**0.5))


def test_of_noise_in_the_latent_the_mean_alone_is_known(
    workspace, brain, photographs, mean, tmp_path
):
    output = Output(tmp_path / "latent", spaces=["fsaverage5"])
    drawing = Drawing(2, sampling="latent")
    result = synthesize(workspace, brain.folder, photographs, drawing, output, RUN)
    made = Responses(result.folder)
    np.testing.assert_array_equal(made.expected, mean)
    assert not list(result.folder.rglob("*stat-s*"))
    assert "distance" not in pd.read_csv(result.folder / "images.tsv", sep="\t")
    told = json.loads((result.folder / "sub-01/func/sub-01_stat-mean_statmap.json").read_text())[
        "Description"
    ]
    assert "scatter about the networks' own prediction" in told
    assert "no map of it is written" in told
    with pytest.raises(InputError, match=r"not where noise is added to the latent.*--what draw"):
        next(response_maps(made, brain, "std"))
    with pytest.raises(InputError, match=r"known of models trained with repeats.*--what std"):
        next(response_maps(made, brain, "sem"))
    (title,) = (one.title for one in response_maps(made, brain, "draws-mean", "a"))
    assert title == "a: mean of 2 draws by noise in the latent, sub-01"


def test_sidecars_say_what_the_maps_are(made, brain):
    told = {
        stat: json.loads((made.folder / f"sub-01/func/sub-01_stat-{stat}_statmap.json").read_text())
        for stat in ("mean", "std", "sem")
    }
    assert "the model's prediction m, exact, not an average of draws" in told["mean"]["Description"]
    assert "not the standard deviation over the draws" in told["std"]["Description"]
    assert "Trial noise is not in it" in told["sem"]["Description"]
    for one in told.values():
        assert one["Unit"] == brain.unit
        assert one["ModelFingerprint"] == brain.config.fingerprint
        assert len(one["Axes"]) == 2


def test_responses_whose_means_are_of_draws_are_refused(
    workspace, brain, made, photographs, tmp_path
):
    """As written before: no format, no array of means."""
    folder = shutil.copytree(made.folder, tmp_path / "outputs/old")
    path = folder / "settings.json"
    settings = json.loads(path.read_text())
    del settings["format"], settings["statistics"]
    path.write_text(json.dumps(settings))
    message = "found an older one, whose maps of the mean are averages of draws: synthesize again"
    with pytest.raises(InputError, match=message):
        Responses(folder)
    passed_over = []
    (tmp_path / "weights").symlink_to(workspace.weights)
    with pytest.raises(MissingError, match="no synthesized responses"):
        latest_responses(Workspace(tmp_path), None, None, passed_over.append)
    assert message in passed_over[0]
    output = Output(folder, ["fsaverage5", "fsnative", "MNI"])
    with pytest.raises(InputError, match=r"format none, now 3.*pass --overwrite"):
        synthesize(workspace, brain.folder, photographs, Drawing(N_DRAWS), output, RUN)


# ------------------------------------------------------------------------------------ the maps


def test_maps_of_what_is_expected(made, brain, mean):
    """The default of every plot, with its caption."""
    assert MapChoice().what == "mean"
    for row, one in enumerate(response_maps(made, brain, MapChoice().what)):
        np.testing.assert_array_equal(one.values, mean[row])
        assert one.title == f"{NAMES[row]}: expected response, sub-01"
        assert one.name == f"sub-01_stim-{NAMES[row]}_stat-mean"
    (one,) = response_maps(made, brain, "std", "b")
    np.testing.assert_array_equal(one.values, made.sd(1))
    assert one.title == "b: standard deviation of a single trial, sub-01"
    assert not one.symmetric


def test_differences_are_of_expected_responses(workspace, made, brain, photographs, mean, tmp_path):
    one = difference_map(made, brain, "a", "b")
    np.testing.assert_array_equal(one.values, np.float64(mean[0]) - mean[1])
    assert one.title == "a − b: difference of expected responses, sub-01"
    output = Output(tmp_path / "other", spaces=[])
    chosen = [photographs / f"{name}.png" for name in "cd"]
    other = synthesize(workspace, brain.folder, chosen, Drawing(2, seed=4), output, RUN)
    one = difference_map(made, brain, None, str(other.folder))
    expected = mean.mean(0, dtype=float) - mean[2:4].mean(0, dtype=float)
    np.testing.assert_allclose(one.values, expected, rtol=1e-9, atol=1e-12)
    names = f"{made.folder.name} (5 images) − other (2 images)"
    assert one.title == f"{names}: difference of expected responses, sub-01"


def test_maps_of_draws_are_made_only_where_asked_for_and_say_so(
    workspace, made, brain, photographs, tmp_path
):
    (one,) = response_maps(made, brain, "draw", "c", 3)
    np.testing.assert_array_equal(one.values, made.draws[2, 3])
    assert one.title == "c: one draw (number 3), sub-01"
    (one,) = response_maps(made, brain, "draws-mean", "c")
    np.testing.assert_allclose(one.values, made.draws[2].mean(0, dtype=float))
    assert one.title == "c: mean of 8 draws of one simulated brain state, sub-01"
    assert one.name == "sub-01_stim-c_draws-mean"
    for drawing, title in (
        (Drawing(4, signal="fresh"), "mean of 4 draws of as many brain states"),
        (Drawing(1), "one draw"),
    ):
        output = Output(tmp_path / f"{drawing.n_draws}", spaces=[])
        result = synthesize(workspace, brain.folder, photographs, drawing, output, RUN)
        (one,) = response_maps(Responses(result.folder), brain, "draws-mean", "c")
        assert one.title == f"c: {title}, sub-01"
    output = Output(tmp_path / "mean", spaces=[])
    drawing = Drawing(2, sampling="mean")
    result = synthesize(workspace, brain.folder, photographs, drawing, output, RUN)
    for what in ("draw", "draws-mean"):
        with pytest.raises(InputError, match="expected draws, found expected responses alone"):
            next(response_maps(Responses(result.folder), brain, what))


# --------------------------------------------------------------------------------- the figures


@pytest.fixture
def shown(monkeypatch):
    """The maps that figures are made of, with their titles, in place of the figures."""
    found = []

    def remember(self, one, vmax=None):
        found.append(one)
        return Figure(figsize=(1, 1))

    monkeypatch.setattr(MapPlotter, "__call__", remember)
    return found


@pytest.mark.parametrize("kind", ["flatmap", "surface"])
def test_commands_plot_what_is_expected(workspace, made, mean, kind, shown, tmp_path):
    chosen = Selection(responses=made.folder, image="d")
    brain_maps(workspace, kind, chosen, output=tmp_path, run=RUN)
    brain_maps(workspace, kind, chosen, MapChoice(minus="e"), output=tmp_path, run=RUN)
    np.testing.assert_array_equal(shown[0].values, mean[3])
    np.testing.assert_array_equal(shown[1].values, np.float64(mean[3]) - mean[4])
    assert "expected response" in shown[0].title
    assert "difference of expected responses" in shown[1].title


def panel(figure, title):
    (axes,) = (axes for axes in figure.axes if axes.get_title() == title)
    return np.ma.filled(next(i for i in axes.images if i.get_gid() == "data").get_array(), np.nan)


def test_trials_stand_beside_what_is_expected(workspace, made, brain, mean):
    """Of responses, and of a test image beside its recordings: the panel is that of m alone."""
    recordings = Recordings.of(workspace, brain, QUIET.info)
    name = recordings.names[0]
    (of_test,) = recorded_trials(recordings, name, 1, TrialDraws(N_DRAWS))
    np.testing.assert_array_equal(of_test.expected, recordings.expected(name))
    (of_responses,) = response_trials(made, "b")
    np.testing.assert_array_equal(of_responses.expected, mean[1])
    for one in (of_test, of_responses):
        figure = trials_figure(brain, one, subject_labels(brain, ""), vmax=1)
        titles = [axes.get_title() for axes in figure.axes]
        assert not [title for title in titles if re.search(r"mean of \d+ draw", title)]
        alone = replace(one, draws=np.repeat(one.expected[None], 2, 0), recorded=None)
        same = trials_figure(brain, alone, subject_labels(brain, ""), vmax=1)
        np.testing.assert_array_equal(
            panel(figure, "expected response"), panel(same, "draw 1 of 2")
        )


def test_circles_of_regions_are_expected_responses(made, brain, mean):
    figure = rois_figure(brain, response_trials(made))
    masks = list(plotted_rois(brain).values())
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "expected response" in legend
    assert not [text for text in legend if text.startswith("mean of")]
    for row, axes in enumerate(figure.axes):
        (circles,) = (line for line in axes.lines if line.get_gid() == "expected")
        np.testing.assert_allclose(
            circles.get_ydata(), [mean[row][mask].mean(dtype=float) for mask in masks], rtol=1e-6
        )


def test_the_report_shows_what_its_captions_say(
    workspace, made, brain, mean, monkeypatch, tmp_path, coarse_report
):
    """Sheet, large map, SD, rotatable surface and trials, with captions and alternative texts."""
    import synbrain_cli.plotting.image_sheet as sheet_module
    import synbrain_cli.plotting.rotatable_surface as surface_module

    pictures, limits, sheets, surfaces = [], [], [], []
    picture, sheet = MapPictures.picture, sheet_module.plot_sheet
    surface = surface_module.view_surface

    def keep_picture(self, one, caption, vmax=None):
        pictures.append((one, caption))
        limits.append(vmax)
        return picture(self, one, caption, vmax)

    def keep_sheet(maps, names, labels, *rest, **options):
        sheets.append((maps, names, labels.title))
        limits.append(options["vmax"])
        return sheet(maps, names, labels, *rest, **options)

    def keep_surface(maps, labels, scale):
        surfaces.append((maps, labels, scale))
        return surface(maps, labels, scale)

    monkeypatch.setattr(MapPictures, "picture", keep_picture)
    monkeypatch.setattr(sheet_module, "plot_sheet", keep_sheet)
    monkeypatch.setattr(surface_module, "view_surface", keep_surface)
    file = report(workspace, brain, responses=made, output=tmp_path / "r.html", run=RUN)

    (maps, names, title), on_phones = sheets
    assert on_phones[0] is maps
    assert (names, title) == (list(NAMES), "Expected responses, sub-01")
    for row, one in enumerate(maps):
        for hemisphere, values in brain.to_surface(mean[row]).items():
            np.testing.assert_array_equal(one[hemisphere], values)
    (first, caption), (spread, sd_caption), *_ = pictures
    np.testing.assert_array_equal(first.values, mean[0])
    assert caption.startswith("Expected response: what the model predicts of the image")
    np.testing.assert_array_equal(spread.values, made.sd(0))
    assert "predictive standard deviation" in sd_caption
    ((turned, labels, scale),) = surfaces
    for hemisphere, values in brain.to_surface(mean[0]).items():
        np.testing.assert_array_equal(turned[hemisphere], values)
    assert labels.title == "a: expected response, sub-01"
    # Scale and outlines are those of the maps
    sizes = np.abs(np.concatenate([v for one in maps for v in one.values()], axis=0))
    assert scale.vmax == pytest.approx(np.nanquantile(sizes, 0.99), rel=0.06)  # two digits
    assert limits.count(scale.vmax) == 3  # the large map, and the sheet on pages and on phones
    assert set(labels.rois["left"]) == set(subject_labels(brain, "").rois["left"])

    page = file.read_text()
    page = re.sub(r'(?:srcdoc|data-page)="[^"]*"|data:image/[^"]*', "", page)
    assert not re.search(r"mean (of|over) (the )?(\d+ )?draws", unescape(page), re.IGNORECASE)
    assert "b: draws of one simulated brain state" in unescape(page).replace("\n", " ")


def test_a_report_of_expected_responses_alone_has_no_draws(
    workspace, brain, photographs, tmp_path, coarse_report
):
    output = Output(tmp_path / "mean", spaces=[])
    drawing = Drawing(2, sampling="mean")
    result = synthesize(workspace, brain.folder, photographs / "a.png", drawing, output, RUN)
    made = Responses(result.folder)
    file = report(workspace, brain, responses=made, output=tmp_path / "r.html", run=RUN)
    page = file.read_text()
    assert "1 image, expected responses alone." in page
    assert "Expected ROI means and intervals" not in page
    with pytest.raises(InputError, match="expected draws, found expected responses alone"):
        plot.draws(workspace, Selection(responses=made.folder), output=tmp_path, run=RUN)
