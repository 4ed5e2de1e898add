"""Batches of training data on the device of the computation.

Arrays that fit into the memory of the device stay there. For larger arrays, mostly memory maps, the
next batch is read and transferred while the present one is computed, and what was read is given
back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import psutil
import torch
from torch import Tensor

from synbrain_cli.distributed import SINGLE_PROCESS, Processes
from synbrain_cli.memory import release
from synbrain_cli.model.tokens import BandScaler, StandardBand
from synbrain_cli.prefetch import prefetch

# Largest share of the free memory for one array (ours). Of a GPU's, the rest is for computing; in
# the computer's, the system keeps files that were read as long as there is room.
ROOM = {"cuda": 0.25, "cpu": 0.02}


class Rows:
    """Rows of an array on a device, by item.

    Parameters
    ----------
    array : array of shape (n_rows, ...)
        May be a memory map.
    device : torch.device
    rows : int array of shape (n_items,), optional
        The row of each item; default: item k is row k. Rows named twice are kept once.
    scaler : BandScaler, optional
        Applied on the device.
    resident : bool, optional
        Whether all is kept on the device; default: where it takes at most its share (`ROOM`) of
        what is free.
    """

    def __init__(
        self,
        array: np.ndarray,
        device: torch.device,
        rows: np.ndarray | None = None,
        scaler: BandScaler | None = None,
        resident: bool | None = None,
    ) -> None:
        self.array, self.device = array, device
        self.rows = np.arange(len(array)) if rows is None else np.asarray(rows)
        used, position = np.unique(self.rows, return_inverse=True)
        self.row_bytes = array[:1].nbytes
        size = len(used) * self.row_bytes
        if resident is None:
            resident = size <= ROOM.get(device.type, ROOM["cuda"]) * free_memory(device)
        self.resident = resident
        self.scale = None
        if scaler is not None:
            self.scale = tuple(torch.from_numpy(x).to(device) for x in (scaler.mean, scaler.sd))
        if self.resident:
            whole = len(used) == len(array)
            self.values = torch.from_numpy(np.array(array) if whole else array[used]).to(device)
            self.position = torch.from_numpy(position).to(device)
            release(array)

    @classmethod
    def of_tokens(
        cls, tokens: StandardBand, device: torch.device, items: np.ndarray | None = None
    ) -> Rows:
        """Return standardised tokens of each image, or of the images that ``items`` index."""
        rows = tokens.rows if items is None else tokens.rows[items]
        return cls(tokens.store, device, rows, tokens.scaler)

    def fetch(self, items: np.ndarray) -> Tensor | None:
        """Read and send rows that are not resident, without waiting for the device."""
        if self.resident:
            return None
        rows = self.rows[items]
        order = np.argsort(rows, kind="stable")  # sequential reads
        values = torch.from_numpy(self.array[rows[order]][np.argsort(order)])
        release(self.array)
        if self.device.type != "cuda":
            return values.to(self.device)
        with torch.cuda.device(self.device):  # threads begin with the first GPU
            return values.pin_memory().to(self.device, non_blocking=True)

    def take(self, items: Tensor, fetched: Tensor | None) -> Tensor:
        """Return the rows of items, float32 (n_items, ...), from the device or as fetched."""
        values = self.values[self.position[items]] if fetched is None else fetched
        if self.scale is None:
            return values.float()
        mean, sd = self.scale
        return (values.float() - mean) / sd


class Feed:
    """Batches for one training step: rows of several arrays, and the step's noise.

    Parameters
    ----------
    *columns : Rows
        What a step takes, in its order.
    noise : callable, optional
        ``(batch_size, generator) -> Tensor`` of shape (batch_size, ...), drawn for the whole batch,
        whichever part of it this process has: the step's last argument.
    processes : Processes
    """

    def __init__(
        self,
        *columns: Rows,
        noise: Callable[[int, torch.Generator], Tensor],
        processes: Processes = SINGLE_PROCESS,
    ) -> None:
        self.columns, self.noise, self.processes = columns, noise, processes

    def __call__(self, order: Tensor, generator: torch.Generator) -> Iterator[tuple[Tensor, ...]]:
        """Yield the batches of an epoch, or this process's part of each.

        Parameters
        ----------
        order : int64 Tensor of shape (n_steps, batch_size), on the CPU
        generator : torch.Generator
            Of the noise.
        """
        size = order.shape[1]
        own = self.processes.part(size)
        mine = order[:, own].contiguous()
        on_device = mine.to(self.columns[0].device)  # once an epoch: no step waits for its indices

        def fetch(items: np.ndarray) -> list[Tensor | None]:
            return [column.fetch(items) for column in self.columns]

        n_bytes = sum(0 if column.resident else column.row_bytes for column in self.columns)
        read = partial(prefetch, n_bytes=n_bytes * mine.shape[1]) if n_bytes else map
        for items, fetched in zip(on_device, read(fetch, mine.numpy()), strict=True):
            rows = [
                column.take(items, part) for column, part in zip(self.columns, fetched, strict=True)
            ]
            yield *rows, self.noise(size, generator)[own]


def free_memory(device: torch.device) -> int:
    """Return the number of bytes that are free on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available
