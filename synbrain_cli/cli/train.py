"""`synbrain train` and `synbrain adapt`: from prepared subjects to models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from synbrain_cli.cli.completion import complete_models
from synbrain_cli.cli.options import (
    CheckOption,
    CompileOption,
    DatasetOption,
    DeviceOption,
    EncoderOption,
    MicroBatchOption,
    OverwriteOption,
    PrecisionOption,
    PresetOption,
    QuietOption,
    ReportOption,
    SeedOption,
    SubjectOption,
    WorkspaceOption,
)
from synbrain_cli.cli.running import interruptible, open_workspace

if TYPE_CHECKING:
    from synbrain_cli.training.bundle_writer import TrainResult

ModelKind = Literal["auto", "network", "linear", "full"]
VoxelOrder = Literal["auto", "file", "curve", "region", "surface"]
Strategy = Literal["auto", "shared-core", "source-map", "fine-tuning"]

ModelKindOption = Annotated[
    ModelKind,
    typer.Option(
        "--model",
        help="linear: linear encoder alone; network: with the response network; full: with the "
        "published networks, too; auto: full on a GPU, else network.",
    ),
]
VoxelOrderOption = Annotated[
    VoxelOrder,
    typer.Option(
        help="Voxel order along BrainVAE's convolution axis; auto: the best that the subject's "
        "files allow."
    ),
]
SourceOption = Annotated[
    str | None,
    typer.Option(
        "--from",
        help="Models to start from: names in weights/, separated by commas; default: one of each "
        "other subject.",
        autocompletion=complete_models,
    ),
]
StrategyOption = Annotated[
    Strategy,
    typer.Option(
        help="source-map trains no networks; fine-tuning is the published recipe; auto: the best "
        "on the validation images of the given hours."
    ),
]


def train(
    subject: SubjectOption = None,
    dataset: DatasetOption = None,
    model: ModelKindOption = "auto",
    preset: PresetOption = "tiny",
    voxel_order: VoxelOrderOption = "auto",
    encoder: EncoderOption = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the model; default: such as sub-01 or sub-01_linear."),
    ] = None,
    check: CheckOption = True,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    compiled: CompileOption = None,
    micro_batch: MicroBatchOption = None,
    overwrite: OverwriteOption = False,
    folder: WorkspaceOption = Path(),
    quiet: QuietOption = False,
) -> None:
    """Train models of prepared subjects: of several, with one response network for all.

    After an interruption the same command goes on where it stopped.

    Example: synbrain train --subject 1 --preset small
    """
    from dataclasses import replace

    from synbrain_cli.distributed import Processes
    from synbrain_cli.errors import InputError
    from synbrain_cli.pipeline.train import NO_NETWORKS, TrainSettings
    from synbrain_cli.pipeline.train import train as train_model
    from synbrain_cli.run import RunContext, choose_speed

    processes = Processes.assemble(device)
    settings = TrainSettings(model, preset, voxel_order, check=check)
    speed = choose_speed(processes.device(device), precision, compiled, micro_batch)
    if speed is not None and settings.model in ("network", "linear"):
        raise InputError(NO_NETWORKS)
    workspace, progress = open_workspace(folder, quiet or not processes.is_main)
    named = subject.split(",") if subject else [None]
    if name is not None and len(named) > 1:
        raise InputError(f"--name {name}: one name for {len(named)} models: leave it out")
    chosen = [workspace.find_subject(one, dataset, progress.info) for one in named]
    store = workspace.find_tokens(chosen[0].dataset, encoder, progress.info)
    settings = replace(settings, together=tuple(chosen))
    run = RunContext.create(seed, device, speed, processes, progress)
    for one in chosen:
        with interruptible():
            result = train_model(
                workspace,
                one,
                store,
                settings,
                run,
                name=name,
                overwrite=overwrite,
            )
        if processes.is_main:
            _print_training(result)


def adapt(
    hours: Annotated[
        float,
        typer.Option(
            help="Sessions of an hour to use, in recorded order; 0.5: the first half of the first "
            "session."
        ),
    ] = 1,
    subject: SubjectOption = None,
    dataset: DatasetOption = None,
    source: SourceOption = None,
    strategy: StrategyOption = "auto",
    name: Annotated[
        str | None, typer.Option(help="Name of the model; default: such as sub-03_hours-1.")
    ] = None,
    report: ReportOption = True,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    compiled: CompileOption = None,
    micro_batch: MicroBatchOption = None,
    overwrite: OverwriteOption = False,
    folder: WorkspaceOption = Path(),
    quiet: QuietOption = False,
) -> None:
    """Make a model of a new subject from an hour of data and models of other subjects.

    After an interruption the same command goes on where it stopped.

    Example: synbrain adapt --hours 1 --subject 3 --from sub-01,sub-02
    """
    from synbrain_cli.pipeline.adapt import AdaptSettings, choose_sources_and_subject
    from synbrain_cli.pipeline.adapt import adapt as adapt_models
    from synbrain_cli.run import RunContext, choose_speed

    workspace, progress = open_workspace(folder, quiet)
    sources, chosen, store = choose_sources_and_subject(
        workspace, source, subject, dataset, progress.info
    )
    speed = choose_speed(device, precision, compiled, micro_batch)
    run = RunContext.create(seed, device, speed, progress=progress)
    settings = AdaptSettings(sources, hours, strategy)
    with interruptible():
        result = adapt_models(
            workspace, chosen, store, settings, run, name=name, overwrite=overwrite
        )
    _print_training(result)
    if report:
        from synbrain_cli.brain import load_model
        from synbrain_cli.pipeline.report import report as write_report

        print(write_report(workspace, load_model(result.folder, "cpu"), run=run))


def _print_training(result: TrainResult) -> None:
    scores = result.record.validation
    names = {
        "model": "model",
        "network": "response network alone",
        "deep": "published networks alone",
        "transfer": "transfer alone",
        "linear": "linear encoder alone",
    }
    listing = ", ".join(f"{names[k]} {scores[k]:.3f}" for k in names if k in scores)
    print(
        f"{result.folder}\nvalidation images, share of variance predicted: {listing}, "
        "mean pattern 0"
    )
    if result.record.sequence is not None:
        print("\n".join(result.record.sequence.describe()))
