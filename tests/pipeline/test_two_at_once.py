"""Two commands at once in one workspace: each ends well or says that the other is at work.

Some of the pairs are tried in every run; ``pytest --every-kill`` tries all of them.
"""

from __future__ import annotations

import itertools
import shutil

import killing
import numpy as np
import pytest
import tiny
from test_killed_anywhere import stages  # noqa: F401

pytestmark = pytest.mark.slow
FEW = 6
NAMES = [name for name, one in tiny.SCENARIOS.items() if one.stage != "raw"]


def pytest_generate_tests(metafunc):
    """All pairs, or some."""
    pairs = list(itertools.combinations_with_replacement(NAMES, 2))
    if not metafunc.config.getoption("--every-kill"):
        chosen = np.random.default_rng(0).choice(len(pairs), FEW, replace=False)
        pairs = [pairs[i] for i in sorted(chosen)]
    metafunc.parametrize("pair", pairs, ids="+".join)


def test_two_at_once(pair, stages, tmp_path):  # noqa: F811
    folder = tmp_path / "at"
    commands = [tiny.located(folder, tiny.SCENARIOS[name].arguments) for name in pair]
    outcomes = []
    for order in (commands, commands[::-1]):  # one after the other, in either order
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(stages / "trained", folder)
        for command in order:
            done = killing.run(tmp_path, *command)
            assert done.returncode == 0, done.stderr
        outcomes.append(tiny.snapshot(folder))
    shutil.rmtree(folder)
    shutil.copytree(stages / "trained", folder)
    running = [killing.start(tmp_path, *command) for command in commands]
    ended = [started.finish() for started in running]  # a refused one would meet the other again
    for command, done in zip(commands, ended, strict=True):
        if done.returncode:
            assert done.returncode == 1, done.stderr
            assert len(done.stderr.splitlines()) == 1, done.stderr
            again = killing.run(tmp_path, *command)
            assert again.returncode == 0, again.stderr
    found = tiny.snapshot(folder)
    kept = (".files.json", ".bidsignore")
    assert not [name for name in found if "/." in name and not name.endswith(kept)]
    for name, content in found.items():
        assert content in {outcome.get(name) for outcome in outcomes}, name
