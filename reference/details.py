"""What a family's forward pass does differently from Llama's, as data: read once from config.json.

An `Architecture` says the sizes, which cost time. `Details` say the rest, which costs next to
nothing and still decides every logit: how angles turn, where norms stand, which factors apply. A
model of the Llama shape has none.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from reference.rotary import Rope
from specsim.architecture import Architecture

NORMS = ("before", "both", "after")


@dataclass(frozen=True, slots=True)
class Kind:
    """What the layers of one kind see: angles, and how many tokens back."""

    rope: int  # index among the ropes
    window: int | None = None


@dataclass(frozen=True, slots=True)
class DeltaSizes:
    """Sizes of a gated DeltaNet layer: for each value head a state of keys x values."""

    key_heads: int
    value_heads: int
    key_size: int
    value_size: int
    kernel: int  # tokens that the convolution in front reads

    @property
    def keys(self) -> int:
        """Elements of the keys of all heads together."""
        return self.key_heads * self.key_size

    @property
    def values(self) -> int:
        """Elements of the values of all heads together."""
        return self.value_heads * self.value_size

    @property
    def channels(self) -> int:
        """What the convolution works on: queries, keys and values."""
        return 2 * self.keys + self.values

    def state_bytes(self, width: int) -> tuple[int, int]:
        """Bytes of one state in 32 bits, and of the convolution's inputs, of `width` bytes each,
        for a sequence and layer."""
        return 4 * self.values * self.key_size, width * self.channels * (self.kernel - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """The departures of one model.

    | field | meaning |
    |---|---|
    | `ropes`, `kinds` | the angles there are; what each kind of layer sees |
    | `kind_of` | of each layer, an index among `kinds` |
    | `recurrent` | of each layer, whether it is a gated DeltaNet |
    | `norms` | of a block: before it, on both sides, or after it alone (OLMo 2) |
    | `wide_norms` | one norm over all heads of the queries, and one of the keys (OLMo 2) |
    | `unit_norms` | the checkpoint stores what the norms' weights are above 1 (Gemma, Qwen3.5) |
    | `activation` | silu, gelu (exact), gelu_tanh or relu2 |
    | `embedding_scale`, `residual_scale`, `logit_scale` | factors (Granite, Gemma) |
    | `query_scale` | a factor of the queries beside that of the head's size |
    | `growth` | (beta, tokens): queries grow with the position (Ministral 3) |
    | `gated` | a sigmoid gate on what attention looked up (Qwen3-Next) |
    | `names` | the checkpoint's names of our weights, where they are not Llama's |
    | `build` | makes a layer: (architecture, index, details) -> module |
    """

    ropes: tuple[Rope, ...]
    kinds: tuple[Kind, ...]
    kind_of: tuple[int, ...]
    build: Callable[..., Any]
    recurrent: tuple[bool, ...] = ()
    delta: DeltaSizes | None = None
    norms: str = "before"
    wide_norms: bool = False
    unit_norms: bool = False
    activation: str = "silu"
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    query_scale: float = 1.0
    growth: tuple[float, float] | None = None
    gated: bool = False
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def layer(self, shape: Architecture, index: int) -> Any:
        """Layer `index` of a model of this `shape`, without values."""
        return self.build(shape, index, self)

    def rope(self, layer: int) -> Rope:
        """How this layer turns its heads."""
        return self.ropes[self.kinds[self.kind_of[layer]].rope]
