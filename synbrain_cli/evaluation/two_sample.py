"""Can a classifier tell recorded trials from drawn ones? `synbrain evaluate --two-sample`.

Beside the AUC for draws of the model stand the floor (recorded trials against recorded ones), that
for imitated recordings of which the model is right, and those for the draws of simpler
distributions, which classifiers do tell: without them, an AUC of .5 could mean a classifier that
sees nothing. A model that is right is told from recordings, too, as similar images share errors
that the draws compared do not share.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from msgspec import UNSET
from msgspec.structs import replace
from numpy.typing import NDArray

from synbrain_cli.brain import Brain
from synbrain_cli.errors import InputError
from synbrain_cli.evaluation.differences import Differences, region_features
from synbrain_cli.evaluation.doubt import FOLDS_ADVICE
from synbrain_cli.evaluation.judge import Judge, Judged, judged_together, together
from synbrain_cli.evaluation.predictions import Predictions
from synbrain_cli.evaluation.residuals import Residuals, ResidualSource, Seen
from synbrain_cli.evaluation.settings import EvaluateSettings
from synbrain_cli.evaluation.test_set import TestSet, region_averaging, scored_regions
from synbrain_cli.io.results.record import Interval, Number, Result, finite
from synbrain_cli.io.results.two_sample import (
    BestClassifier,
    ClassifierScore,
    FeatureDifference,
    KindScore,
    RegionDifference,
    Rows,
    TwoSampleScores,
)
from synbrain_cli.metrics.bootstrap import Bootstrap
from synbrain_cli.metrics.permutation import Exchange, p_values
from synbrain_cli.metrics.trial_features import feature_auc, kind_of
from synbrain_cli.metrics.two_sample import LEAST_IMAGES, Pattern
from synbrain_cli.progress import Share
from synbrain_cli.run import RunContext
from synbrain_cli.threads import one_thread

MOST_TRIALS = 3_000  # recorded ones: of more, those of images chosen at random
N_SETS = 3  # of draws of the model, over which AUC is averaged
N_IMITATIONS = 4  # recordings of which the model is right
N_LISTED = 8  # features that differ most, in metrics.json
ALPHA = 0.05
BASELINES = ("linear", "mean_pattern")
# Columns of voxels.tsv, without their prefix → statistic, unit and description of maps
MAPS = {
    "bias_difference": (
        "twosamplebias", "SD of a trial", "Mean of standardised residuals, recorded minus drawn",
    ),
    "variance_ratio": (
        "twosamplevariance", "1", "Variance of standardised residuals, recorded / drawn",
    ),
    "repeated_difference": (
        "twosamplerepeated",
        "share of the variance of a trial",
        "Mean product of the residuals of two repeats, recorded minus drawn",
    ),
    "pattern": (
        "twosamplepattern", "1",
        "Correlation of squared residuals with the score of the best classifier of trials",
    ),
}  # fmt: skip
KIND = "kind: "  # no region has such a name
PREFIX = "two_sample_"


class TwoSample(Result, frozen=True, kw_only=True):
    """What the classifiers found, numbers of single voxels, and notes.

    Attributes
    ----------
    scores : TwoSampleScores
    voxels : dict of lists of n_voxels numbers
        Recorded beside drawn residuals: ``bias_difference``, ``variance_ratio``,
        ``repeated_difference`` (where there are repeats), each with its ``…_z`` in standard errors;
        ``pattern``, what the best classifier of single trials relies on.
    features : list of FeatureDifference
        All of them.
    notes : list of str
    """

    scores: TwoSampleScores
    voxels: dict[str, list[Number]]
    features: list[FeatureDifference]
    notes: list[str]

    def columns(self) -> Iterator[tuple[str, NDArray[np.float64]]]:
        """Name in ``voxels.tsv`` and values (n_voxels,) of each number of single voxels."""
        for name, values in self.voxels.items():
            yield f"{PREFIX}{name}", np.array(values, float)


def tell_apart(
    brain: Brain,
    test: TestSet,
    predictions: Predictions,
    settings: EvaluateSettings,
    run: RunContext,
) -> TwoSample:
    """Train classifiers to tell recorded test trials from draws, and find what they rely on.

    Parameters
    ----------
    brain : Brain
    test : TestSet
    predictions : Predictions
    settings : EvaluateSettings
    run : RunContext
        Its seed and progress are used.

    Returns
    -------
    TwoSample
    """
    generator = np.random.default_rng([run.seed, 11])
    chosen = _chosen_images(test.n_repeats, generator)
    source = ResidualSource(brain, test, predictions, chosen, run.seed)
    masks = scored_regions(brain)
    averaging = region_averaging(masks, brain.n_voxels)
    judge = Judge(source.image_features(), tuple(masks), averaging, generator)
    bootstrap = test.bootstrap(settings.n_boot, run.seed).of(chosen)
    latent = ("latent_nf1",) if settings.latent and brain.config.has_networks else ()
    names = (*BASELINES, *latent)

    title = "classifiers of recorded and drawn trials"
    with run.progress.stage(title) as share, one_thread():
        of_model, of_floor, of_parts, of_right, *of_names = share.split(
            4 * N_SETS, 8, 2 * N_SETS, 4 * N_IMITATIONS, *[4] * len(names)
        )
        sets = judge.judge_sets(source.of("model"), N_SETS, of_model)
        found = judged_together(sets)
        floors = {rows: judge.floor(one.seen, own)
                  for (rows, one), own in of_floor.each(found.items())}  # fmt: skip
        right = _of_right_models(source, judge, of_right)
        others = {
            name: _beside(judge.judge(source.of(name), own), bootstrap)
            for name, own in zip(names, of_names, strict=True)
        }
        differences = Differences.of(source.of("model"), averaging)
        richest = _richest(found)
        parts = _parts(found[richest].seen, masks)
        of_each = together(
            [judge.see_alone(one[richest].seen, parts, own) for one, own in of_parts.each(sets)]
        )

    voxels = differences.columns()
    best = best_of(found, generator)
    voxels["pattern"] = pattern_of(source.of("model"), found["trials"])
    features = sorted(_features(found), key=lambda f: -abs(f.z or 0))
    scores = TwoSampleScores(
        n_images=len(chosen),
        n_trials=found["trials"].n_recorded,
        n_pairs=found["pairs"].n_recorded if "pairs" in found else 0,
        **{
            rows: _scores_of(rows, found, floors, right, others, bootstrap, generator)
            for rows in found
        },
        best=best,
        kinds=_kinds(of_each, bootstrap, generator),
        roi=_regions(of_each, masks, differences, bootstrap, generator),
        features=features[:N_LISTED],
    )
    return finite(
        TwoSample(
            scores=scores,
            voxels={name: values.tolist() for name, values in voxels.items()},
            features=features,
            notes=_notes(scores, test),
        )
    )


def check_images(test: TestSet) -> None:
    """Refuse so few images, or groups of images, that a fold would hold one or none.

    Raises
    ------
    InputError
    """
    if test.n_independent < LEAST_IMAGES:
        raise InputError(
            f"--two-sample: expected {LEAST_IMAGES} {_units(test)} or more, found "
            f"{test.n_independent}: classifiers are trained on some images and tested on others; "
            f"prepare with a larger test split, or {FOLDS_ADVICE}"
        )


def _units(test: TestSet) -> str:
    """What is dealt to folds."""
    return "test images" if test.groups is None else "groups of test images"


def _chosen_images(
    n_repeats: NDArray[np.integer], generator: np.random.Generator
) -> NDArray[np.int64]:
    """Images that take part: all, or as many at random as have `MOST_TRIALS` trials."""
    order = np.arange(len(n_repeats))
    if n_repeats.sum() > MOST_TRIALS:
        order = generator.permutation(order)
        n_chosen = max(int((np.cumsum(n_repeats[order]) <= MOST_TRIALS).sum()), LEAST_IMAGES)
        order = np.sort(order[:n_chosen])
    return order


def _richest(found: Mapping[Rows, Judged]) -> Rows:
    """Pairs hold what single trials do, and what repeats share; trials, where there are none."""
    return "pairs" if "pairs" in found else "trials"


# ------------------------------------------------------------------------------ what is recorded


def best_of(found: Mapping[Rows, Judged], generator: np.random.Generator) -> BestClassifier:
    """Classifier with the highest AUC, and a p value that allows for the choice."""
    every = [
        (rows, name, exchange)
        for rows, judged in found.items()
        for name, exchange in judged.exchanges.items()
    ]
    corrected = p_values([exchange for _, _, exchange in every], generator).best
    rows, name, exchange = max(every, key=lambda one: one[2].auc)
    return BestClassifier(rows=rows, classifier=name, auc=exchange.auc, p=corrected)


class Told(NamedTuple):
    """AUC of one classifier, and its 95 % interval over images."""

    auc: float
    ci: Interval


def _beside(found: Mapping[Rows, Judged], bootstrap: Bootstrap) -> dict[tuple[Rows, str], Told]:
    """What is kept of a baseline, by rows and classifier."""
    return {
        (rows, name): Told(exchange.auc, _interval(exchange, bootstrap))
        for rows, judged in found.items()
        for name, exchange in judged.exchanges.items()
    }


def _of_right_models(
    source: ResidualSource, judge: Judge, share: Share
) -> dict[tuple[Rows, str], NDArray[np.float64]]:
    """AUC where the model is right, by rows and classifier: float arrays (`N_IMITATIONS`,)."""
    if source.predictions.features_of(source.test, int(source.images[0])) is None:
        return {}  # of models whose draws share nothing, either
    found: dict[tuple[Rows, str], list[float]] = {}
    for number in share.over(range(N_IMITATIONS)):
        for rows, judged in judge.judge(source.imitated(number)).items():
            for name, exchange in judged.exchanges.items():
                found.setdefault((rows, name), []).append(exchange.auc)
    return {key: np.array(values) for key, values in found.items()}


def _scores_of(
    rows: Rows,
    found: Mapping[Rows, Judged],
    floors: Mapping[Rows, Mapping[str, NDArray[np.float64]]],
    right: Mapping[tuple[Rows, str], NDArray[np.float64]],
    others: Mapping[str, Mapping[tuple[Rows, str], Told]],
    bootstrap: Bootstrap,
    generator: np.random.Generator,
) -> dict[str, ClassifierScore]:
    """Scores of every classifier, beside the floor and the baselines."""
    own = found[rows].exchanges
    p = p_values(list(own.values()), generator).each
    scores = {}
    for (name, exchange), chance in zip(own.items(), p, strict=True):
        beside = {other: told[rows, name] for other, told in others.items()}
        floor, of_right = floors[rows][name], right.get((rows, name))
        scores[name] = ClassifierScore(
            model=exchange.auc,
            ci=_interval(exchange, bootstrap),
            p=chance,
            floor=float(floor.mean()),
            floor_sd=float(floor.std(ddof=1)),
            right=UNSET if of_right is None else float(of_right.mean()),
            right_sd=UNSET if of_right is None else float(of_right.std(ddof=1)),
            linear=beside["linear"].auc,
            mean_pattern=beside["mean_pattern"].auc,
            latent_nf1=beside["latent_nf1"].auc if "latent_nf1" in beside else UNSET,
            baselines_ci={other: one.ci for other, one in beside.items()},
        )
    return scores


def _interval(exchange: Exchange, bootstrap: Bootstrap) -> Interval:
    return bootstrap.limits(exchange.resampled, exchange.n_images)


def _parts(seen: Seen, regions: Iterable[str]) -> dict[str, set[str]]:
    """Features of each kind, and of each region."""
    kinds: dict[str, set[str]] = {}
    for name in seen.names:
        if (kind := kind_of(name)) is not None:
            kinds.setdefault(kind, set()).add(name)
    of_kinds = {f"{KIND}{kind}": names for kind, names in kinds.items()}
    return of_kinds | {region: region_features(region) for region in regions}


def _kinds(
    of_each: Mapping[str, Exchange],
    bootstrap: Bootstrap,
    generator: np.random.Generator,
) -> dict[str, KindScore]:
    """What the logistic classifier tells from each kind of feature alone."""
    own = {k.removeprefix(KIND): one for k, one in of_each.items() if k.startswith(KIND)}
    p = p_values(list(own.values()), generator).each
    return {
        kind: KindScore(auc=one.auc, ci=_interval(one, bootstrap), p=chance)
        for (kind, one), chance in zip(own.items(), p, strict=True)
    }


def _regions(
    of_each: Mapping[str, Exchange],
    masks: Mapping[str, NDArray[np.bool_]],
    differences: Differences,
    bootstrap: Bootstrap,
    generator: np.random.Generator,
) -> dict[str, RegionDifference]:
    """What differs in each region."""
    if not masks:
        return {}
    alone = {region: of_each[region] for region in masks}
    p = p_values(list(alone.values()), generator).each
    variance, variance_ci = differences.ratio("variance", bootstrap)
    of_mean, of_mean_ci = differences.ratio("mean_variance", bootstrap)
    found = {}
    for k, (region, exchange) in enumerate(alone.items()):
        found[region] = RegionDifference(
            n_voxels=int(masks[region].sum()),
            auc=exchange.auc,
            auc_ci=_interval(exchange, bootstrap),
            p=p[k],
            variance_ratio=float(variance[k]),
            variance_ratio_ci=tuple(variance_ci[k].tolist()),
            mean_variance_ratio=float(of_mean[k]),
            mean_variance_ratio_ci=tuple(of_mean_ci[k].tolist()),
        )
    if not differences.has_repeats:
        return found
    shared, shared_ci = differences.difference("repeated", bootstrap)
    return {
        region: replace(
            one,
            repeated_difference=float(shared[k]),
            repeated_difference_ci=tuple(shared_ci[k].tolist()),
        )
        for k, (region, one) in enumerate(found.items())
    }


def _features(found: Mapping[Rows, Judged]) -> Iterator[FeatureDifference]:
    """How well each feature alone tells recorded from drawn rows; those of the image cannot."""
    for rows, judged in found.items():
        sample = judged.seen.sample
        for k, name in enumerate(judged.seen.names):
            area, z = feature_auc(sample.features[:, k], sample.unit, sample.is_recorded)
            yield FeatureDifference(rows=rows, feature=name, auc=area, z=z)


def pattern_of(residuals: Residuals, judged: Judged) -> NDArray[np.float64]:
    """What the best classifier of single trials relies on, in squared residuals: (n_voxels,)."""
    best = max(judged.exchanges, key=lambda name: judged.exchanges[name].auc)
    sample, scores = judged.seen.sample, judged.scores[best]
    found = Pattern(residuals.recorded(0).shape[1])
    for image in range(sample.n_images):
        own = sample.image == image
        for is_recorded, z in residuals.both(image):
            found.add(z * z, scores[own & (sample.is_recorded == is_recorded)])
    return found.correlation()


def _notes(scores: TwoSampleScores, test: TestSet) -> list[str]:
    """Note what classifiers tell, and what was left out."""
    notes = []
    best = scores.best
    if best.p is not None and best.p <= ALPHA:
        leading = scores.features[0]
        of_best = (scores.get(best.rows) or {})[best.classifier].right
        right = "" if of_best is UNSET else f"; were the model right, {of_best:.3f}"
        notes.append(
            f"{best.rows} that were recorded can be told from drawn ones (AUC {best.auc:.3f} by "
            f"{best.classifier}, p {best.p:.3f}{right}); the single feature that differs most: "
            f"{leading.feature} of {leading.rows} (AUC {leading.auc:.3f}): two_sample_regions.tsv, "
            "two_sample_features.tsv"
        )
    if scores.n_images < test.n_images:
        notes.append(
            f"classifiers were trained on {scores.n_trials:,} trials of {scores.n_images:,} test "
            f"images, chosen at random from {test.n_images:,}"
        )
    if scores.pairs is UNSET:
        notes.append(
            f"fewer than {LEAST_IMAGES} {_units(test)} have repeats: pairs of repeats were not "
            "tested"
        )
    return notes
