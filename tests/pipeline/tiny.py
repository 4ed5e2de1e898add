"""A workspace of two subjects so small that most commands take about a second."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path

import killing
import nibabel as nib
import numpy as np
from PIL import Image
from test_weights import write_checkpoints

N_IMAGES, N_TRIALS, N_VOXELS = 40, 160, 24
NOTE = "mine.txt"  # a file of the user's in a folder that is replaced


@dataclass(frozen=True)
class Scenario:
    """A command, and the stage of the workspace in which it is run.

    Attributes
    ----------
    stage : {"raw", "prepared", "trained"}
    command : str
        Split at spaces.
    replaces : str, optional
        Folder that it replaces; the user has put a file into it.
    few : int
        Changes of names at which it is killed in every run of the tests.
    """

    stage: str
    command: str
    replaces: str | None = None
    few: int = 2

    @property
    def arguments(self) -> list[str]:
        """As typed in the workspace, but for its name."""
        return self.command.split()


def prepare(subject: int) -> str:
    """Command that prepares a subject."""
    return (
        f"prepare table raw/trials{subject}.tsv --images raw/images --responses raw/r{subject}.npy "
        f"--mask raw/mask.nii.gz --dataset tiny --subject {subject} --device cpu --encoder gabor"
    )


TRAIN, EVALUATE = (
    "train --device cpu --seed 0 --subject",
    "evaluate --draws 20 --no-latent --no-report",
)
ADAPT = "adapt --no-report --strategy source-map"
SYNTHESIZE = "synthesize raw/some --device cpu --samples 3 --model"
SCENARIOS = {
    "prepare": Scenario("raw", prepare(1)),
    "prepare_again": Scenario(
        "prepared", f"{prepare(1)} --standardize train --overwrite", "prepared/tiny/sub-01"
    ),
    "prepare_another": Scenario("trained", prepare(4)),  # more image tokens
    "train": Scenario("prepared", f"{TRAIN} 1 --preset test"),
    "train_linear": Scenario("prepared", f"{TRAIN} 1 --model linear"),
    "train_again": Scenario(
        "trained",
        "train --device cpu --seed 1 --subject 1 --model linear --name one --overwrite",
        "weights/one",
    ),
    "adapt": Scenario("trained", f"{ADAPT} --subject 2 --hours 1 --from one --device cpu"),
    "synthesize": Scenario("trained", f"{SYNTHESIZE} one --output outputs/more"),
    "synthesize_again": Scenario(
        "trained", f"{SYNTHESIZE} one --seed 1 --overwrite --output outputs/drawn", "outputs/drawn"
    ),
    "evaluate": Scenario("trained", f"{EVALUATE} --model two --device cpu"),
    "evaluate_folds": Scenario("trained", f"{EVALUATE} --model two --folds 3 --device cpu"),
    "evaluate_again": Scenario(
        "trained", f"{EVALUATE} --model one --seed 1 --device cpu", "outputs/one_evaluation"
    ),
    "compare": Scenario("trained", "compare one other --draws 20 --device cpu"),
    "learning_curve": Scenario("trained", "learning-curve --subject 1 --hours 1,2 --from two"),
    "augment": Scenario("trained", "augment --model one --amounts 1 --device cpu"),
    "contrast": Scenario(
        "trained",
        "contrast raw/first raw/second --model one --permutations 20 --device cpu "
        "--experiment trials=4,sessions=1,simulations=20",
    ),
    "categories": Scenario(
        "trained",
        "localize categories raw/first raw/second raw/third --model one --permutations 20 "
        "--device cpu",
        few=1,
    ),
    "import": Scenario(
        "prepared",
        "weights import --brainvae raw/last.pth --s2n raw/last.pt --encoder gabor --dataset tiny "
        "--subject 1 --mask raw/mask.nii.gz --name theirs",
    ),
    "export": Scenario("trained", "weights export one --berg outputs/berg", few=1),
    "report": Scenario("trained", "plot report --model one", few=1),
    "accuracy": Scenario("trained", "plot accuracy --model one --output outputs/accuracy.png"),
}
# What makes each stage from the one before.
STAGES = {
    "raw": [],
    "prepared": [prepare(1), prepare(2), prepare(3)],
    "trained": [
        f"{TRAIN} 1 --model linear --name one",
        f"{TRAIN} 1 --preset test --name other",
        f"{TRAIN} 2 --model linear --name two",
        f"{SYNTHESIZE} one --output outputs/drawn",
        f"{EVALUATE} --model one --device cpu",
    ],
}


def make_stages(root: Path, messages: Path) -> None:
    """Make the workspace of every stage: ``root/raw``, ``root/prepared``, ``root/trained``.

    All are made at ``root/at``, which the commands' absolute paths then name.
    """
    at = root / "at"
    write_raw(at / "raw")
    for stage, commands in STAGES.items():
        for command in commands:
            done = run(at, messages, command.split())
            assert done.returncode == 0, done.stderr
        shutil.copytree(at, root / stage)


def run(workspace: Path, messages: Path, arguments: list[str], **options):
    """Run a command in a workspace."""
    return killing.run(messages, *located(workspace, arguments), **options)


def located(workspace: Path, arguments: list[str]) -> list[str]:
    """Arguments with absolute paths."""
    below = ("raw/", "outputs/")
    named = [str(workspace / a) if a.startswith(below) else a for a in arguments]
    return [*named, "--workspace", str(workspace), "--quiet"]


def write_raw(folder: Path) -> None:
    """Write images, and trials and responses of four subjects."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    (folder / "some").mkdir()
    n_images = N_IMAGES + 16  # the last ones are those of subjects 3 and 4 alone
    for k in range(n_images):
        pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
        picture = Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC)
        picture.save(folder / f"images/im{k:02d}.png")
        if k < 3:
            picture.save(folder / f"some/new{k}.png")
        if k < 15:
            condition = folder / ("first", "second", "third")[k // 5]
            condition.mkdir(exist_ok=True)
            picture.save(condition / f"im{k:02d}.png")
    mask = np.zeros((4, 3, 3), np.uint8)
    mask.ravel()[:N_VOXELS] = 1
    nib.save(nib.Nifti1Image(mask, np.diag([2.0, 2, 2, 1])), folder / "mask.nii.gz")
    write_checkpoints(folder)
    signal = rng.normal(size=(n_images, N_VOXELS))
    for subject in (1, 2, 3, 4):
        shown = rng.permutation(np.repeat(np.arange(N_IMAGES), N_TRIALS // N_IMAGES))
        shown += 8 * max(0, subject - 2)
        noise = rng.normal(size=(N_TRIALS, N_VOXELS))
        np.save(folder / f"r{subject}.npy", (signal[shown] + noise).astype(np.float32))
        rows = [f"im{k:02d}\t{1 + 2 * i // N_TRIALS}\n" for i, k in enumerate(shown)]
        (folder / f"trials{subject}.tsv").write_text("image\tsession\n" + "".join(rows))


def content(path: Path) -> bytes:
    """Return what a file holds, decompressed: compression may differ by a byte under load."""
    held = path.read_bytes()
    if path.suffix != ".gz":
        return held
    try:
        return gzip.decompress(held)
    except (EOFError, OSError, zlib.error):  # half-written when its process was killed
        return held


def snapshot(folder: Path) -> dict[str, str]:
    """Return the checksum of every file below a folder; hidden ones and links as well."""
    return {
        path.relative_to(folder).as_posix(): (
            f"-> {path.readlink()}"
            if path.is_symlink()
            else hashlib.sha256(content(path)).hexdigest()
        )
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }
