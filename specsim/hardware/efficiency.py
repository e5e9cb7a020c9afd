"""A fraction of the peak that depends on the bytes that are read and on the rows of the pass."""

from dataclasses import dataclass

import numpy as np

from specsim.checks import ArrayLike, Floats, Integers, SpecsimError, quoted


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
