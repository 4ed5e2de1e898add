"""A model on open_clip tokens, end to end, with a small randomly initialised tower."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sealing import change_sealed

from synbrain_cli import load_model
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.features.loading import load_encoder
from synbrain_cli.io.files import read_json
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.pipeline.extract_tokens import TokenRequest, extract_tokens
from synbrain_cli.pipeline.nsd_copy import NSDSource
from synbrain_cli.pipeline.prepare import prepare_nsd
from synbrain_cli.pipeline.preparing import Target
from synbrain_cli.pipeline.train import TrainSettings, train
from synbrain_cli.progress import Progress
from synbrain_cli.run import RunContext

QUIET = Progress(quiet=True)
RUN = RunContext(progress=QUIET)
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": 32,
        "layers": 1,
        "width": 32,
        "head_width": 16,
        "patch_size": 8,
    },
    "text_cfg": {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    """Spec of a saved tower, and the file."""
    import open_clip
    import torch

    folder = tmp_path_factory.mktemp("tower")
    (folder / "end-to-end-ViT.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(folder / "end-to-end-ViT.json")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.create_model("end-to-end-ViT")
    torch.save(model.state_dict(), folder / "weights.pt")
    return f"openclip:end-to-end-ViT/{folder / 'weights.pt'}", folder / "weights.pt"


def test_prepare_train_draw(tower, prepared, tmp_path):
    import torch

    spec, file = tower
    workspace = Workspace(tmp_path)
    result = prepare_nsd(
        Target(workspace, "nsd", (spec,)),
        NSDSource(prepared.root / "simulated", subjects=[1]),
        RunContext(progress=QUIET),
    )
    assert [one.tokens.shape[1:] for one in result.tokens.stores] == [(16, 32)]
    store = workspace.find_tokens("nsd", [spec], QUIET.info)
    run = RunContext(progress=QUIET)
    train(workspace, result.subjects[0], store, TrainSettings(preset="test"), run)
    model = load_model(workspace.weights / "sub-01", "cpu")
    images = np.random.default_rng(0).integers(0, 256, (3, 50, 60, 3), np.uint8)
    assert model.config.bands[0].precision == model.encoder.precision == "float32"
    draws = model.draw(images, n_draws=2)
    assert draws.shape == (3, 2, model.n_voxels)
    assert np.isfinite(draws).all()
    np.testing.assert_allclose(model.mean(model.encoder(images)), model.mean(images), atol=1e-4)

    # Other weights under the same name are noticed, not used.
    whole = file.read_bytes()
    state = torch.load(file, weights_only=True)
    torch.save({k: v + 0.01 if v.is_floating_point() else v for k, v in state.items()}, file)
    try:
        with pytest.raises(InputError, match="trained with the image encoder"):
            load_model(workspace.weights / "sub-01", "cpu").mean(images)
    finally:
        file.write_bytes(whole)


def test_a_store_keeps_its_precision(tower, tmp_path, rng):
    spec, _ = tower
    pictures = {f"i{k:02d}": rng.integers(0, 256, (40, 40, 3), np.uint8) for k in range(37)}
    names = list(pictures)

    def extract(names, precision="auto"):
        def read(some):
            return (pictures[name] for name in some)

        (store,) = extract_tokens(
            tmp_path, names, read, TokenRequest((spec,), precision), RUN
        ).stores
        return store

    store = extract(names[:20], "fp16")
    assert store.precision == "fp16"
    assert store.tokens.dtype == np.float16
    expected = load_encoder(spec, precision="fp16")(list(pictures.values())[:20]).bands[0]
    np.testing.assert_array_equal(store.take(names[:20]), expected)
    assert store.take(names[:1]).dtype == np.float32
    np.testing.assert_array_equal(store.rows_of(["i03", "i00", "i03"]), [3, 0, 3])
    with pytest.raises(MissingError, match="i30"):
        store.rows_of(["i30"])

    for other in ("float32", "bf16"):
        with pytest.raises(InputError, match="computed in fp16"):
            extract(names, other)
    grown = extract(names)  # on a CPU in float32, kept as the others are
    assert (grown.precision, grown.tokens.dtype, len(grown.tokens)) == ("fp16", np.float16, 37)
    np.testing.assert_array_equal(grown.take(names[:20]), expected)
    exact = load_encoder(spec)([pictures[name] for name in names[20:]]).bands[0]
    np.testing.assert_allclose(grown.take(names[20:]), exact, rtol=2**-11, atol=1e-7)


def test_older_stores_are_of_float32(tower, tmp_path, rng):
    spec, _ = tower
    pictures = list(rng.integers(0, 256, (3, 40, 40, 3), np.uint8))

    def extract(names, shown, precision="auto"):
        request = TokenRequest((spec,), precision)
        (store,) = extract_tokens(tmp_path, names, lambda _: shown, request, RUN).stores
        return store

    store = extract(["a", "b"], pictures[:2])
    path = store.folder / "encoder.json"
    assert read_json(path)["precision"] == "float32"
    change_sealed(path, precision=...)
    with pytest.raises(InputError, match="computed in float32"):
        extract(["c"], pictures[2:], "fp16")
    store = extract(["c"], pictures[2:])
    assert store.tokens.dtype == np.float32
    np.testing.assert_array_equal(store.take("abc")[2:], load_encoder(spec)(pictures[2:]).bands[0])


def test_tokens_do_not_depend_on_where_a_run_stopped(tower, tmp_path, rng, monkeypatch):
    """Batches are cut at fixed rows; a broken image ends a run after the round before."""
    from synbrain_cli.pipeline import extract_tokens as module

    monkeypatch.setattr(module, "BATCHES_PER_ROUND", 1)
    monkeypatch.setattr(module, "READ_TOGETHER", 8)
    spec, _ = tower
    pictures = {f"i{k:03d}": rng.integers(0, 256, (40, 40, 3), np.uint8) for k in range(75)}
    broken = "i050"

    def read(names):
        for name in names:
            if name == broken:
                raise InputError(f"{name} is broken")
            yield pictures[name]

    with pytest.raises(InputError, match="i050 is broken"):
        extract_tokens(tmp_path / "stopped", list(pictures), read, TokenRequest((spec,)), RUN)
    (stopped,) = (tmp_path / "stopped/features").glob(".*.partial")
    n_done = len((stopped / "images.tsv").read_text().splitlines()) - 1
    assert n_done in (16, 32)
    broken = None
    stores = [
        extract_tokens(tmp_path / name, list(pictures), read, TokenRequest((spec,)), RUN)
        for name in ("stopped", "whole")
    ]
    assert stores[0].images == stores[1].images == list(pictures)
    np.testing.assert_array_equal(*(store.stores[0].tokens for store in stores))
