"""Attention: projections, and the cache that is read once per sequence whatever the rows."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from types import MappingProxyType

import numpy as np

from specsim.architecture import (
    Architecture,
    Attention,
    Compressed,
    Indexer,
    LatentAttention,
    mixers_of,
)
from specsim.checks import Floats
from specsim.operators.counting import Pass
from specsim.operators.sharding import kv_heads_held
from specsim.operators.work import ATTENTION, Operator

Kinds = tuple[tuple[Attention, int], ...]  # a kind of attention, and the number of its layers
Titles = Mapping[Attention, str]


@lru_cache(maxsize=64)
def attention_kinds(model: Architecture) -> tuple[Kinds, Mapping[Attention, int], Titles]:
    """The kinds of attention, and those whose projections differ, each with the number of their
    layers; and the labels of the latter."""
    kinds = [(m, count) for m, count in mixers_of(model) if isinstance(m, Attention)]
    shapes: dict[Attention, int] = {}
    titles: dict[Attention, str] = {}
    for attention, count in kinds:
        shape = attention.without_reach()
        shapes[shape] = shapes.get(shape, 0) + count
        titles.setdefault(shape, attention.label)
    return tuple(kinds), MappingProxyType(shapes), MappingProxyType(titles)


def attention_operators(asked: Pass, model: Architecture) -> Iterator[Operator]:
    """The operators of attention, in the order in which they run. Layers that differ only in what
    they look back at share their projections."""
    kinds, shapes, titles = attention_kinds(model)
    several = len(shapes) > 1

    def title(shape: Attention) -> str:
        return f"{titles[shape]} " if several and titles[shape] else ""

    for shape, count in shapes.items():
        yield from projections(asked, model, shape, count, title(shape))
    for attention, count in kinds:
        name = f"{attention.label} " if attention.label else ""
        yield from over_the_cache(f"{name}attention", asked, attention, count)
    for shape, count in shapes.items():
        yield from outputs(asked, model, shape, count, title(shape))


def outputs(
    asked: Pass, model: Architecture, shape: Attention, layers: int, title: str
) -> Iterator[Operator]:
    """From the mixed values to the hidden state; devices split the heads, or the groups of them."""
    weight = asked.precision.bytes_per_attention_weight
    *grouped, (name, rows, columns) = shape.outputs(model.hidden_size)
    for group, height, width in grouped:
        yield asked.linear(f"{title}{group}", height, width / asked.devices, layers, weight)
    yield asked.linear(f"{title}{name}", rows // asked.devices, columns, layers, weight)


def projections(
    asked: Pass, model: Architecture, shape: Attention, layers: int, title: str
) -> Iterator[Operator]:
    """From the hidden state to queries, keys and values, and a gate where there is one."""
    hidden, weight = model.hidden_size, asked.precision.bytes_per_attention_weight
    if shape.latent is not None:
        yield from latent_projections(asked, model, shape, shape.latent, layers, title)
        return
    columns = (shape.query_size + shape.gate_columns) // asked.devices
    if shape.query_rank:
        columns = shape.gate_columns // asked.devices
        yield from low_rank_queries(asked, model, shape, shape.query_rank, layers, title)
    if not shape.shares_cache:
        per_head = shape.cached_per_head // (2 if shape.value_is_key else 1)
        columns += kv_heads_held(shape, asked.devices) * per_head
    name = "query projection" if shape.shares_cache else "qkv projection"
    if shape.query_rank:
        name = "key-value projection"
    yield asked.linear(f"{title}{name}", hidden, columns, layers, weight)
    yield from sparse_projections(asked, model, shape, layers, title)


def low_rank_queries(
    asked: Pass, model: Architecture, shape: Attention, rank: int, layers: int, title: str
) -> Iterator[Operator]:
    """Queries through a latent; its down projection is not split over devices."""
    hidden, weight = model.hidden_size, asked.precision.bytes_per_attention_weight
    queries = shape.query_size // asked.devices
    yield asked.linear(f"{title}query down projection", hidden, rank, layers, weight)
    yield asked.linear(f"{title}query up projection", rank, queries, layers, weight)


def sparse_projections(
    asked: Pass, model: Architecture, shape: Attention, layers: int, title: str
) -> Iterator[Operator]:
    """What makes the keys and queries of an indexer and the entries of a compressed cache: on every
    device in full."""
    weight = asked.precision.bytes_per_attention_weight
    for part in (shape.indexer, shape.compressed):
        for name, rows, columns in part.matrices(model.hidden_size) if part else ():
            yield asked.linear(f"{title}{name} projection", rows, columns, layers, weight)


def over_the_cache(name: str, asked: Pass, attention: Attention, layers: int) -> Iterator[Operator]:
    """Attention itself: each row of queries is multiplied with every key and mixes every value;
    keys and values are read once per sequence, whatever the rows, and written once per row.

    Every row of a pass is charged the whole context (pessimistic for a long prefill, by a factor of
    two, and for nothing else). Each row of a verification sees a window that is shifted by one
    token; counted as one window (optimistic, by gamma tokens in the window). A layer that attends
    within chunks of c tokens sees from 1 to c of them: c / 2 on average in a long text.
    """
    if attention.indexer is not None and not attention.indexer.borrowed:
        yield indexing(asked, attention.indexer, attention.compressed, layers)
    tokens, wide = asked.tokens, asked.precision.activation_bytes
    values = attention.value_size // asked.devices
    seen, read = entries(asked, attention)
    if attention.latent is not None:
        flops = latent_flops(asked, attention, attention.latent, seen, read)
        heads, cached = 1, attention.latent.cached
    else:
        flops = 2.0 * tokens * seen * (attention.query_size // asked.devices + values)
        heads = kv_heads_held(attention, asked.devices)
        cached = heads * attention.cached_per_head
    written: Floats | float = 0.0 if attention.shares_cache else tokens
    unfinished = 0.0
    if attention.compressed is not None:
        written = tokens * (1.0 + 1.0 / attention.compressed.rate)
        columns = attention.compressed.columns + attention.compressed.indexer_columns
        unfinished = 2 * 2 * 4.0 * columns  # two projections in 32 bits, written and read once
    yield asked.other(
        name,
        ATTENTION,
        flops=flops * layers,
        kv_bytes=layers * (cached * asked.precision.kv_bytes * (read + written)
                           + unfinished * tokens),
        activation_bytes=2.0 * tokens * values * wide * layers,
        kernels=layers,
        streams=asked.batch * heads,
        math=asked.precision.activation_math,
        groups=attention.num_heads / asked.devices / heads,
        head_size=attention.head_dim,
    )  # fmt: skip


def entries(asked: Pass, attention: Attention) -> tuple[Floats, Floats]:
    """Entries of the cache that a row attends to, and those that all rows of the batch read.

    Where an indexer chooses, the rows of a verification choose each their own, from none in common
    (pessimistic) up to the whole cache.
    """
    context, near = asked.context, np.zeros_like(asked.context)
    if attention.compressed is not None:
        near = np.minimum(context, attention.window or 0)
        context = context / attention.compressed.rate
    elif attention.window is not None:
        context = np.minimum(context, attention.window)
    if attention.chunk is not None:
        context = np.where(context <= attention.chunk, context, attention.chunk / 2)
    if attention.indexer is None:
        return near + context, asked.batch * (near + context)
    chosen = np.minimum(context, attention.indexer.top_k)
    read = np.minimum(asked.rows * chosen, context)
    return near + chosen, asked.batch * (near + read)


def indexing(asked: Pass, indexer: Indexer, compressed: Compressed | None, layers: int) -> Operator:
    """Sparse attention's scorer (DeepSeek-V3.2): it reads its own cached key of every entry of the
    cache, in 8 bits; every row scores every entry."""
    rate = 1.0 if compressed is None else compressed.rate
    scored, written = asked.context / rate, asked.tokens / rate
    pairs = asked.tokens * scored
    return asked.other(
        "indexer scores",
        ATTENTION,
        flops=2.0 * pairs * indexer.num_heads * indexer.head_dim * layers,
        kv_bytes=indexer.key_bytes * layers * (asked.batch * scored + written),
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
        yield from low_rank_queries(asked, model, shape, latent.query_rank, layers, title)
    else:
        yield asked.linear(f"{title}query projection", hidden, queries, layers, weight)
    yield asked.linear(f"{title}latent projection", hidden, latent.cached, layers, weight)
    up = heads * (latent.nope_size + latent.value_size)
    yield asked.linear(f"{title}latent up projection", latent.kv_rank, up, layers, weight)
    if shape.gate_columns:
        gate = shape.gate_columns // asked.devices
        yield asked.linear(f"{title}output gate", hidden, gate, layers, weight)
    yield from sparse_projections(asked, model, shape, layers, title)


def latent_flops(
    asked: Pass, shape: Attention, latent: LatentAttention, seen: Floats, read: Floats
) -> Floats:
    """FLOPs of one layer whose rows attend to `seen` entries each, `read` in all, in the cheaper of
    MLA's two orders.

    Absorbed: queries and outputs go through the latent's up projection, and all heads read the
    latent itself, `2 heads (2 rank + rope)` FLOP per row and cached token (far beyond the ridge:
    a verification is compute-bound). Decompressed: keys and values of all that is read are made
    first, which pays for long prefills.
    """
    heads, rank = shape.num_heads // asked.devices, latent.kv_rank
    pairs = asked.tokens * seen
    absorbed = 2.0 * pairs * heads * (2 * rank + latent.rope_size)
    narrow = 2.0 * pairs * heads * (latent.nope_size + latent.rope_size + latent.value_size)
    per_cached = 2.0 * rank * heads * (latent.nope_size + latent.value_size)
    return np.minimum(absorbed, narrow + per_cached * read)
