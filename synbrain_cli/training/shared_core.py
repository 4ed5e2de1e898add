"""What is shared across people, trained across people: the core that adaptation builds on.

Kept in ``weights/cores/<people>_<key>/``, as it serves every new person: the key is made of the
people's data, the encoder, the settings and the seed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from msgspec.structs import replace
from torch import Tensor

from synbrain_cli.config import CORE_EPOCHS, CORE_IMAGES, CORE_STAGE, CoreConfig
from synbrain_cli.errors import InputError
from synbrain_cli.io.bundle import load_arrays, save_arrays
from synbrain_cli.io.files import locked, replace_folder, sha256, versions, write_json
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.surface import HEMISPHERES, fsaverage
from synbrain_cli.io.token_store import TokenStore
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.model.core import (
    VOXEL_PARTS,
    Core,
    CoreEvidence,
    SharedCore,
    Sheet,
    load_core,
    receptive_fields,
)
from synbrain_cli.model.fit import Stage
from synbrain_cli.model.tokens import TokenScaler
from synbrain_cli.pipeline.train import fit_resumably
from synbrain_cli.progress import Progress
from synbrain_cli.run import RunContext
from synbrain_cli.training.examples import Examples, load_examples
from synbrain_cli.training.voxel_order import sheet_places

FEW_VOXELS = 5_000  # so few keep one core busy, and two badly
N_NODES = 2562  # of fsaverage4's sphere: the first vertices of fsaverage5's, 7 mm apart


@dataclass(frozen=True)
class TrainedCore:
    """A core, its people's voxels, and the field that a new person's are read from.

    Attributes
    ----------
    core : Core
    scaler : TokenScaler
    sources : tuple of tensors
        What the source people's voxels read: field, local, whole, offset.
    shared : tuple of tensors
        What the nodes of the sheet read: field, local, whole.
    sheet : Sheet
    """

    core: Core
    scaler: TokenScaler
    sources: tuple[Tensor, ...]
    shared: tuple[Tensor, ...]
    sheet: Sheet

    def evidence(self, subject: PreparedSubject) -> CoreEvidence:
        """What it says of the source people's voxels, and of a new person's by their place."""
        basis = torch.from_numpy(self.sheet.basis(*sheet_places(subject)))
        field, local, whole = self.shared
        new = (basis @ field, local @ basis.T, whole @ basis.T, torch.zeros(len(basis)))
        voxels = tuple(
            torch.cat([old, one], dim=0 if name == "field" else -1)
            for name, old, one in zip(VOXEL_PARTS, self.sources, new, strict=True)
        )
        return CoreEvidence(self.core, self.scaler, voxels, len(self.sources[0]))


def grid_side(store: TokenStore) -> int:
    """Tokens a side.

    Raises
    ------
    InputError
        Where tokens are on no square grid of 4 × 4 or more: receptive fields need one.
    """
    n_tokens = store.tokens.shape[1]
    side = round(n_tokens**0.5)
    if side * side != n_tokens or side < 4:
        raise InputError(
            f"{store.folder}: {n_tokens} tokens an image: the shared core needs a square grid of "
            "4 × 4 tokens or more, as gabor and vision transformers give"
        )
    return side


def train_core(
    workspace: Workspace,
    people: Sequence[tuple[PreparedSubject, TokenStore]],
    *,
    seed: int = 0,
    device: torch.device | None = None,
    progress: Progress | None = None,
) -> TrainedCore:
    """Train a core on the training images of several people, or take the one trained before.

    An interrupted training goes on after its last finished epoch.

    Parameters
    ----------
    workspace : Workspace
    people : sequence of (PreparedSubject, TokenStore)
        One encoder for all. Validation images decide when to stop; test images are not opened.
    seed : int
    device : torch.device, optional
        Default the CPU.
    progress : Progress, optional
    """
    progress = progress or Progress()
    store = people[0][1]
    config = CoreConfig(side=grid_side(store), n_dims=store.tokens.shape[2])
    settings = {
        "people": [f"{p.dataset}/sub-{p.subject}" for p, _ in people],
        "data": [sha256(p.folder / "dataset_description.json") for p, _ in people],
        "encoder": msgspec.to_builtins(store.identity),
        "core": config.to_dict(),
        "stage": CORE_STAGE.to_dict() | {"images": CORE_IMAGES},
        "seed": seed,
    }
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    label = "+".join(f"sub-{p.subject}" for p, _ in people)
    folder = workspace.weights / "cores" / f"{label}_{key}"
    with locked(folder, "a shared core"):
        if not (folder / "config.json").exists():
            _train(folder, people, config, settings, seed, device or torch.device("cpu"), progress)
    named = load_arrays(folder / "core.safetensors")

    def tensors(prefix: str, names: Sequence[str]) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(named[f"{prefix}.{name}"].copy()) for name in names)

    return TrainedCore(
        load_core(config, named),
        TokenScaler(named["token_mean"], named["token_sd"]),
        tensors("sources", VOXEL_PARTS),
        tensors("shared", VOXEL_PARTS[:3]),
        Sheet(named["nodes"], named["side"]),
    )


def _train(
    folder: Path,
    people: Sequence[tuple[PreparedSubject, TokenStore]],
    config: CoreConfig,
    settings: dict,
    seed: int,
    device: torch.device,
    progress: Progress,
) -> None:
    scaler = None
    splits: list[tuple[Examples, Examples]] = []
    for subject, store in people:
        examples = load_examples(subject, store, scaler=scaler)
        scaler = examples.scaler
        splits.append((examples.train, examples.val))
    places = [sheet_places(subject) for subject, _ in people]
    sphere = fsaverage("sphere")
    sheet = Sheet.around(
        {k: sphere[h].coordinates[:N_NODES].astype(float) for k, h in enumerate(HEMISPHERES)},
        places,
    )
    bases = [sheet.basis(*place) for place in places]
    network = SharedCore(
        config,
        bases,
        torch.Generator().manual_seed(seed),
    )
    n_images = [len(train.tokens) for train, _ in splits]
    epochs = min(CORE_STAGE.epochs, max(CORE_EPOCHS, -(-CORE_IMAGES // sum(n_images))))
    progress.info(f"shared core: {sum(n_images):,} images of {', '.join(settings['people'])}")
    network.start_from([receptive_fields(t.tokens[:], t.averages) for t, _ in splits])
    network = network.to(device)
    tokens = [torch.from_numpy(t.tokens[:]).to(device) for t, _ in splits]
    averages = [torch.from_numpy(t.averages).to(device) for t, _ in splits]
    # An average over more repeats says more of the response.
    weights = [_repeat_weights(t).to(device) for t, _ in splits]
    first = np.cumsum([0, *n_images])

    def step(items: Tensor, generator: torch.Generator) -> Tensor:
        error = torch.zeros((), device=device)
        for k in range(len(splits)):
            mine = items[(items >= first[k]) & (items < first[k + 1])] - int(first[k])
            if not len(mine):
                continue
            mine = mine.to(device)
            kept = torch.rand(len(mine), config.n_global, generator=generator, device=device)
            dropout = (kept >= config.dropout) / (1 - config.dropout)
            residual = network(tokens[k][mine], k, dropout) - averages[k][mine]
            error = error + (weights[k][mine] * residual.square().mean(1)).sum()
        return error / len(items)

    @torch.inference_mode()
    def score(network: SharedCore) -> float:
        """Share of the variance of validation images' averages, mean over people."""
        shares = []
        for k, (_, val) in enumerate(splits):
            predicted = torch.cat(
                [network(torch.from_numpy(part).to(device), k) for part in val.tokens.batches(64)]
            )
            error = (predicted.cpu().numpy() - val.averages) ** 2
            shares.append(1 - float(error.sum() / (val.averages**2).sum()))
        return float(np.mean(shares))

    partial = folder.with_name(f".{folder.name}.partial")
    checkpoint = partial / "core.pt"
    # Adam's moments of weights that nothing moves sink to numbers that CPUs are slow with.
    torch.set_flush_denormal(True)
    n_threads = torch.get_num_threads()
    if sum(len(basis) for basis in bases) < FEW_VOXELS:
        torch.set_num_threads(1)
    try:
        state = fit_resumably(
            checkpoint,
            Stage(
                "shared core",
                network,
                network.parameter_groups(config),
                step,
                score,
                sum(n_images),
                replace(CORE_STAGE, epochs=epochs),
            ),
            RunContext(seed, device, progress=progress),
        )
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(n_threads)
    network = network.cpu()
    with torch.inference_mode():
        each = [network.voxels(k) for k in range(len(people))]
    arrays = {f"core.{k}": v for k, v in network.core.state_dict().items()}
    arrays |= {
        f"sources.{name}": torch.cat([v[j] for v in each], dim=0 if name == "field" else -1)
        for j, name in enumerate(VOXEL_PARTS)
    }
    arrays |= {f"shared.{name}": getattr(network.shared, name) for name in VOXEL_PARTS[:3]}
    save_arrays(
        partial / "core.safetensors",
        {k: v.detach().numpy() for k, v in arrays.items()}
        | {
            "token_mean": scaler.mean,
            "token_sd": scaler.sd,
            "nodes": sheet.nodes,
            "side": sheet.side,
        },
    )
    checkpoint.unlink()
    history = {k: state[k] for k in ("best_epoch", "best_score", "history")}
    write_json(
        partial / "config.json",
        {**settings, "training": history, "versions": versions()},
    )
    shutil.rmtree(folder, ignore_errors=True)
    replace_folder(partial, folder)


def _repeat_weights(examples: Examples) -> Tensor:
    """Repeats of each image, as a share of their mean."""
    repeats = np.bincount(examples.image_index)
    return torch.from_numpy(np.float32(repeats / repeats.mean()))
