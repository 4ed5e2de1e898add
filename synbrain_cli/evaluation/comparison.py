"""`synbrain compare`: several models of one person on the same test images.

What an hour of a person's data is worth, by each way of using it: the linear encoder fitted to the
hour alone, adapted models, the model of all their data, and the ceiling. All rows are scored on the
same images, and a bootstrap draw takes the same images for all, so that what separates two models
is surer than either score.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from synbrain_cli.brain import Brain
from synbrain_cli.brain.drawing import Drawing
from synbrain_cli.brain.images import token_digest
from synbrain_cli.brain.matching import check_match
from synbrain_cli.errors import InputError
from synbrain_cli.evaluation.settings import MIN_DRAWS, N_DRAWS
from synbrain_cli.evaluation.test_set import RELIABLE, UNITS, derangement, scored_regions
from synbrain_cli.io.files import atomic, sha256, versions, write_json
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.results.record import _finite as finite
from synbrain_cli.io.token_store import TokenStore
from synbrain_cli.io.voxel_space import POSITION_COLUMNS
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.metrics.accuracy import (
    average_repeats,
    squared_errors_of_images,
    voxelwise_correlation,
)
from synbrain_cli.metrics.bootstrap import bootstrap_ci, weighted_correlation, weighted_mean
from synbrain_cli.metrics.calibration import pit
from synbrain_cli.metrics.noise_ceiling import correlation_ceiling
from synbrain_cli.model.readout import Readout
from synbrain_cli.progress import Progress

LEVEL = 0.9  # of the intervals whose coverage is compared
SAME = 1e-5  # deviations within which two linear encoders are one: rounding of another machine
NORMALISED, PLAIN = "noise_normalised_correlation", "voxelwise_correlation"
SCORES = (
    PLAIN,
    NORMALISED,
    "skill",
    "coverage_90",
    "difference_to_reference",
    "ratio_to_reference",
    "ratio_to_linear",
)


@dataclass(frozen=True)
class CompareResult:
    """Scores of several models of one person.

    Attributes
    ----------
    folder : Path
        Holds ``comparison.json``, ``comparison.tsv``, ``comparison.png`` and ``comparison.md``.
    metrics : dict
        As in ``comparison.json``: {"rows": [{"row": name, score: {"value": x, "ci": [x, x]}, …}],
        …}; None stands for what has no value.
    """

    folder: Path
    metrics: dict[str, Any]

    def table(self) -> pd.DataFrame:
        """One row a predictor, over all voxels."""
        return comparison_table(self.metrics)

    def roi_table(self) -> pd.DataFrame:
        """One row a predictor and region."""
        return comparison_roi_table(self.metrics)


@dataclass
class _Row:
    """A predictor, what it predicts for the test images, and of which model it is."""

    name: str
    kind: str  # mean_pattern, linear, model, shuffled
    brain: Brain
    prediction: np.ndarray  # (n_images, n_voxels), in the unit all are compared in
    readout: Readout | None = None  # distribution around it; None: not drawn from
    models: list[str] = field(default_factory=list)  # that hold it
    linear: int | None = None  # row of the linear encoder of the same data


def compare(
    workspace: Workspace,
    brains: list[Brain],
    subject: PreparedSubject,
    store: TokenStore,
    *,
    output: Path | None = None,
    n_draws: int = N_DRAWS,
    n_boot: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> CompareResult:
    """Score models of one person side by side, on the same test images.

    Rows: the mean pattern (of the first model), each model with the linear encoder of its data
    before it (listed once where models hold the same), the first model with its images shuffled,
    and the ceiling. Differences and ratios are taken to a reference: the last model given that was
    trained on all of the person's data (no ``hours`` in its training record), else the first.

    Parameters
    ----------
    workspace : Workspace
    brains : list of Brain
        One or more, of different names.
    subject : PreparedSubject
        The person they are of.
    store : TokenStore
        Tokens of the test images, of their encoder.
    output : path, optional
        Default ``outputs/sub-03_comparison``.
    n_draws : int
        Draws an image for the coverage of 90 % intervals; 20 or more, or 0 to leave it out.
    n_boot : int
        Bootstrap draws of the test images for the 95 % confidence intervals.
    seed : int
        Of the draws, the bootstrap and the shuffled control.
    progress : Progress, optional

    Raises
    ------
    InputError
        When there is no model, or one of them does not belong to the subject and the tokens.
    """
    progress = progress or Progress()
    _check_together(brains, subject, store)
    if n_draws and n_draws < MIN_DRAWS:
        raise InputError(
            f"--draws {n_draws}: expected {MIN_DRAWS} or more, or 0 to leave coverage out: 90 % "
            "intervals of fewer draws would reach beyond them"
        )
    first = brains[0]
    test = subject.select("test")
    if len(test.images) < 4:
        raise InputError(
            f"{subject.folder}: expected four test images or more, found {len(test.images)}: no "
            "score over images can be computed; prepare with a larger test split"
        )
    progress.info(
        f"comparing {', '.join(brain.name for brain in brains)}: {len(test.betas):,} test trials "
        f"of {len(test.images):,} images"
    )
    truth, index, n_repeats = average_repeats(first.standardize(test.betas), test.image_index)
    tokens = store.take(test.images[index])
    rows = _predict(brains, tokens, np.random.default_rng(seed), progress)
    reference = _reference(brains)
    whole = reference.config.training.hours is None

    ncsnr = first.voxels["ncsnr"].to_numpy(float)
    ceiling = correlation_ceiling(ncsnr, n_repeats)
    reliable = ncsnr > RELIABLE
    normalised = bool(reliable.any())
    scorer = _Scorer(
        truth,
        rows,
        ceiling if normalised else np.ones_like(ceiling),
        reliable if normalised else np.ones_like(reliable),
        {k: mask for k, mask in scored_regions(first).items() if mask[reliable].any()}
        if normalised
        else scored_regions(first),
        next(i for i, r in enumerate(rows) if r.kind == "model" and r.brain is reference),
    )
    scores = scorer.correlations(n_boot, seed, progress)
    skill = scorer.skill(first.distribution.mean_pattern, n_boot, seed)
    covered = _coverage(rows, tokens, test.betas, test.image_index, n_draws, n_boot, seed, progress)
    entries = []
    for i, row in enumerate(rows):
        one = scores[i]
        # Where no ceiling is known, what is compared is the correlation itself.
        compared = one.pop("compared")
        entries.append(
            {
                "row": row.name,
                "kind": row.kind,
                "models": row.models,
                "training": None if row.kind == "shuffled" else _training(row),
                PLAIN: one[PLAIN],
                NORMALISED: compared if normalised else None,
                "skill": skill[i],
                "coverage_90": covered[i],
                "difference_to_reference": one["difference_to_reference"],
                "ratio_to_reference": one["ratio_to_reference"],
                "share_of_full": one["ratio_to_reference"] if whole else None,
                "ratio_to_linear": one["ratio_to_linear"],
                "roi": one["roi"],
            }
        )
    if normalised:
        entries.append(_ceiling_row(float(np.nanmedian(ceiling)), scorer.rois))
    compared_by = NORMALISED if normalised else PLAIN
    kind = first.config.standardization
    metrics = finite(
        {
            "subject": f"{subject.dataset}/sub-{subject.subject}",
            "simulated": any(brain.simulated for brain in brains),
            "models": [brain.name for brain in brains],
            "reference": reference.name,
            "reference_has_all_data": whole,
            "compared_by": compared_by,
            "n_test_images": len(truth),
            "n_test_trials": len(test.betas),
            "repeats_per_image": {"min": int(n_repeats.min()), "max": int(n_repeats.max())},
            "n_voxels": first.n_voxels,
            "n_reliable_voxels": int(reliable.sum()),
            "n_draws": n_draws,
            "units": {
                "correlations, skill": f"{UNITS[kind]}, repeat averages",
                "coverage_90": f"{UNITS[kind]}, single trials",
            },
            "rows": entries,
            "roi": {
                name: {"n_voxels": int(mask.sum()), "n_reliable_voxels": int(mask[reliable].sum())}
                for name, mask in scorer.rois.items()
            },
            "notes": _notes(brains, subject, normalised, whole, entries, reference.name),
            "provenance": {
                "fingerprints": {brain.name: brain.config.fingerprint for brain in brains},
                "data": sha256(subject.folder / "dataset_description.json"),
                "seed": seed,
                "n_boot": n_boot,
                "versions": versions(),
            },
        }
    )
    folder = Path(output) if output else workspace.outputs / f"sub-{subject.subject}_comparison"
    result = CompareResult(folder, metrics)
    write_json(folder / "comparison.json", metrics)
    with atomic(folder / "comparison.tsv") as path:
        overall = result.table()
        overall.insert(0, "region", "all")
        regions = result.roi_table()
        (pd.concat([overall, regions]) if len(regions) else overall).to_csv(
            path, sep="\t", index=False, float_format="%.5f"
        )
    with atomic(folder / "comparison.md") as path:
        path.write_text(comparison_text(metrics), "utf-8")
    from synbrain_cli.plotting.comparison import plot_comparison
    from synbrain_cli.plotting.figure import save_figure

    save_figure(plot_comparison(metrics), folder / "comparison.png")
    return result


# --------------------------------------------------------------------------- what is compared


def _check_together(brains: list[Brain], subject: PreparedSubject, store: TokenStore) -> None:
    if not brains:
        raise InputError(
            "expected one model or more to compare, found none: name them, or make one with "
            "`synbrain train` or `synbrain adapt`"
        )
    names: set[str] = set()
    place = [column for column in POSITION_COLUMNS if column in subject.voxels]
    for brain in brains:
        brain.require_readout("a comparison")
        check_match(brain, subject, store)
        if brain.name in names:
            raise InputError(
                f"{brain.folder}: expected models of different names, found {brain.name} twice: "
                "give each once, or copy one under another name"
            )
        names.add(brain.name)
        prepared, trained = subject.description.standardization, brain.config.standardization
        if trained != prepared:
            raise InputError(
                f"{brain.name} was trained on betas with the standardization {trained}, but "
                f"{subject.folder} has {prepared}: it was prepared again; train the model again"
            )
        if not set(place) <= set(brain.voxels) or not brain.voxels[place].equals(
            subject.voxels[place]
        ):
            raise InputError(
                f"{brain.name}: its {brain.n_voxels} voxels lie elsewhere than those of "
                f"{subject.folder}: it was prepared again with another mask; train the model again"
            )


def _reference(brains: list[Brain]) -> Brain:
    """The last model of all the person's data; the first where there is none."""
    whole = [brain for brain in brains if brain.config.training.hours is None]
    return whole[-1] if whole else brains[0]


def _predict(
    brains: list[Brain], tokens: np.ndarray, generator: np.random.Generator, progress: Progress
) -> list[_Row]:
    """Every row but the ceiling, with what it predicts for each image."""
    first = brains[0]
    shape = (len(tokens), first.n_voxels)

    def common(brain: Brain, values: np.ndarray) -> np.ndarray:
        """In the first model's unit: each has its own where betas were left as recorded."""
        if brain is first or brain.config.standardization != "none":
            return values
        recorded = values * brain.response_sd + brain.response_mean
        return (recorded - first.response_mean) / first.response_sd

    rows = [
        _Row(
            "mean pattern",
            "mean_pattern",
            first,
            np.broadcast_to(first.distribution.mean_pattern, shape),
            Readout.gaussian(first.distribution.trial_variance),
            [first.name],
        )
    ]
    with progress.bar("predicting", len(brains)) as bar:
        for brain in brains:
            values = common(brain, brain.predict("linear", tokens, unit="z"))
            known = (
                i
                for i, row in enumerate(rows)
                if row.kind == "linear" and np.allclose(row.prediction, values, rtol=0, atol=SAME)
            )
            place = next(known, len(rows))
            if place == len(rows):
                readout = Readout.gaussian(brain.distribution.linear_variance)
                name = f"linear encoder of {brain.name}"
                rows.append(_Row(name, "linear", brain, values, readout))
            rows[place].models.append(brain.name)
            values = common(brain, brain.mean(tokens, unit="z"))
            rows.append(
                _Row(
                    brain.name,
                    "model",
                    brain,
                    values,
                    brain.distribution.readout,
                    [brain.name],
                    place,
                )
            )
            bar()
    shuffle = derangement(len(tokens), generator)
    control = next(row for row in rows if row.kind == "model").prediction[shuffle]
    name = f"{first.name}, images shuffled"
    return [*rows, _Row(name, "shuffled", first, control, models=[first.name])]


def _training(row: _Row) -> dict[str, Any]:
    """What a row was trained on: training and validation trials of this person's.

    ``sources``: models of other people that it started from.
    """
    record = row.brain.config.training
    adaptation = record.adaptation
    content: dict[str, Any] = {
        "hours": record.hours or len(record.sessions) or None,
        "n_trials": record.n_trials.total,
        "sources": [],
        "strategy": None,
    }
    if row.kind == "model":
        content["sources"] = list(adaptation.sources) if adaptation else []
        alone = None if row.brain.config.has_networks else "linear encoder alone"
        content["strategy"] = adaptation.strategy if adaptation else alone
    return content


def _notes(
    brains: list[Brain],
    subject: PreparedSubject,
    normalised: bool,
    whole: bool,
    entries: list[dict[str, Any]],
    reference: str,
) -> list[str]:
    notes = []
    if not normalised:
        notes.append(
            f"no voxel is known to have an ncsnr above {RELIABLE}: nothing is normalised for "
            "noise, and models are compared by their voxelwise correlation"
        )
    if not whole:
        notes.append(
            f"no model of all the person's data was given: the reference is {reference}, and there "
            "is no share of the full model's score"
        )
    own = next(e for e in entries if e["kind"] == "model" and e["row"] == reference)
    if own["ratio_to_reference"] is None or own["ratio_to_reference"]["ci"] is None:
        notes.append(
            f"the score of the reference, {reference}, cannot be told from 0: ratios to it have "
            "no interval, or no value"
        )
    data = sha256(subject.folder / "dataset_description.json")
    for brain in brains:
        if brain.config.training.data not in (None, data):
            notes.append(
                f"{brain.name} was trained on another preparation of {subject.folder}: if its "
                "splits were others, it may have seen these test images"
            )
    return notes


def _ceiling_row(ceiling: float, rois: dict[str, np.ndarray]) -> dict[str, Any]:
    def known(value: float) -> dict[str, Any]:
        return {"value": value, "ci": None}

    return {
        "row": "ceiling",
        "kind": "ceiling",
        "models": [],
        "training": None,
        **dict.fromkeys(SCORES),
        PLAIN: known(ceiling),
        NORMALISED: known(1.0),
        "share_of_full": None,
        "roi": {name: known(1.0) for name in rois},
    }


# ------------------------------------------------------------------------------------- scores


@dataclass
class _Scorer:
    """Scores of all rows, each with an interval over the same bootstrap draws of images.

    Attributes
    ----------
    truth : array of shape (n_images, n_voxels)
        Repeat averages.
    rows : list of _Row
    ceiling : array of shape (n_voxels,)
        Each correlation is divided by it before the median over voxels.
    chosen : boolean array of shape (n_voxels,)
        Voxels of that median.
    rois : dict of boolean arrays of shape (n_voxels,)
    reference : int
        Row that others are compared with.
    """

    truth: np.ndarray
    rows: list[_Row]
    ceiling: np.ndarray
    chosen: np.ndarray
    rois: dict[str, np.ndarray]
    reference: int

    def _medians(self, r: np.ndarray) -> np.ndarray:
        """Correlations (n, n_voxels) → medians: plain, compared, compared in each region."""
        share = r[:, self.chosen] / self.ceiling[self.chosen]
        regions = [np.nanmedian(share[:, m[self.chosen]], axis=1) for m in self.rois.values()]
        return np.stack([np.nanmedian(r, axis=1), np.nanmedian(share, axis=1), *regions], axis=1)

    def _comparisons(self, compared: np.ndarray) -> np.ndarray:
        """Compared scores (n, n_rows) → (n, n_rows, 3): difference, ratio, ratio to linear."""
        reference = compared[:, [self.reference]]
        some = [row.linear is not None for row in self.rows]
        linear = np.zeros_like(compared)
        linear[:, some] = compared[:, [row.linear for row in self.rows if row.linear is not None]]
        return np.stack(
            [compared - reference, _ratio(compared, reference), _ratio(compared, linear)], axis=2
        )

    def correlations(self, n_boot: int, seed: int, progress: Progress) -> list[dict[str, Any]]:
        """Scores made of correlations, by row."""

        def everything(medians: np.ndarray) -> np.ndarray:
            return np.concatenate([medians, self._comparisons(medians[:, :, 1])], axis=2)

        found = [
            self._medians(
                voxelwise_correlation(self.truth, np.ascontiguousarray(row.prediction))[None]
            )
            for row in self.rows
        ]
        values = everything(np.stack(found, axis=1))[0]
        with progress.bar("bootstrap", n_boot * len(self.rows)) as bar:

            def statistic(counts: np.ndarray) -> np.ndarray:
                drawn = []
                for row in self.rows:
                    r = weighted_correlation(self.truth, row.prediction, counts)
                    drawn.append(self._medians(r))
                    bar.to(bar.done + len(counts), bar.total)
                return everything(np.stack(drawn, axis=1))

            with np.errstate(invalid="ignore"):  # quantiles of infinite ratios
                low, high = bootstrap_ci(
                    statistic, len(self.truth), np.random.default_rng(seed), n_boot
                )
        names = [PLAIN, "compared", *self.rois, *SCORES[-3:]]
        scores = []
        for i in range(len(self.rows)):
            one = {
                name: _score(*three)
                for name, *three in zip(names, values[i], low[i], high[i], strict=True)
            }
            scores.append({**one, "roi": {name: one.pop(name) for name in self.rois}})
        return scores

    def skill(self, baseline: np.ndarray, n_boot: int, seed: int) -> list[dict[str, Any]]:
        """1 − MSE / MSE of one pattern, the same for all rows."""
        errors = [squared_errors_of_images(self.truth, r.prediction, baseline) for r in self.rows]
        both = np.stack(errors, axis=1)  # (n_images, n_rows, 2)

        def statistic(counts: np.ndarray) -> np.ndarray:
            means = weighted_mean(both, counts)
            return 1 - means[..., 0] / means[..., 1]

        values = statistic(np.ones((1, len(both))))[0]
        low, high = bootstrap_ci(statistic, len(both), np.random.default_rng(seed), n_boot)
        return [_score(*three) for three in zip(values, low, high, strict=True)]


def _coverage(
    rows: list[_Row],
    tokens: np.ndarray,
    betas: np.ndarray,
    index: np.ndarray,
    n_draws: int,
    n_boot: int,
    seed: int,
    progress: Progress,
) -> list[dict[str, Any] | None]:
    """Share of recorded trials within the central 90 % of each row's draws.

    Drawn as `synbrain evaluate` draws: around the mean pattern and the linear encoder with
    independent normal noise, around a model with its own readout, unexplained signal afresh.

    Parameters
    ----------
    betas : float32 array of shape (n_trials, n_voxels)
        As prepared.
    index : int array of shape (n_trials,)
        Image of each trial.
    """
    covered: list[dict[str, Any] | None] = [None] * len(rows)
    if not n_draws:
        return covered
    drawn = [(i, row) for i, row in enumerate(rows) if row.readout is not None]
    digests = [token_digest(token) for token in tokens]
    drawing = Drawing(n_draws, seed, signal="fresh")
    with progress.bar("judging draws", len(drawn) * len(tokens)) as bar:
        for i, row in drawn:
            trials = row.brain.standardize(betas)
            means = _own_unit(row, rows[0].brain)
            # Its own, so that a row does not depend on what it is compared with.
            generator = np.random.default_rng([seed, 2])
            inside = np.empty(len(tokens))
            for image, digest in enumerate(digests):
                draws = row.brain.draw_around(means[image], digest, drawing, row.readout)
                rank = pit(trials[index == image], draws, generator)
                inside[image] = (np.abs(rank - 0.5) <= LEVEL / 2).mean()
                bar()
            low, high = bootstrap_ci(
                lambda counts, inside=inside: weighted_mean(inside, counts),
                len(inside),
                np.random.default_rng(seed),
                n_boot,
            )
            covered[i] = _score(inside.mean(), low, high)
    return covered


def _own_unit(row: _Row, first: Brain) -> np.ndarray:
    """A prediction in the unit of its model's readout."""
    if row.brain is first or row.brain.config.standardization != "none":
        return row.prediction
    recorded = row.prediction * first.response_sd + first.response_mean
    return (recorded - row.brain.response_mean) / row.brain.response_sd


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Infinite where the denominator is not positive: a bootstrap has then no upper limit."""
    return np.divide(above, below, out=np.full_like(above, np.inf), where=below > 0)


def _score(value: float, low: float, high: float) -> dict[str, Any] | None:
    """As in ``comparison.json``; None where there is no value."""
    if not np.isfinite(value):
        return None
    limits = [float(low), float(high)] if np.isfinite(low) and np.isfinite(high) else None
    return {"value": float(value), "ci": limits}


# ------------------------------------------------------------------------------------- tables


def comparison_table(metrics: dict[str, Any]) -> pd.DataFrame:
    """``comparison.json`` as a table: one row a predictor, over all voxels.

    A score ``s`` has the columns ``s``, ``s_low`` and ``s_high``.
    """
    rows = []
    for entry in metrics["rows"]:
        training = entry["training"] or {}
        row = {
            "row": entry["row"],
            "hours": training.get("hours"),
            "trials": training.get("n_trials"),
            "sources": ", ".join(training.get("sources", [])) or None,
            "strategy": training.get("strategy"),
        }
        for score in SCORES:
            row |= _columns(score, entry[score])
        row["share_of_full"] = (entry["share_of_full"] or {}).get("value")
        rows.append(row)
    table = pd.DataFrame(rows)
    numbers = table.columns[list(table.columns).index(SCORES[0]) :]
    return table.astype({"hours": float, "trials": "Int64"} | dict.fromkeys(numbers, float))


def comparison_roi_table(metrics: dict[str, Any]) -> pd.DataFrame:
    """The score that models are compared by, within regions: one row a region and predictor."""
    return pd.DataFrame(
        [
            {
                "region": region,
                "row": entry["row"],
                **_columns(metrics["compared_by"], entry["roi"][region]),
            }
            for region in metrics["roi"]
            for entry in metrics["rows"]
        ]
    )


def _columns(name: str, score: Mapping[str, Any] | None) -> dict[str, float | None]:
    score = score or {}
    low, high = score.get("ci") or (None, None)
    return {name: score.get("value"), f"{name}_low": low, f"{name}_high": high}


def comparison_text(metrics: dict[str, Any]) -> str:
    """``comparison.md``: a table in Markdown, and how to read it."""
    by, reference = metrics["compared_by"], metrics["reference"]
    normalised = by == NORMALISED
    headings = {PLAIN: "r"}
    if normalised:
        headings[NORMALISED] = "r / ceiling"
    headings["skill"] = "skill"
    if metrics["n_draws"]:
        headings["coverage_90"] = "90 % coverage"
    headings |= {
        "difference_to_reference": f"− {reference}",
        "ratio_to_reference": f"÷ {reference}",
        "ratio_to_linear": "÷ linear encoder",
    }
    lines = []
    for entry in metrics["rows"]:
        training = entry["training"] or {}
        hours, trials = training.get("hours"), training.get("n_trials")
        lines.append(
            [
                entry["row"],
                "" if hours is None else f"{hours:g}",
                "" if trials is None else f"{trials:,}",
                ", ".join(training.get("sources", [])),
                training.get("strategy") or "",
                *(_cell(entry[score]) for score in headings),
            ]
        )
    kind = " (simulated data)" if metrics["simulated"] else ""
    parts = [
        f"# Models of {metrics['subject']} compared{kind}",
        _markdown(["", "hours", "trials", "sources", "strategy", *headings.values()], lines),
        _how_to_read(metrics, normalised),
    ]
    if metrics["roi"]:
        # Of the mean pattern and the ceiling, regions say nothing.
        shown = [row for row in metrics["rows"] if row["kind"] not in ("mean_pattern", "ceiling")]
        parts += [
            f"## By region: {'r / ceiling' if normalised else 'r'}",
            _markdown(
                ["", "voxels", *(row["row"] for row in shown)],
                [
                    [name, f"{size['n_voxels']:,}", *(_cell(row["roi"][name]) for row in shown)]
                    for name, size in metrics["roi"].items()
                ],
            ),
        ]
    if metrics["notes"]:
        parts += ["## Notes", "\n".join(f"- {note}" for note in metrics["notes"])]
    return "\n\n".join(parts) + "\n"


def _how_to_read(metrics: dict[str, Any], normalised: bool) -> str:
    reference = metrics["reference"]
    n_images, least, most = (
        metrics["n_test_images"],
        metrics["repeats_per_image"]["min"],
        metrics["repeats_per_image"]["max"],
    )
    repeats = f"{least}" if least == most else f"{least} to {most}"
    sentences = [
        f"All rows are scored on the same {n_images:,} test images ({repeats} repeats each), which "
        "no row was trained on.",
        "*r* is the correlation over images of prediction and repeat average, the median over "
        f"{metrics['n_voxels']:,} voxels.",
    ]
    if normalised:
        sentences.append(
            "*r / ceiling* divides it, voxel by voxel, by the largest correlation that the noise "
            "in these repeats allows: the median over the "
            f"{metrics['n_reliable_voxels']:,} voxels with an ncsnr above {RELIABLE}; 1 is as good "
            "as any model can be expected to be."
        )
    sentences.append(
        "*Skill* is the part of the squared error of the mean pattern (the first row) that is "
        "removed; it may be negative."
    )
    if metrics["n_draws"]:
        sentences.append(
            "*90 % coverage* is the share of recorded single trials inside the central 90 % of "
            f"{metrics['n_draws']} draws: best near 0.9, above it draws vary too much, below it "
            "too little; the mean pattern and linear encoders are drawn around with independent "
            "normal noise."
        )
    what = "the model of all the person's data" if metrics["reference_has_all_data"] else "first"
    sentences += [
        f"*−* and *÷ {reference}* compare {'*r / ceiling*' if normalised else '*r*'} with that of "
        f"the reference ({what}), *÷ linear encoder* with that of the linear encoder of the same "
        "data.",
        "Brackets are 95 % bootstrap intervals over images. A bootstrap draw takes the same images "
        "for all rows, so judge two models by the interval of their difference or ratio (does it "
        "hold 0, or 1?), not by whether their own intervals overlap.",
        "The intervals say how far other images might change the scores; not what another "
        "training, or another person, would.",
    ]
    return " ".join(sentences)


def _markdown(heads: list[str], lines: list[list[str]]) -> str:
    cells = [[cell.replace("|", "\\|") for cell in line] for line in (heads, *lines)]
    rows = [f"| {' | '.join(line)} |" for line in cells]
    return "\n".join([rows[0], "|" + " --- |" * len(heads), *rows[1:]])


def _cell(score: dict[str, Any] | None) -> str:
    """0.512 [0.480, 0.544]; no minus before 0.000."""
    if score is None:
        return ""
    value, *limits = (f"{round(x, 3) + 0.0:.3f}" for x in (score["value"], *(score["ci"] or [])))
    return f"{value} [{', '.join(limits)}]" if limits else value
