"""Counters and histograms of the server, in Prometheus' text format with vLLM's names.

All are counted by the engine, in its thread, so the counts agree with the `usage` of the answers.
A cycle that ends its text inside what was accepted is not among the drafts, as in
`reference.statistics`.
"""

import time
from bisect import bisect_left

from reference.sequences import CycleResult
from reference.serving.requests import Request

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
REASONS = ("stop", "length", "abort", "error")


class Histogram:
    """Counts of values by upper bound, their sum and their number."""

    def __init__(self, bounds: tuple[float, ...]):
        self.bounds, self.counts, self.sum = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def lines(self, name: str, labels: str) -> list[str]:
        """Its samples: cumulative buckets, count and sum."""
        lines, total = [f"# TYPE {name} histogram"], 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            total += count
            lines.append(f'{name}_bucket{{{labels},le="{bound}"}} {total}')
        return [*lines, f"{name}_count{{{labels}}} {total}", f"{name}_sum{{{labels}}} {self.sum}"]


class Metrics:
    """What the engine has done since its start."""

    def __init__(self, model: str, gamma: int):
        self.labels = f'engine="0",model_name="{escaped(model)}"'
        self.gamma = gamma
        self.started = time.time()
        self.prompt_tokens = self.generation_tokens = 0
        self.drafts = self.drafted = self.accepted = 0
        self.accepted_at = [0] * gamma  # by position of the draft
        self.requests = dict.fromkeys(REASONS, 0)
        self.seconds = {
            name: Histogram(SECONDS)
            for name in (
                "time_to_first_token", "inter_token_latency", "request_time_per_output_token",
                "e2e_request_latency", "request_queue_time",
            )
        }  # fmt: skip
        self.sizes = {name: Histogram(TOKENS) for name in ("prompt", "generation")}

    def add_cycle(self, request: Request, result: CycleResult, tokens: int, now: float) -> None:
        """Count one request's part of a cycle: `tokens` of what was emitted count."""
        self.generation_tokens += tokens
        if not request.first_at:
            request.first_at = now
            self.prompt_tokens += 0 if request.copy else len(request.prompt)
            self.seconds["time_to_first_token"].add(now - request.arrived)
            self.seconds["request_queue_time"].add(request.admitted - request.arrived)
        else:
            self.seconds["inter_token_latency"].add(now - request.last_at)
        request.last_at = now
        if result.drafted and result.is_whole:
            self.drafts += 1
            self.drafted += result.drafted
            self.accepted += result.accepted
            for place in range(result.accepted):
                self.accepted_at[place] += 1

    def add_request(self, request: Request, reason: str, now: float) -> None:
        """Count a request that has ended."""
        self.requests[reason] += 1
        if reason in ("stop", "length"):
            self.seconds["e2e_request_latency"].add(now - request.arrived)
            self.sizes["prompt"].add(len(request.prompt))
            self.sizes["generation"].add(request.emitted)
            if request.emitted > 1:
                each = (request.last_at - request.first_at) / (request.emitted - 1)
                self.seconds["request_time_per_output_token"].add(each)

    def page(self, running: int, waiting: int, used: float) -> str:
        """The text of /metrics; `used` is the share of the cache's slots that hold text."""
        counters = {
            "prompt_tokens": self.prompt_tokens, "generation_tokens": self.generation_tokens,
        }  # fmt: skip
        if self.gamma:
            counters |= {
                "spec_decode_num_drafts": self.drafts,
                "spec_decode_num_draft_tokens": self.drafted,
                "spec_decode_num_accepted_tokens": self.accepted,
            }
        gauges = {
            "num_requests_running": running, "num_requests_waiting": waiting,
            "kv_cache_usage_perc": used,
        }  # fmt: skip
        lines = ["# TYPE process_start_time_seconds gauge"]
        lines.append(f"process_start_time_seconds {self.started}")
        for name, value in gauges.items():
            lines += [f"# TYPE vllm:{name} gauge", f"vllm:{name}{{{self.labels}}} {value}"]
        for name, value in counters.items():
            full = f"vllm:{name}_total"
            lines += [f"# TYPE {full} counter", f"{full}{{{self.labels}}} {value}"]
        if self.gamma:
            full = "vllm:spec_decode_num_accepted_tokens_per_pos_total"
            lines.append(f"# TYPE {full} counter")
            for place, value in enumerate(self.accepted_at):
                lines.append(f'{full}{{{self.labels},position="{place}"}} {value}')
        lines.append("# TYPE vllm:request_success_total counter")
        for reason, value in self.requests.items():
            labels = f'{self.labels},finished_reason="{reason}"'
            lines.append(f"vllm:request_success_total{{{labels}}} {value}")
        for name, histogram in self.seconds.items():
            lines += histogram.lines(f"vllm:{name}_seconds", self.labels)
        for name, histogram in self.sizes.items():
            lines += histogram.lines(f"vllm:request_{name}_tokens", self.labels)
        return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """A label's value, as Prometheus writes it."""
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
