"""The commands as typed: help, exit codes, messages."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

from synbrain_cli import cli
from synbrain_cli.errors import SynbrainError
from synbrain_cli.io.files import locked

IMAGES = Path(__file__).parents[1] / "examples" / "images"


def commands(group=None, prefix=()):
    group = group or get_command(cli.app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*prefix, name))
        else:
            yield (*prefix, name)


@pytest.mark.parametrize("command", list(commands()), ids=" ".join)
def test_help_of_every_command_has_an_example(command):
    result = CliRunner().invoke(cli.app, [*command, "--help"])
    assert result.exit_code == 0
    assert "Example: synbrain" in " ".join(result.output.split())


def test_help_is_immediate():
    """0.3 s is the promise on an idle machine; here, that nothing heavy is imported."""
    code = "import sys; from synbrain_cli import cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert not {"torch", "nilearn", "numpy", "pandas", "matplotlib"} & set(loaded.split())
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "synbrain_cli.cli", "--help"], capture_output=True)
    assert time.perf_counter() - start < 3


@pytest.fixture(scope="module")
def made(trained):
    """Responses of subject 1's model to the example photographs."""
    command = ["synthesize", str(IMAGES), "--subject", "sub-01", "--samples", "3", "-q"]
    result = CliRunner().invoke(
        cli.app, [*command, "--device", "cpu", "--workspace", str(trained.root)]
    )
    assert result.exit_code == 0, result.output
    return trained.outputs / "sub-01_images", result.output


def test_synthesize_writes_what_it_says(made, trained):
    folder, output = made
    names = ["chelsea", "coffee", "flower", "rocket"]
    listed = [Path(line) for line in output.split()]
    assert all(path.exists() for path in listed)
    draws = np.load(listed[0])
    table = pd.read_csv(folder / "images.tsv", sep="\t")
    assert table["image"].tolist() == names
    assert draws.shape[:2] == (4, 3)
    mask = np.asarray(nib.load(trained.weights / "sub-01/mask.nii.gz").dataobj) > 0
    for row, name in enumerate(names):
        image = nib.load(folder / f"sub-01_stim-{name}_desc-draws_betas.nii.gz")
        np.testing.assert_array_equal(np.asarray(image.dataobj)[mask].T, draws[row])
        for stat, expected in (("mean", draws[row].mean(0)), ("std", draws[row].std(0, ddof=1))):
            image = nib.load(folder / f"sub-01_stim-{name}_stat-{stat}_statmap.nii.gz")
            np.testing.assert_allclose(np.asarray(image.dataobj)[mask], expected, rtol=1e-5)
            for hemisphere, structure in (("L", "CortexLeft"), ("R", "CortexRight")):
                gifti = nib.load(
                    folder / f"sub-01_stim-{name}_hemi-{hemisphere}_space-fsaverage5"
                    f"_stat-{stat}_statmap.func.gii"
                )
                assert gifti.meta["AnatomicalStructurePrimary"] == structure
                assert gifti.darrays[0].data.shape == (10242,)
    sidecar = json.loads((folder / "sub-01_desc-draws_betas.json").read_text())
    assert sidecar["Simulated"] is True
    assert sidecar["Unit"] == "percent signal change"
    assert json.loads((folder / "dataset_description.json").read_text())["GeneratedBy"]
    assert not list(folder.glob(".*"))


def test_synthesize_again_changes_nothing(made, trained, synbrain):
    folder, _ = made
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    arguments = ["synthesize", IMAGES, "--subject", "1", "--samples", "3", "-w", trained.root]
    code, _, error = synbrain(*arguments)
    assert code == 0
    assert "already there" in error
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == before
    code, _, error = synbrain(*arguments, "--seed", "5")
    assert code == 1
    assert "--overwrite" in error


def test_evaluate_sets_every_score_beside_its_baselines(trained, synbrain):
    code, output, error = synbrain("evaluate", "-w", trained.root, "--device", "cpu", "--no-report")
    assert code == 0, error
    metrics = json.loads(Path(output.split()[-1]).read_text())
    assert metrics["simulated"] is True
    for score, values in metrics["overall"].items():
        assert {"model", "linear", "mean_pattern", "shuffled", "ceiling"} <= set(values), score
    overall = metrics["overall"]
    assert overall["voxelwise_correlation"]["mean_pattern"] == 0
    assert overall["skill"]["mean_pattern"] == 0
    low, high = overall["voxelwise_correlation"]["ci"]
    assert low < high
    # The linear encoder has learned, and shuffling the images takes it away from the model.
    assert overall["voxelwise_correlation"]["linear"] > 0.1
    assert overall["voxelwise_correlation"]["shuffled"] < overall["voxelwise_correlation"]["linear"]
    # What the mean pattern scores on raw patterns: nearly everything.
    assert overall["pattern_correlation"]["mean_pattern"] > 0.2
    assert {"V1", "V2", "V3"} <= set(metrics["roi"])
    table = pd.read_csv(Path(output.split()[-1]).with_name("metrics.tsv"), sep="\t")
    assert set(table["region"]) == {"all", *metrics["roi"]}
    assert re.search(
        r"region +score +model +95 % CI +deep +linear +mean pat. +shuffled +ceiling", output
    )
    assert re.search(r"coverage_90 +0\.\d", output)
    assert "Top-1 retrieval among" in output


@pytest.mark.parametrize("command", [["plot-flatmap"], ["plot", "flatmap"]])
def test_flatmap(made, trained, synbrain, command):
    code, output, error = synbrain(*command, "-w", trained.root, "--image", "coffee", "--dpi", 60)
    assert code == 0, error
    (file,) = output.split()
    with Image.open(file) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape[1] > pixels.shape[0]
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100


def test_flatmap_of_a_model_outside_the_workspace(trained, synbrain, tmp_path):
    model = shutil.copytree(trained.weights / "sub-01", tmp_path / "elsewhere/sub-01")
    (tmp_path / "own").mkdir()
    place = ["-w", tmp_path / "own", "-q"]
    assert synbrain("synthesize", IMAGES / "coffee.png", "--model", model, *place)[0] == 0
    code, output, error = synbrain("plot-flatmap", "--dpi", 50, *place)
    assert code == 0, error
    assert Path(output.strip()).exists()


def test_flatmap_of_accuracy(trained, synbrain):
    assert synbrain("evaluate", "-w", trained.root, "-q", "--no-report")[0] == 0
    code, output, error = synbrain(
        "plot-flatmap", "-w", trained.root, "--what", "accuracy", "--format", "svg"
    )
    assert code == 0, error
    assert Path(output.strip()).suffix == ".svg"


# ------------------------------------------------------------------------------ bad input


def bad_images(folder):
    """Folders that cannot be synthesized, with what is said of them."""
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8))
    for name in ("empty", "truncated", "duplicate", "text", "animated"):
        (folder / name).mkdir()
    picture.save(folder / "truncated/a.png")
    content = (folder / "truncated/a.png").read_bytes()
    (folder / "truncated/a.png").write_bytes(content[: len(content) // 2])
    picture.save(folder / "duplicate/a.png")
    picture.save(folder / "duplicate/a.jpg")
    (folder / "text/a.png").write_text("no picture")
    picture.save(
        folder / "animated/a.gif",
        save_all=True,
        append_images=[picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)],
    )


@pytest.mark.parametrize("name", ["empty", "truncated", "duplicate", "text", "animated", "absent"])
def test_bad_images(trained, tmp_path, synbrain, name):
    bad_images(tmp_path)
    code, output, error = synbrain(
        "synthesize", tmp_path / name, "--subject", "1", "-w", trained.root, "-o", tmp_path / "out"
    )
    assert code == 1
    assert not output
    assert error.splitlines()[-1].startswith("synbrain: ")
    assert str(tmp_path / name) in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--subject", "9"], "no prepared sub-09; prepared: simulated/sub-01"),
        (["train", "--subject", "1", "--preset", "huge"], "expected one of tiny"),
        (["train", "--subject", "1", "--encoder", "resnet"], "no image tokens of resnet"),
        (
            ["train", "--subject", "1", "--preset", "test", "--seed", "1"],
            "other settings (seed 0, now 1)",
        ),
        (["synthesize", IMAGES, "--subject", "3"], "no model of sub-03; models: sub-01"),
        (["synthesize", IMAGES, "--model", "gone"], "no model gone"),
        (["synthesize", IMAGES, "--subject", "two!"], "expected a label such as 2"),
        (["synthesize", IMAGES, "--sampling", "best"], "sampling: expected"),
        (["synthesize", IMAGES, "--device", "warp"], "not available here"),
        (["evaluate", "--subject", "4"], "no model of sub-04"),
        (["adapt", "--hours", "9", "--subject", "2"], "expected more than 0 and at most 3"),
        (["adapt", "--subject", "7"], "no prepared sub-07"),
        (["plot-flatmap", "--what", "soul"], "expected one of mean"),
        (["plot-flatmap", "--format", "bmp"], "expected one of png"),
        (["plot-flatmap", "--responses", "nowhere"], "synbrain synthesize"),
        (["plot-flatmap", "--responses", "r", "--subject", "1"], "leave out --model and --subject"),
        (["plot-flatmap", "--what", "difference"], "--what difference and --minus go together"),
        (["plot-flatmap", "--what", "std", "--minus", "a"], "go together"),
        (["plot-flatmap", "--what", "error", "--responses", "r"], "leave out --responses"),
        (["plot-flatmap", "--what", "ceiling", "--image", "a"], "leave out --image"),
        (["plot-flatmap", "--what", "recorded", "--image", "a"], "no test image a; there are"),
        (["plot-flatmap", "--space", "fsnative"], "expected one of fsaverage5"),
        (["plot-flatmap", "--vmax", "0"], "expected more than 0"),
        (["plot", "surface", "--responses", "nowhere"], "synbrain synthesize"),
        (["plot", "draws", "--image", "gone"], "no test image gone; there are"),
        (["plot", "rois", "--subject", "4"], "no model of sub-04"),
        (["plot", "report", "--responses", "nowhere"], "synbrain synthesize"),
        (["prepare", "nsd"], "pass --accept-terms if you have"),
        (["prepare", "nsd", "--no-download"], "nsddata"),
        (["prepare", "nsd", "--sessions", "0"], "expected a number"),
        (["prepare", "nsd", "--sessions", "a-b"], "expected a number"),
        (["prepare", "nsd", "--root", "nowhere"], "nsddata"),
        (["prepare", "simulated"], "other settings"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else None,
)
def test_one_line_says_what_to_do(trained, synbrain, arguments, message):
    code, _, error = synbrain(*arguments, "-w", trained.root)
    assert code == 1
    last = error.splitlines()[-1]
    assert last.startswith("synbrain: ")
    assert message in last
    assert "Traceback" not in error


def test_usage_errors_exit_2(synbrain):
    assert synbrain("synthesize")[0] == 2
    assert synbrain("adapt", "--hours", "one")[0] == 2
    assert synbrain("fly")[0] == 2


def test_missing_workspace(tmp_path, synbrain):
    code, _, error = synbrain("train", "-w", tmp_path / "nowhere")
    assert code == 1
    assert "no such folder" in error


def test_empty_workspace(tmp_path, synbrain):
    for arguments in (["train"], ["adapt"], ["evaluate"], ["plot-flatmap"], ["synthesize", IMAGES]):
        code, _, error = synbrain(*arguments, "-w", tmp_path)
        assert code == 1
        assert "`synbrain" in error
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_a_second_process_is_turned_away(trained, synbrain, tmp_path):
    output = tmp_path / "out"
    with locked(output, "responses"):
        code, _, error = synbrain(
            "synthesize", IMAGES, "--subject", "1", "-w", trained.root, "-o", output
        )
    assert code == 1
    assert "another synbrain process" in error


def test_a_full_disk_leaves_nothing(trained, synbrain, tmp_path, monkeypatch):
    import synbrain_cli.pipeline.synthesize as module

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.np.lib.format, "open_memmap", full)
    code, _, error = synbrain(
        "synthesize", IMAGES, "--subject", "1", "-w", trained.root, "-o", tmp_path / "out"
    )
    assert code == 1
    assert "No space left on device" in error
    assert not (tmp_path / "out").exists()


def test_a_folder_of_somebody_elses_is_not_overwritten(trained, synbrain, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.tex").write_text("precious")
    code, _, error = synbrain(
        "synthesize",
        IMAGES,
        "-m",
        "sub-01",
        "-w",
        trained.root,
        "-o",
        tmp_path / "thesis",
        "--overwrite",
    )
    assert code == 1
    assert "was not written by synthesize" in error
    assert (tmp_path / "thesis/chapter.tex").read_text() == "precious"


def test_errors_that_are_bugs_keep_their_traceback(monkeypatch, synbrain):
    import synbrain_cli.io.workspace as module

    def broken(*arguments):
        raise ZeroDivisionError

    monkeypatch.setattr(module.Workspace, "find_model", broken)
    with pytest.raises(ZeroDivisionError):
        synbrain("evaluate")


def test_every_error_is_a_synbrain_error():
    from synbrain_cli import errors

    for name, kind in vars(errors).items():
        if isinstance(kind, type) and name.endswith("Error"):
            assert issubclass(kind, SynbrainError)
