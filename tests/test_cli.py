"""The commands as typed: help, exit codes, messages."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import get_args

import msgspec
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

from synbrain_cli import cli
from synbrain_cli.brain import load_model
from synbrain_cli.brain.drawing import Drawing
from synbrain_cli.cli.evaluation_screen import RELIABILITY, print_evaluation, reliability_lines
from synbrain_cli.cli.running import typed
from synbrain_cli.cli.sections import SECTIONS
from synbrain_cli.cli.tables import amount, cell, interval
from synbrain_cli.errors import InputError, SynbrainError
from synbrain_cli.io.locks import locked
from synbrain_cli.io.results.evaluation import FoldSizes, read_evaluation
from synbrain_cli.plotting.report.key_numbers import key_numbers

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
    subprocess.run([sys.executable, "-m", "synbrain_cli", "--help"], capture_output=True)
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
    brain = load_model(trained.weights / "sub-01", "cpu")
    responses = brain.stream(IMAGES, Drawing())
    for row, (name, response) in enumerate(zip(names, responses, strict=True)):
        image = nib.load(folder / f"sub-01/func/sub-01_stim-{name}_desc-draws_betas.nii.gz")
        np.testing.assert_array_equal(np.asarray(image.dataobj)[mask].T, draws[row])
        for stat, expected in (("mean", response.mean), ("std", response.sd)):
            image = nib.load(folder / f"sub-01/func/sub-01_stim-{name}_stat-{stat}_statmap.nii.gz")
            np.testing.assert_array_equal(np.asarray(image.dataobj)[mask], expected)
            for hemisphere, structure in (("L", "CortexLeft"), ("R", "CortexRight")):
                gifti = nib.load(
                    folder / f"sub-01/func/sub-01_stim-{name}_hemi-{hemisphere}_space-fsaverage5"
                    f"_stat-{stat}_statmap.func.gii"
                )
                assert gifti.meta["AnatomicalStructurePrimary"] == structure
                assert gifti.darrays[0].data.shape == (10242,)
    sidecar = json.loads((folder / "sub-01/func/sub-01_desc-draws_betas.json").read_text())
    assert sidecar["Simulated"] is True
    assert sidecar["Unit"] == "percent signal change"
    assert json.loads((folder / "dataset_description.json").read_text())["GeneratedBy"]
    assert sorted(path.name for path in folder.glob(".*")) == [".bidsignore", ".files.json"]


def test_synthesize_again_changes_nothing(made, trained, synbrain):
    folder, _ = made
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    arguments = ["synthesize", IMAGES, "--subject", "1", "--samples", "3", "-w", trained.root]
    code, _, error = synbrain(*arguments)
    assert code == 0
    assert "already there" in error
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before
    code, _, error = synbrain(*arguments, "--seed", "5")
    assert code == 1
    assert "--overwrite" in error


@pytest.fixture(scope="module")
def evaluated(trained):
    """What evaluating the workspace's only model prints."""
    command = ["evaluate", "-w", str(trained.root), "--device", "cpu", "--no-report"]
    result = CliRunner().invoke(cli.app, [*command, "--draws", "20"])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_evaluate_sets_every_score_beside_its_baselines(evaluated):
    output = evaluated
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
    heading = r"score +model +95 % CI +net +deep +linear +mean pat. +shuffled +ceiling\nr +"
    assert re.search(heading + cell(overall["voxelwise_correlation"]["model"]), output)
    draws = metrics["draws"]
    assert re.search(f"90 % intervals +{cell(draws['coverage_90']['model'])}", output)
    assert "Top-1 retrieval among" in output
    for who, of in (("ncsnr\\)", "model"), ("of test trials", "test_trials")):
        listed = (f"{label} {cell(draws[key][of])}" for key, label in RELIABILITY.items())
        assert re.search(who + r":\s+" + re.escape(", ".join(listed)), output)


def test_reliability_of_folds_has_no_other_trials_beside_it(evaluated):
    """All trials are test trials: their ncsnr is that of the data, and agrees with itself."""
    metrics = read_evaluation(Path(evaluated.split()[-1]).parent)
    pooled = msgspec.structs.replace(metrics, folds=FoldSizes(n_folds=2, min=20, max=20))
    (line,) = reliability_lines(pooled)
    assert line == reliability_lines(metrics)[0]
    numbers = [key_numbers(one).numbers[-1].beside for one in (metrics, pooled)]
    assert ["recorded test trials" in beside for beside in numbers] == [True, False]


def test_scores_are_one_screen(evaluated, capsys):
    output = evaluated
    screen = output.partition("\nEvery score")[0]
    lines = [line for line in screen.splitlines() if not line.startswith("note: ")]
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 32
    metrics = read_evaluation(Path(output.split()[-1]).parent)
    assert not re.search(r"^V1 ", screen, re.MULTILINE)
    print_evaluation(metrics, rois=True)
    printed = capsys.readouterr().out
    averages = metrics.draws.coverage_90_averages
    assert f"90 % of averages over similar images: voxels {averages.model:.3f}" in printed
    assert f"if these shared no errors:   voxels {averages.apart:.3f}" in printed
    assert max(len(line) for line in printed.splitlines() if not line.startswith("note: ")) <= 80
    for name, scores in metrics.roi.items():
        r, covered = scores.voxelwise_correlation, metrics.draws.coverage_90.roi[name]
        row = re.search(rf"^{name} +(\d+) +(\S+) +(\S+) .* (\S+)$", printed, re.MULTILINE)
        expected = (str(scores.n_voxels), cell(r.model), interval(*r.ci), cell(covered))
        assert row.groups() == expected


def test_the_command_that_was_typed_is_kept_without_private_folders(made, evaluated, synbrain):
    assert typed(["evaluate", "-m", "sub-01", "--draws=20"]) == (
        "synbrain evaluate -m sub-01 --draws=20"
    )
    assert typed(["x", "/home/me/my images", "-w=/a/b", "c/d"]) == (
        "synbrain x 'my images' -w=b c/d"
    )
    # In-process runners have another command line; the program itself is run for the others.
    root = Path(evaluated.split()[-1]).parents[2]
    arguments = ["synthesize", IMAGES / "coffee.png", "-n", "2", "-w", root, "-q"]
    assert synbrain(*arguments)[0] == 0
    folder = root / "outputs/sub-01_coffee"
    expected = f"synbrain synthesize coffee.png -n 2 -w {root.name} -q"
    sidecar = folder / "sub-01/func/sub-01_desc-draws_betas.json"
    assert json.loads(sidecar.read_text())["Command"] == expected
    shutil.rmtree(folder)


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


def test_flatmap_of_accuracy(trained, evaluated, synbrain):
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
        (["train", "--subject", "1", "--encoder", "resnet"], "no image tokens of resnet"),
        (
            ["train", "--subject", "1", "--preset", "test", "--seed", "1"],
            "other settings (seed 0, now 1, network.seed 0, now 1)",
        ),
        (["synthesize", IMAGES, "--subject", "3"], "no model of sub-03; models: sub-01"),
        (["synthesize", IMAGES, "--model", "gone"], "no model gone"),
        (["synthesize", IMAGES, "--subject", "two!"], "expected a label such as 2"),
        (["synthesize", IMAGES, "--device", "warp"], "not available here"),
        (["evaluate", "--subject", "4"], "no model of sub-04"),
        (["adapt", "--hours", "9", "--subject", "2"], "expected more than 0 and at most 3"),
        (["adapt", "--subject", "7"], "no prepared sub-07"),
        (["plot-flatmap", "--responses", "nowhere"], "synbrain synthesize"),
        (["plot-flatmap", "--responses", "r", "--subject", "1"], "out --model, --subject and"),
        (["plot-flatmap", "--what", "difference"], "--what difference and --minus go together"),
        (["plot-flatmap", "--what", "std", "--minus", "a"], "go together"),
        (["plot-flatmap", "--what", "error", "--responses", "r"], "leave out --responses"),
        (["plot-flatmap", "--what", "ceiling", "--image", "a"], "leave out --image"),
        (["plot-flatmap", "--what", "recorded", "--image", "a"], "no test image a; there are"),
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["synthesize"], "Missing argument 'images"),
        (["adapt", "--hours", "one"], "Invalid value for '--hours'"),
        (["fly"], "No such command 'fly'."),
        # What was mistyped is followed by what was meant.
        (["evalute"], "No such command 'evalute'. Did you mean 'evaluate'?"),
        (["learning-curves"], "Did you mean 'learning-curve'?"),
        (["prepare", "simulate"], "No such command 'simulate'. Did you mean 'simulated'?"),
        (["plot", "flatmp"], "Did you mean 'flatmap'?"),
        (["weights", "verfy"], "Did you mean 'verify'?"),
        (["train", "--subjct", "1"], "No such option: --subjct (Possible options: --subject)"),
        # Each command has its own options, and no other.
        (["evaluate", "--compare"], "No such option: --compare"),
        (["evaluate", "--scaling"], "No such option: --scaling"),
        (["evaluate", "--augment"], "No such option: --augment"),
        (["evaluate", "--hours", "1"], "No such option: --hours"),
        (["evaluate", "--amounts", "1"], "No such option: --amounts"),
        (["compare", "--hours", "1"], "No such option: --hours"),
        (["learning-curve", "--model", "sub-01"], "No such option: --model"),
        (["augment", "--draws", "200"], "No such option: --draws"),
        (["train", "--resume"], "No such option: --resume"),
        (["adapt", "--resume"], "No such option: --resume"),
        # Choices are listed.
        (["train", "--preset", "huge"], "'huge' is not one of 'tiny', 'small', 'paper'"),
        (["train", "--model", "cubic"], "'cubic' is not one of 'auto', 'network', 'linear'"),
        (["train", "--voxel-order", "zigzag"], "'zigzag' is not one of 'auto', 'file', 'curve'"),
        (["train", "--precision", "fp8"], "'fp8' is not one of 'auto', 'float32', 'bf16'"),
        (["adapt", "--strategy", "best"], "'best' is not one of 'auto', 'shared-core'"),
        (["synthesize", IMAGES, "--sampling", "best"], "'best' is not one of 'calibrated'"),
        (["synthesize", IMAGES, "--signal", "new"], "'new' is not one of 'shared', 'fresh'"),
        (["synthesize", IMAGES, "--unit", "T"], "'T' is not one of 'recorded', 'z'"),
        (["synthesize", IMAGES, "--space", "moon"], "'moon' is not one of 'fsaverage5'"),
        (["plot-flatmap", "--what", "soul"], "'soul' is not one of 'mean', 'std', 'sem', 'diff"),
        (["plot-flatmap", "--format", "bmp"], "'bmp' is not one of 'png', 'svg', 'pdf'"),
        (["plot-flatmap", "--space", "fsnative"], "'fsnative' is not one of 'fsaverage5'"),
        (["prepare", "nsd", "--space", "MNI"], "'MNI' is not one of 'func1pt8mm', 'func1mm'"),
        (["prepare", "nsd", "--preparation", "b4"], "'b4' is not one of 'b1', 'b2', 'b3'"),
        (["prepare", "nsd", "--precision", "int8"], "'int8' is not one of 'auto', 'float32'"),
        (["prepare", "algonauts", "--root", "r", "--standardize", "z"], "'z' is not one of"),
        (["train", "--seed", "-1"], "Invalid value for '--seed'"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else None,
)
def test_usage_errors_exit_2_and_say_what_was_meant(synbrain, arguments, message):
    code, output, error = synbrain(*arguments)
    assert code == 2
    assert not output
    assert message in error


def test_version(synbrain):
    assert synbrain("--version") == (0, f"synbrain {version('synbrain')}\n", "")


def test_help_lists_commands_in_the_order_of_use(synbrain):
    _, output, _ = synbrain("--help")
    assert re.findall(r"^(\S.*):$", output, re.MULTILINE) == ["Options", *SECTIONS]
    expected = [name for names in SECTIONS.values() for name in names]
    listed = output[output.index("\nStart:") :]
    assert re.findall(r"^  ([a-z][a-z-]*)  ", listed, re.MULTILINE) == expected
    # None was left out, and completion has the same order.
    registered = {command.name for command in cli.app.registered_commands}
    registered |= {group.name for group in cli.app.registered_groups}
    assert registered == set(expected)
    assert list(get_command(cli.app).commands) == expected
    assert "..." not in listed  # sentences are whole


def test_help_lists_choices(synbrain):
    for command, choices in (
        (("train",), "<tiny|small|paper>"),
        (("train",), "<auto|network|linear|full>"),
        (("adapt",), "<auto|shared-core|source-map|fine-tuning>"),
        (("plot", "flatmap"), "<png|svg|pdf>"),
        (("prepare", "table"), "<session|train|none>"),
    ):
        assert choices in synbrain(*command, "--help")[1]


def test_choices_are_those_of_the_library():
    """They are written twice, as the library's would load torch or numpy for `--help`."""
    from synbrain_cli import config
    from synbrain_cli.brain import drawing
    from synbrain_cli.cli import options, plot, prepare, synthesize, train
    from synbrain_cli.datasets import nsd_choice
    from synbrain_cli.features import encoder
    from synbrain_cli.io import prepared, surface_resampling
    from synbrain_cli.model import order
    from synbrain_cli.pipeline import adapt as adapt_pipeline
    from synbrain_cli.pipeline import plot as plot_pipeline
    from synbrain_cli.pipeline import train as train_pipeline
    from synbrain_cli.plotting import figure, map_plotter

    maps = plot_pipeline.RESPONSE_MAPS + plot_pipeline.RECORDED_MAPS + plot_pipeline.ACCURACY_MAPS
    for choices, known in (
        (options.Standardization, tuple(prepared.STANDARDIZATIONS)),
        (options.EncoderPrecision, ("auto", *encoder.PRECISIONS)),
        (options.TrainingPrecision, config.PRECISIONS),
        (options.FigureFormat, figure.FORMATS),
        (options.FigureSpace, map_plotter.SPACES),
        (prepare.NSDSpace, nsd_choice.SPACES),
        (train.ModelKind, train_pipeline.MODELS),
        (train.VoxelOrder, ("auto", *order.ORDERS)),
        (train.Strategy, ("auto", *adapt_pipeline.STRATEGIES)),
        (synthesize.Sampling, drawing.SAMPLINGS),
        (synthesize.Signal, drawing.SIGNALS),
        (synthesize.Unit, drawing.UNITS),
        (plot.MapKind, maps),
    ):
        assert get_args(choices) == known
    assert set(get_args(options.FigureStyle)) == {*figure.STYLES} - {"screen", "phone"}
    assert tuple(options.MapSpace) == (*surface_resampling.SURFACE_SPACES, "fsLR", "MNI", "none")


@pytest.mark.parametrize(
    "what", ["flatmap", "surface", "draws", "rois", "accuracy", "layers", "report"]
)
def test_every_plot_command_takes_a_style(synbrain, what, monkeypatch):
    """The style reaches what plots, and another one is refused."""
    from synbrain_cli.pipeline import layers as layers_pipeline
    from synbrain_cli.pipeline import plot as plot_pipeline
    from synbrain_cli.pipeline import report as report_pipeline
    from synbrain_cli.plotting.figure import STYLES, current_style

    seen = []

    def result(*_, look=None, **__):
        seen.append(STYLES[look.style] if look else current_style())
        none = pd.DataFrame(columns=["region", "n_voxels", "band", "fraction_won", "mean_share"])
        return layers_pipeline.LayersResult([], none, "")

    monkeypatch.setattr(layers_pipeline, "layers", result)
    for name in ("brain_maps", "draws", "rois", "accuracy"):
        monkeypatch.setattr(plot_pipeline, name, result)
    monkeypatch.setattr(report_pipeline, "report", result)
    monkeypatch.setattr(plot_pipeline.Selection, "find_model", lambda *_: None)
    for style in ("paper", "talk"):
        code, _, error = synbrain("plot", what, "--style", style)
        assert code == 0, error
        assert seen[-1] is STYLES[style]
    code, _, error = synbrain("plot", what, "--style", "phone")
    assert (code, len(seen)) == (2, 2)
    assert "paper" in error


def test_the_library_checks_choices_for_python_callers():
    from synbrain_cli.brain.drawing import Drawing
    from synbrain_cli.pipeline import plot
    from synbrain_cli.pipeline.train import TrainSettings
    from synbrain_cli.plotting import map_plotter

    for message, call in (
        ("--preset huge: expected one of tiny", lambda: TrainSettings(preset="huge")),
        ("--model cubic: expected one of auto, network", lambda: TrainSettings(model="cubic")),
        ("--what soul: expected one of mean", lambda: plot.MapChoice(what="soul")),
        ("--format bmp: expected one of png", lambda: map_plotter.Look(format="bmp")),
        ("--space fsnative: expected one of fsav", lambda: map_plotter.Look(space="fsnative")),
        ("sampling: expected calibrated", lambda: Drawing(sampling="best")),
        ("signal: expected shared or fresh", lambda: Drawing(signal="sometimes")),
    ):
        with pytest.raises(InputError, match=message):
            call()


# ------------------------------------------------------------------------------ completion


def ask_program(instruction, **environment):
    """What the program answers to the shell, having loaded nothing heavy."""
    code = "import sys; sys.argv = ['synbrain']; from synbrain_cli import cli\n"
    code += "try: cli.main()\n"
    code += "finally: print(*{'torch', 'numpy', 'nilearn'} & set(sys.modules), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"_SYNBRAIN_COMPLETE": instruction} | environment,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr.strip()
    return done.stdout


def complete(words, workspace):
    """What Tab offers in bash after these words, the last of them unfinished."""
    typed = " ".join(["synbrain", *words])
    where = {"COMP_WORDS": typed, "COMP_CWORD": str(len(words))}
    return ask_program("complete_bash", SYNBRAIN_WORKSPACE=str(workspace), **where).split()


@pytest.fixture(scope="module")
def names_only(tmp_path_factory):
    """A workspace with nothing in it but names."""
    root = tmp_path_factory.mktemp("names")
    for name in ("weights/sub-01", "weights/sub-03_hours-1", "weights/.sub-02.partial"):
        (root / name).mkdir(parents=True)
        (root / name / "config.json").touch()
    for name in ("nsd/sub-05", "simulated/sub-01"):
        (root / "prepared" / name).mkdir(parents=True)
        (root / "prepared" / name / "dataset_description.json").touch()
    return root


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["ev"], ["evaluate"]),
        (["prepare", "si"], ["simulated"]),
        (["train", "--pre"], ["--preset", "--precision"]),
        (["train", "--preset", ""], ["tiny", "small", "paper"]),
        (["adapt", "--strategy", "s"], ["shared-core", "source-map"]),
        (["synthesize", "images", "--space", "fsn"], ["fsnative"]),
        (["evaluate", "--model", ""], ["sub-01", "sub-03_hours-1"]),
        (["compare", "sub-01", "sub-03"], ["sub-03_hours-1"]),
        (["adapt", "--from", "sub-01,"], ["sub-01,sub-03_hours-1"]),
        (["train", "--subject", ""], ["sub-01", "sub-05"]),
        (["learning-curve", "--subject", "sub-05,"], ["sub-05,sub-01"]),
        (["train", "--dataset", ""], ["nsd", "simulated"]),
        (["weights", "card", "sub-0"], ["sub-01", "sub-03_hours-1"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_tab_offers_names(names_only, words, offered):
    assert complete(words, names_only) == offered


def test_tab_follows_the_workspace_of_the_command(names_only, tmp_path):
    words = ["evaluate", "--workspace", str(names_only), "--model", "sub-03"]
    assert complete(words, tmp_path) == ["sub-03_hours-1"]
    assert complete(["evaluate", "--model", ""], tmp_path) == []


def test_completion_can_be_installed(synbrain):
    assert "--install-completion" in synbrain("--help")[1]
    assert "complete -o default -F _synbrain_completion synbrain" in ask_program("source_bash")


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
    import synbrain_cli.io.files as module

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_allocate", full)
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
    assert "thesis exists and was not written by this command" in error
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
        if getattr(kind, "__module__", None) == errors.__name__ and name.endswith("Error"):
            assert issubclass(kind, SynbrainError)


@pytest.mark.parametrize(
    ("ends", "write", "expected"),
    [
        ((0.1024, 0.1456), cell, "0.102–0.146"),
        ((-0.0001, 0.05), cell, "0.000–0.050"),
        ((2.5, 4000.0), amount, "2.50–>1,000"),
        ((None, None), cell, "-"),
        ((math.nan, math.nan), amount, "-"),
    ],
)
def test_an_interval_that_is_missing_is_one_dash(ends, write, expected):
    assert interval(*ends, write) == expected
