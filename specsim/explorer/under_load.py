"""A scenario under load: some users, or a rate of requests, and what each of them is promised.

The batch and the context follow from the traffic, so those two controls have no effect here. A run
has some hundred requests at most (`requests_of`), so that it is done in a moment; its shares are
good to a few per cent. The command to copy simulates the same requests, and more on demand.

    found = serve(shown)            no draft, and the best single gamma
    found = compare(shown, found)   a schedule by batch too, and the gamma that is set
"""

from dataclasses import dataclass, replace

import numpy as np

from specsim import serving
from specsim.acceptance import as_acceptance
from specsim.explorer.scenarios import SPREAD, ExplorerScenario, PredictedScenario
from specsim.serving.report import good_requests
from specsim.serving.simulation import MOST_GAMMA
from specsim.serving.trials import foremost

KEPT = 0.9  # share of the requests that keep to the limits where the promise holds
ROUNDS = 6  # requests of each user
HORIZON_S = 20.0  # of arrivals at a rate
FEWEST = 40  # requests of a run
MOST_USERS, MOST_RATE = 600, 300  # the same; a step of many users is no slower to simulate


@dataclass(frozen=True, slots=True, eq=False)
class UnderLoad:
    """Runs of one traffic under different policies, `off` first."""

    load: serving.Traffic
    runs: tuple[serving.Served, ...]

    @property
    def off(self) -> serving.Served:
        return self.runs[0]

    @property
    def best(self) -> serving.Served:
        """The run with the most good requests per second; of those that tie, the one whose requests
        end soonest."""
        return foremost(self.runs)

    @property
    def fixed(self) -> serving.Served | None:
        """The best run with one gamma above 0, if there is one."""
        found = [run for run in self.runs[1:] if run.policy.startswith("fixed:")]
        return UnderLoad(self.load, tuple(found)).best if found else None

    @property
    def holds(self) -> bool:
        """Whether enough requests keep to the limits under the best policy."""
        return kept(self.best) >= KEPT


def counted(run: serving.Served) -> slice:
    """The requests that count: not the first of each user, who all ask at the same moment, if there
    are as many others."""
    users = run.loop.traffic.concurrency or 0
    return slice(users if len(run.loop.traffic) >= 2 * users else 0, None)


def kept(run: serving.Served) -> float:
    """The share of the requests that keep to the limits."""
    return float(good_requests(run.loop, run.slo)[counted(run)].mean())


def first_token_s(run: serving.Served) -> float | None:
    """The TTFT that nine of ten requests keep to; None where the queue grows."""
    seconds = run.ttft_s[counted(run)]
    if run.state == "overloaded" or np.isnan(seconds).all():
        return None
    return float(np.nanpercentile(seconds, 90))


def requests_of(scenario: ExplorerScenario) -> int:
    """How many requests show what a traffic does, and are simulated in a moment."""
    wanted = HORIZON_S * scenario.rate if scenario.rate else ROUNDS * scenario.users
    base = MOST_RATE if scenario.rate else MOST_USERS
    # prompts of 1024 tokens, or answers of 2000, take as long to simulate as everything else
    most = min(base, 1.5 * base / (1.0 + scenario.prompt / 1024 + scenario.answer / 2000))
    least = FEWEST if scenario.rate else max(FEWEST, scenario.users)
    return max(1, round(min(max(wanted, FEWEST), max(most, least))))


def traffic_of(scenario: ExplorerScenario) -> serving.Traffic:
    """The traffic of a scenario. Raises SpecsimError for numbers that make none."""
    arrivals = {"rate": scenario.rate} if scenario.rate else {"concurrency": scenario.users}
    return serving.traffic(
        requests=requests_of(scenario),
        prompt=serving.Lengths(scenario.prompt, SPREAD["prompt"]),
        output=serving.Lengths(scenario.answer, SPREAD["answer"]),
        **arrivals,
    )


def serve(shown: PredictedScenario) -> UnderLoad:
    """Simulate the traffic without drafts, and with the gamma that is best at its mean batch.

    Raises SpecsimError where a request or the weights do not fit, or a number makes no traffic.
    """
    load = traffic_of(shown.scenario)
    off = _run(shown, load, "off")
    gamma = _best_gamma(shown, off)
    return UnderLoad(load, (off,) if gamma is None else (off, _run(shown, load, f"fixed:{gamma}")))


def compare(shown: PredictedScenario, found: UnderLoad) -> UnderLoad:
    """The same with the gamma that is set, and with a schedule by batch, where they differ."""
    fixed, policies = found.fixed, []
    if fixed is None:
        return found
    if shown.scenario.gamma and f"fixed:{shown.scenario.gamma}" != fixed.policy:
        policies.append(f"fixed:{shown.scenario.gamma}")
    asked = serving.Accepting(as_acceptance(**shown.scenario.acceptance))
    schedule = serving.policy_named("scheduled", fixed.loop.server, found.load, asked)
    seen = int(np.flatnonzero(fixed.loop.tallies.batch_s).max(initial=1))
    if len(np.unique(schedule.gammas[1 : seen + 1])) > 1:
        policies.append("scheduled")
    more = tuple(_run(shown, found.load, policy) for policy in policies)
    return replace(found, runs=(*found.runs, *more))


def _run(shown: PredictedScenario, load: serving.Traffic, policy: str) -> serving.Served:
    server = serving.Server(
        target=shown.target, system=shown.system, drafter=shown.drafter,
        routing_correlation=shown.scenario.routing_correlation,
    )  # fmt: skip
    slo = serving.Slo(ttft=shown.scenario.ttft_ms, tpot=shown.scenario.tpot_ms)
    return serving.simulate(server, load, policy=policy, slo=slo, **shown.scenario.acceptance)


def _best_gamma(shown: PredictedScenario, off: serving.Served) -> int | None:
    """The gamma above 0 with the most tokens per second at the mean batch and context."""
    gammas = shown.few_gammas
    if len(gammas) <= 2 * MOST_GAMMA + 1:  # a chain, not a tree
        gammas = gammas[gammas <= MOST_GAMMA]
    gammas = gammas[gammas > 0]
    if not len(gammas):
        return None
    batch = max(1, round(off.summary["batch_mean"]))
    found = shown.predict(gamma=gammas, batch=batch, context=off.loop.traffic.mean_context)
    return int(gammas[int(np.argmax(found.speedup))])
