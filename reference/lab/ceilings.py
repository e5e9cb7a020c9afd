"""The two ceilings of this machine, bytes per second and FLOP per second.

As a pass gets wider (more rows), its time moves from the first limit to the second.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from reference.lab.probes.products import linear_stack
from reference.lab.probes.timing import round_robin, timed_in_turn
from reference.machine import PRECISION_OF
from reference.packing import pack
from specsim.evidence.measurement import Timing
from specsim.operators import precision


@dataclass(frozen=True, slots=True)
class Ceilings:
    """The rates that this machine reaches in one dtype: reading weights, and multiplying."""

    bandwidth_bytes_per_s: float
    flops_per_s: float

    @property
    def ridge(self) -> float:
        """The arithmetic intensity, in FLOP per byte, that reaches both ceilings at once."""
        return self.flops_per_s / self.bandwidth_bytes_per_s


@dataclass(frozen=True, slots=True)
class Stack:
    """The matrices of a few transformer layers, without the operations between them."""

    layers: tuple[torch.nn.Linear, ...]
    dtype: torch.dtype

    @property
    def weights(self) -> int:
        """The number of weights."""
        return sum(layer.in_features * layer.out_features for layer in self.layers)

    @property
    def weight_bytes(self) -> float:
        """Bytes of all weights."""
        return self.weights * precision(PRECISION_OF[self.dtype]).weight_bytes


def stack(device: torch.device, dtype: torch.dtype, *, hidden: int = 0, layers: int = 0) -> Stack:
    """A stack of matrices; by default much larger than the caches of `device`."""
    on_gpu = device.type == "cuda"
    hidden, layers = hidden or (6144 if on_gpu else 768), layers or (3 if on_gpu else 8)
    return Stack(tuple(linear_stack(hidden, layers, device, dtype)), dtype)


@torch.inference_mode()
def measure_ceilings(device: torch.device, dtype: torch.dtype, rounds: int = 7) -> Ceilings:
    """The bandwidth from one row through a large stack, and FLOP/s from a wide square product.

    Both are medians of `rounds`, taken in turn.
    """
    on_gpu = device.type == "cuda"
    narrow = stack(device, dtype, hidden=5120 if on_gpu else 640)
    size = 8192 if on_gpu else 1024
    square = torch.nn.Linear(size, size, bias=False, device=device, dtype=dtype)
    wide = pack(torch.nn.ModuleList([square]))[0]
    block, inputs = torch.randn(size, size, device=device, dtype=dtype), _inputs(narrow, 1, device)
    actions = [lambda: _pass(narrow, inputs), lambda: wide(block)]
    narrow_s, wide_s = round_robin(actions, rounds, device)
    return Ceilings(narrow.weight_bytes / narrow_s, 2 * size**3 / wide_s)


@torch.inference_mode()
def times_by_width(
    matrices: Stack, widths: Sequence[int], device: torch.device, rounds: int = 7
) -> dict[int, Timing]:
    """Width (rows) -> seconds of a pass of that width through all matrices, the widths in turn."""
    passes = [partial(_pass, matrices, _inputs(matrices, width, device)) for width in widths]
    found = map(Timing.of, timed_in_turn(passes, rounds, device))
    return {width: timing for width, timing in zip(widths, found, strict=True) if timing}


def _inputs(matrices: Stack, rows: int, device: torch.device) -> dict[int, torch.Tensor]:
    """`rows` rows for every input size of the matrices: size -> (rows, size)."""
    sizes = {layer.in_features for layer in matrices.layers}
    return {s: torch.randn(rows, s, device=device, dtype=matrices.dtype) for s in sizes}


def _pass(matrices: Stack, inputs: dict[int, torch.Tensor]) -> None:
    for layer in matrices.layers:
        layer(inputs[layer.in_features])
