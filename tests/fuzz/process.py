"""Commands in forked children of a process that has imported everything, watched and limited.

A child runs ``synbrain ARGUMENTS…`` in a workspace. An audit hook notes what it opens for writing,
renames or removes outside of it, connections and started programs. It may use so much processor
time and memory; one that sleeps without an end is ended, too.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import os
import pkgutil
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

IS_LINUX = sys.platform == "linux"
MEMORY = 6 << 30  # bytes of addresses that a command may add to those of the imports
FILE_SIZE = 1 << 30
ASLEEP = 8  # seconds without any work after which a sleeping process is taken to hang
PATIENCE = 20  # times the seconds of processor time that may pass on the clock
BUG = 70  # exit code of a traceback
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Events of the interpreter that change files, and which of their arguments are paths.
_CHANGES = {
    "os.rename": (0, 1),
    "os.remove": (0,),
    "os.rmdir": (0,),
    "os.mkdir": (0,),
    "os.link": (1,),
    "os.symlink": (1,),
    "os.truncate": (0,),
    "os.chmod": (0,),
    "os.utime": (0,),
}
_RUNS = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "os.fork", "pty.spawn")
_CONNECTS = ("socket.connect", "socket.getaddrinfo", "socket.bind")


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes
    ----------
    code : int
        Exit code; minus the signal's number; `BUG` for a traceback.
    output, error : str
    watched : tuple of str
        What it did outside its workspace, a line each.
    hung : str
        Why it was ended; empty if it ended by itself.
    seconds : float
        Of processor time.
    """

    code: int
    output: str
    error: str
    watched: tuple[str, ...]
    hung: str
    seconds: float


def import_everything() -> None:
    """All modules of the package, and what their functions import when they are called."""
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"
    os.environ["MPLBACKEND"] = "Agg"
    os.environ["HF_HUB_OFFLINE"] = "1"
    import synbrain_cli

    for module in pkgutil.walk_packages(synbrain_cli.__path__, "synbrain_cli."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in PRELOADED:
        importlib.import_module(name)
    import torch
    from PIL import Image

    torch.set_num_threads(1)
    Image.init()
    gc.collect()
    gc.freeze()  # what the children share is not touched


PRELOADED = (
    *(
        "matplotlib.pyplot",
        "matplotlib.backends.backend_agg",
        "nilearn.surface",
        "nilearn.datasets",
    ),
    *("sklearn.model_selection", "torch._dynamo"),
    *("h5py", "scipy.io", "scipy.spatial", "scipy.stats", "plotly.graph_objects", "accelerate"),
    *("nibabel.freesurfer.mghformat", "nibabel.gifti", "pandas", "open_clip", "boto3"),
)


# -------------------------------------------------------------------------------- the child


def _path_of(value, folder_descriptor) -> str | None:
    """Path of an argument of an audit event, which may be relative to an open folder."""
    if isinstance(value, int):
        return None
    path = Path(os.fsdecode(value))
    if folder_descriptor > 0 and not path.is_absolute():
        with contextlib.suppress(OSError):
            path = Path(f"/proc/self/fd/{folder_descriptor}").readlink() / path
    return str(path)


def _paths_changed(event: str, arguments: tuple) -> Iterator[str]:
    """Paths that an audit event writes, moves or removes."""
    if event == "open":
        path, _, flags = arguments
        if isinstance(flags, int) and flags & _WRITES and path != os.devnull:
            yield from filter(None, [_path_of(path, -1)])
    elif event in _CHANGES:
        descriptor = next((a for a in arguments[1:] if isinstance(a, int) and a > 2), -1)
        for place in _CHANGES[event]:
            path = _path_of(arguments[place], descriptor)
            if path is not None and not (event == "os.mkdir" and Path(path).is_dir()):
                yield path


def _watch(inside: Sequence[str], record: int) -> None:
    """Note what happens outside folders on a file descriptor, from now on."""

    def note(text: str) -> None:
        os.write(record, text.encode("utf-8", "replace").replace(b"\n", b" ") + b"\n")

    def is_inside(place: str) -> bool:
        return any(place == i or place.startswith(i + os.sep) for i in inside)

    def hook(event: str, arguments: tuple) -> None:
        for path in _paths_changed(event, arguments):
            # What a link names is written; the link itself is renamed or removed.
            places = [os.path.realpath(Path(path).absolute().parent)]
            if event == "open":
                places.append(os.path.realpath(path))
            if not all(map(is_inside, places)):
                note(f"{event} {path}")
                if any(place.startswith("/dev") for place in places):  # every program needs it
                    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), path)
        if event in _RUNS or event in _CONNECTS:
            note(f"{event} {arguments[:2]!r}"[:200])

    sys.addaudithook(hook)


def _limit(seconds: float) -> None:
    whole = max(1, round(seconds))
    resource.setrlimit(resource.RLIMIT_CPU, (whole, whole + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_SIZE, FILE_SIZE))
    if IS_LINUX:  # elsewhere addresses cannot be limited
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _exit_code(work: Callable[[], object]) -> int:
    try:
        work()
    except SystemExit as stopped:
        return stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
    except BaseException:
        traceback.print_exc()
        return BUG
    return 0


def _child(work: Callable[[], object], folder: Path, records: Path, seconds: float) -> int:
    os.setsid()
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    descriptors = [
        os.open(records / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        for name in ("output", "error", "watched")
    ]
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, stream in ((nothing, 0), (descriptors[0], 1), (descriptors[1], 2)):
        os.dup2(descriptor, stream)
    sys.stdin = os.fdopen(0)
    sys.stdout, sys.stderr = (
        os.fdopen(stream, "w", encoding="utf-8", buffering=1) for stream in (1, 2)
    )
    temporary = records / "tmp"
    temporary.mkdir(exist_ok=True)
    os.environ["TMPDIR"] = str(temporary)
    import tempfile

    tempfile.tempdir = None
    os.chdir(folder)
    _limit(seconds)
    _watch([os.path.realpath(p) for p in (folder, temporary, _caches())], descriptors[2])
    code = _exit_code(work)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    return code


def _caches() -> str:
    return os.environ.setdefault("MPLCONFIGDIR", "/nonexistent")


# ------------------------------------------------------------------------------- the parent


@dataclass
class Child:
    """A child under way."""

    pid: int
    records: Path
    seconds: float
    started: float
    worked: float = -1.0  # processor time when it was last looked at
    since: float = 0.0  # when that was

    def poll(self) -> Ended | None:
        """How it ended; None while it works. A child that hangs is ended."""
        pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        hung = ""
        if not pid:
            hung = self._why_hung()
            if not hung:
                return None
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            _, status, usage = os.wait4(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if code in (-signal.SIGXCPU, -signal.SIGKILL) and not hung:
            hung = f"more than {self.seconds:.0f} s of processor time"

        def text(name: str) -> str:
            return (self.records / name).read_bytes().decode("utf-8", "backslashreplace")

        watched = tuple(dict.fromkeys(text("watched").splitlines()))
        used = usage.ru_utime + usage.ru_stime
        return Ended(code, text("output"), text("error"), watched, hung, used)

    def _why_hung(self) -> str:
        now = time.monotonic()
        if now - self.started > self.seconds * PATIENCE:
            return f"more than {self.seconds * PATIENCE:.0f} s"
        if not IS_LINUX or now - self.since < 0.5:
            return ""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return ""
        worked = sum(map(int, fields[11:13]))
        if fields[0] != "S" or worked != self.worked:
            self.worked, self.since, self._asleep = worked, now, now
            return ""
        return "waits for ever" if now - self._asleep > ASLEEP else ""

    _asleep: float = 0.0


def start(work: Callable[[], object], folder: Path, records: Path, seconds: float) -> Child:
    """Fork a child that works in a folder; what it says is kept in ``records``."""
    records.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    for name in ("output", "error", "watched"):  # the child may end before it opens them
        (records / name).touch()
    pid = os.fork()
    if pid == 0:
        code = BUG
        try:
            code = _child(work, folder, records, seconds)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return Child(pid, records, seconds, time.monotonic())


def run(work: Callable[[], object], folder: Path, records: Path, seconds: float = 600) -> Ended:
    """The same, to its end."""
    child = start(work, folder, records, seconds)
    while (ended := child.poll()) is None:
        time.sleep(0.005)
    return ended


def command(arguments: Sequence[str]) -> Callable[[], None]:
    """Function that runs ``synbrain ARGUMENTS…`` in this process, with the tests' preset."""

    def work() -> None:
        import preset

        from synbrain_cli import cli
        from synbrain_cli.plotting.report import page

        preset.use()
        page.figure_png.__defaults__ = (10,)  # most of a report's time goes into pixels
        sys.argv = ["synbrain", *arguments]
        cli.main()

    return work


@contextlib.contextmanager
def dying(at: int) -> Iterator[None]:
    """Kill this process when it gives the ``at``-th file or folder its name."""
    import pathlib

    left, replace = at, os.replace

    def dying_replace(*paths, **options):
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(*paths, **options)

    os.replace = pathlib.os.replace = dying_replace
    try:
        yield
    finally:
        print(at - left, file=sys.stderr)
        os.replace = pathlib.os.replace = replace
