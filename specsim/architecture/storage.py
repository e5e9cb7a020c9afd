"""How a checkpoint stores its weights: plain data on an `Architecture`, by class of module.

A `Format` is the bits of a weight with its scales, and the arithmetic that its products are done
in. `by_class` looks at every matrix of a model, asks in which format it is, and takes the mean of
each class, weighted by parameters: what is left out of a quantisation is counted as such.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from specsim.architecture.layers import Sizes, layers_of
from specsim.architecture.parts import Attention, Experts, Layer, Mlp, Recurrent

CLASSES = ("mlp", "attention", "recurrent", "experts", "shared", "head", "table")


@dataclass(frozen=True, slots=True)
class Format:
    """How the weights of a matrix are stored.

    `name` is the name of a precision, or what is nearest to it; `bits` are those of one weight with
    its share of scales and zeros; `math` is the arithmetic of its products.
    """

    name: str
    bits: float
    math: str = "bf16"


PLAIN = Format("bf16", 16.0)


@dataclass(frozen=True, slots=True)
class Storage:
    """What a checkpoint's own files say about its weights and its cache.

    Arguments: `method`, as the file calls it; `source`, where it stands; `name`, the precision of
    most weights that are quantised; `formats`, (class, bits of a weight, arithmetic) for each of
    `CLASSES`; `kv_bits`, those of a cached element (None: not said); `refusal`, why it cannot be
    read: then nothing else holds.
    """

    method: str
    source: str
    name: str = "bf16"
    formats: tuple[tuple[str, float, str], ...] = ()
    kv_bits: float | None = None
    refusal: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "formats", tuple((c, float(b), m) for c, b, m in self.formats))

    def bits_of(self, kind: str) -> float:
        """Bits of a weight of one class, 16 where nothing is said."""
        return next((bits for name, bits, _ in self.formats if name == kind), PLAIN.bits)

    def math_of(self, kind: str) -> str:
        """The arithmetic of the products of one class."""
        return next((math for name, _, math in self.formats if name == kind), PLAIN.math)


@dataclass(frozen=True, slots=True)
class Module:
    """A matrix of a model: its class, the names it goes by in checkpoints, its parameters.

    `layer` is None for the matrices outside of the layers. The names begin after the layer's own
    (`self_attn.q_proj` in layer 3 is `layers.3.self_attn.q_proj` in full).
    """

    kind: str
    layer: int | None
    names: tuple[str, ...]
    parameters: float

    @property
    def paths(self) -> tuple[str, ...]:
        """The names in full, from the list of layers on."""
        if self.layer is None:
            return self.names
        return tuple(f"layers.{self.layer}.{name}" for name in self.names)


def by_class(
    model: Sizes, format_of: Callable[[Module], Format]
) -> tuple[tuple[tuple[str, float, str], ...], str]:
    """Each class with its mean bits and the arithmetic of most of it; and the name of the format
    that holds most of the weights that are not plain."""
    bits: dict[str, float] = dict.fromkeys(CLASSES, 0.0)
    sizes: dict[str, float] = dict.fromkeys(CLASSES, 0.0)
    maths: dict[str, dict[str, float]] = {kind: {} for kind in CLASSES}
    names: dict[str, float] = {}
    for module in modules_of(model):
        found, size = format_of(module), module.parameters
        bits[module.kind] += size * found.bits
        sizes[module.kind] += size
        shares = maths[module.kind]
        shares[found.math] = shares.get(found.math, 0.0) + size
        if found.bits < PLAIN.bits and module.kind != "table":
            names[found.name] = names.get(found.name, 0.0) + size
    formats = tuple(
        (kind, bits[kind] / sizes[kind], max(maths[kind], key=maths[kind].__getitem__))
        for kind in CLASSES
        if sizes[kind]
    )
    return formats, max(names, key=names.__getitem__) if names else PLAIN.name


def modules_of(model: Sizes) -> Iterator[Module]:
    """Every matrix of a model but routers. A model without an ordinary MLP has one of no size, so
    that the class of all other matrices has a format too."""
    layers, hidden = layers_of(model), model.hidden_size
    for index, layer in enumerate(layers):
        yield from _of_layer(layer, index, hidden)
    if not any(isinstance(layer.mlp, Mlp) for layer in layers):
        yield from _mlp("mlp", len(layers) - 1, hidden, 1e-6, True, ("mlp",))
    tables = float(model.embedding_parameters)
    table = ("embed_tokens", "wte", "embedding", "embeddings", "embed", "word_embeddings")
    head = ("lm_head", "head", "output", "embed_out")
    yield Module("table", None, table, tables)
    yield Module("head", None, (*head, *table) if model.tied_head else head, tables)


def _of_layer(layer: Layer, index: int, hidden: int) -> Iterator[Module]:
    mlp = layer.mlp
    ways: tuple[str, ...]
    for mixer in (layer.mixer, layer.beside):
        if isinstance(mixer, Attention):
            yield from _attention(mixer, index, hidden)
        if not isinstance(mixer, Recurrent):
            continue
        ways = ("linear_attn", "mamba", "mixer", "self_attn", "attn", "temporal_block", "conv")
        into = _joined(ways, ("in_proj", "in_proj_qkv", "in_proj_qkvz", "qkv_proj", "q_proj"))
        out = _joined(ways, ("out_proj", "o_proj"))
        yield Module("recurrent", index, into, hidden * mixer.columns)
        yield Module("recurrent", index, out, hidden * mixer.width)
    if isinstance(mlp, Mlp):
        ways = ("mlp", "feed_forward", "ffn", "mixer")
        yield from _mlp("mlp", index, hidden, mlp.width, mlp.gated, ways)
    elif isinstance(mlp, Experts):
        yield from _experts(mlp, index, hidden)


def _attention(attention: Attention, index: int, hidden: int) -> Iterator[Module]:
    ways = ("self_attn", "attn", "attention", "mixer", "temporal_block")

    def one(size: float, *names: str) -> Module:
        return Module("attention", index, _joined(ways, names), size)

    *grouped, (_, rows, columns) = attention.outputs(hidden)
    yield one(rows * columns, "o_proj", "wo", "wo_b", "out_proj", "dense", "c_proj")
    for _, rows, columns in grouped:
        yield one(rows * columns, "wo_a")
    if attention.indexer is not None:
        size = sum(rows * columns for _, rows, columns in attention.indexer.matrices(hidden))
        yield one(size, "indexer.wq_b", "indexer.wk")
    if attention.compressed is not None:
        size = sum(rows * columns for _, rows, columns in attention.compressed.matrices(hidden))
        yield one(size, "compressor.wkv", "compressor.wgate")
    if (latent := attention.latent) is None:
        rank = attention.query_rank
        if rank:
            yield one(hidden * rank, "q_a_proj", "wq_a")
        queries = (rank or hidden) * attention.query_size + hidden * attention.gate_columns
        fused = ("qkv_proj", "c_attn", "wqkv", "Wqkv")
        yield one(queries, "q_proj", "wq", "wq_b", *fused)
        cached = attention.cached / (2 if attention.value_is_key else 1)
        if cached:
            yield one(hidden * cached / 2, "k_proj", "wk", "wkv", *fused)
            yield one(hidden * cached / 2, "v_proj", "wv", "wkv", *fused)
        return
    if latent.query_rank:
        yield one(hidden * latent.query_rank, "q_a_proj", "wq_a")
    yield one(
        (latent.query_rank or hidden) * attention.query_size, "q_b_proj", "q_proj", "wq_b", "wq"
    )
    yield one(hidden * latent.cached, "kv_a_proj_with_mqa", "kv_a_proj", "wkv_a", "wkv")
    up = attention.num_heads * (latent.nope_size + latent.value_size)
    yield one(latent.kv_rank * up, "kv_b_proj", "wkv_b")


def _experts(experts: Experts, index: int, hidden: int) -> Iterator[Module]:
    inside, width = experts.latent_size or hidden, experts.count * experts.intermediate_size
    of = ("mlp", "block_sparse_moe", "ffn", "feed_forward", "moe", "mixer")
    ways = _joined(of, ("experts.0", "experts"))
    yield from _mlp("experts", index, inside, width, experts.gated, ways)
    if experts.shared_size:
        names = ("shared_experts", "shared_expert", "shared_mlp")
        ways = (*_joined(of, names), "share_expert")
        yield from _mlp("shared", index, hidden, experts.shared_size, experts.gated, ways)
    if experts.latent_size:
        names = ("fc1_latent_proj", "fc2_latent_proj", "latent_proj")
        yield Module("shared", index, _joined(of, names), 2 * hidden * experts.latent_size)


def _mlp(
    kind: str, index: int, hidden: int, width: float, gated: bool, ways: tuple[str, ...]
) -> Iterator[Module]:
    both = ("gate_up_proj", "w13")
    if gated:
        yield Module(kind, index, _joined(ways, ("gate_proj", "w1", *both)), hidden * width)
    up = ("up_proj", "w3", "c_fc", "fc1", *both)
    down = ("down_proj", "w2", "c_proj", "fc2")
    yield Module(kind, index, _joined(ways, up), hidden * width)
    yield Module(kind, index, _joined(ways, down), hidden * width)


def _joined(ways: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{way}.{name}" for way in ways for name in names)
