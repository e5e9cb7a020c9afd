"""The seconds of one pass over very many scenarios: priced where they differ, combined late.

A pass depends on its scenario in two ways only: through (batch, rows), which decide what the linear
layers and the small kernels take, and through the context, which attention reads. So

    seconds = what does not see the context (batch, rows)
            + max(memory, arithmetic, floor) of attention, straight lines in the context

and no less than the host takes to launch it. `pass_s` prices every distinct (batch, rows) once, at
a few contexts, draws the lines, and combines them over all scenarios: six operations a scenario
instead of a hundred. Before it trusts the lines it compares them with the full sum between their
ends; where they miss it (sliding windows) or the machine is an array, it prices every scenario in
full. A convenience of arithmetic: the numbers are those of `cost.step_time` to 1e-9.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.architecture import Architecture
from specsim.checks import Floats
from specsim.cost.roofline import step_time
from specsim.hardware import System

FEW = 2048  # scenarios: below, pricing each in full takes less than being clever
TOLERANCE = 1e-9  # relative: how well the lines must meet the full sum
PROBES = np.array([0.0, 1.0, 0.5, 0.03, 0.2, 0.8])  # shares of the way from least to most context


def pass_s(
    model: Architecture,
    system: System,
    *,
    batch: ArrayLike = 1,
    rows: ArrayLike = 1,
    context: ArrayLike = 1024,
    routing_correlation: ArrayLike | None = None,
) -> Floats:
    """Seconds of one pass of `rows` tokens for each of `batch` sequences; all of them broadcast.

    `routing_correlation` overrides the model's own (`work.experts`).
    """
    if routing_correlation is not None:
        step = step_time(
            model, system, batch=batch, rows=rows, context=context,
            routing_correlation=routing_correlation,
        )  # fmt: skip
        return step.total_s
    batch, rows, context = (np.asarray(value, dtype=float) for value in (batch, rows, context))
    shape = np.broadcast_shapes(batch.shape, rows.shape, context.shape)
    if np.prod(shape) >= FEW and np.ndim(system.bandwidth_bytes_per_s) == 0:
        pairs = _distinct(batch, rows)
        if 4 * len(PROBES) * len(pairs.batch) <= np.prod(shape):
            lines = _lines(model, system, pairs, context)
            if lines is not None:
                return lines.at(pairs.index, context)
    return step_time(model, system, batch=batch, rows=rows, context=context).total_s


@dataclass(frozen=True, slots=True)
class _Pairs:
    """The distinct (batch, rows), and which of them every scenario has."""

    batch: Floats  # (pairs,)
    rows: Floats  # (pairs,)
    index: NDArray[np.int64]  # as batch and rows broadcast together


def _distinct(batch: Floats, rows: Floats) -> _Pairs:
    batches, which_batch = _ranked(batch)
    widths, which_width = _ranked(rows)
    width = len(widths)
    pairs, index = _ranked(which_batch * width + which_width)
    pairs = pairs.astype(np.int64)
    return _Pairs(batches[pairs // width], widths[pairs % width], index)


def _ranked(values: NDArray) -> tuple[Floats, NDArray[np.int64]]:
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

    def at(self, index: NDArray[np.int64], context: Floats) -> Floats:
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
    forward = step_time(
        model,
        system,
        batch=pairs.batch[:, None],
        rows=pairs.rows[:, None],
        context=contexts,
    )
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
