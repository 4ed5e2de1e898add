"""``open_clip_config.json``: what open_clip's repositories say of the weights beside it."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import msgspec
from open_clip.model import CLIPVisionCfg

from synbrain_cli.errors import InputError
from synbrain_cli.paths import require_regular_file

CONFIG = "open_clip_config.json"
# Of training, of the projection and of the text tower: patch tokens do not depend on them.
_NO_MATTER = {
    "patch_dropout",
    "output_tokens",
    "pool_type",
    "timm_drop",
    "timm_drop_path",
    "timm_model_pretrained",
    "timm_pool",
    "timm_proj",
    "timm_proj_bias",
}
_ADVICE = "name the architecture that it describes, or move it away if it is of other weights"
Colours = tuple[float, float, float]


class _Preprocess(msgspec.Struct, frozen=True):
    mean: Colours | None = None
    std: Colours | None = None
    size: int | tuple[int, int] | None = None


class _Model(msgspec.Struct, frozen=True):
    vision_cfg: dict[str, Any] = {}
    embed_dim: int | None = None
    quick_gelu: bool | None = None


class _Config(msgspec.Struct, frozen=True):
    model_cfg: _Model = _Model()
    preprocess_cfg: _Preprocess = _Preprocess()


class GivenConfig(msgspec.Struct, frozen=True):
    """What the file says of the tower.

    Attributes
    ----------
    mean, std : three floats, optional
        Of the images that the weights take, by colour.
    quick_gelu : bool
        Whether the activation function is the fast approximation of GELU; that of the architecture
        where the file does not say it.
    """

    mean: Colours | None
    std: Colours | None
    quick_gelu: bool


def read_config_beside(path: Path, arch: str, config: dict[str, Any]) -> GivenConfig:
    """Read the file that stands beside weights, and compare it with the architecture named.

    Parameters
    ----------
    path : path
        Of ``open_clip_config.json``.
    arch : str
    config : dict
        Of the architecture, as `open_clip.get_model_config` returns it.

    Raises
    ------
    InputError
        It is no such file, or describes another architecture. Entries that are missing do not
        contradict.
    """
    require_regular_file(path, "open_clip's description of weights")
    try:
        given = msgspec.json.decode(path.read_bytes(), type=_Config)
    except (msgspec.MsgspecError, ValueError, RecursionError, OSError) as error:
        raise InputError(
            f"{path}: expected open_clip's description of the weights beside it, found something "
            f"else ({error}): copy it again, or move it away"
        ) from error
    model, preprocess = given.model_cfg, given.preprocess_cfg
    _check_colours(path, preprocess)
    own = bool(config.get("quick_gelu"))
    found: dict[str, Any] = {**model.vision_cfg, "embed_dim": model.embed_dim}
    expected = {
        **{field.name: field.default for field in fields(CLIPVisionCfg)},
        **config["vision_cfg"],
        "embed_dim": config["embed_dim"] if model.embed_dim is not None else None,
    }
    if preprocess.size is not None:
        found["preprocess size"] = _square(preprocess.size)
        expected["preprocess size"] = _square(expected["image_size"])
    if own and model.quick_gelu is False:
        found["quick_gelu"], expected["quick_gelu"] = False, True
    for name, value in found.items():
        if name not in _NO_MATTER and _plain(value) != _plain(expected.get(name)):
            raise InputError(
                f"{path}: describes weights with {name} {value!r:.60}, but {arch} has "
                f"{expected.get(name)!r:.60}: {_ADVICE}"
            )
    quick_gelu = own if model.quick_gelu is None else model.quick_gelu
    return GivenConfig(preprocess.mean, preprocess.std, quick_gelu)


def _check_colours(path: Path, preprocess: _Preprocess) -> None:
    values = [*(preprocess.mean or ()), *(preprocess.std or ())]
    if not all(map(math.isfinite, values)) or any(sd <= 0 for sd in preprocess.std or ()):
        raise InputError(
            f"{path}: expected finite means and standard deviations above 0, found "
            f"{preprocess.mean} and {preprocess.std}: copy it again, or move it away"
        )


def _square(size: Any) -> Any:
    """A size as (height, width)."""
    return (size, size) if isinstance(size, int) else size


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
