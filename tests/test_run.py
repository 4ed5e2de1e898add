"""What a run carries along: device, speed and processes as they were asked for."""

from __future__ import annotations

import pytest
import torch

from synbrain_cli.config import Speed
from synbrain_cli.distributed import Processes
from synbrain_cli.errors import InputError
from synbrain_cli.run import RunContext, choose_speed, resolve_device

CPU = torch.device("cpu")


def test_the_device_and_its_speed_are_resolved():
    run = RunContext.create(seed=3, device="cpu")
    assert (run.seed, run.device, run.speed) == (3, CPU, Speed())
    assert RunContext.create(device="auto").device == resolve_device("auto")
    assert RunContext.create(device="cpu", speed=Speed("bf16")).speed == Speed("bf16")


def test_each_process_has_a_device_of_its_own():
    processes = Processes(1, 2, CPU)
    assert RunContext.create(processes=processes).device == CPU
    with pytest.raises(InputError, match="each of the 2 processes"):
        RunContext.create(device="cuda:1", processes=processes)


@pytest.mark.parametrize("device", ["cuda:99", "nowhere"])
def test_a_device_that_is_not_there_is_an_error(device):
    with pytest.raises(InputError, match=f"--device {device}: not available"):
        RunContext.create(device=device)


def test_speed_is_chosen_where_something_is_asked_for():
    assert choose_speed("cpu", "auto", None, None) is None
    assert choose_speed("cpu", "bf16", None, None) == Speed("bf16")
    assert choose_speed("cpu", "auto", True, 4) == Speed("float32", True, 4)


@pytest.mark.parametrize(
    ("precision", "micro_batch", "message"),
    [
        ("fp8", None, "--precision fp8: expected one of auto, float32, bf16"),
        ("auto", 0, "--micro-batch 0: expected 1 or more"),
    ],
)
def test_a_speed_that_does_not_exist_is_an_error(precision, micro_batch, message):
    with pytest.raises(InputError, match=message):
        choose_speed("cpu", precision, None, micro_batch)
