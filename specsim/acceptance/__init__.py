"""Acceptance is a survival vector: s_k, the probability that at least k drafts are accepted.

Everything speculation gains follows from it without any independence assumption:

    tokens per cycle = 1 + s_1 + s_2 + ... + s_gamma        (the 1 is the bonus or correction token)

An *acceptance model* generates survivals. Each answers the same two questions, and its parameters
and the question's argument combine by NumPy broadcasting, never as an outer product:

    acceptance.survival(k)              P(at least k drafts accepted), s_0 = 1
    acceptance.tokens_per_cycle(gamma)  mean tokens emitted per cycle, bonus included

Three different numbers are called "acceptance rate": `alpha` (conditional, per token),
`accepted_per_drafted`, and `tokens_per_cycle`. `rates` converts between them; a number used as the
wrong one of the three misleads by tens of percent.

| read | for |
|---|---|
| `overlaps` | where one position's acceptance comes from: two distributions |
| `formulas` | survivals from a formula: i.i.d., a given vector, decaying, mixed |
| `markov` | easy and hard stretches, and why cycles start in the hard ones |
| `traces` | survivals measured: from counts of cycles, from overlaps, from one sampled text |
| `rates` | a survival as a rate, a rate as a survival |
"""

from specsim.acceptance.formulas import (
    IID,
    Acceptance,
    BetaMixture,
    Decaying,
    GammaDependent,
    PerPosition,
    per_position,
)
from specsim.acceptance.markov import Markov
from specsim.acceptance.overlaps import greedy_overlap, overlap, residual, token_probs
from specsim.acceptance.rates import (
    accepted_per_drafted,
    alpha_from_tokens_per_cycle,
    as_acceptance,
    conditional,
    pmf,
    pooled_alpha,
    tokens_per_cycle_from_accepted_per_drafted,
    variance,
)
from specsim.acceptance.traces import Estimate, TextTrace, empirical, from_betas, from_counts

__all__ = [
    "IID",
    "Acceptance",
    "BetaMixture",
    "Decaying",
    "Estimate",
    "GammaDependent",
    "Markov",
    "PerPosition",
    "TextTrace",
    "accepted_per_drafted",
    "alpha_from_tokens_per_cycle",
    "as_acceptance",
    "conditional",
    "empirical",
    "from_betas",
    "from_counts",
    "greedy_overlap",
    "overlap",
    "per_position",
    "pmf",
    "pooled_alpha",
    "residual",
    "token_probs",
    "tokens_per_cycle_from_accepted_per_drafted",
    "variance",
]
