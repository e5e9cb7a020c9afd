"""How large a number may be: one place for command line, links, files and Python.

A limit is far above what anybody runs, and low enough that one number can take neither all memory
nor all time. `require_limit` refuses what is above it, in a sentence that says why.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from specsim.checks.values import ArrayLike, SpecsimError


@dataclass(frozen=True, slots=True)
class Limit:
    """The largest number that is accepted, and the reason in words that follow "at most"."""

    most: int
    reason: str


LIMITS: Mapping[str, Limit] = MappingProxyType(
    {
        # of a scenario
        "batch": Limit(1_000_000, "no server decodes more sequences together"),
        "gamma": Limit(1024, "no drafter proposes more tokens in a cycle"),
        "context": Limit(100_000_000, "no model reads more tokens"),
        "tokens": Limit(10_000_000, "no answer is longer"),
        "exact_tokens": Limit(100_000, "request_latency approximates longer answers"),
        "tensor_parallel": Limit(16_384, "no group of devices is larger"),
        "values": Limit(10_000, "more values in one list are a mistake"),
        "cells": Limit(2_000_000, "more take all memory; planning.speedups takes them in parts"),
        "streamed": Limit(200_000_000, "the result alone would fill the memory"),
        "sweep_points": Limit(10_000_000, "divide the sweep into several files"),
        "axis_values": Limit(1_000_000, "divide the sweep into several files"),
        "workers": Limit(1024, "no machine has more cores"),
        # of a server
        "requests": Limit(200_000, "a mean needs no more"),
        "trace_requests": Limit(2_000_000, "cut the trace to its first part"),
        "served_context": Limit(2_000_000, "no server keeps longer requests"),
        "sequences": Limit(16_384, "no server decodes more sequences together"),
        "batched_tokens": Limit(262_144, "no engine reads more tokens in a pass"),
        # of a model
        "layers": Limit(10_000, "no model has more layers"),
        "heads": Limit(65_536, "no layer has more heads"),
        "width": Limit(10_000_000, "no layer is wider"),
        "vocabulary": Limit(100_000_000, "no vocabulary is larger"),
        "parameters": Limit(10**15, "no model has more parameters"),
        "experts": Limit(1_000_000, "no layer has more experts"),
        "tree_nodes": Limit(4096, "one pass verifies no larger tree"),
        "children": Limit(1024, "no node of a tree has more"),
        # of a run
        "seed": Limit(2**63 - 1, "random generators take 63 bits"),
        # of a file
        "toml_bytes": Limit(2**20, "no scenario or sweep is described in more"),
        "json_bytes": Limit(40 * 2**20, "no file of this kind is larger"),
        "json_values": Limit(4_000_000, "no file of this kind holds more"),
        "json_depth": Limit(100, "no file of this kind nests deeper"),
        "prompt_bytes": Limit(16 * 2**20, "no context is longer"),
        "log_bytes": Limit(256 * 2**20, "cut the log to its last part"),
        "log_lines": Limit(3_000_000, "cut the log to its last part"),
    }
)


def require_limit(limit: str, value: ArrayLike, name: str | None = None) -> None:
    """SpecsimError if `value`, or an element of it, is above the limit called `limit`. `name` is
    what the user calls the value; by default the name of the limit."""
    allowed = LIMITS[limit]
    found: Any = value
    try:
        if not isinstance(found, int | float):
            array = np.asarray(found)
            if array.dtype.kind not in "iufO" or not array.size:  # other checks refuse it
                return
            found = array.max()
        above = bool(found > allowed.most)  # exact for whole numbers of any length
    except (TypeError, ValueError):  # not numbers, or a ragged list: other checks refuse it
        return
    if above:
        shown = f"{found:,}" if found < 10**15 or found == np.inf else "a larger number"
        raise SpecsimError(
            f"{name or limit.replace('_', ' ')} must be at most {allowed.most:,} "
            f"({allowed.reason}), got {shown}"
        )
