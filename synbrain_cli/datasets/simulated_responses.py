"""Responses of the simulated subjects: what voxels are tuned to, noise, single trials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from synbrain_cli.datasets.simulated_areas import (
    CorticalFields,
    energy_responses,
    group_of,
    higher_responses,
    zscore,
)
from synbrain_cli.datasets.simulated_cortex import (
    EARLY_KIND,
    HIGHER_AREAS,
    VISUAL_ROIS,
    Anatomy,
    Layout,
)
from synbrain_cli.datasets.simulated_features import StimulusFeatures
from synbrain_cli.io.surface import HEMISPHERES, fsaverage


@dataclass(frozen=True)
class Responses:
    """Response distribution of one subject; percent signal change.

    Attributes
    ----------
    mean, driven : arrays of shape (n_images, n_voxels)
        Noise-free response, and the part of it that the image explains: a + g · sqrt(1 − q) · f.
    scale : array of shape (n_images, n_voxels)
        Factor of the noise, which has the covariance ``loadings @ loadings.T + diag(private²)``.
    loadings : array of shape (n_voxels, n_factors)
    private : array of shape (n_voxels,)
    explained : array of shape (n_voxels,)
        Share of the response's variance that image features explain.
    offset, gain : arrays of shape (n_voxels,)
        Mean over images, and the standard deviation of the noise (the unit of the drift).
    area, kind : str arrays of shape (n_voxels,)
        Name of the voxel's area, and its kind (`synbrain_cli.datasets.simulated_areas`).
    field : array of shape (n_voxels, 3)
        Receptive fields of early areas, x, y (upwards) and SD in half-widths of the image; NaN of
        others.
    """

    mean: np.ndarray
    driven: np.ndarray
    scale: np.ndarray
    loadings: np.ndarray
    private: np.ndarray
    explained: np.ndarray
    offset: np.ndarray
    gain: np.ndarray
    area: np.ndarray
    kind: np.ndarray
    field: np.ndarray


@dataclass(frozen=True)
class OtherImages:
    """Stimuli of another experiment with the same subject.

    Attributes
    ----------
    rows : int array of shape (n_others,)
        Among all stimuli.
    seed : SeedSequence
        Of what no feature of theirs explains.
    """

    rows: np.ndarray
    seed: np.random.SeedSequence


def name_areas(visual: np.ndarray, higher: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the name and the kind of each voxel's area, str (n_voxels,).

    Parameters
    ----------
    visual, higher : int arrays of shape (n_voxels,)
        Codes of `Layout`.
    """
    areas = np.array(["", *VISUAL_ROIS])[visual]
    kinds = np.where(visual > 0, EARLY_KIND, "").astype("U8")
    for code, (name, area) in enumerate(HIGHER_AREAS.items(), start=1):
        areas = np.where(higher == code, name, areas)
        kinds[higher == code] = area.kind
    return areas, kinds


def build_responses(
    features: StimulusFeatures,
    rows: np.ndarray,
    layouts: Mapping[str, Layout],
    anatomy: Anatomy,
    unexplained: float,
    seeds: tuple[np.random.SeedSequence, np.random.SeedSequence],
    others: OtherImages | None = None,
) -> Responses:
    """Generate the tuning, the unexplained response and the noise of every voxel.

    The formula is given in `synbrain_cli.datasets.simulated`.

    Parameters
    ----------
    features : StimulusFeatures
        Of all stimuli. Scales are computed over all of them, so that they are the same for every
        subject.
    rows : int array of shape (n_images,)
        Stimuli that are shown to this subject, in the order of ``subjectim``.
    layouts : dict of Layout
        Functional layout of each hemisphere.
    anatomy : Anatomy
    unexplained : float
        Mean share of a voxel's response that no image feature explains.
    seeds : pair of SeedSequence
        Common to the subjects, and this subject's own.
    others : OtherImages, optional
        Shown in another experiment: their responses follow those to ``rows``, which they do not
        change.
    """
    common, own = (np.random.default_rng(seed) for seed in seeds)
    function = {
        name: np.concatenate([getattr(layouts[h], name) for h in HEMISPHERES])[anatomy.owner]
        for name in ("visual", "higher", "x", "y", "size")
    }
    area, kind = name_areas(function["visual"], function["higher"])
    early = kind == EARLY_KIND
    n_images, n_voxels = len(rows), len(anatomy.owner)
    if others is not None:
        rows = np.concatenate([rows, others.rows])
    positions = np.concatenate([fsaverage("sphere")[h][0] for h in HEMISPHERES]).astype(float)
    n_left = len(positions) // 2
    positions[n_left:, 0] += 400  # the hemispheres' spheres overlap
    fields = CorticalFields(positions[anatomy.owner], common, own)
    f, field = energy_responses(features.energy[rows], function, fields)
    groups = {
        group_of(name, one.kind): np.zeros(n_voxels, bool) for name, one in HIGHER_AREAS.items()
    }
    for name, one in HIGHER_AREAS.items():
        groups[group_of(name, one.kind)] |= area == name
    side = np.where(anatomy.owner < n_left, 1, -1)
    for name, values in higher_responses(features, groups, side, fields).items():
        f[:, groups[name]] = values[rows]
    f = zscore(f, n_images)

    # Response that no image feature explains, random over images and low-rank over voxels.
    rank = 8
    hidden = own.normal(0, 1, (n_images, rank))
    if others is not None:
        more = np.random.default_rng(others.seed).normal(0, 1, (len(others.rows), rank))
        hidden = np.concatenate([hidden, more])
    h = zscore(hidden @ fields.draw(rank, 25.0, 0.5).T, n_images)
    q = np.clip(unexplained * np.exp(0.4 * own.normal(0, 1, n_voxels)), 0.02, 0.6)
    s = np.sqrt(1 - q) * f + np.sqrt(q) * h

    # Signal-to-noise: log-normal, as in NSD's visual voxels (median 0.42, 5-95 % 0.20 to 0.82),
    # lower where the receptive field leaves the picture.
    outside = np.clip(np.hypot(function["x"], function["y"]) - 0.9, 0, None) * early
    snr = 0.48 * np.exp(0.38 * fields.draw(1, 10.0, 0.5)[:, 0] - outside)
    noise_sd = 1 / np.clip(snr, 0.1, 1.4)
    loadings = fields.draw(6, 30.0, 0.5)
    loadings /= np.linalg.norm(loadings, axis=1, keepdims=True)
    share = 0.3  # of the noise's variance, shared by voxels
    gain = np.exp(0.3 * own.normal(0, 1, n_voxels)) * 0.7
    offset = 0.6 + 0.5 * fields.draw(1, 15.0, 0.5)[:, 0]
    return Responses(
        mean=offset + gain * s,
        driven=offset + gain * np.sqrt(1 - q) * f,
        scale=gain * noise_sd * (1 + 0.25 * np.tanh(s)),
        loadings=np.sqrt(share) * loadings,
        private=np.full(n_voxels, np.sqrt(1 - share)),
        explained=1 - q,
        offset=offset,
        gain=gain * noise_sd,
        area=area,
        kind=kind,
        field=np.where(early[:, None], field, np.nan),
    )


@dataclass(frozen=True)
class OrderEffects:
    """How much responses depend on their place in time, in SDs of a voxel's noise.

    Attributes
    ----------
    drift : float
        Factor of the slow drift within sessions, whose SD is about a tenth of the noise's.
    repetition : float
        By how much the response is smaller after many presentations of the image. The k-th lacks
        (1 − 2^(1−k)) of it, times 1 + s/2, with s the image's noise-free response in SDs.
    serial : float
        Response to the image before, per SD of the noise-free response to that image.
    """

    drift: float = 1.0
    repetition: float = 0.0
    serial: float = 0.0


@dataclass(frozen=True)
class SessionInOrder:
    """What was drawn for one session.

    Attributes
    ----------
    betas : array of shape (n_trials, n_voxels), percent signal change
    courses : array of shape (n_trials, n_fields)
        Time courses of the drift, which is ``courses @ (drift_fields * gain[:, None]).T``.
    """

    betas: np.ndarray
    courses: np.ndarray


def draw_session(
    responses: Responses,
    images: np.ndarray,
    drift_fields: np.ndarray,
    generator: np.random.Generator,
    presentation: np.ndarray | None = None,
    effects: OrderEffects | None = None,
) -> SessionInOrder:
    """Draw the single trials of one session, including its drift.

    Parameters
    ----------
    responses : Responses
    images : int array of shape (n_trials,)
        Rows of ``responses.mean``.
    drift_fields : array of shape (n_voxels, n_fields)
    generator : numpy Generator
    presentation : int array of shape (n_trials,), optional
        How often the image has been shown by then, this time included: for effects of repetition.
    effects : OrderEffects, optional
    """
    effects = effects or OrderEffects()
    n_trials, n_voxels = len(images), responses.mean.shape[1]
    shared = generator.normal(0, 1, (n_trials, responses.loadings.shape[1]))
    noise = shared @ responses.loadings.T
    noise += responses.private * generator.normal(0, 1, (n_trials, n_voxels))
    time = np.linspace(-1, 1, n_trials)[:, None]
    slow = generator.normal(0, 0.12, drift_fields.shape[1]) + generator.normal(
        0, 0.08, drift_fields.shape[1]
    ) * np.concatenate([time, np.sin(3 * np.pi * time), np.cos(2 * np.pi * time)], 1)
    slow = effects.drift * slow
    drift = slow @ drift_fields.T * responses.gain
    betas = responses.mean[images] + responses.scale[images] * noise + drift
    if effects.repetition or effects.serial:
        standard = zscore(responses.mean)
    if effects.repetition and presentation is not None:
        lacking = effects.repetition * (1 - 2.0 ** (1 - presentation))[:, None]
        betas -= lacking * (1 + standard[images] / 2) * responses.gain
    if effects.serial:
        betas[1:] += effects.serial * standard[images[:-1]] * responses.gain
    return SessionInOrder(betas, slow)
