"""Models of before Llama, and those that kept their shape: LayerNorm, an MLP without a gate."""

from specsim.architecture.families.common import (
    Reader,
    all_biased,
    attention_with,
    biased_everywhere,
    four_times_hidden,
    head_size,
    window,
    windows_everywhere,
)
from specsim.architecture.fields import Config, Fields
from specsim.architecture.parts import Layer
from specsim.checks import SpecsimError

DEFAULTS: dict[str, Fields] = {
    "bloom": {"tie_word_embeddings": True, "hidden_act": "gelu"},
    "mpt": {"tie_word_embeddings": True, "hidden_act": "gelu"},
    "gpt_neo": {"tie_word_embeddings": True},
    "gpt_bigcode": {"tie_word_embeddings": True},
    "biogpt": {"tie_word_embeddings": True, "hidden_act": "gelu"},
    "xglm": {"tie_word_embeddings": True},
}


def _gpt_neox(c: Config) -> Fields:
    bias = c.flag("attention_bias")
    return all_biased() | {"qkv_bias": bias, "output_bias": bias}


def _gptj(c: Config) -> Fields:
    """Attention without biases and the MLP, side by side from one norm; a bias on the head."""
    biases = {"qkv_bias": False, "output_bias": False, "head_bias": True}
    return all_biased() | biases | {"norms_per_layer": 1}


def _gpt_neo(c: Config) -> Fields:
    """Every other layer looks back at 256 tokens; a bias on the output, none on q, k and v."""
    layers = c.size("num_hidden_layers")
    positions = {"learned_positions": c.size("max_position_embeddings"), "qkv_bias": False}
    kinds = c.each(layers, "attention_layers") or ["global", "local"] * layers
    local = {"sliding_window": c.get("window_size"), "num_hidden_layers": layers}
    windows = window(Config(local, c.name), lambda index: kinds[index] == "local")
    return all_biased() | positions | windows


def _spelled_neo(c: Config) -> Fields:
    """`attention_types` lists patterns and how often each comes: [[["global", "local"], 12]]."""
    kinds: list[object] = []
    for pair in c.entries("attention_types") or ():
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not isinstance(pair[0], list):
            raise SpecsimError(f"{c.name}: attention_types must hold pairs of a list and a number")
        kinds += pair[0] * Config({"times": pair[1]}, c.name).size("times")
    return four_times_hidden(c) | ({"attention_layers": kinds} if kinds else {})


def _spelled_bigcode(c: Config) -> Fields:
    heads = 1 if c.flag("multi_query", default=True) else c.size("num_attention_heads")
    return four_times_hidden(c) | {"num_key_value_heads": heads}


def _bloom(c: Config) -> Fields:
    """A norm of the embedding too; no positions but a slope of the scores (ALiBi)."""
    return all_biased() | {"small_parameters": 2 * c.size("hidden_size")}


def _spelled_mpt(c: Config) -> Fields:
    width = c.size("expansion_ratio", default=4) * c.size("hidden_size")
    return {
        "intermediate_size": width,
        "num_key_value_heads": c.table("attn_config").get("kv_n_heads"),
    }


def _mpt(c: Config) -> Fields:
    """No bias anywhere, norms included; slopes of the scores (ALiBi)."""
    c.refuse("no_bias", True)
    return {"norm": "layer without bias", "gated_mlp": False}


def _starcoder2(c: Config) -> Fields:
    biases = biased_everywhere(c.flag("use_bias", default=True))
    return biases | {"norm": "layer", "gated_mlp": False} | windows_everywhere(c)


def _stablelm(c: Config) -> Fields:
    """LayerNorm and a gated MLP; one norm a layer where attention and MLP are side by side."""
    norms = 1 if c.flag("use_parallel_residual") else 2
    found = {"norm": "layer", "norms_per_layer": norms, "qkv_bias": c.flag("use_qkv_bias")}
    if not c.flag("qk_layernorm"):
        return found
    heads = c.size("num_attention_heads")
    each = (heads + c.size("num_key_value_heads", default=heads)) * head_size(c)
    return found | {"each_layer": attention_with(norm_elements=each)}


def _biogpt(c: Config) -> Fields:
    return all_biased() | {"learned_positions": c.size("max_position_embeddings") + 2}


def _spelled_neox_japanese(c: Config) -> Fields:
    return {
        "intermediate_size": c.size("intermediate_multiple_size", default=4) * c.size("hidden_size")
    }


def _neox_japanese(c: Config) -> Fields:
    """No biases but one, on the output of the last layer's attention."""
    last = c.size("num_hidden_layers") - 1

    def change(layer: Layer, index: int) -> Layer:
        return attention_with(output_bias=index == last)(layer, index)

    return {"norm": "layer", "gated_mlp": False, "each_layer": change}


def _persimmon(c: Config) -> Fields:
    if not c.flag("qk_layernorm", default=True):
        return all_biased()
    return all_biased() | {"each_layer": attention_with(norm_elements=4 * head_size(c))}


SPELLINGS: dict[str, Reader] = {
    "bloom": four_times_hidden,
    "mpt": _spelled_mpt,
    "gptj": four_times_hidden,
    "codegen": four_times_hidden,
    "gpt_neo": _spelled_neo,
    "gpt_bigcode": _spelled_bigcode,
    "gpt_neox_japanese": _spelled_neox_japanese,
}
FAMILIES: dict[str, Reader] = {
    "gpt_neox": _gpt_neox,
    "gptj": _gptj,
    "codegen": _gptj,
    "gpt_neo": _gpt_neo,
    "gpt_bigcode": lambda c: (
        all_biased() | {"learned_positions": c.size("max_position_embeddings")}
    ),
    "gpt_neox_japanese": _neox_japanese,
    "biogpt": _biogpt,
    "xglm": lambda c: all_biased(),
    "bloom": _bloom,
    "mpt": _mpt,
    "starcoder2": _starcoder2,
    "stablelm": _stablelm,
    "persimmon": _persimmon,
}
