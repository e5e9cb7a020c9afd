"""Every factor of measured ÷ predicted has a name, and they multiply out."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specsim.catalog import SpecsimError
from specsim.comparison import compare, factors, median_errors, predict_point, to_rows
from specsim.measurement import Timing
from specsim.system import Accelerator, Engine, System
from specsim.work import precision

SYSTEM = System(
    Accelerator("a machine", 20e9, {"bf16": 400e9}),
    Engine(
        "calibrated", layer_overhead_s=300e-6, pass_overhead_s=90e-6, cycle_overhead_s=1e-4,
        drafting_overhead_s=5e-5, error=0.1, confidence="measured",
    ),
    precision("bf16"),
)  # fmt: skip


def exact(point):
    """The point, had it measured exactly what is predicted."""
    gamma = point.scenario.gamma
    p = predict_point(point, SYSTEM)

    def timing(seconds) -> Timing:
        return Timing(float(seconds), float(seconds), float(seconds), 1)

    return replace(
        point,
        step_s=timing(p.step_s),
        draft_step_s=timing(p.draft_s / gamma) if gamma else None,
        verify_step_s=timing(p.verify_step_s),
        host_s=timing(p.overhead_s),
        cycle_s=timing(p.cycle_s),
        tokens_per_cycle=float(p.tokens_per_cycle),
    )


@pytest.mark.parametrize("gamma", [0, 2])
def test_a_prediction_that_came_true_has_no_error(gamma, point):
    comparison = compare(exact(point(gamma)), SYSTEM)
    assert all(abs(part.error) < 1e-12 for part in comparison.parts.values())
    assert all(factor == pytest.approx(1.0, abs=1e-12) for factor in comparison.factors.values())


@given(
    draft=st.floats(1e-4, 1e-2),
    verify=st.floats(1e-4, 1e-2),
    host=st.floats(1e-5, 1e-2),
    step=st.floats(1e-4, 1e-2),
    tokens=st.floats(1.0, 3.0),
)
def test_the_factors_multiply_out(point, draft, verify, host, step, tokens):
    def timing(seconds: float) -> Timing:
        return Timing(seconds, seconds, seconds, 1)

    measured = replace(
        point(2),
        step_s=timing(step),
        draft_step_s=timing(draft),
        verify_step_s=timing(verify),
        host_s=timing(host),
        cycle_s=timing(2 * draft + verify + host),
        tokens_per_cycle=tokens,
    )
    comparison = compare(measured, SYSTEM)
    speedup = comparison.parts["speedup"]
    assert math.prod(comparison.factors.values()) == pytest.approx(
        speedup.measured / speedup.predicted
    )
    assert list(comparison.factors) == [
        "tokens per cycle",
        "draft",
        "verification",
        "overhead",
        "baseline",
    ]


def test_one_wrong_part_is_blamed_alone(point):
    right = exact(point(2))
    slow = replace(
        right,
        verify_step_s=replace(right.verify_step_s, median=2 * right.verify_step_s.median),
        cycle_s=replace(right.cycle_s, median=right.cycle_s.median + right.verify_step_s.median),
    )
    blamed = compare(slow, SYSTEM).factors
    assert blamed.pop("verification") < 0.9
    assert all(factor == pytest.approx(1.0) for factor in blamed.values())


def test_the_prediction_sees_only_the_calibration_prompts(point):
    honest = point(2)
    flattered = replace(honest, survival=[1.0, 1.0], tokens_per_cycle=3.0)
    assert predict_point(flattered, SYSTEM).speedup == predict_point(honest, SYSTEM).speedup


def test_no_acceptance_is_assumed(point):
    with pytest.raises(SpecsimError, match="calibration_survival"):
        compare(replace(point(2), calibration_survival=None), SYSTEM)


def test_medians_and_rows_name_every_part(point):
    comparisons = [compare(exact(point(gamma)), SYSTEM) for gamma in (0, 2)]
    errors = median_errors(comparisons)
    assert {
        "step_s",
        "draft_step_s",
        "verify_step_s",
        "tokens_per_cycle",
        "speedup",
    } <= errors.keys()
    assert max(errors.values()) < 1e-12
    assert {"target", "gamma", "part", "predicted", "measured", "error"} == to_rows(comparisons)[
        0
    ].keys()
    assert factors(comparisons[1].parts, 2) == comparisons[1].factors
