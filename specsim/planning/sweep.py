"""Many scenarios: grids and lists of any size in chunks, and the speedup map over two axes.

    speedups(target, drafter, system, gamma=…, alpha=…, batch=…, context=…)     any shape
    speedup_map(target, drafter, system, x=("batch", …), y=("alpha", …))        best gamma of each

`predict` already shares factors along axes: what a batch-context-gamma grid costs does not see
alpha, and its linear layers do not see the context. What is left to do here is to keep the work
small enough for the caches and the memory: nothing but the output grows with the scenarios.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from specsim.acceptance import Acceptance
from specsim.architecture import Architecture
from specsim.checks import Array, ArrayLike, Floats, Integers, SpecsimError
from specsim.checks.limits import require_limit
from specsim.drafting import Drafter, candidates
from specsim.hardware import System
from specsim.prediction import Prediction
from specsim.speculation import predict

CHUNK = 2**17  # scenarios at a time: a megabyte an array
AXES = ("batch", "context", "gamma", "alpha", "bandwidth")


def speedups(
    target: Architecture,
    drafter: Drafter,
    system: System,
    *,
    gamma: ArrayLike,
    alpha: ArrayLike | None = None,
    acceptance: Acceptance | None = None,
    batch: ArrayLike = 1,
    context: ArrayLike = 1024,
    chunk: int = CHUNK,
) -> Floats:
    """The speedup of every scenario, shaped as the arguments broadcast together; streamed.

    An `acceptance` model has to answer for single numbers: parameters that are arrays come as
    `alpha`. Raises what `predict` raises.
    """
    given: dict[str, ArrayLike] = {"gamma": gamma, "batch": batch, "context": context}
    if alpha is not None:
        given["alpha"] = alpha
    arrays = {name: np.asarray(value) for name, value in given.items()}
    shape = np.broadcast_shapes(*(array.shape for array in arrays.values()))
    require_limit("streamed", math.prod(shape), "the number of scenarios")
    speedup = np.empty(shape)
    for block in blocks(shape, chunk):
        part: dict[str, Any] = {name: cut(array, block) for name, array in arrays.items()}
        predicted = predict(target, drafter, system, acceptance=acceptance, **part)
        speedup[block] = predicted.speedup
    return speedup


def blocks(shape: tuple[int, ...], most: int) -> Iterator[tuple[slice, ...]]:
    """Blocks that tile an array of `shape`, each of at most `most` elements and as long along the
    last axes as that allows, so that factors stay shared."""
    tail = [int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))]
    axis = next((axis for axis, size in enumerate(tail) if size <= most), len(shape))
    if axis == len(shape):
        yield (slice(None),) * axis
        return
    step = max(1, most // max(tail[axis], 1))
    whole = (slice(None),) * (len(shape) - axis - 1)
    for outer in product(*(range(size) for size in shape[:axis])):
        singles = tuple(slice(i, i + 1) for i in outer)
        for start in range(0, shape[axis], step):
            yield (*singles, slice(start, start + step), *whole)


def cut(array: Array, block: tuple[slice, ...]) -> Array:
    """The part of an argument that belongs to a block: an axis of length 1 stays as it is."""
    own = block[len(block) - array.ndim :] if array.ndim else ()
    sizes = zip(own, array.shape, strict=True)
    return array[tuple(slice(None) if size == 1 else piece for piece, size in sizes)]


@dataclass(frozen=True, slots=True)
class SpeedupMap:
    """Speedup over two axes, each point at its best gamma (or its own, if gamma is an axis)."""

    x: str
    x_values: Floats  # (X,)
    y: str
    y_values: Floats  # (Y,)
    speedup: Floats  # (Y, X)
    gamma: Integers  # (Y, X)


def speedup_map(
    target: Architecture,
    drafter: Drafter,
    system: System,
    *,
    x: tuple[str, ArrayLike],
    y: tuple[str, ArrayLike],
    gammas: ArrayLike | None = None,
    acceptance: Acceptance | None = None,
    chunk: int = CHUNK,
    **fixed: float,
) -> SpeedupMap:
    """The speedup over any two of `AXES`: batch, context, gamma, alpha, bandwidth (bytes/s).

    `gammas` are those to choose from where gamma is neither an axis nor fixed. What is neither an
    axis nor in `fixed` has `predict`'s default; an alpha or an `acceptance` has to be given.
    """
    names = (x[0], y[0])
    unknown = [name for name in (*names, *fixed) if name not in AXES]
    if unknown:
        raise SpecsimError(f"no axis is called {unknown[0]!r}; there are: {', '.join(AXES)}")
    twice = [name for name in AXES if (*names, *fixed).count(name) > 1]
    if twice:
        raise SpecsimError(f"{twice[0]} is given twice: an axis once, or fixed")
    columns = np.atleast_1d(np.asarray(x[1]))
    lines = np.atleast_1d(np.asarray(y[1]))
    choose = "gamma" not in (*names, *fixed)
    shape = (len(lines), len(columns))
    require_limit("streamed", math.prod(shape), "the number of scenarios")
    speedup, best = np.empty(shape), np.empty(shape, dtype=np.int64)
    gammas = candidates(drafter, gammas)
    depth = len(gammas) if choose else 1
    for block in blocks(shape, max(1, chunk // depth)):
        values: dict[str, Any] = dict(fixed)
        values[names[1]] = lines[block[0], None, None]
        values[names[0]] = columns[None, block[1], None]
        if choose:
            values["gamma"] = gammas
        predicted = _predict(target, drafter, system, acceptance, values)
        here = predicted.speedup
        at = here.argmax(axis=-1)[..., None]
        size = (*speedup[block].shape, depth)
        here, at = np.broadcast_to(here, size), np.broadcast_to(at, (*size[:2], 1))
        speedup[block] = np.take_along_axis(here, at, -1)[..., 0]
        gamma = np.broadcast_to(predicted.gamma, size)
        best[block] = np.take_along_axis(gamma, at, -1)[..., 0]
    return SpeedupMap(names[0], columns, names[1], lines, speedup, best)


def _predict(
    target: Architecture,
    drafter: Drafter,
    system: System,
    acceptance: Acceptance | None,
    values: dict[str, Any],
) -> Prediction:
    if "bandwidth" in values:
        system = system.with_bandwidth(values.pop("bandwidth"))
    return predict(target, drafter, system, acceptance=acceptance, **values)
