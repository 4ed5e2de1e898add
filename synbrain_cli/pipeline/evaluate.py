"""`synbrain evaluate`: how good a model is, beside what any score must be compared with.

Every score stands beside the mean pattern (a constant: the average response to training images),
the linear encoder on the same tokens, the noise ceiling, and the model with its images shuffled;
draws stand beside simpler distributions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from msgspec import UNSET, UnsetType

from synbrain_cli.brain import Brain
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.evaluation.calibration import Calibration, calibrate
from synbrain_cli.evaluation.doubt import doubtful_scores, notes_on_doubt
from synbrain_cli.evaluation.folds import Folds
from synbrain_cli.evaluation.image_scores import describe_other, image_table
from synbrain_cli.evaluation.likelihood import score_likelihood
from synbrain_cli.evaluation.needs import evaluation_bytes
from synbrain_cli.evaluation.other_dataset import PreparedData, find_other
from synbrain_cli.evaluation.paper import paper_table
from synbrain_cli.evaluation.predictions import Predictions
from synbrain_cli.evaluation.resplit import default_folds
from synbrain_cli.evaluation.response_scores import ResponseResults, ResponseScorer
from synbrain_cli.evaluation.results_writer import EVALUATION, Table, write_results
from synbrain_cli.evaluation.retrieval import retrieve
from synbrain_cli.evaluation.settings import EvaluateSettings, check_draws
from synbrain_cli.evaluation.tables import (
    draws_table,
    likelihood_table,
    scores_table,
    two_sample_regions_table,
    two_sample_table,
)
from synbrain_cli.evaluation.test_set import UNITS, TestSet
from synbrain_cli.evaluation.two_sample import MAPS, TwoSample, check_images, tell_apart
from synbrain_cli.io.files import versions
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.results.evaluation import (
    IMAGES,
    METRICS,
    VOXELS,
    EvaluationRecord,
    FoldSizes,
    OtherDataset,
    RetrievalScores,
    evaluation_name,
)
from synbrain_cli.io.results.likelihood import LikelihoodScores
from synbrain_cli.io.results.record import ModelProvenance, finite
from synbrain_cli.io.token_store import TokenStore
from synbrain_cli.io.voxel_space import POSITION_COLUMNS
from synbrain_cli.io.workfolder import work_folder
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.memory import require_memory
from synbrain_cli.pipeline.map_writer import MapWriter, StatMap
from synbrain_cli.plotting.calibration import plot_calibration
from synbrain_cli.plotting.sources.evaluation import Evaluation
from synbrain_cli.run import RunContext
from synbrain_cli.training.needs import LESS


@dataclass(frozen=True)
class EvaluateResult:
    """Scores of one model.

    Attributes
    ----------
    folder : Path
        Holds ``metrics.json``, ``metrics.tsv``, ``voxels.tsv``, ``images.tsv`` (without folds) and
        ``calibration.png``; with classifiers also ``two_sample.tsv``, ``two_sample_regions.tsv``,
        ``two_sample_features.tsv`` and maps.
    metrics : EvaluationRecord
        As in ``metrics.json``.
    voxels : DataFrame
        One row per voxel: correlation over images of each predictor, its ceiling, and scores of
        the draws.
    """

    folder: Path
    metrics: EvaluationRecord
    voxels: pd.DataFrame

    def table(self) -> pd.DataFrame:
        """One row per score and region."""
        return scores_table(self.metrics)

    def draws_table(self) -> pd.DataFrame:
        """One row per score of the draws."""
        return draws_table(self.metrics)

    def likelihood_table(self) -> pd.DataFrame:
        """One row per likelihood of the recorded trials."""
        return likelihood_table(self.metrics)

    def tables(self) -> list[pd.DataFrame]:
        """All of them, as ``metrics.tsv`` has them."""
        return [self.table(), self.draws_table(), self.likelihood_table()]

    def paper_table(self) -> pd.DataFrame:
        """The published table's columns, on its scale."""
        return paper_table(self.metrics)


def evaluate(
    workspace: Workspace,
    brain: Brain,
    subject: PreparedSubject,
    store: TokenStore,
    settings: EvaluateSettings | None = None,
    output: Path | None = None,
    run: RunContext | None = None,
) -> EvaluateResult:
    """Score a model on its subject's test images, or its recipe on all images, by folds.

    A subject without test images is scored by folds unasked, as many as `default_folds` says.

    An interrupted evaluation continues after the last step that it finished: refits to folds,
    scores of responses, scores of draws, likelihood, classifiers, retrieval.

    Parameters
    ----------
    workspace : Workspace
    brain : Brain
    subject : PreparedSubject
        The subject of the model, in the dataset that it was trained on.
    store : TokenStore
        Tokens of its images, of the model's encoder.
    settings : EvaluateSettings, optional
        May name another dataset of the workspace, on whose test images the model is scored.
    output : path, optional
        Default ``outputs/<model>_evaluation``, with folds ``outputs/<model>_folds-5_evaluation``,
        on another dataset ``outputs/<model>_on-<dataset>_evaluation``.
    run : RunContext, optional
        Its seed is that of the draws, the bootstrap and the shuffled control.

    Raises
    ------
    InputError
        When the model, the subject and the tokens do not belong together; see `TestSet.load` and
        `Folds.load`.
    """
    # Set up
    settings, run = settings or EvaluateSettings(), run or RunContext()
    brain.require_readout("an evaluation")
    check_draws(settings.n_draws)
    what = (
        f"folds-{settings.n_folds}_evaluation" if settings.n_folds else evaluation_name(settings.on)
    )
    folder = Path(output) if output else workspace.output_of(brain.name, what)
    other = (
        None
        if settings.on is None
        else find_other(workspace, brain, settings.on, run.progress.info)
    )
    recorded = _recorded(brain, subject, other, settings, run)

    # Load the test images
    n_folds = settings.n_folds
    if n_folds is None and other is None and not subject.has_test:
        n_folds = default_folds(subject, store)
    folds = Folds.load(brain, subject, store, n_folds, run.seed) if n_folds else None
    test = folds.test if folds else TestSet.load(subject, store, [brain], other=other)
    if settings.two_sample:
        check_images(test)
    needed = evaluation_bytes(brain, subject, store, n_folds, other and other.subject)
    enough = require_memory(needed, f"evaluating {brain.name}", LESS)
    run.progress.info(
        f"evaluating {brain.name}: {len(test.trials):,} test trials of {test.n_images:,} images"
        + (f" of {settings.on}" if settings.on else "")
        + (f", held out in {n_folds} folds" if folds else "")
        + f"; {enough}"
    )

    # Compute
    bootstrap = test.bootstrap(settings.n_boot, run.seed)
    with work_folder(folder, EVALUATION, recorded, progress=run.progress) as work:
        predictions = folds.predict(work, run) if folds else Predictions.of(brain, test, run)
        scorer = ResponseScorer(brain, test, predictions, bootstrap)
        responses = work.once("responses", ResponseResults, lambda: scorer.score_all(run.progress))
        draws = work.once(
            "draws", Calibration, lambda: calibrate(brain, test, predictions, settings, run)
        )
        with run.progress.stage("likelihood of test trials") as share:
            likelihood = work.once(
                "likelihood",
                LikelihoodScores,
                lambda: score_likelihood(brain, test, predictions, bootstrap, share),
            )
        told = None
        if settings.two_sample:
            told = work.once(
                "two_sample", TwoSample, lambda: tell_apart(brain, test, predictions, settings, run)
            )
        retrieval: RetrievalScores | UnsetType = UNSET
        if test.least_block > 1:
            with run.progress.stage("retrieval") as share:
                retrieval = work.once(
                    "retrieval",
                    RetrievalScores,
                    lambda: retrieve(brain, test, predictions, bootstrap, run.seed, share),
                )

        # Write the results
        notes = [
            *(folds.notes() if folds else ()),
            *scorer.notes(),
            *draws.notes,
            *(told.notes if told else ()),
            *_notes_on_rows(brain),
            *_notes_on_readout(brain),
            *notes_on_doubt(_doubtful(responses, test)),
            *test.notes,
        ]
        images = None if folds else image_table(brain, test, predictions)
        described: OtherDataset | UnsetType = UNSET
        if images is not None and test.other_trained is not None:
            described = describe_other(brain, test, test.other_trained, images)
        sizes = folds.sizes if folds else UNSET
        steps = _Steps(responses, draws, likelihood, told, retrieval, sizes, described)
        metrics = _metrics(brain, test, steps, notes, settings, run)
        result = EvaluateResult(folder, metrics, _voxels_table(brain, scorer, steps))
        if told:
            MapWriter(work.partial, brain).write(_maps(told))
        write_results(
            work,
            {
                METRICS: metrics,
                "metrics.tsv": Table(pd.concat(result.tables())),
                VOXELS: Table(result.voxels, "%.5g"),
                **({} if images is None else {IMAGES: Table(images, "%.5g")}),
                "calibration.png": plot_calibration(metrics, result.voxels),
                **_two_sample_tables(told),
            },
        )
    return result


def own_scores(workspace: Workspace, brain: Brain) -> EvaluationRecord | None:
    """Return the scores of a model on its own test images, where they are in the workspace.

    What scores on another dataset are read beside; None where the model was not evaluated since it
    was trained.
    """
    try:
        return Evaluation.of(workspace, brain).metrics
    except (MissingError, InputError):
        return None


@dataclass(frozen=True)
class _Steps:
    """Results of the steps, each computed once."""

    responses: ResponseResults
    draws: Calibration
    likelihood: LikelihoodScores
    told: TwoSample | None
    retrieval: RetrievalScores | UnsetType
    folds: FoldSizes | UnsetType
    other: OtherDataset | UnsetType


def _metrics(
    brain: Brain,
    test: TestSet,
    steps: _Steps,
    notes: list[str],
    settings: EvaluateSettings,
    run: RunContext,
) -> EvaluationRecord:
    """Return ``metrics.json``: scores, and what they rest on."""
    provenance = ModelProvenance(
        fingerprint=brain.config.fingerprint,
        data=test.subject.checksum,
        seed=run.seed,
        n_boot=settings.n_boot,
        command=run.command or UNSET,
    )
    record = EvaluationRecord(
        model=brain.name,
        subject=brain.config.label,
        simulated=brain.simulated,
        n_test_images=test.n_images,
        n_test_trials=len(test.trials),
        n_groups=UNSET if test.groups is None else test.n_independent,
        repeats_per_image=test.repeats,
        averaged_over=test.averaged_over,
        n_voxels=brain.n_voxels,
        n_reliable_voxels=int(test.reliable.sum()),
        n_draws=settings.n_draws,
        units=_units(brain),
        recorded_unit=brain.unit,
        overall=steps.responses.overall,
        roi=steps.responses.roi,
        retrieval=steps.retrieval,
        folds=steps.folds,
        other=steps.other,
        draws=steps.draws.scores,
        likelihood=steps.likelihood,
        two_sample=steps.told.scores if steps.told else UNSET,
        doubtful=_doubtful(steps.responses, test),
        notes=notes,
        provenance=provenance,
    )
    return finite(record)


def _doubtful(responses: ResponseResults, test: TestSet) -> dict[str, str]:
    """Scores that mean nothing, each with the reason."""
    return doubtful_scores(responses.overall, test.n_independent, test.groups is not None)


def _recorded(
    brain: Brain,
    subject: PreparedSubject,
    other: PreparedData | None,
    settings: EvaluateSettings,
    run: RunContext,
) -> dict[str, Any]:
    """Return what the scores depend on, for ``settings.json``."""
    return {
        "fingerprint": brain.config.fingerprint,
        "data": subject.checksum,
        "other_data": None if other is None else other.subject.checksum,
        "seed": run.seed,
        **asdict(settings),
        "device": str(brain.device),
        "versions": versions(),
    }


def _units(brain: Brain) -> dict[str, str]:
    """Unit of each group of scores."""
    standardized = UNITS[brain.config.standardization]
    return {
        "voxelwise_correlation, skill": f"{standardized}, repeat averages",
        "pattern_correlation, mse, cosine": f"{brain.unit}, {brain.config.rows}",
        "draws": f"{standardized}, {brain.config.rows}",
    }


def _notes_on_rows(brain: Brain) -> list[str]:
    """Note that rows and draws are averages, where they are."""
    if brain.config.averaged_over == 1:
        return []
    return [
        f"the data are {brain.config.rows}, and so are the draws: they vary less than single "
        "trials do"
    ]


def _notes_on_readout(brain: Brain) -> list[str]:
    """Note how surely signal and noise of the readout are apart, where that is not sure."""
    readout = brain.config.training.readout
    if readout is None:
        return []
    if not readout.signal_told_from_noise and brain.config.averaged_over > 1:
        return [
            "without repeats of images among them, unexplained signal cannot be told from what is "
            f"left of the noise in {brain.config.rows}: the draws take all as noise"
        ]
    if not readout.signal_told_from_noise:
        return [
            "no image was repeated in training, so that unexplained signal cannot be told from "
            "trial noise: the draws take all as noise, so that their reliability is too low"
        ]
    if readout.noise_share.is_sure:
        return []
    return [
        f"few repeats in training: {readout.noise_share.describe()}; the reliability of the draws "
        "is as uncertain"
    ]


def _two_sample_tables(told: TwoSample | None) -> dict[str, Table]:
    """Files of the classifiers, by name; none where they were not asked for."""
    if told is None:
        return {}
    features = pd.DataFrame([dict(feature.items()) for feature in told.features])
    return {
        "two_sample.tsv": Table(two_sample_table(told.scores)),
        "two_sample_regions.tsv": Table(two_sample_regions_table(told.scores)),
        "two_sample_features.tsv": Table(features),
    }


def _maps(told: TwoSample) -> Iterator[StatMap]:
    """Where recorded and drawn trials differ."""
    for name, (stat, unit, description) in MAPS.items():
        if name in told.voxels:
            yield StatMap(stat, np.array(told.voxels[name], float), unit, description)


def _voxels_table(brain: Brain, scorer: ResponseScorer, steps: _Steps) -> pd.DataFrame:
    """``voxels.tsv``: positions, ncsnr, correlations, ceiling, scores of draws."""
    known = [column for column in POSITION_COLUMNS if column in brain.voxels]
    voxels = brain.voxels[known].copy()
    voxels["ncsnr"] = scorer.test.ncsnr
    for name in ("model", "network", "transfer", "deep", "linear"):
        if name in scorer.correlation:
            voxels[name] = scorer.correlation[name]
    voxels["ceiling"] = scorer.test.ceiling
    for found in (steps.draws, steps.told):
        if found is not None:
            for name, values in found.columns():
                voxels[name] = values
    return voxels
