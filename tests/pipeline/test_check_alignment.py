"""`prepare` and `train` stop where responses do not fit the images of their trials."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from synbrain_cli.io.alignment_record import alignment_file, read_alignment
from synbrain_cli.io.workspace import Workspace

N_IMAGES, N_VOXELS = 60, 40
QUIET = ("--encoder", "pixels", "--encoder", "gabor")


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """Folder of an experiment: voxels respond to the brightness of parts of the images."""
    folder = tmp_path_factory.mktemp("experiment")
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    bright = rng.random((N_IMAGES, 4, 4, 3))
    for k, image in enumerate(bright):
        pixels = np.kron(image, np.ones((16, 16, 1)))
        Image.fromarray((255 * pixels).astype(np.uint8)).save(folder / f"images/im{k:02d}.png")
    shown = np.concatenate([rng.permutation(N_IMAGES) for _ in range(8)])
    weights = rng.standard_normal((48, N_VOXELS))
    signal = (bright.reshape(N_IMAGES, -1) - 0.5) @ weights
    responses = signal[shown] / signal.std() + rng.standard_normal((len(shown), N_VOXELS))
    np.save(folder / "responses.npy", responses.astype(np.float32))
    table = pd.DataFrame(
        {"image": [f"im{k:02d}.png" for k in shown], "session": np.repeat([1, 2, 3, 4], 120)}
    )
    table.to_csv(folder / "right.tsv", sep="\t", index=False)
    late = table.copy()
    rows = late["session"] == 3
    late.loc[rows, "image"] = np.roll(late["image"][rows], 1)
    late.to_csv(folder / "late.tsv", sep="\t", index=False)
    renumbered = table.copy()
    renumbered["image"] = [f"im{(k + 1) % N_IMAGES:02d}.png" for k in shown]
    renumbered.to_csv(folder / "renumbered.tsv", sep="\t", index=False)
    return folder


@pytest.fixture
def prepare(experiment, synbrain, tmp_path):
    """Prepare one of the tables; (exit code, output, error)."""

    def run(table: str, *options: str, subject: str = "1"):
        return synbrain(
            *("prepare", "table", experiment / f"{table}.tsv", "--dataset", "lab"),
            *("--responses", experiment / "responses.npy", "--images", experiment / "images"),
            *("--subject", subject, "--workspace", tmp_path, *QUIET, *options),
        )

    return run


def train(synbrain, tmp_path, *options):
    words = ("--subject", "1", "--model", "linear", "--device", "cpu", "--workspace", tmp_path)
    return synbrain("train", *words, *options)


def subject_in(folder):
    return Workspace(folder).find_subject("1", "lab", lambda text: None)


def test_a_right_design_is_said_once_and_kept(prepare, synbrain, tmp_path):
    code, _, error = prepare("right")
    assert code == 0
    (line,) = [one for one in error.splitlines() if "responses fit their images" in one]
    assert line.startswith("lab/sub-01: responses fit their images (r .")
    record = read_alignment(subject_in(tmp_path))
    assert record.status == "fits"
    assert record.n_trials == 480
    assert sorted(record.bands) == ["gabor", "pixels"]
    before = alignment_file(subject_in(tmp_path)).stat().st_mtime_ns
    assert train(synbrain, tmp_path)[0] == 0
    assert alignment_file(subject_in(tmp_path)).stat().st_mtime_ns == before  # not made again
    assert synbrain("prepare", "--verify", "--workspace", tmp_path)[0] == 0


def test_a_shifted_session_stops_both_commands(prepare, synbrain, tmp_path):
    code, out, error = prepare("late", "--quiet")
    assert (code, out) == (1, "")
    (line,) = error.splitlines()
    assert line.startswith(
        "synbrain: lab/sub-01: session 3: responses match the images listed one trial later (r ."
    )
    assert "as given)" in line
    assert line.endswith("--no-check goes on as it is")
    code, _, error = train(synbrain, tmp_path, "--quiet")
    assert code == 1
    assert "session 3: responses match the images listed one trial later" in error
    assert not (tmp_path / "weights/sub-01_linear").exists()
    assert train(synbrain, tmp_path, "--no-check")[0] == 0
    assert (tmp_path / "weights/sub-01_linear").exists()


def test_the_report_says_what_was_found(prepare, synbrain, tmp_path, coarse_report):
    assert prepare("late", "--no-check")[0] == 0
    assert not alignment_file(subject_in(tmp_path)).exists()
    assert train(synbrain, tmp_path, "--no-check")[0] == 0
    page = tmp_path / "outputs/sub-01_linear_report.html"
    assert synbrain("plot", "report", "--workspace", tmp_path)[0] == 0
    assert "not made (synbrain train makes it, unless --no-check was given)" in page.read_text()
    assert prepare("late")[0] == 1  # already prepared, and checked now
    assert synbrain("plot", "report", "--workspace", tmp_path)[0] == 0
    assert "FAILED, and passed over with --no-check: session 3: " in page.read_text()


def test_renumbered_images_and_another_subjects_table(prepare, tmp_path):
    code, _, error = prepare("renumbered", "--quiet")
    assert code == 1
    assert "all sessions: responses match the previous image in the order of names" in error
    rng = np.random.default_rng(1)
    assert prepare("right", subject="2")[0] == 0
    folder = tmp_path / "mixed.tsv"
    table = pd.read_csv(tmp_path / "prepared/lab/sub-02/trials.tsv", sep="\t")
    shown = pd.DataFrame({"image": rng.permutation(table["image"]), "session": table["session"]})
    shown.to_csv(folder, sep="\t", index=False)
    code, _, error = prepare(str(folder.with_suffix("")), "--quiet", subject="3")
    assert code == 1
    assert "responses match the images of sub-02" in error


def test_a_damaged_or_old_record_is_made_again(prepare, tmp_path):
    assert prepare("right")[0] == 0
    file = alignment_file(subject_in(tmp_path))
    right = file.read_text()
    content = json.loads(right)
    for text in ("", "{}", json.dumps({**content, "status": "differs"})):
        file.write_text(text)
        assert read_alignment(subject_in(tmp_path)) is None
        assert prepare("right")[0] == 0
        assert file.read_text() == right


def test_few_trials_go_on(experiment, synbrain, tmp_path):
    table = pd.read_csv(experiment / "right.tsv", sep="\t").iloc[:30]
    table.to_csv(tmp_path / "few.tsv", sep="\t", index=False)
    np.save(tmp_path / "few.npy", np.load(experiment / "responses.npy")[:30, :3])
    code, _, error = synbrain(
        *("prepare", "table", tmp_path / "few.tsv", "--dataset", "lab", "--subject", "1"),
        *("--responses", tmp_path / "few.npy", "--images", experiment / "images"),
        *("--workspace", tmp_path, *QUIET),
    )
    assert code == 0
    assert "30 trials are too few, or too noisy, to check" in error


@pytest.mark.slow
def test_recorded_trials_of_v4(shared, synbrain, tmp_path):
    """Macaque V4: the right table is left alone, and one with rows moved in a run is refused."""
    folder = shared / "data/v4_recordings"
    options = ("--responses", folder / "responses.npy", "--images", folder / "images")
    options = (*options, "--subject", "1", "--workspace", tmp_path, "--encoder", "gabor")
    code, _, error = synbrain(
        "prepare", "table", folder / "trials.tsv", "--dataset", "v4", *options
    )
    assert code == 0
    assert "v4/sub-01: responses fit their images (r ." in error
    table = pd.read_csv(folder / "trials.tsv", sep="\t").drop(columns="repeat")
    table.loc[1000:1061, "image"] = np.roll(table["image"][1000:1062], 1)
    table.to_csv(tmp_path / "run.tsv", sep="\t", index=False)
    code, _, error = synbrain(
        "prepare", "table", tmp_path / "run.tsv", "--dataset", "run", *options
    )
    assert code == 1
    assert "of session 1: responses match the images listed one trial later (r ." in error
