"""What does preparing a subject of MOSAIC cost, and does memory grow with its trials?

    python benchmarks/mosaic.py --trials 600,6000

Writes files of MOSAIC's layout with so many trials (91,282 grayordinates each in float64; 0.73 MB a
trial) in a temporary folder, then, each in a process of its own, reads the visual cortex of one
into a prepared subject, from a file that the system may still hold in memory. ``imports`` is a
process that reads nothing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from common import Timer, as_typed, measured, report, save

from synbrain_cli.datasets.mosaic import Choice, choose_vertices, prepare_subject
from synbrain_cli.datasets.mosaic_files import SETS, MosaicCopy
from synbrain_cli.datasets.mosaic_stimuli import Stimuli
from synbrain_cli.io.fslr import N_GRAYORDINATES

NSD, REPEATS = SETS["NSD"], 3


def make(root: Path, n_trials: int) -> None:
    """A copy with betas of noise, a table of stimuli, and empty files for the images."""
    names = [f"{i:012d}.jpg" for i in range(n_trials // REPEATS)]
    phases = ["test" if i % 10 == 0 else "train" for i in range(len(names))]
    path = root / NSD.betas(1)
    path.parent.mkdir(parents=True)
    rng = np.random.default_rng(0)
    some = rng.standard_normal((50, N_GRAYORDINATES))
    with h5py.File(path, "w") as file:
        betas = file.create_group("betas", track_order=True)
        for i, (name, phase) in enumerate(zip(names, phases, strict=True)):
            for repeat in range(REPEATS):
                key = f"sub-01_NSD_stimulus-{name[:-4]}_phase-{phase}_rep-{repeat}"
                values = some[(i + repeat) % len(some)] + rng.standard_normal()
                one = betas.create_dataset(key, data=values, track_order=True)
                one.attrs["presented_stimulus_filename"] = name
    table = {"filename": names, "alias": "n/a", "source": "COCO", "test_train": phases}
    (root / NSD.table).parent.mkdir()
    pd.DataFrame(table | {"sub-01_reps": REPEATS}).to_csv(root / NSD.table, sep="\t", index=False)
    (root / "stimuli").mkdir()
    for name in names:
        (root / "stimuli" / name).touch()


def prepare(root: Path) -> None:
    copy = MosaicCopy(root, NSD)
    with Timer() as timer:
        subject = prepare_subject(
            copy, Stimuli(root / "stimuli", copy), 1, root / "prepared/x/sub-01", choice=Choice()
        )
    report(timer.seconds, n_trials=len(subject.trials), n_vertices=subject.n_voxels)


def main() -> None:
    if sys.argv[1:2] == ["--step"]:
        return prepare(Path(sys.argv[2]))
    if sys.argv[1:2] == ["--imports"]:
        return report(0.0, n_vertices=choose_vertices(("visual",))[0].n_voxels)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", default="600,6000")
    numbers = [int(text) for text in parser.parse_args().trials.split(",")]
    steps = {"imports": measured(__file__, "--imports")}
    for n_trials in numbers:
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder), n_trials)
            steps[str(n_trials)] = measured(__file__, "--step", folder)
    print(save("mosaic", as_typed(), {"steps": steps}))


if __name__ == "__main__":
    main()
