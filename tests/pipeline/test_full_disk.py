"""A disk that is full, at any size of file: one line, nothing lost, and the same command goes on.

A limit on the size of files does to one process what a full disk does to all.
"""

from __future__ import annotations

import errno
import os
import resource

import killing
import numpy as np
import pytest
import tiny
from test_killed_anywhere import check_nothing_lost, stages, workspace  # noqa: F401

pytestmark = pytest.mark.slow
MESSAGE = 700  # bytes that an error may take
WRITING = [name for name in tiny.SCENARIOS if name not in ("report", "learning_curve", "compare")]


@pytest.mark.parametrize("name", WRITING)
def test_one_line_and_nothing_lost(name, workspace, tmp_path, request):  # noqa: F811
    scenario = tiny.SCENARIOS[name]
    folder = workspace(scenario)
    before = tiny.snapshot(folder)
    arguments = tiny.located(folder, scenario.arguments)
    assert killing.run(tmp_path, *arguments).returncode == 0
    expected = tiny.snapshot(folder)
    changed = [k for k in expected if expected[k] != before.get(k)]
    sizes = sorted({(folder / k).stat().st_size for k in changed} - set(range(MESSAGE)))
    assert sizes, "no file is longer than a message, which the limit holds for as well"
    few = len(sizes) if request.config.getoption("--every-kill") else 1
    n_refused = 0
    for size in np.random.default_rng(len(name)).choice(sizes, min(few, len(sizes)), replace=False):
        workspace(scenario)
        limits = {resource.RLIMIT_FSIZE: max(1, int(size) - 1)}
        done = killing.run(tmp_path, *arguments, limits=limits)
        if done.returncode:  # smaller files may have been read with their old content
            n_refused += 1
            assert done.returncode == 1, (size, done.stderr)
            assert len(done.stderr.splitlines()) == 1, (size, done.stderr)
            assert "free some space" in done.stderr
        check_nothing_lost(before, tiny.snapshot(folder), expected, size)
        again = killing.run(tmp_path, *arguments)
        assert again.returncode == 0, (size, again.stderr)
        assert tiny.snapshot(folder) == expected
    assert n_refused


@pytest.mark.parametrize("n_files", [12, 16, 24])
def test_few_open_files(workspace, tmp_path, n_files):  # noqa: F811
    """As many as some cluster's jobs may have: it works, or one line says what to do."""
    scenario = tiny.SCENARIOS["train"]
    folder = workspace(scenario)
    arguments = tiny.located(folder, scenario.arguments)
    done = killing.run(tmp_path, *arguments, limits={resource.RLIMIT_NOFILE: n_files})
    if done.returncode:
        assert done.returncode == 1, done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert os.strerror(errno.EMFILE) in done.stderr
        assert "ulimit -n" in done.stderr
        assert killing.run(tmp_path, *arguments).returncode == 0
    assert (folder / "weights/sub-01/config.json").exists()
