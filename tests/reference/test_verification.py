"""Exactness by enumeration: what (draft, verify, residual, bonus) emits has the target's
distribution.

The checker knows nothing of how a rule works. It drives `rule(target_probs, draft_probs, drafted,
uniforms)` with uniforms, finds by bisection where its decisions change, and so integrates over
chance exactly; then it adds up every path over a vocabulary of at most five tokens. The same
checker rejects the defects that other decoders have shipped, and the rule that is lossy by design.
Worked examples carry an id (B1, B4, M1, …) in the test's id.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from thresholds import last_u_where
from torch import Tensor
from torch.testing import assert_close

from reference.drafters.draft_model import until_unsure
from reference.drafters.n_gram import NGram
from reference.noise import SharedNoise
from reference.sampling import SamplingParameters, draw, keep_nucleus
from reference.sequences import Sequences
from reference.verification import (
    LOSSLESS,
    RULES,
    Verdict,
    block_chances,
    keeps,
    leading_run,
    next_probs,
    verify,
    verify_block,
    verify_greedy,
    verify_match,
    verify_typical,
)

Rule = Callable[[Tensor, Tensor | None, Tensor, Tensor], Verdict]

EXACT = 1e-9
START = 0  # the token that every text follows
BISECTIONS = 40

# the running example
B_TARGET = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
B_DRAFT = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
M_TARGET = torch.tensor([1 / 3, 2 / 3], dtype=torch.float64)
M_DRAFT = torch.tensor([2 / 3, 1 / 3], dtype=torch.float64)


# Bigram worlds: row c of a table is the distribution of the token after c


def same_everywhere(distribution: Tensor) -> Tensor:
    return distribution.expand(len(distribution), -1)


def random_tables(seed: int, size: int, zeros: float = 0.0) -> tuple[Tensor, Tensor]:
    """Target and draft tables (V, V), with about a share `zeros` of forbidden tokens in each."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand((2, size, size), generator=generator, dtype=torch.float64).log().neg()
    forbidden = torch.rand((2, size, size), generator=generator) < zeros
    forbidden.scatter_(2, torch.randint(size, (2, size, 1), generator=generator), False)
    weights = weights.masked_fill(forbidden, 0.0)
    target, draft = weights / weights.sum(-1, keepdim=True)
    return target, draft


def distributions_along(table: Tensor, strings: Tensor) -> Tensor:
    """The distributions (N, T+1, V) before and after each token of `strings` (N, T)."""
    starts = torch.full((len(strings), 1), START)
    return table[torch.cat((starts, strings), dim=1)]


def probability(table: Tensor, strings: Tensor) -> Tensor:
    distributions = distributions_along(table, strings)[:, :-1]
    return distributions.gather(-1, strings[..., None]).squeeze(-1).prod(1)


def all_strings(size: int, length: int) -> Tensor:
    strings = list(itertools.product(range(size), repeat=length))
    return torch.tensor(strings, dtype=torch.long).view(size**length, length)


@dataclass(frozen=True)
class Drafting:
    """Strings (N, G) that may be drafted, their chances (N,), and the reported q (N, G, V)."""

    strings: Tensor
    weights: Tensor
    reported: Tensor | None


def sampled(table: Tensor, gamma: int) -> Drafting:
    strings = all_strings(len(table), gamma)
    return Drafting(
        strings, probability(table, strings), distributions_along(table, strings)[:, :-1]
    )


def fixed(string: list[int]) -> Drafting:
    return Drafting(
        torch.tensor([string], dtype=torch.long), torch.ones(1, dtype=torch.float64), None
    )


def greedy(table: Tensor, gamma: int) -> Drafting:
    string = [START]
    for _ in range(gamma):
        string.append(table[string[-1]].argmax().item())
    return fixed(string[1:])


def n_gram(table: Tensor, gamma: int) -> Drafting:
    """What the shipped drafter finds after a text that ends where every text begins."""
    prompt = [START, len(table) - 1, START]
    sequences = Sequences.empty(1, len(prompt) + gamma, (), torch.device("cpu"))
    sequences.load([prompt], [gamma])
    proposal = NGram(gamma).propose(sequences, SamplingParameters(1.0), torch.zeros(1, gamma))
    assert proposal.probabilities is None
    return fixed(proposal.tokens[0].tolist())


def told(drafting: Drafting, size: int) -> Drafting:
    """The same point masses, with their one-hot distributions reported."""
    one_hot = torch.nn.functional.one_hot(drafting.strings, size).double()
    return Drafting(drafting.strings, drafting.weights, one_hot)


# The checker


def decisions(rule: Rule, target_probs: Tensor, drafting: Drafting) -> tuple[Tensor, Tensor]:
    """P(n accepted) of every string, (N, G+1), and the distribution of what follows, (N, G+1, V).

    Every uniform but the last has one threshold, at most, where verdicts change: the thresholds cut
    chance into 2^G boxes. Each box is tried near three of its corners; all must agree on n.
    """
    if getattr(rule, "drafts", rule) is verify_match:
        return decisions_by_cells(rule, target_probs, drafting)
    count, gamma = drafting.strings.shape
    size = target_probs.shape[-1]

    def decide(rows: Tensor, uniforms: Tensor) -> Verdict:
        reported = None if drafting.reported is None else drafting.reported[rows]
        return rule(target_probs[rows], reported, drafting.strings[rows], uniforms)

    sides = all_strings(2, gamma).double()  # below or above each threshold, (C, G)
    extremes = torch.cat((sides * (1 - 2**-53), torch.zeros(len(sides), 1)), dim=1)  # (C, G+1)
    own = torch.eye(gamma, gamma + 1, dtype=torch.bool)[:, None, None]  # (G, 1, 1, G+1)
    corners = len(sides) // 2  # of the other uniforms

    def accepted_at(u: Tensor) -> Tensor:
        """How many are accepted if uniform i of a string is u (N · G, K), and the others are in
        their corners: (N · G, K, C / 2)."""
        u = u.view(count, gamma, -1, 1, 1)
        uniforms = torch.where(own, u, others)  # (N, G, K, C / 2, G+1)
        each = torch.arange(count).repeat_interleave(uniforms[0, ..., 0].numel())
        accepted = decide(each, uniforms.view(-1, gamma + 1)).accepted
        return accepted.view(count * gamma, -1, corners)

    thresholds = torch.empty((count, 0), dtype=torch.float64)
    if gamma:
        others = torch.stack([extremes[sides[:, i] == 0] for i in range(gamma)])[:, None]
        at_zero = accepted_at(torch.zeros((count * gamma, 1), dtype=torch.float64))
        thresholds = last_u_where(
            lambda u: (accepted_at(u) == at_zero).all(2),
            count * gamma,
            BISECTIONS,
            corners,
        ).view(count, gamma)
    low = sides * thresholds[:, None]  # the corners of every box, (N, C, G)
    high = torch.where(sides == 1, 1.0, thresholds[:, None])
    chances = (high - low).prod(-1)  # (N, C)
    string, box = (chances > 1e-12).nonzero(as_tuple=True)
    n = None
    for place in (1e-3, 0.5, 1 - 1e-3):
        uniforms = low + place * (high - low)
        uniforms = torch.cat((uniforms, uniforms.new_zeros(count, len(sides), 1)), dim=2)
        verdict = decide(string, uniforms[string, box])
        assert n is None or torch.equal(verdict.accepted, n), "one threshold is not enough"
        n = verdict.accepted
    # the next token is at most t up to a boundary, for every box and t < V - 1 at once
    inside = (low + high)[string, box] / 2
    inside, t = inside.repeat_interleave(size - 1, 0), torch.arange(size - 1).repeat(len(string))
    each = string.repeat_interleave(size - 1)

    def is_at_most_t(u: Tensor) -> Tensor:
        uniforms = torch.cat((inside.repeat_interleave(u.shape[1], 0), u.reshape(-1, 1)), dim=1)
        following = decide(each.repeat_interleave(u.shape[1]), uniforms).next_token
        return following.view(u.shape) <= t[:, None]

    boundaries = last_u_where(is_at_most_t, len(t), BISECTIONS).view(-1, size - 1)
    edges = torch.zeros((len(string), 1), dtype=torch.float64)
    distributions = torch.cat((edges, boundaries, edges + 1), dim=1).diff(dim=1)  # of every box
    weights = chances[string, box]
    counts = torch.zeros((count, gamma + 1), dtype=torch.float64)
    counts.index_put_((string, n), weights, accumulate=True)
    following = torch.zeros((count, gamma + 1, size), dtype=torch.float64)
    following.index_put_((string, n), weights[:, None] * distributions, accumulate=True)
    return counts, following / counts.clamp(min=1e-300)[..., None]


def decisions_by_cells(
    rule: Rule, target_probs: Tensor, drafting: Drafting
) -> tuple[Tensor, Tensor]:
    """The same for a rule that may change its mind wherever a cumulative sum of p ends."""
    (count, gamma), size = drafting.strings.shape, target_probs.shape[-1]
    cells = all_strings(size, gamma + 1)  # (C, G+1)
    columns = torch.arange(gamma + 1)
    widths = target_probs[:, columns, cells]  # (N, C, G+1)
    starts = (target_probs.cumsum(-1) - target_probs)[:, columns, cells]
    string, cell = (widths.prod(-1) > 1e-12).nonzero(as_tuple=True)
    reported = None if drafting.reported is None else drafting.reported[string]
    verdict = None
    for place in (1e-3, 0.5, 1 - 1e-3):
        uniforms = (starts + place * widths)[string, cell]
        again = rule(target_probs[string], reported, drafting.strings[string], uniforms)
        assert verdict is None or all(map(torch.equal, verdict, again)), "the cells are too large"
        verdict = again
    following = torch.zeros((count, gamma + 1, size), dtype=torch.float64)
    following.index_put_((string, *verdict), widths.prod(-1)[string, cell], accumulate=True)
    counts = following.sum(-1)
    return counts, following / counts.clamp(min=1e-300)[..., None]


def emitted_distribution(rule: Rule, target: Tensor, drafting: Drafting) -> Tensor:
    """The joint distribution of G+1 tokens: drafts, the next token, then plain decoding."""
    gamma, size = drafting.strings.shape[1], len(target)
    counts, following = decisions(rule, distributions_along(target, drafting.strings), drafting)
    joint = torch.zeros(size ** (gamma + 1), dtype=torch.float64)
    for n in range(gamma + 1):
        for y in range(size):
            ended = torch.full((len(drafting.strings), 1), y)
            begun = torch.cat((drafting.strings[:, :n], ended), dim=1)  # (N, n+1)
            weights = drafting.weights * counts[:, n] * following[:, n, y]
            joint += completed(target, begun, weights, gamma + 1)
    return joint


def completed(target: Tensor, begun: Tensor, weights: Tensor, length: int) -> Tensor:
    """The joint distribution (V ** length,) if the target continues the texts `begun` (N, n)."""
    size, done = len(target), begun.shape[1]
    rest = all_strings(size, length - done)
    texts = torch.cat((begun.repeat_interleave(len(rest), 0), rest.repeat(len(begun), 1)), dim=1)
    after = distributions_along(target, texts)[:, done:length]
    completion = after.gather(-1, texts[:, done:, None]).squeeze(-1).prod(1)
    place = (texts * size ** torch.arange(length - 1, -1, -1)).sum(1)
    joint = torch.zeros(size**length, dtype=torch.float64)
    return joint.index_add_(0, place, weights.repeat_interleave(len(rest)) * completion)


def emits_a_forbidden_token(rule: Rule, target: Tensor, drafting: Drafting) -> bool:
    """Whether a token of probability 0 comes out when every uniform is exactly 0."""
    distributions = distributions_along(target, drafting.strings)
    zeros = torch.zeros((len(drafting.strings), drafting.strings.shape[1] + 1))
    accepted, following = rule(distributions, drafting.reported, drafting.strings, zeros)
    emitted = torch.cat((drafting.strings, following[:, None]), dim=1).scatter(
        1, accepted[:, None], following[:, None]
    )
    chances = distributions.gather(-1, emitted[..., None]).squeeze(-1)
    counted = torch.arange(emitted.shape[1]) <= accepted[:, None]
    drawable = drafting.weights > 0
    return bool(((chances == 0) & counted)[drawable].any())


def distribution_error(rule: Rule, target: Tensor, drafting: Drafting) -> float:
    """The largest distance of the emitted distribution from the target's; infinite for a forbidden
    token."""
    if emits_a_forbidden_token(rule, target, drafting):
        return float("inf")
    strings = all_strings(len(target), drafting.strings.shape[1] + 1)
    wanted = probability(target, strings)
    return (emitted_distribution(rule, target, drafting) - wanted).abs().max().item()


def mean_accepted(rule: Rule, target: Tensor, drafting: Drafting) -> float:
    counts, _ = decisions(rule, distributions_along(target, drafting.strings), drafting)
    return (drafting.weights @ counts @ torch.arange(counts.shape[1]).double()).item()


# Exactness


SIZES = [(size, gamma) for size in (2, 3, 4, 5) for gamma in (1, 2, 3)]
lossless = pytest.mark.parametrize("rule", [RULES[name] for name in sorted(LOSSLESS)])
# of the random tables of each size and gamma
seeds = pytest.mark.parametrize(
    "seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))]
)


def test_every_rule_but_the_typical_one_is_held_to_the_distribution() -> None:
    assert {"token", "block", "match"} == LOSSLESS == set(RULES) - {"typical"}


@lossless
@seeds
@pytest.mark.parametrize("zeros", [0.0, 0.4], ids=["full support", "forbidden tokens"])
@pytest.mark.parametrize(("size", "gamma"), SIZES)
def test_sampled_drafts_leave_the_distribution_exact(
    rule: Rule, size: int, gamma: int, zeros: float, seed: int
) -> None:
    target, draft = random_tables(seed, size, zeros)
    assert distribution_error(rule, target, sampled(draft, gamma)) < EXACT


@lossless
@seeds
@pytest.mark.parametrize("chosen", [greedy, n_gram])
@pytest.mark.parametrize(("size", "gamma"), SIZES)
def test_point_masses_leave_the_distribution_exact(
    rule: Rule, chosen: Callable, size: int, gamma: int, seed: int
) -> None:
    target, draft = random_tables(seed, size, zeros=0.2)
    drafting = chosen(draft, gamma)
    assert distribution_error(rule, target, drafting) < EXACT
    assert distribution_error(rule, target, told(drafting, size)) < EXACT


@settings(max_examples=40)
@given(data=st.data())
def test_any_draft_chosen_without_chance_leaves_the_distribution_exact(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 5))
    string = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=3))
    target, _ = random_tables(data.draw(st.integers(0, 99)), size, zeros=0.2)
    assert distribution_error(verify, target, fixed(string)) < EXACT


# Rows that stop drafting early


def stopping(rule: Rule, counts_of: Callable[[Tensor], Tensor]) -> Rule:
    """The rule where each row means as many drafts as `counts_of` makes of q(x), (N, G)."""

    def wrapped(target_probs, draft_probs, drafted, uniforms) -> Verdict:
        sure = draft_probs.gather(-1, drafted[..., None]).squeeze(-1)
        return rule(target_probs, draft_probs, drafted, uniforms, counts_of(sure))

    wrapped.drafts = rule
    return wrapped


def after_the_unsure(q: Tensor) -> Tensor:
    return until_unsure(q >= 0.4)


def before_the_unsure(q: Tensor) -> Tensor:
    """The defect: the unsure token itself is dropped, so those that stay were chosen."""
    return leading_run(q >= 0.4)


@lossless
@pytest.mark.parametrize(("size", "gamma"), [(2, 2), (2, 3), (3, 2), (3, 3), (4, 2)])
def test_a_stop_after_an_unsure_draft_leaves_the_distribution_exact(
    rule: Rule, size: int, gamma: int
) -> None:
    for seed in range(3):
        target, draft = random_tables(seed, size, zeros=0.2)
        drafting = sampled(draft, gamma)
        stops = after_the_unsure(drafting.reported.gather(-1, drafting.strings[..., None])[..., 0])
        assert len(stops.unique()) > 1 or gamma == 1 or seed, "no row stops early"
        assert distribution_error(stopping(rule, after_the_unsure), target, drafting) < EXACT


@lossless
@pytest.mark.parametrize("count", range(4))
def test_drafts_that_are_not_meant_are_not_there(rule: Rule, count: int) -> None:
    target, draft = random_tables(5, 3)

    def first(q: Tensor) -> Tensor:
        return torch.full((len(q),), count)

    rows = sampled(draft, 3)
    assert distribution_error(stopping(rule, first), target, rows) < EXACT
    few = mean_accepted(stopping(rule, first), target, rows)
    assert few == pytest.approx(mean_accepted(rule, target, sampled(draft, count)))


@pytest.mark.parametrize("rule", [verify, RULES["block"]])
def test_a_stop_that_drops_the_unsure_draft_is_caught(rule: Rule) -> None:
    target, draft = random_tables(0, 3)
    assert distribution_error(stopping(rule, before_the_unsure), target, sampled(draft, 2)) > 1e-3


def test_greedy_decoding_keeps_no_draft_that_is_not_meant() -> None:
    choices = torch.tensor([[4, 5, 6, 7]]).expand(4, -1)
    verdict = verify_greedy(choices, choices[:, :3], torch.arange(4))
    assert verdict.accepted.tolist() == [0, 1, 2, 3]
    assert verdict.next_token.tolist() == [4, 5, 6, 7]


def test_a_reported_point_mass_is_the_same_as_none() -> None:
    for string in all_strings(3, 2):
        target, _ = random_tables(5, 3)
        bare = fixed(string.tolist())
        distributions = (
            emitted_distribution(verify, target, told(bare, 3)),
            emitted_distribution(verify, target, bare),
        )
        assert_close(*distributions)


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_without_drafts_the_next_token_is_the_targets(size: int) -> None:
    for seed in range(4):
        target, _ = random_tables(seed, size, zeros=0.3)
        assert distribution_error(verify, target, fixed([])) < EXACT


def test_a_draft_that_is_the_target_is_always_accepted() -> None:
    target, _ = random_tables(3, 4)
    assert distribution_error(verify, target, sampled(target, 3)) < EXACT
    assert mean_accepted(verify, target, sampled(target, 3)) == pytest.approx(3, abs=EXACT)


def test_a_draft_that_the_target_forbids_is_never_accepted() -> None:
    target = same_everywhere(torch.tensor([0.0, 0.4, 0.6], dtype=torch.float64))
    draft = same_everywhere(torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))
    assert distribution_error(verify, target, sampled(draft, 3)) < EXACT
    assert mean_accepted(verify, target, sampled(draft, 3)) == pytest.approx(0, abs=EXACT)


@pytest.mark.parametrize(("size", "gamma"), SIZES)
def test_the_mean_number_accepted_is_the_summed_product_of_ratios(size: int, gamma: int) -> None:
    target, draft = random_tables(11, size)
    drafting = sampled(draft, gamma)
    expected = 0.0
    for string, weight in zip(drafting.strings.tolist(), drafting.weights.tolist(), strict=True):
        kept, before = 1.0, START
        for token in string:
            kept *= min(1.0, (target[before, token] / draft[before, token]).item())
            expected += weight * kept
            before = token
    assert mean_accepted(verify, target, drafting) == pytest.approx(expected, abs=EXACT)


# The checker can fail


def verify_with(keeps: Callable = keeps, next_probs: Callable = next_probs) -> Rule:
    """`verify` with one of its parts replaced."""

    def rule(target_probs, draft_probs, drafted, uniforms):
        accepted = leading_run(keeps(target_probs, draft_probs, drafted, uniforms[:, :-1]))
        distribution = next_probs(target_probs, draft_probs, drafted, accepted)
        return Verdict(accepted, draw(distribution, uniforms[:, -1]))

    return rule


def target_distribution_after_a_rejection(target_probs, draft_probs, drafted, accepted):
    return target_probs[torch.arange(len(accepted)), accepted]


def likeliest_bonus(target_probs, draft_probs, drafted, accepted):
    distribution = next_probs(target_probs, draft_probs, drafted, accepted)
    likeliest = torch.nn.functional.one_hot(distribution.argmax(-1), distribution.shape[-1]).to(
        distribution.dtype
    )
    return torch.where((accepted == drafted.shape[1])[:, None], likeliest, distribution)


def bonus_one_position_early(target_probs, draft_probs, drafted, accepted):
    early = torch.cat((target_probs[:, :-1], target_probs[:, -2:-1]), dim=1)
    return next_probs(early, draft_probs, drafted, accepted)


def residual_against_the_first_draft(target_probs, draft_probs, drafted, accepted):
    if draft_probs is None:
        drafted = drafted[:, :1].expand_as(drafted)
    else:
        draft_probs = draft_probs[:, :1].expand_as(draft_probs)
    return next_probs(target_probs, draft_probs, drafted, accepted)


def keeps_unless_above(target_probs, draft_probs, drafted, uniforms):
    p = target_probs[:, :-1].gather(-1, drafted[..., None]).squeeze(-1)
    q = 1.0 if draft_probs is None else draft_probs.gather(-1, drafted[..., None]).squeeze(-1)
    return uniforms * q <= p


def every_kept_draft_counts(target_probs, draft_probs, drafted, uniforms):
    accepted = keeps(target_probs, draft_probs, drafted, uniforms[:, :-1]).sum(1)
    distribution = next_probs(target_probs, draft_probs, drafted, accepted)
    return Verdict(accepted, draw(distribution, uniforms[:, -1]))


DEFECTS = {
    "resamples from p": verify_with(next_probs=target_distribution_after_a_rejection),
    "takes the likeliest bonus": verify_with(next_probs=likeliest_bonus),
    "draws the bonus one position early": verify_with(next_probs=bonus_one_position_early),
    "subtracts the first q everywhere": verify_with(next_probs=residual_against_the_first_draft),
    "keeps a draft of p = 0 at u = 0": verify_with(keeps=keeps_unless_above),
}


def test_the_checker_accepts_the_shipped_parts_put_together_again() -> None:
    target, draft = random_tables(2, 4, zeros=0.4)
    assert distribution_error(verify_with(), target, sampled(draft, 2)) < EXACT


@cache
def worlds_that_are_exact(rule: Rule, chosen: Callable, zeros: float) -> list:
    """Eight targets with what is drafted, all of which the shipped rule leaves exact."""
    tables = [random_tables(seed, 3, zeros) for seed in range(8)]
    worlds = [(target, chosen(draft, 2)) for target, draft in tables]
    assert max(distribution_error(rule, *world) for world in worlds) < EXACT
    return worlds


@pytest.mark.parametrize("chosen", [sampled, greedy], ids=["sampled", "greedy"])
@pytest.mark.parametrize("defect", DEFECTS)
def test_the_checker_rejects_a_rule_that(defect: str, chosen: Callable) -> None:
    worlds = worlds_that_are_exact(verify, chosen, zeros=0.4)
    assert any(distribution_error(DEFECTS[defect], *world) > 1e-3 for world in worlds)


def test_the_checker_rejects_counting_drafts_after_a_rejection() -> None:
    target, draft = random_tables(2, 3)
    assert distribution_error(every_kept_draft_counts, target, sampled(draft, 2)) > 1e-3


def test_the_checker_notices_a_rule_with_more_than_one_threshold() -> None:
    target, draft = random_tables(2, 3)
    with pytest.raises(AssertionError, match="one threshold is not enough"):
        distribution_error(lambda *given: verify_match(*given), target, sampled(draft, 2))


def block_that_stops_early(target_probs, draft_probs, drafted, uniforms):
    worth, chances = block_chances(target_probs, draft_probs, drafted)
    accepted = leading_run(uniforms[:, :-1] < chances)
    distribution = next_probs(worth[..., None] * target_probs, draft_probs, drafted, accepted)
    return Verdict(accepted, draw(distribution, uniforms[:, -1]))


def block_with_the_residual_of_the_token_rule(target_probs, draft_probs, drafted, uniforms):
    accepted = verify_block(target_probs, draft_probs, drafted, uniforms).accepted
    distribution = next_probs(target_probs, draft_probs, drafted, accepted)
    return Verdict(accepted, draw(distribution, uniforms[:, -1]))


def block_with_the_tests_of_the_token_rule(target_probs, draft_probs, drafted, uniforms):
    worth, _ = block_chances(target_probs, draft_probs, drafted)
    accepted = leading_run(keeps(target_probs, draft_probs, drafted, uniforms[:, :-1]))
    distribution = next_probs(worth[..., None] * target_probs, draft_probs, drafted, accepted)
    return Verdict(accepted, draw(distribution, uniforms[:, -1]))


@pytest.mark.parametrize(
    "defect",
    [
        block_that_stops_early,
        block_with_the_residual_of_the_token_rule,
        block_with_the_tests_of_the_token_rule,
        verify_typical,
    ],
)
def test_the_checker_rejects(defect: Rule) -> None:
    worlds = worlds_that_are_exact(verify_block, sampled, zeros=0.0)
    assert any(distribution_error(defect, *world) > 1e-3 for world in worlds)


def test_typical_acceptance_is_lossy_for_point_masses_too() -> None:
    worlds = [random_tables(seed, 3) for seed in range(8)]
    assert any(distribution_error(verify_typical, p, greedy(q, 2)) > 0.05 for p, q in worlds)


@pytest.mark.parametrize("rule", [verify, verify_block])
def test_the_checker_rejects_a_q_from_before_the_filters(rule: Rule) -> None:
    target, draft = random_tables(7, 4)
    target, filtered = (keep_nucleus(table.log(), 0.8).softmax(-1) for table in (target, draft))
    honest = sampled(filtered, 2)
    assert distribution_error(rule, target, honest) < EXACT
    raw = distributions_along(draft, honest.strings)[:, :-1]
    assert distribution_error(rule, target, Drafting(honest.strings, honest.weights, raw)) > 1e-3


def test_the_checker_rejects_a_residual_that_is_filtered_again() -> None:
    def filtered_again(*given):
        return keep_nucleus(next_probs(*given).log(), 0.8).softmax(-1)

    rule = verify_with(next_probs=filtered_again)
    worlds = []
    for seed in range(8):
        tables = random_tables(seed, 4)
        target, draft = (keep_nucleus(table.log(), 0.8).softmax(-1) for table in tables)
        worlds.append((target, sampled(draft, 2)))
    assert max(distribution_error(verify, *world) for world in worlds) < EXACT
    assert any(distribution_error(rule, *world) > 1e-3 for world in worlds)


def test_the_checker_rejects_the_softmax_reported_for_a_greedy_draft() -> None:
    target, draft = random_tables(2, 4)
    honest = greedy(draft, 2)
    softmax = distributions_along(draft, honest.strings)[:, :-1]
    assert distribution_error(verify, target, honest) < EXACT
    dishonest = Drafting(honest.strings, honest.weights, softmax)
    assert distribution_error(verify, target, dishonest) > 1e-3


# More is accepted by the block, and exactly what it should be by the other rules


@settings(max_examples=30)
@given(
    seed=st.integers(0, 10_000),
    size=st.integers(2, 4),
    gamma=st.integers(1, 3),
    zeros=st.sampled_from([0.0, 0.3]),
)
def test_the_block_accepts_at_least_as_much(seed, size, gamma, zeros) -> None:
    target, draft = random_tables(seed, size, zeros)
    drafting = sampled(draft, gamma)
    gain = mean_accepted(verify_block, target, drafting) - mean_accepted(verify, target, drafting)
    assert gain > -EXACT
    if gamma == 1:
        assert abs(gain) < EXACT


def test_the_block_accepts_more_of_most_random_pairs() -> None:
    gains = []
    for seed in range(20):
        target, draft = random_tables(seed, 4)
        drafting = sampled((target + draft) / 2, 3)
        token, block = (mean_accepted(rule, target, drafting) for rule in (verify, verify_block))
        gains.append(block / token - 1)
    assert np.mean(gains) == pytest.approx(0.059, abs=0.03)  # 5.9 % over 200 such pairs


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), gamma=st.integers(1, 3))
def test_the_block_accepts_as_much_of_point_masses(seed: int, gamma: int) -> None:
    target, draft = random_tables(seed, 3)
    bare = greedy(draft, gamma)
    token = mean_accepted(verify, target, bare)
    assert mean_accepted(verify_block, target, bare) == pytest.approx(token, abs=EXACT)
    assert mean_accepted(verify_block, target, told(bare, 3)) == pytest.approx(token, abs=EXACT)


@pytest.mark.parametrize("gamma", [1, 2, 3])
def test_noise_shared_with_the_drafter_leaves_the_distribution_exact(gamma: int) -> None:
    """Draft and target draw with the same uniforms, integrated over every cell of both."""
    for seed in range(2):
        target, draft = random_tables(seed, 2 if gamma == 3 else 3)
        size = len(target)
        edges = torch.cat((target.cumsum(-1), draft.cumsum(-1))).flatten().clamp(0, 1)
        edges = torch.cat((torch.zeros(1).double(), edges, torch.ones(1).double())).unique()
        cells = all_strings(len(edges) - 1, gamma + 1)
        uniforms, weights = ((edges[1:] + edges[:-1]) / 2)[cells], edges.diff()[cells].prod(1)
        drafted = torch.zeros((len(cells), 1), dtype=torch.long)  # START
        for k in range(gamma):
            token = draw(draft[drafted[:, -1]], uniforms[:, k])
            drafted = torch.cat((drafted, token[:, None]), dim=1)
        drafted = drafted[:, 1:]
        accepted, token = verify_match(
            distributions_along(target, drafted), None, drafted, uniforms
        )
        joint = torch.zeros(size ** (gamma + 1), dtype=torch.float64)
        for n in range(gamma + 1):
            ended = accepted == n
            begun = torch.cat((drafted[ended, :n], token[ended, None]), dim=1)
            joint += completed(target, begun, weights[ended], gamma + 1)
        wanted = probability(target, all_strings(size, gamma + 1))
        assert_close(joint, wanted, atol=EXACT, rtol=0)


# Worked vectors


def test_b1_overlap_and_residual() -> None:
    target, drafting = same_everywhere(B_TARGET), sampled(same_everywhere(B_DRAFT), 1)
    assert mean_accepted(verify, target, drafting) == pytest.approx(0.7, abs=EXACT)
    distributions = distributions_along(target, drafting.strings)
    residual = next_probs(distributions, drafting.reported, drafting.strings, torch.zeros(3).long())
    assert_close(residual, same_everywhere(torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)))


def test_resampling_from_p_gives_the_known_wrong_distribution() -> None:
    rule = DEFECTS["resamples from p"]
    distribution = emitted_distribution(
        rule, same_everywhere(B_TARGET), sampled(same_everywhere(B_DRAFT), 1)
    )
    first = distribution.view(3, 3).sum(1)
    assert_close(first, torch.tensor([0.35, 0.39, 0.26], dtype=torch.float64))


def test_b4_a_greedy_draft_is_accepted_with_p_of_it() -> None:
    target, drafting = same_everywhere(B_TARGET), greedy(same_everywhere(B_DRAFT), 1)
    assert drafting.strings.tolist() == [[1]]
    assert mean_accepted(verify, target, drafting) == pytest.approx(0.3, abs=EXACT)
    distributions = distributions_along(target, drafting.strings)
    residual = next_probs(distributions, None, drafting.strings, torch.zeros(1).long())
    expected = torch.tensor([[0.71429, 0.0, 0.28571]], dtype=torch.float64)
    assert_close(residual, expected, atol=6e-6, rtol=0)


def test_the_softmax_of_a_greedy_draft_gives_the_known_wrong_distribution() -> None:
    strings = torch.tensor([[1]])
    dishonest = Drafting(strings, torch.ones(1, dtype=torch.float64), B_DRAFT.view(1, 1, 3))
    first = emitted_distribution(verify, same_everywhere(B_TARGET), dishonest).view(3, 3).sum(1)
    assert_close(first, torch.tensor([0.4, 0.6, 0.0], dtype=torch.float64))


def test_m1_the_token_rule_accepts_ten_ninths() -> None:
    drafting = sampled(same_everywhere(M_DRAFT), 2)
    accepted = mean_accepted(verify, same_everywhere(M_TARGET), drafting)
    assert accepted == pytest.approx(10 / 9, abs=EXACT)


def test_m1_the_block_accepts_eleven_ninths_and_no_rule_twelve() -> None:
    target, draft = same_everywhere(M_TARGET), same_everywhere(M_DRAFT)
    accepted = mean_accepted(verify_block, target, sampled(draft, 2))
    assert accepted == pytest.approx(11 / 9, abs=EXACT)
    ceiling = 0.0
    for length in (1, 2):
        strings = all_strings(2, length)
        ceiling += torch.minimum(probability(target, strings), probability(draft, strings)).sum()
    assert ceiling.item() == pytest.approx(12 / 9, abs=EXACT)


def test_m2_worth_and_chances_of_every_prefix() -> None:
    strings = all_strings(2, 2)
    distributions = [table[None, None].expand(4, 3, -1) for table in (M_TARGET, M_DRAFT)]
    worth, chances = block_chances(distributions[0], distributions[1][:, :2], strings)
    expected = torch.tensor([[0.5, 0, 0.25], [0.5, 0, 1], [1, 1, 0.5], [1, 1, 1]]).double()
    assert_close(torch.stack((worth[:, 1], chances[:, 0], worth[:, 2]), dim=1), expected)
    assert torch.equal(chances[:, 1], worth[:, 2])


@pytest.mark.parametrize(("rule", "accepted"), [(verify, 0.53081), (verify_block, 0.64428)])
def test_m3_random_bigrams(rule: Rule, accepted: float) -> None:
    random = np.random.default_rng(1)
    target = torch.from_numpy(random.dirichlet(np.ones(3), 3))
    draft = torch.from_numpy(random.dirichlet(np.ones(3), 3))
    assert mean_accepted(rule, target, sampled(draft, 3)) == pytest.approx(accepted, abs=6e-6)
    assert distribution_error(rule, target, sampled(draft, 3)) < 1e-12


def test_b6_matching_independent_draws() -> None:
    target, drafting = same_everywhere(B_TARGET), sampled(same_everywhere(B_DRAFT), 1)
    assert mean_accepted(verify_match, target, drafting) == pytest.approx(0.31, abs=EXACT)


def test_b7_matching_draws_that_share_their_noise() -> None:
    places = torch.arange(400_000)[None]
    noise, same = SharedNoise(0, 3).uniforms(places)
    drafted = draw(B_DRAFT.expand(1, len(places[0]), 3), noise).T
    target_probs = B_TARGET.expand(len(drafted), 2, 3)
    uniforms = torch.stack((same[0], same[0]), dim=1)
    accepted = verify_match(target_probs, None, drafted, uniforms).accepted
    ratios = torch.maximum(B_TARGET / B_TARGET[:, None], B_DRAFT / B_DRAFT[:, None])
    assert (1 / ratios.sum(1)).sum().item() == pytest.approx(0.69355, abs=6e-6)
    assert accepted.double().mean().item() == pytest.approx(0.69355, abs=3e-3)


def test_n2_the_threshold_of_typical_acceptance() -> None:
    entropy = -(B_TARGET * B_TARGET.log()).sum().item()
    assert entropy == pytest.approx(1.02965, abs=6e-6)
    assert 0.3 * np.exp(-entropy) == pytest.approx(0.10714, abs=6e-6)
    for p, kept in [(0.0899, 0), (0.0901, 1)]:
        distribution = torch.tensor(
            [0.5, 0.5 - p, p]
        ).double()  # flat enough for epsilon, .09, to decide
        target_probs = torch.stack((distribution, distribution))[None]
        accepted = verify_typical(target_probs, None, torch.tensor([[2]]), torch.zeros(1, 2))
        assert accepted.accepted.item() == kept
    # a flatter distribution has a lower threshold: exp(-entropy) is about 1 / (likely tokens)
    flat = torch.full((1, 2, 20), 1 / 20).double()
    assert verify_typical(flat, None, torch.tensor([[7]]), torch.zeros(1, 2)).accepted.item() == 1


# The parts


@given(
    p=st.floats(1e-6, 1.0),
    q=st.floats(1e-6, 1.0),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_a_draft_is_kept_below_the_ratio_and_not_above(p: float, q: float, dtype) -> None:
    target_probs = torch.tensor([[[p, 1 - p], [0.5, 0.5]]], dtype=dtype)
    draft_probs = torch.tensor([[[q, 1 - q]]], dtype=dtype)
    ratio = target_probs[0, 0, 0].item() / draft_probs[0, 0, 0].item()
    near = 1e-6 if dtype == torch.float32 else 1e-12

    def kept(u: float, draft_probs: Tensor | None) -> bool:
        uniforms = torch.tensor([[u]], dtype=dtype)
        return keeps(target_probs, draft_probs, torch.tensor([[0]]), uniforms).item()

    assert kept(0.0, draft_probs)
    assert kept(min(ratio * (1 - near), 1 - 2**-24), draft_probs)
    if ratio * (1 + near) < 1:
        assert not kept(ratio * (1 + near), draft_probs)
    assert kept(p * (1 - near), None)
    assert not kept(min(p * (1 + near), 1.0), None)


def test_the_comparison_is_strict() -> None:
    target_probs = torch.tensor([[[0.25, 0.75], [0.5, 0.5]]])
    draft_probs, drafted = torch.tensor([[[0.5, 0.5]]]), torch.tensor([[0]])
    for u, expected in [(0.5, False), (0.5 - 2**-24, True)]:
        assert keeps(target_probs, draft_probs, drafted, torch.tensor([[u]])).item() is expected
    for u, expected in [(0.25, False), (0.25 - 2**-24, True)]:
        assert keeps(target_probs, None, drafted, torch.tensor([[u]])).item() is expected


def test_a_draft_as_likely_under_the_target_is_kept_at_the_largest_uniform() -> None:
    distribution = torch.tensor([[[1.0, 0.0], [0.5, 0.5]]])
    almost_one = torch.tensor([[1 - 2**-24]])
    assert keeps(distribution, distribution[:, :1], torch.tensor([[0]]), almost_one).item()
    assert keeps(distribution, None, torch.tensor([[0]]), almost_one).item()


@pytest.mark.parametrize("gamma", [0, 1, 2, 3, 4])
def test_leading_run_counts_up_to_the_first_failure(gamma: int) -> None:
    patterns = all_strings(2, gamma).bool()
    expected = [len(list(itertools.takewhile(bool, row))) for row in patterns.tolist()]
    assert leading_run(patterns).tolist() == expected


def test_where_rounding_leaves_no_residual_the_target_distribution_is_used() -> None:
    distribution = torch.tensor([[[0.3, 0.7], [0.6, 0.4]]])
    following = next_probs(
        distribution, distribution[:, :1], torch.tensor([[1]]), torch.tensor([0])
    )
    assert following.tolist() == distribution[:, 0].tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distributions_keep_their_dtype_and_sum_to_one(dtype: torch.dtype) -> None:
    target, draft = random_tables(4, 5)
    drafting = sampled(draft, 2)
    distributions = distributions_along(target, drafting.strings).to(dtype)
    for accepted in range(3):
        counts = torch.full((len(drafting.strings),), accepted)
        distribution = next_probs(
            distributions, drafting.reported.to(dtype), drafting.strings, counts
        )
        assert distribution.dtype == dtype
        assert_close(distribution.sum(-1), torch.ones(len(distribution), dtype=dtype))


def test_every_row_of_a_batch_is_decided_by_itself() -> None:
    target, draft = random_tables(6, 4, zeros=0.2)
    drafting = sampled(draft, 3)
    distributions = distributions_along(target, drafting.strings)
    generator = torch.Generator().manual_seed(0)
    uniforms = torch.rand((len(distributions), 4), generator=generator, dtype=torch.float64)
    together = verify(distributions, drafting.reported, drafting.strings, uniforms)
    assert len(set(together.accepted.tolist())) == 4, "the batch should hold every case"
    for row in range(len(distributions)):
        one = slice(row, row + 1)
        alone = verify(
            distributions[one], drafting.reported[one], drafting.strings[one], uniforms[one]
        )
        assert alone.accepted.item() == together.accepted[row].item()
        assert alone.next_token.item() == together.next_token[row].item()


@pytest.mark.parametrize("gamma", [0, 1, 2, 3])
def test_verify_greedy_is_verify_with_one_hot_distributions(gamma: int) -> None:
    size = 3
    pairs = all_strings(size, 2 * gamma + 1)
    choices, drafted = pairs[:, : gamma + 1], pairs[:, gamma + 1 :]
    distributions = torch.nn.functional.one_hot(choices, size).float()
    uniforms = torch.rand((len(pairs), gamma + 1), generator=torch.Generator().manual_seed(0))
    reported = torch.nn.functional.one_hot(drafted, size).float().view(len(pairs), gamma, size)
    expected = verify_greedy(choices, drafted)
    for draft_probs in (None, reported):
        verdict = verify(distributions, draft_probs, drafted, uniforms)
        assert torch.equal(verdict.accepted, expected.accepted)
        assert torch.equal(verdict.next_token, expected.next_token)


# Ten million draws

DRAWS, CHUNK = 10_000_000, 100_000  # a chunk fits into a cache


def chunks_of_uniforms(columns: int) -> Iterator[Tensor]:
    """Float32 uniforms as the decoder draws them; each chunk begins with the extremes."""
    generator = torch.Generator().manual_seed(0)
    extremes = all_strings(2, columns) * (1 - 2**-24)
    for _ in range(DRAWS // CHUNK):
        uniforms = torch.rand((CHUNK, columns), generator=generator)
        uniforms[: len(extremes)] = extremes
        yield uniforms


def test_ten_million_draws_never_pick_a_token_of_probability_zero() -> None:
    distribution = torch.tensor([0.0, 0.3, 0.0, 1e-8, 0.7 - 1e-8, 0.0])
    drawn = torch.zeros(len(distribution), dtype=torch.long)
    for uniforms in chunks_of_uniforms(1):
        tokens = draw(distribution.expand(CHUNK, -1), uniforms.squeeze(1))
        drawn += torch.bincount(tokens, minlength=len(distribution))
    assert drawn[distribution == 0].sum() == 0
    assert drawn[1] + drawn[3] + drawn[4] == DRAWS


@pytest.mark.parametrize("chance", [True, False], ids=["sampled draft", "point-mass draft"])
def test_ten_million_verdicts_never_emit_a_token_of_probability_zero(chance: bool) -> None:
    target = torch.tensor([0.0, 0.5, 0.0, 0.5])
    draft = torch.tensor([0.4, 0.3, 0.3, 0.0]) if chance else torch.full((4,), 0.25)
    target_probs = target.expand(CHUNK, 2, -1)
    draft_probs = draft.expand(CHUNK, 1, -1)
    emitted = torch.zeros(4, dtype=torch.long)
    for uniforms in chunks_of_uniforms(3):
        drafted = draw(draft_probs, uniforms[:, :1])
        accepted, token = verify(
            target_probs, draft_probs if chance else None, drafted, uniforms[:, 1:]
        )
        kept = drafted.squeeze(1)[accepted == 1]
        emitted += torch.bincount(kept, minlength=4) + torch.bincount(token, minlength=4)
    assert emitted[target == 0].sum() == 0
    assert emitted.sum() > DRAWS
