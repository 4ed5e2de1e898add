"""NSD-synthetic's trials and images, as `synbrain prepare table` takes them.

    python examples/nsd_synthetic.py NSD OUTPUT --subject 1

NSD is the folder that holds nsddata/ and nsddata_stimuli/ with NSD-synthetic's files:

    nsddata/experiments/nsdsynthetic/nsdsynthetic_expdesign.mat
    nsddata_stimuli/stimuli/nsdsynthetic/nsdsynthetic_stimuli.hdf5
    nsddata_stimuli/stimuli/nsdsynthetic/nsdsynthetic_colorstimuli_subj01.hdf5

OUTPUT gets images/ and sub-01_trials.tsv. docs/your-data.md says how to go on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import scipy.io
from PIL import Image

N_COMMON = 220  # ids 1 to 220 are everybody's images; 221 to 284 were coloured for each subject


def shown(root: Path) -> np.ndarray:
    """1-based id of the image of each of the 744 trials, the same for all subjects."""
    path = root / "nsddata/experiments/nsdsynthetic/nsdsynthetic_expdesign.mat"
    return scipy.io.loadmat(path)["masterordering"].ravel().astype(int)


def image_name(number: int, subject: int) -> str:
    """Colour images have a subject's name: their pixels differ between people."""
    own = "" if number <= N_COMMON else f"_subj{subject:02d}"
    return f"synthetic{number:03d}{own}"


def to_display(pixels: np.ndarray) -> np.ndarray:
    """Pixels were made for a linearised display: the square root shows them on an ordinary one."""
    return np.rint(np.sqrt(pixels / 255) * 255).astype(np.uint8)


def write(root: Path, output: Path, subject: int) -> Path:
    """Write the images (PNG) and the table; returns the table's path."""
    folder = root / "nsddata_stimuli/stimuli/nsdsynthetic"
    files = (
        (folder / "nsdsynthetic_stimuli.hdf5", 1),
        (folder / f"nsdsynthetic_colorstimuli_subj{subject:02d}.hdf5", N_COMMON + 1),
    )
    (output / "images").mkdir(parents=True, exist_ok=True)
    for path, first in files:
        with h5py.File(path) as file:
            for number, pixels in enumerate(file["imgBrick"], start=first):
                target = output / "images" / f"{image_name(number, subject)}.png"
                Image.fromarray(to_display(pixels)).save(target)
    table = output / f"sub-{subject:02d}_trials.tsv"
    names = [image_name(number, subject) for number in shown(root)]
    pd.DataFrame({"image": names}).to_csv(table, sep="\t", index=False)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("nsd", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--subject", type=int, default=1)
    arguments = parser.parse_args()
    print(write(arguments.nsd, arguments.output, arguments.subject))


if __name__ == "__main__":
    main()
