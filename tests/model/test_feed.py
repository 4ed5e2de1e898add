"""Batches: the same rows whether they wait on the device or are read ahead."""

from __future__ import annotations

import numpy as np
import psutil
import pytest
import torch

from synbrain_cli.distributed import Processes
from synbrain_cli.model import feed as module
from synbrain_cli.model.feed import Feed, Rows
from synbrain_cli.model.tokens import BandScaler, StandardBand

CPU = torch.device("cpu")


@pytest.fixture
def store(tmp_path, rng):
    """Tokens on disk, as an encoder in half precision leaves them."""
    np.save(tmp_path / "tokens.npy", rng.normal(2, 3, (30, 5, 4)).astype(np.float16))
    return np.load(tmp_path / "tokens.npy", mmap_mode="r")


@pytest.fixture
def tokens(store, rng):
    rows = rng.permutation(30)[:12]
    return StandardBand(store, rows, BandScaler.fit(store, rows))


def draw(n, generator):
    return torch.randn(n, 2, generator=generator)


@pytest.mark.parametrize("room", [0.0, 1.0])
def test_batches_are_the_rows(tokens, rng, monkeypatch, room):
    monkeypatch.setitem(module.ROOM, "cpu", room)
    betas = rng.normal(size=(40, 7)).astype(np.float32)
    image = rng.integers(0, 12, 40)
    columns = Rows(betas, CPU), Rows.of_tokens(tokens, CPU, image)
    assert [column.resident for column in columns] == [room > 0] * 2
    feed = Feed(*columns, noise=draw)
    order = torch.from_numpy(rng.permutation(40)[:36].reshape(6, 6))
    batches = list(feed(order, torch.Generator().manual_seed(3)))
    assert len(batches) == 6
    noise = torch.Generator().manual_seed(3)
    for items, (y, t, e) in zip(order.numpy(), batches, strict=True):
        np.testing.assert_array_equal(y, betas[items])
        np.testing.assert_allclose(t, tokens[image[items]], rtol=1e-6, atol=1e-6)
        assert t.dtype == torch.float32
        assert torch.equal(e, draw(6, noise))


def test_parts_of_a_team_make_the_batch(tokens, rng):
    order = torch.from_numpy(rng.permutation(12).reshape(2, 6))

    def batches(processes):
        feed = Feed(Rows.of_tokens(tokens, CPU), noise=draw, processes=processes)
        return list(feed(order, torch.Generator().manual_seed(0)))

    whole = batches(Processes())
    parts = [batches(Processes(rank, 3)) for rank in range(3)]
    for k, batch in enumerate(whole):
        for column, values in enumerate(batch):
            assert torch.equal(torch.cat([part[k][column] for part in parts]), values)


def test_resident_rows_are_taken_without_waiting(rng):
    """On a device without values, whatever asked for one would fail."""
    nowhere = torch.device("meta")
    scaler = BandScaler(np.zeros((4, 5), np.float32), np.ones((4, 5), np.float32))
    columns = (
        Rows(np.zeros((10, 3), np.float32), nowhere, resident=True),
        Rows(np.zeros((6, 4, 5), np.float16), nowhere, np.arange(10) % 6, scaler, resident=True),
    )
    feed = Feed(*columns, noise=lambda n, _: torch.randn(n, 2, device=nowhere))
    batches = list(feed(torch.arange(8).view(2, 4), torch.Generator()))
    assert [[tuple(x.shape) for x in batch] for batch in batches] == [
        [(4, 3), (4, 4, 5), (4, 2)]
    ] * 2
    assert all(x.is_meta and x.dtype == torch.float32 for batch in batches for x in batch)


@pytest.mark.skipif(not psutil.LINUX, reason="pages of files are given back on Linux")
@pytest.mark.parametrize(("resident", "size"), [(False, 0), (True, 67e6)])
def test_pages_of_a_file_are_given_back(tmp_path, resident, size):
    """Every item of a file of 67 MB is read, and at most its copy stays."""
    np.save(tmp_path / "rows.npy", np.ones((64, 2**18), np.float32))
    array = np.load(tmp_path / "rows.npy", mmap_mode="r")

    def used():
        return psutil.Process().memory_info().rss

    before = used()
    rows = Rows(array, CPU, resident=resident)
    for k in range(64):
        item = np.array([k])
        assert rows.take(torch.from_numpy(item), rows.fetch(item)).sum() == 2**18
    assert used() - before < size + 20e6


def test_rows_named_twice_are_kept_once(store):
    rows = Rows(store, CPU, np.array([7, 3, 7, 7]), resident=True)
    assert len(rows.values) == 2
    taken = rows.take(torch.tensor([2, 1]), None)
    np.testing.assert_array_equal(taken, store[[7, 3]].astype(np.float32))


def test_standardised_tokens_are_read_a_few_at_a_time(tokens):
    whole = np.asarray(tokens.store[tokens.rows], np.float64)
    mean = whole.mean(0)
    expected = (whole - mean) / np.sqrt(((whole - mean) ** 2).mean((0, 1)))
    np.testing.assert_allclose(tokens[:], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(np.concatenate(list(tokens.batches(5))), tokens[:])
    np.testing.assert_array_equal(tokens.raw(), tokens.store[tokens.rows])
