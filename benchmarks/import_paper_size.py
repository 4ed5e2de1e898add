"""What does a model of the published size cost to import, load and draw from?

    python benchmarks/import_paper_size.py

Writes a pair of checkpoints of the published format and size with random weights (BrainVAE of 78 M
parameters; mapper of 411 M, twice, as ``model`` and ``ema``; without optimisers, which an import
never reads), then, each in a process of its own, from tokens that are random, too:

- import: checkpoints and a mask of 15,724 voxels → a bundle;
- synthesize: loading the bundle (checksums included), then the mean response to one image and one
  draw with noise in the latent, decoded to 15,724 voxels.

The encoder of the published model is not needed for that, nor loaded: pixels → tokens are not
measured here.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from common import Timer, measured, report, save

from synbrain_cli.config import MapperConfig, VAEConfig

SUBJECT, N_VOXELS, GRID = "1", 15_724, (81, 104, 83)
LIMIT = 24_000  # megabytes


def random_weights(shapes: dict[str, tuple[int, ...]], prefix: str = "") -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        prefix + key: torch.randn(shape, generator=generator) / max(np.prod(shape[1:]), 1) ** 0.5
        for key, shape in shapes.items()
    }


def make(root: Path) -> None:
    from synbrain_cli.model.published import published_mapper_shapes, published_vae_shapes

    with Timer() as timer:
        vae = random_weights(published_vae_shapes(VAEConfig()), "module.")
        torch.save({"epoch": 0, "model": vae, "optimizer": {}}, root / "last.pth")
        mapper = random_weights(published_mapper_shapes(MapperConfig()))
        settings = argparse.Namespace(model_head=13, prediction="x")
        ema = {key: weight.clone() for key, weight in mapper.items()}
        content = {"model": mapper, "ema": ema, "opt": {}, "args": settings, "steps": 0}
        torch.save(content, root / "last.pt")
        inside = np.zeros(np.prod(GRID), np.uint8)
        inside[-N_VOXELS:] = 1
        nib.save(nib.Nifti1Image(inside.reshape(GRID), np.eye(4)), root / "nsdgeneral.nii.gz")
    report(timer.seconds, checkpoint_megabytes=_megabytes(root))


def bring_in(root: Path) -> None:
    from synbrain_cli.io.workspace import Workspace
    from synbrain_cli.pipeline.import_weights import ImportSettings, import_published
    from synbrain_cli.progress import Progress
    from synbrain_cli.run import RunContext

    with Timer() as timer:
        settings = ImportSettings(
            root / "last.pth",
            root / "last.pt",
            mask=root / "nsdgeneral.nii.gz",
            subject=SUBJECT,
        )
        result = import_published(
            Workspace(root), settings, run=RunContext(progress=Progress(quiet=True))
        )
    report(timer.seconds, bundle_megabytes=_megabytes(result.folder))


def synthesize(root: Path) -> None:
    from synbrain_cli import load_model

    tokens = np.random.default_rng(0).standard_normal((1, 256, 1664), np.float32)
    with Timer() as loading:
        brain = load_model(root / "weights" / "sub-01_published", "cpu")
    with Timer() as mean:
        response = brain.mean(tokens)
    with Timer() as latent:
        draws = brain.draw(tokens, sampling="latent", noise_factor=0.5)
    if response.shape != (1, N_VOXELS) or not np.isfinite([response, draws[:, 0]]).all():
        raise SystemExit(f"expected {N_VOXELS} finite values, found {response.shape}")
    report(
        loading.seconds + mean.seconds + latent.seconds,
        seconds_loading=loading.seconds,
        seconds_mean=mean.seconds,
        seconds_latent_draw=latent.seconds,
    )


def _megabytes(folder: Path) -> float:
    return sum(p.stat().st_size for p in folder.iterdir() if p.is_file()) / 1e6


STEPS = {"make": make, "import": bring_in, "synthesize": synthesize}


def main() -> None:
    if sys.argv[1:2] == ["--step"]:
        return STEPS[sys.argv[2]](Path(sys.argv[3]))
    with tempfile.TemporaryDirectory() as folder:
        steps = {name: measured(__file__, "--step", name, folder) for name in STEPS}
    peak = max(steps[name]["peak_megabytes"] for name in ("import", "synthesize"))
    result = {
        "n_voxels": N_VOXELS,
        "threads": torch.get_num_threads(),
        "steps": steps,
        "peak_megabytes": peak,
        "limit_megabytes": LIMIT,
        "within_limit": peak < LIMIT,
    }
    for name, values in steps.items():
        print(name, {k: round(v, 1) for k, v in values.items()})
    print(save("import_paper_size", "python benchmarks/import_paper_size.py", result))


if __name__ == "__main__":
    main()
