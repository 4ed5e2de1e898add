"""Verification of bundles: their files, each with its checksum and all with each other."""

from __future__ import annotations

from pathlib import Path

from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.arrays import COPY_AGAIN
from synbrain_cli.io.bundle import CARD, CONFIG, BundleConfig, fingerprint, read_config
from synbrain_cli.io.seal import checked_member, find_file_faults, list_files
from synbrain_cli.io.voxel_space import VOXEL_SPACE_FILES
from synbrain_cli.paths import require_folder


def read_verified_config(folder: Path) -> BundleConfig:
    """Read ``config.json`` and compare every file with its checksum, and all with each other.

    Raises
    ------
    MissingError
        When the folder or a file of it is absent.
    InputError
        As `read_config`; when a file is not what was written (truncated, changed), is none, or does
        not belong there; when the fingerprint is not that of the weights.
    """
    config = read_config(folder)
    for name in config.checksums:
        checked_member(folder, name, config.checksums, COPY_AGAIN)
    for name in _unlisted(folder, config):
        raise InputError(_not_listed(folder / name))
    for fault in _contradictions(folder, config):
        raise InputError(fault)
    return config


def _unlisted(folder: Path, config: BundleConfig) -> list[str]:
    """Files that a model of this configuration needs, or that would be read, and are not listed."""
    needed = {
        "arrays.safetensors": True,
        "voxels.tsv": True,
        "linear.safetensors": config.has_readout,
        "readout.safetensors": config.has_readout,
        "networks.safetensors": config.has_networks,
        "network.safetensors": config.network is not None,
        "transfer.safetensors": config.transfer is not None,
        "sequence.safetensors": config.training.has_sequence,
    }
    here = set(list_files(folder)).intersection((*needed, *VOXEL_SPACE_FILES))
    wanted = {name for name, is_needed in needed.items() if is_needed} | here
    return sorted(wanted - set(config.checksums))


def _not_listed(path: Path) -> str:
    return f"{path}: config.json does not list it, with a checksum: {COPY_AGAIN}"


def _contradictions(folder: Path, config: BundleConfig) -> list[str]:
    """What config.json says of the files, and they do not; they have been read."""
    found = fingerprint(folder)
    if found == config.fingerprint:
        return []
    return [
        f"{folder / CONFIG}: expected the fingerprint of the weights beside it, {found}, found "
        f"{config.fingerprint}: {COPY_AGAIN}"
    ]


def find_faults(folder: Path, checksums: bool = True) -> list[str]:
    """Find the faults of a bundle's files, and of those of the models it holds; a line each.

    Parameters
    ----------
    folder : path
    checksums : bool
        Read every file; else say only which are missing.
    """
    try:
        config = read_config(folder)
    except (InputError, MissingError) as error:
        return [str(error)]
    known = (CONFIG, CARD)
    faults = [
        *find_file_faults(folder, config.checksums, known, COPY_AGAIN, read=checksums),
        *(
            _not_listed(folder / name)
            for name in _unlisted(folder, config)
            if not (folder / name).exists()  # or it was named above
        ),
    ]
    if checksums and not faults:
        faults += _contradictions(folder, config)
    if not (folder / CARD).is_file():
        faults.append(f"{folder / CARD}: missing")
    for name in config.transfer.sources if config.transfer else ():
        try:
            faults += find_faults(source_folder(folder, name), checksums)
        except (InputError, MissingError) as error:
            faults.append(str(error))
    return faults


def source_folder(folder: Path, name: str) -> Path:
    """Return the folder of a model that a bundle holds: in it, and not by a link.

    Raises
    ------
    MissingError, InputError
        There is none; a link leads to it.
    """
    path = folder / "sources" / name
    require_folder(path, "the folder of a model", COPY_AGAIN)
    if path.resolve() != folder.resolve() / "sources" / name:
        raise InputError(
            f"{path}: expected the folder of a model, found a link to another: {COPY_AGAIN}"
        )
    return path
