"""State-space models, and hybrids of them with attention: Mamba 1 and 2, Bamba, Jamba, Falcon-H1,
Granite 4, Nemotron-H and Nemotron-3, Zamba."""

import math

from specsim.architecture.families.common import Defaults, Reader
from specsim.architecture.families.layered import (
    FULL,
    LINEAR,
    MIXERS,
    dense_mlp,
    experts_among,
    grouped_attention,
    kinds,
    written,
)
from specsim.architecture.families.states import mamba, mamba2
from specsim.architecture.fields import Config, Fields
from specsim.architecture.parts import Attention, Experts, Layer, Mlp, Recurrent
from specsim.checks import SpecsimError

# --------------------------------------------------------------------------- without attention


def no_attention(c: Config) -> Fields:
    """Sizes of the attention that a model without any does not have, for the layer of a drafting
    head: heads of 64 elements where they fit."""
    hidden = c.size("hidden_size")
    heads = hidden // 64 if hidden % 64 == 0 else 1
    return {"num_attention_heads": heads, "intermediate_size": 4 * hidden}


def head_size(c: Config) -> Fields:
    """The size of such a head."""
    return {"head_dim": c.size("hidden_size") // c.size("num_attention_heads")}


def _rank(c: Config, key: str) -> int:
    """Elements that step sizes are made through; "auto" is a 16th of the hidden size."""
    if c.get(key) in (None, "auto"):
        return math.ceil(c.size("hidden_size") / 16)
    return c.size(key)


def _mamba(c: Config) -> Fields:
    inner = c.size("expand", default=2) * c.size("hidden_size")
    mixer = mamba(
        inner,
        c.size("state_size", default=16),
        _rank(c, "time_step_rank"),
        c.size("conv_kernel", default=4),
        convolution_bias=c.flag("use_conv_bias", default=True),
        bias=c.flag("use_bias"),
    )
    layers = c.size("num_hidden_layers")
    return head_size(c) | written([mixer] * layers, [None] * layers, norms=1)


def _mamba2(c: Config) -> Fields:
    mixer = mamba2(
        c.size("num_heads", default=128),
        c.size("head_dim", default=64),
        c.size("state_size", default=128),
        c.size("n_groups", default=8),
        c.size("conv_kernel", default=4),
        convolution_bias=c.flag("use_conv_bias", default=True),
        bias=c.flag("use_bias"),
        output_bias=c.flag("use_bias"),
    )
    layers = c.size("num_hidden_layers")
    return head_size(c) | written([mixer] * layers, [None] * layers, norms=1)


# ------------------------------------------------------------------------------ with attention


def _mamba2_of_hybrid(c: Config, **how: bool) -> Recurrent:
    """As Bamba, Falcon-H1 and Granite spell it; the size of a head may follow from the others."""
    heads = c.size("mamba_n_heads", default=128)
    inner = c.count("mamba_d_ssm") or c.size("mamba_expand", default=2) * c.size("hidden_size")
    given = c.get("mamba_d_head")
    return mamba2(
        heads,
        inner // heads if given in (None, "auto") else c.size("mamba_d_head"),
        c.size("mamba_d_state", default=256),
        c.size("mamba_n_groups", default=1),
        c.size("mamba_d_conv", default=4),
        convolution_bias=c.flag("mamba_conv_bias", default=True),
        bias=c.flag("mamba_proj_bias"),
        **({"output_bias": c.flag("mamba_proj_bias")} | how),
    )


def _bamba(c: Config) -> Fields:
    full = c.entries("attn_layer_indices") or []
    mixers = kinds(
        c, ("layer_types", "layers_block_type"), MIXERS, lambda i: FULL if i in full else LINEAR
    )
    attention, recurrent = grouped_attention(c), _mamba2_of_hybrid(c)
    return written(
        [attention if kind == FULL else recurrent for kind in mixers],
        [dense_mlp(c)] * len(mixers),
    )


def _falcon_h1(c: Config) -> Fields:
    """Attention and Mamba-2 side by side in every layer, on the same input."""
    bias, norm = c.flag("projectors_bias"), c.flag("mamba_rms_norm")
    recurrent = _mamba2_of_hybrid(c, norm=norm, output_bias=bias)
    layer = Layer(grouped_attention(c), dense_mlp(c), beside=recurrent)
    return {"layers": (layer,) * c.size("num_hidden_layers")}


def _granite(c: Config) -> Fields:
    """Granite 4: experts and a shared MLP; without experts, the shared MLP alone."""
    mixers = kinds(c, ("layer_types", "layers_block_type"), MIXERS, lambda i: LINEAR)
    attention, recurrent = grouped_attention(c), _mamba2_of_hybrid(c)
    shared = c.size("shared_intermediate_size", default=1024)
    mlp: Mlp | Experts = Mlp(shared)
    if count := c.count("num_local_experts"):
        width = c.size("intermediate_size")
        mlp = Experts(count, c.size("num_experts_per_tok"), width, shared_size=shared)
    fields = written(
        [attention if kind == FULL else recurrent for kind in mixers], [mlp] * len(mixers)
    )
    return fields | {"intermediate_size": shared}


def _jamba(c: Config) -> Fields:
    """One attention layer in eight, experts in every second layer."""
    period, offset = c.size("attn_layer_period", default=8), c.count("attn_layer_offset")
    each, first = c.size("expert_layer_period", default=2), c.count("expert_layer_offset")
    mixers = kinds(c, (), MIXERS, lambda i: FULL if i % period == offset else LINEAR)
    attention = grouped_attention(c)
    recurrent = mamba(
        c.size("mamba_expand", default=2) * c.size("hidden_size"),
        c.size("mamba_d_state", default=16),
        _rank(c, "mamba_dt_rank"),
        c.size("mamba_d_conv", default=4),
        norms=True,
        convolution_bias=c.flag("mamba_conv_bias", default=True),
        bias=c.flag("mamba_proj_bias"),
    )
    mlp = dense_mlp(c)
    experts = Experts(c.size("num_experts"), c.size("num_experts_per_tok", default=2), mlp.width)
    return written(
        [attention if kind == FULL else recurrent for kind in mixers],
        [experts if i % each == first and experts.count > 1 else mlp for i in range(len(mixers))],
    )


# -------------------------------------------------------------------------------------- Nemotron

BLOCKS = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
NEMOTRON = {"mamba": "M", "linear_attention": "M", "attention": "*", "full_attention": "*"}
NEMOTRON |= {"mlp": "-", "moe": "E"}


def _blocks(c: Config, listed: str, pattern: str) -> list[str]:
    """The kinds of half layers, from a list or from a string with a letter for each."""
    if c.get(listed) is None and c.get(pattern) is not None:
        letters = Config({listed: [BLOCKS.get(x, x) for x in str(c.get(pattern))]}, c.name)
        return kinds(letters, (listed,), NEMOTRON, str, len(letters.values[listed]))
    return kinds(c, (listed,), NEMOTRON, str, len(c.entries(listed) or ()))


def _nemotron_defaults(c: Config) -> Fields:
    """The number of layers is that of the list, where there is one; the size of a head has two
    names."""
    blocks = _blocks(c, "layers_block_type", "hybrid_override_pattern")
    found: Fields = {"num_hidden_layers": len(blocks)} if blocks else {}
    return found | {"head_dim": c.size("head_dim", "attention_head_dim", default=128)}


def _nemotron(c: Config) -> Fields:
    """Nemotron-H and Nemotron-3: a layer is a mixer or an MLP, with one norm; MLPs without gate;
    an MTP module is a layer of attention and one of experts."""
    blocks = _blocks(c, "layers_block_type", "hybrid_override_pattern")
    if not blocks:
        raise SpecsimError(
            f"{c.name}: config.json lacks the field 'layers_block_type' (or "
            "'hybrid_override_pattern')"
        )
    parts = {kind: _nemotron_block(c, kind) for kind in NEMOTRON.values()}
    layers = tuple(parts[kind] for kind in blocks)
    fields: Fields = {
        "layers": layers,
        "num_layers": len(layers),
        "experts": experts_among(layers),
        "mtp_layers": c.count("num_nextn_predict_layers"),
    }
    if fields["mtp_layers"]:
        halves = _blocks(c, "mtp_layers_block_type", "mtp_hybrid_override_pattern") or ["*", "E"]
        mixers = [parts[kind].mixer for kind in halves if parts[kind].mixer is not None]
        mlps = [parts[kind].mlp for kind in halves if parts[kind].mlp is not None]
        if len(mixers) > 1 or len(mlps) > 1:
            raise SpecsimError(
                f"{c.name}: mtp_layers_block_type may name one mixer and one MLP, not {halves}"
            )
        fields["mtp_layer"] = Layer(
            mixers[0] if mixers else None, mlps[0] if mlps else None, norms=len(halves)
        )
    return fields


def _nemotron_block(c: Config, kind: str) -> Layer:
    """A half layer of the kind."""
    if kind == "*":
        return Layer(grouped_attention(c, bias=False, output_bias=False), None, norms=1)
    if kind == "M":
        mixer = mamba2(
            c.size("mamba_num_heads", default=128),
            c.size("mamba_head_dim", default=64),
            c.size("ssm_state_size", "mamba_state_dim", default=128),
            c.size("n_groups", "mamba_n_groups", "mamba_num_groups", default=8),
            c.size("conv_kernel", "mamba_d_conv", default=4),
            convolution_bias=c.flag("use_conv_bias", default=True),
            bias=c.flag("use_bias"),
            output_bias=c.flag("use_bias"),
        )
        return Layer(mixer, None, norms=1)
    bias = c.flag("mlp_bias")
    if kind == "-":
        return Layer(None, Mlp(c.size("intermediate_size"), gated=False, bias=bias), norms=1)
    if c.get("n_routed_experts") is None:
        return Layer(None, None)  # no layer has experts
    shared = c.count("n_shared_experts") * c.count("moe_shared_expert_intermediate_size")
    hidden, latent = c.size("hidden_size"), c.count("moe_latent_size")
    biases = (shared + hidden if shared else 0) + (latent + hidden if latent else 0)
    experts = Experts(
        count=c.size("n_routed_experts"),
        per_token=c.size("num_experts_per_tok"),
        intermediate_size=c.size("moe_intermediate_size"),
        shared_size=shared,
        router_bias=True,
        gated=False,
        latent_size=latent,
        small_parameters=biases if bias else 0,
    )
    return Layer(None, experts, norms=1)


# ----------------------------------------------------------------------------------------- Zamba


def _zamba(c: Config, attention: Attention, mlp: Mlp, recurrent: Recurrent, **how: int) -> Fields:
    """Mamba layers, some of them after a block of attention and MLP whose weights several share. It
    reads the hidden state beside the embedding: its queries, keys and values have twice the rows.

    A hybrid layer is written as two: the shared block, then the Mamba layer with the projection
    onto the hidden state and the adapters of its own.
    """
    hidden, copies, rank = c.size("hidden_size"), how["copies"], how["rank"]
    columns = attention.query_size + 2 * attention.num_kv_heads * attention.head_dim
    spelled = {"mamba": LINEAR, "linear_attention": LINEAR, "hybrid": FULL}
    period, offset = c.size("attn_layer_period", default=6), c.count("attn_layer_offset")

    def default(index: int) -> str:
        if "copies" in how and c.get("attn_layer_period") is None:
            raise SpecsimError(f"{c.name}: config.json lacks the field 'layers_block_type'")
        return FULL if index == 2 or (index > 2 and (index - 3) % period == offset) else LINEAR

    adapters: tuple[tuple[int, int], ...] = ()
    if rank:
        adapters = ((hidden, rank), (rank, 2 * mlp.width))
    if rank and c.flag("use_shared_attention_adapter"):
        adapters += ((2 * hidden, rank), (rank, attention.query_size)) * 3
    layers: list[Layer] = []
    blocks = 0
    for kind in kinds(c, ("layers_block_type", "layer_types"), spelled, default):
        own: tuple[tuple[int, int], ...] = ()
        if kind == FULL:
            further = ((hidden, columns),)
            shared = blocks >= copies
            layers.append(Layer(attention, mlp, norms=3, matrices=further, shared=shared))
            own = ((hidden, hidden), *adapters)
            blocks += 1
        layers.append(Layer(recurrent, None, norms=1, matrices=own))
    return {"layers": tuple(layers), "num_layers": len(layers), "head_dim": attention.head_dim}


def _zamba_attention(c: Config) -> Attention:
    heads = c.size("num_attention_heads")
    size = c.size("attention_head_dim", default=2 * c.size("hidden_size") // heads)
    return grouped_attention(c, head_dim=size)


def _zamba1(c: Config) -> Fields:
    recurrent = mamba(
        c.size("mamba_expand", default=2) * c.size("hidden_size"),
        c.size("mamba_d_state", default=16),
        _rank(c, "mamba_dt_rank"),
        c.size("mamba_d_conv", default=4),
        groups=c.size("n_mamba_heads", default=2),
        convolution_bias=c.flag("mamba_conv_bias", default=True),
        bias=c.flag("mamba_proj_bias"),
    )
    return _zamba(c, _zamba_attention(c), dense_mlp(c), recurrent, copies=1, rank=0)


def _zamba2(c: Config) -> Fields:
    c.refuse("add_bias_linear", False)
    heads = c.size("n_mamba_heads", default=8)
    recurrent = mamba2(
        heads,
        c.size("mamba_expand", default=2) * c.size("hidden_size") // heads,
        c.size("mamba_d_state", default=64),
        c.size("mamba_ngroups", default=1),
        c.size("mamba_d_conv", default=4),
        convolution_bias=c.flag("use_conv_bias", default=True),
    )
    copies, rank = c.size("num_mem_blocks", default=1), c.size("adapter_rank", default=128)
    return _zamba(c, _zamba_attention(c), dense_mlp(c), recurrent, copies=copies, rank=rank)


JAMBA = {"attn_layer_period": 8, "attn_layer_offset": 4, "expert_layer_period": 2}
ZAMBA = {"tie_word_embeddings": True, "hidden_act": "gelu"}
DEFAULTS: dict[str, Defaults] = {
    "mamba": lambda c: {"tie_word_embeddings": True} | no_attention(c),
    "falcon_mamba": lambda c: {"tie_word_embeddings": True} | no_attention(c),
    "mamba2": no_attention,
    "jamba": JAMBA | {"expert_layer_offset": 1, "num_experts": 16},
    "nemotron_h": _nemotron_defaults,
    "granitemoehybrid": lambda c: {
        "intermediate_size": c.size("shared_intermediate_size", default=1024)
    },
    "zamba": ZAMBA | {"attn_layer_period": 6, "attn_layer_offset": 4},
    "zamba2": lambda c: ZAMBA | {"intermediate_size": 4 * c.size("hidden_size")},
}
FAMILIES: dict[str, Reader] = {
    "mamba": _mamba,
    "falcon_mamba": _mamba,
    "mamba2": _mamba2,
    "bamba": _bamba,
    "falcon_h1": _falcon_h1,
    "granitemoehybrid": _granite,
    "jamba": _jamba,
    "nemotron_h": _nemotron,
    "zamba": _zamba1,
    "zamba2": _zamba2,
}
