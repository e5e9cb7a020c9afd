"""A static key-value cache: written at positions, read up to a window, never rolled back.

The buffers are allocated once. A rejected token leaves its keys and values where they are: the
position mask hides the slot until a later token overwrites it. So rejecting a draft copies nothing:
the owner of the sequence does not count it in the new length.
"""

from copy import copy
from math import prod

import torch
from torch import Tensor

from reference.memory import memory_for
from specsim.architecture import Architecture


class KVCache:
    """Keys and values of every layer, each (B, S, H_kv, D) with S = `capacity` slots per
    sequence."""

    width = 1 << 62  # the most tokens of a pass that may be rejected: of keys and values, any
    all_layers: Tensor | None = None  # (2, L, B, S, H_kv, D): what moves in all, moves at once
    counted: Tensor | None = None  # (B,), how many tokens of each prompt count; the rest pads

    def __init__(
        self,
        architecture: Architecture,
        batch: int,
        capacity: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ):
        shape = (batch, capacity, architecture.num_kv_heads, architecture.head_dim)
        device = torch.device(device)
        self.size = (architecture, batch, capacity, dtype, device)
        # `ends` (B,) is the length of the longest text that each sequence may become
        self.capacity, self.ends = capacity, torch.full((batch,), capacity, device=device)
        shape = (2, architecture.num_layers, *shape)
        what = f"the keys and values of {batch} x {capacity} tokens in {architecture.name}"
        with memory_for(what, prod(shape) * dtype.itemsize, device):
            self.all_layers = torch.zeros(shape, dtype=dtype, device=device)
            self.keys, self.values = (list(kept.unbind()) for kept in self.all_layers)
        # (B, 1), to address each sequence's own slots
        self._rows = torch.arange(batch, device=device)[:, None]

    def write(self, layer: int, positions: Tensor, keys: Tensor, values: Tensor) -> None:
        """Store keys and values (B, T, H_kv, D) of one layer at `positions` (B, T)."""
        self.keys[layer].index_put_((self._rows, positions), keys)
        self.values[layer].index_put_((self._rows, positions), values)

    def read(self, layer: int, window: int) -> tuple[Tensor, Tensor]:
        """The first `window` slots of one layer, as views (B, window, H_kv, D)."""
        return self.keys[layer][:, :window], self.values[layer][:, :window]

    def tensors(self) -> list[Tensor]:
        """All that is kept, each with a row for each sequence."""
        return [*self.keys, *self.values]

    def rows(self, rows: slice) -> "KVCache":
        """A view of some of the sequences' slots, which shares their memory."""
        view = copy(self)
        view.keys, view.values = ([x[rows] for x in kept] for kept in (self.keys, self.values))
        view.all_layers = None  # its strides would tell how many sequences there are
        view.ends, view._rows = self.ends[rows], self._rows[: len(self._rows[rows])]
        view.size = (self.size[0], len(view.ends), *self.size[2:])
        view.counted = None  # a server reads prompts one by one
        return view

    def clear(self) -> None:
        """Set every slot to 0. Masked slots must be finite too, because 0 x NaN is NaN."""
        for tensor in self.tensors():
            tensor.zero_()

    def move(self, source: Tensor, destination: Tensor) -> None:
        """Copy slots `source` to slots `destination`, (B, T) each, in every layer; all are read
        before any is written."""
        if self.all_layers is not None:
            moved = self.all_layers[:, :, self._rows, source]
            self.all_layers[:, :, self._rows, destination] = moved
            return
        for kept in (*self.keys, *self.values):
            kept.index_put_((self._rows, destination), kept[self._rows, source])

    def fill_with_noise(self, slots: int, seed: int = 0) -> None:
        """Write random keys and values to the first `slots` slots: a long context to time steps at,
        without reading a prompt. Layer i gets the same noise in every model."""
        device = self.keys[0].device
        for layer, pair in enumerate(zip(self.keys, self.values, strict=True)):
            generator = torch.Generator(device).manual_seed(seed + layer)
            for tensor in pair:
                tensor[:, :slots].normal_(generator=generator)
