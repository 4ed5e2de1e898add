"""Objects of a bucket → the same files below a local folder, each of them whole or not there.

An object comes in pieces, several at a time, into a hidden file beside the final one; a record
beside that says which pieces are in, so that a download goes on where it was cut, stopped or
killed. A file takes its name when its checksum is the bucket's.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import hashlib
import os
import queue
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from synbrain_cli.datasets.s3 import CONNECTIONS, Bucket, RemoteFile, is_transient
from synbrain_cli.errors import InputError, SynbrainError
from synbrain_cli.io.files import read_json, write_json

PIECE = 16 << 20  # bytes of a request; each worker loses at most this much when it is stopped
RETRIES = 5  # in a row, of a piece that does not get on at all
BACKOFF = 1.0  # seconds before the first of them, twice as long before each that follows
RECORD_EVERY, TELL_EVERY = 1.0, 0.1  # seconds, at least, between two records and two progresses
STOPPING = 2.0  # seconds given to workers that wait for the network when the run ends early
# Megabytes of a multipart upload's parts, as the usual tools choose them
_PART_SIZES = (5, 8, 10, 15, 16, 25, 32, 50, 64, 100, 128, 256, 512, 1024)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _local_path(root: Path, key: str) -> Path:
    """Local path of an object, which is never outside ``root``."""
    parts = PurePosixPath(key).parts
    if not parts or ".." in parts or key.startswith("/") or key.endswith("/"):
        raise InputError(f"{key!r}: expected the name of a file in the bucket")
    return root.joinpath(*parts)


def _beside(path: Path) -> tuple[Path, Path]:
    """The unfinished file, and the record of what of it is there."""
    return path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.part.json")


def missing(files: Iterable[RemoteFile], root: Path) -> list[RemoteFile]:
    """Those that are not whole below ``root``: absent, or of another size than in the bucket."""
    paths = {file: _local_path(root, file.key) for file in files}
    return [f for f, path in paths.items() if not path.is_file() or path.stat().st_size != f.size]


def check_space(files: Iterable[RemoteFile], root: Path, extra: int = 0) -> None:
    """Check that the disk has room for what is left to download.

    Parameters
    ----------
    files : iterable of RemoteFile
        Those whole below ``root`` need nothing more; an unfinished one, what it does not hold.
    root : path
        Need not exist.
    extra : int
        Bytes that are needed there besides.

    Raises
    ------
    InputError
    """
    needed = extra
    for file in missing(files, root):
        part, _ = _beside(_local_path(root, file.key))
        # Blocks, not pieces: an unfinished file may have been given all its space at once.
        held = part.stat().st_blocks * 512 if part.exists() else 0
        needed += max(0, file.size - held)
    folder = next(f for f in (root.absolute(), *root.absolute().parents) if f.exists())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{root}: expected {needed / 1e9:.1f} GB of free space for what is left to download, "
            f"found {free / 1e9:.1f} GB: free some, take fewer sessions, or choose a folder on "
            "another disk"
        )


def fetch(
    bucket: Bucket,
    files: Iterable[RemoteFile],
    root: Path,
    *,
    workers: int = 8,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Download files to ``root/key``, in parallel, resuming, verified before they take their names.

    One process at a time: hold a lock on ``root``.

    Parameters
    ----------
    bucket : Bucket
    files : iterable of RemoteFile
        In the order in which they are wanted. Those whole below ``root`` are left alone.
    root : path
    workers : int
        Pieces downloaded at a time, of one file or of several.
    progress : callable
        Told bytes that are here and their number in the end, at most about ten times a second and
        at the end; one call at a time, from any thread. What an earlier run left counts.

    Raises
    ------
    InputError, MissingError, SynbrainError
        The connection is lost for good, the bucket refuses, an object is gone or has changed,
        the disk is full, or a checksum is wrong twice. What is here is kept for the next run.
    """
    stop = threading.Event()
    downloads = [_Download(bucket, file, root, stop) for file in missing(files, root)]
    if not downloads:
        return
    tally = _Tally(sum(d.kept for d in downloads), sum(d.file.size for d in downloads), progress)
    try:
        _run([task for d in downloads for task in d.tasks(tally)], workers, stop)
        spoiled = [d for d in downloads if not d.whole]
        for download in spoiled:
            tally.add(-download.file.size)
        _run([task for d in spoiled for task in d.tasks(tally)], workers, stop)
        for download in spoiled:
            if not download.whole:
                raise InputError(
                    f"{download.path}: expected the checksum {download.file.etag} (ETag in the "
                    f"bucket), found {download.found} in two downloads: check the disk and the "
                    "proxy, then run the same command again"
                )
    finally:
        for download in downloads:
            # The fault on its way out matters more than one met here.
            with contextlib.suppress(SynbrainError):
                download.save()
    tally.tell()


def _run(tasks: list[Callable[[], None]], workers: int, stop: threading.Event) -> None:
    """Run tasks in order, ``workers`` at a time; the first fault sets ``stop`` and is raised.

    The threads are daemons, unlike those of ThreadPoolExecutor, which Ctrl-C would have to wait
    for until a silent server's connection times out.
    """
    waiting = collections.deque(tasks)
    ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
    count = min(max(workers, 1), CONNECTIONS, len(tasks))
    threads = [
        threading.Thread(target=_work, args=(waiting, stop, ended), daemon=True)
        for _ in range(count)
    ]
    try:
        for thread in threads:
            thread.start()
        for _ in threads:
            error = ended.get()
            if error is not None:
                raise error
    except BaseException:
        stop.set()
        deadline = time.monotonic() + STOPPING
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
        raise


def _work(
    waiting: collections.deque[Callable[[], None]],
    stop: threading.Event,
    ended: queue.SimpleQueue[BaseException | None],
) -> None:
    """Do waiting tasks until none is left or ``stop`` is set; ``ended`` gets the fault, or None."""
    try:
        while not stop.is_set():
            try:
                task = waiting.popleft()
            except IndexError:
                break
            task()
        ended.put(None)
    except _Stopped:
        ended.put(None)
    except BaseException as error:
        ended.put(error)


class _Stopped(Exception):
    """Another worker's fault or the user has ended the run."""


class _Tally:
    """Bytes that are here, told to ``progress``."""

    def __init__(self, done: int, total: int, progress: Callable[[int, int], None]) -> None:
        self._done, self._total, self._progress = done, total, progress
        self._told = 0.0
        self._lock = threading.Lock()

    def add(self, n_bytes: int) -> None:
        with self._lock:
            self._done += n_bytes
            if time.monotonic() - self._told >= TELL_EVERY:
                self._told = time.monotonic()
                self._progress(self._done, self._total)

    def tell(self) -> None:
        with self._lock:
            self._progress(self._done, self._total)


class _Download:
    """One file on its way.

    Attributes
    ----------
    finished : set of int
        Pieces that are on disk.
    whole : bool
        Whether the file was verified and has its name.
    found : str
        Its checksum, where that is not the bucket's.
    """

    def __init__(self, bucket: Bucket, file: RemoteFile, root: Path, stop: threading.Event) -> None:
        self.bucket, self.file, self.stop = bucket, file, stop
        self.path = _local_path(root, file.key)
        self.part, self.record = _beside(self.path)
        self.whole, self.found = False, ""
        self._identity = {"etag": file.etag, "size": file.size, "piece": PIECE}
        self._bounds = [
            (start, min(start + PIECE, file.size)) for start in range(0, file.size, PIECE)
        ]
        self.finished = self._read_record()
        self._saved = time.monotonic()
        self._ready = False
        self._lock = threading.Lock()

    @property
    def kept(self) -> int:
        """Bytes in the finished pieces."""
        return sum(end - start for start, end in map(self._bounds.__getitem__, self.finished))

    def tasks(self, tally: _Tally) -> list[Callable[[], None]]:
        """What is left to do, in pieces that may be done in parallel; the last one finishes."""
        left = [piece for piece in range(len(self._bounds)) if piece not in self.finished]
        return [partial(self._fetch_piece, piece, tally) for piece in left] or [self._finish]

    def save(self) -> None:
        """Record the finished pieces, for another run."""
        with self._lock:
            if self.finished and not self.whole:
                self._write_record()

    def _read_record(self) -> set[int]:
        """Pieces that an earlier run left of the same object; none where there is any doubt."""
        try:
            record: Any = read_json(self.record)
            finished = set(record.pop("finished"))
            if record == self._identity and self.part.stat().st_size == self.file.size:
                return finished & set(range(len(self._bounds)))
        except (OSError, InputError, AttributeError, KeyError, TypeError):
            pass
        return set()

    def _write_record(self) -> None:
        write_json(self.record, {**self._identity, "finished": sorted(self.finished)})
        self._saved = time.monotonic()

    def _discard(self) -> None:
        self.finished = set()
        self.record.unlink(missing_ok=True)  # first: a record without its file says nothing
        self.part.unlink(missing_ok=True)

    def _prepare(self) -> None:
        """Make the unfinished file with all the space it needs, so that a full disk is met now."""
        with self._lock, _writing(self.part):
            if self._ready:
                return
            self.part.parent.mkdir(parents=True, exist_ok=True)
            if not self.finished:
                self._discard()
            with self.part.open("ab") as part:
                try:
                    os.posix_fallocate(part.fileno(), 0, self.file.size)
                except (OSError, AttributeError) as error:
                    # Some systems and file systems, and files of no bytes, do without.
                    if getattr(error, "errno", None) in _NO_SPACE:
                        if not self.finished:
                            self._discard()
                        raise
                    part.truncate(self.file.size)
            self._ready = True

    def _fetch_piece(self, piece: int, tally: _Tally) -> None:
        self._prepare()
        at, end = self._bounds[piece]
        failures = 0
        # Each with a descriptor of its own: a late worker can never write to another file.
        with _writing(self.part):
            part = self.part.open("r+b", buffering=0)
        with part:
            while at < end:
                before = at
                try:
                    for chunk in self.bucket.stream(self.file, at, end):
                        if self.stop.is_set():
                            raise _Stopped
                        with _writing(self.part):
                            at += _write(part.fileno(), chunk, at)
                        tally.add(len(chunk))
                except self.bucket.faults as error:
                    failures = 1 if at > before else failures + 1
                    if failures > RETRIES or not is_transient(error):
                        with self._lock:
                            after = f" after {self.kept} of {self.file.size} bytes"
                        raise self.bucket.explain(self.file.key, error, after) from error
                    if self.stop.wait(BACKOFF * 2 ** (failures - 1)):
                        raise _Stopped from error
        with self._lock:
            self.finished.add(piece)
            last = len(self.finished) == len(self._bounds)
            if last or time.monotonic() - self._saved >= RECORD_EVERY:
                self._write_record()
        if last:
            self._finish()

    def _finish(self) -> None:
        """Verify the file and give it its name; spoiled, it is deleted."""
        self._prepare()
        with _writing(self.path):
            self.found = self._checksum()
            if self.found == self.file.etag:
                with self.part.open("rb") as part:
                    os.fsync(part.fileno())
                self.part.replace(self.path)
                self.whole = True
                self.record.unlink(missing_ok=True)
            else:
                self._discard()
                self._ready = False

    def _checksum(self) -> str:
        """ETag of what is on disk.

        Where the bucket's is no checksum, or one of parts of unknown size, there is only the
        file's size to go by; then it is the bucket's own.
        """
        size, etag = self.part.stat().st_size, self.file.etag
        form = re.fullmatch(r"[0-9a-f]{32}(-\d+)?", etag)
        if size != self.file.size:
            return f"{size} bytes"
        if form is None:
            return etag
        if form[1] is None:
            return next(self._digests(max(size, 1))).hex()
        found = etag
        for part_size in self._part_sizes(int(form[1][1:])):
            digests = [*self._digests(part_size)]
            found = f"{hashlib.md5(b''.join(digests)).hexdigest()}-{len(digests)}"
            if found == etag:
                break
        return found

    def _part_sizes(self, n_parts: int) -> list[int]:
        """Bytes of a part, from the server; else those usual ones that give so many parts."""
        told = self.bucket.part_size(self.file.key)
        sizes = [told] if told else []
        usual = sorted({n * unit for n in _PART_SIZES for unit in (1 << 20, 10**6)})
        fitting = [[s for s in of if -(-self.file.size // s) == n_parts] for of in (sizes, usual)]
        return fitting[0] or fitting[1]

    def _digests(self, part_size: int) -> Iterator[bytes]:
        """MD5 of each part of the unfinished file."""
        with self.part.open("rb") as file:
            for start in range(0, max(self.file.size, 1), part_size):
                digest = hashlib.md5()
                left = min(part_size, self.file.size - start)
                while left and (chunk := file.read(min(1 << 20, left))):
                    if self.stop.is_set():
                        raise _Stopped
                    digest.update(chunk)
                    left -= len(chunk)
                yield digest.digest()


def _write(descriptor: int, chunk: bytes, at: int) -> int:
    """Write all of ``chunk`` at an offset; number of bytes."""
    written = 0
    while written < len(chunk):
        written += os.pwrite(descriptor, chunk[written:], at + written)
    return written


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Raise faults of the disk as a SynbrainError."""
    try:
        yield
    except OSError as error:
        if isinstance(error, SynbrainError):
            raise
        raise SynbrainError(
            f"cannot write {path}: {error.strerror or error}; what was downloaded is kept: free "
            "some space or choose a folder you may write to, then run the same command again"
        ) from error
