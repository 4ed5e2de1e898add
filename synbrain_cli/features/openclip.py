"""Patch tokens of any open_clip vision tower.

The published model sees images through ViT-bigG-14 (laion2b_s39b_b160k): 256 tokens of 1664
dimensions, after the final LayerNorm and before the projection, without the class token (Mai et
al. 2025). Only the vision tower is built and kept in memory.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import _build_vision_tower
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.features.openclip_config import CONFIG, read_config_beside
from synbrain_cli.features.tower import Tower, TowerInput, load_fitting, read_state
from synbrain_cli.paths import is_given

PUBLISHED = "openclip:ViT-bigG-14/laion2b_s39b_b160k"


def published_identity() -> dict[str, Any]:
    """Return the identity of the encoder of the published model, with unknown weights."""
    arch, _, tag = PUBLISHED.removeprefix("openclip:").partition("/")
    vision = open_clip.get_model_config(arch)["vision_cfg"]
    weights = open_clip.get_pretrained_cfg(arch, tag)
    return {
        "name": f"openclip:{arch}",
        "version": 1,
        "image_size": vision["image_size"],
        "n_tokens": (vision["image_size"] // vision["patch_size"]) ** 2,
        "n_dims": vision["width"],
        "mean": list(weights["mean"]),
        "deviation": list(weights["std"]),
        "weights": None,
    }


class OpenCLIP(Tower):
    """Tokens of an open_clip vision tower, named ``ARCH/PRETRAINED`` or ``ARCH/FILE``.

    - Vision transformers (open_clip's own and timm's): patch tokens without class token; of a block
      that is named (from 1) its output, else after the final LayerNorm, before any projection.
    - ResNets: feature maps, one token per position; of a stage that is named (1 is the stem), else
      of the last, before attention pooling.

    Parameters
    ----------
    name : str
        Architecture, a slash, and a pretrained tag of open_clip (downloaded by open_clip into the
        Hugging Face cache) or a ``.pt``/``.safetensors`` file holding the state dict of the CLIP
        model or of its vision tower. A file's mean and SD come from an
        ``open_clip_config.json`` beside it, else from the architecture's tags; that file also tells
        the activation function, and must not contradict the architecture.
    device : str or torch.device
        Where to compute.
    precision : {"float32", "fp16", "bf16"}
        What the tower computes in.
    layers : tuple of int
        Whose outputs are the bands; by default the final tokens alone.

    Raises
    ------
    InputError
        Unknown architecture, one without patch tokens or without such a layer, or weights that do
        not fit it.
    MissingError
        No such tag or file, or the download failed.
    """

    def __init__(
        self,
        name: str,
        device: str | torch.device = "cpu",
        precision: str = "float32",
        layers: tuple[int, ...] = (),
    ) -> None:
        super().__init__(device, precision)
        arch, _, source = name.partition("/")
        config = open_clip.get_model_config(arch) if arch in open_clip.list_models() else None
        if config is None:
            near = difflib.get_close_matches(arch, open_clip.list_models(), 5) or ["ViT-bigG-14"]
            raise InputError(
                f"openclip:{name}: open_clip has no architecture {arch!r}: perhaps "
                f"{', '.join(near)}; open_clip.list_models() has them all"
            )
        path, mean, sd, quick_gelu = _find_weights(arch, source, config)
        tower = _load_tower(arch, {**config, "quick_gelu": quick_gelu}, path)
        # The name tells the activation function: tokens of the two are not exchanged.
        known_as = arch
        if quick_gelu and not config.get("quick_gelu") and isinstance(tower, VisionTransformer):
            known_as = f"{arch}-quickgelu"
        size = tower.image_size
        height, width = size if isinstance(size, tuple | list) else (size, size)
        if height != width:
            raise InputError(
                f"openclip:{arch}: expected an architecture with square input, found {height} × "
                f"{width}: choose another"
            )
        spec = f"openclip:{arch}/{source if source != str(path) else path.resolve()}"
        expects = TowerInput(int(height), mean, sd)
        try:
            self._adopt(tower, spec, f"openclip:{known_as}", expects, layers)
        except (AttributeError, NotImplementedError, AssertionError, TypeError) as error:
            raise InputError(
                f"openclip:{arch}: its {type(tower).__name__} gives no patch tokens: "
                "choose a ViT or ResNet tower"
            ) from error

    def _maps(self, x: Tensor, layers: tuple[int, ...]) -> list[Tensor]:
        """Feature maps (n, n_dims, rows, columns) of layers, or of the last, normalised."""
        features = self._tower.forward_intermediates(
            x,
            indices=[layer - 1 for layer in layers] or 1,
            normalize_intermediates=not layers,
            stop_early=bool(layers),
            intermediates_only=True,
        )
        return features["image_intermediates"]

    def _n_layers(self) -> int:
        tower = self._tower
        if isinstance(tower, VisionTransformer):
            return len(tower.transformer.resblocks)
        trunk = getattr(tower, "trunk", None)
        return len(trunk.feature_info) if trunk is not None else 5  # of a ResNet: stem, 4 stages


def _find_weights(
    arch: str, source: str, config: dict[str, Any]
) -> tuple[Path, tuple[float, ...], tuple[float, ...], bool]:
    """Return the file of the weights, mean and SD of its inputs by colour, and its quick_gelu."""
    quick_gelu = bool(config.get("quick_gelu"))
    tags = open_clip.list_pretrained_tags_by_model(arch)
    choices = f"{', '.join(tags) or 'none'}; or a .pt or .safetensors file"
    if not source:
        raise InputError(f"openclip:{arch}: expected /PRETRAINED or /FILE after it: {choices}")
    default = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    if source in tags:
        tag = open_clip.get_pretrained_cfg(arch, source)
        plain = arch.removesuffix("-quickgelu")
        other = f"{plain}-quickgelu" if tag.get("quick_gelu") else plain
        differs = bool(tag.get("quick_gelu")) != bool(config.get("quick_gelu"))
        if differs and "ViT" in arch and other in open_clip.list_models():  # ResNets have neither
            raise InputError(
                f"openclip:{arch}/{source}: these weights were trained with another activation "
                f"function: use openclip:{other}/{source}"
            )
        try:
            path = Path(open_clip.download_pretrained(tag))
        except (OSError, RuntimeError, ImportError) as error:
            raise MissingError(
                f"openclip:{arch}/{source}: could not be downloaded ({error}): fetch the weights "
                f"({tag.get('hf_hub') or tag.get('url')}) where there is a network, and pass the "
                f"file as openclip:{arch}/FILE"
            ) from error
        return path, tag.get("mean", default[0]), tag.get("std", default[1]), quick_gelu
    path = Path(source).expanduser()
    if not path.is_file():
        raise MissingError(
            f"openclip:{arch}/{source}: neither a pretrained tag of {arch} nor a file: "
            f"choose from {choices}"
        )
    beside = path.parent / CONFIG
    if is_given(beside):
        given = read_config_beside(beside, arch, config)
        return path, given.mean or default[0], given.std or default[1], given.quick_gelu
    known = [open_clip.get_pretrained_cfg(arch, t) for t in tags]
    pairs = {(tuple(k.get("mean", default[0])), tuple(k.get("std", default[1]))) for k in known}
    if len(pairs) > 1:
        raise InputError(
            f"{path}: weights of {arch} differ in the mean and SD of their inputs: put the "
            "open_clip_config.json of their Hugging Face repository beside the file"
        )
    mean, sd = pairs.pop() if pairs else default
    return path, mean, sd, quick_gelu


def _is_timm(config: dict[str, Any]) -> bool:
    return bool(config["vision_cfg"].get("timm_model_name"))


def _load_tower(arch: str, config: dict[str, Any], path: Path) -> nn.Module:
    """Build the vision tower of an architecture with the weights of a file, in float32."""
    vision = {**config["vision_cfg"], "timm_model_pretrained": False}
    if vision.get("attentional_pool"):
        raise InputError(
            f"openclip:{arch}: pools its patches by attention before the final LayerNorm, so has "
            "no patch tokens after it: choose another architecture"
        )
    state = read_state(path)
    # timm's towers compute some buffers when they are built; open_clip's own need no values then.
    with torch.device("cpu" if _is_timm(config) else "meta"):
        tower = _build_vision_tower(config["embed_dim"], vision, config.get("quick_gelu", False))
    load_fitting(tower, state, path, arch)
    return tower.float()
