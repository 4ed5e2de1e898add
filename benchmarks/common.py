"""What every benchmark shares: a child process measured, and the dated record."""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synbrain_cli.io.files import versions

if TYPE_CHECKING:
    from synbrain_cli.brain import Brain
    from synbrain_cli.evaluation.predictions import Predictions
    from synbrain_cli.evaluation.test_set import TestSet
    from synbrain_cli.io.prepared import PreparedSubject
    from synbrain_cli.io.token_store import TokenStore
    from synbrain_cli.io.workspace import Workspace

RESULTS = Path(__file__).parent / "results"


def measured(script: str, *arguments: object) -> dict[str, float]:
    """Run a benchmark's own step in a fresh process: its seconds and peak memory.

    The step prints one JSON object with ``seconds`` of the work alone (imports left out); peak
    memory is the whole process's.
    """
    command = [sys.executable, script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def report(seconds: float, **more: Any) -> None:
    """Print what `measured` reads."""
    print(json.dumps({"seconds": seconds, "peak_megabytes": peak_memory() / 1e6, **more}))


def peak_memory() -> int:
    """Most bytes this process had in memory.

    Linux's ``ru_maxrss`` counts what the parent had when it started this one, ``VmHWM`` does not.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Timer:
    """``with Timer() as timer: …; timer.seconds``."""

    def __enter__(self) -> Timer:
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start


def of_model(workspace: Workspace, name: str) -> tuple[Brain, PreparedSubject, TokenStore]:
    """Load a model of a workspace, with the subject and the tokens that it was trained on."""
    from synbrain_cli.brain import load_model  # torch counts in the memory of a process

    brain = load_model(workspace.find_model(name, None, print), "cpu")
    subject = workspace.find_subject(brain.subject, brain.config.dataset, print)
    bands = [band.spec for band in brain.config.bands]
    return brain, subject, workspace.find_tokens(subject.dataset, bands, print)


def tested(
    workspace: Path, name: str
) -> tuple[Brain, PreparedSubject, TokenStore, TestSet, Predictions]:
    """Load a model of a workspace, and predict the test images of its subject."""
    from synbrain_cli.evaluation.predictions import Predictions
    from synbrain_cli.evaluation.test_set import TestSet
    from synbrain_cli.io.workspace import Workspace
    from synbrain_cli.progress import Progress
    from synbrain_cli.run import RunContext

    brain, subject, store = of_model(Workspace(workspace), name)
    test = TestSet.load(subject, store, [brain])
    predictions = Predictions.of(brain, test, RunContext(progress=Progress(quiet=True)))
    return brain, subject, store, test, predictions


def machine() -> dict[str, Any]:
    """Processor, cores this process may use, system."""
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip()
            for line in info.read_text().splitlines()
            if line.startswith("model name")
        ]
        model = names[0] if names else model
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def as_typed() -> str:
    """Return the command that started this process; folders of this machine are called FOLDER."""
    words = [re.sub(r"^(--[\w-]+=)?[/~].*", r"\1FOLDER", word) for word in sys.argv[1:]]
    return " ".join([f"python benchmarks/{Path(sys.argv[0]).name}", *words])


def save(name: str, command: str, result: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Write ``results/<date>_<name>.json``."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{date.today().isoformat()}_{name}.json"
    content = {"command": command, "machine": machine(), "versions": versions(), **result}
    path.write_text(json.dumps(content, indent=2) + "\n")
    return path
