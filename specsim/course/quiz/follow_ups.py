"""Questions that follow a right answer: misleading averages, acceptance that is not i.i.d."""

import numpy as np

from specsim.acceptance import (
    IID,
    BetaMixture,
    Markov,
    greedy_overlap,
    overlap,
    per_position,
    pooled_alpha,
    token_probs,
)
from specsim.acceptance.latency import arithmetic_mean, harmonic_mean
from specsim.course.quiz.kinds import Question
from specsim.planning.economics import open_loop

SECTION = "Follow-ups"
TARGET_LOGITS, DRAFT_LOGITS = (2.0, 1.0, 0.0, -1.0), (2.5, 0.5, 0.0, -1.0)


def hard_stretches() -> dict[str, float]:
    """Tokens per cycle where easy and hard text alternate."""
    accept, gamma = np.array([0.95, 0.4]), 5  # in easy text, in hard text
    move = np.array([[0.9, 0.1], [0.2, 0.8]])
    text = Markov(accept[0], accept[1], stay_easy=move[0, 0], stay_hard=move[1, 1])
    hard_tokens = move[0, 1] / (move[0, 1] + move[1, 0])  # of the tokens, not of the cycles
    mean = np.array([1.0 - hard_tokens, hard_tokens]) @ accept
    # the mistake: the same chain, started from the distribution over tokens
    state, tokens = np.array([1.0 - hard_tokens, hard_tokens]), 1.0
    for _ in range(gamma):
        state = state * accept
        tokens += state.sum()
        state = state @ move
    return {
        "tokens": float(text.tokens_per_cycle(gamma)),
        "stationary": float(tokens),
        "hard_tokens": float(hard_tokens),
        "iid": float(IID(mean).tokens_per_cycle(gamma)),
        "starts_hard": float(text.starts_hard(gamma)),
        "starts_hard_percent": 100.0 * float(text.starts_hard(gamma)),
    }


def pooled() -> dict[str, float]:
    """Alpha pooled over cycles, and the tokens per cycle that it predicts."""
    acceptance, gamma = BetaMixture(0.7, 5.0), 5
    survival = per_position(acceptance, gamma).vector
    alpha = float(pooled_alpha(survival))
    return {
        "mean": 0.7,
        "pooled": alpha,
        "tokens": float(acceptance.tokens_per_cycle(gamma)),
        "tokens_from_pooled": float(IID(alpha).tokens_per_cycle(gamma)),
    }


def mean_of_speedups() -> dict[str, float]:
    """Arithmetic and harmonic mean of tokens per cycle over requests."""
    # alpha ~ Beta(3.5, 1.5) over requests: the midpoints of many equal slices
    grid = (np.arange(20_000) + 0.5) / 20_000
    weights = grid**2.5 * (1.0 - grid) ** 0.5
    tokens = IID(grid).tokens_per_cycle(5)
    return {
        "arithmetic": float(arithmetic_mean(tokens, weights)),
        "harmonic": float(harmonic_mean(tokens, weights)),
        "iid": float(IID(0.7).tokens_per_cycle(5)),
    }


def loops() -> dict[str, float]:
    """The gain in time per token at a fixed arrival rate and at a fixed batch."""
    rate = 2000.0  # tokens per second
    plain = open_loop(rate, 10e-3, 0.05e-3)
    speculative = open_loop(rate, 12e-3, 0.25e-3, 3.0)
    closed_s = (12e-3 + 0.25e-3 * plain.batch) / 3.0
    return {
        "open": plain.token_s / speculative.token_s,
        "closed": plain.token_s / closed_s,
        "batch_plain": plain.batch,
        "batch_speculative": speculative.batch,
        "capacity_plain": plain.capacity_tokens_per_s / 1e3,
        "capacity_speculative": speculative.capacity_tokens_per_s / 1e3,
    }


def filters() -> dict[str, float]:
    """Alpha by temperature and top-p, with a sampled and a greedy draft."""
    numbers = {}
    for heat in (0.25, 0.5, 1.0, 2.0, 5.0):
        p, q = token_probs(TARGET_LOGITS, heat), token_probs(DRAFT_LOGITS, heat)
        numbers[f"sampled_{heat:g}"] = float(overlap(p, q))
        numbers[f"greedy_{heat:g}"] = float(greedy_overlap(p, q))
    nucleus = token_probs(TARGET_LOGITS, 1.0, top_p=0.8)
    numbers["filtered_p"] = float(overlap(nucleus, token_probs(DRAFT_LOGITS)))
    numbers["filtered_both"] = float(overlap(nucleus, token_probs(DRAFT_LOGITS, 1.0, top_p=0.8)))
    return numbers


QUESTIONS = (
    Question(
        id="hard-stretches",
        section=SECTION,
        prompt=(
            "Text is easy (acceptance 0.95) or hard (acceptance 0.4). After each token, easy text "
            "stays easy with probability 0.9, and hard text stays hard with probability 0.8. How "
            "many tokens does a cycle emit at γ = 5?"
        ),
        answer="tokens",
        tolerance=0.03,
        mistakes={
            "you start cycles anywhere in the text (they end, and so start, in hard text)": (
                "stationary"
            ),
            "you put the mean acceptance over tokens into the i.i.d. formula": "iid",
        },
        worked=hard_stretches,
        in_short=(
            "{tokens:.2f}, not {stationary:.2f}: {starts_hard_percent:.0f} % of the cycles start "
            "in hard text, but only a third of the tokens are hard."
        ),
        sources=("Çinlar, Markov renewal theory, Advances in Applied Probability 1(2), 1969",),
    ),
    Question(
        id="pooled-alpha",
        section=SECTION,
        prompt=(
            "Each cycle draws its own α from a Beta distribution with mean 0.7 and concentration "
            "5. What is accepted / (accepted + rejected) at γ = 5?"
        ),
        answer="pooled",
        tolerance=0.03,
        mistakes={"you take the mean over cycles (easy cycles are longer and count more)": "mean"},
        worked=pooled,
        in_short=(
            "{pooled:.3f}. It predicts {tokens_from_pooled:.2f} tokens per cycle, but the true "
            "number is {tokens:.2f}. Fit α to τ."
        ),
        sources=("Johnson, Kemp and Kotz, Univariate Discrete Distributions (beta-geometric)",),
    ),
    Question(
        id="mean-of-speedups",
        section=SECTION,
        prompt=(
            "Requests of equal length have α ~ Beta(3.5, 1.5). What is all tokens divided by all "
            "cycles at γ = 5?"
        ),
        answer="harmonic",
        tolerance=0.03,
        mistakes={
            "you average the tokens per cycle over requests": "arithmetic",
            "you put the mean α into the formula": "iid",
        },
        worked=mean_of_speedups,
        in_short=(
            "{harmonic:.2f}, the harmonic mean of τ, because the times add up. The arithmetic "
            "mean, {arithmetic:.2f}, does not give the total time."
        ),
        sources=("Jensen's inequality: the mean of quotients is not the quotient of means",),
    ),
    Question(
        id="open-or-closed",
        section=SECTION,
        prompt=(
            "Requests for 2000 tokens/s arrive. At batch B a plain step takes 10 + 0.05 B ms, and "
            "a cycle of 3 tokens takes 12 + 0.25 B ms. By which factor does TPOT fall?"
        ),
        answer="open",
        unit="×",
        tolerance=0.05,
        mistakes={"you keep the batch fixed (but faster requests leave sooner)": "closed"},
        worked=loops,
        in_short=(
            "{open:.2f}× in open loop, {closed:.2f}× at a fixed batch. Above "
            "{capacity_speculative:.0f} tokens/ms, speculation cannot serve the load."
        ),
        sources=("Little, A proof for the queuing formula L = λW, Operations Research 9(3), 1961",),
    ),
    Question(
        id="greedy-draft",
        section=SECTION,
        prompt=(
            "Target logits (2, 1, 0, −1), draft logits (2.5, 0.5, 0, −1), temperature 2. What is α "
            "if the draft is greedy?"
        ),
        answer="greedy_2",
        tolerance=0.05,
        mistakes={"you take a sampled draft, whose α is the overlap": "sampled_2"},
        worked=filters,
        in_short=(
            "{greedy_2:.2f}, against {sampled_2:.2f} for a sampled draft. Top-p on the draft too "
            "changes α from {filtered_p:.2f} to {filtered_both:.2f}."
        ),
        sources=("Leviathan et al., arXiv:2211.17192, section 3",),
    ),
)
