"""open_clip towers, small and randomly initialised, saved to disk and loaded back."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from synbrain_cli.errors import InputError, MissingError, SynbrainError
from synbrain_cli.features.encoder import kept_dtype, precision_here
from synbrain_cli.features.loading import load_encoder

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 40, 48, 3), dtype=np.uint8)
TEXT = {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 2, "layers": 1}
VIT = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
TIMM = {
    "image_size": 224,
    "timm_model_name": "vit_tiny_patch16_224",
    "timm_pool": "token",
    "timm_proj": "linear",
}
TOWERS = {  # vision settings, expected (n_tokens, n_dims)
    "tiny-ViT": (VIT, (16, 32)),
    "tiny-average": ({**VIT, "pool_type": "avg", "final_ln_after_pool": True}, (16, 32)),
    "tiny-pooled": ({**VIT, "attentional_pool": True}, None),
    "tiny-ResNet": ({"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}, (1, 256)),
    "tiny-timm": (TIMM, (196, 192)),
}


@pytest.fixture(scope="module", autouse=True)
def towers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("configs")
    for name, (vision, _) in TOWERS.items():
        config = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": TEXT}
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


def clip(name, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return open_clip.create_model(name).eval()


@pytest.fixture
def saved(tmp_path):
    """A CLIP model of the small ViT and the file of its state dict."""
    model = clip("tiny-ViT")
    torch.save(model.state_dict(), tmp_path / "clip.pt")
    return model, tmp_path / "clip.pt"


def test_tokens_are_open_clips_own(saved):
    model, path = saved
    encoder = load_encoder(f"openclip:tiny-ViT/{path}")
    tokens = encoder(IMAGES).bands[0]
    assert tokens.shape == (3, *encoder.bands[0].shape) == (3, 16, 32)
    assert tokens.dtype == np.float32
    # another way there: torch's resize, open_clip's forward pass with output_tokens
    x = torch.tensor(IMAGES[:, :, 4:44]).permute(0, 3, 1, 2) / 255
    x = torch.nn.functional.interpolate(x, (32, 32), mode="bicubic", antialias=True).clip(0, 1)
    mean, sd = (
        torch.tensor(v)[:, None, None]
        for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    model.visual.output_tokens = True
    with torch.no_grad():
        _, expected = model.visual((x - mean) / sd)
    np.testing.assert_allclose(tokens, expected, atol=2e-6)


@pytest.mark.parametrize("name", [n for n, (_, shape) in TOWERS.items() if shape])
def test_every_kind_of_tower(tmp_path, name):
    save_file(clip(name).visual.state_dict(), tmp_path / "visual.safetensors")
    encoder = load_encoder(f"openclip:{name}/{tmp_path / 'visual.safetensors'}")
    together = encoder(IMAGES).bands[0]
    assert together.shape[1:] == encoder.bands[0].shape == TOWERS[name][1]
    alone = np.concatenate([encoder([image]).bands[0] for image in IMAGES])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 0.02 * together.std()


def test_tokens_come_after_the_final_norm(tmp_path):
    for name in ("tiny-ViT", "tiny-average", "tiny-timm"):  # a fresh LayerNorm has no gain
        torch.save(clip(name).state_dict(), tmp_path / "w.pt")
        tokens = load_encoder(f"openclip:{name}/{tmp_path / 'w.pt'}")(IMAGES).bands[0]
        np.testing.assert_allclose(tokens.mean(-1), 0, atol=1e-4)
        np.testing.assert_allclose(tokens.std(-1), 1, atol=0.05)


def test_a_layer_is_the_output_of_its_block(saved):
    """Patch tokens without the class token, before the final LayerNorm."""
    model, path = saved
    encoder = load_encoder(f"openclip:tiny-ViT/{path}@2,1")
    assert encoder.layers == (1, 2)
    outputs = []
    for block in model.visual.transformer.resblocks:
        block.register_forward_hook(lambda block, given, output: outputs.append(output))
    tokens = encoder(IMAGES).bands
    x = torch.tensor(IMAGES[:, :, 4:44]).permute(0, 3, 1, 2) / 255
    x = torch.nn.functional.interpolate(x, (32, 32), mode="bicubic", antialias=True).clip(0, 1)
    mean, sd = (
        torch.tensor(v)[:, None, None]
        for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    with torch.no_grad():
        model.visual((x - mean) / sd)
    for found, expected in zip(tokens, outputs, strict=True):
        np.testing.assert_allclose(found, expected[:, 1:], atol=2e-6)


def test_bands_of_layers_are_told_apart(saved):
    _, path = saved
    final = load_encoder(f"openclip:tiny-ViT/{path}").bands[0]
    first, second = load_encoder(f"openclip:tiny-ViT/{path}@1,2").bands
    assert (first.spec, second.spec) == tuple(f"openclip:tiny-ViT/{path}@{k}" for k in (1, 2))
    assert len({final.slug, first.slug, second.slug}) == 3
    assert first.slug == final.slug.replace("tiny-ViT-", "tiny-ViT-1-")
    assert first.identity == final.identity | {"layer": 1}
    assert second.identity == final.identity | {"layer": 2}
    assert load_encoder(first.spec).bands[0].identity == first.identity


@pytest.mark.parametrize(
    ("name", "layer", "shape"),
    [
        *(("tiny-ResNet", 1, (64, 8)), ("tiny-ResNet", 2, (64, 32)), ("tiny-ResNet", 4, (4, 128))),
        *(
            ("tiny-ResNet", 5, (1, 256)),
            ("tiny-timm", 3, (196, 192)),
            ("tiny-average", 1, (16, 32)),
        ),
    ],
)
def test_layers_of_every_kind_of_tower(tmp_path, name, layer, shape):
    save_file(clip(name).visual.state_dict(), tmp_path / "visual.safetensors")
    encoder = load_encoder(f"openclip:{name}/{tmp_path / 'visual.safetensors'}@{layer}")
    tokens = encoder(IMAGES).bands[0]
    assert tokens.shape[1:] == encoder.bands[0].shape == shape
    assert np.isfinite(tokens).all()


def test_an_encoder_of_some_bands_gives_the_same_tokens(saved):
    _, path = saved
    encoder = load_encoder(["gabor", f"openclip:tiny-ViT/{path}@1,2", "pixels"])
    whole, fewer = encoder(IMAGES), encoder.only([2, 3])
    assert [band.spec for band in fewer.bands] == [f"openclip:tiny-ViT/{path}@2", "pixels"]
    for one, other in zip(fewer(IMAGES).bands, whole.bands[2:], strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(encoder.bands) == 4


def test_identity_is_that_of_the_weights(saved, tmp_path):
    model, path = saved
    state = model.state_dict()
    visual = {k: v.clone() for k, v in model.visual.state_dict().items()}
    save_file(visual, tmp_path / "visual.safetensors")
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}},
               tmp_path / "training.pt")  # fmt: skip
    torch.save(visual, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.save(clip("tiny-ViT", seed=1).state_dict(), tmp_path / "other.pt")
    encoders = [
        load_encoder(f"openclip:tiny-ViT/{p}")
        for p in (path, *(tmp_path / f for f in ("visual.safetensors", "training.pt", "old.pt")))
    ]
    tokens = encoders[0](IMAGES).bands[0]
    for encoder in encoders[1:]:
        assert encoder.bands[0].identity == encoders[0].bands[0].identity
        assert encoder.bands[0].slug == encoders[0].bands[0].slug
        np.testing.assert_array_equal(encoder(IMAGES).bands[0], tokens)
    assert json.loads(json.dumps(encoders[0].bands[0].identity)) == encoders[0].bands[0].identity
    assert (
        encoders[0].bands[0].slug
        == f"openclip-tiny-ViT-{encoders[0].bands[0].identity['weights'][:8]}"
    )
    other = load_encoder(f"openclip:tiny-ViT/{tmp_path / 'other.pt'}")
    assert other.bands[0].identity != encoders[0].bands[0].identity
    assert other.bands[0].slug != encoders[0].bands[0].slug


def test_half_precision_weights_become_float32(tmp_path):
    state = clip("tiny-ViT").half().visual.state_dict()
    torch.save(state, tmp_path / "half.pt")
    torch.save({k: v.float() for k, v in state.items()}, tmp_path / "full.pt")
    half, full = (load_encoder(f"openclip:tiny-ViT/{tmp_path / f}.pt") for f in ("half", "full"))
    assert half.bands[0].identity == full.bands[0].identity
    np.testing.assert_array_equal(half(IMAGES).bands[0], full(IMAGES).bands[0])


@pytest.mark.parametrize(("precision", "digits"), [("fp16", 11), ("bf16", 8)])
@pytest.mark.parametrize("name", ["tiny-ViT", "tiny-timm"])
def test_half_precision(tmp_path, name, precision, digits):
    """Each of some 10 results a layer is rounded, by 0.4 × 2^-digits of its size (root mean
    square). Over 12 layers these errors add up as √120 independent ones: 4.4 × 2^-digits, of
    which the bound is the double."""
    save_file(clip(name).visual.state_dict(), tmp_path / "v.safetensors")
    spec = f"openclip:{name}/{tmp_path / 'v.safetensors'}"
    full, half = load_encoder(spec), load_encoder(spec, precision=precision)
    assert (full.precision, half.precision) == ("float32", precision)
    assert half.bands[0].identity == full.bands[0].identity
    assert half.bands[0].slug == full.bands[0].slug
    expected, tokens = full(IMAGES).bands[0], half(IMAGES).bands[0]
    assert tokens.dtype == np.float32
    error = np.linalg.norm(tokens - expected) / np.linalg.norm(expected)
    assert 2.0 ** -(digits + 2) < error < 9 * 2.0**-digits
    ((_, computed),) = half.stream([("all", list(IMAGES))])
    (kept,) = computed.bands
    assert kept.dtype == kept_dtype(precision) == np.float16
    np.testing.assert_array_equal(kept, tokens)


def test_what_fp16_cannot_hold_is_refused(tmp_path):
    """The residual stream beyond 65,504."""
    state = {k: v.clone() for k, v in clip("tiny-ViT").visual.state_dict().items()}
    state["transformer.resblocks.0.mlp.c_proj.bias"][3] = 1e5
    save_file(state, tmp_path / "v.safetensors")
    spec = f"openclip:tiny-ViT/{tmp_path / 'v.safetensors'}"
    with pytest.raises(InputError, match="--precision bf16"):
        load_encoder(spec, precision="fp16")(IMAGES)
    assert np.isfinite(load_encoder(spec, precision="bf16")(IMAGES).bands[0]).all()
    state["ln_post.bias"][0] = np.nan
    save_file(state, tmp_path / "v.safetensors")
    with pytest.raises(InputError, match="damaged"):
        load_encoder(spec)(IMAGES)


def test_a_batch_that_does_not_fit_is_halved(saved, monkeypatch):
    _, path = saved
    encoder = load_encoder(f"openclip:tiny-ViT/{path}")
    images = np.random.default_rng(1).integers(0, 256, (21, 32, 32, 3), dtype=np.uint8)
    expected = encoder(images).bands[0]
    tower, sizes = encoder._tokens, []

    def small(x):
        sizes.append(len(x))
        if len(x) > 5:
            raise torch.OutOfMemoryError("that was too much")
        return tower(x)

    monkeypatch.setattr(encoder, "_tokens", small)
    assert encoder.batch_size == 16
    np.testing.assert_allclose(encoder(images).bands[0], expected, atol=2e-6)
    assert encoder.batch_size == 4
    assert sizes == [16, 8, 4, 4, 4, 4, 4, 1]  # it stays there
    monkeypatch.setattr(encoder, "_tokens", lambda x: small(torch.zeros(9)))
    with pytest.raises(torch.OutOfMemoryError):
        encoder(images).bands[0]


def test_stream_keeps_batches_and_their_keys(saved):
    _, path = saved
    encoder = load_encoder(f"openclip:tiny-ViT/{path}")
    taken = []

    def batches():
        for key, part in (("a", IMAGES[:1]), ("b", IMAGES[1:]), ("c", IMAGES[:2])):
            taken.append(key)
            yield key, list(part)

    stream = encoder.stream(batches())
    key, tokens = next(stream)
    assert (key, taken) == ("a", ["a", "b"])  # the next one is in work
    np.testing.assert_array_equal(tokens.bands[0], encoder(IMAGES[:1]).bands[0])
    assert [(key, len(tokens)) for key, tokens in stream] == [("b", 2), ("c", 2)]


def test_input_statistics_beside_the_file(saved):
    _, path = saved
    default = load_encoder(f"openclip:tiny-ViT/{path}")
    beside = {"preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (path.parent / "open_clip_config.json").write_text(json.dumps(beside))
    encoder = load_encoder(f"openclip:tiny-ViT/{path}")
    assert encoder.bands[0].identity["mean"] == [0.5] * 3
    assert encoder.bands[0].identity != default.bands[0].identity
    assert np.abs(encoder(IMAGES).bands[0] - default(IMAGES).bands[0]).max() > 1e-3


def test_the_activation_function_beside_the_file(saved):
    """The tokens are those of the right function, and are not exchanged with those of the other."""
    _, path = saved
    beside = path.parent / "open_clip_config.json"
    beside.unlink(missing_ok=True)
    plain = load_encoder(f"openclip:tiny-ViT/{path}")
    try:
        beside.write_text(json.dumps({"model_cfg": {"quick_gelu": False}}))
        assert (
            load_encoder(f"openclip:tiny-ViT/{path}").bands[0].identity == plain.bands[0].identity
        )
        beside.write_text(json.dumps({"model_cfg": {"quick_gelu": True}}))
        quick = load_encoder(f"openclip:tiny-ViT/{path}")
    finally:
        beside.unlink()
    assert quick.bands[0].identity["name"] == "openclip:tiny-ViT-quickgelu"
    assert quick.bands[0].slug != plain.bands[0].slug
    assert quick.bands[0].identity["weights"] == plain.bands[0].identity["weights"]
    functions = {type(m).__name__ for m in quick._tower.modules()}
    assert "QuickGELU" in functions
    assert "GELU" not in functions
    assert np.abs(quick(IMAGES).bands[0] - plain(IMAGES).bands[0]).max() > 1e-4


CONTRADICTIONS = [
    ({"model_cfg": {"vision_cfg": {"width": 7}}}, "with width 7"),
    ({"model_cfg": {"vision_cfg": {"image_size": 999}}}, "with image_size 999"),
    ({"model_cfg": {"vision_cfg": {"timm_model_name": "x"}}}, "with timm_model_name"),
    ({"preprocess_cfg": {"size": 999}}, "preprocess size"),
    ({"preprocess_cfg": {"mean": [0.5]}}, "found something else"),
    ({"preprocess_cfg": {"std": [0.5, 0, 0.5]}}, "above 0"),
    ({"model_cfg": None}, "found something else"),
    ([], "found something else"),
]


@pytest.mark.parametrize(("content", "message"), CONTRADICTIONS)
def test_a_file_beside_that_contradicts_is_refused(saved, content, message):
    _, path = saved
    beside = path.parent / "open_clip_config.json"
    beside.write_text(json.dumps(content))
    try:
        with pytest.raises(InputError, match=rf"open_clip_config\.json: .*{message}"):
            load_encoder(f"openclip:tiny-ViT/{path}")
    finally:
        beside.unlink()


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda path: path.symlink_to("nowhere"), "found a link to nothing"),
        (os.mkfifo, "found a pipe"),
        (Path.mkdir, "found a folder"),
    ],
)
def test_a_file_beside_that_is_none_is_refused(saved, make, found):
    """Without it, the tokens would be those of another activation function."""
    weights, folder = saved[1], saved[1].parent / "beside"
    folder.mkdir(exist_ok=True)
    (folder / weights.name).symlink_to(weights)
    make(folder / "open_clip_config.json")
    try:
        with pytest.raises(SynbrainError, match=rf"open_clip_config\.json.* {found}"):
            load_encoder(f"openclip:tiny-ViT/{folder / weights.name}")
    finally:
        shutil.rmtree(folder)


ERRORS = [
    ("openclip:ViT-bigG-15/x", InputError, "perhaps ViT-bigG-14"),
    ("openclip:", InputError, "no architecture"),
    ("openclip:ViT-B-32", InputError, "laion2b_s34b_b79k"),
    ("openclip:ViT-B-32/nowhere.pt", MissingError, "laion2b_s34b_b79k"),
    ("openclip:ViT-B-32/openai", InputError, "ViT-B-32-quickgelu/openai"),
    ("openclip:tiny-pooled/{path}", InputError, "no patch tokens"),
    ("openclip:tiny-ResNet/{path}", InputError, "not the weights of tiny-ResNet"),
    ("openclip:ViT-B-32/{path}", InputError, "expected shape .* found"),
    ("openclip:ViT-L-14/{path}", InputError, "open_clip_config.json"),
    ("openclip:tiny-ViT/{cut}", InputError, "cannot be read as one"),
    ("openclip:tiny-ViT/{text}", InputError, "found a file that cannot be read as one"),
    ("openclip:tiny-ViT/{pickled}", InputError, "nothing of the file was run"),
    ("openclip:tiny-ViT/{cut_safetensors}", InputError, "load safely"),
    ("openclip:tiny-ViT/{listed}", InputError, "found list"),
    ("openclip:tiny-ViT/{path}@3", InputError, "@3: expected a layer of 1 to 2, found 3"),
    ("openclip:tiny-ViT/{path}@2,2", InputError, "each once, found 2,2"),
]


@pytest.mark.parametrize(("spec", "error", "message"), ERRORS)
def test_errors(saved, spec, error, message):
    _, path = saved
    files = {"path": path}
    for name, content in (
        ("cut", path.read_bytes()[:1000]),
        ("text", b"hello"),
        ("cut_safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{"),
    ):
        suffix = "safetensors" if "safetensors" in name else "pt"
        files[name] = path.parent / f"{name}.{suffix}"
        files[name].write_bytes(content)
    files |= {name: path.parent / f"{name}.pt" for name in ("pickled", "listed")}
    torch.save(clip("tiny-ViT"), files["pickled"])  # a whole module: would run code when loaded
    torch.save([1], files["listed"])
    with pytest.raises(error, match=message):
        load_encoder(spec.format(**files))


def test_offline(monkeypatch):
    def offline(*_, **__):
        raise FileNotFoundError("Failed to download: no network")

    monkeypatch.setattr(open_clip, "download_pretrained", offline)
    with pytest.raises(SynbrainError, match=r"ViT-bigG-14-laion2B.*openclip:ViT-bigG-14/FILE"):
        load_encoder("openclip:ViT-bigG-14/laion2b_s39b_b160k")


def test_a_downloaded_tag_is_the_same_as_its_file(saved, monkeypatch):
    _, path = saved
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda _: ["tag"])
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda *_: {"url": "there"})
    monkeypatch.setattr(open_clip, "download_pretrained", lambda _: str(path))
    tag, file = (load_encoder(f"openclip:tiny-ViT/{s}") for s in ("tag", path))
    assert tag.bands[0].identity == file.bands[0].identity
    assert tag.spec == "openclip:tiny-ViT/tag"
    assert file.spec == f"openclip:tiny-ViT/{path}"


def test_the_published_tower_has_256_tokens_of_1664():
    config = open_clip.get_model_config("ViT-bigG-14")
    with torch.device("meta"):  # shapes alone: no memory, no weights
        tower = open_clip.model._build_vision_tower(config["embed_dim"], config["vision_cfg"])
        features = tower.forward_intermediates(
            torch.zeros(1, 3, 224, 224), indices=1, intermediates_only=True
        )
    assert features["image_intermediates"][0].shape == (1, 1664, 16, 16)


def test_precision_by_device():
    assert precision_here("bf16", "cuda:1") == "bf16"
    assert precision_here("bf16", torch.device("cpu")) == "float32"
    for spec, precision, message in (
        ("gabor", "fp16", "computed in float32"),
        ("gabor", "fp8", "expected a precision of auto"),
    ):
        with pytest.raises(InputError, match=message):
            load_encoder(spec, precision=precision)
