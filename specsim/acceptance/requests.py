"""The latency of one answer: how long it takes, and how unevenly its tokens arrive.

The distributions come from `latency`; here they are combined for one scenario.
"""

from dataclasses import dataclass
from typing import Any

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
from specsim.checks.limits import require_limit
from specsim.checks.shown import Shown, milliseconds

EXACT = 4096  # tokens up to which the exact distribution is computed, in a second at most


@dataclass(frozen=True, slots=True, repr=False)
class RequestLatency(Shown):
    """The latency of an answer after its first token, in seconds.

    `mean_s` is the mean time of the whole answer, `batch_s` that of the slowest in the batch.
    `time_per_token_s` (TPOT) has percentiles over requests, `gap_s` (ITL, the time between two
    tokens) over tokens. `accepted_pmf[a]` = P(a drafts of a cycle are accepted): then a + 1 tokens
    arrive at once.
    """

    more_tokens: int
    mean_s: float
    batch_s: float
    time_per_token_s: dict[str, float]
    gap_s: dict[str, float]
    zero_gap_share: float
    accepted_pmf: tuple[float, ...]

    def _facts(self) -> dict[str, Any]:
        return {
            "tokens": self.more_tokens,
            "mean": milliseconds(self.mean_s),
            "per token": ", ".join(
                f"{name} {milliseconds(s)}" for name, s in self.time_per_token_s.items()
            ),
        }


def request_latency(
    more_tokens: int, survival: ArrayLike, cycle_s: float, batch: int = 1
) -> RequestLatency:
    """The latency of `batch` requests that decode together, each at its own pace.

    Arguments: `more_tokens` that follow the first token of each; `survival` (gamma,); `cycle_s`,
    the seconds of a cycle. The result is exact up to `EXACT` tokens. Above that it is a normal
    approximation from renewal theory (`cycles_estimate`; its standard deviation is less than 2 %
    too small), and the slowest of the batch takes the mean plus sqrt(2 ln batch) deviations.
    """
    require_limit("tokens", more_tokens, "more_tokens")
    require_limit("batch", batch)
    length = one_count("more_tokens", more_tokens, low=1)
    percents = np.array([50.0, 90.0, 99.0])
    vector, sequences = as_survival(survival), one_count("batch", batch, low=1)
    if length <= EXACT:
        cycles = cycles_to_emit(length, vector)
        mean, slowest = cycles.mean, cycles.slowest_of(sequences).mean
        per_token_s = time_per_token_percentile_s(length, vector, cycle_s, percents)
    else:
        from statistics import NormalDist  # takes as long to import as a tenth of NumPy

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
