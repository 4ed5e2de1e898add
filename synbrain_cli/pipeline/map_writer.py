"""Maps with one value per voxel → NIfTI and GIFTI files with sidecars, and pictures.

What commands write beside their tables: a derivative in the sense of BIDS
(`synbrain_cli.io.bids`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from synbrain_cli.brain import Brain
from synbrain_cli.io.bids import (
    MODEL,
    Derivative,
    bids_label,
    func_file,
    func_folder,
    write_derivative,
)
from synbrain_cli.io.files import atomic, versions
from synbrain_cli.io.records import write_record
from synbrain_cli.io.responses import MapSidecar, SegmentationSidecar
from synbrain_cli.io.surface import space_entity, write_hemispheres
from synbrain_cli.io.volume import save_image
from synbrain_cli.io.voxel_space import Vertices, Volume
from synbrain_cli.plotting.figure import save_figure
from synbrain_cli.plotting.map_plotter import Look, MapPlotter
from synbrain_cli.plotting.maps import BrainMap
from synbrain_cli.progress import Progress

Surfaces = Mapping[str, np.ndarray]  # left and right


@dataclass(frozen=True, eq=False)
class StatMap:
    """A map of a statistic, to be written.

    Attributes
    ----------
    stat : str
        Its name, of letters and digits.
    values : float array of shape (n_voxels,)
    unit : str
    description : str
        What it shows.
    contrast : str, optional
        Label of the contrast that it is a statistic of.
    resample : callable, optional
        Takes the name of a space and returns the map there, of values that are no means of their
        neighbours (angles); default `Brain.to_surface`.
    """

    stat: str
    values: np.ndarray
    unit: str
    description: str
    contrast: str | None = None
    resample: Callable[[str], Surfaces] | None = None


@dataclass(frozen=True)
class MapWriter:
    """Writes the maps of one model into a folder.

    Attributes
    ----------
    folder : Path
        Of the data set.
    brain : Brain
    """

    folder: Path
    brain: Brain

    def uri(self, what: str) -> str:
        """BIDS URI of a file of the subject, given the end of its name."""
        return f"bids::{func_file(self.brain.subject, what)}"

    def describe(self, title: str, about: str) -> None:
        """Write what others read first, and, in a volume, the mask of the voxels.

        Parameters
        ----------
        title, about : str
            As in `synbrain_cli.io.bids.Derivative`.
        """
        brain = self.brain
        models = {brain.folder.absolute(): brain.config.fingerprint}
        described = Derivative(title, brain.simulated, about, models, [brain.config.dataset])
        write_derivative(self.folder, described)
        shown = (
            "Voxels that the model predicts. The last axis of arrays, and the rows of voxels.tsv, "
            "are these voxels in C order (the last axis of the volume fastest)"
        )
        source = f"bids:{MODEL}:mask.nii.gz"
        self.write_mask("voxels", np.ones(brain.n_voxels, bool), shown, source)

    def write(self, maps: Iterable[StatMap]) -> None:
        """Write maps in the subject's own space, and on its surface where that can be reached.

        Each has a sidecar, which by BIDS's inheritance principle holds for its files in all spaces.
        """
        brain, where = self.brain, self.brain.voxel_space
        for one in maps:
            base = self._base(f"_contrast-{one.contrast}" if one.contrast else "")
            what = f"stat-{one.stat}_statmap"
            surfaces: dict[str, Surfaces] = {}
            if isinstance(where.geometry, Volume):
                save_image(brain.to_nifti(one.values), Path(f"{base}_{what}.nii.gz"))
            elif isinstance(where.geometry, Vertices):
                surfaces[where.geometry.space] = where.geometry.to_full(one.values)
            default = where.surface
            if default in where.other_spaces and default not in surfaces:
                resample = one.resample or partial(brain.to_surface, one.values)
                surfaces[default] = resample(default)
            meta = {"Unit": one.unit, "Simulated": str(brain.simulated)}
            for space, hemispheres in surfaces.items():
                write_hemispheres(base, f"{space_entity(space)}_{what}", hemispheres, meta)
            write_record(Path(f"{base}_{what}.json"), map_sidecar(brain, one.description, one.unit))

    def write_mask(self, description: str, inside: np.ndarray, shown: str, source: str) -> None:
        """Write some voxels of a volume as a mask; of others, nothing.

        Parameters
        ----------
        description : str
            Entity ``desc-``.
        inside : bool array of shape (n_voxels,)
        shown : str
            What they are.
        source : str
            File that they were found in, as a BIDS URI.
        """
        sidecar = SegmentationSidecar(description=shown, type="ROI", sources=[source])
        self._write_labels(f"desc-{description}_mask", inside.astype(np.uint8), sidecar)

    def write_regions(
        self, description: str, numbers: np.ndarray, names: Sequence[str], shown: str
    ) -> None:
        """Write regions of a volume, and a table of their names; of others, nothing.

        Parameters
        ----------
        description : str
            Entity ``desc-``.
        numbers : float array of shape (n_voxels,)
            Of the region of each voxel, from 0 in the order of the names; NaN: none. The file
            counts from 1.
        names : sequence of str
        shown : str
            What they are.
        """
        labels = np.nan_to_num(numbers + 1).astype(np.uint16)  # 0: none
        sidecar = SegmentationSidecar(description=shown)
        base = self._write_labels(f"desc-{description}_dseg", labels, sidecar)
        if base is not None:
            table = pd.DataFrame({"index": range(1, len(names) + 1), "name": names})
            with atomic(f"{base}.tsv") as temporary:
                table.to_csv(temporary, sep="\t", index=False)

    def plot(
        self,
        maps: Iterable[BrainMap],
        look: Look,
        progress: Progress,
        without: Callable[[BrainMap], str],
    ) -> None:
        """Plot flatmaps (slices, where there is no surface) into the folder.

        Parameters
        ----------
        maps : iterable of BrainMap
        look : Look
        progress : Progress
            Says which maps have no voxel to show.
        without : callable
            Takes such a map and returns why there are none.
        """
        where = self.brain.voxel_space
        if not (where.surface_resampling or where.is_volume):
            return
        plot_map = MapPlotter(self.brain, "flatmap", look, progress)
        for shown in maps:
            if not plot_map.shows(shown):
                progress.info(f"{shown.title}: no map, as {without(shown)}")
                continue
            file = self.folder / f"{shown.name}_{plot_map.kind}.{look.format}"
            save_figure(plot_map(shown), file, dpi=look.dpi)

    def _base(self, entities: str) -> Path:
        """Path without suffix, of the subject and more entities; its folder is made."""
        folder = func_folder(self.folder, self.brain.subject)
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"sub-{self.brain.subject}{entities}"

    def _write_labels(
        self, what: str, labels: np.ndarray, sidecar: SegmentationSidecar
    ) -> Path | None:
        """Write whole numbers (n_voxels,) of a volume; return the path without its suffixes."""
        geometry, config = self.brain.voxel_space.geometry, self.brain.config
        if not isinstance(geometry, Volume):
            return None
        base = self._base(f"_task-{bids_label(config.dataset)}_{what}")
        save_image(geometry.labelled(labels), Path(f"{base}.nii.gz"))
        write_record(Path(f"{base}.json"), sidecar)
        return base


def sidecar_of(brain: Brain) -> dict[str, Any]:
    """Return what every `Sidecar` of a model's maps and arrays says beside description and unit."""
    config = brain.config
    return {
        "simulated": config.simulated,
        "subject": config.subject,
        "dataset": config.dataset,
        "space": config.space,
        "model": brain.name,
        "model_fingerprint": config.fingerprint,
        "versions": versions(),
    }


def map_sidecar(brain: Brain, description: str, unit: str) -> MapSidecar:
    """Return the sidecar of maps of a statistic.

    Parameters
    ----------
    brain : Brain
    description : str
        What they show.
    unit : str
    """
    return MapSidecar(
        description=description,
        unit=unit,
        averaged_over=brain.config.averaged_over,
        **sidecar_of(brain),
    )
