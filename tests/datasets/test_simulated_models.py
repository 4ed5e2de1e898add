"""Which models are right in which areas of a simulated subject.

With ``--full-demo``, also tokens of a pretrained encoder, two minutes more;
``-s`` prints the table of docs/simulated-subjects.md.
"""

from __future__ import annotations

import numpy as np
import pytest

from synbrain_cli.datasets.nsd import prepare_subject
from synbrain_cli.datasets.nsd_design import image_id
from synbrain_cli.datasets.nsd_files import NSD
from synbrain_cli.datasets.simulated import SimulationConfig, simulate
from synbrain_cli.features.gabor import Gabor
from synbrain_cli.features.timm_towers import EfficientNet
from synbrain_cli.metrics.accuracy import average_repeats, voxelwise_correlation

pytestmark = pytest.mark.slow
KINDS = ("energy", "pooled", "tolerant", "routed", "category", "linear")


def standardised(features, n_train):
    flat = features.reshape(len(features), -1).astype(np.float64)
    return (flat - flat[:n_train].mean(0)) / (flat[:n_train].std(0) + 1e-6)


def linear_kernel(bands, n_train):
    """Mean of the kernels of bands, each of mean 1 on its diagonal."""
    kernels = [x @ x.T / x.shape[1] for x in (standardised(band, n_train) for band in bands)]
    return np.mean(kernels, 0)


def gaussian_kernel(features, n_train):
    x = standardised(features, n_train)
    squares = (x**2).sum(1)
    distance = squares[:, None] + squares - 2 * x @ x.T
    return np.exp(-distance / np.median(distance[:n_train, :n_train]))


def ridge(kernel, responses):
    """Kernel ridge, whose penalty for each voxel is chosen in five folds: test predictions."""
    n, penalties = len(responses), np.logspace(-5, 0, 16)
    to_train = kernel[:, :n].mean(1)  # features are centred on the training images
    kernel = kernel - to_train[:, None] - to_train + to_train[:n].mean()
    targets = responses - responses.mean(0)

    def predictions(train, test):
        values, vectors = np.linalg.eigh(kernel[np.ix_(train, train)])
        left, right = kernel[np.ix_(test, train)] @ vectors, vectors.T @ targets[train]
        for penalty in penalties:
            yield left @ (right / (values + penalty * len(train))[:, None])

    fold = np.random.default_rng(0).permutation(n) % 5
    errors = np.zeros((len(penalties), responses.shape[1]))
    for f in range(5):
        train, test = np.flatnonzero(fold != f), np.flatnonzero(fold == f)
        for i, predicted in enumerate(predictions(train, test)):
            errors[i] += ((predicted - targets[test]) ** 2).sum(0)
    best = errors.argmin(0)
    out = np.empty((len(kernel) - n, responses.shape[1]))
    for i, predicted in enumerate(predictions(np.arange(n), np.arange(n, len(kernel)))):
        out[:, best == i] = predicted[:, best == i]
    return out + responses.mean(0)


def attended(tokens):
    """What a network with attention could compute: `gabor` tokens where the contrast is highest."""
    contrast = tokens[..., 44]
    salience = contrast - contrast.mean(1, keepdims=True)
    salience = np.exp(6 * salience / (contrast.std(1, keepdims=True) + 1e-3))
    weights = salience / salience.sum(1, keepdims=True)
    relative = tokens - tokens[..., :32].mean(-1, keepdims=True)
    return np.einsum("np,npc->nc", weights, relative)


def own_units(driven):
    """Units of the areas of one kind: orthogonal, in place of the simulation's."""
    scores, values, _ = np.linalg.svd(
        (driven - driven.mean(0)) / driven.std(0), full_matrices=False
    )
    return scores[:, values > 1e-4 * values[0]]


@pytest.fixture(scope="module")
def found(tmp_path_factory, request):
    """Correlations with the noise-free response to test images: (n_voxels,) by model; kinds."""
    root = simulate(tmp_path_factory.mktemp("simulated") / "nsd", SimulationConfig(n_subjects=1))
    nsd = NSD(root)
    subject = prepare_subject(nsd, 1, root.parent / "prepared/simulated/sub-01")
    train, test = subject.select("train"), subject.select("test")
    names = [*train.images, *test.images]
    n, pixels = len(train.images), np.stack(list(nsd.read_images(names)))
    responses = average_repeats(train.betas, train.image_index)[0].astype(float)
    rows = {image: row for row, image in enumerate(nsd.design.subject_images[0])}
    with np.load(root / "truth/subj01.npz") as file:
        shown = [rows[image_id(name)] for name in names]
        mean, driven = (file[name][shown].astype(float) for name in ("mean", "driven"))
        kind, area = file["kind"], file["area"]

    gabor = Gabor()(pixels).bands[0]
    predicted = {
        "gabor": ridge(linear_kernel([gabor], n), responses),
        "kernel": ridge(gaussian_kernel(gabor, n), responses),
        "attended": ridge(linear_kernel([attended(gabor)], n), responses),
    }
    if request.config.getoption("--full-demo"):
        tokens = EfficientNet()(pixels).bands
        predicted["efficientnet"] = ridge(linear_kernel(tokens, n), responses)
    predicted["own units"] = np.full_like(driven[n:], np.nan)
    for group in ("pooled", "tolerant", "routed", "FFA-1", "PPA", "VWFA-1"):
        inside = (kind == group) | (area == group)
        units = linear_kernel([own_units(driven[:, inside])], n)
        predicted["own units"][:, inside] = ridge(units, responses[:, inside])
    predicted["ceiling"] = driven[n:]
    r = {name: voxelwise_correlation(mean[n:], values) for name, values in predicted.items()}
    medians = {k: {name: np.median(values[kind == k]) for name, values in r.items()} for k in KINDS}
    print(f"\n{n} training images")
    print("| kind | voxels |", " | ".join(r), "|")
    for k, values in medians.items():
        row = " | ".join("–" if np.isnan(v) else f"{v:.2f}".lstrip("0") for v in values.values())
        print(f"| `{k}` | {(kind == k).sum()} | {row} |")
    return medians


def test_ridge_on_gabor_is_right_in_linear_areas_alone(found):
    below = {kind: values["ceiling"] - values["gabor"] for kind, values in found.items()}
    assert below["linear"] == min(below.values())
    assert below["linear"] < 0.15
    assert found["linear"]["gabor"] > found["linear"]["kernel"]
    for kind in ("pooled", "tolerant", "routed", "category"):
        assert below[kind] > 0.15, kind


def test_the_right_features_are_learned_from_as_many_images(found):
    for kind in ("pooled", "tolerant", "routed", "category"):
        values = found[kind]
        assert values["own units"] > values["gabor"] + 0.1, kind
        assert values["own units"] > values["ceiling"] - 0.1, kind


def test_attention_over_gabor_tokens_is_right_in_routed_areas_alone(found):
    for kind, values in found.items():
        gain = values["attended"] - values["gabor"]
        assert gain > 0.1 if kind == "routed" else gain < 0, kind


def test_a_pretrained_encoder_is_right_in_category_areas(found):
    if "efficientnet" not in found["category"]:
        pytest.skip("two minutes more: --full-demo")
    for kind, values in found.items():
        gain = values["efficientnet"] - values["gabor"]
        assert gain > 0.1 if kind == "category" else gain < 0.1, kind
