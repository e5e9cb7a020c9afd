"""Why the output keeps the target's distribution, and how many tokens a cycle emits."""

import numpy as np

from specsim.acceptance import (
    IID,
    alpha_from_tokens_per_cycle,
    overlap,
    residual,
    tokens_per_cycle_from_accepted_per_drafted,
)
from specsim.acceptance.leviathan import best_gamma, best_gamma_closed_form, leviathan_speedup
from specsim.course.quiz.kinds import Question

SECTION = "Exactness, and tokens per cycle"
LEVIATHAN = "Leviathan, Kalman and Matias, arXiv:2211.17192"
CHEN = "Chen et al., arXiv:2302.01318"

TARGET, DRAFT = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.5, 0.3])
ALPHA, GAMMA, COST = 0.8, 4, 0.05


def output_distribution() -> dict[str, float]:
    """What is emitted by the exact rule, and by one that draws from p after a rejection."""
    kept = np.minimum(TARGET, DRAFT)
    accepted = float(overlap(TARGET, DRAFT))
    rejected = 1.0 - accepted
    wrong = kept + rejected * TARGET
    exact = kept + rejected * residual(TARGET, DRAFT)
    tokens = {f"exact_{i}": float(value) for i, value in enumerate(exact)}
    return tokens | {
        "accepted": accepted,
        "rejected": rejected,
        **{f"wrong_{i}": float(value) for i, value in enumerate(wrong)},
        "accepted_0": float(kept[0]),
        "target_0": float(TARGET[0]),
        "total_variation": float(np.abs(wrong - TARGET).sum() / 2.0),
    }


def tokens_per_cycle() -> dict[str, float]:
    """Tokens per cycle of the example, and what common mistakes give."""
    tokens = float(IID(ALPHA).tokens_per_cycle(GAMMA))
    return {
        "tokens": tokens,
        "without_bonus": tokens - 1.0,
        "all_tried": GAMMA * ALPHA,
        "ceiling": float(GAMMA),
        "all_and_bonus": GAMMA + 1.0,
    }


def speedup() -> dict[str, float]:
    """The speedup of the example by the formula of Leviathan et al."""
    numbers = tokens_per_cycle()
    cycle = 1.0 + GAMMA * COST
    return numbers | {
        "cycle": cycle,
        "speedup": float(leviathan_speedup(ALPHA, GAMMA, COST)),
        "supremum": 1.0 / (1.0 - ALPHA),
        "no_bonus": numbers["without_bonus"] / cycle,
        "free_draft": numbers["tokens"],
    }


def optimal_gamma() -> dict[str, float]:
    """The best gamma of the example, and the gammas that are as good to 2 %."""
    gammas = np.arange(65)
    speedups = leviathan_speedup(ALPHA, gammas, COST)
    best = int(best_gamma(ALPHA, COST))
    tied = gammas[speedups >= 0.98 * speedups[best]]
    worthwhile = np.flatnonzero(IID(ALPHA).survival(gammas) > COST)
    return {
        "gamma": float(best),
        "speedup": float(speedups[best]),
        "real": float(best_gamma_closed_form(ALPHA, COST)),
        "least_tied": float(tied[0]),
        "most_tied": float(tied[-1]),
        "one_over_rejection": 1.0 / (1.0 - ALPHA),
        "forgot_speedup": float(worthwhile[-1]),
        "largest": float(gammas[-1]),
        "speedup_largest": float(speedups[-1]),
    }


def alpha_from_a_log() -> dict[str, float]:
    """Tokens per cycle and alpha from the accepted per drafted of a log."""
    rate, gamma = 0.54, 5
    tokens = float(tokens_per_cycle_from_accepted_per_drafted(rate, gamma))
    return {
        "tokens": tokens,
        "alpha": float(alpha_from_tokens_per_cycle(tokens, gamma)),
        "rate": rate,
        "tokens_if_rate_were_alpha": float(IID(rate).tokens_per_cycle(gamma)),
        "bonus_forgotten": float(alpha_from_tokens_per_cycle(tokens - 1.0, gamma)),
        "tokens_over_gamma": tokens / gamma,
        "tokens_over_rows": tokens / (gamma + 1),
    }


QUESTIONS = (
    Question(
        id="output-distribution",
        section=SECTION,
        prompt=(
            "p = (0.5, 0.3, 0.2), q = (0.2, 0.5, 0.3). A decoder accepts with probability min(1, "
            "p/q), but after a rejection it draws from p itself. How often does it emit the first "
            "token?"
        ),
        answer="wrong_0",
        tolerance=0.02,
        mistakes={
            "you assume that this gives p (but accepted drafts already change it)": "target_0",
            "you forget the token that is drawn after a rejection": "accepted_0",
        },
        worked=output_distribution,
        in_short=(
            "Accepted drafts give min(p, q). The missing {rejected:.1f} must be drawn from max(p − "
            "q, 0); then the sum is p. Drawn from p, the distribution is off by "
            "{total_variation:.2f}."
        ),
        sources=(LEVIATHAN, CHEN),
    ),
    Question(
        id="tokens-per-cycle",
        section=SECTION,
        prompt="How many tokens does a cycle emit on average, at α = 0.8 (i.i.d.) and γ = 4?",
        answer="tokens",
        tolerance=0.02,
        mistakes={
            "you take γα (but drafts after a rejection do not count)": "all_tried",
            "you forget the bonus or correction token": "without_bonus",
            "you take γ as the number of tokens": "ceiling",
            "you assume that every draft is accepted": "all_and_bonus",
        },
        worked=tokens_per_cycle,
        in_short="(1 − 0.8⁵) / 0.2 = {tokens:.2f}, the bonus token included.",
        sources=(f"{LEVIATHAN}, equation 1",),
    ),
    Question(
        id="speedup",
        section=SECTION,
        prompt="α = 0.8, γ = 4, and a draft step takes c = 0.05 plain steps. What is the speedup?",
        answer="speedup",
        unit="×",
        tolerance=0.02,
        mistakes={
            "you take the bound over all γ, 1/(1 − α), as a prediction": "supremum",
            "you forget the time of drafting": "free_draft",
            "you forget the bonus token": "no_bonus",
        },
        worked=speedup,
        in_short=(
            "{tokens:.2f} / {cycle:.1f} = {speedup:.2f}×; the bound over all γ is {supremum:.0f}×."
        ),
        sources=(f"{LEVIATHAN}, theorem 3.8",),
    ),
    Question(
        id="best-gamma",
        section=SECTION,
        prompt="Which γ is best at α = 0.8 and c = 0.05?",
        answer="gamma",
        tolerance=0.13,
        mistakes={
            "you take γ = 1/(1 − α) as the optimum": "one_over_rejection",
            "you add drafts while survival exceeds c (it must exceed c × speedup)": (
                "forgot_speedup"
            ),
            "you draft as many tokens as possible": "largest",
        },
        worked=optimal_gamma,
        in_short=(
            "Add a draft while α^(γ+1) > c S: γ = {gamma:.0f}. Every γ from {least_tied:.0f} to "
            "{most_tied:.0f} is as good to 2 %."
        ),
        sources=(LEVIATHAN,),
    ),
    Question(
        id="alpha-from-a-log",
        section=SECTION,
        prompt="An engine at γ = 5 logs that 54 % of its drafted tokens are accepted. What is α?",
        answer="alpha",
        tolerance=0.02,
        mistakes={
            "you take accepted / drafted as α": "rate",
            "you forget the bonus token in the tokens per cycle": "bonus_forgotten",
            "you divide the tokens per cycle by γ": "tokens_over_gamma",
            "you divide the tokens per cycle by γ + 1": "tokens_over_rows",
        },
        worked=alpha_from_a_log,
        in_short=(
            "τ = 1 + 5 × 0.54 = {tokens:.2f}, so α = {alpha:.2f}. If α were 0.54, a cycle would "
            "emit {tokens_if_rate_were_alpha:.1f} tokens."
        ),
        sources=("vLLM, SGLang and llama.cpp log accepted / drafted",),
    ),
)
