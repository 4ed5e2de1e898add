"""Which band of the linear encoder contributes most: known winners, grey voxels, files, errors."""

from __future__ import annotations

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import QUIET, SMALL
from matplotlib.colors import to_rgb
from msgspec.structs import replace as changed
from PIL import Image

from synbrain_cli.brain import load_model
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.model.linear import LinearEncoder, Ridge
from synbrain_cli.pipeline.layers import layers
from synbrain_cli.pipeline.plot import Selection
from synbrain_cli.pipeline.prepare import prepare_simulated
from synbrain_cli.pipeline.preparing import Target
from synbrain_cli.pipeline.report import report
from synbrain_cli.pipeline.train import TrainSettings, train
from synbrain_cli.plotting.categories import Categories
from synbrain_cli.plotting.figure import figure_style
from synbrain_cli.plotting.layers import layers_map, plot_layers
from synbrain_cli.plotting.map_plotter import Look, MapPlotter
from synbrain_cli.plotting.reliability import Reliability
from synbrain_cli.plotting.sources.layers import ALL, Layers, check_bands, layers_table
from synbrain_cli.run import RunContext
from synbrain_cli.tokens import Tokens

RUN = RunContext(progress=QUIET)
BANDS = ("gabor", "pixels")


@pytest.fixture(scope="module")
def two_bands(made_once) -> Workspace:
    """A workspace with a linear encoder of two bands of subject 1."""

    def make(workspace: Workspace) -> None:
        prepare_simulated(Target(workspace, "simulated", BANDS), changed(SMALL, n_subjects=1), RUN)
        subject = workspace.find_subject("1", None, QUIET.info)
        store = workspace.find_tokens("simulated", BANDS, QUIET.info)
        train(workspace, subject, store, TrainSettings(model="linear"), RUN)

    return made_once("two-bands", make)


@pytest.fixture
def brain(two_bands):
    return load_model(two_bands.weights / "sub-01_linear", "cpu")


@pytest.fixture
def known(brain):
    """The same with weights by hand: gabor alone in V1, pixels alone in V2, elsewhere none."""
    linear, rois = brain.predictors.linear, brain.rois()
    weights = np.zeros_like(linear.weights)
    weights[0, rois["V1"]] = 0.1
    weights[1, rois["V2"]] = 0.1
    pixels = linear.ridges[1]
    pixels = replace(pixels, coefficients=np.ones_like(pixels.coefficients))
    gabor = replace(linear.ridges[0], coefficients=np.ones_like(linear.ridges[0].coefficients))
    by_hand = replace(linear, ridges=(gabor, pixels), weights=weights)
    vars(brain.predictors)["linear"] = by_hand
    return brain


# ------------------------------------------------------------------------- contributions


def band(scale: float) -> Ridge:
    """A ridge that predicts its only token times a number, in two voxels."""
    return Ridge(
        np.zeros(1, np.float32),
        np.ones((1, 1), np.float32),
        np.full((1, 2), scale, np.float32),
        np.full(2, 5, np.float32),
        np.ones(2, np.float32),
    )


def encoder(one: Ridge, other: Ridge, weights: np.ndarray) -> LinearEncoder:
    return LinearEncoder(
        ridges=(one, other), fields=(None, None), weights=weights, mean=np.zeros(2, np.float32)
    )


def test_contributions_are_sds_of_weighted_predictions_and_no_weights(rng):
    """The heavier band predicts with a smaller SD, and loses."""
    weights = np.array([[0.9, 0], [0.1, 0]], np.float32)
    linear = encoder(band(0.01), band(1.0), weights)
    values = [rng.normal(3, sd, (50, 1, 1)).astype(np.float32) for sd in (1, 2)]
    tokens = Tokens.of(*values)
    found = linear.contributions(tokens[i : i + 7] for i in range(0, 50, 7))
    expected = [0.9 * 0.01 * values[0].std(), 0.1 * values[1].std()]
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-4)
    assert linear.by_band()[:, 0].argmax() == 0
    assert found[:, 0].argmax() == 1
    assert (found[:, 1] == 0).all()


def test_a_band_that_predicts_the_same_of_all_images_contributes_nothing():
    linear = encoder(band(0.3), band(1.0), np.ones((2, 2), np.float32))
    same = np.full((9, 1, 1), 0.1, np.float32)
    found = linear.contributions([Tokens.of(same, np.arange(9, dtype=np.float32)[:, None, None])])
    assert (found[0] == 0).all()
    assert (found[1] > 0).all()


def test_contributions_of_a_trained_encoder_are_those_of_its_members(brain, two_bands):
    found = Layers.of(two_bands, brain, QUIET)
    subject = two_bands.find_subject("1", None, QUIET.info)
    store = two_bands.find_tokens("simulated", BANDS, QUIET.info)
    images = subject.select("test").images
    assert found.n_images == len(images)
    linear, tokens = brain.predictors.linear, brain.predictors.scaler(store.take(images))
    for k in range(2):
        own = np.zeros((len(images), brain.n_voxels))
        for member, weight, of in zip(
            linear._members[0], linear.weights, linear._members[1], strict=True
        ):
            if of == k:
                own += weight * member.predict(tokens.bands[k])
        np.testing.assert_allclose(found.contributions[k], own.std(0), rtol=1e-3, atol=1e-5)


# ------------------------------------------------------------------------ winners and grey


def test_known_winners_by_region_and_grey_elsewhere(known, two_bands):
    found, rois = Layers.of(two_bands, known, QUIET), known.rois()
    assert (found.best[rois["V1"]] == 0).all()
    assert (found.best[rois["V2"]] == 1).all()
    assert np.isnan(found.best[~(rois["V1"] | rois["V2"])]).all()
    everything = np.ones(known.n_voxels, bool)
    table = layers_table(known, found, everything).set_index(["region", "band"])
    assert table.loc[("V1", "gabor"), "fraction_won"] == 1
    assert table.loc[("V1", "pixels"), "mean_share"] == 0
    assert table.loc[("V2", "pixels"), "fraction_won"] == 1
    n = int(rois["V1"].sum()), int(rois["V2"].sum())
    assert table.loc[(ALL, "gabor"), "n_voxels"] == sum(n)
    assert table.loc[(ALL, "gabor"), "fraction_won"] == pytest.approx(n[0] / sum(n))
    assert table.loc[("V3", "gabor"), "n_voxels"] == 0
    assert np.isnan(table.loc[("V3", "gabor"), "fraction_won"])


def test_the_map_has_the_colours_of_the_winners(known, two_bands):
    shown = layers_map(known, Layers.of(two_bands, known, QUIET))
    figure = MapPlotter(known, "flatmap", Look(), QUIET)(shown)
    data = next(one for one in figure.axes[0].images if one.get_gid() == "data")
    numbers = data.get_array()
    assert set(np.unique(numbers.compressed())) == {0, 1}
    colours = {tuple(np.round(data.cmap(data.norm(k))[:3], 3)) for k in (0, 1)}
    assert colours == {tuple(np.round(to_rgb(c), 3)) for c in shown.categories.colours}
    assert [text.get_text() for text in figure.texts if text.get_gid() == "category"] == [*BANDS]
    assert any(text.get_text() == "simulated subject" for text in figure.texts)


def test_unreliable_voxels_do_not_count_and_are_grey(known, two_bands):
    found = Layers.of(two_bands, known, QUIET)
    reliable = Reliability.of(known, 0.3)
    shown = reliable.map(layers_map(known, found))
    assert np.isnan(shown.values[~reliable.voxels]).all()
    assert "Voxels with an ncsnr below 0.3 are grey" in shown.unit
    own = reliable.voxels & known.rois()["V1"]
    table = layers_table(known, found, reliable.voxels).set_index(["region", "band"])
    assert table.loc[("V1", "gabor"), "n_voxels"] == own.sum()


@pytest.mark.parametrize("style", ["screen", "paper", "talk", "phone"])
def test_captions_are_the_definition_and_nothing_leaves_the_page(known, two_bands, style):
    found = Layers.of(two_bands, known, QUIET)
    specs = (
        "gabor",
        "openclip:ViT-B-16/laion2b_s34b_b88k@3",
        "openclip:ViT-B-16/laion2b_s34b_b88k@6",
    )
    several = Layers(specs, np.vstack([found.contributions, found.contributions[:1]]), 40)
    shown = layers_map(known, several)
    table = layers_table(known, several, np.ones(known.n_voxels, bool))
    with figure_style(style):
        figures = [
            MapPlotter(known, "flatmap", Look(style=style), QUIET)(shown),
            plot_layers(table, shown.unit, title=shown.title, note=None),
        ]
    assert "SD over 40 test images of the sum of weight × prediction" in several.definition
    for figure in figures:
        caption = next(text for text in figure.texts if text.get_gid() == "caption")
        assert " ".join(caption.get_text().split()) == several.definition
        width, height = figure.bbox.size
        for text in figure.texts:
            box = text.get_window_extent()
            assert -1 <= box.x0 <= box.x1 <= width + 1, text
            assert -1 <= box.y0 <= box.y1 <= height + 1, text


# ------------------------------------------------------------------------------- colours


def test_layers_of_an_encoder_run_from_light_to_dark_and_encoders_differ():
    specs = ["gabor", "efficientnet@5", "efficientnet@3", "efficientnet@4", "pixels"]
    found = Categories.of_bands(specs)
    light = {name: lightness(c) for name, c in zip(found.names, found.colours, strict=True)}
    layers = [light[f"efficientnet@{k}"] for k in (3, 4, 5)]
    assert layers == sorted(layers, reverse=True)
    assert len(set(found.colours)) == len(specs)


# Machado, Oliveira & Fernandes 2009 (IEEE TVCG 15:1291), severity 1: of linear RGB
BLIND = {
    "protan": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deutan": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritan": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


@pytest.mark.parametrize("kind", BLIND)
def test_colours_of_the_default_bands_can_be_told_apart_by_the_colour_blind(kind):
    from synbrain_cli.bands import DEFAULT, band_spec, group_bands

    specs = [band_spec(e, k) for e, layers in group_bands(DEFAULT) for k in layers or (None,)]
    labs = [lab(c, BLIND[kind]) for c in Categories.of_bands(specs).colours]
    pairs = [np.linalg.norm(a - b) for i, a in enumerate(labs) for b in labs[:i]]
    assert min(pairs) > 15  # ΔE*ab; 2.3 is just noticeable


def lab(colour, seen_as=None):
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    if seen_as is not None:
        linear = np.clip(np.array(seen_as) @ linear, 0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.cbrt(np.array(to_xyz) @ linear / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def lightness(colour):
    return lab(colour)[0]


# ------------------------------------------------------------------------------ commands


def test_the_command_writes_a_map_bars_and_a_table(two_bands, tmp_path, synbrain):
    typed = f"plot layers --subject 1 --dpi 40 -w {two_bands.root} -o {tmp_path / 'out'}"
    code, printed, error = synbrain(*typed.split())
    assert code == 0, error
    assert "fraction of voxels in which each band contributes most" in printed
    names = [f"sub-01_linear_layers_{part}" for part in ("flatmap.png", "rois.png", "rois.tsv")]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(names)
    assert printed.splitlines()[-3:] == [str(tmp_path / "out" / name) for name in names]
    for name in names[:2]:
        assert Image.open(tmp_path / "out" / name).size[0] == 440
    table = pd.read_csv(tmp_path / "out" / names[2], sep="\t")
    assert list(table) == ["region", "n_voxels", "band", "fraction_won", "mean_share"]
    for column in ("fraction_won", "mean_share"):
        total = table[table["n_voxels"] > 0].groupby("region")[column].sum()
        np.testing.assert_allclose(total, 1, atol=1e-3)


def test_other_formats_and_styles(two_bands, tmp_path):
    for format in ("svg", "pdf"):
        look = Look(format=format, style="paper", min_ncsnr=0.1)
        files = layers(two_bands, Selection("sub-01_linear"), look=look, output=tmp_path).files
        assert [file.suffix for file in files] == [f".{format}", f".{format}", ".tsv"]
        assert all("ncsnr-0.1" in file.name and file.stat().st_size for file in files)


def test_the_report_has_the_section(two_bands, brain, tmp_path, coarse_report):
    file = report(two_bands, brain, output=tmp_path / "report.html", run=RUN)
    html = file.read_text("utf-8")
    assert "Bands of the linear encoder" in html
    assert "SD over" in html
    assert "That of most voxels by region: V1 " in html


def test_the_card_tells_what_members_carry(two_bands):
    card = (two_bands.weights / "sub-01_linear" / "card.md").read_text("utf-8")
    assert "| region | voxels | linear | gabor | pixels |" in card
    assert card.index("\n| all |") < card.index("\n| V1 |") < card.index("\n| V3 |")


# -------------------------------------------------------------------------------- errors


def test_a_single_band_has_nothing_to_compare(linear_bundles):
    single = load_model(linear_bundles["1"], "cpu")
    with pytest.raises(
        InputError,
        match=r"single band, gabor, so there is nothing to compare.*"
        r"synbrain prepare.*--encoder",
    ):
        check_bands(single)


def test_published_weights_have_no_linear_encoder():
    config = SimpleNamespace(has_readout=False, bands=("a",))
    with pytest.raises(InputError, match="published weights come without a linear encoder"):
        check_bands(SimpleNamespace(name="imported", config=config))


def test_tokens_that_are_not_in_the_workspace(two_bands, tmp_path):
    own = Workspace(tmp_path)
    shutil.copytree(two_bands.root, tmp_path, dirs_exist_ok=True, symlinks=True)
    shutil.rmtree(own.prepared / "simulated" / "features" / "pixels")
    with pytest.raises(
        MissingError, match=r"no image tokens of gabor \+ pixels .*there are: gabor"
    ):
        layers(own, Selection("sub-01_linear"), run=RUN)
