"""The counters that each engine prints become the same three acceptance rates."""

import gzip
import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specsim.acceptance import IID
from specsim.architecture import model
from specsim.checks import SpecsimError, files, limits
from specsim.cli.diagnose import text_of
from specsim.drafting import DraftModel
from specsim.evidence.counters import Counters
from specsim.evidence.diagnosis import bottleneck, diagnose
from specsim.evidence.served import read_log
from specsim.hardware import system
from specsim.prediction import LIMITS
from specsim.speculation import predict

# vLLM PR #24127, an n-gram run; then the order of words in later versions
VLLM_OLD = (
    "(APIServer pid=2236552) INFO 09-09 11:51:35 [metrics.py:96] SpecDecoding metrics: Draft "
    "acceptance rate: 88.8%, Mean acceptance length: 5.44, Accepted throughput: 4.37 tokens/s, "
    "Drafted throughput: 4.92 tokens/s, Accepted: 262 tokens, Drafted: 295 tokens, Per-position "
    "acceptance rate: 0.983, 0.949, 0.915, 0.881, 0.712"
)
VLLM = (
    "INFO [metrics.py] SpecDecoding metrics: Mean acceptance length: 2.92, Accepted throughput: "
    "11.2 tokens/s, Drafted throughput: 17.4 tokens/s, Accepted: 167 tokens, Drafted: 259 tokens, "
    "Per-position acceptance rate: 0.805, 0.632, 0.483, Avg Draft acceptance rate: 64.5%"
)
# vLLM issue #7301
VLLM_0 = (
    "Speculative metrics: Draft acceptance rate: 0.607, System efficiency: 0.510, Number of "
    "speculative tokens: 4, Number of accepted tokens: 32594, Number of draft tokens: 53716, "
    "Number of emitted tokens: 34244."
)
PROMETHEUS = """
# HELP vllm:spec_decode_num_drafts_total Number of spec decoding drafts.
vllm:spec_decode_num_drafts_total{engine="0",model_name="m"} 87.0
vllm:spec_decode_num_draft_tokens_total{engine="0",model_name="m"} 259.0
vllm:spec_decode_num_accepted_tokens_total{engine="0",model_name="m"} 167.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="m",position="0"} 70.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="m",position="1"} 55.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="m",position="2"} 42.0
"""
# llama.cpp PR #24536, and the older line of the server
LLAMA = (
    "0.06.896.015 I slot print_timing: id  1 | task 0 | draft acceptance = 0.64479 (  167 accepted "
    "/   259 generated), mean acceptance length =  2.92, acceptance rate per position = (0.805, "
    "0.632, 0.483)"
)
LLAMA_OLD = "slot print_timing: draft acceptance rate = 0.64479 (  167 accepted /   259 generated)"
# llama.cpp PR #3006
LLAMA_EXAMPLE = (
    "n_draft   = 16\nn_predict = 266\nn_drafted = 254\nn_accept  = 223\naccept    = 87.795%\n"
)
# llama.cpp PR #12603
LLAMA_JSON = '{"predicted_n": 200, "draft_n": 347, "draft_n_accepted": 65}'
# SGLang issue #4759, and with a rate
SGLANG = (
    "[2025-03-24 02:56:41 TP0] Decode batch. #running-req: 32, #token: 7352, token usage: 0.01, "
    "accept len: 2.54, gen throughput (token/s): 39.33, largest-len: 0, #queue-req: 68, "
)
SGLANG_RATE = "Decode batch, #running-req: 1, accept len: {}, accept rate: {}, cuda graph: True"


@pytest.mark.parametrize("log", [VLLM, LLAMA, PROMETHEUS, LLAMA + "\n" + LLAMA])
def test_three_engines_log_one_run(log):
    found = diagnose(read_log(log))
    assert found.gamma == 3 or found.gamma == pytest.approx(259 / 87)
    assert found.accepted_per_drafted == pytest.approx(0.6448, abs=5e-4)
    assert found.tokens_per_cycle == pytest.approx(2.92, abs=2e-3)
    assert found.survival == pytest.approx((0.805, 0.632, 0.483), abs=5e-4)
    assert IID(found.alpha).tokens_per_cycle(3) == pytest.approx(found.tokens_per_cycle)
    assert found.pooled_alpha == pytest.approx(1.92 / (1.92 + 1 - 0.483), abs=1e-3)


def test_an_older_version_of_vllm():
    found = diagnose(read_log(VLLM_OLD))
    assert found.engine == "vllm"
    assert found.gamma == 5
    assert found.accepted_per_drafted == pytest.approx(262 / 295)
    assert found.tokens_per_cycle == pytest.approx(
        1 + 0.983 + 0.949 + 0.915 + 0.881 + 0.712, abs=0.01
    )


def test_vllm_0_counts_matches_after_a_rejection():
    found = diagnose(read_log(VLLM_0))
    assert found.tokens_per_cycle == pytest.approx(5 * 0.510, abs=1e-3)  # its system efficiency
    assert found.accepted_per_drafted == pytest.approx((found.tokens_per_cycle - 1) / 4)
    assert found.accepted_per_drafted < 0.607 < found.alpha + 0.1
    assert "not accepted / drafted" in found.findings[0]


def test_several_intervals_are_added_up():
    other = VLLM.replace("167 tokens", "100 tokens").replace("259 tokens", "300 tokens")
    other = other.replace("0.805, 0.632, 0.483", "0.5, 0.3, 0.2").replace("2.92", "2.00")
    other = other.replace("64.5%", "33.3%")
    found = diagnose(read_log(f"noise\n{VLLM}\nmore noise\n{other}\n"))
    assert found.accepted_per_drafted == pytest.approx(267 / 559)
    weight = 87 / 187  # 87 cycles and 100
    assert found.tokens_per_cycle == pytest.approx(1 + 267 / 187)
    assert found.survival[0] == pytest.approx(0.805 * weight + 0.5 * (1 - weight))


@pytest.mark.parametrize("log", [VLLM, VLLM_0, LLAMA, LLAMA_OLD, SGLANG])
def test_a_log_may_be_the_numbers_alone(log):
    """Without the time and the process that a logger writes before them."""
    marks = ("SpecDecoding", "Number of speculative", "draft acceptance", "accept len")
    (at,) = (log.index(mark) for mark in marks if mark in log)
    assert read_log(log[at:]) == read_log(log)
    assert read_log(f"{log[at:]}\n{log[at:]}") == read_log(f"{log}\n{log}")


def test_requests_of_llama_cpp_are_weighted_by_their_cycles():
    # 10 cycles that accept 20 of 30 drafts, and 40 cycles that accept 20 of 120
    first = (
        "draft acceptance = 0.66 ( 20 accepted / 30 generated), mean acceptance length = 3.00, "
        "acceptance rate per position = (1.0, 0.6, 0.4)"
    )
    second = (
        "draft acceptance = 0.16 ( 20 accepted / 120 generated), mean acceptance length = 1.50, "
        "acceptance rate per position = (0.3, 0.1, 0.1)"
    )
    found = diagnose(read_log(f"{first}\n{second}\n"))
    assert found.tokens_per_cycle == pytest.approx(1 + 40 / 50)
    assert found.accepted_per_drafted == pytest.approx(40 / 150)
    assert found.survival == pytest.approx(((10 + 12) / 50, (6 + 4) / 50, (4 + 4) / 50))


@pytest.mark.parametrize(
    ("survival", "kept"), [((0.8, 0.6), "45%"), ((0.8,), "64%"), ((0.9, 0.0), "0%"), ((0.0,), "0%")]
)
def test_one_more_draft_is_kept_as_the_last_one_was(survival, kept):
    # the share that reaches the last place, times the share of those that the last place kept
    found = diagnose(Counters(survival=survival))
    (advice,) = [said for said in found.findings if "One more draft" in said]
    assert f"One more draft would be accepted in about {kept}." in advice
    assert f"accepted in {survival[-1]:.0%} of the cycles" in advice


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "gzip", "\r"])
def test_a_log_is_read_as_terminals_and_shells_write_it(encoding, tmp_path):
    file = tmp_path / "serve.log"
    text = f"before\n{VLLM}\nafter\n"
    if encoding == "gzip":
        file.write_bytes(gzip.compress(text.encode()))
    elif encoding == "\r":
        file.write_bytes(f"10 %\r{VLLM}\r20 %\r{VLLM}\n".encode())
    else:
        file.write_bytes(text.encode(encoding))
    again = diagnose(read_log(text_of(str(file))))
    assert again.survival == pytest.approx(diagnose(read_log(VLLM)).survival)
    assert again.tokens_per_cycle == pytest.approx(1 + 167 / 87)


def test_a_log_that_unpacks_without_end_is_refused(tmp_path, monkeypatch):
    file = tmp_path / "bomb.gz"
    file.write_bytes(gzip.compress(b"0" * 3_000_000))
    small = dict(limits.LIMITS) | {"log_bytes": limits.Limit(2_000_000, "cut it")}
    for module in (limits, files):
        monkeypatch.setattr(module, "LIMITS", small)
    with pytest.raises(SpecsimError, match="unpacked size"):
        text_of(str(file))
    file.write_bytes(gzip.compress(b"1" * 1000)[:-20])
    with pytest.raises(SpecsimError, match="damaged gzip"):
        text_of(str(file))


# One-line logs that made a pattern begin again at every place: each is repeated to a length.
ONE_LINERS = (
    "1", "SpecDecoding metrics Accepted: 1", "Number of speculative tokens: 4", "Number of "
    "speculative tokens: 4 Number of draft tokens: 4", "vllm:spec_decode_num_drafts{",
    "accepted_tokens_per_pos{", 'accepted_tokens_per_pos{position="1"', 'position="1"', " ( 1",
    " ( 1 accepted / ", "draft acceptance ( 1 accepted /", "n_drafted = ", "accept len : ",
    '"draft_n" : ', "1,", "statistics x: #gen drafts = 1 ", "pred= 1 draft= 1 acc= ",
    "Accepted 1/1 to", '"from_draft": ', '"spec_accept_histogram": [1, ', "\nDrafts:  1",
    "Serving Benchmark Result", "process_start_time_seconds 1\n", "acceptance at token 1: 0.5",
    " eval time = 1 ms / 1 tokens", "draft acceptance eval time =", "accepted rate: ",
    "#running-req: 1, #token: 1 ", "Per-position acceptance rate: 0.1", "SpecDecoding metrics\n",
    "\n", " ",
)  # fmt: skip
BEGINNINGS = (
    "",
    "SpecDecoding metrics Accepted: ",
    "SpecDecoding metrics Per-position acceptance rate: ",
    "draft acceptance (",
    'vllm:spec_decode_num_drafts{position="',
    PROMETHEUS,
    VLLM_0,
)


def seconds_of(beginning: str, part: str, size: int) -> float:
    """The processor time of reading `part`, repeated to `size` characters; the least of two."""
    text = beginning + (part * (size // len(part) + 1))[:size]
    taken = []
    for _ in range(2):
        start = time.process_time()
        with suppress(SpecsimError):
            read_log(text)
        taken.append(time.process_time() - start)
    return min(taken)


@pytest.mark.slow
@pytest.mark.parametrize("part", ONE_LINERS, ids=range(len(ONE_LINERS)))
@pytest.mark.parametrize("beginning", BEGINNINGS, ids=range(len(BEGINNINGS)))
def test_reading_a_log_takes_time_in_proportion_to_it(beginning, part):
    # four doublings: a quadratic pattern takes 256 times as long; 2 MB of any line take a second
    short, long = (seconds_of(beginning, part, size) for size in (125_000, 2_000_000))
    assert long < max(64 * short, 0.5)


@pytest.mark.parametrize(
    "part", ["Number of speculative tokens: 4, x ", "Number of draft tokens: 5"]
)
def test_the_last_metrics_of_a_line_of_vllm_0_count(part):
    later = VLLM_0.replace("53716", "60000").replace("32594", "36420").replace("34244", "38250")
    line = f"{VLLM_0} {later} {part}"
    assert read_log(line).drafted == 60000


@pytest.mark.parametrize(
    "counters",
    [
        Counters(accepted=1.0, cycles=1e-320),
        Counters(accepted=1.0, drafted=1e308, cycles=1e-5),
        Counters("sglang", accepted_per_drafted=1e-320, tokens_per_cycle=2.0),
        Counters(accepted=1e308, drafted=float("inf")),
        Counters(survival=(float("nan"),)),
        Counters(survival=(0.5,) * 5000),
        Counters(gamma=float("nan"), tokens_per_cycle=2.0),
    ],
)
def test_counters_without_sense_are_refused(counters):
    with pytest.raises(SpecsimError):
        diagnose(counters)


def test_a_position_far_out_fills_no_memory():
    with pytest.raises(SpecsimError, match="must be at most"):
        read_log(PROMETHEUS.replace('position="2"', 'position="999999999"'))
    with pytest.raises(SpecsimError, match="must be at most"):
        read_log("SpecDecoding metrics Per-position acceptance rate: " + "0.1, " * 3000)


@pytest.mark.parametrize(("log", "cycles"), [(LLAMA_EXAMPLE, 266 - 223), (LLAMA_JSON, 200 - 65)])
def test_llama_cpp_counts_cycles_where_it_tells_the_generated_tokens(log, cycles):
    counters = read_log(log)
    found = diagnose(counters)
    assert found.tokens_per_cycle == pytest.approx(1 + counters.accepted / cycles)
    assert found.gamma == pytest.approx(counters.drafted / cycles)
    told = diagnose(counters, gamma=16)  # the setting is a limit, not what was drafted
    assert told.tokens_per_cycle == found.tokens_per_cycle
    assert any("not the 16 of --gamma" in sentence for sentence in told.findings)


def test_llama_cpp_without_a_length_needs_gamma():
    counters = read_log(LLAMA_OLD)
    assert counters.engine == "llama.cpp"
    blind = diagnose(counters)
    assert blind.alpha is blind.tokens_per_cycle is None
    assert any("need gamma" in sentence for sentence in blind.findings)
    told = diagnose(counters, gamma=4)
    rate = counters.accepted / counters.drafted
    assert told.tokens_per_cycle == pytest.approx(1 + 4 * rate)
    assert told.alpha > rate


def test_sglang_without_a_rate():
    found = diagnose(read_log(SGLANG))
    assert found.tokens_per_cycle == 2.54
    assert found.alpha is found.accepted_per_drafted is None
    assert diagnose(read_log(SGLANG), gamma=3).accepted_per_drafted == pytest.approx(1.54 / 3)


@pytest.mark.parametrize(("length", "rate"), [(2.9, 0.725), (2.9, 0.6333)])
@pytest.mark.parametrize("gamma", [None, 3])
def test_sglangs_rate_is_over_rows_or_over_drafts(length, rate, gamma):
    found = diagnose(read_log(SGLANG_RATE.format(length, rate)), gamma)
    assert found.gamma == pytest.approx(3, abs=1e-3)
    assert found.accepted_per_drafted == pytest.approx(1.9 / 3, abs=1e-3)
    assert found.tokens_per_cycle == 2.9
    over_rows = any("verified rows" in sentence for sentence in found.findings)
    assert over_rows == (rate == 0.725)


def test_sglangs_request_record():
    record = "'meta_info': {'spec_accept_rate': 0.725, 'spec_accept_length': 2.9}"
    assert diagnose(read_log(record)).gamma == 3


def test_counts_by_hand():
    # 54 % of gamma = 5 drafts accepted: 1 + 5 x 0.54
    found = diagnose(Counters(accepted=54, drafted=100), gamma=5)
    assert found.tokens_per_cycle == pytest.approx(3.70)
    assert found.alpha == pytest.approx(0.80124, abs=1e-5)
    by_cycles = diagnose(Counters(accepted=54, drafted=100, cycles=20))
    assert by_cycles == diagnose(Counters(accepted=54, drafted=100, cycles=20), gamma=5)
    # 1 + 0.68 + 0.39 + 0.20, and 1.27 accepted of 1.27 + 0.80 decided drafts
    by_survival = diagnose(Counters(survival=(0.68, 0.39, 0.20)))
    assert by_survival.tokens_per_cycle == pytest.approx(2.27)
    assert by_survival.pooled_alpha == pytest.approx(0.61353, abs=1e-5)


@given(st.floats(0.01, 0.99), st.integers(1, 12))
def test_the_three_rates_follow_from_any_of_them(alpha, gamma):
    tokens = float(IID(alpha).tokens_per_cycle(gamma))
    survival = tuple(alpha**k for k in range(1, gamma + 1))
    for told in (
        Counters(accepted=1e6 * (tokens - 1), drafted=1e6 * gamma),
        Counters(tokens_per_cycle=tokens),
        Counters(survival=survival),
    ):
        found = diagnose(told, gamma)
        assert found.alpha == pytest.approx(alpha, abs=1e-6)
        assert found.tokens_per_cycle == pytest.approx(tokens)
        assert found.accepted_per_drafted == pytest.approx((tokens - 1) / gamma)


@pytest.mark.parametrize(
    "text", ["", "nothing here", "accept", "SpecDecoding metrics:", "\x00\xff", '{"accepted": 3}']
)
def test_a_log_without_counters_is_one_clear_error(text):
    with pytest.raises(SpecsimError) as refused:
        read_log(text)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("counters", "gamma", "message"),
    [
        (Counters(accepted=5, drafted=3), 2, "at most drafted, got 5 accepted of 3"),
        (Counters(accepted=0, drafted=0), 2, "no tokens were drafted"),
        (Counters(accepted=-1, drafted=3), 2, "accepted must be a count"),
        (Counters(tokens_per_cycle=4.5), 3, "at most 4, bonus included; check gamma"),
        (Counters(tokens_per_cycle=0.5), 3, "must be within"),
        (Counters(survival=(0.5, 0.6)), None, "must not rise"),
    ],
)
def test_impossible_counters_are_refused(counters, gamma, message):
    with pytest.raises(SpecsimError, match=message):
        diagnose(counters, gamma)


def test_the_bottleneck_is_the_smallest_factor():
    target, drafter = model("llama-3.1-8b"), DraftModel(model("llama-3.2-1b"))
    machine = system("h100", engine="ideal")

    def told(drafter=drafter, **scenario):
        return bottleneck(predict(target, drafter, machine, gamma=4, **scenario))

    assert LIMITS["acceptance"] in told(alpha=0.1)
    assert told(alpha=0.1).endswith(" (x 0.22).")  # (1 + .1 + .01 + .001 + .0001) / 5
    assert LIMITS["wider verification"] in told(alpha=1.0, batch=512, context=1)
    assert LIMITS["drafting"] in told(drafter=DraftModel(target), alpha=1.0)
    plain = predict(target, drafter, machine, gamma=0, alpha=0.5)
    assert bottleneck(plain) == "Plain decoding, bound by weights."


def test_json_is_plain_data():
    document = diagnose(read_log(VLLM)).to_json()
    assert document["survival"] == [0.805, 0.632, 0.483]
    assert all(isinstance(sentence, str) for sentence in document["findings"])
