"""Triton kernels for a CUDA device: in recorded graphs what lies between the matrix products of a
layer, and, in the mode "fused", the products too.

Between its products, a layer of torch's kernels launches a dozen small ones. In a CUDA graph each
of them takes one to six microseconds, in which no weights are read, and attention to a short window
keeps a few processors busy for thirty. Here are fewer and shorter ones (`run_between`):

| kernel | what it does |
|---|---|
| rotate_and_write | norms of heads, rotary embedding; keys and values into the cache |
| attend_part | attention to a part of the slots up to a sequence's last token or tree node |
| put_together | the parts, weighted (flash decoding); not needed if there is one part |
| add_and_normalise | the residual sum, and RMSNorm of it; twice |
| swiglu | SwiGLU |

In the mode "fused" (`run_layer`) a layer is seven kernels: the three of attention, and four
products, two of which begin with RMSNorm, one ends with SwiGLU, and two with the residual sum.

The kernels are in `fused_kernels`, which is imported at first use: without Triton all else works.
The first are for 16 bits, the products for few rows and plain layers in bf16 (`fitting`); other
passes go the ordinary way. The text is the same up to rounding. What is launched depends on shapes
only, so a pass can be recorded as a CUDA graph, and a recording keeps its kernels. Launched one by
one they would gain little: the mode "eager" has none of them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from reference.activations import rms_norm, swiglu
from reference.attention import attend
from reference.cache import KVCache
from specsim.architecture import Architecture

Layer, Pass = nn.Module, Any  # those of `transformer`, which imports this module

BETWEEN, LAYERS = "between", "layers"  # what the kernels compute: between the products, or all

MOST_ROWS = 16  # tokens of all sequences in a pass whose products are fused
MOST_QUERIES = 256  # rows of a sequence that share a key-value head
QUERIES_OF_A_BLOCK = 128
BLOCKS = 256  # of attention that keep a large GPU busy
SLOTS_OF_A_BLOCK = 64  # that a block of attention reads at once
MOST_PARTS = 64  # of the slots of one sequence
ACTIVATED = 1024  # elements of a block of SwiGLU


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
OLDEST = (8, 0)  # compute capability with matrix units for bf16
LARGEST_HEAD = 128
OVERLAP = True  # programmatic dependent launch, where the device has it

in_use = ""  # what the kernels may compute at present: nothing, `BETWEEN` or `LAYERS`


@contextmanager
def fusing(what: str) -> Iterator[None]:
    """Within this context passes that fit take the kernels of this module: those `BETWEEN` the
    products, or of whole `LAYERS` where these fit."""
    global in_use
    before, in_use = in_use, what
    try:
        yield
    finally:
        in_use = before


def may_fuse(device: torch.device) -> str:
    """What the mode "cuda-graphs" computes by the kernels on this device, where it fits."""
    return "" if missing(device) else BETWEEN


def missing(device: torch.device) -> str | None:
    """What the mode "fused" lacks on this device, in words; None if it can be used."""
    if device.type != "cuda":
        return f"a CUDA device, not {device}"
    if find_spec("triton") is None:
        return "the package triton"
    return refusal(device.index or 0)


@cache
def refusal(index: int) -> str | None:
    """What keeps the kernels from running on the CUDA device `index`, in words: it is too old, or
    attention does not run when it is tried (a machine may lack a C compiler)."""
    if torch.cuda.get_device_capability(index) < OLDEST:
        return f"compute capability {OLDEST[0]}.{OLDEST[1]} or higher"
    like = {"device": f"cuda:{index}", "dtype": torch.bfloat16}
    window = 2 * MOST_PARTS * SLOTS_OF_A_BLOCK  # each part has several blocks to load
    try:
        with torch.cuda.device(index):
            cache = torch.zeros(1, window, 1, LARGEST_HEAD, **like)
            ends = torch.zeros(1, 1, dtype=torch.long, device=like["device"])
            look_up(torch.zeros(1, 3 * LARGEST_HEAD, **like), ends, cache, cache, window)
            torch.cuda.synchronize()
    except Exception as error:  # whatever it is, decoding goes on without
        return f"kernels that compile here ({type(error).__name__})"
    return None


def fitting(layers: Sequence[Layer], view: Pass) -> str:
    """What of this pass of these layers the kernels in use can compute: whole `LAYERS`, what is
    `BETWEEN` the products, or nothing, ""; told from shapes and types."""
    is_chain_or_tree = view.slots is view.positions or view.branches is not None
    if not in_use or view.bias is not None or not is_chain_or_tree or view.window == 0:
        return ""
    fits = (
        view.positions.device.type == DEVICE
        and type(view.cache) is KVCache
        and len(view.positions) == len(view.cache.keys[0])
        and all(map(is_readable, view.cache.tensors()))
        and all(attention_fits(layer, view) for layer in layers)
    )
    if not fits:
        return ""
    few = view.positions.numel() <= MOST_ROWS
    return LAYERS if in_use == LAYERS and few and all(map(layer_fits, layers)) else BETWEEN


def is_readable(kept: Tensor) -> bool:
    """Whether the kernels read a cache like this."""
    return kept.is_contiguous() and kept.dtype in (torch.bfloat16, torch.float16)


def attention_fits(layer: Layer, view: Pass) -> bool:
    """Whether attention of a layer to a chain or a tree can be computed by the kernels."""
    shape, tokens = layer.shape, view.positions.shape[1]
    groups, uneven = divmod(shape.num_heads, shape.num_kv_heads)
    few = queries_fit(groups * tokens, shape.head_dim)
    return layer.attend is attend and not uneven and few


def queries_fit(queries: int, head_size: int) -> bool:
    """Whether so many rows of a sequence share a key-value head that the kernels gain."""
    is_power = head_size & (head_size - 1) == 0
    return queries <= MOST_QUERIES and 16 <= head_size <= LARGEST_HEAD and is_power


def reads_to_the_end(shape: Architecture, tokens: int, mode: str, device: torch.device) -> bool:
    """Whether a pass of so many tokens of a sequence reads the cache up to the last of them in
    this mode, and not the whole window: of a model of the Llama shape in 16 bits."""
    groups = shape.num_heads // shape.num_kv_heads
    fuses = mode in ("cuda-graphs", "fused") and may_fuse(device)
    return bool(fuses) and queries_fit(groups * tokens, shape.head_dim)


def layer_fits(layer: Layer) -> bool:
    """Whether the rest of a layer can be computed by the kernels too."""
    if layer.experts or not layer.shape.gated_mlp or layer.activate is not swiglu:
        return False
    return all(map(is_plain, (layer.qkv, layer.output, layer.gate_up, layer.down)))


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


def run_between(layers: Sequence[Layer], x: Tensor, view: Pass, last_norm: Tensor) -> Tensor:
    """`run` with the kernels between the products: a residual sum belongs to the norm that follows
    it."""
    eps, after = layers[0].shape.norm_eps, [layer.attention_norm for layer in layers[1:]]
    _, h = normalised(x, None, layers[0].attention_norm, eps)
    for index, (layer, norm) in enumerate(zip(layers, (*after, last_norm), strict=True)):
        x, h = normalised(x, layer.mix(h, index, view), layer.mlp_norm, eps)
        x, h = normalised(x, fed(layer, h), norm, eps)
    return h


def fed(layer: Layer, h: Tensor) -> Tensor:
    """`Layer.feed`, with the kernel of SwiGLU where that is the activation."""
    if layer.experts or layer.activate is not swiglu:
        return layer.feed(h)
    return layer.down(activated(layer.gate_up(h)))


def normalised(
    x: Tensor, change: Tensor | None, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """x + change, and its RMSNorm times `weight`, (B, T, C) each."""
    size = x.shape[-1]
    x = x.contiguous()
    sums, out = x if change is None else torch.empty_like(x), torch.empty_like(x)
    filled = power_of_two(size)
    kernels().add_and_normalise[(x.numel() // size,)](
        x, x if change is None else change.contiguous(), weight, sums, out, eps, size,
        C=filled, ADD=change is not None, **launch(x, min(8, max(1, filled // 512))),
    )  # fmt: skip
    return sums, out


def activated(gate_up: Tensor) -> Tensor:
    """`swiglu` of `gate_up` (B, T, 2I): (B, T, I)."""
    *rows, size = gate_up.shape
    gate_up = gate_up.contiguous()
    out = gate_up.new_empty((*rows, size // 2))
    grid = gate_up.numel() // size, -(-size // 2 // ACTIVATED)
    kernels().swiglu[grid](gate_up, out, size // 2, BLOCK=ACTIVATED, **launch(gate_up, 4))
    return out


def run(layers: Sequence[Layer], x: Tensor, view: Pass, last_norm: Tensor) -> Tensor:
    """The layers and the norm after them, applied to `x` (B, T, C), with the kernels of `view`."""
    if view.fused == BETWEEN:
        return run_between(layers, x, view, last_norm)
    for index, layer in enumerate(layers):
        x = run_layer(layer, x, index, view)
    return rms_norm(x, last_norm, layers[0].shape.norm_eps)


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
    heads, kv_heads = shape.num_heads, shape.num_kv_heads
    keys, values = view.cache.keys[index], view.cache.values[index]
    has_norm = layer.query_norm is not None
    norms = (layer.query_norm, layer.key_norm) if has_norm else (qkv, qkv)
    kernels().rotate_and_write[(batch * tokens, heads + 2 * kv_heads)](
        qkv, view.cos, view.sin, view.slots, *norms, keys, values, shape.norm_eps,
        keys.shape[1], *strides(view.cos), *strides(view.slots),
        T=tokens, H=heads, KV=kv_heads, D=shape.head_dim, NORM=has_norm, **launch(qkv, 1, overlap),
    )  # fmt: skip
    ends, known = view.slots, 0
    if view.branches is not None:
        ends, known = view.branches.lengths[:, None].expand(-1, tokens), view.branches.known
    return look_up(qkv, ends, keys, values, view.window, view.nodes, known, overlap)


def look_up(
    qkv: Tensor,
    ends: Tensor,
    keys: Tensor,
    values: Tensor,
    window: int,
    nodes: Tensor | None = None,
    known: int = 0,
    overlap: bool | None = None,
) -> Tensor:
    """Attention, (R, H·D), of the queries in `qkv` (R, (H + 2 KV)·D) to the slots of `keys` and
    `values` (B, S, KV, D) up to their `ends` (B, T); in trees to those before their ends, and of
    the `known` ones from there on to those that `nodes` (B, T, W) tells (see `Branches.bits`). No
    slot that is seen is at `window` or beyond it."""
    (batch, tokens), (slots, kv_heads, size) = ends.shape, keys.shape[1:]
    heads = qkv.shape[1] // size - 2 * kv_heads
    rows = tokens * heads // kv_heads
    queries = min(max(16, power_of_two(rows)), QUERIES_OF_A_BLOCK)
    blocks = -(-rows // queries)
    parts = parts_of(batch * kv_heads * blocks, window)
    several = window > parts * SLOTS_OF_A_BLOCK  # blocks: there is one more to ask for
    stages = stages_within(qkv.device, size, queries) if several else 2
    out = mixed = sums = qkv.new_empty(batch * tokens, heads * size)
    if parts > 1:
        padded = batch, kv_heads, parts, blocks * queries
        mixed = qkv.new_empty((*padded, size), dtype=torch.float32)
        sums = qkv.new_empty((*padded, 2), dtype=torch.float32)
    sizes = {"T": tokens, "H": heads, "KV": kv_heads, "PARTS": parts, "D": size}
    options = launch(qkv, 8 if queries > 64 else 4, overlap) | {"num_stages": stages}
    kernels().attend_part[(batch, kv_heads * blocks, parts)](
        qkv, ends, ends if nodes is None else nodes, keys, values, mixed, sums, out, size**-0.5,
        slots, *strides(ends), known, blocks, **sizes, R=queries, BLOCK=SLOTS_OF_A_BLOCK,
        TREE=nodes is not None, WHOLE=parts == 1, **options,
    )  # fmt: skip
    if parts > 1:
        options = launch(qkv, 1 if parts <= 8 else 4, overlap)
        grid, rows = (batch * tokens, heads), blocks * queries
        kernels().put_together[grid](mixed, sums, out, **sizes, R=rows, **options)
    return out


def strides(of: Tensor) -> tuple[int, int]:
    """From a token to the next, and from a sequence to the next: of (B, T, ...)."""
    return of.stride(1), of.stride(0)


def stages_within(device: torch.device, size: int, queries: int) -> int:
    """How many blocks of keys and values, 3 at most, are loaded at once beside the queries: so many
    that a processor's memory holds them."""
    block = 2 * 2 * SLOTS_OF_A_BLOCK * size  # bytes of keys and values in 16 bits
    left = shared_bytes(device) - 2 * queries * size
    return max(1, min(3, left // block))


@cache
def shared_bytes(device: torch.device) -> int:
    """Bytes of a processor's own memory that a block of threads may use."""
    if device.type != "cuda":
        return 1 << 17
    properties = torch.cuda.get_device_properties(device)
    return getattr(properties, "shared_memory_per_block_optin", 96 << 10)


def parts_of(blocks: int, window: int) -> int:
    """Into so many parts, a power of two, the slots of a window are divided, if without it there
    are so many `blocks` of attention."""
    parts = 1
    while blocks * parts < BLOCKS and 2 * parts * SLOTS_OF_A_BLOCK <= window and parts < MOST_PARTS:
        parts *= 2
    return parts


def power_of_two(least: int) -> int:
    """The smallest power of two that is at least `least`."""
    return 1 << (least - 1).bit_length()


def launch(x: Tensor, warps: int, overlap: bool | None = None) -> dict[str, Any]:
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
