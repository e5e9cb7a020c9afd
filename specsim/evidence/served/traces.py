"""Traces of requests: when each arrived, and how many tokens it read and wrote.

Mooncake's JSON lines (`timestamp` in ms, `input_length`, `output_length`), Azure's CSV
(`TIMESTAMP`, `ContextTokens`, `GeneratedTokens`), BurstGPT's (`Timestamp` in s, `Request tokens`,
`Response tokens`; an answer of 0 tokens failed and is dropped), and vidur's (`arrived_at` in s,
`num_prefill_tokens`, `num_decode_tokens`).
"""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from specsim.checks import SpecsimError, quoted
from specsim.checks.limits import require_limit
from specsim.evidence.served.record import ServedRun, mean_context


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a trace: seconds, prompt tokens, generated tokens."""

    arrival_s: float
    input_tokens: float
    output_tokens: float


COLUMNS = {  # by tool: the columns of arrival, prompt and answer
    "Azure's trace": ("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
    "BurstGPT's trace": ("Timestamp", "Request tokens", "Response tokens"),
    "vidur's trace": ("arrived_at", "num_prefill_tokens", "num_decode_tokens"),
}
MOONCAKE = ("timestamp", "input_length", "output_length")


def trace(text: str) -> ServedRun | None:
    """The record of a trace; None for other text. It has no latencies: a trace is what was asked.

    Raises SpecsimError for a row that is no request, with its number.
    """
    found = requests_of(text)
    return None if found is None else _record(*found)


def requests_of(text: str) -> tuple[str, list[Request]] | None:
    """The name of a trace and its requests, as they stand there; None for other text.

    Raises SpecsimError for a row that is no request, with its number.
    """
    start = text.lstrip("\ufeff \t\r\n")
    header = start[:2000].partition("\n")[0].strip()
    if header.startswith("{") and all(f'"{name}"' in header for name in MOONCAKE):
        return "Mooncake's trace", list(_json_lines(start))
    names = [name.strip().strip('"') for name in header.split(",")]
    for tool, columns in COLUMNS.items():
        if set(columns) <= set(names):
            return tool, list(_rows(start, tool, columns))
    return None


def _json_lines(text: str) -> Iterator[Request]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            arrival, reads, writes = (float(row[name]) for name in MOONCAKE)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise SpecsimError(f"row {number} of the trace is no request: {quoted(line)}") from None
        yield _request(number, arrival * 1e-3, reads, writes)


def _rows(text: str, tool: str, columns: tuple[str, str, str]) -> Iterator[Request]:
    for number, row in enumerate(csv.DictReader(io.StringIO(text)), 1):
        try:
            arrival, reads, writes = (str(row[name]).strip() for name in columns)
            request = _request(number, _time(arrival), float(reads), float(writes))
        except (ValueError, KeyError) as error:
            if isinstance(error, SpecsimError):
                raise
            raise SpecsimError(f"row {number} of {tool} is no request: {quoted(row)}") from None
        if request.output_tokens or tool != "BurstGPT's trace":
            yield request


def _time(text: str) -> float:
    """Seconds from a number of them, or from a date with a time (Azure has 7 decimals)."""
    try:
        return float(text)
    except ValueError:
        pass
    day, _, rest = text.partition(".")
    moment = datetime.fromisoformat(day.replace("Z", "") + "+00:00")
    digits = rest.partition("+")[0].rstrip("Z")
    return moment.timestamp() + (float(f"0.{digits}") if digits.isdecimal() else 0.0)


def _request(number: int, arrival: float, reads: float, writes: float) -> Request:
    for name, value in (("arrival", arrival), ("prompt", reads), ("answer", writes)):
        if not 0 <= value < 1e15:
            raise SpecsimError(f"row {number} of the trace has an {name} of {value:g}")
    return Request(arrival, reads, writes)


def _record(tool: str, requests: list[Request]) -> ServedRun:
    require_limit("log_lines", len(requests), "the requests of the trace")
    if not requests:
        raise SpecsimError(f"{tool} holds no request")
    arrivals = [request.arrival_s for request in requests]
    inputs = [request.input_tokens for request in requests]
    outputs = [request.output_tokens for request in requests]
    duration = max(arrivals) - min(arrivals)
    count = len(requests)
    return ServedRun(
        tool=tool,
        completed=count,
        duration_s=duration or None,
        input_tokens=sum(inputs),
        output_tokens=sum(outputs),
        request_rate=(count - 1) / duration if duration else None,
        context=mean_context(sum(inputs) / count, sum(outputs) / count, inputs, outputs),
        cautions=("A trace tells what was asked; it has no latencies and no acceptance.",),
    )
