"""Measured points beside their predictions, until every factor of the difference has a name.

The ratio measured ÷ predicted speedup is taken apart by replacing predicted parts by measured ones
in a fixed order: tokens per cycle, draft, verification, overhead, baseline. Each replacement gives
a factor and the factors multiply out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from specsim.acceptance import PerPosition
from specsim.catalog import SpecsimError
from specsim.drafting import DraftModel
from specsim.measurement import Measurement, Point
from specsim.speculation import Prediction, predict
from specsim.system import System

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


def predict_point(point: Point, system: System) -> Prediction:
    """The prediction of a point's scenario on `system`, from the survival that was estimated on
    other prompts."""
    scenario, law = point.scenario, None
    if scenario.gamma:
        if point.calibration_survival is None:
            raise SpecsimError(
                f"the point gamma={scenario.gamma} has no calibration_survival: there is nothing "
                "to predict its acceptance from"
            )
        law = PerPosition(point.calibration_survival)
    return predict(
        scenario.target,
        DraftModel(scenario.draft) if scenario.draft else None,
        system.with_precision(scenario.precision),
        gamma=scenario.gamma,
        acceptance=law,
        batch=scenario.batch,
        context=scenario.context,
        tokens_error=point.tokens_error,
    )


def compare(point: Point, system: System) -> Comparison:
    """One point beside its prediction."""
    prediction = predict_point(point, system)
    if (
        point.step_s is None
        or point.verify_step_s is None
        or point.cycle_s is None
        or point.host_s is None
    ):
        raise SpecsimError(f"the point gamma={point.scenario.gamma} was not timed")
    gamma = point.scenario.gamma
    tokens = point.tokens_per_cycle if gamma else 1.0
    assert tokens is not None
    measured: dict[str, float] = {
        "step_s": point.step_s.median,
        "verify_step_s": point.verify_step_s.median,
        "overhead_s": point.host_s.median,
        "cycle_s": point.cycle_s.median,
        "tokens_per_cycle": tokens,
        "speedup": tokens * point.step_s.median / point.cycle_s.median,
    }
    if point.draft_step_s is not None:
        # the first pass of a cycle reads two rows; what is measured is the mean over the cycle's
        # passes
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
    return Comparison(point, parts, factors(parts, gamma))


def factors(parts: dict[str, Part], gamma: int) -> dict[str, float]:
    """Measured ÷ predicted speedup as a product: what each part's error does to it, replaced in
    this order."""
    tokens, step = parts["tokens_per_cycle"], parts["step_s"]
    predicted = {name: part.predicted for name, part in parts.items()}
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
    result["baseline"] = step.measured / step.predicted
    return result


def compare_file(measurement: Measurement, system: System) -> list[Comparison]:
    """Every speculative or plain point of a file beside its prediction."""
    return [compare(point, system) for point in measurement.points]


def median_errors(comparisons: Sequence[Comparison]) -> dict[str, float]:
    """The median absolute relative error of every part over the points that have it."""
    errors: dict[str, list[float]] = {}
    for comparison in comparisons:
        for name, part in comparison.parts.items():
            if comparison.gamma or name in ("step_s", "verify_step_s", "overhead_s"):
                errors.setdefault(name, []).append(abs(part.error))
    return {name: sorted(values)[len(values) // 2] for name, values in errors.items()}


def to_rows(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """Plain data: a row per point and part."""
    return [
        {
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
