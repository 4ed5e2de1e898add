"""A small copy of MOSAIC: its names and layout, with responses that a test knows.

The layout is that of MOSAIC's code (blahner/mosaic-preprocessing, ``create_hdf5_pkl.py``): betas on
all 91,282 grayordinates, in float64, one dataset a trial.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from PIL import Image

from synbrain_cli.datasets.mosaic_files import SETS, MosaicSet, image_name

N = 91_282
NAN = np.r_[0:40, 35_000:35_020]  # grayordinates without data in the first trial of a stimulus
PHASES = {"train": "train", "test": "test", "artificial": "test"}
SOURCES = {"NSD": "NSDsynthetic", "deeprecon": "Artificial"}  # of artificial images


@dataclass(frozen=True)
class Tree:
    """What the copy holds.

    Attributes
    ----------
    of : MosaicSet
    counts, repeats : dict
        Images, and trials of each, by task.
    dtype
        Of the betas.
    """

    of: MosaicSet = SETS["NSD"]
    counts: tuple[int, int, int] = (16, 6, 4)  # train, test, artificial
    repeats: tuple[int, int, int] = (2, 2, 2)
    dtype: type = np.float64

    def files(self, task: str) -> list[str]:
        """File names of the stimuli of a task."""
        first, n = {"train": (100, 0), "test": (300, 1), "artificial": (1, 2)}[task]
        if task == "artificial" and self.of.short not in SOURCES:
            return []
        digits = 3 if task == "artificial" else 12
        suffix = ".mp4" if self.of.videos else ".jpg"
        return [f"{first + i:0{digits}d}{suffix}" for i in range(self.counts[n])]

    def trials(self):
        """(task, file, repeat) of each trial, in the order of the file."""
        for task in ("test", "train", "artificial"):
            for file in self.files(task):
                for repeat in range(self.repeats[list(PHASES).index(task)]):
                    yield task, file, repeat

    def key(self, subject: int, task: str, file: str, repeat: int) -> str:
        sub = f"sub-{subject:02d}_{self.of.short}"
        return f"{sub}_stimulus-{image_name(file)}_phase-{PHASES[task]}_rep-{repeat}"

    def write_table(self, root: Path, subjects=(1,)) -> Path:
        rows = [
            {
                "filename": file,
                "alias": f"{number + 1:04d}.mp4" if self.of.videos else int(image_name(file)),
                "source": SOURCES[self.of.short] if task == "artificial" else "COCO",
                "test_train": PHASES[task],
                **{f"sub-{s:02d}_reps": self.repeats[i] for s in subjects},
            }
            for i, task in enumerate(PHASES)
            for number, file in enumerate(self.files(task))
        ]
        path = root / self.of.table
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(rows).to_csv(path, sep="\t", index=False)
        return path

    def write_subject(self, root: Path, subject: int) -> Path:
        path = root / self.of.betas(subject)
        path.parent.mkdir(parents=True, exist_ok=True)
        sub = f"sub-{subject:02d}_{self.of.short}"
        with h5py.File(path, "w") as file:
            file.attrs["dataset_name"], file.attrs["subjectID"] = self.of.name, sub[:6]
            file.attrs["beta_pipeline"] = "GLMsinglev1.2"
            ceilings = file.create_group("noiseceilings", track_order=True)
            for task in PHASES:
                for n, value in (("1", ceiling_of(task)), ("avg", 90.0)):
                    if self.files(task):
                        values = np.full(N, value)
                        values[NAN] = np.nan
                        ceilings[f"{sub}_phase-{task}_n-{n}_noiseceiling"] = values
            betas = file.create_group("betas", track_order=True)
            for task, name, repeat in self.trials():
                values = truth(subject, name, repeat).astype(self.dtype)
                if repeat == 0:
                    values[NAN] = np.nan
                one = betas.create_dataset(
                    self.key(subject, task, name, repeat), data=values, track_order=True
                )
                one.attrs["nan_indices"] = np.flatnonzero(np.isnan(values))
                one.attrs["phase"], one.attrs["repetition"] = PHASES[task], repeat
                one.attrs["presented_stimulus_filename"] = name
            file["nan_indices_all"] = NAN
        return path

    def write_images(self, folder: Path) -> Path:
        """Image files of the stimuli; of videos, their middle frames."""
        folder.mkdir(parents=True, exist_ok=True)
        for file in (file for task in PHASES for file in self.files(task)):
            name = f"{image_name(file)}_frame-0030_0060.jpg" if self.of.videos else file
            pixels = pixels_of(file)
            Image.fromarray(pixels).save(folder / name, quality=95)
        return folder

    def write(self, root: Path, subjects=(1,)) -> Path:
        self.write_table(root, subjects)
        for subject in subjects:
            self.write_subject(root, subject)
        return root


def ceiling_of(task: str) -> float:
    """Noise ceiling of single trials, percent."""
    return {"train": 50.0, "test": 20.0, "artificial": 80.0}[task]


def pixels_of(file: str) -> np.ndarray:
    generator = np.random.default_rng(int(image_name(file)))
    return generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)


def truth(subject: int, file: str, repeat: int) -> np.ndarray:
    """Betas of a trial, float64 (91282,): what repeats of an image share, and noise."""
    number = int(image_name(file))
    signal = np.random.default_rng([subject, number]).normal(0, 1, N)
    return (signal + np.random.default_rng([subject, number, repeat + 1]).normal(0, 1, N)) / 2**0.5
