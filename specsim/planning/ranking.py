"""Which way to draft, for one deployment: every candidate priced at the same load, the best first.

A candidate is possible if it fits the memory; among those, one that keeps to the latency limits
comes before one that does not; then the tokens per second of each accelerator decide.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from specsim.architecture import Architecture
from specsim.checks import Floats, Integers, SpecsimError, one_count, within
from specsim.checks.limits import require_limit
from specsim.checks.shown import Shown, gigabytes, milliseconds, short
from specsim.drafting import Drafter
from specsim.hardware import System
from specsim.planning.economics import dollars_per_million_tokens, price_of_devices
from specsim.planning.memory import MEMORY_SHARE, footprint, shortage
from specsim.planning.prefill import prompt_passes, time_to_first_token
from specsim.prediction import Prediction
from specsim.speculation import predict

ANSWER_TOKENS = 256  # of an answer after its first, for an end-to-end limit
LATENCIES = ("ttft", "tpot", "e2el")


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One way to decode. `alphas` are the low, middle and high acceptance that it is priced at, all
    the same where one was given; `gammas` those to choose from (None: all of the method's). Plain
    decoding has no drafter."""

    method: str | None = None
    draft: str | None = None
    drafter: Drafter | None = None
    alphas: tuple[float, float, float] = (0.0, 0.0, 0.0)
    gammas: Integers | None = None

    @property
    def name(self) -> str:
        """The draft model's method and name, or the method's."""
        if self.method is None:
            return "plain decoding"
        return self.method if self.draft is None else f"{self.method} {self.draft}"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Ranked(Shown):
    """A candidate at its best gamma (for the middle acceptance) under the load of the ranking.

    `speedups`, `tokens_per_s` (all sequences together) and `token_s` (seconds per token of one
    user) have three entries, for the low, the middle and the high acceptance; `ttft_s` is the time
    to read a prompt of the whole context alone, without waiting; `memory_bytes` are those of the
    fullest device. `missing` says what does not fit (None: it fits) and `verdict` in how far,
    `misses` which latency limits it does not keep to at the middle acceptance.
    """

    candidate: Candidate
    gamma: int
    speedups: Floats
    tokens_per_s: Floats
    token_s: Floats
    ttft_s: float
    memory_bytes: float
    missing: str | None
    verdict: str
    misses: tuple[str, ...]
    devices: int
    dollars_per_million: float | None = None
    cannot_tell: bool = False

    @property
    def possible(self) -> bool:
        """Whether it fits the memory and its gain is known."""
        return self.missing is None and not self.cannot_tell

    @property
    def merit(self) -> tuple[bool, bool, float]:
        """What the order follows: larger is better."""
        return (self.possible, not self.misses, float(self.tokens_per_s[1]) / self.devices)

    def _facts(self) -> dict[str, Any]:
        return {
            "candidate": self.candidate.name,
            "gamma": self.gamma,
            "speedup": short(self.speedups),
            "time per token": milliseconds(self.token_s),
            "memory": gigabytes(self.memory_bytes),
            "fits": self.missing is None,
        }


def rank(
    target: Architecture,
    system: System,
    candidates: Iterable[Candidate],
    *,
    users: int = 1,
    context: int = 1024,
    limits_ms: Mapping[str, float] | None = None,
    answer_tokens: int = ANSWER_TOKENS,
    price_per_hour: float | None = None,
    usable: float = MEMORY_SHARE,
    routing_correlation: float | None = None,
) -> list[Ranked]:
    """The candidates, the best first.

    Arguments: `users`, sequences that are decoded together; `context`, tokens of each, and the
    length of the prompt whose time to first token is priced; `limits_ms`, the most milliseconds of
    `ttft`, `tpot` (of one user's token) and `e2el` (of an answer of `answer_tokens` more tokens);
    `price_per_hour`, of the target's devices in USD, more where a method needs more devices;
    `usable`, the share of the memory that may be filled.

    Raises SpecsimError for numbers out of range, an unknown limit, or no candidate at all.
    """
    require_limit("batch", users, "users")
    require_limit("context", context)
    users, context = one_count("users", users, low=1), one_count("context", context, low=1)
    limits = dict(limits_ms or {})
    if unknown := sorted(limits.keys() - set(LATENCIES)):
        raise SpecsimError(f"limits_ms takes {', '.join(LATENCIES)}, not {unknown[0]!r}")
    if price_per_hour is not None:
        within("price_per_hour", price_per_hour, high=1e9)
    asked = {"batch": users, "context": context}
    found = []
    for candidate in candidates:
        prediction = best_of(target, system, candidate, routing_correlation, asked)
        gamma = int(np.ravel(prediction.gamma)[0])
        place = asked | {"gamma": gamma, "drafter": candidate.drafter, "usable": usable}
        held = footprint(target, system, **place)  # type: ignore[arg-type]
        rate = np.broadcast_to(prediction.speculative_tokens_per_s, (3,))
        token_s = users / rate
        ttft_s = first_token_s(target, system, candidate.drafter, users, context)
        times = {
            "ttft": ttft_s, "tpot": float(token_s[1]),
            "e2el": ttft_s + answer_tokens * float(token_s[1]),
        }  # fmt: skip
        devices = system.tensor_parallel + prediction.extra_devices
        found.append(
            Ranked(
                candidate=candidate,
                gamma=gamma,
                speedups=np.broadcast_to(prediction.speedup, (3,)),
                tokens_per_s=rate,
                token_s=token_s,
                ttft_s=ttft_s,
                memory_bytes=float(held.total_bytes),
                missing=shortage(held, target, system, **place),
                verdict=held.verdict,
                misses=tuple(
                    name for name, most in limits.items() if times[name] * 1e3 > most
                ),
                devices=devices,
                dollars_per_million=None if price_per_hour is None else float(
                    dollars_per_million_tokens(
                        price_of_devices(price_per_hour, devices, system.tensor_parallel),
                        float(rate[1]),
                    )
                ),
                cannot_tell=bool(np.any(prediction.cannot_tell)),
            )
        )  # fmt: skip
    if not found:
        raise SpecsimError("there is no candidate to rank")
    return sorted(found, key=lambda ranked: ranked.merit, reverse=True)


def best_of(
    target: Architecture,
    system: System,
    candidate: Candidate,
    routing_correlation: float | None,
    asked: Mapping[str, Any],
) -> Prediction:
    """The prediction of a candidate for its three acceptances, at the best gamma of the middle."""
    if candidate.drafter is None:
        return predict(target, None, system, gamma=0, **asked)
    gammas = candidate.drafter.gammas if candidate.gammas is None else candidate.gammas
    given: dict[str, Any] = dict(asked) | {"routing_correlation": routing_correlation}
    over = predict(
        target, candidate.drafter, system, gamma=gammas, alpha=candidate.alphas[1], **given
    )
    gamma = int(over.gamma[over.best()])
    return predict(target, candidate.drafter, system, gamma=gamma, alpha=candidate.alphas, **given)


def first_token_s(
    target: Architecture, system: System, drafter: Drafter | None, users: int, context: int
) -> float:
    """Seconds to read one prompt of `context` tokens alone, and the drafter's own reading of it."""
    seconds = time_to_first_token(target, system.storing(target), prompt=context).total_s
    if drafter is not None:
        passes, workload = prompt_passes(prompt=context)
        seconds = seconds + passes * drafter.prompt_pass(system.on_accelerator, workload).seconds
    return float(seconds)
