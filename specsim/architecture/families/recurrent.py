"""Small states: RecurrentGemma's gated linear unit, LFM's short convolutions, RWKV-4 and xLSTM."""

from dataclasses import replace

from specsim.architecture.families.common import Defaults, Reader
from specsim.architecture.families.layered import (
    FULL,
    LINEAR,
    MIXERS,
    dense_mlp,
    grouped_attention,
    kinds,
    written,
)
from specsim.architecture.families.mamba import head_size, no_attention
from specsim.architecture.families.states import gated_lru, mlstm, rwkv4, short_convolution
from specsim.architecture.fields import Config, Fields
from specsim.architecture.parts import Experts, Layer, Mixer, Mlp


def _recurrent_gemma(c: Config) -> Fields:
    """Two recurrent layers, then one of attention with a window; a bias in every MLP."""
    heads, hidden = c.size("num_attention_heads"), c.size("hidden_size")
    attention = grouped_attention(
        c,
        window=c.size("attention_window_size", default=2048),
        output_bias=True,
        label="sliding",
    )
    recurrent = gated_lru(
        c.size("lru_width", default=hidden), heads, c.size("conv1d_width", default=4)
    )
    period = kinds(c, ("block_types",), MIXERS, str, len(c.entries("block_types") or ()))
    period = period or [LINEAR, LINEAR, FULL]
    layers = c.size("num_hidden_layers")
    width = c.size("intermediate_size") // 2  # the config counts gate and up together
    fields = written(
        [attention if period[i % len(period)] == FULL else recurrent for i in range(layers)],
        [Mlp(width, bias=True)] * layers,
    )
    cap = c.get("logits_soft_cap")
    return fields | {"logit_softcap": cap, "intermediate_size": width}


def _lfm_kinds(c: Config) -> list[str]:
    full = c.entries("full_attn_idxs")
    return kinds(
        c, ("layer_types",), MIXERS, lambda i: FULL if full is None or i in full else LINEAR
    )


def _lfm_width(c: Config) -> int:
    """The width of a dense MLP: two thirds of what the config says, in whole multiples."""
    width = c.size("block_ff_dim", "intermediate_size")
    if not c.flag("block_auto_adjust_ff_dim", default=True):
        return width
    width = int(c.number("block_ffn_dim_multiplier", default=1.0) * int(2 * width / 3))
    multiple = c.size("block_multiple_of", default=256)
    return -(-width // multiple) * multiple


def _lfm2(c: Config) -> Fields:
    """Short convolutions, and attention with norms of its heads."""
    size = c.size("hidden_size") // c.size("num_attention_heads")
    attention = grouped_attention(c, norm_elements=2 * size)
    kernel = c.size("conv_L_cache", default=3)
    convolution = short_convolution(c.size("hidden_size"), kernel, c.flag("conv_bias"))
    mixers = _lfm_kinds(c)
    mlps: list[Mlp | Experts] = [Mlp(_lfm_width(c))] * len(mixers)
    if c.get("num_experts") is not None:
        experts = Experts(
            count=c.size("num_experts"),
            per_token=c.size("num_experts_per_tok", default=4),
            intermediate_size=c.size("moe_intermediate_size"),
            router_bias=c.flag("use_expert_bias", default=True),
        )
        first = c.count("num_dense_layers")
        mlps = [dense_mlp(c) if i < first else experts for i in range(len(mixers))]
    fields = written([attention if kind == FULL else convolution for kind in mixers], mlps)
    tied = c.get("tie_embedding", "tie_word_embeddings")
    return fields | {"tied_head": bool(tied), "qk_norm": True}


def _lfm3(c: Config) -> Fields:
    """LFM2 with windows in some layers, a gate for each head and four norms a layer."""
    plain = grouped_attention(c)
    gates = plain.num_heads if c.flag("use_attention_gate", default=True) else 0
    how = {"norm_elements": 2 * plain.head_dim, "gate_columns": gates}
    kernel = c.size("conv_L_cache", default=7)
    window = c.size("sliding_window", default=256)
    made: dict[str, Mixer] = {
        FULL: grouped_attention(c, **how),
        LINEAR: short_convolution(c.size("hidden_size"), kernel, c.flag("conv_bias")),
        "sliding": grouped_attention(c, window=window, label="sliding", **how),
    }

    def usual(index: int) -> str:
        return (("sliding" if index else LINEAR), LINEAR, FULL, LINEAR)[index % 4]

    listed = kinds(c, ("layer_types",), MIXERS | {"sliding_attention": "sliding"}, usual)
    norms = 4 if c.flag("use_sandwich_norm", default=True) else 2
    fields = written([made[kind] for kind in listed], [dense_mlp(c)] * len(listed), norms=norms)
    return fields | {"qk_norm": True}


def _rwkv(c: Config) -> Fields:
    """RWKV-4: LayerNorm, one more in front; the MLP has a gate of one matrix."""
    hidden, layers = c.size("hidden_size"), c.size("num_hidden_layers")
    width = c.size("attention_hidden_size", default=hidden)
    mlp = Mlp(c.size("intermediate_size"), gated=False, small_parameters=2 * hidden)
    layer = Layer(rwkv4(hidden, width), mlp, matrices=((hidden, hidden),))
    first = replace(layer, norms=3)
    fields: Fields = {"layers": (first, *[layer] * (layers - 1)), "norm": "layer"}
    return head_size(c) | fields


def _xlstm(c: Config) -> Fields:
    """xLSTM-7B: mLSTM and a gated MLP in every layer."""
    c.refuse("use_bias", False)
    c.refuse("add_out_norm", True)
    hidden = c.size("hidden_size", "embedding_dim")
    layers = c.size("num_hidden_layers", "num_blocks")
    mixer = mlstm(
        c.size("num_heads", default=8),
        int(hidden * c.number("qk_dim_factor", default=0.5)),
        int(hidden * c.number("v_dim_factor", default=1.0)),
    )
    mlp = Mlp(_xlstm_width(c))
    fields = written([mixer] * layers, [mlp] * layers)
    return head_size(c) | fields | {"logit_softcap": c.get("output_logit_soft_cap")}


def _xlstm_width(c: Config) -> int:
    multiple = c.size("ffn_round_up_to_multiple_of", default=64)
    hidden = c.size("hidden_size", "embedding_dim")
    width = int(hidden * c.number("ffn_proj_factor", default=2.667))
    return -(-width // multiple) * multiple


def _xlstm_defaults(c: Config) -> Fields:
    sizes = {"num_hidden_layers": c.size("num_hidden_layers", "num_blocks")}
    return no_attention(c) | sizes | {"intermediate_size": _xlstm_width(c)}


DEFAULTS: dict[str, Defaults] = {
    "recurrent_gemma": {"tie_word_embeddings": True, "hidden_activation": "gelu_pytorch_tanh"}
    | {"logits_soft_cap": 30.0},
    "lfm2": lambda c: {
        "tie_word_embeddings": True,
        "intermediate_size": c.size("block_ff_dim", default=12_288),
    },
    "lfm2_moe": {"tie_word_embeddings": True, "num_dense_layers": 2},
    "lfm3": {"tie_word_embeddings": True},
    "rwkv": lambda c: no_attention(c) | {"intermediate_size": 4 * c.size("hidden_size")},
    "xlstm": _xlstm_defaults,
}
FAMILIES: dict[str, Reader] = {
    "recurrent_gemma": _recurrent_gemma,
    "lfm2": _lfm2,
    "lfm2_moe": _lfm2,
    "lfm3": _lfm3,
    "rwkv": _rwkv,
    "xlstm": _xlstm,
}
