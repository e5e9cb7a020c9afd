"""The parts of a model that have a type of their own."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from specsim.checks import (
    SpecsimError,
    quoted,
    require_finite,
    require_flags,
    require_share,
    require_size,
)
from specsim.checks.limits import LIMITS, require_limit


def layer_numbers(name: str, value: Iterable[int]) -> tuple[int, ...]:
    """The indices of layers; SpecsimError unless they are whole numbers >= 0, and not too many."""
    good = isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)
    found = tuple(value) if good else ()
    sound = all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in found)
    if not good or not sound or len(found) > LIMITS["layers"].most:
        raise SpecsimError(f"{name} must be a list of layers, whole numbers, not {quoted(value)}")
    return found


@dataclass(frozen=True, slots=True)
class Llama3RopeScaling:
    """Frequency-dependent stretching of the rotary angles (Llama 3.1, `rope_type: llama3`)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int

    def __post_init__(self) -> None:
        for field in ("factor", "low_freq_factor", "high_freq_factor"):
            require_finite(f"rope scaling: {field}", getattr(self, field))
        require_size("rope scaling: original_context", self.original_context)
        require_limit("context", self.original_context, "rope scaling: original_context")


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture of experts in place of the MLP (Shazeer et al., arXiv:1701.06538).

    `count` routed experts in a layer, of which a token visits `per_token`; `intermediate_size` is
    the width of one, `shared_size` that of all experts together that every token visits. The layers
    in `dense_layers` keep an ordinary MLP of the model's own `intermediate_size`. `normalized`: the
    router's weights of those that a token visits are scaled to sum to 1.

    `routing_correlation` is how alike consecutive tokens choose: 0, independently, reads the most
    experts (pessimistic for a verification); 1 reads no more than one token does (optimistic).
    Cohere (blog, April 2026) saw 31 % fewer experts at four tokens than independent choices would
    read: about 0.45.
    """

    count: int
    per_token: int
    intermediate_size: int
    shared_size: int = 0
    shared_gate: bool = False  # a learned weight of the shared expert (Qwen2-MoE)
    router_bias: bool = False  # or DeepSeek-V3's correction of the scores, as many numbers
    biases: bool = False  # in every matrix of an expert (gpt-oss)
    dense_layers: tuple[int, ...] = ()
    routing_correlation: float = 0.0
    normalized: bool = True
    gated: bool = True  # gate, up and down; else up and down alone
    latent_size: int = 0  # experts work on so many elements, projected down and up (Nemotron-3)
    small_parameters: int = 0  # norms, per-expert scales and the like

    def __post_init__(self) -> None:
        dense = layer_numbers("experts: dense_layers", self.dense_layers)
        object.__setattr__(self, "dense_layers", dense)
        for field, limit in (("count", "experts"), ("per_token", "experts"),
                             ("intermediate_size", "width"), ("shared_size", "width")):  # fmt: skip
            size = getattr(self, field)
            require_size(f"experts: {field}", size, least=0 if field == "shared_size" else 1)
            require_limit(limit, size, f"experts: {field}")
        flags = ("shared_gate", "router_bias", "biases", "normalized")
        require_flags("experts", **{field: getattr(self, field) for field in flags})
        if self.per_token > self.count:
            raise SpecsimError(
                f"experts: a token cannot visit {self.per_token} of {self.count} experts"
            )
        require_share("experts: routing_correlation", self.routing_correlation)

    def router_parameters(self, hidden_size: int) -> int:
        gate = hidden_size if self.shared_gate else 0
        return hidden_size * self.count + (self.count if self.router_bias else 0) + gate

    def parameters(self, hidden: int, held: int) -> int:
        """Router, shared experts and `held` of the routed ones."""
        inside = self.latent_size or hidden
        routed = held * Mlp(self.intermediate_size, self.gated, self.biases).parameters(inside)
        shared = Mlp(self.shared_size, self.gated).parameters(hidden) if self.shared_size else 0
        around = 2 * hidden * self.latent_size
        return self.router_parameters(hidden) + routed + shared + around + self.small_parameters


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434): one latent for all heads.

    A layer caches `kv_rank + rope_size` numbers per token, whatever the number of heads. A query
    head has `nope_size + rope_size` dimensions, a value head `value_size`; queries come from a
    latent of `query_rank`, or straight from the hidden state where that is None.
    """

    kv_rank: int
    rope_size: int
    nope_size: int
    value_size: int
    query_rank: int | None = None

    def __post_init__(self) -> None:
        for field in ("kv_rank", "nope_size", "value_size"):
            require_size(f"latent attention: {field}", getattr(self, field))
        require_size("latent attention: rope_size", self.rope_size, least=0)
        if self.query_rank is not None:
            require_size("latent attention: query_rank", self.query_rank)
        for field in ("kv_rank", "rope_size", "nope_size", "value_size", "query_rank"):
            require_limit("width", getattr(self, field) or 0, f"latent attention: {field}")

    @property
    def cached(self) -> int:
        """Elements that one layer caches per token."""
        return self.kv_rank + self.rope_size

    def parameters(self, hidden: int, num_heads: int, query_size: int) -> int:
        """All but the output: queries down and up with a norm between, the latent down and up."""
        rank = self.query_rank
        down_and_norm = (hidden + 1) * rank if rank else 0
        queries = down_and_norm + (rank or hidden) * query_size
        cached = hidden * self.cached + self.kv_rank
        return queries + cached + self.kv_rank * num_heads * (self.nope_size + self.value_size)


# ------------------------------------------------------------------------- the parts of a layer


@dataclass(frozen=True, slots=True)
class Indexer:
    """Sparse attention (DeepSeek-V3.2): a small scorer reads its own cached key of every token, and
    attention reads the best tokens alone.

    | field | meaning |
    |---|---|
    | `num_heads`, `head_dim` | of its queries; its one key has `head_dim` elements |
    | `top_k` | entries of the cache that attention reads |
    | `query_rank` | rows of the matrix that makes its queries; 0: made from the hidden state |
    | `head_weights` | a projection makes a weight for each head |
    | `key_matrix` | a projection makes its key; else the compressed cache does (DeepSeek-V4) |
    | `small_parameters` | norms |
    | `borrowed` | takes the choice of an earlier layer: no matrices, no keys, no scores (GLM-5) |
    """

    num_heads: int
    head_dim: int
    top_k: int
    query_rank: int = 0
    head_weights: bool = True
    key_matrix: bool = True
    small_parameters: int = 0
    borrowed: bool = False

    @property
    def key_bytes(self) -> float:
        """Stored per token (or compressed entry) and layer: the key in 8 bits and its scale."""
        return 0.0 if self.borrowed else self.head_dim + 4.0

    def matrices(self, hidden: int) -> tuple[tuple[str, int, int], ...]:
        """(name, rows, columns) of its projections: queries, a key, and a weight for each head."""
        if self.borrowed:
            return ()
        queries = "indexer queries", self.query_rank or hidden, self.num_heads * self.head_dim
        key = (("indexer key", hidden, self.head_dim),) if self.key_matrix else ()
        weights = (("indexer weights", hidden, self.num_heads),) if self.head_weights else ()
        return (queries, *key, *weights)

    def parameters(self, hidden: int) -> int:
        """The projections and the norms."""
        if self.borrowed:
            return 0
        return sum(r * c for _, r, c in self.matrices(hidden)) + self.small_parameters


@dataclass(frozen=True, slots=True)
class Compressed:
    """A second cache beside a window: one entry for every `rate` tokens of the whole context, a
    weighted mean of what two projections make of them (DeepSeek-V4).

    `columns` of each of the two projections; `indexer_columns` of the two that make the indexer's
    keys. The projections of the tokens of an unfinished entry are kept in 32 bits; where entries
    overlap (columns twice the size of an entry), those of the entry before too.
    """

    rate: int
    columns: int
    indexer_columns: int = 0
    small_parameters: int = 0

    def __post_init__(self) -> None:
        for field in ("rate", "columns"):
            require_size(f"compressed cache: {field}", getattr(self, field))

    def matrices(self, hidden: int) -> tuple[tuple[str, int, int], ...]:
        """(name, rows, columns) of the projections, two each."""
        found: tuple[tuple[str, int, int], ...] = (("compression", hidden, 2 * self.columns),)
        if self.indexer_columns:
            found += (("indexer compression", hidden, 2 * self.indexer_columns),)
        return found

    def parameters(self, hidden: int) -> int:
        """The projections, and positions and norms."""
        return sum(r * c for _, r, c in self.matrices(hidden)) + self.small_parameters

    def unfinished(self, entry: int) -> int:
        """Numbers of 32 bits that a sequence keeps of the entry (of `entry` elements) under way."""
        overlap = self.columns // entry
        return 2 * overlap * self.rate * (self.columns + self.indexer_columns)


@dataclass(frozen=True, slots=True)
class Attention:
    """Attention over a cache of keys and values, or of a latent, in one kind of layer.

    | field | meaning |
    |---|---|
    | `num_heads`, `num_kv_heads` | of queries, and of keys and values |
    | `head_dim`, `value_dim` | of a query and a key; of a value, where that differs |
    | `window`, `chunk` | tokens that a layer looks back; or only within a chunk of so many |
    | `norm_elements` | parameters of the norms over queries and keys |
    | `gate_columns` | further columns of the query projection that gate the output |
    | `shares_cache` | reads the cache of an earlier layer: no keys and values of its own |
    | `value_is_key` | one projection makes keys and values |
    | `cached_once` | keys and values are the same vectors, made and cached once (DeepSeek-V4) |
    | `query_rank` | queries are made through so many elements; 0: from the hidden state |
    | `output_groups`, `output_rank` | heads in groups, each projected to so many elements first |
    | `compressed` | a cache of the whole context beside the window |
    | `small_parameters` | further ones that are no matrices |
    | `label` | what its operators are called, where a model has several kinds |
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    value_dim: int | None = None
    window: int | None = None
    chunk: int | None = None
    bias: bool = False
    output_bias: bool = False
    norm_elements: int = 0
    sinks: bool = False
    gate_columns: int = 0
    shares_cache: bool = False
    value_is_key: bool = False
    small_parameters: int = 0
    latent: "LatentAttention | None" = None
    indexer: Indexer | None = None
    label: str = ""
    cached_once: bool = False
    query_rank: int = 0
    output_groups: int = 1
    output_rank: int = 0
    compressed: Compressed | None = None

    def __post_init__(self) -> None:
        for field in ("num_heads", "num_kv_heads", "head_dim", "output_groups"):
            require_size(f"attention: {field}", getattr(self, field))
        for field in ("value_dim", "window", "chunk"):
            if getattr(self, field) is not None:
                require_size(f"attention: {field}", getattr(self, field))
        if self.num_heads % self.num_kv_heads:
            raise SpecsimError(
                f"attention: {self.num_heads} query heads cannot share {self.num_kv_heads} KV "
                "heads evenly"
            )

    @property
    def query_size(self) -> int:
        """Elements of the queries of all heads together."""
        return self.num_heads * self.head_dim

    @property
    def value_size(self) -> int:
        """Elements of the output of all heads together, before the output projection."""
        if self.latent is not None:
            return self.num_heads * self.latent.value_size
        return self.num_heads * (self.value_dim or self.head_dim)

    @property
    def cached(self) -> int:
        """Elements that it caches per token: K and V, or the latent; 0 where it borrows them."""
        if self.shares_cache:
            return 0
        if self.latent is not None:
            return self.latent.cached
        return self.num_kv_heads * self.cached_per_head

    @property
    def cached_per_head(self) -> int:
        """Elements that a KV head caches per token: a key and a value, or one vector for both."""
        if self.cached_once:
            return self.head_dim
        return self.head_dim + (self.value_dim or self.head_dim)

    @property
    def reach(self) -> int | None:
        """The most cached tokens that a row looks at; None without a limit."""
        limits = [limit for limit in (self.window, self.chunk) if limit is not None]
        return min(limits, default=None)

    def without_reach(self) -> "Attention":
        """The same projections, whatever they look back at."""
        return replace(self, window=None, chunk=None, label="")

    def outputs(self, hidden: int) -> tuple[tuple[str, int, int], ...]:
        """(name, rows, columns) of the output projection, or of both where heads come in groups."""
        if not self.output_rank:
            return (("output projection", self.value_size, hidden),)
        columns = self.output_groups * self.output_rank
        return (
            ("grouped output projection", self.value_size // self.output_groups, columns),
            ("output projection", columns, hidden),
        )

    def parameters(self, hidden: int) -> int:
        """Every one of them but the norm in front."""
        output = sum(rows * columns for _, rows, columns in self.outputs(hidden))
        output += hidden if self.output_bias else 0
        small = self.norm_elements + self.small_parameters + (self.num_heads if self.sinks else 0)
        if self.indexer is not None:
            small += self.indexer.parameters(hidden)
        if self.compressed is not None:
            small += self.compressed.parameters(hidden)
        if self.latent is not None:
            queries = self.latent.parameters(hidden, self.num_heads, self.query_size)
            return queries + hidden * self.gate_columns + output + small
        columns = self.gate_columns
        if not self.shares_cache:
            columns += self.cached // (2 if self.value_is_key else 1)
        columns += self.query_rank or self.query_size
        up = self.query_rank * (self.query_size + 1)  # with a norm between
        return hidden * columns + (columns if self.bias else 0) + up + output + small


@dataclass(frozen=True, slots=True)
class Recurrent:
    """What mixes tokens through a state of constant size (linear attention, Mamba, convolutions).

    | field | meaning |
    |---|---|
    | `kind` | "gated DeltaNet", "Mamba-2", …; its operators are called so |
    | `columns` | of all projections from the hidden state together |
    | `width` | rows of the output projection |
    | `state_elements` | of one sequence, of `state_bytes_each`: 32 bits unless said otherwise |
    | `convolution_elements` | of one sequence: the last inputs of a short convolution |
    | `low_rank` | (rows, columns) of further matrices, held in full by every device |
    | `small_parameters` | convolutions, biases, decays, norms |
    | `heads` | over which devices can split it |

    A pass reads the state once per sequence and writes it once. A verification of gamma drafts
    writes gamma + 1 states, so that the one of the last accepted token can be kept.
    """

    kind: str
    columns: int
    width: int
    state_elements: int
    convolution_elements: int = 0
    low_rank: tuple[tuple[int, int], ...] = ()
    small_parameters: int = 0
    output_bias: bool = False
    heads: int = 1
    state_bytes_each: float = 4.0
    label: str = ""

    def __post_init__(self) -> None:
        for field in ("columns", "width", "heads"):
            require_size(f"{self.kind}: {field}", getattr(self, field))
        for field in ("state_elements", "convolution_elements", "small_parameters"):
            require_size(f"{self.kind}: {field}", getattr(self, field), least=0)

    @property
    def cached(self) -> int:
        """Elements per token: none, whatever the context."""
        return 0

    def held_bytes(self, activation_bytes: float) -> float:
        """Bytes of one layer's state of a sequence, its convolution in the format of
        activations."""
        state = self.state_elements * self.state_bytes_each
        return state + self.convolution_elements * activation_bytes

    def parameters(self, hidden: int) -> int:
        """Every one of them but the norm in front."""
        matrices = hidden * self.columns + self.width * hidden
        matrices += sum(rows * columns for rows, columns in self.low_rank)
        return matrices + self.small_parameters + (hidden if self.output_bias else 0)


Mixer = Attention | Recurrent


@dataclass(frozen=True, slots=True)
class Mlp:
    """An ordinary MLP, `width` elements wide: gate, up and down, or up and down alone."""

    width: int
    gated: bool = True
    bias: bool = False
    small_parameters: int = 0  # norms of its own

    def parameters(self, hidden: int) -> int:
        """Every one of them but the norm in front."""
        into = (2 if self.gated else 1) * self.width
        biases = into + hidden if self.bias else 0
        return hidden * into + self.width * hidden + biases + self.small_parameters


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: what mixes tokens, what follows, and its norms.

    | field | meaning |
    |---|---|
    | `mixer`, `mlp` | Nemotron-H has one of the two in a layer |
    | `beside` | a second mixer of the same input, whose output is added (Falcon-H1) |
    | `norms` | vectors of the hidden size that norms have |
    | `small_parameters` | scales of residuals and the like |
    | `matrices` | (rows, columns) of further projections |
    | `shared` | uses the weights of an earlier layer: read again, stored once (Zamba) |
    | `streams` | hidden states side by side that the sums work on (hyper-connections) |
    """

    mixer: Mixer | None
    mlp: "Mlp | Experts | None"
    norms: int = 2
    small_parameters: int = 0
    matrices: tuple[tuple[int, int], ...] = ()
    beside: Mixer | None = None
    shared: bool = False
    streams: int = 1

    @property
    def mixers(self) -> tuple[Mixer, ...]:
        """Those that there are: none, one, or two that read the same input."""
        return tuple(each for each in (self.mixer, self.beside) if each is not None)

    @property
    def is_attention(self) -> bool:
        """Whether it is an ordinary layer: attention alone, and an MLP or experts."""
        return [type(each) for each in self.mixers] == [Attention] and self.mlp is not None

    def parameters(self, hidden: int, norm: int, held: int | None = None) -> int:
        """All that the layer stores, counting `held` of its routed experts (None: all)."""
        if self.shared:
            return 0
        total = self.norms * norm + self.small_parameters
        total += sum(rows * columns for rows, columns in self.matrices)
        total += sum(mixer.parameters(hidden) for mixer in self.mixers)
        if isinstance(self.mlp, Experts):
            return total + self.mlp.parameters(hidden, self.mlp.count if held is None else held)
        return total + (self.mlp.parameters(hidden) if self.mlp else 0)
