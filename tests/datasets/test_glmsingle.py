"""Whatever GLMsingle left behind becomes a prepared subject, with every trial in its place."""

from __future__ import annotations

import os
import pickle
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import scipy.io
from conftest import QUIET
from listening import Listening
from PIL import Image
from typer.testing import CliRunner

from synbrain_cli import cli, load_model
from synbrain_cli.datasets.glmsingle import TYPES, Fits, FitTrials, prepare_fits
from synbrain_cli.errors import InputError, MissingError, SynbrainError
from synbrain_cli.io.glmsingle import GLMsingleDesign, GLMsingleFit
from synbrain_cli.io.pickled import PickledDict
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.metrics.noise_ceiling import ncsnr
from synbrain_cli.pipeline.prepare import prepare_glmsingle
from synbrain_cli.pipeline.preparing import Target
from synbrain_cli.pipeline.train import TrainSettings, train
from synbrain_cli.plotting.report.preparations import preparations_section
from synbrain_cli.plotting.sources.preparations import (
    noise_table,
    other_preparations,
    preparation_of,
)
from synbrain_cli.run import RunContext

N_IMAGES, N_SESSIONS, N_RUNS, GRID = 20, 2, 3, (5, 4, 3)
PER_RUN = 14  # trials, two of which show no image
BLANK = N_IMAGES  # condition
NAMES = [f"img{i:02d}" for i in range(N_IMAGES)]
KINDS = ("npy", "hdf5", "mat73", "mat5")
LAYOUTS = ("grid", "voxels", "flat")
SHARES = {"test_share": 0.3, "validation_share": 0.3}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stimuli")
    for seed, name in enumerate(NAMES):
        pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def matlab73(path, content):
    """A file as ``save -v7.3`` writes it: axes reversed, cells as references."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in content.items():
            if isinstance(value, list):
                refs = []
                for k, one in enumerate(value):
                    file[f"#refs#/{name}{k}"] = np.asarray(one).T
                    refs.append(file[f"#refs#/{name}{k}"].ref)
                file.create_dataset(name, data=np.array(refs, h5py.ref_dtype)[:, None])
                file[name].attrs["MATLAB_class"] = np.bytes_("cell")
                continue
            if isinstance(value, dict):
                for key, inner in value.items():
                    file[f"{name}/{key}"] = np.atleast_2d(inner).T
                continue
            array = np.atleast_2d(value)
            if array.dtype == bool:
                array = array.astype(np.uint8)
            file[name] = array.T
            file[name].attrs["MATLAB_class"] = np.bytes_("single")
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")


@dataclass
class Made:
    """GLMsingle's output for several sessions, in any of its forms."""

    folder: Path
    images: Path
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(2))
    mask: np.ndarray = None
    order: np.ndarray = None  # condition of each trial of all sessions
    betas: np.ndarray = None  # (n_trials, x, y, z)

    def __post_init__(self):
        n = N_SESSIONS * N_RUNS * PER_RUN
        self.mask = self.rng.random(GRID) < 0.5
        shown = np.resize(self.rng.permutation(N_IMAGES), N_SESSIONS * N_RUNS * (PER_RUN - 2))
        self.order = np.insert(
            self.rng.permutation(shown), np.arange(0, len(shown), (PER_RUN - 2) // 2), BLANK
        )
        assert len(self.order) == n
        signal = self.rng.normal(size=(N_IMAGES + 1, *GRID))
        self.betas = (1.5 * signal[self.order] + self.rng.normal(size=(n, *GRID))).astype("f4")
        self.maps = {
            "R2": self.rng.uniform(0, 60, GRID).astype("f4"),
            "FRACvalue": self.rng.uniform(0, 1, GRID).astype("f4"),
            "HRFindex": self.rng.integers(1, 21, GRID).astype(float),
            "noisepool": self.rng.random(GRID) < 0.3,
        }
        nib.save(nib.Nifti1Image(self.mask.astype("u1"), np.diag([-2, 2, 2, 1.0])), self.mask_file)
        table = pd.DataFrame({"image": [*(f"{n}.png" for n in NAMES), "n/a"]})
        table.to_csv(self.folder / "conditions.tsv", sep="\t", index=False)

    @property
    def mask_file(self):
        return self.folder / "mask.nii.gz"

    def write(self, kind="npy", layout="grid", joined=False, types=("typed",), noise=0.0):
        """Folders of the sessions, or one of all of them."""
        per = len(self.order) // N_SESSIONS
        parts = [slice(0, None)] if joined else [slice(k * per, (k + 1) * per) for k in range(2)]
        folders = []
        for k, part in enumerate(parts):
            folder = self.folder / f"{kind}-{layout}-{'all' if joined else k}"
            folder.mkdir(exist_ok=True)
            folders.append(folder)
            for step, name in enumerate(types):
                betas = np.moveaxis(self.betas[part], 0, -1)
                betas = betas + noise * step * self.rng.normal(size=betas.shape).astype("f4")
                self._write_fit(folder / TYPES[name], kind, layout, betas, k)
            self._write_design(folder, kind, self.order[part], joined)
        return tuple(folders)

    def laid_out(self, values, kind, layout):
        """Values on the grid as a layout has them."""
        rest = values.shape[3:]
        order = "F" if kind.startswith("mat") else "C"
        if layout == "grid":
            return values
        if layout == "voxels":  # of the mask
            flat = np.stack([values[..., i].ravel(order) for i in range(rest[0])], 1) if rest else (
                values.ravel(order)[:, None]
            )  # fmt: skip
            flat = flat[self.mask.ravel(order)]
        else:
            flat = values.reshape(-1, *rest, order=order)
            flat = flat if rest else flat[:, None]
        return flat if layout == "flat" else flat.reshape(len(flat), 1, 1, -1)

    def _write_fit(self, stem, kind, layout, betas, session):
        maps = {name: self.laid_out(values, kind, layout) for name, values in self.maps.items()}
        runs = np.stack([self.maps["HRFindex"]] * (N_RUNS - 1) + [np.zeros(GRID)], -1)
        maps["HRFindexrun"] = self.laid_out(runs, kind, layout)
        name = "modelmd" if kind.startswith("mat") else "betasmd"
        content = {**maps, name: self.laid_out(betas, kind, layout), "pcnum": 3}
        if kind == "npy":
            content |= {"glmbadness": None, "pcregressors": [np.ones((4, 2)), np.ones((3, 2))]}
            np.save(f"{stem}.npy", content)
        elif kind == "hdf5":
            with h5py.File(f"{stem}.hdf5", "w") as file:
                for key, value in content.items():
                    file[key] = value
                file["glmbadness"] = h5py.Empty("f")
        elif kind == "mat73":
            matlab73(Path(f"{stem}.mat"), content)
        else:
            scipy.io.savemat(f"{stem}.mat", content, do_compression=True)

    def _write_design(self, folder, kind, order, joined):
        n_runs = len(order) // PER_RUN
        design = []
        for run in range(n_runs):
            matrix = np.zeros((3 * PER_RUN, N_IMAGES + 1), "f4")
            matrix[np.arange(0, 3 * PER_RUN, 3), order[run * PER_RUN : (run + 1) * PER_RUN]] = 1
            design.append(matrix)
        counts = np.bincount(order, minlength=N_IMAGES + 1)
        indicator = np.repeat(np.arange(1, n_runs // N_RUNS + 1), N_RUNS)
        content = {"stimdur": 3.0, "tr": 1.5, "design": design}
        if kind.startswith("mat"):
            content |= {"stimorder": order[None] + 1.0, "condcounts": counts[None] * 1.0}
            content |= {"numtrialrun": np.full((1, n_runs), PER_RUN) * 1.0}
            content |= {"opt": {"sessionindicator": indicator[None] * 1.0, "wantpercentbold": 1.0}}
            if kind == "mat73":
                matlab73(folder / "DESIGNINFO.mat", content)
            else:
                scipy.io.savemat(folder / "DESIGNINFO.mat", content)
            return
        content |= {"stimorder": list(order), "condcounts": list(counts)}
        content |= {"numtrialrun": [PER_RUN] * n_runs}
        content["params"] = {
            "sessionindicator": indicator[None],
            "wantpercentbold": 1,
            "fracs": np.linspace(1, 0.05, 20),
            "hrfmodel": "optimise",
            "brainexclude": False,
        }
        np.save(folder / "DESIGNINFO.npy", content, allow_pickle=True)

    def fits(self, sources, **options):
        given = {"conditions": (self.folder / "conditions.tsv",), "images": self.images}
        given |= {"mask": self.mask_file, **SHARES, **options}
        return Fits(sources=sources, **given)

    def prepare(self, sources, name="sub-01", **options):
        return prepare_fits(self.fits(sources, **options), "01", self.folder / f"p/d/{name}")


@pytest.fixture
def made(tmp_path, images):
    return Made(tmp_path, images)


def as_recorded(subject):
    with np.load(subject.folder / "standardization.npz") as file:
        row = np.searchsorted(file["sessions"], subject.trials["session"])
        return subject.betas * file["sd"][row] + file["mean"][row]


def assert_is(subject, made, n_sessions=N_SESSIONS):
    """Every trial with an image has its betas, its image and its session; maps are in place."""
    shown = made.order != BLANK
    np.testing.assert_allclose(as_recorded(subject), made.betas[shown][:, made.mask], atol=2e-5)
    assert subject.trials["image"].tolist() == [NAMES[i] for i in made.order[shown]]
    per = shown.sum() // N_SESSIONS
    expected = np.repeat(np.arange(1, N_SESSIONS + 1), per) if n_sessions > 1 else 1
    assert (subject.trials["session"] == expected).all()
    for name in ("R2", "FRACvalue", "HRFindex", "noisepool"):
        np.testing.assert_allclose(
            subject.voxels[name], made.maps[name][made.mask].astype(float), rtol=1e-4
        )
    np.testing.assert_allclose(subject.voxels["HRF_agreement"], (N_RUNS - 1) / N_RUNS, rtol=1e-4)
    assert subject.description.unit_before_standardization == "percent signal change"
    positions = subject.voxels[["i", "j", "k"]].to_numpy()
    np.testing.assert_array_equal(positions, np.argwhere(made.mask))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_form_comes_to_the_same(kind, layout, made):
    assert_is(made.prepare(made.write(kind, layout)), made)


@pytest.mark.parametrize("kind", ["npy", "hdf5", "mat73"])
def test_all_sessions_in_one_file(kind, made):
    """Sessions are those of the runs, as sessionindicator says."""
    assert_is(made.prepare(made.write(kind, joined=True)), made)


def test_cells_of_older_matlab_files_are_not_read(made):
    """All runs are then one session."""
    assert_is(made.prepare(made.write("mat5", joined=True)), made, n_sessions=1)


def test_output_files_are_taken_as_their_folders(made):
    folders = made.write("npy", types=("typeb", "typed"))
    files = tuple(folder / "TYPEB_FITHRF.npy" for folder in folders)
    subject = made.prepare(files)
    assert preparation_of(subject) == "TYPEB_FITHRF"
    assert_is(subject, made)
    with pytest.raises(InputError, match=r"expected TYPED_.* \(--preparation typed\)"):
        made.fits(files, kind="typed")


def test_the_last_version_that_all_folders_have(made):
    first, second = made.write("npy", types=("typeb", "typed"))
    assert made.fits((first, second)).preparation == TYPES["typed"]
    (second / "TYPED_FITHRF_GLMDENOISE_RR.npy").unlink()
    fits = made.fits((first, second))
    assert (fits.kinds, fits.preparation) == (("typeb",), TYPES["typeb"])
    with pytest.raises(MissingError, match=r"expected TYPED_.* found DESIGNINFO.npy, TYPEB_FITHRF"):
        made.fits((first, second), kind="typed")


def test_ncsnr_is_that_of_the_trials(made):
    subject = made.prepare(made.write())
    z = subject.betas.astype(np.float64)
    expected = ncsnr(z, subject.trials["image"].to_numpy(str))
    np.testing.assert_allclose(subject.voxels["ncsnr"], expected, rtol=1e-3)


def test_without_a_mask_of_data_without_a_grid(made):
    subject = made.prepare(made.write("npy", "voxels"), mask=None)
    shown = made.order != BLANK
    np.testing.assert_allclose(as_recorded(subject), made.betas[shown][:, made.mask], atol=2e-5)
    assert "i" not in subject.voxels
    with pytest.raises(InputError, match=r"betas on a grid \(5, 4, 3\) need a mask"):
        made.prepare(made.write("npy"), "sub-02", mask=None)


def test_regions_and_conditions_in_another_order(made):
    roi = made.mask & (np.arange(GRID[0]) < 3)[:, None, None]
    nib.save(nib.Nifti1Image(roi.astype("u1"), np.diag([-2, 2, 2, 1.0])), made.folder / "v.nii.gz")
    table = pd.read_csv(made.folder / "conditions.tsv", sep="\t", keep_default_na=False)
    table["condition"] = np.arange(1, len(table) + 1)
    table.sample(frac=1, random_state=0).to_csv(
        made.folder / "conditions.tsv", sep="\t", index=False
    )
    subject = made.prepare(made.write(), rois=(("V1", made.folder / "v.nii.gz"),))
    assert_is(subject, made)
    np.testing.assert_array_equal(subject.voxels["V1"] == "V1", roi[made.mask])


@pytest.mark.parametrize("with_blanks", [True, False])
@pytest.mark.parametrize("with_design", [True, False])
def test_images_by_tables_of_trials(with_blanks, with_design, made):
    """As BIDS has events: rows of other kinds have no image. Designs may have blanks."""
    if not with_blanks:
        keep = made.order != BLANK
        made.order, made.betas = made.order[keep], made.betas[keep]
    tables = []
    for k, part in enumerate(np.array_split(made.order, N_SESSIONS)):
        shown = ["n/a" if c == BLANK else f"stim/{NAMES[c]}.png" for c in part]
        rows = pd.DataFrame({"onset": np.arange(len(part)), "stim_file": shown})
        if not with_blanks:  # a button press
            rows = pd.concat([rows, pd.DataFrame({"onset": [1], "stim_file": ["n/a"]})])
        tables.append(made.folder / f"run-{k}_events.tsv")
        rows.to_csv(tables[-1], sep="\t", index=False)
    global PER_RUN
    whole, PER_RUN = PER_RUN, len(made.order) // N_SESSIONS // N_RUNS
    try:
        folders = made.write()
    finally:
        PER_RUN = whole
    for folder in folders:
        if not with_design:
            (folder / "DESIGNINFO.npy").unlink()
    subject = made.prepare(folders, conditions=(), trials=tuple(tables))
    assert_is(subject, made)


@pytest.mark.parametrize("by", ["conditions", "trials"])
def test_image_column_groups_and_splits_of_the_tables(by, made):
    """A column of another name; images of a group, or of a split, stay together."""
    names = [f"{n}.png" for n in NAMES] + ["n/a"]
    pair = {name: f"pair{i // 2}" for i, name in enumerate(names)}
    table = pd.DataFrame({"shown": names})
    if by == "trials":
        table = pd.DataFrame({"shown": [names[k] for k in made.order]})
    path = made.folder / f"{by}_of_pairs.tsv"
    table.assign(group=table["shown"].map(pair)).to_csv(path, sep="\t", index=False)
    given = {"conditions": (), "image_column": "shown", by: (path,)}
    subject = made.prepare(made.write(), **given)
    groups = subject.trials.groupby("group")
    assert len(groups) == N_IMAGES // 2
    assert (groups["image"].nunique() == 2).all()
    assert (groups["split"].nunique() == 1).all()
    table["split"] = ["test" if int(pair[n][4:]) < 4 else "train" for n in table["shown"]]
    table.to_csv(path, sep="\t", index=False)
    subject = made.prepare(made.write(), "sub-02", **given)
    tested = set(subject.trials.loc[subject.trials["split"] == "test", "image"])
    assert tested == set(NAMES[:8])


def test_memory_is_of_one_session(made, monkeypatch):
    """Files of other sessions are closed, whatever their number."""
    opened: list[int] = []
    folders = made.write("mat5")
    fits = made.fits(folders)
    table = FitTrials.of(fits)
    read = GLMsingleFit.read

    def watched(self, *arguments):
        opened.append(sum("_opened" in fit.__dict__ for fit in table.opened))
        return read(self, *arguments)

    monkeypatch.setattr(GLMsingleFit, "read", watched)
    monkeypatch.setattr(FitTrials, "of", classmethod(lambda cls, given: table))
    prepare_fits(fits, "01", made.folder / "p/d/sub-01")
    assert opened == [0] * N_SESSIONS


def test_parts_of_large_files_are_read_alike(made, monkeypatch):
    monkeypatch.setattr("synbrain_cli.io.glmsingle._BLOCK", 256)
    for kind in KINDS:
        for layout in LAYOUTS:
            assert_is(made.prepare(made.write(kind, layout), f"sub-{kind}{layout}"), made)


# --------------------------------------------------------------------------- hostile files


class Runs:
    """Would run a command when it is unpickled."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


class Rebuilt:
    """An object of a class of its own."""


@pytest.mark.parametrize("where", ["betasmd", "R2", "extra", "inside", "key"])
@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda mark: Runs(os.system, f"touch {mark}"), "system"),
        (lambda mark: Runs(eval, f"open({str(mark)!r}, 'w')"), "eval"),
        (lambda mark: Runs(Path.touch, mark), "Path"),
        (lambda mark: Runs(getattr, "text", "upper"), "getattr"),
        (lambda mark: Rebuilt(), "Rebuilt"),
    ],
)
def test_nothing_in_a_file_is_run(where, call, named, made):
    (folder, _) = made.write()
    mark = made.folder / "ran"
    content = np.load(folder / "TYPED_FITHRF_GLMDENOISE_RR.npy", allow_pickle=True).item()
    hostile = call(mark)
    if where == "inside":
        content["pcregressors"] = [np.ones(3), {"deep": [hostile]}]
    elif where == "key":
        content[("a", hostile)] = 1
    else:
        content[where] = hostile
    np.save(folder / "TYPED_FITHRF_GLMDENOISE_RR.npy", content)
    with pytest.raises(InputError, match=rf"text alone, found .*{named}.* was run") as e:
        made.prepare((folder,))
    assert "\n" not in str(e.value)
    assert not mark.exists()


@pytest.mark.parametrize(
    "state",
    [
        (3, "<", None, None, None, -1, -1, 0, 0),
        (3, "<", None, ("a", "b"), {"a": 1}, 10**9, 1, 16),
        (1, "<"),
        ("x",),
    ],
)
@pytest.mark.parametrize("kind", ["O8", "V99999", "f4", "U4", "f3"])
def test_types_and_shapes_that_numpy_would_trust(state, kind, tmp_path):
    """The state of a dtype may claim anything: nothing but numbers of known sizes is rebuilt."""

    class Type:
        def __reduce__(self):
            return np.dtype, (kind if kind[0] != "f" or kind == "f4" else "f4", False, True), state

    class Array:
        def __reduce__(self):
            reconstruct = np.ones(1).__reduce__()[0]
            return reconstruct, (np.ndarray, (0,), b"b"), (1, (10**6,), Type(), False, b"abcd")

    np.save(tmp_path / "x.npy", {"betasmd": Array()})
    with pytest.raises(SynbrainError, match=r"x\.npy"):
        GLMsingleFit(tmp_path / "x.npy").n_trials  # noqa: B018


def test_every_protocol_of_pickles(tmp_path):
    values = np.random.default_rng(0).normal(size=(30, 20, 50)).astype("f4")
    for protocol in (2, 3, 4):  # np.save writes 3 or 4
        array = np.array({"x": values, "n": np.int32(4), "s": "text"}, object)
        with (tmp_path / "x.npy").open("wb") as file:
            header = np.lib.format.header_data_from_array_1_0(array)
            np.lib.format.write_array_header_1_0(file, header)
            pickle.dump(array, file, protocol=protocol)
        read = PickledDict(tmp_path / "x.npy", "a file")
        np.testing.assert_array_equal(read.array("x"), values)
        assert read.array("n") == 4


def test_large_arrays_stay_on_the_disk(made):
    values = np.random.default_rng(0).normal(size=(40, 30, 50))
    np.save(made.folder / "x.npy", {"c": values, "f": np.asfortranarray(values), "small": [1, 2]})
    read = PickledDict(made.folder / "x.npy", "a file")
    for name in "cf":
        assert isinstance(read.array(name), np.memmap)
        np.testing.assert_array_equal(read.array(name), values)


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_files_are_named(kind, made):
    folders = made.write(kind)
    path = next(folders[0].glob("TYPED*"))
    whole = path.read_bytes()
    for n in (0, 7, 130, len(whole) // 2, len(whole) - 70):
        path.write_bytes(whole[:n])
        with pytest.raises(SynbrainError, match=path.name):
            made.prepare(folders)
    path.write_bytes(whole)
    assert_is(made.prepare(folders), made)


# ------------------------------------------------------------------------------- one line


def change(folder, **values):
    path = folder / "DESIGNINFO.npy"
    content = np.load(path, allow_pickle=True).item() | values
    np.save(path, {k: v for k, v in content.items() if v is not None})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stimorder": [0, 1, 2]}, "condcounts that are not those of stimorder"),
        ({"stimorder": None}, "expected stimorder, the condition of each trial"),
        ({"numtrialrun": [3, 3]}, "6 trials in numtrialrun and 42 in stimorder"),
        ({"design": [np.eye(N_IMAGES + 1)]}, "a stimorder that is not that of the design matrices"),
        ({"stimorder": [-1] * 42}, "conditions of stimorder from -1 to -1"),
        ({"stimorder": [0.5] * 42}, "stimorder holds numbers that are not whole"),
        (
            {"params": {"sessionindicator": np.array([1, 2])}},
            "a session for each of the 3 runs in sessionindicator, found 2",
        ),
    ],
)
def test_designs_that_contradict_themselves(values, message, made):
    folders = made.write()
    change(folders[0], **values)
    with pytest.raises(InputError, match=message) as error:
        made.prepare(folders)
    assert "DESIGNINFO.npy" in str(error.value)


def test_designs_of_both_programs_are_one(made):
    """Python counts conditions from 0, MATLAB from 1."""
    found = []
    for kind in KINDS:
        path = next(made.write(kind, joined=True)[0].glob("DESIGNINFO*"))
        found.append(GLMsingleDesign.read(path))
    for design in found:
        np.testing.assert_array_equal(design.conditions, made.order)
        assert design.n_conditions == N_IMAGES + 1


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda m, f: (f[0] / "DESIGNINFO.npy").unlink(), "expected DESIGNINFO.npy or .mat"),
        (
            lambda m, f: (
                shutil.copy(f[1] / "DESIGNINFO.npy", f[0])
                and change(f[0], stimorder=[0], condcounts=None, numtrialrun=None, design=None)
            ),
            "expected the 1 trials of .*, found 42: they are of different fits",
        ),
        (
            lambda m, f: (m.folder / "conditions.tsv").write_text("image\nimg00\nimg01\n"),
            "image of each of the 21 conditions of .*, found 2 rows, none of condition 3",
        ),
        (
            lambda m, f: (m.folder / "conditions.tsv").write_text("name\nimg00\n"),
            "expected the column image",
        ),
        (
            lambda m, f: nib.save(
                nib.Nifti1Image(np.ones((4, 4, 4), "u1"), np.eye(4)), m.mask_file
            ),
            r"expected betas on the grid \(4, 4, 4\) of .*mask.nii.gz, .* found \(5, 4, 3\)",
        ),
        (
            lambda m, f: np.save(f[0] / "TYPED_FITHRF_GLMDENOISE_RR.npy", {"R2": np.ones(3)}),
            "expected single-trial betas, betasmd .* found R2",
        ),
        (
            lambda m, f: np.save(f[0] / "TYPED_FITHRF_GLMDENOISE_RR.npy", np.ones((3, 4))),
            "truncated or damaged, or not output of GLMsingle",
        ),
        (
            lambda m, f: shutil.copy(f[1] / "TYPED_FITHRF_GLMDENOISE_RR.npy", f[0]),
            "the same betas as session",
        ),
    ],
)
def test_faults_are_said_in_a_line(spoil, message, made):
    folders = made.write()
    spoil(made, folders)
    with pytest.raises(SynbrainError, match=message) as error:
        made.prepare(folders)
    assert "\n" not in str(error.value)


def test_options_that_do_not_go_together(made):
    folders = made.write()
    table = made.folder / "conditions.tsv"
    for options, message in (
        ({"conditions": ()}, "found neither"),
        ({"trials": (table,)}, "found both"),
        ({"conditions": (table,) * 3}, "one for each of the 2 sources, found 3"),
        ({"kind": "typea"}, "type A has no single trials"),
        ({"rois": (("R2", made.mask_file),)}, "--roi R2: the name is taken"),
        ({"mask": None, "rois": (("V1", made.mask_file),)}, "--roi V1: only with --mask"),
    ):
        with pytest.raises(InputError, match=message):
            made.fits(folders, **options)
    with pytest.raises(InputError, match="is given twice"):
        made.fits((folders[0], folders[0]))
    with pytest.raises(MissingError, match="does not exist"):
        made.fits((made.folder / "nothing",))


# ------------------------------------------------------------------- versions side by side


def test_two_versions_are_compared(made, tmp_path):
    """More noise in one of two versions is seen in its ncsnr, in all voxels and by region."""
    made.mask = np.ones(GRID, bool)
    nib.save(nib.Nifti1Image(made.mask.astype("u1"), np.eye(4)), made.mask_file)
    roi = (np.arange(GRID[0]) < 3)[:, None, None] & made.mask
    nib.save(nib.Nifti1Image(roi.astype("u1"), np.eye(4)), made.folder / "v.nii.gz")
    folders = made.write(types=("typed", "typeb"), noise=3.0)
    arguments = ["prepare", "glmsingle", *map(str, folders), "--images", str(made.images)]
    arguments += [
        "--conditions",
        str(made.folder / "conditions.tsv"),
        "--mask",
        str(made.mask_file),
    ]
    arguments += ["--dataset", "mine", "-s", "1", "--encoder", "gabor", "--test", "0.3"]
    arguments += ["--validation", "0.3", "--roi", f"V1={made.folder}/v.nii.gz", "-w", str(tmp_path)]
    done = CliRunner().invoke(cli.app, [*arguments, "--preparation", "typeb,typed"])
    assert done.exit_code == 0, done.output
    assert "TYPED_FITHRF_GLMDENOISE_RR: regularised across trials by ridge" in done.output
    assert "sub-01: ncsnr from repeats, median over voxels (quartiles)" in done.output
    assert "V1 (36)" in done.output
    workspace = Workspace(tmp_path)
    b, d = (workspace.find_subject("1", f"mine_{kind}", QUIET.info) for kind in ("typeb", "typed"))
    assert [one.folder for one in other_preparations(workspace, b)] == [d.folder]
    table = noise_table([b, d]).set_index("region")
    assert table.index.tolist() == ["all voxels", "V1"]
    for region, mask in (("all voxels", made.mask), ("V1", roi)):
        for one in (b, d):
            own = one.voxels["ncsnr"].to_numpy()[mask.ravel()]
            assert table.loc[region, f"{preparation_of(one)} median"] == pytest.approx(
                np.median(own), rel=1e-3
            )
    assert (table["TYPEB_FITHRF median"] < table["TYPED_FITHRF_GLMDENOISE_RR median"]).all()
    stores = [workspace.find_tokens(f"mine_{k}", None, QUIET.info) for k in ("typeb", "typed")]
    files = [store.stores[0].folder / "tokens.npy" for store in stores]
    assert files[0].samefile(files[1])  # extracted once
    done = CliRunner().invoke(cli.app, [*arguments, "--preparation", "typeb,typeb"])
    assert done.exit_code == 1
    # The report of a model of either shows the same table.
    run = RunContext(progress=QUIET)
    model = train(workspace, d, stores[1], TrainSettings("linear"), run).folder
    (shown,) = preparations_section(workspace, load_model(model, "cpu")).blocks
    assert shown.header[1:] == ["TYPED_FITHRF_GLMDENOISE_RR", "TYPEB_FITHRF"]
    assert [row[0] for row in shown.rows] == ["all voxels (60)", "V1 (36)"]
    shutil.rmtree(b.folder.parent)
    assert not preparations_section(workspace, load_model(model, "cpu")).blocks


def test_the_same_command_keeps_what_is_there(made, tmp_path):
    target = Target(Workspace(tmp_path / "w"), "mine", ("gabor",))
    (tmp_path / "w").mkdir()
    said = Listening()
    run = RunContext(progress=said)
    folders = made.write()
    prepare_glmsingle(target, made.fits(folders), "1", run)
    assert any("ridge regression" in line for line in said.messages)
    prepare_glmsingle(target, made.fits(folders), "1", run)
    assert any("already prepared" in line for line in said.messages)
    with pytest.raises(InputError, match="prepared with other options"):
        prepare_glmsingle(target, made.fits(folders, test_share=0.2), "1", run)
