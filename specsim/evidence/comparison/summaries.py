"""How wrong a lens is over many points: medians, tails, bands, signs, and the gammas it picks."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from specsim.evidence.comparison.points import Comparison
from specsim.prediction import INDISTINGUISHABLE

SUMMED = ("step_s", "verify_step_s", "draft_step_s", "cycle_s", "tokens_per_cycle", "speedup")
PAYS_BY = 0.03  # a speedup closer to 1 than this neither pays nor costs
TAIL = 0.95


@dataclass(frozen=True, slots=True)
class Errors:
    """Absolute relative errors of one quantity: the median, the 95th percentile, over how many
    points, and the share of them inside their 80 % band (None without bands)."""

    median: float
    tail: float
    count: int
    covered: float | None
    drift_divided: float  # the median once the machine's drift is taken out


@dataclass(frozen=True, slots=True)
class Summary:
    """What one lens gets wrong over a set of points."""

    errors: dict[str, Errors]
    points: int
    right_signs: int  # of `signs`: whether speculation pays, where it clearly does or does not
    signs: int
    right_tokens: int  # of `tokens`: tokens per cycle within 3 % or two standard errors
    tokens: int

    def to_json(self) -> dict[str, Any]:
        return {
            "points": self.points,
            "right_signs": self.right_signs,
            "signs": self.signs,
            "right_tokens": self.right_tokens,
            "tokens": self.tokens,
            "errors": {
                name: {
                    "median": e.median,
                    "p95": e.tail,
                    "count": e.count,
                    "covered": e.covered,
                    "drift_divided_median": e.drift_divided,
                }
                for name, e in self.errors.items()
            },
        }


def summarise(comparisons: Sequence[Comparison]) -> Summary:
    """The errors of every quantity that the points have, each counted once per point."""
    errors = {}
    for name in SUMMED:
        chosen = [c for c in comparisons if counts(c, name)]
        if chosen:
            errors[name] = errors_of(chosen, name)
    drafting = [c for c in comparisons if c.gamma and "speedup" in c.parts]
    clear = [c for c in drafting if abs(c.parts["speedup"].measured - 1) > PAYS_BY]
    right = [
        c for c in clear if (c.parts["speedup"].predicted > 1) == (c.parts["speedup"].measured > 1)
    ]
    close = [c for c in drafting if abs(c.error("tokens_per_cycle")) <= tokens_tolerance(c)]
    return Summary(errors, len(comparisons), len(right), len(clear), len(close), len(drafting))


def tokens_tolerance(comparison: Comparison) -> float:
    """Relative: 3 %, or two standard errors of prediction and measurement together."""
    point, tokens = comparison.point, comparison.parts["tokens_per_cycle"].measured
    predicted = point.tokens_error / 1.28  # the half-width of an 80 % band
    measured = (point.tokens_per_cycle_error or 0.0) / tokens
    return max(0.03, 2 * float(np.hypot(predicted, measured)))


def counts(comparison: Comparison, name: str) -> bool:
    """Whether a quantity is a result of this point: a plain point has a step, others the rest."""
    if name not in comparison.parts:
        return False
    return (name == "step_s") == (comparison.gamma == 0)


def errors_of(comparisons: Sequence[Comparison], name: str) -> Errors:
    found = np.abs([c.error(name) for c in comparisons])
    without = np.abs([c.error(name, drift_divided=True) for c in comparisons])
    parts = [c.parts[name] for c in comparisons]
    inside = [p.low <= p.measured <= p.high for p in parts if p.low is not None and p.high]
    return Errors(
        median=float(np.median(found)),
        tail=float(np.quantile(found, TAIL)),
        count=len(found),
        covered=sum(inside) / len(inside) if inside else None,
        drift_divided=float(np.median(without)),
    )


@dataclass(frozen=True, slots=True)
class Regret:
    """What the gamma that was predicted best loses against the one that was measured best."""

    scenario: str
    predicted_gamma: int
    measured_gamma: int
    lost: float  # 0.02: 2 % slower than the best

    @property
    def is_tie(self) -> bool:
        return self.lost <= INDISTINGUISHABLE


def regrets(comparisons: Iterable[Comparison]) -> list[Regret]:
    """A regret for every scenario of which two gammas or more were measured; plain decoding, gamma
    0 at speedup 1, is one more that may be picked."""
    groups: dict[Any, list[Comparison]] = {}
    for comparison in comparisons:
        if comparison.gamma and "speedup" in comparison.parts:
            groups.setdefault(scenario_key(comparison), []).append(comparison)
    found = []
    for members in groups.values():
        if len(members) < 2:
            continue
        members.sort(key=lambda c: c.gamma)
        chosen, reached = picked(members, lambda c: c.parts["speedup"].predicted)
        best, most = picked(members, lambda c: c.parts["speedup"].measured)
        key = scenario_key(members[0])
        name = key if isinstance(key, str) else members[0].point.scenario.target.name
        found.append(Regret(name, chosen, best, 1 - reached / most))
    return found


def picked(members: Sequence[Comparison], by: Callable[[Comparison], float]) -> tuple[int, float]:
    """The gamma with the largest speedup `by` prediction or measurement, and what it measured;
    gamma 0 where none is above 1."""
    best = max(members, key=by)
    return (best.gamma, best.parts["speedup"].measured) if by(best) > 1 else (0, 1.0)


def scenario_key(comparison: Comparison) -> Any:
    """Everything of a scenario but its gamma: the point's name without it, or the fields that do
    not follow from it."""
    point = comparison.point
    if point.name:
        return re.sub(r"/gamma-\d+", "", point.name)
    return replace(point.scenario, gamma=0, context=0, allocated_context=0)


def misses(comparisons: Sequence[Comparison], count: int = 8) -> list[dict[str, Any]]:
    """The worst points, each with its error and the factor that does most to it."""

    def quantity(comparison: Comparison) -> str:
        if comparison.gamma == 0:
            return "step_s"
        return "speedup" if "speedup" in comparison.parts else "verify_step_s"

    worst = sorted(comparisons, key=lambda c: -abs(c.error(quantity(c))))[:count]
    return [
        {
            "name": c.point.name or f"{c.point.scenario.target.name} gamma {c.gamma}",
            "quantity": quantity(c),
            "error": c.error(quantity(c)),
            "factor": c.culprit,
            "factors": c.factors | {"machine drift": c.drift},
        }
        for c in worst
    ]
