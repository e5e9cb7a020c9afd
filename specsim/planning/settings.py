"""A plan in the words of the engine that is to follow it."""

from typing import Any

from specsim.drafting import Drafter, DynamicTree, Lookup, StaticTree
from specsim.planning.gammas import Plan

ENGINES_WITH_SETTINGS = ("vllm", "sglang", "tensorrt-llm")


def engine_settings(
    planned: Plan, engine: str, drafter: Drafter | None = None
) -> dict[str, Any] | None:
    """A plan in the engine's own words; empty where nothing pays, None for an engine that has no
    words for it.

    A batch between two that were planned takes the larger one's gamma (the careful choice). The
    `drafter` is that of the plan, where it is not a chain: SGLang says trees and lookups otherwise,
    and the schedules of the other two count the length of a chain.
    Sources: vLLM PR #32374 and RFC #48627 (`[first, last, K]`, inclusive); TensorRT-LLM PR #10860
    (`draft_len_schedule`: up to this batch, this length; above the last, none); SGLang's server
    arguments, fixed for a server's life, so there is a set of them per range.
    """
    if engine not in ENGINES_WITH_SETTINGS:
        return None
    ranges = batch_ranges(planned)
    most = max(gamma for _, _, gamma in ranges)
    if most == 0:
        return {}
    if engine == "sglang":
        return {
            "by_batch": [
                {"batch": [first, last], "arguments": _sglang_arguments(gamma, drafter)}
                for first, last, gamma in ranges
            ]
        }
    if isinstance(drafter, StaticTree):
        return None
    if engine == "vllm":
        return {
            "num_speculative_tokens": most,
            "num_speculative_tokens_per_batch_size": [list(each) for each in ranges],
        }
    while ranges[-1][2] == 0:  # beyond the last entry it does not speculate anyway
        ranges = ranges[:-1]
    return {
        "max_draft_len": most,
        "draft_len_schedule": {last: gamma for _, last, gamma in ranges},
    }


def _sglang_arguments(gamma: int, drafter: Drafter | None) -> dict[str, int]:
    """As many draft tokens as rows are verified, the root's included; a chain is top-k 1."""
    if gamma == 0:
        return {}
    rows = {"speculative_num_draft_tokens": gamma + 1}
    if isinstance(drafter, Lookup):
        return rows
    steps, children = gamma, 1
    if isinstance(drafter, StaticTree):
        steps = min(gamma, drafter.depth)
        children = len(drafter.child_probs)
    if isinstance(drafter, DynamicTree):
        children = drafter.children
    return {"speculative_num_steps": steps, "speculative_eagle_topk": children} | rows


def batch_ranges(planned: Plan) -> list[tuple[int, int, int]]:
    """(first batch, last batch, gamma), neighbours with the same gamma made one."""
    ranges: list[tuple[int, int, int]] = []
    first = 1
    for last, gamma in zip(planned.batch.tolist(), planned.gamma.tolist(), strict=True):
        if ranges and ranges[-1][2] == gamma:
            ranges[-1] = (ranges[-1][0], last, gamma)
        else:
            ranges.append((first, last, gamma))
        first = last + 1
    return ranges
