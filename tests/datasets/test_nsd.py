"""NSD's files: index bases, scales, streaming, and the faults a copy can have."""

from __future__ import annotations

import gzip
import re
import shutil

import h5py
import nibabel as nib
import numpy as np
import pytest
import scipy.io

from synbrain_cli.datasets.nsd import (
    BETAS,
    NSD,
    Design,
    choose_validation,
    image_id,
    image_name,
    prepare_subject,
)
from synbrain_cli.errors import InputError, MissingError, SynbrainError
from synbrain_cli.io.volume import read_masked

SESSIONS = (40, 40, 32, 30, 40, 32, 40, 30)


@pytest.fixture
def copy(prepared, tmp_path):
    """A copy of the simulated NSD folder that a test may damage."""
    return NSD(shutil.copytree(prepared.root / "simulated", tmp_path / "nsd"))


def session_file(nsd, session=2, subject=1):
    return nsd.session_files(subject)[session]


# ------------------------------------------------------------------------ the real design


@pytest.fixture(scope="module")
def real_design(shared):
    return Design.read(shared / "data/nsd_metadata/nsd_expdesign.mat")


def test_real_design_gives_the_right_73k_id_of_every_trial(real_design, shared):
    raw = scipy.io.loadmat(shared / "data/nsd_metadata/nsd_expdesign.mat")
    order, table = raw["masterordering"][0].tolist(), raw["subjectim"].tolist()
    for subject in range(1, 9):
        expected = [table[subject - 1][position - 1] - 1 for position in order]
        np.testing.assert_array_equal(real_design.images(subject), expected)
    assert real_design.trials_per_session == 750
    assert sum(SESSIONS) * 750 == 213_000


def test_real_design_shared_images_are_everybodys(real_design, shared):
    raw = scipy.io.loadmat(shared / "data/nsd_metadata/nsd_expdesign.mat")
    sharedix = set((raw["sharedix"].ravel() - 1).tolist())
    for subject in range(1, 9):
        images = real_design.images(subject)
        assert images.min() >= 0
        assert images.max() < 73_000
        assert set(np.unique(images[real_design.is_shared()]).tolist()) == sharedix
        assert not sharedix & set(images[~real_design.is_shared()].tolist())
        assert np.bincount(images).max() == 3
    own = [set(real_design.images(s)[~real_design.is_shared()].tolist()) for s in (1, 2)]
    assert not own[0] & own[1]


def test_real_images_are_named_as_the_design_counts_them(real_design, shared):
    raw = scipy.io.loadmat(shared / "data/nsd_metadata/nsd_expdesign.mat")
    files = sorted((shared / "data/nsd_images").iterdir())
    assert len(files) == 20
    for file in files:
        number, name = re.fullmatch(r"shared(\d{4})_(nsd\d{5})", file.stem).groups()
        assert image_id(name) == raw["sharedix"].ravel()[int(number) - 1] - 1
        assert image_id(name) in real_design.images(1)
        assert image_name(image_id(name)) == name


# -------------------------------------------------------------------- simulated subjects


def test_betas_return_to_the_files_integers(prepared):
    subject = prepared.find_subject("2", None, print)
    nsd = NSD(prepared.root / "simulated")
    mask = np.asarray(subject.mask.dataobj) > 0
    with np.load(subject.folder / "standardization.npz") as scale:
        for row, session in enumerate(scale["sessions"]):
            stored = np.asarray(nib.load(nsd.session_files(2)[session]).dataobj)
            assert stored.dtype == np.int16
            trials = (subject.trials["session"] == session).to_numpy()
            psc = subject.betas[trials] * scale["sd"][row] + scale["mean"][row]
            np.testing.assert_allclose(psc * 300, stored[mask].T, atol=0.02)
            np.testing.assert_allclose(subject.betas[trials].std(0), 1, atol=1e-4)


def test_trials_show_the_images_that_caused_them(prepared):
    """An id off by one would pair responses with others' truth: correlation 0."""
    nsd = NSD(prepared.root / "simulated")
    subject = prepared.find_subject("1", None, print)
    truth = np.load(prepared.root / "simulated/truth/subj01.npz")["mean"]
    rows = {index: row for row, index in enumerate(nsd.design.subject_images[0])}
    shown = np.array([rows[image_id(name)] for name in subject.trials["image"]])

    def agreement(index):
        t, b = truth[index] - truth[index].mean(0), subject.betas - subject.betas.mean(0)
        return np.median((t * b).sum(0) / np.sqrt((t**2).sum(0) * (b**2).sum(0)))

    assert agreement(shown) > 0.25
    assert abs(agreement((shown + 1) % len(truth))) < 0.1


def test_pixels_are_those_of_the_id(prepared):
    nsd = NSD(prepared.root / "simulated")
    with h5py.File(nsd.root / "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5") as file:
        brick = file["imgBrick"][:]
    names = ["nsd00007", "nsd00001"]
    for pixels, row in zip(nsd.read_images(names), (6, 0), strict=True):
        np.testing.assert_array_equal(pixels, brick[row])


def test_splits_are_by_image_and_test_is_shared(prepared):
    for label in ("1", "2"):
        trials = prepared.find_subject(label, None, print).trials
        assert (trials.groupby("image")["split"].nunique() == 1).all()
        assert (trials.groupby("image")["repeat"].max() == 3).all()
        shown = trials.groupby("split")["image"].unique()
        assert len(shown["test"]) == 40
        assert len(shown["val"]) > 2
    one, two = (set(prepared.find_subject(s, None, print).trials["image"]) for s in "12")
    assert len(one & two) == 40


def test_validation_images_stay_when_sessions_are_added():
    few = choose_validation(np.array(["a", "b", "c"]), 0.5, 0)
    more = choose_validation(np.array([*"abcdefgh"]), 0.5, 0)
    assert few == more & {"a", "b", "c"}
    big = choose_validation(np.array([str(i) for i in range(4000)]), 0.1, 1)
    assert 320 < len(big) < 480


def test_streaming_equals_reading_whole(prepared):
    nsd = NSD(prepared.root / "simulated")
    path = session_file(nsd)
    values = np.asarray(nib.load(path).dataobj)
    mask = values.std(3) > 0
    np.testing.assert_array_equal(read_masked(path, mask), values[mask].T)


def test_truth_is_read_by_no_command(prepared, tmp_path):
    """Without the truth, preparing gives the same."""
    root = shutil.copytree(prepared.root / "simulated", tmp_path / "nsd")
    shutil.rmtree(root / "truth")
    subject = prepare_subject(NSD(root), 1, tmp_path / "prepared/simulated/sub-01")
    reference = prepared.find_subject("1", None, print)
    np.testing.assert_array_equal(subject.betas, reference.betas)


def test_constant_and_nan_voxels_are_left_out(copy, tmp_path, prepared):
    path = session_file(copy)
    image = nib.load(path)
    values = np.asarray(image.dataobj).copy()
    inside = np.argwhere(values.std(3) > 0)
    values[tuple(inside[5])] = 7
    nib.save(nib.Nifti1Image(values, image.affine, image.header), path)
    subject = prepare_subject(copy, 1, tmp_path / "prepared/simulated/sub-01")
    reference = prepared.find_subject("1", None, print)
    assert subject.description["VoxelsLeftOut"] == 1
    assert subject.n_voxels == reference.n_voxels - 1 == len(subject.voxels)
    assert (np.asarray(subject.mask.dataobj) > 0).sum() == subject.n_voxels
    np.testing.assert_allclose(
        subject.betas, np.delete(reference.betas, 5, axis=1), rtol=0, atol=1e-6
    )
    values = np.arange(reference.n_voxels, dtype=np.float32)
    expected = reference.sampling.project(np.where(values == 5, np.nan, values))
    found = subject.sampling.project(np.delete(values, 5))
    for hemisphere in ("left", "right"):
        both = np.isfinite(expected[hemisphere])
        np.testing.assert_allclose(found[hemisphere][both], expected[hemisphere][both])


# ------------------------------------------------------------------------------ bad input


def truncate(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def drop_trials(path):
    image = nib.load(path)
    nib.save(image.slicer[..., :-1], path)


def move_mask(path):
    image = nib.load(path)
    affine = image.affine.copy()
    affine[0, 3] += 5
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), path)


def crop(path):
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[1:], image.affine), path)


def replace_with_text(path):
    path.write_text("not an image")


ROI = "nsddata/ppdata/subj01/func1pt8mm/roi"
SESSION = f"nsddata_betas/ppdata/subj01/func1pt8mm/{BETAS}/betas_session02.nii.gz"
FAULTS = [
    (SESSION, truncate, "truncated or damaged"),
    (SESSION, replace_with_text, "cannot be read"),
    (SESSION, drop_trials, "expected 125 trials"),
    (SESSION, crop, "mask's grid"),
    (SESSION, lambda p: p.unlink(), "without a gap"),
    (f"{ROI}/prf-visualrois.nii.gz", move_mask, "affine"),
    (f"{ROI}/streams.nii.gz", crop, "expected the grid"),
    (f"{ROI}/nsdgeneral.nii.gz", lambda p: p.unlink(), "does not exist"),
    ("nsddata/experiments/nsd/nsd_expdesign.mat", truncate, "not a readable .mat"),
    ("nsddata/experiments/nsd/nsd_expdesign.mat", lambda p: p.unlink(), "does not exist"),
    ("nsddata/ppdata/subj01/transforms/lh.func1pt8-to-layerB1.mgz", truncate, "layerB1"),
]


@pytest.mark.parametrize(("file", "damage", "message"), FAULTS)
def test_a_damaged_copy_is_named_and_leaves_nothing(copy, tmp_path, file, damage, message):
    damage(copy.root / file)
    target = tmp_path / "prepared/simulated/sub-01"
    with pytest.raises(SynbrainError, match=message) as raised:
        prepare_subject(NSD(copy.root), 1, target)
    assert str(copy.root) in str(raised.value)
    assert not target.exists()


def test_damaged_stimuli_are_named(copy):
    path = copy.root / "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"
    truncate(path)
    with pytest.raises(InputError, match="nsd_stimuli"):
        list(copy.read_images(["nsd00001"]))


def test_mending_the_copy_lets_the_same_command_go_on(copy, tmp_path, prepared):
    path = session_file(copy, session=3)
    whole = path.read_bytes()
    path.write_bytes(whole[:2000])
    target = tmp_path / "prepared/simulated/sub-01"
    with pytest.raises(InputError):
        prepare_subject(copy, 1, target)
    path.write_bytes(whole)
    subject = prepare_subject(copy, 1, target)
    np.testing.assert_array_equal(subject.betas, prepared.find_subject("1", None, print).betas)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"subject": 9}, r"no betas of subject 9; here are \[1, 2\]"),
        ({"subject": 1, "sessions": [1, 5]}, "no betas of session 5"),
    ],
)
def test_what_is_not_there_is_listed(prepared, tmp_path, arguments, message):
    nsd = NSD(prepared.root / "simulated")
    with pytest.raises(MissingError, match=message):
        prepare_subject(nsd, folder=tmp_path / "p", **arguments)


def test_not_an_nsd_folder(tmp_path):
    with pytest.raises(MissingError, match="nsddata"):
        NSD(tmp_path)


def test_gzip_trailer_is_not_needed_to_notice_truncation(copy):
    """A stream cut between two volumes has no damaged block: the count of volumes tells."""
    path = session_file(copy)
    raw = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(raw[:-100]))
    mask = np.asarray(nib.load(copy.root / ROI / "nsdgeneral.nii.gz").dataobj) > 0
    with pytest.raises(InputError, match="of 125 volumes are whole"):
        read_masked(path, mask)
