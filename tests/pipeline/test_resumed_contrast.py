"""Contrasts and localizers that were interrupted: the same call goes on, and gives the same."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
from conftest import QUIET
from listening import Listening
from PIL import Image
from tiny import content

from synbrain_cli.brain import load_model
from synbrain_cli.experiments import keeping, predicted
from synbrain_cli.experiments.conditions import Condition, images_of
from synbrain_cli.experiments.contrast import ContrastSettings
from synbrain_cli.experiments.power import Experiment
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.pipeline.contrast import Plan, contrast_conditions
from synbrain_cli.pipeline.localize import localize_categories
from synbrain_cli.pipeline.map_writer import MapWriter
from synbrain_cli.run import RunContext

power = importlib.import_module("synbrain_cli.experiments.power")  # beside the function power
SETTINGS = ContrastSettings(n_permutations=20)
EXPERIMENT = Experiment(trials=8, sessions=1, n_simulated=20)
N_IMAGES, N_SIMULATED = 12, 20 * 4  # with the numbers of trials; with 2, 4 and 6 images


@pytest.fixture(scope="module")
def conditions(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("conditions"), np.random.default_rng(0)
    for name in ("one", "two"):
        (folder / name).mkdir()
        for k in range(N_IMAGES // 2):
            pixels = rng.integers(0, 256, (40, 40, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{k}.png")
    return tuple(Condition(name, images_of(folder / name)) for name in ("one", "two"))


@pytest.fixture(scope="module")
def brain(linear_bundles):
    return load_model(linear_bundles["1"], "cpu")


@pytest.fixture(scope="module", autouse=True)
def small_pieces():
    """Small pieces; and no pictures of maps, which take longer than all the rest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keeping, "TOGETHER", 4)
        patch.setattr(predicted, "BATCH", 4)
        patch.setattr(power, "TOGETHER", 5)
        patch.setattr(MapWriter, "plot", lambda *arguments: None)
        yield


@pytest.fixture
def counted(brain, monkeypatch):
    """What was computed: images and scrambled images shown, experiments simulated."""
    done = {"stop": None, "images": 0, "experiments": 0}

    def counting(name, call, n_of=lambda *arguments: 1):
        def called(*arguments):
            n = n_of(*arguments)
            kind, most = done["stop"] or (None, 0)
            if kind == name and done[name] + n > most:
                raise KeyboardInterrupt
            done[name] += n
            return call(*arguments)

        return called

    look, simulate = type(brain).mean_of_tokens, power._Simulated._signals
    of_images = counting("images", look, lambda brain, tokens: len(tokens))
    monkeypatch.setattr(type(brain), "mean_of_tokens", of_images)
    monkeypatch.setattr(power._Simulated, "_signals", counting("experiments", simulate))
    return done


def run_contrast(workspace, brain, conditions, output, progress=QUIET):
    plan, run = Plan(conditions, SETTINGS, EXPERIMENT), RunContext(progress=progress)
    return contrast_conditions(workspace, brain, plan, output=output, run=run).folder


def run_localizer(workspace, brain, conditions, output, progress=QUIET):
    run = RunContext(progress=progress)
    return localize_categories(
        workspace, brain, conditions, SETTINGS, output=output, run=run
    ).folder


@pytest.fixture(scope="module")
def whole(own_workspace, brain, conditions, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run_contrast(own_workspace, brain, conditions, folder / "contrast")
    run_localizer(own_workspace, brain, conditions, folder / "categories")
    return folder


@pytest.fixture(scope="module")
def own_workspace(tmp_path_factory):
    return Workspace(tmp_path_factory.mktemp("workspace"))


def files_of(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): content(path) for path in found}


def cut(folder: Path, pattern: str) -> None:
    path = min(folder.rglob(pattern))
    path.write_bytes(path.read_bytes()[:-20])


STOPS = {  # where it stops → what is computed by the run that continues
    "the sixth image": (("images", 5), 2 * N_IMAGES - 4, N_SIMULATED),
    "a scrambled image": (("images", N_IMAGES + 9), 4, N_SIMULATED),
    "a simulation over trials": (("experiments", 13), 0, N_SIMULATED - 10),
    "a simulation over images": (("experiments", 57), 0, N_SIMULATED - 55),
}


@pytest.mark.parametrize("stop", STOPS)
def test_a_contrast_goes_on_where_it_stopped(
    own_workspace, brain, conditions, whole, counted, tmp_path, stop
):
    counted["stop"], n_images, n_simulated = STOPS[stop]
    with pytest.raises(KeyboardInterrupt):
        run_contrast(own_workspace, brain, conditions, tmp_path / "contrast")
    assert not (tmp_path / "contrast").exists()
    counted |= {"stop": None, "images": 0, "experiments": 0}
    progress = Listening()
    folder = run_contrast(own_workspace, brain, conditions, tmp_path / "contrast", progress)
    assert (counted["images"], counted["experiments"]) == (n_images, n_simulated)
    assert any("continuing the interrupted run" in said for said in progress.messages)
    assert not any("damaged" in said for said in progress.messages)
    assert files_of(folder) == files_of(whole / "contrast")
    assert [path.name for path in tmp_path.iterdir()] == ["contrast"]


DAMAGES = {  # what is damaged meanwhile → what is computed by the run that continues
    "model/images-4.safetensors": (4, N_SIMULATED - 55),
    "model/scrambled-8.safetensors": (4, N_SIMULATED - 55),
    "power/trials-5.safetensors": (0, N_SIMULATED - 50),
    "power/images-30.safetensors": (0, N_SIMULATED - 50),
}


@pytest.mark.parametrize("damaged", DAMAGES)
def test_what_was_cut_short_is_computed_again(
    own_workspace, brain, conditions, whole, counted, tmp_path, damaged
):
    counted["stop"] = "experiments", 57
    with pytest.raises(KeyboardInterrupt):
        run_contrast(own_workspace, brain, conditions, tmp_path / "contrast")
    cut(tmp_path / ".contrast.recovery", damaged)
    counted |= {"stop": None, "images": 0, "experiments": 0}
    progress = Listening()
    folder = run_contrast(own_workspace, brain, conditions, tmp_path / "contrast", progress)
    assert (counted["images"], counted["experiments"]) == DAMAGES[damaged]
    assert any("damaged since the run was interrupted" in said for said in progress.messages)
    assert files_of(folder) == files_of(whole / "contrast")


def test_a_contrast_of_another_seed_begins_again(
    own_workspace, brain, conditions, counted, tmp_path
):
    counted["stop"] = "images", 20
    with pytest.raises(KeyboardInterrupt):
        run_contrast(own_workspace, brain, conditions, tmp_path / "contrast")
    counted |= {"stop": None, "images": 0}
    run = RunContext(progress=QUIET, seed=1)
    plan = Plan(conditions, SETTINGS)
    contrast_conditions(own_workspace, brain, plan, output=tmp_path / "contrast", run=run)
    assert counted["images"] == 2 * N_IMAGES


def test_a_localizer_goes_on_where_it_stopped(
    own_workspace, brain, conditions, whole, counted, tmp_path
):
    counted["stop"] = "images", N_IMAGES + 5
    with pytest.raises(KeyboardInterrupt):
        run_localizer(own_workspace, brain, conditions, tmp_path / "categories")
    counted |= {"stop": None, "images": 0}
    folder = run_localizer(own_workspace, brain, conditions, tmp_path / "categories")
    assert counted["images"] == N_IMAGES - 4
    assert files_of(folder) == files_of(whole / "categories")


def test_the_state_of_a_generator_comes_back(rng):
    rng.integers(0, 9, 3, np.uint32)  # leaves half a draw
    words = power._state_of(rng)
    expected = rng.integers(0, 9, 5, np.uint32), rng.standard_normal(5)
    power._restore(rng, words)
    found = rng.integers(0, 9, 5, np.uint32), rng.standard_normal(5)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
