"""Reads what people have of served runs: logs, metrics, results of benchmarks, traces.

| module | what it reads |
|---|---|
| `logs` | the acceptance in any text: every reader below looks at it |
| `runs` | a record of a run from any result |
| `vllm`, `vllm_0`, `sglang`, `llama_cpp`, `llama_cpp_runs`, … | an engine's lines, answers |
| `prometheus`, `metrics`, `histograms` | pages of counters: their growth, acceptance, latencies |
| `bench`, `blocks`, `guidellm`, `aiperf`, `traces`, `server_runs` | results of a tool, as records |
| `record` | the one record of a run, and the conventions of its latencies |
| `accounts`, `tally` | what one line or block counts, checked against itself; their sum |
| `text`, `json_records`, `unknown` | numbers in text; names in JSON; what is not known |
"""

from specsim.evidence.served.logs import read_log
from specsim.evidence.served.record import CONVENTIONS, Latency, ServedRun
from specsim.evidence.served.runs import read_runs

__all__ = ["CONVENTIONS", "Latency", "ServedRun", "read_log", "read_runs"]
