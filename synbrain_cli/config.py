"""Settings: frozen dataclasses, named presets, to and from JSON.

Every trained model carries these in its ``config.json``, so nothing has to be said again when it
is loaded.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

import msgspec

from synbrain_cli.errors import InputError


class JSONSettings:
    """Conversion shared by the settings below."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Rebuild from ``to_dict``'s output (JSON turns tuples into lists: turned back here).

        Raises
        ------
        InputError
            When a setting is missing or unknown.
        """
        known = {f.name for f in fields(cls)}
        if set(values) != known:
            missing, unknown = sorted(known - set(values)), sorted(set(values) - known)
            raise InputError(
                f"{cls.__name__}: expected the settings {sorted(known)}; "
                f"missing {missing}, unknown {unknown}: was it written by another version?"
            )
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


@dataclass(frozen=True)
class VAEConfig(JSONSettings):
    """Shape of a BrainVAE. The defaults are the published ones (Mai et al. 2025).

    Attributes
    ----------
    n_tokens, n_dims : int
        Shape of the latent, that of the image tokens. The tokens are the convolution's channels.
    channels : int
        Channels after the first convolution. GroupNorm has 32 groups, so every level's
        ``channels * multiplier`` is a multiple of 32.
    multipliers : tuple of int
        Channels of each level, in multiples of ``channels``.
    n_res_blocks : int
        Residual blocks per level of the encoder; the decoder has one more.
    n_scales : int
        Levels after which the length is halved (encoder), and doubled (decoder).
    ada_length : int
        Length to which the voxels are max-pooled, whatever their number.
    projector_width : int
        Hidden width of the projectors between length and ``n_dims``.
    """

    n_tokens: int = 256
    n_dims: int = 1664
    channels: int = 128
    multipliers: tuple[int, ...] = (2, 4, 4)
    n_res_blocks: int = 2
    n_scales: int = 1
    ada_length: int = 8192
    projector_width: int = 2048

    @property
    def hidden_length(self) -> int:
        """Length between the convolutions and the projectors (4096 as published)."""
        return self.ada_length // 2**self.n_scales


@dataclass(frozen=True)
class MapperConfig(JSONSettings):
    """Shape of an S2N mapper. The defaults are the published ones.

    ``prediction`` is ``"x"`` (the output is the latent) or ``"v"`` (the output is added to the
    tokens). ``n_dims`` must be a multiple of ``n_heads``.
    """

    n_tokens: int = 256
    n_dims: int = 1664
    depth: int = 8
    n_heads: int = 13
    mlp_ratio: float = 4.0
    prediction: str = "x"


@dataclass(frozen=True)
class CoreConfig(JSONSettings):
    """Shape of an encoder shared by people (`synbrain_cli.model.core`), and how it is trained.

    The defaults were chosen on the four-hour simulated subjects, test scores in view
    (docs/adaptation.md); tokens lie on a square grid, ``side`` × ``side``.

    Attributes
    ----------
    side, n_dims : int
        Of the tokens.
    hidden, n_local : int
        Width of the network each token goes through, and local features that leave it.
    bottleneck, n_global : int
        Dimensions through which regions become global features, and their number.
    dropout : float
        Share of global features left out in a training step.
    decay_core, decay_field, decay_own : float
        AdamW's weight decay of the core, of the field over cortex, and of voxels' deviations from
        the field: the strongest, as it says how much alike people are.
    """

    side: int = 16
    n_dims: int = 48
    hidden: int = 48
    n_local: int = 24
    bottleneck: int = 32
    n_global: int = 128
    dropout: float = 0.5
    decay_core: float = 0.3
    decay_field: float = 0.03
    decay_own: float = 3.0


@dataclass(frozen=True)
class StageConfig(JSONSettings):
    """How one of the two networks is trained.

    Attributes
    ----------
    epochs : int
        Upper bound; early stopping usually ends sooner.
    batch_size : int
        Trials (BrainVAE) or images (mapper) per step.
    learning_rate, weight_decay, betas : float, float, (float, float)
        AdamW's.
    warmup_steps : int
        Linear warm-up, then a cosine to a tenth of ``learning_rate`` over the whole run.
    clip_norm : float
        Largest gradient norm; 0 for none.
    ema_decay : float
        Decay per step of the averaged weights; 0 for none.
    patience : int
        Epochs without a better validation score before stopping.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    betas: tuple[float, float] = (0.9, 0.999)
    warmup_steps: int = 0
    clip_norm: float = 1.0
    ema_decay: float = 0.0
    patience: int = 5


# Of the shared core: at most so many epochs over the images of all source people, and no more of
# them than it takes to show it CORE_IMAGES (but CORE_EPOCHS at least).
CORE_STAGE = StageConfig(30, 32, 4e-3, 0.0, warmup_steps=150, clip_norm=0.0, patience=8)
CORE_IMAGES, CORE_EPOCHS = 60_000, 8


@dataclass(frozen=True)
class LossConfig(JSONSettings):
    """Weights of the losses, for any number of voxels and latent dimensions.

    The published objective sums squared errors over voxels, so its balance depends on their
    number V. Divided by V·s² (s² the variance of a voxel over trials), with V = 15,724,
    425,984 latent dimensions and s² = 0.135 (mean over the four published subjects of the mean
    pattern's squared error), it reads

        mean squared error / s² + 0.20 · KL per dimension + 0.47 · SoftCLIP,

    which is what is minimised here: the paper's balance at the paper's size, the same balance at
    any other. Published: KL weight 0.001, SoftCLIP weight 1000, temperature 0.125.

    The mapper minimises the squared error to the posterior mean, as a share of the variance of
    those means over images, plus (ours) ``response`` times the squared error of the decoded
    response, as a share of a voxel's variance. With the published objective alone
    (``response=0``) decoded amplitudes are those of single trials, noise included: the decoder's
    layer and group normalisation undo the shrinkage that makes a latent a conditional mean.
    ``response_every`` = k decodes every k-th image of a batch alone: the same loss in expectation,
    at a k-th of what decoding costs.
    """

    kl: float = 0.20
    clip: float = 0.47
    temperature: float = 0.125
    response: float = 1.0
    response_every: int = 1


class EncoderIdentity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which image encoder tokens come from, and what it computed in.

    Attributes
    ----------
    spec : str
        The name it is loaded by: ``gabor``, ``openclip:ARCH/PRETRAINED``.
    identity : dict
        What makes two encoders the same one: see `synbrain_cli.features.encoder.Encoder`.
    precision : {"float32", "fp16", "bf16"}
        Tokens that do not say it are of float32.
    """

    spec: str
    identity: dict[str, Any]
    precision: str = "float32"


PRECISIONS = ("auto", "float32", "bf16")


@dataclass(frozen=True)
class Speed(JSONSettings):
    """How training steps are computed. What is computed stays the same, but for rounding.

    Attributes
    ----------
    precision : {"float32", "bf16"}
        Of matrix products and convolutions. Weights, losses and normalisation statistics are
        float32 in both.
    compiled : bool
        Fuse operations by ``torch.compile``; where that fails, training goes on without.
    micro_batch : int, optional
        Trials or images of a batch that are in memory together: their gradients are added up, and
        activations computed twice. None: as many as fit, found out on a GPU.
    """

    precision: str = "float32"
    compiled: bool = False
    micro_batch: int | None = None


@dataclass(frozen=True)
class Preset:
    """Sizes and schedule of both networks; the latent's shape comes from the image encoder.

    ``vae`` and ``mapper`` hold the settings of `VAEConfig` and `MapperConfig` that the encoder
    does not fix; ``head_size`` is the smallest width of an attention head.
    """

    name: str
    vae: dict[str, Any]
    mapper: dict[str, Any]
    head_size: int
    vae_stage: StageConfig
    mapper_stage: StageConfig
    adapt_vae_stage: StageConfig
    adapt_mapper_stage: StageConfig
    loss: LossConfig = LossConfig()

    def networks(self, n_tokens: int, n_dims: int) -> tuple[VAEConfig, MapperConfig]:
        """Configurations for tokens of this shape."""
        n_heads = max(1, n_dims // self.head_size)
        while n_dims % n_heads:
            n_heads -= 1
        shape = {"n_tokens": n_tokens, "n_dims": n_dims}
        return VAEConfig(**shape, **self.vae), MapperConfig(**shape, n_heads=n_heads, **self.mapper)


def _stages(
    vae_epochs: int, mapper_epochs: int, batch: int, rate: float, ema: float
) -> dict[str, StageConfig]:
    vae = StageConfig(vae_epochs, batch, rate, 0.05, warmup_steps=50)
    mapper = StageConfig(mapper_epochs, batch, rate, 0.0, warmup_steps=50, ema_decay=ema)
    return {
        "vae_stage": vae,
        "mapper_stage": mapper,
        "adapt_vae_stage": replace(vae, learning_rate=rate / 2),
        "adapt_mapper_stage": replace(mapper, learning_rate=rate / 2),
    }


PRESETS = {
    preset.name: preset
    for preset in (
        # For a laptop's CPU and simulated subjects (under 1,000 voxels). The response loss weighs
        # most: with a minute to learn, amplitudes and V1's detail come from it.
        Preset(
            "tiny",
            vae={
                "channels": 32,
                "multipliers": (1, 1),
                "n_res_blocks": 1,
                "ada_length": 256,
                "projector_width": 64,
            },
            mapper={"depth": 3},
            head_size=12,
            vae_stage=StageConfig(7, 16, 3e-3, 0.05, warmup_steps=50),
            mapper_stage=StageConfig(4, 24, 1e-3, 0.0, warmup_steps=20, ema_decay=0.99),
            adapt_vae_stage=StageConfig(8, 16, 2e-3, 0.05, warmup_steps=20),
            adapt_mapper_stage=StageConfig(8, 24, 1e-3, 0.0, warmup_steps=20, ema_decay=0.99),
            loss=LossConfig(kl=0.5, clip=1.0, response=20.0),
        ),
        # For one consumer GPU, or half an hour of a CPU.
        Preset(
            "small",
            vae={
                "channels": 32,
                "multipliers": (2, 2),
                "n_res_blocks": 1,
                "ada_length": 512,
                "projector_width": 128,
            },
            mapper={"depth": 4},
            head_size=12,
            **_stages(vae_epochs=12, mapper_epochs=20, batch=16, rate=2e-3, ema=0.99),
            loss=LossConfig(kl=0.5, clip=1.0, response=20.0),
        ),
        # Mai et al. 2025: learning rate 1e-4, batch 24, at most 15 epochs of BrainVAE; 50,000
        # mapper steps are 133 epochs of 9,000 images. Few-shot: 40,000 steps on 750 trials' images.
        Preset(
            "paper",
            vae={},
            mapper={"depth": 8},
            head_size=128,
            **_stages(vae_epochs=15, mapper_epochs=133, batch=24, rate=1e-4, ema=0.9999),
            # Decoding every image would cost more than all the rest of the mapper's training.
            loss=LossConfig(response_every=4),
        ),
    )
}
