"""`synbrain weights import`: the checkpoints of SynBrain's authors → a model bundle.

A published model is BrainVAE and S2N mapper alone. Its networks see responses in a unit of their
own, NSD's integers over 2000, and raw CLIP tokens; voxels are those of nsdgeneral in C order. All
of this is recorded in the bundle, so that responses come out in percent signal change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from synbrain_cli.config import Band, MapperConfig
from synbrain_cli.datasets.nsd import BETA_SCALE
from synbrain_cli.datasets.nsd_choice import Choice
from synbrain_cli.datasets.nsd_files import NSD
from synbrain_cli.datasets.nsd_voxels import SubjectVoxels
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.features.loading import load_encoder
from synbrain_cli.features.openclip import PUBLISHED, published_identity
from synbrain_cli.io.arrays import save_arrays
from synbrain_cli.io.bundle import (
    CARD,
    BundleConfig,
    Origin,
    OriginFile,
    TrainingRecord,
    fingerprint,
    read_config,
    seal,
)
from synbrain_cli.io.fetched import origin_of
from synbrain_cli.io.files import sha256, versions
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.volume import check_same_grid, read_volume
from synbrain_cli.io.voxel_space import Geometry, Volume
from synbrain_cli.io.workfolder import work_folder
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.labels import dataset_name, model_name, require_subject_label, subject_label
from synbrain_cli.progress import Progress
from synbrain_cli.run import RunContext
from synbrain_cli.training.bundle_writer import MODEL, TrainResult
from synbrain_cli.training.published_networks import PublishedNetworks, read_published_networks

RELEASE_SCALE = 2000.0  # the networks see NSD's int16 betas divided by this
# Voxels of NSD's nsdgeneral above 0, in func1pt8mm, of subjects 1 to 8.
NSDGENERAL = dict(enumerate((15724, 14278, 15226, 13153, 13039, 17907, 12682, 14386), start=1))
UNIT = "percent signal change"


@dataclass(frozen=True)
class ImportSettings:
    """The checkpoints to import, and what is known of the subject that they are of.

    Attributes
    ----------
    brainvae, s2n : Path
        ``last.pth`` of BrainVAE and ``last.pt`` of the mapper, of one subject. Averaged weights
        (``ema``) are taken where there are any.
    mask : Path, optional
        Volume above 0 in the voxels, in whose C order the networks have them: NSD's
        ``nsdgeneral.nii.gz``. Default that of the prepared subject.
    subject : str, optional
        Default the one of NSD whose nsdgeneral has as many voxels as the mask.
    dataset : str
        Below ``prepared/``; the subject's data are looked for there.
    prepared : Path, optional
        Prepared subject with the same mask, from which transforms, ROIs and ncsnr are taken.
        Default ``prepared/<dataset>/sub-<subject>``, where it exists and has the same mask.
    nsd : Path, optional
        Copy of NSD, from which they are taken where there is no such subject; its ROI and transform
        files are enough. Default ``nsd`` in the workspace, where that is one.
    n_voxels : int, optional
        Voxels the mask must have; default those of the subject's nsdgeneral. The networks take any
        number, and do not record theirs.
    encoder : str, optional
        Default the published one; no checksum of its weights is known, so that any are accepted.
        Another is loaded, and the checksum of its weights recorded.
    licence : str, optional
        As published with the weights.
    """

    brainvae: Path
    s2n: Path
    mask: Path | None = None
    subject: str | None = None
    dataset: str = "nsd"
    prepared: Path | None = None
    nsd: Path | None = None
    n_voxels: int | None = None
    encoder: str | None = None
    licence: str | None = None


@dataclass(frozen=True)
class PublishedVoxels:
    """Voxels of a published model, and the data that transforms and ROIs are taken from.

    Attributes
    ----------
    volume : Volume
    subject, dataset : str
    prepared : PreparedSubject, optional
        With the same mask.
    copy : NSD, optional
        With this subject, where there is no prepared one.
    """

    volume: Volume
    subject: str
    dataset: str
    prepared: PreparedSubject | None = None
    copy: NSD | None = None

    @property
    def simulated(self) -> bool:
        """Whether the subject is a simulated one."""
        known = self.prepared or self.copy
        return known is not None and known.simulated

    def save(self, folder: Path) -> None:
        """Write mask, ``voxels.tsv`` and, where they are known, resamplings to other spaces."""
        self.volume.save(folder)
        if self.prepared is not None:
            self.prepared.voxel_space.copy_to(folder)
            return
        table = self.volume.table()
        if self.copy is not None:
            inside = self.volume.inside
            known = SubjectVoxels(self.copy, int(self.subject), Choice())
            table = pd.concat([table, known.voxel_table(inside)], axis=1)
            for name, resampling in known.resamplings(inside, self.volume).items():
                resampling.save(folder / name)
        table.to_csv(folder / "voxels.tsv", sep="\t", index=False, float_format="%.5g")


def import_published(
    workspace: Workspace,
    settings: ImportSettings,
    *,
    name: str | None = None,
    overwrite: bool = False,
    run: RunContext | None = None,
) -> TrainResult:
    """Make a bundle of the checkpoints that the authors of SynBrain published (Mai et al. 2025).

    Parameters
    ----------
    workspace : Workspace
    settings : ImportSettings
    name : str, optional
        Of the bundle; default ``sub-01_published``.
    overwrite : bool
        Replace a model of that name.
    run : RunContext, optional

    Raises
    ------
    MissingError
        No such file, or no mask.
    InputError
        A file is no checkpoint, is truncated, holds other things than data, lacks keys or has
        unknown ones; the two do not belong together; another number of voxels; another encoder.
        Nothing is written. A model of that name made with other settings.
    """
    # Set up
    run = run or RunContext()
    voxels = _find_voxels(workspace, settings, run.progress)
    name = model_name(name or f"sub-{voxels.subject}_published")

    # Read the networks, before anything is written: the files may be faulty
    networks = read_published_networks(settings.brainvae, settings.s2n, run.progress)
    spec = settings.encoder or PUBLISHED
    band = _band(spec, networks.mapper)
    origin = _origin(settings, networks)
    recorded = _recorded(voxels, band, origin)
    with work_folder(
        workspace.weights / name, MODEL, recorded, overwrite=overwrite, progress=run.progress
    ) as work:
        if work.is_finished:
            run.progress.info(f"{work.target} is already there, made with the same settings")
            return TrainResult(work.target, read_config(work.target).training)

        # Write the bundle
        folder = work.partial
        _save_networks(folder, networks, voxels.volume.n_voxels)
        voxels.save(folder)
        record = TrainingRecord(preset="paper", origin=origin, versions=versions())
        config = BundleConfig(
            subject=voxels.subject,
            dataset=voxels.dataset,
            simulated=voxels.simulated,
            space="func1pt8mm",
            unit=f"int16 betas of NSD / {RELEASE_SCALE:g}; response_sd returns it to the "
            "recorded unit",
            recorded_unit=UNIT,
            standardization="none",
            voxel_order="file",
            bands=(band,),
            vae=networks.vae,
            mapper=networks.mapper,
            predictors=("deep",),
            has_readout=False,
            fingerprint=fingerprint(folder),
            training=record,
        )
        seal(folder, config)
        (folder / CARD).write_text(_card(name, config, origin, voxels.volume.n_voxels), "utf-8")
        work.put_in_place()
    run.progress.info(f"wrote {work.target}")
    return TrainResult(work.target, record)


def _recorded(voxels: PublishedVoxels, band: Band, origin: Origin) -> Mapping[str, Any]:
    """Return what the bundle depends on, for its ``settings.json``."""
    mask = hashlib.sha256(voxels.volume.inside.tobytes() + voxels.volume.mask.affine.tobytes())
    return {
        "model": "published",
        "files": {role: one.sha256 for role, one in origin.files.items()},
        "sources": {role: one.source for role, one in origin.files.items()},
        "licence": origin.licence,
        "bands": [band],
        "subject": voxels.subject,
        "dataset": voxels.dataset,
        "mask": mask.hexdigest(),
        "prepared": voxels.prepared.checksum if voxels.prepared else None,
        "nsd": str(voxels.copy.root) if voxels.copy else None,
    }


# ------------------------------------------------------------------------ subject and mask


def _find_voxels(
    workspace: Workspace, settings: ImportSettings, progress: Progress
) -> PublishedVoxels:
    """Find subject and mask, and a prepared subject or copy of NSD with transforms and ROIs."""
    volume = _read_mask(settings.mask) if settings.mask is not None else None
    prepared = _named_subject(settings)
    dataset = dataset_name(prepared.dataset if prepared is not None else settings.dataset)
    label = require_subject_label(
        prepared.subject if prepared else _find_label(settings, volume, progress)
    )
    if prepared is None:
        usual = PreparedSubject(workspace.prepared / dataset / f"sub-{label}")
        prepared = usual if (usual.folder / "dataset_description.json").exists() else None
    copy = _copy_of_nsd(workspace, settings.nsd, dataset, label)
    mask: Path | str | None = settings.mask
    if volume is None:
        volume = _default_mask(prepared, copy, label)
        mask = prepared.folder if prepared is not None else "nsdgeneral.nii.gz"
    if prepared is not None and not _is_same(volume, prepared.voxel_space.geometry):
        fault = f"{prepared.folder}: its mask ({prepared.n_voxels:,} voxels) is not {mask}"
        if settings.prepared is not None:
            raise InputError(f"{fault}: prepare with that mask (--roi), or leave --prepared out")
        progress.info(f"{fault}: nothing is taken from it")
        prepared = None
    _check_n_voxels(settings, volume, dataset, label, mask)
    if prepared is not None:
        progress.info(f"transforms, ROIs and ncsnr: those of {prepared.folder}")
        return PublishedVoxels(volume, label, dataset, prepared=prepared)
    if copy is not None:
        grid = SubjectVoxels(copy, int(label), Choice()).grid()
        check_same_grid(mask or "the mask", volume.mask, *grid)
        progress.info(f"transforms and ROIs: those that are in {copy.root}")
        return PublishedVoxels(volume, label, dataset, copy=copy)
    progress.info(
        "neither a prepared subject with this mask nor a copy of NSD: no transforms to fsaverage, "
        "no ROIs (--prepared, --nsd)"
    )
    return PublishedVoxels(volume, label, dataset)


def _named_subject(settings: ImportSettings) -> PreparedSubject | None:
    """The prepared subject that was named."""
    if settings.prepared is None:
        return None
    prepared = PreparedSubject(Path(settings.prepared).resolve())
    if not (prepared.folder / "dataset_description.json").exists():
        raise MissingError(
            f"--prepared {settings.prepared}: expected a prepared subject, as prepared/nsd/sub-01"
        )
    if settings.subject is not None and subject_label(settings.subject) != prepared.subject:
        raise InputError(
            f"--prepared {settings.prepared}: expected sub-{subject_label(settings.subject)}, as "
            "--subject says: leave one out"
        )
    return prepared


def _find_label(settings: ImportSettings, volume: Volume | None, progress: Progress) -> str:
    """The subject's label: the one named, or the one of NSD with as many voxels."""
    if settings.subject is not None:
        return subject_label(settings.subject)
    if volume is not None and settings.dataset == "nsd":
        for number, n_voxels in NSDGENERAL.items():
            if n_voxels == volume.n_voxels:
                label = subject_label(number)
                progress.info(f"subject: {label}, by its {n_voxels:,} voxels (--subject)")
                return label
    found = ""
    if volume is not None:
        found = f" ({settings.mask} has {volume.n_voxels:,} voxels, as no subject's nsdgeneral)"
    raise InputError(f"--subject: expected the subject that the weights are of, found none{found}")


def _check_n_voxels(
    settings: ImportSettings,
    volume: Volume,
    dataset: str,
    label: str,
    mask: Path | str | None,
) -> None:
    """Refuse a mask with another number of voxels than asked for, or than nsdgeneral has."""
    n_voxels = settings.n_voxels
    if n_voxels is None and dataset == "nsd" and label.isdigit():
        n_voxels = NSDGENERAL.get(int(label))
    if n_voxels is not None and volume.n_voxels != n_voxels:
        raise InputError(
            f"{mask}: expected {n_voxels:,} voxels (nsdgeneral of sub-{label}), found "
            f"{volume.n_voxels:,}: pass the mask that the weights were trained with; if that is "
            "another than nsdgeneral, pass its number of voxels with --voxels"
        )


def _copy_of_nsd(workspace: Workspace, root: Path | None, dataset: str, label: str) -> NSD | None:
    """A copy of NSD with ROIs of this subject: the one named, or ``nsd/`` in the workspace."""
    usual = workspace.root / "nsd"
    if root is None and not (dataset == "nsd" and (usual / "nsddata").is_dir()):
        return None
    copy = NSD(Path(root) if root is not None else usual)
    if label.isdigit() and copy.roi_folder(int(label), Choice()).is_dir():
        return copy
    if root is not None:
        raise MissingError(f"--nsd {root}: no ROIs of sub-{label} in func1pt8mm there")
    return None


def _default_mask(prepared: PreparedSubject | None, copy: NSD | None, label: str) -> Volume:
    """The mask of the prepared subject, or of the copy of NSD."""
    geometry = prepared.voxel_space.geometry if prepared is not None else None
    if isinstance(geometry, Volume):
        return geometry
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


def _is_same(volume: Volume, other: Geometry | None) -> bool:
    """Whether two masks have the same voxels, on the same grid."""
    return (
        isinstance(other, Volume)
        and np.array_equal(volume.inside, other.inside)
        and np.allclose(volume.mask.affine, other.mask.affine, atol=1e-3)
    )


# ------------------------------------------------------------------ content of the bundle


def _save_networks(folder: Path, networks: PublishedNetworks, n_voxels: int) -> None:
    """Write the networks, whose voxels are in file order, and the scales of what they see."""
    layout: dict[str, np.ndarray] = {
        "vae.order": np.arange(n_voxels),
        "vae.gain": np.ones(n_voxels, np.float32),
        "vae.offset": np.zeros(n_voxels, np.float32),
    }
    save_arrays(folder / "networks.safetensors", networks.tensors | layout)
    networks.tensors.clear()  # gigabytes
    n_tokens, n_dims = networks.mapper.n_tokens, networks.mapper.n_dims
    scale = RELEASE_SCALE / BETA_SCALE  # of the networks' unit, in percent signal change
    arrays = {
        "token_mean.0": np.zeros((n_tokens, n_dims)),
        "token_sd.0": np.ones(n_dims),
        "response_mean": np.zeros(n_voxels),
        "response_sd": np.full(n_voxels, scale),
    }
    in_float32 = {name: values.astype(np.float32) for name, values in arrays.items()}
    save_arrays(folder / "arrays.safetensors", in_float32)


def _band(spec: str, config: MapperConfig) -> Band:
    """Return the encoder's band, once its tokens are known to fit the mapper."""
    if spec == PUBLISHED:
        identity = published_identity()
    else:
        bands = load_encoder(spec).bands
        if len(bands) > 1:
            raise InputError(
                f"--encoder {spec}: {len(bands)} layers, the mapper takes the tokens of one: name "
                "the one it was trained with"
            )
        spec, identity = bands[0].spec, bands[0].identity
    found = identity["n_tokens"], identity["n_dims"]
    if found != (config.n_tokens, config.n_dims):
        raise InputError(
            f"--encoder {spec}: gives {found[0]} tokens of {found[1]} dims, the mapper takes "
            f"{config.n_tokens} of {config.n_dims}: name the encoder it was trained with"
        )
    return Band(spec, identity)


def _origin(settings: ImportSettings, networks: PublishedNetworks) -> Origin:
    return Origin(
        files={"brainvae": _origin_file(settings.brainvae), "s2n": _origin_file(settings.s2n)},
        licence=settings.licence or "not recorded; see the page that the files came from",
        checkpoints=networks.checkpoints,
    )


def _origin_file(path: Path) -> OriginFile:
    checksum = sha256(path)
    return OriginFile(
        name=path.name,
        bytes=path.stat().st_size,
        sha256=checksum,
        source=origin_of(path, checksum),
    )


def _card(name: str, config: BundleConfig, origin: Origin, n_voxels: int) -> str:
    """Return the bundle's ``card.md``: origin, unit, licence, and what was not measured."""
    files = "\n".join(
        f"| {one.name} | {role}, its `{origin.checkpoints[role].taken}` | "
        f"{one.bytes:,} | {one.sha256} | {one.source or 'a local file'} |"
        for role, one in origin.files.items()
    )
    simulated = "**Simulated subject: no brain was measured.**\n\n" if config.simulated else ""
    return f"""# {name}

{simulated}Weights in the format that SynBrain's authors publish (Mai et al., "SynBrain: Enhancing \
Visual-to-fMRI Synthesis via Probabilistic Representation Learning", NeurIPS 2025, arXiv \
2508.10298), imported by synbrain: responses of subject {config.subject} of {config.dataset}, \
{n_voxels:,} voxels.
Image encoder: {config.encoder}.

**The scores of this model were not measured here.** Nothing was trained or fitted: there is no \
linear encoder, no noise ceiling and no distribution of single trials. `--sampling mean` gives the \
published output; `--sampling latent` adds noise to the latent (the paper's appendix E).

| file | content | bytes | SHA-256 | source |
|---|---|---|---|---|
{files}

The mapper's modulation at t = 0 is folded into its weights, which changes no output. Voxels are in
C order of the mask. The networks' unit, NSD's integers / {RELEASE_SCALE:g}, is returned to \
{UNIT} (× {RELEASE_SCALE:g} / {BETA_SCALE:g}).

Licence of the weights, as published: {origin.licence}.
Weights derived from a data set follow its terms, too (NSD: no redistribution of data).
"""
