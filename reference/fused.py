"""A layer as seven Triton kernels, for passes of few rows on a CUDA device: the mode "fused".

Between its matrix products, a layer of torch's kernels launches a dozen small ones. In a CUDA graph
each of them takes one to three microseconds, in which no weights are read. Here the norm, SwiGLU
and the residual sum belong to the products, and attention reads the cache without a mask:

| kernel | what it does |
|---|---|
| product | RMSNorm and `qkv` |
| rotate_and_write | rotary embedding; keys and values into the cache |
| attend_part | attention to a part of the slots up to the position (flash decoding) |
| put_together | the parts, weighted |
| product | `output`, and the residual sum |
| product | RMSNorm, `gate_up` and SwiGLU |
| product | `down`, and the residual sum |

The kernels are in `fused_kernels`, which is imported at first use: without Triton all else works.
They are for the plain `Layer` in bf16 and for chains (`fits`); other passes go the ordinary way.
The text is the same up to rounding. What is launched depends on shapes only, so a pass can be
recorded as a CUDA graph, and a recording keeps its kernels.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from reference.activations import swiglu
from reference.attention import attend
from reference.cache import KVCache

Layer, Pass = nn.Module, Any  # those of `transformer`, which imports this module

MOST_ROWS = 16  # tokens of all sequences in a pass
MOST_QUERIES = 64  # rows of a sequence that share a key-value head
BLOCKS = 256  # of attention that keep a large GPU busy
SLOTS_OF_A_BLOCK = 64  # that a block of attention reads at once


class Tiles(NamedTuple):
    """How a matrix product is cut: a program of `warps` warps makes `outputs` outputs, reading
    `inputs` of each row of the weight at a time; `stages` are those of `product_of_few`."""

    outputs: int
    inputs: int
    warps: int
    stages: int = 1


# Of each product for one row, and for more: fast on an H200 (`bench/tune_fused.py`).
TILES = {
    ("qkv", True): Tiles(8, 512, 4),
    ("output", True): Tiles(2, 2048, 8),
    ("gate_up", True): Tiles(2, 4096, 4),
    ("down", True): Tiles(2, 1024, 4),
    ("qkv", False): Tiles(16, 512, 4),
    ("output", False): Tiles(16, 512, 4, 3),
    ("gate_up", False): Tiles(32, 256, 4, 4),
    ("down", False): Tiles(32, 512, 4, 3),
}
DEVICE = "cuda"  # on which passes fit
OVERLAP = True  # programmatic dependent launch, where the device has it

in_use = False


@contextmanager
def layers_fused() -> Iterator[None]:
    """Within this context passes that fit take the kernels of this module."""
    global in_use
    before, in_use = in_use, True
    try:
        yield
    finally:
        in_use = before


def missing(device: torch.device) -> str | None:
    """What the mode "fused" lacks on this device, in words; None if it can be used."""
    if device.type != "cuda":
        return f"a CUDA device, not {device}"
    if find_spec("triton") is None:
        return "the package triton"
    return None


def fits(layers: Iterable[Layer], view: Pass) -> bool:
    """Whether the kernels, in use, can compute this pass of these layers; told from shapes and
    types."""
    if not in_use or view.bias is not None or view.slots is not view.positions:
        return False  # not in use, or not a chain
    few = view.positions.numel() <= MOST_ROWS
    return (
        few
        and view.positions.device.type == DEVICE
        and type(view.cache) is KVCache
        and all(kept.is_contiguous() for kept in view.cache.tensors())
        and all(layer_fits(layer, view) for layer in layers)
    )


def layer_fits(layer: Layer, view: Pass) -> bool:
    """The same of one layer."""
    shape = layer.shape
    groups, uneven = divmod(shape.num_heads, shape.num_kv_heads)
    if layer.experts or not shape.gated_mlp or uneven:
        return False
    if layer.activate is not swiglu or layer.attend is not attend:
        return False
    products = layer.qkv, layer.output, layer.gate_up, layer.down
    size, tokens = shape.head_dim, view.positions.shape[1]
    return (
        all(map(is_plain, products))
        and size >= 16
        and size & (size - 1) == 0
        and groups * tokens <= MOST_QUERIES
    )


def is_plain(linear: nn.Module) -> bool:
    """Whether it is an ordinary linear layer in bf16, without a bias, and nothing else happens to
    its input or output. Devices that share a layer add its products in a hook."""
    return (
        type(linear) is nn.Linear
        and linear.bias is None
        and not (linear._forward_hooks or linear._forward_pre_hooks)
        and type(linear.weight) is nn.Parameter
        and linear.weight.dtype == torch.bfloat16
        and linear.weight.is_contiguous()
    )


def run_layer(layer: Layer, x: Tensor, index: int, view: Pass) -> Tensor:
    """The hidden states (B, T, C) after `layer`, layer `index` of the cache: `Layer.forward`."""
    eps, (batch, tokens, size) = layer.shape.norm_eps, x.shape
    x = x.reshape(batch * tokens, size).contiguous()  # (R, C)
    qkv = product("qkv", x, layer.qkv.weight, norm=layer.attention_norm, eps=eps)
    mixed = attended(layer, qkv, index, view)  # (R, H·D)
    x = product("output", mixed, layer.output.weight, residual=x)
    h = product("gate_up", x, layer.gate_up.weight, norm=layer.mlp_norm, eps=eps, swiglu=True)
    x = product("down", h, layer.down.weight, residual=x)
    return x.view(batch, tokens, size)


def product(
    name: str,
    x: Tensor,
    weight: Tensor,
    *,
    norm: Tensor | None = None,
    eps: float = 0.0,
    residual: Tensor | None = None,
    swiglu: bool = False,
    tiles: Tiles | None = None,
    overlap: bool | None = None,
) -> Tensor:
    """norm(x) (R, K) @ weight.T, (R, N), plus `residual`; with `swiglu`, weight is (2N, K).

    `tiles` and `overlap` are by default those of `TILES` and `OVERLAP`.
    """
    (rows, inputs), outputs = x.shape, len(weight) // (2 if swiglu else 1)
    tiles = TILES[name, rows == 1] if tiles is None else tiles
    out = x.new_empty(rows, outputs)
    kernel = kernels().product_of_one if rows == 1 else kernels().product_of_few
    kernel[(-(-outputs // tiles.outputs),)](
        x, weight, x if norm is None else norm, x if residual is None else residual, out, eps, rows,
        N=outputs, K=inputs, NORM=norm is not None, SWIGLU=swiglu, RESIDUAL=residual is not None,
        ROWS=1 if rows == 1 else 8 if rows <= 8 else 16,
        BLOCK_N=tiles.outputs, BLOCK_K=tiles.inputs, WARPS=tiles.warps, STAGES=tiles.stages,
        **launch(x, tiles.warps, overlap),
    )  # fmt: skip
    return out


def attended(
    layer: Layer, qkv: Tensor, index: int, view: Pass, overlap: bool | None = None
) -> Tensor:
    """The values that each head has looked up, (R, H·D); the keys and values of `qkv`,
    (R, (H + 2 KV)·D), are in the cache then."""
    shape, (batch, tokens) = layer.shape, view.positions.shape
    heads, kv_heads, size = shape.num_heads, shape.num_kv_heads, shape.head_dim
    keys, values = view.cache.keys[index], view.cache.values[index]
    sizes = {"T": tokens, "H": heads, "KV": kv_heads, "D": size}
    rows, slots = batch * tokens, keys.shape[1]
    has_norm = layer.query_norm is not None
    norms = (layer.query_norm, layer.key_norm) if has_norm else (qkv, qkv)
    steps = view.positions.stride(1), view.positions.stride(0)
    kernels().rotate_and_write[(rows, heads + 2 * kv_heads)](
        qkv, view.cos, view.sin, view.positions, *norms, keys, values, shape.norm_eps,
        slots, view.cos.stride(1), view.cos.stride(0), *steps,
        NORM=has_norm, **sizes, **launch(qkv, 1, overlap),
    )  # fmt: skip
    queries = max(16, power_of_two(tokens * heads // kv_heads))
    pieces = parts_of(batch * kv_heads, view.window)
    parts = qkv.new_empty((batch, kv_heads, pieces, queries, size), dtype=torch.float32)
    sums = qkv.new_empty((batch, kv_heads, pieces, queries, 2), dtype=torch.float32)
    out = qkv.new_empty(rows, heads * size)
    sizes |= {"R": queries, "PARTS": pieces}
    kernels().attend_part[(batch, kv_heads, pieces)](
        qkv, view.positions, keys, values, parts, sums, size**-0.5, slots, *steps,
        **sizes, BLOCK=SLOTS_OF_A_BLOCK, **launch(qkv, 4, overlap),
    )  # fmt: skip
    kernels().put_together[(rows, heads)](parts, sums, out, **sizes, **launch(qkv, 4, overlap))
    return out


def parts_of(blocks: int, window: int) -> int:
    """Into so many parts, a power of two, the slots of a window are divided, if without it there
    are so many `blocks` of attention."""
    parts = 1
    while blocks * parts < BLOCKS and 2 * parts * SLOTS_OF_A_BLOCK <= window and parts < 64:
        parts *= 2
    return parts


def power_of_two(least: int) -> int:
    """The smallest power of two that is at least `least`."""
    return 1 << (least - 1).bit_length()


def launch(x: Tensor, warps: int, overlap: bool | None) -> dict[str, Any]:
    """The options with which a kernel is launched on the device of `x`."""
    overlap = OVERLAP if overlap is None else overlap
    if overlap and x.is_cuda and torch.cuda.get_device_capability(x.device) >= (9, 0):
        return {"num_warps": warps, "num_stages": 2, "PDL": True, "launch_pdl": True}
    return {"num_warps": warps, "num_stages": 2, "PDL": False}


@cache
def kernels() -> Any:
    """The module of kernels. Importing it imports Triton."""
    from reference import fused_kernels

    return fused_kernels
