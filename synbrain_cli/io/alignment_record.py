"""What the alignment check found, ``prepared/<dataset>/sub-01_alignment.json``, sealed.

It lies beside the prepared subject and not in it: the check may be made again, with other tokens,
and the checksum of the subject, on which models depend, stays as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from synbrain_cli.errors import SynbrainError
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.records import read_sealed, write_sealed

Status = Literal["fits", "differs", "no signal", "too few"]
CHECK_AGAIN = "remove the file, and the check is made again"


class ChanceRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A mean agreement beside chance.

    Attributes
    ----------
    r : float
        Mean over trials, less that of permuted images.
    sd : float
        SD under permutation of the images.
    """

    r: float
    sd: float


class AlignmentRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whether a recording fits its design.

    Attributes
    ----------
    status : {"fits", "differs", "no signal", "too few"}
        As in `synbrain_cli.evaluation.alignment_check.DesignCheck`.
    text : str
        The result in one line.
    images, both : ChanceRecord
        Agreement of single trials with predictions from images, and with templates of images and
        other repeats.
    repeats : float, optional
        Agreement of single trials with the mean of other repeats; None without repeats.
    findings, notes : list of str
        What does not fit, the most important first; stretches that match nothing.
    mend : str
        What the user can do about the first finding; empty without.
    n_trials, n_designs : int
        Trials, and other designs that were tried on all of them.
    subjects : list of str
        Other subjects of the dataset whose designs were tried.
    bands : list of str
        Bands of the image encoder.
    data, tokens : str
        Checksums of the prepared subject and of the tokens of its images.
    """

    status: Status
    text: str
    images: ChanceRecord
    both: ChanceRecord
    repeats: float | None
    findings: list[str]
    notes: list[str]
    mend: str
    n_trials: int
    n_designs: int
    subjects: list[str]
    bands: list[str]
    data: str
    tokens: str
    versions: dict[str, str]


def alignment_file(subject: PreparedSubject) -> Path:
    """Return where the record of a subject lies."""
    return subject.folder.with_name(f"{subject.folder.name}_alignment.json")


def write_alignment(subject: PreparedSubject, record: AlignmentRecord) -> None:
    """Write the record of a subject."""
    write_sealed(alignment_file(subject), record)


def read_alignment(subject: PreparedSubject) -> AlignmentRecord | None:
    """Read the record of a subject as it is now prepared; None where there is no such record.

    One that is damaged, of another version or of other data is as none: the check takes seconds.
    """
    if not alignment_file(subject).exists():
        return None
    try:
        record = read_sealed(alignment_file(subject), AlignmentRecord, CHECK_AGAIN)
    except SynbrainError:
        return None
    return record if record.data == subject.checksum else None
