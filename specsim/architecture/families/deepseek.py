"""DeepSeek and those that took its multi-head latent attention, with experts or without."""

from dataclasses import replace

from specsim.architecture.families.common import Reader, experts
from specsim.architecture.fields import Config, Fields
from specsim.architecture.parts import Experts, LatentAttention, Layer, Mlp


def _latent(c: Config) -> Fields:
    """MLA alone."""
    c.refuse("attention_bias", False)
    latent = LatentAttention(
        kv_rank=c.size("kv_lora_rank"),
        rope_size=c.size("qk_rope_head_dim"),
        nope_size=c.size("qk_nope_head_dim"),
        value_size=c.size("v_head_dim"),
        query_rank=c.count("q_lora_rank") or None,
    )
    return {
        "num_kv_heads": c.size("num_attention_heads"),
        "head_dim": latent.nope_size + latent.rope_size,
        "latent": latent,
    }


def _deepseek(c: Config, corrected: bool = False) -> Fields:
    """MLA; the first layers dense, then experts, some of them shared; from V3 on modules that
    predict further. `corrected`: the files store a correction of the experts' scores."""
    return _latent(c) | {
        "experts": experts(c, router_bias=corrected),
        "mtp_layers": c.count("num_nextn_predict_layers"),
    }


def _axk1(c: Config) -> Fields:
    """A norm more after the experts."""

    def change(layer: Layer, index: int) -> Layer:
        return replace(layer, norms=3) if isinstance(layer.mlp, Experts) else layer

    return _deepseek(c) | {"each_layer": change}


def _longcat(c: Config) -> Fields:
    """Every layer has two attentions and two dense MLPs, and experts beside the first pair: two
    layers here. Some of the experts that a token chooses do nothing: on average it visits so many
    fewer (LongCat-Flash, arXiv:2509.01322)."""
    hidden, layers = c.size("hidden_size"), 2 * c.size("num_layers", "num_hidden_layers")
    count, idle = c.size("n_routed_experts"), c.count("zero_expert_num")
    width = c.size("ffn_hidden_size", "intermediate_size")
    mixture = experts(
        c,
        per_token=max(1, round(c.size("moe_topk", "num_experts_per_tok") * count / (count + idle))),
        shared_size=width,
        dense_layers=(),
        small_parameters=idle * hidden,  # their rows of the router
    )

    def change(layer: Layer, index: int) -> Layer:
        return replace(layer, mlp=Mlp(width) if index % 2 else mixture)

    return _latent(c) | {"num_layers": layers, "experts": mixture, "each_layer": change}


DEFAULTS: dict[str, Fields] = {
    "axk1": {"first_k_dense_replace": 1},
    "glm4_moe_lite": {"first_k_dense_replace": 1},
}
FAMILIES: dict[str, Reader] = {
    "deepseek_v2": _deepseek,
    "deepseek_v3": lambda c: _deepseek(c, corrected=True),
    "kimi_k2": lambda c: _deepseek(c, corrected=True),
    "glm4_moe_lite": _deepseek,
    "minicpm3": _latent,
    "youtu": _latent,
    "axk1": _axk1,
    "longcat_flash": _longcat,
}
