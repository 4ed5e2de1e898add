"""Sealing anew what a test changed on purpose, as someone would who knows how seals are made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from synbrain_cli.io.files import read_json, write_json
from synbrain_cli.io.records import SEAL, content_digest
from synbrain_cli.io.seal import checksums_of
from synbrain_cli.io.token_store import row_checksum


def change_sealed(path: Path, **fields) -> None:
    """Change fields of a sealed JSON file, and its seal with them; ``...`` removes a field."""
    content = {**read_json(path), **fields}
    content = {k: v for k, v in content.items() if k != SEAL and v is not ...}
    write_json(path, {**content, SEAL: content_digest(content)})


def reseal_prepared(folder: Path) -> None:
    """Take the files of a prepared subject as they are now."""
    name = "dataset_description.json"
    change_sealed(folder / name, Checksums=checksums_of(folder, but=(name,)))


def reseal_bundle(folder: Path, **fields) -> None:
    """Take the files of a bundle as they are now, and change fields of its configuration."""
    checksums = checksums_of(folder, but=("config.json", "card.md"))
    change_sealed(folder / "config.json", checksums=checksums, **fields)


def reseal_tokens(folder: Path, **identity) -> None:
    """Take the tokens of a store as they are now, and change the identity of their encoder."""
    tokens = np.load(folder / "tokens.npy")
    table = pd.read_csv(folder / "images.tsv", sep="\t", dtype=str, keep_default_na=False)
    rows = zip(table["image"], table["pixels"], tokens, strict=True)
    table["checksum"] = [row_checksum(*row) for row in rows]
    table.to_csv(folder / "images.tsv", sep="\t", index=False)
    known = read_json(folder / "encoder.json")["identity"]
    change_sealed(folder / "encoder.json", identity=known | identity)
