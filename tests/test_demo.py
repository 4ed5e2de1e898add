"""`synbrain demo` as a newcomer runs it, and what its models must be worth.

It trains the networks of two subjects on all bands of the default encoder, and these tests adapt to
an hour of a third in every way there is: with ``--full-demo``. Without, images are seen through
gabor alone, one subject's networks learn for less than half the time, the other's model is linear,
and `synbrain demo` goes on from there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import chromium
import nibabel as nib
import numpy as np
import pytest
from msgspec.structs import replace
from preset import WHOLE_CORE_STAGE
from typer.testing import CliRunner

from synbrain_cli import cli, load_model
from synbrain_cli.config import PRESETS
from synbrain_cli.datasets.nsd_design import image_id
from synbrain_cli.datasets.nsd_files import NSD
from synbrain_cli.experiments.retinotopy import MappingSettings, fit_prf
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.metrics.accuracy import average_repeats, voxelwise_correlation
from synbrain_cli.pipeline import demo as module
from synbrain_cli.pipeline.train import TrainSettings, train
from synbrain_cli.progress import Progress
from synbrain_cli.run import RunContext
from synbrain_cli.training import shared_core

IMAGES = Path(__file__).parents[1] / "examples" / "images"
pytestmark = pytest.mark.slow
browser, page_of = chromium.browser, chromium.page_of


def synbrain(workspace: Path, *arguments: str) -> str:
    """Run a command as typed in ``workspace``, without a new interpreter; its output."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workspace)
        patch.delenv("SYNBRAIN_WORKSPACE", raising=False)
        done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


def synbrain_demo(workspace: Path) -> str:
    """Start the program as a newcomer does, in a folder of their own; its output."""
    done = subprocess.run(
        [sys.executable, "-m", "synbrain_cli", "demo"],
        cwd=workspace,
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if k != "SYNBRAIN_WORKSPACE"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def full(request):
    return request.config.getoption("--full-demo")


@pytest.fixture(scope="module")
def demo(tmp_path_factory, full):
    root = tmp_path_factory.mktemp("demo")
    shutil.copytree(IMAGES, root / "examples/images")
    if full:
        return Workspace(root), synbrain_demo(root)
    synbrain(root, "prepare", "simulated", "--encoder", "gabor")
    synbrain(root, "train", "--subject", "2", "--model", "linear", "--name", "sub-02")
    train_shortly(Workspace(root))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SIMULATED", ("gabor",))
        return Workspace(root), synbrain(root, "demo")


def train_shortly(workspace):
    """Subject 1, as in the demo but for fewer epochs."""
    tiny = PRESETS["tiny"]
    stages = {
        name: replace(getattr(tiny, name), epochs=epochs)
        for name, epochs in (("vae_stage", 2), ("mapper_stage", 2))
    }
    subject = workspace.find_subject("1", None, print)
    store = workspace.find_tokens("simulated", None, print)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", replace(tiny, **stages))
        patch.setattr(shared_core, "CORE_STAGE", replace(WHOLE_CORE_STAGE, epochs=4))
        run = RunContext(progress=Progress(quiet=True))
        train(workspace, subject, store, TrainSettings("full"), run)


@pytest.fixture(scope="module", params=["01", "02"])
def person(request, demo):
    """Model, its predictions by name, recorded averages, and truth of a trained subject."""
    workspace, _ = demo
    model = load_model(workspace.weights / f"sub-{request.param}", "cpu")
    subject = workspace.find_subject(request.param, None, print)
    test = subject.select("test")
    tokens = workspace.find_tokens("simulated", None, print).take(test.images)
    design = NSD(workspace.root / "simulated").design
    rows = {image: row for row, image in enumerate(design.subject_images[int(model.subject) - 1])}
    with np.load(workspace.root / f"simulated/truth/subj{model.subject}.npz") as file:
        truth = file["mean"][[rows[image_id(name)] for name in test.images]]
    predicted = {"mean": model.mean(tokens, unit="z")} | {
        name: model.predict(name, tokens, unit="z") for name in model.predictors.names
    }
    return model, predicted, average_repeats(test.betas, test.image_index)[0], truth


def reliable(model):
    return model.voxels["ncsnr"].to_numpy(float) > 0.2


def test_the_mean_correlates_with_the_true_response(person, full):
    model, predicted, _, truth = person
    r = {
        name: np.median(voxelwise_correlation(truth, values)[reliable(model)])
        for name, values in predicted.items()
    }
    print(
        f"sub-{model.subject}: true-response r " + ", ".join(f"{k} {v:.3f}" for k, v in r.items())
    )
    assert r["mean"] >= 0.6
    if model.config.has_networks:
        assert r["deep"] >= (0.4 if full else 0.3)


def test_the_mean_is_right_in_every_kind_of_area(person, demo, full):
    """The network costs nothing where a linear model is right, and helps where it is not."""
    model, predicted, _, truth = person
    with np.load(demo[0].root / f"simulated/truth/subj{model.subject}.npz") as file:
        kinds = file["kind"]
    r = {name: voxelwise_correlation(truth, values) for name, values in predicted.items()}
    print(f"sub-{model.subject}: true-response r | voxels |", " | ".join(r), "|")
    by_kind = {}
    for kind in dict.fromkeys(kinds.tolist()):
        by_kind[kind] = {name: float(np.median(own[kinds == kind])) for name, own in r.items()}
        cells = " | ".join(f"{value:.3f}".lstrip("0") for value in by_kind[kind].values())
        print(f"| `{kind}` | {(kinds == kind).sum()} | {cells} |")
    assert by_kind["linear"]["mean"] >= by_kind["linear"]["linear"] - 0.005
    if full:
        assert by_kind["energy"]["mean"] > by_kind["energy"]["linear"] + 0.03
        assert all(one["mean"] >= one["linear"] - 0.02 for one in by_kind.values())


def test_the_mean_is_no_worse_than_the_better_prediction(person):
    _, predicted, recorded, _ = person
    r = {
        name: np.median(voxelwise_correlation(recorded, values))
        for name, values in predicted.items()
    }
    assert r["mean"] >= max(r.values()) - 0.005


def test_receptive_fields_are_the_true_ones(person, demo):
    """Of V1 to V3, within the picture; sizes grow from V1 to hV4."""
    model, *_ = person
    with np.load(demo[0].root / f"simulated/truth/subj{model.subject}.npz") as file:
        field, area = file["field"], np.array([name[:2] for name in file["area"]])
    found = fit_prf(
        model, MappingSettings(n_textures=1), RunContext(progress=Progress(quiet=True))
    ).fields
    eccentricity = np.hypot(field[:, 0], field[:, 1])
    near = (eccentricity < 1) & reliable(model)
    early = near & np.isin(area, ["V1", "V2", "V3"])
    true_angle = np.rad2deg(np.arctan2(field[:, 1], field[:, 0]))
    away = np.abs((found.angle - true_angle + 180) % 360 - 180)[early]
    r = np.corrcoef(found.eccentricity[early], eccentricity[early])[0, 1]
    sizes = [np.median(found.size[near & (area == name)]) for name in ("V1", "V2", "V3", "hV")]
    print(
        f"sub-{model.subject}: receptive fields of {early.sum()} voxels of V1 to V3: angle error "
        f"{np.median(away):.1f}°, eccentricity r {r:.3f}; size by area "
        + ", ".join(f"{size:.2f}" for size in sizes)
    )
    assert np.median(away) < 15
    assert r > 0.9
    assert sizes == sorted(sizes)


def test_noise_correlations_are_the_true_ones(person, demo):
    model, workspace = person[0], demo[0]
    with np.load(workspace.root / f"simulated/truth/subj{model.subject}.npz") as file:
        true = file["loadings"] @ file["loadings"].T + np.diag(file["private"] ** 2)
    noise = model.distribution.readout.noise
    ours = noise.loadings @ noise.loadings.T + np.diag(noise.private**2)
    pairs = np.triu_indices(len(true), 1)
    deviations = [np.sqrt(np.diag(c)) for c in (true, ours)]
    a, b = ((c / d / d[:, None])[pairs] for c, d in zip((true, ours), deviations, strict=True))
    agreement = np.corrcoef(a, b)[0, 1]
    print(f"sub-{model.subject}: noise correlations with the true ones r {agreement:.3f}")
    assert agreement >= 0.9


@pytest.fixture(scope="module")
def metrics(demo):
    workspace, _ = demo
    return json.loads((workspace.outputs / "sub-01_evaluation/metrics.json").read_text())


def test_draws_vary_as_held_out_trials_do(metrics):
    draws = metrics["draws"]
    assert 0.88 <= draws["coverage_90"]["model"] <= 0.92
    assert 0.47 <= draws["coverage_50"]["model"] <= 0.53
    for region, value in draws["coverage_90"]["roi"].items():
        assert 0.84 <= value <= 0.96, region
    assert 0.95 <= draws["variance_ratio"]["model"] <= 1.05
    assert 0.9 <= draws["variance_ratio_median_voxel"]["model"] <= 1.1
    assert draws["ncsnr_correlation"]["model"] >= 0.95
    assert 0.9 <= draws["ncsnr_slope"]["model"] <= 1.1
    assert draws["noise_correlation"]["share_of_ceiling"] >= 0.9


def test_draws_score_better_than_every_baseline(metrics):
    for score in ("crps", "energy_score"):
        values = metrics["draws"][score]
        for baseline in ("linear", "mean_pattern", "latent_nf1", "latent_best", "shuffled"):
            assert values["model"] < values[baseline], (score, baseline)


def test_better_than_the_mean_pattern_and_than_shuffled_images(metrics):
    smaller_is_better = {"mse"}
    for score, values in metrics["overall"].items():
        sign = -1 if score in smaller_is_better else 1
        assert sign * values["model"] > sign * values["mean_pattern"], score
        assert sign * values["model"] > sign * values["shuffled"], score
    for roi, scores in metrics["roi"].items():
        values = scores["voxelwise_correlation"]
        assert values["model"] > values["shuffled"] + 0.05, roi
    low, high = metrics["overall"]["voxelwise_correlation"]["ci"]
    assert 0 < low < metrics["overall"]["voxelwise_correlation"]["model"] < high
    assert high < metrics["overall"]["voxelwise_correlation"]["ceiling"]
    decoded = metrics["retrieval"]["linear_decoder"]
    assert decoded["raw"] > 5 * metrics["retrieval"]["chance"]
    assert decoded["syn"] > decoded["shuffled"]


def test_the_demo_says_what_it_made(demo):
    workspace, output = demo
    assert "Draws against held-out trials" in output
    assert "simulated" in output
    for line in output.splitlines():
        if line.startswith(("model ", "responses", "flatmaps", "scores", "report")):
            assert (workspace.root / line.split()[-1]).exists()
    assert len(list(workspace.root.glob("outputs/sub-01_images/figures/*.png"))) == 4


def test_the_report_works_in_a_browser(demo, page_of):
    workspace, _ = demo
    file = workspace.outputs / "sub-01_report.html"
    assert file.stat().st_size < 12e6
    chromium.check_page(page_of(), file)


def test_commands_as_typed_afterwards(demo, full):
    workspace, _ = demo
    output = synbrain(
        workspace.root, "synthesize", "examples/images", "--subject", "2", "--samples", "8"
    )
    draws = np.load(output.split()[0])
    assert draws.shape[:2] == (4, 8)
    assert nib.load(output.split()[1]).shape[3] == 8
    if full:
        assert "mean_pattern" in synbrain(
            workspace.root, "evaluate", "--paper", "--no-latent", "--draws", "20"
        )
    figures = synbrain(workspace.root, "plot-flatmap").split()
    assert len(figures) == 4
    assert all("sub-02" in Path(figure).name for figure in figures)


def test_an_hour_of_a_new_person_is_worth_something(demo, full):
    """In small: ``pipeline/test_adapt.py``."""
    if not full:
        pytest.skip("five minutes: with --full-demo alone")
    workspace, _ = demo
    assert "sub-03_hours-1" in synbrain(workspace.root, "adapt", "--hours", "1")
    output = synbrain(workspace.root, "evaluate", "--subject", "3", "--no-latent", "--draws", "20")
    metrics = json.loads(Path(output.split()[-2]).read_text())
    scores = metrics["overall"]["voxelwise_correlation"]
    assert scores["ci"][0] > max(0.05, scores["shuffled"])


def test_nothing_is_left_half_written(demo):
    workspace, _ = demo
    hidden = [p for p in workspace.root.rglob(".*") if p.name.endswith((".partial", ".lock"))]
    assert not hidden
