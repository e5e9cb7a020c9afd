"""How many tokens to draft next, from what the last cycles did: plain functions, given to a run as
`choose_gamma`.

A choice sees only cycles whose tokens are emitted already, so the distribution of what follows is
exact. On a GPU the host reads results one cycle late, so the last cycle that a choice can see is
the one before last; nothing waits. Each gamma has its graphs after it was chosen once.
"""

from collections.abc import Callable, Sequence

from reference.statistics import Statistics
from specsim.checks import SpecsimError

Chooser = Callable[[Statistics], int]


def by_marginal_cost(cycle_s: Sequence[float], recent: int = 64, first: int = 1) -> Chooser:
    """Choose the gamma that emits the most tokens per second: one draft more as long as its
    survival is worth its marginal cost.

    Arguments: `cycle_s[g]` is the time of a cycle with g drafts, measured or predicted, in any
    unit. Survival is alpha^k, with alpha pooled over the `recent` last counts; `first` is drafted
    while nothing is known. Gamma 0 is never chosen: without drafts nothing more would be learned.

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
