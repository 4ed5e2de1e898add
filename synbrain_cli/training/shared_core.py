"""The shared core: an encoder trained on several subjects at once, on which adaptation builds.

Kept in ``weights/cores/<subjects>_<key>/``, as it serves every new subject: the key is a checksum
of what the core depends on (the subjects' data, the encoder, the settings and the seed).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from msgspec.structs import replace
from torch import Tensor

from synbrain_cli.config import CORE_EPOCHS, CORE_IMAGES, CORE_STAGE, CoreConfig
from synbrain_cli.errors import InputError
from synbrain_cli.io.arrays import load_arrays, save_arrays
from synbrain_cli.io.bundle import Record, StageHistory
from synbrain_cli.io.files import versions
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.records import read_sealed, write_sealed
from synbrain_cli.io.seal import Checksums, checked_member, file_checksum
from synbrain_cli.io.surface import HEMISPHERES, fsaverage
from synbrain_cli.io.token_store import TokenStore
from synbrain_cli.io.workfolder import FolderKind, WorkFolder, work_folder
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.labels import derived_name
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
from synbrain_cli.run import RunContext
from synbrain_cli.training.examples import (
    Examples,
    SubjectExamples,
    load_examples,
    share_predicted,
)
from synbrain_cli.training.resumable_fit import fit_resumably
from synbrain_cli.training.voxel_order import sphere_positions

CORE = FolderKind("a shared core")
ARRAYS = "core.safetensors"
FEW_VOXELS = 5_000  # fewer are computed faster by one thread than by several
N_NODES = 2562  # of fsaverage4's sphere: the first vertices of fsaverage5's, 7 mm apart


@dataclass(frozen=True)
class TrainedCore:
    """A core, the readouts of its subjects' voxels, and the prior for a new subject's voxels.

    Attributes
    ----------
    core : Core
    scaler : TokenScaler
    sources : tuple of tensors
        What the source subjects' voxels read: field, local, whole, offset.
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
        """Predict the source subjects' voxels, and a new subject's by their cortical position."""
        basis = torch.from_numpy(self.sheet.basis(*sphere_positions(subject)))
        field, local, whole = self.shared
        new = (basis @ field, local @ basis.T, whole @ basis.T, torch.zeros(len(basis)))
        voxels = tuple(
            torch.cat([old, one], dim=0 if name == "field" else -1)
            for name, old, one in zip(VOXEL_PARTS, self.sources, new, strict=True)
        )
        return CoreEvidence(self.core, self.scaler, voxels, len(self.sources[0]))


def grid_side(store: TokenStore) -> int:
    """Return the number of tokens along a side of their grid.

    Raises
    ------
    InputError
        When tokens are on no square grid of 4 × 4 or more: receptive fields need one.
    """
    n_tokens = store.tokens.shape[1]
    side = round(n_tokens**0.5)
    if side * side != n_tokens or side < 4:
        raise InputError(
            f"{store.folder}: {n_tokens} tokens per image: the shared core needs a square grid of "
            "4 × 4 tokens or more, as those of gabor and of vision transformers"
        )
    return side


class CoreRecord(Record, frozen=True):
    """``config.json`` of a core, sealed; ``settings.json`` says what it was trained on."""

    training: StageHistory
    versions: dict[str, str]
    checksums: Checksums


def core_settings(
    subjects: Sequence[tuple[PreparedSubject, TokenStore]], seed: int
) -> dict[str, Any]:
    """Return everything that a core depends on, convertible to JSON.

    Parameters
    ----------
    subjects : sequence of (PreparedSubject, TokenStore)
    seed : int
    """
    store = subjects[0][1]
    return {
        "subjects": [subject.label for subject, _ in subjects],
        "data": [subject.checksum for subject, _ in subjects],
        "encoder": msgspec.to_builtins(store.identity),
        "core": _core_config(store).to_dict(),
        "stage": CORE_STAGE.to_dict() | {"images": CORE_IMAGES},
        "seed": seed,
    }


def train_core(
    workspace: Workspace,
    subjects: Sequence[tuple[PreparedSubject, TokenStore]],
    run: RunContext,
) -> TrainedCore:
    """Train a core on the training images of several subjects, or load the one trained before.

    An interrupted training continues after its last finished epoch.

    Parameters
    ----------
    workspace : Workspace
    subjects : sequence of (PreparedSubject, TokenStore)
        One encoder for all. Validation images decide when to stop; test images are not opened.
    run : RunContext
    """
    # Set up
    config = _core_config(subjects[0][1])
    settings = core_settings(subjects, run.seed)
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    label = "+".join(f"sub-{subject.subject}" for subject, _ in subjects)
    folder = workspace.weights / "cores" / f"{derived_name(label)}_{key}"
    with work_folder(folder, CORE, settings, progress=run.progress) as work:
        if not work.is_finished:
            # Load examples
            examples = _load_all(subjects)
            n_images = sum(len(one.train.tokens) for one in examples)
            names = ", ".join(settings["subjects"])
            run.progress.info(f"shared core: {n_images:,} images of {names}")

            # Train the network
            positions = [sphere_positions(subject) for subject, _ in subjects]
            sheet = _sheet_around(positions)
            bases = [sheet.basis(*one) for one in positions]
            network = SharedCore(config, bases, torch.Generator().manual_seed(run.seed))
            network.start_from(
                [receptive_fields(e.train.tokens[:], e.train.averages) for e in examples]
            )
            network = network.to(run.device)
            stage = core_stage(network, examples, run)
            with _fast_on_cpu(sum(map(len, bases))):
                history = fit_resumably(stage, run, work.recovery / "core.pt")

            # Write the core
            voxels = _voxels(network.cpu(), len(subjects))
            _write_core(work, network, voxels, examples[0].scaler, sheet, history)
    return _load_core(folder, config)


def _core_config(store: TokenStore) -> CoreConfig:
    return CoreConfig(side=grid_side(store), n_dims=store.tokens.shape[2])


def _load_all(subjects: Sequence[tuple[PreparedSubject, TokenStore]]) -> list[SubjectExamples]:
    """Examples of all subjects, whose tokens are scaled as the first subject's."""
    examples: list[SubjectExamples] = []
    for subject, store in subjects:
        scaler = examples[0].scaler if examples else None
        examples.append(load_examples(subject, store, scaler=scaler))
    return examples


def _sheet_around(positions: Sequence[tuple[np.ndarray, np.ndarray]]) -> Sheet:
    """Nodes of the average sphere that are near the subjects' voxels."""
    sphere = fsaverage("sphere")
    nodes = {k: sphere[h].coordinates[:N_NODES].astype(float) for k, h in enumerate(HEMISPHERES)}
    return Sheet.around(nodes, positions)


def core_stage(network: SharedCore, examples: Sequence[SubjectExamples], run: RunContext) -> Stage:
    """Return the stage that trains a core on the images of all subjects in turn.

    Parameters
    ----------
    network : SharedCore
        On the run's device.
    examples : sequence of SubjectExamples
        Of every subject, in the network's order.
    run : RunContext
    """
    n_images = sum(len(one.train.tokens) for one in examples)
    epochs = min(CORE_STAGE.epochs, max(CORE_EPOCHS, -(-CORE_IMAGES // n_images)))
    return Stage(
        "shared core",
        network,
        network.parameter_groups(network.core.config),
        _core_step(network, [one.train for one in examples], run.device),
        lambda averaged: core_score(averaged, [one.val for one in examples], run.device),
        n_images,
        replace(CORE_STAGE, epochs=epochs),
        shorter="--strategy source-map",
    )


def _core_step(
    network: SharedCore, train: Sequence[Examples], device: torch.device
) -> Callable[[Tensor, torch.Generator], Tensor]:
    """Mean squared error of a batch, which mixes images of all subjects."""
    config = network.core.config
    tokens = [torch.from_numpy(one.tokens[:]).to(device) for one in train]
    averages = [torch.from_numpy(one.averages).to(device) for one in train]
    # An average over more repeats is the better estimate of the response.
    weights = [_repeat_weights(one).to(device) for one in train]
    first = np.cumsum([0, *(len(one.tokens) for one in train)])

    def step(items: Tensor, generator: torch.Generator) -> Tensor:
        error = torch.zeros((), device=device)
        for k in range(len(train)):
            own = items[(items >= first[k]) & (items < first[k + 1])] - int(first[k])
            if not len(own):
                continue
            own = own.to(device)
            kept = torch.rand(len(own), config.n_global, generator=generator, device=device)
            dropout = (kept >= config.dropout) / (1 - config.dropout)
            residual = network(tokens[k][own], k, dropout) - averages[k][own]
            error = error + (weights[k][own] * residual.square().mean(1)).sum()
        return error / len(items)

    return step


@torch.inference_mode()
def core_score(network: SharedCore, val: Sequence[Examples], device: torch.device) -> float:
    """Share of the variance of validation images' averages, mean over subjects."""
    shares = []
    for k, one in enumerate(val):
        parts = (torch.from_numpy(part).to(device) for part in one.tokens.batches(64))
        predicted = torch.cat([network(part, k) for part in parts])
        shares.append(share_predicted(one, predicted.cpu().numpy()))
    return float(np.mean(shares))


@contextmanager
def _fast_on_cpu(n_voxels: int) -> Iterator[None]:
    """Flush denormal numbers, and use one thread where voxels are few, within the block.

    Adam's moments of weights without gradient decay to denormal numbers, which slow CPUs down.
    """
    torch.set_flush_denormal(True)
    n_threads = torch.get_num_threads()
    if n_voxels < FEW_VOXELS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(n_threads)


@torch.inference_mode()
def _voxels(network: SharedCore, n_subjects: int) -> tuple[Tensor, ...]:
    """`VOXEL_PARTS` of all subjects' voxels, one after the other."""
    each = [network.voxels(k) for k in range(n_subjects)]
    return tuple(
        torch.cat([voxels[j] for voxels in each], dim=0 if name == "field" else -1)
        for j, name in enumerate(VOXEL_PARTS)
    )


def _write_core(
    work: WorkFolder,
    network: SharedCore,
    voxels: tuple[Tensor, ...],
    scaler: TokenScaler,
    sheet: Sheet,
    history: StageHistory,
) -> None:
    """Write arrays and record, and put the folder in place."""
    tensors = {f"core.{k}": v for k, v in network.core.state_dict().items()}
    tensors |= {f"sources.{name}": v for name, v in zip(VOXEL_PARTS, voxels, strict=True)}
    tensors |= {f"shared.{name}": getattr(network.shared, name) for name in VOXEL_PARTS[:3]}
    arrays = {name: tensor.detach().numpy() for name, tensor in tensors.items()}
    arrays |= {"token_mean": scaler.mean, "token_sd": scaler.sd}
    arrays |= {"nodes": sheet.nodes, "side": sheet.side}
    save_arrays(work.partial / ARRAYS, arrays)
    checksums = {ARRAYS: file_checksum(work.partial / ARRAYS)}
    record = CoreRecord(training=history, versions=versions(), checksums=checksums)
    write_sealed(work.partial / "config.json", record)
    work.put_in_place()


def _load_core(folder: Path, config: CoreConfig) -> TrainedCore:
    """Load a core, which is trained again where its folder is moved away."""
    advice = f"move {folder} away to train it again"
    record = read_sealed(folder / "config.json", CoreRecord, advice)
    path = checked_member(folder, ARRAYS, record.checksums, advice)
    named = load_arrays(path)

    def tensors(prefix: str, names: Sequence[str]) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(named[f"{prefix}.{name}"].copy()) for name in names)

    return TrainedCore(
        load_core(config, named),
        TokenScaler(named["token_mean"], named["token_sd"]),
        tensors("sources", VOXEL_PARTS),
        tensors("shared", VOXEL_PARTS[:3]),
        Sheet(named["nodes"], named["side"]),
    )


def _repeat_weights(examples: Examples) -> Tensor:
    """Number of repeats of each image, divided by their mean: float32 (n_images,)."""
    repeats = np.bincount(examples.image_index)
    return torch.from_numpy(np.float32(repeats / repeats.mean()))
