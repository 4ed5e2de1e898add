"""Search of every session for a design that fits it better, by templates of the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from synbrain_cli.evaluation.alignment import (
    LEAST_PARTS,
    Floats,
    Integers,
    Singles,
    Templates,
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
)
from synbrain_cli.evaluation.alignment_findings import (
    LEAST_RUN,
    SIGNAL,
    Better,
    Finding,
    as_text,
    chance_of,
    stretch_text,
)
from synbrain_cli.evaluation.alignment_inputs import CheckInputs
from synbrain_cli.evaluation.alignment_statistics import (
    Chance,
    best_segment,
    counted_twice,
    critical_z,
    critical_z_of_stretch,
    paired_z,
)

NEARER = 1.15  # times the z of a nearer shift, which a farther one must have
LONGEST_SHIFT = 750  # trials: a session of NSD
LEAST_UNMATCHED = 12  # of one that is named because it matches nothing
UNMATCHED = 25.0  # log likelihood ratio of "no agreement here" against "as elsewhere"
REPEATED = 15.0  # the same, where rows of the table or responses are repeated, too
FEW_REPEATS = 2  # stretches of the table that occur twice: with more, that is the design
LOST = 2.0  # z of a session that agrees no better than chance, …
USUAL = 8.0  # … where the agreement of the others would have a z above this
LOST_MEND = "compare its table with its responses, or leave the session out"
LITTLE = 0.25  # of the usual agreement: less is none


@dataclass(frozen=True)
class SessionScan:
    """What was found in a session, and what was noted without stopping.

    Attributes
    ----------
    findings : list of Finding
        The most important one alone.
    notes : list of str
    """

    findings: list[Finding]
    notes: list[str]


@dataclass(frozen=True, eq=False)
class Sessions:
    """Search of every session for designs that fit better, by templates of the rest.

    Attributes
    ----------
    inputs : CheckInputs
    fitted : Templates
        Of the given design.
    """

    inputs: CheckInputs
    fitted: Templates

    @cached_property
    def repeated_rows(self) -> list[tuple[int, int, int]]:
        """Stretches of the table that occur twice, as `repeated_runs` returns them."""
        return repeated_runs(self.inputs.shown, LEAST_RUN)

    def scan(self) -> Iterator[SessionScan]:
        """Yield what is found in each session, in order."""
        recording = self.inputs.recording
        chances = {s: self._chance_of(s) for s in recording.sessions}
        usual = float(np.median([one.r for one in chances.values()]))
        apart = self._by_other_sessions()
        for session in recording.sessions:
            trials = recording.trials_of(session)
            all_images = self.fitted.matrix(recording, trials)
            found = self._better(session, self.fitted.part, all_images)
            if apart is not None:
                found += self._better(session, apart.part, apart.matrix(recording, trials))
            others = [one.r for s, one in chances.items() if s != session]
            if found:
                yield SessionScan([max(found, key=lambda one: one.weight)], [])
            elif others and _is_lost(chances[session], float(np.median(others))):
                yield SessionScan([_lost(session, chances[session], float(np.median(others)))], [])
            else:
                yield self._unmatched(trials, all_images, usual)

    def _chance_of(self, session: int) -> Chance:
        recording, shown = self.inputs.recording, self.inputs.shown
        trials = recording.trials_of(session)
        only = np.full_like(shown, -1)
        only[trials] = shown[trials]
        found = chance_of(self.fitted, recording, only, "both")
        return replace(found, sd=counted_twice(self.fitted.part, trials) * found.sd)

    def _by_other_sessions(self) -> Templates | None:
        """Templates from other sessions alone, where the usual ones come from pieces of sessions.

        Those of a session that was recorded with another design are then free of it.
        """
        recording = self.inputs.recording
        if not 2 <= len(recording.sessions) < LEAST_PARTS:
            return None
        part = np.searchsorted(recording.sessions, recording.session).astype(np.int64)
        return Templates.fit(replace(recording, part=part), self.inputs.shown)

    def _with_shown(self, trials: Integers, agreement: Singles) -> Floats:
        """Agreement of trials with the images that each of them showed: (n_trials, n_trials)."""
        return agreement[:, self.inputs.shown[trials]].astype(np.float64)

    def _better(self, session: int, part: Integers, agreement: Singles) -> list[Finding]:
        """Designs that fit a session better, by its agreement with the templates of such parts."""
        trials = self.inputs.recording.trials_of(session)
        own = self._with_shown(trials, agreement)
        return [
            *self._shifts(trials, own, part),
            *self._pasted(trials, own, part),
            *self._others(session, trials, agreement, part),
        ]

    def _shifts(self, trials: Integers, own: Floats, part: Integers) -> list[Finding]:
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
            n_shifts = 2 * (max(SHIFTS) if abs(by) <= max(SHIFTS) else longest - max(SHIFTS))
            clear = critical_z_of_stretch(n_shifts, n / (stop - start))
            if z >= clear:
                clear *= counted_twice(part, trials[rows][start:stop])
            # A far shift fits as well as a near one where images come in the same order again
            if z < clear or (best and z <= NEARER * best[0]):
                continue
            start, stop = int(inside[0]), int(inside[-1]) + 1
            candidate = Candidate(shift_text(by), SHIFT_MEND, shown)
            found = Better(
                candidate,
                float(np.diagonal(own, by)[inside].mean()),
                float(diagonal[rows][inside].mean()),
                n_differ,
            )
            if found.r_other < 2 * max(found.r_given, 0.0):
                continue
            offset = int(trials[0]) + max(-by, 0)
            where = stretch_text(self.inputs.recording, offset + start, offset + stop)
            best = z, found.at(where)
        return [best[1]] if best else []

    def _pasted(self, trials: Integers, own: Floats, part: Integers) -> Iterator[Finding]:
        """Rows of the table that were pasted twice, after which all rows of a session are moved.

        The table itself shows where that may be: there are few such designs to choose from.
        """
        first, stop = int(trials[0]), int(trials[-1]) + 1
        within = [one for one in self.repeated_rows if first <= one[0] and one[1] < stop]
        for _, again, by in within:
            rows = np.arange(again - first, len(trials) - by)
            images = self.inputs.shown[trials[rows + by]], self.inputs.shown[trials[rows]]
            r_other, r_given, z = paired_z(own[rows, rows + by], own[rows, rows], images)
            if z >= critical_z(len(within)) * counted_twice(part, trials[rows]):
                candidate = Candidate(shift_text(by), BLOCK_MEND, images[0])
                where = stretch_text(self.inputs.recording, again, stop)
                yield Better(candidate, r_other, r_given, len(rows)).at(where)

    def _others(
        self, session: int, trials: Integers, agreement: Singles, part: Integers
    ) -> Iterator[Finding]:
        """Other designs of a whole session."""
        candidates = list(self._session_candidates(session, trials))
        clear = critical_z(len(candidates)) * counted_twice(part, trials)
        for candidate in candidates:
            rows = np.flatnonzero(
                (candidate.shown >= 0) & (candidate.shown != self.inputs.shown[trials])
            )
            mine = agreement[rows, self.inputs.shown[trials[rows]]].astype(np.float64)
            theirs = agreement[rows, candidate.shown[rows]].astype(np.float64)
            images = candidate.shown[rows], self.inputs.shown[trials[rows]]
            r_other, r_given, z = paired_z(theirs, mine, images)
            if z >= clear:
                yield Better(candidate, r_other, r_given, len(rows)).at(f"session {session}")

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

    def _repeats_within(self, trials: Integers) -> Iterator[tuple[int, int, int]]:
        """Rows of a session that stand elsewhere in the table, too: start, where else, length."""
        first, stop = int(trials[0]), int(trials[-1]) + 1
        for one, again, length in self.repeated_rows:
            for start, source in ((again, one), (one, again)):
                if first <= start < stop:
                    yield start, source, length

    def _unmatched(self, trials: Integers, agreement: Singles, usual: float) -> SessionScan:
        """Stretches that match their images no better than chance, where the others do."""
        own = self._with_shown(trials, agreement)
        excess = np.diagonal(own) - own.mean(1)
        variance = float(np.var(own))
        ratio = usual * (usual / 2 - excess) / max(variance, 1e-12)  # log likelihood ratio
        images = self.inputs.shown[trials]
        ratio *= len(np.unique(images)) / len(images) if _is_ordered(images) else 1.0
        first = int(trials[0])
        doubts = []
        for start, source, length in self._repeats_within(trials):
            inside = slice(start - first, start - first + length)
            mean = float(excess[inside].mean())
            where = stretch_text(self.inputs.recording, start, start + length)
            listed = stretch_text(self.inputs.recording, source, source + length)
            if ratio[inside].sum() > REPEATED and mean < LITTLE * usual:
                text = (
                    f"{where}: the table repeats the images of {listed}, which responses do "
                    f"not match (r {as_text(mean)}, elsewhere {as_text(usual)})"
                )
                return SessionScan([Finding(text, BLOCK_MEND, usual * length)], [])
            is_known = mean >= SIGNAL * np.sqrt(variance / length)
            if start > source and length >= LEAST_UNMATCHED and not is_known:
                doubts.append(
                    f"{where}: the table repeats the images of {listed}, and responses do not tell "
                    "whether they were shown again"
                )
        start, stop, total = best_segment(ratio)
        mean = float(excess[start:stop].mean()) if stop > start else usual
        if total < UNMATCHED or stop - start < LEAST_UNMATCHED or mean > LITTLE * usual:
            return SessionScan([], doubts if len(self.repeated_rows) <= FEW_REPEATS else [])
        where = stretch_text(self.inputs.recording, first + start, first + stop)
        figures = f"r {as_text(mean)}, elsewhere {as_text(usual)}"
        return SessionScan([], [f"{where}: responses do not match their images ({figures})"])


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
