"""Anybody's files become a prepared subject with every trial in its place, or a fault is named."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from conftest import QUIET
from listening import Listening
from PIL import Image

from synbrain_cli.datasets.splits import draw_images
from synbrain_cli.datasets.table import prepare_experiment
from synbrain_cli.datasets.table_experiment import Experiment
from synbrain_cli.datasets.table_responses import ResponseFiles, mni_to_fsaverage
from synbrain_cli.datasets.table_trials import TrialTable
from synbrain_cli.errors import BusyError, InputError, MissingError, SynbrainError
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.surface import fsaverage, write_gifti
from synbrain_cli.io.voxel_space import Vertices, Volume
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.metrics.noise_ceiling import ncsnr
from synbrain_cli.pipeline.prepare import prepare_table
from synbrain_cli.pipeline.preparing import Target
from synbrain_cli.run import RunContext

N_IMAGES, N_REPEATS, N_SESSIONS, GRID = 24, 3, 3, (5, 4, 3)
N_TRIALS = N_IMAGES * N_REPEATS
AFFINE = np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
NAMES = [f"img{i:02d}" for i in range(N_IMAGES)]
SHARES = {"test_share": 0.3, "validation_share": 0.3}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stimuli")
    for seed, name in enumerate(NAMES):
        pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


@dataclass
class Made:
    """An experiment whose files a test writes: sessions interleaved, image order random."""

    folder: Path
    images: Path
    rng: np.random.Generator
    table: pd.DataFrame = None
    responses: np.ndarray = None  # (n_trials, n_voxels)
    mask: np.ndarray = None
    options: dict = field(default_factory=lambda: dict(SHARES))

    def __post_init__(self):
        order = self.rng.permutation(np.repeat(np.arange(N_IMAGES), N_REPEATS))
        session = self.rng.permutation(np.arange(N_TRIALS) % N_SESSIONS) + 1
        self.table = pd.DataFrame(
            {"onset": "1.5", "image": [f"{NAMES[i]}.png" for i in order], "session": session}
        )
        self.mask = self.rng.random(GRID) < 0.4
        signal = self.rng.standard_normal((N_IMAGES, self.mask.sum()))
        noise = self.rng.standard_normal((N_TRIALS, self.mask.sum()))
        self.responses = 3 + 2 * session[:, None] + 1.5 * (signal[order] + noise)
        self.responses = self.responses.astype(np.float32)

    def path(self, *names):
        return self.folder.joinpath(*names)

    def write_table(self, name="trials.tsv"):
        self.table.to_csv(self.path(name), sep="," if name.endswith("csv") else "\t", index=False)
        return self.path(name)

    def write_mask(self, inside=None, affine=AFFINE, name="mask.nii.gz"):
        inside = self.mask if inside is None else inside
        nib.save(nib.Nifti1Image(inside.astype(np.uint8), affine), self.path(name))
        return self.path(name)

    def save(self, name="responses.npy", values=None):
        np.save(self.path(name), self.responses if values is None else values)
        return self.path(name)

    def volume(self, rows=slice(None)):
        """Responses on the grid, NaN outside, as GLMsingle leaves them."""
        values = self.responses[rows]
        volume = np.full((*GRID, len(values)), np.nan, np.float32)
        volume[self.mask] = values.T
        return volume

    def experiment(self, **options):
        given = {"images": self.images, **self.options, **options}
        given.setdefault("trials", self.path("trials.tsv"))
        if "trials" not in options:
            self.write_table()
        if not {"responses", "left", "right"} & set(given):
            given["responses"] = (self.save(),)
        return Experiment(**given)

    def prepare(self, folder="prepared/made/sub-01", **options):
        return prepare_experiment(self.experiment(**options), "01", self.path(folder))


@pytest.fixture
def made(tmp_path, images):
    return Made(tmp_path, images, np.random.default_rng(1))


def as_recorded(subject):
    """Betas in the unit they came in, in the order of the table's rows."""
    with np.load(subject.folder / "standardization.npz") as file:
        row = np.searchsorted(file["sessions"], subject.trials["session"])
        values = subject.betas * file["sd"][row] + file["mean"][row]
    out = np.full_like(values, np.nan)
    out[subject.trials["trial"]] = values
    return out


def assert_is(subject, made, voxels=slice(None)):
    """Every trial has its own responses, image and session, and sessions follow one another."""
    np.testing.assert_allclose(as_recorded(subject), made.responses[:, voxels], atol=2e-5)
    trials = subject.trials
    assert trials["session"].is_monotonic_increasing
    assert sorted(trials["trial"]) == list(range(len(made.table)))
    rows = made.table.iloc[trials["trial"]]
    assert trials["image"].tolist() == rows["image"].str.removesuffix(".png").tolist()
    if "session" in rows:
        numbers = rows["session"].astype(str).str.removeprefix("ses-").astype(int)
        assert trials["session"].tolist() == numbers.tolist()


# ---------------------------------------------------------------------- kinds of responses


def pieces(n=N_TRIALS):
    """Files whose trials cut across the (interleaved) sessions; the second has one trial."""
    return [slice(0, n // 3), slice(n // 3, n // 3 + 1), slice(n // 3 + 1, n)]


def array(made):
    return {"responses": (made.save(),)}


def array_of_integers(made):
    made.responses = np.rint(made.responses * 10).astype(np.int16)
    return {"responses": (made.save(),)}


def array_in_fortran_order(made):
    return {"responses": (made.save(values=np.asfortranarray(made.responses)),)}


def arrays(made):
    files = tuple(made.save(f"run{i}.npy", made.responses[s]) for i, s in enumerate(pieces()))
    return {"responses": files}


def array_with_mask(made):
    return {"responses": (made.save(),), "mask": (made.write_mask(),)}


def glmsingle_array(made):
    return {"responses": (made.save("b.npy", made.volume()),), "mask": (made.write_mask(),)}


def glmsingle_arrays(made):
    files = tuple(made.save(f"b{i}.npy", made.volume(s)) for i, s in enumerate(pieces()))
    return {"responses": files, "mask": (made.write_mask(),)}


def glmsingle_hdf5(made):
    with h5py.File(made.path("betas.hdf5"), "w") as file:
        file["betasmd"] = made.volume()
    return {"responses": (made.path("betas.hdf5"),), "mask": (made.write_mask(),)}


def matlab_hdf5(made):
    with h5py.File(made.path("betas.h5"), "w") as file:
        file["betas"] = made.volume().T
    return {"responses": (made.path("betas.h5"),), "mask": (made.write_mask(),)}


def nifti(made):
    nib.save(nib.Nifti1Image(made.volume(), AFFINE), made.path("betas.nii.gz"))
    return {"responses": (made.path("betas.nii.gz"),), "mask": (made.write_mask(),)}


def niftis(made):
    files = tuple(made.path(f"run-{i}_betas.nii") for i, _ in enumerate(pieces()))
    for path, some in zip(files, pieces(), strict=True):
        nib.save(nib.Nifti1Image(made.volume(some), AFFINE), path)
    return {"responses": files, "mask": (made.write_mask(),)}


def niftis_of_one_trial(made):
    """As SPM's least squares – separate leaves them."""
    files = tuple(made.path(f"beta_{i:04d}.nii") for i in range(N_TRIALS))
    volume = made.volume()
    for i, path in enumerate(files):
        nib.save(nib.Nifti1Image(volume[..., i], AFFINE), path)
    return {"responses": files, "mask": (made.write_mask(),)}


def mixed(made):
    first, second, third = pieces()
    nib.save(nib.Nifti1Image(made.volume(third), AFFINE), made.path("c.nii.gz"))
    files = (made.save("a.npy", made.responses[first]), made.save("b.npy", made.volume(second)))
    return {"responses": (*files, made.path("c.nii.gz")), "mask": (made.write_mask(),)}


KINDS = [
    array,
    array_of_integers,
    array_in_fortran_order,
    arrays,
    array_with_mask,
    glmsingle_array,
    glmsingle_arrays,
    glmsingle_hdf5,
    matlab_hdf5,
    nifti,
    niftis,
    niftis_of_one_trial,
    mixed,
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_responses_gives_the_same_subject(made, kind):
    subject = made.prepare(**kind(made))
    assert_is(subject, made)
    if "mask" in kind(made):
        np.testing.assert_array_equal(
            np.asarray(subject.voxel_space.geometry.mask.dataobj) > 0, made.mask
        )
        np.testing.assert_array_equal(subject.voxel_space.geometry.mask.affine, AFFINE)
        assert (
            subject.voxels[["i", "j", "k"]].to_numpy().tolist() == np.argwhere(made.mask).tolist()
        )
    else:
        assert subject.voxel_space.geometry is None
        assert subject.voxel_space.surface_resampling is None
    assert not list(subject.folder.parent.glob(".*"))
    for session in range(1, N_SESSIONS + 1):
        some = subject.betas[subject.trials["session"] == session]
        np.testing.assert_allclose(some.mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(some.std(0), 1, atol=1e-5)


N_NATIVE = {"left": 31, "right": 27}


def write_maps(made, suffix, sizes, chosen, some=slice(None)):
    """The responses at chosen vertices of both hemispheres, noise elsewhere."""
    paths, first = {}, 0
    for h, n in sizes.items():
        values = np.random.default_rng(n).standard_normal((N_TRIALS, n)).astype(np.float32)
        values[:, chosen[h]] = made.responses[:, first : first + len(chosen[h])]
        first += len(chosen[h])
        path = paths[h] = made.path(f"{h}{some.start or ''}.betas{suffix}")
        if suffix == ".npy":
            np.save(path, values[some])
        elif suffix == ".gii":
            write_gifti(path, values[some], h)
        else:
            stored = values[some].T.reshape(n, 1, 1, -1)
            nib.save(nib.MGHImage(stored[..., 0] if stored.shape[3] == 1 else stored, None), path)
    return paths


def write_map_masks(made, suffix, sizes, chosen):
    paths = []
    for h, n in sizes.items():
        inside = np.isin(np.arange(n), chosen[h])
        paths.append(made.path(f"{h}.mask{suffix}"))
        if suffix == ".npy":
            np.save(paths[-1], inside)
        elif suffix == ".gii":
            write_gifti(paths[-1], inside, h)
        else:
            nib.save(nib.MGHImage(inside.astype(np.float32).reshape(-1, 1, 1), None), paths[-1])
    return tuple(paths)


@pytest.mark.parametrize("suffix", [".npy", ".mgh", ".mgz", ".gii"])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("several", [True, False])
def test_every_kind_of_surface_gives_the_same_subject(made, suffix, masked, several):
    n = made.responses.shape[1]
    chosen = {"left": np.arange(n - 9) + 3, "right": np.arange(9) * 2}
    if not masked:
        made.responses = np.random.default_rng(0).standard_normal((N_TRIALS, 58)).astype("f4")
        chosen = {h: np.arange(size) for h, size in N_NATIVE.items()}
    files = [
        write_maps(made, suffix, N_NATIVE, chosen, some)
        for some in (pieces() if several else [slice(0, N_TRIALS)])
    ]
    masks = write_map_masks(made, suffix, N_NATIVE, chosen) if masked else ()
    subject = made.prepare(
        left=tuple(f["left"] for f in files),
        right=tuple(f["right"] for f in files),
        mask=masks,
        space="fsnative",
    )
    assert_is(subject, made)
    place = subject.voxel_space.geometry
    assert isinstance(place, Vertices)
    assert place.space == "fsnative"
    assert place.n_vertices == N_NATIVE
    np.testing.assert_array_equal(place.left, chosen["left"])
    np.testing.assert_array_equal(place.right, chosen["right"])
    assert subject.voxels["hemisphere"].value_counts().to_dict() == {
        h: len(v) for h, v in chosen.items()
    }
    assert (
        subject.voxel_space.surface_resampling is None
    )  # which native vertex is whose on fsaverage is not known


def test_fsaverage_needs_no_transform(made):
    sizes = {"left": 10242, "right": 10242}
    n = made.responses.shape[1]
    chosen = {"left": np.arange(n - 9) * 100 + 5, "right": np.arange(9) * 1000}
    paths = write_maps(made, ".mgh", sizes, chosen)
    masks = write_map_masks(made, ".npy", sizes, chosen)
    subject = made.prepare(
        left=(paths["left"],), right=(paths["right"],), mask=masks, space="fsaverage5"
    )
    assert_is(subject, made)
    values = np.arange(1.0, n + 1)
    full = subject.voxel_space.surface_resampling.project(values)
    for h, expected in subject.voxel_space.geometry.to_full(values).items():
        np.testing.assert_array_equal(full[h], expected)
    assert np.isfinite(full["left"]).sum() == n - 9


# -------------------------------------------------------------------------------- tables


def test_a_table_without_sessions_is_one_session(made):
    del made.table["session"]
    subject = made.prepare()
    assert_is(subject, made)
    assert subject.sessions == [1]
    assert subject.trials["trial"].tolist() == list(range(N_TRIALS))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("commas.txt", {"sep": ","}),
        ("semicolons.csv", {"sep": ";"}),
        ("tabs.csv", {"sep": "\t"}),
        ("bom.csv", {"encoding": "utf-8-sig"}),
        ("utf16.tsv", {"sep": "\t", "encoding": "utf-16"}),
        ("mac.tsv", {"sep": "\t", "lineterminator": "\r"}),
        ("windows.tsv", {"sep": "\t", "lineterminator": "\r\n"}),
        ("numbered.csv", {"index": True}),
    ],
)
def test_tables_of_spreadsheets_and_of_r_are_read_too(made, name, options):
    made.table["note"] = "für"
    made.table.to_csv(made.path(name), **{"index": False, **options})
    assert_is(made.prepare(trials=made.path(name)), made)


def test_spaces_around_names_are_not_part_of_them(made):
    spaced = made.table.astype(str) + " "
    spaced.columns = [f"{name} " for name in spaced.columns]
    spaced.to_csv(made.path("spaced.tsv"), sep="\t", index=False)
    assert_is(made.prepare(trials=made.path("spaced.tsv")), made)


@pytest.mark.parametrize("column", ["session", "repeat", "split"])
def test_a_column_without_any_value_is_as_none(made, column):
    made.table.drop(columns=column, errors="ignore").to_csv(
        made.path("bare.tsv"), sep="\t", index=False
    )
    made.table[column] = "n/a"
    given = TrialTable(made.experiment()).table
    bare = TrialTable(made.experiment(trials=made.path("bare.tsv"))).table
    pd.testing.assert_frame_equal(given, bare)


def test_an_absolute_name_within_the_folder_is_found(made):
    names = made.table["image"].tolist()
    made.table["image"] = [str(made.images / name) for name in names]
    assert TrialTable(made.experiment()).table["image"].tolist() == [n[:-4] for n in names]


def test_a_csv_and_bids_labels_are_read_too(made):
    made.table["session"] = [f"ses-{s:02d}" for s in made.table["session"]]
    subject = made.prepare(trials=made.write_table("trials.csv"))
    assert_is(subject, made)


def test_repeats_are_counted_in_the_tables_order(made):
    subject = made.prepare()
    in_order = subject.trials.sort_values("trial")
    expected = in_order.groupby("image").cumcount() + 1
    assert (in_order["repeat"] == expected).all()
    assert in_order["repeat"].max() == N_REPEATS


def test_the_tables_own_repeats_are_kept(made):
    given = N_REPEATS - made.table.groupby("image").cumcount()
    made.table["repeat"] = given
    subject = made.prepare()
    assert subject.trials["repeat"].tolist() == given[subject.trials["trial"]].tolist()


def test_repeats_of_images_seen_once_here_are_no_fault(made):
    """The first presentations were in sessions that are not in the table."""
    made.table = made.table.drop_duplicates("image").assign(repeat=2, session=1)
    made.responses = made.responses[made.table.index]
    subject = made.prepare()
    assert subject.description.noise_ceiling_snr["median_recomputed"] is None


WAYS = {
    "with suffix": "{}.png",
    "without suffix": "{}",
    "as another format": "{}.bmp",
    "with a folder that is not there": "C/stimuli/{}.png",
    "with surrounding folder": "./{}.png",
}


@pytest.mark.parametrize("way", WAYS)
def test_images_are_found_as_the_table_names_them(made, way):
    names = made.table["image"].str.removesuffix(".png")
    made.table["image"] = [WAYS[way].format(name) for name in names]
    experiment = made.experiment()
    assert TrialTable(experiment).table["image"].tolist() == names.tolist()
    pixels = next(TrialTable(experiment).read_images(["img05"]))
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(made.images / "img05.png")))


@pytest.mark.parametrize(
    ("column", "given"), [("stim_file", {}), ("picture", {"image_column": "picture"})]
)
def test_the_image_column_may_have_another_name(made, column, given):
    expected = made.table["image"].str.removesuffix(".png").tolist()
    made.table = made.table.rename(columns={"image": column})
    assert TrialTable(made.experiment(**given)).table["image"].tolist() == expected


def test_an_image_column_asked_for_goes_before_image(made):
    made.table["shown"] = made.table["image"]
    made.table["image"] = "fixation"
    assert set(TrialTable(made.experiment(image_column="shown")).table["image"]) == set(NAMES)


def test_bids_sub_paths_and_dots_in_names(made, tmp_path):
    folder = tmp_path / "stimuli"
    for name in NAMES:
        (folder / name[:4]).mkdir(parents=True, exist_ok=True)
        shutil.copy(made.images / f"{name}.png", folder / name[:4] / f"{name}.v1.0.PNG")
    names = made.table["image"].str.removesuffix(".png")
    made.table["stim_file"] = [f"{n[:4]}/{n}.v1.0.PNG" for n in names]
    del made.table["image"]
    experiment = made.experiment(images=folder)
    assert TrialTable(experiment).table["image"].tolist() == (names + ".v1.0").tolist()
    np.testing.assert_array_equal(
        next(TrialTable(experiment).read_images(["img05.v1.0"])),
        np.asarray(Image.open(made.images / "img05.png")),
    )


def test_numbers_as_names_keep_their_zeros(made, tmp_path):
    folder = tmp_path / "numbers"
    folder.mkdir()
    for i, name in enumerate(NAMES):
        shutil.copy(made.images / f"{name}.png", folder / f"{i:04d}.png")
    made.table["image"] = [f"{NAMES.index(x[:-4]):04d}" for x in made.table["image"]]
    subject = made.prepare(images=folder)
    assert subject.trials["image"].tolist() == made.table["image"][subject.trials["trial"]].tolist()


def test_names_that_look_like_nothing_are_names(made, tmp_path):
    """A blank screen is shown as null.png, a flat bread as nan.png."""
    folder = shutil.copytree(made.images, tmp_path / "images")
    for old, new in (("img00", "null"), ("img01", "nan"), ("img02", "NA")):
        (folder / f"{old}.png").rename(folder / f"{new}.png")
        made.table["image"] = made.table["image"].replace(f"{old}.png", f"{new}.png")
    assert_is(made.prepare(images=folder), made)


def test_several_tables_are_joined(made):
    made.prepare("one/sub-01")
    parts, whole = [], made.table
    for i, some in enumerate(pieces()):
        made.table = whole[some]
        parts.append(made.write_table(f"run{i}.{'csv' if i == 1 else 'tsv'}"))
    made.table = whole
    subject = made.prepare(trials=tuple(parts))
    assert_is(subject, made)
    for name in ("betas.npy", "trials.tsv"):
        assert (subject.folder / name).read_bytes() == made.path("one/sub-01", name).read_bytes()


def test_a_row_of_several_tables_is_named_by_its_file(made):
    parts = []
    made.table["session"] = made.table["session"].astype(str)
    made.table.loc[30, "session"] = "two"
    for i, some in enumerate(pieces()):
        made.table[some].to_csv(made.path(f"run{i}.tsv"), sep="\t", index=False)
        parts.append(made.path(f"run{i}.tsv"))
    with pytest.raises(InputError, match=r"run2\.tsv: row 7: expected a whole number .* 'two'"):
        made.prepare(trials=tuple(parts))


# -------------------------------------------------------------------------------- splits


def sides(subject):
    assert (subject.trials.groupby("image")["split"].nunique() == 1).all()
    return subject.trials.groupby("split")["image"].agg(set).to_dict()


def test_the_tables_splits_are_kept(made):
    of = {n: ("test", "validation", "train", "train")[i % 4] for i, n in enumerate(NAMES)}
    made.table["split"] = [of[x[:-4]] for x in made.table["image"]]
    found = sides(made.prepare())
    assert found["test"] == set(NAMES[::4])
    assert found["val"] == set(NAMES[1::4])


def test_validation_is_drawn_where_the_table_has_none(made):
    of = {n: "test" if i % 4 == 0 else "train" for i, n in enumerate(NAMES)}
    made.table["split"] = [of[x[:-4]] for x in made.table["image"]]
    found = sides(made.prepare())
    assert found["test"] == set(NAMES[::4])
    assert found["val"] == draw_images(set(NAMES) - set(NAMES[::4]), 0.3, 0)


def test_a_list_of_splits_goes_before_the_table(made):
    made.table["split"] = "train"
    path = made.path("split.csv")
    path.write_text("image,split\nimg00.png,test\nimg01,val\nimg02,val\nimg03,test\n")
    found = sides(made.prepare(split=path))
    assert found["test"] == {"img00", "img03"}
    assert found["val"] == {"img01", "img02"}


def test_shares_are_drawn_where_nothing_says(made):
    said = []
    experiment = made.experiment(seed=2)
    split = TrialTable(experiment).splits(said.append)
    shown = TrialTable(experiment).table["image"].to_numpy(str)
    test = draw_images(NAMES, 0.3, 2, "test")
    assert set(shown[split == "test"]) == test
    assert set(shown[split == "val"]) == draw_images(set(NAMES) - test, 0.3, 2)
    assert said == [f"test images: {len(test)} of 24, random (--test, --split)"]


@pytest.mark.parametrize(("n_often", "chosen"), [(20, True), (19, False)])
def test_images_shown_far_more_often_are_the_test(tmp_path, rng, n_often, chosen):
    folder = tmp_path / "images"
    folder.mkdir()
    names = [f"i{i:03d}" for i in range(60)]
    for name in names:
        (folder / f"{name}.png").touch()
    shown = names + names[:n_often] * 2
    (tmp_path / "trials.tsv").write_text("image\n" + "\n".join(shown) + "\n")
    np.save(tmp_path / "r.npy", rng.standard_normal((len(shown), 3)))
    said = []
    experiment = Experiment(tmp_path / "trials.tsv", folder, (tmp_path / "r.npy",))
    split = TrialTable(experiment).splits(said.append)
    often = set(names[:n_often])
    assert (set(np.array(shown)[split == "test"]) == often) is chosen
    assert ("shown 3 times or more" in said[0]) is chosen


# -------------------------------------------------------------------------------- voxels


def zscored(made):
    finite = np.where(np.isfinite(made.responses), made.responses, np.nan)
    sessions = pd.DataFrame(finite).groupby(made.table["session"].to_numpy())
    return sessions.transform(lambda x: (x - x.mean()) / x.std(ddof=0)).to_numpy()


@pytest.mark.parametrize("standardize", ["session", "train", "none"])
def test_ncsnr_is_that_of_the_repeats_and_standardising_is_undone(made, standardize):
    subject = made.prepare(standardize=standardize)
    assert_is(subject, made)
    expected = ncsnr(zscored(made), made.table["image"].to_numpy(str))
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(subject.voxels["ncsnr"], expected, rtol=1e-3)
    np.testing.assert_array_equal(subject.voxels["ncsnr"], subject.voxels["ncsnr_recomputed"])
    assert subject.description.standardization == standardize
    train = (subject.trials["split"] == "train").to_numpy()
    if standardize == "train":
        np.testing.assert_allclose(subject.betas[train].mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(subject.betas[train].std(0), 1, atol=1e-5)
        assert np.abs(subject.betas[~train].mean(0)).max() > 1e-3
    if standardize == "none":
        order = subject.trials["trial"]
        np.testing.assert_array_equal(subject.betas, made.responses[order])


def test_responses_are_divided_before_anything(made):
    stored = np.rint(made.responses * 300).astype(np.int16)
    made.responses = (stored / 300).astype(np.float32)
    subject = made.prepare(responses=(made.save(values=stored),), divide_by=300, standardize="none")
    assert_is(subject, made)
    np.testing.assert_allclose(
        subject.betas, made.responses[subject.trials["trial"]], rtol=0, atol=1e-6
    )


def test_a_table_of_voxels_gives_ncsnr_and_labels(made):
    n = made.responses.shape[1]
    given = np.linspace(0.1, 0.9, n).round(3)
    table = pd.DataFrame(
        {
            "i": 0,
            "ncsnr": given,
            "area": ["V4" if v % 2 else "n/a" for v in range(n)],
            "layer": ["4" if v % 2 else "2/3" for v in range(n)],
            "depth": np.arange(n),
            "ncsnr_recomputed": 5,
        }
    )
    table.to_csv(made.path("voxels.tsv"), sep="\t", index=False)
    subject = made.prepare(voxels=made.path("voxels.tsv"))
    np.testing.assert_allclose(subject.voxels["ncsnr"], given)
    expected = ncsnr(zscored(made), made.table["image"].to_numpy(str))
    np.testing.assert_allclose(subject.voxels["ncsnr_recomputed"], expected, rtol=1e-3)
    found = subject.description.noise_ceiling_snr
    assert found["median_given"] == round(float(np.median(given)), 4)
    assert found["correlation"] == pytest.approx(np.corrcoef(given, expected)[0, 1], abs=1e-4)
    rois = subject.rois()
    assert set(rois) == {"V4", "4", "2/3"}
    np.testing.assert_array_equal(rois["V4"], np.arange(n) % 2 == 1)
    np.testing.assert_array_equal(rois["2/3"], np.arange(n) % 2 == 0)
    assert subject.voxels["depth"].tolist() == list(range(n))


def test_ncsnr_may_be_unknown_in_some_voxels(made):
    n = made.responses.shape[1]
    column = ["n/a", "", "nan", *["0.5"] * (n - 3)]
    path = made.path("voxels.tsv")
    path.write_text("ncsnr\tname\n" + "".join(f"{x}\tv{i}\n" for i, x in enumerate(column)))
    found = made.prepare(voxels=path).voxels["ncsnr"].to_numpy(float)
    assert np.isnan(found[:3]).all()
    assert (found[3:] == 0.5).all()


def test_regions_are_labels(made):
    values = np.zeros((2, *GRID), np.float32)
    values[0, 0] = 1
    values[1, :, 0] = 0.7
    files = tuple(
        (name, made.write_mask(v, name=f"{name}.nii.gz"))
        for name, v in zip(("FFA", "PPA"), (values > 0), strict=True)
    )
    subject = made.prepare(**array_with_mask(made), rois=files)
    rois = subject.rois()
    np.testing.assert_array_equal(rois["FFA"], values[0][made.mask] > 0)
    np.testing.assert_array_equal(rois["PPA"], values[1][made.mask] > 0)
    assert 0 < rois["FFA"].sum() < subject.n_voxels


@pytest.mark.parametrize("standardize", ["session", "train", "none"])
@pytest.mark.parametrize("unit", [1e-20, 1.0, 1e12])
def test_the_unit_of_responses_does_not_matter(made, standardize, unit):
    reference = made.prepare(standardize=standardize)
    made.responses = (made.responses.astype(np.float64) * unit).astype(np.float32)
    subject = made.prepare("prepared/unit/sub-01", standardize=standardize)
    scale = unit if standardize == "none" else 1
    np.testing.assert_allclose(subject.betas, reference.betas * scale, atol=1e-5 * scale)
    np.testing.assert_allclose(subject.voxels["ncsnr"], reference.voxels["ncsnr"], rtol=1e-3)


@pytest.mark.parametrize("kind", ["bool", "counts", "heavy tails"])
def test_values_of_any_distribution_are_good_data(made, kind):
    shape = made.responses.shape
    if kind == "bool":
        made.responses = made.responses > 7
    elif kind == "counts":
        made.responses = made.rng.poisson(0.2, shape).astype(np.int64)
    else:
        made.responses = made.rng.standard_cauchy(shape).astype(np.float32)
    values = made.responses.astype(np.float32)
    subject = made.prepare(standardize="none", responses=(made.save(),))
    assert subject.n_voxels > 3
    if subject.n_voxels == shape[1]:
        np.testing.assert_array_equal(subject.betas, values[subject.trials["trial"]])


@pytest.mark.parametrize("standardize", ["session", "train", "none"])
def test_voxels_without_values_are_left_out_of_everything(made, standardize):
    n = made.responses.shape[1]
    rows = (made.table["session"] == 2).to_numpy()
    made.responses[:, 3] = np.nan
    made.responses[rows, 5] = 7.0  # constant in one session
    made.responses[np.flatnonzero(rows)[0], 6] = np.inf
    keep = ~np.isin(np.arange(n), [3, 5, 6])
    pd.DataFrame({"name": [f"v{i}" for i in range(n)]}).to_csv(
        made.path("voxels.tsv"), sep="\t", index=False
    )
    subject = made.prepare(
        **glmsingle_array(made), voxels=made.path("voxels.tsv"), standardize=standardize
    )
    assert_is(subject, made, keep)
    assert subject.description.voxels_left_out == 3
    assert subject.description.voxels_left_out_by_session == {1: 1, 2: 3, 3: 1}
    assert np.isfinite(subject.betas).all()
    inside = made.mask.copy()
    inside[made.mask] = keep
    np.testing.assert_array_equal(subject.voxel_space.geometry.inside, inside)
    assert subject.voxels["name"].tolist() == [f"v{i}" for i in np.flatnonzero(keep)]
    assert subject.voxels[["i", "j", "k"]].to_numpy().tolist() == np.argwhere(inside).tolist()
    expected = ncsnr(zscored(made)[:, keep], made.table["image"].to_numpy(str))
    np.testing.assert_allclose(subject.voxels["ncsnr"], expected, rtol=1e-3)


def mni_grid(size=6.0):
    """A grid in MNI whose first axis runs from right to left, and its coordinates in mm."""
    affine = np.diag([-size, size, size, 1])
    affine[:3, 3] = 90, -126, -72
    shape = tuple(int(n // size) for n in (182, 218, 182))
    return affine, nib.affines.apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))


def test_mni_reaches_fsaverage_and_left_stays_left(made):
    affine, mm = mni_grid()
    made.mask = (mm[..., 1] < -55) & (mm[..., 1] > -100) & (np.abs(mm[..., 2]) < 25)
    x, y, _ = mm[made.mask].T
    made.responses = made.rng.standard_normal((N_TRIALS, len(x))).astype(np.float32)
    made.responses[:, np.argmin(x)] = 1.0  # constant: left out of the sampling too
    mask = made.write_mask(affine=affine)
    subject = made.prepare(responses=(made.save(),), mask=(mask,), space="MNI152NLin2009cAsym")
    assert subject.description.voxels_left_out == 1
    keep = np.arange(len(x)) != np.argmin(x)
    for values, axis in ((x, 0), (y, 1)):
        maps = subject.voxel_space.surface_resampling.project(values[keep])
        for h, mesh in fsaverage("white").items():
            reached = np.isfinite(maps[h])
            assert reached.sum() > 300
            difference = maps[h][reached] - mesh.coordinates[reached, axis]
            assert np.abs(np.median(difference)) < 3
            assert np.percentile(np.abs(difference), 95) < 9
    side = subject.voxel_space.surface_resampling.project(np.sign(x[keep]))
    assert np.nanmean(side["left"]) < -0.8
    assert np.nanmean(side["right"]) > 0.8


def test_mni_sampling_is_the_mean_of_depths(made):
    """At a vertex well inside, between white and pial surface, a linear map is read exactly."""
    affine, mm = mni_grid(3.0)
    place = Volume.of(np.ones(mm.shape[:3], bool), nib.Nifti1Image(np.zeros((1, 1, 1)), affine))
    sampling = mni_to_fsaverage(place)
    maps = sampling.project(mm.reshape(-1, 3) @ np.array([1.0, 0.5, -2.0]))
    for h in ("left", "right"):
        middle = (fsaverage("white")[h].coordinates + fsaverage("pial")[h].coordinates) / 2
        np.testing.assert_allclose(maps[h], middle @ np.array([1.0, 0.5, -2.0]), atol=0.01)


def test_a_volume_elsewhere_is_drawn_nowhere(made):
    assert made.prepare(**array_with_mask(made), space="T1w").voxel_space.surface_resampling is None


def test_the_record_says_what_was_prepared(made):
    (made.folder / "dataset_description.json").write_text('{"Simulated": true}')
    subject = made.prepare(unit="spikes/s", space="T1w", **array_with_mask(made))
    description = subject.description
    assert subject.simulated
    assert description.unit_before_standardization == "spikes/s"
    assert description.space == "T1w"
    assert list(description.sources) == [str(made.path("responses.npy"))]
    assert description.options["trials"][0].startswith("trials.tsv (sha256 ")


# --------------------------------------------------------------------------- interruption


def assert_same(one, other):
    for name in ("betas.npy", "trials.tsv", "voxels.tsv", "mask.nii.gz", "standardization.npz"):
        if name.endswith("npz"):
            with np.load(one / name) as a, np.load(other / name) as b:
                assert a.files == b.files
                for key in a.files:
                    np.testing.assert_array_equal(a[key], b[key])
        else:
            assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.parametrize("standardize", ["session", "train", "none"])
@pytest.mark.parametrize("stop_at", [1, 2, 3])
def test_an_interrupted_run_goes_on_to_the_same_end(made, monkeypatch, stop_at, standardize):
    made.table["session"] = np.repeat([2, 1, 3], N_TRIALS // 3)
    given = {**niftis(made), "standardize": standardize}
    whole = made.prepare("whole/sub-01", **given)
    target, experiment = made.path("again/sub-01"), made.experiment(**given)
    seen = []
    read = ResponseFiles.read

    def watched(self, index):
        seen.append(index)
        return read(self, index)

    def stop(done, total):
        if done == stop_at:
            raise KeyboardInterrupt

    monkeypatch.setattr(ResponseFiles, "read", watched)
    with pytest.raises(KeyboardInterrupt):
        prepare_experiment(experiment, "01", target, progress=Listening(watch=stop))
    assert not target.exists()
    assert seen == list(range(stop_at))
    seen.clear()
    again = prepare_experiment(experiment, "01", target)
    # The first file is session 2 whole; the second begins session 1, which the third ends.
    assert seen == {1: [1, 2], 2: [1, 2], 3: []}[stop_at]
    assert_same(whole.folder, again.folder)
    assert_is(again, made)


@pytest.mark.parametrize("change", ["responses", "trials", "mask"])
def test_what_was_interrupted_is_not_gone_on_with_from_other_files(made, change):
    """Responses of the same size too: betas of another fit."""
    made.table["session"] = np.repeat([2, 1, 3], N_TRIALS // 3)
    given = niftis(made)

    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_experiment(
            made.experiment(**given), "01", made.path("sub-01"), progress=Listening(watch=stop)
        )
    if change == "responses":
        made.responses = made.responses[:, ::-1] * 2
        given = niftis(made)
    elif change == "trials":
        made.table["image"] = made.table["image"].to_numpy()[::-1]
    else:
        made.mask = np.roll(made.mask, 1, axis=0)
        given = niftis(made)
    assert_is(made.prepare("sub-01", **given), made)


# -------------------------------------------------------------------------- the pipeline


def table_of(made, **options):
    experiment = made.experiment(**options)
    overwrite = made.__dict__.get("overwrite", False)
    target = Target(Workspace(made.folder), "made", ("gabor",), overwrite=overwrite)
    return prepare_table(target, experiment, "01", RunContext(progress=QUIET))


def test_a_second_process_is_told_to_wait(made):
    folder = made.path("prepared/made/sub-01")
    code = (
        "import sys; from synbrain_cli.io.locks import locked\n"
        "with locked(sys.argv[1], 'a prepared subject'): print('held', flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(BusyError, match="another synbrain process is writing a prepared"):
            table_of(made)
        other.communicate(b"\n")
    assert other.returncode == 0
    assert table_of(made).subjects[0].folder == folder


def test_prepared_again_is_already_there(made):
    first = table_of(made)
    before = (first.subjects[0].folder / "betas.npy").stat().st_mtime_ns
    again = table_of(made)
    assert (again.subjects[0].folder / "betas.npy").stat().st_mtime_ns == before
    (tokens,) = again.tokens.take(again.tokens.images).bands
    assert len(tokens) == N_IMAGES
    assert np.isfinite(tokens).all()


def other_responses(made):
    made.responses = made.responses * 2
    return {}


def other_trials(made):
    made.table["image"] = made.table["image"].to_numpy()[::-1]
    return {}


CHANGES = {
    "standardize": lambda made: {"standardize": "none"},
    "seed": lambda made: {"seed": 3},
    "unit": lambda made: {"unit": "spikes"},
    "mask": lambda made: {"mask": (made.write_mask(),)},
    "responses": other_responses,
    "trials": other_trials,
}


@pytest.mark.parametrize("option", CHANGES)
def test_other_options_are_not_mistaken_for_what_is_there(made, option):
    table_of(made)
    changes = CHANGES[option](made)
    with pytest.raises(InputError, match=f"prepared with other options .*{option}.*--overwrite"):
        table_of(made, **changes)
    made.overwrite = True
    assert_is(table_of(made, **changes).subjects[0], made)


def test_another_picture_under_a_known_name_is_refused(made, tmp_path):
    table_of(made)
    folder = shutil.copytree(made.images, tmp_path / "others")
    shutil.copy(folder / "img00.png", folder / "img07.png")
    made.overwrite = True
    with pytest.raises(InputError, match="another image is known there by the name img07"):
        table_of(made, images=folder)


# ----------------------------------------------------------------------------- bad input


def drop(column):
    def change(made):
        del made.table[column]

    return change


def put(column, value, row=4, start=""):
    def change(made):
        values = [*made.table[column]] if column in made.table else [start] * N_TRIALS
        values[row] = value
        made.table[column] = values

    return change


def no_rows(made):
    made.table = made.table[:0]


def outside(made):
    shutil.copy(made.images / "img00.png", made.path("other.png"))
    made.table.loc[4, "image"] = str(made.path("other.png"))


def outside_relative(made):
    shutil.copytree(made.images, made.path("stimuli"))
    shutil.copy(made.images / "img00.png", made.path("other.png"))
    made.table.loc[4, "image"] = "../other.png"
    return {"images": made.path("stimuli")}


def without_zeros(made):
    made.path("numbered").mkdir()
    for i, name in enumerate(NAMES):
        shutil.copy(made.images / f"{name}.png", made.path("numbered", f"{i:03d}.png"))
    made.table["image"] = [str(NAMES.index(n.removesuffix(".png"))) for n in made.table["image"]]
    made.table = made.table.sort_values("image", ignore_index=True)
    return {"images": made.path("numbered")}


def excel(made):
    made.path("trials.xlsx").write_bytes(b"PK\x03\x04\x14\x00\x06\x00\x08\xff\xfe" * 40)
    return {"trials": made.path("trials.xlsx")}


def missing_images(made):
    made.table["image"] = made.table["image"].replace({"img03.png": "x.png", "img07.png": "y.png"})


def windows_paths(made):
    made.table["image"] = "C:\\stimuli\\" + made.table["image"]


def with_images(made, *more):
    """A folder of the test's own."""
    folder = shutil.copytree(made.images, made.path("images"))
    for name in more:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(made.images / "img00.png", folder / name)
    return {"images": folder}


def two_formats(made):
    made.table["image"] = made.table["image"].str.removesuffix(".png")
    return with_images(made, "img05.jpg")


def same_name_in_folders(made):
    made.table.loc[0, "image"], made.table.loc[1, "image"] = "cat/1.png", "dog/1.png"
    return with_images(made, "cat/1.png", "dog/1.png")


def folders_flattened(made):
    made.table.loc[0, "image"], made.table.loc[1, "image"] = "cat/1.png", "dog/1.png"
    return with_images(made, "1.png")


def in_two_splits(made):
    of = ["test" if i % 3 == 0 else "train" for i in range(N_TRIALS)]
    made.table["split"] = of


def repeat_twice(made):
    rows = made.table.index[made.table["image"] == "img02.png"]
    made.table["repeat"] = made.table.groupby("image").cumcount() + 1
    made.table.loc[rows[2], "repeat"] = 2


def rows_of_several(made):
    made.table = made.table[:-5]
    return arrays(made)


def transposed(made):
    return {"responses": (made.save(values=made.responses.T),)}


def one_file_too_few(made):
    given = niftis_of_one_trial(made)
    return {**given, "responses": given["responses"][:-1]}


def glmsingle_without_a_grid(made):
    return {"responses": (made.save(values=made.responses.T[:, None, None]),)}


def given_twice(made):
    path = made.save()
    made.path("link.npy").symlink_to(path)
    return {"responses": (path, made.path("link.npy"))}


def one_missing(made):
    return {"responses": (made.save(), made.path("run2.npy"))}


def a_folder(made):
    return {"responses": (made.folder,)}


def saved_as(name):
    def change(made):
        made.path(name).write_bytes(b"1,2,3\n")
        return {"responses": (made.path(name),)}

    return change


def pickled(made):
    np.save(made.path("TYPED.npy"), {"betasmd": made.responses}, allow_pickle=True)
    return {"responses": (made.path("TYPED.npy"),)}


def columns_of_another_mask(made):
    return {**array_with_mask(made), "responses": (made.save(values=made.responses[:, 1:]),)}


def second_file_narrower(made):
    first, *_ = pieces()
    made.save("a.npy", made.responses[first])
    made.save("b.npy", made.responses[first.stop :, 1:])
    del made.table["session"]
    return {"responses": (made.path("a.npy"), made.path("b.npy"))}


def mask_of_another_grid(kind):
    def change(made):
        given = kind(made)
        made.write_mask(np.pad(made.mask, ((0, 1), (0, 0), (0, 0))))
        return given

    return change


def mask_moved(made):
    given = nifti(made)
    affine = AFFINE.copy()
    affine[0, 3] += 2
    made.write_mask(affine=affine)
    return given


def without_mask(kind):
    def change(made):
        given = kind(made)
        del given["mask"]
        return given

    return change


def with_mask(**options):
    def change(made):
        given = array_with_mask(made)
        made.write_mask(**{k: value(made) for k, value in options.items()})
        return given

    return change


def mask_as_array(made):
    np.save(made.path("mask.npy"), made.mask)
    return {**glmsingle_array(made), "mask": (made.path("mask.npy"),)}


def two_masks(made):
    return {**array_with_mask(made), "mask": (made.path("mask.nii.gz"),) * 2}


def damaged_nifti(made):
    given = nifti(made)
    content = made.path("betas.nii.gz").read_bytes()
    made.path("betas.nii.gz").write_bytes(content[: len(content) // 2])
    return given


def text_as_nifti(made):
    given = nifti(made)
    made.path("betas.nii.gz").write_text("<html>Sign in</html>")
    return given


def a_trial_without_values(made):
    made.responses[60] = np.nan
    return arrays(made)


def impossible(value):
    def change(made):
        made.responses[60, 3] = value

    return change


def in_double(change):
    def save(made):
        values = change(made.responses.astype(np.float64))
        return {"responses": (made.save(values=values),)}

    return save


def voxel_ncsnr(first):
    def write(made):
        cells = [first] + ["0.5"] * (made.responses.shape[1] - 1)
        made.path("voxels.tsv").write_text("\n".join(["ncsnr", *cells]) + "\n")
        return {"voxels": made.path("voxels.tsv")}

    return write


def no_values(made):
    made.responses[:] = np.nan


def no_values_in_one_file(made):
    *_, last = pieces()
    made.responses[last] = np.nan
    return arrays(made)


def constant(made):
    made.responses[:] = np.arange(N_TRIALS)[:, None]
    made.responses[(made.table["session"] == 2).to_numpy()] = 3


def copied_session(made):
    made.table["session"] = np.repeat([1, 2, 3], N_TRIALS // 3)
    n = N_TRIALS // 3
    names = ("s1.npy", "s2.npy", "s3.npy")
    for i, name in enumerate(names):
        made.save(name, made.responses[min(i, 1) * n :][:n])
    return {"responses": tuple(made.path(name) for name in names)}


def sessions_of_one_trial(made):
    made.table["session"] = np.arange(N_TRIALS) + 1


def voxel_rows(made):
    pd.DataFrame({"ncsnr": [0.3] * 7}).to_csv(made.path("voxels.tsv"), sep="\t", index=False)
    return {"voxels": made.path("voxels.tsv")}


def decimal_commas(made):
    n = made.responses.shape[1]
    pd.DataFrame({"ncsnr": ["0,5"] * n}).to_csv(made.path("voxels.tsv"), sep="\t", index=False)
    return {"voxels": made.path("voxels.tsv")}


def region(*names, mask=True, **options):
    def change(made):
        options.setdefault("name", "roi.nii.gz")
        path = made.write_mask(**{k: v for k, v in options.items() if k != "inside"},
                               inside=options.get("inside"))  # fmt: skip
        given = array_with_mask(made) if mask else {}
        return {**given, "rois": tuple((name, path) for name in names)}

    return change


def region_in_the_table(made):
    n = made.responses.shape[1]
    pd.DataFrame({"V4": ["V4"] * n}).to_csv(made.path("voxels.tsv"), sep="\t", index=False)
    return {**region("V4")(made), "voxels": made.path("voxels.tsv")}


def missing(option):
    return lambda made: {option: made.path("nothing.tsv")}


def missing_region(made):
    return {**array_with_mask(made), "rois": (("V4", made.path("v4.nii.gz")),)}


def no_test_image(made):
    made.table["split"] = "train"


def only_test(made):
    made.table["split"] = "test"


def maps(made, suffix=".npy", sizes=N_NATIVE):
    n = made.responses.shape[1]
    chosen = {"left": np.arange(n - 9), "right": np.arange(9)}
    paths = write_maps(made, suffix, sizes, chosen)
    return {"left": (paths["left"],), "right": (paths["right"],), "space": "fsnative"}


def surfaces(without=(), **options):
    def change(made):
        given = {**maps(made), **options}
        return {k: v for k, v in given.items() if k not in without}

    return change


def surface_and_volume(made):
    return {**maps(made), "responses": (made.save(),)}


def same_hemisphere(made):
    given = maps(made)
    return {**given, "right": given["left"]}


def another_fsaverage(made):
    sizes = {"left": 10242, "right": 10242}
    return {**maps(made, ".mgh", sizes), "space": "fsaverage6"}


def transposed_maps(made):
    given = maps(made)
    for h in ("left", "right"):
        np.save(given[h][0], np.load(given[h][0]).T)
    return given


def hemispheres_of_other_trials(made):
    given = maps(made)
    np.save(given["right"][0], np.load(given["right"][0])[:-1])
    return given


def second_run_of_another_surface(made):
    given = maps(made)
    first = np.load(given["left"][0])
    np.save(made.path("left2.npy"), first[40:, 1:])
    np.save(made.path("right2.npy"), np.load(given["right"][0])[40:])
    for h in ("left", "right"):
        np.save(given[h][0], np.load(given[h][0])[:40])
        given[h] = (*given[h], made.path(f"{h}2.npy"))
    del made.table["session"]
    return given


def map_mask(n=(31, 27), value=1.0, count=2):
    def change(made):
        paths = tuple(made.path(f"mask{i}.npy") for i in range(2))
        for path, size in zip(paths, n, strict=True):
            np.save(path, np.full(size, value))
        return {**maps(made), "mask": paths[:count]}

    return change


def surface_roi(made):
    return {**maps(made), "rois": (("V4", made.write_mask()),)}


def hdf5_surface(made):
    given = maps(made)
    for h in ("left", "right"):
        with h5py.File(made.path(f"{h}.hdf5"), "w") as file:
            file["betas"] = np.load(given[h][0])
        given[h] = (made.path(f"{h}.hdf5"),)
    return given


BAD = {
    # the table
    "no table": (missing("trials"), "nothing.tsv does not exist"),
    "no image column": (
        drop("image"),
        "trials.tsv: expected the column image, found onset, session: rename .* --image-column",
    ),
    "no such image column": (
        lambda made: {"image_column": "stim"},
        "trials.tsv: expected the column stim, found onset, image, session",
    ),
    "Excel": (excel, "trials.xlsx: expected a table as text, found a workbook: .* CSV UTF-8"),
    "a session beyond whole numbers": (
        put("session", "1e30"),
        "trials.tsv: row 6: expected a whole number from 1 in the column session, found '1e30'",
    ),
    "some repeats not given": (
        put("repeat", "n/a", start="1"),
        "trials.tsv: row 6: expected a whole number from 1 in the column repeat, found 'n/a'",
    ),
    "an image with a long name": (
        put("image", "a" * 300),
        "stimuli\\d*: 1 of 25 images of .*trials.tsv are not in this folder .first: aaa",
    ),
    "an image outside": (
        outside,
        "stimuli\\d*: 1 of 25 images of .*trials.tsv are not in this folder .first: .*other.png",
    ),
    "an image outside, relative": (
        outside_relative,
        r"stimuli\d*: 1 of 25 images of .*trials.tsv are not in this folder .first: \.\./other",
    ),
    "names without their zeros": (
        without_zeros,
        "numbered: .* .first: 0.: .*; 000 is there: a spreadsheet may have taken the zeros",
    ),
    "no rows": (no_rows, "trials.tsv: expected one row per trial, found no row"),
    "an empty cell": (put("image", ""), "trials.tsv: row 6 names no image: leave trials without"),
    "BIDS's n/a": (put("image", "n/a"), "trials.tsv: row 6 names no image"),
    "session not a number": (
        put("session", "first"),
        "trials.tsv: row 6: expected a whole number from 1 in the column session, found 'first'",
    ),
    "session 0": (put("session", "0"), "row 6: expected a whole number from 1 .* found '0'"),
    "session 1.5": (put("session", "1.5"), "row 6: expected a whole number .* found '1.5'"),
    "no session": (put("session", ""), "row 6: expected a whole number .* session, found ''"),
    "repeat 0": (put("repeat", "0", 0), "row 2: expected a whole number .* repeat, found '0'"),
    "some repeats left out": (put("repeat", "1"), "row 2: expected a whole number .* found ''"),
    "sessions are trials": (
        sessions_of_one_trial,
        r"trials.tsv: session 1 has one trial: expected sessions \(days of recording\)",
    ),
    "a repeat twice": (repeat_twice, r"row \d+: repeat 2 of img02 occurs twice: number"),
    "unknown split": (
        put("split", "training", 0),
        "row 2: expected train, val, test in the column split, found 'training'",
    ),
    "split left out": (put("split", "test"), "row 2: expected train, val, test .* found ''"),
    "an image in two splits": (
        in_two_splits,
        r"trials.tsv: the column split puts img\d\d in two splits: a model would be tested on",
    ),
    "no test image": (
        no_test_image,
        "no test image among the 24 images shown: .* column split of .*tsv, .* --split",
    ),
    "only test images": (
        only_test,
        "no training and no validation image among the 24 images shown: .* column split of .*tsv",
    ),
    "no list of splits": (missing("split"), "nothing.tsv does not exist"),
    # images
    "no folder": (missing("images"), "--images .*nothing.tsv: no such folder"),
    "missing images": (
        missing_images,
        r"stimuli\d*: 2 of 24 images of .*trials.tsv are not in this folder \(first: [xy].png\)",
    ),
    "paths of Windows": (windows_paths, r"24 of 24 images .*first: C:\\stimuli\\img\d\d.png"),
    "two formats": (two_formats, "trials.tsv: img05 is img05.jpg or img05.png in .*images: add"),
    "one name in two folders": (
        same_name_in_folders,
        "1.png: the same name as .*1.png: images are identified by their name without folder",
    ),
    "sub-folders flattened": (
        folders_flattened,
        "trials.tsv: cat/1.png and dog/1.png are the same file, .*images/1.png: .*sub-folders",
    ),
    # responses
    "fewer rows than trials": (
        rows_of_several,
        r"trials.tsv has 67 rows, but the responses have 72 trials \(run0.npy 24, run1.npy 1, "
        r"run2.npy 47\): expected one row a trial",
    ),
    "a file too few": (
        one_file_too_few,
        r"has 72 rows, but the responses have 71 trials \(beta_0000.nii 1, .*0019.nii 1, …\): exp",
    ),
    "GLMsingle's without a grid": (
        glmsingle_without_a_grid,
        r"responses.npy: expected \(n_trials, n_voxels\), found .* save betas\[:, 0, 0\].T",
    ),
    "transposed": (
        transposed,
        r"trials.tsv has 72 rows, but .* have \d+ trials .* first axis: save the transpose",
    ),
    "a file twice": (given_twice, "responses.npy is given twice: name each file"),
    "a missing file": (one_missing, "run2.npy does not exist"),
    "a folder": (a_folder, "expected a file, found a folder"),
    "a csv": (saved_as("betas.csv"), r"betas.csv: expected responses in one of .npy .* as .npy"),
    "a mat": (saved_as("betas.mat"), r"betas.mat: expected responses in one of .npy"),
    "an npz": (saved_as("betas.npz"), r"betas.npz: expected responses in one of .npy"),
    "no npy": (saved_as("betas.npy"), "betas.npy: expected an array of numbers .* with np.save"),
    "pickled": (pickled, r"TYPED.npy: .* could run any code: `synbrain prepare glmsingle` reads"),
    "one axis": (
        lambda made: {"responses": (made.save(values=made.responses[:, 0]),)},
        r"responses.npy: expected shape \(n_trials, n_voxels\), found shape \(72,\)",
    ),
    "other voxels in the second file": (
        second_file_narrower,
        r"b.npy: expected \d+ voxels as in the first file, found \d+",
    ),
    "a damaged volume": (damaged_nifti, "betas.nii.gz: truncated or damaged.*: copy or download"),
    "a web page": (text_as_nifti, "betas.nii.gz: .* not a NIfTI or MGH image .Not a gz"),
    "a trial without values": (
        a_trial_without_values,
        r"run2.npy: 1 trials have no finite value \(first: .*trials.tsv: row 62\): leave them out",
    ),
    "an impossible value": (
        impossible(1e30),
        r"responses.npy: the value 1e\+30 of trial 60 and voxel 3 .* in session \d is "
        "impossible beside the other trials",
    ),
    "an impossible value below": (impossible(-1e12), "the value -1e.12 of trial 60 and voxel 3 "),
    "beyond float32": (
        in_double(lambda values: np.where(np.arange(len(values))[:, None] == 60, 1e300, values)),
        r"responses.npy: the value 1e\+300 of trial 60 and voxel 0 .* beyond the range of float32",
    ),
    "far from 0": (
        in_double(lambda values: values + 1e9),
        r"responses.npy: the responses vary by .* around 1e\+09, which float32 does not hold",
    ),
    "near to 0": (
        in_double(lambda values: values * 1e-50),
        "responses.npy: the responses vary by .*e-50 .* which float32 does not hold",
    ),
    "a negative ncsnr": (
        voxel_ncsnr("-0.1"),
        "voxels.tsv: row 2: expected a number from 0 to .* in the column ncsnr .* found '-0.1'",
    ),
    "an infinite ncsnr": (
        voxel_ncsnr("inf"),
        "voxels.tsv: row 2: expected a number from 0 to .* in the column ncsnr .* found 'inf'",
    ),
    "an impossible ncsnr": (
        voxel_ncsnr("1e30"),
        "voxels.tsv: row 2: expected a number from 0 to .* in the column ncsnr .* found '1e30'",
    ),
    "no value at all": (no_values, "responses.npy: no voxel has a finite value in any of the 72"),
    "no value in one file": (no_values_in_one_file, "run2.npy: no voxel .* any of the 47 trials"),
    "constant": (constant, "sub-01: every voxel is constant or not finite in some session"),
    "a copied session": (
        copied_session,
        "s3.npy: the same betas as session 2: one of the two files is a copy",
    ),
    "neither responses nor surfaces": (
        lambda made: {"responses": ()},
        "expected either --responses, or --left and --right",
    ),
    # masks, tables of voxels, regions
    "no mask (nifti)": (without_mask(nifti), "betas.nii.gz: a volume needs a mask: pass --mask"),
    "no mask (hdf5)": (without_mask(glmsingle_hdf5), "betas.hdf5: a volume needs a mask"),
    "no mask (4-D array)": (without_mask(glmsingle_array), "b.npy: a volume needs a mask"),
    "columns of another mask": (
        columns_of_another_mask,
        r"responses.npy: expected the \d+ voxels of .*mask.nii.gz on the second axis, found \(72,",
    ),
    "another grid (nifti)": (
        mask_of_another_grid(nifti),
        r"betas.nii.gz: expected the grid \(6, 4, 3\) of .*mask.nii.gz, found \(5, 4, 3\)",
    ),
    "another grid (hdf5)": (
        mask_of_another_grid(glmsingle_hdf5),
        r"betas.hdf5: expected a 4-D dataset on the mask's grid \(6, 4, 3\), found \(5, 4, 3, 72\)",
    ),
    "another grid (array)": (
        mask_of_another_grid(glmsingle_array),
        r"b.npy: expected shape \(n_trials, n_voxels\) or \(6, 4, 3, 'n_trials'\), found shape "
        r"\(5, 4, 3, 72\)",
    ),
    "another affine": (
        mask_moved,
        "betas.nii.gz: its affine is not that of .*mask.nii.gz .they differ by up to 2.: re",
    ),
    "an empty mask": (
        with_mask(inside=lambda made: made.mask & False),
        "mask.nii.gz: expected voxels above 0, found none",
    ),
    "a 4-D mask": (
        with_mask(inside=lambda made: np.stack([made.mask] * 2, axis=-1)),
        r"mask.nii.gz: expected one 3-D volume, found \(5, 4, 3, 2\)",
    ),
    "a mask without a header": (
        mask_as_array,
        r"mask.npy: expected a volume with an affine in its header .* save",
    ),
    "a missing mask": (
        lambda made: {"mask": (made.path("m.nii.gz"),)},
        "m.nii.gz does not exist",
    ),
    "two masks": (two_masks, "--mask: expected one, found 2"),
    "no table of voxels": (missing("voxels"), "nothing.tsv does not exist"),
    "other voxels": (
        voxel_rows,
        r"voxels.tsv: expected one row for each of the \d+ voxels, found 7",
    ),
    "decimal commas": (decimal_commas, "voxels.tsv: row 2: expected a number .* ncsnr .* '0,5'"),
    "a region without mask": (region("V4", mask=False), "--roi V4: only with a volume --mask"),
    "a region twice": (region("V4", "V4"), "--roi V4: the name is taken"),
    "a region named ncsnr": (region("ncsnr"), "--roi ncsnr: the name is taken"),
    "a region in the table too": (region_in_the_table, "--roi V4: the name is taken"),
    "a missing region": (missing_region, "v4.nii.gz does not exist"),
    "a region of another grid": (
        region("V4", inside=np.ones((2, 2, 2))),
        r"roi.nii.gz: expected the grid \(5, 4, 3\) of .*mask.nii.gz, found \(2, 2, 2\)",
    ),
    "a region of another place": (
        region("V4", affine=np.eye(4)),
        "roi.nii.gz: its affine is the identity, so that .* save it with the affine of .*mask",
    ),
    "regions in one 4-D file": (
        region("V4", inside=np.ones((5, 4, 3, 2))),
        r"roi.nii.gz: expected one 3-D volume, found \(5, 4, 3, 2\)",
    ),
    # surfaces
    "left alone": (
        surfaces(without=("right",)),
        "expected as many --left as --right, found 1 and 0",
    ),
    "right alone": (surfaces(without=("left",)), "as many --left as --right, found 0 and 1"),
    "surfaces and a volume": (surface_and_volume, "either --responses, or --left and --right"),
    "no space": (
        surfaces(without=("space",)),
        "--space individual: .* on a surface need one of fsaverage5, fsaverage6, fsaverage, fsna",
    ),
    "another space": (
        surfaces(space="fsaverage5"),
        "left.betas.npy: expected the 10,242 vertices of fsaverage5 .* found 31: pass the --space",
    ),
    "another fsaverage": (
        another_fsaverage,
        "left.betas.mgh: expected the 40,962 vertices of fsaverage6 in each trial, found 10,242",
    ),
    "one hemisphere twice": (same_hemisphere, "left.betas.npy is given twice"),
    "maps transposed": (
        transposed_maps,
        r"left.betas.npy 31\): expected one row a.*save the transpose|right.betas.npy: expected 31",
    ),
    "hemispheres of other trials": (
        hemispheres_of_other_trials,
        "right.betas.npy: expected 72 trials, as in .*left.betas.npy, found 71: pass both hemisp",
    ),
    "a second run of another surface": (
        second_run_of_another_surface,
        r"left2.npy: expected the 31 vertices of this hemisphere .* found \(32, 30\)",
    ),
    "masks of another surface": (
        map_mask(n=(31, 26)),
        r"mask1.npy: expected a mask of 27 vertices, found \(26,\)",
    ),
    "masks of nothing": (map_mask(value=0.0), "mask0.npy: expected vertices above 0, found none"),
    "one mask": (map_mask(count=1), "--mask: expected one a hemisphere, left first, found 1"),
    "a volume as region": (surface_roi, "--roi V4: only with a volume --mask.*--voxels"),
    "maps in hdf5": (hdf5_surface, "left.hdf5: expected responses in one of .npy .mgh .mgz .gii"),
    # options
    "divided by 0": (lambda made: {"divide_by": 0}, "--divide-by 0: expected a number other than"),
    "standardize": (
        lambda made: {"standardize": "zscore"},
        "standardize: expected one of session, train, none, found 'zscore'",
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_fault_says_what_was_expected_and_found_and_where(made, fault):
    change, message = BAD[fault]
    with pytest.raises(SynbrainError) as raised:
        made.prepare(**(change(made) or {}))
    assert re.search(message, str(raised.value)), raised.value
    assert len(str(raised.value)) < 700
    assert not made.path("prepared/made/sub-01").exists()


LOOKED_AT_FIRST = [
    fault for fault in BAD if re.match("no |a missing|a folder|an? (csv|mat)", fault)
]


@pytest.mark.parametrize("fault", LOOKED_AT_FIRST)
def test_a_fault_is_one_before_the_pipeline_too(made, fault):
    """Which looks at files and options first, for its record."""
    change, message = BAD[fault]
    with pytest.raises(SynbrainError) as raised:
        table_of(made, **(change(made) or {}))
    assert re.search(message, str(raised.value)), raised.value


def test_faults_of_the_table_are_found_before_responses_are_read(made, monkeypatch):
    """Reading takes an hour; what is wrong with small files is said at once."""

    def read(self, index):
        raise AssertionError("read")

    monkeypatch.setattr(ResponseFiles, "read", read)
    for fault in ("other voxels", "a region of another grid", "no test image", "missing images"):
        with pytest.raises(SynbrainError, match=BAD[fault][1]):
            made.prepare(**(BAD[fault][0](made) or {}))


def test_a_missing_file_is_a_missing_error(made):
    for fault in ("no table", "a missing file", "a missing region", "missing images", "no folder"):
        with pytest.raises(MissingError):
            made.prepare(**(BAD[fault][0](made) or {}))


def test_a_damaged_image_is_named_and_the_subject_stays(made):
    """Nothing is prepared twice for it."""
    options = with_images(made)
    path = options["images"] / "img04.png"
    whole = path.read_bytes()
    path.write_bytes(whole[:60])
    with pytest.raises(InputError, match=r"img04\.png: expected a readable image, found 60 bytes"):
        table_of(made, **options)
    before = made.path("prepared/made/sub-01/betas.npy").stat().st_mtime_ns
    path.write_bytes(whole)
    result = table_of(made, **options)
    assert made.path("prepared/made/sub-01/betas.npy").stat().st_mtime_ns == before
    assert len(result.tokens.take(result.tokens.images)) == N_IMAGES


def test_mending_the_fault_lets_the_same_command_go_on(made):
    made.table["session"] = np.repeat([2, 1, 3], N_TRIALS // 3)
    files = arrays(made)
    whole = files["responses"][2].read_bytes()
    files["responses"][2].write_bytes(whole[:-4])
    with pytest.raises(InputError, match=r"run2\.npy: truncated or damaged"):
        made.prepare(**files)
    files["responses"][2].write_bytes(whole)
    assert_is(made.prepare(**files), made)


# ---------------------------------------------------------------------- as it is typed


@pytest.fixture
def synbrain(synbrain, monkeypatch, tmp_path):
    """The command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return synbrain


COMMAND = ["prepare", "table", "trials.tsv", "--responses", "responses.npy", "--images", "images"]
COMMAND += ["--dataset", "v4", "--subject", "1"]


@pytest.fixture
def small(made):
    """12 pictures of 32 × 32 pixels, 4 repeats."""
    made.path("images").mkdir()
    rng, names = np.random.default_rng(5), [f"stim{i}.jpg" for i in range(12)]
    for name in names:
        pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(made.path("images") / name)
    shown = rng.permutation(np.repeat(np.arange(12), 4))
    made.table = pd.DataFrame({"image": [names[i] for i in shown]})
    made.responses = rng.poisson(rng.gamma(2, 4, (12, 9))[shown]).astype(np.float32)
    made.write_table()
    made.save()
    return made


def test_the_command_as_typed(small, synbrain):
    code, output, error = synbrain(*COMMAND)
    assert code == 0, error
    header, row = (re.split(r"  +", line) for line in output.strip().splitlines()[:2])
    found = dict(zip(header, row, strict=True))
    subject = PreparedSubject(small.path("prepared/v4/sub-01"))
    assert found["subject"] == "v4/sub-01"
    assert (found["trials"], found["voxels"], found["sessions"]) == ("48", "9", "1")
    counts = {s: len(images) for s, images in sides(subject).items()}
    assert {s: int(found[f"{s} images"]) for s in counts} == counts
    assert sum(counts.values()) == 12
    assert float(found["median ncsnr"]) == round(float(subject.voxels["ncsnr"].median()), 2) > 0.5
    assert "from the repeats" in error
    np.testing.assert_allclose(as_recorded(subject), small.responses, atol=1e-4)
    tokens = small.path("prepared/v4/features/gabor")
    assert pd.read_csv(tokens / "images.tsv", sep="\t")["image"].tolist() == sorted(
        f"stim{i}" for i in range(12)
    )
    code, again, error = synbrain(*COMMAND)
    assert (code, again) == (0, output)
    assert "already prepared" in error


@pytest.mark.parametrize("names", ["photo", "picture", "x"])
def test_few_images_have_two_of_each_split_whatever_their_names(small, synbrain, names):
    small.table["image"] = small.table["image"].str.replace("stim", names)
    small.write_table()
    for path in sorted(small.path("images").iterdir()):
        path.rename(path.with_name(path.name.replace("stim", names)))
    code, output, error = synbrain(*COMMAND)
    assert code == 0, error
    header, row = (re.split(r"  +", line) for line in output.strip().splitlines()[:2])
    images = dict(zip(header, row, strict=True))
    # Two test images could not be scored: there are none, and images are left out by turns
    assert (images["val images"], images["test images"]) == ("2", "0")
    assert re.search(r"of the 12 images are 2, and no score over fewer than 4", error)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_fewer_than_six_images_are_refused_with_the_number_needed(small, synbrain, n):
    kept = small.table["image"].isin(sorted(small.table["image"].unique())[:n])
    small.responses = small.responses[kept.to_numpy()]
    np.save(small.path("responses.npy"), small.responses)
    small.table = small.table[kept]
    small.write_table()
    code, _, error = synbrain(*COMMAND, "-q")
    assert code == 1
    assert f"among the {n} images shown: expected 2 or more images for each of" in error
    assert "6 in all: draw more with --test and --validation" in error
    assert len(error.strip().split("\n")) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image-column", "stimulus"], "expected the column stimulus, found image"),
        (["--responses", "run2.npy"], "run2.npy does not exist"),
        (["--mask", "mask.nii.gz"], "mask.nii.gz does not exist"),
        (["--roi", "V4"], "--roi V4: expected NAME=FILE, such as FFA=ffa_mask.nii.gz"),
        (["--subject", "no/person"], "--subject no/person: expected a label"),
        (["--split", "nothing.tsv"], "nothing.tsv does not exist"),
        (["--workspace", "nowhere"], "--workspace nowhere: no such folder"),
        (["--space", "fsaverage", "--left", "l.npy"], "expected either --responses, or --left"),
    ],
)
def test_a_fault_is_one_line_and_exit_1(small, synbrain, arguments, message):
    code, output, error = synbrain(*COMMAND, *arguments)
    assert code == 1
    assert output == ""
    assert error.startswith("synbrain: ")
    assert message in error
    assert error.count("\n") == 1
    assert not list(small.path("prepared").glob("*/sub-*"))


@pytest.mark.parametrize("left_out", ["--images", "--dataset", "--subject"])
def test_what_must_be_given_is_a_usage_error(small, synbrain, left_out):
    place = COMMAND.index(left_out)
    code, _, error = synbrain(*COMMAND[:place], *COMMAND[place + 2 :])
    assert code == 2
    assert left_out in error


def test_several_options_reach_the_subject(small, synbrain):
    small.mask = np.zeros(GRID, bool)
    small.mask.flat[::7] = True
    mask = small.write_mask()
    assert small.mask.sum() == 9
    code, _, error = synbrain(
        *COMMAND, "--mask", mask, "--roi", f"V4={mask}", "--space", "T1w", "--unit", "spikes",
        "--standardize", "none", "--test", "0.3", "--validation", "0.3", "--seed", "4",
    )  # fmt: skip
    assert code == 0, error
    subject = PreparedSubject(small.path("prepared/v4/sub-01"))
    options = subject.description.options
    assert (options["test_share"], options["validation_share"], options["seed"]) == (0.3, 0.3, 4)
    assert subject.description.unit_before_standardization == "spikes"
    assert subject.rois()["V4"].all()
    np.testing.assert_array_equal(subject.betas, small.responses)


# -------------------------------------------------------------------- real recordings


def test_real_recordings_as_typed(shared, synbrain, made):
    """Macaque V4: 50 units, 640 photographs, 6 to 10 repeats."""
    folder = shared / "data/v4_recordings"
    code, output, error = synbrain(
        "prepare", "table", folder / "trials.tsv", "--responses", folder / "responses.npy",
        "--images", folder / "images", "--dataset", "v4", "--subject", "1", "--unit", "spikes",
    )  # fmt: skip
    assert code == 0, error
    subject = PreparedSubject(made.path("prepared/v4/sub-01"))
    assert subject.betas.shape == (4840, 50)
    assert subject.trials["image"].nunique() == 640
    assert subject.trials.groupby("image").size().between(6, 10).all()
    assert subject.description.noise_ceiling_snr["median_recomputed"] == pytest.approx(
        0.66, abs=0.01
    )
    assert output.split()[-1] == "0.66"
    recorded = np.load(folder / "responses.npy")
    np.testing.assert_allclose(as_recorded(subject), recorded, atol=1e-4)
    table = pd.read_csv(folder / "trials.tsv", sep="\t")
    rows = table.iloc[subject.trials["trial"]]
    assert subject.trials["image"].tolist() == rows["image"].str.removesuffix(".jpg").tolist()
    assert subject.trials["repeat"].tolist() == rows["repeat"].tolist()
    shares = subject.trials.drop_duplicates("image")["split"].value_counts(normalize=True)
    assert 0.1 < shares["test"] < 0.2
    assert 0.05 < shares["val"] < 0.13
    assert len(np.load(made.path("prepared/v4/features/gabor/tokens.npy"), mmap_mode="r")) == 640


def test_several_tables_are_joined_and_are_sessions(made):
    """As one table and one file of betas a day: rows, sessions and messages are their own."""
    options = arrays(made)
    halves = [made.table.iloc[: N_TRIALS // 2], made.table.iloc[N_TRIALS // 2 :]]
    paths = []
    for number, half in enumerate(halves, start=1):
        paths.append(made.path(f"day{number}.tsv"))
        half[["image"]].to_csv(paths[-1], sep="\t", index=False)
    experiment = Experiment(tuple(paths), made.images, **options)
    assert TrialTable(experiment).table["session"].tolist() == [1] * (N_TRIALS // 2) + [2] * (
        N_TRIALS // 2
    )
    shown = [Path(name).stem for name in made.table["image"]]
    assert TrialTable(experiment).table["image"].tolist() == shown
    assert TrialTable(experiment).row(N_TRIALS // 2 + 3) == f"{paths[1]}: row 5"
    assert sum(ResponseFiles(experiment).rows_of_files(N_TRIALS)) == N_TRIALS
    divided = Experiment(tuple(paths), made.images, **options, divide_by=300)
    np.testing.assert_allclose(
        ResponseFiles(divided).read(1), ResponseFiles(experiment).read(1) / 300, rtol=1e-6
    )


# ------------------------------------------------------------------------- names in the table


@pytest.mark.parametrize("name", ["{outside}/secret.png", "../{folder}/secret.png", "x/../../y"])
def test_a_table_names_no_image_outside_its_folder(made, tmp_path_factory, name):
    outside = tmp_path_factory.mktemp("outside")
    Image.new("RGB", (8, 8)).save(outside / "secret.png")
    made.table.loc[0, "image"] = name.format(outside=outside, folder=outside.name)
    with pytest.raises(MissingError, match="not in this folder"):
        _ = TrialTable(made.experiment()).table


def test_the_folder_before_an_images_name_may_be_that_of_another_computer(made):
    made.table["image"] = [f"/home/lab/../stimuli/{name}" for name in made.table["image"]]
    assert set(TrialTable(made.experiment()).table["image"]) == set(NAMES)


@pytest.mark.parametrize("name", ["x" * 300, "x" * 300 + ".png", "..", ".", "/"])
def test_names_that_no_image_can_have(made, name):
    made.table.loc[0, "image"] = name
    with pytest.raises(MissingError, match="not in this folder"):
        _ = TrialTable(made.experiment()).table


@pytest.mark.parametrize("name", ["all", "a\nb", "", "\x1b[31mred", "x" * 100])
def test_names_that_no_roi_can_have(made, name):
    mask = made.write_mask()
    with pytest.raises(InputError, match="expected the name of an ROI"):
        made.experiment(mask=(mask,), rois=((name, mask),))


@pytest.mark.parametrize(
    ("column", "label"),
    [("x" * 100, "V1"), ("roi\x1b[31m", "V1"), ("roi", "all"), ("roi", "\x1b[2J")],
)
def test_names_of_collections_and_labels_are_checked(made, column, label):
    table = pd.DataFrame({column: [label] * made.mask.sum()})
    table.to_csv(made.path("voxels.tsv"), sep="\t", index=False)
    experiment = made.experiment(voxels=made.path("voxels.tsv"))
    with pytest.raises(InputError, match="expected the name of"):
        ResponseFiles(experiment).voxel_table()


@pytest.mark.parametrize("option", ["trials", "voxels", "split", "responses", "mask"])
def test_a_pipe_is_no_file_of_an_experiment(made, option):
    os.mkfifo(made.path("pipe.npy"))
    value = made.path("pipe.npy") if option in ("voxels", "split") else (made.path("pipe.npy"),)
    with pytest.raises(InputError, match="found a pipe"):
        made.experiment(**{option: value})


def test_subjects_and_datasets_are_named_inside_the_workspace(made):
    workspace = Workspace(made.folder)
    with pytest.raises(InputError, match="expected a label"):
        prepare_table(Target(workspace, "d", ("gabor",)), made.experiment(), "../../01")
    result = prepare_table(
        Target(workspace, "d", ("gabor",)),
        made.experiment(),
        "subject01",
        RunContext(progress=QUIET),
    )
    assert result.subjects[0].folder == made.path("prepared", "d", "sub-01")
