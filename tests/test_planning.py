"""The best gamma three ways, crossovers, engine settings, and elasticities with known answers."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from specsim.architecture import Architecture, model
from specsim.checks import SpecsimError
from specsim.drafting import DraftModel, method
from specsim.hardware import Accelerator, Engine, System, system
from specsim.operators import PRECISIONS
from specsim.planning import (
    ENGINES_WITH_SETTINGS,
    Plan,
    batch_ranges,
    best_gamma,
    crossover,
    engine_settings,
    marginal_rule,
    plan,
    sensitivity,
)
from specsim.speculation import predict

EIGHT, ONE = model("llama-3.1-8b"), model("llama-3.2-1b")
PAIR = (EIGHT, DraftModel(ONE), system("h100"))


def toy(name, hidden):
    """A model that is next to nothing but its LM head: hidden x 1e6 parameters."""
    return Architecture(name, hidden, 1, 1, 1, 2, 1, 1_000_000)


TOY = (
    toy("target", 70_000),
    DraftModel(toy("draft", 1_200), catch_up="none"),
    System(
        Accelerator("chip", 0.85 * 3.35e12, {"bf16": 0.70 * 989e12}),
        Engine("toy"),
        replace(PRECISIONS["bf16"], kv_bytes=0.0),
    ),
)


def test_I4_the_toy_that_stops_paying():
    planned = plan(*TOY, batches=(1, 16, 32, 64, 128, 256), gammas=range(9), alpha=0.75, context=1)
    assert planned.gamma.tolist() == [8, 8, 6, 3, 1, 0]
    assert_allclose(planned.speedup, [3.253, 3.253, 3.143, 2.476, 1.635, 1.000], atol=2e-3)
    fixed = predict(*TOY, gamma=4, alpha=0.75, context=1, batch=[1, 16, 32, 64, 128, 256]).speedup
    assert_allclose(fixed, [2.855, 2.855, 2.855, 2.203, 1.130, 0.602], atol=2e-3)


def test_I4_its_crossover():
    last = crossover(*TOY, alpha=0.75, context=1, most=512)
    assert not last.beyond
    batch = np.arange(1, 513)
    best = predict(*TOY, gamma=range(17), alpha=0.75, context=1, batch=batch[:, None]).speedup
    assert last.batch == batch[best.max(axis=1) > 1][-1]
    assert 128 < last.batch < 256
    with_four = crossover(*TOY, gammas=4, alpha=0.75, context=1, most=512)
    assert 128 < with_four.batch < last.batch
    assert crossover(*TOY, gammas=4, alpha=0.0, context=1, most=64).batch == 0
    assert crossover(*PAIR, alpha=0.9, most=8).beyond


def test_I3_the_critical_batch_is_where_verification_stops_being_free():
    # T* / (gamma + 1): H100 59.04 in bf16, by the datasheet
    machine = System(
        Accelerator("h100", 3.35e12, {"bf16": 989e12}), Engine("ideal"),
        replace(PRECISIONS["bf16"], kv_bytes=0.0),
    )  # fmt: skip
    verify = predict(TOY[0], TOY[1], machine, gamma=4, alpha=0.8, batch=[59, 60]).verify_step_s
    plain = predict(TOY[0], None, machine).step_s
    assert_allclose(verify[0], plain, rtol=1e-3)
    assert verify[1] > 1.01 * plain


@settings(max_examples=40)
@given(st.floats(0.3, 0.95), st.integers(1, 200))
def test_the_scan_the_rule_and_the_closed_form_agree_to_within_the_flat_top(alpha, batch):
    found = best_gamma(*PAIR, alpha=alpha, batch=batch, gammas=range(40))
    over = predict(*PAIR, alpha=alpha, batch=batch, gamma=range(40))
    assert over.speedup[found.scan] == over.speedup.max() == found.speedup
    assert over.speedup[found.marginal_rule] >= 0.98 * found.speedup
    assert found.scan in found.ties
    if batch == 1:
        assert abs(found.closed_form - found.scan) <= 1.0


@pytest.mark.parametrize(
    ("alpha", "cost", "real", "best"),
    [
        (0.8, 0.05, 7.85665, 8),
        (0.8, 0.2, 3.90353, 4),
        (0.6, 0.1, 2.97790, 3),
        (0.7, 0.1, 4.02454, 4),
    ],
)
def test_F1_by_every_way(alpha, cost, real, best):
    target = TOY[0]
    drafter = DraftModel(toy("draft", round(70_000 * cost)), catch_up="none")
    chip = Accelerator("chip", 1e12)  # no arithmetic to run out of
    machine = System(chip, Engine("toy"), TOY[2].precision)
    found = best_gamma(target, drafter, machine, alpha=alpha, context=1, gammas=range(30))
    assert (found.scan, found.marginal_rule) == (best, best)
    assert found.closed_form == pytest.approx(real, rel=1e-3)


def test_a_scan_finds_what_the_rule_stumbles_over():
    engine = replace(system("h100").engine, speculation_overhead_s=5e-3)
    machine = replace(system("h100"), engine=engine)
    found = best_gamma(*PAIR[:2], machine, alpha=0.9)
    assert found.scan > 3  # a high fixed cost wants long drafts
    assert best_gamma(*PAIR[:2], machine, alpha=0.2).scan == 0
    assert best_gamma(*PAIR[:2], machine, alpha=0.2).marginal_rule == 0


def test_a_plan_is_the_best_of_each_batch():
    planned = plan(*PAIR, batches=(1, 32, 512), gammas=range(9), alpha=0.8, context=2048)
    for row in planned.rows():
        over = predict(*PAIR, gamma=range(9), alpha=0.8, context=2048, batch=row["batch"])
        best = int(over.best())
        assert row["gamma"] == best
        assert row["speedup"] == over.speedup[best]
        assert [row["least_tied"], row["most_tied"]] == [over.ties()[0], over.ties()[-1]]
        assert row["tokens_per_s"] == pytest.approx(over.speculative_tokens_per_s[best])
        assert row["token_s"] * row["tokens_per_s"] == pytest.approx(row["batch"])


# ------------------------------------------------------------------------------ settings


def planned_as(batches, gammas):
    n = np.array(gammas)
    zero = np.zeros(len(gammas))
    return Plan(np.array(batches), n, zero, n, n, zero, zero, zero)


def test_neighbours_with_one_gamma_become_one_range():
    assert batch_ranges(planned_as([1, 4, 8, 32], [5, 5, 2, 0])) == [
        (1, 4, 5),
        (5, 8, 2),
        (9, 32, 0),
    ]


def test_each_engine_gets_its_own_words():
    planned = planned_as([4, 8, 32, 64], [4, 2, 1, 0])
    assert engine_settings(planned, "vllm") == {
        "num_speculative_tokens": 4,
        "num_speculative_tokens_per_batch_size": [[1, 4, 4], [5, 8, 2], [9, 32, 1], [33, 64, 0]],
    }
    # the example of TensorRT-LLM's PR #10860
    assert engine_settings(planned, "tensorrt-llm") == {
        "max_draft_len": 4,
        "draft_len_schedule": {4: 4, 8: 2, 32: 1},
    }
    by_batch = engine_settings(planned, "sglang")["by_batch"]
    assert by_batch[0] == {
        "batch": [1, 4],
        "arguments": {
            "speculative_num_steps": 4,
            "speculative_eagle_topk": 1,
            "speculative_num_draft_tokens": 5,
        },
    }
    assert by_batch[-1]["arguments"] == {}
    assert engine_settings(planned, "ideal") is None


def test_a_schedule_is_only_given_where_there_are_ranges_and_it_is_documented():
    one_range, several = planned_as([8, 64], [3, 3]), planned_as([4, 16, 64], [5, 2, 0])
    for engine, length in (("vllm", "num_speculative_tokens"), ("tensorrt-llm", "max_draft_len")):
        assert engine_settings(one_range, engine, method="eagle-3") == {length: 3}
        scheduled = engine_settings(several, engine, method="eagle-3")
        assert scheduled[length] == 5
        assert len(scheduled) == 2
        # one number: that of the largest batch at which speculation pays
        assert engine_settings(several, engine, method="n-gram") == {length: 2}
    for name in ("draft-model", "medusa", "mtp", "suffix"):  # vLLM tested the others
        assert engine_settings(several, "vllm", method=name) == {"num_speculative_tokens": 2}
    assert engine_settings(several, "vllm", method="pearl") is None


def test_settings_where_nothing_pays():
    never = planned_as([1, 8], [0, 0])
    assert [engine_settings(never, name) for name in ENGINES_WITH_SETTINGS] == [{}, {}, {}]


def test_trees_and_lookups_are_said_otherwise():
    planned = planned_as([8], [59])
    tree = method("eagle-2", EIGHT)
    assert engine_settings(planned, "vllm", tree) is None
    (row,) = engine_settings(planned, "sglang", tree)["by_batch"]
    assert row["arguments"] == {
        "speculative_num_steps": 6,
        "speculative_eagle_topk": 10,
        "speculative_num_draft_tokens": 60,
    }
    (row,) = engine_settings(planned, "sglang", method("n-gram", EIGHT))["by_batch"]
    assert row["arguments"] == {"speculative_num_draft_tokens": 60}


# ------------------------------------------------------------------------------ sensitivity


def test_elasticities_with_known_answers():
    # on a roofline without arithmetic limits, bandwidth moves everything alike: no effect
    ideal = system("h200", engine="ideal")
    moves = sensitivity(EIGHT, PAIR[1], ideal, gamma=4, alpha=0.8)
    assert moves["bandwidth"] == pytest.approx(0.0, abs=1e-9)
    tokens = lambda a: predict(EIGHT, PAIR[1], ideal, gamma=4, alpha=a).tokens_per_cycle  # noqa: E731
    slope = (tokens(0.8001) - tokens(0.7999)) / 0.0002 * 0.8 / tokens(0.8)
    assert moves["alpha"] == pytest.approx(slope, rel=1e-3)
    assert list(moves.values()) == sorted(moves.values(), key=abs, reverse=True)


def test_a_slower_host_of_the_cycle_costs_its_share():
    moves = sensitivity(*PAIR, gamma=4, alpha=0.8)
    cycle = predict(*PAIR, gamma=4, alpha=0.8)
    share = PAIR[2].engine.speculation_overhead_s / cycle.cycle_s
    assert moves["speculation_overhead_s"] == pytest.approx(-share, rel=1e-3)
    assert moves["drafting time"] == pytest.approx(float(-cycle.draft_s / cycle.cycle_s))
    assert max(moves, key=lambda name: abs(moves[name])) == "alpha"


def test_alpha_of_one_and_a_batch_of_one_have_elasticities_too():
    moves = sensitivity(*PAIR, gamma=2, alpha=1.0, batch=1)
    assert np.isfinite(list(moves.values())).all()
    assert "batch" not in moves  # a batch below 1 cannot be
    assert "batch" in sensitivity(*PAIR, gamma=2, survival=[0.8, 0.5], batch=64)


# ------------------------------------------------------------------------------ refusals


def test_refusals():
    with pytest.raises(SpecsimError, match="batches must rise, got \\[4, 2\\]"):
        plan(*PAIR, batches=(4, 2), alpha=0.5)
    with pytest.raises(SpecsimError, match="one scenario"):
        best_gamma(*PAIR, alpha=0.5, batch=[[1], [2]])
    with pytest.raises(SpecsimError, match="gamma = 0, 1, 2"):
        marginal_rule(predict(*PAIR, gamma=[0, 2], alpha=0.5))


@pytest.mark.parametrize("name", ["n-gram", "medusa", "eagle-2", "tree"])
def test_plans_of_other_methods(name):
    planned = plan(EIGHT, method(name, EIGHT), system("h100"), batches=(1, 256), alpha=0.7)
    assert np.all(planned.speedup >= 1.0)
    assert planned.gamma[1] <= planned.gamma[0]


def test_no_gamma_and_no_batch_to_choose_from_is_said():
    for ask in (best_gamma, plan, crossover):
        with pytest.raises(SpecsimError, match="gammas must be at least one whole number"):
            ask(*PAIR, gammas=[], alpha=0.8)
    with pytest.raises(SpecsimError, match="batches must rise, got"):
        plan(*PAIR, batches=[], alpha=0.8)
    with pytest.raises(SpecsimError, match="most must be a whole number >= 1, got 0"):
        crossover(*PAIR, alpha=0.8, most=0)
    with pytest.raises(SpecsimError, match="gammas must be a whole number >= 0, got -1"):
        crossover(*PAIR, gammas=-1, alpha=0.8)
    one = crossover(*PAIR, gammas=4, alpha=0.8, most=64)
    assert one == crossover(*PAIR, gammas=[4], alpha=0.8, most=64)
