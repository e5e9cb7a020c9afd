"""The price of a cycle and of prompts against `predict`, `prefill` and a naive sum; the traffic."""

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import specsim
from specsim import serving
from specsim.acceptance import IID
from specsim.checks import SpecsimError
from specsim.drafting import method
from specsim.evidence.calibration import load as load_calibration
from specsim.evidence.served.traces import Request, requests_of
from specsim.planning.gammas import plan
from specsim.planning.prefill import prefill_s
from specsim.serving.accepting import Accepting, Noise, thresholds
from specsim.serving.prompts import PromptPrice
from specsim.serving.surface import FINE, Surface

TARGET, DRAFT = specsim.model("llama-3.1-8b"), specsim.model("llama-3.2-1b")
SYSTEM = specsim.system("h100-sxm", engine="vllm", precision="auto")
SEQUENCES, CONTEXTS = 33, 9000
EDGES = (1, 127, 128, 129, 2049, 4097, 8191, 8192, 8193, 9000)  # at windows, chunks and top-k


def surface(target=TARGET, drafter=None, system=SYSTEM, **more):
    return Surface(target, drafter, system, most_sequences=SEQUENCES, most_context=CONTEXTS, **more)


def compare(target, drafter, system, gammas=(0, 3), rel=1e-9, moved=1e-9, **more):
    made = surface(target, drafter, system, **more)
    for gamma in gammas:
        price = made.cycle(gamma)
        for batch in (1, 5, SEQUENCES):
            over = specsim.predict(
                target,
                drafter if gamma else None,
                system,
                gamma=gamma,
                tokens_per_cycle=1.0,
                batch=batch,
                context=EDGES,
                **more,
            )
            contexts = np.broadcast_to(np.array(EDGES)[:, None], (len(EDGES), batch))
            means = made.readings.means(contexts)
            cycle_s = np.broadcast_to(over.cycle_s, len(EDGES))
            assert_allclose(price.seconds(batch, means), cycle_s, rtol=rel)
            bytes_moved = over.verification.bytes_moved + over.drafting.bytes_moved
            flops = over.verification.flops + over.drafting.flops
            for row, one in enumerate(means):
                seconds, read, computed = price.one(batch, one.tolist())
                assert seconds == pytest.approx(cycle_s[row], rel=rel)
                assert read == pytest.approx(
                    np.broadcast_to(bytes_moved, len(EDGES))[row], rel=moved
                )
                assert computed == pytest.approx(np.broadcast_to(flops, len(EDGES))[row], rel=moved)


@pytest.mark.parametrize(
    "name",
    ["llama-3.1-8b", "qwen3-30b-a3b", "gpt-oss-20b", "gemma-3-4b", "deepseek-r1", "llama-4-scout",
     "qwen3-next-80b-a3b", "nemotron-h-56b", "deepseek-v3.2"],
)  # fmt: skip
def test_the_surface_is_predict_for_every_kind_of_layer(name):
    """Dense, experts, windows, chunks, latents, constant states, chosen entries."""
    target = specsim.model(name)
    compare(target, method("n-gram", target, pad=True), SYSTEM)


def test_where_the_rows_vary_with_the_batch_and_an_indexer_chooses_it_is_close():
    target = specsim.model("deepseek-v3.2")
    compare(target, method("n-gram", target), SYSTEM, rel=2e-3, moved=1e-2)


@pytest.mark.parametrize("name", specsim.catalog.load("methods"))
def test_the_surface_is_predict_for_every_drafting_method(name):
    needs = name in ("draft-model", "pearl", "ssd", "cascade")
    drafter = method(name, TARGET, DRAFT) if needs else method(name, TARGET)
    compare(TARGET, drafter, SYSTEM, gammas=(1, min(4, drafter.max_gamma or 4)))


def test_the_surface_is_predict_on_several_devices_and_under_every_kind_of_engine():
    drafter = specsim.DraftModel(DRAFT, tensor_parallel=1)
    compare(TARGET, drafter, replace(SYSTEM, tensor_parallel=4))
    eager = specsim.system("a100-sxm-80gb", engine="torch-eager", precision="int4")
    compare(TARGET, specsim.DraftModel(DRAFT), eager)  # the host's launches bind
    mixture = specsim.model("qwen3-30b-a3b")
    compare(mixture, method("n-gram", mixture), SYSTEM, routing_correlation=0.5)


def test_under_a_calibration_times_are_interpolated_by_less_than_a_per_cent():
    system = load_calibration("measurements/cpu-2core/calibration.json").system
    target, draft = specsim.model("bundled-target"), specsim.model("bundled-draft")
    compare(target, specsim.DraftModel(draft), system, rel=0.01)


def test_a_context_beyond_the_fine_grid_is_priced_as_finely():
    most = FINE + 5000
    made = Surface(TARGET, None, SYSTEM, most_sequences=2, most_context=most)
    for context in (FINE - 1, FINE + 777, most):
        means = made.readings.means(np.array([[context, context]]))
        expected = specsim.predict(TARGET, None, SYSTEM, batch=2, context=context).step_s
        assert_allclose(made.cycle(0).seconds(2, means)[0], expected, rtol=1e-9)


@pytest.mark.parametrize("name", ["llama-3.1-8b", "gpt-oss-20b", "llama-4-scout"])
def test_a_mixed_batch_reads_what_its_sequences_read_alone(name):
    """The oracle is a naive sum over sequences of what each reads beyond a context of one token."""
    target, contexts = specsim.model(name), np.array([1, 60, 129, 700, 8193, 8999])
    made, batch = surface(target), len(contexts)
    _, moved, _ = made.cycle(0).one(batch, made.readings.means(contexts[None])[0].tolist())

    def reads(batch, context):
        return float(specsim.predict(target, None, SYSTEM, batch=batch, context=context)
                     .plain.bytes_moved)  # fmt: skip

    expected = reads(batch, 1) + sum(reads(1, int(c)) - reads(1, 1) for c in contexts)
    assert moved == pytest.approx(expected, rel=1e-9)


# ------------------------------------------------------------------------------------- prompts


def prices(drafter=None, most_tokens=1024, target=TARGET):
    return PromptPrice(target, drafter, SYSTEM, most_tokens=most_tokens, most_context=CONTEXTS,
                       most_sequences=64)  # fmt: skip


def alone(price, tokens, cached=0):
    linear = price.linear_s(0.0, tokens, 0.0, 1)
    return linear + price.attention([(tokens, cached)])[0]


@pytest.mark.parametrize("name", ["llama-3.1-8b", "qwen3-30b-a3b", "gpt-oss-20b", "deepseek-r1",
                                  "qwen3-next-80b-a3b"])  # fmt: skip
def test_a_chunk_alone_takes_as_long_as_prefill_says(name):
    target = specsim.model(name)
    price = prices(target=target)
    for tokens, cached in ((64, 0), (1000, 0), (512, 4000)):
        expected = prefill_s(target, SYSTEM, prompt=cached + tokens, cached=cached)
        assert alone(price, tokens, cached) == pytest.approx(float(expected), rel=0.015)


def test_tokens_that_ride_with_others_share_the_read_of_the_weights():
    price = prices()
    riding = price.linear_s(64.0, 16, 64.0, 0)
    assert 0 <= riding < 0.2 * price.linear_s(0.0, 16, 0.0, 0)
    whole = price.linear_s(0.0, 80, 0.0, 0)
    assert price.linear_s(0.0, 64, 0.0, 0) + riding == pytest.approx(whole)


def test_what_reads_a_prompt_of_its_own_and_what_does_not():
    chunk = [(500, 0)]
    for name, reads in (("draft-model", True), ("eagle-3", True), ("tree", True), ("n-gram", False),
                        ("medusa", False), ("early-exit", False), ("quantised-self", False),
                        ("pearl", False), ("cascade", True)):  # fmt: skip
        needs = name in ("draft-model", "pearl", "cascade")
        drafter = method(name, TARGET, DRAFT) if needs else method(name, TARGET)
        seconds, moved, flops = prices(drafter).drafted(chunk)
        assert (seconds > 0) == (moved > 0) == (flops > 0) == reads, name
    draft_s = prices(specsim.DraftModel(DRAFT)).drafted(chunk)[0]
    assert draft_s == pytest.approx(float(prefill_s(DRAFT, SYSTEM, prompt=500)), rel=0.15)


# ------------------------------------------------------------------------------------- policies


def test_the_schedule_is_the_plan_of_every_batch():
    server = serving.Server(target=TARGET, drafter=specsim.DraftModel(DRAFT), system=SYSTEM)
    traffic = serving.traffic(rate=5.0, requests=200, prompt=serving.Lengths(500),
                              output=serving.Lengths(100))  # fmt: skip
    policy = serving.policy_named("scheduled", server, traffic, Accepting(IID(0.7)))
    expected = plan(TARGET, server.drafter, SYSTEM, batches=range(1, 257), gammas=range(9),
                    alpha=0.7, context=550)  # fmt: skip
    assert_array_equal(policy.gammas[1:], expected.gamma)
    assert policy.ranges()[0][0] == 1
    assert policy.ranges()[-1][1] == 256


def test_hysteresis_keeps_a_gamma_until_the_batch_has_left_its_range():
    gammas = np.array([4] * 21 + [0] * 30)  # up to 20 sequences
    low, high = serving.Policy("table", gammas, hysteresis=0.25).bounds()

    def after(batches, gamma=4):
        for batch in batches:
            gamma = min(max(gamma, low[batch]), high[batch])
        return gamma

    assert after([20, 24]) == 4
    assert after([20, 26]) == 0
    assert after([26, 18]) == 0
    assert after([26, 16]) == 4
    low, high = serving.Policy("table", gammas).bounds()
    assert low == high == gammas.tolist()


def test_a_pass_never_has_more_rows_than_the_engine_takes():
    policy = serving.constant(7, 100).within(256)
    batch = np.arange(1, 101)
    assert np.all(batch * (policy.gammas[1:] + 1) <= 256)
    assert policy.gammas[32] == 7
    assert policy.gammas[100] == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [("{}", "no schedule"), ('{"schedule": [[1, 4]]}', "must be"), ('{"schedule": []}', "no sched"),
     ('{"schedule": [[2, 4, 1]]}', "begin at batch 1"), ('{"schedule": [[1, 4, -1]]}', "at least"),
     ('{"schedule": [[1, 4, 2], [6, 8, 0]]}', "begin at batch 5"),
     ('{"schedule": [[1, 4, true]]}', "must be")],
)  # fmt: skip
def test_a_bad_schedule_is_refused(tmp_path, content, said):
    path = tmp_path / "table.json"
    path.write_text(content)
    with pytest.raises(SpecsimError, match=said):
        serving.read_table(str(path), 16)


def test_a_schedule_in_vllms_words_is_read(tmp_path):
    path = tmp_path / "table.json"
    rows = '{"num_speculative_tokens_per_batch_size": [[1, 4, 3], [5, 10, 1]]}'
    path.write_text(f'{{"speculative_config": {rows}}}')
    assert serving.read_table(str(path), 12).gammas.tolist() == [3] * 5 + [1] * 8


# -------------------------------------------------------------------------------------- traffic


def test_arrivals_have_their_rate_and_burstiness():
    for shape in (0.25, 1.0, 9.0, math.inf):
        drawn = serving.traffic(rate=8.0, requests=20_000, prompt=serving.Lengths(5),
                                output=serving.Lengths(5), burstiness=shape)  # fmt: skip
        gaps = np.diff(drawn.arrival_s)
        assert drawn.arrival_s[-1] == pytest.approx(20_000 / 8.0)
        variation = gaps.std() / gaps.mean()
        assert variation == pytest.approx(1 / math.sqrt(shape), abs=0.05)


def test_lengths_have_their_mean_and_are_never_nothing():
    random = np.random.default_rng(1)
    drawn = serving.Lengths(400, 0.8).draw(40_000, random)
    assert drawn.mean() == pytest.approx(400, rel=0.02)
    assert np.log(drawn).std() == pytest.approx(0.8, rel=0.02)
    assert serving.Lengths(1.2, 2.0).draw(1000, random).min() == 1
    assert set(serving.Lengths(3.0, 0.0, (2, 4)).draw(100, random)) == {2, 4}


@pytest.mark.parametrize(
    ("text", "said"),
    [("0", "at least 1"), ("-3", "at least 1"), ("nan", "MEAN"), ("5,9", "sigma"),
     ("1,2,3", "MEAN"), ("inf", "MEAN|at most"), ("1e9", "at most"), ("nowhere.txt", "nowhere")],
)  # fmt: skip
def test_bad_lengths_are_refused(text, said):
    with pytest.raises((SpecsimError, OSError), match=said):
        serving.lengths_of("--prompt", text)


def test_lengths_from_a_file(tmp_path):
    path = tmp_path / "lengths.txt"
    path.write_text("10\n20\n\n30\n")
    assert serving.lengths_of("--prompt", str(path)).measured == (10, 20, 30)
    for content in ("", "10\n0\n", "ten", "1.5", '{"lengths": 3}', '{"lengths": [null]}'):
        path.write_text(content)
        with pytest.raises(SpecsimError, match="length"):
            serving.lengths_of("--prompt", str(path))


def test_a_trace_becomes_traffic_from_its_first_request_on():
    text = "arrived_at,num_prefill_tokens,num_decode_tokens\n7.5,30,4\n5.5,10,2\n"
    found = requests_of(text)
    assert found is not None
    load = serving.traffic_of(found[1])
    assert load.arrival_s.tolist() == [0.0, 2.0]
    assert load.input_tokens.tolist() == [10, 30]
    assert load.most_context == 34


def test_a_trace_without_requests_or_with_empty_ones_is_refused():
    with pytest.raises(SpecsimError, match="no request"):
        serving.traffic_of([])
    with pytest.raises(SpecsimError, match="answer of 0 tokens"):
        serving.traffic_of([Request(0.0, 5.0, 0.0)])
    with pytest.raises(SpecsimError, match="row 1"):
        requests_of("arrived_at,num_prefill_tokens,num_decode_tokens\n-1,30,4\n")


def test_noise_is_uniform_and_of_its_request_and_cycle_alone():
    noise, again = Noise(3, 500), Noise(3, 500)
    cycles = np.arange(200)[None]
    drawn = noise.draws(noise.keys[:, None], cycles) / 2.0**53
    assert_array_equal(drawn[7, 5], again.draws(again.keys[7], np.array(5)) / 2.0**53)
    assert drawn.mean() == pytest.approx(0.5, abs=0.003)
    assert np.histogram(drawn, 20)[0].std() / (drawn.size / 20) < 0.03
    assert abs(np.corrcoef(drawn[:-1].ravel(), drawn[1:].ravel())[0, 1]) < 0.01
    assert abs(np.corrcoef(drawn[:, :-1].ravel(), drawn[:, 1:].ravel())[0, 1]) < 0.01
    assert np.all(Noise(4, 500).keys != noise.keys)
    assert thresholds(np.array([1.0, 0.0])).tolist() == [2**53, 0]


def test_a_spread_of_acceptance_keeps_its_mean():
    classes = Accepting(IID(0.7), 0.12).of_requests()
    alphas = np.array([chain.alpha for chain in classes])
    assert alphas.mean() == pytest.approx(0.7, abs=0.002)
    assert alphas.std() == pytest.approx(0.12, rel=0.05)
    with pytest.raises(SpecsimError, match="spread"):
        Accepting(IID(0.7), 0.5)


def test_a_cycle_keeps_its_price_when_a_later_one_reads_otherwise() -> None:
    """A draft whose layers read other shares of the cache than the target's, priced after plain
    decoding, on one surface."""
    target = specsim.model("deepseek-r1")
    draft = specsim.DraftModel(specsim.model("deepseek-v4-flash"))
    alone, both = surface(target), surface(target, draft)
    plain = both.cycle(0)
    both.cycle(2)
    contexts = np.array([[1, 5000], [300, 9000]])
    means = both.readings.means(contexts)
    expected = alone.cycle(0)
    of_its_own = alone.readings.means(contexts)
    assert means.shape[1] > of_its_own.shape[1]
    assert_allclose(plain.seconds(2, means), expected.seconds(2, of_its_own), rtol=1e-12)
    assert_allclose(plain.moves(2, means), expected.moves(2, of_its_own), rtol=1e-12)
    for found, told in zip(
        plain.attention(2, means), expected.attention(2, of_its_own), strict=True
    ):
        assert_allclose(found, told, rtol=1e-12)
