"""What families share whose layers differ in kind: which layer is of which kind, and the fields of
a model whose layers are written out."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from specsim.architecture.fields import Config, Fields
from specsim.architecture.parts import Attention, Experts, LatentAttention, Layer, Mixer, Mlp
from specsim.checks import SpecsimError

FULL, LINEAR, SPARSE, DENSE = "full", "linear", "sparse", "dense"
MIXERS = {
    "full_attention": FULL,
    "attention": FULL,
    "linear_attention": LINEAR,
    "mamba": LINEAR,
    "recurrent": LINEAR,
    "conv": LINEAR,
}
MLPS = {"dense": DENSE, "sparse": SPARSE}


def kinds(
    c: Config,
    keys: Sequence[str],
    meanings: Mapping[str, str],
    default: Callable[[int], str],
    count: int | None = None,
) -> list[str]:
    """The kind of every layer: from the list under one of `keys`, in its spellings, or `default` of
    each index. SpecsimError for another spelling or length."""
    layers = c.size("num_hidden_layers") if count is None else count
    found = next((each for key in keys if (each := c.entries(key)) is not None), None)
    if found is None:
        return [default(index) for index in range(layers)]
    unknown = sorted({str(kind) for kind in found} - set(meanings))
    if unknown or len(found) != layers:
        said = f"has {len(found)} entries" if not unknown else f"names {', '.join(unknown)}"
        raise SpecsimError(
            f"{c.name}: {keys[0]} {said}; expected {layers} of {', '.join(meanings)}. Another "
            "model is written as specsim.Architecture(…, layers=(specsim.architecture.Layer(…), …))"
        )
    return [meanings[str(kind)] for kind in found]


def mlp_kinds(c: Config, first_dense: int = 0) -> list[str]:
    """Dense or with experts, layer by layer; without a list, the first `first_dense` are dense."""
    return kinds(
        c, ("mlp_layer_types",), MLPS, lambda index: DENSE if index < first_dense else SPARSE
    )


def written(
    mixers: Sequence[Mixer | None], mlps: Sequence[Mlp | Experts | None], **how: Any
) -> Fields:
    """The fields of a model with these mixers and MLPs, layer by layer; `how`, fields of all its
    layers. Its experts, where it has any, stand among the plain fields too."""
    layers = tuple(Layer(mixer, mlp, **how) for mixer, mlp in zip(mixers, mlps, strict=True))
    return {"layers": layers, "num_layers": len(layers), "experts": experts_among(layers)}


def experts_among(layers: Sequence[Layer]) -> Experts | None:
    """The experts of the first layer that has any."""
    return next((layer.mlp for layer in layers if isinstance(layer.mlp, Experts)), None)


def grouped_attention(c: Config, **how: Any) -> Attention:
    """Attention of the sizes that most configs spell alike; `how`, further fields."""
    heads = c.size("num_attention_heads")
    sizes: Fields = {
        "num_heads": heads,
        "num_kv_heads": c.get("num_key_value_heads") or heads,
        "head_dim": c.get("head_dim", "attention_head_dim") or c.size("hidden_size") // heads,
        "bias": c.flag("attention_bias"),
        "output_bias": c.flag("attention_bias"),
    }
    return Attention(**(sizes | how))


def latent_attention(c: Config, **how: Any) -> Attention:
    """Multi-head latent attention (DeepSeek-V2), with further fields `how`."""
    c.refuse("attention_bias", False)
    latent = LatentAttention(
        kv_rank=c.size("kv_lora_rank"),
        rope_size=c.count("qk_rope_head_dim"),
        nope_size=c.size("qk_nope_head_dim"),
        value_size=c.size("v_head_dim"),
        query_rank=c.count("q_lora_rank") or None,
    )
    heads = c.size("num_attention_heads")
    sizes: Fields = {
        "num_heads": heads,
        "num_kv_heads": heads,
        "head_dim": latent.nope_size + latent.rope_size,
        "latent": latent,
    }
    return Attention(**(sizes | how))


def latent_fields(attention: Attention) -> Fields:
    """The plain fields that say the same, which a head for drafting is made of."""
    names = ("num_kv_heads", "head_dim", "latent")
    return {name: getattr(attention, name) for name in names}


def dense_mlp(c: Config) -> Mlp:
    """Gate, up and down of the width that the config says."""
    return Mlp(c.size("intermediate_size"), bias=c.flag("mlp_bias"))


def visited_width(c: Config) -> Fields:
    """A stand-in for the width of a dense MLP where a config has experts alone: that of the experts
    that a token visits. The layer of a drafting head is that wide."""
    if c.get("intermediate_size") is not None:
        return {}
    width = c.size("moe_intermediate_size") * c.size("num_experts_per_tok", default=1)
    return {"intermediate_size": width + c.count("shared_expert_intermediate_size")}
