"""How many drafts the cycles of a run accepted.

Three numbers are called acceptance rate, and they differ by tens of per cent. All three are here:
`alpha` (accepted ÷ tests made; a test that fails ends the cycle), `accepted_per_drafted` (vLLM's
draft acceptance rate) and `tokens_per_cycle` (mean acceptance length, block efficiency or τ; the
bonus or correction token included). `survival` is vLLM's per-position acceptance rate.
"""

import statistics
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from specsim.checks.shown import Shown, short


@dataclass(slots=True, repr=False)
class Counts(Shown):
    """Accepted and drafted tokens, one of each per sequence and whole cycle.

    A cycle that the end of the text or the length limit cuts short is left out, because it is
    unknown how many of its drafts would have been emitted. `gamma` is the most that a cycle drafts.

    For trees the counts are levels, not nodes: drafted is the depth of the tree, accepted is the
    length of the accepted path. So `accepted_per_drafted` ignores the width, and `alpha` counts a
    path that ends at a leaf above the deepest level as a rejection: compare `tokens_per_cycle`.
    """

    gamma: int
    accepted_counts: list[int] = field(default_factory=list)
    drafted_counts: list[int] = field(default_factory=list)  # for the same cycles

    @property
    def cycles(self) -> int:
        """Cycles that were counted, each sequence by itself."""
        return len(self.accepted_counts)

    @property
    def drafted(self) -> int:
        """Drafted tokens in all."""
        return sum(self.drafted_counts)

    @property
    def accepted(self) -> int:
        """Accepted tokens in all, without bonus and correction tokens."""
        return sum(self.accepted_counts)

    @property
    def accepted_histogram(self) -> list[int]:
        """How many cycles accepted 0, 1, … gamma drafts."""
        counts = Counter(self.accepted_counts)
        return [counts[n] for n in range(self.gamma + 1)]

    @property
    def survival(self) -> list[float] | None:
        """The share of cycles that accepted at least k drafts, k = 1 … gamma; None before the first
        cycle."""
        if not self.cycles:
            return None
        histogram = self.accepted_histogram
        return [sum(histogram[k:]) / self.cycles for k in range(1, self.gamma + 1)]

    @property
    def tokens_per_cycle(self) -> float | None:
        """Mean tokens emitted per cycle, the bonus or correction token included."""
        return 1 + self.accepted / self.cycles if self.cycles else None

    @property
    def tokens_per_cycle_error(self) -> float | None:
        """Standard error of `tokens_per_cycle`, taking cycles as independent."""
        if self.cycles < 2:
            return None
        return statistics.stdev(self.accepted_counts) / self.cycles**0.5

    @property
    def accepted_per_drafted(self) -> float | None:
        """Accepted ÷ drafted tokens."""
        return self.accepted / self.drafted if self.drafted else None

    @property
    def alpha(self) -> float | None:
        """Mean conditional acceptance of one draft: accepted ÷ (accepted + rejections)."""
        counts = zip(self.accepted_counts, self.drafted_counts, strict=True)
        rejections = sum(accepted < drafted for accepted, drafted in counts)
        tests = self.accepted + rejections
        return self.accepted / tests if tests else None

    def _facts(self) -> dict[str, Any]:
        counts = {name: getattr(self, name) for name in ("gamma", "cycles", "drafted", "accepted")}
        return counts | {"tokens per cycle": short(self.tokens_per_cycle)}
