"""The best policy for a workload and an SLO, and what each alternative loses.

All candidates serve the same traffic with the same luck. A schedule is tried with and without
hysteresis, and the best single gamma stands beside it: engines that switch at one batch, without
hysteresis, oscillate there.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from specsim.checks import Integers, SpecsimError
from specsim.planning.gammas import Plan
from specsim.serving.accepting import Accepting
from specsim.serving.arrivals import Traffic
from specsim.serving.loop import Loop
from specsim.serving.policies import HYSTERESIS, Alternatives, Policy, constant
from specsim.serving.report import Served, Slo, served
from specsim.serving.server import Server
from specsim.serving.simulation import choice_of, gammas_of
from specsim.serving.trials import foremost, score

Progress = Callable[[str, int, float], None]  # the policy, requests that are done, simulated s


@dataclass(frozen=True, slots=True, eq=False)
class Tuned:
    """Runs of all candidates on one traffic, the best first."""

    runs: tuple[Served, ...]

    @property
    def best(self) -> Served:
        return self.runs[0]

    @property
    def best_static(self) -> Served:
        """The best policy with one gamma, which may be 0."""
        return next(run for run in self.runs if len(run.loop.policy.ranges()) == 1)

    def named(self, name: str) -> Served:
        """The run of a policy."""
        for run in self.runs:
            if run.policy == name:
                return run
        raise SpecsimError(f"no policy {name} was tried: {', '.join(r.policy for r in self.runs)}")

    def loss(self, run: Served) -> float:
        """The share of what the best one reaches that a run loses: good requests where there is an
        SLO; how much longer requests take where both servers keep up; else tokens per second, and
        all of it where the best one keeps up and this one does not. Nearly 0 within a tie."""
        (keeps_up, best), (also, own) = score(self.best), score(run)
        if keeps_up != also:
            return 1.0
        if best < 0:  # seconds until a request ends
            return max(own / best - 1.0, 0.0)
        return max(1.0 - own / best, 0.0) if best else 0.0


def tune(
    server: Server,
    load: Traffic,
    accepting: Accepting,
    *,
    slo: Slo | None = None,
    gammas: Integers | None = None,
    hysteresis: float = HYSTERESIS,
    price_per_hour: float | None = None,
    progress: Progress | None = None,
) -> Tuned:
    """Simulate every policy on the traffic and rank them.

    Arguments: as `simulate`. Raises SpecsimError for a server without a drafter.
    """
    if server.drafter is None:
        raise SpecsimError("there is nothing to tune without a draft")
    choice = choice_of(server, load, accepting, gammas_of(server, accepting, gammas))
    runs = []
    for policy in policies_of(choice, hysteresis):

        def report(done: int, simulated_s: float, name: str = policy.name) -> None:
            if progress is not None:
                progress(name, done, simulated_s)

        loop = Loop(server, load, policy, accepting, progress=report)
        loop.run()
        runs.append(served(loop, slo or Slo(), price_per_hour))
    return Tuned(tuple(_ranked(runs)))


def policies_of(choice: Alternatives, hysteresis: float) -> list[Policy]:
    """Everything that is tried, the simplest first."""
    found = [constant(int(gamma), choice.sequences) for gamma in choice.gammas]
    for made in (choice.scheduled(), choice.marginal(), choice.admit()):
        if len(made.ranges()) == 1:
            continue  # one of the fixed ones
        found.append(made)
        if hysteresis:
            found.append(
                replace(made, name=f"{made.name}, hysteresis {hysteresis:g}", hysteresis=hysteresis)
            )
    return found


def _ranked(runs: list[Served]) -> list[Served]:
    """The best first, the others by their scores."""
    first = foremost(runs)
    ordered = sorted(runs, key=score, reverse=True)
    return [first, *(run for run in ordered if run is not first)]


def plan_of(policy: Policy) -> Plan:
    """A policy as a plan, for the settings of engines; what it gains is not in it (NaN)."""
    ranges = policy.ranges()
    batch, gammas = (np.array([row[i] for row in ranges]) for i in (1, 2))
    unknown = np.full(len(ranges), np.nan)
    return Plan(batch, gammas, unknown, gammas, gammas, unknown, unknown, unknown)
