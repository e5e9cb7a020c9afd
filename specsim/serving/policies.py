"""Which gamma a server takes, from how many sequences decode: the policies.

| name | gamma |
|---|---|
| `off` | 0; no draft is loaded |
| `fixed:K` | K always |
| `table` | a schedule that is given, by batch |
| `scheduled` | the best one of each batch, at the mean context |
| `marginal` | by batch: one draft more while it gains more than it costs |
| `admit` | that of `scheduled`, but only for requests that came while speculation paid: the others are never drafted for, and the draft does not read their prompts |
| `best` | `off`, `scheduled`, or the fixed gamma that a trial on other traffic of the kind found best: a draft that does not pay is not loaded |

A schedule that switches at one batch oscillates: speculation makes the batch smaller, and the
smaller batch switches it on. `hysteresis` h keeps the gamma until the batch has left its range by
the factor 1 + h.
"""  # noqa: E501

import re
from dataclasses import dataclass, replace

import numpy as np

from specsim.acceptance import PerPosition
from specsim.architecture import Architecture
from specsim.checks import Floats, Integers, SpecsimError, quoted
from specsim.checks.files import parse_json, read_ascii
from specsim.checks.limits import require_limit
from specsim.drafting import Drafter
from specsim.hardware import System
from specsim.planning.gammas import marginal_gamma
from specsim.serving.accepting import Accepting
from specsim.speculation import predict

HYSTERESIS = 0.1
NAMES = ("off", "fixed:K", "table:FILE", "best", "scheduled", "marginal", "admit")


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """gamma by batch; `gammas[b]` is that of b sequences, [0] that of none.

    `drafts` is whether the drafter is loaded at all, `by_request` whether a request that comes
    while gamma is 0 is never drafted for.
    """

    name: str
    gammas: Integers
    hysteresis: float = 0.0
    by_request: bool = False

    @property
    def drafts(self) -> bool:
        return bool(self.gammas.any())

    def bounds(self) -> tuple[list[int], list[int]]:
        """The least and the most gamma that may be kept at each batch."""
        batch = np.arange(len(self.gammas))
        lower = np.ceil(batch / (1.0 + self.hysteresis)).astype(int)
        upper = np.minimum(np.floor(batch * (1.0 + self.hysteresis)), len(batch) - 1).astype(int)
        spans = [self.gammas[a : b + 1] for a, b in zip(lower, upper, strict=True)]
        return [int(span.min()) for span in spans], [int(span.max()) for span in spans]

    def within(self, most_tokens: int) -> "Policy":
        """The same where a pass has at most so many rows: gamma is cut for large batches."""
        batch = np.maximum(np.arange(len(self.gammas)), 1)
        return replace(
            self, gammas=np.minimum(self.gammas, np.maximum(most_tokens // batch, 1) - 1)
        )

    def ranges(self) -> list[tuple[int, int, int]]:
        """(first batch, last batch, gamma), neighbours with the same gamma made one."""
        after = np.flatnonzero(np.diff(self.gammas[1:])) + 2
        firsts = [1, *after.tolist()]
        lasts = [*(after - 1).tolist(), len(self.gammas) - 1]
        return [(a, b, int(self.gammas[a])) for a, b in zip(firsts, lasts, strict=True)]


def constant(gamma: int, sequences: int) -> Policy:
    """One gamma at every batch; 0 is `off`."""
    gammas = np.full(sequences + 1, gamma, dtype=np.int64)
    return Policy("off" if gamma == 0 else f"fixed:{gamma}", gammas)


@dataclass(frozen=True, slots=True, eq=False)
class Alternatives:
    """Tokens and seconds of a cycle at every batch from 1 and every gamma: what policies weigh."""

    gammas: Integers  # (G,)
    tokens_per_cycle: Floats  # (B, G)
    cycle_s: Floats  # (B, G)

    @property
    def sequences(self) -> int:
        return len(self.cycle_s)

    def scheduled(self) -> Policy:
        """The gamma with the most tokens per second at each batch."""
        best = np.argmax(self.tokens_per_cycle / self.cycle_s, axis=1)
        return Policy("scheduled", self._led(self.gammas[best]))

    def marginal(self) -> Policy:
        """The gamma of the marginal rule at each batch, where the gammas are 0, 1, 2, …"""
        pairs = zip(self.tokens_per_cycle, self.cycle_s, strict=True)
        found = [marginal_gamma(tokens, cycle, float(cycle[0])) for tokens, cycle in pairs]
        return Policy("marginal", self._led(self.gammas[np.array(found)]))

    def admit(self) -> Policy:
        """The gamma with the most tokens per second, for requests that came while it was not 0."""
        return replace(self.scheduled(), name="admit", by_request=True)

    def _led(self, gammas: Integers) -> Integers:
        return np.concatenate([gammas[:1], gammas]).astype(np.int64)


def weigh(
    target: Architecture,
    drafter: Drafter,
    system: System,
    accepting: Accepting,
    *,
    gammas: Integers,
    sequences: int,
    context: int,
    routing_correlation: float | None = None,
) -> Alternatives:
    """Tokens and seconds of a cycle, by `predict`, at every batch up to `sequences`."""
    batch = np.arange(1.0, sequences + 1.0)
    tokens, seconds = [], []
    for gamma in gammas.tolist():
        survival = accepting.survival(drafter, gamma).mean(axis=0) if gamma else np.zeros(0)
        tokens.append(float(PerPosition(survival).tokens_per_cycle(len(survival))))
        found = predict(
            target, drafter if gamma else None, system, gamma=gamma, tokens_per_cycle=1.0,
            batch=batch, context=context, routing_correlation=routing_correlation,
        )  # fmt: skip
        seconds.append(np.broadcast_to(found.cycle_s, batch.shape))
    both = np.broadcast_arrays(np.array(tokens), np.stack(seconds, axis=1))
    return Alternatives(gammas, *both)


def fixed_gamma(name: str) -> int | None:
    """K of `fixed:K`, 0 of `off`; None for other policies."""
    if name == "off":
        return 0
    if not (found := re.fullmatch(r"fixed:(\d{1,6})", name, re.ASCII)):
        return None
    require_limit("gamma", int(found[1]), "the gamma of fixed:K")
    return int(found[1])


def require_known(name: str) -> str:
    """The name of a policy; SpecsimError, with those that there are, for another."""
    plain = fixed_gamma(name) is not None or name.startswith("table:")
    if plain or name in NAMES:
        return name
    raise SpecsimError(
        f"there is no policy {quoted(name)}: give one of {', '.join(NAMES)} (K a number of drafts)"
    )


def read_table(path: str, sequences: int) -> Policy:
    """A schedule from a JSON file: `[[first batch, last batch, gamma], …]` under
    `num_speculative_tokens_per_batch_size`, as vLLM has it, or under `schedule`. Batches beyond the
    last range take the last one's gamma."""
    data = parse_json(read_ascii(path, "json_bytes"), path)
    if isinstance(data.get("speculative_config"), dict):
        data = data["speculative_config"]
    rows = data.get("num_speculative_tokens_per_batch_size", data.get("schedule"))
    if not isinstance(rows, list) or not rows:
        raise SpecsimError(
            f"{path} has no schedule: needed is a list of [first batch, last batch, gamma] under "
            "num_speculative_tokens_per_batch_size or schedule"
        )
    gammas, after = np.zeros(sequences + 1, dtype=np.int64), 1
    for number, row in enumerate(rows, 1):
        sound = isinstance(row, list) and len(row) == 3
        if not sound or not all(isinstance(x, int) and not isinstance(x, bool) for x in row):
            raise SpecsimError(
                f"range {number} of {path} must be [first batch, last batch, gamma], got "
                f"{quoted(row)}"
            )
        first, last, gamma = row
        if first != after or last < first or gamma < 0:
            raise SpecsimError(
                f"range {number} of {path} must begin at batch {after}, end at or after it, and "
                f"have a gamma of at least 0, got {quoted(row)}"
            )
        require_limit("batch", last)
        require_limit("gamma", gamma, f"gamma in range {number} of {path}")
        gammas[first:] = gamma
        after = last + 1
    gammas[0] = gammas[1]
    return Policy("table", gammas)
