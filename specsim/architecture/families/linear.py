"""Linear attention in most layers: gated DeltaNet (Qwen3-Next and 3.5, Olmo), Kimi, MiniMax."""

from specsim.architecture.families.common import Defaults, Reader
from specsim.architecture.families.layered import (
    FULL,
    LINEAR,
    MIXERS,
    SPARSE,
    dense_mlp,
    grouped_attention,
    kinds,
    latent_attention,
    latent_fields,
    mlp_kinds,
    visited_width,
    written,
)
from specsim.architecture.families.qwen import qwen_experts
from specsim.architecture.families.states import gated_delta_net, kimi_delta, lightning
from specsim.architecture.fields import Config, Fields
from specsim.architecture.parts import Experts, Layer, Mlp, Recurrent
from specsim.checks import SpecsimError


def _every(c: Config, period: int) -> list[str]:
    """Every `period`-th layer is full attention, unless a list says otherwise."""
    every = c.size("full_attention_interval", default=period)
    return kinds(c, ("layer_types",), MIXERS, lambda i: LINEAR if (i + 1) % every else FULL)


def _delta_net(c: Config) -> Recurrent:
    return gated_delta_net(
        c.size("linear_num_key_heads", default=16),
        c.size("linear_num_value_heads", default=32),
        c.size("linear_key_head_dim", default=128),
        c.size("linear_value_head_dim", default=128),
        c.size("linear_conv_kernel_dim", default=4),
    )


def _qwen(c: Config) -> Fields:
    """Qwen3-Next and 3.5: three of four layers gated DeltaNet; the fourth has norms of its heads
    and a gate as wide as the queries; dense, or experts with a gated shared one; an MTP module with
    a layer of full attention."""
    c.refuse("attn_output_gate", True)
    plain = grouped_attention(c)
    attention = grouped_attention(
        c, norm_elements=2 * plain.head_dim, gate_columns=plain.query_size
    )
    delta_net, mixers = _delta_net(c), _every(c, 4)
    experts = qwen_experts(c) if c.get("num_experts", "num_local_experts") else None
    plain_layers = frozenset(experts.dense_layers) if experts else frozenset()
    mlps: list[Mlp | Experts] = [
        dense_mlp(c) if experts is None or index in plain_layers else experts
        for index in range(len(mixers))
    ]
    modules = c.count("mtp_num_hidden_layers", "num_nextn_predict_layers")
    fields = written([attention if kind == FULL else delta_net for kind in mixers], mlps)
    return fields | {
        "qk_norm": True,
        "mtp_layers": modules,
        "mtp_layer": Layer(attention, experts or dense_mlp(c)),
    }


def _olmo_hybrid(c: Config) -> Fields:
    """Gated DeltaNet, and full attention with one norm over all queries and one over all keys."""
    plain = grouped_attention(c)
    size = plain.query_size + plain.num_kv_heads * plain.head_dim
    attention, delta_net = grouped_attention(c, norm_elements=size), _delta_net(c)
    mixers = _every(c, 4)
    return written(
        [attention if kind == FULL else delta_net for kind in mixers],
        [dense_mlp(c)] * len(mixers),
    )


def _kimi_experts(c: Config) -> Experts:
    width = c.size("moe_intermediate_size")
    latent = c.count("routed_expert_hidden_size")
    return Experts(
        count=c.size("num_experts", "num_local_experts"),
        per_token=c.size("num_experts_per_token", "num_experts_per_tok"),
        intermediate_size=width,
        shared_size=width * (c.count("num_shared_experts") or c.count("n_shared_experts")),
        router_bias=True,
        latent_size=latent,
        small_parameters=latent if c.flag("latent_moe_use_norm") else 0,
    )


def _kimi_kinds(c: Config) -> list[str]:
    """Older files list the layers of each kind, counted from 1."""
    table = Config(c.table("linear_attn_config"), c.name)
    full = table.entries("full_attn_layers")
    if c.get("layer_types") is None and full is not None:
        return [FULL if i + 1 in full else LINEAR for i in range(c.size("num_hidden_layers"))]
    return kinds(c, ("layer_types",), MIXERS, lambda i: FULL if i and i % 4 == 0 else LINEAR)


def _kimi(c: Config) -> Fields:
    """Kimi Linear and K3: Kimi delta attention, and MLA without RoPE; K3 has gates, a latent that
    the experts work in, and attention over the residuals of earlier blocks of layers (of which the
    parameters are counted: two vectors a half)."""
    table = Config(c.table("linear_attn_config"), c.name)
    linear = kimi_delta(
        c.size("hidden_size"),
        table.size("num_heads", default=c.size("linear_num_heads", default=32)),
        table.size("head_dim", default=c.size("linear_head_dim", default=128)),
        table.size("short_conv_kernel_size", default=c.size("linear_conv_kernel_dim", default=4)),
        full_decay=False,
        full_gate=table.flag("use_full_rank_gate"),
    )
    gate = c.size("num_attention_heads") * c.size("v_head_dim")
    attention = latent_attention(c, gate_columns=gate if c.flag("mla_use_output_gate") else 0)
    mixers, experts = _kimi_kinds(c), _kimi_experts(c)
    mlps = mlp_kinds(c, c.count("first_k_dense_replace") if c.get("first_k_dense_replace")
                     is not None else 1)  # fmt: skip
    residuals = 4 * c.size("hidden_size") if c.get("attn_res_block_size") else 0
    return latent_fields(attention) | written(
        [attention if kind == FULL else linear for kind in mixers],
        [experts if kind == SPARSE else dense_mlp(c) for kind in mlps],
        small_parameters=residuals,
    )


def _bailing(c: Config) -> Fields:
    """Ling and Ring: Kimi delta attention with full gates, and MLA whose heads have a gate each."""
    if c.get("group_norm_size") is not None:
        raise SpecsimError(
            f"{c.name}: bailing_hybrid with lightning attention (group_norm_size) is not known; "
            "pass the layers: specsim.Architecture(…, layers=(specsim.architecture.Layer(…), …))"
        )
    linear = kimi_delta(
        c.size("hidden_size"),
        c.size("linear_num_heads", default=c.size("num_attention_heads")),
        c.size("linear_head_dim", default=128),
        c.size("linear_conv_kernel_dim", "short_conv_kernel_size", default=4),
        full_decay=True,
        full_gate=True,
    )
    attention = latent_attention(c, gate_columns=c.size("num_attention_heads"))
    every = c.size("layer_group_size", default=6)
    mixers = kinds(c, ("layer_types",), MIXERS, lambda i: LINEAR if (i + 1) % every else FULL)
    experts = _kimi_experts(c)
    mlps = mlp_kinds(c, c.count("first_k_dense_replace"))
    fields = written(
        [attention if kind == FULL else linear for kind in mixers],
        [experts if kind == SPARSE else dense_mlp(c) for kind in mlps],
    )
    modules = {"mtp_layers": c.count("num_nextn_predict_layers")}
    return latent_fields(attention) | fields | modules | {"mtp_layer": Layer(attention, experts)}


def _ring_linear(c: Config) -> Fields:
    """Ring-linear: lightning attention with norms of its heads, and grouped-query attention."""
    size = c.size("head_dim", default=c.size("hidden_size") // c.size("num_attention_heads"))
    norms = {"norm_elements": 2 * size if c.flag("use_qk_norm", default=True) else 0}
    attention = grouped_attention(c, **norms)
    linear = lightning(attention.num_heads, size, norms=norms["norm_elements"])
    every, layers = c.size("layer_group_size", default=5), c.size("num_hidden_layers")
    last = layers // every * every  # the layers after the last whole group are full attention
    mixers = kinds(
        c, ("layer_types",), MIXERS, lambda i: FULL if (i + 1) % every == 0 or i >= last else LINEAR
    )
    experts = _kimi_experts(c)
    mlps = mlp_kinds(c, c.count("first_k_dense_replace"))
    fields = written(
        [attention if kind == FULL else linear for kind in mixers],
        [experts if kind == SPARSE else dense_mlp(c) for kind in mlps],
    )
    modules = {"mtp_layers": c.count("num_nextn_predict_layers")}
    return fields | modules | {"mtp_layer": Layer(attention, experts)}


def _minimax(c: Config) -> Fields:
    """MiniMax-Text-01 and M1: lightning attention in seven of eight layers, experts in all."""
    attention = grouped_attention(c)
    linear = lightning(attention.num_heads, attention.head_dim)
    listed = {"0": LINEAR, "1": FULL} | MIXERS
    mixers = kinds(
        c, ("layer_types", "attn_type_list"), listed, lambda i: LINEAR if i % 2 else FULL
    )
    experts = Experts(
        count=c.size("num_local_experts"),
        per_token=c.size("num_experts_per_tok"),
        intermediate_size=c.size("intermediate_size"),
        shared_size=c.count("shared_intermediate_size"),
    )
    return written(
        [attention if kind == FULL else linear for kind in mixers], [experts] * len(mixers)
    )


DEFAULTS: dict[str, Defaults] = {
    # its checkpoints hold one MTP module, which their config.json does not mention
    "qwen3_next": lambda c: (
        {"head_dim": 256, "norm_topk_prob": True, "num_nextn_predict_layers": 1} | visited_width(c)
    ),
    "qwen3_5_text": {"head_dim": 256},
    "qwen3_5_moe_text": lambda c: {"head_dim": 256} | visited_width(c),
    "olmo_hybrid": lambda c: {
        "linear_num_key_heads": c.size("num_attention_heads"),
        "linear_num_value_heads": c.size("num_attention_heads"),
        "linear_key_head_dim": 96,
        "linear_value_head_dim": 192,
    },
    "minimax": {"rope_theta": 1e6},
}
FAMILIES: dict[str, Reader] = {
    "qwen3_next": _qwen,
    "qwen3_5_text": _qwen,
    "qwen3_5_moe_text": _qwen,
    "olmo_hybrid": _olmo_hybrid,
    "kimi_linear": _kimi,
    "bailing_hybrid": _bailing,
    "bailing_moe_linear": _ring_linear,
    "minimax": _minimax,
    "minimax_text_01": _minimax,
    "MiniMaxText01": _minimax,
    "minimax_m1": _minimax,
    "MiniMaxM1": _minimax,
}
