"""When requests come, and what they ask for: traffic that every policy shares.

Open loop: requests come on their own, at `rate` per second; the times between them are Gamma
distributed with the shape `burstiness` (vLLM's meaning: 1 is Poisson, below 1 is burstier, infinity
is even. BLIS and vidur say the coefficient of variation instead, 1 / sqrt(burstiness)). As vLLM's
benchmark does, the times are scaled so that the last request comes at requests / rate. Closed loop:
`concurrency` users send their next request when the last one is answered. Both together: no more
than so many in flight, the others wait unsent. Traces: what really came.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from specsim.checks import Floats, Integers, SpecsimError, one_count, quoted
from specsim.checks.limits import require_limit
from specsim.evidence.served.traces import Request
from specsim.serving.lengths import Lengths

LEAST_RATE, MOST_RATE = 1e-6, 1e9
EVEN = 1e6  # a burstiness from which on gaps are even


@dataclass(frozen=True, slots=True, eq=False)
class Traffic:
    """Requests in the order in which they come: seconds, and whole tokens of prompt and answer.

    `concurrency` is the most in flight (None: no limit). `rate` and `burstiness` are what the times
    were drawn with; an infinite rate sends all at once. The noise of acceptance is drawn from
    `seed` too.
    """

    arrival_s: Floats
    input_tokens: Integers
    output_tokens: Integers
    concurrency: int | None = None
    rate: float = math.inf
    burstiness: float = 1.0
    seed: int = 0

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def most_context(self) -> int:
        """The longest prompt with its answer."""
        return int((self.input_tokens + self.output_tokens).max())

    @property
    def mean_context(self) -> int:
        """The mean KV length of a decode step: requests weighted by their steps."""
        weight = self.output_tokens / self.output_tokens.sum()
        return max(1, round(float(weight @ (self.input_tokens + self.output_tokens / 2))))


def traffic(
    *,
    requests: int,
    prompt: Lengths,
    output: Lengths,
    rate: float | None = None,
    concurrency: int | None = None,
    burstiness: float = 1.0,
    seed: int = 0,
) -> Traffic:
    """Drawn traffic: open loop with a `rate`, closed loop with a `concurrency`, or both.

    Raises SpecsimError where neither is given, and for numbers that make no traffic.
    """
    require_limit("requests", requests, "--requests")
    one_count("--requests", requests, low=1)
    require_limit("seed", seed)
    one_count("seed", seed)
    if rate is None and concurrency is None:
        raise SpecsimError("give the arrivals: --rate R, --concurrency N or --trace FILE")
    if concurrency is not None:
        require_limit("sequences", concurrency, "--concurrency")
        one_count("--concurrency", concurrency, low=1)
    rate = math.inf if rate is None else float(rate)
    if not rate >= LEAST_RATE or MOST_RATE < rate < math.inf:
        raise SpecsimError(
            f"--rate must be requests per second, within {LEAST_RATE:g} and {MOST_RATE:g} (or "
            f"inf), got {quoted(rate)}"
        )
    if not burstiness >= 1e-3:
        raise SpecsimError(
            "--burstiness must be at least 0.001 (the shape of the Gamma distribution; 1 is "
            f"Poisson, less is burstier), got {quoted(burstiness)}"
        )
    streams = [np.random.default_rng([seed, stream]) for stream in range(3)]
    arrival_s = np.zeros(requests)
    if math.isfinite(rate):
        arrival_s = _arrivals(requests, rate, burstiness, streams[0])
    return Traffic(
        arrival_s=arrival_s,
        input_tokens=prompt.draw(requests, streams[1]),
        output_tokens=output.draw(requests, streams[2]),
        concurrency=concurrency,
        rate=rate,
        burstiness=burstiness,
        seed=seed,
    )


def _arrivals(requests: int, rate: float, burstiness: float, random: np.random.Generator) -> Floats:
    if burstiness > EVEN:
        gaps = np.ones(requests)
    else:
        gaps = random.gamma(burstiness, 1.0, requests)
    times = np.cumsum(gaps)
    if not times[-1] > 0.0:
        times = np.arange(1.0, requests + 1.0)
    return times * (requests / rate / times[-1])


def traffic_of(requests: Iterable[Request], *, concurrency: int | None = None,
               seed: int = 0, most: int | None = None) -> Traffic:  # fmt: skip
    """The traffic of a trace, from its first request on; `most` keeps the first so many.

    Raises SpecsimError for a trace without a request, and for one that reads or writes no token.
    """
    rows = sorted(requests, key=lambda request: request.arrival_s)[:most]
    if not rows:
        raise SpecsimError("the trace holds no request")
    require_limit("trace_requests", len(rows), "the requests of the trace")
    for number, row in enumerate(rows, 1):
        for what, tokens in (("prompt", row.input_tokens), ("answer", row.output_tokens)):
            if tokens < 1:
                raise SpecsimError(
                    f"request {number} of the trace has {what} of {tokens:g} tokens: a served "
                    "request reads and writes at least one"
                )
            require_limit("tokens", tokens, f"the {what} of request {number} of the trace")
    times = np.array([row.arrival_s for row in rows])
    times = times - times[0]
    span = float(times[-1])
    return Traffic(
        arrival_s=times,
        input_tokens=np.array([round(row.input_tokens) for row in rows], dtype=np.int64),
        output_tokens=np.array([round(row.output_tokens) for row in rows], dtype=np.int64),
        concurrency=concurrency,
        rate=(len(rows) - 1) / span if span else math.inf,
        seed=seed,
    )
