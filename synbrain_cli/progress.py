"""Progress of a command while it works: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from synbrain_cli.text import one_line


@dataclass
class Bar:
    """Progress of one long task. A call adds one to the count; `to` sets the count.

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
    every : float
        Seconds between two plain lines, at least.
    """

    title: str
    total: int | None
    done: int
    quiet: bool
    unit: str = "it"
    every: float = 10.0
    _bar: object = None
    _printed: float = field(default_factory=time.monotonic)

    def __call__(self, message: str = "") -> None:
        """Add one to the count, and show a message beside it."""
        self.to(self.done + 1, self.total, message)

    def to(self, done: int, total: int | None = None, message: str = "") -> None:
        """Set the count (and the total, once it is known)."""
        self.done, self.total = done, total or self.total
        if self.quiet:
            return
        if self._bar is not None:
            self._bar.total = self.total
            self._bar.set_postfix_str(one_line(message), refresh=False)
            self._bar.update(done - self._bar.n)
        elif time.monotonic() - self._printed > self.every:
            self._printed = time.monotonic()
            of = f" of {self._count(self.total)}" if self.total else ""
            line = f"{self.title}: {self._count(done)}{of}{'  ' + message if message else ''}"
            print(one_line(line), file=sys.stderr)

    def _count(self, n: int) -> str:
        return f"{n / 1e9:.2f} GB" if self.unit == "B" else str(n)


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
            print(one_line(message), file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def bar(
        self, title: str, total: int | None = None, done: int = 0, unit: str = "it"
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

        Yields
        ------
        Bar
        """
        bar = Bar(title, total, done, self.quiet, unit)
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
