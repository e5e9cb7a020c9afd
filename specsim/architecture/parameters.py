"""What a shape stores, counted to the last parameter: a matrix is rows x columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from specsim.architecture.parts import Experts, LatentAttention

if TYPE_CHECKING:
    from specsim.architecture.shape import Architecture


def total(shape: Architecture, experts_held: int) -> int:
    """All of a model, counting `experts_held` of the routed experts of each layer."""
    tables = shape.embedding_parameters * (1 if shape.tied_head else 2)
    tables += shape.vocab_size if shape.head_bias else 0
    positions = shape.learned_positions * shape.hidden_size
    layers = (shape.num_layers - shape.expert_layers) * dense_layer(shape)
    if shape.experts:
        layers += shape.expert_layers * expert_layer(shape, shape.experts, experts_held)
    return tables + positions + layers + norm(shape)


def dense_layer(shape: Architecture) -> int:
    """One layer with an ordinary MLP."""
    block = attention(shape) + mlp(shape, shape.intermediate_size, shape.mlp_bias)
    return block + shape.norms_per_layer * norm(shape)


def expert_layer(shape: Architecture, experts: Experts, held: int) -> int:
    """One layer with a mixture of experts, counting `held` of the routed ones."""
    routed = held * mlp(shape, experts.intermediate_size, experts.biases)
    shared = mlp(shape, experts.shared_size, False)
    block = attention(shape) + experts.router_parameters(shape.hidden_size) + routed + shared
    return block + shape.norms_per_layer * norm(shape)


def mtp_module(shape: Architecture) -> int:
    """One more layer, the norms of a hidden state and of an embedding, the projection of both onto
    one, and a last norm (DeepSeek-V3, arXiv:2412.19437, section 2.2)."""
    experts, hidden = shape.experts, shape.hidden_size
    layer = expert_layer(shape, experts, experts.count) if experts else dense_layer(shape)
    return layer + 2 * hidden * hidden + 3 * norm(shape)


def norm(shape: Architecture) -> int:
    return shape.hidden_size * (2 if shape.norm == "layer" else 1)


def mlp(shape: Architecture, width: int, biases: bool) -> int:
    """One MLP, or one expert, `width` elements wide."""
    into = 2 * width if shape.gated_mlp else width
    matrices = shape.hidden_size * into + width * shape.hidden_size
    return matrices + (into + shape.hidden_size if biases else 0)


def attention(shape: Architecture) -> int:
    """All of one layer's attention but the norm in front of it."""
    hidden = shape.hidden_size
    output = shape.value_size * hidden + (hidden if shape.output_bias else 0)
    if shape.latent is not None:
        return latent_attention(shape, shape.latent) + output
    qkv_out = shape.query_size + 2 * shape.kv_size
    weights = hidden * qkv_out + (qkv_out if shape.qkv_bias else 0)
    head_norms = 2 * shape.head_dim if shape.qk_norm else 0
    return weights + head_norms + output + (shape.num_heads if shape.attention_sinks else 0)


def latent_attention(shape: Architecture, latent: LatentAttention) -> int:
    """MLA but for its output: queries down and up with a norm between, the latent down and up."""
    hidden, rank = shape.hidden_size, latent.query_rank
    down_and_norm = (hidden + 1) * rank if rank else 0
    queries = down_and_norm + (rank or hidden) * shape.query_size
    cached = hidden * latent.cached + latent.kv_rank
    up = latent.kv_rank * shape.num_heads * (latent.nope_size + latent.value_size)
    return queries + cached + up
