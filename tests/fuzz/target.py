"""A command that reads files, and what a success must look like."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A command, and the files that it reads.

    Attributes
    ----------
    name : str
    arguments : tuple of str
        Of ``synbrain``, in the workspace.
    parts : tuple of str
        Folders and files of the tiny workspace that it needs; ``source>target`` under another name.
    files : tuple of str
        Patterns of what is damaged, each equally often.
    outputs : tuple of str
        Patterns of what must come out as it does from the undamaged files.
    free : tuple of str
        Patterns of files in which users may change values: there, only damage of which the file
        itself could tell must not change the output.
    lists : tuple of str
        Patterns of tables without a header: their first line is a row like any other, and where it
        stands is the user's choice.
    writes : tuple of str
        Patterns of what the command may replace or remove.
    verifies : tuple of str
        Patterns of files in which the command must notice every change.
    weight : float
        How often it is tried.
    seconds : float
        Of processor time, at most.
    setup : callable, optional
        Called in the child before the command.
    many_lines : bool
        It may say several faults, one a line.
    """

    name: str
    arguments: tuple[str, ...]
    parts: tuple[str, ...]
    files: tuple[str, ...]
    outputs: tuple[str, ...] = ()
    free: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    verifies: tuple[str, ...] = ()
    weight: float = 1
    seconds: float = 20
    setup: Callable[[], None] | None = None
    many_lines: bool = False


# Folders of the tiny workspace, and the files that belong to what lies in it.
SUBJECT = "prepared/simulated/sub-01"
FEATURES = "prepared/simulated/features"
ALIGNMENT = "prepared/simulated/sub-01_alignment.json"
BUNDLE_FILES = ("config.json", "*.safetensors", "mask.nii.gz", "voxels.tsv", "*_resampling.npz")
SUBJECT_FILES = (
    *("betas.npy", "trials.tsv", "voxels.tsv", "mask.nii.gz", "*_resampling.npz"),
    *("standardization.npz", "dataset_description.json", "settings.json"),
)
TOKEN_FILES = ("tokens.npy", "images.tsv", "encoder.json", "settings.json")


def bundle_files(name: str, *more: str) -> tuple[str, ...]:
    return tuple(f"weights/{name}/{file}" for file in (*BUNDLE_FILES, "settings.json", *more))


def subject_files(name: str = SUBJECT) -> tuple[str, ...]:
    return tuple(f"{name}/{file}" for file in SUBJECT_FILES)


def token_files(name: str = FEATURES) -> tuple[str, ...]:
    return tuple(f"{name}/*/{file}" for file in TOKEN_FILES)
