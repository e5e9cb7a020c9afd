"""A fraction of the peak that depends on the bytes that are read and on the rows of the pass."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from specsim.checks import ArrayLike, Floats, Integers, SpecsimError, quoted

QUERY_BLOCK = 64  # queries that a kernel of attention handles at once


@dataclass(frozen=True, slots=True, eq=False)
class EfficiencyTable:
    """A fraction of the peak by the bytes that a pass streams and by its rows: kernels switch.

    `values[i, j]` holds at `pass_bytes[i]` and `rows[j]`, both rising; between, it is interpolated
    in log bytes and in rows, and beyond the table its edge holds. One size or one row count is
    enough: then it holds for all. Between rows the time, the reciprocal, is what is interpolated:
    past the ridge it rises in a straight line.

    `of` says whose bytes they are: those of a "pass"; of the "matrix" of one product; or of one
    "stream" of attention, the cache of one key-value head of one sequence, with the number of
    streams in the place of rows, and the fraction itself interpolated between them.
    """

    pass_bytes: Floats
    rows: Floats
    values: Floats
    of: str = "pass"

    def __post_init__(self) -> None:
        for name in ("pass_bytes", "rows", "values"):
            object.__setattr__(self, name, np.array(getattr(self, name), dtype=float))
        for name in ("pass_bytes", "rows"):
            grid = getattr(self, name)
            if grid.ndim != 1 or not len(grid) or grid[0] <= 0 or np.any(np.diff(grid) <= 0):
                raise SpecsimError(
                    f"{name} of an efficiency table must rise from above 0: {quoted(grid.tolist())}"
                )
        if self.of not in ("pass", "matrix", "stream"):
            raise SpecsimError(
                f"an efficiency table must be of a pass, matrix or stream, not {quoted(self.of)}"
            )
        expected = (len(self.pass_bytes), len(self.rows))
        if self.values.shape != expected or not np.all(self.values > 0):
            raise SpecsimError(
                f"an efficiency table must hold {expected} values above 0, "
                f"got shape {self.values.shape} with minimum {self.values.min(initial=1):g}"
            )

    def at(self, pass_bytes: ArrayLike, rows: ArrayLike) -> Floats:
        size, small, large = _locate(np.log(self.pass_bytes), np.log(np.maximum(pass_bytes, 1.0)))
        width, few, many = _locate(self.rows, np.asarray(rows, dtype=float))
        is_time = self.of != "stream"
        values = 1 / self.values if is_time else self.values
        below = _mix(values[small, few], values[small, many], width)
        above = _mix(values[large, few], values[large, many], width)
        return _mix(1 / below, 1 / above, size) if is_time else _mix(below, above, size)


@dataclass(frozen=True, slots=True, eq=False)
class AttentionTable:
    """A table `of` streams for heads of one size, measured with `rows` per sequence, and `queries`
    that read one stream: the rows times the heads that share it. What it says of the time holds the
    arithmetic too."""

    head_size: float
    rows: float
    queries: float
    table: EfficiencyTable


def measured_attention(
    tables: Sequence[AttentionTable],
    head_size: float,
    stream_bytes: ArrayLike,
    streams: ArrayLike,
    rows: ArrayLike,
    queries: ArrayLike,
) -> Floats:
    """The efficiency of attention by tables for several numbers of queries.

    The tables are those of the head size that is nearest by its ratio. A pass of one row has a
    table of its own: its kernels copy less. Between the others time is interpolated by queries, but
    jumps where one more block of them is needed; with more than any has, it grows in proportion.
    Fewer streams than were measured take as long as the fewest that were: each is read by blocks of
    threads of its own, side by side.
    """
    nearest = min({t.head_size for t in tables}, key=lambda size: abs(np.log(size / head_size)))
    here = sorted((t for t in tables if t.head_size == nearest), key=lambda t: t.queries)
    several = [t for t in here if t.rows > 1] or here
    filled = np.minimum(np.asarray(streams, float) / here[0].table.rows[0], 1.0)
    times = [1 / (filled * t.table.at(stream_bytes, streams)) for t in several]
    grid, asked = np.array([t.queries for t in several], float), np.asarray(queries, float)
    share, below, above = _locate(grid, asked)
    blocks, of_grid = np.ceil(asked / QUERY_BLOCK), np.ceil(grid / QUERY_BLOCK)
    jumps = of_grid[below] != of_grid[above]
    share = np.where(jumps, blocks > of_grid[below], share)
    found = sum(
        np.where(below == i, (1 - share) * time, 0) + np.where(above == i, share * time, 0)
        for i, time in enumerate(times)
    )
    found = found * np.maximum(asked / grid[-1], 1.0)
    for single in (t for t in here if t.rows == 1):
        one = 1 / (filled * single.table.at(stream_bytes, streams))
        found = np.where(np.asarray(rows) > 1, found, one)
    return np.asarray(1 / found)


def _locate(grid: Floats, value: Floats) -> tuple[Floats, Integers, Integers]:
    """Where `value` lies: its share of the way between two grid points, and their indices."""
    upper = np.clip(
        np.searchsorted(grid, value, side="right"), min(1, len(grid) - 1), len(grid) - 1
    )
    lower = np.maximum(upper - 1, 0)
    gap = np.where(upper > lower, grid[upper] - grid[lower], 1.0)
    return np.clip((value - grid[lower]) / gap, 0.0, 1.0), lower, upper


def _mix(a: Floats, b: Floats, share: Floats) -> Floats:
    return a + (b - a) * share
