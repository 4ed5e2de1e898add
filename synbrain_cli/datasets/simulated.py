"""Simulated subjects with a known response distribution, written in the file formats of NSD.

Their visual cortex lies on the fsaverage5 geometry of nilearn. Their stimuli are real photographs
(`photographs`). The response in trial k of image i at voxel v is

    y_ikv = a_v + g_v · [ s_iv + c_iv · n_ikv + d_kv ]      (percent signal change)

    s_iv = sqrt(1 − q_v) · f_v(image i) + sqrt(q_v) · h_iv   the noise-free response (unit variance)
    f_v    what the area of the voxel responds to (`simulated_areas`): in V1, V2, V3 and hV4 the
           contrast energy in its receptive field; in OFA and OPA pooled, rectified projections of
           log energies; in EBA conjunctions of energies wherever they are; in IPS0 energies at the
           most salient place. These use no image encoder of this package. In FFA-1, PPA and VWFA-1
           f is a nonlinear function of features of EfficientNet-Lite2, and in V3A a linear one of
           `gabor` tokens: encoders of this package, chosen so that a model on their tokens can be
           right there
    h_iv   low-rank response that no feature of the image explains, identical on every repeat
    n_ikv  trial noise: a low-rank part shared by voxels, plus a part private to each voxel
    c_iv   signal-dependent scale of the noise: sd_v · (1 + 0.25 tanh s_iv)
    d_kv   slow low-rank drift within and between sessions

The model is ours. Functional properties are smooth functions of the position on fsaverage5. Most
of their variation is common to all subjects, and the rest is individual. Brains differ in size,
pose and voxel grid. The coordinates of fsaverage are taken for MNI coordinates (the two differ by a
few millimetres). The true distribution is stored in ``truth/`` for tests and the documentation; no
command reads it.

The cortex is in `simulated_cortex`, features of the stimuli are in `simulated_features` and
`simulated_encoder`, what areas respond to in `simulated_areas`, the responses in
`simulated_responses`, and the files of NSD in `simulated_files`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from synbrain_cli.config import JSONSettings
from synbrain_cli.datasets.nsd_design import Design, image_name
from synbrain_cli.datasets.nsd_files import NSD
from synbrain_cli.datasets.nsd_synthetic import N_COMMON, N_IMAGES, as_seen
from synbrain_cli.datasets.photographs import View, cut_views, load_photographs, place_views
from synbrain_cli.datasets.simulated_artificial import draw_artificial, order_trials
from synbrain_cli.datasets.simulated_cortex import build_anatomy, functional_layout
from synbrain_cli.datasets.simulated_features import StimulusFeatures
from synbrain_cli.datasets.simulated_files import (
    SimulatedSubject,
    write_artificial_design,
    write_artificial_images,
    write_artificial_session,
    write_design,
    write_stimuli,
    write_subject,
    write_views,
)
from synbrain_cli.datasets.simulated_responses import OrderEffects, OtherImages, build_responses
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.files import read_json, versions, write_json
from synbrain_cli.io.reading import reading
from synbrain_cli.io.surface import HEMISPHERES
from synbrain_cli.io.workfolder import note_derived


class SimulationConfig(JSONSettings, frozen=True):
    """Settings of a simulation. The defaults are those of `synbrain demo` (ours).

    Attributes
    ----------
    n_subjects : int
    n_shared, n_unique : int
        Number of images shown to every subject (the test set), and to one subject alone.
    n_repeats : int
        Number of repeats of each image.
    n_sessions : int
        Number of sessions, over which trials (images × repeats) are distributed evenly.
    image_size : int
        Side of the images in pixels, a multiple of 64 (NSD: 425).
    voxel_size : float
        Side of the voxels in mm (NSD: 1.8). The default is coarser, so that the whole visual
        cortex has few voxels.
    unexplained : float
        Share of the variance of a response that no image feature explains, mean over voxels.
    seed : int
    drift, repetition, serial : float
        What the order of the trials does to responses
        (`synbrain_cli.datasets.simulated_responses.OrderEffects`).
    """

    n_subjects: int = 3
    n_shared: int = 200
    n_unique: int = 800
    n_repeats: int = 3
    n_sessions: int = 4
    image_size: int = 128
    voxel_size: float = 5.0
    unexplained: float = 0.15
    seed: int = 0
    drift: float = 1.0
    repetition: float = 0.0
    serial: float = 0.0

    @classmethod
    def of_sessions(cls, n_sessions: int, seed: int = 0) -> SimulationConfig:
        """Return settings for sessions of 750 trials, as in NSD.

        Additional sessions show additional images that are unique to each subject.
        """
        default = cls(n_sessions=n_sessions, seed=seed)
        n_images = n_sessions * 750 // default.n_repeats
        return msgspec.structs.replace(default, n_unique=n_images - default.n_shared)

    @property
    def effects(self) -> OrderEffects:
        """What the order of the trials does to responses."""
        return OrderEffects(self.drift, self.repetition, self.serial)

    def recorded(self) -> dict[str, Any]:
        """Settings for the data's description; of the order of trials, those that were changed."""
        default = SimulationConfig().to_dict()
        of_order = OrderEffects.__dataclass_fields__
        own = self.to_dict()
        return {k: v for k, v in own.items() if k not in of_order or v != default[k]}

    @classmethod
    def of_record(cls, values: dict[str, Any]) -> SimulationConfig:
        """Rebuild the settings from `recorded`.

        Raises
        ------
        InputError
            As `from_dict`.
        """
        default = cls().to_dict()
        return cls.from_dict({k: default[k] for k in OrderEffects.__dataclass_fields__} | values)

    @property
    def n_images(self) -> int:
        """Number of images per subject."""
        return self.n_shared + self.n_unique

    @property
    def n_stimuli(self) -> int:
        """Number of images of all subjects."""
        return self.n_shared + self.n_subjects * self.n_unique

    @property
    def n_trials(self) -> int:
        """Number of trials per subject."""
        return self.n_images * self.n_repeats


def simulate(
    root: Path,
    config: SimulationConfig | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> Path:
    """Write simulated subjects in a folder with the layout of NSD.

    Parameters
    ----------
    root : path
        Folder to create.
    config : SimulationConfig, optional
    progress : callable
        Called with a description of each step.

    Returns
    -------
    path
        ``root``, with ``nsddata/``, ``nsddata_betas/``, ``nsddata_stimuli/`` and ``truth/`` (one
        ``.npz`` per subject: ``mean``, ``driven``, ``scale``, ``loadings``, ``private``,
        ``explained``, ``field``, ``area``, ``kind``; see
        `synbrain_cli.datasets.simulated_responses.Responses`; and ``views.npz``, where in which
        photograph each image lies; and ``subj01_drift.npz``, ``courses`` (n_trials, n_fields) and
        ``fields`` (n_voxels, n_fields), whose product is the drift of every trial).
        ``dataset_description.json`` is written last.

    Raises
    ------
    InputError
        When the image size is not supported, or trials do not divide into sessions.
    """
    config = config or SimulationConfig()
    if config.image_size % 64 or config.image_size < 128 or config.n_trials % config.n_sessions:
        raise InputError(
            "expected an image size in multiples of 64, at least 128, and a number of trials "
            f"(images × repeats) that is a multiple of the number of sessions; found {config}"
        )
    root = Path(root)
    design_seed, image_seed, *_ = _seeds(config)

    progress("photographs")
    stimuli, views, design = _show_photographs(config, image_seed, design_seed)
    write_stimuli(root, stimuli)
    write_views(root, views)
    write_design(root, design)

    progress("features of the photographs")
    features = StimulusFeatures.of(stimuli)
    for subject, noise_seed in _subjects(config, features, design.subject_images):
        progress(f"subject {subject.number} of {config.n_subjects}")
        write_subject(root, subject, design, noise_seed)
    write_json(
        root / "dataset_description.json",
        {
            "Name": "Simulated subjects in the layout of the Natural Scenes Dataset",
            "BIDSVersion": "1.9.0",
            "DatasetType": "raw",
            "Simulated": True,
            "GeneratedBy": [{"Name": "synbrain", "Version": versions()["synbrain"]}],
            "Simulation": config.recorded(),
        },
    )
    return root


def _seeds(config: SimulationConfig) -> list[np.random.SeedSequence]:
    """Seeds of the design, of the images, of what subjects share, and of each subject."""
    return np.random.SeedSequence(config.seed).spawn(3 + config.n_subjects)


def _subjects(
    config: SimulationConfig,
    features: StimulusFeatures,
    subject_images: np.ndarray,
    others: np.ndarray | None = None,
) -> Iterator[tuple[SimulatedSubject, np.random.SeedSequence]]:
    """Yield each subject, with the seed of its trials' noise.

    Parameters
    ----------
    config : SimulationConfig
    features : StimulusFeatures
    subject_images : int array of shape (n_subjects, n_images)
        Stimuli that each subject was shown.
    others : int array of shape (n_subjects, n_others), optional
        Stimuli of another experiment with each.
    """
    _, _, common_seed, *subject_seeds = _seeds(config)
    layouts = {h: functional_layout(h) for h in HEMISPHERES}
    for index, seed in enumerate(subject_seeds):
        anatomy_seed, tuning_seed, noise_seed, other_seed, other_noise_seed = seed.spawn(5)
        anatomy = build_anatomy(layouts, config.voxel_size, anatomy_seed)
        responses = build_responses(
            features,
            subject_images[index],
            layouts,
            anatomy,
            config.unexplained,
            (common_seed, tuning_seed),
            None if others is None else OtherImages(others[index], other_seed),
        )
        subject = SimulatedSubject(index + 1, layouts, anatomy, responses, config.effects)
        yield subject, noise_seed if others is None else other_noise_seed


def simulate_artificial(root: Path, progress: Callable[[str], None] = lambda message: None) -> Path:
    """Show artificial images to the subjects of a simulation, in files of NSD-synthetic.

    They are the same subjects: what they respond to, and how unsure their trials are, was drawn
    when they were simulated. The images are those of
    `synbrain_cli.datasets.simulated_artificial`.

    Parameters
    ----------
    root : path
        Folder that `simulate` wrote.
    progress : callable
        Called with a description of each step.

    Returns
    -------
    path
        ``root``, with the files of `synbrain_cli.datasets.nsd_synthetic`, and the true responses in
        ``truth/`` (``subj01_synthetic.npz``: ``mean``, ``driven``, ``scale``, in the order of the
        images).

    Raises
    ------
    MissingError, InputError
        When the folder is no finished simulation, or its files were changed.
    """
    config = read_simulation(root)
    nsd = NSD(root)
    progress("artificial images")
    generator = np.random.default_rng(np.random.SeedSequence([config.seed, N_IMAGES]))
    stored = draw_artificial(config.image_size, config.n_subjects, generator)
    ordering = order_trials(generator)
    known = np.stack(list(nsd.read_images([image_name(i) for i in range(config.n_stimuli)])))
    seen = np.stack(
        [as_seen(image) for image in (*stored.common, *np.concatenate(stored.coloured))]
    )

    progress("features of the images")
    features = StimulusFeatures.of(np.concatenate([known, seen]), len(known))
    first_own = len(known) + N_COMMON + np.arange(config.n_subjects) * (N_IMAGES - N_COMMON)
    others = np.stack(
        [
            np.r_[len(known) : len(known) + N_COMMON, own : own + N_IMAGES - N_COMMON]
            for own in first_own.tolist()
        ]
    )
    written = write_artificial_images(root, stored)
    for subject, seed in _subjects(config, features, nsd.design.subject_images, others):
        progress(f"subject {subject.number} of {config.n_subjects}")
        written += write_artificial_session(root, subject, ordering, seed)
    written.append(write_artificial_design(root, ordering))
    for path in written:  # they go with the subjects, where others are simulated in their place
        note_derived(root, path)
    return root


def read_simulation(root: Path) -> SimulationConfig:
    """Read the settings of the simulation in a folder.

    Raises
    ------
    MissingError, InputError
        When there is none, or the record is damaged.
    """
    path = root / "dataset_description.json"
    if not path.exists():
        raise MissingError(f"{root}: no simulation: `synbrain prepare simulated` makes one")
    with reading(path, "the record of a simulation", "simulate again (--overwrite)"):
        return SimulationConfig.of_record(read_json(path)["Simulation"])


def _show_photographs(
    config: SimulationConfig,
    image_seed: np.random.SeedSequence,
    design_seed: np.random.SeedSequence,
) -> tuple[np.ndarray, list[View], Design]:
    """Return the images, uint8 (n_images, size, size, 3), their places, and the design."""
    n_all = config.n_shared + config.n_subjects * config.n_unique
    generator = np.random.default_rng(image_seed)
    photographs, weight = load_photographs()
    parts = {"shared": config.n_shared, "unique": n_all - config.n_shared}
    dealt = [
        view
        for part, n_images in parts.items()
        for view in place_views(photographs, weight, n_images, part, generator)
    ]
    # As in NSD, shared images are scattered among all images; the generator is that of the design.
    design_generator = np.random.default_rng(design_seed)
    scatter = design_generator.permutation(n_all)
    views = [dealt[i] for i in np.argsort(scatter)]
    stimuli = cut_views(photographs, views, config.image_size, generator)
    subject_images = np.stack(
        [
            np.concatenate([scatter[: config.n_shared], own])
            for own in scatter[config.n_shared :].reshape(config.n_subjects, -1)
        ]
    )
    ordering = design_generator.permutation(np.repeat(np.arange(config.n_images), config.n_repeats))
    per_session = len(ordering) // config.n_sessions
    return stimuli, views, Design(ordering, subject_images, config.n_shared, per_session)
