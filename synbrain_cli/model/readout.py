"""From a predicted latent to draws.

The response distribution y = m + u + e (mean, unexplained signal, trial noise) takes its place
here beside the published way, which adds noise to the latent.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch

from synbrain_cli.model.vae import BrainVAE


@dataclass(frozen=True)
class LatentReadout:
    """Noise added to the mapper's latent before decoding.

    Attributes
    ----------
    sd : float32 array of shape (n_tokens, n_dims)
        Deviation of the latent of single trials about their image's mean (`latent_spread`).
    """

    sd: np.ndarray

    def noise(self, generator: np.random.Generator, factor: float | None) -> np.ndarray:
        """One draw of noise: float32 (n_tokens, n_dims); ``factor`` as in `Brain.draw`."""
        normal = generator.standard_normal(self.sd.shape, np.float32)
        return normal * (self.sd if factor is None else np.float32(factor))


def draw_generator(seed: int, digest: str, k: int, fingerprint: str) -> np.random.Generator:
    """Generator of draw k of one image.

    Parameters
    ----------
    seed : int
    digest : str
        Of the image's content.
    k : int
    fingerprint : str
        Of the model.
    """
    key = hashlib.sha256(f"{seed}/{digest}/{k}/{fingerprint}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16])))


@torch.inference_mode()
def posteriors(vae: BrainVAE, betas: np.ndarray, batch: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Posterior mean and variance of every trial.

    Parameters
    ----------
    vae : BrainVAE
    betas : float32 array of shape (n_trials, n_voxels)

    Returns
    -------
    mean : float32 array of shape (n_trials, n_tokens, n_dims)
    variance : float64 array of shape (n_tokens, n_dims)
        Averaged over trials.
    """
    device = next(vae.parameters()).device
    shape = (vae.config.n_tokens, vae.config.n_dims)
    mean, variance = np.empty((len(betas), *shape), np.float32), np.zeros(shape)
    for start in range(0, len(betas), batch):
        posterior = vae.encode(torch.from_numpy(betas[start : start + batch]).to(device))
        mean[start : start + batch] = posterior.mean.cpu().numpy()
        variance += posterior.log_variance.double().exp().sum(0).cpu().numpy()
    return mean, variance / len(betas)


def latent_spread(
    means: np.ndarray, variance: np.ndarray, image_index: np.ndarray
) -> np.ndarray:
    """Deviation of a single trial's latent about its image's mean.

    By the law of total variance: the variance of posterior means between repeats of an image
    (pooled over images, n − 1), plus the mean posterior variance. Without repeats, the latter
    alone.

    Parameters
    ----------
    means : array of shape (n_trials, n_tokens, n_dims)
    variance : array of shape (n_tokens, n_dims)
    image_index : int array of shape (n_trials,)

    Returns
    -------
    float32 array of shape (n_tokens, n_dims)
    """
    squares, freedom = np.zeros(variance.shape), 0
    for image in np.unique(image_index):
        repeats = means[image_index == image]
        if len(repeats) > 1:
            squares += ((repeats - repeats.mean(0, dtype=np.float64)) ** 2).sum(0)
            freedom += len(repeats) - 1
    between = squares / freedom if freedom else squares
    return np.sqrt(between + variance).astype(np.float32)
