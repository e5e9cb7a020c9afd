"""One forward pass: its seconds, its bytes and its FLOPs, also over very many scenarios at once.

A pass depends on its workload in two ways only: through (batch, rows), which decide what the linear
layers and the small kernels take, and through the context, which attention reads. So

    seconds = what does not depend on the context (batch, rows)
            + max(memory, arithmetic, floor) of attention, straight lines in the context

and no less than the host takes to launch it. Over many scenarios every distinct (batch, rows) is
priced once, at a few contexts; the lines are drawn and combined over all scenarios: six operations
a scenario instead of a hundred. The lines are first compared with the full sum between their ends.
Where they miss it (sliding windows) or the accelerator is an array, every scenario is priced in
full. This only saves arithmetic: the seconds are those of `placement.step_time` to 1e-9.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from specsim.architecture import Architecture
from specsim.checks import Array, Floats, Integers
from specsim.checks.shown import Shown, milliseconds
from specsim.cost.placement import placed_time, step_time
from specsim.cost.roofline import ForwardTime
from specsim.hardware import System
from specsim.operators import PLAIN_STEP, ForwardWork, Workload, forward_work

FEW = 2048  # scenarios: below, pricing each in full takes less time
TOLERANCE = 1e-9  # relative: how well the lines must meet the full sum
PROBES = np.array([0.0, 1.0, 0.5, 0.03, 0.2, 0.8])  # shares of the way from least to most context


@dataclass(frozen=True, eq=False, repr=False)
class ModelPass(Shown):
    """One forward pass of `workload` through `model` on `system`; each answer is computed once.

    Raises SpecsimError where the system's devices cannot share the model's heads evenly, and where
    more layers are offloaded than the model has.
    """

    model: Architecture
    system: System
    workload: Workload = PLAIN_STEP

    def __post_init__(self) -> None:
        object.__setattr__(self, "system", self.system.storing(self.model))

    @cached_property
    def work(self) -> ForwardWork:
        """Its operators, of one device and its host together."""
        return forward_work(self.model, self.workload, self.system.precision, self.system.sharding)

    @cached_property
    def time(self) -> ForwardTime:
        """The time of each operator."""
        return placed_time(self.work, self.model, self.system, self.workload)

    @cached_property
    def seconds(self) -> Floats:
        """Of the whole batch, an array of the workload's broadcast shape."""
        lines = _drawn(self.model, self.system, self.workload)
        return self.time.total_s if lines is None else lines

    @property
    def bytes_moved(self) -> Floats:
        """Weights and cache, over all devices. Weights that stay in the last cache count too
        (pessimistic)."""
        return self.work.devices * (self.work.weight_bytes + self.work.kv_bytes)

    @property
    def flops(self) -> Floats:
        """Over all devices."""
        return self.work.devices * self.work.flops

    @property
    def overhead_s(self) -> Floats:
        """Seconds of small kernels and launches, and of waiting for the host."""
        return self.time.share("overhead")

    def _facts(self) -> dict[str, Any]:
        return {
            "model": self.model.name,
            "accelerator": self.system.accelerator.name,
            "time": milliseconds(self.seconds),
        }


def _drawn(model: Architecture, system: System, workload: Workload) -> Floats | None:
    """The seconds by lines; None where there are few scenarios, or the lines do not hold."""
    if workload.routing_correlation is not None or workload.logit_rows is not None:
        return None
    if workload.allocated_context is not None or workload.states is not None:
        return None
    batch, rows, context = (
        np.asarray(value, dtype=float)
        for value in (workload.batch, workload.rows, workload.context)
    )
    shape = np.broadcast_shapes(batch.shape, rows.shape, context.shape)
    host_rate = 0.0 if system.host is None else system.host.bandwidth_bytes_per_s
    if np.prod(shape) < FEW or np.ndim(system.bandwidth_bytes_per_s) or np.ndim(host_rate):
        return None
    pairs = _distinct(batch, rows)
    if 4 * len(PROBES) * len(pairs.batch) > np.prod(shape):
        return None
    lines = _lines(model, system, pairs, context)
    return None if lines is None else lines.at(pairs.index, context)


@dataclass(frozen=True, slots=True)
class _Pairs:
    """The distinct (batch, rows), and which of them every scenario has."""

    batch: Floats  # (pairs,)
    rows: Floats  # (pairs,)
    index: Integers  # as batch and rows broadcast together


def _distinct(batch: Floats, rows: Floats) -> _Pairs:
    batches, which_batch = _ranked(batch)
    widths, which_width = _ranked(rows)
    width = len(widths)
    pairs, index = _ranked(which_batch * width + which_width)
    pairs = pairs.astype(np.int64)
    return _Pairs(batches[pairs // width], widths[pairs % width], index)


def _ranked(values: Array) -> tuple[Floats, Integers]:
    """The distinct values in rising order, and the rank of each: np.unique, without its sort where
    the values are small whole numbers."""
    if values.size < 64 or values.min() < 0 or values.max() > 2**16:
        distinct, ranks = np.unique(values, return_inverse=True)
        return distinct.astype(float), ranks.reshape(values.shape)
    whole = values.astype(np.int64)
    if not np.array_equal(whole, values):
        distinct, ranks = np.unique(values, return_inverse=True)
        return distinct.astype(float), ranks.reshape(values.shape)
    present = np.zeros(whole.max() + 1, dtype=bool)
    present[whole] = True
    return np.flatnonzero(present).astype(float), (np.cumsum(present) - 1)[whole]


@dataclass(frozen=True, slots=True)
class _Lines:
    """Per pair: seconds without the context, and of each operator that reads it two lines."""

    least: float
    most: float
    fixed: Floats  # (pairs,)
    operators: tuple[tuple[Floats, ...], ...]  # memory at least, its rise; arithmetic too; floor
    launch_s: float | Floats

    def at(self, index: Integers, context: Floats) -> Floats:
        along = (context - self.least) / max(self.most - self.least, 1.0)
        total = self.fixed[index]
        for memory, memory_rise, compute, compute_rise, floor in self.operators:
            seconds = memory[index] + memory_rise[index] * along
            seconds = np.maximum(seconds, compute[index] + compute_rise[index] * along)
            total = total + (np.maximum(seconds, floor[index]) if floor.any() else seconds)
        return np.maximum(total, self.launch_s) if np.any(self.launch_s) else total


def _lines(model: Architecture, system: System, pairs: _Pairs, context: Floats) -> _Lines | None:
    least, most = float(context.min()), float(context.max())
    contexts = least + (most - least) * PROBES
    workload = Workload(pairs.batch[:, None], pairs.rows[:, None], contexts)
    forward = step_time(model, system, workload)
    shape = (len(pairs.batch), len(PROBES))
    fixed, operators = np.zeros(shape[0]), []
    for term in forward.terms:
        memory, compute = (np.broadcast_to(t, shape) for t in (term.memory_s, term.compute_s))
        if np.all(memory[:, 0] == memory[:, 1]) and np.all(compute[:, 0] == compute[:, 1]):
            fixed = fixed + np.broadcast_to(term.seconds, shape)[:, 0]
        else:
            floor = np.broadcast_to(np.asarray(term.floor_s, float), shape)[:, 0]
            rises = (memory[:, 1] - memory[:, 0], compute[:, 1] - compute[:, 0])
            operators.append((memory[:, 0], rises[0], compute[:, 0], rises[1], floor))
    lines = _Lines(least, most, fixed, tuple(operators), forward.launch_s)
    drawn = lines.at(np.arange(shape[0])[:, None], contexts)
    in_full = np.broadcast_to(forward.total_s, shape)
    return lines if np.allclose(drawn, in_full, rtol=TOLERANCE, atol=0.0) else None
