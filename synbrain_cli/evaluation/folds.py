"""Every image scored when it was held out: folds of images, and refits of a linear model.

All images of a prepared subject are dealt to folds. For each fold, the linear encoder and the
readout are fitted to the images of the other folds, by the code of `synbrain train`, and predict
the fold's images. What is scored is the recipe of the model on these data, not the bundle.

Four things would let held-out responses leak into scores that are pooled over folds:

- The mean of the images that are fitted is low where the held-out responses are high: over images,
  responses that have nothing to do with any prediction correlate negatively with it, by −1 where
  single images are held out and the mean alone is predicted. Correlations over images are therefore
  taken of predictions minus the mean pattern of their fit (`PooledPredictions.deviations`): a
  function of other images' responses that no constant changes, so that its expected covariance with
  unrelated responses is 0.
- How much predictions vary, a fit chooses by its own responses: the less the held-out ones agree
  with a prediction, the more the others do, and the more of it is kept. Over folds, predictions
  that vary most would go with the responses that they agree with least, and correlations of pure
  noise would lie below 0 (median over voxels −0.19 with 24 images left out one by one). Deviations
  are therefore in standard deviations over the images that were fitted (`FoldFit.prediction_sd`),
  as which every fold counts alike (ours).
- Where betas were standardised within sessions, 0 is a mean over the held-out trials, too, and the
  stack shrinks predictions towards it. Here it shrinks them towards the mean pattern of the fit,
  which would be 0 if the held-out trials had not been recorded.
- What a fit predicts for one image, it learned from the responses to images of other folds.
  Scores that compare images with each other (identification, RSA, CKA, retrieval, the shuffled
  control) therefore stay within a fold (`TestSet.blocks`).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from synbrain_cli.brain import Brain
from synbrain_cli.brain.loading import Distribution
from synbrain_cli.errors import InputError
from synbrain_cli.evaluation.predictions import Around, Predictions
from synbrain_cli.evaluation.resplit import deal_images, resplit
from synbrain_cli.evaluation.test_set import TestSet
from synbrain_cli.groups import count_groups, derangement
from synbrain_cli.io.arrays import load_arrays, save_arrays
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.results.evaluation import FoldSizes
from synbrain_cli.io.seal import is_kept, keep
from synbrain_cli.io.token_store import TokenStore
from synbrain_cli.io.workfolder import WorkFolder
from synbrain_cli.metrics.arrays import blockwise
from synbrain_cli.model.readout import IMAGE_BLIND, Readout
from synbrain_cli.model.similar_images import doubt_images
from synbrain_cli.progress import Progress
from synbrain_cli.run import RunContext
from synbrain_cli.training.distribution import (
    HeldOut,
    baseline_variances,
    fit_distribution,
)
from synbrain_cli.training.examples import load_examples
from synbrain_cli.training.linear_encoder import fit_linear_encoder

LEAST_SD = 1e-6  # SDs of responses: predictions that vary less are constant
Array = NDArray[np.float32]


def check_linear(brain: Brain) -> None:
    """Refuse models whose mean is not the linear encoder: refits of others take far longer.

    Raises
    ------
    InputError
    """
    if brain.config.predictors == ("linear",):
        return
    what = "was adapted from other models" if brain.config.transfer else "has networks"
    raise InputError(
        f"--folds: {brain.name} {what}, and folds are for linear models, which are fitted again "
        f"for each fold: `synbrain train --subject {brain.subject} --model linear` makes one"
    )


@dataclass(frozen=True, eq=False)
class FoldFit:
    """What a fit to the other folds' images predicts for the images of one fold.

    Responses are in the unit of the fit; in that of the evaluated model they are
    ``factor * response + offset``. The two differ where betas were prepared as recorded, and
    are then standardised by the training trials of each fit.

    Attributes
    ----------
    model, linear : float32 arrays of shape (n_images, n_voxels)
        Predictions, of the stack and of the linear encoder.
    distribution : Distribution
        Its mean pattern is the mean over all images that were fitted.
    factor, offset : float32 arrays of shape (n_voxels,)
    prediction_sd : float32 array of shape (2, n_voxels)
        Standard deviation of both predictions over the images that were fitted.
    relative : float32 array of shape (n_images, n_voxels), optional
        Uncertainty of each image's mean, relative to the average over images.
    features : float32 array of shape (n_images, n_frequencies, 2), optional
        By which draws of similar images share errors (`synbrain_cli.model.error_fields`).
    """

    model: Array
    linear: Array
    distribution: Distribution
    factor: Array
    offset: Array
    prediction_sd: Array
    relative: Array | None = None
    features: Array | None = None

    @classmethod
    def load(cls, path: Path) -> Self:
        """Load what `save` saved."""
        named = load_arrays(path)
        distribution = Distribution(
            readout=Readout.from_arrays(named),
            mean_pattern=named["mean_pattern"],
            linear_variance=named["linear_variance"],
            trial_variance=named["trial_variance"],
            image_blind=Readout.from_arrays(named, IMAGE_BLIND),
        )
        return cls(
            model=named["model"],
            linear=named["linear"],
            distribution=distribution,
            factor=named["factor"],
            offset=named["offset"],
            prediction_sd=named["prediction_sd"],
            relative=named.get("relative"),
            features=named.get("features"),
        )

    def save(self, path: Path) -> None:
        """Save it for the run that continues an interrupted one."""
        known = self.distribution
        parts = vars(self) | vars(known) | known.readout.arrays()
        if known.image_blind is not None:
            parts |= known.image_blind.arrays(IMAGE_BLIND)
        arrays = {k: v for k, v in parts.items() if isinstance(v, np.ndarray)}
        save_arrays(path, arrays)
        keep(path)

    @property
    def is_in_unit(self) -> bool:
        """Whether its unit is that of the evaluated model."""
        return bool((self.factor == 1).all() and not self.offset.any())

    def to_unit(self, responses: Array) -> Array:
        """Bring responses (..., n_voxels) to the unit of the evaluated model."""
        return responses if self.is_in_unit else responses * self.factor + self.offset

    def deviations(self) -> dict[str, Array]:
        """Predictions less the mean pattern, in their SDs over fitted images; 0 where that is 0."""
        found = {}
        for name, sd in zip(("model", "linear"), self.prediction_sd, strict=True):
            away = getattr(self, name) - self.distribution.mean_pattern
            varies = sd > LEAST_SD
            found[name] = np.where(varies, away / np.where(varies, sd, 1), 0).astype(np.float32)
        return found

    def from_unit(self, responses: Array) -> Array:
        """Bring them back."""
        return responses if self.is_in_unit else (responses - self.offset) / self.factor


def fit_fold(brain: Brain, part: TestSet, recovery: Path) -> FoldFit:
    """Fit linear encoder and readout to the images outside a fold, and predict those in it.

    The phases are those of `synbrain_cli.pipeline.train`.

    Parameters
    ----------
    brain : Brain
        Its seed is that of the fit, its unit that of the evaluation.
    part : TestSet
        The images of the fold, of a subject that has them as test images.
    recovery : path
        Folder in which the linear encoder is kept meanwhile.
    """
    seed = brain.config.training.seed or 0
    examples = load_examples(part.subject, part.store)
    run = RunContext(seed, progress=Progress(quiet=True))
    linear, left_out = fit_linear_encoder(examples, run, recovery)
    fitted = fit_distribution(examples, HeldOut({"linear": left_out}, linear), seed)
    baselines = baseline_variances(examples, left_out[len(examples.train.averages) :])
    distribution = Distribution(
        readout=fitted.readout,
        mean_pattern=examples.both.averages.mean(0, dtype=np.float64).astype(np.float32),
        linear_variance=baselines["linear_variance"],
        trial_variance=baselines["trial_variance"],
        image_blind=fitted.image_blind,
    )
    seen = examples.scaler(part.tokens)
    linear_prediction = linear.predict(seen)
    of_fitted = blockwise(lambda x: x.std(0), linear.predict(examples.both.tokens), keep=1)
    doubt = None
    if fitted.uncertainty is not None:
        doubt = doubt_images(linear, seen, fitted.uncertainty, brain.fields)
    mean_pattern = distribution.mean_pattern
    factor, offset = np.ones_like(mean_pattern), np.zeros_like(mean_pattern)
    if brain.config.standardization == "none":
        factor = (examples.scale.sd / brain.response_sd).astype(np.float32)
        offset = (examples.scale.mean - brain.response_mean) / brain.response_sd
    return FoldFit(
        model=mean_pattern + fitted.stack[0] * (linear_prediction - mean_pattern),
        linear=linear_prediction,
        distribution=distribution,
        factor=factor,
        offset=np.asarray(offset, np.float32),
        prediction_sd=np.stack([fitted.stack[0] * of_fitted, of_fitted]).astype(np.float32),
        relative=None if doubt is None else doubt.relative,
        features=None if doubt is None else doubt.features,
    )


@dataclass(frozen=True, eq=False)
class PooledPredictions(Predictions):
    """Predictions of all folds, each by the fit to the other folds.

    Attributes
    ----------
    load_fit : callable
        Number of a fold → `FoldFit`.
    scaled : dict of float32 arrays of shape (n_images, n_voxels)
        `FoldFit.deviations` of all folds.
    """

    load_fit: Callable[[int], FoldFit] = field(kw_only=True)
    scaled: dict[str, Array] = field(kw_only=True)

    @cached_property
    def deviations(self) -> dict[str, Array]:
        """Predictions minus the mean pattern of their fit: see the module's description."""
        constant = np.broadcast_to(np.float32(0), self.by_name["mean_pattern"].shape)
        shuffled = self.scaled["model"][self.shuffle]
        return self.scaled | {"mean_pattern": constant, "shuffled": shuffled}

    def baseline(self, brain: Brain) -> Array:
        """Mean pattern of each image's fit: (n_images, n_voxels)."""
        return self.by_name["mean_pattern"]

    def features_of(self, test: TestSet, image: int) -> Array | None:
        """By what an image shares errors with others of its fold: see `Predictions`."""
        fit, block = self._fit_of(test, image)
        if fit.features is None or self.apart:
            return None
        return fit.features[image - block.start]

    def around(self, brain: Brain, test: TestSet, image: int, name: str) -> Around:
        """Return one distribution of an image's trials, by the fit that did not see it."""
        fit, block = self._fit_of(test, image)
        known = fit.distribution
        if name == "image_blind":
            return Around.pattern(known.image_blind)
        readouts = known.normal_noise
        if name in ("model", "shuffled"):
            shown = image if name == "model" else int(self.shuffle[image])
            relative = None
            if fit.relative is not None and block.start <= shown < block.stop:
                relative = fit.relative[shown - block.start]  # none where folds hold one image
            readouts = {name: known.readout.of_image(relative)}
        return Around(fit.from_unit(self[name][image]), readouts[name])

    def from_unit(self, test: TestSet, image: int, responses: Array) -> Array:
        """Bring responses to the unit of the fit that did not see an image."""
        return self._fit_of(test, image)[0].from_unit(responses)

    def to_unit(self, test: TestSet, image: int, responses: Array) -> Array:
        """Bring them back to that of the evaluated model."""
        return self._fit_of(test, image)[0].to_unit(responses)

    def trial_sd(self, brain: Brain, test: TestSet, image: int) -> Array:
        """Standard deviation of a single trial by the fit that did not see it: `Predictions`."""
        return super().trial_sd(brain, test, image) * self._fit_of(test, image)[0].factor

    def _fit_of(self, test: TestSet, image: int) -> tuple[FoldFit, slice]:
        """Fit that did not see an image, and the images of its fold."""
        number, block = next((k, b) for k, b in enumerate(test.blocks) if image < b.stop)
        return self.load_fit(number), block


@dataclass(frozen=True, eq=False)
class Folds:
    """Images of a subject, each held out once.

    Attributes
    ----------
    brain : Brain
        Linear model whose recipe is scored.
    test : TestSet
        All images, fold by fold.
    """

    brain: Brain
    test: TestSet

    @classmethod
    def load(
        cls, brain: Brain, subject: PreparedSubject, store: TokenStore, n_folds: int, seed: int
    ) -> Self:
        """Deal the images of a subject to folds, and load their trials.

        Parameters
        ----------
        brain : Brain
        subject : PreparedSubject
        store : TokenStore
        n_folds : int
        seed : int
            Of the folds, and of the validation images in each.

        Raises
        ------
        InputError
            The model is not linear; the folds are too many or too few (`deal_images`); see also
            `TestSet.load`, which guards each fold against the images that its fit is trained on.
        """
        check_linear(brain)
        folds = deal_images(subject, store, n_folds, seed)
        parts = [TestSet.load(s, store, [brain], 1) for s in resplit(subject, folds, seed)]
        return cls(brain, TestSet.pooled(parts, subject))

    @property
    def sizes(self) -> FoldSizes:
        """Number of folds, and of images in them, as a record has them."""
        sizes = [part.n_images for part in self.test.parts]
        return FoldSizes(n_folds=len(sizes), min=min(sizes), max=max(sizes))

    def notes(self) -> list[str]:
        """Return what readers of pooled scores must know."""
        sizes, name = self.sizes, self.brain.name
        of_each = f"{sizes.min}" if sizes.min == sizes.max else f"{sizes.min} to {sizes.max}"
        of_each += " image" if sizes.max == 1 else " images"
        notes = [
            f"scores of every image when it was held out, pooled over {sizes.n_folds} folds of "
            f"{of_each}: of {sizes.n_folds} refits of the recipe of {name} (linear encoder "
            f"and readout) to the images of the other folds, not of {name} itself"
        ]
        notes.append(
            "scores across voxels (pattern correlation, MSE, cosine): the mean pattern of other "
            "images is low where held-out responses are high, so that these scores begin below 0: "
            "compare them with those of the mean pattern"
        )
        if sizes.min > 1:
            notes.append(
                "identification, RSA, CKA and retrieval compare the images of one fold with each "
                "other: their chance level depends on the number of folds"
            )
        else:
            notes.append(
                "no identification, no RSA, no CKA and no retrieval: they compare the images of "
                "one fold with each other, and some folds hold one image: choose fewer folds"
            )
        return notes

    def predict(self, work: WorkFolder, run: RunContext) -> PooledPredictions:
        """Fit the model once per fold, or take the fits of the interrupted run, and predict.

        One fit is in memory at a time.

        Parameters
        ----------
        work : WorkFolder
            Of the scores; keeps the fits until these are written.
        run : RunContext
            Its seed chooses the shuffled control.
        """
        parts = self.test.parts
        paths = [work.recovery / f"fold-{k + 1}.safetensors" for k in range(len(parts))]
        with run.progress.bar(
            "fitting the other folds", len(parts), shorter="fewer --folds"
        ) as bar:
            for path, part in zip(paths, parts, strict=True):
                if not is_kept(path, run.progress.info):
                    meanwhile = path.with_suffix("")
                    meanwhile.mkdir(exist_ok=True)
                    fit_fold(self.brain, part, meanwhile).save(path)
                    shutil.rmtree(meanwhile)
                bar()
        by_name: dict[str, list[Array]] = {"model": [], "linear": [], "mean_pattern": []}
        scaled: dict[str, list[Array]] = {"model": [], "linear": []}
        for path, part in zip(paths, parts, strict=True):
            fit, shape = FoldFit.load(path), part.averages.shape
            for name, values in (
                ("model", fit.model),
                ("linear", fit.linear),
                ("mean_pattern", fit.distribution.mean_pattern),
            ):
                by_name[name].append(np.broadcast_to(fit.to_unit(values), shape))
            for name, values in fit.deviations().items():
                scaled[name].append(values)
        shuffle = shuffle_within(self.test, np.random.default_rng(run.seed))
        pooled = {name: np.concatenate(values) for name, values in by_name.items()}
        # What is predicted for another image, around the own fit's mean: that of another fold would
        # hold this image's responses.
        own = pooled["mean_pattern"]
        shuffled = own + (pooled["model"] - own)[shuffle]
        return PooledPredictions(
            pooled | {"shuffled": shuffled},
            shuffle,
            load_fit=lru_cache(maxsize=1)(lambda number: FoldFit.load(paths[number])),
            scaled={name: np.concatenate(values) for name, values in scaled.items()},
        )


def shuffle_within(test: TestSet, generator: np.random.Generator) -> NDArray[np.int64]:
    """Another image of the same fold for each image; any other where a fold holds one alone.

    With groups, any image of another group where no other group is in some fold.
    """
    groups, blocks = test.groups, test.blocks
    of_blocks = [None if groups is None else groups[block] for block in blocks]
    sizes = [block.stop - block.start for block in blocks]
    if min(count_groups(n, own) for n, own in zip(sizes, of_blocks, strict=True)) < 2:
        return test.derangement(generator)
    return np.concatenate(
        [
            block.start + derangement(n, generator, own)
            for block, n, own in zip(blocks, sizes, of_blocks, strict=True)
        ]
    )
