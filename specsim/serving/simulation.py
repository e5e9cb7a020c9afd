"""One simulated run: a server, its traffic, a policy, an acceptance."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from specsim.acceptance import Acceptance, as_acceptance
from specsim.checks import Integers, SpecsimError, require_positive
from specsim.serving.accepting import Accepting
from specsim.serving.arrivals import Traffic
from specsim.serving.loop import BLOCK, Loop, Progress
from specsim.serving.policies import (
    HYSTERESIS,
    Alternatives,
    Policy,
    constant,
    fixed_gamma,
    read_table,
    require_known,
    weigh,
)
from specsim.serving.report import Served, Slo, served
from specsim.serving.server import Server
from specsim.speculation import require_able

MOST_GAMMA = 8  # of a chain that policies choose from, unless they are told others


def simulate(
    server: Server,
    load: Traffic,
    *,
    policy: str | Policy = "best",
    alpha: float | None = None,
    survival: Sequence[float] | None = None,
    acceptance: Acceptance | Accepting | None = None,
    alpha_spread: float = 0.0,
    slo: Slo | None = None,
    price_per_hour: float | None = None,
    gammas: Integers | None = None,
    hysteresis: float = HYSTERESIS,
    block: int = BLOCK,
    detailed: bool = False,
    progress: Progress | None = None,
) -> Served:
    """Serve the traffic under a policy and report what came of it.

    Arguments: `policy`, a name of `policies.NAMES` or a `Policy`; acceptance once, as `alpha`, as a
    `survival` vector or as a model (an `Accepting` says more), with `alpha_spread`, the standard
    deviation of alpha over requests; `slo`, what counts as good; `price_per_hour` of the target's
    devices together; `gammas` to choose from; `block`, steps of pure decoding that are computed
    together (1: one by one; the result is the same); `detailed` keeps every step, for lists per
    request.

    Raises SpecsimError for what does not go together, and where the weights do not fit.
    """
    if price_per_hour is not None:
        require_positive("the price per hour", price_per_hour, or_zero=True)
    accepting = accepting_of(server, alpha, survival, acceptance, alpha_spread)
    if isinstance(policy, str):
        policy = policy_named(
            policy, server, load, accepting, gammas=gammas, slo=slo, hysteresis=hysteresis
        )
    loop = Loop(server, load, policy, accepting, block=block, detailed=detailed, progress=progress)
    loop.run()
    return served(loop, slo or Slo(), price_per_hour)


def accepting_of(
    server: Server,
    alpha: float | None,
    survival: Sequence[float] | None,
    acceptance: Acceptance | Accepting | None,
    spread: float = 0.0,
) -> Accepting | None:
    """How requests accept; None for a server without a drafter."""
    given = [value is not None for value in (alpha, survival, acceptance)]
    if server.drafter is None:
        if any(given):
            raise SpecsimError("an acceptance needs a drafter")
        return None
    if sum(given) != 1:
        raise SpecsimError(
            "give the acceptance once: alpha, survival or an acceptance model; there is no "
            "built-in assumption"
        )
    if isinstance(acceptance, Accepting):
        return acceptance
    if acceptance is None:
        acceptance = as_acceptance(alpha=alpha, survival=survival)
    return Accepting(acceptance, spread)


def gammas_of(server: Server, accepting: Accepting, gammas: Integers | None) -> Integers:
    """The gammas to choose from, 0 first: those given, or those of the drafting method."""
    assert server.drafter is not None
    if gammas is None:
        known = getattr(accepting.acceptance, "vector", None)
        if known is not None:
            gammas = server.drafter.gammas_within(np.shape(known)[-1])
        else:
            gammas = server.drafter.gammas
            gammas = gammas[gammas <= max(MOST_GAMMA, 0 if len(gammas) <= 17 else 63)]
    require_able(server.drafter, server.target, gammas)
    return np.unique(np.concatenate([[0], gammas])).astype(np.int64)


def policy_named(
    name: str,
    server: Server,
    load: Traffic,
    accepting: Accepting | None,
    *,
    gammas: Integers | None = None,
    slo: Slo | None = None,
    hysteresis: float = HYSTERESIS,
) -> Policy:
    """The policy of a name, for a server and its traffic.

    Raises SpecsimError for an unknown name, and for one that drafts where there is no drafter.
    """
    fixed = fixed_gamma(require_known(name))
    if fixed == 0:
        return constant(0, server.max_seqs)
    if server.drafter is None or accepting is None:
        if name == "best":
            return constant(0, server.max_seqs)
        raise SpecsimError(
            f"the policy {name} drafts: give a draft (--draft NAME|config.json or --method NAME)"
        )
    if fixed is not None:
        require_able(server.drafter, server.target, np.array(fixed))
        accepting.survival(server.drafter, fixed)  # refuses more positions than are known
        return constant(fixed, server.max_seqs)
    if name.startswith("table:"):
        table = read_table(name.removeprefix("table:"), server.max_seqs)
        require_able(server.drafter, server.target, table.gammas)
        for gamma in np.unique(table.gammas[table.gammas > 0]).tolist():
            accepting.survival(server.drafter, gamma)
        return replace(table, hysteresis=hysteresis)
    choice = choice_of(server, load, accepting, gammas_of(server, accepting, gammas))
    if name == "best":
        from specsim.serving.trials import best_policy

        return best_policy(server, load, accepting, choice, slo or Slo(), hysteresis)
    makers = {"scheduled": choice.scheduled, "marginal": choice.marginal, "admit": choice.admit}
    return replace(makers[name](), hysteresis=hysteresis)


def choice_of(
    server: Server, load: Traffic, accepting: Accepting, gammas: Integers
) -> Alternatives:
    """What policies weigh: cycles at the mean context of the traffic."""
    assert server.drafter is not None
    return weigh(
        server.target, server.drafter, server.system, accepting, gammas=gammas,
        sequences=server.max_seqs, context=load.mean_context,
        routing_correlation=server.routing_correlation,
    )  # fmt: skip
