"""What this program uses of BERG (github.com/gifale95/BERG), written anew: a stand-in for it.

BERG is in no package registry. `install` puts the stand-in where its modules would be.
"""

from __future__ import annotations

import importlib
import sys
from abc import ABC, abstractmethod
from types import ModuleType

REGISTRY: dict[str, dict] = {}


def register_model(
    model_id, module_path, class_name=None, modality=None, training_dataset=None, yaml_path=None
):
    REGISTRY[model_id] = {
        "module_path": module_path,
        "class_name": class_name or model_id,
        "modality": modality,
        "training_dataset": training_dataset,
        "yaml_path": yaml_path,
    }


class BaseModelInterface(ABC):
    @abstractmethod
    def load_model(self, device): ...

    @abstractmethod
    def generate_response(self, stimulus): ...

    @abstractmethod
    def cleanup(self): ...

    @classmethod
    @abstractmethod
    def get_model_id(cls): ...

    @classmethod
    @abstractmethod
    def get_metadata(cls, berg_dir=None, subject=None, model_instance=None, **kwargs): ...


class BERG:
    """Loads by name, and hands images over."""

    def __init__(self, berg_dir):
        self.berg_dir = berg_dir

    def get_encoding_model(self, model_id, device="auto", selection=None, **others):
        entry = REGISTRY[model_id]
        kind = getattr(importlib.import_module(entry["module_path"]), entry["class_name"])
        model = kind(berg_dir=self.berg_dir, device=device, selection=selection, **others)
        model.load_model()
        return model

    def encode(self, model, stimulus, return_metadata=False, **others):
        responses = model.generate_response(stimulus, **others)
        if return_metadata:
            return responses, type(model).get_metadata(model_instance=model)
        return responses


def install(monkeypatch) -> None:
    """Let ``import berg`` find this module, and start with an empty registry."""
    monkeypatch.setattr(sys.modules[__name__], "REGISTRY", {})
    names = ("ModelLoadError", "InvalidParameterError", "StimulusError")
    parts = {
        "berg": {"BERG": BERG},
        "berg.core": {},
        "berg.core.exceptions": {name: type(name, (Exception,), {}) for name in names},
        "berg.core.model_registry": {"register_model": register_model},
        "berg.interfaces": {},
        "berg.interfaces.base_model": {"BaseModelInterface": BaseModelInterface},
    }
    for name, content in parts.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], last, module)
