"""The simulated subjects: their files are NSD's, their responses those of the known truth."""

from __future__ import annotations

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import scipy.io
from scipy.stats import ks_2samp

from synbrain_cli.datasets.nsd_files import NSD
from synbrain_cli.datasets.photographs import (
    Tile,
    View,
    crop_photographs,
    cut_views,
    deal_tiles,
    load_photographs,
    place_views,
)
from synbrain_cli.datasets.simulated import SimulationConfig, simulate
from synbrain_cli.datasets.simulated_areas import (
    CorticalFields,
    attention,
    category_units,
    group_of,
    higher_responses,
    linear_responses,
    routed_units,
    tolerant_units,
)
from synbrain_cli.datasets.simulated_cortex import (
    HIGHER_AREAS,
    VISUAL_ROIS,
    build_anatomy,
    functional_layout,
    mni_coordinates,
    smooth_fields,
)
from synbrain_cli.datasets.simulated_encoder import average_features
from synbrain_cli.datasets.simulated_features import (
    StimulusFeatures,
    contrast_energy,
    gabor_grid,
)
from synbrain_cli.datasets.simulated_responses import Responses, draw_session
from synbrain_cli.errors import InputError
from synbrain_cli.features.gabor import Gabor
from synbrain_cli.features.timm_towers import EfficientNet
from synbrain_cli.io.surface import fsaverage

PARTS = ("unique", "shared")


@pytest.fixture(scope="module")
def root(prepared):
    return prepared.root / "simulated"


@pytest.fixture(scope="module")
def stimuli(root):
    with h5py.File(root / "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5") as file:
        return file["imgBrick"][:]


@pytest.fixture(scope="module")
def features(stimuli):
    return StimulusFeatures.of(stimuli)


def truth_of(root, number):
    with np.load(root / f"truth/subj{number:02d}.npz") as file:
        return dict(file)


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
    truth = truth_of(root, 1)
    signal, noise = truth["mean"].std(0), np.sqrt((truth["scale"] ** 2).mean(0))
    recorded = subject.voxels["ncsnr"].to_numpy(float)
    assert np.corrcoef(signal / noise, recorded)[0, 1] > 0.8
    assert 0.3 < np.median(recorded) < 0.6  # as in NSD's visual voxels


def test_draws_have_the_stated_mean_and_covariance(rng):
    n_voxels = 6
    loadings = rng.normal(0, 0.5, (n_voxels, 2))
    private = rng.uniform(0.4, 0.9, n_voxels)
    mean, scale = rng.normal(0, 1, (1, n_voxels)), rng.uniform(0.5, 2, (1, n_voxels))
    responses = Responses(mean, mean, scale, loadings, private, *[np.zeros(n_voxels)] * 6)
    trials = draw_session(responses, np.zeros(200_000, int), np.zeros((n_voxels, 3)), rng).betas
    np.testing.assert_allclose(trials.mean(0), mean[0], atol=0.02)
    expected = np.outer(scale, scale) * (loadings @ loadings.T + np.diag(private**2))
    np.testing.assert_allclose(np.cov(trials.T), expected, atol=0.04)


def test_drift_is_slow_and_new_every_session(rng):
    n = 50
    nothing, one = np.zeros((1, n)), np.ones(n)
    still = Responses(
        nothing,
        nothing,
        nothing,
        np.zeros((n, 1)),
        np.zeros(n),
        one,
        np.zeros(n),
        one,
        one,
        one,
        one,
    )
    fields = rng.normal(0, 1, (n, 3))
    one, two = (draw_session(still, np.zeros(750, int), fields, rng).betas for _ in range(2))
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


def test_tiles_cover_a_photograph_once_and_a_third_are_for_tests():
    photographs, _ = load_photographs()
    for i, photograph in enumerate(photographs):
        times = np.zeros(photograph.shape[:2], int)
        tiles = deal_tiles(i, *times.shape)
        for tile in (*tiles["unique"], *tiles["shared"]):
            times[tile.top : tile.bottom, tile.left : tile.right] += 1
        assert (times == 1).all()
        n = {part: len(tiles[part]) for part in PARTS}
        assert n["shared"] == pytest.approx(sum(n.values()) / 3, abs=0.7)


def test_shared_and_unique_views_have_no_pixel_in_common(rng):
    photographs, weight = load_photographs()
    seen = {part: [np.zeros(p.shape[:2], bool) for p in photographs] for part in PARTS}
    for part in PARTS:
        for view in place_views(photographs, weight, 1500, part, rng):
            rows, columns = view.box
            tile = view.tile
            assert (
                tile in deal_tiles(view.photograph, *photographs[view.photograph].shape[:2])[part]
            )
            assert tile.top <= rows.start < rows.stop <= tile.bottom
            assert tile.left <= columns.start < columns.stop <= tile.right
            seen[part][view.photograph][view.box] = True
    for unique, shared in zip(*seen.values(), strict=True):
        assert unique.any()
        assert shared.any()
        assert not (unique & shared).any()


def test_images_of_the_experiment_have_no_pixel_in_common_with_test_images(root):
    design = NSD(root).design
    shared = design.subject_images[0, : design.n_shared]
    unique = np.unique(design.subject_images[:, design.n_shared :])
    with np.load(root / "truth/views.npz") as views:
        assert len(views["box"]) == len(shared) + len(unique)
        for one in shared:
            same = unique[views["photograph"][unique] == views["photograph"][one]]
            top, bottom, left, right = views["box"][one]
            tops, bottoms, lefts, rights = views["box"][same].T
            apart = (bottoms <= top) | (tops >= bottom) | (rights <= left) | (lefts >= right)
            assert apart.all()


@pytest.mark.parametrize("side", [60.0, 150.0])  # the larger one is reduced before it is turned
def test_a_view_shows_pixels_of_its_tile_alone(side):
    photograph = np.full((400, 500, 3), 255, np.uint8)
    tile = Tile(103, 303, 201, 401)
    photograph[103:303, 201:401] = 100
    for x, y in ((201 + side * 0.65, 103 + side * 0.65), (401 - side * 0.65, 303 - side * 0.65)):
        view = View(0, tile, x, y, side, 0.25, -1)

        class Plain:  # a generator without changes of exposure
            def normal(self, *arguments):
                return np.zeros(arguments[2:])

        assert np.unique(cut_views([photograph], [view], 64, Plain())) == [100]


def test_a_view_shows_the_place_that_it_names():
    height, width = 300, 400
    down, across = np.mgrid[:height, :width]
    photograph = np.stack([down * 0.5, across * 0.5, 0 * down], 2).astype(np.uint8)

    class Plain:
        def normal(self, *arguments):
            return np.zeros(arguments[2:])

    view = View(0, Tile(0, height, 0, width), 150.0, 120.0, 64.0, 0.2, 1)
    shown = cut_views([photograph], [view], 64, Plain())[0].astype(float) / 0.5
    rows, columns = view.box
    assert shown[32, 32, 0] == pytest.approx(120, abs=3)
    assert shown[32, 32, 1] == pytest.approx(150, abs=3)
    for channel, part in ((0, rows), (1, columns)):
        assert shown[..., channel].min() == pytest.approx(part.start, abs=5)
        assert shown[..., channel].max() == pytest.approx(part.stop, abs=5)


def test_test_and_training_images_have_one_distribution(rng):
    photographs = load_photographs()
    unique, shared = (crop_photographs(*photographs, 1000, 64, part, rng) for part in PARTS)
    statistics = {
        "luminance": lambda x: x.mean((1, 2, 3)),
        "contrast": lambda x: x.mean(3).std((1, 2)),
        "detail": lambda x: np.log(np.abs(np.diff(x.mean(3), axis=1)).mean((1, 2))),
        "colour": lambda x: (x[..., 0] - x[..., 2].astype(float)).std((1, 2)),
    }
    for name, statistic in statistics.items():
        assert ks_2samp(statistic(unique), statistic(shared)).statistic < 0.12, name
    parts = [place_views(*photographs, 1000, part, rng) for part in PARTS]
    for name in ("side", "photograph"):
        one, two = ([getattr(view, name) for view in part] for part in parts)
        assert ks_2samp(one, two).statistic < 0.1, name


def test_photographs_are_there_and_the_examples_are_not_among_them():
    photographs, weight = load_photographs()
    assert len(photographs) == len(weight) == 15
    assert weight.sum() == pytest.approx(1)
    from pathlib import Path

    from synbrain_cli.features.images import list_images, read_image

    for path in list_images(Path(__file__).parents[2] / "examples/images"):
        example = read_image(path)
        assert not any(np.array_equal(example, photograph) for photograph in photographs)


def test_views_of_nothing_are_drawn_again(rng):
    photographs = load_photographs()
    grey = crop_photographs(*photographs, 300, 64, "unique", rng).mean(3)
    assert (grey.std((1, 2)) < 3).mean() < 0.05
    blank = crop_photographs([np.full((90, 90, 3), 90, np.uint8)], np.ones(1), 3, 64, "shared", rng)
    assert blank.shape == (3, 64, 64, 3)


def patches(rng, n, size=40):
    """Pieces of gratings of two orientations, which fade into grey: (n, size, size)."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    window = np.clip(1.5 - np.hypot(x, y) / (size / 3), 0, 1)
    out = []
    for _ in range(n):
        waves = 0
        for angle in rng.uniform(0, np.pi, 2):
            frequency = rng.uniform(0.08, 0.25)
            waves = waves + np.sin(2 * np.pi * frequency * (np.cos(angle) * x + np.sin(angle) * y))
        out.append(30 * window * waves)
    return np.array(out)


def on_grey(*placed):
    """One image of patches: pairs of a patch and its (top, left), on grey."""
    image = np.full((128, 128), 128.0)
    for patch, (top, left) in placed:
        image[top : top + len(patch), left : left + len(patch)] += patch
    return np.repeat(np.rint(image)[..., None], 3, 2).clip(0, 255).astype(np.uint8)


def share_of_place(units):
    """Variance of units (n_patches, n_places, n_units) with the place, in that with the patch."""
    return units.var(1).mean() / units.mean(1).var(0).mean()


def test_tolerant_units_respond_to_a_patch_wherever_it_is(rng, stimuli):
    places = [(8, 8), (8, 72), (44, 44), (72, 8), (67, 75), (29, 18)]
    shown = [on_grey((patch, place)) for patch in patches(rng, 8) for place in places]
    energy = contrast_energy(np.concatenate([stimuli, shown]))
    energy /= energy.mean((0, 1, 2))
    units = tolerant_units(energy, rng)[len(stimuli) :].reshape(8, len(places), -1)
    assert share_of_place(units) < 0.15
    fixed = np.log(energy[len(stimuli) :, 3:9, 3:9] + 0.05).reshape(8, len(places), -1)
    assert share_of_place(fixed) > 1


def test_tolerant_units_need_both_parts_of_a_conjunction(stimuli):
    """One orientation everywhere is less than the same one with another."""

    class OneUnit:  # first channel 4, second 6: 0 and 90 degrees at the middle scale, same place
        def __init__(self):
            self.values = iter([4, 2, 1, np.array([0, 0])] * 24)

        def integers(self, *arguments):
            return next(self.values)

    angle = [0, np.pi / 2]
    y, x = np.mgrid[:128, :128]
    waves = [np.sin(2 * np.pi * 6 / 128 * (np.cos(a) * x + np.sin(a) * y)) for a in angle]
    combined = (waves[0], waves[1], (waves[0] + waves[1]) / np.sqrt(2))
    shown = [np.repeat(np.rint(128 + 60 * w)[..., None], 3, 2).astype(np.uint8) for w in combined]
    energy = contrast_energy(np.concatenate([stimuli, shown]))
    one, other, both = tolerant_units(energy / energy.mean((0, 1, 2)), OneUnit())[-3:, 0]
    assert both > max(one, other) + 0.5


def test_routed_units_follow_the_salient_part(rng, stimuli):
    left, right = (44, 8), (44, 80)
    shown, expected = [], []
    for a, b in patches(rng, 12).reshape(6, 2, 40, 40):
        for strong, weak in ((a, b), (b, a)):
            for here, there in ((left, right), (right, left)):
                shown.append(on_grey((strong, here), (0.25 * weak, there)))
                expected += [on_grey((strong, here)), on_grey((weak, there))]
    energy = contrast_energy(np.concatenate([stimuli, shown, expected]))
    energy /= energy.mean((0, 1, 2))
    units = routed_units(energy)[len(stimuli) :]
    of_both, (of_strong, of_weak) = (
        units[: len(shown)],
        units[len(shown) :].reshape(len(shown), 2, -1).swapaxes(0, 1),
    )
    away = [np.linalg.norm(of_both - one, axis=1) for one in (of_strong, of_weak)]
    assert (away[0] < 0.2 * away[1]).mean() > 0.9
    weights = attention(energy)
    np.testing.assert_allclose(weights.sum((1, 2)), 1, rtol=1e-5)
    # Half of the weight lies on few places of an image.
    sharpest = -np.sort(-weights[: len(stimuli)].reshape(len(stimuli), -1), axis=1)
    assert np.median((sharpest.cumsum(1) < 0.5).sum(1)) < 12


def test_category_units_follow_the_encoder(rng, features):
    units = category_units(features.encoder, np.random.default_rng(1))
    order = rng.permutation(len(units))
    again = category_units(features.encoder[order], np.random.default_rng(1))
    np.testing.assert_allclose(again, units[order], atol=1e-6)
    np.testing.assert_allclose(units.std(0), 1, atol=1e-6)
    silent = np.isclose(units, units.min(0)).mean(0)
    assert (silent > 0.5).all()
    assert (silent < 0.9).all()


def test_the_encoders_features_are_those_of_its_last_layer(stimuli):
    """At 128 pixels they resemble those at 224."""
    ours = average_features(stimuli[:60])
    tokens = EfficientNet(layers=(5,))(stimuli[:60]).bands[0].mean(1)
    assert ours.shape == tokens.shape
    r = [np.corrcoef(a, b)[0, 1] for a, b in zip(ours.T, tokens.T, strict=True)]
    assert np.median(r) > 0.6


def test_the_grid_of_gabor_tokens_is_a_linear_function_of_them(stimuli):
    grid = gabor_grid(stimuli[:5])
    tokens = Gabor()(stimuli[:5]).bands[0].reshape(5, 16, 16, 48)
    np.testing.assert_allclose(grid[:, 2, 5], tokens[:, 4:6, 10:12].mean((1, 2)), atol=1e-5)


def make_fields(n, seed=0):
    generator = np.random.default_rng(seed)
    positions = generator.uniform(-100, 100, (n, 3))
    return CorticalFields(positions, np.random.default_rng(1), np.random.default_rng(2))


def test_linear_responses_are_reproduced_by_least_squares(rng):
    n_voxels, voxels = 30, np.arange(30) < 20
    tokens = rng.normal(0, 1, (600, 4, 4, 12))
    side = np.where(np.arange(n_voxels) % 2, 1, -1)
    responses = linear_responses(tokens, side, make_fields(n_voxels), voxels)
    assert responses.shape == (600, 20)
    flat = tokens.reshape(600, -1)  # 192 columns: fewer than images
    weights = np.linalg.lstsq(flat[:300], responses[:300], rcond=None)[0]
    np.testing.assert_allclose(flat[300:] @ weights, responses[300:], atol=1e-6)
    # Fields lie in the opposite half of the visual field.
    where = np.abs(weights.reshape(4, 4, 12, 20)).sum((0, 2))
    on_the_right = where[2:].sum(0) > where[:2].sum(0)
    assert (on_the_right == (side[:20] == 1)).mean() > 0.9


def test_each_kind_of_area_depends_on_its_own_features(rng, features):
    n_voxels = 24
    groups = {group_of(name, area.kind): None for name, area in HIGHER_AREAS.items()}
    assert set(groups) == {
        *("pooled", "tolerant", "routed", "linear"),
        *("category:FFA-1", "category:PPA", "category:VWFA-1"),
    }
    groups = dict.fromkeys(groups, np.ones(n_voxels, bool))

    def responses(changed=()):
        order = np.random.default_rng(0).permutation(len(features.energy))
        parts = {
            name: getattr(features, name)[order] if name in changed else getattr(features, name)
            for name in ("energy", "gabor", "encoder")
        }
        side = np.ones(n_voxels)
        return higher_responses(
            StimulusFeatures(features.n_known, **parts), groups, side, make_fields(n_voxels)
        )

    reference = responses()
    for name in ("energy", "gabor", "encoder"):
        for group, values in responses(changed=(name,)).items():
            source = {"category": "encoder", "linear": "gabor"}.get(group.split(":")[0], "energy")
            same = np.allclose(values, reference[group], atol=1e-6)
            assert same == (source != name), (group, name)
    faces, places = reference["category:FFA-1"], reference["category:PPA"]
    assert not np.allclose(faces, places)
    assert np.linalg.matrix_rank(faces - faces.mean(0), 1e-6) == 4


@pytest.mark.parametrize("number", [1, 2])
def test_truth_names_area_and_kind_of_each_voxel(prepared, root, number):
    truth = truth_of(root, number)
    kinds = {name: area.kind for name, area in HIGHER_AREAS.items()}
    kinds |= dict.fromkeys(VISUAL_ROIS, "energy")
    assert [kinds[area] for area in truth["area"]] == list(truth["kind"])
    assert set(truth["area"]) == set(kinds)
    subject = prepared.find_subject(str(number), None, print)
    table = subject.voxels
    for area in kinds:
        collection = HIGHER_AREAS[area].collection[0] if area in HIGHER_AREAS else "prf-visualrois"
        np.testing.assert_array_equal((table[collection] == area).to_numpy(), truth["area"] == area)


@pytest.mark.parametrize("number", [1, 2])
def test_truth_holds_the_receptive_fields_of_early_areas(root, number):
    truth = truth_of(root, number)
    early = truth["kind"] == "energy"
    assert np.isfinite(truth["field"][early]).all()
    assert np.isnan(truth["field"][~early]).all()
    # Sizes grow from V1 to V3; ventral V1 sees the upper field, dorsal V1 the lower one
    sizes = [np.median(truth["field"][truth["area"] == a, 2]) for a in ("V1v", "V2v", "V3v")]
    assert sizes == sorted(sizes)
    above, below = (np.median(truth["field"][truth["area"] == a, 1]) for a in ("V1v", "V1d"))
    assert above > 0 > below


@pytest.mark.parametrize("number", [1, 2])
def test_what_images_explain_has_the_stated_share_of_variance(root, number):
    truth = truth_of(root, number)
    driven, rest = truth["driven"].std(0), (truth["mean"] - truth["driven"]).std(0)
    q = 1 - truth["explained"]
    np.testing.assert_allclose(driven / rest, np.sqrt((1 - q) / q), rtol=2e-3)
    for kind in np.unique(truth["kind"]):
        inside = truth["kind"] == kind
        assert inside.sum() >= 10, kind
        assert np.isfinite(truth["driven"][:, inside]).all()
        assert (driven[inside] > 0.1).all(), kind


def test_areas_prefer_much_the_same_in_both_subjects(root):
    """Shared images: the mean responses of an area agree, as units are common to subjects."""
    n_shared = NSD(root).design.n_shared
    one, two = (truth_of(root, number) for number in (1, 2))
    r = [
        np.corrcoef(*(t["driven"][:n_shared, t["area"] == area].mean(1) for t in (one, two)))[0, 1]
        for area in HIGHER_AREAS
    ]
    assert np.median(r) > 0.5


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
