"""The two ceilings of this machine, bytes per second and FLOP per second, and how the time of a
pass crosses from the one to the other as it gets wider."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from reference.lab.probes import linear_stack, round_robin
from reference.machine import PRECISION_OF
from reference.packing import pack
from specsim.evidence.measurement import Timing
from specsim.operators import precision


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What this machine reaches in one dtype: reading weights, and multiplying."""

    bandwidth_bytes_per_s: float
    flops_per_s: float

    @property
    def ridge(self) -> float:
        """FLOP per byte at which both are reached at once."""
        return self.flops_per_s / self.bandwidth_bytes_per_s


@dataclass(frozen=True, slots=True)
class Stack:
    """The matrices of a few transformer layers, without anything between them."""

    layers: tuple[torch.nn.Linear, ...]
    dtype: torch.dtype

    @property
    def weights(self) -> int:
        return sum(layer.in_features * layer.out_features for layer in self.layers)

    @property
    def weight_bytes(self) -> float:
        return self.weights * precision(PRECISION_OF[self.dtype]).weight_bytes


def stack(device: torch.device, dtype: torch.dtype, *, hidden: int = 0, layers: int = 0) -> Stack:
    """A stack of matrices; by default far larger than the caches of `device`."""
    on_gpu = device.type == "cuda"
    hidden, layers = hidden or (6144 if on_gpu else 768), layers or (3 if on_gpu else 8)
    return Stack(tuple(linear_stack(hidden, layers, device, dtype)), dtype)


@torch.inference_mode()
def ceilings(device: torch.device, dtype: torch.dtype, rounds: int = 7) -> Ceilings:
    """One row through a large stack, for its bytes; a wide square product, for its FLOPs: medians
    of `rounds` in turn."""
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
    """Rows -> seconds of a pass of that many rows through all of `matrices`, the widths in turn."""
    inputs = {width: _inputs(matrices, width, device) for width in widths}
    samples: dict[int, list[float]] = {width: [] for width in widths}
    for turn in range(rounds + 1):
        for width in widths:
            _wait(device)
            started = time.perf_counter()
            _pass(matrices, inputs[width])
            _wait(device)
            if turn:  # the first round warms up
                samples[width].append(time.perf_counter() - started)
    found = {width: Timing.of(times) for width, times in samples.items()}
    return {width: timing for width, timing in found.items() if timing is not None}


def _inputs(matrices: Stack, rows: int, device: torch.device) -> dict[int, torch.Tensor]:
    """A block of `rows` rows for every width of a matrix's input: size -> (rows, size)."""
    sizes = {layer.in_features for layer in matrices.layers}
    return {s: torch.randn(rows, s, device=device, dtype=matrices.dtype) for s in sizes}


def _pass(matrices: Stack, inputs: dict[int, torch.Tensor]) -> None:
    for layer in matrices.layers:
        layer(inputs[layer.in_features])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
