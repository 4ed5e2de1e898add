"""Which image was shown, decoded from responses: recorded, predicted and drawn.

The published retrieval asks the encoder that defines the latent, and so is circular: whatever that
encoder keeps of an image, its own latents are good at finding. It stands here beside a linear
decoder fitted on recorded responses alone, which knows nothing of the networks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from synbrain_cli.brain import Brain
from synbrain_cli.brain.drawing import Drawing
from synbrain_cli.brain.images import token_digest
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.token_store import TokenStore
from synbrain_cli.metrics.accuracy import average_repeats
from synbrain_cli.metrics.bootstrap import bootstrap_ci, weighted_mean
from synbrain_cli.metrics.identification import n_way, pattern_similarity
from synbrain_cli.model.linear import apply_ridge, fit_ridge, pool_tokens

N_CANDIDATES = 300  # Mai et al. 2025
N_COMPONENTS = 128  # of the tokens that the linear decoder predicts


def retrieval(
    brain: Brain,
    subject: PreparedSubject,
    store: TokenStore,
    tokens: np.ndarray,
    trials: np.ndarray,
    rows: np.ndarray,
    means: np.ndarray,
    shuffle: np.ndarray,
    *,
    n_boot: int,
    seed: int,
) -> dict[str, Any]:
    """Top-1 retrieval of test images among candidates, by two decoders.

    Parameters
    ----------
    tokens : float array of shape (n_images, n_tokens, n_dims)
        Of the test images.
    trials, rows : float32 (n_trials, n_voxels), int (n_trials,)
        Recorded test trials, standardised, and the image of each.
    means : float32 array of shape (n_images, n_voxels)
        The model's predictions.
    shuffle : int array of shape (n_images,)
        Another image for each.

    Returns
    -------
    dict
        ``n_candidates``, ``chance``, and per decoder: ``raw`` (recorded single trials), ``syn``
        (predicted means), ``draw`` (single draws), each with an interval; ``mean_pattern`` and
        ``shuffled`` (predicted means) as controls.
    """
    n_images = len(tokens)
    n_candidates = min(N_CANDIDATES, n_images)
    asked = rounds(rows, n_images)
    drawn = np.stack(
        [
            brain.draw_around(mean, token_digest(token), Drawing(len(asked), seed))
            for mean, token in zip(means, tokens, strict=True)
        ]
    )
    queries = {
        "raw": [trials[chosen] for chosen in asked],
        "syn": [means],
        "draw": list(drawn.transpose(1, 0, 2)),
        "mean_pattern": [np.broadcast_to(brain.distribution.mean_pattern, means.shape)],
        "shuffled": [means[shuffle]],
    }
    scaled = brain.scaler(tokens)
    decoders = {"linear_decoder": _linear_decoder(brain, subject, store, scaled, seed)}
    if brain.config.has_networks:
        decoders["brainvae"] = _latent_decoder(brain, scaled)
    found: dict[str, Any] = {"n_candidates": n_candidates, "chance": 1 / n_candidates}
    for name, similarity in decoders.items():
        found[name] = {}
        for what, patterns in queries.items():
            per_image = np.mean([n_way(similarity(p), n_candidates) for p in patterns], 0)
            low, high = bootstrap_ci(
                lambda counts, values=per_image: weighted_mean(values, counts),
                n_images,
                np.random.default_rng(seed),
                n_boot,
            )
            found[name][what] = float(per_image.mean())
            found[name][f"{what}_ci"] = [float(low), float(high)]
    return found


def rounds(rows: np.ndarray, n_images: int) -> list[np.ndarray]:
    """Trials of every image in turn: the same number of queries for each.

    Parameters
    ----------
    rows : int array of shape (n_trials,)
        Image of each trial.

    Returns
    -------
    list of int arrays of shape (n_images,)
        As many as the most shown image has trials; where repeats are fewer, some count twice.
    """
    of_image = [np.flatnonzero(rows == i) for i in range(n_images)]
    n_rounds = max(map(len, of_image))
    return [np.array([own[k % len(own)] for own in of_image]) for k in range(n_rounds)]


class FeatureSpace:
    """The leading principal components of pooled tokens: what the decoder predicts.

    Parameters
    ----------
    features : float32 array of shape (n_images, n_features)
        Of the real images.

    Attributes
    ----------
    centre : float32 array of shape (n_features,)
    axes : float32 array of shape (n_features, n_components)
    """

    def __init__(self, features: np.ndarray) -> None:
        self.centre = features.mean(0, dtype=np.float64).astype(np.float32)
        centred = features - self.centre
        values, vectors = np.linalg.eigh((centred @ centred.T).astype(np.float64))
        keep = np.flatnonzero(values > 1e-7 * values[-1])[-N_COMPONENTS:]
        self.axes = centred.T @ (vectors[:, keep] / np.sqrt(values[keep])).astype(np.float32)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Scores on the components: (n_images, n_features) → float32 (n_images, n_components)."""
        return (features - self.centre) @ self.axes


def _latent_decoder(brain: Brain, scaled: np.ndarray):
    """Similarity of BrainVAE's posterior means with the tokens (Mai et al. 2025)."""
    candidates = scaled.reshape(len(scaled), -1)

    @torch.inference_mode()
    def similarity(patterns: np.ndarray) -> np.ndarray:
        rows = []
        for start in range(0, len(patterns), 16):
            part = np.ascontiguousarray(patterns[start : start + 16], np.float32)
            latent = brain.networks.vae.encode(torch.from_numpy(part).to(brain.device)).mean
            rows.append(pattern_similarity(latent.flatten(1).cpu().numpy(), candidates))
        return np.concatenate(rows)

    return similarity


def _linear_decoder(
    brain: Brain, subject: PreparedSubject, store: TokenStore, scaled: np.ndarray, seed: int
):
    """Similarity of tokens predicted from responses, by ridge, with the candidates' tokens.

    Fitted on the averages over repeats of training images, to the leading principal components of
    their pooled tokens.
    """
    train = subject.select("train")
    averages, index, _ = average_repeats(brain.standardize(train.betas), train.image_index)
    features = pool_tokens(brain.scaler(store.take(train.images[index])))
    space = FeatureSpace(features)
    fit, _ = fit_ridge(averages, space(features), np.random.default_rng([seed, 4]))
    candidates = space(pool_tokens(scaled))

    def similarity(patterns: np.ndarray) -> np.ndarray:
        return pattern_similarity(apply_ridge(fit, np.asarray(patterns, np.float32)), candidates)

    return similarity
