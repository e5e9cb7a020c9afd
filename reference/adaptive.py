"""How many tokens to draft next, from what the last cycles did: plain functions that a run is
handed as `choose_gamma`.

A choice looks back only, at cycles whose tokens are emitted, so the law of what follows is exact.
On a GPU the last cycle it can look at is the one before last, as the host reads one cycle behind:
nothing waits, and every gamma that is chosen has its graphs already after its first time.
"""

from collections.abc import Callable, Sequence

from reference.statistics import Statistics
from specsim.checks import SpecsimError

Chooser = Callable[[Statistics], int]


def by_marginal_cost(cycle_s: Sequence[float], recent: int = 64, first: int = 1) -> Chooser:
    """The gamma that emits the most tokens per second: a further draft as long as its survival is
    worth its marginal cost.

    `cycle_s[g]` is what a cycle with g drafts takes, measured or predicted, in any unit. Survival
    is alpha^k, with alpha pooled over the `recent` last counts; `first` is drafted while nothing is
    known. Only acceptance that is tried is known: gamma 0 is never chosen, as it would be for ever.
    Raises SpecsimError for fewer than two costs, or one that is not above 0.
    """
    if len(cycle_s) < 2 or min(cycle_s) <= 0:
        raise SpecsimError(f"cycle_s must be times above 0 for gamma 0, 1, …, not {[*cycle_s]}")

    def choose(statistics: Statistics) -> int:
        alpha = recent_alpha(statistics, recent)
        if alpha is None:
            return first
        return best_gamma([alpha**k for k in range(1, len(cycle_s))], cycle_s, least=1)

    return choose


def best_gamma(survival: Sequence[float], cycle_s: Sequence[float], least: int = 0) -> int:
    """The gamma from `least` on that maximises (1 + s_1 + … + s_gamma) / cycle_s[gamma]."""
    speeds = [(1 + sum(survival[:gamma])) / seconds for gamma, seconds in enumerate(cycle_s)]
    return max(range(least, len(speeds)), key=speeds.__getitem__)


def recent_alpha(statistics: Statistics, recent: int) -> float | None:
    """Accepted ÷ tests over the last `recent` counts; None before the first test."""
    accepted = statistics.accepted_counts[-recent:]
    drafted = statistics.drafted_counts[-recent:]
    tests = sum(accepted) + sum(n < g for n, g in zip(accepted, drafted, strict=True))
    return sum(accepted) / tests if tests else None


def by_confidence(batch: int = 1) -> Chooser:
    """One more than a drafter with `stop_below` meant to draft in the last cycle of its surest
    sequence, of `batch`: what stands behind a stop is then seldom drafted at all."""

    def choose(statistics: Statistics) -> int:
        last = statistics.drafted_counts[-batch:]
        return max(last) + 1 if last else statistics.gamma

    return choose


def among(gammas: Sequence[int], choose: Chooser) -> Chooser:
    """Only these gammas, the next larger one where there is one: each has graphs to record."""
    gammas = sorted(gammas)
    if not gammas or gammas[0] < 0:
        raise SpecsimError(f"gammas must be at least 0 and at least one, not {gammas}")

    def choose_among(statistics: Statistics) -> int:
        wanted = choose(statistics)
        return next((gamma for gamma in gammas if gamma >= wanted), gammas[-1])

    return choose_among
