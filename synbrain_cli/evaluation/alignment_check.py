"""Whether a design fits its recording, and if not, where and how.

`check_design` compares the given design with others (`evaluation.alignment_candidates`): with a fit
of its own for each that concerns all sessions, and, within each session, by templates from the rest
of the recording. Rules and thresholds are ours; `benchmarks/alignment.py` measures how often they
find faults and raise false alarms.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from synbrain_cli.evaluation.alignment import (
    TWICE,
    Floats,
    Integers,
    Recording,
    Templates,
    image_agreement,
)
from synbrain_cli.evaluation.alignment_candidates import (
    BLOCK_MEND,
    ORDER_MEND,
    RENUMBER_MEND,
    SESSION_MEND,
    SHIFT_MEND,
    SHIFTS,
    SUBJECT_MEND,
    Candidate,
    renumberings,
    repeated_runs,
    shift_text,
    shifted,
    whole_candidates,
)
from synbrain_cli.evaluation.alignment_inputs import CheckInputs
from synbrain_cli.evaluation.alignment_statistics import (
    Chance,
    best_segment,
    paired_z,
    permutation_z,
)

# Another design is better where the paired difference lies this many standard errors above 0: p <
# 3e-5 for each of the 20 to 100 designs of a session, if neither fits. Where the given one fits,
# differences are negative.
CLEAR = 4.0
CLEAR_RUN = 6.0  # of stretches of trials, which are chosen among many
CLEAR_FAR = 7.0  # of shifts by more than five trials, of which there are many
NEARER = 1.15  # times the z of a nearer shift, which a farther one must have
LONGEST_SHIFT = 750  # trials: a session of NSD
SIGNAL = 2.33  # z above which the given design is above chance: p < .01 by permutation
SURE = 4.0  # from which on it certainly is
ENOUGH = 10.0  # z of agreement with images that needs no repeats to compare designs
ORDINARY = 0.05  # agreement of single trials, by images alone, that a usable recording has
POWER = 5.0  # z that an ordinary agreement must have for its absence to mean anything
MOST_PAIRS = 400  # of sessions that are fitted apart
MOST_WHOLE = 6  # sessions on which designs of all sessions are compared
TOGETHER = 750  # images that are permuted together, at most
LEAST_RUN = 6  # trials of a stretch, at least
LEAST_UNMATCHED = 12  # of one that is named because it matches nothing
UNMATCHED = 25.0  # log likelihood ratio of "no agreement here" against "as elsewhere"
REPEATED = 15.0  # the same, where rows of the table or responses are repeated, too
LOST = 2.0  # z of a session that agrees no better than chance, …
USUAL = 8.0  # … where the agreement of the others would have a z above this
LOST_MEND = "compare its table with its responses, or leave the session out"
LITTLE = 0.25  # of the usual agreement: less is none


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
class _Better:
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
        figures = f"r {as_text(self.r_other)} against {as_text(self.r_given)} as given"
        text = f"{where}: responses match {self.candidate.what} ({figures})"
        return Finding(text, self.candidate.mend, (self.r_other - self.r_given) * self.n)


@dataclass(frozen=True)
class DesignCheck:
    """Result of `check_design`.

    Attributes
    ----------
    status : {"fits", "differs", "no signal", "too few"}
        "differs": another design fits better, everywhere or in places. "no signal": the given one
        fits no better than chance, on data where ordinary responses would. "too few": no better
        than chance, or hardly, and nothing follows from it.
    images, both : Chance
        Mean agreement, under the given design, of single trials with predictions from images, and
        with templates (images and other repeats).
    repeats : float
        Mean agreement of single trials with the mean of other repeats; NaN without.
    findings : tuple of Finding
        Why it differs; the most important one first.
    notes : tuple of str
        Stretches that match their images no better than chance, while the others do.
    n_designs : int
        Other designs that were tried on the whole recording.
    """

    status: str
    images: Chance
    both: Chance
    repeats: float
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    n_designs: int


def check_design(inputs: CheckInputs) -> DesignCheck:
    """Compare a recording with its design and with others that may have been meant.

    Parameters
    ----------
    inputs : CheckInputs

    Returns
    -------
    DesignCheck
    """
    recording, shown = inputs.recording, inputs.shown
    fitted = Templates.fit(recording, shown)
    given = fitted.agreement(recording, shown)
    images, both = (
        replace(one, sd=TWICE * one.sd)
        for one in (_chance(fitted, recording, shown, kind) for kind in ("features", "both"))
    )
    findings = _copied_responses(inputs)
    notes: list[str] = []
    some, candidates = _whole(inputs)
    better = _better_as_whole(some.recording, some.shown, candidates, True)
    if better is None and images.z < ENOUGH:
        better = _better_as_whole(some.recording, some.shown, candidates, False)
    if better is not None:
        where = _listed(better[1], len(some.recording.sessions))
        findings.append(better[0].at(where))
    else:
        for session in _Sessions(inputs, fitted).scan():
            findings += session.findings
            notes += session.notes
        is_sure = max(images.z, both.z) >= SURE
        if not findings and not is_sure and len(recording.sessions) > 1:
            findings += _sessions_apart(inputs)
    known = np.isfinite(given.repeats)
    return DesignCheck(
        status=_status(images, both, findings),
        images=images,
        both=both,
        repeats=float(given.repeats[known].mean()) if known.any() else np.nan,
        findings=tuple(sorted(findings, key=lambda one: -one.weight)),
        notes=tuple(notes),
        n_designs=len(candidates),
    )


def _whole(inputs: CheckInputs) -> tuple[CheckInputs, list[Candidate]]:
    """Some sessions of the recording, and the other designs that concern all of them."""
    recording, shown, designs = inputs.recording, inputs.shown, inputs.designs
    numbers = recording.sessions
    if len(numbers) > MOST_WHOLE:  # as many in all subjects: what is wrong in all is so in some
        chosen = [numbers[i] for i in np.linspace(0, len(numbers) - 1, MOST_WHOLE).astype(int)]
        trials = np.flatnonzero(np.isin(recording.session, chosen))
        recording, shown = recording.within(trials), shown[trials]
        designs = {label: design[trials] for label, design in designs.items()}
    some = replace(inputs, recording=recording, shown=shown, designs=designs)
    return some, list(whole_candidates(shown, recording.session, inputs.images, designs))


def _status(images: Chance, both: Chance, findings: list[Finding]) -> str:
    if findings:
        return "differs"
    has_power = images.sd > 0 and ORDINARY / images.sd >= POWER
    if images.z < SIGNAL and has_power:
        return "no signal"
    return "fits" if max(images.z, both.z) >= SURE else "too few"


def _chance(fitted: Templates, recording: Recording, shown: Integers, kind: str) -> Chance:
    """Agreement of a design beside its permutations, of images in groups of `TOGETHER` at most."""
    images = np.random.default_rng(0).permutation(np.unique(shown[shown >= 0]))
    groups = np.array_split(images, -(-len(images) // TOGETHER))
    matrices = [fitted.by_image(recording, shown, np.sort(one), kind) for one in groups]
    return permutation_z(matrices, int((shown >= 0).sum()))


# ------------------------------------------------------------------------ designs of all sessions


def _better_as_whole(
    recording: Recording, shown: Integers, candidates: list[Candidate], by_images: bool
) -> tuple[_Better, list[int]] | None:
    """Return the design that fits clearly better than the given one, and the sessions in which.

    Designs are compared by the agreement with images (of which repeats know nothing that are
    renumbered together), or with templates.
    """
    given = _agreement(recording, shown, by_images)
    best: tuple[_Better, list[int]] | None = None
    largest = CLEAR
    for candidate in candidates:
        differ = (candidate.shown >= 0) & (candidate.shown != shown)
        if not differ.any():
            continue
        other = _agreement(recording, candidate.shown, by_images)
        mine, theirs = (np.where(differ, one, np.nan) for one in (given, other))
        r_other, r_given, z = paired_z(theirs, mine, (candidate.shown, shown))
        if z / TWICE < largest:
            continue
        found = _Better(candidate, r_other, r_given, int(np.isfinite(theirs).sum()))
        best, largest = (found, _sessions_where(recording, theirs, mine, shown)), z / TWICE
    return best


def _agreement(recording: Recording, shown: Integers, by_images: bool) -> Floats:
    """Agreement with a design, by a fit to it."""
    rows, own = np.unique(shown[shown >= 0], return_inverse=True)
    compact = np.full(len(shown), -1, np.int64)
    compact[shown >= 0] = own.ravel()
    its = replace(recording, features=recording.features[rows], fold=recording.fold[rows])
    if by_images:
        return image_agreement(its, compact)
    return Templates.fit(its, compact).agreement(its, compact).both


def _sessions_where(
    recording: Recording, other: Floats, given: Floats, shown: Integers
) -> list[int]:
    """Sessions in which another design fits better; all, where none stands out."""
    found = []
    for session in recording.sessions:
        trials = recording.trials_of(session)
        if paired_z(other[trials], given[trials], (shown[trials],) * 2)[2] > 3:
            found.append(session)
    return found or recording.sessions


def _listed(sessions: list[int], n_sessions: int) -> str:
    """Name the sessions in which another design fits better."""
    if len(sessions) == n_sessions:
        return "all sessions" if n_sessions > 1 else "all trials"
    if len(sessions) == 1:
        return f"session {sessions[0]}"
    return f"sessions {', '.join(map(str, sessions[:-1]))} and {sessions[-1]}"


def _sessions_apart(inputs: CheckInputs) -> list[Finding]:
    """Fit each session alone with its own and the other sessions' designs, and shifts of its own.

    For recordings of which no session helps to judge another: all sessions out of order, or each
    shifted by another number of trials.
    """
    recording, shown = inputs.recording, inputs.shown
    findings = []
    n_tried = 0
    for session in recording.sessions:
        trials = recording.trials_of(session)
        alone = recording.within(trials)
        designs = [
            Candidate(shift_text(by), SHIFT_MEND, shifted(shown[trials], alone.session, by))
            for by in SHIFTS
        ]
        for other in recording.sessions:
            theirs = recording.trials_of(other)
            if other != session and len(theirs) == len(trials) and n_tried < MOST_PAIRS:
                n_tried += 1
                what = f"the images of session {other}"
                designs.append(Candidate(what, SESSION_MEND, shown[theirs]))
        found = _better_as_whole(alone, shown[trials], designs, True)
        found = found or _better_as_whole(alone, shown[trials], designs, False)
        if found is not None:
            findings.append(found[0].at(f"session {session}"))
    return findings


def _copied_responses(inputs: CheckInputs) -> list[Finding]:
    """Stretches of trials whose responses are those of other trials, in every voxel."""
    found = []
    for first, again, length in repeated_runs(inputs.copies, LEAST_RUN):
        where = _stretch(inputs.recording, again, again + length)
        source = _stretch(inputs.recording, first, first + length)
        text = f"{where}: responses are copies of those of {source}"
        found.append(Finding(text, BLOCK_MEND, float(length)))
    return found


def _stretch(recording: Recording, start: int, stop: int) -> str:
    """Name consecutive trials of a session; they are counted from 1 within it."""
    session = int(recording.session[start])
    first = int(recording.trials_of(session)[0])
    n = int((recording.session == session).sum())
    if stop - start >= 0.95 * n:
        return f"session {session}"
    return f"trials {start - first + 1} to {stop - first} of session {session}"


# ------------------------------------------------------------------------------ within sessions


@dataclass(frozen=True)
class _SessionScan:
    findings: list[Finding]
    notes: list[str]


@dataclass(frozen=True, eq=False)
class _Sessions:
    """Search of every session for designs that fit better, by templates of the rest."""

    inputs: CheckInputs
    fitted: Templates

    def twice(self, session: int) -> float:
        """SD of sums over a session's trials, relative to independent products (`TWICE`).

        Products count twice where pieces of the session serve as templates of each other.
        """
        recording = self.inputs.recording
        own = recording.session == session
        n_own = n_left = 0
        for part in np.unique(recording.part[own]):
            left = recording.part != part
            n_own += int((left & own).sum())
            n_left += int(left.sum())
        return float(np.sqrt(1 + n_own / max(n_left, 1)))

    def scan(self) -> Iterator[_SessionScan]:
        recording, shown = self.inputs.recording, self.inputs.shown
        chances = {s: self._chance_of(s) for s in recording.sessions}
        usual = float(np.median([one.r for one in chances.values()]))
        rows = repeated_runs(shown, LEAST_RUN)
        for session in recording.sessions:
            trials = recording.trials_of(session)
            all_images = self.fitted.matrix(recording, trials)
            own = all_images[:, shown[trials]].astype(np.float64)
            found = [*self._shifts(trials, own), *self._others(session, trials, all_images)]
            others = [one.r for s, one in chances.items() if s != session]
            if found:
                yield _SessionScan([max(found, key=lambda one: one.weight)], [])
            elif others and _is_lost(chances[session], float(np.median(others))):
                yield _SessionScan([_lost(session, chances[session], float(np.median(others)))], [])
            else:
                yield self._unmatched(trials, own, usual, rows)

    def _chance_of(self, session: int) -> Chance:
        recording, shown = self.inputs.recording, self.inputs.shown
        trials = recording.trials_of(session)
        only = np.full_like(shown, -1)
        only[trials] = shown[trials]
        found = _chance(self.fitted, recording, only, "both")
        return replace(found, sd=self.twice(session) * found.sd)

    def _shifts(self, trials: Integers, own: Floats) -> list[Finding]:
        """Stretches that fit better when they are moved by some trials."""
        shown, n = self.inputs.shown[trials], len(trials)
        sd = float(np.std(own)) * np.sqrt(2)
        diagonal = np.diagonal(own)
        best: tuple[float, Finding] | None = None
        longest = min(n - LEAST_RUN, LONGEST_SHIFT)
        for by in (k for size in range(1, longest + 1) for k in (-size, size)):
            rows = slice(max(-by, 0), n - max(by, 0))
            differ = shown[rows] != shown[max(by, 0) : n + min(by, 0)]
            gain = np.where(differ, np.diagonal(own, by) - diagonal[rows], 0.0)
            start, stop, total = best_segment(gain)
            n_differ = int(differ[start:stop].sum())
            inside = np.flatnonzero(differ[start:stop]) + start
            # Trials of one image, where they follow each other, tell hardly more than one
            n_images = len(np.unique(shown[rows][inside]))
            if n_images < LEAST_RUN:
                continue
            z = total / n_differ / sd * np.sqrt(n_images)
            clear = CLEAR_RUN if abs(by) <= max(SHIFTS) else CLEAR_FAR
            # A far shift fits as well as a near one where images come in the same order again
            if z < clear or (best and z <= NEARER * best[0]):
                continue
            start, stop = int(inside[0]), int(inside[-1]) + 1
            candidate = Candidate(shift_text(by), SHIFT_MEND, shown)
            found = _Better(
                candidate,
                float(np.diagonal(own, by)[inside].mean()),
                float(diagonal[rows][inside].mean()),
                n_differ,
            )
            if found.r_other < 2 * max(found.r_given, 0.0):
                continue
            offset = int(trials[0]) + max(-by, 0)
            where = _stretch(self.inputs.recording, offset + start, offset + stop)
            best = z, found.at(where)
        return [best[1]] if best else []

    def _others(self, session: int, trials: Integers, agreement: np.ndarray) -> Iterator[Finding]:
        """Other designs of a whole session."""
        for candidate in self._session_candidates(session, trials):
            rows = np.flatnonzero(
                (candidate.shown >= 0) & (candidate.shown != self.inputs.shown[trials])
            )
            mine = agreement[rows, self.inputs.shown[trials[rows]]].astype(np.float64)
            theirs = agreement[rows, candidate.shown[rows]].astype(np.float64)
            images = candidate.shown[rows], self.inputs.shown[trials[rows]]
            r_other, r_given, z = paired_z(theirs, mine, images)
            if z >= CLEAR * self.twice(session):
                yield _Better(candidate, r_other, r_given, len(rows)).at(f"session {session}")

    def _session_candidates(self, session: int, trials: Integers) -> Iterator[Candidate]:
        recording, shown, n = self.inputs.recording, self.inputs.shown, len(trials)
        for by in SHIFTS:
            design = shifted(shown[trials], recording.session[trials], by)
            yield Candidate(shift_text(by), SHIFT_MEND, design)
        yield Candidate("their images in reverse order", ORDER_MEND, shown[trials[::-1]])
        for other in recording.sessions:
            if other != session:
                theirs = recording.trials_of(other)[:n]
                design = np.full(n, -1, np.int64)
                design[: len(theirs)] = shown[theirs]
                yield Candidate(f"the images of session {other}", SESSION_MEND, design)
        for what, new in renumberings(shown, self.inputs.images):
            yield Candidate(what, RENUMBER_MEND, new[shown[trials]])
        for label, design in self.inputs.designs.items():
            what = f"the images of sub-{label} in this session"
            yield Candidate(what, SUBJECT_MEND, design[trials])

    def _unmatched(
        self, trials: Integers, own: Floats, usual: float, rows: list[tuple[int, int, int]]
    ) -> _SessionScan:
        """Stretches that match their images no better than chance, where the others do."""
        excess = np.diagonal(own) - own.mean(1)
        variance = float(np.var(own))
        ratio = usual * (usual / 2 - excess) / max(variance, 1e-12)  # log likelihood ratio
        images = self.inputs.shown[trials]
        ratio *= len(np.unique(images)) / len(images) if _is_ordered(images) else 1.0
        first = int(trials[0])
        for one, again, length in rows:
            for start, source in ((again, one), (one, again)):
                if not first <= start < first + len(trials):
                    continue
                inside = slice(start - first, start - first + length)
                mean = float(excess[inside].mean())
                if ratio[inside].sum() > REPEATED and mean < LITTLE * usual:
                    where = _stretch(self.inputs.recording, start, start + length)
                    listed = _stretch(self.inputs.recording, source, source + length)
                    text = (
                        f"{where}: the table repeats the images of {listed}, which responses do "
                        f"not match (r {as_text(mean)}, elsewhere {as_text(usual)})"
                    )
                    return _SessionScan([Finding(text, BLOCK_MEND, usual * length)], [])
        start, stop, total = best_segment(ratio)
        mean = float(excess[start:stop].mean()) if stop > start else usual
        if total < UNMATCHED or stop - start < LEAST_UNMATCHED or mean > LITTLE * usual:
            return _SessionScan([], [])
        where = _stretch(self.inputs.recording, first + start, first + stop)
        figures = f"r {as_text(mean)}, elsewhere {as_text(usual)}"
        return _SessionScan([], [f"{where}: responses do not match their images ({figures})"])


def _is_ordered(images: Integers) -> bool:
    """Whether trials come image by image."""
    n_runs = 1 + int((images[1:] != images[:-1]).sum())
    return n_runs < 2 * len(np.unique(images)) and n_runs < 0.75 * len(images)


def _is_lost(own: Chance, usual: float) -> bool:
    """Whether a session agrees no better than chance, where it would stand out if it were usual."""
    return own.sd > 0 and own.z < LOST and usual / own.sd > USUAL


def _lost(session: int, own: Chance, usual: float) -> Finding:
    text = (
        f"session {session}: responses match neither its images nor another design that was tried "
        f"(r {as_text(own.r)}, elsewhere {as_text(usual)})"
    )
    return Finding(text, LOST_MEND, usual)


def as_text(r: float, digits: int = 2) -> str:
    """Return a correlation as messages have it: ".21", "−.03"."""
    text = f"{abs(r):.{digits}f}".removeprefix("0")
    return f"−{text}" if r < 0 and text.strip(".0") else text
