"""A calibration recovers the machine that made the timings, and states its own error."""

import itertools
import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from specsim.architecture import Architecture
from specsim.checks import SpecsimError
from specsim.cost import forward_time, step_time
from specsim.drafting import DraftModel
from specsim.evidence.calibration import (
    STABLE,
    AttentionProbe,
    LinearProbe,
    Probes,
    StageProbe,
    fit,
    from_json,
    load,
    to_json,
)
from specsim.evidence.calibration.regression import non_negative_fit
from specsim.hardware import Accelerator, EfficiencyTable, Engine, System
from specsim.operators import Workload, forward_work, precision
from specsim.speculation import predict

BANDWIDTH, RATE = 20e9, 400e9
SIZES = np.array([2e4, 3e5, 2e6, 16e6])  # of matrices
ROWS = np.array([1.0, 2, 3, 4, 5, 6, 7, 8, 9, 32, 160])


def true_system() -> System:
    """A CPU whose small products begin slowly, and whose kernels switch with the rows."""
    efficiency = np.outer([0.1, 0.5, 0.8, 0.95], 1.0 / (1.0 + 0.05 * (ROWS - 1)))
    engine = Engine(
        name="true",
        weight_efficiency=EfficiencyTable(SIZES, ROWS, efficiency, of="matrix"),
        compute_efficiency=1.0,
        kv_efficiency=0.5,
        attention_compute_efficiency=0.2,
        attention_overlap=1.0,
        activation_efficiency=0.1,
        layer_overhead_s=200e-6,
        wide_layer_overhead_s=70e-6,
        pass_overhead_s=90e-6,
        layer_refill_s=400e-6,
        cycle_refill_s=150e-6,
        drafting_overhead_s=50e-6,
        sampling_overhead_s=60e-6,
        begin_overhead_s=30e-6,
        cycle_overhead_s=120e-6,
        speculation_overhead_s=80e-6,
        logit_overhead_s=3e-9,
        drawing_overhead_s=9e-9,
        sorting_overhead_s=80e-9,
        sorted_at_once=2.0,
    )
    machine = Accelerator("a machine", BANDWIDTH, {"bf16": RATE, "fp32": RATE})
    return System(machine, engine, precision("bf16"))


def shape(hidden: int, layers: int, vocab_size: int) -> Architecture:
    return Architecture(
        name=f"{hidden}x{layers}", hidden_size=hidden, num_layers=layers, num_heads=hidden // 64,
        num_kv_heads=1, head_dim=64, intermediate_size=3 * hidden, vocab_size=vocab_size,
    )  # fmt: skip


INT8_S = 40e-6  # of a layer with int8 weights, beside its products


def stage_seconds(probe: StageProbe, system: System) -> float:
    """What `predict` says of the stage, from its own sums."""
    if probe.stage == "begin":
        return system.engine.begin_overhead_s
    model, gamma, batch = probe.architecture, probe.gamma, probe.batch
    drafter = DraftModel(model)
    if probe.stage == "draft":
        workload = Workload(batch, context=probe.context)
        filtered = replace(system, filtered=probe.filtered)
        return float(drafter.cycle(filtered, workload, gamma).seconds)
    asked = {"gamma": gamma, "batch": batch, "context": probe.context}
    found = predict(
        model, drafter, system, alpha=0.5, top_p=0.9 if probe.filtered else None, **asked
    )
    return float(found.verify_step_s if probe.stage == "verify" else found.overhead_s)


def int8_system() -> System:
    """The same machine with int8 weights: slower per byte, and its small kernels are others."""
    system = true_system()
    table = EfficiencyTable(SIZES, ROWS, 0.6 * system.engine.weight_efficiency.values, of="matrix")
    engine = replace(
        system.engine, weight_efficiency=table, activation_efficiency=0.02,
        layer_overhead_s=INT8_S, wide_layer_overhead_s=0.0, pass_overhead_s=0.0,
        layer_refill_s=0.0,
    )  # fmt: skip
    return replace(system, engine=engine).with_precision("int8")


def linear_probes(system: System, format: str) -> list[LinearProbe]:
    table = system.engine.weight_efficiency
    kernels = dict(zip(SIZES, (160, 60, 24, 4), strict=True))
    found = []
    for size, rows in itertools.product(SIZES, ROWS):
        nbytes = kernels[size] * size
        seconds = nbytes / (BANDWIDTH * float(table.at(size, rows)))
        found.append(LinearProbe(nbytes, kernels[size], int(rows), seconds, format))
    return found


@cache
def true_probes(slower: float = 1.0) -> Probes:
    """The probes, timed on the true system; its passes may have become `slower`."""
    linear = linear_probes(true_system(), "") + linear_probes(int8_system(), "int8")
    attention = []
    for context in (256, 2048):
        for rows in (1, 9):
            kv_bytes, flops = 2 * context * 192 * 2.0, 4.0 * rows * context * 384
            seconds = 15e-6 + kv_bytes / (0.5 * BANDWIDTH) + flops / (0.2 * RATE)
            attention.append(AttentionProbe(context, rows, kv_bytes, flops, seconds))
    asked = [
        (model, gamma, batch, filtered)
        for model in (shape(128, 2, 1024), shape(192, 6, 1024), shape(320, 3, 6144))
        for gamma in (0, 1, 2, 4, 8)
        for batch in (1, 5)
        for filtered in (False,)
    ]
    asked += [(shape(640, 6, 50_000), gamma, 1, gamma != 1) for gamma in (0, 1, 4)]
    stages = [
        StageProbe(stage, model, gamma, 120, 1.0, batch, filtered and stage != "verify")
        for model, gamma, batch, filtered in asked
        for stage in ("verify", "host", "draft" if gamma else "begin")
    ]
    timed = [replace(each, seconds=stage_seconds(each, true_system())) for each in stages]
    drafts = [
        StageProbe("draft", model, gamma, 120, 1.0, format="int8")
        for model in (shape(128, 2, 1024), shape(192, 6, 1024), shape(448, 8, 1024))
        for gamma in (1, 4)
    ]
    timed += [replace(each, seconds=stage_seconds(each, int8_system())) for each in drafts]
    passes = tuple(
        replace(each, seconds=each.seconds * (slower if each.passes else 1.0)) for each in timed
    )
    return Probes(
        "a machine", "bf16", BANDWIDTH, RATE, tuple(linear), tuple(attention), passes,
        sorted_at_once=2,
    )  # fmt: skip


CONSTANTS = (
    "layer_overhead_s",
    "wide_layer_overhead_s",
    "layer_refill_s",
    "cycle_refill_s",
    "drafting_overhead_s",
    "sampling_overhead_s",
    "begin_overhead_s",
    "cycle_overhead_s",
    "speculation_overhead_s",
    "logit_overhead_s",
    "drawing_overhead_s",
    "sorting_overhead_s",
    "kv_efficiency",
    "attention_compute_efficiency",
)


def test_a_known_machine_is_recovered():
    calibration = fit(true_probes())
    assert calibration.worst_error < 0.01
    for name in CONSTANTS:
        true, fitted = getattr(true_system().engine, name), getattr(calibration.system.engine, name)
        assert fitted == pytest.approx(true, rel=0.1), name
    engine = calibration.system.engine
    assert engine.layer_element_s == engine.vocabulary_overhead_s == 0.0, "these are of a GPU"
    assert engine.block_draw_overhead_s == engine.checking_overhead_s == 0.0


def test_a_model_that_no_probe_has_the_shape_of_is_predicted():
    model, calibrated = shape(256, 8, 2048), fit(true_probes()).system
    for rows in (1, 3, 9, 20, 160):
        true = step_time(model, true_system(), Workload(rows=rows, context=150)).total_s
        assert step_time(
            model, calibrated, Workload(rows=rows, context=150)
        ).total_s == pytest.approx(true, rel=0.02)


def test_a_burst_of_other_work_spoils_few_probes():
    probes = true_probes()
    stages = list(probes.stages)
    for index in range(3, len(stages), 17):
        stages[index] = replace(stages[index], seconds=10 * stages[index].seconds)
    calibrated = fit(replace(probes, stages=tuple(stages))).system
    model = shape(256, 8, 2048)
    true = step_time(model, true_system(), Workload(context=150)).total_s
    assert step_time(model, calibrated, Workload(context=150)).total_s == pytest.approx(
        true, rel=0.03
    )


@pytest.mark.parametrize("gamma", [1, 5])
def test_a_draft_in_int8_is_priced_from_its_own_probes(gamma):
    model, calibrated = shape(320, 5, 2048), fit(true_probes()).system
    workload, drafter = Workload(context=150), DraftModel(model, "int8")
    true = DraftModel(model).cycle(int8_system(), workload, gamma).seconds
    found = drafter.cycle(calibrated, workload, gamma).seconds
    assert float(found) == pytest.approx(float(true), rel=0.03)
    # and back again: the target's own weights are as they were
    there_and_back = calibrated.with_precision("int8").with_precision("bf16")
    assert there_and_back.engine == calibrated.engine


def test_sorting_for_a_nucleus_is_priced_per_turn_of_the_threads():
    """Two threads sort the five distributions of a verification in three turns."""
    system, model = true_system(), shape(256, 8, 100_000)
    asked = {"gamma": np.array([0, 1, 4]), "alpha": 0.5}
    plain, cut = (predict(model, DraftModel(model), system, top_p=p, **asked) for p in (1.0, 0.9))
    turn_s = 80e-9 * 100_000
    np.testing.assert_allclose((cut.overhead_s - plain.overhead_s) / turn_s, [1, 1, 3])
    np.testing.assert_allclose((cut.draft_s - plain.draft_s) / turn_s, [0, 1, 4])
    np.testing.assert_allclose((cut.step_s - plain.step_s) / turn_s, 1)
    with pytest.raises(SpecsimError, match="top_p"):
        predict(model, DraftModel(model), system, top_p=0.0, **asked)


def test_a_machine_that_changed_is_named_and_widens_the_band():
    steady, moved = true_probes(), true_probes(slower=1.3)
    same = fit(replace(steady, halves=(steady, steady)))
    assert same.changes == {}
    assert same.system.engine.error == fit(steady).system.engine.error
    changed = fit(replace(steady, halves=(steady, moved)))
    assert changed.changes["layer_overhead_s"] > STABLE
    assert "cycle_overhead_s" not in changed.changes or changed.changes["cycle_overhead_s"] < 0.01
    # the times of passes moved by 30 %, half of that to either side
    assert changed.system.engine.error == pytest.approx(np.hypot(0.05, 0.15), rel=0.1)
    again = from_json(json.loads(json.dumps(to_json(changed))))
    assert again.changes == changed.changes


def test_the_band_is_the_error_on_the_stages():
    probes = true_probes()
    noise = np.random.default_rng(0).normal(1.0, 0.2, len(probes.stages))
    stages = tuple(
        replace(probe, seconds=probe.seconds * factor)
        for probe, factor in zip(probes.stages, noise, strict=True)
    )
    calibration = fit(replace(probes, stages=stages))
    assert not calibration.changes  # timed once
    covered = np.abs(calibration.residuals) <= calibration.system.engine.error
    assert 0.75 <= covered.mean() <= 0.85


def test_no_constant_is_negative():
    columns = np.array([[1.0, 1.0], [1.0, 2.0], [1.0, 3.0]])
    intercept, slope = non_negative_fit(columns, np.array([1.0, 0.5, 0.1]))
    assert slope == 0.0
    assert intercept == pytest.approx(0.5, abs=0.05)  # the median


def test_it_survives_a_file(tmp_path):
    calibration = fit(true_probes(), {"device": "a machine"})
    file = tmp_path / "calibration.json"
    file.write_text(json.dumps(to_json(calibration)))
    again = load(file)
    work = forward_work(shape(256, 8, 2048), Workload(rows=np.arange(1, 10)), precision("bf16"))
    expected = forward_time(work, calibration.system).total_s
    np.testing.assert_array_equal(forward_time(work, again.system).total_s, expected)
    assert again.residuals == calibration.residuals
    eight = calibration.system.with_precision("int8")
    expected = step_time(shape(256, 8, 2048), eight, Workload()).total_s
    loaded = step_time(shape(256, 8, 2048), again.system.with_precision("int8"), Workload())
    assert loaded.total_s == expected
    assert again.environment == {"device": "a machine"}


@pytest.mark.parametrize("text", ["{}", "[]", "nonsense", '{"engine": {}, "accelerator": {}}'])
def test_a_file_that_is_not_a_calibration_is_refused_by_name(tmp_path, text):
    file = tmp_path / "calibration.json"
    file.write_text(text)
    with pytest.raises(SpecsimError, match=r"calibration\.json"):
        load(file)


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("engine", "pass_overhead_s", float("nan")),
        ("engine", "layer_overhead_s", -1e-3),
        ("engine", "layer_overhead_s", "x"),
        ("engine", "compute_efficiency", 0.0),
        ("accelerator", "bandwidth_bytes_per_s", None),
        ("accelerator", "flops_per_s", {"bf16": -1}),
        ("accelerator", "flops_per_s", [1]),
        ("accelerator", "memory_bytes", "x"),
        ("precision", "weight_bytes", -2),
        ("precision", "weight_bytes", 1e-300),
        ("precision", "name", 3),
        ("precision", "surprise", 3),
        ("accelerator", "bandwidth_bytes_per_s", float("inf")),
        ("accelerator", "bandwidth_bytes_per_s", [1, 2]),
        ("accelerator", "name", ["x"]),
        ("accelerator", "flops_per_s", {"bf16": 1e300}),
        ("engine", "kv_efficiency", {"pass_bytes": [1], "rows": [1], "values": [[0]]}),
        ("engine", "kv_efficiency", {"pass_bytes": [2, 1], "rows": [1], "values": [[1], [1]]}),
        ("engine", "kv_efficiency", {"pass_bytes": ["x"], "rows": [1]}),
        ("engine", "kv_efficiency", {"pass_bytes": [1], "rows": [1], "values": [[1], [1, [2]]]}),
        ("engine", "head_sharded", "no"),
        ("engine", "error", 1e300),
        ("engine", "formats", 3),
        ("engine", "formats", [3]),
        ("engine", "formats", [{"format": "int8"}]),
        ("engine", "sorted_at_once", 0),
        ("engine", "attention_overlap", -1),
        ("changes", "layer_overhead_s", float("nan")),
    ],
)
def test_an_impossible_constant_is_refused_by_name(tmp_path, part, key, value):
    data = to_json(fit(true_probes(), {}))
    data[part][key] = value
    file = tmp_path / "calibration.json"
    file.write_text(json.dumps(data))
    with pytest.raises(SpecsimError, match=r"calibration\.json") as refused:
        load(file)
    assert len(str(refused.value).splitlines()) == 1


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(SpecsimError, match=r"nowhere\.json"):
        load(tmp_path / "nowhere.json")
    with pytest.raises(SpecsimError, match="not a calibration"):
        from_json({})
