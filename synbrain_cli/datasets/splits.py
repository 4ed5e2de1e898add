"""Splits of trials into training, validation and test trials, always by image or by group."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from synbrain_cli.errors import InputError
from synbrain_cli.features.images import SUFFIXES
from synbrain_cli.groups import images_of_groups, number_groups, with_their_groups
from synbrain_cli.io.prepared_tables import SPLITS
from synbrain_cli.io.tables import read_table, row_in

LEAST = 2  # images or groups of each split: with one, nothing varies over images
LEAST_IN_ALL = LEAST * len(SPLITS)
LEAST_TESTED = 4  # images or groups of a test set: fewer cannot be scored


def draw_images(
    images: Collection[str],
    share: float,
    seed: int,
    what: str = "",
    group_of: Mapping[str, str] | None = None,
) -> set[str]:
    """Select a random share of images (ours).

    Every image has a hash of its name and the seed, and those of the lowest are selected: exactly
    the share, rounded, and `LEAST` at least. Additional images or sessions therefore only add
    images to the end of the selection among the others, or take some from it.

    Groups are selected whole, by the hash of the group's name, until there are as many images;
    `LEAST` groups at least.

    Parameters
    ----------
    images : collection of str
        Names.
    share : float
        Between 0 and 1.
    seed : int
    what : str
        Purpose of the selection. Selections for different purposes are independent.
    group_of : mapping of str to str, optional
        Name of an image → name of its group; by default every image stands alone.

    Returns
    -------
    set of str
    """
    key = f"{what}{seed}"

    def in_random_order(names: Collection[str]) -> list[str]:
        digests = {name: hashlib.sha256(f"{key}/{name}".encode()).digest() for name in names}
        hashes = {name: int.from_bytes(digest[:8]) / 2**64 for name, digest in digests.items()}
        return sorted(hashes, key=lambda name: (hashes[name], name))

    count = max(LEAST, int(share * len(images) + 0.5)) if share > 0 else 0
    if not group_of:
        return set(in_random_order(images)[:count])
    whole = images_of_groups({image: group_of[image] for image in images})
    chosen: set[str] = set()
    for n_chosen, group in enumerate(in_random_order(whole) if count else []):
        if len(chosen) >= count and n_chosen >= LEAST:
            break
        chosen.update(whole[group])
    return chosen


def split_trials(
    shown: np.ndarray,
    test: Collection[str],
    validation: Collection[str] = (),
    *,
    share: float = 0.1,
    seed: int = 0,
    group_of: Mapping[str, str] | None = None,
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
    group_of : mapping of str to str, optional
        Name of an image → name of its group, of which all images are in one split: those of a
        group with a test image are test images, those of one with a validation image are
        validation images.

    Returns
    -------
    array of str of shape (n_trials,)
        "train", "val" or "test".
    """
    group_of = group_of or {}
    test = with_their_groups(test, group_of)
    if not validation:
        others = {str(image) for image in shown} - test
        validation = draw_images(others, share, seed, group_of=group_of)
    validation = with_their_groups(validation, group_of)
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


def check_splits(
    split: np.ndarray,
    shown: np.ndarray,
    advice: str,
    group_of: Mapping[str, str] | None = None,
    needed: Collection[str] = SPLITS,
) -> None:
    """Check that there are training, validation and test images, `LEAST` of each; or groups.

    Parameters
    ----------
    split, shown : arrays of str of shape (n_trials,)
        Split and image of each trial.
    advice : str
        Where the splits come from and what the user can do otherwise, for the message.
    group_of : mapping of str to str, optional
        Name of an image → name of its group.
    needed : collection of str
        Splits that images are needed in.

    Raises
    ------
    InputError
        When a split has no image or group, or only one.
    """
    names, unit = np.asarray(shown, str), "image"
    if group_of and number_groups(np.unique(names), group_of) is not None:
        names, unit = np.array([group_of[name] for name in names]), "group"
    counts = pd.DataFrame({"name": names, "split": split}).groupby("split")["name"].nunique()
    few = {part: int(counts.get(part, 0)) for part in needed if counts.get(part, 0) < LEAST}
    if few:
        found = " and ".join(f"{n or 'no'} {_WORDS[part]}" for part, n in few.items())
        *words, last = (_WORDS[part] for part in needed)
        raise InputError(
            f"{found} {unit} among the "
            f"{len(np.unique(names))} {unit}s shown: expected {LEAST} or more {unit}s for each of "
            f"{', '.join(words)} and {last}, {LEAST_IN_ALL} in all: {advice}"
        )
    n_shown = len(np.unique(names))
    if n_shown < LEAST_IN_ALL:
        raise InputError(f"{n_shown} {unit}s shown: expected {LEAST_IN_ALL} or more: {advice}")


_WORDS = {"train": "training", "val": "validation", "test": "test"}
