"""`synbrain weights import`: the checkpoints of SynBrain's authors → a model bundle.

A published model is BrainVAE and S2N mapper alone. Its networks see responses in a unit of their
own, NSD's integers over 2000, and raw CLIP tokens; voxels are those of nsdgeneral in C order. All
of this is recorded in the bundle, so that responses come out in percent signal change.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from synbrain_cli.config import EncoderIdentity, MapperConfig, VAEConfig
from synbrain_cli.datasets.nsd import BETA_SCALE
from synbrain_cli.datasets.nsd_choice import Choice
from synbrain_cli.datasets.nsd_files import NSD
from synbrain_cli.datasets.nsd_voxels import SubjectVoxels
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.features.loading import load_encoder
from synbrain_cli.features.openclip import PUBLISHED, published_identity
from synbrain_cli.io.bundle import (
    BundleConfig,
    CheckpointEntry,
    Origin,
    OriginFile,
    TrainingRecord,
    fingerprint,
    save_arrays,
    seal,
)
from synbrain_cli.io.checkpoint import read_checkpoint
from synbrain_cli.io.files import locked, replace_folder, sha256, versions
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.volume import check_same_grid, read_volume
from synbrain_cli.io.voxel_space import VOXEL_SPACE_FILES, Volume
from synbrain_cli.io.workspace import Workspace, subject_label
from synbrain_cli.model.mapper import Mapper
from synbrain_cli.model.published import (
    mapper_config_from_published,
    mapper_state_from_published,
    vae_config_from_published,
    vae_state_from_published,
)
from synbrain_cli.model.vae import BrainVAE
from synbrain_cli.pipeline.fetch_weights import origin_of
from synbrain_cli.progress import Progress

RELEASE_SCALE = 2000.0  # the networks see NSD's int16 betas divided by this
# Voxels of NSD's nsdgeneral above 0, in func1pt8mm, of subjects 1 to 8.
NSDGENERAL = dict(enumerate((15724, 14278, 15226, 13153, 13039, 17907, 12682, 14386), start=1))
UNIT = "percent signal change"
_T = TypeVar("_T")


@dataclass(frozen=True)
class ImportResult:
    """The bundle made, and the record of where it came from (``config.json``'s "training")."""

    folder: Path
    record: TrainingRecord


def import_published(
    workspace: Workspace,
    brainvae: Path,
    s2n: Path,
    *,
    mask: Path | None = None,
    subject: str | None = None,
    dataset: str = "nsd",
    prepared: Path | None = None,
    nsd: Path | None = None,
    n_voxels: int | None = None,
    encoder: str | None = None,
    licence: str | None = None,
    name: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ImportResult:
    """Make a bundle of the checkpoints that the authors of SynBrain published (Mai et al. 2025).

    Parameters
    ----------
    workspace : Workspace
    brainvae, s2n : path
        ``last.pth`` of BrainVAE and ``last.pt`` of the mapper, of one person. Averaged weights
        (``ema``) are taken where there are any.
    mask : path, optional
        Volume above 0 in the voxels, in whose C order the networks have them: NSD's
        ``nsdgeneral.nii.gz``. Default that of the prepared subject.
    subject : str, optional
        Default the one of NSD whose nsdgeneral has as many voxels as the mask.
    dataset : str
        Below ``prepared/``; the person's data are looked for there.
    prepared : path, optional
        Prepared subject with the same mask, from which transforms, ROIs and ncsnr are taken.
        Default ``prepared/<dataset>/sub-<subject>``, where it is there and has the same mask.
    nsd : path, optional
        Copy of NSD, from which they are taken where there is no such subject; its ROI and transform
        files are enough. Default ``nsd`` in the workspace, where that is one.
    n_voxels : int, optional
        Voxels the mask must have; default those of the subject's nsdgeneral. The networks take any
        number, and do not say theirs.
    encoder : str, optional
        Default the published one, of whose weights no checksum is known: any are taken. Another is
        loaded, and the checksum of its weights kept.
    licence : str, optional
        As published with the weights.
    name : str, optional
        Of the bundle; default ``sub-01_published``.
    overwrite : bool
        Replace a model of that name.
    progress : Progress, optional

    Raises
    ------
    MissingError
        No such file, or no mask.
    InputError
        A file is no checkpoint, is truncated, holds other things than data, lacks keys or has
        unknown ones; the two do not belong together; another number of voxels; another encoder.
        Nothing is written.
    """
    progress = progress or Progress()
    paths = {"brainvae": Path(brainvae), "s2n": Path(s2n)}
    voxels = _find_voxels(workspace, mask, subject, dataset, prepared, nsd, n_voxels, progress)
    place = voxels.place
    folder = workspace.weights / (name or f"sub-{voxels.subject}_published")
    if folder.exists() and not overwrite:
        raise InputError(
            f"{folder} already holds a model: pass --overwrite to replace it, or another --name"
        )
    networks, vae_config, mapper_config, checkpoints = _read_networks(paths, progress)
    encoder = encoder or PUBLISHED
    identity = _encoder_identity(encoder, mapper_config)
    record = TrainingRecord(
        preset="paper",
        origin=Origin(
            files={role: _provenance(path) for role, path in paths.items()},
            licence=licence or "not told; see the page that the files came from",
            checkpoints=checkpoints,
        ),
        versions=versions(),
    )
    partial = folder.with_name(f".{folder.name}.importing")
    with locked(folder, "a model"), _scratch(partial):
        order = np.arange(place.n_voxels)
        networks |= {
            "vae.order": order,
            "vae.gain": np.ones(len(order), np.float32),
            "vae.offset": np.zeros(len(order), np.float32),
        }
        save_arrays(partial / "networks.safetensors", networks)
        networks.clear()
        n_tokens, n_dims = mapper_config.n_tokens, mapper_config.n_dims
        scale = RELEASE_SCALE / BETA_SCALE  # of the networks' unit, in percent signal change
        arrays = {
            "token_mean": np.zeros((n_tokens, n_dims)),
            "token_sd": np.ones(n_dims),
            "response_mean": np.zeros(len(order)),
            "response_sd": np.full(len(order), scale),
        }
        save_arrays(
            partial / "arrays.safetensors", {k: v.astype(np.float32) for k, v in arrays.items()}
        )
        voxels.save(partial)
        seal(
            partial,
            BundleConfig(
                subject=voxels.subject,
                dataset=voxels.dataset,
                simulated=voxels.simulated,
                space="func1pt8mm",
                unit=f"int16 betas of NSD / {RELEASE_SCALE:g}; response_sd returns it to the "
                "recorded unit",
                recorded_unit=UNIT,
                standardization="none",
                voxel_order="file",
                encoder=EncoderIdentity(spec=encoder, identity=identity),
                vae=vae_config,
                mapper=mapper_config,
                predictors=("deep",),
                has_readout=False,
                fingerprint=fingerprint(partial),
                training=record,
            ),
        )
        card = _card(folder.name, voxels, encoder, record)
        (partial / "card.md").write_text(card, "utf-8")
        replace_folder(partial, folder)
    progress.info(f"wrote {folder}")
    return ImportResult(folder, record)


@contextmanager
def _scratch(folder: Path) -> Iterator[None]:
    """An empty folder that is gone afterwards, unless it was given another name."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Voxels:
    """Where a published model's voxels are, whose they are, and what else is known of them.

    Attributes
    ----------
    place : Volume
    subject, dataset : str
    prepared : PreparedSubject, optional
        With the same mask.
    copy : NSD, optional
        With this subject, where there is no prepared one.
    """

    place: Volume
    subject: str
    dataset: str
    prepared: PreparedSubject | None = None
    copy: NSD | None = None

    @property
    def simulated(self) -> bool:
        known = self.prepared or self.copy
        return known is not None and known.simulated

    def save(self, folder: Path) -> None:
        """Write mask, ``voxels.tsv`` and, where they are known, the ways to other spaces."""
        self.place.save(folder)
        table = self.place.table()
        if self.prepared is not None:
            for file in VOXEL_SPACE_FILES:
                if (self.prepared.folder / file).exists():
                    shutil.copyfile(self.prepared.folder / file, folder / file)
            return
        if self.copy is not None:
            inside, number = self.place.inside, int(self.subject)
            known = SubjectVoxels(self.copy, number, Choice())
            table = pd.concat([table, known.voxel_table(inside)], axis=1)
            for name, resampling in known.resamplings(inside, self.place).items():
                resampling.save(folder / name)
        table.to_csv(folder / "voxels.tsv", sep="\t", index=False, float_format="%.5g")


def _find_voxels(
    workspace: Workspace,
    mask: Path | None,
    subject: str | None,
    dataset: str,
    prepared: Path | None,
    nsd: Path | None,
    n_voxels: int | None,
    progress: Progress,
) -> Voxels:
    label = subject_label(subject) if subject is not None else None
    place = _read_mask(mask) if mask is not None else None
    person = None
    if prepared is not None:
        person = PreparedSubject(Path(prepared).resolve())
        dataset = person.dataset
        if not (person.folder / "dataset_description.json").exists():
            raise MissingError(
                f"--prepared {prepared}: expected a prepared subject, as prepared/nsd/sub-01"
            )
        if label not in (None, person.subject):
            raise InputError(
                f"--prepared {prepared}: expected sub-{label}, as --subject says: leave one out"
            )
        label = person.subject
    if label is None and place is not None and dataset == "nsd":
        known = [s for s, n in NSDGENERAL.items() if n == place.n_voxels]
        label = subject_label(known[0]) if known else None
        if label:
            progress.info(f"subject: {label}, by its {place.n_voxels:,} voxels (--subject)")
    if label is None:
        found = f": {mask} has {place.n_voxels:,} voxels, no nsdgeneral's" if place else ""
        raise InputError(f"--subject: whose weights are these{found}? Name the person")
    if person is None:
        there = PreparedSubject(workspace.prepared / dataset / f"sub-{label}")
        person = there if (there.folder / "dataset_description.json").exists() else None
    copy = _copy_of_nsd(workspace, nsd, dataset, label)
    theirs = person.voxel_space.geometry if person is not None else None
    if place is None:
        place, mask = _default_mask(theirs, copy, label), mask or (person and person.folder)
    if person is not None and not _same(place, theirs):
        fault = f"{person.folder}: its mask ({person.n_voxels:,} voxels) is not {mask}"
        if prepared is not None:
            raise InputError(f"{fault}: prepare with that mask (--roi), or leave --prepared out")
        progress.info(f"{fault}: nothing is taken from it")
        person = None
    if n_voxels is None and dataset == "nsd" and label.isdigit():
        n_voxels = NSDGENERAL.get(int(label))
    if n_voxels is not None and place.n_voxels != n_voxels:
        raise InputError(
            f"{mask or 'nsdgeneral.nii.gz'}: expected {n_voxels:,} voxels (nsdgeneral of "
            f"sub-{label}), found {place.n_voxels:,}: pass the mask that the weights were trained "
            "with; if that is another than nsdgeneral, say how many voxels it has with --voxels"
        )
    if person is not None:
        progress.info(f"transforms, ROIs and ncsnr: those of {person.folder}")
        return Voxels(place, label, dataset, prepared=person)
    if copy is not None:
        check_same_grid(
            mask or "the mask", place.mask, *SubjectVoxels(copy, int(label), Choice()).grid()
        )
        progress.info(f"transforms and ROIs: those that are in {copy.root}")
        return Voxels(place, label, dataset, copy=copy)
    progress.info(
        "neither a prepared subject with this mask nor a copy of NSD: no transforms to fsaverage, "
        "no ROIs (--prepared, --nsd)"
    )
    return Voxels(place, label, dataset)


def _copy_of_nsd(workspace: Workspace, root: Path | None, dataset: str, label: str) -> NSD | None:
    """A copy of NSD with ROIs of this subject: the one named, or ``nsd/`` in the workspace."""
    there = workspace.root / "nsd"
    if root is None and not (dataset == "nsd" and (there / "nsddata").is_dir()):
        return None
    copy = NSD(Path(root) if root is not None else there)
    if label.isdigit() and copy.roi_folder(int(label), Choice()).is_dir():
        return copy
    if root is not None:
        raise MissingError(f"--nsd {root}: no ROIs of sub-{label} in func1pt8mm there")
    return None


def _default_mask(theirs: object, copy: NSD | None, label: str) -> Volume:
    if isinstance(theirs, Volume):
        return theirs
    name = f"nsddata/ppdata/subj{label}/func1pt8mm/roi/nsdgeneral.nii.gz"
    if copy is not None and (copy.root / name).exists():
        return _read_mask(copy.root / name)
    raise MissingError(
        f"--mask: expected the volume of sub-{label}'s voxels, found neither a prepared subject "
        f"nor a copy of NSD that has it: pass {name} of NSD"
    )


def _read_mask(path: Path) -> Volume:
    values, image = read_volume(path)
    if values.ndim != 3:
        raise InputError(f"{path}: expected a 3-D mask, found shape {values.shape}")
    inside = values > 0
    if not inside.any():
        raise InputError(f"{path}: expected a mask with voxels above 0, found none")
    return Volume.of(inside, image)


def _same(place: Volume, other: object) -> bool:
    return (
        isinstance(other, Volume)
        and np.array_equal(place.inside, other.inside)
        and np.allclose(place.mask.affine, other.mask.affine, atol=1e-3)
    )


def _read_networks(
    paths: dict[str, Path], progress: Progress
) -> tuple[dict[str, np.ndarray], VAEConfig, MapperConfig, dict[str, Any]]:
    """Both networks' tensors by their names in a bundle, their shapes, and what was left out."""
    progress.info(f"reading {paths['brainvae']} and {paths['s2n']}")
    path, checkpoint = paths["brainvae"], read_checkpoint(paths["brainvae"])
    state, entry, left_out = _weights(path, checkpoint)
    vae_config = _of_file(path, lambda: vae_config_from_published(state))
    vae = _of_file(path, lambda: _complete(BrainVAE, vae_config, vae_state_from_published(state)))
    told = {"brainvae": _told(checkpoint, entry, left_out)}

    path, checkpoint = paths["s2n"], read_checkpoint(paths["s2n"])
    state, entry, left_out = _weights(path, checkpoint)
    arguments = checkpoint.get("args", {})
    arguments = vars(arguments) if isinstance(arguments, argparse.Namespace) else arguments
    if not isinstance(arguments, dict) or not {"model_head", "prediction"} <= set(arguments):
        progress.info(
            f"{path}: does not tell heads and prediction: those of the paper, 128 wide, x"
        )
        arguments = arguments if isinstance(arguments, dict) else {}
    mapper_config = _of_file(
        path,
        lambda: mapper_config_from_published(
            state, arguments.get("model_head"), arguments.get("prediction", "x")
        ),
    )
    mapper = _of_file(
        path, lambda: _complete(Mapper, mapper_config, mapper_state_from_published(state))
    )
    told["s2n"] = _told(checkpoint, entry, left_out)
    shapes = [(c.n_tokens, c.n_dims) for c in (vae_config, mapper_config)]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"{path}: maps to latents of {shapes[1]} (tokens, dims), {paths['brainvae']} decodes "
            f"those of {shapes[0]}: pass two checkpoints of one model"
        )
    networks = {f"vae.{k}": v.numpy() for k, v in vae.items()}
    networks |= {f"mapper.{k}": v.numpy() for k, v in mapper.items()}
    return networks, vae_config, mapper_config, told


def _weights(path: Path, checkpoint: dict[str, Any]) -> tuple[dict[str, Tensor], str, list[str]]:
    """Averaged weights where there are any, float32; which entry they are, and the other ones."""
    entry = next((e for e in ("ema", "model") if isinstance(checkpoint.get(e), dict)), None)
    if entry is None or not checkpoint[entry]:
        raise InputError(
            f"{path}: expected weights in the entry 'ema' or 'model', found the entries "
            f"{', '.join(map(str, list(checkpoint)[:8])) or 'none'}: pass the authors' "
            "last.pth (BrainVAE) and last.pt (S2N)"
        )
    state = checkpoint[entry]
    for key, value in state.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise InputError(
                f"{path}: expected {entry}[{key!r}] to be a tensor of floating-point numbers, "
                f"found {getattr(value, 'dtype', type(value).__name__)}: is it the authors' file?"
            )
        if not value.isfinite().all():
            raise InputError(
                f"{path}: {entry}[{key!r}] has values that are not finite: damaged, or the "
                "training failed; copy or download it again"
            )
    rest = [str(key) for key in checkpoint if key != entry]
    return {key: value.float() for key, value in state.items()}, entry, rest


def _complete(network: type, config: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state, once it is known to fill a network of this shape."""
    with torch.device("meta"):
        network(config).load_state_dict(state, assign=True)
    return state


def _of_file(path: Path, make: Callable[[], _T]) -> _T:
    """``make()``; faults of the weights are told with the file's name."""
    try:
        return make()
    except (InputError, ValueError, IndexError, ZeroDivisionError, RuntimeError) as error:
        reason = str(error) if isinstance(error, InputError) else "its weights have other shapes"
        raise InputError(f"{path}: {reason}") from error


def _told(checkpoint: dict[str, Any], entry: str, left_out: list[str]) -> CheckpointEntry:
    """Which entry was taken, which were not, and how far the training was."""
    counts = {k: checkpoint[k] for k in ("epoch", "steps") if isinstance(checkpoint.get(k), int)}
    return CheckpointEntry(taken=entry, left_out=left_out, **counts)


def _encoder_identity(spec: str, config: MapperConfig) -> dict[str, Any]:
    identity = published_identity() if spec == PUBLISHED else load_encoder(spec).identity
    found = identity["n_tokens"], identity["n_dims"]
    if found != (config.n_tokens, config.n_dims):
        raise InputError(
            f"--encoder {spec}: gives {found[0]} tokens of {found[1]} dims, the mapper takes "
            f"{config.n_tokens} of {config.n_dims}: name the encoder it was trained with"
        )
    return identity


def _provenance(path: Path) -> OriginFile:
    checksum = sha256(path)
    return OriginFile(
        name=path.name,
        bytes=path.stat().st_size,
        sha256=checksum,
        source=origin_of(path, checksum),
    )


def _card(name: str, voxels: Voxels, encoder: str, record: TrainingRecord) -> str:
    origin = record.origin
    assert origin is not None
    files = "\n".join(
        f"| {one.name} | {role}, its `{origin.checkpoints[role].taken}` | "
        f"{one.bytes:,} | {one.sha256} | {one.source or 'a local file'} |"
        for role, one in origin.files.items()
    )
    simulated = "**Simulated subject: no person was measured.**\n\n" if voxels.simulated else ""
    return f"""# {name}

{simulated}Weights in the format that SynBrain's authors publish (Mai et al., "SynBrain: Enhancing \
Visual-to-fMRI Synthesis via Probabilistic Representation Learning", NeurIPS 2025, arXiv \
2508.10298), imported by synbrain: responses of subject {voxels.subject} of {voxels.dataset}, \
{voxels.place.n_voxels:,} voxels.
Image encoder: {encoder}.

**Nobody measured the scores of this model here.** Nothing was trained or fitted: there is no linear
encoder, no noise ceiling and no distribution of single trials. `--sampling mean` gives the \
published output; `--sampling latent` adds noise to the latent (the paper's appendix E).

| file | what | bytes | SHA-256 | from |
|---|---|---|---|---|
{files}

The mapper's modulation at t = 0 is folded into its weights, which changes no output. Voxels are in
C order of the mask. The networks' unit, NSD's integers / {RELEASE_SCALE:g}, is returned to \
{UNIT} (× {RELEASE_SCALE:g} / {BETA_SCALE:g}).

Licence of the weights, as published: {origin.licence}.
Weights derived from a data set follow its terms, too (NSD: no redistribution of data).
"""
