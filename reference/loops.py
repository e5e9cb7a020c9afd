"""Loops that PyTorch's compiler writes: products and attention of a few rows, in compiled stages.

On a CPU a pass of a few rows waits for memory, and the libraries' kernels do not read it as fast as
it can be read. oneDNN's product of one row reads 20 to 24 GB/s on the two-core CPU of docs/demo.md,
whose memory gives 33. The compiler's loop reads 26 to 31 if a weight (out, in) lies as
(out / 32, in, 2, 16), here called in lanes: it keeps 32 outputs of a row in two registers, takes
one input after the other, and reads the weights in the order in which they lie. With several rows
the same loop holds two registers for each, so a weight is still read once. What limits it then is
arithmetic, since all is computed in fp32.

Lanes are a second copy of the weights: what an eager pass reads, a prompt above all, stays where it
is. So they are made only for compiled stages (see `artefacts`), and where memory is plenty.

Attention needs no other layout. In fp32 its loops take about the time of PyTorch's kernel for one
sequence, and 0.6 to 0.9 of it for eight; in bf16, without units for matrices, 0.2 to 0.7.
"""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reference.memory import free_bytes

LANES = 16  # numbers of 32 bits in a register of AVX-512
SIDE_BY_SIDE = 2  # registers of outputs in a block: they share what is read of a row
# Up to how many rows a product in lanes is the fastest, or about as fast as any, by the dtype of
# the weights; the times are in docs/decoding.md (`bench/memory_limit.py`).
ROWS = {torch.float32: 8, torch.bfloat16: 3, torch.int8: 8}
MOST_QUERIES = 8  # of a key-value head: with ten PyTorch's kernel is as fast


def in_lanes(weight: Tensor) -> Tensor:
    """A weight (out, in) as (ceil(out / 32), in, 2, 16); outputs that are missing are zero."""
    block = LANES * SIDE_BY_SIDE
    weight = F.pad(weight, (0, 0, 0, -len(weight) % block))
    blocks = weight.view(-1, block, weight.shape[1]).transpose(1, 2).contiguous()
    return blocks.view(len(blocks), weight.shape[1], SIDE_BY_SIDE, LANES)


def traced(layer: nn.Module, x: Tensor) -> Tensor | None:
    """What `layer` makes of `x` (..., in) for a compiler that traces it: a product in lanes if the
    rows are few, one that the compiler packs if it is shown the `plain` weight; else None."""
    if layer.lanes is not None and x.numel() // x.shape[-1] <= ROWS[layer.lanes.dtype]:
        scales = getattr(layer, "scales", None)
        return product(x, layer.lanes, layer.out_features, scales, layer.bias)
    plain = getattr(layer, "plain", None)
    return None if plain is None else F.linear(x, plain, layer.bias)


def product(
    x: Tensor, lanes: Tensor, out_features: int, scales: Tensor | None, bias: Tensor | None
) -> Tensor:
    """`x` (..., in) times the weight in `lanes`, times `scales` (out,), plus `bias` (out,), summed
    in fp32; (..., out) in the dtype of `x`. For a compiler: run as it is written, it is slow."""
    rows = stored(x.flatten(0, -2).float())
    weights = [lanes[:, :, part].float() for part in range(SIDE_BY_SIDE)]
    made = []
    for row in rows:
        parts = [(part * row[None, :, None]).sum(1) for part in weights]  # (blocks, 16)
        y = torch.stack(parts, dim=1).flatten()[:out_features]
        y = y if scales is None else y * scales
        made.append((y if bias is None else y + bias).to(x.dtype))
    return torch.stack(made).view(*x.shape[:-1], out_features)


def attends(queries: Tensor) -> bool:
    """Whether a compiler that traces attention of `queries` (B, K, R, D) is to write its loops."""
    return queries.device.type == "cpu" and queries.shape[2] <= MOST_QUERIES


def attend(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """Attention of `queries` (B, K, R, D) to `keys` and `values` (B, S, K, D) with the `bias`
    (B, 1, R, S): (B, K, R, D), summed in fp32 or, of fp64, in fp64. For a compiler, as `product`.
    """
    exact = torch.promote_types(queries.dtype, torch.float32)
    keys, values = keys.transpose(1, 2).to(exact), values.transpose(1, 2).to(exact)
    rows = stored(queries.to(exact) / math.sqrt(queries.shape[-1])).unbind(2)  # R of (B, K, D)
    scores = torch.stack([(row[:, :, None] * keys).sum(-1) for row in rows], dim=2) + bias
    weights = stored(scores.softmax(-1)).unbind(2)  # R of (B, K, S)
    mixed = [(each[..., None] * values).sum(2) for each in weights]
    return torch.stack(mixed, dim=2).to(queries.dtype)


def stored(x: Tensor) -> Tensor:
    """`x`, which the compiler stores: it would make it anew in every step of a loop that reads it,
    but what is read through `as_strided` has to lie in memory."""
    x = x.contiguous()
    return x.as_strided(x.shape, x.stride())


def lay_in_lanes(layers: Iterable[object]) -> None:
    """Let `layers` keep their weights in lanes too, those that can, if a third of the free memory
    holds them all."""
    missing = [layer for layer in layers if kept(layer) is not None and layer.lanes is None]
    nbytes = sum(kept(layer).numel() * kept(layer).dtype.itemsize for layer in missing)
    if nbytes <= free_bytes(torch.device("cpu")) / 3:
        for layer in missing:
            layer.lanes = in_lanes(kept(layer).to_dense())


def kept(layer: object) -> Tensor | None:
    """The weight of a packed or quantised layer; None for others, and where lanes do not help."""
    if not isinstance(layer, nn.Module) or not hasattr(layer, "lanes"):
        return None
    weight = layer.packed if hasattr(layer, "packed") else layer.stored
    return weight if weight.dtype in ROWS else None
