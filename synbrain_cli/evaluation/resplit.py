"""Images of a subject dealt to folds: the subject once per fold, with its images as test images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from synbrain_cli.datasets.splits import LEAST, split_trials
from synbrain_cli.errors import InputError
from synbrain_cli.groups import images_of_groups, joined
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.token_store import TokenStore

MOST_ALONE = 30  # images or groups that are each left out alone; of more, `N_FOLDS` folds are
N_FOLDS = 10  # (ours)


@dataclass(frozen=True)
class ResplitSubject(PreparedSubject):
    """A prepared subject whose trials are in other splits than it was prepared with.

    Attributes
    ----------
    splits : tuple of str
        "train", "val" or "test", for each trial.
    """

    splits: tuple[str, ...] = ()

    @cached_property
    def trials(self) -> pd.DataFrame:
        """``trials.tsv``, with these splits."""
        return super().trials.assign(split=list(self.splits))


def inseparable_images(subject: PreparedSubject, store: TokenStore) -> list[set[str]]:
    """Return the images of a subject as sets of which none is divided, in the order of their names.

    Those of a group are one set, and so are names of one picture (with the same pixels, where the
    token store knows these).
    """
    shown = sorted(set(subject.trials["image"]))
    pixels = {n: d for n, d in zip(store.images, store.digests, strict=True) if d}
    pictures = {image: pixels[image] for image in shown if image in pixels}
    together = joined([subject.groups, pictures]) if subject.groups else pictures
    alone = {image: together.get(image, f"image {image}") for image in shown}
    return [set(images) for images in images_of_groups(alone).values()]


def default_folds(subject: PreparedSubject, store: TokenStore) -> int:
    """Number of folds of a subject without test images: each image or group alone, where few."""
    n_units = len(inseparable_images(subject, store))
    return n_units if n_units <= MOST_ALONE else N_FOLDS


def deal_images(
    subject: PreparedSubject, store: TokenStore, n_folds: int, seed: int
) -> list[set[str]]:
    """Deal all images of a subject to folds at random; their sizes differ by one at most.

    Images of a group, and names of one picture, go together (`inseparable_images`): sizes are then
    numbers of groups.

    Parameters
    ----------
    subject : PreparedSubject
    store : TokenStore
    n_folds : int
        As many as there are images or groups holds out one at a time.
    seed : int

    Returns
    -------
    list of n_folds sets of str

    Raises
    ------
    InputError
        More folds than images or groups, or too few of them outside a fold to train and validate a
        model.
    """
    units, least = inseparable_images(subject, store), 2 * LEAST
    n_units, what = len(units), "groups of images" if subject.groups else "images"
    if not 2 <= n_folds <= n_units:
        raise InputError(
            f"--folds {n_folds}: expected 2 to {n_units}, the number of {what} of {subject.label}"
        )
    left = n_units - -(-n_units // n_folds)
    if left < least:
        raise InputError(
            f"--folds {n_folds}: expected {least} {what} or more outside a fold, {LEAST} to train "
            f"and {LEAST} to validate a model, found {left} of the {n_units} {what} of "
            f"{subject.label}: "
            + ("choose more folds" if n_units > least else f"more {what} are needed")
        )
    order = np.random.default_rng([seed, 8]).permutation(n_units)
    return [set().union(*(units[i] for i in fold)) for fold in np.array_split(order, n_folds)]


def resplit(subject: PreparedSubject, folds: Sequence[set[str]], seed: int) -> list[ResplitSubject]:
    """Return the subject once per fold, with the fold's images as test images.

    Validation images are drawn from the others as `synbrain prepare` draws them: the share of them
    that the prepared subject has.

    Parameters
    ----------
    subject : PreparedSubject
    folds : sequence of sets of str
    seed : int
        Of the choice of validation images.
    """
    table = subject.trials
    n_images = table.groupby("split")["image"].nunique()
    n_val, n_train = (int(n_images.get(split, 0)) for split in ("val", "train"))
    share = n_val / max(n_val + n_train, 1)
    shown, group_of = table["image"].to_numpy(str), subject.groups
    splits = [
        split_trials(shown, fold, share=share, seed=seed, group_of=group_of) for fold in folds
    ]
    return [ResplitSubject(subject.folder, tuple(split.tolist())) for split in splits]
