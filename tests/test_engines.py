"""Engines: constants by accelerator and format, relatives, ceilings, and their fit."""

import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from specsim import catalog
from specsim.catalog import published
from specsim.evidence.validation.cases import passes
from specsim.evidence.validation.fitting import FITTED, GROUPS, Fit, constants_of, fitted
from specsim.evidence.validation.overheads import (
    CENTRES,
    PricedCycles,
    assumed,
    cycles_of,
    fitted_overheads,
    speculated_on,
    with_overheads,
)
from specsim.evidence.validation.pricing import stack_cases
from specsim.evidence.validation.scores import half_width, step_s
from specsim.evidence.validation.speculation_scores import widths
from specsim.evidence.validation.speedups import published_speedups
from specsim.hardware import Accelerator, accelerator, catalog_engine, engine_row, entry, system

ENGINES = catalog.load("engines")
CASES, _ = passes()
ROOT = Path(__file__).parent.parent


# -------------------------------------------------------------------------------- engines.toml


def test_the_engines_the_contract_names_are_there():
    named = (
        "ideal torch-eager cuda-graphs gpt-fast vllm sglang tensorrt-llm llama.cpp mlx transformers"
    )
    assert set(named.split()) <= ENGINES.keys()
    for name, row in ENGINES.items():
        assert row["confidence"] in ("definition", "fitted", "assumed")
        assert (row["confidence"] == "fitted") == (name in FITTED)
        if name in FITTED:
            assert row["points"] > 0
            assert 0 < row["fit_error"] < row["error"]


def test_the_most_special_entry_holds():
    table = {"default": 1, "fp16": 2, "hopper": 3, "hopper fp16": 4, "edge": 5}
    hopper, edge = accelerator("h100"), accelerator("dgx-spark")
    assert table[entry(table, hopper, "fp16")] == 4
    assert table[entry(table, hopper, "q4_0")] == 3
    assert table[entry(table, edge, "fp16")] == 5  # the kind, before its family blackwell
    assert table[entry(table, accelerator("a100"), "fp16")] == 2
    assert table[entry(table, None, "bf16")] == 1
    assert table[entry(table, Accelerator("mine", 1e12), "bf16")] == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_drives_every_chip_within_its_peak(engine):
    chips = catalog.load("accelerators")
    for chip, stored in product(chips, ("bf16", "fp16", "q4_0", "int4-g32")):
        driver = system(chip, engine, stored).engine
        for field in ("weight", "compute", "kv", "attention_compute"):
            assert 0 < getattr(driver, f"{field}_efficiency") <= 1
        assert driver.layer_overhead_s >= 0


def test_a_relative_lends_what_is_missing_and_nothing_about_itself():
    eager, relative = catalog_engine("torch-eager", "bf16"), catalog_engine("transformers", "bf16")
    own = ("name", "source", "speculation_overhead_s", "sampling_overhead_s")
    assert replace(eager, **{name: getattr(relative, name) for name in own}) == relative
    assert relative.confidence == "assumed"
    early, late = (catalog_engine(n, "q4_0", accelerator("rtx-4090"))
                   for n in ("llama.cpp-2024", "llama.cpp"))  # fmt: skip
    assert early.weight_efficiency == late.weight_efficiency
    assert early.layer_overhead_s > late.layer_overhead_s
    assert early.stage_overhead_s > 0 == late.stage_overhead_s
    assert "aliases" not in engine_row("sglang")


def test_a_ceiling_caps_bytes_per_second_whatever_the_chip():
    ceiling = ENGINES["llama.cpp"]["weight_ceiling_bytes_per_s"]["ampere fp16"]
    for name, capped in (("a100", True), ("a100-sxm-40gb", True), ("rtx-3090", False)):
        chip = accelerator(name)
        engine = catalog_engine("llama.cpp", "fp16", chip)
        achieved = engine.weight_efficiency * chip.bandwidth_bytes_per_s
        assert (achieved == pytest.approx(ceiling)) == capped
        assert achieved <= ceiling * (1 + 1e-12)
    speeds = np.array([1e11, 1e12, 1e13])
    wide = catalog_engine("llama.cpp", "fp16", Accelerator("any", speeds, family="ampere"))
    assert_allclose(wide.weight_efficiency * speeds, [0.91e11, 0.91e12, ceiling], rtol=0.01)


def test_another_precision_keeps_the_chip_in_mind():
    fp16 = system("a100", "llama.cpp", "fp16")
    assert fp16.with_precision("q4_0") == system("a100", "llama.cpp", "q4_0")


# ---------------------------------------------------------------------------------- the pricing


def test_stacked_cases_cost_what_each_costs_alone():
    stack = stack_cases(CASES, ENGINES)
    alone = [step_s(case, case.engine, ENGINES) for case in CASES]
    assert_allclose(stack.seconds({}), alone, rtol=1e-12)


def test_an_operator_that_a_case_lacks_has_nothing_to_do_there():
    stack = stack_cases(CASES, ENGINES)
    router = stack.work["router"].weight_bytes
    mixtral = [case.architecture.experts is not None for case in CASES]
    assert_array_equal(router > 0, mixtral)
    first = sum(operator.weight_bytes[0] for operator in stack.work)
    assert first == pytest.approx(2 * (6738415616 - 32000 * 4096 - 65 * 4096))  # Llama-2-7B, bf16


# --------------------------------------------------------------------------------------- the fit


@pytest.fixture(scope="module")
def found() -> dict:
    return fitted(CASES, ENGINES)


@pytest.mark.parametrize(
    ("engine", "field"), [(e, f) for e, fields in FITTED.items() for f in fields]
)
def test_engines_toml_holds_what_the_rows_say(found, engine, field):
    """To the three digits that bench/fit_engines.py prints."""
    shipped, anew = ENGINES[engine][field], found[engine][field]
    if not isinstance(shipped, Mapping):
        shipped, anew = {"": shipped}, {"": anew}
    assert_allclose([anew[key] for key in shipped], list(shipped.values()), rtol=0.006)


# -------------------------------------------------------------------- what speculation costs


@pytest.fixture(scope="module")
def speedups() -> list:
    return published_speedups()[0]


def test_engines_toml_holds_the_overheads_that_the_speedups_say(speedups):
    anew = with_overheads(ENGINES, speedups)
    for engine, constants in CENTRES.items():
        shipped = [ENGINES[engine][name] for name in constants]
        assert_allclose([anew[engine][name] for name in constants], shipped, rtol=0.01)
        told = ENGINES[engine].get("speculated_on", ())
        assert list(told) == speculated_on(speedups, engine)


def test_planted_overheads_are_found_again(speedups):
    mine = [case for case in speedups if case.engine == "sglang"]
    cycles = cycles_of("sglang", mine, ENGINES)
    truth = assumed("sglang") * np.array([2.0, 3.0, 0.5, 1.0])
    made = replace(cycles, published=cycles.speedups(truth))
    found = fitted_overheads(made, np.ones(len(mine), bool))
    assert_allclose(found, truth, rtol=0.05)
    assert_allclose(made.speedups(found), made.published, rtol=0.005)
    nothing = fitted_overheads(made, np.zeros(len(mine), bool))
    assert_allclose(nothing, assumed("sglang"))


def test_a_cycle_is_a_straight_line_in_its_overheads(speedups):
    for case in speedups[::20]:
        cycles: PricedCycles = cycles_of(case.engine, [case], ENGINES)
        row = ENGINES[case.engine]
        constants = np.array([row[name] for name in cycles.names])
        predicted = float(case.predicted(ENGINES).speedup)
        assert cycles.speedups(constants)[0] == pytest.approx(predicted, rel=1e-9)


def test_widths_hold_80_percent_of_both_sides():
    ratios = np.exp(np.linspace(-0.5, 0.3, 201))
    low, high = widths(ratios)
    inside = (ratios >= 1 / (1 + low)) & (ratios <= 1 + high)
    assert np.mean(inside) == pytest.approx(0.8, abs=0.02)
    assert low > high
    assert widths(np.full(9, 0.5)) == pytest.approx((1.0, 0.0))  # published half of predicted
    heavy = widths([0.5, 1.0], [9.0, 1.0])
    assert heavy[0] > widths([0.5, 1.0], [1.0, 9.0])[0]


def test_the_bench_prints_the_shipped_file(capsys):
    spec = importlib.util.spec_from_file_location("fit_engines", ROOT / "bench" / "fit_engines.py")
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    assert (
        bench.toml({"default": 0.5, "hopper fp16": 1e12})
        == '{ default = 0.5, "hopper fp16" = 1e+12 }'
    )
    assert bench.significant(0.123456) == 0.123


def planted(group: tuple[str, ...], change: float) -> tuple[Fit, np.ndarray]:
    """The group's cases, as if constants other than the centres had made their times."""
    cases = [case for case in CASES if case.engine in group]
    fit = Fit(cases, group, ENGINES)
    truth = np.array([c.start for c in fit.constants])
    truth = truth + change * np.random.default_rng(0).uniform(-1, 1, len(truth))
    seconds = np.exp(fit.log_seconds(truth))
    made = [replace(case, seconds=float(s)) for case, s in zip(cases, seconds, strict=True)]
    return Fit(made, group, ENGINES), truth


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group[0])
def test_a_planted_machine_is_found_again(group):
    fit, truth = planted(group, 0.15)
    before = np.abs(
        fit.log_seconds(np.array([c.start for c in fit.constants])) - fit.log_seconds(truth)
    )
    after = np.abs(fit.log_seconds(fit.search(fit.usable)) - fit.log_seconds(truth))
    assert np.median(after) < 0.01
    assert np.median(after) < 0.4 * np.median(before)


def test_one_wild_row_moves_little():
    fit, _ = planted(("gpt-fast",), 0.15)
    cases = list(fit.stack.cases)
    calm = fit.search(fit.usable)
    cases[7] = replace(cases[7], seconds=10 * cases[7].seconds)
    wild = Fit(cases, ("gpt-fast",), ENGINES)
    others = np.arange(len(cases)) != 7
    moved = wild.log_seconds(wild.search(wild.usable)) - fit.log_seconds(calm)
    assert np.abs(moved[others]).max() < 0.03


def test_no_efficiency_above_one():
    cases = [case for case in CASES if case.engine == "gpt-fast"]
    fast = Fit([replace(c, seconds=c.seconds / 5) for c in cases], ("gpt-fast",), ENGINES)
    table = fast.engines_with(fast.search(fast.usable))["gpt-fast"]
    assert max(table["weight_efficiency"].values()) <= 1.0
    assert table["kv_efficiency"] <= 1.0


def test_without_any_row_the_centres_stand():
    cases = [case for case in CASES if case.engine == "vllm"]
    fit = Fit(cases, ("vllm",), ENGINES)
    nothing = fit.search(np.zeros(len(cases), bool))
    assert_allclose(nothing, [constant.centre for constant in fit.constants], atol=1e-6)


def test_every_constant_is_centred_on_an_earlier_one():
    for group in GROUPS:
        constants = constants_of(group, ENGINES)
        assert len({constant.place for constant in constants}) == len(constants)
        for i, constant in enumerate(constants):
            assert constant.spread > 0
            assert constant.parent is None or constant.parent < i
    constants = constants_of(("llama.cpp", "llama.cpp-2024"), ENGINES)
    places = [constant.place for constant in constants]
    special = constants[places.index(("llama.cpp", "weight_ceiling_bytes_per_s", "hopper fp16"))]
    assert places[special.parent][2] == "hopper"
    late = constants[places.index(("llama.cpp-2024", "layer_overhead_s", "default"))]
    assert places[late.parent] == ("llama.cpp", "layer_overhead_s", "default")


def test_half_width_holds_80_percent():
    ratios = np.exp(np.linspace(-0.5, 0.5, 101))
    wide = 1 + half_width(ratios)
    assert np.mean((ratios <= wide) & (ratios >= 1 / wide)) == pytest.approx(0.8, abs=0.02)


# ------------------------------------------------------------------------------- published tables


def test_the_tables_are_the_files():
    folder = ROOT / "specsim" / "catalog" / "published"
    assert sorted(published.TABLES) == sorted(file.stem for file in folder.glob("*.csv"))
    for table in published.TABLES:
        rows = published.rows(table)
        assert rows
        assert all(row.get("confidence") or row["source"] for row in rows)
        with pytest.raises(TypeError):
            rows[0]["notes"] = ""


def test_the_catalogs_bandwidths_are_the_published_ones():
    checked = 0
    for row in published.rows("accelerators"):
        if row["bandwidth_GBs"] and "DISAGREEMENT" not in row["notes"]:
            chip = accelerator(row["name"])
            assert chip.bandwidth_bytes_per_s == pytest.approx(1e9 * float(row["bandwidth_GBs"]))
            checked += 1
    assert checked > 40
