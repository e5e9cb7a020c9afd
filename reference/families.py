"""Which families the decoder runs: for each, what its config.json says that sizes do not.

A family that is not listed is refused by name, even if its sizes are Llama's: multipliers, angles
and the order of norms have no size, and a pass without them gives wrong text and no error.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reference.details import DeltaSizes, Details, Kind
from reference.layers import DeltaLayer, GatedLayer, VariedLayer
from reference.rotary import Rope
from reference.weights import MIXTRAL
from specsim.architecture import Architecture, Config, language_model
from specsim.checks import SpecsimError

# what the options of `details` and `layers` cover, as `Architecture.departures` words it
COVERED = (
    "a window", "layers of several kinds", "4 norms", "an MLP of two matrices", "gelu as",
    "relu2 as",
    "a bias on the output projection", "biases in the MLP", "a soft-cap", "rope_type",
)  # fmt: skip
FUSED_MLP = {"gate_up.weight": ("mlp.gate_up_proj.weight",)}
FUSED = FUSED_MLP | {"qkv.weight": ("self_attn.qkv_proj.weight",)}
UP_ALONE = {"gate_up.weight": ("mlp.up_proj.weight",), "gate_up.bias": ("mlp.up_proj.bias",)}
GEMMA_NORMS = {
    "attention_post": ("post_attention_layernorm.weight",),
    "mlp_norm": ("pre_feedforward_layernorm.weight",),
    "mlp_post": ("post_feedforward_layernorm.weight",),
}
GLM_NORMS = {
    "attention_post": ("post_self_attn_layernorm.weight",),
    "mlp_post": ("post_mlp_layernorm.weight",),
}
DELTA = {
    "delta.kernel": ("linear_attn.conv1d.weight",),
    "delta.decay_bias": ("linear_attn.dt_bias",),
    "delta.log_decay": ("linear_attn.A_log",),
    "delta.norm": ("linear_attn.norm.weight",),
    "delta.output.weight": ("linear_attn.out_proj.weight",),
}
QWEN_NEXT = DELTA | {
    "delta.project.weight": ("linear_attn.in_proj_qkvz.weight", "linear_attn.in_proj_ba.weight")
}
QWEN_35 = DELTA | {
    "delta.project.weight": tuple(
        f"linear_attn.in_proj_{part}.weight" for part in ["qkv", "z", "b", "a"]
    )
}


@dataclass(frozen=True, slots=True)
class Source:
    """A config under its names, and the architecture that was read from it."""

    c: Config
    shape: Architecture

    def rope(self, kind: str = "", *, scaled: bool = True, **defaults: Any) -> Rope:
        """How layers turn their heads, those called `kind` where the config has a table for each;
        `defaults`: theta, partial (the share of a head that turns), interleaved, original (the
        context before it was extended), renamed (what this family calls otherwise)."""
        c, shape = self.c, self.shape
        table = dict(c.table("rope_parameters") or c.table("rope_scaling"))
        own = table.get(kind)
        if any(isinstance(each, Mapping) for each in table.values()):
            table = dict(own) if isinstance(own, Mapping) else {}
        elif not scaled:
            table = {}
        read = Config(table, c.name)
        theta = defaults.get("theta", 10_000.0)
        theta = read.number("rope_theta", default=c.number("rope_theta", default=theta))
        share = c.number("partial_rotary_factor", default=defaults.get("partial", 1.0))
        share = read.number("partial_rotary_factor", default=share)
        if not 0 < share <= 1:
            raise SpecsimError(
                f"{shape.name}: partial_rotary_factor must be above 0 and at most 1, not {share}"
            )
        size = int(share * shape.head_dim)
        kind_of_rope = defaults.get("renamed", {}).get(rope_type(table)) or rope_type(table)
        scaling = {**table, "rope_type": kind_of_rope}
        if kind_of_rope in ("yarn", "longrope"):
            name = "original_max_position_embeddings"
            within = read.number(name, default=defaults.get("original", shape.max_context))
            scaling[name] = c.number(name, default=within)  # next to the table it comes first
            if scaling.get("factor") is None and scaling[name] > 0 and kind_of_rope == "longrope":
                scaling["factor"] = shape.max_context / scaling[name]
        try:
            return Rope(theta, size - size % 2, defaults.get("interleaved", False), scaling)
        except SpecsimError as error:
            raise SpecsimError(f"{shape.name} {error}; its cost can be predicted") from None

    def details(self, ropes: Iterable[Rope] = (), **how: Any) -> Details:
        """Details with these `ropes`: one, or one for layers that see everything and one for those
        with a window."""
        shape, ropes = self.shape, tuple(ropes) or (self.rope(),)
        full, sliding = Kind(0), Kind(len(ropes) - 1, shape.sliding_window)
        windows = set(windowed(shape))
        kind_of = tuple(1 if index in windows else 0 for index in range(shape.num_layers))
        ropes += tuple(rope.for_long_texts for rope in ropes if rope.kind == "longrope")
        found = {"ropes": ropes, "kinds": (full, sliding), "kind_of": kind_of, "build": VariedLayer}
        return Details(**(found | {"activation": activation(self.c, shape)} | how))


def rope_type(table: Mapping[str, Any]) -> str:
    """The `rope_type`; multimodal models' sections do not differ for text."""
    kind = table.get("rope_type") or table.get("type") or "default"
    return {"mrope": "default", "su": "longrope"}.get(str(kind), str(kind))


def windowed(shape: Architecture) -> tuple[int, ...]:
    """The layers that look back no further than a window."""
    if not shape.layers:
        return shape.sliding_layers
    reaches = [getattr(layer.mixer, "window", None) for layer in shape.layers]
    return tuple(index for index, reach in enumerate(reaches) if reach is not None)


def activation(c: Config, shape: Architecture) -> str:
    """The activation of the MLP, by the name of its formula."""
    said = c.get("hidden_activation", "hidden_act")
    if shape.activation != "gelu":
        return shape.activation
    tanh = ("gelu_pytorch_tanh", "gelu_new", "gelu_fast")
    # Gemma's older configs say gelu and mean the tanh formula, which its own code takes
    if said in tanh or (said == "gelu" and c.get("model_type") == "gemma"):
        return "gelu_tanh"
    return "gelu"


def _plain(s: Source) -> Details:
    return s.details()


def _phi3(s: Source) -> Details:
    """The first Phi-3 configs with two lists of factors call that su, or yarn."""
    rope = s.rope(renamed={"yarn": "longrope"}, original=4096)
    return s.details([rope], names=FUSED)


def _interleaved(s: Source) -> Details:
    return s.details([s.rope(interleaved=True)])


def _granite(s: Source) -> Details:
    scale = s.c.number("attention_multiplier", default=1.0) * s.shape.head_dim**0.5
    return s.details(
        embedding_scale=s.c.number("embedding_multiplier", default=1.0),
        residual_scale=s.c.number("residual_multiplier", default=1.0),
        logit_scale=1 / s.c.number("logits_scaling", default=1.0),
        query_scale=scale,
    )


def _smollm3(s: Source) -> Details:
    """Some layers do not turn their heads."""
    c, shape = s.c, s.shape
    layers, every = shape.num_layers, c.size("no_rope_layer_interval", default=4)
    turning = c.each(layers, "no_rope_layers") or [(i + 1) % every for i in range(layers)]
    rope = s.rope(theta=2_000_000.0)
    kinds = (Kind(0), Kind(1), Kind(0, shape.sliding_window), Kind(1, shape.sliding_window))
    windows = set(windowed(shape))
    kind_of = tuple(2 * (i in windows) + (not turning[i]) for i in range(layers))
    return s.details([rope, Rope(rope.theta, 0)], kinds=kinds, kind_of=kind_of)


def _ministral3(s: Source) -> Details:
    """Beyond the original context, queries grow with the logarithm of the position."""
    rope = s.rope(theta=1e6)
    beta = rope.number("llama_4_scaling_beta", 0.0)
    original = rope.number("original_max_position_embeddings", float(s.shape.max_context))
    return s.details([rope], growth=(beta, original) if beta else None)


def _olmo2(s: Source) -> Details:
    names = {
        "attention_post": ("post_attention_layernorm.weight",),
        "mlp_post": ("post_feedforward_layernorm.weight",),
    }
    ropes = [s.rope("full_attention"), s.rope("sliding_attention", scaled=False)]
    ropes = ropes if s.shape.sliding_window else ropes[:1]
    return s.details(ropes, norms="after", wide_norms=True, names=names)


def _glm4(s: Source) -> Details:
    rope = s.rope(partial=0.5, interleaved=True)
    return s.details([rope], norms="both", names=FUSED_MLP | GLM_NORMS)


def _gemma(s: Source, ropes: Iterable[Rope] = (), **how: Any) -> Details:
    scale = s.shape.hidden_size**0.5
    return s.details(ropes, unit_norms=True, embedding_scale=scale, **how)


def _gemma2(s: Source, ropes: Iterable[Rope] = ()) -> Details:
    if s.c.flag("use_bidirectional_attention"):
        raise SpecsimError(f"{s.shape.name} attends in both directions: it does not decode")
    scalar = s.c.number("query_pre_attn_scalar", default=256.0)
    scale = (s.shape.head_dim / scalar) ** 0.5
    return _gemma(s, ropes, norms="both", names=GEMMA_NORMS, query_scale=scale)


def _gemma3(s: Source) -> Details:
    """Layers with a window turn by angles of their own."""
    local = s.c.number("rope_local_base_freq", default=10_000.0)
    nested = any(isinstance(each, Mapping) for each in s.c.table("rope_parameters").values())
    near = s.rope("sliding_attention") if nested else Rope(local, s.shape.head_dim)
    return _gemma2(s, [s.rope("full_attention", theta=1e6), near])


def _qwen_hybrid(s: Source, names: Mapping[str, tuple[str, ...]]) -> Details:
    """Three of four layers gated DeltaNet; the others gate what attention looked up."""
    c = s.c
    recurrent = tuple(not layer.is_attention for layer in s.shape.layers)
    sizes = DeltaSizes(
        key_heads=c.size("linear_num_key_heads", default=16),
        value_heads=c.size("linear_num_value_heads", default=32),
        key_size=c.size("linear_key_head_dim", default=128),
        value_size=c.size("linear_value_head_dim", default=128),
        kernel=c.size("linear_conv_kernel_dim", default=4),
    )
    if sizes.value_heads % sizes.key_heads:
        raise SpecsimError(
            f"{s.shape.name}: {sizes.value_heads} value heads cannot share {sizes.key_heads} key "
            "heads evenly"
        )
    return s.details(
        [s.rope(partial=0.25)], build=hybrid_layer, recurrent=recurrent, delta=sizes, gated=True,
        unit_norms=True, names=names,
    )  # fmt: skip


def hybrid_layer(shape: Architecture, index: int, details: Details) -> VariedLayer:
    """A layer of a hybrid: recurrent, or attention with a gate."""
    return (DeltaLayer if details.recurrent[index] else GatedLayer)(shape, index, details)


# of the Llama shape, unless a config departs from it
LLAMA_LIKE = (
    "llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "qwen2_vl",
    "qwen2_vl_text", "qwen2_5_vl", "qwen2_5_vl_text", "qwen3_vl_text", "qwen3_vl_moe_text",
)  # fmt: skip
Reader = Callable[[Source], Details]
FAMILIES: dict[str, Reader] = {
    "phi3": _phi3,
    "granite": _granite,
    "arcee": lambda s: s.details(names=UP_ALONE),
    "smollm3": _smollm3,
    "ministral": _plain,
    "ministral3": _ministral3,
    "olmo2": _olmo2,
    "olmo3": _olmo2,
    "glm4": _glm4,
    "seed_oss": _plain,
    "helium": _interleaved,
    "ernie4_5": _interleaved,
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "qwen3_next": lambda s: _qwen_hybrid(s, QWEN_NEXT),
    "qwen3_5_text": lambda s: _qwen_hybrid(s, QWEN_35),
    "qwen3_5_moe_text": lambda s: _qwen_hybrid(s, QWEN_35),
}


def details_of(config: Mapping[str, Any], shape: Architecture) -> Details | None:
    """What the forward pass of a checkpoint does differently from Llama's; None where nothing.

    Raises SpecsimError for a family, or a part of a model, that can only be priced.
    """
    text, _ = language_model(config)
    family = str(text.get("model_type"))
    given = {key: value for key, value in text.items() if value is not None}
    source = Source(Config(given, shape.name), shape)
    if family in LLAMA_LIKE and not shape.departures:
        return None
    left = [words for words in shape.departures if not words.startswith(COVERED)]
    if left:
        raise SpecsimError(
            f"{shape.name} has {', '.join(left)}: no forward pass of the decoder does that; its "
            "cost can be predicted"
        )
    if family in LLAMA_LIKE:
        return source.details(names=MIXTRAL if family == "mixtral" else {})
    if family not in FAMILIES:
        known = ", ".join(sorted((*LLAMA_LIKE, *FAMILIES)))
        raise SpecsimError(
            f"{shape.name} is of the family {family}, which the decoder does not run; it runs "
            f"{known}. Its cost can be predicted"
        )
    return FAMILIES[family](source)


# --------------------------------------------------------------------------- weights as ours


def converted(name: str, weight: Tensor, shape: Architecture, details: Details | None) -> Tensor:
    """Our weight `name` from the checkpoint's parts joined: rows in our order, norms in full."""
    if details is None:
        return weight
    order = order_of_rows(name, shape, details, len(weight))
    if order is not None:
        weight = weight[order]
    if details.unit_norms and name.endswith(("norm", "_post")) and ".delta." not in name:
        weight = weight.to(torch.promote_types(weight.dtype, torch.float32)) + 1
    return weight


def order_of_rows(name: str, shape: Architecture, details: Details, rows: int) -> Tensor | None:
    """Which of the checkpoint's rows stands at each place of our weight; None: as they are."""
    if not name.startswith("layers."):
        return None
    layer, inner = name.removeprefix("layers.").split(".", 1)
    head = torch.tensor(details.rope(int(layer)).order_of_head(shape.head_dim))
    queries, keys = shape.num_heads, shape.num_kv_heads
    if inner in ("qkv.weight", "qkv.bias"):
        return order_of_qkv(head, queries, keys, details.gated)
    if inner in ("query_norm", "key_norm"):
        return by_head(head, rows // shape.head_dim, shape.head_dim)
    if inner == "delta.project.weight" and details.names is QWEN_NEXT:
        assert details.delta is not None
        return order_of_groups(details.delta)
    return None


def by_head(head: Tensor, heads: int, stride: int) -> Tensor:
    """The order `head` of one head's rows, for `heads` of them that begin `stride` rows apart."""
    return (torch.arange(heads)[:, None] * stride + head).flatten()


def order_of_qkv(head: Tensor, queries: int, keys: int, gated: bool) -> Tensor:
    """Rows of queries, keys and values (and of the gate, which a checkpoint keeps next to each
    query head) in our order."""
    size = len(head)
    stride = 2 * size if gated else size
    first, whole = queries * stride, torch.arange(size)
    parts = [
        by_head(head, queries, stride),
        first + by_head(head, keys, size),
        first + by_head(whole, keys, size) + keys * size,
    ]
    return torch.cat(parts + ([by_head(whole, queries, stride) + size] if gated else []))


def order_of_groups(sizes: DeltaSizes) -> Tensor:
    """Qwen3-Next keeps queries, keys, values and gate of each key head together, and steps and
    decays too; ours stand part by part."""
    each = sizes.value_heads // sizes.key_heads
    value = each * sizes.value_size
    group = torch.arange(2 * sizes.key_size + 2 * value).split(
        (sizes.key_size, sizes.key_size, value, value)
    )
    stride = 2 * sizes.key_size + 2 * value
    parts = [by_head(rows, sizes.key_heads, stride) for rows in group]
    first = sizes.key_heads * stride
    pair = torch.arange(2 * each).split(each)
    return torch.cat(parts + [first + by_head(rows, sizes.key_heads, 2 * each) for rows in pair])
