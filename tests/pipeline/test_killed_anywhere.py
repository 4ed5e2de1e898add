"""Every command killed at its changes of names: the same command again finishes it, nothing lost.

A few changes of each command are hit in every run; ``pytest --every-kill`` hits all of them.
"""

from __future__ import annotations

import shutil
import signal
import zlib

import killing
import numpy as np
import pytest
import tiny

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stages(made_once, tmp_path_factory):
    messages = tmp_path_factory.mktemp("messages")
    return made_once("tiny", lambda w: tiny.make_stages(w.root, messages)).root


@pytest.fixture
def workspace(stages, tmp_path):
    """Function that makes the workspace of a scenario, always in the same place."""

    def make(scenario: tiny.Scenario):
        folder = tmp_path / "at"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(stages / scenario.stage, folder)
        if scenario.replaces:
            (folder / scenario.replaces / tiny.NOTE).write_text("years of work")
        return folder

    return make


def moments(name: str, n_changes: int, few: int) -> list[int]:
    """Which changes to be killed at: other ones for every command, the same in every run."""
    every = range(1, n_changes + 1)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return sorted(map(int, rng.choice(every, min(few, n_changes), replace=False)))


@pytest.mark.parametrize("name", tiny.SCENARIOS)
def test_the_same_command_finishes_it(name, workspace, tmp_path, request):
    scenario = tiny.SCENARIOS[name]
    folder = workspace(scenario)
    before = tiny.snapshot(folder)
    arguments = tiny.located(folder, scenario.arguments)
    n_changes = killing.count_changes(tmp_path, *arguments)
    expected = tiny.snapshot(folder)
    assert expected != before
    if scenario.replaces:
        note = f"{scenario.replaces}/{tiny.NOTE}"
        assert expected[note] == before[note]
    few = n_changes if request.config.getoption("--every-kill") else scenario.few
    for moment in moments(name, n_changes, few):
        workspace(scenario)
        done = killing.run(tmp_path, *arguments, kill_at=moment, changes=killing.CHANGES)
        assert done.returncode == -signal.SIGKILL, moment
        check_nothing_lost(before, tiny.snapshot(folder), expected, moment)
        again = killing.run(tmp_path, *arguments)
        assert again.returncode == 0, (moment, again.stderr)
        found = tiny.snapshot(folder)
        differing = {k for k in found | expected if found.get(k) != expected.get(k)}
        assert not differing, (moment, differing)


def check_nothing_lost(before, found, expected, moment) -> None:
    """Every file that was there is there still, or is the new one, or has no place in the new."""
    for name, content in before.items():
        if name in expected:
            assert found.get(name) in (content, expected[name]), (moment, name)
