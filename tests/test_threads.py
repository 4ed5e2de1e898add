"""Small products in one thread."""

from __future__ import annotations

import numpy as np
import torch
from threadpoolctl import threadpool_info

from synbrain_cli.features.gabor import Gabor
from synbrain_cli.threads import one_thread


def n_threads() -> set[int]:
    np.ones((2, 2)) @ np.ones((2, 2))
    return {library["num_threads"] for library in threadpool_info()} | {torch.get_num_threads()}


def test_one_thread_within_the_block_and_as_many_as_before_after_it():
    before = n_threads()
    with one_thread():
        assert n_threads() == {1}
    assert n_threads() == before


def test_tokens_do_not_depend_on_the_number_of_threads():
    images = np.random.default_rng(0).integers(0, 256, (3, 200, 160, 3), np.uint8)
    encoder, threads = Gabor(), torch.get_num_threads()
    few = encoder(images)
    seen = []

    class Watched(Gabor):
        def _tokens(self, images):
            seen.append(torch.get_num_threads())
            return super()._tokens(images)

    torch.set_num_threads(4)
    try:
        many = Watched()(images)
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(threads)
    assert seen == [1]
    np.testing.assert_array_equal(many.bands[0], few.bands[0])
