"""One record of a served run, whatever tool measured it. Every latency says how it was measured.

What tools call ITL is four different numbers. `CONVENTIONS` has a name for each; a latency of an
unknown convention is never read.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from specsim.checks import SpecsimError
from specsim.checks.shown import Shown
from specsim.evidence.counters import Counters

CONVENTIONS = {
    "ttft": "from the request to its first token",
    "chunk_gap": "between two chunks of a stream: about a cycle",
    "chunk_gap_per_token": "between two chunks, divided by the tokens of the chunk",
    "tpot": "of a request: (last token - first token) / (tokens - 1)",
    "latency_per_token": "of a request: whole latency / tokens, the first one's wait included",
    "e2e": "from the request to its last token",
}
STATISTICS = ("mean", "median", "p90", "p95", "p99")
NEAR = 0.01  # relative: totals and rates of one run are rounded apart


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds of one convention, a key of `CONVENTIONS`. `called` is the tool's own name for it."""

    convention: str
    called: str
    mean: float | None = None
    median: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None

    @property
    def middle(self) -> float | None:
        """The mean; where it is missing, the median."""
        return self.median if self.mean is None else self.mean


def latency(convention: str, called: str, seconds: Mapping[str, float | None]) -> Latency | None:
    """A latency of the statistics that are known; None if none is.

    Raises SpecsimError for a value that is no time, and for percentiles that fall.
    """
    known = {name: seconds[name] for name in STATISTICS if seconds.get(name) is not None}
    if not known:
        return None
    for name, value in known.items():
        assert value is not None
        if not -1e-3 <= value < 1e9:
            raise SpecsimError(f"the {name} {called} is {value:g} s: that is no latency")
    rising = [known[name] for name in STATISTICS[1:] if name in known]
    for before, after in pairwise(rising):
        assert before is not None
        assert after is not None
        if after < before - 1e-4:
            raise SpecsimError(
                f"the percentiles of {called} fall, from {before:g} s to {after:g} s: the result "
                "contradicts itself"
            )
    return Latency(convention, called, **known)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ServedRun(Shown):
    """A run of requests against a server; None for what the tool does not tell.

    `tool` measured it, `engine` served it. `decoding` is the mean number of sequences that decode
    at a time: the batch of a step; `concurrency` counts the waiting and the reading ones too.
    `context` is the mean KV length of a decode step. `counters` are the acceptance.
    """

    tool: str
    engine: str | None = None
    model: str | None = None
    completed: int | None = None
    failed: int | None = None
    duration_s: float | None = None
    input_tokens: float | None = None
    output_tokens: float | None = None
    output_tokens_per_s: float | None = None
    request_rate: float | None = None
    max_concurrency: float | None = None
    concurrency: float | None = None
    decoding: float | None = None
    context: float | None = None
    latencies: Mapping[str, Latency] = field(default_factory=dict)
    counters: Counters | None = None
    cautions: tuple[str, ...] = ()

    @property
    def mean_input(self) -> float | None:
        """Prompt tokens of a request."""
        return _ratio(self.input_tokens, self.completed)

    @property
    def mean_output(self) -> float | None:
        """Generated tokens of a request."""
        return _ratio(self.output_tokens, self.completed)

    def to_json(self) -> dict[str, Any]:
        """The record as plain data; units are in the names."""
        names = ("tool", "engine", "model", "completed", "failed", *NUMBERS)
        document: dict[str, Any] = {name: getattr(self, name) for name in names}
        document["latencies"] = {
            name: {"called": each.called, "convention": CONVENTIONS[name]}
            | {f"{s}_s": getattr(each, s) for s in STATISTICS if getattr(each, s) is not None}
            for name, each in self.latencies.items()
        }
        return document | {"cautions": list(self.cautions)}

    def _facts(self) -> dict[str, Any]:
        return {
            "tool": self.tool,
            "model": self.model,
            "requests": self.completed,
            "duration": "unknown" if self.duration_s is None else f"{self.duration_s:.4g} s",
        }


NUMBERS = ("duration_s", "input_tokens", "output_tokens", "output_tokens_per_s", "request_rate",
           "max_concurrency", "concurrency", "decoding", "context")  # fmt: skip


def require_possible(run: ServedRun) -> ServedRun:
    """The record; SpecsimError if one of its numbers is below 0, or beyond what any server does."""
    for name in NUMBERS:
        value = getattr(run, name)
        if value is not None and not 0 <= value < 1e15:
            raise SpecsimError(f"the {name} of the result would be {value:g}: that cannot be")
    return run


def _ratio(total: float | None, count: float | None) -> float | None:
    return total / count if total is not None and count else None


def latencies(each: Sequence[Latency | None]) -> dict[str, Latency]:
    """Latencies by their convention."""
    return {found.convention: found for found in each if found is not None}


def decoding_batch(
    completed: float | None,
    duration_s: float | None,
    found: Mapping[str, Latency],
    mean_output: float | None,
) -> float | None:
    """Mean number of sequences that decode at a time: the seconds that all requests decode, divided
    by the seconds of the run (Little's law). From means over requests; None if they are missing."""
    if not completed or not duration_s:
        return None
    if "e2e" in found and "ttft" in found:
        whole, first = found["e2e"].mean, found["ttft"].mean
        if whole is not None and first is not None and whole > first:
            return completed * (whole - first) / duration_s
    if "tpot" in found and mean_output is not None and found["tpot"].mean is not None:
        return completed * found["tpot"].mean * max(mean_output - 1.0, 0.0) / duration_s or None
    return None


def mean_context(
    mean_input: float | None,
    mean_output: float | None,
    inputs: Sequence[float] = (),
    outputs: Sequence[float] = (),
) -> float | None:
    """Mean KV length of a decode step: the prompt and half the answer. Long answers take more
    steps, so the requests are weighted by their output where their lengths are known."""
    if outputs and len(inputs) == len(outputs) and sum(outputs) > 0:
        weighted = sum(n * (m + n / 2) for m, n in zip(inputs, outputs, strict=True))
        return weighted / sum(outputs)
    if mean_input is None or mean_output is None:
        return None
    return mean_input + mean_output / 2


def require_agreement(name: str, told: float | None, made: float | None) -> None:
    """SpecsimError if a number that a result tells is not the one that its others make."""
    if told is None or made is None or not math.isfinite(told) or not math.isfinite(made):
        return
    if abs(told - made) > NEAR * max(abs(told), abs(made)) + 0.011:
        raise SpecsimError(
            f"the result contradicts itself: it tells {told:.6g} {name}, but its totals make "
            f"{made:.6g}"
        )
