"""Progress of a command: a bar on a terminal, plain lines in a file, with the time left."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from synbrain_cli.text import duration, one_line

EVERY = 10.0  # seconds between two plain lines, at least
MOST_LINES = 50  # of a task, about, however long it takes
LONGEST_SILENCE = 300.0  # seconds between two plain lines, at most
LONG = 600.0  # seconds from which on what a task takes is said, with the shorter alternative


@dataclass
class Bar:
    """Progress of one long task. A call adds one to the count; `to` sets the count.

    The time left is that of the items left at the pace of those done since the first, which may
    include what is done once (compilation, reading).

    Attributes
    ----------
    title : str
        Name of the task.
    total : int, optional
        Number of items; None while it is unknown.
    done : int
        Number of items finished.
    quiet : bool
        Whether nothing is printed.
    unit : str
        Unit of the count; "B" for bytes.
    shorter : str
        What takes less time, said once where the task takes more than `LONG` seconds.
    """

    title: str
    total: int | None
    done: int
    quiet: bool
    unit: str = "it"
    shorter: str = ""
    _bar: Any = None
    _first: tuple[int, float] | None = None  # count and time after the first item
    _printed: float = field(default_factory=lambda: time.monotonic())
    _announced: bool = False

    def __call__(self, message: str = "") -> None:
        """Add one to the count, and show a message beside it."""
        self.to(self.done + 1, self.total, message)

    def to(self, done: int, total: int | None = None, message: str = "") -> None:
        """Set the count (and the total, once it is known)."""
        self.done, self.total = done, total or self.total
        if self.quiet:
            return
        now = time.monotonic()
        self._first = self._first or (done, now)
        left = self._left(now)
        if self._bar is not None:
            self._bar.total = self.total
            self._bar.set_postfix_str(one_line(message), refresh=False)
            self._bar.update(done - self._bar.n)
        if left is not None and not self._announced and now - self._first[1] > EVERY:
            self._announced = True
            self._announce(now - self._first[1] + left)
        if self._bar is None and now - self._printed > self._silence(now, left):
            self._printed = now
            of = f" of {self._count(self.total)}" if self.total else ""
            remains = f", {duration(left)} left" if left is not None else ""
            line = f"{self.title}: {self._count(done)}{of}{remains}"
            _print(f"{line}{'  ' + message if message else ''}")

    def _left(self, now: float) -> float | None:
        """Seconds that the items left will take; None where that is not known."""
        if self._first is None or not self.total:
            return None
        done, elapsed = self.done - self._first[0], now - self._first[1]
        if done < 1 or elapsed <= 0:
            return None
        return elapsed / done * (self.total - self.done)

    def _silence(self, now: float, left: float | None) -> float:
        """Seconds after which the next plain line is due: some `MOST_LINES` lines in all."""
        assert self._first is not None
        whole = now - self._first[1] + (left or 0)
        return min(max(EVERY, whole / MOST_LINES), LONGEST_SILENCE)

    def _announce(self, seconds: float) -> None:
        """Say what a long task takes in all, and what would take less."""
        if seconds < LONG:
            return
        line = _expectation(self.title, seconds, self.shorter)
        if self._bar is not None:
            self._bar.write(one_line(line), file=sys.stderr)
        else:
            _print(line)

    def _count(self, n: int) -> str:
        return f"{n / 1e9:.2f} GB" if self.unit == "B" else f"{n:,}"


@dataclass
class Progress:
    """Messages and progress on standard error; standard output holds only results.

    Attributes
    ----------
    quiet : bool
        Whether nothing is printed.
    """

    quiet: bool = False

    def info(self, message: str) -> None:
        """Print one line."""
        if not self.quiet:
            _print(message)

    def expect(self, title: str, seconds: float, shorter: str) -> bool:
        """Say before it begins what a task takes, if that is more than `LONG` seconds.

        Parameters
        ----------
        title : str
            Name of the task: all of it, where bars will show its parts.
        seconds : float
            Estimated.
        shorter : str
            What takes less time.

        Returns
        -------
        bool
            Whether it takes so long.
        """
        if seconds >= LONG:
            self.info(_expectation(title, seconds, shorter))
        return seconds >= LONG

    @contextlib.contextmanager
    def bar(
        self,
        title: str,
        total: int | None = None,
        done: int = 0,
        unit: str = "it",
        shorter: str = "",
    ) -> Iterator[Bar]:
        """Show progress while the block runs.

        Parameters
        ----------
        title : str
            Name of the task.
        total : int, optional
            Number of items, where it is known.
        done : int
            Number of items that were finished before.
        unit : str
            Unit of the count; "B" for bytes.
        shorter : str
            What takes less time, for tasks that may take long.

        Yields
        ------
        Bar
        """
        bar = Bar(title, total, done, self.quiet, unit, shorter)
        if sys.stderr.isatty() and not self.quiet:
            from tqdm import tqdm

            with tqdm(
                total=total,
                initial=done,
                desc=one_line(title),
                file=sys.stderr,
                leave=False,
                unit=unit,
                unit_scale=unit == "B",
            ) as shown:
                bar._bar = shown
                yield bar
            return
        yield bar

    @contextlib.contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """Name a task that has no countable parts, and say how long it has taken while it runs.

        Parameters
        ----------
        title : str
            Name of the task; printed at its beginning.
        """
        self.info(title)
        if self.quiet:
            yield
            return
        ended = threading.Event()
        clock = threading.Thread(target=_say_elapsed, args=(title, ended), daemon=True)
        clock.start()
        try:
            yield
        finally:
            ended.set()
            clock.join()


def _say_elapsed(title: str, ended: threading.Event) -> None:
    """Print the time since the beginning every `EVERY` seconds, less often as time goes by."""
    start, silence = time.monotonic(), EVERY
    while not ended.wait(silence):
        elapsed = time.monotonic() - start
        _print(f"{title}: {duration(elapsed)} so far")
        silence = min(max(EVERY, elapsed / 5), LONGEST_SILENCE)


def _expectation(title: str, seconds: float, shorter: str) -> str:
    instead = f"; shorter: {shorter}" if shorter else ""
    return f"{title}: takes about {duration(seconds)}{instead}"


def _print(line: str) -> None:
    print(one_line(line), file=sys.stderr, flush=True)
