"""A workload as arrays, and the two kinds of operator that are counted from it."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from specsim.checks import ArrayLike, Floats
from specsim.operators.formats import Precision
from specsim.operators.work import LINEAR, Operator

NOTHING: Any = 0.0  # most counts of most operators


@lru_cache(maxsize=64)
def _nothing(shape: tuple[int, ...]) -> Floats:
    return np.broadcast_to(NOTHING, shape)


@dataclass(frozen=True, slots=True)
class Pass:
    """`rows` tokens for each of `batch` sequences that read `context` cached tokens each.

    The arrays broadcast to `shape`; `devices` share the work.
    """

    batch: Floats
    rows: Floats
    context: Floats
    tokens: Floats
    states: Floats  # recurrent states that a sequence writes
    shape: tuple[int, ...]
    precision: Precision
    devices: int

    def spread(self, value: ArrayLike) -> Floats:
        """The count as an array over all scenarios, without copying it."""
        if value is NOTHING:
            return _nothing(self.shape)
        count = np.asarray(value, dtype=float)
        return count if count.shape == self.shape else np.broadcast_to(count, self.shape)

    def linear(
        self,
        name: str,
        fan_in: float,
        fan_out: float,
        layers: int,
        bytes_per_weight: float,
        *,
        visits: Floats | float | None = None,
        copies: Floats | float = 1.0,
    ) -> Operator:
        """A matrix product in each of `layers`; the sizes are those of one device.

        Arguments: `visits`, rows multiplied (every token once, unless said otherwise); `copies`,
        how many matrices of this size are read (the distinct experts).
        """
        visits = self.tokens if visits is None else visits
        moved = (fan_in + fan_out) * self.precision.activation_bytes
        return Operator(
            name=name,
            kind=LINEAR,
            flops=self.spread(2.0 * visits * fan_in * fan_out * layers),
            weight_bytes=self.spread(bytes_per_weight * fan_in * fan_out * layers * copies),
            kv_bytes=_nothing(self.shape),
            activation_bytes=self.spread(visits * moved * layers),
            kernels=layers,
            math=self.precision.math_with(bytes_per_weight),
        )

    def other(
        self,
        name: str,
        kind: str,
        *,
        flops: Floats | float = NOTHING,
        kv_bytes: Floats | float = NOTHING,
        activation_bytes: Floats | float = NOTHING,
        link_bytes: Floats | float = NOTHING,
        kernels: int = 0,
        streams: Floats | float = 0.0,
        math: str = "",
        groups: float = 0.0,
        head_size: float = 0.0,
    ) -> Operator:
        """An operator without weights; of attention, `groups` heads share a cache."""
        return Operator(
            name=name,
            kind=kind,
            flops=self.spread(flops),
            weight_bytes=_nothing(self.shape),
            kv_bytes=self.spread(kv_bytes),
            activation_bytes=self.spread(activation_bytes),
            link_bytes=self.spread(link_bytes),
            kernels=kernels,
            streams=streams,
            math=math,
            rows=self.rows if groups else 0.0,
            queries=self.rows * groups,
            head_size=head_size,
        )
