"""Apertures and textures: where contrast is, and what it is made of."""

from __future__ import annotations

import numpy as np
import pytest

from synbrain_cli.experiments.mapping_stimuli import (
    CONTRAST,
    GREY,
    GRID,
    SIDE,
    grid_positions,
    mapping_apertures,
    render,
    textures,
)


@pytest.fixture(scope="module")
def apertures():
    return mapping_apertures()


def centre(apertures, name):
    """Centre of an aperture: x, y upwards, half-widths."""
    mask = apertures.masks[apertures.names.index(name)]
    x, y = grid_positions(GRID)
    return (x * mask).sum() / mask.sum(), (y * mask).sum() / mask.sum()


def test_apertures_are_named_once_and_none_is_empty(apertures):
    assert len(set(apertures.names)) == len(apertures.names) == len(apertures.masks)
    assert apertures.masks.dtype == np.float32
    assert set(np.unique(apertures.masks)) == {0, 1}
    assert (apertures.masks.mean((1, 2)) > 0).all()


def test_wedges_turn_counterclockwise_from_the_right_and_cover_the_picture_alike(apertures):
    for name, (x, y) in {"wedge-000.0": (1, 0), "wedge-090.0": (0, 1)}.items():
        found = np.array(centre(apertures, name))
        np.testing.assert_allclose(found / np.hypot(*found), (x, y), atol=1e-6)
    wedges = apertures.masks[[name.startswith("wedge") for name in apertures.names]]
    cover = wedges.sum(0)
    assert np.median(cover) == 2  # 45 degrees wide, 22.5 apart


def test_rings_cover_the_picture_once_and_grow_outwards(apertures):
    rings = apertures.masks[[name.startswith("ring") for name in apertures.names]]
    np.testing.assert_array_equal(rings.sum(0), 1)
    x, y = grid_positions(GRID)
    radius = [np.hypot(x, y)[ring > 0].mean() for ring in rings]
    assert (np.diff(radius) > 0).all()


def test_bars_of_an_orientation_sweep_over_the_picture(apertures):
    bars = [name for name in apertures.names if name.startswith("bar-000")]
    places = [centre(apertures, name)[0] for name in bars]
    assert (np.diff(places) > 0).all()
    assert max(abs(centre(apertures, name)[1]) for name in bars) < 1e-6
    up = [centre(apertures, name)[1] for name in apertures.names if name.startswith("bar-090")]
    assert (np.diff(up) > 0).all()


def test_textures_have_natural_spectra_and_their_contrast():
    found = textures(3, np.random.default_rng(0))
    assert found.shape == (3, SIDE, SIDE, 3)
    luminance = found.mean(-1)
    power = np.abs(np.fft.fft2(luminance))[:, 1 : SIDE // 4, 0].mean(0)
    slope = np.polyfit(np.log(np.arange(1, SIDE // 4)), np.log(power), 1)[0]
    assert slope == pytest.approx(-1, abs=0.15)
    assert luminance.std() == pytest.approx(CONTRAST, rel=0.1)
    again = textures(3, np.random.default_rng(0))
    np.testing.assert_array_equal(found, again)
    assert np.abs(np.corrcoef(luminance[0].ravel(), luminance[1].ravel())[0, 1]) < 0.3


def test_pictures_are_grey_outside_the_aperture(apertures):
    texture = textures(1, np.random.default_rng(1))[0]
    k = apertures.names.index("wedge-000.0")
    (shown,) = render(apertures.masks[[k]], texture)
    assert shown.dtype == np.uint8
    inside = apertures.masks[k].repeat(SIDE // GRID, 0).repeat(SIDE // GRID, 1) > 0
    assert (shown[~inside] == GREY).all()
    assert shown[inside].std() > CONTRAST / 2
