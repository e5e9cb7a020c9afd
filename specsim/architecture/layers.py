"""A model as a list of layers: written out for those whose layers differ in kind, and made from the
fields of an `Architecture` for all others."""

from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

from specsim.architecture.parts import Attention, Experts, Layer, Mixer, Mlp

if TYPE_CHECKING:
    from specsim.architecture.shape import Architecture

Part = TypeVar("Part")
SLIDING = "sliding"  # the label of layers with a window, where others have none


@lru_cache(maxsize=64)
def layers_of(model: "Architecture") -> tuple[Layer, ...]:
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


def _attention(model: "Architecture", slides: bool) -> Attention:
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
def mixers_of(model: "Architecture") -> tuple[tuple[Mixer, int], ...]:
    """What mixes tokens, each kind with the number of its layers, in the order in which they first
    come; without a window before with one."""
    found = _counted([layer.mixer for layer in layers_of(model) if layer.mixer is not None])
    reach = {mixer: isinstance(mixer, Attention) and mixer.reach is not None for mixer, _ in found}
    return tuple(sorted(found, key=lambda pair: reach[pair[0]]))


@lru_cache(maxsize=64)
def mlps_of(model: "Architecture") -> tuple[tuple[Mlp | Experts, int], ...]:
    """MLPs, then mixtures of experts, each kind with the number of its layers."""
    found = _counted([layer.mlp for layer in layers_of(model) if layer.mlp is not None])
    return tuple(sorted(found, key=lambda pair: isinstance(pair[0], Experts)))


def _counted(parts: list[Part]) -> list[tuple[Part, int]]:
    return list(Counter(parts).items())


def halves_of(model: "Architecture") -> int:
    """Mixers and MLPs, counted singly: two in an ordinary layer."""
    return sum((layer.mixer is not None) + (layer.mlp is not None) for layer in layers_of(model))
