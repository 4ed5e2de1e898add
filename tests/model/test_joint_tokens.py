"""Tokens of several bands as those of one, for the networks that take the tokens of one."""

from __future__ import annotations

import numpy as np
import pytest
from one_band import one_scaler, standard

from synbrain_cli.model.joint_tokens import N_DIMS, SIDE, JointTokens, on_grid
from synbrain_cli.model.tokens import StandardTokens


def bands_of(rng, *shapes, n_images=40):
    """Standardised tokens of random bands, each (n_tokens, n_dims)."""
    arrays = [rng.normal(2, 3, (n_images, *shape)).astype(np.float32) for shape in shapes]
    return StandardTokens(tuple(standard(a, scaler=one_scaler(a)).bands[0] for a in arrays))


@pytest.mark.parametrize("side", [4, 7, 8, 14, 16, 1])
def test_averages_of_a_grid_keep_what_is_constant_and_where_things_are(side, rng):
    constant = np.full((2, side**2, 3), 5, np.float32)
    np.testing.assert_allclose(on_grid(constant), 5, rtol=1e-6)
    tokens = rng.normal(size=(2, side**2, 3)).astype(np.float32)
    averaged = on_grid(tokens)
    assert averaged.shape == (2, SIDE**2, 3)
    # Cells are of equal size: the mean over the image stays
    np.testing.assert_allclose(averaged.mean(1), tokens.mean(1), atol=1e-5)
    mirrored = tokens.reshape(2, side, side, 3)[:, :, ::-1].reshape(tokens.shape)
    expected = averaged.reshape(2, SIDE, SIDE, 3)[:, :, ::-1].reshape(averaged.shape)
    np.testing.assert_allclose(on_grid(mirrored), expected, atol=1e-5)


def test_a_finer_grid_is_averaged_in_squares_and_a_coarser_one_repeated(rng):
    fine = rng.normal(size=(3, 256, 4)).astype(np.float32)
    squares = fine.reshape(3, 8, 2, 8, 2, 4).mean((2, 4)).reshape(3, 64, 4)
    np.testing.assert_allclose(on_grid(fine), squares, atol=1e-6)
    coarse = rng.normal(size=(3, 16, 4)).astype(np.float32)
    repeated = coarse.reshape(3, 4, 4, 4).repeat(2, 1).repeat(2, 2).reshape(3, 64, 4)
    np.testing.assert_allclose(on_grid(coarse), repeated, atol=1e-6)
    same = rng.normal(size=(3, 64, 4)).astype(np.float32)
    np.testing.assert_array_equal(on_grid(same), same)


def test_cells_take_what_they_overlap():
    """Of 7 tokens a side: the first cell lies within the first token."""
    tokens = np.zeros((1, 49, 1), np.float32)
    tokens[0, 0] = 1
    grid = on_grid(tokens).reshape(SIDE, SIDE)
    assert grid[0, 0] == pytest.approx(1)
    # The second cell, from 1/8 to 2/8, has 1/7 − 1/8 of its 1/8 in it.
    share = (1 / 7 - 1 / 8) / (1 / 8)
    assert grid[0, 1] == grid[1, 0] == pytest.approx(share, rel=1e-5)
    assert grid[1, 1] == pytest.approx(share**2, rel=1e-5)
    assert (grid[2:] == 0).all()


@pytest.mark.parametrize("n_tokens", [50, 15, 2])
def test_tokens_on_no_square_grid_are_in_every_cell(n_tokens, rng):
    """Their place is not known: every cell has the mean of all of them."""
    tokens = rng.normal(size=(4, n_tokens, 3)).astype(np.float32)
    np.testing.assert_allclose(
        on_grid(tokens), np.repeat(tokens.mean(1, keepdims=True), SIDE**2, axis=1), atol=1e-6
    )
    joint = JointTokens.fit(bands_of(rng, (16, 3), (n_tokens, 3)))
    assert [axes.shape[0] for axes in joint.axes] == [3, 3]


def test_of_one_band_tokens_stay_as_they_are(rng):
    """On a square grid or not."""
    tokens = bands_of(rng, (50, 6))
    joint = JointTokens.fit(tokens)
    assert joint == JointTokens()
    assert joint.arrays() == {}
    np.testing.assert_array_equal(joint(tokens[:]), tokens[:].bands[0])
    assert joint.all_of(tokens) is tokens.bands[0]


@pytest.mark.parametrize(
    ("shapes", "widths"),
    [
        ([(256, 48), (196, 48), (196, 120), (49, 352), (256, 3)], [23, 23, 23, 23, 3]),
        ([(16, 5), (16, 200)], [5, 91]),
        ([(16, 200), (16, 200)], [48, 48]),
        ([(16, 5), (16, 4)], [5, 4]),
    ],
)
def test_bands_share_the_dimensions(shapes, widths, rng):
    """Small ones have all of theirs; the sum is even, for sine and cosine."""
    joint = JointTokens.fit(bands_of(rng, *shapes, n_images=4))
    found = [axes.shape[1] for axes in joint.axes]
    assert [axes.shape[0] for axes in joint.axes] == [n_dims for _, n_dims in shapes]
    assert sum(found) % 2 == 0
    assert sum(found) <= N_DIMS
    assert np.abs(np.subtract(found, widths)).sum() <= 1


def test_components_have_one_variance_and_bands_stand_side_by_side(rng):
    tokens = bands_of(rng, (256, 7), (49, 130), (16, 3), n_images=60)
    joint = JointTokens.fit(tokens)
    seen = joint(tokens[:])
    assert seen.shape == (60, 64, sum(axes.shape[1] for axes in joint.axes))
    assert seen.dtype == np.float32
    first = 0
    for band, axes in zip(tokens.bands, joint.axes, strict=True):
        own = seen[..., first : first + axes.shape[1]]
        np.testing.assert_allclose(own, on_grid(band[:]) @ axes, atol=1e-5)
        assert np.square(own).mean() == pytest.approx(1, rel=1e-3)
        first += axes.shape[1]


def test_leading_components_are_kept(rng):
    """Of 200 dimensions that vary in a few directions, these are all that is seen."""
    source = rng.normal(size=(50, 64, 10))
    wide = (source @ rng.normal(size=(10, 200))).astype(np.float32)
    other = rng.normal(size=(50, 64, 200)).astype(np.float32)
    tokens = StandardTokens((standard(wide).bands[0], standard(other).bands[0]))
    joint = JointTokens.fit(tokens)
    own = joint(tokens[:])[..., : joint.axes[0].shape[1]].reshape(-1, joint.axes[0].shape[1])
    back = own @ np.linalg.lstsq(own, wide.reshape(-1, 200), rcond=None)[0]
    assert np.square(back - wide.reshape(-1, 200)).mean() < 1e-6 * np.square(wide).mean()


def test_all_images_are_as_each_alone(rng):
    tokens = bands_of(rng, (256, 7), (49, 30))
    joint = JointTokens.fit(tokens)
    whole = joint.all_of(tokens)
    assert whole.shape == (40, 64, 36)
    np.testing.assert_allclose(whole[:], joint(tokens[:]), atol=1e-5)
    np.testing.assert_allclose(whole[[7, 3]], joint(tokens[[7, 3]]), atol=1e-5)


def test_through_a_file_they_are_the_same(rng):
    tokens = bands_of(rng, (16, 7), (49, 30))
    joint = JointTokens.fit(tokens)
    back = JointTokens.from_arrays(joint.arrays() | {"latent_sd": np.ones(3)}, 2)
    np.testing.assert_array_equal(back(tokens[:]), joint(tokens[:]))
    assert JointTokens.from_arrays({}, 1) == JointTokens()
