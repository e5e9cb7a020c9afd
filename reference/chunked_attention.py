"""Attention to long contexts on a GPU, read in chunks.

The kernels of `scaled_dot_product_attention` give each key-value head of a sequence to one block of
threads (two for more than 64 rows, and so on), and a block runs on one of a GPU's processors. A
large GPU has over a hundred of them; eight key-value heads of one sequence use eight, however long
the context is. So a long context is read in chunks, as if each chunk were a sequence. The result of
each chunk is weighted by its share of the sum of exponentials (flash decoding; Dao et al., 2023):
the same softmax. In short windows chunks cost more than they gain. The probes of a GPU measure from
how many slots on they gain, and the suite uses that (`read_in_chunks_from`).

Letters: B batch, S slots, K key-value heads, D head size, N chunks, R the rows that share a
key-value head.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

BLOCKS = 256  # that keep a large GPU busy: about two for each of its processors
LONG = 2048  # slots from which chunks are assumed to gain where that has not been measured
SHORTEST_CHUNK = 256
ROWS_OF_A_BLOCK = 64

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
