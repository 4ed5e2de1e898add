"""Whether a design fits its recording, and if not, where and how.

`check_design` compares the given design with others (`evaluation.alignment_candidates`): with a fit
of its own for each that concerns all sessions, and, within each session, by templates from the rest
of the recording. Rules and thresholds are ours; `benchmarks/alignment.py` measures how often they
find faults and raise false alarms.
"""

from __future__ import annotations

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
    SESSION_MEND,
    SHIFT_MEND,
    SHIFTS,
    Candidate,
    repeated_runs,
    shift_text,
    shifted,
    whole_candidates,
)
from synbrain_cli.evaluation.alignment_findings import (
    LEAST_RUN,
    SIGNAL,
    Better,
    Finding,
    chance_of,
    stretch_text,
)
from synbrain_cli.evaluation.alignment_inputs import CheckInputs
from synbrain_cli.evaluation.alignment_sessions import Sessions
from synbrain_cli.evaluation.alignment_statistics import Chance, paired_z

# Another design is better where the paired difference lies this many standard errors above 0: p <
# 3e-5 for each of 20 designs or so, if neither fits. Where the given one fits, differences are
# negative.
CLEAR = 4.0
SURE = 4.0  # from which on it certainly is
ENOUGH = 10.0  # z of agreement with images that needs no repeats to compare designs
ORDINARY = 0.05  # agreement of single trials, by images alone, that a usable recording has
POWER = 5.0  # z that an ordinary agreement must have for its absence to mean anything
MOST_PAIRS = 400  # of sessions that are fitted apart
MOST_WHOLE = 6  # sessions on which designs of all sessions are compared


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
        Stretches that match their images no better than chance, while the others do, and rows that
        the table repeats, where responses do not tell whether it should.
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
        for one in (chance_of(fitted, recording, shown, kind) for kind in ("features", "both"))
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
        for session in Sessions(inputs, fitted).scan():
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


# ------------------------------------------------------------------------ designs of all sessions


def _better_as_whole(
    recording: Recording, shown: Integers, candidates: list[Candidate], by_images: bool
) -> tuple[Better, list[int]] | None:
    """Return the design that fits clearly better than the given one, and the sessions in which.

    Designs are compared by the agreement with images (of which repeats know nothing that are
    renumbered together), or with templates.
    """
    given = _agreement(recording, shown, by_images)
    best: tuple[Better, list[int]] | None = None
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
        found = Better(candidate, r_other, r_given, int(np.isfinite(theirs).sum()))
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
        where = stretch_text(inputs.recording, again, again + length)
        source = stretch_text(inputs.recording, first, first + length)
        text = f"{where}: responses are copies of those of {source}"
        found.append(Finding(text, BLOCK_MEND, float(length)))
    return found
