"""A plan in the words of the engine that is to follow it."""

from typing import Any

from specsim.planning.gammas import Plan

ENGINES_WITH_SETTINGS = ("vllm", "sglang", "tensorrt-llm")


def engine_settings(planned: Plan, engine: str) -> dict[str, Any] | None:
    """A plan in the engine's own words; None for an engine that has none for this.

    A batch between two that were planned takes the larger one's gamma (the careful choice).
    Sources: vLLM PR #32374 and RFC #48627 (`[first, last, K]`, inclusive); TensorRT-LLM PR #10860
    (`draft_len_schedule`: up to this batch, this length; above the last, none); SGLang's server
    arguments, fixed for a server's life, so there is a set of them per range.
    """
    ranges = batch_ranges(planned)
    most = max(gamma for _, _, gamma in ranges)
    if engine == "vllm":
        schedule = [list(each) for each in ranges]
        return {
            "num_speculative_tokens": most,
            "num_speculative_tokens_per_batch_size": schedule,
        }
    if engine == "tensorrt-llm":
        while ranges and ranges[-1][2] == 0:  # beyond the last entry it does not speculate anyway
            ranges = ranges[:-1]
        return {
            "max_draft_len": most,
            "draft_len_schedule": {last: gamma for _, last, gamma in ranges},
        }
    if engine == "sglang":
        return {
            "by_batch": [
                {"batch": [first, last], "arguments": _sglang_arguments(gamma)}
                for first, last, gamma in ranges
            ]
        }
    return None


def _sglang_arguments(gamma: int) -> dict[str, int]:
    """A chain: top-k 1, and as many draft tokens as rows are verified, the root's included."""
    if gamma == 0:
        return {}
    return {
        "speculative_num_steps": gamma,
        "speculative_eagle_topk": 1,
        "speculative_num_draft_tokens": gamma + 1,
    }


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
