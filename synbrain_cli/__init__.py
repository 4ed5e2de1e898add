"""synbrain: draws of the single-trial fMRI responses of a subject's visual cortex to images.

>>> from synbrain_cli import load_model
>>> model = load_model("weights/sub-01")                    # doctest: +SKIP
>>> draws = model.draw("examples/images", n_draws=8)        # doctest: +SKIP
"""

from typing import Any

__all__ = ["contrast", "fit_prf", "load_model", "power", "select"]


def __getattr__(name: str) -> Any:
    if name == "load_model":  # torch loads here, not when `synbrain --help` imports the package
        from synbrain_cli.brain import load_model

        return load_model
    if name == "fit_prf":
        from synbrain_cli.experiments.retinotopy import fit_prf

        return fit_prf
    if name == "contrast":
        from synbrain_cli.experiments.contrast import contrast

        return contrast
    if name == "power":
        from synbrain_cli.experiments.power import power

        return power
    if name == "select":
        from synbrain_cli.experiments.selection import select

        return select
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
