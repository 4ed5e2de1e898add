"""What does `synbrain synthesize` of thousands of images cost, and where does the time go?

    python benchmarks/many_images.py MODEL_FOLDER [--images 500,2000,10000] [--output arrays|maps]
    python benchmarks/many_images.py --real-size [--images 100,500]

Images are textures of 425 × 425 pixels with the spectrum of photographs, as JPEG files. Eight draws
an image are written, with a model of your own, or (``--real-size``) with a linear model of 15,724
voxels that is fitted to random numbers in the shape of two sessions of NSD, on Gabor tokens. Each
number of images is a command in a process of its own: processor seconds, seconds, and most memory
in use. Time and memory an image are slopes between the smallest and the largest number, so that
neither imports nor the model count.

Stages are measured one by one in one process, in one thread, on a hundred of the images: they show
where the time goes, and their sum falls short of a command's by the threads' own work.

10,000 images of 15,724 voxels with arrays alone take 6.3 GB of disk. ``--quick`` tries the script
itself, with a dozen images: its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, as_typed, measured, save
from real_size import Size, make
from real_size import run as run_command

N_DRAWS, SIDE, N_TEXTURES, N_STAGED = 8, 425, 32, 100
PROGRAM = ["-c", "from synbrain_cli.cli import main; main()"]


def make_textures() -> list[np.ndarray]:
    """Make noise whose amplitude falls with frequency as that of photographs: uint8 (h, w, 3)."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE))
    frequency[0, 0] = np.inf
    textures = []
    for _ in range(N_TEXTURES):
        shape = (3, *frequency.shape)
        spectrum = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
        colours = np.fft.irfft2(spectrum / frequency, s=(SIDE, SIDE))
        pixels = 0.8 * colours.mean(0) + 0.2 * colours  # most of the contrast is of luminance
        pixels = 128 + 50 * pixels / pixels.std()
        textures.append(np.clip(pixels, 0, 255).astype(np.uint8).transpose(1, 2, 0))
    return textures


def make_images(folder: Path, n_images: int) -> None:
    """Write images, each a texture shifted by another distance."""
    from PIL import Image

    folder.mkdir()
    textures = make_textures()
    for i in range(n_images):
        turn, texture = divmod(i, N_TEXTURES)
        pixels = np.roll(textures[texture], (7 * turn, 13 * turn), (0, 1))
        Image.fromarray(pixels).save(folder / f"image{i:06d}.jpg", quality=90)


def make_model(root: Path) -> Path:
    """Train a linear model of NSD's number of voxels, on random numbers as Gabor tokens."""
    from synbrain_cli.config import Band
    from synbrain_cli.features.gabor import Gabor
    from synbrain_cli.io.records import write_sealed
    from synbrain_cli.io.token_store import ENCODER

    (band,) = Gabor().bands
    n_tokens, n_dims = band.shape
    make(root, Size(n_sessions=2, n_tokens=n_tokens, n_dims=n_dims))
    store = (root / "prepared/nsd/features/real-size-0").rename(
        root / "prepared/nsd/features/gabor"
    )
    write_sealed(store / ENCODER, Band("gabor", band.identity, "fp16"))
    words = ["train", "-s", "1", "--model", "linear", "--device", "cpu", "--workspace", str(root)]
    run_command([*PROGRAM, *words], 1)
    return root / "weights/sub-01_linear"


def stages(model: str, images: str) -> None:
    """Measure each stage of an image, in milliseconds of processor time."""
    from time import process_time

    from common import report

    from synbrain_cli import load_model
    from synbrain_cli.brain.drawing import Drawing
    from synbrain_cli.features.images import ImageSet, image_digest
    from synbrain_cli.io.files import sha256
    from synbrain_cli.pipeline.response_writer import ArraysWriter, ResponseWriter
    from synbrain_cli.pipeline.synthesize import Output, _recorded
    from synbrain_cli.progress import Progress
    from synbrain_cli.threads import one_thread

    brain, pictures = load_model(model, "cpu"), ImageSet.of(Path(images))
    rows = range(min(N_STAGED, len(pictures)))
    drawing = Drawing(N_DRAWS)
    pixels = [pictures[row] for row in rows]
    tokens = [brain.encoder([one]) for one in pixels]
    means = [brain.mean_of_tokens(one)[0] for one in tokens]
    responses = list(brain.stream(pictures, drawing, rows))
    settings = _recorded(brain, drawing, pictures, Output(), Progress(quiet=True))
    writer = ResponseWriter(brain, pictures, settings)
    found: dict[str, float] = {}

    def measure(name: str, work: Callable[[int], object]) -> None:
        work(0)
        start = process_time()
        for row in rows:
            work(row)
        found[name] = (process_time() - start) / len(rows) * 1e3

    with tempfile.TemporaryDirectory(suffix=".partial", dir=Path(images).parent) as scratch:
        folder = Path(scratch)
        for name, shape in writer.arrays.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            np.lib.format.open_memmap(folder / name, "w+", np.float32, shape)
        with one_thread(), writer.opened(folder) as write:
            assert isinstance(write, ArraysWriter)
            measure("checksum of the file", lambda row: sha256(pictures.sources[row]))
            measure("decoding", lambda row: pictures[row])
            measure("digest of the pixels", lambda row: image_digest(pixels[row]))
            measure("encoder", lambda row: brain.encoder([pixels[row]]))
            measure("expected response", lambda row: brain.mean_of_tokens(tokens[row]))
            measure("draws", lambda row: brain.draw_around(means[row], str(row), drawing))
            measure("arrays and maps", lambda row: write((row, responses[row])))
            without = ResponseWriter(brain, pictures, _without_maps(settings))
            write = ArraysWriter(without, folder, write.files)
            measure("arrays", lambda row: write((row, responses[row])))
    found["maps"] = found.pop("arrays and maps") - found["arrays"]
    report(sum(found.values()) / 1e3, milliseconds=found, n_voxels=brain.n_voxels)


def _without_maps(settings: Any) -> Any:
    import msgspec

    return msgspec.structs.replace(settings, maps=False)


def command(model: Path, images: Path, n_images: int, output: str) -> dict[str, float]:
    """Run `synbrain synthesize` on the first images, and remove what it wrote."""
    root = images.parent
    some = root / f"first-{n_images}"
    some.mkdir()
    for path in sorted(images.iterdir())[:n_images]:
        os.link(path, some / path.name)
    words = ["synthesize", str(some), "--model", str(model), "--samples", str(N_DRAWS)]
    words += ["--device", "cpu", "--workspace", str(root), "--output", str(root / "responses")]
    words += ["--no-maps"] if output == "arrays" else []
    found = run_command([*PROGRAM, *words], 1)
    written = [path.stat().st_blocks * 512 for path in (root / "responses").iterdir()]
    for folder in (root / "responses", some):
        shutil.rmtree(folder)
    found["disk_kilobytes_an_image"] = sum(written) / n_images / 1e3
    return found


def slope(found: dict[str, dict[str, float]], field: str) -> float | None:
    """Growth of a field with the number of images, between the fewest and the most."""
    if len(found) < 2:
        return None
    few, *_, many = sorted(map(int, found))
    return (found[str(many)][field] - found[str(few)][field]) / (many - few)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path, help="folder of a model")
    parser.add_argument("--real-size", action="store_true", help="a model of NSD's size instead")
    parser.add_argument("--images", default="500,2000,10000")
    parser.add_argument("--output", choices=("arrays", "maps"), default="arrays")
    parser.add_argument("--scratch", help="folder for images and responses; default: the system's")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON")
    parser.add_argument("--quick", action="store_true", help="a dozen images: try the script")
    arguments = parser.parse_args()
    if (arguments.model is None) != arguments.real_size:
        parser.error("expected the folder of a model, or --real-size")
    numbers = [4, 12] if arguments.quick else sorted(map(int, arguments.images.split(",")))
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(dir=arguments.scratch, prefix="many-images-") as scratch:
        images = Path(scratch) / "images"
        make_images(images, max(numbers))
        model = make_model(Path(scratch)) if arguments.real_size else arguments.model.resolve()
        staged = measured(__file__, "--stages", model, images)
        print(f"stages: {staged}", file=sys.stderr)
        for n_images in numbers:
            found[str(n_images)] = command(model, images, n_images, arguments.output)
            print(f"{n_images} images: {found[str(n_images)]}", file=sys.stderr)
    times: Any = staged["milliseconds"]
    if arguments.output == "arrays":
        times.pop("maps")
    growth = slope(found, "peak_gigabytes")
    seconds = slope(found, "processor_seconds")
    result = {
        "settings": {"n_draws": N_DRAWS, "output": arguments.output, "side": SIDE},
        "n_voxels": staged["n_voxels"],
        "commands": found,
        "processor_milliseconds_an_image": None if seconds is None else 1e3 * seconds,
        "bytes_of_memory_an_image": None if growth is None else 1e9 * growth,
        "stages_milliseconds_an_image": times,
        "share_of_the_encoder": times["encoder"] / sum(times.values()),
    }
    name = "many_images" + ("_real_size" if arguments.real_size else "")
    name += f"_{arguments.output}" + ("_quick" if arguments.quick else "")
    print(save(name, as_typed(), result, arguments.results))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--stages"]:
        stages(*sys.argv[2:])
    else:
        main()
