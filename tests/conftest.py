"""One small simulated subject pair, prepared and trained once for all tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from preset import TEST_PRESET

from synbrain_cli import cli
from synbrain_cli.config import PRESETS
from synbrain_cli.datasets.simulated import SimulationConfig
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.pipeline.prepare import Target, prepare_simulated
from synbrain_cli.pipeline.train import TrainSettings, train
from synbrain_cli.progress import Progress
from synbrain_cli.run import RunContext

QUIET = Progress(quiet=True)
# The same examples in every run, however slow the machine.
hypothesis.settings.register_profile("synbrain", derandomize=True, deadline=None)
hypothesis.settings.load_profile("synbrain")
SMALL = SimulationConfig(
    n_subjects=2, n_shared=40, n_unique=85, n_sessions=3, voxel_size=8.0, seed=3
)


def shared_folder() -> Path | None:
    """Real data beside the repository, where there are any."""
    folder = Path(os.environ.get("SYNBRAIN_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    return folder if folder.is_dir() else None


def pytest_addoption(parser):
    parser.addoption(
        "--full-demo",
        action="store_true",
        help="the demo and the hour of a new person as users run them: fifteen minutes more",
    )


def pytest_collection_modifyitems(items):
    """The demo first: it takes longest, and other workers go on meanwhile."""
    items.sort(key=lambda item: item.path.name != "test_demo.py")


@pytest.fixture(scope="session")
def shared() -> Path:
    folder = shared_folder()
    if folder is None:
        pytest.skip("the real data are not beside the repository (../shared, SYNBRAIN_SHARED)")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _test_preset():
    PRESETS["test"] = TEST_PRESET
    yield
    del PRESETS["test"]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Workspace:
    """Workspace with two simulated subjects, prepared; read-only for tests."""
    workspace = Workspace(tmp_path_factory.mktemp("workspace"))
    prepare_simulated(Target(workspace, "simulated"), SMALL, RunContext(progress=QUIET))
    return workspace


@pytest.fixture(scope="session")
def trained(prepared) -> Workspace:
    """The same workspace with a model of subject 1."""
    subject = prepared.find_subject("1", None, QUIET.info)
    store = prepared.find_tokens("simulated", None, QUIET.info)
    train(prepared, subject, store, TrainSettings(preset="test"), RunContext(progress=QUIET))
    return prepared


@pytest.fixture(scope="session")
def subject(trained):
    """Subject 1, prepared."""
    return trained.find_subject("1", None, QUIET.info)


@pytest.fixture(scope="session")
def store(trained):
    """Tokens of all simulated subjects' images."""
    return trained.find_tokens("simulated", None, QUIET.info)


@pytest.fixture
def unpainted(monkeypatch):
    """Figures take longer than all the rest."""
    import synbrain_cli.evaluation.results_writer as module

    monkeypatch.setattr(module, "save_figure", lambda figure, path: None)


@pytest.fixture
def own(prepared, tmp_path) -> Workspace:
    """A workspace of the test's own, with the prepared subjects linked in."""
    (tmp_path / "prepared").symlink_to(prepared.prepared)
    return Workspace(tmp_path)


@pytest.fixture
def synbrain(capsys, monkeypatch):
    """Run a command line; (exit code, output, error)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["synbrain", *map(str, arguments)])
        try:
            cli.main()
        except SystemExit as stopped:
            code = stopped.code or 0
        else:
            code = 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
