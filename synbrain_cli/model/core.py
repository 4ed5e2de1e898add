"""An encoder that is shared by several subjects, and the readout of the voxels of a new subject.

It combines two ideas:

- **A core and readouts** (Klindt et al. 2017, NeurIPS; Lurz et al. 2021, ICLR): one nonlinear core
  turns image tokens into features and is trained on the responses of all subjects at once; a
  voxel reads them with few numbers of its own. Local features are read within a Gaussian
  receptive field (St-Yves & Naselaris 2018, *NeuroImage* 180:188), global ones as they are.
- **A prior over the cortical sheet** (ours): a voxel's numbers are the sum of a field over
  fsaverage's sphere, which subjects share, and an offset from it of its own. A new subject starts
  from the field.

The predictions of a core (`CoreEvidence`) are what a new subject's voxels are fitted to in
`synbrain_cli.model.transfer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import cast

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor, nn
from torch.nn import functional as F

from synbrain_cli.config import CoreConfig
from synbrain_cli.model.fit import ParameterGroup
from synbrain_cli.model.tokens import TokenScaler

VOXEL_PARTS = ("field", "local", "whole", "offset")
REGIONS = 4  # a side: the global features see local ones averaged in 4 × 4 regions
FLOOR = 0.1  # under the logarithm of those averages
OWN = 0.3  # scale of a voxel's offset from the field (ours); smaller is a stronger prior
SMOOTHNESS = 8.0  # mm on fsaverage's sphere (radius 100): SD of the field's Gaussian kernel
NEAR = 8.0  # mm: nodes farther from all voxels are left out
_WIDTHS = (0.1, 0.16, 0.25, 0.4)  # receptive fields tried first: SDs in image sides
_CHANNELS = 32  # principal components of tokens with which receptive fields are found


# Of one subject's voxels: positions (n_voxels, 3) on the sphere and sides (n_voxels,).
Positions = tuple[np.ndarray, np.ndarray]


class Core(nn.Module):
    """Tokens on a square grid → local and global features.

    Parameters
    ----------
    config : CoreConfig
    generator : torch.Generator, optional
        Of the initial weights.
    """

    def __init__(self, config: CoreConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.local = nn.Sequential(
            nn.Linear(config.n_dims, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.n_local),
        )
        self.whole = nn.Sequential(
            nn.Linear(REGIONS**2 * config.n_local, config.bottleneck),
            nn.Linear(config.bottleneck, config.n_global),
        )
        for layer in (*self.local, *self.whole):
            if isinstance(layer, nn.Linear):
                bound = layer.in_features**-0.5
                for parameter in (layer.weight, layer.bias):
                    nn.init.uniform_(parameter, -bound, bound, generator=generator)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Compute features of standardised tokens (n, n_tokens, n_dims).

        Returns
        -------
        local : (n, n_tokens, n_local), positive; whole : (n, n_global), 0 or more
        """
        local = F.softplus(self.local(tokens))
        side = self.config.side
        grid = local.transpose(1, 2).unflatten(2, (side, side))
        # Averaged, then compressed: energies add up before they saturate.
        pooled = (F.adaptive_avg_pool2d(grid, REGIONS) + FLOOR).log().flatten(1)
        return local, F.relu(self.whole(pooled))


class Voxels(nn.Module):
    """Parameters of voxels: receptive field, weights of local and of global features, offset.

    Attributes
    ----------
    field : (n, 3)
        Receptive fields: x, y (right and down) and log standard deviation, in image sides from
        the upper left corner.
    local, whole : (n_local, n), (n_global, n)
    offset : (n,)
    """

    def __init__(self, n: int, config: CoreConfig) -> None:
        super().__init__()
        self.field = nn.Parameter(torch.zeros(n, 3))
        self.local = nn.Parameter(torch.zeros(config.n_local, n))
        self.whole = nn.Parameter(torch.zeros(config.n_global, n))
        self.offset = nn.Parameter(torch.zeros(n))

    def moved(self, basis: Tensor, shared: Voxels) -> tuple[Tensor, ...]:
        """Return the voxels as offsets from a shared field; ``basis`` (n, n_nodes) locates them."""
        return (
            basis @ shared.field + OWN * self.field,
            shared.local @ basis.T + OWN * self.local,
            shared.whole @ basis.T + OWN * self.whole,
            self.offset,
        )


def read(features: tuple[Tensor, Tensor], voxels: tuple[Tensor, ...]) -> Tensor:
    """Return responses (n_images, n_voxels) of voxels (field, local, whole, offset) to features."""
    local, whole = features
    field, weights, whole_weights, offset = voxels
    mask = receptive_masks(field, round(local.shape[1] ** 0.5))
    pooled = torch.einsum("vt,ntk->nvk", mask, local)
    return torch.einsum("nvk,kv->nv", pooled, weights) + whole @ whole_weights + offset


def receptive_masks(field: Tensor, side: int) -> Tensor:
    """Return Gaussian weights over a grid of tokens, (n_voxels, side²), that sum to 1."""
    centre = (torch.arange(side, dtype=field.dtype, device=field.device) + 0.5) / side
    x, y, size = field[:, 0, None, None], field[:, 1, None, None], field[:, 2].exp()
    distance = (centre[None, None, :] - x) ** 2 + (centre[None, :, None] - y) ** 2
    # Beyond exp(−30) there is nothing but numbers too small to compute with quickly.
    mask = torch.exp(-(distance / (2 * size**2)[:, None, None]).clamp(max=30)).flatten(1) + 1e-6
    return mask / mask.sum(1, keepdim=True)


class SharedCore(nn.Module):
    """A core, the field over cortex, and the voxels of some subjects.

    Parameters
    ----------
    config : CoreConfig
    bases : sequence of float32 arrays of shape (n_voxels, n_nodes)
        Position of each subject's voxels among the nodes (`Sheet.basis`).
    generator : torch.Generator, optional
        Of the initial weights.
    """

    def __init__(
        self,
        config: CoreConfig,
        bases: Sequence[np.ndarray],
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.core = Core(config, generator)
        self.shared = Voxels(bases[0].shape[1], config)
        self.shared.register_parameter("offset", None)  # offsets are each voxel's own
        for weights in (self.shared.local, self.shared.whole):
            nn.init.normal_(weights, std=0.05, generator=generator)
        self.subjects = nn.ModuleList(Voxels(len(basis), config) for basis in bases)
        for k, basis in enumerate(bases):
            self.register_buffer(f"basis_{k}", torch.from_numpy(np.float32(basis)))

    def start_from(self, fields: Sequence[np.ndarray]) -> None:
        """Set the receptive fields (n_voxels, 3) of every subject, found on their own data."""
        total = sum(self.basis(k).T @ torch.from_numpy(np.float32(f)) for k, f in enumerate(fields))
        nodes = torch.as_tensor(sum(self.basis(k).sum(0) for k in range(len(fields))))
        weight = nodes[:, None]
        middle = torch.tensor([0.5, 0.5, np.log(0.25)], dtype=torch.float32)
        with torch.no_grad():
            self.shared.field.copy_(
                torch.where(weight > 1e-3, total / weight.clamp_min(1e-6), middle)
            )
            for k, field in enumerate(fields):
                off = self.basis(k).sum(1) < 0.5  # voxels off the sphere have only their own
                own = torch.from_numpy(np.float32(field)) / OWN
                self._voxels(k).field.copy_(own * off[:, None])

    def basis(self, k: int) -> Tensor:
        """Return the position of subject k's voxels among the nodes: (n_voxels, n_nodes)."""
        return getattr(self, f"basis_{k}")

    def voxels(self, k: int) -> tuple[Tensor, ...]:
        """Return subject k's voxels as `read` takes them."""
        return self._voxels(k).moved(self.basis(k), self.shared)

    def _voxels(self, k: int) -> Voxels:
        return cast(Voxels, self.subjects[k])

    def parameter_groups(self, config: CoreConfig) -> list[ParameterGroup]:
        """Return AdamW's groups.

        Voxel weights decay to the field. Shared receptive fields and offsets do not decay.
        """
        subjects = [self._voxels(k) for k in range(len(self.subjects))]
        own = [p for v in subjects for p in (v.local, v.whole, v.field)]
        return [
            {"params": list(self.core.parameters()), "weight_decay": config.decay_core},
            {"params": [self.shared.local, self.shared.whole], "weight_decay": config.decay_field},
            {"params": own, "weight_decay": config.decay_own},
            {
                "params": [self.shared.field, *(v.offset for v in subjects)],
                "weight_decay": 0.0,
            },
        ]

    def forward(self, tokens: Tensor, k: int, dropout: Tensor | None = None) -> Tensor:
        """Return responses of subject k; ``dropout`` (n, n_global) multiplies global features."""
        local, whole = self.core(tokens)
        if dropout is not None:
            whole = whole * dropout
        return read((local, whole), self.voxels(k))


@dataclass(frozen=True)
class Sheet:
    """Nodes of the field on fsaverage's sphere.

    Attributes
    ----------
    nodes : float array of shape (n_nodes, 3)
        On a sphere of radius 100 mm.
    side : int array of shape (n_nodes,)
        0 left, 1 right.
    """

    nodes: np.ndarray
    side: np.ndarray

    @classmethod
    def around(cls, sphere: dict[int, np.ndarray], positions: Sequence[Positions]) -> Sheet:
        """Choose the vertices of a coarse sphere that are near any subject's voxels.

        Parameters
        ----------
        sphere : dict of float arrays of shape (n_vertices, 3)
            Vertices by side, 0 left and 1 right.
        positions : sequence of (float array (n_voxels, 3), int array (n_voxels,))
            Each subject's voxels as `basis` takes them.
        """
        nodes, sides = [], []
        for side, vertices in sphere.items():
            points = np.concatenate(
                [p[(h == side) & np.isfinite(p).all(1)] for p, h in positions] or [np.zeros((0, 3))]
            )
            if len(points):
                nodes.append(vertices[cKDTree(points).query(vertices)[0] < NEAR])
                sides.append(np.full(len(nodes[-1]), side))
        if not nodes:  # no subject's voxels lie on it: one node, which none of them reads
            return cls(np.zeros((1, 3)), np.full(1, -1))
        return cls(np.concatenate(nodes), np.concatenate(sides))

    def basis(self, positions: np.ndarray, side: np.ndarray) -> np.ndarray:
        """Return weights of the nodes for voxels, summing to 1, or 0 for voxels off the sphere.

        Parameters
        ----------
        positions : float array of shape (n_voxels, 3)
            On the sphere; NaN for voxels off it.
        side : int array of shape (n_voxels,)

        Returns
        -------
        float32 array of shape (n_voxels, n_nodes)
        """
        weights = np.zeros((len(positions), len(self.nodes)), np.float32)
        known = np.flatnonzero(np.isfinite(positions).all(1))
        for first in range(0, len(known), 512):  # memory of thousands × thousands × 3
            rows = known[first : first + 512]
            gap = ((positions[rows, None] - self.nodes[None]) ** 2).sum(-1)
            weight = np.exp(-gap / (2 * SMOOTHNESS**2)) * (side[rows, None] == self.side[None])
            total = weight.sum(1, keepdims=True)
            weights[rows] = np.where(total > 1e-6, weight / np.maximum(total, 1e-12), 0)
        return weights


def receptive_fields(tokens: np.ndarray, averages: np.ndarray) -> np.ndarray:
    """Choose the best of a grid of Gaussian receptive fields for every voxel.

    Ridge from tokens averaged within the field (their leading principal components), judged by
    leave-one-out error: the search of St-Yves & Naselaris (2018), coarse.

    Parameters
    ----------
    tokens : float32 array of shape (n_images, n_tokens, n_dims), standardised
    averages : float array of shape (n_images, n_voxels)

    Returns
    -------
    float32 array of shape (n_voxels, 3)
        As `Voxels.field`.
    """
    n_images, n_tokens, n_dims = tokens.shape
    side = round(n_tokens**0.5)
    rows = tokens.reshape(-1, n_dims)
    covariance = rows.T @ rows / len(rows) - np.outer(rows.mean(0), rows.mean(0))
    axes = np.linalg.eigh(covariance.astype(np.float64))[1][:, -_CHANNELS:].astype(np.float32)
    channels = tokens @ axes
    centred = np.asarray(averages - averages.mean(0), np.float32)
    tried = [
        (x, y, np.log(size))
        for size in _WIDTHS
        for x, y in product(np.linspace(0, 1, 1 + round(1 / max(size, 0.125))), repeat=2)
    ]
    masks = receptive_masks(torch.tensor(tried, dtype=torch.float32), side).numpy()
    best = np.full(centred.shape[1], np.inf)
    chosen = np.zeros(centred.shape[1], int)
    for k, mask in enumerate(masks):
        features = np.einsum("t,ntc->nc", mask, channels)
        features = features - features.mean(0)
        u, s, _ = np.linalg.svd(features, full_matrices=False)
        kept = s**2 / (s**2 + 0.1 * (s**2).sum() / n_images)
        left = centred - u @ (kept[:, None] * (u.T @ centred))
        left /= 1 - (1 / n_images + (u**2) @ kept)[:, None]
        error = np.einsum("ij,ij->j", left, left)
        better = error < best
        best[better], chosen[better] = error[better], k
    return np.asarray(tried, np.float32)[chosen]


@dataclass(frozen=True)
class CoreEvidence:
    """Predictions of a core: responses of the subjects it was trained on, and of a new one.

    Attributes
    ----------
    core : Core
    scaler : TokenScaler
        The core's own.
    voxels : tuple of tensors
        What `read` takes: of the source subjects, then the field at the positions of the new
        subject's voxels on the sheet.
    n_sources : int
        Number of voxels of the source subjects.
    """

    core: Core
    scaler: TokenScaler
    voxels: tuple[Tensor, ...]
    n_sources: int

    @torch.inference_mode()
    def __call__(self, tokens: np.ndarray, batch: int = 64) -> tuple[np.ndarray, np.ndarray]:
        """Predict responses of the sources, and the prior mean, from raw tokens.

        Parameters
        ----------
        tokens : float array of shape (n_images, n_tokens, n_dims)
        batch : int
            Images computed at once.
        """
        parts = [
            read(self.core(torch.from_numpy(self.scaler(part))), self.voxels).numpy()
            for part in np.split(tokens, range(batch, len(tokens), batch))
        ]
        every = np.concatenate(parts)
        return every[:, : self.n_sources], every[:, self.n_sources :]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return named arrays, for a file."""
        named = {f"core.{k}": v.cpu().numpy() for k, v in self.core.state_dict().items()}
        for name, values in zip(VOXEL_PARTS, self.voxels, strict=True):
            named[f"voxels.{name}"] = values.cpu().numpy()
        return named | {
            "token_mean": self.scaler.mean,
            "token_sd": self.scaler.sd,
            "n_sources": np.array(self.n_sources),
        }

    @classmethod
    def from_arrays(cls, config: CoreConfig, named: dict[str, np.ndarray]) -> CoreEvidence:
        """Rebuild from the named arrays of a file."""
        return cls(
            load_core(config, named),
            TokenScaler(named["token_mean"], named["token_sd"]),
            tuple(torch.from_numpy(named[f"voxels.{name}"].copy()) for name in VOXEL_PARTS),
            named["n_sources"].item(),
        )


def load_core(config: CoreConfig, named: dict[str, np.ndarray]) -> Core:
    """Rebuild a core from arrays named ``core.…``."""
    with torch.device("meta"):  # no memory, whatever sizes the configuration says
        core = Core(config)
    state = {k.removeprefix("core."): v for k, v in named.items() if k.startswith("core.")}
    tensors = {k: torch.from_numpy(v.copy()) for k, v in state.items()}
    core.load_state_dict(tensors, assign=True)
    return core.eval()
