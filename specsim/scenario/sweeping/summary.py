"""What came of a sweep: a table, the best point by a metric, and the values along its axes."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from specsim.checks import Floats, SpecsimError, quoted
from specsim.checks.files import writing
from specsim.scenario.sweeping.axes import SweepPlan
from specsim.scenario.sweeping.points import plain
from specsim.scenario.sweeping.running import SweepResult

LESS_IS_BETTER = ("_ms", "_s", "_bytes", "_per_token", "_per_million", "preemptions", "failed")
MORE_IS_BETTER = ("_per_s",)
UNITS = {  # by the end of a metric's name, the longer ends first
    "tokens_per_s": "tokens/s", "output_throughput": "tokens/s", "token_throughput": "tokens/s",
    "request_throughput": "requests/s", "request_goodput": "requests/s",
    "joules_per_token": "J per token", "bytes_per_token": "bytes per token",
    "dollars_per_million": "USD per million tokens", "tokens_per_cycle": "tokens per cycle",
    "speedup": "x", "_bytes": "bytes", "_ms": "ms", "_s": "s",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Metric:
    """A number of the results, and whether its least or its most is the best."""

    name: str
    least: bool

    def __str__(self) -> str:
        return f"{'lowest' if self.least else 'highest'} {self.name}"

    @property
    def unit(self) -> str:
        """What its numbers are in; empty for a ratio, a count, or a name that tells nothing."""
        return next((unit for ending, unit in UNITS.items() if self.name.endswith(ending)), "")


def metric_named(text: str) -> Metric:
    """`speedup`, `min:mean_ttft_ms`, `max:gamma`. Without min or max: the lowest of times, memory,
    energy and cost, the highest of all others."""
    head, colon, name = text.partition(":")
    if colon and head in ("min", "max"):
        return Metric(name, head == "min")
    if colon:
        raise SpecsimError(f"--best takes NAME, min:NAME or max:NAME, not {quoted(text)}")
    least = text.endswith(LESS_IS_BETTER) and not text.endswith(MORE_IS_BETTER)
    return Metric(text, least)


def usual_metric(kind: str, settings: Mapping[str, Any]) -> Metric:
    """What is looked for where nothing is said: of a server good requests, or tokens per second
    where there is no SLO; else the speedup, or tokens per second without a draft."""
    if kind == "serve-sim":
        return metric_named("request_goodput" if settings.get("slo") else "output_throughput")
    drafts = kind == "measure" or settings.get("draft") or settings.get("method")
    return metric_named("speedup" if drafts else "tokens_per_s")


def require_metric(metric: Metric, result: Mapping[str, Any]) -> None:
    """SpecsimError, with the nearest name, unless a result has the metric."""
    if metric.name not in result:
        names = [name for name, value in result.items() if not isinstance(value, str | list)]
        near = get_close_matches(metric.name[:100], names, n=3, cutoff=0.4)
        raise SpecsimError(
            f"no result has {quoted(metric.name)}; "
            f"{'near ones are' if near else 'there are'}: {', '.join(near or names)}"
        )


def number_in(result: Mapping[str, Any], name: str) -> float:
    """A number of a result; NaN where it is unknown or no number."""
    value = result.get(name)
    return float(value) if isinstance(value, int | float) else np.nan


@dataclass(frozen=True, slots=True, eq=False)
class SweepSummary:
    """What came of a sweep: the metric over its axes, and the columns of its table.

    `values` has an axis for each of `axes`; it is NaN where a point has no such number. The axis
    `seed` is not a choice: it is gone, and the values are means over it.
    """

    metric: Metric
    axes: Mapping[str, tuple[Any, ...]]  # without the seed
    values: Floats
    seeds: int  # values of the seed, 1 where it is no axis
    results: int
    errors: int
    first_error: str | None
    columns: tuple[str, ...]

    @property
    def best(self) -> tuple[dict[str, Any], float] | None:
        """The axes' values at the best point, and its metric; None where no point has a number."""
        if np.isnan(self.values).all():
            return None
        at = int(np.nanargmin(self.values) if self.metric.least else np.nanargmax(self.values))
        places = np.unravel_index(at, self.values.shape)
        here = {n: each[int(k)] for (n, each), k in zip(self.axes.items(), places, strict=True)}
        return here, float(self.values.flat[at])

    def along(self, names: Sequence[str]) -> Floats:
        """The metric over the named axes, the best over all others; NaN where there is none."""
        worst = np.inf if self.metric.least else -np.inf
        hidden = tuple(k for k, name in enumerate(self.axes) if name not in names)
        filled = np.where(np.isnan(self.values), worst, self.values)
        best = filled.min(hidden) if self.metric.least else filled.max(hidden)
        kept = [name for name in self.axes if name in names]
        best = np.where(np.isfinite(best), best, np.nan)
        return np.transpose(best, [kept.index(name) for name in names])


def summarise_sweep(done: SweepResult, metric: Metric) -> SweepSummary:
    """The summary of a sweep that has run; the points of a list are one axis, `point`.

    Raises SpecsimError if the results do not have the metric.
    """
    points = done.points
    axes = points.axes if isinstance(points, SweepPlan) else {"point": tuple(range(len(points)))}
    values = np.full(len(points), np.nan)
    results = errors = 0
    first_error, columns = None, dict[str, None]()  # in the order in which they came
    for at, (_, outcome) in enumerate(done.rows()):
        if outcome is None:
            continue
        if "error" in outcome:
            errors, first_error = errors + 1, first_error or outcome["error"]
            continue
        result = outcome["result"]
        if not results:
            require_metric(metric, result)
        results += 1
        columns |= dict.fromkeys(n for n, value in result.items() if not isinstance(value, list))
        values[at] = number_in(result, metric.name)
    grid = values.reshape([len(each) for each in axes.values()])
    chosen = {name: each for name, each in axes.items() if name != "seed"}
    seeds = len(axes.get("seed", (0,)))
    if "seed" in axes:
        grid = _mean(grid, list(axes).index("seed"))
    return SweepSummary(
        metric, chosen, grid, seeds, results, errors, first_error, tuple(columns)
    )  # fmt: skip


def _mean(values: Floats, axis: int) -> Floats:
    """The mean along an axis of what is known; NaN where nothing is."""
    known = (~np.isnan(values)).sum(axis)
    return np.where(known > 0, np.nansum(values, axis) / np.maximum(known, 1), np.nan)


def write_csv(path: Path, result: SweepResult, summary: SweepSummary, axes: Iterable[str]) -> None:
    """A row for each point, in the order of the points: its axes, its numbers, its error."""
    axes, columns = list(axes), list(summary.columns)
    with writing(path) as new, new.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow([*axes, *(f"result_{c}" if c in axes else c for c in columns), "error"])
        for point, outcome in result.rows():
            if outcome is not None:
                values = outcome.get("result", {})
                cells = [values.get(column) for column in columns]
                place = [cell(point.settings.get(axis)) for axis in axes]
                table.writerow([*place, *cells, outcome.get("error")])


def cell(value: Any) -> Any:
    """A setting in one cell of a table: a list is separated by spaces."""
    value = plain(value)
    return " ".join(map(str, value)) if isinstance(value, list) else value
