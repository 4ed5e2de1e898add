"""Sections of the report on the model: settings, adaptation and provenance."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from synbrain_cli.brain import Brain
from synbrain_cli.config import Band
from synbrain_cli.io.bundle import Adaptation
from synbrain_cli.io.files import versions
from synbrain_cli.io.results.comparison import Comparison
from synbrain_cli.io.results.record import read_result
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.plotting.reliability import Reliability
from synbrain_cli.plotting.report.page import (
    Block,
    Command,
    Facts,
    Picture,
    Section,
    Table,
    Text,
    listed,
)
from synbrain_cli.plotting.sources.evaluation import Evaluation
from synbrain_cli.plotting.sources.responses import Responses

_STRATEGIES = {
    "shared-core": "shared core of the source subjects",
    "source-map": "linear map from the source models",
    "fine-tuning": "published recipe (fine-tuning)",
    "linear encoder": "linear encoder of the hours alone",
}


def settings_section(
    brain: Brain, responses: Responses | None, reliability: Reliability, alignment: str
) -> Section:
    """Return what the model was trained on, how it drew the responses, and what maps show.

    Parameters
    ----------
    brain : Brain
    responses : Responses, optional
    reliability : Reliability
    alignment : str
        Whether the responses were found to fit the images of their trials.
    """
    config, training = brain.config, brain.config.training
    facts = [("subject", f"sub-{brain.subject} of {config.dataset}"), ("model", brain.name)]
    if training.origin is not None:
        files = ", ".join(one.name for one in training.origin.files.values())
        facts.append(("imported from", f"{files}, as published"))
    else:
        n_sessions = len(training.sessions)
        recorded = f"{n_sessions} session{'s' if n_sessions > 1 else ''}"
        if training.hours:
            recorded = f"the first {training.hours:g} h"
        facts.append(
            (
                "trained on",
                f"{recorded}: {training.n_trials.total:,} trials of "
                f"{training.n_images.total:,} images"
                + ("" if config.averaged_over == 1 else f"; trials and draws are {config.rows}"),
            )
        )
        facts.append(("check of the design", alignment))
    if training.adaptation is not None:
        adaptation = training.adaptation
        facts.append(("adapted from", f"{', '.join(adaptation.sources)} ({adaptation.strategy})"))
    facts += [
        ("voxels", f"{brain.n_voxels:,} ({config.space})"),
        (
            "voxels on maps",
            reliability.described or "all, whatever their reliability (see --min-ncsnr)",
        ),
        ("image encoder", config.encoder),
    ]
    if responses:
        settings = responses.settings
        facts += [
            ("images", f"{len(responses.names)}: {listed(responses.names)}"),
            ("draws per image", f"{responses.n_draws} ({settings.sampling})"),
            ("seed", str(settings.seed)),
            ("unit", brain.unit_name(settings.unit)),
        ]
    return Section("Model and settings", "", [Facts(facts)])


def adaptation_section(brain: Brain, adaptation: Adaptation, workspace: Workspace) -> Section:
    """Return which strategies were tried on the hours of a new subject, and their scores."""
    rows = [
        [
            _STRATEGIES.get(name, name) + (" (chosen)" if name == adaptation.strategy else ""),
            f"{share:.3f}",
        ]
        for name, share in sorted(adaptation.strategies.items(), key=lambda item: -item[1])
    ]
    rows.append(["mean pattern of the hours", "0"])
    blocks: list[Block] = [
        Table(
            "Share of variance predicted in validation images of the hours",
            ["strategy", "share"],
            rows,
            "These shares chose the strategy and are no test scores. The model stacks the strategy "
            "with the linear encoder.",
        )
    ]
    compared = _comparison(brain, workspace)
    if compared is not None:
        blocks.append(compared)
    return Section(
        "Adaptation from other subjects", f"Sources: {', '.join(adaptation.sources)}.", blocks
    )


def _comparison(brain: Brain, workspace: Workspace) -> Picture | None:
    """The figure of `synbrain compare`, where this training of the model is in it."""
    folder = workspace.outputs / f"sub-{brain.subject}_comparison"
    if not ((folder / "comparison.json").exists() and (folder / "comparison.png").exists()):
        return None
    fingerprints = read_result(
        folder / "comparison.json", Comparison, "synbrain compare"
    ).provenance.fingerprints
    if fingerprints.get(brain.name) != brain.config.fingerprint:
        return None
    return Picture(
        (folder / "comparison.png").read_bytes(),
        "Scores of all models of this subject on test images.",
        "All models of this subject on the same test images (synbrain compare), with "
        "95 % intervals over images.",
    )


def provenance_section(
    brain: Brain, responses: Responses | None, evaluation: Evaluation | None
) -> Section:
    """Return fingerprints, checksums, versions, and the commands that were typed."""
    config, training = brain.config, brain.config.training
    facts = [
        ("model", f"{brain.name}, fingerprint {config.fingerprint}"),
        *(("image encoder", _described(band)) for band in config.bands),
        ("recorded unit", brain.unit),
        ("standardisation", config.standardization),
        ("versions at training", _versions(training.versions)),
        ("versions at reporting", _versions(versions())),
    ]
    if training.seed is not None:
        facts.insert(1, ("seed of the training", str(training.seed)))
    commands = []
    if responses:
        for image in responses.settings.images:
            if image.sha256:
                facts.append((f"image {image.name}", f"SHA-256 {image.sha256}"))
        for band, checksum in responses.settings.tokens.items():
            facts.append((f"images in {band}", f"checksum {checksum}"))
        commands.append(responses.command)
    if evaluation is not None:
        provenance = evaluation.metrics.provenance
        facts.append(("seed of the evaluation", str(provenance.seed)))
        commands.append(provenance.get("command"))
    commands.append(shlex.join(["synbrain", "plot", "report", "--model", brain.name]))
    typed = [Command(command) for command in dict.fromkeys(commands) if command is not None]
    return Section(
        "Provenance",
        "The same commands with the same versions give the same numbers, to the last digit on the "
        "same machine.",
        [
            Facts(facts),
            Text(
                "The commands that were typed, without the folders of absolute paths, and the one "
                f"that writes this report. The model was {brain.name}: name it with --model where "
                "a command does not."
            ),
            *typed,
        ],
    )


def _versions(found: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in found.items())


def _described(band: Band) -> str:
    """Name of a band and all that is known of it."""
    facts = (f"{key} {value}" for key, value in band.identity.items() if value is not None)
    return f"{band.spec}: {', '.join(facts)}"
