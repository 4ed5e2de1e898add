"""`synbrain synthesize`: from images to draws."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from synbrain_cli.cli.options import (
    DatasetOption,
    DeviceOption,
    MapSpace,
    ModelOption,
    OutputOption,
    OverwriteOption,
    QuietOption,
    SeedOption,
    ShownTokensOption,
    SubjectOption,
    WorkspaceOption,
)
from synbrain_cli.cli.parsers import parse_tokens, require_images
from synbrain_cli.cli.running import interruptible, open_run

Sampling = Literal["calibrated", "latent", "mean"]
Signal = Literal["shared", "fresh"]
Unit = Literal["recorded", "z"]

MOST_FILES = 100  # that are printed one by one

SamplingOption = Annotated[
    Sampling,
    typer.Option(
        help="calibrated: draws vary as recorded trials do; latent: as published, noise in the "
        "latent; mean: the expected response alone."
    ),
]
SignalOption = Annotated[
    Signal,
    typer.Option(
        help="Unexplained signal: shared by all draws of an image, as by repeats in one brain, or "
        "fresh in each draw, for predictive intervals. Draws of one number err alike on similar "
        "images."
    ),
]
MapSpacesOption = Annotated[
    list[MapSpace] | None,
    typer.Option(
        help="Also write maps of the expected response and of the standard deviation of a single "
        "trial in this space. Repeat for several; default: fsaverage5, or fsLR for "
        "subjects in it."
    ),
]


def synthesize(
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            help="A folder of images, or image files; of a model that sees no pictures a file of "
            "tokens, or nothing beside --tokens."
        ),
    ] = None,
    tokens: ShownTokensOption = None,
    sequence: Annotated[
        Path | None,
        typer.Option(
            help="Draw whole sessions in order: a table with a row per trial, of the columns image "
            "and, if there are several, session and run. Without IMAGES, image is a path, relative "
            "to the table."
        ),
    ] = None,
    subject: SubjectOption = None,
    dataset: DatasetOption = None,
    model: ModelOption = None,
    samples: Annotated[
        int, typer.Option("--samples", "-n", min=1, help="Draws (single trials) per image.")
    ] = 1,
    sampling: SamplingOption = "calibrated",
    signal: SignalOption = "shared",
    noise_factor: Annotated[
        float | None,
        typer.Option(
            help="With --sampling latent: the published noise factor nf; default: the "
            "posterior's own spread."
        ),
    ] = None,
    unit: Annotated[
        Unit, typer.Option(help="The recorded unit (NSD: percent signal change), or z-scores.")
    ] = "recorded",
    space: MapSpacesOption = None,
    maps: Annotated[
        bool,
        typer.Option(
            help="Also write NIfTI and GIFTI files of every image; without them arrays of all "
            "images, which are faster and smaller for thousands of images."
        ),
    ] = True,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    output: OutputOption = None,
    overwrite: OverwriteOption = False,
    folder: WorkspaceOption = Path(),
    quiet: QuietOption = False,
) -> None:
    """Draw single-trial responses to images: NIfTI, fsaverage GIFTI and arrays.

    With --sequence: the trials of a table in order, with drift, effects of repetition and of the
    image before, as far as training bore them out; --samples are then whole sequences.

    Example: synbrain synthesize examples/images --subject 2 --samples 8
    """
    from synbrain_cli.brain.drawing import Drawing
    from synbrain_cli.errors import InputError
    from synbrain_cli.pipeline.synthesize import Output
    from synbrain_cli.pipeline.synthesize import synthesize as write_responses
    from synbrain_cli.pipeline.synthesize_sequence import synthesize_sequence as write_sessions

    if sequence is None:
        require_images(images, tokens, "images", "--tokens or --sequence")
    elif tokens:
        raise InputError(
            "--tokens and --sequence: expected images, found tokens: draw these sequences in "
            "Python, load_model(…, tokens={…}).draw_sequence(…)"
        )
    workspace, run = open_run(folder, quiet, seed, device, distributed=True)
    spaces = None if space is None else [s.value for s in space if s != MapSpace.NONE]
    bundle = workspace.find_model(model, subject, run.progress.info, dataset)
    shown = (images[0] if images and len(images) == 1 else images) or None
    drawing = Drawing(samples, seed, sampling, signal, noise_factor, unit)
    written = Output(output, spaces, maps, overwrite)
    if sequence is not None:
        with interruptible():
            sessions = write_sessions(workspace, bundle, sequence, shown, drawing, written, run)
        print(sessions.draws, sessions.events, sep="\n")
        for file in sessions.files[:MOST_FILES]:
            print(file)
        return
    with interruptible():
        result = write_responses(
            workspace, bundle, shown, drawing, written, run, parse_tokens(tokens)
        )
    if run.processes.is_main:
        print(result.draws)
        files = result.images.get("nifti", [])
        for file in files if len(files) <= MOST_FILES else ["images.tsv"]:  # which lists them
            print(result.folder / file)


def submit(
    root: Annotated[Path, typer.Option(help="The challenge's folder: it holds subj01/, …")],
    subject: Annotated[
        list[str] | None,
        typer.Option("--subject", "-s", help="Subject; repeat for several; default: all."),
    ] = None,
    dataset: Annotated[
        str, typer.Option(help="Dataset that the models were trained on.")
    ] = "algonauts",
    tokens: ShownTokensOption = None,
    device: DeviceOption = "auto",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File; default: outputs/algonauts_submission.zip."),
    ] = None,
    folder: WorkspaceOption = Path(),
    quiet: QuietOption = False,
) -> None:
    """Predict the test images of the Algonauts 2023 challenge, in its submission format.

    Of each subject, the newest model predicts; its mean is what is submitted.

    Example: synbrain submit --root algonauts_2023
    """
    from synbrain_cli.cli.parsers import parse_subject_numbers
    from synbrain_cli.datasets.algonauts import Challenge
    from synbrain_cli.pipeline.submit import submit as write_submission

    workspace, run = open_run(folder, quiet, device=device)
    with interruptible():
        subjects = parse_subject_numbers(subject)
        files = parse_tokens(tokens)
        result = write_submission(workspace, Challenge(root), subjects, dataset, output, files, run)
    print(result.file)
