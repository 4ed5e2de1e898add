"""A model on open_clip tokens, end to end, with a small randomly initialised tower."""

from __future__ import annotations

import json

import numpy as np
import pytest

from synbrain_cli import load_model
from synbrain_cli.errors import InputError
from synbrain_cli.pipeline.prepare import prepare_nsd
from synbrain_cli.pipeline.progress import Report
from synbrain_cli.pipeline.train import train
from synbrain_cli.pipeline.workspace import Workspace

QUIET = Report(quiet=True)
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
        workspace, prepared.root / "simulated", subjects=[1], encoder=spec, report=QUIET
    )
    assert np.load(result.tokens / "tokens.npy", mmap_mode="r").shape[1:] == (16, 32)
    store = workspace.find_tokens("nsd", spec, QUIET.say)
    train(workspace, result.subjects[0], store, preset="test", device="cpu", report=QUIET)
    model = load_model(workspace.weights / "sub-01", "cpu")
    images = np.random.default_rng(0).integers(0, 256, (3, 50, 60, 3), np.uint8)
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
