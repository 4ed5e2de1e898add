"""The command line: thin commands over `synbrain_cli.pipeline`.

Nothing heavy is imported here: ``synbrain --help`` answers at once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TextIO

import typer

from synbrain_cli.errors import SynbrainError

if TYPE_CHECKING:
    import pandas as pd

    from synbrain_cli.brain import Brain
    from synbrain_cli.io.workspace import Workspace
    from synbrain_cli.progress import Progress

app = typer.Typer(
    name="synbrain",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Draw the single-trial fMRI responses a person's visual cortex would give to your "
    "images.\n\nStart with `synbrain demo`, which needs no data.",
)
prepare_app = typer.Typer(no_args_is_help=True, help="Read data into prepared subjects.")
plot_app = typer.Typer(no_args_is_help=True, help="Draw figures.")
# Commands whose work several processes share under `accelerate launch`.
SHARED = ("prepare", "train", "synthesize")
app.add_typer(prepare_app, name="prepare")
app.add_typer(plot_app, name="plot")

# ------------------------------------------------------------------ options used by several

WorkspaceOption = Annotated[
    Path,
    typer.Option(
        "--workspace",
        "-w",
        envvar="SYNBRAIN_WORKSPACE",
        help="Folder with prepared/, weights/ and outputs/.",
    ),
]
SubjectOption = Annotated[
    str | None, typer.Option("--subject", "-s", help="Person: 2, 02, sub-02 or subj02.")
]
DatasetOption = Annotated[str | None, typer.Option(help="Folder below prepared/.")]
ModelOption = Annotated[
    str | None, typer.Option("--model", "-m", help="Model: a name in weights/, or a path.")
]
EncoderOption = Annotated[
    str | None,
    typer.Option(help="Image encoder: gabor, or openclip:ARCH/PRETRAINED-or-file."),
]
EncoderPrecisionOption = Annotated[
    str,
    typer.Option(
        "--precision",
        help="Of an openclip encoder: auto (fp16 on a GPU, float32 elsewhere), float32, fp16 or "
        "bf16.",
    ),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")]
PrecisionOption = Annotated[
    str, typer.Option(help="Of the networks' training: float32, bf16, or auto: bf16 on a GPU.")
]
CompileOption = Annotated[
    bool | None,
    typer.Option(
        "--compile/--no-compile", help="Compile the networks' training; default on a GPU."
    ),
]
MicroBatchOption = Annotated[
    int | None,
    typer.Option(
        help="So many of a batch in memory together: less memory, the same result; default as "
        "many as a GPU holds."
    ),
]
SeedOption = Annotated[int, typer.Option(help="Seed of everything random.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, results only.")]
OutputOption = Annotated[Path | None, typer.Option("--output", "-o", help="Folder to write.")]
StandardizeOption = Annotated[
    str, typer.Option(help="z-score by session, by the train(ing) trials, or none.")
]
ValidationOption = Annotated[
    float, typer.Option(min=0.01, max=0.5, help="Share of training images for validation.")
]
TestOption = Annotated[float, typer.Option(min=0.01, max=0.5, help="Share of images for the test.")]
NewDatasetOption = Annotated[str, typer.Option(help="Name below prepared/.")]
FormatOption = Annotated[str, typer.Option("--format", help="png, svg or pdf.")]
ReportOption = Annotated[bool, typer.Option(help="Write the report, outputs/MODEL_report.html.")]
DpiOption = Annotated[int, typer.Option(min=20, max=1200, help="Dots per inch.")]


@contextlib.contextmanager
def _interruptible(resumes: bool = True) -> Iterator[None]:
    """Log how to go on after Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        how = "goes on where it stopped" if resumes else "starts again; nothing was written"
        _stop(f"interrupted: the same command {how}", 130)


def _open(workspace: Path, quiet: bool) -> tuple[Workspace, Progress]:
    from synbrain_cli.errors import MissingError
    from synbrain_cli.io.workspace import Workspace
    from synbrain_cli.progress import Progress

    if not workspace.is_dir():
        raise MissingError(f"--workspace {workspace}: no such folder: make it first")
    return Workspace(workspace.resolve()), Progress(quiet)


# ---------------------------------------------------------------------------------- prepare


@prepare_app.command("nsd")
def prepare_nsd(
    root: Annotated[
        Path | None,
        typer.Option(help="Copy of NSD: the folder that holds nsddata/; default nsd in workspace."),
    ] = None,
    subject: Annotated[
        list[str] | None, typer.Option("--subject", "-s", help="Repeat for several; default all.")
    ] = None,
    sessions: Annotated[
        str | None, typer.Option(help="10: the first ten; 3-5,8: those; default all there are.")
    ] = None,
    space: Annotated[
        str, typer.Option(help="func1pt8mm, func1mm, fsaverage or nativesurface.")
    ] = "func1pt8mm",
    preparation: Annotated[
        str,
        typer.Option(help="betas_fithrf_GLMdenoise_RR, betas_fithrf or betas_assumehrf."),
    ] = "betas_fithrf_GLMdenoise_RR",
    roi: Annotated[
        list[str] | None,
        typer.Option(
            help="Voxels to model: a collection (nsdgeneral, streams), a label (V1, FFA-1), both "
            "(streams:ventral) or a mask file. Repeat for their union; default nsdgeneral."
        ),
    ] = None,
    standardize: StandardizeOption = "session",
    split: Annotated[
        str,
        typer.Option(help="Test images: shared1000, shared515, or a table of image and split."),
    ] = "shared1000",
    validation: ValidationOption = 0.1,
    download: Annotated[
        bool | None,
        typer.Option(
            "--download/--no-download",
            help="Complete the copy from NSD's public bucket, or never do; default: where it "
            "lacks what is needed.",
        ),
    ] = None,
    accept_terms: Annotated[
        bool,
        typer.Option("--accept-terms", help="NSD's terms are accepted: fetch without asking."),
    ] = False,
    dataset: NewDatasetOption = "nsd",
    encoder: EncoderOption = "gabor",
    precision: EncoderPrecisionOption = "auto",
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Sessions read at once; default one a core.")
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    workspace: WorkspaceOption = Path(),
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
) -> None:
    """Prepare subjects of the Natural Scenes Dataset, downloading what is not there.

    Example: synbrain prepare nsd --subject 1 --sessions 10
    """
    from synbrain_cli.datasets.nsd import Choice
    from synbrain_cli.distributed import Processes
    from synbrain_cli.io.workspace import subject_label
    from synbrain_cli.pipeline import prepare

    processes = Processes.assemble(device)
    place, report = _open(workspace, quiet or not processes.is_main)
    with _interruptible():
        result = prepare.prepare_nsd(
            place,
            root,
            subjects=[_number(subject_label(s)) for s in subject] if subject else None,
            sessions=_sessions(sessions),
            choice=Choice(
                space=space,
                preparation=preparation,
                rois=tuple(roi or ["nsdgeneral"]),
                standardize=standardize,
                split=split,
                validation_share=validation,
                seed=seed,
            ),
            download=download,
            ask=_Terms(accept_terms),
            dataset=dataset,
            encoder=encoder or "gabor",
            workers=jobs,
            device=_device(processes.device(device)),
            precision=precision,
            overwrite=overwrite,
            progress=report,
            processes=processes,
        )
    if processes.is_main:
        _print_rows(prepare.describe(result))


@prepare_app.command("algonauts")
def prepare_algonauts(
    root: Annotated[Path, typer.Option(help="The challenge's folder: it holds subj01/, …")],
    subject: Annotated[
        list[str] | None, typer.Option("--subject", "-s", help="Repeat for several; default all.")
    ] = None,
    standardize: StandardizeOption = "train",
    test: TestOption = 0.1,
    validation: ValidationOption = 0.1,
    dataset: NewDatasetOption = "algonauts",
    encoder: EncoderOption = "gabor",
    precision: EncoderPrecisionOption = "auto",
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    workspace: WorkspaceOption = Path(),
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
) -> None:
    """Prepare subjects of the Algonauts 2023 challenge.

    Example: synbrain prepare algonauts --root algonauts_2023 --subject 1
    """
    from synbrain_cli.distributed import Processes
    from synbrain_cli.io.workspace import subject_label
    from synbrain_cli.pipeline import prepare

    processes = Processes.assemble(device)
    place, report = _open(workspace, quiet or not processes.is_main)
    with _interruptible():
        result = prepare.prepare_algonauts(
            place,
            root,
            subjects=[_number(subject_label(s)) for s in subject] if subject else None,
            standardize=standardize,
            test_share=test,
            validation_share=validation,
            seed=seed,
            dataset=dataset,
            encoder=encoder or "gabor",
            device=_device(processes.device(device)),
            precision=precision,
            overwrite=overwrite,
            progress=report,
            processes=processes,
        )
    if processes.is_main:
        _print_rows(prepare.describe(result))


@prepare_app.command("table")
def prepare_table(
    trials: Annotated[
        list[Path],
        typer.Argument(
            help="Table, one row a trial: image; optionally session, repeat, split. Several are "
            "joined."
        ),
    ],
    images: Annotated[Path, typer.Option(help="Folder of the images that the table names.")],
    dataset: Annotated[str, typer.Option(help="Name for the experiment, below prepared/.")],
    subject: Annotated[str, typer.Option("--subject", "-s", help="Person: 1, sub-01, CSI1, …")],
    responses: Annotated[
        list[Path] | None,
        typer.Option(
            help=".npy (trials, voxels), 4-D NIfTI or HDF5, trials in the table's order; repeat "
            "for more files."
        ),
    ] = None,
    left: Annotated[
        list[Path] | None,
        typer.Option(help="Left hemisphere: .npy (trials, vertices), .mgh or .gii."),
    ] = None,
    right: Annotated[list[Path] | None, typer.Option(help="Right hemisphere, likewise.")] = None,
    mask: Annotated[
        list[Path] | None,
        typer.Option(help="Volume above 0 in the voxels to model; of surfaces, left and right."),
    ] = None,
    voxels: Annotated[
        Path | None, typer.Option(help="Table, one row a voxel: ncsnr, and columns of labels.")
    ] = None,
    roi: Annotated[
        list[str] | None, typer.Option(help="NAME=FILE: a region's volume. Repeat for more.")
    ] = None,
    image_column: Annotated[
        str | None, typer.Option(help="Where it is not image or stim_file.")
    ] = None,
    space: Annotated[
        str,
        typer.Option(
            help="Of surfaces fsaverage, fsaverage5, fsaverage6 or fsnative; of volumes "
            "a name, as T1w or MNI152NLin2009cAsym."
        ),
    ] = "individual",
    unit: Annotated[str, typer.Option(help="Unit of the responses.")] = "as recorded",
    divide_by: Annotated[
        float, typer.Option(help="Of the responses, as 300 for NSD's integers.")
    ] = 1.0,
    standardize: StandardizeOption = "session",
    split: Annotated[
        Path | None, typer.Option(help="Table of image and split (train, val or test).")
    ] = None,
    test: TestOption = 0.15,
    validation: ValidationOption = 0.1,
    encoder: EncoderOption = "gabor",
    precision: EncoderPrecisionOption = "auto",
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    workspace: WorkspaceOption = Path(),
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
) -> None:
    """Prepare a subject of your own experiment: trials, responses and images.

    Example: synbrain prepare table trials.tsv --responses responses.npy --images images
    --dataset v4 --subject 1
    """
    from synbrain_cli.datasets.table import Experiment
    from synbrain_cli.distributed import Processes
    from synbrain_cli.io.workspace import subject_label
    from synbrain_cli.pipeline import prepare

    processes = Processes.assemble(device)
    place, report = _open(workspace, quiet or not processes.is_main)
    with _interruptible():
        result = prepare.prepare_table(
            place,
            Experiment(
                trials=tuple(trials),
                images=images,
                responses=tuple(responses or ()),
                left=tuple(left or ()),
                right=tuple(right or ()),
                mask=tuple(mask or ()),
                voxels=voxels,
                rois=tuple(_named_file(text) for text in roi or ()),
                image_column=image_column,
                space=space,
                unit=unit,
                divide_by=divide_by,
                standardize=standardize,
                split=split,
                test_share=test,
                validation_share=validation,
                seed=seed,
            ),
            subject=subject_label(subject),
            dataset=dataset,
            encoder=encoder or "gabor",
            device=_device(processes.device(device)),
            precision=precision,
            overwrite=overwrite,
            progress=report,
            processes=processes,
        )
    if processes.is_main:
        _print_rows(prepare.describe(result))


@prepare_app.command("simulated")
def prepare_simulated(
    sessions: Annotated[
        int,
        typer.Option(
            min=1, help="Hours of scanning a subject, 750 trials each; NSD's have 30 to 40."
        ),
    ] = 4,
    encoder: EncoderOption = "gabor",
    precision: EncoderPrecisionOption = "auto",
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    workspace: WorkspaceOption = Path(),
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
) -> None:
    """Simulate three subjects in NSD's file format, and prepare them. Needs no data.

    Example: synbrain prepare simulated
    """
    from synbrain_cli.datasets.simulated import SimulationConfig
    from synbrain_cli.distributed import Processes
    from synbrain_cli.pipeline import prepare

    processes = Processes.assemble(device)
    place, report = _open(workspace, quiet or not processes.is_main)
    with _interruptible():
        result = prepare.prepare_simulated(
            place,
            config=SimulationConfig.of_sessions(sessions, seed=seed),
            encoder=encoder or "gabor",
            device=_device(processes.device(device)),
            precision=precision,
            overwrite=overwrite,
            progress=report,
            processes=processes,
        )
    if processes.is_main:
        _print_rows(prepare.describe(result))


# ---------------------------------------------------------------------------- train, adapt


@app.command()
def train(
    subject: SubjectOption = None,
    dataset: DatasetOption = None,
    model: Annotated[
        str, typer.Option(help="full, or linear: linear encoder and readout, without networks.")
    ] = "full",
    preset: Annotated[str, typer.Option(help="Size and schedule: tiny, small or paper.")] = "tiny",
    voxel_order: Annotated[
        str,
        typer.Option(
            help="How BrainVAE meets the voxels: file, curve, region, surface, or auto, the best "
            "that the subject's files allow."
        ),
    ] = "auto",
    encoder: EncoderOption = None,
    name: Annotated[
        str | None, typer.Option(help="Of the model; default sub-01, or sub-01_linear.")
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    compiled: CompileOption = None,
    micro_batch: MicroBatchOption = None,
    overwrite: OverwriteOption = False,
    workspace: WorkspaceOption = Path(),
    quiet: QuietOption = False,
) -> None:
    """Train a model of one prepared subject.

    Example: synbrain train --subject 1 --preset small
    """
    from synbrain_cli.distributed import Processes
    from synbrain_cli.errors import InputError
    from synbrain_cli.pipeline.train import NO_NETWORKS, TrainSettings
    from synbrain_cli.pipeline.train import train as run
    from synbrain_cli.run import RunContext, choose_speed

    processes = Processes.assemble(device)
    settings = TrainSettings(model, preset, voxel_order)
    speed = choose_speed(processes.device(device), precision, compiled, micro_batch)
    if speed is not None and not settings.has_networks:
        raise InputError(NO_NETWORKS)
    place, report = _open(workspace, quiet or not processes.is_main)
    person = place.find_subject(subject, dataset, report.info)
    store = place.find_tokens(person.dataset, encoder, report.info)
    with _interruptible():
        result = run(
            place,
            person,
            store,
            settings,
            RunContext.create(seed, device, speed, processes, report),
            name=name,
            overwrite=overwrite,
        )
    if processes.is_main:
        _print_training(result)


@app.command()
def adapt(
    hours: Annotated[
        float,
        typer.Option(help="Scanning sessions, in recorded order; 0.5 is the first half of one."),
    ] = 1,
    subject: SubjectOption = None,
    dataset: DatasetOption = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Models to start from: names in weights/, separated by commas; default one of "
            "every other person.",
        ),
    ] = None,
    strategy: Annotated[
        str,
        typer.Option(
            help="shared-core, source-map (seconds), fine-tuning (the published recipe), or auto: "
            "the best by the hour's validation images."
        ),
    ] = "auto",
    name: Annotated[str | None, typer.Option(help="Of the model; default sub-03_hours-1.")] = None,
    report: ReportOption = True,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    compiled: CompileOption = None,
    micro_batch: MicroBatchOption = None,
    overwrite: OverwriteOption = False,
    workspace: WorkspaceOption = Path(),
    quiet: QuietOption = False,
) -> None:
    """Make a model of a new person from an hour of their data and other people's models.

    Example: synbrain adapt --hours 1 --subject 3 --from sub-01,sub-02
    """
    from synbrain_cli.pipeline.adapt import AdaptSettings, choose_sources_and_subject
    from synbrain_cli.pipeline.adapt import adapt as run
    from synbrain_cli.run import RunContext, choose_speed

    place, said = _open(workspace, quiet)
    bundles, person, store = choose_sources_and_subject(place, source, subject, dataset, said.info)
    with _interruptible():
        result = run(
            place,
            person,
            store,
            AdaptSettings(bundles, hours, strategy),
            RunContext.create(
                seed,
                device,
                choose_speed(device, precision, compiled, micro_batch),
                progress=said,
            ),
            name=name,
            overwrite=overwrite,
        )
    _print_training(result)
    if report:
        from synbrain_cli.brain import load_model

        _write_report(place, load_model(result.folder, "cpu"), said)


# ------------------------------------------------------------------------------ synthesize


@app.command()
def synthesize(
    images: Annotated[list[Path], typer.Argument(help="A folder of images, or image files.")],
    subject: SubjectOption = None,
    model: ModelOption = None,
    samples: Annotated[
        int, typer.Option("--samples", "-n", min=1, help="Draws (single trials) per image.")
    ] = 1,
    sampling: Annotated[
        str,
        typer.Option(
            help="calibrated: as recorded trials vary; latent: the paper's, noise in the latent; "
            "mean: the expected response."
        ),
    ] = "calibrated",
    signal: Annotated[
        str,
        typer.Option(
            help="Unexplained signal: shared by the draws of an image, as by repeats in one "
            "brain, or fresh in each, for predictive intervals."
        ),
    ] = "shared",
    noise_factor: Annotated[
        float | None,
        typer.Option(
            help="With --sampling latent: the paper's nf; default the posterior's own spread."
        ),
    ] = None,
    unit: Annotated[
        str, typer.Option(help="recorded (for NSD percent signal change) or z.")
    ] = "recorded",
    space: Annotated[
        list[str] | None,
        typer.Option(
            help="Also write mean and deviation in: fsaverage5 (default), fsaverage6, fsaverage, "
            "fsnative, MNI, or none. Repeat for several."
        ),
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    output: OutputOption = None,
    overwrite: OverwriteOption = False,
    workspace: WorkspaceOption = Path(),
    quiet: QuietOption = False,
) -> None:
    """Draw single-trial responses to images: NIfTI, fsaverage GIFTI and arrays.

    Example: synbrain synthesize examples/images --subject 2 --samples 8
    """
    from synbrain_cli.distributed import Processes
    from synbrain_cli.pipeline.synthesize import synthesize as run

    processes = Processes.assemble(device)
    place, report = _open(workspace, quiet or not processes.is_main)
    bundle = place.find_model(model, subject, report.info)
    with _interruptible():
        result = run(
            place,
            bundle,
            images[0] if len(images) == 1 else images,
            n_draws=samples,
            seed=seed,
            sampling=sampling,
            signal=signal,
            noise_factor=noise_factor,
            unit=unit,
            output=output,
            spaces=None if space is None else [s for s in space if s != "none"],
            device=processes.device(device),
            overwrite=overwrite,
            progress=report,
            processes=processes,
        )
    if processes.is_main:
        print(result.draws)
        for file in result.images.get("nifti", []):
            print(result.folder / file)


# -------------------------------------------------------------------------------- evaluate


@app.command()
def evaluate(
    subject: SubjectOption = None,
    model: ModelOption = None,
    rois: Annotated[bool, typer.Option(help="Show scores by region, too.")] = True,
    paper: Annotated[
        bool, typer.Option("--paper", help="Print the published table's columns, on its scale.")
    ] = False,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Several models of one person side by side: --model A,B,C, or all of --subject.",
        ),
    ] = False,
    scaling: Annotated[
        bool,
        typer.Option(
            "--scaling",
            help="Score against hours of scanning and number of source people, of one or several "
            "--subject 1,2,3.",
        ),
    ] = False,
    augment: Annotated[
        bool,
        typer.Option(
            "--augment", help="What synthesized trials add to a decoder trained on the real ones."
        ),
    ] = False,
    hours: Annotated[
        str | None,
        typer.Option(help="With --scaling: amounts, as 0.25,0.5,1,2; default all there are."),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from", help="With --scaling: models of other people, as sub-01,sub-02; default all."
        ),
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(
            help="With --scaling: the score whose hours are told; default that of full data."
        ),
    ] = None,
    amounts: Annotated[
        str | None,
        typer.Option(
            help="With --augment: synthesized trials in multiples of the real ones, as 0.5,1,2."
        ),
    ] = None,
    draws: Annotated[
        int, typer.Option(min=20, help="Draws an image by which distributions are judged.")
    ] = 200,
    latent: Annotated[
        bool, typer.Option(help="Judge the paper's sampling, too: many passes of the decoder.")
    ] = True,
    report: ReportOption = True,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    output: OutputOption = None,
    workspace: WorkspaceOption = Path(),
    quiet: QuietOption = False,
) -> None:
    """Score a model and its draws on test images, beside baselines, controls and the ceiling.

    Example: synbrain evaluate --subject 1
    """
    place, said = _open(workspace, quiet)
    _check_options(
        {"--compare": compare, "--scaling": scaling, "--augment": augment, "--paper": paper},
        {
            "--hours": (hours, "--scaling"),
            "--from": (source, "--scaling"),
            "--target": (target, "--scaling"),
            "--amounts": (amounts, "--augment"),
        },
    )
    if scaling:
        _evaluate_scaling(
            place, subject, model, hours, source, target, seed=seed, output=output, progress=said
        )
        return
    if compare:
        _evaluate_comparison(
            place,
            subject,
            model,
            device,
            rois,
            n_draws=draws,
            seed=seed,
            output=output,
            progress=said,
        )
        return
    from synbrain_cli.brain import load_model
    from synbrain_cli.pipeline.evaluate import evaluate as run

    brain = load_model(place.find_model(model, subject, said.info), device)
    person = place.find_subject(brain.subject, brain.config.dataset, said.info)
    store = place.find_tokens(person.dataset, brain.config.encoder.spec, said.info)
    if augment:
        _evaluate_augmentation(
            place, brain, person, store, amounts, seed=seed, output=output, progress=said
        )
        return
    with _interruptible(resumes=False):
        result = run(
            place,
            brain,
            person,
            store,
            output=output,
            n_draws=draws,
            latent=latent,
            seed=seed,
            progress=said,
        )
    if paper:
        _print_paper(result)
    else:
        _print_evaluation(result, rois)
    print(f"\nEvery score of every region: {result.folder / 'metrics.tsv'}")
    print(result.folder / "calibration.png")
    print(result.folder / "metrics.json")
    if report:
        _write_report(place, brain, said, result.folder if output else None)


def _write_report(
    place: Workspace, brain: Brain, said: Progress, evaluation: Path | None = None
) -> None:
    """Of a model; beside an evaluation that is elsewhere than usual."""
    from synbrain_cli.pipeline.report import report

    output = evaluation / "report.html" if evaluation else None
    print(report(place, brain, evaluation=evaluation, output=output, progress=said))


def _check_options(kinds: dict[str, bool], belonging: dict[str, tuple[object, str]]) -> None:
    """One kind of evaluation, and only its own options."""
    from synbrain_cli.errors import InputError

    asked = [name for name, is_asked in kinds.items() if is_asked]
    if len(asked) > 1:
        raise InputError(f"{' and '.join(asked)}: expected one of them at a time")
    for name, (value, kind) in belonging.items():
        if value is not None and kind not in asked:
            raise InputError(f"{name} belongs to {kind}: pass that, too, or leave {name} out")


def _evaluate_scaling(
    place: Workspace,
    subject: str | None,
    model: str | None,
    hours: str | None,
    source: str | None,
    target: float | None,
    *,
    seed: int,
    output: Path | None,
    report: Progress,
) -> None:
    from synbrain_cli.errors import InputError
    from synbrain_cli.evaluation.learning_curve import HOURS, people_of
    from synbrain_cli.evaluation.learning_curve import scaling as run

    if model is not None:
        raise InputError(
            "--model: --scaling fits models of its own: name people with --subject and other "
            "people's models with --from"
        )
    bundles = place.full_models(source)
    dataset = bundles[0][1].dataset
    labels = subject.split(",") if subject else [None]
    persons = [place.find_subject(label, dataset, report.info) for label in labels]
    chosen = _numbers("--hours", hours) or list(HOURS)
    with _interruptible(resumes=False):
        people = people_of(place, persons, [path for path, _ in bundles], report.info)
        result = run(
            place, people, hours=chosen, target=target, seed=seed, output=output, report=report
        )
    rows = [("over", "strategy", "slope per tenfold", "95 % CI", "target", "reached at", "95 % CI")]
    for row in result.fits().to_dict("records"):
        rows.append(
            (
                row["over"],
                row["strategy"],
                _cell(row["slope"]),
                _span(row["slope_low"], row["slope_high"]),
                _cell(row["target"]),
                _amount(row["to_reach"]),
                f"{_amount(row['to_reach_low'])}–{_amount(row['to_reach_high'])}",
            )
        )
    print("Median correlation / ceiling of reliable voxels")
    table = result.table().pivot_table(
        index=["over", "amount"], columns="strategy", values="score", sort=False
    )
    points = [("over", "amount", *table.columns)]
    points += [
        (over, f"{amount:g}", *map(_cell, values))
        for (over, amount), values in zip(table.index, table.to_numpy(), strict=True)
    ]
    _print_columns(points)
    print()
    _print_columns(rows)
    print(f"\nEvery point: {result.folder / 'scaling.tsv'}")
    for file in sorted(result.folder.glob("*.png")):
        print(file)


def _evaluate_comparison(
    place: Workspace,
    subject: str | None,
    model: str | None,
    device: str,
    rois: bool,
    *,
    n_draws: int,
    seed: int,
    output: Path | None,
    report: Progress,
) -> None:
    from synbrain_cli.brain import load_model
    from synbrain_cli.evaluation.comparison import compare as run

    bundles = place.find_models(model, subject)
    report.info(f"models: {', '.join(path.name for path in bundles)}")
    brains = [load_model(path, device) for path in bundles]
    first = brains[0]
    person = place.find_subject(first.subject, first.config.dataset, report.info)
    store = place.find_tokens(person.dataset, first.config.encoder.spec, report.info)
    with _interruptible(resumes=False):
        result = run(
            place, brains, person, store, n_draws=n_draws, seed=seed, output=output, report=report
        )
    rows = [("model", "hours", "r", "r / ceiling", "95 % CI", "× linear", "× reference", "90 %")]
    for row in result.table().to_dict("records"):
        score = "noise_normalised_correlation"
        rows.append(
            (
                row["row"],
                f"{row['hours']:g}" if row["hours"] == row["hours"] and row["hours"] else "-",
                _cell(row["voxelwise_correlation"]),
                _cell(row[score]),
                _span(row[f"{score}_low"], row[f"{score}_high"]),
                _cell(row["ratio_to_linear"]),
                _cell(row["ratio_to_reference"]),
                _cell(row["coverage_90"]),
            )
        )
    _print_columns(rows, n_left=1)
    print(f"reference: {result.metrics['reference']}; 90 %: share of trials that intervals cover")
    for note in result.metrics["notes"]:
        print(f"note: {note}")
    for name in ("comparison.md", "comparison.png", "comparison.tsv"):
        print(result.folder / name)


def _evaluate_augmentation(
    place: Workspace,
    brain: object,
    person: object,
    store: object,
    amounts: str | None,
    *,
    seed: int,
    output: Path | None,
    report: Progress,
) -> None:
    from synbrain_cli.evaluation.augmentation import AMOUNTS
    from synbrain_cli.evaluation.augmentation import augment as run

    with _interruptible(resumes=False):
        result = run(
            place,
            brain,
            person,
            store,
            amounts=_numbers("--amounts", amounts) or AMOUNTS,
            seed=seed,
            output=output,
            progress=report,
        )
    scores = {"two_way_trials": "two-way", "retrieval_trials": "retrieval"}
    head = ("responses", "amount", "weight")
    rows = [(*head, *(c for name in scores.values() for c in (name, "gain", "95 % CI")))]
    for condition, entries in result.metrics["conditions"].items():
        chosen = result.metrics["chosen"][condition]["amount"]
        for entry in entries:
            mark = "*" if entry["amount"] == chosen else ""
            cells: list[str] = []
            for name in scores:
                one = entry["scores"][name]
                low, high = one["gain_ci"]
                cells += [_cell(one["value"]), _cell(one["gain"], 4)]
                cells.append(f"{_cell(low, 4)} to {_cell(high, 4)}")
            rows.append(
                (condition, f"{entry['amount']:g}{mark}", _cell(entry["weight"], 1), *cells)
            )
    _print_columns(rows, n_left=1)
    print(
        "\nSingle test trials; amounts in multiples of the real trials; * chosen by validation "
        "images of the real trials; gain over real trials alone"
    )
    for note in result.metrics["notes"]:
        print(f"note: {note}")
    for name in ("augment.png", "augment.tsv"):
        print(result.folder / name)


def _numbers(option: str, text: str | None) -> list[float] | None:
    """Numbers of "0.5,1,2"; None where nothing was said."""
    from synbrain_cli.errors import InputError

    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"{option} {text}: expected numbers, such as 0.5,1,2") from error


# ------------------------------------------------------------------------------------ plot

WhatOption = Annotated[
    str,
    typer.Option(
        help="mean, std, draw or difference of the last responses; recorded, or error (recorded "
        "− expected), of a test image; accuracy or ceiling of the model."
    ),
]
ResponsesOption = Annotated[
    Path | None, typer.Option(help="Folder written by synthesize; default the last.")
]
ImageOption = Annotated[
    str | None,
    typer.Option(help="One image of the responses, default all; or test images, as A,B."),
]
MinusOption = Annotated[
    str | None,
    typer.Option(help="Image, or folder of other responses, whose mean is subtracted."),
]
DrawOption = Annotated[int, typer.Option(min=0, help="Which draw, with --what draw.")]
ThresholdOption = Annotated[float | None, typer.Option(help="Hide smaller absolute values.")]
VmaxOption = Annotated[float | None, typer.Option(help="Limit of the colours.")]
SpaceOption = Annotated[
    str, typer.Option(help="fsaverage5, or fsaverage6 or fsaverage where nilearn has them.")
]
TrialsOption = Annotated[
    Path | None,
    typer.Option(help="Folder written by synthesize, instead of recorded test images."),
]
TestImagesOption = Annotated[
    str | None, typer.Option(help="Test images, as A,B; default those of most repeats.")
]
SamplesOption = Annotated[int, typer.Option("--samples", "-n", min=2, help="Draws per image.")]


def plot_flatmap(
    subject: SubjectOption = None,
    model: ModelOption = None,
    what: WhatOption = "mean",
    responses: ResponsesOption = None,
    image: ImageOption = None,
    minus: MinusOption = None,
    draw: DrawOption = 0,
    threshold: ThresholdOption = None,
    vmax: VmaxOption = None,
    space: SpaceOption = "fsaverage5",
    pycortex: Annotated[
        bool,
        typer.Option("--pycortex", help="Draw with pycortex (pip install synbrain[pycortex])."),
    ] = False,
    format: FormatOption = "png",
    dpi: DpiOption = 200,
    output: OutputOption = None,
    workspace: WorkspaceOption = Path(),
    quiet: QuietOption = False,
) -> None:
    """Draw responses, recordings or accuracy on fsaverage's flattened cortex.

    Example: synbrain plot-flatmap --subject 2 --image coffee --minus flower
    """
    _plot_maps("flatmap", **locals())


plot_app.command("flatmap")(plot_flatmap)
app.command("plot-flatmap")(plot_flatmap)


@plot_app.command("surface")
def plot_surface(
    subject: SubjectOption = None,
    model: ModelOption = None,
    what: WhatOption = "mean",
    responses: ResponsesOption = None,
    image: ImageOption = None,
    minus: MinusOption = None,
    draw: DrawOption = 0,
    threshold: ThresholdOption = None,
    vmax: VmaxOption = None,
    space: SpaceOption = "fsaverage5",
    format: FormatOption = "png",
    dpi: DpiOption = 200,
    output: OutputOption = None,
    workspace: WorkspaceOption = Path(),
    quiet: QuietOption = False,
) -> None:
    """Draw the same maps on fsaverage's inflated surface, in four views.

    Example: synbrain plot surface --subject 2 --what accuracy
    """
    _plot_maps("surface", **locals())


def _plot_maps(
    kind: str,
    *,
    threshold: float | None,
    vmax: float | None,
    space: str,
    format: str,
    dpi: int,
    workspace: Path,
    quiet: bool,
    pycortex: bool = False,
    **asked: Any,
) -> None:
    """Options of both commands, by name: how maps look, and ``asked``, which maps."""
    from synbrain_cli.pipeline import plot

    place, report = _open(workspace, quiet)
    look = plot.Look(space, threshold, vmax, format, dpi, pycortex)
    _print_files(plot.brain_maps(place, kind, look=look, progress=report, **asked))


@plot_app.command("draws")
def plot_draws(
    subject: SubjectOption = None,
    model: ModelOption = None,
    responses: TrialsOption = None,
    image: TestImagesOption = None,
    samples: SamplesOption = 20,
    seed: SeedOption = 0,
    vmax: VmaxOption = None,
    space: SpaceOption = "fsaverage5",
    format: FormatOption = "png",
    dpi: DpiOption = 200,
    output: OutputOption = None,
    workspace: WorkspaceOption = Path(),
    quiet: QuietOption = False,
) -> None:
    """Draw recorded trials of a test image beside draws of it, on one colour scale.

    Example: synbrain plot draws --subject 2 --image nsd00037
    """
    from synbrain_cli.pipeline import plot

    place, report = _open(workspace, quiet)
    _print_files(
        plot.draws(
            place,
            model=model,
            subject=subject,
            responses=responses,
            image=image,
            n_draws=samples,
            seed=seed,
            look=plot.Look(space=space, vmax=vmax, format=format, dpi=dpi),
            output=output,
            progress=report,
        )
    )


@plot_app.command("rois")
def plot_rois(
    subject: SubjectOption = None,
    model: ModelOption = None,
    responses: TrialsOption = None,
    image: TestImagesOption = None,
    samples: SamplesOption = 20,
    seed: SeedOption = 0,
    format: FormatOption = "png",
    dpi: DpiOption = 200,
    output: OutputOption = None,
    workspace: WorkspaceOption = Path(),
    quiet: QuietOption = False,
) -> None:
    """Draw ROI means: intervals over draws, with the recorded trials over them.

    Example: synbrain plot rois --subject 2
    """
    from synbrain_cli.pipeline import plot

    place, report = _open(workspace, quiet)
    _print_files(
        plot.rois(
            place,
            model=model,
            subject=subject,
            responses=responses,
            image=image,
            n_draws=samples,
            seed=seed,
            look=plot.Look(format=format, dpi=dpi),
            output=output,
            progress=report,
        )
    )


@plot_app.command("accuracy")
def plot_accuracy(
    subject: SubjectOption = None,
    model: ModelOption = None,
    format: FormatOption = "png",
    dpi: DpiOption = 200,
    output: OutputOption = None,
    workspace: WorkspaceOption = Path(),
    quiet: QuietOption = False,
) -> None:
    """Draw each voxel's accuracy against its noise ceiling, beside the baselines.

    Example: synbrain plot accuracy --subject 2
    """
    from synbrain_cli.pipeline import plot

    place, report = _open(workspace, quiet)
    look = plot.Look(format=format, dpi=dpi)
    _print_files(
        plot.accuracy(
            place, model=model, subject=subject, look=look, output=output, progress=report
        )
    )


@plot_app.command("report")
def plot_report(
    subject: SubjectOption = None,
    model: ModelOption = None,
    responses: ResponsesOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File; default outputs/MODEL_report.html.")
    ] = None,
    workspace: WorkspaceOption = Path(),
    quiet: QuietOption = False,
) -> None:
    """Write one HTML file to send: stimuli, maps, draws, accuracy, calibration, provenance.

    Example: synbrain plot report --subject 2
    """
    from synbrain_cli.brain import load_model
    from synbrain_cli.pipeline.plot import named_responses
    from synbrain_cli.pipeline.report import report as run

    place, said = _open(workspace, quiet)
    made = named_responses(responses, model, subject)
    if made is not None:
        brain = made.brain(place, said.info)
    else:
        brain = load_model(place.find_model(model, subject, said.info), "cpu")
    print(run(place, brain, responses=made, output=output, progress=said))


def _print_files(result: Any) -> None:
    for file in result.files:
        print(file)


# --------------------------------------------------------------------------------- weights

weights_app = typer.Typer(
    no_args_is_help=True, help="Import, list, verify and fetch weights of models."
)
app.add_typer(weights_app, name="weights")


@weights_app.command("import")
def weights_import(
    brainvae: Annotated[Path, typer.Option(help="The authors' BrainVAE: last.pth.")],
    s2n: Annotated[Path, typer.Option(help="The authors' S2N mapper of the same person: last.pt.")],
    mask: Annotated[
        Path | None,
        typer.Option(
            help="The person's nsdgeneral.nii.gz (func1pt8mm); default that of the prepared "
            "subject."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Of the model; default sub-01_published.")
    ] = None,
    subject: Annotated[
        str | None,
        typer.Option("--subject", "-s", help="Person; default by the mask's number of voxels."),
    ] = None,
    dataset: NewDatasetOption = "nsd",
    prepared: Annotated[
        Path | None,
        typer.Option(
            help="Prepared subject with the same mask: transforms, ROIs; default "
            "prepared/nsd/sub-01, where its mask is the same."
        ),
    ] = None,
    nsd: Annotated[
        Path | None,
        typer.Option(
            help="Or a copy of NSD that holds them: nsddata/ with ROIs and transforms is enough; "
            "default nsd in workspace."
        ),
    ] = None,
    voxels: Annotated[
        int | None, typer.Option(min=1, help="Voxels, where they are not nsdgeneral's.")
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(help="Image encoder; default the paper's, whose weights are not asked for."),
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="Licence under which the weights were published.")
    ] = None,
    overwrite: OverwriteOption = False,
    workspace: WorkspaceOption = Path(),
    quiet: QuietOption = False,
) -> None:
    """Make a model of the checkpoints that SynBrain's authors publish. Nothing in them is run.

    Example: synbrain weights import --brainvae last.pth --s2n last.pt --mask nsdgeneral.nii.gz
    """
    from synbrain_cli.pipeline.import_weights import import_published

    place, report = _open(workspace, quiet)
    with _interruptible(resumes=False):
        result = import_published(
            place,
            brainvae,
            s2n,
            mask=mask,
            subject=subject,
            dataset=dataset,
            prepared=prepared,
            nsd=nsd,
            n_voxels=voxels,
            encoder=encoder,
            licence=licence,
            name=name,
            overwrite=overwrite,
            progress=report,
        )
    print(result.folder)


@weights_app.command("list")
def weights_list(workspace: WorkspaceOption = Path(), quiet: QuietOption = False) -> None:
    """List the models of the workspace: person, encoder, size, where from, whether complete.

    Example: synbrain weights list
    """
    from synbrain_cli.pipeline.weights import list_bundles

    place, report = _open(workspace, quiet)
    table = list_bundles(place)
    rows = [("name", "subject", "encoder", "source", "files", "voxels", "MB")]
    for row in table.to_dict("records"):
        words = [str(row[k] or "-") for k in ("name", "subject", "encoder", "source", "files")]
        rows.append((*words, _cell(row["voxels"], 0), _cell(row["megabytes"], 1)))
    _print_columns(rows, n_left=5)
    report.info("`synbrain weights verify` compares every file with its checksum")


@weights_app.command("verify")
def weights_verify(
    names: Annotated[
        list[str] | None, typer.Argument(help="Models: names in weights/, or paths; default all.")
    ] = None,
    workspace: WorkspaceOption = Path(),
    quiet: QuietOption = False,
) -> None:
    """Compare every file of models with its checksum; exit 1, with a line for each fault.

    Example: synbrain weights verify sub-01
    """
    from synbrain_cli.pipeline.weights import verify

    place, report = _open(workspace, quiet)
    found = verify(place, names)
    for name, faults in found.items():
        report.info(f"{name}: {f'{len(faults)} at fault' if faults else 'whole'}")
        for fault in faults:
            print(fault)
    if any(found.values()):
        raise typer.Exit(1)


@weights_app.command("card")
def weights_card(
    name: Annotated[str, typer.Argument(help="Model: a name in weights/, or a path.")],
    workspace: WorkspaceOption = Path(),
) -> None:
    """Print a model's card: what it was made of, its scores, its licence.

    Example: synbrain weights card sub-01
    """
    from synbrain_cli.pipeline.weights import read_card

    place, _ = _open(workspace, True)
    print(read_card(place, name), end="")


@weights_app.command("fetch")
def weights_fetch(
    repository: Annotated[str, typer.Argument(help="OWNER/REPO on the Hugging Face hub.")],
    files: Annotated[list[str], typer.Argument(help="Names of files in it.")],
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit; default main, or what is here.")
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(envvar="HF_ENDPOINT", help="Address of the hub.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder; default checkpoints/OWNER/REPO."),
    ] = None,
    workspace: WorkspaceOption = Path(),
    quiet: QuietOption = False,
) -> None:
    """Bring files from the Hugging Face hub, their commit and checksums recorded beside them.

    Again, it asks the network for nothing, and compares what is there with its checksums.

    Example: synbrain weights fetch OWNER/REPO sub1/last.pth sub1/last.pt
    """
    from synbrain_cli.pipeline.fetch_weights import fetch

    place, report = _open(workspace, quiet)
    with _interruptible():
        result = fetch(
            place,
            repository,
            files,
            revision=revision,
            output=output,
            endpoint=endpoint,
            progress=report,
        )
    for file in result.files:
        print(file)


# ------------------------------------------------------------------------------------ demo


@app.command()
def demo(
    images: Annotated[
        Path | None, typer.Argument(help="Images to synthesize; default examples/images.")
    ] = None,
    seed: SeedOption = 0,
    workspace: WorkspaceOption = Path(),
    quiet: QuietOption = False,
) -> None:
    """Run everything on simulated subjects: prepare, train, synthesize, evaluate, plot.

    Example: synbrain demo
    """
    from synbrain_cli.pipeline.demo import demo as run

    place, report = _open(workspace, quiet)
    with _interruptible():
        result = run(place, images, seed=seed, progress=report)
    print()
    _print_evaluation(result.scores, rois=False)
    print()
    for what, path in result.paths.items():
        print(f"{what:12} {path}")
    print(f"\nThe subjects are simulated. {result.seconds / 60:.1f} minutes.")


# --------------------------------------------------------------------------------- printing


def _print_training(result: object) -> None:
    scores = result.record.validation
    names = {
        "model": "model",
        "deep": "deep alone",
        "transfer": "transfer alone",
        "linear": "linear encoder alone",
    }
    listing = ", ".join(f"{names[k]} {scores[k]:.3f}" for k in names if k in scores)
    print(
        f"{result.folder}\nvalidation images, share of variance predicted: {listing}, "
        "mean pattern 0"
    )


def _cell(value: float | None, digits: int = 3) -> str:
    # Rounded before it is written, and + 0: no "-0.000".
    return f"{round(value, digits) + 0:.{digits}f}" if value is not None and value == value else "-"


def _amount(value: float | None) -> str:
    """Hours or people; beyond a thousand, extrapolation says nothing."""
    return ">1,000" if value is not None and value > 1000 else _cell(value, 2)


def _span(low: float | None, high: float | None) -> str:
    return "-" if _cell(low) == "-" else f"{_cell(low)}–{_cell(high)}"


# Columns of ``metrics.tsv`` → headings.
_RESPONSES = {
    "model": "model",
    "ci": "95 % CI",
    "deep": "deep",
    "transfer": "transfer",
    "linear": "linear",
    "mean_pattern": "mean pat.",
    "shuffled": "shuffled",
    "ceiling": "ceiling",
}
_DISTRIBUTIONS = {
    "model": "draws",
    "ci": "95 % CI",
    "linear": "linear+N",
    "mean_pattern": "mean+N",
    "latent_nf1": "latent nf 1",
    "latent_best": "best nf",
    "shuffled": "shuffled",
    "reference": "reference",
}
_BY_REGION = ("voxelwise_correlation", "coverage_90")


def _print_evaluation(result: object, rois: bool) -> None:
    """Print scores of responses, retrieval, and scores of draws, each beside its baselines."""
    _print_scores(result.table(), rois, _RESPONSES)
    found = result.metrics["retrieval"]
    decoders = [name for name in ("brainvae", "linear_decoder") if name in found]
    columns = ("raw", "syn", "draw", "mean_pattern", "shuffled")
    print(f"\nTop-1 retrieval among {found['n_candidates']} images (chance {found['chance']:.3f})")
    rows = [("decoder", "recorded", "predicted", "drawn", "mean pat.", "shuffled")]
    rows += [(name, *(_cell(found[name][k]) for k in columns)) for name in decoders]
    _print_columns(rows, n_left=1)
    print("\nDraws against held-out trials (N: independent normal noise of constant variance)")
    _print_scores(result.draws_table(), rois, _DISTRIBUTIONS)
    shape = result.metrics["draws"]["pit_histogram"]["model"]
    print(f"\nRanks of held-out trials among draws (flat: calibrated)  {_bars(shape)}")
    for note in result.metrics["notes"]:
        print(f"note: {note}")


def _print_scores(table: object, rois: bool, columns: dict[str, str]) -> None:
    """Print a table: all scores over all voxels, some by region; the rest is in the file.

    Columns without a value are left out.
    """
    shown = {
        k: v for k, v in columns.items() if k == "ci" or (k in table and table[k].notna().any())
    }
    rows = [("region", "score", *shown.values())]
    for row in table.to_dict("records"):
        if row["region"] != "all" and not (rois and row["score"] in _BY_REGION):
            continue
        cells = (
            _span(row["ci_low"], row["ci_high"]) if k == "ci" else _cell(row[k]) for k in shown
        )
        rows.append((row["region"], row["score"], *cells))
    _print_columns(rows)


def _print_paper(result: object) -> None:
    """Print the published table's columns, the mean pattern's row beside the model's."""
    table = result.paper_table()
    digits = {"Incep": 1, "CLIP": 1, "Raw": 1, "Syn": 1}
    rows = [tuple(table.columns)]
    for row in table.to_dict("records"):
        cells = (_cell(row[k], digits.get(k, 3)) for k in table.columns[1:])
        rows.append((row["row"], *cells))
    _print_columns(rows, n_left=1)
    scale = (
        "MSE in (betas / 2000)²"
        if table["MSE"].notna().any()
        else (f"MSE has no published scale in {result.metrics['recorded_unit']}")
    )
    print(
        f"\n{scale}; r and cos across voxels of single trials; Raw and Syn: top-1 % "
        f"among {result.metrics['retrieval']['n_candidates']} images by BrainVAE's latent. Incep, "
        "CLIP, Eff and SwAV need images decoded by MindEye2 and are not computed. A constant "
        "scores the mean pattern's row: judge by `synbrain evaluate` without --paper."
    )


def _bars(heights: list[float]) -> str:
    """A histogram in one line; the middle of the scale is 1."""
    blocks = "▁▂▃▄▅▆▇█"
    return "".join(blocks[min(7, max(0, round(height * 3.5)))] for height in heights)


def _print_rows(rows: list[dict[str, object]]) -> None:
    _print_columns([tuple(rows[0]), *(tuple(map(str, row.values())) for row in rows)])


def _print_columns(
    rows: list[tuple[str, ...]], n_left: int = 2, file: TextIO | None = None
) -> None:
    """Print a table, the first ``n_left`` columns flush left."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        first = [
            value.ljust(width) for value, width in zip(row[:n_left], widths[:n_left], strict=True)
        ]
        rest = [
            value.rjust(width) for value, width in zip(row[n_left:], widths[n_left:], strict=True)
        ]
        print("  ".join(first + rest).rstrip(), file=file)


class _Terms:
    """Asks on the terminal before NSD is fetched, unless the terms were accepted in the command."""

    def __init__(self, accepted: bool) -> None:
        self.accepted = accepted

    def terms(self, terms: str, form: str) -> None:
        from synbrain_cli.errors import InputError

        if self.accepted:
            return
        how = (
            f"NSD may be used once you have accepted its terms ({terms}) and filled in its access "
            f"form ({form}); neither data nor images may be passed on"
        )
        if not sys.stdin.isatty():
            raise InputError(f"{how}: pass --accept-terms if you have")
        if not typer.confirm(f"{how}.\nHave you done both?", err=True):
            raise InputError("NSD's terms were not accepted: nothing was fetched")

    def fetch(self, table: pd.DataFrame, root: Path) -> None:
        from synbrain_cli.errors import InputError

        rows = [tuple(table.columns)]
        for what, files, size, left in table.itertuples(index=False):
            rows.append((what, f"{files:,}", f"{size:,.2f}", f"{left:,.2f}"))
        _print_columns(rows, n_left=1, file=sys.stderr)
        if self.accepted or not sys.stdin.isatty():
            return
        if not typer.confirm(f"Fetch into {root}?", default=True, err=True):
            raise InputError("nothing was fetched; --subject and --sessions choose less")


def _sessions(text: str | None) -> list[int] | None:
    """Sessions of "10" (the first ten) or "3-5,8"."""
    from synbrain_cli.errors import InputError

    if text is None:
        return None
    try:
        if text.strip().isdigit():
            chosen = list(range(1, int(text) + 1))
        else:
            chosen = []
            for part in text.split(","):
                first, _, last = part.strip().partition("-")
                chosen += range(int(first), int(last or first) + 1)
    except ValueError:
        chosen = []
    if not chosen or min(chosen) < 1:
        raise InputError(
            f"--sessions {text}: expected a number (the first so many) or a list such as 3-5,8"
        )
    return chosen


def _named_file(text: str) -> tuple[str, Path]:
    from synbrain_cli.errors import InputError

    name, separator, path = text.partition("=")
    if not (name and separator and path):
        raise InputError(f"--roi {text}: expected NAME=FILE, as FFA=ffa_mask.nii.gz")
    return name, Path(path)


def _number(label: str) -> int:
    from synbrain_cli.errors import InputError

    if not label.isdigit():
        raise InputError(f"--subject {label}: NSD's subjects are numbers, 1 to 8")
    return int(label)


def _device(device: str) -> str:
    from synbrain_cli.run import resolve_device

    return str(resolve_device(device))


# What a disk can refuse: full, over quota, not permitted, read-only.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}


def main() -> None:
    """Entry point: one line and exit 1 for a fault the user can mend."""
    if sys.prefix != sys.base_prefix:
        # Matplotlib would keep its font list in the home folder; and its settings there are not
        # to change our figures.
        os.environ.setdefault("MPLCONFIGDIR", str(Path(sys.prefix) / "cache" / "matplotlib"))
    os.environ["MPLBACKEND"] = "Agg"  # no display is needed, whatever the user set up
    command = next(iter(sys.argv[1:]), "")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and command not in SHARED:
        if _process() > 0:
            return
        print(f"synbrain: {command} is done by one process alone", file=sys.stderr)
        os.environ["WORLD_SIZE"] = "1"
    try:
        app()
    except SynbrainError as error:
        _stop(str(error))
    except OSError as error:
        if error.errno not in _DISK:
            raise
        place = f"{error.filename}: " if error.filename else ""
        _stop(
            f"{place}{error.strerror}: nothing half-written was left under a final name; free "
            "some space or choose a folder you may write to, then run the command again"
        )


def _process() -> int:
    """Which of the processes that were launched together this is."""
    return int(os.environ.get("RANK", "0"))


def _stop(message: str, code: int = 1) -> NoReturn:
    who = f"synbrain, process {_process()}" if _process() else "synbrain"
    print(f"{who}: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
