"""One small simulated subject pair, prepared and trained once for all tests."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import hypothesis
import numpy as np
import preset
import pytest
from filelock import FileLock

from synbrain_cli import cli, config
from synbrain_cli.datasets.simulated import SimulationConfig
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.pipeline.prepare import prepare_simulated, prepare_simulated_artificial
from synbrain_cli.pipeline.preparing import Target
from synbrain_cli.pipeline.train import TrainSettings, train
from synbrain_cli.progress import Progress
from synbrain_cli.run import RunContext
from synbrain_cli.training import shared_core

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
        help="the demo and `adapt --hours 1` as users run them: 15 minutes more",
    )
    parser.addoption(
        "--every-kill",
        action="store_true",
        help="kill every command at each of its changes of names, and run every pair at once: "
        "an hour more",
    )
    parser.addoption(
        "--fuzz",
        type=int,
        metavar="N",
        help="damage files in N ways (tests/fuzz); 0: until interrupted; default: about a minute",
    )
    parser.addoption(
        "--gpu-stand-in",
        metavar="DEVICE",
        help="rehearse the tests of a GPU on another device: cpu",
    )
    parser.addoption("--fuzz-seed", type=int, default=0, help="other mutants than those of 0")


# The longest files, which start first: what is left for the end is short on every worker.
LONGEST = (
    *("test_demo.py", "test_killed_anywhere.py", "test_fuzz.py", "test_evaluate.py"),
    *("test_adapt.py", "test_interruption.py", "test_full_disk.py", "test_two_at_once.py"),
)


def pytest_collection_modifyitems(items):
    """The longest files first, in the order of ``LONGEST``; all others as they are."""
    order = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(LONGEST)))


@pytest.fixture(scope="session")
def shared() -> Path:
    folder = shared_folder()
    if folder is None:
        pytest.skip("the real data are not beside the repository (../shared, SYNBRAIN_SHARED)")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _test_preset():
    known = config.CORE_STAGE
    preset.use()
    yield
    del config.PRESETS["test"]
    config.CORE_STAGE = shared_core.CORE_STAGE = known


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Callable[[str, Callable[[Workspace], object]], Workspace]:
    """Function that makes a workspace once for all workers, and copies it for this one.

    ``made_once(name, make)``: the first worker that asks calls ``make`` with an empty workspace,
    the others wait for it (as in the documentation of pytest-xdist). A copy is a worker's own:
    what its tests write there, those of the others never meet.
    """
    base = tmp_path_factory.getbasetemp()
    common = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def workspace(name: str, make: Callable[[Workspace], object]) -> Workspace:
        folder = common / f"made-{name}"
        with FileLock(common / f"made-{name}.lock"):
            if not folder.exists():
                partial = common / f"partial-{name}"
                shutil.rmtree(partial, ignore_errors=True)  # of a worker where it failed
                partial.mkdir()
                make(Workspace(partial))
                partial.rename(folder)
        own = tmp_path_factory.mktemp(name)
        return Workspace(shutil.copytree(folder, own, symlinks=True, dirs_exist_ok=True))

    return workspace


def train_linked(prepared: Workspace, label: str, settings: TrainSettings, name: str | None = None):
    """Function that trains a model of a prepared subject in another workspace."""

    def make(workspace: Workspace) -> None:
        subject = prepared.find_subject(label, None, QUIET.info)
        store = prepared.find_tokens("simulated", None, QUIET.info)
        train(workspace, subject, store, settings, RunContext(progress=QUIET), name=name)

    return make


@pytest.fixture(scope="session")
def prepared(made_once) -> Workspace:
    """Workspace with two simulated subjects, prepared; read-only for tests."""

    def make(workspace: Workspace) -> None:
        prepare_simulated(
            Target(workspace, "simulated", ("gabor",)), SMALL, RunContext(progress=QUIET)
        )

    return made_once("workspace", make)


@pytest.fixture(scope="session")
def trained(prepared, made_once) -> Workspace:
    """The same workspace with a model of subject 1."""
    made = made_once("trained", train_linked(prepared, "1", TrainSettings(preset="test")))
    shutil.copytree(made.weights, prepared.weights, dirs_exist_ok=True)
    return prepared


@pytest.fixture(scope="session")
def artificial(trained, made_once) -> Workspace:
    """A workspace in which the subjects were shown artificial images, too; read-only."""

    def make(workspace: Workspace) -> None:
        shutil.copytree(trained.root / "simulated", workspace.root / "simulated")
        target = Target(workspace, "simulated-synthetic", ("gabor",))
        prepare_simulated_artificial(target, SMALL, RunContext(progress=QUIET))

    workspace = made_once("artificial", make)
    (workspace.prepared / "simulated").symlink_to(trained.prepared / "simulated")
    workspace.weights.symlink_to(trained.weights)
    return workspace


@pytest.fixture(scope="session")
def linear_bundles(prepared, made_once) -> dict[str, Path]:
    """Bundles without networks of subjects 1 and 2, by subject; to be linked or copied."""
    linear = TrainSettings(model="linear")
    return {
        label: made_once(f"linear-{label}", train_linked(prepared, label, linear)).weights
        / f"sub-0{label}_linear"
        for label in "12"
    }


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
def coarse_report(monkeypatch):
    """The report's figures with a fifth of their pixels: most of its time goes into pixels."""
    from synbrain_cli.plotting.report import page

    monkeypatch.setattr(page.figure_png, "__defaults__", (50,))


@pytest.fixture
def own(prepared, tmp_path) -> Workspace:
    """A workspace of the test's own, with the prepared subjects linked in."""
    (tmp_path / "prepared").symlink_to(prepared.prepared)
    return Workspace(tmp_path)


@pytest.fixture
def unsealed(monkeypatch):
    """Prepared files that a test changes are read as they are, without a look at checksums."""
    from synbrain_cli.io.prepared import PreparedSubject
    from synbrain_cli.io.voxel_space import VoxelSpace

    def found(space, name):
        path = space.folder / name
        return path if path.exists() else None

    monkeypatch.setattr(VoxelSpace, "_file", found)
    monkeypatch.setattr(PreparedSubject, "file", lambda self, name: self.folder / name)
    place = property(lambda self: VoxelSpace(self.folder, {}))
    monkeypatch.setattr(PreparedSubject, "voxel_space", place)


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
