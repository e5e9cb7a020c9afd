"""What sets each family of models apart: from a config to the fields in which it differs from the
Llama shape. What a hub's file leaves to transformers' defaults is in `DEFAULTS`.
"""

from collections.abc import Callable

from specsim.architecture.fields import Config, Fields
from specsim.architecture.parts import Experts, LatentAttention, layer_numbers
from specsim.checks import SpecsimError, quoted

DEFAULTS: dict[str, Fields] = {
    "gemma": {"tie_word_embeddings": True, "head_dim": 256, "hidden_act": "gelu"},
    "gemma2": {"tie_word_embeddings": True, "head_dim": 256, "sliding_window": 4096}
    | {"hidden_activation": "gelu_pytorch_tanh", "sliding_window_pattern": 2},
    "gemma3_text": {"tie_word_embeddings": True, "head_dim": 256, "sliding_window": 4096}
    | {"num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 262_208}
    | {"hidden_activation": "gelu_pytorch_tanh", "sliding_window_pattern": 6}
    | {"max_position_embeddings": 131_072, "rope_theta": 1e6, "rms_norm_eps": 1e-6},
    "qwen3": {"head_dim": 128},
    "gpt_oss": {"attention_bias": True, "sliding_window_pattern": 2},
    "opt": {"tie_word_embeddings": True, "activation_function": "relu"},
    "gpt2": {"tie_word_embeddings": True, "activation_function": "gelu_new"},
    "phi": {"hidden_act": "gelu_new"},
}


def _llama_biases(c: Config) -> Fields:
    bias = c.flag("attention_bias")
    return {"qkv_bias": bias, "output_bias": bias, "mlp_bias": c.flag("mlp_bias")}


def _qwen2(c: Config) -> Fields:
    """A bias on q, k and v; windows, where they are in use, from layer `max_window_layers` on."""
    first = c.count("max_window_layers")
    window = _window(c, lambda index: index >= first) if c.flag("use_sliding_window") else {}
    return {"qkv_bias": c.flag("qkv_bias", default=True)} | window


def _qwen3(c: Config) -> Fields:
    return _qwen2(c) | _llama_biases(c) | {"qk_norm": True}


def _mixtral(c: Config) -> Fields:
    experts = Experts(
        count=c.size("num_local_experts"),
        per_token=c.size("num_experts_per_tok"),
        intermediate_size=c.size("intermediate_size"),
    )
    return _windows_everywhere(c) | {"experts": experts}


def _qwen_experts(c: Config) -> Experts:
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


def _gemma2(c: Config) -> Fields:
    caps = {
        "attention_softcap": c.get("attn_logit_softcapping"),
        "logit_softcap": c.get("final_logit_softcapping"),
    }
    return caps | {"norms_per_layer": 4} | _alternating(c)


def _gemma3(c: Config) -> Fields:
    return _gemma2(c) | {"qk_norm": True}


def _phi(c: Config) -> Fields:
    """Attention and MLP side by side from one LayerNorm; a bias on everything, the head too."""
    c.refuse("qk_layernorm", False)
    return _all_biased() | {"head_bias": True, "norms_per_layer": 1}


def _gpt_oss(c: Config) -> Fields:
    experts = Experts(
        count=c.size("num_local_experts"),
        per_token=c.size("num_experts_per_tok"),
        intermediate_size=c.size("intermediate_size"),
        router_bias=True,
        biases=True,
    )
    return _llama_biases(c) | _alternating(c) | {"experts": experts, "attention_sinks": True}


def _deepseek(c: Config) -> Fields:
    """MLA; the first layers dense, then experts; V3 corrects their scores, and predicts further."""
    c.refuse("attention_bias", False)
    latent = LatentAttention(
        kv_rank=c.size("kv_lora_rank"),
        rope_size=c.size("qk_rope_head_dim"),
        nope_size=c.size("qk_nope_head_dim"),
        value_size=c.size("v_head_dim"),
        query_rank=c.count("q_lora_rank") or None,
    )
    layers, every = c.size("num_hidden_layers"), c.size("moe_layer_freq", default=1)
    first = c.count("first_k_dense_replace")
    width = c.size("moe_intermediate_size")
    experts = Experts(
        count=c.size("n_routed_experts"),
        per_token=c.size("num_experts_per_tok"),
        intermediate_size=width,
        shared_size=c.count("n_shared_experts") * width,
        router_bias=c.get("model_type") == "deepseek_v3",
        dense_layers=tuple(i for i in range(layers) if i < first or i % every),
    )
    return {
        "num_kv_heads": c.size("num_attention_heads"),
        "head_dim": latent.nope_size + latent.rope_size,
        "latent": latent,
        "experts": experts,
        "mtp_layers": c.count("num_nextn_predict_layers"),
    }


def _all_biased() -> Fields:
    biases = dict.fromkeys(("qkv_bias", "output_bias", "mlp_bias"), True)
    return biases | {"norm": "layer", "gated_mlp": False}


def _opt(c: Config) -> Fields:
    c.refuse("do_layer_norm_before", True)
    c.refuse("word_embed_proj_dim", c.size("hidden_size"))
    c.refuse("enable_bias", True)
    return _all_biased() | {"learned_positions": c.size("max_position_embeddings") + 2}


def _gpt2(c: Config) -> Fields:
    return _all_biased() | {"learned_positions": c.size("n_positions")}


def _windows_everywhere(c: Config) -> Fields:
    return _window(c, lambda index: True)


def _alternating(c: Config) -> Fields:
    """Every `sliding_window_pattern`-th layer sees everything (Gemma, gpt-oss)."""
    period = c.size("sliding_window_pattern", "_sliding_window_pattern")
    return _window(c, lambda index: (index + 1) % period > 0)


def _window(c: Config, slides: Callable[[int], bool]) -> Fields:
    """The window and its layers; none where it is as long as the context the model was made for."""
    if c.get("sliding_window") is None:
        return {}
    window, layers = c.size("sliding_window"), range(c.size("num_hidden_layers"))
    if window >= c.size("max_position_embeddings", default=window + 1):
        return {}
    if (types := c.entries("layer_types")) is not None:
        known = {"sliding_attention", "full_attention"}
        if len(types) != len(layers) or any(kind not in known for kind in types):
            raise SpecsimError(
                f"{c.name}: layer_types must name one of {', '.join(sorted(known))} "
                f"for each of {len(layers)} layers, not {quoted(sorted(set(map(str, types))))} "
                f"for {len(types)}"
            )
        slides = [kind == "sliding_attention" for kind in types].__getitem__
    return {
        "sliding_window": window,
        "sliding_layers": tuple(index for index in layers if slides(index)),
    }


FAMILIES: dict[str, Callable[[Config], Fields]] = {
    "llama": _llama_biases,
    "mistral": _windows_everywhere,
    "mixtral": _mixtral,
    "qwen2": _qwen2,
    "qwen2_moe": lambda c: _qwen2(c) | {"experts": _qwen_experts(c)},
    "qwen3": _qwen3,
    "qwen3_moe": lambda c: _qwen3(c) | {"experts": _qwen_experts(c)},
    "gemma": lambda c: {},
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "phi": _phi,
    "phi3": _windows_everywhere,
    "gpt_oss": _gpt_oss,
    "deepseek_v2": _deepseek,
    "deepseek_v3": _deepseek,
    "opt": _opt,
    "gpt2": _gpt2,
}
