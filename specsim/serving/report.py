"""What a run came to, in the names of vLLM's benchmark, with units in them.

"ITL" is four numbers in four tools. Here `itl` is vLLM's, the gap between two chunks of a stream,
about a cycle (`itl_convention` says so), and `itl_token_ms` is SGLang's mean: gaps divided by the
tokens that came after them. `tpot` is of a request: (last token - first token) / (tokens - 1).

The state comes before any mean. In an open loop whose queue grows as long as requests come
(`overloaded`), waiting times grow with the number of requests: TTFT and end-to-end latency are
None, and throughput is the capacity. `backlogged`: the queue was emptied only after the last
arrival, or all came at once, so waiting times are those of this finite run. `refused`: no request
fits the cache, so nothing was served. `steady`: none of these.

Rates are counted as vLLM's benchmark counts them, until the last answer ends. In a short run that
is long after the last arrival, and a longer one serves more per second: a sentence says how much.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from specsim.checks import Floats, SpecsimError, quoted
from specsim.checks.shown import Shown
from specsim.planning.economics import (
    IDLE_POWER_W,
    dollars_per_million_tokens,
    energy_per_token_j,
    price_of_devices,
)
from specsim.serving.loop import Loop

STATES = ("steady", "backlogged", "overloaded", "refused")
TAIL = 0.05  # share of a run after its last arrival from which on it is said
GROWING = 0.05  # share of the arrivals of the second half that stays behind: the queue grows
SLO_METRICS = ("ttft", "tpot", "e2el")
ITL = "chunk_gap"  # a key of evidence.served.CONVENTIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """What a good request keeps to, in milliseconds; None is no limit."""

    ttft: float | None = None
    tpot: float | None = None
    e2el: float | None = None

    def __post_init__(self) -> None:
        for name, most in self.limits.items():
            if not (0.0 < most < 1e9):
                raise SpecsimError(
                    f"the SLO of {name} must be milliseconds above 0, got {quoted(most)}"
                )

    @property
    def limits(self) -> dict[str, float]:
        """The limits that there are, in milliseconds."""
        found = {name: getattr(self, name) for name in SLO_METRICS}
        return {name: most for name, most in found.items() if most is not None}


def slo_of(words: list[str]) -> Slo:
    """An SLO from words such as `ttft:500` and `tpot:15`, in milliseconds."""
    limits: dict[str, float] = {}
    for word in words:
        name, _, most = word.partition(":")
        if name not in SLO_METRICS or name in limits:
            raise SpecsimError(
                f"--slo takes each of {', '.join(f'{n}:MS' for n in SLO_METRICS)} once, in "
                f"milliseconds, got {quoted(word)}"
            )
        try:
            limits[name] = float(most)
        except ValueError:
            raise SpecsimError(
                f"the SLO of {name} must be milliseconds above 0, got {quoted(most)}"
            ) from None
    return Slo(**limits)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Served(Shown):
    """One simulated run. Arrays have an entry per request; a refused one has NaN.

    `summary` has the names of vLLM's benchmark; `sentences` say what limits it.
    """

    loop: Loop
    slo: Slo
    state: str
    summary: dict[str, Any]
    sentences: tuple[str, ...]

    @property
    def policy(self) -> str:
        return self.loop.policy.name

    @property
    def ttft_s(self) -> Floats:
        return self.loop.first_s - self.loop.sent_s

    @property
    def e2el_s(self) -> Floats:
        return self.loop.end_s - self.loop.sent_s

    @property
    def tpot_s(self) -> Floats:
        """NaN for an answer of one token."""
        return tpot_of(self.loop)

    @property
    def goodput(self) -> float:
        """Requests per second that kept to the SLO; all that were served where there is none."""
        return float(self.summary["request_goodput"])

    @property
    def metrics(self) -> dict[str, float]:
        """What results of other tools are compared with: seconds by `STATISTIC_CONVENTION_s`, with
        the conventions of `evidence.served`, tokens per second and tokens per cycle."""
        found = {}
        kinds = {"ttft": "ttft", "tpot": "tpot", "chunk_gap": "itl", "e2e": "e2el"}
        for convention, name in kinds.items():
            for statistic in ("mean", "median", "p90", "p95", "p99"):
                value = self.summary[f"{statistic}_{name}_ms"]
                if value is not None:
                    found[f"{statistic}_{convention}_s"] = value * 1e-3
        if self.summary["itl_token_ms"] is not None:
            found["mean_chunk_gap_per_token_s"] = self.summary["itl_token_ms"] * 1e-3
        if self.state != "overloaded":
            each_s = self.e2el_s / self.loop.traffic.output_tokens
            if np.isfinite(each_s).any():
                found["mean_latency_per_token_s"] = float(np.nanmean(each_s))
        found["output_tokens_per_s"] = self.summary["output_throughput"]
        if self.summary["spec_decode_acceptance_length"] is not None:
            found["tokens_per_cycle"] = self.summary["spec_decode_acceptance_length"]
        return found

    def detailed(self) -> dict[str, Any]:
        """The lists per request of `vllm bench serve --save-detailed`, times in seconds.

        Raises SpecsimError for a run that was not simulated in detail.
        """
        tallies, traffic = self.loop.tallies, self.loop.traffic
        if tallies.ends is None:
            raise SpecsimError("the run was not simulated in detail: ask for it with detailed=True")
        ends, itls = np.array(tallies.ends), []
        for request in range(len(traffic)):
            at = [np.arange(a, b + 1) for a, b in tallies.spans.get(request, [])]
            steps = np.concatenate(at) if at else np.zeros(0, dtype=int)
            itls.append(np.diff(ends[steps]).tolist())
        served = ~self.loop.refused
        return {
            "input_lens": traffic.input_tokens.tolist(),
            "output_lens": np.where(served, traffic.output_tokens, 0).tolist(),
            "ttfts": np.nan_to_num(self.ttft_s).tolist(),
            "itls": itls,
            "start_times": np.where(served, self.loop.sent_s, traffic.arrival_s).tolist(),
            "generated_texts": [""] * len(traffic),
            "errors": ["" if good else "larger than the cache" for good in served.tolist()],
        }

    def _facts(self) -> dict[str, Any]:
        return {
            "state": self.state,
            "policy": self.policy,
            "served": f"{self.summary['request_throughput']:.3g} requests/s",
            "output": f"{self.summary['output_throughput']:.4g} tokens/s",
            "mean TTFT": _ms(self.summary["mean_ttft_ms"]),
            "mean TPOT": _ms(self.summary["mean_tpot_ms"]),
            "sequences at a time": f"{self.summary['batch_mean']:.1f}",
        }


def tpot_of(loop: Loop) -> Floats:
    """Seconds per token after the first, of each request; NaN where there is none."""
    more = loop.traffic.output_tokens - 1.0
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(more > 0, (loop.end_s - loop.first_s) / more, np.nan)


def served(loop: Loop, slo: Slo, price_per_hour: float | None = None) -> Served:
    """The report of a run that has ended.

    `price_per_hour`, of the target's devices in USD; a loaded drafter's own cost as much each.
    """
    state = state_of(loop)
    summary = _summary(loop, slo, state, price_per_hour)
    return Served(loop, slo, state, summary, tuple(_sentences(loop, state, summary, slo)))


def state_of(loop: Loop) -> str:
    """Whether the queue grew; see the module."""
    if loop.refused.all():
        return "refused"
    arrivals, ends = loop.traffic.arrival_s, np.sort(loop.end_s[~loop.refused])
    if loop.traffic.concurrency is not None and math.isinf(loop.traffic.rate):
        return "steady"  # a closed loop has no queue that grows
    last = float(arrivals[-1])
    if not last > 0.0 or not len(ends):
        return "backlogged" if len(ends) > loop.server.max_seqs else "steady"
    half, came = last / 2, np.sort(arrivals[~loop.refused])
    flying = [
        int(np.searchsorted(came, at, "right") - np.searchsorted(ends, at, "right"))
        for at in (half, last)
    ]
    late = len(came) - int(np.searchsorted(came, half, "right"))
    grown = flying[1] - flying[0]
    noise = 3.0 * math.sqrt(max(late, 1))
    if grown > max(GROWING * late, noise) and flying[1] > loop.server.max_seqs / 2:
        return "overloaded"
    drained = int(np.searchsorted(ends, last + 0.05 * last, "right")) >= len(ends)
    full = loop.tallies.batch_s[loop.server.max_seqs] > 0.5 * loop.tallies.batch_s.sum()
    return "backlogged" if not drained and (full or flying[1] > loop.server.max_seqs) else "steady"


def _statistics(name: str, seconds: Floats, known: bool) -> dict[str, float | None]:
    keys = ("mean", "median", "std", "p90", "p95", "p99")
    seconds = seconds[np.isfinite(seconds)]
    if not known or not len(seconds):
        return {f"{key}_{name}_ms": None for key in keys}
    percentiles = np.percentile(seconds, [50, 90, 95, 99]) * 1e3
    found = dict(zip(("median", "p90", "p95", "p99"), percentiles.tolist(), strict=True))
    found |= {"mean": float(seconds.mean()) * 1e3, "std": float(seconds.std()) * 1e3}
    return {f"{key}_{name}_ms": found[key] for key in keys}


def good_requests(loop: Loop, slo: Slo) -> np.ndarray:
    """Which requests kept to the SLO."""
    good = ~loop.refused
    of_request = {
        "ttft": loop.first_s - loop.sent_s,
        "tpot": np.nan_to_num(tpot_of(loop)),
        "e2el": loop.end_s - loop.sent_s,
    }
    for name, most in slo.limits.items():
        good = good & (np.nan_to_num(of_request[name], nan=math.inf) * 1e3 <= most)
    return good


def _summary(loop: Loop, slo: Slo, state: str, price_per_hour: float | None) -> dict[str, Any]:
    traffic, tallies, done = loop.traffic, loop.tallies, ~loop.refused
    completed = int(done.sum())
    read, written = (
        int(tokens[done].sum()) for tokens in (traffic.input_tokens, traffic.output_tokens)
    )
    ends, duration = loop.end_s[done], 0.0
    if completed:
        duration = float(ends.max()) - min(0.0, float(np.nanmin(loop.sent_s)))

    def rate(amount: float) -> float | None:
        return amount / duration if duration else None

    waits = state != "overloaded"
    gaps = tallies.chunk_gaps.statistics()
    itl = {f"{key}_itl_ms": None if gaps is None else gaps[key] * 1e3
           for key in ("mean", "median", "std", "p90", "p95", "p99")}  # fmt: skip
    more = (traffic.output_tokens[done] - 1.0).sum()
    decoding_s = float(np.nansum(loop.end_s - loop.first_s))
    decoded_s = tallies.batch_s.sum()
    good = int(good_requests(loop, slo).sum())
    devices = loop.server.system.tensor_parallel
    if loop.policy.drafts and loop.server.drafter is not None:
        devices += loop.server.drafter.extra_devices
    energy = money = None
    if written and duration:
        moved, flops = tallies.moved
        energy = float(energy_per_token_j(
            duration, moved, flops, written, idle_power_w=IDLE_POWER_W * devices
        ))  # fmt: skip
        if price_per_hour is not None:
            hour = price_of_devices(price_per_hour, devices, loop.server.system.tensor_parallel)
            money = float(dollars_per_million_tokens(hour, written / duration))
    capacity = loop.cache.capacity_bytes
    return {
        "policy": loop.policy.name,
        "state": state,
        "num_prompts": len(traffic),
        "request_rate": traffic.rate if math.isfinite(traffic.rate) else "inf",
        "burstiness": traffic.burstiness if math.isfinite(traffic.burstiness) else "inf",
        "max_concurrency": traffic.concurrency,
        "duration": duration,
        "completed": completed,
        "failed": len(traffic) - completed,
        "total_input_tokens": read,
        "total_output_tokens": written,
        "request_throughput": rate(completed) or 0.0,
        "request_goodput": rate(good) or 0.0,
        "output_throughput": rate(written) or 0.0,
        "total_token_throughput": rate(read + written) or 0.0,
        **_statistics("ttft", loop.first_s - loop.sent_s, waits),
        **_statistics("tpot", tpot_of(loop), True),
        "itl_convention": ITL,
        **itl,
        "itl_token_ms": decoding_s / more * 1e3 if more else None,
        **_statistics("e2el", loop.end_s - loop.sent_s, waits),
        **_speculation(loop),
        "gamma_share": _shares(tallies.seconds),
        "gamma_switches": tallies.switches,
        "batch_mean": float(tallies.batch_s @ np.arange(len(tallies.batch_s)) / decoded_s)
        if decoded_s else 0.0,
        "kv_peak": tallies.peak_bytes / capacity if math.isfinite(capacity) else None,
        "preemptions": tallies.preemptions,
        "utilisation": tallies.busy_s / duration if duration else 0.0,
        "bytes_per_token": float(tallies.moved[0]) / written if written else None,
        "flops_per_token": float(tallies.moved[1]) / written if written else None,
        "joules_per_token": energy,
        "dollars_per_million": money,
        "devices": devices,
    }  # fmt: skip


def _shares(seconds: Floats) -> dict[str, float]:
    """The share of the decoding time under each gamma."""
    total = seconds.sum()
    found = np.flatnonzero(seconds > 0)
    return {str(gamma): float(seconds[gamma] / total) for gamma in found.tolist()}


def _speculation(loop: Loop) -> dict[str, Any]:
    """vLLM's counters; None where nothing was drafted. A lookup that finds nothing counts as drafts
    that are rejected."""
    tallies = loop.tallies
    by_gamma = tallies.accepted.sum(axis=1)[1:]
    cycles = int(by_gamma.sum())
    names = ("num_drafts", "draft_tokens", "accepted_tokens", "acceptance_length",
             "acceptance_rate", "per_position_acceptance_rates")  # fmt: skip
    if not cycles:
        return {f"spec_decode_{name}": None for name in names}
    drafted = int(by_gamma @ np.arange(1, len(by_gamma) + 1))
    histogram = tallies.accepted[1:].sum(axis=0)
    accepted = int(histogram @ np.arange(len(histogram)))
    at_least = histogram[::-1].cumsum()[::-1][1:]
    values = (cycles, drafted, accepted, 1.0 + accepted / cycles, 100.0 * accepted / drafted,
              (at_least / cycles).tolist())  # fmt: skip
    return {f"spec_decode_{name}": value for name, value in zip(names, values, strict=True)}


def _sentences(loop: Loop, state: str, summary: dict[str, Any], slo: Slo) -> list[str]:
    said = []
    if state == "steady":
        said += _tail(loop, summary, slo)
    refused, tallies = int(loop.refused.sum()), loop.tallies
    if state == "overloaded":
        said.append(
            "The queue grows as long as requests come: TTFT and end-to-end latency grow with the "
            "number of requests and have no mean; the throughput is what the server can do."
        )
    elif state == "backlogged":
        said.append(
            "The queue was emptied only after the last arrival: latencies are those of this finite "
            "run, and would be others with more requests."
        )
    if refused:
        said.append(
            f"{refused} of {len(loop.traffic)} requests are refused: prompt and answer are larger "
            "than the whole cache."
        )
    if tallies.preemptions:
        said.append(
            f"The cache was full: {tallies.preemptions} preemptions, each of which reads its "
            "prompt and its answer so far again."
        )
    return said


def _tail(loop: Loop, summary: dict[str, Any], slo: Slo) -> list[str]:
    """What a longer run serves per second, where the end of this one weighs in its rates."""
    traffic, last_s = loop.traffic, float(loop.traffic.arrival_s[-1])
    tail_s = float(np.nanmax(loop.end_s)) - last_s
    if not math.isfinite(traffic.rate) or tail_s <= TAIL * summary["duration"]:
        return []
    each = traffic.rate / len(traffic)
    good = f", {each * int(good_requests(loop, slo).sum()):.2f} of them good" if slo.limits else ""
    return [
        f"{len(traffic)} requests: the last of them is answered {tail_s:.2f} s after the last "
        "arrival, which counts in the rates, as in vLLM's benchmark; in a longer run that keeps up "
        f"{each * summary['completed']:.2f} requests/s are served{good}."
    ]


def _ms(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g} ms"
