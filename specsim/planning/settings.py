"""A plan in the words of the engine that is to follow it.

What each engine calls a method, and what it documents about it, stands in catalog/launch.toml.
"""

from typing import Any

from specsim import catalog
from specsim.drafting import Drafter, DynamicTree, Lookup, StaticTree
from specsim.planning.gammas import Plan

ENGINES_WITH_SETTINGS = ("vllm", "sglang", "tensorrt-llm")


def engine_settings(
    planned: Plan,
    engine: str,
    drafter: Drafter | None = None,
    *,
    method: str | None = None,
    users: int | None = None,
    most: int | None = None,
) -> dict[str, Any] | None:
    """A plan in the engine's own words; empty where nothing pays, None where the engine has no
    words for it.

    A batch between two that were planned takes the larger one's gamma (the careful choice). A
    schedule is given where there is more than one range and the engine documents it for `method`
    (by default, for any); elsewhere one number, `one_gamma`. The `drafter` is that of the plan,
    where it is not a chain: SGLang says trees and lookups otherwise, and the schedules of the other
    two count the length of a chain. SGLang's arguments are fixed for a server's life, so there is a
    set of them per range. `users` are the sequences that one number is for (None: see `one_gamma`),
    `most` the largest batch that memory holds, where the ranges end. Source: catalog/launch.toml.
    """
    if engine not in ENGINES_WITH_SETTINGS or (method and documented(engine, method) is None):
        return None
    ranges = batch_ranges(planned, most)
    if all(gamma == 0 for _, _, gamma in ranges):
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
    length = {"vllm": "num_speculative_tokens", "tensorrt-llm": "max_draft_len"}[engine]
    if len(ranges) == 1 or not has_schedule(engine, method):
        gamma = one_gamma(planned, users, most)
        return {length: gamma} if gamma else {}
    most = max(gamma for _, _, gamma in ranges)
    if engine == "vllm":
        return {length: most, f"{length}_per_batch_size": [list(each) for each in ranges]}
    while ranges[-1][2] == 0:  # beyond the last entry it does not speculate anyway
        ranges = ranges[:-1]
    return {length: most, "draft_len_schedule": {last: gamma for _, last, gamma in ranges}}


def documented(engine: str, method: str) -> catalog.Row | None:
    """What the engine documents about a drafting method; None if it has no such method."""
    row: catalog.Row | None = catalog.load("launch")[engine]["methods"].get(method)
    return row


def has_schedule(engine: str, method: str | None) -> bool:
    """Whether the engine documents a length for each batch size, for `method` or, if None, any."""
    if method is None:
        return "schedule_source" in catalog.load("launch")[engine]
    return bool((documented(engine, method) or {}).get("schedule"))


def one_gamma(planned: Plan, users: int | None = None, most: int | None = None) -> int:
    """The gamma of a server that takes one number: that of `users` sequences; where nobody says how
    many, that of the largest batch up to `most` where speculation pays, so that it gains for every
    batch up to there (the careful choice). 0 where none pays."""
    found = range_for(batch_ranges(planned, most), users)
    return 0 if found is None else found[2]


def range_for(ranges: list[tuple[int, int, int]], users: int | None) -> tuple[int, int, int] | None:
    """The range that a server of one length follows: the one of `users` sequences (the last one for
    more than there are), or, if None, the last where speculation pays; None where it pays in no
    range."""
    if users is not None:
        return next((each for each in ranges if users <= each[1]), ranges[-1])
    return next((each for each in reversed(ranges) if each[2] > 0), None)


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


def batch_ranges(planned: Plan, most: int | None = None) -> list[tuple[int, int, int]]:
    """(first batch, last batch, gamma), neighbours with the same gamma made one; where `most`, the
    largest batch that memory holds, is known, ranges end there (the first range is always told)."""
    ranges: list[tuple[int, int, int]] = []
    first = 1
    for last, gamma in zip(planned.batch.tolist(), planned.gamma.tolist(), strict=True):
        if ranges and ranges[-1][2] == gamma:
            ranges[-1] = (ranges[-1][0], last, gamma)
        else:
            ranges.append((first, last, gamma))
        first = last + 1
    if not most:
        return ranges
    return [(begin, min(end, most), gamma) for begin, end, gamma in ranges if begin <= most]
