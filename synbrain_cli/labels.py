"""Names that users give, and that become files, folders, columns and lines of records.

Each kind of name is checked by one function, wherever it enters: options of the command line,
arguments of Python users, and names read from records, whose ``__post_init__`` calls the same
function (an `InputError` there is an error of the field that is read).

>>> model_name("sub-01_linear")
'sub-01_linear'
>>> subject_label("subj02"), subject_label(2), subject_label("sub-CSI1"), subject_label("002")
('02', '02', 'CSI1', '002')
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from dataclasses import dataclass

from synbrain_cli.errors import InputError
from synbrain_cli.text import one_line

# Of image files that this program reads; how names of images are told from names of files.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif"),
    *(".ppm", ".pgm", ".avif"),
)
MAX_CHARACTERS = 80
# Names are parts of longer ones: `.NAME.recovery`, `NAME_augmentation`; file systems take 255.
MAX_BYTES = 200
MAX_SUBJECT = 40
DERIVED_BYTES = 100  # of each part of a name that is made of others

# What no name holds: characters that separate folders, or that some file system or this program's
# lists keep for themselves; whatever a terminal acts on or does not show; spaces of other kinds.
_NO_NAME = re.compile(
    r'[/\\:*?"<>|,\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]'
    r"|(?! )\s"
)
_NO_COLUMN = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)
# Layers of encoders follow @, several names are joined by +.
_NO_TOKENS = re.compile(rf"[@=+\s]|{_NO_NAME.pattern}")
_SUBJECT = re.compile(r"[A-Za-z0-9]+")
# `sub-` belongs to no label (BIDS); the words do not where a number follows.
_PREFIX = re.compile(r"sub-|(?:participant|subject|subj|sub)[-_ ]?(?=[0-9]+$)", re.IGNORECASE)


@dataclass(frozen=True)
class NameKind:
    """A kind of name.

    Attributes
    ----------
    what, option : str
        What has the name, and the option that gives it, for messages.
    forbidden : pattern
        Characters that it does not hold.
    reserved : tuple of str
        Names that mean something else, in small letters.
    is_path : bool
        Whether it names a folder: it then begins with another character than a dot or a dash.
    """

    what: str
    option: str
    forbidden: re.Pattern[str] = _NO_NAME
    reserved: tuple[str, ...] = ()
    is_path: bool = True


_MODEL = NameKind("a model", "--name", reserved=("cores", "readme.md"))
_DATASET = NameKind("a dataset", "--dataset")
_TOKENS = NameKind("a band of your own", "--tokens", _NO_TOKENS)
_ROI = NameKind("an ROI", "--roi", _NO_COLUMN, ("all",), is_path=False)
_COLUMN = NameKind("a column", "--voxels", _NO_COLUMN, is_path=False)


def model_name(name: str) -> str:
    """Return the name of a model, checked: a folder in ``weights/``.

    Raises
    ------
    InputError
    """
    return _checked(name, _MODEL)


def dataset_name(name: str) -> str:
    """Return the name of a dataset, checked: a folder in ``prepared/``.

    Raises
    ------
    InputError
    """
    return _checked(name, _DATASET)


def tokens_name(name: str) -> str:
    """Return the name of a band that the user computed, checked: it follows ``tokens:``.

    Raises
    ------
    InputError
    """
    return _checked(name, _TOKENS)


def image_stem(name: str) -> str:
    """Return the name of an image without the suffix of an image file, folders kept.

    Examples
    --------
    >>> image_stem("faces/img.1.png"), image_stem("img.1")
    ('faces/img.1', 'img.1')
    """
    stem, _, suffix = name.rpartition(".")
    return stem if stem and f".{suffix.lower()}" in IMAGE_SUFFIXES else name


def roi_label(name: str) -> str:
    """Return the name of an ROI, checked: a label in ``voxels.tsv``.

    Raises
    ------
    InputError
    """
    return _checked(name, _ROI)


def column_name(name: str) -> str:
    """Return the name of a collection of ROIs, checked: a column of ``voxels.tsv``.

    Raises
    ------
    InputError
    """
    return _checked(name, _COLUMN)


def subject_label(subject: str | int) -> str:
    """Return the label of a subject as files have it: 02 for 2, sub-02, subj02 or subject_2.

    Labels that are not numbers stay as they are (``sub-CSI1`` → CSI1), and so do numbers that are
    written with other zeros: 002 is not 02.

    Raises
    ------
    InputError
        When it is no label.
    """
    text = str(subject).strip()
    label = _PREFIX.sub("", text, count=1) if _PREFIX.match(text) else text
    if not _SUBJECT.fullmatch(label) or len(label) > MAX_SUBJECT:
        raise InputError(
            f"--subject {_shown(text)}: expected a label such as 2, 02, sub-02, subj02 or CSI1: "
            f"letters (a to z) and digits, at most {MAX_SUBJECT}"
        )
    return label.zfill(2) if label.isdigit() else label


def require_subject_label(label: str) -> str:
    """Return the label of a subject as it stands in a record, without ``sub-``.

    Raises
    ------
    InputError
        When `subject_label` would write it otherwise.
    """
    if subject_label(label) != label:
        raise InputError(f"subject {_shown(label)}: expected {subject_label(label)}")
    return label


def require_subject_of_dataset(label: str) -> str:
    """Return a label such as "nsd/sub-01", as it stands in a record.

    Raises
    ------
    InputError
    """
    dataset, separator, subject = label.partition("/sub-")
    if not separator:
        raise InputError(f"subject {_shown(label)}: expected a label such as nsd/sub-01")
    return f"{dataset_name(dataset)}/sub-{require_subject_label(subject)}"


def names_subject(dataset: str, folder: str) -> bool:
    """Return whether folders such as "nsd" and "sub-01" have names that this program gives.

    Copies that a user put beside them ("sub-01 (copy)") have not.
    """
    try:
        require_subject_of_dataset(f"{dataset}/{folder}")
    except InputError:
        return False
    return True


def derived_name(text: str, max_bytes: int = DERIVED_BYTES) -> str:
    """Return text as a part of a file name: shortened, without characters that no name holds.

    A name that had to be changed ends in eight hexadecimal digits of the SHA-256 of the text
    (ours), so that different texts have different names.

    Examples
    --------
    >>> derived_name("stim_v1.0")
    'stim_v1.0'
    """
    name = _NO_NAME.sub("-", unicodedata.normalize("NFC", text)).strip()
    if name == text and len(os.fsencode(name)) <= max_bytes:
        return name
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    kept = name.encode()[: max_bytes - 9].decode("utf-8", "ignore")
    return f"{kept}-{digest}"


def _checked(name: str, kind: NameKind) -> str:
    """Return a name in composed characters (NFC), or say what is wrong with it."""
    name = unicodedata.normalize("NFC", str(name))
    fault = _fault(name, kind)
    if fault:
        raise InputError(f"{kind.option} {_shown(name)}: expected the name of {kind.what}, {fault}")
    return name


def _fault(name: str, kind: NameKind) -> str:
    """What is wrong with a name; empty where nothing is."""
    if not name.strip():
        return "found none"
    found = kind.forbidden.search(name)
    if found:
        return f"found one with {found[0]!a}: use letters, digits, - _ . or +"
    if kind.is_path and (name[0] in ".-" or name[-1] == "."):
        return "found one that begins with a dot or a dash, or ends in a dot: choose another"
    if name != name.strip():
        return "found one with spaces around it: leave them out"
    if name.casefold() in kind.reserved:
        return "found one that has a meaning of its own: choose another"
    if len(name) > MAX_CHARACTERS or len(name.encode()) > MAX_BYTES:
        return f"found {len(name)} characters: at most {MAX_CHARACTERS} ({MAX_BYTES} bytes)"
    return ""


def _shown(name: str) -> str:
    """A name in a message: in quotes where it is empty or has spaces, and never very long."""
    shown = one_line(name[:MAX_CHARACTERS]) + ("…" if len(name) > MAX_CHARACTERS else "")
    return shown if shown and not re.search(r"\s", shown) else f"'{shown}'"
