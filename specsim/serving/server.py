"""A server: the models that it holds, its limits, and what its memory takes."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from specsim.architecture import Architecture
from specsim.checks import Floats, Integers, SpecsimError, one_count, require_share
from specsim.checks.limits import require_limit
from specsim.drafting import Drafter
from specsim.hardware import System
from specsim.planning.memory import MEMORY_SHARE, footprint, shortage


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One replica of `target` on `system`, with a `drafter` that a policy may load (None: none).

    Arguments: `max_seqs`, requests that are read or decoded at a time; `max_batched_tokens`, rows
    of a pass, of decoding first, the rest for chunks of prompts; `kv_tokens`, the size of the cache
    in tokens of requests of mean length (None: what the memory leaves); `memory_share`, how much of
    the memory may be filled; `prefix_hit`, the share of every prompt that the prefix cache knows
    (its memory is counted for each request: pessimistic). `routing_correlation` is that of
    `predict`.

    Raises SpecsimError for a number out of range.
    """

    target: Architecture
    system: System
    drafter: Drafter | None = None
    max_seqs: int = 256
    max_batched_tokens: int = 2048
    kv_tokens: int | None = None
    memory_share: float = MEMORY_SHARE
    prefix_hit: float = 0.0
    routing_correlation: float | None = None
    # what its runs have priced: most of them ask for the same again
    priced: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        counts = {"--max-seqs": ("sequences", self.max_seqs),
                  "--max-batched-tokens": ("batched_tokens", self.max_batched_tokens),
                  "--kv-tokens": ("streamed", self.kv_tokens)}  # fmt: skip
        for option, (limit, value) in counts.items():
            if value is not None:
                require_limit(limit, value, option)
                one_count(option, value, low=1)
        if self.max_batched_tokens < self.max_seqs:
            raise SpecsimError(
                f"--max-batched-tokens {self.max_batched_tokens} must be at least --max-seqs "
                f"{self.max_seqs}: each sequence that decodes is a row of a pass"
            )
        require_share("--prefix-hit", self.prefix_hit)
        require_share("--memory-share", self.memory_share)

    def cache(self, *, drafts: bool, gamma: int, most_context: int, mean_context: int) -> "Cache":
        """What the memory leaves for caches, and what a sequence takes of it.

        Raises SpecsimError where the weights alone do not fit.
        """
        drafter = self.drafter if drafts else None
        lengths = np.arange(most_context + gamma + 2, dtype=float)
        asked: dict[str, Any] = {"gamma": gamma, "drafter": drafter, "usable": self.memory_share}
        # the slots of drafts in flight are asked for by the loop, for those that decode
        found = footprint(self.target, self.system, batch=1, context=lengths - gamma, **asked)
        held = np.broadcast_to(found.kv_bytes + found.draft_kv_bytes, lengths.shape)
        if self.kv_tokens is not None:
            capacity = self.kv_tokens / mean_context * float(held[mean_context])
        elif found.capacity_bytes is None:
            capacity = math.inf
        else:
            logits = float(np.max(found.logit_bytes)) * self.max_seqs
            weights = float(found.weight_bytes + found.draft_weight_bytes)
            capacity = found.capacity_bytes - weights - logits
        if not capacity > 0:
            one: dict[str, Any] = {"batch": self.max_seqs, "context": 1} | asked
            missing = shortage(
                footprint(self.target, self.system, **one), self.target, self.system, **one
            )
            raise SpecsimError(f"no memory is left for a cache: {missing or 'the weights fill it'}")
        return Cache(capacity, held)


class Cache:
    """Bytes that sequences take, by their tokens; a line where every token takes as much."""

    def __init__(self, capacity_bytes: float, held_bytes: Floats) -> None:
        self.capacity_bytes, self.held = capacity_bytes, held_bytes
        rise = (held_bytes[-1] - held_bytes[0]) / max(len(held_bytes) - 1, 1)
        line = held_bytes[0] + rise * np.arange(len(held_bytes))
        self.is_line = bool(np.allclose(line, held_bytes, rtol=1e-9))
        self.first, self.rise = float(held_bytes[0]), float(rise)

    def of(self, tokens: int) -> float:
        """Bytes of one sequence."""
        return float(self.held[min(tokens, len(self.held) - 1)])

    def of_tokens(self, batch: int, tokens: int, ahead: int) -> float:
        """Bytes of a batch that holds so many tokens in all, where every token takes as much, with
        `ahead` more in each sequence."""
        return self.first * batch + self.rise * (tokens + batch * ahead)

    def of_each(self, contexts: Integers) -> float:
        """Bytes of a batch, from the tokens of each sequence."""
        return float(np.add.reduce(self.held[np.minimum(contexts, len(self.held) - 1)]))
