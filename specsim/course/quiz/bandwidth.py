"""Why a decode step waits for memory, and what would and would not make it faster."""

from dataclasses import replace

from specsim.course.quiz.questions import Choice, Question
from specsim.course.quiz.shapes import (
    GB,
    GIB,
    H100,
    LLAMA_8B,
    LLAMA_70B,
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
    linear = [term.operator for term in plain(LLAMA_70B, H100).step.terms if term.operator]
    linear = [operator for operator in linear if operator.kind == LINEAR]
    flops = sum(float(operator.flops) for operator in linear)
    return {
        "intensity": flops / sum(float(operator.weight_bytes) for operator in linear),
        "ridge": float(H100.ridge),
    }


def bytes_per_token() -> dict[str, float]:
    step = plain(LLAMA_70B, H100)
    streamed = streamed_bytes(LLAMA_70B)
    step_s = float(step.step_s)
    flops = 2.0 * (LLAMA_70B.parameters - LLAMA_70B.embedding_parameters)
    compute_s = flops / H100.accelerator.rate("bf16")
    return {
        "weight_gb": streamed / GB,
        "weight_gib": streamed / GIB,
        "stored_gb": 2.0 * LLAMA_70B.parameters / GB,
        "one_byte_gb": streamed / 2.0 / GB,
        "kv_mb_per_token": 2.0 * LLAMA_70B.kv_elements_per_token / 1e6,
        "step_ms": 1e3 * step_s,
        "compute_ms": 1e3 * compute_s,
        "slack": step_s / compute_s,
    }


def more_flops() -> dict[str, float]:
    chip = H100.accelerator
    doubled = {name: 2.0 * rate for name, rate in chip.flops_per_s.items()}
    here = float(plain(LLAMA_70B, H100).step_s)
    there = float(plain(LLAMA_70B, roofline(replace(chip, flops_per_s=doubled))).step_s)
    numbers = {"speedup": here / there, "flop_ratio": doubled["bf16"] / chip.rate("bf16")}
    for name in ("h200-sxm", "b200"):
        numbers[f"to_{name.split('-')[0]}"] = here / float(plain(LLAMA_70B, roofline(name)).step_s)
    for short, shape in (("70b", LLAMA_70B), ("8b", LLAMA_8B)):
        for name in ("a100-sxm-80gb", "h100-sxm", "h200-sxm", "b200"):
            rate = float(plain(shape, roofline(name)).tokens_per_s)
            numbers[f"{short}_{name.split('-')[0]}_tokens_per_s"] = rate
    return numbers


def second_gpu() -> dict[str, float]:
    all_reduce_s = 6e-6  # a small all-reduce of an engine's own over NVLink: 5 to 8 us
    one = with_link(H100, all_reduce_s, float(H100.accelerator.link_rate))
    two = plain(LLAMA_70B, replace(one, tensor_parallel=2))
    reduced = next(term for term in two.step.terms if term.name == "all-reduce")
    assert reduced.operator is not None
    one_s, two_s = float(plain(LLAMA_70B, one).step_s), float(two.step_s)
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
    numbers = bytes_per_token()
    percent = 100.0 * numbers["compute_ms"] / numbers["step_ms"]
    return {
        "percent": percent,
        "sparse": percent / 2.0,
        "resident": 100.0,
    }


def ridge_batch() -> dict[str, float]:
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
                "that is a launch-bound program, and CUDA graphs cure it. The step that is left "
                "still waits for its weights."
            ),
            "attention is quadratic": (
                "over a whole sequence it is. A new token meets every earlier one once: linear in "
                "the context, and at short contexts next to nothing beside the weights."
            ),
            "every weight is read for one multiply-add": (
                "two bytes for two FLOPs, where the chip could do hundreds per byte."
            ),
            "the model does not fit in the cache of the GPU": (
                "true, and no reason by itself: a prefill streams the same weights and computes "
                "all the time, since it uses each for thousands of rows."
            ),
        },
        worked=intensity,
        in_short=(
            "At batch 1 a 16-bit weight earns {intensity:.0f} FLOP per byte; an H100 can do "
            "{ridge:.0f}."
        ),
        sources=(ROOFLINE, DATASHEETS),
    ),
    Question(
        id="bytes-per-token",
        section=SECTION,
        prompt="Llama-3-70B in bf16, one sequence, short context: how many GB does a step read?",
        answer="weight_gb",
        unit="GB",
        tolerance=0.01,
        mistakes={
            "the embedding table is counted: only one of its rows is gathered": "stored_gb",
            "GiB are called GB: bandwidths are decimal": "weight_gib",
            "a weight is taken for one byte": "one_byte_gb",
        },
        worked=bytes_per_token,
        in_short=(
            "{weight_gb:.0f} GB, {step_ms:.1f} ms of an H100's bandwidth, for {compute_ms:.2f} ms "
            "of arithmetic."
        ),
        sources=("Llama-3-70B config.json", DATASHEETS),
    ),
    Question(
        id="twice-the-flops",
        section=SECTION,
        prompt=(
            "A GPU with twice the FLOP/s of an H100 and the same memory: how many times as fast "
            "does it decode Llama-3-70B at batch 1?"
        ),
        answer="speedup",
        unit="×",
        tolerance=0.02,
        mistakes={"arithmetic is taken for the bottleneck": "flop_ratio"},
        worked=more_flops,
        in_short=(
            "Not at all faster: only bandwidth counts, at most {to_h200:.2f}× for an H200 and "
            "{to_b200:.2f}× for a B200."
        ),
        sources=(DATASHEETS,),
    ),
    Question(
        id="second-gpu",
        section=SECTION,
        prompt=(
            "Two H100s share Llama-3-70B by tensor parallelism; a small all-reduce takes 6 us. How "
            "many times as fast is a step at batch 1?"
        ),
        answer="speedup",
        unit="×",
        tolerance=0.02,
        mistakes={
            "the all-reduces are free": "without_all_reduces",
            "the layers are split over the devices (pipeline): no token is any sooner": "pipeline",
        },
        worked=second_gpu,
        in_short=(
            "Tensor parallelism: half the bytes, {all_reduces:.0f} all-reduces, {speedup:.2f}×; "
            "data and pipeline parallelism add throughput, not speed."
        ),
        sources=("Megatron-LM, arXiv:1909.08053", DATASHEETS),
    ),
    Question(
        id="flop-utilisation",
        section=SECTION,
        prompt=(
            "nvidia-smi shows 100 % while Llama-3-70B decodes at batch 1 at an H100's full "
            "bandwidth. What share of its dense bf16 FLOP/s is used?"
        ),
        answer="percent",
        unit="%",
        mistakes={
            "nvidia-smi is believed: it says that some kernel was resident": "resident",
            "it is compared with the sparse rate, or a multiply-add counted as one": "sparse",
        },
        worked=flop_utilisation,
        in_short="{percent:.2f} %: the busy light says that a kernel is there, not what it does.",
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
            "the datasheet's sparse FLOP/s are taken": "sparse",
            "sparse FLOP/s are taken and a multiply-add counts as one": "sparse_and_one_flop",
            "a weight is taken for one byte while the arithmetic stays bf16": "one_byte",
            "the weights are in 4 bits and the arithmetic in 16": "h100_4_bits",
        },
        worked=ridge_batch,
        in_short=(
            "F × bytes / (2 × BW): {h100:.0f} rows, {h100_4_bits:.0f} with 4-bit weights, and "
            "{h100_fp8:.0f} again with fp8, since both sides double."
        ),
        sources=(ROOFLINE, DATASHEETS),
    ),
)
