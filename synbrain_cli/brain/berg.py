"""Models of this program in the Brain Encoding Response Generator (BERG).

BERG finds a model by its name in a registry of its own, and asks the class that is registered there
for responses (github.com/gifale95/BERG). `register_with_berg` enters the models that
`synbrain weights export` wrote into a folder of BERG. From then on BERG's own calls load them and
encode images with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from synbrain_cli.brain.brain import Brain, load_model
from synbrain_cli.errors import InputError, MissingError, SynbrainError
from synbrain_cli.io.berg import CARD_FILE, BergCard, find_exported, read_card
from synbrain_cli.labels import subject_label

TOGETHER = 32  # images between two steps of BERG's progress bar
_CLASSES: dict[str, type] = {}  # name that BERG asks this module for → class of a model


def __getattr__(name: str) -> type:
    if name in _CLASSES:
        return _CLASSES[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def register_with_berg(berg_dir: Path | str) -> list[str]:
    """Enter the models that were exported into a folder of BERG in BERG's registry.

    Parameters
    ----------
    berg_dir : path
        As BERG takes it.

    Returns
    -------
    list of str
        Names by which `BERG.get_encoding_model` loads them.

    Raises
    ------
    MissingError
        When BERG is not installed, or the folder holds no model of this program.
    InputError
        When a model's card cannot be read.

    Examples
    --------
    >>> from berg import BERG                                              # doctest: +SKIP
    >>> names = register_with_berg("berg")                                 # doctest: +SKIP
    >>> model = BERG("berg").get_encoding_model(names[0], subject=1)       # doctest: +SKIP
    >>> BERG("berg").encode(model, images).shape   # uint8 (n, 3, h, w)    # doctest: +SKIP
    (10, 15724)
    """
    try:
        from berg.core.model_registry import register_model
    except ImportError as error:
        raise MissingError(
            f"BERG is not installed here ({error}): install it from github.com/gifale95/BERG"
        ) from error
    folders = find_exported(Path(berg_dir))
    if not folders:
        raise MissingError(
            f"{berg_dir}: no model of synbrain: `synbrain weights export MODEL --berg {berg_dir}`"
        )
    names = []
    for folder in folders:
        card = read_card(folder)
        _CLASSES[card.model_id] = _encoding_model(folder, card)
        register_model(
            model_id=card.model_id,
            module_path=__name__,
            class_name=card.model_id,
            modality=card.modality,
            training_dataset=card.training_dataset,
            yaml_path=str(folder / CARD_FILE),
        )
        names.append(card.model_id)
    return names


def _encoding_model(folder: Path, card: BergCard) -> type:
    """Make the class that BERG asks for the responses of one exported model."""
    from berg.interfaces.base_model import BaseModelInterface

    own = {"MODEL_ID": card.model_id, "card": card, "folder": folder}
    return type(card.model_id, (ExportedModel, BaseModelInterface), own)


class ExportedModel:
    """Expected responses of one subject's model: what BERG calls, beside its own base class.

    Parameters
    ----------
    subject : int or str, optional
        Whom the model is of: there is one.
    selection : dict, optional
        ``{"roi": name}``: the voxels of one ROI; default all.
    device : str
        "auto", "cpu" or "cuda".
    berg_dir : path, optional
    """

    MODEL_ID: str
    card: BergCard
    folder: Path

    def __init__(
        self,
        subject: int | str | None = None,
        selection: Mapping[str, Any] | None = None,
        device: str = "auto",
        berg_dir: str | None = None,
    ) -> None:
        self._require_subject(subject)
        selection = selection or {}
        if unknown := set(selection) - {"roi"}:
            found = ", ".join(sorted(unknown))
            raise _fault("InvalidParameterError", f"selection: expected roi, found {found}")
        self.roi = selection.get("roi")
        rois = self.card.rois
        if self.roi is not None and self.roi not in rois:
            known = f"one of {', '.join(rois)}" if rois else "none, as the model has no ROIs"
            raise _fault("InvalidParameterError", f"roi {self.roi}: expected {known}")
        self.subject, self.device, self.berg_dir = self.card.subject, device, berg_dir
        self.model: Brain | None = None

    def load_model(self, device: str | None = None) -> None:
        """Load the bundle."""
        try:
            self.model = load_model(self.folder / self.card.bundle, device or self.device)
        except SynbrainError as error:
            raise _fault("ModelLoadError", str(error)) from error

    def generate_response(self, stimulus: np.ndarray, show_progress: bool = True) -> np.ndarray:
        """Predict the mean response to each image.

        Parameters
        ----------
        stimulus : integer array of shape (n_images, 3, height, width)
            RGB, from 0 to 255.
        show_progress : bool

        Returns
        -------
        float32 array of shape (n_images, n_voxels)
            In the unit of the data.
        """
        if self.model is None:
            raise _fault("ModelLoadError", f"{self.MODEL_ID}: not loaded, or cleaned up")
        inside = ... if self.roi is None else self.model.rois()[self.roi]
        try:
            images = _as_pictures(stimulus)
            steps = tqdm(range(0, len(images), TOGETHER), "encoding", disable=not show_progress)
            found = [self.model.mean(images[k : k + TOGETHER])[:, inside] for k in steps]
        except SynbrainError as error:
            raise _fault("StimulusError", str(error)) from error
        return np.concatenate(found)

    @classmethod
    def get_metadata(
        cls,
        berg_dir: str | None = None,
        subject: int | str | None = None,
        model_instance: Any = None,
        **others: Any,
    ) -> dict[str, Any]:
        """Unit, voxels and ROIs of the subject, and validation scores of the model."""
        cls._require_subject(subject)
        brain = load_model(cls.folder / cls.card.bundle, "cpu")
        return {
            "fmri": {
                "unit": brain.unit,
                "space": brain.config.space,
                "simulated": brain.simulated,
                "voxels": {str(key): column.to_numpy() for key, column in brain.voxels.items()},
                "rois": brain.rois(),
            },
            "encoding_model": {
                "subject": brain.config.label,
                "fingerprint": brain.config.fingerprint,
                "encoder": brain.config.encoder,
                "validation": dict(brain.config.training.validation),
            },
        }

    @classmethod
    def get_model_id(cls) -> str:
        """Name in BERG's registry."""
        return cls.MODEL_ID

    def cleanup(self) -> None:
        """Release the model."""
        self.model = None

    @classmethod
    def _require_subject(cls, subject: int | str | None) -> None:
        if subject is not None and subject_label(str(subject)) != cls.card.subject:
            raise _fault("InvalidParameterError", f"subject {subject}: expected {cls.card.subject}")


def _fault(kind: str, message: str) -> Exception:
    """Make an exception of BERG's, which it tells its users to expect."""
    from berg.core import exceptions

    fault: Exception = getattr(exceptions, kind)(message)
    return fault


def _as_pictures(stimulus: Any) -> np.ndarray:
    """Bring images as BERG takes them to uint8 (n_images, height, width, 3).

    Raises
    ------
    InputError
        When they are none.
    """
    if not isinstance(stimulus, np.ndarray) or stimulus.ndim != 4 or stimulus.shape[1] != 3:
        found = getattr(stimulus, "shape", type(stimulus).__name__)
        raise InputError(f"stimulus: expected an array (n_images, 3, height, width), found {found}")
    if not len(stimulus):
        raise InputError("stimulus: expected one image or more, found none")
    if not np.issubdtype(stimulus.dtype, np.integer):
        raise InputError(f"stimulus: expected whole numbers from 0 to 255, found {stimulus.dtype}")
    if stimulus.min() < 0 or stimulus.max() > 255:
        raise InputError(
            f"stimulus: expected values from 0 to 255, found {stimulus.min()} to {stimulus.max()}"
        )
    return np.ascontiguousarray(stimulus.astype(np.uint8).transpose(0, 2, 3, 1))
