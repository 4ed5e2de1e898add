"""What an interrupted synthesis has written is taken up as it was written, or drawn again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from listening import Listening
from PIL import Image
from tiny import content

from synbrain_cli.brain.drawing import Drawing
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.pipeline import synthesize as module
from synbrain_cli.pipeline.response_writer import ResponseWriter
from synbrain_cli.pipeline.synthesize import Output, synthesize
from synbrain_cli.run import RunContext

N_IMAGES = 40  # in batches of 16, and rounds of two batches


class Interrupted(Exception):
    pass


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for i in range(N_IMAGES):
        pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"image{i:02d}.png")
    return folder


def draw(model, images, target, progress=None):
    run = RunContext(device=torch.device("cpu"), progress=progress or Listening())
    output = Output(target, spaces=())
    synthesize(Workspace(target.parent), model, images, Drawing(2), output, run)


@pytest.fixture
def stopped(linear_bundles, images, tmp_path, monkeypatch):
    """A model, and a folder in which the draws of 32 images are whole and the rest is not."""
    model = linear_bundles["1"]
    draw(model, images, tmp_path / "whole")
    write, written = ResponseWriter.write_maps, []

    def breaking(self, folder, row, response):
        if row == 35:
            raise Interrupted
        return write(self, folder, row, response)

    monkeypatch.setattr(ResponseWriter, "write_maps", breaking)
    with pytest.raises(Interrupted):
        draw(model, images, tmp_path / "again")

    def counting(self, folder, row, response):
        if folder.name.endswith(".partial"):  # and not a made-up response that is measured
            written.append(row)
        return write(self, folder, row, response)

    monkeypatch.setattr(ResponseWriter, "write_maps", counting)
    return model, tmp_path, written


def change_byte(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 16
    path.write_bytes(content)


def count_all(path):
    done = np.load(path)
    assert done.any(1).tolist() == [True] * 32 + [False] * 8
    done[39] = done[0]
    np.save(path, done)


MAP = "sub-01/func/sub-01_stim-image20_desc-draws_betas.nii.gz"
ARRAY = "sub-01/func/sub-01_desc-draws_betas.npy"
RECORD, LAST = ".again.recovery/images_done.npy", range(32, 40)
DAMAGES = {
    "nothing": (None, None, [range(32, 40)]),
    "a draw": (
        f".again.partial/{ARRAY}",
        lambda p: change_byte(p, 140),
        [range(16), range(32, 40)],
    ),
    "an expected response": (
        ".again.partial/sub-01/func/sub-01_stat-mean_statmap.npy",
        lambda p: change_byte(p, 140),
        [range(16), range(32, 40)],
    ),
    "the SDs are missing": (
        ".again.partial/sub-01/func/sub-01_stat-std_statmap.npy",
        lambda p: p.unlink(),
        [range(40)],
    ),
    "the header": (f".again.partial/{ARRAY}", lambda p: change_byte(p, 40), [range(40)]),
    "a map": (f".again.partial/{MAP}", lambda p: change_byte(p, 300), [range(16, 40)]),
    "a map is missing": (f".again.partial/{MAP}", lambda p: p.unlink(), [range(16, 40)]),
    "the record": (RECORD, count_all, [range(32, 40)]),
    "a row of the record": (RECORD, lambda p: change_byte(p, 128 + 16 * 5), [range(16), LAST]),
    "the header of the record": (RECORD, lambda p: change_byte(p, 40), [range(40)]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_responses_are_drawn_again(stopped, images, damage):
    model, folder, written = stopped
    name, change, again = DAMAGES[damage]
    if change is not None:
        change(folder / name)
    progress = Listening()
    draw(model, images, folder / "again", progress)
    assert sorted(written) == [row for rows in again for row in rows]
    assert any("drawn again" in m for m in progress.messages) == (change is not None)
    whole, again = (
        sorted(path.relative_to(made) for path in made.rglob("*") if path.is_file())
        for made in (folder / "whole", folder / "again")
    )
    assert whole == again
    assert not [n for n in whole if content(folder / "whole" / n) != content(folder / "again" / n)]
    assert module.BATCH == 16
