"""`synbrain train`: a prepared subject → a model bundle.

Linear encoder, then BrainVAE on single trials (stage 1), then the S2N mapper from image tokens
to the posterior means of those trials (stage 2; Mai et al. 2025, section 3), then the readout: how
the predictions are stacked, and how single trials vary around them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from synbrain_cli.config import PRESETS, Preset, trials_name
from synbrain_cli.distributed import SINGLE_PROCESS
from synbrain_cli.errors import InputError
from synbrain_cli.io.bundle import read_config
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.token_store import TokenStore
from synbrain_cli.io.workfolder import WorkFolder, work_folder
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.labels import model_name, require_subject_of_dataset
from synbrain_cli.memory import require_memory
from synbrain_cli.model.joint_tokens import JointTokens
from synbrain_cli.model.mapper import Mapper
from synbrain_cli.model.vae import BrainVAE
from synbrain_cli.pipeline.check_alignment import check_all
from synbrain_cli.run import RunContext
from synbrain_cli.training.bundle_writer import (
    MODEL,
    TrainedParts,
    TrainResult,
    predict_held_out,
    write_bundle,
)
from synbrain_cli.training.distribution import READOUT, HeldOut, fit_distribution
from synbrain_cli.training.examples import SubjectExamples, load_examples, seen_by_networks
from synbrain_cli.training.linear_encoder import fit_linear_encoder
from synbrain_cli.training.needs import LESS, training_bytes
from synbrain_cli.training.networks import Schedules, UntrainedNetworks, train_networks
from synbrain_cli.training.sequence import SEQUENCE, find_order, fit_order
from synbrain_cli.training.shared_core import (
    core_settings,
    describe_bands_left_out,
    grid_bands,
    require_grids,
    train_core,
    why_no_network,
)
from synbrain_cli.training.voxel_order import default_order, subject_order

MODELS = ("auto", "network", "linear", "full")
NO_NETWORKS = (
    "--preset, --voxel-order, --precision, --compile and --micro-batch are of the published "
    "networks: leave them out, or train these, too (--model full)"
)


@dataclass(frozen=True)
class TrainSettings:
    """What is trained.

    Attributes
    ----------
    model : {"auto", "network", "linear", "full"}
        "linear": the linear encoder alone; "network": with the response network; "full": with the
        published networks (BrainVAE and S2N mapper) beside it. "auto": the full model on a GPU, and
        "network" on a CPU, where the published networks cost most of the time; "linear" for a
        subject without test images, whose model is fitted again for every fold of images to score
        it, and for one of so few images that no network can be trained.
    preset : str
        Sizes and schedules of the networks: a name of `synbrain_cli.config.PRESETS`.
    voxel_order : str
        Order of the voxels along BrainVAE's convolution axis: "file", "curve", "region",
        "surface", or "auto", the first that the subject's files allow
        (`synbrain_cli.training.voxel_order.default_order`).
    together : tuple of PreparedSubject
        Subjects, the one that is modelled among them, that one response network is trained on; by
        default it is trained on that one alone.
    check : bool
        Refuse responses that do not fit their images (`pipeline.check_alignment`).

    Raises
    ------
    InputError
        For an unknown model or preset, or settings of networks for a linear model.
    """

    model: str = "auto"
    preset: str = "tiny"
    voxel_order: str = "auto"
    together: tuple[PreparedSubject, ...] = ()
    check: bool = True

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise InputError(f"--preset {self.preset}: expected one of {', '.join(PRESETS)}")
        if self.model not in MODELS:
            raise InputError(f"--model {self.model}: expected one of {', '.join(MODELS)}")
        if self.model in ("network", "linear") and (self.preset, self.voxel_order) != (
            "tiny",
            "auto",
        ):
            raise InputError(NO_NETWORKS)

    @property
    def has_network(self) -> bool:
        """Whether the response network is trained beside the linear encoder."""
        return self.model != "linear"

    def on(
        self, device: torch.device, subject: PreparedSubject, log: Callable[[str], None]
    ) -> TrainSettings:
        """Decide what "auto" is on a device, for a subject; say so where it is the least."""
        if self.model != "auto":
            return self
        plain = (self.preset, self.voxel_order) == ("tiny", "auto")
        reason = why_no_network(self.together or (subject,))
        if plain and reason is not None:
            log(f"{reason}: the linear encoder alone (--model linear)")
            return replace(self, model="linear")
        return replace(self, model="network" if plain and device.type == "cpu" else "full")

    @property
    def has_published(self) -> bool:
        """Whether BrainVAE and the S2N mapper are trained, too."""
        return self.model == "full"


def train(
    workspace: Workspace,
    subject: PreparedSubject,
    store: TokenStore,
    settings: TrainSettings,
    run: RunContext,
    *,
    name: str | None = None,
    overwrite: bool = False,
) -> TrainResult:
    """Train a model of one subject.

    The same call continues an interrupted training: the weights are those of a training without
    interruption (bit for bit on the same CPU). A finished model of the same settings is returned
    as it is.

    Parameters
    ----------
    workspace : Workspace
    subject : PreparedSubject
    store : TokenStore
        Tokens of its images; they determine the encoder.
    settings : TrainSettings
    run : RunContext
        Its seed determines initial weights, batches and noise. Its processes share every batch:
        the model is that of one process with the same batch.
    name : str, optional
        Of the bundle; default ``sub-01``, or ``sub-01_linear``.
    overwrite : bool
        Replace a finished or interrupted model of that name.

    Raises
    ------
    InputError
        When a model of that name was made, or is being made, with other settings; when the
        subject's files do not allow the voxel order.
    AlignmentError
        When the responses do not fit the images of their trials.
    BusyError
        When another process is training it.
    """
    # Set up
    asked = settings
    settings = _with_what_applies(settings, subject, store, run)
    known = [(one, store) for one in settings.together or (subject,)]
    voxel_order = settings.voxel_order
    if voxel_order == "auto":
        voxel_order = default_order(subject)
    order = torch.from_numpy(subject_order(subject, voxel_order))
    preset = PRESETS[settings.preset]
    require_subject_of_dataset(subject.label)
    name = model_name(name or f"sub-{subject.subject}" + ("" if asked.has_network else "_linear"))
    recorded = _recorded(settings, voxel_order, subject, known, run)
    with work_folder(
        workspace.weights / name,
        MODEL,
        recorded,
        overwrite=overwrite,
        processes=run.processes,
        progress=run.progress,
    ) as work:
        if work.is_finished:
            run.progress.info(f"{work.target} is already there, made with the same settings")
            return TrainResult(work.target, read_config(work.target).training)

        # Check that responses and images belong together
        if settings.check:
            check_all([one for one, _ in known], store, run)

        # Load examples
        needed = training_bytes(subject, store) if run.processes.is_main else 0.0
        enough = require_memory(needed, f"training {name}", LESS)
        examples = load_examples(subject, store)
        run.progress.info(
            _announcement(work, settings, voxel_order, examples, subject.averaged_over, run)
            + f"; {enough}"
        )

        # Fit the linear encoder
        if run.processes.is_main:
            linear, left_out = fit_linear_encoder(examples, run, work.recovery)

        # Train the response network
        network = None
        if recorded["network"] and run.processes.is_main:
            alone = replace(run, processes=SINGLE_PROCESS)
            network = train_core(workspace, known, alone).of_subject(subject.label)

        # Train the published networks
        networks = None
        if settings.has_published:
            joint = JointTokens.fit(examples.train.tokens)
            seen = seen_by_networks(examples, joint)
            untrained = _initial_networks(preset, voxel_order, order, seen, run)
            networks = replace(train_networks(untrained, seen, run, work), joint=joint)

        if run.processes.is_main:
            # Fit the readout
            held_out = HeldOut({"linear": left_out}, linear)
            if network is not None:
                held_out.everywhere["network"] = network.held_out
                held_out.excess["network"] = network.excess
            if networks is not None:
                held_out.on_validation["deep"] = predict_held_out(networks, seen)
            with run.progress.stage(f"{name} readout: {READOUT}") as share:
                fitted = fit_distribution(examples, held_out, run.seed, share)

            # Fit what the order of trials does
            order = find_order(subject, examples.images)
            with run.progress.stage(f"{name} order of trials: {SEQUENCE}") as share:
                ordered = fit_order(order, examples, fitted, share)

            # Write the bundle
            data, sessions = recorded["data"], subject.sessions
            parts = TrainedParts(
                subject,
                store,
                data,
                sessions,
                examples,
                linear,
                held_out,
                networks,
                network=network,
                order=ordered,
            )
            write_bundle(work, parts, fitted, run)
        run.processes.wait()
    run.progress.info(f"wrote {work.target}")
    return TrainResult(work.target, read_config(work.target).training)


def _with_what_applies(
    settings: TrainSettings, subject: PreparedSubject, store: TokenStore, run: RunContext
) -> TrainSettings:
    """Decide what "auto" is, and say what the bands do not allow.

    Raises
    ------
    InputError
        When the response network was asked for, and no band is on a grid.
    """
    if settings.model == "network":
        require_grids(store)
    chosen = settings.on(run.device, subject, run.progress.info)
    left_out = describe_bands_left_out(store)
    if left_out and chosen.has_network:
        run.progress.info(left_out)
    if not grid_bands(store) and not chosen.has_published:
        return replace(chosen, model="linear")
    return chosen


def _recorded(
    settings: TrainSettings,
    voxel_order: str,
    subject: PreparedSubject,
    known: Sequence[tuple[PreparedSubject, TokenStore]],
    run: RunContext,
) -> Mapping[str, Any]:
    """Return what the model depends on, for its ``settings.json``."""
    has_networks, preset = settings.has_published, PRESETS[settings.preset]
    has_core = settings.has_network and bool(grid_bands(known[0][1]))
    return {
        "model": settings.model,
        "preset": preset.name if has_networks else None,
        "voxel_order": voxel_order if has_networks else None,
        "seed": run.seed,
        "precision": run.speed.precision if has_networks else None,
        "data": subject.checksum,
        "bands": known[0][1].bands,
        "network": core_settings(known, run.seed) if has_core else None,
        "stages": _schedules(preset).to_list() if has_networks else [],
    }


def _schedules(preset: Preset) -> Schedules:
    return Schedules(preset.vae_stage, preset.mapper_stage, preset.loss)


def _initial_networks(
    preset: Preset,
    voxel_order: str,
    order: torch.Tensor,
    examples: SubjectExamples,
    run: RunContext,
) -> UntrainedNetworks:
    """Initialise both networks, for the shape of the tokens and the order of the voxels."""
    n_tokens, n_dims = examples.train.tokens.shape[1:]
    vae_config, mapper_config = preset.networks(n_tokens, n_dims)
    vae = BrainVAE(vae_config, torch.Generator().manual_seed(run.seed))
    vae.lay_out(order)
    mapper = Mapper(mapper_config, torch.Generator().manual_seed(run.seed + 1))
    vae, mapper = vae.to(run.device), mapper.to(run.device)
    parameters = list(mapper.parameters())
    return UntrainedNetworks(
        vae, mapper, parameters, _schedules(preset), preset.name, voxel_order, _shorter(preset)
    )


def _shorter(preset: Preset) -> str:
    """Name what takes less time than a preset: smaller ones, and no networks at all."""
    names = list(PRESETS)
    smaller = [f"--preset {name}" for name in names[: names.index(preset.name)]]
    return ", ".join([*smaller, "--model linear (no networks)"])


_KINDS = {"linear": "linear encoder alone", "network": "linear encoder and response network"}


def _announcement(
    work: WorkFolder,
    settings: TrainSettings,
    voxel_order: str,
    examples: SubjectExamples,
    averaged_over: int,
    run: RunContext,
) -> str:
    """Say what is trained, on what, and how."""
    train, n_processes = examples.train, run.processes.size
    networks = (
        f"preset {settings.preset}, voxel order {voxel_order}, {run.device}, {run.speed.precision}"
    )
    return (
        f"training {work.target.name}: {len(train.betas):,} trials of {len(train.averages):,} "
        f"images, {train.betas.shape[1]:,} voxels, "
        + ("" if averaged_over == 1 else f"rows are {trials_name(averaged_over)}, ")
        + (networks if settings.has_published else _KINDS[settings.model])
        + (f", {n_processes} processes" if n_processes > 1 else "")
    )
