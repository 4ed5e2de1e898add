"""NSD's files: index bases, scales, streaming, and the faults a copy can have."""

from __future__ import annotations

import gzip
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import scipy.io
from isal import igzip
from listening import Listening
from nsd_tree import (
    FACTOR,
    finer,
    surface_truth,
    volume_betas,
    write_func1mm,
    write_hdf5_twins,
    write_preparations,
    write_stimulus_table,
    write_surfaces,
)

from synbrain_cli.datasets.nsd import prepare_subject, split_design
from synbrain_cli.datasets.nsd_choice import PREPARATIONS, Choice
from synbrain_cli.datasets.nsd_design import SESSIONS, Design, image_id, image_name
from synbrain_cli.datasets.nsd_files import NSD, STIMULI
from synbrain_cli.datasets.nsd_voxels import SubjectVoxels
from synbrain_cli.errors import BusyError, InputError, MissingError, SynbrainError
from synbrain_cli.io.betas import read_masked
from synbrain_cli.io.locks import locked
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.metrics.noise_ceiling import ncsnr, ncsnr_of_stream
from synbrain_cli.pipeline.nsd_copy import NSDSource
from synbrain_cli.pipeline.prepare import prepare_nsd
from synbrain_cli.pipeline.preparing import Target
from synbrain_cli.run import RunContext

BETAS = PREPARATIONS[0]


@pytest.fixture
def copy(prepared, tmp_path):
    """A copy of the simulated NSD folder that a test may damage."""
    return NSD(shutil.copytree(prepared.root / "simulated", tmp_path / "nsd"))


def session_file(nsd, session=2, subject=1):
    return nsd.session_files(subject, Choice())[session][0]


def unstandardised(subject):
    """Betas in percent signal change, from what is on disk alone."""
    with np.load(subject.folder / "standardization.npz") as scale:
        rows = np.searchsorted(scale["sessions"], subject.trials["session"])
        return subject.betas * scale["sd"][rows] + scale["mean"][rows]


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


def test_real_design_has_the_repeats_that_nsd_reports(real_design):
    """515, 766 and 907 shared images seen 3, 2 or more, and 1 or more times by every subject."""
    assert len(real_design.complete_images()) == 515
    shared = set(real_design.subject_images[0, :1000].tolist())
    counts = {
        s: np.bincount(real_design.images(s)[: SESSIONS[s - 1] * 750], minlength=73_000)
        for s in range(1, 9)
    }
    every = np.min([counts[s] for s in counts], axis=0)[sorted(shared)]
    assert [(every >= n).sum() for n in (3, 2, 1)] == [515, 766, 907]
    assert set(real_design.complete_images().tolist()) == {
        i for i, n in zip(sorted(shared), every, strict=True) if n >= 3
    }


@pytest.mark.parametrize("subject", range(1, 9))
@pytest.mark.parametrize("rule", ["shared1000", "shared515"])
def test_splits_of_the_real_design(real_design, subject, rule):
    sessions = list(range(1, SESSIONS[subject - 1] + 1))
    shown = real_design.shown(subject, sessions)
    split = split_design(real_design, subject, sessions, Choice(split=rule))
    images = {part: set(shown[split == part]) for part in ("train", "val", "test")}
    assert not images["train"] & images["test"]
    assert not images["val"] & images["test"]
    assert not images["train"] & images["val"]
    if rule == "shared515":
        assert len(images["test"]) == 515
        assert len(images["val"]) <= 485
        assert len(images["train"]) > 5000
    else:
        assert len(images["test"]) == len(
            set(shown) & {image_name(i) for i in real_design.subject_images[0, :1000]}
        )
        assert 0.08 < len(images["val"]) / (len(images["val"]) + len(images["train"])) < 0.12
    # Those with fewer sessions saw some images once or twice only.
    repeats = np.unique(shown, return_counts=True)[1]
    assert (repeats.min() < 3) == (len(sessions) < 40)


def test_trials_table_of_the_real_design(real_design):
    sessions = [3, 1]
    trials = real_design.trials(5, sessions, np.full(1500, "train"))
    assert trials["session"].unique().tolist() == [3, 1]
    assert trials["image"][0] == image_name(real_design.images(5)[1500])
    assert (trials.groupby("image")["repeat"].max() == trials.groupby("image").size()).all()


# ------------------------------------------------ NSD's shape: real positions, real design


@pytest.fixture(scope="module")
def real_tree(shared, tmp_path_factory):
    """One session of two subjects on NSD's own grids and voxel positions; made-up betas."""
    root = tmp_path_factory.mktemp("real") / "nsd"
    source = shared / "data/nsd_metadata"
    target = root / "nsddata/experiments/nsd"
    target.mkdir(parents=True)
    shutil.copyfile(source / "nsd_expdesign.mat", target / "nsd_expdesign.mat")
    tables = {}
    for subject in (1, 2):
        table = pd.read_csv(source / f"subj{subject:02d}_func1pt8mm_voxels.tsv.gz", sep="\t")
        grid = nib.load(source / f"subj{subject:02d}_brain_mask.nii.gz")
        place = tuple(table[c].to_numpy() for c in "ijk")
        roi = root / f"nsddata/ppdata/subj{subject:02d}/func1pt8mm/roi"
        betas = root / f"nsddata_betas/ppdata/subj{subject:02d}/func1pt8mm/{BETAS}"
        labels = root / f"nsddata/freesurfer/subj{subject:02d}/label"
        for folder in (roi, betas, labels):
            folder.mkdir(parents=True)

        def volume(values, path, dtype, fill, place=place, grid=grid):
            data = np.full(grid.shape, fill, dtype)
            data[place] = values
            nib.save(nib.Nifti1Image(data, grid.affine), path)

        names = ["V1v", "V1d", "V2v", "V2d", "V3v", "V3d", "hV4"]
        codes = sum((i + 1) * table[name] for i, name in enumerate(names))
        volume(1, roi / "nsdgeneral.nii.gz", np.int16, -1)
        volume(codes, roi / "prf-visualrois.nii.gz", np.float32, -1)
        lines = ["0 Unknown", *(f"{i + 1} {name}\t" for i, name in enumerate(names))]
        (labels / "prf-visualrois.mgz.ctab").write_text("\n".join(lines))
        volume(table["ncsnr"], betas / "ncsnr.nii.gz", np.float32, np.nan)
        with igzip.open(betas / "betas_session01.nii.gz", "wb", compresslevel=1) as file:
            header = nib.Nifti1Image(np.zeros(grid.shape, np.int16), grid.affine).header
            header.set_data_shape((*grid.shape, 750))
            header["vox_offset"] = 352
            file.write(header.binaryblock + bytes(4))
            frame = np.zeros(grid.shape, np.int16)
            for trial in range(750):
                frame[place] = real_betas(trial, table)
                file.write(frame.tobytes(order="F"))
        tables[subject] = table
    return NSD(root), tables


def real_betas(trial, table):
    """A function of position and trial in which every voxel differs from its neighbours."""
    i, j, k = (table[c].to_numpy(np.int64) for c in "ijk")
    return ((i * 7 + j * 131 + k * 17 + trial * (i + 3 * j + 5 * k)) % 5003).astype(np.int16)


@pytest.mark.parametrize("subject", [1, 2])
def test_real_positions_come_back_voxel_for_voxel(real_tree, tmp_path, subject, shared):
    nsd, tables = real_tree
    table = tables[subject]
    progress = Listening()
    said = progress.messages
    person = prepare_subject(nsd, subject, tmp_path / "nsd" / "sub-01", progress=progress)
    assert person.n_voxels == len(table) == (11_967, 10_757)[subject - 1]
    order = np.lexsort((table["k"], table["j"], table["i"]))
    for column in "ijk":
        np.testing.assert_array_equal(person.voxels[column], table[column].to_numpy()[order])
    np.testing.assert_allclose(person.voxels["ncsnr"], table["ncsnr"].to_numpy()[order], atol=1e-4)
    psc = unstandardised(person)
    for trial in (0, 1, 374, 749):
        expected = real_betas(trial, table)[order] / 300
        np.testing.assert_allclose(psc[trial], expected, atol=2e-4)
    names = ["V1v", "V1d", "V2v", "V2d", "V3v", "V3d", "hV4"]
    for name in names:
        found = (person.voxels["prf-visualrois"] == name).to_numpy()
        np.testing.assert_array_equal(found, table[name].to_numpy(bool)[order])
    # and back on the grid
    image = person.voxel_space.geometry.to_nifti(psc[374])
    values = np.asarray(image.dataobj)
    place = tuple(table[c].to_numpy() for c in "ijk")
    np.testing.assert_allclose(values[place], real_betas(374, table) / 300, atol=2e-4)
    values[place] = 0
    assert not values.any()
    grid = nib.load(shared / f"data/nsd_metadata/subj{subject:02d}_brain_mask.nii.gz")
    assert image.shape == grid.shape
    np.testing.assert_array_equal(image.affine, grid.affine)
    # Made-up betas have nothing to do with the real ncsnr: that must be said.
    assert any("disagree" in line for line in said)


def test_the_mask_of_another_subject_is_refused(real_tree, tmp_path):
    nsd, _ = real_tree
    other = nsd.root / "nsddata/ppdata/subj02/func1pt8mm/roi/nsdgeneral.nii.gz"
    with pytest.raises(InputError, match=r"expected the grid \(81, 104, 83\).*\(82, 106, 84\)"):
        prepare_subject(nsd, 1, tmp_path / "sub-01", choice=Choice(rois=(str(other),)))


# -------------------------------------------------------------------- simulated subjects


def test_betas_return_to_the_files_integers(prepared):
    subject = prepared.find_subject("2", None, print)
    nsd = NSD(prepared.root / "simulated")
    psc = unstandardised(subject)
    for session in subject.sessions:
        stored, _ = volume_betas(nsd, 2, session)
        assert stored.dtype == np.int16
        trials = (subject.trials["session"] == session).to_numpy()
        np.testing.assert_allclose(
            psc[trials] * 300, stored[subject.voxel_space.geometry.inside].T, rtol=0, atol=0.02
        )
        np.testing.assert_allclose(subject.betas[trials].std(0), 1, atol=1e-4)
        np.testing.assert_allclose(subject.betas[trials].mean(0), 0, atol=1e-5)


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
    assert subject.description.voxels_left_out == 1
    assert subject.n_voxels == reference.n_voxels - 1 == len(subject.voxels)
    assert subject.voxel_space.geometry.inside.sum() == subject.n_voxels
    np.testing.assert_allclose(
        subject.betas, np.delete(reference.betas, 5, axis=1), rtol=0, atol=1e-6
    )
    values = np.arange(reference.n_voxels, dtype=np.float32)
    expected = reference.voxel_space.surface_resampling.project(
        np.where(values == 5, np.nan, values)
    )
    found = subject.voxel_space.surface_resampling.project(np.delete(values, 5))
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


def spoil_checksum(path):
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(content)


def put_code(code):
    """Put a value into every voxel of an image that has one above 0."""

    def damage(path):
        image = nib.load(path)
        values = np.asarray(image.dataobj, np.float32).copy()
        values[values > 0] = code
        nib.save(nib.Nifti1Image(values, image.affine), path)

    return damage


def put_variable(name, value):
    """Replace the first value of a variable of the design, or all of it."""

    def damage(path):
        content = {k: v for k, v in scipy.io.loadmat(path).items() if not k.startswith("__")}
        if isinstance(value, float):
            content[name] = content[name].astype(float)
            content[name].flat[0] = value
        else:
            content[name] = np.zeros((0, 0)) if value is None else value
        scipy.io.savemat(path, content)

    return damage


ROI = "nsddata/ppdata/subj01/func1pt8mm/roi"
CTAB = "nsddata/freesurfer/subj01/label/prf-visualrois.mgz.ctab"
DESIGN = "nsddata/experiments/nsd/nsd_expdesign.mat"
NCSNR = f"nsddata_betas/ppdata/subj01/func1pt8mm/{BETAS}/ncsnr.nii.gz"
SESSION = f"nsddata_betas/ppdata/subj01/func1pt8mm/{BETAS}/betas_session02.nii.gz"
FAULTS = [
    (SESSION, truncate, "truncated or damaged"),
    (SESSION, lambda p: p.write_bytes(p.with_name("betas_session03.nii.gz").read_bytes()), "copy"),
    (SESSION, replace_with_text, "not a NIfTI or MGH image"),
    (SESSION, drop_trials, "expected 125 trials"),
    (SESSION, crop, "mask's grid"),
    (SESSION, lambda p: p.unlink(), "without a gap"),
    (f"{ROI}/prf-visualrois.nii.gz", move_mask, "affine"),
    (f"{ROI}/streams.nii.gz", crop, "expected the grid"),
    (f"{ROI}/nsdgeneral.nii.gz", lambda p: p.unlink(), r"nsdgeneral: no such .*\(V1v"),
    (f"{ROI}/prf-visualrois.nii.gz", put_code(2.5), "expected whole numbers, found 2.5"),
    (f"{ROI}/prf-visualrois.nii.gz", put_code(1e30), "expected whole numbers, found 1e.30"),
    (f"{ROI}/prf-visualrois.nii.gz", spoil_checksum, "truncated or damaged"),
    (CTAB, lambda p: p.write_bytes(b"1 V1v\n2 V\xff\n"), "not lines of a code and a label"),
    (CTAB, lambda p: p.write_text("1 V1v\n1 V1d\n"), "a code has two labels"),
    (CTAB, lambda p: p.write_text(""), "expected lines of a code and a label, found none"),
    (CTAB, lambda p: p.write_text("1 V1v\n2\n"), "not lines of a code and a label"),
    (NCSNR, put_code(-1), "expected ncsnr from 0, found -1"),
    (NCSNR, put_code(np.inf), "expected ncsnr from 0, found inf"),
    (DESIGN, put_variable("masterordering", 1.5), "indices that are not whole numbers"),
    (DESIGN, put_variable("masterordering", np.nan), "indices that are not whole numbers"),
    (DESIGN, put_variable("subjectim", np.inf), "indices that are not whole numbers"),
    (DESIGN, put_variable("stimpattern", None), "expected numbers in the variable stimpattern"),
    (DESIGN, put_variable("subjectim", "text"), "expected numbers in the variable subjectim"),
    ("nsddata/experiments/nsd/nsd_expdesign.mat", truncate, "not a .mat file of numbers"),
    ("nsddata/experiments/nsd/nsd_expdesign.mat", lambda p: p.unlink(), "does not exist"),
    ("nsddata/ppdata/subj01/transforms/lh.func1pt8-to-layerB1.mgz", truncate, "layerB1"),
]


def link_to_nothing(path):
    path.unlink()
    path.symlink_to("nowhere")


FAULTS += [  # files that a copy may lack are not taken to be absent
    (file, link_to_nothing, f"{Path(file).name}.* found a link to nothing")
    for file in (
        *(NCSNR, CTAB, SESSION),
        "nsddata/ppdata/subj01/transforms/lh.func1pt8-to-layerB1.mgz",
        "nsddata/ppdata/subj01/transforms/func1pt8-to-MNI.nii.gz",
    )
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


@pytest.mark.parametrize(
    "bricks", [np.zeros((3, 8, 8), np.uint8), np.zeros((3, 8, 8, 3), np.float32), np.array(b"x")]
)
def test_stimuli_of_another_kind_are_named(copy, bricks):
    path = copy.root / "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"
    with h5py.File(path, "w") as file:
        file["imgBrick"] = bricks
    with pytest.raises(InputError, match=r"nsd_stimuli\.hdf5: expected images as uint8"):
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
    with pytest.raises(InputError, match="of 125 volumes are complete"):
        read_masked(path, mask)


# ----------------------------------------------------------------------- all NSD offers


@pytest.fixture(scope="module")
def everything(prepared, tmp_path_factory):
    """A simulated subject in every space, preparation and format; read-only."""
    root = tmp_path_factory.mktemp("everything") / "nsd"
    nsd = NSD(shutil.copytree(prepared.root / "simulated", root))
    write_func1mm(nsd, 1)
    write_preparations(nsd, 1)
    write_surfaces(nsd, 1)
    write_stimulus_table(nsd)
    return nsd


def prepare(nsd, tmp_path, sessions=None, **choice):
    folder = tmp_path / "prepared" / "nsd" / "sub-01"
    return prepare_subject(nsd, 1, folder, choice=Choice(**choice), sessions=sessions)


def test_hdf5_gives_what_nifti_gives(copy, prepared, tmp_path):
    write_hdf5_twins(copy, 1)
    assert session_file(copy).suffix == ".hdf5"
    subject = prepare(copy, tmp_path)
    reference = prepared.find_subject("1", None, print)
    np.testing.assert_array_equal(subject.betas, reference.betas)
    pd.testing.assert_frame_equal(subject.trials, reference.trials)


def test_a_truncated_hdf5_is_named(copy, tmp_path):
    write_hdf5_twins(copy, 1)
    truncate(session_file(copy))
    with pytest.raises(InputError, match=r"betas_session02\.hdf5: truncated"):
        prepare(copy, tmp_path)


def test_func1mm(everything, prepared, tmp_path):
    subject = prepare(everything, tmp_path, space="func1mm")
    coarse = prepared.find_subject("1", None, print)
    assert subject.description.space == "func1mm"
    np.testing.assert_array_equal(
        subject.voxel_space.geometry.inside, finer(coarse.voxel_space.geometry.inside)
    )
    index = np.full(coarse.voxel_space.geometry.inside.shape, -1)
    index[coarse.voxel_space.geometry.inside] = np.arange(coarse.n_voxels)
    voxel = finer(index)[subject.voxel_space.geometry.inside]
    assert len(voxel) == FACTOR**3 * coarse.n_voxels
    np.testing.assert_allclose(subject.betas, coarse.betas[:, voxel], atol=1e-5)
    # A voxel and its eight parts are at one place: so they arrive at the same vertices.
    values = np.random.default_rng(0).normal(size=coarse.n_voxels)
    here = subject.voxel_space.surface_resampling.project(values[voxel], "fsnative")
    there = coarse.voxel_space.surface_resampling.project(values, "fsnative")
    for hemisphere in ("left", "right"):
        both = np.isfinite(here[hemisphere]) & np.isfinite(there[hemisphere])
        assert both.sum() > 400
        assert np.corrcoef(here[hemisphere][both], there[hemisphere][both])[0, 1] > 0.8


def test_parcels_of_the_human_connectome_project_on_fsaverage(copy, tmp_path):
    """NSD has them on the native surface: a vertex of fsaverage has its nearest one's label."""
    write_surfaces(copy, 1)
    folder = copy.label_folder(1)
    n = len(np.asarray(nib.load(folder / "lh.nsdgeneral.mgz").dataobj))
    codes = np.zeros(n, np.float32)
    codes[110:130], codes[130:150], codes[-1] = 18, 1, 18  # one lies outside nsdgeneral
    for short in ("lh", "rh"):
        image = nib.MGHImage(codes[:, None, None], np.eye(4))
        nib.save(image, folder / f"{short}.HCP_MMP1.mgz")
    (folder / "HCP_MMP1.mgz.ctab").write_text("0 Unknown\n1 V1\n18 FFC\n")
    subject = prepare(copy, tmp_path, space="fsaverage", rois=("HCP_MMP1:FFC",))
    expected = np.sort((np.r_[110:130, n - 1] + 7) % n)
    vertices = subject.voxel_space.geometry
    np.testing.assert_array_equal(vertices.left, expected)
    np.testing.assert_array_equal(vertices.right, expected)
    whole = prepare_subject(
        copy, 1, tmp_path / "whole/nsd/sub-01", choice=Choice(space="fsaverage")
    )
    inside = whole.rois()["FFC"]
    assert inside.sum() == 2 * 20
    assert (whole.voxels["vertex"][inside].between(117, 136)).all()


@pytest.mark.parametrize("step", [1, 2])
def test_other_preparations(everything, prepared, tmp_path, step):
    subject = prepare(everything, tmp_path, preparation=PREPARATIONS[step])
    reference = prepared.find_subject("1", None, print)
    np.testing.assert_allclose(unstandardised(subject), unstandardised(reference) + step, atol=1e-4)
    assert subject.voxels["ncsnr"].equals(subject.voxels["ncsnr_recomputed"])  # no file of its own


@pytest.mark.parametrize("space", ["fsaverage", "nativesurface"])
def test_surfaces(everything, tmp_path, space):
    """Known values arrive at known vertices; floats are not divided by 300, integers are."""
    subject = prepare(everything, tmp_path, space=space)
    n = 10_242
    native = np.arange(n) if space == "nativesurface" else (np.arange(n) - 7) % n
    psc = unstandardised(subject)
    table = subject.voxels
    for hemisphere in ("left", "right"):
        here = (table["hemisphere"] == hemisphere).to_numpy()
        roi = np.isin(native, np.arange(100, 200))
        valid = ~np.isin(native, [100, 101, 102]) | (hemisphere == "right")
        np.testing.assert_array_equal(table["vertex"][here], np.flatnonzero(roi & valid))
        for row, session in enumerate(subject.sessions):
            truth = surface_truth(n, 125, session, hemisphere)[:, native]
            np.testing.assert_allclose(
                psc[125 * row : 125 * (row + 1), here], truth[:, roi & valid], atol=2e-3
            )
        labels = table["prf-visualrois"][here].to_numpy()
        expected = np.where(native[roi & valid] < 160, "V1v", "V1d")
        np.testing.assert_array_equal(labels, expected)
    assert subject.description.voxels_left_out == 3
    assert "prfangle" not in table
    assert not (subject.folder / "mask.nii.gz").exists()
    # To fsaverage: native vertex v is fsaverage's v + 7.
    values = np.arange(subject.n_voxels, dtype=float)
    maps = subject.voxel_space.surface_resampling.project(values, "fsaverage5")
    first = native if space == "fsaverage" else (np.arange(n) - 7) % n
    vertices = {h: table["vertex"][table["hemisphere"] == h].to_numpy() for h in maps}
    for hemisphere, offset in (("left", 0), ("right", len(vertices["left"]))):
        own = np.full(n, np.nan)
        own[vertices[hemisphere]] = np.arange(len(vertices[hemisphere])) + offset
        expected = own if space == "fsaverage" else own[first]
        np.testing.assert_array_equal(maps[hemisphere], expected.astype(np.float32))


def test_hemispheres_of_another_surface_are_refused(everything, copy, tmp_path):
    write_surfaces(copy, 1)
    path = copy.betas_folder(1, Choice(space="nativesurface")) / "rh.betas_session01.hdf5"
    path.unlink()
    with h5py.File(path, "w") as file:
        file["betas"] = np.zeros((125, 10_000), np.int16)
    with pytest.raises(InputError, match=r"rh\.betas_session01.*10,242 vertices.*10000"):
        prepare(copy, tmp_path, space="nativesurface")


def test_hemispheres_of_different_trials_are_refused(everything, copy, tmp_path):
    write_surfaces(copy, 1)
    path = copy.betas_folder(1, Choice(space="nativesurface")) / "rh.betas_session01.hdf5"
    with h5py.File(path, "r+") as file:
        fewer = file["betas"][:-1]
        del file["betas"]
        file["betas"] = fewer
    with pytest.raises(InputError, match=r"rh\.betas_session01.*: expected the \d+ trials of lh"):
        prepare(copy, tmp_path, space="nativesurface")


ROIS = [
    (("V1",), lambda v: v["prf-visualrois"].isin(["V1v", "V1d"])),
    (("V1v", "hV4"), lambda v: v["prf-visualrois"].isin(["V1v", "hV4"])),
    (("prf-visualrois",), lambda v: v["prf-visualrois"] != ""),
    (("streams:ventral",), lambda v: v["streams"] == "ventral"),
    (("floc-faces", "V2d"), lambda v: (v["floc-faces"] != "") | (v["prf-visualrois"] == "V2d")),
]


@pytest.mark.parametrize(("rois", "chosen"), ROIS)
def test_rois_and_their_unions_are_masks(prepared, tmp_path, rois, chosen):
    nsd = NSD(prepared.root / "simulated")
    whole = prepared.find_subject("1", None, print)
    subject = prepare(nsd, tmp_path, sessions=[1, 2], rois=rois)
    expected = chosen(whole.voxels).to_numpy()
    assert 0 < expected.sum() < whole.n_voxels
    np.testing.assert_array_equal(
        subject.voxels[["i", "j", "k"]], whole.voxels.loc[expected, ["i", "j", "k"]]
    )
    rows = (whole.trials["session"] <= 2).to_numpy()
    np.testing.assert_array_equal(subject.betas, whole.betas[rows][:, expected])


def test_a_mask_off_the_cortex_has_no_surface(prepared, tmp_path):
    nsd = NSD(prepared.root / "simulated")
    _, image = SubjectVoxels(nsd, 1, Choice()).grid()
    inside = np.zeros(image.shape, np.uint8)
    middle = tuple(n // 2 for n in image.shape)
    session, _ = volume_betas(nsd, 1, 1)
    off = np.argwhere(session.std(3) > 0)
    # One voxel with data, and every vertex moved away from it.
    inside[tuple(off[0])] = 1
    root = shutil.copytree(nsd.root, tmp_path / "nsd")
    for layer in root.glob("nsddata/ppdata/subj01/transforms/*layerB*.mgz"):
        values = np.asarray(nib.load(layer).dataobj).copy()
        values[...] = np.array(middle, np.float32)
        nib.save(nib.MGHImage(values, np.eye(4)), layer)
    mask = tmp_path / "deep.nii.gz"
    nib.save(nib.Nifti1Image(inside, image.affine), mask)
    subject = prepare(NSD(root), tmp_path, rois=(str(mask),))
    assert subject.n_voxels == 1
    assert subject.voxel_space.surface_resampling is None


def test_a_mask_file_is_a_mask(prepared, tmp_path):
    whole = prepared.find_subject("1", None, print)
    inside = whole.voxel_space.geometry.inside.copy()
    inside[np.nonzero(inside)[0].min() + 2 :] = False
    path = tmp_path / "mine.nii.gz"
    nib.save(nib.Nifti1Image(inside.astype(np.uint8), whole.voxel_space.geometry.mask.affine), path)
    subject = prepare(NSD(prepared.root / "simulated"), tmp_path, rois=(str(path),))
    np.testing.assert_array_equal(subject.voxel_space.geometry.inside, inside)
    assert "sha256" in subject.description.options["rois"][0]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"rois": ("V9",)}, r"V9: no such .* prf-visualrois \(V1v, V1d"),
        ({"rois": ("streams:V1v",)}, "no such"),
        ({"rois": ("nowhere.nii.gz",)}, "does not exist"),
        ({"space": "MNI"}, "expected one of func1pt8mm, func1mm"),
        ({"preparation": "b3"}, "expected one of betas_fithrf_GLMdenoise_RR"),
        ({"standardize": "run"}, "expected one of session, train, none"),
        ({"split": "half"}, "shared1000, shared515 or a table"),
        ({"space": "func1mm", "preparation": "betas_assumehrf"}, "not func1mm"),
        ({"space": "fsaverage"}, "fsaverage/betas_fithrf_GLMdenoise_RR: no betas"),
    ],
)
def test_choices_that_cannot_be(prepared, tmp_path, choice, message):
    with pytest.raises(SynbrainError, match=message):
        prepare(NSD(prepared.root / "simulated"), tmp_path, **choice)


def test_ncsnr_recomputed_is_that_of_the_file(prepared):
    """The simulation writes ncsnr from the same betas with the same definition."""
    voxels = prepared.find_subject("1", None, print).voxels
    np.testing.assert_allclose(voxels["ncsnr"], voxels["ncsnr_recomputed"], atol=1e-4)


def test_ncsnr_of_a_stream_equals_ncsnr(rng):
    index = rng.integers(0, 40, 200)
    signal = rng.normal(size=(40, 7))[index]
    betas = signal + rng.normal(size=(200, 7))
    betas[:, 3] = 5.0
    for n_rows in (1, 7, 500):
        found = ncsnr_of_stream(lambda rows: betas[rows], index, n_rows)
        np.testing.assert_allclose(found, ncsnr(betas, index), rtol=1e-6)
    with pytest.raises(InputError, match="seen twice"):
        ncsnr_of_stream(lambda rows: betas[rows], np.arange(200))


def test_an_ncsnr_of_another_subject_is_noticed(copy, tmp_path):
    path = copy.betas_folder(1, Choice()) / "ncsnr.nii.gz"
    image = nib.load(path)
    values = np.asarray(image.dataobj).copy()
    inside = np.isfinite(values) & (values != 0)
    values[inside] = np.random.default_rng(0).permutation(values[inside])
    nib.save(nib.Nifti1Image(values, image.affine), path)
    progress = Listening()
    prepare_subject(copy, 1, tmp_path / "sub-01", progress=progress)
    assert any("WARNING, they disagree" in line for line in progress.messages)


def test_stimulus_table_and_captions(everything, own, tmp_path):
    annotations = everything.root / "nsddata_stimuli/stimuli/nsd/annotations"
    annotations.mkdir()
    names = [image_name(i) for i in (0, 5)]
    coco = [11, 5 * 3 + 11]
    (annotations / "captions_train2017.json").write_text(
        '{"annotations": [{"image_id": 11, "caption": "a dog "},'
        '{"image_id": 11, "caption": "two dogs"}, {"image_id": 999, "caption": "no"}]}'
    )
    table = everything.stimuli(names)
    assert table["image"].tolist() == names
    assert table["cocoId"].tolist() == coco
    assert table["captions"].tolist() == ['["a dog", "two dogs"]', "[]"]


# ------------------------------------------------------------ standardisation and splits


@pytest.mark.parametrize("standardize", ["session", "train", "none"])
def test_every_standardisation_is_undone_by_its_record(prepared, tmp_path, standardize):
    nsd = NSD(prepared.root / "simulated")
    subject = prepare(nsd, tmp_path, standardize=standardize)
    assert subject.description.standardization == standardize
    reference = unstandardised(prepared.find_subject("1", None, print))
    np.testing.assert_allclose(unstandardised(subject), reference, atol=1e-4)
    training = (subject.trials["split"] == "train").to_numpy()
    if standardize == "train":
        np.testing.assert_allclose(subject.betas[training].std(0), 1, atol=1e-4)
        np.testing.assert_allclose(subject.betas[training].mean(0), 0, atol=1e-4)
        assert abs(subject.betas[~training].std(0) - 1).max() > 0.01
    if standardize == "none":
        np.testing.assert_allclose(subject.betas, reference, atol=1e-4)
    # ncsnr is of betas z-scored within session in any case.
    np.testing.assert_allclose(
        subject.voxels["ncsnr"], subject.voxels["ncsnr_recomputed"], atol=2e-3
    )


def test_a_list_of_splits(prepared, tmp_path):
    nsd = NSD(prepared.root / "simulated")
    images = [image_name(i) for i in nsd.design.subject_images[0, 30:60]]
    rows = [f"{image}\t{'test' if n < 12 else 'val'}" for n, image in enumerate(images)]
    path = tmp_path / "splits.tsv"
    path.write_text("\n".join(["image\tsplit", *rows]))
    trials = prepare(nsd, tmp_path, split=str(path)).trials
    shown = trials.groupby("split")["image"].unique()
    assert set(shown["test"]) == set(images[:12])
    assert set(shown["val"]) == set(images[12:])
    assert len(shown["train"]) == 125 - 30


# ----------------------------------------------------- interruption, and more bad input


def test_workers_change_nothing(prepared, tmp_path):
    nsd = NSD(prepared.root / "simulated")
    reference = prepared.find_subject("1", None, print)
    for workers in (1, 3):
        subject = prepare_subject(nsd, 1, tmp_path / f"{workers}" / "sub-01", workers=workers)
        np.testing.assert_array_equal(subject.betas, reference.betas)


def test_a_disk_full_in_the_middle_keeps_what_is_done(prepared, tmp_path, monkeypatch):
    nsd = NSD(prepared.root / "simulated")
    target = tmp_path / "sub-01"
    write, left = os.pwrite, [2]

    def pwrite(*arguments):
        if not left[0]:
            raise OSError(28, "No space left on device")
        left[0] -= 1
        return write(*arguments)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(
        SynbrainError, match=r"No space left.*same command again; finished sessions are kept"
    ):
        prepare_subject(nsd, 1, target, workers=1)
    assert not target.exists()
    left[0] = 1  # room for the one session that is missing, and for no other
    subject = prepare_subject(nsd, 1, target, workers=1)
    np.testing.assert_array_equal(subject.betas, prepared.find_subject("1", None, print).betas)


def test_a_full_disk_is_found_before_the_work(prepared, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr("synbrain_cli.datasets.nsd.read_session", lambda *a: read.append(a))

    def no_room(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_room)
    with pytest.raises(SynbrainError, match=r"GB \(No space left"):
        prepare_subject(NSD(prepared.root / "simulated"), 1, tmp_path / "sub-01")
    assert not read
    assert not list(tmp_path.rglob("*.npy"))


def test_two_processes_do_not_prepare_the_same_subject(prepared, own):
    folder = own.root / "mine"
    other = type(own)(folder)
    with (
        locked(other.prepared / "nsd" / "sub-01", "a prepared subject"),
        pytest.raises(BusyError, match="another synbrain process"),
    ):
        prepare_nsd(
            Target(other, "nsd", ("gabor",)),
            NSDSource(prepared.root / "simulated", [1], download=False),
        )


def test_preparing_again_with_other_options_asks_for_overwrite(prepared, tmp_path):
    workspace = type(prepared)(tmp_path)
    root = prepared.root / "simulated"

    def again(**more):
        choice = Choice(**{"rois": ("V1",), **more})
        source = NSDSource(root, [1], choice=choice, download=False)
        return prepare_nsd(Target(workspace, "nsd", ("gabor",)), source)

    first = again().subjects[0]
    again()  # the same: nothing to do
    with pytest.raises(InputError, match=r"other options \(rois .*--overwrite"):
        again(rois=("V2",))
    assert first.n_voxels == type(first)(first.folder).n_voxels


def test_sessions_in_the_middle_and_twice(prepared, tmp_path):
    nsd = NSD(prepared.root / "simulated")
    subject = prepare(nsd, tmp_path, sessions=[3, 2])
    assert subject.sessions == [2, 3]
    whole = prepared.find_subject("1", None, print)
    np.testing.assert_array_equal(subject.betas, whole.betas[125:375])
    with pytest.raises(InputError, match="named twice"):
        prepare_subject(nsd, 1, tmp_path / "b", sessions=[1, 1])


def test_an_older_copy_that_ends_early_is_read_as_far_as_it_goes(copy, tmp_path):
    session_file(copy, 3).unlink()
    assert prepare(copy, tmp_path).sessions == [1, 2]


def test_ids_out_of_range(copy, tmp_path):
    path = copy.root / "nsddata/experiments/nsd/nsd_expdesign.mat"
    content = {k: v for k, v in scipy.io.loadmat(path).items() if not k.startswith("__")}
    for name, value in (("subjectim", 73_001), ("masterordering", 5000), ("subjectim", 0)):
        changed = content[name].copy()
        changed.flat[3] = value
        scipy.io.savemat(path, {**content, name: changed})
        with pytest.raises(InputError, match=r"nsd_expdesign\.mat: expected"):
            prepare_subject(NSD(copy.root), 1, tmp_path / "sub-01")


def test_ids_beyond_the_stimuli(copy):
    with h5py.File(copy.root / STIMULI, "r+") as file:
        few = file["imgBrick"][:20]
        del file["imgBrick"]
        file["imgBrick"] = few
    with pytest.raises(InputError, match=r"nsd00021.*found 20"):
        list(NSD(copy.root).read_images(["nsd00020", "nsd00021"]))


def test_voxels_missing_in_one_session_are_counted_there(copy, tmp_path):
    path = session_file(copy, 2)
    image = nib.load(path)
    values = np.asarray(image.dataobj).copy()
    inside = np.argwhere(values.std(3) > 0)
    for voxel in inside[[2, 9]]:
        values[tuple(voxel)] = 0
    nib.save(nib.Nifti1Image(values, image.affine, image.header), path)
    subject = prepare(copy, tmp_path)
    assert subject.description.voxels_left_out == 2
    assert subject.description.voxels_left_out_by_session == {2: 2}
    kept = np.argwhere(subject.voxel_space.geometry.inside)
    np.testing.assert_array_equal(kept, np.delete(inside, [2, 9], axis=0))
    np.testing.assert_array_equal(subject.voxels[["i", "j", "k"]], kept)


def test_sessions_that_came_since_are_not_passed_over(prepared, tmp_path):
    """Two hours first, the rest later: the command says so, and keeps what is there."""
    target, root = Target(type(prepared)(tmp_path), "nsd", ("gabor",)), prepared.root / "simulated"
    first = prepare_nsd(target, NSDSource(root, [1], [1, 2])).subjects[0]
    with pytest.raises(InputError, match=r"sessions \[1, 2\].*--overwrite"):
        prepare_nsd(target, NSDSource(root, [1]))
    assert first.sessions == [1, 2]
    again = prepare_nsd(replace(target, overwrite=True), NSDSource(root, [1])).subjects[0]
    assert again.sessions == [1, 2, 3]


def test_a_copied_session_can_be_mended_in_files_of_one_size(copy, prepared, tmp_path):
    write_hdf5_twins(copy, 1)
    path = session_file(copy, 2)
    whole = path.read_bytes()
    path.write_bytes(session_file(copy, 3).read_bytes())
    with pytest.raises(InputError, match="the same betas as session"):
        prepare(copy, tmp_path)
    path.write_bytes(whole)
    subject = prepare(copy, tmp_path)
    np.testing.assert_array_equal(subject.betas, prepared.find_subject("1", None, print).betas)


@pytest.mark.parametrize("preparation", PREPARATIONS[:2])
def test_betas_that_couple_repeats_are_named(preparation, everything, tmp_path, monkeypatch):
    """Of recorded betas; simulated ones have independent noise in every version."""
    said = Listening()
    source = NSDSource(
        everything.root, [1], choice=Choice(preparation=preparation, rois=("V1",)), download=False
    )
    target = Target(Workspace(tmp_path), "nsd", ("gabor",))
    monkeypatch.setattr(type(everything), "simulated", False)
    prepare_nsd(target, source, RunContext(progress=said))
    named = [line for line in said.messages if "ridge regression" in line]
    assert len(named) == (preparation == PREPARATIONS[0])
    assert all("betas_fithrf_GLMdenoise_RR (b3)" in line for line in named)
