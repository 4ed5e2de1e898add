"""NSD-synthetic: what is read of its files, their faults, and its simulated counterpart."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
import scipy.io
from conftest import SMALL
from nsd_tree import surface_truth, write_hdf5, write_surfaces

from synbrain_cli.datasets import nsd_synthetic
from synbrain_cli.datasets.nsd_choice import Choice
from synbrain_cli.datasets.nsd_files import NSD
from synbrain_cli.datasets.nsd_synthetic import (
    N_COMMON,
    N_IMAGES,
    as_seen,
    image_name,
    prepare_subject,
    read_design,
    read_images,
)
from synbrain_cli.datasets.nsd_voxels import SubjectVoxels
from synbrain_cli.datasets.simulated import simulate_artificial
from synbrain_cli.datasets.simulated_areas import (
    category_units,
    pooled_units,
    routed_units,
    tolerant_units,
    zscore,
)
from synbrain_cli.errors import InputError, MissingError, SynbrainError
from synbrain_cli.io.token_store import find_stores

BETAS = "nsddata_betas/ppdata/subj01/func1pt8mm/nsdsyntheticbetas_fithrf_GLMdenoise_RR"
VOLUME = f"{BETAS}/betas_nsdsynthetic.nii.gz"


@pytest.fixture(scope="module")
def nsd(artificial) -> NSD:
    return NSD(artificial.root / "simulated")


@pytest.fixture
def copy(nsd, tmp_path) -> NSD:
    """A copy that a test may damage."""
    return NSD(shutil.copytree(nsd.root, tmp_path / "nsd"))


@pytest.fixture(scope="module")
def shown(artificial):
    return artificial.find_subject("1", "simulated-synthetic", lambda text: None)


# ------------------------------------------------------------------------------ what is read


def test_every_trial_is_a_test_trial_of_its_image(nsd, shown):
    table = shown.trials
    ids = scipy.io.loadmat(nsd.root / nsd_synthetic.DESIGN)["masterordering"].ravel()
    assert len(table) == 744
    assert set(table["split"]) == {"test"}
    assert set(table["session"]) == {1}
    numbers = table["image"].str.removeprefix("synthetic").str[:3].astype(int)
    np.testing.assert_array_equal(numbers, ids)
    own = table["image"].str.endswith("_subj01")
    np.testing.assert_array_equal(own, ids > N_COMMON)
    # 236 images twice, 32 four times, 8 eight times, 8 ten times
    counts = table["image"].value_counts().value_counts().to_dict()
    assert counts == {2: 236, 4: 32, 8: 8, 10: 8}


def test_betas_are_the_volume_s_voxels_as_percent_signal_change(nsd, shown):
    stored = np.asarray(nib.load(nsd.root / VOLUME).dataobj)
    inside, _ = SubjectVoxels(nsd, 1, Choice()).mask()
    percent = stored[inside].T / 300
    expected = (percent - percent.mean(0)) / percent.std(0)
    np.testing.assert_allclose(shown.read_betas(np.ones(744, bool)), expected, atol=2e-4)
    assert shown.description.options["set"] == "synthetic"
    assert shown.description.unit_before_standardization == "percent signal change"


def test_reliability_is_that_of_these_images(nsd, shown, artificial):
    truth = np.load(nsd.root / "truth/subj01_synthetic.npz")
    signal = truth["mean"].std(0)
    noise = truth["scale"].mean(0)
    own = shown.voxels["ncsnr"].to_numpy(float)
    assert np.corrcoef(own, signal / noise)[0, 1] > 0.9
    assert 0.8 < np.median(own) / np.median(signal / noise) < 1.2
    # It is not the ncsnr of the other experiment, which lies beside those betas.
    other = artificial.find_subject("1", "simulated", lambda text: None).voxels["ncsnr"]
    assert not np.allclose(own, other)


def test_hdf5_is_read_as_the_volume_is(copy, shown, tmp_path):
    stored = np.asarray(nib.load(copy.root / VOLUME).dataobj)
    write_hdf5(copy.root / BETAS / "betas_nsdsynthetic.hdf5", stored.T, (744, 1, 1, 1))
    (copy.root / VOLUME).unlink()
    again = prepare_subject(copy, 1, tmp_path / "prepared/x/sub-01", Choice())
    np.testing.assert_array_equal(again.betas, shown.betas)


def test_surfaces(copy, tmp_path):
    write_surfaces(copy, 1)
    folder = copy.root / nsd_synthetic.betas_prefix(1, Choice(space="fsaverage"))
    folder.mkdir(parents=True)
    truths = []
    for hemisphere, short in (("left", "lh"), ("right", "rh")):
        path = copy.transforms_folder(1) / f"{short}.white-to-fsaverage.mgz"
        n_vertices = len(np.asarray(nib.load(path).dataobj))
        truth = surface_truth(n_vertices, 744, 99, hemisphere).astype(np.float32)
        image = nib.MGHImage(truth.T[:, None, None, :], np.eye(4))
        nib.save(image, folder / f"{short}.betas_nsdsynthetic.mgh")
        truths.append(truth)
    choice = Choice(space="fsaverage", standardize="none")
    subject = prepare_subject(copy, 1, tmp_path / "prepared/x/sub-01", choice)
    vertices = subject.voxel_space.geometry
    expected = np.concatenate([truths[0][:, vertices.left], truths[1][:, vertices.right]], axis=1)
    np.testing.assert_array_equal(subject.betas, expected)
    assert subject.description.space == "fsaverage"


# ------------------------------------------------------------------------------------ images


def test_images_are_the_central_square_as_an_ordinary_display_shows_it(nsd):
    names = [image_name(i, 2) for i in (0, N_COMMON - 1, N_COMMON, N_IMAGES - 1)]
    seen = list(read_images(nsd, names))
    with h5py.File(nsd.root / nsd_synthetic.STIMULI) as file:
        stored = file["imgBrick"][[0, N_COMMON - 1]]
    with h5py.File(nsd.root / nsd_synthetic.colour_stimuli(2)) as file:
        stored = np.concatenate([stored, file["imgBrick"][[0, N_IMAGES - N_COMMON - 1]]])
    height, width = stored.shape[1:3]
    assert width > height
    left = (width - height) // 2
    for one, pixels in zip(seen, stored, strict=True):
        assert one.shape == (height, height, 3)
        linear = (one / 255.0) ** 2 * 255
        # Rounding a pixel on the display changes its linear luminance by at most one level.
        assert np.abs(linear - pixels[:, left : left + height]).max() <= 1.01


def test_the_root_keeps_black_white_and_order():
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 256, 0).repeat(3, 2)
    seen = as_seen(ramp)[0, :, 0].astype(int)
    assert seen[0] == 0
    assert seen[255] == 255
    assert (np.diff(seen) >= 0).all()
    assert seen[64] == round(np.sqrt(64 / 255) * 255)


# ----------------------------------------------------------------------------------- faults


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def rewrite_design(path: Path, ids) -> None:
    scipy.io.savemat(path, {"masterordering": np.asarray(ids)[None]}, appendmat=False)


def fewer_images(path: Path) -> None:
    with h5py.File(path) as file:
        pixels = file["imgBrick"][:10]
    with h5py.File(path, "w") as file:
        file["imgBrick"] = pixels


FAULTS = {
    "no design": (nsd_synthetic.DESIGN, Path.unlink, "design"),
    "cut design": (nsd_synthetic.DESIGN, cut, "copy it again"),
    "text design": (nsd_synthetic.DESIGN, lambda p: p.write_text("x"), "copy it again"),
    "id 285": (nsd_synthetic.DESIGN, lambda p: rewrite_design(p, [1, 285]), "found 285"),
    "id 0": (nsd_synthetic.DESIGN, lambda p: rewrite_design(p, [0, 1]), "found 0"),
    "id 1.5": (nsd_synthetic.DESIGN, lambda p: rewrite_design(p, [1.5]), "found 1.5"),
    "nan": (nsd_synthetic.DESIGN, lambda p: rewrite_design(p, [np.nan]), "found nan"),
    "no variable": (
        nsd_synthetic.DESIGN,
        lambda p: scipy.io.savemat(p, {"x": 1.0}, appendmat=False),
        "masterordering",
    ),
    "fewer trials": (nsd_synthetic.DESIGN, lambda p: rewrite_design(p, [1, 2, 1, 2]), "744"),
    "no betas": (VOLUME, Path.unlink, "betas_nsdsynthetic"),
    "cut betas": (VOLUME, cut, "betas_nsdsynthetic.nii.gz"),
    "no images": (nsd_synthetic.STIMULI, Path.unlink, "images"),
    "cut images": (nsd_synthetic.STIMULI, cut, "images"),
    "no coloured images": (nsd_synthetic.colour_stimuli(1), Path.unlink, "images"),
    "too few images": (nsd_synthetic.STIMULI, fewer_images, "found uint8 of shape (10,"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_that_names_the_file(copy, synbrain, tmp_path, fault):
    name, damage, says = FAULTS[fault]
    damage(copy.root / name)
    code, _, error = synbrain(
        *("prepare", "nsd", "--set", "synthetic", "--root", copy.root, "--subject", "1"),
        *("--encoder", "gabor", "--device", "cpu", "-q", "-w", tmp_path),
    )
    assert code == 1
    (line,) = error.strip().splitlines()
    assert says in line
    # The design says how many trials the betas must have.
    named = VOLUME if fault == "fewer trials" else name
    assert Path(named).name.removesuffix(".nii.gz") in line


def test_betas_of_another_grid(copy, tmp_path):
    image = nib.load(copy.root / VOLUME)
    data = np.asarray(image.dataobj)[:-1]
    nib.save(nib.Nifti1Image(data, image.affine), copy.root / VOLUME)
    with pytest.raises(InputError, match=r"betas_nsdsynthetic\.nii\.gz"):
        prepare_subject(copy, 1, tmp_path / "prepared/x/sub-01", Choice())


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (("--split", "shared515"), 2, "leave out"),
        (("--sessions", "1"), 2, "leave out"),
        (("--validation", "0.2"), 2, "leave out"),
        (("--standardize", "train"), 1, "no training trials"),
        (("--preparation", "betas_assumehrf"), 1, "betas_fithrf"),
        (("--subject", "7"), 1, "subject 7"),
    ],
)
def test_what_there_is_not(nsd, synbrain, tmp_path, options, code, says):
    found, _, error = synbrain(
        *("prepare", "nsd", "--set", "synthetic", "--root", nsd.root, *options),
        *("--encoder", "gabor", "--device", "cpu", "-q", "-w", tmp_path),
    )
    assert found == code
    assert says in " ".join(error.split())


def test_tokens_of_your_own(nsd, synbrain, tmp_path):
    names = [image_name(index, 1) for index in range(N_IMAGES)]
    tokens = np.random.default_rng(1).standard_normal((N_IMAGES, 4)).astype(np.float32)
    with h5py.File(tmp_path / "clip.h5", "w") as file:
        file["tokens"], file["image"] = tokens, names
    code, _, error = synbrain(
        *("prepare", "nsd", "--set", "synthetic", "--root", nsd.root, "-s", "1", "-q"),
        *("--tokens", tmp_path / "clip.h5", "--no-check", "-w", tmp_path),
    )
    assert code == 0, error
    (store,) = find_stores(tmp_path / "prepared/nsd-synthetic")
    assert sorted(store.images) == names
    for image, kept in zip(store.images, store.tokens, strict=True):
        np.testing.assert_array_equal(kept[0], tokens[names.index(image)])
    assert len(nsd_synthetic.all_images()) == 220 + 8 * 64


def test_a_simulation_without_artificial_images_says_how_to_get_them(prepared, synbrain, tmp_path):
    code, _, error = synbrain(
        *("prepare", "nsd", "--set", "synthetic", "--root", prepared.root / "simulated"),
        *("--encoder", "gabor", "-q", "-w", tmp_path),
    )
    assert code == 1
    assert "prepare simulated --set synthetic" in error


def test_such_a_subject_cannot_be_trained_on(artificial, synbrain):
    code, _, error = synbrain(
        *("train", "--dataset", "simulated-synthetic", "--subject", "1", "--model", "linear"),
        *("-q", "-w", artificial.root),
    )
    assert code == 1
    assert "no trial of the train split" in error


def test_design_of_any_dtype(tmp_path):
    for dtype in (np.uint8, np.int32, np.float64):
        rewrite_design(tmp_path / "d.mat", np.array([1, 200, 3], dtype))
        np.testing.assert_array_equal(read_design(tmp_path / "d.mat"), [0, 199, 2])


# ------------------------------------------------------------------------------- simulation


@pytest.mark.parametrize(
    "units",
    [
        lambda energy, n: pooled_units(energy, np.random.default_rng(1), n),
        lambda energy, n: tolerant_units(energy, np.random.default_rng(1), n),
        lambda energy, n: routed_units(energy, n),
        lambda energy, n: category_units(
            energy[:, 0].reshape(len(energy), -1), np.random.default_rng(1), n
        ),
        lambda energy, n: zscore(energy[:, 0, 0], n),
    ],
)
def test_other_images_do_not_change_what_units_respond_to(units):
    energy = np.random.default_rng(0).gamma(1, 1, (60, 16, 16, 14)).astype(np.float32)
    energy[40:] *= 5
    alone, both = units(energy[:40], 40), units(energy, 40)
    np.testing.assert_allclose(both[:40], alone, atol=1e-5)
    assert len(both) == 60
    assert np.isfinite(both).all()


def test_the_subjects_are_those_of_the_first_experiment(nsd):
    """The same voxels respond as strongly: what is common to both experiments is a subject's."""
    first, second = (np.load(nsd.root / f"truth/subj01{end}.npz") for end in ("", "_synthetic"))
    assert second["mean"].shape == (N_IMAGES, first["mean"].shape[1])
    # Offset and gain of a voxel are those of the first experiment.
    assert np.corrcoef(first["mean"].mean(0), second["mean"].mean(0))[0, 1] > 0.5
    noise = [truth["scale"].mean(0) for truth in (first, second)]
    assert np.corrcoef(*noise)[0, 1] > 0.95


def test_simulating_twice_gives_the_same_trials(copy, nsd, artificial):
    simulate_artificial(copy.root)
    np.testing.assert_array_equal(
        np.asarray(nib.load(copy.root / VOLUME).dataobj),
        np.asarray(nib.load(nsd.root / VOLUME).dataobj),
    )


def test_artificial_images_go_with_their_subjects(copy, synbrain, tmp_path):
    """Other subjects simulated in their place were not shown these images."""
    root = tmp_path / "workspace"
    root.mkdir()
    copy.root.rename(root / "simulated")
    from msgspec.structs import replace

    from synbrain_cli.io.workspace import Workspace
    from synbrain_cli.pipeline.prepare import prepare_simulated
    from synbrain_cli.pipeline.preparing import Target

    other = replace(SMALL, seed=4, n_sessions=1, n_unique=20, n_shared=20, n_subjects=1)
    prepare_simulated(Target(Workspace(root), "simulated", ("gabor",), overwrite=True), other)
    assert not (root / "simulated" / VOLUME).exists()
    assert not (root / "simulated" / nsd_synthetic.DESIGN).exists()


def test_a_folder_without_a_simulation(tmp_path):
    with pytest.raises(MissingError, match="no simulation"):
        simulate_artificial(tmp_path)
    (tmp_path / "dataset_description.json").write_text("{}")
    with pytest.raises(SynbrainError, match=r"dataset_description\.json"):
        simulate_artificial(tmp_path)
