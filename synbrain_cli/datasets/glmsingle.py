"""Reading what GLMsingle left behind into a prepared subject: betas, design, and maps of voxels.

Betas of one session each, or of all sessions in one file, are read session by session: memory does
not depend on their number. Formats are in `synbrain_cli.io.glmsingle`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from synbrain_cli.datasets.sessions import add_ncsnr, describe_ncsnr
from synbrain_cli.datasets.table_experiment import fingerprint
from synbrain_cli.datasets.table_responses import mni_to_fsaverage, roi_column
from synbrain_cli.datasets.table_trials import TrialTable, image_column
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.files import is_simulated, sha256
from synbrain_cli.io.glmsingle import DESIGN, SUFFIXES, GLMsingleDesign, GLMsingleFit
from synbrain_cli.io.prepared import Origin, PreparedSubject
from synbrain_cli.io.prepared_tables import GROUP
from synbrain_cli.io.prepared_writer import PreparedWriter
from synbrain_cli.io.tables import has_no_value, read_table, row_in, whole_numbers
from synbrain_cli.io.volume import read_3d
from synbrain_cli.io.voxel_space import SURFACE_RESAMPLING, Volume
from synbrain_cli.labels import roi_label
from synbrain_cli.paths import is_given, require_regular_file
from synbrain_cli.progress import Progress

TYPES = {
    "typeb": "TYPEB_FITHRF",
    "typec": "TYPEC_FITHRF_GLMDENOISE",
    "typed": "TYPED_FITHRF_GLMDENOISE_RR",
}
COUPLED = "typed"  # ridge regression across trials couples repeats
MEANS = ("R2", "FRACvalue")
HRF, HRF_OF_RUNS, NOISE_POOL = "HRFindex", "HRFindexrun", "noisepool"
OWN_COLUMNS = (*MEANS, HRF, "HRF_agreement", NOISE_POOL)
_NO_IMAGE = ("", "n/a")
_OF_IMAGES = ("split", GROUP)  # columns of a table of conditions or trials that are kept


@dataclass(frozen=True)
class Fits:
    """Output of GLMsingle for one subject, and how it is prepared.

    Attributes
    ----------
    sources : tuple of paths
        Folders that GLMsingle wrote, or output files in them; of several sessions in their order.
    images : path, optional
        Folder of the images; None where only their tokens are known.
    conditions : tuple of paths
        Table with one row per condition, in the order of the columns of the design, with the column
        ``image``, and optionally ``split`` and ``group``; one for all sources, or one each. A
        column ``condition``, counted from 1 (or from 0, where a 0 is in it), gives another order.
        Trials of a condition without an image (``n/a``) are left out.
    trials : tuple of paths
        In place of these: tables with one row per trial in the order of time, all sources one after
        the other. Rows without an image are left out, and so are their betas.
    kind : {"typeb", "typec", "typed"}, optional
        Version of the betas, in folders that hold several; default: the last that is in all.
    mask : path, optional
        Volume on the grid of the betas, above 0 in the voxels to model.
    rois : tuple of (name, path)
        Volumes on that grid.
    image_column, space, standardize, split, test_share, validation_share, seed, leave_out
        As in `synbrain_cli.datasets.table_experiment.Experiment`.

    Raises
    ------
    MissingError, InputError
        When options do not go together, or a file is absent.
    """

    sources: tuple[Path, ...]
    images: Path | None = None
    conditions: tuple[Path, ...] = ()
    trials: tuple[Path, ...] = ()
    kind: str | None = None
    mask: Path | None = None
    rois: tuple[tuple[str, Path], ...] = ()
    image_column: str | None = None
    space: str = "individual"
    standardize: str = "session"
    split: Path | None = None
    test_share: float = 0.15
    validation_share: float = 0.1
    seed: int = 0
    leave_out: bool = False

    def __post_init__(self) -> None:
        if bool(self.conditions) == bool(self.trials):
            raise InputError(
                "expected the image of every trial: --conditions, a table with the image of each "
                "condition of the design, or --trials, tables with that of each trial; found "
                f"{'both' if self.trials else 'neither'}"
            )
        if len(self.conditions) not in (0, 1, len(self.sources)):
            raise InputError(
                f"--conditions: expected one table, or one for each of the {len(self.sources)} "
                f"sources, found {len(self.conditions)}"
            )
        if self.kind is not None and self.kind not in TYPES:
            raise InputError(
                f"--preparation {self.kind}: expected one of {', '.join(TYPES)} (type A has no "
                "single trials)"
            )
        if self.rois and self.mask is None:
            raise InputError(f"--roi {self.rois[0][0]}: only with --mask")
        names = [roi_label(name) for name, _ in self.rois]
        for name in names:
            if names.count(name) > 1 or name in (*OWN_COLUMNS, "ncsnr", "ncsnr_recomputed"):
                raise InputError(f"--roi {name}: the name is taken: choose another")
        lists = [self.split] if self.split else []
        masks = [self.mask] if self.mask else []
        for path in (*self.tables, *lists, *masks, *(path for _, path in self.rois)):
            require_regular_file(path)
        files = [path.resolve() for path in self.files]
        twice = [path for path in files if files.count(path) > 1]
        if twice:
            raise InputError(f"{twice[0]} is given twice: name each session once")

    @property
    def tables(self) -> tuple[Path, ...]:
        """Tables that name the images."""
        return self.trials or self.conditions

    @property
    def table_names(self) -> str:
        """Names of these tables, for messages."""
        return ", ".join(map(str, self.tables))

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """Output file of each source."""
        kind = self.kind or next(reversed(self.kinds), "typed")
        files = tuple(_file_of(source, kind) for source in self.sources)
        for path in files:
            if self.kind and path.stem != TYPES[kind]:
                raise InputError(
                    f"{path}: expected {TYPES[kind]} (--preparation {kind}): pass the folder, or "
                    "leave --preparation out"
                )
        return files

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """Versions of the betas that all folders hold, in the order of `TYPES`."""
        folders = [source for source in self.sources if source.is_dir()]
        return tuple(k for k in TYPES if all(_find(folder, TYPES[k]) for folder in folders))

    @property
    def preparation(self) -> str:
        """Version of the betas, as their file is called."""
        return self.files[0].stem

    def options(self) -> dict[str, Any]:
        """Return the options on which the content depends, with checksums of files."""
        options = {k: v for k, v in asdict(self).items() if k not in ("sources", "kind")}
        options["preparation"] = self.preparation
        for name in ("conditions", "trials"):
            options[name] = [f"{p.name} (sha256 {sha256(p)})" for p in getattr(self, name)]
        for name in ("mask", "split"):
            path = getattr(self, name)
            options[name] = None if path is None else f"{path.name} (sha256 {sha256(path)})"
        options["rois"] = {name: sha256(path) for name, path in self.rois}
        options["images"] = None if self.images is None else str(self.images)
        designs = (_find(path.parent, DESIGN) for path in self.files)
        options["designs"] = [sha256(path) if path else None for path in designs]
        options["responses"] = [fingerprint(path) for path in self.files]
        options["sources"] = {str(path): path.stat().st_size for path in self.files}
        return json.loads(json.dumps(options))


def _find(folder: Path, stem: str) -> Path | None:
    """File of that name in a folder, of the first of `SUFFIXES` that is there."""
    found = (folder / f"{stem}{suffix}" for suffix in SUFFIXES)
    return next((path for path in found if is_given(path)), None)


def _file_of(source: Path, kind: str) -> Path:
    if not source.is_dir():
        path = require_regular_file(source, "a folder that GLMsingle wrote, or a file of it")
        if path.suffix not in SUFFIXES:
            raise InputError(
                f"{path}: expected output of GLMsingle, one of {' '.join(SUFFIXES)}: pass the "
                "folder that it wrote"
            )
        return path
    path = _find(source, TYPES[kind])
    if path is None:
        there = sorted(p.name for p in source.iterdir() if p.suffix in SUFFIXES)
        raise MissingError(
            f"{source}: expected {TYPES[kind]} as {', '.join(SUFFIXES)}, found "
            f"{', '.join(there[:8]) or 'no such file'}: pass the folder that GLMsingle wrote"
        )
    return require_regular_file(path)


@dataclass(frozen=True)
class _Session:
    """Trials of one session: consecutive rows of one file.

    Attributes
    ----------
    fit : GLMsingleFit
    rows : slice
    kept : int array
        Those of the rows, from 0, on which an image was shown.
    """

    fit: GLMsingleFit
    rows: slice
    kept: np.ndarray


@dataclass(frozen=True)
class FitTrials(TrialTable):
    """The trials of GLMsingle's fits, with their images and sessions.

    Attributes
    ----------
    fits : Fits
    """

    fits: Fits

    @classmethod
    def of(cls, fits: Fits) -> FitTrials:
        """Make the table of the trials of some fits."""
        return cls(fits, fits)

    @cached_property
    def opened(self) -> list[GLMsingleFit]:
        """Output file of each source."""
        return [GLMsingleFit(path) for path in self.fits.files]

    @cached_property
    def _designs(self) -> list[GLMsingleDesign | None]:
        found = []
        for fit in self.opened:
            path = _find(fit.path.parent, DESIGN)
            design = None if path is None else GLMsingleDesign.read(path)
            if design is not None and len(design.conditions) != fit.n_trials:
                raise InputError(
                    f"{fit.path}: expected the {len(design.conditions):,} trials of {design.path}, "
                    f"found {fit.n_trials:,}: they are of different fits"
                )
            found.append(design)
            fit.close()
        return found

    @property
    def is_percent(self) -> bool:
        """Whether all betas are in percent signal change, as GLMsingle writes them."""
        return all(design is None or design.is_percent for design in self._designs)

    @cached_property
    def _whole(self) -> pd.DataFrame:
        """One row per trial: ``image``, ``session``, and repeat, split and group where given.

        Trials without an image are among them.
        """
        parts = self._by_trial() if self.fits.trials else self._by_condition()
        sessions, last = [], 0
        for fit, design in zip(self.opened, self._designs, strict=True):
            own = np.ones(fit.n_trials, int) if design is None else design.sessions
            if (np.diff(own) < 0).any():
                raise InputError(
                    f"{design.path if design else fit.path}: expected the runs of a session one "
                    "after the other in sessionindicator"
                )
            sessions.append(own + last)
            last += int(own.max())
        return parts.assign(session=np.concatenate(sessions).astype(str))

    def _by_condition(self) -> pd.DataFrame:
        parts = []
        tables = self.fits.conditions
        for k, design in enumerate(self._designs):
            fit = self.opened[k]
            if design is None:
                raise MissingError(
                    f"{fit.path.parent}: expected {DESIGN}.npy or .mat, which says the "
                    "condition of each trial, found none: copy it, or pass --trials in place of "
                    "--conditions"
                )
            conditions = _read_conditions(
                tables[k if len(tables) > 1 else 0], self.fits.image_column, design
            )
            parts.append(conditions.loc[design.conditions])
        return pd.concat(parts, ignore_index=True).fillna("")

    def _by_trial(self) -> pd.DataFrame:
        parts = [read_table(path) for path in self.fits.trials]
        table = pd.concat(parts, ignore_index=True).fillna("")
        column = image_column(self.fits.table_names, table, self.fits.image_column)
        n_trials = sum(fit.n_trials for fit in self.opened)
        shown = ~table[column].isin(_NO_IMAGE)
        if len(table) != n_trials and shown.sum() == n_trials:
            table = table[shown]  # events of other kinds, which the design does not have
        if len(table) != n_trials:
            raise InputError(
                f"{self.fits.table_names}: expected a row for each of the {n_trials:,} trials of "
                f"the betas, found {len(table):,}, {shown.sum():,} of them with an image"
            )
        known = [c for c in ("repeat", *_OF_IMAGES) if c in table]
        return table[[column, *known]].rename(columns={column: "image"}).reset_index(drop=True)

    @cached_property
    def _parts(self) -> list[pd.DataFrame]:
        whole = self._whole
        kept = whole[~whole["image"].isin(_NO_IMAGE)]
        if kept.empty:
            raise InputError(f"{self.fits.table_names}: no trial has an image")
        return [kept.reset_index(drop=True)]

    def row(self, index: int) -> str:
        """Return the trial of a row of the table, for messages."""
        shown = np.flatnonzero(~self._whole["image"].isin(_NO_IMAGE).to_numpy())
        trial = int(shown[index])
        for fit in self.opened:
            if trial < fit.n_trials:
                return f"{self.fits.table_names}: trial {trial + 1} of {fit.path}"
            trial -= fit.n_trials
        raise IndexError(index)

    @cached_property
    def _joined(self) -> pd.DataFrame:
        return self._parts[0]

    @property
    def _column(self) -> str:
        return "image"

    def sessions(self) -> dict[int, _Session]:
        """Return where the betas of each session are: number → part of a file."""
        whole, found, first = self._whole, {}, 0
        for fit in self.opened:
            own = whole.iloc[first : first + fit.n_trials]
            numbers = own["session"].astype(int).to_numpy()
            has_image = ~own["image"].isin(_NO_IMAGE).to_numpy()
            for number in np.unique(numbers).tolist():
                rows = np.flatnonzero(numbers == number)
                span = slice(int(rows[0]), int(rows[-1]) + 1)
                kept = np.flatnonzero(has_image[span])
                if len(kept):
                    found[number] = _Session(fit, span, kept)
            first += fit.n_trials
        return found


def _read_conditions(path: Path, asked: str | None, design: GLMsingleDesign) -> pd.DataFrame:
    """Read the image of each condition, and what is said of it: one row each, counted from 0."""
    table = read_table(path)
    column = image_column(str(path), table, asked)
    known = [c for c in _OF_IMAGES if c in table]
    images = table[[column, *known]].rename(columns={column: "image"})
    if "condition" in table and not has_no_value(table["condition"]).all():
        numbers = whole_numbers(table["condition"], row_in(path), lowest=0)
        numbers = numbers - int(numbers.min() > 0)
        if len(np.unique(numbers)) != len(numbers):
            raise InputError(f"{path}: expected every condition once in the column condition")
    else:
        numbers = np.arange(len(images))
    missing = np.setdiff1d(design.conditions, numbers)
    if len(missing) or len(images) > design.n_conditions:
        raise InputError(
            f"{path}: expected the image of each of the {design.n_conditions:,} conditions of "
            f"{design.path}, found {len(images):,} rows"
            + (f", none of condition {missing[0] + 1}" if len(missing) else "")
        )
    return images.set_axis(numbers)


def prepare_fits(
    fits: Fits, subject: str, folder: Path, *, progress: Progress | None = None
) -> PreparedSubject:
    """Write a prepared subject from what GLMsingle left behind.

    Parameters
    ----------
    fits : Fits
    subject : str
        Label of the subject.
    folder : path
        ``prepared/<dataset>/sub-01``. An interrupted run is resumed.
    progress : Progress, optional

    Returns
    -------
    PreparedSubject

    Raises
    ------
    MissingError, InputError
        When a file is absent, damaged or not of GLMsingle; when betas, design, images or mask do
        not belong together.
    """
    progress = progress or Progress(quiet=True)
    table = FitTrials.of(fits)
    trials = table.prepared(progress.info)
    volume = None
    if fits.mask is not None:
        values, image = read_3d(fits.mask)
        if not (values > 0).any():
            raise InputError(f"{fits.mask}: expected voxels above 0, found none")
        volume = Volume.of(values > 0, image)
    inside = None if volume is None else volume.inside
    indices = []
    for fit in table.opened:
        indices.append(fit.index_of(inside, str(fits.mask)))
        fit.close()
    n_voxels = len(indices[0])
    if any(len(index) != n_voxels for index in indices):
        raise InputError(
            f"{fits.files[0]}: expected the same voxels in every session, found "
            f"{', '.join(str(len(index)) for index in indices[:8])}: pass the --mask of all"
        )
    index_of = dict(zip(fits.files, indices, strict=True))
    options = {"subject": subject, **fits.options()}
    with PreparedWriter(folder, options, trials, n_voxels, fits.standardize, progress) as writer:
        sessions = table.sessions()
        with progress.bar(f"sub-{subject}: sessions") as bar:
            for done, (number, session) in enumerate(sessions.items()):
                bar.to(done, len(sessions))
                if number not in writer.done:
                    path = session.fit.path
                    betas = session.fit.read(session.rows, index_of[path])[session.kept]
                    writer.write_session(number, betas, str(path))
                    if number + 1 not in sessions or sessions[number + 1].fit is not session.fit:
                        session.fit.close()
            bar.to(len(sessions), len(sessions))
        voxels = _voxel_table(fits, table.opened, indices, volume)
        voxels, reliability = add_ncsnr(voxels, writer)
        progress.info(f"sub-{subject}: {describe_ncsnr(reliability)}")
        resamplings = {}
        if volume is not None and fits.space.upper().startswith("MNI"):
            resamplings = {SURFACE_RESAMPLING: mni_to_fsaverage(volume)}
        writer.finish(
            voxels,
            volume,
            resamplings,
            Origin(
                name=f"Subject {subject}, prepared from {fits.preparation} of GLMsingle",
                simulated=is_simulated(fits.files[0].parent),
                space=fits.space,
                unit_before_standardization=(
                    "percent signal change" if table.is_percent else "as recorded"
                ),
                options={k: v for k, v in options.items() if k != "sources"},
                sources={name: {"bytes": size} for name, size in options["sources"].items()},
                noise_ceiling_snr=reliability,
            ),
        )
    return PreparedSubject(folder)


def _voxel_table(
    fits: Fits, opened: list[GLMsingleFit], indices: list[np.ndarray], volume: Volume | None
) -> pd.DataFrame:
    """Maps of GLMsingle and ROIs, one row per voxel.

    Of several files: R2 and FRACvalue are means over them, the HRF index is the most frequent one,
    and the noise pool is the share of files whose noise pool has the voxel. ``HRF_agreement`` is
    the share of runs whose own best HRF (``HRFindexrun``) is that one.
    """
    found: dict[str, list[np.ndarray]] = {}
    for fit, index in zip(opened, indices, strict=True):
        for name in (*MEANS, HRF, NOISE_POOL, HRF_OF_RUNS):
            values = fit.map(name, index)
            if values is not None and (values.ndim == 1 or name == HRF_OF_RUNS):
                found.setdefault(name, []).append(values)
        fit.close()
    known = {name: maps for name, maps in found.items() if len(maps) == len(opened)}
    table = pd.DataFrame(index=range(len(indices[0])))
    for name in (*MEANS, NOISE_POOL):
        if name in known:
            table[name] = np.mean(known[name], axis=0)
    if HRF in known:
        table[HRF] = _most_frequent(np.stack(known[HRF]))
        if HRF_OF_RUNS in known:
            runs = [values.reshape(len(table), -1) for values in known[HRF_OF_RUNS]]
            same = np.concatenate(runs, axis=1) == table[HRF].to_numpy()[:, None]
            table["HRF_agreement"] = same.mean(1)
    for name, path in fits.rois:
        assert volume is not None
        assert fits.mask is not None
        table[name] = roi_column(name, path, volume, fits.mask)
    return table


def _most_frequent(values: np.ndarray) -> np.ndarray:
    """Most frequent value over the first axis; of several the least."""
    kinds = np.unique(values[np.isfinite(values)])
    counts = np.stack([(values == kind).sum(0) for kind in kinds])
    return np.where(counts.any(0), kinds[counts.argmax(0)], np.nan)
