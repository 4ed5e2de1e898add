"""Every reader of the program: the command that reaches it, the files that are damaged, and what
a success must look like.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from workspace import (
    ADAPT,
    IMPORT,
    OPEN_CLIP,
    PREPARE,
    SURFACE,
    SYNTHESIZE,
    TRAIN,
    VOLUME,
    know_tower,
)


@dataclass(frozen=True)
class Target:
    """A command, and the files that it reads.

    Attributes
    ----------
    name : str
    arguments : tuple of str
        Of ``synbrain``, in the workspace.
    parts : tuple of str
        Folders and files of the tiny workspace that it needs; ``source>target`` under another name.
    files : tuple of str
        Patterns of what is damaged, each equally often.
    outputs : tuple of str
        Patterns of what must come out as it does from the undamaged files.
    free : tuple of str
        Patterns of files in which users may change values: there, only damage of which the file
        itself could tell must not change the output.
    writes : tuple of str
        Patterns of what the command may replace or remove.
    verifies : tuple of str
        Patterns of files in which the command must notice every change.
    weight : float
        How often it is tried.
    seconds : float
        Of processor time, at most.
    setup : callable, optional
        Called in the child before the command.
    many_lines : bool
        It may say several faults, one a line.
    """

    name: str
    arguments: tuple[str, ...]
    parts: tuple[str, ...]
    files: tuple[str, ...]
    outputs: tuple[str, ...] = ()
    free: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    verifies: tuple[str, ...] = ()
    weight: float = 1
    seconds: float = 20
    setup: Callable[[], None] | None = None
    many_lines: bool = False


SUBJECT = "prepared/simulated/sub-01"
FEATURES = "prepared/simulated/features"
BUNDLE_FILES = ("config.json", "*.safetensors", "mask.nii.gz", "voxels.tsv", "*_resampling.npz")
SUBJECT_FILES = (
    *("betas.npy", "trials.tsv", "voxels.tsv", "mask.nii.gz", "*_resampling.npz"),
    *("standardization.npz", "dataset_description.json", "settings.json"),
)
TOKEN_FILES = ("tokens.npy", "images.tsv", "encoder.json", "settings.json")


def _bundle(name: str, *more: str) -> tuple[str, ...]:
    return tuple(f"weights/{name}/{file}" for file in (*BUNDLE_FILES, "settings.json", *more))


def _subject(name: str = SUBJECT) -> tuple[str, ...]:
    return tuple(f"{name}/{file}" for file in SUBJECT_FILES)


def _tokens(name: str = FEATURES) -> tuple[str, ...]:
    return tuple(f"{name}/*/{file}" for file in TOKEN_FILES)


BUNDLES = (
    *(
        Target(
            f"synthesize-{name}",
            (*("synthesize", "pictures", "-m", name, "-n", "2", "-o", "new"), *options),
            (f"weights/{name}", "pictures"),
            _bundle(name, *more),
            outputs=("new/*_betas.npy", "new/*_statmap.nii.gz", "new/*.gii"),
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
        "weights-list",
        ("weights", "list"),
        ("weights/sub-01_linear", "weights/mapped", "weights/theirs"),
        (*_bundle("*"), "weights/*/sources/*/config.json"),
        weight=2,
    ),
    Target(
        "weights-verify",
        ("weights", "verify"),
        ("weights/sub-01_linear", "weights/mapped", "weights/surf"),
        (*_bundle("*", "vertices.npz"), "weights/*/sources/*/*"),
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
        (SUBJECT, FEATURES),
        (*_subject(), *_tokens()),
        outputs=MODEL,
        weight=4,
    ),
    Target(
        "train-surface",
        ("train", "-s", "1", "--dataset", "surface", "--model", "linear", "--name", "new"),
        ("prepared/surface",),
        (*_subject("prepared/surface/sub-01"), "prepared/surface/sub-01/vertices.npz"),
        outputs=MODEL,
    ),
    Target(
        "train-networks",
        ("train", "-s", "1", "--dataset", "simulated", "--preset", "test", "--name", "new"),
        (SUBJECT, FEATURES),
        (*_subject(), *_tokens()),
        outputs=MODEL,
        weight=0.5,
        seconds=40,
    ),
    Target(
        "evaluate",
        ("evaluate", "-m", "sub-01_linear", "--draws", "20", "--no-report"),
        (SUBJECT, FEATURES, "weights/sub-01_linear", *_WORKED[:1]),
        (*_subject(), *_tokens(), *_bundle("sub-01_linear"), "outputs/*_evaluation/settings.json"),
        outputs=("outputs/sub-01_linear_evaluation/metrics.json", "outputs/*/voxels.tsv"),
        free=("outputs/*",),
        writes=("outputs/*",),
        weight=2,
        seconds=40,
    ),
    Target(
        "compare",
        ("compare", "sub-01", "sub-01_linear", "--draws", "20", "-o", "new"),
        (SUBJECT, FEATURES, "weights/sub-01", "weights/sub-01_linear"),
        (*_subject(), *_tokens(), *_bundle("sub-01"), *_bundle("sub-01_linear")),
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
            *(*_subject("prepared/simulated/sub-03"), *_tokens()),
            *(*_bundle("sub-01"), *_subject("prepared/simulated/sub-02")),
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
        ("weights/cores/*/*", *_subject("prepared/simulated/sub-02")),
        outputs=("weights/new/*.safetensors",),
        writes=("weights/cores/*",),
        seconds=40,
    ),
    Target(
        "learning-curve",
        ("learning-curve", "-s", "3", "--hours", "2,3", "-o", "new"),
        ("prepared/simulated", "weights/sub-01", "weights/sub-02", "weights/cores"),
        (*_subject("prepared/simulated/sub-03"), *_bundle("sub-02")),
        outputs=("new/learning_curve.json",),
        writes=("weights/cores/*",),
        weight=0.3,
        seconds=60,
    ),
    Target(
        "augment",
        ("augment", "-m", "sub-01_linear", "--amounts", "1", "-o", "new"),
        ("prepared/simulated", "weights/sub-01_linear", "simulated"),
        (*_subject(), *_tokens(), *_bundle("sub-01_linear")),
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
        (*_bundle("sub-01_linear"), "weights/sub-01_linear/card.md"),
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
        (f"{kept}/.*/*", f"{kept}/.*.recovery/*", f"{kept}/*/.*/*", f"{kept}/*/*/.*/*"),
        outputs=outputs,
        # Draws on the disk have no checksum, before and after they are finished.
        free=(f"{kept}/*/settings.json", "outputs/*.npy"),
        writes=(f"{kept}/.*", f"{kept}/*/.*", f"{kept}/*/*/.*"),
        weight=weight,
        seconds=60,
    )
    for name, kept, arguments, parts, outputs, weight in (
        ("train", "weights", TRAIN, (SUBJECT, FEATURES), ("weights/again/*",), 1),
        ("half-train", "weights", TRAIN, (SUBJECT, FEATURES), ("weights/again/*",), 1),
        (
            *("synthesize", "outputs", SYNTHESIZE, ("pictures", "weights/sub-01_linear")),
            *(("outputs/again/*_betas.npy", "outputs/again/*.nii.gz"), 1),
        ),
        ("prepare", "prepared", PREPARE, ("user",), ("prepared/volume/*/*",), 1),
        (
            *("adapt", "weights", ADAPT, ("prepared/simulated", "weights/sub-0?")),
            *(("weights/again/*.safetensors",), 0.5),
        ),
    )
)

_RESPONSES = (
    *("outputs/sub-01_pictures/*.npy", "outputs/sub-01_pictures/*.json"),
    *("outputs/sub-01_pictures/images.tsv", "outputs/sub-01_pictures/settings.json"),
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
        (*_RESPONSES, "weights/sub-01/voxels.tsv", *_subject(), *_tokens()),
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
            *(*_subject(), *_tokens(), "simulated/nsddata_stimuli/stimuli/nsd/*.hdf5"),
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
        ("outputs", "weights/sub-01", "pictures", SUBJECT, FEATURES, "simulated"),
        (*_EVALUATION, *_RESPONSES, "pictures/*", *_subject(), "weights/sub-01/card.md"),
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


# Of a prepared subject, without the records of the source files' sizes.
DATA = (
    *("prepared/new/sub-*/*.np[yz]", "prepared/new/sub-*/*.tsv", "prepared/new/sub-*/mask.nii.gz"),
    *("prepared/new/features/*/tokens.npy", "prepared/new/features/*/images.tsv"),
)


def _table(name: str, *arguments: str, files: tuple[str, ...], weight: float = 1) -> Target:
    return Target(
        f"table-{name}",
        ("prepare", "table", *arguments, "--dataset", "new"),
        ("user",),
        files,
        outputs=DATA,
        free=("user/*",),
        weight=weight,
        seconds=30,
    )


TABLES = (
    _table(
        *("npy", "user/trials.tsv", "--responses", "user/betas.npy", *VOLUME),
        *("--voxels", "user/voxels.tsv", "--split", "user/split.tsv"),
        files=(
            *("user/trials.tsv", "user/betas.npy", "user/mask.nii.gz", "user/voxels.tsv"),
            *("user/split.tsv", "user/trials.tsv", "user/voxels.tsv"),
        ),
        weight=4,
    ),
    _table(
        *("nifti", "user/trials.csv", "--responses", "user/betas.nii.gz", *VOLUME),
        *("--roi", "A=user/roi.nii.gz"),
        files=("user/trials.csv", "user/betas.nii.gz", "user/mask.nii.gz", "user/roi.nii.gz"),
        weight=3,
    ),
    _table(
        *("plain-nifti", "user/trials.tsv", "--responses", "user/betas.nii"),
        *("--mask", "user/mask.mgz", *VOLUME[2:]),
        files=("user/betas.nii", "user/mask.mgz"),
        weight=2,
    ),
    _table(
        *("hdf5", "user/trials.tsv", "--responses", "user/betas.hdf5", *VOLUME),
        files=("user/betas.hdf5",),
        weight=2,
    ),
    _table(
        *("surface", "user/trials.tsv", "--left", "user/lh.npy", "--right", "user/rh.npy"),
        *SURFACE,
        files=("user/lh.npy", "user/rh-mask.mgh"),
    ),
    _table(
        *("mgh", "user/trials.tsv", "--left", "user/lh.mgh", "--right", "user/rh.mgh", *SURFACE),
        files=("user/lh.mgh", "user/rh.mgh", "user/lh-mask.mgh"),
    ),
    _table(
        *("gifti", "user/trials.tsv", "--left", "user/lh.gii", "--right", "user/rh.gii", *SURFACE),
        files=("user/lh.gii", "user/rh.gii"),
    ),
    _table(
        *("images", "user/trials.tsv", "--responses", "user/betas.npy", *VOLUME),
        files=("user/images/*",),
        weight=2,
    ),
    Target(
        "table-again",
        PREPARE,
        ("user", "prepared/volume"),
        (*_subject("prepared/volume/sub-01"), *_tokens("prepared/volume/features")),
        free=("user/*",),
        weight=1.5,
    ),
    Target(
        "table-more",
        (*PREPARE[:-2], "--dataset", "volume", "-s", "2"),
        ("user", "prepared/volume"),
        (*_tokens("prepared/volume/features"), "prepared/volume/sub-01/*"),
        outputs=tuple(
            p.replace("new/sub-*", "volume/sub-02").replace("new/", "volume/") for p in DATA
        ),
        writes=("prepared/volume/features/*",),
    ),
    Target(
        "synthesize-images",
        (*("synthesize", "user/images", "-m", "sub-01_linear", "--space", "none"), "-o", "new"),
        ("user/images", "weights/sub-01_linear"),
        ("user/images/*",),
        outputs=("new/*_betas.npy",),
        free=("user/images/*",),
        weight=2,
    ),
)


def _tower(name: str, suffix: str, files: tuple[str, ...]) -> Target:
    return Target(
        f"open-clip-{name}",
        (*PREPARE[:-2], "--dataset", "new", "--encoder", f"{OPEN_CLIP}.{suffix}"),
        ("user",),
        files,
        outputs=("prepared/new/features/*/tokens.npy",),
        free=("user/*",),
        setup=know_tower,
        seconds=30,
    )


ELSEWHERE = (
    *(
        Target(
            f"nsd-{space}",
            (
                *("prepare", "nsd", "--root", "nsd", "--no-download", "-s", "1"),
                *("--dataset", "new", "--space", space, "--jobs", "1", *more),
            ),
            ("nsd",),
            files,
            outputs=DATA,
            free=("nsd/*",),
            seconds=40,
        )
        for space, more, files in (
            (
                "func1pt8mm",
                ("--split", "shared515"),
                (
                    *("nsd/**/*.mat", "nsd/**/func1pt8mm/roi/*.nii.gz", "nsd/**/func*/**/*.nii.gz"),
                    *("nsd/**/transforms/*", "nsd/nsddata_stimuli/**/*.hdf5", "nsd/**/*.csv"),
                    *("nsd/*.json", "nsd/**/*.ctab", "nsd/nsddata/ppdata/**/*.nii.gz"),
                ),
            ),
            (
                "fsaverage",
                (),
                ("nsd/**/label/*.mgz", "nsd/**/fsaverage/**/*.mgh", "nsd/**/transforms/*.mgz"),
            ),
            (
                "nativesurface",
                (),
                ("nsd/**/nativesurface/**/*.hdf5", "nsd/**/label/*", "nsd/**/transforms/*.mgz"),
            ),
        )
    ),
    Target(
        "algonauts",
        (
            *("prepare", "algonauts", "--root", "algonauts", "--dataset", "new"),
            *("--test", "0.25", "--validation", "0.25"),
        ),
        ("algonauts",),
        (
            *("algonauts/*/roi_masks/mapping_*.npy", "algonauts/*/roi_masks/*.npy"),
            *("algonauts/*/*/training_fmri/*.npy", "algonauts/*/*/training_images/*"),
        ),
        outputs=DATA,
        free=("algonauts/*",),
        weight=1.5,
    ),
    Target(
        "import",
        (*IMPORT, "--name", "new"),
        ("user/last.pth", "user/last.pt", SUBJECT),
        ("user/last.pth", "user/last.pt", "user/last.pth", "user/last.pt", *_subject()),
        outputs=("weights/new/*.safetensors", "weights/new/voxels.tsv", "weights/new/mask.nii.gz"),
        free=("user/*",),
        weight=2,
    ),
    Target(
        "fetch",
        ("weights", "fetch", "OWNER/REPO", "sub1/last.pt"),
        ("checkpoints",),
        ("checkpoints/OWNER/REPO/fetched.json", "checkpoints/OWNER/REPO/sub1/last.pt"),
        verifies=("checkpoints/*/last.pt",),
        weight=0.7,
    ),
    _tower("pt", "pt", ("user/tower/tower.pt", "user/tower/open_clip_config.json")),
    _tower("safetensors", "safetensors", ("user/tower/tower.safetensors",)),
)

TARGETS = {t.name: t for t in (*BUNDLES, *PREPARED, *AGAIN, *RESUMED, *PLOTS, *TABLES, *ELSEWHERE)}


def reseal(workspace: Path, victim: Path) -> bool:
    """Recompute, by the program itself, the checksums of what a damaged file belongs to.

    Returns
    -------
    bool
        Whether the file is sealed by something, and that could be sealed again.
    """
    for folder in victim.parents:
        place = folder.relative_to(workspace).parts
        if not place or place[0] not in ("weights", "prepared") or "cores" in place:
            return False
        for record, seal in SEALS.items():
            if (folder / record).is_file():
                try:
                    seal(folder)
                except Exception:  # what cannot be read cannot be sealed
                    return False
                return True
    return False


def _seal_tokens(folder: Path) -> None:
    """Take the rows of tokens and the encoder's record as they are now."""
    import sealing

    from synbrain_cli.io.tables import read_table
    from synbrain_cli.io.token_store import COLUMNS, ENCODER, row_checksum

    sealing.change_sealed(folder / ENCODER)
    table = read_table(folder / "images.tsv", COLUMNS)
    tokens = np.load(folder / "tokens.npy", allow_pickle=False)
    named = zip(table["image"], table["pixels"], tokens, strict=False)
    table["checksum"] = [row_checksum(*row) for row in named]
    table.to_csv(folder / "images.tsv", sep="\t", index=False)


def _seal_bundle(folder: Path) -> None:
    import sealing

    sealing.reseal_bundle(folder)


def _seal_prepared(folder: Path) -> None:
    import sealing

    sealing.reseal_prepared(folder)


# Record of a folder → function that seals the folder anew.
SEALS: dict[str, Callable[[Path], None]] = {
    "config.json": _seal_bundle,
    "encoder.json": _seal_tokens,
    "dataset_description.json": _seal_prepared,
}
