"""Results of benchmarks as JSON, whole: one object, or an object in each line."""

from collections.abc import Mapping
from typing import Any

from specsim.checks import SpecsimError
from specsim.checks.files import parse_json
from specsim.checks.limits import require_limit
from specsim.evidence.served import aiperf, bench, guidellm
from specsim.evidence.served.record import ServedRun

MARKS = ('"mean_ttft_ms"', '"guidellm_version"', '"request_latency"')  # of a result, whole or cut


def from_json(text: str, name: str) -> list[ServedRun]:
    """The records of a JSON text; none if it is something else.

    Raises SpecsimError, with `name`, for a result that is cut or contradicts itself.
    """
    if not any(mark in text for mark in MARKS):
        return []
    require_limit("json_bytes", len(text), f"the size of {name} in bytes")
    found: list[ServedRun] = []
    for data in _documents(text, name):
        if guidellm.is_result(data):
            found += guidellm.runs(data)
        elif aiperf.is_result(data):
            found.append(aiperf.run(data))
        elif bench.is_result(data):
            found.append(bench.run(data, bench.tool_of(data)))
    return found


def _documents(text: str, name: str) -> list[Mapping[str, Any]]:
    """One object, or an object in each line; none of a text that is a log with such lines in it."""
    try:
        return [parse_json(text, name)]
    except SpecsimError as error:
        found: list[Mapping[str, Any]] = []
        for line in filter(str.strip, text.splitlines()):
            try:
                found.append(parse_json(line, name))
            except SpecsimError:
                if text.lstrip()[:1] == "{" and not found:
                    raise error from None  # one object, and it is cut
                return []
        return found
