"""Before training: does a recording know its images? Part of `synbrain prepare` and `train`."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

from synbrain_cli.errors import AlignmentError
from synbrain_cli.evaluation.alignment_check import DesignCheck, check_design
from synbrain_cli.evaluation.alignment_findings import as_text
from synbrain_cli.evaluation.alignment_inputs import load_inputs
from synbrain_cli.io.alignment_record import (
    AlignmentRecord,
    ChanceRecord,
    read_alignment,
    write_alignment,
)
from synbrain_cli.io.files import versions
from synbrain_cli.io.prepared import PreparedSubject, find_prepared
from synbrain_cli.io.token_store import TokenStore
from synbrain_cli.run import RunContext
from synbrain_cli.threads import one_thread

GO_ON = "--no-check goes on as it is"


def check_alignment(subject: PreparedSubject, store: TokenStore, run: RunContext) -> None:
    """Stop where a subject's responses do not fit the images of its trials; else say that they do.

    The result is kept beside the prepared subject, and is not computed again for the same
    responses, trials and tokens.

    Parameters
    ----------
    subject : PreparedSubject
    store : TokenStore
        Tokens of its images.
    run : RunContext
        Its main process computes.

    Raises
    ------
    AlignmentError
        When another design fits better, everywhere or in places; when the given one fits no better
        than chance on as many trials as would show an ordinary signal.
    """

    def check() -> AlignmentRecord:
        known = read_alignment(subject)
        if known is not None and known.tokens == tokens_checksum(subject, store):
            return known
        record = make_record(subject, store)
        write_alignment(subject, record)
        return record

    record = run.processes.on_main(check)
    if record.status in ("differs", "no signal"):
        raise AlignmentError(f"{subject.label}: {record.text}")
    run.progress.info(f"{subject.label}: {record.text}")
    for note in record.notes:
        run.progress.info(f"{subject.label}: {note}: left as it is")


def make_record(subject: PreparedSubject, store: TokenStore) -> AlignmentRecord:
    """Check the design of a subject, and return what was found.

    Parameters
    ----------
    subject : PreparedSubject
    store : TokenStore
    """
    others = [
        one
        for one in find_prepared(subject.folder.parent.parent)
        if one.dataset == subject.dataset and one.subject != subject.subject
    ]
    inputs = load_inputs(subject, store, others)
    with one_thread():  # many small products
        found = check_design(inputs)
    return AlignmentRecord(
        status=found.status,
        text=describe_check(found, len(inputs.shown)),
        images=ChanceRecord(found.images.r, found.images.sd),
        both=ChanceRecord(found.both.r, found.both.sd),
        repeats=found.repeats if math.isfinite(found.repeats) else None,
        findings=[one.text for one in found.findings],
        notes=list(found.notes),
        mend=found.findings[0].mend if found.findings else "",
        n_trials=len(inputs.shown),
        n_designs=found.n_designs,
        subjects=sorted(inputs.designs),
        bands=[band.spec for band in store.at_finest_scale().bands],
        data=subject.checksum,
        tokens=tokens_checksum(subject, store),
        versions=versions(),
    )


def tokens_checksum(subject: PreparedSubject, store: TokenStore) -> str:
    """SHA-256 of the checksums of the tokens of a subject's images, band by band."""
    shown = set(subject.trials["image"])
    digest = hashlib.sha256()
    for one in sorted(store.stores, key=lambda one: one.band.spec):
        rows = zip(one.images, one.checksums, strict=True)
        lines = sorted(f"{checksum} {image}" for image, checksum in rows if image in shown)
        digest.update("\n".join([one.band.spec, *lines]).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def describe_check(found: DesignCheck, n_trials: int) -> str:
    """Return a result in one line.

    Parameters
    ----------
    found : DesignCheck
    n_trials : int
    """
    figures = _figures(found)
    if found.findings:
        first = found.findings[0]
        rest = len(found.findings) - 1
        more = f" (and {rest} more of its kind: {_listed(found)})" if rest else ""
        return f"{first.text}{more}: {first.mend}; {GO_ON}"
    if found.status == "no signal":
        what = (
            "repeats of an image agree, but images do not predict them: are the image files those "
            "that were shown, under the right names"
            if found.both.z >= 4
            else "expected responses to agree with their images: is the table of these responses, "
            "are these voxels visual"
        )
        return (
            f"no signal: single trials agree with their images no better than with permuted ones "
            f"({figures}), nor in any of {found.n_designs} other orders: {what}? {GO_ON}"
        )
    if found.status == "too few":
        return (
            f"{n_trials:,} trials are too few, or too noisy, to check whether responses and images "
            f"belong together ({figures}): going on"
        )
    return (
        f"responses fit their images ({figures}; {found.n_designs} other orders fit worse, and so "
        "do shifts within sessions)"
    )


def _figures(found: DesignCheck) -> str:
    """Agreement with images, and with repeats where there are any."""
    chance = f"r {as_text(found.images.r)}, chance ±{as_text(2 * found.images.sd, 3)}"
    if math.isfinite(found.repeats):
        return f"{chance}; with other repeats r {as_text(found.repeats)}"
    return chance


def _listed(found: DesignCheck, most: int = 5) -> str:
    """Name where the other findings are."""
    places = [one.text.split(":", 1)[0] for one in found.findings[1:]]
    return ", ".join(places[:most]) + (", …" if len(places) > most else "")


def check_all(subjects: Sequence[PreparedSubject], store: TokenStore, run: RunContext) -> None:
    """Check several subjects: see `check_alignment`; the first fault is raised after the last."""
    faults = []
    for subject in subjects:
        try:
            check_alignment(subject, store, run)
        except AlignmentError as error:
            faults.append(error)
    if faults:
        others = len(faults) - 1
        raise AlignmentError(
            f"{faults[0]}" + (f" ({others} more of the subjects fail, too)" if others else "")
        )
