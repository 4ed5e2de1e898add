"""Options that several commands share.

Choices are `Literal` types (an enumeration where an option may be repeated), so that Typer checks
them, and lists them in help, in errors and after Tab. They repeat tuples of the library, which
would load numpy or torch here; ``tests/test_cli.py`` compares the two.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from synbrain_cli.cli.completion import (
    complete_dataset,
    complete_model,
    complete_preset,
    complete_subject,
)

# ---------------------------------------------------------------------------------- choices

Standardization = Literal["session", "train", "none"]
EncoderPrecision = Literal["auto", "float32", "fp16", "bf16"]
TrainingPrecision = Literal["auto", "float32", "bf16"]
FigureFormat = Literal["png", "svg", "pdf"]
FigureStyle = Literal["paper", "talk"]
FigureSpace = Literal["fsaverage5", "fsaverage6", "fsaverage", "fsLR"]


class MapSpace(StrEnum):
    """Spaces to which synthesized maps can be resampled, and none of them."""

    FSAVERAGE5 = "fsaverage5"
    FSAVERAGE6 = "fsaverage6"
    FSAVERAGE = "fsaverage"
    FSNATIVE = "fsnative"
    FSLR = "fsLR"
    MNI = "MNI"
    NONE = "none"


def _check_preset(name: str) -> str:
    """Presets are read when they are asked for: programs and tests may add their own."""
    from synbrain_cli.config import PRESETS

    if name not in PRESETS:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(map(repr, PRESETS))}.")
    return name


# ------------------------------------------------------------------- workspace and selection

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
    str | None,
    typer.Option(
        "--subject",
        "-s",
        help="Subject: 2, 02, sub-02 or subj02.",
        autocompletion=complete_subject,
    ),
]
DatasetOption = Annotated[
    str | None,
    typer.Option(help="Dataset: a folder in prepared/.", autocompletion=complete_dataset),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="Model: a name in weights/, or a path.",
        autocompletion=complete_model,
    ),
]

# --------------------------------------------------------------------------- data preparation

SubjectsOption = Annotated[
    list[str] | None,
    typer.Option("--subject", "-s", help="Subject; repeat for several; default: all."),
]
DownloadOption = Annotated[
    bool | None,
    typer.Option(
        "--download/--no-download",
        help="Complete the copy from the public bucket, or never download; default: download "
        "what is needed and missing.",
    ),
]
NewDatasetOption = Annotated[str, typer.Option(help="Name of the dataset in prepared/.")]
StandardizeOption = Annotated[
    Standardization,
    typer.Option(help="z-score by session, z-score by the training trials, or neither."),
]
ValidationOption = Annotated[
    float, typer.Option(min=0.01, max=0.5, help="Share of the training images for validation.")
]
TestOption = Annotated[
    float, typer.Option(min=0.01, max=0.5, help="Share of the images for testing.")
]
EncoderOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="<encoder[@layers]>",
        help="Image encoder, repeatable: gabor, pixels, efficientnet, openclip:ARCH/PRETRAINED or "
        "timm:ARCH/TAG, where a file of weights may stand for their name; @3,6,9 names layers, "
        ":112 before them the width of images. Default of prepare: gabor, efficientnet@3,4,5, "
        "efficientnet:112@3,4,5 and pixels (of prepare simulated, without the third); of "
        "others: all that are prepared.",
        show_default=False,
    ),
]
EncoderPrecisionOption = Annotated[
    EncoderPrecision,
    typer.Option(
        "--precision",
        help="Precision of pretrained encoders; auto: fp16 on a GPU, float32 elsewhere.",
    ),
]

TokensOption = Annotated[
    list[str] | None,
    typer.Option(
        "--tokens",
        metavar="<[name=]file>",
        help="Features of your own as a band, repeatable: .npy, .h5, .hdf5 or .safetensors, "
        "(images, tokens, dims) or (images, features). Rows are in the order of the sorted image "
        "names, or as FILE.tsv says. Without --encoder, no other band is made.",
    ),
]
ShownTokensOption = Annotated[
    list[str] | None,
    typer.Option(
        "--tokens",
        metavar="<[name=]file>",
        help="Tokens of the images, for a model of features of your own; one per band of this "
        "kind, in the form that prepare takes.",
    ),
]

# ----------------------------------------------------------------------------------- training

PresetOption = Annotated[
    str,
    typer.Option(
        metavar="<tiny|small|paper>",
        help="Network size and training schedule: tiny for simulated subjects (two minutes on a "
        "CPU), small for one GPU (some seven hours on a CPU for a subject of NSD), paper as "
        "published.",
        callback=_check_preset,
        autocompletion=complete_preset,
    ),
]
PrecisionOption = Annotated[
    TrainingPrecision,
    typer.Option(help="Precision of network training; auto: bf16 on a GPU, float32 elsewhere."),
]
CompileOption = Annotated[
    bool | None,
    typer.Option(
        "--compile/--no-compile", help="Compile the networks for training; default: on a GPU."
    ),
]
MicroBatchOption = Annotated[
    int | None,
    typer.Option(
        help="Items of a batch in memory at a time: fewer need less memory and give the same "
        "result; default: as many as a GPU holds."
    ),
]

# -------------------------------------------------------------------------- figures and draws

ResponsesOption = Annotated[
    Path | None, typer.Option(help="Folder written by synthesize; default: the latest.")
]
FormatOption = Annotated[FigureFormat, typer.Option("--format", help="File format.")]
DpiOption = Annotated[
    int | None,
    typer.Option(
        min=20, max=1200, help="Resolution, dots per inch; default: 200, of paper 300, of talk 150."
    ),
]
StyleOption = Annotated[
    FigureStyle | None,
    typer.Option(
        help="paper: 89 or 183 mm wide, type of 5 to 7 points; talk: a slide of 16:9, large type."
    ),
]

SurfaceOption = Annotated[
    FigureSpace | None,
    typer.Option(
        "--space",
        help="Surface; default: fsaverage5, or fsLR for subjects in it; fsaverage6 and fsaverage "
        "where nilearn has them.",
    ),
]

# -------------------------------------------------------------------------------- all commands

# Libraries take 32 bits, and stages of a training add to the seed.
SeedOption = Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Seed of all random numbers.")]
DeviceOption = Annotated[str, typer.Option(help="Device: auto, cpu, cuda, cuda:1, …")]
OutputOption = Annotated[Path | None, typer.Option("--output", "-o", help="Output folder.")]
CheckOption = Annotated[
    bool,
    typer.Option(
        "--check/--no-check",
        help="Stop where the responses do not fit the images of their trials (shifted trials, "
        "exchanged sessions, another subject's table), or go on as it is.",
    ),
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace existing output.")]
ReportOption = Annotated[
    bool, typer.Option(help="Write the HTML report, outputs/MODEL_report.html.")
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print results only, without progress.")
]

# -------------------------------------------------------------------------------- experiments

CorrectionOption = Annotated[
    Literal["fwe", "fdr"],
    typer.Option(
        help="Of maps: family-wise error by permutation of the images' conditions, or false "
        "discovery rate."
    ),
]
AlphaOption = Annotated[float, typer.Option(help="Level of the correction.")]
PermutationsOption = Annotated[int, typer.Option(min=1, help="Permutations.")]
ControlsOption = Annotated[
    bool,
    typer.Option(
        "--controls/--no-controls",
        help="Show phase-scrambled images, adjust for low-level statistics, and (contrast) ask a "
        "model whose encoder has random weights, where there is one.",
    ),
]
