"""When speculation pays, when it hurts, and what it does not save."""

from dataclasses import replace
from typing import Any

from specsim.acceptance import IID
from specsim.acceptance.leviathan import best_gamma, flop_multiplier, leviathan_speedup
from specsim.architecture import Experts, model
from specsim.course.quiz.kinds import Choice, Question
from specsim.course.quiz.models import (
    BF16,
    GB,
    LLAMA_1B,
    LLAMA_8B,
    LLAMA_70B,
    plain,
    roofline,
    streamed_bytes,
    toy,
    toy_system,
)
from specsim.course.quiz.tokens import LEVIATHAN
from specsim.drafting import DraftModel
from specsim.operators import Workload, cache_bytes, distinct_experts, forward_work
from specsim.planning import plan
from specsim.planning.economics import token_cost
from specsim.speculation import predict

SECTION = "When it pays"
BATCHES = (1, 32, 64, 128, 256)


def when_it_hurts() -> dict[str, float]:
    """Speedups by batch, with a fixed and with the best gamma."""
    target, draft = toy("target", 70e9), DraftModel(toy("draft", 1.2e9), catch_up="none")
    system = toy_system(0.85 * 3.35e12, 0.70 * 989e12)
    scenario: dict[str, Any] = {"alpha": 0.75, "context": 1}
    fixed = predict(target, draft, system, gamma=4, batch=BATCHES, **scenario).speedup
    best = plan(target, draft, system, batches=BATCHES, gammas=range(9), **scenario)
    numbers = {f"fixed_{b}": float(s) for b, s in zip(BATCHES, fixed, strict=True)}
    numbers |= {f"best_{b}": float(s) for b, s in zip(BATCHES, best.speedup, strict=True)}
    numbers |= {f"gamma_{b}": float(g) for b, g in zip(BATCHES, best.gamma, strict=True)}
    return numbers | {"never_below": 1.0, "rows": 5.0 * 256, "ridge_rows": float(system.ridge_rows)}


def what_it_saves() -> dict[str, float]:
    """FLOPs, bytes and energy per token, compared with plain decoding."""
    alpha, gamma = 0.8, 4
    ratio = streamed_bytes(LLAMA_1B) / streamed_bytes(LLAMA_70B)
    tokens = float(IID(alpha).tokens_per_cycle(gamma))
    cycle = (streamed_bytes(LLAMA_70B) + gamma * streamed_bytes(LLAMA_1B)) / GB
    draft, system = DraftModel(LLAMA_1B, catch_up="none"), roofline("b200")
    joules = [
        float(token_cost(predict(LLAMA_70B, draft, system, gamma=g, alpha=alpha)).joules)
        for g in (0, gamma)
    ]
    return {
        "ratio": ratio,
        "flops": float(flop_multiplier(alpha, gamma, ratio)),
        "fewer_passes": 1.0 / tokens,
        "rows_forgotten": (gamma * ratio + 1.0) / tokens,
        "bonus_forgotten": (gamma * ratio + gamma + 1.0) / (tokens - 1.0),
        "gb_per_token": cycle / tokens,
        "plain_gb": streamed_bytes(LLAMA_70B) / GB,
        "plain_j": joules[0],
        "speculative_j": joules[1],
    }


def bigger_draft() -> dict[str, float]:
    """The best speedup of a 1B and an 8B draft at several acceptance rates."""
    numbers = {}
    for name, draft, alphas in (("1b", LLAMA_1B, (70, 75)), ("8b", LLAMA_8B, (80, 85))):
        cost = streamed_bytes(draft) / streamed_bytes(LLAMA_70B)
        numbers[f"c_{name}"] = cost
        for percent in alphas:
            gamma = best_gamma(percent / 100.0, cost)
            best = leviathan_speedup(percent / 100.0, gamma, cost)
            numbers[f"{name}_at_{percent}"] = float(best)
    return numbers


def experts() -> dict[str, float]:
    """How many distinct experts several tokens touch, and the bytes of a wider pass."""
    routed = Experts(count=256, per_token=8, intermediate_size=1)
    one = float(distinct_experts(routed, 1, 1))
    moe = model("qwen3-30b-a3b")
    numbers = {
        "independent": float(distinct_experts(routed, 1, 4, 0.0)) / one,
        "correlated": float(distinct_experts(routed, 1, 4, 0.45)) / one,
        "each_its_own": 4.0,
        "dense": 1.0,
    }
    assert moe.experts is not None
    few = moe.experts
    numbers["correlated_128"] = float(distinct_experts(few, 1, 4, 0.45)) / few.per_token
    for batch in (1, 8, 64):
        wide, narrow = (
            float(forward_work(moe, Workload(batch=batch, rows=rows, context=1), BF16).weight_bytes)
            for rows in (4, 1)
        )
        numbers[f"bytes_at_{batch}"] = wide / narrow
    return numbers


def long_context() -> dict[str, float]:
    """The speedup at a long context, with a full and a windowed draft cache."""
    system = roofline("h200-sxm")
    scenario: dict[str, Any] = {"gamma": 4, "alpha": 0.8, "batch": 16, "context": 32768}
    windowed = DraftModel(LLAMA_1B, catch_up="none", window=512)
    full = predict(LLAMA_8B, DraftModel(LLAMA_1B, catch_up="none"), system, **scenario)
    short = predict(LLAMA_8B, windowed, system, **scenario)
    weights_s = float(plain(LLAMA_8B, system, batch=16).step_s)
    step_s, draft_s = float(full.step_s), float(full.draft_s)
    five_reads_s = weights_s + 5 * (step_s - weights_s)
    one = float(cache_bytes(LLAMA_70B, BF16, batch=1, slots=2**17))
    return {
        "step_ms": 1e3 * step_s,
        "window_step_ms": 1e3 * float(short.draft_step_s),
        "full_step_ms": 1e3 * float(full.draft_step_s),
        "window": float(short.speedup),
        "full": float(full.speedup),
        "cache_read_per_row": float(full.tokens_per_cycle) * step_s / (draft_s + five_reads_s),
        "kv_gb_70b": one / GB,
        "kv_gb_four": 4.0 * one / GB,
        "weight_gb_70b": streamed_bytes(LLAMA_70B) / GB,
    }


def quantised() -> dict[str, float]:
    """The gains of 4.5-bit weights, of speculation, and of both."""
    bits, alpha = 4.5, 0.75
    fewer = 16.0 / bits
    draft = streamed_bytes(LLAMA_1B)
    before, after = (draft / streamed_bytes(LLAMA_8B, b) for b in (2.0, bits / 8.0))

    def best(cost: float) -> float:
        return float(leviathan_speedup(alpha, best_gamma(alpha, cost), cost))

    four_bits = replace(roofline("h100-sxm"), precision=replace(BF16, weight_bytes=bits / 8.0))
    return {
        "gb_70b": streamed_bytes(LLAMA_70B, bits / 8.0) / GB,
        "fewer_bytes": fewer,
        "c_before": before,
        "c_after": after,
        "speedup_before": best(before),
        "speedup_after": best(after),
        "together": fewer * best(after),
        "product": fewer * best(before),
        "both_quantised": fewer * best(before),
        "bf16_ridge_rows": float(roofline("h100-sxm").ridge_rows),
        "ridge_rows": float(four_bits.ridge_rows),
    }


QUESTIONS = (
    Question(
        id="when-it-hurts",
        section=SECTION,
        prompt=(
            "A 70B target with a 1.2B draft runs on one device with enough memory, 85 % of an "
            "H100's bandwidth and 70 % of its FLOP/s (no KV cache). What is the speedup of a fixed "
            "γ = 4 at α = 0.75 and batch 256?"
        ),
        answer="fixed_256",
        unit="×",
        mistakes={
            "you take the verification time of batch 1": "fixed_1",
            "you assume that a lossless method cannot be slower": "never_below",
        },
        worked=when_it_hurts,
        in_short=(
            "{fixed_1:.2f}× at batch 1, where extra rows are free; {fixed_64:.2f}× at 64; "
            "{fixed_256:.2f}× at 256. The best γ there is 0: speculation is switched off, "
            "{best_256:.2f}×."
        ),
        sources=(LEVIATHAN, "roofline of the datasheet, reduced as stated"),
    ),
    Choice(
        id="same-output",
        section=SECTION,
        prompt="Does speculative decoding change the output?",
        answer="not the distribution, but sometimes the bits",
        options={
            "no: at temperature 0 it is bitwise identical": (
                "a pass of γ + 1 tokens runs other kernels than a pass of one token, and they sum "
                "in another order. In bf16 this can flip near-ties, as a change of batch can."
            ),
            "yes: the text moves towards the draft's style": (
                "rejection sampling corrects for the draft exactly. The emitted tokens have the "
                "target's distribution with any draft."
            ),
            "not the distribution, but sometimes the bits": (
                "the distribution is the target's. At temperature 0 the tokens are the same, "
                "except at near-ties, which other kernels can round the other way."
            ),
            "only the length changes": "nothing about the distribution of the text changes.",
        },
        in_short="The distribution stays the target's; near-ties can round the other way.",
        sources=(LEVIATHAN,),
    ),
    Question(
        id="flops-saved",
        section=SECTION,
        prompt=(
            "Llama-3-70B with a 1B draft, α = 0.8, γ = 4. By which factor do the FLOPs per emitted "
            "token change?"
        ),
        answer="flops",
        unit="×",
        mistakes={
            "you divide the FLOPs by τ (fewer passes, but not fewer tokens)": "fewer_passes",
            "you forget that verification computes γ + 1 tokens": "rows_forgotten",
            "you forget the bonus token": "bonus_forgotten",
        },
        worked=what_it_saves,
        in_short=(
            "The FLOPs grow by a factor of {flops:.2f}. The bytes fall from {plain_gb:.0f} to "
            "{gb_per_token:.0f} GB per token, and at batch 1 the time goes into bytes."
        ),
        sources=(f"{LEVIATHAN}, theorem 3.11",),
    ),
    Choice(
        id="bigger-draft",
        section=SECTION,
        prompt=(
            "Which draft is better for Llama-3-70B, counting bytes only: a 1B with α = 0.75 or an "
            "8B with α = 0.85?"
        ),
        answer="the 1B draft",
        options={
            "the 8B draft": "its α is higher, but a draft step takes six times as long.",
            "the 1B draft": (
                "compare the best values of τ/(1 + γc). Here c is the draft's bytes divided by the "
                "target's."
            ),
            "the two are equal": "they are not equal: compare the best speedup of each.",
        },
        worked=bigger_draft,
        in_short=(
            "The 1B at 0.75 gains {1b_at_75:.2f}×, the 8B at 0.85 gains {8b_at_85:.2f}×. Compare "
            "the best τ/(1 + γc), not α."
        ),
        sources=(LEVIATHAN,),
    ),
    Question(
        id="experts",
        section=SECTION,
        prompt=(
            "A layer has 256 experts, and each token uses 8 of them. 4 tokens route independently. "
            "How many times as many distinct experts do they touch as one token?"
        ),
        answer="independent",
        unit="×",
        tolerance=0.02,
        mistakes={
            "you assume that no two tokens share an expert": "each_its_own",
            "you treat the layer as a dense one": "dense",
            "you use the reported routing correlation of 0.45": "correlated",
        },
        worked=experts,
        in_short=(
            "{independent:.2f}× if independent, about {correlated:.1f}× with the reported "
            "correlation. Speculation works best at a medium batch, which loads every expert "
            "anyway."
        ),
        sources=("MoESD, arXiv:2505.19645", "Cohere, blog, April 2026 (correlation 0.45)"),
    ),
    Question(
        id="long-context",
        section=SECTION,
        prompt=(
            "Llama-3-8B on an ideal H200 at batch 16 and 32k tokens of context, with a 1B draft "
            "that keeps its full cache, α = 0.8, γ = 4. What is the speedup?"
        ),
        answer="full",
        unit="×",
        mistakes={
            "you count the cache once per drafted token (a pass reads it once)": (
                "cache_read_per_row"
            ),
            "you forget the draft's own cache, or give it a window": "window",
        },
        worked=long_context,
        in_short=(
            "{full:.2f}× with the draft's full cache, {window:.2f}× with a window of 512. Long "
            "context helps if the draft's own cache is small."
        ),
        sources=("MagicDec, arXiv:2408.11049", "Llama-3-8B and Llama-3.2-1B config.json"),
    ),
    Question(
        id="quantise-or-speculate",
        section=SECTION,
        prompt=(
            "An 8B target at batch 1, counting bytes only: its weights in 4.5 bits, and a bf16 1B "
            "draft with α = 0.75. How many times as fast is this as bf16 without a draft?"
        ),
        answer="together",
        unit="×",
        mistakes={
            "you multiply the two gains (quantisation also raises c)": "product",
            "you forget the speculation": "fewer_bytes",
        },
        tolerance=0.05,
        worked=quantised,
        in_short=(
            "Less than the product: c rises from {c_before:.2f} to {c_after:.2f}, so speculation "
            "gains {speedup_after:.2f}× instead of {speedup_before:.2f}×. Quantise the draft too."
        ),
        sources=(LEVIATHAN, "4.5 bits: GGUF Q4_0"),
    ),
)
