"""Measured points, and the trace that predicts them without running a cycle."""

import numpy as np
import pytest
import torch

from reference.decoding import speculate
from reference.drafters.draft_model import DraftModel
from reference.lab.dialled import dialled_pair
from reference.lab.suites import divergence, first_difference, measure_pair, text_trace
from reference.lab.suites.counting import until_tokens, whole_cycles
from reference.statistics import Statistics
from specsim.acceptance import TextTrace
from specsim.architecture import Architecture

SHAPE = Architecture(
    name="small", hidden_size=64, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16,
    intermediate_size=128, vocab_size=64, max_context=256,
)  # fmt: skip
PROMPTS = [[seed, 7, seed + 1] for seed in range(40)]


@pytest.fixture(scope="module")
def pair():
    return dialled_pair(SHAPE, 1, 0.7, dtype=torch.float32)[:2]


def test_a_trace_predicts_the_cycles_that_are_run_on_other_prompts(pair):
    target, draft = pair
    trace = TextTrace(*text_trace(target, draft, PROMPTS[:20], max_new_tokens=100))
    for gamma in (1, 3, 6):
        run = speculate(target, DraftModel(draft, gamma), PROMPTS[20:], 100, temperature=1.0)
        measured, error = run.statistics.tokens_per_cycle, run.statistics.tokens_per_cycle_error
        spread = 3 * np.hypot(error, trace.standard_error(gamma))
        assert abs(trace.tokens_per_cycle(gamma) - measured) < spread, gamma


def test_a_perfect_draft_keeps_everything(pair):
    target, _ = pair
    kept, overlap = text_trace(target, target, PROMPTS[:2], max_new_tokens=12)
    np.testing.assert_allclose(kept, 1.0, atol=1e-5)
    np.testing.assert_allclose(overlap, 1.0, atol=1e-5)


def test_greedy_keeps_or_does_not(pair):
    kept, overlap = text_trace(*pair, PROMPTS[:4], max_new_tokens=24, temperature=0.0)
    assert set(np.ravel(kept)) == {0.0, 1.0}
    np.testing.assert_array_equal(kept, overlap)


def test_every_gamma_is_a_point_with_the_same_plain_step(pair):
    points = measure_pair(*pair, PROMPTS[:2], [2, 4], max_new_tokens=20)
    assert [point.scenario.gamma for point in points] == [0, 2, 4]
    assert len({point.step_s for point in points}) == 1
    plain, two, _ = points
    assert plain.tokens_per_cycle == 1.0
    assert plain.scenario.draft is None
    assert plain.draft_step_s is None
    assert two.scenario.target == SHAPE
    assert sum(two.accepted_histogram) > 0
    assert 1.0 <= two.tokens_per_cycle <= 3.0
    # every cycle takes longer than each of its stages, and so do their medians
    stages = (2 * two.draft_step_s.median, two.verify_step_s.median, two.host_s.median)
    assert 0 < min(stages) <= max(stages) <= two.cycle_s.median


class Bar:
    """A progress bar that counts."""

    def __init__(self, total: int, **_: object) -> None:
        self.total, self.done = total, 0

    def update(self) -> None:
        self.done += 1

    def close(self) -> None:
        assert self.done == self.total


class Drift:
    """A machine that takes longer every time: 1 s, 2 s, …"""

    def __init__(self) -> None:
        self.probed = 0.0

    def now_s(self) -> float:
        self.probed += 1.0
        return self.probed


@pytest.mark.parametrize(("temperature", "rule"), [(0.0, "greedy"), (0.9, "token")])
def test_a_point_says_how_it_was_run(pair, monkeypatch, temperature: float, rule: str):
    monkeypatch.setattr("reference.lab.suites.pairs.tqdm", Bar)
    asked = {"max_new_tokens": 12, "temperature": temperature, "seed": 5}
    drift = {"drift": Drift(), "calibration_drift_s": 4.0}
    points = measure_pair(
        *pair, PROMPTS[:2], [2, 1], counted_prompts=PROMPTS[2:8], **asked, **drift
    )
    for point in points:
        run = point.scenario
        assert (run.batch, run.rule, run.temperature, run.seed) == (1, rule, temperature, 5)
        assert run.context == 3 + 12 / 2
        assert run.allocated_context == run.context + run.gamma + 1  # a pass reads its own
        assert (run.mode, run.precision) == ("eager", "fp32")
        assert point.drift == (1 + 2 + 3) / 3 / 4  # before, and after each of two prompts
    timed = measure_pair(*pair, PROMPTS[:2], [2, 1], **asked)
    for point, alone in zip(points[1:], timed[1:], strict=True):
        assert point.cycle_s.n == alone.cycle_s.n
        assert sum(point.accepted_histogram) > 2 * sum(alone.accepted_histogram)
    assert points[0].accepted_histogram == timed[0].accepted_histogram


def test_the_first_difference_of_two_texts_is_said(pair):
    target, _ = pair
    assert first_difference(target, [1, 2], [3, 4], [3, 4]) is None
    assert "token 1" in first_difference(target, [1, 2], [3, 4], [3, 5])
    index, gap = divergence(target, [1, 2], [3, 4], [3, 5])
    best, second = target(torch.tensor([[1, 2, 3]]))[0, -1].topk(2).values.tolist()
    assert (index, gap) == (1, pytest.approx(best - second, abs=1e-5))


def test_tokens_per_cycle_of_short_texts_are_not_too_small(pair):
    """The number of accepted drafts is drawn from a known vector; texts end in their third cycle or
    so. What leaves out the cycles that pass the end counts too few tokens."""
    target, draft = pair
    drafter, survival = DraftModel(draft, 6), [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    drawn = {"temperature": 1.0, "survival": survival}
    found = {name: Statistics(6) for name in ("cut", "cycles", "tokens")}
    for seed in range(4):
        cut = speculate(target, drafter, PROMPTS, 12, seed=seed, **drawn).statistics
        found["cut"].extend(cut)
        found["cycles"].extend(whole_cycles(target, drafter, PROMPTS, 3, seed=seed, **drawn))
        for at, prompt in enumerate(PROMPTS[:10]):
            one = until_tokens(target, drafter, prompt, 12, seed=100 * seed + at, **drawn)
            found["tokens"].extend(one)
    assert found["cycles"].cycles == 4 * 3 * len(PROMPTS)
    expected = 1.0 + sum(survival)
    off = {
        name: (counted.tokens_per_cycle - expected) / counted.tokens_per_cycle_error
        for name, counted in found.items()
    }
    assert off["cut"] < -3.5
    assert abs(off["cycles"]) < 3
    assert abs(off["tokens"]) < 3


def test_counting_ends_where_the_context_is_full(pair):
    target, draft = pair
    long = [[1] * 240, [2] * 250]
    assert whole_cycles(target, DraftModel(draft, 4), long, 50, temperature=1.0).cycles > 0
    assert until_tokens(target, DraftModel(draft, 4), long[0], 50, temperature=1.0).cycles > 0
