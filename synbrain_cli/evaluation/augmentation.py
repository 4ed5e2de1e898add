"""`synbrain augment`: do synthesized responses help a decoder of a person's own?

Whoever has an hour of somebody's recordings, and wants to tell from responses what was seen, can
add responses that the model synthesizes to new images. Here a linear decoder is fitted to the real
trials and more and more synthesized ones, and judged on real test trials alone.

Two things would make such a result too good. Were amount, penalty and weight of synthesized trials
chosen on test images, the best of many would be reported: they are chosen on validation images. But
the model has learned from the trials of these, too, and a decoder of what it synthesizes knows them
by way of it. What is synthesized while choosing therefore comes from the model without its
validation images (`_Source.without`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from synbrain_cli.brain import Brain
from synbrain_cli.brain.drawing import Drawing
from synbrain_cli.brain.images import token_digest
from synbrain_cli.brain.matching import check_match
from synbrain_cli.errors import InputError
from synbrain_cli.evaluation.retrieval import N_CANDIDATES, FeatureSpace, rounds
from synbrain_cli.evaluation.test_set import derangement
from synbrain_cli.io.files import atomic, sha256, versions, write_json
from synbrain_cli.io.prepared import PreparedSubject, Trials
from synbrain_cli.io.token_store import TokenStore
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.metrics.accuracy import average_repeats
from synbrain_cli.metrics.bootstrap import bootstrap_ci, weighted_mean
from synbrain_cli.metrics.identification import n_way, pattern_similarity, two_way
from synbrain_cli.model.linear import apply_ridge, fit_ridge, pool_tokens
from synbrain_cli.model.transfer import Adapter, fit_adapter
from synbrain_cli.progress import Progress

AMOUNTS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)  # synthesized trials, in multiples of the real ones
CONDITIONS = ("draws", "mean", "shuffled")
SCORES = ("two_way_trials", "two_way_averages", "retrieval_trials", "retrieval_averages")
WEIGHTS = (0.1, 0.3, 1.0)  # of a synthesized trial; a real one has 1
# Relative to the mean squared norm of a response. Fine steps: coarse ones would make the curve
# over amounts jump by more than the amounts do.
PENALTIES = np.logspace(-3, 4, 57)
MIN_TRAIN, MIN_VALIDATION, MIN_TEST = 10, 2, 4  # images
_BATCH = 64  # images whose tokens are read at a time


@dataclass(frozen=True)
class AugmentResult:
    """What synthesized trials bring.

    Attributes
    ----------
    folder : Path
        Holds ``augment.json``, ``augment.tsv`` and ``augment.png``.
    metrics : dict
        As in ``augment.json``: ``conditions`` (per condition, one entry an amount), ``chosen`` (the
        amount that validation images choose, per condition) and ``best_on_test`` (the one that test
        images would choose: optimistic), and what they rest on.
    """

    folder: Path
    metrics: dict[str, Any]

    def table(self) -> pd.DataFrame:
        """One row a condition, amount and score."""
        return augment_table(self.metrics)


@dataclass(frozen=True)
class RealTrials:
    """Recorded trials of one person.

    Attributes
    ----------
    betas : float32 array of shape (n_trials, n_voxels), standardised
    images : array of str of shape (n_images,)
        Sorted.
    image_index : int array of shape (n_trials,)
        Row of ``images`` that each trial shows.
    validation : boolean array of shape (n_trials,)
    """

    betas: np.ndarray
    images: np.ndarray
    image_index: np.ndarray
    validation: np.ndarray

    @classmethod
    def take(cls, brain: Brain, subject: PreparedSubject, chosen: np.ndarray) -> RealTrials:
        """Read and standardise the trials chosen: boolean array, one value a row of the table.

        A model of some hours knows their mean and deviation alone, and has them for its own trials.
        """
        table = subject.trials[chosen]
        images, index = np.unique(table["image"].to_numpy(str), return_inverse=True)
        betas = np.asarray(subject.betas[chosen])
        if brain.config.training.hours is not None and not (table["split"] == "test").any():
            trials = Trials(betas, index, images, table["session"].to_numpy())
            betas = (subject.recorded(trials) - brain.response_mean) / brain.response_sd
        else:
            betas = brain.standardize(betas)
        return cls(np.float32(betas), images, index, (table["split"] == "val").to_numpy())


def training_trials(brain: Brain, subject: PreparedSubject) -> RealTrials:
    """The trials a model was made of: for an adapted one, those of its hours.

    Of its training and of its validation images: both taught it, and both are there for whoever
    fits a decoder. Never of the test split.

    Raises
    ------
    InputError
        Too few training or validation images to choose a decoder by.
    """
    table = subject.trials
    chosen = (table["split"] != "test").to_numpy()
    adaptation = brain.config.training.adaptation
    if adaptation is not None:
        chosen = chosen & table["trial"].isin(adaptation.trials).to_numpy()
    real = RealTrials.take(brain, subject, chosen)
    n_validation = len(np.unique(real.image_index[real.validation]))
    n_train = len(np.unique(real.image_index[~real.validation]))
    if n_train < MIN_TRAIN or n_validation < MIN_VALIDATION:
        raise InputError(
            f"{subject.folder}: {brain.name} was made of {n_train} training and {n_validation} "
            f"validation images, expected {MIN_TRAIN} and {MIN_VALIDATION} or more: a decoder "
            "cannot be chosen by so few; use a model of more hours, or prepare with a larger "
            "--validation"
        )
    return real


def held_out_trials(brain: Brain, subject: PreparedSubject) -> RealTrials:
    """The trials of the test split: they judge, and do nothing else.

    Raises
    ------
    InputError
        Fewer than four test images.
    """
    test = RealTrials.take(brain, subject, (subject.trials["split"] == "test").to_numpy())
    if len(test.images) < MIN_TEST:
        raise InputError(
            f"{subject.folder}: expected four test images or more, found {len(test.images)}: no "
            "score over images can be computed; prepare with a larger test split"
        )
    return test


def augment(
    workspace: Workspace,
    brain: Brain,
    subject: PreparedSubject,
    store: TokenStore,
    *,
    amounts: Sequence[float] = AMOUNTS,
    output: Path | None = None,
    n_boot: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> AugmentResult:
    """Measure what synthesized trials add to a person's real ones for a linear decoder.

    The decoder is ridge from single trials to the leading principal components of image tokens,
    as in `synbrain evaluate`, but for its rows: an hour has few repeats to average, and how trials
    of one image differ tells ridge what is noise, as the noise of draws does. The components are
    those of the real images alone, for all amounts: were they of the images added, scores would be
    taken in another space for every amount, and new images would help without their responses. For
    the same reason, synthesized rows have means of their own (`AugmentedRidge`).

    Every condition and amount goes through the same steps: weight of synthesized trials and penalty
    are those with the least squared error on real trials of validation images, then the decoder is
    fitted to all. Squared error, not identification: few validation images tell it more precisely,
    and no score is chosen by its own luck.

    Conditions: ``draws``, one synthesized trial an image; ``mean``, the responses expected to the
    same images, without noise; ``shuffled``, the draws, each with another of these images.

    Parameters
    ----------
    workspace : Workspace
    brain : Brain
    subject : PreparedSubject
        The person the model is of. The real trials are those the model was made of: made for an
        hour or a few, since all responses, real and synthesized, are held in memory.
    store : TokenStore
        Tokens of the model's encoder. Its images that the person did not see in these trials, and
        not in the test, are the new ones, in an order drawn at random. Where an amount asks for
        more trials than there are images, they come again, as further draws that share the signal:
        repeats. Smaller amounts are the first trials of larger ones.
    amounts : sequence of float
        Synthesized trials, in multiples of the real ones; 0 is always among them.
    output : path, optional
        Default ``outputs/<model>_augmentation``.
    n_boot : int
        Bootstrap draws of the test images for the 95 % confidence intervals. What other new
        images and other draws would change is not in them: see it with another seed.
    seed : int
        Of the order of new images, the draws, the shuffled control, and the bootstrap.
    progress : Progress, optional

    Raises
    ------
    InputError
        When the model, the subject and the tokens do not belong together; no image is new; an
        amount is negative.
    """
    progress = progress or Progress()
    brain.require_readout("augmentation")
    check_match(brain, subject, store)
    real = training_trials(brain, subject)
    test = held_out_trials(brain, subject)
    n_real = len(real.betas)
    n_added = _count(amounts, n_real)
    new = new_images(store, real, test, np.random.default_rng([seed, 0]))
    n_most = max(n_added.values())
    progress.info(
        f"augmenting {n_real:,} real trials of {brain.name} with up to {n_most:,} synthesized ones "
        f"of {min(n_most, len(new)):,} new images"
    )

    features = _pooled(brain, store, real.images)
    space = FeatureSpace(features)
    final, choosing = synthesize(
        _Source.without(brain, real, store, features, seed),
        store,
        new[:n_most],
        n_most,
        space,
        seed,
        progress,
    )
    targets = space(features)[real.image_index]
    candidates = space(_pooled(brain, store, test.images))
    fitting = (real.betas[~real.validation], targets[~real.validation])
    judging = (real.betas[real.validation], targets[real.validation])

    entries: dict[str, list[dict[str, Any]]] = {name: [] for name in CONDITIONS}
    per_image = []  # (n_images, n_scores) for each entry
    with progress.bar("decoders", 1 + len(CONDITIONS) * (len(n_added) - 1)) as bar:
        for k, (amount, n) in enumerate(n_added.items()):
            for name in CONDITIONS if n else CONDITIONS[:1]:
                order = derangement(min(n, len(new)), np.random.default_rng([seed, 1, k]))
                choice = choose(fitting, judging, _rows(choosing, name, n, order))
                decode = fit_decoder((real.betas, targets), _rows(final, name, n, order), choice)
                entry = {
                    "amount": amount,
                    "n_synthesized": n,
                    "n_images": min(n, len(new)),
                    "weight": choice.weight if n else None,
                    "penalty": choice.penalty,
                    "validation_r2": choice.validation,
                }
                values = identify(decode(test.betas), test.image_index, candidates)
                # Without synthesized trials, all conditions are one.
                for same in (name,) if n else CONDITIONS:
                    entries[same].append(dict(entry))
                    per_image.append((entries[same][-1], values))
                bar()
    _add_scores(per_image, n_boot, seed)

    n_candidates = min(N_CANDIDATES, len(test.images))
    notes = []
    if n_most > len(new):
        notes.append(
            f"{len(new):,} new images: beyond {len(new) / n_real:.2g} × the real trials they come "
            "again, as further draws"
        )
    metrics = {
        "model": brain.name,
        "subject": f"{subject.dataset}/sub-{subject.subject}",
        "simulated": brain.simulated,
        "n_real_trials": n_real,
        "n_real_images": len(real.images),
        "n_validation_trials": int(real.validation.sum()),
        "n_validation_images": len(np.unique(real.image_index[real.validation])),
        "n_new_images": len(new),
        "n_test_trials": len(test.betas),
        "n_test_images": len(test.images),
        "n_components": space.axes.shape[1],
        "n_candidates": n_candidates,
        "chance": {s: 0.5 if s.startswith("two_way") else 1 / n_candidates for s in SCORES},
        "amounts": list(n_added),
        "conditions": entries,
        "chosen": {
            name: max(found, key=lambda e: e["validation_r2"]) for name, found in entries.items()
        },
        "best_on_test": {name: _best_on_test(found) for name, found in entries.items()},
        "notes": notes,
        "provenance": {
            "fingerprint": brain.config.fingerprint,
            "data": sha256(subject.folder / "dataset_description.json"),
            "seed": seed,
            "n_boot": n_boot,
            "versions": versions(),
        },
    }
    folder = Path(output) if output else workspace.outputs / f"{brain.name}_augmentation"
    result = AugmentResult(folder, metrics)
    write_json(folder / "augment.json", metrics)
    with atomic(folder / "augment.tsv") as path:
        result.table().to_csv(path, sep="\t", index=False, float_format="%.5g")
    from synbrain_cli.plotting.augmentation import plot_augmentation
    from synbrain_cli.plotting.figure import save_figure

    save_figure(plot_augmentation(metrics), folder / "augment.png")
    return result


def augment_table(metrics: dict[str, Any]) -> pd.DataFrame:
    """Flatten ``augment.json``: one row a condition, amount and score.

    ``gain`` is the difference to no synthesized trial, with the interval of this difference;
    ``chosen`` marks the amount that validation images choose.
    """
    rows = []
    for name, found in metrics["conditions"].items():
        for entry in found:
            for score in SCORES:
                values = entry["scores"][score]
                rows.append(
                    {
                        "condition": name,
                        **{k: v for k, v in entry.items() if k != "scores"},
                        "chosen": entry["amount"] == metrics["chosen"][name]["amount"],
                        "score": score,
                        "value": values["value"],
                        "ci_low": values["ci"][0],
                        "ci_high": values["ci"][1],
                        "gain": values["gain"],
                        "gain_low": values["gain_ci"][0],
                        "gain_high": values["gain_ci"][1],
                    }
                )
    return pd.DataFrame(rows)


# ------------------------------------------------------------------------ new images, responses


def _count(amounts: Sequence[float], n_real: int) -> dict[float, int]:
    """Synthesized trials of each amount, 0 first."""
    found = sorted({0.0, *map(float, amounts)})
    wrong = [a for a in found if not (np.isfinite(a) and a >= 0)]
    if wrong:
        raise InputError(
            f"amounts: expected numbers of 0 or more (multiples of the {n_real} real trials), "
            f"found {wrong[0]:g}"
        )
    counts = {a: round(a * n_real) for a in found}
    few = [a for a, n in counts.items() if a > 0 and n < 2]
    if few or len(found) < 2:
        raise InputError(
            f"amounts: expected one above 0 that makes two trials or more of {n_real}, found "
            + ", ".join(f"{a:g}" for a in few or found)
        )
    return counts


def new_images(
    store: TokenStore, real: RealTrials, test: RealTrials, generator: np.random.Generator
) -> list[str]:
    """Images to synthesize responses to, in random order: none of the real or the test trials.

    Not under another name, either, where the store knows the pixels.

    Raises
    ------
    InputError
        Fewer than two.
    """
    seen = {*real.images, *test.images}
    names, digests = store.images, store.digests
    pixels = {d for name, d in zip(names, digests, strict=True) if name in seen and d}
    new = [
        name for name, d in zip(names, digests, strict=True) if name not in seen and d not in pixels
    ]
    if len(new) < 2:
        raise InputError(
            f"{store.folder}: expected images that are neither of the test nor shown in the "
            f"{len(real.betas)} real trials, found {len(new)} among {len(names)}: there is nothing "
            "to synthesize responses to; prepare more subjects of this dataset, or use a model of "
            "fewer hours (`synbrain adapt --hours 1`)"
        )
    return [new[i] for i in generator.permutation(len(new))]


@dataclass(frozen=True)
class _Source:
    """A model, and what is put in the place of its linear encoder and adapter while choosing."""

    brain: Brain
    linear: dict[str, np.ndarray]
    adapter: Adapter | None

    @classmethod
    def without(
        cls, brain: Brain, real: RealTrials, store: TokenStore, features: np.ndarray, seed: int
    ) -> _Source:
        """A model without its validation images.

        Its linear encoder and its adapter to other people's models are fitted again to training
        images alone; the networks' weights never met the others. What validation images still have
        a part in: when training stopped, the few weights of the stack, and the covariance of noise.

        Parameters
        ----------
        features : float32 array of shape (n_images, n_features)
            Pooled tokens of ``real.images``.
        """
        train = ~real.validation
        averages, index, _ = average_repeats(real.betas[train], real.image_index[train])
        linear, _ = fit_ridge(features[index], averages, np.random.default_rng([seed, 2]))
        adapter = None
        if brain.predictors.transfer is not None:
            known = brain.predictors.transfer.evidence(store.take(real.images[index]))
            adapter, _ = fit_adapter(*known, averages, np.random.default_rng([seed, 3]))
        return cls(brain, linear, adapter)

    def means(self, tokens: np.ndarray, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Responses expected by the model, and without its validation images, standardised."""
        own = self.brain.mean(tokens, unit="z")
        weight = dict(zip(self.brain.predictors.names, self.brain.predictors.stack, strict=True))
        change = apply_ridge(self.linear, features) - apply_ridge(
            vars(self.brain.predictors.linear), features
        )
        other = own + weight["linear"] * change
        if self.adapter is not None:
            known = self.brain.predictors.transfer.evidence(tokens)
            change = self.adapter(*known) - self.brain.predictors.transfer.adapter(*known)
            other += weight["transfer"] * change
        return own, other


@dataclass(frozen=True)
class Synthesized:
    """Synthesized trials of new images.

    Attributes
    ----------
    image : int array of shape (n_trials,)
        Row of the other two.
    draws : float32 array of shape (n_trials, n_voxels), standardised
    means : float32 array of shape (n_images, n_voxels), standardised
    targets : float32 array of shape (n_images, n_components)
    """

    image: np.ndarray
    draws: np.ndarray
    means: np.ndarray
    targets: np.ndarray


def synthesize(
    source: _Source,
    store: TokenStore,
    images: Sequence[str],
    n_trials: int,
    space: FeatureSpace,
    seed: int,
    progress: Progress,
) -> tuple[Synthesized, Synthesized]:
    """Draw one trial an image, and again, until there are ``n_trials``.

    The draws are those of ``Brain.draw(tokens, n, seed, unit="z")``: draw k is an image's k-th
    trial.

    Returns
    -------
    Synthesized, Synthesized
        By the model, and by the model without its validation images, with the same random numbers.
    """
    brain = source.brain
    trial_image = np.arange(n_trials) % len(images)
    n_draws = np.bincount(trial_image, minlength=len(images))
    draws = np.empty((2, n_trials, brain.n_voxels), np.float32)
    means = np.empty((2, len(images), brain.n_voxels), np.float32)
    targets = np.empty((len(images), space.axes.shape[1]), np.float32)
    with progress.bar("responses", len(images)) as bar:
        for start in range(0, len(images), _BATCH):
            tokens = store.take(images[start : start + _BATCH])
            features = pool_tokens(brain.scaler(tokens))
            rows = slice(start, start + len(tokens))
            targets[rows] = space(features)
            means[:, rows] = source.means(tokens, features)
            for i, token in enumerate(tokens, start):
                digest, drawing = token_digest(token), Drawing(int(n_draws[i]), seed)
                for drawn, mean in zip(draws, means, strict=True):
                    drawn[i :: len(images)] = brain.draw_around(mean[i], digest, drawing)
                bar()
    final, choosing = (
        Synthesized(trial_image, drawn, mean, targets)
        for drawn, mean in zip(draws, means, strict=True)
    )
    return final, choosing


def _rows(
    synthesized: Synthesized, condition: str, n: int, order: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Responses (n, n_voxels) and targets (n, n_components) of the first n synthesized trials."""
    image = synthesized.image[:n]
    responses = synthesized.means[image] if condition == "mean" else synthesized.draws[:n]
    shown = order[image] if condition == "shuffled" else image
    return responses, synthesized.targets[shown]


# ------------------------------------------------------------------------------------ decoder


def _pooled(brain: Brain, store: TokenStore, images: Sequence[str]) -> np.ndarray:
    """Pooled standardised tokens, read some images at a time: float32 (n_images, n_features)."""
    return np.concatenate(
        [
            pool_tokens(brain.scaler(store.take(images[start : start + _BATCH])))
            for start in range(0, len(images), _BATCH)
        ]
    )


@dataclass(frozen=True)
class Choice:
    """What a decoder is fitted with.

    Attributes
    ----------
    weight : float
        Of a synthesized trial, where a real one has 1.
    penalty : float
        Relative to the mean squared norm of a response; one for all components.
    validation : float
        Share of the variance of real validation images' components that was predicted from their
        single trials.
    """

    weight: float
    penalty: float
    validation: float


class AugmentedRidge:
    r"""Ridge regression of real and added rows, for any penalty at the cost of one.

    .. math:: \min_B \sum_{r\ \mathrm{real}} \lVert y_r - \bar y - (x_r - \bar x) B \rVert^2
        + w \sum_{s\ \mathrm{added}} \lVert y_s - \bar y' - (x_s - \bar x') B \rVert^2
        + \alpha u \lVert B \rVert^2

    with u the weighted mean of the rows' squared norms. Added rows have means of their own, so that
    they say how components go with responses and nothing else: the mean of more images, known
    without any response, would lower squared errors too, and so would any responses that bring
    images along.

    Parameters
    ----------
    real, added : pairs of float32 arrays (n_rows, n_voxels) and (n_rows, n_targets)
        x and y; the added ones may be no rows.
    weight : float
        w, 0 or more.
    """

    def __init__(
        self,
        real: tuple[np.ndarray, np.ndarray],
        added: tuple[np.ndarray, np.ndarray],
        weight: float,
    ) -> None:
        self.centre, self.intercept = (values.mean(0, dtype=np.float64) for values in real)
        self.centre = self.centre.astype(np.float32)
        x, y = real[0] - self.centre, real[1] - self.intercept
        n_rows = len(x)
        if len(added[0]):
            root = np.float32(np.sqrt(weight))
            rows = [root * (v - v.mean(0, dtype=np.float64).astype(v.dtype)) for v in added]
            x, y = np.concatenate([x, rows[0]]), np.concatenate([y, rows[1]])
            n_rows += weight * len(rows[0])
        if len(x) < x.shape[1]:  # by the rows' Gram matrix, or the voxels': the smaller one
            values, vectors = np.linalg.eigh((x @ x.T).astype(np.float64))
            keep = values > 1e-7 * values[-1]
            values, vectors = values[keep], vectors[:, keep]
            self._rows, self._axes = x, vectors / np.sqrt(values)
            self._weights = np.sqrt(values)[:, None] * (vectors.T @ y)
        else:
            values, vectors = np.linalg.eigh((x.T @ x).astype(np.float64))
            values = np.maximum(values, 0)
            self._rows, self._axes = None, vectors
            self._weights = vectors.T @ (x.T @ y)
        self._values, self._unit = values, values.sum() / n_rows

    def path(self, x: np.ndarray, penalties: Sequence[float]) -> Iterator[np.ndarray]:
        """Predictions (n_rows, n_targets) of rows (n_rows, n_voxels), one penalty α at a time."""
        scores = x - self.centre
        if self._rows is not None:
            scores = scores @ self._rows.T
        scores = scores @ self._axes
        for penalty in penalties:
            shrunk = scores / (self._values + penalty * self._unit)
            yield shrunk @ self._weights + self.intercept


def choose(
    fitting: tuple[np.ndarray, np.ndarray],
    judging: tuple[np.ndarray, np.ndarray],
    added: tuple[np.ndarray, np.ndarray],
) -> Choice:
    """Choose weight and penalty by real trials of images that no row fitted knows.

    Parameters
    ----------
    fitting, judging, added : pairs of arrays (n_trials, n_voxels) and (n_trials, n_components)
        Responses and components of their images: real trials of training images; real trials of
        validation images; synthesized trials, by a model without validation images.
    """
    x, y = judging
    total = float(((y - fitting[1].mean(0)) ** 2).sum())
    best = None
    for weight in WEIGHTS if len(added[0]) else WEIGHTS[-1:]:
        ridge = AugmentedRidge(fitting, added, weight)
        for penalty, predicted in zip(PENALTIES, ridge.path(x, PENALTIES), strict=True):
            r2 = 1 - float(((predicted - y) ** 2).sum()) / total
            if best is None or r2 > best.validation:
                best = Choice(weight, float(penalty), r2)
    return best


def fit_decoder(
    real: tuple[np.ndarray, np.ndarray], added: tuple[np.ndarray, np.ndarray], choice: Choice
) -> Callable[[np.ndarray], np.ndarray]:
    """Fit to all real trials and the synthesized ones; returns responses → components."""
    ridge = AugmentedRidge(real, added, choice.weight)
    return lambda responses: next(ridge.path(responses, [choice.penalty]))


# ------------------------------------------------------------------------------------- scores


def identify(predicted: np.ndarray, image_index: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Which test image was it, by the similarity of decoded components with the candidates'.

    Parameters
    ----------
    predicted : array of shape (n_trials, n_components)
        Decoded from single trials. The decoder is linear: what it makes of an average of repeats
        is the average of what it makes of them.
    image_index : int array of shape (n_trials,)
    candidates : array of shape (n_images, n_components)

    Returns
    -------
    float64 array of shape (n_images, n_scores)
        `SCORES` of each image; of single trials, the mean over its repeats.
    """
    averages, _, _ = average_repeats(predicted, image_index)
    n_candidates = min(N_CANDIDATES, len(candidates))
    similarity = pattern_similarity(predicted, candidates)
    queries = [similarity[chosen] for chosen in rounds(image_index, len(candidates))]
    whole = pattern_similarity(averages, candidates)
    return np.stack(
        [
            np.mean([two_way(s) for s in queries], 0),
            two_way(whole),
            np.mean([n_way(s, n_candidates) for s in queries], 0),
            n_way(whole, n_candidates),
        ],
        axis=1,
    )


def _add_scores(found: list[tuple[dict[str, Any], np.ndarray]], n_boot: int, seed: int) -> None:
    """Add scores and gains, with intervals from the same draws of images, to every entry.

    The first entry is of real trials alone.
    """
    values = np.stack([v for _, v in found], axis=1)  # (n_images, n_entries, n_scores)
    both = np.stack([values, values - values[:, :1]], axis=1)  # values and gains
    low, high = bootstrap_ci(
        lambda counts: weighted_mean(both, counts), len(both), np.random.default_rng(seed), n_boot
    )
    mean = both.mean(0)
    for i, (entry, _) in enumerate(found):
        entry["scores"] = {
            score: {
                "value": float(mean[0, i, j]),
                "ci": [float(low[0, i, j]), float(high[0, i, j])],
                "gain": float(mean[1, i, j]),
                "gain_ci": [float(low[1, i, j]), float(high[1, i, j])],
            }
            for j, score in enumerate(SCORES)
        }


def _best_on_test(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Per score, the amount with the highest value: chosen by what it is then praised for."""
    best = {}
    for score in SCORES:
        entry = max(found, key=lambda e: e["scores"][score]["value"])
        best[score] = {"amount": entry["amount"], **entry["scores"][score]}
    return best
