"""The loop of a server against theory: one sequence, queues, identities, what must not happen."""

import math
from copy import copy
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import specsim
from specsim import serving
from specsim.acceptance import IID, per_position
from specsim.acceptance.latency import cycles_to_emit
from specsim.checks import SpecsimError
from specsim.drafting import Lookup, method
from specsim.planning.economics import operating_point
from specsim.planning.prefill import time_to_first_token
from specsim.serving.loop import Loop

TARGET, DRAFT = specsim.model("llama-3.1-8b"), specsim.model("llama-3.2-1b")
SYSTEM = specsim.system("h100-sxm", engine="vllm", precision="auto")
SERVER = serving.Server(target=TARGET, drafter=specsim.DraftModel(DRAFT), system=SYSTEM)
CHAIN = serving.Accepting(IID(0.75))
PLAIN = replace(SERVER, drafter=None)
PROMPT, OUTPUT = serving.Lengths(400, 0.8), serving.Lengths(200, 0.7)


def load(rate=None, requests=300, prompt=PROMPT, output=OUTPUT, **more):
    return serving.traffic(rate=rate, requests=requests, prompt=prompt, output=output, **more)


def run(policy="fixed:3", server=SERVER, traffic=None, alpha=0.75, **more):
    asked = {} if server.drafter is None else {"alpha": alpha}
    return serving.simulate(server, traffic or load(20.0), policy=policy, **asked, **more)


POLICIES = ("off", "fixed:3", "scheduled", "admit")


@pytest.mark.parametrize("policy", POLICIES)
def test_blocks_of_steps_equal_single_steps(policy):
    traffic = load(9.0, 250)
    together, single = (run(policy, traffic=traffic, block=block) for block in (32, 1))
    for name in ("first_s", "end_s", "sent_s"):
        assert_allclose(getattr(together.loop, name), getattr(single.loop, name), rtol=1e-9)
    assert together.loop.tallies.steps == single.loop.tallies.steps
    for name, value in single.summary.items():
        if isinstance(value, float):
            assert together.summary[name] == pytest.approx(value, rel=3e-3), name


def test_blocks_equal_single_steps_where_the_cache_is_full():
    server = replace(SERVER, kv_tokens=6000, max_seqs=32)
    traffic = load(20.0, 120)
    together, single = (run(server=server, traffic=traffic, block=block) for block in (32, 1))
    assert together.summary["preemptions"] > 0
    assert together.summary["preemptions"] == single.summary["preemptions"]
    assert_allclose(together.loop.end_s, single.loop.end_s, rtol=1e-9)
    assert together.summary["kv_peak"] <= 1.0


def test_windows_and_states_go_through_blocks_too():
    target = specsim.model("gpt-oss-20b")
    server = serving.Server(target=target, drafter=Lookup(), system=SYSTEM, max_seqs=16)
    traffic = load(5.0, 60)
    together, single = (run("fixed:4", server, traffic, block=block) for block in (32, 1))
    assert_allclose(together.loop.end_s, single.loop.end_s, rtol=1e-9)


def test_the_same_seed_gives_the_same_bytes_and_another_one_others():
    first, again = (run(traffic=load(20.0, seed=5)).summary for _ in range(2))
    assert first == again
    assert run(traffic=load(20.0, seed=6)).summary != first


def test_policies_share_their_traffic_and_their_luck():
    """At alpha 0 the cycles of every gamma emit one token, so gamma only costs time."""
    slow, fast = run("fixed:5", alpha=0.0), run("off")
    assert_array_equal(slow.loop.traffic.output_tokens, fast.loop.traffic.output_tokens)
    assert slow.summary["spec_decode_accepted_tokens"] == 0
    assert slow.summary["mean_tpot_ms"] > fast.summary["mean_tpot_ms"]


# ------------------------------------------------------------------------------ against theory


@pytest.mark.parametrize("gamma", [0, 1, 4])
def test_one_sequence_takes_the_cycles_of_theory(gamma):
    length, context = 201, 400
    traffic = load(requests=400, prompt=serving.Lengths(context), output=serving.Lengths(length),
                   concurrency=1)  # fmt: skip
    found = run(f"fixed:{gamma}" if gamma else "off", traffic=traffic)
    survival = per_position(IID(0.75), gamma).vector
    cycles = cycles_to_emit(length - 1, survival).mean
    middle = context + length / 2
    drafter = SERVER.drafter if gamma else None
    cycle_s = float(specsim.predict(TARGET, drafter, SYSTEM, gamma=gamma, tokens_per_cycle=1.0,
                                    context=middle).cycle_s)  # fmt: skip
    expected_ms = cycles * cycle_s / (length - 1) * 1e3
    assert found.summary["mean_tpot_ms"] == pytest.approx(expected_ms, rel=0.01)
    assert found.summary["mean_itl_ms"] == pytest.approx(cycle_s * 1e3, rel=0.01)
    if gamma:
        rates = found.summary["spec_decode_per_position_acceptance_rates"]
        assert_allclose(rates, np.asarray(survival), atol=0.01)


def test_an_empty_server_answers_as_soon_as_its_prefill_says():
    traffic = load(0.5, 40, prompt=serving.Lengths(900), output=serving.Lengths(20),
                   burstiness=math.inf)  # fmt: skip
    for policy, draft in (("off", None), ("fixed:3", DRAFT)):
        found = run(policy, traffic=traffic)
        expected = time_to_first_token(TARGET, SYSTEM, prompt=900, draft=draft)
        assert found.summary["mean_ttft_ms"] / 1e3 == pytest.approx(
            float(expected.total_s), rel=0.02
        )


def test_the_first_token_is_drawn_from_a_sorted_distribution_too():
    """A machine as a calibration tells of it: drawing takes 1.3 ms, sorting for top-p 13 ms."""
    slow = replace(SYSTEM.engine, drawing_overhead_s=1e-8, sorting_overhead_s=1e-7)
    system = replace(SYSTEM, engine=slow, filtered=True)
    traffic = load(0.5, 20, prompt=serving.Lengths(900), output=serving.Lengths(2),
                   burstiness=math.inf)  # fmt: skip
    found = run("off", replace(PLAIN, system=system), traffic)
    expected = time_to_first_token(TARGET, system, prompt=900)
    assert float(expected.sampling_s) > 13e-3
    assert found.summary["mean_ttft_ms"] / 1e3 == pytest.approx(float(expected.total_s), rel=0.02)


def test_a_long_prompt_is_read_in_chunks_as_long_as_prefill_says():
    server = replace(PLAIN, max_batched_tokens=512, max_seqs=8)
    traffic = load(0.2, 10, prompt=serving.Lengths(6000), output=serving.Lengths(2),
                   burstiness=math.inf)  # fmt: skip
    expected = time_to_first_token(TARGET, SYSTEM, prompt=6000, chunk=512)
    found = run("off", server, traffic)
    assert found.summary["mean_ttft_ms"] / 1e3 == pytest.approx(float(expected.total_s), rel=0.03)


def test_littles_law():
    found = run(traffic=load(25.0, 4000))
    summary, tallies = found.summary, found.loop.tallies
    decoding = tallies.batch_s @ np.arange(len(tallies.batch_s)) / summary["duration"]
    each_s = float(np.mean(found.loop.end_s - found.loop.first_s))
    assert decoding == pytest.approx(summary["request_throughput"] * each_s, rel=0.02)


@pytest.mark.parametrize("gamma", [0, 3])
def test_a_steady_load_settles_at_the_operating_point(gamma):
    """Prompts that the prefix cache knows cost next to nothing, so the load is decoding alone."""
    server, rate, length = replace(SERVER, prefix_hit=0.9999), 2.4, 1000
    traffic = load(rate, 500, prompt=serving.Lengths(1000), output=serving.Lengths(length),
                   burstiness=4.0)  # fmt: skip
    found = run(f"fixed:{gamma}" if gamma else "off", server, traffic)
    point = operating_point(
        TARGET, SERVER.drafter if gamma else None, SYSTEM, token_rate=rate * (length - 1),
        gamma=gamma, context=1500, most=256, **({"alpha": 0.75} if gamma else {}),
    )  # fmt: skip
    assert float(np.mean(found.tpot_s[50:-50])) == pytest.approx(point.token_s, rel=0.015)


def test_one_place_and_fixed_service_is_the_queue_m_d_1():
    server = replace(PLAIN, max_seqs=1)
    prompt, one = serving.Lengths(1500), serving.Lengths(1)
    service = float(time_to_first_token(TARGET, SYSTEM, prompt=1500).total_s)
    busy = 0.6
    found = run("off", server, load(busy / service, 20_000, prompt=prompt, output=one))
    waiting = found.summary["mean_ttft_ms"] / 1e3 - service
    assert waiting == pytest.approx(busy * service / 2 / (1 - busy), rel=0.06)
    assert found.summary["utilisation"] == pytest.approx(busy, rel=0.03)


def test_certain_acceptance_and_none():
    traffic = load(concurrency=1, requests=20, output=serving.Lengths(101))
    certain = run("fixed:4", traffic=traffic, alpha=1.0).summary
    assert certain["spec_decode_acceptance_length"] == 5.0
    assert certain["spec_decode_num_drafts"] == 20 * 20
    assert (
        run("fixed:4", traffic=traffic, alpha=0.0).summary["spec_decode_acceptance_length"] == 1.0
    )


def test_requests_differ_in_acceptance_and_hard_ones_take_longer():
    traffic = load(2.0, 400, output=serving.Lengths(200))
    alike, spread = run(traffic=traffic), run(traffic=traffic, alpha_spread=0.15)
    assert np.std(spread.tpot_s) > 2 * np.std(alike.tpot_s)
    length = "spec_decode_acceptance_length"  # of cycles: hard requests have more of them
    assert spread.summary[length] < alike.summary[length]


# ------------------------------------------------------------------------- what a load can be


def test_a_closed_loop_keeps_its_users_in_flight():
    traffic = load(concurrency=8, requests=200)
    found = run(traffic=traffic)
    order = np.argsort(found.loop.sent_s)
    sent, ended = found.loop.sent_s[order], np.sort(found.loop.end_s)
    assert np.all(np.arange(200) - np.searchsorted(ended, sent, "right") < 8)
    assert_allclose(np.sort(sent)[8:], ended[:-8], rtol=1e-12)  # each is sent when one has ended
    assert found.state == "steady"


def test_an_overloaded_server_says_so_and_gives_no_mean_of_its_queue():
    found = run("off", PLAIN, load(80.0, 2000))
    assert found.state == "overloaded"
    assert found.summary["mean_ttft_ms"] is None
    assert found.summary["p99_e2el_ms"] is None
    assert found.summary["output_throughput"] > 0
    assert "grows" in found.sentences[0]
    assert run("off", PLAIN, load(10.0, 2000)).state == "steady"


def test_all_at_once_is_a_backlog():
    found = run("off", PLAIN, load(math.inf, 400))
    assert found.state == "backlogged"
    assert found.summary["mean_ttft_ms"] > 0


def test_a_request_larger_than_the_cache_is_refused():
    server = replace(SERVER, kv_tokens=2000)
    lengths = serving.Lengths(1000.0, 0.0, (500, 5000))
    found = run(server=server, traffic=load(5.0, 40, prompt=lengths))
    big = found.loop.traffic.input_tokens == 5000
    assert_array_equal(found.loop.refused, big)
    assert found.summary["failed"] == big.sum() > 0
    assert any("refused" in sentence for sentence in found.sentences)
    nothing = run(server=server, traffic=load(5.0, 4, prompt=serving.Lengths(5000)))
    assert nothing.summary["completed"] == 0
    assert nothing.summary["mean_ttft_ms"] is None


@pytest.mark.parametrize("gamma", [0, 8, 60])
def test_slots_of_drafts_in_flight_are_reserved_once(gamma: int):
    """A request needs its tokens, its drafts and one slot more; it fits where just that is left."""
    asked = {"drafts": True, "gamma": gamma, "most_context": 400, "mean_context": 200}
    per_token = 2 * (TARGET.num_layers * TARGET.kv_size + DRAFT.num_layers * DRAFT.kv_size) * 2
    cache = SERVER.cache(**asked)
    assert cache.of(200) == pytest.approx(200 * per_token)
    for spare, fits in ((0, True), (-1, False)):
        tokens = 200 + gamma + 1 + spare
        server = replace(SERVER, kv_tokens=tokens)
        traffic = load(1.0, 1, serving.Lengths(150), serving.Lengths(50))
        served = run(f"fixed:{gamma}" if gamma else "off", server, traffic)
        assert bool(served.loop.refused.sum() == 0) is fits, (gamma, spare)


def test_a_draft_takes_memory_and_reads_prompts():
    traffic = load(20.0, 200)
    never, loaded = (run(p, traffic=traffic) for p in ("off", "fixed:3"))
    assert loaded.loop.cache.capacity_bytes < never.loop.cache.capacity_bytes
    assert loaded.summary["mean_ttft_ms"] > never.summary["mean_ttft_ms"]


@pytest.mark.parametrize("name", specsim.catalog.load("methods"))
def test_every_drafting_method_can_be_served(name):
    needs = name in ("draft-model", "pearl", "ssd", "cascade")
    drafter = method(name, TARGET, DRAFT) if needs else method(name, TARGET)
    server = replace(SERVER, drafter=drafter, max_seqs=16)
    gamma = min(3, drafter.max_gamma or 3)
    found = run(f"fixed:{gamma}", server, load(4.0, 30))
    assert found.summary["completed"] == 30
    assert 1.0 < found.summary["spec_decode_acceptance_length"] <= gamma + 1


def test_a_server_without_a_drafter_cannot_draft():
    with pytest.raises(SpecsimError, match="give a draft"):
        run("fixed:2", PLAIN)
    with pytest.raises(SpecsimError, match="no policy"):
        run("fixed")
    with pytest.raises(SpecsimError, match="beyond"):
        serving.simulate(SERVER, load(1.0, 3), policy="fixed:4", survival=[0.8, 0.5])


def test_details_are_the_chunks_of_each_request():
    found = run(traffic=load(20.0, 60), detailed=True)
    detail = found.detailed()
    tokens = found.loop.traffic.output_tokens
    for request in range(60):
        gaps = detail["itls"][request]
        assert len(gaps) <= tokens[request] - 1
        assert sum(gaps) == pytest.approx(float(found.e2el_s[request] - found.ttft_s[request]))
    every = np.concatenate(detail["itls"]) * 1e3
    assert found.summary["mean_itl_ms"] == pytest.approx(every.mean())
    assert found.summary["p99_itl_ms"] == pytest.approx(np.percentile(every, 99), rel=0.01)


def test_memory_does_not_grow_with_steps():
    short, long = (Loop(SERVER, load(20.0, 50), serving.constant(0, 256), None) for _ in range(2))
    short.run()
    assert short.tallies.ends is None
    assert not short.tallies.spans
    del long


def test_a_request_has_the_same_luck_at_every_rate_and_in_every_batch():
    rare, often = (run(traffic=load(rate, 80), detailed=True).detailed() for rate in (0.2, 60.0))
    assert rare["output_lens"] == often["output_lens"]
    assert list(map(len, rare["itls"])) == list(map(len, often["itls"]))


@pytest.mark.parametrize("policy", ["off", "fixed:3"])
def test_what_is_done_beside_the_pass_delays_everybody(policy):
    """A tenth of a second more for each prompt that ends, whether somebody decodes or nobody."""
    usual, slower = (
        Loop(SERVER, load(10.0, 60), serving.policy_named(policy, SERVER, load(10.0, 60), CHAIN),
             CHAIN)
        for _ in range(2)
    )  # fmt: skip
    slower.prompts = copy(slower.prompts)  # runs of one server share their prices
    slower.prompts.each_s += 0.1
    usual.run()
    slower.run()
    added = slower.tallies.busy_s - usual.tallies.busy_s
    saved = usual.tallies.steps - slower.tallies.steps  # steps that are shared by more sequences
    assert added + saved * 0.02 > 60 * 0.1
