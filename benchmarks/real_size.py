"""What do `synbrain train --model linear` and `synbrain evaluate` cost at NSD's real size?

    python benchmarks/real_size.py [--fractions 1/8,1/4,1/2,1] [--scratch FOLDER]

A subject of NSD (40 sessions of 750 trials, 10,000 images shown three times, 1,000 of them for
tests, 15,724 voxels; 256 × 1,664 float16 tokens an image on disk), or a fraction of its sessions
and images, is made of random numbers: responses follow the tokens, with unexplained signal and
trial noise that voxels share. `train`, `evaluate` (200 draws an image) and draws for as many images
then run, each in a process of its own: processor seconds, seconds, and most memory in use at a
time. The growth exponent is the slope of log seconds on log fraction, over the fractions run.

``--bands 3 --dims 768`` gives every image three bands of 256 × 768 tokens, as three layers of a
ViT-B have. The full size needs 11 GB of disk, 15 GB with these. ``--commands network`` trains the
four response networks for one epoch instead of eight, and predicts all images by them. ``--quick``
tries the script itself, with a subject of 200 voxels and 120 images: its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, as_typed, report, save

SESSIONS, TRIALS, REPEATS, SIZE = 40, 750, 3, 150
N_LATENTS, N_SHARED = 60, 12
COMMANDS = ("train", "evaluate", "synthesize")
ALL_COMMANDS = (*COMMANDS, "network")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Size:
    """Shape of a subject."""

    n_voxels: int = 15_724
    n_sessions: int = SESSIONS
    trials: int = TRIALS  # of a session
    n_tokens: int = 256
    n_dims: int = 1_664
    n_bands: int = 1

    @classmethod
    def of(cls, fraction: Fraction, arguments: argparse.Namespace) -> Size:
        if arguments.quick:
            return replace(QUICK, n_bands=arguments.bands)
        n_sessions = max(round(SESSIONS * fraction), 1)
        return cls(n_sessions=n_sessions, n_dims=arguments.dims, n_bands=arguments.bands)

    @property
    def n_images(self) -> int:
        return self.n_sessions * self.trials // REPEATS


QUICK = Size(200, 2, 180, 16, 24)


def make(folder: Path, size: Size) -> None:
    """Write a prepared subject and its tokens."""
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((size.n_images, N_LATENTS), np.float32)
    names = [f"nsd-{i:05d}" for i in range(size.n_images)]
    for number in range(size.n_bands):
        write_tokens(folder, size, latents, names, number, rng)
    write_responses(folder, size, latents, names, rng)


def write_tokens(
    folder: Path,
    size: Size,
    latents: np.ndarray,
    names: list[str],
    number: int,
    rng: np.random.Generator,
) -> None:
    """Write the tokens of one band."""
    from synbrain_cli.config import Band
    from synbrain_cli.io.files import create_array
    from synbrain_cli.io.records import write_sealed
    from synbrain_cli.io.token_store import ENCODER, row_checksum

    store = folder / f"prepared/nsd/features/real-size-{number}"
    store.mkdir(parents=True)
    shape = (size.n_images, size.n_tokens, size.n_dims)
    create_array(store / "tokens.npy", np.dtype(np.float16), shape)
    tokens = np.load(store / "tokens.npy", mmap_mode="r+")
    n = size.n_tokens * size.n_dims
    loadings = rng.standard_normal((N_LATENTS, n), np.float32) * np.float32(N_LATENTS**-0.5)
    noise = rng.standard_normal(2 * n, np.float32)
    checksums = []
    for image, name in enumerate(names):
        start = int(rng.integers(n))
        token = (latents[image] @ loadings + noise[start : start + n]).astype(np.float16)
        tokens[image] = token.reshape(shape[1:])
        checksums.append(row_checksum(name, "", tokens[image]))
    tokens.flush()
    rows = "".join(f"{name}\t\t{c}\n" for name, c in zip(names, checksums, strict=True))
    (store / "images.tsv").write_text(f"image\tpixels\tchecksum\n{rows}")
    identity = {
        "name": f"real-size-{number}",
        "version": 1,
        "image_size": 224,
        "n_tokens": size.n_tokens,
        "n_dims": size.n_dims,
        "weights": None,
    }
    spec = "gabor" if size.n_bands == 1 else f"timm:real/size@{number + 1}"
    write_sealed(store / ENCODER, Band(spec, identity, "fp16"))


def write_responses(
    folder: Path, size: Size, latents: np.ndarray, names: list[str], rng: np.random.Generator
) -> None:
    """Write the prepared subject, session by session."""
    import nibabel as nib
    import pandas as pd

    from synbrain_cli.datasets.sessions import add_ncsnr
    from synbrain_cli.io.prepared import Origin
    from synbrain_cli.io.prepared_writer import PreparedWriter
    from synbrain_cli.io.voxel_space import Volume

    image = rng.permutation(np.repeat(np.arange(size.n_images), REPEATS))
    repeat = pd.Series(image).groupby(image).cumcount().to_numpy() + 1
    tenth = size.n_images // 10
    split = np.select([image < tenth, image < 2 * tenth], ["test", "val"], "train")
    session = np.repeat(np.arange(1, size.n_sessions + 1), size.trials)
    trials = pd.DataFrame(
        {
            "trial": np.arange(len(image)),
            "session": session,
            "image": np.array(names)[image],
            "repeat": repeat,
            "split": split,
        }
    )
    inside = np.zeros((83, 104, 81), bool)
    inside.reshape(-1)[np.linspace(0, inside.size - 1, size.n_voxels).astype(int)] = True
    regions = np.array(["V1v", "V1d", "V2v", "V2d", "V3v", "V3d", "hV4", ""])
    voxels = pd.DataFrame(
        {"prf-visualrois": regions[np.arange(size.n_voxels) * 8 // size.n_voxels]}
    )
    weights = rng.standard_normal((N_LATENTS, size.n_voxels), np.float32) * np.float32(0.08)
    shared = rng.standard_normal((2, N_SHARED, size.n_voxels), np.float32) * np.float32(0.15)
    unexplained = rng.standard_normal((size.n_images, N_SHARED), np.float32)
    affine = np.diag([1.8, 1.8, 1.8, 1])
    target = folder / "prepared/nsd/sub-01"
    with PreparedWriter(target, {"fraction": size.n_sessions}, trials, size.n_voxels) as writer:
        for number in range(1, size.n_sessions + 1):
            own = image[session == number]
            betas = rng.standard_normal((len(own), size.n_voxels), np.float32)
            betas += latents[own] @ weights + unexplained[own] @ shared[0]
            betas += rng.standard_normal((len(own), N_SHARED), np.float32) @ shared[1]
            writer.write_session(number, betas)
        voxels, reliability = add_ncsnr(voxels, writer)
        origin = Origin(
            name="random numbers in the shape of NSD",
            simulated=True,
            space="func1pt8mm",
            unit_before_standardization="percent signal change",
            options={},
            sources={},
            noise_ceiling_snr=reliability,
        )
        grid = nib.Nifti1Image(np.zeros(inside.shape, np.uint8), affine)
        writer.finish(voxels, Volume.of(inside, grid), {}, origin)


def synthesize(folder: Path, n_images: int) -> None:
    """Draw responses to many images' tokens, as `synbrain synthesize` does after encoding."""
    from synbrain_cli import load_model
    from synbrain_cli.brain.drawing import Drawing
    from synbrain_cli.io.workspace import Workspace

    brain = load_model(folder / "weights/sub-01_linear", "cpu")
    store = Workspace(folder).find_tokens("nsd", None, print)
    tokens = store.take(store.images[:n_images])
    start = time.perf_counter()
    total = sum(float(response.draws[0, 0]) for response in brain.stream(tokens, Drawing(8)))
    report(time.perf_counter() - start, n_images=n_images, sum_of_one_voxel=total)


def train_networks(folder: Path) -> None:
    """Train the response networks of all folds for one epoch, and predict all images by them."""
    from synbrain_cli.io.workspace import Workspace
    from synbrain_cli.run import RunContext
    from synbrain_cli.training import shared_core

    shared_core.CORE_EPOCHS = shared_core.CORE_IMAGES = 1
    workspace = Workspace(folder)
    subject = workspace.find_subject("1", None, print)
    store = workspace.find_tokens("nsd", None, print)
    start = time.perf_counter()
    core = shared_core.train_core(workspace, [(subject, store)], RunContext())
    report(time.perf_counter() - start, n_images=len(core.held_out[0]))


def run(words: list[str], threads: int) -> dict[str, float]:
    """Run a command in a fresh process: its processor seconds, seconds and most memory."""
    environment = os.environ | dict.fromkeys(THREADS, str(threads))
    start = time.perf_counter()
    silent = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    words = [sys.executable, *words]
    pid = os.posix_spawn(words[0], words, environment, file_actions=silent)
    _, status, usage = os.wait4(pid, 0)
    if status:
        raise SystemExit(
            f"{' '.join(words)}: ended with status {os.waitstatus_to_exitcode(status)}"
        )
    return {
        "processor_seconds": usage.ru_utime + usage.ru_stime,
        "seconds": time.perf_counter() - start,
        "peak_gigabytes": usage.ru_maxrss * 1024 / 1e9,
    }


def measure(fraction: Fraction, arguments: argparse.Namespace) -> dict[str, Any]:
    """Make a subject and run the commands on it."""
    size = Size.of(fraction, arguments)
    found: dict[str, Any] = {
        "n_trials": size.n_sessions * size.trials,
        "n_images": size.n_images,
        "n_voxels": size.n_voxels,
        "n_test_images": size.n_images // 10,
    }
    with tempfile.TemporaryDirectory(dir=arguments.scratch, prefix="real-size-") as root:
        shape = ["--bands", str(arguments.bands), "--dims", str(arguments.dims)]
        shape += ["--quick"] * arguments.quick
        run([__file__, "--make", str(fraction), root, *shape], 1)
        program = ["-c", "from synbrain_cli.cli import main; main()"]
        of = ["--workspace", root, "--device", "cpu"]
        commands = {
            "train": [*program, "train", "-s", "1", "--model", "linear", *of],
            "evaluate": [*program, "evaluate", "-s", "1", *of, "--no-report"],
            "synthesize": [__file__, "--draw", root, str(size.n_images // 10)],
            "network": [__file__, "--network", root],
        }
        for name in arguments.commands:
            found[name] = run(commands[name], arguments.threads)
            print(f"{fraction} {name}: {found[name]}", file=sys.stderr)
    return found


def growth(found: dict[str, dict[str, Any]], command: str) -> float | None:
    """Slope of log processor seconds on log fraction."""
    if len(found) < 2:
        return None
    seconds = [values[command]["processor_seconds"] for values in found.values()]
    x = np.log([float(Fraction(name)) for name in found])
    return float(np.polyfit(x, np.log(seconds), 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fractions", default="1/8,1/4,1/2,1")
    parser.add_argument("--commands", default=",".join(COMMANDS))
    parser.add_argument("--bands", type=int, default=1, help="layers of tokens of an image")
    parser.add_argument("--dims", type=int, default=Size.n_dims, help="numbers of a token")
    parser.add_argument("--threads", type=int, default=1, help="of linear algebra")
    parser.add_argument("--scratch", help="folder for the subjects; default: the system's")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON")
    parser.add_argument("--quick", action="store_true", help="a tiny subject: try the script")
    parser.add_argument("--make", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--draw", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--network", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.make:
        fraction, root = arguments.make
        return make(Path(root), Size.of(Fraction(fraction), arguments))
    if arguments.draw:
        return synthesize(Path(arguments.draw[0]), int(arguments.draw[1]))
    if arguments.network:
        return train_networks(arguments.network)
    arguments.commands = arguments.commands.split(",")
    if unknown := set(arguments.commands) - set(ALL_COMMANDS):
        parser.error(f"--commands: expected some of {','.join(ALL_COMMANDS)}, found {unknown}")
    found: dict[str, Any] = {}
    fractions = ["1/8"] if arguments.quick else arguments.fractions.split(",")
    for fraction in map(Fraction, fractions):
        found[str(fraction)] = measure(fraction, arguments)
        result = {
            "settings": {"threads": arguments.threads, "load_before": os.getloadavg()[0]},
            "fractions": found,
            "growth_exponent": {name: growth(found, name) for name in arguments.commands},
        }
        name = "real_size" + "_bands" * (arguments.bands > 1) + "_quick" * arguments.quick
        name += "_network" * (arguments.commands == ["network"])
        path = save(name, as_typed(), result, arguments.results)
    print(path)
    return None


if __name__ == "__main__":
    main()
