"""`synbrain prepare nsd` as typed by somebody who has only accepted the terms.

The bucket is real S3 (moto's server on loopback) with NSD's names and layout; what lies in it is a
simulated subject.
"""

from __future__ import annotations

import json
import shutil

import boto3
import numpy as np
import pytest
from moto.server import ThreadedMotoServer
from nsd_tree import write_stimulus_table, write_surfaces

from synbrain_cli.datasets import download, nsd_bucket, nsd_synthetic, s3
from synbrain_cli.datasets.nsd_choice import Choice
from synbrain_cli.datasets.nsd_files import DESIGN, NSD, STIMULI
from synbrain_cli.pipeline import downloading

BETAS = "nsddata_betas/ppdata/subj01/func1pt8mm/betas_fithrf_GLMdenoise_RR"
SESSION = f"{BETAS}/betas_session02.nii.gz"


@pytest.fixture(scope="module")
def bucket(artificial, tmp_path_factory):
    """The public bucket: a simulated folder, and files beside it that nobody needs."""
    root = tmp_path_factory.mktemp("bucket") / "nsd"
    nsd = NSD(shutil.copytree(artificial.root / "simulated", root))
    write_stimulus_table(nsd)
    write_surfaces(nsd, 2)
    shutil.rmtree(root / "truth")
    (root / "dataset_description.json").unlink()
    for name in ("meanbeta.nii.gz", "R2_session01.nii.gz", "betas_session01.hdf5"):
        (root / BETAS / name).write_bytes(b"not needed")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    owner = boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-2",
        aws_access_key_id="owner",
        aws_secret_access_key="secret",
    )
    owner.create_bucket(
        Bucket=s3.BUCKET,
        ACL="public-read",
        CreateBucketConfiguration={"LocationConstraint": "us-east-2"},
    )
    owner.local_files = {}
    for path in sorted(root.rglob("*")):
        if path.is_file():
            key = path.relative_to(root).as_posix()
            owner.local_files[key] = path.read_bytes()
            owner.put_object(
                Bucket=s3.BUCKET, Key=key, Body=owner.local_files[key], ACL="public-read"
            )
    owner.url = url
    yield owner
    # moto's buckets outlive its server in this process.
    for key in owner.local_files:
        owner.delete_object(Bucket=s3.BUCKET, Key=key)
    owner.delete_bucket(Bucket=s3.BUCKET)
    server.stop()


@pytest.fixture
def online(bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", bucket.url)
    for variable in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(variable, "/nonexistent")
    monkeypatch.setattr(download, "BACKOFF", 0)
    monkeypatch.setattr(s3, "CALL_RETRIES", 0)
    return bucket


@pytest.fixture
def altered(online):
    """Change an object for one test."""
    changed = []

    def change(key, body=None, acl="public-read"):
        changed.append(key)
        if body is None and acl == "public-read":
            online.delete_object(Bucket=s3.BUCKET, Key=key)
        else:
            body = online.local_files[key] if body is None else body
            online.put_object(Bucket=s3.BUCKET, Key=key, Body=body, ACL=acl)

    yield change
    for key in changed:
        online.put_object(
            Bucket=s3.BUCKET, Key=key, Body=online.local_files[key], ACL="public-read"
        )


def typed(synbrain, workspace, *more):
    arguments = ("--subject", "1", "--encoder", "gabor", "--device", "cpu", "-w", workspace)
    return synbrain("prepare", "nsd", *arguments, *more)


def fetched(root):
    return {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}


def test_from_nothing_to_a_prepared_subject(online, synbrain, tmp_path, prepared):
    code, output, error = typed(synbrain, tmp_path, "--accept-terms")
    assert code == 0, error
    assert "nsd/sub-01" in output
    # What will be fetched is said before it is: kinds, files, sizes.
    table = error[error.index("what") : error.index("downloaded and verified")]
    for part in ("images", "subj01: ROIs, transforms", "subj01: betas", "GB to fetch"):
        assert part in table
    here = fetched(tmp_path / "nsd")
    assert {DESIGN, STIMULI, SESSION, f"{BETAS}/ncsnr.nii.gz"} <= here
    assert "nsddata/ppdata/subj01/transforms/func1pt8-to-MNI.nii.gz" in here
    # Exactly what is needed: no other subject, format, or map.
    assert not [key for key in here if "subj02" in key]
    assert [key for key in here if key.endswith((".hdf5", "meanbeta.nii.gz"))] == [STIMULI]
    for key in here:
        assert (tmp_path / "nsd" / key).read_bytes() == online.local_files[key], key
    reference = prepared.find_subject("1", None, print)
    folder = tmp_path / "prepared/nsd/sub-01"
    np.testing.assert_array_equal(np.load(folder / "betas.npy"), reference.betas)
    for file in ("surface_resampling.npz", "mni_resampling.npz", "voxels.tsv"):
        assert (folder / file).exists()
    description = json.loads((folder / "dataset_description.json").read_text())
    assert description["Name"] == "NSD subject 1, prepared"
    stimuli = (tmp_path / "prepared/nsd/stimuli.tsv").read_text().splitlines()
    assert len(stimuli) == 1 + 125
    assert "cocoId" in stimuli[0]
    assert json.loads((tmp_path / "nsd_terms.json").read_text())["terms"].startswith("https://")
    # Again: nothing to fetch, nothing to do, no terms to accept.
    code, _, error = typed(synbrain, tmp_path)
    assert code == 0
    assert "already prepared" in error
    assert "fetched" not in error


def test_terms_come_first(online, synbrain, tmp_path):
    code, _, error = typed(synbrain, tmp_path)
    assert code == 1
    assert "--accept-terms" in error
    assert "forms.gle" in error
    assert not (tmp_path / "nsd").exists()
    assert not (tmp_path / "nsd_terms.json").exists()


def test_a_partial_copy_is_completed(online, synbrain, tmp_path):
    root = tmp_path / "copy"
    kept = [DESIGN, f"{BETAS}/betas_session01.nii.gz"]
    for key in online.local_files:
        if key in kept or "subj01/transforms" in key or "roi" in key:
            (root / key).parent.mkdir(parents=True, exist_ok=True)
            (root / key).write_bytes(online.local_files[key])
    # One file was cut short when it was copied: another size than in the bucket.
    short = root / "nsddata/ppdata/subj01/func1pt8mm/roi/streams.nii.gz"
    short.write_bytes(short.read_bytes()[:100])
    before = (root / kept[1]).stat().st_mtime_ns
    code, _, error = typed(synbrain, tmp_path, "--root", root, "--accept-terms")
    assert code == 0, error
    assert (root / kept[1]).stat().st_mtime_ns == before
    assert short.read_bytes() == online.local_files[short.relative_to(root).as_posix()]
    assert (root / SESSION).read_bytes() == online.local_files[SESSION]


def test_a_whole_copy_needs_no_network(synbrain, tmp_path, prepared, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    code, _, error = typed(synbrain, tmp_path, "--root", prepared.root / "simulated")
    assert code == 0, error


def test_nothing_is_fetched_into_a_simulated_folder(online, synbrain, tmp_path, prepared):
    root = prepared.root / "simulated"
    before = fetched(root)
    for more, message in ((("--sessions", "9"), "no betas of session"), (("--download",), "simul")):
        code, _, error = typed(synbrain, tmp_path, "--root", root, "--accept-terms", *more)
        assert code == 1
        assert message in error.splitlines()[-1]
    assert fetched(root) == before


def test_no_download_says_what_is_missing(synbrain, tmp_path, prepared):
    root = shutil.copytree(prepared.root / "simulated", tmp_path / "copy")
    (root / SESSION).unlink()
    (root / "dataset_description.json").unlink()
    code, _, error = typed(synbrain, tmp_path, "--root", root, "--no-download")
    assert code == 1
    assert "without a gap" in error


def test_only_the_sessions_asked_for(online, synbrain, tmp_path):
    arguments = ("--sessions", "2", "--accept-terms")
    code, _, error = typed(synbrain, tmp_path, *arguments)
    assert code == 0, error
    assert f"{BETAS}/betas_session03.nii.gz" not in fetched(tmp_path / "nsd")
    assert SESSION in fetched(tmp_path / "nsd")


@pytest.mark.parametrize(("space", "suffix"), [("fsaverage", ".mgh"), ("nativesurface", ".hdf5")])
def test_surfaces_are_fetched(online, synbrain, tmp_path, space, suffix):
    code, _, error = synbrain(
        *("prepare", "nsd", "--subject", "2", "--space", space, "--sessions", "2"),
        *("--accept-terms", "--encoder", "gabor", "--device", "cpu", "-w", tmp_path),
    )
    assert code == 0, error
    here = fetched(tmp_path / "nsd")
    folder = f"nsddata_betas/ppdata/subj02/{space}/betas_fithrf_GLMdenoise_RR"
    betas = {key for key in here if "nsddata_betas" in key}
    assert betas == {
        f"{folder}/{h}.betas_session{s:02d}{suffix}" for h in ("lh", "rh") for s in (1, 2)
    }
    assert not [key for key in here if "prfangle" in key]  # a map, no ROI
    table = (tmp_path / "prepared/nsd/sub-02/voxels.tsv").read_text()
    assert table.startswith("hemisphere\tvertex")


FAULTS = {
    "a missing session": (lambda alter: alter(SESSION), ("--sessions", "3"), "no betas of session"),
    "no such session": (lambda alter: None, ("--sessions", "3-50"), "sessions 1 to 3"),
    "no design": (lambda alter: alter(DESIGN), (), "not in the bucket"),
    "403": (lambda alter: alter(SESSION, acl="private"), (), "403"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_the_bucket(altered, synbrain, tmp_path, fault):
    alter, more, message = FAULTS[fault]
    alter(altered)
    code, _, error = typed(synbrain, tmp_path, "--accept-terms", *more)
    assert code == 1
    assert message in error.splitlines()[-1]
    assert "Traceback" not in error
    assert not (tmp_path / "prepared/nsd/sub-01").exists()
    assert not (tmp_path / "nsd" / SESSION).exists() or fault != "403"


def test_a_download_that_failed_goes_on(altered, synbrain, tmp_path, online):
    """A copy without its last session looks like an older one: that it is unfinished is noted."""
    last = f"{BETAS}/betas_session03.nii.gz"
    altered(last, acl="private")
    code, _, error = typed(synbrain, tmp_path, "--accept-terms")
    assert code == 1
    assert list((tmp_path / "nsd").glob(".synbrain*"))
    for key in (DESIGN, STIMULI, f"{BETAS}/betas_session01.nii.gz", SESSION):  # come by then
        (tmp_path / "nsd" / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "nsd" / key).write_bytes(online.local_files[key])
    altered(last, online.local_files[last])
    code, output, error = typed(synbrain, tmp_path)
    assert code == 0, error
    assert "was interrupted" in error
    assert "nsd/sub-01  3 " in output
    assert not list((tmp_path / "nsd").glob(".synbrain*"))


@pytest.mark.parametrize("more", [("--set", "synthetic"), ("--sessions", "1")], ids=["all", "one"])
def test_a_download_of_several_subjects_goes_on(synbrain, tmp_path, online, monkeypatch, more):
    """A copy without its last subject looks like a choice of subjects."""
    monkeypatch.setattr(nsd_bucket, "SESSIONS", (3, 3))  # subjects of this bucket
    kind = "nsdsynthetic" if "synthetic" in more else ""
    stem = f"betas_{kind or 'session01'}.nii.gz"
    arguments = (
        *("prepare", "nsd", "--accept-terms", "--encoder", "gabor", "--device", "cpu"),
        *("-w", tmp_path, *more),
    )

    def of(subject: int) -> str:
        folder = BETAS.replace("subj01", f"subj{subject:02d}")
        return f"{folder.replace('/betas_fit', f'/{kind}betas_fit')}/{stem}"

    fetch = downloading.fetch

    def first_subject(bucket, files, root, **options):
        fetch(bucket, [file for file in files if file.key != of(2)], root, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(downloading, "fetch", first_subject)
    assert synbrain(*arguments)[0] == 130
    assert (tmp_path / "nsd" / of(1)).exists()
    assert not (tmp_path / "nsd" / of(2)).exists()
    monkeypatch.setattr(downloading, "fetch", fetch)
    code, output, error = synbrain(*arguments)
    assert code == 0, error
    assert "was interrupted" in error
    assert "/sub-02" in output
    assert not list((tmp_path / "nsd").glob(".synbrain*"))


def test_an_object_truncated_in_the_bucket(altered, synbrain, tmp_path, online):
    """Its checksum is right, its gzip stream is not: the reader must say so, and go on later."""
    whole = online.local_files[SESSION]
    altered(SESSION, whole[: len(whole) // 2])
    code, _, error = typed(synbrain, tmp_path, "--accept-terms")
    assert code == 1
    assert "betas_session02.nii.gz: truncated or damaged" in error.splitlines()[-1]
    altered(SESSION, whole)
    code, _, error = typed(synbrain, tmp_path, "--download")
    assert code == 0, error
    assert (tmp_path / "nsd" / SESSION).read_bytes() == whole


def test_a_disk_too_small_is_known_before(online, synbrain, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    code, _, error = typed(synbrain, tmp_path, "--accept-terms")
    assert code == 1
    assert "free" in error.splitlines()[-1]
    assert not (tmp_path / "nsd" / DESIGN).exists()


def test_no_network(synbrain, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setattr(download, "BACKOFF", 0)
    code, _, error = typed(synbrain, tmp_path, "--accept-terms")
    assert code == 1
    assert "--root" in error.splitlines()[-1]


def test_asked_on_a_terminal(online, synbrain, tmp_path, monkeypatch):
    """Terms, then the table: a no to either fetches nothing."""
    answers = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda question, **_: answers.pop(0))
    for said, message in (([False], "not accepted"), ([True, False], "nothing was downloaded")):
        answers[:] = said
        code, _, error = typed(synbrain, tmp_path)
        assert code == 1
        assert message in error.splitlines()[-1]
        assert not (tmp_path / "nsd" / DESIGN).exists()
    assert (tmp_path / "nsd_terms.json").exists()  # accepted once, and remembered
    answers[:] = [True]
    code, _, error = typed(synbrain, tmp_path)
    assert code == 0, error
    assert not answers


def test_choice_of_preparation_is_kept_apart(online, synbrain, tmp_path):
    """What the bucket has not is refused before anything is fetched."""
    code, _, error = typed(synbrain, tmp_path, "--accept-terms", "--preparation", "betas_fithrf")
    assert code == 1
    assert "no betas of subject 1" in error
    assert Choice().preparation not in error.splitlines()[-1]
    assert not (tmp_path / "nsd" / STIMULI).exists()


def test_artificial_images_from_the_bucket(online, synbrain, tmp_path, artificial):
    code, output, error = typed(synbrain, tmp_path, "--set", "synthetic", "--accept-terms")
    assert code == 0, error
    assert "nsd-synthetic/sub-01" in output
    here = fetched(tmp_path / "nsd")
    betas = "nsddata_betas/ppdata/subj01/func1pt8mm/nsdsyntheticbetas_fithrf_GLMdenoise_RR"
    assert {nsd_synthetic.DESIGN, nsd_synthetic.STIMULI, nsd_synthetic.colour_stimuli(1)} <= here
    assert f"{betas}/betas_nsdsynthetic.nii.gz" in here
    # Neither the other subject's images nor anything of the other experiment.
    assert not here & {nsd_synthetic.colour_stimuli(2), STIMULI, DESIGN}
    assert not any("betas_session" in name or "subj02" in name for name in here)
    named = (tmp_path, artificial.root)
    first, second = (
        np.load(root / f"prepared/{name}/sub-01/betas.npy")
        for root, name in zip(named, ("nsd-synthetic", "simulated-synthetic"), strict=True)
    )
    np.testing.assert_array_equal(first, second)
    # What is there is not fetched again, and no connection is needed.
    code, _, error = typed(synbrain, tmp_path, "--set", "synthetic", "--no-download")
    assert code == 0, error


def test_a_lacking_file_of_the_artificial_images_is_named(altered, synbrain, tmp_path):
    altered(nsd_synthetic.colour_stimuli(1))
    code, _, error = typed(synbrain, tmp_path, "--set", "synthetic", "--accept-terms")
    assert code == 1
    assert f"{nsd_synthetic.colour_stimuli(1)}: not in the bucket" in error
