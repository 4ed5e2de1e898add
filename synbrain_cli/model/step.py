"""Training steps of the two networks: from a batch and its noise to the loss.

Random numbers are arguments of a step. Its loss is therefore a function of its inputs, and is the
same when a batch is divided into parts, computed twice, or distributed over processes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from synbrain_cli.config import LossConfig
from synbrain_cli.distributed import SINGLE_PROCESS, Processes
from synbrain_cli.model.losses import brainvae_loss
from synbrain_cli.model.mapper import Mapper
from synbrain_cli.model.vae import BrainVAE, Posterior, VAEOutput

Function = Callable[..., tuple[Tensor, ...]]


class TrainingStep(nn.Module):
    """A network and its loss. How the loss is computed may be changed; its value stays the same.

    Parameters
    ----------
    processes : Processes
        Processes that hold parts of the batch.

    Attributes
    ----------
    precision : {"float32", "bf16"}
        Inside the networks. Losses are computed outside, in float32.
    micro_batch : int or None
        Number of items of a batch that pass through a network together; None for all.
    compiled : bool
    """

    def __init__(self, processes: Processes = SINGLE_PROCESS):
        super().__init__()
        self.processes = processes
        self.precision = "float32"
        self.micro_batch: int | None = None
        self.compiled = False
        self._compiled: dict[str, Function] = {}

    def in_parts(self, function: Function, *batch: Tensor) -> tuple[Tensor, ...]:
        """Apply a network's function to a batch, in parts; return float32 tensors.

        Cut into parts, each forgets its activations until its gradient is due (Chen et al. 2016,
        arXiv 1604.06174): memory is that of one part, for a third more arithmetic. The gradient
        is that of the whole batch, a loss between its members included.
        """
        if self.compiled:
            name = function.__name__
            if name not in self._compiled:
                self._compiled[name] = torch.compile(function, dynamic=False)
            function = self._compiled[name]
        n, size = len(batch[0]), self.micro_batch
        half = self.precision == "bf16"
        with torch.autocast(batch[0].device.type, torch.bfloat16, enabled=half):
            if size is None or size >= n:
                parts = [function(*batch)]
            else:
                parts = [
                    checkpoint(function, *some, use_reentrant=False, preserve_rng_state=False)
                    for some in zip(*(x.split(size) for x in batch), strict=True)
                ]
        return tuple(torch.cat(each).float() for each in zip(*parts, strict=True))


class VAEStep(TrainingStep):
    """BrainVAE's loss on a batch of trials.

    Parameters
    ----------
    vae : BrainVAE
    config : LossConfig
    processes : Processes
    """

    def __init__(self, vae: BrainVAE, config: LossConfig, processes: Processes = SINGLE_PROCESS):
        super().__init__(processes)
        self.vae, self.config = vae, config

    def _reconstruct(self, y: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        reconstruction, posterior, latent = self.vae(y, noise)
        return reconstruction, *posterior, latent

    def forward(self, y: Tensor, tokens: Tensor, noise: Tensor) -> Tensor:
        """Compute the loss (`synbrain_cli.model.losses.brainvae_loss`), a scalar.

        Parameters
        ----------
        y : Tensor of shape (batch, n_voxels), standardised
        tokens : Tensor of shape (batch, n_tokens, n_dims)
            Of each trial's image, standardised.
        noise : Tensor of shape (batch, n_tokens, n_dims)
            Standard normal.
        """
        reconstruction, mean, log_variance, latent = self.in_parts(self._reconstruct, y, noise)
        output = VAEOutput(reconstruction, Posterior(mean, log_variance), latent)
        return brainvae_loss(output, y, tokens, self.config, processes=self.processes)[0]


class MapperStep(TrainingStep):
    """The S2N mapper's loss on a batch of images.

    Parameters
    ----------
    mapper : Mapper
    vae : BrainVAE
        Frozen.
    config : LossConfig
    target_variance : Tensor of shape ()
        Of the latent's targets over images, mean over dimensions.
    latent_sd : Tensor of shape (n_tokens, n_dims)
        Standard deviation of the posterior.
    n_voxels : int
    processes : Processes
    """

    def __init__(
        self,
        mapper: Mapper,
        vae: BrainVAE,
        config: LossConfig,
        target_variance: Tensor,
        latent_sd: Tensor,
        n_voxels: int,
        processes: Processes = SINGLE_PROCESS,
    ):
        super().__init__(processes)
        self.mapper, self.vae = mapper, vae
        self.config, self.n_voxels = config, n_voxels
        self.target_variance, self.latent_sd = target_variance, latent_sd

    def _map(self, tokens: Tensor) -> tuple[Tensor]:
        return (self.mapper(tokens),)

    def _decode(self, latent: Tensor) -> tuple[Tensor]:
        return (self.vae.decode(latent, self.n_voxels),)

    def forward(self, tokens: Tensor, targets: Tensor, averages: Tensor, noise: Tensor) -> Tensor:
        """Compute the loss of the latent, and of the responses decoded from some; a scalar.

        Parameters
        ----------
        tokens, targets : Tensor of shape (batch, n_tokens, n_dims)
            Image tokens, standardised, and the posterior means that belong to them.
        averages : Tensor of shape (batch, n_voxels)
            Responses, averaged over repeats.
        noise : Tensor of shape (batch, n_tokens, n_dims)
            Of a draw, in standard deviations of the posterior.
        """
        (latent,) = self.in_parts(self._map, tokens)
        loss = F.mse_loss(latent, targets) / self.target_variance
        if not self.config.response:
            return loss
        every = self.config.response_every
        # Every k-th image of the whole batch, of which this process has a part.
        some = slice(-self.processes.rank * len(tokens) % every, None, every)
        (decoded,) = self.in_parts(self._decode, latent[some] + noise[some] * self.latent_sd)
        return loss + self.config.response * F.mse_loss(decoded, averages[some])
