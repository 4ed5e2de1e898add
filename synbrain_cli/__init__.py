"""synbrain: draws of the single-trial fMRI responses of a subject's visual cortex to images.

>>> from synbrain_cli import load_model
>>> model = load_model("weights/sub-01")                    # doctest: +SKIP
>>> draws = model.draw("examples/images", n_draws=8)        # doctest: +SKIP
"""

from importlib import import_module
from typing import Any

__all__ = [
    "contrast",
    "fit_categories",
    "fit_prf",
    "load_model",
    "power",
    "register_with_berg",
    "select",
]

# torch loads when one is asked for, not when `synbrain --help` imports the package
_MODULES = {
    "contrast": "experiments.contrast",
    "fit_categories": "experiments.categories",
    "fit_prf": "experiments.retinotopy",
    "load_model": "brain",
    "power": "experiments.power",
    "register_with_berg": "brain.berg",
    "select": "experiments.selection",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
