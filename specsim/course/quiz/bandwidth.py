"""Why a decode step waits for memory, and what makes it faster."""

from dataclasses import replace

from specsim.course.quiz.kinds import Choice, Question
from specsim.course.quiz.models import (
    GB,
    GIB,
    H100,
    LLAMA_8B,
    plain,
    roofline,
    streamed_bytes,
    with_link,
)
from specsim.operators import LINEAR, PRECISIONS

SECTION = "Bytes, not FLOPs"
DATASHEETS = "NVIDIA datasheets (dense rates), as in specsim's catalog"
ROOFLINE = "Williams, Waterman and Patterson, Roofline, CACM 52(4), 2009"


def intensity() -> dict[str, float]:
    """FLOP per byte of a plain step's linear layers, and the ridge of an H100."""
    linear = [term.operator for term in plain(LLAMA_8B, H100).step.terms if term.operator]
    linear = [operator for operator in linear if operator.kind == LINEAR]
    flops = sum(float(operator.flops) for operator in linear)
    return {
        "intensity": flops / sum(float(operator.weight_bytes) for operator in linear),
        "ridge": float(H100.ridge),
    }


def bytes_per_token() -> dict[str, float]:
    """The bytes that a plain step reads, the time for them, and the time for its arithmetic."""
    step = plain(LLAMA_8B, H100)
    streamed = streamed_bytes(LLAMA_8B)
    step_s = float(step.step_s)
    flops = 2.0 * (LLAMA_8B.parameters - LLAMA_8B.embedding_parameters)
    compute_s = flops / H100.accelerator.rate("bf16")
    return {
        "weight_gb": streamed / GB,
        "weight_gib": streamed / GIB,
        "stored_gb": 2.0 * LLAMA_8B.parameters / GB,
        "one_byte_gb": streamed / 2.0 / GB,
        "kv_mb_per_token": 2.0 * LLAMA_8B.kv_elements_per_token / 1e6,
        "step_ms": 1e3 * step_s,
        "compute_ms": 1e3 * compute_s,
        "slack": step_s / compute_s,
    }


def more_flops() -> dict[str, float]:
    """The speedup of a plain step with twice the FLOP/s, and on GPUs with more bandwidth."""
    accelerator = H100.accelerator
    doubled = {name: 2.0 * rate for name, rate in accelerator.flops_per_s.items()}
    here = float(plain(LLAMA_8B, H100).step_s)
    there = float(plain(LLAMA_8B, roofline(replace(accelerator, flops_per_s=doubled))).step_s)
    numbers = {"speedup": here / there, "flop_ratio": doubled["bf16"] / accelerator.rate("bf16")}
    for name in ("h200-sxm", "b200"):
        numbers[f"to_{name.split('-')[0]}"] = here / float(plain(LLAMA_8B, roofline(name)).step_s)
    for name in ("a100-sxm-80gb", "h100-sxm", "h200-sxm", "b200"):
        rate = float(plain(LLAMA_8B, roofline(name)).tokens_per_s)
        numbers[f"{name.split('-')[0]}_tokens_per_s"] = rate
    return numbers


def second_gpu() -> dict[str, float]:
    """The parts of a plain step on two GPUs with tensor parallelism."""
    all_reduce_s = 6e-6  # a small all-reduce over NVLink with an engine's own kernel: 5 to 8 us
    one = with_link(H100, all_reduce_s, float(H100.accelerator.link_rate))
    two = plain(LLAMA_8B, replace(one, tensor_parallel=2))
    reduced = next(term for term in two.step.terms if term.name == "all-reduce")
    assert reduced.operator is not None
    one_s, two_s = float(plain(LLAMA_8B, one).step_s), float(two.step_s)
    return {
        "half_the_bytes_ms": 1e3 * one_s / 2.0,
        "all_reduces": float(reduced.operator.kernels),
        "all_reduce_ms": 1e3 * float(reduced.seconds),
        "step_ms": 1e3 * two_s,
        "speedup": one_s / two_s,
        "without_all_reduces": 2.0,
        "pipeline": 1.0,
    }


def flop_utilisation() -> dict[str, float]:
    """The share of the FLOP/s that a memory-bound step uses."""
    numbers = bytes_per_token()
    percent = 100.0 * numbers["compute_ms"] / numbers["step_ms"]
    return {
        "percent": percent,
        "sparse": percent / 2.0,
        "resident": 100.0,
    }


def ridge_batch() -> dict[str, float]:
    """The batch where linear layers become compute-bound, by accelerator and precision."""
    four_bits = replace(H100, precision=replace(PRECISIONS["int4"], weight_bytes=0.5))
    rows = float(H100.ridge_rows)
    return {
        "h100": rows,
        "h200": float(roofline("h200-sxm").ridge_rows),
        "a100": float(roofline("a100-sxm-80gb").ridge_rows),
        "b200": float(roofline("b200").ridge_rows),
        "h100_4_bits": float(four_bits.ridge_rows),
        "h100_fp8": float(roofline("h100-sxm", "fp8").ridge_rows),
        "sparse": 2.0 * rows,
        "sparse_and_one_flop": 4.0 * rows,
        "one_byte": rows / 2.0,
    }


QUESTIONS = (
    Choice(
        id="why-memory-bound",
        section=SECTION,
        prompt="Why does a GPU wait for memory when it decodes one sequence?",
        answer="every weight is read for one multiply-add",
        options={
            "decoding is sequential, so the GPU waits for Python": (
                "a program that waits for Python is launch-bound, and CUDA graphs solve that. "
                "After that, the step still waits for its weights."
            ),
            "attention is quadratic": (
                "it is quadratic over a whole sequence. One new token attends to each earlier "
                "token once. That is linear in the context, and at short contexts it is very "
                "little compared with the weights."
            ),
            "every weight is read for one multiply-add": (
                "the GPU reads two bytes for two FLOPs. It could do hundreds of FLOPs per byte."
            ),
            "the model does not fit in the cache of the GPU": (
                "this is true, but it is not the reason. A prefill also reads all weights from "
                "memory, and it is compute-bound: it uses each weight for thousands of tokens."
            ),
        },
        worked=intensity,
        in_short=(
            "At batch 1 a step does {intensity:.0f} FLOP for each byte of 16-bit weights; an H100 "
            "can do {ridge:.0f}."
        ),
        sources=(ROOFLINE, DATASHEETS),
    ),
    Question(
        id="bytes-per-token",
        section=SECTION,
        prompt="Llama-3-8B in bf16, one sequence, short context. How many GB does a step read?",
        answer="weight_gb",
        unit="GB",
        tolerance=0.01,
        mistakes={
            "you count the embedding table (a step reads only one of its rows)": "stored_gb",
            "you compute GiB (bandwidths are in decimal GB)": "weight_gib",
            "you count one byte per weight": "one_byte_gb",
        },
        worked=bytes_per_token,
        in_short=(
            "{weight_gb:.0f} GB. An H100 needs {step_ms:.1f} ms to read them and {compute_ms:.3f} "
            "ms for the arithmetic."
        ),
        sources=("Llama-3-8B config.json", DATASHEETS),
    ),
    Question(
        id="twice-the-flops",
        section=SECTION,
        prompt=(
            "A GPU has twice the FLOP/s of an H100 and the same memory. How many times as fast "
            "does it decode Llama-3-8B at batch 1?"
        ),
        answer="speedup",
        unit="×",
        tolerance=0.02,
        mistakes={"you assume that the arithmetic is the bottleneck": "flop_ratio"},
        worked=more_flops,
        in_short=(
            "It is not faster: only bandwidth counts. An H200 gives at most {to_h200:.2f}×, a B200 "
            "{to_b200:.2f}×."
        ),
        sources=(DATASHEETS,),
    ),
    Question(
        id="second-gpu",
        section=SECTION,
        prompt=(
            "Two H100s share Llama-3-8B by tensor parallelism; a small all-reduce takes 6 us. How "
            "many times as fast is a step at batch 1?"
        ),
        answer="speedup",
        unit="×",
        tolerance=0.02,
        mistakes={
            "you forget the time of the all-reduces": "without_all_reduces",
            "you split the layers over the GPUs (a pipeline makes no token faster)": "pipeline",
        },
        worked=second_gpu,
        in_short=(
            "With tensor parallelism each GPU reads half the bytes, and a step needs "
            "{all_reduces:.0f} all-reduces: {speedup:.2f}×. Data and pipeline parallelism add "
            "throughput; they do not make a step faster."
        ),
        sources=("Megatron-LM, arXiv:1909.08053", DATASHEETS),
    ),
    Question(
        id="flop-utilisation",
        section=SECTION,
        prompt=(
            "Llama-3-8B decodes at batch 1 with the full bandwidth of an H100, and nvidia-smi "
            "shows 100 %. What share of the dense bf16 FLOP/s does it use?"
        ),
        answer="percent",
        unit="%",
        mistakes={
            "you use the number of nvidia-smi (which says that some kernel ran)": "resident",
            "you divide by the sparse rate, or count a multiply-add as one FLOP": "sparse",
        },
        worked=flop_utilisation,
        in_short="{percent:.2f} %: nvidia-smi shows that a kernel runs, not how much it computes.",
        sources=("NVML documentation: utilization is time with a kernel executing", DATASHEETS),
    ),
    Question(
        id="ridge-batch",
        section=SECTION,
        prompt=(
            "At which batch do the linear layers of a bf16 model become compute-bound on an H100, "
            "by its datasheet?"
        ),
        answer="h100",
        unit="rows",
        mistakes={
            "you take the datasheet's sparse FLOP/s": "sparse",
            "you take the sparse FLOP/s and count a multiply-add as one": "sparse_and_one_flop",
            "you count one byte per weight with bf16 arithmetic": "one_byte",
            "you count 4 bits per weight with 16-bit arithmetic": "h100_4_bits",
        },
        worked=ridge_batch,
        in_short=(
            "F × bytes / (2 × BW) = {h100:.0f} rows; {h100_4_bits:.0f} with 4-bit weights; and "
            "{h100_fp8:.0f} again with fp8, where the FLOP/s double and the bytes halve."
        ),
        sources=(ROOFLINE, DATASHEETS),
    ),
)
