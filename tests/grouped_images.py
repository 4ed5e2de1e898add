"""A small experiment with known truth, whose images may be of groups: files, as users have them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image


@dataclass(frozen=True)
class SmallExperiment:
    """Sizes of an experiment of a few images.

    Attributes
    ----------
    groups : int array of shape (n_images,)
        Group of each image.
    repeats, n_voxels : int
    signal : float
        SD of what the images' contrasts determine, in SDs of the trial noise.
    of_group : float
        SD of what images of a group share beside it.
    """

    groups: np.ndarray
    repeats: int = 1
    n_voxels: int = 40
    signal: float = 2.0
    of_group: float = 0.0

    def write(self, root: Path, seed: int = 0, with_groups: bool = True) -> tuple[str, ...]:
        """Write images, responses and trials; return the arguments of `synbrain prepare table`."""
        rng = np.random.default_rng(seed)
        n_images, n_groups = len(self.groups), self.groups.max() + 1
        centre = rng.uniform(0.1, 0.9, (n_groups, 2))
        contrasts = np.clip(centre[self.groups] + 0.05 * rng.standard_normal((n_images, 2)), 0, 1)
        _write_gratings(root / "images", contrasts)
        known = (contrasts - contrasts.mean(0)) / contrasts.std(0)
        planted = self.signal * known @ rng.standard_normal((2, self.n_voxels)) / 2**0.5
        shared = self.of_group * rng.standard_normal((n_groups, self.n_voxels))
        shown = rng.permutation(np.repeat(np.arange(n_images), self.repeats))
        noise = rng.standard_normal((len(shown), self.n_voxels))
        responses = 5 + 2 * (planted[shown] + shared[self.groups][shown] + noise)
        np.save(root / "responses.npy", responses.astype(np.float32))
        table = pd.DataFrame({"image": [f"i{i:03d}.png" for i in shown]})
        if with_groups:
            table["group"] = [f"object {g}" for g in self.groups[shown]]
        table.to_csv(root / "trials.tsv", sep="\t", index=False)
        (root / "workspace").mkdir()
        return (
            "prepare",
            "table",
            str(root / "trials.tsv"),
            "--responses",
            str(root / "responses.npy"),
            "--images",
            str(root / "images"),
            "--dataset",
            "few",
            "--subject",
            "1",
            "--encoder",
            "gabor",
        )


def random_groups(rng: np.random.Generator, n_images: int, n_groups: int) -> np.ndarray:
    """Groups of random sizes, none empty, in random order."""
    groups = np.r_[np.arange(n_groups), rng.integers(0, n_groups, n_images - n_groups)]
    return rng.permutation(groups)


def _write_gratings(folder: Path, contrasts: np.ndarray) -> None:
    """Gratings of two orientations, of these contrasts (n_images, 2)."""
    folder.mkdir(parents=True)
    wave = np.sin(np.arange(64) / 64 * 2 * np.pi * 8)
    for i, (across, down) in enumerate(contrasts):
        grey = 127 + 60 * (across * wave[None] + down * wave[:, None])
        pixels = np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"i{i:03d}.png")
