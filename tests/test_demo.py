"""`synbrain demo` as a newcomer runs it, and what its models must be worth.

Some minutes: it trains two models at the demo's preset.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from synbrain_cli import load_model
from synbrain_cli.datasets.nsd import NSD, image_id
from synbrain_cli.metrics.accuracy import average_repeats, voxelwise_correlation
from synbrain_cli.pipeline.workspace import Workspace

IMAGES = Path(__file__).parents[1] / "examples" / "images"
pytestmark = pytest.mark.slow


def synbrain(workspace: Path, *arguments: str) -> str:
    """Run a command as typed in ``workspace``; its output."""
    done = subprocess.run(
        [sys.executable, "-m", "synbrain_cli.cli", *arguments],
        cwd=workspace,
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if k != "SYNBRAIN_WORKSPACE"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo")
    shutil.copytree(IMAGES, root / "examples/images")
    output = synbrain(root, "demo")
    return Workspace(root), output


@pytest.fixture(scope="module", params=["01", "02"])
def person(request, demo):
    """Model, test data and truth of a trained subject: (model, predictions, recorded, truth)."""
    workspace, _ = demo
    model = load_model(workspace.weights / f"sub-{request.param}", "cpu")
    subject = workspace.find_subject(request.param, None, print)
    test = subject.select("test")
    tokens = workspace.find_tokens("simulated", None, print).take(test.images)
    design = NSD(workspace.root / "simulated").design
    rows = {image: row for row, image in enumerate(design.subject_images[int(model.subject) - 1])}
    with np.load(workspace.root / f"simulated/truth/subj{model.subject}.npz") as file:
        truth = file["mean"][[rows[image_id(name)] for name in test.images]]
    return model, tokens, average_repeats(test.betas, test.image_index)[0], truth


def reliable(model):
    return model.voxels["ncsnr"].to_numpy(float) > 0.2


def test_the_mean_correlates_with_the_true_response(person):
    model, tokens, _, truth = person
    r = np.median(voxelwise_correlation(truth, model.mean(tokens, "z"))[reliable(model)])
    linear = voxelwise_correlation(truth, model.predict_linear(tokens, "z"))[reliable(model)]
    print(f"sub-{model.subject}: true-response r {r:.3f}, linear encoder {np.median(linear):.3f}")
    assert r >= 0.5
    assert np.median(linear) >= 0.5


def test_better_than_the_mean_pattern_and_than_shuffled_images(demo):
    workspace, _ = demo
    metrics = json.loads((workspace.outputs / "sub-01_evaluation/metrics.json").read_text())
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


def test_draws_differ_and_their_mean_approaches_the_mean(person):
    model, tokens, _, _ = person
    some = tokens[:10]
    mean, draws = model.mean(some, "z"), model.draw(some, n_draws=32, unit="z")
    assert draws.std(1).mean() > 0.05

    def agreement(n):
        return np.corrcoef(draws[:, :n].mean(1).ravel(), mean.ravel())[0, 1]

    assert agreement(1) < agreement(4) < agreement(32)
    assert agreement(32) > 0.95


def test_the_demo_says_what_it_made(demo):
    workspace, output = demo
    assert "voxelwise_correlation" in output
    assert "simulated" in output
    for line in output.splitlines():
        if line.startswith(("model ", "responses", "flatmaps", "scores", "accuracy map")):
            assert (workspace.root / line.split()[-1]).exists()
    assert len(list(workspace.root.glob("outputs/sub-01_images/figures/*.png"))) == 4


def test_commands_as_typed_afterwards(demo):
    workspace, _ = demo
    output = synbrain(
        workspace.root, "synthesize", "examples/images", "--subject", "2", "--samples", "8"
    )
    draws = np.load(output.split()[0])
    assert draws.shape[:2] == (4, 8)
    assert nib.load(output.split()[1]).shape[3] == 8
    assert "sub-03_hours-1" in synbrain(workspace.root, "adapt", "--hours", "1")
    assert "voxelwise_correlation" in synbrain(workspace.root, "evaluate")
    figures = synbrain(workspace.root, "plot-flatmap").split()
    assert len(figures) == 4
    assert all("sub-02" in Path(figure).name for figure in figures)


def test_an_hour_of_a_new_person_is_worth_something(demo):
    """Runs after the adaptation above."""
    workspace, _ = demo
    if not (workspace.weights / "sub-03_hours-1").exists():
        synbrain(workspace.root, "adapt", "--hours", "1")
    output = synbrain(workspace.root, "evaluate", "--subject", "3")
    metrics = json.loads(Path(output.split()[-1]).read_text())
    scores = metrics["overall"]["voxelwise_correlation"]
    assert scores["ci"][0] > max(0.05, scores["shuffled"])


def test_nothing_is_left_half_written(demo):
    workspace, _ = demo
    hidden = [p for p in workspace.root.rglob(".*") if p.name.endswith((".partial", ".lock"))]
    assert not hidden
