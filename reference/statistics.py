"""What the cycles of a run did, and what they took.

Three numbers are called acceptance rate, and they differ by tens of per cent; all three are here by
name: `alpha` (accepted ÷ tests made, a test that fails ends the cycle), `accepted_per_drafted`, and
`tokens_per_cycle` (the bonus or correction token included).
"""

import statistics
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

import torch


@dataclass(slots=True)
class Statistics:
    """Counts over all sequences, times per cycle of the whole batch.

    A cycle cut short by the end of the text or the length limit is left out of every count: how
    many of its drafts would have been emitted is not known.
    """

    gamma: int
    accepted_counts: list[int] = field(default_factory=list)  # one per sequence and whole cycle
    draft_times: list[float] = field(default_factory=list)  # seconds, one per cycle
    verify_times: list[float] = field(default_factory=list)
    host_times: list[float] = field(default_factory=list)

    def add_cycle(self, accepted: list[int], laps: list[float]) -> None:
        """Count a cycle: the drafts accepted by each sequence it was whole for, and its three
        laps."""
        self.accepted_counts += accepted
        for times, lap in zip(
            (self.draft_times, self.verify_times, self.host_times), laps, strict=True
        ):
            times.append(lap)

    def extend(self, other: "Statistics") -> None:
        """Add the cycles of another run with the same gamma."""
        self.accepted_counts += other.accepted_counts
        self.draft_times += other.draft_times
        self.verify_times += other.verify_times
        self.host_times += other.host_times

    @property
    def cycles(self) -> int:
        return len(self.accepted_counts)

    @property
    def drafted(self) -> int:
        return self.gamma * self.cycles

    @property
    def accepted(self) -> int:
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
        return 1 + self.accepted / self.cycles if self.cycles else None

    @property
    def tokens_per_cycle_error(self) -> float | None:
        """Standard error of `tokens_per_cycle`, taking cycles as independent."""
        if self.cycles < 2:
            return None
        return statistics.stdev(self.accepted_counts) / self.cycles**0.5

    @property
    def accepted_per_drafted(self) -> float | None:
        return self.accepted / self.drafted if self.drafted else None

    @property
    def alpha(self) -> float | None:
        """Pooled conditional acceptance: accepted ÷ (accepted + rejections)."""
        rejections = self.cycles - (
            self.accepted_histogram[self.gamma] if self.gamma else self.cycles
        )
        tests = self.accepted + rejections
        return self.accepted / tests if tests else None

    @property
    def draft_s(self) -> float | None:
        """Median seconds that a cycle drafts (all its draft passes)."""
        return _median(self.draft_times)

    @property
    def verify_s(self) -> float | None:
        """Median seconds of the target's pass."""
        return _median(self.verify_times)

    @property
    def cycle_s(self) -> float | None:
        return _median(self.cycle_times)

    @property
    def cycle_times(self) -> list[float]:
        times = zip(self.draft_times, self.verify_times, self.host_times, strict=True)
        return [sum(laps) for laps in times]

    @property
    def host_s(self) -> float | None:
        """Median seconds of the rest of a cycle: accept rule, roll-back, and the host reading the
        result."""
        return _median(self.host_times)


def _median(times: list[float]) -> float | None:
    return statistics.median(times) if times else None


class Stopwatch:
    """Laps without stopping the device: CUDA events there, the host's clock elsewhere."""

    def __init__(self, device: torch.device):
        self.on_cuda = device.type == "cuda"

    def start(self) -> None:
        self.marks = [self._now()]

    def lap(self) -> None:
        self.marks.append(self._now())

    def seconds(self) -> list[float]:
        """The laps since `start`. On a GPU the caller must have read a result from it since the
        last lap."""
        if self.on_cuda:
            self.marks[-1].synchronize()
            return [a.elapsed_time(b) / 1e3 for a, b in pairwise(self.marks)]
        return [b - a for a, b in pairwise(self.marks)]

    def _now(self):
        if not self.on_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
