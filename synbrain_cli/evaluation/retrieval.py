"""Which image was shown, decoded from responses: recorded, predicted and drawn.

The published retrieval decodes with the encoder that defines the latent, and so is circular: its
latents identify whatever that encoder keeps of an image. It stands here beside a linear decoder
that is fitted to recorded responses alone, independently of the networks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from msgspec import UNSET
from numpy.typing import NDArray

from synbrain_cli.brain import Brain
from synbrain_cli.brain.drawing import Drawing
from synbrain_cli.evaluation.predictions import Predictions
from synbrain_cli.evaluation.test_set import TestSet
from synbrain_cli.groups import number_groups
from synbrain_cli.io.results.evaluation import RetrievalScore, RetrievalScores
from synbrain_cli.io.results.record import finite
from synbrain_cli.metrics.accuracy import average_repeats
from synbrain_cli.metrics.arrays import blockwise
from synbrain_cli.metrics.bootstrap import Bootstrap
from synbrain_cli.metrics.identification import n_way, pattern_similarity
from synbrain_cli.model.linear import apply_ridge, fit_ridge, pool_bands
from synbrain_cli.model.principal import principal_components
from synbrain_cli.progress import UNSEEN, Share
from synbrain_cli.training.examples import standard_tokens

N_CANDIDATES = 300  # Mai et al. 2025
N_COMPONENTS = 128  # of the tokens that the linear decoder predicts
MOST_VOXELS = 4_096  # that the linear decoder reads (ours)
TIMES = 1, 25, 2  # shares of queries, of fitting the linear decoder, and of decoding
DECODER_TIMES = 3, 2, 2, 5  # of averages over repeats, tokens, their components, and ridge

Array = NDArray[np.floating]
Found = Mapping[str, NDArray[np.float64]]  # kind of query → value of each image
Decoder = Callable[[Array], Array]  # responses (n_images, n_voxels) → similarity with candidates


def retrieve(
    brain: Brain,
    test: TestSet,
    predictions: Predictions,
    bootstrap: Bootstrap,
    seed: int,
    share: Share = UNSEEN,
) -> RetrievalScores:
    """Top-1 retrieval of test images among candidates, by two decoders.

    Images are retrieved among those that one fit was tested on (`TestSet.blocks`), two or more.
    Queries are recorded single trials (``raw``), predicted means (``syn``), single draws
    (``draw``), and as controls the mean pattern and the means predicted for other images.

    Parameters
    ----------
    brain : Brain
    test : TestSet
    predictions : Predictions
    bootstrap : Bootstrap
    seed : int
        Of the draws, and of the folds by which the linear decoder's penalties are chosen.
    share : Share
        Of a task whose progress is shown.
    """
    n_candidates = min(N_CANDIDATES, test.least_block)
    found: dict[str, list[Found]] = {}
    blocks = zip(test.parts or (test,), test.blocks, strict=True)
    for (part, images), own in share.each(blocks):
        asking, learning, decoding = own.split(*TIMES)
        queries = _queries(brain, test, part, images, predictions, seed)
        asking.to(1)
        decoders = {"linear_decoder": _linear_decoder(brain, part, seed, learning)}
        if brain.config.has_networks:
            seen = brain.networks.joint(brain.predictors.scaler(part.tokens))
            decoders["brainvae"] = _latent_decoder(brain, seen)
        for name, decode in decoding.over(decoders.items()):
            found.setdefault(name, []).append(_find(decode, queries, n_candidates))
    scores = {name: _score(parts, bootstrap) for name, parts in found.items()}
    return finite(
        RetrievalScores(
            n_candidates=n_candidates,
            chance=1 / n_candidates,
            linear_decoder=scores["linear_decoder"],
            brainvae=scores.get("brainvae", UNSET),
        )
    )


def _queries(
    brain: Brain, test: TestSet, part: TestSet, images: slice, predictions: Predictions, seed: int
) -> dict[str, list[Array]]:
    """Patterns (n_images, n_voxels) that are decoded, of the images that one fit was tested on."""
    asked = rounds(part.image_index, part.n_images)
    means = predictions["model"][images]
    drawing = Drawing(len(asked), seed)
    drawn = np.stack(
        [
            predictions.draw(brain, test, image, drawing)
            for image in range(images.start, images.stop)
        ]
    )
    baseline = np.broadcast_to(predictions.baseline(brain), predictions["model"].shape)
    return {
        "raw": [part.trials[chosen] for chosen in asked],
        "syn": [means],
        "draw": list(drawn.transpose(1, 0, 2)),
        "mean_pattern": [baseline[images]],
        "shuffled": [predictions["model"][predictions.shuffle[images]]],
    }


def _find(decode: Decoder, queries: Mapping[str, list[Array]], n_candidates: int) -> Found:
    """Share of each image's queries in which it is found, by kind of query."""
    return {
        name: np.mean([n_way(decode(p), n_candidates) for p in patterns], 0)
        for name, patterns in queries.items()
    }


def _score(parts: Sequence[Found], bootstrap: Bootstrap) -> RetrievalScore:
    """Share of images found in each kind of query, with intervals over images."""
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    share = {name: float(per_image.mean()) for name, per_image in found.items()}
    interval = {name: bootstrap.limits_of_mean(per_image) for name, per_image in found.items()}
    return RetrievalScore(
        raw=share["raw"],
        raw_ci=interval["raw"],
        syn=share["syn"],
        syn_ci=interval["syn"],
        draw=share["draw"],
        draw_ci=interval["draw"],
        mean_pattern=share["mean_pattern"],
        mean_pattern_ci=interval["mean_pattern"],
        shuffled=share["shuffled"],
        shuffled_ci=interval["shuffled"],
    )


def rounds(rows: NDArray[np.integer], n_images: int) -> list[NDArray[np.int64]]:
    """Return trials of every image in turn: the same number of queries for each.

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

    def __init__(self, features: NDArray[np.float32]) -> None:
        self.centre = features.mean(0, dtype=np.float64).astype(np.float32)
        centred = features - self.centre
        self.axes = principal_components(centred, N_COMPONENTS).axes.astype(np.float32)

    def __call__(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores on the components: (n_images, n_features) → float32 (n_images, n_components)."""
        scores: NDArray[np.float32] = (features - self.centre) @ self.axes
        return scores


def _latent_decoder(brain: Brain, scaled: NDArray[np.float32]) -> Decoder:
    """Similarity of BrainVAE's posterior means with the tokens (Mai et al. 2025)."""
    candidates = scaled.reshape(len(scaled), -1)

    @torch.inference_mode()
    def similarity(patterns: Array) -> Array:
        rows = []
        for start in range(0, len(patterns), 16):
            part = np.ascontiguousarray(patterns[start : start + 16], np.float32)
            latent = brain.networks.vae.encode(torch.from_numpy(part).to(brain.device)).mean
            rows.append(pattern_similarity(latent.flatten(1).cpu().numpy(), candidates))
        return np.concatenate(rows)

    return similarity


def _linear_decoder(brain: Brain, test: TestSet, seed: int, share: Share) -> Decoder:
    """Similarity of tokens predicted from responses, by ridge, with the candidates' tokens.

    Fitted on the averages over repeats of training images, to the leading principal components of
    their pooled tokens. Of more than `MOST_VOXELS` voxels, it reads those that repeat best.
    """
    averaging, pooling, spanning, fitting = share.split(*DECODER_TIMES)
    scaler = brain.predictors.scaler
    tokens = standard_tokens(test.store, test.images, scaler)
    train = test.trained.subject.select("train")
    averages, index, _ = average_repeats(brain.standardize(train.betas), train.image_index)
    shown = train.images[index]
    del train  # as large as all else together
    best = _repeatable(averages)
    averages = np.ascontiguousarray(averages[:, best])
    averaging.to(1)
    features = pool_bands(standard_tokens(test.trained.store, shown, scaler), pooling)
    space = FeatureSpace(features)
    spanning.to(1)
    groups = number_groups(shown, test.trained.subject.groups)
    generator = np.random.default_rng([seed, 4])
    fit, _ = fit_ridge(averages, space(features), generator, fitting, groups)
    candidates = space(pool_bands(tokens))

    def similarity(patterns: Array) -> Array:
        seen = np.asarray(patterns[:, best], np.float32)
        return pattern_similarity(apply_ridge(fit, seen), candidates)

    return similarity


def _repeatable(averages: NDArray[np.float32]) -> NDArray[np.intp]:
    """Choose the voxels whose averages over repeats vary most: those with the largest signal.

    Single trials all have a variance of 1, of which an average keeps the signal and loses noise.
    """
    if averages.shape[1] <= MOST_VOXELS:
        return np.arange(averages.shape[1])
    variance = blockwise(lambda block: block.var(0), averages, keep=1)
    return np.sort(np.argsort(-variance, kind="stable")[:MOST_VOXELS])
