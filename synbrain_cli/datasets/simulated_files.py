"""Writing simulated subjects in files of NSD, with the same names, index bases and scales."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import scipy.io

from synbrain_cli.datasets import nsd_synthetic
from synbrain_cli.datasets.nsd_choice import PREPARATIONS, Choice
from synbrain_cli.datasets.nsd_design import Design
from synbrain_cli.datasets.nsd_files import DESIGN, STIMULI
from synbrain_cli.datasets.photographs import View
from synbrain_cli.datasets.simulated_areas import zscore
from synbrain_cli.datasets.simulated_artificial import ArtificialImages
from synbrain_cli.datasets.simulated_cortex import (
    HIGHER_AREAS,
    STREAMS,
    VISUAL_ROIS,
    Anatomy,
    Layout,
    mni_coordinates,
    smooth_fields,
)
from synbrain_cli.datasets.simulated_responses import OrderEffects, Responses, draw_session
from synbrain_cli.io.files import atomic
from synbrain_cli.io.surface import HEMISPHERES
from synbrain_cli.io.volume import save_image
from synbrain_cli.metrics.noise_ceiling import ncsnr as recorded_ncsnr


@dataclass(frozen=True)
class SimulatedSubject:
    """One simulated subject.

    Attributes
    ----------
    number : int
        From 1.
    layouts : dict of Layout
        Functional layout of each hemisphere, the same for all subjects.
    anatomy : Anatomy
    responses : Responses
    effects : OrderEffects
        What the order of the trials does to responses.
    """

    number: int
    layouts: Mapping[str, Layout]
    anatomy: Anatomy
    responses: Responses
    effects: OrderEffects = field(default_factory=OrderEffects)

    @property
    def name(self) -> str:
        """Name of the subject in the folders of NSD."""
        return f"subj{self.number:02d}"


def write_stimuli(root: Path, stimuli: np.ndarray) -> None:
    """Write the images, uint8 (n_images, size, size, 3)."""
    with atomic(root / STIMULI) as path, h5py.File(path, "w") as file:
        file.create_dataset("imgBrick", data=stimuli)


def write_views(root: Path, views: list[View]) -> None:
    """Write where each image lies: photograph, tile and bounding box, in the order of the images.

    ``tile`` and ``box`` have the columns top, bottom, left, right, in pixels of the photograph;
    bottom and right are not part of them.
    """
    boxes = [view.box for view in views]
    with atomic(root / "truth/views.npz") as path, path.open("wb") as file:
        np.savez(
            file,
            photograph=np.array([view.photograph for view in views], np.int32),
            tile=np.array([astuple(view.tile) for view in views], np.int32),
            box=np.array([(r.start, r.stop, c.start, c.stop) for r, c in boxes], np.int32),
        )


def write_design(root: Path, design: Design) -> None:
    """Write the experimental design, with 1-based indices as in NSD."""
    ordering, per_session = design.ordering, design.trials_per_session
    pattern = np.zeros((design.n_sessions, 12, 75), np.uint8)
    for session in pattern:  # NSD's runs hold 62 or 63 trials
        for run in range(12):
            session[run, : per_session // 12 + (run < per_session % 12)] = 1
    seen = [ordering[: (s + 1) * per_session] for s in range(design.n_sessions)]
    counts = np.array([[np.sum(np.bincount(o) >= r) for o in seen] for r in (1, 2, 3)], np.uint16)
    shared = design.subject_images[:1, : design.n_shared]
    with atomic(root / DESIGN) as path:
        scipy.io.savemat(
            path,
            {
                "masterordering": (ordering[None] + 1).astype(np.uint16),
                "subjectim": (design.subject_images + 1).astype(np.int32),
                "sharedix": np.sort(shared + 1).astype(np.int32),
                "stimpattern": pattern,
                "basiccnt": counts,
            },
            appendmat=False,
        )


def write_subject(
    root: Path, subject: SimulatedSubject, design: Design, seed: np.random.SeedSequence
) -> None:
    """Write ROIs, transforms, betas and the true response distribution of a subject.

    Parameters
    ----------
    root : path
        Folder that holds ``nsddata/``.
    subject : SimulatedSubject
    design : Design
    seed : SeedSequence
        Seed of the noise of single trials.
    """
    _write_rois(root, subject)
    _write_transforms(root / "nsddata/ppdata" / subject.name / "transforms", subject.anatomy)
    _write_betas(root, subject, design, np.random.default_rng(seed))
    numbers = ("mean", "driven", "scale", "loadings", "private", "explained", "field")
    with atomic(root / f"truth/{subject.name}.npz") as path, path.open("wb") as file:
        arrays = {name: getattr(subject.responses, name).astype(np.float32) for name in numbers}
        np.savez(file, area=subject.responses.area, kind=subject.responses.kind, **arrays)


def write_artificial_images(root: Path, images: ArtificialImages) -> list[Path]:
    """Write the images of NSD-synthetic's counterpart; return the files."""
    of_all = {nsd_synthetic.STIMULI: images.common}
    of_each = {
        nsd_synthetic.colour_stimuli(number): own
        for number, own in enumerate(images.coloured, start=1)
    }
    for key, pixels in (of_all | of_each).items():
        with atomic(root / key) as path, h5py.File(path, "w") as file:
            file.create_dataset("imgBrick", data=pixels)
    return [root / key for key in of_all | of_each]


def write_artificial_design(root: Path, ordering: np.ndarray) -> Path:
    """Write which of these images each trial shows, 1-based; return the file."""
    file = root / nsd_synthetic.DESIGN
    with atomic(file) as path:
        ids = (ordering[None] + 1).astype(np.uint16)
        scipy.io.savemat(path, {"masterordering": ids}, appendmat=False)
    return file


def write_artificial_session(
    root: Path, subject: SimulatedSubject, ordering: np.ndarray, seed: np.random.SeedSequence
) -> list[Path]:
    """Write a subject's single trials of artificial images, and their true responses.

    Parameters
    ----------
    root : path
    subject : SimulatedSubject
        Its last responses are those to the artificial images.
    ordering : int array of shape (n_trials,)
        Artificial image of each trial.
    seed : SeedSequence
        Seed of the noise of single trials.

    Returns
    -------
    list of Path
        The files.
    """
    generator = np.random.default_rng(seed)
    first = len(subject.responses.mean) - nsd_synthetic.N_IMAGES
    fields = _drift_fields(subject.anatomy, generator)
    shown, presentation = first + ordering, 1 + earlier(ordering)
    drawn = draw_session(subject.responses, shown, fields, generator, presentation, subject.effects)
    folder = root / nsd_synthetic.betas_prefix(subject.number, Choice())
    trials, truth = (
        folder / "betas_nsdsynthetic.nii.gz",
        root / f"truth/{subject.name}_synthetic.npz",
    )
    _write_volume(trials, subject.anatomy, _as_stored(drawn.betas))
    names = ("mean", "driven", "scale")
    arrays = {n: getattr(subject.responses, n)[first:].astype(np.float32) for n in names}
    with atomic(truth) as path, path.open("wb") as file:
        np.savez(file, **arrays)
    return [trials, truth]


def _drift_fields(anatomy: Anatomy, generator: np.random.Generator) -> np.ndarray:
    """Smooth maps over voxels, along which responses drift."""
    return smooth_fields(np.argwhere(anatomy.mask) * anatomy.affine[0, 0], 3, 40.0, generator)


def _as_stored(betas: np.ndarray) -> np.ndarray:
    """Percent signal change → int16, × 300, as NSD stores it."""
    return np.clip(np.rint(betas * 300), -32768, 32767).astype(np.int16)


def _write_rois(root: Path, subject: SimulatedSubject) -> None:
    """Write NSD's ROI collections with their label tables; values are −1 outside visual cortex."""
    visual, higher = (
        np.concatenate([getattr(subject.layouts[h], key) for h in HEMISPHERES])[
            subject.anatomy.owner
        ]
        for key in ("visual", "higher")
    )
    streams = np.where(visual > 0, 1, 0)
    streams[visual == 7] = 1 + STREAMS.index("midventral")
    regions: dict[str, np.ndarray] = {}
    labels: dict[str, dict[int, str]] = {
        "nsdgeneral": {1: "nsdgeneral"},
        "prf-visualrois": dict(enumerate(VISUAL_ROIS, start=1)),
        "streams": dict(enumerate(STREAMS, start=1)),
    }
    for code, (name, area) in enumerate(HIGHER_AREAS.items(), start=1):
        streams[higher == code] = 1 + STREAMS.index(area.stream)
        collection, label = area.collection
        values = regions.setdefault(collection, np.zeros_like(higher))
        values[higher == code] = label
        labels.setdefault(collection, {})[label] = name
    collections = {
        "nsdgeneral": np.ones_like(streams),
        "prf-visualrois": visual,
        "streams": streams,
        **regions,
    }
    folder = root / "nsddata/ppdata" / subject.name / "func1pt8mm/roi"
    tables = root / "nsddata/freesurfer" / subject.name / "label"
    for collection, values in collections.items():
        path = folder / f"{collection}.nii.gz"
        _write_volume(path, subject.anatomy, values.astype(np.int16), outside=-1)
        lines = {0: "Unknown", **labels[collection]}.items()
        with atomic(tables / f"{collection}.mgz.ctab") as path:
            path.write_text("".join(f"{code} {label}\n" for code, label in lines))


def _write_transforms(folder: Path, anatomy: Anatomy) -> None:
    """Write transforms to cortical surfaces and MNI, with 1-based coordinates and indices."""
    for hemisphere, short in zip(HEMISPHERES, ("lh", "rh"), strict=True):
        layers = anatomy.layers[hemisphere].astype(np.float32)
        for depth, values in enumerate(layers, start=1):
            _write_mgh(folder / f"{short}.func1pt8-to-layerB{depth}.mgz", values)
        # The native surface has fsaverage5's vertices, so this is the identity.
        nearest = np.arange(1, layers.shape[1] + 1, dtype=np.int32)
        _write_mgh(folder / f"{short}.white-to-fsaverage.mgz", nearest[:, None])
    # As in NSD, the header does not describe the orientation of the grid.
    image = nib.Nifti1Image(mni_coordinates(anatomy), np.eye(4))
    save_image(image, folder / "func1pt8-to-MNI.nii.gz")


def _write_betas(
    root: Path, subject: SimulatedSubject, design: Design, generator: np.random.Generator
) -> None:
    """Write the single trials of every session (int16, percent signal change × 300) and ncsnr."""
    anatomy = subject.anatomy
    folder = root / f"nsddata_betas/ppdata/{subject.name}/func1pt8mm/{PREPARATIONS[0]}"
    drift_fields = _drift_fields(anatomy, generator)
    everything, courses = [], []
    presentation = 1 + earlier(design.ordering)
    by_session = presentation.reshape(design.n_sessions, -1)
    for session, images in enumerate(design.ordering.reshape(design.n_sessions, -1), start=1):
        drawn = draw_session(
            subject.responses,
            images,
            drift_fields,
            generator,
            by_session[session - 1],
            subject.effects,
        )
        courses.append(drawn.courses)
        stored = _as_stored(drawn.betas)
        _write_volume(folder / f"betas_session{session:02d}.nii.gz", anatomy, stored)
        everything.append(stored / np.float32(300))
    snr = recorded_ncsnr(np.concatenate([zscore(b) for b in everything]), design.ordering)
    _write_volume(folder / "ncsnr.nii.gz", anatomy, np.asarray(snr, np.float32))
    with atomic(root / f"truth/{subject.name}_drift.npz") as path, path.open("wb") as file:
        np.savez(
            file,
            courses=np.concatenate(courses).astype(np.float32),
            fields=(drift_fields * subject.responses.gain[:, None]).astype(np.float32),
        )


def earlier(images: np.ndarray) -> np.ndarray:
    """How often the image of each trial was shown before: int array (n_trials,)."""
    order = np.argsort(images, kind="stable")
    _, starts, counts = np.unique(images[order], return_index=True, return_counts=True)
    before = np.empty(len(images), int)
    before[order] = np.arange(len(images)) - np.repeat(starts, counts)
    return before


def _write_volume(path: Path, anatomy: Anatomy, values: np.ndarray, outside: int = 0) -> None:
    """Save values (n_voxels,) or (n_trials, n_voxels) on the subject's grid, in their own dtype."""
    data = np.full(anatomy.mask.shape + values.shape[:-1], outside, values.dtype)
    data[anatomy.mask] = values.T
    image = nib.Nifti1Image(data, anatomy.affine, dtype=values.dtype)
    image.header["descrip"] = b"simulated by synbrain"
    image.header.set_xyzt_units("mm", "sec")
    save_image(image, path)


def _write_mgh(path: Path, values: np.ndarray) -> None:
    """Save (n_vertices, k) values as NSD does: an MGH of shape (n_vertices, 1, 1[, k])."""
    data = values[:, None, None, :] if values.shape[1] > 1 else values[:, :, None]
    save_image(nib.MGHImage(data, np.eye(4)), path)
