"""Category regions of a modelled subject: every category of images against all others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from synbrain_cli.brain import Brain
from synbrain_cli.errors import InputError
from synbrain_cli.evaluation.test_set import scored_regions
from synbrain_cli.experiments.conditions import Condition, check_conditions, images_of
from synbrain_cli.experiments.contrast import Contrast, ContrastSettings, show
from synbrain_cli.experiments.keeping import Keeping
from synbrain_cli.io.voxel_space import POSITION_COLUMNS
from synbrain_cli.plotting.categories import Categories
from synbrain_cli.plotting.map_plotter import Look, MapPlotter
from synbrain_cli.plotting.maps import BrainMap
from synbrain_cli.progress import Progress
from synbrain_cli.run import RunContext

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OTHERS = "others"
# Okabe & Ito (2008), and darker ones beyond
COLOURS = (
    "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000",
    "#7F3B08", "#542788", "#1B7837", "#762A83",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class CategoryMaps:
    """Where each category drives responses more than all others: what `fit_categories` returns.

    ``preferred`` is the category that drives each voxel most; ``auc`` has one row per category and
    region of the subject, ``table`` one per voxel.

    Attributes
    ----------
    brain : Brain
    contrasts : dict of Contrast
        By category: its images − those of all others.
    """

    brain: Brain
    contrasts: Mapping[str, Contrast]

    @cached_property
    def preferred(self) -> NDArray[np.float64]:
        """Number of the category that drives each voxel most; NaN where none does significantly."""
        z = np.stack([found.test.z for found in self.contrasts.values()])
        sure = np.stack([found.significant for found in self.contrasts.values()])
        z = np.where(sure & (z > 0), z, -np.inf)
        best = z.argmax(0).astype(float)
        return np.where(np.isfinite(z.max(0)), best, np.nan)

    @cached_property
    def auc(self) -> pd.DataFrame:
        """How well each category's t map tells the subject's own regions from all other voxels.

        One row per category and region of ten voxels or more: ``n_voxels``, ``auc`` (area under
        the curve: 0.5 is chance), ``n_preferring`` (voxels of the region that prefer the category).
        """
        from sklearn.metrics import roc_auc_score  # a second to import

        rows = []
        for k, (name, found) in enumerate(self.contrasts.items()):
            for region, inside in scored_regions(self.brain).items():
                if inside.all():
                    continue
                area = roc_auc_score(inside, found.test.t)
                preferring = int((self.preferred[inside] == k).sum())
                rows.append((name, region, int(inside.sum()), float(area), preferring))
        columns = ["category", "region", "n_voxels", "auc", "n_preferring"]
        return pd.DataFrame(rows, columns=columns)

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per voxel: position, ``preferred`` category, and t and corrected p of each."""
        voxels = self.brain.voxels
        known = [column for column in (*POSITION_COLUMNS, "ncsnr") if column in voxels]
        names = [*self.contrasts, ""]
        best = np.nan_to_num(self.preferred, nan=len(names) - 1).astype(int)
        columns: dict[str, Any] = {"preferred": np.array(names)[best]}
        for name, found in self.contrasts.items():
            columns |= {f"t_{name}": found.test.t, f"p_{name}": found.test.p_corrected}
        return voxels[known].assign(**columns)

    def to_nifti(self) -> dict[str, nib.Nifti1Image]:
        """Return the t map of each category, on the subject's own grid."""
        return {name: found.to_nifti()["t"] for name, found in self.contrasts.items()}

    def plot(self, what: str = "preferred", look: Look | None = None) -> Figure:
        """Plot a flatmap of the "preferred" category, or of one category's significant voxels.

        Parameters
        ----------
        what : str
        look : Look, optional

        Raises
        ------
        InputError
            When there is no such category, or nothing to show.
        """
        if what != "preferred":
            if what not in self.contrasts:
                known = ", ".join(["preferred", *self.contrasts])
                raise InputError(f"what: expected one of {known}, found {what!r}")
            return self.contrasts[what].plot("significant", look)
        plot_map = MapPlotter(self.brain, "flatmap", look or Look(), Progress(quiet=True))
        if not plot_map.shows(self.map):
            raise InputError(f"{self.brain.name}: no voxel prefers a category significantly")
        return plot_map(self.map)

    @property
    def map(self) -> BrainMap:
        """Map of the preferred category."""
        names = tuple(self.contrasts)
        settings = next(iter(self.contrasts.values())).settings
        colours = tuple(COLOURS[k % len(COLOURS)] for k in range(len(names)))
        return BrainMap(
            f"sub-{self.brain.subject}_stat-preferred",
            f"Preferred category, {self.brain.name}",
            f"largest z above 0, {settings.correction.upper()} p < {settings.alpha:g} against all "
            "others",
            self.preferred,
            categories=Categories(names, colours, names),
        )


def fit_categories(
    brain: Brain,
    categories: Sequence[Condition] | Mapping[str, Any],
    settings: ContrastSettings | None = None,
    run: RunContext | None = None,
    *,
    keeping: Keeping | None = None,
) -> CategoryMaps:
    """Contrast each category of images with all others.

    Parameters
    ----------
    brain : Brain
    categories : sequence of Condition, or mapping of str to images as `Brain.mean` takes them
    settings : ContrastSettings, optional
    run : RunContext, optional
        Its seed is that of permutations and of scrambled phases.
    keeping : Keeping, optional
        Keeps the responses for the run that continues an interrupted one.

    Raises
    ------
    InputError
        When there are fewer than two categories, or one has fewer than two images.

    Examples
    --------
    >>> folders = {"face": "faces", "house": "houses"}
    >>> found = fit_categories(load_model("weights/sub-01"), folders)  # doctest: +SKIP
    >>> found.auc  # doctest: +SKIP
    """
    settings, run = settings or ContrastSettings(), run or RunContext()
    if isinstance(categories, Mapping):
        categories = [Condition(name, images_of(own)) for name, own in categories.items()]
    check_conditions(categories)
    shown = show(brain, categories, settings.controls, run, keeping)
    first = np.cumsum([0, *map(len, categories)])
    every, contrasts = np.arange(first[-1]), {}
    for k, one in enumerate(categories):
        own = (every >= first[k]) & (every < first[k + 1])
        rows = np.concatenate([every[own], every[~own]])
        names = one.name, OTHERS
        contrasts[one.name] = Contrast(
            brain, names, settings, shown.part(rows), int(own.sum()), run.seed
        )
    return CategoryMaps(brain, contrasts)
