"""Serving: percentiles, benchmarks, cost, and the software around the passes."""

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
from specsim.course.quiz.kinds import Choice, Question
from specsim.course.quiz.models import (
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
    """TPOT, gaps and cycles of the example."""
    alpha, gamma, cycle_s = 0.8, 5, 20e-3
    acceptance = IID(alpha)
    tokens = float(acceptance.tokens_per_cycle(gamma))
    cycles = cycles_to_emit(64, per_position(acceptance, gamma).vector)
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
    """Dollars per million tokens, plain, speculative and batched."""
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
    """The speedup where a pass takes a constant time per layer."""
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
        prompt="α = 0.8, γ = 5, cycles of 20 ms. What is the P99 gap between two tokens, in ms?",
        answer="p99_ms",
        unit="ms",
        tolerance=0.02,
        mistakes={
            "you give the mean, which is TPOT": "tpot_ms",
            "you give the median (most gaps are between tokens of one cycle)": "p50_ms",
        },
        worked=percentiles,
        in_short=(
            "{zero_percent:.0f} % of the gaps are zero, and each of the others is a whole cycle: "
            "TPOT {tpot_ms:.2f} ms, P99 gap {p99_ms:.0f} ms."
        ),
        sources=("Leviathan et al., arXiv:2211.17192 (the tokens of a cycle)",),
    ),
    Choice(
        id="benchmark",
        section=SECTION,
        prompt="Which of these comparisons of speculative with plain decoding is fair?",
        answer=(
            "one warm engine with the same sampler and CUDA graphs, prompts of several domains, "
            "over concurrency"
        ),
        options={
            "the new engine with speculation, against eager transformers without": (
                "this measures the engine. Say what share of its bandwidth the baseline reaches."
            ),
            "one prompt, repeated a hundred times": (
                "acceptance differs more between prompts than between methods."
            ),
            (
                "one warm engine with the same sampler and CUDA graphs, prompts of several "
                "domains, over concurrency"
            ): (
                "report P50 and P99 of TPOT, in open and closed loop. Say what τ counts and what "
                "share of its bandwidth the baseline reaches."
            ),
            "acceptance rates, without times": (
                "three different rates have this name, and none of them is a speed."
            ),
        },
        in_short=(
            "Everything is equal except the drafts; several domains; P50 and P99 over concurrency; "
            "a definition of τ, and the baseline's share of its bandwidth."
        ),
        sources=("SPEED-Bench, arXiv:2604.09557",),
    ),
    Question(
        id="dollars",
        section=SECTION,
        prompt=(
            "Llama-3-70B in bf16 runs on four H100s at 75 % of their bandwidth, without other "
            "overhead. A GPU-hour costs 2.5 dollars. How many dollars do a million tokens cost at "
            "batch 1?"
        ),
        answer="dollars",
        unit="dollars",
        mistakes={
            "you pay for only one of the four GPUs": "one_gpu_billed",
            "you take the full bandwidth": "full_bandwidth",
            "you include the speedup of speculation": "speculative",
            "you take a batch of 64": "batch_dollars",
        },
        worked=dollars,
        in_short=(
            "{dollars:.1f} dollars at batch 1, {speculative:.1f} with a speedup of 2.5, "
            "{batch_dollars:.2f} at batch 64: batching reduces cost, speculation reduces latency."
        ),
        sources=("NVIDIA H100 datasheet; the price is assumed",),
    ),
    Question(
        id="eager",
        section=SECTION,
        prompt=(
            "In eager PyTorch a pass takes a constant time per layer. Qwen3-0.6B (28 layers) "
            "drafts for Qwen3-8B (36 layers) with α = 0.8 and γ = 4. What is the speedup?"
        ),
        answer="speedup",
        unit="×",
        mistakes={
            "you take c from the sizes, as if the passes were memory-bound": "by_bytes",
            "you forget the time of drafting": "free_draft",
        },
        worked=eager,
        in_short=(
            "c = 28/36 = {c:.2f}, not {c_bytes:.2f}: {speedup:.2f}× at γ = 4, at best "
            "{best:.2f}×. Capture both models in CUDA graphs."
        ),
        sources=("Yan et al., arXiv:2402.01528: 0.55 ms per layer at any width",),
    ),
)
