"""A client that measures any server of the OpenAI protocol, with the standard library alone.

    from specsim import serving
    from specsim.evidence import client
    load = serving.traffic(concurrency=4, requests=32, prompt=serving.Lengths(48),
                           output=serving.Lengths(48))
    run = client.measure_server("http://127.0.0.1:8000", load, slo={"ttft": 500, "tpot": 15})
    run.ttft_s, run.itl_s, run.summary["mean_tpot_ms"], run.served_run, run.findings

| file | what |
|---|---|
| `measuring` | one call that does all of this |
| `run`, `arrays` | what came out: arrays per request, and vLLM's names |
| `findings` | what is doubtful about it, in words |
| `sending`, `clock` | requests when they are due |
| `dialect`, `prompts` | what the server takes, and what it is asked |
| `streams`, `answers` | one request; what its chunks say |
| `events`, `http1`, `address` | server-sent events, HTTP/1.1, where the server is |
| `overhead` | what the client itself takes |
| `measured_file` | the run in the schema of measured files |
"""

from specsim.evidence.client.address import Key
from specsim.evidence.client.clock import Clock
from specsim.evidence.client.measured_file import measurement_of
from specsim.evidence.client.measuring import measure_server
from specsim.evidence.client.overhead import Overhead
from specsim.evidence.client.prompts import Tokenizer, Written, tokenizer_of, written_prompts
from specsim.evidence.client.run import ServerRun
from specsim.evidence.client.sending import ClientLoad

__all__ = [
    "ClientLoad",
    "Clock",
    "Key",
    "Overhead",
    "ServerRun",
    "Tokenizer",
    "Written",
    "measure_server",
    "measurement_of",
    "tokenizer_of",
    "written_prompts",
]
