"""A model as a list of layers, and what follows from it: its sizes, and every stored parameter,
counted to the last one (a matrix is rows x columns).

The layers are written out for models whose layers differ in kind, and made from the fields of an
`Architecture` for all others.
"""

from collections import Counter
from functools import lru_cache
from typing import TypeVar

from specsim.architecture.parts import (
    Attention,
    Experts,
    LatentAttention,
    Layer,
    Mixer,
    Mlp,
    Recurrent,
)

Part = TypeVar("Part")
SLIDING = "sliding"  # the label of layers with a window, where others have none


@lru_cache(maxsize=64)
def layers_of(model: "Sizes") -> tuple[Layer, ...]:
    """Every layer, first to last."""
    if model.layers:
        return model.layers
    dense = Mlp(model.intermediate_size, model.gated_mlp, model.mlp_bias)
    plain = frozenset(model.experts.dense_layers) if model.experts else frozenset()
    return tuple(
        Layer(
            _attention(model, index in model.sliding_layers),
            dense if model.experts is None or index in plain else model.experts,
            model.norms_per_layer,
        )
        for index in range(model.num_layers)
    )


def _attention(model: "Sizes", slides: bool) -> Attention:
    return Attention(
        num_heads=model.num_heads,
        num_kv_heads=model.num_kv_heads,
        head_dim=model.head_dim,
        window=model.sliding_window if slides else None,
        bias=model.qkv_bias,
        output_bias=model.output_bias,
        norm_elements=2 * model.head_dim if model.qk_norm else 0,
        sinks=model.attention_sinks,
        latent=model.latent,
        label=SLIDING if slides else "",
    )


@lru_cache(maxsize=64)
def kinds_of(model: "Sizes") -> tuple[tuple[Layer, int], ...]:
    """The kinds of layers, each with their number, in the order in which they first come."""
    return tuple(_counted(list(layers_of(model))))


@lru_cache(maxsize=64)
def mixers_of(model: "Sizes") -> tuple[tuple[Mixer, int], ...]:
    """What mixes tokens, each kind with the number of its layers, in the order in which they first
    come; without a window before with one."""
    found = _counted([mixer for layer in layers_of(model) for mixer in layer.mixers])
    reach = {mixer: isinstance(mixer, Attention) and mixer.reach is not None for mixer, _ in found}
    return tuple(sorted(found, key=lambda pair: reach[pair[0]]))


@lru_cache(maxsize=64)
def mlps_of(model: "Sizes") -> tuple[tuple[Mlp | Experts, int], ...]:
    """MLPs, then mixtures of experts, each kind with the number of its layers."""
    found = _counted([layer.mlp for layer in layers_of(model) if layer.mlp is not None])
    return tuple(sorted(found, key=lambda pair: isinstance(pair[0], Experts)))


def _counted(parts: list[Part]) -> list[tuple[Part, int]]:
    return list(Counter(parts).items())


@lru_cache(maxsize=64)
def halves_of(model: "Sizes") -> int:
    """Mixers and MLPs, counted singly: two in an ordinary layer."""
    return sum(len(layer.mixers) + (layer.mlp is not None) for layer in layers_of(model))


class Sizes:
    """Sizes and parameter counts of a model, computed from the fields that `Architecture` has."""

    __slots__ = ("_hash",)

    _hash: int

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    qkv_bias: bool
    qk_norm: bool
    gated_mlp: bool
    output_bias: bool
    mlp_bias: bool
    attention_sinks: bool
    sliding_window: int | None
    sliding_layers: tuple[int, ...]
    layers: tuple[Layer, ...]
    vocab_size: int
    tied_head: bool
    norm: str
    norms_per_layer: int
    head_bias: bool
    learned_positions: int
    experts: Experts | None
    latent: LatentAttention | None
    mtp_layers: int
    mtp_layer: Layer | None
    gathered_parameters: int
    other_parameters: int
    small_parameters: int

    # ------------------------------------------------------------------------- sizes of a layer

    @property
    def query_size(self) -> int:
        """Elements of the queries of all heads together."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Elements of K (and as many of V) that one layer caches per token, uncompressed."""
        return self.num_kv_heads * self.head_dim

    @property
    def value_size(self) -> int:
        """Elements of the output of all heads together, before the output projection."""
        return self.num_heads * (self.latent.value_size if self.latent else self.head_dim)

    @property
    def kv_elements_per_layer(self) -> int:
        """Elements that a layer of attention caches per token: K and V, or the latent of MLA."""
        return self.latent.cached if self.latent else 2 * self.kv_size

    @property
    def kv_elements_per_token(self) -> int:
        """Over all layers; times the bytes of an element it is what a token adds to the cache."""
        return sum(mixer.cached * count for mixer, count in mixers_of(self))

    @property
    def state_bytes(self) -> float:
        """Bytes of recurrent states that a sequence holds whatever its length: states in 32 bits
        and convolutions in 16. 0 for a model of attention alone."""
        return sum(
            count * mixer.held_bytes(2.0)
            for mixer, count in mixers_of(self)
            if isinstance(mixer, Recurrent)
        )

    @property
    def expert_layers(self) -> int:
        """Layers with a mixture of experts."""
        return sum(isinstance(layer.mlp, Experts) for layer in layers_of(self))

    # ------------------------------------------------------------------------------- parameters

    @property
    def parameters(self) -> int:
        """Every stored parameter; a tied head is counted once, MTP modules not at all."""
        return self._total(active=False)

    @property
    def active_parameters(self) -> int:
        """Those less the experts that a token does not visit; the embedding is counted."""
        return self._total(active=True)

    @property
    def embedding_parameters(self) -> int:
        """Of the table of tokens."""
        return self.vocab_size * self.hidden_size

    @property
    def mtp_parameters(self) -> int:
        """Of the modules for multi-token prediction, without the tables that they share.

        A module is one more layer, the norms of a hidden state and of an embedding, the projection
        of both onto one, and a last norm (DeepSeek-V3, arXiv:2412.19437, section 2.2).
        """
        hidden = self.hidden_size
        layer = self.mtp_layer or layers_of(self)[-1]
        one = layer.parameters(hidden, self._norm) + 2 * hidden * hidden + 3 * self._norm
        return self.mtp_layers * one

    def _total(self, active: bool) -> int:
        """All of a model; of the routed experts of a layer all, or those that a token visits."""
        tables = self.embedding_parameters * (1 if self.tied_head else 2)
        tables += self.vocab_size if self.head_bias else 0
        positions = self.learned_positions * self.hidden_size
        layers = 0
        for layer, count in kinds_of(self):
            held = layer.mlp.per_token if active and isinstance(layer.mlp, Experts) else None
            layers += count * layer.parameters(self.hidden_size, self._norm, held)
        others = self.gathered_parameters + self.other_parameters + self.small_parameters
        return tables + positions + layers + self._norm + others

    @property
    def _norm(self) -> int:
        return self.hidden_size * {"layer": 2, "none": 0}.get(self.norm, 1)
