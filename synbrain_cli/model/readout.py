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
        The posterior's deviation, root mean square over training trials (`posteriors`): the noise
        the decoder was trained with.
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
    """Posterior mean of every trial, and the posterior's deviation.

    Parameters
    ----------
    vae : BrainVAE
    betas : float32 array of shape (n_trials, n_voxels)

    Returns
    -------
    mean : float32 array of shape (n_trials, n_tokens, n_dims)
    deviation : float32 array of shape (n_tokens, n_dims)
        Root mean square over trials.
    """
    device = next(vae.parameters()).device
    shape = (vae.config.n_tokens, vae.config.n_dims)
    mean, variance = np.empty((len(betas), *shape), np.float32), np.zeros(shape)
    for start in range(0, len(betas), batch):
        posterior = vae.encode(torch.from_numpy(betas[start : start + batch]).to(device))
        mean[start : start + batch] = posterior.mean.cpu().numpy()
        variance += posterior.log_variance.double().exp().sum(0).cpu().numpy()
    return mean, np.sqrt(variance / len(betas)).astype(np.float32)
