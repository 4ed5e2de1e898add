"""Image tokens of NSD's stimuli: does the encoder ever wait for the disk?

    python benchmarks/tokens.py [ENCODER]

Makes an .hdf5 with NSD's layout (imgBrick, uint8, n × 425 × 425 × 3; 500 images, photographs
shipped with installed packages), then measures, each in a process of its own and in turn:

- encoder: tokens of images that are in memory already;
- reading: the images alone, in order;
- ours: `extract_tokens`, which reads ahead in threads, from .hdf5 to tokens on disk.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
from common import Timer, measured, report, save

from synbrain_cli.datasets.nsd_design import image_name
from synbrain_cli.datasets.nsd_files import NSD, STIMULI
from synbrain_cli.datasets.photographs import crop_photographs, load_photographs
from synbrain_cli.features.loading import load_encoder
from synbrain_cli.pipeline.extract_tokens import TokenRequest, extract_tokens
from synbrain_cli.progress import Progress
from synbrain_cli.run import RunContext

N_IMAGES, SIZE, REPEATS = 500, 425, 3


def make_stimuli(root: Path) -> None:
    (root / "nsddata").mkdir()
    path = root / STIMULI
    path.parent.mkdir(parents=True)
    generator = np.random.default_rng(0)
    views = crop_photographs(*load_photographs(), N_IMAGES, SIZE, "unique", generator)
    with h5py.File(path, "w") as file:
        file.create_dataset("imgBrick", data=views)


def step(what: str, root: Path, spec: str) -> None:
    names = [image_name(i) for i in range(N_IMAGES)]
    nsd = NSD(root)
    if what == "reading":
        with Timer() as timer:
            n = sum(1 for _ in nsd.read_images(names))
        return report(timer.seconds, images=n)
    if what == "encoder":
        encoder = load_encoder(spec)
        pixels = list(nsd.read_images(names))
        with Timer() as timer:
            encoder(pixels)
        return report(timer.seconds)
    load_encoder(spec)  # imports and weights, which the other step does not count either
    with tempfile.TemporaryDirectory(dir=root) as folder, Timer() as timer:
        run = RunContext(progress=Progress(quiet=True))
        extract_tokens(Path(folder), names, nsd.read_images, TokenRequest((spec,)), run)
    return report(timer.seconds)


def main() -> None:
    if len(sys.argv) > 2:
        return step(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
    spec = sys.argv[1] if len(sys.argv) == 2 else "gabor"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_stimuli(root)
        runs: dict[str, list[dict[str, float]]] = {}
        for _ in range(REPEATS):
            for what in ("encoder", "reading", "ours"):
                runs.setdefault(what, []).append(measured(__file__, what, root, spec))
    best = {what: min(run["seconds"] for run in some) for what, some in runs.items()}
    result = {
        "encoder": spec,
        "images": N_IMAGES,
        "seconds": best,
        "peak_megabytes": {w: max(r["peak_megabytes"] for r in some) for w, some in runs.items()},
        "ratios": {
            "ours / encoder": best["ours"] / best["encoder"],
            "(encoder + reading) / encoder": (best["encoder"] + best["reading"]) / best["encoder"],
        },
        "runs": runs,
    }
    print(save("tokens", f"python benchmarks/tokens.py {spec}", result))
    print({k: round(v, 3) for k, v in result["ratios"].items()})


if __name__ == "__main__":
    main()
