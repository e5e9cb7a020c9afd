"""Latencies from a page of Prometheus: histograms in seconds, each of a known convention."""

from collections.abc import Mapping

from specsim.evidence.served.prometheus import LABEL, Page
from specsim.evidence.served.record import Latency, latencies, latency

# By engine: the name of the histogram, and what it observes. vLLM's `time_per_output_token_seconds`
# is the old name of `inter_token_latency_seconds`: a gap between two outputs of the engine.
# SGLang's `time_per_output_token_seconds` is not listed: its meaning differs between versions.
HISTOGRAMS = {
    "vllm": (
        ("time_to_first_token_seconds", "ttft"),
        ("inter_token_latency_seconds", "chunk_gap"),
        ("time_per_output_token_seconds", "chunk_gap"),
        ("request_time_per_output_token_seconds", "tpot"),
        ("e2e_request_latency_seconds", "e2e"),
    ),
    "sglang": (
        ("time_to_first_token_seconds", "ttft"),
        ("inter_token_latency_seconds", "chunk_gap_per_token"),
        ("e2e_request_latency_seconds", "e2e"),
    ),
    "tensorrt-llm": (
        ("time_to_first_token_seconds", "ttft"),
        ("time_per_output_token_seconds", "tpot"),
        ("e2e_request_latency_seconds", "e2e"),
    ),
    "llama.cpp": (),
}
SHARES = {"median": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}


def page_latencies(page: Page) -> dict[str, Latency]:
    """The latencies of a page by convention. Means are exact, percentiles interpolated between the
    bounds of the buckets."""
    found: dict[str, Latency] = {}
    for name, convention in HISTOGRAMS[page.engine]:
        if convention in found:
            continue
        total, count = page.total(f"{name}_sum"), page.total(f"{name}_count")
        buckets = _buckets(page, f"{name}_bucket")
        seconds: dict[str, float | None] = {
            statistic: _percentile(buckets, share) for statistic, share in SHARES.items()
        }
        seconds["mean"] = total / count if total is not None and count else None
        found |= latencies([latency(convention, name, seconds)])
    return found


def _buckets(page: Page, name: str) -> list[tuple[float, float]]:
    """(upper bound, observations up to it), over all labels."""
    found: dict[float, float] = {}
    for labels, value in page.named(name).items():
        bound = dict(LABEL.findall(labels)).get("le", "")
        try:
            found[float(bound)] = found.get(float(bound), 0.0) + value
        except ValueError:
            continue
    return sorted(found.items())


def _percentile(buckets: list[tuple[float, float]], share: float) -> float | None:
    """The value below which `share` of the observations are; None beyond the last finite bound."""
    if not buckets or buckets[-1][1] <= 0:
        return None
    wanted, low, below = share * buckets[-1][1], 0.0, 0.0
    for bound, up_to in buckets:
        if up_to >= wanted:
            if bound == float("inf"):
                return None
            inside = up_to - below
            return low + (bound - low) * ((wanted - below) / inside if inside > 0 else 1.0)
        low, below = bound, max(below, up_to)
    return None


def mean_tokens(page: Page) -> Mapping[str, float | None]:
    """Requests, prompt tokens and generated tokens of a page."""
    return {
        "completed": page.total("request_success_total", "num_requests_total"),
        "input_tokens": page.total("prompt_tokens_total"),
        "output_tokens": page.total("generation_tokens_total", "tokens_predicted_total"),
    }
