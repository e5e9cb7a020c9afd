"""Many sequences and long prompts: the KV cache, the prefill, and the different latencies."""

from specsim.acceptance import IID
from specsim.acceptance.latency import end_to_end_s, zero_gap_share
from specsim.course.quiz.bandwidth import DATASHEETS
from specsim.course.quiz.kinds import Choice, Question
from specsim.course.quiz.models import (
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
    """FLOP per byte of KV cache in decode attention, at batch 1 and 64, and bytes at batch 64."""
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
    """The size of the KV cache of one sequence and of a batch."""
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
    """The FLOPs and the time of a prompt's linear layers."""
    prompt = 4096
    wide = forward_work(LLAMA_8B, Workload(rows=prompt, context=1), BF16)
    flops = sum(float(operator.flops) for operator in wide if operator.kind == "linear")
    rate = H100.accelerator.rate("bf16")
    step_s = float(plain(LLAMA_8B, H100).step_s)
    with_attention = float(prefill_s(LLAMA_8B, H100, prompt=prompt))
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
    """TTFT, TPOT, gaps and end-to-end time, with and without a draft model."""
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
        mistakes={
            "you let the batch share the cache, as it shares the weights": "grows_with_batch",
            "you let all 64 query heads share one KV head": "all_heads",
            "you give each query head its own KV head": "no_sharing",
        },
        worked=attention_intensity,
        in_short=(
            "Attention does {batch_64:.0f} FLOP/byte at any batch. Here it reads {kv_gb:.0f} GB of "
            "cache, more than the {weight_gb:.0f} GB of weights."
        ),
        sources=("GQA, arXiv:2305.13245", "Llama-3-70B config.json"),
    ),
    Question(
        id="kv-size",
        section=SECTION,
        prompt="How many GB of bf16 cache does Llama-3-70B need for one sequence of 8192 tokens?",
        answer="gb",
        unit="GB",
        tolerance=0.03,
        mistakes={
            "you count 64 query heads instead of 8 KV heads": "all_heads",
            "you count only the keys, or only the values": "half",
            "you compute GiB instead of GB": "gib",
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
            "How many seconds do the linear layers of Llama-3-8B take for a prompt of 4096 tokens "
            "on one H100 at its full dense bf16 rate?"
        ),
        answer="seconds",
        unit="s",
        mistakes={
            "you take 4096 decode steps for the prompt": "as_steps_s",
            "you count only the time to read the weights": "weights_once_s",
            "you take the sparse rate, or count a multiply-add as one FLOP": "sparse_s",
        },
        worked=prefill,
        in_short=(
            "2 × 7.5e9 × 4096 = {pflop:.3f} PFLOP, {seconds:.3f} s. It is compute-bound, because "
            "the weights are read once for 4096 tokens."
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
                "the prefill produces the first token. TTFT gets longer, because the draft model "
                "must also read the prompt."
            ),
            "ITL, every gap between two tokens": (
                "the gaps become uneven. Most are zero; each of the others is a whole cycle, which "
                "is longer than a plain step."
            ),
            "TPOT, the mean time per output token": (
                "end-to-end time = TTFT + (L - 1) × TPOT, and only TPOT falls. Goodput counts the "
                "requests that meet both limits, so it can rise or fall."
            ),
            "all three": "TTFT gets longer, and the gaps become uneven.",
        },
        worked=latencies,
        in_short=(
            "Only TPOT. TTFT grows from {ttft_ms:.0f} to {ttft_with_draft_ms:.0f} ms (8B target, "
            "1B draft, 4096 tokens, ideal H200), and the gaps become uneven."
        ),
        sources=("DistServe (goodput), arXiv:2401.09670",),
    ),
)
