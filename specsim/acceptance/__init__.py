"""Acceptance is a survival vector: s_k, the probability that at least k drafts are accepted.

vLLM calls s_k the per-position acceptance rate. All gains of speculative decoding follow from it,
without any assumption of independence:

    tokens per cycle = 1 + s_1 + s_2 + ... + s_gamma        (the 1 is the bonus or correction token)

Tokens per cycle is the mean acceptance length of vLLM, and the block efficiency or tau of papers.

An *acceptance model* generates survivals. All of them have the same two methods. The parameters of
the model and the argument of the method combine by NumPy broadcasting, never as an outer product:

    acceptance.survival(k)              P(at least k drafts accepted), s_0 = 1
    acceptance.tokens_per_cycle(gamma)  mean tokens emitted per cycle, bonus included

Three different numbers are called "acceptance rate": `alpha` (per token, given that all drafts
before it were accepted), `accepted_per_drafted` (the draft acceptance rate of vLLM) and
`tokens_per_cycle`. `rates` converts between them. Taking one for another gives errors of tens of
percent.

| module | what it holds |
|---|---|
| `overlaps` | the acceptance at one position, from two distributions |
| `formulas` | survivals from a formula: i.i.d., a given vector, decaying, mixed |
| `markov` | text with easy and hard stretches; cycles tend to start in the hard ones |
| `traces` | measured survivals: from counts of cycles, from one sampled text |
| `rates` | converts survivals to rates, and rates to survivals |
| `latency`, `requests` | the distribution of the cycles of a request, and its latency |
| `leviathan` | the formulas of the first paper |
| `optimal_trees` | the tree of drafts with the most tokens per cycle |
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
    pmf,
    pooled_alpha,
    tokens_per_cycle_from_accepted_per_drafted,
    variance,
)
from specsim.acceptance.traces import Z80, Z80_SHORT, Estimate, TextTrace, from_counts

__all__ = [
    "IID",
    "Z80",
    "Z80_SHORT",
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
