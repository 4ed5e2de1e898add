"""Processes that work together do what one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from synbrain_cli import cli
from synbrain_cli.distributed import Processes
from synbrain_cli.errors import InputError

SYNBRAIN = Path(__file__).with_name("killing.py")  # the command line, with the tests' preset
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]


def launch(n_processes, *arguments):
    """Start a command on several processes; they meet through gloo where there is no GPU."""
    command = [*LAUNCH, "--num_processes", str(n_processes), str(SYNBRAIN), "0"]
    return subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
def test_two_processes_train_the_model_of_one(trained, own):
    command = ["train", "--subject", "1", "--preset", "test", "--workspace", own.root]
    done = launch(2, *command, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("2 processes") == 1  # the main one alone speaks
    assert done.stdout.count("validation images") == 1
    one, two = (w.weights / "sub-01" for w in (trained, own))
    for name in ("linear", "readout"):
        expected, found = (load_file(folder / f"{name}.safetensors") for folder in (one, two))
        for key, value in expected.items():
            np.testing.assert_allclose(found[key], value, rtol=1e-3, atol=1e-4, err_msg=key)
    stages = [
        json.loads((folder / "config.json").read_text())["training"]["stages"]
        for folder in (one, two)
    ]
    for stage, expected in stages[0].items():
        for a, b in zip(expected["history"], stages[1][stage]["history"], strict=True):
            assert a == pytest.approx(b, rel=1e-3, abs=1e-4)


def test_alone_nothing_is_shared():
    processes = Processes()
    x = torch.arange(3.0)
    assert processes.is_main
    assert processes.gather(x) is processes.total(x) is x
    assert processes.part(7) == slice(0, 7)
    assert processes.device("cuda:1") == "cuda:1"
    assert processes.wrap(torch.nn.Linear(1, 1)).weight is not None
    assert processes.on_main(lambda: "done") == "done"


def test_what_cannot_be_shared_is_refused():
    assert [Processes(rank, 4).part(24) for rank in range(4)][-1] == slice(18, 24)
    with pytest.raises(InputError, match=r"batch that 5 processes.*found 24"):
        Processes(0, 5).part(24)
    with pytest.raises(InputError, match=r"--device cuda:1.*each of the 2 processes"):
        Processes(0, 2, torch.device("cuda", 0)).device("cuda:1")
    assert Processes(1, 2, torch.device("cuda", 1)).device("auto") == "cuda:1"
    assert Processes(1, 2, torch.device("cpu")).device("cpu") == "cpu"


def test_other_commands_are_done_by_one(monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(cli, "app", lambda **options: ran.append(os.environ["WORLD_SIZE"]))
    monkeypatch.setattr(sys, "argv", ["synbrain", "evaluate"])
    for rank in ("0", "1"):
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", rank)
        with suppress(SystemExit):
            cli.main()
    assert ran == ["1"]
    assert capsys.readouterr().err == "synbrain: evaluate runs in one process only\n"
    monkeypatch.setattr(sys, "argv", ["synbrain", "train"])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with suppress(SystemExit):
        cli.main()
    assert ran == ["1", "2"]
