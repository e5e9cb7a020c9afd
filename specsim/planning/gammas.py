"""The best gamma, found by pricing all of them: the time of a real pass has steps (tiles, captured
graph sizes, expert loads) that mislead a rule. The marginal rule and the closed form are checks:
where they differ from the scan by more than a tie, look at the curve.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from specsim.acceptance import IID
from specsim.acceptance.leviathan import best_gamma_closed_form
from specsim.architecture import Architecture
from specsim.checks import ArrayLike, Floats, Integers, SpecsimError, one_count, quoted, whole
from specsim.checks.limits import require_limit
from specsim.checks.shown import Shown, short
from specsim.drafting import Drafter, candidates
from specsim.hardware import System
from specsim.prediction import INDISTINGUISHABLE, Prediction
from specsim.speculation import predict

CHUNK = 2**17  # scenarios that are looked at together
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True, slots=True)
class BestGamma:
    """One scenario's best gamma three ways. `ties` are those within 2 % of the best speedup."""

    scan: int
    marginal_rule: int
    closed_form: float | None  # real-valued; None unless acceptance is a bare alpha
    ties: tuple[int, ...]
    speedup: float


def best_gamma(
    target: Architecture,
    drafter: Drafter,
    system: System,
    *,
    gammas: ArrayLike | None = None,
    **scenario: Any,
) -> BestGamma:
    """The best gamma of one scenario; `scenario` is what `predict` takes, single numbers."""
    gammas = candidates(drafter, gammas)
    over = predict(target, drafter, system, gamma=gammas, **scenario)
    if over.speedup.ndim != 1:
        raise SpecsimError("best_gamma answers for one scenario: give single numbers, or use plan")
    best = int(over.best())
    return BestGamma(
        scan=int(gammas[best]),
        marginal_rule=marginal_rule(over),
        closed_form=closed_form(over, scenario.get("alpha")),
        ties=tuple(int(gamma) for gamma in over.ties()),
        speedup=float(over.speedup[best]),
    )


def marginal_rule(over: Prediction) -> int:
    """Add a draft while its survival exceeds speedup x its marginal cost in plain steps.

    `over` is a prediction over gamma = 0, 1, 2, …. The fixed costs of speculating at all fall on
    the first draft, so the rule begins at gamma = 1 and is void if nothing is gained where it ends.
    """
    if not np.array_equal(over.gamma, np.arange(len(over.gamma))):
        raise SpecsimError("the marginal rule needs a prediction over gamma = 0, 1, 2, …")
    return marginal_gamma(over.tokens_per_cycle, over.cycle_s, float(over.step_s))


def marginal_gamma(tokens_per_cycle: Floats, cycle_s: Floats, step_s: float) -> int:
    """The marginal rule from tokens and seconds of a cycle at gamma = 0, 1, 2, …, and the seconds
    of a plain step."""
    survival, cost = np.diff(tokens_per_cycle), np.diff(cycle_s) / step_s
    speedup = tokens_per_cycle * step_s / cycle_s
    gamma = min(1, len(survival))
    while gamma < len(survival) and survival[gamma] > speedup[gamma] * cost[gamma]:
        gamma += 1
    return gamma if speedup[gamma] > 1.0 else 0


def closed_form(over: Prediction, alpha: float | None) -> float | None:
    """The Lambert-W optimum with the scenario's own costs: c of a draft, and m, what a further row
    of verification costs, in plain steps. It leaves out fixed costs
    (optimistic for short drafts). None for methods whose acceptance is not that of a chain."""
    if alpha is None or len(over.gamma) < 3 or np.ndim(alpha):
        return None
    if not np.allclose(over.tokens_per_cycle, IID(alpha).tokens_per_cycle(over.gamma)):
        return None
    rise = float(over.verify_step_s[2] - over.verify_step_s[1]) / float(over.step_s)
    draft = float(over.draft_s[2] - over.draft_s[1]) / float(over.step_s)
    return float(best_gamma_closed_form(IID(alpha).alpha, max(draft, 0.0), max(rise, 0.0)))


@dataclass(frozen=True, slots=True, repr=False)
class Plan(Shown):
    """The best gamma for each batch size; arrays of (batches,)."""

    batch: Integers
    gamma: Integers
    speedup: Floats
    least_tied: Integers  # the smallest and the largest gamma within 2 % of the best
    most_tied: Integers
    tokens_per_s: Floats  # all sequences together, at the best gamma
    plain_tokens_per_s: Floats
    token_s: Floats  # seconds per emitted token of one sequence (TPOT)

    def rows(self) -> list[dict[str, float | int]]:
        """Plain data, a row per batch."""
        names = [field.name for field in fields(self)]
        columns = [getattr(self, name).tolist() for name in names]
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]

    def _facts(self) -> dict[str, Any]:
        return {
            "batch": short(self.batch),
            "gamma": short(self.gamma),
            "speedup": short(self.speedup),
        }

    def _columns(self) -> dict[str, Any]:
        return {
            "batch": self.batch.tolist(),
            "gamma": self.gamma.tolist(),
            "speedup": self.speedup.tolist(),
            "tokens/s, all sequences": self.tokens_per_s.tolist(),
            "plain tokens/s, all": self.plain_tokens_per_s.tolist(),
            "ms per token, each": (self.token_s * 1e3).tolist(),
        }


def fixed_plan(gamma: int, batch: int) -> Plan:
    """The plan of one gamma that is given, not chosen, for every batch up to one. What it gains is
    not known (NaN)."""
    unknown, gammas = np.full(1, np.nan), np.array([gamma])
    return Plan(np.array([batch]), gammas, unknown, gammas, gammas, unknown, unknown, unknown)


def plan(
    target: Architecture,
    drafter: Drafter,
    system: System,
    *,
    batches: Sequence[int] = BATCHES,
    gammas: ArrayLike | None = None,
    **scenario: Any,
) -> Plan:
    """The best gamma for each of `batches` (rising); `scenario` is what `predict` takes besides."""
    require_limit("values", len(batches), "the number of batches")
    batch = whole("batches", batches, low=1)
    if batch.ndim != 1 or not len(batch) or np.any(np.diff(batch) <= 0):
        raise SpecsimError(f"batches must rise, got {quoted(batch.tolist())}")
    gammas = candidates(drafter, gammas)
    over = predict(target, drafter, system, gamma=gammas, batch=batch[:, None], **scenario)
    speedup = np.broadcast_to(over.speedup, (len(batch), len(gammas)))
    at = speedup.argmax(axis=1)
    each = np.arange(len(batch))
    tied = speedup >= (1 - INDISTINGUISHABLE) * speedup.max(axis=1, keepdims=True)
    cycle_s, tokens = (
        np.broadcast_to(a, speedup.shape) for a in (over.cycle_s, over.tokens_per_cycle)
    )
    return Plan(
        batch=batch,
        gamma=gammas[at],
        speedup=speedup[each, at],
        least_tied=gammas[tied.argmax(axis=1)],
        most_tied=gammas[len(gammas) - 1 - tied[:, ::-1].argmax(axis=1)],
        tokens_per_s=batch * tokens[each, at] / cycle_s[each, at],
        plain_tokens_per_s=over.tokens_per_s[:, 0],
        token_s=cycle_s[each, at] / tokens[each, at],
    )


@dataclass(frozen=True, slots=True)
class Crossover:
    """`batch`: the largest that still gains more than `margin`, 0 if none does; `beyond`: whether
    it is the largest that was looked at, so that the truth may lie further out."""

    batch: int
    beyond: bool


def crossover(
    target: Architecture,
    drafter: Drafter,
    system: System,
    *,
    gammas: ArrayLike | None = None,
    most: int = 4096,
    margin: float = 0.0,
    **scenario: Any,
) -> Crossover:
    """The largest batch up to `most` whose speedup exceeds 1 + margin, each at its best gamma.

    `gammas` are those to choose from: one number fixes gamma, None is all of the method's.

    Every batch is looked at: mixtures of experts are not monotone."""
    require_limit("batch", most, "most")
    most = one_count("most", most, low=1)
    gammas = candidates(drafter, gammas)
    several = max(1, CHUNK // len(gammas))
    for above in range(most, 0, -several):  # from the largest down, a part at a time
        batch = np.arange(max(1, above - several + 1), above + 1)
        best = predict(target, drafter, system, gamma=gammas, batch=batch[:, None], **scenario)
        pays = best.speedup.max(axis=-1) > 1.0 + margin
        if np.any(pays):
            last = int(batch[pays][-1])
            return Crossover(last, last == most)
    return Crossover(0, False)
