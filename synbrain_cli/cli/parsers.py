"""Text of an option → its value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from synbrain_cli.bands import DEFAULT
from synbrain_cli.errors import InputError

if TYPE_CHECKING:
    from synbrain_cli.io.token_files import TokenFile
    from synbrain_cli.io.workspace import Workspace
    from synbrain_cli.pipeline.preparing import Target

MAX_SESSION = 9999  # far more than any subject has


def parse_sessions(text: str | None) -> list[int] | None:
    """Sessions of "10" (the first ten) or "3-5,8"; None where nothing was given.

    Raises
    ------
    InputError
    """
    if text is None:
        return None
    try:
        ranges = []
        for part in text.split(","):
            first, _, last = part.strip().partition("-")
            ranges.append((int(first), int(last or first)))
        if text.strip().isdigit():
            ranges = [(1, int(text))]
        within = all(first >= 1 and last <= MAX_SESSION for first, last in ranges)
        chosen = [n for first, last in ranges for n in range(first, last + 1)] if within else []
    except ValueError:
        chosen = []
    if not chosen:
        raise InputError(
            f"--sessions {text}: expected a number (that many, from the first) or a list such as "
            f"3-5,8, of sessions from 1 to {MAX_SESSION}"
        )
    return chosen


def parse_numbers(option: str, text: str | None) -> list[float] | None:
    """Numbers of "0.5,1,2", all of 0 or more; None where nothing was given.

    Raises
    ------
    InputError
        It names the option.
    """
    if text is None:
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(math.isfinite(number) and number >= 0 for number in numbers):
        raise InputError(f"{option} {text}: expected numbers of 0 or more, such as 0.5,1,2")
    return numbers


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


def parse_tokens(tokens: Sequence[str] | None) -> tuple[TokenFile, ...]:
    """Files of tokens, of FILE or NAME=FILE each.

    Raises
    ------
    InputError
    """
    from synbrain_cli.io.token_files import TokenFile

    return tuple(TokenFile.parse(text) for text in tokens or ())


def parse_target(
    workspace: Workspace,
    dataset: str,
    encoder: Sequence[str] | None,
    tokens: Sequence[str] | None,
    precision: str,
    overwrite: bool,
    check: bool,
    usual: tuple[str, ...] = DEFAULT,
) -> Target:
    """Where the commands of prepare put subjects, and how the images are encoded.

    Image encoders are those named; none where tokens alone are given; else the usual ones.

    Raises
    ------
    InputError
    """
    from synbrain_cli.pipeline.preparing import Target

    encoders = tuple(encoder) if encoder else () if tokens else usual
    files = parse_tokens(tokens)
    return Target(workspace, dataset, encoders, precision, files, overwrite, check)


def require_images(
    given: object, tokens: Sequence[str] | None, name: str, instead: str = "--tokens"
) -> None:
    """Refuse a command without images and without their tokens, as Typer does what is missing.

    ``instead`` are the options that may be passed in their place.

    Raises
    ------
    typer.BadParameter
        ``name`` is the argument, or the option, that names the images.
    """
    import typer

    if not (given or tokens):
        kind = "option" if name.startswith("--") else "argument"
        raise typer.BadParameter(f"Missing {kind} '{name}' (or pass {instead}).")


def parse_versions(text: str, known: Mapping[str, str]) -> list[str]:
    """Versions of betas, of "b2" or "b2,b3", or their whole names; as their short names.

    Raises
    ------
    typer.BadParameter
    """
    import typer

    short = {whole: name for name, whole in known.items()}
    names = [short.get(part.strip(), part.strip()) for part in text.split(",")]
    for name in names:
        if name not in known:
            raise typer.BadParameter(
                f"{name!r} is not one of {', '.join(map(repr, sorted(known)))}, nor one of "
                f"{', '.join(map(repr, known.values()))}.",
                param_hint="'--preparation'",
            )
    return names


def parse_subject_numbers(subjects: list[str] | None) -> list[int] | None:
    """Numbers of a dataset's subjects, of 2, 02, sub-02 or subj02 each; None where none was given.

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
            raise InputError(
                f"--subject {label}: expected the number of a subject of this dataset, such as 1"
            )
    return [int(label) for label in labels]
