"""Serving: percentiles, benchmarks, money, and the software around the passes."""

import numpy as np

from specsim.acceptance import IID, per_position
from specsim.acceptance.latency import (
    cycles_to_emit,
    gap_percentile_s,
    time_per_token_s,
    zero_gap_share,
)
from specsim.acceptance.leviathan import best_gamma, leviathan_speedup
from specsim.architecture import model
from specsim.course.quiz.questions import Choice, Question
from specsim.course.quiz.shapes import (
    GB,
    LLAMA_70B,
    of_bandwidth,
    plain,
    roofline,
    streamed_bytes,
    with_link,
)
from specsim.planning.economics import dollars_per_million_tokens
from specsim.planning.memory import footprint

SECTION = "Serving"


def percentiles() -> dict[str, float]:
    alpha, gamma, cycle_s = 0.8, 5, 20e-3
    law = IID(alpha)
    tokens = float(law.tokens_per_cycle(gamma))
    cycles = cycles_to_emit(64, per_position(law, gamma).vector)
    return {
        "tokens": tokens,
        "zero_percent": 100.0 * float(zero_gap_share(tokens)),
        "tpot_ms": 1e3 * float(time_per_token_s(cycle_s, tokens)),
        "p99_ms": 1e3 * float(gap_percentile_s(cycle_s, tokens, 99)),
        "p50_ms": 1e3 * float(gap_percentile_s(cycle_s, tokens, 50)),
        "cycles": cycles.mean,
        "cycles_sd": cycles.sd,
        "cycles_p95": float(cycles.percentile(95)),
    }


def dollars() -> dict[str, float]:
    devices, price = 4, 10.0  # four GPUs at 2.5 dollars an hour each: an assumed price
    four = of_bandwidth(with_link(roofline("h100-sxm", devices=devices), 0.0, np.inf), 0.75)
    one = plain(LLAMA_70B, four)
    many = plain(LLAMA_70B, four, batch=64, context=2048)
    rate = float(one.tokens_per_s)

    def cost(tokens_per_s: float, per_hour: float = price) -> float:
        return float(dollars_per_million_tokens(per_hour, tokens_per_s))

    two = footprint(LLAMA_70B, roofline("h100-sxm", devices=2), batch=64, context=2048)
    assert two.capacity_bytes is not None
    spare = 2.0 * two.capacity_bytes - 2.0 * LLAMA_70B.parameters
    return {
        "step_ms": 1e3 * float(one.step_s),
        "tokens_per_s": rate,
        "dollars": cost(rate),
        "full_bandwidth": 0.75 * cost(rate),
        "one_gpu_billed": cost(rate, price / devices),
        "speculative": cost(2.5 * rate),
        "batch_step_ms": 1e3 * float(many.step_s),
        "batch_tokens_per_s": float(many.tokens_per_s),
        "batch_dollars": cost(float(many.tokens_per_s)),
        "two_gpus_spare_gb": spare / GB,
        "two_gpus_spare_tokens": spare / (2.0 * LLAMA_70B.kv_elements_per_token),
        "tokens_wanted": 64.0 * 2048.0,
        "two_gpus_short_gb": -2.0 * float(two.spare_bytes) / GB,
    }


def eager() -> dict[str, float]:
    alpha, gamma = 0.8, 4
    target, draft = model("qwen3-8b"), model("qwen3-0.6b")
    by_layers = draft.num_layers / target.num_layers
    by_bytes = streamed_bytes(draft) / streamed_bytes(target)
    best = int(best_gamma(alpha, by_layers))
    return {
        "c": by_layers,
        "c_bytes": by_bytes,
        "speedup": float(leviathan_speedup(alpha, gamma, by_layers)),
        "by_bytes": float(leviathan_speedup(alpha, gamma, by_bytes)),
        "free_draft": float(leviathan_speedup(alpha, gamma, 0.0)),
        "best": float(leviathan_speedup(alpha, best, by_layers)),
        "best_gamma": float(best),
    }


QUESTIONS = (
    Question(
        id="percentiles",
        section=SECTION,
        prompt=("α = 0.8, γ = 5, cycles of 20 ms. What is the P99 gap between two tokens, in ms?"),
        answer="p99_ms",
        unit="ms",
        tolerance=0.02,
        mistakes={
            "the mean is quoted: TPOT": "tpot_ms",
            "the median is quoted: most gaps lie inside a burst": "p50_ms",
        },
        worked=percentiles,
        in_short=(
            "{zero_percent:.0f} % of the gaps are zero and the rest a whole cycle: TPOT "
            "{tpot_ms:.2f} ms, P99 gap {p99_ms:.0f} ms."
        ),
        sources=("Leviathan et al., arXiv:2211.17192 (the law of a cycle)",),
    ),
    Choice(
        id="benchmark",
        section=SECTION,
        prompt="Which of these comparisons of speculative with plain decoding is fair?",
        answer=(
            "one engine, sampler and set of graphs, warm, prompts of several domains, over "
            "concurrency"
        ),
        options={
            "the new engine with speculation, against eager transformers without": (
                "it measures the engine: say how much of its bandwidth the baseline reached."
            ),
            "one prompt, repeated a hundred times": (
                "acceptance differs more between prompts than between methods."
            ),
            (
                "one engine, sampler and set of graphs, warm, prompts of several domains, over "
                "concurrency"
            ): (
                "report TPOT's P50 and P99, in open and closed loop, what τ counts, and which "
                "share of its bandwidth the baseline reached."
            ),
            "acceptance rates, without times": (
                "three different rates go by that name, and none of them is a speed."
            ),
        },
        in_short=(
            "Everything equal but the drafts; several domains; P50 and P99 over concurrency; "
            "define τ and show the baseline's share of its bandwidth."
        ),
        sources=("SPEED-Bench, arXiv:2604.09557",),
    ),
    Question(
        id="dollars",
        section=SECTION,
        prompt=(
            "Llama-3-70B in bf16 on four H100s at 75 % of their bandwidth (no other cost), 2.5 "
            "dollars per GPU-hour: dollars per million tokens at batch 1?"
        ),
        answer="dollars",
        unit="dollars",
        mistakes={
            "only one of the four GPUs is billed": "one_gpu_billed",
            "the full bandwidth is taken": "full_bandwidth",
            "the speedup of speculation is in it already": "speculative",
            "a batch of 64 is in it already": "batch_dollars",
        },
        worked=dollars,
        in_short=(
            "{dollars:.1f} dollars at batch 1, {speculative:.1f} with a speedup of 2.5, "
            "{batch_dollars:.2f} at batch 64: batching buys cost, speculation latency."
        ),
        sources=("NVIDIA H100 datasheet; the price is assumed",),
    ),
    Question(
        id="eager",
        section=SECTION,
        prompt=(
            "Eager PyTorch, where every pass costs its layers times a constant: Qwen3-0.6B (28 "
            "layers) drafts for Qwen3-8B (36), α = 0.8, γ = 4. The speedup?"
        ),
        answer="speedup",
        unit="×",
        mistakes={
            "c is taken from the sizes, as if bytes were what is waited for": "by_bytes",
            "the draft is taken for free": "free_draft",
        },
        worked=eager,
        in_short=(
            "c = 28/36 = {c:.2f}, not {c_bytes:.2f}: {speedup:.2f}× at γ = 4, at best "
            "{best:.2f}×. Capture both models in CUDA graphs."
        ),
        sources=("Yan et al., arXiv:2402.01528: 0.55 ms a layer, whatever the width",),
    ),
)
