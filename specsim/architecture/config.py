"""A Hugging Face `config.json` -> an `Architecture`, without transformers; and back."""

from collections.abc import Mapping
from typing import Any

from specsim.architecture.families import DEFAULTS, FAMILIES
from specsim.architecture.fields import Config, Fields
from specsim.architecture.parts import Experts, Llama3RopeScaling
from specsim.architecture.shape import Architecture
from specsim.checks import SpecsimError, quoted

_ACTIVATIONS = {"silu": "silu", "swish": "silu", "relu": "relu"} | dict.fromkeys(
    ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "quick_gelu"), "gelu"
)
_ACTIVATIONS |= {"relu2": "relu", "swigluoai": "silu", "situ": "silu"}  # of the same cost
_ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "longrope", "su", "proportional", "llama3")


def from_config(config: Mapping[str, Any], name: str) -> Architecture:
    """The Architecture that a Hugging Face `config.json` describes, as transformers 5 spells it or
    as older ones did; of a multimodal model, that of its language model.

    Raises SpecsimError for an unsupported `model_type`, and for a field that is missing or of the
    wrong kind, naming it.
    """
    text = config.get("text_config")
    if str(config.get("model_type")) not in FAMILIES and isinstance(text, Mapping):
        inherited = {k: v for k, v in config.items() if k == "tie_word_embeddings"}
        config = inherited | dict(text)
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise SpecsimError(
            f"{name}: model_type {quoted(model_type)} is not supported; known: "
            f"{', '.join(FAMILIES)}. Another shape is "
            "specsim.Architecture(name, hidden_size, num_layers, num_heads, num_kv_heads, "
            "head_dim, intermediate_size, vocab_size, tied_head=…, experts=…, latent=…, layers=…)"
        )
    given = {key: value for key, value in config.items() if value is not None}
    defaults = DEFAULTS.get(model_type, {})
    if callable(defaults):
        defaults = defaults(Config(given, name))
    fields = Config(defaults | given, name)
    return Architecture(**(_llama(fields) | FAMILIES[model_type](fields)), name=name)


def _llama(c: Config) -> Fields:
    """What most families spell alike."""
    heads, hidden = c.size("num_attention_heads", "n_head"), c.size("hidden_size", "n_embd")
    activation = c.get("hidden_activation", "hidden_act", "activation_function") or "silu"
    if not isinstance(activation, str) or activation not in _ACTIVATIONS:
        raise SpecsimError(
            f"{c.name}: hidden_act {quoted(activation)} is not supported; known: "
            f"{', '.join(_ACTIVATIONS)}"
        )
    mlp = 4 * hidden if c.get("model_type") == "gpt2" else None  # elsewhere it must be said
    rope = c.table("rope_parameters")
    rope = Config(rope, c.name).table("full_attention") or rope  # Gemma 3: one per type of layer
    return {
        "hidden_size": hidden,
        "num_layers": c.size("num_hidden_layers", "n_layer"),
        "num_heads": heads,
        "num_kv_heads": c.size("num_key_value_heads", default=heads),
        "head_dim": c.size("head_dim", default=hidden // heads),
        "intermediate_size": c.size("intermediate_size", "ffn_dim", "n_inner", default=mlp),
        "vocab_size": c.size("vocab_size"),
        "tied_head": c.flag("tie_word_embeddings"),
        "max_context": c.size(
            "max_position_embeddings", "n_positions", "model_max_length", default=4096
        ),
        "rope_theta": Config(rope, c.name).number(
            "rope_theta", default=c.number("rope_theta", default=10_000.0)
        ),
        "rope_scaling": _rope_scaling(rope or c.table("rope_scaling"), c.name),
        "norm_eps": c.number("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", default=1e-5),
        "activation": _ACTIVATIONS[activation],
    }


def _rope_scaling(rope: Mapping[str, Any], name: str) -> Llama3RopeScaling | str | None:
    rope_type = rope.get("rope_type") or rope.get("type") or "default"
    if rope_type not in _ROPE_TYPES:
        raise SpecsimError(
            f"{name}: rope_type {quoted(rope_type)} is not supported; known: "
            f"{', '.join(_ROPE_TYPES)}"
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
    except SpecsimError as error:
        raise SpecsimError(f"{name}: {error}") from None
    except (TypeError, ValueError, OverflowError):
        raise SpecsimError(
            f"{name}: rope scaling holds no number where it must: {quoted(dict(rope))}"
        ) from None


def to_config(model: Architecture) -> Fields:
    """The `config.json` fields (Llama and Qwen spellings) that `from_config` reads back.

    Raises SpecsimError for a model that is not of the Llama shape, and for a mixture of experts
    that no family spells.
    """
    shape = model.require_llama_shape()
    model_type = "qwen3" if shape.qk_norm else "qwen2" if shape.qkv_bias else "llama"
    experts = {}
    if shape.experts:
        model_type = "mixtral" if model_type == "llama" else f"{model_type}_moe"
        experts = _written_experts(shape, shape.experts, model_type)
    names = {
        "llama": "Llama",
        "mixtral": "Mixtral",
        "qwen2": "Qwen2",
        "qwen2_moe": "Qwen2Moe",
        "qwen3": "Qwen3",
        "qwen3_moe": "Qwen3Moe",
    }
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
    } | experts


def _written_experts(shape: Architecture, experts: Experts, model_type: str) -> Fields:
    count = {"num_local_experts": experts.count, "num_experts_per_tok": experts.per_token}
    if model_type == "mixtral":
        if experts.dense_layers or experts.shared_size or not experts.normalized:
            raise SpecsimError(
                f"{shape.name}: no known family has these experts without a bias on q, k, v or "
                "norms of the heads"
            )
        return count | {"intermediate_size": experts.intermediate_size}
    if bool(experts.shared_size) != (model_type == "qwen2_moe"):
        raise SpecsimError(f"{shape.name}: shared experts and norms of the heads in no one family")
    return count | {
        "num_experts": experts.count,
        "moe_intermediate_size": experts.intermediate_size,
        "shared_expert_intermediate_size": experts.shared_size or None,
        "norm_topk_prob": experts.normalized,
        "mlp_only_layers": list(experts.dense_layers),
        "decoder_sparse_step": 1,
    }
