"""What a run says about its cycles, compared with numbers worked out by hand."""

import math

import pytest

from reference.statistics import Statistics


def cycles(gamma: int, accepted: list[int], drafted: list[int]) -> Statistics:
    statistics = Statistics(gamma)
    statistics.add_cycle(accepted, drafted, [0.0] * 4)
    return statistics


def test_a_place_that_was_not_drafted_is_no_rejection() -> None:
    """A drafter may stop early: of 2, 3, 1 and 0 drafts, 2, 1, 0 and 0 were accepted. Three cycles
    ended without a test that failed, or without a test: those that accepted all they had."""
    statistics = cycles(4, accepted=[2, 1, 0, 0], drafted=[2, 3, 1, 0])
    assert statistics.alpha == pytest.approx(3 / (3 + 2))
    assert statistics.accepted_per_drafted == pytest.approx(3 / 6)
    assert statistics.survival == [2 / 4, 1 / 4, 0, 0]
    assert statistics.accepted_histogram == [2, 1, 1, 0, 0]
    assert statistics.tokens_per_cycle == 1 + 3 / 4


def test_the_error_of_a_mean_falls_with_the_root_of_the_cycles() -> None:
    counts = [0, 1, 2, 3, 4]  # deviation sqrt(10 / 4)
    statistics = cycles(4, counts, [4] * 5)
    assert statistics.tokens_per_cycle_error == pytest.approx(math.sqrt(10 / 4) / math.sqrt(5))
    assert cycles(4, counts * 100, [4] * 500).tokens_per_cycle_error == pytest.approx(
        math.sqrt(1000 / 499) / math.sqrt(500)
    )
    assert cycles(4, [3], [4]).tokens_per_cycle_error is None


def test_runs_add_up_to_one() -> None:
    one, other = cycles(3, [3, 0], [3, 3]), cycles(3, [1], [2])
    one.extend(other)
    whole = cycles(3, [3, 0, 1], [3, 3, 2])
    for name in ("alpha", "survival", "tokens_per_cycle", "tokens_per_cycle_error", "drafted"):
        assert getattr(one, name) == getattr(whole, name), name
    assert len(one.cycle_times) == 2


def test_the_first_cycle_may_be_forgotten_but_not_the_only_one():
    timed = Statistics(2)
    timed.add_cycle([1], [2], [4.0, 3.0, 2.0, 1.0])
    timed.forget_first()
    assert timed.cycle_s == 10.0
    timed.add_cycle([0], [2], [0.4, 0.3, 0.2, 0.1])
    timed.forget_first()
    assert (timed.cycle_s, timed.draft_s) == (pytest.approx(1.0), 0.4)
    assert timed.cycles == 2
