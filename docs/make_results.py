"""Write measured figures into README.md and the documentation: the demo's, and the ladders'.

Run as ``.venv/bin/python docs/make_results.py WORKSPACE`` on the workspace of `make demo` after
``synbrain evaluate --model`` of `MODELS` (sub-03_hours-1: ``synbrain adapt --hours 1``). It keeps
an excerpt of the scores in docs/results/demo.json, and rewrites what stands between
``<!-- results: NAME -->`` and ``<!-- end of results -->`` in `PAGES`. Without a workspace the pages
are rewritten from the excerpt. The tables of `LADDERS` are of the newest results of
``benchmarks/ladder.py``. ``tests/test_published_results.py`` compares the pages with both.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from synbrain_cli.cli.evaluation_screen import RELIABILITY

ROOT = Path(__file__).parents[1]
EXCERPT = Path(__file__).with_name("results") / "demo.json"
RESULTS = ROOT / "benchmarks/results"
LADDERS = {"ladder-v4": "v4"}  # block: dataset
PAGES = ("README.md", "docs/evaluation.md", "docs/adaptation.md")
FULL = {"sub-01": "subject 1", "sub-02": "subject 2"}
HOUR = "sub-03_hours-1"
MODELS = (*FULL, HOUR)
Scores = dict[str, Any]  # of one model: the content of its metrics.json
Row = list[str]

_BLOCK = re.compile(r"(<!-- results: ([\w-]+) -->)(.*?)(<!-- end of results -->)", re.DOTALL)
_PREDICTORS = ("network", "deep", "linear", "mean_pattern", "shuffled", "ceiling")
_RESPONSES = {
    "voxelwise_correlation": "r",
    "noise_normalised_r2": "r² / NC",
    "skill": "skill",
    "two_way_identification": "two-way",
    "n_way_identification": "top-1 of {n_candidates}",
    "rsa": "RSA",
    "cka": "CKA",
}
_DRAWS = {
    "coverage_50": "50 % intervals cover",
    "coverage_80": "80 %",
    "coverage_90": "90 %",
    "coverage_95": "95 %",
    "crps": "CRPS",
    "energy_score": "energy score",
    "variogram_score": "variogram score",
    "variance_ratio": "variance ratio",
    "variance_ratio_median_voxel": "– of the median voxel",
}
_SUMMARIES = {
    "region_means": "90 %, of region means",
    "region_differences": "– of their differences",
    "noise_components": "– of projections, most noise",
    "signal_components": "– of projections, most signal",
    "distances": "– of distances of trials",
}
_SHORT = {
    "coverage_50": "50 % intervals cover",
    "coverage_90": "90 % intervals cover",
    "coverage_90_region_means": "90 % intervals of region means cover",
    "variance_ratio": "variance, of the recorded",
    "crps": "CRPS (less is better)",
    "energy_score": "energy score (less is better)",
}

# ------------------------------------------------------------------------------- the excerpt


def excerpt(metrics: Scores) -> Scores:
    """The part of a metrics.json that is committed: all but regions, histograms and notes."""
    kept = ("model", "subject", "n_test_images", "n_test_trials", "n_voxels", "n_draws")
    draws = {k: v for k, v in metrics["draws"].items() if k != "latent_noise_factor"}
    histograms = draws["pit_histogram"]
    draws["pit_histogram"] = {k: histograms[k] for k in ("model", "latent_nf1") if k in histograms}
    for score, values in draws.items():
        if score not in ("coverage_90", "pit_histogram"):
            left_out = ("roi", "pit_histogram")
            draws[score] = {k: v for k, v in values.items() if k not in left_out}
    retrieval = {
        decoder: {k: v for k, v in values.items() if not k.endswith("_ci")}
        if isinstance(values, dict)
        else values
        for decoder, values in metrics["retrieval"].items()
    }
    found = {k: metrics[k] for k in kept}
    found |= {"overall": metrics["overall"], "draws": draws, "retrieval": retrieval}
    found |= {"likelihood": metrics["likelihood"]}
    return _rounded(found | {"provenance": metrics["provenance"]})


def _rounded(content: Any) -> Any:
    """Numbers to six digits: more than any page prints."""
    if isinstance(content, dict):
        return {k: _rounded(v) for k, v in content.items()}
    if isinstance(content, list):
        return [_rounded(v) for v in content]
    return round(content, 6) if isinstance(content, float) else content


def read_workspace(workspace: Path) -> dict[str, Scores]:
    """Excerpts of the evaluations of `MODELS` in a workspace."""
    found = {}
    for model in MODELS:
        file = workspace / f"outputs/{model}_evaluation/metrics.json"
        if not file.exists():
            sys.exit(f"{file} does not exist: run `synbrain evaluate --model {model}` there")
        found[model] = excerpt(json.loads(file.read_text("utf-8")))
    return found


# -------------------------------------------------------------------------------- the cells


def number(value: float | None, digits: int = 3) -> str:
    """A number as the pages print it: ``.389``, ``−.027``, ``0``, ``–`` where it is missing."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    return re.sub(r"^(-?)0\.", r"\1.", f"{value:.{digits}f}").replace("-", "−")


def with_interval(score: Scores, digits: int = 3) -> str:
    """The model's score, and its 95 % interval where there is one."""
    low, high = score.get("ci") or (None, None)
    limits = "" if low is None else f" ({number(low, digits)}–{number(high, digits)})"
    return number(score["model"], digits) + limits


def _digits(score: str) -> int:
    return 2 if score == "energy_score" else 3


def table(header: Row, rows: Iterable[Row]) -> str:
    """A Markdown table between line ends."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def nominal(score: str, values: Scores) -> str:
    """What a calibrated distribution scores."""
    return number(values["nominal"], 2) if "nominal" in values else "–"


def reliability(scores: Scores, of: str = "model") -> str:
    """Correlation, slope and median ratio of the ncsnr of draws, or of the recorded test trials."""
    return ", ".join(number(scores["draws"][key][of]) for key in RELIABILITY)


# ------------------------------------------------------------------------------- the blocks


def means(found: dict[str, Scores]) -> str:
    """README: correlation and skill of every model."""
    rows = []
    for model, who in {**FULL, HOUR: "one hour of subject 3"}.items():
        for score, label in (("voxelwise_correlation", "r"), ("skill", "skill")):
            values = found[model]["overall"][score]
            cells = [number(values.get(k)) for k in _PREDICTORS]
            rows.append([who if label == "r" else "", label, with_interval(values), *cells])
    return table(
        ["", "", "model", "network", "deep", "linear", "mean pattern", "shuffled", "ceiling"], rows
    )


def draws(found: dict[str, Scores]) -> str:
    """README: the draws of subject 1."""
    rows = []
    for score, label in _SHORT.items():
        values = found["sub-01"]["draws"][score]
        digits = _digits(score)
        columns = ("model", "linear", "mean_pattern", "latent_nf1")
        cells = [number(values.get(k), digits) for k in columns]
        rows.append([label, *cells, nominal(score, values)])
    return table(["", "draws", "linear+N", "mean+N", "latent, nf 1", "nominal"], rows)


def reliability_text(found: dict[str, Scores]) -> str:
    """README: how reliable draws are."""
    r, slope, ratio = reliability(found["sub-01"]).split(", ")
    again = reliability(found["sub-01"], "test_trials")
    return (
        f"over voxels, the ncsnr\n  computed from draws follows the recorded one with r {r}, slope "
        f"{slope} and median ratio {ratio}\n  (recorded test trials: {again})"
    )


def pattern_text(found: dict[str, Scores]) -> str:
    """README: what a constant scores by pattern correlation."""
    values = found["sub-01"]["overall"]["pattern_correlation"]
    constant, model = number(values["mean_pattern"]), number(values["model"])
    return f"The mean training pattern alone\n  scores {constant}, the model {model}."


def responses(found: dict[str, Scores]) -> str:
    """evaluation.md: every score of responses."""
    rows = []
    for model, who in FULL.items():
        for score, label in _RESPONSES.items():
            values = found[model]["overall"][score]
            cells = [number(values.get(k)) for k in _PREDICTORS]
            first = who if label == "r" else ""
            rows.append([first, label.format_map(values), with_interval(values), *cells])
    header = ["", "score", "model", "network", "deep", "linear", "mean pattern", "shuffled"]
    return table([*header, "ceiling"], rows)


def retrieval(found: dict[str, Scores]) -> str:
    """evaluation.md: top-1 retrieval."""
    rows = []
    columns = ("raw", "syn", "draw", "mean_pattern", "shuffled")
    for model, who in FULL.items():
        first = who
        for decoder in ("brainvae", "linear_decoder"):
            values = found[model]["retrieval"].get(decoder)
            if values is None:  # no published networks
                continue
            cells = [number(values[k]) for k in columns]
            rows.append([first, decoder.replace("_", " "), *cells])
            first = ""
    return table(
        ["", "decoder", "recorded", "predicted", "drawn", "mean pattern", "shuffled"], rows
    )


def all_draws(found: dict[str, Scores]) -> str:
    """evaluation.md: every score of draws."""
    columns = ("linear", "mean_pattern", "latent_nf1", "latent_best", "shuffled")
    rows = []
    for model, who in FULL.items():
        scores = found[model]["draws"]
        first = who
        for score, label in _DRAWS.items():
            values = scores[score]
            digits = 3
            cells = [number(values.get(k), digits) for k in columns]
            rows.append([first, label, with_interval(values), *cells, nominal(score, values)])
            first = ""
        regions = [v for v in scores["coverage_90"]["roi"].values() if v is not None]
        span = f"{number(min(regions))} to {number(max(regions))}"
        rows.append(["", "90 %, by region", span, *[""] * len(columns), ".90"])
        for kind, label in _SUMMARIES.items():
            summary = scores[f"coverage_90_{kind}"]
            cells = [number(summary.get(k)) for k in columns]
            rows.append(["", label, with_interval(summary), *cells, ".90"])
        rows.append(_reliability_row(found[model], len(columns)))
        noise = scores["noise_correlation"]
        rows.append(
            [
                *("", "noise correlations: r", number(noise["model"])),
                *[""] * len(columns),
                number(noise["ceiling"]),
            ]
        )
    header = ["", "score", "draws", "linear+N", "mean+N", "latent nf 1", "best nf", "shuffled"]
    return table([*header, "reference"], rows)


def _reliability_row(scores: Scores, n_empty: int) -> Row:
    label = f"ncsnr: {', '.join(RELIABILITY.values())}"
    return [
        "", label, reliability(scores), *[""] * n_empty, reliability(scores, "test_trials")
    ]  # fmt: skip


def ranks(found: dict[str, Scores]) -> str:
    """evaluation.md: the histogram of ranks of subject 1."""
    histograms = found["sub-01"]["draws"]["pit_histogram"]
    bins, latent = histograms["model"], histograms["latent_nf1"]
    outer = 100 * (latent[0] + latent[-1]) / len(latent)
    return (
        f"{number(min(bins), 2)} to {number(max(bins), 2)} of uniform in\n{len(bins)} bins. With "
        f"the paper's sampling and nf = 1, {outer:.0f} % of the trials are in the two outer bins,\n"
        "where 10 % belong"
    )


def region_means(found: dict[str, Scores]) -> str:
    """evaluation.md: coverage of region means."""
    covered = {m: found[m]["draws"]["coverage_90_region_means"]["model"] for m in MODELS}
    full = " and ".join(number(covered[model]) for model in FULL)
    return (
        f"{full} for subjects 1 and 2 where\n.90 is right ({number(covered[HOUR])} after one "
        "hour of subject 3: `synbrain adapt --hours 1`, then `synbrain evaluate`)"
    )


def gains(found: dict[str, Scores]) -> str:
    """evaluation.md: what is gained over the linear encoder with independent noise."""
    parts = []
    for model, who in FULL.items():
        scores = found[model]["draws"]
        listed = (
            f"{label} {' to '.join(number(v, 4) for v in scores[score]['gain_ci']['linear'])}"
            for score, label in (("energy_score", "energy score"), ("crps", "CRPS"))
        )
        parts.append(f"for {who}, {', '.join(listed)}")
    return "; ".join(parts)


def hour(found: dict[str, Scores]) -> str:
    """adaptation.md: the draws of a model of one hour."""
    scores = found[HOUR]["draws"]
    columns = ("linear", "mean_pattern")
    coverages = [scores[f"coverage_{level}"] for level in (50, 80, 90, 95)]
    rows = [
        [
            "50, 80, 90, 95 % intervals cover",
            *(", ".join(number(s.get(k)) for s in coverages) for k in ("model", *columns)),
            ".50, .80, .90, .95",
        ]
    ]
    for score in ("variance_ratio", "crps", "energy_score", "variogram_score"):
        values = scores[score]
        cells = [number(values[k]) for k in columns]
        rows.append([_DRAWS[score], with_interval(values), *cells, nominal(score, values)])
    _, label, ours, *_, reference = _reliability_row(found[HOUR], 0)
    rows.append([label, ours, "–", "–", reference])
    noise = scores["noise_correlation"]
    rows.append(
        ["noise correlations: r", number(noise["model"]), "–", "–", number(noise["ceiling"])]
    )
    return table(["", "draws", "linear+N", "mean+N", "reference"], rows)


def likelihood(found: dict[str, Scores]) -> str:
    """evaluation.md: bits of recorded trials, beside baselines and bounds."""
    rows = []
    for model, who in {**FULL, HOUR: "one hour of subject 3"}.items():
        scores = found[model]["likelihood"]
        for score, label in (
            ("given_image", "told the image: bits"),
            ("given_repeats", "and its other repeats: bits"),
            ("information_gain", "information gain"),
        ):
            values = scores[score]
            cells = [number(values.get(k)) for k in ("linear", "image_blind", "shuffled")]
            rows.append([who, label, with_interval(values), *cells])
            who = ""
    return table(["", "", "model", "linear+N", "image unknown", "shuffled"], rows)


def averages(found: dict[str, Scores]) -> str:
    """evaluation.md: coverage of averages over similar images, whose errors are shared or apart."""
    rows = []
    for model, who in {**FULL, HOUR: "one hour of subject 3"}.items():
        draws = found[model]["draws"]
        for score, label in (
            ("coverage_90_averages", "voxels"),
            ("coverage_90_region_averages", "region means"),
        ):
            values = draws[score]
            gain = " to ".join(number(limit) for limit in values["gain_ci"])
            rows.append([who, label, with_interval(values), number(values["apart"]), gain])
            who = ""
    header = ["", "averages of", "draws", "if images shared no errors", "difference, 95 % interval"]
    return table(header, rows)


BLOCKS: dict[str, Callable[[dict[str, Scores]], str]] = {
    "means": means,
    "draws": draws,
    "reliability": reliability_text,
    "pattern": pattern_text,
    "responses": responses,
    "retrieval": retrieval,
    "all-draws": all_draws,
    "ranks": ranks,
    "region-means": region_means,
    "gains": gains,
    "hour": hour,
    "likelihood": likelihood,
    "averages": averages,
}


def read_ladder(dataset: str) -> Scores:
    """The newest results of ``benchmarks/ladder.py`` on a dataset."""
    file = max(RESULTS.glob(f"*_ladder_{dataset}.json"))
    return json.loads(file.read_text("utf-8"))


def ladder(found: Scores) -> str:
    """evaluation.md: what each rung predicts, and how it differs from the linear encoder."""
    rows = []
    for label, values in found["subjects"].items():
        first = label.replace("sub-0", "subject ").split("/")[-1]
        for name, rung in values["rungs"].items():
            r, (low, high) = number(rung["r"]), (number(v) for v in rung["ci"])
            gap = [_signed(v) for v in (rung["difference"], *rung["difference_ci"])]
            difference = "–" if name == "linear encoder" else f"{gap[0]} ({gap[1]} to {gap[2]})"
            seconds = f"{rung['processor_seconds']:.0f}"
            rows.append([first, name, f"{r} ({low}–{high})", difference, seconds])
            first = ""
        rows.append(["", "ceiling", number(values["median_ceiling"]), "–", "–"])
    return table(["", "mean response", "r", "difference to the linear encoder", "CPU s"], rows)


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + number(value)


def filled(page: str, found: dict[str, Scores]) -> str:
    """A page with its blocks written anew."""

    def block(name: str) -> str:
        return ladder(read_ladder(LADDERS[name])) if name in LADDERS else BLOCKS[name](found)

    return _BLOCK.sub(lambda m: m[1] + block(m[2]) + m[4], page)


def blocks_of(page: str) -> list[str]:
    """Names of the blocks of a page."""
    return [match[2] for match in _BLOCK.finditer(page)]


if __name__ == "__main__":
    if sys.argv[1:]:
        scores = read_workspace(Path(sys.argv[1]))
        EXCERPT.parent.mkdir(exist_ok=True)
        EXCERPT.write_text(json.dumps(scores, indent=1, ensure_ascii=False) + "\n", "utf-8")
        print(EXCERPT)
    kept = json.loads(EXCERPT.read_text("utf-8"))
    for name in PAGES:
        page = ROOT / name
        page.write_text(filled(page.read_text("utf-8"), kept), "utf-8")
        print(page)
