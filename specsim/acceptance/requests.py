"""One answer, for the one who waits for it: how long it takes, and how unevenly its tokens arrive.

The laws are those of `latency`; here they are asked together, for the answers of one scenario.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from specsim.acceptance import pmf
from specsim.acceptance.latency import (
    cycles_estimate,
    cycles_to_emit,
    gap_percentile_s,
    time_per_token_percentile_s,
    zero_gap_share,
)
from specsim.checks import ArrayLike, Floats, as_survival, one_count

EXACT = 4096  # tokens up to which the exact law is worked out, a second of work at the most


@dataclass(frozen=True, slots=True)
class RequestLatency:
    """What is noticed of an answer after its first token. Seconds; percentiles over requests for
    the time per token (TPOT), over tokens for the gap between two of them (ITL).

    `mean_s` is for the whole answer, `batch_s` until the slowest of the batch is done.
    `accepted_pmf[a]` = P(a drafts of a cycle are accepted): a + 1 tokens arrive at once.
    """

    more_tokens: int
    mean_s: float
    batch_s: float
    time_per_token_s: dict[str, float]
    gap_s: dict[str, float]
    zero_gap_share: float
    accepted_pmf: tuple[float, ...]


def request_latency(
    more_tokens: int, survival: ArrayLike, cycle_s: float, batch: int = 1
) -> RequestLatency:
    """The latency of requests that decode `more_tokens` behind their first, `batch` of them side by
    side, each advancing by its own tokens, in cycles of `cycle_s`.

    Exact up to `EXACT` tokens; beyond, a normal law by renewal theory (`cycles_estimate`; its sd is
    low by less than 2 %), and no more than the mean for the batch's slowest plus its spread by
    extreme values, sqrt(2 ln batch) sd.
    """
    length = one_count("more_tokens", more_tokens, low=1)
    percents = np.array([50.0, 90.0, 99.0])
    vector, sequences = as_survival(survival), one_count("batch", batch, low=1)
    if length <= EXACT:
        cycles = cycles_to_emit(length, vector)
        mean, slowest = cycles.mean, cycles.slowest_of(sequences).mean
        per_token_s = time_per_token_percentile_s(length, vector, cycle_s, percents)
    else:
        estimate = cycles_estimate(length, vector)
        mean, sd = float(estimate.mean), float(estimate.sd)
        slowest = mean + float(np.sqrt(2.0 * np.log(sequences))) * sd
        deviations = np.array([NormalDist().inv_cdf(p / 100.0) for p in percents])
        per_token_s = (mean + deviations * sd) * cycle_s / length
    tokens = 1.0 + float(vector.sum())
    gaps_s = gap_percentile_s(cycle_s, tokens, percents)

    def named(seconds: Floats) -> dict[str, float]:
        return {f"p{p:g}": float(s) for p, s in zip(percents, seconds, strict=True)}

    return RequestLatency(
        more_tokens=length,
        mean_s=mean * cycle_s,
        batch_s=slowest * cycle_s,
        time_per_token_s=named(per_token_s),
        gap_s=named(gaps_s),
        zero_gap_share=float(zero_gap_share(tokens)),
        accepted_pmf=tuple(pmf(vector).tolist()),
    )
