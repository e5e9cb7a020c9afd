"""Accelerators, engines and efficiency tables: looked up, interpolated, refused."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from specsim import catalog
from specsim.architecture import model
from specsim.checks import SpecsimError
from specsim.cost import forward_time
from specsim.hardware import (
    CACHE_SPEEDUP,
    Accelerator,
    EfficiencyTable,
    Engine,
    System,
    accelerator,
    catalog_engine,
    system,
)
from specsim.operators import PRECISIONS, Workload, forward_work

TABLE = EfficiencyTable([1e6, 1e8, 1e9], [1, 4], [[0.2, 0.1], [0.6, 0.4], [0.8, 0.8]])


# -------------------------------------------------------------------------------------- the ridge


@pytest.mark.parametrize(
    ("chip", "precision", "rows"),
    [
        ("a100-sxm-80gb", "bf16", 153.02),
        ("h100-sxm", "bf16", 295.22),
        ("h200-sxm", "bf16", 206.04),
        ("b200", "bf16", 281.25),
        ("h100-sxm", "fp8", 295.37),  # both sides double
        ("h100-sxm", "int4-g32", 92.26),  # only one does
    ],
)
def test_I1_I2_the_ridge_in_rows(chip, precision, rows):
    assert_allclose(system(chip, "ideal", precision).ridge_rows, rows, atol=0.005)


def test_the_ridge_is_where_a_matrix_begins_to_compute():
    machine = system("h100-sxm", "cuda-graphs")  # what arrives of the datasheet, not the datasheet
    assert_allclose(machine.ridge, machine.ridge_rows)  # two bytes, two FLOPs
    for rows, computes in ((machine.ridge_rows - 1, False), (machine.ridge_rows + 1, True)):
        work = forward_work(model("llama-3-70b"), Workload(rows=rows), machine.precision)
        terms = forward_time(work, machine).terms
        bound = next(term.bound for term in terms if term.name == "down projection")
        assert (bound == "compute") == computes


def test_the_ridge_of_a_table_is_that_of_its_largest_pass():
    chip = Accelerator("chip", 1e12, {"bf16": 1e14})
    engine = Engine("engine", weight_efficiency=TABLE, compute_efficiency=0.4)
    assert_allclose(System(chip, engine, PRECISIONS["bf16"]).ridge, 0.4 * 1e14 / (0.8 * 1e12))


# ------------------------------------------------------------------------------------ accelerators


@pytest.mark.parametrize("name", catalog.load("accelerators"))
def test_every_catalog_accelerator_has_a_bandwidth_and_rates_or_none(name):
    chip = accelerator(name)
    assert chip.bandwidth_bytes_per_s > 1e9  # decimal
    for stored in PRECISIONS.values():
        assert chip.rate(stored.math) > 1e9


@pytest.mark.parametrize(
    ("name", "ridge"), [("a100", 153.02), ("h100", 295.22), ("h200", 206.04), ("b200", 281.25)]
)
def test_I1_ridge_of_dense_bf16(name, ridge):
    chip = accelerator(name)
    assert_allclose(chip.rate("bf16") / chip.bandwidth_bytes_per_s, ridge, rtol=5e-5)


def test_a_missing_format_uses_the_next_wider_one():
    rates = {"fp32": 1e12, "fp16": 4e12, "fp8": 8e12}
    chip = Accelerator("chip", 1e12, rates)
    assert [chip.rate(math) for math in ("fp4", "fp8", "bf16", "fp16", "fp32")] == [
        8e12, 8e12, 4e12, 4e12, 1e12,
    ]  # fmt: skip
    assert Accelerator("tpu", 1e12, {"bf16": 3e12}).rate("fp16") == 3e12
    assert Accelerator("unknown", 1e12).rate("bf16") == np.inf
    assert chip.rate("int8") == 4e12
    assert Accelerator("old", 1e12, {"int8": 9e12, "bf16": 1e12}).rate("int8") == 9e12
    assert Accelerator("unknown", 1e12).rate("int8") == np.inf


# ----------------------------------------------------------------------------------------- engines


def test_ideal_is_the_datasheet():
    ideal = catalog_engine("ideal", "bf16")
    assert ideal == Engine("ideal", source=ideal.source, confidence="definition")


@pytest.mark.parametrize("name", catalog.load("engines"))
@pytest.mark.parametrize("stored", PRECISIONS)
def test_every_catalog_engine_fits_every_precision(name, stored):
    engine = catalog_engine(name, stored)
    assert 0.0 < engine.weight_efficiency <= 1.0
    for field in ("compute_efficiency", "kv_efficiency", "attention_compute_efficiency"):
        assert 0.0 < getattr(engine, field) <= 1.0
    assert engine.source


def test_unknown_names_list_the_nearest():
    with pytest.raises(SpecsimError, match=r"'h10-sxm'; nearest: .*h100-sxm"):
        system("h10-sxm")
    with pytest.raises(SpecsimError, match=r"'cuda-graph'; nearest: .*cuda-graphs"):
        system("h100", engine="cuda-graph")
    with pytest.raises(SpecsimError, match=r"'bf8'; known: .*bf16"):
        system("h100", precision="bf8")


# --------------------------------------------------------------------------------- precisions


def test_kv_precision_changes_the_cache_alone():
    plain, small = system("h100"), system("h100", kv_precision="fp8")
    assert (plain.precision.kv_bytes, small.precision.kv_bytes) == (2.0, 1.0)
    assert replace(small.precision, kv_bytes=2.0) == plain.precision


def test_another_precision_brings_the_engines_efficiency_for_it():
    graphs = system("h100", engine="cuda-graphs")
    assert graphs.with_precision("int4") == system("h100", "cuda-graphs", "int4")
    assert graphs.with_precision("int4").with_precision("bf16") == graphs
    chosen = system("h100", kv_precision="fp8").with_precision("int4")
    assert chosen.precision.kv_bytes == 1.0
    assert system("h100", precision="fp32").with_precision("bf16").precision.kv_bytes == 2.0


@pytest.mark.parametrize(
    "engine",
    [
        Engine("mine", weight_efficiency=0.5),
        Engine("calibrated", weight_efficiency=TABLE, confidence="measured"),
        replace(catalog_engine("cuda-graphs", "bf16"), weight_efficiency=0.5),
        replace(catalog_engine("cuda-graphs", "bf16"), layer_overhead_s=0.0),
    ],
    ids=["by-hand", "measured", "other-efficiency", "other-overhead"],
)
def test_what_was_measured_or_set_by_hand_stays(engine):
    base = replace(system("h100"), engine=engine)
    other = base.with_precision("int4")
    assert other.precision == PRECISIONS["int4"]
    assert other.engine.layer_overhead_s == engine.layer_overhead_s
    if engine.weight_efficiency != 0.8:  # which is the catalog's
        assert other.engine.weight_efficiency is engine.weight_efficiency


# ------------------------------------------------------------------------------ efficiency tables


def test_table_holds_its_values_at_its_points():
    for i, size in enumerate(TABLE.pass_bytes):
        for j, rows in enumerate(TABLE.rows):
            assert TABLE.at(size, rows) == TABLE.values[i, j]


def test_table_is_linear_in_log_bytes_and_its_time_in_rows():
    assert TABLE.at(1e7, 1) == pytest.approx(0.4)
    assert TABLE.at(1e7, 4) == pytest.approx(0.25)
    between_rows = 2 / 3 / 0.6 + 1 / 3 / 0.4  # the time, a third of the way
    assert TABLE.at(1e8, 2) == pytest.approx(1 / between_rows)
    fast, slow = 2 / (1 / 0.2 + 1 / 0.1), 2 / (1 / 0.6 + 1 / 0.4)
    assert TABLE.at(1e7, 2.5) == pytest.approx((fast + slow) / 2)


def test_table_edges_hold_beyond_it():
    assert TABLE.at(1e12, 1) == 0.8
    assert TABLE.at(0, 4) == TABLE.at(1.0, 100) == 0.1


def test_table_broadcasts():
    sizes, rows = np.array([0.0, 1e7, 5e8, 1e12]), np.array([[1], [3], [9]])
    wide = TABLE.at(sizes, rows)
    assert wide.shape == (3, 4)
    for (i, j), value in np.ndenumerate(wide):
        assert value == TABLE.at(sizes[j], rows[i, 0])


def test_table_of_one_size_or_one_row_count():
    assert EfficiencyTable([1e8], [1, 3], [[0.5, 0.7]]).at([1e3, 1e12], 2) == pytest.approx(
        2 / (1 / 0.5 + 1 / 0.7)
    )
    assert EfficiencyTable([1e6, 1e8], [1], [[0.5], [0.7]]).at(1e7, [1, 99]) == pytest.approx(0.6)
    assert EfficiencyTable([1e8], [1], [[0.5]]).at(3.0, 7) == 0.5


@given(st.floats(1.0, 1e13), st.floats(1.0, 1e4))
def test_table_stays_within_its_values(size, rows):
    assert 0.1 <= TABLE.at(size, rows) <= 0.8 * (1 + 1e-15)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([2, 1], [1], [[1], [1]]), "pass_bytes of an efficiency table must rise"),
        (([1, 2], [1, 1], np.ones((2, 2))), "rows of an efficiency table must rise"),
        (([0, 1], [1], np.ones((2, 1))), "pass_bytes .* must rise from above 0"),
        (([], [1], np.ones((0, 1))), "pass_bytes of an efficiency table must rise"),
        (([1, 2], [1], np.ones((1, 2))), r"must hold \(2, 1\) values above 0, got shape \(1, 2\)"),
        (([1, 2], [1], [[1], [0]]), "values above 0, got shape .* minimum 0"),
    ],
)
def test_a_table_that_is_none_is_refused(arguments, message):
    with pytest.raises(SpecsimError, match=message):
        EfficiencyTable(*arguments)


def test_a_tiny_model_stays_in_the_last_cache_between_its_own_passes():
    """H100: 50 MB of cache. Half of it holds 25 MB of weights, an 8B's 15 GB it does not."""
    machine = system("h100-sxm")
    plain = machine.engine.weight_efficiency
    assert machine.after_own_pass(25e6).engine.weight_efficiency == CACHE_SPEEDUP * plain
    assert machine.after_own_pass(25.1e6) is machine
    nothing_known = replace(machine, accelerator=replace(machine.accelerator, l2_bytes=None))
    assert nothing_known.after_own_pass(1e3) is nothing_known
    table = EfficiencyTable([1e6], [1.0], [[0.5]])
    measured = replace(machine, engine=replace(machine.engine, weight_efficiency=table))
    assert measured.after_own_pass(1e3) is measured


def test_every_accelerator_with_a_link_says_what_an_all_reduce_takes():
    for name, row in catalog.load("accelerators").items():
        assert ("link_bytes_per_s" in row) == ("link_latency_s" in row), name
