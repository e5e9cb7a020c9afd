"""What a run counts while it goes: memory that does not grow with steps or tokens."""

import numpy as np

from specsim.checks import Floats, Integers
from specsim.serving.slots import Slots

SHORTEST_S, LONGEST_S, FINENESS = 1e-7, 1e6, 2e-3  # of the histogram of gaps; its relative width
KEPT = 8192  # gaps that are kept before they are sorted in


class Gaps:
    """Times between chunks as a histogram of the logarithm: percentiles to 0.2 %, exact means."""

    def __init__(self) -> None:
        bins = int(np.log(LONGEST_S / SHORTEST_S) / FINENESS) + 1
        self.counts = np.zeros(bins)
        self.total_s, self.square = 0.0, 0.0
        self.kept: list[tuple[Floats, int]] = []
        self.singles: list[float] = []
        self.weights: list[int] = []
        self.size = 0

    def add(self, seconds: Floats, weight: int) -> None:
        """`weight` gaps of each length."""
        self.kept.append((seconds, weight))
        self.size += len(seconds)
        if self.size >= KEPT:
            self.sort_in()

    def add_one(self, seconds: float, weight: int) -> None:
        """`weight` gaps of one length."""
        self.singles.append(seconds)
        self.weights.append(weight)
        if len(self.weights) >= KEPT:
            self.sort_in()

    def sort_in(self) -> None:
        """Sort the gaps that were kept into the histogram."""
        if not self.kept and not self.weights:
            return
        seconds = np.concatenate([np.array(self.singles), *(each for each, _ in self.kept)])
        blocks = [np.full(len(each), weight) for each, weight in self.kept]
        weights = np.concatenate([np.array(self.weights, dtype=float), *blocks])
        self.total_s += float(seconds @ weights)
        self.square += float(seconds**2 @ weights)
        places = np.log(np.clip(seconds, SHORTEST_S, LONGEST_S) / SHORTEST_S) / FINENESS
        self.counts += np.bincount(
            np.minimum(places.astype(int), len(self.counts) - 1),
            weights=weights, minlength=len(self.counts),
        )  # fmt: skip
        self.kept, self.singles, self.weights, self.size = [], [], [], 0

    def statistics(self) -> dict[str, float] | None:
        """Mean, standard deviation and percentiles in seconds; None where there is no gap."""
        self.sort_in()
        count = self.counts.sum()
        if not count:
            return None
        mean = self.total_s / count
        found = {"mean": mean, "std": max(self.square / count - mean**2, 0.0) ** 0.5}
        below = np.cumsum(self.counts)
        for name, percent in (("median", 50), ("p90", 90), ("p95", 95), ("p99", 99)):
            place = int(np.searchsorted(below, percent / 100 * count - 1e-9))
            found[name] = SHORTEST_S * float(np.exp((place + 0.5) * FINENESS))
        return found


class Tallies:
    """Counters of one run. `moved` are bytes and FLOPs over all devices."""

    def __init__(
        self, most_gamma: int, sequences: int, *, all_drafted: bool, detailed: bool
    ) -> None:
        self.all_drafted = all_drafted  # whether drafts are made for every request
        self.chunk_gaps = Gaps()
        self.seconds = np.zeros(most_gamma + 1)  # of decoding, by gamma
        self.accepted = np.zeros((most_gamma + 1, most_gamma + 1), dtype=np.int64)
        self.batch_s = np.zeros(sequences + 1)  # seconds, by sequences that decode
        self.moved = np.zeros(2)
        self.busy_s, self.peak_bytes = 0.0, 0.0
        self.preemptions, self.switches = 0, 0
        self.ends: list[float] | None = [] if detailed else None
        self.steps = 0
        self.spans: dict[int, list[list[int]]] = {}  # steps in which a request got tokens

    def decoded(self, gamma: int, slots: Slots, seconds: Floats, emitted: Integers) -> None:
        """Steps of a batch under one gamma; `emitted` is (batch, steps)."""
        total, batch = float(np.add.reduce(seconds)), slots.batch
        self.chunk_gaps.add(seconds, batch)
        self.batch_s[batch] += total
        self.seconds[gamma] += total
        drafted = slots.drafted[:batch]
        if gamma and drafted.all():
            self._accept(gamma, emitted.ravel())
        elif gamma:
            self._accept(gamma, emitted[drafted].ravel())

    def decoded_one(self, gamma: int, slots: Slots, seconds: float, emitted: Integers) -> None:
        """One step of a batch, in which each sequence emitted so many tokens."""
        batch = slots.batch
        self.chunk_gaps.add_one(seconds, batch)
        self.batch_s[batch] += seconds
        self.seconds[gamma] += seconds
        if gamma:
            self._accept(gamma, emitted if self.all_drafted else emitted[slots.drafted[:batch]])

    def _accept(self, gamma: int, emitted: Integers) -> None:
        self.accepted[gamma] += np.bincount(emitted, minlength=len(self.accepted) + 1)[1:]

    def move(self, bytes_moved: float, flops: float) -> None:
        """What reading prompts moved and computed."""
        self.moved += (bytes_moved, flops)

    def kv_bytes(self, held: float) -> None:
        """The most that the cache held."""
        self.peak_bytes = max(self.peak_bytes, held)

    def gap(self, seconds: float) -> None:
        """The gap of a request that was preempted and goes on."""
        self.chunk_gaps.add_one(seconds, 1)

    # ------------------------------------------------------------- in detail, when asked for

    def step(self, end_s: float, seconds: float) -> None:
        """A step that took so long, and when it ended."""
        self.busy_s += seconds
        self.steps += 1
        if self.ends is not None:
            self.ends.append(end_s)

    def block(self, ends: Floats, seconds: Floats) -> None:
        """Several steps."""
        self.busy_s += float(np.add.reduce(seconds))
        self.steps += len(ends)
        if self.ends is not None:
            self.ends += ends.tolist()

    def started(self, request: int) -> None:
        """A request gets tokens from the last step on."""
        if self.ends is not None:
            self.spans.setdefault(request, []).append([self.steps - 1, self.steps - 1])

    def ended(self, requests: Integers) -> None:
        """Requests got their last tokens in the last step."""
        if self.ends is not None:
            for request in requests.tolist():
                if request in self.spans:
                    self.spans[request][-1][1] = self.steps - 1

    def preempted(self, request: int) -> None:
        """A request gets no more tokens for now."""
        if self.ends is not None:
            self.spans[request][-1][1] = self.steps - 1
