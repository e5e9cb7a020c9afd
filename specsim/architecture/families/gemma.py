"""Gemma: windows in most layers, four norms, soft caps; a table of embeddings more in 3n."""

from dataclasses import replace

from specsim.architecture.families.common import Reader, alternating, window
from specsim.architecture.fields import Config, Fields
from specsim.architecture.parts import Attention, Experts, Layer, Mlp

DEFAULTS: dict[str, Fields] = {
    "gemma": {"tie_word_embeddings": True, "head_dim": 256, "hidden_act": "gelu"},
    "gemma2": {"tie_word_embeddings": True, "head_dim": 256, "sliding_window": 4096}
    | {"hidden_activation": "gelu_pytorch_tanh", "sliding_window_pattern": 2},
    "gemma3_text": {"tie_word_embeddings": True, "head_dim": 256, "sliding_window": 4096}
    | {"num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 262_208}
    | {"hidden_activation": "gelu_pytorch_tanh", "sliding_window_pattern": 6}
    | {"max_position_embeddings": 131_072, "rope_theta": 1e6, "rms_norm_eps": 1e-6},
    "vaultgemma": {"tie_word_embeddings": True, "sliding_window_pattern": 2},
    "gemma3n_text": {"tie_word_embeddings": True},
    "gemma4_text": {"tie_word_embeddings": True},
    "gemma4_unified_text": {"tie_word_embeddings": True},
}


def _biases(c: Config) -> Fields:
    bias = c.flag("attention_bias")
    return {"qkv_bias": bias, "output_bias": bias}


def _caps(c: Config) -> Fields:
    return {
        "attention_softcap": c.get("attn_logit_softcapping"),
        "logit_softcap": c.get("final_logit_softcapping"),
    }


def _gemma2(c: Config) -> Fields:
    return _biases(c) | _caps(c) | {"norms_per_layer": 4} | alternating(c)


def _gemma3(c: Config) -> Fields:
    return _gemma2(c) | {"qk_norm": True}


def _vaultgemma(c: Config) -> Fields:
    return _biases(c) | _caps(c) | alternating(c)


def _gemma3n(c: Config) -> Fields:
    """Four residual streams (AltUp), a low-rank path beside attention (LAuReL), a table of further
    embeddings that each layer reads a part of, and last layers that share keys and values."""
    hidden, layers = c.size("hidden_size"), c.size("num_hidden_layers")
    streams, rank = c.size("altup_num_inputs"), c.size("laurel_rank")
    part = c.size("hidden_size_per_layer_input")
    widths = c.sizes(layers, "intermediate_size")
    shared = layers - c.count("num_kv_shared_layers")
    # LAuReL's norm, that of the further embedding, AltUp's norm and scale; its router and two maps
    small = 4 * hidden + streams * hidden + streams * streams * (1 + streams)
    matrices = ((hidden, rank), (rank, hidden), (hidden, part), (part, hidden))

    def change(layer: Layer, index: int) -> Layer:
        return replace(
            _sharing(layer, index >= shared),
            mlp=Mlp(widths[index]),
            small_parameters=small,
            matrices=matrices,
        )

    between_streams = 2 * (streams - 1) * hidden * hidden
    tables = _further_embeddings(c, part)
    tables["other_parameters"] += between_streams
    windows = window(c, lambda index: (index + 1) % 5 > 0)
    fields = _biases(c) | _caps(c) | windows | tables
    return fields | {"norms_per_layer": 4, "qk_norm": True, "each_layer": change}


def _further_embeddings(c: Config, part: int) -> Fields:
    """A table with `part` elements for each layer and token, and the projection that joins it."""
    wide = c.size("num_hidden_layers") * part
    return {
        "gathered_parameters": c.size("vocab_size_per_layer_input") * wide,
        "other_parameters": c.size("hidden_size") * wide,
        "small_parameters": part,
    }


def _sharing(layer: Layer, shares: bool) -> Layer:
    """The layer with the keys and values of an earlier one: a norm of the queries alone is left."""
    if not shares:
        return layer
    assert isinstance(layer.mixer, Attention)
    size = layer.mixer.head_dim
    return replace(layer, mixer=replace(layer.mixer, shares_cache=True, norm_elements=size))


def _gemma4(c: Config) -> Fields:
    """Full layers have larger heads than windowed ones, may have fewer KV heads, and may make
    values of the keys; last layers may share keys and values; experts beside an ordinary MLP."""
    hidden, layers = c.size("hidden_size"), c.size("num_hidden_layers")
    shared = layers - c.count("num_kv_shared_layers")
    windows = window(c, lambda index: (index + 1) % 6 > 0)
    slides = tuple(index for index in windows.get("sliding_layers", ()) if index < layers - 1)
    windows |= {"sliding_layers": slides} if slides else {}  # the last one always sees everything
    part = c.count("hidden_size_per_layer_input")
    same = c.flag("attention_k_eq_v")
    kv_heads = c.size("num_key_value_heads")
    full_kv_heads = c.size("num_global_key_value_heads", default=kv_heads) if same else kv_heads
    table = c.inner("per_layer_config")
    overrides = {int(key): table.inner(key) for key in table.values if str(key).isdecimal()}
    mixture = _gemma4_experts(c) if c.flag("enable_moe_block") else None

    def change(layer: Layer, index: int) -> Layer:
        attention = layer.mixer
        assert isinstance(attention, Attention)
        if index not in slides:
            said = overrides.get(index, Config({}, c.name))
            size = said.size("head_dim", default=c.size("global_head_dim", default=512))
            attention = replace(
                attention,
                head_dim=size,
                num_kv_heads=said.size("num_key_value_heads", default=full_kv_heads),
                norm_elements=2 * size,
                value_is_key=same,
            )
        double = c.flag("use_double_wide_mlp") and index >= shared
        width = c.size("intermediate_size") * (2 if double else 1)
        layer = replace(layer, mixer=attention, mlp=mixture or Mlp(width))
        if mixture:
            layer = replace(layer, norms=7)
        if part:
            pair = ((hidden, part), (part, hidden))
            layer = replace(layer, norms=layer.norms + 1, matrices=pair)
        return _sharing(layer, index >= shared)

    fields = _biases(c) | _caps(c) | windows | {"norms_per_layer": 4, "qk_norm": True}
    fields |= _further_embeddings(c, part) if part else {}
    return fields | {"experts": mixture, "each_layer": change}


def _gemma4_experts(c: Config) -> Experts:
    """Routed experts; the ordinary MLP beside them is an expert that every token visits. The router
    scales its input and each expert's weight."""
    c.refuse("use_double_wide_mlp", False)
    count = c.size("num_experts")
    return Experts(
        count=count,
        per_token=c.size("top_k_experts"),
        intermediate_size=c.size("moe_intermediate_size"),
        shared_size=c.size("intermediate_size"),
        small_parameters=c.size("hidden_size") + count,
    )


FAMILIES: dict[str, Reader] = {
    "gemma": _biases,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "gemma3n_text": _gemma3n,
    "gemma4_text": _gemma4,
    "gemma4_unified_text": _gemma4,
    "vaultgemma": _vaultgemma,
}
