"""The tables of rotary angles: made when a model is made, read by position in every pass.

RoPE (Su et al., arXiv:2104.09864) turns pairs of a head's dimensions. A pair is (i, i + D/2) here,
so that one `roll` exchanges the two; rotating is [-x2, x1], and the negation is folded into the
sine table. Families that pair neighbours, or turn a part of a head alone, have the rows of their
query and key projections put into this order when they are loaded (`order_of_head`): the product of
a query and a key does not depend on the order. Dimensions that do not turn have the angle 0.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from reference.memory import memory_for
from specsim.architecture import Architecture, Llama3RopeScaling
from specsim.checks import SpecsimError

MAX_GAMMA = 64  # drafts may stand this far past the end of the context; there they are discarded


@dataclass(frozen=True, slots=True)
class Rope:
    """How one kind of layer turns its queries and keys.

    `size` of the head's dimensions turn, 0 of them where a layer has no RoPE. `interleaved`: the
    checkpoint pairs neighbours. `scaling` is what config.json says of longer contexts: the table
    with `rope_type` linear, yarn, llama3 or longrope.

    LongRoPE (Ding et al., arXiv:2402.13753; Phi-3, Phi-4-mini) has two sets of angles: short ones
    for texts within the original context, and those with `is_long` for texts that are longer. A
    cache cannot mix them, for keys that are written keep their angles. So the set is chosen once
    for each sequence of a run, by the longest text that it may become: its prompt and
    `max_new_tokens`; a server chooses by its context, as vLLM does by `max_model_len`. transformers
    takes the short angles until a text is longer than the original context, and then reads all of
    it anew. Both give the same logits unless a text is still short and may become long.
    """

    theta: float
    size: int
    interleaved: bool = False
    scaling: Mapping[str, Any] = field(default_factory=dict)
    is_long: bool = False

    def __post_init__(self) -> None:
        known = ("default", "linear", "yarn", "llama3", "longrope")
        if self.kind not in known:
            raise SpecsimError(f"has rope_type {self.kind!r}; the decoder knows {', '.join(known)}")
        if self.kind != "default" and not self.number("factor") > 0:
            raise SpecsimError(f"rope_type {self.kind!r} needs a factor above 0")
        if self.kind == "longrope":
            self.require_two_sets()

    def require_two_sets(self) -> None:
        """SpecsimError unless longrope has two lists of factors, and an original context."""
        if not self.original > 1:
            raise SpecsimError(
                f"rope scaling: original_max_position_embeddings must be above 1 for longrope, not "
                f"{self.original:g}"
            )
        for name in ("short_factor", "long_factor"):
            factors = self.scaling.get(name)
            if not isinstance(factors, list | tuple) or len(factors) != self.size // 2:
                found = len(factors) if isinstance(factors, list | tuple) else repr(factors)[:50]
                raise SpecsimError(
                    f"rope scaling: longrope's {name} must be a list of {self.size // 2} numbers, "
                    f"one for each pair of dimensions that turns, not {found}"
                )
            for factor in factors:
                is_number = isinstance(factor, int | float) and not isinstance(factor, bool)
                if not is_number or not 0 < factor < 1e30:
                    raise SpecsimError(
                        f"rope scaling: longrope's {name} holds {factor!r:.50}; each must be a "
                        "number above 0"
                    )

    @property
    def original(self) -> float:
        """The context, in tokens, that the model was trained with before it was extended."""
        return self.number("original_max_position_embeddings")

    @property
    def for_long_texts(self) -> "Rope":
        """Longrope's angles for texts beyond the original context."""
        return replace(self, is_long=True)

    @property
    def kind(self) -> str:
        """The `rope_type`, in its older spelling too."""
        return self.scaling.get("rope_type") or self.scaling.get("type") or "default"

    def number(self, name: str, default: float | None = None) -> float:
        """A number of the scaling; SpecsimError if it is none, or missing without a `default`."""
        value = self.scaling.get(name)
        value = default if value is None else value
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30:
            return float(value)
        raise SpecsimError(f"rope scaling: {name} must be a number, not {value!r:.50}")

    def frequencies(self) -> tuple[Tensor, float]:
        """The turn per position of every pair, (size/2,), and a factor of cosine and sine."""
        half = torch.arange(0, self.size, 2, dtype=torch.float32)
        plain = self.theta ** (-half / max(self.size, 1))
        if self.kind == "linear":
            return plain / self.number("factor"), 1.0
        if self.kind == "llama3":
            return self.blended(plain), 1.0
        if self.kind == "longrope":
            stretch = self.scaling["long_factor" if self.is_long else "short_factor"]
            return plain / torch.tensor(stretch, dtype=torch.float32), self.longrope_factor()
        return self.yarn(plain) if self.kind == "yarn" else (plain, 1.0)

    def blended(self, plain: Tensor) -> Tensor:
        """Llama 3.1: long wavelengths are stretched by `factor`, short ones are kept, and those
        between are blended."""
        low, high = self.number("low_freq_factor"), self.number("high_freq_factor")
        turns = self.number("original_max_position_embeddings") * plain / (2 * math.pi)
        blend = ((turns - low) / (high - low)).clamp(0, 1)
        return (1 - blend) * plain / self.number("factor") + blend * plain

    def yarn(self, plain: Tensor) -> tuple[Tensor, float]:
        """YaRN (Peng et al., arXiv:2309.00071): pairs that turn more than `beta_fast` times within
        the original context are kept, those that turn less than `beta_slow` times stretched."""
        original, factor = self.number("original_max_position_embeddings"), self.number("factor")
        fast, slow = self.number("beta_fast", 32.0) or 32.0, self.number("beta_slow", 1.0) or 1.0
        if not (original > 0 and fast > 0 and slow > 0 and self.theta > 1):
            raise SpecsimError(
                f"rope scaling: yarn needs a context and betas above 0 and a theta above 1, not "
                f"{original}, {fast}, {slow} and {self.theta}"
            )

        def pair_that_turns(times: float) -> float:
            turns = original / (times * 2 * math.pi)
            return self.size * math.log(turns) / (2 * math.log(self.theta))

        low, high = pair_that_turns(fast), pair_that_turns(slow)
        if self.scaling.get("truncate", True):
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, self.size - 1)
        ramp = (torch.arange(len(plain), dtype=torch.float32) - low) / max(high - low, 0.001)
        kept = 1 - ramp.clamp(0, 1)
        return plain / factor * (1 - kept) + plain * kept, self.attention_factor(factor)

    def attention_factor(self, factor: float) -> float:
        """What YaRN multiplies queries and keys with: said, or made of `factor` and the mscales."""
        if self.scaling.get("attention_factor") is not None:
            return self.number("attention_factor")
        scales = self.number("mscale", 0.0), self.number("mscale_all_dim", 0.0)
        above, below = scales if all(scales) else (1.0, 0.0)
        logarithm = 0.1 * math.log(max(factor, 1.0))
        return (logarithm * above + 1) / (logarithm * below + 1)

    def longrope_factor(self) -> float:
        """What longrope multiplies queries and keys with, in short texts too: said, or made of how
        many times longer the context has become."""
        if self.scaling.get("attention_factor") is not None:
            return self.number("attention_factor")
        longer = max(self.number("factor"), 1.0)
        return math.sqrt(1 + math.log(longer) / math.log(self.original))

    def order_of_head(self, head: int) -> list[int]:
        """Which of the checkpoint's `head` dimensions stands at each place of ours."""
        pairs = range(self.size // 2)
        first = [2 * i if self.interleaved else i for i in pairs]
        second = [i + (1 if self.interleaved else self.size // 2) for i in first]
        still = list(range(self.size, head))
        half = len(still) // 2
        return first + still[:half] + second + still[half:]

    def table(self, head: int, count: int) -> Tensor:
        """Cosine and signed sine of `count` positions, (count, 1, 2 * head)."""
        frequencies, factor = self.frequencies()
        positions = torch.arange(count, dtype=torch.float32)
        angles = torch.outer(positions, frequencies)  # (count, size/2)
        still = torch.zeros((count, (head - self.size) // 2))
        cos = torch.cat((angles.cos() * factor, still + 1), dim=1)
        sin = torch.cat((angles.sin() * factor, still), dim=1)
        return torch.cat((cos, cos, -sin, sin), dim=1)[:, None]


def rope_of(shape: Architecture) -> Rope:
    """The one rope of a model of the Llama shape."""
    scaling: dict[str, Any] = {}
    if isinstance(said := shape.rope_scaling, Llama3RopeScaling):
        scaling = {
            "rope_type": "llama3",
            "factor": said.factor,
            "low_freq_factor": said.low_freq_factor,
            "high_freq_factor": said.high_freq_factor,
            "original_max_position_embeddings": said.original_context,
        }
    return Rope(shape.rope_theta, shape.head_dim, scaling=scaling)


def rotary_table(shape: Architecture, ropes: tuple[Rope, ...] = ()) -> Tensor:
    """Cosine and signed sine of every position's angles, (max_context + MAX_GAMMA, 1, 2D); for
    several `ropes` a table of each, (ropes, max_context + MAX_GAMMA, 1, 2D).

    Raises SpecsimError for more positions than fit into memory.
    """
    count = shape.max_context + MAX_GAMMA
    nbytes = 16.0 * shape.head_dim * count * max(len(ropes), 1)  # tables, and what they are made of
    what = f"the rotary angles of {count:,} positions of {shape.name}"
    with memory_for(what, nbytes, torch.device("cpu")):
        values = torch.empty(*((len(ropes),) if ropes else ()), count, 1, 2 * shape.head_dim)
        if values.is_meta:  # of a model without values: PyTorch would load a compiler, for seconds
            return values
        if not ropes:
            return rope_of(shape).table(shape.head_dim, count)
        return torch.stack([rope.table(shape.head_dim, count) for rope in ropes])
