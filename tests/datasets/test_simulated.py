"""The simulated subjects: their files are NSD's, their responses those of the known truth."""

from __future__ import annotations

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import scipy.io

from synbrain_cli.datasets.photographs import crop_photographs, load_photographs
from synbrain_cli.datasets.simulated import SimulationConfig, simulate
from synbrain_cli.datasets.simulated_cortex import (
    build_anatomy,
    functional_layout,
    mni_coordinates,
    smooth_fields,
)
from synbrain_cli.datasets.simulated_responses import Responses, contrast_energy, draw_session
from synbrain_cli.errors import InputError
from synbrain_cli.io.surface import fsaverage


@pytest.fixture(scope="module")
def root(prepared):
    return prepared.root / "simulated"


def test_design_has_nsds_names_dtypes_and_bases(root):
    design = scipy.io.loadmat(root / "nsddata/experiments/nsd/nsd_expdesign.mat")
    assert design["masterordering"].dtype == np.uint16
    assert design["masterordering"].shape == (1, 375)
    assert design["subjectim"].dtype == np.int32
    assert design["sharedix"].dtype == np.int32
    assert design["stimpattern"].dtype == np.uint8
    assert design["stimpattern"].shape == (3, 12, 75)
    assert (design["stimpattern"].sum((1, 2)) == 125).all()
    assert design["masterordering"].min() == 1
    assert design["subjectim"].min() == 1
    with h5py.File(root / "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5") as file:
        assert file["imgBrick"].dtype == np.uint8
        assert len(file["imgBrick"]) == design["subjectim"].max()
    shared = design["subjectim"][:, : design["sharedix"].size]
    assert (shared == shared[0]).all()
    np.testing.assert_array_equal(np.sort(shared[0]), design["sharedix"][0])


def test_volumes_have_nsds_dtypes_and_fills(root):
    roi = root / "nsddata/ppdata/subj01/func1pt8mm/roi"
    mask = nib.load(roi / "nsdgeneral.nii.gz")
    assert set(np.unique(mask.dataobj)) == {-1, 1}
    areas = np.asarray(nib.load(roi / "prf-visualrois.nii.gz").dataobj)
    assert set(np.unique(areas)) <= set(range(-1, 8))
    assert (areas[np.asarray(mask.dataobj) < 1] == -1).all()
    transforms = root / "nsddata/ppdata/subj01/transforms"
    assert np.asarray(nib.load(transforms / "lh.white-to-fsaverage.mgz").dataobj).min() == 1


def test_mni_transform_is_stored_like_nsds(root):
    """Float32, 1-based, 9999 outside, first axis from right to left: cortex is where it must be."""
    white, pial = fsaverage("white"), fsaverage("pial")
    for subject in ("subj01", "subj02"):
        folder = root / f"nsddata/ppdata/{subject}/transforms"
        image = nib.load(folder / "func1pt8-to-MNI.nii.gz")
        assert image.shape == (91, 109, 91, 3)
        assert image.get_data_dtype() == np.float32
        places = np.asarray(image.dataobj)
        outside = (places == 9999).any(-1)
        assert (outside == (places == 9999).all(-1)).all()
        assert 0.5 < outside.mean() < 0.9
        assert places[~outside].min() > 0.5
        for hemisphere, short in (("left", "lh"), ("right", "rh")):
            x, y, z = (white[hemisphere][0] + pial[hemisphere][0]).T / 2
            # FSL's grid of 2 mm: voxel (0, 0, 0) is at (90, −126, −72) mm.
            voxel = np.rint([(90 - x) / 2, (y + 126) / 2, (z + 72) / 2]).astype(int)
            layer = np.asarray(nib.load(folder / f"{short}.func1pt8-to-layerB2.mgz").dataobj)
            away = places[tuple(voxel)] - layer[:, 0, 0]
            # At most half a voxel of 2 mm in each direction, in voxels of 8 mm; the head is turned.
            assert np.abs(away).max() < 1.4 / 8


def test_subjects_differ_in_voxels_and_share_organisation(prepared):
    one, two = (prepared.find_subject(s, None, print) for s in "12")
    assert one.n_voxels != two.n_voxels
    assert one.voxel_space.geometry.mask.shape != two.voxel_space.geometry.mask.shape
    assert set(one.rois()) == set(two.rois())
    # The average response per area to the shared images agrees across people.
    profiles = []
    for subject in (one, two):
        test = subject.select("test")
        sums = pd.DataFrame(test.betas).groupby(test.image_index).mean().to_numpy()
        profiles.append(np.stack([sums[:, mask].mean(1) for mask in subject.rois().values()]))
    agreement = [np.corrcoef(a, b)[0, 1] for a, b in zip(*profiles, strict=True)]
    assert np.median(agreement) > 0.2


def test_recorded_reliability_is_the_true_one(prepared, root):
    subject = prepared.find_subject("1", None, print)
    with np.load(root / "truth/subj01.npz") as truth:
        signal, noise = truth["mean"].std(0), np.sqrt((truth["scale"] ** 2).mean(0))
    recorded = subject.voxels["ncsnr"].to_numpy(float)
    assert np.corrcoef(signal / noise, recorded)[0, 1] > 0.8
    assert 0.3 < np.median(recorded) < 0.6  # as in NSD's visual voxels


def test_draws_have_the_stated_mean_and_covariance(rng):
    n_voxels = 6
    loadings = rng.normal(0, 0.5, (n_voxels, 2))
    private = rng.uniform(0.4, 0.9, n_voxels)
    mean, scale = rng.normal(0, 1, (1, n_voxels)), rng.uniform(0.5, 2, (1, n_voxels))
    nothing = np.zeros(n_voxels)
    responses = Responses(mean, scale, loadings, private, nothing, nothing, nothing)
    trials = draw_session(responses, np.zeros(200_000, int), np.zeros((n_voxels, 3)), rng)
    np.testing.assert_allclose(trials.mean(0), mean[0], atol=0.02)
    expected = np.outer(scale, scale) * (loadings @ loadings.T + np.diag(private**2))
    np.testing.assert_allclose(np.cov(trials.T), expected, atol=0.04)


def test_drift_is_slow_and_new_every_session(rng):
    n = 50
    still = Responses(
        np.zeros((1, n)), np.zeros((1, n)), np.zeros((n, 1)), np.zeros(n), np.ones(n),
        np.zeros(n), np.ones(n),
    )  # fmt: skip
    fields = rng.normal(0, 1, (n, 3))
    one, two = (draw_session(still, np.zeros(750, int), fields, rng) for _ in range(2))
    assert np.abs(np.diff(one, axis=0)).max() < 0.05 * np.ptp(one)
    assert np.abs(one.mean(0) - two.mean(0)).mean() > 0.02


def test_left_hemisphere_sees_the_right_field_and_fovea_is_at_the_pole():
    for hemisphere, sign in (("left", 1), ("right", -1)):
        layout = functional_layout(hemisphere)
        v1 = (layout.visual == 1) | (layout.visual == 2)
        assert (np.sign(layout.x[v1]) == sign).mean() > 0.99
        assert layout.y[layout.visual == 1].mean() > 0 > layout.y[layout.visual == 2].mean()
        white = fsaverage("white")[hemisphere][0]
        near = v1 & (np.hypot(layout.x, layout.y) < 0.15)
        far = v1 & (np.hypot(layout.x, layout.y) > 0.8)
        assert white[near, 1].mean() < white[far, 1].mean() - 20  # posterior
        for code in range(1, 8):
            assert (layout.visual == code).sum() > 15, code


def test_energy_follows_contrast_where_it_is():
    images = np.full((2, 128, 128, 3), 128, np.uint8)
    images[0, 32:64, 64:96, :] = np.where(np.arange(32) % 8 < 4, 60, 200)[:, None]
    energy = contrast_energy(images)
    where = energy[0, :, :, :12].sum(-1)
    inside = np.zeros((16, 16), bool)
    inside[3:9, 7:13] = True
    assert where[inside].sum() > 0.99 * where.sum()
    assert energy[1].max() < 1e-6


def test_shared_and_unique_views_have_no_pixel_in_common(rng):
    height, width = 200, 300
    ramp = np.broadcast_to(np.arange(width) / width * 200 + 20, (height, width))
    photograph = np.repeat(ramp[..., None], 3, 2).astype(np.uint8)
    cut = ramp[0, round(0.7 * width)]

    class Plain:  # a generator without changes of exposure
        def __getattr__(self, name):
            return (lambda *a: np.zeros(a[2:] or ())) if name == "normal" else getattr(rng, name)

    arguments = ([photograph], np.ones(1), 60, 64)
    assert crop_photographs(*arguments, "unique", Plain()).max() <= cut + 1
    assert crop_photographs(*arguments, "shared", Plain()).min() >= cut - 1


def test_photographs_are_there_and_the_examples_are_not_among_them():
    photographs, weight = load_photographs()
    assert len(photographs) == len(weight) == 11
    assert weight.sum() == pytest.approx(1)
    from pathlib import Path

    from synbrain_cli.features.images import list_images, read_image

    for path in list_images(Path(__file__).parents[2] / "examples/images"):
        example = read_image(path)
        assert not any(np.array_equal(example, photograph) for photograph in photographs)


def test_fields_have_unit_variance_and_the_length_asked_for(rng):
    line = np.zeros((400, 3))
    line[:, 0] = np.linspace(0, 400, 400)
    fields = smooth_fields(line, 300, 10.0, rng)
    assert fields.var() == pytest.approx(1, abs=0.15)
    correlation = [(fields[:-k] * fields[k:]).mean() / fields.var() for k in (10, 40)]
    assert correlation[0] == pytest.approx(np.exp(-0.5), abs=0.12)
    assert abs(correlation[1]) < 0.15


def test_the_same_seed_gives_the_same_subjects(root, tmp_path):
    from conftest import SMALL

    simulate(tmp_path / "again", SMALL)
    for one in sorted(root.rglob("truth/*.npz")):
        with np.load(one) as a, np.load(tmp_path / "again/truth" / one.name) as b:
            for name in a:
                np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize("voxel_size", [8.0, 3.0])
def test_one_deformation_makes_cortex_and_mni(voxel_size):
    layouts = {h: functional_layout(h) for h in ("left", "right")}
    config = SimulationConfig(voxel_size=voxel_size)
    anatomy = build_anatomy(layouts, config.voxel_size, np.random.SeedSequence(5))
    white, pial = fsaverage("white"), fsaverage("pial")
    for hemisphere, layers in anatomy.layers.items():
        middle = (white[hemisphere][0] + pial[hemisphere][0]) / 2
        found = nib.affines.apply_affine(anatomy.affine, layers[1] - 1)
        np.testing.assert_allclose(found, anatomy.deform(middle.astype(float)), atol=1e-4)
    coordinates = mni_coordinates(anatomy)
    near = np.argwhere(coordinates[..., 0] != 9999)[::50]
    places = anatomy.deform(near * [-2.0, 2, 2] + [90, -126, -72])
    found = nib.affines.apply_affine(anatomy.affine, coordinates[tuple(near.T)] - 1.0)
    np.testing.assert_allclose(found, places, atol=1e-3)


def test_impossible_settings_are_refused(tmp_path):
    with pytest.raises(InputError, match="image size"):
        simulate(tmp_path, SimulationConfig(image_size=100))
    assert not list(tmp_path.iterdir())
