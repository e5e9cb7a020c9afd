"""The block that `vllm bench serve` and SGLang's bench_serving print after a run."""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from specsim.checks import SpecsimError
from specsim.evidence.counters import Counters
from specsim.evidence.served import bench
from specsim.evidence.served.record import ServedRun
from specsim.evidence.served.text import DIGITS

HEADER = "Serving Benchmark Result"
SPECULATION = "Acceptance length:"
LINE = re.compile(
    r"^[ \t]{0,40}([A-Za-z][^:\n]{1,60}):[ \t]{1,60}(\S{1,100})[ \t]{0,200}$", re.MULTILINE
)
LABELS = {
    "Backend": "backend",
    "Successful requests": "completed",
    "Failed requests": "failed",
    "Maximum request concurrency": "max_concurrency",
    "Max request concurrency": "max_concurrency",
    "Request rate configured (RPS)": "request_rate",
    "Traffic request rate": "request_rate",
    "Benchmark duration (s)": "duration",
    "Total input tokens": "total_input_tokens",
    "Total generated tokens": "total_output_tokens",
    "Total generated tokens (retokenized)": "total_output_tokens_retokenized",
    "Request throughput (req/s)": "request_throughput",
    "Request goodput (req/s)": "request_goodput",
    "Output token throughput (tok/s)": "output_throughput",
    "Concurrency": "concurrency",
    "Accept length": "accept_length",
    "Acceptance rate (%)": "spec_decode_acceptance_rate",
    "Acceptance length": "spec_decode_acceptance_length",
    "Drafts": "spec_decode_num_drafts",
    "Draft tokens": "spec_decode_draft_tokens",
    "Accepted tokens": "spec_decode_accepted_tokens",
}
WHOLE = {"completed", "failed", "total_input_tokens", "total_output_tokens",
         "total_output_tokens_retokenized", "spec_decode_num_drafts", "spec_decode_draft_tokens",
         "spec_decode_accepted_tokens", "max_concurrency"}  # fmt: skip
TIME = re.compile(r"(Mean|Median|P\d{1,3}(?:\.\d{1,3})?) (TTFT|TPOT|ITL|E2EL|E2E Latency) \(ms\)")
PLACE = re.compile(r"Position (\d{1,4})")


def runs(text: str) -> list[ServedRun]:
    """The runs whose blocks are in a text; a block that is pasted twice counts once."""
    found: list[ServedRun] = []
    seen: set[str] = set()
    for block in _blocks(text):
        values = _values(block)
        if values and repr(values) not in seen:
            seen.add(repr(values))
            found.append(_run(values))
    return found


def _blocks(text: str) -> Iterator[str]:
    """The text of each block: from its header to its line of '=', the next header, or the end."""
    at = text.find(HEADER)
    if at < 0 or text.find(HEADER, at + 1) < 0:  # without a header, or with the lines around it
        at = text.find(SPECULATION) if at < 0 else at
        if at >= 0:
            yield text[max(0, at - 20_000) : at + 20_000]
        return
    while at >= 0:
        following = text.find(HEADER, at + len(HEADER))
        end = len(text) if following < 0 else following
        footer = text.find("\n=====", at, end)
        end = footer if footer >= 0 else end
        yield text[at + len(HEADER) : min(end, at + 20_000)]
        at = following


def _values(block: str) -> dict[str, Any]:
    """The numbers of a block under their names in the JSON result."""
    values: dict[str, Any] = {}
    places: dict[int, float] = {}
    for label, shown in LINE.findall(block):
        name = LABELS.get(label.strip())
        if time := TIME.fullmatch(label.strip()):
            kind = time[2].lower().replace(" ", "_")
            name = f"{time[1].lower()}_{kind}_ms"
        place = PLACE.fullmatch(label.strip())
        if name == "backend":
            values[name] = shown
            continue
        if name is None and place is None:
            continue
        number = _number(shown, whole=name in WHOLE)
        if number is None:
            continue
        if place is not None:
            places[int(place[1])] = 0.01 * number
        elif name is not None:
            if name in values and values[name] != number:
                raise SpecsimError(
                    f"the block of a benchmark has two lines {label.strip()!r}, {values[name]:g} "
                    f"and {number:g}: two runs are mixed; give the block of one"
                )
            values[name] = number
    if places and sorted(places) == list(range(len(places))):
        rates = [places[k] for k in range(len(places))]
        values["spec_decode_per_position_acceptance_rates"] = rates
    return values


def _number(shown: str, whole: bool) -> float | None:
    """A number of the block; None if it is cut: counts have no decimals, all else has two."""
    if whole:
        return float(shown) if re.fullmatch(rf"-?{DIGITS}(?:\.0)?", shown) else None
    return float(shown) if re.fullmatch(rf"-?{DIGITS}\.\d{{1,3}}", shown) else None


def _run(values: dict[str, Any]) -> ServedRun:
    by_sglang = {"backend", "accept_length", "mean_e2e_latency_ms"} & values.keys()
    return bench.run(values, bench.SGLANG if by_sglang else bench.VLLM, rounded=True)


def acceptance(text: str) -> Counters | None:
    """The acceptance in the block of a text.

    Raises SpecsimError for blocks of several runs that speculate differently.
    """
    if HEADER not in text and SPECULATION not in text:
        return None
    found = [run.counters for run in runs(text) if run.counters is not None]
    if not found:
        if SPECULATION in text:
            return None
        plain = HEADER in text and "SpecDecoding" not in text and "ccept" not in text
        if plain:
            raise SpecsimError("the block is of a run without speculation: it has no acceptance")
        return None
    first, *others = found
    if any(replace(other, cautions=()) != replace(first, cautions=()) for other in others):
        raise SpecsimError(
            f"the text holds the blocks of {len(found)} runs with different acceptance; give one "
            "of them, or specsim compare --results for all"
        )
    return first
