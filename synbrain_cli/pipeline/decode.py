"""Which image was shown, decoded from responses: recorded, predicted and drawn.

The published retrieval asks the encoder that defines the latent, and so is circular: whatever that
encoder keeps of an image, its own latents are good at finding. It stands here beside a linear
decoder fitted on recorded responses alone, which knows nothing of the networks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from synbrain_cli.brain import Brain, Drawing, token_digest
from synbrain_cli.io.prepared import PreparedSubject, TokenStore
from synbrain_cli.metrics.accuracy import average_repeats, bootstrap_ci, weighted_mean
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
    # The same number of queries for every image; where repeats are fewer, some count twice.
    of_image = [np.flatnonzero(rows == i) for i in range(n_images)]
    n_rounds = max(map(len, of_image))
    rounds = [np.array([own[k % len(own)] for own in of_image]) for k in range(n_rounds)]
    drawn = np.stack(
        [
            brain.draw_around(mean, token_digest(token), Drawing(n_rounds, seed))
            for mean, token in zip(means, tokens, strict=True)
        ]
    )
    queries = {
        "raw": [trials[chosen] for chosen in rounds],
        "syn": [means],
        "draw": list(drawn.transpose(1, 0, 2)),
        "mean_pattern": [np.broadcast_to(brain.mean_pattern, means.shape)],
        "shuffled": [means[shuffle]],
    }
    scaled = brain.scaler(tokens)
    decoders = {"linear_decoder": _linear_decoder(brain, subject, store, scaled, seed)}
    if brain.has_networks:
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


def _latent_decoder(brain: Brain, scaled: np.ndarray):
    """Similarity of BrainVAE's posterior means with the tokens (Mai et al. 2025)."""
    candidates = scaled.reshape(len(scaled), -1)

    @torch.inference_mode()
    def similarity(patterns: np.ndarray) -> np.ndarray:
        rows = []
        for start in range(0, len(patterns), 16):
            part = np.ascontiguousarray(patterns[start : start + 16], np.float32)
            latent = brain.vae.encode(torch.from_numpy(part).to(brain.device)).mean
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
    centre = features.mean(0)
    gram = ((features - centre) @ (features - centre).T).astype(np.float64)
    values, vectors = np.linalg.eigh(gram)
    keep = np.flatnonzero(values > 1e-7 * values[-1])[-N_COMPONENTS:]
    axes = (features - centre).T @ (vectors[:, keep] / np.sqrt(values[keep]))
    fit, _ = fit_ridge(
        averages,
        ((features - centre) @ axes).astype(np.float32),
        np.random.default_rng([seed, 4]),
    )
    candidates = (pool_tokens(scaled) - centre) @ axes

    def similarity(patterns: np.ndarray) -> np.ndarray:
        return pattern_similarity(apply_ridge(fit, np.asarray(patterns, np.float32)), candidates)

    return similarity
