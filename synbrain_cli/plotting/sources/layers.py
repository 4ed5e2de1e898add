"""How much each band of a model's linear encoder contributes to the prediction of each voxel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from synbrain_cli.brain import Brain
from synbrain_cli.brain.matching import check_match
from synbrain_cli.errors import InputError
from synbrain_cli.io.token_store import TOGETHER
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.plotting.labels import plotted_rois
from synbrain_cli.progress import Progress
from synbrain_cli.tokens import Tokens

ALL = "all voxels"  # the first region of the table


@dataclass(frozen=True, eq=False)
class Layers:
    """Contributions of the bands of a linear encoder (`LinearEncoder.contributions`).

    Attributes
    ----------
    bands : tuple of str
        Names of the bands.
    contributions : float32 array of shape (n_bands, n_voxels)
        SD over images of what a band adds to the prediction, in SDs of the responses.
    n_images : int
        Test images over which these are; no responses to them are used.
    """

    bands: tuple[str, ...]
    contributions: NDArray[np.float32]
    n_images: int

    @classmethod
    def of(cls, workspace: Workspace, brain: Brain, progress: Progress) -> Layers:
        """Compute the contributions from the tokens of the subject's test images.

        Raises
        ------
        InputError
            When the model has no linear encoder, or a single band; when there are fewer than two
            test images; when model, subject and tokens do not belong together.
        MissingError
            When subject or tokens are not in the workspace.
        """
        check_bands(brain)
        config, bands = brain.config, [band.spec for band in brain.config.bands]
        subject = workspace.find_subject(config.subject, config.dataset, progress.info)
        store = workspace.find_tokens(config.dataset, bands, progress.info)
        check_match(brain, subject, store)
        trials = subject.trials
        images = sorted(trials.loc[trials["split"] == "test", "image"].unique())
        if len(images) < 2:
            raise InputError(
                f"{subject.folder}: expected two test images or more, over which predictions "
                f"differ, found {len(images)}: prepare with a larger test split"
            )

        def parts() -> Iterator[Tokens]:
            firsts = range(0, len(images), TOGETHER)
            with progress.bar("image tokens", len(firsts)) as bar:
                for first in firsts:
                    yield brain.predictors.scaler(store.take(images[first : first + TOGETHER]))
                    bar()

        found = brain.predictors.linear.contributions(parts())
        return cls(tuple(bands), found, len(images))

    @property
    def definition(self) -> str:
        """What a contribution is, and what voxels without a colour are: captions say it so."""
        return (
            f"Contribution of a band: SD over {self.n_images:,} test images of the sum of weight × "
            "prediction over its members (ridge and receptive fields) in the linear encoder. The "
            "band with the largest one wins the voxel; grey: the linear encoder predicts nothing."
        )

    @cached_property
    def best(self) -> NDArray[np.float32]:
        """Number of the band with the largest contribution, NaN where all are 0: (n_voxels,)."""
        known = self.contributions.max(0) > 0
        return np.where(known, self.contributions.argmax(0), np.nan).astype(np.float32)

    @cached_property
    def shares(self) -> NDArray[np.float32]:
        """Contributions divided by their sum over bands, NaN where all are 0."""
        total = self.contributions.sum(0)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(total > 0, self.contributions / total, np.float32(np.nan))

    def won(self, voxels: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return the fraction of some voxels that each band wins; NaN where there are none."""
        best = self.best[voxels]
        counts = np.bincount(best[np.isfinite(best)].astype(int), minlength=len(self.bands))
        return counts / counts.sum() if counts.any() else np.full(len(self.bands), np.nan)

    def mean_share(self, voxels: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return the mean share of each band over some voxels; NaN where there are none."""
        shares = self.shares[:, voxels & np.isfinite(self.best)]
        if not shares.shape[1]:
            return np.full(len(self.bands), np.nan)
        return shares.mean(1, dtype=np.float64)


def check_bands(brain: Brain) -> None:
    """Refuse a model whose linear encoder has no bands that could be compared.

    Raises
    ------
    InputError
    """
    config = brain.config
    if not config.has_readout:
        raise InputError(
            f"{brain.name}: published weights come without a linear encoder, whose bands could be "
            "compared: train a model of this subject (`synbrain train`)"
        )
    if len(config.bands) < 2:
        raise InputError(
            f"{brain.name}: its linear encoder has a single band, {config.encoder}, so there is "
            "nothing to compare: run `synbrain prepare` with several bands, such as `--encoder "
            "gabor --encoder efficientnet@3,4,5`, then train with them (`synbrain train`)"
        )


def layers_table(brain: Brain, layers: Layers, voxels: NDArray[np.bool_]) -> pd.DataFrame:
    """Return what each band wins and contributes in each region.

    Parameters
    ----------
    brain : Brain
    layers : Layers
    voxels : bool array of shape (n_voxels,)
        Those that count, such as reliable ones.

    Returns
    -------
    DataFrame
        One row per region and band: ``region``, ``n_voxels`` (that count and that the linear
        encoder predicts), ``band``, ``fraction_won``, ``mean_share``. All voxels first, then the
        regions of figures, then the others.
    """
    plotted = plotted_rois(brain)
    others = {name: mask for name, mask in brain.rois().items() if name not in plotted}
    counted = voxels & np.isfinite(layers.best)
    rows = []
    for name, mask in {ALL: np.ones(brain.n_voxels, bool), **plotted, **others}.items():
        own = mask & counted
        for band, won, share in zip(
            layers.bands, layers.won(own), layers.mean_share(own), strict=True
        ):
            rows.append((name, int(own.sum()), band, won, share))
    columns = ["region", "n_voxels", "band", "fraction_won", "mean_share"]
    return pd.DataFrame(rows, columns=columns)
