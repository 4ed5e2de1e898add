"""Several models of one subject on the same test images: what is compared, and its scores.

All rows are scored on the same images, and a bootstrap draw takes the same images for all, so that
the difference of two models is known better than either score.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from synbrain_cli.brain import Brain
from synbrain_cli.brain.drawing import Drawing
from synbrain_cli.errors import InputError
from synbrain_cli.evaluation.test_set import RELIABLE, TestSet, scored_regions
from synbrain_cli.io.results.comparison import ComparedRow, Estimate, RowKind, RowTraining
from synbrain_cli.io.results.record import Result
from synbrain_cli.metrics.accuracy import squared_errors_of_images, voxelwise_correlation
from synbrain_cli.metrics.bootstrap import Bootstrap, weighted_correlation, weighted_mean
from synbrain_cli.metrics.calibration import pit
from synbrain_cli.metrics.missing import known_median
from synbrain_cli.model.readout import Readout
from synbrain_cli.progress import Progress
from synbrain_cli.run import RunContext

LEVEL = 0.9  # of the intervals whose coverage is compared
SAME = 1e-5  # SDs within which two linear encoders are one: rounding of another machine


# ------------------------------------------------------------------------------------- rows


@dataclass
class Row:
    """A model, baseline or control, and what it predicts for the test images.

    Attributes
    ----------
    name : str
    kind : {"mean_pattern", "linear", "model", "shuffled"}
    brain : Brain
        The model that it is of.
    prediction : float32 array of shape (n_images, n_voxels)
        In the unit of the first model.
    readout : Readout, optional
        Distribution around the prediction, in the unit of ``brain``; None where no draws are made.
    models : list of str
        Models that hold it.
    linear : int, optional
        Row of the linear encoder of the same data.
    """

    name: str
    kind: RowKind
    brain: Brain
    prediction: NDArray[np.float32]
    readout: Readout | None = None
    models: list[str] = field(default_factory=list)
    linear: int | None = None


def check_names(brains: Sequence[Brain]) -> None:
    """Refuse models that cannot be rows of one table.

    Raises
    ------
    InputError
        There is no model; one has no readout; two have the same name.
    """
    if not brains:
        raise InputError(
            "expected one model or more to compare, found none: name them, or make one with "
            "`synbrain train` or `synbrain adapt`"
        )
    names: set[str] = set()
    for brain in brains:
        brain.require_readout("a comparison")
        if brain.name in names:
            raise InputError(
                f"{brain.folder}: expected models of different names, found {brain.name} twice: "
                "give each once, or copy one under another name"
            )
        names.add(brain.name)


def reference_model(brains: Sequence[Brain]) -> Brain:
    """Return the last model of all the subject's data; the first where there is none."""
    whole = [brain for brain in brains if brain.config.training.hours is None]
    return whole[-1] if whole else brains[0]


def predict_rows(brains: Sequence[Brain], test: TestSet, run: RunContext) -> list[Row]:
    """Predict the test images by every model, baseline and control.

    The mean pattern (of the first model), each model with the linear encoder of its data before it
    (listed once where models hold the same), and the first model with its images shuffled.

    Parameters
    ----------
    brains : sequence of Brain
    test : TestSet
        In the unit of the first model.
    run : RunContext
        Its seed is that of the shuffled control.
    """
    first, tokens = brains[0], test.tokens
    rows = [
        Row(
            "mean pattern",
            "mean_pattern",
            first,
            np.broadcast_to(first.distribution.mean_pattern, (len(tokens), first.n_voxels)),
            Readout.gaussian(first.distribution.trial_variance),
            [first.name],
        )
    ]
    with run.progress.bar("predicting", len(brains)) as bar:
        for brain in brains:
            values = _to_unit_of(first, brain.predict("linear", tokens, unit="z"), brain)
            linear = _row_of_linear_encoder(rows, brain, values)
            rows[linear].models.append(brain.name)
            values = _to_unit_of(first, brain.mean(tokens, unit="z"), brain)
            readout = brain.distribution.readout
            rows.append(Row(brain.name, "model", brain, values, readout, [brain.name], linear))
            bar()
    shuffle = test.derangement(np.random.default_rng(run.seed))
    control = next(row for row in rows if row.kind == "model").prediction[shuffle]
    name = f"{first.name}, images shuffled"
    return [*rows, Row(name, "shuffled", first, control, models=[first.name])]


def _row_of_linear_encoder(rows: list[Row], brain: Brain, values: NDArray[np.float32]) -> int:
    """Number of the row with these predictions, which is added where there is none."""
    for i, row in enumerate(rows):
        if row.kind == "linear" and np.allclose(row.prediction, values, rtol=0, atol=SAME):
            return i
    readout = Readout.gaussian(brain.distribution.linear_variance)
    rows.append(Row(f"linear encoder of {brain.name}", "linear", brain, values, readout))
    return len(rows) - 1


def _to_unit_of(brain: Brain, values: NDArray[np.float32], other: Brain) -> NDArray[np.float32]:
    """Responses in another model's unit → in this model's.

    Units differ where betas were left as recorded: each model standardises by its own trials.
    """
    if brain is other or other.config.standardization != "none":
        return values
    recorded = values * other.response_sd + other.response_mean
    standardised: NDArray[np.float32] = (recorded - brain.response_mean) / brain.response_sd
    return standardised


def training_of(row: Row) -> RowTraining | None:
    """Return the training and validation trials of a row; None of the shuffled control."""
    if row.kind == "shuffled":
        return None
    record = row.brain.config.training
    adaptation = record.adaptation if row.kind == "model" else None
    strategy = adaptation.strategy if adaptation else None
    if row.kind == "model" and adaptation is None and row.brain.config.is_linear:
        strategy = "linear encoder alone"
    return RowTraining(
        hours=record.hours or len(record.sessions) or None,
        n_trials=record.n_trials.total,
        sources=list(adaptation.sources) if adaptation else [],
        strategy=strategy,
    )


# ------------------------------------------------------------------------------------- scores


class RowCorrelations(Result, frozen=True):
    """Scores of one row that are made of correlations.

    Attributes
    ----------
    plain : Estimate
        Median over all voxels.
    compared : Estimate
        The score that rows are compared by: divided by the ceiling, the median over reliable
        voxels; the plain one where no ceiling is known.
    difference_to_reference, ratio_to_reference, ratio_to_linear : Estimate
        Of ``compared``.
    roi : dict of Estimate
        ``compared``, in each region.
    """

    plain: Estimate | None
    compared: Estimate | None
    difference_to_reference: Estimate | None
    ratio_to_reference: Estimate | None
    ratio_to_linear: Estimate | None
    roi: dict[str, Estimate | None]


@dataclass(frozen=True, eq=False)
class RowScorer:
    """Scores of all rows, each with an interval over the same bootstrap draws of images.

    Attributes
    ----------
    truth : array of shape (n_images, n_voxels)
        Repeat averages.
    rows : list of Row
    ceiling : array of shape (n_voxels,)
        Each correlation is divided by it before the median over voxels.
    chosen : boolean array of shape (n_voxels,)
        Voxels of that median.
    rois : dict of boolean arrays of shape (n_voxels,)
    reference : int
        Row that others are compared with.
    is_normalised : bool
        Whether any voxel is reliable, so that correlations are divided by the ceiling.
    """

    truth: NDArray[np.float32]
    rows: list[Row]
    ceiling: NDArray[np.float64]
    chosen: NDArray[np.bool_]
    rois: dict[str, NDArray[np.bool_]]
    reference: int
    is_normalised: bool

    @property
    def has_all_data(self) -> bool:
        """Whether the reference was trained on all of the subject's data."""
        return self.rows[self.reference].brain.config.training.hours is None

    @classmethod
    def create(cls, test: TestSet, rows: list[Row], reference: Brain) -> RowScorer:
        """Normalise for noise where any voxel is reliable.

        Parameters
        ----------
        test : TestSet
        rows : list of Row
        reference : Brain
            The model that others are compared with.
        """
        number = next(
            i for i, row in enumerate(rows) if row.kind == "model" and row.brain is reference
        )
        rois, reliable = scored_regions(rows[0].brain), test.reliable
        if not reliable.any():
            ones = np.ones_like(test.ceiling)
            return cls(test.averages, rows, ones, np.ones_like(reliable), rois, number, False)
        rois = {name: mask for name, mask in rois.items() if mask[reliable].any()}
        return cls(test.averages, rows, test.ceiling, reliable, rois, number, True)

    def _medians(self, r: NDArray[np.float64]) -> NDArray[np.float64]:
        """Correlations (n, n_voxels) → medians: plain, compared, compared in each region."""
        share = r[:, self.chosen] / self.ceiling[self.chosen]
        regions = [known_median(share[:, m[self.chosen]], axis=1) for m in self.rois.values()]
        return np.stack([known_median(r, axis=1), known_median(share, axis=1), *regions], axis=1)

    def _comparisons(self, compared: NDArray[np.float64]) -> NDArray[np.float64]:
        """Compared scores (n, n_rows) → (n, n_rows, 3): difference, ratio, ratio to linear."""
        reference = compared[:, [self.reference]]
        some = [row.linear is not None for row in self.rows]
        linear = np.zeros_like(compared)
        linear[:, some] = compared[:, [row.linear for row in self.rows if row.linear is not None]]
        return np.stack(
            [compared - reference, _ratio(compared, reference), _ratio(compared, linear)], axis=2
        )

    def correlations(self, bootstrap: Bootstrap, progress: Progress) -> list[RowCorrelations]:
        """Compute the scores that are made of correlations, by row."""

        def everything(medians: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.concatenate([medians, self._comparisons(medians[:, :, 1])], axis=2)

        found = [
            self._medians(
                voxelwise_correlation(self.truth, np.ascontiguousarray(row.prediction))[None]
            )
            for row in self.rows
        ]
        values = everything(np.stack(found, axis=1))[0]
        with progress.bar("bootstrap", bootstrap.n_boot * len(self.rows)) as bar:

            def statistic(counts: NDArray[np.float64]) -> NDArray[np.float64]:
                drawn = []
                for row in self.rows:
                    r = weighted_correlation(self.truth, row.prediction, counts)
                    drawn.append(self._medians(r))
                    bar.to(bar.done + len(counts), bar.total)
                return everything(np.stack(drawn, axis=1))

            with np.errstate(invalid="ignore"):  # quantiles of infinite ratios
                limits = bootstrap.interval(statistic, len(self.truth))
        return [self._record(*pair) for pair in zip(values, limits, strict=True)]

    def _record(self, values: NDArray[np.float64], limits: NDArray[np.float64]) -> RowCorrelations:
        """Scores of one row (n_scores,) and their limits (n_scores, 2)."""
        plain, compared, *others = map(estimate, values, limits)
        regions, comparisons = others[: len(self.rois)], others[len(self.rois) :]
        difference, ratio, to_linear = comparisons
        return RowCorrelations(
            plain=plain,
            compared=compared,
            difference_to_reference=difference,
            ratio_to_reference=ratio,
            ratio_to_linear=to_linear,
            roi=dict(zip(self.rois, regions, strict=True)),
        )

    def skill(self, baseline: NDArray[np.float32], bootstrap: Bootstrap) -> list[Estimate | None]:
        """Compute 1 − MSE / MSE of one pattern, the same for all rows."""
        errors = [squared_errors_of_images(self.truth, r.prediction, baseline) for r in self.rows]
        both = np.stack(errors, axis=1)  # (n_images, n_rows, 2)

        def statistic(counts: NDArray[np.float64]) -> NDArray[np.float64]:
            means = weighted_mean(both, counts)
            return 1 - means[..., 0] / means[..., 1]

        values = statistic(np.ones((1, len(both))))[0]
        return list(map(estimate, values, bootstrap.interval(statistic, len(both))))


class Coverage(Result, frozen=True):
    """Share of recorded trials within the central 90 % of one row's draws."""

    score: Estimate | None


def coverage_of_row(
    row: Row, first: Brain, test: TestSet, n_draws: int, n_boot: int, run: RunContext
) -> Coverage:
    """Score the draws of a row by the recorded trials.

    They are drawn as `synbrain evaluate` draws: around the mean pattern and the linear encoder with
    independent normal noise, around a model with its own readout; each draw has its own unexplained
    signal.

    Parameters
    ----------
    row : Row
        With a readout.
    first : Brain
        The first model, in whose unit the prediction is.
    test : TestSet
    n_draws : int
        Per image.
    n_boot : int
        Bootstrap draws of the test images.
    run : RunContext
        Its seed is that of the draws and of the bootstrap.
    """
    trials = test.trials_in_unit_of(row.brain)
    means = _to_unit_of(row.brain, row.prediction, first)
    drawing = Drawing(n_draws, run.seed, signal="fresh")
    # A generator per row: its score does not depend on the other rows.
    generator = np.random.default_rng([run.seed, 2])
    inside = np.empty(test.n_images)
    with run.progress.bar(
        f"draws of {row.name}", test.n_images, shorter="--draws 50, or fewer models"
    ) as bar:
        for image, digest in enumerate(test.digests):
            doubt = row.brain.doubt_of(test.token(image)) if row.kind == "model" else None
            draws = row.brain.draw_around(means[image], digest, drawing, row.readout, doubt)
            rank = pit(trials[test.image_index == image], draws, generator)
            inside[image] = (np.abs(rank - 0.5) <= LEVEL / 2).mean()
            bar()
    limits = test.bootstrap(n_boot, run.seed).interval_of_mean(inside)
    return Coverage(score=estimate(inside.mean(), limits))


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    """Infinite where the denominator is not positive: a bootstrap has then no upper limit."""
    return np.divide(above, below, out=np.full_like(above, np.inf), where=below > 0)


def estimate(value: np.floating, limits: NDArray[np.float64]) -> Estimate | None:
    """Return a score as a record; None where it has no value.

    Parameters
    ----------
    value : float
    limits : float64 array of shape (2,)
    """
    if not np.isfinite(value):
        return None
    low, high = limits.tolist()
    known = np.isfinite(low) and np.isfinite(high)
    return Estimate(value=float(value), ci=(low, high) if known else None)


# ------------------------------------------------------------------------------------ records


def compared_rows(
    scorer: RowScorer,
    correlations: Sequence[RowCorrelations],
    skill: Sequence[Estimate | None],
    coverage: Sequence[Estimate | None],
) -> list[ComparedRow]:
    """Return all rows with their scores, and last the ceiling, where it is known.

    Parameters
    ----------
    scorer : RowScorer
    correlations, skill, coverage : sequences
        One entry per row.
    """
    entries = [
        ComparedRow(
            row=row.name,
            kind=row.kind,
            models=row.models,
            training=training_of(row),
            voxelwise_correlation=found.plain,
            # Where no ceiling is known, what is compared is the correlation itself.
            noise_normalised_correlation=found.compared if scorer.is_normalised else None,
            skill=row_skill,
            coverage_90=row_coverage,
            difference_to_reference=found.difference_to_reference,
            ratio_to_reference=found.ratio_to_reference,
            share_of_full=found.ratio_to_reference if scorer.has_all_data else None,
            ratio_to_linear=found.ratio_to_linear,
            roi=found.roi,
        )
        for row, found, row_skill, row_coverage in zip(
            scorer.rows, correlations, skill, coverage, strict=True
        )
    ]
    return [*entries, _ceiling_row(scorer)] if scorer.is_normalised else entries


def _ceiling_row(scorer: RowScorer) -> ComparedRow:
    whole = Estimate(value=1.0, ci=None)
    return ComparedRow(
        row="ceiling",
        kind="ceiling",
        models=[],
        training=None,
        voxelwise_correlation=Estimate(value=float(known_median(scorer.ceiling)), ci=None),
        noise_normalised_correlation=whole,
        skill=None,
        coverage_90=None,
        difference_to_reference=None,
        ratio_to_reference=None,
        share_of_full=None,
        ratio_to_linear=None,
        roi=dict.fromkeys(scorer.rois, whole),
    )


def notes(scorer: RowScorer, reference: ComparedRow) -> Iterator[str]:
    """Yield what readers of a comparison must know.

    Parameters
    ----------
    scorer : RowScorer
    reference : ComparedRow
        The model that others are compared with.
    """
    if not scorer.is_normalised:
        yield (
            f"no voxel is known to have an ncsnr above {RELIABLE}: nothing is normalised for "
            "noise, and models are compared by their voxelwise correlation"
        )
    if not scorer.has_all_data:
        yield (
            f"no model of all the subject's data was given: the reference is {reference.row}, and "
            "there is no share of the full model's score"
        )
    if reference.ratio_to_reference is None or reference.ratio_to_reference.ci is None:
        yield (
            f"the score of the reference, {reference.row}, cannot be distinguished from 0: ratios "
            "to it have no interval, or no value"
        )
