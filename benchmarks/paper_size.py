"""What do training and synthesis cost at the published size, ours and the plain published recipe?

    python benchmarks/paper_size.py [--device auto|cpu|cuda] [--batch 24] [--only vae,s2n,…]

Ours (`synbrain_cli`) against `published_recipe.py` (eager float32), on one device, from the same
random weights and batches: a training step of BrainVAE and of the mapper, image tokens of
ViT-bigG-14, draws from images. The versions take turns, each run in a process of its own
(`paper_size_steps.py`), and all of them twice, which shows how far times can be trusted. For each:
median seconds in steady state, achieved operations per second and their share of what a large
matrix product reaches here, peak memory, and the error of loss, gradient and output against the
recipe's in strict float32. Then time and memory over batch sizes and numbers of voxels; on a GPU,
attention and convolution kernels at the networks' shapes; and, from the steps, the projected time
of the published schedule.

What does not fit in memory is recorded as that: where it is a version of a comparison, the batch is
halved for all. The JSON is written anew after every part. ``--quick`` tries the script itself, with
small networks: its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import torch
from common import RESULTS, as_typed, measured, save
from flops import gigaflops
from paper_size_steps import PAPER, PUBLISHED, QUICK, Run, know_encoder

from synbrain_cli.run import resolve_device

PARTS = ("vae", "s2n", "tokens", "synthesis", "batches", "voxels", "attention", "convolution")
KERNELS = PARTS[-2:]  # of a GPU, unless asked for
EPOCHS, N_TRIALS, MAPPER_STEPS, BATCH = 15, 27_000, 50_000, 24  # the published schedule
KEPT = {
    "processor_seconds": statistics.median,
    "peak_megabytes": max,
    "peak_gpu_gigabytes": max,
    "reserved_gpu_gigabytes": max,
}
STEPS = Path(__file__).with_name("paper_size_steps.py")
Found = dict[str, Any]


def main() -> None:
    arguments = parse()
    device = str(resolve_device(arguments.device))
    size = QUICK if arguments.quick else PUBLISHED
    parts = arguments.only or [p for p in PARTS if device != "cpu" or p not in KERNELS]
    name = "_".join(["paper_size", *["quick"] * arguments.quick, *arguments.only])
    with tempfile.TemporaryDirectory() as root:
        run = Run(
            "make",
            root,
            device,
            arguments.quick,
            micro_batch=arguments.micro_batch,
            repeats=arguments.repeats,
        )
        needed = arguments.quick or {"tokens", "synthesis"} & set(parts)
        encoder = size.encoder if needed else None
        made = measure(replace(run, version="with encoder" if encoder else ""))
        if "seconds" not in made:
            raise SystemExit(f"the random weights could not be made: {made}")
        if encoder:
            know_encoder(run)
        result: Found = {
            "device": describe(device),
            "settings": {k: v for k, v in vars(arguments).items() if k != "results"},
            "size": msgspec.to_builtins(size),
            "gigaflops_an_item": gigaflops(size.vae, size.mapper, size.n_voxels, encoder),
            "peaks": measure(replace(run, what="peaks")),
        }
        for part in parts:
            result |= measure_part(part, run, arguments, result)
            path = save(
                name,
                as_typed(),
                result,
                arguments.results,
            )
    print(table(result))
    print(path)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--vae-batch", type=int, help="of BrainVAE's steps; default: --batch")
    parser.add_argument("--micro-batch", type=int, help="of ours, to save memory; default: none")
    parser.add_argument("--images", type=int, help="at a time; default: 24 on a GPU, 1 elsewhere")
    parser.add_argument("--only", help=f"some of {','.join(PARTS)}")
    parser.add_argument("--batches", help="of that sweep, as 1,2,4; default: 1 to 48")
    parser.add_argument("--voxels", help="of that sweep; default: 1196 to 30000")
    parser.add_argument("--rounds", type=int, default=2, help="times that each version is run")
    parser.add_argument(
        "--repeats", type=int, default=1, help="of a run; on a GPU 5 × 4 steps each"
    )
    parser.add_argument("--quick", action="store_true", help="small networks: try the script")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON")
    arguments = parser.parse_args()
    arguments.only = arguments.only.split(",") if arguments.only else []
    if unknown := set(arguments.only) - set(PARTS):
        parser.error(f"--only: expected some of {','.join(PARTS)}, found {','.join(unknown)}")
    return arguments


def describe(device: str) -> Found:
    memory = psutil.virtual_memory()
    found: Found = {
        "kind": device,
        "threads": torch.get_num_threads(),
        "load_before": os.getloadavg()[0],
        "memory_gigabytes": memory.total / 1e9,
        "memory_available_gigabytes": memory.available / 1e9,
    }
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "name": properties.name,
            "gpu_memory_gigabytes": properties.total_memory / 1e9,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "tf32_in_convolutions": torch.backends.cudnn.allow_tf32,  # torch's default, so theirs
        }
    return found


def measure(run: Run) -> Found:
    """One measurement in a process of its own; a failure is recorded, and ends nothing else."""
    try:
        return measured(str(STEPS), json.dumps(asdict(run)))
    except SystemExit as error:
        return {"failed": str(error)[-2000:]}


# --- The parts --------------------------------------------------------------------------------


def measure_part(part: str, run: Run, arguments: argparse.Namespace, result: Found) -> Found:
    cuda = run.device.startswith("cuda")
    work, peak = result["gigaflops_an_item"], fastest(result["peaks"])
    run = replace(run, what=part)
    # On a GPU ours is compiled bf16: what either brings is told apart.
    ours = ["ours", "ours/bf16", "ours/float32"] if cuda else ["ours"]
    if part in ("vae", "s2n"):
        run = replace(run, batch=arguments.batch)
        if part == "vae" and arguments.vae_batch:
            run = replace(run, batch=arguments.vae_batch)
        each = {"recipe": work[f"{part}/recipe"]} | dict.fromkeys(ours, work[f"{part}/ours"])
        if part == "s2n":
            extra = work["s2n/response"] - work["s2n/ours"]  # to decode one, of every so many
            each["ours/response"] = work["s2n/ours"] + extra / PAPER.loss.response_every
        found = compare(run, each, arguments.rounds, peak)
        if part == "s2n":
            few = replace(run, what="targets", version="ours", batch=found["batch"])
            found["targets"] = measure(few) | {"batch": few.batch}
        return {part: found} | schedule(result | {part: found})
    if part in ("tokens", "synthesis"):
        run = replace(run, batch=arguments.images or (BATCH if cuda else 1))
        if part == "synthesis":
            return {part: draws(run, work, peak)}
        each = dict.fromkeys(("recipe", "ours"), work[part])
        return {part: compare(run, each, arguments.rounds, peak)}
    if part == "batches":
        asked = arguments.batches and map(int, arguments.batches.split(","))
        return {part: sweep([replace(run, batch=n) for n in asked or result["size"]["batches"]])}
    if part == "voxels":
        run = replace(run, batch=8 if cuda else 1)
        asked = arguments.voxels and map(int, arguments.voxels.split(","))
        return {part: sweep([replace(run, n_voxels=n) for n in asked or result["size"]["voxels"]])}
    return {part: measure(replace(run, batch=BATCH if cuda else 1))}


def compare(run: Run, work: dict[str, float], rounds: int, peak: float) -> Found:
    """Versions in turn, at the largest batch that fits for all; ``work``: GFLOP of an item."""
    runs: dict[str, list[Found]] = {name: [] for name in work}
    for k in range(rounds):
        for name in work:
            found = measure(replace(run, version=name, keep=k == 0))
            if "out_of_memory" in found and run.batch > 1:
                smaller = compare(replace(run, batch=run.batch // 2), work, rounds, peak)
                too_large = {"batch": run.batch, "version": name, **found}
                return {**smaller, "too_large": [too_large, *smaller["too_large"]]}
            runs[name].append(found)
    summary = {
        name: summarise(some, run.batch * work[name], peak)
        | {"relative_error": errors(run, name), "runs": some}
        for name, some in runs.items()
    }
    return {"batch": run.batch, "versions": summary, "too_large": [], **ratios(summary)}


def summarise(runs: list[Found], work: float, peak: float) -> Found:
    """Median seconds of the rounds, how far they differ, the rate of ``work`` GFLOP, memory."""
    good = [found for found in runs if "seconds" in found]
    if not good:
        return {}
    rounds = [found["seconds"] for found in good]
    seconds = statistics.median(rounds)
    rate = work / seconds / 1e3
    return {
        "seconds": seconds,
        "spread": (max(rounds) - min(rounds)) / seconds if len(rounds) > 1 else None,
        "teraflops": rate,
        "share_of_peak": rate / peak,
        **{
            key: of(found[key] for found in good)
            for key, of in KEPT.items()
            if all(key in found for found in good)
        },
    }


def ratios(summary: Found) -> Found:
    theirs = summary.get("recipe", {}).get("seconds")
    return {
        "times_as_fast": {
            name: theirs / found["seconds"]
            for name, found in summary.items()
            if theirs and name != "recipe" and "seconds" in found
        }
    }


def errors(run: Run, name: str) -> Found:
    """‖ours − recipe‖ / ‖recipe‖ of what `paper_size_steps.keep` kept."""
    files = [
        Path(run.root) / f"{run.what}_{version.replace('/', '_')}.npz"
        for version in ("recipe", name)
    ]
    if name == "recipe" or not all(file.exists() for file in files):
        return {}
    with np.load(files[0]) as theirs, np.load(files[1]) as ours:
        return {
            key: float(np.linalg.norm(ours[key] - theirs[key]) / np.linalg.norm(theirs[key]))
            for key in theirs.files
        }


def draws(run: Run, work: Found, peak: float) -> Found:
    """Images → 1 and 8 draws; decoded each from its own latent, or calibrated around one mean."""
    once, decode = work["tokens"] + work["map"], work["decode"]
    found: Found = {"images": run.batch}
    for n in (1, 8):
        named = replace(run, n_draws=n)
        summary = {}
        for name in ("recipe", "ours", "ours/calibrated"):
            decoded = 1 if name == "ours/calibrated" else n
            some = [measure(replace(named, version=name, keep=n == 1))]
            summary[name] = summarise(some, run.batch * (once + decoded * decode), peak)
            summary[name] |= {"relative_error": errors(run, name), "runs": some}
        found[f"{n} draws"] = {"versions": summary, **ratios(summary)}
    eight, one = (found[f"{n} draws"]["versions"] for n in (8, 1))
    found["8 draws / 1"] = {
        name: eight[name]["seconds"] / one[name]["seconds"]
        for name in one
        if "seconds" in eight[name] and "seconds" in one[name]
    }
    return found


def sweep(runs: list[Run]) -> list[Found]:
    """Both training steps of both versions."""
    return [
        {
            "step": step,
            "version": version,
            "batch": run.batch,
            "n_voxels": run.n_voxels or run.size.n_voxels,
            **measure(replace(run, what=step, version=version)),
        }
        for step in ("vae", "s2n")
        for version in ("recipe", "ours")
        for run in runs
    ]


def schedule(result: Found) -> Found:
    """Minutes of 15 epochs of 27,000 trials, then 50,000 mapper steps, from seconds an item."""
    if not {"vae", "s2n"} <= set(result):
        return {}
    vae, s2n = result["vae"], result["s2n"]

    def minutes(found: Found, n_items: int) -> float | None:
        return n_items * found["seconds"] / found["batch"] / 60 if "seconds" in found else None

    found: Found = {}
    for name, step in (("recipe", "recipe"), ("ours", "ours"), ("ours/response", "ours")):
        parts = {
            "vae": minutes({"batch": vae["batch"], **vae["versions"][step]}, EPOCHS * N_TRIALS),
            "targets": 0.0 if name == "recipe" else minutes(s2n["targets"], N_TRIALS),
            "s2n": minutes({"batch": s2n["batch"], **s2n["versions"][name]}, MAPPER_STEPS * BATCH),
        }
        if None not in parts.values():
            found[name] = {**parts, "minutes": sum(parts.values())}
    return {"published_schedule": found}


def fastest(peaks: Found) -> float:
    """TFLOP/s of the fastest kind of matrix product."""
    return max((v for k, v in peaks.items() if k.endswith("_teraflops")), default=float("nan"))


# --- Table ------------------------------------------------------------------------------------


def table(result: Found) -> str:
    """What matters, in short; everything is in the JSON."""
    lines = [
        f"{key}: {value:.3g}"
        for key, value in result["peaks"].items()
        if "_per_second" in key or "_teraflops" in key
    ]
    sections = {
        f"{part}, batch {result[part]['batch']}": result[part]
        for part in PARTS[:3]
        if part in result
    }
    for n in (1, 8):
        if "synthesis" in result:
            sections[f"synthesis, {n} draws"] = result["synthesis"][f"{n} draws"]
    for title, found in sections.items():
        lines += ["", title]
        lines += [line(name, values, found) for name, values in found["versions"].items()]
    for name, found in result.get("published_schedule", {}).items():
        lines.append(f"published schedule, {name}: {found['minutes']:.4g} minutes")
    return "\n".join(lines)


def line(name: str, values: Found, found: Found) -> str:
    if "seconds" not in values:
        return f"  {name:16} {str(values['runs'][-1])[-300:]}"
    ratio, spread = found["times_as_fast"].get(name, 1.0), values["spread"]
    cells = (
        f"  {name:16} {values['seconds']:9.4g} s",
        f"{ratio:6.2f} ×",
        "run once" if spread is None else f"spread {100 * spread:.0f} %",
        f"{100 * values['share_of_peak']:.0f} % of the peak",
    )
    return "  ".join(cells)


if __name__ == "__main__":
    main()
