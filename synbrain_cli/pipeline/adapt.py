"""`synbrain adapt`: a new person's model from an hour of scanning.

The published recipe (Mai et al. 2025): start from another person's networks, fine-tune the whole
BrainVAE, and of the mapper the MLPs alone. An hour is one scanning session, in recorded order.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from synbrain_cli.brain import load_model, resolve_device
from synbrain_cli.config import PRESETS
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.bundle import find_bundles
from synbrain_cli.io.files import locked, read_json, sha256
from synbrain_cli.io.prepared import PreparedSubject, TokenStore, find_prepared
from synbrain_cli.pipeline.layout import default_order, subject_order
from synbrain_cli.pipeline.progress import Report
from synbrain_cli.pipeline.train import TrainingRun, TrainResult, fit_networks, load_examples
from synbrain_cli.pipeline.workspace import Say, Workspace


def adapt(
    workspace: Workspace,
    source: Path,
    subject: PreparedSubject,
    store: TokenStore,
    *,
    hours: int = 1,
    name: str | None = None,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
    report: Report | None = None,
) -> TrainResult:
    """Fine-tune a trained model on the first sessions of another person.

    Parameters
    ----------
    workspace : Workspace
    source : path
        Bundle to start from.
    subject : PreparedSubject
        The new person; any number of voxels.
    store : TokenStore
        Tokens of their images, of the source's encoder.
    hours : int
        Sessions, in recorded order. Nothing of later sessions is used: not for training, not for
        validation, not for standardisation.
    name : str, optional
        Of the bundle; default ``sub-03_hours-1``.
    seed, device, resume, overwrite, report
        As in `synbrain_cli.pipeline.train.train`.

    Raises
    ------
    InputError
        Fewer sessions than hours; another encoder; no validation image in the hour.
    """
    report = report or Report()
    sessions = subject.sessions[:hours]
    if hours < 1 or len(sessions) < hours:
        raise InputError(
            f"--hours {hours}: an hour is a session, and sub-{subject.subject} has "
            f"{len(subject.sessions)}: expected 1 to {len(subject.sessions)}"
        )
    brain = load_model(source, "cpu")
    if store.identity != brain.config["encoder"]:
        raise InputError(
            f"{store.folder}: tokens of {store.identity['spec']}, but {brain.name} was trained on "
            f"{brain.config['encoder']['spec']}: run `synbrain prepare` with that --encoder"
        )
    if not brain.has_networks:
        raise InputError(
            f"{brain.name} is a linear model, with no networks to fine-tune: `synbrain train` on "
            f"sub-{subject.subject} fits one from the start, or adapt from another model"
        )
    preset = PRESETS[brain.config["training"]["settings"]["preset"]]
    torch_device = resolve_device(device)
    stages = (preset.adapt_vae_stage, preset.adapt_mapper_stage, preset.loss)
    voxel_order = brain.config["voxel_order"]
    try:
        order = subject_order(subject, voxel_order)
    except InputError:
        voxel_order = default_order(subject)
        order = subject_order(subject, voxel_order)
        report.say(
            f"{brain.name} has the voxel order {brain.config['voxel_order']}, which the files of "
            f"sub-{subject.subject} do not allow: here it is {voxel_order}"
        )
    settings = {
        "model": "full",
        "preset": preset.name,
        "voxel_order": voxel_order,
        "seed": seed,
        "data": sha256(subject.folder / "dataset_description.json"),
        "encoder": store.identity,
        "source": brain.name,
        "source_fingerprint": brain.config["fingerprint"],
        "hours": hours,
        "stages": [asdict(stage) for stage in stages],
    }
    folder = workspace.weights / (name or f"sub-{subject.subject}_hours-{hours}")
    run = TrainingRun(folder, settings)
    with locked(run.folder, "a model"):
        run.open(resume, overwrite)
        # The source's token scale stays: its mapper was trained on it.
        scaler, scale, train_set, val_set = load_examples(subject, store, sessions, brain.scaler)
        report.say(
            f"adapting {brain.name} to sub-{subject.subject}: sessions {sessions}, "
            f"{len(train_set.betas):,} trials of {len(train_set.tokens):,} images, "
            f"{subject.n_voxels:,} voxels"
        )
        linear = run.linear(train_set, seed, report)
        vae, mapper = brain.vae, brain.mapper
        vae.lay_out(torch.from_numpy(order))
        vae, mapper = vae.to(torch_device), mapper.to(torch_device)
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
            report,
        )
        table = subject.trials
        rows = table[table["session"].isin(sessions) & (table["split"] != "test")]
        record = run.finish(
            subject,
            store,
            sessions,
            scaler,
            scale,
            linear,
            (vae, mapper),
            train_set,
            val_set,
            seed,
            report,
            {
                "source": brain.name,
                "strategy": "fine-tuning: whole BrainVAE, mapper MLPs (Mai et al. 2025)",
                "hours": hours,
                "trials": np.asarray(rows["trial"]).tolist(),
            },
        )
    report.say(f"wrote {run.folder}")
    return TrainResult(run.folder, record)


def choose(
    workspace: Workspace, source: str | None, subject: str | None, dataset: str | None, say: Say
) -> tuple[Path, PreparedSubject, TokenStore]:
    """Choose what was not said: the first trained model, and a subject without a model.

    Raises
    ------
    MissingError
        No trained model, or nobody left to adapt to.
    """
    if source is not None:
        bundle = workspace.find_model(source, None, say)
    else:
        trained = [
            path
            for path in find_bundles(workspace.weights)
            if "hours" not in (config := read_json(path / "config.json"))["training"]
            and config["vae"] is not None
        ]
        if not trained:
            raise MissingError(
                f"{workspace.weights}: no trained model to start from: `synbrain train` makes one"
            )
        bundle = trained[0]
        others = ", ".join(path.name for path in trained)
        say(f"from: {bundle.name}" + (f" (of {others}; --from)" if len(trained) > 1 else ""))
    config = read_json(bundle / "config.json")
    dataset = dataset or config["dataset"]
    if subject is None:
        modelled = {
            (c["dataset"], c["subject"])
            for c in (read_json(p / "config.json") for p in find_bundles(workspace.weights))
            if "hours" not in c["training"]
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
        person = workspace.find_subject(None, dataset, say, among=new)
        if len(new) == 1:
            say(f"subject: {person.dataset}/sub-{person.subject}")
    else:
        person = workspace.find_subject(subject, dataset, say)
    return bundle, person, workspace.find_tokens(person.dataset, config["encoder"]["spec"], say)
