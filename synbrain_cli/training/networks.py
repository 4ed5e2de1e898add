"""Training of the two networks (Mai et al. 2025, section 3): BrainVAE, then the S2N mapper.

Stage 1 trains BrainVAE on single trials. Stage 2 trains the mapper from image tokens to the
posterior means of these trials: the squared error to the posterior means of an image's trials has
the gradient of that to their average, so each trial is encoded once, and one target per image is
kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from synbrain_cli.config import LossConfig, StageConfig
from synbrain_cli.io.arrays import load_arrays, map_array, save_arrays
from synbrain_cli.io.bundle import StageHistory
from synbrain_cli.io.files import create_array
from synbrain_cli.io.seal import is_kept, keep
from synbrain_cli.io.workfolder import WorkFolder
from synbrain_cli.model.feed import Feed, Rows
from synbrain_cli.model.fit import Stage
from synbrain_cli.model.joint_tokens import JointTokens
from synbrain_cli.model.mapper import Mapper
from synbrain_cli.model.step import MapperStep, VAEStep
from synbrain_cli.model.vae import BrainVAE
from synbrain_cli.progress import LONG
from synbrain_cli.run import RunContext
from synbrain_cli.training.examples import Examples, SubjectExamples
from synbrain_cli.training.expected_time import PlannedStage
from synbrain_cli.training.resumable_fit import fit_resumably

MAPPER_SEED = 1000  # added to the run's seed for the mapper's stage
SCORED = 64  # trials or images that are scored together
ENCODED = 16  # images whose trials are encoded together


@dataclass(frozen=True)
class Schedules:
    """Schedules of the two stages, and the weights of their losses."""

    vae: StageConfig
    mapper: StageConfig
    loss: LossConfig

    def to_list(self) -> list[dict[str, Any]]:
        """The three, for the settings of a run."""
        return [self.vae.to_dict(), self.mapper.to_dict(), self.loss.to_dict()]


@dataclass(frozen=True)
class UntrainedNetworks:
    """The two networks and how they are to be trained.

    Attributes
    ----------
    vae : BrainVAE
        All of it is trained. On the run's device, with its voxel order laid out.
    mapper : Mapper
        On the run's device.
    mapper_parameters : list of Parameter
        Those of the mapper that are trained.
    schedules : Schedules
    preset : str
        Name of the preset that sizes and schedules come from.
    voxel_order : str
        Name of the order along BrainVAE's convolution axis.
    shorter : str
        Options that take less time.
    """

    vae: BrainVAE
    mapper: Mapper
    mapper_parameters: list[nn.Parameter]
    schedules: Schedules
    preset: str
    voxel_order: str
    shorter: str = ""


@dataclass(frozen=True)
class TrainedNetworks:
    """The two networks with their best weights, and the record of their training.

    Attributes
    ----------
    vae : BrainVAE
    mapper : Mapper
    latent_sd : float32 array of shape (n_tokens, n_dims)
        SD of the posterior, root mean square over training trials.
    preset, voxel_order : str
        As in `UntrainedNetworks`.
    histories : dict
        Of the stages, by title.
    joint : JointTokens
        How the tokens of several bands become those of one.
    """

    vae: BrainVAE
    mapper: Mapper
    latent_sd: np.ndarray
    preset: str
    voxel_order: str
    histories: dict[str, StageHistory]
    joint: JointTokens = field(default_factory=JointTokens)


@dataclass(frozen=True)
class MapperTargets:
    """What the mapper learns to predict.

    Attributes
    ----------
    latents : float32 array of shape (n_images, n_tokens, n_dims), a memory map
        Posterior means, averaged over the repeats of each image.
    variance : float
        Of the latents over images, mean over dimensions.
    latent_sd : float32 array of shape (n_tokens, n_dims)
        SD of the posterior, root mean square over trials.
    """

    latents: np.ndarray
    variance: float
    latent_sd: np.ndarray


def train_networks(
    networks: UntrainedNetworks, examples: SubjectExamples, run: RunContext, work: WorkFolder
) -> TrainedNetworks:
    """Train BrainVAE, then the mapper; both are left with their best weights.

    Parameters
    ----------
    networks : UntrainedNetworks
        Trained in place.
    examples : SubjectExamples
        Validation examples decide when to stop.
    run : RunContext
    work : WorkFolder
        Checkpoints and targets are kept in its ``recovery``.
    """
    vae, mapper = networks.vae, networks.mapper
    if run.processes.is_main and not run.progress.quiet:
        seconds = expected_seconds(networks, examples, run)
        title = f"{work.target.name}: training the networks"
        if run.progress.expect(title, seconds, networks.shorter):
            networks = replace(networks, shorter="")  # stages need not repeat it
    histories = {}
    stage = vae_stage(networks, examples, run)
    histories[stage.title] = _fit(stage, run, work)
    del stage  # and its copies of the examples on the device

    vae.requires_grad_(False)
    targets = mapper_targets(vae, examples.train, run, work.recovery)
    stage = mapper_stage(networks, examples, targets, run)
    histories[stage.title] = _fit(stage, run, work)
    return TrainedNetworks(
        vae, mapper, targets.latent_sd, networks.preset, networks.voxel_order, histories
    )


def expected_seconds(
    networks: UntrainedNetworks, examples: SubjectExamples, run: RunContext
) -> float:
    """Estimate how long `train_networks` takes from its beginning, by a few trial steps."""
    vae, mapper, schedules = networks.vae, networks.mapper, networks.schedules
    train, val, device = examples.train, examples.val, run.device

    def of_trials(n: int) -> tuple[Tensor, ...]:
        tokens = torch.from_numpy(train.tokens[train.image_index[:n]]).to(device)
        return torch.from_numpy(train.betas[:n]).to(device), tokens, torch.zeros_like(tokens)

    def of_images(n: int) -> tuple[Tensor, ...]:
        tokens = torch.from_numpy(train.tokens[:n]).to(device)
        averages = torch.from_numpy(train.averages[:n]).to(device)
        return tokens, torch.zeros_like(tokens), averages, torch.zeros_like(tokens)

    one, sd = torch.ones((), device=device), torch.ones(_latent_shape(vae), device=device)
    n_voxels = train.betas.shape[1]
    steps = (
        VAEStep(vae, schedules.loss),
        MapperStep(mapper, vae, schedules.loss, one, sd, n_voxels),
    )
    for step in steps:
        step.precision, step.micro_batch = run.speed.precision, run.speed.micro_batch
    stages = (
        PlannedStage(
            steps[0],
            list(vae.parameters()),
            of_trials,
            schedules.vae,
            len(train.betas),
            len(val.betas),
        ),
        PlannedStage(
            steps[1],
            networks.mapper_parameters,
            of_images,
            schedules.mapper,
            len(train.tokens),
            len(val.tokens),
        ),
    )
    return sum(stage.seconds(LONG / 2) for stage in stages) / run.processes.size


def _fit(stage: Stage, run: RunContext, work: WorkFolder) -> StageHistory:
    """`fit_resumably`, titled with the model's name."""
    titled = replace(stage, title=f"{work.target.name} {stage.title}")
    return fit_resumably(titled, run, work.recovery / f"{stage.title.lower()}.pt")


# ---------------------------------------------------------------------- stage 1: BrainVAE


def vae_stage(networks: UntrainedNetworks, examples: SubjectExamples, run: RunContext) -> Stage:
    """Return the stage that trains BrainVAE on single trials."""
    vae, train = networks.vae, examples.train
    feed = Feed(
        Rows(train.betas, run.device),
        Rows.of_tokens(train.tokens, run.device, train.image_index),
        noise=partial(_standard_normal, latent_shape=_latent_shape(vae), device=run.device),
        processes=run.processes,
    )
    return Stage(
        "BrainVAE",
        vae,
        list(vae.parameters()),
        VAEStep(vae, networks.schedules.loss, run.processes),
        partial(reconstruction_score, val=examples.val, run=run),
        len(train.betas),
        networks.schedules.vae,
        feed=feed,
        shorter=networks.shorter,
    )


@torch.inference_mode()
def reconstruction_score(network: BrainVAE, val: Examples, run: RunContext) -> float:
    """Share of the variance of validation trials that their reconstruction holds."""
    processes = run.processes
    own_betas = val.betas[processes.rank :: processes.size]
    error = torch.zeros((), device=run.device)
    for part in torch.from_numpy(own_betas).split(SCORED):
        y = part.to(run.device)
        with _autocast(run):
            reconstruction = network(y)[0]
        error += (reconstruction - y).square().sum()
    return 1 - float(processes.total(error)) / float((val.betas**2).sum())


# -------------------------------------------------------------------- stage 2: the mapper


@torch.inference_mode()
def mapper_targets(
    vae: BrainVAE, examples: Examples, run: RunContext, recovery: Path
) -> MapperTargets:
    """Encode every training trial, or take the targets from the interrupted run.

    Parameters
    ----------
    vae : BrainVAE
        With its best weights.
    examples : Examples
        Of training.
    run : RunContext
        Its processes share the images.
    recovery : path
        Folder in which the targets are kept.
    """
    path, summary = recovery / "targets.npy", recovery / "targets.safetensors"
    processes = run.processes
    kept = (is_kept(file, run.progress.info) for file in (path, summary))
    if not processes.on_main(lambda: all(kept)):
        shape = (len(examples.tokens), *_latent_shape(vae))
        processes.on_main(lambda: create_array(path, np.float32, shape))
        latents = np.load(path, mmap_mode="r+")
        total = _encode(vae, examples, run, latents)
        latents.flush()
        posterior_variance = processes.total(total).cpu().numpy() / len(examples.betas)
        processes.wait()
        if processes.is_main:
            mean = latents.mean(0, dtype=np.float64)
            spread = sum(float(((one - mean) ** 2).mean()) for one in latents)
            target_variance = spread / max(len(latents) - 1, 1)
            summed = {
                "latent_sd": np.sqrt(posterior_variance).astype(np.float32),
                "target_variance": np.array([target_variance], np.float32),
            }
            save_arrays(summary, summed)
            for file in (path, summary):
                keep(file)
        processes.wait()
    arrays = load_arrays(summary)
    variance = float(arrays["target_variance"][0])
    return MapperTargets(map_array(path), variance, arrays["latent_sd"])


def _encode(vae: BrainVAE, examples: Examples, run: RunContext, latents: np.ndarray) -> Tensor:
    """Write this process's averages; return its sum of posterior variances over trials."""
    n_images = len(latents)
    trials = np.argsort(examples.image_index, kind="stable")
    first = np.searchsorted(examples.image_index[trials], np.arange(n_images + 1))
    variance = torch.zeros(latents.shape[1:], dtype=torch.float64, device=run.device)
    rank, size = run.processes.rank, run.processes.size
    with run.progress.bar("posterior means", n_images) as bar:
        for start in range(ENCODED * rank, n_images, ENCODED * size):
            stop = min(start + ENCODED, n_images)
            some = trials[first[start] : first[stop]]
            with _autocast(run):
                posterior = vae.encode(torch.from_numpy(examples.betas[some]).to(run.device))
            means = posterior.mean.float().cpu().numpy()
            repeats = np.diff(first[start : stop + 1])
            sums = np.add.reduceat(means, first[start:stop] - first[start])
            latents[start:stop] = sums / repeats[:, None, None]
            variance += posterior.log_variance.double().exp().sum(0)
            bar.to(stop, n_images)
    return variance


def mapper_stage(
    networks: UntrainedNetworks,
    examples: SubjectExamples,
    targets: MapperTargets,
    run: RunContext,
) -> Stage:
    """Return the stage that trains the mapper to predict the targets, BrainVAE being fixed."""
    vae, mapper, train = networks.vae, networks.mapper, examples.train
    n_voxels = train.betas.shape[1]
    feed = Feed(
        Rows.of_tokens(train.tokens, run.device),
        Rows(targets.latents, run.device),
        Rows(train.averages, run.device),
        noise=partial(_half_standard_normal, latent_shape=_latent_shape(vae), device=run.device),
        processes=run.processes,
    )
    step = MapperStep(
        mapper,
        vae,
        networks.schedules.loss,
        torch.tensor(targets.variance, device=run.device),
        torch.from_numpy(targets.latent_sd).to(run.device),
        n_voxels,
        run.processes,
    )
    return Stage(
        "mapper",
        mapper,
        networks.mapper_parameters,
        step,
        partial(decoding_score, vae=vae, val=examples.val, run=run),
        len(train.tokens),
        networks.schedules.mapper,
        seed_offset=MAPPER_SEED,
        feed=feed,
        shorter=networks.shorter,
    )


@torch.inference_mode()
def decoding_score(network: Mapper, vae: BrainVAE, val: Examples, run: RunContext) -> float:
    """Share of the variance of validation images' average responses that decoding predicts."""
    processes = run.processes
    own_images = np.arange(processes.rank, len(val.tokens), processes.size)
    n_voxels = val.averages.shape[1]
    error = torch.zeros((), device=run.device)
    for first in range(0, len(own_images), SCORED):
        some = own_images[first : first + SCORED]
        tokens, averages = (
            torch.from_numpy(x[some]).to(run.device) for x in (val.tokens, val.averages)
        )
        with _autocast(run):
            predicted = vae.decode(network(tokens), n_voxels)
        error += (predicted - averages).square().sum()
    return 1 - float(processes.total(error)) / float((val.averages**2).sum())


# -------------------------------------------------------------------------------- shared


def _latent_shape(vae: BrainVAE) -> tuple[int, int]:
    return vae.config.n_tokens, vae.config.n_dims


def _standard_normal(
    n: int, generator: torch.Generator, latent_shape: tuple[int, int], device: torch.device
) -> Tensor:
    return torch.randn((n, *latent_shape), generator=generator, device=device)


def _half_standard_normal(
    n: int, generator: torch.Generator, latent_shape: tuple[int, int], device: torch.device
) -> Tensor:
    """Noise for half the images, which are decoded as draws; 0 for the others.

    The decoded mean and decoded draws must both fit the responses.
    """
    noise = _standard_normal(n, generator, latent_shape, device)
    noise[: n // 2] = 0
    return noise


def _autocast(run: RunContext) -> torch.autocast:
    """Half precision where the run computes in it."""
    is_half = run.speed.precision == "bf16"
    return torch.autocast(run.device.type, dtype=torch.bfloat16, enabled=is_half)
