"""`synbrain train`: a prepared subject → a model bundle.

Linear encoder, then BrainVAE on single trials (stage 1), then the S2N mapper from image tokens
to the posterior means of those trials (stage 2; Mai et al. 2025, section 3), then the readout: how
the predictions are stacked, and how single trials vary around them.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from synbrain_cli.brain.prediction import predict_deep
from synbrain_cli.config import PRESETS, LossConfig, Speed, StageConfig
from synbrain_cli.distributed import SINGLE_PROCESS, Processes
from synbrain_cli.errors import InputError
from synbrain_cli.io.bundle import (
    Adaptation,
    BundleConfig,
    Rank,
    ReadoutSummary,
    SplitSizes,
    StageHistory,
    TrainingRecord,
    TransferConfig,
    Variances,
    fingerprint,
    load_arrays,
    read_config,
    save_arrays,
    seal,
)
from synbrain_cli.io.files import (
    atomic,
    create_array,
    locked,
    read_json,
    replace_folder,
    sha256,
    versions,
    write_json,
)
from synbrain_cli.io.prepared import PreparedSubject, Trials
from synbrain_cli.io.records import convert_record
from synbrain_cli.io.token_store import TokenStore
from synbrain_cli.io.voxel_space import VOXEL_SPACE_FILES
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.metrics.accuracy import average_repeats
from synbrain_cli.model.feed import Feed, Rows
from synbrain_cli.model.fit import Stage, State, fit
from synbrain_cli.model.linear import LinearEncoder, fit_linear
from synbrain_cli.model.mapper import Mapper
from synbrain_cli.model.readout import (
    Readout,
    fit_readout,
    fit_stack,
    has_repeats,
    signal_left,
)
from synbrain_cli.model.step import MapperStep, VAEStep
from synbrain_cli.model.tokens import StandardTokens, TokenScaler
from synbrain_cli.model.vae import BrainVAE
from synbrain_cli.progress import Progress
from synbrain_cli.run import RunContext, default_speed, resolve_device
from synbrain_cli.training.voxel_order import default_order, subject_order

MODELS = ("full", "linear")
# Checkpoints that take longer than a moment take at most one part in so many of the time.
MOMENT, CHECKPOINT_SHARE = 0.5, 20


@dataclass(frozen=True)
class Examples:
    """One split, ready for training.

    Attributes
    ----------
    betas : float32 array of shape (n_trials, n_voxels), z-scored
    image_index : int array of shape (n_trials,)
    tokens : StandardTokens of shape (n_images, n_tokens, n_dims)
    averages : float32 array of shape (n_images, n_voxels)
        Over the repeats of each image.
    """

    betas: np.ndarray
    image_index: np.ndarray
    tokens: StandardTokens
    averages: np.ndarray

    @classmethod
    def of(cls, trials: Trials, store: TokenStore, scaler: TokenScaler) -> Examples:
        averages, _, _ = average_repeats(trials.betas, trials.image_index)
        tokens = StandardTokens(store.tokens, store.rows_of(trials.images), scaler)
        return cls(trials.betas, trials.image_index, tokens, averages)


@dataclass(frozen=True)
class ResponseScale:
    """What returns the networks' unit to the recorded one: ``z * sd + mean``; both (n_voxels,)."""

    mean: np.ndarray
    sd: np.ndarray

    def apply(self, trials: Trials) -> Trials:
        """Trials in recorded units, standardised."""
        betas = ((trials.betas - self.mean) / self.sd).astype(np.float32)
        return replace(trials, betas=betas)


@dataclass(frozen=True)
class TrainResult:
    """The bundle made, and the record of its training (``config.json``'s "training")."""

    folder: Path
    record: TrainingRecord


def train(
    workspace: Workspace,
    subject: PreparedSubject,
    store: TokenStore,
    *,
    model: str = "full",
    preset: str = "tiny",
    voxel_order: str = "auto",
    name: str | None = None,
    seed: int = 0,
    device: str = "auto",
    speed: Speed | None = None,
    resume: bool = False,
    overwrite: bool = False,
    processes: Processes = SINGLE_PROCESS,
    progress: Progress | None = None,
) -> TrainResult:
    """Train a model of one person.

    Parameters
    ----------
    workspace : Workspace
    subject : PreparedSubject
    store : TokenStore
        Tokens of its images; they fix the encoder.
    model : {"full", "linear"}
        "linear": the linear encoder and the readout alone, without networks; minutes instead of
        hours.
    preset : str
        Of `synbrain_cli.config.PRESETS`.
    voxel_order : str
        In which BrainVAE's convolutions meet the voxels: "file", "curve", "region", "surface", or
        "auto" (`synbrain_cli.training.voxel_order.default_order`).
    name : str, optional
        Of the bundle; default ``sub-01``, or ``sub-01_linear``.
    seed : int
        One seed for initial weights, batches and noise.
    device : str
    speed : Speed, optional
        How training steps are computed; default `synbrain_cli.run.default_speed`.
    resume : bool
        Go on with an interrupted training: same weights as without the interruption (bit for
        bit on the same CPU). An error if its settings were others.
    overwrite : bool
        Replace a finished or unfinished model of that name.
    processes : Processes
        Processes that share every batch: the model is that of one process with the same batch.
    progress : Progress, optional

    Raises
    ------
    SynbrainError
    """
    progress = progress or Progress()
    if preset not in PRESETS:
        raise InputError(f"--preset {preset}: expected one of {', '.join(PRESETS)}")
    if model not in MODELS:
        raise InputError(f"--model {model}: expected {' or '.join(MODELS)}")
    if model == "linear" and (preset != "tiny" or voxel_order != "auto" or speed is not None):
        raise InputError(
            "--model linear: it has no networks, so --preset, --voxel-order, --precision, "
            "--compile and --micro-batch have no meaning: leave them out, or train the full model"
        )
    chosen = PRESETS[preset]
    torch_device = resolve_device(processes.device(device))
    speed = speed or default_speed(torch_device)
    if voxel_order == "auto":
        voxel_order = default_order(subject)
    settings = {
        "model": model,
        "preset": preset if model == "full" else None,
        "voxel_order": voxel_order if model == "full" else None,
        "seed": seed,
        "precision": speed.precision if model == "full" else None,
        "data": sha256(subject.folder / "dataset_description.json"),
        "encoder": msgspec.to_builtins(store.identity),
        "stages": [part.to_dict() for part in (chosen.vae_stage, chosen.mapper_stage, chosen.loss)]
        if model == "full"
        else [],
    }
    default_name = f"sub-{subject.subject}" + ("_linear" if model == "linear" else "")
    order = subject_order(subject, voxel_order) if model == "full" else None
    run = TrainingRun(workspace.weights / (name or default_name), settings)
    with processes.held(lambda: locked(run.folder, "a model")):
        processes.on_main(lambda: run.open(resume, overwrite))
        scaler, scale, train_set, val_set = load_examples(subject, store)
        progress.info(
            f"training {run.folder.name}: {len(train_set.betas):,} trials of "
            f"{len(train_set.tokens):,} images, {subject.n_voxels:,} voxels, "
            + (
                f"preset {preset}, voxel order {voxel_order}, {torch_device}, {speed.precision}"
                if model == "full"
                else "linear encoder alone"
            )
            + (f", {processes.size} processes" if processes.size > 1 else "")
        )
        linear = run.linear(train_set, seed, progress) if processes.is_main else None
        networks = None
        if model == "full":
            n_tokens, n_dims = train_set.tokens.shape[1:]
            vae_config, mapper_config = chosen.networks(n_tokens, n_dims)
            vae = BrainVAE(vae_config, torch.Generator().manual_seed(seed))
            vae.lay_out(torch.from_numpy(order))
            mapper = Mapper(mapper_config, torch.Generator().manual_seed(seed + 1))
            networks = vae.to(torch_device), mapper.to(torch_device)
            fit_networks(
                run,
                *networks,
                list(vae.parameters()),
                list(mapper.parameters()),
                train_set,
                val_set,
                (chosen.vae_stage, chosen.mapper_stage, chosen.loss),
                seed,
                progress,
                speed,
                processes,
            )
        if processes.is_main:
            run.finish(
                subject,
                store,
                subject.sessions,
                scaler,
                scale,
                linear,
                networks,
                train_set,
                val_set,
                seed,
                progress,
            )
        processes.wait()
    progress.info(f"wrote {run.folder}")
    return TrainResult(run.folder, read_config(run.folder).training)


def load_examples(
    subject: PreparedSubject,
    store: TokenStore,
    within: np.ndarray | None = None,
    scaler: TokenScaler | None = None,
) -> tuple[TokenScaler, ResponseScale, Examples, Examples]:
    """Training and validation examples of a subject. The test split is not opened.

    Networks learn in standard deviations: betas prepared without standardisation are standardised
    here, by mean and deviation of the training trials. So are those of the first hours of a person
    (``within``, as `PreparedSubject.first_hours` gives): whatever they were prepared with, no trial
    beyond counts for anything.
    """
    train_trials = subject.select("train", within)
    val_trials = subject.select("val", within)
    scale = ResponseScale(*subject.standardization(subject.sessions))
    if within is not None or subject.description.standardization == "none":
        train_trials = replace(train_trials, betas=subject.recorded(train_trials))
        val_trials = replace(val_trials, betas=subject.recorded(val_trials))
        sd = train_trials.betas.std(0, dtype=np.float64)
        scale = ResponseScale(
            train_trials.betas.mean(0, dtype=np.float64), np.where(sd > 0, sd, 1.0)
        )
        train_trials, val_trials = scale.apply(train_trials), scale.apply(val_trials)
    scaler = scaler or TokenScaler.fit(store.tokens, store.rows_of(train_trials.images))
    return (
        scaler,
        scale,
        Examples.of(train_trials, store, scaler),
        Examples.of(val_trials, store, scaler),
    )


def fit_networks(
    run: TrainingRun,
    vae: BrainVAE,
    mapper: Mapper,
    vae_parameters: list[torch.nn.Parameter],
    mapper_parameters: list[torch.nn.Parameter],
    train_set: Examples,
    val_set: Examples,
    stages: tuple[StageConfig, StageConfig, LossConfig],
    seed: int,
    progress: Progress,
    speed: Speed,
    processes: Processes = SINGLE_PROCESS,
) -> None:
    """Train BrainVAE, then the mapper; both are left with their best weights."""
    vae_stage, mapper_stage, loss_config = stages
    device = next(vae.parameters()).device
    context = RunContext(seed, device, speed, processes, progress)
    n_voxels = train_set.betas.shape[1]
    latent_shape = (vae.config.n_tokens, vae.config.n_dims)
    half = {"device_type": device.type, "dtype": torch.bfloat16}
    half["enabled"] = speed.precision == "bf16"

    def standard_normal(n: int, generator: torch.Generator) -> Tensor:
        return torch.randn((n, *latent_shape), generator=generator, device=device)

    # This process's part of the validation examples.
    some_trials = slice(processes.rank, None, processes.size)
    val_betas = val_set.betas[some_trials]

    @torch.inference_mode()
    def vae_score(network: BrainVAE) -> float:
        """Share of the variance of held-out trials that their reconstruction holds."""
        error = torch.zeros((), device=device)
        for part in torch.from_numpy(val_betas).split(64):
            y = part.to(device)
            with torch.autocast(**half):
                reconstruction = network(y)[0]
            error += (reconstruction - y).square().sum()
        return 1 - float(processes.total(error)) / float((val_set.betas**2).sum())

    feed = Feed(
        Rows(train_set.betas, device),
        Rows.of_tokens(train_set.tokens, device, train_set.image_index),
        noise=standard_normal,
        processes=processes,
    )
    step = VAEStep(vae, loss_config, processes)
    n_trials = len(train_set.betas)
    run.stage(
        Stage("BrainVAE", vae, vae_parameters, step, vae_score, n_trials, vae_stage, feed=feed),
        context,
    )
    del feed, step

    # Stage 2. The squared error to the posterior means of an image's trials has the gradient of
    # that to their average: each trial is encoded once, and one target an image is kept.
    vae.requires_grad_(False)
    targets = run.targets(vae, train_set, half, processes)
    val_images = np.arange(processes.rank, len(val_set.tokens), processes.size)

    @torch.inference_mode()
    def mapper_score(network: Mapper) -> float:
        """Share of the variance of held-out images' average responses that decoding predicts."""
        error = torch.zeros((), device=device)
        for first in range(0, len(val_images), 64):
            some = val_images[first : first + 64]
            tokens, averages = (
                torch.from_numpy(x[some]).to(device) for x in (val_set.tokens, val_set.averages)
            )
            with torch.autocast(**half):
                predicted = vae.decode(network(tokens), n_voxels)
            error += (predicted - averages).square().sum()
        return 1 - float(processes.total(error)) / float((val_set.averages**2).sum())

    def draw_noise(n: int, generator: torch.Generator) -> Tensor:
        """Half the images are decoded as they are, half as a draw: both must fit."""
        noise = standard_normal(n, generator)
        noise[: n // 2] = 0
        return noise

    feed = Feed(
        Rows.of_tokens(train_set.tokens, device),
        Rows(targets, device),
        Rows(train_set.averages, device),
        noise=draw_noise,
        processes=processes,
    )
    step = MapperStep(
        mapper,
        vae,
        loss_config,
        torch.tensor(run.target_variance, device=device),
        torch.from_numpy(run.latent_sd).to(device),
        n_voxels,
        processes,
    )
    n_images = len(train_set.tokens)
    run.stage(
        Stage(
            "mapper",
            mapper,
            mapper_parameters,
            step,
            mapper_score,
            n_images,
            mapper_stage,
            seed_offset=1000,
            feed=feed,
        ),
        context,
    )


@dataclass(frozen=True)
class TransferPredictions:
    """What a transfer from other people says of images it was not fitted on.

    Attributes
    ----------
    held_out : float32 array of shape (n_val_images, n_voxels)
        By the fit to training images.
    left_out : float32 array of shape (n_train_images + n_val_images, n_voxels)
        Leave-one-out, by the fit to all.
    config : dict
        For ``config.json``: what `synbrain_cli.brain.Brain` needs to load it.
    """

    held_out: np.ndarray
    left_out: np.ndarray
    config: TransferConfig


class TrainingRun:
    """The folder of a training under way, ``.<name>.partial``, and its checkpoints."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = folder
        self.partial = folder.with_name(f".{folder.name}.partial")
        self.settings = json.loads(json.dumps(settings))  # as it will be read back
        self.histories: dict[str, Any] = {}

    def open(self, resume: bool, overwrite: bool) -> None:
        """Start, or go on with what an interrupted run left."""
        record = self.partial / "settings.json"
        if self.folder.exists() and not overwrite:
            raise InputError(
                f"{self.folder} already holds a finished model: pass --overwrite to train it "
                "again, or --name for another"
            )
        if record.exists() and not overwrite:
            if not resume:
                raise InputError(
                    f"{self.partial} holds an interrupted run: pass resume=True to go on "
                    "with it, or --overwrite to start again"
                )
            if read_json(record) != self.settings:
                raise InputError(
                    f"{self.partial}: the interrupted run had other settings or data: "
                    "repeat its options to go on, or pass --overwrite to start again"
                )
            return
        shutil.rmtree(self.partial, ignore_errors=True)
        write_json(record, self.settings)

    def linear(self, examples: Examples, seed: int, progress: Progress) -> LinearEncoder:
        """Fit the linear encoder to training images, or take it from the interrupted run."""
        path = self.partial / "linear_training.safetensors"
        if path.exists():
            return LinearEncoder(**load_arrays(path))
        progress.info("linear encoder")
        linear, _ = fit_linear(examples.tokens, examples.averages, np.random.default_rng(seed))
        save_arrays(path, vars(linear))
        return linear

    @torch.inference_mode()
    def targets(
        self, vae: BrainVAE, examples: Examples, half: dict[str, Any], processes: Processes
    ) -> np.ndarray:
        """Posterior means averaged over repeats, computed once: the mapper's targets.

        Also sets ``latent_sd``, the posterior's deviation (root mean square over trials), and
        ``target_variance``, that of the targets over images (mean over dimensions).

        Returns
        -------
        float32 array of shape (n_images, n_tokens, n_dims), a memory map
        """
        path, summary = self.partial / "targets.npy", self.partial / "targets.safetensors"
        n_images = len(examples.tokens)
        shape = (vae.config.n_tokens, vae.config.n_dims)
        if not processes.on_main(summary.exists):
            processes.on_main(lambda: create_array(path, np.float32, (n_images, *shape)))
            targets = np.load(path, mmap_mode="r+")
            device = next(vae.parameters()).device
            trials = np.argsort(examples.image_index, kind="stable")
            first = np.searchsorted(examples.image_index[trials], np.arange(n_images + 1))
            variance = torch.zeros(shape, dtype=torch.float64, device=device)
            for start in range(16 * processes.rank, n_images, 16 * processes.size):
                stop = min(start + 16, n_images)
                some = trials[first[start] : first[stop]]
                with torch.autocast(**half):
                    posterior = vae.encode(torch.from_numpy(examples.betas[some]).to(device))
                means = posterior.mean.float().cpu().numpy()
                repeats = np.diff(first[start : stop + 1])
                sums = np.add.reduceat(means, first[start:stop] - first[start])
                targets[start:stop] = sums / repeats[:, None, None]
                variance += posterior.log_variance.double().exp().sum(0)
            targets.flush()
            variance = processes.total(variance).cpu().numpy() / len(trials)
            processes.wait()
            if processes.is_main:
                mean = targets.mean(0, dtype=np.float64)
                spread = sum(float(((one - mean) ** 2).mean()) for one in targets)
                summed = {
                    "latent_sd": np.sqrt(variance).astype(np.float32),
                    "target_variance": np.float32([spread / max(n_images - 1, 1)]),
                }
                save_arrays(summary, summed)
            processes.wait()
        arrays = load_arrays(summary)
        self.latent_sd = arrays["latent_sd"]
        self.target_variance = float(arrays["target_variance"][0])
        return np.load(path, mmap_mode="r")

    def stage(self, stage: Stage, context: RunContext) -> None:
        """Run `fit_resumably`, and keep its history."""
        titled = replace(stage, title=f"{self.folder.name} {stage.title}")
        state = fit_resumably(self.partial / f"{stage.title.lower()}.pt", titled, context)
        self.histories[stage.title] = {
            "best_epoch": state["best_epoch"],
            "best_score": state["best_score"],
            "history": state["history"],
        }

    def forget_stages(self) -> None:
        """Drop what the networks' training left: checkpoints, targets, histories."""
        checkpoints = (f"{title.lower()}.pt" for title in self.histories)
        for name in ("targets.npy", "targets.safetensors", *checkpoints):
            (self.partial / name).unlink(missing_ok=True)
        self.histories = {}

    def finish(
        self,
        subject: PreparedSubject,
        store: TokenStore,
        sessions: list[int],
        scaler: TokenScaler,
        scale: ResponseScale,
        linear: LinearEncoder,
        networks: tuple[BrainVAE, Mapper] | None,
        train_set: Examples,
        val_set: Examples,
        seed: int,
        progress: Progress,
        adaptation: Adaptation | None = None,
        transfer: TransferPredictions | None = None,
    ) -> TrainingRecord:
        """Fit the readout, write the bundle, with validation scores, and give it its name."""
        partial = self.partial
        arrays = {
            "token_mean": scaler.mean,
            "token_sd": scaler.sd,
            "response_mean": scale.mean.astype(np.float32),
            "response_sd": scale.sd.astype(np.float32),
            "mean_pattern": train_set.betas.mean(0, dtype=np.float64).astype(np.float32),
        }
        held_out = {"linear": linear.predict(val_set.tokens)}
        if networks is not None:
            vae, mapper = networks
            tensors = {f"vae.{k}": v.cpu().numpy() for k, v in vae.state_dict().items()}
            tensors |= {f"mapper.{k}": v.cpu().numpy() for k, v in mapper.state_dict().items()}
            save_arrays(partial / "networks.safetensors", tensors)
            arrays["latent_sd"] = self.latent_sd
            held_out["deep"] = predict_deep(vae, mapper, val_set.tokens, subject.n_voxels)
        if transfer is not None:
            held_out["transfer"] = transfer.held_out
        save_arrays(partial / "arrays.safetensors", arrays)
        progress.info(f"{self.folder.name} readout: stacking, unexplained signal, trial noise")
        final, stack, readout, stacked = fit_distribution(
            train_set,
            val_set,
            held_out,
            seed,
            transfer.left_out if transfer else None,
        )
        save_arrays(partial / "linear.safetensors", vars(final))
        save_arrays(
            partial / "readout.safetensors",
            {"stack": stack, **readout.arrays(), **rivals(train_set, val_set, held_out["linear"])},
        )
        for file in VOXEL_SPACE_FILES:
            if (subject.folder / file).exists():
                shutil.copyfile(subject.folder / file, partial / file)
        scores = {
            name: 1 - float(((val_set.averages - p) ** 2).sum() / (val_set.averages**2).sum())
            for name, p in (("model", stacked), *held_out.items())
        }
        record = TrainingRecord(
            preset=self.settings.get("preset"),
            seed=seed,
            data=self.settings["data"],
            sessions=sessions,
            n_trials=SplitSizes(train=len(train_set.betas), val=len(val_set.betas)),
            n_images=SplitSizes(train=len(train_set.tokens), val=len(val_set.tokens)),
            validation={**scores, "mean_pattern": 0.0},
            readout=describe_readout(readout, dict(zip(held_out, stack, strict=True)), train_set),
            stages=convert_record(self.histories, dict[str, StageHistory], "stages", ""),
            versions=versions(),
            adaptation=adaptation,
        )
        self.forget_stages()
        (partial / "linear_training.safetensors").unlink(missing_ok=True)
        seal(
            partial,
            BundleConfig(
                subject=subject.subject,
                dataset=subject.dataset,
                simulated=subject.simulated,
                space=subject.description.space,
                unit="standard deviations; response_mean and response_sd return it to the "
                "recorded unit",
                recorded_unit=subject.description.unit_before_standardization,
                standardization=subject.description.standardization,
                voxel_order=self.settings.get("voxel_order"),
                encoder=store.identity,
                vae=networks[0].config if networks else None,
                mapper=networks[1].config if networks else None,
                transfer=transfer.config if transfer else None,
                predictors=tuple(held_out),
                fingerprint=fingerprint(partial),
                training=record,
            ),
        )
        (partial / "card.md").write_text(model_card(subject, store, record, self.folder.name))
        replace_folder(partial, self.folder)
        return record


def fit_resumably(checkpoint: Path, stage: Stage, run: RunContext) -> State:
    """`fit`, with a checkpoint from which it goes on; it is left in place.

    One is written after an epoch, where that takes little of the time since the last: writing the
    gigabytes of a large network may take as long as the epoch itself.
    """
    title, processes, progress = stage.title, run.processes, run.progress
    state: State | None = None
    if processes.on_main(checkpoint.exists):
        state = torch.load(checkpoint, weights_only=True, map_location="cpu")
        progress.info(f"{title}: going on after epoch {state['epoch']}")
    kept = state["epoch"] if state else 0
    written, cost = -math.inf, 0.0

    def write(state: State) -> None:
        nonlocal kept, written, cost
        start = time.monotonic()
        if processes.is_main:
            with atomic(checkpoint) as temporary:
                torch.save(state, temporary)
        kept, written = state["epoch"], time.monotonic()
        cost = written - start

    def tell(state: State) -> None:
        last = state["history"][-1]
        progress.info(
            f"{title}: epoch {last['epoch']}: loss {last['loss']:.3f}, "
            f"validation score {last['validation_score']:.3f}"
        )
        if cost < MOMENT or time.monotonic() - written > CHECKPOINT_SHARE * cost:
            write(state)

    with progress.bar(title) as bar:
        state = fit(stage, run, state=state, on_epoch=tell, on_step=bar.to)
    if state["epoch"] > kept:
        write(state)
    processes.wait()
    return state


def fit_distribution(
    train_set: Examples,
    val_set: Examples,
    held_out: dict[str, np.ndarray],
    seed: int,
    transfer: np.ndarray | None = None,
) -> tuple[LinearEncoder, np.ndarray, Readout, np.ndarray]:
    """Everything around the predictions: stack, final linear encoder, readout.

    Stacking weights come from validation images. They have then done their work, so that the linear
    encoder is fitted once more with them among the others, and the readout to its leave-one-out
    predictions of all: images that the mean was not fitted on. What the stack explains beyond it
    is taken from the unexplained signal by the validation images.

    Where every predictor tells what it says of an image left out (no networks), all that is needed:
    stack and readout are fitted to leave-one-out predictions of all images, which matters where
    there are few.

    Parameters
    ----------
    held_out : dict
        "linear" and, where there are networks or a transfer, "deep" or "transfer": predictions of
        validation images.
    transfer : float32 array of shape (n_train_images + n_val_images, n_voxels), optional
        The transfer's leave-one-out predictions of all images.

    Returns
    -------
    LinearEncoder, stack (n_predictors, n_voxels), Readout, and the stack's held-out predictions
    of validation images (n_images, n_voxels)
    """
    generator = np.random.default_rng([seed, 1])
    predictions = np.stack(list(held_out.values()))
    # With a transfer, too, though replaced below: the linear encoder's folds, dealt next, are then
    # the same whatever stands beside it.
    stack, stacked = fit_stack(predictions, val_set.averages, generator)
    tokens = train_set.tokens + val_set.tokens
    averages = np.concatenate([train_set.averages, val_set.averages])
    linear, left_out = fit_linear(tokens, averages, generator)
    trials = np.concatenate([train_set.betas, val_set.betas])
    index = np.concatenate([train_set.image_index, val_set.image_index + len(train_set.tokens)])
    if transfer is not None:
        stack, left_out = fit_stack(np.stack([left_out, transfer]), averages, generator)
        readout = fit_readout(trials, index, left_out, generator)
        return linear, stack, readout, np.einsum("pv,piv->iv", stack, predictions)
    readout = fit_readout(trials, index, left_out, generator)
    readout = signal_left(readout, stacked, held_out["linear"], val_set.averages)
    return linear, stack, readout, stacked


def rivals(train_set: Examples, val_set: Examples, linear: np.ndarray) -> dict[str, np.ndarray]:
    """Variances of the two simplest distributions that draws must beat, float32 (n_voxels,).

    ``linear_variance``: of single trials of validation images around the linear encoder;
    ``trial_variance``: of training trials around their mean.
    """
    residual = val_set.betas - linear[val_set.image_index]
    return {
        "linear_variance": (residual**2).mean(0, dtype=np.float64).astype(np.float32),
        "trial_variance": train_set.betas.var(0, dtype=np.float64).astype(np.float32),
    }


def describe_readout(
    readout: Readout, stack: dict[str, np.ndarray], train_set: Examples
) -> ReadoutSummary:
    """What was found, for ``config.json``: medians over voxels."""

    def median(values: np.ndarray) -> float:
        return float(np.median(values))

    return ReadoutSummary(
        signal_told_from_noise=has_repeats(train_set.image_index),
        rank=Rank(signal=readout.signal.loadings.shape[1], noise=readout.noise.loadings.shape[1]),
        variance=Variances(
            unexplained_signal=median(readout.signal.variance),
            noise=median(readout.noise.variance),
        ),
        signal_dependence=median(readout.signal_dependence),
        stack={name: median(weight) for name, weight in stack.items()},
    )


def model_card(
    subject: PreparedSubject, store: TokenStore, record: TrainingRecord, name: str
) -> str:
    """The bundle's ``card.md``."""
    simulated = "**Simulated subject: no person was measured.**\n\n" if subject.simulated else ""
    licence = (
        "The simulated data are free of rights; the weights follow the program's licence (MIT)."
        if subject.simulated
        else "Weights derived from a data set follow its terms (NSD: no redistribution of data)."
    )
    validation = record.validation
    columns = ["model", *(n for n in ("deep", "transfer", "linear") if n in validation)]
    table = "\n".join(
        (
            "| " + " | ".join(columns) + " | mean pattern |",
            "|---" * (len(columns) + 1) + "|",
            "| " + " | ".join(f"{validation[name]:.3f}" for name in columns) + " | 0 |",
        )
    )
    repeats = (
        "Draws share unexplained signal over repeats; trial noise is apart from it."
        if record.readout.signal_told_from_noise
        else "Too few images were repeated in training to tell unexplained signal from trial "
        "noise: all is taken as trial noise, and repeats share the mean alone."
    )
    return f"""# {name}

{simulated}Responses of subject {subject.subject} of {subject.dataset}: \
{record.n_trials.train:,} training trials of {record.n_images.train:,} images, \
sessions {record.sessions[0]} to {record.sessions[-1]}, {subject.n_voxels:,} voxels \
({subject.description.space}).
Image encoder: {store.identity.spec}.

Share of the variance of validation images' average responses that is predicted (it chose
the weights, and is no test score; test scores are made by `synbrain evaluate --model {name}`):

{table}

{repeats}

{licence}
"""
