"""Commands in processes of their own, killed at a chosen moment: tests of what survives.

`run` and `start` fork the process from a server that has imported what the commands need (the
standard library's forkserver): a start costs a tenth of a second, where the imports take five. A
process sends itself SIGKILL when it is about to give the Nth file or folder its final name, or
before its Nth change of names of any kind (`CHANGES`): every commit point can be hit, and what was
being written then is lost, as when the power goes.

``python tests/killing.py N ARGUMENTS…`` does the same in a new interpreter, for launchers.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pathlib
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

# Imported once: what `prepare`, `train` and `synthesize` import, and what they load when needed.
PRELOADED = (
    *(
        f"synbrain_cli.pipeline.{command}"
        for command in ("prepare", "train", "adapt", "synthesize", "evaluate", "report", "plot")
    ),
    *("synbrain_cli.cli", "torch._dynamo"),
    *("nilearn.surface", "sklearn.model_selection", "accelerate"),
)
PATIENCE = 240  # seconds that a command may take
# What gives a file or folder a name, or takes it away.
CHANGES = ("replace", "rename", "unlink", "remove", "rmdir", "mkdir", "link", "symlink")
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
    changes: Path

    def finish(self, timeout: float = PATIENCE) -> subprocess.CompletedProcess:
        """Wait for its end; what `subprocess.run` would return."""
        self.process.join(timeout)
        if self.process.is_alive():
            self.process.kill()
            raise subprocess.TimeoutExpired(self.command, timeout)
        texts = (self.output.read_text(), self.error.read_text())
        return subprocess.CompletedProcess(self.command, self.process.exitcode, *texts)


def start(
    folder,
    *arguments,
    kill_at: int = 0,
    changes: tuple[str, ...] = ("replace",),
    short_rounds=False,
    environment=None,
    limits: Mapping[int, int] | None = None,
) -> Started:
    """Start ``synbrain ARGUMENTS…``; its output is kept in ``folder``.

    It is killed when it gives its ``kill_at``-th file or folder a name (0: it is not), or before
    that change among ``changes``. ``short_rounds``: what is written together is a known amount,
    whatever the cores. ``limits``: of the `resource` module, such as the size of files.
    """
    command = list(map(str, arguments))
    number = next(_numbers)
    paths = [Path(folder) / f"command-{number}.{name}" for name in ("out", "err", "changes")]
    killing = (kill_at, changes, paths[2])
    process = _FORKS.Process(
        target=_forked,
        args=(command, killing, short_rounds, environment or {}, limits or {}, *paths[:2]),
    )
    process.start()
    return Started(process, command, *paths)


def count_changes(folder, *arguments, changes: tuple[str, ...] = CHANGES) -> int:
    """Run a command to its end, which must be a good one; the number of its changes of names."""
    started = start(folder, *arguments, changes=changes)
    done = started.finish()
    assert done.returncode == 0, done.stderr
    return int(started.changes.read_text())


def run(folder, *arguments, **options) -> subprocess.CompletedProcess:
    """The same, to its end."""
    return start(folder, *arguments, **options).finish()


def _forked(
    command: list[str],
    killing: tuple[int, tuple[str, ...], Path],
    short_rounds: bool,
    environment: Mapping[str, str],
    limits: Mapping[int, int],
    output: Path,
    error: Path,
) -> None:
    for path, stream in ((output, 1), (error, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1) for stream in (1, 2))
    os.environ |= environment
    for limit, value in limits.items():
        resource.setrlimit(limit, (value, resource.getrlimit(limit)[1]))
    if short_rounds:
        import synbrain_cli.prefetch
        from synbrain_cli.pipeline import extract_tokens

        synbrain_cli.prefetch.THREADS = extract_tokens.BATCHES_PER_ROUND = 2
    kill_at, changes, counted = killing
    count = die_before(kill_at, changes)
    try:
        main(command)
    finally:
        counted.write_text(str(count()))


def die_before(kill_at: int, changes: tuple[str, ...]) -> Callable[[], int]:
    """Kill this process before its Nth change; a function that tells how many there were."""
    n_changes = 0

    def dying(function):
        def call(*arguments, **options):
            nonlocal n_changes
            n_changes += 1
            if n_changes == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    for name in changes:
        setattr(os, name, dying(getattr(os, name)))
    if "rename" in changes:  # of two names in one step, by a system call of its own
        from synbrain_cli.io import replacing

        replacing.exchange = dying(replacing.exchange)
    return lambda: n_changes


def main(arguments: list[str]) -> None:
    """Run a command in this process, with the tests' preset."""
    # A shell that starts the tests in the background makes them ignore SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.path.insert(0, str(pathlib.Path(__file__).parent))
    import preset

    from synbrain_cli import cli

    preset.use()
    sys.argv = ["synbrain", *arguments]
    cli.main()


if __name__ == "__main__":
    die_before(int(sys.argv[1]), ("replace",))
    main(sys.argv[2:])
