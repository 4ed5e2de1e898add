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
from typing import cast

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor, nn
from torch.nn import functional as F

from synbrain_cli.config import CoreConfig
from synbrain_cli.model.fit import ParameterGroup
from synbrain_cli.model.tokens import TokenScaler
from synbrain_cli.tokens import Tokens

VOXEL_PARTS = ("field", "local", "whole", "offset")
REGIONS = 4  # a side: the global features see local ones averaged in 4 × 4 regions
FLOOR = 0.1  # under the logarithm of those averages
LEAST = 1e-4  # under an exponent below 1, whose slope is infinite at 0
OWN = 0.3  # scale of a voxel's offset from the field (ours); smaller is a stronger prior
SMOOTHNESS = 8.0  # mm on fsaverage's sphere (radius 100): SD of the field's Gaussian kernel
NEAR = 8.0  # mm: nodes farther from all voxels are left out


Bands = Sequence[Tensor]  # of each band, (n_images, n_tokens, …)
# Of one subject's voxels: positions (n_voxels, 3) on the sphere and sides (n_voxels,).
Positions = tuple[np.ndarray, np.ndarray]


class Core(nn.Module):
    """Tokens of several bands, each on a square grid → local and global features.

    Parameters
    ----------
    config : CoreConfig
    generator : torch.Generator, optional
        Of the initial weights.
    """

    def __init__(self, config: CoreConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.local = nn.ModuleList(
            nn.Sequential(
                nn.Linear(n_dims, config.hidden),
                nn.GELU(),
                nn.Linear(config.hidden, config.n_local),
            )
            for _, n_dims in config.shapes
        )
        n_pooled = sum(min(side, REGIONS) ** 2 for side in config.sides) * config.n_local
        self.whole = nn.Sequential(
            nn.Linear(n_pooled, config.bottleneck),
            nn.Linear(config.bottleneck, config.n_global),
        )
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                bound = layer.in_features**-0.5
                for parameter in (layer.weight, layer.bias):
                    nn.init.uniform_(parameter, -bound, bound, generator=generator)

    def forward(self, tokens: Bands) -> tuple[Bands, Tensor]:
        """Compute features of standardised tokens, (n, n_tokens, n_dims) per band.

        Returns
        -------
        local : (n, n_tokens, n_local) per band, positive
        whole : (n, n_global), 0 or more
        """
        local, pooled = [], []
        for x, network, side in zip(tokens, self.local, self.config.sides, strict=True):
            features = F.softplus(network(x))
            grid = features.transpose(1, 2).unflatten(2, (side, side))
            # Averaged, then compressed: energies add up before they saturate.
            regions = F.adaptive_avg_pool2d(grid, min(side, REGIONS))
            pooled.append((regions + FLOOR).log().flatten(1))
            local.append(features)
        return local, F.relu(self.whole(torch.cat(pooled, 1)))


class Voxels(nn.Module):
    """Parameters of voxels: receptive field, weights of local and of global features, offset.

    Attributes
    ----------
    field : (n, 3)
        Receptive fields: x, y (right and down) and log standard deviation, in image sides from
        the upper left corner.
    local, whole : (n_read, n), (n_global, n)
        Local features of all bands, one band after the other.
    offset : (n,)
    """

    def __init__(self, n: int, config: CoreConfig) -> None:
        super().__init__()
        self.field = nn.Parameter(torch.zeros(n, 3))
        self.local = nn.Parameter(torch.zeros(config.n_read, n))
        self.whole = nn.Parameter(torch.zeros(config.n_global, n))
        self.offset = nn.Parameter(torch.zeros(n))

    def moved(self, basis: Tensor, shared: Voxels, own: float) -> tuple[Tensor, ...]:
        """Return the voxels as offsets from a shared field.

        Parameters
        ----------
        basis : (n, n_nodes)
            Locates the voxels.
        shared : Voxels
            The field at the nodes.
        own : float
            Scale of the offsets.
        """
        return (
            basis @ shared.field + own * self.field,
            shared.local @ basis.T + own * self.local,
            shared.whole @ basis.T + own * self.whole,
            self.offset,
        )


def read(features: tuple[Bands, Tensor], voxels: tuple[Tensor, ...], exponent: float) -> Tensor:
    r"""Return responses of voxels to features.

    .. math:: y_v = \sum_k w_{kv} \Big( \sum_t g_v(t)\, x_{tk} \Big)^{\gamma}
        + \sum_j w'_{jv}\, z_j + b_v

    for local features x, global ones z, the receptive field g of the voxel and the exponent γ: with
    γ < 1, what lies within a field adds up less than linearly (compressive spatial summation: Kay
    et al. 2013, *J Neurophysiol* 110:481).

    Parameters
    ----------
    features : (local, whole)
        As `Core` returns them: (n_images, n_tokens, n_local) per band, and (n_images, n_global).
    voxels : (field, local, whole, offset)
        As `Voxels.moved` returns them: (n_voxels, 3), (n_read, n_voxels), (n_global, n_voxels) and
        (n_voxels,).
    exponent : float
        That of the core's configuration.

    Returns
    -------
    (n_images, n_voxels)
        In standard deviations of a trial.
    """
    local, whole = features
    field, weights, whole_weights, offset = voxels
    within = [
        torch.einsum("vt,ntk->nvk", receptive_masks(field, round(one.shape[1] ** 0.5)), one)
        for one in local
    ]
    summed = torch.cat(within, 2)
    if exponent != 1:
        summed = (summed + LEAST).pow(exponent)
    seen = torch.einsum("nvk,kv->nv", summed, weights)
    return seen + whole @ whole_weights + offset


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
        # Voxels that have no neighbours in a field are their own
        self.alone = [not basis.any() for basis in bases]
        for k in np.flatnonzero(self.alone).tolist():
            for weights in (self._voxels(k).local, self._voxels(k).whole):
                nn.init.normal_(weights, std=0.05, generator=generator)

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
                own = torch.from_numpy(np.float32(field)) / self._own(k)
                self._voxels(k).field.copy_(own * off[:, None])

    def basis(self, k: int) -> Tensor:
        """Return the position of subject k's voxels among the nodes: (n_voxels, n_nodes)."""
        return getattr(self, f"basis_{k}")

    def voxels(self, k: int) -> tuple[Tensor, ...]:
        """Return subject k's voxels as `read` takes them."""
        return self._voxels(k).moved(self.basis(k), self.shared, self._own(k))

    def _own(self, k: int) -> float:
        """Scale of the offsets of subject k's voxels from the field."""
        return 1.0 if self.alone[k] else OWN

    def _voxels(self, k: int) -> Voxels:
        return cast(Voxels, self.subjects[k])

    def parameter_groups(self, config: CoreConfig) -> list[ParameterGroup]:
        """Return AdamW's groups.

        Voxel weights decay to the field, and those of subjects without one as the field does.
        Shared receptive fields and offsets do not decay.
        """
        subjects = [self._voxels(k) for k in range(len(self.subjects))]
        with_field = [v for v, alone in zip(subjects, self.alone, strict=True) if not alone]
        single = [v for v, alone in zip(subjects, self.alone, strict=True) if alone]
        own = [p for v in with_field for p in (v.local, v.whole, v.field)]
        return [
            {"params": list(self.core.parameters()), "weight_decay": config.decay_core},
            {
                "params": [
                    self.shared.local,
                    self.shared.whole,
                    *(p for v in single for p in (v.local, v.whole)),
                ],
                "weight_decay": config.decay_field,
            },
            {"params": own, "weight_decay": config.decay_own},
            {
                "params": [
                    self.shared.field,
                    *(v.field for v in single),
                    *(v.offset for v in subjects),
                ],
                "weight_decay": 0.0,
            },
        ]

    def forward(self, tokens: Bands, k: int, dropout: Tensor | None = None) -> Tensor:
        """Return responses of subject k; ``dropout`` (n, n_global) multiplies global features."""
        local, whole = self.core(tokens)
        if dropout is not None:
            whole = whole * dropout
        return read((local, whole), self.voxels(k), self.core.config.exponent)


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


@dataclass(frozen=True)
class CoreEnsemble:
    """Cores that were trained on different parts of the images, and what voxels read of each.

    Attributes
    ----------
    config : CoreConfig
    scaler : TokenScaler
        Of the bands that the cores see.
    cores : tuple of Core
    voxels : tuple of tuples of tensors
        What `read` takes, of each core.
    """

    config: CoreConfig
    scaler: TokenScaler
    cores: tuple[Core, ...]
    voxels: tuple[tuple[Tensor, ...], ...]

    @torch.inference_mode()
    def predict(self, tokens: Tokens, batch: int = 64) -> np.ndarray:
        """Average the predictions of all cores.

        Parameters
        ----------
        tokens : Tokens
            As encoded, of all the model's bands.
        batch : int
            Images computed at once.

        Returns
        -------
        float32 array of shape (n_images, n_voxels)
        """
        seen, parts = tokens.only(self.config.bands), []
        for first in range(0, len(seen), batch):
            standard = as_tensors(self.scaler(seen[first : first + batch]), self._device)
            each = [
                read(core(standard), voxels, self.config.exponent)
                for core, voxels in zip(self.cores, self.voxels, strict=True)
            ]
            parts.append(torch.stack(each).mean(0).cpu())
        return torch.cat(parts).numpy()

    @property
    def _device(self) -> torch.device:
        return self.voxels[0][0].device

    def arrays(self) -> dict[str, np.ndarray]:
        """Return named arrays, for a file."""
        named = self.scaler.arrays()
        for m, (core, voxels) in enumerate(zip(self.cores, self.voxels, strict=True)):
            named |= {f"core.{m}.{k}": v.cpu().numpy() for k, v in core.state_dict().items()}
            for name, values in zip(VOXEL_PARTS, voxels, strict=True):
                named[f"voxels.{m}.{name}"] = values.cpu().numpy()
        return named

    @classmethod
    def from_arrays(
        cls,
        config: CoreConfig,
        named: dict[str, np.ndarray],
        device: torch.device | str = "cpu",
    ) -> CoreEnsemble:
        """Rebuild from the named arrays of a file."""
        members = range(config.n_members)
        return cls(
            config,
            TokenScaler.from_arrays(named, len(config.bands)),
            tuple(load_core(config, named, f"core.{m}.").to(device) for m in members),
            tuple(
                tuple(
                    torch.from_numpy(named[f"voxels.{m}.{name}"].copy()).to(device)
                    for name in VOXEL_PARTS
                )
                for m in members
            ),
        )


@dataclass(frozen=True)
class CoreEvidence:
    """Predictions of cores: responses of the subjects they were trained on, and of a new one.

    Attributes
    ----------
    ensemble : CoreEnsemble
        Its voxels are those of the source subjects, then the field at the positions of the new
        subject's voxels on the sheet.
    n_sources : int
        Number of voxels of the source subjects.
    """

    ensemble: CoreEnsemble
    n_sources: int

    def __call__(self, tokens: Tokens) -> tuple[np.ndarray, np.ndarray]:
        """Predict responses of the sources, and the prior mean, from raw tokens."""
        every = self.ensemble.predict(tokens)
        return every[:, : self.n_sources], every[:, self.n_sources :]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return named arrays, for a file."""
        return self.ensemble.arrays() | {"n_sources": np.array(self.n_sources)}

    @classmethod
    def from_arrays(cls, config: CoreConfig, named: dict[str, np.ndarray]) -> CoreEvidence:
        """Rebuild from the named arrays of a file."""
        return cls(CoreEnsemble.from_arrays(config, named), named["n_sources"].item())


def as_tensors(tokens: Tokens, device: torch.device | str = "cpu") -> list[Tensor]:
    """Return the tokens of each band on a device."""
    return [torch.from_numpy(band).to(device) for band in tokens.bands]


def load_core(config: CoreConfig, named: dict[str, np.ndarray], prefix: str) -> Core:
    """Rebuild a core from arrays whose names begin with ``prefix``."""
    with torch.device("meta"):  # no memory, whatever sizes the configuration says
        core = Core(config)
    state = {k.removeprefix(prefix): v for k, v in named.items() if k.startswith(prefix)}
    tensors = {k: torch.from_numpy(v.copy()) for k, v in state.items()}
    core.load_state_dict(tensors, assign=True)
    return core.eval()
