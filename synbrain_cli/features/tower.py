"""Towers: pretrained networks of which one or several layers are bands.

Images: [0, 1] RGB → bicubic, antialiased, to the tower's own size → the weights' own mean and
standard deviation, all in float32. In half precision the tower's weights are cast, once, which
halves their memory; the statistics of a LayerNorm are taken in float32 by torch itself.

A layer's feature map keeps its grid up to `MAX_SIDE` tokens a side; finer maps are averaged.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from synbrain_cli.bands import band_spec
from synbrain_cli.checkpoints import load_checkpoint
from synbrain_cli.errors import DAMAGED, InputError
from synbrain_cli.features.encoder import Encoder, EncoderBand

MAX_SIDE = 16  # tokens a side: the grid of gabor and of ViT-bigG-14 (ours)
_DTYPES = {"float32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class TowerInput:
    """What a tower expects: side of its images in pixels, mean and SD of their colours."""

    size: int
    mean: tuple[float, ...]
    sd: tuple[float, ...]


class Tower(Encoder):
    """Base class of pretrained networks.

    Attributes
    ----------
    layers : tuple of int or None
        Layer of each band, from 1; None for the tower's final tokens.
    """

    layers: tuple[int | None, ...]

    def _adopt(
        self, tower: nn.Module, spec: str, name: str, expects: TowerInput, layers: tuple[int, ...]
    ) -> None:
        """Take over a network with its weights, and describe its bands.

        Parameters
        ----------
        tower : Module
            In float32, on the CPU.
        spec : str
            By which it is loaded, without layers.
        name : str
            For the identity: architecture, without weights.
        expects : TowerInput
        layers : tuple of int
            Empty for its final tokens.

        Raises
        ------
        InputError
            When it has no such layer.
        """
        checksum = checksum_of(tower)
        self._dtype = _DTYPES[self.precision]
        self._tower = tower.to(self.device, self._dtype).eval().requires_grad_(False)
        self._mean = torch.tensor(expects.mean, device=self.device).view(3, 1, 1)
        self._sd = torch.tensor(expects.sd, device=self.device).view(3, 1, 1)
        self.layers = layers or (None,)
        n_layers = self._n_layers()
        for layer in layers:
            if layer > n_layers:
                raise InputError(
                    f"{band_spec(spec, layer)}: expected a layer of 1 to {n_layers}, found {layer}"
                )
        with torch.inference_mode():
            size = expects.size
            found = self._tokens(torch.zeros(1, 3, size, size, device=self.device))
        self.bands = tuple(
            EncoderBand(
                band_spec(spec, layer),
                f"{name.replace(':', '-')}{'' if layer is None else f'-{layer}'}-{checksum[:8]}",
                {
                    "name": name,
                    "version": 1,
                    "image_size": size,
                    "n_tokens": int(tokens.shape[1]),
                    "n_dims": int(tokens.shape[2]),
                    "mean": [float(x) for x in expects.mean],
                    "deviation": [float(x) for x in expects.sd],
                    "weights": checksum,
                }
                | ({} if layer is None else {"layer": layer}),
                self.precision,
            )
            for layer, tokens in zip(self.layers, found, strict=True)
        )

    def only(self, bands):
        """Return an encoder of some of the bands, which shares the weights."""
        fewer = super().only(bands)
        fewer.layers = tuple(self.layers[band] for band in bands)
        return fewer

    def _tokens(self, images: Tensor) -> list[Tensor]:
        x = ((images - self._mean) / self._sd).to(self._dtype)  # (n, 3, size, size)
        named = tuple(layer for layer in self.layers if layer is not None)
        maps = self._maps(x, named)  # (n, n_dims, rows, columns) each
        if named:
            maps = [_no_finer(one) for one in maps]
        return [one.flatten(2).transpose(1, 2) for one in maps]  # (n, n_tokens, n_dims)

    @abstractmethod
    def _maps(self, x: Tensor, layers: tuple[int, ...]) -> list[Tensor]:
        """Feature maps (n, n_dims, rows, columns) of layers, or the final ones of none."""

    @abstractmethod
    def _n_layers(self) -> int:
        """Number of layers that can be named."""


def _no_finer(features: Tensor) -> Tensor:
    """Average a feature map down to at most `MAX_SIDE` positions a side."""
    side = features.shape[-1]
    factor = -(-side // MAX_SIDE)
    return features if factor == 1 else adaptive_avg_pool2d(features, side // factor)


def load_fitting(network: nn.Module, state: dict[str, Tensor], path: Path, arch: str) -> None:
    """Load weights into a network whose every tensor they must fit.

    Raises
    ------
    InputError
        When they are of another architecture, or no plain numbers.
    """
    expected = network.state_dict()
    strange = sorted(key for key in expected.keys() & state.keys() if not is_plain(state[key]))
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
    network.load_state_dict(state, assign=True)


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor has numbers of its own, in a common layout."""
    if tensor.is_meta or tensor.is_quantized or tensor.layout is not torch.strided:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _shape(state: dict[str, Tensor], key: str) -> str:
    return f"shape {tuple(state[key].shape)}" if key in state else "none"


def read_state(path: Path) -> dict[str, Tensor]:
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


def checksum_of(module: nn.Module) -> str:
    """Return the SHA-256 of the names, shapes and values (as float32) of a module's tensors."""
    digest = hashlib.sha256()
    for key, x in sorted(module.state_dict().items()):
        digest.update(f"{key} {tuple(x.shape)}".encode())
        digest.update(x.detach().float().contiguous().numpy())
    return digest.hexdigest()
