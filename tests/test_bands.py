"""Names of bands, and tokens of several of them."""

from __future__ import annotations

import numpy as np
import pytest

from synbrain_cli.bands import (
    DEFAULT,
    SIMULATED,
    band_spec,
    group_bands,
    join_bands,
    split_layers,
    split_width,
)
from synbrain_cli.errors import InputError
from synbrain_cli.tokens import Tokens


@pytest.mark.parametrize(
    ("spec", "encoder", "layers"),
    [
        ("gabor", "gabor", ()),
        ("efficientnet@3", "efficientnet", (3,)),
        ("efficientnet@5,3,4", "efficientnet", (3, 4, 5)),
        (
            "openclip:ViT-B-16/laion2b_s34b_b88k@3,12",
            "openclip:ViT-B-16/laion2b_s34b_b88k",
            (3, 12),
        ),
        (
            "timm:vit_tiny//home/me@there/weights.pt@2",
            "timm:vit_tiny//home/me@there/weights.pt",
            (2,),
        ),
        ("timm:vit_tiny//home/me@3/weights.pt", "timm:vit_tiny//home/me@3/weights.pt", ()),
        ("openclip:ViT-B-16/a.pt@last", "openclip:ViT-B-16/a.pt@last", ()),
        ("gabor@", "gabor@", ()),
        ("gabor@1,", "gabor@1,", ()),
        ("@3", "@3", ()),
        ("", "", ()),
    ],
)
def test_layers_are_named_after_the_last_at(spec, encoder, layers):
    assert split_layers(spec) == (encoder, layers)


@pytest.mark.parametrize("layers", ["0", "3,3", "1,2,1", "0,1"])
def test_layers_count_from_1_and_are_named_once(layers):
    with pytest.raises(InputError, match=f"net@{layers}: expected layers from 1 on, each once"):
        split_layers(f"net@{layers}")


def test_a_band_is_an_encoder_or_a_layer_of_it():
    assert band_spec("gabor", None) == "gabor"
    assert band_spec("efficientnet", 3) == "efficientnet@3"


def test_layers_of_an_encoder_are_gathered_in_the_order_of_encoders():
    specs = ["b@4", "a", "b@2,9", "c"]
    assert group_bands(specs) == [("b", (2, 4, 9)), ("a", ()), ("c", ())]
    assert join_bands(specs) == "b@2,4,9 + a + c"
    layers = (3, 4, 5)
    assert group_bands(DEFAULT) == [
        ("gabor", ()),
        ("efficientnet", layers),
        ("efficientnet:112", layers),
        ("pixels", ()),
    ]
    assert [one for one in DEFAULT if one in SIMULATED] == list(SIMULATED)


@pytest.mark.parametrize(
    ("encoder", "network", "width"),
    [
        ("efficientnet", "efficientnet", None),
        ("efficientnet:112", "efficientnet", 112),
        ("timm:resnet10t/random:96", "timm:resnet10t/random", 96),
        ("timm:resnet10t//home/a:b/w.pt", "timm:resnet10t//home/a:b/w.pt", None),
        ("efficientnet:", "efficientnet:", None),
        ("efficientnet:x", "efficientnet:x", None),
        (":112", ":112", None),
    ],
)
def test_a_width_of_images_follows_the_network(encoder, network, width):
    assert split_width(encoder) == (network, width)


def test_one_by_one_or_together_bands_have_one_name():
    assert join_bands(["net@3", "net@4"]) == join_bands(["net@4,3"]) == "net@3,4"
    assert join_bands(["gabor"]) == "gabor"


@pytest.mark.parametrize(
    "specs", [["a", "a"], ["a", "a@1"], ["a@1", "a"], ["a@1,2", "a@2"], ["b", "a@3", "a@3"]]
)
def test_a_band_is_named_once(specs):
    with pytest.raises(InputError, match=rf"image encoder {specs[-1]}: named twice"):
        group_bands(specs)


def test_no_band_at_all_is_refused():
    for join in (group_bands, join_bands):
        with pytest.raises(InputError, match="expected an image encoder, found none"):
            join([])


# Tokens ------------------------------------------------------------------------------------------


@pytest.fixture
def tokens(rng):
    return Tokens.of(rng.normal(size=(5, 16, 3)), rng.normal(size=(5, 4, 7)))


def test_tokens_are_indexed_by_image(tokens):
    assert len(tokens) == 5
    assert tokens.shapes == ((16, 3), (4, 7))
    for images in (slice(1, 3), [4, 0], np.array([True, False, True, False, False])):
        for band, whole in zip(tokens[images].bands, tokens.bands, strict=True):
            np.testing.assert_array_equal(band, whole[images])
    assert [one.shapes for one in tokens.one_by_one()] == [tokens.shapes] * 5
    again = Tokens.concatenate(list(tokens.one_by_one()))
    for band, whole in zip(again.bands, tokens.bands, strict=True):
        np.testing.assert_array_equal(band, whole)


def test_tokens_of_another_type_are_copied_only_where_they_have_another(tokens):
    assert [band.dtype for band in tokens.astype(np.float32).bands] == [np.float32] * 2
    assert all(
        one is other for one, other in zip(tokens.astype(float).bands, tokens.bands, strict=True)
    )


@pytest.mark.parametrize(
    "shapes", [[(5, 4, 3), (6, 4, 3)], [(5, 4, 3), (5, 4)], [(4, 3)], [(2, 5, 4, 3)], []]
)
def test_bands_of_different_images_are_refused(shapes):
    with pytest.raises(InputError, match="tokens of the same images in every band"):
        Tokens(tuple(np.zeros(shape) for shape in shapes))
