"""A Hugging Face `config.json` -> an `Architecture`, without transformers; and back."""

import re
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from specsim import catalog
from specsim.architecture.families import (
    DEFAULTS,
    FAMILIES,
    SPELLINGS,
    TEXT_OF,
    from_params,
)
from specsim.architecture.fields import Config, Fields
from specsim.architecture.layers import layers_of
from specsim.architecture.parts import Experts, Llama3RopeScaling
from specsim.architecture.quantization import stored_as
from specsim.architecture.shape import Architecture
from specsim.checks import SpecsimError, quoted

_ACTIVATIONS = {"silu": "silu", "swish": "silu", "relu": "relu"} | dict.fromkeys(
    ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "quick_gelu"), "gelu"
)
_ACTIVATIONS |= {"relu2": "relu2", "relu_squared": "relu2", "xielu": "xielu"}
_ACTIVATIONS |= {"swigluoai": "silu", "situ": "silu"}  # of the same cost
_ROPE_TYPES = (
    *("default", "linear", "dynamic", "yarn", "longrope", "su", "llama3", "mrope", "proportional"),
)
# other names of the usual fields
_ALIASES = {
    "hidden_size": ("n_embd", "n_embed", "d_model"),
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("n_head", "n_heads", "num_heads", "attention_heads"),
    "num_key_value_heads": ("num_kv_heads", "num_attention_groups", "multi_query_group_num"),
    "intermediate_size": ("ffn_dim", "n_inner", "ffn_hidden_size"),
    "max_position_embeddings": ("n_positions", "max_seq_len", "seq_length", "model_max_length"),
    "head_dim": ("kv_channels",),
}
# where a multimodal model's config keeps that of its language model
_NESTED = ("text_config", "llm_config", "language_config", "thinker_config")
# what a config must say itself; the rest, where it is silent, is what transformers takes
_SAID = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("intermediate_size", "vocab_size", "sliding_window", "q_lora_rank"),
)


def from_config(
    config: Mapping[str, Any],
    name: str,
    beside: Mapping[str, Any] | None = None,
    like: str | None = None,
) -> Architecture:
    """The Architecture that a Hugging Face `config.json` describes, as transformers 5 spells it or
    as older ones did; of a multimodal model, that of its language model. Mistral's own
    `params.json` is read too.

    Arguments: `beside`, the `hf_quant_config.json` of the same folder, where there is one; `like`,
    the `model_type` whose shape a config of an unknown one has. What such a config says and that
    family does not read is named in `read_as`.

    Raises SpecsimError for an unsupported `model_type`, and for a field that is missing or of the
    wrong kind, naming it.
    """
    whole = config
    if "model_type" not in config and {"dim", "n_layers", "n_heads"} <= set(config):
        config = from_params(Config(config, name))
    config, nested = language_model(config)
    model_type = config.get("model_type")
    if known := isinstance(model_type, str) and model_type in FAMILIES:
        like = None
    elif like is not None:
        model_type, nested = _family(like), False  # no sizes of another family's class are taken
    else:
        raise SpecsimError(f"{name}: {_unknown(model_type)}")
    assert isinstance(model_type, str)
    silent = catalog.load("class_defaults").get(model_type, {}).items()
    said = set(config) | set(() if nested else _SAID)
    taken = {key: value for key, value in silent if key not in said}
    given = _usual_names({key: value for key, value in config.items() if value is not None})
    assumed = DEFAULTS.get(model_type, {})
    if callable(assumed):
        assumed = assumed(Config(taken | given, name))
    spelled = _Heard(taken | assumed | given)
    if model_type in SPELLINGS:
        given = SPELLINGS[model_type](Config(spelled, name)) | given
    heard = _Heard(taken | assumed | given)
    fields = Config(heard, name)
    read = _llama(fields) | FAMILIES[model_type](fields)
    each_layer = read.pop("each_layer", None)
    model = Architecture(**read, name=name)
    if each_layer is not None:
        layers = [each_layer(layer, index) for index, layer in enumerate(layers_of(model))]
        model = replace(model, layers=tuple(layers))
    if not known:
        heard.asked |= spelled.asked
        model = replace(model, read_as=_likeness(config, model_type, heard.asked))
    stored = stored_as(whole, model, beside)
    return model if stored is None else replace(model, stored=stored)


class _Heard(dict[str, Any]):
    """The fields of a config, which remember those that were asked for."""

    def __init__(self, values: Fields) -> None:
        super().__init__(values)
        self.asked: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self.asked.add(str(key))
        return super().__contains__(key)


# what says nothing of a model's parts
_NO_PART = re.compile(
    r"token_id|dropout|pdrop|initializer|_coef|pretraining_tp|_std$|_eps$|version|architectures|"
    r"auto_map|quantization|_token_index|id2label|label2id"
)


def _likeness(config: Mapping[str, Any], family: str, asked: set[str]) -> str:
    """A sentence on a config of an unknown `model_type` that was read as that of a family, and of
    which these fields were asked for."""
    usual = {other for others in _ALIASES.values() for other in others}
    unread = [
        key
        for key, value in config.items()
        if key not in asked | usual and not _NO_PART.search(key)
        if value and isinstance(value, int | float | list | tuple | Mapping) and value is not True
    ]
    unknown = quoted(config.get("model_type"))
    said = f"Read as {family}, because its model_type {unknown} is not known"
    if not unread:
        return f"{said}: parts that this family does not have are not priced."
    more = f" and {len(unread) - 6} more" if len(unread) > 6 else ""
    return f"{said}; not read and not priced: {', '.join(unread[:6])}{more}."


def _family(like: str) -> str:
    """The `model_type` that a reader names; SpecsimError if no family is called so."""
    if not isinstance(like, str) or like not in FAMILIES:
        near = get_close_matches(str(like)[:60], FAMILIES, n=3, cutoff=0.5)
        hint = f"the nearest: {', '.join(near)}" if near else "docs/models.md lists them"
        raise SpecsimError(f"--like {quoted(like)} is no model_type that is known; {hint}")
    return like


def language_model(config: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
    """The config of the language model, and whether it is that of a multimodal one.

    `config` is a whole `config.json`.
    """
    for key in _NESTED:
        text = config.get(key)
        if isinstance(text, Mapping):
            inherited = {k: v for k, v in config.items() if k == "tie_word_embeddings"}
            silent = TEXT_OF.get(str(config.get("model_type")))
            said = {k: v for k, v in text.items() if k != "model_type" or v is not None}
            found = {"model_type": silent} | inherited | said
            return language_model(found)[0], True
    return config, False


def _usual_names(given: Fields) -> Fields:
    """The same fields, and those of other names under the usual ones too."""
    found: Fields = {}
    for usual, others in _ALIASES.items():
        for other in others:
            if other in given and usual not in given:
                found.setdefault(usual, given[other])
    return found | given


def _unknown(model_type: object) -> str:
    near = get_close_matches(str(model_type)[:60], FAMILIES, n=3, cutoff=0.7)
    known = f"{len(FAMILIES)} families are known (docs/models.md)"
    if near:
        known += f", the nearest {', '.join(near)}"
    known += f". If it has the shape of one, name that: --like {near[0] if near else 'llama'}"
    return (
        f"model_type {quoted(model_type)} is not supported; {known}. Another shape is specsim."
        "Architecture(name, hidden_size, num_layers, num_heads, num_kv_heads, head_dim, "
        "intermediate_size, vocab_size, tied_head=…, experts=…, latent=…, layers=…)"
    )


def _llama(c: Config) -> Fields:
    """What most families spell alike."""
    heads, hidden = c.size("num_attention_heads"), c.size("hidden_size")
    layers = c.size("num_hidden_layers")
    activation = c.get("hidden_activation", "hidden_act", "activation_function", "activation")
    activation = activation or "silu"
    if not isinstance(activation, str) or activation not in _ACTIVATIONS:
        raise SpecsimError(
            f"{c.name}: hidden_act {quoted(activation)} is not supported; known: "
            f"{', '.join(_ACTIVATIONS)}"
        )
    rope = c.table("rope_parameters")
    tables = [each for each in rope.values() if isinstance(each, Mapping)]
    first = tables[0] if tables else rope
    rope = Config(rope, c.name).table("full_attention") or first  # one for each type of layer
    norm_eps = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "layernorm_epsilon")
    return {
        "hidden_size": hidden,
        "num_layers": layers,
        "num_heads": heads,
        "num_kv_heads": c.size("num_key_value_heads", default=heads),
        "head_dim": c.size("head_dim", default=hidden // heads),
        "intermediate_size": max(c.sizes(layers, "intermediate_size")),
        "vocab_size": c.size("vocab_size"),
        "tied_head": c.flag("tie_word_embeddings"),
        "max_context": c.size("max_position_embeddings", default=4096),
        "rope_theta": Config(rope, c.name).number(
            "rope_theta", default=c.number("rope_theta", default=10_000.0)
        ),
        "rope_scaling": _rope_scaling(rope or c.table("rope_scaling"), c.name),
        "norm_eps": c.number(*norm_eps, "norm_eps", "norm_epsilon", default=1e-5),
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
