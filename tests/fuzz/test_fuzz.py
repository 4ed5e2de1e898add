"""A bounded number of mutants over every reader: none fails. More with ``pytest --fuzz 3000``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DRIVE = Path(__file__).with_name("drive.py")
BOUNDED = 110  # about a minute of processor time, and as much for the workspace


@pytest.mark.slow
def test_damaged_files_end_in_one_line_or_in_the_right_result(request, tmp_path):
    number, seed = request.config.getoption("--fuzz"), request.config.getoption("--fuzz-seed")
    mutants = BOUNDED if number is None else number
    root = DRIVE.parents[2]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    record = tmp_path / "summary.json"
    ended = subprocess.run(
        [
            *(sys.executable, DRIVE, "--mutants", str(mutants), "--seed", str(seed)),
            *("--json", record, "--base", tmp_path / "base"),
        ],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert record.exists(), ended.stderr
    found = json.loads(record.read_text())
    assert sum(found["tried"].values()) >= mutants
    assert not found["failures"], ended.stdout
    assert ended.returncode == 0
