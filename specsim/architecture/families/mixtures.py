"""The Llama shape with a mixture of experts, as many makers spell it."""

from dataclasses import replace

from specsim.architecture.families.common import (
    Reader,
    alternating,
    biased_everywhere,
    experts,
    llama_biases,
    norms_over_all_heads,
    window,
)
from specsim.architecture.fields import Config, Fields
from specsim.architecture.parts import Experts, Layer

DEFAULTS: dict[str, Fields] = {
    "exaone_moe": {"sliding_window_pattern": 4},
    "hy_v3": {"first_k_dense_replace": 1},
}


def _minimax_m2(c: Config) -> Fields:
    """Norms over all heads together; experts as wide as `intermediate_size`."""
    modules = c.count("num_mtp_modules") if c.flag("use_mtp") else 0
    return {
        "experts": experts(c, intermediate_size=c.size("intermediate_size"), dense_layers=()),
        "each_layer": norms_over_all_heads(c),
        "mtp_layers": modules,
    }


def _phimoe(c: Config) -> Fields:
    """LayerNorm, and biases on attention and the head."""
    bias = c.flag("attention_bias")
    return window(c, lambda index: True) | {
        "qkv_bias": bias,
        "output_bias": bias,
        "head_bias": c.flag("lm_head_bias"),
        "norm": "layer",
        "experts": experts(c, intermediate_size=c.size("intermediate_size"), dense_layers=()),
    }


def _hunyuan_experts(c: Config) -> Fields:
    """Experts beside an ordinary MLP of the same width; norms of the heads."""
    c.refuse("use_cla", False)  # layers that share keys and values across (Hunyuan-Large)
    layers, width = c.size("num_hidden_layers"), c.size("intermediate_size")
    counts = c.sizes(layers, "num_experts", "num_local_experts")
    visits = c.sizes(layers, "moe_topk", "num_experts_per_tok")
    most = experts(
        c,
        count=max(counts),
        per_token=min(max(visits), max(counts)),
        intermediate_size=width,
        shared_size=width,
        dense_layers=(),
    )

    def change(layer: Layer, index: int) -> Layer:
        count = counts[index]
        return replace(layer, mlp=replace(most, count=count, per_token=min(visits[index], count)))

    bias = llama_biases(c)
    return bias | {"qk_norm": True, "experts": most, "each_layer": change}


def _ernie_experts(c: Config) -> Fields:
    """Experts from one layer to another, every so many; corrected scores."""
    layers, every = c.size("num_hidden_layers"), c.size("moe_layer_interval", default=1)
    first, last = c.count("moe_layer_start_index"), layers - 1
    if c.get("moe_layer_end_index") not in (None, -1):
        last = c.count("moe_layer_end_index")
    dense = [i for i in range(layers) if not first <= i <= last or (i + 1) % every]
    bias = c.flag("use_bias")
    mixture = experts(c, router_bias=True, dense_layers=tuple(dense))
    if bias and mixture.shared_size:
        shared = 2 * mixture.shared_size + c.size("hidden_size")
        mixture = replace(mixture, small_parameters=shared)
    return biased_everywhere(bias) | {"head_bias": bias, "experts": mixture}


def _exaone_experts(c: Config) -> Fields:
    return alternating(c) | {
        "qk_norm": True,
        "experts": experts(c),
        "mtp_layers": c.count("num_nextn_predict_layers"),
    }


def _dots1(c: Config) -> Fields:
    """Norms of the heads; windows, where they are in use, from layer `max_window_layers` on."""
    first, bias = c.count("max_window_layers"), c.flag("attention_bias")
    return window(c, lambda index: index >= first) | {
        "qkv_bias": bias,
        "output_bias": bias,
        "qk_norm": True,
        "experts": experts(c),
    }


def _solar_open(c: Config) -> Fields:
    bias = c.flag("attention_bias")
    return {"qkv_bias": bias, "output_bias": bias, "experts": experts(c)}


def _spelled_solar(c: Config) -> Fields:
    """All layers have experts: the width of a dense MLP may be left out."""
    return {"intermediate_size": c.size("moe_intermediate_size")}


def _normed_experts(c: Config) -> Fields:
    """Norms of the heads, and experts (Hunyuan 3, Mellum)."""
    windows = window(c, lambda index: False)  # those that layer_types names
    mtp = {"mtp_layers": c.count("num_nextn_predict_layers")}
    return llama_biases(c) | windows | mtp | {"qk_norm": True, "experts": experts(c)}


def _kolibri(c: Config) -> Fields:
    """Windows in four of five layers, a norm around each block too."""
    windows = window(c, lambda index: (index + 1) % 5 > 0)
    return windows | {"qk_norm": True, "norms_per_layer": 4, "experts": experts(c)}


def _flint(c: Config) -> Fields:
    """Windows in most layers, sinks, and a norm of the heads."""
    last, bias = c.size("num_hidden_layers") - 1, c.flag("attention_bias")
    plain = tuple(c.entries("mlp_only_layers") or (0, 1))
    return window(c, lambda index: index >= 2 and index % 4 != 1 and index != last) | {
        "qkv_bias": bias,
        "output_bias": bias,
        "qk_norm": True,
        "attention_sinks": True,
        "experts": experts(c, dense_layers=plain),
    }


def _spelled_dbrx(c: Config) -> Fields:
    attention, mlp = c.inner("attn_config"), c.inner("ffn_config")
    return {
        "num_key_value_heads": attention.size("kv_n_heads", default=1),
        "intermediate_size": mlp.size("ffn_hidden_size", default=3584),
        "num_experts": mlp.size("moe_num_experts", default=4),
        "num_experts_per_tok": mlp.size("moe_top_k", default=1),
        "hidden_act": mlp.inner("ffn_act_fn").get("name"),
    }


def _dbrx(c: Config) -> Fields:
    """LayerNorm without a bias."""
    mixture = experts(c, intermediate_size=c.size("intermediate_size"), dense_layers=())
    return {"norm": "layer without bias", "experts": mixture}


def _deepseek_first(c: Config) -> Fields:
    """DeepSeekMoE, before latent attention: shared experts and a dense first layer."""
    return llama_biases(c) | {"experts": experts(c)}


def _bailing(c: Config) -> Fields:
    """Ling: norms of the heads where said, shared experts, dense first layers."""
    shared = c.count("num_shared_experts")
    width = c.size("moe_shared_expert_intermediate_size", "moe_intermediate_size")
    return {
        "qkv_bias": c.flag("use_qkv_bias"),
        "output_bias": c.flag("use_bias"),
        "qk_norm": c.flag("use_qk_norm"),
        "experts": experts(
            c,
            shared_size=shared * width,
            router_bias=c.flag("moe_router_enable_expert_bias"),
        ),
        "mtp_layers": c.count("num_nextn_predict_layers"),
    }


def _aria(c: Config) -> Fields:
    """Experts beside shared ones; the router alone has no other parameters."""
    width = c.size("intermediate_size")
    shared = c.count("moe_num_shared_experts") * width
    mixture: Experts = experts(c, intermediate_size=width, shared_size=shared, dense_layers=())
    return llama_biases(c) | {"experts": mixture}


SPELLINGS: dict[str, Reader] = {
    "solar_open": _spelled_solar,
    "kolibri1": _spelled_solar,
    "dbrx": _spelled_dbrx,
}
FAMILIES: dict[str, Reader] = {
    "minimax_m2": _minimax_m2,
    "phimoe": _phimoe,
    "hunyuan_v1_moe": _hunyuan_experts,
    "ernie4_5_moe": _ernie_experts,
    "exaone_moe": _exaone_experts,
    "dots1": _dots1,
    "solar_open": _solar_open,
    "hy_v3": _normed_experts,
    "mellum": _normed_experts,
    "aria_text": _aria,
    "kolibri1": _kolibri,
    "flint": _flint,
    "dbrx": _dbrx,
    "deepseek": _deepseek_first,
    "bailing_moe": _bailing,
    "bailing_moe_v2": _bailing,
}
