"""Tokens of several bands: computed together, kept one by one."""

from __future__ import annotations

import signal
from pathlib import Path

import killing
import numpy as np
import pandas as pd
import pytest
import torch
from listening import Listening
from PIL import Image
from sealing import change_sealed

from synbrain_cli.bands import DEFAULT
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.evaluation.alignment_inputs import image_features
from synbrain_cli.features.loading import load_encoder
from synbrain_cli.io.token_store import BandStore
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.pipeline import extract_tokens as module
from synbrain_cli.pipeline.extract_tokens import TokenRequest, extract_tokens
from synbrain_cli.run import RunContext

SEVERAL = ("gabor", "efficientnet@3,5", "pixels")
SPECS = ["gabor", "efficientnet@3", "efficientnet@5", "pixels"]
N_IMAGES = 20


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return {f"i{k:02d}": rng.integers(0, 256, (32, 32, 3), np.uint8) for k in range(N_IMAGES)}


@pytest.fixture
def extract(pictures):
    """Function that extracts tokens of images by name; the store."""

    def run(dataset, encoders, names=None, *, broken=None, **request):
        def read(some):
            for name in some:
                if name == broken:
                    raise InputError(f"{name} is broken")
                yield pictures[name]

        progress = Listening()
        context = RunContext(device=torch.device("cpu"), progress=progress)
        names = list(pictures) if names is None else names
        store = extract_tokens(dataset, names, read, TokenRequest(encoders, **request), context)
        return store, progress.messages

    return run


@pytest.fixture(scope="module")
def expected(pictures):
    """Tokens of all pictures under each band, by its name."""
    tokens = load_encoder(list(SEVERAL))(list(pictures.values()))
    return dict(zip(SPECS, tokens.bands, strict=True))


@pytest.fixture
def filled(monkeypatch):
    """What has been computed since: names of folders, and rows there were."""
    calls, fill = [], module._fill

    def record(folders, rows, n_done, *rest):
        calls.append(([path.name for path in folders], len(rows), n_done))
        fill(folders, rows, n_done, *rest)

    monkeypatch.setattr(module, "_fill", record)
    return calls


@pytest.fixture
def _short_rounds(monkeypatch):
    """Rounds of one batch of four images."""

    def load(*arguments):
        encoder = load_encoder(*arguments)
        encoder.batch_size = 4
        return encoder

    monkeypatch.setattr(module, "load_encoder", load)
    monkeypatch.setattr(module, "BATCHES_PER_ROUND", 1)
    monkeypatch.setattr(module, "READ_TOGETHER", 4)


def assert_holds(store, expected, names, atol=0.0):
    rows = [int(name[1:]) for name in names]
    for band, spec in zip(store.take(names).bands, (b.spec for b in store.bands), strict=True):
        np.testing.assert_allclose(band, expected[spec][rows], rtol=0, atol=atol, err_msg=spec)


def assert_same_rows(store, other):
    assert store.images == other.images
    for one, two in zip(store.stores, other.stores, strict=True):
        assert one.checksums == two.checksums


def test_every_band_has_a_folder_of_its_own(extract, expected, pictures, tmp_path):
    store, _ = extract(tmp_path, SEVERAL)
    assert [band.spec for band in store.bands] == SPECS
    assert store.spec == "gabor + efficientnet@3,5 + pixels"
    assert store.images == list(pictures)
    assert_holds(store, expected, ["i03", "i00", "i19"])
    folders = [one.folder.name for one in store.stores]
    assert folders[0] == "gabor"
    assert folders[1].startswith("efficientnet-lite2-3-")
    assert {path.name for path in (tmp_path / "features").iterdir()} == set(folders)


def test_a_band_that_is_added_later_is_computed_alone(
    extract, expected, pictures, filled, tmp_path
):
    first, _ = extract(tmp_path, ("gabor", "efficientnet@3"))
    before = {
        path: path.stat().st_mtime_ns for one in first.stores for path in one.folder.iterdir()
    }
    filled.clear()
    store, said = extract(tmp_path, SEVERAL)
    assert [len(names) for names, _, _ in filled] == [1, 1]
    assert [n_rows for _, n_rows, _ in filled] == [N_IMAGES] * 2
    assert any("lite2-5" in names[0] for names, _, _ in filled)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert sum("already there" in line for line in said) == 2
    assert_holds(store, expected, list(pictures))


def test_layers_of_one_encoder_are_computed_together(extract, filled, tmp_path):
    extract(tmp_path, ("efficientnet@3,5",))
    ((names, n_rows, n_done),) = filled
    assert (len(names), n_rows, n_done) == (2, N_IMAGES, 0)


@pytest.mark.parametrize("alone", ["gabor", "efficientnet@3", "efficientnet@5", "pixels"])
def test_tokens_are_the_same_whichever_bands_are_computed_with_them(
    extract, expected, pictures, tmp_path, alone
):
    store, _ = extract(tmp_path, (alone,))
    assert_holds(store, expected, list(pictures))
    assert (
        store.stores[0].checksums
        == extract(tmp_path / "b", SEVERAL)[0].stores[SPECS.index(alone)].checksums
    )


def test_bands_that_lack_different_images_all_get_theirs(
    extract, expected, pictures, filled, tmp_path
):
    names = list(pictures)
    extract(tmp_path, ("efficientnet@3",), names[:7])
    extract(tmp_path, ("efficientnet@5",), names[:12])
    filled.clear()
    store, _ = extract(tmp_path, ("efficientnet@3,5",))
    assert sorted(n_done for _, _, n_done in filled) == [7, 12]
    assert_holds(store, expected, names, atol=1e-3)  # of other batches


def test_images_that_some_bands_lack_are_none_of_the_stores(extract, pictures, tmp_path):
    names = list(pictures)
    extract(tmp_path, ("gabor",), names)
    extract(tmp_path, ("pixels",), names[3:7])
    workspace = Workspace(tmp_path)
    (tmp_path / "prepared").mkdir()
    (tmp_path / "prepared/own").symlink_to(tmp_path)
    store = workspace.find_tokens("own", None, str)
    assert store.images == names[3:7]
    assert len(store.digests) == 4
    with pytest.raises(MissingError, match=r"pixels: no tokens for 1 images \(first: i00\)"):
        store.take(["i04", "i00"])
    with pytest.raises(MissingError, match="first: i00"):
        store.require(["i00"])


@pytest.mark.usefixtures("_short_rounds")
@pytest.mark.parametrize(("broken", "n_done"), [("i02", 0), ("i14", 8)])
def test_an_interrupted_run_goes_on_and_gives_the_same(extract, tmp_path, broken, n_done):
    """All layers of an encoder stand where they stood; the next encoder had not begun."""
    encoders = ("efficientnet@3,5", "gabor")
    with pytest.raises(InputError, match=f"{broken} is broken"):
        extract(tmp_path / "stopped", encoders, broken=broken)
    partial = sorted((tmp_path / "stopped/features").glob(".*.partial"))
    assert len(partial) == 2
    for path in partial:
        assert len((path / "images.tsv").read_text().splitlines()) == 1 + n_done
    store, _ = extract(tmp_path / "stopped", encoders)
    assert_same_rows(store, extract(tmp_path / "whole", encoders)[0])
    assert {path.name for path in (tmp_path / "stopped/features").iterdir()} == {
        one.folder.name for one in store.stores
    }


@pytest.mark.usefixtures("_short_rounds")
def test_where_one_band_of_an_interrupted_run_is_damaged_it_alone_begins_again(
    extract, filled, tmp_path
):
    with pytest.raises(InputError, match="i14 is broken"):
        extract(tmp_path / "stopped", ("efficientnet@3,5",), broken="i14")
    damaged, _ = sorted((tmp_path / "stopped/features").glob(".*.partial"))
    content = bytearray((damaged / "tokens.npy").read_bytes())
    content[200] ^= 1  # of the first image
    (damaged / "tokens.npy").write_bytes(content)
    filled.clear()
    store, said = extract(tmp_path / "stopped", ("efficientnet@3,5",))
    assert any("from the beginning" in line for line in said)
    assert sorted(n_done for _, _, n_done in filled) == [0, 8]
    assert_same_rows(store, extract(tmp_path / "whole", ("efficientnet@3,5",))[0])


def test_half_precision_is_that_of_networks_alone(extract, pictures, tmp_path):
    names = list(pictures)[:3]
    store, _ = extract(tmp_path, SEVERAL, names, precision="fp16")
    assert [band.precision for band in store.bands] == ["float32", "fp16", "fp16", "float32"]
    assert [one.tokens.dtype for one in store.stores] == [
        np.float32,
        np.float16,
        np.float16,
        np.float32,
    ]
    again, _ = extract(tmp_path, ("efficientnet@4",), names)
    assert again.bands[0].precision == "float32"  # each band has its own
    with pytest.raises(InputError, match="holds tokens computed in fp16, --precision is float32"):
        extract(tmp_path, ("efficientnet@3,4",), names, precision="float32")


def test_layers_of_different_precision_do_not_go_on_together(extract, pictures, tmp_path):
    names = list(pictures)
    extract(tmp_path, ("efficientnet@3",), names[:4], precision="fp16")
    extract(tmp_path, ("efficientnet@4",), names[:4])
    with pytest.raises(InputError, match="holds tokens computed in float32"):
        extract(tmp_path, ("efficientnet@3,4",))


def test_a_band_of_another_encoder_is_refused(extract, pictures, tmp_path):
    names = list(pictures)
    store, _ = extract(tmp_path, ("efficientnet@3,5",), names[:3])
    path = store.stores[1].folder / "encoder.json"
    identity = BandStore(path.parent).band.identity | {"image_size": 260}
    change_sealed(path, identity=identity)
    with pytest.raises(InputError, match=r"holds tokens of .*260.*the encoder is now"):
        extract(tmp_path, ("efficientnet@3,5",))


def test_a_band_that_is_named_twice_is_refused(extract, tmp_path):
    for encoders in (("gabor", "gabor"), ("efficientnet@3", "efficientnet@3,4")):
        with pytest.raises(InputError, match="named twice"):
            extract(tmp_path, encoders)
    assert not (tmp_path / "features").exists()


# Finding them again ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workspace(pictures, tmp_path_factory):
    """The default encoder's bands of three images, and another layer."""
    root = tmp_path_factory.mktemp("found")
    names = list(pictures)[:3]
    context = RunContext(device=torch.device("cpu"), progress=Listening())
    request = TokenRequest(("efficientnet@1", *reversed(DEFAULT)))
    read = lambda some: (pictures[name] for name in some)  # noqa: E731
    extract_tokens(root / "prepared/own", names, read, request, context)
    return Workspace(root)


def found(workspace, encoders):
    return [band.spec for band in workspace.find_tokens("own", encoders, str).bands]


def test_without_a_name_all_bands_are_taken_in_the_order_of_the_default(workspace):
    said = []
    store = workspace.find_tokens("own", None, said.append)
    layers = [f"efficientnet@{k}" for k in (1, 3, 4, 5)]
    coarse = [f"efficientnet:112@{k}" for k in (3, 4, 5)]
    assert [band.spec for band in store.bands] == ["gabor", *layers, *coarse, "pixels"]
    assert said == [
        "image tokens: gabor + efficientnet@1,3,4,5 + efficientnet:112@3,4,5 + pixels "
        "(--encoder chooses)"
    ]


def test_the_check_of_the_design_looks_at_the_finest_scale(workspace):
    """Images of another width add little, and would take features from the other bands."""
    store = workspace.find_tokens("own", None, str)
    finest = store.at_finest_scale()
    assert finest.spec == "gabor + efficientnet@1,3,4,5 + pixels"
    assert finest.at_finest_scale() == finest
    np.testing.assert_array_equal(
        image_features(store, store.images), image_features(finest, store.images)
    )


@pytest.mark.parametrize(
    ("encoders", "specs"),
    [
        (["pixels"], ["pixels"]),
        (["pixels", "gabor"], ["pixels", "gabor"]),
        (["efficientnet@5,1"], ["efficientnet@1", "efficientnet@5"]),
        (["efficientnet"], [f"efficientnet@{k}" for k in (1, 3, 4, 5)]),
        (["efficientnet@4", "gabor"], ["efficientnet@4", "gabor"]),
    ],
)
def test_bands_are_found_by_name_in_the_order_asked_for(workspace, encoders, specs):
    assert found(workspace, encoders) == specs


@pytest.mark.parametrize(
    "encoders", [["efficientnet@2"], ["efficientnet@3,2"], ["gabor", "resnet"], ["resnet@3"]]
)
def test_bands_that_are_not_there_are_said_with_the_command(workspace, encoders):
    asked = " ".join(f"--encoder {spec}" for spec in encoders)
    with pytest.raises(MissingError, match=rf"there are: gabor, .*`synbrain prepare` with {asked}"):
        found(workspace, encoders)


# As typed ----------------------------------------------------------------------------------------


def write_experiment(folder: Path, pictures, n_voxels=8) -> list[str]:
    """Images, a table of trials and responses; the command that prepares them."""
    (folder / "images").mkdir(parents=True)
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(folder / "images" / f"{name}.png")
    shown = [f"{name}.png" for name in pictures] * 2
    pd.DataFrame({"image": shown}).to_csv(folder / "trials.tsv", sep="\t", index=False)
    rng = np.random.default_rng(1)
    responses = rng.normal(size=(len(shown), n_voxels)).astype(np.float32)
    np.save(folder / "responses.npy", responses)
    command = ["prepare", "table", str(folder / "trials.tsv"), "--images", str(folder / "images")]
    command += ["--responses", str(folder / "responses.npy"), "--dataset", "own", "--subject", "1"]
    return [*command, "--device", "cpu"]


@pytest.mark.slow
def test_a_killed_command_goes_on_and_writes_the_same_files(pictures, tmp_path):
    """Killed while it names the files of the subject, of one band or of another."""
    command = write_experiment(tmp_path / "raw", pictures)
    command += ["--encoder", "efficientnet@3,5", "--encoder", "pixels"]
    folders = {}
    for name in ("whole", "killed"):
        folders[name] = tmp_path / name
        folders[name].mkdir()
    whole = killing.run(tmp_path, *command, "-w", folders["whole"], short_rounds=True)
    assert whole.returncode == 0, whole.stderr
    for moment in (9, 6, 4, 3):
        done = killing.run(
            tmp_path, *command, "-w", folders["killed"], kill_at=moment, short_rounds=True
        )
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
    done = killing.run(tmp_path, *command, "-w", folders["killed"], short_rounds=True)
    assert done.returncode == 0, done.stderr
    files = [
        {
            path.relative_to(folder): path.read_bytes()
            for path in sorted((folder / "prepared/own/features").rglob("*"))
            if path.is_file() and path.name in ("tokens.npy", "images.tsv", "encoder.json")
        }
        for folder in folders.values()
    ]
    assert len(files[0]) == 9
    assert files[0] == files[1]
