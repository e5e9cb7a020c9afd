"""Requests that share a server: does speculation still pay at this traffic, within this SLO?

    from specsim import DraftModel, model, serving, system
    server = serving.Server(target=model("llama-3.1-8b"), drafter=DraftModel(model("llama-3.2-1b")),
                            system=system("h100-sxm", engine="vllm", precision="auto"))
    load = serving.traffic(rate=20, requests=2000, prompt=serving.Lengths(400, 0.8),
                           output=serving.Lengths(200, 0.7))
    found = serving.simulate(server, load, policy="best", alpha=0.75,
                             slo=serving.Slo(ttft=500, tpot=15))
    found.summary["mean_tpot_ms"], found.goodput, found.state

| file | what |
|---|---|
| `arrivals`, `lengths` | the traffic: when requests come, and how long they are |
| `accepting` | what each of them accepts in each of its cycles |
| `surface`, `prompts` | the price of a cycle of a mixed batch; of prompts that are read beside it |
| `server` | models, limits, memory |
| `policies` | gamma by batch, and whether a request speculates at all |
| `loop`, `tallies` | continuous batching, step by step; what is counted |
| `report` | the run in vLLM's names; its state |
| `simulation` | one call that does all of this |
| `tuning` | the best policy, and what the others lose |
"""

from specsim.serving.accepting import Accepting
from specsim.serving.arrivals import Traffic, traffic, traffic_of
from specsim.serving.lengths import Lengths, lengths_of
from specsim.serving.policies import NAMES, Alternatives, Policy, constant, read_table, weigh
from specsim.serving.report import STATES, Served, Slo, slo_of
from specsim.serving.server import Server
from specsim.serving.simulation import policy_named, simulate

__all__ = [
    "NAMES",
    "STATES",
    "Accepting",
    "Alternatives",
    "Lengths",
    "Policy",
    "Served",
    "Server",
    "Slo",
    "Traffic",
    "constant",
    "lengths_of",
    "policy_named",
    "read_table",
    "simulate",
    "slo_of",
    "traffic",
    "traffic_of",
    "weigh",
]
