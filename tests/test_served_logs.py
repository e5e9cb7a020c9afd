"""Logs, pages of metrics and answers of every engine become the counters that they tell.

The excerpts are in the formats of the engines' public sources, with numbers of their own.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specsim.checks import SpecsimError
from specsim.evidence.diagnosis import diagnose
from specsim.evidence.served import read_log
from specsim.evidence.served.text import segments


def loaded(name: str) -> ModuleType:
    """A script of bench/ as a module."""
    path = Path(__file__).parent.parent / "bench" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


fuzz = loaded("read_fuzz")
RUN = fuzz.Run(100, 3, (80, 50, 28), 300)  # 158 of 300 drafts accepted in 100 cycles

# vllm/v1/spec_decode/metrics.py: an interval without a draft
VLLM_IDLE = (
    "INFO [metrics.py:101] SpecDecoding metrics: Mean acceptance length: nan, Accepted throughput: "
    "0.00 tokens/s, Drafted throughput: 0.00 tokens/s, Accepted: 0 tokens, Drafted: 0 tokens, "
    "Per-position acceptance rate: , Avg Draft acceptance rate: nan%"
)
# vllm/v1/spec_decode/metrics.py of early versions
VLLM_EARLY = (
    "SpecDecoding metrics: Draft acceptance rate: 52.7%, Accepted: 158 tokens, Drafted: 300 tokens"
)
# vllm/engine/metrics.py: counters and gauges of version 0
VLLM_0_PAGE = """
vllm:spec_decode_draft_acceptance_rate{model_name="m"} 0.64
vllm:spec_decode_efficiency{model_name="m"} 0.60
vllm:spec_decode_num_accepted_tokens_total{model_name="m"} 8512.0
vllm:spec_decode_num_draft_tokens_total{model_name="m"} 13300.0
vllm:spec_decode_num_emitted_tokens_total{model_name="m"} 10640.0
"""
# python/sglang/srt: metrics_collector.py, bench_serving.py, /get_server_info
SGLANG_PAGE = (
    'sglang:spec_accept_length{tp_rank="0"} 2.6\nsglang:spec_accept_rate{tp_rank="0"} 0.533\n'
)
SGLANG_IDLE = (
    "Decode batch, #running-req: 0, #token: 0, token usage: 0.00, accept len: 0.00, accept rate: "
    "0.00, cuda graph: True, gen throughput (token/s): 0.00, #queue-req: 0"
)
SGLANG_BLOCK = (
    "============ Serving Benchmark Result ============\nBackend:                            "
    "     sglang    \nSuccessful requests:                     100       \nAccept length:       "
    "                    2.93      \n==================================================\n"
)
SGLANG_STATE = (
    '{"internal_states": [{"avg_spec_accept_length": 2.93, "last_gen_throughput": 120.0}]}'
)
# LM Studio's line below an answer
LM_STUDIO = (
    "15.10 tok/sec • 402 tokens • 0.42s to first token • Accepted 221/402 draft tokens (55.0%)"
)
# mlx_lm's responses
MLX = "\n".join(f'{{"token": {k}, "from_draft": {str(k % 2 == 0).lower()}}}' for k in range(20))
# TensorRT-LLM's collector.py
TENSORRT_PAGE = """
trtllm_spec_decode_num_draft_tokens_total{model_name="m"} 300.0
trtllm_spec_decode_num_accepted_tokens_total{model_name="m"} 158.0
trtllm_spec_decode_acceptance_length{model_name="m"} 2.58
"""
# llama.cpp: two drafters of one server, whose drafts add up
TWO_DRAFTERS = (
    "statistics ngram-simple: #calls(b,g,a) = 2 15 5, #gen drafts = 5, #acc drafts = 5, #gen tokens"
    " = 187, #acc tokens = 73, dur(b,g,a) = 1, 2, 3 ms\n"
    "statistics draft-simple: #calls(b,g,a) = 2 10 10, #gen drafts = 10, #acc drafts = 10, #gen "
    "tokens = 110, #acc tokens = 98, dur(b,g,a) = 1, 2, 3 ms\n"
)

EXPECTED = {  # tokens per cycle, accepted / drafted
    "vllm idle line": (f"{fuzz.vllm_line(RUN)}\n{VLLM_IDLE}\n", 2.58, 158 / 300),
    "vllm early": (VLLM_EARLY, None, 158 / 300),
    "vllm 0 page": (VLLM_0_PAGE, 2.4, 1.4 / 3),
    "sglang page": (SGLANG_PAGE, 2.6, 0.533),
    "sglang idle line": (f"{fuzz.sglang_line(RUN)}\n{SGLANG_IDLE}\n", 2.58, 1.58 / 3),
    "sglang block": (SGLANG_BLOCK, 2.93, None),
    "sglang state": (SGLANG_STATE, 2.93, None),
    "lm studio": (LM_STUDIO, 402 / 181, None),
    "mlx": (MLX, 2.0, None),
    "tensorrt page": (TENSORRT_PAGE, 2.58, 158 / 300),
    "two drafters": (TWO_DRAFTERS, 1 + 171 / 15, 171 / 297),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_an_excerpt_is_read_right(name):
    text, tokens, rate = EXPECTED[name]
    found = diagnose(read_log(text))
    for value, expected in ((found.tokens_per_cycle, tokens), (found.accepted_per_drafted, rate)):
        assert value == (None if expected is None else pytest.approx(expected, rel=1e-3))


@pytest.mark.parametrize("kind", [*fuzz.ADDED, *fuzz.GROWING, *fuzz.ALONE])
def test_one_run_told_in_every_format_gives_the_same_numbers(kind):
    tell = (fuzz.ADDED | fuzz.GROWING | fuzz.ALONE)[kind]
    found = diagnose(read_log(tell(RUN) + "\n"))
    assert found.tokens_per_cycle == pytest.approx(2.58, abs=1e-3)
    assert found.accepted_per_drafted == pytest.approx(158 / 300, abs=1e-3)
    assert found.gamma == pytest.approx(3, abs=2e-3)
    assert found.alpha == pytest.approx(0.712, abs=1e-3)
    if found.survival is not None:
        assert found.survival == pytest.approx((0.8, 0.5, 0.28), abs=1e-3)


def test_cycles_come_from_the_log_and_not_from_a_setting():
    # 144 drafts in 74 cycles: fewer than the setting of 3, because drafting stops early
    run = fuzz.Run(74, 2, (66, 52), 144)
    log = f"{fuzz.llama_old_request(run)}\n{fuzz.llama_statistics(run)}\n"
    for gamma in (None, 3):
        found = diagnose(read_log(log), gamma)
        assert found.tokens_per_cycle == pytest.approx(192 / 74)
        assert found.gamma == pytest.approx(144 / 74)


def test_a_drafter_that_seldom_drafts_is_said_to():
    lookup = (
        "statistics ngram-mod: #calls(b,g,a) = 10 730 3, #gen drafts = 3, #acc drafts = 3, #gen "
        "tokens = 192, #acc tokens = 43, dur(b,g,a) = 0.325, 1.904, 1.101 ms\n"
    )
    counters = read_log(lookup)
    assert diagnose(counters).tokens_per_cycle == pytest.approx(1 + 43 / 3)
    assert "Only 3 of 730 passes had a draft" in counters.cautions[0]
    assert "1.059" in counters.cautions[0]


def test_a_page_is_subtracted_from_a_later_one():
    later = RUN.plus(fuzz.Run(50, 3, (20, 10, 0), 150))
    text = f"{fuzz.page('vllm', RUN)}\n{fuzz.page('vllm', later)}\n"
    found = diagnose(read_log(text))
    assert found.tokens_per_cycle == pytest.approx(1 + 30 / 50)
    assert found.survival == pytest.approx((0.4, 0.2, 0.0))


def test_an_idle_server_between_two_scrapes_is_said_to_be_one():
    counters = read_log(2 * f"{fuzz.page('llamacpp', RUN)}\n")
    assert counters.cycles == 100
    assert "Nothing was drafted between the scrapes" in counters.cautions[0]


def test_a_restart_between_two_scrapes_is_seen():
    started = "process_start_time_seconds 1.7e+09\n"
    later = RUN.plus(RUN)  # all counters grew, but those of another process
    text = f"{started}{fuzz.page('vllm', RUN)}\n{started.replace('1.7', '1.8')}"
    counters = read_log(f"{text}{fuzz.page('vllm', later)}\n")
    assert counters.cycles == 200
    assert "restarted" in counters.cautions[0]


def test_sglangs_lines_tell_by_themselves_what_their_rate_is_divided_by():
    over_rows = "Decode batch, #running-req: 1, accept len: {:.2f}, accept rate: {:.2f}, x\n"
    lengths = (1.3, 1.9, 2.4, 3.1)
    found = diagnose(read_log("".join(over_rows.format(a, a / 5) for a in lengths)))
    assert found.gamma == pytest.approx(4, rel=0.01)
    over_drafts = "".join(over_rows.format(a, (a - 1) / 4) for a in lengths)
    assert diagnose(read_log(over_drafts)).gamma == 4


CONTRADICTIONS = {
    "counts": (fuzz.vllm_line(RUN).replace("158 tokens", "258 tokens"), "a rate of 0.527"),
    "more accepted than drafted": (fuzz.llama_timings(fuzz.Run(100, 3, (90,) * 4, 300)),
                                   "at most drafted"),
    "negative": (fuzz.page("vllm", RUN).replace(" 300.0", " -300.0"), "a number >= 0"),
    "huge": (fuzz.tensorrt(RUN).replace("300", "9" * 30), "must be a count"),
    "positions": (fuzz.page("llamacpp", RUN).replace(" 28.0", " 29.0"), "159 over all positions"),
    "rising": (fuzz.vllm_line(RUN).replace("0.500, 0.280", "0.280, 0.500"), "that rise"),
    "two engines": (f"{fuzz.vllm_line(RUN)}\n{fuzz.sglang_line(RUN)}\n", "two engines"),
    "two runs": (f"{fuzz.block(RUN)}\n{fuzz.block(fuzz.Run(9, 1, (5,), 9))}\n", "different"),
    "block and log": (f"{fuzz.vllm_line(RUN)}\n{fuzz.block(fuzz.Run(9, 1, (5,), 9))}\n",
                      "contradicts itself"),
    "requests and statistics": (
        f"{fuzz.llama_request(RUN.plus(RUN))}\n{fuzz.llama_statistics(RUN)}\n",
        "its statistics since the start only 158 of 300"),
    "scrapes of two servers": (
        f"{fuzz.page('llamacpp', RUN)}\n{fuzz.page('llamacpp', fuzz.Run(90, 9, (9,) * 9, 810))}\n",
        "fell and others grew"),
    "cut": (fuzz.page("vllm", RUN).split("\n", 3)[0], "lack"),
    "idle": (VLLM_IDLE, "the server was idle"),
    "plain": (fuzz.block(RUN).partition("-----")[0] + "=" * 50, "without speculation"),
    "a metric": ("tgi_spec_accepted_total 5\n", "found the metrics tgi_spec_accepted_total"),
    "a line": ("myengine: acceptance_ratio=0.61\n", "found 'acceptance_ratio=0.61'"),
    "a record": ('{"speculative": {"accepted": 30, "proposed": 50}}', "--cycles N"),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_what_contradicts_itself_or_is_not_known_is_refused_in_one_line(name):
    text, said = CONTRADICTIONS[name]
    with pytest.raises(SpecsimError) as refused:
        diagnose(read_log(text))
    assert said in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_few_damaged_lines_are_left_out_and_counted():
    good, bad = fuzz.vllm_line(RUN), fuzz.vllm_line(RUN).replace("158 tokens", "8 tokens")
    counters = read_log("\n".join([good] * 40 + [bad]) + "\n")
    assert counters.cycles == 4000
    assert "1 of 41" in counters.cautions[0]
    cut = good[: good.index("Drafted:")]
    assert read_log("\n".join([good] * 3 + [cut]) + "\n").cycles == 300


def test_a_number_at_the_very_end_may_be_cut():
    text = fuzz.llama_summary(RUN).rpartition("accept  ")[0].rstrip()
    assert "it may be cut" in read_log(text).cautions[-1]
    assert read_log(text + "\n").cautions == ()


def test_servers_in_one_log_are_named():
    other = fuzz.vllm_line(fuzz.Run(100, 2, (50, 25), 200)).replace("pid=17", "pid=18")
    counters = read_log(f"{fuzz.vllm_line(RUN)}\n{other}\n")
    assert counters.cycles == 200
    assert any("2 processes" in said for said in counters.cautions)
    assert any("positions changes, from 2 to 3" in said for said in counters.cautions)


@given(st.text("ab \n", max_size=60), st.sampled_from(["a", "ab", " b"]))
def test_marks_are_found_with_what_follows_and_precedes_them(text, mark):
    expected = []
    for line in text.split("\n"):
        before, *following = line.split(mark)
        for index, rest in enumerate(following):
            expected.append((mark + rest, before + "".join(mark + f for f in following[:index])))
    assert list(segments(mark, text)) == expected
