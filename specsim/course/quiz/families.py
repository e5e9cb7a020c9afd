"""Speculation where the target is not a dense bf16 transformer: experts, 4 bits, hybrids, trees."""

from dataclasses import replace
from typing import Any

from specsim.acceptance import IID
from specsim.acceptance.optimal_trees import best_tree
from specsim.architecture import model
from specsim.cost import step_time
from specsim.course.quiz.kinds import Question
from specsim.course.quiz.methods import CHILDREN
from specsim.course.quiz.models import BF16, GB, H100, LLAMA_8B, roofline
from specsim.drafting import method
from specsim.operators import Workload, cache_bytes, forward_work
from specsim.speculation import predict

SECTION = "Families"
EXPERTS = "Qwen3-30B-A3B config.json"
HYBRID = "Qwen3.5-27B config.json"


def expert_bytes() -> dict[str, float]:
    """The weights that a step of a mixture reads, by batch."""
    moe = model("qwen3-30b-a3b")
    read = {
        f"gb_{batch}": float(forward_work(moe, Workload(batch=batch, context=1), BF16).weight_bytes)
        / GB
        for batch in (1, 8, 32, 128)
    }
    return read | {"stored_gb": 2.0 * moe.parameters / GB, "no_sharing": 32.0 * read["gb_1"]}


def experts_and_batch() -> dict[str, float]:
    """The speedup of a head on a mixture of experts, by batch."""
    moe, alpha, gamma = model("qwen3-30b-a3b"), 0.7, 3
    head = method("eagle-3", moe)
    numbers: dict[str, float] = {}
    scenario: dict[str, Any] = {"alpha": alpha, "gamma": gamma, "context": 256}
    for batch in (1, 64):
        found = predict(moe, head, H100, batch=batch, **scenario)
        numbers[f"at_{batch}"] = float(found.speedup)
        numbers[f"verify_{batch}"] = float(found.verify_step_s / found.step_s)
        if batch == 1:
            numbers["dense"] = float(
                found.tokens_per_cycle * found.step_s / (found.draft_s + found.step_s)
            )
    alike = predict(moe, head, H100, batch=1, routing_correlation=0.45, **scenario)
    return numbers | {
        "correlated": float(alike.speedup),
        "tokens": float(IID(alpha).tokens_per_cycle(gamma)),
    }


def four_bit_verification() -> dict[str, float]:
    """The time of a wide pass over 4-bit weights that are multiplied in bf16."""
    four = replace(H100, precision=replace(BF16, weight_bytes=0.5))
    wide, one = Workload(batch=32, rows=5, context=1), Workload(batch=32, context=1)
    times = {
        name: float(step_time(LLAMA_8B, system, wide).total_s)
        / float(step_time(LLAMA_8B, system, one).total_s)
        for name, system in (("four_bits", four), ("bf16", H100))
    }
    return times | {
        "rows": 160.0,
        "per_row": 5.0,
        "ridge_rows": float(four.ridge_rows),
        "bf16_ridge_rows": float(H100.ridge_rows),
    }


def hybrid_memory() -> dict[str, float]:
    """What a sequence of a hybrid keeps: states of a fixed size and a cache that grows."""
    hybrid = model("qwen3.5-27b")
    short, long = (float(cache_bytes(hybrid, BF16, batch=1, slots=n)) for n in (0, 8192))
    attention = long - short
    with_attention = 16  # of its 64 layers; the others are recurrent
    return {
        "mb": long / 1e6,
        "cache_mb": attention / 1e6,
        "state_mb": short / 1e6,
        "all_attention_mb": attention / 1e6 * hybrid.num_layers / with_attention,
        "equal_at": short / (attention / 8192),
    }


def hybrid_drafts() -> dict[str, float]:
    """The states that a hybrid keeps while it verifies drafts."""
    hybrid, batch, gamma = model("qwen3.5-27b"), 16, 4

    def states_gb(states: int) -> float:
        return float(cache_bytes(hybrid, BF16, batch=batch, slots=0, states=states)) / GB

    cache = float(cache_bytes(hybrid, BF16, batch=batch, slots=4096)) / GB - states_gb(1)
    return {
        "gb": states_gb(gamma + 1),
        "one_each": states_gb(1),
        "gamma_each": states_gb(gamma),
        "one_sequence": states_gb(gamma + 1) / batch,
        "cache_gb": cache,
    }


def tree_and_batch() -> dict[str, float]:
    """A tree of 64 nodes and a chain of 8 at batch 8, with free drafts."""
    batch = 8
    plain_s = float(step_time(LLAMA_8B, H100, Workload(batch=batch, context=1)).total_s)
    tree, chain = best_tree(CHILDREN, 64), best_tree(CHILDREN[:1], 8)

    def verify(nodes: int) -> float:
        work = Workload(batch=batch, rows=nodes, context=1)
        return float(step_time(LLAMA_8B, H100, work).total_s) / plain_s

    return {
        "tokens": tree.tokens_per_cycle,
        "tree": tree.tokens_per_cycle / verify(64),
        "chain": chain.tokens_per_cycle / verify(8),
        "verify_tree": verify(64),
        "verify_chain": verify(8),
        "added": tree.tokens_per_cycle / (1.0 + verify(64)),
        "rows": 64.0 * batch,
        "ridge_rows": float(roofline("h100-sxm").ridge_rows),
    }


QUESTIONS = (
    Question(
        id="expert-bytes",
        section=SECTION,
        prompt=(
            "Qwen3-30B-A3B has 128 experts per layer, of which a token uses 8. Its weights take "
            "61 GB in bf16. How many GB of them does a step at batch 32 read, if tokens route "
            "independently?"
        ),
        answer="gb_32",
        unit="GB",
        tolerance=0.05,
        mistakes={
            "you count the active parameters, as at batch 1": "gb_1",
            "you read every expert": "stored_gb",
            "you assume that no two tokens share an expert": "no_sharing",
        },
        worked=expert_bytes,
        in_short=(
            "{gb_32:.0f} GB: 32 tokens touch most experts. It is {gb_1:.1f} GB at batch 1 and "
            "{gb_8:.0f} at batch 8, so the first users of a mixture share almost nothing."
        ),
        sources=("MoESD, arXiv:2505.19645", EXPERTS),
    ),
    Question(
        id="experts-and-batch",
        section=SECTION,
        prompt=(
            "Qwen3-30B-A3B on an ideal H100 with an EAGLE-3 head, α = 0.7, γ = 3, short texts, "
            "tokens that route independently. What is the speedup at batch 1?"
        ),
        answer="at_1",
        unit="×",
        tolerance=0.05,
        mistakes={
            "you take the verification for one step, as with a dense target": "dense",
            "you answer for batch 64, which loads every expert anyway": "at_64",
            "you assume that the tokens of a text route alike": "correlated",
        },
        worked=experts_and_batch,
        in_short=(
            "{at_1:.2f}×: four tokens touch so many further experts that a verification takes "
            "{verify_1:.1f} steps. At batch 64 it takes {verify_64:.2f} and the speedup is "
            "{at_64:.2f}×. A dense target gains most at batch 1, a mixture at a medium batch."
        ),
        sources=("MoESD, arXiv:2505.19645", "EAGLE-3, arXiv:2503.01840", EXPERTS),
    ),
    Question(
        id="four-bit-verification",
        section=SECTION,
        prompt=(
            "Llama-3-8B with 4-bit weights (without scales) and bf16 arithmetic on an ideal H100, "
            "batch 32, short contexts. How many plain steps does the verification of γ = 4 drafts "
            "take?"
        ),
        answer="four_bits",
        unit="steps",
        tolerance=0.08,
        mistakes={
            "you take the ridge of bf16 weights": "bf16",
            "you count a step for every row": "per_row",
        },
        worked=four_bit_verification,
        in_short=(
            "{four_bits:.2f}: the pass has {rows:.0f} rows, and the ridge falls from "
            "{bf16_ridge_rows:.0f} to {ridge_rows:.0f} when the bytes shrink and the arithmetic "
            "does not. Quantised targets leave less room for drafts."
        ),
        sources=("Marlin, arXiv:2408.11743", "NVIDIA H100 datasheet"),
    ),
    Question(
        id="hybrid-memory",
        section=SECTION,
        prompt=(
            "In Qwen3.5-27B 16 of 64 layers have attention (4 KV heads of 256); the others keep a "
            "state, 154 MB in all. How many MB does a sequence of 8192 tokens take in bf16?"
        ),
        answer="mb",
        unit="MB",
        tolerance=0.05,
        mistakes={
            "you forget the states": "cache_mb",
            "you forget that the cache grows": "state_mb",
            "you give every layer a cache": "all_attention_mb",
        },
        worked=hybrid_memory,
        in_short=(
            "{mb:.0f} MB: {cache_mb:.0f} of cache and {state_mb:.0f} of states, which are larger "
            "up to {equal_at:,.0f} tokens. A hybrid is cheap for long texts, not for short ones."
        ),
        sources=("Gated DeltaNet, arXiv:2412.06464", HYBRID),
    ),
    Question(
        id="hybrid-drafts",
        section=SECTION,
        prompt=(
            "The same model verifies γ = 4 drafts for each of 16 sequences. A state cannot be "
            "rolled back, so the engine keeps one after every row. How many GB of states are these?"
        ),
        answer="gb",
        unit="GB",
        tolerance=0.05,
        mistakes={
            "you keep one state per sequence and shorten it, as a cache": "one_each",
            "you keep a state per draft and none for the pending token": "gamma_each",
            "you count one sequence": "one_sequence",
        },
        worked=hybrid_drafts,
        in_short=(
            "{gb:.1f} GB instead of {one_each:.1f}; the caches of the 16 sequences take "
            "{cache_gb:.1f} GB at 4096 tokens. The alternative is one snapshot and a second pass "
            "over the accepted rows."
        ),
        sources=("The Mamba in the Llama, arXiv:2408.15237", HYBRID),
    ),
    Question(
        id="tree-and-batch",
        section=SECTION,
        prompt=(
            "The best tree of 64 nodes emits 4.01 tokens per cycle, a chain of 8 emits 2.46. "
            "Llama-3-8B on an ideal H100 at batch 8, short contexts, free drafts: what is the "
            "speedup of the tree?"
        ),
        answer="tree",
        unit="×",
        tolerance=0.04,
        mistakes={
            "you take the wide verification for free, as at batch 1": "tokens",
            "you add a plain step to the verification, which replaces it": "added",
        },
        worked=tree_and_batch,
        in_short=(
            "{tree:.2f}×, less than the chain's {chain:.2f}×: {rows:.0f} rows are above the ridge "
            "of {ridge_rows:.0f}, so the verification takes {verify_tree:.2f} steps. Shrink the "
            "tree as the batch grows."
        ),
        sources=("Sequoia, arXiv:2402.12374", "NVIDIA H100 datasheet"),
    ),
)
