"""A Hugging Face `config.json` -> an `Architecture`, family by family, without transformers.

A family is a function from the config to the fields in which it differs from the Llama shape. What
a hub's file leaves to transformers' defaults is in `_DEFAULTS`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from specsim.architecture.shape import (
    Architecture,
    Experts,
    LatentAttention,
    Llama3RopeScaling,
    require_size,
)
from specsim.catalog import SpecsimError

Fields = dict[str, Any]

_ACTIVATIONS = {"silu": "silu", "swish": "silu", "relu": "relu"} | dict.fromkeys(
    ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "quick_gelu"), "gelu"
)
_ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "longrope", "su", "llama3")
_DEFAULTS: dict[str, Fields] = {
    "gemma": {"tie_word_embeddings": True, "head_dim": 256, "hidden_act": "gelu"},
    "gemma2": {"tie_word_embeddings": True, "head_dim": 256, "sliding_window": 4096}
    | {"hidden_activation": "gelu_pytorch_tanh", "sliding_window_pattern": 2},
    "gemma3_text": {"tie_word_embeddings": True, "head_dim": 256, "sliding_window": 4096}
    | {"num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 262_208}
    | {"hidden_activation": "gelu_pytorch_tanh", "sliding_window_pattern": 6}
    | {"max_position_embeddings": 131_072, "rope_theta": 1e6, "rms_norm_eps": 1e-6},
    "gpt_oss": {"attention_bias": True, "sliding_window_pattern": 2},
    "opt": {"tie_word_embeddings": True, "activation_function": "relu"},
    "gpt2": {"tie_word_embeddings": True, "activation_function": "gelu_new"},
    "phi": {"hidden_act": "gelu_new"},
}


class Config:
    """The values of a config with their names: what is missing or of the wrong kind is refused."""

    def __init__(self, values: Mapping[str, Any], name: str) -> None:
        self.values, self.name = values, name

    def get(self, *keys: str) -> Any:
        """The first of several spellings that is there and not null."""
        return next((self.values[k] for k in keys if self.values.get(k) is not None), None)

    def size(self, *keys: str, default: int | None = None) -> int:
        value = self.get(*keys)
        if value is None:
            if default is None:
                raise SpecsimError(f"{self.name}: config.json lacks the field {keys[0]!r}")
            return default
        require_size(f"{self.name}: {keys[0]}", value)
        return value

    def number(self, *keys: str, default: float) -> float:
        value = self.get(*keys)
        value = default if value is None else value
        if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
            raise SpecsimError(f"{self.name}: {keys[0]} must be a number above 0, not {value!r}")
        return float(value)

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.get(key)
        return default if value is None else bool(value)

    def refuse(self, key: str, *allowed: object) -> None:
        """SpecsimError where `key` is set to anything else."""
        if (value := self.values.get(key)) is not None and value not in allowed:
            known = ", ".join(map(repr, allowed))
            raise SpecsimError(f"{self.name}: {key} {value!r} is not supported; known: {known}")


def read(config: Mapping[str, Any], name: str) -> Architecture:
    """The Architecture that a config describes; of a multimodal model, that of its language model.

    Raises SpecsimError for an unsupported `model_type`, and for a field that is missing or of the
    wrong kind, naming it.
    """
    model_type = config.get("model_type")
    if model_type not in _FAMILIES and isinstance(text := config.get("text_config"), Mapping):
        inherited = {k: v for k, v in config.items() if k == "tie_word_embeddings"}
        config = inherited | dict(text)
        model_type = config.get("model_type")
    if model_type not in _FAMILIES:
        raise SpecsimError(
            f"{name}: model_type {model_type!r} is not supported; known: {', '.join(_FAMILIES)}. "
            "Another shape is specsim.Architecture(name, hidden_size, num_layers, num_heads, "
            "num_kv_heads, head_dim, intermediate_size, vocab_size, tied_head=…, experts=…, "
            "latent=…)"
        )
    given = {key: value for key, value in config.items() if value is not None}
    fields = Config(_DEFAULTS.get(model_type, {}) | given, name)
    return Architecture(**(_llama(fields) | _FAMILIES[model_type](fields)), name=name)


def _llama(c: Config) -> Fields:
    """What most families spell alike."""
    heads, hidden = c.size("num_attention_heads", "n_head"), c.size("hidden_size", "n_embd")
    activation = c.get("hidden_activation", "hidden_act", "activation_function") or "silu"
    if activation not in _ACTIVATIONS:
        raise SpecsimError(
            f"{c.name}: hidden_act {activation!r} is not supported; known: "
            f"{', '.join(_ACTIVATIONS)}"
        )
    mlp = 4 * hidden if c.get("model_type") == "gpt2" else None  # elsewhere it must be said
    rope = c.get("rope_parameters") or {}
    rope = rope.get("full_attention", rope)  # Gemma 3: one for each type of layer
    return {
        "hidden_size": hidden,
        "num_layers": c.size("num_hidden_layers", "n_layer"),
        "num_heads": heads,
        "num_kv_heads": c.get("num_key_value_heads") or heads,
        "head_dim": c.get("head_dim") or hidden // heads,
        "intermediate_size": c.size("intermediate_size", "ffn_dim", "n_inner", default=mlp),
        "vocab_size": c.size("vocab_size"),
        "tied_head": c.flag("tie_word_embeddings"),
        "max_context": c.get("max_position_embeddings", "n_positions") or 4096,
        "rope_theta": Config(rope, c.name).number(
            "rope_theta", default=c.number("rope_theta", default=10_000.0)
        ),
        "rope_scaling": _rope_scaling(rope or c.get("rope_scaling") or {}, c.name),
        "norm_eps": c.number("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", default=1e-5),
        "activation": _ACTIVATIONS[activation],
    }


# ------------------------------------------------------------------------------------- families


def _llama_biases(c: Config) -> Fields:
    bias = c.flag("attention_bias")
    return {"qkv_bias": bias, "output_bias": bias, "mlp_bias": c.flag("mlp_bias")}


def _qwen2(c: Config) -> Fields:
    """A bias on q, k and v; windows, where they are in use, from layer `max_window_layers` on."""
    first = c.get("max_window_layers") or 0
    window = _window(c, lambda index: index >= first) if c.flag("use_sliding_window") else {}
    return {"qkv_bias": True} | window


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
    plain = set(c.get("mlp_only_layers") or ())
    shared = c.get("shared_expert_intermediate_size") or 0
    return Experts(
        count=c.size("num_experts"),
        per_token=c.size("num_experts_per_tok"),
        intermediate_size=c.size("moe_intermediate_size"),
        shared_size=shared,
        shared_gate=bool(shared),
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
        query_rank=c.get("q_lora_rank"),
    )
    layers, every = c.size("num_hidden_layers"), c.size("moe_layer_freq", default=1)
    first = c.get("first_k_dense_replace") or 0
    width = c.size("moe_intermediate_size")
    experts = Experts(
        count=c.size("n_routed_experts"),
        per_token=c.size("num_experts_per_tok"),
        intermediate_size=width,
        shared_size=(c.get("n_shared_experts") or 0) * width,
        router_bias=c.get("model_type") == "deepseek_v3",
        dense_layers=tuple(i for i in range(layers) if i < first or i % every),
    )
    return {
        "num_kv_heads": c.size("num_attention_heads"),
        "head_dim": latent.nope_size + latent.rope_size,
        "latent": latent,
        "experts": experts,
        "mtp_layers": c.get("num_nextn_predict_layers") or 0,
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


# ----------------------------------------------------------------------------- windows and rope


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
    if window >= (c.get("max_position_embeddings") or window + 1):
        return {}
    if (types := c.get("layer_types")) is not None:
        known = {"sliding_attention", "full_attention"}
        if len(types) != len(layers) or not set(types) <= known:
            raise SpecsimError(
                f"{c.name}: layer_types must name one of {', '.join(sorted(known))} "
                f"for each of {len(layers)} layers, not {sorted(set(types))} for {len(types)}"
            )
        slides = [kind == "sliding_attention" for kind in types].__getitem__
    return {
        "sliding_window": window,
        "sliding_layers": tuple(index for index in layers if slides(index)),
    }


def _rope_scaling(rope: Mapping[str, Any], name: str) -> Llama3RopeScaling | str | None:
    rope_type = rope.get("rope_type") or rope.get("type") or "default"
    if rope_type not in _ROPE_TYPES:
        raise SpecsimError(
            f"{name}: rope_type {rope_type!r} is not supported; known: {', '.join(_ROPE_TYPES)}"
        )
    if rope_type == "default":
        return None
    if rope_type != "llama3":
        return str(rope_type)
    try:
        return Llama3RopeScaling(
            factor=float(rope["factor"]),
            low_freq_factor=float(rope["low_freq_factor"]),
            high_freq_factor=float(rope["high_freq_factor"]),
            original_context=int(rope["original_max_position_embeddings"]),
        )
    except KeyError as missing:
        raise SpecsimError(f"{name}: rope scaling lacks the field {missing}") from None
    except (TypeError, ValueError) as error:
        raise SpecsimError(f"{name}: rope scaling holds no number where it must: {error}") from None


_FAMILIES: dict[str, Callable[[Config], Fields]] = {
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


# -------------------------------------------------------------------------------- and back again


def written(shape: Architecture) -> Fields:
    """The config of an Architecture of the Llama shape, which `read` reads back."""
    model_type = "qwen3" if shape.qk_norm else "qwen2" if shape.qkv_bias else "llama"
    names = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}
    rope: Fields = {"rope_type": "default", "rope_theta": shape.rope_theta}
    if isinstance(scaling := shape.rope_scaling, Llama3RopeScaling):
        rope |= {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_context,
        }
    return {
        "architectures": [f"{names[model_type]}ForCausalLM"],
        "model_type": model_type,
        "hidden_act": "silu",
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocab_size,
        "tie_word_embeddings": shape.tied_head,
        "max_position_embeddings": shape.max_context,
        "rms_norm_eps": shape.norm_eps,
        # both spellings, so that readers older and newer than transformers 5 agree
        "rope_theta": shape.rope_theta,
        "rope_scaling": rope if shape.rope_scaling else None,
        "rope_parameters": rope,
    }
