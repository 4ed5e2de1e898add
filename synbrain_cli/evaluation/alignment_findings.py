"""What a check of a design may find, and what both of its searches share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from synbrain_cli.evaluation.alignment import Integers, Recording, Templates
from synbrain_cli.evaluation.alignment_candidates import Candidate
from synbrain_cli.evaluation.alignment_statistics import Chance, permutation_z

SIGNAL = 2.33  # z above which the given design is above chance: p < .01 by permutation
LEAST_RUN = 6  # trials of a stretch, at least
TOGETHER = 750  # images that are permuted together, at most


@dataclass(frozen=True)
class Finding:
    """A part of the recording that does not fit its design.

    Attributes
    ----------
    text : str
        Where and what, with figures: "session 7: responses match the images listed one trial
        earlier (r .21 against .02 as given)".
    mend : str
        What the user can do.
    weight : float
        Sum over trials of the agreement that is lost: findings are ordered by it.
    """

    text: str
    mend: str
    weight: float


@dataclass(frozen=True)
class Better:
    """A design that fits better than the given one, and how much.

    Attributes
    ----------
    candidate : Candidate
    r_other, r_given : float
        Mean agreement of the trials in which the two differ.
    n : int
        Number of these trials.
    """

    candidate: Candidate
    r_other: float
    r_given: float
    n: int

    def at(self, where: str) -> Finding:
        """Return it as a finding, in the trials of that name."""
        figures = f"r {as_text(self.r_other)} against {as_text(self.r_given)} as given"
        text = f"{where}: responses match {self.candidate.what} ({figures})"
        return Finding(text, self.candidate.mend, (self.r_other - self.r_given) * self.n)


def chance_of(fitted: Templates, recording: Recording, shown: Integers, kind: str) -> Chance:
    """Compare agreement with a design to that with permuted images.

    Parameters
    ----------
    fitted : Templates
    recording : Recording
    shown : int64 array of shape (n_trials,)
        The design; trials with −1 do not count.
    kind : {"features", "repeats", "both"}
        Of the templates.

    Returns
    -------
    Chance
        Images are permuted in groups of `TOGETHER` at most.
    """
    images = np.random.default_rng(0).permutation(np.unique(shown[shown >= 0]))
    groups = np.array_split(images, -(-len(images) // TOGETHER))
    matrices = [fitted.by_image(recording, shown, np.sort(one), kind) for one in groups]
    return permutation_z(matrices, int((shown >= 0).sum()))


def stretch_text(recording: Recording, start: int, stop: int) -> str:
    """Name consecutive trials of a session: "trials 188 to 249 of session 3".

    Parameters
    ----------
    recording : Recording
    start, stop : int
        First trial of the recording, from 0, and the one after the last. In the name they are
        counted from 1 within their session, which is named alone where these are nearly all.
    """
    session = int(recording.session[start])
    first = int(recording.trials_of(session)[0])
    n = int((recording.session == session).sum())
    if stop - start >= 0.95 * n:
        return f"session {session}"
    return f"trials {start - first + 1} to {stop - first} of session {session}"


def as_text(r: float, digits: int = 2) -> str:
    """Return a correlation as messages have it: ".21", "−.03"."""
    text = f"{abs(r):.{digits}f}".removeprefix("0")
    return f"−{text}" if r < 0 and text.strip(".0") else text
