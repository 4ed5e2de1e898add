"""The report of a model: its sections, whichever data are available."""

from __future__ import annotations

import json
import re
import shutil
from html import unescape

import chromium
import numpy as np
import pytest
from conftest import QUIET
from msgspec import UNSET
from msgspec.structs import replace
from PIL import Image
from sealing import reseal_bundle

from synbrain_cli.brain import load_model
from synbrain_cli.brain.drawing import Drawing
from synbrain_cli.errors import InputError
from synbrain_cli.evaluation.settings import EvaluateSettings
from synbrain_cli.io.arrays import load_arrays, save_arrays
from synbrain_cli.io.bundle import fingerprint
from synbrain_cli.io.results.evaluation import read_evaluation
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.pipeline.evaluate import evaluate
from synbrain_cli.pipeline.report import report
from synbrain_cli.pipeline.synthesize import synthesize
from synbrain_cli.plotting import flatmap, image_sheet, rotatable_surface, surface
from synbrain_cli.plotting.report.key_numbers import key_numbers
from synbrain_cli.plotting.report.page import figure_png, number_text
from synbrain_cli.plotting.sources.responses import Responses
from synbrain_cli.run import RunContext

browser, page_of = chromium.browser, chromium.page_of


SYNTHESIZE = "synbrain synthesize 'private folder' -n 5 --subject 1"
EVALUATE = "synbrain evaluate --draws 20 --no-latent"


@pytest.fixture(scope="module", autouse=True)
def _coarse():
    """Figures with a fifth of their pixels: most of the time goes into those."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figure_png, "__defaults__", (50,))
        yield


@pytest.fixture(scope="module")
def workspace(prepared, trained, subject, store, tmp_path_factory):
    """A workspace where responses to six images were synthesized, and the model evaluated."""
    root = tmp_path_factory.mktemp("reported")
    for name in ("prepared", "weights", "simulated"):
        (root / name).symlink_to(prepared.root / name)
    (root / "private folder").mkdir()
    rng = np.random.default_rng(0)
    for k in range(6):
        pixels = rng.integers(0, 256, (8, 8, 3), np.uint8).repeat(16, 0).repeat(16, 1)
        Image.fromarray(pixels).save(root / f"private folder/<b>{k}.png")
    workspace = Workspace(root)
    brain = load_model(root / "weights/sub-01", "cpu")
    run = RunContext(progress=QUIET, command=SYNTHESIZE)
    synthesize(workspace, brain.folder, root / "private folder", Drawing(5), run=run)
    few = EvaluateSettings(n_draws=20, latent=False, n_boot=50)
    run = RunContext(progress=QUIET, command=EVALUATE)
    evaluate(workspace, brain, subject, store, few, run=run)
    return workspace


@pytest.fixture(scope="module")
def brain(workspace):
    return load_model(workspace.weights / "sub-01", "cpu")


@pytest.fixture(scope="module")
def page(workspace, brain):
    return report(workspace, brain, run=RunContext(progress=QUIET)).read_text()


def text(page):
    """What is read, without frames, images and tags."""
    page = re.sub(r'(?:srcdoc|data-page)="[^"]*"|data:image/[^"]*', "", page)
    page = re.sub(r"<(style|script)\b.*?</\1>", "", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", page)))


def test_everything_is_told(page, workspace):
    said = text(page)
    assert "Simulated subject: the responses this model was trained and tested on are made" in said
    for title in (
        "Model and settings", "Responses to the images", "Draws compared with recorded trials",
        "Prediction accuracy", "Calibration of draws", "Provenance",
    ):  # fmt: skip
        assert re.search(rf"<h2[^>]*>.*?{re.escape(title)}", page, re.DOTALL), title
    metrics = json.loads((workspace.outputs / "sub-01_evaluation/metrics.json").read_text())
    score = metrics["overall"]["voxelwise_correlation"]
    row = re.search(
        r"correlation over images, median voxel (\S+) \((\S+) to (\S+)\) (\S+) (\S+)", said
    )
    assert row is not None
    found = [float(value.replace("−", "-")) for value in row.groups()]
    expected = [score["model"], *score["ci"], score["linear"], score["mean_pattern"]]
    np.testing.assert_allclose(found, expected, atol=6e-4)
    assert f"{metrics['draws']['coverage_90']['model']:.3f}" in said
    commands = re.findall(r"<pre><code>(.*?)</code></pre>", page, re.DOTALL)
    repeat = "synbrain plot report --model sub-01"
    assert [text(command).strip() for command in commands] == [SYNTHESIZE, EVALUATE, repeat]


def test_the_numbers_that_matter_stand_at_the_head(page, workspace):
    metrics = json.loads((workspace.outputs / "sub-01_evaluation/metrics.json").read_text())
    box = re.search(r'<aside class="key".*?</aside>', page, re.DOTALL)
    assert box.start() < page.index("<nav")
    numbers = [text(item) for item in re.findall(r"<li>.*?</li>", box[0], re.DOTALL)]
    overall, draws = metrics["overall"], metrics["draws"]
    expected = [
        overall["voxelwise_correlation"],
        overall["noise_normalised_r2"],
        overall["two_way_identification"],
        draws["coverage_90"],
        draws["ncsnr_median_ratio"],
    ]
    assert len(numbers) == 5
    for said, score in zip(numbers, expected, strict=True):
        assert said.split()[0] == number_text(score["model"])
    assert f"ceiling {number_text(expected[0]['ceiling'])}" in numbers[0]
    for word, score in (("r", "ncsnr_correlation"), ("slope", "ncsnr_slope")):
        for who in ("model", "test_trials"):
            assert f"{word} {number_text(draws[score][who])}" in numbers[4]


def test_numbers_that_the_data_do_not_have_are_replaced_or_left_out(workspace):
    metrics = read_evaluation(workspace.outputs / "sub-01_evaluation")
    without = replace(
        metrics,
        overall=replace(metrics.overall, noise_normalised_r2=UNSET, two_way_identification=UNSET),
        draws=replace(metrics.draws, ncsnr_median_ratio=UNSET, coverage_90_region_means=UNSET),
        doubtful={"skill": "few images"},
    )
    first, second, third, fourth = key_numbers(without).numbers
    assert first.value == number_text(metrics.overall.voxelwise_correlation.model)
    assert second.label.startswith("skill")
    assert second.beside.startswith("means nothing here")
    assert third.value == number_text(metrics.draws.coverage_90.model)
    assert "region" not in third.beside
    assert fourth.value == number_text(metrics.draws.variance_ratio.model)


def test_the_table_leaves_the_ceiling_of_patterns_empty_and_names_what_stands_for_it(
    page, workspace
):
    metrics = json.loads((workspace.outputs / "sub-01_evaluation/metrics.json").read_text())
    score = metrics["overall"]["pattern_correlation"]
    row = re.search(r"<tr[^>]*>\s*<th[^>]*>correlation over voxels.*?</tr>", page, re.DOTALL)[0]
    assert text(row).split()[-1] == "–"
    assert f"correlates with a trial by {number_text(score['recording'])}" in text(page)
    assert "reliability by voxel (ncsnr): median ratio" in text(page)


def test_nothing_private_or_dangerous_is_in_it(page, workspace):
    assert str(workspace.root) not in page
    assert "<b>0" not in page
    assert "-b-0" in text(page)


def test_pictures_say_what_they_show(page):
    alts = [unescape(alt) for alt in re.findall(r'<img\b[^>]*?\balt="([^"]*)"', page)]
    assert len(alts) >= 10
    assert all(len(alt) > 8 for alt in alts)
    means = next(alt for alt in alts if "standard deviation of a single trial" in alt)
    assert re.search(r"Means by region, in percent signal change: \S+ \d", means)


def test_maps_of_a_section_have_the_scale_that_its_caption_names(
    workspace, brain, monkeypatch, tmp_path
):
    """The sheet, the large map and the surface to turn; the standard deviation has its own."""
    limits = {}

    def remembering(where, name, scale_of):
        original = getattr(where, name)

        def plot(*given, **options):
            limits.setdefault(name, []).append(scale_of(*given, **options))
            return original(*given, **options)

        monkeypatch.setattr(where, name, plot)

    remembering(image_sheet, "plot_sheet", lambda *_, vmax: (True, vmax))
    for where, name in ((rotatable_surface, "view_surface"), (surface, "plot_surface")):
        remembering(where, name, lambda maps, labels, scale: (scale.symmetric, scale.vmax))
    remembering(flatmap, "plot_flatmap", lambda maps, labels, scale: (scale.symmetric, scale.vmax))
    text = report(workspace, brain, output=tmp_path / "r.html", run=RunContext(progress=QUIET))
    text = unescape(text.read_text())
    signed = [vmax for found in limits.values() for symmetric, vmax in found if symmetric]
    assert set(limits) == {"plot_sheet", "view_surface", "plot_surface", "plot_flatmap"}
    assert len(signed) == 7  # all but the surface to turn also for phones
    (vmax,) = set(signed)
    said = f"one colour scale, from −{vmax:.3g} to {vmax:.3g} (percent signal change)"
    assert said in text
    assert "on one colour scale, which is that of the other maps" in text
    assert "on the colour scale of the flatmaps." in text


def test_maps_of_accuracy_and_ceiling_are_one_picture_of_so_many_images(page, workspace):
    record = read_evaluation(workspace.outputs / "sub-01_evaluation")
    text = unescape(page)
    assert (
        f"a: Correlation with the recorded responses to {record.n_test_images} test images "
        f"({record.n_test_trials} trials), by voxel. Correlations below 0 have the colour of 0. "
        "b: the noise ceiling" in text
    )
    alternatives = re.findall(r'alt="(Flatmap: prediction[^"]*)"', text)
    assert len(alternatives) == 1
    assert "Flatmap: noise ceiling of averages of" in alternatives[0]


def test_the_report_says_which_voxels_its_maps_show(page, workspace, brain, synbrain, tmp_path):
    assert "all, whatever their reliability (see --min-ncsnr)" in unescape(page)
    assert "Voxels with an ncsnr below" not in page
    ncsnr = brain.voxels["ncsnr"].to_numpy()
    least = round(float(np.median(ncsnr)), 3)
    n_left = (ncsnr >= least).sum()
    output = str(tmp_path / "masked.html")
    given = ["-w", workspace.root, "-m", "sub-01", "--min-ncsnr", least, "-o", output, "-q"]
    code, _, error = synbrain("plot", "report", *given)
    assert code == 0, error
    text = unescape((tmp_path / "masked.html").read_text())
    remain = f"Voxels with an ncsnr below {least:g} are grey: {n_left} of {brain.n_voxels} remain."
    # Sheet, large map, SD, surface to turn and still, recorded trials, accuracy and ceiling
    assert text.count(remain) == 7
    assert f"ncsnr ≥ {least:g} in {n_left} of {brain.n_voxels} voxels" in text


def test_the_command_writes_the_same_again(workspace, page, synbrain, tmp_path):
    file = tmp_path / "sent.html"
    code, output, error = synbrain("plot", "report", "-w", workspace.root, "-o", file, "-q")
    assert code == 0, error
    assert output.split() == [str(file)]
    assert page.startswith("<!DOCTYPE html>")
    assert file.read_text() == page
    assert len(page) < 12e6


def test_a_model_of_which_nothing_else_is_known(trained, tmp_path):
    """No responses, no evaluation, no recordings at hand."""
    shutil.copytree(trained.weights / "sub-01", tmp_path / "weights/sub-01")
    workspace = Workspace(tmp_path)
    brain = load_model(tmp_path / "weights/sub-01", "cpu")
    said = text(report(workspace, brain, run=RunContext(progress=QUIET)).read_text())
    assert "This model has not been evaluated" in said
    assert "synbrain evaluate --model sub-01" in said
    assert "this is no test score" in said
    assert "recorded trials are not available here" in said
    assert "Responses to the images" not in said


def test_responses_of_another_training_are_refused_or_left_out(workspace, trained, tmp_path):
    shutil.copytree(trained.weights / "sub-01", tmp_path / "weights/sub-01")
    folder = tmp_path / "weights/sub-01"
    arrays = load_arrays(folder / "arrays.safetensors")
    save_arrays(folder / "arrays.safetensors", arrays | {"response_sd": arrays["response_sd"] * 2})
    reseal_bundle(folder, fingerprint=fingerprint(folder))
    brain = load_model(folder, "cpu")
    arrays = workspace.outputs.glob("*/sub-*/func/*_desc-draws_betas.npy")
    (folder,) = (path.parents[2] for path in arrays)
    with pytest.raises(InputError, match="was not drawn by"):
        report(workspace, brain, responses=Responses(folder), run=RunContext(progress=QUIET))
    said = text(
        report(
            workspace, brain, output=tmp_path / "r.html", run=RunContext(progress=QUIET)
        ).read_text()
    )
    assert "Responses to the images" not in said
    assert "is of another training of this model, and is not shown" in said


def test_in_a_browser(workspace, page, page_of):
    chromium.check_page(page_of(), workspace.outputs / "sub-01_report.html")
