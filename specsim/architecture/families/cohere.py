"""Cohere's Command: attention and MLP side by side from one LayerNorm without a bias."""

from specsim.architecture.families.common import (
    Reader,
    alternating,
    experts,
    llama_biases,
    mlp_with,
    norms_over_all_heads,
)
from specsim.architecture.fields import Config, Fields

DEFAULTS: dict[str, Fields] = {
    "cohere": {"tie_word_embeddings": True},
    "cohere2": {"tie_word_embeddings": True, "sliding_window_pattern": 4},
    "cohere2_moe": {"tie_word_embeddings": True, "sliding_window_pattern": 4},
}


def _cohere(c: Config) -> Fields:
    normed = {"each_layer": norms_over_all_heads(c)} if c.flag("use_qk_norm") else {}
    return llama_biases(c) | {"norm": "layer without bias", "norms_per_layer": 1} | normed


def _cohere2(c: Config) -> Fields:
    return _cohere(c) | alternating(c)


def _cohere2_experts(c: Config) -> Fields:
    """The first layers may be dense, of a width of their own."""
    width = c.size("intermediate_size")
    shared = c.count("num_shared_experts") * width
    mixture = experts(c, intermediate_size=width, shared_size=shared)
    dense = mlp_with(width=c.size("prefix_dense_intermediate_size", default=width))
    return _cohere2(c) | {"experts": mixture, "each_layer": dense}


FAMILIES: dict[str, Reader] = {
    "cohere": _cohere,
    "cohere2": _cohere2,
    "cohere2_moe": _cohere2_experts,
}
