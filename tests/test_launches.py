"""Kernels counted by hand, and what engines charge by them: launches, few rows of quantised
weights, overlap, and the rounds in which devices agree."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from specsim.architecture import model
from specsim.cost import step_time
from specsim.cost.roofline import UNPACKING, overlapped
from specsim.drafting import DraftModel, DynamicTree, Eagle, ParallelBlock
from specsim.hardware import system
from specsim.operators import LINEAR, Workload
from specsim.operators.launches import launched_layers
from specsim.speculation import predict

EIGHT = model("llama-3.1-8b")

# by hand, a layer: norms + mixer + MLP (see the docstring of `launches`)
BY_HAND = {
    "llama-3.1-8b": 32 * (2 + 4 + 3),
    "phi-2": 32 * (1 + 4 + 3),  # one norm feeds attention and MLP
    "qwen3-8b": 36 * (2 + 4 + 3),  # norms of queries and keys are fused with their rotation
    "gemma-2-9b": 42 * (4 + 4 + 3),  # norms in front of and behind each
    "mixtral-8x7b": 32 * (2 + 4 + 8),
    "qwen3-30b-a3b": 48 * (2 + 4 + 8),
    # MLA through a narrow middle of the queries; three dense layers, shared experts in the others
    "deepseek-v3": 61 * (2 + 4 + 4 + 2) + 3 * 3 + 58 * (8 + 4),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_kernels_counted_by_hand(name):
    assert launched_layers(model(name)) == pytest.approx(BY_HAND[name] / 9)


def test_an_engine_charges_by_kernels_unless_a_compiler_fuses_them():
    moe, dense = model("mixtral-8x7b"), model("llama-3.1-8b")
    machine = system("h100-sxm", "vllm")
    fused = replace(machine, engine=replace(machine.engine, fuses=True))

    def overhead(target, machine):
        engine = machine.engine
        last = step_time(target, machine).terms[-1].seconds - engine.pass_overhead_s
        return last / engine.layer_overhead_s

    assert overhead(dense, machine) == pytest.approx(32) == overhead(dense, fused)
    assert overhead(moe, machine) == pytest.approx(32 * 14 / 9)
    assert overhead(moe, fused) == pytest.approx(32)


# ------------------------------------------------------------------------- few rows, quantised


def linear_ms(machine, rows):
    terms = step_time(EIGHT, machine, Workload(rows=rows)).terms
    return sum(
        term.seconds for term in terms if term.operator is not None and term.operator.kind == LINEAR
    )


def test_the_first_row_of_quantised_weights_is_in_the_weight_efficiency():
    for chip in ("rtx-3090", "m4-pro"):
        machine = system(chip, "llama.cpp", "q4_k_m")
        plain = replace(machine, engine=replace(machine.engine, vector_rows=0.0))
        assert linear_ms(machine, 1) == linear_ms(plain, 1)


def test_further_rows_are_unpacked_again_up_to_the_matrix_kernels():
    machine = system("rtx-3090", "llama.cpp", "q4_k_m")
    engine, rate = machine.engine, machine.accelerator.rate("bf16")
    rows = np.array([1.0, 2.0, 4.0, 8.0])
    weights = EIGHT.parameters - EIGHT.embedding_parameters - 65 * EIGHT.hidden_size
    loads_s = linear_ms(machine, 1)
    unpacking_s = 2 * weights * (rows - 1) / (engine.vector_efficiency * rate)
    # the sum over products of a p-norm is near the p-norm of the sums
    expected = (loads_s**UNPACKING + unpacking_s**UNPACKING) ** (1 / UNPACKING)
    assert_allclose(linear_ms(machine, rows), expected, rtol=0.01)
    assert linear_ms(machine, 9) < linear_ms(machine, 8)  # another kernel
    floats = system("rtx-3090", "llama.cpp", "fp16")
    assert linear_ms(floats, 8) == linear_ms(floats, 1)


def test_matrix_kernels_work_on_whole_tiles():
    machine = system("m4-pro", "llama.cpp", "q4_k_m")
    assert machine.engine.tile_rows == 32
    assert linear_ms(machine, 9) == linear_ms(machine, 32) < linear_ms(machine, 33)


def test_every_way_to_overlap_lies_between_the_longer_time_and_the_sum():
    one, other = np.array([1.0, 2.0, 0.0]), np.array([2.0, 2.0, 3.0])
    assert_allclose(overlapped(one, other, np.inf), [2, 2, 3])
    assert_allclose(overlapped(one, other, 1.0), [3, 4, 3])
    assert_allclose(overlapped(one, other, 2.0), [np.sqrt(5), np.sqrt(8), 3])
    norms = np.array([np.inf, 1.0, 2.0])
    assert_allclose(overlapped(one, other, norms), [2, 4, 3])


# ------------------------------------------------------------------- what speculation costs


def cycle_s(drafter, gamma, *, batch=1, devices=1, **constants):
    machine = system("h100-sxm", "vllm", tensor_parallel=devices)
    names = (
        "speculation_overhead_s", "verified_row_overhead_s", "drafted_row_overhead_s",
        "draft_model_overhead_s", "sampling_overhead_s",
    )  # fmt: skip
    engine = replace(machine.engine, **dict.fromkeys(names, 0.0) | constants)
    scenario = {"gamma": gamma, "batch": batch, "alpha": 0.7}
    return float(predict(EIGHT, drafter, replace(machine, engine=engine), **scenario).cycle_s)


@pytest.mark.parametrize(
    ("constant", "drafter", "gamma", "batch", "devices", "times"),
    [
        ("speculation_overhead_s", Eagle(EIGHT), 4, 8, 1, 1),
        ("speculation_overhead_s", Eagle(EIGHT), 4, 8, 8, 4),  # 1 + log2 8 rounds
        ("verified_row_overhead_s", Eagle(EIGHT), 4, 8, 1, 32),
        ("drafted_row_overhead_s", Eagle(EIGHT), 4, 8, 1, 0),
        ("drafted_row_overhead_s", ParallelBlock(EIGHT), 4, 8, 1, 24),
        ("drafted_row_overhead_s", DynamicTree(Eagle(EIGHT), depth=3, children=5), 20, 8, 1, 64),
        ("draft_model_overhead_s", DraftModel(model("llama-3.2-1b")), 4, 8, 1, 4),
        ("draft_model_overhead_s", Eagle(EIGHT), 4, 8, 1, 0),
        ("sampling_overhead_s", DraftModel(model("llama-3.2-1b")), 4, 8, 1, 4),
    ],
)
def test_how_often_a_cycle_pays_each_constant(constant, drafter, gamma, batch, devices, times):
    scenario = {"batch": batch, "devices": devices}
    dearer = cycle_s(drafter, gamma, **scenario, **{constant: 1.0})
    assert dearer - cycle_s(drafter, gamma, **scenario) == pytest.approx(times, abs=1e-9)
