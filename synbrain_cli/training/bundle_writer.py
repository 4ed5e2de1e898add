"""Writing of a bundle: trained parts → files, sealed (`synbrain_cli.io.bundle`)."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import nn

from synbrain_cli.bands import join_bands
from synbrain_cli.brain.prediction import predict_deep
from synbrain_cli.io.arrays import save_arrays
from synbrain_cli.io.bundle import (
    CARD,
    Adaptation,
    BundleConfig,
    SequenceSummary,
    SplitSizes,
    TrainingRecord,
    TransferConfig,
    fingerprint,
    seal,
)
from synbrain_cli.io.files import copy_at_once, versions
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.token_store import TokenStore
from synbrain_cli.io.workfolder import FILES, FolderKind, WorkFolder
from synbrain_cli.model.linear import LinearEncoder
from synbrain_cli.run import RunContext
from synbrain_cli.training.distribution import (
    FittedDistribution,
    HeldOut,
    baseline_variances,
    describe_readout,
)
from synbrain_cli.training.examples import SubjectExamples, share_predicted
from synbrain_cli.training.limits import find_limits
from synbrain_cli.training.networks import TrainedNetworks
from synbrain_cli.training.sequence import OrderResult
from synbrain_cli.training.shared_core import TrainedNetwork

_EARLY = ("V1", "V2", "V3", "hV4")  # first in tables of regions
MODEL = FolderKind("a model", "--name")


@dataclass(frozen=True)
class TrainResult:
    """The bundle made, and the record of its training (``config.json``'s "training")."""

    folder: Path
    record: TrainingRecord


@dataclass(frozen=True)
class FittedTransfer:
    """A transfer from models of other subjects, fitted to a new subject's hours.

    Attributes
    ----------
    held_out : float32 array of shape (n_val_images, n_voxels)
        Predictions of validation images by the fit to training images.
    left_out : float32 array of shape (n_train_images + n_val_images, n_voxels)
        Leave-one-out predictions of all images, by the fit to all.
    arrays : dict of arrays
        Content of ``transfer.safetensors``, by the fit to all.
    config : TransferConfig
        For ``config.json``: what a `synbrain_cli.brain.Brain` needs to load it.
    bundles : list of Path
        Copied into ``sources/``: the transfer predicts with them, and a bundle is complete.
    """

    held_out: np.ndarray
    left_out: np.ndarray
    arrays: dict[str, np.ndarray]
    config: TransferConfig
    bundles: list[Path] = field(default_factory=list)


@dataclass(frozen=True)
class TrainedParts:
    """Everything that was trained, before the distribution is fitted around it.

    Attributes
    ----------
    subject : PreparedSubject
    store : TokenStore
    data : str
        SHA-256 of the subject's description (`PreparedSubject.checksum`), when the training began.
    sessions : list of int
        From which the examples come.
    examples : SubjectExamples
    linear : LinearEncoder
    held_out : HeldOut
        Predictions of images by predictors that were not fitted to them.
    networks : TrainedNetworks, optional
    transfer : FittedTransfer, optional
    network : TrainedNetwork, optional
    adaptation : Adaptation, optional
        Of adapted models.
    order : OrderResult, optional
        What the order of trials does.
    """

    subject: PreparedSubject
    store: TokenStore
    data: str
    sessions: list[int]
    examples: SubjectExamples
    linear: LinearEncoder
    held_out: HeldOut
    networks: TrainedNetworks | None = None
    transfer: FittedTransfer | None = None
    network: TrainedNetwork | None = None
    adaptation: Adaptation | None = None
    order: OrderResult | None = None


def predict_held_out(networks: TrainedNetworks, seen: SubjectExamples) -> np.ndarray:
    """Predict validation images, as networks see them: float32 (n_val_images, n_voxels)."""
    n_voxels = seen.val.averages.shape[1]
    return predict_deep(networks.vae, networks.mapper, seen.val.tokens, n_voxels)


def write_bundle(
    work: WorkFolder, parts: TrainedParts, fitted: FittedDistribution, run: RunContext
) -> TrainingRecord:
    """Write every file of the bundle, with validation scores, seal it and put it in place.

    Parameters
    ----------
    work : WorkFolder
    parts : TrainedParts
    fitted : FittedDistribution
    run : RunContext
        Its seed is recorded.
    """
    folder, subject = work.partial, parts.subject
    _save_predictors(folder, parts, fitted)
    subject.voxel_space.copy_to(folder)
    record = _training_record(parts, fitted, run)
    networks, transfer = parts.networks, parts.transfer
    config = BundleConfig(
        subject=subject.subject,
        dataset=subject.dataset,
        simulated=subject.simulated,
        space=subject.description.space,
        unit="standard deviations; response_mean and response_sd return it to the recorded unit",
        recorded_unit=subject.description.unit_before_standardization,
        standardization=subject.description.standardization,
        voxel_order=networks.voxel_order if networks else None,
        bands=parts.store.bands,
        vae=networks.vae.config if networks else None,
        mapper=networks.mapper.config if networks else None,
        transfer=transfer.config if transfer else None,
        network=parts.network.config if parts.network else None,
        predictors=parts.held_out.names,
        averaged_over=subject.averaged_over,
        fingerprint=fingerprint(folder),
        training=record,
    )
    seal(folder, config)
    members = members_table(subject, config, fitted.stack, parts.linear)
    limits = list(find_limits(parts.examples, parts.linear, fitted))
    for line in limits:
        run.progress.info(f"too few data: {line}")
    card = model_card(work.target.name, subject, config, members, limits)
    (folder / CARD).write_text(card, "utf-8")
    work.put_in_place()
    return record


def _save_predictors(folder: Path, parts: TrainedParts, fitted: FittedDistribution) -> None:
    """Write the arrays of every predictor, of the readout and of the baselines."""
    examples, networks, transfer = parts.examples, parts.networks, parts.transfer
    arrays = {
        **examples.scaler.arrays(),
        "response_mean": examples.scale.mean.astype(np.float32),
        "response_sd": examples.scale.sd.astype(np.float32),
        "mean_pattern": examples.train.betas.mean(0, dtype=np.float64).astype(np.float32),
    }
    if networks is not None:
        arrays |= {"latent_sd": networks.latent_sd, **networks.joint.arrays()}
        by_name: dict[str, nn.Module] = {"vae": networks.vae, "mapper": networks.mapper}
        tensors: dict[str, np.ndarray] = {}
        for name, network in by_name.items():
            state = network.state_dict()
            tensors |= {f"{name}.{key}": value.cpu().numpy() for key, value in state.items()}
        save_arrays(folder / "networks.safetensors", tensors)
    if transfer is not None:
        save_arrays(folder / "transfer.safetensors", transfer.arrays)
        for bundle in transfer.bundles:
            into = folder / "sources" / bundle.name
            shutil.rmtree(into, ignore_errors=True)  # by an interrupted run
            copy_at_once(bundle.resolve(), into)
            (into / FILES).unlink(missing_ok=True)  # of the command that made it
    if parts.network is not None:
        save_arrays(folder / "network.safetensors", parts.network.ensemble.arrays())
    save_arrays(folder / "arrays.safetensors", arrays)
    save_arrays(folder / "linear.safetensors", parts.linear.arrays())
    linear = parts.held_out.everywhere["linear"][len(examples.train.averages) :]
    baselines = baseline_variances(examples, linear)
    save_arrays(folder / "readout.safetensors", fitted.arrays() | baselines)
    if parts.order is not None and parts.order.found is not None:
        save_arrays(folder / "sequence.safetensors", parts.order.found.sequence.arrays())


def _training_record(
    parts: TrainedParts, fitted: FittedDistribution, run: RunContext
) -> TrainingRecord:
    train, val, networks = parts.examples.train, parts.examples.val, parts.networks
    of_validation = parts.held_out.of_validation(len(train.averages))
    predictions: dict[str, np.ndarray] = {"model": fitted.stacked, **of_validation}
    validation = {name: share_predicted(val, p) for name, p in predictions.items()}
    return TrainingRecord(
        preset=networks.preset if networks else None,
        seed=run.seed,
        data=parts.data,
        sessions=parts.sessions,
        n_trials=SplitSizes(train=len(train.betas), val=len(val.betas)),
        n_images=SplitSizes(train=len(train.averages), val=len(val.averages)),
        validation={**validation, "mean_pattern": 0.0},
        readout=describe_readout(fitted, parts.held_out.names),
        stages=networks.histories if networks else {},
        versions=versions(),
        adaptation=parts.adaptation,
        sequence=parts.order.summary() if parts.order else None,
    )


def model_card(
    name: str,
    subject: PreparedSubject,
    config: BundleConfig,
    members: str,
    limits: Sequence[str] = (),
) -> str:
    """Return the bundle's ``card.md``: training data, validation scores, members, licence.

    ``limits`` are what data were too few for (`synbrain_cli.training.limits`).
    """
    record = config.training
    simulated = "**Simulated subject: no brain was measured.**\n\n" if config.simulated else ""
    licence = (
        "The simulated data are free of rights; the weights follow the program's licence (MIT)."
        if config.simulated
        else "Weights derived from a data set follow its terms (NSD: no redistribution of data)."
    )
    validation = record.validation
    columns = ["model", *(n for n in ("network", "transfer", "deep", "linear") if n in validation)]
    table = "\n".join(
        (
            "| " + " | ".join(columns) + " | mean pattern |",
            "|---" * (len(columns) + 1) + "|",
            "| " + " | ".join(f"{validation[name]:.3f}" for name in columns) + " | 0 |",
        )
    )
    repeats = _about_repeats(record, config.averaged_over)
    order = "" if record.sequence is None else _about_order(record.sequence)
    few = "".join(f"\n- {line}" for line in limits)
    few = f"\n\nData were too few for:\n{few}" if limits else ""
    averages = "" if config.averaged_over == 1 else f" Trials and draws are {config.rows}."
    return f"""# {name}

{simulated}Responses of subject {config.subject} of {config.dataset}: \
{record.n_trials.train:,} training trials of {record.n_images.train:,} images, \
sessions {record.sessions[0]} to {record.sessions[-1]}, {subject.n_voxels:,} voxels \
({config.space}).{averages}
Image encoder: {config.encoder}.

Share of the variance of validation images' average responses that each predictor explains. These
images chose the weights, so this is no test score; `synbrain evaluate --model {name}` computes test
scores:

{table}

{_about_network(config)}{members}
{repeats}{few}
{order}
{licence}
"""


def _about_network(config: BundleConfig) -> str:
    """Say what of a response network its left-out images chose; empty without one."""
    if config.network is None:
        return ""
    core = config.network.core
    seen = join_bands([config.bands[k].spec for k in core.bands])
    how = "adds up" if core.exponent == 1 else f"is compressed (exponent {core.exponent:g})"
    together = ", ".join(config.network.subjects)
    return (
        f"Response network, trained on {together}: it sees {seen}, and what a voxel reads within "
        f"its receptive field {how}, as images that it left out chose.\n\n"
    )


def members_table(
    subject: PreparedSubject, config: BundleConfig, stack: np.ndarray, linear: LinearEncoder
) -> str:
    """Return a table for ``card.md`` of what each member of the stack carries in each region.

    Parameters
    ----------
    subject : PreparedSubject
        Its regions.
    config : BundleConfig
    stack : float array of shape (n_predictors, n_voxels)
        Weights of the predictors.
    linear : LinearEncoder
    """
    names = [band.spec for band in config.bands] if len(config.bands) > 1 else []
    by_band = linear.by_band().astype(np.float64)
    total = by_band.sum(0)
    lines = [
        f"| region | voxels | {' | '.join([*config.predictors, *names])} |",
        "|---" * (2 + len(config.predictors) + len(names)) + "|",
    ]
    rois = subject.rois()
    masks = {"all": np.ones(subject.n_voxels, bool)}
    masks |= {name: rois[name] for name in (*_EARLY, *rois) if name in rois}
    for region, mask in masks.items():
        cells = [f"{weight:.2f}" for weight in np.median(stack[:, mask], 1)]
        weighed = mask & (total > 0)
        if names and weighed.any():
            shares = (by_band[:, weighed] / total[weighed]).mean(1)
            cells += [f"{share:.2f}" for share in shares]
        else:
            cells += ["–"] * len(names)
        lines.append(f"| {region} | {mask.sum():,} | {' | '.join(cells)} |")
    bands = "."
    if names:
        bands = """, and the share of
each band in the weights within the linear encoder (mean over voxels). Weights depend on the scale
of predictions: `synbrain plot layers` shows what each band contributes."""
    table = "\n".join(lines)
    return (
        "What each member of the stack carries, by region: the median over voxels of its weight"
        f"{bands}\n\n{table}\n"
    )


def _about_order(summary: SequenceSummary) -> str:
    """Say what the order of trials does to responses, and how held-out trials bear it out."""
    lines = "\n".join(f"- {line}" for line in summary.describe())
    return f"\nWhat the order of trials does (`synbrain synthesize --sequence`):\n\n{lines}\n"


def _about_repeats(record: TrainingRecord, averaged_over: int) -> str:
    """Say how surely unexplained signal was told from trial noise."""
    if record.readout and record.readout.signal_told_from_noise:
        return (
            "Draws share unexplained signal over repeats; trial noise is modelled apart from it: "
            f"{record.readout.noise_share.describe()}."
        )
    if averaged_over > 1:
        return (
            "No image has two averages of its trials, so that unexplained signal cannot be told "
            "from the noise left in an average: all is taken as noise, and the draws of an image "
            "share the mean alone."
        )
    return (
        "No image was repeated in training, so that unexplained signal cannot be told from trial "
        "noise: all is taken as trial noise, and the draws of an image share the mean alone."
    )
