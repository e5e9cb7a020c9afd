"""The window from which attention is faster in chunks, from probes of both ways."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from reference.attention import attend, attention_bias
from reference.chunked_attention import chunks_to_fill
from reference.lab.kernels.grid import GROUPS, HEAD_SIZE, KV_HEADS, Grid
from reference.lab.kernels.timer import Timer

# Sequences. With KV_HEADS heads each they have 4 and 16 key-value heads in all; one sequence of a
# typical model has 8, the geometric mean.
FEW = (1, 4)
# Small kernels that are launched beside each eager attention, about as many as a layer has. While
# the host launches them the device has time for a slow attention; chunks are more launches.
BESIDE = 30


def chunk_probes(
    timer: Timer, grid: Grid, dtype: torch.dtype, eagerly: bool = False
) -> dict[str, float]:
    """Time attention of few sequences, whole and in chunks, in every window that can be divided;
    `eagerly`: launched by the host, kernel by kernel, beside the small kernels of a layer.

    Returns the seconds by name, for `chunk_limit`.
    """
    seconds, small = {}, torch.zeros(256, device=timer.device)

    def layer(call: Callable[[], Tensor]) -> None:
        call()
        for _ in range(BESIDE):
            small.add_(1.0)

    for batch, context in itertools.product(FEW, grid.contexts):
        shape = (batch, context, KV_HEADS, HEAD_SIZE)
        caches = [
            [torch.randn(shape, device=timer.device, dtype=dtype) for _ in range(2)]
            for _ in range(8)
        ]
        chunks = chunks_to_fill(caches[0][0], GROUPS)
        if chunks == 1:
            continue
        queries = torch.randn(shape, device=timer.device, dtype=dtype)[:, :1].repeat(
            1, 1, GROUPS, 1
        )
        positions = torch.full((batch, 1), context - 1, device=timer.device)
        bias = attention_bias(positions, context, GROUPS, dtype)
        for name, count in (("whole", 1), ("in_chunks", chunks)):
            calls = [partial(attend, queries, *pair, bias, count) for pair in caches]
            if eagerly:
                found = timer.eagerly([partial(layer, call) for call in calls])
            else:
                found = timer.each(calls)
            seconds[f"attention_{batch}x{context}_{name}"] = found
    return seconds


def chunk_limit(seconds: Mapping[str, float], contexts: Sequence[int]) -> int:
    """The smallest probed window from which reading in chunks is faster.

    Chunks are faster in a window if the product of their times for one and for four sequences is
    smaller: this compares the two ways at the geometric mean of 4 and 16 key-value heads. Returns
    twice the longest window if chunks are slower even there.
    """
    limit = 2 * max(contexts)
    for context in sorted(contexts, reverse=True):
        ratios = [
            seconds[f"attention_{batch}x{context}_in_chunks"]
            / seconds[f"attention_{batch}x{context}_whole"]
            for batch in FEW
            if f"attention_{batch}x{context}_in_chunks" in seconds
        ]
        if not ratios or math.prod(ratios) >= 1:
            break
        limit = context
    return limit
