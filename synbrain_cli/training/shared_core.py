"""The response network: cores that one or several subjects share, and what their voxels read.

Every network sees the images of all subjects but those of one fold, which decide when to stop; the
predictions of the folds' images by the network that did not see them are what stacking and readout
are fitted to, and new images are predicted by the average of all networks (a cross-validated
committee: Krogh & Vedelsby 1995, NeurIPS). The first fold decides which bands the networks see,
those that need no weights or all, and then whether what a voxel reads within its receptive field
adds up or saturates (`CoreConfig.exponent`).

Kept in ``weights/cores/<subjects>_<key>/``, as they serve every subject that they were trained on,
and new ones: the key is a checksum of what they depend on (the subjects' data, the encoder, the
settings and the seed).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from synbrain_cli.groups import Groups, count_groups, deal, joined, number_groups, with_their_groups
from synbrain_cli.io.arrays import load_arrays, map_array, save_arrays
from synbrain_cli.io.bundle import NetworkConfig, Record, StageHistory
from synbrain_cli.io.files import versions
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.records import read_sealed, write_sealed
from synbrain_cli.io.seal import Checksums, checked_member, file_checksum
from synbrain_cli.io.surface import HEMISPHERES, fsaverage
from synbrain_cli.io.token_store import TokenStore, finest_scale
from synbrain_cli.io.workfolder import FolderKind, WorkFolder, work_folder
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.labels import derived_name
from synbrain_cli.model.committee import SingleExcess
from synbrain_cli.model.core import (
    VOXEL_PARTS,
    Core,
    CoreEnsemble,
    CoreEvidence,
    SharedCore,
    Sheet,
    as_tensors,
    load_core,
)
from synbrain_cli.model.feed import Rows
from synbrain_cli.model.fields import best_fields, is_grid
from synbrain_cli.model.fit import Stage
from synbrain_cli.model.tokens import TokenScaler
from synbrain_cli.progress import Bar
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
N_FOLDS = 4  # and networks (ours)
LEAST_UNITS = 2 * N_FOLDS  # images or groups of images that are dealt to folds
FEW_VOXELS = 5_000  # fewer are computed faster by one thread than by several
COMPRESSED = 0.5  # the exponent that is tried beside 1 (ours)
VERSION = 3  # of the arrays; another key where they are others, or computed otherwise
CORE_SEED = 10  # added to the run's seed for each fold
SCORED = 64  # images predicted together
N_NODES = 2562  # of fsaverage4's sphere: the first vertices of fsaverage5's, 7 mm apart


@dataclass(frozen=True)
class TrainedCore:
    """Cores, the readouts of their subjects' voxels, and the prior for a new subject's voxels.

    Attributes
    ----------
    config : CoreConfig
    scaler : TokenScaler
        Of the bands that the cores see.
    cores : tuple of Core
    sources : tuple of tuples of tensors
        Of each core, what the source subjects' voxels read: field, local, whole, offset.
    shared : tuple of tuples of tensors
        Of each core, what the nodes of the sheet read: field, local, whole.
    sheet : Sheet
    subjects : list of str
        ``dataset/sub-01`` of the source subjects.
    first : int array of shape (n_subjects + 1,)
        First voxel of each subject among those of all.
    held_out : tuple of float32 arrays of shape (n_images, n_voxels)
        Of each subject, predictions of the images of its examples by networks that did not see
        them; memory maps.
    excess : float32 array of shape (n_voxels,)
        Of all subjects' voxels: variance of these predictions that those of the ensemble, means of
        all networks, have not (`synbrain_cli.model.committee`).
    """

    config: CoreConfig
    scaler: TokenScaler
    cores: tuple[Core, ...]
    sources: tuple[tuple[Tensor, ...], ...]
    shared: tuple[tuple[Tensor, ...], ...]
    sheet: Sheet
    subjects: list[str]
    first: np.ndarray
    held_out: tuple[np.ndarray, ...]
    excess: np.ndarray

    def evidence(self, subject: PreparedSubject) -> CoreEvidence:
        """Predict the source subjects' voxels, and a new subject's by their cortical position."""
        basis = torch.from_numpy(self.sheet.basis(*sphere_positions(subject)))
        voxels = []
        for sources, (field, local, whole) in zip(self.sources, self.shared, strict=True):
            new = (basis @ field, local @ basis.T, whole @ basis.T, torch.zeros(len(basis)))
            voxels.append(
                tuple(
                    torch.cat([old, one], dim=0 if name == "field" else -1)
                    for name, old, one in zip(VOXEL_PARTS, sources, new, strict=True)
                )
            )
        ensemble = CoreEnsemble(self.config, self.scaler, self.cores, tuple(voxels))
        return CoreEvidence(ensemble, int(self.first[-1]))

    def of_subject(self, label: str) -> TrainedNetwork:
        """Return the network of one of the subjects, ``dataset/sub-01``."""
        k = self.subjects.index(label)
        own = slice(int(self.first[k]), int(self.first[k + 1]))
        voxels = tuple(
            tuple(
                part[own] if name == "field" else part[..., own]
                for name, part in zip(VOXEL_PARTS, sources, strict=True)
            )
            for sources in self.sources
        )
        ensemble = CoreEnsemble(self.config, self.scaler, self.cores, voxels)
        config = NetworkConfig(core=self.config, subjects=self.subjects)
        return TrainedNetwork(ensemble, config, self.held_out[k], self.excess[own])


@dataclass(frozen=True)
class TrainedNetwork:
    """The response network of one subject.

    Attributes
    ----------
    ensemble : CoreEnsemble
    config : NetworkConfig
    held_out : float32 array of shape (n_images, n_voxels)
        Predictions of the images of its examples by networks that did not see them.
    excess : float32 array of shape (n_voxels,)
        Their variance that predictions of the ensemble, means of all networks, have not.
    """

    ensemble: CoreEnsemble
    config: NetworkConfig
    held_out: np.ndarray
    excess: np.ndarray


def grid_bands(store: TokenStore) -> tuple[int, ...]:
    """Return the bands on a square grid of 4 × 4 tokens or more: receptive fields need one."""
    return tuple(k for k, band in enumerate(store.bands) if is_grid(band.token_shape[0]))


def require_grids(store: TokenStore) -> None:
    """Refuse tokens of which no band is on a square grid of 4 × 4 or more.

    Raises
    ------
    InputError
    """
    if not grid_bands(store):
        sizes = ", ".join(str(band.token_shape[0]) for band in store.bands)
        raise InputError(
            f"{store.folders}: {sizes} tokens per image: the response network needs a band on a "
            "square grid of 4 × 4 tokens or more, as those of gabor and of vision transformers"
        )


def describe_bands_left_out(store: TokenStore) -> str:
    """Say which bands the response network does not see; empty where it sees all."""
    seen = grid_bands(store)
    others = [band for k, band in enumerate(store.bands) if k not in seen]
    if not others:
        return ""
    listed = ", ".join(f"{band.spec} ({band.token_shape[0]} per image)" for band in others)
    return (
        f"{listed}: tokens on no square grid of 4 × 4 or more, so the linear encoder reads them "
        "without receptive fields, and the response network does not see them"
    )


def why_no_network(subjects: Sequence[PreparedSubject]) -> str | None:
    """Return why no response network is trained unless it is asked for; None where one is."""
    for subject in subjects:
        if not subject.has_test:
            return (
                f"{subject.label} has no fixed test images, so that a model is scored by fits to "
                "folds of images, and a response network would have to be trained for each"
            )
    n_units, what = _count_units(subjects)
    if n_units < LEAST_UNITS:
        return f"{n_units} {what} for training, a response network needs {LEAST_UNITS}"
    return None


def _count_units(subjects: Sequence[PreparedSubject]) -> tuple[int, str]:
    """Number of images or groups that folds are dealt of, and what they are."""
    tables = [subject.trials for subject in subjects]
    names = {name for table in tables for name in table["image"][table["split"] != "test"]}
    groups = number_groups(names, joined([subject.groups for subject in subjects]))
    return count_groups(len(names), groups), "images" if groups is None else "groups of images"


class CoreRecord(Record, frozen=True):
    """``config.json`` of trained cores, sealed; ``settings.json`` says on what."""

    core: CoreConfig
    training: dict[str, StageHistory]
    versions: dict[str, str]
    checksums: Checksums


def core_settings(
    subjects: Sequence[tuple[PreparedSubject, TokenStore]], seed: int
) -> dict[str, Any]:
    """Return everything that cores depend on, convertible to JSON.

    Parameters
    ----------
    subjects : sequence of (PreparedSubject, TokenStore)
    seed : int
    """
    store = subjects[0][1]
    return {
        "subjects": [subject.label for subject, _ in subjects],
        "data": [subject.checksum for subject, _ in subjects],
        "splits": [_splits(subject) for subject, _ in subjects],
        "bands": msgspec.to_builtins(store.bands),
        "cores": [_core_config(store, bands).to_dict() for bands in candidate_bands(store)],
        "exponents": [1.0, COMPRESSED],
        "stage": CORE_STAGE.to_dict() | {"images": CORE_IMAGES},
        "seed": seed,
        "version": VERSION,
    }


def _splits(subject: PreparedSubject) -> str:
    """Checksum of which trials are of which split: folds deal them anew."""
    return hashlib.sha256("\n".join(subject.trials["split"]).encode()).hexdigest()


def candidate_bands(store: TokenStore) -> list[tuple[int, ...]]:
    """Bands that networks may see: all on a grid, and those without weights where there are others.

    Features of pretrained networks are many; where a subject's responses follow local contrast,
    they would fit noise before they help. An encoder is seen at one width of its images: what it
    says at others is more of the same to networks, whose voxels choose the size of their fields,
    and V4's left-out images are predicted worse with it (ours).
    """
    on_grid = grid_bands(store)
    every = tuple(on_grid[k] for k in finest_scale([store.bands[k] for k in on_grid]))
    plain = tuple(k for k in every if store.bands[k].identity.get("weights") is None)
    return [every] if plain in ((), every) else [plain, every]


def train_core(
    workspace: Workspace,
    subjects: Sequence[tuple[PreparedSubject, TokenStore]],
    run: RunContext,
) -> TrainedCore:
    """Train cores on the images of one or several subjects, or load those trained before.

    Training and validation images are dealt to folds together, by their names and groups, so that
    no network sees an image of its fold under any subject, or another of its group. Test images are
    not opened; an image that is a test image of any of the subjects, or of its group, is in no
    fold. An interrupted training continues after its last finished epoch.

    Parameters
    ----------
    workspace : Workspace
    subjects : sequence of (PreparedSubject, TokenStore)
        One encoder for all.
    run : RunContext

    Raises
    ------
    InputError
        Tokens are on no grid; there are too few images or groups of images to deal to folds.
    """
    # Set up
    store = subjects[0][1]
    require_grids(store)
    n_units, what = _count_units([subject for subject, _ in subjects])
    if n_units < LEAST_UNITS:
        raise InputError(
            f"response network: expected {LEAST_UNITS} {what} or more to train on, found "
            f"{n_units}: train the linear encoder alone (--model linear)"
        )
    settings = core_settings(subjects, run.seed)
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    label = "+".join(f"sub-{subject.subject}" for subject, _ in subjects)
    folder = workspace.weights / "cores" / f"{derived_name(label)}_{key}"
    with work_folder(folder, CORE, settings, progress=run.progress) as work:
        if not work.is_finished:
            # Load examples
            examples = _load_all(subjects)
            tested = {
                name
                for subject, _ in subjects
                for name in subject.trials["image"][subject.trials["split"] == "test"]
            }
            group_of = joined([subject.groups for subject, _ in subjects])
            tested = with_their_groups(tested, group_of)
            folds = _deal([one.images for one in examples], tested, run.seed, group_of)
            n_images = sum(len(one.averages) for one in (e.both for e in examples))
            names = ", ".join(settings["subjects"])
            run.progress.info(f"response network: {n_images:,} images of {names}")

            # Choose bands and exponent by the first fold, and train a network for every fold
            positions = [sphere_positions(subject) for subject, _ in subjects]
            sheet = _sheet_around(positions)
            bases = [sheet.basis(*one) for one in positions]
            trainer = _Trainer(examples, folds, bases, work, run)
            best = trainer.choose([_core_config(store, own) for own in candidate_bands(store)])
            members = [best, *(trainer.train(best.config, k) for k in range(1, N_FOLDS))]

            # Write the cores
            _write_core(work, members, trainer.predict(members), sheet, trainer)
    return _load_core(folder, settings["subjects"])


@dataclass(frozen=True)
class _Member:
    """A network that was trained without the images of one fold."""

    config: CoreConfig
    network: SharedCore
    history: StageHistory


@dataclass(frozen=True)
class _Predicted:
    """Of one subject: what `TrainedCore` calls ``held_out`` and ``excess``."""

    held_out: np.ndarray
    excess: np.ndarray


@dataclass(frozen=True)
class _Trainer:
    """What every network of an ensemble is trained on.

    Attributes
    ----------
    examples : sequence of SubjectExamples
    folds : sequence of int arrays of shape (n_images,)
        Of each subject, the fold of every image; −1 of images that no network sees.
    bases : sequence of arrays
        Position of each subject's voxels among the nodes.
    work : WorkFolder
    run : RunContext
    """

    examples: Sequence[SubjectExamples]
    folds: Sequence[np.ndarray]
    bases: Sequence[np.ndarray]
    work: WorkFolder
    run: RunContext

    def choose(self, configs: Sequence[CoreConfig]) -> _Member:
        """Train a network of every configuration, and the best compressed, without the first fold.

        The one that predicts this fold best is returned.
        """

        def score(one: _Member) -> float:
            return one.history.best_score

        adding_up = max((self.train(config, 0) for config in configs), key=score)
        compressed = self.train(replace(adding_up.config, exponent=COMPRESSED), 0)
        return max(adding_up, compressed, key=score)

    def train(self, config: CoreConfig, fold: int) -> _Member:
        """Train a network on all folds but one, which decides when to stop."""
        seed, device = self.run.seed + fold, self.run.device
        train = [
            _part(one, np.flatnonzero((own != fold) & (own >= 0)), config.bands)
            for one, own in zip(self.examples, self.folds, strict=True)
        ]
        val = [
            _part(one, np.flatnonzero(own == fold), config.bands)
            for one, own in zip(self.examples, self.folds, strict=True)
        ]
        network = SharedCore(config, self.bases, torch.Generator().manual_seed(seed))
        network.start_from([best_fields(one.tokens.bands, one.averages) for one in train])
        network = network.to(device)
        stage = core_stage(network, train, val, self.run)
        title = f"response network {fold + 1} of {N_FOLDS}"
        if len(config.bands) < len(self.examples[0].scaler.bands):
            title += ", bands without weights"
        if config.exponent != 1:
            title += ", compressed"
        checkpoint = f"core-{'-'.join(map(str, config.bands))}-{config.exponent:g}-{fold}.pt"
        with _fast_on_cpu(sum(map(len, self.bases))):
            history = fit_resumably(
                dataclasses.replace(stage, title=title, seed_offset=CORE_SEED * fold),
                self.run,
                self.work.recovery / checkpoint,
            )
        return _Member(config, network, history)

    def predict(self, members: Sequence[_Member]) -> list[_Predicted]:
        """Predict every image of every subject."""
        n_images = sum(map(len, self.folds))
        with self.run.progress.bar("predictions of response networks", n_images) as bar:
            return self._predict_all(members, bar)

    def _predict_all(self, members: Sequence[_Member], bar: Bar) -> list[_Predicted]:
        found = []
        for k, (one, folds) in enumerate(zip(self.examples, self.folds, strict=True)):
            held_out = np.empty_like(one.both.averages)
            excess = SingleExcess(len(members), held_out.shape[1])
            for first in range(0, len(folds), SCORED):
                rows = np.arange(first, min(first + SCORED, len(folds)))
                each = self._predict(members, k, rows)
                for i, (row, fold) in enumerate(zip(rows, folds[rows], strict=True)):
                    # An image in no fold was seen by no network
                    held_out[row] = each[fold, i] if fold >= 0 else each[:, i].mean(0)
                    excess.add(each[:, i], fold, one.both.averages[row])
                bar.to(bar.done + len(rows))
            found.append(_Predicted(held_out, excess.value))
        return found

    @torch.inference_mode()
    def _predict(self, members: Sequence[_Member], subject: int, rows: np.ndarray) -> np.ndarray:
        """Predict images of a subject by every network: (n_members, n_images, n_voxels)."""
        bands = members[0].config.bands  # as the first fold chose: the same for all
        tokens = self.examples[subject].both.tokens.only(bands).part(rows)
        (seen,) = (as_tensors(batch, self.run.device) for batch in tokens.batches(len(rows)))
        return np.stack([one.network(seen, subject).cpu().numpy() for one in members])


def _deal(
    images: Sequence[np.ndarray], tested: set[str], seed: int, group_of: Mapping[str, str]
) -> list[np.ndarray]:
    """Fold of every image of every subject, by its name; −1 of images that are tested."""
    names = sorted({*np.concatenate(list(images)).tolist()} - tested)
    generator = np.random.default_rng([seed, 6])
    groups: Groups | None = number_groups(names, group_of)
    fold = dict.fromkeys(tested, -1)
    if groups is None:
        order = generator.permutation(len(names))
        fold |= {names[i]: k % N_FOLDS for k, i in enumerate(order)}
    else:
        parts = deal(len(names), N_FOLDS, generator, groups)
        fold |= {names[i]: k for k, part in enumerate(parts) for i in part}
    return [np.array([fold[name] for name in own.tolist()]) for own in images]


def _part(examples: SubjectExamples, rows: np.ndarray, bands: Sequence[int]) -> Examples:
    """Some images of a subject, under some of the bands."""
    both = examples.both
    position = np.full(len(both.averages), -1)
    position[rows] = np.arange(len(rows))
    trials = np.flatnonzero(position[both.image_index] >= 0)
    return Examples(
        both.betas[:0],  # networks are trained on averages
        position[both.image_index[trials]],
        both.tokens.only(bands).part(rows),
        both.averages[rows],
    )


def _core_config(store: TokenStore, bands: tuple[int, ...]) -> CoreConfig:
    shapes = tuple(store.bands[k].token_shape for k in bands)
    return CoreConfig(bands=bands, shapes=shapes, n_members=N_FOLDS)


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


def core_stage(
    network: SharedCore, train: Sequence[Examples], val: Sequence[Examples], run: RunContext
) -> Stage:
    """Return the stage that trains a core on the images of all subjects in turn.

    Parameters
    ----------
    network : SharedCore
        On the run's device.
    train, val : sequence of Examples
        Of every subject, in the network's order.
    run : RunContext
    """
    n_images = sum(len(one.averages) for one in train)
    epochs = min(CORE_STAGE.epochs, max(CORE_EPOCHS, -(-CORE_IMAGES // n_images)))
    return Stage(
        "response network",
        network,
        network.parameter_groups(network.core.config),
        _core_step(network, train, run.device),
        lambda averaged: core_score(averaged, val, run.device),
        n_images,
        replace(CORE_STAGE, epochs=epochs),
        shorter="--model linear (train), --strategy source-map (adapt)",
    )


def _core_step(
    network: SharedCore, train: Sequence[Examples], device: torch.device
) -> Callable[[Tensor, torch.Generator], Tensor]:
    """Mean squared error of a batch, which mixes images of all subjects."""
    config = network.core.config
    tokens = [[Rows.of_tokens(band, device) for band in one.tokens.bands] for one in train]
    averages = [torch.from_numpy(one.averages).to(device) for one in train]
    # An average over more repeats is the better estimate of the response.
    weights = [_repeat_weights(one).to(device) for one in train]
    first = np.cumsum([0, *(len(one.averages) for one in train)])

    def step(items: Tensor, generator: torch.Generator) -> Tensor:
        error = torch.zeros((), device=device)
        for k in range(len(train)):
            own = items[(items >= first[k]) & (items < first[k + 1])] - int(first[k])
            if not len(own):
                continue
            read = [rows.fetch(own.numpy()) for rows in tokens[k]]
            own = own.to(device)
            seen = [rows.take(own, some) for rows, some in zip(tokens[k], read, strict=True)]
            kept = torch.rand(len(own), config.n_global, generator=generator, device=device)
            dropout = (kept >= config.dropout) / (1 - config.dropout)
            residual = network(seen, k, dropout) - averages[k][own]
            error = error + (weights[k][own] * residual.square().mean(1)).sum()
        return error / len(items)

    return step


@torch.inference_mode()
def core_score(network: SharedCore, val: Sequence[Examples], device: torch.device) -> float:
    """Share of the variance of validation images' averages, mean over subjects."""
    shares = []
    for k, one in enumerate(val):
        parts = (as_tensors(part, device) for part in one.tokens.batches(64))
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
    members: Sequence[_Member],
    predicted: Sequence[_Predicted],
    sheet: Sheet,
    trainer: _Trainer,
) -> None:
    """Write arrays and record, and put the folder in place."""
    n_subjects, config = len(predicted), members[0].config
    arrays = trainer.examples[0].scaler.only(config.bands).arrays()
    for m, member in enumerate(members):
        network = member.network.cpu()
        tensors = {f"core.{m}.{k}": v for k, v in network.core.state_dict().items()}
        voxels = _voxels(network, n_subjects)
        tensors |= {f"sources.{m}.{n}": v for n, v in zip(VOXEL_PARTS, voxels, strict=True)}
        tensors |= {f"shared.{m}.{n}": getattr(network.shared, n) for n in VOXEL_PARTS[:3]}
        arrays |= {name: tensor.detach().numpy() for name, tensor in tensors.items()}
    sizes = [len(one.excess) for one in predicted]
    arrays |= {"nodes": sheet.nodes, "side": sheet.side, "first": np.cumsum([0, *sizes])}
    arrays["excess"] = np.concatenate([one.excess for one in predicted])
    save_arrays(work.partial / ARRAYS, arrays)
    for k, one in enumerate(predicted):
        np.save(work.partial / _held_out_file(k), one.held_out)
    names = (ARRAYS, *map(_held_out_file, range(n_subjects)))
    record = CoreRecord(
        core=config,
        training={f"fold {m + 1}": member.history for m, member in enumerate(members)},
        versions=versions(),
        checksums={name: file_checksum(work.partial / name) for name in names},
    )
    write_sealed(work.partial / "config.json", record)
    work.put_in_place()


def _held_out_file(subject: int) -> str:
    return f"held_out_{subject}.npy"


def _load_core(folder: Path, subjects: list[str]) -> TrainedCore:
    """Load cores, which are trained again where their folder is moved away."""
    advice = f"move {folder} away to train it again"
    record = read_sealed(folder / "config.json", CoreRecord, advice)
    config = record.core
    named = load_arrays(checked_member(folder, ARRAYS, record.checksums, advice))

    def tensors(prefix: str, names: Sequence[str]) -> tuple[tuple[Tensor, ...], ...]:
        return tuple(
            tuple(torch.from_numpy(named[f"{prefix}.{m}.{name}"].copy()) for name in names)
            for m in range(config.n_members)
        )

    return TrainedCore(
        config,
        TokenScaler.from_arrays(named, len(config.bands)),
        tuple(load_core(config, named, f"core.{m}.") for m in range(config.n_members)),
        tensors("sources", VOXEL_PARTS),
        tensors("shared", VOXEL_PARTS[:3]),
        Sheet(named["nodes"], named["side"]),
        subjects,
        named["first"],
        tuple(
            map_array(checked_member(folder, _held_out_file(k), record.checksums, advice))
            for k in range(len(subjects))
        ),
        named["excess"],
    )


def _repeat_weights(examples: Examples) -> Tensor:
    """Number of repeats of each image, divided by their mean: float32 (n_images,)."""
    repeats = np.bincount(examples.image_index)
    return torch.from_numpy(np.float32(repeats / repeats.mean()))
