"""What an interrupted preparation has written is taken up as it was written, or written again."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest
from listening import Listening

from synbrain_cli.io.prepared import Origin
from synbrain_cli.io.prepared_writer import PreparedWriter

N_VOXELS, SESSIONS = 6, (1, 2, 3)
TRIALS = pd.DataFrame(
    {
        "trial": range(30),
        "session": np.repeat(SESSIONS, 10),
        "image": [f"image-{k % 10}" for k in range(30)],
        "repeat": 1,
        "split": ["train", "val"] * 15,
    }
)
ORIGIN = Origin(
    name="one",
    simulated=True,
    space="x",
    unit_before_standardization="au",
    options={},
    sources={},
    noise_ceiling_snr={},
)


def write(folder, sessions, progress=None):
    """Write sessions as far as they are not there; return which were written."""
    rng, written = np.random.default_rng(0), []
    betas = rng.normal(size=(3, 10, N_VOXELS)).astype(np.float32)
    with PreparedWriter(folder, {}, TRIALS, N_VOXELS, progress=progress) as writer:
        for session in sessions:
            if session not in writer.done:
                writer.write_session(session, betas[session - 1])
                written.append(session)
        if len(sessions) == len(SESSIONS):
            writer.finish(pd.DataFrame(index=range(N_VOXELS)), None, {}, ORIGIN)
    return written


def change_byte(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 16
    path.write_bytes(content)


def become_fifo(path):
    path.unlink()
    os.mkfifo(path)


def count_another(path):
    record = json.loads(path.read_text())
    record["done"]["3"] = record["done"]["1"]
    path.write_text(json.dumps(record))


HEADER = 128
DAMAGES = {
    "a value": ("unfinished.npy", lambda p: change_byte(p, HEADER + 4 * 7), [1]),
    "a value of the second": ("unfinished.npy", lambda p: change_byte(p, HEADER + 4 * 61), [2]),
    "the header": ("unfinished.npy", lambda p: change_byte(p, 40), [1, 2]),
    "the end is missing": ("unfinished.npy", lambda p: p.write_bytes(p.read_bytes()[:-9]), [1, 2]),
    "a FIFO": ("unfinished.npy", become_fifo, [1, 2]),
    "moments": ("session02.npz", lambda p: change_byte(p, 200), [2]),
    "moments of another": (
        "session02.npz",
        lambda p: shutil.copyfile(p.with_name("session01.npz"), p),
        [2],
    ),
    "no moments": ("session01.npz", lambda p: p.unlink(), [1]),
    "the record": ("betas.json", lambda p: p.write_text("{"), [1, 2]),
    "another record": ("betas.json", count_another, [1, 2]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_sessions_are_read_again(tmp_path, damage):
    name, change, again = DAMAGES[damage]
    assert write(tmp_path / "whole/sub-01", SESSIONS) == [1, 2, 3]
    folder = tmp_path / "stopped/sub-01"
    assert write(folder, (1, 2)) == [1, 2]
    change(folder.parent / ".sub-01.recovery" / name)
    progress = Listening()
    assert write(folder, SESSIONS, progress) == [*again, 3]
    assert [m for m in progress.messages if "read again" in m]
    for path in (tmp_path / "whole/sub-01").iterdir():
        assert path.read_bytes() == (folder / path.name).read_bytes(), path.name


def test_sessions_that_are_whole_are_kept(tmp_path):
    folder = tmp_path / "sub-01"
    assert write(folder, (1, 2)) == [1, 2]
    progress = Listening()
    assert write(folder, SESSIONS, progress) == [3]
    assert not [m for m in progress.messages if "read again" in m]
