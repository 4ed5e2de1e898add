"""Three strategies to model a new subject from few hours of data and models of other subjects.

``fine-tuning``   the published recipe (Mai et al. 2025): the networks of another subject, of which
                  the whole BrainVAE and the mapper's MLPs are trained further.
``source-map``    closed form: the responses that the models of other subjects predict are the
                  features of a ridge regression for every voxel. It trains no networks, and needs
                  these models alone.
``shared-core``   an encoder trained on several subjects at once, with a prior over the cortical
                  sheet (`synbrain_cli.model.core`); then a ridge regression as above. It needs
                  their prepared data; the core is trained once for all new subjects.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from synbrain_cli.brain import Brain
from synbrain_cli.brain.prediction import SourcePredictions
from synbrain_cli.config import PRESETS, Preset
from synbrain_cli.errors import InputError
from synbrain_cli.io.bundle import TransferConfig
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.token_store import TokenStore
from synbrain_cli.io.workfolder import WorkFolder
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.model.order import UnknownPlacesError
from synbrain_cli.model.transfer import Evidence, fit_adapter, gather_evidence
from synbrain_cli.progress import Share
from synbrain_cli.run import RunContext
from synbrain_cli.training.bundle_writer import FittedTransfer, predict_held_out
from synbrain_cli.training.examples import SubjectExamples, seen_by_networks
from synbrain_cli.training.networks import (
    Schedules,
    TrainedNetworks,
    UntrainedNetworks,
    train_networks,
)
from synbrain_cli.training.shared_core import core_settings, require_grids, train_core
from synbrain_cli.training.voxel_order import default_order, sphere_of, subject_order

STRATEGIES = ("shared-core", "source-map", "fine-tuning")


@dataclass(frozen=True)
class Sources:
    """The models that adaptation starts from, and the subjects that they are of.

    Attributes
    ----------
    brains : list of Brain
    subjects : list of (PreparedSubject, TokenStore), or None
        Their prepared data; None where some are not in this workspace.
    """

    brains: list[Brain]
    subjects: list[tuple[PreparedSubject, TokenStore]] | None

    @property
    def names(self) -> list[str]:
        """Names of the models."""
        return [brain.name for brain in self.brains]

    @property
    def first_with_networks(self) -> Brain | None:
        """The model that fine-tuning starts from; None where none has networks."""
        return next((brain for brain in self.brains if brain.config.has_networks), None)


@dataclass(frozen=True)
class Candidate:
    """What a strategy made of the new subject's hours.

    Attributes
    ----------
    held_out : float32 array of shape (n_val_images, n_voxels)
        Predictions of the hours' validation images.
    networks : TrainedNetworks, optional
        Of fine-tuning.
    transfer : FittedTransfer, optional
        Of the other strategies.
    """

    held_out: np.ndarray
    networks: TrainedNetworks | None = None
    transfer: FittedTransfer | None = None


@dataclass(frozen=True)
class AdaptationTask:
    """What every strategy starts from.

    Attributes
    ----------
    workspace : Workspace
        Where shared cores are kept.
    sources : Sources
    subject : PreparedSubject
        The new subject.
    examples : SubjectExamples
        Of the first hours.
    work : WorkFolder
        Of the new model.
    run : RunContext
    """

    workspace: Workspace
    sources: Sources
    subject: PreparedSubject
    examples: SubjectExamples
    work: WorkFolder
    run: RunContext


def apply_strategy(strategy: str, task: AdaptationTask) -> Candidate:
    """Model the new subject by one of `STRATEGIES`."""
    if strategy == "fine-tuning":
        return fine_tune(task)
    task.run.progress.info(f"{task.work.target.name}: {strategy}")
    use = use_shared_core if strategy == "shared-core" else map_sources
    source = use(task)
    with task.run.progress.stage(f"{task.work.target.name}: evidence of {strategy}") as share:
        return _fit_transfer(source, task.examples, task.run.seed, share)


def strategy_settings(strategies: list[str], sources: Sources, run: RunContext) -> dict[str, Any]:
    """Return what the strategies' results depend on, beside the hours and the source bundles."""
    settings: dict[str, Any] = {}
    brain = sources.first_with_networks
    if "fine-tuning" in strategies and brain is not None:
        settings["precision"] = run.speed.precision
        settings["stages"] = _schedules(_preset(brain)).to_list()
    if "shared-core" in strategies and sources.subjects is not None:
        settings["core"] = core_settings(sources.subjects, run.seed)
    return settings


def find_obstacles(sources: Sources, store: TokenStore, subject: PreparedSubject) -> dict[str, str]:
    """Find the strategies that these sources do not allow, and why.

    Parameters
    ----------
    sources : Sources
    store : TokenStore
        Tokens of the new subject's images.
    subject : PreparedSubject
        The new subject.
    """
    obstacles: dict[str, str] = {}
    if sources.first_with_networks is None:
        obstacles["fine-tuning"] = (
            f"{', '.join(sources.names)}: without networks to fine-tune (linear or adapted models)"
        )
    if sources.subjects is None:
        obstacles["shared-core"] = (
            f"the prepared data of the subjects of {', '.join(sources.names)} are not in this "
            "workspace"
        )
        return obstacles
    spheres = {sphere_of(one) for one in (subject, *(one for one, _ in sources.subjects))} - {None}
    if len(spheres) > 1:
        obstacles["shared-core"] = (
            f"subjects on the spheres of {' and '.join(sorted(map(str, spheres)))}, on which one "
            "position is not one place"
        )
    try:
        require_grids(store)
    except InputError as error:
        obstacles["shared-core"] = str(error)
    return obstacles


# --------------------------------------------------------------------------- fine-tuning


def fine_tune(task: AdaptationTask) -> Candidate:
    """Train the networks of the first source that has some further (the published recipe).

    Raises
    ------
    InputError
        When published weights see responses in another unit than that of the new subject.
    """
    brain, run = task.sources.first_with_networks, task.run
    if brain is None:
        raise InputError("fine-tuning: expected a source with networks, found none")
    if len(task.sources.brains) > 1:
        run.progress.info(f"fine-tuning: the networks of {brain.name}")
    voxel_order = _possible_voxel_order(brain, task)
    vae, mapper = brain.networks.vae, brain.networks.mapper
    _set_published_unit(brain, task)
    vae.lay_out(torch.from_numpy(subject_order(task.subject, voxel_order)))
    vae, mapper = vae.to(run.device), mapper.to(run.device)
    untrained = UntrainedNetworks(
        vae,
        mapper,
        list(mapper.mlp_parameters()),
        _schedules(_preset(brain)),
        _preset(brain).name,
        voxel_order,
        "--strategy shared-core or source-map",
    )
    joint = brain.networks.joint
    seen = seen_by_networks(task.examples, joint)
    networks = replace(train_networks(untrained, seen, run, task.work), joint=joint)
    return Candidate(predict_held_out(networks, seen), networks=networks)


def _preset(brain: Brain) -> Preset:
    """The preset that the networks are of, whether trained, adapted or imported."""
    name = brain.config.training.preset
    if name not in PRESETS:
        raise InputError(
            f"--from {brain.name}: expected networks of a preset ({', '.join(PRESETS)}), found "
            f"those of {name}: choose --strategy source-map"
        )
    return PRESETS[name]


def _schedules(preset: Preset) -> Schedules:
    return Schedules(preset.adapt_vae_stage, preset.adapt_mapper_stage, preset.loss)


def _possible_voxel_order(brain: Brain, task: AdaptationTask) -> str:
    """The source's voxel order where the new subject's files allow it; else their default."""
    theirs = brain.config.voxel_order or "file"
    try:
        subject_order(task.subject, theirs)
        return theirs
    except UnknownPlacesError:
        own = default_order(task.subject)
        task.run.progress.info(
            f"{brain.name} has the voxel order {theirs}, which the files of "
            f"sub-{task.subject.subject} do not allow: its voxel order is {own}"
        )
        return own


def _set_published_unit(brain: Brain, task: AdaptationTask) -> None:
    """Let published weights see the new subject's responses in the unit they were trained on.

    Other networks have no unit of their own, and see standardised responses.
    """
    vae, scale = brain.networks.vae, task.examples.scale
    if vae.gain is None:
        return
    unit = task.subject.description.unit_before_standardization
    if unit != brain.unit:
        raise InputError(
            f"--from {brain.name}: its published weights see responses in {brain.unit}, those of "
            f"sub-{task.subject.subject} are in {unit}: prepare them in that unit, or choose "
            "--strategy source-map"
        )
    per_unit = brain.response_sd / vae.gain.numpy()  # recorded unit, the same for all voxels
    gain, offset = (values / per_unit.mean() for values in (scale.sd, scale.mean))
    vae.measure(torch.from_numpy(np.float32(gain)), torch.from_numpy(np.float32(offset)))


# ---------------------------------------------------------------- source-map, shared-core


@dataclass(frozen=True)
class _EvidenceSource:
    """Evidence about the new subject, and how a bundle keeps it."""

    evidence: Evidence
    config: TransferConfig
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    bundles: list[Path] = field(default_factory=list)


def map_sources(task: AdaptationTask) -> _EvidenceSource:
    """Map the responses that the source models predict to the new subject's."""
    brains = task.sources.brains
    config = TransferConfig(
        kind="source-map",
        sources=task.sources.names,
        fingerprints=[brain.config.fingerprint for brain in brains],
    )
    bundles = [brain.folder for brain in brains]
    return _EvidenceSource(SourcePredictions(brains), config, bundles=bundles)


def use_shared_core(task: AdaptationTask) -> _EvidenceSource:
    """Map what a core shared by the source subjects predicts to the new subject's responses."""
    subjects = task.sources.subjects
    if subjects is None:
        raise InputError("shared-core: expected the source subjects' prepared data, found none")
    evidence = train_core(task.workspace, subjects, task.run).evidence(task.subject)
    config = TransferConfig(
        kind="shared-core",
        core=evidence.ensemble.config,
        subjects=[subject.label for subject, _ in subjects],
    )
    return _EvidenceSource(evidence, config, arrays=evidence.arrays())


def _fit_transfer(
    source: _EvidenceSource, examples: SubjectExamples, seed: int, share: Share
) -> Candidate:
    """Fit the adapter to training images, to be judged on validation images, and to all."""
    gathering, judging, fitting = share.split(2, 1, 1)
    evidence, prior = gather_evidence(source.evidence, examples.both.tokens, gathering)
    n_train, generator = len(examples.train.averages), np.random.default_rng([seed, 5])
    train, val = (
        (evidence[some], None if prior is None else prior[some])
        for some in (slice(n_train), slice(n_train, None))
    )
    judged, _ = fit_adapter(
        *train, examples.train.averages, generator, judging, examples.groups_of_training
    )
    held_out = judged(*val)
    final, left_out = fit_adapter(
        evidence, prior, examples.both.averages, generator, fitting, examples.groups
    )
    arrays = final.arrays() | source.arrays
    transfer = FittedTransfer(held_out, left_out, arrays, source.config, source.bundles)
    return Candidate(held_out, transfer=transfer)
