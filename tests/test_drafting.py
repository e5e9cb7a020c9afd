"""Drafting methods: the worked examples of each, what all of them must obey, and their refusals."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from specsim import catalog
from specsim.acceptance import IID, Markov, PerPosition
from specsim.acceptance.optimal_trees import best_tree
from specsim.architecture import model
from specsim.checks import SpecsimError
from specsim.cost import step_time
from specsim.cost.ledger import Ledger, Wait
from specsim.drafting import (
    SSD,
    Cascade,
    DraftModel,
    DynamicTree,
    Eagle,
    EarlyExit,
    Ensemble,
    Lookup,
    Medusa,
    ParallelBlock,
    Pearl,
    QuantisedSelf,
    StaticTree,
    method,
)
from specsim.drafting.drafter import Drafter, decayed
from specsim.hardware import Accelerator, Engine, System, system
from specsim.operators import PRECISIONS, Workload
from specsim.speculation import predict

EIGHT, ONE = model("llama-3.1-8b"), model("llama-3.2-1b")
NAMES = tuple(catalog.load("methods"))
WITH_DRAFT = ("draft-model", "pearl", "ssd", "cascade")
CHILDREN = (0.60, 0.15, 0.08, 0.05, 0.03)
PLACE = Workload(batch=1, context=1024)


def named(name):
    return method(name, EIGHT, ONE if name in WITH_DRAFT else None)


def gammas_of(drafter):
    return np.arange(min(12, len(drafter.gammas) - 1) + 1)


@dataclass(frozen=True)
class Fixed(Drafter):
    """A drafter whose pass takes `cost` plain steps, whatever its width."""

    cost: float
    flat: bool = False  # all drafts in one pass

    def step(self, system, workload):
        shape = np.broadcast_shapes(np.shape(workload.batch), np.shape(workload.context))
        return Ledger.of(Wait(np.full(shape, self.cost) * STEP))

    def cycle(self, system, workload, gamma):
        passes = np.minimum(gamma, 1) if self.flat else np.asarray(gamma)
        return Ledger.of(Wait(self.cost * STEP)).times(passes)


def weights_alone(overhead=0.0):
    """A machine on which a pass takes the same however wide it is; `overhead` of speculation, in
    plain steps."""
    stored = replace(PRECISIONS["bf16"], kv_bytes=0.0)
    engine = Engine("engine", speculation_overhead_s=overhead * STEP)
    return System(Accelerator("chip", 1e12), engine, stored)


STEP = 1.0
STEP = float(predict(EIGHT, None, weights_alone()).step_s)


def speedup(drafter, overhead=0.0, **arguments):
    return predict(EIGHT, drafter, weights_alone(overhead), **arguments).speedup


# ------------------------------------------------------------------------------ worked examples


def test_N1_a_lookup_that_drafts_on_a_hit_only_and_one_that_pads():
    for pad, expected in ((False, 3.21611), (True, 3.04069)):
        drafter = Lookup(hit=0.4, host_s=0.0, pad=pad)
        predicted = predict(EIGHT, drafter, weights_alone(0.1), gamma=10, alpha=0.9)
        assert_allclose(predicted.tokens_per_cycle, 3.34476, rtol=1e-5)
        assert_allclose(predicted.speedup, expected, rtol=1e-5)


def test_a_lookup_widens_the_passes_of_those_who_found_something():
    gamma, batch = np.array([0.0, 1.0, 10.0]), np.array([[1.0], [3.0]])
    assert_allclose(Lookup(hit=0.4, pad=True).verify_rows(gamma, batch), [1.0, 2.0, 11.0])
    drafting = np.array([[0.4], [1 - 0.6**3]])  # at least one of the batch found something
    assert_allclose(Lookup(hit=0.4).drafting_share(batch), drafting)
    assert_allclose(Lookup(hit=0.4).verify_rows(gamma, batch), 1 + 0.4 * gamma / drafting)
    assert_allclose(Lookup(hit=0.0).verify_rows(gamma, batch), 1.0 + 0 * gamma * batch)


@pytest.mark.parametrize(("alpha", "best"), [(0.8, 1.35556), (0.9, 1.57504)])
def test_N3_self_speculation(alpha, best):
    assert_allclose(speedup(Fixed(0.4), alpha=alpha, gamma=range(20)).max(), best, rtol=1e-5)


def test_N4_mtp_with_one_token():
    assert_allclose(speedup(Fixed(0.04), alpha=0.87, gamma=1), 1.79808, rtol=1e-5)


def test_N5_a_cascade_makes_its_middle_model_cheap():
    cascade = Cascade(Fixed(0.12), Fixed(0.01), inner_gamma=3, inner_alpha=0.8)
    assert_allclose(cascade.step(weights_alone(), PLACE).seconds / STEP, 0.05081, rtol=1e-4)


def test_N6_a_parallel_drafter():
    flat = Fixed(0.12, flat=True)
    assert_allclose(speedup(flat, 0.05, alpha=0.8, gamma=8), 3.69992, rtol=1e-5)
    decaying = decayed(IID(0.8), 0.95)
    assert_allclose(speedup(flat, 0.05, acceptance=decaying, gamma=8), 3.05729, rtol=1e-5)


def test_N7_pearl_hides_the_shorter_of_the_two():
    assert_allclose(speedup(Pearl(Fixed(0.2)), alpha=0.8, gamma=4), 3.36160, rtol=1e-5)
    assert_allclose(speedup(Fixed(0.2), alpha=0.8, gamma=4), 1.86756, rtol=1e-5)
    slow = predict(EIGHT, Pearl(Fixed(0.5)), weights_alone(), alpha=0.8, gamma=4)
    assert_allclose(slow.cycle_s, 2 * STEP)  # now drafting is the longer one
    assert_allclose(slow.overlapped_s, STEP)
    assert_allclose(slow.speedup_per_device, slow.speedup / 2)


def test_N8_ssd():
    drafter = SSD(
        Fixed(0.9 / 4),
        hit=0.8,
        backup=Fixed(0.2 / 4),
        backup_acceptance=PerPosition([0.5, 0.3, 0.1, 0.1]),
    )
    survival = [0.9, 0.7, 0.5, 0.4]  # 3.5 tokens on a hit, 2 on a miss
    predicted = predict(EIGHT, drafter, weights_alone(), gamma=4, survival=survival)
    assert_allclose(predicted.speedup, 3.07692, rtol=1e-5)
    assert_allclose(predicted.speedup_per_device, 3.07692 / 2, rtol=1e-5)


def test_N9_a_quantised_copy():
    over = predict(EIGHT, Fixed(0.35), weights_alone(), alpha=0.95, gamma=range(40))
    assert over.best() == 7
    assert_allclose(over.speedup[7], 1.95119, rtol=1e-5)


@pytest.mark.parametrize(
    ("nodes", "best", "shallow"),
    [
        (2, 1.60000, 1.60000),
        (4, 2.17600, 2.17600),
        (8, 2.63560, 2.58600),
        (16, 3.10136, 2.95400),
        (32, 3.56283, 3.25820),
        (64, 4.00845, 3.42199),
    ],
)
@pytest.mark.parametrize("kind", [StaticTree, DynamicTree])
def test_L1_trees(kind, nodes, best, shallow):
    gamma = nodes - 1
    for depth, expected in ((64, best), (3, shallow)):
        tree = kind(Fixed(0.0), CHILDREN, depth=depth)
        predicted = predict(EIGHT, tree, weights_alone(), gamma=gamma, alpha=0.6)
        assert_allclose(predicted.tokens_per_cycle, expected, rtol=1e-5)
        assert_allclose(predicted.speedup, expected, rtol=1e-5)  # drafts free, width free
        assert tree.verify_rows(gamma, 1) == nodes
        survival = tree.acceptance_of(IID(0.6)).at(gamma)
        assert_allclose(survival.tokens_per_cycle(gamma), expected, rtol=1e-5)


def test_L1_the_chain_beside_the_tree():
    chain = predict(EIGHT, Fixed(0.0), weights_alone(), gamma=[7, 15], alpha=0.6)
    assert_allclose(chain.tokens_per_cycle, [2.45801, 2.49929], rtol=1e-5)


def test_J3_J4_a_draft_with_a_window_beside_one_with_the_full_cache():
    for window, step_ms, gain in ((512, 0.62643, 3.11578), (None, 7.67286, 1.70956)):
        predicted = predict(
            EIGHT,
            DraftModel(ONE, catch_up="none", window=window),
            system("h200", engine="ideal"),
            gamma=4,
            alpha=0.8,
            batch=32,
            context=32_768,
        )
        assert_allclose(predicted.step_s, 31.76006e-3, rtol=1e-3)
        assert_allclose(predicted.draft_step_s, step_ms * 1e-3, rtol=2e-3)
        assert_allclose(predicted.speedup, gain, rtol=1e-3)


# ------------------------------------------------------------------------------ all of them


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("engine", ["ideal", "cuda-graphs", "vllm"])
def test_every_method_is_the_baseline_at_gamma_0_and_multiplies_out(name, engine):
    drafter = named(name)
    gamma = gammas_of(drafter)
    predicted = predict(
        EIGHT, drafter, system("h100", engine=engine), gamma=gamma, alpha=0.83,
        batch=[[1], [7], [300]], context=[[100], [5000], [9]],
    )  # fmt: skip
    assert np.all(predicted.speedup[:, 0] == 1.0)
    assert np.all(predicted.draft_s[:, 0] == 0.0)
    assert np.all(predicted.cycle_s[:, :1] == predicted.step_s)
    product = np.ones(())
    for factor in predicted.waterfall().values():
        product = product * factor
    assert_allclose(product, predicted.speedup, rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_an_array_is_its_scalars_side_by_side(name):
    drafter, machine = named(name), system("h100", engine="vllm")
    gamma, alpha = gammas_of(drafter)[::3], [0.2, 0.7, 1.0]
    batch, context = [1, 40], [50, 4000]
    wide = predict(
        EIGHT, drafter, machine, gamma=gamma, alpha=np.reshape(alpha, (3, 1, 1)),
        batch=np.reshape(batch, (2, 1)), context=np.reshape(context, (2, 1)),
    )  # fmt: skip
    for i, j, k in np.ndindex(3, 2, len(gamma)):
        place = {"batch": batch[j], "context": context[j]}
        alone = predict(EIGHT, drafter, machine, gamma=gamma[k], alpha=alpha[i], **place)
        for part in ("tokens_per_cycle", "draft_s", "verify_step_s", "overhead_s", "speedup"):
            assert getattr(wide, part)[i, j, k] == pytest.approx(getattr(alone, part), rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30)
@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_more_acceptance_never_hurts_and_more_drafts_never_emit_less(name, one, other):
    drafter = named(name)
    alpha = np.reshape(sorted([one, other]), (2, 1))
    predicted = predict(EIGHT, drafter, system("h100"), gamma=gammas_of(drafter)[:7], alpha=alpha)
    tokens = predicted.tokens_per_cycle
    assert np.all(tokens[0] <= tokens[1] * (1 + 1e-12))
    assert np.all(np.diff(tokens, axis=1) >= -1e-12)
    assert np.all(tokens <= predicted.gamma + 1 + 1e-12)
    assert np.all(predicted.speedup[0] <= predicted.speedup[1] * (1 + 1e-12))


@pytest.mark.parametrize("name", NAMES)
def test_every_method_refuses_a_foreign_vocabulary(name):
    if name in ("n-gram", "suffix"):
        return  # it copies the target's own tokens
    with pytest.raises(SpecsimError, match="must share the target's vocabulary"):
        predict(model("qwen3-8b"), named(name), system("h100"), gamma=1, alpha=0.5)


def test_the_catalog_has_the_methods_of_the_contract():
    contract = (
        "draft-model n-gram suffix early-exit quantised-self medusa eagle eagle-2 eagle-3 mtp tree "
        "p-eagle dflash pearl ssd cascade"
    )
    assert set(contract.split()) == set(NAMES)
    lossy = [name for name in NAMES if not named(name).lossless]
    assert lossy == ["medusa"]
    assert method("medusa", EIGHT, acceptance="exact").lossless


# ------------------------------------------------------------------------------ what each costs


def test_a_lookup_in_a_batch_is_plain_only_if_nobody_found_anything():
    drafter, machine = Lookup(hit=0.3, host_s=0.0), system("h100", engine="ideal")
    batch = np.array([1, 2, 64])
    predicted = predict(EIGHT, drafter, machine, gamma=6, alpha=0.9, batch=batch, context=1)
    anyone = 1 - 0.7**batch
    assert_allclose(drafter.drafting_share(batch), anyone)
    rows = 1 + 6 * 0.3 / anyone
    assert_allclose(drafter.verify_rows(6, batch), rows)
    assert rows[0] == pytest.approx(7)  # alone: a hit sends all its rows
    assert_allclose(anyone * rows + (1 - anyone), 1 + 6 * 0.3)  # the mean number of rows
    plain = step_time(EIGHT, machine, Workload(batch=batch, context=1)).total_s
    wide = step_time(EIGHT, machine, Workload(batch=batch, rows=rows, context=1)).total_s
    assert_allclose(predicted.verify_step_s, anyone * wide + (1 - anyone) * plain)


def test_an_early_exit_costs_its_share_of_the_layers():
    ideal = system("h100", engine="ideal")
    drafter = EarlyExit(EIGHT, kept=0.5)
    assert drafter.architecture.num_layers == 16
    place = Workload(batch=1, context=1)
    full = step_time(EIGHT, ideal, place).total_s
    head = 128256 * 4096 * 2 / 3.35e12
    assert_allclose(drafter.step(ideal, place).seconds, head + (full - head) / 2, rtol=1e-3)


def test_a_quantised_copy_costs_its_bytes():
    ideal = system("h100", engine="ideal")
    ratio = (
        QuantisedSelf(EIGHT, "int4").step(ideal, Workload(batch=1, context=1)).seconds
        / step_time(EIGHT, ideal, Workload(batch=1, context=1)).total_s
    )
    assert_allclose(ratio, (0.5 + 4 / 128) / 2, rtol=1e-3)


def test_an_eagle_head_is_a_layer_a_projection_and_an_lm_head():
    ideal = system("h100", engine="ideal")
    bytes_per_s = 3.35e12 / 2
    step = Eagle(EIGHT).step(ideal, Workload(batch=1, context=1)).seconds
    assert_allclose(step, (218.1e6 + 33.6e6 + 525.3e6) / bytes_per_s, rtol=2e-3)
    small = Eagle(EIGHT, draft_vocab=32_000).step(ideal, Workload(batch=1, context=1)).seconds
    assert_allclose(step - small, (128_256 - 32_000) * 4096 / bytes_per_s, rtol=1e-6)


def test_a_block_costs_one_pass_until_arithmetic_binds():
    machine = system("h100", engine="ideal")
    block = ParallelBlock(EIGHT, draft_vocab=32_000)
    cycle = predict(EIGHT, block, machine, gamma=[1, 4, 16], alpha=0.8).draft_s
    assert_allclose(cycle, cycle[0], rtol=1e-2)
    busy = predict(EIGHT, block, machine, gamma=[1, 16], alpha=0.8, batch=256).draft_s
    assert busy[1] > 4 * busy[0]


def test_medusa_reads_a_head_per_position_and_has_only_so_many():
    ideal = system("h100", engine="ideal")
    predicted = predict(EIGHT, Medusa(EIGHT), ideal, gamma=range(5), alpha=0.8)
    head = (4096**2 + 4096 * 128_256) * 2 / 3.35e12
    assert_allclose(predicted.draft_s, head * np.arange(5), rtol=1e-6)
    with pytest.raises(SpecsimError, match="gamma = 5: this drafter can draft at most 4 tokens"):
        predict(EIGHT, Medusa(EIGHT), ideal, gamma=5, alpha=0.8)


@dataclass(frozen=True)
class PerRow(Fixed):
    """A pass that costs its rows."""

    def step(self, system, workload):
        return Ledger.of(Wait(self.cost * workload.rows * STEP))


def test_a_static_tree_pays_a_pass_per_depth_as_wide_as_its_parents():
    tree = StaticTree(PerRow(0.01), CHILDREN, depth=4)
    gamma = np.array([0, 1, 3, 7, 20, 40])
    cycle = tree.cycle(weights_alone(), PLACE, gamma).seconds
    for nodes, seconds in zip(gamma, cycle, strict=True):
        rows = best_tree(CHILDREN, int(nodes) + 1, 4).draft_rows
        assert_allclose(seconds, 0.01 * STEP * rows.sum())


def test_a_dynamic_tree_pays_its_full_width_and_is_the_best_for_each_alpha():
    tree = DynamicTree(PerRow(0.01), CHILDREN, depth=4, children=8)
    cycle = tree.cycle(weights_alone(), PLACE, np.array([0, 1, 2, 9, 40])).seconds
    assert_allclose(cycle / STEP, 0.01 * np.array([0, 1, 9, 25, 25]))
    static = StaticTree(PerRow(0.01), CHILDREN, depth=4)
    gamma = np.arange(30)
    for alpha in (0.3, 0.6, 0.9):
        adapted = tree.acceptance_of(IID(alpha)).tokens_per_cycle(gamma)
        assert np.all(adapted >= static.acceptance_of(IID(alpha)).tokens_per_cycle(gamma) - 1e-12)
    wide = tree.acceptance_of(IID([[0.3], [0.9]])).tokens_per_cycle(gamma)
    assert_allclose(wide[1], tree.acceptance_of(IID(0.9)).tokens_per_cycle(gamma))


def test_a_tree_that_is_a_chain_is_the_chain():
    chain = StaticTree(DraftModel(ONE), (0.5,), depth=20)
    gamma = np.arange(8)
    machine = system("h100")
    tree = predict(EIGHT, chain, machine, gamma=gamma, alpha=0.7)
    plain = predict(EIGHT, DraftModel(ONE), machine, gamma=gamma, alpha=0.7)
    assert_allclose(tree.speedup, plain.speedup, rtol=1e-12)


def test_a_tree_ends_where_the_survival_vector_does():
    machine, gamma = system("h100"), np.arange(12)
    for kind in (StaticTree, DynamicTree):
        tree = kind(DraftModel(ONE), CHILDREN, depth=6)
        short = predict(EIGHT, tree, machine, gamma=gamma, survival=[0.8, 0.5])
        shallow = kind(DraftModel(ONE), CHILDREN, depth=2)
        capped = predict(EIGHT, shallow, machine, gamma=gamma, survival=[0.8, 0.5])
        assert np.all(short.tokens_per_cycle <= capped.tokens_per_cycle + 1e-12)
        assert short.tokens_per_cycle[1] == pytest.approx(1.8)
        with_markov = predict(EIGHT, tree, machine, gamma=3, acceptance=Markov(0.9, 0.9, 0.5, 0.5))
        same = predict(EIGHT, tree, machine, gamma=3, alpha=0.9)
        assert_allclose(with_markov.speedup, same.speedup)


def test_ensembles_cost_the_sum_and_cascades_less_than_their_middle():
    machine = system("h100")
    two = Ensemble((DraftModel(ONE), DraftModel(ONE, precision="int8")))
    parts = [one.cycle(machine, PLACE, 3).seconds for one in two.drafters]
    assert_allclose(two.cycle(machine, PLACE, 3).seconds, sum(parts))
    cascade, middle = named("cascade"), DraftModel(ONE)
    assert cascade.step(machine, PLACE).seconds < middle.step(machine, PLACE).seconds


def test_deeper_drafts_of_a_head_decay_and_a_measured_survival_does_not_again():
    drafter = Eagle(EIGHT, decay=0.9)
    assert_allclose(
        drafter.acceptance_of(IID(0.8)).tokens_per_cycle(5), 3.08118, rtol=1e-5
    )  # theory G4
    given_vector = PerPosition([0.7, 0.5])
    assert drafter.acceptance_of(given_vector) is given_vector


@pytest.mark.parametrize(
    ("name", "survival", "slack"),
    [
        ("eagle", (0.68, 0.39, 0.20, 0.10, 0.06, 0.03, 0.02), 0.04),
        ("eagle-3", (0.76, 0.54, 0.39, 0.28, 0.21, 0.15, 0.12), 0.04),
    ],
)
def test_the_catalogs_decay_is_that_of_the_published_survival(name, survival, slack):
    acceptance = method(name, EIGHT).acceptance_of(IID(survival[0]))
    assert abs(acceptance.tokens_per_cycle(7) - 1 - sum(survival)) < slack
    assert np.all(np.abs(acceptance.survival(np.arange(1, 8)) - survival) < slack)


def test_a_draft_on_one_device_beside_a_split_target():
    split, alone = system("h100", tensor_parallel=4), system("h100")
    drafter = DraftModel(ONE, tensor_parallel=1)
    assert drafter.step(split, PLACE).seconds == DraftModel(ONE).step(alone, PLACE).seconds
    assert DraftModel(ONE).step(split, PLACE).seconds != drafter.step(split, PLACE).seconds
    pearl = predict(EIGHT, Pearl(drafter), split, gamma=3, alpha=0.8)
    assert_allclose(pearl.speedup_per_device, pearl.speedup * 4 / 5)


@pytest.mark.parametrize("around", [Pearl, SSD])
def test_a_draft_beside_the_target_is_priced_on_the_devices_that_it_is_counted_for(around):
    """One of its own, or those that it is split over; never the target's."""
    split, alone = system("h100", tensor_parallel=4), system("h100")
    of_one = DraftModel(ONE).cycle(alone, PLACE, 3)
    for inner, devices in ((DraftModel(ONE), 1), (DraftModel(ONE, tensor_parallel=2), 2)):
        beside = around(inner)
        assert beside.extra_devices == devices
        again = DraftModel(ONE).cycle(system("h100", tensor_parallel=devices), PLACE, 3)
        assert_allclose(beside.cycle(split, PLACE, 3).seconds, again.seconds)
        predicted = predict(EIGHT, beside, split, gamma=3, alpha=0.8)
        assert_allclose(predicted.speedup_per_device, predicted.speedup * 4 / (4 + devices))
    assert_allclose(around(DraftModel(ONE)).cycle(split, PLACE, 3).seconds, of_one.seconds)


def test_a_search_takes_what_the_calibration_timed_unless_it_is_given():
    machine = system("h100")
    timed = replace(machine, engine=replace(machine.engine, lookup_overhead_s=5e-3))
    seconds = [
        float(predict(EIGHT, drafter, on, gamma=4, alpha=0.5).draft_s)
        for drafter in (Lookup(), method("n-gram", EIGHT), Lookup(host_s=1e-3))
        for on in (machine, timed)
    ]
    assert_allclose(seconds, [50e-6, 5e-3, 50e-6, 5e-3, 1e-3, 1e-3], rtol=1e-9)
    assert_allclose(method("n-gram", EIGHT, host_s=2e-3).cycle(timed, PLACE, 1).seconds, 2e-3)


def test_a_lookup_asks_for_the_survival_of_cycles_of_its_length():
    """Also where the inner model's survival depends on gamma: the misses accept nothing."""
    chain = Markov(0.9, 0.5, stay_easy=0.8, stay_hard=0.6)
    mixed = Lookup(hit=0.4).acceptance_of(chain)
    assert_allclose(mixed.at(4).vector, 0.4 * np.asarray(chain.at(4).vector))
    request = predict(EIGHT, Lookup(), system("h100"), gamma=4, acceptance=chain).request(64)
    assert np.isfinite(request.mean_s)


def test_the_band_of_a_cycle_is_as_much_that_of_a_verification_as_it_is_one():
    """Of copies that are found most of it, of a draft as large as the target less."""
    machine = system("rtx-4090", engine="llama.cpp", precision="q4_k_m")
    usual, wide = machine.engine.error, machine.engine.verification_error
    assert wide > usual
    for drafter, least, most in ((Lookup(hit=1.0), 0.6, 0.8), (DraftModel(EIGHT), 0.1, 0.4)):
        errors = (over := predict(EIGHT, drafter, machine, gamma=4, alpha=0.6)).errors
        part = float(over.verify_step_s / over.cycle_s)
        assert least < part < most
        assert_allclose(errors["cycle_s"], usual + part * (wide - usual))
        assert usual < errors["cycle_s"] <= errors["verify_step_s"]
    assert predict(EIGHT, Lookup(), machine, gamma=0, alpha=0.6).errors["cycle_s"] == usual


@pytest.mark.parametrize("name", ["gpt-oss-120b", "gemma-3-27b", "mistral-7b-v0.1"])
def test_an_eagle_head_sees_all_tokens_of_a_target_with_windows(name):
    shape = model(name)
    head = Eagle(shape).architecture
    assert not head.sliding_layers
    machine = system("h200", tensor_parallel=2)
    short, long = (
        Eagle(shape).held_bytes(machine, batch=1, slots=slots)[1] for slots in (1024, 65536)
    )
    assert_allclose(long, 64 * short)


def test_a_tree_reads_again_a_path_and_not_all_nodes():
    machine = system("h100", engine="sglang")
    place = Workload(batch=16, context=1024)
    head = Eagle(EIGHT)
    for tree in (DynamicTree(head, depth=5), StaticTree(head, depth=5)):
        first = tree._first_step(machine, place, np.array(60))
        assert_allclose(first.seconds, head.first_step(machine, place, 5).seconds)
        small = tree._first_step(machine, place, np.array(2))
        assert_allclose(small.seconds, head.first_step(machine, place, 2).seconds)


@pytest.mark.parametrize("precision", ["bf16", "fp8", "int4"])
@pytest.mark.parametrize("devices", [1, 2])
def test_a_head_holds_what_it_reads(precision, devices):
    """Of a plain step all but the tables that are the target's: a reduced LM head in its format."""
    machine = system("h100", engine="ideal", precision=precision, tensor_parallel=devices)
    for vocab in (None, 32_000):
        head = Eagle(EIGHT, draft_vocab=vocab)
        held, _ = head.held_bytes(machine, batch=1, slots=0)
        stored, hidden = machine.precision, EIGHT.hidden_size
        layer = 2 * hidden * (4096 + 1024) + 3 * hidden * 14336
        own = (layer + 2 * hidden**2) * stored.weight_bytes
        own += 0 if vocab is None else vocab * hidden * stored.bytes_per_head_weight
        norms = 3 * hidden * stored.activation_bytes
        assert_allclose(held, own / devices + norms, rtol=1e-9)


@pytest.mark.parametrize("target", ["deepseek-r1", "qwen3-30b-a3b", "gpt-oss-20b", "gemma-2-9b"])
@pytest.mark.parametrize("name", [name for name in NAMES if name not in WITH_DRAFT])
def test_methods_draft_for_experts_latents_and_windows(target, name):
    shape = model(target)
    machine = system("h200", engine="vllm", tensor_parallel=8 if target == "deepseek-r1" else 1)
    predicted = predict(shape, method(name, shape), machine, gamma=range(4), alpha=0.8)
    assert predicted.speedup[0] == 1.0
    assert np.all(np.isfinite(predicted.speedup))


def test_an_mtp_module_has_the_targets_experts_and_an_eagle_head_none():
    shape = model("deepseek-r1")
    assert method("mtp", shape).architecture.expert_layers == 1
    assert method("eagle-3", shape).architecture.expert_layers == 0


# ------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: method("eagel", EIGHT), "nearest: eagle"),
        (lambda: method("eagle", EIGHT, ONE), "has no draft model: leave out the draft"),
        (lambda: method("pearl", EIGHT), "needs a draft model"),
        (lambda: method("n-gram", EIGHT, hits=0.5), "has no parameter 'hits'; it has: hit, host_s"),
        (lambda: method("n-gram", EIGHT, draft_precision="int8"), "whose precision could differ"),
        (lambda: Lookup(hit=1.2), r"hit must be within \[0, 1\], got 1.2"),
        (lambda: Lookup(host_s=-1.0), "host_s must be seconds >= 0"),
        (lambda: EarlyExit(EIGHT, kept=0.0), "kept must be above 0"),
        (lambda: QuantisedSelf(EIGHT, "int3"), "unknown precision 'int3'"),
        (lambda: Medusa(EIGHT, acceptance="fuzzy"), "typical or exact, not 'fuzzy'"),
        (lambda: Medusa(EIGHT, heads=0), "heads must be a whole number >= 1"),
        (lambda: Eagle(EIGHT, draft_vocab=200_000), "must be a part of the 128256 tokens"),
        (lambda: StaticTree(Fixed(0.1), (0.9, 0.2)), "sum to at most 1"),
        (lambda: StaticTree(Fixed(0.1), depth=0), "depth must be a whole number >= 1"),
        (lambda: Ensemble(()), "at least one drafter"),
        (lambda: DraftModel(ONE, window=0), "window must be a whole number >= 1"),
        (lambda: Eagle(EIGHT, own_layer=True, layers=2), "an MTP module is one layer"),
        (lambda: DraftModel(ONE, tensor_parallel=0), "tensor_parallel must be a whole number"),
        (lambda: StaticTree(Fixed(0.1)).acceptance_of(IID(0.5)).survival(2), "at\\(gamma\\)"),
    ],
)
def test_refusals(build, message):
    with pytest.raises(SpecsimError, match=message):
        build()


def test_a_drafter_of_ones_own_needs_only_a_step():
    class Own(Drafter):
        def step(self, system, workload):
            return Ledger.of(Wait(0.1 * STEP))

    assert_allclose(speedup(Own(), alpha=0.8, gamma=4), 2.40114, rtol=1e-5)
    assert Own().lossless


def test_what_is_not_a_drafter_is_refused():
    with pytest.raises(SpecsimError, match=r"such as DraftModel\(model\), not Architecture"):
        predict(EIGHT, ONE, system("h100"), gamma=2, alpha=0.5)
    with pytest.raises(
        SpecsimError, match="Costless does not say what a draft pass costs: define step"
    ):
        predict(EIGHT, type("Costless", (Drafter,), {})(), system("h100"), gamma=2, alpha=0.5)
