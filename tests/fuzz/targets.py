"""Every reader of the program: the command that reaches it, and the files that are damaged."""

from __future__ import annotations

from source_targets import SOURCES
from target import ALIGNMENT, FEATURES, SUBJECT, Target, bundle_files, subject_files, token_files
from workspace import ADAPT, PREPARE, SYNTHESIZE, TRAIN

BUNDLES = (
    *(
        Target(
            f"synthesize-{name}",
            (*("synthesize", "pictures", "-m", name, "-n", "2", "-o", "new"), *options),
            (f"weights/{name}", "pictures"),
            bundle_files(name, *more),
            outputs=("new/**/*.npy", "new/**/*_statmap.nii.gz", "new/**/*.gii"),
            weight=weight,
        )
        for name, weight, options, more in (
            ("sub-01_linear", 3, ("--space", "MNI"), ()),
            ("sub-01", 2, ("--sampling", "latent"), ()),
            ("mapped", 2, (), ("sources/*/config.json", "sources/*/*")),
            ("cored", 2, (), ()),
            ("theirs", 1, ("--sampling", "mean"), ()),
            ("surf", 1, ("--unit", "z"), ("vertices.npz",)),
        )
    ),
    Target(
        "synthesize-sequence",
        ("synthesize", "pictures", "--sequence", "day.tsv", "-m", "sub-01_linear", "-o", "new"),
        ("weights/sub-01_linear", "pictures", "day.tsv"),
        ("day.tsv", "weights/sub-01_linear/sequence.safetensors"),
        outputs=("new/sub-*/func/*.npy", "new/sub-*/func/*_betas.nii.gz"),
        free=("day.tsv",),
    ),
    Target(
        "weights-list",
        ("weights", "list"),
        ("weights/sub-01_linear", "weights/mapped", "weights/theirs"),
        (*bundle_files("*"), "weights/*/sources/*/config.json"),
        weight=2,
    ),
    Target(
        "weights-verify",
        ("weights", "verify"),
        ("weights/sub-01_linear", "weights/mapped", "weights/surf"),
        (*bundle_files("*", "vertices.npz"), "weights/*/sources/*/*"),
        verifies=tuple(f"weights/*.{kind}" for kind in ("json", "safetensors", "npz", "gz", "tsv")),
        weight=2,
        many_lines=True,
    ),
    Target(
        "weights-card",
        ("weights", "card", "sub-01_linear"),
        ("weights/sub-01_linear",),
        ("weights/*/card.md", "weights/*/config.json"),
        weight=0.5,
    ),
)

# Of a model, without the records of what it was made from.
MODEL = tuple(
    f"weights/new/{file}"
    for file in ("*.safetensors", "voxels.tsv", "mask.nii.gz", "vertices.npz", "*_resampling.npz")
)
_WORKED = ("outputs/sub-01_linear_evaluation/*", "outputs/sub-01_comparison/*")
PREPARED = (
    Target(
        "train-linear",
        ("train", "-s", "1", "--dataset", "simulated", "--model", "linear", "--name", "new"),
        (SUBJECT, FEATURES, ALIGNMENT),
        (*subject_files(), *token_files(), ALIGNMENT),
        outputs=MODEL,
        writes=(ALIGNMENT,),
        weight=4,
    ),
    Target(
        "train-surface",
        ("train", "-s", "1", "--dataset", "surface", "--model", "linear", "--name", "new"),
        ("prepared/surface",),
        (*subject_files("prepared/surface/sub-01"), "prepared/surface/sub-01/vertices.npz"),
        outputs=MODEL,
        writes=("prepared/surface/*_alignment.json",),
    ),
    Target(
        "train-networks",
        ("train", "-s", "1", "--dataset", "simulated", "--preset", "test", "--name", "new"),
        (SUBJECT, FEATURES, ALIGNMENT),
        (*subject_files(), *token_files()),
        outputs=MODEL,
        writes=(ALIGNMENT,),
        weight=0.5,
        seconds=40,
    ),
    Target(
        "evaluate",
        ("evaluate", "-m", "sub-01_linear", "--draws", "20", "--no-report"),
        (SUBJECT, FEATURES, "weights/sub-01_linear", *_WORKED[:1]),
        (
            *subject_files(),
            *token_files(),
            *bundle_files("sub-01_linear"),
            "outputs/*_evaluation/settings.json",
        ),
        outputs=("outputs/sub-01_linear_evaluation/metrics.json", "outputs/*/voxels.tsv"),
        free=("outputs/*",),
        writes=("outputs/*",),
        weight=2,
        seconds=40,
    ),
    Target(
        "evaluate-on",
        ("evaluate", "-m", "sub-01_linear", "--on", "artificial", "--draws", "20", "--no-report"),
        (SUBJECT, FEATURES, "prepared/artificial", "weights/sub-01_linear"),
        (
            *subject_files("prepared/artificial/sub-01"),
            *token_files("prepared/artificial/features"),
            *bundle_files("sub-01_linear"),
        ),
        outputs=("outputs/*_on-artificial_evaluation/metrics.json", "outputs/*/images.tsv"),
        writes=("outputs/*",),
        seconds=60,
    ),
    Target(
        "compare",
        ("compare", "sub-01", "sub-01_linear", "--draws", "20", "-o", "new"),
        (SUBJECT, FEATURES, "weights/sub-01", "weights/sub-01_linear"),
        (*subject_files(), *token_files(), *bundle_files("sub-01"), *bundle_files("sub-01_linear")),
        outputs=("new/comparison.json",),
        weight=0.5,
    ),
    Target(
        "adapt",
        (
            *("adapt", "-s", "3", "--hours", "2", "--from", "sub-01,sub-02", "--name", "new"),
            *("--strategy", "source-map", "--no-report", "--dataset", "simulated"),
        ),
        ("prepared/simulated", "weights/sub-01", "weights/sub-02"),
        (
            *(*subject_files("prepared/simulated/sub-03"), *token_files()),
            *(*bundle_files("sub-01"), *subject_files("prepared/simulated/sub-02")),
        ),
        outputs=("weights/new/*.safetensors",),
        seconds=30,
    ),
    Target(
        "adapt-core",
        (
            *("adapt", "-s", "3", "--hours", "2", "--from", "sub-01,sub-02", "--name", "new"),
            *("--strategy", "shared-core", "--no-report", "--dataset", "simulated"),
        ),
        ("prepared/simulated", "weights/sub-01", "weights/sub-02", "weights/cores"),
        ("weights/cores/*/*", *subject_files("prepared/simulated/sub-02")),
        outputs=("weights/new/*.safetensors",),
        writes=("weights/cores/*",),
        seconds=40,
    ),
    Target(
        "learning-curve",
        ("learning-curve", "-s", "3", "--hours", "2,3", "-o", "new"),
        ("prepared/simulated", "weights/sub-01", "weights/sub-02", "weights/cores"),
        (*subject_files("prepared/simulated/sub-03"), *bundle_files("sub-02")),
        outputs=("new/learning_curve.json",),
        writes=("weights/cores/*",),
        weight=0.3,
        seconds=60,
    ),
    Target(
        "augment",
        ("augment", "-m", "sub-01_linear", "--amounts", "1", "-o", "new"),
        ("prepared/simulated", "weights/sub-01_linear", "simulated"),
        (*subject_files(), *token_files(), *bundle_files("sub-01_linear")),
        outputs=("new/augmentation.json",),
        weight=0.5,
        seconds=30,
    ),
)

AGAIN = (
    Target(
        "train-again",
        ("train", "-s", "1", "--dataset", "simulated", "--model", "linear"),
        (SUBJECT, FEATURES, "weights/sub-01_linear"),
        (*bundle_files("sub-01_linear"), "weights/sub-01_linear/card.md"),
        writes=("weights/.*",),
    ),
    Target(
        "synthesize-again",
        ("synthesize", "pictures", "-m", "sub-01_linear", "-n", "3", "--space", "fsaverage5"),
        ("outputs/sub-01_linear_pictures", "weights/sub-01_linear", "pictures"),
        tuple(f"outputs/*/{kind}" for kind in ("*.json", "settings.json", "*.npy", "images.tsv")),
        writes=("outputs/.*",),
        weight=0.7,
    ),
)
RESUMED = tuple(
    Target(
        f"resume-{name}",
        arguments,
        (f"interrupted/{name}/{kept}>{kept}", *parts),
        tuple(
            f"{kept}/{place}/*.{kind}"
            for place in (".*", ".*.recovery", "*/.*", "*/*/.*")
            for kind in ("json", "tsv", "np[yz]", "pt", "safetensors", "nii.gz", "gii")
        ),
        outputs=outputs,
        free=(f"{kept}/*/settings.json",),
        writes=(f"{kept}/.*", f"{kept}/*/.*", f"{kept}/*/*/.*"),
        weight=weight,
        seconds=60,
    )
    for name, kept, arguments, parts, outputs, weight in (
        ("train", "weights", TRAIN, (SUBJECT, FEATURES), ("weights/again/*",), 1),
        ("half-train", "weights", TRAIN, (SUBJECT, FEATURES), ("weights/again/*",), 1),
        (
            *("synthesize", "outputs", SYNTHESIZE, ("pictures", "weights/sub-01_linear")),
            *(("outputs/again/sub-*/func/*.npy", "outputs/again/sub-*/func/*_betas.nii.gz"), 1),
        ),
        ("prepare", "prepared", PREPARE, ("user",), ("prepared/volume/*/*",), 1),
        ("half-prepare", "prepared", PREPARE, ("user",), ("prepared/volume/*/*",), 1),
        (
            *("tokens", "prepared", PREPARE, ("user", "prepared/volume/sub-01")),
            *(("prepared/volume/features/*/*",), 1),
        ),
        (
            *("adapt", "weights", ADAPT, ("prepared/simulated", "weights/sub-0?")),
            *(("weights/again/*.safetensors",), 0.5),
        ),
    )
)

_RESPONSES = (
    *("outputs/sub-01_pictures/sub-*/func/*.npy", "outputs/sub-01_pictures/sub-*/func/*.json"),
    *("outputs/sub-01_pictures/**/images.tsv", "outputs/sub-01_pictures/*.json"),
)
_SCORES = ("metrics.json", "voxels.tsv", "settings.json", "metrics.json")
_EVALUATION = tuple(f"outputs/sub-01_evaluation/{file}" for file in _SCORES)
_SEEN = ("outputs/sub-01_pictures", "weights/sub-01", "pictures")
_FIGURES = ("outputs/*/figures", "outputs/*_figures")
PLOTS = (
    Target(
        "plot-flatmap",
        (
            *("plot", "flatmap", "--responses", "outputs/sub-01_pictures", "--image", "coffee"),
            *("--dpi", "20", "-o", "new"),
        ),
        _SEEN,
        (*_RESPONSES, "weights/sub-01/surface_resampling.npz", "weights/sub-01/mask.nii.gz"),
        seconds=40,
    ),
    Target(
        "plot-latest",
        ("plot", "rois", "-m", "sub-01", "-n", "3", "--dpi", "20", "-o", "new"),
        (*_SEEN, "outputs/sub-01_evaluation", SUBJECT, FEATURES),
        (*_RESPONSES, "weights/sub-01/voxels.tsv", *subject_files(), *token_files()),
        seconds=40,
    ),
    Target(
        "plot-rois",
        (*("plot", "rois", "--responses", "outputs/sub-01_pictures", "--dpi", "20"), "-o", "new"),
        _SEEN,
        _RESPONSES,
        seconds=40,
    ),
    Target(
        "plot-draws",
        (*("plot", "draws", "-m", "sub-01", "-n", "3", "--dpi", "20"), "-o", "new"),
        (SUBJECT, FEATURES, "weights/sub-01", "simulated"),
        (
            *(*subject_files(), *token_files(), "simulated/nsddata_stimuli/stimuli/nsd/*.hdf5"),
            "simulated/*.json",
        ),
        weight=0.7,
        seconds=40,
    ),
    Target(
        "plot-accuracy",
        ("plot", "accuracy", "-m", "sub-01", "--dpi", "20", "-o", "new"),
        ("outputs/sub-01_evaluation", "weights/sub-01"),
        (*_EVALUATION, "weights/sub-01/voxels.tsv"),
        weight=2,
    ),
    Target(
        "plot-surface",
        ("plot", "surface", "-m", "sub-01", "--what", "accuracy", "--dpi", "20", "-o", "new"),
        ("outputs/sub-01_evaluation", "weights/sub-01"),
        _EVALUATION,
        weight=0.3,
        seconds=40,
    ),
    Target(
        "plot-report",
        ("plot", "report", "-m", "sub-01", "-o", "new.html"),
        ("outputs", "weights/sub-01", "pictures", SUBJECT, FEATURES, ALIGNMENT, "simulated"),
        (
            *_EVALUATION,
            *_RESPONSES,
            "pictures/*",
            *subject_files(),
            ALIGNMENT,
            "weights/sub-01/card.md",
        ),
        weight=0.5,
        seconds=90,
    ),
    Target(
        "report-adapted",
        ("plot", "report", "-m", "cored", "-o", "new.html"),
        (
            *("outputs/sub-03_learning-curve", "outputs/sub-01_comparison", "weights/cored"),
            *("weights/sub-01", "weights/sub-02"),
        ),
        (
            *("outputs/*/learning_curve.json", "outputs/*/comparison.json"),
            *("weights/sub-01/config.json", "weights/cored/config.json"),
        ),
        weight=0.3,
        seconds=90,
    ),
)

TARGETS = {t.name: t for t in (*BUNDLES, *PREPARED, *AGAIN, *RESUMED, *PLOTS, *SOURCES)}
