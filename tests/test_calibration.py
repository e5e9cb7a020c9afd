"""A calibration recovers the machine that made the timings, and states its own error."""

import json
from dataclasses import replace

import numpy as np
import pytest

from specsim.architecture import Architecture
from specsim.checks import SpecsimError
from specsim.cost import forward_time, step_time
from specsim.evidence.calibration import (
    AttentionProbe,
    LinearProbe,
    Probes,
    StageProbe,
    fit,
    from_json,
    load,
    to_json,
)
from specsim.evidence.calibration.timings import non_negative_fit
from specsim.hardware import Accelerator, EfficiencyTable, Engine, System
from specsim.operators import Workload, forward_work, precision

BANDWIDTH, RATE = 20e9, 400e9
SIZES = np.array([1e6, 8e6, 64e6, 300e6])
ROWS = np.arange(1.0, 10.0)
KERNEL_S = 20e-6


def true_system() -> System:
    """A CPU whose small passes live in a cache, and whose kernels switch with the rows."""
    efficiency = np.outer([2.0, 1.5, 0.9, 0.85], 1.0 - 0.04 * (ROWS - 1))
    engine = Engine(
        name="true",
        weight_efficiency=EfficiencyTable(SIZES, ROWS, efficiency),
        compute_efficiency=1.0,
        kv_efficiency=0.5,
        attention_compute_efficiency=0.2,
        activation_efficiency=0.1,
        layer_overhead_s=200e-6,
        pass_overhead_s=90e-6,
        drafting_overhead_s=50e-6,
        sampling_overhead_s=60e-6,
        cycle_overhead_s=120e-6,
        speculation_overhead_s=80e-6,
        logit_overhead_s=3e-9,
    )
    machine = Accelerator("a machine", BANDWIDTH, {"bf16": RATE, "fp32": RATE})
    return System(machine, engine, precision("bf16"))


def shape(hidden: int, layers: int, vocab_size: int) -> Architecture:
    return Architecture(
        name=f"{hidden}x{layers}", hidden_size=hidden, num_layers=layers, num_heads=hidden // 64,
        num_kv_heads=1, head_dim=64, intermediate_size=3 * hidden, vocab_size=vocab_size,
    )  # fmt: skip


def stage_seconds(stage: str, model: Architecture, gamma: int, context: int) -> float:
    system = true_system()
    engine = system.engine

    def forward(rows: int) -> float:
        return float(step_time(model, system, Workload(rows=rows, context=context)).total_s)

    if stage == "verify":
        return forward(gamma + 1)
    if stage == "draft":
        draws = gamma * (engine.sampling_overhead_s + engine.logit_overhead_s * model.vocab_size)
        return engine.drafting_overhead_s + forward(2) + (gamma - 1) * forward(1) + draws
    drafting = engine.speculation_overhead_s if gamma else 0.0
    return (
        engine.cycle_overhead_s
        + drafting
        + engine.logit_overhead_s * (gamma + 1) * model.vocab_size
    )


def true_probes() -> Probes:
    """The probes, timed on the true system."""
    table = true_system().engine.weight_efficiency
    kernels = {1e6: 4, 8e6: 8, 64e6: 24, 300e6: 40}
    linear = [LinearProbe(2e3, 16, 1, 16 * KERNEL_S)]
    for size in SIZES:
        for rows in ROWS:
            reading = size / (BANDWIDTH * float(table.at(size, rows)))
            probe = LinearProbe(size, kernels[size], int(rows), reading + kernels[size] * KERNEL_S)
            linear.append(probe)
    attention = []
    for context in (256, 2048):
        for rows in (1, 9):
            kv_bytes, flops = 2 * context * 192 * 2.0, 4.0 * rows * context * 384
            seconds = 15e-6 + max(kv_bytes / (0.5 * BANDWIDTH), flops / (0.2 * RATE))
            attention.append(AttentionProbe(context, rows, kv_bytes, flops, seconds))
    stages = []
    for hidden, layers, vocab in ((128, 2, 1024), (192, 6, 1024), (320, 3, 6144), (640, 6, 2560)):
        model = shape(hidden, layers, vocab)
        for gamma in (0, 1, 2, 4, 8):
            for stage in ("verify", "host", "draft") if gamma else ("verify", "host"):
                stages.append(
                    StageProbe(stage, model, gamma, 120, stage_seconds(stage, model, gamma, 120))
                )
    return Probes(
        "a machine", "bf16", BANDWIDTH, RATE, tuple(linear), tuple(attention), tuple(stages)
    )


CONSTANTS = (
    "layer_overhead_s",
    "drafting_overhead_s",
    "sampling_overhead_s",
    "cycle_overhead_s",
    "speculation_overhead_s",
    "logit_overhead_s",
)


def test_a_known_machine_is_recovered():
    calibration = fit(true_probes())
    assert calibration.worst_error < 0.01
    for name in CONSTANTS:
        true, fitted = getattr(true_system().engine, name), getattr(calibration.system.engine, name)
        assert fitted == pytest.approx(true, rel=0.1), name


def test_a_model_that_no_probe_has_the_shape_of_is_predicted():
    model, calibrated = shape(256, 8, 2048), fit(true_probes()).system
    for rows in (1, 3, 9):
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


def test_the_band_is_the_error_on_the_stages():
    probes = true_probes()
    noise = np.random.default_rng(0).normal(1.0, 0.2, len(probes.stages))
    stages = tuple(
        replace(probe, seconds=probe.seconds * factor)
        for probe, factor in zip(probes.stages, noise, strict=True)
    )
    calibration = fit(replace(probes, stages=stages))
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
