"""MOSAIC's betas: one HDF5 file a subject, with a dataset of 91,282 grayordinates for each trial.

Layout after MOSAIC's own code (blahner/mosaic-preprocessing, ``create_hdf5_pkl.py``): group
``betas``, datasets ``sub-01_NSD_stimulus-<name>_phase-<train|test>_rep-<n>`` with the attribute
``presented_stimulus_filename``; group ``noiseceilings``, where stimuli were repeated, datasets
``sub-01_NSD_phase-<train|test|artificial>_n-<1|avg>_noiseceiling`` in percent of variance. Neither
session nor time of a trial is told; ``rep`` numbers a stimulus's trials in time, from 0. Vertices
may be NaN.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from synbrain_cli.datasets.mosaic_files import MosaicCopy
from synbrain_cli.errors import InputError
from synbrain_cli.io.fslr import N_GRAYORDINATES
from synbrain_cli.io.reading import AGAIN, reading
from synbrain_cli.io.values import as_float32

BLOCK = 128  # trials in memory at a time
_KEY = re.compile(r"sub-(\d+)_([A-Za-z0-9]+)_stimulus-(.+)_phase-(train|test)_rep-(\d+)", re.DOTALL)
_WHAT = "MOSAIC's betas of a subject (HDF5)"


def read_trials(copy: MosaicCopy, subject: int) -> pd.DataFrame:
    """List the trials of a subject, sorted by the names of images, then by repeat.

    Rows that follow the names of images are known not to be in the order of time
    (`synbrain_cli.model.sequence_fit.is_sorted_by_name`), which the files do not tell.

    Parameters
    ----------
    copy : MosaicCopy
    subject : int

    Returns
    -------
    DataFrame
        ``key`` (name of the dataset), ``image``, ``repeat`` (from 0), and of the stimulus
        ``filename``, ``split`` and ``artificial``.

    Raises
    ------
    MissingError, InputError
        When a file is absent or damaged, names another subject, or a stimulus that the table does
        not know, or knows for the other split.
    """
    path = copy.betas(subject)
    with reading(path, _WHAT), h5py.File(path, "r") as file:
        group = _group(path, file, "betas")
        if group is None:
            raise InputError(
                f"{path}: expected a group betas, found {', '.join(file) or 'nothing'}: {AGAIN}"
            )
        keys = list(group)
    parsed = [_parse(path, key, subject, copy.of.short) for key in keys]
    if not parsed:
        raise InputError(f"{path}: expected trials in its group betas, found none: {AGAIN}")
    table = pd.DataFrame(parsed, columns=["key", "image", "phase", "repeat"])
    stimuli = copy.stimuli
    unknown = sorted(set(table["image"]) - set(stimuli.index))
    if unknown:
        raise InputError(
            f"{path}: {len(unknown):,} of its stimuli are not in {copy.table_file} "
            f"({_first(unknown)}): is it the table of {copy.of.name}? {AGAIN}"
        )
    table = table.join(stimuli, on="image")
    other = table[table["phase"] != table["split"]]
    if len(other):
        one = other.iloc[0]
        raise InputError(
            f"{path}: {one['image']} is a {one['phase']} stimulus there, and a {one['split']} "
            f"stimulus in {copy.table_file}: {AGAIN}"
        )
    return table.sort_values(["image", "repeat"], kind="stable", ignore_index=True)


def find_difference(copy: MosaicCopy, subject: int, trials: pd.DataFrame) -> str | None:
    """Say how trials differ from those that the table of stimuli counts; None if they do not.

    MOSAIC's lists of trials are made of these counts, so that they agree in its own files.

    Parameters
    ----------
    copy : MosaicCopy
    subject : int
    trials : DataFrame
        From `read_trials`.
    """
    expected = copy.repeats(subject)
    found = trials["image"].value_counts().reindex(expected.index, fill_value=0)
    last = trials.groupby("image")["repeat"].max().reindex(expected.index, fill_value=-1)
    other = expected.index[(expected != found) | (last + 1 != found)]
    if not len(other):
        return None
    first = other[0]
    what = f"{found[first]}, the last one rep-{last[first]}" if found[first] else "none"
    return (
        f"{copy.betas(subject)}: {len(other):,} stimuli have other trials than "
        f"{copy.table_file.name} counts (first: {first}, expected {expected[first]} from rep-0 on, "
        f"found {what})"
    )


def _parse(path: Path, key: str, subject: int, short: str) -> tuple[str, str, str, int]:
    match = _KEY.fullmatch(key)
    if match is None:
        raise InputError(
            f"{path}: expected trials such as sub-{subject:02d}_{short}_stimulus-NAME_phase-train_"
            f"rep-0 in its group betas, found {key!r}: {AGAIN}"
        )
    if (int(match[1]), match[2]) != (subject, short):
        raise InputError(
            f"{path}: expected trials of sub-{subject:02d}_{short}, found those of "
            f"sub-{match[1]}_{match[2]}: is it the file of another subject?"
        )
    return key, match[3], match[4], int(match[5])


def _group(path: Path, file: h5py.File, name: str) -> h5py.Group | None:
    """Return a group of the file itself; None where there is none."""
    link = file.get(name, getlink=True) if name in file else None
    if link is None:
        return None
    if not isinstance(link, h5py.HardLink) or not isinstance(file[name], h5py.Group):
        raise InputError(f"{path}: expected a group {name} in the file itself: {AGAIN}")
    return file[name]


def _values(path: Path, group: h5py.Group, key: str) -> h5py.Dataset:
    """Return a dataset of one value per grayordinate, which lies in the file itself."""
    link = group.get(key, getlink=True)
    found: Any = group[key] if isinstance(link, h5py.HardLink) else link
    if not isinstance(found, h5py.Dataset) or found.external or found.is_virtual:
        raise InputError(f"{path}: expected {key} in the file itself, found a link: {AGAIN}")
    if found.shape != (N_GRAYORDINATES,) or found.dtype.kind != "f":
        raise InputError(
            f"{path}: expected {N_GRAYORDINATES:,} grayordinates (fsLR, 32k) of {key}, found "
            f"{found.dtype} of shape {found.shape}: {AGAIN}"
        )
    return found


@dataclass(frozen=True)
class BetasFile:
    """A subject's file of betas, and the grayordinates that are wanted.

    Attributes
    ----------
    path : Path
    rows : int array of shape (n_vertices,)
        Grayordinates, 0-based.
    """

    path: Path
    rows: np.ndarray

    def blocks(self, keys: Sequence[str], files: Sequence[str]) -> Iterator[np.ndarray]:
        """Yield the betas of trials, `BLOCK` at a time: float32 (n_trials, n_vertices).

        Parameters
        ----------
        keys : sequence of str
            Names of datasets.
        files : sequence of str
            File that each trial showed.

        Raises
        ------
        InputError
            When the file is damaged; a trial has another length, no value at all, or showed another
            file.
        """
        with reading(self.path, _WHAT), h5py.File(self.path, "r") as file:
            group = _group(self.path, file, "betas")
            for start in range(0, len(keys), BLOCK):
                some = keys[start : start + BLOCK]
                values = np.empty((len(some), len(self.rows)))
                for row, key in enumerate(some):
                    values[row] = self._trial(group, key, files[start + row])
                yield as_float32(values, self.path)

    def _trial(self, group: h5py.Group, key: str, file: str) -> np.ndarray:
        found = _values(self.path, group, key)
        shown = found.attrs.get("presented_stimulus_filename", file)
        shown = shown.decode("utf-8", "replace") if isinstance(shown, bytes) else str(shown)
        if shown != file:
            raise InputError(
                f"{self.path}: {key} showed {shown}, and the table of stimuli has {file}: {AGAIN}"
            )
        values = found[()][self.rows]
        if not np.isfinite(values).any():
            raise InputError(
                f"{self.path}: {key} has no finite value in the vertices that are wanted: {AGAIN}"
            )
        return values

    def noise_ceilings(self) -> dict[str, np.ndarray]:
        """Read the noise ceilings of single trials, in percent of variance.

        Returns
        -------
        dict of float64 arrays of shape (n_vertices,)
            For "train", "test" and "artificial" where the file has them; NaN where unknown.

        Raises
        ------
        InputError
            When the file is damaged, or holds other values.
        """
        found, of_averages = {}, set()
        with reading(self.path, _WHAT), h5py.File(self.path, "r") as file:
            group = _group(self.path, file, "noiseceilings")
            for key in group if group is not None else ():
                match = re.search(r"_phase-(train|test|artificial)_n-(1|avg)(_|$)", key)
                if match is None:
                    continue
                if match[2] == "avg":
                    of_averages.add(match[1])
                    continue
                values = _values(self.path, group, key)[()].astype(np.float64)
                known = values[np.isfinite(values)]
                if not len(known) or known.min() < 0 or known.max() > 100:
                    span = f"{known.min():.3g} to {known.max():.3g}" if len(known) else "no number"
                    raise InputError(
                        f"{self.path}: expected percent of variance in {key}, found {span}: {AGAIN}"
                    )
                found[match[1]] = np.where(np.isfinite(values), values, np.nan)[self.rows]
        lacking = sorted(of_averages - found.keys())
        if lacking:
            raise InputError(
                f"{self.path}: expected noise ceilings phase-{lacking[0]}_n-1, of single trials, "
                f"beside those of averages (n-avg), found none: {AGAIN}"
            )
        return found


def to_ncsnr(ceiling: np.ndarray) -> np.ndarray:
    """Return ncsnr of the noise ceiling of single trials: √(c / (100 − c)).

    It inverts the ceiling of Allen et al. (2022), 100 · ncsnr² / (ncsnr² + 1/n) for n = 1, by which
    MOSAIC's were computed. NaN where the ceiling is 100.

    Parameters
    ----------
    ceiling : float array
        In percent of variance.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ncsnr = np.sqrt(ceiling / (100 - ceiling))
    return np.where(np.isfinite(ncsnr), ncsnr, np.nan)


def _first(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
