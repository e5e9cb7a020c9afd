"""Attention: projections, and the cache that is read once per sequence whatever the rows."""

from collections.abc import Iterator

import numpy as np

from specsim.architecture import Architecture, LatentAttention
from specsim.checks import Floats
from specsim.operators.counting import Pass
from specsim.operators.sharding import kv_heads_held
from specsim.operators.work import ATTENTION, Operator


def attention_operators(asked: Pass, model: Architecture) -> Iterator[Operator]:
    """The operators of attention, in the order in which they run."""
    hidden, layers, weight = model.hidden_size, model.num_layers, asked.precision.weight_bytes
    if model.latent is not None:
        yield from latent_projections(asked, model, model.latent)
    else:
        queries = model.query_size // asked.devices
        keys = kv_heads_held(model, asked.devices) * model.head_dim
        yield asked.linear("qkv projection", hidden, queries + 2 * keys, layers, weight)
    sliding = len(model.sliding_layers)
    if layers > sliding:
        yield over_the_cache("attention", asked, model, layers - sliding, asked.context)
    if sliding:
        # each row of a pass sees a window that is shifted by one token; counted as one window
        # (optimistic for a verification, by gamma tokens in `sliding_window`)
        seen = np.minimum(asked.context, model.sliding_window or np.inf)
        yield over_the_cache("sliding attention", asked, model, sliding, seen)
    mixed = model.value_size // asked.devices
    yield asked.linear("output projection", mixed, hidden, layers, weight)


def over_the_cache(
    name: str, asked: Pass, model: Architecture, layers: int, context: Floats
) -> Operator:
    """Attention itself: each row of queries is multiplied with every key and mixes every value;
    keys and values are read once per sequence, whatever the rows, and written once per row.

    Every row of a pass is charged the whole `context` (pessimistic for a long prefill, by a factor
    of two, and for nothing else).
    """
    tokens, wide = asked.tokens, asked.precision.activation_bytes
    if model.latent is not None:
        flops, cached = latent_flops(asked, model, model.latent, context), model.latent.cached
        heads = 1
        values = model.value_size // asked.devices
    else:
        values = model.query_size // asked.devices
        flops = 4.0 * tokens * context * values
        heads = kv_heads_held(model, asked.devices)
        cached = 2 * heads * model.head_dim
    kv_bytes = cached * layers * asked.precision.kv_bytes * (asked.batch * context + tokens)
    return asked.other(
        name,
        ATTENTION,
        flops=flops * layers,
        kv_bytes=kv_bytes,
        activation_bytes=2.0 * tokens * values * wide * layers,
        kernels=layers,
        streams=asked.batch * heads,
        math=asked.precision.activation_math,
    )


def latent_projections(
    asked: Pass, model: Architecture, latent: LatentAttention
) -> Iterator[Operator]:
    """MLA's matrices (DeepSeek-V2, arXiv:2405.04434, section 2.1): queries and the latent down and
    up again. The down projections are not split over devices."""
    hidden, layers, weight = model.hidden_size, model.num_layers, asked.precision.weight_bytes
    heads = model.num_heads // asked.devices
    queries = heads * model.head_dim
    if latent.query_rank is not None:
        yield asked.linear("query down projection", hidden, latent.query_rank, layers, weight)
        yield asked.linear("query up projection", latent.query_rank, queries, layers, weight)
    else:
        yield asked.linear("query projection", hidden, queries, layers, weight)
    yield asked.linear("latent projection", hidden, latent.cached, layers, weight)
    up = heads * (latent.nope_size + latent.value_size)
    yield asked.linear("latent up projection", latent.kv_rank, up, layers, weight)


def latent_flops(
    asked: Pass, model: Architecture, latent: LatentAttention, context: Floats
) -> Floats:
    """FLOPs of one layer over the cache, in the cheaper of MLA's two orders.

    Absorbed: queries and outputs go through the latent's up projection, and all heads read the
    latent itself, `2 heads (2 rank + rope)` FLOP per row and cached token (far beyond the ridge:
    a verification is compute-bound). Decompressed: keys and values of the whole context
    are made first, which pays for long prefills.
    """
    heads, rank = model.num_heads // asked.devices, latent.kv_rank
    pairs = asked.tokens * context
    absorbed = 2.0 * pairs * heads * (2 * rank + latent.rope_size)
    narrow = 2.0 * pairs * heads * (latent.nope_size + latent.rope_size + latent.value_size)
    per_cached = 2.0 * rank * heads * (latent.nope_size + latent.value_size)
    return np.minimum(absorbed, narrow + per_cached * asked.batch * context)
