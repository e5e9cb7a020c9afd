"""Grids and lists in chunks are the prediction in one piece; the map picks the best gamma."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from specsim.acceptance import IID
from specsim.architecture import model
from specsim.checks import SpecsimError
from specsim.drafting import DraftModel, method
from specsim.hardware import system
from specsim.planning.sweep import blocks, speedup_map, speedups
from specsim.speculation import predict

EIGHT = model("llama-3.1-8b")
PAIR = (EIGHT, DraftModel(model("llama-3.2-1b")), system("h200-sxm"))


@given(st.lists(st.integers(1, 7), max_size=4), st.integers(1, 50))
def test_blocks_tile_the_shape(shape, most):
    hits = np.zeros(shape, dtype=int)
    for block in blocks(tuple(shape), most):
        hits[block] += 1
        assert hits[block].size <= most
    assert np.all(hits == 1)


@pytest.mark.parametrize("chunk", [1000, 7001, 2**20])
def test_a_list_in_chunks_is_the_list(chunk):
    rng = np.random.default_rng(0)
    many = 20_000
    scenario = {
        "batch": rng.integers(1, 65, many),
        "context": rng.integers(1, 30_000, many),
        "gamma": rng.integers(0, 9, many),
        "alpha": rng.random(many),
    }
    streamed = speedups(*PAIR, **scenario, chunk=chunk)
    some = slice(None, None, 97)
    in_one = predict(*PAIR, **{name: values[some] for name, values in scenario.items()})
    assert_allclose(streamed[some], in_one.speedup, rtol=1e-11)
    assert np.all(streamed[scenario["gamma"] == 0] == 1.0)


@pytest.mark.parametrize("chunk", [1, 10, 100, 2**20])
def test_a_grid_in_chunks_is_the_grid(chunk):
    scenario = {
        "batch": np.array([1, 8, 99])[:, None, None],
        "context": np.array([[10], [9000]]),
        "gamma": np.arange(4),
    }
    whole = predict(*PAIR, alpha=0.7, **scenario).speedup
    assert_allclose(speedups(*PAIR, alpha=0.7, **scenario, chunk=chunk), whole, rtol=1e-11)
    by_law = speedups(*PAIR, acceptance=IID(0.7), **scenario, chunk=chunk)
    assert_allclose(by_law, whole, rtol=1e-11)


def test_one_scenario_is_a_number():
    assert speedups(*PAIR, gamma=3, alpha=0.8).shape == ()


AXES = {
    "batch": [1, 16, 300],
    "context": [100, 5000],
    "alpha": [0.2, 0.6, 0.9],
    "gamma": [0, 2, 5],
    "bandwidth": [1e12, 4e12],
}


@pytest.mark.parametrize("x", AXES)
@pytest.mark.parametrize("y", AXES)
@pytest.mark.parametrize("chunk", [5, 2**17])
def test_a_map_over_any_two_axes(x, y, chunk):
    if x == y:
        with pytest.raises(SpecsimError, match="is given twice"):
            speedup_map(*PAIR, x=(x, AXES[x]), y=(y, AXES[y]), alpha=0.7)
        return
    fixed = {} if "alpha" in (x, y) else {"alpha": 0.7}
    drawn = speedup_map(
        *PAIR, x=(x, AXES[x]), y=(y, AXES[y]), gammas=range(6), chunk=chunk, **fixed
    )
    assert drawn.speedup.shape == drawn.gamma.shape == (len(AXES[y]), len(AXES[x]))
    for (j, yv), (i, xv) in [
        ((j, v), (i, w)) for j, v in enumerate(AXES[y]) for i, w in enumerate(AXES[x])
    ]:
        values = {y: yv, x: xv} | fixed
        machine = PAIR[2]
        if "bandwidth" in values:
            chip = replace(machine.accelerator, bandwidth_bytes_per_s=values.pop("bandwidth"))
            machine = replace(machine, accelerator=chip)
        gammas = values.pop("gamma", np.arange(6))
        alone = predict(*PAIR[:2], machine, gamma=gammas, **values)
        assert drawn.speedup[j, i] == pytest.approx(float(alone.speedup.max()), rel=1e-11)
        if np.ndim(gammas):
            assert drawn.gamma[j, i] == alone.best()
        else:
            assert drawn.gamma[j, i] == gammas


def test_an_engine_that_is_capped_gains_nothing_from_memory_beyond_its_cap():
    machine = system("h200-sxm", engine="llama.cpp", precision="fp16")
    drafter = DraftModel(model("llama-3.2-1b"), precision="q8_0")
    widths = [0.2e12, 3e12, 6e12]
    drawn = speedup_map(EIGHT, drafter, machine, x=("bandwidth", widths), y=("alpha", [0.7]))
    alone = [machine.with_bandwidth(width) for width in widths]
    found = [predict(EIGHT, drafter, one, gamma=np.arange(17), alpha=0.7) for one in alone]
    assert_allclose(drawn.speedup[0], [one.speedup.max() for one in found], rtol=1e-11)
    loading = [float(one.step.share("weights")) for one in found]
    assert loading[1] == pytest.approx(loading[2])
    assert loading[0] > 3 * loading[1]


def test_a_measured_efficiency_stays_with_another_memory():
    machine = system("h200-sxm", engine="llama.cpp", precision="fp16")
    measured = replace(machine, engine=replace(machine.engine, weight_efficiency=0.9))
    assert measured.with_bandwidth(9e12).engine.weight_efficiency == 0.9


def test_a_map_of_any_method_looks_at_its_own_gammas():
    drafter = method("medusa", EIGHT)
    drawn = speedup_map(EIGHT, drafter, PAIR[2], x=("batch", [1, 64]), y=("alpha", [0.0, 0.9]))
    assert drawn.gamma.max() <= 4
    assert np.all(drawn.gamma[0] == 0)
    assert np.all(drawn.speedup[0] == 1.0)


def test_unknown_axes_are_refused():
    with pytest.raises(SpecsimError, match="no axis is called 'temperature'; there are: batch"):
        speedup_map(*PAIR, x=("temperature", [1]), y=("alpha", [0.5]))


def test_memory_grows_with_the_output_only():
    def peak_beyond_the_output(many):
        batch = np.broadcast_to(np.arange(1, 9), (many // 8, 8))
        tracemalloc.start()
        result = speedups(*PAIR, batch=batch, gamma=4, alpha=0.8, chunk=2**14)
        peak = tracemalloc.get_traced_memory()[1] - result.nbytes
        tracemalloc.stop()
        return peak

    few, many = peak_beyond_the_output(2**17), peak_beyond_the_output(2**20)
    assert many < 1.2 * few
    assert many < 16 * 2**14 * 8 * 4


def test_a_map_of_no_points_and_of_no_gammas():
    empty = speedup_map(*PAIR, x=("batch", []), y=("alpha", [0.5, 0.8]))
    assert empty.speedup.shape == (2, 0)
    with pytest.raises(SpecsimError, match="gammas must be at least one"):
        speedup_map(*PAIR, x=("batch", [1]), y=("alpha", [0.5]), gammas=[])
