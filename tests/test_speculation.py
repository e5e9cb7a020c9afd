"""Predicted speedups: closed forms where costs are simple, limits, bits at gamma = 0, bounds."""

import inspect
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from specsim import catalog, prediction
from specsim.acceptance import IID, BetaMixture, Markov, TextTrace
from specsim.acceptance.leviathan import leviathan_speedup
from specsim.architecture import model
from specsim.checks import SpecsimError
from specsim.cost import Ledger, Wait, step_time
from specsim.drafting import CATCH_UPS, Drafter, DraftModel, method
from specsim.drafting.methods import NEED_A_DRAFT
from specsim.hardware import Accelerator, EfficiencyTable, Engine, System, system
from specsim.operators import PRECISIONS, Workload
from specsim.speculation import predict

EIGHT, SEVENTY, ONE = model("llama-3.1-8b"), model("llama-3.1-70b"), model("llama-3.2-1b")
DRAFT = DraftModel(ONE)
ENGINES = tuple(catalog.load("engines"))
TABLE = EfficiencyTable([1e6, 1e9, 1e11], [1, 8, 64], [[0.1, 0.2, 0.2], [0.7, 0.6, 0.5], [0.9] * 3])
LOADED = Engine(
    "loaded",
    weight_efficiency=TABLE,
    compute_efficiency=0.7,
    kv_efficiency=0.5,
    activation_efficiency=0.6,
    layer_overhead_s=31e-6,
    pass_overhead_s=53e-6,
    cycle_overhead_s=37e-6,
    speculation_overhead_s=71e-6,
    drafting_overhead_s=19e-6,
    sampling_overhead_s=13e-6,
    logit_overhead_s=1.7e-12,
    error=0.15,
)


def name_of(engine):
    return engine if isinstance(engine, str) else engine.name


def h100(engine="cuda-graphs"):
    if isinstance(engine, Engine):
        return replace(system("h100"), engine=engine)
    return system("h100", engine=engine)


@dataclass(frozen=True)
class FixedCost(Drafter):
    """A drafter whose pass takes `cost` plain steps: what Leviathan's formula is about."""

    cost: float
    plain_step_s: float

    def step(self, system, workload):
        return Ledger.of(Wait(self.cost * self.plain_step_s))


def weights_alone():
    """A machine on which a pass reads its weights and does nothing else, however wide it is."""
    stored = replace(PRECISIONS["bf16"], kv_bytes=0.0)
    return System(Accelerator("chip", 1e12), Engine("engine"), stored)


def predict_fixed(cost, **arguments):
    machine = weights_alone()
    step = predict(EIGHT, None, machine).step_s
    return predict(EIGHT, FixedCost(cost, float(step)), machine, **arguments)


# ------------------------------------------------------------------------------------ closed forms


@given(st.floats(0.0, 1.0), st.floats(0.0, 2.0))
def test_with_free_width_it_is_leviathans_formula(alpha, cost):
    gamma = np.arange(12)
    predicted = predict_fixed(cost, alpha=alpha, gamma=gamma)
    assert_allclose(predicted.speedup, leviathan_speedup(alpha, gamma, cost), rtol=1e-12)


def test_interview_12_tokens_per_cycle_counts_the_bonus():
    assert_allclose(predict_fixed(0.0, alpha=0.8, gamma=4).tokens_per_cycle, 3.3616, rtol=1e-12)
    # one tool dropped the bonus token by min(expected, gamma): 2 instead of 2.85
    assert_allclose(predict_fixed(0.0, alpha=0.95, gamma=2).tokens_per_cycle, 2.8525, rtol=1e-12)


def test_interview_13_speedup_and_its_bound():
    assert_allclose(predict_fixed(0.05, alpha=0.8, gamma=4).speedup, 2.8013, rtol=1e-4)
    assert_allclose(predict_fixed(0.0, alpha=0.8, gamma=400).speedup, 5.0, rtol=1e-12)


def test_interview_14_best_gamma_and_its_ties():
    predicted = predict_fixed(0.05, alpha=0.8, gamma=range(16))
    assert predicted.best() == 8
    assert_allclose(predicted.speedup[8], 3.0921, rtol=1e-4)
    assert predicted.ties().tolist() == [6, 7, 8, 9, 10]
    by_alpha = predict_fixed(0.05, alpha=[[0.0], [0.8], [1.0]], gamma=range(16))
    assert by_alpha.best().tolist() == [0, 8, 15]


def test_J4_long_context_with_the_full_cache_of_the_draft():
    # W_d 2.47 GB and kappa_d 32768 B are the 1B model's: 1.70956 with its full KV
    predicted = predict(
        EIGHT,
        DraftModel(ONE, catch_up="none"),
        system("h200", engine="ideal"),
        gamma=4,
        alpha=0.8,
        batch=32,
        context=32_768,
    )
    assert_allclose(predicted.draft_step_s, 7.67286e-3, rtol=1e-3)
    assert_allclose(predicted.speedup, 1.70956, rtol=1e-3)


def test_interview_30_an_eager_draft_costs_its_layers():
    draft, target = model("qwen3-0.6b"), model("qwen3-8b")
    eager = Engine("eager", layer_overhead_s=0.5e-3)
    slow = System(Accelerator("chip", np.inf), eager, PRECISIONS["bf16"])
    predicted = predict(target, DraftModel(draft), slow, gamma=range(6), alpha=0.8)
    assert_allclose(predicted.draft_step_s / predicted.step_s, 28 / 36)
    assert predicted.best() == 1
    assert_allclose(predicted.speedup[[1, 4]], [1.01, 0.82], atol=0.005)


# --------------------------------------------------------------------------- gamma = 0, to the bit


@pytest.mark.parametrize("engine", [*ENGINES, LOADED], ids=name_of)
@pytest.mark.parametrize("catch_up", CATCH_UPS)
def test_gamma_0_is_the_baseline_bit_for_bit(engine, catch_up):
    drafter = DraftModel(ONE, precision="int4", catch_up=catch_up)
    scenario = {"batch": np.array([[1], [3], [64]]), "context": np.array([[77], [1024], [9999]])}
    wide = predict(EIGHT, drafter, h100(engine), gamma=range(7), alpha=0.83, **scenario)
    assert np.all(wide.speedup[:, 0] == 1.0)
    assert np.all(wide.cycle_s[:, :1] == wide.step_s)
    assert np.all(wide.speculative_tokens_per_s[:, :1] == wide.tokens_per_s)
    assert np.all(wide.draft_s[:, 0] == 0.0)
    alone = predict(EIGHT, drafter, h100(engine), gamma=0, alpha=0.83, context=77)
    assert alone.speedup == 1.0
    low, high = wide.band["speedup"]
    assert np.all(low[:, 0] == 1.0)
    assert np.all(high[:, 0] == 1.0)
    for factor in wide.waterfall().values():
        assert_allclose(np.broadcast_to(factor, (3, 7))[:, 0], 1.0, rtol=1e-15)


@given(st.integers(1, 2000), st.integers(1, 10**6), st.floats(0.0, 1.0))
def test_gamma_0_is_the_baseline_anywhere(batch, context, alpha):
    for gamma in (0, [0, 3]):
        wide = predict(
            EIGHT, DRAFT, h100(LOADED), gamma=gamma, alpha=alpha, batch=batch, context=context
        )
        assert np.ravel(wide.speedup)[0] == 1.0


def test_plain_decoding_needs_neither_drafter_nor_acceptance():
    plain = predict(EIGHT, None, h100(), batch=[1, 8])
    assert plain.speedup.tolist() == [1.0, 1.0]
    assert np.all(np.isnan(plain.draft_step_s))
    assert_allclose(plain.tokens_per_s, np.array([1, 8]) / plain.step_s)


# ------------------------------------------------------------------------------------- broadcasting


def test_arrays_are_the_scalars_side_by_side():
    batch, gamma, alpha = [1, 50], [0, 2, 5], [0.3, 0.9, 1.0]
    errors = [0.0, 0.1, 0.2]
    wide = predict(
        EIGHT,
        DRAFT,
        h100(LOADED),
        gamma=gamma,
        alpha=np.reshape(alpha, (3, 1, 1)),
        batch=np.reshape(batch, (2, 1)),
        tokens_error=errors,
    )
    names = ("draft_s", "verify_step_s", "overhead_s", "cycle_s", "tokens_per_cycle", "speedup")
    for i, j, k in np.ndindex(3, 2, 3):
        scenario = {"gamma": gamma[k], "alpha": alpha[i], "batch": batch[j]}
        alone = predict(EIGHT, DRAFT, h100(LOADED), **scenario, tokens_error=errors[k])
        for name in names:
            assert getattr(wide, name)[i, j, k] == pytest.approx(getattr(alone, name), rel=1e-15)
        for name, edges in alone.band.items():
            for edge, several in zip(edges, wide.band[name], strict=True):
                several = np.broadcast_to(several, (3, 2, 3))
                assert several[i, j, k] == pytest.approx(edge, rel=1e-15)
        for name, factor in alone.waterfall().items():
            several = np.broadcast_to(wide.waterfall()[name], (3, 2, 3))
            assert several[i, j, k] == pytest.approx(factor, rel=1e-14)


def test_shape_is_that_of_everything_given():
    for arguments, shape in [
        ({"gamma": 0, "alpha": [0.5, 0.8]}, (2,)),
        ({"gamma": 3, "alpha": 0.5}, ()),
        ({"gamma": [0, 1], "alpha": 0.5, "context": [[10], [20], [30]]}, (3, 2)),
        ({"gamma": 2, "survival": np.full((4, 3), 0.5)}, (4,)),
    ]:
        predicted = predict(EIGHT, DRAFT, h100(), **arguments)
        assert predicted.speedup.shape == shape
        assert predicted.draft_s.shape == predicted.overhead_s.shape == shape


def test_bandwidth_may_be_an_array():
    chip = replace(h100().accelerator, bandwidth_bytes_per_s=np.array([[1e12], [4e12]]))
    wide = predict(EIGHT, DRAFT, replace(h100(), accelerator=chip), gamma=range(4), alpha=0.8)
    assert wide.speedup.shape == (2, 4)
    assert wide.speedup[:, 0].tolist() == [1.0, 1.0]


# -------------------------------------------------------------------------------- the acceptance


def test_acceptance_in_every_form_is_the_same():
    reference = predict(EIGHT, DRAFT, h100(), gamma=4, alpha=0.8).speedup
    survival = 0.8 ** np.arange(1, 9)
    for arguments in (
        {"survival": survival},
        {"tokens_per_cycle": 3.3616},
        {"acceptance": IID(0.8)},
        {"acceptance": TextTrace(np.full((2, 30), 0.8))},
        {"acceptance": Markov(0.8, 0.8, 0.5, 0.5)},
        {"acceptance": BetaMixture(0.8, np.inf)},
    ):
        predicted = predict(EIGHT, DRAFT, h100(), gamma=4, **arguments)
        assert_allclose(predicted.speedup, reference, rtol=1e-12)


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.integers(0, 12))
def test_speedup_grows_with_alpha(one, other, gamma):
    low, high = sorted([one, other])
    slow, fast = predict(EIGHT, DRAFT, h100(), gamma=gamma, alpha=[low, high]).speedup
    assert slow <= fast * (1 + 1e-14)


# -------------------------------------------------------------------------------------- the cycle


@pytest.mark.parametrize("engine", [*ENGINES, LOADED], ids=name_of)
def test_waterfall_multiplies_out_to_the_speedup(engine):
    predicted = predict(
        EIGHT, DRAFT, h100(engine), gamma=range(9), alpha=[[0.1], [0.9]], batch=[[[1]], [[200]]]
    )
    factors = predicted.waterfall()
    assert list(factors) == ["ideal", "acceptance", "drafting", "wider verification", "overhead"]
    product = np.ones(())
    for factor in factors.values():
        product = product * factor
    assert_allclose(product, predicted.speedup, rtol=1e-12)
    for name in ("acceptance", "drafting", "wider verification", "overhead"):
        assert np.all(factors[name] <= 1.0 + 1e-14)


def test_waterfall_names_the_right_culprit():
    ideal = predict(EIGHT, DRAFT, h100("ideal"), gamma=4, alpha=1.0).waterfall()
    assert (ideal["ideal"], ideal["acceptance"], ideal["overhead"]) == (5.0, 1.0, 1.0)
    coin = predict(EIGHT, DRAFT, h100("ideal"), gamma=4, alpha=0.5).waterfall()
    assert coin["acceptance"] == pytest.approx(1.9375 / 5)
    busy = {"alpha": 1.0, "batch": 512, "context": 1}
    crowded = predict(EIGHT, DRAFT, h100("ideal"), gamma=4, **busy).waterfall()
    assert crowded["wider verification"] < 0.5
    assert ideal["wider verification"] > 0.999
    heavy = predict(EIGHT, DraftModel(EIGHT), h100("ideal"), gamma=4, alpha=1.0).waterfall()
    assert heavy["drafting"] == pytest.approx(1 / 5, rel=1e-3)
    host = Engine("host", speculation_overhead_s=1.0)
    assert predict(EIGHT, DRAFT, h100(host), gamma=4, alpha=1.0).waterfall()["overhead"] < 0.02


def test_a_cycle_is_its_parts_by_hand():
    gamma, batch, vocab = 3, 2, EIGHT.vocab_size
    predicted = predict(EIGHT, DRAFT, h100(LOADED), gamma=gamma, alpha=0.8, batch=batch)

    def pass_s(shape, rows=1):
        return step_time(shape, h100(LOADED), Workload(batch=batch, rows=rows)).total_s

    logits = 1.7e-12 * batch * vocab
    assert_allclose(predicted.step_s, pass_s(EIGHT) + 37e-6 + logits)
    assert_allclose(predicted.draft_step_s, pass_s(ONE) + 13e-6 + logits)
    drafting = pass_s(ONE, rows=2) + 2 * pass_s(ONE) + 3 * (13e-6 + logits) + 19e-6
    assert_allclose(predicted.draft_s, drafting)
    assert_allclose(predicted.verify_step_s, pass_s(EIGHT, rows=gamma + 1))
    assert_allclose(predicted.overhead_s, 37e-6 + 71e-6 + (gamma + 1) * logits)
    parts = predicted.draft_s + predicted.verify_step_s + predicted.overhead_s
    assert_allclose(predicted.cycle_s, parts, rtol=1e-15)
    assert_allclose(
        predicted.speedup, predicted.speculative_tokens_per_s / predicted.tokens_per_s, rtol=1e-14
    )


@pytest.mark.parametrize(("catch_up", "passes"), [("none", 3), ("pass", 4)])
def test_the_draft_pays_a_pass_per_token_and_its_catch_up(catch_up, passes):
    drafter = DraftModel(ONE, catch_up=catch_up)
    predicted = predict(EIGHT, drafter, h100(), gamma=[0, 1, 3], alpha=0.8)
    step = predicted.draft_step_s[0]
    assert_allclose(predicted.draft_s, [0.0, (passes - 2) * step, passes * step], rtol=1e-14)


def test_a_catch_up_row_is_nearly_free():
    row, none = (
        predict(EIGHT, DraftModel(ONE, catch_up=name), h100(), gamma=3, alpha=0.8).draft_s
        for name in ("row", "none")
    )
    assert none < row < 1.01 * none


def test_a_draft_in_another_precision_is_priced_by_its_own():
    plain = predict(EIGHT, DRAFT, h100("ideal"), gamma=1, alpha=0.8, context=1).draft_step_s
    small = predict(
        EIGHT, DraftModel(ONE, precision="int8"), h100("ideal"), gamma=1, alpha=0.8, context=1
    )
    assert_allclose(small.draft_step_s, plain / 2, rtol=1e-3)
    assert_allclose(small.step_s, predict(EIGHT, None, h100("ideal"), context=1).step_s)


def test_verification_widens_with_gamma_and_batch():
    predicted = predict(
        EIGHT, DRAFT, h100("ideal"), gamma=range(9), alpha=0.8, batch=[[1], [64], [512]]
    )
    ratio = predicted.verify_step_s / predicted.step_s
    assert np.all(ratio[0] < 1.001)  # nearly free
    assert ratio[2, 8] > 3  # compute-bound: the crossover exists
    assert predicted.best()[0] > predicted.best()[2]


def test_a_long_context_does_not_multiply_the_verification():
    predicted = predict(EIGHT, DRAFT, h100("ideal"), gamma=8, alpha=0.8, context=500_000)
    assert predicted.bound == "kv"
    assert predicted.verify_step_s < 1.01 * predicted.step_s


# ------------------------------------------------------------------------------------------ limits


def test_free_drafts_that_are_all_accepted_give_gamma_plus_one():
    gamma = np.arange(9)
    assert_allclose(predict_fixed(0.0, alpha=1.0, gamma=gamma).speedup, gamma + 1, rtol=1e-12)
    assert_allclose(predict_fixed(0.0, alpha=0.0, gamma=gamma).speedup, 1.0, rtol=1e-12)


def test_infinite_hardware_leaves_the_overheads():
    engine = Engine("o", layer_overhead_s=1e-5, cycle_overhead_s=1e-4, speculation_overhead_s=2e-4)
    nothing = System(Accelerator("chip", np.inf), engine, PRECISIONS["bf16"])
    predicted = predict(EIGHT, DRAFT, nothing, gamma=4, alpha=0.8)
    cycle = 4 * 16 * 1e-5 + 32 * 1e-5 + 3e-4
    assert_allclose(predicted.cycle_s, cycle, rtol=1e-12)
    assert_allclose(predicted.speedup, 3.3616 * (32e-5 + 1e-4) / cycle, rtol=1e-12)
    assert predicted.bound == "overhead"


@given(st.floats(1e11, 1e14), st.floats(1.0, 100.0), st.integers(1, 8))
def test_bandwidth_helps_cycle_and_step(bandwidth, factor, gamma):
    chip = Accelerator("chip", np.array([bandwidth, bandwidth * factor]), {"bf16": 1e15})
    predicted = predict(
        EIGHT, DRAFT, replace(h100(LOADED), accelerator=chip), gamma=gamma, alpha=0.7
    )
    assert predicted.step_s[1] <= predicted.step_s[0]
    assert predicted.cycle_s[1] <= predicted.cycle_s[0]


# -------------------------------------------------------------------------------------------- band


def test_band_holds_the_value_and_widens_with_the_errors():
    for engine in ("ideal", "vllm"):
        for tokens_error in (0.0, 0.2):
            predicted = predict(
                EIGHT, DRAFT, h100(engine), gamma=[0, 4], alpha=0.8, tokens_error=tokens_error
            )
            band = predicted.band
            for name, (low, high) in band.items():
                value = getattr(predicted, name)
                assert np.all((low <= value) & (value <= high))
            own = (predicted.system.engine.speedup_low, predicted.system.engine.speedup_high)
            below, above = (
                np.hypot(predicted.error if side is None else side, tokens_error) for side in own
            )
            assert band["speedup"][0][1] == pytest.approx(predicted.speedup[1] / (1 + below))
            assert band["speedup"][1][1] == pytest.approx(predicted.speedup[1] * (1 + above))
            assert [edge[0] for edge in band["tokens_per_cycle"]] == [1.0, 1.0]
    assert (
        predict(EIGHT, None, h100("ideal")).band["step_s"][0]
        == predict(EIGHT, None, h100("ideal")).step_s
    )


@pytest.mark.parametrize(("shared", "left"), [(1.0, 0.0), (0.5, 1.0), (0.0, np.sqrt(2.0))])
def test_what_cancels_of_the_machines_error_is_what_step_and_cycle_share(monkeypatch, shared, left):
    monkeypatch.setattr(prediction, "SHARED", shared)
    engine = replace(h100("vllm").engine, speedup_low=None, speedup_high=None)
    predicted = predict(EIGHT, DRAFT, h100(engine), gamma=4, alpha=0.8)
    low, high = predicted.band["speedup"]
    assert high == pytest.approx(predicted.speedup * (1 + left * predicted.error))
    assert low == pytest.approx(predicted.speedup / (1 + left * predicted.error))


# ---------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gamma": 2}, "exactly one of alpha, survival, tokens_per_cycle"),
        ({"gamma": 2, "alpha": 0.5, "survival": [0.5, 0.2]}, "give acceptance once"),
        ({"gamma": 2, "alpha": 0.5, "tokens_per_cycle": 2}, "give acceptance once"),
        ({"gamma": 2, "alpha": 0.5, "acceptance": IID(0.5)}, "give acceptance once"),
        ({"gamma": 2, "alpha": 1.2}, r"alpha must be within \[0, 1\], got 1.2"),
        ({"gamma": 0, "alpha": 1.2}, r"alpha must be within \[0, 1\], got 1.2"),
        ({"gamma": 2, "tokens_per_cycle": 3.5}, r"within \[1, 3\], got 3.5"),
        ({"gamma": 3, "survival": [0.5, 0.2]}, "asks beyond the survival vector"),
        ({"gamma": 2.5, "alpha": 0.5}, "gamma must be a whole number >= 0, got 2.5"),
        ({"gamma": -1, "alpha": 0.5}, "gamma must be a whole number >= 0, got -1"),
        ({"gamma": 1, "alpha": 0.5, "batch": 0}, r"batch must be within \[1, .*, got 0"),
        ({"gamma": 1, "alpha": 0.5, "batch": [1, np.nan]}, "batch must be .* got nan"),
        ({"gamma": 1, "alpha": 0.5, "context": np.inf}, "context must be .* got inf"),
        ({"gamma": 1, "alpha": 0.5, "context": "long"}, "context must be a number"),
    ],
)
def test_refusals_name_the_value(arguments, message):
    with pytest.raises(SpecsimError, match=message):
        predict(EIGHT, DRAFT, h100(), **arguments)


def test_a_draft_must_exist_and_share_the_vocabulary():
    with pytest.raises(SpecsimError, match="gamma > 0 needs a drafter"):
        predict(EIGHT, None, h100(), gamma=[0, 1], alpha=0.8)
    with pytest.raises(
        SpecsimError, match=r"qwen3-0\.6b has the tokenizer qwen2 and llama-3\.1-8b llama-3"
    ):
        predict(EIGHT, DraftModel(model("qwen3-0.6b")), h100(), gamma=1, alpha=0.8)
    padded = DraftModel(model("qwen2.5-0.5b"))  # 151936 beside 152064: one vocabulary, padded
    assert predict(model("qwen2.5-7b"), padded, h100(), gamma=1, alpha=0.8).speedup > 1


def test_a_draft_model_refuses_what_it_does_not_know():
    with pytest.raises(SpecsimError, match="catch_up must be one of row, pass, none, not 'rows'"):
        DraftModel(ONE, catch_up="rows")
    with pytest.raises(SpecsimError, match="unknown precision 'int3'"):
        DraftModel(ONE, precision="int3")


def test_the_first_pass_of_a_tiny_draft_reads_memory_and_the_others_the_cache():
    machine = system("h100-sxm", "ideal")
    target, draft = model("bundled-target"), model("bundled-draft")
    over = predict(target, DraftModel(draft), machine, gamma=[1, 2, 3], alpha=0.7, context=1)
    cold, warm = over.draft_s[0], np.diff(over.draft_s)
    assert_allclose(warm[0], warm[1])
    assert 1.9 < cold / warm[0] < 2.1  # weights are nearly all that is read
    large = predict(
        model("llama-3.1-8b"), DraftModel(model("llama-3.2-1b")), machine, gamma=[1, 2], alpha=0.7
    )
    assert_allclose(large.draft_s[1], 2 * large.draft_s[0], rtol=1e-3)


def test_routing_correlation_is_asked_for_in_one_argument():
    """The same as the model with that correlation; an array over it broadcasts; 1 reads one
    token's experts."""
    target, machine = model("qwen3-30b-a3b"), system("h200-sxm")
    draft = DraftModel(model("qwen3-0.6b"))
    asked = {"gamma": 4, "alpha": 0.8}
    shares = np.array([0.0, 0.5, 1.0])
    over = predict(target, draft, machine, routing_correlation=shares, **asked)
    assert over.speedup.shape == (3,)
    assert np.all(np.diff(over.speedup) > 0)
    for share, speedup in zip(shares, over.speedup, strict=True):
        own = predict(target.with_routing_correlation(share), draft, machine, **asked)
        assert_allclose(own.speedup, speedup)
    for wrong in (-0.1, 1.5, np.nan):
        with pytest.raises(SpecsimError, match="routing_correlation must be within"):
            predict(target, draft, machine, routing_correlation=wrong, **asked)
    with pytest.raises(SpecsimError, match=r"llama-3\.1-8b has no experts"):
        predict(model("llama-3.1-8b"), None, machine, routing_correlation=0.5)


# ------------------------------------------------------------------------------------ nothing asked


@pytest.mark.parametrize("name", catalog.load("methods"))
def test_no_scenario_is_no_answer_and_no_complaint(name):
    drafter = method(name, EIGHT, ONE if name in NEED_A_DRAFT else None)
    for asked in (
        {"gamma": [], "alpha": 0.8},
        {"gamma": 3, "alpha": []},
        {"gamma": [], "survival": []},
        {"gamma": 2, "tokens_per_cycle": []},
        {"gamma": 3, "alpha": 0.8, "batch": [], "context": []},
    ):
        nothing = predict(EIGHT, drafter, h100(), **asked)
        assert nothing.speedup.shape == nothing.ties().shape == (0,)
        assert all(np.size(factor) in (0, 1) for factor in nothing.waterfall().values())
        with pytest.raises(SpecsimError, match="no best of no scenarios"):
            nothing.best()


# ------------------------------------------------------------------------------- one who waits


@pytest.mark.parametrize("name", catalog.load("methods"))
def test_an_answer_takes_as_many_cycles_as_its_tokens_per_cycle_say(name):
    drafter = method(name, EIGHT, ONE if name in NEED_A_DRAFT else None)
    predicted = predict(EIGHT, drafter, h100(), gamma=4, alpha=0.7, batch=4)
    found = predicted.request(1000)
    per_token_s = predicted.cycle_s / predicted.tokens_per_cycle
    assert_allclose(found.mean_s / 1000, per_token_s, rtol=2e-3)
    assert found.mean_s < found.batch_s
    tokens = 1 + np.arange(len(found.accepted_pmf)) @ found.accepted_pmf
    assert_allclose(tokens, predicted.tokens_per_cycle)
    plain = predict(EIGHT, drafter, h100(), gamma=0, alpha=0.7).request(9)
    assert plain.mean_s == pytest.approx(9 * predict(EIGHT, None, h100()).step_s)


def test_a_request_needs_one_scenario_and_more_than_a_mean():
    mean = predict(EIGHT, DRAFT, h100(), gamma=4, tokens_per_cycle=3.0)
    with pytest.raises(SpecsimError, match="do not say how they vary"):
        mean.request(100)
    with pytest.raises(SpecsimError, match=r"one scenario, not for \(2,\)"):
        predict(EIGHT, DRAFT, h100(), gamma=[1, 2], alpha=0.5).request()
    with pytest.raises(SpecsimError, match="more_tokens must be a whole number >= 1, got 0"):
        predict(EIGHT, None, h100()).request(0)


# ------------------------------------------------------------------------------- shown in a cell


def test_a_prediction_is_shown_in_one_line():
    one = predict(EIGHT, DRAFT, h100(), gamma=4, alpha=0.8)
    many = predict(
        EIGHT, DRAFT, h100(), gamma=range(9), alpha=0.8, batch=np.arange(1, 101)[:, None]
    )
    none = predict(EIGHT, DRAFT, h100(), gamma=np.zeros(0, int), alpha=0.8)
    for each in (one, many, none):
        assert len(repr(each)) < 250
        assert "\n" not in repr(each)
    assert f"speedup {float(one.speedup):.4g}" in repr(one)
    assert "gamma 0 … 8, batch 1 … 100" in repr(many)
    shown = str(inspect.signature(predict))
    assert len(shown) < 700
    assert shown.count("specsim.checks.ArrayLike") == 8  # one name, not what it is made of
