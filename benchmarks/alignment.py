"""How often does the alignment check find a wrong design, and how often does it doubt a right one?

Faults are injected into the designs of prepared subjects (`FAULTS`), of subsets of their sessions
and images, with and without noise added to the responses; `check_design` judges each. A fault
counts as harmful where a ridge regression that is trained with the faulty design predicts held-out
images worse, by more than two standard deviations of the same score over random halves of the
trials (the delete-half jackknife). One right design in four has 30 to 120 trials.

    python benchmarks/alignment.py designs WORKSPACE DATASET [DATASET …]
    python benchmarks/alignment.py cost
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from common import Timer, as_typed, measured, report, save
from real_size import Size, make
from scipy.stats import beta

from synbrain_cli.evaluation.alignment import (
    Recording,
    parts_of,
    predict_images,
    standardized_by_part,
)
from synbrain_cli.evaluation.alignment_candidates import exchanged, renumberings, shifted
from synbrain_cli.evaluation.alignment_check import DesignCheck, check_design
from synbrain_cli.evaluation.alignment_inputs import CheckInputs, load_inputs
from synbrain_cli.io.prepared import find_prepared
from synbrain_cli.io.workspace import Workspace

RUN = 62  # trials
NOISE = (0.0, 2.0, 4.0)  # SDs of noise added to components of SD 1
SMALL = 0.25  # share of right designs with few trials
SESSIONS = (1, 4)
HALVES = 24  # random halves of the trials
Generator = np.random.Generator


# -------------------------------------------------------------------------------------- designs


def subset(whole: CheckInputs, rng: Generator, share_small: float) -> tuple[CheckInputs, float]:
    """Some sessions (of one: stretches of trials), most images, and noise: a right design."""
    recording = whole.recording
    session = recording.session
    if len(recording.sessions) == 1:  # five sessions, in an order of trials of their own
        trials = rng.permutation(len(session))[: len(session) // 2]
        session = 1 + np.arange(len(trials)) * int(rng.integers(1, 6)) // len(trials)
    else:
        chosen = rng.choice(recording.sessions, int(rng.integers(1, 5)), replace=False)
        trials = np.flatnonzero(np.isin(session, chosen))
        session = session[trials]
    dropped = rng.choice(len(whole.images), len(whole.images) // 10, replace=False)
    kept = ~np.isin(whole.shown[trials], dropped)
    trials, session = trials[kept], np.asarray(session, np.int64)[kept]
    if rng.random() < share_small:
        n = int(rng.integers(30, 121))
        trials, session = trials[:n], session[:n]
    noise = rng.choice(NOISE)
    values = recording.responses[trials]
    values = values + noise * rng.standard_normal(values.shape).astype(np.float32)
    part = parts_of(session)
    inputs = CheckInputs(
        Recording(
            standardized_by_part(values, part), recording.features, session, part, recording.fold
        ),
        whole.shown[trials],
        whole.images,
        np.arange(len(trials)),
        {},
    )
    return inputs, float(noise)


def with_design(inputs: CheckInputs, shown: np.ndarray) -> CheckInputs:
    """Return the recording with another design."""
    return replace(inputs, shown=np.asarray(shown, np.int64))


def _one_run(inputs: CheckInputs, rng: Generator) -> CheckInputs:
    """One trial of a run was left out of the table: its later rows are moved by one."""
    shown = inputs.shown.copy()
    start, stop = _run(inputs, rng)
    at = start + int(rng.integers(0, (stop - start) // 2))
    shown[at:stop] = np.roll(shown[at:stop], -1 if rng.random() < 0.5 else 1)
    return with_design(inputs, shown)


def _run(inputs: CheckInputs, rng: Generator) -> tuple[int, int]:
    trials = inputs.recording.trials_of(int(rng.choice(inputs.recording.sessions)))
    length = min(RUN, len(trials) // 3)
    start = int(trials[0]) + length * int(rng.integers(0, len(trials) // length))
    return start, start + length


def _moved(shown: np.ndarray, session: np.ndarray, by: int) -> np.ndarray:
    """Shift within sessions; the ends keep some image, as a table must name one."""
    out = shifted(shown, session, by)
    return np.where(out >= 0, out, shown)


def _all(inputs: CheckInputs, rng: Generator) -> CheckInputs:
    by = int(rng.choice([-1, 1]))
    return with_design(inputs, _moved(inputs.shown, inputs.recording.session, by))


def _one_session(inputs: CheckInputs, rng: Generator) -> CheckInputs:
    shown = inputs.shown.copy()
    trials = inputs.recording.trials_of(int(rng.choice(inputs.recording.sessions)))
    session = inputs.recording.session[trials]
    shown[trials] = _moved(shown[trials], session, int(rng.choice([-1, 1])))
    return with_design(inputs, shown)


def _exchanged(inputs: CheckInputs, rng: Generator) -> CheckInputs:
    one, other = rng.choice(inputs.recording.sessions, 2, replace=False)
    shown = exchanged(inputs.shown, inputs.recording.session, one, other)
    return with_design(inputs, np.where(shown >= 0, shown, inputs.shown))


def _renumbered(inputs: CheckInputs, rng: Generator) -> CheckInputs:
    step = list(renumberings(inputs.shown, inputs.images))[int(rng.integers(0, 2))][1]
    shown = step[inputs.shown]
    return with_design(inputs, np.where(shown >= 0, shown, inputs.shown))


def _wrong_subject(inputs: CheckInputs, rng: Generator) -> CheckInputs:
    """Another order of images; half of the time the subject it is of is in the workspace."""
    theirs = rng.permutation(len(inputs.images))[inputs.shown]
    theirs = theirs[rng.permutation(len(theirs))]
    known = {"02": inputs.shown} if rng.random() < 0.5 else {}
    return replace(inputs, shown=theirs, designs=known)


def _reversed(inputs: CheckInputs, rng: Generator) -> CheckInputs:
    shown = inputs.shown.copy()
    sessions = inputs.recording.sessions
    for one in sessions if rng.random() < 0.5 else [int(rng.choice(sessions))]:
        trials = inputs.recording.trials_of(one)
        shown[trials] = shown[trials[::-1]]
    return with_design(inputs, shown)


def _block(inputs: CheckInputs, rng: Generator) -> tuple[int, int, int]:
    """Two stretches of a session, one after the other, and their length."""
    trials = inputs.recording.trials_of(int(rng.choice(inputs.recording.sessions)))
    length = min(RUN, len(trials) // 3)
    start = int(trials[0]) + int(rng.integers(0, len(trials) - 2 * length + 1))
    return start, start + length, length


def _repeated_rows(inputs: CheckInputs, rng: Generator) -> CheckInputs:
    """Rows of the table were written over others."""
    shown = inputs.shown.copy()
    first, again, length = _block(inputs, rng)
    shown[again : again + length] = shown[first : first + length]
    return with_design(inputs, shown)


def _inserted_rows(inputs: CheckInputs, rng: Generator) -> CheckInputs:
    """Rows of the table were pasted twice: all later ones of the session are moved."""
    shown = inputs.shown.copy()
    _, again, length = _block(inputs, rng)
    session = inputs.recording.session[again]
    stop = int(inputs.recording.trials_of(session)[-1]) + 1
    shown[again:stop] = inputs.shown[again - length : stop - length]
    return with_design(inputs, shown)


def _repeated_responses(inputs: CheckInputs, rng: Generator) -> CheckInputs:
    """Responses were written over others."""
    values, copies = inputs.recording.responses.copy(), inputs.copies.copy()
    first, again, length = _block(inputs, rng)
    values[again : again + length] = values[first : first + length]
    copies[again : again + length] = copies[first : first + length]
    values = standardized_by_part(values, inputs.recording.part)
    return replace(inputs, recording=replace(inputs.recording, responses=values), copies=copies)


@dataclass(frozen=True)
class Fault:
    """A kind of fault: how it is made, and what it needs."""

    make: Callable[[CheckInputs, Generator], CheckInputs]
    least_sessions: int = 1


FAULTS = {
    "one trial left out, in one run": Fault(_one_run),
    "shifted by a trial, one session": Fault(_one_session, 2),
    "shifted by a trial, everywhere": Fault(_all),
    "two sessions exchanged": Fault(_exchanged, 2),
    "images renumbered by one": Fault(_renumbered),
    "another subject's design": Fault(_wrong_subject),
    "order reversed": Fault(_reversed),
    "rows of the table overwritten by others": Fault(_repeated_rows),
    "rows of the table pasted twice": Fault(_inserted_rows),
    "responses overwritten by others": Fault(_repeated_responses),
}


# --------------------------------------------------------------------------------------- judging


def is_found(check: DesignCheck) -> bool:
    """Whether a user is told: the command stops, or a stretch is named."""
    return check.status in ("differs", "no signal") or bool(check.notes)


def held_out(inputs: CheckInputs, trained: CheckInputs, shown: np.ndarray) -> float:
    """Agreement of the true images' predictions, by a fit to the design (and responses) given."""
    known = shown >= 0
    recording = trained.recording
    predicted = predict_images(
        recording, recording.responses[known], recording.part[known], shown[known]
    )[recording.part, inputs.shown]
    own = inputs.recording.responses
    length = np.linalg.norm(own, axis=1) * np.linalg.norm(predicted, axis=1)
    return float(((own * predicted).sum(1) / np.maximum(length, 1e-9)).mean())


def harm(right: CheckInputs, wrong: CheckInputs, rng: Generator) -> float:
    """What a fault takes from held-out agreement, in SDs over random halves of the trials."""
    full = held_out(right, right, right.shown)
    halves = []
    for _ in range(HALVES):
        left = rng.random(len(right.shown)) < 0.5
        halves.append(held_out(right, right, np.where(left, -1, right.shown)))
    noise = float(np.std(halves, ddof=1))
    return (full - held_out(right, wrong, wrong.shown)) / max(noise, 1e-9)


def interval(k: int, n: int) -> list[float]:
    """95 % interval of a share (Clopper & Pearson 1934)."""
    if not n:
        return [0.0, 1.0]
    low = float(beta.ppf(0.025, k, n - k + 1)) if k else 0.0
    high = float(beta.ppf(0.975, k + 1, n - k)) if k < n else 1.0
    return [round(low, 3), round(high, 3)]


def designs(
    workspace: Workspace,
    datasets: list[str],
    n_each: int,
    n_clean: int,
    kinds: list[str],
    seed: int,
) -> dict[str, Any]:
    subjects = []
    for dataset in datasets:
        store = workspace.find_tokens(dataset, None, lambda text: None)
        own = [one for one in find_prepared(workspace.prepared) if one.dataset == dataset]
        subjects += [(one.label, load_inputs(one, store)) for one in own]
    weights = np.array(
        [1 / sum(b[0].split("/")[0] == a[0].split("/")[0] for b in subjects) for a in subjects]
    )
    weights /= weights.sum()
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for number, kind in enumerate(["none", *FAULTS]):
        if kinds and kind not in kinds:
            continue
        for k in range(n_clean if kind == "none" else n_each):
            rng = np.random.default_rng([number, k, seed])
            fault = FAULTS.get(kind)
            while True:
                label, whole = subjects[rng.choice(len(subjects), p=weights)]
                right, noise = subset(whole, rng, 0 if fault else SMALL)
                if fault is None or len(right.recording.sessions) >= fault.least_sessions:
                    break
            wrong = fault.make(right, rng) if fault else right
            with Timer() as timer:
                check = check_design(wrong)
            row = {
                "subject": label,
                "trials": len(right.shown),
                "sessions": len(right.recording.sessions),
                "noise": noise,
                "status": check.status,
                "found": is_found(check),
                "harm": round(harm(right, wrong, rng), 2) if fault else 0.0,
                "r": round(check.both.r, 3),
                "said": check.findings[0].text if check.findings else "; ".join(check.notes),
                "seconds": round(timer.seconds, 2),
            }
            rows[kind].append(row)
        table_row(kind, rows[kind])
    return {"seed": seed, "designs": rows}


def table_row(kind: str, rows: list[dict[str, Any]]) -> None:
    harmful = [row for row in rows if row["harm"] > 2]
    found = sum(row["found"] for row in rows)
    of_harmful = sum(row["found"] for row in harmful)
    low, high = interval(found, len(rows))
    print(
        f"{kind:42} {found:3} of {len(rows):3} [{low:.2f}, {high:.2f}]   harmful: "
        f"{of_harmful:3} of {len(harmful):3}",
        flush=True,
    )


# ----------------------------------------------------------------------------------------- cost


def cost() -> dict[str, Any]:
    """Seconds and memory of the check of subjects of NSD's number of voxels."""
    found = {}
    for n_sessions in SESSIONS:
        found[f"{n_sessions} sessions"] = measured(__file__, "step", n_sessions)
        print(n_sessions, found[f"{n_sessions} sessions"], flush=True)
    return {"size": {"trials a session": 750, "voxels": 15_724}, "cost": found}


def step(n_sessions: int) -> None:
    """Make a subject of random numbers, and check it."""
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), Size(n_sessions=n_sessions, n_dims=48))
        workspace = Workspace(Path(folder))
        subject = workspace.find_subject("1", None, lambda text: None)
        store = workspace.find_tokens(subject.dataset, None, lambda text: None)
        _ = subject.betas  # compared with its checksum, as training does anyway
        start = time.process_time()
        with Timer() as reading:
            inputs = load_inputs(subject, store)
        with Timer() as checking:
            check = check_design(inputs)
        report(
            reading.seconds + checking.seconds,
            reading=reading.seconds,
            checking=checking.seconds,
            processor_seconds=time.process_time() - start,
            status=check.status,
            r=check.both.r,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["designs", "cost", "step"])
    parser.add_argument("workspace", nargs="?", type=Path)
    parser.add_argument("datasets", nargs="*")
    parser.add_argument("--each", type=int, default=20, help="designs per kind of fault")
    parser.add_argument("--clean", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the designs")
    parser.add_argument("--kind", action="append", default=[], help="of fault, or none; all")
    arguments = parser.parse_args()
    if arguments.what == "step":
        step(int(str(arguments.workspace)))
        return
    if arguments.what == "cost":
        print(save("alignment_cost", as_typed(), cost()))
        return
    result = designs(
        Workspace(arguments.workspace),
        arguments.datasets,
        arguments.each,
        arguments.clean,
        arguments.kind,
        arguments.seed,
    )
    name = "alignment" + f"_seed-{arguments.seed}" * (arguments.seed > 0)
    print(save(name, as_typed(), result))


if __name__ == "__main__":
    main()
