"""The challenge's folders as they are unpacked; what is missing in them, and what must not run."""

from __future__ import annotations

import io
import os
import pickle
import re
import shutil
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from synbrain_cli import load_model
from synbrain_cli.datasets.algonauts import Challenge, Choice, prepare_subject, read_mapping
from synbrain_cli.datasets.splits import draw_images
from synbrain_cli.errors import InputError, MissingError, SynbrainError
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.voxel_space import Vertices
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.pipeline.prepare import prepare_algonauts
from synbrain_cli.pipeline.preparing import Target
from synbrain_cli.progress import Progress
from synbrain_cli.run import RunContext

N_IMAGES, N_SPACE = 24, 10242
MAPPINGS = {
    "prf-visualrois": {0: "Unknown", 1: "V1v", 2: "V1d", 7: "hV4"},
    "floc-faces": {0: "Unknown", 1: "OFA", 2: "FFA-1"},
    "streams": {0: "Unknown", 5: "ventral"},
}
RUN = RunContext(progress=Progress(quiet=True))
SHARES = Choice(test_share=0.25, validation_share=0.25)


def write_subject(root, number, rng):
    """As the challenge's archive: images of which the first is everybody's."""
    folder = root / f"subj{number:02d}"
    for name in ("training_split/training_images", "training_split/training_fmri", "roi_masks"):
        (folder / name).mkdir(parents=True)
    (folder / "test_split/test_images").mkdir(parents=True)
    ids = np.sort(rng.choice(np.arange(100, 73_000), N_IMAGES - 1, replace=False))
    for row, i in enumerate([13, *ids], start=1):
        pixels = np.random.default_rng(i).integers(0, 256, (12, 12, 3), np.uint8)
        name = f"train-{row:04d}_nsd-{i:05d}.png"
        Image.fromarray(pixels).save(folder / "training_split/training_images" / name)
    Image.new("RGB", (12, 12)).save(folder / "test_split/test_images/test-0001_nsd-00845.png")
    for short, n in (("lh", 190 + number), ("rh", 205 + number)):
        responses = rng.standard_normal((N_IMAGES, n)).astype(np.float32)
        np.save(folder / f"training_split/training_fmri/{short}_training_fmri.npy", responses)
        chosen = np.sort(rng.choice(N_SPACE, n, replace=False))
        whole = np.isin(np.arange(N_SPACE), chosen)
        masks = folder / "roi_masks"
        np.save(masks / f"{short}.all-vertices_fsaverage_space.npy", whole.astype(np.int64))
        for collection, mapping in MAPPINGS.items():
            codes = rng.choice(list(mapping), n)
            np.save(masks / f"{short}.{collection}_challenge_space.npy", codes)
            everywhere = np.zeros(N_SPACE, np.int64)
            everywhere[chosen] = codes
            np.save(masks / f"{short}.{collection}_fsaverage_space.npy", everywhere)
    for collection, mapping in MAPPINGS.items():
        np.save(folder / f"roi_masks/mapping_{collection}.npy", mapping)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    root = tmp_path_factory.mktemp("challenge") / "algonauts_2023"
    rng = np.random.default_rng(2)
    for number in (1, 2):
        write_subject(root, number, rng)
    return root


@pytest.fixture
def root(archive, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(archive, tmp_path / "algonauts_2023")


def loaded(root, number, name):
    return np.load(root / f"subj{number:02d}" / name)


def recorded(root, number):
    parts = [
        loaded(root, number, f"training_split/training_fmri/{h}_training_fmri.npy")
        for h in ("lh", "rh")
    ]
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("standardize", ["session", "train", "none"])
def test_every_row_and_column_is_in_its_place(archive, tmp_path, number, standardize):
    subject = prepare_subject(
        Challenge(archive), number, tmp_path / "sub-01", replace(SHARES, standardize=standardize)
    )
    with np.load(subject.folder / "standardization.npz") as file:
        betas = subject.betas * file["sd"] + file["mean"]
    np.testing.assert_allclose(betas, recorded(archive, number), atol=2e-6)
    folder = archive / f"subj{number:02d}/training_split/training_images"
    names = sorted(path.stem for path in folder.iterdir())
    assert subject.trials["image"].tolist() == [name.split("_")[1] for name in names]
    assert subject.trials["image"][0] == "nsd-00013"
    assert subject.trials["trial"].tolist() == list(range(N_IMAGES))
    assert set(subject.trials["repeat"]) == set(subject.trials["session"]) == {1}
    place = subject.voxel_space.geometry
    assert isinstance(place, Vertices)
    assert place.space == "fsaverage5"
    for h, short in (("left", "lh"), ("right", "rh")):
        whole = loaded(archive, number, f"roi_masks/{short}.all-vertices_fsaverage_space.npy")
        np.testing.assert_array_equal(getattr(place, h), np.flatnonzero(whole))
    for h, full in subject.voxel_space.surface_resampling.project(subject.betas[3]).items():
        np.testing.assert_array_equal(full, place.to_full(subject.betas[3])[h])


def test_labels_are_those_of_the_challenge(archive, tmp_path):
    subject = prepare_subject(Challenge(archive), 2, tmp_path / "sub-02", SHARES)
    full = {}
    for collection, mapping in MAPPINGS.items():
        codes = np.concatenate(
            [
                loaded(archive, 2, f"roi_masks/{h}.{collection}_challenge_space.npy")
                for h in ("lh", "rh")
            ]
        )
        expected = [mapping[code] if code else "" for code in codes]
        assert subject.voxels[collection].tolist() == expected
        full[collection] = codes
    rois = subject.rois()
    assert set(rois) == {"V1", "hV4", "OFA", "FFA-1", "ventral"}
    np.testing.assert_array_equal(rois["V1"], np.isin(full["prf-visualrois"], [1, 2]))
    # The same label on the same vertex as in the challenge's own map of fsaverage.
    whole = loaded(archive, 2, "roi_masks/lh.floc-faces_fsaverage_space.npy")
    ofa = subject.voxels[rois["OFA"] & (subject.voxels["hemisphere"] == "left").to_numpy()]
    np.testing.assert_array_equal(ofa["vertex"], np.flatnonzero(whole == 1))


def test_the_test_images_are_drawn_from_the_training_images(archive, tmp_path):
    challenge = Challenge(archive)
    for number in (1, 2):
        subject = prepare_subject(challenge, number, tmp_path / f"sub-{number:02d}", SHARES)
        names = set(subject.trials["image"])
        test = draw_images(names, 0.25, 0, "test")
        found = subject.trials.groupby("split")["image"].agg(set)
        assert found["test"] == test
        assert found["val"] == draw_images(names - test, 0.25, 0)
        assert "nsd-00845" not in names
        assert subject.description.noise_ceiling_snr["median_recomputed"] is None
        assert "averaged over repeats" in subject.description.unit_before_standardization


def test_images_of_all_subjects_are_read_by_name(archive):
    challenge = Challenge(archive)
    files = challenge.image_files(1) | challenge.image_files(2)
    assert len(files) == 2 * N_IMAGES - 1
    for pixels, path in zip(challenge.read_images(list(files)), files.values(), strict=True):
        np.testing.assert_array_equal(pixels, np.asarray(Image.open(path)))


def test_one_subjects_folder_alone_will_do(archive, monkeypatch):
    assert list(Challenge(archive).folders) == [1, 2]
    assert list(Challenge(archive / "subj02").folders) == [2]
    monkeypatch.chdir(archive / "subj01")
    assert list(Challenge(Path()).folders) == [1]


def test_fsaverage_is_told_by_its_size(root, tmp_path):
    for h in ("lh", "rh"):
        path = root / f"subj01/roi_masks/{h}.all-vertices_fsaverage_space.npy"
        whole = np.zeros(163_842, bool)  # of which fsaverage5's vertices are the first
        whole[:N_SPACE] = np.load(path)
        np.save(path, whole)
    place = Challenge(root).voxel_space(1)
    assert place.space == "fsaverage"
    assert place.n_vertices == {"left": 163_842, "right": 163_842}


def test_a_vertex_without_values_is_left_out(root, tmp_path):
    path = root / "subj01/training_split/training_fmri/rh_training_fmri.npy"
    values = np.load(path)
    values[:, 7] = np.nan
    np.save(path, values)
    subject = prepare_subject(Challenge(root), 1, tmp_path / "sub-01", SHARES)
    assert subject.description.voxels_left_out == 1
    whole = loaded(root, 1, "roi_masks/rh.all-vertices_fsaverage_space.npy")
    np.testing.assert_array_equal(
        subject.voxel_space.geometry.right, np.delete(np.flatnonzero(whole), 7)
    )


# ---------------------------------------------------------------------- pickled mappings


class Harmful:
    """Unpickling it makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


class Shell(Harmful):
    def __reduce__(self):
        return os.system, (f"mkdir {self.path}",)


class Evaluated(Harmful):
    def __reduce__(self):
        return eval, (f"__import__('os').mkdir({self.path!r})",)


class Built(Harmful):
    """By way of a class that is allowed: numpy's arrays."""

    def __reduce__(self):
        return np.load, (self.path,)


def save_pickled(path, content, module=None):
    """As ``np.save`` pickles an object, perhaps with numpy 1's or 2's name of its module."""
    array = np.empty((), object)
    array[()] = content
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
    pickled = pickle.dumps(array, protocol=3)
    if module:
        pickled = re.sub(rb"c(numpy\.(_core|core)\.multiarray)\n", b"c" + module + b"\n", pickled)
    path.write_bytes(file.getvalue() + pickled)
    return path


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
@pytest.mark.filterwarnings("error")
def test_a_mapping_of_any_numpy_is_read(tmp_path, module):
    path = save_pickled(tmp_path / "mapping_streams.npy", MAPPINGS["streams"], module)
    assert module in path.read_bytes()
    if module == b"numpy._core.multiarray" and np.__version__ < "2":
        pytest.skip("numpy 1 has no such module")
    assert read_mapping(path) == MAPPINGS["streams"]


def test_codes_may_be_numpys_numbers(tmp_path):
    mapping = {np.int64(0): "Unknown", np.int32(3): "V3", np.uint8(7): "hV4", np.float64(9): "IT"}
    np.save(tmp_path / "m.npy", mapping)
    assert read_mapping(tmp_path / "m.npy") == {0: "Unknown", 3: "V3", 7: "hV4", 9: "IT"}


@pytest.mark.parametrize("kind", [Harmful, Shell, Evaluated, Built])
@pytest.mark.parametrize("place", ["alone", "as a label", "as a code"])
def test_a_strangers_pickle_runs_nothing(tmp_path, kind, place):
    harm = tmp_path / "harm"
    content = {"alone": kind(harm), "as a label": {1: kind(harm)}, "as a code": {kind(harm): "V1"}}
    path = save_pickled(tmp_path / "mapping_streams.npy", content[place])
    with pytest.raises(InputError, match="is not a number or an array") as raised:
        read_mapping(path)
    assert str(path) in str(raised.value)
    assert "copy the file again" in str(raised.value)
    assert not harm.exists()


def test_numpy_is_not_given_a_strangers_dtype(tmp_path, monkeypatch):
    """The state of a pickled dtype can make numpy take bytes for addresses."""
    made = []
    path = save_pickled(tmp_path / "mapping_streams.npy", {np.int64(1): "V1"})
    numpy = sys.modules.get("numpy._core.multiarray") or sys.modules["numpy.core.multiarray"]
    monkeypatch.setattr(numpy, "_reconstruct", lambda *args: made.append(args))
    monkeypatch.setattr(numpy, "scalar", lambda *args: made.append(args))
    assert read_mapping(path) == {1: "V1"}
    assert not made


def test_the_strangers_pickle_would_have_run(tmp_path):
    """Or the test above shows nothing."""
    path = save_pickled(tmp_path / "mapping_streams.npy", {1: Shell(tmp_path / "harm")})
    np.load(path, allow_pickle=True)
    assert (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"\x93NUMPY", b"text\n" * 40, b"\x80\x04K\x01.", pickle.dumps({1: "V1"})],
)
def test_a_mapping_of_something_else_is_named(tmp_path, content):
    path = tmp_path / "mapping_streams.npy"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"mapping_streams\.npy: .*not the challenge's dict"):
        read_mapping(path)


@pytest.mark.parametrize(
    "content",
    [[1, 2], "V1", {"V1": "V1"}, {1: "V1", None: "V2"}, {1: 2}, {1: np.zeros(3)}, np.zeros(3)],
)
def test_a_pickle_that_is_no_mapping_of_codes_is_named(tmp_path, content):
    path = save_pickled(tmp_path / "mapping_streams.npy", content)
    with pytest.raises(InputError, match="not the challenge's dictionary of codes"):
        read_mapping(path)


def test_a_damaged_mapping_is_named_wherever_it_is_cut_or_altered(tmp_path):
    """Or read as something: text has no checksum."""
    path = save_pickled(tmp_path / "mapping_streams.npy", MAPPINGS["prf-visualrois"])
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place])
        with pytest.raises(InputError, match=r"mapping_streams\.npy"):
            read_mapping(path)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x29]) + whole[place + 1 :])
        message = message_of(lambda: read_mapping(path))
        assert message is None or str(path) in message


def message_of(read):
    try:
        read()
    except SynbrainError as error:
        return str(error)
    return None


# ----------------------------------------------------------------------------- bad input

IMAGES = "training_split/training_images"
FMRI = "training_split/training_fmri"
LH = f"{FMRI}/lh_training_fmri.npy"


def remove_image(row):
    def damage(folder):
        (path,) = (folder / IMAGES).glob(f"train-{row:04d}_*")
        path.unlink()

    return damage


def rename_image(name):
    def damage(folder):
        (path,) = (folder / IMAGES).glob("train-0005_*")
        path.rename(path.with_name(name))

    return damage


def copy_image(folder):
    (path,) = (folder / IMAGES).glob("train-0005_*")
    shutil.copy(path, path.with_name(f"{path.stem} (1).png"))


def same_image_twice(folder):
    (path,) = (folder / IMAGES).glob("train-0006_*")
    (other,) = (folder / IMAGES).glob("train-0005_*")
    path.rename(path.with_name(other.name.replace("0005_", "0006_")))


def unlink(name):
    return lambda folder: (folder / name).unlink()


def change(name, how):
    def damage(folder):
        np.save(folder / name, how(np.load(folder / name)))

    return damage


def cut(name):
    def damage(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return damage


ALL = "roi_masks/lh.all-vertices_fsaverage_space.npy"
FACES = "roi_masks/rh.floc-faces_challenge_space.npy"
FAULTS = {
    "an image in the middle": (
        remove_image(4),
        r"train-0005_nsd-\d+.png: expected the name train-0004_nsd-….png: an image is missing",
    ),
    "the last image": (
        remove_image(N_IMAGES),
        r"lh_training_fmri.npy: expected one row for each of the 23 training images, found \(24,",
    ),
    "a name": (rename_image("nsd-00031.png"), "nsd-00031.png: expected the name train-0001_nsd-"),
    "a copy": (copy_image, r"\(1\).png: expected the name train-0005_|one too many is in it"),
    "an image twice": (same_image_twice, "train-0006_.*: expected the name train-0006_nsd-"),
    "all images": (
        lambda folder: shutil.rmtree(folder / IMAGES),
        "training_images: expected train-0001_nsd-00013.png, …; found no image",
    ),
    "too many rows": (
        change(LH, lambda x: np.vstack([x, x[:1]])),
        r"lh_training_fmri.npy: expected one row for each of the 24 training images, found \(25,",
    ),
    "axes": (change(LH, lambda x: x.T), r"lh_training_fmri.npy: expected one row .* \(191, 24\)"),
    "responses": (unlink(LH), "lh_training_fmri.npy does not exist"),
    "cut responses": (cut(LH), "lh_training_fmri.npy: truncated or damaged"),
    "vertices": (
        change(ALL, lambda x: np.roll(x, 1) | x),
        r"lh.all-vertices_fsaverage_space.npy: \d+ vertices, but the responses have 191 columns: "
        "check that all files are of subject 1",
    ),
    "a space": (
        change(ALL, lambda x: x[:-1]),
        r"lh.all-vertices_fsaverage_space.npy: expected one value for each .* found \(10241,\)",
    ),
    "no vertices": (
        unlink(ALL),
        "lh.all-vertices_fsaverage_space.npy does not exist: copy the challenge's roi_masks folder",
    ),
    "a region": (unlink(FACES), "rh.floc-faces_challenge_space.npy does not exist: copy"),
    "a region's length": (
        change(FACES, lambda x: x[:-1]),
        r"rh.floc-faces_challenge_space.npy: expected one code for each of 206 vertices, found \(2",
    ),
    "another subject's regions": (
        lambda folder: shutil.copytree(
            folder.with_name("subj02") / "roi_masks", folder / "roi_masks", dirs_exist_ok=True
        ),
        "192 vertices, but the responses have 191 columns: check that all files are of subject 1",
    ),
    "a mapping": (cut("roi_masks/mapping_streams.npy"), "mapping_streams.npy: .*not the chal"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_in_the_folder_is_named(root, tmp_path, fault):
    damage, message = FAULTS[fault]
    damage(root / "subj01")
    target = tmp_path / "prepared/algonauts/sub-01"
    with pytest.raises(SynbrainError) as raised:
        prepare_subject(Challenge(root), 1, target, SHARES)
    assert re.search(message, str(raised.value)), raised.value
    assert str(root / "subj01") in str(raised.value)
    assert not target.exists()


def test_one_subjects_fault_is_not_anothers(root, tmp_path):
    """Subject 1 is still being copied."""
    remove_image(4)(root / "subj01")
    result = prepare_algonauts(
        Target(Workspace(tmp_path), "algonauts", ("gabor",)), root, SHARES, [2], RUN
    )
    assert len(result.tokens.images) == N_IMAGES


def test_files_that_a_mac_leaves_are_no_images(root):
    name = next((root / "subj01" / IMAGES).iterdir()).name
    (root / "subj01" / IMAGES / f"._{name}").write_bytes(b"\x00\x05\x16\x07")
    assert len(Challenge(root).image_files(1)) == N_IMAGES


def test_what_is_not_there_is_listed(archive, tmp_path):
    with pytest.raises(MissingError, match=r"no subject 7; here are \[1, 2\]"):
        prepare_subject(Challenge(archive), 7, tmp_path / "sub-07")
    for root in (tmp_path, tmp_path / "nowhere", archive / "subj01/roi_masks"):
        with pytest.raises(MissingError, match=r"expected the challenge's folders .* --root") as e:
            prepare_algonauts(Target(Workspace(tmp_path), "algonauts", ("gabor",)), root, run=RUN)
        assert str(root) in str(e.value)


def test_a_share_of_hardly_an_image_is_two_images(archive, tmp_path):
    subject = prepare_subject(Challenge(archive), 1, tmp_path / "sub-01", Choice(test_share=0.0001))
    assert (subject.trials["split"] == "test").sum() == 2


def test_rows_are_averages_over_three_repeats(archive, tmp_path):
    subject = prepare_subject(Challenge(archive), 1, tmp_path / "sub-01")
    assert subject.averaged_over == 3


# ---------------------------------------------------------------------- as it is typed


@pytest.fixture
def synbrain(synbrain, monkeypatch, tmp_path):
    """The command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return synbrain


def test_the_command_as_typed(root, tmp_path, synbrain):
    command = ["prepare", "algonauts", "--root", "algonauts_2023", "--test", "0.25"]
    command += ["--validation", "0.25"]
    code, output, error = synbrain(*command)
    assert code == 0, error
    rows = [re.split(r"  +", line) for line in output.strip().splitlines()]
    assert [row[0] for row in rows] == ["subject", "algonauts/sub-01", "algonauts/sub-02"]
    found = dict(zip(rows[0], rows[1], strict=True))
    assert (found["trials"], found["voxels"]) == ("24", str(191 + 206))
    assert found["median ncsnr"] == "unknown"
    subject = PreparedSubject(tmp_path / "prepared/algonauts/sub-02")
    assert subject.voxels["ncsnr"].isna().all()
    tokens = tmp_path / "prepared/algonauts/features/gabor"
    table = pd.read_csv(tokens / "images.tsv", sep="\t")
    assert len(table) == 2 * N_IMAGES - 1  # the shared image once
    code, _, error = synbrain(*command, "--subject", "subj02")
    assert code == 0
    assert "already prepared" in error
    code, _, error = synbrain(*command, "--standardize", "none")
    assert code == 1
    assert error.count("\n") == 1
    assert "prepared with other options (standardize 'train')" in error
    assert "--overwrite" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--root", "nowhere"], "nowhere: expected the challenge's folders"),
        (["--root", "algonauts_2023", "--subject", "5"], "no subject 5; here are [1, 2]"),
        (["--root", "algonauts_2023", "--subject", "CSI1"], "--subject CSI1: "),
    ],
)
def test_a_fault_is_one_line_and_exit_1(root, tmp_path, synbrain, arguments, message):
    code, output, error = synbrain(
        "prepare", "algonauts", "--test", "0.25", "--validation", "0.25", *arguments
    )
    assert code == 1
    assert output == ""
    assert error.startswith("synbrain: ")
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("prepared/*/sub-*"))


# --------------------------------------------------------------------------- submission


@pytest.fixture
def submitted(root, tmp_path, synbrain):
    """The challenge with three test images each, and models of both subjects; command line."""
    for number in (1, 2):
        folder = root / f"subj{number:02d}"
        for row, i in ((2, 50_000), (3, 7)):
            pixels = np.random.default_rng(row).integers(0, 256, (12, 12, 3), np.uint8)
            name = f"test_split/test_images/test-{row:04d}_nsd-{i:05d}.png"
            Image.fromarray(pixels).save(folder / name)
    bad = root / "subj01/training_split/training_fmri/lh_training_fmri.npy"
    values = np.load(bad)
    values[:, 5] = 4.0  # constant: the model has no such vertex
    values[:, 6] = np.nan
    np.save(bad, values)
    command = ["prepare", "algonauts", "--root", "algonauts_2023", "--test", "0.25"]
    assert synbrain(*command, "--validation", "0.25", "--encoder", "gabor", "-q")[0] == 0
    for number in ("1", "2"):
        code, _, error = synbrain("train", "-s", number, "--model", "linear", "-q")
        assert code == 0, error

    def submit(*more):
        return synbrain("submit", "--root", "algonauts_2023", "--device", "cpu", "-q", *more)

    return submit


def test_a_submission_has_every_image_and_vertex_in_its_place(submitted, root, tmp_path):
    code, output, error = submitted()
    assert code == 0, error
    file = tmp_path / "outputs/algonauts_submission.zip"
    assert Path(output.strip()).resolve() == file
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        arrays = {name: np.load(io.BytesIO(archive.read(name))) for name in archive.namelist()}
    folder = "algonauts_2023_challenge_submission"
    assert sorted(arrays) == sorted(
        f"{folder}/subj{n:02d}/{h}_pred_test.npy" for n in (1, 2) for h in ("lh", "rh")
    )
    for number in (1, 2):
        both = [arrays[f"{folder}/subj{number:02d}/{h}_pred_test.npy"] for h in ("lh", "rh")]
        assert {values.dtype for values in both} == {np.dtype(np.float32)}
        assert [v.shape for v in both] == [(3, 190 + number), (3, 205 + number)]
        whole = np.concatenate(both, axis=1)
        brain = load_model(tmp_path / f"weights/sub-{number:02d}_linear", "cpu")
        images = sorted((root / f"subj{number:02d}/test_split/test_images").iterdir())
        kept = np.ones(whole.shape[1], bool)
        if number == 1:
            kept[[5, 6]] = False
            np.testing.assert_array_equal(both[0][:, 5:7], [[4.0, 0.0]] * 3)
        np.testing.assert_array_equal(whole[:, kept], brain.mean(images))
        assert len(np.unique(whole[:, 0])) == 3
    # The same predictions give the same bytes.
    before = file.read_bytes()
    assert submitted()[0] == 0
    assert file.read_bytes() == before


def test_a_submission_of_one_subject(submitted, tmp_path):
    code, _, error = submitted("--subject", "2", "-o", "mine.zip")
    assert code == 0, error
    with zipfile.ZipFile(tmp_path / "mine.zip") as archive:
        assert all("subj02" in name for name in archive.namelist())


def test_a_submission_of_a_model_of_your_own_tokens(submitted, root, tmp_path, synbrain):
    rng = np.random.default_rng(5)

    def features(kind, names):
        path = tmp_path / f"{kind}.npy"
        np.save(path, rng.standard_normal((len(names), 3)).astype(np.float32))
        path.with_suffix(".tsv").write_text("\n".join(names) + "\n")
        return f"clip={path}"

    shown = sorted(Challenge(root).image_files(2))
    command = ["prepare", "algonauts", "--root", "algonauts_2023", "-s", "2", "--test", "0.25"]
    command += ["--validation", "0.25", "--dataset", "own", "--tokens", features("train", shown)]
    assert synbrain(*command, "-q")[0] == 0
    code, _, error = synbrain(
        "train", "--dataset", "own", "--name", "own", "--model", "linear", "-q"
    )
    assert code == 0, error
    code, _, error = submitted("--dataset", "own", "-s", "2")
    assert code == 1
    assert "tokens:clip" in error
    tests = sorted(path.stem for path in (root / "subj02/test_split/test_images").iterdir())
    tokens = features("test", tests)
    code, _, error = submitted("--dataset", "own", "-s", "2", "--tokens", tokens)
    assert code == 0, error
    with zipfile.ZipFile(tmp_path / "outputs/algonauts_submission.zip") as archive:
        name = "algonauts_2023_challenge_submission/subj02/lh_pred_test.npy"
        predicted = np.load(io.BytesIO(archive.read(name)))
    brain = load_model(tmp_path / "weights/own", "cpu", {"clip": tmp_path / "test.npy"})
    whole = brain.mean(sorted((root / "subj02/test_split/test_images").iterdir()))
    np.testing.assert_array_equal(predicted, whole[:, : predicted.shape[1]])


def test_what_a_submission_lacks(submitted, root, tmp_path):
    def refused(*more):
        code, output, error = submitted(*more)
        assert code == 1
        assert output == ""
        (line,) = error.strip().splitlines()
        assert not list((tmp_path / "outputs").glob("*.zip"))
        return line

    assert "no subject 5; here are [1, 2]" in refused("-s", "5")
    assert "no model of sub-01 of other" in refused("--dataset", "other")
    folder = root / "subj02/test_split/test_images"
    (folder / "test-0002_nsd-50000.png").unlink()
    assert "test-0003_nsd-00007.png: expected the name test-0002" in refused()
    shutil.rmtree(folder)
    assert f"{Path('algonauts_2023/subj02/test_split/test_images')}" in refused()
    masks = root / "subj01/roi_masks"
    inside = np.load(masks / "lh.all-vertices_fsaverage_space.npy")
    np.save(masks / "lh.all-vertices_fsaverage_space.npy", np.roll(inside, 1))
    assert "expected vertices of the challenge's subject 1" in refused("-s", "1")
