"""The accept rules inside the decoder; `test_verification` enumerates their distributions."""

import pytest
import torch

from reference import (
    DraftModel,
    EarlyExit,
    Ensemble,
    NGram,
    NoDrafter,
    Proposal,
    generate,
    speculate,
)
from reference.cycle import accept
from reference.sampling import SamplingParameters
from reference.settings import RunSettings
from reference.verification import LOSSLESS, RULES
from specsim.checks import SpecsimError

NEW = 16
PROMPTS = [[17], [3, 41], [9, 9, 30, 2, 55], [8, 7, 6, 5, 4, 3, 2, 1, 0], [60, 0] * 8]
HOT = {"temperature": 0.9, "top_p": 0.95, "seed": 5}


@pytest.fixture(scope="module")
def pair(tiny, perturbed):
    target = tiny(2)
    return target, perturbed(target, 0.15)


@pytest.fixture(scope="module")
def small_pair(tiny, sampled_texts):
    fields = sampled_texts.MODEL
    return tiny(11, num_layers=1, **fields), tiny(12, num_layers=1, **fields)


@pytest.mark.parametrize("rule", [*RULES])
def test_greedy_decoding_has_one_rule(pair, rule: str) -> None:
    target, draft = pair
    expected = generate(target, PROMPTS, NEW).tokens
    assert speculate(target, DraftModel(draft, 3), PROMPTS, NEW, rule=rule).tokens == expected


@pytest.mark.parametrize("rule", sorted(LOSSLESS - {"token"}))  # test_decoding has the token rule
@pytest.mark.parametrize("gamma", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_lossless_rules_write_with_the_targets_distribution(
    small_pair, sampled_texts, rule: str, gamma: int
) -> None:
    target, draft = small_pair
    options = {"temperature": 0.8, "top_k": 4}
    counts = sampled_texts.counts(target, DraftModel(draft, gamma), rule=rule, **options)
    assert (
        sampled_texts.tail(
            counts, sampled_texts.distribution(target, SamplingParameters(**options))
        )
        > 1e-3
    )


def test_typical_acceptance_does_not(small_pair, sampled_texts) -> None:
    target, draft = small_pair
    distribution = sampled_texts.distribution(target, SamplingParameters(1.0))
    options = {"rule": "typical", "temperature": 1.0}
    assert sampled_texts.depart(target, DraftModel(draft, 3), distribution, **options)


@pytest.fixture(scope="module")
def matched(pair) -> list[list[int]]:
    expected = generate(pair[0], PROMPTS, NEW, rule="match", **HOT).tokens
    assert len(set(map(tuple, expected))) == len(PROMPTS)
    return expected


@pytest.mark.parametrize("gamma", range(1, 9))
def test_matching_writes_one_text_whatever_drafts(pair, matched, gamma: int) -> None:
    (target, draft), expected = pair, matched
    model = DraftModel(draft, gamma)
    for drafter in (model, DraftModel(target, gamma), NGram(gamma), EarlyExit(1, gamma)):
        assert speculate(target, drafter, PROMPTS, NEW, rule="match", **HOT).tokens == expected
    result = speculate(target, Ensemble(model), PROMPTS, NEW, rule="match", **HOT)
    assert result.tokens == expected


def test_matching_depends_on_the_seed_and_the_row_but_not_on_the_batch(pair) -> None:
    target, draft = pair

    def text(prompts, **options):
        drafter = DraftModel(draft, 3)
        return speculate(target, drafter, prompts, NEW, rule="match", **HOT | options).tokens

    assert text(PROMPTS[:1]) == text(PROMPTS)[:1] == [text(PROMPTS[0])]
    assert text(PROMPTS[0]) != text(PROMPTS[0], seed=6)
    assert len(set(map(tuple, text([PROMPTS[2]] * 8)))) == 8
    assert text(PROMPTS[0], seed=2**63 - 1) != text(PROMPTS[0], seed=-1)


def test_the_text_of_the_other_rules_does_depend_on_the_drafter(pair) -> None:
    target, draft = pair
    expected = generate(target, PROMPTS, NEW, **HOT).tokens
    for rule in ("token", "block"):
        tokens = speculate(target, DraftModel(draft, 3), PROMPTS, NEW, rule=rule, **HOT).tokens
        assert tokens != expected


def test_a_draft_that_is_the_target_matches_always(pair) -> None:
    result = speculate(pair[0], DraftModel(pair[0], 4), PROMPTS, NEW, rule="match", **HOT)
    assert result.statistics.alpha == 1


def test_the_rules_accept_in_the_order_of_their_papers(pair) -> None:
    target, draft = pair
    rates = {}
    for rule in RULES:
        drafter = DraftModel(draft, 4)
        run = speculate(target, drafter, PROMPTS * 12, NEW, temperature=1.0, rule=rule)
        rates[rule] = run.statistics.tokens_per_cycle
    assert rates["block"] > rates["token"] > rates["match"]


@pytest.mark.parametrize("rule", [*RULES])
def test_nothing_drafted_is_plain_decoding_by_every_rule(pair, rule: str) -> None:
    run = speculate(pair[0], NoDrafter(), PROMPTS, NEW, temperature=1.0, rule=rule)
    assert [len(tokens) for tokens in run.tokens] == [NEW] * len(PROMPTS)
    assert run.statistics.tokens_per_cycle == 1


def test_accept_takes_the_rule_it_is_told() -> None:
    logits = torch.tensor([[[0.0, 4.0, 1.0], [2.0, 0.0, 1.9]]])
    proposal, uniforms = Proposal(torch.tensor([[1]]), None), torch.tensor([[0.99, 0.0]])
    for rule, kept in [("token", 0), ("block", 0), ("match", 0), ("typical", 1)]:
        verdict = accept(RunSettings(SamplingParameters(1.0), rule), logits, proposal, uniforms)
        assert verdict.accepted.item() == kept


def test_an_unknown_rule_is_named(pair) -> None:
    with pytest.raises(SpecsimError, match="unknown rule 'tokens'; known: token, block, match, "):
        speculate(pair[0], DraftModel(pair[1], 2), [1], rule="tokens")
