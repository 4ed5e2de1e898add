"""`synbrain adapt`: a new person's model from an hour of scanning, and from other people's models.

An hour is one scanning session, in recorded order. No trial beyond it counts for anything: not for
training, validation or standardisation. Three strategies:

``fine-tuning``   the published recipe (Mai et al. 2025): another person's networks, of which the
                  whole BrainVAE and the mapper's MLPs are trained on.
``source-map``    closed form: the responses that other people's models predict are the features of
                  a ridge regression for every voxel. Seconds; needs their models alone.
``shared-core``   an encoder trained on several people at once, with a prior over the cortical
                  sheet (`synbrain_cli.model.core`); then as above. Needs their prepared data; the
                  core is trained once for all new people.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from synbrain_cli.brain import Brain, load_model
from synbrain_cli.brain.prediction import SourcePredictions, predict_deep
from synbrain_cli.config import PRESETS, Speed
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.features.encoder import same_encoder
from synbrain_cli.io.bundle import (
    Adaptation,
    TransferConfig,
    find_bundles,
    read_config,
    save_arrays,
)
from synbrain_cli.io.files import locked, sha256
from synbrain_cli.io.prepared import PreparedSubject, find_prepared
from synbrain_cli.io.token_store import TokenStore
from synbrain_cli.io.workspace import Log, Workspace
from synbrain_cli.model.transfer import Evidence, fit_adapter
from synbrain_cli.pipeline.train import (
    TrainingRun,
    TrainResult,
    TransferPredictions,
    fit_networks,
)
from synbrain_cli.progress import Progress
from synbrain_cli.run import default_speed, resolve_device
from synbrain_cli.training.examples import Examples, ResponseScale, load_examples
from synbrain_cli.training.shared_core import grid_side, train_core
from synbrain_cli.training.voxel_order import default_order, subject_order

MIN_IMAGES = 10  # of training, for a ridge whose penalty is cross-validated
STRATEGIES = ("shared-core", "source-map", "fine-tuning")


@dataclass(frozen=True)
class Sources:
    """The models that adaptation starts from, and the people they are of.

    Attributes
    ----------
    brains : list of Brain
    people : list of (PreparedSubject, TokenStore), or None
        Their prepared data; None where they are not in this workspace.
    """

    brains: list[Brain]
    people: list[tuple[PreparedSubject, TokenStore]] | None

    @property
    def names(self) -> list[str]:
        return [brain.name for brain in self.brains]


@dataclass(frozen=True)
class Adapted:
    """What a strategy made of the hour, judged on the hour's validation images.

    Attributes
    ----------
    held_out : float32 array of shape (n_val_images, n_voxels)
    networks : tuple of (BrainVAE, Mapper), optional
    transfer : TransferPredictions, optional
    settings : dict
        For the record, beside what was asked.
    keep : callable
        Writes what the bundle needs beside that to a folder.
    """

    held_out: np.ndarray
    networks: tuple[Any, Any] | None
    transfer: TransferPredictions | None
    settings: dict[str, Any] = field(default_factory=dict)
    keep: Callable[[Path], None] = lambda folder: None


def adapt(
    workspace: Workspace,
    sources: Path | Sequence[Path],
    subject: PreparedSubject,
    store: TokenStore,
    *,
    hours: float = 1,
    strategy: str = "auto",
    name: str | None = None,
    seed: int = 0,
    device: str = "auto",
    speed: Speed | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> TrainResult:
    """Model a new person from the first hours of scanning and other people's models.

    Parameters
    ----------
    workspace : Workspace
    sources : path or sequence of paths
        Bundles to start from; of several, fine-tuning takes the first that has networks.
    subject : PreparedSubject
        The new person; any number of voxels, and no image in common with the sources.
    store : TokenStore
        Tokens of their images, of the sources' encoder.
    hours : float
        Sessions, in recorded order (`PreparedSubject.first_hours`).
    strategy : {"auto", "shared-core", "source-map", "fine-tuning"}
        "auto" tries all that can be and keeps the one that predicts the hour's validation images
        best.
    name : str, optional
        Of the bundle; default ``sub-03_hours-1``, with the strategy where one was named.
    speed : Speed, optional
        How steps of fine-tuning are computed.
    seed, device, resume, overwrite, progress
        As in `synbrain_cli.pipeline.train.train`.

    Raises
    ------
    InputError
        Fewer sessions than hours; another encoder; no validation image in the hours; a strategy
        that these sources do not allow.
    """
    progress = progress or Progress()
    if strategy not in ("auto", *STRATEGIES):
        raise InputError(f"--strategy {strategy}: expected auto or one of {', '.join(STRATEGIES)}")
    within = subject.first_hours(hours)
    paths = [sources] if isinstance(sources, Path) else list(sources)
    brains = [load_model(path, "cpu") for path in paths]
    for brain in brains:
        if not same_encoder(brain.config.encoder.identity, store.identity.identity):
            raise InputError(
                f"{store.folder}: tokens of {store.identity.spec}, but {brain.name} was trained "
                f"on {brain.config.encoder.spec}: run `synbrain prepare` with that --encoder"
            )
        if f"{subject.dataset}/sub-{subject.subject}" in _people_behind(brain):
            raise InputError(
                f"--from {brain.name}: knows sub-{subject.subject}, the very person to adapt to, "
                "who may have given it more than these hours: name other people's models"
            )
    if len({brain.name for brain in brains}) < len(brains):
        raise InputError(
            f"--from: {', '.join(brain.name for brain in brains)}: expected models of different "
            "names: the new model keeps them by name"
        )
    chosen = Sources(brains, _people(workspace, brains, store))
    tried = _possible(strategy, chosen, store, progress)
    settings = {
        "model": "adapted",
        "strategy": strategy,
        "tried": tried,
        "seed": seed,
        "data": sha256(subject.folder / "dataset_description.json"),
        "encoder": msgspec.to_builtins(store.identity),
        "sources": chosen.names,
        "source_fingerprints": [brain.config.fingerprint for brain in brains],
        "hours": hours,
    }
    told = "" if strategy == "auto" else f"_{strategy}"
    run = TrainingRun(
        workspace.weights / (name or f"sub-{subject.subject}_hours-{hours:g}{told}"), settings
    )
    torch_device = resolve_device(device)
    with locked(run.folder, "a model"):
        # The first source's token scale stays: its mapper was trained on it.
        examples = load_examples(
            subject, store, within, _networked(brains).scaler if _networked(brains) else None
        )
        scaler, scale = examples.scaler, examples.scale
        train_set, val_set = examples.train, examples.val
        if len(train_set.tokens) < MIN_IMAGES:
            raise InputError(
                f"--hours {hours:g}: {len(train_set.tokens)} training images, expected "
                f"{MIN_IMAGES} or more: choose more hours"
            )
        run.open(resume, overwrite)
        progress.info(
            f"adapting {', '.join(chosen.names)} to sub-{subject.subject}: the first "
            f"{hours:g} {'hour' if hours == 1 else 'hours'}, {len(train_set.betas):,} trials of "
            f"{len(train_set.tokens):,} images, {subject.n_voxels:,} voxels"
        )
        linear = run.linear(train_set, seed, progress)
        found = {}
        for each in tried:
            if each == "fine-tuning":
                found[each] = _fine_tune(
                    run,
                    chosen,
                    subject,
                    scale,
                    train_set,
                    val_set,
                    seed,
                    torch_device,
                    speed or default_speed(torch_device),
                    progress,
                )
            else:
                progress.info(f"{run.folder.name}: {each}")
                evidence, config, keep = _evidence(
                    each, workspace, chosen, subject, seed, torch_device, progress
                )
                # Models of other people scale tokens in their own way.
                raw = [one.tokens.raw() for one in (train_set, val_set)]
                found[each] = _close(evidence, config, keep, train_set, val_set, raw, seed)
        scores = {each: _share(val_set, one.held_out) for each, one in found.items()}
        scores["linear encoder"] = _share(val_set, linear.predict(val_set.tokens))
        for each, score in scores.items():
            progress.info(f"{run.folder.name}: {each}: validation score {score:.3f}")
        best = max(found, key=scores.__getitem__)
        run.settings |= found[best].settings
        if found[best].networks is None:
            run.forget_stages()
        found[best].keep(run.partial)
        trials = subject.trials[within & (subject.trials["split"] != "test").to_numpy()]
        record = run.finish(
            subject,
            store,
            sorted(set(trials["session"].tolist())),
            scaler,
            scale,
            linear,
            found[best].networks,
            train_set,
            val_set,
            seed,
            progress,
            Adaptation(
                sources=chosen.names,
                subjects=sorted({who for brain in brains for who in _people_behind(brain)}),
                strategy=best,
                strategies=scores,
                hours=hours,
                trials=trials["trial"].tolist(),
            ),
            found[best].transfer,
        )
    progress.info(f"wrote {run.folder}")
    return TrainResult(run.folder, record)


# ------------------------------------------------------------------------ strategies


def _fine_tune(
    run: TrainingRun,
    sources: Sources,
    subject: PreparedSubject,
    scale: ResponseScale,
    train_set: Examples,
    val_set: Examples,
    seed: int,
    device: torch.device,
    speed: Speed,
    progress: Progress,
) -> Adapted:
    """The published recipe, from the first source that has networks."""
    brain = _networked(sources.brains)
    unit = subject.description.unit_before_standardization
    if brain.networks.vae.gain is not None and unit != brain.unit:
        raise InputError(
            f"--from {brain.name}: its published weights see responses in {brain.unit}, those of "
            f"sub-{subject.subject} are in {unit}: prepare them in that unit, or choose "
            "--strategy source-map"
        )
    # Of an adapted or imported source, too, the networks' own preset says how they are trained.
    preset = PRESETS[brain.config.training.preset]
    stages = (preset.adapt_vae_stage, preset.adapt_mapper_stage, preset.loss)
    if len(sources.brains) > 1:
        progress.info(f"fine-tuning: the networks of {brain.name}")
    voxel_order = brain.config.voxel_order
    try:
        order = subject_order(subject, voxel_order)
    except InputError:
        voxel_order = default_order(subject)
        order = subject_order(subject, voxel_order)
        progress.info(
            f"{brain.name} has the voxel order {brain.config.voxel_order}, which the files of "
            f"sub-{subject.subject} do not allow: here it is {voxel_order}"
        )
    settings = {
        "preset": preset.name,
        "voxel_order": voxel_order,
        "stages": [stage.to_dict() for stage in stages],
    }
    vae, mapper = brain.networks.vae, brain.networks.mapper
    if vae.gain is not None:  # published weights see the new person in their own unit, as they did
        per_unit = brain.response_sd / vae.gain.numpy()  # recorded unit, the same for all voxels
        gain, offset = (values / per_unit.mean() for values in (scale.sd, scale.mean))
        vae.measure(torch.from_numpy(np.float32(gain)), torch.from_numpy(np.float32(offset)))
    vae.lay_out(torch.from_numpy(order))
    vae, mapper = vae.to(device), mapper.to(device)
    fit_networks(
        run,
        vae,
        mapper,
        list(vae.parameters()),
        list(mapper.mlp_parameters()),
        train_set,
        val_set,
        stages,
        seed,
        progress,
        speed,
    )
    predicted = predict_deep(vae, mapper, val_set.tokens, subject.n_voxels)
    return Adapted(predicted, (vae, mapper), None, settings)


def _evidence(
    strategy: str,
    workspace: Workspace,
    sources: Sources,
    subject: PreparedSubject,
    seed: int,
    device: torch.device,
    progress: Progress,
) -> tuple[Evidence, TransferConfig, Callable[[Path], dict[str, np.ndarray]]]:
    """What other people say of images; how the bundle names it; and how it is kept there."""
    if strategy == "shared-core":
        evidence = train_core(
            workspace, sources.people, seed=seed, device=device, progress=progress
        ).evidence(subject)
        config = TransferConfig(
            kind="shared-core",
            core=evidence.core.config,
            subjects=[f"{p.dataset}/sub-{p.subject}" for p, _ in sources.people],
        )
        return evidence, config, lambda folder: evidence.arrays()

    def copy(folder: Path) -> dict[str, np.ndarray]:
        """The sources go into the bundle: a model is complete in its folder."""
        for brain in sources.brains:
            into = folder / "sources" / brain.name
            shutil.rmtree(into, ignore_errors=True)
            shutil.copytree(brain.folder, into)
        return {}

    config = TransferConfig(
        kind="source-map",
        sources=sources.names,
        fingerprints=[brain.config.fingerprint for brain in sources.brains],
    )
    return SourcePredictions(sources.brains), config, copy


def _close(
    evidence: Evidence,
    config: TransferConfig,
    keep: Callable[[Path], dict[str, np.ndarray]],
    train_set: Examples,
    val_set: Examples,
    raw: list[np.ndarray],
    seed: int,
) -> Adapted:
    """Fit the adapter to training images, to be judged on validation images, and to all."""
    known = [evidence(tokens) for tokens in raw]
    generator = np.random.default_rng([seed, 5])
    first, _ = fit_adapter(*known[0], train_set.averages, generator)
    held_out = first(*known[1])
    every = np.concatenate([known[0][0], known[1][0]])
    prior = None if known[0][1] is None else np.concatenate([known[0][1], known[1][1]])
    averages = np.concatenate([train_set.averages, val_set.averages])
    final, left_out = fit_adapter(every, prior, averages, generator)

    def write(folder: Path) -> None:
        save_arrays(folder / "transfer.safetensors", final.arrays() | keep(folder))

    transfer = TransferPredictions(held_out, left_out, config)
    return Adapted(held_out, None, transfer, keep=write)


def _share(val_set: Examples, predicted: np.ndarray) -> float:
    """Share of the variance of validation images' averages that is predicted."""
    error = ((val_set.averages - predicted) ** 2).sum()
    return 1 - float(error / (val_set.averages**2).sum())


# ------------------------------------------------------------------------ choices


def _possible(strategy: str, sources: Sources, store: TokenStore, progress: Progress) -> list[str]:
    """Strategies to try; why others are left out is said, or raised where one was named."""
    why: dict[str, str] = {}
    if _networked(sources.brains) is None:
        why["fine-tuning"] = (
            f"{', '.join(sources.names)}: without networks to fine-tune (linear or adapted models)"
        )
    if sources.people is None:
        why["shared-core"] = (
            "the prepared data of the people behind "
            f"{', '.join(sources.names)} are not in this workspace"
        )
    else:
        try:
            grid_side(store)
        except InputError as error:
            why["shared-core"] = str(error)
    if strategy != "auto":
        if strategy in why:
            raise InputError(f"--strategy {strategy}: {why[strategy]}")
        return [strategy]
    for each, reason in why.items():
        progress.info(f"{each} is left out: {reason}")
    return [each for each in STRATEGIES if each not in why]


def _people_behind(brain: Brain) -> list[str]:
    """Whose data a model has seen: its own person's, and those of the models it came from."""
    adaptation = brain.config.training.adaptation
    return [brain.config.label, *(adaptation.subjects if adaptation else [])]


def _networked(brains: list[Brain]) -> Brain | None:
    return next((brain for brain in brains if brain.config.has_networks), None)


def _people(
    workspace: Workspace, brains: list[Brain], store: TokenStore
) -> list[tuple[PreparedSubject, TokenStore]] | None:
    """Prepared data of the people that models are of; None where some are missing."""
    prepared = {(p.dataset, p.subject): p for p in find_prepared(workspace.prepared)}
    people = []
    for brain in brains:
        person = prepared.get((brain.config.dataset, brain.subject))
        if person is None:
            return None
        try:
            own = workspace.find_tokens(person.dataset, store.identity.spec, lambda text: None)
        except MissingError:
            return None
        if own.identity.identity != store.identity.identity:
            return None
        if person.folder not in [p.folder for p, _ in people]:
            people.append((person, own))
    return people


def choose(
    workspace: Workspace, source: str | None, subject: str | None, dataset: str | None, log: Log
) -> tuple[list[Path], PreparedSubject, TokenStore]:
    """Choose what was not said: all other people's trained models, a subject without one.

    Parameters
    ----------
    source : str, optional
        Names of models, separated by commas.

    Raises
    ------
    MissingError
        No trained model, or nobody left to adapt to.
    """
    found = workspace.full_models(source)
    if len({path.resolve() for path, _ in found}) < len(found):
        raise InputError(f"--from {source}: expected names of different models in weights/")
    dataset = dataset or found[0][1].dataset
    if subject is None:
        modelled = {
            (c.dataset, c.subject)
            for c in map(read_config, find_bundles(workspace.weights))
            if c.training.hours is None
        }
        new = [
            person
            for person in find_prepared(workspace.prepared)
            if person.dataset == dataset and (person.dataset, person.subject) not in modelled
        ]
        if not new:
            raise MissingError(
                f"{workspace.prepared / dataset}: every prepared subject has a trained model: "
                "name one with --subject to adapt to it all the same"
            )
        person = workspace.find_subject(None, dataset, log, among=new)
        if len(new) == 1:
            log(f"subject: {person.dataset}/sub-{person.subject}")
    else:
        person = workspace.find_subject(subject, dataset, log)
    if source is None:
        found = workspace.full_models(None, but=(person.dataset, person.subject))
        log(f"from: {', '.join(path.name for path, _ in found)} (--from)")
    spec = found[0][1].encoder.spec
    tokens = workspace.find_tokens(person.dataset, spec, log)
    return [path for path, _ in found], person, tokens
