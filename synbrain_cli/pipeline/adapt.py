"""`synbrain adapt`: a new subject's model from an hour of data and models of other subjects.

An hour is one scanning session, in recorded order. No trial beyond the hours counts for anything:
not for training, validation or standardisation. `synbrain_cli.training.strategies` describes the
three strategies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from synbrain_cli.brain import Brain, load_model
from synbrain_cli.config import trials_name
from synbrain_cli.datasets.splits import LEAST
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.features.encoder import same_bands
from synbrain_cli.io.bundle import Adaptation, read_config, readable_bundles
from synbrain_cli.io.prepared import PreparedSubject, find_prepared
from synbrain_cli.io.token_store import TokenStore
from synbrain_cli.io.workfolder import work_folder
from synbrain_cli.io.workspace import Log, Workspace
from synbrain_cli.labels import model_name, require_subject_of_dataset
from synbrain_cli.progress import Progress
from synbrain_cli.run import RunContext
from synbrain_cli.training.bundle_writer import (
    MODEL,
    TrainedParts,
    TrainResult,
    write_bundle,
)
from synbrain_cli.training.distribution import READOUT, HeldOut, fit_distribution
from synbrain_cli.training.examples import (
    SubjectExamples,
    load_examples,
    share_predicted,
)
from synbrain_cli.training.linear_encoder import fit_linear_encoder
from synbrain_cli.training.sequence import SEQUENCE, find_order, fit_order
from synbrain_cli.training.strategies import (
    STRATEGIES,
    AdaptationTask,
    Sources,
    apply_strategy,
    find_obstacles,
    strategy_settings,
)

MIN_IMAGES = 10  # of training, for a ridge whose penalty is cross-validated


@dataclass(frozen=True)
class AdaptSettings:
    """Models and data that a new subject's model is made from.

    Attributes
    ----------
    sources : sequence of Path
        Bundles to start from; of several, fine-tuning takes the first that has networks.
    hours : float
        Sessions of the new subject, in recorded order (`PreparedSubject.first_hours`).
    strategy : {"auto", "shared-core", "source-map", "fine-tuning"}
        "auto" tries all that are possible and keeps the one that predicts the validation images of
        these hours best.

    Raises
    ------
    InputError
        For an unknown strategy.
    """

    sources: Sequence[Path]
    hours: float = 1
    strategy: str = "auto"

    def __post_init__(self) -> None:
        if self.strategy not in ("auto", *STRATEGIES):
            raise InputError(
                f"--strategy {self.strategy}: expected auto or one of {', '.join(STRATEGIES)}"
            )


def adapt(
    workspace: Workspace,
    subject: PreparedSubject,
    store: TokenStore,
    settings: AdaptSettings,
    run: RunContext,
    *,
    name: str | None = None,
    overwrite: bool = False,
) -> TrainResult:
    """Model a new subject from its first hours of data and models of other subjects.

    The same call continues an interrupted adaptation, and returns a finished model of the same
    settings as it is.

    Parameters
    ----------
    workspace : Workspace
    subject : PreparedSubject
        The new subject; any number of voxels, and no image in common with the sources.
    store : TokenStore
        Tokens of its images, of the sources' encoder.
    settings : AdaptSettings
    run : RunContext
        Its speed is that of fine-tuning.
    name : str, optional
        Of the bundle; default ``sub-03_hours-1``, with the strategy where one was named.
    overwrite : bool
        Replace a finished or interrupted model of that name.

    Raises
    ------
    InputError
        Fewer sessions than hours; another encoder; no validation image in the hours; a strategy
        that these sources do not allow; a model of that name made with other settings.
    BusyError
        When another process is making it.
    """
    # Set up
    require_subject_of_dataset(subject.label)
    within = subject.first_hours(settings.hours)
    sources = _load_sources(workspace, settings.sources, subject, store)
    strategies = _choose_strategies(settings.strategy, sources, (subject, store), run.progress)
    recorded = _recorded(settings, strategies, sources, subject, store, run)
    suffix = "" if settings.strategy == "auto" else f"_{settings.strategy}"
    name = model_name(name or f"sub-{subject.subject}_hours-{settings.hours:g}{suffix}")

    # Load examples, before anything is written: the hours may be too few
    examples = _load_hours(subject, store, within, settings, sources)
    with work_folder(
        workspace.weights / name, MODEL, recorded, overwrite=overwrite, progress=run.progress
    ) as work:
        if work.is_finished:
            run.progress.info(f"{work.target} is already there, made with the same settings")
            return TrainResult(work.target, read_config(work.target).training)
        run.progress.info(_announcement(settings, sources, subject, examples))

        # Fit the linear encoder
        linear, left_out = fit_linear_encoder(examples, run, work.recovery)
        linear_held_out = left_out[len(examples.train.averages) :]

        # Train by every strategy, and keep the best
        task = AdaptationTask(workspace, sources, subject, examples, work, run)
        found = {strategy: apply_strategy(strategy, task) for strategy in strategies}
        scores = {s: share_predicted(examples.val, one.held_out) for s, one in found.items()}
        scores["linear encoder"] = share_predicted(examples.val, linear_held_out)
        for each, score in scores.items():
            run.progress.info(f"{name}: {each}: validation score {score:.3f}")
        strategy = max(found, key=scores.__getitem__)
        best = found[strategy]

        # Fit the readout
        held_out = HeldOut({"linear": left_out}, linear)
        if best.transfer:
            held_out.everywhere["transfer"] = best.transfer.left_out
        else:
            held_out.on_validation["deep"] = best.held_out
        with run.progress.stage(f"{name} readout: {READOUT}") as share:
            fitted = fit_distribution(examples, held_out, run.seed, share)

        # Fit what the order of trials does
        order = find_order(subject, examples.images, within)
        with run.progress.stage(f"{name} order of trials: {SEQUENCE}") as share:
            ordered = fit_order(order, examples, fitted, share)

        # Write the bundle
        trials = subject.trials[within & (subject.trials["split"] != "test").to_numpy()]
        parts = TrainedParts(
            subject,
            store,
            recorded["data"],
            sorted(set(trials["session"].tolist())),
            examples,
            linear,
            held_out,
            best.networks,
            best.transfer,
            adaptation=Adaptation(
                hours=settings.hours,
                trials=trials["trial"].tolist(),
                sources=sources.names,
                subjects=sorted({s for brain in sources.brains for s in _seen_subjects(brain)}),
                strategy=strategy,
                strategies=scores,
            ),
            order=ordered,
        )
        record = write_bundle(work, parts, fitted, run)
    run.progress.info(f"wrote {work.target}")
    return TrainResult(work.target, record)


def choose_sources_and_subject(
    workspace: Workspace, source: str | None, subject: str | None, dataset: str | None, log: Log
) -> tuple[list[Path], PreparedSubject, TokenStore]:
    """Choose what was not named: one model of every other subject; a subject without a model.

    Parameters
    ----------
    workspace : Workspace
    source : str, optional
        Names of models, separated by commas.
    subject, dataset : str, optional
        Of the new subject.
    log : callable
        Takes messages.

    Returns
    -------
    sources : list of Path
    subject : PreparedSubject
    store : TokenStore

    Raises
    ------
    MissingError
        No trained model, or no subject left to adapt to.
    InputError
        A model is named twice.
    """
    found = workspace.full_models(source, log, dataset=dataset)
    if len({path.resolve() for path, _ in found}) < len(found):
        raise InputError(f"--from {source}: expected names of different models in weights/")
    dataset = dataset or found[0][1].dataset
    if subject is None:
        new = _choose_subject(workspace, dataset, log)
    else:
        new = workspace.find_subject(subject, dataset, log)
    if source is None:
        but = (new.dataset, new.subject)
        found = workspace.full_models(None, log, but, new.dataset)
        log(f"from: {', '.join(path.name for path, _ in found)} (--from)")
    bands = [band.spec for band in found[0][1].bands]
    store = workspace.find_tokens(new.dataset, bands, log)
    return [path for path, _ in found], new, store


def _choose_subject(workspace: Workspace, dataset: str, log: Log) -> PreparedSubject:
    """Choose a prepared subject that has no model of all its data."""
    modelled = {
        (config.dataset, config.subject)
        for _, config in readable_bundles(workspace.weights, log)
        if config.training.hours is None
    }
    new = [
        prepared
        for prepared in find_prepared(workspace.prepared)
        if prepared.dataset == dataset and (prepared.dataset, prepared.subject) not in modelled
    ]
    if not new:
        raise MissingError(
            f"{workspace.prepared / dataset}: every prepared subject has a trained model: "
            "name one with --subject to adapt to it all the same"
        )
    chosen = workspace.find_subject(None, dataset, log, among=new)
    if len(new) == 1:
        log(f"subject: {chosen.label}")
    return chosen


# -------------------------------------------------------------------------------- set up


def _load_sources(
    workspace: Workspace, paths: Sequence[Path], subject: PreparedSubject, store: TokenStore
) -> Sources:
    """Load the source models; refuse those that cannot serve the new subject."""
    brains = [load_model(path, "cpu") for path in paths]
    for brain in brains:
        model_name(brain.name)  # the new model keeps it under this name
        if not same_bands(brain.config.bands, store.bands):
            raise InputError(
                f"{store.folders}: tokens of {store.spec}, but {brain.name} was trained "
                f"on {brain.config.encoder}: run `synbrain prepare` with that --encoder"
            )
        if subject.label in _seen_subjects(brain):
            raise InputError(
                f"--from {brain.name}: was trained on data of sub-{subject.subject}, the subject "
                "to adapt to, possibly on more than these hours: name models of other subjects"
            )
    if len({brain.name for brain in brains}) < len(brains):
        raise InputError(
            f"--from: {', '.join(brain.name for brain in brains)}: expected models of different "
            "names: the new model keeps them by name"
        )
    return Sources(brains, _source_subjects(workspace, brains, store))


def _seen_subjects(brain: Brain) -> list[str]:
    """Subjects whose data a model has seen: its own, and those of the models it started from."""
    adaptation, network = brain.config.training.adaptation, brain.config.network
    others = [*(adaptation.subjects if adaptation else []), *(network.subjects if network else [])]
    return [brain.config.label, *others]


def _source_subjects(
    workspace: Workspace, brains: list[Brain], store: TokenStore
) -> list[tuple[PreparedSubject, TokenStore]] | None:
    """Prepared data of the subjects that models are of; None where some are missing."""
    prepared = {(p.dataset, p.subject): p for p in find_prepared(workspace.prepared)}
    found: dict[Path, tuple[PreparedSubject, TokenStore]] = {}
    for brain in brains:
        subject = prepared.get((brain.config.dataset, brain.subject))
        if subject is None:
            return None
        try:
            bands = [band.spec for band in store.bands]
            own = workspace.find_tokens(subject.dataset, bands, lambda text: None)
        except MissingError:
            return None
        if not same_bands(store.bands, own.bands):
            return None
        found.setdefault(subject.folder, (subject, own))
    return list(found.values())


def _choose_strategies(
    asked: str, sources: Sources, new: tuple[PreparedSubject, TokenStore], progress: Progress
) -> list[str]:
    """Strategies to try; others are left out with the reason, which is an error of a named one."""
    subject, store = new
    obstacles = find_obstacles(sources, store, subject)
    if asked != "auto":
        if asked in obstacles:
            raise InputError(f"--strategy {asked}: {obstacles[asked]}")
        return [asked]
    for strategy, reason in obstacles.items():
        progress.info(f"{strategy} is left out: {reason}")
    return [strategy for strategy in STRATEGIES if strategy not in obstacles]


def _recorded(
    settings: AdaptSettings,
    strategies: list[str],
    sources: Sources,
    subject: PreparedSubject,
    store: TokenStore,
    run: RunContext,
) -> Mapping[str, Any]:
    """Return what the model depends on, for its ``settings.json``."""
    return {
        "model": "adapted",
        "strategy": settings.strategy,
        "tried": strategies,
        "seed": run.seed,
        "data": subject.checksum,
        "bands": store.bands,
        "sources": sources.names,
        "source_fingerprints": [brain.config.fingerprint for brain in sources.brains],
        "hours": settings.hours,
        **strategy_settings(strategies, sources, run),
    }


def _load_hours(
    subject: PreparedSubject,
    store: TokenStore,
    within: np.ndarray,
    settings: AdaptSettings,
    sources: Sources,
) -> SubjectExamples:
    """Load the examples of the first hours; refuse hours with too few images."""
    # The token scale of the networks that may be fine-tuned stays: their mapper was trained on it.
    networked = sources.first_with_networks
    scaler = networked.predictors.scaler if networked else None
    examples = load_examples(subject, store, within, scaler)
    n_images = len(examples.train.averages)
    if n_images < MIN_IMAGES:
        raise InputError(
            f"--hours {settings.hours:g}: {n_images} training images, expected {MIN_IMAGES} or "
            "more: choose more hours"
        )
    if len(examples.val.averages) < LEAST:
        raise InputError(
            f"--hours {settings.hours:g}: {len(examples.val.averages)} validation image, expected "
            f"{LEAST} or more: choose more hours"
        )
    return examples


def _announcement(
    settings: AdaptSettings,
    sources: Sources,
    subject: PreparedSubject,
    examples: SubjectExamples,
) -> str:
    """Say what is adapted, to how much data."""
    train = examples.train
    return (
        f"adapting {', '.join(sources.names)} to sub-{subject.subject}: the first "
        f"{settings.hours:g} {'hour' if settings.hours == 1 else 'hours'}, "
        f"{len(train.betas):,} trials of {len(train.averages):,} images, "
        f"{subject.n_voxels:,} voxels"
        + ("" if subject.averaged_over == 1 else f", rows are {trials_name(subject.averaged_over)}")
    )
