"""Splits: which images train a model, choose its weights, and test it. Always by image."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd

from synbrain_cli.errors import InputError
from synbrain_cli.features.images import SUFFIXES
from synbrain_cli.io.files import read_table
from synbrain_cli.io.prepared import SPLITS


def draw_images(images: Collection[str], share: float, seed: int, what: str = "") -> set[str]:
    """Draw a share of images.

    Each image's lot is a hash of its name and the seed: adding images or sessions never moves an
    image that is already there from one side to the other. ``what`` they are drawn for makes draws
    independent of one another.
    """
    key = f"{what}{seed}"
    lots = {
        image: int.from_bytes(hashlib.sha256(f"{key}/{image}".encode()).digest()[:8]) / 2**64
        for image in images
    }
    return {image for image, lot in lots.items() if lot < share}


def split_trials(
    shown: np.ndarray,
    test: Collection[str],
    validation: Collection[str] = (),
    *,
    share: float = 0.1,
    seed: int = 0,
) -> np.ndarray:
    """Split of each trial, by the image it shows.

    Parameters
    ----------
    shown : array of str of shape (n_trials,)
        Image of each trial.
    test, validation : collections of str
        Images. Without validation images, ``share`` of those that are not test is drawn.

    Returns
    -------
    array of str of shape (n_trials,)
        "train", "val" or "test".
    """
    if not validation:
        validation = draw_images({str(image) for image in shown} - set(test), share, seed)
    split = np.full(len(shown), "train", dtype="U5")
    split[np.isin(shown, list(validation))] = "val"
    split[np.isin(shown, list(test))] = "test"
    return split


def read_split_list(path: Path, shown: np.ndarray) -> tuple[set[str], set[str]]:
    """Test and validation images of a user's list.

    Parameters
    ----------
    path : path
        A table (.tsv, .csv) with the columns ``image``, with or without folder and suffix, and
        ``split`` (train, val or test). Images that it does not name are training images.
    shown : array of str
        Images that there are.

    Returns
    -------
    test, validation : sets of str

    Raises
    ------
    MissingError, InputError
        No such file; a column is missing; another split; an image twice with two splits; no test
        image among those shown.
    """
    table = read_table(path, ("image", "split"))[["image", "split"]]
    table = table.assign(
        image=table["image"].map(_without_suffix),
        split=table["split"].replace({"validation": "val"}),
    )
    unknown = sorted(set(table["split"]) - set(SPLITS))
    if unknown:
        raise InputError(
            f"{path}: expected the splits {', '.join(SPLITS)}, found {', '.join(unknown[:5])}"
        )
    twice = table.drop_duplicates().groupby("image").size()
    if (twice > 1).any():
        raise InputError(f"{path}: {twice.index[twice > 1][0]} is in two splits: keep one of them")
    parts = {
        split: set(table.loc[table["split"] == split, "image"]) & {str(i) for i in shown}
        for split in SPLITS
    }
    if not parts["test"]:
        example = next(iter(sorted({str(i) for i in shown})), "")
        raise InputError(
            f"{path}: none of its test images was shown to this subject: expected names such as "
            f"{example}"
        )
    return parts["test"], parts["val"]


def _without_suffix(image: str) -> str:
    """Name without folder and suffix; a dot within a name ("face.03") is no suffix."""
    path = Path(image)
    return path.stem if path.suffix.lower() in SUFFIXES else path.name


def check_splits(split: np.ndarray, shown: np.ndarray, advice: str) -> None:
    """Raise `InputError` where training, validation or test images are missing."""
    counts = pd.Series(split).groupby(split).size()
    for part in SPLITS:
        if not counts.get(part, 0):
            n_images = len(np.unique(shown))
            raise InputError(f"no {part} image among the {n_images} images shown: {advice}")
