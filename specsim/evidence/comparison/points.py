"""One measured point compared with one prediction.

The ratio measured ÷ predicted speedup is split into factors. Predicted parts are replaced by
measured ones in a fixed order: tokens per cycle, draft, verification, overhead, baseline. Each
replacement gives one factor, and the product of the factors is the ratio.

If the machine has become slower since its calibration, the cycle and the baseline both take longer.
That cancels in a speedup. For a time it is a factor of its own, the point's `drift`, which was
measured next to the point.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from specsim.acceptance import PerPosition
from specsim.checks import SpecsimError
from specsim.drafting import Drafter, DraftModel, Lookup
from specsim.evidence.measurement import Point
from specsim.hardware import System
from specsim.prediction import QUANTITIES, Prediction
from specsim.speculation import predict


@dataclass(frozen=True, slots=True)
class Part:
    """One quantity, predicted and measured, in the unit of its name; `low`, `high`: 80 % band."""

    name: str
    predicted: float
    measured: float
    low: float | None = None
    high: float | None = None

    @property
    def error(self) -> float:
        """The relative error: +0.1 is a prediction 10 % above the measurement."""
        return self.predicted / self.measured - 1


@dataclass(frozen=True, slots=True)
class Comparison:
    """One measured point with its parts by name and the factors of measured ÷ predicted speedup.

    `factors` is empty for a point that times a given width, which has no speedup.
    """

    point: Point
    parts: dict[str, Part]
    factors: dict[str, float]

    @property
    def gamma(self) -> int:
        """The tokens drafted per cycle."""
        return self.point.scenario.gamma

    @property
    def drift(self) -> float:
        """How much slower the machine was than at calibration; 1.0 if that was not measured."""
        return 1.0 if self.point.drift is None else self.point.drift

    def error(self, name: str, drift_divided: bool = False) -> float:
        """The relative error of a part; `drift_divided`: of a time, without the drift."""
        part = self.parts[name]
        stretch = self.drift if drift_divided and name.endswith("_s") else 1.0
        return part.predicted * stretch / part.measured - 1

    @property
    def culprit(self) -> str:
        """The factor that changes the time or the speedup of this point most."""
        if self.gamma and self.factors:
            found = dict(self.factors)
        else:  # a time, which drift changes too
            part = "verify_step_s" if self.gamma else "step_s"
            named = "verification" if self.gamma else "baseline"
            found = {named: 1 / (1 + self.error(part, True)), "machine drift": self.drift}
        return max(found, key=lambda name: abs(math.log(found[name])))


def is_predicted(point: Point) -> bool:
    """Whether the point is of our own decoder: the transformers library has no prediction."""
    return not point.scenario.method.startswith("transformers-")


def drafter(point: Point, system: System) -> Drafter | None:
    """The drafting method of a point, as `reference` runs it."""
    scenario = point.scenario
    if scenario.method == "n-gram":  # searched on the device; without a match it pads
        return Lookup(hit=1.0, pad=True)
    if scenario.method == "given":
        return Lookup(hit=1.0, host_s=0.0, pad=True)
    if scenario.draft is None:
        return None
    # an early exit drafts with the target's own cache, which lacks no token
    return DraftModel(
        scenario.draft,
        catch_up="none" if scenario.method == "early-exit" else "row",
        tensor_parallel=scenario.draft_tensor_parallel if scenario.tensor_parallel > 1 else None,
    )


def system_of(point: Point, system: System) -> System:
    """`system` with the point's precision and temperature, over the point's devices, each of which
    has the whole LM head, as `reference` runs it."""
    scenario = point.scenario
    system = system.with_precision(scenario.precision)
    if scenario.temperature == 0:
        system = replace(system, greedy=True)
    if scenario.tensor_parallel == 1:
        return system
    engine = replace(system.engine, head_sharded=False)
    return replace(system, engine=engine, tensor_parallel=scenario.tensor_parallel)


def predict_point(point: Point, system: System) -> Prediction:
    """The prediction of a point's scenario on `system`, from its `calibration_survival`."""
    scenario, acceptance, tokens = point.scenario, None, None
    if scenario.method == "given":  # it times a width; acceptance has no meaning
        tokens = 1.0
    elif scenario.gamma:
        if point.calibration_survival is None:
            raise SpecsimError(
                f"the point {label(point)} has no calibration_survival, from which its "
                "acceptance is predicted"
            )
        acceptance = PerPosition(point.calibration_survival)
    return predict(
        scenario.target,
        drafter(point, system),
        system_of(point, system),
        gamma=scenario.gamma,
        acceptance=acceptance,
        tokens_per_cycle=tokens,
        batch=scenario.batch,
        context=max(scenario.context, scenario.allocated_context),  # all bytes that are read
        tokens_error=point.tokens_error,
    )


def label(point: Point) -> str:
    """The name of a point in messages."""
    return point.name or f"gamma={point.scenario.gamma}"


def compare(point: Point, system: System) -> Comparison:
    """One point compared with its prediction on `system`.

    Raises SpecsimError for a point that lacks a time, its tokens per cycle, or the survival to
    predict from.
    """
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
        tokens, speedup = point.tokens_per_cycle if gamma else 1.0, point.speedup
        if tokens is None or speedup is None:
            raise SpecsimError(f"the point {label(point)} has no tokens_per_cycle")
        measured |= {
            "overhead_s": point.host_s.median,
            "cycle_s": point.cycle_s.median,
            "tokens_per_cycle": tokens,
            "speedup": speedup.median,
        }
        if point.draft_step_s is not None:
            # the mean over the passes of a cycle; the first of them reads two rows
            measured["draft_step_s"] = point.draft_step_s.median
    band = prediction.band
    parts = {}
    for name in QUANTITIES:
        if name not in measured:
            continue
        predicted = getattr(prediction, name)
        low, high = band.get(name, (None, None))
        if name == "draft_step_s":  # as measured: the mean over all drafting of a cycle
            predicted, wide = prediction.draft_s / gamma, 1 + prediction.errors[name]
            low, high = predicted / wide, predicted * wide
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
    """The factors of measured ÷ predicted speedup, in the order of replacement.

    All predicted times are first multiplied by `drift`. That cancels in the product, so the drift
    does not appear in the factor of any part.
    """
    tokens, step = parts["tokens_per_cycle"], parts["step_s"]
    predicted = {
        name: part.predicted * (drift if name.endswith("_s") else 1.0)
        for name, part in parts.items()
    }
    measured = {name: part.measured for name, part in parts.items()}
    stages, measured_stages = stages_of(predicted, gamma), stages_of(measured, gamma)
    result = {"tokens per cycle": tokens.measured / tokens.predicted}
    for name, seconds in measured_stages.items():
        before = sum(stages.values())
        stages[name] = seconds
        result[name] = before / sum(stages.values())
    result["baseline"] = step.measured / predicted["step_s"]
    return result


def stages_of(seconds: Mapping[str, float], gamma: int) -> dict[str, float]:
    """The stages of a cycle, seconds, which add up to it: the remaining time is overhead."""
    stages = {
        "draft": gamma * seconds.get("draft_step_s", 0.0),
        "verification": seconds["verify_step_s"],
    }
    return stages | {"overhead": seconds["cycle_s"] - sum(stages.values())}


def median_errors(
    comparisons: Sequence[Comparison], drift_divided: bool = False
) -> dict[str, float]:
    """The median absolute relative error of every part, over the points that have it.

    `drift_divided`: the errors of times without the machine's drift.
    """
    errors: dict[str, list[float]] = {}
    for comparison in comparisons:
        for name in comparison.parts:
            if comparison.gamma or name in ("step_s", "verify_step_s", "overhead_s"):
                errors.setdefault(name, []).append(abs(comparison.error(name, drift_divided)))
    return {name: sorted(values)[len(values) // 2] for name, values in errors.items()}


def to_rows(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """Plain data: one row for each part of each point."""
    return [
        {
            "name": comparison.point.name,
            "reserved": comparison.point.reserved,
            "target": comparison.point.scenario.target.name,
            "gamma": comparison.gamma,
            "tensor_parallel": comparison.point.scenario.tensor_parallel,
            "part": part.name,
            "predicted": part.predicted,
            "measured": part.measured,
            "error": part.error,
        }
        for comparison in comparisons
        for part in comparison.parts.values()
    ]
