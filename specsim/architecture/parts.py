"""The parts of a model that have a type of their own."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

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
