"""Models in a folder of the Brain Encoding Response Generator (BERG): where they lie, their cards.

BERG keeps models in ``encoding_models/modality-fmri/train_dataset-<data set>/model-<name>/`` and
describes each by a model card in YAML. Ours are written as JSON, which YAML contains.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from synbrain_cli.io.records import read_record
from synbrain_cli.io.seal import member

CARD_FILE = "model_card.yaml"
AGAIN = "export the model again with --overwrite"
_MODALITY = "encoding_models/modality-fmri"
_PREFIX = "model-synbrain_"


class BergCard(msgspec.Struct, frozen=True, kw_only=True):
    """Model card, with the fields of BERG's own, and where the bundle is.

    Attributes
    ----------
    model_id : str
        Name in BERG's registry.
    subject : str
        Label without ``sub-``.
    bundle : str
        Name of the bundle's folder beside the card.
    rois : list of str
        Of the subject.
    modality, training_dataset, species, stimuli, model_type, creator, description : str
        As BERG prints them.
    input, output, parameters, performance : dict
        What the model takes and returns, in the fields that BERG prints.
    references : list of str
    """

    model_id: str
    subject: str
    bundle: str
    rois: list[str]
    modality: str
    training_dataset: str
    species: str
    stimuli: str
    model_type: str
    creator: str
    description: str
    input: dict[str, Any]
    output: dict[str, Any]
    parameters: dict[str, Any]
    performance: dict[str, Any]
    references: list[str]


def export_folder(berg_dir: Path, dataset: str, name: str) -> Path:
    """Return the folder of an exported model.

    Parameters
    ----------
    berg_dir : path
        Folder of BERG.
    dataset : str
        That the model was trained on.
    name : str
        Of the bundle.
    """
    return berg_dir / _MODALITY / f"train_dataset-{dataset}" / f"{_PREFIX}{name}"


def find_exported(berg_dir: Path) -> list[Path]:
    """Return the folders of all exported models, sorted."""
    cards = berg_dir.glob(f"{_MODALITY}/train_dataset-*/{_PREFIX}*/{CARD_FILE}")
    return sorted(path.parent for path in cards)


def read_card(folder: Path) -> BergCard:
    """Read the card of an exported model.

    Raises
    ------
    MissingError, InputError
        When it is absent, or not as `synbrain weights export` writes it.
    """
    return read_record(member(folder, CARD_FILE, AGAIN), BergCard, AGAIN)
