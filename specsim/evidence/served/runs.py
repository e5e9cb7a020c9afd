"""Reads what a tool measured of a served run, whatever its format: one list of records."""

import json
from collections.abc import Mapping
from typing import Any

from specsim.checks import SpecsimError
from specsim.checks.files import parse_json
from specsim.evidence.served import aiperf, bench, blocks, guidellm, server_runs, traces, unknown
from specsim.evidence.served.record import ServedRun

FORMATS = (
    "results of vllm bench serve, SGLang's bench_serving, guidellm, aiperf and genai-perf; pages "
    "of Prometheus and logs of vLLM, SGLang, llama.cpp and TensorRT-LLM; traces of Mooncake, "
    "Azure, BurstGPT and vidur"
)
ITL = ("itl", "inter_token", "intertoken", "time_per_output_token", "tpot")


def read_runs(text: str, name: str) -> list[ServedRun]:
    """The records in a text; errors call it `name`.

    Raises SpecsimError for a format that is not known, for a latency of an unknown convention, and
    for a result that contradicts itself.
    """
    start = text.lstrip("\ufeff \t\r\n")[:1]
    if start == "{":
        found = _from_json(text, name)
        if found:
            return found
    for read in (traces.trace, aiperf.table):
        run = read(text)
        if run is not None:
            return [run]
    found = blocks.runs(text) or server_runs.from_metrics(text) or server_runs.from_log(text)
    if not found:
        if start == "{":
            _require_no_unknown_latency(text, name)
        refused = str(unknown.refusal(text))
        raise SpecsimError(f"{name} is no result that specsim knows ({FORMATS}): {refused}")
    return found


def _from_json(text: str, name: str) -> list[ServedRun]:
    """The records of a JSON object, or of JSON lines; none if they are something else."""
    documents = _documents(text, name)
    found: list[ServedRun] = []
    for data in documents:
        if guidellm.is_result(data):
            found += guidellm.runs(data)
        elif aiperf.is_result(data):
            found.append(aiperf.run(data))
        elif bench.is_result(data):
            found.append(bench.run(data, bench.tool_of(data)))
    return found


def _documents(text: str, name: str) -> list[Mapping[str, Any]]:
    """One object, or an object in each line. A text that is no JSON is a log, or half a file."""
    try:
        return [parse_json(text, name)]
    except SpecsimError as error:
        lines = [line for line in text.splitlines() if line.strip()]
        found: list[Mapping[str, Any]] = []
        for line in lines[:10_000]:
            try:
                data = json.loads(line)
            except (ValueError, RecursionError):
                data = None
            if not isinstance(data, dict):
                known = ('"mean_ttft_ms"', '"guidellm_version"', '"inter_token_latency"')
                if not found and any(mark in text for mark in known):
                    raise error from None  # a result that is cut
                return found
            found.append(data)
        return found


def _require_no_unknown_latency(text: str, name: str) -> None:
    for mark in ITL:
        if f'"{mark}' in text or f"_{mark}" in text:
            raise SpecsimError(
                f"{name} holds an inter-token latency ({mark!r}) of a tool that is not known: it "
                "may be any of four numbers (see docs/results.md); needed is which tool wrote it"
            )
