"""Work x System -> seconds, with the bound and the share of every operator.

One pass takes, summed over its operators,

    linear      max(weight bytes / (e_w BW),  FLOPs / (e_f F))     weights once per pass
                in few rows of quantised weights: FLOPs / (e_v F)  those of all rows but the first
    attention   max(KV bytes / (e_k BW),      FLOPs / (e_a F))     KV once per sequence
                where F is the rate of the operator's own arithmetic
    elementwise activation bytes / (e_x BW)
    all-reduce  messages x latency + link bytes / link bandwidth   where the model is split
    overhead    layers x o_layer + o_pass                          launch gaps, small kernels;
                layers as their kernels count, in those of an ordinary dense layer;
                o_layer is larger in passes of several rows, and for longer rows, where the engine
                says so

and no less than the host needs to launch it all, layers x l_layer + l_pass: in eager mode the host
runs ahead of the device, so a pass takes the longer of the two. A CPU is both: there they add.

The sum over operators assumes that kernels do not overlap (pessimistic); the maximum within one
assumes that its loads and its arithmetic overlap perfectly (optimistic, most around the ridge). The
other extreme is their sum, `serial_s`; a p-norm lies between. The products of an engine overlap as
its `overlap` says, those of quantised weights in few rows as p = 1.5; attention as its
`attention_overlap`, mostly the maximum. Where an engine has a floor for a kernel, it takes no less.
"""

from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np

from specsim.checks import Booleans, Floats, Strings
from specsim.checks.shown import Shown, milliseconds
from specsim.hardware import EfficiencyTable, System, emptied
from specsim.operators import (
    ATTENTION,
    COLLECTIVE,
    LINEAR,
    ForwardWork,
    Operator,
)

BOUNDS = ("weights", "kv", "compute", "overhead")
UNPACKING = 1.5  # p-norm of loading quantised weights and unpacking them for every row


@dataclass(frozen=True, slots=True)
class Term:
    """The time of one operator, and how much of it each resource would take alone. Seconds."""

    name: str
    operator: Operator | None
    memory_s: Floats
    compute_s: Floats
    memory_bound: str  # what its bytes are: "weights", "kv" or, for elementwise work, "overhead"
    floor_s: float | Floats = 0.0  # its kernels take no less, whatever they move
    norm: float | Floats = np.inf  # how the two resources overlap: inf perfectly, 1 not at all

    @property
    def seconds(self) -> Floats:
        return np.maximum(overlapped(self.memory_s, self.compute_s, self.norm), self.floor_s)

    def limited_by(self, bound: str) -> Booleans:
        """Where `bound` is what the operator waits for."""
        computing = self.compute_s > self.memory_s
        floored = self.floor_s > np.maximum(self.memory_s, self.compute_s)
        if bound == "compute":
            return computing & ~floored
        by_memory = ~computing & ~floored if bound == self.memory_bound else np.False_
        return by_memory | floored if bound == "overhead" else np.asarray(by_memory)

    @property
    def bound(self) -> Strings:
        named = np.where(self.limited_by("compute"), "compute", self.memory_bound)
        return np.where(self.limited_by("overhead"), "overhead", named)


@dataclass(frozen=True, slots=True, repr=False)
class ForwardTime(Shown):
    """The terms of one pass on the device, and the seconds that the host takes to launch them.

    `total_s` is the longer of the terms' sum and `launch_s`.
    """

    terms: tuple[Term, ...]
    launch_s: float | Floats = 0.0

    @property
    def device_s(self) -> Floats:
        # one after the other, not np.sum: a scenario rounds the same alone and in an array
        return reduce(np.add, (term.seconds for term in self.terms))

    @property
    def total_s(self) -> Floats:
        return np.maximum(self.device_s, self.launch_s)

    @property
    def waiting_s(self) -> Floats:
        """Seconds that the device waits for the host: 0 where its own work takes longer."""
        return np.maximum(self.launch_s - self.device_s, 0.0)

    @property
    def serial_s(self) -> Floats:
        """The slow end of the roofline: no load overlaps with any arithmetic."""
        serial = reduce(np.add, (replace(term, norm=1.0).seconds for term in self.terms))
        return np.maximum(serial, self.launch_s)

    def share(self, bound: str) -> Floats:
        """Seconds of the operators limited by `bound`: weights, kv, compute or overhead (with what
        waits for the host)."""
        limited = (np.where(term.limited_by(bound), term.seconds, 0.0) for term in self.terms)
        share: Floats = reduce(np.add, limited)
        return share + self.waiting_s if bound == "overhead" else share

    @property
    def bound(self) -> Strings:
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
        if np.any(self.waiting_s > 0):
            nothing = dict.fromkeys(("flops", "weight_bytes", "kv_bytes"), 0.0)
            waiting: dict[str, Any] = {"name": "waiting for the host", **nothing}
            overhead = np.full(np.shape(self.waiting_s), "overhead")
            rows.append(waiting | {"seconds": self.waiting_s, "bound": overhead})
        return rows

    def _facts(self) -> dict[str, Any]:
        return {
            "total": milliseconds(self.total_s),
            "operators": len(self.terms),
        }


def overlapped(one: Floats, other: Floats, norm: float | Floats) -> Floats:
    """The p-norm of two times: their maximum for an infinite p, their sum for 1."""
    longest = np.maximum(one, other)
    # a plain number is tried first: for every operator of a pass, NumPy's tests take their time
    if norm == np.inf if isinstance(norm, float) else np.all(np.isinf(norm)):
        return longest
    least = np.minimum(one, other)
    if np.ndim(norm) == 0:
        return _p_norm(longest, least, np.asarray(norm))
    longest, least, norms = np.broadcast_arrays(longest, least, norm)
    finite, mixed = np.isfinite(norms), longest.copy()
    mixed[finite] = _p_norm(longest[finite], least[finite], norms[finite])
    return mixed


def _p_norm(longest: Floats, least: Floats, norm: Floats) -> Floats:
    shares = least / np.where(longest > 0, longest, 1.0)
    return np.asarray(longest * (1 + shares**norm) ** (1 / norm))


@dataclass(frozen=True, slots=True)
class _FewRows:
    """How the products of a pass are computed where kernels of few rows have no matrix units."""

    padding: Floats  # rows that are computed over rows that are asked for
    in_vectors: Booleans  # where kernels without matrix units run
    further: Floats  # the share of the rows after the first
    rate: Floats | float  # of their arithmetic
    overlap: Floats  # of loads and arithmetic


def few_rows(work: ForwardWork, system: System) -> _FewRows | None:
    """The same for all products of a pass; None where an engine has no such kernels."""
    engine, vector_rows = system.engine, system.engine.vector_rows
    if vector_rows == 0.0 if isinstance(vector_rows, float) else not np.any(vector_rows):
        return None
    few, rows = work.rows <= vector_rows, np.maximum(work.rows, 1.0)
    tiles = np.ceil(rows / engine.tile_rows) * engine.tile_rows
    in_vectors = few & np.isfinite(engine.vector_efficiency)
    rate = engine.vector_efficiency * system.accelerator.rate(work.precision.activation_math)
    return _FewRows(
        padding=np.where(few, 1.0, tiles / rows),
        in_vectors=in_vectors,
        further=1.0 - 1.0 / rows,
        rate=rate,
        overlap=np.where(in_vectors, UNPACKING, engine.overlap),
    )


def product_arithmetic(
    operator: Operator, few: _FewRows | None, system: System
) -> tuple[Floats, float | Floats]:
    """Seconds of the arithmetic of one kind of product, and how it overlaps with the loads."""
    engine, chip = system.engine, system.accelerator
    compute_s = operator.flops / (engine.compute_efficiency * chip.rate(operator.math))
    if few is None:
        return compute_s, engine.overlap
    # what unpacking for the first row takes is in the engine's weight efficiency
    unpacking_s = operator.flops * few.further / few.rate
    return np.where(few.in_vectors, unpacking_s, compute_s * few.padding), few.overlap


def forward_time(work: ForwardWork, system: System, norm: float | None = None) -> ForwardTime:
    """Price one pass on one system; `norm` replaces how the engine's loads and arithmetic overlap
    in all that does either (see above)."""
    engine, chip = system.engine, system.accelerator
    bandwidth = system.bandwidth_bytes_per_s
    table = engine.weight_efficiency
    of_kernels = isinstance(table, EfficiencyTable) and table.of == "matrix"
    few = few_rows(work, system)
    of_pass = 1.0 if of_kernels else engine.weight_efficiency_at(work.weight_bytes, work.rows)
    terms = []
    for operator in work:
        memory_s: Floats
        floor_s: Floats | float = 0.0
        overlap: float | Floats = np.inf
        if operator.kind == LINEAR:
            efficiency = of_pass
            if of_kernels:
                efficiency = engine.product_efficiency(operator, work)
            memory_s = operator.weight_bytes / (bandwidth * efficiency)
            compute_s, overlap = product_arithmetic(operator, few, system)
            floor_s = operator.kernels * engine.kernel_floor_s
            bound = "weights"
        elif operator.kind == ATTENTION:
            efficiency = engine.attention_efficiency(operator)
            memory_s = operator.kv_bytes / (efficiency * bandwidth)
            rate = engine.attention_compute_efficiency * chip.rate(operator.math)
            compute_s = operator.flops / rate
            floor_s = operator.kernels * engine.attention_floor_s
            overlap = engine.attention_overlap
            bound = "kv"
        elif operator.kind == COLLECTIVE:
            sending_s = np.asarray(operator.link_bytes) / (0.5 * chip.link_rate)
            memory_s = operator.kernels * chip.link_latency_s + sending_s
            compute_s = np.zeros_like(memory_s)
            bound = "overhead"
        else:  # ELEMENTWISE
            memory_s = operator.activation_bytes / (engine.activation_efficiency * bandwidth)
            compute_s = np.zeros_like(memory_s)
            bound = "overhead"
        overlap = overlap if norm is None else norm
        terms.append(Term(operator.name, operator, memory_s, compute_s, bound, floor_s, overlap))
    layers = work.layers if engine.fuses else work.launched
    each_s = engine.layer_overhead_s + engine.wide_layer_overhead_s * (work.rows > engine.wide_rows)
    if np.any(engine.layer_refill_s):
        each_s = each_s + engine.layer_refill_s * emptied(work.layer_bytes)
    if np.any(engine.layer_element_s):
        each_s = each_s + engine.layer_element_s * work.width
    overhead_s = layers * each_s + engine.pass_overhead_s
    overhead_s = overhead_s + work.head_norms * engine.head_norm_overhead_s
    launch_s = layers * engine.layer_launch_s + engine.pass_launch_s
    launch_s = launch_s + work.head_norms * engine.head_norm_launch_s
    if chip.is_host:
        overhead_s, launch_s = overhead_s + launch_s, 0.0
    overhead = np.zeros_like(work.rows) + overhead_s
    nothing = np.zeros_like(overhead)
    terms.append(Term("launches and small kernels", None, overhead, nothing, "overhead"))
    return ForwardTime(tuple(terms), launch_s)
