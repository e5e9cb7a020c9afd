"""Latencies and the goodput of a known schedule, to the last digit."""

import numpy as np
import pytest
from scripted import Asked, FakeClock, Send, load, measured, scheduled


def test_a_known_schedule_gives_exactly_its_latencies() -> None:
    clock, at = FakeClock(), [0.5, 0.75, 1.25, 2.0]
    run = measured(scheduled(clock, at, output=7), requests=2, clock=clock)
    assert run.ttft_s.tolist() == [0.5, 0.5]
    assert [gaps.tolist() for gaps in run.itl_s] == [[0.25, 0.5, 0.75]] * 2
    assert run.e2el_s.tolist() == [2.0, 2.0]
    # tokens are those of usage, not chunks; gaps are those of chunks, not tokens
    assert run.tokens.tolist() == [7, 7]
    assert run.tpot_s.tolist() == [1.5 / 6] * 2
    assert run.summary["mean_itl_ms"] == 500.0
    assert run.summary["total_output_tokens"] == 14
    assert run.sent_s.tolist() == [0.0, 2.0]
    assert run.duration_s == 4.0
    assert run.summary["output_throughput"] == 3.5
    assert any("carries 1.75 tokens" in each for each in run.findings)


def test_an_answer_of_one_token_has_no_time_per_token() -> None:
    clock = FakeClock()
    run = measured(scheduled(clock, [0.25], output=1), requests=2, clock=clock,
                   slo={"tpot": 1, "ttft": 300})  # fmt: skip
    assert np.isnan(run.tpot_s).all()
    assert run.summary["mean_tpot_ms"] is None
    assert run.summary["mean_itl_ms"] is None
    assert run.summary["request_goodput"] == run.summary["request_throughput"]  # as in vLLM


def test_the_goodput_counts_what_keeps_to_every_limit() -> None:
    clock = FakeClock()
    slow = scheduled(clock, [0.5, 1.0, 4.0, 5.0], output=4)
    fast = scheduled(clock, [0.25, 0.5, 0.75, 1.0], output=4)

    async def script(asked: Asked, send: Send) -> None:
        await (slow if asked.number == 2 else fast)(asked, send)

    run = measured(script, requests=4, clock=clock, slo={"ttft": 300, "tpot": 300})
    assert run.good.tolist() == [True, False, True, True]
    assert run.summary["request_goodput"] == 3 / run.duration_s


def test_requests_are_sent_when_they_are_due() -> None:
    clock = FakeClock()
    run = measured(requests=20, clock=clock, rate=4.0, concurrency=None)
    assert run.waited_s.tolist() == [0.0] * 20
    assert run.sent_s == pytest.approx(load(20, rate=4.0, concurrency=None).arrival_s)
    assert run.duration_s == pytest.approx(5.0)
    assert run.summary["request_rate"] == 4.0
    assert run.summary["max_concurrency"] is None
