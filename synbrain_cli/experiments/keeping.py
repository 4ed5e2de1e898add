"""Numbers of an experiment, kept for the run that continues an interrupted one."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synbrain_cli.brain.prediction import BATCH
from synbrain_cli.io.arrays import load_arrays, save_arrays
from synbrain_cli.io.seal import is_kept, keep
from synbrain_cli.progress import Bar

TOGETHER = 4 * BATCH  # images between two files: whole batches, rounded alike in every run

Values = dict[str, NDArray[Any]]  # of one item, or of several along the first axis


@dataclass(frozen=True)
class Keeping:
    """A folder in which numbers are kept until the experiment is finished; nothing without one.

    Attributes
    ----------
    folder : Path, optional
    log : callable, optional
        Takes messages: of files that were damaged meanwhile, and are computed again.
    """

    folder: Path | None = None
    log: Callable[[str], None] = lambda message: None

    def part(self, name: str) -> Keeping:
        """Return a folder in this one, for numbers of their own; it is made."""
        if self.folder is None:
            return self
        (self.folder / name).mkdir(exist_ok=True)
        return Keeping(self.folder / name, self.log)

    def find(self, name: str) -> Values | None:
        """Return what `note` kept under a name; None where there is nothing, or it was damaged."""
        path = self._path(name)
        return load_arrays(path) if path is not None and is_kept(path, self.log) else None

    def note(self, name: str, values: Values) -> None:
        """Keep arrays under a name."""
        path = self._path(name)
        if path is not None:
            save_arrays(path, values)
            keep(path)

    def in_pieces(
        self, name: str, n: int, stream: Callable[[Sequence[int]], Generator[Values]], bar: Bar
    ) -> Values:
        """Compute arrays of many items, or only those that an interrupted run had not finished.

        Parameters
        ----------
        name : str
            Of the files, which hold `TOGETHER` items each.
        n : int
            Number of items.
        stream : callable
            Takes the rows of the items that are left, and yields the arrays of one after the other,
            of the same shapes.
        bar : Bar
            Is advanced by every item.

        Returns
        -------
        dict of arrays of shape (n, …)
        """
        pieces = [range(first, min(first + TOGETHER, n)) for first in range(0, n, TOGETHER)]
        found = [self.find(f"{name}-{piece.start}") for piece in pieces]
        left = [piece for piece, own in zip(pieces, found, strict=True) if own is None]
        rows = [row for piece in left for row in piece]
        bar.to(bar.done + n - len(rows))
        done = []
        with closing(stream(rows)) as computed:
            for piece, own in zip(pieces, found, strict=True):
                if own is None:
                    each = []
                    for _ in piece:
                        each.append(next(computed))
                        bar.to(bar.done + 1)
                    own = {key: np.stack([one[key] for one in each]) for key in each[0]}
                    self.note(f"{name}-{piece.start}", own)
                done.append(own)
        return {key: np.concatenate([own[key] for own in done]) for key in done[0]}

    def _path(self, name: str) -> Path | None:
        return None if self.folder is None else self.folder / f"{name}.safetensors"
