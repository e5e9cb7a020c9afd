"""One measured point beside one prediction.

The ratio measured ÷ predicted speedup is taken apart by replacing predicted parts by measured ones
in a fixed order: tokens per cycle, draft, verification, overhead, baseline. Each replacement gives
a factor and the factors multiply out. A machine that has become slower since it was calibrated
stretches the cycle and the baseline alike: that cancels in a speedup, and its factor on a time is
the point's `drift`, measured beside it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from specsim.acceptance import PerPosition
from specsim.checks import SpecsimError
from specsim.drafting import Drafter, DraftModel, Lookup
from specsim.evidence.measurement import Point
from specsim.hardware import System
from specsim.prediction import Prediction
from specsim.speculation import predict

PARTS = (
    "step_s",
    "draft_step_s",
    "verify_step_s",
    "overhead_s",
    "cycle_s",
    "tokens_per_cycle",
    "speedup",
)


@dataclass(frozen=True, slots=True)
class Part:
    """One quantity, predicted and measured, in the unit of its name."""

    name: str
    predicted: float
    measured: float
    low: float | None = None  # the 80 % band of the prediction
    high: float | None = None

    @property
    def error(self) -> float:
        """Relative: +0.1 is a prediction 10 % above the measurement."""
        return self.predicted / self.measured - 1


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything about one measured point: its parts by name, and the factors of measured ÷
    predicted speedup."""

    point: Point
    parts: dict[str, Part]
    factors: dict[str, float]

    @property
    def gamma(self) -> int:
        return self.point.scenario.gamma

    @property
    def drift(self) -> float:
        """How much slower the machine was than at calibration; 1 where nobody looked."""
        return 1.0 if self.point.drift is None else self.point.drift

    def error(self, name: str, drift_divided: bool = False) -> float:
        """The relative error of a part; of a time, if asked, with the machine's drift taken out of
        the measurement."""
        part = self.parts[name]
        stretch = self.drift if drift_divided and name.endswith("_s") else 1.0
        return part.predicted * stretch / part.measured - 1

    @property
    def culprit(self) -> str:
        """The factor that does most to the time or the speedup of this point."""
        if self.gamma and self.factors:
            found = dict(self.factors)
        else:  # a time, which drift does not leave alone
            part = "verify_step_s" if self.gamma else "step_s"
            named = "verification" if self.gamma else "baseline"
            found = {named: 1 / (1 + self.error(part, True)), "machine drift": self.drift}
        return max(found, key=lambda name: abs(math.log(found[name])))


def is_predicted(point: Point) -> bool:
    """Whether a point is of our own decoder: a peer's has nothing to predict it from."""
    return not point.scenario.method.startswith("transformers-")


def drafter(point: Point) -> Drafter | None:
    """The drafting method of a point, as `reference` runs it."""
    scenario = point.scenario
    if scenario.method == "n-gram":
        return Lookup(hit=1.0, pad=True)  # searched on the device; a miss is padded
    if scenario.method == "given":
        return Lookup(hit=1.0, host_s=0.0, pad=True)
    if scenario.draft is None:
        return None
    # an early exit drafts in the target's own cache, where nothing is to be caught up with
    return DraftModel(scenario.draft, catch_up="none" if scenario.method == "early-exit" else "row")


def predict_point(point: Point, system: System) -> Prediction:
    """The prediction of a point's scenario on `system`, from the survival that was estimated on
    other prompts."""
    scenario, law, tokens = point.scenario, None, None
    if scenario.method == "given":  # a width, not an acceptance
        tokens = 1.0
    elif scenario.gamma:
        if point.calibration_survival is None:
            raise SpecsimError(
                f"the point {label(point)} has no calibration_survival: there is nothing "
                "to predict its acceptance from"
            )
        law = PerPosition(point.calibration_survival)
    return predict(
        scenario.target,
        drafter(point),
        system.with_precision(scenario.precision),
        gamma=scenario.gamma,
        acceptance=law,
        tokens_per_cycle=tokens,
        batch=scenario.batch,
        context=max(scenario.context, scenario.allocated_context),  # the bytes that are moved
        tokens_error=point.tokens_error,
    )


def label(point: Point) -> str:
    return point.name or f"gamma={point.scenario.gamma}"


def compare(point: Point, system: System) -> Comparison:
    """One point beside its prediction."""
    prediction = predict_point(point, system)
    if (
        point.step_s is None
        or point.verify_step_s is None
        or point.cycle_s is None
        or point.host_s is None
    ):
        raise SpecsimError(f"the point {label(point)} was not timed")
    gamma = point.scenario.gamma
    is_width = point.scenario.method == "given"
    measured: dict[str, float] = {
        "step_s": point.step_s.median,
        "verify_step_s": point.verify_step_s.median,
    }
    if not is_width:
        tokens = point.tokens_per_cycle if gamma else 1.0
        if tokens is None:
            raise SpecsimError(f"the point {label(point)} has no tokens_per_cycle")
        measured |= {
            "overhead_s": point.host_s.median,
            "cycle_s": point.cycle_s.median,
            "tokens_per_cycle": tokens,
            "speedup": tokens * point.step_s.median / point.cycle_s.median,
        }
        if point.draft_step_s is not None:
            # the first pass of a cycle reads two rows; what is measured is the mean over the
            # cycle's passes
            measured["draft_step_s"] = point.draft_step_s.median
    band = prediction.band
    parts = {}
    for name in PARTS:
        if name not in measured:
            continue
        predicted = (
            prediction.draft_s / gamma if name == "draft_step_s" else getattr(prediction, name)
        )
        low, high = band.get(name, (None, None))
        parts[name] = Part(
            name,
            float(predicted),
            measured[name],
            None if low is None else float(low),
            None if high is None else float(high),
        )
    drift = 1.0 if point.drift is None else point.drift
    return Comparison(point, parts, {} if is_width else factors(parts, gamma, drift))


def factors(parts: dict[str, Part], gamma: int, drift: float = 1.0) -> dict[str, float]:
    """Measured ÷ predicted speedup as a product: what each part's error does to it, replaced in
    this order.

    Predicted times are first stretched by `drift`, which all of them share and which therefore
    cancels in the product: no part is blamed for it.
    """
    tokens, step = parts["tokens_per_cycle"], parts["step_s"]
    predicted = {
        name: part.predicted * (drift if name.endswith("_s") else 1.0)
        for name, part in parts.items()
    }
    measured = {name: part.measured for name, part in parts.items()}
    # the three laps of a cycle, so that they add up to it
    laps_predicted = {
        "draft": gamma * predicted.get("draft_step_s", 0.0),
        "verification": predicted["verify_step_s"],
    }
    laps_measured = {
        "draft": gamma * measured.get("draft_step_s", 0.0),
        "verification": measured["verify_step_s"],
    }
    for laps, cycle in (
        (laps_predicted, predicted["cycle_s"]),
        (laps_measured, measured["cycle_s"]),
    ):
        laps["overhead"] = cycle - sum(laps.values())
    result = {"tokens per cycle": tokens.measured / tokens.predicted}
    laps = dict(laps_predicted)
    for name in ("draft", "verification", "overhead"):
        before = sum(laps.values())
        laps[name] = laps_measured[name]
        result[name] = before / sum(laps.values())
    result["baseline"] = step.measured / predicted["step_s"]
    return result


def median_errors(
    comparisons: Sequence[Comparison], drift_divided: bool = False
) -> dict[str, float]:
    """The median absolute relative error of every part over the points that have it; of times, if
    asked, with the machine's drift taken out."""
    errors: dict[str, list[float]] = {}
    for comparison in comparisons:
        for name in comparison.parts:
            if comparison.gamma or name in ("step_s", "verify_step_s", "overhead_s"):
                errors.setdefault(name, []).append(abs(comparison.error(name, drift_divided)))
    return {name: sorted(values)[len(values) // 2] for name, values in errors.items()}


def to_rows(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """Plain data: a row per point and part."""
    return [
        {
            "name": comparison.point.name,
            "reserved": comparison.point.reserved,
            "target": comparison.point.scenario.target.name,
            "gamma": comparison.gamma,
            "part": part.name,
            "predicted": part.predicted,
            "measured": part.measured,
            "error": part.error,
        }
        for comparison in comparisons
        for part in comparison.parts.values()
    ]
