"""Settings: frozen, validated records and named presets, and their conversion to and from JSON.

Every bundle holds its settings in ``config.json``, so that they need not be repeated when it is
loaded. Records are msgspec Structs: the name and the type of each setting are checked when a
record is read, its values whenever a record is made.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

import msgspec
from msgspec.structs import replace

from synbrain_cli.bands import is_own
from synbrain_cli.errors import InputError

# Bounds of what is read from files, far beyond any use: a size out of them is a damaged file, and
# would fill the memory.
Size = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Index = Annotated[int, msgspec.Meta(ge=0, le=1_000)]
Layers = Annotated[int, msgspec.Meta(ge=1, le=1_000)]
Amount = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


def trials_name(averaged_over: int) -> str:
    """Return what rows of data are: "single trials", or "averages of 3 trials"."""
    return "single trials" if averaged_over == 1 else f"averages of {averaged_over} trials"


def trial_name(averaged_over: int) -> str:
    """Return what one row of data is: "single trial", or "average of 3 trials"."""
    return "single trial" if averaged_over == 1 else f"average of {averaged_over} trials"


def a_trial(averaged_over: int) -> str:
    """Return `trial_name` with its article: "a single trial", or "an average of 3 trials"."""
    return f"{'a' if averaged_over == 1 else 'an'} {trial_name(averaged_over)}"


def repeats_advice(averaged_over: int) -> str:
    """Return what can be done where repeats are missing, for messages and notes."""
    if averaged_over == 1:
        return "show images twice or more, or give ncsnr"
    return (
        f"each row is an average of {averaged_over} trials: prepare the single trials, or give the "
        "ncsnr of single trials (--voxels)"
    )


class JSONSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A frozen record of settings that can be converted to and from the types of JSON.

    Subclasses check their values in ``__post_init__``, which raises an `InputError`.
    """

    def to_dict(self) -> dict[str, Any]:
        """Return the settings by name, in the types of JSON (tuples become lists)."""
        settings: dict[str, Any] = msgspec.to_builtins(self)
        return settings

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Rebuild the record from the output of `to_dict`, as read from JSON.

        Raises
        ------
        InputError
            When a setting is missing, unknown, of another type or out of range. The message names
            the setting.
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
    """Raise an `InputError` with what was expected and found, unless the value is valid."""
    if not valid:
        raise InputError(f"expected {expected}, found {found}")


class VAEConfig(JSONSettings, frozen=True):
    """Architecture of a BrainVAE. The defaults are those of Mai et al. (2025).

    Attributes
    ----------
    n_tokens, n_dims : int
        Shape of the latent, equal to that of the image tokens. Tokens are channels of the
        convolutions.
    channels : int
        Channels after the first convolution. GroupNorm has 32 groups, so every level's
        ``channels * multiplier`` is a multiple of 32.
    multipliers : tuple of int
        Channels of each level, in multiples of ``channels``.
    n_res_blocks : int
        Residual blocks per level of the encoder; the decoder has one more.
    n_scales : int
        Number of levels after which the length is halved (encoder) or doubled (decoder).
    ada_length : int
        Length to which the voxels are max-pooled, independent of their number.
    projector_width : int
        Hidden width of the projectors between length and ``n_dims``.

    Raises
    ------
    InputError
        When channels, levels or lengths do not fit together.
    """

    n_tokens: Size = 256
    n_dims: Size = 1664
    channels: Size = 128
    multipliers: Annotated[tuple[Layers, ...], msgspec.Meta(min_length=1, max_length=30)] = (
        2,
        4,
        4,
    )
    n_res_blocks: Layers = 2
    n_scales: Annotated[int, msgspec.Meta(ge=0, le=30)] = 1
    ada_length: Size = 8192
    projector_width: Size = 2048

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
    """Architecture of an S2N mapper. The defaults are those of Mai et al. (2025).

    Attributes
    ----------
    n_tokens, n_dims : int
        Shape of the image tokens and of the latent. ``n_dims`` is even and a multiple of
        ``n_heads``.
    depth : int
        Number of transformer blocks.
    n_heads : int
        Attention heads per block.
    mlp_ratio : float
        Hidden width of the MLPs, in multiples of ``n_dims``.
    prediction : {"x", "v"}
        Whether the output of the transformer is the latent ("x"), or is added to the tokens ("v").

    Raises
    ------
    InputError
        When a setting is out of range, or ``n_dims`` does not fit ``n_heads``.
    """

    n_tokens: Size = 256
    n_dims: Size = 1664
    depth: Layers = 8
    n_heads: Size = 13
    mlp_ratio: Annotated[float, msgspec.Meta(gt=0, le=1_000)] = 4.0
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
    """Architecture and regularisation of an encoder that subjects share (`model.core`).

    The defaults are ours. They were chosen on the four-hour simulated subjects with knowledge of
    the test scores (docs/adaptation.md). The tokens of every band lie on a square grid.

    Attributes
    ----------
    bands : tuple of int
        Those of the model's bands that are seen, from 0.
    shapes : tuple of (int, int)
        Tokens per image and dimensions of a token, of each band that is seen.
    n_members : int
        Cores whose predictions are averaged, each trained without a part of the images.
    hidden, n_local : int
        Hidden width of the network that is applied to each token, and number of local features of
        each band.
    exponent : float
        Of local features averaged within a receptive field, before voxels weigh them: 1, they add
        up; below 1, they saturate (compressive spatial summation: Kay et al. 2013, *J Neurophysiol*
        110:481).
    bottleneck, n_global : int
        Width of the layer between regions and global features, and number of global features.
    dropout : float
        Share of global features that are left out in a training step.
    decay_core, decay_field, decay_own : float
        AdamW's weight decay of the core, of the field over cortex, and of the voxels' offsets from
        the field. The last is the strongest, because it determines how similar subjects are.

    Raises
    ------
    InputError
        When the dropout or the exponent is out of range, tokens are on no square grid, or not every
        band has a shape.
    """

    bands: Annotated[tuple[Index, ...], msgspec.Meta(min_length=1, max_length=100)] = (0,)
    shapes: Annotated[tuple[tuple[Size, Size], ...], msgspec.Meta(min_length=1, max_length=100)] = (
        (256, 48),
    )
    n_members: Annotated[int, msgspec.Meta(ge=1, le=100)] = 1
    hidden: Size = 48
    n_local: Size = 24
    exponent: float = 1.0
    bottleneck: Size = 32
    n_global: Size = 128
    dropout: float = 0.5
    decay_core: Amount = 0.3
    decay_field: Amount = 0.03
    decay_own: Amount = 3.0

    def __post_init__(self) -> None:
        _check(0 <= self.dropout < 1, "a dropout from 0 to below 1", self.dropout)
        _check(0 < self.exponent <= 1, "an exponent above 0, up to 1", self.exponent)
        _check(len(self.shapes) == len(self.bands), "a shape for every band", len(self.shapes))
        for n_tokens, _ in self.shapes:
            _check(math.isqrt(n_tokens) ** 2 == n_tokens, "tokens on a square grid", n_tokens)

    @property
    def sides(self) -> tuple[int, ...]:
        """Tokens per side of each band's grid."""
        return tuple(math.isqrt(n_tokens) for n_tokens, _ in self.shapes)

    @property
    def n_read(self) -> int:
        """Local features that a voxel reads within its receptive field: those of all bands."""
        return len(self.shapes) * self.n_local


class StageConfig(JSONSettings, frozen=True):
    """Schedule and optimiser of the training of one network.

    Attributes
    ----------
    epochs : int
        Largest number of epochs; early stopping usually ends the training before.
    batch_size : int
        Trials (BrainVAE) or images (mapper) per step.
    learning_rate, weight_decay, betas : float, float, (float, float)
        Settings of AdamW.
    warmup_steps : int
        Steps of linear warm-up, after which a cosine decreases to a tenth of ``learning_rate``
        over the whole training.
    clip_norm : float
        Largest norm of the gradient; 0 for no clipping.
    ema_decay : float
        Decay per step of the averaged weights; 0 for no averaging.
    patience : int
        Epochs without a better validation score after which training stops.

    Raises
    ------
    InputError
        When a setting is out of range.
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


# Training of the shared core (ours): as many epochs over the images of all source subjects as
# present CORE_IMAGES images, but at least CORE_EPOCHS.
CORE_STAGE = StageConfig(24, 32, 4e-3, 0.0, warmup_steps=150, clip_norm=0.0, patience=8)
CORE_IMAGES, CORE_EPOCHS = 60_000, 8


class LossConfig(JSONSettings, frozen=True):
    """Weights of the losses, for any number of voxels and latent dimensions.

    The published objective sums squared errors over voxels, so its balance depends on their
    number V. Divided by V·s² (s² the variance of a voxel over trials), with V = 15,724,
    425,984 latent dimensions and s² = 0.135 (mean over the four published subjects of the mean
    pattern's squared error), it reads

        mean squared error / s² + 0.20 · KL per dimension + 0.47 · SoftCLIP,

    which is minimised here. It equals the published objective at the published number of voxels,
    and keeps the same balance at any other. The published weights are 0.001 (KL) and 1000
    (SoftCLIP), with a temperature of 0.125.

    The mapper minimises the squared error to the posterior mean, as a share of the variance of
    those means over images, plus (ours) ``response`` times the squared error of the decoded
    response, as a share of a voxel's variance. With the published objective alone
    (``response=0``) decoded amplitudes are those of single trials, noise included: the decoder's
    layer and group normalisation undo the shrinkage that makes a latent a conditional mean.

    Attributes
    ----------
    kl, clip : float
        Weights of the KL divergence and of SoftCLIP, as above.
    temperature : float
        Temperature of SoftCLIP.
    response : float
        Weight of the decoded response in the loss of the mapper.
    response_every : int
        Every ``response_every``-th image of a batch is decoded. The expected loss is the same, and
        the cost of decoding is divided by this number.

    Raises
    ------
    InputError
        When the temperature or ``response_every`` is out of range.
    """

    kl: float = 0.20
    clip: float = 0.47
    temperature: float = 0.125
    response: float = 1.0
    response_every: int = 1

    def __post_init__(self) -> None:
        _check(self.temperature > 0, "a temperature above 0", self.temperature)
        _check(self.response_every >= 1, "response_every of 1 or more", self.response_every)


class Band(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One layer of an image encoder that computed some tokens, and its numerical precision.

    Attributes
    ----------
    spec : str
        Name by which the band is loaded: ``gabor``, ``openclip:ARCH/PRETRAINED@6``; ``tokens:NAME``
        is of the user's own.
    identity : dict
        Properties by which bands are compared (`synbrain_cli.features.encoder.EncoderBand`); of a
        band of the user's own ``weights`` is a checksum of its tokens
        (`synbrain_cli.io.token_files`).
    precision : {"float32", "fp16", "bf16"}
        Precision of the computation; float32 for tokens that do not record it.

    Raises
    ------
    InputError
        When the identity lacks the shape of the tokens.
    """

    spec: str
    identity: dict[str, Any]
    precision: Literal["float32", "fp16", "bf16"] = "float32"

    def __post_init__(self) -> None:
        own = is_own(self.spec)
        for name in ("n_tokens", "n_dims", *(() if own else ("image_size",))):
            size = self.identity.get(name)
            _check(
                type(size) is int and 1 <= size <= 1_000_000,
                f"{name} of the encoder's identity to be a number from 1 to 1,000,000",
                repr(size)[:80],
            )

    @property
    def token_shape(self) -> tuple[int, int]:
        """Shape (n_tokens, n_dims) of the tokens of an image."""
        return self.identity["n_tokens"], self.identity["n_dims"]


PRECISIONS = ("auto", "float32", "bf16")


class Speed(JSONSettings, frozen=True):
    """How training steps are computed. Results differ by rounding alone.

    Attributes
    ----------
    precision : {"float32", "bf16"}
        Precision of matrix products and convolutions. Weights, losses and normalisation statistics
        are float32 in both cases.
    compiled : bool
        Whether operations are fused by ``torch.compile``; where it fails, training continues
        without it.
    micro_batch : int, optional
        Trials or images of a batch that are in memory together. Their gradients are added, and
        their activations are computed twice. None: as many as fit, which is determined on a GPU.

    Raises
    ------
    InputError
        When a setting is out of range.
    """

    precision: str = "float32"
    compiled: bool = False
    micro_batch: int | None = None

    def __post_init__(self) -> None:
        _check(self.precision in PRECISIONS[1:], "precision float32 or bf16", self.precision)
        micro_batch = self.micro_batch
        _check(micro_batch is None or micro_batch >= 1, "a micro-batch of 1 or more", micro_batch)


class Preset(msgspec.Struct, frozen=True):
    """Architecture and training schedule of both networks, for image tokens of any shape.

    Attributes
    ----------
    name : str
        Name of the preset, for ``--preset``.
    vae, mapper : VAEConfig, MapperConfig
        Templates, in which `networks` sets ``n_tokens``, ``n_dims`` and ``n_heads``.
    head_size : int
        Smallest width of an attention head.
    vae_stage, mapper_stage : StageConfig
        Training of the two networks.
    adapt_vae_stage, adapt_mapper_stage : StageConfig
        Fine-tuning of the two networks to a new subject.
    loss : LossConfig
        Weights of the losses.
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
        # For the CPU of a laptop and simulated subjects (under 1,000 voxels), in two minutes; ours.
        # The response loss has the largest weight, because so short a training learns the
        # amplitudes and the detail of V1 from it.
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
        # For one consumer GPU; ours. On a CPU, by the pace of the first steps, a quarter of an hour
        # for a simulated subject and seven hours for one of NSD's size (docs/performance.md).
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
        # Mai et al. 2025: learning rate 1e-4, batches of 24, at most 15 epochs of BrainVAE; 50,000
        # steps of the mapper are 133 epochs of 9,000 images. Adaptation: 40,000 steps on the images
        # of 750 trials.
        Preset(
            "paper",
            vae=VAEConfig(),
            mapper=MapperConfig(depth=8),
            head_size=128,
            **_stages(vae_epochs=15, mapper_epochs=133, batch=24, rate=1e-4, ema=0.9999),
            # Decoding every image would cost more than the rest of the training of the mapper.
            loss=LossConfig(response_every=4),
        ),
    )
}
