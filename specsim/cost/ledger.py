"""What happens in a cycle, entry by entry: its seconds, its bytes and its FLOPs in one ledger.

`predict` adds up the seconds, and `economics` the bytes and FLOPs, of the same passes: time, energy
and cost cannot disagree about what was done.

    drafting = Ledger.of(ModelPass(draft, system, Workload(batch=8, context=1000))).times(2)
    ledger = drafting + Ledger.of(Wait(1e-5))
    ledger.seconds, ledger.bytes_moved, ledger.flops
"""

from dataclasses import dataclass
from functools import reduce
from typing import Any, Protocol

import numpy as np

from specsim.checks import ArrayLike, Floats
from specsim.checks.shown import Shown, milliseconds
from specsim.hardware import System


class Entry(Protocol):
    """Something that a cycle does once, for the whole batch; bytes and FLOPs over all devices."""

    @property
    def seconds(self) -> Floats: ...

    @property
    def bytes_moved(self) -> Floats: ...

    @property
    def flops(self) -> Floats: ...

    @property
    def overhead_s(self) -> Floats:
        """The part of the seconds that is neither weights, cache nor arithmetic."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """One linear layer of `weights` parameters on `tokens` rows: the larger of reading the weights
    and doing the arithmetic, as `roofline` prices every other."""

    system: System
    weights: float
    tokens: Floats

    @property
    def seconds(self) -> Floats:
        engine, devices = self.system.engine, self.system.tensor_parallel
        weight_bytes = self.bytes_moved / devices
        efficiency = engine.weight_efficiency_at(np.maximum(weight_bytes, 1.0), self.tokens)
        rate = engine.compute_efficiency * self.system.accelerator.rate(self.system.precision.math)
        memory_s = weight_bytes / (efficiency * self.system.bandwidth_bytes_per_s)
        return np.maximum(memory_s, self.flops / devices / rate)

    @property
    def bytes_moved(self) -> Floats:
        return np.asarray(self.weights * self.system.precision.weight_bytes)

    @property
    def flops(self) -> Floats:
        return np.asarray(2.0 * self.weights * self.tokens)

    @property
    def overhead_s(self) -> Floats:
        return np.zeros(())


@dataclass(frozen=True, slots=True, eq=False)
class Wait:
    """Seconds in which nothing is moved or computed that is counted: host work, sampling."""

    waited_s: ArrayLike

    @property
    def seconds(self) -> Floats:
        return np.asarray(self.waited_s, float)

    @property
    def bytes_moved(self) -> Floats:
        return np.zeros(())

    @property
    def flops(self) -> Floats:
        return np.zeros(())

    @property
    def overhead_s(self) -> Floats:
        return self.seconds


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Ledger(Shown):
    """Entries and how many times a cycle does each; the times may be arrays, and fractions."""

    entries: tuple[tuple[ArrayLike, Entry], ...] = ()

    @staticmethod
    def of(*entries: Entry) -> "Ledger":
        """Each of them once."""
        return Ledger(tuple((1.0, entry) for entry in entries))

    def __add__(self, other: "Ledger") -> "Ledger":
        return Ledger(self.entries + other.entries)

    def times(self, many: ArrayLike) -> "Ledger":
        """All of it so many times."""
        scaled = ((np.multiply(times, many), entry) for times, entry in self.entries)
        return Ledger(tuple(scaled))

    @property
    def seconds(self) -> Floats:
        return self._sum("seconds")

    @property
    def bytes_moved(self) -> Floats:
        return self._sum("bytes_moved")

    @property
    def flops(self) -> Floats:
        return self._sum("flops")

    @property
    def overhead_s(self) -> Floats:
        return self._sum("overhead_s")

    def _sum(self, what: str) -> Floats:
        if not self.entries:
            return np.zeros(())
        return reduce(np.add, (times * getattr(entry, what) for times, entry in self.entries))

    def _facts(self) -> dict[str, Any]:
        return {
            "time": milliseconds(self.seconds),
            "entries": len(self.entries),
        }
