"""Tokens that are there already are whole, or it is said."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from listening import Listening

from synbrain_cli.errors import SynbrainError
from synbrain_cli.io.workfolder import partial_folder
from synbrain_cli.pipeline.extract_tokens import TokenRequest, extract_tokens
from synbrain_cli.run import RunContext


def read(names):
    for name in names:
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])
        yield np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)


def extract(dataset, n):
    run = RunContext(device=torch.device("cpu"), progress=Listening())
    names = [f"image-{i}" for i in range(n)]
    (store,) = extract_tokens(dataset, names, read, TokenRequest(("gabor",)), run).stores
    return store.folder


@pytest.fixture
def tokens(tmp_path):
    """File of the tokens of five images."""
    return extract(tmp_path / "own", 5) / "tokens.npy"


def change_value(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def test_damaged_ones_do_not_grow(tokens, tmp_path):
    """They would be copied into the new array, or made anew without a word."""
    change_value(tokens)
    before = tokens.read_bytes()
    with pytest.raises(SynbrainError, match=r"tokens\.npy: the tokens of 1 images are not those"):
        extract(tmp_path / "own", 8)
    assert tokens.read_bytes() == before


@pytest.mark.parametrize("n", [5, 8])
@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:-9]),
        lambda path: path.write_bytes(b"\x93NUMPY\x01"),
    ],
)
def test_an_array_that_is_absent_or_cut_is_said(tokens, tmp_path, damage, n):
    damage(tokens)
    with pytest.raises(SynbrainError, match=r"tokens\.npy"):
        extract(tmp_path / "own", n)


def test_what_an_interrupted_run_began_is_as_long_as_it_was(tokens, tmp_path):
    whole = tokens.read_bytes()
    partial = tokens.parent.rename(partial_folder(tokens.parent))
    (partial.with_name(".gabor.recovery")).mkdir()
    (partial / "tokens.npy").write_bytes(whole + b"\0")
    assert (extract(tmp_path / "own", 5) / "tokens.npy").read_bytes() == whole
