"""A predictor's errors over many points: medians, tails, bands, signs, and the gammas it picks."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from specsim.acceptance import Z80_SHORT
from specsim.evidence.comparison.points import Comparison
from specsim.prediction import INDISTINGUISHABLE

SUMMED = ("step_s", "verify_step_s", "draft_step_s", "cycle_s", "tokens_per_cycle", "speedup")
PAYS_BY = 0.03  # a speedup closer to 1 than this counts as neither a gain nor a loss
TAIL = 0.95  # the quantile that is called the tail


@dataclass(frozen=True, slots=True)
class Errors:
    """Absolute relative errors of one quantity over `count` points.

    `tail` is the 95th percentile; `covered` the share of measured values inside their 80 % band,
    None if there is no band; `drift_divided` the median after the machine's drift is divided out.
    """

    median: float
    tail: float
    count: int
    covered: float | None
    drift_divided: float


@dataclass(frozen=True, slots=True)
class Summary:
    """The errors of one predictor over a set of points.

    `right_signs` of `signs` points are predicted correctly as a gain or as a loss; points whose
    speedup is close to 1 are not counted. `right_tokens` of `tokens` points have their tokens per
    cycle within 3 %, or within two standard errors.
    """

    errors: dict[str, Errors]
    points: int
    right_signs: int
    signs: int
    right_tokens: int
    tokens: int

    def to_json(self) -> dict[str, Any]:
        """The summary as plain data."""
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
    """The errors of every quantity that the points have; a point counts once for each."""
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
    """The largest relative error of tokens per cycle that counts as right.

    3 %, or two standard errors of prediction and measurement together.
    """
    point, tokens = comparison.point, comparison.parts["tokens_per_cycle"].measured
    predicted = point.tokens_error / Z80_SHORT
    measured = (point.tokens_per_cycle_error or 0.0) / tokens
    return max(0.03, 2 * float(np.hypot(predicted, measured)))


@dataclass(frozen=True, slots=True)
class BestMeasured:
    """The point with the highest measured speedup of one scenario over gamma.

    `error` is the standard error of that speedup from its tokens per cycle, None if it is unknown
    (errors of the times are not in it: optimistic). `tied_gammas` are the other gammas whose
    speedups differ from it by at most two joint standard errors.
    """

    point: Comparison
    error: float | None
    tied_gammas: tuple[int, ...]


def best_measured(comparisons: Sequence[Comparison]) -> BestMeasured:
    """The best measured gamma > 0, and the gammas that noise alone may separate from it."""

    def error(c: Comparison) -> float:
        noise, tokens = c.point.tokens_per_cycle_error, c.parts["tokens_per_cycle"].measured
        return (noise or 0.0) / tokens * c.parts["speedup"].measured

    drafting = [c for c in comparisons if c.gamma]
    best = max(drafting, key=lambda c: c.parts["speedup"].measured)
    if best.point.tokens_per_cycle_error is None:
        return BestMeasured(best, None, ())
    top = best.parts["speedup"].measured
    tied = tuple(
        c.gamma
        for c in drafting
        if c is not best
        and top - c.parts["speedup"].measured <= 2 * float(np.hypot(error(c), error(best)))
    )
    return BestMeasured(best, error(best), tied)


def counts(comparison: Comparison, name: str) -> bool:
    """Whether a quantity is a result of this point: `step_s` of plain ones, the rest of others."""
    if name not in comparison.parts:
        return False
    return (name == "step_s") == (comparison.gamma == 0)


def errors_of(comparisons: Sequence[Comparison], name: str) -> Errors:
    """The errors of one quantity over points that have it."""
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
    """The loss from choosing gamma by prediction: the best predicted against the best measured."""

    scenario: str
    predicted_gamma: int
    measured_gamma: int
    lost: float  # 0.02: the chosen gamma is 2 % slower than the best one

    @property
    def is_tie(self) -> bool:
        """Whether the chosen gamma is within 2 % of the best one."""
        return self.lost <= INDISTINGUISHABLE


def regrets(comparisons: Iterable[Comparison]) -> list[Regret]:
    """The regret of every scenario that was measured at two or more gammas.

    Plain decoding (gamma 0, speedup 1) is one more choice.
    """
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
    """The gamma with the largest speedup `by` prediction or measurement, and its measured speedup.

    Gamma 0 and 1.0 if no speedup is above 1.
    """
    best = max(members, key=by)
    return (best.gamma, best.parts["speedup"].measured) if by(best) > 1 else (0, 1.0)


def scenario_key(comparison: Comparison) -> Any:
    """What identifies a point's scenario without gamma: its name, or its other fields."""
    point = comparison.point
    if point.name:
        return re.sub(r"/gamma-\d+", "", point.name)
    return replace(point.scenario, gamma=0, context=0, allocated_context=0)


def misses(comparisons: Sequence[Comparison], count: int = 8) -> list[dict[str, Any]]:
    """The `count` points with the largest errors, each with the factor that contributes most."""

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
