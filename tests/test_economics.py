"""Joules, dollars, slots and loads: the worked examples, and limits."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from specsim import catalog
from specsim.acceptance import IID
from specsim.acceptance.latency import time_per_token_s
from specsim.acceptance.leviathan import leviathan_speedup
from specsim.architecture import model
from specsim.checks import SpecsimError
from specsim.drafting import DraftModel, Eagle, Ensemble, Lookup, method
from specsim.drafting.lookup import SEARCH_S
from specsim.drafting.methods import NEED_A_DRAFT
from specsim.hardware import Accelerator, Engine, System, system
from specsim.operators import PRECISIONS, Workload, forward_work
from specsim.planning.economics import (
    dollars_per_million_tokens,
    end_to_end_speedup,
    energy_per_token_j,
    open_loop,
    operating_point,
    token_cost,
)
from specsim.speculation import predict

EIGHT, ONE = model("llama-3.1-8b"), model("llama-3.2-1b")
PAIR = (EIGHT, DraftModel(ONE, catch_up="none"), system("h100"))


def test_O1_O2_communication_is_divided_by_tokens_per_cycle():
    weights_ms, all_reduces_ms = 139.01e9 / 8 / 3.35e12 * 1e3, 160 * 0.009
    assert_allclose([weights_ms, all_reduces_ms], [5.18682, 1.44], rtol=1e-3)
    assert_allclose(all_reduces_ms / (weights_ms + all_reduces_ms), 0.21730, rtol=1e-3)
    each = time_per_token_s([weights_ms + all_reduces_ms, all_reduces_ms], 3.3616)
    assert_allclose(each, [1.97133, 0.42837], rtol=1e-3)


def test_O3_a_quantised_target_makes_its_draft_dear():
    gamma = np.arange(20)
    for target_gb, cost, best in (
        (15.01, 0.16456, 1.83978),
        (15.01 * 0.5625 / 2, 0.58509, 1.10404),
    ):
        assert_allclose(2.47 / target_gb, cost, rtol=1e-4)
        assert_allclose(leviathan_speedup(0.75, gamma, 2.47 / target_gb).max(), best, rtol=1e-5)


def test_O4_dollars():
    assert_allclose(dollars_per_million_tokens(10, [72.1, 3530]), [38.527, 0.787], rtol=1e-3)


def test_O5_joules():
    plain = energy_per_token_j(5.6e-3, 15.01e9, 0.016e12)
    drafted = energy_per_token_j(6.8e-3, 24.89e9, (5 * 16.06 + 4 * 2.47) * 1e9, 3.3616)
    assert_allclose([plain, drafted], [1.45160, 0.61837], rtol=1e-5)


def test_a_drafter_on_a_device_of_its_own_pays_for_it():
    target, draft = PAIR[0], PAIR[1]
    beside = method("pearl", target, draft.architecture)
    prediction = predict(target, beside, PAIR[2], gamma=4, alpha=0.8)
    assert prediction.extra_devices == 1
    cost = token_cost(prediction, price_per_hour=3.0)
    rate = prediction.speculative_tokens_per_s
    assert_allclose(cost.dollars_per_million, 2 * 3 / 3600 / rate * 1e6)


def test_a_predicted_token_costs_what_its_passes_move():
    place = {"batch": 2, "context": 1000}
    prediction = predict(*PAIR, gamma=4, alpha=0.8, **place)
    cost = token_cost(prediction, price_per_hour=3.0)
    tokens = 2 * 3.3616
    weights = 2 * (8_030_261_248 - 128_256 * 4096) + 4 * 2 * 1_235_814_400
    assert_allclose(cost.bytes_moved * tokens, weights, rtol=0.05)  # and the caches
    assert cost.bytes_moved * tokens > weights
    flops = 2 * (5 * 7.5e9 * 2 + 4 * 1.236e9 * 2)
    assert_allclose(cost.flops * tokens, flops, rtol=0.05)
    rate = prediction.speculative_tokens_per_s
    assert_allclose(cost.dollars_per_million, 3 / 3600 / rate * 1e6)
    by_hand = energy_per_token_j(
        prediction.cycle_s, cost.bytes_moved * tokens, cost.flops * tokens, tokens
    )
    assert_allclose(cost.joules, by_hand)


def test_speculation_saves_bytes_and_joules_but_not_arithmetic():
    over = predict(*PAIR, gamma=range(6), alpha=0.8)
    cost = token_cost(over)
    assert cost.dollars_per_million is None
    assert cost.bytes_moved[3] < cost.bytes_moved[0]
    assert cost.joules[3] < cost.joules[0]
    assert np.all(np.diff(cost.flops) > 0)
    plain = token_cost(predict(EIGHT, None, PAIR[2]))
    for name in ("bytes_moved", "flops", "joules"):
        assert_allclose(getattr(plain, name), getattr(cost, name)[0])


@pytest.mark.parametrize("name", ["n-gram", "early-exit", "quantised-self", "eagle-3", "p-eagle"])
def test_other_drafters_are_counted_too(name):
    drafter = method(name, EIGHT)
    cost = token_cost(predict(EIGHT, drafter, PAIR[2], gamma=[0, 3], alpha=0.9))
    assert np.all(cost.joules > 0)
    assert cost.flops[1] > cost.flops[0]


def test_two_devices_move_what_one_does_and_draw_twice_the_power():
    one, two = system("h100"), system("h100", tensor_parallel=2)
    costs = []
    for machine in (one, two):
        prediction = predict(EIGHT, PAIR[1], machine, gamma=3, alpha=0.8)
        costs.append((token_cost(prediction), prediction))
    assert_allclose(costs[1][0].bytes_moved, costs[0][0].bytes_moved, rtol=0.02)
    assert_allclose(costs[1][0].flops, costs[0][0].flops, rtol=0.02)
    for (cost, prediction), power in zip(costs, (150, 300), strict=True):
        idle = power * prediction.cycle_s / prediction.tokens_per_cycle
        rest = cost.bytes_moved * 40e-12 + cost.flops * 0.7e-12
        assert_allclose(cost.joules, idle + rest)


def test_a_draft_on_one_of_eight_devices_is_counted_once():
    target, draft = model("llama-3.1-70b"), model("llama-3.2-1b")
    machine = system("h100", tensor_parallel=8)
    moved = []
    for drafter in (DraftModel(draft), DraftModel(draft, tensor_parallel=1)):
        prediction = predict(target, drafter, machine, gamma=4, alpha=0.8)
        moved.append(token_cost(prediction).bytes_moved)
    assert_allclose(moved[1], moved[0], rtol=1e-9)


def test_a_draft_reads_no_further_than_its_window():
    place = {"gamma": 4, "alpha": 0.8, "batch": 16}
    short = DraftModel(model("llama-3.2-1b"), window=512)
    cycle = predict(EIGHT, short, PAIR[2], context=32768, **place)
    whole = forward_work(EIGHT, Workload(rows=5, batch=16, context=32768), PAIR[2].precision)
    draft = forward_work(short.architecture, Workload(batch=16, context=512), PAIR[2].precision)
    first = forward_work(
        short.architecture, Workload(rows=2, batch=16, context=512), PAIR[2].precision
    )
    by_hand = whole.weight_bytes + whole.kv_bytes + 3 * (draft.weight_bytes + draft.kv_bytes)
    by_hand = by_hand + first.weight_bytes + first.kv_bytes  # which catches up
    found = token_cost(cycle).bytes_moved * 16 * cycle.tokens_per_cycle
    assert_allclose(found, by_hand)


def test_a_lookup_verifies_only_what_it_finds():
    for batch in (1, 8):
        drafter = Lookup(hit=0.4)
        cycle = predict(EIGHT, drafter, PAIR[2], gamma=[0, 10], alpha=0.9, batch=batch)
        rows = np.array([1.0, 1 + 0.4 * 10])
        by_hand = forward_work(EIGHT, Workload(rows=rows, batch=batch), PAIR[2].precision).flops
        found = token_cost(cycle).flops * batch * cycle.tokens_per_cycle
        assert_allclose(found, by_hand)


# ------------------------------------------------------------------------------ one ledger


def drafter_called(name, target):
    return method(name, target, ONE if name in NEED_A_DRAFT else None)


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("name", [*catalog.load("methods"), "ensemble"])
def test_a_method_moves_the_bytes_and_computes_the_flops_that_it_is_priced_for(name, devices):
    """On a machine that does nothing but move bytes, seconds are bytes; on one that does nothing
    but arithmetic, FLOPs. So the joules of every method are those of what its cycle is priced at,
    the pass that catches up, the projection, the tree's wide passes, the misses included."""
    drafter = Ensemble((DraftModel(ONE), Eagle(EIGHT))) if name == "ensemble" else None
    drafter = drafter or drafter_called(name, EIGHT)
    scenario = {"gamma": [[0], [1], [4]], "alpha": 0.7, "batch": [1, 16], "context": [100, 9000]}
    engine, bf16 = Engine("bare"), PRECISIONS["bf16"]
    link = {"link_bytes_per_s": np.inf, "link_latency_s": 0.0}
    moving = System(Accelerator("m", 1e12, **link), engine, bf16, devices)
    over = predict(EIGHT, drafter, moving, **scenario)
    drafting_s = over.draft_s + over.overlapped_s
    search_s = np.where(over.gamma > 0, SEARCH_S if isinstance(drafter, Lookup) else 0.0, 0.0)
    if name == "cascade":
        search_s = over.gamma * SEARCH_S / drafter.inner.acceptance_of(
            IID(drafter.inner_alpha)
        ).tokens_per_cycle(drafter.inner_gamma)  # fmt: skip
    assert_allclose(over.verification.seconds * devices * 1e12, over.verification.bytes_moved)
    moved = over.drafting.bytes_moved + np.zeros((3, 2))
    of_drafter = drafter.extra_devices or devices  # one of its own, where it has any
    assert_allclose((drafting_s - search_s) * of_drafter * 1e12, moved, rtol=1e-9)
    counting = System(Accelerator("c", np.inf, {"bf16": 1e15}, **link), engine, bf16, devices)
    over = predict(EIGHT, drafter, counting, **scenario)
    drafting_s = over.draft_s + over.overlapped_s
    # norms and elementwise work are FLOPs too, which take no time of the tensor cores'
    assert_allclose(over.verification.flops / devices / 1e15, over.verify_step_s, rtol=2e-3)
    drafted = over.drafting.flops + np.zeros((3, 2))
    assert_allclose(drafted / of_drafter / 1e15, drafting_s - search_s, rtol=2e-3)
    cost = token_cost(over)
    moved = over.verification.bytes_moved + over.drafting.bytes_moved
    assert_allclose(cost.bytes_moved * over.batch * over.tokens_per_cycle, moved)


def test_routing_moves_the_bytes_that_it_is_priced_for():
    target = model("qwen3-30b-a3b")
    machine = System(Accelerator("m", 1e12), Engine("bare"), PRECISIONS["bf16"])
    found = []
    for correlation in (None, 0.0, 0.9):
        over = predict(
            target, method("mtp", target), machine,
            gamma=4, alpha=0.7, routing_correlation=correlation,
        )  # fmt: skip
        assert_allclose(over.verify_step_s * 1e12, over.verification.bytes_moved)
        found.append(float(token_cost(over).bytes_moved))
    assert found[0] == found[1] > 1.3 * found[2]


# ------------------------------------------------------------------------------ goodput


# ------------------------------------------------------------------------------ serving


def test_P1_open_loop():
    plain, drafted = open_loop(2, 10, 0.05), open_loop(2, 12, 0.25, 3)
    assert_allclose([plain.batch, plain.token_s], [22.2222, 11.1111], rtol=1e-5)
    assert_allclose([drafted.batch, drafted.token_s], [9.6, 4.8])
    assert_allclose(plain.token_s / drafted.token_s, 2.31481, rtol=1e-5)


def test_P2_closed_loop_and_capacity():
    batch = open_loop(2, 10, 0.05).batch
    gain = time_per_token_s(10 + 0.05 * batch, 1) / time_per_token_s(12 + 0.25 * batch, 3)
    assert_allclose(gain, 1.89873, rtol=1e-5)
    plain, drafted = open_loop(2, 10, 0.05), open_loop(2, 12, 0.25, 3)
    assert_allclose([plain.capacity_tokens_per_s, drafted.capacity_tokens_per_s], [20, 12])
    with pytest.raises(SpecsimError, match=r"a token rate of 12\.5 cannot be carried"):
        open_loop(12.5, 12, 0.25, 3)
    assert open_loop(12.5, 10, 0.05).batch > 0


def test_P3_P4():
    assert_allclose(end_to_end_speedup(0.6, 2.5), 1.56250)
    assert_allclose(time_per_token_s(20, 3.68928), 5.42111, rtol=1e-5)


@pytest.mark.parametrize("gamma", [0, 3])
def test_a_predicted_server_settles_where_littles_law_holds(gamma):
    given_ = {"gamma": gamma, "alpha": 0.8, "context": 1000}
    for rate in (20.0, 500.0, 3000.0):
        load = operating_point(*PAIR, token_rate=rate, most=512, **given_)
        assert_allclose(load.batch, rate * load.token_s)  # Little's law
        if load.batch > 1:
            near = predict(*PAIR, batch=[np.floor(load.batch), np.ceil(load.batch)], **given_)
            below, above = near.speculative_tokens_per_s
            assert below <= rate * (1 + 1e-9)
            assert above >= rate * (1 - 1e-9)
    with pytest.raises(SpecsimError, match="cannot be carried: the capacity is"):
        operating_point(*PAIR, token_rate=1e7, most=64, **given_)


def test_a_straight_line_is_the_closed_form():
    plain = operating_point(EIGHT, None, PAIR[2], token_rate=400.0, most=64)
    one, two = predict(EIGHT, None, PAIR[2], batch=[4, 5]).step_s
    per_sequence = two - one
    line = open_loop(400.0, one - 4 * per_sequence, per_sequence)
    assert_allclose(plain.batch, line.batch, rtol=1e-2)


def test_refusals():
    inside = predict(EIGHT, method("pearl", EIGHT, ONE), PAIR[2], gamma=2, alpha=0.5)
    assert token_cost(inside).joules > 0
    with pytest.raises(SpecsimError, match="price_per_hour must be within"):
        dollars_per_million_tokens(-1, 10)
