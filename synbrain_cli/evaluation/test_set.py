"""The test images and trials of a subject: loaded once, and guarded once.

Every evaluation loads them here. What does not belong together is refused, and so is a test image
that the model was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from synbrain_cli.brain import Brain
from synbrain_cli.brain.images import token_digest
from synbrain_cli.brain.matching import check_match
from synbrain_cli.errors import InputError
from synbrain_cli.evaluation.doubt import (
    FOLDS_ADVICE,
    MIN_IMAGES,
    chance_correlation,
    notes_on_number,
)
from synbrain_cli.evaluation.leakage import check_untrained, leakage_notes
from synbrain_cli.evaluation.other_dataset import PreparedData, check_other, notes_on_other
from synbrain_cli.groups import Groups, count_groups, derangement, number_groups
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.results.record import Repeats
from synbrain_cli.io.token_store import TokenStore
from synbrain_cli.io.voxel_space import POSITION_COLUMNS
from synbrain_cli.metrics.accuracy import average_repeats
from synbrain_cli.metrics.bootstrap import Bootstrap
from synbrain_cli.metrics.noise_ceiling import correlation_ceiling, noise_ceiling
from synbrain_cli.tokens import Tokens

RELIABLE = 0.2  # ncsnr above which a voxel counts as reliable
MIN_REGION = 10  # voxels of a region that has scores of its own
# What responses are in, by how the subject was prepared.
UNITS = {
    "session": "z-score within session",
    "train": "z-score by the training trials",
    "none": "z-score by the training trials",
}


@dataclass(frozen=True, eq=False)
class TestSet:
    """Test images of a subject, and the trials that showed them.

    Attributes
    ----------
    subject : PreparedSubject
    store : TokenStore
        Tokens of the images.
    images : array of str of shape (n_images,)
        Sorted; of several folds, within each.
    image_index : int array of shape (n_trials,)
        Row of ``images`` that each trial showed.
    session : int array of shape (n_trials,)
    betas : float32 array of shape (n_trials, n_voxels)
        As prepared.
    trials : float32 array of shape (n_trials, n_voxels)
        In the unit of the model (``unit="z"``); as prepared where there is no model.
    ncsnr : float array of shape (n_voxels,)
        Of single trials, also where rows are averages; NaN where unknown.
    notes : list of str
        What readers of the scores must know.
    averaged_over : int
        Recorded trials that each row is the average of.
    parts : tuple of TestSet
        Of images that were held out by turns (`synbrain_cli.evaluation.folds`): those of each fold,
        in their order here. Empty where all are of one split.
    other_trained : PreparedData, optional
        What the models were trained on, where the test images are another dataset's.
    """

    __test__: ClassVar[bool] = False  # pytest: this is no class of tests

    subject: PreparedSubject
    store: TokenStore
    images: NDArray[np.str_]
    image_index: NDArray[np.integer]
    session: NDArray[np.integer]
    betas: NDArray[np.float32]
    trials: NDArray[np.float32]
    ncsnr: NDArray[np.float64]
    notes: tuple[str, ...] = ()
    averaged_over: int = 1
    parts: tuple[TestSet, ...] = ()
    other_trained: PreparedData | None = None

    @classmethod
    def load(
        cls,
        subject: PreparedSubject,
        store: TokenStore,
        brains: Sequence[Brain] = (),
        least: int = MIN_IMAGES,
        other: PreparedData | None = None,
    ) -> TestSet:
        """Load the test split, checked against the models that are evaluated on it.

        Parameters
        ----------
        subject : PreparedSubject
        store : TokenStore
            Tokens of the models' encoder.
        brains : sequence of Brain
            Models of this subject, all with a readout (`Brain.require_readout`). Trials are in the
            unit of the first; without any, as prepared.
        least : int
            Test images that are needed, or groups of them: fewer in a fold than in a test set.
        other : PreparedData, optional
            Another dataset of the same subject, whose test images are loaded instead; ncsnr is that
            of its images.

        Raises
        ------
        InputError
            Model, subject and tokens do not belong together; there are too few test
            images; a test image is among those that the model was trained on.
        """
        trained = PreparedData(subject, store)
        for brain in brains:
            check_match(brain, subject, store)
            _check_voxels(brain, subject)
            if other is not None:
                check_other(brain, trained, other)
        if other is not None:
            subject, store = other.subject, other.store
        if not subject.has_test:
            raise InputError(
                f"{subject.folder}: no fixed test images: it was prepared to be scored by leaving "
                "out images or groups by turns, which `synbrain evaluate` does; this needs some: "
                "prepare again with more test images (--test, --split)"
            )
        test = subject.select("test")
        groups = number_groups(test.images, subject.groups)
        n_independent = count_groups(len(test.images), groups)
        if n_independent < least:
            unit = "test images" if groups is None else "groups of test images"
            raise InputError(
                f"{subject.folder}: expected {least} {unit} or more, found "
                f"{n_independent}: no score over images can be computed; prepare with a larger "
                f"test split, or {FOLDS_ADVICE}"
            )
        check_untrained(subject, store)
        return cls(
            subject,
            store,
            test.images,
            test.image_index,
            test.session,
            test.betas,
            brains[0].standardize(test.betas) if brains else test.betas,
            (brains[0] if brains and other is None else subject).voxels["ncsnr"].to_numpy(float),
            (
                *notes_on_number(n_independent, groups is not None),
                *(
                    leakage_notes(brains, subject)
                    if other is None
                    else notes_on_other(brains, trained, other)
                ),
            ),
            subject.averaged_over,
            other_trained=None if other is None else trained,
        )

    @classmethod
    def pooled(cls, parts: Sequence[TestSet], subject: PreparedSubject) -> TestSet:
        """Put the test images of several folds one after the other.

        Parameters
        ----------
        parts : sequence of TestSet
        subject : PreparedSubject
            As prepared, with splits of its own.
        """
        betas = np.concatenate([part.betas for part in parts])
        as_prepared = all(part.trials is part.betas for part in parts)
        trials = betas if as_prepared else np.concatenate([part.trials for part in parts])
        first_image = np.cumsum([0, *(part.n_images for part in parts)])
        first_trial = np.cumsum([0, *(len(part.betas) for part in parts)])
        # Views: responses are in memory once.
        views = tuple(
            replace(part, betas=betas[start:stop], trials=trials[start:stop])
            for part, start, stop in zip(parts, first_trial[:-1], first_trial[1:], strict=True)
        )
        index = [p.image_index + first for p, first in zip(parts, first_image[:-1], strict=True)]
        return replace(
            parts[0],
            subject=subject,
            images=np.concatenate([part.images for part in parts]),
            image_index=np.concatenate(index),
            session=np.concatenate([part.session for part in parts]),
            betas=betas,
            trials=trials,
            parts=views,
        )._with_notes_on_number()

    def _with_notes_on_number(self) -> TestSet:
        """Note that there are few images, which were held out by turns."""
        notes = notes_on_number(self.n_independent, self.groups is not None, held_out_by_turns=True)
        return replace(self, notes=tuple(notes))

    @cached_property
    def groups(self) -> Groups | None:
        """Number of each image's group: (n_images,); None where every image stands alone."""
        return number_groups(self.images, self.subject.groups)

    @property
    def n_independent(self) -> int:
        """Number of groups of images, or of images that stand alone."""
        return count_groups(self.n_images, self.groups)

    def bootstrap(self, n_boot: int, seed: int, stream: int | None = None) -> Bootstrap:
        """Return the bootstrap over these images, or over their groups."""
        return Bootstrap(n_boot, seed, stream, self.groups)

    def derangement(self, generator: np.random.Generator) -> NDArray[np.int64]:
        """Return another image for each, of another group: the control."""
        return derangement(self.n_images, generator, self.groups)

    @property
    def blocks(self) -> list[slice]:
        """Images whose predictions come from one fit: all of them, or those of each fold."""
        ends = np.cumsum([part.n_images for part in self.parts or (self,)]).tolist()
        return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]

    @property
    def least_block(self) -> int:
        """Images in the smallest of the `blocks`."""
        return min(block.stop - block.start for block in self.blocks)

    @property
    def trained(self) -> PreparedData:
        """What the models were trained on."""
        return self.other_trained or PreparedData(self.subject, self.store)

    @property
    def n_images(self) -> int:
        """Number of test images."""
        return len(self.images)

    @property
    def n_voxels(self) -> int:
        """Number of voxels."""
        return int(self.trials.shape[1])

    @property
    def tokens(self) -> Tokens:
        """Tokens of the images, read when asked for: 1.7 GB of NSD's under one band."""
        return self.store.take(self.images)

    def token(self, image: int) -> Tokens:
        """Tokens of one image."""
        return self.store.take(self.images[image : image + 1])

    @cached_property
    def digests(self) -> list[str]:
        """Digest of each image's tokens: keys of the random numbers of its draws."""
        return [token_digest(self.token(image)) for image in range(self.n_images)]

    @cached_property
    def averages(self) -> NDArray[np.float32]:
        """Averages over repeats: (n_images, n_voxels)."""
        return average_repeats(self.trials, self.image_index)[0]

    @cached_property
    def n_repeats(self) -> NDArray[np.int64]:
        """Number of repeats of each image: (n_images,)."""
        return np.bincount(self.image_index, minlength=self.n_images)

    @property
    def repeats(self) -> Repeats:
        """Least and greatest number of repeats, as a record has them."""
        return Repeats(min=int(self.n_repeats.min()), max=int(self.n_repeats.max()))

    @property
    def reliable(self) -> NDArray[np.bool_]:
        """Voxels with an ncsnr above 0.2, and a ceiling that chance does not reach: (n_voxels,).

        Where images are few, r² of unrelated responses exceeds a low ceiling by chance; its ratio
        to the ceiling would mean nothing.
        """
        return (self.ncsnr > RELIABLE) & (self.ceiling > chance_correlation(self.n_independent))

    @property
    def has_ceiling(self) -> bool:
        """Whether the ncsnr of any voxel is known."""
        return bool(np.isfinite(self.ncsnr).any())

    @cached_property
    def ceiling(self) -> NDArray[np.float64]:
        """Highest expected correlation with the averages over repeats: (n_voxels,)."""
        return correlation_ceiling(self.ncsnr, self.n_repeats * self.averaged_over)

    @cached_property
    def explained_ceiling(self) -> NDArray[np.float64]:
        """Explainable share of the variance of the averages over repeats: (n_voxels,)."""
        return noise_ceiling(self.ncsnr, self.n_repeats * self.averaged_over)

    def trials_in_unit_of(self, brain: Brain) -> NDArray[np.float32]:
        """Trials standardised as a model has them: (n_trials, n_voxels)."""
        return brain.standardize(self.betas)


def scored_regions(brain: Brain) -> dict[str, NDArray[np.bool_]]:
    """Regions large enough for scores of their own: boolean array (n_voxels,) each."""
    return {name: mask for name, mask in brain.rois().items() if mask.sum() >= MIN_REGION}


def region_averaging(
    regions: Mapping[str, NDArray[np.bool_]], n_voxels: int
) -> NDArray[np.float32]:
    """Voxels → region means: float32 (n_voxels, n_regions)."""
    masks = np.array(list(regions.values()), np.float32).reshape(len(regions), n_voxels).T
    weights: NDArray[np.float32] = masks / np.maximum(masks.sum(0), 1)
    return weights


def _check_voxels(brain: Brain, subject: PreparedSubject) -> None:
    """Refuse a model whose voxels or standardisation are not those of the prepared subject."""
    prepared, trained = subject.description.standardization, brain.config.standardization
    if trained != prepared:
        raise InputError(
            f"{brain.name} was trained on betas with the standardization {trained}, but "
            f"{subject.folder} has {prepared}: it was prepared again; train the model again"
        )
    columns = [column for column in POSITION_COLUMNS if column in subject.voxels]
    if not set(columns) <= set(brain.voxels) or not brain.voxels[columns].equals(
        subject.voxels[columns]
    ):
        raise InputError(
            f"{brain.name}: its {brain.n_voxels} voxels have other positions than those of "
            f"{subject.folder}: it was prepared again with another mask; train the model again"
        )
