"""Patch tokens of any open_clip vision tower.

The published model sees images through ViT-bigG-14 (laion2b_s39b_b160k): 256 tokens of 1664
dimensions, after the final LayerNorm and before the projection, without the class token (Mai et
al. 2025). Only the vision tower is built and kept in memory.
"""

from __future__ import annotations

import difflib
import hashlib
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import _build_vision_tower
from open_clip.transformer import VisionTransformer
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from synbrain_cli.checkpoints import load_checkpoint
from synbrain_cli.errors import DAMAGED, InputError, MissingError
from synbrain_cli.features.encoder import Encoder
from synbrain_cli.features.openclip_config import CONFIG, read_config_beside
from synbrain_cli.paths import is_given

_DTYPES = {"float32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
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


class OpenCLIP(Encoder):
    """Tokens of an open_clip vision tower, named ``ARCH/PRETRAINED`` or ``ARCH/FILE``.

    - Vision transformers (open_clip's own and timm's): patch tokens after the final LayerNorm,
      before any projection, without class token.
    - ResNets: the last feature map, before attention pooling, one token per position.

    Images: [0, 1] RGB → bicubic, antialiased, to the tower's own size → the weights' own mean and
    standard deviation, all in float32. In half precision the tower's weights are cast, once,
    which halves their memory; the statistics of a LayerNorm are taken in float32 by torch itself.

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

    Raises
    ------
    InputError
        Unknown architecture, one without patch tokens, or weights that do not fit it.
    MissingError
        No such tag or file, or the download failed.
    """

    def __init__(
        self, name: str, device: str | torch.device = "cpu", precision: str = "float32"
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
        checksum = _checksum(tower)
        self._dtype = _DTYPES[precision]
        self._tower = tower.to(device, self._dtype).eval().requires_grad_(False)
        self._mean = torch.tensor(mean, device=device).view(3, 1, 1)
        self._sd = torch.tensor(sd, device=device).view(3, 1, 1)
        try:
            with torch.inference_mode():
                shape = self._tokens(torch.zeros(1, 3, height, width, device=device)).shape
        except (AttributeError, NotImplementedError, AssertionError, TypeError) as error:
            raise InputError(
                f"openclip:{arch}: its {type(tower).__name__} gives no patch tokens: "
                "choose a ViT or ResNet tower"
            ) from error
        self.spec = f"openclip:{arch}/{source if source != str(path) else path.resolve()}"
        self.slug = f"openclip-{known_as}-{checksum[:8]}"
        self.identity = {
            "name": f"openclip:{known_as}",
            "version": 1,
            "image_size": int(height),
            "n_tokens": int(shape[1]),
            "n_dims": int(shape[2]),
            "mean": [float(x) for x in mean],
            "deviation": [float(x) for x in sd],
            "weights": checksum,
        }

    def _tokens(self, images: Tensor) -> Tensor:
        x = (images - self._mean) / self._sd  # (n, 3, size, size)
        features = self._tower.forward_intermediates(
            x.to(self._dtype), indices=1, normalize_intermediates=True, intermediates_only=True
        )
        (last,) = features["image_intermediates"]  # (n, n_dims, rows, columns)
        return last.flatten(2).transpose(1, 2)  # (n, n_tokens, n_dims)


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
    state = _read_state(path)
    # timm's towers compute some buffers when they are built; open_clip's own need no values then.
    with torch.device("cpu" if _is_timm(config) else "meta"):
        tower = _build_vision_tower(config["embed_dim"], vision, config.get("quick_gelu", False))
    expected = tower.state_dict()
    strange = sorted(key for key in expected.keys() & state.keys() if not _is_plain(state[key]))
    if strange:
        raise InputError(
            f"{path}: expected {strange[0]} as a plain tensor of numbers, found one of another "
            "layout or without numbers: save model.state_dict() of the whole model again"
        )
    wrong = sorted(
        key
        for key in expected.keys() | state.keys()
        if key not in expected or key not in state or expected[key].shape != state[key].shape
    )
    if wrong:
        key = wrong[0]
        raise InputError(
            f"{path}: not the weights of {arch}: {len(wrong)} of {len(expected)} tensors differ; "
            f"{key}: expected {_shape(expected, key)}, found {_shape(state, key)}: "
            "name the architecture they were trained with"
        )
    tower.load_state_dict(state, assign=True)
    return tower.float()


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor has numbers of its own, in a common layout."""
    if tensor.is_meta or tensor.is_quantized or tensor.layout is not torch.strided:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _shape(state: dict[str, Tensor], key: str) -> str:
    return f"shape {tuple(state[key].shape)}" if key in state else "none"


def _read_state(path: Path) -> dict[str, Tensor]:
    """Read the tensors of the vision tower from a file, without running code in it."""
    expected = "a state dict as .safetensors or .pt"
    if path.suffix == ".safetensors":
        try:
            state = load_file(path)
        except (*DAMAGED, SafetensorError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"{path}: expected {expected}, found a file that does not load safely ({reason}): "
                "copy it again, or save model.state_dict() as .safetensors"
            ) from error
    else:
        state = load_checkpoint(path, expected=expected)
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not state:
        raise InputError(f"{path}: expected a state dict, found {type(state).__name__}")
    state = {
        key.removeprefix("module."): x.detach()
        for key, x in state.items()
        if isinstance(key, str) and isinstance(x, Tensor)
    }
    visual = {
        key.removeprefix("visual."): x for key, x in state.items() if key.startswith("visual.")
    }
    return visual or state


def _checksum(module: nn.Module) -> str:
    """Return the SHA-256 of the names, shapes and values (as float32) of a module's tensors."""
    digest = hashlib.sha256()
    for key, x in sorted(module.state_dict().items()):
        digest.update(f"{key} {tuple(x.shape)}".encode())
        digest.update(x.detach().float().contiguous().numpy())
    return digest.hexdigest()
