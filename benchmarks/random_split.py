"""Draw the test images of a simulated subject at random from all that it saw, as NSD's were drawn.

    python benchmarks/random_split.py WORKSPACE [--subject 1] [--test 600]

The demo's test images are views of the photographs of training that share no pixels with these,
while views of training overlap each other: images left out of a fit are easier than test images.
This writes WORKSPACE/split.tsv, for `synbrain prepare nsd --root simulated --split split.tsv`,
whose test images are like those left out. WORKSPACE holds the output of `synbrain prepare
simulated`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from synbrain_cli.io.workspace import Workspace

VALIDATION = 0.1  # of the images that are not for tests, as `synbrain prepare` has it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--subject", default="1")
    parser.add_argument("--test", type=int, default=600, help="test images")
    arguments = parser.parse_args()
    subject = Workspace(arguments.workspace).find_subject(arguments.subject, "simulated", print)
    images = sorted(subject.trials["image"].unique())
    order = np.random.default_rng(0).permutation(len(images))
    n_val = round(VALIDATION * (len(images) - arguments.test))
    split = np.full(len(images), "train", dtype=object)
    split[order[: arguments.test]] = "test"
    split[order[arguments.test : arguments.test + n_val]] = "val"
    path = arguments.workspace / "split.tsv"
    pd.DataFrame({"image": images, "split": split}).to_csv(path, sep="\t", index=False)
    print(path)


if __name__ == "__main__":
    main()
