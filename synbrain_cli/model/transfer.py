"""Prediction of the voxels of a new subject from models of other subjects by ridge regression.

    prediction = gain · prior + ridge(evidence)

The evidence is the vector of responses that models of other subjects predict for an image. A voxel
of the new subject is a weighted sum of these responses (functional alignment as in Haxby et al.
2011, *Neuron* 72:404, but of models instead of recordings). The prior mean is the prediction of a
shared core for the position of the voxel on the cortical sheet (`synbrain_cli.model.core`), where
there is a shared core.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from synbrain_cli.groups import Groups
from synbrain_cli.model.linear import apply_ridge, fit_ridge
from synbrain_cli.model.tokens import StandardTokens
from synbrain_cli.progress import UNSEEN, Share
from synbrain_cli.tokens import Tokens

MAX_GAIN = 1.5
TOGETHER = 64  # images whose tokens are in memory

# Raw tokens of n images → evidence (n, n_evidence), prior mean (n, n_voxels) or None.
Evidence = Callable[[Tokens], tuple[np.ndarray, np.ndarray | None]]


def gather_evidence(
    evidence: Evidence, tokens: StandardTokens, share: Share = UNSEEN
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return evidence and prior of images whose tokens are read some at a time.

    Parameters
    ----------
    evidence : Evidence
        Its models scale tokens in their own way, so that it takes them as encoded.
    tokens : StandardTokens
    share : Share
        Of a task whose progress is shown.
    """
    firsts = range(0, len(tokens), TOGETHER)
    parts = [
        evidence(tokens.part(slice(first, first + TOGETHER)).raw()) for first in share.over(firsts)
    ]
    known = np.concatenate([part for part, _ in parts])
    priors = [prior for _, prior in parts if prior is not None]
    return known, np.concatenate(priors) if priors else None


@dataclass(frozen=True)
class Adapter:
    """Prediction of a subject's voxels from evidence and prior.

    Attributes
    ----------
    gain : float
        Of the prior.
    ridge : dict
        As `synbrain_cli.model.linear.fit_ridge` gives, on the evidence.
    """

    gain: float
    ridge: dict[str, np.ndarray]

    def __call__(self, evidence: np.ndarray, prior: np.ndarray | None) -> np.ndarray:
        """Return responses, float32 (n_images, n_voxels)."""
        residual = apply_ridge(self.ridge, evidence)
        return residual if prior is None else residual + np.float32(self.gain) * prior

    def arrays(self) -> dict[str, np.ndarray]:
        """Return named arrays, for a file."""
        named = {f"ridge.{k}": v for k, v in self.ridge.items()}
        return named | {"gain": np.array(self.gain, np.float32)}

    @classmethod
    def from_arrays(cls, named: dict[str, np.ndarray]) -> Adapter:
        """Rebuild from the named arrays of a file."""
        ridge = {k.removeprefix("ridge."): v for k, v in named.items() if k.startswith("ridge.")}
        return cls(named["gain"].item(), ridge)


@dataclass(frozen=True)
class Transfer:
    """Evidence, and a subject's adapter to it."""

    evidence: Evidence
    adapter: Adapter

    def predict(self, tokens: Tokens) -> np.ndarray:
        """Return responses to raw tokens of n images: float32 (n, n_voxels)."""
        return self.adapter(*self.evidence(tokens))


def fit_adapter(
    evidence: np.ndarray,
    prior: np.ndarray | None,
    responses: np.ndarray,
    generator: np.random.Generator,
    share: Share = UNSEEN,
    groups: Groups | None = None,
) -> tuple[Adapter, np.ndarray]:
    """Fit a subject's voxels: the gain of the prior, then ridge on the residual.

    Parameters
    ----------
    evidence : float32 array of shape (n_images, n_evidence)
    prior : float32 array of shape (n_images, n_voxels), or None
    responses : float array of shape (n_images, n_voxels)
        Recorded, averaged over repeats.
    generator : numpy Generator
        Deals images to folds.
    share : Share
        Of a task whose progress is shown.
    groups : int array of shape (n_images,), optional
        Groups of images that are never both fitted and held out (`synbrain_cli.groups`).

    Returns
    -------
    Adapter
    float32 array of shape (n_images, n_voxels)
        Leave-one-out predictions (the gain, one number for all voxels and images, stays).
    """
    gain = 0.0
    expected: np.ndarray | np.float32 = np.float32(0)
    if prior is not None:
        away = prior - prior.mean(0)
        power = float(np.square(away, dtype=np.float64).sum())
        against = float((away * (responses - responses.mean(0))).sum())
        gain = min(max(against / power, 0.0), MAX_GAIN) if power else 0.0
        expected = np.float32(gain) * prior
    residual = responses - expected
    ridge, left_out = fit_ridge(evidence, residual, generator, share, groups)
    return Adapter(gain, ridge), np.asarray(left_out + expected, np.float32)
