"""The prepared subject: one format that every reader writes and everything else reads.

``prepared/<dataset>/sub-01/``

``betas.npy``               float32 (n_trials, n_voxels), z-scored within session; memory-mapped
``trials.tsv``              trial, session, image, repeat, split
``voxels.tsv``              i, j, k, ncsnr, then one column of labels per ROI collection
``mask.nii.gz``             the voxels, in C order
``sampling.npz``            how voxels reach fsaverage (`synbrain_cli.io.surface`), where known
``standardization.npz``     sessions (n_sessions,), mean and sd (n_sessions, n_voxels): session
                            s's betas in percent signal change are ``betas * sd[s] + mean[s]``
``dataset_description.json``  unit, sources with checksums, versions, options, simulated or not

Beside the subjects: ``features/<encoder>/tokens.npy`` (n_images, n_tokens, n_dims), with
``images.tsv`` (row order) and ``encoder.json``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd

from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.files import atomic, read_json, replace_folder, write_json
from synbrain_cli.io.surface import SurfaceSampling
from synbrain_cli.io.volume import load_image, save_image

SPLITS = ("train", "val", "test")
TRIAL_COLUMNS = ("trial", "session", "image", "repeat", "split")
_PLACE = ("i", "j", "k", "ncsnr")


@dataclass(frozen=True)
class Trials:
    """Some trials of one subject.

    Attributes
    ----------
    betas : float32 array of shape (n_trials, n_voxels)
    image_index : int array of shape (n_trials,)
        Row of ``images`` that each trial shows.
    images : array of str of shape (n_images,)
        Sorted.
    session : int array of shape (n_trials,)
    """

    betas: np.ndarray
    image_index: np.ndarray
    images: np.ndarray
    session: np.ndarray


@dataclass(frozen=True)
class PreparedSubject:
    """A prepared subject, opened; betas stay on disk until asked for."""

    folder: Path

    @cached_property
    def description(self) -> dict[str, Any]:
        return read_json(self.folder / "dataset_description.json")

    @property
    def dataset(self) -> str:
        return self.folder.parent.name

    @property
    def subject(self) -> str:
        """Label without ``sub-``: "01"."""
        return self.folder.name.removeprefix("sub-")

    @property
    def simulated(self) -> bool:
        return bool(self.description["Simulated"])

    @cached_property
    def betas(self) -> np.ndarray:
        path = self.folder / "betas.npy"
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError as error:
            raise MissingError(f"{path} does not exist: run `synbrain prepare` again") from error
        except (ValueError, EOFError, OSError) as error:
            raise InputError(
                f"{path}: truncated or damaged ({error}): run `synbrain prepare --overwrite`"
            ) from error

    @cached_property
    def trials(self) -> pd.DataFrame:
        table = pd.read_csv(self.folder / "trials.tsv", sep="\t", dtype={"image": str})
        if tuple(table.columns) != TRIAL_COLUMNS or len(table) != len(self.betas):
            raise InputError(
                f"{self.folder / 'trials.tsv'}: expected {len(self.betas)} rows and the columns "
                f"{TRIAL_COLUMNS}, found {len(table)} rows and {tuple(table.columns)}: "
                "run `synbrain prepare --overwrite`"
            )
        return table

    @cached_property
    def voxels(self) -> pd.DataFrame:
        return pd.read_csv(self.folder / "voxels.tsv", sep="\t", keep_default_na=False)

    @cached_property
    def mask(self) -> nib.Nifti1Image:
        return load_image(self.folder / "mask.nii.gz")

    @cached_property
    def sampling(self) -> SurfaceSampling | None:
        path = self.folder / "sampling.npz"
        return SurfaceSampling.load(path) if path.exists() else None

    @property
    def n_voxels(self) -> int:
        return self.betas.shape[1]

    @cached_property
    def sessions(self) -> list[int]:
        """Sessions in the order recorded."""
        return sorted(int(s) for s in self.trials["session"].unique())

    def standardization(self, sessions: Iterable[int]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation (n_voxels,), percent signal change, averaged over ``sessions``."""
        with np.load(self.folder / "standardization.npz", allow_pickle=False) as file:
            rows = np.isin(file["sessions"], list(sessions))
            return file["mean"][rows].mean(0), np.sqrt((file["sd"][rows] ** 2).mean(0))

    def select(self, split: str, sessions: Iterable[int] | None = None) -> Trials:
        """Load the trials of one split, in recorded order.

        Raises
        ------
        InputError
            When there are none.
        """
        table = self.trials
        chosen = (table["split"] == split).to_numpy()
        if sessions is not None:
            chosen = chosen & table["session"].isin(list(sessions)).to_numpy()
        if not chosen.any():
            raise InputError(
                f"{self.folder}: no trial of the {split} split"
                + (f" in sessions {list(sessions)}" if sessions is not None else "")
            )
        images, index = np.unique(table["image"][chosen].to_numpy(str), return_inverse=True)
        return Trials(
            np.asarray(self.betas[chosen]), index, images, table["session"][chosen].to_numpy()
        )

    def rois(self) -> dict[str, np.ndarray]:
        """Boolean array (n_voxels,) per ROI; V1, V2 and V3 join their ventral and dorsal parts.

        Columns are collections; a label found in two of them is listed once, joined.
        """
        return roi_masks(self.voxels)


def roi_masks(voxels: pd.DataFrame) -> dict[str, np.ndarray]:
    """ROIs of a ``voxels.tsv`` table: see `PreparedSubject.rois`."""
    masks: dict[str, np.ndarray] = {}
    for collection in [c for c in voxels.columns if c not in _PLACE]:
        labels = voxels[collection].astype(str).to_numpy()
        for label in sorted(set(labels) - {""}):
            name = label[:-1] if label in ("V1v", "V1d", "V2v", "V2d", "V3v", "V3d") else label
            masks[name] = masks.get(name, False) | (labels == label)
    return masks


class PreparedWriter:
    """Writes a prepared subject session by session; a stopped run goes on where it was.

    Everything is written in ``.sub-01.partial`` beside the final folder, which takes its name
    when `finish` is called.

    Parameters
    ----------
    folder : path
        Final folder.
    options : dict
        What the content depends on (sources, options). A partial folder made with others is
        dropped.
    sessions : list of int
    n_trials : list of int
        Per session.
    n_voxels : int
    """

    def __init__(
        self,
        folder: Path,
        options: dict[str, Any],
        sessions: list[int],
        n_trials: list[int],
        n_voxels: int,
    ) -> None:
        self.folder = Path(folder)
        self.partial = self.folder.with_name(f".{self.folder.name}.partial")
        self._options = json.loads(
            json.dumps({**options, "n_trials": n_trials, "n_voxels": n_voxels})
        )
        self._sessions = sessions
        self._starts = np.concatenate([[0], np.cumsum(n_trials)])
        self._progress = self.partial / "progress.json"
        if self._progress.exists() and read_json(self._progress)["options"] == self._options:
            self.done: list[int] = read_json(self._progress)["done"]
            self._betas = np.lib.format.open_memmap(self.partial / "betas.npy", mode="r+")
            return
        shutil.rmtree(self.partial, ignore_errors=True)
        self.partial.mkdir(parents=True)
        self.done = []
        self._betas = np.lib.format.open_memmap(
            self.partial / "betas.npy", "w+", np.float32, (int(self._starts[-1]), n_voxels)
        )
        write_json(self._progress, {"options": self._options, "done": []})

    def write_session(self, session: int, betas: np.ndarray) -> None:
        """Standardise one session's betas (percent signal change) and keep them.

        The z-score uses all trials of the session, test trials included, as is usual for NSD;
        ``dataset_description.json`` says so. Voxels that are constant or not finite are marked,
        and left out by `finish`.
        """
        position = self._sessions.index(session)
        mean = betas.mean(0, dtype=np.float64)
        sd = betas.std(0, dtype=np.float64)
        usable = np.isfinite(sd) & (sd > 0)
        scale = np.where(usable, sd, 1.0)
        start, stop = self._starts[position : position + 2]
        self._betas[start:stop] = np.where(usable, (betas - mean) / scale, 0)
        self._betas.flush()
        with atomic(self.partial / f"session{session:02d}.npz") as path, path.open("wb") as file:
            np.savez(file, mean=mean.astype(np.float32), sd=sd.astype(np.float32), usable=usable)
        self.done.append(session)
        write_json(self._progress, {"options": self._options, "done": self.done})

    def finish(
        self,
        trials: pd.DataFrame,
        voxels: pd.DataFrame,
        mask: nib.Nifti1Image,
        sampling: SurfaceSampling | None,
        description: dict[str, Any],
    ) -> int:
        """Drop unusable voxels, write the tables, and give the folder its name.

        Parameters
        ----------
        trials, voxels : DataFrame
        mask : Nifti1Image
            As many voxels as ``voxels`` has rows.
        sampling : SurfaceSampling, optional
        description : dict
            Goes into ``dataset_description.json`` with what is known here.

        Returns
        -------
        int
            Voxels left out because they were constant or not finite in some session.
        """
        parts = [dict(np.load(self.partial / f"session{s:02d}.npz")) for s in self._sessions]
        usable = np.all([part["usable"] for part in parts], axis=0)
        n_dropped = int((~usable).sum())
        if not usable.any():
            raise InputError(
                f"{self.folder.name}: every voxel is constant or not finite in some session: "
                "is the mask that of these betas?"
            )
        if n_dropped:
            kept = np.lib.format.open_memmap(
                self.partial / "kept.npy", "w+", np.float32, (len(self._betas), int(usable.sum()))
            )
            for start in range(0, len(kept), 1024):
                kept[start : start + 1024] = self._betas[start : start + 1024, usable]
            kept.flush()
            (self.partial / "kept.npy").replace(self.partial / "betas.npy")
            inside = np.asarray(mask.dataobj) > 0
            inside[inside] = usable
            mask = nib.Nifti1Image(inside.astype(np.uint8), mask.affine, mask.header)
            voxels = voxels[usable]
            if sampling is not None:
                sampling = sampling.keep(usable)
        with (self.partial / "standardization.npz").open("wb") as file:
            np.savez(
                file,
                sessions=np.array(self._sessions),
                mean=np.stack([part["mean"][usable] for part in parts]),
                sd=np.stack([part["sd"][usable] for part in parts]),
            )
        trials.to_csv(self.partial / "trials.tsv", sep="\t", index=False)
        voxels.to_csv(self.partial / "voxels.tsv", sep="\t", index=False, float_format="%.5g")
        save_image(mask, self.partial / "mask.nii.gz")
        if sampling is not None:
            sampling.save(self.partial / "sampling.npz")
        write_json(
            self.partial / "dataset_description.json",
            {**description, "VoxelsLeftOut": n_dropped},
        )
        for session in self._sessions:
            (self.partial / f"session{session:02d}.npz").unlink()
        self._progress.unlink()
        del self._betas
        replace_folder(self.partial, self.folder)
        return n_dropped


def find_prepared(root: Path) -> list[PreparedSubject]:
    """Prepared subjects below ``root`` (a workspace's ``prepared/``), sorted."""
    return [
        PreparedSubject(path.parent)
        for path in sorted(Path(root).glob("*/sub-*/dataset_description.json"))
    ]


# ------------------------------------------------------------------------------ tokens


@dataclass(frozen=True)
class TokenStore:
    """Image tokens of a dataset under one encoder: ``prepared/<dataset>/features/<encoder>/``."""

    folder: Path

    @cached_property
    def identity(self) -> dict[str, Any]:
        return read_json(self.folder / "encoder.json")

    @cached_property
    def images(self) -> list[str]:
        path = self.folder / "images.tsv"
        return pd.read_csv(path, sep="\t", dtype=str)["image"].tolist() if path.exists() else []

    @cached_property
    def tokens(self) -> np.ndarray:
        """float32 (n_images, n_tokens, n_dims), memory-mapped."""
        return np.load(self.folder / "tokens.npy", mmap_mode="r", allow_pickle=False)

    def take(self, images: Iterable[str]) -> np.ndarray:
        """Tokens of the named images, in their order: float32 (n_images, n_tokens, n_dims).

        Raises
        ------
        MissingError
            When some have not been extracted.
        """
        row = {image: i for i, image in enumerate(self.images)}
        images = list(images)
        missing = [image for image in images if image not in row]
        if missing:
            raise MissingError(
                f"{self.folder}: no tokens of {len(missing)} images (first: {missing[0]}): "
                "run `synbrain prepare` again with this encoder"
            )
        return np.asarray(self.tokens[[row[image] for image in images]])
