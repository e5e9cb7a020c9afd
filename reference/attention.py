"""Attention of a pass's tokens to the slots of a cache, which are read once.

Letters: B batch, T tokens in this pass, S slots, H query heads, K key-value heads, G = H / K, D
head size, R = G·T the rows that share a key-value head.

Importing this module turns off cuDNN's attention for the process. From torch 2.11 on, a Hopper GPU
would prefer it for attention with a mask. It builds an execution plan for every new shape, which
takes a fraction of a second, and decoding meets many shapes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from reference import loops
from reference.chunked_attention import attend_in_chunks, chunks_of

torch.backends.cuda.enable_cudnn_sdp(False)  # a flag; a build without CUDA has it too


def attend(
    queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, chunks: int | None = None
) -> Tensor:
    """Grouped-query attention: (B, T, H, D) on (B, S, K, D) gives (B, T, H·D); causal when there is
    no bias (B, 1, G·T, S).

    The G queries that share a key-value head become extra rows of one product, so keys and values
    are read once per sequence and never copied per query head. `chunks` of the slots
    are read as if each were a sequence: by default `chunks_of` says how many on a GPU, 1 elsewhere.
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
    if chunks is None:
        chunks = chunks_of(keys, groups * rows) if keys.is_cuda else 1
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
