"""Every factor of measured ÷ predicted has a name, and they multiply out."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specsim import DraftModel, predict
from specsim.checks import SpecsimError
from specsim.checks.files import write_json
from specsim.cli import main
from specsim.drafting.lookup import SEARCH_S
from specsim.evidence import tables
from specsim.evidence.calibration import Calibration, to_json
from specsim.evidence.comparison import (
    best_measured,
    compare,
    factors,
    find_suspects,
    is_predicted,
    measured_machines,
    median_errors,
    misses,
    predict_point,
    predictors_for,
    regrets,
    summarise,
    to_rows,
)
from specsim.evidence.comparison.points import Comparison, Part
from specsim.evidence.comparison.predictors import catalog_name
from specsim.evidence.measurement import Environment, Measurement, Timing
from specsim.hardware import Accelerator, EfficiencyTable, Engine, System
from specsim.operators import precision

SYSTEM = System(
    Accelerator("a machine", 20e9, {"bf16": 400e9}),
    Engine(
        "calibrated", layer_overhead_s=300e-6, pass_overhead_s=90e-6, cycle_overhead_s=1e-4,
        drafting_overhead_s=5e-5, error=0.1, confidence="measured",
    ),
    precision("bf16"),
)  # fmt: skip


def exact(point):
    """The point with the measured values equal to the predicted ones."""
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
def test_a_correct_prediction_has_no_error(gamma, point):
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
    easier = replace(honest, survival=[1.0, 1.0], tokens_per_cycle=3.0)
    assert predict_point(easier, SYSTEM).speedup == predict_point(honest, SYSTEM).speedup


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
    row = to_rows(comparisons)[0]
    assert {*row} == {
        "name", "reserved", "target", "gamma", "tensor_parallel", "part", "predicted", "measured",
        "error",
    }  # fmt: skip
    assert factors(comparisons[1].parts, 2) == comparisons[1].factors


# Points of a suite


def renamed(point, name: str, **changes):
    return replace(point, name=name, part="speculation", **changes)


def scaled(point, factor: float):
    """The point with all times multiplied by `factor`."""

    def slower(timing):
        return None if timing is None else replace(timing, median=factor * timing.median)

    names = ("step_s", "draft_step_s", "verify_step_s", "cycle_s", "host_s")
    return replace(point, **{name: slower(getattr(point, name)) for name in names})


def test_drift_is_a_factor_of_times_and_of_no_speedup(point):
    drifted = compare(replace(scaled(exact(point(2)), 1.3), drift=1.3), SYSTEM)
    for name, part in drifted.parts.items():
        if name.endswith("_s"):
            assert part.error == pytest.approx(1 / 1.3 - 1)
            assert drifted.error(name, drift_divided=True) == pytest.approx(0, abs=1e-12)
    assert drifted.error("speedup") == pytest.approx(0, abs=1e-12)
    assert all(factor == pytest.approx(1.0) for factor in drifted.factors.values())
    plain = compare(replace(scaled(exact(point(0)), 1.3), drift=1.3), SYSTEM)
    assert plain.culprit == "machine drift"


def test_without_a_drift_probe_the_parts_take_the_blame(point):
    drifted = compare(scaled(exact(point(2)), 1.3), SYSTEM)
    assert drifted.drift == 1.0
    assert drifted.factors["baseline"] == pytest.approx(1.3)
    assert math.prod(drifted.factors.values()) == pytest.approx(1.0)


def test_given_drafts_are_a_width_and_no_acceptance(point):
    scenario = replace(point(2).scenario, method="given", draft=None)
    wide = replace(point(2), scenario=scenario, draft_step_s=None, calibration_survival=None)
    comparison = compare(wide, SYSTEM)
    assert set(comparison.parts) == {"step_s", "verify_step_s"}
    assert comparison.factors == {}
    pass_of_three = predict_point(point(2), SYSTEM).verify_step_s
    assert comparison.parts["verify_step_s"].predicted == pytest.approx(float(pass_of_three))
    assert comparison.culprit in ("verification", "machine drift")


def test_an_n_gram_is_predicted_from_the_survival_of_its_cycles(point):
    scenario = replace(point(2).scenario, method="n-gram", draft=None)
    found = predict_point(replace(point(2), scenario=scenario, draft_step_s=None), SYSTEM)
    assert float(found.tokens_per_cycle) == pytest.approx(1 + 0.72 + 0.5)
    verify = predict_point(point(2), SYSTEM).verify_step_s
    assert float(found.verify_step_s) == pytest.approx(float(verify))
    # finding it takes what was timed, or else what is assumed of servers
    assert float(found.draft_s) == pytest.approx(SEARCH_S)
    engine = replace(SYSTEM.engine, lookup_overhead_s=70e-6, begin_overhead_s=15e-6)
    timed = predict_point(
        replace(point(2), scenario=scenario, draft_step_s=None), replace(SYSTEM, engine=engine)
    )
    assert float(timed.draft_s) == pytest.approx(85e-6)


def test_the_band_of_drafting_is_around_what_is_compared(point):
    """The mean over a cycle's drafting, which begins with a wider pass, not one plain pass."""
    part = compare(point(2), SYSTEM).parts["draft_step_s"]
    prediction = predict_point(point(2), SYSTEM)
    wide = 1 + float(prediction.errors["draft_step_s"])
    assert part.predicted > float(prediction.draft_step_s)
    assert part.low == pytest.approx(part.predicted / wide)
    assert part.high == pytest.approx(part.predicted * wide)


def test_an_early_exit_has_nothing_to_catch_up_with(point):
    scenario = replace(point(2).scenario, method="early-exit")
    exit_draft = predict_point(replace(point(2), scenario=scenario), SYSTEM).draft_s
    assert exit_draft < predict_point(point(2), SYSTEM).draft_s


def test_a_buffer_that_is_read_whole_is_priced_whole(point):
    scenario = point(0).scenario
    whole = replace(point(0), scenario=replace(scenario, allocated_context=4096))
    assert predict_point(whole, SYSTEM).step_s > predict_point(point(0), SYSTEM).step_s


def test_a_baseline_of_transformers_is_not_predicted(point):
    scenario = replace(point(0).scenario, method="transformers-generate")
    assert not is_predicted(replace(point(0), scenario=scenario))
    assert is_predicted(point(0))


def test_a_summary_counts_each_quantity_where_it_is_a_result(point):
    right, slow = exact(point(2)), exact(point(0))
    summary = summarise([compare(right, SYSTEM), compare(scaled(slow, 1.25), SYSTEM)])
    assert summary.points == 2
    assert summary.errors["step_s"].count == 1
    assert summary.errors["step_s"].median == pytest.approx(0.2)
    assert summary.errors["verify_step_s"].median == pytest.approx(0, abs=1e-12)
    assert summary.errors["verify_step_s"].covered == 1.0
    assert summary.errors["step_s"].covered == 0.0  # the band is 10 %
    assert summarise([]).errors == {}


def test_the_tail_is_the_95th_percentile(point):
    # errors of 0, 1, …, 20 %, in no order: 95 % of the way from the least to the largest
    errors = [k / 100 for k in range(20, -1, -1)]
    made = [
        Comparison(point(0), {"step_s": Part("step_s", 1 + error, 1.0)}, {}) for error in errors
    ]
    found = summarise(made)
    assert found.errors["step_s"].tail == pytest.approx(0.19)
    assert found.errors["step_s"].median == pytest.approx(0.10)
    assert found.to_json()["errors"]["step_s"]["p95"] == pytest.approx(0.19)


def test_tokens_are_judged_by_their_standard_errors(point):
    def off(by: float, **known):
        right = exact(point(2))
        return compare(
            replace(right, tokens_per_cycle=by * right.tokens_per_cycle, **known), SYSTEM
        )

    known = [
        off(1.02),
        off(1.05),
        off(1.05, tokens_per_cycle_error=0.06),
        off(1.05, tokens_error=0.05),
        off(1.2, tokens_per_cycle_error=0.06, tokens_error=0.05),
    ]
    summary = summarise(known)
    assert (summary.right_tokens, summary.tokens) == (3, 5)


@pytest.mark.parametrize(
    ("noise", "tied", "said"),
    [
        (0.02, (), "± 0.01 at γ = 3; predicted"),
        (0.1, (2,), "± 0.05 at γ = 3 (γ = 2: no difference beyond the noise"),
        (None, (), "x at γ = 3; predicted"),
    ],
)
def test_the_best_measured_gamma_is_as_sure_as_its_tokens(point, noise, tied, said):
    """Speedups 0.96, 1.2 and 1.31: two joint standard errors are 0.03, 0.15 or unknown."""
    tokens = {1: 1.56, 2: 2.2, 3: 2.67}
    comparisons = [
        compare(
            point(
                gamma,
                survival=[0.7, 0.5, 0.3][:gamma],
                calibration_survival=[0.7, 0.5, 0.3][:gamma],
                accepted_histogram=[10] * (gamma + 1),
                tokens_per_cycle=tokens[gamma],
                tokens_per_cycle_error=noise,
            ),
            SYSTEM,
        )
        for gamma in (1, 2, 3)
    ]
    found = best_measured(comparisons)
    assert found.point.gamma == 3
    assert found.tied_gammas == tied
    drafted = comparisons[0].point.scenario
    over = predict(
        drafted.target, DraftModel(drafted.draft), SYSTEM, gamma=[1, 2, 3], alpha=0.7, context=128
    )
    assert said in " ".join(" ".join(tables.waterfall_table(over, comparisons)).split())


def test_the_error_of_a_plain_step_is_named_baseline(point):
    slow = compare(scaled(exact(point(0)), 1.5), SYSTEM)
    assert slow.culprit == "baseline"
    (miss,) = misses([slow])
    assert miss["factors"]["baseline"] == pytest.approx(1.5)


def test_signs_are_judged_where_they_are_clear(point):
    def with_speedup(speedup: float):
        right = exact(point(2))
        cycle = right.tokens_per_cycle * right.step_s.median / speedup
        return replace(right, cycle_s=replace(right.cycle_s, median=cycle))

    predicted = float(predict_point(point(2), SYSTEM).speedup)
    assert predicted > 1.03
    points = [with_speedup(1.5), with_speedup(0.7), with_speedup(1.01)]
    summary = summarise([compare(one, SYSTEM) for one in points])
    assert (summary.right_signs, summary.signs) == (1, 2)


def test_the_regret_of_a_gamma_is_what_it_loses(point):
    def measured(gamma: int, slower: float):
        one = exact(replace(point(2), scenario=replace(point(2).scenario, gamma=gamma),
                            calibration_survival=[0.72, 0.5, 0.4][:gamma]))  # fmt: skip
        return compare(
            renamed(scaled_cycle(one, slower), f"speculation/gamma-{gamma}/batch-1"), SYSTEM
        )

    def scaled_cycle(one, factor: float):
        return replace(one, cycle_s=replace(one.cycle_s, median=factor * one.cycle_s.median))

    honest = [measured(gamma, 1.0) for gamma in (1, 2, 3)]
    (regret,) = regrets(honest)
    assert regret.lost == 0
    assert regret.is_tie
    assert regret.scenario == "speculation/batch-1"
    best = regret.predicted_gamma
    spoilt = [measured(gamma, 1.4 if gamma == best else 1.0) for gamma in (1, 2, 3)]
    (regret,) = regrets(spoilt)
    assert regret.predicted_gamma == best != regret.measured_gamma
    assert regret.lost > 0.02
    assert not regret.is_tie
    assert regrets(honest[:1]) == []


def test_a_scenario_where_nothing_pays_is_won_by_plain_decoding(point):
    def hopeless(gamma: int):
        one = replace(point(2), scenario=replace(point(2).scenario, gamma=gamma),
                      calibration_survival=[0.02, 0.01][:gamma])  # fmt: skip
        return compare(renamed(exact(one), f"s/gamma-{gamma}"), SYSTEM)

    (regret,) = regrets([hopeless(1), hopeless(2)])
    assert (regret.predicted_gamma, regret.measured_gamma, regret.lost) == (0, 0, 0)


def test_the_worst_misses_come_first_with_what_does_most(point):
    right = exact(point(2))
    slow = replace(
        right,
        verify_step_s=replace(right.verify_step_s, median=3 * right.verify_step_s.median),
        cycle_s=replace(
            right.cycle_s, median=right.cycle_s.median + 2 * right.verify_step_s.median
        ),
        name="slow",
    )
    first, second = misses([compare(right, SYSTEM), compare(slow, SYSTEM)])
    assert (first["name"], first["factor"]) == ("slow", "verification")
    assert abs(second["error"]) < 1e-9


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA H200", "h200-sxm"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm-80gb"),
        ("AMD EPYC 9R14", None),
        ("a machine", None),
    ],
)
def test_a_device_is_found_in_the_catalog_by_its_own_name(device, name):
    assert catalog_name(device) == name


def test_the_three_predictors(point):
    calibrated = {"eager": Calibration(SYSTEM, (0.1,))}
    names = [predictor.name for predictor in predictors_for(calibrated, "NVIDIA H200")]
    assert names == ["calibrated", "catalog", "ideal"]
    unknown = {predictor.name: predictor for predictor in predictors_for(calibrated, "a machine")}
    assert list(unknown) == ["calibrated", "ideal"]
    plain = exact(point(0))
    ideal = compare(plain, unknown["ideal"].system(plain))
    assert ideal.parts["step_s"].predicted < compare(plain, SYSTEM).parts["step_s"].predicted
    graphs = replace(plain, scenario=replace(plain.scenario, mode="cuda-graphs"))
    assert unknown["calibrated"].system(graphs) is None


# The command, whole


@pytest.fixture
def folder(tmp_path, point):
    """The files of a suite: a plain step, two widths, three batches, a baseline (`peer`)."""

    def listed(gamma: int, method: str, batch: int, name: str, **changes):
        scenario = replace(point(gamma).scenario, method=method, batch=batch)
        if method in ("given", "transformers-generate"):
            scenario = replace(scenario, draft=None)
            changes |= {"draft_step_s": None, "calibration_survival": None}
        return replace(point(gamma), scenario=scenario, name=name, drift=1.02, **changes)

    parts = {
        "plain": [listed(0, "plain", 1, "plain/t/batch-1", part="plain", reserved=True)],
        "verify": [
            listed(gamma, "given", 1, f"verify/t/width-{gamma + 1}/batch-1", part="verify")
            for gamma in (1, 2)
        ],
        "speculation": [
            listed(2, "draft-model", batch, f"speculation/t/gamma-2/batch-{batch}",
                   part="speculation")
            for batch in (1, 4, 16)
        ],
        "peer": [
            listed(0, "transformers-generate", 1, "peer/t/batch-1", part="peer",
                   host_s=None, verify_step_s=None)
        ],
    }  # fmt: skip
    environment = Environment("a machine", "2.13.0", "3.11.7", 2, "2026-01-01")
    for name, points in parts.items():
        Measurement(environment, points, "calibration.json").write(tmp_path / f"{name}.json")
    table = EfficiencyTable([1e6], [1], [[0.8]])
    engine = replace(SYSTEM.engine, weight_efficiency=table, activation_efficiency=0.5)
    system = replace(SYSTEM, engine=engine)
    data = to_json(Calibration(system, (0.1,), {"mode": "eager"}))
    write_json(tmp_path / "calibration.json", data)
    return tmp_path


def test_the_command_says_how_wrong_each_predictor_is(folder, capsys):
    assert main(["compare", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "calibrated" in out
    assert "ideal" in out
    assert "\nplain, reserved\n  plain step             1 " in out
    assert "does it pay, all points: right in" in out
    assert "the largest errors, and the factor that contributes most to each" in out
    assert "peer/t/batch-1\n    2.400 ms per token, our plain decoding 2.400 ms: 1.00x" in out


def test_the_command_for_programs(folder, capsys):
    assert main(["compare", str(folder), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document["parts"]) == {"plain", "verify", "speculation"}
    plain = document["parts"]["plain"]["calibrated"]
    assert plain["reserved"]["errors"]["step_s"]["count"] == 1
    assert document["parts"]["verify"]["calibrated"]["all"]["points"] == 2
    assert "reserved" not in document["parts"]["verify"]["calibrated"]
    assert document["best_gamma"]["scenarios"] == 0
    assert len(document["files"]) == 4


def test_the_command_draws(folder, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert main(["compare", str(folder), "--figures", str(tmp_path / "drawn")]) == 0
    names = {"predicted-and-measured.png", "verify-curve.png", "speedup-by-batch.png"}
    assert {file.name for file in (tmp_path / "drawn").iterdir()} == names
    for name in names:
        assert (tmp_path / "drawn" / name).read_bytes().startswith(b"\x89PNG")


def test_a_mode_without_a_calibration_is_left_out_of_that_predictor_alone(folder, capsys):
    file = folder / "plain.json"
    measurement = Measurement.read(file)
    (one,) = measurement.points
    graphs = replace(one, scenario=replace(one.scenario, mode="cuda-graphs"))
    Measurement(measurement.environment, [graphs], "calibration.json").write(file)
    assert main(["compare", str(file), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert "calibrated" not in document["parts"]["plain"]
    assert document["parts"]["plain"]["ideal"]["all"]["points"] == 1


# What to look at when prediction and measurement disagree


def changed(point, what: str, by: float = 1.5):
    """The points of one pair, exact except for one part."""
    points = [exact(point(gamma)) for gamma in (0, 1, 2)]
    if what == "machine drift":
        return [replace(p, drift=by) for p in points]
    if what == "tokens per cycle":
        return [
            replace(p, tokens_per_cycle=1 + (p.tokens_per_cycle - 1) / by)
            if p.scenario.gamma
            else p
            for p in points
        ]
    part = {
        "plain step": "step_s", "draft step": "draft_step_s",
        "verification": "verify_step_s", "overhead": "host_s",
    }[what]  # fmt: skip

    def slower(timing):
        return Timing(timing.median * by, timing.p10 * by, timing.p90 * by, 1)

    return [replace(p, **{part: slower(t)}) if (t := getattr(p, part)) else p for p in points]


@pytest.mark.parametrize(
    "what", ["plain step", "tokens per cycle", "draft step", "verification", "overhead"]
)
def test_the_suspect_is_the_part_that_was_changed(point, what):
    found = find_suspects([compare(p, SYSTEM) for p in changed(point, what)], 0.05, 0.1)
    assert [each.name for each in found if not each.is_cleared] == [what]


def test_a_machine_that_drifted_is_looked_at_first(point):
    found = find_suspects([compare(p, SYSTEM) for p in changed(point, "machine drift")], 0.05, 0.1)
    assert not found[0].is_cleared
    assert found[0].off == pytest.approx(0.5)


def test_a_poor_fit_is_named(point):
    points = [compare(exact(point(gamma)), SYSTEM) for gamma in (0, 2)]
    found = find_suspects(points, 0.3, 0.1)
    assert [each.name for each in found if not each.is_cleared] == ["fit of the calibration"]
    assert all(each.is_cleared for each in find_suspects(points, 0.05, 0.1))


def test_machines_are_found_by_their_folders(point, tmp_path):
    assert measured_machines(tmp_path / "nowhere") == []
    folder = tmp_path / "some-machine"
    table = EfficiencyTable([1e6], [1], [[0.8]])
    engine = replace(SYSTEM.engine, weight_efficiency=table, activation_efficiency=0.5)
    data = to_json(Calibration(replace(SYSTEM, engine=engine), (0.05,), {}))
    write_json(folder / "calibration.json", data)
    assert measured_machines(tmp_path) == []  # calibrated, and nothing measured
    for driver in (None, "13.0"):
        environment = Environment("Some Chip", "2.13.0", "3.11", 2, "2026-01-01", driver)
        Measurement(environment, [exact(point(2))]).write(folder / "plain.json")
        (found,) = measured_machines(tmp_path)
        assert found.is_gpu == (driver is not None)
        (comparison,) = found.by_predictor["calibrated"]
        assert comparison.gamma == 2


def test_a_split_target_is_predicted_on_as_many_devices(point) -> None:
    """Each has half of the layers, but the whole LM head; the draft is a copy on each, or split."""
    whole = point(2)
    wide = replace(whole.scenario.target, num_heads=4, num_kv_heads=2)
    two = replace(whole.scenario, target=wide, tensor_parallel=2)
    shared = replace(SYSTEM, engine=replace(SYSTEM.engine, head_sharded=False), tensor_parallel=2)
    asked = {"gamma": 2, "tokens_per_cycle": 2.2, "context": 128}
    for devices in (1, 2):
        draft = replace(two.draft, num_heads=2, num_kv_heads=2)
        scenario = replace(two, draft=draft, draft_tensor_parallel=devices)
        expected = predict(wide, DraftModel(draft, tensor_parallel=devices), shared, **asked)
        found = predict_point(replace(whole, scenario=scenario), SYSTEM)
        assert found.cycle_s == pytest.approx(expected.cycle_s)
        assert found.step_s == pytest.approx(expected.step_s)
    split_head = predict(wide, None, replace(SYSTEM, tensor_parallel=2), gamma=0, context=128)
    assert found.step_s > split_head.step_s


def test_the_link_of_a_calibrated_machine_is_the_catalogs_or_assumed() -> None:
    def accelerator(device: str) -> Accelerator:
        (calibrated, *_) = predictors_for({"eager": Calibration(SYSTEM, (), {})}, device)
        return calibrated.systems["eager"].accelerator

    assert accelerator("NVIDIA H100 80GB HBM3").link_bytes_per_s == 900e9
    assert accelerator("NVIDIA H100 80GB HBM3").bandwidth_bytes_per_s == 20e9
    unknown = accelerator("an unknown machine")
    assert (unknown.link_bytes_per_s, unknown.link_latency_s) == (None, 100e-6)


def test_compare_says_what_it_assumes_of_several_devices(point, tmp_path, capsys) -> None:
    whole = exact(point(0))
    target = replace(whole.scenario.target, num_heads=4, num_kv_heads=2)
    scenario = replace(whole.scenario, target=target, tensor_parallel=2)
    for name, measured in (("one.json", whole), ("two.json", replace(whole, scenario=scenario))):
        environment = Environment("an unknown CPU", "2", "3", 2, "2026-01-01")
        Measurement(environment, [measured]).write(tmp_path / name)
    write_json(tmp_path / "calibration.json", to_json(Calibration(SYSTEM, (0.1,), {})))
    assert main(["compare", str(tmp_path / "one.json")]) == 0
    assert "devices" not in capsys.readouterr().out
    assert main(["compare", str(tmp_path / "two.json"), "--rows"]) == 0
    said = capsys.readouterr().out
    for words in ("1 points are split over 2 devices", "2.5 GB/s", "100 us", "share one CPU"):
        assert words in said
    assert "gamma 0 on 2 devices" in said
    assert main(["compare", str(tmp_path / "two.json"), "--json"]) == 0
    (file,) = json.loads(capsys.readouterr().out)["files"]
    assert {row["tensor_parallel"] for row in file["rows"]} == {2}
    assert len(file["notes"]) == 3
