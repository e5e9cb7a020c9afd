"""Passes priced factor by factor are the passes priced in full."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from specsim.architecture import model
from specsim.cost import ModelPass, Product, passes, step_time
from specsim.hardware import EfficiencyTable, system
from specsim.operators import Workload

EIGHT = model("llama-3.1-8b")
TABLE = EfficiencyTable([1e6, 1e9, 1e11], [1, 8, 64], [[0.1, 0.2, 0.2], [0.7, 0.6, 0.5], [0.9] * 3])


def machine(engine):
    if engine != "table":
        return system("h100", engine=engine)
    loaded = system("h100")
    return replace(loaded, engine=replace(loaded.engine, weight_efficiency=TABLE))


def both(scenario, engine="cuda-graphs"):
    fast = ModelPass(EIGHT, machine(engine), Workload(**scenario)).seconds
    return fast, step_time(EIGHT, machine(engine), Workload(**scenario)).total_s


@pytest.mark.parametrize("engine", ["ideal", "vllm", "torch-eager", "table"])
def test_a_grid(engine):
    scenario = {
        "batch": np.arange(1, 400, 9)[:, None, None],
        "rows": np.arange(1, 10),
        "context": np.linspace(1, 200_000, 31)[:, None],
    }
    fast, full = both(scenario, engine)
    assert fast.shape == (45, 31, 9)
    assert_allclose(fast, full, rtol=1e-11)


@pytest.mark.parametrize("engine", ["ideal", "vllm", "torch-eager", "table"])
@pytest.mark.parametrize("whole", [True, False])
def test_a_list(engine, whole):
    rng = np.random.default_rng(0)
    batch, context = rng.integers(1, 20, 30_000), rng.integers(1, 100_000, 30_000)
    rows = rng.integers(1, 9, 30_000) if whole else rng.integers(1, 9, 30_000) / 3
    fast, full = both({"batch": batch, "rows": rows, "context": context}, engine)
    assert_allclose(fast, full, rtol=1e-11)


@pytest.mark.parametrize(
    "name", ["qwen3-30b-a3b", "deepseek-r1", "gpt-oss-20b", "gemma-2-9b", "llama-2-7b"]
)
@pytest.mark.parametrize("devices", [1, 2])
def test_experts_latents_and_windows(name, devices):
    shape, split = model(name), system("h200", engine="vllm", tensor_parallel=devices)
    scenario = {
        "batch": np.array([1, 3, 77])[:, None, None],
        "rows": np.arange(1, 7),
        "context": np.linspace(1, 20_000, 300)[:, None],
    }
    fast = ModelPass(shape, split, Workload(**scenario)).seconds
    assert_allclose(fast, step_time(shape, split, Workload(**scenario)).total_s, rtol=1e-11)


def test_a_floor_under_attention():
    engine = replace(system("h100").engine, attention_floor_s=8e-6)
    floored = replace(system("h100"), engine=engine)
    context = np.arange(1.0, 40_000.0, 7.0)
    full = step_time(EIGHT, floored, Workload(context=context)).total_s
    assert full[0] == full[1] < full[-1]
    assert_allclose(ModelPass(EIGHT, floored, Workload(context=context)).seconds, full, rtol=1e-11)


@pytest.mark.parametrize("engine", ["ideal", "vllm", "torch-eager", "table"])
def test_very_many_scenarios_are_not_priced_one_by_one(engine):
    scenario = {"batch": np.arange(1, 5)[:, None], "context": np.linspace(1, 200_000, 4000)}
    made = ModelPass(EIGHT, machine(engine), Workload(**scenario))
    assert made.seconds.shape == (4, 4000)
    assert "time" not in made.__dict__, "the lines did not hold, and every scenario was priced"


def test_one_context_and_few_scenarios():
    for scenario in (
        {"batch": np.arange(1, 5000), "rows": 1, "context": 777},
        {"batch": np.ones(5000), "rows": 3, "context": np.full(5000, 777)},
        {"batch": [1, 2], "rows": [[1], [5]], "context": 9},
    ):
        fast, full = both(scenario)
        assert_allclose(fast, full, rtol=1e-11)


def test_what_is_no_straight_line_is_priced_in_full(monkeypatch):
    def bent(model, machine, workload):
        return step_time(model, machine, workload.within(500))

    monkeypatch.setattr(passes, "step_time", bent)
    context = np.arange(1.0, 4001.0)
    fast = ModelPass(EIGHT, system("h100"), Workload(context=context)).seconds
    full = step_time(EIGHT, system("h100"), Workload(context=context)).total_s
    assert_allclose(fast, full, rtol=1e-15)


def test_a_machine_that_is_an_array_is_priced_in_full():
    chip = replace(system("h100").accelerator, bandwidth_bytes_per_s=np.linspace(1e12, 5e12, 3000))
    several = replace(system("h100"), accelerator=chip)
    assert_allclose(
        ModelPass(EIGHT, several).seconds, step_time(EIGHT, several).total_s, rtol=1e-15
    )


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("tokens", [1.0, 40.0, 5000.0])
def test_one_linear_layer_reads_its_weights_or_computes(tokens, devices):
    """A head's projection: two FLOPs a weight and token, each weight read once."""
    machine = system("h100-sxm", "vllm", tensor_parallel=devices)
    layer = Product(machine, 3.0e7, np.asarray(tokens))
    assert layer.flops == 2 * 3.0e7 * tokens
    assert layer.bytes_moved == 2 * 3.0e7
    engine, chip = machine.engine, machine.accelerator
    read_s = 6.0e7 / devices / (engine.weight_efficiency * chip.bandwidth_bytes_per_s)
    compute_s = layer.flops / devices / (engine.compute_efficiency * chip.flops_per_s["bf16"])
    assert layer.seconds == pytest.approx(max(read_s, compute_s), rel=1e-12)
    assert (compute_s > read_s) == (tokens == 5000.0)
