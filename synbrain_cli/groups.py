"""Groups of images: images that belong together, dealt, resampled and shuffled as one.

Images of one object, scene, film or photograph are alike, and so are the responses to them. Where
some of them are on one side of a split and some on the other, a fit is tested on what it was fitted
to. Everything that divides images therefore does it here, by groups. Without groups every image
stands alone, and all random numbers are those of a program that knows of no groups.

In the fits, groups are an int array (n_images,), the number of each image's group; None where every
image stands alone. In files and splits they have names.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from synbrain_cli.errors import InputError

Groups = NDArray[np.intp]


def number_groups(images: Iterable[str], group_of: Mapping[str, str]) -> Groups | None:
    """Number the groups of some images, from 0; None where every image stands alone.

    Parameters
    ----------
    images : iterable of str
        Names of different images.
    group_of : mapping of str to str
        Name of an image → name of its group. An image that is not in it stands alone.

    Returns
    -------
    int array of shape (n_images,), or None
    """
    keys = [(image in group_of, group_of.get(image, image)) for image in map(str, images)]
    if len(set(keys)) == len(keys):
        return None
    number = {key: k for k, key in enumerate(sorted(set(keys)))}
    return np.array([number[key] for key in keys], np.intp)


def count_groups(n_images: int, groups: Groups | None) -> int:
    """Count what is independent of the rest: groups, or images that stand alone."""
    return n_images if groups is None else len(np.unique(groups))


def independent_parts(n_images: int, groups: Groups | None) -> list[NDArray[np.intp]]:
    """Rows of each part that is independent of the rest: a group, or an image that stands alone."""
    return [np.array([i]) for i in range(n_images)] if groups is None else members(groups)


def members(groups: Groups) -> list[NDArray[np.intp]]:
    """Rows of each group, in the order of their numbers."""
    order = np.argsort(groups, kind="stable")
    _, starts = np.unique(groups[order], return_index=True)
    return list(np.split(order, starts[1:]))


def deal(
    n_images: int, n_folds: int, generator: np.random.Generator, groups: Groups | None = None
) -> list[NDArray[np.intp]]:
    """Deal images to folds at random, those of a group to one fold.

    Parameters
    ----------
    n_images : int
    n_folds : int
        At most as many as there are images; with groups, fewer where groups are fewer.
    generator : numpy Generator
    groups : int array of shape (n_images,), optional

    Returns
    -------
    list of int arrays
        Rows of the images that each fold holds, ascending. Folds are of equal size, but for one
        image; with groups, as nearly as the groups allow.

    Raises
    ------
    InputError
        All images are of one group.
    """
    from sklearn.model_selection import GroupKFold, KFold  # a second to import

    if groups is None:
        each = KFold(n_folds, shuffle=True, random_state=int(generator.integers(2**31)))
        return [held_out for _, held_out in each.split(np.empty(n_images))]
    n_groups = require_two_groups(groups)
    # Larger groups first, each to the smallest fold; among equal ones, the order is random.
    _, number = np.unique(groups, return_inverse=True)
    named = generator.permutation(n_groups)[number]
    balanced = GroupKFold(min(n_folds, n_groups))
    return [held_out for _, held_out in balanced.split(np.empty(n_images), groups=named)]


def require_two_groups(groups: Groups) -> int:
    """Return the number of groups; raise an `InputError` where there is one alone."""
    n_groups = len(np.unique(groups))
    if n_groups < 2:
        raise InputError(
            f"all {len(groups)} images that a model is to be fitted to are of one group, expected "
            "two groups or more: images of a group are never both fitted and held out; prepare "
            "again without the column group, or with smaller groups"
        )
    return n_groups


def second_half(
    n_images: int, generator: np.random.Generator, groups: Groups | None = None
) -> NDArray[np.bool_]:
    """Divide images into two halves at random, those of a group into one: which are the second."""
    is_second = np.zeros(n_images, bool)
    if groups is None:
        order = generator.permutation(n_images)
        is_second[order[n_images // 2 :]] = True
    else:
        is_second[deal(n_images, 2, generator, groups)[1]] = True
    return is_second


def derangement(
    n_images: int, generator: np.random.Generator, groups: Groups | None = None
) -> NDArray[np.int64]:
    """Random order in which no image keeps its position, or has that of another of its group.

    Where a group holds more than half of the images, some of these must; none keeps its own.

    Returns
    -------
    int array of shape (n_images,)
    """
    order = generator.permutation(n_images)
    step = 1
    if groups is not None:
        rank = generator.permutation(groups.max() + 1)[groups]
        order = order[np.argsort(rank[order], kind="stable")]  # those of a group side by side
        step = min(int(np.bincount(groups).max()), max(n_images // 2, 1))
    shuffled = np.empty(n_images, int)
    shuffled[order] = np.roll(order, step)
    return shuffled


def resample(
    n_images: int, n_samples: int, generator: np.random.Generator, groups: Groups | None = None
) -> NDArray[np.float64]:
    """Bootstrap samples of images as counts: how often each sample holds each image.

    With groups, these are drawn with replacement, whole (the cluster bootstrap: Davison & Hinkley
    1997, *Bootstrap Methods and their Application*, section 3.8), as images of a group are not
    independent. Samples then hold more images or fewer, where groups are of different sizes.

    Returns
    -------
    float64 array of shape (n_samples, n_images)
    """
    if groups is None:
        shares = np.full(n_images, 1 / n_images)
        return generator.multinomial(n_images, shares, size=n_samples).astype(np.float64)
    _, number = np.unique(groups, return_inverse=True)
    n_groups = int(number.max()) + 1
    counts = generator.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=n_samples)
    return counts[:, number].astype(np.float64)


def joined(many: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Join the groups of several subjects: groups that have an image in common are one.

    Parameters
    ----------
    many : sequence of mappings of str to str
        Of each subject, name of an image → name of its group. Names of groups are each subject's
        own; equal names of different subjects may be different groups.

    Returns
    -------
    dict of str to str
        Name of an image → name of its group: that of its first image.
    """
    first: dict[str, str] = {}

    def root(name: str) -> str:
        while first[name] != name:
            first[name] = first[first[name]]
            name = first[name]
        return name

    for group_of in many:
        for images in images_of_groups(group_of).values():
            for image in images:
                first.setdefault(image, image)
            lowest = min(map(root, images))
            for image in images:
                first[root(image)] = lowest
    return {image: root(image) for image in first}


def images_of_groups(group_of: Mapping[str, str]) -> dict[str, list[str]]:
    """Name of each group → its images."""
    found: dict[str, list[str]] = {}
    for image, group in group_of.items():
        found.setdefault(group, []).append(image)
    return found


def with_their_groups(images: Collection[str], group_of: Mapping[str, str]) -> set[str]:
    """Images, and all others of their groups."""
    chosen = {group_of[image] for image in images if image in group_of}
    return {*images, *(image for image, group in group_of.items() if group in chosen)}
