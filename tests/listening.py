"""Progress that keeps what it is told, for tests of messages and of interruptions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from synbrain_cli.progress import Bar, Progress


@dataclass
class WatchedBar(Bar):
    """Calls a function at every step with the count and the total."""

    watch: Callable[[int, int | None], None] = lambda done, total: None

    def to(self, done: int, total: int | None = None, message: str = "") -> None:
        super().to(done, total, message)
        self.watch(self.done, self.total)


@dataclass
class Listening(Progress):
    """Prints nothing; ``messages`` holds the lines, ``watch`` is called at every step of a bar."""

    quiet: bool = True
    watch: Callable[[int, int | None], None] = lambda done, total: None
    messages: list[str] = field(default_factory=list)

    def info(self, message: str) -> None:
        self.messages.append(message)

    @contextlib.contextmanager
    def bar(
        self,
        title: str,
        total: int | None = None,
        done: int = 0,
        unit: str = "it",
        shorter: str = "",
    ) -> Iterator[Bar]:
        yield WatchedBar(title, total, done, self.quiet, unit, shorter, watch=self.watch)
