"""`synbrain weights export`: models in a folder of BERG, and what BERG's calls give with them."""

from __future__ import annotations

import json
import shutil
import sys

import berg_stand_in
import numpy as np
import pytest

from synbrain_cli import register_with_berg
from synbrain_cli.brain import load_model
from synbrain_cli.errors import InputError, MissingError

NAME = "fmri-simulated-synbrain_sub-01_linear"


@pytest.fixture(scope="module")
def bundle(linear_bundles):
    return linear_bundles["1"]


@pytest.fixture
def berg(monkeypatch):
    berg_stand_in.install(monkeypatch)
    return sys.modules["berg"]


@pytest.fixture
def folder(synbrain, bundle, tmp_path):
    code, output, error = synbrain("weights", "export", bundle, "--berg", tmp_path / "berg")
    assert code == 0, error
    below = "encoding_models/modality-fmri/train_dataset-simulated/model-synbrain_sub-01_linear"
    assert output.strip() == str(tmp_path / "berg" / below)
    return tmp_path / "berg"


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (3, 3, 40, 50), np.uint8)


def test_berg_encodes_as_the_model_does(folder, berg, bundle, images):
    assert register_with_berg(folder) == [NAME]
    toolkit, own = berg.BERG(folder), load_model(bundle, "cpu")
    model = toolkit.get_encoding_model(NAME, device="cpu", subject=1)
    found, metadata = toolkit.encode(model, images, return_metadata=True, show_progress=False)
    expected = own.mean(np.ascontiguousarray(images.transpose(0, 2, 3, 1)))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.dtype == np.float32
    assert metadata["fmri"]["unit"] == own.unit
    assert metadata["encoding_model"]["fingerprint"] == own.config.fingerprint
    for roi, inside in own.rois().items():
        np.testing.assert_array_equal(metadata["fmri"]["rois"][roi], inside)
        part = toolkit.get_encoding_model(NAME, device="cpu", selection={"roi": roi})
        some = toolkit.encode(part, images[:1], show_progress=False)
        np.testing.assert_allclose(some, expected[:1, inside], atol=1e-5)
        break


def test_more_images_than_one_step(folder, berg, bundle, images, monkeypatch):
    monkeypatch.setattr("synbrain_cli.brain.berg.TOGETHER", 2)
    register_with_berg(folder)
    model = berg.BERG(folder).get_encoding_model(NAME, device="cpu")
    expected = load_model(bundle, "cpu").mean(np.ascontiguousarray(images.transpose(0, 2, 3, 1)))
    np.testing.assert_allclose(model.generate_response(images, False), expected, atol=1e-5)


def test_what_berg_is_not_given_right(folder, berg, images):
    register_with_berg(folder)
    toolkit, faults = berg.BERG(folder), sys.modules["berg.core.exceptions"]
    for wrong, message in (
        ({"subject": 2}, "subject 2: expected 01"),
        ({"selection": {"roi": "Oz"}}, "roi Oz: expected one of"),
        ({"selection": {"channels": ["Oz"]}}, "selection: expected roi, found channels"),
    ):
        with pytest.raises(faults.InvalidParameterError, match=message):
            toolkit.get_encoding_model(NAME, **wrong)
    model = toolkit.get_encoding_model(NAME, device="cpu")
    for wrong, message in (
        (images.transpose(0, 2, 3, 1), r"expected an array \(n_images, 3, height, width\), found"),
        (images.astype(float), "expected whole numbers from 0 to 255, found float64"),
        (images.astype(int) + 200, "expected values from 0 to 255"),
        (images[:0], "expected one image or more"),
        ("a.png", "found str"),
    ):
        with pytest.raises(faults.StimulusError, match=message):
            toolkit.encode(model, wrong)
    model.cleanup()
    with pytest.raises(faults.ModelLoadError, match="not loaded, or cleaned up"):
        toolkit.encode(model, images)


def test_a_damaged_model_is_named(folder, berg):
    register_with_berg(folder)
    (arrays,) = folder.rglob("linear.safetensors")
    arrays.write_bytes(arrays.read_bytes()[:-9])
    faults = sys.modules["berg.core.exceptions"]
    with pytest.raises(faults.ModelLoadError, match=r"linear\.safetensors"):
        berg.BERG(folder).get_encoding_model(NAME, device="cpu")


@pytest.mark.parametrize("damage", ["cut", "type", "rois"])
def test_a_damaged_card_is_named(folder, berg, damage):
    (card,) = folder.rglob("model_card.yaml")
    content = json.loads(card.read_text())
    if damage == "cut":
        card.write_text(card.read_text()[:200])
    else:
        changed = {"type": {"model_id": 3}, "rois": {"rois": "V1"}}[damage]
        card.write_text(json.dumps(content | changed))
    with pytest.raises(InputError, match=r"model_card\.yaml.*export the model again"):
        register_with_berg(folder)


def test_the_card_says_what_the_model_is(folder, bundle):
    (card,) = folder.rglob("model_card.yaml")
    content, own = json.loads(card.read_text()), load_model(bundle, "cpu")
    assert "no brain was measured" in content["description"]
    assert content["parameters"]["subject"]["valid_values"] == [1]
    rois = content["parameters"]["selection"]["properties"]["roi"]["valid_values"]
    assert rois == list(own.rois())
    values = [metric["value"] for metric in content["performance"]["metrics"]]
    assert values == [f"{score:.3f}" for score in own.config.training.validation.values()]


def test_export_again_changes_nothing(folder, synbrain, bundle):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    code, _, error = synbrain("weights", "export", bundle, "--berg", folder)
    assert code == 0
    assert "already there, of the same model" in error
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before


def test_what_cannot_be_exported(synbrain, bundle, linear_bundles, tmp_path):
    damaged = shutil.copytree(bundle, tmp_path / "weights/sub-01_linear")
    (damaged / "readout.safetensors").write_bytes(b"x")
    code, _, error = synbrain("weights", "export", damaged, "--berg", tmp_path / "berg")
    assert code == 1
    assert "was not exported" in error
    assert "readout.safetensors" in error
    code, _, error = synbrain(
        "weights", "export", "nothing", "--berg", tmp_path / "b", "-w", tmp_path
    )
    assert code == 1
    assert "nothing" in error
    # Another model of the same name
    assert synbrain("weights", "export", bundle, "--berg", tmp_path / "berg")[0] == 0
    shutil.rmtree(damaged)
    shutil.copytree(linear_bundles["2"], damaged)
    settings = next((tmp_path / "berg").rglob("model-*/settings.json"))
    content = json.loads(settings.read_text()) | {"fingerprint": "0" * 16}
    settings.write_text(json.dumps(content))
    code, _, error = synbrain("weights", "export", bundle, "--berg", tmp_path / "berg")
    assert code == 1
    assert "pass --overwrite to replace it" in error
    assert synbrain("weights", "export", bundle, "--berg", tmp_path / "berg", "--overwrite")[0] == 0


def test_without_berg_it_is_said(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "berg", None)
    with pytest.raises(MissingError, match="BERG is not installed here"):
        register_with_berg(folder)


def test_a_folder_without_models_is_named(berg, tmp_path):
    with pytest.raises(MissingError, match="synbrain weights export MODEL --berg"):
        register_with_berg(tmp_path)
