"""What surrounds the work of a command: its workspace, interruption, exit codes.

Exit codes: 0 done; 1 a fault that the user can mend, said in one line; 2 a mistake in the command
line, likewise; 130 interrupted. Anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from synbrain_cli.cli.streams import safe_streams, write_out
from synbrain_cli.errors import SynbrainError
from synbrain_cli.text import is_text, one_line, shortened

if TYPE_CHECKING:
    from synbrain_cli.io.workspace import Workspace
    from synbrain_cli.progress import Progress
    from synbrain_cli.run import RunContext

# Base of all mistakes in the command line; typer has no public name for it.
UsageError: Any = typer.BadParameter.__base__
# Commands whose work several processes share under `accelerate launch`.
DISTRIBUTED = ("prepare", "train", "synthesize")
# What to do about what the system refuses.
REMEDIES = {
    **dict.fromkeys(
        (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS),
        "free some space or choose a folder you may write to, then run the command again",
    ),
    **dict.fromkeys(
        (errno.EMFILE, errno.ENFILE),
        "allow more open files (`ulimit -n 1024`), then run the command again",
    ),
    errno.ENOENT: "it was removed or renamed while the command ran: run it again",
    errno.ENOMEM: "close other programs, or use a machine with more memory",
    **dict.fromkeys((errno.ENAMETOOLONG, errno.ELOOP), "choose another name"),
}


def open_workspace(folder: Path, quiet: bool) -> tuple[Workspace, Progress]:
    """Workspace in a folder, and the logger of a command's progress.

    Raises
    ------
    MissingError, InputError
        When there is no such folder, or it cannot be read.
    """
    from synbrain_cli.errors import MissingError
    from synbrain_cli.io.workspace import Workspace
    from synbrain_cli.paths import require_folder
    from synbrain_cli.progress import Progress

    try:
        require_folder(folder, "the folder of a workspace")
    except MissingError as error:
        raise MissingError(f"--workspace {folder}: no such folder: make it first") from error
    return Workspace(folder.resolve()), Progress(quiet)


def open_run(
    folder: Path, quiet: bool, seed: int = 0, device: str = "cpu", *, distributed: bool = False
) -> tuple[Workspace, RunContext]:
    """Workspace in a folder, and what the command's work is computed with.

    Parameters
    ----------
    folder, quiet
        As in `open_workspace`.
    seed : int
    device : str
        As in `synbrain_cli.run.RunContext.create`.
    distributed : bool
        Join the processes that were launched together (commands of `DISTRIBUTED`).

    Raises
    ------
    MissingError, InputError
        No such folder; a device that does not exist here.
    """
    from synbrain_cli.distributed import SINGLE_PROCESS, Processes
    from synbrain_cli.run import RunContext

    processes = Processes.assemble(device) if distributed else SINGLE_PROCESS
    workspace, progress = open_workspace(folder, quiet or not processes.is_main)
    return workspace, RunContext.create(
        seed, device, processes=processes, progress=progress, command=typed(sys.argv[1:])
    )


def typed(arguments: Sequence[str]) -> str:
    """Return the command line that was typed, to be kept with its results and printed in reports.

    Of an absolute path only its last name is kept: folders above it may hold private names.
    """
    words = []
    for argument in arguments:
        option, equals, value = (
            argument.rpartition("=") if argument[:1] == "-" else ("", "", argument)
        )
        name = Path(value).name if Path(value).is_absolute() else value
        words.append(f"{option}{equals}{name}")
    return shlex.join(["synbrain", *words])


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Say after Ctrl-C that the same command goes on where it stopped, and exit with 130."""
    try:
        yield
    except KeyboardInterrupt:
        stop("interrupted: the same command goes on where it stopped", 130)


def run(app: Callable[[], int | None]) -> None:
    """Run the program: one line on stderr and exit 1 for a fault the user can mend.

    Parameters
    ----------
    app : callable
        The program; it returns its exit code, and leaves its errors to this function.
    """
    if sys.prefix != sys.base_prefix:
        # Matplotlib would keep its font list in the home folder, and settings found there would
        # change our figures.
        os.environ.setdefault("MPLCONFIGDIR", str(Path(sys.prefix) / "cache" / "matplotlib"))
    os.environ["MPLBACKEND"] = "Agg"  # no display is needed, whatever the user set up
    with safe_streams():
        _run(app)


def _run(app: Callable[[], int | None]) -> None:
    command = next(iter(sys.argv[1:]), "")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and command not in DISTRIBUTED:
        if _rank() > 0:
            return
        print(f"synbrain: {command} runs in one process only", file=sys.stderr)
        os.environ["WORLD_SIZE"] = "1"
    try:
        _require_text(sys.argv[1:])
        code = _call(app)
        write_out()
    except SynbrainError as error:
        stop((_refused(error.__cause__) if _is_short_of(error.__cause__) else None) or str(error))
    except typer.Abort:
        stop("nothing was chosen: stopped")
    except BrokenPipeError:  # the reader has what it wants (`| head`)
        code = 1
    except (OSError, MemoryError, ImportError, RuntimeError) as error:
        refused = _refused(error)
        if refused is None:
            raise
        stop(refused)
    sys.exit(code)


def _call(app: Callable[[], int | None]) -> int:
    """Call the program; say a mistake in the command line in one line, and return its code."""
    try:
        return app() or 0
    except UsageError as error:
        if type(error).show is not UsageError.show:  # help, of a group without a command
            error.show()
            return error.exit_code
        command = error.ctx.command_path if error.ctx else "synbrain"
        stop(f"{error.format_message()} (`{command} --help` says more)", error.exit_code)


def _require_text(arguments: list[str]) -> None:
    """Stop at an argument that no record could hold: a file's name in another encoding."""
    for argument in arguments:
        if not is_text(argument):
            stop(
                f"{argument}: not text in {sys.getfilesystemencoding()}, this shell's encoding: "
                "rename what is escaped here, or choose a UTF-8 locale",
                2,
            )


def _is_short_of(cause: BaseException | None) -> bool:
    """Whether a file seems damaged because the system lacked memory or open files to read it."""
    limits = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
    return isinstance(cause, OSError) and cause.errno in limits


def _refused(error: BaseException | None) -> str | None:
    """Say what the system refused, and what to do; None where an exception is a bug.

    Nothing incomplete is left under a final name: every writer sees to that.
    """
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):  # torch's own
        return f"not enough memory: {REMEDIES[errno.ENOMEM]}"
    if isinstance(error, ImportError):  # of a library that could not be opened, say
        cause = error.__cause__ or error.__context__
        if cause is not None:
            return _refused(cause)
        reasons = {"Too many open files": errno.EMFILE, "map segment": errno.ENOMEM}
        known = next((number for text, number in reasons.items() if text in str(error)), None)
        return None if known is None else f"{error}: {REMEDIES[known]}"
    if not isinstance(error, OSError):
        return None
    file = f"{error.filename}: " if error.filename else ""
    reason = error.strerror or str(error) or type(error).__name__
    remedy = REMEDIES.get(error.errno or 0, "see that this file and its disk can be used")
    return f"{file}{reason}: {remedy}"


def stop(message: str, code: int = 1) -> NoReturn:
    """Print one line on stderr and exit."""
    program = f"synbrain, process {_rank()}" if _rank() else "synbrain"
    print(f"{program}: {shortened(one_line(' '.join(message.split())))}", file=sys.stderr)
    sys.exit(code)


def _rank() -> int:
    """Rank of this process among those launched together."""
    return int(os.environ.get("RANK", "0"))
