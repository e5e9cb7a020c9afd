"""What one forward pass must move and compute, operator by operator: counts, no machine.

Width is the unit. A draft step, a plain decode step and a verification are the same function of
(model, batch, rows per sequence, context); verifying gamma drafts is a pass of gamma + 1 rows.
Weights are read once per pass, keys and values once per sequence whatever the rows, FLOPs grow with
the rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.architecture import Architecture
from specsim.catalog import SpecsimError

Floats = NDArray[np.float64]

LINEAR, ATTENTION, ELEMENTWISE = "linear", "attention", "elementwise"


@dataclass(frozen=True, slots=True)
class Precision:
    """Bytes per stored value, and the arithmetic that the products are done in.

    `weight_bytes` counts group scales (int4 with groups of 32 and a 16-bit scale and zero:
    0.5 + 4/32); `head_bytes` is the LM head's, where a format leaves it in 16 bits; `math` names
    the rate of the accelerator that is used.
    """

    name: str
    weight_bytes: float
    math: str
    kv_bytes: float = 2.0
    activation_bytes: float = 2.0
    head_bytes: float | None = None

    @property
    def bytes_per_head_weight(self) -> float:
        return self.weight_bytes if self.head_bytes is None else self.head_bytes


PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("fp32", 4.0, "fp32", kv_bytes=4.0, activation_bytes=4.0),
        Precision("bf16", 2.0, "bf16"),
        Precision("fp16", 2.0, "fp16"),
        Precision("fp8", 1.0, "fp8", head_bytes=2.0),
        # weight-only: the products are in 16 bits; a scale per channel, per 128 and per 32 weights
        Precision("int8", 1.0, "bf16"),
        Precision("int4", 0.5 + 4 / 128, "bf16"),
        Precision("int4-g32", 0.5 + 4 / 32, "bf16"),
        Precision("fp4", 0.5 + 1 / 16, "fp4", head_bytes=2.0),  # an 8-bit scale for every 16 values
        # GGUF: a 16-bit scale per 32 weights; 4-bit files keep the LM head in Q6_K, 6.5625 bits
        Precision("q8_0", 8.5 / 8, "bf16"),
        Precision("q4_0", 4.5 / 8, "bf16", head_bytes=6.5625 / 8),
        # 4.5 bits, some matrices in 6.5625: 4.58 and 39.59 GiB for Llama-3-8B and 70B
        Precision("q4_k_m", 4.80 / 8, "bf16", head_bytes=6.5625 / 8),
    )
}


def precision(name: str) -> Precision:
    """The precision called `name`; SpecsimError with the known ones if there is none such."""
    if name not in PRECISIONS:
        raise SpecsimError(f"unknown precision {name!r}; known: {', '.join(PRECISIONS)}")
    return PRECISIONS[name]


@dataclass(frozen=True, slots=True)
class Operator:
    """One kind of kernel, summed over the layers; every count is an array over the scenarios.

    Units: FLOP (a multiply-add is two) and bytes.
    """

    name: str
    kind: str
    flops: Floats
    weight_bytes: Floats
    kv_bytes: Floats
    activation_bytes: Floats


@dataclass(frozen=True, slots=True)
class ForwardWork:
    """The operators of one pass of the whole batch, and what the overheads are counted by."""

    operators: tuple[Operator, ...]
    layers: int
    rows: Floats  # query rows in the pass, over all sequences
    logits: Floats  # rows x vocabulary
    precision: Precision

    def __iter__(self) -> Iterator[Operator]:
        return iter(self.operators)

    def __getitem__(self, name: str) -> Operator:
        by_name = {operator.name: operator for operator in self.operators}
        if name not in by_name:
            raise SpecsimError(f"no operator is called {name!r}; there are: {', '.join(by_name)}")
        return by_name[name]

    @property
    def flops(self) -> Floats:
        return reduce(np.add, (o.flops for o in self.operators))

    @property
    def weight_bytes(self) -> Floats:
        """Weights streamed by the pass; of the embedding a few rows are gathered, not counted."""
        return reduce(np.add, (o.weight_bytes for o in self.operators))

    @property
    def kv_bytes(self) -> Floats:
        return reduce(np.add, (o.kv_bytes for o in self.operators))

    @property
    def activation_bytes(self) -> Floats:
        return reduce(np.add, (o.activation_bytes for o in self.operators))


def forward_work(
    model: Architecture,
    precision: Precision,
    *,
    batch: ArrayLike = 1,
    rows: ArrayLike = 1,
    context: ArrayLike = 1024,
    allocated_context: ArrayLike | None = None,
) -> ForwardWork:
    """Count one pass of `rows` tokens for each of `batch` sequences with `context` tokens cached.

    `allocated_context` is what the attention kernel really reads per sequence, where that is more
    than the context: masked kernels read the whole buffer (bytes moved, not bytes needed). All four
    broadcast together.
    """
    batch, rows, context = (np.asarray(value, dtype=float) for value in (batch, rows, context))
    read_context = context
    if allocated_context is not None:
        read_context = np.maximum(context, np.asarray(allocated_context, dtype=float))
    tokens = batch * rows
    hidden, heads, kv = model.hidden_size, model.query_size, model.kv_size
    layers, mlp, vocab = model.num_layers, model.intermediate_size, model.vocab_size
    zero = np.zeros(np.broadcast_shapes(tokens.shape, read_context.shape))

    def linear(
        name: str, fan_in: int, fan_out: int, count: int, bytes_per_weight: float
    ) -> Operator:
        activations = (fan_in + fan_out) * precision.activation_bytes
        return Operator(
            name=name,
            kind=LINEAR,
            flops=2.0 * tokens * fan_in * fan_out * count + zero,
            weight_bytes=bytes_per_weight * fan_in * fan_out * count + zero,
            kv_bytes=zero,
            activation_bytes=tokens * activations * count + zero,
        )

    weight, head = precision.weight_bytes, precision.bytes_per_head_weight
    # each row of queries meets every key once and mixes every value once; keys and values are read
    # once per sequence, whatever the rows, and written once per row
    attention = Operator(
        name="attention",
        kind=ATTENTION,
        flops=4.0 * tokens * read_context * heads * layers,
        weight_bytes=zero,
        kv_bytes=2.0 * kv * layers * precision.kv_bytes * (batch * read_context + tokens),
        activation_bytes=2.0 * tokens * heads * precision.activation_bytes * layers + zero,
    )
    # two norms, rotary embedding, SwiGLU and two residual sums a layer, reading and writing rows
    touched = layers * (2 * 2 * hidden + 2 * (heads + kv) + 3 * mlp + 2 * 3 * hidden) + 2 * hidden
    elementwise = Operator(
        name="norms and elementwise",
        kind=ELEMENTWISE,
        flops=tokens * touched + zero,
        weight_bytes=zero,
        kv_bytes=zero,
        activation_bytes=tokens * touched * precision.activation_bytes + zero,
    )
    embedding = Operator(
        name="embedding",
        kind=ELEMENTWISE,
        flops=zero,
        weight_bytes=zero,
        kv_bytes=zero,
        activation_bytes=2.0 * tokens * hidden * precision.activation_bytes + zero,
    )
    operators = (
        embedding,
        linear("qkv projection", hidden, heads + 2 * kv, layers, weight),
        attention,
        linear("output projection", heads, hidden, layers, weight),
        linear("gate and up projection", hidden, 2 * mlp, layers, weight),
        linear("down projection", mlp, hidden, layers, weight),
        elementwise,
        linear("LM head", hidden, vocab, 1, head),
    )
    return ForwardWork(operators, layers, tokens + zero, tokens * vocab + zero, precision)
