"""Results of guidellm: benchmarks.json, one record for each benchmark in it.

Its `inter_token_latency_ms` is what vLLM calls TPOT, its `time_per_output_token_ms` includes the
wait for the first token, and its `request_latency` is in seconds (guidellm's
schemas/generative/metrics.py). It knows no acceptance.
"""

from collections.abc import Mapping
from typing import Any

from specsim.checks import SpecsimError
from specsim.evidence.served.record import ServedRun, latencies, latency, mean_context

STATISTICS = {"mean": "mean", "median": "median"}
KINDS = (  # its name, our convention, seconds in its unit
    ("time_to_first_token_ms", "ttft", 1e-3),
    ("inter_token_latency_ms", "tpot", 1e-3),
    ("time_per_output_token_ms", "latency_per_token", 1e-3),
    ("request_latency", "e2e", 1.0),
)


def is_result(data: Mapping[str, Any]) -> bool:
    """Whether plain data is guidellm's."""
    found = data.get("benchmarks")
    return isinstance(found, list) and any(
        isinstance(each, dict) and isinstance(each.get("metrics"), dict) for each in found
    )


def runs(data: Mapping[str, Any]) -> list[ServedRun]:
    """The benchmarks of a file. Raises SpecsimError if none has a successful request."""
    found = [_run(each) for each in data["benchmarks"] if isinstance(each, dict)]
    sound = [run for run in found if run is not None]
    if not sound:
        raise SpecsimError("no request of guidellm's benchmarks succeeded")
    return sound


def _run(benchmark: Mapping[str, Any]) -> ServedRun | None:
    metrics = _table(benchmark, "metrics")
    requests = metrics.get("request_totals")
    completed = _count(requests, "successful")
    if completed == 0:
        return None
    found = latencies(
        [
            latency(convention, name, _statistics(metrics, name, unit))
            for name, convention, unit in KINDS
        ]
    )
    inputs, outputs = (_mean(metrics, f"{n}_token_count") for n in ("prompt", "output"))
    concurrency, duration = _mean(metrics, "request_concurrency"), _duration(benchmark)
    throughput = _mean(metrics, "output_tokens_per_second")
    if completed is not None and outputs is not None and duration:
        throughput = completed * outputs / duration
    decoding = concurrency
    if concurrency is not None and {"ttft", "e2e"} <= found.keys():
        first, whole = found["ttft"].mean, found["e2e"].mean
        if first is not None and whole is not None and whole > 0:
            decoding = concurrency * max(0.0, 1.0 - first / whole)
    backend = _table(_table(benchmark, "config"), "backend")
    model = backend.get("model")
    streams = _table(_table(benchmark, "config"), "strategy").get("streams")
    cautions = []
    chunk = _mean(metrics, "output_tokens_per_iteration")
    if chunk is not None and chunk > 1.05:
        cautions.append(
            f"A chunk carried {chunk:.2f} tokens on average: about the tokens per cycle of a "
            "server that sends a chunk a cycle."
        )
    for warning in benchmark.get("warnings") or ():
        if isinstance(warning, dict) and isinstance(warning.get("message"), str):
            cautions.append(f"guidellm warns: {warning['message'][:300]}")
    return ServedRun(
        tool="guidellm",
        model=model if isinstance(model, str) else None,
        completed=completed,
        failed=_count(requests, "errored"),
        duration_s=duration,
        input_tokens=None if inputs is None or completed is None else inputs * completed,
        output_tokens=None if outputs is None or completed is None else outputs * completed,
        output_tokens_per_s=throughput,
        max_concurrency=float(streams) if isinstance(streams, int | float) else None,
        concurrency=concurrency,
        decoding=decoding,
        context=mean_context(inputs, outputs),
        latencies=found,
        cautions=tuple(cautions),
    )


def _table(data: Any, name: str) -> Mapping[str, Any]:
    found = data.get(name) if isinstance(data, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _successful(metrics: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The distribution of a metric over successful requests; a distribution without requests has
    a count of 0, and is none."""
    found = _table(_table(metrics, name), "successful")
    return {} if found.get("count") == 0 else found


def _statistics(metrics: Mapping[str, Any], name: str, unit: float) -> dict[str, float | None]:
    found = _successful(metrics, name)
    shares = _table(found, "percentiles")
    values = {"mean": found.get("mean"), "median": found.get("median")}
    values |= {p: shares.get(p) for p in ("p90", "p95", "p99")}
    return {
        statistic: float(value) * unit
        for statistic, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _mean(metrics: Mapping[str, Any], name: str) -> float | None:
    value = _successful(metrics, name).get("mean")
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    if not 0 <= value < 1e15:
        raise SpecsimError(f"guidellm's {name} has a mean of {value:g}: that cannot be")
    return float(value)


def _count(table: Any, name: str) -> int | None:
    value = table.get(name) if isinstance(table, Mapping) else None
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    if value < 0:
        raise SpecsimError(f"guidellm counts {value} {name} requests")
    return value


def _duration(benchmark: Mapping[str, Any]) -> float | None:
    value = benchmark.get("duration")
    if isinstance(value, int | float) and 0 < value < 1e12:
        return float(value)
    start, end = (benchmark.get(f"{name}_time") for name in ("start", "end"))
    if isinstance(start, int | float) and isinstance(end, int | float) and end > start:
        return float(end - start)
    return None
