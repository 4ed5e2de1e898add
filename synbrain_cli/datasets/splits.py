"""Splits of trials into training, validation and test trials, always by image."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd

from synbrain_cli.errors import InputError
from synbrain_cli.features.images import SUFFIXES
from synbrain_cli.io.prepared_tables import SPLITS
from synbrain_cli.io.tables import read_table, row_in

LEAST = 2  # images of each split: with one, nothing varies over images


def draw_images(images: Collection[str], share: float, seed: int, what: str = "") -> set[str]:
    """Select a random share of images (ours).

    Every image has a hash of its name and the seed, and those of the lowest are selected: exactly
    the share, rounded, and `LEAST` at least. Additional images or sessions therefore only add
    images to the end of the selection among the others, or take some from it.

    Parameters
    ----------
    images : collection of str
        Names.
    share : float
        Between 0 and 1.
    seed : int
    what : str
        Purpose of the selection. Selections for different purposes are independent.

    Returns
    -------
    set of str
    """
    key = f"{what}{seed}"
    hashes = {
        image: int.from_bytes(hashlib.sha256(f"{key}/{image}".encode()).digest()[:8]) / 2**64
        for image in images
    }
    count = max(LEAST, int(share * len(hashes) + 0.5)) if share > 0 else 0
    return set(sorted(hashes, key=lambda image: (hashes[image], image))[:count])


def split_trials(
    shown: np.ndarray,
    test: Collection[str],
    validation: Collection[str] = (),
    *,
    share: float = 0.1,
    seed: int = 0,
) -> np.ndarray:
    """Assign each trial to a split by the image that was shown.

    Parameters
    ----------
    shown : array of str of shape (n_trials,)
        Image of each trial.
    test, validation : collections of str
        Test and validation images. Without validation images, a share of the images that are not
        test images is selected at random.
    share : float
        Share of validation images among those that are not test images (default ours).
    seed : int
        Seed of that selection.

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
    """Read the test and validation images from a list of the user.

    Parameters
    ----------
    path : path
        Table (.tsv, .csv) with the columns ``image`` (with or without folder and suffix) and
        ``split`` (train, val or test). Images that are not listed are training images.
    shown : array of str
        Images that were shown to the subject.

    Returns
    -------
    test, validation : sets of str

    Raises
    ------
    MissingError, InputError
        When the file is absent, a column is missing, a split is unknown, an image is in two
        splits, or no test image was shown to the subject.
    """
    table = read_table(path, ("image", "split"))[["image", "split"]]
    table = table.assign(
        image=table["image"].map(_without_suffix),
        split=table["split"].replace({"validation": "val"}),
    )
    unknown = np.flatnonzero(~table["split"].isin(SPLITS))
    if len(unknown):
        raise InputError(
            f"{row_in(path)(unknown[0])}: expected {', '.join(SPLITS)} in the column split, found "
            f"{table['split'].iloc[unknown[0]]!r}"
        )
    twice = table.drop_duplicates().groupby("image").size()
    if (twice > 1).any():
        raise InputError(
            f"{path}: the column split puts {twice.index[twice > 1][0]} in two splits: keep one of "
            "them"
        )
    parts = {
        split: set(table.loc[table["split"] == split, "image"]) & {str(i) for i in shown}
        for split in SPLITS
    }
    if not parts["test"]:
        example = next(iter(sorted({str(i) for i in shown})), "")
        raise InputError(
            f"{path}: none of the images with test in the column split was shown to this subject: "
            f"expected names such as {example}"
        )
    return parts["test"], parts["val"]


def _without_suffix(image: str) -> str:
    """Return the name without folder and suffix; "face.03" has no suffix of an image file."""
    path = Path(image)
    return path.stem if path.suffix.lower() in SUFFIXES else path.name


def check_splits(split: np.ndarray, shown: np.ndarray, advice: str) -> None:
    """Check that there are training, validation and test images, `LEAST` of each.

    Parameters
    ----------
    split, shown : arrays of str of shape (n_trials,)
        Split and image of each trial.
    advice : str
        Where the splits come from and what the user can do otherwise, for the message.

    Raises
    ------
    InputError
        When a split has no image, or only one.
    """
    counts = pd.DataFrame({"image": shown, "split": split}).groupby("split")["image"].nunique()
    few = {part: int(counts.get(part, 0)) for part in SPLITS if counts.get(part, 0) < LEAST}
    if few:
        found = " and ".join(f"{n or 'no'} {_WORDS[part]}" for part, n in few.items())
        raise InputError(
            f"{found} image among the "
            f"{len(np.unique(shown))} images shown: expected {LEAST} or more images for each of "
            f"training, validation and test, {LEAST * len(SPLITS)} in all: {advice}"
        )


_WORDS = {"train": "training", "val": "validation", "test": "test"}
