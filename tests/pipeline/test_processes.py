"""Two processes that extract tokens, or synthesize, together: the same files as one alone."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import killing
import numpy as np
import pytest
from PIL import Image
from tiny import content

from synbrain_cli.io.workfolder import partial_folder

KILLING = Path(killing.__file__)
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"]
LAUNCH += ["--num_processes", "2", "--main_process_port", "0"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no"]


def alone(folder, *arguments, kill_at=0):
    """Run a command in one process, killed when it gives its Nth file its name."""
    return killing.run(folder, *arguments, kill_at=kill_at, short_rounds=True)


def together(folder, *arguments):
    """Run a command in two processes that find each other as under a launcher; the main one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [
        killing.start(
            folder,
            *arguments,
            short_rounds=True,
            environment={**meeting, "RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in "01"
    ]
    main, other = (rank.finish() for rank in ranks)
    assert other.returncode == 0, other.stderr
    assert not other.stdout
    return main


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {file.relative_to(folder).as_posix(): content(file) for file in files}


def random_images(folder, n, rng):
    folder.mkdir()
    for k in range(n):
        pixels = rng.integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"image-{k:02d}.png")
    return folder


@pytest.mark.slow
def test_tokens_do_not_depend_on_the_number_of_processes(prepared, tmp_path):
    """One; one that is killed after a round, where two go on."""
    arguments = ["prepare", "nsd", "--root", prepared.root / "simulated", "--device", "cpu"]
    arguments += ["--encoder", "gabor"]
    features = {}
    for name in ("one", "two"):  # where the subjects are there already
        features[name] = tmp_path / name / "prepared/nsd/features/gabor"
        features[name].parent.mkdir(parents=True)
        for subject in ("sub-01", "sub-02"):
            target = prepared.prepared / "simulated" / subject
            (tmp_path / name / "prepared/nsd" / subject).symlink_to(target)
    one, two = ([*arguments, "--workspace", tmp_path / name] for name in features)
    expected = alone(tmp_path, *one)
    assert expected.returncode == 0, expected.stderr
    # Names given: settings.json, tokens.npy, encoder.json, images.tsv, again after every round.
    assert alone(tmp_path, *two, kill_at=6).returncode == -signal.SIGKILL
    rows = (partial_folder(features["two"]) / "images.tsv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 16
    found = together(tmp_path, *two)
    assert found.returncode == 0, found.stderr
    assert found.stdout == expected.stdout
    files = contents(features["one"])
    own = {"tokens.npy", "images.tsv", "encoder.json", "settings.json"}
    assert files.keys() == own | {".files.json"}
    assert contents(features["two"]) == files


@pytest.mark.slow
def test_responses_do_not_depend_on_the_number_of_processes(trained, tmp_path, rng):
    """The same."""
    images = random_images(tmp_path / "images", 70, rng)
    arguments = ["synthesize", images, "--model", trained.weights / "sub-01", "--samples", "2"]
    arguments += ["--device", "cpu", "--workspace", tmp_path, "--output"]
    expected = alone(tmp_path, *arguments, tmp_path / "one")
    sidecar = "sub-01/func/sub-01_desc-draws_betas.json"
    assert expected.returncode == 0, expected.stderr
    broken = alone(tmp_path, *arguments, tmp_path / "two", kill_at=430)  # of 10 names an image
    assert broken.returncode == -signal.SIGKILL
    done = np.load(tmp_path / ".two.recovery/images_done.npy").any(1)
    assert np.flatnonzero(done).tolist() == list(range(32))
    found = together(tmp_path, *arguments, tmp_path / "two")
    assert found.returncode == 0, found.stderr
    assert found.stdout == expected.stdout.replace(str(tmp_path / "one"), str(tmp_path / "two"))
    files = contents(tmp_path / "two")
    files[sidecar] = files[sidecar].replace(b"--output two", b"--output one")
    assert files == contents(tmp_path / "one")


@pytest.mark.slow
def test_an_error_of_one_process_ends_all(trained, tmp_path, rng):
    """Under the launcher, which ends the others."""
    images = random_images(tmp_path / "images", 40, rng)
    (images / "image-20.png").write_text("not an image")  # of the second process
    arguments = ["synthesize", images, "--model", trained.weights / "sub-01", "--device", "cpu"]
    arguments += ["--workspace", tmp_path, "--output", tmp_path / "out"]
    command = [*LAUNCH, str(KILLING), "0", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=killing.PATIENCE)
    assert done.returncode != 0
    assert "image-20.png: expected a readable image" in done.stderr
    assert not (tmp_path / "out").exists()
