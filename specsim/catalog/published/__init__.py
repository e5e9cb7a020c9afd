"""Published measurements as data: a CSV file a table, every row with its source and confidence.

| table | rows of it say |
|---|---|
| `decode_speed` | tokens per second of plain decoding, most of them one sequence at a time |
| `vllm_dynamic_sd` | ms of a cycle by batch and drafted tokens (vLLM PR #32374) |
| `vllm_mt_bench` | tokens per second, plain and with EAGLE, of two earlier versions of vLLM |
| `verify_cost` | ms of a pass by its rows (llama.cpp PRs) |
| `recent_passes` | ms of a pass, plain or of several rows, of 2025 and 2026 |
| `prefill` | how fast a prompt is read, or ms to the first token, of one sequence |
| `served_speedups` | speedups at a stated tau under SGLang, llama.cpp and MLX |
| `spec_decoding_speedups` | what papers and leaderboards gained by speculation |
| `acceptance_rates` | alpha, tau or survival, as `metric` says: inputs, not speeds |
| `serving_throughput` | tokens per second at the largest batch that fits |
| `achieved_bandwidth` | bytes per second that rows of `decode_speed` imply |
| `accelerators` | datasheets; the catalog's own accelerators are checked against them |

Cells are text as published; an empty one means "not stated". `usability` A: model, format, batch
and context are stated; B: partly; C: not to be fitted.
"""

import csv
from collections.abc import Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType

TABLES = (
    "decode_speed",
    "vllm_dynamic_sd",
    "vllm_mt_bench",
    "verify_cost",
    "recent_passes",
    "prefill",
    "served_speedups",
    "spec_decoding_speedups",
    "acceptance_rates",
    "serving_throughput",
    "achieved_bandwidth",
    "accelerators",
)


@cache
def rows(table: str) -> tuple[Mapping[str, str], ...]:
    """The rows of one of `TABLES`, in the file's order, read once and read-only."""
    text = resources.files(__name__).joinpath(f"{table}.csv").read_text(encoding="utf-8")
    return tuple(MappingProxyType(row) for row in csv.DictReader(text.splitlines()))
