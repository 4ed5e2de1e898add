"""The table of trials and the folder of images of an experiment: image and split of each trial."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from synbrain_cli.datasets.image_folder import ImageFolder
from synbrain_cli.datasets.splits import (
    LEAST_IN_ALL,
    LEAST_TESTED,
    check_splits,
    draw_images,
    read_split_list,
    split_trials,
)
from synbrain_cli.errors import InputError
from synbrain_cli.features.images import read_image
from synbrain_cli.groups import count_groups, number_groups, with_their_groups
from synbrain_cli.io.prepared_tables import GROUP, SPLITS, groups_of
from synbrain_cli.io.tables import has_no_value, missing_column, read_table, row_in, whole_numbers
from synbrain_cli.labels import image_stem

IMAGE_COLUMNS = ("image", "stim_file")  # the second is the name in BIDS
# Images that are shown at least OFTEN times as often as the median image are taken as test images,
# if there are at least N_OFTEN of them (ours).
OFTEN = 3
N_OFTEN = 20


class Shown(Protocol):
    """What says which images were shown, and how they are split: fields of `Experiment`."""

    @property
    def tables(self) -> tuple[Path, ...]:
        """Tables of trials."""

    @property
    def table_names(self) -> str:
        """Their names, for messages."""

    @property
    def images(self) -> Path | None:
        """Folder of the images."""

    @property
    def image_column(self) -> str | None:
        """Column with the images."""

    @property
    def split(self) -> Path | None:
        """List of splits."""

    @property
    def test_share(self) -> float:
        """Share of test images."""

    @property
    def validation_share(self) -> float:
        """Share of validation images."""

    @property
    def seed(self) -> int:
        """Seed of their choice."""

    @property
    def leave_out(self) -> bool:
        """Whether there are no fixed test images."""

    def options(self) -> dict[str, Any]:
        """Return the options on which the content depends, with checksums of files."""


@dataclass(frozen=True)
class TrialTable:
    """The trials of an experiment, read and checked.

    Attributes
    ----------
    experiment : Experiment, or another record with its fields of this kind
    """

    experiment: Shown

    @cached_property
    def _parts(self) -> list[pd.DataFrame]:
        return [read_table(path) for path in self.experiment.tables]

    @cached_property
    def _joined(self) -> pd.DataFrame:
        """The tables, concatenated without changes."""
        return pd.concat(self._parts, ignore_index=True).fillna("")

    @property
    def _column(self) -> str:
        """Column with the images."""
        experiment = self.experiment
        return image_column(experiment.table_names, self._joined, experiment.image_column)

    def row(self, index: int) -> str:
        """Return file and line of a row of the concatenated tables, for messages."""
        for path, part in zip(self.experiment.tables, self._parts, strict=True):
            if index < len(part):
                return row_in(path)(index)
            index -= len(part)
        raise IndexError(index)

    @cached_property
    def table(self) -> pd.DataFrame:
        """The checked table, in its own order: image, session, repeat, split and group.

        Images are named without folder and suffix. ``repeat`` is 0, and ``split`` empty, where the
        table does not have the column; there is no ``group`` where it does not have that.

        Raises
        ------
        MissingError, InputError
            When a column or an image is missing, or a value is not valid.
        """
        experiment = self.experiment
        table = self._joined
        column = self._column
        if not len(table):
            raise InputError(f"{experiment.table_names}: expected one row per trial, found no row")
        empty = np.flatnonzero(table[column].isin(["", "n/a"]).to_numpy())
        if len(empty):
            raise InputError(
                f"{self.row(empty[0])} names no image: leave trials without an image "
                "out of the table and of the responses"
            )
        # Without a column session, each table is one session.
        lengths = [len(part) for part in self._parts]
        session = np.repeat(np.arange(1, len(lengths) + 1), lengths)
        if _is_given(table, "session"):
            session = whole_numbers(table["session"], self.row, prefix="ses-")
            numbers, counts = np.unique(session, return_counts=True)
            if counts.min() == 1:
                raise InputError(
                    f"{experiment.table_names}: session {numbers[counts.argmin()]} has one "
                    "trial: expected sessions (days of recording) in the column session, numbered "
                    "from 1"
                )
        names = self._names_of(table[column])
        repeat: Any = 0
        if _is_given(table, "repeat"):
            repeat = whole_numbers(table["repeat"], self.row)
        checked = pd.DataFrame(
            {
                "image": [names[value] for value in table[column]],
                "session": session,
                "repeat": repeat,
                "split": table["split"] if _is_given(table, "split") else "",
            }
        )
        return checked.assign(group=table[GROUP].str.strip()) if GROUP in table else checked

    @cached_property
    def group_of(self) -> dict[str, str]:
        """Name of each image → name of its group; empty where every image stands alone.

        Raises
        ------
        InputError
            A cell is empty, an image is in two groups, or a group in two splits of the table.
        """
        table = self.table
        if not self._splits_are_given:
            table = table.assign(split="")
        table = table.assign(split=table["split"].replace({"validation": "val"}))
        advice = f"remove the column {GROUP}, if it is of something else"
        return groups_of(table, self.experiment.table_names, self.row, advice)

    def _names_of(self, values: pd.Series) -> dict[str, str]:
        """Return the name of the image of each value: without folder and suffix."""
        if self.experiment.images is not None:
            return {value: path.stem for value, path in self._folder.find(values).items()}
        value_of: dict[str, str] = {}
        for value in values.unique():
            name = image_stem(value).rpartition("/")[2]
            if not name or value_of.setdefault(name, value) != value:
                raise InputError(
                    f"{self.experiment.table_names}: {value_of.get(name, '')} and {value} have the "
                    "same name: images are identified by their name without folder and suffix, so "
                    "rename one of them"
                )
        return {value: name for name, value in value_of.items()}

    @property
    def _folder(self) -> ImageFolder:
        names, folder = self.experiment.table_names, self.experiment.images
        if folder is None:
            raise InputError(f"{names}: expected a folder of images, found none: pass --images")
        return ImageFolder(folder, names)

    @cached_property
    def image_files(self) -> dict[str, Path]:
        """Name of each image → its file."""
        return {path.stem: path for path in self._folder.find(self._joined[self._column]).values()}

    def image_paths(self) -> dict[str, str]:
        """Name of each image → its path, or, without a folder of images, its value in the table."""
        if self.experiment.images is not None:
            return {name: path.as_posix() for name, path in self.image_files.items()}
        return {name: value for value, name in self._names_of(self._joined[self._column]).items()}

    def sorted_images(self) -> tuple[list[str], str]:
        """Return the sorted names of all images, and what they are, for messages.

        They are those of the files in the folder of images; where that is not given, or has images
        in folders only, those of the table.
        """
        if self.experiment.images is not None:
            files = [path.name for path in self._folder.files()]
            if files:
                return files, f"the images in {self.experiment.images}"
        return sorted(self.table["image"].unique()), f"the images of {self.experiment.table_names}"

    def read_images(self, names: list[str]) -> Iterator[np.ndarray]:
        """Yield the pixels of images: uint8 (height, width, 3).

        Parameters
        ----------
        names : list of str
            Names as in `table`.
        """
        for name in names:
            yield read_image(self.image_files[name])

    def repeats(self) -> np.ndarray:
        """Return the number of the repeat of each trial, from the table or counted in its order.

        Raises
        ------
        InputError
            When two trials are the same repeat of an image.
        """
        table = self.table
        counted = table.groupby("image").cumcount().to_numpy() + 1
        if not (table["repeat"] > 0).any():
            return counted
        twice = np.flatnonzero(table.duplicated(["image", "repeat"]).to_numpy())
        if len(twice):
            row = table.iloc[twice[0]]
            raise InputError(
                f"{self.row(twice[0])}: repeat {row['repeat']} of {row['image']} occurs "
                "twice: number the repeats of an image 1, 2, …, or remove the column"
            )
        return table["repeat"].to_numpy()

    def prepared(self, log: Callable[[str], None]) -> pd.DataFrame:
        """Return ``trials.tsv``: session by session, within each in the order of the table.

        Parameters
        ----------
        log : callable
            Called with a line that describes the choice of test images.

        Raises
        ------
        MissingError, InputError
            As `splits` and `repeats`; when a split has too few images or groups.
        """
        table, split = self.table, self.splits(log)
        shown = table["image"].to_numpy(str)
        may_lack = self.may_leave_out and not (split == "test").any()
        needed = SPLITS[:2] if may_lack else SPLITS
        check_splits(split, shown, self.split_advice, self.group_of, needed)
        order = np.argsort(table["session"].to_numpy(), kind="stable")
        trials = pd.DataFrame({"trial": order, "session": table["session"].to_numpy()[order]})
        trials = trials.assign(image=shown[order], repeat=self.repeats()[order], split=split[order])
        if self.group_of:
            trials[GROUP] = trials["image"].map(self.group_of)
        return trials

    def splits(self, log: Callable[[str], None]) -> np.ndarray:
        """Return the split of each trial: from a list, from the table, or chosen here.

        The test images chosen here are those shown far more often than the others (`OFTEN`), which
        were probably meant for this purpose; without such images, a random share of all.

        Parameters
        ----------
        log : callable
            Called with a line that describes the choice.

        Returns
        -------
        array of str of shape (n_trials,)
            "train", "val" or "test".

        Raises
        ------
        MissingError, InputError
            When a split is unknown, or an image is in two splits.
        """
        experiment = self.experiment
        table = self.table
        shown = table["image"].to_numpy(str)
        if self._splits_are_given:
            return self._given_splits()
        if experiment.split is not None:
            test, validation = read_split_list(experiment.split, shown)
        else:
            validation = set()
            test = set() if experiment.leave_out else self._chosen_test_images(log)
            if not test:
                log(f"no fixed test images: `synbrain evaluate` leaves out {self._unit}s by turns")
        split = split_trials(
            shown,
            test,
            validation,
            share=experiment.validation_share,
            seed=experiment.seed,
            group_of=self.group_of,
        )
        if experiment.split is not None and self.group_of:
            self._check_list(test, validation)
        return split

    @property
    def _unit(self) -> str:
        return "group" if self.group_of else "image"

    def _chosen_test_images(self, log: Callable[[str], None]) -> set[str]:
        """Choose test images; none where they would be too few to score."""
        experiment, group_of = self.experiment, self.group_of
        counts = self.table.groupby("image").size()
        images = set(counts.index)
        often = counts[counts >= OFTEN * counts.median()]
        meant = with_their_groups(set(often.index), group_of)
        if len(often) >= N_OFTEN and len(meant) < len(counts) / 2:
            log(f"test images: the {len(meant)} shown {often.min()} times or more (--split)")
            return meant
        test = draw_images(images, experiment.test_share, experiment.seed, "test", group_of)
        tested, every = (
            count_groups(len(some), number_groups(some, group_of)) for some in (test, images)
        )
        if tested < LEAST_TESTED and every >= LEAST_IN_ALL:
            log(
                f"{experiment.test_share:.0%} of the {every} {self._unit}s are {tested}, and no "
                f"score over fewer than {LEAST_TESTED} means anything (more with --test)"
            )
            return set()
        what = f"{tested} of {every} groups of " if group_of else ""
        log(f"test images: {what}{len(test)} of {len(counts)}, random (--test, --split)")
        return test

    def _check_list(self, test: set[str], validation: set[str]) -> None:
        """Refuse a list of splits that tears a group of images apart."""
        for name, some in (("test", test), ("val", validation)):
            torn = sorted(with_their_groups(some, self.group_of) - some)
            if torn:
                group = self.group_of[torn[0]]
                raise InputError(
                    f"{self.experiment.split}: {torn[0]} is not in the split {name}, but another "
                    f"image of its group {group} is: a model would be tested on images like those "
                    "that it was trained on; give all images of a group one split, or remove the "
                    f"column {GROUP} of {self.experiment.table_names}"
                )

    @property
    def _splits_are_given(self) -> bool:
        """Whether the table itself says which split each trial belongs to."""
        given = self.experiment.split is None and not self.experiment.leave_out
        return given and bool((self.table["split"] != "").any())

    @property
    def may_leave_out(self) -> bool:
        """Whether there may be no test images: nobody named any."""
        return self.experiment.split is None and not self._splits_are_given

    @property
    def split_advice(self) -> str:
        """What the user can do where a split has no image, for messages."""
        if self._splits_are_given:
            return (
                f"name more in the column split of {self.experiment.table_names}, pass a list "
                "with --split, or leave the column out to have them drawn"
            )
        if self.experiment.split is not None:
            return f"name more in the column split of {self.experiment.split} (--split)"
        return (
            "draw more with --test and --validation, name them with --split, or have no fixed test "
            "images (--split leave-out)"
        )

    def _given_splits(self) -> np.ndarray:
        experiment = self.experiment
        split = self.table["split"].replace({"validation": "val"}).to_numpy(str)
        unknown = np.flatnonzero(~np.isin(split, SPLITS))
        if len(unknown):
            raise InputError(
                f"{self.row(unknown[0])}: expected {', '.join(SPLITS)} in the column "
                f"split, found {str(split[unknown[0]])!r}"
            )
        pairs = pd.DataFrame({"image": self.table["image"], "split": split}).drop_duplicates()
        twice = pairs["image"][pairs["image"].duplicated()]
        if len(twice):
            raise InputError(
                f"{experiment.table_names}: the column split puts {twice.iloc[0]} in two splits: a "
                "model would be tested on an image it was trained on; give all trials of an image "
                "one split"
            )
        if not (split == "val").any():
            chosen = draw_images(
                set(self.table["image"][split == "train"]),
                experiment.validation_share,
                experiment.seed,
                group_of=self.group_of,
            )
            split[np.isin(self.table["image"].to_numpy(str), list(chosen)) & (split == "train")] = (
                "val"
            )
        return split


def image_column(name: str, table: pd.DataFrame, asked: str | None) -> str:
    """Return the column of a table that names the images: that which was asked for, or the usual.

    Raises
    ------
    InputError
        When there is none. It names the table, ``name``.
    """
    column = asked or next((c for c in IMAGE_COLUMNS if c in table), None)
    if column is None or column not in table:
        error = missing_column(name, asked or "image", list(table.columns))
        raise InputError(f"{error}; or name the column of the images with --image-column")
    return column


def _is_given(table: pd.DataFrame, column: str) -> bool:
    """Whether a column exists and has a value in any row."""
    return column in table and not has_no_value(table[column]).all()
