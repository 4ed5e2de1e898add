"""The arrays in each file of a bundle: names and shapes, as the configuration tells them.

A word stands for a size that is the same wherever it occurs in a file
(`synbrain_cli.io.arrays.load_expected`).
"""

from __future__ import annotations

from synbrain_cli.config import CoreConfig
from synbrain_cli.io.arrays import Shape
from synbrain_cli.io.bundle import BundleConfig
from synbrain_cli.model.readout import NODES

# In networks.safetensors beside the networks' own tensors.
PUBLISHED_SCALE = ("vae.gain", "vae.offset")
ORDER = "vae.order"


def main_arrays(config: BundleConfig, n_voxels: int) -> dict[str, Shape]:
    """Shapes in ``arrays.safetensors``."""
    n_tokens, n_dims = config.encoder.token_shape
    shapes: dict[str, Shape] = {
        "token_mean": (n_tokens, n_dims),
        "token_sd": (n_dims,),
        "response_mean": (n_voxels,),
        "response_sd": (n_voxels,),
    }
    if config.has_readout:
        shapes["mean_pattern"] = (n_voxels,)
        if config.has_networks:
            shapes["latent_sd"] = (n_tokens, n_dims)
    return shapes


def readout_arrays(n_predictors: int, n_voxels: int) -> dict[str, Shape]:
    """Shapes in ``readout.safetensors``."""
    by_voxel = (
        "signal_private",
        "noise_private",
        "growth",
        "centre",
        "spread",
        "linear_variance",
        "trial_variance",
    )
    return {
        "stack": (n_predictors, n_voxels),
        "signal_loadings": (n_voxels, "signal rank"),
        "noise_loadings": (n_voxels, "noise rank"),
        "curve": (len(NODES), n_voxels),
        **dict.fromkeys(by_voxel, (n_voxels,)),
    }


def ridge_arrays(n_voxels: int, prefix: str = "", n_features: int | str = "n_features") -> dict:
    """Shapes of a ridge regression: ``linear.safetensors``, and in an adapted model's transfer."""
    shapes: dict[str, Shape] = {
        "feature_mean": (n_features,),
        "components": (n_features, "n_components"),
        "coefficients": ("n_components", n_voxels),
        "intercept": (n_voxels,),
        "alphas": (n_voxels,),
    }
    return {f"{prefix}{name}": shape for name, shape in shapes.items()}


def network_arrays(n_voxels: int) -> dict[str, Shape]:
    """Shapes in ``networks.safetensors`` of what is no weight of the networks."""
    return dict.fromkeys((ORDER, *PUBLISHED_SCALE), (n_voxels,))


def transfer_arrays(core: CoreConfig | None, n_voxels: int, n_evidence: int | None) -> dict:
    """Shapes in ``transfer.safetensors``, but those of the core's own weights.

    Parameters
    ----------
    core : CoreConfig, optional
        Of a shared core; None where models of other subjects are the evidence.
    n_voxels : int
    n_evidence : int, optional
        Responses that are the evidence; None where the file alone tells.
    """
    evidence = "n_evidence" if n_evidence is None else n_evidence
    shapes: dict[str, Shape] = {
        "gain": (1,),
        **ridge_arrays(n_voxels, "ridge.", evidence),
    }
    if core is not None:
        shapes |= {
            "token_mean": (core.side**2, core.n_dims),
            "token_sd": (core.n_dims,),
            "n_sources": (1,),
            "voxels.field": ("all voxels", 3),
            "voxels.local": (core.n_local, "all voxels"),
            "voxels.whole": (core.n_global, "all voxels"),
            "voxels.offset": ("all voxels",),
        }
    return shapes
