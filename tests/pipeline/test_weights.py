"""Published weights in: import, list, verify, card, fetch."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import pickle
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import msgspec
import nibabel as nib
import numpy as np
import pytest
import torch

from synbrain_cli import load_model
from synbrain_cli.config import PRESETS, Band, MapperConfig, VAEConfig
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.features.encoder import same_bands
from synbrain_cli.features.loading import load_encoder
from synbrain_cli.features.openclip import OpenCLIP, published_identity
from synbrain_cli.io.arrays import load_arrays
from synbrain_cli.io.files import read_json, sha256, write_json
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.model.layers import sinusoidal_positions
from synbrain_cli.model.mapper import Mapper
from synbrain_cli.model.published import (
    mapper_state_from_published,
    published_mapper_shapes,
    published_vae_shapes,
    vae_state_from_published,
)
from synbrain_cli.model.vae import BrainVAE
from synbrain_cli.pipeline.adapt import AdaptSettings, adapt
from synbrain_cli.pipeline.fetch_weights import fetch
from synbrain_cli.pipeline.import_weights import NSDGENERAL, ImportSettings, import_published
from synbrain_cli.progress import Progress
from synbrain_cli.run import RunContext
from synbrain_cli.tokens import Tokens

QUIET = Progress(quiet=True)
IMAGES = Path(__file__).parents[2] / "examples" / "images"
PERCENT = 2000 / 300  # of the networks' unit: int16 / 2000 → int16 / 300
SHAPE = {"n_tokens": 256, "n_dims": 48}  # of gabor's tokens, which need no weights
VAE = VAEConfig(
    **SHAPE, channels=32, multipliers=(1,), n_res_blocks=1, ada_length=64, projector_width=32
)
MAPPER = MapperConfig(**SHAPE, depth=1, n_heads=4)


def random_state(shapes: dict[str, tuple[int, ...]], seed: int, prefix: str = ""):
    rng = np.random.default_rng(seed)

    def values(shape):
        fan_in = math.prod(shape[1:])
        return torch.from_numpy(np.float32(rng.standard_normal(shape) / math.sqrt(max(fan_in, 1))))

    return {prefix + key: values(shape) for key, shape in shapes.items()}


def write_checkpoints(folder: Path) -> SimpleNamespace:
    """A tiny pair in the release's format; ``model`` of the mapper differs from its ``ema``."""
    shapes = published_mapper_shapes(MAPPER)
    positions = {"pos_embed": sinusoidal_positions(256, 48)[None]}
    vae = {
        "epoch": 3,
        "model": random_state(published_vae_shapes(VAE), 0, "module."),
        "optimizer": {"state": {}},
        "train_losses": [np.float64(0.5), 1.5],
    }
    mapper = {
        "model": random_state(shapes, 1) | positions,
        "ema": random_state(shapes, 2) | positions,
        "opt": {},
        "args": argparse.Namespace(model_head=4, prediction="x"),
        "steps": 70,
    }
    paths = SimpleNamespace(brainvae=folder / "last.pth", s2n=folder / "last.pt")
    torch.save(vae, paths.brainvae)
    torch.save(mapper, paths.s2n)
    return paths


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_checkpoints(tmp_path_factory.mktemp("release"))


def options(files, **changed):
    chosen = {"brainvae": files.brainvae, "s2n": files.s2n, "encoder": "gabor"} | changed
    return [word for k, v in chosen.items() for word in (f"--{k}", v) if v is not None]


@pytest.fixture(scope="module")
def imported(files, prepared, tmp_path_factory):
    """Workspace with the prepared simulated subjects and an imported model of the first."""
    root = tmp_path_factory.mktemp("imported")
    (root / "prepared").symlink_to(prepared.prepared)
    mask = prepared.prepared / "simulated/sub-01/mask.nii.gz"
    settings = ImportSettings(
        files.brainvae,
        files.s2n,
        mask=mask,
        subject="1",
        dataset="simulated",
        encoder="gabor",
        licence="CC BY-NC 4.0",
    )
    import_published(Workspace(root), settings, name="theirs", run=RunContext(progress=QUIET))
    return Workspace(root)


@pytest.fixture(scope="module")
def brain(imported):
    return load_model(imported.weights / "theirs", "cpu")


@pytest.fixture(scope="module")
def networks(files):
    """The same networks, put together without a bundle."""
    vae, mapper = BrainVAE(VAE).eval(), Mapper(MAPPER).eval()
    # Files of our own making: to be read as they are.
    published = [torch.load(path, weights_only=False) for path in (files.brainvae, files.s2n)]
    vae.load_state_dict(vae_state_from_published(published[0]["model"]))
    mapper.load_state_dict(mapper_state_from_published(published[1]["ema"]))
    return vae.requires_grad_(False), mapper.requires_grad_(False)


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(9).standard_normal((2, 256, 48), np.float32)


# ------------------------------------------------------------------------- what is imported


def test_responses_are_the_networks_in_percent_signal_change(brain, networks, tokens):
    vae, mapper = networks
    expected = PERCENT * vae.decode(mapper(torch.from_numpy(tokens)), brain.n_voxels).numpy()
    np.testing.assert_allclose(brain.mean(tokens), expected, rtol=1e-4, atol=1e-4)
    assert brain.unit == "percent signal change"
    silent = brain.draw(tokens, 2, sampling="latent", noise_factor=0)
    np.testing.assert_allclose(silent[:, 1], brain.mean(tokens), rtol=1e-4, atol=1e-4)


def test_latent_noise_is_the_papers(brain, networks, tokens):
    """Without a factor nf = 1, as nothing tells the posterior's own spread."""
    one = brain.draw(tokens, 3, sampling="latent")
    np.testing.assert_array_equal(one, brain.draw(tokens, 3, sampling="latent", noise_factor=1))
    half = brain.draw(tokens, 3, sampling="latent", noise_factor=0.5)
    assert 0 < half.std(1).mean() < one.std(1).mean()


def test_what_was_never_fitted_is_refused(brain, tokens):
    with pytest.raises(InputError, match="calibrated is not available for published weights"):
        brain.draw(tokens)
    for ask in (brain.mean, lambda tokens, unit: brain.predict("deep", tokens, unit)):
        with pytest.raises(InputError, match="--unit z is not available"):
            ask(tokens, unit="z")
    with pytest.raises(InputError, match="linear encoder"):
        brain.predict("linear", tokens)


def test_bundle_records_order_unit_and_sources(imported, files, brain):
    folder = imported.weights / "theirs"
    kinds = {".json", ".safetensors", ".gz", ".tsv", ".npz", ".md"}
    assert {p.suffix for p in folder.iterdir() if not p.name.startswith(".")} <= kinds
    config = read_json(folder / "config.json")
    assert config["voxel_order"] == "file"
    networks = load_arrays(folder / "networks.safetensors")
    np.testing.assert_array_equal(networks["vae.order"], np.arange(brain.n_voxels))
    assert "2000" in config["unit"]
    np.testing.assert_allclose(brain.response_sd, PERCENT)
    origin = config["training"]["origin"]
    assert origin["files"]["s2n"]["sha256"] == sha256(files.s2n)
    assert origin["checkpoints"]["s2n"] == {
        "taken": "ema",
        "left_out": ["model", "opt", "args", "steps"],
        "epoch": None,
        "steps": 70,
    }
    assert origin["checkpoints"]["brainvae"]["taken"] == "model"
    card = (folder / "card.md").read_text()
    for text in ("were not measured here", "CC BY-NC 4.0", sha256(files.brainvae), "2508.10298"):
        assert text in card


def test_transforms_and_regions_come_from_a_subject_of_the_same_mask(brain, subject):
    assert "fsaverage5" in brain.voxel_space.other_spaces
    assert brain.voxels.equals(subject.voxels)
    assert brain.simulated


def test_without_one_there_are_slices(files, prepared, tmp_path, synbrain):
    mask = prepared.prepared / "simulated/sub-02/mask.nii.gz"
    arguments = options(files, mask=mask, subject=2, dataset="simulated", workspace=tmp_path)
    code, output, error = synbrain("weights", "import", *arguments)
    assert code == 0, error
    assert "no transforms to fsaverage" in error
    brain = load_model(output.strip(), "cpu")
    assert brain.name == "sub-02_published"
    assert brain.voxel_space.other_spaces == ()
    np.testing.assert_array_equal(
        brain.voxels[["i", "j", "k"]], np.argwhere(nib.load(mask).get_fdata() > 0)
    )


def test_mask_of_another_subject_gives_no_transforms(files, own, synbrain):
    other = own.prepared / "simulated/sub-02"
    arguments = options(files, mask=other / "mask.nii.gz", dataset="simulated", workspace=own.root)
    code, output, error = synbrain("weights", "import", *arguments, "--subject", 1)
    assert code == 0, error
    assert "nothing is taken from it" in error
    assert "no transforms to fsaverage" in error
    assert load_model(output.strip(), "cpu").voxel_space.other_spaces == ()
    code, _, error = synbrain(
        "weights", "import", *arguments, "--prepared", own.prepared / "simulated/sub-01"
    )
    assert code == 1
    assert "is not " in error
    # Named alone, a prepared subject has the mask, too.
    arguments = options(files, prepared=other, name="second", workspace=own.root)
    code, output, error = synbrain("weights", "import", *arguments)
    assert code == 0, error
    brain = load_model(output.strip(), "cpu")
    assert (brain.config.dataset, brain.subject) == ("simulated", "02")
    assert "fsaverage5" in brain.voxel_space.other_spaces


def test_a_copy_of_nsd_is_enough_for_transforms(files, prepared, subject, tmp_path, synbrain):
    copy = prepared.root / "simulated"
    arguments = options(files, nsd=copy, dataset="simulated", subject=1, workspace=tmp_path)
    code, output, error = synbrain("weights", "import", *arguments)
    assert code == 0, error
    brain = load_model(output.strip(), "cpu")
    np.testing.assert_array_equal(
        brain.voxel_space.geometry.inside, subject.voxel_space.geometry.inside
    )
    assert brain.simulated
    values = np.arange(brain.n_voxels, dtype=np.float32)
    expected = subject.voxel_space.surface_resampling.project(values, "fsaverage5")
    for hemisphere, found in brain.to_surface(values).items():
        np.testing.assert_allclose(found, expected[hemisphere])
    assert list(brain.rois()) == list(subject.rois())
    arguments = options(files, nsd=copy, dataset="simulated", subject=7, workspace=tmp_path)
    assert "no ROIs of sub-07" in synbrain("weights", "import", *arguments)[2]


def test_subject_is_known_by_the_size_of_nsdgeneral(files, tmp_path, synbrain):
    inside = np.zeros((81, 104, 83), np.int16).ravel()
    inside[1000 : 1000 + NSDGENERAL[2]] = 1
    inside[:900] = -1
    mask = tmp_path / "nsdgeneral.nii.gz"
    nib.save(nib.Nifti1Image(inside.reshape(81, 104, 83), np.diag([1.8, 1.8, 1.8, 1])), mask)
    code, output, error = synbrain(
        "weights", "import", *options(files, mask=mask, workspace=tmp_path)
    )
    assert code == 0, error
    brain = load_model(output.strip(), "cpu")
    assert (brain.config.dataset, brain.subject, brain.n_voxels) == ("nsd", "02", 14278)
    code, _, error = synbrain(
        "weights", "import", *options(files, mask=mask, workspace=tmp_path, subject=1)
    )
    assert code == 1
    assert "expected 15,724 voxels (nsdgeneral of sub-01), found 14,278" in error
    assert not (tmp_path / "weights/sub-01_published").exists()


def test_encoder_is_the_published_one_unless_named(files, prepared, tmp_path, synbrain):
    identity = published_identity()
    assert (identity["n_tokens"], identity["n_dims"], identity["weights"]) == (256, 1664, None)
    mask = prepared.prepared / "simulated/sub-01/mask.nii.gz"
    arguments = options(files, mask=mask, dataset="simulated", subject=1, encoder=None)
    code, _, error = synbrain("weights", "import", *arguments, "--workspace", tmp_path)
    assert code == 1
    assert "gives 256 tokens of 1664 dims, the mapper takes 256 of 48" in error


def test_encoders_agree_but_for_weights_that_are_not_known():
    published = published_identity()
    known, unknown, others, larger = (
        [Band("known", published | change)]
        for change in ({"weights": "abc"}, {}, {"weights": "abd"}, {"image_size": 336})
    )
    assert same_bands(unknown, known)
    assert same_bands(known, known)
    assert not same_bands(others, known)
    assert not same_bands(larger, known)
    # One by one, and in their order
    assert same_bands([*unknown, *larger], [*known, *larger])
    assert not same_bands([*unknown, *larger], [*larger, *known])
    assert not same_bands([*unknown, *larger], known)
    assert not same_bands(unknown, [*known, *larger])


def test_another_encoder_is_refused(monkeypatch, brain):
    known = load_encoder("gabor").bands[0].identity
    wanted = Band(spec="gabor", identity=known | {"version": 99})
    config = msgspec.structs.replace(brain.config, bands=(wanted,))
    monkeypatch.setitem(vars(brain), "config", config)
    monkeypatch.delitem(vars(brain), "encoder", raising=False)
    with pytest.raises(InputError, match="trained with the image encoder"):
        _ = brain.encoder


# ------------------------------------------------------------------------- the other commands


def test_synthesize_and_flatmap(imported, synbrain):
    place = ["-w", imported.root, "-q"]
    code, _, error = synbrain("synthesize", IMAGES / "coffee.png", "--model", "theirs", *place)
    assert code == 1
    assert "--sampling calibrated is not available for published weights" in error
    assert not imported.outputs.exists()
    more = ["--sampling", "latent", "--samples", 2, "--device", "cpu"]
    code, output, error = synbrain(
        "synthesize", IMAGES / "coffee.png", "--model", "theirs", *more, *place
    )
    assert code == 0, error
    folder = Path(output.split()[0]).parents[2]
    sidecar = read_json(folder / "sub-01/func/sub-01_desc-draws_betas.json")
    assert sidecar["NoiseFactor"] == 1
    assert sidecar["Unit"] == "percent signal change"
    expected = load_model(imported.weights / "theirs", "cpu").mean(IMAGES / "coffee.png")
    mean = np.load(folder / "sub-01/func/sub-01_stat-mean_statmap.npy")
    np.testing.assert_array_equal(mean, expected)
    assert not list(folder.rglob("*stat-std*"))  # nothing was fitted that gives it
    code, output, error = synbrain("plot", "flatmap", "--dpi", 40, *place)
    assert code == 0, error
    assert Path(output.strip()).name.endswith("_flatmap.png")
    code, _, error = synbrain("evaluate", "--model", "theirs", *place)
    assert code == 1
    assert "an evaluation is not available for published weights" in error


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setitem(PRESETS, "paper", PRESETS["test"])


def test_fine_tuning_goes_on_in_the_networks_own_unit(imported, brain, short, tokens, tmp_path):
    root = tmp_path / "own"
    root.mkdir()
    for name in ("prepared", "weights"):
        shutil.copytree(imported.root / name, root / name, symlinks=False)
    place = Workspace(root)
    person = place.find_subject("2", "simulated", str)
    store = place.find_tokens("simulated", ["gabor"], str)
    settings = AdaptSettings([place.weights / "theirs"], strategy="fine-tuning")
    result = adapt(place, person, store, settings, RunContext(progress=QUIET))
    assert result.record.adaptation.subjects == ["simulated/sub-01"]
    adapted = load_model(result.folder, "cpu")
    assert adapted.draw(tokens, 2).shape == (2, 2, person.n_voxels)
    # The weights saw int16 / 2000, whatever the new person's mean and deviation.
    unit = adapted.response_sd / adapted.networks.vae.gain.numpy()
    np.testing.assert_allclose(unit, PERCENT, rtol=1e-4)
    theirs = adapted.networks.vae.offset.numpy() * PERCENT
    np.testing.assert_allclose(theirs, adapted.response_mean, rtol=1e-4, atol=1e-5)


def test_gain_and_offset_are_undone(networks, tokens):
    vae, mapper = networks
    latent = mapper(torch.from_numpy(tokens))
    plain = vae.decode(latent, 9)
    gain, offset = torch.linspace(0.5, 2, 9), torch.linspace(-1, 1, 9)
    scaled = BrainVAE(VAE).eval()
    scaled.load_state_dict(vae.state_dict())
    scaled.measure(gain, offset)
    found = scaled.decode(latent, 9)
    torch.testing.assert_close(found * gain + offset, plain)
    agree = {"rtol": 1e-3, "atol": 1e-3}
    torch.testing.assert_close(scaled.encode(found).mean, vae.encode(plain).mean, **agree)


def test_list_verify_card(imported, synbrain, tmp_path):
    shutil.copytree(imported.weights, tmp_path / "weights")
    place = ["-w", tmp_path]
    code, output, _ = synbrain("weights", "list", *place)
    assert code == 0
    head, row = output.splitlines()
    assert head.split() == ["name", "subject", "encoder", "source", "files", "voxels", "MB"]
    assert "simulated/sub-01" in row
    assert "published, last.pth and last.pt" in row
    assert "complete" in row
    code, output, _ = synbrain("weights", "card", "theirs", *place)
    assert output.startswith("# theirs\n")
    assert synbrain("weights", "verify", *place)[:2] == (0, "")

    folder = tmp_path / "weights/theirs"
    content = (folder / "arrays.safetensors").read_bytes()
    (folder / "arrays.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (folder / "voxels.tsv").unlink()
    (folder / "vertices.npz").write_bytes(b"planted")
    code, output, _ = synbrain("weights", "verify", "theirs", *place)
    assert code == 1
    faults = output.splitlines()
    assert len(faults) == 3
    for name, fault in (
        ("arrays.safetensors", "checksum"),
        ("voxels.tsv", "missing"),
        ("vertices.npz", "does not belong there"),
    ):
        assert [line for line in faults if name in line and fault in line]
    assert "2 at fault" in synbrain("weights", "list", *place)[1]
    (folder / "config.json").write_text("{")
    assert "cannot be read" in synbrain("weights", "list", *place)[1]
    assert synbrain("weights", "verify", "gone", *place)[0] == 1
    (tmp_path / "empty").mkdir()
    assert "no model to verify" in synbrain("weights", "verify", "-w", tmp_path / "empty")[2]


# ------------------------------------------------------------------------------ bad files


class Malicious:
    """Would make a file, were it unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("how", ["new", "old", "pickle", "inside", "gone"])
def test_nothing_in_a_file_is_run(files, prepared, tmp_path, synbrain, how):
    proof = tmp_path / "proof"
    evil = {"model": {"module.a": torch.ones(2)}, "epoch": Malicious(proof)}
    path = tmp_path / "last.pth"
    if how == "pickle":
        path.write_bytes(pickle.dumps(evil))
    elif how == "inside":
        torch.save({"model": {}, "args": argparse.Namespace(path=Malicious(proof))}, path)
    else:
        torch.save(evil, path, _use_new_zipfile_serialization=how != "old")
    if how == "gone":  # the test itself: a careless reader would be caught
        torch.load(path, weights_only=False)
        assert proof.exists()
        return
    mask = prepared.prepared / "simulated/sub-01/mask.nii.gz"
    arguments = options(files, brainvae=path, mask=mask, dataset="simulated", subject=1)
    code, _, error = synbrain("weights", "import", *arguments, "-w", tmp_path)
    assert code == 1
    assert "nothing of the file was run or used" in error
    assert "weights_only" not in error  # PyTorch's own advice
    assert not proof.exists()
    assert not list(tmp_path.glob("weights/*"))


def changed(source: Path, target: Path, change) -> Path:
    content = torch.load(source, weights_only=False)
    change(content)
    torch.save(content, target)
    return target


@pytest.mark.parametrize(
    ("which", "change", "message"),
    [
        ("brainvae", lambda c: c["model"].pop("module.decoder.conv_out.bias"), "missing keys"),
        ("brainvae", lambda c: c["model"].update(extra=torch.ones(1)), r"unknown keys ['extra']"),
        ("s2n", lambda c: c["ema"].update(y_embedder=torch.ones(1)), "unknown keys ['y_embedder']"),
        ("s2n", lambda c: c["ema"].pop("blocks.0.attn.qkv.bias"), "missing keys"),
        ("s2n", lambda c: c["ema"].update(pos_embed=torch.ones(3)), "other shapes"),
        (
            "brainvae",
            lambda c: c["model"].update({"module.post_projector.0.bias": torch.ones(2)}),
            "post_projector.0.bias of shape (48,), found (2,)",
        ),
        ("s2n", lambda c: vars(c["args"]).update(model_head=5), "multiple of n_heads"),
        ("s2n", lambda c: vars(c["args"]).update(prediction="noise"), "the prediction x or v"),
        ("s2n", lambda c: (c.pop("ema"), c.pop("model")), "found the entries opt, args, steps"),
        ("s2n", lambda c: c["ema"].update(pos_embed="none"), "found str"),
        (
            "brainvae",
            lambda c: c["model"]["module.encoder.conv_in.bias"].fill_(math.nan),
            "not finite",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_checkpoints_are_told_and_leave_nothing(
    files, prepared, tmp_path, synbrain, which, change, message
):
    path = changed(getattr(files, which), tmp_path / "changed.pt", change)
    mask = prepared.prepared / "simulated/sub-01/mask.nii.gz"
    arguments = options(files, mask=mask, dataset="simulated", subject=1, **{which: path})
    code, _, error = synbrain("weights", "import", *arguments, "-w", tmp_path)
    assert code == 1
    last = error.splitlines()[-1]
    assert last.startswith(f"synbrain: {path}: ")
    assert message in last
    assert not list(tmp_path.glob("weights/*"))


def other_files(files, folder: Path):
    """Arguments that are no checkpoint, no mask, or do not fit, with what is said."""
    content = files.s2n.read_bytes()
    for name, part in (
        ("half", content[: len(content) // 2]),
        ("text", b"no weights"),
        ("none", b""),
    ):
        (folder / name).write_bytes(part)
        yield {"s2n": folder / name}, f"{folder / name}: expected a PyTorch checkpoint"
    torch.save(torch.ones(3), folder / "tensor")
    yield {"s2n": folder / "tensor"}, "found a Tensor"
    yield {"s2n": files.brainvae}, "pos_embed"
    yield {"brainvae": files.s2n}, "encoder."
    yield {"s2n": folder / "nowhere"}, "nowhere does not exist"
    yield {"mask": folder / "nowhere.nii.gz"}, "does not exist"
    empty = folder / "empty.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((3, 3, 3), np.uint8), np.eye(4)), empty)
    yield {"mask": empty}, "found none"
    nib.save(nib.Nifti1Image(np.ones((3, 3, 3, 2), np.uint8), np.eye(4)), folder / "4d.nii.gz")
    yield {"mask": folder / "4d.nii.gz"}, "3-D mask"
    yield {"voxels": 7}, "expected 7 voxels"
    yield {"mask": None}, "nsdgeneral.nii.gz"
    yield {"subject": None}, "expected the subject that the weights are of"
    yield {"prepared": folder}, "expected a prepared subject"
    smaller = {**SHAPE, "n_dims": 32}
    mapper = MapperConfig(**smaller, depth=1, n_heads=4)
    content = {"model": random_state(published_mapper_shapes(mapper), 0)}
    content["args"] = argparse.Namespace(model_head=4, prediction="x")
    torch.save(content, folder / "smaller.pt")
    yield {"s2n": folder / "smaller.pt"}, "maps to latents of (256, 32)"


def test_other_bad_files(files, prepared, tmp_path, synbrain):
    mask = prepared.prepared / "simulated/sub-01/mask.nii.gz"
    usual = {"mask": mask, "dataset": "simulated", "subject": 1}
    for arguments, message in other_files(files, tmp_path):
        code, _, error = synbrain(
            "weights", "import", *options(files, **usual | arguments), "-w", tmp_path
        )
        assert code == 1, arguments
        assert message in error.splitlines()[-1]
        assert not list(tmp_path.glob("weights/*"))


def test_a_model_is_not_overwritten_unasked(imported, files, synbrain):
    arguments = options(files, dataset="simulated", subject=1, name="theirs")
    code, _, error = synbrain("weights", "import", *arguments, "-w", imported.root)
    assert code == 1
    assert "made with other settings (licence CC BY-NC 4.0, now not recorded; see" in error
    assert list(imported.weights.glob(".*")) == []


# ---------------------------------------------------------------------------------- parity


@pytest.fixture(scope="module")
def parity(request):
    folder = request.getfixturevalue("shared") / "parity"
    if not folder.is_dir():
        pytest.skip(f"no reference network in {folder}")
    return folder


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    """An image encoder that gives 16 tokens of 52 dims."""
    import open_clip

    folder = tmp_path_factory.mktemp("tower")
    vision = {"image_size": 32, "layers": 1, "width": 52, "head_width": 26, "patch_size": 8}
    text = {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 2, "layers": 1}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    (folder / "parity-ViT.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / "parity-ViT.json")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(open_clip.create_model("parity-ViT").state_dict(), folder / "weights.pt")
    return f"openclip:parity-ViT/{folder / 'weights.pt'}"


@pytest.mark.parametrize("n_voxels", [300, 211])
def test_reference_network_through_the_command(parity, tower, tmp_path, synbrain, n_voxels):
    """Tokens → latent → response in percent signal change, as the reference computes them."""
    mask = np.zeros(512, np.uint8)
    mask[:n_voxels] = 1
    nib.save(nib.Nifti1Image(mask.reshape(8, 8, 8), np.eye(4)), tmp_path / "mask.nii.gz")
    command = ["weights", "import", "--brainvae", parity / "tiny_brainvae_last.pth"]
    command += ["--s2n", parity / "tiny_s2n_last.pt", "--mask", tmp_path / "mask.nii.gz"]
    command += ["--subject", 1, "--voxels", n_voxels, "--encoder", tower, "-w", tmp_path]
    code, output, error = synbrain(*command)
    assert code == 0, error
    brain = load_model(output.strip(), "cpu")
    with np.load(parity / "tiny_vectors.npz") as vectors:
        tokens, expected = vectors["clip_tokens"], vectors[f"synth_{n_voxels}"][:, 0]
        latent, y, y_mean = vectors["s2n_latent"], vectors["y"][:, 0], vectors["y_mean"]
    found = torch.cat([brain.latent(token) for token in Tokens.of(tokens).one_by_one()])
    np.testing.assert_allclose(found, latent, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(brain.mean(tokens), PERCENT * expected, rtol=1e-5, atol=1e-5)
    if n_voxels == 300:
        with torch.inference_mode():
            found = brain.networks.vae.encode(torch.from_numpy(y)).mean
        np.testing.assert_allclose(found, y_mean, rtol=1e-5, atol=1e-5)


def test_every_published_key_is_known(parity):
    rows = [line.split("\t") for line in (parity / "checkpoint_keys.tsv").read_text().splitlines()]
    for file, shapes in (
        ("brainvae", published_vae_shapes(VAEConfig())),
        ("s2n", published_mapper_shapes(MapperConfig())),
    ):
        published = {
            key.removeprefix("module."): tuple(int(n) for n in shape.split("x"))
            for name, _, key, shape in rows[1:]
            if name.startswith(file)
        }
        assert shapes == published


def test_published_encoder_is_described_as_it_loads(tower, monkeypatch):
    """What is said of an encoder without its weights, against one that is loaded."""
    import open_clip

    import synbrain_cli.features.openclip as module

    loaded = OpenCLIP(tower.removeprefix("openclip:")).bands[0].identity
    monkeypatch.setattr(module, "PUBLISHED", tower)
    tag = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda arch, name: tag)
    assert module.published_identity() == loaded | {"weights": None}


# ----------------------------------------------------------------------------------- fetch

COMMIT, LATER = "a" * 40, "b" * 40


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for the hub on loopback: one repository of three files, two commits."""
    content = {"sub1/last.pth": b"weights" * 50, "last.pt": b"mapper" * 9, "README.md": b"# hi\n"}
    state = SimpleNamespace(content=content, commit=COMMIT, asked=[], lie=False)

    class Handler(BaseHTTPRequestHandler):
        def answer(self, body: bytes, status=200, **headers):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_GET(self):
            path = unquote(self.path.split("?")[0])
            state.asked.append(path)
            if path.startswith("/api/models/lab/synbrain/revision/"):
                if path.rsplit("/", 1)[1] not in ("main", COMMIT, LATER):
                    return self.answer(b"{}", 404, X_Error_Code="RevisionNotFound")
                siblings = [
                    {
                        "rfilename": name,
                        "size": len(data),
                        "blobId": "0" * 40,
                        "lfs": {
                            "sha256": hashlib.sha256(data).hexdigest(),
                            "size": len(data),
                            "pointerSize": 1,
                        },
                    }
                    for name, data in content.items()
                ]
                info = {"id": "lab/synbrain", "sha": state.commit, "siblings": siblings}
                return self.answer(json.dumps(info).encode(), Content_Type="application/json")
            _, _, name = path.partition(f"/lab/synbrain/resolve/{state.commit}/")
            if name in content:
                data = content[name]
                checksum = hashlib.sha256(data).hexdigest()
                served = data[::-1] if state.lie else data
                return self.answer(served, X_Repo_Commit=state.commit, ETag=f'"{checksum}"')
            return self.answer(b"{}", 404, X_Error_Code="RepoNotFound")

        do_HEAD = do_GET

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    state.endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", state.endpoint)
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    yield state
    server.shutdown()
    server.server_close()


def test_fetch_records_commit_and_checksums(hub, tmp_path, synbrain):
    command = ["weights", "fetch", "lab/synbrain", "sub1/last.pth", "last.pt", "-w", tmp_path]
    code, output, error = synbrain(*command)
    assert code == 0, error
    paths = [Path(line) for line in output.split()]
    assert [p.read_bytes() for p in paths] == [hub.content["sub1/last.pth"], hub.content["last.pt"]]
    folder = tmp_path / "checkpoints/lab/synbrain"
    record = read_json(folder / "fetched.json")
    assert (record["revision"], record["commit"]) == ("main", COMMIT)
    assert record["files"]["last.pt"] == {"sha256": sha256(paths[1]), "bytes": 54}
    assert {p.name for p in folder.iterdir()} == {"fetched.json", "sub1", "last.pt"}

    # Again: nothing is asked for; another file comes of the same commit, though main moved on.
    hub.asked.clear()
    assert synbrain(*command)[0] == 0
    assert hub.asked == []
    place, more = Workspace(tmp_path), {"endpoint": hub.endpoint, "run": RunContext(progress=QUIET)}
    result = fetch(place, "lab/synbrain", ["README.md"], **more)
    assert result.downloaded == ["README.md"]
    assert all("main" not in path for path in hub.asked)
    hub.commit = LATER
    (folder / "README.md").unlink()
    with pytest.raises(InputError, match="expected commit a"):
        fetch(place, "lab/synbrain", ["README.md"], **more)
    write_json(folder / "fetched.json", {**record, "commit": None})
    with pytest.raises(InputError, match="expected the commit of the files, found none"):
        fetch(place, "lab/synbrain", ["last.pt"], **more)


def test_a_changed_file_is_refused(hub, tmp_path, synbrain):
    command = ["weights", "fetch", "lab/synbrain", "last.pt", "-w", tmp_path]
    path = Path(synbrain(*command)[1].strip())
    path.write_bytes(b"other")
    code, _, error = synbrain(*command)
    assert code == 1
    assert "so the file was changed" in error
    assert path.read_bytes() == b"other"
    path.unlink()
    assert synbrain(*command)[0] == 0
    code, _, error = synbrain(*command, "--revision", LATER)
    assert code == 1
    assert f"found main (commit {COMMIT})" in error


def test_what_is_not_what_the_hub_says_is_refused(hub, tmp_path, synbrain):
    hub.lie = True
    code, _, error = synbrain("weights", "fetch", "lab/synbrain", "last.pt", "-w", tmp_path)
    assert code == 1
    assert "damaged on the way" in error
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.name == "last.pt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lab/synbrain", "gone.pt"], "no file gone.pt; there are README.md, last.pt"),
        (["lab/synbrain", "last.pt", "--revision", "v9"], "not found on the hub"),
        (["lab/nothing", "last.pt"], "not found on the hub"),
        (["synbrain", "last.pt"], "expected a repository as OWNER/REPO"),
        (["lab/synbrain", "../last.pt"], "expected the name of a file"),
        (["lab/synbrain", "last.pt", "--endpoint", "http://127.0.0.1:1"], "could not be fetched"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_fetched(hub, tmp_path, synbrain, arguments, message):
    code, _, error = synbrain("weights", "fetch", *arguments, "-w", tmp_path)
    assert code == 1
    assert message in error.splitlines()[-1]
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_import_says_where_a_file_was_fetched(hub, files, prepared, tmp_path):
    hub.content["last.pt"] = files.s2n.read_bytes()
    place = Workspace(tmp_path)
    (mapper,) = fetch(
        place, "lab/synbrain", ["last.pt"], endpoint=hub.endpoint, run=RunContext(progress=QUIET)
    ).files
    settings = ImportSettings(
        files.brainvae,
        mapper,
        prepared=prepared.prepared / "simulated/sub-01",
        encoder="gabor",
    )
    found = import_published(place, settings, run=RunContext(progress=QUIET)).record.origin.files
    assert found["s2n"].source == f"lab/synbrain@{COMMIT}"
    assert found["brainvae"].source is None
    with pytest.raises(MissingError):
        load_model(place.weights / "gone")
