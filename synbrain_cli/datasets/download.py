"""Download of objects from a bucket to a local folder, where each file is complete or absent.

Pieces of an object are downloaded in parallel into a hidden file beside the final one. A record of
the finished pieces allows an interrupted download to be resumed. The file takes its final name
when its checksum equals that of the bucket.
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

PIECE = 16 << 20  # bytes per request; a worker that is stopped loses at most this much
RETRIES = 5  # consecutive attempts at a piece of which nothing arrives
BACKOFF = 1.0  # seconds before the first of these attempts, doubled before each further one
RECORD_EVERY, PROGRESS_EVERY = 1.0, 0.1  # seconds between two records, and two calls of progress
STOPPING = 2.0  # seconds that workers have to end when the run ends early
# Usual sizes of the parts of a multipart upload, in megabytes
_PART_SIZES = (5, 8, 10, 15, 16, 25, 32, 50, 64, 100, 128, 256, 512, 1024)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _local_path(root: Path, key: str) -> Path:
    """Return the local path of an object, which is never outside ``root``."""
    parts = PurePosixPath(key).parts
    if not parts or ".." in parts or key.startswith("/") or key.endswith("/"):
        raise InputError(f"{key!r}: expected the name of a file in the bucket")
    return root.joinpath(*parts)


def _beside(path: Path) -> tuple[Path, Path]:
    """Return the paths of the unfinished file and of the record of its finished pieces."""
    return path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.part.json")


def missing(files: Iterable[RemoteFile], root: Path) -> list[RemoteFile]:
    """Return the files that are absent from ``root``, or of another size than in the bucket."""
    paths = {file: _local_path(root, file.key) for file in files}
    return [f for f, path in paths.items() if not path.is_file() or path.stat().st_size != f.size]


def check_space(files: Iterable[RemoteFile], root: Path, extra: int = 0) -> None:
    """Check that the disk has room for what is left to download.

    Parameters
    ----------
    files : iterable of RemoteFile
        Files that are needed. Complete ones in ``root`` need no space, and unfinished ones only
        that of their missing pieces.
    root : path
        Folder, which need not exist.
    extra : int
        Further bytes that are needed in the folder.

    Raises
    ------
    InputError
        When the disk does not have enough free space.
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
    """Download files to ``root/key`` in parallel, and verify them. Earlier downloads are resumed.

    The caller holds a lock on ``root``, so that only one process downloads at a time.

    Parameters
    ----------
    bucket : Bucket
    files : iterable of RemoteFile
        In order of priority. Files that are complete in ``root`` are skipped.
    root : path
    workers : int
        Number of pieces, of one or several files, that are downloaded at a time.
    progress : callable
        Called with the number of bytes present and their final number, about ten times per second
        and at the end, from one thread at a time. Bytes of earlier runs are counted.

    Raises
    ------
    InputError, MissingError, SynbrainError
        When the connection is lost permanently, access is denied, an object was removed or
        changed, the disk is full, or a checksum is wrong twice. Finished pieces are kept for the
        next run.
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
    tally.show()


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
    """Number of bytes present, which is passed to ``progress``."""

    def __init__(self, done: int, total: int, progress: Callable[[int, int], None]) -> None:
        self._done, self._total, self._progress = done, total, progress
        self._shown = 0.0
        self._lock = threading.Lock()

    def add(self, n_bytes: int) -> None:
        with self._lock:
            self._done += n_bytes
            if time.monotonic() - self._shown >= PROGRESS_EVERY:
                self._shown = time.monotonic()
                self._progress(self._done, self._total)

    def show(self) -> None:
        with self._lock:
            self._progress(self._done, self._total)


class _Download:
    """Download of one file.

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
        """Return the remaining tasks, which may run in parallel; the last one finishes the file."""
        left = [piece for piece in range(len(self._bounds)) if piece not in self.finished]
        return [partial(self._fetch_piece, piece, tally) for piece in left] or [self._finish]

    def save(self) -> None:
        """Record the finished pieces, for another run."""
        with self._lock:
            if self.finished and not self.whole:
                self._write_record()

    def _read_record(self) -> set[int]:
        """Return the pieces of the same object from an earlier run; none in case of doubt."""
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
        self.record.unlink(missing_ok=True)  # first, as a record without its file is not valid
        self.part.unlink(missing_ok=True)

    def _prepare(self) -> None:
        """Create the unfinished file with all its space, so that a full disk is noticed early."""
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
        """Verify the file and give it its final name; delete it when the checksum is wrong."""
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
        """Return the ETag of the file on disk.

        Where the ETag of the bucket is not a checksum, or one of parts of unknown size, only the
        size is verified, and the ETag of the bucket is returned.
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
        """Return candidates for the size of a part: the server's, else usual ones that fit."""
        known = self.bucket.part_size(self.file.key)
        sizes = [known] if known else []
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
            "some space or choose a folder in which you may write, then run the same command again"
        ) from error
