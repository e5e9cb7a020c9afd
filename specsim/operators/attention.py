"""Attention: projections, and the cache that is read once per sequence whatever the rows."""

from collections.abc import Iterator

import numpy as np

from specsim.architecture import Architecture, Attention, Indexer, LatentAttention, mixers_of
from specsim.checks import Floats
from specsim.operators.counting import Pass
from specsim.operators.sharding import kv_heads_held
from specsim.operators.work import ATTENTION, Operator

Kinds = list[tuple[Attention, int]]  # a kind of attention, and the number of its layers


def attention_operators(asked: Pass, model: Architecture) -> Iterator[Operator]:
    """The operators of attention, in the order in which they run. Layers that differ only in what
    they look back at share their projections."""
    kinds = [(m, count) for m, count in mixers_of(model) if isinstance(m, Attention)]
    shapes: dict[Attention, int] = {}
    titles: dict[Attention, str] = {}
    for attention, count in kinds:
        shape = attention.without_reach()
        shapes[shape] = shapes.get(shape, 0) + count
        titles.setdefault(shape, attention.label)
    several = len(shapes) > 1

    def title(shape: Attention) -> str:
        return f"{titles[shape]} " if several and titles[shape] else ""

    for shape, count in shapes.items():
        yield from projections(asked, model, shape, count, title(shape))
    for attention, count in kinds:
        name = f"{attention.label} " if attention.label else ""
        yield from over_the_cache(f"{name}attention", asked, attention, count)
    for shape, count in shapes.items():
        mixed, hidden = shape.value_size // asked.devices, model.hidden_size
        weight = asked.precision.bytes_per_attention_weight
        yield asked.linear(f"{title(shape)}output projection", mixed, hidden, count, weight)


def projections(
    asked: Pass, model: Architecture, shape: Attention, layers: int, title: str
) -> Iterator[Operator]:
    """From the hidden state to queries, keys and values, and a gate where there is one."""
    hidden, weight = model.hidden_size, asked.precision.bytes_per_attention_weight
    if shape.latent is not None:
        yield from latent_projections(asked, model, shape, shape.latent, layers, title)
        return
    columns = (shape.query_size + shape.gate_columns) // asked.devices
    if not shape.shares_cache:
        per_head = shape.cached // shape.num_kv_heads // (2 if shape.value_is_key else 1)
        columns += kv_heads_held(shape, asked.devices) * per_head
    name = "query projection" if shape.shares_cache else "qkv projection"
    yield asked.linear(f"{title}{name}", hidden, columns, layers, weight)


def over_the_cache(name: str, asked: Pass, attention: Attention, layers: int) -> Iterator[Operator]:
    """Attention itself: each row of queries is multiplied with every key and mixes every value;
    keys and values are read once per sequence, whatever the rows, and written once per row.

    Every row of a pass is charged the whole context (pessimistic for a long prefill, by a factor of
    two, and for nothing else). Each row of a verification sees a window that is shifted by one
    token; counted as one window (optimistic, by gamma tokens in the window). A layer that attends
    within chunks of c tokens sees from 1 to c of them: c / 2 on average in a long text.
    """
    context = asked.context
    if attention.window is not None:
        context = np.minimum(context, attention.window)
    if attention.chunk is not None:
        context = np.where(context <= attention.chunk, context, attention.chunk / 2)
    if attention.indexer is not None:
        yield from indexing(asked, attention.indexer, layers)
        context = np.minimum(context, attention.indexer.top_k)
    tokens, wide = asked.tokens, asked.precision.activation_bytes
    values = attention.value_size // asked.devices
    if attention.latent is not None:
        flops = latent_flops(asked, attention, attention.latent, context)
        heads, cached = 1, attention.latent.cached
        chosen = asked.rows if attention.indexer is not None else 1.0  # each row its own tokens
        read = np.minimum(asked.batch * context * chosen, asked.batch * asked.context)
    else:
        flops = 2.0 * tokens * context * (attention.query_size // asked.devices + values)
        heads = kv_heads_held(attention, asked.devices)
        per_head = attention.head_dim + (attention.value_dim or attention.head_dim)
        cached = heads * per_head
        read = asked.batch * context
    written = 0.0 if attention.shares_cache else tokens
    yield asked.other(
        name,
        ATTENTION,
        flops=flops * layers,
        kv_bytes=cached * layers * asked.precision.kv_bytes * (read + written),
        activation_bytes=2.0 * tokens * values * wide * layers,
        kernels=layers,
        streams=asked.batch * heads,
        math=asked.precision.activation_math,
    )


def indexing(asked: Pass, indexer: Indexer, layers: int) -> Iterator[Operator]:
    """Sparse attention's scorer (DeepSeek-V3.2): it reads its own cached key of every token of the
    context, in 8 bits; every row scores every token."""
    pairs = asked.tokens * asked.context
    yield asked.other(
        "indexer scores",
        ATTENTION,
        flops=2.0 * pairs * indexer.num_heads * indexer.head_dim * layers,
        kv_bytes=indexer.key_bytes * layers * (asked.batch * asked.context + asked.tokens),
        activation_bytes=4.0 * pairs * layers,
        kernels=layers,
        streams=asked.batch,
        math="fp8",
    )


def latent_projections(
    asked: Pass,
    model: Architecture,
    shape: Attention,
    latent: LatentAttention,
    layers: int,
    title: str,
) -> Iterator[Operator]:
    """MLA's matrices (DeepSeek-V2, arXiv:2405.04434, section 2.1): queries and the latent down and
    up again. The down projections are not split over devices."""
    hidden, weight = model.hidden_size, asked.precision.bytes_per_attention_weight
    heads = shape.num_heads // asked.devices
    queries = heads * shape.head_dim
    if latent.query_rank is not None:
        yield asked.linear(
            f"{title}query down projection", hidden, latent.query_rank, layers, weight
        )
        yield asked.linear(
            f"{title}query up projection", latent.query_rank, queries, layers, weight
        )
    else:
        yield asked.linear(f"{title}query projection", hidden, queries, layers, weight)
    yield asked.linear(f"{title}latent projection", hidden, latent.cached, layers, weight)
    up = heads * (latent.nope_size + latent.value_size)
    yield asked.linear(f"{title}latent up projection", latent.kv_rank, up, layers, weight)
    if shape.gate_columns:
        gate = shape.gate_columns // asked.devices
        yield asked.linear(f"{title}output gate", hidden, gate, layers, weight)
    if shape.indexer is not None:
        for rows, columns in shape.indexer.matrices(hidden):
            name = {
                shape.indexer.head_dim: "indexer key projection",
                shape.indexer.num_heads: "indexer weights projection",
            }.get(columns, "indexer query projection")
            yield asked.linear(f"{title}{name}", rows, columns, layers, weight)


def latent_flops(asked: Pass, shape: Attention, latent: LatentAttention, context: Floats) -> Floats:
    """FLOPs of one layer over the cache, in the cheaper of MLA's two orders.

    Absorbed: queries and outputs go through the latent's up projection, and all heads read the
    latent itself, `2 heads (2 rank + rope)` FLOP per row and cached token (far beyond the ridge:
    a verification is compute-bound). Decompressed: keys and values of the whole context
    are made first, which pays for long prefills.
    """
    heads, rank = shape.num_heads // asked.devices, latent.kv_rank
    pairs = asked.tokens * context
    absorbed = 2.0 * pairs * heads * (2 * rank + latent.rope_size)
    narrow = 2.0 * pairs * heads * (latent.nope_size + latent.rope_size + latent.value_size)
    per_cached = 2.0 * rank * heads * (latent.nope_size + latent.value_size)
    return np.minimum(absorbed, narrow + per_cached * asked.batch * context)
