"""Qwen 2 and 3, dense and with experts."""

from specsim.architecture.families.common import Reader, llama_biases, window
from specsim.architecture.fields import Config, Fields
from specsim.architecture.parts import Experts, layer_numbers

DEFAULTS: dict[str, Fields] = {
    "qwen3": {"head_dim": 128},
}


def _qwen2(c: Config) -> Fields:
    """A bias on q, k and v; windows, where they are in use, from layer `max_window_layers` on."""
    first = c.count("max_window_layers")
    slides = window(c, lambda index: index >= first) if c.flag("use_sliding_window") else {}
    return {"qkv_bias": c.flag("qkv_bias", default=True)} | slides


def _qwen3(c: Config) -> Fields:
    return _qwen2(c) | llama_biases(c) | {"qk_norm": True}


def qwen_experts(c: Config) -> Experts:
    """The experts of all Qwen models, with a gated shared one where there is any."""
    layers, every = c.size("num_hidden_layers"), c.size("decoder_sparse_step", default=1)
    plain = set(layer_numbers(f"{c.name}: mlp_only_layers", c.entries("mlp_only_layers") or ()))
    shared = c.count("shared_expert_intermediate_size")
    return Experts(
        count=c.size("num_experts", "num_local_experts"),  # transformers 4, transformers 5
        per_token=c.size("num_experts_per_tok"),
        intermediate_size=c.size("moe_intermediate_size"),
        shared_size=shared,
        shared_gate=bool(shared),
        normalized=c.flag("norm_topk_prob"),
        dense_layers=tuple(i for i in range(layers) if i in plain or (i + 1) % every),
    )


FAMILIES: dict[str, Reader] = {
    "qwen2": _qwen2,
    "qwen2_vl": _qwen2,
    "qwen2_vl_text": _qwen2,
    "qwen2_5_vl": _qwen2,
    "qwen2_5_vl_text": _qwen2,
    "qwen2_5_omni_text": _qwen2,
    "qwen2_moe": lambda c: _qwen2(c) | {"experts": qwen_experts(c)},
    "qwen3": _qwen3,
    "qwen3_vl_text": _qwen3,
    "qwen3_vl_moe_text": lambda c: _qwen3(c) | {"experts": qwen_experts(c)},
    "qwen3_omni_moe_text": lambda c: _qwen3(c) | {"experts": qwen_experts(c)},
    "qwen3_moe": lambda c: _qwen3(c) | {"experts": qwen_experts(c)},
}
