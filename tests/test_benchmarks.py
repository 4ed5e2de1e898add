"""The benchmark at the published size, tried with small networks: its record, never its times."""

from __future__ import annotations

import importlib
import io
import json
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def modules():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield [importlib.import_module(name) for name in ("paper_size", "paper_size_steps")]


@pytest.fixture(scope="module")
def record(modules, tmp_path_factory):
    """What the command writes, its measurements made within this process to save the imports."""
    main, steps = modules
    folder = tmp_path_factory.mktemp("results")

    def measured(script, argument):
        printed = io.StringIO()
        with redirect_stdout(printed), pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [script, argument])
            patch.setattr(steps, "limit_memory", lambda: None)  # it would bind this process
            steps.main()
        return json.loads(printed.getvalue().splitlines()[-1])

    words = ["paper_size.py", "--quick", "--device", "cpu", "--batch", "4", "--results", folder]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(main, "measured", measured)
        patch.setattr(sys, "argv", [*map(str, words), "--only", ",".join(main.PARTS)])
        main.main()
    (file,) = folder.iterdir()
    return json.loads(file.read_text())


def test_record_says_where_it_was_made(record):
    assert record["device"]["kind"] == "cpu"
    assert {"versions", "machine", "command", "size"} <= set(record)
    assert {"float32_teraflops", "bf16_teraflops", "copy_gigabytes_per_second"} <= set(
        record["peaks"]
    )


@pytest.mark.parametrize(
    ("part", "names"),
    [
        ("vae", ["recipe", "ours"]),
        ("s2n", ["recipe", "ours", "ours/response"]),
        ("tokens", ["recipe", "ours"]),
    ],
)
def test_comparison(record, part, names):
    found = record[part]
    assert list(found["versions"]) == names
    assert not found["too_large"]
    for values in found["versions"].values():
        assert len(values["runs"]) == 2  # noise is the difference of the two
        assert values["seconds"] > 0
        assert values["peak_megabytes"] > 0
        assert values["share_of_peak"] > 0
    ratio = found["versions"]["recipe"]["seconds"] / found["versions"]["ours"]["seconds"]
    assert found["times_as_fast"]["ours"] == pytest.approx(ratio)


@pytest.mark.parametrize("part", ["vae", "s2n", "tokens"])
def test_ours_computes_what_the_recipe_does(record, part):
    errors = record[part]["versions"]["ours"]["relative_error"]
    assert set(errors) == ({"output"} if part == "tokens" else {"loss", "gradient", "output"})
    assert max(errors.values()) < 1e-4


def test_synthesis(record):
    found = record["synthesis"]
    assert set(found["8 draws / 1"]) == {"recipe", "ours", "ours/calibrated"}
    error = found["1 draws"]["versions"]["ours"]["relative_error"]["output"]
    assert error < 1e-4


def test_sweeps_and_kernels(record):
    for part, varied in (("batches", "batch"), ("voxels", "n_voxels")):
        assert {row[varied] for row in record[part]} == set(record["size"][part])
        assert all(row["seconds"] > 0 for row in record[part])
    assert any(isinstance(x, float) for x in record["attention"]["milliseconds"].values())
    assert all(isinstance(x, float) for x in record["convolution"]["milliseconds"].values())


def test_schedule_is_that_of_the_paper(record):
    found = record["published_schedule"]
    assert set(found) == {"recipe", "ours", "ours/response"}
    step = record["vae"]["versions"]["ours"]["seconds"] / 4
    assert found["ours"]["vae"] == pytest.approx(15 * 27_000 * step / 60)
    step = record["s2n"]["versions"]["recipe"]["seconds"] / 4
    assert found["recipe"]["s2n"] == pytest.approx(50_000 * 24 * step / 60)
    assert found["recipe"]["targets"] == 0 < found["ours"]["targets"]


def test_measurements_run_in_processes_of_their_own(modules, tmp_path):
    main, steps = modules
    run = steps.Run("peaks", str(tmp_path), "cpu", quick=True)
    assert main.measure(run)["float32_teraflops"] > 0


def test_what_does_not_fit_is_recorded(modules, monkeypatch, capsys, tmp_path):
    _, steps = modules

    def greedy(run):
        import torch

        torch.empty(1 << 60)

    run = steps.Run("peaks", str(tmp_path), "cpu", quick=True)
    monkeypatch.setattr(sys, "argv", ["steps", json.dumps(asdict(run))])
    monkeypatch.setattr(steps, "limit_memory", lambda: 8e9)
    monkeypatch.setitem(steps.STEPS, "peaks", greedy)
    steps.main()
    assert json.loads(capsys.readouterr().out) == {"out_of_memory": True, "limit_gigabytes": 8.0}


def test_batch_is_halved_until_all_versions_fit(modules, monkeypatch):
    main, steps = modules

    def measure(run):
        small = run.batch <= (6 if run.version == "recipe" else 12)
        return {"seconds": 1.0} if small else {"out_of_memory": True}

    monkeypatch.setattr(main, "measure", measure)
    run = steps.Run("vae", "/nowhere", "cpu", quick=True, batch=24)
    found = main.compare(run, {"ours": 1.0, "recipe": 1.0}, rounds=1, peak=1.0)
    assert found["batch"] == 6
    assert [(x["batch"], x["version"]) for x in found["too_large"]] == [
        (24, "ours"),
        (12, "recipe"),
    ]


@pytest.mark.slow
def test_a_tiny_subject_goes_through_the_benchmark_of_the_real_size(modules, tmp_path):
    script = importlib.import_module("real_size")
    words = ["real_size.py", "--quick", "--bands", "2", "--commands", "train,synthesize"]
    words += ["--scratch", tmp_path]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [*map(str, words), "--results", str(tmp_path / "results")])
        script.main()
    (file,) = (tmp_path / "results").iterdir()
    record = json.loads(file.read_text())
    found = record["fractions"]["1/8"]
    assert found["n_images"] == 120
    for command in ("train", "synthesize"):
        assert found[command]["processor_seconds"] > 0
        assert found[command]["peak_gigabytes"] > 0.1
    assert record["growth_exponent"] == {"train": None, "synthesize": None}
    assert str(tmp_path) not in file.read_text()  # no folder of one machine is kept
    assert record["command"].endswith("--scratch FOLDER --results FOLDER")
    times = {f: {"train": {"processor_seconds": 8 * float(f[-1]) ** -1.5}} for f in ("1/4", "1/2")}
    assert script.growth(times, "train") == pytest.approx(1.5)


@pytest.mark.slow
def test_a_few_images_go_through_the_benchmark_of_many(modules, linear_bundles, tmp_path):
    script = importlib.import_module("many_images")
    words = ["many_images.py", linear_bundles["1"], "--quick", "--scratch", tmp_path]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [*map(str, words), "--results", str(tmp_path / "results")])
        script.main()
    (file,) = (tmp_path / "results").iterdir()
    record = json.loads(file.read_text())
    assert set(record["commands"]) == {"4", "12"}
    assert all(found["processor_seconds"] > 0 for found in record["commands"].values())
    assert "maps" not in record["stages_milliseconds_an_image"]
    assert 0 < record["share_of_the_encoder"] < 1
    grown = {"4": {"x": 1.0}, "8": {"x": 9.0}, "12": {"x": 5.0}}
    assert script.slope(grown, "x") == 0.5
