"""`synbrain prepare`: from data to prepared subjects."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from synbrain_cli.bands import SIMULATED
from synbrain_cli.cli.consent import TerminalConsent
from synbrain_cli.cli.options import (
    CheckOption,
    DatasetOption,
    DeviceOption,
    DownloadOption,
    EncoderOption,
    EncoderPrecisionOption,
    NewDatasetOption,
    OverwriteOption,
    QuietOption,
    SeedOption,
    StandardizeOption,
    SubjectOption,
    SubjectsOption,
    TestOption,
    TokensOption,
    ValidationOption,
    WorkspaceOption,
)
from synbrain_cli.cli.parsers import (
    parse_sessions,
    parse_subject_numbers,
    parse_target,
    parse_versions,
)
from synbrain_cli.cli.prepare_mosaic import app as mosaic
from synbrain_cli.cli.prepare_own import app as own_experiments
from synbrain_cli.cli.prepare_own import print_versions
from synbrain_cli.cli.running import interruptible, open_run, open_workspace
from synbrain_cli.cli.sections import PlainGroup
from synbrain_cli.cli.tables import print_records

app = typer.Typer(cls=PlainGroup, no_args_is_help=True, invoke_without_command=True)


@app.callback()
def prepare(
    context: typer.Context,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Compare prepared subjects and image tokens with their checksums; exit 1, with a "
            "line for each fault.",
        ),
    ] = False,
    subject: SubjectOption = None,
    dataset: DatasetOption = None,
    folder: WorkspaceOption = Path(),
    quiet: QuietOption = False,
) -> None:
    """Convert data to prepared subjects, or verify those that are there.

    The other options belong to --verify. Those of a command follow its name.

    Example: synbrain prepare --verify
    """
    if context.invoked_subcommand is not None:
        # Typed, not from the environment: SYNBRAIN_WORKSPACE is for all commands.
        sources = [context.get_parameter_source(name) for name in context.params]
        if any(source is not None and source.name == "COMMANDLINE" for source in sources):
            raise typer.BadParameter(
                f"--verify and its options are used without a command; options of "
                f"{context.invoked_subcommand} follow its name"
            )
        return
    if not verify:
        raise typer.BadParameter("expected a command or --verify: see `synbrain prepare --help`")
    from synbrain_cli.pipeline.verify_prepared import verify_prepared

    workspace, progress = open_workspace(folder, quiet)
    with interruptible():
        found = verify_prepared(workspace, subject, dataset, progress)
    for fault in (fault for faults in found.values() for fault in faults):
        print(fault)
    if any(found.values()):
        raise typer.Exit(1)


# ------------------------------------------------------------------------------------- NSD

NSDSpace = Literal["func1pt8mm", "func1mm", "fsaverage", "nativesurface"]
StimulusSet = Literal["core", "synthetic"]

NSDRootOption = Annotated[
    Path | None,
    typer.Option(
        help="Copy of NSD: the folder that holds nsddata/; default: nsd in the workspace."
    ),
]
SessionsOption = Annotated[
    str | None,
    typer.Option(help="10: the first ten sessions; 3-5,8: those; default: all available."),
]
NSDSpaceOption = Annotated[NSDSpace, typer.Option(help="Voxel space of the betas.")]
NSDPreparationOption = Annotated[
    str,
    typer.Option(
        metavar="<b3|b2|b1>",
        help="NSD's version of the betas: b3 (betas_fithrf_GLMdenoise_RR), b2 (betas_fithrf) or b1 "
        "(betas_assumehrf); b2,b3: both, as the datasets nsd_b2 and nsd_b3, with their noise "
        "compared.",
    ),
]
NSDRoiOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Voxels to model: a collection of ROIs (nsdgeneral, streams), a label (V1, FFA-1), "
        "both (streams:ventral) or a mask file. Repeat for their union; default: nsdgeneral."
    ),
]
NSDSplitOption = Annotated[
    str,
    typer.Option(help="Test images: shared1000, shared515, or a table of image and split."),
]
AcceptTermsOption = Annotated[
    bool,
    typer.Option("--accept-terms", help="Accept NSD's terms and download without asking."),
]
JobsOption = Annotated[
    int | None,
    typer.Option(min=1, help="Sessions read in parallel; default: one per core."),
]
SetOption = Annotated[
    StimulusSet,
    typer.Option(
        "--set",
        help="core: NSD's natural scenes. synthetic: NSD-synthetic, artificial images shown to "
        "the same subjects, for `synbrain evaluate --on nsd-synthetic`.",
    ),
]


@app.command("nsd")
def nsd(
    root: NSDRootOption = None,
    subject: SubjectsOption = None,
    stimulus_set: SetOption = "core",
    sessions: SessionsOption = None,
    space: NSDSpaceOption = "func1pt8mm",
    preparation: NSDPreparationOption = "b3",
    roi: NSDRoiOption = None,
    standardize: StandardizeOption = "session",
    split: NSDSplitOption = "shared1000",
    validation: ValidationOption = 0.1,
    download: DownloadOption = None,
    accept_terms: AcceptTermsOption = False,
    dataset: Annotated[
        str | None,
        typer.Option(help="Name of the dataset in prepared/; default: nsd, or nsd-synthetic."),
    ] = None,
    encoder: EncoderOption = None,
    tokens: TokensOption = None,
    precision: EncoderPrecisionOption = "auto",
    jobs: JobsOption = None,
    check: CheckOption = True,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    folder: WorkspaceOption = Path(),
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
) -> None:
    """Prepare subjects of the Natural Scenes Dataset, downloading what is missing.

    Example: synbrain prepare nsd --subject 1 --sessions 10
    """
    from synbrain_cli.datasets.nsd_choice import SHORT, Choice
    from synbrain_cli.pipeline.nsd_copy import NSDSource
    from synbrain_cli.pipeline.preparations import prepare_versions
    from synbrain_cli.pipeline.prepare import prepare_nsd, prepare_nsd_synthetic
    from synbrain_cli.pipeline.preparing import PrepareResult, Target

    versions = parse_versions(preparation, SHORT)
    is_core = stimulus_set == "core"
    if not is_core and (sessions, split, validation) != (None, "shared1000", 0.1):
        raise typer.BadParameter(
            "--set synthetic: one session, all of whose images are test images: leave out "
            "--sessions, --split and --validation"
        )
    prepare_these = prepare_nsd if is_core else prepare_nsd_synthetic
    workspace, run = open_run(folder, quiet, seed, device, distributed=True)
    name = dataset or ("nsd" if is_core else "nsd-synthetic")
    target = parse_target(workspace, name, encoder, tokens, precision, overwrite, check)

    def prepare_one(own: Target, version: str) -> PrepareResult:
        choice = Choice(
            space=space,
            preparation=SHORT[version],
            rois=tuple(roi or ["nsdgeneral"]),
            standardize=standardize,
            split=split,
            validation_share=validation,
            seed=seed,
        )
        source = NSDSource(
            root,
            subjects=parse_subject_numbers(subject),
            sessions=parse_sessions(sessions),
            choice=choice,
            download=download,
            ask=TerminalConsent(accept_terms),
            workers=jobs,
            stimulus_set=stimulus_set,
        )
        return prepare_these(own, source, run)

    with interruptible():
        result = prepare_versions(target, versions, prepare_one, run)
    if run.processes.is_main:
        print_versions(result)


# ------------------------------------------------------------------------------- Algonauts


@app.command("algonauts")
def algonauts(
    root: Annotated[Path, typer.Option(help="The challenge's folder: it holds subj01/, …")],
    subject: SubjectsOption = None,
    standardize: StandardizeOption = "train",
    test: TestOption = 0.1,
    validation: ValidationOption = 0.1,
    dataset: NewDatasetOption = "algonauts",
    encoder: EncoderOption = None,
    tokens: TokensOption = None,
    precision: EncoderPrecisionOption = "auto",
    check: CheckOption = True,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    folder: WorkspaceOption = Path(),
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
) -> None:
    """Prepare subjects of the Algonauts 2023 challenge.

    Example: synbrain prepare algonauts --root algonauts_2023 --subject 1
    """
    from synbrain_cli.datasets.algonauts import Choice
    from synbrain_cli.pipeline.prepare import prepare_algonauts
    from synbrain_cli.pipeline.preparing import describe

    workspace, run = open_run(folder, quiet, seed, device, distributed=True)
    target = parse_target(workspace, dataset, encoder, tokens, precision, overwrite, check)
    with interruptible():
        choice = Choice(standardize, test, validation, seed)
        subjects = parse_subject_numbers(subject)
        result = prepare_algonauts(target, root, choice, subjects, run)
    if run.processes.is_main:
        print_records(describe(result))


# ------------------------------------------------------------------------------ LAION-fMRI


@app.command("laion")
def laion(
    images: Annotated[
        Path,
        typer.Option(help="Folder of LAION-fMRI's stimuli, for which it has an agreement to sign."),
    ],
    root: Annotated[
        Path | None,
        typer.Option(
            help="Copy of LAION-fMRI: the folder that holds derivatives/; default: laion in the "
            "workspace."
        ),
    ] = None,
    subject: SubjectsOption = None,
    sessions: SessionsOption = None,
    roi: Annotated[
        list[str] | None,
        typer.Option(
            help="Voxels to model: an ROI of the subject (its file's name). Repeat for their "
            "union; default: the subject's mask."
        ),
    ] = None,
    standardize: StandardizeOption = "session",
    split: Annotated[
        str,
        typer.Option(
            help="Test images: shared (seen by all subjects), ood (out of distribution), a split "
            "of LAION-fMRI's package such as sub-01/tau.json, or a table of image and split."
        ),
    ] = "shared",
    validation: ValidationOption = 0.1,
    download: DownloadOption = None,
    dataset: NewDatasetOption = "laion",
    encoder: EncoderOption = None,
    tokens: TokensOption = None,
    precision: EncoderPrecisionOption = "auto",
    jobs: JobsOption = None,
    check: CheckOption = True,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    folder: WorkspaceOption = Path(),
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
) -> None:
    """Prepare subjects of LAION-fMRI, downloading the brain data that are missing.

    Example: synbrain prepare laion --images stimuli --subject 1 --sessions 10
    """
    from synbrain_cli.datasets.laion import Choice
    from synbrain_cli.pipeline.prepare_laion import LaionSource, prepare_laion
    from synbrain_cli.pipeline.preparing import describe

    workspace, run = open_run(folder, quiet, seed, device, distributed=True)
    target = parse_target(workspace, dataset, encoder, tokens, precision, overwrite, check)
    with interruptible():
        source = LaionSource(
            images,
            root,
            subjects=parse_subject_numbers(subject),
            sessions=parse_sessions(sessions),
            choice=Choice(tuple(roi or ()), standardize, split, validation, seed),
            download=download,
            ask=TerminalConsent(accepted=False),
            workers=jobs,
        )
        result = prepare_laion(target, source, run)
    if run.processes.is_main:
        print_records(describe(result))


# ---------------------------------------------------------------------------------- MOSAIC

app.registered_commands += mosaic.registered_commands

# ------------------------------------------------------------------------- your own experiment

app.registered_commands += own_experiments.registered_commands

# ------------------------------------------------------------------------------- simulation


@app.command("simulated")
def simulated(
    sessions: Annotated[
        int,
        typer.Option(
            min=1,
            help="Sessions of an hour per subject, 750 trials each; NSD's subjects have 30 to 40.",
        ),
    ] = 4,
    stimulus_set: Annotated[
        StimulusSet,
        typer.Option(
            "--set",
            help="core: photographs. synthetic: artificial images, shown to the same subjects, "
            "for `synbrain evaluate --on simulated-synthetic`.",
        ),
    ] = "core",
    encoder: EncoderOption = None,
    precision: EncoderPrecisionOption = "auto",
    check: CheckOption = True,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    folder: WorkspaceOption = Path(),
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
) -> None:
    """Simulate three subjects in NSD's file format and prepare them. Needs no data.

    Example: synbrain prepare simulated
    """
    from synbrain_cli.datasets.simulated import SimulationConfig
    from synbrain_cli.pipeline.prepare import prepare_simulated, prepare_simulated_artificial
    from synbrain_cli.pipeline.preparing import describe

    workspace, run = open_run(folder, quiet, seed, device, distributed=True)
    is_core = stimulus_set == "core"
    dataset = "simulated" if is_core else "simulated-synthetic"
    target = parse_target(
        workspace, dataset, encoder, None, precision, overwrite, check, usual=SIMULATED
    )
    prepare_these = prepare_simulated if is_core else prepare_simulated_artificial
    with interruptible():
        config = SimulationConfig.of_sessions(sessions, seed=seed)
        result = prepare_these(target, config, run)
    if run.processes.is_main:
        print_records(describe(result))
