"""What several families spell alike: biases, windows and which layers have one, experts.

A family's reader returns fields of an `Architecture`, and under `each_layer` what differs in its
layers from those that these fields make: a function of a layer and its index.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from specsim.architecture.fields import Config, Fields
from specsim.architecture.parts import Attention, Experts, Layer, Mlp
from specsim.checks import SpecsimError, quoted

Reader = Callable[[Config], Fields]  # the fields in which a family differs from the Llama shape
Defaults = Fields | Callable[[Config], Fields]  # what a file may lack, or how that follows from it
Change = Callable[[Layer, int], Layer]


def attention_with(**changes: Any) -> Change:
    """Every layer with these fields of its attention changed."""

    def change(layer: Layer, index: int) -> Layer:
        assert isinstance(layer.mixer, Attention)
        return replace(layer, mixer=replace(layer.mixer, **changes))

    return change


def mlp_with(**changes: Any) -> Change:
    """Every layer with these fields of its ordinary MLP changed; experts stay as they are."""

    def change(layer: Layer, index: int) -> Layer:
        if not isinstance(layer.mlp, Mlp):
            return layer
        return replace(layer, mlp=replace(layer.mlp, **changes))

    return change


def both(first: Change, second: Change) -> Change:
    """One change after another."""
    return lambda layer, index: second(first(layer, index), index)


def head_size(c: Config) -> int:
    """Elements of one head: said, or what the hidden state has for each."""
    return c.size("head_dim", default=c.size("hidden_size") // c.size("num_attention_heads"))


def norms_over_all_heads(c: Config) -> Change:
    """One weight for each element of all queries, and of all keys (OLMo 2), not for one head's."""
    heads = c.size("num_attention_heads")
    kv_heads = c.size("num_key_value_heads", default=heads)
    return attention_with(norm_elements=(heads + kv_heads) * head_size(c))


def experts(c: Config, **known: Any) -> Experts:
    """A mixture of experts as most spell it; `known` fields are not looked up."""
    width = known.get("intermediate_size")
    width = width or c.size("moe_intermediate_size", "expert_ffn_hidden_size", "intermediate_size")
    copies = c.count("n_shared_experts", "num_shared_experts", "moe_num_shared_experts")
    count = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    per_token = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "moe_top_k")
    read: Fields = {
        "count": known.get("count") or c.size(*count),
        "per_token": known.get("per_token") or c.size(*per_token),
        "intermediate_size": width,
        "shared_size": c.count("shared_expert_intermediate_size") or copies * width,
        "dense_layers": dense_layers(c),
        "normalized": c.flag("norm_topk_prob", default=True),
    }
    return Experts(**(read | known))


def dense_layers(c: Config) -> tuple[int, ...]:
    """Layers that keep an ordinary MLP: named one by one, the first ones, or all but each n-th."""
    layers = range(c.size("num_hidden_layers"))
    if (types := c.each(len(layers), "mlp_layer_types")) is not None:
        return tuple(index for index in layers if types[index] == "dense")
    if isinstance(c.get("moe_layer_freq"), list | tuple):
        marks = c.each(len(layers), "moe_layer_freq") or []
        return tuple(index for index in layers if not marks[index])
    first = c.count("first_k_dense_replace", "num_dense_layers")
    every = c.size("moe_layer_freq", default=1)
    return tuple(index for index in layers if index < first or index % every)


def turned_layers(c: Config) -> list[bool]:
    """Which layers have RoPE: listed, or all but each n-th. An empty list says nothing: Llama 4's
    own files have one."""
    layers, every = c.size("num_hidden_layers"), c.size("no_rope_layer_interval", default=4)
    if c.entries("no_rope_layers"):
        return [bool(turns) for turns in c.each(layers, "no_rope_layers") or ()]
    return [(index + 1) % every > 0 for index in range(layers)]


def llama_biases(c: Config) -> Fields:
    """Biases of attention and of the MLP, each by a flag of its own."""
    bias = c.flag("attention_bias")
    return {"qkv_bias": bias, "output_bias": bias, "mlp_bias": c.flag("mlp_bias")}


def biased_everywhere(bias: bool) -> Fields:
    """A bias in every matrix of a layer, or in none."""
    return dict.fromkeys(("qkv_bias", "output_bias", "mlp_bias"), bias)


def all_biased() -> Fields:
    """A bias in every matrix, LayerNorm, and an MLP without a gate."""
    return biased_everywhere(True) | {"norm": "layer", "gated_mlp": False}


def four_times_hidden(c: Config) -> Fields:
    """An MLP whose width the config leaves out."""
    return {"intermediate_size": 4 * c.size("hidden_size")}


def windows_everywhere(c: Config) -> Fields:
    """Every layer has the window, where there is one."""
    return window(c, lambda index: True)


def alternating(c: Config) -> Fields:
    """Every `sliding_window_pattern`-th layer sees everything (Gemma, gpt-oss)."""
    if c.get("sliding_window") is None:
        return {}
    written = c.get("sliding_window_pattern", "_sliding_window_pattern")
    if written and isinstance(written, str):  # EXAONE 4 writes it as LLLG
        period = len(written)
    else:
        period = c.size("sliding_window_pattern", "_sliding_window_pattern")
    return window(c, lambda index: (index + 1) % period > 0)


def window(c: Config, slides: Callable[[int], bool]) -> Fields:
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
