"""Settings: frozen validated records, named presets, to and from JSON.

Every trained model carries these in its ``config.json``, so that nothing needs to be given again
when it is loaded. Records are msgspec Structs: reading one checks the name and type of each
setting, making one checks its values.
"""

from __future__ import annotations

from typing import Any, Literal, Self

import msgspec
from msgspec.structs import replace

from synbrain_cli.errors import InputError


class JSONSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A frozen record of settings, and its conversion to and from what JSON holds.

    Subclasses check their values in ``__post_init__``, which raises an `InputError`.
    """

    def to_dict(self) -> dict[str, Any]:
        """Return the settings by name, in the types that JSON has (tuples become lists)."""
        settings: dict[str, Any] = msgspec.to_builtins(self)
        return settings

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Rebuild from ``to_dict``'s output, as read from JSON.

        Raises
        ------
        InputError
            When a setting is missing, unknown, of another type or out of range; it is named.
        """
        found = set(values) if isinstance(values, dict) else set(cls.__struct_fields__)
        missing = sorted(set(cls.__struct_fields__) - found)
        if missing:
            raise InputError(
                f"{cls.__name__}: missing {', '.join(missing)}: was it written by another version?"
            )
        try:
            return msgspec.convert(values, cls)
        except msgspec.ValidationError as error:
            raise InputError(
                f"{cls.__name__}: {error}: was it written by another version?"
            ) from error


def _check(valid: bool, expected: str, found: object) -> None:
    """Raise an `InputError` that states what was expected and found, unless a value is valid."""
    if not valid:
        raise InputError(f"expected {expected}, found {found}")


class VAEConfig(JSONSettings, frozen=True):
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

    def __post_init__(self) -> None:
        widths = [self.channels * m for m in (1, *self.multipliers)]
        _check(
            all(width > 0 and width % 32 == 0 for width in widths),
            "channels in multiples of 32 at every level",
            widths,
        )
        n_levels, factor = len(self.multipliers), 2**self.n_scales
        _check(
            0 <= self.n_scales <= n_levels,
            f"n_scales between 0 and the number of levels ({n_levels})",
            self.n_scales,
        )
        _check(
            self.ada_length >= 1 and self.ada_length % factor == 0,
            f"ada_length to be a multiple of {factor} (2^n_scales)",
            self.ada_length,
        )
        _check(self.n_res_blocks >= 1, "at least one residual block", self.n_res_blocks)

    @property
    def hidden_length(self) -> int:
        """Length between the convolutions and the projectors (4096 as published)."""
        return self.ada_length // 2**self.n_scales


class MapperConfig(JSONSettings, frozen=True):
    """Shape of an S2N mapper. The defaults are the published ones.

    ``prediction`` is ``"x"`` (the output is the latent) or ``"v"`` (the output is added to the
    tokens). ``n_dims`` must be a multiple of ``n_heads``.
    """

    n_tokens: int = 256
    n_dims: int = 1664
    depth: int = 8
    n_heads: int = 13
    mlp_ratio: float = 4.0
    prediction: Literal["x", "v"] = "x"

    def __post_init__(self) -> None:
        _check(self.prediction in ("x", "v"), "prediction 'x' or 'v'", repr(self.prediction))
        _check(
            self.n_heads >= 1 and self.n_dims % self.n_heads == 0,
            f"n_dims ({self.n_dims}) to be a multiple of n_heads",
            self.n_heads,
        )
        _check(self.n_dims % 2 == 0, "an even n_dims for sine and cosine", self.n_dims)


class CoreConfig(JSONSettings, frozen=True):
    """Shape of an encoder shared by subjects (`synbrain_cli.model.core`), and how it is trained.

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
        AdamW's weight decay of the core, of the field over cortex, and of voxels' offsets from
        the field: the strongest, as it sets how alike subjects are.
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

    def __post_init__(self) -> None:
        _check(0 <= self.dropout < 1, "a dropout from 0 to below 1", self.dropout)


class StageConfig(JSONSettings, frozen=True):
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

    def __post_init__(self) -> None:
        _check(self.epochs >= 1, "at least one epoch", self.epochs)
        _check(self.batch_size >= 1, "a batch of at least one", self.batch_size)
        _check(self.learning_rate > 0, "a learning rate above 0", self.learning_rate)
        _check(self.weight_decay >= 0, "a weight decay of 0 or more", self.weight_decay)
        _check(self.clip_norm >= 0, "a clip_norm of 0 or more", self.clip_norm)
        _check(0 <= self.ema_decay < 1, "an ema_decay from 0 to below 1", self.ema_decay)
        _check(self.patience >= 1, "a patience of at least one epoch", self.patience)


# Training of the shared core: epochs over the images of all source subjects, up to the number
# that shows it CORE_IMAGES images, but at least CORE_EPOCHS.
CORE_STAGE = StageConfig(30, 32, 4e-3, 0.0, warmup_steps=150, clip_norm=0.0, patience=8)
CORE_IMAGES, CORE_EPOCHS = 60_000, 8


class LossConfig(JSONSettings, frozen=True):
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

    def __post_init__(self) -> None:
        _check(self.temperature > 0, "a temperature above 0", self.temperature)
        _check(self.response_every >= 1, "response_every of 1 or more", self.response_every)


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


class Speed(JSONSettings, frozen=True):
    """How training steps are computed. Results are the same but for rounding.

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

    def __post_init__(self) -> None:
        _check(self.precision in PRECISIONS[1:], "precision float32 or bf16", self.precision)
        micro_batch = self.micro_batch
        _check(micro_batch is None or micro_batch >= 1, "a micro-batch of 1 or more", micro_batch)


class Preset(msgspec.Struct, frozen=True):
    """Sizes and schedule of both networks; the latent's shape comes from the image encoder.

    Attributes
    ----------
    name : str
    vae, mapper : VAEConfig, MapperConfig
        Templates: `networks` sets ``n_tokens``, ``n_dims`` and ``n_heads``.
    head_size : int
        Smallest width of an attention head.
    vae_stage, mapper_stage : StageConfig
        Training of the two networks.
    adapt_vae_stage, adapt_mapper_stage : StageConfig
        Their fine-tuning to a new subject.
    loss : LossConfig
    """

    name: str
    vae: VAEConfig
    mapper: MapperConfig
    head_size: int
    vae_stage: StageConfig
    mapper_stage: StageConfig
    adapt_vae_stage: StageConfig
    adapt_mapper_stage: StageConfig
    loss: LossConfig = LossConfig()

    def networks(self, n_tokens: int, n_dims: int) -> tuple[VAEConfig, MapperConfig]:
        """Return the configurations of both networks for tokens of this shape."""
        n_heads = max(1, n_dims // self.head_size)
        while n_dims % n_heads:
            n_heads -= 1
        return (
            replace(self.vae, n_tokens=n_tokens, n_dims=n_dims),
            replace(self.mapper, n_tokens=n_tokens, n_dims=n_dims, n_heads=n_heads),
        )


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
            vae=VAEConfig(
                channels=32,
                multipliers=(1, 1),
                n_res_blocks=1,
                ada_length=256,
                projector_width=64,
            ),
            mapper=MapperConfig(depth=3),
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
            vae=VAEConfig(
                channels=32,
                multipliers=(2, 2),
                n_res_blocks=1,
                ada_length=512,
                projector_width=128,
            ),
            mapper=MapperConfig(depth=4),
            head_size=12,
            **_stages(vae_epochs=12, mapper_epochs=20, batch=16, rate=2e-3, ema=0.99),
            loss=LossConfig(kl=0.5, clip=1.0, response=20.0),
        ),
        # Mai et al. 2025: learning rate 1e-4, batch 24, at most 15 epochs of BrainVAE; 50,000
        # mapper steps are 133 epochs of 9,000 images. Few-shot: 40,000 steps on 750 trials' images.
        Preset(
            "paper",
            vae=VAEConfig(),
            mapper=MapperConfig(depth=8),
            head_size=128,
            **_stages(vae_epochs=15, mapper_epochs=133, batch=24, rate=1e-4, ema=0.9999),
            # Decoding every image would cost more than all the rest of the mapper's training.
            loss=LossConfig(response_every=4),
        ),
    )
}
