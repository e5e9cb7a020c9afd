"""Attention of a pass's tokens to the slots of a cache, which are read once.

Letters: B batch, T tokens in this pass, S slots, H query heads, K key-value heads, G = H / K, D
head size, R = G·T the rows that share a key-value head.

The kernels of `scaled_dot_product_attention` give each key-value head of a sequence to one block of
threads (two for more than 64 rows, and so on), and a block runs on one of a GPU's processors. A
large GPU has over a hundred of them; eight key-value heads of one sequence use eight, however long
the context is. So a long context is read in chunks, as if each chunk were a sequence. The result of
each chunk is weighted by its share of the sum of exponentials (flash decoding; Dao et al., 2023):
the same softmax. In short windows chunks cost more than they gain. The probes of a GPU measure from
how many slots on they gain, and the suite uses that (`read_in_chunks_from`).

Importing this module turns off cuDNN's attention for the process. From torch 2.11 on, a Hopper GPU
would prefer it for attention with a mask. It builds an execution plan for every new shape, which
takes a fraction of a second, and decoding meets many shapes.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from reference import loops

BLOCKS = 256  # that keep a large GPU busy: about two for each of its processors
LONG = 2048  # slots from which chunks are assumed to gain where that has not been measured
SHORTEST_CHUNK = 256
ROWS_OF_A_BLOCK = 64

torch.backends.cuda.enable_cudnn_sdp(False)  # a flag; a build without CUDA has it too

_chunked_from = LONG


def chunked_from() -> int:
    """The shortest window, in slots, that a GPU reads in chunks at present."""
    return _chunked_from


@contextmanager
def read_in_chunks_from(slots: int) -> Iterator[None]:
    """Within this context a GPU reads windows of `slots` and more in chunks, shorter ones whole.

    The text is the same up to rounding; only the time changes. A CUDA graph that was recorded
    before keeps its kernels.
    """
    global _chunked_from
    before, _chunked_from = _chunked_from, slots
    try:
        yield
    finally:
        _chunked_from = before


def attend(
    queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, chunks: int | None = None
) -> Tensor:
    """Grouped-query attention: (B, T, H, D) on (B, S, K, D) gives (B, T, H·D); causal when there is
    no bias (B, 1, G·T, S).

    The G queries that share a key-value head become extra rows of one product, so keys and values
    are read once per sequence and never copied per query head. `chunks`: by default `chunks_of`.
    """
    if bias is None:
        if queries.is_cuda and queries.element_size() > 2:  # its kernels of 32 bits share no heads
            groups = queries.shape[2] // keys.shape[2]
            keys, values = (x.repeat_interleave(groups, 2) for x in (keys, values))
        queries, keys, values = (x.transpose(1, 2) for x in (queries, keys, values))
        mixed = F.scaled_dot_product_attention(
            queries, keys, values, is_causal=True, enable_gqa=True
        )
        return mixed.transpose(1, 2).flatten(2)
    batch, rows, heads, size = queries.shape
    kv_heads = keys.shape[2]
    groups = heads // kv_heads
    queries = queries.view(batch, rows, kv_heads, groups, size).permute(0, 2, 3, 1, 4)
    queries = queries.reshape(batch, kv_heads, groups * rows, size)  # (B, K, G·T, D)
    chunks = chunks_of(keys, groups * rows) if chunks is None else chunks
    if torch.compiler.is_compiling() and loops.attends(queries):
        mixed = loops.attend(queries, keys, values, bias)
    elif chunks > 1:
        mixed = attend_in_chunks(queries, keys, values, bias, chunks)
    else:
        keys, values = keys.transpose(1, 2), values.transpose(1, 2)  # (B, K, S, D)
        mixed = F.scaled_dot_product_attention(queries, keys, values, bias)
    mixed = mixed.view(batch, kv_heads, groups, rows, size).permute(0, 3, 1, 2, 4)
    # The rows of all sequences are folded into one dimension and back. Without that, the result
    # for one token per sequence may be a view whose strides make the output projection a `bmm`,
    # which reads the weight once per sequence.
    return mixed.reshape(batch * rows, heads * size).view(batch, rows, heads * size)


def chunks_of(keys: Tensor, rows: int) -> int:
    """In how many chunks `keys` (B, S, K, D) are best read for `rows` rows a head: on a GPU so many
    that it is busy, where they are long and lie without gaps between sequences; elsewhere 1."""
    batch, slots, _, size = keys.shape
    if slots < _chunked_from or not keys.is_cuda or keys.dtype == torch.float64 or size % 8:
        return 1
    if batch > 1 and keys.stride(0) != slots * keys.stride(1):
        return 1
    return chunks_to_fill(keys, rows)


def chunks_to_fill(keys: Tensor, rows: int) -> int:
    """So many chunks of `keys` (B, S, K, D), a power of two, that a large GPU is busy, however
    short they are as a whole; 1 where they cannot be divided."""
    batch, slots, kv_heads, _ = keys.shape
    blocks, chunks = batch * kv_heads * -(-rows // ROWS_OF_A_BLOCK), 1
    while blocks * chunks < BLOCKS and slots % (2 * chunks * SHORTEST_CHUNK) == 0:
        chunks *= 2
    return chunks


def attend_in_chunks(
    queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor, chunks: int
) -> Tensor:
    """(B, K, R, D), what `queries` (B, K, R, D) make of `keys` and `values` (B, S, K, D), read as
    `chunks` sequences of S / chunks slots.

    A row that sees nothing of a chunk gives it the weight 0, for the bias there is finite.
    """
    batch, _, rows, _ = queries.shape
    keys, values = (
        x.unflatten(1, (chunks, -1)).flatten(0, 1).transpose(1, 2) for x in (keys, values)
    )  # (B·N, K, S/N, D)
    bias = bias.unflatten(3, (chunks, -1)).movedim(3, 1).flatten(0, 1)  # (B·N, 1, R, S/N)
    queries = queries[:, None].expand(-1, chunks, -1, -1, -1).flatten(0, 1)
    mixed, log_sums = attend_with_sums(queries, keys, values, bias)
    mixed, log_sums = (x.unflatten(0, (batch, chunks)) for x in (mixed, log_sums))
    weights = log_sums.softmax(1)[..., :rows, None]  # (B, N, K, R, 1)
    return (mixed * weights).sum(1).to(mixed.dtype)


def attend_with_sums(
    queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Attention (B, K, R, D) and the logarithm of each row's sum of exponentials, (B, K, R) or,
    filled up to a kernel's liking, a few rows more."""
    if queries.device.type != "cuda":
        attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        return attention(queries, keys, values, attn_mask=bias)
    bias = bias.expand(-1, keys.shape[1], -1, -1)
    attention = torch.ops.aten._scaled_dot_product_efficient_attention
    return attention(queries, keys, values, bias, True)[:2]


def attention_bias(positions: Tensor, window: int, groups: int, dtype: torch.dtype) -> Tensor:
    """0 where a query may look and next to -inf where it may not: (B, 1, G·T, S), built once per
    pass for all layers."""
    slots = torch.arange(window, device=positions.device)
    return bias_of(slots > positions[:, None, :, None], groups, dtype)


def bias_of(hidden: Tensor, groups: int, dtype: torch.dtype) -> Tensor:
    """The same of what is `hidden`, (B, 1, T, S).

    Hidden slots get half the dtype's least number, of which every exponential is 0: of a chunk that
    a row does not see at all, -inf would make it NaN.
    """
    return torch.cat((hidden,) * groups, dim=2).to(dtype) * (torch.finfo(dtype).min / 2)
