"""Work x System -> seconds, with the bound and the share of every term.

One pass takes, summed over its operators,

    linear      max(weight bytes / (e_w BW),  FLOPs / (e_f F))     weights once per pass
    attention   max(KV bytes / (e_k BW),      FLOPs / (e_a F))     KV once per sequence
    elementwise activation bytes / (e_x BW)
    overhead    layers x o_layer + o_pass                          launch gaps, small kernels

The sum over operators assumes that kernels do not overlap (punishes); the maximum within one
assumes that its loads and its arithmetic overlap perfectly (flatters, most around the ridge).
"""

from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.architecture import Architecture
from specsim.system import System
from specsim.work import ATTENTION, LINEAR, ForwardWork, Operator, forward_work

Floats = NDArray[np.float64]

BOUNDS = ("weights", "kv", "compute", "overhead")


@dataclass(frozen=True, slots=True)
class Term:
    """The time of one operator, and how much of it each resource would take alone. Seconds."""

    name: str
    operator: Operator | None
    memory_s: Floats
    compute_s: Floats
    memory_bound: str  # what its bytes are: "weights", "kv" or, for elementwise work, "overhead"

    @property
    def seconds(self) -> Floats:
        return np.maximum(self.memory_s, self.compute_s)

    @property
    def bound(self) -> NDArray[np.str_]:
        return np.where(self.compute_s > self.memory_s, "compute", self.memory_bound)


@dataclass(frozen=True, slots=True)
class ForwardTime:
    """The terms of one pass; `total_s` is their sum."""

    terms: tuple[Term, ...]

    @property
    def total_s(self) -> Floats:
        # one after the other, and not np.sum: a scenario then rounds alike alone and in an array
        return reduce(np.add, (term.seconds for term in self.terms))

    def share(self, bound: str) -> Floats:
        """Seconds of the operators limited by `bound`: weights, kv, compute or overhead."""
        limited = (np.where(term.bound == bound, term.seconds, 0.0) for term in self.terms)
        return reduce(np.add, limited)

    @property
    def bound(self) -> NDArray[np.str_]:
        """The bound with the largest share, of each scenario."""
        shares = np.stack(np.broadcast_arrays(*(self.share(bound) for bound in BOUNDS)))
        return np.asarray(BOUNDS)[shares.argmax(axis=0)]

    def breakdown(self) -> list[dict[str, Any]]:
        """A row per operator: name, flops, weight_bytes, kv_bytes, seconds, bound."""
        rows = []
        for term in self.terms:
            counts = ("flops", "weight_bytes", "kv_bytes")
            row: dict[str, Any] = {"name": term.name}
            row |= {key: getattr(term.operator, key) if term.operator else 0.0 for key in counts}
            rows.append(row | {"seconds": term.seconds, "bound": term.bound})
        return rows


def forward_time(work: ForwardWork, system: System) -> ForwardTime:
    """Price one pass on one system."""
    engine, precision = system.engine, work.precision
    bandwidth = system.bandwidth_bytes_per_s
    rate = system.accelerator.rate(precision.math)
    # attention multiplies activations, which stay in 16 or 32 bits whatever the weights are in
    attention_math = precision.math if precision.activation_bytes >= 4 else "bf16"
    attention_rate = system.accelerator.rate(attention_math)
    weight_bandwidth = bandwidth * engine.weight_efficiency_at(work.weight_bytes, work.rows)
    terms = []
    for operator in work:
        if operator.kind == LINEAR:
            memory_s = operator.weight_bytes / weight_bandwidth
            compute_s = operator.flops / (engine.compute_efficiency * rate)
            bound = "weights"
        elif operator.kind == ATTENTION:
            memory_s = operator.kv_bytes / (engine.kv_efficiency * bandwidth)
            compute_s = operator.flops / (engine.attention_compute_efficiency * attention_rate)
            bound = "kv"
        else:  # ELEMENTWISE
            memory_s = operator.activation_bytes / (engine.activation_efficiency * bandwidth)
            compute_s = np.zeros_like(memory_s)
            bound = "overhead"
        terms.append(Term(operator.name, operator, memory_s, compute_s, bound))
    overhead_s = work.layers * engine.layer_overhead_s + engine.pass_overhead_s
    overhead = np.zeros_like(work.rows) + overhead_s
    nothing = np.zeros_like(overhead)
    terms.append(Term("launches and small kernels", None, overhead, nothing, "overhead"))
    return ForwardTime(tuple(terms))


def step_time(
    model: Architecture,
    system: System,
    *,
    batch: ArrayLike = 1,
    rows: ArrayLike = 1,
    context: ArrayLike = 1024,
    allocated_context: ArrayLike | None = None,
) -> ForwardTime:
    """The time of one pass of `rows` tokens per sequence: count the work, then price it."""
    work = forward_work(
        model,
        system.precision,
        batch=batch,
        rows=rows,
        context=context,
        allocated_context=allocated_context,
    )
    return forward_time(work, system)
