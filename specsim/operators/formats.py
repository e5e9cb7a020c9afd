"""Number formats: the bytes of a stored value, and the arithmetic that the products are done in."""

from dataclasses import dataclass

from specsim.architecture import Architecture, Storage
from specsim.checks import SpecsimError, quoted


@dataclass(frozen=True, slots=True)
class Precision:
    """Bytes per stored value, and the arithmetic that the products are done in.

    `weight_bytes` counts group scales (int4 with groups of 32 and a 16-bit scale and zero:
    0.5 + 4/32). Where a format treats some modules differently, `attention_bytes` are those of
    attention's matrices, `recurrent_bytes` of linear attention and state spaces, `expert_bytes` of
    routed and `shared_bytes` of shared experts, `head_bytes` of the LM head, `table_bytes` of the
    embedding. `math` names the rate of the accelerator that is used, but for weights that stay
    wider than the rest (an fp8 model's LM head and routers) and for attention: those multiply in
    the format of activations. What unpacking a narrow format costs is in an engine's weight
    efficiency for it, nowhere else. Where a checkpoint mixes formats, `maths` says which arithmetic
    goes with them: pairs of bytes and a name, for weights of at most so many bytes.
    """

    name: str
    weight_bytes: float
    math: str
    kv_bytes: float = 2.0
    activation_bytes: float = 2.0
    head_bytes: float | None = None
    expert_bytes: float | None = None
    table_bytes: float | None = None
    attention_bytes: float | None = None
    recurrent_bytes: float | None = None
    shared_bytes: float | None = None
    maths: tuple[tuple[float, str], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "maths", tuple((float(most), math) for most, math in self.maths))

    @property
    def activation_math(self) -> str:
        """The arithmetic of activations, 16 or 32 bits whatever the weights are in."""
        return self.math if self.activation_bytes >= 4 else "bf16"

    def math_with(self, bytes_per_weight: float) -> str:
        """The arithmetic of a product with weights of so many bytes."""
        if self.maths:
            fits = (math for most, math in self.maths if bytes_per_weight <= most)
            return next(fits, self.activation_math)
        return self.math if bytes_per_weight <= self.weight_bytes else self.activation_math

    @property
    def bytes_per_head_weight(self) -> float:
        return self.weight_bytes if self.head_bytes is None else self.head_bytes

    @property
    def bytes_per_attention_weight(self) -> float:
        return self.weight_bytes if self.attention_bytes is None else self.attention_bytes

    @property
    def bytes_per_recurrent_weight(self) -> float:
        return self.weight_bytes if self.recurrent_bytes is None else self.recurrent_bytes

    @property
    def bytes_per_shared_weight(self) -> float:
        """Of shared experts and what surrounds the routed ones."""
        return self.weight_bytes if self.shared_bytes is None else self.shared_bytes

    @property
    def bytes_per_table_entry(self) -> float:
        return self.activation_bytes if self.table_bytes is None else self.table_bytes

    @property
    def bytes_per_expert_weight(self) -> float:
        return self.weight_bytes if self.expert_bytes is None else self.expert_bytes


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
        # gpt-oss as published: experts in MXFP4 (an 8-bit scale for every 32), the rest in 16 bits
        Precision("mxfp4-moe", 2.0, "bf16", expert_bytes=0.5 + 1 / 32),
        # GGUF: a 16-bit scale per 32 weights; the 4-bit files keep the LM head in Q6_K, 6.5625 bits
        Precision("q8_0", 8.5 / 8, "bf16", table_bytes=8.5 / 8),
        Precision("q4_0", 4.5 / 8, "bf16", head_bytes=6.5625 / 8, table_bytes=4.5 / 8),
        # 4.5 bits, some matrices in 6.5625: 4.58 and 39.59 GiB for Llama-3-8B and 70B
        Precision("q4_k_m", 4.80 / 8, "bf16", head_bytes=6.5625 / 8, table_bytes=4.5 / 8),
        Precision("q4_k_s", 4.54 / 8, "bf16", head_bytes=6.5625 / 8, table_bytes=4.5 / 8),
        # 2.59 GiB for Llama-2-7B: 2.625 bits, some matrices in 3.4375 and 4.5
        Precision("q2_k", 3.2 / 8, "bf16", head_bytes=6.5625 / 8, table_bytes=3.2 / 8),
        # MLX: a 16-bit scale and bias per 64 weights, the tables too
        Precision("mlx-8bit", 8.5 / 8, "bf16", table_bytes=8.5 / 8),
        Precision("mlx-4bit", 4.5 / 8, "bf16", table_bytes=4.5 / 8),
    )
}


AUTO = "auto"  # the name of: each model as its own checkpoint stores it
UNDECIDED = Precision(AUTO, float("nan"), "bf16", kv_bytes=float("nan"))  # until a model is there


def precision(name: str) -> Precision:
    """The precision called `name`; SpecsimError with the known ones if there is none such.

    "auto" is not a format yet: its bytes are NaN until `precision_of` a model.
    """
    if name == AUTO:
        return UNDECIDED
    if not isinstance(name, str) or name not in PRECISIONS:
        known = f"{AUTO}, {', '.join(PRECISIONS)}"
        raise SpecsimError(f"unknown precision {quoted(name)}; known: {known}")
    return PRECISIONS[name]


def precision_of(model: Architecture) -> Precision:
    """The precision in which a model's own checkpoint stores it: bf16 where that says nothing.

    The name is one of `PRECISIONS`, that of most quantised weights or the nearest; the bytes are
    the checkpoint's own, with scales. Raises SpecsimError for a quantisation that cannot be read.
    """
    stored = model.stored
    if stored is None:
        return PRECISIONS["bf16"]
    if stored.refusal is not None:
        raise SpecsimError(
            f"{model.name}: {stored.refusal}; give --precision NAME to price it in another format"
        )
    named = PRECISIONS[stored.name]
    if not stored.formats:
        return named
    sizes = {kind: stored.bits_of(kind) / 8 for kind, _, _ in stored.formats}
    plain = sizes["mlp"]
    maths = {size: stored.math_of(kind) for kind, size in sizes.items() if kind != "table"}
    return Precision(
        named.name,
        plain,
        main_math(stored),
        kv_bytes=2.0 if stored.kv_bits is None else stored.kv_bits / 8,
        table_bytes=sizes["table"],
        head_bytes=sizes["head"],
        attention_bytes=sizes.get("attention", plain),
        recurrent_bytes=sizes.get("recurrent", plain),
        expert_bytes=sizes.get("experts", plain),
        shared_bytes=sizes.get("shared", plain),
        maths=tuple(sorted(maths.items())),
    )


def main_math(stored: Storage) -> str:
    """The narrowest arithmetic that a checkpoint's products are done in."""
    found = {math for kind, _, math in stored.formats if kind != "table"}
    return next((math for math in ("fp4", "fp8", "int8") if math in found), "bf16")
