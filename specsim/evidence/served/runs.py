"""Reads what a tool measured of a served run, whatever its format: one list of records."""

from specsim.checks import SpecsimError
from specsim.evidence.served import aiperf, blocks, results, server_runs, traces, unknown
from specsim.evidence.served.record import ServedRun, require_possible

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
    return [require_possible(run) for run in _runs(text, name)]


def _runs(text: str, name: str) -> list[ServedRun]:
    start = text.lstrip("\ufeff \t\r\n")[:1]
    found = results.from_json(text, name) if start == "{" else []
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
        held = unknown.lookalike(text)
        seen = f": found {held}, whose meaning is not known" if held else ""
        raise SpecsimError(f"{name} is no result that specsim knows{seen}; it reads {FORMATS}")
    return found


def _require_no_unknown_latency(text: str, name: str) -> None:
    for mark in ITL:
        if f'"{mark}' in text or f"_{mark}" in text:
            raise SpecsimError(
                f"{name} holds an inter-token latency ({mark!r}) of a tool that is not known: it "
                "may be any of four numbers (see docs/results.md); needed is which tool wrote it"
            )
