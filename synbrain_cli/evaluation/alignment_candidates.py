"""Other designs that a recording may belong to: what goes wrong between experiment and table.

A design is an int64 array of shape (n_trials,): row of the images of each trial, −1 where it names
none (the first trial of a session whose images are all moved by one).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np

from synbrain_cli.evaluation.alignment import Integers

SHIFTS = tuple(k for n in range(1, 6) for k in (-n, n))  # trials by which whole sessions are moved
FEW_SESSIONS = 4  # of which every two are exchanged, with a fit for each
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True, eq=False)
class Candidate:
    """Another design.

    Attributes
    ----------
    what : str
        What the responses match under it: completes "responses match …".
    mend : str
        What the user can do if it is right.
    shown : int64 array of shape (n_trials,)
    """

    what: str
    mend: str
    shown: Integers


def shifted(shown: Integers, session: Integers, by: int) -> Integers:
    """Give every trial the image of the trial ``by`` rows later in its session, −1 at its ends."""
    out = np.full_like(shown, -1)
    for number in np.unique(session):
        rows = np.flatnonzero(session == number)
        n = len(rows) - abs(by)
        if n > 0:
            out[rows[max(-by, 0) :][:n]] = shown[rows[max(by, 0) :][:n]]
    return out


def whole_candidates(
    shown: Integers, session: Integers, images: Sequence[str], designs: dict[str, Integers]
) -> Iterator[Candidate]:
    """Yield designs that differ from the given one in all sessions, or in two of few.

    Parameters
    ----------
    shown : int64 array of shape (n_trials,)
        The given design.
    session : int64 array of shape (n_trials,)
    images : sequence of str
        Names of the images, of which rows are numbers.
    designs : dict
        Label of another subject → its design.
    """
    for by in SHIFTS:
        yield Candidate(shift_text(by), SHIFT_MEND, shifted(shown, session, by))
    for what, new in renumberings(shown, images):
        yield Candidate(what, RENUMBER_MEND, np.where(shown >= 0, new[shown], -1))
    turned = shown.copy()
    for number in np.unique(session):
        rows = np.flatnonzero(session == number)
        turned[rows] = shown[rows[::-1]]
    yield Candidate("their images in reverse order", ORDER_MEND, turned)
    if len(np.unique(session)) > 1:
        what = "the images of the whole table in reverse order"
        yield Candidate(what, ORDER_MEND, shown[::-1].copy())
    for label, design in designs.items():
        yield Candidate(f"the images of sub-{label}", SUBJECT_MEND, design)
    numbers = [int(one) for one in np.unique(session)]
    if len(numbers) <= FEW_SESSIONS:
        for one, other in combinations(numbers, 2):
            design = exchanged(shown, session, one, other)
            what = f"their images once sessions {one} and {other} are exchanged"
            yield Candidate(what, SESSION_MEND, design)


SHIFT_MEND = "look for a trial that was left out or added in the table or in the responses"
RENUMBER_MEND = "look for an index counted from 0 in one place and from 1 in another"
ORDER_MEND = "put the rows of the table in the order of the responses"
SUBJECT_MEND = "give each subject its own table and responses"
SESSION_MEND = "give the sessions of the table and of the responses in the same order"
BLOCK_MEND = "look for rows that were copied"


def exchanged(shown: Integers, session: Integers, one: int, other: int) -> Integers:
    """Exchange the images of two sessions; −1 where the one has more trials than the other."""
    out = shown.copy()
    rows = [np.flatnonzero(session == number) for number in (one, other)]
    n = min(map(len, rows))
    for own, theirs in (rows, rows[::-1]):
        out[own] = -1
        out[own[:n]] = shown[theirs[:n]]
    return out


def shift_text(by: int) -> str:
    """Describe a shift: the images of ``by`` trials later."""
    n = abs(by)
    count = NUMBERS[n] if n < len(NUMBERS) else f"{n:,}"
    return (
        f"the images listed {count} trial{'s' if n > 1 else ''} {'later' if by > 0 else 'earlier'}"
    )


def renumberings(shown: Integers, images: Sequence[str]) -> Iterator[tuple[str, Integers]]:
    """Yield ways in which images may be numbered: what, and the row that each row stands for.

    By one up and down in the list of images, sorted by the numbers in their names (of those shown,
    and of all where there are others); and in the order of text in place of that of numbers.
    """
    known = np.unique(shown[shown >= 0])
    by_number = sorted(known.tolist(), key=lambda row: _natural(images[row]))
    lists = [by_number]
    if len(known) < len(images):
        lists.append(sorted(range(len(images)), key=lambda row: _natural(images[row])))
    for k, order in enumerate(lists):
        for step in (1, -1):
            new = np.full(len(images), -1, np.int64)
            new[order[max(-step, 0) : len(order) - max(step, 0)]] = order[max(step, 0) :][
                : len(order) - 1
            ]
            among = " of the dataset" if k else ""
            yield (
                f"the {'next' if step > 0 else 'previous'} image{among} in the order of names",
                new,
            )
    by_text = sorted(known.tolist(), key=lambda row: images[row])
    if by_text != by_number:
        for one, other, what in (
            (by_text, by_number, "images numbered as 1, 2, 10, not as 1, 10, 2"),
            (by_number, by_text, "images numbered as 1, 10, 2, not as 1, 2, 10"),
        ):
            new = np.full(len(images), -1, np.int64)
            new[one] = other
            yield what, new


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Key that sorts names by the numbers in them."""
    return [
        (0, int(word), "") if word.isdecimal() else (1, 0, word)
        for word in re.split(r"(\d+)", name)
        if word
    ]


def repeated_runs(values: Integers, least: int) -> list[tuple[int, int, int]]:
    """Find stretches of trials whose values occur again, in the same order.

    Parameters
    ----------
    values : int64 array of shape (n_trials,)
    least : int
        Length from which on a stretch counts. One whose values are all equal does not.

    Returns
    -------
    list of (first, again, length)
        ``values[first:first + length]`` equals ``values[again:again + length]``.
    """
    n = len(values) - least + 1
    if n < 2:
        return []
    windows = np.lib.stride_tricks.sliding_window_view(values, least)
    _, own, counts = np.unique(windows, axis=0, return_inverse=True, return_counts=True)
    varied = (windows != windows[:, :1]).any(1)
    places: dict[int, list[int]] = {}
    for start in np.flatnonzero((counts[own.ravel()] > 1) & varied):
        places.setdefault(int(own.ravel()[start]), []).append(int(start))
    pairs = {(a, b) for found in places.values() for a, b in pairwise(found)}
    runs = []
    for a, b in sorted(pairs):
        if (a - 1, b - 1) in pairs:
            continue
        length = least
        while (a + length - least + 1, b + length - least + 1) in pairs:
            length += 1
        runs.append((a, b, min(length, b - a)))
    return runs
