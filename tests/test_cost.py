"""Seconds of a pass: ideal is a roofline worked by hand, every other engine sits above it."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from specsim import catalog
from specsim.architecture import model
from specsim.cost import BOUNDS, forward_time, step_time
from specsim.hardware import Accelerator, EfficiencyTable, Engine, System, catalog_engine, system
from specsim.operators import LINEAR, PRECISIONS, Precision, Workload, forward_work

EIGHT, SEVENTY, ONE = model("llama-3.1-8b"), model("llama-3.1-70b"), model("llama-3.2-1b")
H100 = {"bandwidth": 3.35e12, "flops": 989e12}
ENGINES = tuple(catalog.load("engines"))
TABLE = EfficiencyTable([1e6, 1e9, 1e11], [1, 8, 64], [[0.1, 0.2, 0.2], [0.7, 0.6, 0.5], [0.9] * 3])


def ideal(accelerator, precision="bf16"):
    return system(accelerator, engine="ideal", precision=precision)


def a_system(bandwidth=1e12, flops=1e14, stored="bf16", **engine):
    chip = Accelerator("chip", bandwidth, {"bf16": flops})
    return System(chip, Engine("engine", **engine), PRECISIONS[stored])


def terms(time):
    return {term.name: term for term in time.terms}


def linear(time, resource):
    """Seconds that the linear layers would take if they waited for one resource alone."""
    found = (t for t in time.terms if t.operator and t.operator.kind == LINEAR)
    return sum(getattr(term, resource) for term in found)


# ------------------------------------------------------------------------------ rooflines by hand


@pytest.mark.parametrize(
    ("name", "accelerator", "tokens_per_s"),
    [
        ("llama-3.1-8b", "a100", 135.8),
        ("llama-3.1-8b", "h100", 223.2),
        ("llama-3.1-8b", "h200", 319.8),
        ("llama-3.1-8b", "b200", 533.0),
        ("llama-3.1-70b", "a100", 14.67),
        ("llama-3.1-70b", "h100", 24.10),
        ("llama-3.1-70b", "h200", 34.53),
        ("llama-3.1-70b", "b200", 57.55),
    ],
)
def test_ideal_ceilings_of_one_sequence(name, accelerator, tokens_per_s):
    step = step_time(model(name), ideal(accelerator), Workload(context=1))
    assert_allclose(1 / step.total_s, tokens_per_s, rtol=4e-4)
    assert step.bound == "weights"


def test_ideal_is_the_roofline_of_the_counts():
    batch, rows = np.array([1, 64, 512])[:, None], np.array([1, 5, 9, 600])
    work = forward_work(EIGHT, Workload(batch=batch, rows=rows, context=4096), PRECISIONS["bf16"])
    matrices = EIGHT.parameters - EIGHT.embedding_parameters - 65 * 4096
    tokens = batch * rows
    by_hand = np.maximum(2 * matrices / H100["bandwidth"], 2 * matrices * tokens / H100["flops"])
    by_hand = by_hand + np.maximum(
        131_072 * (batch * 4096 + tokens) / H100["bandwidth"],
        32 * 4 * 4096 * 4096 * tokens / H100["flops"],
    )
    assert_allclose(forward_time(work, ideal("h100")).total_s, by_hand, rtol=1e-12)


def test_interview_1_one_flop_per_byte():
    work = forward_work(SEVENTY, Workload(), PRECISIONS["bf16"])
    for operator in work:
        if operator.kind == LINEAR:
            assert operator.flops == operator.weight_bytes


def test_interview_2_the_arithmetic_has_295_times_slack():
    step = step_time(SEVENTY, ideal("h100"))
    assert_allclose(linear(step, "memory_s"), 41.50e-3, rtol=2e-4)
    assert_allclose(linear(step, "compute_s"), 0.1406e-3, rtol=4e-4)
    assert_allclose(linear(step, "memory_s") / linear(step, "compute_s"), 295.22, rtol=1e-4)


def test_interview_3_more_flops_do_nothing_and_bandwidth_everything():
    h100 = ideal("h100")
    doubled = {name: 2 * rate for name, rate in h100.accelerator.flops_per_s.items()}
    faster = replace(h100, accelerator=replace(h100.accelerator, flops_per_s=doubled))
    step = step_time(SEVENTY, h100).total_s
    assert step_time(SEVENTY, faster).total_s == step
    assert_allclose(step / step_time(SEVENTY, ideal("h200")).total_s, 1.43, atol=0.005)
    assert_allclose(step / step_time(SEVENTY, ideal("b200")).total_s, 2.39, atol=0.005)


@pytest.mark.parametrize(
    ("accelerator", "precision", "rows"),
    [
        ("h100", "bf16", 295.22),
        ("h200", "bf16", 206.04),
        ("a100", "bf16", 153.02),
        ("b200", "bf16", 281.25),
        ("h100", "int4-g32", 92.26),
        ("h100", "fp8", 295.37),
    ],
)
def test_interview_6_rows_at_which_the_linear_layers_turn_compute_bound(
    accelerator, precision, rows
):
    """4-bit weights with 16-bit math bring the ridge down; 8-bit weights and math leave it."""
    around = np.array([rows * 0.999, rows * 1.001])
    step = step_time(EIGHT, ideal(accelerator, precision), Workload(rows=around))
    assert terms(step)["down projection"].bound.tolist() == ["weights", "compute"]


def test_interview_6_four_bits_without_scales():
    chip = ideal("h100")
    w4 = replace(chip, precision=Precision("w4", 0.5, "bf16"))
    down = terms(step_time(EIGHT, w4))["down projection"]
    assert_allclose(down.memory_s / down.compute_s, 73.81, rtol=1e-4)


def test_interview_7_large_batches_do_not_always_compute():
    step = step_time(SEVENTY, ideal("h100"), Workload(batch=64, context=8192))
    kv = terms(step)["attention"].memory_s * H100["bandwidth"]
    assert_allclose(kv, 171.8e9, rtol=2e-4)
    assert step.bound == "kv"


def test_interview_9_prefill_computes():
    step = step_time(SEVENTY, ideal("h100"), Workload(rows=4096, context=4096))
    assert_allclose(linear(step, "seconds"), 0.576, rtol=1e-3)
    assert step.bound == "compute"


def test_J3_long_context_on_h200():
    widths = step_time(EIGHT, ideal("h200"), Workload(batch=32, rows=[1, 5], context=32_768))
    assert_allclose(widths.total_s, 31.76006e-3, rtol=2e-4)  # verification costs a plain step


def test_known_rows_of_gpt_fast_on_an_a100():
    for name, precision, tokens_per_s in [
        ("llama-2-7b", "bf16", 104.9),
        ("llama-2-7b", "int8", 155.58),
        ("llama-2-7b", "int4-g32", 196.80),
        ("llama-2-70b", "int8", 19.13),
        ("llama-2-70b", "int4-g32", 25.25),
    ]:
        gpt_fast = system("a100", engine="gpt-fast", precision=precision)
        step = step_time(model(name), gpt_fast, Workload(context=105))
        assert_allclose(1 / step.total_s, tokens_per_s, rtol=0.02)


# --------------------------------------------------------------------------------- terms and shares


def test_every_efficiency_and_overhead_has_its_own_term():
    plain = a_system()
    step = terms(step_time(EIGHT, plain, Workload(batch=2, rows=3)))
    halves = {
        "weight_efficiency": ("LM head", "memory_s"),
        "compute_efficiency": ("LM head", "compute_s"),
        "kv_efficiency": ("attention", "memory_s"),
        "attention_compute_efficiency": ("attention", "compute_s"),
    }
    for field, (name, resource) in halves.items():
        other = terms(step_time(EIGHT, a_system(**{field: 0.5}), Workload(batch=2, rows=3)))
        for term in step:
            kind = step[term].operator and step[term].operator.kind
            for each in ("memory_s", "compute_s"):
                same_kind = kind == step[name].operator.kind and each == resource
                factor = 2.0 if same_kind else 1.0
                assert getattr(other[term], each) == factor * getattr(step[term], each)
    moving = terms(step_time(EIGHT, a_system(activation_efficiency=0.5), Workload(batch=2, rows=3)))
    norms = moving["norms and elementwise"]
    assert norms.seconds == norms.operator.activation_bytes / 0.5e12
    assert step["norms and elementwise"].seconds == 0.0


def test_overheads_are_per_layer_and_per_pass():
    bare = step_time(EIGHT, a_system()).total_s
    loaded = step_time(
        EIGHT, a_system(layer_overhead_s=1e-4, pass_overhead_s=3e-4), Workload(batch=[1, 9])
    )
    overhead = terms(loaded)["launches and small kernels"]
    assert_allclose(overhead.seconds, [32e-4 + 3e-4] * 2, rtol=1e-14)
    assert_allclose(loaded.total_s[0] - bare, 35e-4)
    assert overhead.bound.tolist() == ["overhead"] * 2


@pytest.mark.parametrize("engine", ENGINES)
def test_breakdown_adds_up_and_names_its_columns(engine):
    step = step_time(EIGHT, system("h200", engine=engine), Workload(batch=[1, 300], context=8192))
    rows = step.breakdown()
    keys = {"name", "flops", "weight_bytes", "kv_bytes", "seconds", "bound"}
    assert all(set(row) == keys for row in rows)
    assert_allclose(sum(row["seconds"] for row in rows), step.total_s, rtol=1e-13)
    assert {bound for row in rows for bound in np.atleast_1d(row["bound"])} <= set(BOUNDS)
    shares = np.array([step.share(bound) for bound in BOUNDS])
    assert_allclose(shares.sum(axis=0), step.total_s, rtol=1e-13)
    assert step.bound.tolist() == [BOUNDS[i] for i in shares.argmax(axis=0)]


def test_attention_keeps_16_bit_math_under_fp8_weights():
    chip = {"bf16": 1e12, "fp8": 2e12}
    for stored, rate in [("bf16", 1e12), ("fp8", 1e12), ("int4", 1e12)]:
        one = System(Accelerator("chip", 1e12, chip), Engine("e"), PRECISIONS[stored])
        attention = terms(step_time(EIGHT, one))["attention"]
        assert attention.compute_s == attention.operator.flops / rate


def test_a_table_of_efficiencies_is_asked_for_the_whole_pass():
    table = a_system(weight_efficiency=TABLE)
    work = forward_work(EIGHT, Workload(batch=4, rows=[1, 2]), PRECISIONS["bf16"])
    efficiency = TABLE.at(work.weight_bytes, work.rows)
    assert efficiency[0] != efficiency[1]
    memory_s = linear(forward_time(work, table), "memory_s")
    assert_allclose(memory_s, work.weight_bytes / (efficiency * 1e12), rtol=1e-13)


# ------------------------------------------------------------------- the host, beside the device


def test_a_host_that_runs_ahead_is_hidden_or_waited_for():
    """32 layers x 100 us + 300 us = 3.5 ms of launches beside a device that takes 2 to 40 ms."""
    launching = {"layer_launch_s": 100e-6, "pass_launch_s": 300e-6}
    batch = np.array([1, 4, 64, 512])
    alone = step_time(EIGHT, a_system(1e13, 1e15, layer_overhead_s=1e-5), Workload(batch=batch))
    ahead = step_time(
        EIGHT, a_system(1e13, 1e15, layer_overhead_s=1e-5, **launching), Workload(batch=batch)
    )
    assert alone.total_s[0] < 3.5e-3 < alone.total_s[-1]
    assert_array_equal(ahead.total_s, np.maximum(alone.total_s, 3.5e-3))
    assert_allclose(ahead.waiting_s, np.maximum(3.5e-3 - alone.total_s, 0.0), atol=1e-15)
    assert ahead.bound[0] == "overhead"
    assert ahead.bound[-1] == alone.bound[-1]
    assert np.all(ahead.serial_s >= ahead.total_s)
    rows = ahead.breakdown()
    assert rows[-1]["name"] == "waiting for the host"
    assert_allclose(sum(row["seconds"] for row in rows), ahead.total_s, rtol=1e-12)
    assert_allclose(sum(ahead.share(b) for b in BOUNDS), ahead.total_s, rtol=1e-12)
    assert [row["name"] for row in alone.breakdown()] == [row["name"] for row in rows[:-1]]


def test_on_a_cpu_launching_adds():
    machine = a_system(1e11, 1e12, layer_launch_s=100e-6, pass_launch_s=300e-6)
    without = step_time(EIGHT, a_system(1e11, 1e12), Workload(batch=[1, 64])).total_s
    cpu = replace(machine, accelerator=replace(machine.accelerator, kind="cpu"))
    step = step_time(EIGHT, cpu, Workload(batch=[1, 64]))
    assert_allclose(step.total_s, without + 3.5e-3, rtol=1e-12)
    assert_array_equal(step.waiting_s, 0.0)


@pytest.mark.parametrize(
    ("name", "published_s", "sum_is_off"),
    [("h100", 13.2e9 / 3.35e12 / 0.27, 0.3), ("l4", 13.2e9 / 300e9 / 0.81, 0.3)],
)
def test_eager_pytorch_is_bound_by_the_host_on_a_fast_card_and_by_the_card_on_a_slow_one(
    name, published_s, sum_is_off
):
    """arXiv:2605.30571: a 7B in bf16 decodes at 27 % of the bandwidth's floor on an H100, at 81 %
    on an L4. The longer of device and host is within 15 % of both; their sum of neither."""
    step = step_time(model("llama-2-7b"), system(name, "torch-eager"), Workload(context=128))
    assert step.total_s == pytest.approx(published_s, rel=0.15)
    assert (step.waiting_s > 0) == (name == "h100")
    assert step.device_s + step.launch_s > (1 + sum_is_off) * published_s


def test_eager_launches_of_24_and_12_layers():
    """Yan et al., arXiv:2402.01528: 13.13 and 6.69 ms."""
    engine = catalog_engine("torch-eager", "bf16")
    launch_s = [layers * engine.layer_launch_s + engine.pass_launch_s for layers in (24, 12)]
    assert_allclose(launch_s, [13.13e-3, 6.69e-3], rtol=0.07)


# ------------------------------------------------------------------------------- limits, monotone


def test_infinite_bandwidth_leaves_arithmetic_and_overheads():
    step = step_time(EIGHT, a_system(np.inf, 1e14, layer_overhead_s=1e-5), Workload(batch=7))
    flops = step_time(EIGHT, a_system(), Workload(batch=7)).terms
    arithmetic = sum(term.compute_s for term in flops)
    assert_allclose(step.total_s, arithmetic + 32e-5, rtol=1e-13)


def test_infinite_everything_leaves_the_overheads():
    step = step_time(EIGHT, a_system(np.inf, np.inf, layer_overhead_s=1e-5, pass_overhead_s=1e-4))
    assert_allclose(step.total_s, 32e-5 + 1e-4, rtol=1e-13)
    assert step.bound == "overhead"


def test_an_unknown_rate_is_never_the_bound():
    unknown = System(Accelerator("chip", 1e12), Engine("engine"), PRECISIONS["bf16"])
    step = step_time(EIGHT, unknown, Workload(batch=10_000, context=1))
    assert step.bound != "compute"
    assert np.isfinite(step.total_s)


sizes = st.integers(1, 3000)


@pytest.mark.parametrize("engine", ENGINES)
@given(st.data())
def test_a_step_takes_no_less_of_more(engine, data):
    machine = system("h100", engine=engine)
    scenario = {name: data.draw(sizes) for name in ("batch", "rows", "context")}
    before = step_time(EIGHT, machine, Workload(**scenario)).total_s
    for name in scenario:
        more = scenario | {name: scenario[name] + data.draw(sizes)}
        assert step_time(EIGHT, machine, Workload(**more)).total_s >= before
    bigger = step_time(SEVENTY, machine, Workload(**scenario)).total_s
    assert bigger > before


@given(st.floats(1e9, 1e14), st.floats(1e11, 1e17), st.floats(1.0, 10.0), sizes, sizes)
def test_a_faster_chip_takes_no_longer(bandwidth, flops, factor, batch, context):
    def seconds(bandwidth, flops):
        machine = a_system(bandwidth, flops, weight_efficiency=0.7, layer_overhead_s=1e-5)
        return step_time(EIGHT, machine, Workload(batch=batch, context=context)).total_s

    before = seconds(bandwidth, flops)
    assert seconds(bandwidth * factor, flops) <= before
    assert seconds(bandwidth, flops * factor) <= before
    # twice the chip and no overhead would halve the time; the overhead stays
    both = seconds(bandwidth * factor, flops * factor)
    assert_allclose(both - 32e-5, (before - 32e-5) / factor, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("engine", [*map(catalog_engine, ENGINES, ["bf16"] * len(ENGINES)),
                                    Engine("table", weight_efficiency=TABLE)],
                         ids=lambda engine: engine.name)  # fmt: skip
def test_arrays_are_the_scalars_side_by_side_to_the_last_bit(engine):
    machine = replace(system("h100"), engine=engine)
    batch, rows, context = np.array([1, 64, 700]), np.array([1, 2, 5, 9, 17]), np.array([1, 50_000])
    wide = step_time(
        ONE, machine, Workload(batch=batch[:, None, None], rows=rows[:, None], context=context)
    )
    assert wide.total_s.shape == (3, 5, 2)
    for i, j, k in np.ndindex(3, 5, 2):
        alone = step_time(ONE, machine, Workload(batch=batch[i], rows=rows[j], context=context[k]))
        assert wide.total_s[i, j, k] == alone.total_s
        assert wide.bound[i, j, k] == alone.bound


def test_bandwidth_may_be_an_array():
    speeds = np.array([1e12, 3e12, 1e15])
    chip = replace(system("h100").accelerator, bandwidth_bytes_per_s=speeds)
    wide = step_time(EIGHT, replace(system("h100"), accelerator=chip), Workload(rows=[[1], [300]]))
    for (i, j), seconds in np.ndenumerate(wide.total_s):
        one = replace(chip, bandwidth_bytes_per_s=speeds[j])
        alone = step_time(
            EIGHT, replace(system("h100"), accelerator=one), Workload(rows=[1, 300][i])
        )
        assert seconds == alone.total_s
        assert wide.bound[i, j] == alone.bound
