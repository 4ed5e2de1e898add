"""Names and descriptions that follow the Brain Imaging Data Structure (BIDS)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from synbrain_cli.errors import InputError
from synbrain_cli.io.files import atomic, versions, write_json

BIDS_VERSION = "1.11.1"
MODEL = "model"  # name of the first model's folder in BIDS URIs
# What BIDS has no names for, and why it is named so all the same: the content of ``.bidsignore``.
NOT_BIDS = {
    "BIDS 1.11 has no names for maps of statistics: these are those of Nilearn and FitLins": (
        "*_statmap.*",
    ),
    "nor for responses to single stimuli: stim- is the entity proposed for them": ("*_betas.*",),
    "Arrays, of which BIDS knows none": ("*.npy", "*.safetensors", "*.npz"),
    "Pictures and pages": ("*.png", "*.svg", "*.pdf", "*.html", "figures"),
    "Records and tables of the command, described in docs/file-format.md": (
        *("/settings.json", "/config.json", "/contrast.json", "/categories.json", "/prf.json"),
        "/events.tsv",
        *("/selection.json", "/images.tsv", "/voxels.tsv", "/regions.tsv", "/power.tsv"),
        *("/power_images.tsv", "/prf.tsv", "/selection.tsv", "/conditions.tsv", "/card.md"),
    ),
    "The mask of a model as it reads it, and the models that it predicts with": (
        *("/mask.nii.gz", "/sources"),
    ),
}
_PUBLISHED = {  # data sets by the name of their reader
    "nsd": {
        "URL": "https://naturalscenesdataset.org",
        "DOI": "doi:10.1038/s41593-021-00962-x",
    }
}
_HOW_NAMED = """\
Written by synbrain. What it holds was predicted by a model, and is no recording. Files are
named and described as in the Brain Imaging Data Structure (BIDS), of which this folder is a
derivative; `.bidsignore` lists the names that BIDS does not have.
"""
MAX_LABEL = 80  # a file's name may hold two, and some 90 characters beside; 255 are possible


def bids_label(name: str) -> str:
    """Return an alphanumeric BIDS label for any name.

    Other characters are removed, and what is beyond `MAX_LABEL` characters. In these cases eight
    hexadecimal digits of the SHA-256 of the name are appended (ours), so that names which differ in
    what was removed have different labels.

    Examples
    --------
    >>> bids_label("coffee")
    'coffee'
    >>> bids_label("a b") == bids_label("ab")
    False
    """
    label = "".join(c for c in name if c.isascii() and c.isalnum())
    if label == name and len(label) <= MAX_LABEL:
        return label
    return f"{label[: MAX_LABEL - 8]}{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def bids_labels(names: Sequence[str], what: str = "images", entity: str = "stim") -> list[str]:
    """Return the `bids_label` of each name of images, or of what else has such names.

    Raises
    ------
    InputError
        When two names have the same label, where letters of both cases count as the same (some file
        systems do not tell them apart).
    """
    labels = [bids_label(name) for name in names]
    first: dict[str, int] = {}
    for i, label in enumerate(labels):
        other = first.setdefault(label.casefold(), i)
        if other != i:
            raise InputError(
                f"{what} {names[other]} and {names[i]} would both be written as {entity}-{label}: "
                "rename one of them"
            )
    return labels


def func_folder(folder: Path, subject: str) -> Path:
    """Return the folder of a subject's maps in a derivative: ``sub-01/func``."""
    return folder / f"sub-{subject}" / "func"


def func_file(subject: str, what: str) -> str:
    """Return the path in a derivative of a file of a subject, given the end of its name.

    >>> func_file("01", "desc-draws_betas.npy")
    'sub-01/func/sub-01_desc-draws_betas.npy'
    """
    return (func_folder(Path(), subject) / f"sub-{subject}_{what}").as_posix()


@dataclass(frozen=True)
class Derivative:
    """A folder of results as a BIDS derivative: what others read first.

    Attributes
    ----------
    name : str
        Title of the data set.
    simulated : bool
        Whether the subject is a simulated one.
    about : str, optional
        What is in the folder, in sentences, for ``README.md``; without it there is none.
    models : mapping of Path to str
        Folder of each model that it was made with → its fingerprint.
    data : sequence of str
        Names of the data sets that the models were trained on.
    """

    name: str
    simulated: bool
    about: str = ""
    models: Mapping[Path, str] = field(default_factory=dict)
    data: Sequence[str] = ()


def write_derivative(folder: Path, derivative: Derivative) -> None:
    """Write ``dataset_description.json``, ``README.md`` and ``.bidsignore``.

    Parameters
    ----------
    folder : path
        Where the models lie is said as seen from there, so that the workspace can be moved.
    derivative : Derivative
    """
    write_json(folder / "dataset_description.json", _description(folder, derivative))
    texts = {".bidsignore": _ignored()}
    if derivative.about:
        note = "**Simulated subject: no brain was measured.**\n\n" if derivative.simulated else ""
        texts["README.md"] = f"# {derivative.name}\n\n{note}{derivative.about}\n\n{_HOW_NAMED}"
    for name, text in texts.items():
        with atomic(folder / name) as temporary:
            temporary.write_text(text, "utf-8")


def derivative_description(name: str, simulated: bool) -> dict[str, Any]:
    """Return what every derivative's ``dataset_description.json`` holds."""
    return {
        "Name": name,
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "synbrain", "Version": versions()["synbrain"]}],
        "Simulated": simulated,
    }


def _description(folder: Path, derivative: Derivative) -> dict[str, Any]:
    """Describe a derivative, with the models and data sets that it was made with."""
    found = derivative_description(derivative.name, derivative.simulated)
    links = {
        MODEL + (str(k) if k > 1 else ""): Path(os.path.relpath(model, folder)).as_posix()
        for k, model in enumerate(derivative.models, start=1)
    }
    prints = derivative.models.values()
    sources = [
        {"URL": link, "Version": fingerprint}
        for link, fingerprint in zip(links.values(), prints, strict=True)
    ]
    sources += [_PUBLISHED[name] for name in dict.fromkeys(derivative.data) if name in _PUBLISHED]
    return (
        found
        | ({"SourceDatasets": sources} if sources else {})
        | ({"DatasetLinks": links} if links else {})
    )


def _ignored() -> str:
    lines = (f"# {reason}\n{chr(10).join(names)}\n" for reason, names in NOT_BIDS.items())
    return "\n".join(lines)
