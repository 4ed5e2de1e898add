"""LAION-fMRI's files: trials, splits, voxels, the faults a copy can have, and its bucket."""

from __future__ import annotations

import json
import os
from pathlib import Path

import boto3
import laion_tree as tree
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from moto.server import ThreadedMotoServer

from synbrain_cli.datasets import download, laion_files, s3
from synbrain_cli.datasets.laion import Choice, prepare_subject
from synbrain_cli.datasets.laion_files import LaionCopy, assign_splits
from synbrain_cli.errors import InputError
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.token_store import find_stores

BETAS, TRIALS = laion_files.betas_key(1, 2), laion_files.trials_key(1, 2)
MASK = laion_files.mask_key(1)


@pytest.fixture
def copy(tmp_path) -> LaionCopy:
    root = tmp_path / "laion"
    tree.write_subject(root, 1)
    return LaionCopy(root, tree.write_images(tmp_path / "stimuli"))


def typed(synbrain, copy, workspace, *more):
    return synbrain(
        *("prepare", "laion", "--root", copy.root, "--images", copy.images, "--subject", "1"),
        *("--encoder", "gabor", "--device", "cpu", "-q", "-w", workspace, *more),
    )


# ------------------------------------------------------------------------------ what is read


def test_as_typed(copy, synbrain, tmp_path):
    code, output, error = typed(synbrain, copy, tmp_path, "--no-download")
    assert code == 0, error
    assert "laion/sub-01" in output
    subject = PreparedSubject(tmp_path / "prepared/laion/sub-01")
    assert subject.sessions == [1, 2]
    # Images out of distribution are left out; shared ones are for tests.
    table = subject.trials
    assert not table["image"].str.contains("OOD").any()
    is_shared = table["image"].str.startswith("shared_")
    assert (table["split"] == "test").equals(is_shared)
    assert set(table["split"]) == {"train", "val", "test"}
    assert subject.description.space == "T1w"
    # A model is trained on it, and the same command finds all done.
    code, _, error = synbrain(
        *("train", "--dataset", "laion", "--model", "linear", "--device", "cpu"),
        *("-q", "-w", tmp_path),
    )
    assert code == 0, error
    assert typed(synbrain, copy, tmp_path, "--no-download")[0] == 0


def test_tokens_of_your_own(copy, synbrain, tmp_path):
    names = copy.image_names()
    tokens = np.random.default_rng(0).standard_normal((len(names), 5)).astype(np.float32)
    np.save(tmp_path / "clip.npy", tokens)
    code, _, error = typed(
        synbrain, copy, tmp_path, "--no-download", "--tokens", tmp_path / "clip.npy"
    )
    assert code == 0, error
    stores = find_stores(tmp_path / "prepared/laion")
    assert [store.band.spec for store in stores] == ["gabor", "tokens:clip"]
    assert all(stores[0].digests)
    for image, kept in zip(stores[1].images, stores[1].tokens, strict=True):
        np.testing.assert_array_equal(kept[0], tokens[names.index(image)])


@pytest.mark.parametrize("standardize", ["none", "session"])
def test_every_trial_has_the_responses_of_its_beta_index(copy, tmp_path, standardize):
    choice = Choice(standardize=standardize, split="ood")
    subject = prepare_subject(copy, 1, tmp_path / "prepared/x/sub-01", choice=choice)
    table = subject.trials
    inside = nib.load(copy.root / MASK).get_fdata() > 0
    for session in (1, 2):
        rows = (table["session"] == session).to_numpy()
        betas = tree.truth(session, int(rows.sum()), 1)[inside].T
        if standardize == "session":
            betas = (betas - betas.mean(0)) / betas.std(0)
        np.testing.assert_allclose(subject.betas[rows], betas, atol=1e-5)
        labels = copy.labels(1, session)
        assert table["image"][rows].tolist() == [laion_files.image_name(x) for x in labels]
    written = pd.read_csv(copy.root / TRIALS, sep="\t").sort_values("beta_index")["label"]
    assert copy.labels(1, 2).tolist() == written.tolist()


def test_trials_that_a_split_does_not_name_are_left_out_with_their_betas(copy, tmp_path):
    split = tmp_path / "tau.json"
    train, test = tree.unique(1)[:12], [*tree.unique(1)[12:15], *tree.SHARED[:2]]
    split.write_text(json.dumps({"variants": [{"train_ids": train, "test_ids": test}]}))
    choice = Choice(standardize="none", split=str(split))
    subject = prepare_subject(copy, 1, tmp_path / "prepared/x/sub-01", choice=choice)
    table = subject.trials
    assert set(table["image"]) == {laion_files.image_name(n) for n in (*train, *test)}
    inside = nib.load(copy.root / MASK).get_fdata() > 0
    for session in (1, 2):
        labels = copy.labels(1, session)
        kept = np.isin(labels, [*train, *test])
        expected = tree.truth(session, len(labels), 1)[inside].T[kept]
        found = subject.betas[(table["session"] == session).to_numpy()]
        np.testing.assert_array_equal(found, expected)
    assert set(table.loc[table["split"] == "test", "image"]) == {
        laion_files.image_name(n) for n in test
    }


def test_split_rules():
    labels = np.array([tree.SHARED[0], tree.OOD[0], tree.unique(1)[0]])
    assert assign_splits(labels, "shared")[0].tolist() == ["test", "", "train"]
    assert assign_splits(labels, "ood")[0].tolist() == ["train", "test", "train"]


def test_rois_choose_voxels_and_label_them(copy, tmp_path):
    choice = Choice(rois=("V1",), split="ood")
    subject = prepare_subject(copy, 1, tmp_path / "prepared/x/sub-01", choice=choice)
    roi = nib.load(copy.root / laion_files.rois_prefix(1) / "V1.nii.gz").get_fdata() > 0
    mask = nib.load(copy.root / MASK).get_fdata() > 0
    assert subject.n_voxels == (roi & mask).sum()
    assert set(subject.rois()) == {"V1"}
    whole = prepare_subject(
        copy, 1, tmp_path / "prepared/y/sub-01", choice=Choice(split="ood"), sessions=[2]
    )
    assert whole.n_voxels == mask.sum()
    assert {name: int(m.sum()) for name, m in whole.rois().items()} == {
        "V1": int((roi & mask).sum()),
        "hlvis": int((~roi & mask).sum()),
    }
    assert whole.sessions == [2]


# ----------------------------------------------------------------------------------- faults


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change_table(change):
    def damage(path: Path) -> None:
        table = pd.read_csv(path, sep="\t")
        change(table).to_csv(path, sep="\t", index=False)

    return damage


def other_grid(path: Path) -> None:
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[:-1], image.affine), path)


def moved(path: Path) -> None:
    image = nib.load(path)
    affine = image.affine.copy()
    affine[0, 3] += 5
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), path)


def empty(path: Path) -> None:
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), path)


FAULTS = {
    "no table": (TRIALS, Path.unlink, "trials.tsv"),
    "no label": (TRIALS, change_table(lambda t: t.drop(columns="label")), "label"),
    "row missing": (TRIALS, change_table(lambda t: t.drop(index=5)), "beta_index"),
    "index twice": (TRIALS, change_table(lambda t: t.assign(beta_index=0)), "beta_index"),
    "last row missing": (
        TRIALS,
        change_table(lambda t: t[t["beta_index"] < len(t) - 1]),
        "statmap.nii.gz: expected the",
    ),
    "image elsewhere": (TRIALS, change_table(lambda t: t.assign(label="../x.jpg")), "../x.jpg"),
    "unknown image": (TRIALS, change_table(lambda t: t.assign(label="unique_x.jpg")), "stimuli"),
    "cut betas": (BETAS, cut, "statmap.nii.gz"),
    "betas of another grid": (BETAS, other_grid, "statmap.nii.gz"),
    "betas moved": (BETAS, moved, "statmap.nii.gz"),
    "no mask": (MASK, Path.unlink, "mask.nii.gz"),
    "cut mask": (MASK, cut, "mask.nii.gz"),
    "empty mask": (MASK, empty, "mask.nii.gz"),
    "cut ROI": (f"{laion_files.rois_prefix(1)}/V1.nii.gz", cut, "V1.nii.gz"),
    "ROI moved": (f"{laion_files.rois_prefix(1)}/V1.nii.gz", moved, "V1.nii.gz"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_that_names_the_file(copy, synbrain, tmp_path, fault):
    name, damage, says = FAULTS[fault]
    damage(copy.root / name)
    code, _, error = typed(synbrain, copy, tmp_path, "--no-download")
    assert code == 1
    (line,) = error.strip().splitlines()
    assert says in line


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "tau.json"),
        ("{}", "tau.json"),
        ('{"variants": []}', "tau.json"),
        ('{"variants": [{"train_ids": ["a"], "test_ids": []}]}', "test_ids"),
        ('{"variants": [{"train_ids": ["a"], "test_ids": [3]}]}', "test_ids"),
        ('{"variants": [{"train_ids": ["a"], "test_ids": ["a"]}]}', "a is in train_ids and in"),
        (
            '{"variants": [{"train_ids": ["a"], "test_ids": ["b"]}]}',
            "tau.json: none of its",
        ),
    ],
)
def test_splits_that_are_none(copy, synbrain, tmp_path, content, says):
    (tmp_path / "tau.json").write_text(content)
    code, _, error = typed(
        synbrain, copy, tmp_path, "--no-download", "--split", tmp_path / "tau.json"
    )
    assert code == 1
    (line,) = error.strip().splitlines()
    assert says in line


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--sessions", "3"), "ses-03"),
        (("--sessions", "1,1"), "twice"),
        (("--roi", "FFA"), "there are V1, hlvis"),
        (("--split", "tau"), "sub-01/tau.json"),
        (("--subject", "3"), "sub-03"),
    ],
)
def test_what_there_is_not(copy, synbrain, tmp_path, options, says):
    more = options if options[0] != "--subject" else ()
    subject = ("--subject", "3") if not more else ("--subject", "1")
    code, _, error = synbrain(
        *("prepare", "laion", "--root", copy.root, "--images", copy.images, *subject, *more),
        *("--no-download", "--encoder", "gabor", "-q", "-w", tmp_path),
    )
    assert code == 1
    assert says in error


def test_images_are_asked_for_before_betas_are_read(copy, synbrain, tmp_path):
    (copy.images / tree.unique(1)[3]).unlink()
    cut(copy.root / BETAS)
    code, _, error = typed(synbrain, copy, tmp_path, "--no-download")
    assert code == 1
    assert f"no {tree.unique(1)[3]} there" in error
    assert laion_files.AGREEMENT in error


def test_two_images_of_one_name(copy):
    with pytest.raises(InputError, match="one name"):
        copy.require_images(["a.jpg", "a.png"])


# ----------------------------------------------------------------------------------- bucket


def owner_of(url: str):
    return boto3.client(
        "s3",
        endpoint_url=url,
        region_name=laion_files.REGION,
        aws_access_key_id="owner",
        aws_secret_access_key="secret",
    )


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """The public bucket, an S3 server on loopback, with sessions that cannot be read."""
    root = tmp_path / "there"
    tree.write_subject(root, 1, n_sessions=2)
    tree.write_subject(root, 3, n_sessions=1)
    held_out = root / laion_files.betas_key(1, 31)
    held_out.parent.mkdir(parents=True)
    held_out.write_bytes(b"held out")
    more = root / laion_files.session_key(1, 1, "space-T1w_desc-GLMsingle_model.h5")
    more.write_bytes(b"not needed")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    owner = owner_of(f"http://{host}:{port}")
    owner.create_bucket(
        Bucket=laion_files.BUCKET,
        ACL="public-read",
        CreateBucketConfiguration={"LocationConstraint": laion_files.REGION},
    )
    keys = [p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()]
    for key in keys:
        acl = "private" if "ses-31" in key else "public-read"
        body = (root / key).read_bytes()
        owner.put_object(Bucket=laion_files.BUCKET, Key=key, Body=body, ACL=acl)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://{host}:{port}")
    for variable in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(variable, "/nonexistent")
    monkeypatch.setattr(download, "BACKOFF", 0)
    monkeypatch.setattr(s3, "CALL_RETRIES", 0)
    yield root
    for key in keys:
        owner.delete_object(Bucket=laion_files.BUCKET, Key=key)
    owner.delete_bucket(Bucket=laion_files.BUCKET)
    server.stop()


def test_from_nothing_to_a_prepared_subject(bucket, synbrain, tmp_path):
    images = tree.write_images(tmp_path / "stimuli", (1, 3))
    arguments = (
        *("prepare", "laion", "--images", images, "--subject", "1", "--encoder", "gabor"),
        *("--device", "cpu", "-w", tmp_path),
    )
    code, output, error = synbrain(*arguments)
    assert code == 0, error
    assert "laion/sub-01" in output
    for part in ("sub-01: mask, ROIs, trials", "sub-01: betas", "downloaded and verified"):
        assert part in error
    root = tmp_path / "laion"
    here = {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}
    assert laion_files.betas_key(1, 2) in here
    assert not any("ses-31" in name or "sub-03" in name or name.endswith(".h5") for name in here)
    for name in here:
        assert (root / name).read_bytes() == (bucket / name).read_bytes()
    # With all there, no connection is made.
    assert synbrain(*arguments, "--no-download")[0] == 0
    code, _, error = synbrain(*arguments, "--sessions", "31", "--dataset", "more")
    assert code == 1
    assert "sessions 31 to 34 are held out" in error
    # A file that was lost since is fetched again.
    (root / TRIALS).unlink()
    code, _, error = synbrain(*arguments, "--dataset", "again")
    assert code == 0, error
    assert f"{root / TRIALS} is not there" in error


def test_a_download_that_failed_goes_on(bucket, synbrain, tmp_path):
    """A copy without its last session looks like a choice of sessions: that it is not is noted."""
    images, root = tree.write_images(tmp_path / "stimuli"), tmp_path / "laion"
    owner = owner_of(os.environ["AWS_ENDPOINT_URL_S3"])
    last = {"Bucket": laion_files.BUCKET, "Key": BETAS, "Body": (bucket / BETAS).read_bytes()}
    arguments = (
        *("prepare", "laion", "--images", images, "--subject", "1", "--encoder", "gabor"),
        *("--device", "cpu", "-w", tmp_path),
    )
    owner.put_object(**last, ACL="private")
    code, _, error = synbrain(*arguments)
    assert code == 1
    assert "403" in error.splitlines()[-1]
    for path in bucket.rglob("sub-01*"):  # come by then, but for the last session's betas
        key = path.relative_to(bucket)
        if path.is_file() and "ses-31" not in str(key) and str(key) != BETAS:
            (root / key).parent.mkdir(parents=True, exist_ok=True)
            (root / key).write_bytes(path.read_bytes())
    owner.put_object(**last, ACL="public-read")
    code, _, error = synbrain(*arguments)
    assert code == 0, error
    assert "was interrupted" in error
    assert PreparedSubject(tmp_path / "prepared/laion/sub-01").sessions == [1, 2]
    assert not list(root.glob(".synbrain*"))


def test_a_subject_that_the_bucket_has_not(bucket, synbrain, tmp_path):
    images = tree.write_images(tmp_path / "stimuli")
    code, _, error = synbrain(
        *("prepare", "laion", "--images", images, "--subject", "2", "--encoder", "gabor"),
        *("-q", "-w", tmp_path),
    )
    assert code == 1
    assert "LAION-fMRI has the subjects 1, 3, 5, 6, 7" in error
