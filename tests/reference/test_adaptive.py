"""How many tokens are drafted next: what the rules choose, and that the text does not notice."""

import itertools

import pytest

from reference import DraftModel, EarlyExit, Ensemble, Statistics, generate, speculate
from reference.adaptive import best_gamma, by_marginal_cost, recent_alpha
from reference.sampling import SamplingParameters
from reference.verification import LOSSLESS
from specsim.checks import SpecsimError

NEW = 24
PROMPTS = [[17], [3, 41], [9, 9, 30, 2, 55], [8, 7, 6, 5, 4, 3, 2, 1, 0], [60, 0] * 8]


@pytest.fixture(scope="module")
def pair(tiny, perturbed):
    target = tiny(2)
    return target, perturbed(target, 0.15)


@pytest.fixture(scope="module")
def small_pair(tiny, sampled_texts):
    fields = sampled_texts.MODEL
    return tiny(11, num_layers=1, **fields), tiny(12, num_layers=1, **fields)


def counted(accepted: list[int], drafted: list[int]) -> Statistics:
    return Statistics(max(drafted, default=0), accepted, drafted)


# What is chosen


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.8, 0.99])
@pytest.mark.parametrize("draft", [0.02, 0.1, 0.4])
def test_the_best_gamma_is_where_the_next_draft_is_not_worth_its_cost(alpha, draft) -> None:
    """The marginal rule: add a draft while its survival exceeds the speed times its cost."""
    cycle_s = [1 + draft * gamma for gamma in range(41)]
    survival = [alpha**k for k in range(1, 41)]
    gamma = best_gamma(survival, cycle_s)
    tokens = list(itertools.accumulate([1.0, *survival]))
    for g in range(40):
        speed = tokens[g] / cycle_s[g]
        assert (survival[g] > speed * draft) == (g < gamma)


def test_the_rule_follows_what_is_accepted_lately() -> None:
    choose = by_marginal_cost([1 + 0.1 * gamma for gamma in range(9)], recent=10, first=3)
    assert choose(counted([], [])) == 3
    assert choose(counted([0] * 50, [4] * 50)) == 1, "0 would be chosen for ever"
    assert choose(counted([0] * 50 + [4] * 10, [4] * 60)) == 8
    assert choose(counted([4] * 50 + [0] * 10, [4] * 60)) == 1


def test_alpha_counts_a_test_less_where_all_were_accepted() -> None:
    assert recent_alpha(counted([2, 3, 0], [3, 3, 1]), 3) == 5 / 7
    assert recent_alpha(counted([2, 3, 0], [3, 3, 1]), 1) == 0.0
    assert recent_alpha(counted([0], [0]), 5) is None


@pytest.mark.parametrize(
    "wrong", [lambda: by_marginal_cost([1.0]), lambda: by_marginal_cost([1.0, 0.0])]
)
def test_costs_that_are_none_are_named(wrong) -> None:
    with pytest.raises(SpecsimError, match="cycle_s must be times above 0"):
        wrong()


# The text does not notice


def drafters(draft, gamma: int, stop_below: float):
    model = DraftModel(draft, gamma, stop_below)
    return [model, EarlyExit(1, gamma, stop_below), Ensemble(model)]


def as_sure_as_lately(statistics: Statistics) -> int:
    """One token more than the surest sequence of the last cycle drafted before it stopped."""
    return max(statistics.drafted_counts[-len(PROMPTS) :], default=statistics.gamma) + 1


@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize("stop_below", [0.0, 0.3, 0.9, 1.1])
def test_greedy_text_is_that_of_plain_decoding(pair, index: int, stop_below: float) -> None:
    target, draft = pair
    expected = generate(target, PROMPTS, NEW).tokens
    drafter = drafters(draft, 6, stop_below)[index]
    costs = [1 + 0.2 * gamma for gamma in range(7)]
    for choose in (None, as_sure_as_lately, by_marginal_cost(costs), lambda s: s.cycles):
        run = speculate(target, drafter, PROMPTS, NEW, choose_gamma=choose)
        assert run.tokens == expected
        counts = zip(run.statistics.accepted_counts, run.statistics.drafted_counts, strict=True)
        assert all(0 <= n <= g <= 6 for n, g in counts)


def test_an_unsure_draft_drafts_less_and_a_surer_one_more(pair) -> None:
    target, draft = pair
    drafted = [
        speculate(target, DraftModel(draft, 6, stop), PROMPTS, NEW, 1.0).statistics
        for stop in (0.0, 0.3, 1.1)
    ]
    means = [s.drafted / s.cycles for s in drafted]
    assert means[0] == 6 > means[1] > means[2] == 1
    rates = [s.accepted_per_drafted for s in drafted]
    assert rates[0] < rates[1] < rates[2]


@pytest.mark.parametrize(
    "rule",
    [pytest.param(rule, marks=[pytest.mark.slow] * (rule == "match")) for rule in sorted(LOSSLESS)],
)
def test_sampled_texts_have_the_targets_distribution(small_pair, sampled_texts, rule: str) -> None:
    target, draft = small_pair
    options = {"temperature": 0.8, "choose_gamma": lambda s: 1 + s.accepted % 3, "rule": rule}
    counts = sampled_texts.counts(target, DraftModel(draft, 3, stop_below=0.4), **options)
    assert (
        sampled_texts.tail(counts, sampled_texts.distribution(target, SamplingParameters(0.8)))
        > 1e-3
    )


# Acceptance that is drawn


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("rule", ["token", "match"])
def test_accept_counts_follow_the_survival_that_is_asked_for(pair, temperature, rule) -> None:
    target, draft = pair
    wanted = (0.8, 0.5, 0.45)
    run = speculate(
        target, DraftModel(draft, 3), PROMPTS * 40, 60, temperature, rule=rule, survival=wanted
    )
    assert run.statistics.synthetic_acceptance
    assert run.statistics.cycles > 3000
    assert run.statistics.survival == pytest.approx(wanted, abs=0.03)
    assert not generate(target, [1], 2).statistics.synthetic_acceptance


@pytest.mark.parametrize("survival", [(0.5,), (0.5, 0.6, 0.1), (1.2, 0.1, 0.1), (0.5, 0.2, -0.1)])
def test_what_is_no_survival_vector_is_named(pair, survival) -> None:
    with pytest.raises(SpecsimError, match="survival must be 3 falling probabilities"):
        speculate(pair[0], DraftModel(pair[1], 3), [1], 5, survival=survival)
