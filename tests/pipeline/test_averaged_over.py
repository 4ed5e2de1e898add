"""Rows that are repeat averages: what is said of them, and what ncsnr and ceilings make of N."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from synbrain_cli.brain import load_model
from synbrain_cli.datasets.table_experiment import Experiment
from synbrain_cli.errors import InputError
from synbrain_cli.evaluation.settings import EvaluateSettings
from synbrain_cli.evaluation.test_set import TestSet
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.metrics.noise_ceiling import correlation_ceiling
from synbrain_cli.pipeline.evaluate import evaluate
from synbrain_cli.pipeline.prepare import prepare_table
from synbrain_cli.pipeline.preparing import Target
from synbrain_cli.pipeline.report import report
from synbrain_cli.pipeline.synthesize import synthesize
from synbrain_cli.pipeline.train import TrainSettings, train
from synbrain_cli.progress import Progress
from synbrain_cli.run import RunContext

N_IMAGES, N_VOXELS, N = 60, 20, 4
RUN = RunContext(progress=Progress(quiet=True))


class Recording:
    """Single trials of known signal and noise, and tables of rows made from them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rng = np.random.default_rng(0)
        (folder / "images").mkdir()
        self.names = [f"im{i:02d}" for i in range(N_IMAGES)]
        for name in self.names:
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((64, 64)).save(folder / "images" / f"{name}.png")
        signal = rng.normal(size=(N_IMAGES, 1, N_VOXELS))
        self.trials = signal + rng.normal(size=(N_IMAGES, 2 * N, N_VOXELS))

    def prepare(self, rows_per_image: int, averaged_over: int, **options):
        """Rows of each image, each the average of some trials."""
        used = self.trials[:, : rows_per_image * averaged_over]
        rows = used.reshape(N_IMAGES, rows_per_image, averaged_over, N_VOXELS).mean(2)
        name = f"{rows_per_image}x{averaged_over}"
        table = self.folder / f"{name}.tsv"
        shown = np.repeat(self.names, rows_per_image)
        table.write_text("\n".join(["image", *shown]) + "\n")
        np.save(self.folder / f"{name}.npy", rows.reshape(-1, N_VOXELS).astype(np.float32))
        (self.folder / f"w{name}").mkdir(exist_ok=True)
        workspace = Workspace(self.folder / f"w{name}")
        experiment = Experiment(
            trials=(table,),
            images=self.folder / "images",
            responses=(self.folder / f"{name}.npy",),
            averaged_over=averaged_over,
            test_share=0.4,
            **options,
        )
        subject = prepare_table(Target(workspace, "d", ("gabor",)), experiment, "01", RUN).subjects[
            0
        ]
        return workspace, subject, workspace.find_tokens("d", None, lambda text: None)


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Recording:
    return Recording(tmp_path_factory.mktemp("averaged"))


@pytest.fixture(scope="module")
def averages(recording):
    """A model of one average of 4 trials for each image, evaluated."""
    workspace, subject, store = recording.prepare(1, N)
    made = train(workspace, subject, store, TrainSettings("linear"), RUN)
    brain = load_model(made.folder, "cpu")
    settings = EvaluateSettings(n_draws=20, n_boot=50)
    return workspace, brain, evaluate(workspace, brain, subject, store, settings, run=RUN)


def test_ncsnr_is_that_of_single_trials_and_ceilings_are_those_of_averages(recording):
    _, single, store = recording.prepare(2 * N, 1)
    _, averaged, averaged_store = recording.prepare(2, N)
    one, two = (s.voxels["ncsnr"].to_numpy() for s in (single, averaged))
    assert np.median(one) == pytest.approx(1, abs=0.15)
    assert np.median(two) == pytest.approx(np.median(one), rel=0.15)
    test, rows = TestSet.load(single, store), TestSet.load(averaged, averaged_store)
    # Eight trials of an image are eight trials, one by one or as two averages of four.
    np.testing.assert_allclose(rows.ceiling, correlation_ceiling(two, 2 * N), rtol=1e-6)
    assert np.median(rows.ceiling) == pytest.approx(np.median(test.ceiling), rel=0.03)


def test_given_ncsnr_of_single_trials_is_a_ceiling_of_averages(recording):
    voxels = recording.folder / "voxels.tsv"
    voxels.write_text("ncsnr\n" + "1.0\n" * N_VOXELS)
    workspace = recording.folder / "given"
    workspace.mkdir()
    recording.prepare(1, N)
    experiment = Experiment(
        trials=(recording.folder / f"1x{N}.tsv",),
        images=recording.folder / "images",
        responses=(recording.folder / f"1x{N}.npy",),
        averaged_over=N,
        voxels=voxels,
    )
    target = Target(Workspace(workspace), "d", ("gabor",))
    subject = prepare_table(target, experiment, "01", RUN).subjects[0]
    store = Workspace(workspace).find_tokens("d", None, lambda text: None)
    test = TestSet.load(subject, store)
    np.testing.assert_allclose(test.ceiling, np.sqrt(1 / (1 + 1 / N)), rtol=1e-6)


def test_reliability_of_draws_of_averages_is_that_of_their_design(recording):
    workspace, subject, store = recording.prepare(2, N)
    made = train(workspace, subject, store, TrainSettings("linear"), RUN)
    brain = load_model(made.folder, "cpu")
    settings = EvaluateSettings(n_draws=20, n_boot=50)
    result = evaluate(workspace, brain, subject, store, settings, run=RUN)
    draws = result.metrics.draws
    assert draws.ncsnr_median_ratio.model == pytest.approx(1, abs=0.25)
    drawn = result.voxels["ncsnr_of_draws"].median()
    assert drawn == pytest.approx(result.voxels["ncsnr"].median(), rel=0.25)


def test_the_number_is_recorded_and_follows_the_model(averages):
    workspace, brain, result = averages
    prepared = workspace.prepared / "d" / "sub-01" / "dataset_description.json"
    assert json.loads(prepared.read_text())["AveragedOver"] == N
    assert brain.config.averaged_over == N
    assert brain.unit_name("z") == "standard deviations of an average of 4 trials"
    assert "averages of 4 trials" in (brain.folder / "card.md").read_text()
    assert result.metrics.averaged_over == N
    assert result.metrics.units["draws"].endswith("averages of 4 trials")


def test_nobody_is_advised_to_show_images_twice(averages):
    _, brain, result = averages
    said = " ".join([*result.metrics.notes, (brain.folder / "card.md").read_text()])
    assert "show images twice" not in said
    assert "shown twice" not in said
    assert "no image was repeated" not in said.lower()
    assert "the data are averages of 4 trials, and so are the draws" in said
    assert "prepare the single trials, or give the ncsnr of single trials" in said


def test_draws_say_that_they_are_averages(averages, recording):
    workspace, brain, _ = averages
    written = synthesize(workspace, brain.folder, recording.folder / "images" / "im00.png", run=RUN)
    sidecar = json.loads((written.folder / "sub-01/func/sub-01_desc-draws_betas.json").read_text())
    assert sidecar["AveragedOver"] == N
    assert sidecar["Description"] == "Synthesized responses, averages of 4 trials"


def test_the_report_says_averages_and_not_single_trials(averages):
    workspace, brain, _ = averages
    page = report(workspace, brain, run=RUN).read_text()
    assert "averages of 4 trials" in page
    assert "held-out single trials" not in page
    assert "single trials drawn" not in page


def test_single_trials_are_called_single_trials(recording):
    workspace, subject, store = recording.prepare(2 * N, 1)
    made = train(workspace, subject, store, TrainSettings("linear"), RUN)
    brain = load_model(made.folder, "cpu")
    assert (brain.config.averaged_over, brain.config.rows) == (1, "single trials")
    assert "averages of" not in (brain.folder / "card.md").read_text()


@pytest.mark.parametrize("n", [0, -3])
def test_an_average_of_no_trial_is_refused(recording, n):
    with pytest.raises(InputError, match=f"--averaged-over {n}: expected 1 or more"):
        Experiment(
            trials=(recording.folder / "x.tsv",),
            images=recording.folder / "images",
            responses=(recording.folder / "x.npy",),
            averaged_over=n,
        )
