"""Published rows as cases to predict, or skipped with the reason.

A case is one forward pass with a stated model, format, accelerator, engine, batch and context, and
its measured time. A row that does not state one of them is skipped, not guessed. There are two
exceptions, both below: `NEGLIGIBLE` and `DYNAMIC_SD`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from specsim import catalog
from specsim.architecture import Architecture, model
from specsim.catalog import published
from specsim.checks import SpecsimError
from specsim.hardware import Accelerator, accelerator
from specsim.operators import Workload, forward_work, precision
from specsim.planning.prefill import prompt_passes

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
    "Q4_K_S": "q4_k_s",
    "Q2_K_M": "q2_k",
}
# A row that does not state its context is predicted at 1024 tokens if the KV cache of 2048 tokens
# is less than this share of its weights. The context then hardly changes the time.
NEGLIGIBLE = 0.02
UNSTATED_CONTEXT = 1024.0
# vLLM's table by batch and K states no model, GPU or context. The example of the pull request is
# EAGLE for Llama-3.1-8B. The author's earlier tables are MT-Bench on an H100 (PR #16035, #16937).
RECENTLY_FITTED = ("sglang", "mlx")  # engines whose constants see recent_passes.csv
FITTED_PASSES = ("ggml-org/llama.cpp PR #17891",)
EARLY_PASSES = ("ggml-org/llama.cpp PR #5434", "ggml-org/llama.cpp PR #5351")  # of February 2024
LLAMAS = {"llama 8B": "llama-3.1-8b"}  # as llama-bench calls them
DYNAMIC_SD = ("llama-3.1-8b", "h100-sxm", 179.0)


@dataclass(frozen=True, slots=True)
class Case:
    """One measured pass: `seconds` for the whole batch, `rows` for each sequence. Where it is a
    `prompt`, `seconds` are those of `passes` such passes, one after the other.

    `line` is the line in the CSV file, whose header is line 1. `stages` is the number of devices
    that hold a part of the layers each and run one after the other. A case that is not `fitted` is
    not used to fit constants. A case that is not `verified` at its source is predicted, but it does
    not count in the medians.
    """

    table: str
    line: int
    engine: str
    source: str
    architecture: Architecture
    accelerator: Accelerator
    precision: str
    context: float
    seconds: float
    batch: float = 1.0
    rows: float = 1.0
    allocated_context: float | None = None
    logit_rows: float | None = None
    tensor_parallel: int = 1
    stages: int = 1
    prompt: bool = False
    passes: float = 1.0
    fitted: bool = True
    verified: bool = True

    @property
    def kind(self) -> str:
        """ "plain", a step of one row per sequence; "verification", of several; or "prefill"."""
        if self.prompt:
            return "prefill"
        return "plain" if self.rows == 1 else "verification"

    @property
    def plain(self) -> bool:
        """Whether this is a step of plain decoding: one row per sequence."""
        return self.kind == "plain"

    @property
    def workload(self) -> Workload:
        """The pass as the cost model is asked for it."""
        return Workload(
            batch=self.batch,
            rows=self.rows,
            context=self.context,
            allocated_context=self.allocated_context,
            logit_rows=self.logit_rows,
            states=1.0 if self.prompt else None,
        )

    @property
    def label(self) -> str:
        """The case in a few words, for tables."""
        devices = self.tensor_parallel * self.stages
        split = "TP" if self.tensor_parallel > 1 else "split over "
        many = f" {split}{devices}" if devices > 1 else ""
        where = f"{self.accelerator.name}{many}, batch {self.batch:g}, context {self.context:g}"
        wide = "" if self.plain else f", {self.rows:g} rows"
        if self.prompt:
            wide = f", {self.rows * self.passes:g} rows by {self.rows:g}"
        return f"{self.architecture.name} {self.precision} on {where}{wide}"


@dataclass(frozen=True, slots=True)
class Skip:
    """A published row that is not predicted, and why."""

    table: str
    line: int
    reason: str


class Unstated(Exception):
    """A row cannot be predicted; the message says what the row or the cost model lacks."""


def passes() -> tuple[list[Case], list[Skip]]:
    """All rows of the tables of single passes: as cases, or skipped with the reason."""
    readers: dict[str, Callable[[int, Mapping[str, str]], Case]] = {
        "decode_speed": decode_speed,
        "vllm_dynamic_sd": vllm_dynamic_sd,
        "vllm_mt_bench": vllm_mt_bench,
        "verify_cost": verify_cost,
        "recent_passes": recent_pass,
        "prefill": prefill,
    }
    cases, skips = [], []
    for table, read in readers.items():
        for line, row in enumerate(published.rows(table), start=2):
            if table.startswith("vllm") and int(row["K"]) > 0:
                continue  # cycles of speculation are predicted in `speculative`
            try:
                cases.append(read(line, row))
            except Unstated as reason:
                skips.append(Skip(table, line, str(reason)))
    return cases, skips


def decode_speed(line: int, row: Mapping[str, str]) -> Case:
    """A row of decode_speed.csv; raises Unstated if it cannot be predicted."""
    verified = row["confidence"] != "unverified"
    if row["usability"] == "C" and verified:
        raise Unstated("marked odd as published")
    engine = named("engines", row["engine"], "engine not in the catalog")
    if "?" in row["weight_format"]:
        raise Unstated("weight format uncertain")
    target = architecture(row["model"])
    if row["weight_format"] not in FORMATS:
        raise Unstated("weight format not modelled")
    stored = FORMATS[row["weight_format"]]
    devices, sharded = int(row["n_accel"]), row["parallelism"].startswith("TP")
    context = context_of(row)
    if context is None:
        shares = forward_work(target, Workload(context=2048), precision(stored))
        if shares.kv_bytes / shares.weight_bytes > NEGLIGIBLE:
            raise Unstated("context not stated")
        context = UNSTATED_CONTEXT
    # masked attention reads the whole buffer, FlexAttention only the cached tokens
    masked = "boolean mask" in row["engine"]
    batch = float(row["batch"])
    return Case(
        table="decode_speed",
        line=line,
        engine=engine,
        source=row["source"],
        architecture=target,
        accelerator=accelerator(row["accelerator"]),
        precision=stored,
        context=context,
        seconds=batch / float(row["value"]),
        batch=batch,
        allocated_context=float(row["alloc_context"]) if masked else None,
        tensor_parallel=devices if sharded else 1,
        stages=1 if sharded else devices,
        # the costs of experts and all-reduces are predicted from dense models on one device
        fitted=verified and target.experts is None and (devices == 1 or not sharded),
        verified=verified,
    )


def context_of(row: Mapping[str, str]) -> float | None:
    """The mean number of cached tokens, stated or from stated lengths; None if neither is there."""
    if row["mean_context"]:
        return float(row["mean_context"])
    if row["prompt_len"] and row["gen_len"]:
        return float(row["prompt_len"]) + float(row["gen_len"]) / 2
    return None


def vllm_dynamic_sd(line: int, row: Mapping[str, str]) -> Case:
    """A row of vllm_dynamic_sd.csv with K = 0, on the model and GPU of `DYNAMIC_SD`."""
    target, gpu, context = DYNAMIC_SD
    return Case(
        table="vllm_dynamic_sd",
        line=line,
        engine="vllm",
        source=row["source"],
        architecture=model(target),
        accelerator=accelerator(gpu),
        precision="bf16",
        context=context,
        seconds=float(row["step_ms"]) * 1e-3,
        batch=float(row["batch"]),
    )


def vllm_mt_bench(line: int, row: Mapping[str, str]) -> Case:
    """A row of vllm_mt_bench.csv with K = 0."""
    return Case(
        table="vllm_mt_bench",
        line=line,
        engine="vllm",
        source=row["source"],
        architecture=model(row["model"]),
        accelerator=accelerator(row["accelerator"]),
        precision="bf16",
        context=float(row["mean_context"]),
        seconds=1 / float(row["tok_per_s"]),
        fitted=False,  # its versions are a year older than the other table's
    )


def verify_cost(line: int, row: Mapping[str, str]) -> Case:
    """A row of verify_cost.csv: a pass of several rows per sequence."""
    return Case(
        table="verify_cost",
        line=line,
        engine="llama.cpp-2024" if row["source"] in EARLY_PASSES else "llama.cpp",
        source=row["source"],
        architecture=architecture(LLAMAS.get(row["model"], row["model"])),
        accelerator=accelerator(row["accelerator"]),
        precision=FORMATS[row["weight_format"]],
        context=mean_depth(row["context_depth"]),
        seconds=float(row["ms_per_forward"]) * 1e-3,
        rows=float(row["k_tokens_per_forward"]),
        fitted=row["source"] in FITTED_PASSES,
    )


def mean_depth(depth: str) -> float:
    """The mean number of cached tokens of a depth, or of one that grows: "0-512" is 256."""
    ends = [float(end) for end in depth.split("-")]
    return sum(ends) / len(ends)


def recent_pass(line: int, row: Mapping[str, str]) -> Case:
    """A row of recent_passes.csv: a plain step, or a pass of several rows."""
    return Case(
        table="recent_passes",
        line=line,
        engine=row["engine"],
        source=row["source"],
        architecture=model(row["model"]),
        accelerator=accelerator(row["accelerator"]),
        precision=row["precision"],
        context=float(row["mean_context"]),
        seconds=float(row["ms_per_pass"]) * 1e-3,
        batch=float(row["batch"]),
        rows=float(row["rows"]),
        logit_rows=float(row["logit_rows"]) if row["logit_rows"] else None,
        tensor_parallel=int(row["tensor_parallel"]),
        fitted=row["usability"] == "A" and row["engine"] in RECENTLY_FITTED,
        verified=row["usability"] == "A",
    )


def prefill(line: int, row: Mapping[str, str]) -> Case:
    """A row of prefill.csv: a prompt, read in passes of at most a chunk; raises Unstated if it is
    odd as published."""
    if row["usability"] == "C":
        raise Unstated("marked odd as published")
    new, cached = float(row["prompt"]), float(row["cached"])
    chunk = float(row["chunk"] or "inf")
    passes, one = prompt_passes(prompt=new + cached, cached=cached, chunk=chunk)
    value = float(row["value"])
    return Case(
        table="prefill",
        line=line,
        engine=row["engine"],
        source=row["source"],
        architecture=model(row["model"]),
        accelerator=accelerator(row["accelerator"]),
        precision=row["precision"],
        context=float(np.asarray(one.context)),
        seconds=value * 1e-3 if row["unit"] == "ms" else new / value,
        batch=float(row["batch"]),
        rows=float(np.asarray(one.rows)),
        logit_rows=1.0 / float(passes),
        tensor_parallel=int(row["tensor_parallel"]),
        prompt=True,
        passes=float(passes),
        fitted=False,  # the constants are those of steps: prompts test them
    )


def named(table: str, name: str, otherwise: str) -> str:
    """The catalog's own name for `name`; raises Unstated(otherwise) if the catalog lacks it."""
    try:
        return catalog.resolve(table, name)
    except SpecsimError:
        raise Unstated(otherwise) from None


def architecture(name: str) -> Architecture:
    """The catalog's model for the name in a published row; raises Unstated if there is none."""
    return model(named("models", name.removesuffix(" (MoE)"), "model not in the catalog"))
