"""A run in the schema of measured files (`specsim.evidence.measurement`).

A client sees chunks, not passes: the gap between two of them is a cycle where the server
speculates, and a plain step where it does not, with what else the server did meanwhile. What the
server is, a client cannot see: the caller says it.
"""

import platform
import time

from specsim.architecture import Architecture
from specsim.checks import SpecsimError
from specsim.evidence.client.run import ServerRun
from specsim.evidence.measurement import Environment, Measurement, Point, RunConditions, Timing

SERVED = "served"  # the mode of such a point
PLAIN = "plain"


def measurement_of(
    run: ServerRun,
    *,
    device: str,
    target: Architecture,
    draft: Architecture | None = None,
    precision: str = "bf16",
    method: str | None = None,
    gamma: int | None = None,
) -> Measurement:
    """A measured file of one point: the gaps between chunks, acceptance, tokens per second.

    Arguments: `device`, what the server runs on; `gamma`, drafted tokens per cycle, by default what
    its counters tell, 0 where it has none. Raises SpecsimError if no request was answered.
    """
    served = run.served_run
    gaps = Timing.of([gap for gap in run.chunk_times_s.tolist() if gap > 1e-9])
    counters = run.counters
    if gamma is None:
        gamma = 0
        if counters is not None and counters.drafted and counters.cycles:
            gamma = max(1, round(counters.drafted / counters.cycles))
    if gamma and draft is None and method in (None, "draft-model"):
        raise SpecsimError(
            "--measurement of a server that speculates needs what drafts: give --draft or --method"
        )
    tokens = None
    if gamma and counters is not None:
        tokens = counters.tokens_per_cycle
        if counters.accepted is not None and counters.cycles:
            tokens = 1.0 + counters.accepted / counters.cycles
    context = max(1, round(served.context or 1))
    conditions = RunConditions(
        target=target, draft=draft if gamma else None, precision=precision,
        method=(method or "draft-model") if gamma else PLAIN, gamma=gamma, rule="the server's own",
        temperature=float(run.asked.get("temperature", 0.0)),
        batch=max(1, round(served.decoding or 1)), context=context,
        allocated_context=int((run.input_tokens + run.tokens).max()), mode=SERVED,
        seed=run.load.seed,
    )  # fmt: skip
    survival = None if counters is None or not gamma or counters.survival is None else [
        *counters.survival]  # fmt: skip
    point = Point(
        scenario=conditions,
        step_s=None if gamma else gaps, draft_step_s=None, verify_step_s=None,
        cycle_s=gaps if gamma else None, host_s=None,
        survival=survival, tokens_per_cycle=tokens,
        tokens_per_s=served.output_tokens_per_s,
        notes=" ".join(("Measured by a client, between chunks.", *run.findings))[:4000],
    )  # fmt: skip
    environment = Environment(
        device=device, torch="not told by the server", python=platform.python_version(), threads=0,
        date=time.strftime("%Y-%m-%d"),
    )  # fmt: skip
    return Measurement(environment, [point])
