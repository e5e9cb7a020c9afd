"""What many sequences and long prompts change: the cache, the prefill, and which time is meant."""

from specsim.acceptance import IID
from specsim.acceptance.latency import end_to_end_s, zero_gap_share
from specsim.course.quiz.bandwidth import DATASHEETS
from specsim.course.quiz.questions import Choice, Question
from specsim.course.quiz.shapes import (
    BF16,
    GB,
    GIB,
    H100,
    LLAMA_1B,
    LLAMA_8B,
    LLAMA_70B,
    plain,
    roofline,
    streamed_bytes,
)
from specsim.operators import Workload, cache_bytes, forward_work
from specsim.planning.prefill import prefill_s, time_to_first_token

SECTION = "Batches, caches, prompts"


def attention_intensity() -> dict[str, float]:
    numbers = {}
    for batch in (1, 64):
        attention = forward_work(LLAMA_70B, Workload(batch=batch, context=8192), BF16)["attention"]
        numbers[f"batch_{batch}"] = float(attention.flops / attention.kv_bytes)
    heads = LLAMA_70B.num_heads / LLAMA_70B.num_kv_heads
    return numbers | {
        "shared_heads": heads,
        "all_heads": float(LLAMA_70B.num_heads),
        "grows_with_batch": 64 * heads,
        "no_sharing": 1.0,
        "kv_gb": float(cache_bytes(LLAMA_70B, BF16, batch=64, slots=8192)) / GB,
        "weight_gb": streamed_bytes(LLAMA_70B) / GB,
    }


def kv_size() -> dict[str, float]:
    one = float(cache_bytes(LLAMA_70B, BF16, batch=1, slots=8192))
    sharing = LLAMA_70B.num_heads / LLAMA_70B.num_kv_heads
    return {
        "gb": one / GB,
        "gib": one / GIB,
        "half": one / 2.0 / GB,
        "all_heads": sharing * one / GB,
        "sharing": sharing,
        "batch_gb": float(cache_bytes(LLAMA_70B, BF16, batch=32, slots=4096)) / GB,
    }


def prefill() -> dict[str, float]:
    prompt = 4096
    wide = forward_work(LLAMA_70B, Workload(rows=prompt, context=1), BF16)
    flops = sum(float(operator.flops) for operator in wide if operator.kind == "linear")
    rate = H100.accelerator.rate("bf16")
    step_s = float(plain(LLAMA_70B, H100).step_s)
    with_attention = float(prefill_s(LLAMA_70B, H100, prompt=prompt))
    return {
        "pflop": flops / 1e15,
        "seconds": flops / rate,
        "seconds_at_60": flops / (0.6 * rate),
        "with_attention_s": with_attention,
        "as_steps_s": prompt * step_s,
        "weights_once_s": step_s,
        "sparse_s": flops / (2.0 * rate),
        "one_flop_s": flops / 2.0 / rate,
        "prompt": float(prompt),
    }


def latencies() -> dict[str, float]:
    system = roofline("h200-sxm")
    alone = time_to_first_token(LLAMA_8B, system, prompt=4096)
    drafting = time_to_first_token(LLAMA_8B, system, prompt=4096, draft=LLAMA_1B)
    tokens = float(IID(0.8).tokens_per_cycle(5))
    return {
        "ttft_ms": 1e3 * float(alone.total_s),
        "ttft_with_draft_ms": 1e3 * float(drafting.total_s),
        "tpot_ms": 20.0 / tokens,
        "zero_gap_percent": 100.0 * float(zero_gap_share(tokens)),
        "end_to_end_ms": 1e3 * float(end_to_end_s(0.05, 127, 0.02, tokens)),
    }


QUESTIONS = (
    Question(
        id="attention-intensity",
        section=SECTION,
        prompt=(
            "Llama-3-70B at batch 64 and 8192 tokens of context: how many FLOP does decode "
            "attention do per byte of bf16 cache?"
        ),
        answer="batch_64",
        unit="FLOP/byte",
        slips={
            "the batch is thought to share the cache, as it shares the weights": "grows_with_batch",
            "all 64 query heads are thought to share one KV head": "all_heads",
            "every query head is given a KV head of its own": "no_sharing",
        },
        worked=attention_intensity,
        in_short=(
            "Attention stays at {batch_64:.0f} FLOP/byte whatever the batch, and here its "
            "{kv_gb:.0f} GB exceed the {weight_gb:.0f} GB of weights."
        ),
        sources=("GQA, arXiv:2305.13245", "Llama-3-70B config.json"),
    ),
    Question(
        id="kv-size",
        section=SECTION,
        prompt="How many GB of bf16 cache does one sequence of 8192 tokens of Llama-3-70B hold?",
        answer="gb",
        unit="GB",
        tolerance=0.03,
        slips={
            "64 query heads are counted instead of 8 KV heads": "all_heads",
            "keys are counted and values are not (or the other way round)": "half",
            "GiB are called GB": "gib",
        },
        worked=kv_size,
        in_short=(
            "2 × 80 layers × 8 KV heads × 128 × 2 bytes × 8192 = {gb:.2f} GB; without GQA "
            "{sharing:.0f}× that."
        ),
        sources=("Llama-3-70B config.json",),
    ),
    Question(
        id="prefill",
        section=SECTION,
        prompt=(
            "How many seconds do the linear layers of Llama-3-70B take for a prompt of 4096 tokens "
            "on one H100 at its full dense bf16 rate?"
        ),
        answer="seconds",
        unit="s",
        slips={
            "the prompt is taken for 4096 decode steps": "as_steps_s",
            "only the reading of the weights is timed": "weights_once_s",
            "the sparse rate is taken, or a multiply-add counted as one": "sparse_s",
        },
        worked=prefill,
        in_short=(
            "2 × 69.5e9 × 4096 = {pflop:.2f} PFLOP, {seconds:.2f} s: the weights are read once for "
            "4096 rows, so it computes."
        ),
        sources=(DATASHEETS,),
    ),
    Choice(
        id="which-latency",
        section=SECTION,
        prompt="Which of these does speculative decoding improve?",
        answer="TPOT, the mean time per output token",
        options={
            "TTFT, the time to the first token": (
                "the first token comes out of the prefill. It gets later, by the draft's own "
                "reading of the prompt."
            ),
            "ITL, every gap between two tokens": (
                "the gaps become bursty: most are zero, and the others a whole cycle, which is "
                "longer than a plain step."
            ),
            "TPOT, the mean time per output token": (
                "end to end = TTFT + (L - 1) × TPOT, and only TPOT falls. Goodput counts the "
                "requests that meet both limits, so it may rise or fall."
            ),
            "all three": "TTFT gets worse, and the gaps become uneven.",
        },
        worked=latencies,
        in_short=(
            "TPOT alone; TTFT goes from {ttft_ms:.0f} to {ttft_with_draft_ms:.0f} ms (an 8B, 1B "
            "draft, 4096 tokens, an ideal H200) and the gaps become bursty."
        ),
        sources=("DistServe (goodput), arXiv:2401.09670",),
    ),
)
