"""The policy `best`: candidates are tried on other traffic of the kind, and the best one is taken.

A schedule by batch weighs cycles alone. Whether a loaded draft pays for the prompts that it reads,
and which gamma keeps an SLO beside prompts, depends on the traffic, so it is simulated: the
traffic of a trial has the rate and the lengths of the real one, and another seed. A trace is tried
on its own first part.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from specsim.serving.accepting import Accepting
from specsim.serving.arrivals import Traffic
from specsim.serving.loop import Loop
from specsim.serving.policies import Alternatives, Policy, constant
from specsim.serving.report import Served, Slo, served
from specsim.serving.server import Server

TRIAL = 1500  # requests of a trial
TIED = 0.01  # relative: what differs by less is equal
ANOTHER = 7919  # what is added to the seed
Score: TypeAlias = tuple[int, float]  # whether the server keeps up; more is better


def best_policy(
    server: Server, load: Traffic, accepting: Accepting, choice: Alternatives, slo: Slo,
    hysteresis: float,
) -> Policy:  # fmt: skip
    """The candidate that does best on traffic of the same kind, under the name `best`."""
    trial, runs = another(load), []
    for policy in candidates(choice, hysteresis):
        loop = Loop(server, trial, policy, accepting)
        loop.run()
        runs.append(served(loop, slo))
    return replace(foremost(runs).loop.policy, name="best")


def candidates(choice: Alternatives, hysteresis: float) -> Iterator[Policy]:
    """No draft, the schedule by batch, and every fixed gamma that the schedule or its neighbours
    may name."""
    yield constant(0, choice.sequences)
    scheduled = choice.scheduled()
    if not scheduled.drafts:
        return
    yield replace(scheduled, hysteresis=hysteresis)
    most = int(scheduled.gammas.max())
    for gamma in choice.gammas[(choice.gammas > 0) & (choice.gammas <= most)].tolist():
        yield constant(gamma, choice.sequences)
    yield replace(choice.admit(), hysteresis=hysteresis)


def score(found: Served) -> Score:
    """What policies are ranked by: good requests per second where there is an SLO; else how soon
    requests end, where the server keeps up, and tokens per second, where it does not."""
    if found.slo.limits:
        return 1, found.goodput
    if found.state != "steady":
        return 0, float(found.summary["output_throughput"])
    return 1, -float(np.nanmean(found.e2el_s)) if found.summary["completed"] else 0.0


def clearly_above(one: Score, other: Score) -> bool:
    """Whether one score is above another by more than a tie."""
    if one[0] != other[0]:
        return one[0] > other[0]
    return one[1] > other[1] + TIED * abs(other[1])


def foremost(runs: Sequence[Served]) -> Served:
    """The run with the highest score; of those that tie with it, the one whose requests end
    soonest; and of those, the first, which is the simplest."""
    top = max(map(score, runs))
    tied = [run for run in runs if not clearly_above(top, score(run))]
    steady = [run for run in tied if run.state == "steady" and run.summary["completed"]]
    if not steady:
        return tied[0]
    soonest_s = min(float(np.nanmean(run.e2el_s)) for run in steady)
    return next(run for run in steady if float(np.nanmean(run.e2el_s)) <= soonest_s * (1.0 + TIED))


def another(load: Traffic, most: int = TRIAL) -> Traffic:
    """Other traffic of the kind: lengths drawn again from the same ones, gaps in another order."""
    count = min(len(load), most)
    random = np.random.default_rng([load.seed, ANOTHER])
    gaps = np.diff(load.arrival_s, prepend=0.0)
    at = random.integers(0, len(load), count)
    return replace(
        load,
        arrival_s=np.cumsum(gaps[random.integers(0, len(load), count)]) if gaps.any()
        else load.arrival_s[:count],
        input_tokens=load.input_tokens[at],
        output_tokens=load.output_tokens[at],
        seed=(load.seed + ANOTHER) % 2**62,
    )  # fmt: skip
