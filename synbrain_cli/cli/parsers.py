"""Text of an option → its value."""

from __future__ import annotations

from pathlib import Path

from synbrain_cli.errors import InputError


def parse_sessions(text: str | None) -> list[int] | None:
    """Sessions of "10" (the first ten) or "3-5,8"; None where nothing was given.

    Raises
    ------
    InputError
    """
    if text is None:
        return None
    try:
        if text.strip().isdigit():
            chosen = list(range(1, int(text) + 1))
        else:
            chosen = []
            for part in text.split(","):
                first, _, last = part.strip().partition("-")
                chosen += range(int(first), int(last or first) + 1)
    except ValueError:
        chosen = []
    if not chosen or min(chosen) < 1:
        raise InputError(
            f"--sessions {text}: expected a number (that many, from the first) or a list such as "
            "3-5,8"
        )
    return chosen


def parse_numbers(option: str, text: str | None) -> list[float] | None:
    """Numbers of "0.5,1,2"; None where nothing was given.

    Raises
    ------
    InputError
        It names the option.
    """
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"{option} {text}: expected numbers, such as 0.5,1,2") from error


def parse_named_file(text: str) -> tuple[str, Path]:
    """Name and file of "NAME=FILE".

    Raises
    ------
    InputError
    """
    name, separator, path = text.partition("=")
    if not (name and separator and path):
        raise InputError(f"--roi {text}: expected NAME=FILE, such as FFA=ffa_mask.nii.gz")
    return name, Path(path)


def parse_subject_numbers(subjects: list[str] | None) -> list[int] | None:
    """Numbers of NSD's subjects, of 2, 02, sub-02 or subj02 each; None where none was given.

    Raises
    ------
    InputError
    """
    from synbrain_cli.labels import subject_label

    if not subjects:
        return None
    labels = [subject_label(text) for text in subjects]
    for label in labels:
        if not label.isdigit():
            raise InputError(f"--subject {label}: NSD's subjects are numbers, 1 to 8")
    return [int(label) for label in labels]
