"""Published rows as cases to predict, or skipped with the reason.

A case is one forward pass of a stated model, format, chip, engine, batch and context, and how long
it was measured to take. What a row leaves open is not guessed: it is skipped, with two exceptions
that are written down here, `NEGLIGIBLE` and the single-stream tables of vLLM.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from specsim import catalog
from specsim.architecture import Architecture, model
from specsim.catalog import published
from specsim.checks import SpecsimError
from specsim.hardware import Accelerator, accelerator
from specsim.operators import Workload, forward_work, precision

FORMATS = {  # published weight_format -> precision
    "bf16": "bf16",
    "int8 wo": "int8",
    "int4 g32 wo": "int4-g32",
    "fp8": "fp8",
    "F16": "fp16",
    "Q8_0": "q8_0",
    "Q4_0": "q4_0",
    "Q4_0 (4.5 bpw)": "q4_0",
    "Q4_K - Medium": "q4_k_m",
}
# A row whose context is not stated is predicted at 1024 tokens where 2048 tokens of KV cache are
# less than this share of its weights: then it hardly matters.
NEGLIGIBLE = 0.02
UNSTATED_CONTEXT = 1024.0
# vLLM's table by batch and K names neither model, GPU nor context. The pull request's example is
# EAGLE for Llama-3.1-8B; its author's earlier tables are MT-Bench on an H100 (PR #16035, #16937).
DYNAMIC_SD = ("llama-3.1-8b", "h100-sxm", 179.0)


@dataclass(frozen=True, slots=True)
class Case:
    """One measured pass; `seconds` for the whole batch, `rows` of each sequence."""

    table: str
    line: int  # of the CSV file, its header being line 1
    engine: str
    source: str
    architecture: Architecture
    chip: Accelerator
    precision: str
    context: float
    seconds: float
    batch: float = 1.0
    rows: float = 1.0
    allocated_context: float | None = None
    tensor_parallel: int = 1
    stages: int = 1  # a layer split over so many devices, one after the other
    fitted: bool = True  # may be used to fit constants
    verified: bool = True  # against the source; what is not is predicted, and not scored

    @property
    def plain(self) -> bool:
        """One row per sequence: a step of plain decoding."""
        return self.rows == 1

    @property
    def label(self) -> str:
        devices = self.tensor_parallel * self.stages
        split = "TP" if self.tensor_parallel > 1 else "split over "
        many = f" {split}{devices}" if devices > 1 else ""
        where = f"{self.chip.name}{many}, batch {self.batch:g}, context {self.context:g}"
        wide = "" if self.plain else f", {self.rows:g} rows"
        return f"{self.architecture.name} {self.precision} on {where}{wide}"


@dataclass(frozen=True, slots=True)
class Skip:
    """A published row that is not predicted, and why."""

    table: str
    line: int
    reason: str


class Unstated(Exception):
    """A row cannot be predicted; the message says what it lacks, or what the model lacks."""


def passes() -> tuple[list[Case], list[Skip]]:
    """Every row of the tables of single passes: predicted, or skipped with the reason."""
    readers: dict[str, Callable[[int, Mapping[str, str]], Case]] = {
        "decode_speed": decode_speed,
        "vllm_dynamic_sd": vllm_dynamic_sd,
        "vllm_mt_bench": vllm_mt_bench,
        "verify_cost": verify_cost,
    }
    cases, skips = [], []
    for table, read in readers.items():
        for line, row in enumerate(published.rows(table), start=2):
            if table.startswith("vllm") and int(row["K"]) > 0:
                continue  # cycles of speculation: `speculative` answers for them
            try:
                cases.append(read(line, row))
            except Unstated as reason:
                skips.append(Skip(table, line, str(reason)))
    return cases, skips


def decode_speed(line: int, row: Mapping[str, str]) -> Case:
    verified = row["confidence"] != "unverified"
    if row["usability"] == "C" and verified:
        raise Unstated("marked odd as published")
    engine = named("engines", row["engine"], "engine not in the catalog")
    if "?" in row["weight_format"]:
        raise Unstated("weight format uncertain")
    shape = architecture(row["model"])
    if row["weight_format"] not in FORMATS:
        raise Unstated("weight format not modelled")
    stored = FORMATS[row["weight_format"]]
    devices, sharded = int(row["n_accel"]), row["parallelism"].startswith("TP")
    context = context_of(row)
    if context is None:
        shares = forward_work(shape, Workload(context=2048), precision(stored))
        if shares.kv_bytes / shares.weight_bytes > NEGLIGIBLE:
            raise Unstated("context not stated")
        context = UNSTATED_CONTEXT
    # masked attention reads the whole buffer, FlexAttention the tokens that are there
    masked = "boolean mask" in row["engine"]
    batch = float(row["batch"])
    return Case(
        table="decode_speed",
        line=line,
        engine=engine,
        source=row["source"],
        architecture=shape,
        chip=accelerator(row["accelerator"]),
        precision=stored,
        context=context,
        seconds=batch / float(row["value"]),
        batch=batch,
        allocated_context=float(row["alloc_context"]) if masked else None,
        tensor_parallel=devices if sharded else 1,
        stages=1 if sharded else devices,
        # what experts and all-reduces cost is predicted from dense models on one device
        fitted=verified and shape.experts is None and (devices == 1 or not sharded),
        verified=verified,
    )


def context_of(row: Mapping[str, str]) -> float | None:
    """Mean number of cached tokens: stated, or that of a generation of stated length."""
    if row["mean_context"]:
        return float(row["mean_context"])
    if row["prompt_len"] and row["gen_len"]:
        return float(row["prompt_len"]) + float(row["gen_len"]) / 2
    return None


def vllm_dynamic_sd(line: int, row: Mapping[str, str]) -> Case:
    shape, chip, context = DYNAMIC_SD
    return Case(
        table="vllm_dynamic_sd",
        line=line,
        engine="vllm",
        source=row["source"],
        architecture=model(shape),
        chip=accelerator(chip),
        precision="bf16",
        context=context,
        seconds=float(row["step_ms"]) * 1e-3,
        batch=float(row["batch"]),
    )


def vllm_mt_bench(line: int, row: Mapping[str, str]) -> Case:
    return Case(
        table="vllm_mt_bench",
        line=line,
        engine="vllm",
        source=row["source"],
        architecture=model(row["model"]),
        chip=accelerator(row["accelerator"]),
        precision="bf16",
        context=float(row["mean_context"]),
        seconds=1 / float(row["tok_per_s"]),
        fitted=False,  # versions a year older than the other table's: predicted only
    )


def verify_cost(line: int, row: Mapping[str, str]) -> Case:
    return Case(
        table="verify_cost",
        line=line,
        engine="llama.cpp",
        source=row["source"],
        architecture=architecture(row["model"]),
        chip=accelerator(row["accelerator"]),
        precision=FORMATS[row["weight_format"]],
        context=float(row["context_depth"]),
        seconds=float(row["ms_per_forward"]) * 1e-3,
        rows=float(row["k_tokens_per_forward"]),
    )


def named(table: str, name: str, otherwise: str) -> str:
    try:
        return catalog.resolve(table, name)
    except SpecsimError:
        raise Unstated(otherwise) from None


def architecture(name: str) -> Architecture:
    return model(named("models", name.removesuffix(" (MoE)"), "model not in the catalog"))
