"""Progress of a command: a bar on a terminal, plain lines in a file, with the time left.

What is counted (images, batches) has a `Bar`. What is computed in unlike parts has a `Share`: each
function divides its own among those that it calls, in proportion to the time that they take.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any, TypeVar

from synbrain_cli.text import duration, one_line

EVERY = 10.0  # seconds between two plain lines, at least
MOST_LINES = 50  # of a task, about, however long it takes
LONGEST_SILENCE = 300.0  # seconds between two plain lines, at most
LONG = 600.0  # seconds from which on what a task takes is said, with the shorter alternative

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """A share of a long task's time, for a function to say how much of its own is done.

    Attributes
    ----------
    report : callable
        Takes the fraction of the whole task that is done.
    start, end : float
        Fractions of the whole task between which this share lies.
    """

    report: Callable[[float], None]
    start: float = 0.0
    end: float = 1.0

    def to(self, fraction: float) -> None:
        """Say which fraction of this share is done."""
        self.report(self.start + fraction * (self.end - self.start))

    def split(self, *weights: float) -> list[Share]:
        """Divide this share in proportion to weights: the times that parts take, in any unit."""
        total = sum(weights) or 1.0
        ends = accumulate(weights, initial=0.0)
        places = [self.start + (self.end - self.start) * end / total for end in ends]
        return [Share(self.report, *place) for place in pairwise(places)]

    def each(self, items: Iterable[T], weights: Sequence[float] = ()) -> Iterator[tuple[T, Share]]:
        """Yield items with the share of each, and count an item as done when the next is asked for.

        Parameters
        ----------
        items : iterable
        weights : sequence of float
            Of the items' times; default: equal.
        """
        items = list(items)
        for item, share in zip(items, self.split(*(weights or [1] * len(items))), strict=True):
            yield item, share
            share.to(1)

    def over(self, items: Iterable[T]) -> Iterator[T]:
        """Yield items that take the same time each, as `each` does."""
        return (item for item, _ in self.each(items))


UNSEEN = Share(lambda _: None)  # of a task whose progress nobody shows


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
    def stage(self, title: str) -> Iterator[Share]:
        """Name a task of unlike parts; while it runs, say how long it has taken and will take.

        Parameters
        ----------
        title : str
            Name of the task; printed at its beginning.

        Yields
        ------
        Share
            All of the task. Nothing is known of the time left before some of it is done.
        """
        self.info(title)
        if self.quiet:
            yield UNSEEN
            return
        clock = _Clock(title)
        talking = threading.Thread(target=clock.talk, daemon=True)
        talking.start()
        try:
            yield Share(clock.set_done)
        finally:
            clock.ended.set()
            talking.join()


class _Clock:
    """Tells the time of a stage, since its beginning and left, every `EVERY` seconds or more."""

    def __init__(self, title: str) -> None:
        self.title, self.ended = title, threading.Event()
        self._start = time.monotonic()
        self._known = 0.0, self._start  # fraction done, and when that was said

    def set_done(self, fraction: float) -> None:
        """Note which fraction of the stage is done."""
        self._known = fraction, time.monotonic()

    def talk(self) -> None:
        """Print lines until the stage has ended, fewer as time goes by."""
        silence = EVERY
        while not self.ended.wait(silence):
            now = time.monotonic()
            elapsed, left = now - self._start, self.left(now)
            _print(
                f"{self.title}: {duration(elapsed)} so far"
                + (f", {duration(left)} left" if left is not None else "")
            )
            silence = min(max(EVERY, (elapsed + (left or 0)) / MOST_LINES), LONGEST_SILENCE)

    def left(self, now: float) -> float | None:
        """Seconds left at the pace so far; None before anything is done."""
        fraction, said = self._known
        if fraction <= 0:
            return None
        whole = (said - self._start) / fraction
        return max(whole - (now - self._start), 0.0)


def _expectation(title: str, seconds: float, shorter: str) -> str:
    instead = f"; shorter: {shorter}" if shorter else ""
    return f"{title}: takes about {duration(seconds)}{instead}"


def _print(line: str) -> None:
    print(one_line(line), file=sys.stderr, flush=True)
