"""Commands in processes of their own, killed at a chosen moment: tests of what survives.

`run` and `start` fork the process from a server that has imported what the commands need (the
standard library's forkserver): a start costs a tenth of a second, where the imports take five. A
process sends itself SIGKILL when it is about to give the Nth file or folder its final name: every
commit point can be hit, and what was being written then is lost, as when the power goes.

``python tests/killing.py N ARGUMENTS…`` does the same in a new interpreter, for launchers.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

# Imported once: what `prepare`, `train` and `synthesize` import, and what they load when needed.
PRELOADED = (
    *(f"synbrain_cli.pipeline.{command}" for command in ("prepare", "train", "synthesize")),
    *("synbrain_cli.cli", "torch._dynamo", "himalaya.kernel_ridge", "himalaya.ridge"),
    *("nilearn.surface", "sklearn.model_selection", "accelerate"),
)
PATIENCE = 240  # seconds that a command may take
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(list(PRELOADED))
_numbers = itertools.count()


@dataclass(frozen=True)
class Started:
    """A command under way, and the files that its output and errors go to."""

    process: BaseProcess
    command: list[str]
    output: Path
    error: Path

    def finish(self, timeout: float = PATIENCE) -> subprocess.CompletedProcess:
        """Wait for its end; what `subprocess.run` would return."""
        self.process.join(timeout)
        if self.process.is_alive():
            self.process.kill()
            raise subprocess.TimeoutExpired(self.command, timeout)
        texts = (self.output.read_text(), self.error.read_text())
        return subprocess.CompletedProcess(self.command, self.process.exitcode, *texts)


def start(folder, *arguments, kill_at: int = 0, short_rounds=False, environment=None) -> Started:
    """Start ``synbrain ARGUMENTS…``; its output is kept in ``folder``.

    It is killed when it gives its ``kill_at``-th file or folder a name (0: it is not).
    ``short_rounds``: what is written together is a known amount, whatever the cores.
    """
    command = list(map(str, arguments))
    number = next(_numbers)
    output, error = (Path(folder) / f"command-{number}.{name}" for name in ("out", "err"))
    process = _FORKS.Process(
        target=_forked, args=(command, kill_at, short_rounds, environment or {}, output, error)
    )
    process.start()
    return Started(process, command, output, error)


def run(folder, *arguments, **options) -> subprocess.CompletedProcess:
    """The same, to its end."""
    return start(folder, *arguments, **options).finish()


def _forked(
    command: list[str],
    kill_at: int,
    short_rounds: bool,
    environment: Mapping[str, str],
    output: Path,
    error: Path,
) -> None:
    for path, stream in ((output, 1), (error, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1) for stream in (1, 2))
    os.environ |= environment
    if short_rounds:
        import synbrain_cli.prefetch
        from synbrain_cli.pipeline import extract_tokens

        synbrain_cli.prefetch.THREADS = extract_tokens.BATCHES_PER_ROUND = 2
    main(kill_at, command)


def main(kill_at: int, arguments: list[str]) -> None:
    """Run a command in this process, with the tests' preset; kill it at its Nth commit point."""
    # A shell that starts the tests in the background makes them ignore SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    left = kill_at
    replace = os.replace

    def dying_replace(*paths, **options):
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(*paths, **options)

    os.replace = dying_replace
    pathlib.os.replace = dying_replace

    sys.path.insert(0, str(pathlib.Path(__file__).parent))
    from preset import TEST_PRESET

    from synbrain_cli import cli
    from synbrain_cli.config import PRESETS

    PRESETS["test"] = TEST_PRESET
    sys.argv = ["synbrain", *arguments]
    cli.main()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
