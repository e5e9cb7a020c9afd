"""Results of `vllm bench serve` and of SGLang's bench_serving, from JSON or from the printed block.

Both write the same names (vllm/benchmarks/serve.py, python/sglang/bench_serving.py). Their ITL
differs: vLLM's is the gap between two chunks, SGLang's divides it by the tokens of the chunk.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from specsim.checks import SpecsimError
from specsim.evidence.counters import Counters
from specsim.evidence.served.accounts import DRAFTS_MISSING, Account, Printed, checked_positions
from specsim.evidence.served.prometheus import ENGINES
from specsim.evidence.served.record import (
    Latency,
    ServedRun,
    decoding_batch,
    latencies,
    latency,
    mean_context,
    require_agreement,
)
from specsim.evidence.served.tally import Tally

TIMES = re.compile(r"(mean|median|p\d{1,3}(?:\.\d{1,3})?)_(ttft|tpot|itl|e2el|e2e_latency)_ms")
VLLM = "vllm bench serve"
SGLANG = "SGLang's bench_serving"
CLIENT = "specsim measure-server"  # ours: vLLM's names and conventions, for any engine


def is_result(data: Mapping[str, Any]) -> bool:
    """Whether plain data is a result of one of the two tools."""
    return "mean_ttft_ms" in data and ("completed" in data or "total_output_tokens" in data)


def tool_of(data: Mapping[str, Any]) -> str:
    """The tool that wrote a result; SpecsimError where its names do not tell, because then its ITL
    may be any of four."""
    if data.get("measured_by") == CLIENT:
        return CLIENT
    if "total_output_tokens_retokenized" in data or "mean_e2e_latency_ms" in data:
        return SGLANG
    if {"endpoint_type", "tokenizer_id", "request_goodput"} & data.keys() or (
        "backend" in data and "model_id" in data
    ):
        return VLLM
    raise SpecsimError(
        "the result names neither vllm bench serve (model_id, endpoint_type) nor SGLang's "
        "bench_serving (mean_e2e_latency_ms): its inter-token latency may be any of four; see "
        "docs/results.md"
    )


def run(data: Mapping[str, Any], tool: str, rounded: bool = False) -> ServedRun:
    """The record of one result; `rounded`: its numbers are those of the printed block.

    Raises SpecsimError if no request succeeded, and if the result contradicts itself.
    """
    completed = _number(data, "completed")
    if completed is not None and completed < 1:
        raise SpecsimError("no request of the result succeeded")
    duration = _number(data, "duration")
    input_tokens, output_tokens = (_number(data, f"total_{n}_tokens") for n in ("input", "output"))
    throughput = _number(data, "output_throughput")
    if duration and output_tokens is not None:
        require_agreement("output tokens per second", throughput, output_tokens / duration)
    if duration and completed is not None:
        told = _number(data, "request_throughput")
        require_agreement("requests per second", told, completed / duration)
    inputs, outputs = _lengths(data, "input_lens"), _lengths(data, "output_lens")
    if outputs and output_tokens is not None and not rounded:
        require_agreement("output tokens", output_tokens, float(sum(outputs)))
    counters = _counters(data, tool, rounded)
    found = latencies(_latencies(data, tool, counters))
    _require_order(found)
    mean_in, mean_out = (
        total / completed if total is not None and completed else None
        for total in (input_tokens, output_tokens)
    )
    rate = _number(data, "request_rate")
    return ServedRun(
        tool=tool,
        engine=_engine(data, tool),
        model=_text(data, "model_id") or _text(data, "model"),
        completed=None if completed is None else int(completed),
        failed=None if _number(data, "failed") is None else int(_number(data, "failed") or 0),
        duration_s=duration,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        output_tokens_per_s=throughput,
        request_rate=rate if rate is not None and rate < 1e12 else None,
        max_concurrency=_number(data, "max_concurrency"),
        concurrency=_number(data, "concurrency"),
        decoding=decoding_batch(completed, duration, found, mean_out),
        context=mean_context(mean_in, mean_out, inputs, outputs),
        latencies=found,
        counters=counters,
        cautions=_cautions(found, tool, data),
    )


def _latencies(
    data: Mapping[str, Any], tool: str, counters: Counters | None
) -> Sequence[Latency | None]:
    by_kind: dict[str, dict[str, float | None]] = {}
    for name in data:
        match = TIMES.fullmatch(name) if isinstance(name, str) else None
        value = _number(data, name) if match else None
        if match and value is not None:
            statistic = "median" if match[1] == "p50" else match[1]
            by_kind.setdefault(match[2], {})[statistic] = value * 1e-3
    itl = by_kind.get("itl", {})
    convention = "chunk_gap"
    if tool == SGLANG:
        convention = _sglang_convention(data, itl, by_kind.get("tpot", {}), counters)
    whole = by_kind.get("e2el") or by_kind.get("e2e_latency") or {}
    return (
        latency("ttft", "TTFT", by_kind.get("ttft", {})),
        latency("tpot", "TPOT", by_kind.get("tpot", {})),
        latency(convention, "ITL", itl) if convention else None,
        latency("e2e", "E2E latency" if tool == SGLANG else "E2EL", whole),
    )


def _sglang_convention(
    data: Mapping[str, Any],
    itl: Mapping[str, float | None],
    tpot: Mapping[str, float | None],
    counters: Counters | None,
) -> str:
    """Which of its two ITLs SGLang's client wrote: a gap divided by the tokens of its chunk is near
    the TPOT, a whole gap is near TPOT x tokens per cycle. Empty if it is neither."""
    gap, token = itl.get("mean"), tpot.get("mean")
    length = counters.tokens_per_cycle if counters is not None else None
    if not gap or not token or length is None or length < 1.15:
        return "chunk_gap_per_token" if _by_sglang(data) else ""
    if abs(gap / token - 1) <= abs(gap / (token * length) - 1):
        return "chunk_gap_per_token"
    return "chunk_gap"


def _engine(data: Mapping[str, Any], tool: str) -> str | None:
    """Who served: vLLM's client measures vLLM, ours says which page of counters it has read."""
    if tool == CLIENT:
        named = data.get("engine")
        return named if isinstance(named, str) and named in ENGINES.values() else None
    return "vllm" if tool == VLLM else "sglang" if _by_sglang(data) else None


def _by_sglang(data: Mapping[str, Any]) -> bool:
    return str(data.get("backend", "")).startswith("sglang")


def _cautions(found: Mapping[str, Latency], tool: str, data: Mapping[str, Any]) -> tuple[str, ...]:
    gaps = {"chunk_gap", "chunk_gap_per_token"} & found.keys()
    if tool == SGLANG and "mean_itl_ms" in data and not gaps:
        return ("Its ITL is left out: for this backend it may be of two conventions.",)
    said = data.get("findings") if tool == CLIENT else None
    return tuple(
        each[:500] for each in (said if isinstance(said, list) else ())[:20]
        if isinstance(each, str) and each.isprintable()
    )  # fmt: skip


def _counters(data: Mapping[str, Any], tool: str, rounded: bool) -> Counters | None:
    """The acceptance of a result; None for a run without speculation."""
    engine = _engine(data, CLIENT) if tool == CLIENT else "vllm" if tool == VLLM else "sglang"
    tally = Tally(f"the results of {tool}", engine)
    if tool == SGLANG:
        length = _number(data, "accept_length")
        if length is None or length == 0:
            return None
        tally.add(Account(length=Printed(length, 0.005 if rounded else 1e-9)))
        return tally.total()
    names = (
        "accepted_tokens",
        "draft_tokens",
        "num_drafts",
        "acceptance_length",
        "acceptance_rate",
    )
    accepted, drafted, cycles, length, rate = (_number(data, f"spec_decode_{n}") for n in names)
    if accepted is None and length is None and rate is None:
        return None
    half = 0.005 if rounded else 1e-9
    listed = data.get("spec_decode_per_position_acceptance_rates")
    rates = [r for r in listed if isinstance(r, int | float)] if isinstance(listed, list) else []
    positions: tuple[Printed, ...] = tuple(
        Printed(float(r), half * 0.01 if rounded else 1e-9) for r in rates
    )
    positions, whole = checked_positions(positions, accepted, drafted, cycles, length)
    if positions and drafted is None:
        tally.cautions.append(DRAFTS_MISSING)
    tally.add(
        Account(
            accepted=accepted,
            drafted=drafted,
            cycles=cycles,
            length=None if length is None else Printed(length, half),
            rate=None if rate is None else Printed(0.01 * rate, 0.01 * half),
            positions=positions or None,
            whole=whole,
        )
    )
    return tally.total()


ANSWERS = tuple(
    f"spec_decode_{name}"
    for name in ("accepted_tokens", "draft_tokens", "num_drafts", "acceptance_length",
                 "acceptance_rate", "per_position_acceptance_rates")
)  # fmt: skip


def answers(records: Iterable[Mapping[str, str]]) -> Counters | None:
    """The acceptance in results of vllm bench serve that stand somewhere in a text."""
    found = []
    for record in records:
        data: dict[str, Any] = {n: float(v) for n, v in record.items() if v[0] not in "[{"}
        listed = record.get("spec_decode_per_position_acceptance_rates", "[]").strip("[]{}")
        try:
            rates = [float(part) for part in listed.split(",") if part.strip()]
        except ValueError:
            rates = []
        data["spec_decode_per_position_acceptance_rates"] = rates
        found.append(_counters(data, VLLM, rounded=False))
    different = {(each.accepted, each.cycles) for each in found if each is not None}
    if len(different) > 1:
        raise SpecsimError(
            f"the text holds {len(different)} results with different acceptance; give one of them"
        )
    return found[0] if found else None


def _require_order(found: Mapping[str, Latency]) -> None:
    if "ttft" in found and "e2e" in found:
        first, whole = found["ttft"].mean, found["e2e"].mean
        if first is not None and whole is not None and first > whole * 1.001 + 1e-4:
            raise SpecsimError(
                f"the result contradicts itself: a mean TTFT of {first:g} s in requests of "
                f"{whole:g} s"
            )


def _number(data: Mapping[str, Any], name: str) -> float | None:
    """A number >= 0 of a result, None if it is missing; "inf" is a rate that some write as text."""
    value = data.get(name)
    if value is None or value == "inf":
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SpecsimError(f"{name} of the result must be a number, not {value!r:.60}")
    if not value >= -1e-6 and "tpot" not in name and "itl" not in name:
        raise SpecsimError(f"{name} of the result must be a number >= 0, got {value:g}")
    if value == float("inf") and name != "request_rate":
        raise SpecsimError(f"{name} of the result is infinite")
    return None if value != value else float(value)


def _text(data: Mapping[str, Any], name: str) -> str | None:
    value = data.get(name)
    return value if isinstance(value, str) else None


def _lengths(data: Mapping[str, Any], name: str) -> list[float]:
    value = data.get(name)
    if not isinstance(value, list) or not all(isinstance(v, int | float) for v in value):
        return []
    return value
