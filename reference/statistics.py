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
    many of its drafts would have been emitted is not known. `gamma` is the most that a cycle
    drafts; `synthetic_acceptance` says that how many were accepted was drawn, not judged.

    Of a tree these are levels, not nodes: drafted is how deep it was, accepted how far down the
    walk went. So `accepted_per_drafted` says nothing of its width, and a walk that ends at a leaf
    above the deepest level counts as a rejection in `alpha`; `tokens_per_cycle` is the number to
    compare.
    """

    gamma: int
    accepted_counts: list[int] = field(default_factory=list)  # one per sequence and whole cycle
    drafted_counts: list[int] = field(default_factory=list)  # beside them
    draft_times: list[float] = field(default_factory=list)  # seconds, one per cycle
    verify_times: list[float] = field(default_factory=list)
    accept_times: list[float] = field(default_factory=list)
    idle_times: list[float] = field(default_factory=list)
    synthetic_acceptance: bool = False

    def add_cycle(self, accepted: list[int], drafted: list[int], laps: list[float]) -> None:
        """Count a cycle: the drafts that were accepted, of how many, by each sequence it was whole
        for; and its four laps."""
        self.accepted_counts += accepted
        self.drafted_counts += drafted
        for times, lap in zip(self._times, laps, strict=True):
            times.append(lap)

    def extend(self, other: "Statistics") -> None:
        """Add the cycles of another run with the same gamma."""
        self.extend_counts(other)
        for times, more in zip(self._times, other._times, strict=True):
            times += more

    def extend_counts(self, other: "Statistics") -> None:
        """Add what another run accepted, but not its times."""
        self.accepted_counts += other.accepted_counts
        self.drafted_counts += other.drafted_counts
        self.synthetic_acceptance |= other.synthetic_acceptance

    @property
    def _times(self) -> tuple[list[float], ...]:
        return self.draft_times, self.verify_times, self.accept_times, self.idle_times

    @property
    def cycles(self) -> int:
        return len(self.accepted_counts)

    @property
    def drafted(self) -> int:
        return sum(self.drafted_counts)

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
    def acceptance_by_position(self) -> list[float | None] | None:
        """Of the k-th drafts that were tested (those before them accepted), the share that passed;
        None for a place where none was."""
        if not self.cycles:
            return None
        pairs = list(zip(self.accepted_counts, self.drafted_counts, strict=True))
        tested = [sum(n >= k and g > k for n, g in pairs) for k in range(self.gamma)]
        passed = [sum(n > k for n, _ in pairs) for k in range(self.gamma)]
        return [p / t if t else None for p, t in zip(passed, tested, strict=True)]

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
        rejections = sum(
            n < g for n, g in zip(self.accepted_counts, self.drafted_counts, strict=True)
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
    def accept_s(self) -> float | None:
        """Median seconds of the accept rule and the roll-back, a part of `host_s`."""
        return _median(self.accept_times)

    @property
    def host_s(self) -> float | None:
        """Median seconds of the rest of a cycle: accept rule, roll-back, and what passes until the
        next may begin: on a CPU the host reading the result, on a GPU its standing idle."""
        return _median(self.host_times)

    @property
    def cycle_s(self) -> float | None:
        return _median(self.cycle_times)

    @property
    def host_times(self) -> list[float]:
        return [sum(laps) for laps in zip(self.accept_times, self.idle_times, strict=True)]

    @property
    def cycle_times(self) -> list[float]:
        return [sum(laps) for laps in zip(*self._times, strict=True)]


def _median(times: list[float]) -> float | None:
    return statistics.median(times) if times else None


class Stopwatch:
    """Laps without stopping the device: CUDA events there, the host's clock elsewhere."""

    def __init__(self, device: torch.device):
        self.on_cuda = device.type == "cuda"
        self.marks: list = []
        self.stopped = None

    def stop(self) -> None:
        """What passes from here to the start of the next cycle belongs to none."""
        self.stopped = self._now()

    def start(self) -> None:
        self.marks = [self._now()]

    def lap(self) -> None:
        self.marks.append(self._now())

    def seconds(self, marks: list) -> list[float]:
        """The laps of a cycle whose result the host has just read. The last one ends on a CPU now,
        on a GPU where the device was ready for the cycle that is under way."""
        if not self.on_cuda:
            return [b - a for a, b in pairwise([*marks, self._now()])]
        self.stopped.synchronize()
        return [a.elapsed_time(b) / 1e3 for a, b in pairwise([*marks, self.stopped])]

    def _now(self):
        if not self.on_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
