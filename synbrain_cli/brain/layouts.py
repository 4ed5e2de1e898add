"""The arrays in each file of a bundle: names and shapes, as the configuration tells them.

A word stands for a size that is the same wherever it occurs in a file
(`synbrain_cli.io.arrays.load_expected`).
"""

from __future__ import annotations

from collections.abc import Sequence

from synbrain_cli.config import CoreConfig
from synbrain_cli.io.arrays import Shape
from synbrain_cli.io.bundle import BundleConfig
from synbrain_cli.model.curve import NODES
from synbrain_cli.model.fields import is_grid
from synbrain_cli.model.linear import n_pooled
from synbrain_cli.model.uncertainty import PERCENTS

# In networks.safetensors beside the networks' own tensors.
PUBLISHED_SCALE = ("vae.gain", "vae.offset")
ORDER = "vae.order"


def main_arrays(config: BundleConfig, n_voxels: int) -> dict[str, Shape]:
    """Shapes in ``arrays.safetensors``."""
    shapes: dict[str, Shape] = {
        **scaler_arrays(config.token_shapes),
        "response_mean": (n_voxels,),
        "response_sd": (n_voxels,),
    }
    if config.has_readout:
        shapes["mean_pattern"] = (n_voxels,)
    if config.mapper is not None:
        if config.has_readout:
            shapes["latent_sd"] = (config.mapper.n_tokens, config.mapper.n_dims)
        if len(config.bands) > 1:
            shapes |= {
                f"joint.{k}": (n_dims, f"joint {k}")
                for k, (_, n_dims) in enumerate(config.token_shapes)
            }
    return shapes


def scaler_arrays(token_shapes: Sequence[tuple[int, int]]) -> dict[str, Shape]:
    """Shapes of a `synbrain_cli.model.tokens.TokenScaler`."""
    shapes: dict[str, Shape] = {}
    for k, (n_tokens, n_dims) in enumerate(token_shapes):
        shapes |= {f"token_mean.{k}": (n_tokens, n_dims), f"token_sd.{k}": (n_dims,)}
    return shapes


def linear_arrays(token_shapes: Sequence[tuple[int, int]], n_voxels: int) -> dict[str, Shape]:
    """Shapes in ``linear.safetensors``, with the receptive-field readouts of all grids."""
    shapes: dict[str, Shape] = {"weights": ("n_members", n_voxels), "mean": (n_voxels,)}
    for k, (n_tokens, n_dims) in enumerate(token_shapes):
        shapes |= ridge_arrays(n_voxels, f"ridge.{k}.", n_pooled(n_tokens, n_dims))
        shapes |= {
            f"ridge.{k}.known.powers": (f"ridge.{k}.n_components",),
            f"ridge.{k}.known.penalties": ("n_penalties",),
            f"ridge.{k}.known.left_out": ("n_images", "n_penalties"),
        }
        if is_grid(n_tokens):
            shapes |= {
                f"field.{k}.axes": (n_dims, f"channels {k}"),
                f"field.{k}.fields": (n_voxels, 3),
                f"field.{k}.coefficients": (f"channels {k}", n_voxels),
                f"field.{k}.intercept": (n_voxels,),
            }
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
        "uncertainty_growth": (1,),
        "uncertainty_concentration": (1,),
        "uncertainty_power": (1,),  # of models of earlier versions
        "uncertainty_level": (n_voxels,),
        "uncertainty_distances": (PERCENTS,),
        "image_blind_signal_loadings": (n_voxels, "image-blind signal rank"),
        "image_blind_noise_loadings": (n_voxels, "image-blind noise rank"),
        "image_blind_curve": (len(NODES), n_voxels),
        **dict.fromkeys(by_voxel, (n_voxels,)),
        **{f"image_blind_{name}": (n_voxels,) for name in by_voxel[:5]},
    }


def sequence_arrays(n_voxels: int) -> dict[str, Shape]:
    """Shapes in ``sequence.safetensors``."""
    by_voxel = ("drift_private", "serial", "rest_private")
    return {
        "drift_loadings": (n_voxels, "drift rank"),
        "drift_time_constant": (1,),
        "repetition_offset": ("presentations", n_voxels),
        "repetition_gain": ("presentations", n_voxels),
        "repetition_in_session": (1,),
        "rest_loadings": (n_voxels, "rest rank"),
        **dict.fromkeys(by_voxel, (n_voxels,)),
    }


def ridge_arrays(n_voxels: int, prefix: str = "", n_features: int | str = "n_features") -> dict:
    """Shapes of a ridge regression: in the linear encoder, and in an adapted model's transfer."""
    shapes: dict[str, Shape] = {
        "feature_mean": (n_features,),
        "components": (n_features, f"{prefix}n_components"),
        "coefficients": (f"{prefix}n_components", n_voxels),
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
        shapes |= {"n_sources": (1,), **ensemble_arrays(core, "all voxels")}
    return shapes


def ensemble_arrays(core: CoreConfig, n_voxels: int | str) -> dict[str, Shape]:
    """Shapes of a `synbrain_cli.model.core.CoreEnsemble`, but those of the cores' own weights."""
    shapes = scaler_arrays(core.shapes)
    for m in range(core.n_members):
        shapes |= {
            f"voxels.{m}.field": (n_voxels, 3),
            f"voxels.{m}.local": (core.n_read, n_voxels),
            f"voxels.{m}.whole": (core.n_global, n_voxels),
            f"voxels.{m}.offset": (n_voxels,),
        }
    return shapes
