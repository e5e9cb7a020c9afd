"""The shape of a model: sizes and no weights.

`Architecture` says what all layers have in common. A mixture of experts and a latent attention
have types of their own (see `parts`); what differs from layer to layer is a tuple of layer indices.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from specsim.architecture.layers import Sizes
from specsim.architecture.parts import (
    Attention,
    Compressed,
    Experts,
    Indexer,
    LatentAttention,
    Layer,
    Llama3RopeScaling,
    Mixer,
    Mlp,
    Recurrent,
    layer_numbers,
)
from specsim.architecture.storage import Storage
from specsim.checks import (
    SpecsimError,
    build,
    quoted,
    require_finite,
    require_flags,
    require_size,
    require_text,
)
from specsim.checks.limits import require_limit
from specsim.checks.shown import Shown

ACTIVATIONS = ("silu", "gelu", "relu", "relu2", "xielu")
NORMS = ("rms", "layer", "layer without bias", "none")
FLAGS = (
    "tied_head", "qkv_bias", "qk_norm", "gated_mlp", "output_bias", "mlp_bias", "head_bias",
    "attention_sinks",
)  # fmt: skip
PARTS: Mapping[str, Any] = {
    "rope_scaling": Llama3RopeScaling | str | None,
    "experts": Experts | None,
    "latent": LatentAttention | None,
    "stored": Storage | None,
}
SIZES = {  # of a model: the limit of each, and the least that makes sense
    "hidden_size": ("width", 1),
    "num_layers": ("layers", 1),
    "num_heads": ("heads", 1),
    "num_kv_heads": ("heads", 1),
    "head_dim": ("width", 1),
    "intermediate_size": ("width", 1),
    "vocab_size": ("vocabulary", 1),
    "max_context": ("context", 1),
    "learned_positions": ("context", 0),
    "mtp_layers": ("layers", 0),
    "gathered_parameters": ("parameters", 0),
    "other_parameters": ("parameters", 0),
    "small_parameters": ("parameters", 0),
}


@dataclass(frozen=True, slots=True, repr=False)
class Architecture(Sizes, Shown):
    """A decoder-only transformer. Without the fields from `norm` on it is of the Llama shape:
    RMSNorm, RoPE, grouped-query attention, SwiGLU.

    All sizes are element counts. `head_dim` is a field of its own because
    `hidden_size / num_heads` is wrong for Qwen3 and others. `max_context` is the number of
    positions the model was made for.

    | field | meaning |
    |---|---|
    | `rope_scaling` | Llama 3.1's in full; of others the name alone, which no cost depends on |
    | `norm` | "rms"; "layer" has a bias for each weight, "none" no parameters (OLMo) |
    | `norms_per_layer` | 2; 4 with one after each block too (Gemma); 1 feeds both at once (Phi-2) |
    | `gated_mlp` | three matrices (gate, up, down), or two |
    | `learned_positions` | rows of a table of positions (OPT, GPT-2), where there is no RoPE |
    | `attention_sinks` | a learned logit per head next to those of the keys (gpt-oss) |
    | `attention_softcap`, `logit_softcap` | limits of a tanh over scores and logits (Gemma 2) |
    | `sliding_window`, `sliding_layers` | layers, by index, that attend to the last tokens only |
    | `experts`, `latent` | a mixture of experts, a latent attention |
    | `mtp_layers` | modules that predict a token further (DeepSeek-V3); not in `parameters` |
    | `layers` | all of them, where they differ in kind (see `parts`); else made of these fields |
    | `mtp_layer` | that of an MTP module, where it is not like the last |
    | `gathered_parameters` | of further tables of which a token reads a row |
    | `other_parameters` | of further matrices that a pass reads once |
    | `small_parameters` | of norms outside of the layers, beside the last one |
    | `stored` | how its checkpoint stores the weights; None where that says nothing |
    | `tokenizer` | its family, a row of tokenizers.toml; None where it is unknown |
    | `read_as` | a sentence, where its config was read as that of another family (`like`) |
    """

    name: str
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    tied_head: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    max_context: int = 4096
    rope_theta: float = 10_000.0
    rope_scaling: Llama3RopeScaling | str | None = None
    norm_eps: float = 1e-5
    norm: str = "rms"
    norms_per_layer: int = 2
    gated_mlp: bool = True
    activation: str = "silu"
    output_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    learned_positions: int = 0
    attention_sinks: bool = False
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    sliding_window: int | None = None
    sliding_layers: tuple[int, ...] = ()
    experts: Experts | None = None
    latent: LatentAttention | None = None
    mtp_layers: int = 0
    layers: tuple[Layer, ...] = ()
    mtp_layer: Layer | None = None
    gathered_parameters: int = 0
    other_parameters: int = 0
    small_parameters: int = 0
    tokenizer: str | None = None
    stored: Storage | None = None
    read_as: str | None = None

    def __post_init__(self) -> None:
        require_text("the name of a model", self.name)
        sliding = layer_numbers(f"{self.name}: sliding_layers", self.sliding_layers)
        object.__setattr__(self, "sliding_layers", sliding)
        for field, (limit, least) in SIZES.items():
            size = getattr(self, field)
            require_size(f"{self.name}: {field}", size, least)
            require_limit(limit, size, f"{self.name}: {field}")
        require_flags(self.name, **{field: getattr(self, field) for field in FLAGS})
        for field in ("rope_theta", "norm_eps", "attention_softcap", "logit_softcap"):
            if (number := getattr(self, field)) is not None or field in ("rope_theta", "norm_eps"):
                require_finite(f"{self.name}: {field}", number)
        for field, part in PARTS.items():
            if not isinstance(getattr(self, field), part):
                raise SpecsimError(
                    f"{self.name}: {field} must be {part}, not {quoted(getattr(self, field))}"
                )
        if not all(isinstance(layer, Layer) for layer in self.layers):
            raise SpecsimError(f"{self.name}: layers must be of the type Layer")
        object.__setattr__(self, "layers", tuple(self.layers))
        if self.layers and len(self.layers) != self.num_layers:
            raise SpecsimError(
                f"{self.name}: {len(self.layers)} layers are written out, num_layers says "
                f"{self.num_layers}"
            )
        if self.experts and self.experts.gated != self.gated_mlp and not self.layers:
            object.__setattr__(self, "experts", replace(self.experts, gated=self.gated_mlp))
        if self.num_heads % self.num_kv_heads:
            raise SpecsimError(
                f"{self.name}: {self.num_heads} query heads cannot share "
                f"{self.num_kv_heads} KV heads evenly"
            )
        if self.head_dim % 2 and not self.learned_positions:
            raise SpecsimError(
                f"{self.name}: head_dim {self.head_dim} must be even for rotary embedding"
            )
        for field, known in (("activation", ACTIVATIONS), ("norm", NORMS)):
            if getattr(self, field) not in known:
                raise SpecsimError(
                    f"{self.name}: {field} must be one of {', '.join(known)}, "
                    f"not {quoted(getattr(self, field))}"
                )
        if self.norms_per_layer not in (1, 2, 4):
            raise SpecsimError(
                f"{self.name}: norms_per_layer must be 1, 2 or 4, "
                f"not {quoted(self.norms_per_layer)}"
            )
        if self.sliding_layers and self.sliding_window is None:
            raise SpecsimError(f"{self.name}: sliding_layers need a sliding_window")
        if self.sliding_window is not None:
            require_size(f"{self.name}: sliding_window", self.sliding_window)
            require_limit("context", self.sliding_window, f"{self.name}: sliding_window")
        dense = self.experts.dense_layers if self.experts else ()
        for index in (*self.sliding_layers, *dense):
            if index >= self.num_layers:
                raise SpecsimError(
                    f"{self.name} has no layer {index}: they are 0 to {self.num_layers - 1}"
                )

    def __hash__(self) -> int:
        """Of all fields, computed once: what follows from a model is kept by it (`layers_of`)."""
        try:
            return self._hash
        except AttributeError:
            found = hash(tuple(getattr(self, field.name) for field in fields(self)))
            object.__setattr__(self, "_hash", found)
            return found

    # ---------------------------------------------------------------------------- other shapes

    def first_layers(self, num_layers: int) -> "Architecture":
        """The same model cut after its first `num_layers` layers (an early exit)."""
        if not 1 <= num_layers <= self.num_layers:
            raise SpecsimError(
                f"{self.name} has {self.num_layers} layers; cannot keep the first {num_layers}"
            )
        return self._layers(range(num_layers), f"{self.name}-first-{num_layers}")

    def last_layers(self, num_layers: int) -> "Architecture":
        """The same model without all but its last `num_layers` layers: what an accelerator keeps
        of one whose first layers are computed elsewhere."""
        if not 1 <= num_layers <= self.num_layers:
            raise SpecsimError(
                f"{self.name} has {self.num_layers} layers; cannot keep the last {num_layers}"
            )
        kept = range(self.num_layers - num_layers, self.num_layers)
        return self._layers(kept, f"{self.name}-last-{num_layers}")

    @property
    def mtp_module(self) -> "Architecture":
        """A model of one layer like the last (DeepSeek-V3's: a mixture of experts), with the
        tables of this one. The drafting method counts the projection in front of it. Where the last
        is recurrent and the config says nothing of a module: an attention layer."""
        name = f"{self.name}-mtp"
        if self.mtp_layer is None and self.layers and not self.layers[-1].is_attention:
            return replace(self.plain_layers(1), name=name)
        last = self._layers(range(self.num_layers - 1, self.num_layers), name)
        return replace(last, layers=(self.mtp_layer,)) if self.mtp_layer else last

    def plain_layers(self, num_layers: int) -> "Architecture":
        """So many layers of attention to all tokens and an MLP, with the tables of this model: its
        first ones, or layers made of the plain fields where its own are written out."""
        if not self.layers:
            return replace(self.first_layers(num_layers), sliding_layers=())
        experts = replace(self.experts, dense_layers=()) if self.experts else None
        return replace(
            self,
            name=f"{self.name}-plain-{num_layers}",
            num_layers=num_layers,
            sliding_layers=(),
            layers=(),
            experts=experts,
            mtp_layers=0,
            mtp_layer=None,
            gathered_parameters=0,
            other_parameters=0,
            small_parameters=0,
        )

    def with_layers(self, layers: tuple[Layer, ...]) -> "Architecture":
        """The same model with other layers written out; itself where there are none."""
        return replace(self, layers=layers, num_layers=len(layers)) if layers else self

    def _layers(self, kept: range, name: str) -> "Architecture":
        """The same model with the layers in `kept` alone, counted from 0 again."""

        def renumbered(layers: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(index - kept.start for index in layers if index in kept)

        experts = self.experts
        if experts:
            experts = replace(experts, dense_layers=renumbered(experts.dense_layers))
        sliding = renumbered(self.sliding_layers)
        return replace(
            self,
            name=name,
            num_layers=len(kept),
            sliding_layers=sliding,
            experts=experts,
            mtp_layers=0,
            mtp_layer=None,
            layers=tuple(self.layers[index] for index in kept) if self.layers else (),
            gathered_parameters=0,
            other_parameters=0,
            small_parameters=0,
        )

    def with_routing_correlation(self, correlation: float) -> "Architecture":
        """The same mixture of experts on text whose tokens choose alike (see `Experts`)."""
        if self.experts is None:
            raise SpecsimError(f"{self.name} has no experts whose routing could be correlated")
        experts = replace(self.experts, routing_correlation=correlation)

        def correlated(layer: Layer) -> Layer:
            if not isinstance(layer.mlp, Experts):
                return layer
            return replace(layer, mlp=replace(layer.mlp, routing_correlation=correlation))

        return replace(self, experts=experts, layers=tuple(map(correlated, self.layers)))

    @property
    def departures(self) -> tuple[str, ...]:
        """What sets it apart from the Llama shape, in words; empty for those the decoder runs."""
        found = {
            "experts with biases or corrected scores": bool(
                self.experts and (self.experts.biases or self.experts.router_bias)
            ),
            "shared experts without a gate": bool(
                self.experts and self.experts.shared_size and not self.experts.shared_gate
            ),
            "latent attention": self.latent is not None,
            f"a window of {self.sliding_window} tokens": bool(self.sliding_layers),
            "LayerNorm": self.norm != "rms",
            "layers of several kinds": bool(self.layers),
            f"{self.norms_per_layer} norms a layer": self.norms_per_layer != 2,
            "an MLP of two matrices": not self.gated_mlp,
            f"{self.activation} as activation": self.activation != "silu",
            "a bias on the output projection": self.output_bias,
            "biases in the MLP": self.mlp_bias,
            "a bias on the LM head": self.head_bias,
            "learned positions": self.learned_positions > 0,
            "attention sinks": self.attention_sinks,
            "a soft-cap": bool(self.attention_softcap or self.logit_softcap),
            f"rope_type {self.rope_scaling!r}": isinstance(self.rope_scaling, str),
        }
        return tuple(words for words, departs in found.items() if departs)

    def require_llama_shape(self) -> "Architecture":
        """Itself; SpecsimError, naming every departure, for a shape of which sizes do not say all
        that a forward pass needs."""
        if self.departures:
            raise SpecsimError(
                f"{self.name} has {', '.join(self.departures)}: sizes alone make models of the "
                "Llama shape (RMSNorm, RoPE, full attention, SwiGLU or experts of it); its cost "
                "can be predicted, and docs/decoding.md lists the families that are decoded"
            )
        return self

    # -------------------------------------------------------------------------- in and out

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> "Architecture":
        """The inverse of `dataclasses.asdict`, also after a journey through JSON. Raises
        SpecsimError for a field that is missing, unknown, or of the wrong kind."""
        if not isinstance(fields, Mapping):
            raise SpecsimError(f"a model must be a table of its fields, not {quoted(fields)}")
        fields = dict(fields)
        nested = {"rope_scaling": Llama3RopeScaling, "experts": Experts, "latent": LatentAttention}
        nested |= {"stored": Storage}
        for field, part in nested.items():
            if isinstance(fields.get(field), Mapping):
                fields[field] = build(part, fields[field], field)
        if fields.get("layers"):
            fields["layers"] = tuple(_layer(layer) for layer in fields["layers"])
        if fields.get("mtp_layer") is not None:
            fields["mtp_layer"] = _layer(fields["mtp_layer"])
        return build(cls, fields, "a model")

    def _facts(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "parameters": billions(self.parameters),
            "layers": self.num_layers,
            "hidden size": self.hidden_size,
            "heads": f"{self.num_heads} (KV {self.num_kv_heads})",
            "vocabulary": f"{self.vocab_size:,}",
            "context": f"{self.max_context:,} tokens",
        }


def billions(count: int) -> str:
    """A number of parameters in words: "0.596 billion", "8.03 billion", "1,026 billion"."""
    value = count / 1e9
    return f"{value:,.0f} billion" if value >= 100 else f"{value:.3g} billion"


def _layer(values: Any) -> Layer:
    """A layer from plain data."""
    if isinstance(values, Layer):
        return values
    if not isinstance(values, Mapping):
        raise SpecsimError(f"a layer must be a table of fields, not {quoted(values)}")
    made: dict[str, Any] = dict(values) | {"matrices": _pairs(values.get("matrices", ()))}
    for field in ("mixer", "beside"):
        made[field] = _mixer(values.get(field))
    if (mlp := values.get("mlp")) is not None:
        kind = Experts if isinstance(mlp, Mapping) and "count" in mlp else Mlp
        made["mlp"] = build(kind, mlp, "the MLP of a layer")
    return build(Layer, made, "a layer")


def _mixer(values: Any) -> Mixer | None:
    """A mixer from plain data: a recurrent one has a `kind`."""
    if values is None:
        return None
    if not isinstance(values, Mapping):
        raise SpecsimError(f"the mixer of a layer must be a table, not {quoted(values)}")
    if "kind" in values:
        low_rank = {"low_rank": _pairs(values.get("low_rank", ()))}
        return build(Recurrent, {**values, **low_rank}, "the mixer of a layer")
    parts = {"latent": LatentAttention, "indexer": Indexer, "compressed": Compressed}
    made = {
        name: build(part, values[name], name) for name, part in parts.items() if values.get(name)
    }
    return build(Attention, {**values, **made}, "the mixer of a layer")


def _pairs(values: Any) -> tuple[tuple[int, int], ...]:
    """(rows, columns) of matrices."""
    good = isinstance(values, list | tuple) and all(
        isinstance(pair, list | tuple) and len(pair) == 2 for pair in values
    )
    if not good:
        raise SpecsimError(f"matrices must be pairs of rows and columns, not {quoted(values)}")
    for pair in values:
        for size in pair:
            require_size("a matrix", size)
    return tuple((pair[0], pair[1]) for pair in values)
