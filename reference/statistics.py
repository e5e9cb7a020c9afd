"""What the cycles of a run did, and how long they took."""

import statistics
import time
from dataclasses import dataclass, field
from itertools import pairwise

import torch

from reference.counts import Counts


@dataclass(slots=True, repr=False)
class Statistics(Counts):
    """Counts over all sequences (see `Counts`), and times per cycle of the whole batch. With
    `synthetic_acceptance` the number of accepted drafts was drawn from a given vector, not decided
    by a rule."""

    draft_times: list[float] = field(default_factory=list)  # seconds, one per cycle
    verify_times: list[float] = field(default_factory=list)
    accept_times: list[float] = field(default_factory=list)
    idle_times: list[float] = field(default_factory=list)
    synthetic_acceptance: bool = False
    compiled_cycles: int = 0  # cycles of a batch whose stages were compiled
    notes: list[str] = field(default_factory=list)  # where compiled stages came from, or why none

    def add_cycle(self, accepted: list[int], drafted: list[int], seconds: list[float]) -> None:
        """Count a cycle: accepted and drafted tokens of each sequence that was not cut short, and
        the seconds of drafting, verifying, accepting and idling."""
        self.accepted_counts += accepted
        self.drafted_counts += drafted
        for times, taken in zip(self._times, seconds, strict=True):
            times.append(taken)

    def extend(self, other: "Statistics") -> None:
        """Add the cycles of another run with the same gamma."""
        self.extend_counts(other)
        for times, more in zip(self._times, other._times, strict=True):
            times += more
        self.compiled_cycles += other.compiled_cycles
        self.notes += [note for note in other.notes if note not in self.notes]

    def extend_counts(self, other: "Statistics") -> None:
        """Add what another run accepted, but not its times."""
        self.accepted_counts += other.accepted_counts
        self.drafted_counts += other.drafted_counts
        self.synthetic_acceptance |= other.synthetic_acceptance

    def forget_first(self) -> None:
        """Drop the times of the first cycle, unless it is the only one."""
        for times in self._times:
            del times[: min(1, len(times) - 1)]

    @property
    def _times(self) -> tuple[list[float], ...]:
        return self.draft_times, self.verify_times, self.accept_times, self.idle_times

    @property
    def draft_s(self) -> float | None:
        """Median seconds of drafting per cycle (all its draft passes)."""
        return _median(self.draft_times)

    @property
    def verify_s(self) -> float | None:
        """Median seconds of the target's pass."""
        return _median(self.verify_times)

    @property
    def accept_s(self) -> float | None:
        """Median seconds of the accept rule and of committing tokens, a part of `host_s`."""
        return _median(self.accept_times)

    @property
    def host_s(self) -> float | None:
        """Median seconds of the rest of a cycle: accept rule, committing tokens, and the time until
        the next cycle may begin (on a CPU the host reads the result, on a GPU the device idles)."""
        return _median(self.host_times)

    @property
    def cycle_s(self) -> float | None:
        """Median seconds of a whole cycle."""
        return _median(self.cycle_times)

    @property
    def host_times(self) -> list[float]:
        """Seconds of each cycle beyond draft and verify; beyond verify if nothing is drafted."""
        rest = [self.accept_times, self.idle_times, *([] if self.gamma else [self.draft_times])]
        return [sum(times) for times in zip(*rest, strict=True)]

    @property
    def cycle_times(self) -> list[float]:
        """Seconds of each cycle."""
        return [sum(times) for times in zip(*self._times, strict=True)]


def _median(times: list[float]) -> float | None:
    return statistics.median(times) if times else None


class Stopwatch:
    """Times stages without stopping the device: by CUDA events, or on a CPU by the host's clock."""

    def __init__(self, device: torch.device):
        self.device, self.on_cuda = device, device.type == "cuda"
        self.marks: list = []
        self.stopped = None

    def stop(self) -> None:
        """End the time of the last cycle; until `start`, time belongs to no cycle."""
        self.stopped = self._now()

    def start(self) -> None:
        """Begin the time of a cycle."""
        self.marks = [self._now()]

    def mark(self) -> None:
        """A stage has ended."""
        self.marks.append(self._now())

    def seconds(self, marks: list) -> list[float]:
        """The seconds of the stages of a cycle whose result the host has just read, and of the idle
        time after them. On a CPU that ends now, on a GPU where the device was ready for the next
        cycle."""
        if not self.on_cuda:
            return [b - a for a, b in pairwise([*marks, self._now()])]
        self.stopped.synchronize()
        return [a.elapsed_time(b) / 1e3 for a, b in pairwise([*marks, self.stopped])]

    def _now(self):
        if not self.on_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event
