"""Models whose layers differ in their heads, their reach or their MLP."""

from dataclasses import replace
from typing import Any

from specsim.architecture.families.common import (
    Change,
    Reader,
    attention_with,
    both,
    dense_layers,
    experts,
    head_size,
    llama_biases,
    mlp_with,
    turned_layers,
    window,
)
from specsim.architecture.fields import Config, Fields
from specsim.architecture.layers import SLIDING
from specsim.architecture.parts import Attention, Layer, Mlp

CHUNKED = "chunked"


def _llama4(c: Config) -> Fields:
    """Three of four layers attend within chunks; experts in each or each second layer, with one
    that every token visits; dense layers are of a width of their own."""
    layers, width = c.size("num_hidden_layers"), c.size("intermediate_size")
    step, chunk = c.size("interleave_moe_layer_step", default=1), c.count("attention_chunk_size")
    listed = c.entries("moe_layers")
    sparse = range(step - 1, layers, step) if listed is None else listed
    mixture = experts(
        c,
        intermediate_size=width,
        shared_size=width,
        dense_layers=tuple(i for i in range(layers) if i not in sparse),
    )
    kinds = c.each(layers, "layer_types") or [
        "chunked_attention" if turned else "full_attention" for turned in turned_layers(c)
    ]

    def reach(layer: Layer, index: int) -> Layer:
        if not chunk or kinds[index] != "chunked_attention":
            return layer
        return attention_with(chunk=chunk, label=CHUNKED)(layer, index)

    bias = c.flag("attention_bias")
    return {
        "qkv_bias": bias,
        "output_bias": bias,
        "experts": mixture,
        "each_layer": both(reach, mlp_with(width=c.size("intermediate_size_mlp", default=width))),
    }


def _mimo_v2(c: Config) -> Fields:
    """Full and windowed layers with heads of their own number and size, values smaller than keys,
    sinks in one kind; the first layer is dense, and so is that of an MTP module, with a window."""
    layers, heads = c.size("num_hidden_layers"), c.size("num_attention_heads")
    kv_heads = c.size("num_key_value_heads", default=heads)
    size, value = head_size(c), c.size("v_head_dim", default=head_size(c))
    slides = _sliding(c, layers)
    full: Fields = {"value_dim": value, "sinks": c.flag("add_full_attention_sink_bias")}
    windowed: Fields = {
        "num_heads": c.size("swa_num_attention_heads", default=heads),
        "num_kv_heads": c.size("swa_num_key_value_heads", default=2 * kv_heads),
        "head_dim": c.size("swa_head_dim", default=size),
        "value_dim": c.size("swa_v_head_dim", default=value),
        "sinks": c.flag("add_swa_attention_sink_bias", default=True),
        "window": c.size("sliding_window_size", "sliding_window"),
        "label": SLIDING,
    }
    bias = c.flag("attention_bias")
    return {
        "qkv_bias": bias,
        "experts": experts(c, dense_layers=dense_layers(c)),
        "mtp_layers": c.count("num_nextn_predict_layers"),
        "mtp_layer": Layer(Attention(bias=bias, **windowed), Mlp(c.size("intermediate_size"))),
        "each_layer": _by_kind(slides, windowed, full),
    }


def _sliding(c: Config, layers: int) -> list[bool]:
    """Which layers have a window: named, marked by a 1, or all but the first and each sixth."""
    if (types := c.each(layers, "layer_types")) is not None:
        return [kind == "sliding_attention" for kind in types]
    if (marks := c.each(layers, "hybrid_layer_pattern")) is not None:
        return [bool(mark) for mark in marks]
    return [index > 0 and (index + 1) % 6 > 0 for index in range(layers)]


def _by_kind(slides: list[bool], windowed: Fields, full: Fields) -> Change:
    def change(layer: Layer, index: int) -> Layer:
        return attention_with(**(windowed if slides[index] else full))(layer, index)

    return change


def _laguna(c: Config) -> Fields:
    """Heads by the layer, norms of them, and a gate of the output, one for each head or element."""
    layers, heads = c.size("num_hidden_layers"), c.size("num_attention_heads")
    per_layer = c.sizes(layers, "num_attention_heads_per_layer", "num_attention_heads")
    gating = c.get("gating")
    each = 1 if gating in (None, True, "per-head") else head_size(c)
    bias = c.flag("attention_bias")

    def change(layer: Layer, index: int) -> Layer:
        here = per_layer[index]
        gated: dict[str, Any] = {"num_heads": here, "gate_columns": here * each}
        assert isinstance(layer.mixer, Attention)
        if here != heads:
            gated["label"] = f"{layer.mixer.label} {here}-head".strip()
        return attention_with(**gated)(layer, index)

    return window(c, lambda index: False) | {
        "num_heads": heads,
        "qkv_bias": bias,
        "output_bias": bias,
        "qk_norm": True,
        "experts": experts(c, router_bias=True),
        "each_layer": change,
    }


def _afmoe(c: Config) -> Fields:
    """A gate for each element of the output, norms of the heads and around each block; windows in
    all but each fourth layer; the first layers dense."""
    every = c.size("global_attn_every_n_layers", default=4)
    gate = c.size("num_attention_heads") * head_size(c)
    return window(c, lambda index: (index + 1) % every > 0) | {
        "qk_norm": True,
        "norms_per_layer": 4,
        "experts": experts(c, router_bias=True),
        "each_layer": attention_with(gate_columns=gate),
    }


def _step3(c: Config) -> Fields:
    """Step 3.5 and later: windowed layers with heads of their own number; norms of the heads, and a
    gate of the output for each; the first layers dense, then experts and one that all visit."""
    layers, other = c.size("num_hidden_layers"), c.inner("attention_other_setting")
    kinds = c.each(layers, "layer_types") or ["full_attention"] * layers
    heads = c.size("num_attention_heads")
    kv_heads = c.size("num_key_value_heads", default=heads)
    windowed_heads = c.size(
        "num_sliding_attention_heads", default=other.size("num_attention_heads", default=heads)
    )
    windowed: Fields = {
        "num_heads": windowed_heads,
        "num_kv_heads": other.size("num_attention_groups", default=kv_heads),
        "gate_columns": windowed_heads,
        "window": c.get("sliding_window"),
        "label": SLIDING,
    }
    slides = [kind == "sliding_attention" for kind in kinds]
    shared = c.count("share_expert_dim", "share_expert_dims")
    bias = c.flag("attention_bias")
    return {
        "qkv_bias": bias,
        "output_bias": bias,
        "experts": experts(c, shared_size=shared, dense_layers=_step3_dense(c)),
        "qk_norm": True,
        "mtp_layers": c.count("num_nextn_predict_layers", "num_mtp_layers"),
        "each_layer": _by_kind(slides, windowed, {"gate_columns": heads}),
    }


def _step3_dense(c: Config) -> tuple[int, ...]:
    """All that `moe_layers_enum` does not name; without it as others spell it, or the first 3."""
    named = c.get("moe_layers_enum")
    if named is None:
        said = {"mlp_layer_types", "first_k_dense_replace", "moe_layer_freq"} & set(c.values)
        return dense_layers(c) if said else (0, 1, 2)
    listed = named.split(",") if isinstance(named, str) else c.entries("moe_layers_enum") or []
    sparse = {int(each) for each in listed if str(each).strip().isdecimal()}
    return tuple(index for index in range(c.size("num_hidden_layers")) if index not in sparse)


def _modernbert(c: Config) -> Fields:
    """LayerNorm without biases, a norm of the embedding in place of the first layer's, a matrix and
    a norm in front of the head, which has a bias."""
    c.refuse("norm_bias", False)
    hidden, every = c.size("hidden_size"), c.size("global_attn_every_n_layers", default=3)
    bias = c.flag("attention_bias")

    def change(layer: Layer, index: int) -> Layer:
        return replace(layer, norms=1) if index == 0 else layer

    return window(c, lambda index: index % every > 0) | {
        "norm": "layer without bias",
        "qkv_bias": bias,
        "output_bias": bias,
        "mlp_bias": c.flag("mlp_bias"),
        "head_bias": c.flag("decoder_bias", default=True),
        "other_parameters": hidden * hidden,
        "small_parameters": 2 * hidden,
        "each_layer": change,
    }


def _spelled_modernbert(c: Config) -> Fields:
    return {"sliding_window": c.size("local_attention", default=128) // 2}


def _mimo(c: Config) -> Fields:
    """MiMo-7B: a bias on q, k and v, and a module for multi-token prediction."""
    return {
        "qkv_bias": llama_biases(c)["qkv_bias"],
        "mtp_layers": c.count("num_nextn_predict_layers"),
    }


DEFAULTS: dict[str, Fields] = {
    "laguna": {"first_k_dense_replace": 1},
    # its checkpoint holds three MTP modules (model.mtp.layers.0 to 2), of which vLLM runs the first
    "mimo_v2_flash": {"first_k_dense_replace": 1, "num_nextn_predict_layers": 3},
}
SPELLINGS: dict[str, Reader] = {"modernbert-decoder": _spelled_modernbert}
FAMILIES: dict[str, Reader] = {
    "llama4_text": _llama4,
    "mimo": _mimo,
    "mimo_v2_flash": _mimo_v2,
    "laguna": _laguna,
    "afmoe": _afmoe,
    "step3p5": _step3,
    "step3p7": _step3,
    "step3p7_text": _step3,
    "modernbert-decoder": _modernbert,
}
