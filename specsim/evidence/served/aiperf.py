"""Results of aiperf and genai-perf: profile_export_*.json, or aiperf's CSV of the same metrics.

A metric is {unit, avg, p50, …} under its tag (aiperf's docs/metrics_reference.md). Their
`inter_token_latency` is what vLLM calls TPOT; aiperf's `inter_chunk_latency` is vLLM's ITL.
"""

import csv
import io
from collections.abc import Mapping
from typing import Any

from specsim.checks import SpecsimError
from specsim.evidence.counters import Counters
from specsim.evidence.served.accounts import Account, Printed
from specsim.evidence.served.json_records import histogram_of
from specsim.evidence.served.record import (
    ServedRun,
    decoding_batch,
    latencies,
    latency,
    mean_context,
)
from specsim.evidence.served.tally import Tally

SECONDS = {"s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e-3, "milliseconds": 1e-3, "us": 1e-6,
           "microseconds": 1e-6, "ns": 1e-9, "nanoseconds": 1e-9}  # fmt: skip
KINDS = (
    ("time_to_first_token", "ttft"),
    ("inter_token_latency", "tpot"),
    ("inter_chunk_latency", "chunk_gap"),
    ("request_latency", "e2e"),
)
CSV_TAGS = {
    "time to first token": "time_to_first_token",
    "inter token latency": "inter_token_latency",
    "inter chunk latency": "inter_chunk_latency",
    "request latency": "request_latency",
    "request throughput": "request_throughput",
    "request count": "request_count",
    "error request count": "error_request_count",
    "output token throughput": "output_token_throughput",
    "output sequence length": "output_sequence_length",
    "input sequence length": "input_sequence_length",
    "benchmark duration": "benchmark_duration",
    "acceptance length": "spec_decode_acceptance_length",
    "total spec decode steps": "total_spec_decode_steps",
    "total accepted draft tokens": "total_accepted_draft_tokens",
    "total draft tokens": "total_draft_tokens",
}


def is_result(data: Mapping[str, Any]) -> bool:
    """Whether plain data is a result of aiperf or genai-perf."""
    metrics = _metrics(data)
    return isinstance(metrics.get("request_latency"), dict) and "unit" in metrics["request_latency"]


def _metrics(data: Mapping[str, Any]) -> Mapping[str, Any]:
    held = data.get("records")
    return held if isinstance(held, dict) else data


def run(data: Mapping[str, Any]) -> ServedRun:
    """The record of one result. Raises SpecsimError for a unit that is not known."""
    metrics = _metrics(data)
    found = latencies(
        [latency(convention, tag, _statistics(metrics, tag)) for tag, convention in KINDS]
    )
    completed = _average(metrics, "request_count")
    inputs, outputs = (_average(metrics, f"{n}_sequence_length") for n in ("input", "output"))
    rate = _average(metrics, "request_throughput")
    duration = _seconds(metrics, "benchmark_duration", "avg")
    if duration is None and completed and rate:
        duration = completed / rate
    whole = found["e2e"].mean if "e2e" in found else None
    config = data.get("input_config")
    model = _first_model(config)
    concurrency = rate * whole if rate is not None and whole is not None else None
    decoding = decoding_batch(completed, duration, found, outputs)
    if decoding is None and concurrency is not None and "ttft" in found and whole:
        decoding = concurrency * max(0.0, 1.0 - (found["ttft"].mean or 0.0) / whole)
    failed = _average(metrics, "error_request_count")
    return ServedRun(
        tool="aiperf"
        if "aiperf_version" in data or "spec_decode" in str(metrics.keys())
        else "aiperf or genai-perf",
        model=model,
        completed=None if completed is None else int(completed),
        failed=None if failed is None else int(failed),
        duration_s=duration,
        input_tokens=inputs * completed if inputs is not None and completed else None,
        output_tokens=outputs * completed if outputs is not None and completed else None,
        output_tokens_per_s=_average(metrics, "output_token_throughput"),
        concurrency=concurrency,
        decoding=decoding,
        context=mean_context(inputs, outputs),
        latencies=found,
        counters=_counters(data, metrics),
    )


def table(text: str) -> ServedRun | None:
    """The record of aiperf's CSV; None for other text."""
    if not text.lstrip("\ufeff").lower().startswith("metric,"):
        return None
    metrics: dict[str, Any] = {}
    header: list[str] = []
    for row in csv.reader(io.StringIO(text)):
        if row and row[0].strip().lower() == "metric":
            header = [name.strip().lower() for name in row]
        elif len(row) > 1 and header:
            named, _, unit = row[0].partition("(")
            tag = CSV_TAGS.get(named.strip().lower())
            if tag is not None:
                metrics[tag] = {"unit": unit.rstrip(") ")} | {
                    "avg" if name == "value" else name: _float(cell)
                    for name, cell in zip(header[1:], row[1:], strict=False)
                    if _float(cell) is not None
                }
    return run(metrics) if is_result(metrics) else None


def _float(cell: str) -> float | None:
    try:
        return float(cell.replace(",", ""))
    except ValueError:
        return None


def _counters(data: Mapping[str, Any], metrics: Mapping[str, Any]) -> Counters | None:
    cycles, accepted, drafted = (
        _average(metrics, f"total_{name}")
        for name in ("spec_decode_steps", "accepted_draft_tokens", "draft_tokens")
    )
    length = _average(metrics, "spec_decode_token_weighted_acceptance_length")
    per_request = _average(metrics, "spec_decode_acceptance_length")
    if accepted is None and length is None and per_request is None:
        return None
    tally = Tally("aiperf's metrics of speculation", None)
    pooled = data.get("pooled_spec_decode_acceptance_histogram")
    positions, doubt = (None, "")
    if isinstance(pooled, dict):
        positions, doubt = histogram_of(str(pooled), cycles, accepted)
    if doubt:
        tally.cautions.append(doubt)
    if accepted is None and length is None:
        tally.cautions.append("The mean length is a mean over requests, not over cycles.")
        length = per_request
    tally.add(
        Account(
            accepted=accepted,
            drafted=drafted,
            cycles=cycles,
            length=None if length is None else Printed(length, 0.005),
            positions=positions,
            whole=False,
        )
    )
    return tally.total()


def _metric(metrics: Mapping[str, Any], tag: str) -> Mapping[str, Any]:
    found = metrics.get(tag)
    return found if isinstance(found, Mapping) else {}


def _average(metrics: Mapping[str, Any], tag: str) -> float | None:
    value = _metric(metrics, tag).get("avg")
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    if not 0 <= value < 1e15:
        raise SpecsimError(f"{tag} of the result must be a number >= 0, got {value:g}")
    return float(value)


def _seconds(metrics: Mapping[str, Any], tag: str, statistic: str) -> float | None:
    found = _metric(metrics, tag)
    value, unit = found.get(statistic), found.get("unit")
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    if not isinstance(unit, str) or unit.lower() not in SECONDS:
        raise SpecsimError(
            f"{tag} of the result has the unit {unit!r:.40}, which is no unit of time"
        )
    return float(value) * SECONDS[unit.lower()]


def _statistics(metrics: Mapping[str, Any], tag: str) -> dict[str, float | None]:
    names = {"avg": "mean", "p50": "median", "p90": "p90", "p95": "p95", "p99": "p99"}
    return {ours: _seconds(metrics, tag, theirs) for theirs, ours in names.items()}


def _first_model(config: Any) -> str | None:
    """The model's name, in any of the places where the two tools write it."""
    for place in (config, config.get("endpoint") if isinstance(config, Mapping) else None):
        if isinstance(place, Mapping):
            for name in ("model_names", "model", "models", "formatted_model_name"):
                value = place.get(name)
                value = value[0] if isinstance(value, list) and value else value
                if isinstance(value, str):
                    return value
    return None
