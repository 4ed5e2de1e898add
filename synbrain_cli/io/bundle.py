"""Model bundles: ``weights/<name>/``, everything a model needs, and nothing that is unpickled.

``config.json``           subject, dataset, encoder, networks, unit, voxel order, training record,
                          and a checksum of every other file but the card
``networks.safetensors``  BrainVAE (with its voxel order) and mapper; absent from linear models
``linear.safetensors``    linear encoder; absent from published weights
``readout.safetensors``   stack, signal, noise: what turns predictions into draws; likewise
``arrays.safetensors``    token scaler, posterior deviation, standardisation, mean pattern
``mask.nii.gz`` or ``vertices.npz``, ``voxels.tsv``, ``surface_resampling.npz``,
``mni_resampling.npz``   as in the prepared subject
``card.md``               what it was trained on, and its scores
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.files import atomic, read_json, sha256, write_json

FORMAT = 3


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Save named arrays as safetensors, atomically."""
    with atomic(path) as temporary:
        temporary.touch()  # for whoever the user's umask lets read: safetensors lets nobody else
        mode = temporary.stat().st_mode
        save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, temporary)
        temporary.chmod(mode)


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Load named arrays.

    Raises
    ------
    MissingError, InputError
        Absent; truncated or not safetensors.
    """
    if not path.exists():
        raise MissingError(f"{path} does not exist: the model is incomplete; train it again")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(
            f"{path}: truncated or not a safetensors file ({error}): copy the model's folder "
            "again, or train it again"
        ) from error


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Seal a bundle: write ``config.json`` with the checksums of the files beside it."""
    files = sorted(
        p.name
        for p in folder.iterdir()
        if p.is_file() and p.name not in ("config.json", "card.md") and not p.name.startswith(".")
    )
    checksums = {name: sha256(folder / name) for name in files}
    write_json(folder / "config.json", {"format": FORMAT, **config, "checksums": checksums})


def read_config(folder: Path) -> dict[str, Any]:
    """Read ``config.json`` and verify every file it lists.

    Raises
    ------
    MissingError
        When the folder or a file of it is absent.
    InputError
        When a file is not what was written (truncated, changed), or of a newer format.
    """
    path = folder / "config.json"
    if not path.exists():
        raise MissingError(
            f"{folder}: expected a model bundle (a folder with config.json), found none: "
            "`synbrain train` makes one in weights/"
        )
    config = read_json(path)
    if config.get("format") != FORMAT:
        raise InputError(
            f"{path}: expected bundle format {FORMAT}, found {config.get('format')}: "
            "use the version of synbrain that wrote it, or train the model again"
        )
    for name, checksum in config["checksums"].items():
        if not (folder / name).exists():
            raise MissingError(f"{folder / name} does not exist: copy the model's folder again")
        if sha256(folder / name) != checksum:
            raise InputError(
                f"{folder / name}: its checksum is not the one in config.json: truncated or "
                "changed since it was written; copy the model's folder again, or train it again"
            )
    return config


def find_faults(folder: Path, checksums: bool = True) -> list[str]:
    """What is wrong with a bundle's files, and with those of the models it holds; a line each.

    Parameters
    ----------
    folder : path
    checksums : bool
        Read every file; else say only which are missing.
    """
    try:
        config = read_json(folder / "config.json")
        listed = dict(config["checksums"])
    except (InputError, MissingError, KeyError, TypeError, ValueError) as error:
        return [f"{folder / 'config.json'}: cannot be read ({error})"]
    faults = []
    if config.get("format") != FORMAT:
        faults.append(f"{folder / 'config.json'}: expected format {FORMAT}")
    for name, checksum in listed.items():
        path = folder / name
        if not path.is_file():
            faults.append(f"{path}: missing")
        elif checksums and sha256(path) != checksum:
            faults.append(f"{path}: its checksum is not the one in config.json")
    if not (folder / "card.md").is_file():
        faults.append(f"{folder / 'card.md'}: missing")
    known = {*listed, "config.json", "card.md"}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name not in known and not path.name.startswith("."):
            faults.append(f"{path}: not part of the model (config.json does not list it)")
    transfer = config.get("transfer") or {}
    for name in transfer.get("sources", []):
        faults += find_faults(folder / "sources" / name, checksums)
    return faults


def find_bundles(root: Path) -> list[Path]:
    """Bundles below ``root`` (a workspace's ``weights/``), sorted by name."""
    return [path.parent for path in sorted(Path(root).glob("[!.]*/config.json"))]
