"""TextTrace: one sampled text against decoders that really draft, reject and resample.

The oracles know nothing of coins along a text: they propose from q, accept with min(1, p/q), draw
corrections from the residual and the bonus from p, once by enumeration and once by Monte Carlo.
"""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from specsim.acceptance import Markov, TextTrace, overlap, per_position
from specsim.checks import SpecsimError

SIDES = 4  # every row of a target is a die with this many sides, so texts can be weighted exactly


def dice(rng, vocabulary):
    """For every context a die whose sides are tokens: the target's distribution in quarters."""
    return rng.integers(0, vocabulary, (vocabulary, SIDES))


def bigram_pair(rng, vocabulary):
    sides = dice(rng, vocabulary)
    target = (sides[..., None] == np.arange(vocabulary)).mean(axis=1)  # (context, token)
    return sides, target, rng.dirichlet(np.ones(vocabulary), vocabulary)


def every_text(sides, length):
    """All texts from context 0, each as often as its probability says, and the context before."""
    texts = []
    for rolls in itertools.product(range(SIDES), repeat=length):
        text = [0]
        for roll in rolls:
            text.append(sides[text[-1], roll])
        texts.append(text)
    texts = np.array(texts)
    return texts[:, :-1], texts[:, 1:]


def coins(target, draft, before, tokens):
    kept = np.minimum(draft[before, tokens] / target[before, tokens], 1.0)
    return kept, overlap(target, draft)[before]


def cycles_by_enumeration(target, draft, gamma, length):
    """P(at least k accepted) over the cycles that start with room for gamma tokens in `length`."""
    vocabulary = len(target)
    starts_at = {(0, 0): 1.0}  # (position, context) -> probability that a cycle starts there
    accepted, cycles = np.zeros(gamma), 0.0
    for position in range(length - gamma + 1):
        for context in range(vocabulary):
            weight = starts_at.get((position, context), 0.0)
            cycles += weight
            # every draft that may be proposed, and every way it may end
            for drafted in itertools.product(range(vocabulary), repeat=gamma):
                alive = weight * draft[(context, *drafted[:-1]), drafted].prod()  # proposed
                last, survives = context, 1.0
                for k, token in enumerate(drafted):
                    p, q = target[last], draft[last]
                    accept = min(1.0, p[token] / q[token])
                    refused = alive * survives * (1.0 - accept)
                    left = np.maximum(p - q, 0.0)
                    if refused > 0.0:
                        emit(starts_at, position + k + 1, refused * left / left.sum())
                    survives *= accept
                    accepted[k] += alive * survives
                    last = token
                emit(starts_at, position + gamma + 1, alive * survives * target[last])
    return accepted / cycles


def emit(starts_at, position, probabilities):
    for token, probability in enumerate(probabilities):
        key = (position, token)
        starts_at[key] = starts_at.get(key, 0.0) + probability


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("gamma", [1, 2, 3])
def test_exact_against_every_draft_of_a_random_bigram_pair(seed, gamma):
    rng, length = np.random.default_rng(seed), 5
    sides, target, draft = bigram_pair(rng, vocabulary=3 + seed % 2)
    kept, overlaps = coins(target, draft, *every_text(sides, length))
    expected = cycles_by_enumeration(target, draft, gamma, length)
    assert_allclose(TextTrace(kept, overlaps).at(gamma).vector, expected, rtol=1e-12)
    assert_allclose(TextTrace(kept).at(gamma).vector, expected, rtol=1e-12)  # E[m] = beta


def sampled_text(rng, target, texts, length):
    tokens = np.zeros((texts, length + 1), dtype=int)
    upto = np.cumsum(target, axis=1)
    for t in range(length):
        tokens[:, t + 1] = draw(rng, upto, tokens[:, t])
    return tokens[:, :-1], tokens[:, 1:]


def draw(rng, upto, context):
    return np.minimum((rng.random((len(context), 1)) > upto[context]).sum(axis=1), len(upto) - 1)


def simulated_tokens_per_cycle(rng, target, draft, gamma, chains=4_000, cycles=50, forget=10):
    """Real speculative cycles, side by side: drafts, rejections, corrections, bonus tokens."""
    residual = np.maximum(target - draft, 1e-300)
    residual /= residual.sum(axis=1, keepdims=True)
    targets, drafts, residuals = (np.cumsum(probs, axis=1) for probs in (target, draft, residual))
    context, tokens = np.zeros(chains, dtype=int), 0
    for cycle in range(cycles):
        alive = np.ones(chains, dtype=bool)
        for position in range(gamma + 1):
            tokens += alive.sum() * (cycle >= forget)
            if position == gamma:
                emitted, accepted = draw(rng, targets, context), alive
            else:
                drafted = draw(rng, drafts, context)
                ratio = target[context, drafted] / draft[context, drafted]
                accepted = rng.random(chains) < ratio
                emitted = np.where(accepted, drafted, draw(rng, residuals, context))
            context = np.where(alive, emitted, context)
            alive = alive & accepted
    return tokens / (chains * (cycles - forget))


@pytest.mark.parametrize("gamma", [1, 4])
def test_against_simulated_speculation_on_a_sticky_bigram_pair(gamma):
    rng = np.random.default_rng(5)
    # token 0 leads on to itself and is easy, the others are hard: where cycles start matters
    target = np.array([[0.9, 0.05, 0.05], [0.1, 0.1, 0.8], [0.1, 0.8, 0.1]])
    draft = np.array([[0.9, 0.05, 0.05], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])
    trace = TextTrace(*coins(target, draft, *sampled_text(rng, target, texts=200, length=500)))
    simulated = simulated_tokens_per_cycle(rng, target, draft, gamma)
    assert_allclose(trace.tokens_per_cycle(gamma), simulated, rtol=0.01)
    # the naive reading, every token as likely a start as any other, is wrong by more than that
    coin = np.asarray(trace.kept)
    windows = np.lib.stride_tricks.sliding_window_view(coin, gamma, axis=1)
    naive = 1.0 + np.cumprod(windows, axis=-1).sum(axis=-1).mean()
    assert naive > 1.02 * simulated


def hidden_states(rng, texts, length, start_hard):
    hard = rng.random(texts) < start_hard
    states = np.empty((texts, length), dtype=int)
    for t in range(length):
        states[:, t] = hard
        hard = np.where(rng.random(texts) < np.where(hard, 0.8, 0.9), hard, ~hard)
    return states


def test_G5_the_markov_model_from_text_in_hidden_states():
    markov = Markov(easy=0.95, hard=0.4, stay_easy=0.9, stay_hard=0.8)
    states = hidden_states(np.random.default_rng(0), 300, 1000, start_hard=1 / 3)
    trace = TextTrace(np.array([0.95, 0.4])[states])
    assert trace.tokens_per_cycle(5) == pytest.approx(3.17992, abs=0.03)  # and not 3.81718
    assert_allclose(trace.at(5).vector, markov.at(5).vector, atol=0.01)
    every = np.arange(9)
    assert_allclose(trace.tokens_per_cycle(every), markov.tokens_per_cycle(every), rtol=0.01)


def naive_survival(kept, overlaps, gamma):
    """The definition, a loop per sum."""
    accepted, cycles = np.zeros(gamma), 0.0
    for m, beta in zip(kept, overlaps, strict=True):
        starts = {0: 1.0}
        for t in range(len(m) - gamma + 1):
            f = starts.get(t, 0.0)
            cycles += f
            held = 1.0
            for n in range(gamma):
                accepted[n] += f * held * beta[t + n]
                starts[t + n + 1] = starts.get(t + n + 1, 0.0) + f * held * (1.0 - m[t + n])
                held *= m[t + n]
            starts[t + gamma + 1] = starts.get(t + gamma + 1, 0.0) + f * held
    return np.minimum.accumulate(accepted / cycles) if cycles else None


chances = st.floats(0.0, 1.0)
texts = st.lists(
    st.lists(st.tuples(chances, chances), min_size=1, max_size=9), min_size=1, max_size=4
)


@given(texts, st.integers(1, 4))
def test_texts_of_any_lengths_against_a_loop(texts, gamma):
    kept = [[m for m, _ in text] for text in texts]
    overlaps = [[beta for _, beta in text] for text in texts]
    if max(map(len, texts)) < gamma:
        with pytest.raises(SpecsimError, match="longer than the longest text"):
            TextTrace(kept, overlaps).at(gamma)
        return
    survival = TextTrace(kept, overlaps).at(gamma).vector
    assert_allclose(survival, naive_survival(kept, overlaps, gamma), rtol=1e-12, atol=1e-15)


def test_coins_that_always_or_never_hold():
    assert TextTrace(np.ones((3, 20))).tokens_per_cycle([0, 1, 4, 20]).tolist() == [1, 2, 5, 21]
    assert TextTrace([np.zeros(5), np.zeros(9)]).tokens_per_cycle([0, 4]).tolist() == [1, 1]
    assert TextTrace(np.full((2, 30), 0.7)).at(3).vector == pytest.approx([0.7, 0.49, 0.343])


def test_greedy_text_by_hand():
    # cycles of gamma = 2 start at 0 (both held), 3 (one), 5 (none) and 6 (both held)
    trace = TextTrace([[1, 1, 0, 1, 0, 0, 1, 1]])
    assert_allclose(trace.at(2).vector, [3 / 4, 2 / 4])
    assert trace.tokens_per_cycle(2) == 2.25


def test_cycles_that_the_end_of_the_text_would_cut_are_left_out():
    # a cycle starts at 0 and, its draft having held, at 2, which has no room for gamma = 1
    assert TextTrace([[1.0, 0.0]]).at(1).vector.tolist() == [1.0]
    assert TextTrace([[1.0, 0.0, 0.0]]).at(1).vector.tolist() == [0.5]


def test_is_an_acceptance_model_like_the_others():
    trace = TextTrace(np.full((2, 30), 0.7))
    assert per_position(trace, 3).vector.shape == (3,)
    assert per_position(trace, 0).vector.shape == (0,)
    assert trace.tokens_per_cycle([[1, 2], [3, 0]]).shape == (2, 2)
    assert np.ndim(trace.tokens_per_cycle(2)) == 0
    with pytest.raises(SpecsimError, match=r"at\(gamma\)"):
        trace.survival(2)
    with pytest.raises(ValueError, match="read-only"):
        trace.kept[0] = 0.5


# --------------------------------------------------------------------------------------- its error


def test_jackknife_is_the_spread_of_the_answer_without_each_text():
    rng = np.random.default_rng(2)
    kept = [rng.random(length) for length in (30, 7, 50, 21)]
    trace = TextTrace(kept)
    without = [TextTrace(kept[:i] + kept[i + 1 :]).tokens_per_cycle(3) for i in range(4)]
    expected = np.sqrt(3 / 4 * np.sum((without - np.mean(without)) ** 2))
    assert_allclose(trace.standard_error(3), expected, rtol=1e-12)
    assert_allclose(trace.tokens_error(3), 1.2816 * expected / trace.tokens_per_cycle(3))
    assert trace.tokens_error([0, 3, 0]).tolist() == [0.0, trace.tokens_error(3), 0.0]
    # a text too short to hold a cycle is no unit
    assert TextTrace([*kept, [0.5, 0.5]]).standard_error(3) == pytest.approx(expected)


def test_standard_error_is_the_spread_over_repeated_traces_and_overlaps_reduce_it():
    rng = np.random.default_rng(3)
    _, target, draft = bigram_pair(rng, 4)
    answers, errors, coin_errors = [], [], []
    for _ in range(150):
        kept, overlaps = coins(target, draft, *sampled_text(rng, target, texts=20, length=60))
        trace = TextTrace(kept, overlaps)
        answers.append(trace.tokens_per_cycle(4))
        errors.append(trace.standard_error(4))
        coin_errors.append(TextTrace(kept).standard_error(4))
    assert np.mean(errors) == pytest.approx(np.std(answers), rel=0.2)
    assert np.mean(errors) < 0.95 * np.mean(coin_errors)
    inside = np.abs(np.array(answers) - np.mean(answers)) < 1.2816 * np.array(errors)
    assert 0.7 < inside.mean() < 0.9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TextTrace([]), "a 1-D array for each text"),
        (lambda: TextTrace([0.5, 0.5]), r"a 1-D array for each text, got shapes \[\(\), \(\)\]"),
        (lambda: TextTrace([[0.5], []]), "a 1-D array for each text"),
        (lambda: TextTrace([[0.5, 1.5]]), r"kept must be within .* got 1.5"),
        (lambda: TextTrace([[0.5]], [[np.nan]]), r"overlap must be within .* got nan"),
        (lambda: TextTrace([[0.5, 0.5]], [[0.5]]), "got 1 texts of 1 tokens for 1 of 2"),
        (lambda: TextTrace([[0.5]]).at(2), "gamma = 2 is longer than the longest text, 1 tokens"),
        (lambda: TextTrace([[0.5]]).at(-1), "gamma must be a whole number >= 0"),
        (lambda: TextTrace([[0.5] * 9]).standard_error(2), "needs two texts of at least 2 tokens"),
    ],
)
def test_refusals_name_the_value_in_one_line(call, message):
    with pytest.raises(SpecsimError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)
